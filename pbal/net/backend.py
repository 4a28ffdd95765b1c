"""One connection to a node.

    connecting -> [verifying_backend ->] bored -> wait_res -> xfer_res -> bored ...        closed from anywhere
                                                    `-> tunnel

A *bored* backend is connected and has no client; anything that arrives on it, data or end, closes it. While it has
one, `relay` receives what arrives. This file frames octets and keeps the deadline; what an answer or a loss means is
the relay's business.

Octets that nobody asked for shift the answers of a kept connection: each client gets its predecessor's. So a connection that says
more than it was asked is closed, `unread` looks for such octets before every reuse, and once a node was caught all its
connections are `suspect`: none of them serves another request.
"""

import asyncio
import fcntl
import select
import ssl
import termios
from abc import ABCMeta, abstractmethod
from math import inf
from typing import Final, cast

from pbal.http1.events import BadResponse
from pbal.http1.reader import Limits, ResponseReader
from pbal.model.pool import Node
from pbal.model.sink import Sink
from pbal.net.linger import local_port
from pbal.observe.sockets import Kind, SocketInfo

CONNECTING: Final = "connecting"
VERIFYING: Final = "verifying_backend"
BORED: Final = "bored"
WAIT_RES: Final = "wait_res"
XFER_RES: Final = "xfer_res"
TUNNEL: Final = "tunnel"
CLOSED: Final = "closed"

REPROXY: Final = "reproxy"
"""The owner of connections that no service has alone: to servers that X-REPROXY-URL names."""

_ZERO: Final = bytes(4)
_unread: Final = bytearray(4)
"""Where the system writes how many octets wait. Changed in place: bytes would be copied, and refused first."""


class Attendant(Sink):
    """Who has the backend's attention: its octets in one direction, its client's in the other.

    Behind many of them is no client, and they send no more than a head: nothing is to be passed on, and nobody to be paused. So what
    is about a client, and about a node that takes slowly, does nothing unless an attendant says otherwise.
    """

    @abstractmethod
    def backend_readable(self) -> None:
        """Octets were fed to backend.reader."""

    @abstractmethod
    def backend_eof(self) -> None:
        """The node will send no more."""

    @abstractmethod
    def backend_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""

    def backend_full(self) -> None:
        """The node takes slower than we write."""

    def backend_drained(self) -> None:
        """The node took what was waiting."""

    @abstractmethod
    def backend_expired(self) -> None:
        """The deadline passed: the node was silent for too long."""

    def body_data(self, data: bytes) -> None:
        """See Sink."""

    def body_end(self) -> None:
        """See Sink."""

    def client_gone(self) -> None:
        """See Sink."""

    def client_drained(self) -> None:
        """See Sink."""

    def client_full(self) -> None:
        """See Sink."""

    def broke_down(self) -> None:
        """A fault of pbal's own came up while it read: whoever waits for it is to be told."""

    def backend_now(self) -> "BackendConnection | None":
        """The connection that is its own at this moment, for who looks."""
        return None

    def client_fd(self) -> int:
        """The descriptor of the client whose request it is, for who looks; -1: nobody's."""
        return -1


class Owner(metaclass=ABCMeta):
    """Who opened the connection, and hears of it."""

    name: str
    """The service."""

    @property
    @abstractmethod
    def response_limits(self) -> Limits:
        """What a response may be."""

    @abstractmethod
    def buffer_size(self) -> int:
        """Octets unsent at which a sender is stopped."""

    @abstractmethod
    def backend_second(self) -> int:
        """The shared clock of ages."""

    @abstractmethod
    def backend_made(self, backend: "BackendConnection") -> None:
        """Connected."""

    @abstractmethod
    def backend_closed(self, backend: "BackendConnection") -> None:
        """The socket is gone."""

    @abstractmethod
    def backend_surprised(self, backend: "BackendConnection") -> None:
        """Octets came that nobody asked for."""


