"""`trace`: follow live what happens to a client, a service or a queue, one line an event, until a line comes.

The answer is a Live one: the console writes what comes, and ends it (console/connection.py). What is told, and what it costs while nobody
follows, stands in observe/tracer.py.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from ipaddress import ip_address

from pbal.commands.session import Session
from pbal.model.world import World
from pbal.observe.log import escape
from pbal.observe.tracer import CLIENT, QUEUE, SERVICE, Event, Follower
from pbal.schema.commands import Live, Reply, command

_ADDRESS = re.compile(r"\[?([0-9A-Fa-f:.]+?)\]?(?::\d+)?")


@command
def trace(session: Session, whom: str, trace_kind: str | None = None) -> Reply:
    """Follow what happens to a client, a service or a queue: one line an event, until Enter (any line ends it, and is carried out then).

    WHOM is the name of a service; an address, with a port for one connection; or the name of a queue. What it is can be said before it:
    `trace queue lobby`. A line has the time, the client's address and port, the service, and what happened: accepted, request, handed on,
    connecting, connect failed, asked, node answered, node failed, parked, waits, published, given, answered, refused, ended, closed. Of a
    queue it has what happens to those that wait for it. Who reads too slowly is told how many lines were lost.
    """
    world = session.world
    kind = _kind(world, whom) if trace_kind is None else {each.upper(): each for each in (CLIENT, SERVICE, QUEUE)}[trace_kind.upper()]
    name = world.service(whom).name if kind is SERVICE else whom
    session.runtime()
    follower = Follower(kind, name.strip("[]") if kind is CLIENT and not name.rpartition("]")[2] else name, lambda: None)
    ready = asyncio.Event()
    follower.wake = ready.set
    stopped: list[bool] = []

    def stop() -> None:
        stopped.append(True)
        ready.set()

    async def lines(as_json: bool) -> AsyncGenerator[list[str], None]:
        world.follow(follower)
        try:
            if not as_json:
                yield [f"following {kind} {name}: Enter ends it"]
            while True:
                events, lost = follower.take()
                if events or lost:
                    yield _told(events, lost, as_json)
                elif stopped:
                    return
                else:
                    await ready.wait()
                    ready.clear()
        finally:
            world.unfollow(follower)

    return Live(lines, stop)


def _kind(world: World, whom: str) -> str:
    """What a word names. Raises: UnknownName."""
    if whom.lower() in world.services:
        return SERVICE
    address = _ADDRESS.fullmatch(whom)
    if address is not None and _is_address(address[1]):
        return CLIENT
    if not any(plugin == "poll" for service in world.services.values() for plugin, _ in service.plugins):
        world.service(whom)  # which says that there is none, and what was meant
    return QUEUE


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _told(events: list[Event], lost: int, as_json: bool) -> list[str]:
    """Lines of events."""
    if as_json:
        lines = [json.dumps(event._asdict()) for event in events]
        return lines + ([json.dumps({"lost": lost})] if lost else [])
    lines = [_line(event) for event in events]
    return lines + ([f"{lost} lines lost: they were read too slowly"] if lost else [])


def _line(event: Event) -> str:
    when = datetime.fromtimestamp(event.at, UTC).strftime("%H:%M:%S.%f")[:-3]
    line = f"{when} {event.client or '-'} {event.service} {event.what}"
    if event.queues:
        line += " " + ",".join(event.queues)
    if event.detail:
        line += f": {event.detail}"
    return escape(line)
