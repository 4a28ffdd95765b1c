"""Queries about nodes, and about who waits for one. Shapes of lines: Perlbal manual, Management."""

from collections import Counter as Tally

from pbal.commands.looking.tables import Row, table
from pbal.commands.session import Session
from pbal.model.pool import Node
from pbal.schema.commands import Reply, command
from pbal.schema.types import Endpoint


@command
def nodes(session: Session, node: Endpoint | None = None) -> Reply:
    """Show what pbal knows of each node. Times are in seconds since 1970.

    Source: Perlbal manual, nodes. differs: connects counts only those that succeeded.
    """
    rows: list[Row] = []
    began = session.world.clock.epoch() - session.world.clock.now()
    for pool in session.world.pools.values():
        for each in pool.nodes:
            if node is not None and each.endpoint != node:
                continue
            rows += [(each.name, f"last{key}", int(began + at)) for key, at in _last(each) if at]
            rows += [
                (each.name, "attempts", each.connects + each.failures),
                (each.name, "connects", each.connects),
                (each.name, "failures", each.failures),
                (each.name, "active", each.active),
                (each.name, "requests", each.requests),
            ]
            rows += [(each.name, f"responsecodes {code}", number) for code, number in sorted(each.responses.items())]
    return table("node key value", rows)


def _last(node: Node) -> tuple[tuple[str, float], ...]:
    return ("attempt", node.last_attempt), ("connect", node.last_connect), ("response", node.last_response)


@command
def backends(session: Session) -> Reply:
    """Show the number of open connections to each node.

    Source: Perlbal manual, backends.
    """
    tally = Tally(backend.node.name for backend in session.world.backends)
    return table("node connections", sorted(tally.items()))


@command
def queues(session: Session) -> Reply:
    """Show how many clients wait for a backend of each reverse_proxy, and how many seconds the first has waited.

    Source: Perlbal manual, queues. highpri and lowpri are always empty.
    """
    now = session.world.clock.now()
    rows: list[Row] = []
    for service in session.world.services.values():
        waiting = getattr(service.handler, "waiting", None)
        if service.role != "reverse_proxy":
            continue
        first = next(iter(waiting), None) if waiting else None
        for name, age, count in (
            ("normal", int(now - first.started) if first is not None else 0, len(waiting or ())),
            ("highpri", 0, 0),
            ("lowpri", 0, 0),
        ):
            rows += [(service.name, f"{name}.age", age), (service.name, f"{name}.count", count)]
    return table("service key value", rows, lambda row: f"{row[0]}-{row[1]} {row[2]}")
