r"""atomstream: clients read a stream of items that never ends; the plugin atominject takes the items.

    LOAD atomstream
    LOAD atominject
    CREATE SERVICE updates
      SET role    = web_server
      SET listen  = 0.0.0.0:8080
      SET plugins = atomstream
    ENABLE updates
    CREATE SERVICE publishers
      SET role    = web_server
      SET listen  = 127.0.0.1:8081
      SET plugins = atominject
    ENABLE publishers

A GET of a path whose last segment is `atom-stream.xml` is answered with `<atomStream>` and then, for ever, with each item that is published
below that path: who reads /blogs/atom-stream.xml gets what is published as /blogs and as /blogs/anna/7, and not what is published as
/blogs2. Once a second comes `<time>EPOCH</time>`. A reader whose connection broke comes back with `?since=EPOCH`, the last time that it was
told: it gets the items of that second and all later ones of the last 60 seconds, so one may come twice, and none is left out.

A reader that is too slow, so that more than `atom_stream_buffer` waits for it, is left out, and told how many items it missed
(`<sorryTooSlow youMissed="N" />`) as soon as it has caught up.

Source: Perlbal's AtomStream. differs: the answer comes in chunks, and its connection can be used again; `since` counts from its second on;
a replay is bounded, and what it leaves out is told; `since` has to be a number; a path is compared decoded; a stream ends with
</atomStream> where the service is disabled.
"""

# An item has a number, and a reader the number of the last one that it was given or missed: where it stands is all that there is to
# know of it, and all that a RELOAD has to carry. Readers of one path are a room. What is published makes the rooms above its path due,
# and the second makes all of them due. What is due is worked off for A_TURN readers a turn of the loop; readers of a room who stand at the
# same place are sent the same octets, put together once.
#
# Items are kept for KEPT seconds and for `atom_stream_memory`. None goes that somebody has still to be given: while more than
# `atom_stream_buffer` of them has not gone round, the next is refused (atominject answers 503).

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from pbal.api import SIZE, Counter, Exchange, Explanation, Limit, Plugin, Tunable, Verdict, Waiting, hook

NAME: Final = b"/atom-stream.xml"
KEPT: Final = 60
"""Seconds for which an item is kept for who comes back, as in Perlbal."""
A_TURN: Final = 200
"""Readers that are written to in one turn of the loop, in some 2 ms."""
PROLOG: Final = b"<?xml version='1.0' encoding='utf-8' ?>\n<atomStream>\n"
END: Final = b"</atomStream>\n"
FIELDS: Final = ((b"Content-Type", b"text/xml"), (b"Cache-Control", b"no-store"), (b"X-Accel-Buffering", b"no"))


class Item(NamedTuple):
    """What was published."""

    number: int
    epoch: float
    path: bytes
    data: bytes


class Room:
    """The readers of one path."""

    __slots__ = ("again", "due", "members", "path", "todo")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.members: dict[Reader, None] = {}
        self.due = False
        """Whether its round has to come, or is under way."""
        self.todo: list[Reader] | None = None
        """Those who are still to be looked at in the round that is under way."""
        self.again = False
        """Whether something came while a round was under way."""

    def has(self, item: Item) -> bool:
        """Whether an item is for it: its path is that of the item, or a whole number of its first segments."""
        return item.path.startswith(self.path) and item.path[len(self.path) : len(self.path) + 1] in (b"", b"/")


class Reader:
    """A client that reads: what it is parked under."""

    __slots__ = ("at", "client", "missed", "plugin", "room", "told")

    def __init__(self, plugin: "AtomStream", room: Room, at: int, told: int, missed: int = 0) -> None:
        self.plugin = plugin
        self.room = room
        self.at = at
        """The number of the last item that it was given or missed."""
        self.told = told
        """The second that it was told last."""
        self.missed = missed
        self.client: Waiting | None = None

    def gone(self) -> None:
        """See Parked."""
        self.plugin.left(self)


