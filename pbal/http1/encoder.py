"""The one writer of response heads: status, Date, Server, Connection, framing, and what else may stand in a head.

Nobody else writes a head, and nobody tells this file how a message is framed: Content-Length, Transfer-Encoding,
Connection and the other fields of one hop are its own. What a plugin or an operator says of them is not taken. Names and
values are checked here (RFC 9110 section 5), whoever made them; one that is none raises IllegalField, and the caller
answers that exchange with 500.

An answer is written for a request of which three facts matter (RFC 9112 sections 6.3 and 9.3). They fit into one small
number, which is all that a parked poll keeps of its request:

    OLD         the client speaks HTTP/1.0: no chunks, no 1xx, and keep-alive is said
    HEAD_ONLY   the method was HEAD: the head is that of a GET, and no body follows
    KEEP        the connection may serve another request

    whole()     head and body of an answer that is there as a whole
    opening()   the head of one whose body follows
    upgrading() 101 of one that speaks another protocol from there on
    head()      the head of a response whose body follows; `framing_of` says how it will end
    interim()   1xx
    switching() 101: what follows is another protocol

The first three are pbal's own, the others are passed on.
"""

import re
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from pbal.http1.events import UNTIL_CLOSE

Fields = Iterable[tuple[bytes, bytes]]

OLD: Final = 1
HEAD_ONLY: Final = 2
KEEP: Final = 4

CODED: Final = -1
"""A framing: in chunks. 0 and above is a length; UNTIL_CLOSE ends with the connection."""

REASONS: Final[dict[int, bytes]] = {status.value: status.phrase.encode() for status in HTTPStatus}
LAST_CHUNK: Final = b"0\r\n\r\n"

