"""One client connection of HTTP/1: requests in, in order; answers out, in the same order. It is the stream of its exchange.

States and what ends a connection stand in net/wire.py, answers in net/answering.py and net/parking.py; here are the socket's events and the
requests. A proxied request: data_received feeds the reader, _next_request makes an Exchange and hands it to the service; the relay
answers with start(), write(), end(); then the exchange ends, and what is pipelined is taken up. An upload: _more_body hands
pieces to exchange.sink, which may pause_body(). A parked poll has no exchange and often no reader: what its client sends waits, also
while a response to it goes on. In a tunnel every octet goes to the sink, of an upgraded client every octet to its record.

What this file refuses to know: what a request means. It offers what model.exchange.Stream promises, and nobody else touches
the transport.

There is no timer and no task per connection: each has a `deadline`, and the server's one tick a second calls `expired` on those
that passed (so a timeout of N takes effect between N and N+1 seconds). Work is bounded a turn: BURST requests, the steps of
the reader (http1/reader.py), and the pace of all connections together (model/pace.py); the rest waits for the next turn.
"""

import asyncio
from math import inf
from typing import Final, cast

from pbal.http1 import encoder
from pbal.http1.encoder import KEEP
from pbal.http1.events import CHUNKED, END, BadRequest, RequestHead
from pbal.http1.reader import PROXY_HEADER, RequestReader
from pbal.model.exchange import ANSWERING, Exchange
from pbal.model.faults import call_back
from pbal.model.pace import SLICE
from pbal.model.pages import error_page
from pbal.net.announced import header_refused
from pbal.net.parking import Parking
from pbal.net.resets import was_reset
from pbal.net.wire import (
    ADVANCING,
    BODY_PAUSED,
    CLOSED,
    FULL,
    HALF_CLOSED,
    LOOK,
    OWED,
    PARKED_STATE,
    PERSIST_WAIT,
    PRESSING,
    READING_BODY,
    READING_HEADERS,
    RESTED,
    RESTS,
    TUNNEL,
    UPGRADED,
    WAIT_RES,
    WAITS_FOR_TURN,
    XFER_RES,
)  # fmt: skip
from pbal.observe.access import BAD_REQUEST, CLIENT_LEFT, CLIENT_SLOW, HEAD, SHUTDOWN, Account
from pbal.observe.recent import Trouble

READ_AHEAD: Final = 32768
"""Octets of pipelined requests kept while an answer is outstanding; then reading pauses. Perlbal's read-ahead limit."""
BURST: Final = 32
"""Pipelined requests answered in one turn of the loop; then it is somebody else's."""

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


def _without_query(line: bytes) -> bytes:
    """A request line, however malformed, without what may be a query: the octets from the first `?` to the protocol."""
    before, query, rest = line.partition(b"?")
    protocol = rest.rpartition(b" ")[2] if query else b""
    return before + b" " + protocol if protocol.startswith(b"HTTP/") else before


