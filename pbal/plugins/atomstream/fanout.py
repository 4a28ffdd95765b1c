"""Items on their way to readers.

An item has a number, and a reader the number of the last one that it was given or missed: where it stands is all that there is to
know of it, and all that a RELOAD has to carry. Readers of one path are a room. What is published makes the rooms above its path due,
and the second makes all of them due. What is due is worked off for A_TURN readers a turn of the loop; readers of a room who stand at the
same place are sent the same octets, put together once. Rooms come in the order in which they became due; when all that were due at one
moment have been worked off, everybody has been given, or has missed, what was published before it.

Items are kept for KEPT seconds and for `atom_stream_memory`. None goes that somebody has still to be given: while more than
`atom_stream_buffer` of them has not gone round, the next is refused (atominject answers 503).
"""

import asyncio
from bisect import bisect_left
from collections import deque
from typing import Any, Final, NamedTuple

from pbal.api import Service, Waiting, World

KEPT: Final = 60
"""Seconds for which an item is kept for who comes back, as in Perlbal."""
A_TURN: Final = 200
"""Readers that are written to in one turn of the loop, in some 2 ms."""
PROLOG: Final = b"<?xml version='1.0' encoding='utf-8' ?>\n<atomStream>\n"
END: Final = b"</atomStream>\n"


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

    __slots__ = ("at", "client", "fanout", "missed", "room", "told")

    def __init__(self, fanout: "Fanout", room: Room, at: int, told: int, missed: int = 0) -> None:
        self.fanout = fanout
        self.room = room
        self.at = at
        """The number of the last item that it was given or missed."""
        self.told = told
        """The second that it was told last."""
        self.missed = missed
        self.client: Waiting | None = None

    def gone(self) -> None:
        """See Parked."""
        self.fanout.left(self)


