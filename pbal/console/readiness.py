"""Whether pbal should get clients, and what its pools lack: what /readyz answers, and the head of the status page."""

from typing import Final

from pbal.model.pool import Pool
from pbal.model.world import World


def why_not_ready(world: World) -> str:
    """Why pbal should get no new clients; '' if it should: all enabled services listen, and no end has begun."""
    runtime = world.runtime
    if runtime is None or world.ending:
        return "pbal is ending"
    serving = {listener.service.name for listener in runtime.listeners() if listener.serving}
    missing = sorted(
        service.name
        for service in world.services.values()
        if service.enabled and service["listen"] is not None and service.name not in serving
    )
    return f"not listening: {', '.join(missing)}" if missing else ""


def _said_of(pool: Pool, now: float) -> str:
    """What is wrong with a pool's nodes; "" if nothing is. A node of weight 0 is meant to get nothing, as a spare is while others can."""
    usable = pool.usable(now)  # which finds out whether it is open
    if pool.open:
        return "too few nodes are well, all of them get requests"
    first = [node for node in pool.nodes if node.weight and not node.backup]
    spare = [node for node in pool.nodes if node.weight and node.backup]
    serving = [node for node in first if node in usable]
    if spare and not serving:
        return f"0 of {len(first)} nodes get requests, {len(usable)} of {len(spare)} backup nodes do"
    well = [node for node in spare if node.ready and node.healthy(now)]
    told = [f"{len(serving)} of {len(first)} nodes get requests"] if len(serving) < len(first) else []
    if len(well) < len(spare):
        told.append(f"{len(well)} of {len(spare)} backup nodes are well")
    return ", ".join(told)


MOST: Final = 20
"""Pools that are told of."""


def unwell(world: World) -> list[str]:
    """The pools that services use and some of whose nodes get no requests, or get them because too few are well; a line each.

    That is no reason to send clients elsewhere: who is behind pbal would be there with the others, too.
    """
    now = world.clock.now()
    used = {name.lower() for service in world.services.values() if service.handler is not None for name in service.pools()}
    lines: list[str] = []
    for name in sorted(used & world.pools.keys()):
        pool = world.pools[name]
        said = _said_of(pool, now)
        if said:
            lines.append(f"pool {pool.name}: {said}")
    return lines if len(lines) <= MOST else [*lines[:MOST], f"and {len(lines) - MOST} more"]
