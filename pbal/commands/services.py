"""CREATE, USE, SET, DEFAULT, ENABLE, DISABLE."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

from pbal.commands.session import Session
from pbal.config.render import in_order
from pbal.lang.lexical import escaped
from pbal.lang.parser import bundled_fragments
from pbal.model.errors import ConfigError
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.telling import every_statement
from pbal.schema.commands import OK, CommandError, Reply, command
from pbal.schema.kinds import Kind, Needed
from pbal.schema.limits import ERROR_PAGES
from pbal.schema.names import NODEFILE
from pbal.schema.passwords import PASSWORDS
from pbal.schema.pools import OF_POOLS
from pbal.schema.tunables import Tunable
from pbal.schema.types import LISTEN


@command
def create_service(session: Session, new: str, service: Service | None = None) -> Reply:
    """Make a service. It becomes the current object.

    LIKE another, it has that one's role, tunables, plugins and rules, but not its address, and is not enabled.
    Raises: ConfigError if another service has the name.
    Source: Perlbal manual, CREATE SERVICE. differs: LIKE.
    """
    with session.world.changing():
        made = session.world.create_service(new)
        session.current = made
        if service is not None:
            _copy(session, service, made)
    session.note("service", new.lower())
    return OK


def _copy(session: Session, service: Service, made: Service) -> None:
    """Say of one service what was said of another, but for `listen`."""
    world = session.world
    made.defaults = dict(service.defaults)
    for tunable in world.tunables.values():
        made.fill(tunable)
    for name in in_order(service.explicit.keys() - {"listen"}):
        made.set(name, service.explicit[name])
    made.extra = dict(service.extra)
    made.use_rules(service.rules)
    for limit in service.limiting:
        made.add_limit(limit.fresh())
    for _, _, statement in every_statement(service):
        session.interpreter.say(session, escaped(statement))


@command
def create_pool(session: Session, new: str, pool: Pool | None = None) -> Reply:
    """Make a pool. It becomes the current object. LIKE another, it has that one's nodes and tunables.

    Raises: ConfigError if another pool has the name.
    Source: Perlbal manual, CREATE POOL. differs: LIKE.
    """
    with session.world.changing():
        made = session.world.create_pool(new)
        if pool is not None:
            made.set_like(pool)
            for node in pool.nodes:
                made.add(node.endpoint, node.weight, node.backup, node.most)
    session.current = made
    session.note("pool", new.lower())
    return OK


@command
def use(session: Session, object_: Service | Pool) -> Reply:
    """Make a service or pool the current object. SET without a name changes the current object.

    Of a service and a pool with the same name, it is the service; SET changes the pool if the tunable is one of a pool.
    Source: Perlbal manual, USE.
    """
    session.current = object_
    return OK


@command
def set_(session: Session, tunable: str, value: str, object_: Service | Pool | None = None) -> Reply | Awaitable[Reply]:
    """Set a tunable of a service or a pool. If the value is refused, nothing changes.

    A relative path starts from the folder of the configuration file. persist_client_timeout sets idle_timeout and
    persist_client_idle_timeout.

    `SET web.poll.uri = ^/poll`, Perlbal's way, is `SET web.poll_uri = ^/poll`. `SET web.extra.x = y` keeps a text for plugins to read, as
    service.extra["x"].
    Source: Perlbal manual, SET. differs: an unknown tunable of a pool is an error.
    """
    target = session.target(tunable, object_)
    if "." in tunable:
        return _set_in_plugin(session, target, tunable, value)
    value = _placed(session, tunable, value)
    if session.live and tunable.lower() == "listen" and isinstance(target, Service) and target.enabled:
        return _set_listen(session, target, value)
    if tunable.lower() == "nodefile" and isinstance(target, Pool):
        return _set_nodefile(session, target, value)
    return _set_named(session, target, tunable, value)


def _set_named(session: Session, target: Service | Pool, tunable: str, value: str) -> Reply | Awaitable[Reply]:
    """Set a tunable. One that names a file has it read first, off the loop; a part of RELOAD CONFIG has been read by then."""
    world = session.world
    known = world.tunables.get(tunable.lower())
    if known is not None and isinstance(target, Service) and session.live and world.change is None:
        if known.type in _READ_TO_PARSE:
            return _parse_and_set(session, target, known, value)
        if known.reads is not None:
            return _read_and_set(session, target, known, value)
    return _set(session, target, tunable, value)


_READ_TO_PARSE = (ERROR_PAGES, PASSWORDS)
"""Types whose values are read from a disk: a folder of pages, a file of users."""


async def _parse_and_set(session: Session, target: Service, tunable: Tunable, value: str) -> Reply:
    """What SET reads does then not wait for a disk."""
    with suppress(ValueError):  # which is told below
        await asyncio.get_running_loop().run_in_executor(None, tunable.type.parse, value)
    return _set(session, target, tunable.name, value)


async def _read_and_set(session: Session, target: Service, tunable: Tunable, value: str) -> Reply:
    readings = session.world.readings
    try:
        named = tunable.parse(value)
    except ValueError:  # which is told below
        named = None
    before = await readings.ahead([(tunable, named)] if named is not None else [])
    try:
        reply = _set(session, target, tunable.name, value)
    except BaseException:
        readings.back(before)
        raise
    readings.keep(session.world.services.values())
    return reply


async def _set_listen(session: Session, target: Service, value: str) -> Reply:
    """Set the address of a service that listens; a name in it is looked up first, off the loop."""
    with suppress(ValueError):  # which is told below
        await session.runtime().look_up(LISTEN.parse(value))
    return _set(session, target, "listen", value)


def _set_nodefile(session: Session, target: Pool, value: str) -> Reply | Awaitable[Reply]:
    """Set the file with a pool's nodes. At a console it is read first, off the loop. In a file, nodes named before would be lost."""
    if session.live and session.world.change is None:  # else it is part of RELOAD CONFIG, which has read it
        return _read_nodefile(session, target, value)
    if not session.live and target.nodes and value.lower() not in ("none", ""):
        message = f"pool '{target.name}' has nodes that were named before: a nodefile would take their place"
        raise CommandError(message, "tunable", kind=Kind.CONFLICT)
    return _set(session, target, "nodefile", value)


