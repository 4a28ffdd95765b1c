"""The one way in which a file becomes an answer, whoever found it: preconditions, ranges, HEAD, and octets as the client takes them.

    conditions (RFC 9110 section 13.2)  -> 304 or 412
    Range and If-Range (section 14)     -> 206, in one part or several, or 416
    else the whole file

They hold for an answer of 200; one of another status, which some node ordered, goes out as that. Then the hooks modify_response_headers
run, and the octets follow. Those of a small file are in memory, and go out with the head (cache.py). Of any other they go a piece at a
time, PIECES in a turn of the loop, so a slow reader of a large file holds one piece, and nobody up. What is in the kernel's memory is
read in the loop, the rest in a thread (memory.py, disk.py). A file that the kernel sends (see below) is written as far as the client takes
it; then a little of it waits in the transport, so that it tells when there is room again.

All that is read in the loop is read into one buffer. A client that takes a piece at once leaves it for the next one: neither making and
zeroing memory for each piece, nor what that does to the processor's cache, is cheap beside the copy. One that does not take it keeps the
buffer until it has, and there is a new one.

    reading  a thread has the descriptor: whoever closes waits for it, or another file might be read under the same number

A file that becomes shorter while it is sent, and a disk that fails, cut the answer off visibly: what was promised cannot be kept.

sendfile(2) is for files that are in memory as copies, which nobody changes. Of any other the kernel's queue would have the pages: if it is
truncated or written meanwhile, zeros or octets of another version would arrive under the length and the ETag of this one. Measured on a
busy machine, compiled: 1 MB costs 330 us so, and 450 with a copy; nginx with sendfile 170, and 480 without.
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Final

from pbal.http1.conditional import evaluate, range_holds
from pbal.http1.encoder import http_date, render_fields
from pbal.http1.events import ResponseHead
from pbal.model.exchange import Exchange
from pbal.model.openfiles import OpenFile
from pbal.observe.access import BROKE
from pbal.observe.recent import Trouble
from pbal.roles import chain
from pbal.roles.files.awaiting import Awaiting, Bodiless, Then
from pbal.roles.files.disk import in_thread
from pbal.roles.files.memory import read_copy, read_into
from pbal.roles.files.offered import is_taken
from pbal.roles.files.ranges import Parts, Range, content_range, wanted

PIECE: Final = 131072
"""Octets read at a time; Perlbal's sendfile step."""
SHARED: Final = 32768
"""Octets of a piece that goes out from the buffer itself. Of a smaller one a copy is held, if need be, and not the whole buffer."""
PIECES: Final = 8
"""Pieces written in one turn of the loop, to a client that takes them that fast."""

_DECIDING: Final = (b"if-none-match", b"if-modified-since", b"range", b"if-match", b"if-unmodified-since")
"""Without these fields a file is sent whole."""
_OF_CONTENT: Final = frozenset({b"content-type", b"content-encoding", b"content-language", b"content-length", b"content-range"})
"""What says nothing of a 304 or an error (RFC 9110 section 15.4.5)."""
_VALIDATING: Final = frozenset({b"etag", b"last-modified"})

Fields = list[tuple[bytes, bytes]]


class Validators:
    """What a file is told apart by. `etag` b"" and `modified` None: nothing is known."""

    __slots__ = ("etag", "modified")

    def __init__(self, etag: bytes, modified: int | None) -> None:
        self.etag = etag
        """As it stands in ETag."""
        self.modified = modified
        """Seconds since 1970."""


class Said:
    """What is said of a file: made once, for all answers with it."""

    __slots__ = ("control", "fields", "generation", "head", "of")

    def __init__(self, fields: Fields, of: Validators, size: int, generation: int, control: bytes = b"") -> None:
        self.control = control
        """Its Cache-Control, which may differ from request to request; b"" where there is none."""
        self.generation = generation
        """Of what it was made by, for who looks whether that has changed."""
        self.fields = fields
        self.of = of
        self.head = ResponseHead.made(200, [*fields, (b"Accept-Ranges", b"bytes")])
        """Of the whole file, with its lines. It is read, and not changed."""
        self.head.framing = size
        self.head.block = render_fields(self.head.headers) + b"Content-Length: %d\r\n" % size


