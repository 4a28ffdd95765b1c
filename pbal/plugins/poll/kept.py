"""A queue that keeps its messages, as it lies in memcached: a header, then what writers appended.

    NUL "1 " EPOCH " " BASE {" " OFFSET ":" SECOND} LF  message message message ...

EPOCH is 16 hexadecimal digits. BASE is the offset of the first octet behind the header: it grows when old messages are cut off, so
that positions stay true. A mark OFFSET:SECOND says that what lies before the offset was there at that time (Unix time): appended
messages carry none. Marks are set by whoever looks, MARKS a ttl, so a message is kept for the ttl and up to a quarter more while
anybody looks. Writers know nothing of the header: they append, and a value that one of them began has none until pbal looks.
"""

import re
from dataclasses import dataclass, field

from .framing import trim
from .positions import Log, new_epoch

MARKS = 12
"""Marks a ttl."""
LONGEST_HEADER = 512
"""Octets; 16 marks are 350."""
_HEADER = re.compile(rb"\x001 ([0-9a-f]{16}) (\d{1,14})((?: \d{1,15}:\d{1,12}(?:\.\d)?)*)\n")
BEGINS_ALIKE = b"\x001 "
"""With these octets no message may begin."""


@dataclass(slots=True)
class Kept:
    """A queue, taken apart."""

    epoch: bytes = field(default_factory=new_epoch)
    base: int = 0
    marks: list[tuple[int, float]] = field(default_factory=list)
    """(offset, second) pairs, the oldest first."""
    data: bytes = b""

    @classmethod
    def parse(cls, value: bytes) -> "Kept | None":
        """What a value holds; None if it has no header."""
        head = _HEADER.match(value)
        if head is None:
            return None
        pairs = (mark.split(b":") for mark in head[3].split())
        return cls(bytes.fromhex(head[1].decode()), int(head[2]), [(int(o), float(s)) for o, s in pairs], value[head.end() :])

    def render(self) -> bytes:
        """The value."""
        marks = "".join(f" {offset}:{second:.1f}" for offset, second in self.marks)
        return f"\x001 {self.epoch.hex()} {self.base}{marks}\n".encode() + self.data

    @property
    def end(self) -> int:
        """The offset behind the last octet."""
        return self.base + len(self.data)

    def cut(self, offset: int) -> bool:
        """Drop what lies before an offset; whether anything did."""
        octets = min(offset - self.base, len(self.data))
        if octets <= 0:
            return False
        self.data = self.data[octets:]
        self.base += octets
        self.marks = [(end, second) for end, second in self.marks if end > self.base]
        return True

    def shorten(self, most: int, framing: str, newest: bytes = b"") -> int:
        """Keep the newest whole messages that fit into so many octets; how many older ones went. `newest`: see framing.trim()."""
        left, dropped = trim(self.data, most, framing, newest)
        self.cut(self.end - len(left))
        return dropped

    def grow_old(self, second: float, ttl: float) -> bool:
        """Drop what is older than the ttl, and mark what has no mark yet; whether anything changed."""
        old = [offset for offset, marked in self.marks if marked <= second - ttl]
        changed = bool(old) and self.cut(old[-1])
        last_offset, last_second = self.marks[-1] if self.marks else (self.base, 0.0)
        if self.end > last_offset and second - last_second >= ttl / MARKS:
            self.marks.append((self.end, second))
            changed = True
        return changed

    def due(self, ttl: float) -> float:
        """The second at which grow_old() will have something to do; infinity if nothing is there."""
        first = self.marks[0][1] + ttl if self.marks else float("inf")
        if self.marks and self.end > self.marks[-1][0]:
            first = min(first, self.marks[-1][1] + ttl / MARKS)
        return first

    def log(self, key: bytes) -> Log:
        """It as the hub reads it."""
        return Log(key, self.epoch, self.base, self.data)


def without_header(value: bytes) -> bytes:
    """The messages of a value."""
    head = _HEADER.match(value) if value[:1] == b"\0" else None
    return value if head is None else value[head.end() :]
