"""Process 1, of a container: two duties that no other process has.

    orphans   whose parent has ended become its children; when they end, somebody has to ask for their status, or they stay as zombies
    signals   without a handler they do nothing to process 1, not even SIGTERM

So process 1 forks: the child is pbal, and process 1 does nothing but wait, pass signals on and ask for the status of whatever ended; it
ends with pbal, and as pbal did. The obvious alternative, one process that asks for every status, takes from plugins (subprocess, asyncio)
the status of programs that they started themselves.
"""

import os
import signal
import sys

PASSED_ON = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT}
)
AWAITED = PASSED_ON | {signal.SIGCHLD}


def is_init() -> bool:
    """Whether this is process 1."""
    return os.getpid() == 1


def fork() -> int:
    """0 in the child, which is to be pbal; in process 1 the number of the child, for `wait`."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it was closed
            stream.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    child = os.fork()
    if child == 0:
        os.setsid()  # or a Ctrl-C at the terminal would reach it twice, from there and from here
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def wait(child: int) -> int:
    """Be process 1 until the child has ended; the status to exit with."""
    while True:
        number = signal.sigwait(AWAITED)
        if number != signal.SIGCHLD:
            os.kill(child, number)  # it is there: its status has not been asked for
            continue
        status = _reap(child)
        if status is not None:
            return status


def _reap(child: int) -> int | None:
    """Ask for every status there is; that of `child` as an exit status (128 and more: ended by a signal), None if it runs on."""
    found = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code
