"""One client connection of HTTP/1: requests in, in order; answers out, in the same order. It is the stream of its exchange.

States, by Perlbal's names, and how they follow each other:

    persist_wait      between requests; a pipelined one is taken up at once
    reading_headers   part of a head is there           -> 408 when header_timeout passes
    reading_body      an exchange's body is coming      -> 408 when nothing came for idle_timeout
    wait_res          a role or plugin has the exchange -> its own deadlines; half_close_timeout once the client sent its end
    parked            a long poll: no exchange, no head, perhaps no reader; only `record` knows why -> its lot's deadline
    xfer_res          a response is on its way          -> closed when the client takes nothing for idle_timeout
    tunnel            upgraded: octets both ways
    closed            here; the socket may live on as a net.linger.Lingering, which this file knows no more of

A proxied request: data_received feeds the reader, _next_request makes an Exchange and hands it to the service; the relay
answers with start(), write(), end(), which go out in as few writes as the octets came in; _end lets the exchange end and
_next takes up what is pipelined. An upload: _more_body hands pieces to exchange.sink, which may pause_body(). A parked poll: park()
drops the exchange; answer() writes, with the promise that on_lost is called if the socket does not take it all. An upgraded
connection: tunnel(), then every octet goes to the sink.

What this file refuses to know: what a request means. It offers what model.exchange.Stream promises, and nobody else touches
the transport. An answer is taken only for the exchange, or the record, that is served here now.

There is no timer and no task per connection: each has a `deadline`, and the server's one tick a second calls `expired` on those
that passed (so a timeout of N takes effect between N and N+1 seconds). Work is bounded a turn: BURST requests, and the steps of
the reader (http1/reader.py); the rest waits for the next turn with reading paused.

Memory: fifteen thousand of these wait in a chat's lot. Everything is slots, the reader is dropped while parked, the
peer's address is interned. The next author should measure (`make bench`) before adding an attribute.
"""

import asyncio
import contextlib
import socket
import struct
from math import inf
from typing import Final, cast

from pbal.http1 import encoder
from pbal.http1.encoder import HEAD_ONLY, KEEP, OLD
from pbal.http1.events import END, UNTIL_CLOSE, BadRequest, RequestHead, ResponseHead
from pbal.http1.reader import RequestReader
from pbal.model.exchange import ANSWERING, UNSENDABLE, Exchange, Fields, OnLost, Parked, Stream
from pbal.model.pace import SLICE
from pbal.model.secured import Secured
from pbal.model.service import Service
from pbal.net.linger import CLASS_NAMES, Lingering, peer_name
from pbal.net.resets import was_reset
from pbal.observe.sockets import Kind, SocketInfo

PERSIST_WAIT: Final = "persist_wait"
READING_HEADERS: Final = "reading_headers"
READING_BODY: Final = "reading_body"
WAIT_RES: Final = "wait_res"
PARKED_STATE: Final = "parked"
XFER_RES: Final = "xfer_res"
TUNNEL: Final = "tunnel"
CLOSED: Final = "closed"

READ_AHEAD: Final = 32768
"""Octets of pipelined requests kept while an answer is outstanding; then reading pauses. Perlbal's read-ahead limit."""
LOOK: Final = 1.0
"""Seconds between two looks whether a client that is not read has reset the connection: the loop tells that of readers only."""
BURST: Final = 32
"""Pipelined requests answered in one turn of the loop; then it is somebody else's."""

# Flags. The first three are the encoder's facts of a request: what a parked connection remembers of it.
_FACTS: Final = OLD | HEAD_ONLY | KEEP
_HALF_CLOSED, _BODY_PAUSED, _FULL, _ABORTED, _CODED, _UNTIL_CLOSE, _ADVANCING, _WAITS_FOR_TURN = 8, 16, 32, 64, 128, 256, 512, 1024
_OF_ONE_ANSWER: Final = _FACTS | _BODY_PAUSED | _CODED | _UNTIL_CLOSE

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


