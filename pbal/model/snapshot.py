"""What a World is configured to be, at this moment, as a Config.

It is taken in one go, between two statements, so whatever is made of it afterwards cannot tear. What runs is left out: counts, positions,
who waits, whether a node answers.
"""

from collections.abc import Iterable, Mapping

from pbal.config.spec import Config, HeaderSpec, Pairs, PluginSpec, PoolSpec, ServiceSpec
from pbal.model import faults
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.world import World
from pbal.schema.said import hidden
from pbal.schema.tunables import POOL, Tunable

_OF_POOLS = {tunable.name: tunable for tunable in POOL}


def snapshot(world: World) -> Config:
    """Everything that is configured. A plugin whose dumpconfig() fails has a comment in place of its statements."""
    return Config(
        server=_canonical(world.server_tunables, world.server_explicit),
        plugins=tuple(PluginSpec(plugin.name, plugin.folder) for plugin in world.plugins.values()),
        defaults=_canonical(world.tunables, world.defaults),
        pools=tuple(_pool(pool) for pool in world.pools.values()),
        services=tuple(_service(service) for service in world.services.values()),
    )


def _canonical(tunables: Mapping[str, Tunable], said: Mapping[str, str]) -> Pairs:
    return tuple((name, hidden(text, tunables[name].canonical(text))) for name, text in sorted(said.items()))


def _pool(pool: Pool) -> PoolSpec:
    said = {name: _OF_POOLS[name].type.render(value) for name, value in pool.values.items()}
    settings = tuple(
        (name, hidden(pool.written.get(name, text), text)) for name, text in sorted(said.items()) if text != _OF_POOLS[name].default
    )
    return PoolSpec(pool.name, settings, tuple(node.name for node in pool.nodes))


def _service(service: Service) -> ServiceSpec:
    tunables = service.world.tunables
    said = {name: hidden(text, tunables[name].type.render(service.values[name])) for name, text in service.explicit.items()}
    return ServiceSpec(
        name=service.name,
        standing=service.standing,
        settings=tuple(sorted(said.items())),
        defaults=_canonical(tunables, service.defaults),
        headers=tuple(
            HeaderSpec(rule.name.decode(), None if rule.value is None else hidden(rule.said, rule.value.decode()))
            for rule in service.header_rules.values()
        ),
        statements=tuple(_statements(service)),
    )


def _statements(service: Service) -> Iterable[str]:
    for name, plugin in service.plugins:
        try:
            yield from plugin.dumpconfig()
        except faults.CAUGHT as error:
            faults.report(service.world, name, "dumpconfig()", error)
            yield f"# {faults.refusal(service.world, name, 'dumpconfig()', error).message}: its statements are missing here"
