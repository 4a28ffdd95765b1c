"""TLS between a plain transport and whoever speaks through it: a transport to the one, a protocol to the other.

    greeting     nothing came yet; what speaks HTTP here in clear text is told so
    shaking      the handshake, a few steps of a few connections in a turn of the loop (model/pace.py)
    open         octets both ways; `inner`, a ClientConnection, a console or a BackendConnection, knows no more of it
    ended        close_notify came or was sent, or the connection broke

uvloop's own TLS closes the descriptor before connection_lost and tells of no half-close, so this is Python's SSLObject on two
memory buffers. Whoever speaks through it calls the few methods of a transport that pbal uses anywhere, and gets those of a
protocol. `write` encrypts and hands all to the plain transport in one call: what that has not sent yet, and what its socket
says is not acknowledged, is what the peer's kernel does not have. So an answer that may not be lost is followed as in clear
(model/deliveries.py), but it is only known that the records came, and not that they were decrypted.

The peer's end is an end only with close_notify. Without it, somebody may have cut the connection (RFC 8446 section 6.1): it is
broken off, and an answer that was not acknowledged whole is lost.

A parked poll keeps one of these: slots, no task and no timer. Its handshake has a deadline, which the server's tick looks at.
"""

import asyncio
import contextlib
import re
import ssl
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol, cast

from pbal.http1 import encoder
from pbal.model.certificates import Certificates
from pbal.model.secured import Secured
from pbal.model.service import Service
from pbal.net.announced import header_refused
from pbal.net.linger import Lingering, class_of, described, peer_name
from pbal.net.proxy_protocol import begins
from pbal.observe.sockets import Kind, SocketInfo

GREETING: Final = "greeting"
SHAKING: Final = "ssl_handshake"
OPEN: Final = "open"
ENDED: Final = "ended"

READ_SIZE: Final = 1 << 16
PIECE: Final = 1 << 16
"""Octets encrypted at a time: what is larger costs the allocator fresh pages each time."""
PORTION: Final = 1 << 13
"""Octets decrypted before a look at the clock. Three hundred changes of keys fit in, 5 ms of work."""
MOMENT: Final = 0.001
"""Seconds of decrypting what one client sent, in one turn of the loop. A quarter of a megabyte of an upload takes less."""
MOST_OF_A_HANDSHAKE: Final = 1 << 16
"""Octets that a peer may send before its handshake is done with those it sent."""

_said: Final = ssl.MemoryBIO()
"""What TLS wrote last, of all connections: whoever has made TLS do something takes it out before anything else is done. A buffer each
would keep the size of a certificate, 1.5 KB of a parked poll.
"""

_CLEAR: Final = re.compile(rb"[A-Z]{3,12} |PRI \*")
_TOLD: Final = b"This port speaks HTTPS: ask with https:// here.\n"


