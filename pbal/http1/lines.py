"""Header lines, each parsed once: most of what peers send they have sent before, if not the head then its lines.

Host, Accept, Server and their like stand in one head after another to the octet, also where no two heads are equal. So a line that was
found good is remembered with what it says, for all connections: to look one up costs a hash.

What is remembered is bounded. There are two generations: a line goes into the young one; when that is full it becomes the old one, and the
former old one goes, but for lines that were asked for meanwhile. And a field whose lines are always others (cookies, ids, dates) is let in
rarely, or it would drive out what repeats itself.

Names are remembered, too: of a field that is known the value alone is looked at.
"""

import re
from typing import Final

from pbal.http1.whereabouts import TOKEN

HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
        b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""Fields of one hop, whatever Connection says (RFC 9110 section 7.6.1)."""

LONGEST: Final = 256
"""Octets of a line worth remembering."""
MOST: Final = 512
"""Lines of a generation: with both of them half a megabyte at most."""
NAMES: Final = 1024
"""Names that are remembered. When there are more, all are forgotten: peers that invent names pay for it, hardly the others."""
OF_ONE_NAME: Final = 16
"""Lines of one name that are let in..."""
LEFT_OUT: Final = 256
"""... and how many are left out after those."""

_NAME: Final = re.compile(TOKEN + rb"++")
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
"""What no value has: every control but the tab (RFC 9110 section 5.5)."""


class Name:
    """The name of a field, as peers spell it."""

    __slots__ = ("key", "met", "of_hop", "said", "underscore")

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.key = said.lower()
        self.of_hop = self.key in HOP_BY_HOP
        self.underscore = b"_" in said
        self.met = 0
        """Lines of it that were not known."""


class Line:
    """One header line. It is shared: not to be changed."""

    __slots__ = ("name", "octets", "value")

    def __init__(self, octets: bytes, name: Name, value: bytes) -> None:
        self.octets = octets
        """As sent, without CRLF."""
        self.name = name
        self.value = value
        """Without spaces at its ends."""


class _Known:
    """The lines that are remembered, by their octets."""

    __slots__ = ("names", "old", "young")

    def __init__(self) -> None:
        self.young: dict[bytes, Line] = {}
        self.old: dict[bytes, Line] = {}
        self.names: dict[bytes, Name] = {}

    def look_further(self, octets: bytes) -> Line | None:
        """The line, from the old generation or parsed; None if it is none."""
        line = self.old.get(octets)
        if line is not None:
            self._remember(octets, line)
            return line
        colon = octets.find(b":")
        if colon < 0:
            return None
        said = octets[:colon]
        name = self.names.get(said)
        if name is None:
            if _NAME.fullmatch(said) is None:
                return None
            name = Name(said)
            if len(self.names) >= NAMES:
                self.names.clear()
            if colon <= LONGEST:
                self.names[said] = name
        if len(octets.translate(None, _CONTROLS)) != len(octets):
            return None
        line = Line(octets, name, octets[colon + 1 :].strip(b" \t"))
        met = name.met
        name.met = met + 1 if met < OF_ONE_NAME + LEFT_OUT else 0
        if met < OF_ONE_NAME and len(octets) <= LONGEST:
            self._remember(octets, line)
        return line

    def _remember(self, octets: bytes, line: Line) -> None:
        if len(self.young) >= MOST:
            self.old, self.young = self.young, {}
        self.young[octets] = line


_known: Final = _Known()


def lines_of(parts: list[bytes]) -> list[Line] | None:
    """Header lines, each without its CRLF; None when not every one is one."""
    lines: list[Line] = []
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
