"""Ranges of octets that a client asks for (RFC 9110 section 14), and the body that answers several of them.

A server may ignore Range. This one does for units it does not know, for what is malformed, for more than MOST ranges, and where several
ask for more octets than the file has: so a small request could be made to cost much (RFC 9110 section 17.15).
"""

import os
import re
from typing import Final

MOST: Final = 16
"""Ranges in one request. PDF readers ask for a few."""

_UNIT: Final = re.compile(rb"bytes[ \t]*=", re.IGNORECASE)
_RANGE: Final = re.compile(rb"(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))")

Range = tuple[int, int]
"""The first octet, from 0, and how many."""


def wanted(value: bytes, size: int) -> list[Range] | None:
    """The ranges of a file of `size` octets that a Range field asks for; none if it has none of them; None if the field is to be ignored.

    Source: RFC 9110 sections 14.1.2 and 14.2.
    """
    unit = _UNIT.match(value)
    if unit is None:
        return None
    texts = [text for text in (each.strip(b" \t") for each in value[unit.end() :].split(b",", MOST * 2)) if text]
    matches = [_RANGE.fullmatch(text) for text in texts]
    if not texts or len(texts) > MOST:
        return None
    found: list[Range] = []
    for match in matches:
        if match is None:
            return None
        part = _part(match, size)
        if part is None:
            return None
        if part[1]:
            found.append(part)
    if len(found) > 1 and sum(length for _, length in found) > size:
        return None
    return found


def _part(match: "re.Match[bytes]", size: int) -> Range | None:
    """One range; one of no octets if the file has none of it; None if it is none."""
    if match[3] is not None:
        length = int(match[3])
        if length and not size:
            return None  # the whole of nothing: there is no Content-Range for that
        return max(0, size - length), min(length, size)
    first = int(match[1])
    last = int(match[2]) if match[2] else max(first, size - 1)
    if last < first:
        return None
    return first, max(0, min(last, size - 1) - first + 1)


def content_range(part: Range, size: int) -> bytes:
    """The value of Content-Range of a part."""
    return b"bytes %d-%d/%d" % (part[0], part[0] + part[1] - 1, size)


class Parts:
    """A body of type multipart/byteranges (RFC 9110 section 14.6): what stands before each part, and after the last."""

    __slots__ = ("before", "content_type", "end", "length")

    def __init__(self, parts: list[Range], size: int, content_type: bytes) -> None:
        boundary = os.urandom(12).hex().encode()
        kind = b"Content-Type: %b\r\n" % content_type if content_type else b""
        lines = b"--%b\r\n%bContent-Range: %b\r\n\r\n"
        self.before = [lines % (boundary, kind, content_range(part, size)) for part in parts]
        self.before[1:] = [b"\r\n" + head for head in self.before[1:]]
        self.end = b"\r\n--%b--\r\n" % boundary
        self.content_type = b"multipart/byteranges; boundary=" + boundary
        self.length = sum(map(len, self.before)) + sum(length for _, length in parts) + len(self.end)
