r"""Octets to events: strict, small, without I/O.

A reader is fed what the socket gave and asked for events until it has none. It takes a head as a whole: one search for
CRLFCRLF, one regex over the start line, one over all header lines. What the grammar of RFC 9112 does not derive is
refused, and a reader that refused once stays dead: whatever follows a malformed message cannot be trusted, because
somebody else may find its borders elsewhere. That is all there is to request smuggling.

Strict means here, beyond the grammar: no bare CR or LF, no folded lines, one Host, one Content-Length of plain digits,
`chunked` as the only transfer coding and never beside a Content-Length or in HTTP/1.0, and no leniency from Python:
int() and strip() see only what a regex has passed.

A head that has not come whole is looked at once per octet, not once per feed: `_seen` says where the search goes on.

Clients and backends of a kept connection mostly repeat themselves to the octet: the same poll, the same small answer.
So a reader remembers its last head, and one that is equal in every octet is given out again without being parsed
again (6 us for a request, 9 us for a response, of some 30 us of Python for a proxied request). That is why heads must
not be changed by those who receive them.

                 feed                         next
    HEAD    ... CRLFCRLF        -> RequestHead | ResponseHead, then by framing:
    LENGTH  n octets            -> bytes ..., END                  CHUNK -> bytes ..., then trailers, END
    CLOSE   until eof()         -> bytes ..., END (after eof)      a framing of 0 has no END
"""

import re
from dataclasses import dataclass
from typing import Final

from pbal.http1.events import (
    CHUNKED,
    END,
    UNTIL_CLOSE,
    BadRequest,
    BadResponse,
    EndOfBody,
    Head,
    Malformed,
    RequestHead,
    ResponseHead,
)

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]"
_BLOCK: Final = re.compile(rb"(?:" + _TOKEN + rb"++:" + _VALUE + rb"*+\r\n)*+")
_FIELDS: Final = re.compile(rb"^(" + _TOKEN + rb"++):[\t ]*+(" + _VALUE + rb"*+)\r\n", re.MULTILINE)
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb"++) ([!\"$-~]++) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/([0-9])\.([0-9]) ([1-9][0-9][0-9])(?: (" + _VALUE + rb"*+))?\r\n")
_FORBIDDEN: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HOST: Final = re.compile(rb"(?!:)(?=.{0,261}\Z)(?:[A-Za-z0-9._~!$&'()*+,;=%-]*+|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]++)([^?]*+)(?:\?(.*+))?")
_AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~%-]++|\[[0-9A-Fa-f:.]++\]):[0-9]{1,5}")
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_CODINGS: Final = re.compile(
    rb"(?:(?:x-)?gzip|(?:x-)?compress|deflate)(?:[\t ]*+,[\t ]*+(?:(?:x-)?gzip|(?:x-)?compress|deflate))*+"
    rb"[\t ]*+,[\t ]*+chunked",
    re.IGNORECASE,
)
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)(?:;" + _TOKEN + rb"++(?:=(?:" + _TOKEN + rb"++|" + _QUOTED + rb"))?)*+\r\n")
_CHUNK_START: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,16}(?:;" + _VALUE + rb"*+)?\r?)?\Z")

_REMEMBERED: Final = 4096
"""Octets of a head worth remembering: an idle connection keeps them."""

_HEAD, _LENGTH_BODY, _CHUNK, _CHUNK_BODY, _TRAILER, _CLOSE, _ENDED, _DEAD, _TUNNEL = range(9)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader accepts at most. One object serves all connections of a service."""

    max_head: int = 65536
    """Octets of start line and header fields: 431. nginx 4 x 8k, Apache 100 x 8190."""
    max_fields: int = 100
    """Header lines: 431. Apache's default."""
    max_target: int = 8192
    """Octets of the start line, without its CRLF: 414. RFC 9112 section 3 asks for 8000 at least."""
    max_trailer: int = 8192
    max_chunk_line: int = 256
    """Octets of a chunk's size line: extensions have no honest use (nginx reads any, h11 20k)."""


