"""What a World is configured to be, at this moment, as a Config.

It is taken in one go, between two statements, so whatever is made of it afterwards cannot tear. What runs is left out: counts, positions,
who waits, whether a node answers.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial

from pbal.config.render import OwnRule
from pbal.config.spec import (
    CacheSpec,
    Config,
    HeaderSpec,
    LimitSpec,
    NodeSpec,
    Pairs,
    PluginSpec,
    PoolSpec,
    RewriteSpec,
    RouteSpec,
    RuleSpec,
    ServiceSpec,
)
from pbal.model.conditions import Conditions
from pbal.model.nodefile import path_of
from pbal.model.plugin import Plugin
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.telling import statements_or_why
from pbal.model.world import World
from pbal.schema.pools import OF_POOLS
from pbal.schema.said import hidden
from pbal.schema.tunables import Tunable

Show = Callable[[str, str], str]
"""What stands in a Config for a text that was said, and its canonical form."""


def snapshot(world: World) -> Config:
    """Everything that is configured. A plugin whose dumpconfig() fails has a comment in place of its statements."""
    pieces = in_pieces(world)
    while True:
        try:
            next(pieces)
        except StopIteration as ended:
            config: Config = ended.value
            return config


def in_pieces(world: World) -> Generator[None, None, Config]:
    """The same, a service a step, for who gives way between two steps; no statement may change the world meanwhile."""
    services = []
    for service in world.services.values():
        services.append(_service(service))
        yield
    pools = []
    for pool in world.pools.values():
        pools.append(_pool(pool))
        yield
    return Config(
        server=_canonical(world.server_tunables, world.server_explicit),
        plugins=tuple(PluginSpec(plugin.name, plugin.folder) for plugin in world.plugins.values()),
        defaults=_canonical(world.tunables, world.defaults),
        pools=tuple(pools),
        services=tuple(services),
        media=tuple(sorted(world.media.said.items())),
    )


def _canonical(tunables: Mapping[str, Tunable], said: Mapping[str, str]) -> Pairs:
    return tuple((name, hidden(text, tunables[name].canonical(text))) for name, text in sorted(said.items()))


def _pool(pool: Pool) -> PoolSpec:
    said = {name: OF_POOLS[name].type.render(value) for name, value in pool.values.items() if value is not None}
    settings = tuple(
        (name, hidden(pool.written.get(name, text), text)) for name, text in sorted(said.items()) if text != OF_POOLS[name].default
    )
    nodes = tuple(NodeSpec(node.name, node.weight, node.backup, node.most) for node in pool.nodes)
    return PoolSpec(pool.name, settings, nodes) if path_of(pool) is None else PoolSpec(pool.name, settings, (), nodes)


def _service(service: Service) -> ServiceSpec:
    tunables = service.world.tunables
    said = {name: hidden(text, tunables[name].type.render(service.values[name])) for name, text in service.explicit.items()}
    said |= {f"extra.{name}": hidden(text, text) for name, text in service.extra.items()}
    return ServiceSpec(
        name=service.name,
        standing=service.standing,
        settings=tuple(sorted(said.items())),
        defaults=_canonical(tunables, _counting(service)),
        headers=tuple(_headers(service, hidden)),
        rules=tuple(rules for rules in map(partial(_rules, service), service.plugins) if rules.statements),
        routes=tuple(_routes(service, hidden)),
        rewrites=tuple(_rewrites(service, hidden)),
        caching=tuple(_caching(service, hidden)),
        limits=tuple(_limits(service, hidden)),
    )


def _counting(service: Service) -> dict[str, str]:
    """The DEFAULTs that a service goes by."""
    tunables, said = service.world.tunables, service.explicit
    return {name: text for name, text in service.defaults.items() if name not in said and tunables[name].fits(service.role)}


def own_specs(service: Service, show: Show = hidden) -> list[OwnRule]:
    """The rules that are a service's own, in the order in which Rules.without counts them, then LIMITs.

    `show`: what stands for what was said.
    """
    return [*_headers(service, show), *_routes(service, show), *_rewrites(service, show), *_caching(service, show), *_limits(service, show)]


def _headers(service: Service, show: Show) -> Iterator[HeaderSpec]:
    for rule in service.rules.headers:
        value = None if rule.said is None else show(rule.said, str(rule.said))
        side = "RESPONSE" if rule.response else "REQUEST"
        yield HeaderSpec(rule.name.decode(), value, rule.verb, side, _when(rule.when, rule.when_said, show))


def _routes(service: Service, show: Show) -> Iterator[RouteSpec]:
    for route in service.rules.routes:
        yield RouteSpec(route.pool.name, _when(route.when, route.when_said, show))


def _rewrites(service: Service, show: Show) -> Iterator[RewriteSpec]:
    for rule in service.rules.rewrites:
        pattern, to = show(rule.pattern, str(rule.pattern)), show(rule.to, str(rule.to))
        yield RewriteSpec(pattern, to, _when(rule.when, rule.when_said, show))


def _when(when: Conditions | None, said: str, show: Show) -> str:
    return "" if when is None else show(said, when.text)


def _caching(service: Service, show: Show) -> Iterator[CacheSpec]:
    for rule in service.rules.caching:
        yield CacheSpec(rule.words, _when(rule.when, rule.when_said, show))


def _limits(service: Service, show: Show) -> Iterator[LimitSpec]:
    for limit in service.limiting:
        yield LimitSpec(limit.words, _when(limit.when, limit.when_said, show))


def _rules(service: Service, pair: tuple[str, Plugin]) -> RuleSpec:
    name, plugin = pair
    return RuleSpec(name, statements_or_why(service, name, plugin), plugin.ordered_rules)
