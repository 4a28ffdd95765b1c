"""The last ten minutes in numbers, for the charts of the status page.

The tick adds what it sees, once a second; five of them make a sample. A ring of 120 samples is all that is ever kept, some kilobytes.
"""

from collections import deque
from typing import Final, NamedTuple

from pbal.model.measures import values
from pbal.model.world import World

SAMPLES: Final = 120
SECONDS: Final = 5.0
"""Between two samples: together ten minutes."""


class Sample(NamedTuple):
    """What five seconds were like."""

    requests: float
    """A second."""
    parked: int
    """Polls, at the end of it."""
    lag: int
    """Of the loop, in milliseconds: the largest."""
    store_lag: float
    """Of the watch stream of the memcached that is furthest behind, in milliseconds, at the end of it; 0 where there is none."""


class History:
    """The ring."""

    __slots__ = ("_began", "_lag", "_requests", "_world", "samples")

    def __init__(self, world: World) -> None:
        self._world = world
        self._began = world.clock.now()
        self._requests = world.counters.counts["requests"]
        self._lag = 0
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        """Oldest first."""

    def tick(self, now: float) -> None:
        """A second has passed; `now` is clock time."""
        counts = self._world.counters.counts
        self._lag = max(self._lag, counts["loop_lag_ms"])
        passed = now - self._began
        if passed < SECONDS - 0.5:
            return
        requests = counts["requests"]
        behind = [value for _, value in values(self._world, "poll_watch_lag_seconds") if isinstance(value, (int, float))]
        store_lag = 1000 * max(behind, default=0.0)
        self.samples.append(Sample((requests - self._requests) / passed, counts.get("poll_parked", 0), self._lag, store_lag))
        self._began, self._requests, self._lag = now, requests, 0