class _Reader:
    """What requests and responses share: the buffer, bodies, header lines."""

    __slots__ = ("_buffer", "_last", "_last_octets", "_left", "_limits", "_mode", "_seen")

    refusal: type[Malformed]

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer: bytes | bytearray = b""
        self._mode = _HEAD
        self._seen = 0
        self._left = 0
        self._last_octets = b""
        self._last: Head | None = None

    def feed(self, data: bytes) -> None:
        """Take octets from the socket."""
        buffer = self._buffer
        if not buffer:
            self._buffer = data
        else:
            if type(buffer) is bytes:
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
        return self._mode == _HEAD and not self._buffer

    def take_rest(self) -> bytes:
        """Give out what is buffered, unread, for a tunnel."""
        rest, self._buffer = bytes(self._buffer), b""
        return rest

    def _refused(self, reason: str, status: int | None = None) -> Malformed:
        """The exception to raise. The reader is dead from here."""
        self._mode = _DEAD
        self._buffer = b""
        return self.refusal(reason) if status is None else self.refusal(reason, status)  # type: ignore[call-arg]

    # -- heads ---------------------------------------------------------------------------------------------------

    def _take_head(self) -> bytes | None:
        """Start line and header lines, each with its CRLF; None when the empty line has not come."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", self._seen)
        if end < 0:
            self._look_at_part(buffer)
            return None
        limits = self._limits
        if end > limits.max_target or end > limits.max_head:
            self._look_at_size(buffer, end)
        self._seen = self._left = 0
        self._buffer = bytes(buffer[end + 4 :])
        return bytes(buffer[: end + 2])

    def _look_at_part(self, buffer: bytes | bytearray) -> None:
        """Refuse early what cannot become a head any more."""
        start = max(0, self._seen - 1)
        wrong = _FORBIDDEN.search(buffer, start)
        if wrong is not None:
            raise self._refused("a control octet, or a line not ended by CRLF")
        end = max(0, len(buffer) - 3)  # CRLFCRLF cannot come to stand earlier
        self._look_at_size(buffer, end)
        self._seen = end

    def _look_at_size(self, buffer: bytes | bytearray, end: int) -> None:
        """Refuse a head that ends at `end`, or will not end before, when that is too far.

        A whole head and a part of it are measured alike, or it would depend on how octets were cut what is taken.
        """
        limits = self._limits
        line = min(limits.max_target, limits.max_head)
        if end > line and buffer.find(b"\r\n", 0, line + 2) < 0:
            raise self._refused("the start line is too long", self._line_too_long(line))
        if end > limits.max_head:
            raise self._refused("the head is too large", self._too_large())

    def _too_large(self) -> int | None:
        return None

    def _line_too_long(self, limit: int) -> int | None:
        return None

    def _read_fields(self, head: Head, block: bytes) -> None:
        """Check and split header lines into `head`."""
        headers = _FIELDS.findall(block)
        # A match is one line from its start to its CRLF: as many matches as LFs means that every line is one.
        if len(headers) != block.count(b"\n"):
            raise self._refused(_what_is_wrong(block))
        if b" \r\n" in block or b"\t\r\n" in block:
            headers = [(name, value.rstrip(b" \t")) for name, value in headers]
        if len(headers) > self._limits.max_fields:
            raise self._refused("too many header fields", self._too_large())
        fields = {name.lower(): value for name, value in headers}
        if len(fields) != len(headers):
            self._join_repeated(headers, fields)
        head.headers, head.fields, head.block = headers, fields, block

    def _join_repeated(self, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes]) -> None:
        """Combine repeated fields (RFC 9110 section 5.3), and refuse the ones that may not be repeated."""
        joined: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            joined.setdefault(name.lower(), []).append(value)
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
        if _LENGTH.fullmatch(value) is None:
            raise self._refused("Content-Length is not a plain number")
        return int(value)

    def _begin_body(self, framing: int) -> None:
        if framing > 0:
            self._mode, self._left = _LENGTH_BODY, framing
        elif framing == CHUNKED:
            self._mode = _CHUNK
        elif framing == UNTIL_CLOSE:
            self._mode = _CLOSE

    # -- bodies --------------------------------------------------------------------------------------------------

    def _body(self) -> bytes | EndOfBody | None:
        """The next piece of a body, its end, or None."""
        mode = self._mode
        if mode == _LENGTH_BODY:
            return self._length_piece()
        if mode == _CLOSE:
            return self.take_rest() or None
        if mode == _ENDED:
            self._mode = _HEAD
            return END
        if mode == _TRAILER:
            return self._end_of_trailer()
        if mode in (_DEAD, _TUNNEL):
            return None
        return self._chunked_piece()

    def _length_piece(self) -> bytes | None:
        buffer, left = self._buffer, self._left
        size = len(buffer)
        if not size:
            return None
        if size <= left:
            self._buffer = b""
            piece = bytes(buffer)
        else:
            piece = bytes(buffer[:left])
            self._buffer = bytes(buffer[left:])
        self._left = left - len(piece)
        if not self._left:
            self._mode = _ENDED
        return piece

    def _chunked_piece(self) -> bytes | EndOfBody | None:
        """Decode all complete chunks in the buffer (RFC 9112 section 7.1)."""
        buffer, place = self._buffer, 0
        pieces: list[bytes] = []
        size = len(buffer)
        while self._mode != _TRAILER:
            if self._mode == _CHUNK_BODY:
                take = min(self._left, size - place)
                if take > 0:
                    pieces.append(bytes(buffer[place : place + take]))
                    self._left -= take
                    place += take
                if self._left or size - place < 2:
                    if not self._left and size - place == 1 and buffer[place] != 13:
                        raise self._refused("a chunk is longer than its size")
                    break
                if buffer[place : place + 2] != b"\r\n":
                    raise self._refused("a chunk is longer than its size")
                place += 2
                self._mode = _CHUNK
            line = _CHUNK_LINE.match(buffer, place)
            if line is None:
                self._look_at_chunk_line(buffer, place)
                break
            if line.end() - place > self._limits.max_chunk_line:
                raise self._refused("a chunk extension is too long")
            place = line.end()
            self._left = int(line[1], 16)
            self._mode = _CHUNK_BODY if self._left else _TRAILER
        self._buffer = bytes(buffer[place:]) if place < size else b""
        if pieces:
            return b"".join(pieces)
        return self._end_of_trailer() if self._mode == _TRAILER else None

    def _look_at_chunk_line(self, buffer: bytes | bytearray, place: int) -> None:
        """Refuse what cannot become a chunk's size line."""
        if len(buffer) - place > self._limits.max_chunk_line:
            raise self._refused("a chunk extension is too long")
        if _CHUNK_START.match(buffer, place) is None:
            raise self._refused("a chunk size is not a plain hexadecimal number ended by CRLF")

    def _end_of_trailer(self) -> EndOfBody | None:
        """Read and drop the trailer section. Trailers are not merged into headers (RFC 9110 section 6.5.1)."""
        buffer = self._buffer
        if buffer[:2] == b"\r\n":
            self._buffer = bytes(buffer[2:])
        else:
            end = buffer.find(b"\r\n\r\n", self._seen)
            reach = end if end >= 0 else max(0, len(buffer) - 3)
            if reach > self._limits.max_trailer:
                raise self._refused("the trailer section is too large", self._too_large())
            if end < 0:
                if _FORBIDDEN.search(buffer, max(0, self._seen - 1)) is not None:
                    raise self._refused("a trailer line is not ended by CRLF")
                self._seen = reach
                return None
            if _BLOCK.fullmatch(bytes(buffer[: end + 2])) is None:
                raise self._refused("a trailer field is malformed")
            self._buffer = bytes(buffer[end + 4 :])
        self._mode = _HEAD
        self._seen = 0
        return END


