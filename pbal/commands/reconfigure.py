"""RELOAD CONFIG, CONFIG DRIFT, CONFIG SAVE: the file and what runs, brought together.

RELOAD CONFIG reads the file into a Draft, takes the difference to what runs as statements, and carries them out as one change: all of them,
or none (model/change.py). What stands in no statement is not touched. It is what SIGHUP does, too.

    read       the file beside the running configuration, in slices; a mistake in it ends here
    compare    two Configs, in slices
    look up    the names of hosts that services will listen on, off the loop
    load       plugins that are new; they are in no chain yet
    change     every statement, in one turn of the loop; a refusal rolls all of it back
    unload     plugins that the file does not name any more
"""

import asyncio
import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from pbal import loader
from pbal.commands import drafts, saving
from pbal.commands.drafts import Draft
from pbal.commands.files import MOST_MISTAKES
from pbal.commands.interpreter import Interpreter
from pbal.commands.lint import MOST_LOGGED, log_odd
from pbal.commands.session import Session
from pbal.commands.slices import in_slices, uncollected
from pbal.commands.taking_back import drop_several
from pbal.config.diff import Kind, Step, difference, listing
from pbal.config.render import Fits, pool_statement
from pbal.config.spec import Config, Pairs, ServiceSpec
from pbal.lang.mistakes import Mistake
from pbal.model import faults
from pbal.model.change import Phase
from pbal.model.errors import ConfigError
from pbal.model.nodefile import path_of
from pbal.model.plugin import Plugin
from pbal.model.service import Service
from pbal.model.snapshot import in_pieces
from pbal.model.telling import restoring, statements
from pbal.model.world import World
from pbal.schema import kinds
from pbal.schema.commands import OK, CommandError, Reply, Text, bad_argument, command
from pbal.schema.said import Hidden
from pbal.schema.tunables import Tunable
from pbal.schema.types import PATH

log = logging.getLogger("pbal.config")

T = TypeVar("T")


@command
async def reload_config(session: Session, path: str | None = None) -> Reply:
    """Read the configuration file again, or another one, and carry out what differs: all of it, or nothing.

    Services, pools and nodes that are the same in it are not touched: connections, parked polls and counts stay. What was changed on a
    console and is not in the file is taken back; CONFIG DRIFT lists it before. SIGHUP does the same. A SERVER tunable that holds from the
    start on (user, pidfile) is refused.
    """
    interpreter, runtime = session.interpreter, session.runtime()
    runtime.reloading()
    try:
        with uncollected():
            draft, steps = await _compared(interpreter, _meant(interpreter, path))
            await asyncio.sleep(0)
            try:
                await _carry_out(session, draft, steps)
            except BaseException:
                await draft.close()
                raise
            _put_in_force(interpreter, draft, len(steps))  # at once: it is, whatever becomes of this task
            for step in steps:
                if step.kind is Kind.UNLOAD:
                    await loader.unload(session.world, interpreter, step.object)
            await interpreter.built()
            await asyncio.sleep(0)
            await draft.close(kept=True)
    finally:
        session.world.readings.keep(session.world.services.values())
        runtime.reloaded()
    return OK


def _put_in_force(interpreter: Interpreter, draft: Draft, changes: int) -> None:
    """The draft's file is the one that was read last."""
    interpreter.filed = draft.config
    for name, service in draft.world.services.items():
        running, pages = interpreter.world.services.get(name), service.values["error_pages"]
        if running is not None and pages is not None:
            running.values["error_pages"] = pages  # the folder is the same; what is in it was read anew
    interpreter.path, interpreter.folder, interpreter.places = draft.interpreter.path, draft.interpreter.folder, draft.interpreter.places
    fields = {"event": "configuration_reloaded", "file": str(interpreter.path), "changes": changes}
    log.info("%(file)s is in force; changes: %(changes)d", fields)
    log_odd(log, draft.run.warnings)