class BackendConnection:
    """A TCP connection to `node`."""

    __slots__ = (
        "born", "bored_since", "deadline", "due", "fd", "kept", "node", "owner", "reader", "relay", "said", "state", "suspect", "tls",
        "transport", "uses", "verified",
    )  # fmt: skip

    def __init__(self, owner: Owner, node: Node) -> None:
        self.owner = owner
        self.node = node
        self.reader = ResponseReader(owner.response_limits)
        self.transport: asyncio.Transport | None = None
        self.fd = -1
        self.suspect = False
        self.tls: ssl.SSLContext | None = None
        """What its TLS was made with; None in clear."""
        self.relay: Attendant | None = None
        self.state: str = CONNECTING
        self.deadline = inf
        self.due = inf
        """When a request may be sent on it no more, since its node is about to close it (clock time)."""
        self.said = b""
        """What it begins with: a PROXY header that names a client."""
        self.verified = False
        """Whether the node answered on it before its first request."""
        self.kept = False
        """Whether it was kept open for the request that it has: a loss then says nothing of the node."""
        self.uses = 0
        self.bored_since = 0.0
        self.born = owner.backend_second()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self.owner.buffer_size())
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self.fd = sock.fileno()
        self.tls = transport.get_extra_info("tls")
        if self.said and self.tls is None:  # under TLS it went before the handshake
            self.transport.write(self.said)
        self.owner.backend_made(self)

    def data_received(self, data: bytes) -> None:
        relay = self.relay
        if relay is None:  # a bored backend has nothing to say
            if self.state is BORED:
                self.owner.backend_surprised(self)
            self.abort()
            return
        self.reader.feed(data)
        try:
            relay.backend_readable()
        except Exception:  # the loop logs it, and closes the connection; but who parted with it already hears nothing of that
            relay.broke_down()
            raise

    def eof_received(self) -> bool:
        relay = self.relay
        if relay is None:
            return False
        try:
            relay.backend_eof()
        except Exception:  # as above
            relay.broke_down()
            raise
        return self.state is TUNNEL

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        relay, self.relay = self.relay, None
        self.owner.backend_closed(self)
        if relay is not None:
            relay.backend_lost(exc)

    @property
    def attention(self) -> bool:
        """Whether a worker of the node has it, and not only the node's kernel."""
        return self.verified or self.uses > 0

    def cut_off(self) -> str:
        """The node will send no more: why that is too early, "" if the response is whole by that."""
        try:
            self.reader.eof()
        except BadResponse as error:
            return error.reason
        return ""

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.transport is None or self.transport.is_closing()

    @property
    def unread(self) -> bool:
        """Whether the node sent octets that the loop has not brought yet. One system call, 0.6 us.

        Under TLS they may be tickets, which are no fault; but nobody can tell before they are read.
        """
        try:
            fcntl.ioctl(self.fd, termios.FIONREAD, _unread)
            return _unread != _ZERO
        except OSError:
            return True

    @property
    def ended(self) -> bool:
        """Whether the node has ended, and the loop has not brought that yet; where nothing is `unread`. Three system calls."""
        poll = select.poll()
        try:
            poll.register(self.fd, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True

    def write(self, data: bytes) -> None:
        """Send octets."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    @property
    def unsent(self) -> int:
        """Octets that the node has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def write_eof(self) -> None:
        """In a tunnel: no more octets for the node."""
        if self.transport is not None and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    def pause(self) -> None:
        """Read no more for now."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        if self.relay is not None:
            self.relay.backend_full()

    def resume_writing(self) -> None:
        if self.relay is not None:
            self.relay.backend_drained()

    def expired(self, now: float) -> None:
        """The deadline passed: the node was silent for too long."""
        self.deadline = inf
        if self.relay is not None:
            self.relay.backend_expired()
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once; the relay hears nothing more."""
        self.relay = None
        self.state = CLOSED
        if self.transport is not None:
            self.transport.abort()

    def finish(self) -> None:
        """Close after what was written has gone out; the relay hears nothing more."""
        self.relay = None
        self.state = CLOSED
        if self.transport is not None:
            self.transport.close()

    def kind(self) -> Kind:
        """See observe.sockets."""
        return "BackendHTTP", self.state, self.owner.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        transport, relay = self.transport, self.relay
        sock = transport.get_extra_info("socket") if transport is not None else None
        before: dict[str, object] = {"localport": local_port(transport)}
        client = -1 if relay is None else relay.client_fd()
        if client >= 0:
            before["client"] = client
        before["uses"] = self.uses if relay is None else self.uses - 1  # as Perlbal counts: those that are over
        flags = "" if transport is None or not transport.is_reading() else "R"
        return SocketInfo(
            fd=sock.fileno() if sock is not None else -1,
            age=self.owner.backend_second() - self.born,
            class_name="BackendHTTP",
            state=self.state,
            service=self.owner.name,
            flags=flags + ("W" if self.unsent else ""),
            peer=self.node.name,
            before=before,
        )