class Fanout:
    """What was published to one service lately, and who reads it."""

    def __init__(self, service: Service, world: World) -> None:
        self.service = service
        self.world = world
        self.counts = world.counters.counts
        self._rooms: dict[bytes, Room] = {}
        self._kept: deque[Item] = deque()
        self.octets = 0
        """Of the items that are kept."""
        self._number = 0
        self._forgotten = world.clock.epoch()
        """Since when items are known: this is newer than the last one that was forgotten before its time."""
        self._safe = 0
        """The number of the last item that has gone round."""
        self.going_round = 0
        """Octets of items behind it."""
        self._due: deque[Room] = deque()
        self._round = (0, 0)
        """Rooms that are left of those that were due at one moment, and the number of the last item then."""
        self._second = int(self._forgotten)
        self._working = False
        self._timer: asyncio.TimerHandle | None = None
        self._made: tuple[Room | None, int, int, int, list[Item], bytes] = (None, 0, 0, 0, [], b"")

    # -- from one generation to the next -------------------------------------------------------------------------

    def pack(self) -> dict[str, Any]:
        """All of it, as plain data. It changes nothing."""
        return {
            "number": self._number, "safe": self._safe, "forgotten": self._forgotten, "second": self._second,
            "kept": [tuple(item) for item in self._kept],
            "readers": [
                (each.client, room.path, each.at, each.told, each.missed) for room in self._rooms.values() for each in room.members
            ],
        }  # fmt: skip

    def unpack(self, packed: dict[str, Any]) -> None:
        """Go on with what another generation packed: who was half way through a round is in the next."""
        self._number, self._forgotten, self._second = packed["number"], packed["forgotten"], packed["second"]
        self._kept = deque(Item(*each) for each in packed["kept"])
        self.octets = sum(len(item.data) for item in self._kept)
        self._gone_round(packed["safe"])
        for client, path, at, told, missed in packed["readers"]:
            reader = Reader(self, self.room(path), at, told, missed)
            reader.client = client
            reader.room.members[reader] = None
        self.repark()
        for room in self._rooms.values():
            self._is_due(room)
        self.keep_time()

    def repark(self) -> None:
        """Have everybody wait under the records of this generation."""
        for room in self._rooms.values():
            for reader in room.members:
                if reader.client is not None:
                    reader.client.repark(reader)

    def stop(self) -> None:
        """Write no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._rooms, self._due = {}, deque()

    # -- who reads -----------------------------------------------------------------------------------------------

    def new(self, path: bytes) -> Reader:
        """One who reads from now on at a path, and has not come in."""
        return Reader(self, self.room(path), self._number, self._second)

    def enter(self, reader: Reader, client: Waiting) -> None:
        """One who is parked."""
        reader.client = client
        reader.room.members[reader] = None
        self.counts["atom_streams"] += 1
        self.keep_time()

    def end(self, readers: list[Reader] | None = None) -> None:
        """End streams, those of everybody unless some are named, so many in a turn."""
        if readers is None:
            readers = [reader for room in self._rooms.values() for reader in room.members]
        for reader in readers[-A_TURN:]:
            client = reader.client
            self.left(reader)
            if client is not None:
                client.finish(reader, END)
        if len(readers) > A_TURN:
            asyncio.get_running_loop().call_soon(self.end, readers[:-A_TURN])

    def room(self, path: bytes) -> Room:
        return self._rooms.get(path) or self._rooms.setdefault(path, Room(path))

    def leave(self, room: Room) -> None:
        """Somebody has left a room."""
        if not room.members:
            self._rooms.pop(room.path, None)

    def left(self, reader: Reader) -> None:
        """A reader is none any more."""
        if reader.client is not None:
            reader.client = None
            del reader.room.members[reader]
            self.counts["atom_streams"] -= 1
            self.leave(reader.room)

    def beginning(self, room: Room, since: int) -> bytes:
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
        return self._working and self.going_round > int(self.service["atom_stream_buffer"])

    def publish(self, path: bytes, data: bytes) -> None:
        """Give an item to everybody who reads at its path or above: to each within the next turns of the loop."""
        self._forget()
        self._number += 1
        now = self.world.clock.epoch()  # which may be set back
        item = Item(self._number, max(now, self._kept[-1].epoch) if self._kept else now, path, data)
        self._kept.append(item)
        self.octets += len(data)
        self.going_round += len(data)
        self.counts["atom_items"] += 1
        at = len(path)
        while at >= 0:
            room = self._rooms.get(path[:at])
            if room is not None:
                self._is_due(room)
            at = path.rfind(b"/", 0, at)
        if not self._working:
            self._gone_round(self._number)

    def _gone_round(self, number: int) -> None:
        """Everybody was given, or has missed, all items up to this one."""
        self._safe = number
        self.going_round = 0
        for item in reversed(self._kept):
            if item.number <= number:
                break
            self.going_round += len(item.data)

    def _forget(self) -> None:
        """Let go of items that nobody may ask for any more, and of the oldest where they are too many."""
        oldest, most, kept = self.world.clock.epoch() - KEPT, int(self.service["atom_stream_memory"]), self._kept
        while kept and kept[0].number <= self._safe and (kept[0].epoch < oldest or self.octets > most):
            item = kept.popleft()
            self.octets -= len(item.data)
            if item.epoch >= oldest:
                self._forgotten = item.epoch
                self.counts["atom_items_forgotten"] += 1
                self.world.log_limited(
                    f"atom memory {self.service.name}",
                    "service %(service)s: items are not kept for %(seconds)d seconds (atom_stream_memory)",
                    {"event": "atom_items_forgotten", "service": self.service.name, "seconds": KEPT},
                )

    # -- the rounds ----------------------------------------------------------------------------------------------

    def keep_time(self) -> None:
        if self._timer is None and self._rooms:
            self._timer = asyncio.get_running_loop().call_later(1, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._second = int(self.world.clock.epoch())
        self._forget()
        for room in self._rooms.values():
            self._is_due(room)
        self.keep_time()

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
            if not self._round[0]:
                self._round = len(self._due), self._number
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
            rooms, number = self._round
            self._round = rooms - 1, number
            if rooms == 1:
                self._gone_round(number)
        self._working = False
        self._gone_round(self._number)
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


def sorry(missed: int) -> bytes:
    """What a reader is told who was left out."""
    return b'<sorryTooSlow youMissed="%d" />\n' % missed
