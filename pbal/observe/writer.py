"""Access logs on their way to files, to standard output and to syslog: one thread for all, so that no disk ever holds the loop.

    the loop     opens a destination (a statement waits for that, no request does), puts lines into its Target, rings
    the thread   is rung, gathers for a moment, writes what is there with few calls, rotates and opens anew

What cannot be written is dropped and counted, by the loop where a Target is full, by the thread where the disk is. `tick` makes one
counter and one warning in ten seconds of both. A file whose line was cut off by a full disk begins a new line when there is room.

Rotation: FILE becomes FILE.1, FILE.1 becomes FILE.2, and so on; what is older than the last is deleted. By age means: at each whole
multiple of it since 1970, so that a day's file ends at midnight UTC, however often pbal was started meanwhile.

Where several services write to one file, they share its Target, and the smallest of their sizes and ages holds.
"""

import contextlib
import errno
import logging
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pbal.observe.access import Bell, Target
from pbal.observe.syslog import connect_syslog, syslog_line

log = logging.getLogger("pbal.access")

GATHER_SECONDS = 0.05
"""How long lines are gathered before they are written: twenty calls a second at most, and nobody who looks at the file notices."""
FLUSH_SECONDS = 2.0
"""How long the end of the process waits for lines to be written."""
AT_ONCE = 1 << 18
"""Octets a single write hands over."""
RETRY_SECONDS = 10.0
"""After a rotation or a connection to syslog failed."""
STDOUT, SYSLOG = "stdout", "syslog"
SYSLOG_PRIORITY = 190
"""local7.info, which is nginx's. RFC 3164 section 4.1.1."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is rotated, in octets and in seconds (0: never for that), and how many older ones are kept."""

    size: int = 0
    age: float = 0.0
    keep: int = 7


class Destination:
    """One place where lines go. Made and opened by the loop; from then on the thread's, but for what says otherwise."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.failed = 0
        """Lines that could not be written."""
        self.why = ""
        """What the system said to that, last."""
        self.told = 0
        """Of both kinds of dropped lines, how many were counted. The loop's."""
        self.closing = False
        """Nobody writes to it any more. The loop sets it."""
        self.closed = False
        """The thread has closed it."""

    def write(self, lines: list[bytes]) -> None:
        """Write lines, or count them as failed."""

    def reopen(self) -> None:
        """Open anew what somebody may have moved away."""

    def close(self) -> None:
        """Give it back."""


class ToDescriptor(Destination):
    """Standard output."""

    def __init__(self, target: Target, descriptor: int) -> None:
        super().__init__(target)
        self.descriptor = descriptor
        self._torn = False
        """The last line was cut off."""

    def write(self, lines: list[bytes]) -> None:
        """See Destination."""
        if self._torn:
            lines[0] = b"\n" + lines[0]
        octets = b"".join(lines)
        written = 0
        view = memoryview(octets)
        while written < len(octets):
            try:
                written += os.write(self.descriptor, view[written : written + AT_ONCE])
            except BlockingIOError:  # somebody who shares the open file made it non-blocking
                select.select((), (self.descriptor,), ())
            except OSError as error:
                self.why = error.strerror or str(error)
                self.failed += octets.count(b"\n", written) - self._torn * (written == 0)
                break
        self.wrote(written)
        if written:
            self._torn = octets[written - 1 : written] != b"\n"

    def wrote(self, octets: int) -> None:
        """So much has been written."""


