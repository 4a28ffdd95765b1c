r"""Octets to events: strict, small, without I/O.

A reader is fed what the socket gave and asked for events until it has none. It takes a head as a whole: one search for
CRLFCRLF, one regex over the start line, and each header line is parsed once for all heads that have it (lines.py). What the
grammar of RFC 9112 does not derive is refused, and a reader that refused once stays dead: whatever follows a malformed message
cannot be trusted, because somebody else may find its borders elsewhere. That is all there is to request smuggling.

Strict means here, beyond the grammar: no bare CR or LF, no folded lines, one Host, one Content-Length of plain digits,
`chunked` as the only transfer coding and never beside a Content-Length or (unless the operator says so) in HTTP/1.0, and no
leniency from Python: int() sees only digits, strip() only what a regex has passed.

There is one leniency, for backends alone: a lone LF ends a line of a response's head (RFC 9112 section 2.2; old CGI
programs write it). What comes out has CRLF, so nobody behind us has to guess. A client gets no such favour, and no chunk.

A head that has not come whole is looked at once per octet, not once per feed: `_seen` says where the search goes on.

Clients and backends of a kept connection mostly repeat themselves to the octet: the same poll, the same small answer.
So a reader remembers its last head, and one that is equal in every octet is given out again without being parsed
again (4 us of some 30 us of Python for a proxied request). That is why heads must not be changed by those who receive them.

                 feed                         next
    HEAD    ... CRLFCRLF        -> RequestHead | ResponseHead, then by framing:
    LENGTH  n octets            -> bytes ..., END                  CHUNK -> bytes ..., then trailers, END
    CLOSE   until eof()         -> bytes ..., END (after eof)      a framing of 0 has no END

The buffer, the budget of a turn and bodies are in octets.py.
"""

import re
from typing import ClassVar, Final

from pbal.http1.events import CHUNKED, UNTIL_CLOSE, BadRequest, BadResponse, EndOfBody, Malformed, RequestHead, ResponseHead
from pbal.http1.lines import Line
from pbal.http1.octets import (
    CLOSE,
    ENDED,
    FORBIDDEN,
    HEAD,
    LENGTH_BODY,
    REMEMBERED,
    SHOWN,
    STEPS,
    TUNNEL,
    Limits,
    Reader,
    first_line,
    tokens,
    what_is_wrong,
)
from pbal.http1.whereabouts import TOKEN, VALUE

__all__ = ["STEPS", "Limits", "RequestReader", "ResponseReader"]

