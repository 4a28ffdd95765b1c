"""What the console can see of polls, and do to them."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from itertools import islice
from typing import TYPE_CHECKING, Any

from pbal.api import OK, CommandError, Reply, Rows, Service, Text, Unit, did_you_mean, resident_bytes

from . import publisher
from .delivery import TIME_IS_OVER
from .framing import split, wrap
from .hub import Hub
from .lot import QUARTER, Reader
from .names import BadName, key_for
from .positions import token
from .store import Seen, StoreError

if TYPE_CHECKING:
    from .plugin import Poll

SUGGESTED_FROM = 500
"""Queues of a service that a mistyped name is compared with."""
_TIMES = dict.fromkeys(("age", "left", "oldest", "leaves"), Unit.SECONDS) | {"bytes": Unit.OCTETS}
LOOKED_AT = 1000
"""Parked polls that are looked at in one turn of the loop: less than a millisecond."""
ENOUGH_TO_TELL = 1000
"""Parked polls from which on the growth of the process tells what one costs."""


def _polls(session: Any, service: Service | None = None) -> Iterator["Poll"]:
    """Poll instances, of one service or of all. Raises: CommandError."""
    found = [instance for of, instance in session.world.instances("poll") if service is None or of is service]
    if service is not None and not found:
        raise CommandError(f"service '{service.name}' does not run the plugin poll", "service_name")
    yield from found


def _name(hub: Hub, key: bytes) -> str:
    return key[len(hub.settings.prefix) :].decode("utf-8", "replace")


async def show_parked(session: Any, service: Service | None = None, glob: str | None = None, count: int | None = None) -> Reply:
    """List who waits: id, service, queues, client, age and time left (seconds), lookups in the store, transport. LIKE matches queue names.

    The client is the peer's address and port. Behind trusted proxies it is the address that they say.
    """

    hubs = [instance.hub for instance in _polls(session, service)]
    found: Iterable[tuple[Hub, Reader]] = ((hub, reader) for hub in hubs for reader in hub.lot)
    if glob is not None:
        found = await _on_queues(glob, found, count)
    rows = (_parked_row(session, hub, reader) for hub, reader in islice(found, count) if reader.lot is not None)
    columns = ("id", "service", "queues", "client", "age", "left", "looks", "transport")
    return Rows(columns, rows, lambda r: f"{r[0]} {r[1]} {','.join(r[2])} {r[3]} {r[4]}s {r[5]}s {r[6]} {r[7]}", units=_TIMES)


async def _on_queues(glob: str, readers: Iterable[tuple[Hub, Reader]], count: int | None) -> list[tuple[Hub, Reader]]:
    """Those that wait for a queue with such a name, `count` at most. Very many are looked at in pieces: none of them may fit."""
    wanted = re.compile(translate(glob).encode("utf-8", "surrogatepass"))
    found: list[tuple[Hub, Reader]] = []
    for number, (hub, reader) in enumerate(readers, 1):
        if count is not None and len(found) >= count:
            break
        if any(wanted.match(key, len(hub.settings.prefix)) for key in reader.all_keys()):
            found.append((hub, reader))
        if number % LOOKED_AT == 0:
            await asyncio.sleep(0)
    return found


def _parked_row(session: Any, hub: Hub, reader: Reader) -> tuple[object, ...]:
    now = session.world.clock.now()
    looks = 1 + max(0, hub.store.sweeps - reader.first_sweep)
    client = reader.address.decode() or ("" if reader.client is None else reader.client.peer_name)
    queues = [_name(hub, key) for key in reader.all_keys()]
    left = max(0, round(reader.deadline / QUARTER - now))
    return (reader.id, hub.service.name, queues, client, int(now - reader.since / QUARTER), left, looks, reader.transport)


async def show_parked_summary(session: Any) -> Reply:
    """Show the parked polls of each service: how many, on how many queues, the age of the oldest (seconds), bytes per poll.

    Bytes per poll is the growth of the process since the service opened, divided by the parked polls; 0 if there are too few.
    """
    total = session.world.counters.counts["poll_parked"]
    resident = resident_bytes()
    now = session.world.clock.now()
    rows = []
    for instance in _polls(session):
        lot = instance.hub.lot
        since = now * QUARTER
        for number, reader in enumerate(lot, 1):
            since = min(since, reader.since)
            if number % LOOKED_AT == 0:
                await asyncio.sleep(0)
        oldest = int(now - since / QUARTER)
        size = max(0, resident - instance.resident_at_open) // total if total >= ENOUGH_TO_TELL else 0
        rows.append((instance.service.name, lot.count, len(lot.queues()), oldest, size))
    columns = ("service", "parked", "queues", "oldest", "bytes")
    return Rows(
        columns, rows, lambda r: f"{r[0]} parked {r[1]} queues {r[2]} oldest {r[3]}s" + (f" bytes {r[4]}" if r[4] else ""), units=_TIMES
    )


async def show_queue(session: Any, service: Service, queue: str) -> Reply:
    """Show the messages that wait in a queue, one per line, and leave them there."""
    hub = next(_polls(session, service)).hub
    key = _key(hub, queue)
    found: asyncio.Future[Seen | StoreError] = asyncio.get_running_loop().create_future()
    hub.store.look(key, found.set_result)
    seen = await found
    if isinstance(seen, StoreError):
        raise CommandError(str(seen))
    messages, framed = split(seen.value, hub.settings.framing)
    rows = [(number, message.decode("utf-8", "replace")) for number, message in enumerate(messages, 1)]
    head = f"{queue}: {len(seen.value)} bytes, {len(messages)} messages" + ("" if framed else ", not framed as poll_framing says")
    if seen.place is not None:
        head += f", position {token([seen.place]).decode()}"
    return Rows(("number", "message"), rows, lambda r: f"{r[0]} {r[1]!r}", head=(head,))


def show_store(session: Any) -> Reply:
    """Show each service's store: state and since when, sweeps, keys and milliseconds of the last sweep, the watch and its lag.

    The state of a memcached is up, down, or full (it stores nothing). Its line ends with the number of errors and the last one, and
    with its round trips: how many, and the milliseconds that half and 99 of 100 of them took at most.
    """
    rows: list[tuple[object, ...]] = []
    for instance in _polls(session):
        hub = instance.hub
        name = instance.service.name
        rows += ((name, *row) for row in hub.store.rows(session.world.clock.now()))
        for share, label in ((0.5, "median"), (0.99, "p99")):
            if hub.store_to_answer.count:
                milliseconds = round(hub.store_to_answer.percentile(share), 2)
                rows.append((name, "store-to-answer", label, 0, 0, milliseconds, "off", 0.0, f"{milliseconds} ms", 0, None, None, 0, None))
    columns = (
        "service", "store", "state", "since", "sweep_keys", "sweep_ms", "watch", "lag_ms", "detail", "round_trips", "median_ms", "p99_ms",
        "errors", "last_error",
    )  # fmt: skip
    seen = ("service", "store", "state", "since", "median_ms", "p99_ms", "lag_ms", "errors", "detail")
    return Rows(columns, rows, lambda r: f"{r[0]} {r[1]} {r[2]} {r[8]}", units={"since": Unit.SECONDS}, seen=seen)


def show_presence(session: Any, service: Service | None = None, glob: str | None = None) -> Reply:
    """List the queues that are present here (poll_presence): service, queue, readers, seconds until it leaves; - while somebody waits."""
    wanted = None if glob is None else re.compile(translate(glob))
    rows: list[tuple[object, ...]] = []
    for instance in _polls(session, service):
        hub = instance.hub
        for key, left in hub.presence.list():
            name = _name(hub, key)
            if wanted is None or wanted.match(name):
                rows.append((hub.service.name, name, hub.lot.number(key), None if left is None else round(left, 1)))
    columns = ("service", "queue", "readers", "leaves")
    return Rows(columns, rows, lambda r: f"{r[0]} {r[1]} {r[2]} {'-' if r[3] is None else f'{r[3]}s'}", units=_TIMES)


def _key(hub: Hub, queue: str) -> bytes:
    try:
        return key_for(queue.encode("utf-8", "replace"), hub.settings.prefix)
    except BadName as error:
        raise CommandError(str(error), "queue") from None


def _targets(session: Any, target: str) -> list[tuple[Hub, list[Reader]]]:
    """The readers meant by a number or a queue name, by service. Raises: CommandError."""
    hubs = [instance.hub for instance in _polls(session)]
    for hub in hubs:
        reader = hub.lot.find(target)
        if reader is not None:
            return [(hub, [reader])]
    found = [(hub, readers) for hub in hubs if (readers := hub.lot.waiting(hub.settings.prefix + target.encode("utf-8", "replace")))]
    if not found:
        queues = [_name(hub, key) for hub in hubs for key in islice(hub.lot.queues(), SUGGESTED_FROM)]
        raise CommandError(f"no poll is parked with the id or queue '{target}'", "target", did_you_mean(target, queues))
    return found


def poll_answer(session: Any, target: str, text: str | None = None) -> Reply:
    """Answer a parked poll now, with TEXT as its message or with the empty answer."""
    for hub, readers in _targets(session, target):
        if text is None:
            hub.finish_all(readers, TIME_IS_OVER)
        else:
            hub.give_by_hand(readers, wrap(text.encode(), hub.settings.framing))
    return OK


def poll_kick(session: Any, target: str) -> Reply:
    """Close a parked poll's connection without an answer."""
    for hub, readers in _targets(session, target):
        hub.kick(readers)
    return OK


def poll_wake(session: Any, queue: str) -> Reply:
    """Look in the store for messages of a queue now."""
    for instance in _polls(session):
        instance.hub.store.wake(_key(instance.hub, queue))
    return OK


async def poll_publish(session: Any, service: Service, queue: str, text: str) -> Reply:
    """Store a message, as a publish over HTTP does."""
    hub = next(_polls(session, service)).hub
    key = _key(hub, queue)
    try:
        message = publisher.check(hub, text.encode())
    except publisher.Refused as error:
        raise CommandError(str(error), "text") from None
    stored: asyncio.Future[publisher.Receipt | StoreError] = asyncio.get_running_loop().create_future()
    publisher.publish(hub, [(key, message)], lambda receipts, failed: stored.set_result(failed or receipts[0]))
    receipt = await stored
    if isinstance(receipt, StoreError):
        raise CommandError(str(receipt))
    return Text([publisher.receipt_line(receipt).decode().strip()], end_dot=False)


COMMANDS = (show_parked, show_parked_summary, show_queue, show_store, show_presence, poll_answer, poll_kick, poll_wake, poll_publish)