class AtomStream(Plugin):
    """The readers of one service, and what was published lately."""

    roles = frozenset({"web_server", "reverse_proxy", "selector"})
    tunables = (
        Tunable("atom_stream_buffer", SIZE, default="256k", minimum="1k", unit="bytes", source="Perlbal's AtomStream",
                summary="A reader for whom more than this waits is left out, and told how many items it missed."),
        Tunable("atom_stream_memory", SIZE, default="4m", minimum="1k", unit="bytes", source="pbal",
                summary="Items of the last 60 seconds that are kept for readers who come back."),
    )  # fmt: skip
    counters = (
        Counter("atom_streams", "Readers of atom streams now.", gauge=True),
        Counter("atom_items", "Items published to the readers of a service."),
        Counter("atom_items_missed", "Items that a reader was not given because it was too slow. It is told."),
        Counter("atom_items_forgotten", "Items that were not kept for 60 seconds, because of atom_stream_memory."),
    )

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self._rooms: dict[bytes, Room] = {}
        self._kept: deque[Item] = deque()
        self._octets = 0
        self._number = 0
        self._forgotten = 0.0
        """Since when items are known: this is newer than the last one that was forgotten before its time."""
        self._going_round = 0
        """Octets of items that are going round."""
        self._due: deque[Room] = deque()
        self._second = 0
        self._working = self._carried = False
        self._timer: asyncio.TimerHandle | None = None
        self._made: tuple[Room | None, int, int, int, list[Item], bytes] = (None, 0, 0, 0, [], b"")
        self._adopted: dict[str, Any] = {}

    # -- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """See Plugin."""
        carried, self._adopted = self._adopted, {}
        if not carried:
            self._forgotten = self.world.clock.epoch()
            self._second = int(self._forgotten)
            return
        self._number, self._forgotten, self._second = carried["number"], carried["forgotten"], carried["second"]
        self._kept = deque(Item(*each) for each in carried["kept"])
        self._octets = sum(len(item.data) for item in self._kept)
        self._going_round = carried["going round"]
        for client, path, at, told, missed in carried["readers"]:
            reader = Reader(self, self._room(path), at, told, missed)
            reader.client = client
            reader.room.members[reader] = None
            client.repark(reader)
        for room in self._rooms.values():
            self._is_due(room)
        self._keep_time()

    def carry(self) -> dict[str, Any]:
        """See Plugin."""
        self._carried = True
        return {
            "number": self._number, "forgotten": self._forgotten, "second": self._second, "kept": [tuple(item) for item in self._kept],
            "going round": self._going_round,
            "readers": [
                (each.client, room.path, each.at, each.told, each.missed) for room in self._rooms.values() for each in room.members
            ],
        }  # fmt: skip

    def adopt(self, carried: dict[str, Any]) -> None:
        """See Plugin."""
        self._adopted = carried

    def resume(self) -> None:
        """See Plugin."""
        self._carried = False
        for room in self._rooms.values():
            for reader in room.members:
                if reader.client is not None:
                    reader.client.repark(reader)

    def close(self) -> None:
        """See Plugin."""
        if not self._carried:
            self.service_disabled()
        if self._timer is not None:
            self._timer.cancel()
        self._rooms, self._due = {}, deque()

    def service_disabled(self) -> None:
        """See Plugin."""
        for room in list(self._rooms.values()):
            for reader in list(room.members):
                client = reader.client
                self.left(reader)
                if client is not None:
                    client.finish(reader, END)

    # -- who reads -----------------------------------------------------------------------------------------------

    @hook.start_http_request
    def begin(self, exchange: Exchange) -> Verdict:
        path = exchange.plain_path
        if not path.endswith(NAME):
            return Verdict.PASS
        if exchange.method not in (b"GET", b"HEAD"):
            exchange.error(405, b"A stream can be read: GET.\n", [(b"Allow", b"GET, HEAD")])
            return Verdict.TAKEN
        said = since(exchange.request.query)
        if said is None:
            exchange.error(400, b"since is a whole number of seconds since 1970.\n")
            return Verdict.TAKEN
        room = self._room(path.removesuffix(NAME))
        beginning = self._beginning(room, said)
        reader = Reader(self, room, self._number, self._second)
        client = exchange.park(reader)
        if exchange.method == b"HEAD":
            client.begin(reader, 200, FIELDS, b"")
            client.finish(reader, b"")
            self._leave(room)
            return Verdict.TAKEN
        reader.client = client
        room.members[reader] = None
        self.counts["atom_streams"] += 1
        if not client.begin(reader, 200, FIELDS, beginning):
            self.left(reader)
        self._keep_time()
        return Verdict.TAKEN

    def _room(self, path: bytes) -> Room:
        return self._rooms.get(path) or self._rooms.setdefault(path, Room(path))

    def _leave(self, room: Room) -> None:
        """Somebody has left a room."""
        if not room.members:
            self._rooms.pop(room.path, None)

    def left(self, reader: Reader) -> None:
        """A reader is none any more."""
        if reader.client is not None:
            reader.client = None
            del reader.room.members[reader]
            self.counts["atom_streams"] -= 1
            self._leave(reader.room)

    def _beginning(self, room: Room, since: int) -> bytes:
        """What a reader is sent first. Of what it asks for, the newest comes, as far as `atom_stream_buffer` goes."""
        self._forget()
        parts = [PROLOG, b"<!-- since=%d -->\n" % since]
        if not since:
            return b"".join(parts)
        begin = max(self.world.clock.epoch() - KEPT, self._forgotten)
        if since < int(begin):
            parts.append(b"<!-- nothing is kept of before %d -->\n" % (int(begin) + 1))
        first = bisect_left(self._kept, float(since), key=lambda item: item.epoch)
        items = [item for item in list(self._kept)[first:] if room.has(item)]
        room_left, fitting = self.service["atom_stream_buffer"], 0
        for item in reversed(items):
            room_left -= len(item.data)
            if room_left < 0:
                break
            fitting += 1
        missed = len(items) - fitting
        if missed:
            self._left_out(missed)
            parts.append(sorry(missed))
        parts += [item.data for item in items[missed:]]
        return b"".join(parts)

    # -- what is published ---------------------------------------------------------------------------------------

    def busy(self) -> bool:
        """Whether the next item has to wait, because many are still going round."""
        return self._working and self._going_round > int(self.service["atom_stream_buffer"])

    def publish(self, path: bytes, data: bytes) -> None:
        """Give an item to everybody who reads at its path or above: to each within the next turns of the loop."""
        self._forget()
        self._number += 1
        now = self.world.clock.epoch()  # which may be set back
        item = Item(self._number, max(now, self._kept[-1].epoch) if self._kept else now, path, data)
        self._kept.append(item)
        self._octets += len(data)
        self._going_round += len(data)
        self.counts["atom_items"] += 1
        at = len(path)
        while at >= 0:
            room = self._rooms.get(path[:at])
            if room is not None:
                self._is_due(room)
            at = path.rfind(b"/", 0, at)
        if not self._working:
            self._going_round = 0

    def _forget(self) -> None:
        """Let go of items that nobody may ask for any more, and of the oldest where they are too many."""
        oldest, most, kept = self.world.clock.epoch() - KEPT, int(self.service["atom_stream_memory"]), self._kept
        while kept and not self._working and (kept[0].epoch < oldest or self._octets > most):
            item = kept.popleft()
            self._octets -= len(item.data)
            if item.epoch >= oldest:
                self._forgotten = item.epoch
                self.counts["atom_items_forgotten"] += 1
                self.world.log_limited(
                    f"atom memory {self.service.name}",
                    "service %(service)s: items are not kept for %(seconds)d seconds (atom_stream_memory)",
                    {"event": "atom_items_forgotten", "service": self.service.name, "seconds": KEPT},
                )

    # -- the rounds ----------------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        if self._timer is None and self._rooms:
            self._timer = asyncio.get_running_loop().call_later(1, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._second = int(self.world.clock.epoch())
        self._forget()
        for room in self._rooms.values():
            self._is_due(room)
        self._keep_time()

    def _is_due(self, room: Room) -> None:
        """There is something for a room."""
        if room.todo is not None:
            room.again = True
        elif not room.due:
            room.due = True
            self._due.append(room)
            if not self._working:
                self._working = True
                asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        """Write to who is due, as far as one turn goes."""
        left = A_TURN
        while self._due:
            room = self._due[0]
            if room.todo is None:
                room.todo = list(room.members)
            while room.todo:
                if not left:
                    asyncio.get_running_loop().call_soon(self._work)
                    return
                left -= 1
                self._give(room.todo.pop())
            self._due.popleft()
            room.todo, room.due, again, room.again = None, False, room.again, False
            if again:
                self._is_due(room)
        self._working = False
        self._going_round = 0
        self._made = (None, 0, 0, 0, [], b"")
        self._forget()

    def _give(self, reader: Reader) -> None:
        """Send a reader what is new since it was given something."""
        client = reader.client
        if client is None:
            return
        items, data = self._new(reader)
        if client.unsent(reader) > self.service["atom_stream_buffer"]:
            reader.at = self._number
            reader.missed += len(items)
            if items:
                self._left_out(len(items))
            return
        if reader.missed:
            data = sorry(reader.missed) + data
        if data and client.push(reader, data):
            reader.at, reader.told, reader.missed = self._number, self._second, 0

    def _left_out(self, missed: int) -> None:
        """A reader is not given items."""
        self.counts["atom_items_missed"] += missed
        self.world.log_limited(
            f"atom slow {self.service.name}",
            "service %(service)s: %(missed)d items were left out for a reader that is too slow (atom_stream_buffer)",
            {"event": "atom_items_missed", "service": self.service.name, "missed": missed},
        )

    def _new(self, reader: Reader) -> tuple[list[Item], bytes]:
        """What came since, and as octets; the same for all of a room who stand at one place."""
        room, at, told, number, items, data = self._made
        if (room, at, told, number) == (reader.room, reader.at, reader.told, self._number):
            return items, data
        items = []
        for item in reversed(self._kept):
            if item.number <= reader.at:
                break
            if reader.room.has(item):
                items.append(item)
        items.reverse()
        data = b"".join([item.data for item in items])
        if reader.told != self._second:
            data += b"<time>%d</time>\n" % self._second
        self._made = (reader.room, reader.at, reader.told, self._number, items, data)
        return items, data

    # -- being looked at -----------------------------------------------------------------------------------------

    def explain(self, exchange: Exchange) -> Explanation | None:
        """See Plugin."""
        path = exchange.plain_path
        if not path.endswith(NAME):
            return None
        return Explanation([f"a stream of what is published below {path.removesuffix(NAME).decode('utf-8', 'replace') or '/'}"], takes=True)

    def limits(self) -> Iterable[Limit]:
        """See Plugin."""
        name, values = self.service.name, self.service.values
        return (
            Limit(
                "atom bytes going round", name, self._going_round, values["atom_stream_buffer"],
                "503 for who publishes, counted in atom_items_refused (atom_stream_buffer)",
            ),
            Limit(
                "atom bytes kept", name, self._octets, values["atom_stream_memory"],
                "the oldest items go, counted in atom_items_forgotten (atom_stream_memory)",
            ),
        )  # fmt: skip


def sorry(missed: int) -> bytes:
    """What a reader is told who was left out."""
    return b'<sorryTooSlow youMissed="%d" />\n' % missed


def since(query: bytes) -> int | None:
    """The time that a reader asks for; 0 where it asks for none, None where that is no number."""
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"since":
            return int(value) if value.isdigit() and len(value) < 12 else None
    return 0