async def _read_nodefile(session: Session, target: Pool, value: str) -> Reply:
    with suppress(ValueError):  # which is told below
        path = NODEFILE.parse(value)
        if path is not None:
            await session.world.nodefiles.read_ahead(path)
    try:
        return _set(session, target, "nodefile", value)
    finally:
        session.world.nodefiles.forget()


def _set(session: Session, target: Service | Pool, tunable: str, value: str) -> Reply:
    try:
        with session.world.changing():
            for name in _BOTH if tunable.lower() == "persist_client_timeout" else (tunable,):
                target.set(name, value)
    except ConfigError as error:
        plugin = tunable.lower().partition("_")[0]
        if error.kind is Kind.UNKNOWN_TUNABLE and plugin in bundled_fragments().keys() - session.world.plugins.keys():
            hint, needs = f"LOAD {plugin} adds the tunables {plugin}_...", Needed("load", plugin)
            raise CommandError(error.message, "tunable", hint, kind=error.kind, needs=needs) from None
        raise
    session.note("set", target.name.lower(), tunable.lower())
    return _done(session, tunable, value)


_BOTH = ("idle_timeout", "persist_client_idle_timeout")
"""What Perlbal's deprecated persist_client_timeout sets."""


def _done(session: Session, tunable: str, value: str) -> Reply:
    """OK; and a warning of what is odd about a value that was taken."""
    known = session.world.tunables.get(tunable.lower())
    remark = known.remark(value) if known is not None else ""
    if remark:
        session.warn(remark, "value", kind=Kind.BAD_VALUE)
    return OK


def _set_in_plugin(session: Session, service: Service | Pool, said: str, value: str) -> Reply | Awaitable[Reply]:
    """Perlbal's plugin.key: a tunable of that plugin, or a text for plugins to read."""
    plugin, _, key = said.lower().partition(".")
    if not isinstance(service, Service):
        raise CommandError("plugins are on services, not on pools", "tunable", kind=Kind.CONFLICT)
    if plugin == "extra":
        service.set_extra(key, value)
        return OK
    if plugin not in session.world.plugins:
        message = f"plugin '{plugin}' is not loaded: LOAD {plugin} first"
        raise ConfigError(message, about=said, kind=Kind.NEEDS_OTHER_FIRST, needs=Needed("load", plugin))
    names = [tunable.name for tunable in session.world.plugins[plugin].plugin_class.tunables]
    tunable = next((name for name in (f"{plugin}_{key}", key) if name in names), None)
    if tunable is None:
        message = f"plugin '{plugin}' has no tunable {plugin}_{key} or {key}"
        raise CommandError(message, "tunable", kind=Kind.UNKNOWN_TUNABLE, subject=f"{plugin}_{key}", candidates=names)
    return _set_named(session, service, tunable, _placed(session, tunable, value))


@command
def default(session: Session, tunable: str, value: str) -> Reply:
    """Change the default of a tunable for services that you make later.

    Source: Perlbal manual, DEFAULT. differs: name and value are checked at once.
    """
    value = _placed(session, tunable, value)
    with session.world.changing():
        for name in _BOTH if tunable.lower() == "persist_client_timeout" else (tunable,):
            session.world.settings.set(name, value)
    session.note("default", tunable.lower())
    return _done(session, tunable, value)


def _placed(session: Session, tunable: str, value: str) -> str:
    """A value whose relative paths start from the folder of the configuration file."""
    known = session.world.tunables.get(tunable.lower()) or OF_POOLS.get(tunable.lower())
    return value if known is None else known.type.place(value, session.interpreter.folder)


@command
async def enable(session: Session, service: Service) -> Reply:
    """Open a service: its plugins and its listener. If the address cannot be had, nothing is opened.

    Source: Perlbal manual, ENABLE.
    """
    if session.world.runtime is not None and service["listen"] is not None:
        await session.world.runtime.look_up(service["listen"])
    readings = session.world.readings
    if session.live and session.world.change is None:
        readings.keep(session.world.services.values())
        await readings.ahead(readings.missing(service))
    session.world.enable(service)
    session.note("enable", service.name.lower())
    return OK


@command
def disable(session: Session, service: Service) -> Reply:
    """Stop listening, and answer what selectors hand on with 503. Parked polls get the empty answer; other connections go on.

    Source: Perlbal manual, DISABLE.
    """
    session.world.disable(service)
    return OK
