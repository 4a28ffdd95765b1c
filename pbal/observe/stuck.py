"""What still works when the loop does not turn: a hook that never returns, a regular expression that runs away.

    a loop in Python     signal handlers run between two bytecodes. A timer that every tick sets back, and that fires
                         only when ticks stay away, logs what runs; so do the signals of an operator, and the second
                         that is to end pbal ends it. (A handler of the loop's own would wait for the loop.)
    a regular expression holds the interpreter, but looks for signals now and then, so that is the same. No thread runs
                         meanwhile: a handler has to wait for the log to be written, which lets the log's thread in.
    other code in C      may hold the interpreter, or wait, and look for no signal: no handler runs. A second later
                         faulthandler's thread, which needs no interpreter, dumps the stack. Only SIGKILL ends the process.

Why not the second alone: `faulthandler.dump_traceback_later` reads the frames of a running thread without the
interpreter's lock, and a Python loop that calls functions moves them under its eyes: in a test it ended in a segmentation
fault each time. Where C holds the interpreter, or waits, the frames lie still. So the first handler disarms it.

Arming the dump anew ends its previous thread, and waits for that: a dump into a pipe that nobody reads must not wait, or
the loop would wait with it. A pipe or a terminal is therefore opened anew, non-blocking for the dump alone. A socket
(systemd's journal) cannot be opened anew: it gets a send timeout, which is felt only where it is full, and which the
log's thread sits out.

Handlers are set with signal.signal. uvloop watches the descriptor that signals wake (set_wakeup_fd), so an idle loop
runs them at once.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import select
import signal
import socket
import stat
import struct
from collections.abc import Callable
from types import FrameType

log = logging.getLogger("pbal")

LOG_SECONDS = 5.0
"""Silence of the loop after which what runs is logged."""

DUMP_SECONDS = 6.0
"""Silence of the loop after which its stack is dumped, if the log line could not be made."""

STUCK_SECONDS = 2.0
"""Silence of the loop, which turns once a second at least, from which on it counts as blocked."""

SEND_TIMEOUT = 0.001
"""Seconds a single write of a dump may wait for a socket; a dump is some hundred of them."""

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
TELLING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Watchdog:
    """Sends SIGALRM, and later dumps the stack of every thread to standard error, when it was not armed again in time."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._own = _reopened(descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        _limit_sending(descriptor, SEND_TIMEOUT)

    def arm(self) -> None:
        """Start the time anew."""
        signal.setitimer(signal.ITIMER_REAL, LOG_SECONDS)
        if self._own is not None:
            faulthandler.dump_traceback_later(DUMP_SECONDS, file=self._own)
        elif any(event & select.POLLOUT for _, event in self._poll.poll(0)):
            faulthandler.dump_traceback_later(DUMP_SECONDS, file=self._descriptor)
        else:
            faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Watch no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        if self._own is not None:
            os.close(self._own)
            self._own = None
        _limit_sending(self._descriptor, 0)


def _reopened(descriptor: int) -> int | None:
    """A pipe or terminal opened anew, so that it alone is non-blocking; None where that cannot be or need not be (a file)."""
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
            return None
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _limit_sending(descriptor: int, seconds: float) -> None:
    """If that is a socket, let no write to it wait longer than `seconds`; 0: for as long as it takes."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return
    with socket.socket(fileno=os.dup(descriptor)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, int(seconds * 1_000_000)))


def ignore_telling() -> None:
    """Until there is a loop to tell, SIGHUP, SIGUSR1 and SIGUSR2 do nothing; they never kill."""
    for number in TELLING:
        signal.signal(number, signal.SIG_IGN)


class Signals:
    """The handlers of a running server.

    `act` is called on the loop with the signal. `silence` tells for how many seconds the loop has not turned, `taken_up`
    whether the first request to end has reached it, `running` what plugin and hook run now, or nothing. `flush` waits,
    for a bounded time, until the log is written.
    """

    def __init__(
        self,
        act: Callable[[signal.Signals], None],
        silence: Callable[[], float],
        taken_up: Callable[[], bool],
        running: Callable[[], str],
        flush: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._act, self._silence, self._taken_up, self._running, self._flush = act, silence, taken_up, running, flush
        self._asked = 0

    def install(self) -> None:
        """Take the signals over, to the end of the process."""
        for number in (*ENDING, *TELLING, signal.SIGALRM):
            signal.signal(number, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Runs between two bytecodes of whatever the main thread does."""
        which = signal.Signals(number)
        silence = self._silence()
        stuck = silence > STUCK_SECONDS
        if which is signal.SIGALRM:
            faulthandler.cancel_dump_traceback_later()
            fields = {"event": "loop_blocked", "seconds": silence, "by": self._blocker(frame)}
            log.error("the loop has been blocked for %(seconds).1f s by %(by)s", fields, stack_info=True)
            self._flush()
            return
        if stuck:
            fields = {"event": "loop_blocked", "signal": which.name, "seconds": silence, "by": self._blocker(frame)}
            log.error("%(signal)s: the loop has been blocked for %(seconds).1f s by %(by)s", fields)
            self._flush()
        if which in ENDING:
            self._asked += 1
            if self._loop.is_closed() or (self._asked > 1 and (stuck or self._asked > 2 or not self._taken_up())):
                log.error("%(signal)s: ending at once, without the loop", {"event": "ending_at_once", "signal": which.name})
                self._flush()
                os._exit(1)
        with contextlib.suppress(RuntimeError):  # the loop is closed: too late to tell it anything
            self._loop.call_soon_threadsafe(self._act, which)

    def _blocker(self, frame: FrameType | None) -> str:
        place = f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})" if frame is not None else "something outside Python"
        running = self._running()
        return f"{running}, in {place}" if running else place