class ToFile(ToDescriptor):
    """A file, with its rotation."""

    def __init__(self, target: Target, path: str) -> None:
        """Raises: OSError."""
        super().__init__(target, _open(path))
        self.path = path
        self.rotation = Rotation()
        """Replaced whole, by the loop."""
        self._not_before = 0.0
        self._rotates = False
        self._size = 0
        self._period_of = 0.0
        """A time in the period of age whose lines are in the file."""
        self._look()

    def _look(self) -> None:
        found = os.fstat(self.descriptor)
        self._size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        self._rotates = stat.S_ISREG(found.st_mode)
        self._period_of = found.st_mtime if found.st_size else time.time()

    def write(self, lines: list[bytes]) -> None:
        """See Destination."""
        rotation = self.rotation
        now = time.time()
        aged = rotation.age and self._period_of // rotation.age != now // rotation.age
        if self._rotates and self._size and now >= self._not_before and (aged or (rotation.size and self._size >= rotation.size)):
            self._rotate(rotation.keep, now)
        super().write(lines)

    def wrote(self, octets: int) -> None:
        """See ToDescriptor."""
        self._size += octets

    def _rotate(self, keep: int, now: float) -> None:
        path = self.path
        try:
            for number in range(keep - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{path}.{number}", f"{path}.{number + 1}")
            if keep:
                os.replace(path, f"{path}.1")
            else:
                os.unlink(path)
            self._anew()
        except OSError as error:
            self._not_before = now + RETRY_SECONDS
            log.warning("%(file)s could not be rotated: %(reason)s", {"event": "log_not_rotated", "file": path, "reason": error.strerror})

    def reopen(self) -> None:
        """See Destination."""
        try:
            self._anew()
        except OSError as error:
            fields = {"event": "log_not_reopened", "file": self.path, "reason": error.strerror}
            log.warning("%(file)s could not be opened anew, lines go where they went: %(reason)s", fields)

    def _anew(self) -> None:
        descriptor = _open(self.path)
        os.close(self.descriptor)
        self.descriptor = descriptor
        self._look()

    def close(self) -> None:
        """See Destination."""
        os.close(self.descriptor)


class ToSyslog(Destination):
    """The system's log: a datagram a line, RFC 3164."""

    def __init__(self, target: Target) -> None:
        """Raises: OSError."""
        super().__init__(target)
        self._socket: socket.socket | None = connect_syslog()
        self._not_before = 0.0

    def write(self, lines: list[bytes]) -> None:
        """See Destination."""
        if self._socket is None and time.monotonic() >= self._not_before:
            self.reopen()
        for place, line in enumerate(lines):
            if self._socket is None or not self._send(line.rstrip(b"\n")):
                self.failed += len(lines) - place
                return

    def _send(self, line: bytes) -> bool:
        datagram = syslog_line(SYSLOG_PRIORITY, line)
        for again in (True, False):
            try:
                assert self._socket is not None
                self._socket.send(datagram)
                return True
            except OSError as error:
                self.why = error.strerror or str(error)
                self.close()
                if again:
                    self.reopen()
                if self._socket is None:
                    break
        return False

    def reopen(self) -> None:
        """See Destination."""
        self.close()
        try:
            self._socket = connect_syslog()
        except OSError as error:
            self.why = error.strerror or str(error)
            self._not_before = time.monotonic() + RETRY_SECONDS

    def close(self) -> None:
        """See Destination."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _open(path: str) -> int:
    """Raises: OSError, also for a pipe that somebody put there meanwhile: it would hold up the lines of all others."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o640)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a pipe")
    os.set_blocking(descriptor, True)
    return descriptor


def why_not_writable(path: str) -> str:
    """Why lines could not be written there; "" where they could. Nothing is opened or made."""
    folder = os.path.dirname(path) or "."
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not os.path.isdir(folder):
            return f"the folder {folder} does not exist"
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"nothing can be written into the folder {folder}"
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        return "it is no file (for standard output, say stdout)"
    return "" if os.access(path, os.W_OK) else "it cannot be written"