def send_known(exchange: Exchange, file: OpenFile, said: Said) -> None:
    """Answer a GET or HEAD with a file. The caller goes on to hold it."""
    fields, service = exchange.request.fields, exchange.service
    if service.hooks.modify_response_headers or service.hooks.start_send_file:
        send_file(exchange, file.hold(), said.fields, said.of)
        return
    for name in _DECIDING:
        if name in fields:
            send_file(exchange, file.hold(), said.fields, said.of)
            return
    head = said.head
    exchange.stream.start(exchange, head, head.block, _own_lines(service.values["server_tokens"], service.world.clock.epoch()))
    body = file.body
    if not head.framing or exchange.method == b"HEAD":
        exchange.stream.end(exchange, b"")
    elif body is not None:
        exchange.stream.end(exchange, body)
    else:
        FileSending(exchange, file.hold(), [(0, file.size)], None).go_on()


_own: tuple[int, bool, bytes] = (-1, False, b"")


def _own_lines(tokens: bool, epoch: float) -> bytes:
    """Date, and Server where the service says it."""
    global _own
    second = int(epoch)
    if _own[0] != second or _own[1] is not tokens:
        _own = (second, tokens, b"%bDate: %b\r\n" % (b"Server: pbal\r\n" if tokens else b"", http_date(epoch)))
    return _own[2]


def send_file(exchange: Exchange, file: OpenFile, fields: Fields, of: Validators, status: int = 200, reason: bytes = b"") -> None:
    """Answer with a file, which is closed in the end. `fields` is all that is to be said of it, `of` included.

    `status` is another than 200 where a node ordered that.
    """
    hooks = exchange.service.hooks.start_send_file
    if hooks and is_taken(hooks, exchange, file):
        file.release()
        return
    if status == 200 and exchange.method in (b"GET", b"HEAD"):
        status = evaluate(exchange.method, exchange.request.fields, of.etag, of.modified)
        if status != 200:
            file.release()
            _refuse(exchange, status, fields, file.size)
            return
        parts = _wanted(exchange, file, of)
        if parts is not None and not parts:
            file.release()
            _refuse(exchange, 416, fields, file.size)
            return
        if parts is not None:
            status, reason = 206, b""
        _begin(exchange, file, [*fields, (b"Accept-Ranges", b"bytes")], parts, status, reason)
    else:
        _begin(exchange, file, fields, None, status, reason)


def send_made(exchange: Exchange, body: bytes, fields: Fields, of: Validators) -> None:
    """Answer a GET or HEAD with octets that were made for it, or by the preconditions. There are no ranges of it.

    They are not copied, so many slow readers of one page hold it once.
    """
    if begin_made(exchange, len(body), fields, of):
        exchange.stream.end(exchange, body)


def begin_made(exchange: Exchange, length: int, fields: Fields, of: Validators) -> bool:
    """Begin an answer to GET or HEAD whose octets the caller sends. False if it is answered: by the preconditions, or without octets."""
    status = evaluate(exchange.method, exchange.request.fields, of.etag, of.modified)
    if status != 200:
        _refuse(exchange, status, fields, length)
        return False
    response = _modified(exchange, 200, fields, b"")
    if response is None:
        return False
    _start(exchange, response, length, b"")
    if not length or exchange.method == b"HEAD":
        exchange.stream.end(exchange, b"")
        return False
    return True


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
        file.release()
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
        FileSending(exchange, file, parts, several).go_on()
    else:
        file.release()
        exchange.stream.end(exchange, b"")


def _refuse(exchange: Exchange, status: int, fields: Fields, size: int) -> None:
    """304, 412 or 416."""
    if status == 304:  # RFC 9110 section 15.4.5: what a 200 would say, of caches above all
        response = _modified(exchange, 304, [field for field in fields if field[0].lower() not in _OF_CONTENT], b"")
        if response is not None:
            if not _is_coded(exchange, fields, size):
                exchange.request = exchange.request.altered(b"accept-encoding", None)
            exchange.respond(304, response.headers)
        return
    fields = [field for field in fields if field[0].lower() in _VALIDATING]
    if status == 416:
        exchange.error(416, b"There is no such range of it.\n", [*fields, (b"Content-Range", b"bytes */%d" % size)])
    else:
        exchange.error(412, b"The condition does not hold.\n", fields)


def _is_coded(exchange: Exchange, fields: Fields, size: int) -> bool:
    """Whether a 200 with these fields would be compressed for who accepts that. Of a 304, that cannot be told: it does not say the type."""
    coding = exchange.service.coding
    if coding is None:
        return True
    return coding.suits(200, render_fields(fields), size, coding.accepted(exchange.request.fields.get(b"accept-encoding")))


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


def cut_off(exchange: Exchange, why: str) -> None:
    """The rest of an answer that has begun cannot be sent: let the client see that."""
    exchange.sink = None
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
    exchange.stream.cut(exchange)


_buffer: memoryview = memoryview(bytearray(PIECE))


