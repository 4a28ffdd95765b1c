"""Queries about nodes, and about who waits for one. Shapes of lines: Perlbal manual, Management."""

from collections import Counter as Tally
from collections.abc import Iterator
from math import ceil

from pbal.commands.looking.tables import groups, opening, table
from pbal.commands.session import Session
from pbal.model.pool import Node
from pbal.schema.commands import Item, Objects, Reply, command
from pbal.schema.people import Unit
from pbal.schema.types import Endpoint

MOMENTS = ("lastattempt", "lastconnect", "lastresponse")


@command
def nodes(session: Session, node: Endpoint | None = None) -> Reply:
    """Show what pbal knows of each node. Times are in seconds since 1970, the response codes those of its last 500 responses.

    On a terminal and AS JSON there is the state, too: UP, DOWN, DRAIN or MAINT, in each of its pools; UNTRIED where nothing was sent yet.
    `show health` says why.
    Source: Perlbal manual, nodes. differs: connects counts only those that succeeded; the rows failures and active.
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
    facts |= {"attempts": connects + failures, "connects": connects, "failures": failures, "verifies": sum(node.verifies for node in each)}
    facts |= {"active": sum(node.active for node in each), "requests": sum(node.requests for node in each)}
    lines = [f"{name} {key} {value}" for key, value in facts.items() if value is not None]  # a monitor of Perlbal's reads numbers there
    facts["state"] = "/".join(dict.fromkeys(node.verdict(now).word for node in each))
    lines += [f"{name} responsecodes {code} {number}" for code, number in sorted(codes.items())]
    counted = {str(code): number for code, number in sorted(codes.items())}
    return Item({"node": name, "pools": [pool for pool, _ in of], **facts, "responsecodes": counted}, tuple(lines))


@command
def backends(session: Session) -> Reply:
    """Show the number of connections to each node, those that are being made included.

    Source: Perlbal manual, backends.
    """
    tally = Tally(backend.node.name for backend in session.world.backends)
    tally.update(backend.node.name for _, backend in opening(session) if backend.state == "connecting")
    return table("node connections", sorted(tally.items()))


@command
def pending(session: Session) -> Reply:
    """List the connections to nodes that are being made or verified: service, node, age in seconds.

    Source: Perlbal manual, pending.
    """
    second = session.world.second
    rows = [(name, backend.node.name, second - backend.born) for name, backend in opening(session)]
    return table("service node age", rows, units={"age": Unit.SECONDS})


@command
def noverify(session: Session) -> Reply:
    """List the nodes whose new connections verify_backend does not ask for a while: node, seconds left.

    A node gets here by not keeping a connection open after OPTIONS.

    Source: Perlbal manual, noverify.
    """
    now = session.world.clock.now()
    left: dict[str, int] = {}
    for _, group in groups(session):
        for node, until in group.dialer.unasked.items():
            if until > now:
                left[node.name] = max(left.get(node.name, 0), ceil(until - now))
    return table("node left", sorted(left.items()), units={"left": Unit.SECONDS})


@command
def queues(session: Session) -> Reply:
    """Show how many clients wait for a backend of each reverse_proxy, by class, and how many seconds the first of each has waited.

    Source: Perlbal manual, queues. differs: clients that have left are not counted.
    """
    columns = tuple(f"{queue}.{key}" for queue in ("normal", "highpri", "lowpri") for key in ("count", "age"))
    return Objects(_queues(session), seen=("service", *columns), units={"age": Unit.SECONDS})


def _queues(session: Session) -> Iterator[Item]:
    for service in session.world.services.values():
        if service.role != "reverse_proxy":
            continue
        known = {name: {"age": age, "count": count} for name, (count, age) in service.queues().items()}
        lines = [f"{service.name}-{queue}.{key} {number}" for queue, facts in known.items() for key, number in facts.items()]
        yield Item({"service": service.name, **known}, tuple(lines))
