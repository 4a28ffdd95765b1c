"""Request bodies that pbal holds: in memory at first, then in a file, where they are long or come slowly.

    memory   pieces as they came
    spool    a file; what comes is written off the loop (model/disk.py), and what came while a job ran goes with the next one
    closed   nothing is left of it: memory goes at once, the file when its job has ended

The file has mode 0600 and no name (O_TMPFILE; where the file system has none of that, its name is taken away before an octet is written).
So it is gone when it is closed, and when pbal is killed, too.

There are bounds on all bodies of the process together: SERVER max_body_memory, SERVER max_spool, and UNFLUSHED octets that wait for the
disk, of one body and of all. Who adds octets asks first: `room`, `crowded`, HeldBody.behind.

A disk that does not answer for DISK_SECONDS counts as one that failed. Its job goes on; when it ends, the file is closed.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from pbal.model.collected import CollectedBody
from pbal.model.disk import Disk

UNFLUSHED: Final = 1 << 20
"""Octets of a body that may wait for the disk; then its client is paused. Perlbal's number."""
ALL_UNFLUSHED: Final = 64 << 20
"""Octets of all bodies that may wait for disks; then each client whose body waits is paused."""
BATCH: Final = 1 << 16
"""Octets for which a job is begun: fewer wait for more, or for the end."""
PIECE: Final = 1 << 18
"""Octets that are read back at a time: as many as the loop reads from a socket."""
VECTOR: Final = 512
"""Pieces that one call writes; systems take 1024."""
SMALL: Final = 512
LITTLE: Final = 4096
"""Octets of a piece that is joined to the one before it, and of one that others are joined to."""
DISK_SECONDS: Final = 30.0

_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
_PIECE: Final = memoryview(bytearray(PIECE))
"""Where read_now() reads to: zeroing and freeing a buffer each time costs as much as the copy."""


WasRead = Callable[[bytes | None, Exception | None], None]
Tell = Callable[[Exception | None], None]
"""Told that octets are on the disk, or why they are not."""


class Bodies:
    """What all bodies of the process hold together."""

    def __init__(self, server: Mapping[str, Any], now: Callable[[], float]) -> None:
        """`server`: the tunables of the process, as they are at any time; `now`: the clock."""
        self._server = server
        self.now = now
        self.disk = Disk()
        self.memory = 0
        """Octets in memory that wait for the rest of their body, or for a node."""
        self.spooled = 0
        """Octets that belong to spools, on the disk or on their way to it."""
        self.unflushed = 0
        """Those on their way."""
        self.spools: set[Spool] = set()
        """Those that have, or may have, a file."""

    @property
    def crowded(self) -> bool:
        """Whether there is no memory left for bodies that could be sent on, or put to disk."""
        limit = self._server["max_body_memory"]
        return bool(limit) and self.memory >= limit

    def room(self, octets: int) -> bool:
        """Whether so many more may be spooled."""
        limit = self._server["max_spool"]
        return not limit or self.spooled + octets <= limit

    def tick(self, now: float) -> None:
        """Once a second: give up on disks that do not answer."""
        self.disk.tick()
        for spool in [spool for spool in self.spools if spool.busy and spool.busy_since + DISK_SECONDS < now]:
            spool.give_up()

    def close(self) -> None:
        """The process ends: what lies on disks goes, but for what a disk that hangs is being asked."""
        self.disk.close()
        for spool in list(self.spools):
            spool.end()


def append(parts: list[bytes], data: bytes) -> None:
    """Add octets to pieces. Very small ones are joined: an octet in an object of its own takes forty."""
    if len(data) < SMALL and parts and len(parts[-1]) < LITTLE:
        parts[-1] += data
    else:
        parts.append(data)


