"""A path as whoever serves it reads it, whatever way it is spelt.

Rules about who may see what are about this one: `/%61dmin`, `//admin` and `/x/../admin` are `/admin` to nearly every
application. The request itself goes on as it came.
"""

import re
from typing import Final

_ESCAPED: Final = re.compile(rb"%(2[1246-9a-fA-F]|3[0-9a-eA-E]|[4-6][0-9a-fA-F]|7[0-9a-eA-E])")
"""An escape of a visible character. Those of `%`, `?` and `#` mean something else than the character; one of a blank or of what is
not ASCII can be written in no other way."""


def plain(path: bytes) -> bytes:
    """RFC 3986 section 6.2.2, and no doubled slash: visible characters not escaped, dot segments resolved.

    `..;x` is a dot segment, too: Servlet containers take a segment's parameters off before they resolve it.
    """
    if not path.startswith(b"/"):  # asterisk form, or a path that is none
        return path
    if b"%" in path:
        path = _ESCAPED.sub(lambda escape: bytes([int(escape[1], 16)]), path)
    if b"//" not in path and b"/." not in path:
        return path
    kept: list[bytes] = []
    *segments, last = path.split(b"/")
    if b"/.;" in path or b"/..;" in path:
        *segments, last = [bare if (bare := each.partition(b";")[0]) in (b".", b"..") else each for each in (*segments, last)]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment and segment != b".":
            kept.append(segment)
    if last == b"..":
        del kept[-1:]
    kept.append(b"" if last in (b".", b"..") else last)
    return b"/" + b"/".join(kept)
