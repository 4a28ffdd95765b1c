"""The one way in which a file becomes an answer, whoever found it: preconditions, ranges, HEAD, and octets as the client takes them.

    conditions (RFC 9110 section 13.2)  -> 304 or 412
    Range and If-Range (section 14)     -> 206, in one part or several, or 416
    else the whole file

They hold for an answer of 200; one of another status, which some node ordered, goes out as that. Then the hooks modify_response_headers
run, and the octets follow: a piece at a time, PIECES in a turn of the loop, so a slow reader of a large file holds one piece, one
descriptor, and nobody up. What is in the kernel's memory is read in the loop, the rest in a thread (memory.py, disk.py).

    reading  a thread has the descriptor: whoever closes waits for it, or another file might be read under the same number

A file that becomes shorter while it is sent, and a disk that fails, cut the answer off visibly: what was promised cannot be kept.

Not sendfile(2): what the kernel has queued are pages of the file and no copies of them, so a file that is truncated meanwhile arrives with
zeros in place of what it held, before the cut. It saved a tenth to a fifth of the CPU of 1 MB.
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, TypeVar

from pbal.http1.conditional import evaluate, range_holds
from pbal.http1.encoder import http_date, render_fields
from pbal.http1.events import ResponseHead
from pbal.model.exchange import Exchange
from pbal.model.sink import Sink
from pbal.observe.access import BROKE
from pbal.observe.recent import Trouble
from pbal.roles import chain
from pbal.roles.files.disk import in_thread
from pbal.roles.files.finding import OpenFile
from pbal.roles.files.memory import read_known
from pbal.roles.files.offered import is_taken
from pbal.roles.files.ranges import Parts, Range, content_range, wanted

PIECE: Final = 131072
"""Octets read at a time; Perlbal's sendfile step."""
PIECES: Final = 8
"""Pieces written in one turn of the loop, to a client that takes them that fast."""

_OF_CONTENT: Final = frozenset({b"content-type", b"content-encoding", b"content-language", b"content-length", b"content-range"})
"""What says nothing of a 304 or an error (RFC 9110 section 15.4.5)."""
_VALIDATING: Final = frozenset({b"etag", b"last-modified"})

Fields = list[tuple[bytes, bytes]]
T = TypeVar("T")


class Validators:
    """What a file is told apart by. `etag` b"" and `modified` None: nothing is known."""

    __slots__ = ("etag", "modified")

    def __init__(self, etag: bytes, modified: int | None) -> None:
        self.etag = etag
        """As it stands in ETag."""
        self.modified = modified
        """Seconds since 1970."""


def send_file(exchange: Exchange, file: OpenFile, fields: Fields, of: Validators, status: int = 200, reason: bytes = b"") -> None:
    """Answer with a file, which is closed in the end. `fields` is all that is to be said of it, `of` included.

    `status` is another than 200 where a node ordered that.
    """
    hooks = exchange.service.hooks.start_send_file
    if hooks and is_taken(hooks, exchange, file):
        os.close(file.fd)
        return
    if status == 200 and exchange.method in (b"GET", b"HEAD"):
        status = evaluate(exchange.method, exchange.request.fields, of.etag, of.modified)
        if status != 200:
            os.close(file.fd)
            _refuse(exchange, status, fields, file.size)
            return
        parts = _wanted(exchange, file, of)
        if parts is not None and not parts:
            os.close(file.fd)
            _refuse(exchange, 416, fields, file.size)
            return
        if parts is not None:
            status, reason = 206, b""
        _begin(exchange, file, [*fields, (b"Accept-Ranges", b"bytes")], parts, status, reason)
    else:
        _begin(exchange, file, fields, None, status, reason)


def send_made(exchange: Exchange, body: bytes, fields: Fields, of: Validators) -> None:
    """Answer a GET or HEAD with octets that were made for it, or by the preconditions. There are no ranges of it."""
    status = evaluate(exchange.method, exchange.request.fields, of.etag, of.modified)
    if status != 200:
        _refuse(exchange, status, fields, len(body))
        return
    response = _modified(exchange, 200, fields, b"")
    if response is not None:
        exchange.respond(200, response.headers, body)


