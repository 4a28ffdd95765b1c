"""What a client connection is to everything it does: its socket, its state and flags, and how it ends.

Four files build on this one, each on the one before: net/pressing.py compresses, net/answering.py writes answers, net/parking.py keeps what
is parked, net/connection.py reads requests. The states stand here, by Perlbal's names:

    persist_wait      between requests; a pipelined one is taken up at once    -> rests after RESTED, closed after the idle timeout
    reading_headers   part of a head is there           -> 408 when header_timeout passes
    reading_body      an exchange's body is coming      -> 408 when nothing came for idle_timeout, or it came too slowly (min_body_rate)
    wait_res          a role or plugin has the exchange -> its own deadlines; half_close_timeout once the client sent its end
    parked            a long poll: no exchange, no head, perhaps no reader; only `record` knows why -> its lot's deadline
                      STREAMS: a response to it has begun; UPGRADED: it speaks another protocol
                      -> closed when the client takes nothing of it for idle_timeout
    xfer_res          a response is on its way          -> closed when the client takes nothing for idle_timeout
    tunnel            upgraded: octets both ways
    closed            here; the socket may live on as a net.linger.Lingering, which knows no more of it

Memory: fifteen thousand of these wait in a chat's lot. Everything is slots, the reader is dropped while parked, the
peer's address is interned. The next author should measure (`make bench`) before adding an attribute.
"""

import asyncio
import contextlib
import socket
import struct
from abc import abstractmethod
from math import inf
from typing import Final

from pbal.http1.changes import Changes
from pbal.http1.coding import ACCEPTED
from pbal.http1.encoder import HEAD_ONLY, KEEP, OLD
from pbal.http1.reader import RequestReader
from pbal.model.deliveries import OnLost
from pbal.model.exchange import Exchange, Stream
from pbal.model.faults import call_back
from pbal.model.parking import Parked
from pbal.model.secured import Secured
from pbal.model.service import Service
from pbal.net.backend import REPROXY, Attendant
from pbal.net.linger import Lingering, address, class_of, local_port, peer_name
from pbal.observe.access import ANSWER, CLIENT_LEFT, DONE, PARKED, Account
from pbal.observe.recent import BADLY
from pbal.observe.sockets import Kind, SocketInfo
from pbal.observe.tracer import Tracer

PERSIST_WAIT: Final = "persist_wait"
READING_HEADERS: Final = "reading_headers"
READING_BODY: Final = "reading_body"
WAIT_BACKEND: Final = "wait_backend"
"""What WAIT_RES is called on the console while no backend is assigned."""
BUFFERING_REQUEST: Final = "buffering_request"
BUFFERING_UPLOAD: Final = "buffering_upload"
"""What READING_BODY is called there while the body is held in memory, or spooled."""
WAIT_RES: Final = "wait_res"
PARKED_STATE: Final = "parked"
XFER_RES: Final = "xfer_res"
TUNNEL: Final = "tunnel"
CLOSED: Final = "closed"

LOOK: Final = 1.0
"""Seconds between two looks whether a client that is not read has reset the connection: the loop tells that of readers only."""
RESTED: Final = 1.0
"""Seconds between two requests after which the reader is dropped, and what it remembers of the last head with it: two thirds of what an
idle connection costs. Who asks once more gets another."""

# Flags. The first three are the encoder's facts of a request, ACCEPTED is what its answer may be compressed with: that is what a parked
# connection remembers of it.
FACTS: Final = OLD | HEAD_ONLY | KEEP | ACCEPTED
HALF_CLOSED, BODY_PAUSED, FULL, OWED, CHUNKS, ENDS_WITH_CLOSE, ADVANCING, WAITS_FOR_TURN = 8, 16, 32, 64, 128, 256, 512, 1024
"""OWED: an answer that may not be lost was sent. Whether it still may be, World.deliveries knows."""
BODY_COMES: Final = 2048
"""Of a parked request, whose body had not come whole. What comes of it is not read; its answer is the connection's last."""
STREAMS: Final = 4096
"""Of a parked request: its response has begun, and goes on until finish()."""
UPGRADED: Final = 8192
"""Of a parked client: what it sends goes to record.received()."""
PRESSING: Final = 1 << 17
"""Octets of the answer wait to be compressed, in another turn of the loop or when the client has taken some."""
RESTS: Final = 1 << 18
"""Between two requests: RESTED has passed, and what was remembered of the last one is gone."""
OF_ONE_ANSWER: Final = FACTS | BODY_PAUSED | CHUNKS | ENDS_WITH_CLOSE | STREAMS | RESTS


