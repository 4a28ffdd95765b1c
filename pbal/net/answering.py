"""Answers out: whole or in pieces, in the order of their requests; tunnels, and what waits parked for its answer.

An answer is taken only for the exchange, or the record, that is served here now. start(), write() and end() go out in as few writes as
the octets came in; after each answer `_next` brings the connection on. An answer that may not be lost is followed until the peer
has acknowledged it (model/deliveries.py): `on_lost` hears of it otherwise. park() drops the exchange, and leaves three
flags of it. An upgraded connection: tunnel(), and every octet goes to the sink from then on.

What is parked is answered whole, or streamed to while it stays parked:

    parked    answer() -> the next request;  begin() -> streams;  upgrade() -> upgraded
    streams   push();  finish() -> the next request, or closed where the close is the end (HTTP/1.0)
    upgraded  push() and record.received();  finish() -> lingering (net/linger.py)

In each of them kick(), the client's end, a fault in received() and a client that takes nothing end the connection; all but kick() call
record.gone(). A stream costs two flags more than a poll.

What this file refuses to know: what a request means, and how one is read.
"""

import asyncio
from math import inf
from typing import cast

from pbal.http1 import coding, encoder
from pbal.http1.changes import Changes
from pbal.http1.coding import ACCEPTED, LITTLE, ONCE
from pbal.http1.encoder import HEAD_ONLY, KEEP, OLD
from pbal.http1.events import UNTIL_CLOSE, ResponseHead
from pbal.model.deliveries import PATIENCE, OnLost
from pbal.model.errors import AnswerRefused
from pbal.model.exchange import ANSWERING, UNSENDABLE, Exchange, Fields, Parked, Pieces, Upgraded
from pbal.model.faults import call_back
from pbal.model.pace import PRESSED
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
    LOOK,
    OF_ONE_ANSWER,
    OWED,
    PARKED_STATE,
    PERSIST_WAIT,
    PRESSING,
    STREAMS,
    TUNNEL,
    UPGRADED,
    WAIT_RES,
    WAITS_FOR_TURN,
    XFER_RES,
    Wire,
)  # fmt: skip
from pbal.observe.access import DONE, KICKED, PLUGIN, SOCKET, STREAM
from pbal.observe.access import TUNNEL as OTHER_PROTOCOL


