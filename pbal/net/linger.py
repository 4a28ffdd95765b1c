"""A connection that was answered and is closing: our side ends, and what still comes is dropped for a short while.

A close with unread octets makes the kernel send a reset, which may take the answer away from the client before it has read
it (RFC 9112 section 9.6). And an answer that may not be lost is not known to be taken before the client has acknowledged it. So a
Lingering takes the socket over from its connection, of which it knows nothing else.

    draining        the client has not taken all of the answer   -> closed when it takes nothing for idle_timeout
    unacknowledged  the answer may not be lost, and may yet be   -> closed when nothing is acknowledged for its patience; it is lost then
    lingering       all is there; octets are read and dropped    -> closed after LINGER_SECONDS, LINGER_OCTETS, or with the client's end
"""

import asyncio
from math import inf
from typing import Final

from pbal.model.deliveries import unacknowledged
from pbal.model.service import Service
from pbal.observe.sockets import Kind, SocketInfo

LINGER_SECONDS: Final = 2.0
LINGER_OCTETS: Final = 1 << 20
LOOK: Final = 1.0
"""Seconds between two looks whether an answer is acknowledged."""


UNIX_PEER: Final = "unix"
"""Who comes by a Unix socket has no address."""


def class_of(service: Service) -> str:
    """What Perlbal's console calls a connection of a service."""
    return "ClientHTTP" if service.declared is None else service.declared.socket


def peer_name(transport: asyncio.BaseTransport | None) -> str:
    """A connection's peer, address and port, for people."""
    name = transport.get_extra_info("peername") if transport is not None else None
    if name is None:
        return "unknown"
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else UNIX_PEER


def address(transport: asyncio.BaseTransport | None, which: str) -> tuple[str, int] | None:
    """Address and port of an end of a connection, "peername" or "sockname"; None for a Unix socket.

    IPv4 on a socket for both is IPv4 (RFC 4291 section 2.5.5.2), and an IPv6 address goes without its zone.
    """
    name = transport.get_extra_info(which) if transport is not None else None
    if not isinstance(name, tuple):
        return None
    host = str(name[0]).partition("%")[0]
    return (host.removeprefix("::ffff:") if "." in host else host), int(name[1])


def local_port(transport: asyncio.BaseTransport | None) -> int:
    """The port that a connection came to or goes from; 0 for a Unix socket."""
    name = transport.get_extra_info("sockname") if transport is not None else None
    return int(name[1]) if isinstance(name, tuple) else 0


def described(
    service: Service, transport: asyncio.BaseTransport | None, state: str, born: int, before: dict[str, object], flags: str = ""
) -> SocketInfo:
    """One line for `socks`, of a connection that has no request: one that has not begun, or has ended. `before` follows the port."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    return SocketInfo(
        fd=sock.fileno() if sock is not None else -1,
        age=service.world.second - born,
        class_name=class_of(service),
        state=state,
        service=service.name,
        flags=flags,
        peer=peer_name(transport),
        before={"localport": local_port(transport), **before},
    )


class Lingering:
    """A socket on its way out."""

    __slots__ = ("_dropped", "_ended", "_service", "_unsent", "_until", "born", "deadline", "requests", "state", "transport")

    def __init__(self, service: Service, transport: asyncio.Transport, born: int, requests: int) -> None:
        """Take `transport` over, and with it the answers to it that may be lost."""
        self._service = service
        self.born = born
        self.requests = requests
        self._dropped = 0
        self._unsent = 0
        self._until = inf
        self._ended = False
        self.transport = transport
        self.state: str = "lingering"
        self.deadline = service.world.clock.now() + LINGER_SECONDS
        if not transport.is_closing():
            transport.set_protocol(self)  # type: ignore[arg-type]  # duck-typed: compiled classes have no foreign bases
            if not transport.is_reading():
                transport.resume_reading()
            # The end of TLS is octets, and who has its answer and closes without reading them resets: not before it is acknowledged.
            if transport.get_extra_info("tls") is not None and service.world.deliveries.owes(transport):
                self.deadline = service.world.clock.now()
            else:
                self._end()
        else:
            transport.set_protocol(self)  # type: ignore[arg-type]

    def _end(self) -> None:
        """End our side."""
        self._ended = True
        if not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    def data_received(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_OCTETS:
            self.abort()

    def eof_received(self) -> bool:
        if self._service.world.deliveries.settle(self.transport):
            return False
        self.deadline = self._service.world.clock.now() + LOOK  # a half-close
        return True

    def pause_writing(self) -> None:
        self.deadline = self._service.world.clock.now() + (self._service.values["idle_timeout"] or inf)

    def resume_writing(self) -> None:
        self.deadline = self._service.world.clock.now() + LINGER_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = "closed"
        world = self._service.world
        world.clients.discard(self)
        world.counters.counts["clients"] -= 1
        world.deliveries.broken(self.transport)

    def abort(self) -> None:
        """Close at once."""
        self._service.world.deliveries.settle(self.transport)
        self.transport.abort()

    def expired(self, now: float) -> None:
        """The deadline passed: a slow reader that moves gets more time, any other is closed."""
        deliveries = self._service.world.deliveries
        if not deliveries.settle(self.transport):
            self._await_acknowledgement(now, deliveries.patience(self.transport))
            return
        if not self._ended:
            self._end()
            self.deadline = now + LINGER_SECONDS
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent and (not self._unsent or unsent < self._unsent):
            self._unsent = unsent
            self.deadline = now + (self._service.values["idle_timeout"] or inf)
        elif unsent:
            self._service.world.counters.counts["slow_readers_closed"] += 1
            self.abort()
        elif self._unsent:  # its time to read the last octets begins now
            self._unsent, self.deadline = 0, now + LINGER_SECONDS
        else:
            self.abort()

    def _await_acknowledgement(self, now: float, patience: float) -> None:
        """Look again soon, as long as more and more is acknowledged."""
        self.deadline = now + LOOK
        waiting = unacknowledged(self.transport)
        if not self._unsent or waiting < self._unsent:
            self._unsent = waiting
            self._until = now + (patience or inf)
        elif now >= self._until:
            self.abort()

    def shutdown(self, graceful: bool) -> None:
        """The server ends; what is unsent or not acknowledged still has time, where there is some."""
        deliveries = self._service.world.deliveries
        if not graceful or (self._ended and not self.transport.get_write_buffer_size() and deliveries.settle(self.transport)):
            self.abort()

    @property
    def home(self) -> Service | None:
        """Nobody's: it was answered, and ends soon."""
        return None

    @property
    def peer_name(self) -> str:
        """Address and port."""
        return peer_name(self.transport)

    @property
    def unsent_octets(self) -> int:
        """Octets that the socket has not taken yet."""
        return self.transport.get_write_buffer_size()

    def kind(self) -> Kind:
        """See observe.sockets."""
        return class_of(self._service), self.state, self._service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        flags = "RW" if self.unsent_octets else "R"
        return described(self._service, self.transport, self.state, self.born, {"reqs": self.requests}, flags)
