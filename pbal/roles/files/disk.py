"""What may wait for a disk, done in a thread, for an exchange that waits meanwhile.

Few threads serve all, so that a dead disk holds up those who want something of it, and no descriptor or memory without bound: each exchange
has at most one job here. A job cannot be taken back. If its client leaves, what it opened is closed when it is done.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")

THREADS = 8
"""Disks answer some requests at once and more of them not faster. So many read, and so many write."""

Then = Callable[[T | None, BaseException | None], None]


class Threads:
    """Some threads, made when they are needed first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[], T], then: Then[T]) -> None:
        """Do `work` in one of them. `then` gets its result, or what it raised, in the loop."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=self._name)
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        done.add_done_callback(partial(_tell, then))


in_thread = Threads("pbal-disk").run
"""For what reads."""
in_writing_thread = Threads("pbal-write").run
"""For what writes: it waits until the disk has it, and who reads is not to wait for that."""


def _tell(then: Then[T], done: "asyncio.Future[T]") -> None:
    if done.cancelled():  # the loop ends
        return
    error = done.exception()
    then(None if error is not None else done.result(), error)
