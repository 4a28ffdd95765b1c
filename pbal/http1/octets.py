r"""What readers of requests and of responses share: the buffer, the budget, header lines, bodies.

**Budget.** A peer can put the work of a minute into a few hundred kilobytes: chunks of one octet, trailers, interim
responses. So a reader has `steps`. A chunk costs one, a trailer section and an interim head what reading them takes in chunks.
When none is left, next() gives out what it has decoded, and then None with `tired` set: there is more to be read, in another
turn of the loop, after begin_turn(). Whoever never calls begin_turn() reads without a budget. Where a turn ends is as
invisible in what comes out as where octets are cut.

**Buffer.** What is read is taken from the front. From bytes that means a copy of all that is left, so where much is
left it becomes a bytearray, whose front can be dropped without moving the rest.
"""

import re
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

from pbal.http1.events import CHUNKED, END, UNTIL_CLOSE, EndOfBody, Head, Malformed
from pbal.http1.headers import trailer_block
from pbal.http1.lines import Line, lines_of
from pbal.http1.whereabouts import TOKEN, VALUE, first_wrong

STEPS: Final = 2048
"""The budget of a turn: about 1 ms of chunks of one octet (0.5 us each), interpreted, on a machine of 2024."""

_BLOCK: Final = re.compile(rb"(?:" + TOKEN + rb"++:" + VALUE + rb"*+\r\n)*+")
FORBIDDEN: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)(?:;" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?)*+\r\n")
_CHUNK_START: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,16}(?:;" + VALUE + rb"*+)?\r?)?\Z")

REMEMBERED: Final = 4096
"""Octets of a head worth remembering: an idle connection keeps them."""

LITTLE: Final = 4096
"""Octets that are copied faster than a bytearray is made."""
_UNBUDGETED: Final = 1 << 60
_SINGLE: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})

HEAD: Final = 0
LENGTH_BODY: Final = 1
CHUNK: Final = 2
CHUNK_BODY: Final = 3
TRAILER: Final = 4
CLOSE: Final = 5
ENDED: Final = 6
DEAD: Final = 7
TUNNEL: Final = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader accepts at most. One object serves all connections of a service in one direction."""

    max_head: int = 65536
    """Octets of start line and header fields: 431. nginx 4 x 8k, Apache 100 x 8190."""
    max_fields: int = 100
    """Header lines: 431. Apache's default."""
    max_target: int = 8192
    """Octets of a request line, without its CRLF: 414. RFC 9112 section 3 asks for 8000 at least. Nothing to a response."""
    max_trailer: int = 8192
    """Octets of a trailer section: 431."""
    max_trailer_fields: int = 64
    """Lines of it: 431."""
    max_chunk_line: int = 256
    """Octets of a chunk's size line: extensions have no honest use (nginx reads any, h11 20k)."""
    chunked_http10: bool = False
    """Whether a request of HTTP/1.0 may be chunked."""


SHOWN: Final = 1024
"""Octets of a head that was refused which the log may show."""