@command
async def reload_config_dry_run(session: Session, path: str | None = None) -> Reply:
    """List what RELOAD CONFIG would do, as statements; nothing is changed."""
    session.runtime()
    draft, steps = await _compared(session.interpreter, _meant(session.interpreter, path))
    await draft.close()
    return Text(list(listing(steps)))


@command
async def config_drift(session: Session) -> Reply:
    """List what was changed since the configuration file was read, as the statements that would make the change."""
    session.runtime()
    return Text(list(listing(await _drift(session.interpreter))))


@command
async def config_save(session: Session) -> Reply:
    """Write what was changed since the configuration file was read into that file, whose comments stay. Included files are written, too.

    pbal reads the result before it puts it in the place of the file, and writes nothing if that does not make what runs.
    Raises: ConfigError if the file was changed by somebody else, or cannot be written.
    """
    session.runtime()
    interpreter = session.interpreter
    steps = await _drift(interpreter)
    if not steps:
        return OK
    draft = await drafts.read(interpreter, interpreter.path, record=True)
    await draft.close()
    _refuse_mistakes(draft)
    assert interpreter.filed is not None and draft.run.record is not None
    if list(difference(interpreter.filed, draft.config, _fits(interpreter.world, draft.world))):
        message = f"{interpreter.path} was changed since it was read"
        raise CommandError(message, hint="RELOAD CONFIG DRY RUN lists the differences", kind=kinds.Kind.CONFLICT)
    now = await in_slices(in_pieces(interpreter.world))
    read = draft.run.read
    ways = saving.edited(interpreter.path, draft.run.record, steps, read), saving.appended(interpreter.path, steps, read)
    for texts in ways:
        written = await drafts.read(interpreter, interpreter.path, instead=texts)
        await written.close()
        left = [mistake.headline for mistake in written.mistakes]
        left += [step.statement for step in difference(written.config, now, _fits(interpreter.world, written.world))]
        if not left:
            break
    else:
        message = f"pbal does not know how to write this into the file: {left[0]}"
        raise CommandError(message, hint="CONFIG DRIFT lists what is to be added by hand", kind=kinds.Kind.CONFLICT)
    saving.write(texts, read)
    interpreter.filed = now
    interpreter.places = written.interpreter.places
    log.info("%(files)s: written by CONFIG SAVE", {"event": "configuration_saved", "files": ", ".join(map(str, sorted(texts)))})
    return OK


def _meant(interpreter: Interpreter, path: str | None) -> Path:
    if path is None:
        if interpreter.path == Path():
            raise ConfigError("pbal was started without a configuration file: name one")
        return interpreter.path
    try:
        return PATH.parse(PATH.place(path, interpreter.folder))
    except ValueError as error:
        raise bad_argument("path", error) from None


async def _drift(interpreter: Interpreter) -> list[Step]:
    if interpreter.filed is None:
        return []
    now = await in_slices(in_pieces(interpreter.world))
    interpreter.filed = await in_slices(_restated(interpreter.filed, interpreter.world))
    filed = _as_written(interpreter.filed)
    return [*_displaced(filed, now), *difference(filed, now, _fits(interpreter.world, interpreter.world))]


def _restated(config: Config, world: World) -> Generator[None, None, Config]:
    """With values of plugins' tunables as their types write them by now: a RELOAD may have brought other types."""
    reloaded = [plugin.plugin_class.tunables for plugin in world.plugins.values() if plugin.generation > 1]
    tunables = {tunable.name: tunable for declared in reloaded for tunable in declared}
    if not tunables:
        return config
    services: list[ServiceSpec] = []
    for service in config.services:
        settings, defaults = _in_words(service.settings, tunables), _in_words(service.defaults, tunables)
        same = settings == service.settings and defaults == service.defaults
        services.append(service if same else replace(service, settings=settings, defaults=defaults))
        yield
    return replace(config, services=tuple(services), defaults=_in_words(config.defaults, tunables))


def _in_words(said: Pairs, tunables: Mapping[str, Tunable]) -> Pairs:
    return tuple([(name, _canonical(tunables[name], text) if name in tunables else text) for name, text in said])


