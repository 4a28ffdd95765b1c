"""A Config as statements that make it again, in an order that loads.

    SERVER, LOAD              first of all, since they say what may be said
    DEFAULT                   those that the first service was made with
    pools                     services name them
    services                  in the order they were made; a DEFAULT that came between two of them stands between them
    what names services       VHOST, VPATH, default_service: all services have to be there
    ENABLE, DISABLE           when everything is said

A `$` that would begin a variable is written twice.
"""

from collections.abc import Iterable, Iterator

from pbal.config.spec import Config, HeaderSpec, Pairs, PoolSpec, ServiceSpec, Standing
from pbal.lang.expand import escaped
from pbal.lang.parser import quoted

_FIRST = ("role", "listen", "pool", "plugins")
"""Tunables that a reader looks for, and that others depend on."""


def render(config: Config) -> Iterator[str]:
    """The lines, one statement each, with empty lines between objects."""
    return (escaped(line) for line in _lines(config))


def _lines(config: Config) -> Iterator[str]:
    yield from _beginning(config)
    now: dict[str, str] = {}
    yield from _defaults(now, config.services[0].defaults if config.services else config.defaults)
    for pool in config.pools:
        yield from _pool(pool)
    for service in config.services:
        yield from _defaults(now, service.defaults)
        yield ""
        yield f"CREATE SERVICE {service.name}"
        yield from (f"  {line}" for line in _service(service))
    yield ""
    yield from _defaults(now, config.defaults)
    for service in config.services:
        yield from _late(service)
    yield from (f"ENABLE {service.name}" for service in config.services if service.standing is Standing.ENABLED)
    yield from (f"DISABLE {service.name}" for service in config.services if service.standing is Standing.DISABLED)


def _beginning(config: Config) -> Iterator[str]:
    """SERVER and LOAD. plugin_path may have been another when a plugin was loaded."""
    server = dict(config.server)
    final = path = server.get("plugin_path", "")
    yield from (f"SERVER {name} = {quoted(text)}" for name, text in config.server)
    for plugin in config.plugins:
        if plugin.folder and plugin.folder != path:
            path = plugin.folder
            yield f"SERVER plugin_path = {quoted(path)}"
        yield f"LOAD {plugin.name}"
    if path != final and final:
        yield f"SERVER plugin_path = {quoted(final)}"


def _defaults(now: dict[str, str], wanted: Pairs) -> Iterator[str]:
    """What makes the defaults `wanted` of those that are in force `now`."""
    for name, text in wanted:
        if now.get(name) != text:
            now[name] = text
            yield f"DEFAULT {name} = {quoted(text)}"


def _pool(pool: PoolSpec) -> Iterator[str]:
    yield ""
    yield f"CREATE POOL {pool.name}"
    yield from (f"  SET {name} = {quoted(text)}" for name, text in pool.settings)
    add = f"POOL ADD {pool.name}" if pool.name.lower() in ("add", "remove") else f"POOL {pool.name} ADD"
    yield from (f"  {add} {node}" for node in pool.nodes)


def _service(service: ServiceSpec) -> Iterator[str]:
    said = dict(service.settings)
    for name in (*(name for name in _FIRST if name in said), *sorted(said.keys() - set(_FIRST))):
        if name != "default_service":  # it may name a service that comes later
            yield f"SET {name} = {quoted(said[name])}"
    yield from header_rules(service.name, service.headers)


def header_rules(service: str, rules: Iterable[HeaderSpec]) -> Iterator[str]:
    """HEADER statements, a `$` in them not yet written twice."""
    for rule in rules:
        yield f"HEADER {service} " + (f"REMOVE {rule.name}" if rule.value is None else f"INSERT {rule.name}: {quoted(rule.value)}")


def _late(service: ServiceSpec) -> Iterator[str]:
    named = dict(service.settings).get("default_service")
    late = [f"SET {service.name} default_service = {named}"] if named else []
    late += service.statements
    if late:
        yield f"USE {service.name}"
        yield from (f"  {line}" for line in late)