_SINGLE: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})


def _what_is_wrong(block: bytes) -> str:
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


def _tokens(value: bytes) -> list[bytes]:
    """The lower-case elements of a comma-separated list."""
    return [token.strip(b" \t") for token in value.lower().split(b",")]


class RequestReader(_Reader):
    """Reads requests. Raises BadRequest."""

    __slots__ = ()
    refusal = BadRequest

    def next(self) -> RequestHead | bytes | EndOfBody | None:
        """The next event, or None when more octets are needed. Raises: BadRequest."""
        if self._mode != _HEAD:
            return self._body()
        if not self._buffer:
            return None
        if self._seen == 0 and self._buffer[:2] == b"\r\n":
            # One empty line before a request is let pass (RFC 9112 section 2.2); `_left` remembers it.
            if self._left:
                raise self._refused("empty lines before the request")
            self._left = 1
            self._buffer = bytes(self._buffer[2:])
            return self.next()
        block = self._take_head()
        if block is None:
            return None
        if block == self._last_octets:
            known: RequestHead = self._last  # type: ignore[assignment]
            if known.framing:
                self._begin_body(known.framing)
            return known
        head = self._parse(block)
        if len(block) <= _REMEMBERED:
            self._last_octets, self._last = block, head
        return head

    def _too_large(self) -> int:
        return 431

    def _line_too_long(self, limit: int) -> int:
        return 414 if b" " in self._buffer[:limit] else 400

    def _parse(self, block: bytes) -> RequestHead:
        line = _REQUEST_LINE.match(block)
        if line is None:
            raise self._refused("the request line is malformed")
        head = RequestHead()
        method, target, major, minor = line.groups()
        if major != b"1":
            raise self._refused("this is HTTP/1", 505)
        head.method, head.target = method, target
        head.minor = one = 0 if minor == b"0" else 1
        self._read_fields(head, block[line.end() :])
        fields = head.fields
        host = fields.get(b"host")
        if host is None:
            if one:
                raise self._refused("no Host")
            host = b""
        elif _HOST.fullmatch(host) is None:
            raise self._refused("Host is malformed")
        head.host = host
        if target[0] == 47 and method != b"CONNECT":
            path, _, head.query = target.partition(b"?")
            head.path = path
        else:
            self._other_form(head)
        head.framing = self._framing(fields, one) if b"content-length" in fields or b"transfer-encoding" in fields else 0
        connection = fields.get(b"connection")
        head.keep_alive = one == 1
        head.upgrade = b""
        if connection is not None:
            self._connection(head, _tokens(connection))
        head.expect_continue = False
        if b"expect" in fields:
            if not {b"100-continue"}.issuperset(_tokens(fields[b"expect"])):
                raise self._refused("only 100-continue can be expected", 417)
            head.expect_continue = one == 1 and head.framing != 0
        self._begin_body(head.framing)
        return head

    def _connection(self, head: RequestHead, options: list[bytes]) -> None:
        if b"close" in options:
            head.keep_alive = False
        elif head.minor == 0:
            head.keep_alive = b"keep-alive" in options
        if b"upgrade" in options and head.minor and head.framing == 0:
            protocols = head.fields.get(b"upgrade", b"")
            if b"h2c" not in _tokens(protocols):
                head.upgrade = protocols

    def _other_form(self, head: RequestHead) -> None:
        """Targets that are not a path (RFC 9112 section 3.2)."""
        target = head.target
        head.query = b""
        if head.method == b"CONNECT":
            if _AUTHORITY.fullmatch(target) is None:
                raise self._refused("CONNECT wants host:port")
            head.path, head.host = b"", target
            return
        if target == b"*":
            if head.method != b"OPTIONS":
                raise self._refused("the target * is for OPTIONS")
            head.path = b"*"
            return
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not absolute[1] or _HOST.fullmatch(absolute[1]) is None:
            raise self._refused("the request target is malformed")
        head.host = absolute[1]
        head.path, head.query = absolute[2] or b"/", absolute[3] or b""

    def _framing(self, fields: dict[bytes, bytes], minor: int) -> int:
        """RFC 9112 section 6.3, without its leniencies."""
        length = self._length_of(fields)
        coding = fields.get(b"transfer-encoding")
        if coding is None:
            assert length is not None
            return length
        if length is not None:
            raise self._refused("Content-Length beside Transfer-Encoding")
        if not minor:
            raise self._refused("Transfer-Encoding in HTTP/1.0")
        if coding.lower() == b"chunked":
            return CHUNKED
        if _CODINGS.fullmatch(coding) is not None:
            raise self._refused("chunked is the only transfer coding here", 501)
        raise self._refused("Transfer-Encoding is malformed")