def _canonical(tunable: Tunable, text: str) -> str:
    """The one text for what a text means. It is left as it is where it stands for something else, or is none any more."""
    if not isinstance(text, Hidden):
        with suppress(ValueError):
            return tunable.canonical(text)
    return text


def _as_written(config: Config) -> Config:
    """Without the nodes that were found in nodefiles: where one is given up, the file has to name those that stay."""
    return replace(config, pools=tuple([replace(pool, found=()) for pool in config.pools]))


def _displaced(filed: Config, now: Config) -> Iterator[Step]:
    """The nodes that a file names, of pools that have them from a nodefile by now: both may not stand there."""
    before = {pool.name.lower(): pool for pool in filed.pools}
    for pool in now.pools:
        named = before.get(pool.name.lower())
        if named is not None and "nodefile" in dict(pool.settings):
            for node in named.nodes:
                yield Step(Kind.NODE, pool_statement(pool.name, "REMOVE", node.name), pool.name, node.name, said=False)


async def _compared(interpreter: Interpreter, path: Path) -> tuple[Draft, list[Step]]:
    """The file as a draft, and the steps to it from what runs. Raises: ConfigError, CommandError."""
    draft = await drafts.read(interpreter, path)
    try:
        _refuse_mistakes(draft)
        if not any(service.enabled and service["listen"] is not None for service in draft.world.services.values()):
            raise ConfigError(f"nothing is changed: no service of {path} listens")  # it may be half written
        old = await in_slices(in_pieces(interpreter.world))
        await asyncio.sleep(0)  # what follows is one piece
        return draft, list(difference(old, draft.config, _fits(interpreter.world, draft.world)))
    except BaseException:
        await draft.close()
        raise


def _fits(one: World, other: World) -> Fits:
    return lambda tunable, role: one.fits(tunable, role) or other.fits(tunable, role)


def _refuse_mistakes(draft: Draft) -> None:
    mistakes = draft.mistakes
    if not mistakes:
        return
    for mistake in mistakes[:MOST_LOGGED]:
        log.error("%(text)s", {"event": "configuration_refused", "text": mistake.headline, "file": mistake.file, "line": mistake.line})
    number = len(mistakes)
    where = "the log and pbal check list"
    if number > MOST_LOGGED:
        where = "pbal check --all lists"
        log.error("more mistakes, which %(where)s", {"event": "configuration_refused_more", "where": where})
    many = f"{number - 1} or more" if number >= MOST_MISTAKES else f"{number - 1} more"
    more = f" (and {many}, which {where})" if number > 1 else ""
    raise CommandError(f"nothing is changed: {mistakes[0].headline}{more}", hint=mistakes[0].hint, kind=mistakes[0].kind)


async def _carry_out(session: Session, draft: Draft, steps: list[Step]) -> None:
    """Raises: ConfigError, and nothing has changed then."""
    interpreter, world = session.interpreter, session.world
    new: list[str] = []
    try:
        await _look_up(session, draft, steps)
        for step in steps:
            if step.kind is Kind.LOAD:
                loaded = replace(draft.world.plugins[step.object])
                await loader.adopt(world, interpreter, loaded)
                new.append(loaded.name)
        _change(session, draft, steps)
    except ConfigError as error:
        for name in new:
            loader.withdraw(world, interpreter, name)
        message = f"nothing is changed: {error.message}"
        raise ConfigError(message, error.about, error.candidates, kind=error.kind, needs=error.needs) from error
    except BaseException:
        for name in new:
            loader.withdraw(world, interpreter, name)
        raise
    finally:
        world.nodefiles.forget()


async def _look_up(session: Session, draft: Draft, steps: list[Step]) -> None:
    """Find the addresses of the names that services will listen on, and read nodefiles: the change itself does not wait.

    Raises: ConfigError.
    """
    runtime = session.runtime()
    for step in steps:
        pool = draft.world.pools.get(step.object.lower())
        if step.kind is Kind.SETTING and step.key == "nodefile" and pool is not None:
            path = path_of(pool)
            if path is not None:
                await session.world.nodefiles.read_ahead(path)
        service = draft.world.services.get(step.object.lower())
        listens = step.kind is Kind.STANDING or (step.kind is Kind.SETTING and step.key == "listen")
        if listens and service is not None and service.enabled and service["listen"] is not None:
            await runtime.look_up(service["listen"])


