"""Into the background: `pbal --daemon`.

    parent    waits at a pipe; ends with 0 when the child says that every service listens, else with the child's status
    child     a session of its own; reads the configuration, binds, opens; then `detach` gives the terminal up and tells the parent

The fork comes first, before a thread, a loop or a socket is there: none of them survives one. So standard error is still the
operator's while the child starts, and its mistakes are read where they were made. The working folder becomes / with `detach`, so that no
file system is kept busy; relative paths in the configuration were made absolute when it was read. The umask stays as it was.
"""

import os
import signal
import sys
from collections.abc import Iterable

READY = b"1"

FAILED = 1
"""Exit status where the child tells none."""


class Daemon:
    """The child's side."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def detach(self, keep: Iterable[int] = ()) -> None:
        """Every service listens: let the terminal go, but for the descriptors to keep, and let the parent end."""
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in {0, 1, 2} - set(keep):
            os.dup2(nothing, descriptor)
        os.close(nothing)
        try:
            os.write(self._pipe, READY)
        except BrokenPipeError:
            pass  # nobody waits for it any more
        os.close(self._pipe)


def fork() -> Daemon | int:
    """In the child, its Daemon. In the parent, the status to exit with, once it is known."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it was closed
            stream.flush()
    reading, writing = os.pipe()  # neither is inherited over an exec
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        return Daemon(writing)
    os.close(writing)
    return _wait(child, reading)


def _wait(child: int, reading: int) -> int:
    try:
        told = os.read(reading, 1)
        if told == READY:
            return 0
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except KeyboardInterrupt:  # it does not reach the child, which has left the terminal's session
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        return FAILED
    if status < 0:
        print(f"pbal: ended by {signal.Signals(-status).name} before it listened", file=sys.stderr)
    return status if status > 0 else FAILED