FRAMING_FIELDS: Final = frozenset(
    {
        b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""What belongs to the message's frame or to this hop. Taken from nobody."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELD_LINES: Final = re.compile(rb"(?:" + _TOKEN + rb"++: (?:[\t\x20-\x7e\x80-\xff]*+)\r\n)*+")
_NAME: Final = re.compile(_TOKEN + rb"++")
_PROTOCOL: Final = re.compile(_TOKEN + rb"++(?:/" + _TOKEN + rb"++)?")
_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+")

_lines: dict[tuple[int, bytes], bytes] = {}
_date: tuple[int, bytes] = (0, formatdate(0, usegmt=True).encode())
_shared: tuple[bytes, bytes] = (b"", b"")


class IllegalField(ValueError):
    """A status, a field or a body that cannot be sent. The text says which."""


def status_line(status: int, reason: bytes | None = None) -> bytes:
    """`HTTP/1.1 STATUS REASON` with its CRLF. Raises: IllegalField for a status or reason that is none."""
    text = reason or REASONS.get(status, b"")
    line = _lines.get((status, text))
    if line is None:
        if not isinstance(status, int) or not 100 <= status <= 999 or _REASON.fullmatch(text) is None:
            raise IllegalField(f"not a status line: {status!r} {text!r}")
        line = b"HTTP/1.1 %d %b\r\n" % (status, text)
        if len(_lines) < 500:  # a backend may invent reasons without end
            _lines[status, text] = line
    return line


def chunk(data: bytes) -> bytes:
    """One chunk. Never the last one: no data gives no chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailer: bytes) -> bytes:
    """The end of a body in chunks, with a trailer section of whole lines (RFC 9112 section 7.1.2)."""
    return b"0\r\n%b\r\n" % trailer if trailer else LAST_CHUNK


def shared_chunk(data: bytes) -> bytes:
    """As chunk(), of octets that go to many one after another: the same object is framed once."""
    global _shared
    if _shared[0] is not data:
        _shared = (data, chunk(data))
    return _shared[1]


def http_date(epoch: float) -> bytes:
    """IMF-fixdate (RFC 9110 section 5.6.7) of seconds since 1970."""
    global _date
    second = int(epoch)
    if _date[0] != second:
        _date = (second, formatdate(second, usegmt=True).encode())
    return _date[1]


def is_field_name(name: bytes) -> bool:
    """Whether octets are a field name (RFC 9110 section 5.1)."""
    return _NAME.fullmatch(name) is not None


def render_fields(fields: Fields) -> bytes:
    """Header lines, without those of FRAMING_FIELDS.

    Raises: IllegalField if a name or value is none (RFC 9110 section 5).
    """
    lines: list[bytes] = []
    try:
        for name, value in fields:
            if name.lower() not in FRAMING_FIELDS:
                lines.append(b"%b: %b\r\n" % (name, value))
    except (TypeError, ValueError, AttributeError) as error:  # a str, None, not a pair
        raise IllegalField(f"a header field is a pair of bytes, name and value: {error}") from None
    block = b"".join(lines)
    if block.count(b"\n") != len(lines) or _FIELD_LINES.fullmatch(block) is None:
        wrong = next(line for line in lines if line.count(b"\n") != 1 or _FIELD_LINES.fullmatch(line) is None)
        raise IllegalField(f"not a header field: {wrong[:-2]!r:.200}")
    return block


def has_body(status: int) -> bool:
    """Whether responses of this status have one (RFC 9110 sections 15.2, 15.3.5, 15.4.5)."""
    return status >= 200 and status != 204 and status != 304


def whole(status: int, fields: Fields, body: bytes, facts: int, server: bytes, epoch: float) -> bytes:
    """An answer of pbal's own, head and body. `server` is the Server line or b"".

    Raises: IllegalField.
    """
    return whole_of(status, checked(status, fields, body), body, facts, server, epoch)


def checked(status: int, fields: Fields, body: bytes) -> bytes:
    """The header lines of an answer of pbal's own. Raises: IllegalField, also for a status or a body that is none."""
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise IllegalField(f"not the status of an answer: {status!r}")
    if not isinstance(body, bytes):
        raise IllegalField(f"a body is bytes, not {type(body).__name__}")
    return render_fields(fields)


def typed(block: bytes) -> bytes:
    """Header lines that say what a body is: plain text, if whoever made them did not say."""
    return block if _says(block.lower(), b"content-type:") else block + b"Content-Type: text/plain; charset=utf-8\r\n"


def whole_of(status: int, block: bytes, body: bytes, facts: int, server: bytes, epoch: float) -> bytes:
    """As whole(), of header lines that were checked."""
    lower = block.lower() if block else b""
    if has_body(status):
        length = b"Content-Length: %d\r\n" % len(body)
        if body and not _says(lower, b"content-type:"):
            length = b"Content-Type: text/plain; charset=utf-8\r\n" + length
    else:
        length = body = b""
    head = b"%b%b%b%b%b%b\r\n" % (
        status_line(status), _date_line(lower, epoch), b"" if _says(lower, b"server:") else server, block, length, _connection(facts),
    )  # fmt: skip
    return head if facts & HEAD_ONLY else head + body


def opening(status: int, fields: Fields, facts: int, server: bytes, epoch: float) -> bytes:
    """The head of an answer of pbal's own whose body follows, of unknown length. `server` is the Server line or b"".

    Raises: IllegalField, also for a status that has no body.
    """
    if not isinstance(status, int) or not 200 <= status <= 999 or not has_body(status):
        raise IllegalField(f"not the status of an answer whose body follows: {status!r}")
    return opening_of(status, render_fields(fields), facts, server, epoch)


def opening_of(status: int, block: bytes, facts: int, server: bytes, epoch: float) -> bytes:
    """As opening(), of header lines that were checked."""
    lower = block.lower()
    more = _date_line(lower, epoch) + (b"" if _says(lower, b"server:") else server)
    return head(status, None, block, more, framing_of(UNTIL_CLOSE, facts), facts)


def upgrading(fields: Fields, protocol: bytes) -> bytes:
    """101 of pbal's own. Raises: IllegalField, also for a protocol that is no name or name/version (RFC 9110 section 7.8)."""
    if not isinstance(protocol, bytes) or _PROTOCOL.fullmatch(protocol) is None:
        raise IllegalField(f"not a protocol: {protocol!r:.100}")
    return switching(b"", render_fields(fields), protocol)


def _says(lower: bytes, name: bytes) -> bool:
    return lower.startswith(name) or b"\n" + name in lower


def _date_line(lower: bytes, epoch: float) -> bytes:
    """RFC 9110 section 6.6.1; whoever made the fields may have said it."""
    if _says(lower, b"date:"):
        return b""
    return b"Date: %b\r\n" % http_date(epoch)


def _connection(facts: int) -> bytes:
    if not facts & KEEP:
        return b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if facts & OLD else b""


def framing_of(framing: int, facts: int) -> int:
    """How a response of known (0 and above) or unknown length goes out: its length, CODED or UNTIL_CLOSE."""
    if framing >= 0:
        return framing
    return UNTIL_CLOSE if facts & OLD else CODED


def head(status: int, reason: bytes | None, block: bytes, more: bytes, framing: int, facts: int) -> bytes:
    """The head of a response whose body follows, framed as `framing_of` said.

    `block` holds the fields, a Content-Length of the origin's among them where there is one; `more` holds further lines.
    """
    if framing == CODED:
        return b"%b%b%bTransfer-Encoding: chunked\r\n%b\r\n" % (status_line(status, reason), block, more, _connection(facts))
    return b"%b%b%b%b\r\n" % (status_line(status, reason), block, more, _connection(facts))


def interim(status: int, reason: bytes, block: bytes) -> bytes:
    """A 1xx response. HTTP/1.0 clients get none (RFC 9110 section 15.2)."""
    return b"%b%b\r\n" % (status_line(status, reason), block)


def switching(reason: bytes, block: bytes, protocol: bytes) -> bytes:
    """101 (RFC 9110 section 7.8)."""
    return b"%b%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (status_line(101, reason), block, protocol)


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
