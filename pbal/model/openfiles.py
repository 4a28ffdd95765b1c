"""Regular files that are open for reading, shared by all who send them, and those that are kept to be sent again.

    opened -> held by one or more -> closed when the last one lets go

Whoever finds a file holds it, and lets go of it once. Ten thousand slow readers of one file hold one descriptor. `open` is what the
process has open of them; a thread may add to it, so it is a set, which takes one at a time.

    as it was opened   its octets are those that somebody else may change at any time
    in memory          its octets were taken into memory, as bytes, or as a file without a name that lives in memory (memfd_create): so
                       nobody changes them any more, and the kernel can send them without a copy (net/passing.py)

A service keeps what its names were found to be (roles/files/cache.py) as Kept; here are the bounds on all of them together:

    SERVER file_cache_files     names, of all services
    SERVER file_cache_memory    octets of small files; those that are given up while slow readers have them are as many again at most
    descriptors                 those of larger ones: an eighth of what the process may have open, and MOST_OPEN

What was not asked for since the hand of the clock came by last is given up first (the clock algorithm): a hit costs no more than to say
so. A descriptor that nobody asks for is given up after IDLE seconds, so that the disk of a file that was deleted is free again.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

Identity = tuple[int, ...]
"""What the system says of a file: mode, inode, size; ctime and mtime, each in seconds and nanoseconds; device, major and minor.