class ResponseReader(_Reader):
    """Reads responses. Raises BadResponse."""

    __slots__ = ("_last_method", "_method", "keep_alive")
    refusal = BadResponse

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._method = self._last_method = b"GET"
        self.keep_alive = True
        """Whether the connection may serve another request after this response."""

    def expect(self, method: bytes) -> None:
        """A request with `method` is being sent. Call before each response."""
        self._method = method

    def next(self) -> ResponseHead | bytes | EndOfBody | None:
        """The next event, or None when more octets are needed. Raises: BadResponse."""
        if self._mode != _HEAD:
            return self._body()
        if not self._buffer:
            return None
        block = self._take_head()
        if block is None:
            return None
        if block == self._last_octets and self._method == self._last_method:
            known: ResponseHead = self._last  # type: ignore[assignment]
            self.keep_alive = known.keep_alive
            if known.framing:
                self._begin_body(known.framing)
            return known
        head = self._parse(block)
        if len(block) <= _REMEMBERED and head.status >= 200:
            self._last_octets, self._last, self._last_method = block, head, self._method
        return head

    def eof(self) -> None:
        """The peer sent its last octet. Raises: BadResponse if a message is cut off."""
        if self._mode == _CLOSE:
            self._mode = _ENDED if not self._buffer else _LENGTH_BODY
            self._left = len(self._buffer)
        elif self._mode not in (_ENDED, _TUNNEL):
            raise self._refused("the connection closed before the response was complete")

    def _parse(self, block: bytes) -> ResponseHead:
        line = _STATUS_LINE.match(block)
        if line is None or line[1] != b"1":
            raise self._refused("the status line is malformed")
        head = ResponseHead()
        head.minor = one = 0 if line[2] == b"0" else 1
        head.status = status = int(line[3])
        head.reason = line[4] or b""
        self._read_fields(head, block[line.end() :])
        fields = head.fields
        head.upgrade = status == 101
        head.framing = framing = self._framing(fields, status, one)
        connection = fields.get(b"connection")
        keep = one == 1
        if connection is not None:
            options = _tokens(connection)
            keep = b"close" not in options and (one == 1 or b"keep-alive" in options)
        head.keep_alive = self.keep_alive = keep and framing != UNTIL_CLOSE
        if head.upgrade:
            self._mode = _TUNNEL
        elif status >= 200:
            self._begin_body(framing)
        return head

    def _framing(self, fields: dict[bytes, bytes], status: int, minor: int) -> int:
        """RFC 9112 section 6.3, tried in the order given there."""
        length = self._length_of(fields)
        coding = fields.get(b"transfer-encoding")
        if coding is not None:
            if length is not None:
                raise self._refused("Content-Length beside Transfer-Encoding")
            if not minor or coding.lower() != b"chunked":
                raise self._refused("Transfer-Encoding that cannot be read")
        if self._method == b"HEAD" or status < 200 or status == 204 or status == 304:
            return 0
        if coding is not None:
            return CHUNKED
        return UNTIL_CLOSE if length is None else length
