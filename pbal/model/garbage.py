"""Freeing what a RELOAD or UNLOAD leaves behind, when nobody waits for it.

A generation of code is nothing but circles (a module and its functions, a class and itself), so only the collector frees it, and
left alone that comes to the oldest objects late. One full collection looks at everything that was made since start-up: with
5,000 parked polls it takes 12 ms. So it is done once for any number of reloads, in a moment without requests if one comes soon.
"""

import asyncio
import gc
import logging
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from pbal.model.world import World

log = logging.getLogger("pbal")

PAUSE = 0.25
"""Seconds without a request that count as an idle moment: who reads and answers messages is not in the middle of it then."""

LONGEST = 60.0
"""Seconds after which an unbroken stream of requests waits the few milliseconds: a thousand reloads an hour must not pile up."""


class _Due:
    """A collection that is wanted. Its timer belongs to the World, and ends with its being served."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._wanted_at = world.clock.now()
        self._requests = world.counters.counts["requests"]
        self.frozen = False
        asyncio.get_running_loop().call_later(PAUSE, self._look)

    def _look(self) -> None:
        """Collect, if no request came since the last look or it is time."""
        world = self._world
        if world.runtime is None:
            _due.pop(world, None)
            return
        requests = world.counters.counts["requests"]
        now = world.clock.now()
        if requests != self._requests and now - self._wanted_at < LONGEST:
            self._requests = requests
            asyncio.get_running_loop().call_later(PAUSE, self._look)
            return
        _due.pop(world, None)
        if self.frozen and gc.get_freeze_count():
            gc.unfreeze()
            found = gc.collect()
            gc.freeze()
        else:
            found = gc.collect()
        log.debug("collected %d objects in %d ms", found, (world.clock.now() - now) * 1000)


_due: "WeakKeyDictionary[World, _Due]" = WeakKeyDictionary()


def collect_soon(world: "World", frozen: bool) -> None:
    """Collect garbage once, soon. `frozen`: what is to go was there at start-up, among what the collector was told to leave alone."""
    due = _due.get(world)
    if due is None:
        due = _due[world] = _Due(world)
    due.frozen = due.frozen or frozen