Where its content was changed, one of these is another, unless that was within one tick of the system's clock.
"""

MOST_OPEN: Final = 1024
IDLE: Final = 10.0


class OpenFile:
    """A regular file, open for reading, or its octets. Whoever is given it lets go of it with release()."""

    __slots__ = ("body", "coding", "copied", "fd", "files", "holders", "identity", "mtime_ns", "name", "pinned", "size", "stale", "varies")

    def __init__(self, files: "OpenFiles", fd: int, identity: Identity, name: bytes) -> None:
        self.files = files
        self.fd = fd
        """Its descriptor; -1 when it is closed."""
        self.body: bytes | None = None
        """Its octets, where they are in memory as bytes."""
        self.copied = False
        """Its descriptor is that of a copy, in memory."""
        self.size = identity[2]
        self.mtime_ns = identity[5] * 10**9 + identity[6]
        self.name = name
        """By which it was asked for."""
        self.identity = identity
        self.coding = b""
        """Of a file that is sent in place of another: its content coding."""
        self.varies = False
        """Whether there is one that others may be sent in place of it."""
        self.stale = b""
        """The coding of one that is there and older than what it was made of; b"" where there is none."""
        self.holders = 1
        self.pinned = False
        """Its octets are in memory and are not kept any more, but somebody still sends them."""
        files.open.add(self)

    def hold(self) -> "OpenFile":
        """One more holder."""
        self.holders += 1
        return self

    def release(self) -> None:
        """One holder less; the last one closes it."""
        self.holders -= 1
        if self.holders:
            return
        if self.pinned:
            self.pinned = False
            self.files.pinned -= self.size
        self._close()

    @property
    def in_memory(self) -> bool:
        """Whether nobody changes its octets any more."""
        return self.copied or self.body is not None

    def take_in(self, body: bytes) -> None:
        """Have its octets in memory, and the descriptor no more."""
        self.body = body
        self._close()

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.files.open.discard(self)
            os.close(fd)


class Kept:
    """What a name was found to be, for who asks again. It holds its file."""

    __slots__ = ("asked", "file", "fresh_until", "gone", "home", "key", "said", "seen_at", "stamp")

    def __init__(self, home: dict[bytes, "Kept"], key: bytes, file: OpenFile) -> None:
        self.home = home
        """Where it is kept."""
        self.key = key
        self.file = file
        self.asked = False
        """Since the hand of the clock came by."""
        self.gone = True
        """It is not kept, or not any more."""
        self.fresh_until = 0.0
        """Until when nobody looks again (clock time)."""
        self.stamp = 0
        """OpenFiles.stamp, when it was looked at."""
        self.seen_at = 0.0
        """Seconds since 1970, when it was first found to be so."""
        self.said: object = None
        """What whoever answers with it has made ready."""


class OpenFiles:
    """Those of a process."""

    __slots__ = ("_counts", "_descriptors", "_in_memory", "_server", "kept", "memory", "most_open", "open", "pinned", "stamp")

    def __init__(self, server: Mapping[str, Any], counts: dict[str, int]) -> None:
        """`server`: the tunables of the process, as they are at any time."""
        self._server = server
        self._counts = counts
        self.open: set[object] = set()
        """What has a file open: an OpenFile, or a PUT that is under way."""
        self.kept = 0
        """Names that are kept."""
        self.memory = 0
        """Octets of kept files that are in memory."""
        self.pinned = 0
        """Octets in memory of files that are not kept any more and still sent."""
        self.most_open = MOST_OPEN
        self.stamp = 0
        """What was kept under another one has to be looked at again."""
        self._in_memory: OrderedDict[Kept, None] = OrderedDict()
        self._descriptors: OrderedDict[Kept, None] = OrderedDict()

    @property
    def recheck(self) -> float:
        """Seconds after which what is kept is looked at again; 0: nothing is kept."""
        seconds: float = self._server["file_recheck"]
        return seconds if self._server["file_cache_files"] else 0.0

    def forget(self) -> None:
        """Something was written or deleted, or other things are to be said of files: all is looked at again before it is sent.

        All of it, since a file may be kept under many names: as an index file, behind links, by services with the same docroot.
        """
        self.stamp += 1

    def takes(self, size: int) -> bool:
        """Whether a file of so many octets may be taken into memory: not while slow readers pin half of what there may be."""
        limit: int = self._server["file_cache_memory"]
        return size * 4 <= limit and self.pinned * 2 <= limit and len(self.open) < 2 * self.most_open

    def keep(self, found: Kept) -> None:
        """Keep it, and give up others if that is too much."""
        file = found.file
        most: int = self._server["file_cache_files"]
        if file.in_memory:
            limit: int = self._server["file_cache_memory"]
            self._give_up(self._in_memory, most - 1)
            while self.memory + file.size > limit and self._in_memory:
                self._give_up(self._in_memory, len(self._in_memory) - 1)
            self.memory += file.size
            self._in_memory[found] = None
        else:
            self._give_up(self._descriptors, min(self.most_open, most) - 1)
            self._descriptors[found] = None
        found.gone = False
        found.home[found.key] = found
        file.hold()
        self.kept += 1

    def _give_up(self, queue: "OrderedDict[Kept, None]", most: int) -> None:
        """Let the hand of the clock go round until there are no more than that."""
        while len(queue) > most:
            found = next(iter(queue))
            if found.asked:
                found.asked = False
                queue.move_to_end(found)
            else:
                self._counts["file_cache_evictions"] += 1
                self.drop(found)

    def drop(self, found: Kept) -> None:
        """Keep it no longer. Twice is once."""
        if found.gone:
            return
        found.gone = True
        del found.home[found.key]
        self.kept -= 1
        file = found.file
        (self._in_memory if file.in_memory else self._descriptors).pop(found, None)  # or its octets would be held, and not counted
        if file.in_memory:
            self.memory -= file.size
            if file.holders > 1:
                file.pinned = True
                self.pinned += file.size
        file.release()

    def tick(self, now: float) -> None:
        """Once a second: give up descriptors that nobody asks for, and what `file_cache_files` does not allow any more."""
        for found in list(self._descriptors):
            if found.fresh_until + IDLE < now or not self.recheck:
                self.drop(found)

    def shed(self) -> bool:
        """Descriptors run short: keep none. Whether there were any."""
        kept = [found for found in (*self._descriptors, *self._in_memory) if found.file.fd >= 0]
        for found in kept:
            self.drop(found)
        return bool(kept)