class Inner(Protocol):
    """Who speaks through TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Link(metaclass=ABCMeta):
    """Common to both sides: an SSLObject between a plain transport and an inner protocol."""

    __slots__ = ("_full", "_in", "_inner", "_paused", "_queued", "_ssl", "_stalled", "_truncated", "phase", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.phase: str = GREETING
        self._inner: Inner | None = None
        self._in = ssl.MemoryBIO()
        self._ssl: ssl.SSLObject | None = None
        self._paused = False
        self._full = False
        self._stalled = False
        self._queued = False
        self._truncated = False

    # -- as the protocol of the plain transport ------------------------------------------------------------------

    def _open_received(self) -> None:
        """Decrypt what came, and hand it on in one piece."""
        pieces: list[bytes] = []
        self._hand_on(pieces, self._decrypt(pieces))

    def _decrypt(self, pieces: list[bytes]) -> bool:
        """Put what can be read into `pieces`; False when no more will come: close_notify, or a peer that broke the rules."""
        tls = self._ssl
        assert tls is not None
        ended = False
        try:
            while True:
                piece = tls.read(READ_SIZE)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # all is read that is there
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            self._flush()
            self._broken(error)
            pieces.clear()
            self.phase = ENDED
            return False
        if _said.pending:  # an answer to a change of keys, or a refusal to do the handshake again
            self._flush()
            if self._full and self.transport is not None:  # a peer that asks on and takes no answer is not to fill memory
                self._stalled = True
                self.transport.pause_reading()
        return not ended

    def _hand_on(self, pieces: list[bytes], more: bool) -> None:
        """Give the inner protocol what was decrypted."""
        if pieces and self._inner is not None:
            self._inner.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if not more:
            self._notified()

    def _notified(self) -> None:
        """close_notify: the peer has sent its last octet."""
        if self.phase is OPEN and self._inner is not None:
            self.phase = ENDED
            if not self._inner.eof_received():
                self.close()

    def eof_received(self) -> bool:
        if self.phase is ENDED:
            return not self.is_closing()
        self._truncated = True
        self._cut()
        return False

    def _cut(self) -> None:
        """The peer's end came without close_notify."""
        if self.transport is not None:
            self.transport.abort()

    def _broken(self, error: ssl.SSLError) -> None:
        """The peer sent what is no TLS. The alert that says so is on its way, unless the peer takes nothing."""
        self._truncated = True
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.phase = ENDED
        inner, self._inner = self._inner, None
        self._ssl = None
        if inner is not None:
            if exc is None and self._truncated:
                exc = ConnectionResetError("ended without close_notify")
            inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._full = True
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        if self._stalled:
            self._stalled = False
            if not self._paused and not self.is_closing():
                self.resume_reading()
        if self._inner is not None:
            self._inner.resume_writing()

    def _flush(self) -> None:
        """Send what TLS has to say; what cannot be sent any more is dropped, so that it gets to nobody else."""
        octets = _said.read()
        if octets and self.transport is not None and not self.transport.is_closing():
            self.transport.write(octets)

    # -- as the transport of the inner protocol ------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt and send. Nothing of `data` is held."""
        if self._ssl is None or self.transport is None or self.transport.is_closing():
            return
        tls, transport = self._ssl, self.transport
        try:
            if len(data) <= PIECE:
                tls.write(data)
            else:
                view = memoryview(data)
                for start in range(0, len(data) - PIECE, PIECE):
                    tls.write(view[start : start + PIECE])
                    transport.write(_said.read())
                tls.write(view[(len(data) - 1) // PIECE * PIECE :])
        except ssl.SSLError:  # it broke, and this side closed it; connection_lost says so
            _said.read()
            self._truncated = True
            transport.abort()
            return
        transport.write(_said.read())

    def write_eof(self) -> None:
        """Say that no more follows: close_notify, and the end of our side."""
        self._notify()
        if self.transport is not None and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    def can_write_eof(self) -> bool:
        """See asyncio.WriteTransport."""
        return True

    def _notify(self) -> None:
        """Send close_notify."""
        if self._ssl is None or self._ssl.session is None:
            return
        with contextlib.suppress(ssl.SSLError):  # it waits for the peer's, which we do not, or the connection is broken already
            self._ssl.unwrap()
        self._flush()

    def close(self) -> None:
        """Close after what was written has gone out."""
        if self.transport is not None and not self.transport.is_closing():
            self._notify()
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self.transport is None or self.transport.is_closing()

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._paused = True
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._paused = False
        if self.transport is not None and not self._stalled:
            self.transport.resume_reading()

    def is_reading(self) -> bool:
        """See asyncio.ReadTransport."""
        return not self._paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.WriteTransport; of encrypted octets."""
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Encrypted octets that the socket has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def set_protocol(self, protocol: Inner) -> None:
        """Another takes over."""
        self._inner = protocol

    def get_extra_info(self, name: str) -> Any:
        """As the plain transport's. "secured" is the model.secured.Secured of a client's connection, "session" what a next one can be
        resumed with, "tls" the context it was made with.
        """
        if name == "secured":
            return self.secured()
        if name == "session":
            return None if self._ssl is None else self._ssl.session
        if name == "tls":
            return None if self._ssl is None else self._ssl.context
        return None if self.transport is None else self.transport.get_extra_info(name)

    @abstractmethod
    def secured(self) -> Secured | None:
        """What is known of the connection."""

    def _inside(self) -> asyncio.Transport:
        """This, for who takes a transport."""
        return cast(asyncio.Transport, self)


class ServerLink(Link):
    """A client's connection to a listener with enable_ssl. It is in World.clients until `inner` is."""

    __slots__ = ("_certificates", "_make", "_rest", "_service", "born", "deadline")

    def __init__(self, service: Service, make: Callable[[], Inner]) -> None:
        super().__init__()
        self._service = service
        self._make = make
        self._certificates: Certificates | None = None
        self._rest = b""
        self.deadline = inf
        self.born: int = service.world.second

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        world = self._service.world
        world.joined(self)
        if len(world.clients) + len(world.backends) > world.room and world.runtime is not None:
            world.runtime.out_of_room()
        self._set_deadline()

    def _set_deadline(self) -> None:
        self.deadline = self._service.world.clock.now() + (self._service.values["ssl_handshake_timeout"] or inf)

    def data_received(self, data: bytes) -> None:
        if self.phase is OPEN:
            if self._rest or len(data) > PORTION:
                self._rest += data
                if not self._queued:
                    self._go_on()
            else:
                self._in.write(data)
                self._open_received()
            return
        if self.phase is ENDED:
            return
        if self.phase is GREETING and not self._greeted(data):
            return
        self._in.write(data)
        if self._in.pending > MOST_OF_A_HANDSHAKE and self.transport is not None:
            self.transport.pause_reading()
        if not self._queued:
            self._queued = True
            world = self._service.world
            if self._ssl is None:
                self.deadline = inf  # waiting for its turn is no fault of the client's
                self._service.handshakes.begin(self._turn, self._service.values["ssl_handshake_rate"])
            else:
                world.pace.shake(self._step)

    def _go_on(self) -> None:
        """Decrypt what came for a moment; the rest has its turn like handshakes. A client may send what costs much and says little."""
        self._queued = False
        transport, rest = self.transport, self._rest
        if self.phase is not OPEN or transport is None or transport.is_closing() or self._paused or self._stalled:
            return
        now = self._service.world.clock.now
        end = now() + MOMENT
        place, more = 0, True
        pieces: list[bytes] = []
        while more and place < len(rest) and not self._stalled:
            self._in.write(rest[place : place + PORTION])
            place += PORTION
            more = self._decrypt(pieces)
            if now() > end:
                break
        self._rest = rest[place:] if more else b""
        if self._rest:
            transport.pause_reading()
            self._wait_for_turn()
        elif more and not self._stalled and not transport.is_reading():
            transport.resume_reading()
        self._hand_on(pieces, more)

    def resume_reading(self) -> None:
        """See Link."""
        self._paused = False
        if not self._rest:
            super().resume_reading()
        else:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        if not self._queued and not self._stalled:
            self._queued = True
            self._service.world.pace.decrypt(self._go_on)

    def _greeted(self, data: bytes) -> bool:
        """The first octets: False where they are HTTP in clear text, which is told so."""
        self.phase = SHAKING
        if begins(data):
            header_refused(self._service, self.peer_name)
        if _CLEAR.match(data) is None:
            return True
        self._service.world.counters.counts["tls_clear_text"] += 1
        self.phase = ENDED
        transport = self.transport
        if transport is not None:
            world = self._service.world
            fields = [(b"Content-Type", b"text/plain")]
            transport.write(encoder.whole(400, fields, _TOLD, 0, b"", world.clock.epoch()))
            world.clients.discard(self)
            world.counters.counts["clients"] += 1  # until the Lingering ends, which counts itself out
            world.joined(Lingering(self._service, transport, self.born, 1))
        return False

    def _turn(self) -> bool:
        """Begin the handshake; False where its client has left."""
        if self.phase is not SHAKING or self.is_closing():
            return False
        self._set_deadline()
        self._service.world.pace.shake(self._step)
        return True

    def _step(self) -> None:
        """Go on with the handshake as far as the octets reach."""
        self._queued = False
        transport, service = self.transport, self._service
        if self.phase is not SHAKING or transport is None or transport.is_closing():
            return
        counts = service.world.counters.counts
        tls = self._ssl
        try:
            if tls is None:
                certificates = self._certificates = service.certificates
                if certificates is None:  # accepted before the service was disabled, and it has no TLS any more
                    self.abort()
                    return
                tls = self._ssl = certificates.context.wrap_bio(self._in, _said, server_side=True)
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            if not transport.is_reading():
                transport.resume_reading()
            return
        except ssl.SSLError as error:
            counts["tls_handshake_failures"] += 1
            service.world.log_limited(
                f"handshake {service.name} {error.reason}", "service %(service)s: TLS handshake failed: %(reason)s (%(client)s)", {
                    "event": "handshake_failed", "service": service.name, "client": peer_name(transport),
                    "reason": (error.reason or str(error)).replace("_", " ").lower(),
                },
            )  # fmt: skip
            self._flush()
            self.phase = ENDED
            transport.close()
            return
        self._flush()  # at once: a ticket kept for the answer would cost a client that waits for acknowledgements 40 ms
        counts["tls_handshakes"] += 1
        if tls.session_reused:
            counts["tls_handshakes_resumed"] += 1
        self._established()

    def _established(self) -> None:
        transport = self.transport
        assert transport is not None
        self.phase = OPEN
        self.deadline = inf
        self._service.world.clients.discard(self)
        inner = self._inner = self._make()
        inner.connection_made(self._inside())
        if not transport.is_reading() and not self._paused:
            transport.resume_reading()
        self._rest = self._in.read()  # what came behind the handshake
        self._go_on()

    def _cut(self) -> None:
        if self.phase is OPEN:
            self._service.world.counters.counts["tls_truncations"] += 1
            self._service.world.deliveries.settle(self._inside())
        super()._cut()

    def connection_lost(self, exc: Exception | None) -> None:
        world = self._service.world
        if self in world.clients:
            world.clients.discard(self)
            if self.phase is SHAKING:
                world.counters.counts["tls_handshake_failures"] += 1
        super().connection_lost(exc)

    def secured(self) -> Secured | None:
        """See Link."""
        tls = self._ssl
        certificates = self._certificates
        return None if tls is None or certificates is None else Secured(tls, certificates)

    # What the server does with whatever is in World.clients.

    @property
    def home(self) -> Service:
        """The listener's service."""
        return self._service

    @property
    def requests(self) -> int:
        """None yet."""
        return 0

    @property
    def state(self) -> str:
        """While it is in World.clients."""
        return SHAKING

    def expired(self, now: float) -> None:
        """The handshake takes too long."""
        self.deadline = inf
        self._service.world.counters.counts["tls_handshake_timeouts"] += 1
        self.phase = ENDED
        self.abort()

    def shutdown(self, graceful: bool) -> None:
        """The server ends: nothing was asked for yet."""
        self.abort()

    @property
    def peer_name(self) -> str:
        """The peer's address and port, for people."""
        return peer_name(self.transport)

    def kind(self) -> Kind:
        """See observe.sockets."""
        return class_of(self._service), SHAKING, self._service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        return described(self._service, self.transport, SHAKING, self.born, {})


class ClientLink(Link):
    """Our connection to a node with ssl_backend: the handshake is the connecting, `ready` tells of its end."""

    __slots__ = ("_context", "_first", "_host", "_made", "_session", "ready")

    def __init__(self, inner: Inner, context: ssl.SSLContext, host: str, session: ssl.SSLSession | None, first: bytes = b"") -> None:
        """`first` goes out in clear, before the handshake."""
        super().__init__()
        self._first = first
        self._inner = inner
        self._context = context
        self._host = host
        self._session = session
        self._made = False
        """Whether who is inside was told of a connection."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when octets may go; raises OSError (ssl.SSLError is one) where the handshake failed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._first:
            self.transport.write(self._first)
        self.phase = SHAKING
        self._ssl = self._context.wrap_bio(self._in, _said, server_side=False, server_hostname=self._host, session=self._session)
        self._step()

    def data_received(self, data: bytes) -> None:
        if self.phase is ENDED:  # what comes after close_notify is nothing
            return
        self._in.write(data)
        if self.phase is OPEN:
            self._open_received()
        else:
            self._step()

    def _step(self) -> None:
        assert self._ssl is not None
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()
            self.phase = ENDED
            self._fail(error)
            self.abort()
            return
        self._flush()
        self.phase = OPEN
        if not self.ready.done():
            self.ready.set_result(None)
        assert self._inner is not None
        self._made = True
        self._inner.connection_made(self._inside())
        if self.phase is OPEN:
            self._open_received()

    def _fail(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # who waits for it may be gone, which is no fault to be logged

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("closed during the TLS handshake"))
        if not self._made:
            self._inner = None  # who was never connected loses nothing
        super().connection_lost(exc)

    def secured(self) -> Secured | None:
        """See Link."""
        return None
