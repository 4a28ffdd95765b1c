"""Kept queues of one memcached (poll_keep = confirmed, ttl): read, marked, cut and kept alive. Nothing is taken.

    tell(keys)      read them; readers get what they lack. A value without header gets one first, so that positions are true.
    changed(keys)   which of them are not as they were when last told? One short line each: the sweep's question.
    trim(key)       cut a queue at a place

Who reads a queue keeps it: its time is renewed while more than the ttl is left, and a queue that is not there is begun with a
header alone, so that its readers' places stay true though nobody writes. What a look finds too old, too long or confirmed is cut by
cas: the loser of a race leaves it to the winner, or to the next look.

`_known` remembers of each queue with readers its cas, its end and when something in it grows old. A queue that the server has no room
to mark (memcached -M) is told without positions, and counted.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

from .kept import LONGEST_HEADER, MARKS, Kept
from .lot import Reader
from .memcached import TRIES, Fate, Item, Server
from .positions import BadPosition, Log
from .store import StoreError

if TYPE_CHECKING:
    from .lanes import Shared

MOST_MARKED = 10000
"""Published queues remembered; beyond it all are marked again."""


class _Known(NamedTuple):
    cas: bytes
    due: float
    end: bytes
    """Who stands here had everything."""


class Logs:
    """The kept queues of one server."""

    def __init__(self, server: Server, shared: "Shared") -> None:
        self._server = server
        self._shared = shared
        self._known: dict[bytes, _Known] = {}
        self._marked: dict[bytes, float] = {}
        """Queues that were published to, and the second from which they are marked again."""

    @property
    def _renewed_below(self) -> float:
        """Seconds left with which a queue is renewed: who leaves it before the next sweep finds it again within the ttl."""
        settings = self._shared.settings
        return min(settings.ttl + settings.interval + 1, settings.store_ttl * 0.95)

    async def tell(self, keys: list[bytes], newcomers: dict[bytes, list[Reader]], confirmed: dict[bytes, list[bytes]]) -> list[bytes]:
        """Tell the readers of these queues; of a key in `newcomers` only those. Keys that have to be read again. Raises: StoreError.

        `confirmed`: places up to which readers say that they have everything.
        """
        items = await self._server.read(keys)
        ready: dict[bytes, Log] = {}
        missed: list[bytes] = []
        first: list[tuple[bytes, Kept, bytes | None]] = []
        later: list[tuple[bytes, Kept, bytes | None]] = []
        renew: list[bytes] = []
        for key in keys:
            item = items.get(key)
            kept = None if item is None else Kept.parse(item.value)
            if kept is None:
                first.append((key, *self._begun(key, item)))
                continue
            assert item is not None
            if self._keep_short(key, kept, confirmed.get(key, [])):
                later.append((key, kept, item.cas))
            elif item.left < self._renewed_below:
                renew.append(key)
            log = ready[key] = kept.log(key)
            known = self._known.get(key)
            if key in newcomers and (known is None or known.cas != item.cas):
                missed.append(key)
            self._known[key] = _Known(item.cas, kept.due(self._shared.settings.ttl), log.end)
        # Readers that just came are told of all their queues together, those that begin here, too. Nobody else waits for that.
        self._say({key: log for key, log in ready.items() if key not in newcomers}, newcomers)
        ready = {key: log for key, log in ready.items() if key in newcomers}
        again = await self._write_first(first, ready) if first else []
        missed += [key for key, _, _ in first if key in ready and key in newcomers]
        self._say(ready, newcomers)
        if missed:  # a newcomer's look found what those who came before it do not have: no sweep would tell them any more
            self._shared.tell({key: ready[key] for key in missed}, None)
        if later:
            await self._server.store_many([(key, kept.render(), cas) for key, kept, cas in later], self._shared.settings.store_ttl)
        if renew:
            await self._server.touch_many(renew, self._shared.settings.store_ttl)
        return again

    def _say(self, found: dict[bytes, Log], newcomers: dict[bytes, list[Reader]]) -> None:
        everybody = {key: log for key, log in found.items() if key not in newcomers}
        if everybody:
            self._shared.tell(everybody, None)
        some = {key: log for key, log in found.items() if key in newcomers}
        if some:
            self._shared.tell(some, list(dict.fromkeys(reader for key in some for reader in newcomers[key])))

    def _begun(self, key: bytes, item: Item | None) -> tuple[Kept, bytes | None]:
        """A queue without header gets one; and the cas that it is to be stored with."""
        kept = Kept(data=b"" if item is None else item.value)
        self._keep_short(key, kept, [])
        return kept, None if item is None else item.cas

    def _keep_short(self, key: bytes, kept: Kept, confirmed: list[bytes]) -> bool:
        """Cut off what is confirmed, too old or too much; whether the queue has to be stored."""
        settings = self._shared.settings
        changed = False
        if settings.keep == "confirmed":
            changed = kept.cut(max((self._confirmed(key, kept, place) for place in confirmed), default=0))
        else:
            changed = kept.grow_old(self._shared.second(), settings.ttl)
        most = int(min(settings.max_queue, self._server.longest(key) - LONGEST_HEADER))
        # What cannot be cut is left to who adds to it, since that one knows what is new; header and all count for it.
        if len(kept.data) > most + (LONGEST_HEADER if settings.framing == "none" else 0):
            self._shared.evicted(key, kept.shorten(most, settings.framing))
            changed = True
        return changed

    @staticmethod
    def _confirmed(key: bytes, kept: Kept, place: bytes) -> int:
        try:
            offset, gap = kept.log(key).find(place, True)
        except BadPosition:
            return 0  # it will be told
        return 0 if gap else offset

    async def _write_first(self, first: list[tuple[bytes, Kept, bytes | None]], ready: dict[bytes, Log]) -> list[bytes]:
        """Give queues their header: then they are `ready`. Keys at which somebody was faster."""
        fates = await self._server.store_many([(key, kept.render(), cas) for key, kept, cas in first], self._shared.settings.store_ttl)
        again: list[bytes] = []
        for (key, kept, cas), fate in zip(first, fates, strict=True):
            if fate is Fate.DONE:
                ready[key] = kept.log(key)
            elif fate is Fate.REFUSED:
                self._shared.counts["poll_unmarked"] += 1
                self._known[key] = _Known(cas or b"", math.inf, b"")
                ready[key] = Log(key, b"", 0, kept.data)
            else:
                again.append(key)
        return again

    async def mark(self, key: bytes) -> None:
        """Somebody published to a queue that nobody reads: mark it now and then, so that its messages grow old. Raises: StoreError."""
        settings = self._shared.settings
        if settings.keep == "ttl" and self._shared.second() >= self._marked.get(key, 0.0):
            if len(self._marked) >= MOST_MARKED:
                self._marked.clear()
            self._marked[key] = self._shared.second() + settings.ttl / MARKS
            await self.tell([key], {key: []}, {})

    def has_all(self, key: bytes, place: bytes | None) -> bool:
        """Whether a reader at this place had everything when the queue was last read here, and nothing has grown old since."""
        known = self._known.get(key)
        return known is not None and bool(place) and known.end == place and self._shared.second() < known.due

    def doubt(self) -> None:
        """Messages may have come unseen: what is known holds only for queues with readers, which are swept."""
        self._known = {key: known for key, known in self._known.items() if self._shared.lot.has(key)}

    def forget(self, keys: list[bytes]) -> None:
        """Nothing is known of these queues: the next sweep tells them."""
        for key in keys:
            self._known.pop(key, None)

    def forget_all(self) -> None:
        """Nothing is known of any queue."""
        self._known.clear()

    async def changed(self, keys: list[bytes]) -> list[bytes]:
        """Which of these queues have to be told: written to, not there, or with something that grew old. Raises: StoreError."""
        facts = await self._server.facts(keys)
        second, limit = self._shared.second(), self._renewed_below
        found: list[bytes] = []
        renew: list[bytes] = []
        for key in keys:
            fact, known = facts.get(key), self._known.get(key)
            if known is None or known.cas != (b"" if fact is None else fact.cas) or second >= known.due:
                found.append(key)
            elif fact is not None and fact.left < limit:
                renew.append(key)
        if renew:
            await self._server.touch_many(renew, self._shared.settings.store_ttl)
        if len(self._known) > 2 * len(keys) + 1000:
            self.doubt()
        return found

    async def read(self, key: bytes) -> tuple[bytes, bytes | None]:
        """A queue's messages, and its end where it has positions. Raises: StoreError."""
        item = (await self._server.read([key])).get(key)
        kept = None if item is None else Kept.parse(item.value)
        if kept is None:
            return (b"" if item is None else item.value), None
        return kept.data, kept.log(key).end

    async def trim(self, key: bytes, place: bytes | None) -> None:
        """Cut a queue at a place, or empty it. Raises: StoreError, BadPosition."""
        for _ in range(TRIES):
            item = (await self._server.read([key])).get(key)
            if item is None:
                return
            kept = Kept.parse(item.value) or Kept(data=item.value)
            offset, gap = (kept.end, False) if place is None else kept.log(key).find(place, True)
            if gap or not kept.cut(offset):
                return
            (fate,) = await self._server.store_many([(key, kept.render(), item.cas)], self._shared.settings.store_ttl)
            if fate is not Fate.CHANGED:
                return
        raise StoreError(f"memcached {self._server.name}: {key!r} changes too often to be cut")
