"""Answers out, to an exchange: whole or in pieces, in the order of their requests; and tunnels.

An answer is taken only for the exchange that is served here now. start(), write() and end() go out in as few writes as
the octets came in; after each answer `_next` brings the connection on. An answer that may not be lost is followed until the peer
has acknowledged it (model/deliveries.py): `on_lost` hears of it otherwise. An upgraded connection: tunnel(), and every octet goes to
the sink from then on.

Two files stand beside this one: net/pressing.py compresses what goes out, net/parking.py answers what waits without an exchange.
What this file refuses to know: what a request means, and how one is read.
"""

import asyncio
from math import inf
from typing import Final

from pbal.http1 import encoder
from pbal.http1.changes import Changes
from pbal.http1.coding import ACCEPTED
from pbal.http1.encoder import HEAD_ONLY, KEEP, Fields
from pbal.http1.events import UNTIL_CLOSE, ResponseHead
from pbal.model.deliveries import OnLost
from pbal.model.exchange import ANSWERING, Exchange
from pbal.net.passing import USABLE, pass_file, pass_head
from pbal.net.pressing import Pressing
from pbal.net.wire import (
    ADVANCING,
    BODY_PAUSED,
    CHUNKS,
    CLOSED,
    ENDS_WITH_CLOSE,
    FACTS,
    FULL,
    HALF_CLOSED,
    LOOK,
    OF_ONE_ANSWER,
    OWED,
    PERSIST_WAIT,
    TUNNEL,
    WAITS_FOR_TURN,
    XFER_RES,
)  # fmt: skip
from pbal.observe.access import TUNNEL as OTHER_PROTOCOL

JOINED: Final = 32768
"""Octets of a piece that are copied to go out with what stands before them: a longer one costs more than another call."""


