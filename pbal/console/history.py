"""The last ten minutes in numbers, for the charts of the status page.

The tick adds what it sees, once a second; five of them make a sample. A ring of 120 samples is all that is ever kept, some kilobytes.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

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


class History:
    """The ring."""

    __slots__ = ("_began", "_counts", "_lag", "_requests", "samples")

    def __init__(self, counts: Mapping[str, int], now: float) -> None:
        self._counts = counts
        self._began = now
        self._requests = counts["requests"]
        self._lag = 0
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        """Oldest first."""

    def tick(self, now: float) -> None:
        """A second has passed; `now` is clock time."""
        counts = self._counts
        self._lag = max(self._lag, counts["loop_lag_ms"])
        passed = now - self._began
        if passed < SECONDS - 0.5:
            return
        requests = counts["requests"]
        self.samples.append(Sample((requests - self._requests) / passed, counts.get("poll_parked", 0), self._lag))
        self._began, self._requests, self._lag = now, requests, 0
