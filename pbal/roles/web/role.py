"""web_server: GET and HEAD of files below docroot, with conditional requests (RFC 9110 section 13).

Small files go out in one write with their head. Larger ones are read a piece at a time as the client takes them, so
one slow reader of a large file holds one piece and one descriptor.
"""

import asyncio
import os

from pbal.http1.conditional import etag_for, evaluate
from pbal.http1.encoder import http_date, render_fields
from pbal.http1.events import ResponseHead
from pbal.model.exchange import SERVED, Exchange, Sink
from pbal.observe.access import BROKE
from pbal.observe.recent import Trouble
from pbal.roles import chain
from pbal.roles.http import HttpRole
from pbal.roles.web.files import IsDirectory, NotServed, OpenFile, open_file

PIECE = 131072
"""Octets read at a time; Perlbal's sendfile step."""
PIECES = 8
"""Pieces written in one turn of the loop, to a client that takes them that fast."""
_ALLOW = ((b"Allow", b"GET, HEAD"),)
_REFUSALS = {403: b"Not for you.\n", 404: b"Nothing here.\n", 500: b"The file cannot be read.\n", 503: b"Too much is open here.\n"}


class FileSending(Sink):
    """The sink of an exchange whose file is going out piece by piece."""

    __slots__ = ("_exchange", "_fd", "_left", "_scheduled", "_stream")

    def __init__(self, exchange: Exchange, fd: int, size: int) -> None:
        self._exchange, self._stream = exchange, exchange.stream
        self._fd, self._left = fd, size
        self._scheduled = False
        exchange.sink = self

    def go_on(self) -> None:
        """Write until the client is full, or the file is out."""
        stream = self._stream
        pieces = PIECES
        while not stream.full:
            if not pieces:
                if not self._scheduled:
                    self._scheduled = True
                    asyncio.get_running_loop().call_soon(self._next_turn)
                return
            pieces -= 1
            try:
                piece = os.read(self._fd, min(PIECE, self._left)) if self._left else b""
            except OSError:
                piece = b""
            self._left -= len(piece)
            if not self._left:
                self._end()
                stream.end(self._exchange, piece)
                return
            if not piece:  # the file shrank: what was promised cannot be kept, and must look so
                self._end()
                self._exchange.service.world.log_limited(
                    "file shrank",
                    "%(path)s became shorter while it was sent",
                    {"event": "file_shrank", "path": self._exchange.path.decode("latin-1")},
                )
                self._exchange.cause = BROKE
                self._exchange.trouble = Trouble("the file became shorter while it was sent")
                stream.cut(self._exchange)
                return
            stream.write(piece)

    def _next_turn(self) -> None:
        self._scheduled = False
        if self._fd >= 0:
            self.go_on()

    def _end(self) -> None:
        os.close(self._fd)
        self._fd = -1
        self._exchange.sink = None

    def client_drained(self) -> None:
        self._next_turn()

    def client_full(self) -> None:
        """go_on stops by itself."""

    def client_gone(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def body_data(self, data: bytes) -> None:
        """A body sent with a GET means nothing here."""

    def body_end(self) -> None:
        """A body sent with a GET means nothing here."""


class WebServer(HttpRole):
    """The handler of one web_server service."""

    def serve(self, exchange: Exchange) -> None:
        """Answer from the docroot."""
        if exchange.method not in (b"GET", b"HEAD"):
            exchange.error(405, b"Only GET and HEAD here.\n", _ALLOW)
            return
        values = self.service.values
        if values["docroot"] is None:
            exchange.error(404, b"Nothing here.\n")
            return
        try:
            found = open_file(str(values["docroot"]), exchange.path, values["index_files"])
        except NotServed as refusal:
            if refusal.status >= 500:
                self.service.world.log_limited(
                    "file", "%(service)s: %(status)d, a file could not be opened",
                    {"event": "file_not_opened", "service": self.name, "status": refusal.status},
                )  # fmt: skip
            exchange.error(refusal.status, _REFUSALS[refusal.status])
        except IsDirectory:
            request = exchange.request
            location = b"/" + request.path.lstrip(b"/") + b"/" + (b"?" + request.query if request.query else b"")
            exchange.respond(301, [(b"Location", location)], b"")
        else:
            self._send(exchange, found)

    def _send(self, exchange: Exchange, file: OpenFile) -> None:
        exchange.enter(SERVED)
        etag = etag_for(file.mtime_ns, file.size)
        mtime = file.mtime_ns // 10**9
        modified = min(max(mtime, 0), self.clock.epoch())  # RFC 9110 section 8.8.2.1: never later than Date
        validators = [(b"ETag", etag), (b"Last-Modified", http_date(modified))]
        status = evaluate(exchange.method, exchange.request.fields, etag, mtime)
        if status != 200:
            os.close(file.fd)
            exchange.respond(status, validators, b"" if status == 304 else b"The condition does not hold.\n")
            return
        fields = [*validators, (b"Content-Type", file.content_type)]
        hooks = self.service.hooks.modify_response_headers
        response = ResponseHead.made(200, fields)
        if hooks and not chain.run_all(hooks, exchange, response):
            os.close(file.fd)
            return
        response.block = render_fields(response.headers)
        response.framing = file.size
        self._begin(exchange, file, response)

    def _begin(self, exchange: Exchange, file: OpenFile, response: ResponseHead) -> None:
        more = b"Content-Length: %d\r\n" % file.size
        said = {name.lower() for name, _ in response.headers}
        if b"date" not in said:
            more = b"Date: %b\r\n%b" % (http_date(self.clock.epoch()), more)
        if self.service.values["server_tokens"] and b"server" not in said:
            more = b"Server: pbal\r\n" + more
        exchange.stream.start(exchange, response, response.block, more)
        if exchange.method == b"HEAD" or not file.size:
            os.close(file.fd)
            exchange.stream.end(exchange, b"")
        else:
            FileSending(exchange, file.fd, file.size).go_on()
