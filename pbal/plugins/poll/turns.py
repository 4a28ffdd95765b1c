"""Work on many polls, a few of them in a turn of the loop: ten thousand readers of one queue hold nobody else up.

A job is a list of polls as they were when it began, and what to do with each; who has left the lot meanwhile is passed over
by what is done. Few polls are served at once, in the turn that brought the message. Where a longer job for the same queue
is under way, a later one waits behind it, so that a poll gets its messages in their order. Other jobs take turns. What is new of a
queue goes with a job that waits with older news of it: where messages come faster than their readers can be told, each
is told more at a time, and nothing grows.

What a turn does is bounded twice: SLICE, since each poll served is a write that the loop makes after the turn, which no clock in
here sees; and BUDGET, where the serving itself takes long. All that begins in one turn shares one SLICE: thirty publishes to thirty
rooms that come in one read are no more work for that turn than one. A single poll is always served at once.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

from .lot import Reader

SLICE = 128
"""Polls answered in one turn: about two milliseconds."""
BUDGET = 0.002
"""Seconds of serving in one turn."""
LOOK = 16
"""Polls between two looks at the clock."""


class News(ABC):
    """What a job tells everybody of its queues, where more can be told at the same time."""

    __slots__ = ()

    @abstractmethod
    def join(self, newer: "News", last: bool) -> bool:
        """Take newer news of the same queues in; whether that can be. `last`: no other job about them stands behind this one."""


class _Job:
    """What is left of one job."""

    __slots__ = ("begun", "do", "keys", "late", "news", "place", "polls")

    def __init__(self, polls: Sequence[Reader], do: Callable[[Reader], None], keys: frozenset[bytes], news: News | None) -> None:
        self.polls, self.do, self.keys, self.news = polls, do, keys, news
        self.place = 0
        self.begun = False
        self.late: Callable[[], None] | None = None
        """What to call at the end of a job that was not done at once."""

    def run(self, most: int) -> bool:
        """Serve at most so many; True when none is left."""
        polls, do, place = self.polls, self.do, self.place
        self.begun = self.begun or most > 0
        number = len(polls)
        end = min(place + most, number)
        until = time.perf_counter() + BUDGET if most >= LOOK else 0.0
        try:
            while place < end:
                poll = polls[place]
                place += 1
                do(poll)
                if not place % LOOK and time.perf_counter() >= until:
                    break
        finally:
            self.place = place  # one that cannot be served is not tried again, and holds no other up
        if place < number:
            return False
        late, self.late = self.late, None
        if late is not None:
            late()
        return True


class Turns:
    """The jobs of one lot."""

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._scheduled = False
        self._begun_at = 0.0
        """The loop's time, which stands still in a turn, when a job last began."""
        self._left = SLICE
        """How many may be served in that turn yet."""

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
        news: News | None = None,
    ) -> bool:
        """Call `do` with each poll: now, and True; or over the next turns of the loop, and then `done`. `keys`: the queues it is about.

        `news`: what `do` tells everybody of these queues. It may join that of a job which waits: then it is that job which is done.
        """
        if news is not None and self._join(polls, keys, news):
            return False
        job = _Job(polls, do, keys, news)
        behind = any(not keys.isdisjoint(other.keys) for other in self._jobs)
        try:
            if not behind and job.run(self._at_once(len(polls))):
                return True
        except BaseException:
            self._later(job, done)
            raise
        self._later(job, done)
        return False

    def _join(self, polls: Sequence[Reader], keys: frozenset[bytes], news: News) -> bool:
        """Put news with those of a job that has not begun; False if there is none."""
        last = True
        for job in reversed(self._jobs):
            if keys.isdisjoint(job.keys):
                continue
            if job.news is not None and not job.begun and job.keys == keys and job.news.join(news, last):
                job.polls = polls
                return True
            last = False
        return False

    def _at_once(self, number: int) -> int:
        """How many of so many polls may be served in this turn."""
        if number <= 1:
            return 1
        now = asyncio.get_running_loop().time()
        if now != self._begun_at:
            self._begun_at, self._left = now, SLICE
        most = min(number, self._left)
        self._left -= most
        return most

    def _later(self, job: _Job, done: Callable[[], None] | None) -> None:
        job.late = done
        self._jobs.append(job)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        jobs = self._jobs
        left = SLICE
        try:
            while jobs and left > 0:
                job, place = jobs[0], jobs[0].place
                ended = job.run(left)
                left -= job.place - place
                if ended:
                    jobs.popleft()
                    continue
                if all(job.keys.isdisjoint(other.keys) for other in jobs if other is not job):
                    jobs.rotate(-1)
                return
        finally:
            if jobs:
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
