"""What a World is configured to be, at this moment, as a Config.

It is taken in one go, between two statements, so whatever is made of it afterwards cannot tear. What runs is left out: counts, positions,
who waits, whether a node answers.
"""

from collections.abc import Generator, Mapping
from functools import partial

from pbal.config.spec import Config, HeaderSpec, NodeSpec, Pairs, PluginSpec, PoolSpec, RuleSpec, ServiceSpec
from pbal.model import faults
from pbal.model.plugin import Plugin
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.world import World
from pbal.schema.pools import OF_POOLS
from pbal.schema.said import hidden
from pbal.schema.tunables import Tunable


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
    )


def _canonical(tunables: Mapping[str, Tunable], said: Mapping[str, str]) -> Pairs:
    return tuple((name, hidden(text, tunables[name].canonical(text))) for name, text in sorted(said.items()))


def _pool(pool: Pool) -> PoolSpec:
    said = {name: OF_POOLS[name].type.render(value) for name, value in pool.values.items() if value is not None}
    settings = tuple(
        (name, hidden(pool.written.get(name, text), text)) for name, text in sorted(said.items()) if text != OF_POOLS[name].default
    )
    return PoolSpec(pool.name, settings, tuple(NodeSpec(node.name, node.weight, node.backup, node.most) for node in pool.nodes))


def _service(service: Service) -> ServiceSpec:
    tunables = service.world.tunables
    said = {name: hidden(text, tunables[name].type.render(service.values[name])) for name, text in service.explicit.items()}
    said |= {f"extra.{name}": hidden(text, text) for name, text in service.extra.items()}
    return ServiceSpec(
        name=service.name,
        standing=service.standing,
        settings=tuple(sorted(said.items())),
        defaults=_canonical(tunables, _counting(service)),
        headers=header_specs(service),
        rules=tuple(rules for rules in map(partial(_rules, service), service.plugins) if rules.statements),
    )


def _counting(service: Service) -> dict[str, str]:
    """The DEFAULTs that a service goes by."""
    tunables, said = service.world.tunables, service.explicit
    return {name: text for name, text in service.defaults.items() if name not in said and tunables[name].fits(service.role)}


def header_specs(service: Service) -> tuple[HeaderSpec, ...]:
    """The HEADER rules of a service, in the order in which they were said."""
    rules = service.header_rules.values()
    return tuple(HeaderSpec(rule.name.decode(), None if rule.value is None else hidden(rule.said, rule.value.decode())) for rule in rules)


def _rules(service: Service, pair: tuple[str, Plugin]) -> RuleSpec:
    name, plugin = pair
    try:
        statements = tuple(plugin.dumpconfig())
    except faults.CAUGHT as error:
        faults.report(service.world, name, "dumpconfig()", error)
        statements = (f"# {faults.refusal(service.world, name, 'dumpconfig()', error).message}: its statements are missing here",)
    return RuleSpec(name, statements, plugin.ordered_rules)
