"""A lane: one service's traffic with one of its memcacheds. A server's trouble is its own: nothing here waits for another server.

    wake(key)    something may be there: take it now. Keys woken in one turn of the loop are taken together; while
                 MOST_TAKES takes are in flight, what is woken is gathered for the next one.
    ask(keys)    which of them hold something? Wake those.
    sweep(keys)  ask for all that is parked; then look at what is in doubt. One at a time.

A key is `busy` from the start of its take until what was taken has reached a client or is back in front. A second take
of a busy key waits, so nothing overtakes within this process. Nothing here knows a poll: keys go in, values come out
through `deliver`, which returns what found nobody. Of queues that keep their messages nothing is taken: logs.py reads them, and
a take is a look. A reader that just came (`welcome`) is told alone: ten thousand who came before it have all there is. One that
comes back from an answer, and stands where the queue ended when it was last read, needs no look while the watch is live.

Doubts. A take or a put-back whose answer never came leaves octets of which nobody can say whether the store has them. They
are kept, and the next look at that queue tells: a value that begins with them is the store's own copy, any other means
that ours is the only one, and it goes out first. Sweeps go on for a doubt even when nobody is parked. Wrong only if
another pbal took the same queue in between, or if the very same octets were written again: then a message is doubled, or
one of two equal ones lost. After poll_ttl a doubt is given up, as the store would have done.

Tasks are few: one a batch of keys, none a poll. Store calls are never cancelled.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from pbal.api import spawn

from .kept import without_header
from .logs import Logs
from .lot import Reader
from .memcached import Server
from .servers import Shorten, Taken, squeeze, take
from .store import StoreError, TooLarge
from .watch import Watcher

if TYPE_CHECKING:
    from .hub import Hub

log = logging.getLogger("pbal.poll")

TOGETHER = 200
"""Keys taken by one task."""
MOST_TAKES = 8
"""Takes of one server in flight. More only makes them smaller: a take is two round trips, whatever it holds."""

Doubt = tuple[tuple[bytes, ...], float]
"""Pieces of a queue, in order, each of which is either in the store or only here; and since when (clock time)."""


class Shared:
    """What the lanes of one courier have in common."""

    def __init__(self, hub: "Hub", wake_later: Callable[[bytes], None], server_of: Callable[[bytes], Server], shorten: Shorten) -> None:
        self.settings = hub.settings
        self.lot = hub.lot
        self.counts = hub.counts
        self.now = hub.world.clock.now
        self.second = hub.world.clock.epoch
        """Unix time."""
        self.say = hub.world.log_limited
        self.deliver = hub.deliver
        self.tell = hub.tell
        self.evicted = hub.evicted
        self.wake_later = wake_later
        """How a task of a generation that is being replaced wakes the next one."""
        self.server_of = server_of
        self.shorten = shorten
        self.doubts: dict[bytes, Doubt] = {}
        self.resting = False
        self.tasks: set[asyncio.Task[None]] = set()
        """Everything that uses the store."""
        self.takes: set[asyncio.Task[None]] = set()
        """Those of them that touch what is parked: all but publishes."""
        self.sweep_soon: Callable[[], None] = lambda: None
        """Something is in doubt: a sweep is wanted though nobody may be parked."""
        self.sweep_lane: Callable[[Lane], None] = lambda lane: None

    def run(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Run something that takes or puts back; a reload waits for it."""
        task = spawn(self, coroutine, name)
        for tasks in (self.tasks, self.takes):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def wanted(self, key: bytes) -> bool:
        """Whether somebody is parked for `key`, or it is in doubt."""
        return self.lot.has(key) or key in self.doubts

    def give_up(self, key: bytes, pieces: tuple[bytes, ...], why: str) -> None:
        """Octets in doubt are lost, or were never ours: nobody will know."""
        self.counts["poll_lost"] += 1
        self.say(f"poll_lost {why}", "%d bytes of %r given up: %s", sum(map(len, pieces)), key, why)

    def give_up_all(self) -> None:
        """The same of all that is in doubt: the plugin ends."""
        if self.doubts:
            self.counts["poll_lost"] += len(self.doubts)
            octets = sum(len(piece) for pieces, _ in self.doubts.values() for piece in pieces)
            fields = {"event": "poll_lost", "octets": octets, "queues": len(self.doubts)}
            log.error("%(octets)d bytes of %(queues)d queues given up: the plugin ends before the store came back", fields)
            self.doubts.clear()