class Writer:
    """All destinations of a process, and the thread that writes to them."""

    def __init__(self) -> None:
        self._destinations: tuple[Destination, ...] = ()
        """Replaced whole, by the loop."""
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._written = threading.Event()
        self._reopen = 0
        """Times that files were to be opened anew."""
        self._thread: threading.Thread | None = None
        self._bell = Bell(self._ring)

    # -- the loop's side -----------------------------------------------------------------------------------------

    def open(self, name: str) -> Target:
        """The target for a file, "stdout" or "syslog". Raises: OSError; nothing has changed then."""
        key = name if name in (STDOUT, SYSLOG) else os.path.realpath(name)
        for found in self._destinations:
            if found.target.name == key and not found.closing:
                return found.target
        target = Target(key, self._bell)
        made = ToDescriptor(target, 1) if key == STDOUT else ToSyslog(target) if key == SYSLOG else ToFile(target, key)
        self._destinations = (*self._destinations, made)
        return target

    def use(self, used: Iterable[tuple[Target, Rotation]]) -> None:
        """These are in use, and rotated so; others are closed once what waits is written."""
        rotations: dict[str, list[Rotation]] = {}
        for target, rotation in used:
            rotations.setdefault(target.name, []).append(rotation)
        for destination in self._destinations:
            its = rotations.get(destination.target.name)
            if its is None:
                destination.closing = True
            elif isinstance(destination, ToFile):
                destination.rotation = Rotation(
                    min((each.size for each in its if each.size), default=0),
                    min((each.age for each in its if each.age), default=0.0),
                    max(each.keep for each in its),
                )
        if any(destination.closing for destination in self._destinations):
            self._bell.ring()

    def reopen(self) -> bool:
        """Open all files anew, soon. False: there are none."""
        if not any(isinstance(destination, ToFile) for destination in self._destinations):
            return False
        self._reopen += 1
        self._bell.ring()
        return True

    def give(self, uid: int, gid: int) -> None:
        """This process stops being root: files that are root's become the user's, who then can open them anew."""
        for destination in self._destinations:
            if isinstance(destination, ToFile):
                found = os.fstat(destination.descriptor)
                if stat.S_ISREG(found.st_mode) and found.st_uid == 0:
                    with contextlib.suppress(OSError):  # some file systems have no owners; SIGUSR1 then says why it cannot be opened anew
                        os.fchown(destination.descriptor, uid, gid)

    def tick(self, counts: dict[str, int], warn: Callable[..., None]) -> None:
        """Once a second: count what was dropped, and say so. `warn` is World.log_limited."""
        for destination in self._destinations:
            target = destination.target
            dropped = target.dropped + destination.failed
            new = dropped - destination.told
            if new:
                destination.told = dropped
                counts["access_lines_dropped"] += new
                why = destination.why or "it takes them too slowly"
                warn(
                    f"access log {target.name}",
                    "access log %(file)s: %(lines)d lines dropped: %(reason)s",
                    {"event": "access_lines_dropped", "file": target.name, "lines": new, "reason": why},
                )
        if any(destination.closed for destination in self._destinations):
            self._destinations = tuple(destination for destination in self._destinations if not destination.closed)

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all lines of now are written; False if that was not done in so many seconds."""
        if self._thread is None:
            return True
        self._written.clear()
        self._hurry.set()
        self._bell.ring()
        return self._written.wait(seconds)

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Write all that is there, for a bounded time, and give everything back."""
        for destination in self._destinations:
            destination.closing = True
        if self._destinations:
            self._bell.ring()  # also where no line ever came: the thread closes
        if not self.flush(seconds):
            waiting = sum(len(destination.target.lines) for destination in self._destinations)
            fields = {"event": "access_lines_lost", "lines": waiting}
            log.warning("%(lines)d lines of access logs could not be written before the end", fields)

    def _ring(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()
        self._wake.set()

    # -- the thread's side ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        reopened = 0
        while True:
            self._wake.wait()
            self._hurry.wait(GATHER_SECONDS)
            hurried = self._hurry.is_set()
            if hurried:
                self._hurry.clear()
            self._wake.clear()
            self._bell.rung = False  # from here on the loop rings again; what it put in before is found below
            reopen = self._reopen
            for destination in self._destinations:
                if destination.closed:
                    continue
                closing = destination.closing  # asked before the lines are: the last one was put in before it was set
                self._write_out(destination)
                if reopen != reopened:
                    destination.reopen()
                if closing:
                    destination.closed = True
                    destination.close()
            reopened = reopen
            if hurried:
                self._written.set()

    def _write_out(self, destination: Destination) -> None:
        target = destination.target
        lines = target.lines
        while lines:
            piece: list[bytes] = []
            octets = 0
            while lines and octets < AT_ONCE:
                line = lines.popleft()
                octets += len(line)
                piece.append(line)
            try:
                destination.write(piece)
            except Exception as error:  # noqa: BLE001 - the thread has to live for all other destinations
                destination.failed += len(piece)
                destination.why = repr(error)
            target.taken += octets
