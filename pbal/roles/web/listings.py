"""The lists of directories of one service, so that many who ask for one at once ask the disk once.

    kept     made within SERVER file_recheck, and nothing was written by this pbal since: it is sent as it is
    made     a thread makes it; who asks meanwhile waits for the same one, and is told in a later turn of the loop
    queued   AT_ONCE are being made: it waits for its turn, since the threads are there for files as well. If all leave, none is made

A list of twenty thousand names takes a thread a quarter of a second.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from pbal.model.exchange import Exchange
from pbal.model.world import World
from pbal.roles.files.awaiting import Awaiting, Then
from pbal.roles.files.disk import in_thread
from pbal.roles.web.listing import Listing

AT_ONCE: Final = 2
MOST_KEPT: Final = 2_000_000
"""Octets of pages."""
PORTION: Final = 16
"""Who are told in one turn of the loop."""


class Listings:
    """Those of one service."""

    __slots__ = ("_kept", "_making", "_queue", "_running", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._kept: dict[bytes, Made] = {}
        self._making: dict[bytes, Making] = {}
        self._queue: deque[Making] = deque()
        self._running = 0

    def ask(self, exchange: Exchange, path: bytes, make: Callable[[], Listing], then: Then[Listing]) -> None:
        """Have the list of a directory made, or take one that was. `make` may wait for the disk."""
        stamp = self._world.files.stamp
        kept = self._kept.get(path)
        if kept is not None and kept.fresh_until > self._world.clock.now() and kept.stamp == stamp:
            then(exchange, kept.listing, None)
            return
        making = self._making.get(path)
        if making is None or making.stamp != stamp:
            making = self._making[path] = Making(path, make, stamp)
            self._queue.append(making)
        making.waiting.append(Awaiting(exchange, then))
        self._begin()

    def drop(self) -> None:
        """Keep nothing: what is served has changed."""
        self._kept = {}
        self._making = {}  # who waits is told all the same

    def _begin(self) -> None:
        while self._queue and self._running < AT_ONCE:
            making = self._queue.popleft()
            if all([asking.gone for asking in making.waiting]):
                self._done(making)
                continue
            self._running += 1
            in_thread(making.make, partial(self._made, making))

    def _done(self, making: "Making") -> bool:
        """No more is to join them. Whether it is of what is served now."""
        if self._making.get(making.path) is not making:
            return False
        del self._making[making.path]
        return True

    def _made(self, making: "Making", listing: Listing | None, error: BaseException | None) -> None:
        self._running -= 1
        if self._done(making) and listing is not None:
            self._keep(making, listing)
        self._tell(making.waiting, listing, error)
        self._begin()

    def _keep(self, making: "Making", listing: Listing) -> None:
        recheck = self._world.files.recheck
        self._kept.pop(making.path, None)
        if recheck and len(listing.page) <= MOST_KEPT:
            self._kept[making.path] = Made(listing, self._world.clock.now() + recheck, making.stamp)
        octets = sum([len(made.listing.page) for made in self._kept.values()])
        while octets > MOST_KEPT:
            oldest = next(iter(self._kept))
            octets -= len(self._kept.pop(oldest).listing.page)

    def _tell(self, waiting: "deque[Awaiting[Listing]]", listing: Listing | None, error: BaseException | None) -> None:
        try:
            for _ in range(min(len(waiting), PORTION)):
                waiting.popleft().tell(listing, error)
        finally:  # a fault in one is not to keep the others waiting
            if waiting:
                asyncio.get_running_loop().call_soon(self._tell, waiting, listing, error)


class Made:
    """A list that is kept."""

    __slots__ = ("fresh_until", "listing", "stamp")

    def __init__(self, listing: Listing, fresh_until: float, stamp: int) -> None:
        self.listing = listing
        self.fresh_until = fresh_until
        """Clock time."""
        self.stamp = stamp


class Making:
    """A list that is made, or waits to be."""

    __slots__ = ("make", "path", "stamp", "waiting")

    def __init__(self, path: bytes, make: Callable[[], Listing], stamp: int) -> None:
        self.path = path
        self.make = make
        self.stamp = stamp
        """OpenFiles.stamp when it was asked for: what was written later may be missing."""
        self.waiting: deque[Awaiting[Listing]] = deque()
