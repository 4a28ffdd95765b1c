"""Content coding of responses: whether one is coded, by what, what its head says then, and the coders (RFC 9110 sections 8.4, 12.5.3).

    Coding     what a service says of it; `accepted` weighs an Accept-Encoding, `suits` looks at a head, `whole` codes a short body
    varied()   the head of a response that suits: it says Vary, whether it is coded or not, since a cache has to know
    coded()    the head of one that is coded
    Coder      codes a body that comes in pieces

A response suits if its media type is listed, it is long enough as far as that is known, and nobody forbids it. Never coded: what has a
coding, a part of something (206), what says no-transform, what comes with a digest of its octets, and what a client of HTTP/1.0 gets,
since its length would be lost. What is coded is another sequence of octets: a strong ETag becomes weak, and ranges are not offered.

Heads are looked at as header lines. That costs a regular expression for each response of a service that has `compress`, and nothing for
others. A coder holds some 250 KB while its response goes on (zstd and brotli more), so no coder outlives a response, and nothing that is
parked has one.

zstd and brotli are not in Python's library: `missing` tells whether what they need is there, and what to install.
"""

import re
import zlib
from abc import ABCMeta, abstractmethod
from importlib import import_module
from typing import Any, Final

GZIP: Final = 1
ZSTD: Final = 2
BR: Final = 3
NUMBERS: Final[dict[str, int]] = {"gzip": GZIP, "zstd": ZSTD, "br": BR}
"""By the name in Accept-Encoding."""
NAMES: Final[dict[int, bytes]] = {number: name.encode() for name, number in NUMBERS.items()}

SHIFT: Final = 14
"""Where the number stands among the flags of a connection (net/wire.py)."""
CODING: Final = 3 << SHIFT
NOT_PLAIN: Final = 1 << 16
"""The client refuses what has no coding: identity;q=0."""
ACCEPTED: Final = CODING | NOT_PLAIN

ONCE: Final = 65536
"""Octets that are coded at once: 1 to 2 ms."""
LITTLE: Final = 4096
"""Octets that are coded at once though much was coded in this turn of the loop."""

