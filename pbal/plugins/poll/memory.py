"""The memory store: queues inside the process, nothing to install. It ends with the process.

Queues are kept in the order of their last message (or of a reader's, where messages are kept); the one without a new one for the
longest time is the first to go, when its ttl is over or when all together hold more than the limit.

Who reads a queue that keeps its messages keeps it, as in memcached: while somebody waits it is not dropped, and it lives for the ttl after
the last one left, so that its readers' places stay true though nobody writes. Its messages grow old all the same.

Where messages are kept by age, a queue has marks: (begin, end) pairs, one for each twelfth of the ttl in which something came. The octets
before `end` that no earlier mark has came within a twelfth of the ttl after `begin`.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .kept import MARKS
from .lot import Reader
from .positions import BadPosition, Log, new_epoch
from .settings import Settings
from .store import Done, Looked, Queues, Seen, Store

if TYPE_CHECKING:
    from .hub import Hub

log = logging.getLogger("pbal.poll")

EXPIRY_LOOKS = 30.0
"""Seconds between two looks for queues past their ttl."""
AT_A_TIME = 1000
"""Queues that expire in one turn of the loop: about a millisecond."""
EPOCH_COSTS = 256
"""Octets that a queue with positions counts for besides its name and messages: any client that polls can begin one."""
BEGUN = 4
"""The part of the memory that queues without messages may take from others: one of so many."""
RENEWED = 0.25
"""Seconds for which a queue that a reader kept alive is not renewed again: ten thousand may leave it at once."""


class Held:
    """A queue."""

    __slots__ = ("base", "data", "epoch", "marks", "stored")

    def __init__(self, data: bytes, stored: float, epoch: bytes = b"", base: int = 0, marks: Sequence[tuple[float, int]] = ()) -> None:
        self.data = data
        self.stored = stored
        """Clock time from which its ttl counts."""
        self.epoch = epoch
        self.base = base
        self.marks = list(marks)

    def size(self, key: bytes) -> int:
        return len(key) + len(self.data) + (EPOCH_COSTS if self.epoch else 0)


class MemoryStore(Store):
    """Queues by key. Units: octets, seconds."""

    def __init__(self, hub: "Hub", content: dict[bytes, tuple[Any, ...]] | None = None) -> None:
        """`content` is of carry()."""
        self._hub = hub
        self._now = hub.world.clock.now
        self._counts = hub.counts
        self.content: dict[bytes, Held] = {key: Held(*facts) for key, facts in (content or {}).items()}
        self._begun = {key: None for key, held in self.content.items() if not held.data}
        """Those that hold nothing: any client can begin one. Many of them go first, or messages went for names that are made up."""
        self.size = sum(held.size(key) for key, held in self.content.items())
        self._timer: asyncio.TimerHandle | None = None
        self._woken: dict[bytes, None] = {}
        """Queues to which something came back in this turn of the loop."""

    @property
    def _settings(self) -> Settings:
        return self._hub.settings

    # -- what is there -------------------------------------------------------------------------------------------

    def _alive(self, key: bytes) -> Held | None:
        """A queue; one whose time is over is dropped instead."""
        held = self.content.get(key)
        if held is None:
            return None
        if held.stored < self._now() - self._settings.ttl:
            if not self._is_read(key, held):
                self._drop(key)
                self._counts["poll_expired_queues"] += 1
                return None
            self._renew(key, held)
        if self._settings.keep == "ttl":
            self._forget_old(held)
        return held

    def _is_read(self, key: bytes, held: Held) -> bool:
        """Whether a reader stands in a queue: it goes on, its old messages do not."""
        return bool(held.epoch) and self._hub.lot.has(key) and self._settings.keep != "taken"

    def _renew(self, key: bytes, held: Held) -> None:
        """A reader is there, or was a moment ago: the queue lives for a ttl from now on, its messages do not."""
        now = self._now()
        if held.stored < now - RENEWED:
            self._mark(held, held.stored)
            self._drop(key)
            held.stored = now
            self._put(key, held)

    def _mark(self, held: Held, second: float) -> None:
        """What has no mark yet came about then."""
        end = held.base + len(held.data)
        last = held.marks[-1][1] if held.marks else held.base
        if self._settings.keep == "ttl" and last < end:
            held.marks.append((second, end))

    def _drop(self, key: bytes) -> Held:
        held = self.content.pop(key)
        self._begun.pop(key, None)
        self.size -= held.size(key)
        return held

    def _put(self, key: bytes, held: Held) -> None:
        """Put a queue in, or behind all others."""
        self.content[key] = held
        if not held.data:
            self._begun[key] = None
        self.size += held.size(key)

    def _forget_old(self, held: Held) -> None:
        """Drop the messages of a kept queue that are past the ttl."""
        limit = self._now() - self._settings.ttl * (1 + 1 / MARKS)
        while held.marks and held.marks[0][0] < limit:
            self._cut(held, held.marks.pop(0)[1])

    def _cut(self, held: Held, offset: int) -> None:
        """Drop what lies before an offset."""
        octets = min(max(offset - held.base, 0), len(held.data))
        held.data = held.data[octets:]
        held.base += octets
        self.size -= octets

    def _log(self, key: bytes) -> Log:
        """What is kept of a queue. One that nobody wrote to begins here, so that its readers have a place to stand."""
        held = self._alive(key)
        if held is None:
            held = Held(b"", self._now(), new_epoch())
            self._put(key, held)
            self._make_room()
        else:
            if not held.epoch:
                held.epoch = new_epoch()
                self.size += EPOCH_COSTS
            self._renew(key, held)
        return Log(key, held.epoch, held.base, held.data)

    # -- Store ---------------------------------------------------------------------------------------------------

    def holds(self, reader: Reader) -> bool:
        """See Store."""
        if self._settings.keep == "taken":
            return any((held := self._alive(key)) is not None and held.data for key in reader.all_keys())
        for key in reader.all_keys():
            place, there = reader.place(key), self._log(key)
            if place != there.end if place is not None else there.data and self._settings.first_all:
                return True
        return False

    def began(self, reader: Reader, came: Iterable[bytes]) -> None:
        """See Store."""
        if self._settings.keep == "taken":
            self._hand_out([key for key in reader.all_keys() if key in self.content])
            return
        if self._settings.keep == "confirmed":
            self._confirm(reader, came)
        self._hub.tell({key: self._log(key) for key in reader.all_keys()}, [reader])

    def left(self, keys: Iterable[bytes]) -> None:
        """See Store."""
        if self._settings.keep != "taken":
            for key in keys:
                held = self.content.get(key)
                if held is not None and held.epoch:
                    self._renew(key, held)

    def _confirm(self, reader: Reader, keys: Iterable[bytes]) -> None:
        """Drop what a reader that comes back says it has."""
        for key in keys:
            place = reader.place(key)
            if place is not None:
                try:
                    offset, gap = self._log(key).find(place, True)
                except BadPosition:
                    continue  # it will be told
                if not gap:
                    self._cut(self.content[key], offset)

    def wake(self, key: bytes) -> None:
        """See Store."""
        if not self._hub.lot.has(key):
            return
        if self._settings.keep == "taken":
            self._hand_out([key])
        else:
            self._hub.tell({key: self._log(key)})

    def _hand_out(self, keys: list[bytes]) -> None:
        taken: Queues = []
        for key in keys:
            held = self._alive(key)
            if held is not None and held.data:
                taken.append((key, self._drop(key).data))
        if taken:
            left = self._hub.deliver(taken)
            if left:
                self.put_back(left)

    def append(self, key: bytes, data: bytes, done: Done) -> None:
        """See Store."""
        now = self._now()
        held = self._alive(key)
        if held is None:
            held = Held(data, now)
        else:
            self._drop(key)
            held.data += data
            held.stored = now
        if self._settings.keep == "ttl":
            end = held.base + len(held.data)
            if held.marks and now - held.marks[-1][0] < self._settings.ttl / MARKS:
                held.marks[-1] = (held.marks[-1][0], end)
            else:
                held.marks.append((now, end))
        self._put(key, held)
        self._limit(key, held, data)
        self.wake(key)
        done(None)

    def _limit(self, key: bytes, held: Held, newest: bytes) -> None:
        """Keep poll_max_queue and poll_memory_limit. `newest` came last."""
        if len(held.data) > self._settings.max_queue:
            self._cut(held, held.base + len(held.data) - len(self._hub.shorten(key, held.data, newest)))
        self._make_room()

    def _make_room(self) -> None:
        gone = 0
        while self.size > self._settings.memory_limit and self.content:
            crowd = len(self._begun) * 2 * EPOCH_COSTS > self._settings.memory_limit / BEGUN
            self._drop(next(iter(self._begun if crowd else self.content)))
            gone += 1
        if gone:
            self._counts["poll_evicted"] += gone
            self._hub.world.log_limited(
                "poll_memory",
                "poll_memory_limit: %(queues)d queues dropped",
                {"event": "poll_memory", "service": self._hub.service.name, "queues": gone},
            )

    def put_back(self, queues: Queues) -> None:
        """See Store."""
        for key, value in queues:
            self._counts["poll_put_back"] += 1
            if self._settings.keep != "taken":  # since they were taken: in front they would shift every place behind
                self.append(key, value, lambda error: None)
                continue
            held = self._alive(key)
            newest = value
            if held is None:
                held = Held(value, self._now())
            else:
                self._drop(key)
                # In a queue that keeps its messages (poll_keep was set meanwhile) places must stay true: behind the others.
                newest = value if held.epoch else held.data
                held.data = held.data + value if held.epoch else value + held.data
                held.stored = self._now()
            self._put(key, held)
            self._limit(key, held, newest)
            if not self._woken:
                asyncio.get_running_loop().call_soon(self._wake_soon)
            self._woken[key] = None

    def _wake_soon(self) -> None:
        """A connection that breaks gives back several, the newest first: all of it goes out together, and in order."""
        woken, self._woken = self._woken, {}
        store = self._hub.serving().store
        for key in woken:
            store.wake(key)

    def look(self, key: bytes, done: Looked) -> None:
        """See Store."""
        held = self._alive(key)
        if held is None:
            done(Seen(b""))
        elif self._settings.keep == "taken":
            done(Seen(held.data))
        else:
            done(Seen(held.data, self._log(key).end))

    def trim(self, key: bytes, place: bytes | None, done: Done) -> None:
        """See Store."""
        held = self._alive(key)
        if held is not None and place is None:
            if held.epoch:
                self._cut(held, held.base + len(held.data))
            else:
                self._drop(key)
        elif held is not None and place is not None:
            try:
                offset, gap = self._log(key).find(place, True)
            except BadPosition as error:
                done(error)
                return
            if not gap:
                self._cut(held, offset)
        done(None)

    def names(self) -> Iterable[bytes]:
        """See Store."""
        return [key for key, held in self.content.items() if held.data]

    # -- time and life -------------------------------------------------------------------------------------------

    def _look_for_old(self) -> None:
        self._timer = None
        more = self.expire()
        self._timer = asyncio.get_running_loop().call_later(0.0 if more else EXPIRY_LOOKS, self._look_for_old)

    def expire(self) -> bool:
        """Drop some of the queues whose time is over. True: there are more."""
        oldest = self._now() - self._settings.ttl
        for _ in range(AT_A_TIME):
            key = next(iter(self.content), None)
            if key is None or self.content[key].stored >= oldest:
                return False
            held = self.content[key]
            if self._is_read(key, held):
                self._renew(key, held)
                if self._settings.keep == "ttl":
                    self._forget_old(held)
            else:
                self._drop(key)
                self._counts["poll_expired_queues"] += 1
        return True

    def changed(self, settings: Settings) -> None:
        """See Store."""
        self._make_room()

    def rename(self, skip: int, prefix: bytes) -> None:
        """The key prefix changed: from `skip` octets to `prefix`."""
        content, self.content, self.size = self.content, {}, 0
        self._begun.clear()
        for key, held in content.items():
            self._put(prefix + key[skip:], held)

    async def rest(self) -> None:
        """See Store."""

    def go_on(self) -> None:
        """See Store."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EXPIRY_LOOKS, self._look_for_old)
        for key in self._hub.lot.queues():
            self.wake(key)

    def carry(self) -> dict[str, Any]:
        """See Store."""
        return {"memory": {key: (held.data, held.stored, held.epoch, held.base, tuple(held.marks)) for key, held in self.content.items()}}

    def close(self) -> None:
        """See Store."""
        if self._timer is not None:
            self._timer.cancel()

    def say_what_goes(self) -> None:
        """The store ends, with the process or the plugin, and the messages with it: say how many."""
        full = [held for held in self.content.values() if held.data and held.stored >= self._now() - self._settings.ttl]
        if full:
            octets = sum(len(held.data) for held in full)
            fields = {"event": "poll_memory_ends", "service": self._hub.service.name, "octets": octets, "queues": len(full)}
            log.warning("service %(service)s: the memory store ends, and with it %(octets)d bytes in %(queues)d queues", fields)

    def rows(self, second: float) -> Iterator[tuple[object, ...]]:
        """See Store."""
        octets = sum(len(key) + len(held.data) for key, held in self.content.items())
        yield ("memory", "up", 0, 0, 0.0, "off", 0.0, f"{len(self.content)} queues {octets} bytes", 0, None, None, 0, None)

    @property
    def octets(self) -> int:
        """See Store."""
        return self.size
