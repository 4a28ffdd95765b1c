"""What makes one Config of another: statements, in an order in which they can be carried out.

    SERVER                    it says where plugins are
    LOAD                      new plugins bring what may be said
    UNSET SERVER
    MIME
    pools                     made, SET, nodes that come
    services                  those that are made anew in their place; then what is SET and UNSET, and the rules that go
    what names services       default_service, rules that come
    DEFAULT                   as it is at the end
    ENABLE, DISABLE
    what is left behind       nodes that go, DROP SERVICE, DROP POOL, UNLOAD

The order in which services, pools and nodes stand does not count as a difference. A service whose role changes, or that was enabled and is
to be as if it had never been, cannot become so: it is dropped, and another made in its place.

UNSET gives a tunable what DEFAULT says at that moment. So where a service's default differs, DEFAULT is said first, and at the end what it
is to be from then on.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import TypeVar

from pbal.config.render import Fits, OwnRule, change_defaults, concerns, in_order, media_statement, own_rules, pool_statement
from pbal.config.spec import Config, HeaderSpec, PoolSpec, RuleSpec, ServiceSpec, Standing
from pbal.lang.lexical import escaped, written
from pbal.schema.media import BUILT_IN

T = TypeVar("T")


class Kind(Enum):
    """What a step is about."""

    LOAD = auto()
    UNLOAD = auto()
    SERVER = auto()
    MEDIA = auto()
    """MIME, about one ending."""
    DEFAULT = auto()
    POOL = auto()
    """A pool that comes or goes."""
    SERVICE = auto()
    """A service that comes or goes."""
    SETTING = auto()
    """A tunable of a pool or a service, SET or UNSET."""
    NODE = auto()
    RULE = auto()
    """HEADER, ROUTE, REWRITE, CACHE, LIMIT, or a statement of a plugin."""
    STANDING = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """One statement. `said` is false for what is taken back: UNSET, DROP, POOL REMOVE."""

    kind: Kind
    statement: str
    """As it has to be written."""
    object: str = ""
    """The pool or service, or the plugin, it is about; `USE` it first where the kind is RULE."""
    key: str = ""
    """The tunable, the node, the ending, or the rule as it was said."""
    said: bool = True


def difference(old: Config, new: Config, fits: Fits) -> Iterator[Step]:
    """The steps from `old` to `new`. `fits` knows the tunables of both."""
    yield from _beginning(old, new)
    yield from _media(dict(old.media), dict(new.media))
    before = {pool.name.lower(): pool for pool in old.pools}
    for pool in new.pools:
        yield from _pool(before.get(pool.name.lower()), pool)
    yield from _services(old, new, fits)
    yield from _left(old, new)


def listing(steps: list[Step]) -> Iterator[str]:
    """The steps as lines of a file: with USE before the rules of a service."""
    used = ""
    for step in steps:
        if step.kind is Kind.RULE and step.said and step.object != used:
            used = step.object
            yield f"USE {used}"
        elif step.kind is Kind.SERVICE and step.said:
            used = step.object
        elif step.kind is Kind.POOL:
            used = ""
        yield step.statement


def _beginning(old: Config, new: Config) -> Iterator[Step]:
    """SERVER and LOAD. A plugin may come from a folder that is not plugin_path at the end, see render.py."""
    before, after = dict(old.server), dict(new.server)
    for name, text in new.server:
        if before.get(name) != text:
            yield _server(name, text)
    known = {plugin.name for plugin in old.plugins}
    final = path = after.get("plugin_path", before.get("plugin_path", ""))
    for plugin in new.plugins:
        if plugin.name not in known:
            if plugin.folder and plugin.folder != path:
                path = plugin.folder
                yield _server("plugin_path", path)
            yield Step(Kind.LOAD, f"LOAD {plugin.name}", plugin.name)
    gone = before.keys() - after.keys()
    if path != final and final and "plugin_path" not in gone:
        yield _server("plugin_path", final)
    elif path != final:
        gone |= {"plugin_path"}
    for name in sorted(gone):
        yield Step(Kind.SERVER, f"UNSET SERVER {name}", key=name, said=False)


def _server(name: str, text: str) -> Step:
    return Step(Kind.SERVER, f"SERVER {name} = {written(text)}", key=name)


def _pool(old: PoolSpec | None, new: PoolSpec) -> Iterator[Step]:
    if old is None:
        yield Step(Kind.POOL, f"CREATE POOL {new.name}", new.name)
    before, after = dict(old.settings) if old is not None else {}, dict(new.settings)
    for name, text in new.settings:
        if before.get(name) != text:
            yield Step(Kind.SETTING, f"SET {new.name}.{name} = {written(text)}", new.name, name)
    for name in sorted(before.keys() - after.keys()):
        yield Step(Kind.SETTING, f"UNSET {new.name}.{name}", new.name, name, said=False)
    members = frozenset((*old.nodes, *old.found)) if old is not None else frozenset()
    for node in new.nodes:
        if node not in members:  # one that has other options is added again
            yield Step(Kind.NODE, pool_statement(new.name, "ADD", node.name, node.options), new.name, node.name)


def is_replaced(old: ServiceSpec, new: ServiceSpec) -> bool:
    """Whether a service cannot become another, and is made anew."""
    role = dict(old.settings).get("role")
    regresses = old.standing is not Standing.NEW and new.standing is Standing.NEW
    return (role is not None and role != dict(new.settings).get("role")) or regresses


def _services(old: Config, new: Config, fits: Fits) -> Iterator[Step]:
    now = dict(old.defaults)
    old = yield from _let_go(old, new)
    pairs = yield from _made(now, old, new, fits)
    for former, service in pairs:
        if former != service:
            yield from _settings(former, service)
            if former is not None:
                yield from _unset(now, former, service, fits)
                yield from _rules_going(former, service)
    for former, service in pairs:
        if former != service:
            yield from _late(former, service)
    yield from _defaults(now, dict(new.defaults), lambda name: True)
    for former, service in pairs:
        if (former.standing if former is not None else Standing.NEW) is not service.standing:
            verb = "ENABLE" if service.standing is Standing.ENABLED else "DISABLE"
            yield Step(Kind.STANDING, f"{verb} {service.name}", service.name)


def _media(before: dict[str, str], after: dict[str, str]) -> Iterator[Step]:
    """What is not said any more becomes what is built in."""
    for ending in sorted(before.keys() | after.keys()):
        if before.get(ending) != after.get(ending):
            kind = after.get(ending, BUILT_IN.get(ending, ""))
            yield Step(Kind.MEDIA, media_statement(ending, kind), key=ending, said=ending in after)


def _let_go(old: Config, new: Config) -> Generator[Step, None, Config]:
    """No selector names a service that is made anew, which is dropped first; the old configuration without what named them.

    Nor does one that goes name another that goes before it: they may name each other.
    """
    after = {service.name.lower(): service for service in new.services}
    replaced = {name for each in old.services if (name := each.name.lower()) in after and is_replaced(each, after[name])}
    gone = {name: place for place, each in enumerate(old.services) if (name := each.name.lower()) not in after}
    services: list[ServiceSpec] = []
    for service in old.services:
        place = gone.get(service.name.lower(), len(old.services))
        before = partial(_dropped_before, replaced, gone, place)
        services.append((yield from _without(service, before)) if replaced or place < len(old.services) else service)
    return replace(old, services=tuple(services))


def _dropped_before(replaced: set[str], gone: dict[str, int], place: int, name: str) -> bool:
    """Whether a service is dropped before the one at a place. Of those that go, the last one is the first."""
    return name in replaced or gone.get(name, -1) > place


def _without(service: ServiceSpec, before: Callable[[str], bool]) -> Generator[Step, None, ServiceSpec]:
    """A service without what names others that are dropped before: its default_service, and the rules of plugins that end with a name."""
    said = dict(service.settings)
    if before(said.get("default_service", "").lower()):
        yield Step(Kind.SETTING, f"UNSET {service.name}.default_service", service.name, "default_service", said=False)
        del said["default_service"]
    rules: list[RuleSpec] = []
    for each in service.rules:
        naming = [rule for rule in each.statements if before(rule.split()[-1].lower())]
        for rule in map(escaped, naming):
            yield Step(Kind.RULE, f"DROP RULE {service.name} {rule}", service.name, rule, said=False)
        rules.append(replace(each, statements=tuple(rule for rule in each.statements if rule not in naming)))
    return replace(service, settings=tuple(sorted(said.items())), rules=tuple(rules))


def _made(now: dict[str, str], old: Config, new: Config, fits: Fits) -> Generator[Step, None, list[tuple[ServiceSpec | None, ServiceSpec]]]:
    """Services that come, or come anew; all of the new ones, each with what it was before."""
    before = {service.name.lower(): service for service in old.services}
    pairs: list[tuple[ServiceSpec | None, ServiceSpec]] = []
    for service in new.services:
        former = before.get(service.name.lower())
        if former is not None and is_replaced(former, service):
            yield Step(Kind.SERVICE, f"DROP SERVICE {former.name}", former.name, said=False)
            former = None
        if former is None:
            yield from _defaults(now, dict(service.defaults), concerns(service, fits))
            yield Step(Kind.SERVICE, f"CREATE SERVICE {service.name}", service.name)
        pairs.append((former, service))
    return pairs


def _defaults(now: dict[str, str], wanted: dict[str, str], matters: Callable[[str], bool]) -> Iterator[Step]:
    for statement in change_defaults(now, wanted, matters):
        words = statement.split(None, 3)
        taken_back = words[0] == "UNSET"
        yield Step(Kind.DEFAULT, statement, key=words[2] if taken_back else words[1], said=not taken_back)


def _settings(old: ServiceSpec | None, new: ServiceSpec) -> Iterator[Step]:
    before, after = dict(old.settings) if old is not None else {}, dict(new.settings)
    names = in_order(after)
    if old is not None and "plugins" in after:  # one at a time, a plugin that comes would ask for what is said below
        names = [*(name for name in names if name != "plugins"), "plugins"]
    for name in names:
        if before.get(name) != after[name] and name != "default_service":
            yield Step(Kind.SETTING, f"SET {new.name}.{name} = {written(after[name])}", new.name, name)


def _unset(now: dict[str, str], old: ServiceSpec, new: ServiceSpec, fits: Fits) -> Iterator[Step]:
    """What is not SET any more, and what goes by another DEFAULT."""
    before, after = dict(old.defaults), dict(new.defaults)
    said = dict(new.settings)
    gone = dict(old.settings).keys() - said.keys()
    other = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name) and name not in said}
    role = said.get("role", "")
    for name in in_order(gone | other):
        if fits(name, role):
            wanted = {name: after[name]} if name in after else {}
            yield from _defaults(now, {**now, **wanted} if wanted else {k: v for k, v in now.items() if k != name}, lambda each: True)
            yield Step(Kind.SETTING, f"UNSET {new.name}.{name}", new.name, name, said=False)


def _rules_going(old: ServiceSpec, new: ServiceSpec) -> Iterator[Step]:
    """Those of a plugin that leaves the chain go with it."""
    for rule in own_rules(new.name, _own_beyond(old, new)):
        yield Step(Kind.RULE, f"DROP RULE {new.name} {rule}", new.name, rule, said=False)
    staying = dict(new.settings).get("plugins", "").split()
    wanted = {rules.plugin: rules for rules in new.rules}
    for rules in old.rules:
        if rules.plugin in staying:
            for rule in map(escaped, _beyond(rules, wanted.get(rules.plugin))):
                yield Step(Kind.RULE, f"DROP RULE {new.name} {rule}", new.name, rule, said=False)


def _own_beyond(one: ServiceSpec, other: ServiceSpec | None) -> list[OwnRule]:
    """The rules that are a service's own which one has and the other has not, or has in another order, from the first on that differs.

    Of HEADER, only the order of those about the same field counts; of LIMIT, no order does. What is compared are specs, and not words:
    these may be the same, and the secret another.
    """
    found: list[OwnRule] = []
    there = _by_subject(other.headers) if other is not None else {}
    for subject, headers in _by_subject(one.headers).items():
        found += _past_common(headers, there.get(subject, []))
    found += _past_common(one.routes, other.routes if other is not None else ())
    found += _past_common(one.rewrites, other.rewrites if other is not None else ())
    found += _past_common(one.caching, other.caching if other is not None else ())
    found += [spec for spec in one.limits if other is None or spec not in other.limits]
    return found


def _by_subject(headers: tuple[HeaderSpec, ...]) -> dict[tuple[str, str], list[HeaderSpec]]:
    """HEADER rules by the field they are about."""
    found: dict[tuple[str, str], list[HeaderSpec]] = {}
    for spec in headers:
        found.setdefault((spec.side, spec.name.lower().replace("_", "-")), []).append(spec)
    return found


def _past_common(rules: Sequence[T], others: Sequence[T]) -> Sequence[T]:
    """Without what both begin with."""
    same = next((at for at, pair in enumerate(zip(rules, others, strict=False)) if pair[0] != pair[1]), min(len(rules), len(others)))
    return rules[same:]


def _beyond(rules: RuleSpec, other: RuleSpec | None) -> Iterator[str]:
    """What one has and the other has not; where the order counts, all from the first on that differs."""
    known = other.statements if other is not None else ()
    if rules.ordered:
        same = next((at for at, pair in enumerate(zip(rules.statements, known, strict=False)) if pair[0] != pair[1]), len(known))
        return iter(rules.statements[same:])
    there = frozenset(known)
    return (rule for rule in rules.statements if rule not in there)


def _late(old: ServiceSpec | None, new: ServiceSpec) -> Iterator[Step]:
    """What names other services, which are all made by now."""
    before = dict(old.settings).get("default_service") if old is not None else None
    after = dict(new.settings).get("default_service")
    if after is not None and after != before:
        yield Step(Kind.SETTING, f"SET {new.name}.default_service = {written(after)}", new.name, "default_service")
    for rule in own_rules(new.name, _own_beyond(new, old)):
        yield Step(Kind.RULE, rule, new.name, rule)
    there = {rules.plugin: rules for rules in old.rules} if old is not None else {}
    for rules in new.rules:
        for rule in map(escaped, _beyond(rules, there.get(rules.plugin))):
            yield Step(Kind.RULE, rule, new.name, rule)


def _nodes_going(old: PoolSpec, new: PoolSpec | None) -> Iterator[Step]:
    """Nodes of a pool that are not wanted any more. Where it has a nodefile they go when that is read."""
    if new is None or "nodefile" in dict(new.settings):
        return
    staying = frozenset(node.name for node in new.nodes)
    for node in (*old.nodes, *old.found):
        if node.name not in staying:
            yield Step(Kind.NODE, pool_statement(old.name, "REMOVE", node.name), old.name, node.name, said=False)


def _left(old: Config, new: Config) -> Iterator[Step]:
    """What goes, when nothing names it any more."""
    pools = {pool.name.lower(): pool for pool in new.pools}
    for pool in old.pools:
        yield from _nodes_going(pool, pools.get(pool.name.lower()))
    names = {service.name.lower() for service in new.services}
    for service in reversed(old.services):  # who names others comes after them
        if service.name.lower() not in names:
            yield Step(Kind.SERVICE, f"DROP SERVICE {service.name}", service.name, said=False)
    for pool in old.pools:
        if pool.name.lower() not in pools:
            yield Step(Kind.POOL, f"DROP POOL {pool.name}", pool.name, said=False)
    loaded = {plugin.name for plugin in new.plugins}
    for gone in old.plugins:
        if gone.name not in loaded:
            yield Step(Kind.UNLOAD, f"UNLOAD {gone.name}", gone.name, said=False)
