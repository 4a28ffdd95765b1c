"""Answers that are compressed on their way out.

A short one is coded whole. A long one, or one that comes in pieces, is coded as its octets come: so much in a turn of the loop
(model/pace.py), and no more than the client takes; the rest waits in exchange.coded (http1/pieces.py). While octets wait there, the sender
is told that the client is full.

Whether and how an answer is coded, http1/coding.py says. What goes out, and what follows its end, is the answering side's.
"""

from abc import abstractmethod
from math import inf

from pbal.http1 import coding, encoder
from pbal.http1.coding import ACCEPTED, LITTLE, ONCE
from pbal.http1.encoder import HEAD_ONLY
from pbal.http1.events import ResponseHead
from pbal.http1.pieces import Pieces
from pbal.model.exchange import Exchange
from pbal.model.pace import PRESSED
from pbal.net.wire import (
    CHUNKS,
    ENDS_WITH_CLOSE,
    FACTS,
    FULL,
    HALF_CLOSED,
    LOOK,
    PRESSING,
    XFER_RES,
    Wire,
)  # fmt: skip


class Pressing(Wire):
    """A connection that compresses."""

    __slots__ = ()

    @abstractmethod
    def _end_with(self, exchange: Exchange, data: bytes, trailer: bytes) -> None:
        """The last octets of an answer, as they go out, and its trailer section."""

    @abstractmethod
    def _end(self, exchange: Exchange, facts: int) -> None:
        """The answer is written whole: the exchange ends, and the next request or the end of the connection comes."""

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
            if setting.varies(head.status, block + more):
                return plain, coding.varied(block + more), b""
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