def _change(session: Session, draft: Draft, steps: list[Step]) -> None:
    interpreter, world = session.interpreter, session.world
    folder = interpreter.folder
    own = Session(world, interpreter, origin=session.origin, verbose=False)
    interpreter.folder, interpreter.made = draft.interpreter.folder, draft.interpreter.made
    try:
        with world.changing() as change:
            for service in _ruled(world, steps):
                for name, plugin in service.plugins:
                    if statements(service, name, plugin) or type(plugin).drop_rule is not Plugin.drop_rule:  # or may get its first
                        change.undo(faults.guarded, world, name, restoring(service, name, plugin))
            for steps_together in _together(steps):
                _carry_out_together(own, draft, steps_together)
            for service in _secured_otherwise(world, steps):
                change.undo(setattr, service, "certificates", service.certificates)
                change.later(Phase.CHECK, world.check, service)
                world.bind(service, change)
            change.then(_sort, world, draft.config)
    finally:
        interpreter.folder, interpreter.made = folder, {}


def _is_drop(step: Step) -> bool:
    return step.kind is Kind.RULE and not step.said


def _together(steps: list[Step]) -> Iterator[list[Step]]:
    """The steps in their order, those together that drop rules of one service."""
    for (drops, _), found in groupby(steps, lambda step: (_is_drop(step), step.object if _is_drop(step) else "")):
        if drops:
            yield list(found)
        else:
            yield from ([step] for step in found)


def _carry_out_together(session: Session, draft: Draft, steps: list[Step]) -> None:
    left = steps
    if _is_drop(steps[0]):
        rules = drop_several(session.world.service(steps[0].object), [step.key for step in steps])
        left = [step for step in steps if step.key in rules]
    for step in left:
        _say(session, draft, step)


def _say(session: Session, draft: Draft, step: Step) -> None:
    if step.kind in (Kind.LOAD, Kind.UNLOAD):
        return
    if step.kind is Kind.RULE and step.said:
        session.current = session.world.service(step.object)
    try:
        session.interpreter.say(session, step.statement)
    except Mistake as mistake:
        place = draft.interpreter.places.get(("set", step.object.lower(), step.key))
        where = f"{place.file}:{place.line}: " if place is not None else ""
        message = f"nothing is changed: {where}{step.statement}: {mistake.message}"
        raise CommandError(message, hint=mistake.hint, kind=mistake.kind) from None


def _ruled(world: World, steps: list[Step]) -> list[Service]:
    """Services that are there and whose rules will change."""
    names = {step.object.lower() for step in steps if step.kind is Kind.RULE}
    return [service for name, service in world.services.items() if name in names]


def _secured_otherwise(world: World, steps: list[Step]) -> list[Service]:
    """Enabled services whose certificates have to be read again. The statement alone would wait for the next ENABLE."""
    names = {step.object.lower() for step in steps if step.kind is Kind.SETTING and step.key.startswith(("ssl_", "enable_ssl"))}
    return [service for name, service in world.services.items() if name in names and service.handler is not None and service.enabled]


def _sort(world: World, wanted: Config) -> None:
    """Services, pools and nodes in the order of the file."""
    _sort_names(world.services, [service.name for service in wanted.services])
    _sort_names(world.pools, [pool.name for pool in wanted.pools])
    for spec in wanted.pools:
        at = {node.name: number for number, node in enumerate(spec.nodes)}
        pool = world.pools[spec.name.lower()]
        pool.nodes.sort(key=lambda node: at.get(node.name, len(at)))
        pool.flip()


def _sort_names(objects: dict[str, T], order: list[str]) -> None:
    place = {name.lower(): number for number, name in enumerate(order)}
    pairs = sorted(objects.items(), key=lambda pair: place.get(pair[0], len(place)))
    objects.clear()
    objects.update(pairs)
