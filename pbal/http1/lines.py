"""Header lines, each parsed once: most of what peers send they have sent before, if not the head then its lines.

Host, Accept, Server and their like stand in one head after another to the octet, also where no two heads are equal. So a line that was
found good is remembered with what it says, for all connections: to look one up costs a hash, to parse it some 2 us, interpreted.

What is remembered is bounded, and a peer that never repeats itself costs the others little: there are two generations. A line goes into the
young one; when that is full it becomes the old one, and the former old one goes, but for lines that were asked for meanwhile.
"""

import re
from typing import Final

from pbal.http1.whereabouts import TOKEN, VALUE

LONGEST: Final = 256
"""Octets of a line worth remembering."""
MOST: Final = 512
"""Lines of a generation: with both of them half a megabyte at most."""

_LINE: Final = re.compile(rb"(" + TOKEN + rb"++):[\t ]*+(" + VALUE + rb"*+)")


class Line:
    """One header line. It is shared: not to be changed."""

    __slots__ = ("field", "name", "octets")

    def __init__(self, octets: bytes, name: bytes, value: bytes) -> None:
        self.octets = octets
        """As sent, without CRLF."""
        self.field = (name, value)
        """Name and value as sent, the value without spaces at its ends."""
        self.name = name.lower()


class _Known:
    """The lines that are remembered, by their octets."""

    __slots__ = ("old", "young")

    def __init__(self) -> None:
        self.young: dict[bytes, Line] = {}
        self.old: dict[bytes, Line] = {}

    def look_further(self, octets: bytes) -> Line | None:
        """The line, from the old generation or parsed; None if it is none."""
        line = self.old.get(octets)
        if line is None:
            found = _LINE.fullmatch(octets)
            if found is None:
                return None
            name, value = found.groups()
            line = Line(octets, name, value.rstrip(b" \t"))
            if len(octets) > LONGEST:
                return line
        if len(self.young) >= MOST:
            self.old, self.young = self.young, {}
        self.young[octets] = line
        return line


_known: Final = _Known()


def split_lines(block: bytes) -> list[Line] | None:
    """The lines of a block of header lines, each ended by CRLF; None when not every line is one."""
    lines: list[Line] = []
    if not block:
        return lines
    parts = block.split(b"\r\n")
    if parts.pop():  # the last one has no end
        return None
    young = _known.young
    for octets in parts:
        line = young.get(octets)
        if line is None:
            line = _known.look_further(octets)
            if line is None:
                return None
            young = _known.young
        lines.append(line)
    return lines
