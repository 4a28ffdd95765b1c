"""Control-C where it does no harm: while something is waited for, and nowhere else.

Python raises KeyboardInterrupt between any two steps of a program, also between the octets that a socket gave and the place where they
are kept; an answer cut there would never end. So the signal only wakes who waits, and is raised there.
"""

import os
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Interrupts:
    """A place to wait that Control-C ends. In use from __enter__ to __exit__, in the main thread."""

    def __init__(self) -> None:
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> "Interrupts":
        self._forget()
        self._before = signal.signal(signal.SIGINT, lambda number, frame: None)
        self._wake_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wake_before)
        signal.signal(signal.SIGINT, self._before)
        self._forget()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """For who asks a person something: there it is raised at once."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def wait(self, descriptors: Sequence[int], seconds: float | None) -> list[int]:
        """Those from which something can be read; none, if the time is over. Raises: KeyboardInterrupt."""
        while True:
            ready, _, _ = select.select([*descriptors, self._woken], [], [], seconds)
            if self._woken in ready and signal.SIGINT in self._forget():
                raise KeyboardInterrupt
            if ready != [self._woken]:
                return [descriptor for descriptor in ready if descriptor != self._woken]

    def _forget(self) -> bytes:
        try:
            return os.read(self._woken, 4096)
        except BlockingIOError:
            return b""
