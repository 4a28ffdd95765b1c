"""A Config as statements that make it again, in an order that loads.

    SERVER, LOAD              first of all, since they say what may be said
    MIME
    pools                     services name them
    services                  in the order they were made; what DEFAULT was for a service stands before it
    what names services       VHOST, VPATH, default_service: all services have to be there
    ENABLE, DISABLE           when everything is said

A `$` that would begin a variable is written twice. What came from variables that hide their values is printed as it was written.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from pbal.config.spec import CacheSpec, Config, HeaderSpec, LimitSpec, PoolSpec, RewriteSpec, RouteSpec, ServiceSpec, Standing
from pbal.lang.lexical import escaped, quoted, quoted_word, written
from pbal.schema.said import Hidden

_WHEN = re.compile(r"[ \t]when[ \t]", re.IGNORECASE)
_FIRST = ("role", "listen", "pool", "plugins")
"""Tunables that a reader looks for, and that others depend on."""


Fits = Callable[[str, str], bool]
"""Whether a tunable, by name, is one of a role."""


def render(config: Config, fits: Fits = lambda tunable, role: True) -> Iterator[str]:
    """The lines, one statement each, with empty lines between objects."""
    yield from _beginning(config)
    yield from (media_statement(ending, kind) for ending, kind in config.media)
    now: dict[str, str] = {}
    for pool in config.pools:
        yield from _pool(pool)
    for service in config.services:
        yield from change_defaults(now, dict(service.defaults), concerns(service, fits))
        yield ""
        yield f"CREATE SERVICE {service.name}"
        yield from (f"  {line}" for line in _service(service))
    yield ""
    yield from change_defaults(now, dict(config.defaults), lambda name: True)
    for service in config.services:
        yield from _late(service)
    yield from (f"ENABLE {service.name}" for service in config.services if service.standing is Standing.ENABLED)
    yield from (f"DISABLE {service.name}" for service in config.services if service.standing is Standing.DISABLED)


def concerns(service: ServiceSpec, fits: Fits) -> Callable[[str], bool]:
    """Whether a default of a name would be seen on a service: it is one of its role, and was not SET."""
    said = dict(service.settings)
    role = said.get("role", "")
    return lambda name: name not in said and fits(name, role)


def change_defaults(now: dict[str, str], wanted: Mapping[str, str], matters: Callable[[str], bool]) -> Iterator[str]:
    """What makes the defaults `wanted`, where they matter, of those that are in force `now`, which is kept up."""
    for name in sorted(now.keys() - wanted.keys()):
        if matters(name):
            del now[name]
            yield f"UNSET DEFAULT {name}"
    for name, text in sorted(wanted.items()):
        if now.get(name) != text:
            now[name] = text
            yield f"DEFAULT {name} = {written(text)}"


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


def media_statement(ending: str, kind: str) -> str:
    """MIME SET, or MIME REMOVE where no type is left."""
    return f"MIME SET {ending} {written(kind)}" if kind else f"MIME REMOVE {ending}"


def _pool(pool: PoolSpec) -> Iterator[str]:
    yield ""
    yield f"CREATE POOL {pool.name}"
    yield from (f"  SET {name} = {written(text)}" for name, text in pool.settings)
    yield from (f"  {pool_statement(pool.name, 'ADD', node.name, node.options)}" for node in pool.nodes)


def pool_statement(pool: str, verb: str, node: str, options: str = "") -> str:
    """POOL ADD or REMOVE. A pool called 'add' or 'remove' has to be named second. The path of a Unix socket may have a '$'."""
    node = escaped(node)
    statement = f"POOL {verb} {pool} {node}" if pool.lower() in ("add", "remove") else f"POOL {pool} {verb} {node}"
    return f"{statement} {options}" if options else statement


def _service(service: ServiceSpec) -> Iterator[str]:
    said = dict(service.settings)
    for name in in_order(said):
        if name != "default_service":  # it may name a service that comes later
            of = f"{service.name}." if "." in name else ""  # of extra.NAME, the first word would be taken for a service
            yield f"SET {of}{name} = {written(said[name])}"
    yield from own_rules(service.name, (*service.headers, *service.routes, *service.rewrites, *service.caching, *service.limits))


def in_order(names: Iterable[str]) -> list[str]:
    """Names of tunables, those first that others depend on."""
    return [*(name for name in _FIRST if name in names), *sorted(set(names) - set(_FIRST))]


OwnRule = HeaderSpec | RouteSpec | RewriteSpec | CacheSpec | LimitSpec


def own_rules(service: str, rules: Iterable[OwnRule], end: Callable[[str], str] = escaped) -> Iterator[str]:
    """The statements of rules that are a service's own, and no plugin's. `end` is what is done to each argument last."""

    def word(text: str) -> str:
        return str(text) if isinstance(text, Hidden) else end(quoted_word(text))

    for rule in rules:
        # Conditions quote their own words.
        when = f" WHEN {rule.when if isinstance(rule.when, Hidden) else end(rule.when)}" if rule.when else ""
        if isinstance(rule, RouteSpec):
            yield f"ROUTE {service} TO {rule.pool}{when}"
        elif isinstance(rule, RewriteSpec):
            yield f"REWRITE {service} {word(rule.pattern)} = {word(rule.to)}{when}"
        elif isinstance(rule, CacheSpec):
            yield f"CACHE {service} {end(rule.words)}{when}"
        elif isinstance(rule, LimitSpec):
            yield f"LIMIT {service} {end(rule.words)}{when}"
        else:
            perlbal = rule.side == "REQUEST" and rule.verb in ("INSERT", "REMOVE") and not when
            value = "" if rule.value is None else f": {_value(rule.value, end)}"
            yield f"HEADER {service} {'' if perlbal else rule.side + ' '}{rule.verb} {end(rule.name)}{value}{when}"


def _value(text: str, end: Callable[[str], str]) -> str:
    """The value of a field: in quotes also where a `when` in it would end it."""
    if isinstance(text, Hidden):
        return str(text)
    said = quoted(text)
    if said is text and _WHEN.search(text):
        said = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return end(said)


def _late(service: ServiceSpec) -> Iterator[str]:
    named = dict(service.settings).get("default_service")
    late = [f"SET {service.name} default_service = {written(named)}"] if named else []
    late += [escaped(statement) for rules in service.rules for statement in rules.statements]
    if late:
        yield f"USE {service.name}"
        yield from (f"  {line}" for line in late)
