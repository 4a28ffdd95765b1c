"""Queries about open connections. Shapes of lines: Perlbal manual, Management."""

from collections import Counter as Tally
from collections.abc import Iterator

from pbal.commands.looking.process import open_descriptors
from pbal.commands.looking.tables import open_sockets, opening, table
from pbal.commands.session import Session
from pbal.model.service import Service
from pbal.observe.sockets import SocketInfo, class_shown
from pbal.schema.commands import Facts, Item, Objects, Reply, command
from pbal.schema.people import Unit


@command
async def states(session: Session, service: Service | None = None) -> Reply:
    """Show how many connections of each class are in each state.

    Source: Perlbal manual, states. differs: listeners and consoles, too.
    """
    kinds = [thing.kind() async for thing in open_sockets(session)]
    kinds += [backend.kind() for _, backend in opening(session)]
    tally = Tally(kind[:2] for kind in kinds if service is None or kind[2] == service.name)
    return table("class state count", [(class_shown(name), state, number) for (name, state), number in sorted(tally.items())])


@command
def state_changes(session: Session) -> Reply:
    """List the states that each connection went through. pbal does not keep them, and the list is empty.

    Source: Perlbal manual, state changes. There, too, it is empty unless the environment asked for it at start.
    """
    return table("object states", (), lambda row: f"{row[0]}: {', '.join(row[1])}")


@command
async def socks(session: Session) -> Reply:
    """List every open connection, one per line, in the order of descriptors.

    Source: Perlbal manual, socks.
    """
    infos = sorted([thing.describe() async for thing in open_sockets(session)], key=lambda info: info.fd)
    seen = ("fd", "age", "class", "state", "service", "peer", "reqs", "backend", "url")
    return Objects(_items(infos), header=("   fd    age",), seen=seen, units={"age": Unit.SECONDS})


def _items(infos: list[SocketInfo]) -> Iterator[Item]:
    return (Item(info.fields(), (f"{info.fd:5d} {info.age:5d}s {info.text}",)) for info in infos)


@command
async def socks_summary(session: Session) -> Reply:
    """Show how many connections of each class are open, the bytes that clients have not taken yet, and the open descriptors.

    Source: Perlbal manual, socks summary.
    """
    tally: Tally[str] = Tally()
    unsent = 0
    async for thing in open_sockets(session):
        tally[class_shown(thing.kind()[0])] += 1
        unsent += getattr(thing, "unsent_octets", 0)
    used = await open_descriptors(session)
    lines = [f"{number:5d} {name}" for name, number in sorted(tally.items())]
    lines += [f"Aggregate write buffer: {unsent / 1024:.1f}k", f"            Open files: {used}"]
    facts = {"classes": dict(sorted(tally.items())), "write_buffer": unsent, "open_files": used}
    return Facts(facts, lines, {"write_buffer": Unit.OCTETS})
