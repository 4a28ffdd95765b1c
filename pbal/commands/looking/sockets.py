"""Queries about open connections. Shapes of lines: Perlbal manual, Management."""

from collections import Counter as Tally
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

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
    tally: Tally[tuple[str, str]] = Tally()
    async for thing in open_sockets(session):
        name, state, of = thing.kind()
        if service is None or of == service.name:
            tally[name, state] += 1
    waited = [backend for name, backend in opening(session) if service is None or name == service.name]
    tally.update(backend.kind()[:2] for backend in waited if backend.state == "connecting")
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
    # Only descriptors are collected: to describe fifteen thousand at once takes memory, and the collector's time.
    found = [(_descriptor(thing), thing) async for thing in open_sockets(session)]
    found.sort(key=itemgetter(0))
    seen = ("fd", "age", "class", "state", "service", "peer", "reqs", "backend", "url")
    return Objects(_items(found), header=("   fd    age",), seen=seen, units={"age": Unit.SECONDS})


def _descriptor(thing: Any) -> int:
    fd: int | None = getattr(thing, "fd", None)
    return thing.describe().fd if fd is None else fd


def _items(found: list[tuple[int, Any]]) -> Iterator[Item]:
    """What is still open when its line is written."""
    for fd, thing in found:
        if getattr(thing, "state", "") != "closed":
            info: SocketInfo = thing.describe()
            yield Item(info.fields(), (f"{fd:5d} {info.age:5d}s {info.text}",))


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