_LOOKED_AT: Final = re.compile(
    rb"^(content-(?:type|encoding|length|range|digest|md5)|cache-control|etag|vary|(?:repr-|want-)?digest|trailer):"
    rb"([^\r\n]*)\r\n",
    re.IGNORECASE | re.MULTILINE,
)
"""Values have their blanks: a pattern that leaves them out takes time by the square of their number."""
_TOTAL: Final = re.compile(rb"^content-range:[^\r\n]*/([0-9]+)\r\n", re.IGNORECASE | re.MULTILINE)
_OF_PARTS: Final = re.compile(rb"^content-(?:range|length):[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)
_LOST: Final = re.compile(rb"^(?:content-length|content-encoding|accept-ranges):[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)
"""What does not hold of what is coded; a Content-Encoding that is there says `identity`."""
_STRONG: Final = re.compile(rb"^(etag:[\t ]*)(?=\")", re.IGNORECASE | re.MULTILINE)
_DIGESTS: Final = frozenset({b"content-digest", b"content-md5", b"repr-digest", b"digest"})
_WEIGHT: Final = re.compile(rb"[\t ]*;[\t ]*[Qq]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[\t ]*")
_ELEMENT: Final = re.compile(rb"[\t ]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)((?:[\t ]*;[^,]*)?)[\t ]*")


def missing(name: str) -> str:
    """What to install for a coding of NUMBERS, "" if nothing."""
    try:
        _module(name)
    except ImportError:
        return {"zstd": "zstandard", "br": "brotli"}[name]
    return ""


def _module(name: str) -> Any:
    """The module that has a coding's compressor. Raises: ImportError."""
    if name == "gzip":
        return zlib
    if name == "br":
        return import_module("brotli")
    try:
        return import_module("compression.zstd")  # Python 3.14
    except ImportError:
        return import_module("zstandard")


class Coder(metaclass=ABCMeta):
    """Codes one body."""

    __slots__ = ()

    @abstractmethod
    def code(self, data: bytes | memoryview) -> bytes:
        """Some octets more; what comes of them now."""

    @abstractmethod
    def flush(self) -> bytes:
        """What makes all that was said so far readable to the other side."""

    @abstractmethod
    def finish(self) -> bytes:
        """The end."""


class _Gzip(Coder):
    __slots__ = ("_made",)

    def __init__(self, level: int) -> None:
        self._made = zlib.compressobj(level, zlib.DEFLATED, 31)

    def code(self, data: bytes | memoryview) -> bytes:
        return self._made.compress(data)

    def flush(self) -> bytes:
        return self._made.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._made.flush()


class _Zstd(Coder):
    """Of Python's own library or of the package zstandard, which differ in names. Up to level 9, windows are below 8 MB (RFC 9659)."""

    __slots__ = ("_block", "_end", "_made")

    def __init__(self, level: int) -> None:
        module = _module("zstd")
        compressor = module.ZstdCompressor(level=level)
        if hasattr(compressor, "compressobj"):
            self._made: Any = compressor.compressobj()
            self._block, self._end = module.COMPRESSOBJ_FLUSH_BLOCK, module.COMPRESSOBJ_FLUSH_FINISH
        else:
            self._made = compressor
            self._block, self._end = compressor.FLUSH_BLOCK, compressor.FLUSH_FRAME

    def code(self, data: bytes | memoryview) -> bytes:
        return bytes(self._made.compress(data))

    def flush(self) -> bytes:
        return bytes(self._made.flush(self._block))

    def finish(self) -> bytes:
        return bytes(self._made.flush(self._end))


class _Brotli(Coder):
    __slots__ = ("_made",)

    def __init__(self, level: int) -> None:
        self._made: Any = _module("br").Compressor(quality=level)

    def code(self, data: bytes | memoryview) -> bytes:
        return bytes(self._made.process(bytes(data)))

    def flush(self) -> bytes:
        return bytes(self._made.flush())

    def finish(self) -> bytes:
        return bytes(self._made.finish())


_CODERS: Final[dict[int, type[_Gzip] | type[_Zstd] | type[_Brotli]]] = {GZIP: _Gzip, ZSTD: _Zstd, BR: _Brotli}


def weighed(accept: bytes) -> dict[bytes, float]:
    """The codings of an Accept-Encoding with their weights; what cannot be read is left out."""
    found: dict[bytes, float] = {}
    for element in accept.split(b",", 100):
        match = _ELEMENT.fullmatch(element)
        if match is None:
            continue
        name, rest = match[1].lower(), match[2]
        weight = 1.0
        if rest:
            said = _WEIGHT.fullmatch(rest)
            if said is None:
                continue
            weight = float(said[1])
        found[b"gzip" if name == b"x-gzip" else name] = weight
    return found


class Coding:
    """What a service says of content coding."""

    __slots__ = ("_known", "_last", "_preferred", "_ranges", "_types", "least", "level")

    def __init__(self, names: tuple[str, ...], types: tuple[bytes, ...], least: int, level: int) -> None:
        self._preferred = tuple((name.encode(), NUMBERS[name]) for name in names)
        self._types = frozenset(kind for kind in types if not kind.endswith(b"*"))
        self._ranges = tuple(kind[:-1] for kind in types if kind.endswith(b"*"))
        self.least = least
        self.level = level
        self._known: dict[bytes, int] = {}
        self._last: tuple[int, bytes, bytes] = (0, b"", b"")

    def accepted(self, accept: bytes | None) -> int:
        """What an Accept-Encoding lets a response be: flags of ACCEPTED, 0 where it is to be plain.

        The highest weight wins, then what the service prefers. A client that lists identity above them gets that.
        """
        if not accept:
            return 0
        found = self._known.get(accept)
        if found is None:
            found = self._weigh(accept)
            if len(self._known) < 500 and len(accept) < 200:  # a client may invent them without end
                self._known[accept] = found
        return found

    def _weigh(self, accept: bytes) -> int:
        weights = weighed(accept)
        other = weights.get(b"*", 0.0)
        best, number = 0.0, 0
        for name, each in self._preferred:
            weight = weights.get(name, other)
            if weight > best:
                best, number = weight, each
        if not number or weights.get(b"identity", 0.0) > best:
            return 0
        refuses = weights.get(b"identity", weights.get(b"*", 1.0)) == 0
        return number << SHIFT | (NOT_PLAIN if refuses else 0)

    def still(self, flags: int) -> int:
        """What was accepted when a request was parked, as far as the service still has it."""
        number = (flags & CODING) >> SHIFT
        return flags & ACCEPTED if any(each == number for _, each in self._preferred) else 0

    def varies(self, status: int, block: bytes) -> bool:
        """Whether a part (206) is one of a representation that would be coded for others."""
        if status != 206:
            return False
        whole = _TOTAL.search(block)
        length = -1 if whole is None else int(whole[1])
        return self.suits(200, _OF_PARTS.sub(b"", block), length, 0)

    def suits(self, status: int, block: bytes, length: int, accepted: int) -> bool:
        """Whether a response may be coded at all. `length`: octets of its body, -1 where nobody knows.

        A 304 suits where its 200 may have: its type is not said there.
        """
        if status < 200 or status in (204, 205, 206):
            return False
        said: dict[bytes, bytes] = {}
        for name, value in _LOOKED_AT.findall(block):
            known, value = name.lower(), value.strip(b" \t")
            said[known] = said[known] + b"," + value if known in said else value
        if not said.keys().isdisjoint(_DIGESTS) or b"content-range" in said or said.get(b"content-encoding", b"identity") != b"identity":
            return False
        if b"no-transform" in said.get(b"cache-control", b"").lower() or b"digest" in said.get(b"trailer", b"").lower():
            return False
        kind = said.get(b"content-type", b"").partition(b";")[0].strip(b" \t").lower()
        if status == 304 and not kind:
            return True
        if kind not in self._types and not kind.startswith(self._ranges):
            return False
        if status == 304:
            return True
        if length < 0 and b"content-length" in said and said[b"content-length"].isdigit():
            length = int(said[b"content-length"])
        return length < 0 or length >= (1 if accepted & NOT_PLAIN else self.least)

    def coder(self, accepted: int) -> Coder:
        """One for a body."""
        return _CODERS[(accepted & CODING) >> SHIFT](self.level)

    def whole(self, accepted: int, body: bytes) -> bytes:
        """A body, coded at once. The same object that goes to many, one after another, is coded once."""
        number, last, coded = self._last
        if last is body and number == accepted & CODING and body:
            return coded
        coder = self.coder(accepted)
        coded = coder.code(body) + coder.finish()
        self._last = (accepted & CODING, body, coded)
        return coded


def varied(block: bytes) -> bytes:
    """Header lines that say Vary: Accept-Encoding."""
    for name, value in _LOOKED_AT.findall(block):
        if name.lower() == b"vary" and not {b"*", b"accept-encoding"}.isdisjoint(each.strip(b" \t") for each in value.lower().split(b",")):
            return block
    return block + b"Vary: Accept-Encoding\r\n"


def weakened(block: bytes) -> bytes:
    """Header lines whose ETag names what means the same, not the same octets (RFC 9110 section 8.8.1)."""
    return _STRONG.sub(rb"\1W/", block)


def coded(block: bytes, accepted: int) -> bytes:
    """The header lines of a response that is coded."""
    return b"%bContent-Encoding: %b\r\n" % (weakened(_LOST.sub(b"", block)), NAMES[(accepted & CODING) >> SHIFT])