class Answering(Wire):
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

    def answer(self, record: Parked, status: int, fields: Fields, body: bytes, on_lost: OnLost | None, patience: float = PATIENCE) -> bool:
        """See Waiting."""
        if not self._unanswered(record):
            return False
        facts = self._facts_of_parked()
        try:
            lines = self._own_lines()
            if self.changes is not None:
                fields, lines = self._changed(self.changes, fields, lines)
            if self.service.coding is None:
                data = encoder.whole(status, fields, body, facts, lines, self._epoch())
            else:
                block, body = self._coded(status, encoder.checked(status, fields, body), body, facts)
                data = encoder.whole_of(status, block, body, facts, lines, self._epoch())
        except BaseException:
            self.answer(record, 500, (), UNSENDABLE, None)
            raise
        self.record = None
        self._deliver(data, on_lost, patience)
        if facts & HEAD_ONLY or not encoder.has_body(status):
            body = b""
        self._counted(status, len(body))
        if self.account is not None:
            self._began(status, body)
            self._tell_parked(DONE)
        self._next(facts, not self.flags & BODY_COMES)
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

    # -- compression ---------------------------------------------------------------------------------------------

    def _suits(self, status: int, block: bytes, body: bytes, facts: int) -> bool:
        """Whether an answer of pbal's own may be compressed."""
        setting = self.service.coding
        return setting is not None and setting.suits(status, encoder.typed(block), len(body), facts)

    def _takes_turns(self, body: bytes) -> bool:
        """Whether it would take too long to compress this now."""
        size = len(body)
        return size > ONCE or (size > LITTLE and self.home.world.pace.pressed >= PRESSED)

    def _coded(self, status: int, block: bytes, body: bytes, facts: int) -> tuple[bytes, bytes]:
        """Header lines and body of a short answer as they go out. A longer one goes out plain: what follows its delivery has one piece."""
        setting = self.service.coding
        if setting is None or not self._suits(status, block, body, facts):
            return block, body
        block = coding.varied(block)
        accepted = setting.still(facts)
        if not accepted:
            return block, body
        if status == 304:
            return coding.weakened(block), body
        if len(body) > ONCE:
            return block, body
        world = self.home.world
        world.pace.pressed += len(body)
        made = setting.whole(accepted, body)
        self._count_coded(len(body), len(made))
        return coding.coded(encoder.typed(block), accepted), made

    def _count_coded(self, before: int, after: int) -> None:
        counts = self.home.world.counters.counts
        counts["compressed_responses"] += 1
        counts["compression_in_bytes"] += before
        counts["compression_out_bytes"] += after

    def _respond_in_pieces(self, exchange: Exchange, status: int, block: bytes, body: bytes, facts: int, lines: bytes) -> None:
        """A long answer of pbal's own, compressed in several turns of the loop."""
        setting = self.service.coding
        assert setting is not None
        block = coding.coded(coding.varied(encoder.typed(block)), facts)
        self.head = encoder.opening_of(status, block, facts, lines, self._epoch())
        exchange.status = status
        if facts & HEAD_ONLY:
            head, self.head = self.head, b""
            self._send(head)
            self._end(exchange, facts)
            return
        exchange.coded = pieces = Pieces(setting.coder(facts), False)
        pieces.ends = True
        self.flags = self.flags & ~(FACTS | CHUNKS | ENDS_WITH_CLOSE) | facts | CHUNKS
        self.state = XFER_RES
        if not self.flags & FULL:
            self.deadline = self.home.world.clock.now() + LOOK if self.flags & HALF_CLOSED else inf
        self._count_coded(0, 0)
        self._code(exchange, pieces, body)

    def _start_coded(self, exchange: Exchange, head: ResponseHead, block: bytes, more: bytes, facts: int) -> tuple[int, bytes, bytes]:
        """Framing and header lines of a response whose body follows, where the service compresses."""
        setting, framing = exchange.service.coding, head.framing
        assert setting is not None
        plain = encoder.framing_of(framing, facts)
        if not framing and not facts & HEAD_ONLY and head.status != 304:
            return plain, block, more
        if not setting.suits(head.status, block + more, framing if framing > 0 else -1, facts):
            return plain, block, more
        accepted = facts & ACCEPTED
        if not accepted or head.status == 304:
            return plain, coding.varied(block + more) if not accepted else coding.weakened(coding.varied(block + more)), b""
        lines = coding.coded(coding.varied(block + more), accepted)
        if facts & HEAD_ONLY:
            return plain, lines, b""
        exchange.coded = Pieces(setting.coder(accepted), framing < 0)
        self._count_coded(0, 0)
        return encoder.CODED, lines, b""

    def _code(self, exchange: Exchange, pieces: Pieces, data: bytes) -> None:
        """Octets of a body that is compressed: as many as this turn of the loop allows; the others wait."""
        if data:
            pieces.waiting.append(memoryview(data))
        if not self.flags & PRESSING:
            self._press(exchange, pieces)

    def _press_on(self) -> None:
        """Its turn has come, or the client has taken what was waiting."""
        exchange = self.exchange
        if exchange is not None and exchange.coded is not None and not self._gone():
            self._press(exchange, exchange.coded)

    def _press(self, exchange: Exchange, pieces: Pieces) -> None:
        pace, waiting, coder = self.home.world.pace, pieces.waiting, pieces.coder
        while waiting:
            if self.flags & FULL or pace.pressed >= PRESSED:
                self._wait_to_press(exchange)
                return
            piece = waiting[0]
            if len(piece) > ONCE:
                waiting[0], piece = piece[ONCE:], piece[:ONCE]
            else:
                waiting.popleft()
            pace.pressed += len(piece)
            self.home.world.counters.counts["compression_in_bytes"] += len(piece)
            self._send_coded(exchange, coder.code(piece))
        rested = self.flags & PRESSING
        self.flags &= ~PRESSING
        if pieces.ends:
            exchange.coded = None
            made = coder.finish()
            self.home.world.counters.counts["compression_out_bytes"] += len(made)
            self._end_with(exchange, made, pieces.trailer)
            return
        if pieces.flushes:
            self._send_coded(exchange, coder.flush())
        if rested and not self.flags & FULL and exchange.sink is not None:
            exchange.sink.client_drained()

    def _wait_to_press(self, exchange: Exchange) -> None:
        """Wait: until the client has taken some, which resume_writing() tells, or for a turn."""
        full = self.flags & FULL
        if not self.flags & PRESSING:
            self.flags |= PRESSING
            if not full and exchange.sink is not None:
                exchange.sink.client_full()
        if not full:
            self.home.world.pace.press(self._press_on)

    def _send_coded(self, exchange: Exchange, data: bytes) -> None:
        if data or self.head:
            exchange.sent += len(data)
            self.home.world.counters.counts["compression_out_bytes"] += len(data)
            head, self.head = self.head, b""
            self._send(head + encoder.chunk(data))

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

    # -- parking -------------------------------------------------------------------------------------------------

    def park(self, exchange: Exchange, record: Parked) -> "Answering":
        """See Stream."""
        self.record = record
        if self.exchange is exchange:
            self.flags = self.flags & ~FACTS | self._facts(exchange) | (0 if exchange.body_complete else BODY_COMES)
            self.exchange = None
            self.service = exchange.service
            self.service.traffic.parked += 1
            self.service.traffic.received += exchange.received
            self.account = exchange.kept()
            self.changes = exchange.ruled()
            tracer = self.service.tracer
            if tracer is not None:
                self._trace(tracer, "parked")
            self.state = PARKED_STATE
            self.deadline = inf
            if self.reader is not None and self.reader.buffered == 0:
                self.reader = None  # and with it what it remembers of the head
            if self.flags & HALF_CLOSED and not self._is_patient():  # while whoever parks it was waiting for something
                self.state = CLOSED
                self.home.world.pace.leave(self._close)
        return self

    def _is_patient(self) -> bool:
        """Whether what is parked is answered though its client has sent its end."""
        asked = getattr(self.record, "half_closed", None)
        if asked is None or self.flags & (STREAMS | UPGRADED):
            return False
        said: list[bool] = []
        call_back(self.home.world, lambda: said.append(bool(asked())))
        return said == [True]

    def withdraw(self, exchange: Exchange, record: Parked) -> bool:
        """See Stream."""
        if self.record is not record or self.state is not PARKED_STATE:
            return False
        if self.flags & (STREAMS | UPGRADED):
            self.abort()  # which tells the record
            return False
        self.record = self.account = None
        traffic = exchange.service.traffic  # it ends as a request now, and is counted there
        traffic.parked -= 1
        traffic.received -= exchange.received
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
            self._left()
            self._blame(KICKED)
            if self.flags & ENDS_WITH_CLOSE:
                self._reset()  # as in cut()
            else:
                self.abort()

    def _facts_of_parked(self) -> int:
        """What an answer to the parked request must know of it, as things stand now."""
        facts, home = self.flags & FACTS, self.home
        return facts if home.enabled and not home.world.draining and home.values["persist_client"] else facts & ~KEEP

    def _unanswered(self, record: Parked) -> bool:
        """Whether the request is still parked here, and its client there. Raises: AnswerRefused if a response has begun."""
        if self.record is not record or self.state is not PARKED_STATE or self._gone():
            return False
        if self.flags & (STREAMS | UPGRADED):
            raise self._refused("the response has begun already")
        return True

    def _refused(self, why: str) -> AnswerRefused:
        """The exception to raise."""
        self.home.world.counters.counts["answers_refused"] += 1
        return AnswerRefused(f"{why}: {self.peer_name}")

    # -- streams to what is parked, and other protocols ----------------------------------------------------------

    def begin(self, record: Parked, status: int, fields: Fields, data: bytes) -> bool:
        """See Waiting."""
        if not self._unanswered(record):
            return False
        facts = self._facts_of_parked()
        if facts & OLD:
            facts &= ~KEEP
        try:
            lines = self._own_lines()
            if self.changes is not None:
                fields, lines = self._changed(self.changes, fields, lines)
            head = encoder.opening(status, fields, facts, lines, self._epoch())
            body = b"" if facts & HEAD_ONLY else data if facts & OLD else encoder.chunk(data)
            octets = head + body
        except BaseException:
            self.answer(record, 500, (), UNSENDABLE, None)
            raise
        self.flags = self.flags & ~FACTS | facts | STREAMS | (ENDS_WITH_CLOSE if facts & OLD else CHUNKS)
        self._send(octets)
        if facts & HEAD_ONLY:
            data = b""
        self._counted(status, len(data))
        if self.account is not None:
            self.account.kind = STREAM
            self._began(status, data)
        return True

    def _began(self, status: int, data: bytes) -> None:
        """For the access log: the answer of what is parked has begun, with octets of its body."""
        account = self.account
        if account is not None:
            account.status, account.sent = status, len(data)
            account.asked_at = self.home.world.clock.now()

    def _framed(self, data: bytes) -> bytes:
        """Octets of a body, or of another protocol, as they go out."""
        if self.flags & HEAD_ONLY:
            return b""
        return encoder.shared_chunk(data) if self.flags & CHUNKS else data

    def _streams(self, record: Parked) -> bool:
        return (
            self.record is record
            and self.flags & (STREAMS | UPGRADED) != 0
            and self.state is PARKED_STATE
            and self.transport is not None
            and not self.transport.is_closing()
        )

    def push(self, record: Parked, data: bytes, on_lost: OnLost | None = None, patience: float = PATIENCE) -> bool:
        """See Waiting."""
        if not self._streams(record):
            return False
        octets = self._framed(data)
        if not octets:
            return True
        self.service.traffic.sent += len(data)
        if self.account is not None:
            self.account.sent += len(data)
        if on_lost is None and not self.flags & (OWED | FULL) and self.transport is not None:
            self.transport.write(octets)  # ten thousand readers of a room come this way at once
            return True
        before = self.unsent_octets if self.flags & FULL else -1
        self._deliver(octets, on_lost, patience)
        if before >= 0:  # what comes on top is not to hide that the client takes some of it
            self.unmoved += self.unsent_octets - before
        return True

    def finish(self, record: Parked, data: bytes) -> bool:
        """See Waiting."""
        if not self._streams(record):
            return False
        octets = self._framed(data)
        if self.flags & CHUNKS and not self.flags & HEAD_ONLY:
            octets += encoder.LAST_CHUNK
        if octets:
            self._deliver(octets, None, PATIENCE)
            self.service.traffic.sent += len(data)
        self.record = None
        if self.account is not None:
            self.account.sent += len(data)
            self._tell_parked(DONE)
        if self.flags & UPGRADED:
            self._linger()
        else:
            self._next(self._facts_of_parked(), not self.flags & BODY_COMES)
        return True

    def upgrade(self, record: Upgraded, protocol: bytes, fields: Fields, data: bytes) -> bool:
        """See Waiting."""
        transport = self.transport
        if not self._unanswered(record) or transport is None:
            return False
        if self.flags & (OLD | BODY_COMES):
            raise self._refused("HTTP/1.0 knows no upgrade" if self.flags & OLD else "the body of the request is still to come")
        try:
            if self.changes is not None:
                fields, _ = self._changed(self.changes, fields, b"")
            octets = encoder.upgrading(fields, protocol) + data
            if not callable(getattr(record, "received", None)):
                raise TypeError(f"a record to upgrade has a method received(): {record!r:.100} has none")
        except BaseException:
            self.answer(record, 500, (), UNSENDABLE, None)
            raise
        self.flags = self.flags & ~FACTS | UPGRADED
        reader, self.reader = self.reader, None
        self._send(octets)
        self._counted(101, len(data))
        if self.account is not None:
            self.account.kind = SOCKET
            self._began(101, data)
        if not transport.is_reading():
            transport.resume_reading()
        rest = b"" if reader is None else reader.take_rest()
        if rest:
            self._received(rest)
        return True

    def _received(self, data: bytes) -> None:
        """Octets of an upgraded client."""
        if self.account is not None:
            self.account.received += len(data)
        if self.record is not None and not call_back(self.home.world, cast(Upgraded, self.record).received, data):
            self._blame(PLUGIN)
            self.abort()

    def unsent(self, record: Parked) -> int:
        """See Waiting."""
        return self.transport.get_write_buffer_size() if self.record is record and self.transport is not None else 0
