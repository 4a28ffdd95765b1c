"""The tick: what is done once a second. The only timer that always runs; an idle process wakes up for it and nothing else.

Each of its duties is isolated: one connection whose deadline cannot be carried out is aborted, and the others have theirs; one duty that
fails is counted and logged, and the others are done. What holds while the loop does not turn at all is in observe.stuck, what is
measured of its lag in observe.loop.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import Any

from pbal.model.measures import histograms
from pbal.model.world import World
from pbal.observe.histogram import TURN, Histogram
from pbal.observe.loop import LoopLag
from pbal.observe.stuck import Watchdog

log = logging.getLogger("pbal")

TURNED = 250
"""Histograms turned at one tick: 5 ms at most. With ten times as many, the last minute becomes a longer one."""

Duty = tuple[str, Callable[[], None]]
"""What it is called in the log, and what is done."""


class Tick:
    """That of one server. `duties` are done in their order, after deadlines and services."""

    def __init__(self, world: World, duties: list[Duty]) -> None:
        self._world = world
        self._duties = [*duties, ("histograms", self._turn_histograms)]
        self._timer: asyncio.TimerHandle | None = None
        self._turned = world.second // TURN
        """Which turn of the histograms was the last."""
        self._turning: Iterator[Histogram] | None = None
        """Those of this turn that are still to be turned."""
        self.lag = LoopLag(world.clock.now, world.counters.counts, self._stalled)
        self.watchdog: Watchdog | None = None
        """Armed by each tick; the process has one, servers in tests have none."""

    def begin(self) -> None:
        """The first, and the others after it."""
        self.lag.begin()
        self._again()

    def stop(self) -> None:
        """None comes any more."""
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """The end of all that it measures, too."""
        self.stop()
        self.lag.close()

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(1.0, self._again)
        self.now()

    def now(self) -> None:
        """What one tick does."""
        world = self._world
        now = world.clock.now()
        world.second = int(now)
        self.lag.tick()
        if self.watchdog is not None:
            self.watchdog.arm()
        for connections in (world.clients, world.backends):
            for connection in [connection for connection in connections if connection.deadline < now]:
                try:
                    connection.expired(now)
                except Exception as error:  # noqa: BLE001 - the deadlines of all others are to be kept
                    self._give_up(connection, error)
        for service in world.services.values():
            tick = getattr(service.handler, "tick", None)
            if tick is not None:
                self._do(f"tick of {service.name}", tick, now)
        for what, duty in self._duties:
            self._do(what, duty)
        world.limited.tell_left_out()

    def _do(self, what: str, duty: Callable[..., None], *args: float) -> None:
        """One duty; a fault in it ends it alone."""
        try:
            duty(*args)
        except Exception as error:  # whatever it is, the other duties are to be done
            self._world.counters.counts["tick_errors"] += 1
            self._world.log_limited(what, "%(what)s: %(fault)s", {"event": "tick_failed", "what": what, "fault": repr(error)})
            log.debug("the whole of it", exc_info=error)

    def _give_up(self, connection: Any, error: Exception) -> None:
        """Abort a connection whose deadline could not be carried out."""
        connection.deadline = inf
        self._world.counters.counts["tick_errors"] += 1
        try:
            text = connection.describe().text
        except Exception:  # noqa: BLE001 - it is broken already
            text = repr(connection)
        self._world.log_limited(
            "deadline",
            "aborted, since its deadline failed with %(fault)s: %(connection)s",
            {"event": "deadline_failed", "fault": repr(error), "connection": text},
        )
        log.debug("the whole of it", exc_info=error)
        if connection.transport is not None:  # its own abort() may be what is broken; connection_lost still comes
            connection.transport.abort()

    def _turn_histograms(self) -> None:
        """Move their windows on, once in TURN seconds: some at each tick, for there is one for each node."""
        turn = self._world.second // TURN
        if self._turning is None and turn > self._turned:
            self._turned = turn
            self._turning = histograms(self._world)
        if self._turning is not None:
            some = list(islice(self._turning, TURNED))
            for histogram in some:
                histogram.turn()
            if len(some) < TURNED:
                self._turning = None

    def _stalled(self, lag: float, processor: float, requests: int) -> None:
        self._world.log_limited(
            "loop lag",
            "the loop was blocked for %(ms)d ms (%(computing)d ms of it computing; %(requests)d requests were read)",
            {"event": "loop_stalled", "ms": round(lag * 1000), "computing": round(processor * 1000), "requests": requests},
        )