class Lane:
    """See the head of this file."""

    def __init__(self, server: Server, watcher: Watcher, shared: Shared) -> None:
        self.server = server
        self.watcher = watcher
        self._shared = shared
        self._logs = Logs(server, shared)
        self._newcomers: dict[bytes, list[Reader]] = {}
        """Of pending keys that are to be told to these alone."""
        self._confirmed: dict[bytes, list[bytes]] = {}
        """Of pending keys, with poll_keep = confirmed: places that readers came with. Those that they were sent later are not confirmed."""
        self._pending: dict[bytes, None] = {}
        self._busy: set[bytes] = set()
        self._again: set[bytes] = set()
        self._freed = asyncio.Event()
        self._takes = 0
        self._flush_due = False
        self._sweeping = False
        self._sweep_again = False
        self.last_sweep_ms = 0.0
        self.last_sweep_keys = 0

    @property
    def _takes_all(self) -> bool:
        return self._shared.settings.keep == "taken"

    def _is_mine(self, key: bytes) -> bool:
        return self._shared.server_of(key) is self.server

    # -- waking --------------------------------------------------------------------------------------------------

    def wake(self, key: bytes) -> None:
        """Take what is there for `key`, if it is wanted."""
        if not self._shared.wanted(key):
            self._logs.forget([key])  # the next reader looks
            return
        if key in self._busy:
            self._again.add(key)
            return
        self._newcomers.pop(key, None)
        self._enter(key)

    def welcome(self, key: bytes, reader: Reader) -> None:
        """Tell one reader of a kept queue what it lacks. Who had everything a moment ago lacks what the watch will show."""
        shared = self._shared
        watched = self.watcher.state == "live" and shared.settings.keep == "ttl"
        if watched and key not in shared.doubts and self._logs.has_all(key, reader.place(key)):
            return
        if key in self._pending and key not in self._newcomers:
            return  # all will be told
        self._newcomers.setdefault(key, []).append(reader)
        if key not in self._busy:
            self._enter(key)

    def confirm(self, key: bytes, place: bytes) -> None:
        """A reader of this queue, about to be welcomed, has what lies before this place."""
        self._confirmed.setdefault(key, []).append(place)

    def _enter(self, key: bytes) -> None:
        self._pending[key] = None
        if not self._flush_due and not self._shared.resting:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def connected(self) -> None:
        """A connection is new, and so may be the server: its cas count from the beginning then, and mean other values."""
        self._logs.forget_all()

    def distrust(self) -> None:
        """The watch missed something, or has just begun."""
        self._logs.doubt()

    def ask(self, keys: list[bytes]) -> None:
        """Wake those of `keys` that hold something."""
        self._shared.run(self._ask(keys), "poll look")

    async def _ask(self, keys: list[bytes]) -> None:
        batch = self._shared.settings.batch
        for place in range(0, len(keys), batch):
            if not self.server.may_be_tried:
                return
            try:
                group = keys[place : place + batch]
                held = await (self.server.held(group) if self._takes_all else self._logs.changed(group))
            except StoreError:  # counted and said by the server; the next sweep asks again
                return
            for key in held:
                self.wake(key)

    # -- taking --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        shared = self._shared
        while self._pending and self._takes < MOST_TAKES and not shared.resting:
            keys: list[bytes] = []
            while self._pending and len(keys) < TOGETHER:
                key = next(iter(self._pending))
                del self._pending[key]
                if key in self._busy:  # something is being put back in front of it
                    self._again.add(key)
                elif shared.wanted(key):
                    keys.append(key)
                else:  # who came for it has gone
                    self._newcomers.pop(key, None)
                    self._confirmed.pop(key, None)
            if self._takes_all:
                keys = self._with_siblings(keys)
            if keys:
                self._busy.update(keys)
                self._takes += 1
                if self._takes_all:
                    shared.run(self._take(keys), "poll take")
                else:
                    newcomers = {key: self._newcomers.pop(key) for key in keys if key in self._newcomers}
                    confirmed = {key: self._confirmed.pop(key) for key in keys if key in self._confirmed}
                    shared.run(self._tell(keys, newcomers, confirmed), "poll tell")

    def _with_siblings(self, keys: list[bytes]) -> list[bytes]:
        """`keys` and the other queues here of polls on several: such a poll is answered with all that this server has for it."""
        found = dict.fromkeys(keys)
        for key in keys:
            for poll in self._shared.lot.waiting(key):
                if isinstance(poll.keys, tuple):
                    found.update(dict.fromkeys(other for other in poll.keys if other not in self._busy and self._is_mine(other)))
        for key in found:
            self._pending.pop(key, None)
        return list(found)

    async def _take(self, keys: list[bytes]) -> None:
        """Take, deliver, put back what found nobody."""
        shared = self._shared
        try:
            try:
                taken = await take(self.server, keys, shared.wanted)
            finally:
                self._takes -= 1
                self._flush()
            shared.counts["poll_cas_lost"] += len(taken.changed)
            self._again.update(taken.changed)
            for key in taken.read & shared.doubts.keys():
                self._resolve(key, taken)
            for key, value in taken.unsure.items():
                self._doubt(key, value)
            values = [(key, value) for key in keys if (value := without_header(taken.values.get(key, b"")))]
            for key, value in shared.deliver(values) if values else ():
                await self._return(key, value)
        finally:
            self._release(keys)

    async def _tell(self, keys: list[bytes], newcomers: dict[bytes, list[Reader]], confirmed: dict[bytes, list[bytes]]) -> None:
        """Kept queues: tell their readers what they lack."""
        try:
            for key in keys:
                if key in self._shared.doubts:
                    await self._settle(key)
            self._again.update(await self._logs.tell(keys, newcomers, confirmed))
        except StoreError:  # counted and said by the server; the next sweep asks again
            self._logs.forget(keys)
        finally:
            self._takes -= 1
            self._flush()
            self._release(keys)

    async def _settle(self, key: bytes) -> None:
        """Octets that another store left go behind what is kept here. Raises: StoreError."""
        pieces, since = self._shared.doubts.pop(key)
        data = b"".join(pieces)
        try:
            if await self.server.append(key, data, self._shared.settings.store_ttl) is None:
                self._shared.give_up(key, pieces, "the queue has no room for them")
        except TooLarge as error:
            self._shared.give_up(key, pieces, str(error))
        except StoreError:
            self._shared.doubts[key] = (pieces, since)
            raise

    async def published(self, key: bytes) -> None:
        """A message was appended by this pbal. Raises: StoreError."""
        if not self._takes_all and not self._shared.lot.has(key):
            await self._logs.mark(key)

    async def look(self, key: bytes) -> tuple[bytes, bytes | None]:
        """A queue's messages, and the place behind them where it has positions. Raises: StoreError."""
        return await self._logs.read(key)

    async def trim(self, key: bytes, place: bytes | None) -> None:
        """Cut a kept queue at a place, or empty any. Raises: StoreError, BadPosition."""
        if self._takes_all:
            await take(self.server, [key], lambda _: True)
        else:
            await self._logs.trim(key, place)

    def _resolve(self, key: bytes, taken: Taken) -> None:
        """The store was read: which octets in doubt are in its value, and which are only here?"""
        pieces, _ = self._shared.doubts.pop(key)
        emptied = key in taken.values
        there = taken.values.get(key) or taken.unsure.get(key) or b""
        ours, place = b"", 0
        for piece in pieces:
            if there.startswith(piece, place):
                place += len(piece)
                ours += piece if emptied else b""
            else:
                ours += piece
        if emptied:
            ours += there[place:]
        if ours:
            taken.values[key] = ours

    def _doubt(self, key: bytes, value: bytes) -> None:
        """Keep octets that the store may or may not have, in front of what is in doubt already, and look again."""
        shared = self._shared
        later, since = shared.doubts.get(key, ((), shared.now()))
        shared.doubts[key] = ((value, *later), since)
        shared.sweep_soon()

    def _release(self, keys: Iterable[bytes]) -> None:
        self._busy.difference_update(keys)
        self._freed.set()  # who waits for a key to put something back runs before the next flush
        for key in keys:
            if key in self._again:
                self._again.discard(key)
                self._shared.wake_later(key)
            elif key in self._newcomers:
                self._enter(key)

    # -- putting back --------------------------------------------------------------------------------------------

    async def _return(self, key: bytes, value: bytes) -> None:
        """Put a value back in front of its queue; of one that keeps its messages since then, behind: in front is its header."""
        shared = self._shared
        shared.counts["poll_put_back"] += 1
        ttl = shared.settings.store_ttl
        try:
            # In a queue that keeps its messages (poll_keep was set meanwhile) places must stay true: behind the others.
            join = self.server.prepend if self._takes_all else self.server.append
            if await join(key, value, ttl, begin=self._takes_all) is None:
                most = int(min(shared.settings.max_queue, self.server.longest(key)))
                shared.counts["poll_evicted"] += await squeeze(self.server, key, value, most, shared.shorten, ttl, front=self._takes_all)
        except TooLarge as error:  # of a server that does not say how much it takes, and it will not take it later
            shared.give_up(key, (value,), str(error))
        except StoreError:
            self._doubt(key, value)
        else:
            self._again.add(key)

    def put_back(self, key: bytes, value: bytes) -> None:
        """A client was lost after its answer was written: put the messages back in front."""
        owned = key not in self._busy
        if owned:
            self._busy.add(key)
        self._shared.run(self._put_back(key, value, owned), "poll put back")

    async def _put_back(self, key: bytes, value: bytes, owned: bool) -> None:
        """Put one queue back; unless it is `owned` already, after the take of it that is in flight."""
        while not owned:
            self._freed.clear()
            await self._freed.wait()
            if key not in self._busy:
                self._busy.add(key)
                owned = True
        try:
            await self._return(key, value)
        finally:
            self._release([key])

    # -- sweeping ------------------------------------------------------------------------------------------------

    def sweep(self, keys: list[bytes], again: bool) -> bool:
        """Begin a sweep of `keys`; False if one runs. `again`: then another one follows it at once."""
        if self._sweeping:
            self._sweep_again |= again
            return False
        self._sweeping = True
        self._shared.run(self._sweep(keys), "poll sweep")
        return True

    async def _sweep(self, keys: list[bytes]) -> None:
        started = time.perf_counter()
        try:
            await self._ask(keys)
        finally:
            self._sweeping = False
            self._settle_doubts()
            self.last_sweep_ms = (time.perf_counter() - started) * 1000
            self.last_sweep_keys = len(keys)
        if self._sweep_again:
            self._sweep_again = False
            self._shared.sweep_lane(self)

    def _settle_doubts(self) -> None:
        """Look at every queue in doubt, unless the server is known to be down; give up those past poll_ttl."""
        shared = self._shared
        for key, (pieces, since) in list(shared.doubts.items()):
            if not self._is_mine(key):
                continue
            if shared.now() - since > shared.settings.ttl:
                del shared.doubts[key]
                shared.give_up(key, pieces, "the store did not come back within poll_ttl")
            elif self.server.may_be_tried:
                self.wake(key)
