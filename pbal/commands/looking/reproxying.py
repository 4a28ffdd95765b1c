"""The query about connections to the servers that X-REPROXY-URL names. Shapes of lines: Perlbal manual, reproxy_state."""

from collections.abc import Iterator

from pbal.commands.session import Session
from pbal.roles.proxy.reproxy.targets import Target, Targets
from pbal.schema.commands import Item, Objects, Reply, command


@command
def reproxy_state(session: Session) -> Reply:
    """Show the connections to the servers that X-REPROXY-URL named, who waits for one, and how many there may be.

    Source: Perlbal manual, reproxy_state.
    """
    world = session.world
    targets = [] if world.targets is None else Targets.of(world).all()
    own = (name for name in sorted(world.server_explicit) if name.startswith("max_reproxy_connections("))
    limits = [f"SERVER {name} = {world.server[name]}" for name in (*own, "max_reproxy_connections")]
    columns = ("server", "connecting", "bored", "clients_queued", "backends", "most")
    return Objects((item for target in targets for item in _told(target)), seen=columns, tail=tuple(limits))


def _told(target: Target) -> Iterator[Item]:
    busy = [backend.describe().text for backend in target.busy]
    queued = len(target.waiting) + len(target.looking) - sum(fetch in target.waiting for fetch in target.opening.values())
    numbers = {"connecting": len(target.opening), "bored": len(target.idle), "clients_queued": queued, "backends": len(busy)}
    lines = [f"{name} {target.label} {number}" for name, number in numbers.items() if number]
    lines += [f"... {line}" for line in busy]
    yield Item({"server": target.label, **numbers, "most": target.most}, tuple(lines))
