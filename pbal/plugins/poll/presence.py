"""Who is here (poll_presence): a queue is present while somebody waits for it, or left less than poll_grace ago.

    came    a reader waits for it             -> join, if it was not present anywhere
    went    its last reader here left         -> after poll_grace without another one: leave, if nobody is elsewhere

Between two polls of one client nothing is said: that is what the grace is for. Join and leave are messages on poll_presence_queue.

Over several pbals that share a memcached, each queue has one small key there: which pbal vouches for it until when, with how many
readers, what was said last, and how often. It is changed by cas, and only who changed it says so: each join and leave is said once.
A pbal renews what it vouches for; one that was killed does not, and when its lease is over, any other that saw the key change
(the watch shows it) says the leave. `number` counts what was said of a queue, so that a client can tell which came first.

Work is in batches of some hundred queues, one at a time: a crowd that comes back after a restart is a few round trips.
"""

import asyncio
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any

from .formats import attribute, text
from .framing import wrap
from .lot import QUARTER
from .memcached import Fate, Item, Server
from .names import HERE, BadName, key_for
from .store import StoreError

if TYPE_CHECKING:
    from .hub import Hub

log = logging.getLogger("pbal.poll")

LEASES = 3.0
"""A lease, in times of the grace."""
SHORTEST_LEASE = 3.0
A_TURN = 100
"""Queues that leave, or are looked at, in one turn of the loop: a few milliseconds."""
REMEMBERED = 10_000
"""Queues whose last reader left of which it is known when."""
FAR = 1e11
"""No time of a key is so far away, and no number so large: what says it is rubbish."""
TOGETHER = 200
TOMBSTONE = 3600
"""Seconds for which memcached remembers a queue that nobody is at."""


