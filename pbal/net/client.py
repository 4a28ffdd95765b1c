"""One client connection: requests in, in order; answers out, in the same order.

States, by Perlbal's names, and how they follow each other:

    persist_wait      between requests; a pipelined one is taken up at once
    reading_headers   part of a head is there           -> 408 when header_timeout passes
    reading_body      an exchange's body is coming      -> 408 when nothing came for idle_timeout
    wait_res          a role or plugin has the exchange -> its own deadlines, none here
    parked            a long poll: no exchange, no head, perhaps no reader; only `record` knows why -> its lot's deadline
    xfer_res          a response is being relayed       -> closed when the client takes nothing for idle_timeout
    tunnel            upgraded: octets both ways
    lingering         answered, closing; what still arrives is dropped so that the answer is not lost to a reset
    closed

What this file refuses to know: what a request means. It hands the head to `service.begin` and body octets to
`exchange.sink`, and offers what model.exchange.Downstream promises. There is no timer and no task per connection: each
has a `deadline`, and the server's one tick a second calls `expired` on those that passed (so a timeout of N takes
effect between N and N+1 seconds).

Memory: fifteen thousand of these wait in a chat's lot. Everything is slots, the reader is dropped while parked, the
peer's address is interned. The next author should measure (`make bench`) before adding an attribute.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from math import inf
from typing import Any, Final, cast

from pbal.http1.events import END, BadRequest, RequestHead
from pbal.http1.reader import RequestReader
from pbal.http1.writer import http_date, render_fields, status_line
from pbal.model.exchange import Exchange, Fields, Parked
from pbal.model.service import Service
from pbal.observe.sockets import Kind, SocketInfo

log = logging.getLogger("pbal.client")

PERSIST_WAIT: Final = "persist_wait"
READING_HEADERS: Final = "reading_headers"
READING_BODY: Final = "reading_body"
WAIT_RES: Final = "wait_res"
PARKED: Final = "parked"
XFER_RES: Final = "xfer_res"
TUNNEL: Final = "tunnel"
LINGERING: Final = "lingering"
CLOSED: Final = "closed"
STATES: Final = (PERSIST_WAIT, READING_HEADERS, READING_BODY, WAIT_RES, PARKED, XFER_RES, TUNNEL, LINGERING, CLOSED)

READ_AHEAD: Final = 32768
"""Octets of pipelined requests kept while an answer is outstanding; then reading pauses. Perlbal's read-ahead limit."""
LINGER_SECONDS: Final = 2.0
"""How long octets are read and dropped after a closing answer (RFC 9112 section 9.6)."""
LINGER_OCTETS: Final = 1 << 20
BURST: Final = 32
"""Pipelined requests answered in one turn of the loop; then it is somebody else's."""

# What a parked connection remembers of its request.
_KEEP, _OLD, _HEAD_ONLY, _HALF_CLOSED = 1, 2, 4, 8
_BODY_PAUSED, _FULL, _ABORTED = 16, 32, 64

CLASS_NAMES: Final = {
    "reverse_proxy": "ClientProxy", "web_server": "ClientHTTP", "selector": "ClientHTTPBase", "management": "ClientManage",
}  # fmt: skip

_peers: dict[str, bytes] = {}


def _interned(host: str) -> bytes:
    """One bytes object for all connections from an address; the table is emptied when it has grown large."""
    found = _peers.get(host)
    if found is None:
        if len(_peers) > 10000:
            _peers.clear()
        plain = host.removeprefix("::ffff:") if "." in host else host  # IPv4 on a socket for both: RFC 4291 section 2.5.5.2
        found = _peers[host] = plain.encode("ascii", "replace")
    return found


