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
"""Disks answer some requests at once and more of them not faster."""

_threads: ThreadPoolExecutor | None = None


def in_thread(work: Callable[[], T], then: Callable[[T | None, BaseException | None], None]) -> None:
    """Do `work` in a thread. `then` gets its result, or what it raised, in the loop."""
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pbal-disk")
    done = asyncio.get_running_loop().run_in_executor(_threads, work)
    done.add_done_callback(partial(_tell, then))


def _tell(then: Callable[[T | None, BaseException | None], None], done: "asyncio.Future[T]") -> None:
    if done.cancelled():  # the loop ends
        return
    error = done.exception()
    then(None if error is not None else done.result(), error)
