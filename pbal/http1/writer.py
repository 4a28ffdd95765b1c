"""Events to octets. Whatever would break out of its line is refused, whoever wrote it."""

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

REASONS: Final[dict[int, bytes]] = {status.value: status.phrase.encode() for status in HTTPStatus}
LAST_CHUNK: Final = b"0\r\n\r\n"

_lines: dict[tuple[int, bytes | None], bytes] = {}
_date: tuple[int, bytes] = (0, b"")


def status_line(status: int, reason: bytes | None = None) -> bytes:
    """`HTTP/1.1 STATUS REASON` with its CRLF. Raises: ValueError for a status or reason that is none."""
    line = _lines.get((status, reason))
    if line is None:
        text = REASONS.get(status, b"") if reason is None else reason
        if not 100 <= status <= 999 or any(octet in text for octet in b"\r\n\0"):
            raise ValueError(f"not a status line: {status} {text!r}")
        line = b"HTTP/1.1 %d %b\r\n" % (status, text)
        if len(_lines) < 500:  # a backend may invent reasons without end
            _lines[status, reason] = line
    return line


def chunk(data: bytes) -> bytes:
    """One chunk. Never the last one: no data gives no chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def http_date(epoch: float) -> bytes:
    """IMF-fixdate (RFC 9110 section 5.6.7) of seconds since 1970."""
    global _date
    second = int(epoch)
    if _date[0] != second:
        _date = (second, formatdate(second, usegmt=True).encode())
    return _date[1]


def render_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header lines. Raises: ValueError if a name or value would break out of its line."""
    lines = [b"%b: %b\r\n" % field for field in fields]
    block = b"".join(lines)
    if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines) or b"\0" in block:
        raise ValueError("a header field holds CR, LF or NUL")
    return block
