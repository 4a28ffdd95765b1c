"""Answers out: whole or in pieces, in the order of their requests; tunnels, and what waits parked for its answer.

An answer is taken only for the exchange, or the record, that is served here now. start(), write() and end() go out in as few writes as
the octets came in; after each answer `_next` brings the connection on. An answer that may not be lost is written so that
it is known what the socket took: `on_lost` hears of it otherwise. park() drops the exchange, and what is left of it is three flags.
An upgraded connection: tunnel(), and every octet goes to the sink from then on.

What this file refuses to know: what a request means, and how one is read.
"""

import asyncio
from math import inf

from pbal.http1 import encoder
from pbal.http1.encoder import KEEP
from pbal.http1.events import UNTIL_CLOSE, ResponseHead
from pbal.model.exchange import ANSWERING, UNSENDABLE, Exchange, Fields, OnLost, Parked
from pbal.net.wire import (
    ADVANCING,
    BODY_COMES,
    BODY_PAUSED,
    CHUNKS,
    CLOSED,
    ENDS_WITH_CLOSE,
    FACTS,
    FULL,
    HALF_CLOSED,
    OF_ONE_ANSWER,
    PARKED_STATE,
    PERSIST_WAIT,
    TUNNEL,
    WAIT_RES,
    WAITS_FOR_TURN,
    XFER_RES,
    Wire,
)  # fmt: skip


class Answering(Wire):
    """A connection as what its exchanges are answered on."""

    __slots__ = ()

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
        facts = self.flags & FACTS
        if not (self.home.enabled and not self.home.world.draining):
            facts &= ~KEEP
        try:
            data = encoder.whole(status, fields, body, facts, self._own_lines(), self._epoch())
        except BaseException:
            self.answer(record, 500, (), UNSENDABLE, None)
            raise
        self.record = None
        self._deliver(data, on_lost)
        self._next(facts, not self.flags & BODY_COMES)
        return True

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
            self.flags & ~(FACTS | CHUNKS | ENDS_WITH_CLOSE)
            | facts
            | (CHUNKS if framing == encoder.CODED else ENDS_WITH_CLOSE if framing == UNTIL_CLOSE else 0)
        )
        self.state = XFER_RES
        if not self.flags & FULL:
            self.deadline = inf

    def write(self, data: bytes) -> None:
        """See Stream."""
        if self.flags & CHUNKS and self.state is XFER_RES:
            data = encoder.chunk(data)
        if self.head:
            data, self.head = self.head + data, b""
        self._send(data)

    def end(self, exchange: Exchange, data: bytes) -> None:
        """See Stream."""
        if self.exchange is not exchange:
            return
        if self.flags & CHUNKS:
            data = encoder.chunk(data) + encoder.LAST_CHUNK
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
            if not body_complete or (self.reader is not None and self.reader.buffered):
                self._linger()
            else:
                self._close()
            return
        home = self.home
        self.service = home
        self.state = PERSIST_WAIT
        self.deadline = home.world.clock.now() + (home.values["persist_client_idle_timeout"] or inf)
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

    def park(self, exchange: Exchange, record: Parked) -> "Answering":
        """See Stream."""
        self.record = record
        if self.exchange is exchange:
            self.flags = self.flags & ~FACTS | self._facts(exchange) | (0 if exchange.body_complete else BODY_COMES)
            self.exchange = None
            self.service = exchange.service
            self.state = PARKED_STATE
            self.deadline = inf
            if self.reader is not None and self.reader.buffered == 0:
                self.reader = None  # and with it what it remembers of the head
            if self.flags & HALF_CLOSED:  # while whoever parks it was waiting for something: it has gone, as in eof_received
                self.state = CLOSED
                self.home.world.pace.leave(self._close)
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