_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb"++) ([!\"$-~]++) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: (" + VALUE + rb"*+))?\r\n")
_HOST: Final = re.compile(rb"(?!:)(?=.{1,261}\Z)(?:[A-Za-z0-9._~!$&'()*+,;=%-]*+|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]++)([^?]*+)(?:\?(.*+))?")
_AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~%-]++|\[[0-9A-Fa-f:.]++\]):[0-9]{1,5}")
_CODINGS: Final = re.compile(
    rb"(?:(?:x-)?gzip|(?:x-)?compress|deflate)(?:[\t ]*+,[\t ]*+(?:(?:x-)?gzip|(?:x-)?compress|deflate))*+"
    rb"[\t ]*+,[\t ]*+chunked",
    re.IGNORECASE,
)
PROXY_HEADER: Final = "a PROXY header"
"""Why a request is refused that begins with one of version 2. Those of version 1 are a bad start line, and begin with PROXY."""
_EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
"""Where a head ends whose lines end with CRLF or LF: from the LF of its last line."""
_FORBIDDEN_BUT_LF: Final = re.compile(rb"\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def is_host(value: bytes) -> bool:
    """Whether a value may stand in a Host field that is not empty (RFC 9110 section 7.2)."""
    return _HOST.fullmatch(value) is not None


class RequestReader(Reader):
    """Reads requests. Raises BadRequest."""

    __slots__ = ("_host", "_mark")

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._mark = 0
        """The hash of the last head. One that comes twice in a row is remembered; of the others it would be memory for nothing."""
        self._host = b"."
        """The last Host that was looked at and found good: it is mostly the same."""

    def next(self) -> RequestHead | bytes | EndOfBody | None:  # noqa: C901 - the hot path: a call costs more than a branch
        """The next event, or None: more octets are needed, or the reader is tired. Raises: BadRequest."""
        if self._mode != HEAD:
            return self._body()
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0] == 13 and self._seen == 0 and buffer[:2] == b"\r\n":
            # One empty line before a request is let pass (RFC 9112 section 2.2); `_left` remembers it.
            if self._left:
                raise self._refused(PROXY_HEADER if buffer[:10] == b"\r\n\0\r\nQUIT\n" else "empty lines before the request")
            self._left = 1
            self._drop(2)
            return self.next()
        end = buffer.find(b"\r\n\r\n", self._seen)
        if end < 0:
            self._look_at_part()
            return None
        if self.steps <= 0:
            self.tired = True
            return None
        limits = self._limits
        if end > limits.max_target or end > limits.max_head:
            self._look_at_size(end)
        self._seen = self._left = 0
        block = buffer[: end + 2] if isinstance(buffer, bytes) else bytes(buffer[: end + 2])  # bytes() of bytes costs, too
        self._buffer = b""
        if block == self._last_octets:
            known: RequestHead = self._last  # type: ignore[assignment]
            if len(buffer) > end + 4:
                self._keep_rest(buffer, end + 4, known.framing)
            if known.framing:
                self._begin_body(known.framing)
            return known
        try:
            head = self._parse(block)
        except Malformed as refusal:
            refusal.said = first_line(block[:SHOWN])
            self._look_for_octet(refusal, block)
            raise
        if len(buffer) > end + 4:
            self._keep_rest(buffer, end + 4, head.framing)
        if end <= REMEMBERED:
            mark = hash(block)
            if mark == self._mark:
                self._last_octets, self._last = block, head
            self._mark = mark
        return head

    def _refusal(self, reason: str, status: int | None) -> Malformed:
        return BadRequest(reason) if status is None else BadRequest(reason, status)

    def _too_large(self) -> int:
        return 431

    def _look_at_size(self, end: int) -> None:
        limits, buffer = self._limits, self._buffer
        line = min(limits.max_target, limits.max_head)
        if end > line and buffer.find(b"\r\n", 0, line + 2) < 0:
            raise self._refused("the start line is too long", 414 if b" " in buffer[:line] else 400)
        super()._look_at_size(end)

    def _parse(self, block: bytes) -> RequestHead:  # noqa: C901 - the hot path: a call costs more than a branch
        line = _REQUEST_LINE.match(block)
        if line is None:
            raise self._refused("the request line is malformed")
        head = RequestHead()
        method, target, major, minor = line.groups()
        if major != b"1":
            early = FORBIDDEN.search(block) is not None  # in pieces, it would have been refused before its end came
            raise self._refused("this is HTTP/1", None if early else 505)
        head.method, head.target = method, target
        head.minor = one = 0 if minor == b"0" else 1
        rest = block[line.end() :]
        lines = self._lines_of(rest)
        if lines is None:
            raise self._refused(what_is_wrong(rest))
        self._keep_fields(head, rest, lines)
        fields = head.fields
        host = fields.get(b"host")
        if host is None:
            if one:
                raise self._refused("no Host")
            host = b""
        elif host != self._host:
            if _HOST.fullmatch(host) is None:
                raise self._refused("Host is malformed" if host else "Host is empty")  # RFC 9110 section 4.2.1
            self._host = host
        head.host = host
        if target[0] == 47 and method != b"CONNECT":
            head.path, _, head.query = target.partition(b"?")
        else:
            self._other_form(head)
        head.framing = self._framing(fields, one) if b"content-length" in fields or b"transfer-encoding" in fields else 0
        connection = fields.get(b"connection")
        head.keep_alive = one == 1 or connection == b"keep-alive"
        if head.framing == CHUNKED and not one:
            head.keep_alive = False  # RFC 9112 section 6.1
            connection = None
        head.upgrade = b""
        if connection is not None and connection != b"keep-alive":  # which is what most say
            self._connection(head, tokens(connection))
        head.expect_continue = False
        if b"expect" in fields:
            self._expectation(head)
        self._begin_body(head.framing)
        return head

    def _expectation(self, head: RequestHead) -> None:
        """100-continue or nothing. That of HTTP/1.0 is ignored, and is not to reach a backend that would take it for ours."""
        if not head.minor:  # RFC 9110 section 10.1.1
            head.headers = [field for field in head.headers if field[0].lower() != b"expect"]
            del head.fields[b"expect"]
            head.block = b"".join([b"%b: %b\r\n" % field for field in head.headers])
            head.lines = None
            return
        if not {b"100-continue"}.issuperset(tokens(head.fields[b"expect"])):
            raise self._refused("only 100-continue can be expected", 417)
        head.expect_continue = head.framing != 0

    def _connection(self, head: RequestHead, options: list[bytes]) -> None:
        if b"close" in options:
            head.keep_alive = False
        elif head.minor == 0:
            head.keep_alive = b"keep-alive" in options
        if b"upgrade" in options and head.minor and head.framing == 0:
            protocols = head.fields.get(b"upgrade", b"")
            if b"h2c" not in tokens(protocols):
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
        if not minor and not self._limits.chunked_http10:
            raise self._refused("Transfer-Encoding in HTTP/1.0")
        if coding.lower() == b"chunked":
            return CHUNKED
        if _CODINGS.fullmatch(coding) is not None:
            raise self._refused("chunked is the only transfer coding here", 501)
        raise self._refused("Transfer-Encoding is malformed")