class Wire(Stream):
    """A connection of an HTTP service."""

    __slots__ = (
        "account", "born", "changes", "deadline", "exchange", "flags", "head", "home", "peer", "reader", "record", "requests", "service",
        "state", "tls", "transport", "unmoved",
    )  # fmt: skip

    def __init__(self, home: Service) -> None:
        self.home = home
        self.service = home
        self.transport: asyncio.Transport | None = None
        self.reader: RequestReader | None = None
        self.exchange: Exchange | None = None
        self.changes: Changes | None = None
        """Of what is parked: what RESPONSE rules make of its answer."""
        self.record: Parked | None = None
        self.account: Account | None = None
        """For the access log: of a parked client, or since when a head comes in pieces. None where no log is."""
        self.head = b""
        """A response head that goes out with what is written next."""
        self.state: str = PERSIST_WAIT
        self.deadline = inf
        self.flags = 0
        self.requests = 0
        self.unmoved = 0
        """Octets that the client had not taken at the last look at it."""
        self.peer = b""
        self.tls: Secured | None = None
        self.born: int = home.world.second

    @abstractmethod
    def _read_on(self) -> None:
        """Read and take up requests, or the rest of a body, again."""

    # -- what is sent --------------------------------------------------------------------------------------------

    def _epoch(self) -> float:
        return self.home.world.clock.epoch()

    def _until_rested(self) -> float:
        """When a connection whose next request may come now rests, or is closed."""
        limit: float = self.home.values["persist_client_idle_timeout"]
        return self.home.world.clock.now() + (RESTED if not limit or limit > RESTED else limit)

    def _own_lines(self) -> bytes:
        """What pbal says of itself in an answer of its own."""
        lines = b"Server: pbal\r\n" if self.service.values["server_tokens"] else b""
        return lines if self.tls is None else lines + self._strict()

    def _strict(self) -> bytes:
        """Strict-Transport-Security (RFC 6797 section 7.1), where hsts asks for it."""
        seconds = self.service.values["hsts"] or self.home.values["hsts"]
        return b"Strict-Transport-Security: max-age=%d\r\n" % seconds if seconds else b""

    def _send(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _deliver(self, data: bytes, on_lost: OnLost | None, patience: float) -> None:
        """Write an answer, and follow it if it may not be lost."""
        transport = self.transport
        assert transport is not None
        transport.write(data)
        if on_lost is not None:
            self.flags |= OWED
            self.home.world.deliveries.add(transport, len(data), on_lost, patience)
        elif self.flags & OWED:
            self.home.world.deliveries.wrote(transport, len(data))

    def _settled(self) -> bool:
        """Look whether what may not be lost is acknowledged, before the connection ends."""
        if self.flags & OWED and self.transport is not None:
            if not self.home.world.deliveries.settle(self.transport):
                return False
            self.flags &= ~OWED
        return True

    def _gone(self) -> bool:
        return self.transport is None or self.state is CLOSED or self.transport.is_closing()

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
            and (not self.flags & HALF_CLOSED or (self.reader is not None and self.reader.buffered > 0))
        ):
            facts |= KEEP
        coding = exchange.service.coding
        if coding is not None and request.minor:
            facts |= coding.accepted(request.fields.get(b"accept-encoding"))
        return facts

    # -- the access log ------------------------------------------------------------------------------------------

    def _blame(self, cause: bytes) -> None:
        """Say for the log why the connection will end, unless that is said already. What is parked is remembered as a failure here."""
        for account in (self.exchange, self.account):
            if account is not None and not account.cause:
                account.cause = cause
        if self.record is not None and cause in BADLY:
            world = self.home.world
            said = None if self.account is None else self.account.origin  # where a log is: client, peer, method, target
            client, _, method, target = (self.peer, b"", b"", b"") if said is None else said[:4]
            world.counters.counts["failures"] += 1
            world.recent.add(world.clock.epoch(), self.service.name, client, b"", method, target, 0, cause, PARKED, "", 0, 0.0, None)

    def _tell_parked(self, end: bytes) -> None:
        """What was parked has ended: write its line."""
        account, self.account = self.account, None
        if account is None or account.origin is None:
            return
        log = self.service.access or self.home.access
        if log is None or not log.wants(account, end == DONE):
            return
        clock = self.home.world.clock
        phase = ANSWER if end == DONE or account.asked_at else PARKED
        log.write(account, account.origin, self.service.label, account.cause or end, phase, clock.now(), clock.epoch())

    # -- for who follows it --------------------------------------------------------------------------------------

    def _trace(self, tracer: Tracer, what: str, detail: str = "") -> None:
        """Tell of something that happened to the connection."""
        tracer.tell(self.home.name, self.service.name, self.peer_name, self.peer.decode("ascii", "replace"), what, detail)

    # -- the numbers of the service ------------------------------------------------------------------------------

    def _counted(self, status: int, sent: int) -> None:
        """An answer began to a request that was parked, or its client has gone (0)."""
        traffic = self.service.traffic
        traffic.parked -= 1
        traffic.statuses[status // 100] += 1
        traffic.sent += sent
        tracer = self.service.tracer
        if tracer is not None:
            self._trace(
                tracer, "answered" if status else "left", f"status {status}, {sent} bytes" if status else "its parked request is over"
            )

    def _left(self) -> None:
        """The client of what was parked has gone, or is sent away."""
        if not self.flags & (STREAMS | UPGRADED):
            self._counted(0, 0)

    # -- endings -------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Close after what was written has gone out."""
        if self.transport is not None:
            if not self._settled():
                self._hand_over(self.transport)
                return
            self.deadline = self.home.world.clock.now() + (self.service.values["idle_timeout"] or inf)
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self._settled()  # the descriptor is closed when connection_lost comes
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
        if self.state is not CLOSED and transport is not None:
            self._hand_over(transport)

    def _hand_over(self, transport: asyncio.Transport) -> None:
        self.state = CLOSED
        record = self.record
        self.transport = self.reader = self.record = None
        world = self.home.world
        world.clients.discard(self)
        world.joined(Lingering(self.service, transport, self.born, self.requests))
        self._tell_parked(CLIENT_LEFT)
        if record is not None:
            self._left()
            call_back(world, record.gone)

    # -- being looked at -----------------------------------------------------------------------------------------

    def ends(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """See Stream."""
        return address(self.transport, "peername"), address(self.transport, "sockname")

    @property
    def full(self) -> bool:
        """See Stream."""
        return bool(self.flags & (FULL | PRESSING))

    @property
    def half_closed(self) -> bool:
        """Whether it has sent its last octet."""
        return bool(self.flags & HALF_CLOSED)

    @property
    def peer_name(self) -> str:
        """See Stream."""
        return peer_name(self.transport)

    @property
    def unsent_octets(self) -> int:
        """Octets that the socket has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def kind(self) -> Kind:
        """See observe.sockets. States are Perlbal's: a connection that has asked nothing yet is reading headers."""
        service, state = self.service, self.state
        if state is PERSIST_WAIT and not self.requests:
            state = READING_HEADERS
        elif self.exchange is not None:
            sink, held = self.exchange.sink, self.exchange.collected_body()
            if isinstance(sink, Attendant):
                if state is WAIT_RES and sink.backend_now() is None:
                    state = WAIT_BACKEND
            elif sink is not None and held is not None:
                state = BUFFERING_UPLOAD if held.spooled else BUFFERING_REQUEST
        return class_of(service), state, service.name

    @property
    def fd(self) -> int:
        """See Stream."""
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        return -1 if sock is None else int(sock.fileno())

    @property
    def port(self) -> int:
        """See Stream."""
        return local_port(self.transport)

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        assert self.transport is not None
        unsent = self.unsent_octets
        before: dict[str, object] = {"localport": local_port(self.transport)}
        after: dict[str, object] = {}
        backend = None
        exchange = self.exchange
        if exchange is not None:
            request, sink = exchange.request, exchange.sink
            if exchange.client_address != self.peer:
                before["observed_ip"] = exchange.client_address.decode("latin-1")
            after["url"] = f"http://{(request.host or b'unknown').decode('latin-1')}{exchange.shown.decode('latin-1')}"
            backend = sink.backend_now() if isinstance(sink, Attendant) else None
            if backend is not None:
                after["backend"] = backend.node.name
                if backend.owner.name == REPROXY:
                    after["reproxying"] = True
        before["reqs"] = self.requests
        class_name, state, service = self.kind()
        if backend is None and unsent and class_name == "ClientProxy":
            after["write_buf_size"] = unsent
        if exchange is not None and not exchange.body_complete and request.framing > exchange.received:
            after["waiting_for"] = request.framing - exchange.received
        return SocketInfo(
            fd=self.fd,
            age=self.home.world.second - self.born,
            class_name=class_name,
            state=state,
            service=service,
            flags=("R" if self.transport.is_reading() else "") + ("W" if unsent else ""),
            peer=self.peer_name,
            before=before,
            after=after,
        )