class ClientConnection(asyncio.Protocol):
    """An accepted connection of an HTTP service."""

    __slots__ = (
        "advancing", "born", "deadline", "exchange", "flags", "home", "lingered",
        "on_lost", "peer", "reader", "record", "requests", "service",
        "state", "transport", "unsent",
    )  # fmt: skip

    def __init__(self, home: Service) -> None:
        self.home = home
        self.service = home
        self.transport: Any = None
        self.reader: RequestReader | None = None
        self.exchange: Exchange | None = None
        self.record: Parked | None = None
        self.on_lost: Callable[[], None] | None = None
        self.state: str = PERSIST_WAIT
        self.deadline = inf
        self.flags = 0
        self.requests = 0
        self.unsent = 0
        self.lingered = 0
        self.peer = b""
        self.born = home.world.second
        self.advancing = False

    # -- the socket ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        world = self.home.world
        world.clients.add(self)
        counts = world.counters.counts
        counts["connections"] += 1
        counts["clients"] += 1
        if len(world.clients) + len(world.backends) > world.room and world.runtime is not None:
            world.runtime.out_of_room()
        name = transport.get_extra_info("peername")
        self.peer = _interned(name[0]) if name else b"unknown"
        self.deadline = world.clock.now() + (self.home.values["header_timeout"] or inf)
        high = self.home.values["buffer_size"]
        if high != 65536:
            self.transport.set_write_buffer_limits(high=high)

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state is TUNNEL:
            if self.exchange is not None and self.exchange.sink is not None:
                self.exchange.sink.body_data(data)
            return
        if state is LINGERING:
            self.lingered += len(data)
            if self.lingered > LINGER_OCTETS:
                self.abort()
            return
        if state is CLOSED:
            return
        reader = self.reader
        if reader is None:
            reader = self.reader = RequestReader(self.home.handler.limits)  # type: ignore[union-attr]
        reader.feed(data)
        exchange = self.exchange
        if state is PARKED or (exchange is not None and exchange.body_complete):
            if reader.buffered > READ_AHEAD:
                if state is PARKED:  # not reading, we would not see it go
                    self.home.world.counters.counts["bad_requests"] += 1
                    self.home.world.log_limited("read ahead", "%s: sent too much behind a parked poll", self.peer_name)
                    self.abort()
                else:
                    self.transport.pause_reading()
            return
        self.advance()

    def eof_received(self) -> bool:
        """The client sent its last octet. True keeps the other direction open."""
        exchange = self.exchange
        if self.state is TUNNEL and exchange is not None:
            exchange.sink.body_end()
            return True
        if exchange is None or not exchange.body_complete:
            return False  # nothing owed, a parked poll's client that went, or a body cut off
        self.flags |= _HALF_CLOSED
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        world = self.home.world
        world.clients.discard(self)
        world.counters.counts["clients"] -= 1
        record, exchange, on_lost = self.record, self.exchange, self.on_lost
        self.record = self.exchange = self.on_lost = self.reader = None
        if on_lost is not None and (exc is not None or self.flags & _ABORTED):  # else it closed when all was sent
            on_lost()
        if record is not None:
            record.gone()
        if exchange is not None:
            world.counters.counts["aborted_clients"] += 1
            if exchange.sink is not None:
                exchange.sink.client_gone()

    def pause_writing(self) -> None:
        self.flags |= _FULL
        self.unsent = self.transport.get_write_buffer_size()
        self.deadline = self.home.world.clock.now() + (self.service.values["idle_timeout"] or inf)
        if self.exchange is not None and self.exchange.sink is not None:
            self.exchange.sink.client_full()

    def resume_writing(self) -> None:
        if self.state in (XFER_RES, WAIT_RES, TUNNEL):
            self.deadline = inf
        elif self.state is PERSIST_WAIT:
            self.deadline = self.home.world.clock.now() + (self.home.values["persist_client_idle_timeout"] or inf)
        self.flags &= ~_FULL
        if self.on_lost is not None:
            self._all_sent()
        exchange = self.exchange
        if exchange is None:
            self._read_on()
        elif exchange.sink is not None:
            exchange.sink.client_drained()

    # -- requests in ---------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Read on: body octets of the running exchange, or the next request when there is none."""
        if self.advancing:
            return
        self.advancing = True
        left = BURST
        try:
            while self.state is not CLOSED and self.state is not LINGERING and not self.transport.is_closing():
                exchange, reader = self.exchange, self.reader
                if reader is None or self.state is PARKED:
                    break
                if exchange is None:
                    if self.flags & _FULL or not left:
                        self._hold(reader)
                        break
                    left -= 1
                    if not self._next_request(reader):
                        break
                elif exchange.body_complete or self.flags & _BODY_PAUSED or not self._more_body(exchange, reader):
                    break
        except BadRequest as error:
            self._refuse(error)
        finally:
            self.advancing = False

    def _hold(self, reader: RequestReader) -> None:
        """Leave what is buffered, for a turn of the loop or until the client has taken its answers.

        A client that takes none, or sends very many requests, is not to fill memory or the loop; and behind an answer that
        may not be lost nothing else is written before the socket took it whole, so that it is known which was.
        """
        if reader.at_start:
            return
        self.transport.pause_reading()
        if not self.flags & _FULL:
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        """Read and take up requests again."""
        transport = self.transport
        if transport.is_closing() or self.flags & _FULL or self.state not in (PERSIST_WAIT, READING_HEADERS):
            return
        if not transport.is_reading():
            transport.resume_reading()
        if self.reader is not None and self.reader.buffered:
            self.advance()

    def _all_sent(self) -> None:
        """The socket took an answer that may not be lost, whole."""
        self.on_lost = None
        self.transport.set_write_buffer_limits(high=self.home.values["buffer_size"])

    def _next_request(self, reader: RequestReader) -> bool:
        """Start the next exchange; False when its head has not come whole."""
        head = reader.next()
        home = self.home
        if head is None:
            if self.state is PERSIST_WAIT and not reader.at_start:
                self.state = READING_HEADERS
                if self.requests:  # else it runs since the connection was made
                    self.deadline = home.world.clock.now() + (home.values["header_timeout"] or inf)
            return False
        assert isinstance(head, RequestHead)
        world = home.world
        world.counters.counts["requests"] += 1
        self.requests += 1
        now = world.clock.now()
        exchange = self.exchange = Exchange(self, home, head, now)
        self.service = home
        if exchange.body_complete:
            self.state = WAIT_RES
            self.deadline = inf
        else:
            self.state = READING_BODY
            self.deadline = now + (home.values["idle_timeout"] or inf)
        home.begin(exchange)
        return True

    def _more_body(self, exchange: Exchange, reader: RequestReader) -> bool:
        """Hand on what has come of the body; False when no more is there."""
        event = reader.next()
        if event is None:
            return False
        sink = exchange.sink
        if event is END:
            exchange.body_complete = True
            if self.state is READING_BODY:
                self.state, self.deadline = WAIT_RES, inf
            if sink is not None:
                sink.body_end()
            return True
        assert isinstance(event, bytes)
        exchange.received += len(event)
        limit = exchange.body_limit
        if limit is None:
            limit = exchange.service.values["max_body"]
        if limit and exchange.received > limit:
            self._refuse(BadRequest(f"the body is larger than {limit} octets", 413))
            return False
        if self.state is READING_BODY:
            self.deadline = self.home.world.clock.now() + (exchange.service.values["idle_timeout"] or inf)
        if sink is not None:
            sink.body_data(event)
        return True

    def _refuse(self, error: BadRequest) -> None:
        """Answer a malformed or oversized message and close: what follows it cannot be trusted."""
        self.home.world.counters.counts["bad_requests"] += 1
        self.home.world.log_limited("bad request", "%s: %d %s", self.peer_name, error.status, error.reason)
        exchange = self.exchange
        if exchange is not None and exchange.sink is not None:
            sink, exchange.sink = exchange.sink, None
            sink.client_gone()
        if self.state is XFER_RES or self.state is TUNNEL:
            self.abort()
            return
        self.flags &= ~_KEEP
        self._answer(error.status, (), (error.reason + "\n").encode(), keep=False, old=False, head_only=False)
        self.exchange = None
        self.linger()

    def continue_body(self) -> None:
        """Say 100 Continue, if the client waits for it (RFC 9110 section 10.1.1)."""
        exchange = self.exchange
        if exchange is not None and exchange.request.expect_continue and not exchange.received:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def pause_body(self) -> None:
        """Stop reading: whoever takes the body is full, or not there yet."""
        if not self.flags & _BODY_PAUSED:
            self.flags |= _BODY_PAUSED
            self.deadline = inf
            self.transport.pause_reading()

    def resume_body(self) -> None:
        """Read on."""
        if not self.flags & _BODY_PAUSED:
            return
        self.flags &= ~_BODY_PAUSED
        if self.transport.is_closing():
            return
        if self.state is READING_BODY:
            self.deadline = self.home.world.clock.now() + (self.service.values["idle_timeout"] or inf)
        self.transport.resume_reading()
        self.advance()

    # -- answers out ---------------------------------------------------------------------------------------------

    def keeps(self, exchange: Exchange) -> bool:
        """Whether this connection may serve another request after `exchange` (RFC 9112 section 9.3)."""
        return (
            exchange.request.keep_alive
            and exchange.body_complete
            and not self.flags & _HALF_CLOSED
            and self.home.values["persist_client"]
            and self.home.enabled
            and not self.home.world.draining
        )

    def reply(self, status: int, fields: Fields = (), body: bytes = b"", on_lost: Callable[[], None] | None = None) -> bool:
        """See model.exchange.Downstream."""
        transport = self.transport
        if transport is None or transport.is_closing() or self.state is CLOSED or self.state is LINGERING:
            return False
        exchange = self.exchange
        if exchange is not None:
            head = exchange.request
            keep, old, head_only = self.keeps(exchange), head.minor == 0, head.method == b"HEAD"
        elif self.state is PARKED:
            flags = self.flags
            keep, old, head_only = bool(flags & _KEEP), bool(flags & _OLD), bool(flags & _HEAD_ONLY)
            keep = keep and self.home.enabled and not self.home.world.draining
        else:
            return False
        if on_lost is None:
            self._answer(status, fields, body, keep=keep, old=old, head_only=head_only)
        else:
            # With no room for what is unsent, the transport writes at once: what is left then, or a transport that is
            # closing because the write failed, tells what became of it. resume_writing comes when all is sent.
            transport.set_write_buffer_limits(high=0)
            self._answer(status, fields, body, keep=keep, old=old, head_only=head_only)
            if transport.get_write_buffer_size() or transport.is_closing():
                self.on_lost = on_lost
            else:
                self._all_sent()
        self.finish(keep)
        return True

    def _answer(self, status: int, fields: Fields, body: bytes, *, keep: bool, old: bool, head_only: bool) -> None:
        """Write one self-made response."""
        values = self.service.values
        parts = [status_line(status), b"Date: %b\r\n" % http_date(self.home.world.clock.epoch())]
        if values["server_tokens"]:
            parts.append(b"Server: pbal\r\n")
        block = render_fields(fields) if fields else b""
        parts.append(block)
        if status >= 200 and status != 204 and status != 304:
            if b"ontent-" not in block or b"content-type:" not in block.lower():
                parts.append(b"Content-Type: text/plain; charset=utf-8\r\n" if body else b"")
            parts.append(b"Content-Length: %d\r\n" % len(body))
        else:
            body = b""
        if not keep:
            parts.append(b"Connection: close\r\n")
        elif old:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        if not head_only:
            parts.append(body)
        self.transport.write(b"".join(parts))

    def finish(self, keep: bool) -> None:
        """The answer is written whole: take up the next request, or close."""
        exchange, self.exchange, self.record = self.exchange, None, None
        if not keep:
            if (exchange is not None and not exchange.body_complete) or (self.reader is not None and self.reader.buffered):
                self.linger()
            else:
                self.close()
            return
        home = self.home
        self.service = home
        self.state = PERSIST_WAIT
        self.deadline = home.world.clock.now() + (home.values["persist_client_idle_timeout"] or inf)
        paused, self.flags = self.flags & _BODY_PAUSED, self.flags & _FULL
        if self.advancing:  # which goes on by itself
            if paused and not self.flags & _FULL:
                self.transport.resume_reading()
        elif paused or (self.reader is not None and self.reader.buffered):
            # Not from here: an answer to one connection must not run the requests of another on its stack.
            asyncio.get_running_loop().call_soon(self._read_on)

    def begin_response(self) -> None:
        """A relayed response starts: its octets follow through `transport`, and finish() ends it."""
        self.state = XFER_RES

    def begin_tunnel(self) -> bytes:
        """Octets are relayed from here, both ways, through the exchange's sink. Returns those already read."""
        self.state = TUNNEL
        self.deadline = inf
        reader, self.reader = self.reader, None
        if not self.transport.is_reading():
            self.transport.resume_reading()
        return b"" if reader is None else reader.take_rest()

    # -- parking -------------------------------------------------------------------------------------------------

    def park(self, record: Parked) -> None:
        """See model.exchange.Downstream. Called again by a new generation of the lot, it changes the record."""
        exchange = self.exchange
        self.record = record
        if exchange is None:
            return
        head = exchange.request
        keep = self.keeps(exchange)
        self.flags = (
            self.flags & _FULL | (_KEEP if keep else 0) | (_OLD if head.minor == 0 else 0) | (_HEAD_ONLY if head.method == b"HEAD" else 0)
        )
        self.exchange = None
        self.state = PARKED
        self.deadline = inf
        if self.reader is not None and self.reader.buffered == 0:
            self.reader = None  # and with it what it remembers of the head

    def kick(self) -> None:
        """See model.exchange.Downstream."""
        self.record = None
        self.abort()

    # -- endings -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close after what was written has gone out."""
        if self.transport is not None:
            self.deadline = self.home.world.clock.now() + (self.service.values["idle_timeout"] or inf)
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.flags |= _ABORTED
        if self.transport is not None:
            self.transport.abort()

    def reset(self) -> None:
        """Close so that the client sees a reset: the only way to say 'cut off' where the close itself is the end."""
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer may have closed already; then there is nobody to tell
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def linger(self) -> None:
        """Close the sending side and drop what still comes for a short while."""
        if self.state is CLOSED:
            return
        self.state = LINGERING
        self.unsent = self.lingered = 0
        self.deadline = self.home.world.clock.now() + LINGER_SECONDS
        self.reader = None
        if self.transport.is_closing():
            return
        if not self.transport.is_reading():
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def expired(self, now: float) -> None:
        """The deadline passed."""
        counts = self.home.world.counters.counts
        transport = self.transport
        unsent = transport.get_write_buffer_size()
        if unsent:
            if self.unsent == 0 or unsent < self.unsent:  # slow, but moving
                self.unsent = unsent
                self.deadline = now + (self.service.values["idle_timeout"] or inf)
                return
            counts["slow_readers_closed"] += 1
            self.abort()
        elif self.state is READING_BODY or self.state is READING_HEADERS:
            counts["request_timeouts"] += 1
            self._refuse(BadRequest("the request did not arrive in time", 408))
        elif self.state is PERSIST_WAIT:
            counts["idle_closed"] += 1
            self.close()
        elif self.state is LINGERING and self.unsent:  # a slow reader: its time to read the last octets begins now
            self.unsent, self.deadline = 0, now + LINGER_SECONDS
        elif self.state is TUNNEL or self.state is LINGERING:
            self.abort()
        else:
            self.deadline = inf
            if transport.is_closing():
                self.abort()

    def shutdown(self, graceful: bool) -> None:
        """The server ends: idle connections close now, others after their answer."""
        if not graceful or self.state in (TUNNEL, LINGERING):
            self.abort()
        elif self.state is PERSIST_WAIT:
            self.close()
        else:
            self.flags &= ~_KEEP

    # -- being looked at -----------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether it takes slower than we write: client_drained() will follow."""
        return bool(self.flags & _FULL)

    @property
    def half_closed(self) -> bool:
        """Whether it has sent its last octet."""
        return bool(self.flags & _HALF_CLOSED)

    @property
    def peer_name(self) -> str:
        """Address and port."""
        name = self.transport.get_extra_info("peername") if self.transport is not None else None
        return f"{name[0]}:{name[1]}" if name else "unknown"

    def kind(self) -> Kind:
        """See observe.sockets."""
        service = self.service
        return CLASS_NAMES.get(service.role, "ClientHTTP"), self.state, service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        sock = self.transport.get_extra_info("socket")
        local = self.transport.get_extra_info("sockname")
        text = f"open to {self.peer_name}: localport={local[1] if local else 0}; reqs={self.requests}; {self.state}"
        if self.exchange is not None:
            request = self.exchange.request
            host = (request.host or b"unknown").decode("latin-1")
            text += f"; http://{host}{request.target.decode('latin-1')}"
        flags = "R" if self.transport.is_reading() else ""
        if self.transport.get_write_buffer_size():
            flags += "W"
        class_name, state, service = self.kind()
        return SocketInfo(
            fd=sock.fileno() if sock is not None else -1,
            age=self.home.world.second - self.born,
            class_name=class_name,
            state=state,
            text=f"{class_name}({flags}): {text}",
            service=service,
        )
