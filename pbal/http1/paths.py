"""A path as whoever serves it reads it, whatever way it is spelt.

Rules about who may see what are about this one: `/%61dmin`, `//admin` and `/x/../admin` are `/admin` to nearly every
application, and `/admin;x` is to Servlet containers, which take the parameters off each segment (RFC 3986 section 3.3) before they look
whose path it is. Other applications take them for a part of the name: to these it is a name that nobody uses. So the parameters are
taken off here. The request itself goes on as it came.
"""

import re
from typing import Final

_ESCAPED: Final = re.compile(rb"%(2[1246-9a-fA-F]|3[0-9a-eA-E]|[4-6][0-9a-fA-F]|7[0-9a-eA-E])")
"""An escape of a visible character. Those of `%`, `?` and `#` mean something else than the character; one of a blank or of what is
not ASCII can be written in no other way."""
_CLASS: Final = re.compile(r"\[\^?\]?[^\]]*\]")
_OF_PARAMETERS: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@"

MOST_MEMBERS: Final = 100
"""Files that one request may be for, as in Perlbal."""


def members(query: bytes) -> list[bytes]:
    """The names of the files that a request for several is for, `/dir/??a,b`: those in a query that begins with the second `?`.

    Empty if it has none, and is a query as any other. What is behind another `?` is for caches.
    """
    names = query[1:].partition(b"?")[0].rstrip(b",") if query.startswith(b"?") else b""
    return names.split(b",", MOST_MEMBERS + 1) if names else []  # as Perl divides: an empty name at the end is none


def plain(path: bytes) -> bytes:
    """RFC 3986 section 6.2.2, and no doubled slash and no parameters: visible characters not escaped, dot segments resolved."""
    if not path.startswith(b"/"):  # asterisk form, or a path that is none
        return path
    return _resolved(without_parameters(decoded(path)))


def never_found(pattern: str) -> str:
    """Why a regular expression for plain paths finds nothing, for people; "" if nothing is known against it."""
    return "no path has a `;` here: parameters are taken off" if ";" in _CLASS.sub("", pattern) else ""


def decoded(path: bytes) -> bytes:
    """Visible characters not escaped."""
    return _ESCAPED.sub(lambda escape: bytes([int(escape[1], 16)]), path) if b"%" in path else path


def without_parameters(path: bytes) -> bytes:
    """Each segment up to its first `;`."""
    return b"/".join([segment.partition(b";")[0] for segment in path.split(b"/")]) if b";" in path else path


def parameters(path: bytes) -> bytes:
    """The parameters of a path's last segment, as they came: b";jsessionid=1"; b"" for what is none, or would have to be decoded."""
    end = path[len(path.rstrip(_OF_PARAMETERS)) :]  # no regular expression: it would begin anew at each of eight thousand `;`
    at = end.find(b";")
    return end[at:] if at >= 0 else b""


def _resolved(path: bytes) -> bytes:
    """Dot segments resolved, and doubled slashes one."""
    if b"//" not in path and b"/." not in path:
        return path
    kept: list[bytes] = []
    *segments, last = path.split(b"/")
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment and segment != b".":
            kept.append(segment)
    if last == b"..":
        del kept[-1:]
    kept.append(b"" if last in (b".", b"..") else last)
    return b"/" + b"/".join(kept)