@dataclass(slots=True)
class Shared:
    """What the key of a queue holds."""

    queue: str
    by: dict[str, tuple[float, int]] = field(default_factory=dict)
    """For each pbal until when it vouches (Unix time), and its readers."""
    present: bool = False
    """As it was said last."""
    number: int = 0
    seen: float = 0.0

    @classmethod
    def parse(cls, value: bytes, queue: str = "") -> "Shared":
        """What a value says of a queue, of the one that it names itself if none is given. Rubbish is as nothing."""
        try:
            held = json.loads(value)
            by = {str(name): (float(until), int(count)) for name, (until, count) in held["by"].items()}
            number, seen = int(held["number"]), float(held["seen"])
            if not all([abs(said) < FAR for said in (number, seen, *chain.from_iterable(by.values()))]):  # nor is NaN
                return cls(queue)
            return cls(queue or str(held["queue"]), by, bool(held["present"]), number, seen)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return cls(queue)

    def render(self) -> bytes:
        """As it is stored."""
        facts = {"queue": self.queue, "by": self.by, "present": self.present, "number": self.number, "seen": round(self.seen, 3)}
        return json.dumps(facts).encode()

    def count(self, second: float) -> int:
        """Readers of all pbals whose lease is not over."""
        return sum(readers for until, readers in self.by.values() if until > second)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of who is at a queue. `seen`: Unix time, 0 if nobody was."""

    present: bool
    count: int
    seen: float


class Presence:
    """Presence of one service's queues."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._id = hub.world.identity.hex()
        self._due: dict[bytes, float] = {}
        """Queues present here, and when they leave (clock time); inf while somebody waits."""
        self._order: dict[int, list[bytes]] = {}
        """By quarter of a second, as the hub's tick goes: queues to look at then."""
        self._looks: dict[bytes, int] = {}
        """By queue: the quarter of its next look. There is one for each; what _order has of it at other times is passed over."""
        self._ripe: deque[bytes] = deque()
        """Queues whose time has come."""
        self._seen: dict[bytes, float] = {}
        """Unix time at which somebody was last here, of queues that left; the oldest first."""
        self._changed: dict[bytes, None] = {}
        """Queues whose key in memcached has to be looked at."""
        self._names: dict[bytes, bytes] = {}
        """Presence key to queue, for the queues known here and those seen in the watch."""
        self._said_here: set[bytes] = set()
        """Without memcached: queues of which a join was said, and no leave yet."""
        self._working = False
        self.said = 0

    @property
    def _on(self) -> bool:
        return self._hub.settings.presence

    @property
    def _lease(self) -> float:
        return max(LEASES * self._hub.settings.grace, SHORTEST_LEASE)

    def _counts_for(self, key: bytes) -> bool:
        """Whether a queue has presence: the one that tells of it has none."""
        before, star, after = self._hub.settings.presence_queue.encode().partition(b"*")
        name = key[len(self._hub.settings.prefix) :]
        return not (name.startswith(before) and name.endswith(after)) if star else name != before

    # -- what the hub says ---------------------------------------------------------------------------------------

    def came(self, keys: Iterable[bytes]) -> None:
        """Somebody waits for these queues."""
        if not self._on:
            return
        for key in keys:
            due = self._due.get(key)
            if due is None and self._counts_for(key):
                self._due[key] = inf
                self._seen.pop(key, None)
                self._changes(key)
                self._look_at(key, self._hub.world.clock.now() + self._lease / 2)
            elif due is not None:
                self._due[key] = inf

    def went(self, keys: Iterable[bytes]) -> None:
        """Somebody waits for these queues no more."""
        if not self._due:
            return
        lot, now = self._hub.lot, self._hub.world.clock.now()
        for key in keys:
            if key in self._due and not lot.has(key):
                self._due[key] = now + self._hub.settings.grace
                self._look_at(key, self._due[key])

    @property
    def busy(self) -> bool:
        """Whether time has to be looked at."""
        return bool(self._order)

    def tick(self, now: float) -> None:
        """Queues whose time has come: they leave, are renewed, or another pbal's lease is over."""
        quarter = int(now * QUARTER)
        for due in [due for due in self._order if due <= quarter]:
            for key in self._order.pop(due):
                if self._looks.get(key) == due:
                    del self._looks[key]
                    self._ripe.append(key)
        self._look_at_some()

    def _look_at_some(self) -> None:
        """A_TURN of those whose time has come; the others in the next turn of the loop."""
        if self._hub.serving() is not self._hub:
            return  # they are the next generation's
        now = self._hub.world.clock.now()
        for _ in range(min(A_TURN, len(self._ripe))):
            key = self._ripe.popleft()
            due = self._due.get(key)
            if due is not None and due <= now and not self._hub.lot.has(key):
                del self._due[key]
                self._remember(key, due - self._hub.settings.grace - now)
            elif due is not None:
                self._look_at(key, min(due, now + self._lease / 2))
            self._changes(key)
        if self._ripe:
            asyncio.get_running_loop().call_soon(self._look_at_some)

    def _look_at(self, key: bytes, when: float) -> None:
        """Look at a queue then, or earlier, if that is to be already: each look says when the next one has to be."""
        quarter = int(when * QUARTER) + 1
        if self._looks.get(key, inf) > quarter:
            self._looks[key] = quarter
            self._order.setdefault(quarter, []).append(key)
            self._hub.wake_tick()

    def _remember(self, key: bytes, ago: float) -> None:
        self._seen[key] = self._hub.world.clock.epoch() + ago
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def foreign(self, here: bytes) -> None:
        """The watch saw a presence key change. If that was another pbal, its lease is looked at when it is over."""
        key = self._names.get(here)
        board = self._hub.store.board
        if board is not None and self._on and (key is None or (key not in self._due and key not in self._looks)):
            board.read(self._read_name, [here])

    def _read_name(self, here: bytes, value: bytes) -> None:
        """A key of presence that another pbal wrote."""
        shared = Shared.parse(value)
        key = self._hub.settings.prefix + shared.queue.encode("utf-8", "replace")
        if here == self.here_of(key) and shared.present and key not in self._due:
            self._names[here] = key
            last = max((until for until, _ in shared.by.values()), default=0.0)
            self._look_at(key, self._hub.world.clock.now() + max(last - self._hub.world.clock.epoch(), 0.0) + 1)

    def here_of(self, key: bytes) -> bytes:
        """The key of a queue's presence."""
        prefix = self._hub.settings.prefix
        return prefix + HERE + hashlib.blake2b(key[len(prefix) :], digest_size=16).hexdigest().encode()

    # -- saying it -----------------------------------------------------------------------------------------------

    def _changes(self, key: bytes) -> None:
        """A queue is present here, or is not any more: find out whether that is news, and say it."""
        board = self._hub.store.board
        if board is None:
            known = key in self._due
            if known != (key in self._said_here):
                if known:
                    self._said_here.add(key)
                else:
                    self._said_here.discard(key)
                self.said += 1
                self._say(key, "join" if known else "leave", self._hub.lot.number(key), self.said)
            return
        self._changed[key] = None
        if not self._working:
            self._working = True
            board.work(self._work)

    async def _work(self, by_server: Callable[[list[bytes]], dict[Server, list[bytes]]]) -> None:
        """Bring the keys in memcached up to date, and say what is new."""
        try:
            while self._changed:
                keys = [*self._changed][:TOGETHER]
                for key in keys:
                    del self._changed[key]
                names = {self.here_of(key): key for key in keys}
                for server, heres in by_server([*names]).items():
                    try:
                        await self._update(server, {here: names[here] for here in heres})
                    except StoreError:  # counted and said by the server
                        for here in heres:
                            self._look_at(names[here], self._hub.world.clock.now() + 1)
        finally:
            self._working = False

    async def _update(self, server: Server, names: dict[bytes, bytes]) -> None:
        """The keys of one server. Raises: StoreError."""
        items = await server.read([*names])
        second = self._hub.world.clock.epoch()
        news: list[tuple[Shared, bool]] = []
        writes: list[tuple[bytes, bytes, bytes | None]] = []
        for here, key in names.items():
            item = items.get(here)
            shared, before = self._renewed(key, item, second)
            if item is None and not shared.present:
                self._names.pop(here, None)
                continue
            value = shared.render()
            if item is not None and value == item.value:  # who vouches for it renews it
                self._go_on_with(here, key, shared, second)
                continue
            news.append((shared, before))
            writes.append((here, value, None if item is None else item.cas))
        if not writes:
            return
        fates = await server.store_many(writes, max(int(self._lease * 2), TOMBSTONE))
        for (here, _, _), (shared, before), fate in zip(writes, news, fates, strict=True):
            key = names[here]
            if fate is Fate.DONE:
                if shared.present != before:
                    self._say(key, "join" if shared.present else "leave", shared.count(second), shared.number)
                self._go_on_with(here, key, shared, second)
            elif fate in (Fate.CHANGED, Fate.GONE):
                self._changed[key] = None
            else:
                self._look_at(key, self._hub.world.clock.now() + 1)

    def _go_on_with(self, here: bytes, key: bytes, shared: Shared, second: float) -> None:
        """The key of a queue is as it has to be. Where somebody else vouches for it: look whether it goes on doing so."""
        if shared.present:
            self._names[here] = key
        else:
            self._names.pop(here, None)
        others = [until for name, (until, _) in shared.by.items() if name != self._id]
        if others and key not in self._due:
            self._look_at(key, self._hub.world.clock.now() + max(others) - second + 1)

    def _renewed(self, key: bytes, item: Item | None, second: float) -> tuple[Shared, bool]:
        """A queue's key as it has to be now, and whether it was present before."""
        queue = text(key[len(self._hub.settings.prefix) :])
        shared = Shared(queue) if item is None else Shared.parse(item.value, queue)
        before = shared.present
        shared.by = {name: lease for name, lease in shared.by.items() if lease[0] > second and name != self._id}
        if key in self._due:
            shared.by[self._id] = (round(second + self._lease, 1), self._hub.lot.number(key))
        shared.present = bool(shared.by)
        if self._hub.lot.has(key):
            shared.seen = second
        else:
            shared.seen = max(shared.seen, self._seen.get(key, 0.0))
        if shared.present != before:
            shared.number += 1
        return shared, before

    def _say(self, key: bytes, event: str, count: int, number: int) -> None:
        """A message on poll_presence_queue."""
        hub = self._hub
        settings = hub.settings
        queue = text(key[len(settings.prefix) :])
        said = partial(self._said, event)
        try:
            target = key_for(settings.presence_queue.replace("*", queue).encode(), settings.prefix)
        except BadName as error:  # a `*` makes a long name longer than memcached takes
            said(error)
            return
        second = round(hub.world.clock.epoch(), 3)
        if settings.format == "xml":
            message = f'<presence queue="{attribute(queue)}" event="{event}" count="{count}" number="{number}" time="{second}"/>'
        else:
            message = json.dumps({"queue": queue, "event": event, "count": count, "number": number, "time": second})
        hub.serving().store.append(target, wrap(message.encode(), settings.framing), said)

    def _said(self, event: str, error: Exception | None) -> None:
        if error is None:
            self._hub.counts["poll_joins" if event == "join" else "poll_leaves"] += 1
        else:
            self._hub.counts["poll_presence_lost"] += 1
            self._hub.world.log_limited(
                "poll_presence",
                "a join or leave could not be stored: %(reason)s",
                {"event": "poll_presence_lost", "service": self._hub.service.name, "reason": str(error)},
            )

    def reset(self) -> None:
        """It was turned on or off, or another store or prefix counts from now on."""
        self._ripe.clear()
        for table in (self._due, self._order, self._looks, self._seen, self._changed, self._names, self._said_here):
            table.clear()
        self.came(self._hub.lot.queues())

    # -- what is known -------------------------------------------------------------------------------------------

    def here(self, key: bytes) -> Facts:
        """What this process knows of a queue."""
        due = self._due.get(key)
        return Facts(
            due is not None, self._hub.lot.number(key), self._hub.world.clock.epoch() if due is not None else self._seen.get(key, 0.0)
        )

    def find(self, key: bytes, done: Callable[[Facts], None]) -> None:
        """What is known of a queue anywhere. Calls `done` at once where it is known here."""
        known = self.here(key)
        board = self._hub.store.board
        if known.present or board is None:
            done(known)
            return

        def read(_: bytes, value: bytes) -> None:
            second = self._hub.world.clock.epoch()
            shared = Shared.parse(value)
            done(Facts(any(until > second for until, _ in shared.by.values()), shared.count(second), max(shared.seen, known.seen)))

        board.read(read, [self.here_of(key)])

    def list(self) -> Iterator[tuple[bytes, float | None]]:
        """Queues present here, each with the seconds until it leaves; None while somebody waits."""
        now = self._hub.world.clock.now()
        for key, due in sorted(self._due.items()):
            yield key, None if due == inf else max(due - now, 0.0)

    def names(self) -> Iterator[bytes]:
        """Queues that are present here."""
        return iter([*self._due])

    # -- over a reload -------------------------------------------------------------------------------------------

    def carry(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "due": dict(self._due), "seen": dict(self._seen), "said_here": set(self._said_here), "said": self.said,
            "looks": {**dict.fromkeys(self._ripe, 0.0), **{key: (when - 1) / QUARTER for key, when in self._looks.items()}},
        }  # fmt: skip

    def adopt(self, carried: dict[str, Any]) -> None:
        """What carry() of the generation before returned."""
        now = self._hub.world.clock.now()
        self._due, self._seen = dict(carried["due"]), dict(carried["seen"])
        self._said_here, self.said = set(carried["said_here"]), carried["said"]
        for key, when in carried["looks"].items():  # of other pbals' queues, too: whether they go on vouching for them
            self._look_at(key, when)
        for key, due in self._due.items():
            self._look_at(key, min(due, now + self._lease / 2))