class _StatusLine:
    """What a status line says."""

    __slots__ = ("minor", "reason", "status")

    def __init__(self, minor: int, status: int, reason: bytes) -> None:
        self.minor, self.status, self.reason = minor, status, reason


_status_lines: Final[dict[bytes, _StatusLine]] = {}
"""Those that were seen; nodes have few of them."""


def _status_of(line: bytes) -> _StatusLine | None:
    """A status line, with its CRLF; None if it is none."""
    known = _status_lines.get(line)
    if known is None:
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            return None
        minor, code, reason = found.groups()
        known = _StatusLine(0 if minor == b"0" else 1, int(code), reason or b"")
        if len(_status_lines) < 64 and len(line) < 64:  # a node may invent reasons without end
            _status_lines[line] = known
    return known


class ResponseReader(Reader):
    """Reads responses. Raises BadResponse."""

    __slots__ = ("_last_method", "_method", "keep_alive", "kept_for", "must_close")
    _of_responses: ClassVar[bool] = True

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._method = self._last_method = b"GET"
        self.keep_alive = True
        """Whether the connection may serve another request after this response."""
        self.kept_for = 0
        """Seconds for which the peer keeps it open then; 0: it did not say."""
        self.must_close = False
        """A 1xx or 204 announced a body it cannot have: it may come all the same, and is not to meet the next request.

        Such a response ends with its head (RFC 9112 section 6.3), so it is passed on. A Content-Length of 0 is as wrong
        (RFC 9110 section 8.6), but its end is in the same place for everybody.
        """

    @property
    def leftover(self) -> int:
        """Octets that came after a complete message; 0 while one is being read."""
        return len(self._buffer) if self._mode in (HEAD, ENDED) else 0

    def expect(self, method: bytes) -> None:
        """A request with `method` is being sent. Call before each response."""
        self._method = method

    def next(self) -> ResponseHead | bytes | EndOfBody | None:
        """The next event, or None: more octets are needed, or the reader is tired. Raises: BadResponse."""
        if self._mode != HEAD:
            return self._body()
        buffer = self._buffer
        if not buffer:
            return None
        end = buffer.find(b"\r\n\r\n", self._seen)
        if end < 0 or end > self._limits.max_head or self.steps <= 0:
            return self._lenient_head()
        block = buffer[: end + 2] if isinstance(buffer, bytes) else bytes(buffer[: end + 2])  # bytes() of bytes costs, too
        if block == self._last_octets and self._method == self._last_method:
            known: ResponseHead = self._last  # type: ignore[assignment]
            self._seen = 0
            self._keep_rest(buffer, end + 4, known.framing)
            self.keep_alive = known.keep_alive and not self.must_close
            self.kept_for = known.kept_for
            if known.framing:
                self._begin_body(known.framing)
            return known
        start = block.find(b"\r\n") + 2
        line = _status_of(block[:start])
        if line is None:
            return self._lenient_head()
        rest = block[start:]
        lines = self._lines_of(rest)
        if lines is None:
            return self._lenient_head()
        self._seen = 0
        self._buffer = b""
        try:
            head = self._made(line, rest, lines)
        except Malformed as refusal:
            self._look_for_octet(refusal, block)
            raise
        self._keep_rest(buffer, end + 4, head.framing)
        if end <= REMEMBERED and head.status >= 200:
            self._last_octets, self._last, self._last_method = block, head, self._method
        return head

    def _lenient_head(self) -> ResponseHead | None:
        """Read a head some of whose lines may end with LF alone, or see that it has not come whole."""
        buffer = self._buffer
        empty = _EMPTY_LINE.search(buffer, self._seen)
        if empty is None:
            self._look_at_part(_FORBIDDEN_BUT_LF)
            return None
        if self.steps <= 0:
            self.tired = True
            return None
        self.steps -= len(buffer) >> 10  # the search for CRLFCRLF may have gone through all of it, for each such head again
        end = empty.start()
        self._look_at_size(end - 1 if end and buffer[end - 1] == 13 else end)
        block = bytes(buffer[: end + 1]).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        start = block.find(b"\r\n") + 2
        line = _status_of(block[:start])
        if line is None:
            raise self._refused("the status line is malformed")
        rest = block[start:]
        lines = self._lines_of(rest)
        if lines is None:
            raise self._refused(what_is_wrong(rest))
        self._seen = 0
        self._drop(empty.end())
        try:
            return self._made(line, rest, lines)
        except Malformed as refusal:
            self._look_for_octet(refusal, block)
            raise

    def eof(self) -> None:
        """The peer sent its last octet. Raises: BadResponse if a message is cut off."""
        if self._mode == CLOSE:
            self._mode = ENDED if not self._buffer else LENGTH_BODY
            self._left = len(self._buffer)
        elif self._mode not in (ENDED, TUNNEL):
            raise self._refused("the connection closed before the response was complete")

    def _refusal(self, reason: str, status: int | None) -> Malformed:
        return BadResponse(reason) if status is None else BadResponse(reason, status)

    def _made(self, line: _StatusLine, block: bytes, lines: list[Line]) -> ResponseHead:
        head = ResponseHead()
        head.minor = one = line.minor
        head.status = status = line.status
        head.reason = line.reason
        self._keep_fields(head, block, lines)
        fields = head.fields
        head.upgrade = status == 101
        head.framing = framing = self._framing(fields, status, one)
        connection = fields.get(b"connection")
        keep = one == 1 or connection == b"keep-alive"
        if connection is not None and connection != b"keep-alive":
            options = tokens(connection)
            keep = b"close" not in options and (one == 1 or b"keep-alive" in options)
        head.keep_alive = keep = keep and framing != UNTIL_CLOSE
        self.keep_alive = keep and not self.must_close
        said = fields.get(b"keep-alive")
        self.kept_for = head.kept_for = 0 if said is None else _seconds(said)
        if status >= 200:
            self._begin_body(framing)
        else:
            self._spend_on(len(block))
            if head.upgrade:
                self._mode = TUNNEL
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
        if status < 200 or status == 204:
            if length or coding is not None:
                self.must_close = True
            return 0
        if self._method == b"HEAD" or status == 304:
            return 0
        if coding is not None:
            return CHUNKED
        return UNTIL_CLOSE if length is None else length


_TIMEOUT: Final = re.compile(rb"(?:^|[,;])[ \t]*timeout[ \t]*=[ \t]*([0-9]{1,9})", re.IGNORECASE)


def _seconds(keep_alive: bytes) -> int:
    """The timeout of a Keep-Alive field; 0 where it has none (RFC 2068 section 19.7.1.1 has the field, later RFCs only mention it)."""
    found = _TIMEOUT.search(keep_alive)
    return 0 if found is None else int(found[1])