class Reader(metaclass=ABCMeta):
    """The buffer, the budget, header lines and bodies. RequestReader and ResponseReader add their heads."""

    __slots__ = ("_buffer", "_last", "_last_octets", "_left", "_limits", "_mode", "_seen", "steps", "tired", "trailer")

    _of_responses: ClassVar[bool] = False

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer: bytes | bytearray = b""
        self._mode: int = HEAD
        self._seen = 0
        self._left = 0
        self._last_octets = b""
        self._last: Head | None = None
        self.steps: int = _UNBUDGETED
        """What is left of the budget of this turn."""
        self.trailer = b""
        """After the END of a body: the trailer fields that may travel on, as lines. They never become header fields."""
        self.tired = False
        """next() gave None because the budget is used up: more can be read in another turn, after begin_turn()."""

    def begin_turn(self) -> None:
        """Give the reader its budget for a turn of the loop."""
        self.steps = STEPS
        self.tired = False

    def feed(self, data: bytes) -> None:
        """Take octets from the socket."""
        buffer = self._buffer
        if not buffer:
            self._buffer = data
        else:
            if not isinstance(buffer, bytearray):
                buffer = bytearray(buffer)
            buffer += data
            self._buffer = buffer

    @property
    def buffered(self) -> int:
        """Octets fed and not yet given out."""
        return len(self._buffer)

    @property
    def at_start(self) -> bool:
        """Between two messages, with no octet of the next one."""
        return self._mode == HEAD and not self._buffer

    def beginning(self) -> bytes:
        """The first line of a head that has not come whole, or a part of it, for the log; b"" in a body."""
        return first_line(bytes(self._buffer[:SHOWN])) if self._mode == HEAD else b""

    def take_rest(self) -> bytes:
        """Give out what is buffered, unread, for a tunnel."""
        rest, self._buffer = bytes(self._buffer), b""
        self.tired = False
        return rest

    def _drop(self, end: int) -> None:
        """Take the octets before `end` from the buffer."""
        buffer = self._buffer
        if len(buffer) - end <= LITTLE:
            self._buffer = buffer[end:] if isinstance(buffer, bytes) else bytes(buffer[end:])
        elif isinstance(buffer, bytearray):
            del buffer[:end]
        else:
            self._buffer = bytearray(memoryview(buffer)[end:])

    def _keep_rest(self, buffer: bytes | bytearray, end: int, framing: int) -> None:
        """Keep what came behind a head. The beginning of a body is given out as it is kept: it is copied once, and not for _drop() too."""
        if isinstance(buffer, bytes) and len(buffer) - end <= framing:
            self._buffer = buffer[end:]
        else:
            self._buffer = buffer
            self._drop(end)

    def _refused(self, reason: str, status: int | None = None) -> Malformed:
        """The exception to raise. The reader is dead from here."""
        said = self.beginning()
        head = bytes(self._buffer) if self._mode == HEAD else b""
        self._mode = DEAD
        self._buffer = b""
        self.tired = False
        refusal = self._refusal(reason, status)
        refusal.said = said
        if head:
            self._look_for_octet(refusal, head)
        return refusal

    def _look_for_octet(self, refusal: Malformed, head: bytes) -> None:
        """Say which octet of a head it was refused for, if one is to blame."""
        refusal.place = first_wrong(head, refusal.reason, self._of_responses)
        if refusal.place >= 0:
            refusal.octet = head[refusal.place]

    @abstractmethod
    def _refusal(self, reason: str, status: int | None) -> Malformed:
        """The exception for it, of the kind that the direction has."""

    # -- heads ---------------------------------------------------------------------------------------------------

    def _spend_on(self, octets: int) -> None:
        """Pay for a trailer section or an interim head: some 10 us, and 1 us for each 100 octets."""
        self.steps -= 16 + (octets >> 6)

    def _look_at_part(self, forbidden: "re.Pattern[bytes]" = FORBIDDEN) -> None:
        """Refuse early what cannot become a head any more."""
        buffer = self._buffer
        wrong = forbidden.search(buffer, max(0, self._seen - 1))
        if wrong is not None:
            raise self._refused("a control octet, or a line not ended by CRLF")
        end = max(0, len(buffer) - 3)  # CRLFCRLF cannot come to stand earlier
        self._look_at_size(end)
        self._seen = end

    def _look_at_size(self, end: int) -> None:
        """Refuse a head that ends at `end`, or will not end before, when that is too far.

        A whole head and a part of it are measured alike, or it would depend on how octets were cut what is taken.
        """
        if end > self._limits.max_head:
            raise self._refused("the head is too large", self._too_large())

    def _too_large(self) -> int | None:
        return None

    def _lines_of(self, block: bytes) -> list[Line] | None:
        """The lines of a whole block of header lines; None when not every line is one. Raises: Malformed for too many."""
        parts = block.split(b"\r\n")
        parts.pop()  # behind the last CRLF
        if len(parts) > self._limits.max_fields and _BLOCK.fullmatch(block) is not None:
            raise self._refused("too many header fields", self._too_large())
        return lines_of(parts)

    def _keep_fields(self, head: Head, block: bytes, lines: list[Line]) -> None:
        """Put header lines into `head`."""
        fields: dict[bytes, bytes] = {}
        for line in lines:
            name = line.name
            fields[name.key] = line.value
            if name.of_hop:
                head.of_hop = True
            if name.underscore:
                head.underscores = True
        if len(fields) != len(lines):
            self._join_repeated(lines, fields)
        head.fields, head.block, head.lines = fields, block, lines

    def _join_repeated(self, lines: list[Line], fields: dict[bytes, bytes]) -> None:
        """Combine repeated fields (RFC 9110 section 5.3), and refuse the ones that may not be repeated."""
        joined: dict[bytes, list[bytes]] = {}
        for line in lines:
            joined.setdefault(line.name.key, []).append(line.value)
        for name, values in joined.items():
            if len(values) > 1:
                if name in _SINGLE:
                    raise self._refused(f"more than one {name.decode().title()}")
                fields[name] = (b"; " if name == b"cookie" else b", ").join(values)

    def _length_of(self, fields: dict[bytes, bytes]) -> int | None:
        """Content-Length, or None."""
        value = fields.get(b"content-length")
        if value is None:
            return None
        if not value.isdigit() or len(value) > 19:  # of bytes, isdigit() knows ASCII only
            raise self._refused("Content-Length is not a plain number")
        return int(value)

    def _begin_body(self, framing: int) -> None:
        self.trailer = b""
        if framing > 0:
            self._mode, self._left = LENGTH_BODY, framing
        elif framing == CHUNKED:
            self._mode = CHUNK
        elif framing == UNTIL_CLOSE:
            self._mode = CLOSE

    # -- bodies --------------------------------------------------------------------------------------------------

    def _body(self) -> bytes | EndOfBody | None:
        """The next piece of a body, its end, or None."""
        mode = self._mode
        if mode == LENGTH_BODY:
            return self._length_piece()
        if mode == CLOSE:
            return self.take_rest() or None
        if mode == ENDED:
            self._mode = HEAD
            return END
        if mode == TRAILER:
            return self._end_of_trailer()
        if mode in (DEAD, TUNNEL):
            return None
        return self._chunked_piece()

    def _length_piece(self) -> bytes | None:
        buffer, left = self._buffer, self._left
        size = len(buffer)
        if not size:
            return None
        if size <= left:
            self._buffer = b""
            piece = buffer if isinstance(buffer, bytes) else bytes(buffer)
        else:
            piece = buffer[:left] if isinstance(buffer, bytes) else bytes(buffer[:left])
            self._drop(left)
        self._left = left = left - len(piece)
        if not left:
            self._mode = ENDED
        return piece

    def _chunked_piece(self) -> bytes | EndOfBody | None:
        """Decode the complete chunks in the buffer, as far as the budget goes (RFC 9112 section 7.1)."""
        buffer, place, left, steps = self._buffer, 0, self._left, self.steps
        longest, size = self._limits.max_chunk_line, len(buffer)
        pieces: list[bytes | bytearray] = []
        tired = False
        while True:
            if self._mode == CHUNK_BODY:
                end = place + left
                if end + 2 > size or buffer[end : end + 2] != b"\r\n":
                    taken = min(left, size - place)
                    pieces.append(buffer[place : place + taken])
                    left -= taken
                    place += taken
                    self._look_at_chunk_end(buffer, place, left)
                    break
                pieces.append(buffer[place:end])
                place = end + 2
                self._mode = CHUNK
            line = _CHUNK_LINE.match(buffer, place)
            if line is None:
                self._look_at_chunk_line(buffer, place)
                break
            if steps <= 0:
                tired = True
                break
            steps -= 1
            if line.end() - place > longest:
                raise self._refused("a chunk extension is too long")
            place = line.end()
            left = int(line[1], 16)
            if not left:
                self._mode = TRAILER
                break
            self._mode = CHUNK_BODY
        self._left, self.steps = left, steps
        if place:
            self._drop(place)
        piece = b"".join(pieces)
        self.tired = tired and not piece
        if piece:
            return piece
        return self._end_of_trailer() if self._mode == TRAILER else None

    def _look_at_chunk_end(self, buffer: bytes | bytearray, place: int, left: int) -> None:
        """Refuse a chunk that is not followed by CRLF, as far as that can be seen."""
        if not left and not b"\r\n".startswith(bytes(buffer[place : place + 2])):
            raise self._refused("a chunk is longer than its size")

    def _look_at_chunk_line(self, buffer: bytes | bytearray, place: int) -> None:
        """Refuse what cannot become a chunk's size line."""
        if len(buffer) - place > self._limits.max_chunk_line:
            raise self._refused("a chunk extension is too long")
        if _CHUNK_START.match(buffer, place) is None:
            raise self._refused("a chunk size is not a plain hexadecimal number ended by CRLF")

    def _end_of_trailer(self) -> EndOfBody | None:
        """Read the trailer section into `trailer`, without the fields that may not stand there."""
        buffer = self._buffer
        self.tired = False
        if buffer[:2] == b"\r\n":
            self._drop(2)
        else:
            end = buffer.find(b"\r\n\r\n", self._seen)
            reach = end if end >= 0 else max(0, len(buffer) - 3)
            if reach > self._limits.max_trailer:
                raise self._refused("the trailer section is too large", self._too_large())
            if end < 0:
                if FORBIDDEN.search(buffer, max(0, self._seen - 1)) is not None:
                    raise self._refused("a trailer line is not ended by CRLF")
                self._seen = reach
                return None
            if self.steps <= 0:
                self.tired = True
                return None
            self._spend_on(end)
            fields = split_fields(bytes(buffer[: end + 2]))
            if fields is None:
                raise self._refused("a trailer field is malformed")
            if len(fields) > self._limits.max_trailer_fields:
                raise self._refused("too many trailer fields", self._too_large())
            self.trailer = trailer_block(fields)
            self._drop(end + 4)
        self._mode = HEAD
        self._seen = 0
        return END


def first_line(octets: bytes) -> bytes:
    """What comes before the first CR or LF: whatever follows may be fields, with credentials in them."""
    return octets.partition(b"\r")[0].partition(b"\n")[0]


def split_fields(block: bytes) -> list[tuple[bytes, bytes]] | None:
    """Names and values of header lines; None when not every line is one."""
    parts = block.split(b"\r\n")
    parts.pop()
    lines = lines_of(parts)
    return None if lines is None else [(line.name.said, line.value) for line in lines]


def what_is_wrong(block: bytes) -> str:
    """Words for the first header line that does not parse."""
    good = _BLOCK.match(block)
    line = block[good.end() if good is not None else 0 :].partition(b"\r\n")[0]
    if line[:1] in (b" ", b"\t"):
        return "a folded header line"
    name = line.partition(b":")[0]
    if name.endswith((b" ", b"\t")):
        return "a blank before the colon of a header field"
    if b":" not in line:
        return "a header line without a colon"
    return "a malformed header field"


def tokens(value: bytes) -> list[bytes]:
    """The lower-case elements of a comma-separated list."""
    return [token.strip(b" \t") for token in value.lower().split(b",")]