class ClientConnection(Parking):
    """An accepted connection of an HTTP service."""

    __slots__ = ()

    # -- the socket ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        world = self.home.world
        world.joined(self)
        counts = world.counters.counts
        counts["connections"] += 1
        counts["clients"] += 1
        if (
            len(world.clients) + len(world.backends) + len(world.bodies.spools) + len(world.files.open) > world.room
            and world.runtime is not None
        ):
            world.runtime.out_of_room()
        self.tls = transport.get_extra_info("secured")
        name = transport.get_extra_info("peername")
        self.peer = _interned(name[0]) if name else b"unknown"
        self.deadline = world.clock.now() + (self.home.values["header_timeout"] or inf)
        high = self.home.values["buffer_size"]
        if high != 65536:
            self.transport.set_write_buffer_limits(high=high)
        tracer = self.home.tracer
        if tracer is not None:
            self._trace(tracer, "accepted", "over TLS" if self.tls is not None else "")

    def data_received(self, data: bytes) -> None:
        state = self.state
        exchange = self.exchange
        if state is TUNNEL:
            if exchange is not None and exchange.sink is not None:
                exchange.received += len(data)
                exchange.sink.body_data(data)
            return
        if state is CLOSED or (self.flags & (OWED | UPGRADED) and self._heard(data)):
            return
        reader = self.reader
        if reader is None:
            reader = self.reader = RequestReader(self.home.handler.limits)  # type: ignore[union-attr]
        reader.feed(data)
        if state is PARKED_STATE or (exchange is not None and exchange.body_complete) or self.flags & WAITS_FOR_TURN:
            if reader.buffered > READ_AHEAD:
                self._too_far_ahead()
            return
        if exchange is None:
            pace = self.home.world.pace
            pace.begun += 1
            if pace.begun > SLICE:
                self.flags |= WAITS_FOR_TURN
                pace.wait(self._read_on, self.requests > 0)
                return
        self.advance()

    def _heard(self, data: bytes) -> bool:
        """The client of an answer that may not be lost, or an upgraded one, says something. True: it is no request.

        Who asks for more has what was sent, unless it did not wait for that.
        """
        if self.flags & UPGRADED:
            self._received(data)
            return True
        transport, reader = self.transport, self.reader
        if self.state is not PERSIST_WAIT or transport is None or (reader is not None and reader.buffered):
            return False
        if not transport.get_write_buffer_size():
            self.flags &= ~OWED
            self.home.world.deliveries.taken(transport)
        return False

    def _too_far_ahead(self) -> None:
        """A client sends on and on while its answer is outstanding."""
        assert self.transport is not None
        if self.state is PARKED_STATE:  # not reading, we would not see it go
            self.home.world.counters.counts["bad_requests"] += 1
            self.home.world.log_limited(
                "read ahead", "%(client)s: sent too much behind a parked poll", {"event": "read_ahead", "client": self.peer_name}
            )
            self._blame(BAD_REQUEST)
            self.abort()
        else:
            self.transport.pause_reading()
            if self.state in (WAIT_RES, XFER_RES) and not self.flags & (HALF_CLOSED | FULL):
                self.deadline = self.home.world.clock.now() + LOOK

    def eof_received(self) -> bool:
        """The client sent its last octet. True keeps the other direction open.

        A close and a half-close look alike here. What was asked for whole is answered, pipelined requests too; but not for longer than
        half_close_timeout where no answer has begun. A parked poll's client is taken to have gone, unless its record says otherwise.
        """
        self._settled()
        exchange = self.exchange
        if self.state is TUNNEL and exchange is not None:
            if exchange.sink is not None:
                exchange.sink.body_end()
            return True
        if exchange is None:
            if self.state in (PERSIST_WAIT, READING_HEADERS) and self.flags & WAITS_FOR_TURN:
                self.flags |= HALF_CLOSED
                return True
            if self.state is PARKED_STATE and self._is_patient():
                self.flags |= HALF_CLOSED
                return True
            self.state = CLOSED  # nothing owed, or a parked poll's client that went
            self.home.world.pace.leave(self._close)
            return True
        if not exchange.body_complete:
            # Under TLS the end may come with octets that wait for whoever takes the body. Else it is a body cut off.
            if self.flags & (BODY_PAUSED | WAITS_FOR_TURN):
                self.flags |= HALF_CLOSED
                return True
            return False
        self.flags |= HALF_CLOSED
        self.home.world.counters.counts["half_closed"] += 1
        if exchange.stage is not ANSWERING:
            self._await_answer(exchange, self.home.world.clock.now())
        elif not self.flags & FULL:
            self.deadline = self.home.world.clock.now() + LOOK
        return True

    def _await_answer(self, exchange: Exchange, now: float) -> None:
        """The client has sent its end and its answer has not begun: half_close_timeout runs, with a look now and then."""
        exchange.client_end = now
        self.deadline = now + min(self.home.values["half_close_timeout"] or LOOK, LOOK)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        world = self.home.world
        world.clients.discard(self)
        world.counters.counts["clients"] -= 1
        record, exchange = self.record, self.exchange
        self.record = self.exchange = self.reader = None
        if self.flags & OWED and self.transport is not None:
            world.deliveries.broken(self.transport)
        if self.account is not None:
            self._tell_parked(CLIENT_LEFT)
        if record is not None:
            self._left()
            call_back(world, record.gone)
        if exchange is not None:
            exchange.ended(False)
        tracer = self.home.tracer
        if tracer is not None:
            self._trace(tracer, "closed", f"after {self.requests} requests")

    def pause_writing(self) -> None:
        assert self.transport is not None
        self.flags |= FULL
        self.unmoved = self.transport.get_write_buffer_size()
        self.deadline = self.home.world.clock.now() + (self.service.values["idle_timeout"] or inf)
        if self.exchange is not None and self.exchange.sink is not None:
            self.exchange.sink.client_full()

    def resume_writing(self) -> None:
        if self._goes_unseen:
            self.deadline = self.home.world.clock.now() + LOOK
        elif self.state in (XFER_RES, WAIT_RES, TUNNEL, PARKED_STATE):
            self.deadline = inf
        elif self.state is PERSIST_WAIT:
            self.deadline = self._until_rested()
        self.flags &= ~(FULL | RESTS)
        exchange = self.exchange
        if self.flags & PRESSING:
            self._press_on()
        elif exchange is None:
            self._read_on()
        elif exchange.sink is not None:
            exchange.sink.client_drained()

    # -- requests in ---------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Read on: body octets of the running exchange, or the next request when there is none."""
        if self.flags & ADVANCING or self.transport is None:
            return
        self.flags |= ADVANCING
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
                    if self.flags & FULL or not left:
                        self._hold(reader)
                        break
                    left -= 1
                    if not self._next_request(reader):
                        break
                elif exchange.body_complete or self.flags & BODY_PAUSED or not self._more_body(exchange, reader):
                    break
        except BadRequest as error:
            self._refuse(error)
        finally:
            self.flags &= ~ADVANCING

    def _hold(self, reader: RequestReader) -> None:
        """Leave what is buffered, for a turn of the loop or until the client has taken its answers.

        A client that takes none, or sends very many requests, is not to fill memory or the loop.
        """
        if reader.at_start:
            if self.flags & HALF_CLOSED and not self.flags & FULL:
                self._close()
            return
        self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """Go on in the next turn of the loop, and read nothing until then."""
        assert self.transport is not None
        self.transport.pause_reading()
        if not self.flags & (FULL | WAITS_FOR_TURN):
            self.flags |= WAITS_FOR_TURN
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        """Read and take up requests, or the rest of a body, again."""
        self.flags &= ~WAITS_FOR_TURN
        transport = self.transport
        if transport is None or self.state is CLOSED or transport.is_closing():
            return
        exchange = self.exchange
        if exchange is not None:
            if exchange.body_complete or self.flags & BODY_PAUSED:
                return
        elif self.flags & FULL or self.state not in (PERSIST_WAIT, READING_HEADERS):
            return
        if not transport.is_reading():
            transport.resume_reading()
        if self.reader is not None and self.reader.buffered:
            self.advance()
        elif exchange is None and self.flags & HALF_CLOSED:
            self._close()

    def _next_request(self, reader: RequestReader) -> bool:  # noqa: C901 - the hot path: a call costs more than a branch
        """Start the next exchange; False when its head has not come whole."""
        event = reader.next()
        home = self.home
        if event is None:
            if reader.tired:
                self._wait_for_turn()
            elif self.flags & HALF_CLOSED:  # what is there will never be a request
                self._close()
            elif self.state is PERSIST_WAIT and not reader.at_start:
                self.state = READING_HEADERS
                if home.access is not None:
                    now = home.world.clock.now()
                    self.account = Account(now, now)
                if self.requests:  # else it runs since the connection was made
                    self.deadline = home.world.clock.now() + (home.values["header_timeout"] or inf)
            return False
        assert isinstance(event, RequestHead)
        world = home.world
        world.counters.counts["requests"] += 1
        self.requests += 1
        now = world.clock.now()
        exchange = self.exchange = Exchange(self, home, event, now)
        if self.account is not None:
            exchange.began = self.account.began
            self.account = None
        self.service = home
        if home.tracer is not None:
            exchange.trace(home.tracer, "request", exchange.described())
        if exchange.body_complete:
            self.state = WAIT_RES
            self.deadline = inf
            if self.flags & HALF_CLOSED:
                self._await_answer(exchange, now)
        else:
            self.state = READING_BODY
            self.deadline = now + (home.values["idle_timeout"] or inf)
        home.begin(exchange)
        return True

    def _more_body(self, exchange: Exchange, reader: RequestReader) -> bool:
        """Hand on what has come of the body; False when no more is there."""
        event = reader.next()
        if event is None:
            self._await_body(reader)
            return False
        sink = exchange.sink
        if event is END:
            exchange.body_complete = True
            exchange.trailer = reader.trailer
            exchange.body_at = now = self.home.world.clock.now()
            if self.state is READING_BODY:
                self.state, self.deadline = WAIT_RES, inf
                if self.flags & HALF_CLOSED:
                    self._await_answer(exchange, now)
            if sink is not None:
                sink.body_end()
            return True
        assert isinstance(event, bytes)
        exchange.received += len(event)
        framing = exchange.request.framing
        # Of a body of known length the role asked before whether max_body allows it.
        limit = self._body_limit(exchange) if framing < 0 or sink is None or exchange.body_limit is not None else 0
        if limit and exchange.received > limit:
            self._refuse(BadRequest(f"the body is larger than {limit} octets", 413))
            return False
        if self.state is READING_BODY and exchange.received != framing:
            now = self.home.world.clock.now()
            if not exchange.body_clock:
                exchange.body_clock = now
            self.deadline = self._body_deadline(exchange, now)
        if sink is not None:
            sink.body_data(event)
        return True

    def _await_body(self, reader: RequestReader) -> None:
        """No more of a body is there now."""
        if reader.tired:
            self._wait_for_turn()
        elif self.flags & HALF_CLOSED:  # the client's end was heard while an earlier request had its turn: this body is cut off
            self.abort()

    def _body_limit(self, exchange: Exchange) -> int:
        """Most octets of its body; 0: no limit."""
        limit, most = self._body_limit_here(exchange), exchange.body_most
        return min(limit, most) if limit and most else limit or most

    def _body_limit_here(self, exchange: Exchange) -> int:
        """The same, by the word of the service that has it."""
        limit = exchange.body_limit
        if limit is not None:
            return limit
        values = exchange.service.values
        limit = int(values["max_body"])
        if exchange.request.framing == CHUNKED:
            chunked: int = values["max_chunked_request_size"]
            return min(limit, chunked) if limit and chunked else limit or chunked
        return limit

    def _body_deadline(self, exchange: Exchange, now: float) -> float:
        """When the body of a request is late, if nothing more comes: idle_timeout and min_body_rate."""
        values = exchange.service.values
        deadline = now + (values["idle_timeout"] or inf)
        since, rate = exchange.body_clock, values["min_body_rate"]
        if rate and since:
            return float(min(deadline, since + values["min_body_grace"] + exchange.received / rate))
        return deadline

    def _refuse(self, error: BadRequest) -> None:
        """Answer a malformed or oversized message and close: what follows it cannot be trusted."""
        self.home.world.counters.counts["bad_requests"] += 1
        self.home.world.log_limited("bad request", "%(client)s: %(status)d %(reason)s", {
            "event": "bad_request", "service": self.home.name, "client": self.peer_name, "status": error.status, "reason": error.reason,
        })  # fmt: skip
        if self.exchange is None and (error.reason == PROXY_HEADER or error.said.startswith(b"PROXY ")):
            header_refused(self.home, self.peer_name)
        exchange, self.exchange = self.exchange, None
        begun = self.state is XFER_RES or self.state is TUNNEL
        cause = CLIENT_SLOW if error.status == 408 else BAD_REQUEST
        if not begun:
            self._say_refused(exchange, error, cause)
        if exchange is not None:
            exchange.cause = exchange.cause or cause
            exchange.trouble = Trouble(error.reason, error.place, error.octet)
            exchange.ended(not begun)
        if begun:
            self.abort()
        else:
            self._linger()

    def _say_refused(self, exchange: Exchange | None, error: BadRequest, cause: bytes) -> None:
        """Send the answer of a request that is refused. One without a whole head has its line in the access log here."""
        home = self.home
        number = home.world.numbering.next() if exchange is None and home.numbered else b""
        if exchange is not None and exchange.numbered:
            number = exchange.request_id
        service, accept = (home, None) if exchange is None else (exchange.service, exchange.request.fields.get(b"accept"))
        fields, text = error_page(service.values["error_pages"], error.status, (error.reason + "\n").encode(), number, accept)
        facts = 0 if exchange is None else self._facts(exchange) & ~KEEP
        lines = self._own_lines()
        rules = home.rules.response
        changes = exchange.ruled() if exchange is not None else None if rules is None else rules.always
        if changes is not None:
            fields, lines = changes.fields(fields), changes.cut(lines)
        self._send(encoder.whole(error.status, fields, text, facts, lines, self._epoch()))
        if exchange is not None:
            exchange.status = error.status
            exchange.sent = len(text)
            return
        home.traffic.statuses[error.status // 100] += 1
        home.traffic.sent += len(text)
        if home.tracer is not None:
            self._trace(home.tracer, "refused", f"status {error.status}: {error.reason}")
        said = error.said or (self.reader.beginning() if self.reader is not None else b"")
        if not home.values["access_log_query"]:  # whatever else is wrong with the line
            said = _without_query(said)
        method, _, rest = said.partition(b" ")
        target, _, protocol = rest.partition(b" ")
        path = target.partition(b"?")[0]
        clock = home.world.clock
        now = clock.now()
        home.world.counters.counts["failures"] += 1
        home.world.recent.add(
            clock.epoch(), home.name, self.peer, number, method, target,
            error.status, cause, HEAD, "", 0, 0.0, Trouble(error.reason, error.place, error.octet),
        )  # fmt: skip
        log = home.access
        if log is None:
            return
        account = self.account or Account(now, now)
        account.started = now
        account.status, account.sent, account.cause = error.status, len(text), cause
        tls = "" if self.tls is None else self.tls.version
        origin = log.origin(self.peer, self.peer, method, target, path, protocol, b"", {}, tls, number, b"")
        log.write(account, origin, home.label, cause, HEAD, now, clock.epoch())

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
        elif not self.flags & BODY_PAUSED and self.exchange is not None and not self.exchange.body_complete:
            self.flags |= BODY_PAUSED
            now = self.home.world.clock.now()
            self.deadline = now + LOOK
            if self.exchange.body_clock:
                self.exchange.body_clock = now - self.exchange.body_clock
            self.transport.pause_reading()

    def resume_body(self) -> None:
        """See Stream."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.state is TUNNEL:
            self.transport.resume_reading()
            return
        if not self.flags & BODY_PAUSED:
            return
        self.flags &= ~BODY_PAUSED
        exchange = self.exchange
        if exchange is not None:
            now = self.home.world.clock.now()
            if exchange.body_clock:
                exchange.body_clock = now - exchange.body_clock
            if self.state is READING_BODY:
                self.deadline = self._body_deadline(exchange, now)
        if self.flags & WAITS_FOR_TURN:
            return
        self.transport.resume_reading()
        self.advance()

    # -- time ----------------------------------------------------------------------------------------------------

    @property
    def _goes_unseen(self) -> bool:
        """Whether its client could leave without our being told: its octets are not read, and nothing is written."""
        if self.flags & BODY_PAUSED:
            return True
        transport = self.transport
        if transport is None or self.state not in (WAIT_RES, XFER_RES):
            return False
        return bool(self.flags & HALF_CLOSED) or not transport.is_reading()

    def _look(self, transport: asyncio.Transport, now: float) -> None:
        """Close if the client has reset the connection, or has sent its end longer ago than half_close_timeout."""
        self.deadline = now + LOOK
        if self.flags & HALF_CLOSED and self.state is WAIT_RES and self.exchange is not None:
            end = self.exchange.client_end + (self.home.values["half_close_timeout"] or inf)
            if end <= now:
                self.abort()
                return
            self.deadline = min(self.deadline, end)
        if was_reset(transport):
            self.abort()

    def expired(self, now: float) -> None:
        """The deadline passed."""
        transport = self.transport
        if transport is None:
            return
        counts = self.home.world.counters.counts
        unsent = transport.get_write_buffer_size()
        if unsent:
            if self.unmoved == 0 or unsent < self.unmoved:  # slow, but moving
                self.unmoved = unsent
                self.deadline = now + (self.service.values["idle_timeout"] or inf)
                return
            counts["slow_readers_closed"] += 1
            self._blame(CLIENT_SLOW)
            self.abort()
        elif self._goes_unseen:
            self._look(transport, now)
        elif self.state is READING_BODY or self.state is READING_HEADERS:
            self._refuse(self._late(now))
        elif self.state is PERSIST_WAIT:
            if self.requests and not self.flags & RESTS and self._rest(now):
                return
            counts["idle_closed"] += 1
            self._close()
        elif self.state is TUNNEL:
            self._blame(CLIENT_SLOW)
            self.abort()
        else:
            self.deadline = inf
            if transport.is_closing():
                self.abort()

    def _rest(self, now: float) -> bool:
        """A client has asked nothing more for RESTED seconds: what was remembered of it goes. False: it may not wait any longer."""
        self.flags |= RESTS
        if self.reader is not None and not self.reader.buffered:
            self.reader = None
        self.deadline += (self.home.values["persist_client_idle_timeout"] or inf) - RESTED
        return self.deadline > now

    def _late(self, now: float) -> BadRequest:
        """Why a request that has not come whole gets no more time."""
        counts = self.home.world.counters.counts
        counts["request_timeouts"] += 1
        exchange = self.exchange
        if exchange is not None and exchange.body_clock and self._body_deadline(exchange, now) <= now:
            counts["slow_bodies"] += 1
            return BadRequest("the request's body came too slowly", 408)
        return BadRequest("the request did not arrive in time", 408)

    def shutdown(self, graceful: bool) -> None:
        """The server ends: idle connections close now, others after their answer. A tunnel is its ends' own while there is time."""
        if not graceful:
            self._blame(SHUTDOWN)
            self.abort()
        elif self.state is PERSIST_WAIT:
            self._close()
        else:
            self.flags &= ~KEEP