class HeldBody(CollectedBody):
    """A request body, whole or the beginning of one. See above."""

    __slots__ = ("_bodies", "_loaded", "_parts", "size", "spool", "whole")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._parts: list[bytes] = []
        self._loaded = b""
        self.spool: Spool | None = None
        self.size = 0
        self.whole = False

    def add(self, data: bytes) -> None:
        """Append octets."""
        octets = len(data)
        self.size += octets
        if self.spool is None:
            append(self._parts, data)
            self._bodies.memory += octets
        else:
            self.spool.add(data)

    def to_disk(self, folder: Path | None, tell: Tell) -> None:
        """From here on it goes into a file in `folder`, None: where the system puts such files. `tell` is called after each job."""
        self.spool = Spool(self._bodies, folder, tell)
        for part in self._release():
            self.spool.add(part)

    def _release(self) -> list[bytes]:
        """The memory is no body's any more; what was in it."""
        parts, self._parts = self._parts, []
        if parts:
            self._bodies.memory -= self.size
        return parts

    @property
    def behind(self) -> bool:
        """Whether so much of it waits for the disk that its client should wait."""
        spool = self.spool
        if spool is None:
            return False
        return spool.unflushed > UNFLUSHED or (self._bodies.unflushed > ALL_UNFLUSHED and spool.busy)

    @property
    def spooled(self) -> bool:
        """See CollectedBody."""
        return self.spool is not None

    @property
    def parts(self) -> list[bytes]:
        """See CollectedBody."""
        return self._parts

    def load(self, done: Tell) -> None:
        """Read all of a spool, off the loop, so that read() has it at hand; until forget()."""
        assert self.spool is not None
        self.spool.read(0, self.size, partial(self._keep, done))

    def _keep(self, done: Tell, data: bytes | None, error: Exception | None) -> None:
        self._loaded = data or b""
        done(error)

    def forget(self) -> None:
        """Give the memory of load() back."""
        self._loaded = b""

    def read(self) -> bytes:
        """See CollectedBody. A spool that was not loaded is read here and now: the loop waits for the disk."""
        if self.spool is None:
            return b"".join(self._parts)
        return self._loaded or self.spool.read_waiting(self.size)

    def read_now(self, place: int, octets: int) -> bytes | None:
        """See CollectedBody."""
        return None if self.spool is None else self.spool.read_now(place, octets)

    def read_soon(self, place: int, octets: int, done: WasRead) -> None:
        """See CollectedBody."""
        assert self.spool is not None
        self.spool.read(place, octets, done)

    def close(self) -> None:
        """See CollectedBody."""
        self._loaded = b""
        if self._parts:
            self._release()
        if self.spool is not None:
            self.spool.close()


