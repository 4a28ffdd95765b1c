"""A Config as statements that make it again, in an order that loads.

    SERVER, LOAD              first of all, since they say what may be said
    DEFAULT                   those that the first service was made with
    pools                     services name them
    services                  in the order they were made; a DEFAULT that came between two of them stands between them
    what names services       VHOST, VPATH, default_service: all services have to be there
    ENABLE, DISABLE           when everything is said

A `$` that would begin a variable is written twice. What came from variables that hide their values is printed as it was written.
"""

from collections.abc import Iterator

from pbal.config.spec import Config, Pairs, PoolSpec, ServiceSpec, Standing
from pbal.lang.lexical import escaped, written

_FIRST = ("role", "listen", "pool", "plugins")
"""Tunables that a reader looks for, and that others depend on."""


def render(config: Config) -> Iterator[str]:
    """The lines, one statement each, with empty lines between objects."""
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
    yield from (f"SERVER {name} = {written(text)}" for name, text in config.server)
    for plugin in config.plugins:
        if plugin.folder and plugin.folder != path:
            path = plugin.folder
            yield f"SERVER plugin_path = {written(path)}"
        yield f"LOAD {plugin.name}"
    if path != final and final:
        yield f"SERVER plugin_path = {written(final)}"


def _defaults(now: dict[str, str], wanted: Pairs) -> Iterator[str]:
    """What makes the defaults `wanted` of those that are in force `now`."""
    for name, text in wanted:
        if now.get(name) != text:
            now[name] = text
            yield f"DEFAULT {name} = {written(text)}"


def _pool(pool: PoolSpec) -> Iterator[str]:
    yield ""
    yield f"CREATE POOL {pool.name}"
    yield from (f"  SET {name} = {written(text)}" for name, text in pool.settings)
    add = f"POOL ADD {pool.name}" if pool.name.lower() in ("add", "remove") else f"POOL {pool.name} ADD"
    yield from (f"  {add} {node}" for node in pool.nodes)


def _service(service: ServiceSpec) -> Iterator[str]:
    said = dict(service.settings)
    for name in (*(name for name in _FIRST if name in said), *sorted(said.keys() - set(_FIRST))):
        if name != "default_service":  # it may name a service that comes later
            yield f"SET {name} = {written(said[name])}"
    for rule in service.headers:
        if rule.value is None:
            yield f"HEADER {service.name} REMOVE {escaped(rule.name)}"
        else:
            yield f"HEADER {service.name} INSERT {escaped(rule.name)}: {written(rule.value)}"


def _late(service: ServiceSpec) -> Iterator[str]:
    named = dict(service.settings).get("default_service")
    late = [f"SET {service.name} default_service = {written(named)}"] if named else []
    late += map(escaped, service.statements)
    if late:
        yield f"USE {service.name}"
        yield from (f"  {line}" for line in late)
