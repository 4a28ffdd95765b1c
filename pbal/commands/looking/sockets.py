"""Queries about open connections. Shapes of lines: Perlbal manual, Management."""

from collections import Counter as Tally

from pbal.commands.looking.tables import open_sockets, table
from pbal.commands.session import Session
from pbal.model.service import Service
from pbal.schema.commands import Reply, command


@command
async def states(session: Session, service: Service | None = None) -> Reply:
    """Show how many connections of each class are in each state.

    Source: Perlbal manual, states.
    """
    kinds = [thing.kind() async for thing in open_sockets(session)]
    tally = Tally(kind[:2] for kind in kinds if service is None or kind[2] == service.name)
    return table("class state count", [(*key, number) for key, number in sorted(tally.items())])


@command
async def socks(session: Session) -> Reply:
    """List every open connection, one per line, in the order of descriptors.

    Source: Perlbal manual, socks.
    """
    infos = sorted([thing.describe() async for thing in open_sockets(session)], key=lambda info: info.fd)
    rows = ((info.fd, info.age, info.class_name, info.state, info.service, info.text) for info in infos)
    return table("fd age class state service text", rows, lambda row: f"{row[0]:5d} {row[1]:5d}s {row[5]}", head=("   fd    age",))


@command
async def socks_summary(session: Session) -> Reply:
    """Show how many connections of each class are open.

    Source: Perlbal manual, socks summary.
    """
    tally: Tally[str] = Tally()
    buffered = 0
    async for thing in open_sockets(session):
        tally[thing.kind()[0]] += 1
        buffered += getattr(thing, "unsent_octets", 0)
    tail = ("", f"Aggregate write buffer: {buffered / 1024:.1f}k", f"            Open files: {sum(tally.values())}")
    return table("count class", [(number, name) for name, number in sorted(tally.items())], lambda row: f"{row[0]:5d} {row[1]}", tail=tail)