class Spool:
    """The file of a body. One job that writes is under way at a time."""

    __slots__ = (
        "_bodies", "_closed", "_failed", "_file", "_folder", "_in_job", "_jobs", "_tell", "_waiting", "busy_since", "size", "unflushed",
    )  # fmt: skip

    def __init__(self, bodies: Bodies, folder: Path | None, tell: Tell) -> None:
        self._bodies = bodies
        self._folder = folder
        self._tell = tell
        self._file: IO[bytes] | None = None
        self._waiting: list[bytes] = []
        self._in_job = 0
        """Octets that the job under way writes."""
        self._closed = self._failed = False
        self.size = 0
        self.unflushed = 0
        """Octets that are not on the disk yet."""
        self._jobs = 0
        """Jobs that are under way: one that writes, or those that read for a node, and for one that was given up."""
        self.busy_since = 0.0
        bodies.spools.add(self)

    def add(self, data: bytes) -> None:
        """Append octets. They are on the disk when `unflushed` is 0; flush() says that no more will come."""
        octets = len(data)
        self.size += octets
        self.unflushed += octets
        self._bodies.spooled += octets
        self._bodies.unflushed += octets
        append(self._waiting, data)
        if not self.busy and self.unflushed >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits, however little."""
        if self.busy or not self._waiting:
            return
        pieces, self._waiting = self._waiting, []
        self._in_job = self.unflushed
        self._begin()
        self._bodies.disk.run(partial(self._write_out, pieces), self._written)

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._jobs > 0

    def _begin(self) -> None:
        self._jobs += 1
        self.busy_since = self._bodies.now()

    def _write_out(self, pieces: list[bytes]) -> None:
        """In a thread: open the file if need be, and write."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  # until close()
        descriptor = self._file.fileno()
        for place in range(0, len(pieces), VECTOR):
            some = pieces[place : place + VECTOR]
            written = os.writev(descriptor, some)
            if written < sum(map(len, some)):  # the disk is nearly full: the next call says so
                rest = memoryview(b"".join(some))[written:]
                while rest:
                    rest = rest[os.write(descriptor, rest) :]

    def _written(self, _: None, error: Exception | None) -> None:
        """On the loop: a job that wrote has ended."""
        self._bodies.unflushed -= self._in_job
        self.unflushed -= self._in_job
        self._in_job = 0
        if self._ended() or self._failed:
            return
        if error is not None:
            self._failed = True
        elif self.unflushed >= BATCH:
            self.flush()
        self._tell(error)

    def _ended(self) -> bool:
        """A job has ended. True: the spool was closed meanwhile, and its file can be now."""
        self._jobs -= 1
        if self._closed and not self._jobs:
            self._shut()
        return self._closed

    def give_up(self) -> None:
        """The job that is under way takes too long."""
        self.busy_since = float("inf")
        self._failed = True
        self._tell(TimeoutError(f"no answer from the disk in {DISK_SECONDS:g} seconds"))

    def read(self, place: int, octets: int, done: WasRead) -> None:
        """Read octets from `place` on, off the loop; all of them, or OSError. Nobody is told where it is closed meanwhile."""
        self._begin()
        self._tell = lambda error: done(None, error)
        self._bodies.disk.run(partial(self._read, place, octets), partial(self._was_read, done))

    def _read(self, place: int, octets: int) -> bytes:
        """In a thread, or where waiting is meant."""
        assert self._file is not None
        pieces = []
        while octets:
            piece = os.pread(self._file.fileno(), octets, place)
            if not piece:
                raise OSError("the file is shorter than what was written to it")
            pieces.append(piece)
            place += len(piece)
            octets -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _was_read(self, done: WasRead, data: bytes | None, error: Exception | None) -> None:
        if not self._ended() and not self._failed:
            done(data, error)

    def read_now(self, place: int, octets: int) -> bytes | None:
        """Read octets, or fewer, that the system has in memory; None where the disk would have to be waited for (preadv2(2))."""
        if self._file is None or not _NOWAIT:
            return None
        try:
            got = os.preadv(self._file.fileno(), [_PIECE[:octets]], place, _NOWAIT)
        except OSError:  # EAGAIN; or the file system cannot tell
            return None
        return bytes(_PIECE[:got]) or None

    def read_waiting(self, octets: int) -> bytes:
        """Read the first octets, and have the loop wait for it; b"" of a closed one."""
        return b"" if self._file is None or self._closed else self._read(0, octets)

    def close(self) -> None:
        """Give the file and the room of it back. Twice is once."""
        if self._closed:
            return
        self._closed = True
        bodies = self._bodies
        bodies.spooled -= self.size
        bodies.unflushed -= self.unflushed - self._in_job
        self.unflushed = self._in_job
        self._waiting.clear()
        if not self.busy:
            self._shut()

    def _shut(self) -> None:
        """Close the file, in a thread: the system may take its time to give the blocks of a large one back."""
        file, self._file = self._file, None
        if file is None:
            self._bodies.spools.discard(self)
        else:
            self._bodies.disk.run(file.close, self._was_shut)

    def _was_shut(self, _: None, error: Exception | None) -> None:
        self._bodies.spools.discard(self)

    def end(self) -> None:
        """Close the file here and now: the process ends, and no job runs any more."""
        self.close()
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._bodies.spools.discard(self)
