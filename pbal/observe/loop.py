"""How late the loop is: what every client waits while somebody else is served.

The obvious way is a timer every 50 ms that looks how late it comes. It finds every stall of more than that, and it
wakes an idle process twenty times a second: 1.1 ms of processor time a second, where the whole idle process takes
0.1 ms. So there are two measures:

    at rest    the server's tick, once a second, measures its own lateness. Nothing wakes up for that.
    at work    in the second after one in which the loop's thread used more than 2 % of a processor, a beat every 50 ms
               measures, too.

What it does not see: a stall of less than a second that is the first thing a process does after a rest, unless it happens
to last over a tick; such a one shows from its next occurrence on, or by the part of it that the tick met.

After a stall nobody can tell what ran: it has returned. What can be told is whether the loop computed or waited
(processor time against clock time) and how many requests were read meanwhile. A stall that does not end is described
by `observe.stuck` while it lasts.

Imports nothing of pbal: time and the ways to say something are handed in.
"""

import asyncio
import resource
from collections import deque
from collections.abc import Callable
from math import ceil

from pbal.observe.histogram import Histogram

BEAT = 0.05
"""Seconds between two measurements at work: half of THRESHOLD, so that no stall above that goes unseen."""

THRESHOLD = 0.1
"""Seconds of lag from which on it is logged and counted: what a person notices."""

AT_WORK = 0.02
"""Share of a processor above which the loop is at work."""

_USAGE = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


def processor_seconds() -> float:
    """Processor time of the loop's thread (of the process, where threads are not told apart)."""
    usage = resource.getrusage(_USAGE)
    return usage.ru_utime + usage.ru_stime


class LoopLag:
    """The lag of one loop: counters, a histogram, and a warning above THRESHOLD.

    `warn` gets the lag, the processor time within the measured span, and the requests read in it.
    """

    def __init__(
        self,
        now: Callable[[], float],
        counts: dict[str, int],
        warn: Callable[[float, float, int], None],
        processor: Callable[[], float] = processor_seconds,
    ) -> None:
        self.histogram = Histogram()
        self.turned = now()
        """When a timer of the loop ran last."""
        self._now, self._counts, self._warn, self._processor = now, counts, warn, processor
        self._beat_handle: asyncio.TimerHandle | None = None
        self._due = self.turned
        self._tick_used = self._used = processor()
        self._requests = counts["requests"]
        self._worst = 0.0
        self._minute: deque[int] = deque(maxlen=60)

    def begin(self) -> None:
        """The first tick is due now: how long start-up took is no lag."""
        self._due = self._now()

    def tick(self) -> None:
        """Called by the tick, which has asked for its next call a second from now."""
        now = self._now()
        if self._beat_handle is None:
            self._measure(now)
        self._minute.append(ceil(self._worst * 1000))
        counts = self._counts
        counts["loop_lag_ms"] = self._minute[-1]
        counts["loop_lag_max_ms"] = max(self._minute)
        counts["loop_lag_p99_ms"] = ceil(self.histogram.percentile(0.99))
        self._worst = 0.0
        used = self._processor()
        at_work = used - self._tick_used > AT_WORK
        self._tick_used = used
        if at_work and self._beat_handle is None:
            self._next_beat(now)
        elif not at_work:
            self._stop_beating()
            self._due = now + 1.0

    def _next_beat(self, now: float) -> None:
        self._due = now + BEAT
        self._beat_handle = asyncio.get_running_loop().call_later(BEAT, self._beat)

    def _beat(self) -> None:
        now = self._now()
        self._measure(now)
        self._next_beat(now)

    def _stop_beating(self) -> None:
        if self._beat_handle is not None:
            self._beat_handle.cancel()
            self._beat_handle = None

    def _measure(self, now: float) -> None:
        lag = max(now - self._due, 0.0)
        self.turned = now
        self.histogram.add(lag)
        self._worst = max(self._worst, lag)
        used, requests = self._processor(), self._counts["requests"]
        if lag >= THRESHOLD:
            self._counts["loop_stalls"] += 1
            self._warn(lag, used - self._used, requests - self._requests)
        self._used, self._requests = used, requests

    def close(self) -> None:
        """Stop measuring."""
        self._stop_beating()
