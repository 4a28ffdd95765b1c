"""Time. The only module that asks the system for it, so that a test can hand in its own."""

import time


class Clock:
    """The system's clocks."""

    __slots__ = ()

    now = staticmethod(time.monotonic)
    """Seconds on a clock that never steps; only differences mean anything. Called four times a request: no frame of ours."""

    epoch = staticmethod(time.time)
    """Seconds since 1970, for people and for HTTP dates."""


class ManualClock(Clock):
    """A clock that moves when told to. Tests of deadlines use it instead of waiting."""

    __slots__ = ("_epoch", "_now")

    def __init__(self, now: float = 1000.0, epoch: float = 1_700_000_000.0) -> None:
        self._now, self._epoch = now, epoch

    def now(self) -> float:
        return self._now

    def epoch(self) -> float:
        return self._epoch

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._epoch += seconds
