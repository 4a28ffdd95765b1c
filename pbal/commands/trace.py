"""`trace`: follow live what happens to a client, a service or a queue, one line an event, until a line comes.

The answer is a Live one: the console writes what comes, and ends it (console/connection.py). What is told, and what it costs while nobody
follows, stands in observe/tracer.py.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from ipaddress import ip_address

from pbal.commands.session import Session
from pbal.model.world import World
from pbal.observe.log import escape
from pbal.observe.tracer import CLIENT, QUEUE, SERVICE, Event, Follower
from pbal.schema.commands import CommandError, Live, Reply, command


@command
def trace(session: Session, whom: str, trace_kind: str | None = None) -> Reply:
    """Follow what happens to a client, a service or a queue: one line an event, until Enter (any line ends it, and is carried out then).

    WHOM is the name of a service; an address, with a port for one connection; or the name of a queue. What it is can be said before it:
    `trace queue lobby`. A line has the time, the client's address and port, the service, and what happened: accepted, request, handed on,
    connecting, connect failed, asked, node answered, node failed, parked, waits, published, given, written, answered, refused, ended,
    closed. Of a queue it has what happens to those that wait for it. Who reads too slowly is told how many lines were lost.
    """
    world = session.world
    client = _client(whom)
    kind = _kind(world, whom, client) if trace_kind is None else _KINDS[trace_kind.lower()]
    if kind is CLIENT and not client:
        raise CommandError(f"expected an address, found '{whom}'", "whom")
    name = world.service(whom).name if kind is SERVICE else client if kind is CLIENT else whom
    session.runtime()
    follower = Follower(kind, name, lambda: None)
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
                ends = bool(stopped)
                events, lost = follower.take()
                if events or lost:
                    yield _told(events, lost, as_json)
                if ends:
                    return
                await ready.wait()
                ready.clear()
        finally:
            world.unfollow(follower)

    return Live(lines, stop)


_KINDS = {CLIENT: CLIENT, SERVICE: SERVICE, QUEUE: QUEUE}


def _kind(world: World, whom: str, client: str) -> str:
    """What a word names. Raises: UnknownName."""
    if whom.lower() in world.services:
        return SERVICE
    if client:
        return CLIENT
    if not any(plugin == "poll" for service in world.services.values() for plugin, _ in service.plugins):
        world.service(whom)  # which says that there is none, and what was meant
    return QUEUE


def _client(whom: str) -> str:
    """An address, or an address and a port, without brackets; "" if it is neither."""
    bare = whom.strip("[]")
    if _is_address(bare):
        return bare
    host, _, port = whom.rpartition(":")
    host = host.strip("[]")
    return f"{host}:{port}" if port.isdecimal() and _is_address(host) else ""


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