def _wanted(exchange: Exchange, file: OpenFile, of: Validators) -> list[Range] | None:
    """The parts that the client asks for; None: all of it. GET alone has ranges (RFC 9110 section 14.2)."""
    said = exchange.request.fields
    value = said.get(b"range")
    if value is None or exchange.method != b"GET":
        return None
    condition = said.get(b"if-range")
    if condition is not None and not range_holds(condition, of.etag, of.modified, exchange.service.world.clock.epoch()):
        return None
    return wanted(value, file.size)


def _begin(exchange: Exchange, file: OpenFile, fields: Fields, parts: list[Range] | None, status: int, reason: bytes) -> None:
    """Send a file, or parts of it."""
    response = _modified(exchange, status, fields, reason)
    if response is None:
        os.close(file.fd)
        return
    size = file.size
    several: Parts | None = None
    if parts is None:
        _start(exchange, response, size, b"")
        parts = [(0, size)]
    elif len(parts) == 1:
        _start(exchange, response, parts[0][1], b"Content-Range: %b\r\n" % content_range(parts[0], size))
    else:
        several = Parts(parts, size, response.fields.get(b"content-type", b""))
        response.headers = [field for field in response.headers if field[0].lower() != b"content-type"]
        response.headers.append((b"Content-Type", several.content_type))
        _start(exchange, response, several.length, b"")
    if size and exchange.method != b"HEAD":
        FileSending(exchange, file.fd, parts, several).go_on()
    else:
        os.close(file.fd)
        exchange.stream.end(exchange, b"")


def _refuse(exchange: Exchange, status: int, fields: Fields, size: int) -> None:
    """304, 412 or 416."""
    if status == 304:  # RFC 9110 section 15.4.5: what a 200 would say, of caches above all
        response = _modified(exchange, 304, [field for field in fields if field[0].lower() not in _OF_CONTENT], b"")
        if response is not None:
            exchange.respond(304, response.headers)
        return
    fields = [field for field in fields if field[0].lower() in _VALIDATING]
    if status == 416:
        exchange.error(416, b"There is no such range of it.\n", [*fields, (b"Content-Range", b"bytes */%d" % size)])
    else:
        exchange.error(412, b"The condition does not hold.\n", fields)


def _modified(exchange: Exchange, status: int, fields: Fields, reason: bytes) -> ResponseHead | None:
    """The head, as the plugins make it; None if one failed, and the client has its 500."""
    response = ResponseHead.made(status, fields)
    response.reason = reason
    hooks = exchange.service.hooks.modify_response_headers
    if hooks:
        if not chain.run_all(hooks, exchange, response):
            return None
        response.fields = {name.lower(): value for name, value in response.headers}
    return response


def _start(exchange: Exchange, response: ResponseHead, length: int, more: bytes) -> None:
    """Begin the answer."""
    service = exchange.service
    response.framing = length
    response.block = render_fields(response.headers)
    more += b"Content-Length: %d\r\n" % length
    if b"date" not in response.fields:
        more = b"Date: %b\r\n%b" % (http_date(service.world.clock.epoch()), more)
    if service.values["server_tokens"] and b"server" not in response.fields:
        more = b"Server: pbal\r\n" + more
    exchange.stream.start(exchange, response, response.block, more)


