"""Work on disks, off the loop: a thread takes jobs, the loop gets the results.

    run(call, done)   `call` runs in a thread; then `done(result, error)` runs on the loop, in another turn

One thread does all of it, for as long as it gets on: more of them would wait for each other (Python runs one at a time) and cost four
times as much. A disk that hangs holds its thread and whoever waits for it; others wait for a second, then tick() starts another thread.
Order is the business of who gives the jobs: two jobs of one file are given one after the other. Threads end with close().

Waking the loop costs a system call, so results are gathered: the first one rings, and those that come before the loop has woken go with it.
The loop takes PORTION of them in a turn.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, TypeVar

T = TypeVar("T")
Done = Callable[[T | None, Exception | None], None]
"""Told of a result, or of what was raised in its place."""

THREADS: Final = 8
"""Jobs that may hang before all others wait for them."""
PORTION: Final = 64
"""Results handed out in one turn of the loop: each writes a piece of a body at most."""
END_SECONDS: Final = 2.0
"""How long the end of the process waits for jobs that run."""


class Disk:
    """The threads of a process."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], object], Callable[[object, Exception | None], None]] | None] = SimpleQueue()
        self._finished: deque[tuple[Callable[[object, Exception | None], None], object, Exception | None]] = deque()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = False
        self._closed = False
        self._handed_out = 0
        """Results so far."""
        self._seen = 0
        """How many there were at the last tick."""
        self.waiting = 0
        """Jobs whose results were not handed out yet."""

    def run(self, call: Callable[[], T], done: Done[T]) -> None:
        """Have `call` run in a thread, and then `done` on this loop. After close() neither runs."""
        if self._closed:
            return
        self._loop = asyncio.get_running_loop()
        self.waiting += 1
        if not self._threads:
            self._start()
        self._jobs.put((call, done))  # type: ignore[arg-type]  # each pair fits together

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"disk {len(self._threads) + 1}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def tick(self) -> None:
        """Once a second: where nothing was done since the last time, and jobs wait, somebody else takes the next one."""
        if self._seen == self._handed_out and self.waiting and not self._jobs.empty() and len(self._threads) < THREADS:
            self._start()
        self._seen = self._handed_out

    def close(self) -> None:
        """End the threads when they have done what they were given; those that hang are left to the end of the process."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(END_SECONDS / THREADS)
        self._threads.clear()
        self._finished.clear()
        self.waiting = 0

    def _work(self) -> None:
        """What a thread does."""
        while (job := self._jobs.get()) is not None:
            call, done = job
            result: object = None
            error: Exception | None = None
            try:
                result = call()
            except Exception as raised:  # noqa: BLE001 - whoever gave the job is told
                error = raised
            self._finished.append((done, result, error))
            if not self._rung and self._loop is not None:
                self._rung = True
                with contextlib.suppress(RuntimeError):  # the loop has ended: close() hands out what there is
                    self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        """On the loop: hand results out."""
        self._rung = False  # from here on a thread rings again; what it put in before is found below
        try:
            for _ in range(PORTION):
                if not self._finished:
                    return
                self._hand_out()
        finally:  # a fault in one is not to keep the others waiting
            if self._finished and self._loop is not None:
                self._loop.call_soon(self._answer)

    def _hand_out(self) -> None:
        done, result, error = self._finished.popleft()
        self.waiting -= 1
        self._handed_out += 1
        done(result, error)
