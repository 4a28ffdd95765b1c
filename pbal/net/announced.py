"""A connection that a proxy in front announces with a PROXY header, and the transport that knows whom it is for.

    heading     nothing is known yet; octets are kept until the header is there, within header_timeout
    announced   the header was taken off; the socket's octets go to `make`'s protocol (HTTP, or TLS with HTTP in it), and this is its
                transport: the peer's name is the one in the header, everything else is the socket's

Only peers that accept_proxy_protocol names come this way, and each of their connections must begin with a header: what does not is closed,
without a word, for nobody knows which protocol it speaks. Any other connection is handed on as it is; a header in it is no
request, and is refused as one (net/connection.py), so nobody names himself.

A header that names nobody (a check of the proxy's own) leaves no trace: its connection goes on with the plain transport.
While it is heading, it is in World.clients, like a handshake of TLS.
"""

import asyncio
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final, Protocol, cast

from pbal.model.service import Service
from pbal.net.linger import class_of, described, peer_name
from pbal.net.proxy_protocol import BadHeader, Header, decode
from pbal.observe.sockets import Kind, SocketInfo

HEADING: Final = "proxy_header"
ANNOUNCED: Final = "announced"
CLOSED: Final = "closed"


class Inner(Protocol):
    """Who gets the connection when its header is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...


def accepted(service: Service, make: Callable[[], asyncio.BaseProtocol]) -> asyncio.BaseProtocol:
    """The protocol of a connection that a listener of `service` accepts. `make`: what it is without a header."""
    if service.values["accept_proxy_protocol"].anybody:
        return cast(asyncio.BaseProtocol, Announced(service, make))
    return make()


def header_refused(service: Service, client: str) -> None:
    """Count and log a PROXY header where none may be: nobody is to name himself."""
    service.world.counters.counts["proxy_headers_refused"] += 1
    service.world.log_limited(
        f"proxy header refused {service.name}",
        "service %(service)s: %(client)s sent a PROXY header, and accept_proxy_protocol takes none from it here",
        {"event": "proxy_header_refused", "service": service.name, "client": client},
    )


class Announced:
    """See above."""

    __slots__ = ("_heard", "_make", "_service", "born", "deadline", "header", "state", "transport")

    def __init__(self, service: Service, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._service = service
        self._make = make
        self._heard = b""
        self.state = HEADING
        self.header: Header | None = None
        self.transport: asyncio.Transport | None = None
        self.deadline = inf
        self.born: int = service.world.second

    # -- as the protocol, while the header comes -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        peers = self._service.values["accept_proxy_protocol"]
        if not (peers.includes(name[0]) if isinstance(name, tuple) else peers.unix):
            self._hand_on(self.transport, self.transport, b"")
            return
        world = self._service.world
        world.joined(self)
        if len(world.clients) + len(world.backends) > world.room and world.runtime is not None:
            world.runtime.out_of_room()
        self.deadline = world.clock.now() + (self._service.values["header_timeout"] or inf)

    def data_received(self, data: bytes) -> None:
        transport = self.transport
        if self.state is not HEADING or transport is None:
            return
        self._heard += data
        try:
            header = decode(self._heard)
        except BadHeader as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        world = self._service.world
        world.counters.counts["proxy_headers"] += 1
        world.clients.discard(self)
        rest, self._heard = self._heard[header.length :], b""
        if header.source is None and not header.unix:
            self._hand_on(transport, transport, rest)
            return
        self.header = header
        self._hand_on(transport, cast(asyncio.Transport, self), rest)

    def _hand_on(self, transport: asyncio.Transport, seen: asyncio.Transport, rest: bytes) -> None:
        """The socket belongs to the protocol within, which sees it as `seen`."""
        self.state = ANNOUNCED
        self.deadline = inf
        made = self._make()
        inner = cast(Inner, made)
        transport.set_protocol(made)
        inner.connection_made(seen)
        if rest:
            inner.data_received(rest)

    def eof_received(self) -> bool:
        """The peer ends before its header is whole. One that said nothing only looked whether somebody listens."""
        if self._heard:
            self._refuse("the connection ended within its PROXY header")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self._service.world.clients.discard(self)

    def pause_writing(self) -> None:
        """Nothing is written while the header comes."""

    def resume_writing(self) -> None:
        """Nothing is written while the header comes."""

    def _refuse(self, why: str) -> None:
        """Close: it must have a header, and has none."""
        world = self._service.world
        world.counters.counts["proxy_headers_missing"] += 1
        world.log_limited(
            f"proxy header {self._service.name}",
            "service %(service)s: closed a connection of %(peer)s, which accept_proxy_protocol names: %(reason)s",
            {"event": "proxy_header_missing", "service": self._service.name, "peer": self.peer_name, "reason": why},
        )
        self.state = CLOSED
        if self.transport is not None:
            self.transport.abort()

    # -- as the transport of who speaks through it -----------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the socket's; but the addresses are those in the header. A peer that came by a Unix socket has none."""
        header = self.header
        if header is not None:
            if name == "peername":
                return header.source or ""
            if name == "sockname" and header.destination is not None:
                return header.destination
        return default if self.transport is None else self.transport.get_extra_info(name, default)

    @property
    def _plain(self) -> asyncio.Transport:
        assert self.transport is not None
        return self.transport

    def write(self, data: bytes) -> None:
        """See asyncio.WriteTransport."""
        self._plain.write(data)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        """See asyncio.WriteTransport."""
        self._plain.writelines(pieces)

    def write_eof(self) -> None:
        """See asyncio.WriteTransport."""
        self._plain.write_eof()

    def can_write_eof(self) -> bool:
        """See asyncio.WriteTransport."""
        return self._plain.can_write_eof()

    def close(self) -> None:
        """See asyncio.BaseTransport."""
        self._plain.close()

    def abort(self) -> None:
        """See asyncio.WriteTransport."""
        self._plain.abort()

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._plain.is_closing()

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._plain.resume_reading()

    def is_reading(self) -> bool:
        """See asyncio.ReadTransport."""
        return self._plain.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.WriteTransport."""
        self._plain.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """See asyncio.WriteTransport."""
        return self._plain.get_write_buffer_size()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio.BaseTransport."""
        self._plain.set_protocol(protocol)

    # -- what the server does with whatever is in World.clients ------------------------------------------------------

    @property
    def home(self) -> Service:
        """The listener's service."""
        return self._service

    @property
    def requests(self) -> int:
        """None yet."""
        return 0

    @property
    def peer_name(self) -> str:
        """The peer's address and port, for people."""
        return peer_name(cast(asyncio.Transport, self))

    def expired(self, now: float) -> None:
        """The header takes too long."""
        self.deadline = inf
        self._refuse("no PROXY header within header_timeout")

    def shutdown(self, graceful: bool) -> None:
        """The server ends: nothing was asked for yet."""
        if self.transport is not None:
            self.transport.abort()

    def kind(self) -> Kind:
        """See observe.sockets."""
        return class_of(self._service), self.state, self._service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        return described(self._service, cast(asyncio.Transport, self), self.state, self.born, {})