class ClientConnection(Stream):
    """An accepted connection of an HTTP service."""

    __slots__ = (
        "born", "deadline", "exchange", "flags", "head", "home", "on_lost", "peer", "reader", "record", "requests", "service",
        "state", "tls", "transport", "unsent",
    )  # fmt: skip

    def __init__(self, home: Service) -> None:
        self.home = home
        self.service = home
        self.transport: asyncio.Transport | None = None
        self.reader: RequestReader | None = None
        self.exchange: Exchange | None = None
        self.record: Parked | None = None
        self.on_lost: OnLost | None = None
        self.head = b""
        """A response head that goes out with what is written next."""
        self.state: str = PERSIST_WAIT
        self.deadline = inf
        self.flags = 0
        self.requests = 0
        self.unsent = 0
        self.peer = b""
        self.tls: Secured | None = None
        self.born: int = home.world.second

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
        self.tls = transport.get_extra_info("secured")
        name = transport.get_extra_info("peername")
        self.peer = _interned(name[0]) if name else b"unknown"
        self.deadline = world.clock.now() + (self.home.values["header_timeout"] or inf)
        high = self.home.values["buffer_size"]
        if high != 65536:
            self.transport.set_write_buffer_limits(high=high)

    def data_received(self, data: bytes) -> None:
        state = self.state
        exchange = self.exchange
        if state is TUNNEL:
            if exchange is not None and exchange.sink is not None:
                exchange.sink.body_data(data)
            return
        if state is CLOSED:
            return
        reader = self.reader
        if reader is None:
            reader = self.reader = RequestReader(self.home.handler.limits)  # type: ignore[union-attr]
        reader.feed(data)
        if state is PARKED_STATE or (exchange is not None and exchange.body_complete) or self.flags & _WAITS_FOR_TURN:
            if reader.buffered > READ_AHEAD:
                self._too_far_ahead()
            return
        if exchange is None:
            pace = self.home.world.pace
            pace.begun += 1
            if pace.begun > SLICE:
                self.flags |= _WAITS_FOR_TURN
                pace.wait(self._read_on, self.requests > 0)
                return
        self.advance()

    def _too_far_ahead(self) -> None:
        """A client sends on and on while its answer is outstanding."""
        assert self.transport is not None
        if self.state is PARKED_STATE:  # not reading, we would not see it go
            self.home.world.counters.counts["bad_requests"] += 1
            self.home.world.log_limited("read ahead", "%s: sent too much behind a parked poll", self.peer_name)
            self.abort()
        else:
            self.transport.pause_reading()
            if self.state is WAIT_RES and not self.flags & _HALF_CLOSED:
                self.deadline = self.home.world.clock.now() + LOOK

    def eof_received(self) -> bool:
        """The client sent its last octet. True keeps the other direction open.

        A close and a half-close look alike here. What was asked for whole is answered, pipelined requests too; but not for longer than
        half_close_timeout where no answer has begun. A parked poll's client is taken to have gone.
        """
        exchange = self.exchange
        if self.state is TUNNEL and exchange is not None:
            if exchange.sink is not None:
                exchange.sink.body_end()
            return True
        if exchange is None:
            if self.state in (PERSIST_WAIT, READING_HEADERS) and self.flags & _WAITS_FOR_TURN:
                self.flags |= _HALF_CLOSED
                return True
            self.state = CLOSED  # nothing owed, or a parked poll's client that went
            self.home.world.pace.leave(self._close)
            return True
        if not exchange.body_complete:
            return False  # a body cut off
        self.flags |= _HALF_CLOSED
        if exchange.stage is not ANSWERING:
            self.deadline = self.home.world.clock.now() + (self.home.values["half_close_timeout"] or LOOK)
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
            exchange.ended(False)

    def pause_writing(self) -> None:
        assert self.transport is not None
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
        if self.flags & _ADVANCING or self.transport is None:
            return
        self.flags |= _ADVANCING
        left = BURST
        reader = self.reader
        if reader is not None:
            reader.begin_turn()
        try:
            while self.state is not CLOSED and not self.transport.is_closing():
                exchange, reader = self.exchange, self.reader
                if reader is None or self.state is PARKED_STATE:
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
            self.flags &= ~_ADVANCING

    def _hold(self, reader: RequestReader) -> None:
        """Leave what is buffered, for a turn of the loop or until the client has taken its answers.

        A client that takes none, or sends very many requests, is not to fill memory or the loop; and behind an answer that
        may not be lost nothing else is written before the socket took it whole, so that it is known which was.
        """
        if reader.at_start:
            if self.flags & _HALF_CLOSED and not self.flags & _FULL:
                self._close()
            return
        self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """Go on in the next turn of the loop, and read nothing until then."""
        assert self.transport is not None
        self.transport.pause_reading()
        if not self.flags & (_FULL | _WAITS_FOR_TURN):
            self.flags |= _WAITS_FOR_TURN
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        """Read and take up requests, or the rest of a body, again."""
        self.flags &= ~_WAITS_FOR_TURN
        transport = self.transport
        if transport is None or self.state is CLOSED or transport.is_closing():
            return
        exchange = self.exchange
        if exchange is not None:
            if exchange.body_complete or self.flags & _BODY_PAUSED:
                return
        elif self.flags & _FULL or self.state not in (PERSIST_WAIT, READING_HEADERS):
            return
        if not transport.is_reading():
            transport.resume_reading()
        if self.reader is not None and self.reader.buffered:
            self.advance()
        elif exchange is None and self.flags & _HALF_CLOSED:
            self._close()

    def _all_sent(self) -> None:
        """The socket took an answer that may not be lost, whole."""
        self.on_lost = None
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=self.home.values["buffer_size"])

    def _next_request(self, reader: RequestReader) -> bool:
        """Start the next exchange; False when its head has not come whole."""
        event = reader.next()
        home = self.home
        if event is None:
            if reader.tired:
                self._wait_for_turn()
            elif self.flags & _HALF_CLOSED:  # what is there will never be a request
                self._close()
            elif self.state is PERSIST_WAIT and not reader.at_start:
                self.state = READING_HEADERS
                if self.requests:  # else it runs since the connection was made
                    self.deadline = home.world.clock.now() + (home.values["header_timeout"] or inf)
            return False
        assert isinstance(event, RequestHead)
        world = home.world
        world.counters.counts["requests"] += 1
        self.requests += 1
        now = world.clock.now()
        exchange = self.exchange = Exchange(self, home, event, now)
        self.service = home
        if exchange.body_complete:
            self.state = WAIT_RES
            self.deadline = inf
            if self.flags & _HALF_CLOSED:
                self.deadline = now + (home.values["half_close_timeout"] or LOOK)
        else:
            self.state = READING_BODY
            self.deadline = now + (home.values["idle_timeout"] or inf)
        home.begin(exchange)
        return True

    def _more_body(self, exchange: Exchange, reader: RequestReader) -> bool:
        """Hand on what has come of the body; False when no more is there."""
        event = reader.next()
        if event is None:
            if reader.tired:
                self._wait_for_turn()
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
        exchange, self.exchange = self.exchange, None
        begun = self.state is XFER_RES or self.state is TUNNEL
        if not begun:
            facts = 0 if exchange is None else self._facts(exchange) & ~KEEP
            self._send(encoder.whole(error.status, (), (error.reason + "\n").encode(), facts, self._own_lines(), self._epoch()))
            if exchange is not None:
                exchange.status = error.status
        if exchange is not None:
            exchange.ended(not begun)
        if begun:
            self.abort()
        else:
            self._linger()

    def continue_body(self) -> None:
        """See Stream."""
        exchange = self.exchange
        if exchange is not None and exchange.request.expect_continue and not exchange.received:
            self._send(encoder.CONTINUE)

    def pause_body(self) -> None:
        """See Stream."""
        if self.transport is None:
            return
        if self.state is TUNNEL:
            self.transport.pause_reading()
        elif not self.flags & _BODY_PAUSED and self.exchange is not None and not self.exchange.body_complete:
            self.flags |= _BODY_PAUSED
            self.deadline = self.home.world.clock.now() + LOOK
            self.transport.pause_reading()

    def resume_body(self) -> None:
        """See Stream."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.state is TUNNEL:
            self.transport.resume_reading()
            return
        if not self.flags & _BODY_PAUSED:
            return
        self.flags &= ~_BODY_PAUSED
        if self.state is READING_BODY:
            self.deadline = self.home.world.clock.now() + (self.service.values["idle_timeout"] or inf)
        if self.flags & _WAITS_FOR_TURN:
            return
        self.transport.resume_reading()
        self.advance()

    # -- answers out ---------------------------------------------------------------------------------------------

    def _epoch(self) -> float:
        return self.home.world.clock.epoch()

    def _own_lines(self) -> bytes:
        """What pbal says of itself in an answer of its own."""
        lines = b"Server: pbal\r\n" if self.service.values["server_tokens"] else b""
        return lines if self.tls is None else lines + self._strict()

    def _strict(self) -> bytes:
        """Strict-Transport-Security (RFC 6797 section 7.1), where hsts asks for it."""
        seconds = self.home.values["hsts"]
        return b"Strict-Transport-Security: max-age=%d\r\n" % seconds if seconds else b""

    def _send(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _facts(self, exchange: Exchange) -> int:
        """What an answer must know of the request (http1/encoder.py). Whether it may keep the connection: RFC 9112 section 9.3."""
        request, home = exchange.request, self.home
        facts = 0 if request.minor else OLD
        if request.method == b"HEAD":
            facts |= HEAD_ONLY
        if (
            request.keep_alive
            and exchange.body_complete
            and home.values["persist_client"]
            and home.enabled
            and not home.world.draining
            and (not self.flags & _HALF_CLOSED or (self.reader is not None and self.reader.buffered > 0))
        ):
            facts |= KEEP
        return facts

    def _gone(self) -> bool:
        return self.transport is None or self.state is CLOSED or self.transport.is_closing()

    def respond(self, exchange: Exchange, status: int, fields: Fields, body: bytes, on_lost: OnLost | None) -> bool:
        """See Stream."""
        if self.exchange is not exchange or self._gone():
            return False
        self.service = exchange.service
        facts = self._facts(exchange)
        data = encoder.whole(status, fields, body, facts, self._own_lines(), self._epoch())
        exchange.status = status
        self._deliver(data, on_lost)
        self._end(exchange, facts)
        return True

    def answer(self, record: Parked, status: int, fields: Fields, body: bytes, on_lost: OnLost | None) -> bool:
        """See Waiting."""
        if self.record is not record or self.state is not PARKED_STATE or self._gone():
            return False
        facts = self.flags & _FACTS
        if not (self.home.enabled and not self.home.world.draining):
            facts &= ~KEEP
        try:
            data = encoder.whole(status, fields, body, facts, self._own_lines(), self._epoch())
        except BaseException:
            self.answer(record, 500, (), UNSENDABLE, None)
            raise
        self.record = None
        self._deliver(data, on_lost)
        self._next(facts, True)
        return True

    def _deliver(self, data: bytes, on_lost: OnLost | None) -> None:
        """Write an answer; remember whom to tell if the socket does not take it whole."""
        transport = self.transport
        assert transport is not None
        if on_lost is None:
            transport.write(data)
            return
        # With no room for what is unsent, the transport writes at once: what is left then, or a transport that is
        # closing because the write failed, tells what became of it. resume_writing comes when all is sent.
        transport.set_write_buffer_limits(high=0)
        transport.write(data)
        if transport.get_write_buffer_size() or transport.is_closing():
            self.on_lost = on_lost
        else:
            self._all_sent()

    def interim(self, head: ResponseHead, block: bytes) -> None:
        """See Stream."""
        exchange = self.exchange
        if exchange is not None and exchange.request.minor:
            self._send(encoder.interim(head.status, head.reason, block))

    def start(self, exchange: Exchange, head: ResponseHead, block: bytes, more: bytes) -> None:
        """See Stream."""
        if self.exchange is not exchange:
            return
        self.service = exchange.service
        if self.tls is not None and b"strict-transport-security" not in head.fields:
            more += self._strict()
        facts = self._facts(exchange)
        framing = encoder.framing_of(head.framing, facts)
        if framing == UNTIL_CLOSE:
            facts &= ~KEEP
        self.head = encoder.head(head.status, head.reason, block, more, framing, facts)
        exchange.enter(ANSWERING)
        exchange.status = head.status
        self.flags = (
            self.flags & ~(_FACTS | _CODED | _UNTIL_CLOSE)
            | facts
            | (_CODED if framing == encoder.CODED else _UNTIL_CLOSE if framing == UNTIL_CLOSE else 0)
        )
        self.state = XFER_RES
        if not self.flags & _FULL:
            self.deadline = inf

    def write(self, data: bytes) -> None:
        """See Stream."""
        if self.flags & _CODED and self.state is XFER_RES:
            data = encoder.chunk(data)
        if self.head:
            data, self.head = self.head + data, b""
        self._send(data)

    def end(self, exchange: Exchange, data: bytes) -> None:
        """See Stream."""
        if self.exchange is not exchange:
            return
        if self.flags & _CODED:
            data = encoder.chunk(data) + encoder.LAST_CHUNK
        if self.head:
            data, self.head = self.head + data, b""
        if data:
            self._send(data)
        facts = self.flags & _FACTS
        home = self.home
        if facts & KEEP and (
            self.flags & _HALF_CLOSED or not home.enabled or home.world.draining or not home.values["persist_client"]
        ):  # since the head was sent: the client ended, or the service did
            facts &= self._facts(exchange) | ~KEEP
        self._end(exchange, facts)

    def cut(self, exchange: Exchange) -> None:
        """See Stream."""
        if self.exchange is not exchange:
            return
        if self.head:
            head, self.head = self.head, b""
            self._send(head)
        self.exchange = None
        if self.flags & _UNTIL_CLOSE:
            self._reset()  # the close itself would say that the response is whole
        else:
            self._close()
        exchange.ended(True)

    def _end(self, exchange: Exchange, facts: int) -> None:
        """The answer is written whole: the exchange ends, and the next request or the end of the connection comes."""
        self.exchange = None
        exchange.ended(True)
        self._next(facts, exchange.body_complete)

    def _next(self, facts: int, body_complete: bool) -> None:
        if self.state is CLOSED:
            return
        if not facts & KEEP:
            if not body_complete or (self.reader is not None and self.reader.buffered):
                self._linger()
            else:
                self._close()
            return
        home = self.home
        self.service = home
        self.state = PERSIST_WAIT
        self.deadline = home.world.clock.now() + (home.values["persist_client_idle_timeout"] or inf)
        paused = self.flags & _BODY_PAUSED
        self.flags &= ~_OF_ONE_ANSWER
        if self.flags & _ADVANCING:  # which goes on by itself
            if paused and not self.flags & _FULL and self.transport is not None:
                self.transport.resume_reading()
        elif not self.flags & _WAITS_FOR_TURN and (
            paused or self.flags & _HALF_CLOSED or (self.reader is not None and self.reader.buffered)
        ):
            # Not from here: an answer to one connection must not run the requests of another on its stack.
            self.flags |= _WAITS_FOR_TURN
            asyncio.get_running_loop().call_soon(self._read_on)

    # -- tunnels -------------------------------------------------------------------------------------------------

    def tunnel(self, exchange: Exchange, head: ResponseHead, block: bytes, protocol: bytes, data: bytes) -> bytes:
        """See Stream."""
        assert self.transport is not None
        exchange.enter(ANSWERING)
        exchange.status = head.status
        self.service = exchange.service
        self.state = TUNNEL
        self.deadline = inf
        reader, self.reader = self.reader, None
        if not self.transport.is_reading():
            self.transport.resume_reading()
        self._send(encoder.switching(head.reason, block, protocol) + data)
        return b"" if reader is None else reader.take_rest()

    def write_eof(self) -> None:
        """See Stream."""
        if not self._gone() and self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()

    def close(self, exchange: Exchange) -> None:
        """See Stream."""
        if self.exchange is exchange:
            self.exchange = None
            self._close()
            exchange.ended(True)

    # -- parking -------------------------------------------------------------------------------------------------

    def park(self, exchange: Exchange, record: Parked) -> "ClientConnection":
        """See Stream."""
        self.record = record
        if self.exchange is exchange:
            self.flags = self.flags & ~_FACTS | self._facts(exchange)
            self.exchange = None
            self.service = exchange.service
            self.state = PARKED_STATE
            self.deadline = inf
            if self.reader is not None and self.reader.buffered == 0:
                self.reader = None  # and with it what it remembers of the head
        return self

    def withdraw(self, exchange: Exchange, record: Parked) -> bool:
        """See Stream."""
        if self.record is not record or self.state is not PARKED_STATE:
            return False
        self.record = None
        self.exchange = exchange
        self.state = WAIT_RES
        return True

    def repark(self, record: Parked) -> bool:
        """See Waiting."""
        if self.state is not PARKED_STATE:
            return False
        self.record = record
        return True

    def kick(self, record: Parked) -> None:
        """See Waiting."""
        if self.record is record:
            self.record = None
            self.abort()

    # -- endings -------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Close after what was written has gone out."""
        if self.transport is not None:
            self.deadline = self.home.world.clock.now() + (self.service.values["idle_timeout"] or inf)
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.flags |= _ABORTED
        if self.transport is not None:
            self.transport.abort()

    def _reset(self) -> None:
        """Close so that the client sees a reset: the only way to say 'cut off' where the close itself is the end."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer may have closed already; then there is nobody to tell
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def _linger(self) -> None:
        """Hand the socket to a Lingering: it ends our side and drops what still comes for a short while."""
        transport = self.transport
        if self.state is CLOSED or transport is None:
            return
        self.state = CLOSED
        self.reader = None
        on_lost, self.on_lost = self.on_lost, None
        world = self.home.world
        world.clients.discard(self)
        world.clients.add(Lingering(self.service, transport, on_lost, self.born, self.requests))

    @property
    def _goes_unseen(self) -> bool:
        """Whether its client could leave without our being told: its octets are not read, and nothing is written."""
        if self.flags & _BODY_PAUSED:
            return True
        if self.state is not WAIT_RES or self.transport is None or self.transport.is_reading():
            return False
        return not self.flags & _HALF_CLOSED or not self.home.values["half_close_timeout"]

    def expired(self, now: float) -> None:
        """The deadline passed."""
        transport = self.transport
        if transport is None:
            return
        counts = self.home.world.counters.counts
        unsent = transport.get_write_buffer_size()
        if unsent:
            if self.unsent == 0 or unsent < self.unsent:  # slow, but moving
                self.unsent = unsent
                self.deadline = now + (self.service.values["idle_timeout"] or inf)
                return
            counts["slow_readers_closed"] += 1
            self.abort()
        elif self._goes_unseen:
            if was_reset(transport):
                self.abort()
            else:
                self.deadline = now + LOOK
        elif self.state is READING_BODY or self.state is READING_HEADERS:
            counts["request_timeouts"] += 1
            self._refuse(BadRequest("the request did not arrive in time", 408))
        elif self.state is PERSIST_WAIT:
            counts["idle_closed"] += 1
            self._close()
        elif self.state is TUNNEL or (self.state is WAIT_RES and self.flags & _HALF_CLOSED):
            self.abort()
        else:
            self.deadline = inf
            if transport.is_closing():
                self.abort()

    def shutdown(self, graceful: bool) -> None:
        """The server ends: idle connections close now, others after their answer."""
        if not graceful or self.state is TUNNEL:
            self.abort()
        elif self.state is PERSIST_WAIT:
            self._close()
        else:
            self.flags &= ~KEEP

    # -- being looked at -----------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """See Stream."""
        return bool(self.flags & _FULL)

    @property
    def half_closed(self) -> bool:
        """Whether it has sent its last octet."""
        return bool(self.flags & _HALF_CLOSED)

    @property
    def peer_name(self) -> str:
        """See Stream."""
        return peer_name(self.transport)

    @property
    def unsent_octets(self) -> int:
        """Octets that the socket has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def kind(self) -> Kind:
        """See observe.sockets."""
        service = self.service
        return CLASS_NAMES.get(service.role, "ClientHTTP"), self.state, service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        local = self.transport.get_extra_info("sockname")
        text = f"open to {self.peer_name}: localport={local[1] if local else 0}; reqs={self.requests}; {self.state}"
        if self.exchange is not None:
            request = self.exchange.request
            host = (request.host or b"unknown").decode("latin-1")
            text += f"; http://{host}{request.target.decode('latin-1')}"
        flags = "R" if self.transport.is_reading() else ""
        if self.unsent_octets:
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
