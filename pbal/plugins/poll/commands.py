"""What the console can see of polls, and do to them."""

import re
from collections.abc import Iterator
from fnmatch import translate
from itertools import islice
from typing import TYPE_CHECKING, Any

from pbal.api import OK, CommandError, Reply, Rows, Service, Text, did_you_mean, resident_bytes

from .framing import split
from .lot import QUARTER, Parked
from .names import BadName, key_for
from .store import StoreError

if TYPE_CHECKING:
    from .plugin import Poll

SUGGESTED_FROM = 500
"""Queues of a service that a mistyped name is compared with."""
ENOUGH_TO_TELL = 1000
"""Parked polls from which on the growth of the process tells what one costs."""


def _polls(session: Any, service: Service | None = None) -> Iterator["Poll"]:
    """Poll instances, of one service or of all. Raises: CommandError."""
    found = [instance for of, instance in session.world.instances("poll") if service is None or of is service]
    if service is not None and not found:
        raise CommandError(f"service '{service.name}' does not run the plugin poll", "service_name")
    yield from found


def _name(poll: "Poll", key: bytes) -> str:
    return key[len(poll.settings.prefix) :].decode("utf-8", "replace")


def show_parked(session: Any, service: Service | None = None, glob: str | None = None, count: int | None = None) -> Reply:
    """List parked polls: id, service, queues, client, age and time left (seconds), lookups in the store. LIKE matches queue names.

    The client is the peer's address and port. Behind trusted proxies it is the address that they say.
    """

    wanted = None if glob is None else re.compile(translate(glob).encode("utf-8", "surrogatepass"))

    def rows() -> Iterator[tuple[object, ...]]:
        shown = 0
        for instance in _polls(session, service):
            for poll in instance.lot:
                if count is not None and shown >= count:
                    return
                if wanted is None or any(wanted.match(key, len(instance.settings.prefix)) for key in poll.all_keys()):
                    shown += 1
                    yield _parked_row(session, instance, poll, [_name(instance, key) for key in poll.all_keys()])

    if service is not None:
        list(_polls(session, service))
    columns = ("id", "service", "queues", "client", "age", "left", "looks")
    return Rows(columns, rows(), lambda r: f"{r[0]} {r[1]} {','.join(r[2])} {r[3]} {r[4]}s {r[5]}s {r[6]}")


def _parked_row(session: Any, instance: "Poll", poll: Parked, queues: list[str]) -> tuple[object, ...]:
    world = session.world
    left = max(0, round(poll.deadline / QUARTER - world.clock.now()))
    looks = 1 if instance.courier is None else 1 + max(0, instance.courier.sweeps - poll.first_sweep)
    return (
        poll.id,
        instance.service.name,
        queues,
        poll.address.decode() or ("" if poll.client is None else poll.client.peer_name),
        world.second - poll.since,
        left,
        looks,
    )


def show_parked_summary(session: Any) -> Reply:
    """Show the parked polls of each service: how many, on how many queues, the age of the oldest (seconds), bytes per poll.

    Bytes per poll is the growth of the process since the service opened, divided by the parked polls; 0 if there are too few.
    """
    total = session.world.counters.counts["poll_parked"]
    resident = resident_bytes()
    rows = []
    for instance in _polls(session):
        lot = instance.lot
        oldest = max((session.world.second - poll.since for poll in lot), default=0)
        size = max(0, resident - instance.resident_at_open) // total if total >= ENOUGH_TO_TELL else 0
        rows.append((instance.service.name, lot.count, len(lot.queues()), oldest, size))
    columns = ("service", "parked", "queues", "oldest", "bytes")
    return Rows(columns, rows, lambda r: f"{r[0]} parked {r[1]} queues {r[2]} oldest {r[3]}s" + (f" bytes {r[4]}" if r[4] else ""))


async def show_queue(session: Any, service: Service, queue: str) -> Reply:
    """Show the messages that wait in a queue, one per line, and leave them there."""
    instance = next(_polls(session, service))
    key = _key(instance, queue)
    try:
        value = instance.memory.peek(key) if instance.memory is not None else await _courier(instance).store.peek(key)
    except StoreError as error:
        raise CommandError(str(error)) from None
    messages, framed = split(value, instance.settings.framing)
    rows = [(number, message.decode("utf-8", "replace")) for number, message in enumerate(messages, 1)]
    head = (f"{queue}: {len(value)} bytes, {len(messages)} messages" + ("" if framed else ", not framed as poll_framing says"),)
    return Rows(("number", "message"), rows, lambda r: f"{r[0]} {r[1]!r}", head=head)


