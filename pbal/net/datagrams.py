"""A UDP socket that a service listens on: datagrams go to its handler, a few in a turn of the loop.

To the server it is a listener like that of a TCP service (net/listener.py): bound first, started later, handed on when its service listens
there again.
"""

import asyncio
import socket
from collections.abc import Callable

from pbal.model.errors import ConfigError
from pbal.model.service import Service
from pbal.net.listener import Listener, look_up
from pbal.observe.sockets import Kind, SocketInfo, listening
from pbal.schema import kinds
from pbal.schema.types import Endpoint

LONGEST = 2048
"""Octets that are read of a datagram. One that is longer is of no use to anybody here."""
PORTION = 64
"""Datagrams taken in one turn of the loop."""

Received = Callable[[bytes, str], None]
"""Gets a datagram, and the address that it says it comes from."""


class DatagramListener:
    """The listener of one service."""

    secured = False

    def __init__(self, service: Service, sock: socket.socket, received: Received) -> None:
        self.service = service
        self._sock = sock
        self._received = received
        self.accepting = False
        self.wanted = service["listen"]
        """What its service said; the port is 0 there where the system chose one."""
        self.born = service.world.second
        name = sock.getsockname()
        self.address = Endpoint(name[0] if name[0] != "::" else "", name[1])

    @property
    def serving(self) -> bool:
        """Whether datagrams are taken."""
        return self.accepting

    def start(self) -> None:
        """Take datagrams."""
        if not self.accepting and self._sock.fileno() >= 0:
            self.accepting = True
            asyncio.get_running_loop().add_reader(self._sock, self._readable)

    async def started(self) -> None:
        """It takes them already."""

    def _readable(self) -> None:
        for _ in range(PORTION):
            try:
                data, peer = self._sock.recvfrom(LONGEST + 1)
            except OSError:  # none is left; or the system tells of one that was sent from here
                return
            self._received(data, peer[0])

    def pause(self) -> None:
        """Leave them to the kernel."""
        if self.accepting:
            self.accepting = False
            asyncio.get_running_loop().remove_reader(self._sock)

    def refresh(self) -> None:
        """There is no tunable of such a socket."""

    def take_over(self) -> None:
        """What was lent is its own already."""

    def lend(self) -> socket.socket:
        """The same socket for another listener. Raises: OSError."""
        return self._sock.dup()

    def close(self) -> None:
        """Give the address back."""
        self.pause()
        self._sock.close()

    def kind(self) -> Kind:
        """See observe.sockets."""
        return "UploadListener", "listening" if self.accepting else "paused", self.service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        return listening(self.kind(), self._sock.fileno(), self.service.world.second - self.born, str(self.address), self.accepting)


def bound(endpoint: Endpoint) -> socket.socket:
    """A UDP socket at an address. An empty host is every address, IPv6 included where the machine has it. Raises: OSError."""
    host = look_up(endpoint.host) if endpoint.is_name else endpoint.host
    if not host:
        try:
            return _bound(socket.AF_INET6, "::", endpoint.port)
        except OSError:
            return _bound(socket.AF_INET, "0.0.0.0", endpoint.port)
    return _bound(socket.AF_INET6 if ":" in host else socket.AF_INET, host, endpoint.port)


def _bound(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def listen_to_datagrams(service: Service, received: Received, former: DatagramListener | None, found: str) -> DatagramListener:
    """Bind the service's address, or go on with the socket of the listener that has it. `found`: what a name in it was looked up to be.

    Raises: ConfigError with the reason.
    """
    endpoint = service["listen"]
    try:
        sock = former.lend() if former is not None else bound(Endpoint(found, endpoint.port) if found else endpoint)
        return DatagramListener(service, sock, received)
    except OSError as error:
        message = f"Can't start service '{service.name}' on {endpoint}: {error.strerror or error}"
        raise ConfigError(message, about=service.name, kind=kinds.Kind.SYSTEM) from None


AnyListener = Listener | DatagramListener
