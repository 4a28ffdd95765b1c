"""From memcached to the lot: looks, takes, sweeps, and what the watch says.

    wake(key)      something may be there: take it now. Keys woken in one turn of the loop are taken together.
    look(keys)     first look for polls that just came: those of the same few milliseconds share one get
    sweep          every poll_interval, the keys of all parked polls, poll_batch a get; the truth behind every hint

A key is `busy` from the start of its take until what was taken has reached a client or is back in front. A second take
of a busy key waits, so nothing overtakes within this process. Nothing here knows a poll: keys go in, values come out
through `deliver`, which returns what found nobody.

Store calls are never cancelled (see store.py); the tasks are few: one a batch of keys, none a poll.

Doubts. A take or a put-back whose answer never came leaves octets of which nobody can say whether the store has them. They
are kept, and the next look at that queue tells: a value that begins with them is the store's own copy, any other means
that ours is the only one, and it goes out first. Sweeps go on for a doubt even when nobody is parked. Wrong only if
another pbal took the same queue in between, or if the very same octets were written again: then a message is doubled, or
one of two equal ones lost. After poll_ttl a doubt is given up, as the store would have done.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from pbal.api import spawn

from .lot import Lot
from .memcached import Memcached, Server, Taken
from .settings import Settings
from .store import StoreError
from .watch import Watcher

log = logging.getLogger("pbal.poll")

SHARED_LOOK = 0.002
"""Seconds within which arriving polls share a first look."""
TOGETHER = 200
"""Keys taken by one task."""
WATCH_LINGER = 30.0
"""Seconds that watch and sweep go on after the last poll left: clients come back in a moment."""

Doubt = tuple[tuple[bytes, ...], float]
"""Pieces of a queue, in order, each of which is either in the store or only here; and since when (clock time)."""
Deliver = Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]


class Courier:
    """One service's traffic with its memcacheds."""

    def __init__(
        self, settings: Settings, lot: Lot, counts: dict[str, int], now: Callable[[], float], deliver: Deliver,
        wake_later: Callable[[bytes], None],
    ) -> None:  # fmt: skip
        self.settings = settings
        self._lot = lot
        self._counts = counts
        self._now = now
        self._deliver = deliver
        self._wake_later = wake_later
        """How a task of a generation that is being replaced wakes the next one."""
        self.store = Memcached(settings.store.endpoints, now, lambda: self.settings.store_timeout)
        self.watchers = [Watcher(s.endpoint, settings.prefix, now, self._stored, self._distrust) for s in self.store.servers]
        self._pending: set[bytes] = set()
        self._looking: set[bytes] = set()
        self._busy: set[bytes] = set()
        self._again: set[bytes] = set()
        self._freed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        """Everything that uses the store."""
        self._takes: set[asyncio.Task[Any]] = set()
        """Those of them that touch what is parked: all but publishes."""
        self.doubts: dict[bytes, Doubt] = {}
        self._flush_due = False
        self._look_timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._sweeping = False
        self._sweep_again = False
        self._resting = False
        self._last_parked = now()
        self.sweeps = 0
        self.last_sweep_ms = 0.0
        self.last_sweep_keys = 0

    @property
    def busy(self) -> bool:
        """Whether a store call is in flight."""
        return bool(self._tasks)

    def run_publish(self, coroutine: Any) -> None:
        """Run something that only adds to a queue: a reload need not wait for it."""
        task = spawn(self, coroutine, "poll publish")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run(self, coroutine: Any, name: str) -> None:
        """Run something that takes or puts back; rest() waits for it."""
        task = spawn(self, coroutine, name)
        for tasks in (self._tasks, self._takes):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    # -- waking --------------------------------------------------------------------------------------------------

    def wake(self, key: bytes) -> None:
        """Take what is there for `key`, if somebody is parked for it or it is in doubt."""
        if not self._wanted(key):
            return
        if key in self._busy:
            self._again.add(key)
            return
        self._pending.add(key)
        if not self._flush_due and not self._resting:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _wanted(self, key: bytes) -> bool:
        return self._lot.has(key) or key in self.doubts

    def look(self, keys: Iterable[bytes]) -> None:
        """First look for a poll that was just parked."""
        self._looking.update(keys)
        self._start()
        if self._look_timer is None and not self._resting:
            self._look_timer = asyncio.get_running_loop().call_later(SHARED_LOOK, self._look)

    def _look(self) -> None:
        self._look_timer = None
        keys, self._looking = self._looking, set()
        if keys and not self._resting:
            self._run(self._ask([key for key in keys if self._lot.has(key)]), "poll look")

    async def _ask(self, keys: list[bytes]) -> None:
        """Wake the keys that hold something."""
        for server, group in self.store.by_server(keys).items():
            await self._ask_server(server, group)

    async def _ask_server(self, server: Server, keys: list[bytes]) -> None:
        batch = self.settings.batch
        for place in range(0, len(keys), batch):
            if not server.may_be_tried:
                return
            try:
                held = await self.store.held(server, keys[place : place + batch])
            except StoreError:
                self._counts["poll_store_errors"] += 1
                return
            for key in held:
                self.wake(key)

    # -- taking --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        if self._resting:
            return
        keys = self._with_siblings(key for key in self._pending if self._wanted(key))
        self._pending.clear()
        self._busy.update(keys)
        for place in range(0, len(keys), TOGETHER):
            self._run(self._take(keys[place : place + TOGETHER]), "poll take")

    def _with_siblings(self, keys: Iterable[bytes]) -> list[bytes]:
        """`keys` and the other queues of polls on several: such a poll is answered with all that is there for it."""
        found = dict.fromkeys(keys)
        for key in list(found):
            for poll in self._lot.waiting(key):
                if isinstance(poll.keys, tuple):
                    found.update(dict.fromkeys(other for other in poll.keys if other not in self._busy))
        return list(found)

    async def _take(self, keys: list[bytes]) -> None:
        """Take, deliver, put back what found nobody."""
        try:
            groups = self.store.by_server(keys)
            values: dict[bytes, bytes] = {}
            for part in await asyncio.gather(*(self._take_from(server, group) for server, group in groups.items())):
                values.update(part)
            taken = [(key, values[key]) for key in keys if key in values]
            for key, value in self._deliver(taken) if taken else ():
                await self._return(key, value)
        finally:
            self._release(keys)

    async def _take_from(self, server: Server, keys: list[bytes]) -> dict[bytes, bytes]:
        """What is in hand for queues of one server: taken now, or found to be ours after a doubt."""
        taken = await self.store.take(server, keys, int(self.settings.ttl))
        self._counts["poll_cas_lost"] += taken.cas_lost
        self._counts["poll_store_errors"] += taken.failed
        for key in taken.read & self.doubts.keys():
            self._resolve(key, taken)
        for key, value in taken.unsure.items():
            self._doubt(key, value)
        return taken.values

    def _resolve(self, key: bytes, taken: Taken) -> None:
        """The store was read: which octets in doubt are in its value, and which are only here?"""
        pieces, _ = self.doubts.pop(key)
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
        later, since = self.doubts.get(key, ((), self._now()))
        self.doubts[key] = ((value, *later), since)
        if self._sweep_timer is None and not self._sweeping and not self._resting:
            self._sweep_timer = asyncio.get_running_loop().call_later(self.settings.interval, self.sweep)

    def inherit(self, doubts: dict[bytes, Doubt]) -> None:
        """Octets that an earlier courier left in doubt: taken before anything that is in doubt here."""
        for key, (pieces, since) in doubts.items():
            later, _ = self.doubts.get(key, ((), since))
            self.doubts[key] = ((*pieces, *later), since)
        self.go_on()

    def _settle_doubts(self) -> None:
        """Look at every queue in doubt, unless its server is known to be down; give up those past poll_ttl."""
        for key, (pieces, since) in list(self.doubts.items()):
            if self._now() - since > self.settings.ttl:
                del self.doubts[key]
                self._give_up(key, pieces, "the store did not come back within poll_ttl")
            elif self.store.server_of(key).may_be_tried:
                self.wake(key)

    def _give_up(self, key: bytes, pieces: tuple[bytes, ...], why: str) -> None:
        self._counts["poll_lost"] += 1
        log.error("%d bytes of %r given up: %s", sum(map(len, pieces)), key, why)

    def _release(self, keys: Iterable[bytes]) -> None:
        self._busy.difference_update(keys)
        self._freed.set()  # who waits for a key to put something back runs before the next flush
        for key in keys:
            if key in self._again:
                self._again.discard(key)
                self._wake_later(key)

    async def _return(self, key: bytes, value: bytes) -> None:
        """Put a value back in front of its queue."""
        self._counts["poll_put_back"] += 1
        try:
            await self.store.put_back(key, value, int(self.settings.ttl))
        except StoreError:
            self._counts["poll_store_errors"] += 1
            self._doubt(key, value)
        else:
            self._again.add(key)

    def put_back(self, queues: list[tuple[bytes, bytes]]) -> None:
        """A client was lost after its answer was written: put the messages back in front."""
        for key, value in queues:
            owned = key not in self._busy
            if owned:
                self._busy.add(key)
            self._run(self._put_back(key, value, owned), "poll put back")

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

    # -- publishing ----------------------------------------------------------------------------------------------

    async def publish(self, key: bytes, data: bytes, shorten: Callable[[bytes], tuple[bytes, int]]) -> int:
        """Append to a queue; how many older messages went for want of room. Raises: StoreError."""
        ttl = int(self.settings.ttl)
        try:
            await self.store.append(key, data, ttl)
            return 0 if self._lot.has(key) else await self.store.trim(key, shorten, ttl)
        except StoreError:
            self._counts["poll_store_errors"] += 1
            raise

    # -- sweeping and watching -----------------------------------------------------------------------------------

    def _start(self) -> None:
        """Somebody is parked: sweep, and watch."""
        self._last_parked = self._now()
        if self._sweep_timer is None and not self._sweeping and not self._resting:
            self._sweep_timer = asyncio.get_running_loop().call_later(self.settings.interval, self.sweep)
        for watcher in self.watchers if self.settings.watch else ():
            watcher.start()

    def sweep(self) -> None:
        """Begin a sweep now, or another one after the one that runs."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        if self._resting:
            return
        if self._sweeping:
            self._sweep_again = True
            return
        if not self._lot.count and not self.doubts and self._now() - self._last_parked > WATCH_LINGER:
            for watcher in self.watchers:
                watcher.stop()
            return
        self._sweeping = True
        self._run(self._sweep(), "poll sweep")

    async def _sweep(self) -> None:
        started = time.perf_counter()
        keys = self._lot.queues()
        try:
            if keys:
                self.sweeps += 1
                self._counts["poll_sweeps"] += 1
                self._counts["poll_keys_swept"] += len(keys)
                self._last_parked = self._now()
                await asyncio.gather(*(self._ask_server(s, group) for s, group in self.store.by_server(keys).items()))
        finally:
            self._sweeping = False
            self._settle_doubts()
            self.last_sweep_ms = (time.perf_counter() - started) * 1000
            self.last_sweep_keys = len(keys)
        if self._resting:
            return
        again, self._sweep_again = self._sweep_again, False
        self._sweep_timer = asyncio.get_running_loop().call_later(0.0 if again else self.settings.interval, self.sweep)

    def _stored(self, key: bytes) -> None:
        """The watch saw a store."""
        self._counts["poll_watch_lines"] += 1
        self.wake(key)

    def _distrust(self, why: str) -> None:
        """The watch missed something, or has just begun: look at everything at once."""
        if "skipped" in why:
            self._counts["poll_watch_skipped"] += 1
        self.sweep()

    # -- settings and endings ------------------------------------------------------------------------------------

    def changed(self, settings: Settings) -> None:
        """Tunables were set that leave the store as it is."""
        self.settings = settings
        for watcher in self.watchers:
            if not settings.watch:
                watcher.stop()
        if self._lot.count:
            self._start()
            self.sweep()

    async def rest(self, for_publishes: bool = False) -> None:
        """Take nothing more and wait, in bounded time, for the takes in flight."""
        self._resting = True
        for timer in (self._sweep_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self._sweep_timer = self._look_timer = None
        tasks = self._tasks if for_publishes else self._takes
        limit = self.settings.store_timeout * 2 + 1
        while tasks and limit > 0:
            started = time.monotonic()
            await asyncio.wait(set(tasks), timeout=limit)
            limit -= time.monotonic() - started

    def go_on(self) -> None:
        """Begin, or after rest() go on, if there is anything to look for."""
        self._resting = False
        if self._lot.count or self.doubts:
            self._start()
            self.sweep()

    def close(self) -> None:
        """Stop at once; what is in flight fails, and what is in doubt is given up."""
        for key, (pieces, _) in self.doubts.items():
            self._give_up(key, pieces, "the plugin ends before the store came back")
        self._resting = True
        for timer in (self._sweep_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self.stop_watching()
        self.store.close()

    def stop_watching(self) -> None:
        """Let go of the watch streams."""
        for watcher in self.watchers:
            watcher.stop()
