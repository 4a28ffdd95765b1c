"""From memcached to the lot: looks, takes, sweeps, and what the watch says.

    wake(key)      something may be there: take it now
    look(keys)     first look for polls that just came: those of the same few milliseconds share one question
    sweep          every poll_interval, the keys of all parked polls, poll_batch a question; the truth behind every hint

Each server has a Lane (lanes.py), which does the work and waits for nobody else's. Here is what they have in common: whose
key it is, the timers, the rest before a reload, the lines for the log.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from pbal.api import spawn

from .framing import trim as trimmed
from .kept import LONGEST_HEADER, Kept
from .lanes import Doubt, Lane, Shared
from .lot import Reader
from .memcached import Server
from .names import HERE
from .servers import Memcached, squeeze, trim
from .settings import Settings
from .store import TooLarge
from .watch import Watcher

if TYPE_CHECKING:
    from .hub import Hub

__all__ = ["Courier", "Doubt"]

log = logging.getLogger("pbal.poll")

SHARED_LOOK = 0.002
"""Seconds within which arriving polls share a first look."""
WATCH_LINGER = 30.0
"""Seconds that watch and sweep go on after the last poll left: clients come back in a moment."""


class Courier:
    """One service's traffic with its memcacheds."""

    def __init__(self, hub: "Hub", wake_later: Callable[[bytes], None]) -> None:
        self._lot = hub.lot
        self._counts = hub.counts
        self._now = hub.world.clock.now
        self._say = hub.world.log_limited
        self._someone = hub.presence.foreign
        self._here = hub.settings.prefix + HERE
        secret = self._secret(hub.settings)
        self.store = Memcached(hub.settings.store.places, self._now, lambda: self.settings.store_timeout, self._report, secret)
        self.shared = Shared(hub, wake_later, self.store.server_of, self._shorten)
        self.shared.sweep_soon = self._sweep_soon
        self.shared.sweep_lane = self._sweep_lane
        self.lanes = [self._lane(server, secret) for server in self.store.servers]
        self._lane_of = {lane.server: lane for lane in self.lanes}
        self._looking: list[Reader] = []
        self._look_timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._last_parked = self._now()
        self._compared: set[tuple[str, int, int]] = set()
        self._cutting: dict[bytes, asyncio.Event] = {}
        """Queues that are being shortened, each with what is set when that is done."""
        self.sweeps = 0

    def _lane(self, server: Server, secret: bytes | None) -> Lane:
        prefix = self.settings.prefix
        watcher = Watcher(server.endpoint, prefix, self._now, self._stored, lambda why: self._distrust(server, why), self._say, secret)
        lane = Lane(server, watcher, self.shared)

        def greeted() -> None:
            self._compare_sizes(server)
            lane.connected()

        server.on_greeted = greeted
        return lane

    # -- what is asked of it from outside ------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The service's tunables as they are now."""
        return self.shared.settings

    @property
    def doubts(self) -> dict[bytes, Doubt]:
        """See lanes.py."""
        return self.shared.doubts

    @doubts.setter
    def doubts(self, doubts: dict[bytes, Doubt]) -> None:
        self.shared.doubts = doubts

    @property
    def watchers(self) -> list[Watcher]:
        """A watcher a server."""
        return [lane.watcher for lane in self.lanes]

    @property
    def busy(self) -> bool:
        """Whether a store call is in flight."""
        return bool(self.shared.tasks)

    def run_publish(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something that only adds to a queue: a reload need not wait for it."""
        task = spawn(self, coroutine, "poll publish")
        self.shared.tasks.add(task)
        task.add_done_callback(self.shared.tasks.discard)

    def lane_of(self, key: bytes) -> Lane:
        """The lane of the server that holds a key."""
        return self.lanes[0] if len(self.lanes) == 1 else self._lane_of[self.store.server_of(key)]

    def wake(self, key: bytes) -> None:
        """Take what is there for `key`, if somebody is parked for it or it is in doubt."""
        if self.shared.wanted(key) or self.settings.keep != "taken":
            self.lane_of(key).wake(key)

    def put_back(self, queues: list[tuple[bytes, bytes]]) -> None:
        """A client was lost after its answer was written: put the messages back in front."""
        for key, value in queues:
            self.lane_of(key).put_back(key, value)

    def inherit(self, doubts: dict[bytes, Doubt]) -> None:
        """Octets that an earlier courier left in doubt: taken before anything that is in doubt here."""
        for key, (pieces, since) in doubts.items():
            later, _ = self.doubts.get(key, ((), since))
            self.doubts[key] = ((*pieces, *later), since)
        self.go_on()

    async def publish(self, key: bytes, data: bytes) -> int:
        """Append to a queue; how many older messages went for want of room. Raises: StoreError, TooLarge, Full."""
        server, ttl = self.store.server_of(key), self.settings.store_ttl
        if self.settings.keep != "taken" and len(data) > server.longest(key) - LONGEST_HEADER:
            room = server.longest(key) - LONGEST_HEADER
            raise TooLarge(f"memcached {server.name} takes {room:.0f} bytes beside a queue's header, the message has {len(data)}")
        emptied = self.settings.keep == "taken" and self._lot.has(key)  # who waits has taken what was there
        size = await server.append(key, data, ttl, begin=emptied)
        most = self._most(server, key)  # it has said by now how much it takes
        if size is None:
            while key in self._cutting:
                await self._cutting[key].wait()
            return await self._cut(key, squeeze(server, key, data, most, self._shorten, ttl))
        if size <= most or self._lot.has(key) or key in self._cutting:  # whoever cuts it finds this message there, too
            return 0
        return await self._cut(key, trim(server, key, most, self._shorten, ttl, data))

    async def _cut(self, key: bytes, cutting: Coroutine[Any, Any, int]) -> int:
        """Shorten a queue. One at a time: each reads and stores all of it, and by cas only one of many succeeds."""
        done = self._cutting[key] = asyncio.Event()
        try:
            return await cutting
        finally:
            del self._cutting[key]
            done.set()

    def _most(self, server: Server, key: bytes) -> int:
        """Octets that a queue may have in the store; the header of one that keeps its messages comes on top of poll_max_queue."""
        header = 0 if self.settings.keep == "taken" else LONGEST_HEADER
        return int(min(self.settings.max_queue + header, server.longest(key)))

    def _shorten(self, value: bytes, most: int, newest: bytes) -> tuple[bytes, int]:
        """A value within `most` octets, header and all."""
        kept = Kept.parse(value)
        if kept is None:
            return trimmed(value, most, self.settings.framing, newest)
        dropped = kept.shorten(max(most - LONGEST_HEADER, 1), self.settings.framing, newest)
        return kept.render(), dropped

    # -- first looks ---------------------------------------------------------------------------------------------

    def look(self, reader: Reader, came: Iterable[bytes]) -> None:
        """First look for one who was just parked, and has just said where it stands in these queues."""
        if self.settings.keep == "confirmed":
            for key in came:
                place = reader.place(key)
                if place is not None:
                    self.lane_of(key).confirm(key, place)
        self._looking.append(reader)
        self._start()
        self._look_soon()

    def _look_soon(self) -> None:
        if self._looking and self._look_timer is None and not self.shared.resting:
            self._look_timer = asyncio.get_running_loop().call_later(SHARED_LOOK, self._look)

    def _look(self) -> None:
        self._look_timer = None
        if self.shared.resting:
            return
        readers, self._looking = self._looking, []
        if self.settings.keep != "taken":
            for reader in readers:
                for key in reader.all_keys():
                    if reader.lot is self._lot:
                        self.lane_of(key).welcome(key, reader)
            return
        keys = dict.fromkeys(key for reader in readers for key in reader.all_keys())
        for server, group in self.store.by_server(key for key in keys if self._lot.has(key)).items():
            if group:
                self._lane_of[server].ask(group)

    # -- sweeping and watching -----------------------------------------------------------------------------------

    def _start(self) -> None:
        """Somebody is parked: sweep, and watch."""
        self._last_parked = self._now()
        self._sweep_soon()
        for lane in self.lanes if self.settings.watch else ():
            lane.watcher.start()

    def _sweep_soon(self) -> None:
        if self._sweep_timer is None and not self.shared.resting:
            self._sweep_timer = asyncio.get_running_loop().call_later(self.settings.interval, self._sweep_in_turn)

    def _sweep_in_turn(self) -> None:
        self._sweep_timer = None
        self.sweep(again=False)

    def sweep(self, again: bool = True) -> None:
        """Begin a sweep on every server now; on one that is being swept, `again` when that is done."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        if self.shared.resting:
            return
        if not self._lot.count and not self.doubts and self._now() - self._last_parked > WATCH_LINGER:
            self.stop_watching()
            return
        keys = self._lot.queues()
        groups = self.store.by_server(keys)
        began = [lane.sweep(groups.get(lane.server, []), again) for lane in self.lanes]
        if keys:
            self._last_parked = self._now()
        if keys and any(began):
            self.sweeps += 1
            self._counts["poll_sweeps"] += 1
            self._counts["poll_keys_swept"] += sum(
                len(groups.get(lane.server, [])) for lane, begun in zip(self.lanes, began, strict=True) if begun
            )
        self._sweep_soon()

    def _sweep_lane(self, lane: Lane) -> None:
        """One server's queues, now."""
        if self.shared.resting:
            return
        keys = self.store.by_server(self._lot.queues()).get(lane.server, [])
        if lane.sweep(keys, again=True) and keys:
            self.sweeps += 1
            self._counts["poll_sweeps"] += 1
            self._counts["poll_keys_swept"] += len(keys)

    def _stored(self, key: bytes) -> None:
        """The watch saw a store."""
        if key.startswith(self._here):
            self._someone(key)
            return
        self._counts["poll_watch_lines"] += 1
        self.wake(key)

    def _distrust(self, server: Server, why: str) -> None:
        """The watch missed something, or has just begun: look at everything on that server at once."""
        if "skipped" in why:
            self._counts["poll_watch_skipped"] += 1
        self._lane_of[server].distrust()
        self._sweep_lane(self._lane_of[server])

    def stop_watching(self) -> None:
        """Let go of the watch streams."""
        for lane in self.lanes:
            lane.watcher.stop()

    # -- what servers say ----------------------------------------------------------------------------------------

    def _report(self, kind: str, text: str, failed: bool) -> None:
        """A server has something to say; whether a call failed."""
        if failed:
            self._counts["poll_store_errors"] += 1
        self._say(kind, "%s", text)

    def _compare_sizes(self, server: Server) -> None:
        """A queue may not become as long as poll_max_queue says: say so, once for each pair of sizes."""
        most, limit = self.settings.max_queue, server.item_limit
        sizes = (server.name, most, limit)
        if limit and most > limit and sizes not in self._compared:
            self._compared.add(sizes)
            said = f"poll_max_queue is {most} bytes, and memcached {server.name} takes {limit}: queues are cut to that"
            self._say(said, "%s", said)

    def _secret(self, settings: Settings) -> bytes | None:
        auth = settings.store_auth
        if auth is None:
            return None
        if auth.readable:
            kind = f"poll_store_auth {auth.path}"
            self._say(kind, "poll_store_auth: other users may read %s (chmod o-r)", auth.path)
        return auth.secret

    # -- settings and endings ------------------------------------------------------------------------------------

    def changed(self, settings: Settings) -> None:
        """Tunables were set that leave the store as it is."""
        before, self.shared.settings = self.settings, settings
        if settings.store_auth != before.store_auth:
            secret = self._secret(settings)
        else:
            secret = None if settings.store_auth is None else settings.store_auth.secret
        for lane in self.lanes:
            lane.server.authenticate(secret)
            lane.watcher.authenticate(secret)
            if settings.max_queue != before.max_queue:
                self._compare_sizes(lane.server)
            if not settings.watch:
                lane.watcher.stop()
        if self._lot.count:
            self._start()
            self.sweep()

    async def rest(self, for_publishes: bool = False) -> None:
        """Take nothing more and wait, in bounded time, for the takes in flight."""
        self._halt()
        tasks = self.shared.tasks if for_publishes else self.shared.takes
        limit = self.settings.store_timeout * 2 + 1
        while tasks and limit > 0:
            started = time.monotonic()
            await asyncio.wait(set(tasks), timeout=limit)
            limit -= time.monotonic() - started

    def _halt(self) -> None:
        self.shared.resting = True
        for timer in (self._sweep_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self._sweep_timer = self._look_timer = None

    def go_on(self) -> None:
        """Begin, or after rest() go on, if there is anything to look for."""
        self.shared.resting = False
        if self._lot.count or self.doubts:
            self._start()
            self.sweep()
            self._look_soon()  # who came during the rest

    def close(self) -> None:
        """Stop at once; what is in flight fails, and what is in doubt is given up."""
        self.shared.give_up_all()
        self._halt()
        self.stop_watching()
        self.store.close()