class FileSending(Bodiless):
    """The sink of an exchange whose file is going out piece by piece."""

    __slots__ = (
        "_at",
        "_exchange",
        "_file",
        "_gone",
        "_held",
        "_left",
        "_next",
        "_onward",
        "_parts",
        "_prefix",
        "_reading",
        "_several",
        "_stream",
        "_waits",
    )

    def __init__(
        self,
        exchange: Exchange,
        file: OpenFile,
        parts: list[Range],
        several: Parts | None,
        onward: Callable[[], None] | None = None,
    ) -> None:
        self._onward = onward
        """What is done when the file is out; None: the answer ends."""
        self._exchange, self._stream = exchange, exchange.stream
        self._file = file
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
        self._held = False
        """Whether the client counts as full with the first octet that waits for it."""
        exchange.sink = self

    def go_on(self) -> None:  # noqa: C901 - the hot path: a call costs more than a branch
        """Write until the client is full, or the file is out."""
        global _buffer
        pieces = PIECES
        while not self._gone and not self._reading and not self._stream.full:
            if not pieces:
                if not self._waits:
                    self._waits = True
                    asyncio.get_running_loop().call_soon(self._next_turn)
                return
            pieces -= 1
            file, size = self._file, min(PIECE, self._left)
            if file.body is not None:
                self._write(file.body[self._at : self._at + size])
                continue
            if file.copied:
                sent = self._passed()
                if sent > 0:
                    continue
                if not sent:  # the transport has a little to wait with, and calls when the client has taken it
                    size = min(size, SHARED - 1)
                    if not self._held:
                        self._held = True
                        self._stream.hold(1)
            try:
                length = read_copy(file.fd, self._at, _buffer[:size]) if file.copied else read_into(file.fd, self._at, _buffer[:size])
            except OSError as error:
                self._broke(f"the file cannot be read: {error.strerror}")
                return
            if length < 0:
                self._reading = True
                in_thread(partial(os.pread, file.fd, size, self._at), self._read)
                return
            if length and not self._write_from(_buffer[:length]):
                _buffer = memoryview(bytearray(PIECE))
            elif not length:
                self._write(b"")

    def _next_turn(self) -> None:
        self._waits = False
        self.go_on()

    def _read(self, piece: bytes | None, error: BaseException | None) -> None:
        """What the thread read."""
        self._reading = False
        if self._gone:
            self._file.release()
        elif piece is None:
            self._broke(f"the file cannot be read: {error}")
        else:
            self._write(piece)
            self.go_on()

    def _passed(self) -> int:
        """Have the kernel send what the client takes at once: how many octets; -1 if that cannot be."""
        if self._several is not None or self._left < SHARED:
            return -1
        sent = self._stream.write_file(self._file.fd, self._at, self._left)
        if sent > 0:
            self._at += sent
            self._left -= sent
            if not self._left:
                self._ended(b"")
        return sent

    def _write_from(self, piece: memoryview) -> bool:
        """Send octets of a buffer. False: it is held until they are gone."""
        if len(piece) < SHARED or self._several is not None:
            self._write(bytes(piece))
            return True
        self._at += len(piece)
        self._left -= len(piece)
        free = self._stream.write_from(piece)
        if not self._left and not self._gone:
            self._ended(b"")
        return free

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
                self._ended(data if several is None else data + several.end)
                return
        self._stream.write(data)

    def _ended(self, data: bytes) -> None:
        """Send the last octets."""
        self._gone = True
        if self._held:
            self._stream.hold(0)
        self._exchange.sink = None
        self._file.release()
        if self._onward is None:
            self._stream.end(self._exchange, data)
            return
        if data:
            self._stream.write(data)
        self._onward()

    def _broke(self, why: str) -> None:
        """The rest cannot be sent."""
        self._gone = True
        self._file.release()
        cut_off(self._exchange, why)

    def client_drained(self) -> None:
        self.go_on()

    def client_full(self) -> None:
        """go_on stops by itself."""

    def client_gone(self) -> None:
        self._gone = True
        if not self._reading:
            self._file.release()


class Finding(Awaiting[OpenFile]):
    """The sink of an exchange for which a thread looks for a file. If the client has left, the file is closed."""

    __slots__ = ()

    def __init__(self, exchange: Exchange, find: Callable[[], OpenFile | None], then: Then[OpenFile]) -> None:
        super().__init__(exchange, then)
        in_thread(find, self._found)

    def _found(self, file: OpenFile | None, error: BaseException | None) -> None:
        if self.gone and file is not None:
            file.release()
        self.tell(file, error)
