"""How long things take: counts of durations in fixed buckets, since the start and in the last minute.

The edges are the preferred numbers R20 of ISO 3: twenty a decade, about twelve per cent apart, from ten microseconds to a thousand seconds.
1, 2.5 and 5 are among them: what /metrics shows (SHOWN) are sums of whole buckets, and exact.

    window    what was counted since the last turn(); a duration costs a search in the edges and an addition, and makes nothing
    ring      the windows before it, those of the last minute; an empty one is None
    before    everything older

turn() moves a window on, every TURN seconds. A histogram that nobody turns has no last minute.
"""

from math import log
from typing import Final

_R20: Final = (
    "1.00", "1.12", "1.25", "1.40", "1.60", "1.80", "2.00", "2.24", "2.50", "2.80",
    "3.15", "3.55", "4.00", "4.50", "5.00", "5.60", "6.30", "7.10", "8.00", "9.00",
)  # fmt: skip
EDGES: Final[tuple[float, ...]] = (*[float(f"{number}e{decade}") for decade in range(-5, 3) for number in _R20], 1e3)
"""Seconds. A duration is in the bucket of the first edge that is not below it; after the last one follows the bucket of all longer ones."""
BUCKETS: Final = len(EDGES) + 1

SHOWN: Final[tuple[float, ...]] = (*[float(f"{number}e{decade}") for decade in range(-4, 2) for number in ("1", "2.5", "5")], 100.0)
"""Edges that /metrics shows, as Prometheus' own default buckets go; a library asks for no finer ones, and they are kept by series."""

TURN: Final = 10
"""Seconds between two turns."""
WINDOWS: Final = 5
"""Windows in the ring; with the one that is being filled, the last 50 to 60 seconds."""


_STEPS: Final = 20 / log(10)
"""Edges in a factor of e."""


def bucket(seconds: float) -> int:
    """Which bucket a duration is in: the edges are even on a logarithmic scale, but for their rounding."""
    if seconds <= 1e-5:
        return 0
    guess = min(int(log(seconds) * _STEPS) + 100, BUCKETS - 2)
    while guess > 0 and EDGES[guess - 1] >= seconds:
        guess -= 1
    while guess < BUCKETS - 1 and EDGES[guess] < seconds:
        guess += 1
    return guess


class Histogram:
    """Counts of durations. Units: seconds in, milliseconds out. A percentile is an edge: right to fifteen per cent."""

    __slots__ = ("_before", "_ring", "seconds", "window")

    def __init__(self) -> None:
        self.window: list[int] = [0] * BUCKETS
        """What was counted since the last turn, by bucket. Hot paths add to it themselves."""
        self.seconds = 0.0
        """All durations together. Hot paths add to it themselves."""
        self._before: list[int] | None = None
        self._ring: list[list[int] | None] = []

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.window[bucket(seconds)] += 1
        self.seconds += seconds

    def pack(self) -> tuple[list[int], float]:
        """All of it as plain data, for the next generation of a plugin."""
        return self.since_start(), self.seconds

    def unpack(self, packed: tuple[list[int], float]) -> None:
        """Take over what pack() of another gave; of the last minute nothing is known."""
        self._before, self.seconds = packed

    def turn(self) -> None:
        """TURN seconds are over."""
        ring = self._ring
        if any(self.window):
            ring.append(self.window)
            self.window = [0] * BUCKETS
        elif ring:
            ring.append(None)
        if len(ring) > WINDOWS:
            oldest = ring.pop(0)
            if oldest is not None:
                before = self._before
                self._before = oldest if before is None else [one + other for one, other in zip(before, oldest, strict=True)]
        if not any(window is not None for window in ring):
            ring.clear()

    def since_start(self) -> list[int]:
        """Counts by bucket of all that was added."""
        recent = self.last_minute()
        before = self._before
        return recent if before is None else [one + other for one, other in zip(before, recent, strict=True)]

    def last_minute(self) -> list[int]:
        """Counts by bucket of the last minute."""
        full = [window for window in self._ring if window is not None]
        return [sum(column) for column in zip(self.window, *full, strict=True)] if full else self.window[:]

    @property
    def count(self) -> int:
        """Durations added."""
        return sum(self.since_start())

    def percentile(self, share: float) -> float:
        """The duration in milliseconds below which `share` (0..1) of all lie; 0 when nothing was counted."""
        return percentile(self.since_start(), share)

    def cumulative(self) -> list[int]:
        """How many of all are at most as long as each edge of SHOWN; then how many there are."""
        found: list[int] = []
        total = place = 0
        counts = self.since_start()
        for edge in _SHOWN_PLACES:
            total += sum(counts[place : edge + 1])
            place = edge + 1
            found.append(total)
        return [*found, total + sum(counts[place:])]


_SHOWN_PLACES: Final = tuple(EDGES.index(edge) for edge in SHOWN)


def percentile(counts: list[int], share: float) -> float:
    """The duration in milliseconds, an edge, below which `share` (0..1) of the counted lie; 0 when nothing was counted."""
    wanted, seen = share * sum(counts), 0
    for place, number in enumerate(counts):
        seen += number
        if number and seen >= wanted:
            return EDGES[min(place, len(EDGES) - 1)] * 1000
    return 0.0