def show_store(session: Any) -> Reply:
    """Show each service's store: state and since when, sweeps, keys and milliseconds of the last sweep, the watch and its lag.

    The state of a memcached is up, down, or full (it stores nothing). Its line ends with the number of errors and the last one.
    """
    rows: list[tuple[object, ...]] = []
    for instance in _polls(session):
        name = instance.service.name
        if instance.memory is not None:
            facts = instance.memory.describe()
            rows.append((name, "memory", "up", 0, 0, 0.0, "off", 0.0, f"{facts['queues']} queues {facts['octets']} bytes"))
        elif instance.courier is not None:
            rows += _memcached_rows(session, name, instance)
        for share, label in ((0.5, "median"), (0.99, "p99")):
            if instance.store_to_answer.count:
                milliseconds = round(instance.store_to_answer.percentile(share), 2)
                rows.append((name, "store-to-answer", label, 0, 0, milliseconds, "off", 0.0, f"{milliseconds} ms"))
    columns = ("service", "store", "state", "since", "sweep_keys", "sweep_ms", "watch", "lag_ms", "detail")
    return Rows(columns, rows, lambda r: f"{r[0]} {r[1]} {r[2]} {r[8]}")


def _memcached_rows(session: Any, name: str, instance: "Poll") -> Iterator[tuple[object, ...]]:
    courier = _courier(instance)
    for lane in courier.lanes:
        server, watcher = lane.server, lane.watcher
        since = int(session.world.clock.now() - server.since)
        watch = watcher.state if instance.settings.watch else "off"
        lag = round(watcher.lag * 1000, 1)
        detail = (
            f"since {since}s sweeps {courier.sweeps} keys {lane.last_sweep_keys}"
            f" last {lane.last_sweep_ms:.1f}ms watch {watch} lag {lag}ms errors {server.errors}"
        )
        if server.last_error:
            detail += f", the last: {server.last_error}"
        yield (name, server.name, server.state, since, lane.last_sweep_keys, round(lane.last_sweep_ms, 1), watch, lag, detail)


def _courier(instance: "Poll") -> Any:
    return instance.courier


def _key(instance: "Poll", queue: str) -> bytes:
    try:
        return key_for(queue.encode("utf-8", "replace"), instance.settings.prefix)
    except BadName as error:
        raise CommandError(str(error), "queue") from None


def _targets(session: Any, target: str) -> list[tuple["Poll", list[Parked]]]:
    """The polls meant by a number or a queue name, by service. Raises: CommandError."""
    found: list[tuple[Poll, list[Parked]]] = []
    for instance in _polls(session):
        poll = instance.lot.find(target)
        key = instance.settings.prefix + target.encode("utf-8", "replace")
        polls = list(instance.lot.waiting(key)) if poll is None else [poll]
        if polls:
            found.append((instance, polls))
    if not found:
        queues = [_name(instance, key) for instance in _polls(session) for key in islice(instance.lot.queues(), SUGGESTED_FROM)]
        raise CommandError(f"no poll is parked with the id or queue '{target}'", "target", did_you_mean(target, queues))
    return found


def poll_answer(session: Any, target: str, text: str | None = None) -> Reply:
    """Answer a parked poll now, with TEXT as its message or with the empty answer."""
    for instance, polls in _targets(session, target):
        instance.answer_by_hand(polls, text)
    return OK


def poll_kick(session: Any, target: str) -> Reply:
    """Close a parked poll's connection without an answer."""
    for instance, polls in _targets(session, target):
        instance.kick(polls)
    return OK


def poll_wake(session: Any, queue: str) -> Reply:
    """Look in the store for messages of a queue now."""
    for instance in _polls(session):
        instance.wake(_key(instance, queue))
    return OK


async def poll_publish(session: Any, service: Service, queue: str, text: str) -> Reply:
    """Store a message, as a publish over HTTP does."""
    instance = next(_polls(session, service))
    try:
        receipt = await instance.publish_by_hand(_key(instance, queue), text.encode())
    except StoreError as error:
        raise CommandError(str(error)) from None
    return Text([receipt.decode().strip()], end_dot=False)


COMMANDS = (show_parked, show_parked_summary, show_queue, show_store, poll_answer, poll_kick, poll_wake, poll_publish)
