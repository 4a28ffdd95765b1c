"""Regular files that are open for reading, each shared by all who send it.

    opened -> held by one or more -> closed when the last one lets go

Whoever finds a file holds it, and lets go of it once. Ten thousand slow readers of one file hold one descriptor. `open` is what the
process has open of them; a thread may add to it, so it is a set, which takes one at a time.
"""

import os

Identity = tuple[int, ...]
"""What the system says of a file: mode, inode, size; ctime and mtime, each in seconds and nanoseconds; device, major and minor.

Where its content was changed, one of these is another, unless that was within one tick of the system's clock.
"""


class OpenFile:
    """A regular file, open for reading. Whoever is given it lets go of it with release()."""

    __slots__ = ("fd", "files", "holders", "identity", "mtime_ns", "name", "size")

    def __init__(self, files: "OpenFiles", fd: int, identity: Identity, name: bytes) -> None:
        self.files = files
        self.fd = fd
        """Its descriptor; -1 when it is closed."""
        self.size = identity[2]
        self.mtime_ns = identity[5] * 10**9 + identity[6]
        self.name = name
        """By which it was asked for."""
        self.identity = identity
        self.holders = 1
        files.open.add(self)

    def hold(self) -> "OpenFile":
        """One more holder."""
        self.holders += 1
        return self

    def release(self) -> None:
        """One holder less; the last one closes it."""
        self.holders -= 1
        if not self.holders:
            fd, self.fd = self.fd, -1
            self.files.open.discard(self)
            os.close(fd)


class OpenFiles:
    """Those of a process."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open: set[OpenFile] = set()
