"""Work on many polls, a few of them in a turn of the loop: ten thousand readers of one queue hold nobody else up.

A job is a list of polls as they were when it began, and what to do with each; who has left the lot meanwhile is passed over
by what is done. Few polls are served at once, in the turn that brought the message. Where a longer job for the same queue
is under way, a later one waits behind it, so that a poll gets its messages in their order.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from .lot import Reader

SLICE = 128
"""Polls answered in one turn: about two milliseconds."""


class _Job:
    """What is left of one job."""

    __slots__ = ("do", "keys", "late", "polls")

    def __init__(self, polls: Iterator[Reader], do: Callable[[Reader], None], keys: frozenset[bytes]) -> None:
        self.polls, self.do, self.keys = polls, do, keys
        self.late: Callable[[], None] | None = None
        """What to call at the end of a job that was not done at once."""

    def run(self, most: int) -> bool:
        """Serve at most so many; True when none is left."""
        do = self.do
        for _ in range(most):
            poll = next(self.polls, None)
            if poll is None:
                if self.late is not None:
                    self.late()
                return True
            do(poll)
        return False


class Turns:
    """The jobs of one lot."""

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._scheduled = False

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return bool(self._jobs)

    def each(
        self,
        polls: Sequence[Reader],
        do: Callable[[Reader], None],
        done: Callable[[], None] | None = None,
        keys: frozenset[bytes] = frozenset(),
    ) -> bool:
        """Call `do` with each poll: now, and True; or over the next turns of the loop, and then `done`. `keys`: the queues it is about."""
        job = _Job(iter(polls), do, keys)
        behind = any(not keys.isdisjoint(other.keys) for other in self._jobs)
        if not behind and job.run(SLICE):
            return True
        job.late = done
        self._jobs.append(job)
        self._schedule()
        return False

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        try:
            if self._jobs and self._jobs[0].run(SLICE):
                self._jobs.popleft()
        finally:  # a fault of one poll is its own: the next ones are served, and time goes on for all
            if self._jobs:
                self._schedule()

    async def rest(self) -> None:
        """Until nothing is left to do."""
        while self._jobs:  # noqa: ASYNC110 - a few turns of the loop, of which each does a part
            await asyncio.sleep(0)

    def finish(self) -> None:
        """Do all that is left, now."""
        while self._jobs:
            job = self._jobs.popleft()
            while not job.run(SLICE):
                pass