class FileSending(Sink):
    """The sink of an exchange whose file is going out piece by piece."""

    __slots__ = ("_at", "_exchange", "_fd", "_gone", "_left", "_next", "_parts", "_prefix", "_reading", "_several", "_stream", "_waits")

    def __init__(self, exchange: Exchange, fd: int, parts: list[Range], several: Parts | None) -> None:
        self._exchange, self._stream = exchange, exchange.stream
        self._fd = fd
        self._parts, self._several = parts, several
        self._prefix = b"" if several is None else several.before[0]
        """What stands before the next piece."""
        self._at, self._left = parts[0]
        self._next = 1
        """Of the parts, the one that comes after this."""
        self._waits = False
        """Whether it goes on in the next turn of the loop."""
        self._reading = False
        """Whether a thread reads."""
        self._gone = False
        exchange.sink = self

    def go_on(self) -> None:
        """Write until the client is full, or the file is out."""
        pieces = PIECES
        while not self._gone and not self._reading and not self._stream.full:
            if not pieces:
                if not self._waits:
                    self._waits = True
                    asyncio.get_running_loop().call_soon(self._next_turn)
                return
            pieces -= 1
            try:
                piece = read_known(self._fd, self._at, min(PIECE, self._left))
            except OSError as error:
                self._broke(f"the file cannot be read: {error.strerror}")
                return
            if piece is None:
                self._reading = True
                in_thread(partial(os.pread, self._fd, min(PIECE, self._left), self._at), self._read)
                return
            self._write(piece)

    def _next_turn(self) -> None:
        self._waits = False
        self.go_on()

    def _read(self, piece: bytes | None, error: BaseException | None) -> None:
        """What the thread read."""
        self._reading = False
        if self._gone:
            self._close()
        elif piece is None:
            self._broke(f"the file cannot be read: {error}")
        else:
            self._write(piece)
            self.go_on()

    def _write(self, piece: bytes) -> None:
        """Send a piece, and what stands around it. The last one ends the exchange."""
        length = len(piece)
        if not length:
            self._broke("the file became shorter while it was sent")
            return
        self._at += length
        self._left -= length
        prefix, self._prefix = self._prefix, b""
        data = prefix + piece if prefix else piece
        if not self._left:
            several = self._several
            if self._next < len(self._parts):
                self._at, self._left = self._parts[self._next]
                assert several is not None
                self._prefix = several.before[self._next]
                self._next += 1
            else:
                self._gone = True
                self._exchange.sink = None
                self._close()
                self._stream.end(self._exchange, data if several is None else data + several.end)
                return
        self._stream.write(data)

    def _broke(self, why: str) -> None:
        """The rest cannot be sent."""
        exchange = self._exchange
        self._gone = True
        exchange.sink = None
        self._close()
        counts = exchange.service.world.counters.counts
        counts["files_cut_off"] += 1
        exchange.service.world.log_limited(
            "file cut off",
            "%(service)s: %(path)s was cut off: %(reason)s",
            {
                "event": "file_cut_off", "service": exchange.service.name, "path": exchange.path.decode("latin-1"), "reason": why,
            },
        )  # fmt: skip
        exchange.cause = BROKE
        exchange.trouble = Trouble(why)
        self._stream.cut(exchange)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def client_drained(self) -> None:
        self.go_on()

    def client_full(self) -> None:
        """go_on stops by itself."""

    def client_gone(self) -> None:
        self._gone = True
        if not self._reading:
            self._close()

    def body_data(self, data: bytes) -> None:
        """A body sent with a GET means nothing here."""

    def body_end(self) -> None:
        """A body sent with a GET means nothing here."""


class Finding(Sink, Generic[T]):
    """The sink of an exchange for which a thread looks for something. `then` is told, unless the client has left: then a file is closed."""

    __slots__ = ("_exchange", "_gone", "_then")

    def __init__(self, exchange: Exchange, find: Callable[[], T | None], then: Callable[[T | None, BaseException | None], None]) -> None:
        self._exchange, self._then = exchange, then
        self._gone = False
        exchange.sink = self
        in_thread(find, self._found)

    def _found(self, found: T | None, error: BaseException | None) -> None:
        if self._gone:
            if isinstance(found, OpenFile):
                os.close(found.fd)
            return
        self._exchange.sink = None
        self._then(found, error)

    def client_gone(self) -> None:
        self._gone = True

    def client_drained(self) -> None:
        """Nothing is sent yet."""

    def client_full(self) -> None:
        """Nothing is sent yet."""

    def body_data(self, data: bytes) -> None:
        """A body sent with a GET means nothing here."""

    def body_end(self) -> None:
        """A body sent with a GET means nothing here."""