class Answering(Pressing):
    """A connection as what its exchanges are answered on."""

    __slots__ = ()

    def respond(self, exchange: Exchange, status: int, fields: Fields, body: bytes, on_lost: OnLost | None, patience: float) -> bool:
        """See Stream."""
        if self.exchange is not exchange or self._gone():
            return False
        self.service = exchange.service
        facts = self._facts(exchange)
        lines = self._own_lines()
        changes = exchange.ruled()
        if changes is not None:
            fields, lines = self._changed(changes, fields, lines)
        if self.service.coding is None:
            data = encoder.whole(status, fields, body, facts, lines, self._epoch())
        else:
            block = encoder.checked(status, fields, body)
            if facts & ACCEPTED and on_lost is None and self._takes_turns(body) and self._suits(status, block, body, facts):
                self._respond_in_pieces(exchange, status, block, body, facts, lines)
                return True
            block, body = self._coded(status, block, body, facts)
            data = encoder.whole_of(status, block, body, facts, lines, self._epoch())
        exchange.status = status
        if not facts & HEAD_ONLY and encoder.has_body(status):
            exchange.sent = len(body)
        self._deliver(data, on_lost, patience)
        self._end(exchange, facts)
        return True

    def _changed(self, changes: Changes, fields: Fields, lines: bytes) -> tuple[Fields, bytes]:
        """Fields of an answer, and pbal's own lines, after RESPONSE rules. Raises: IllegalField for fields that are none."""
        pairs = list(fields)
        encoder.render_fields(pairs)
        return changes.fields(pairs), changes.cut(lines)

    def interim(self, head: ResponseHead, block: bytes) -> None:
        """See Stream."""
        exchange = self.exchange
        if exchange is not None and exchange.request.minor:
            if (changes := exchange.ruled()) is not None:
                block = changes.cut(block)
            self._send(encoder.interim(head.status, head.reason, block))

    def start(self, exchange: Exchange, head: ResponseHead, block: bytes, more: bytes) -> None:
        """See Stream."""
        if self.exchange is not exchange:
            return
        self.service = exchange.service
        if self.tls is not None and b"strict-transport-security" not in head.fields:
            more += self._strict()
        service = self.service
        changes = None if service.rules.response is None and exchange.outer is None else exchange.ruled()
        if changes is not None:
            block, more = changes.block(block + more), b""
        facts = self._facts(exchange)
        if service.coding is None:
            framing = encoder.framing_of(head.framing, facts)
        else:
            framing, block, more = self._start_coded(exchange, head, block, more, facts)
        if framing == UNTIL_CLOSE:
            facts &= ~KEEP
        self.head = encoder.head(head.status, head.reason, block, more, framing, facts)
        exchange.enter(ANSWERING)
        exchange.status = head.status
        self.flags = (
            self.flags & ~(FACTS | CHUNKS | ENDS_WITH_CLOSE)
            | facts
            | (CHUNKS if framing == encoder.CODED else ENDS_WITH_CLOSE if framing == UNTIL_CLOSE else 0)
        )
        self.state = XFER_RES
        if not self.flags & FULL:
            self.deadline = self.home.world.clock.now() + LOOK if self.flags & HALF_CLOSED else inf

    def write(self, data: bytes) -> None:
        """See Stream."""
        exchange = self.exchange
        if exchange is not None:
            if exchange.coded is not None:
                self._code(exchange, exchange.coded, data)
                return
            exchange.sent += len(data)
        if len(data) > JOINED:
            self._send_large(data)
            return
        if self.flags & CHUNKS and self.state is XFER_RES:
            data = encoder.chunk(data)
        if self.head:
            data, self.head = self.head + data, b""
        self._send(data)

    def write_from(self, buffer: memoryview) -> bool:
        """See Stream. What a transport has not sent at once it holds, and a copy for each piece would cost as much as sending it."""
        exchange, transport = self.exchange, self.transport
        if exchange is None or exchange.coded is not None or self.flags & CHUNKS or transport is None or transport.is_closing():
            self.write(bytes(buffer))
            return True
        exchange.sent += len(buffer)
        if self.head and self.tls is None:
            head, self.head = self.head, b""
            transport.writelines((head, buffer))
        else:
            if self.head:
                head, self.head = self.head, b""
                transport.write(head)
            transport.write(buffer)
        return not transport.get_write_buffer_size()

    def write_file(self, fd: int, at: int, size: int) -> int:
        """See Stream. It goes past the transport, if that has nothing to send."""
        exchange, transport = self.exchange, self.transport
        if not USABLE or exchange is None or self.tls is not None or exchange.coded is not None or self.flags & CHUNKS:
            return -1
        if self.flags & FULL or transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return 0
        sock = transport.get_extra_info("socket")
        number = -1 if sock is None else int(sock.fileno())
        if number < 0:
            return -1
        if self.head:
            taken = pass_head(number, self.head)
            self.head = self.head[taken:]
            if self.head:
                return 0
        sent = pass_file(number, fd, at, size)
        exchange.sent += sent
        return sent

    def _send_large(self, data: bytes) -> None:
        """Send a piece of a body as it is, without a copy; what stands around it goes into the same system call."""
        before, self.head = self.head, b""
        chunked = bool(self.flags & CHUNKS) and self.state is XFER_RES
        if chunked:
            before += b"%x\r\n" % len(data)
        if before:
            self._send(before)
        self._send(data)
        if chunked:
            self._send(b"\r\n")

    def end(self, exchange: Exchange, data: bytes, trailer: bytes = b"") -> None:
        """See Stream."""
        if self.exchange is not exchange:
            return
        pieces = exchange.coded
        if pieces is not None:
            pieces.ends, pieces.trailer = True, trailer
            self._code(exchange, pieces, data)
            return
        self._end_with(exchange, data, trailer)

    def _end_with(self, exchange: Exchange, data: bytes, trailer: bytes) -> None:
        exchange.sent += len(data)
        if trailer and (changes := exchange.ruled()) is not None:  # what is taken from the head is not to come back behind the body
            trailer = changes.cut(trailer)
        if len(data) > JOINED:
            self._send_large(data)
            data = b""
        if self.flags & CHUNKS:
            data = encoder.chunk(data) + encoder.last_chunk(trailer)
        if self.head:
            data, self.head = self.head + data, b""
        if data:
            self._send(data)
        facts = self.flags & FACTS
        home = self.home
        if facts & KEEP and (
            self.flags & HALF_CLOSED or not home.enabled or home.world.draining or not home.values["persist_client"]
        ):  # since the head was sent: the client ended, or the service did
            facts &= self._facts(exchange) | ~KEEP
        self._end(exchange, facts)

    def hold(self, octets: int) -> None:
        """See Stream."""
        if not self._gone() and self.transport is not None:
            self.transport.set_write_buffer_limits(high=octets or self.home.values["buffer_size"])

    def cut(self, exchange: Exchange) -> None:
        """See Stream."""
        if self.exchange is not exchange:
            return
        if self.head:
            head, self.head = self.head, b""
            self._send(head)
        self.exchange = None
        if self.flags & ENDS_WITH_CLOSE:
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
            if not body_complete or (self.reader is not None and self.reader.buffered) or self.flags & OWED:
                self._linger()
            else:
                self._close()
            return
        home = self.home
        self.service = home
        self.state = PERSIST_WAIT
        self.deadline = self._until_rested()
        paused = self.flags & BODY_PAUSED
        self.flags &= ~OF_ONE_ANSWER
        if self.flags & ADVANCING:  # which goes on by itself
            if paused and not self.flags & FULL and self.transport is not None:
                self.transport.resume_reading()
        elif not self.flags & WAITS_FOR_TURN and (paused or self.flags & HALF_CLOSED or (self.reader is not None and self.reader.buffered)):
            # Not from here: an answer to one connection must not run the requests of another on its stack.
            self.flags |= WAITS_FOR_TURN
            asyncio.get_running_loop().call_soon(self._read_on)

    # -- tunnels -------------------------------------------------------------------------------------------------

    def tunnel(self, exchange: Exchange, head: ResponseHead, block: bytes, protocol: bytes, data: bytes) -> bytes:
        """See Stream."""
        assert self.transport is not None
        exchange.enter(ANSWERING)
        exchange.status = head.status
        exchange.kind = OTHER_PROTOCOL
        exchange.sent = len(data)
        self.service = exchange.service
        self.state = TUNNEL
        self.deadline = inf
        reader, self.reader = self.reader, None
        if not self.transport.is_reading():
            self.transport.resume_reading()
        if (changes := exchange.ruled()) is not None:
            block = changes.block(block)
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
