"""What is parked on a connection: answered whole, or streamed to while it stays parked.

    parked    answer() -> the next request;  begin() -> streams;  upgrade() -> upgraded
    streams   push();  finish() -> the next request, or closed where the close is the end (HTTP/1.0)
    upgraded  push() and record.received();  finish() -> lingering (net/linger.py)

In each of them kick(), the client's end, a fault in received() and a client that takes nothing end the connection; all but kick() call
record.gone(). park() drops the exchange, and leaves three flags of it; a stream costs two flags more. An answer is taken only for the
record that is parked here now.
"""

from math import inf
from typing import cast

from pbal.http1 import encoder
from pbal.http1.encoder import HEAD_ONLY, KEEP, OLD, Fields
from pbal.model.deliveries import PATIENCE, OnLost
from pbal.model.errors import AnswerRefused
from pbal.model.exchange import UNSENDABLE, Exchange
from pbal.model.faults import call_back
from pbal.model.parking import Parked, Upgraded
from pbal.net.answering import Answering
from pbal.net.wire import (
    BODY_COMES,
    CHUNKS,
    CLOSED,
    ENDS_WITH_CLOSE,
    FACTS,
    FULL,
    HALF_CLOSED,
    OWED,
    PARKED_STATE,
    STREAMS,
    UPGRADED,
    WAIT_RES,
)  # fmt: skip
from pbal.observe.access import DONE, KICKED, PLUGIN, SOCKET, STREAM


class Parking(Answering):
    """A connection on which a client may wait."""

    __slots__ = ()

    def park(self, exchange: Exchange, record: Parked) -> "Parking":
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
