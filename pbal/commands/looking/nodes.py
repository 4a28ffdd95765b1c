"""Queries about nodes, and about who waits for one. Shapes of lines: Perlbal manual, Management."""

from collections import Counter as Tally
from collections.abc import Iterator

from pbal.commands.looking.tables import opening, table
from pbal.commands.session import Session
from pbal.model.pool import Node
from pbal.roles.proxy.role import ReverseProxy
from pbal.schema.commands import Item, Objects, Reply, command
from pbal.schema.people import Unit
from pbal.schema.types import Endpoint

MOMENTS = ("lastattempt", "lastconnect", "lastresponse")


@command
def nodes(session: Session, node: Endpoint | None = None) -> Reply:
    """Show what pbal knows of each node. Times are in seconds since 1970, the response codes those of its last 500 responses.

    The state is UP, DOWN, DRAIN or MAINT, in each of its pools; UNTRIED where nothing was sent yet. `show health` says why.
    Source: Perlbal manual, nodes. differs: connects counts only those that succeeded; the rows failures, active and state.
    """
    found: dict[str, list[tuple[str, Node]]] = {}
    for pool in session.world.pools.values():
        for each in pool.nodes:
            if node is None or each.endpoint == node:
                found.setdefault(each.name, []).append((pool.name, each))
    began = session.world.clock.epoch() - session.world.clock.now()
    now = session.world.clock.now()
    items = (_known(name, of, began, now) for name, of in found.items())
    return Objects(items, seen=_SEEN, units=dict.fromkeys(MOMENTS, Unit.MOMENT))


_SEEN = ("node", "pools", "state", "requests", "active", "connects", "failures", "lastresponse", "responsecodes")


def _known(name: str, of: list[tuple[str, Node]], began: float, now: float) -> Item:
    """One address, whichever pools it is in. `began`: the epoch at the clock's zero."""
    each = [node for _, node in of]
    last = (max(node.last_attempt for node in each), max(node.last_connect for node in each), max(node.last_response for node in each))
    codes: Tally[int] = Tally()
    for node in each:
        codes.update(node.window)
    connects, failures = sum(node.connects for node in each), sum(node.failures for node in each)
    facts: dict[str, object] = {key: int(began + at) if at else None for key, at in zip(MOMENTS, last, strict=True)}
    facts |= {"attempts": connects + failures, "connects": connects, "failures": failures, "verifies": 0}
    facts |= {"active": sum(node.active for node in each), "requests": sum(node.requests for node in each)}
    facts["state"] = "/".join(dict.fromkeys(node.verdict(now).word for node in each))
    lines = [f"{name} {key} {value}" for key, value in facts.items() if value is not None]
    lines += [f"{name} responsecodes {code} {number}" for code, number in sorted(codes.items())]
    counted = {str(code): number for code, number in sorted(codes.items())}
    return Item({"node": name, "pools": [pool for pool, _ in of], **facts, "responsecodes": counted}, tuple(lines))


@command
def backends(session: Session) -> Reply:
    """Show the number of connections to each node, those that are being made included.

    Source: Perlbal manual, backends.
    """
    tally = Tally(backend.node.name for backend in session.world.backends)
    tally.update(backend.node.name for _, backend in opening(session))
    return table("node connections", sorted(tally.items()))


@command
def pending(session: Session) -> Reply:
    """List the connections to nodes that are being made: service, node, age in seconds.

    Source: Perlbal manual, pending.
    """
    second = session.world.second
    rows = [(name, backend.node.name, second - backend.born) for name, backend in opening(session)]
    return table("service node age", rows, units={"age": Unit.SECONDS})


@command
def noverify(session: Session) -> Reply:
    """List the nodes whose new connections are not verified for a while: node, seconds left. pbal verifies none, and the list is empty.

    Source: Perlbal manual, noverify.
    """
    return table("node left", (), units={"left": Unit.SECONDS})


@command
def queues(session: Session) -> Reply:
    """Show how many clients wait for a backend of each reverse_proxy, and how many seconds the first has waited.

    Source: Perlbal manual, queues. highpri and lowpri are always empty.
    """
    columns = tuple(f"{queue}.{key}" for queue in ("normal", "highpri", "lowpri") for key in ("count", "age"))
    return Objects(_queues(session), seen=("service", *columns), units={"age": Unit.SECONDS})


def _queues(session: Session) -> Iterator[Item]:
    now = session.world.clock.now()
    for service in session.world.services.values():
        if service.role != "reverse_proxy":
            continue
        groups = service.handler.groups.all() if isinstance(service.handler, ReverseProxy) else []
        waiting = [seeker.started for group in groups for seeker in group.waiting]
        normal = {"age": int(now - min(waiting, default=now)), "count": len(waiting)}
        known = {"normal": normal, "highpri": {"age": 0, "count": 0}, "lowpri": {"age": 0, "count": 0}}
        lines = [f"{service.name}-{queue}.{key} {number}" for queue, facts in known.items() for key, number in facts.items()]
        yield Item({"service": service.name, **known}, tuple(lines))
