"""One connection to a node.

    connecting -> bored -> wait_res -> xfer_res -> bored ...        closed from anywhere
                             `-> tunnel

A *bored* backend is connected and has no client; anything that arrives on it, data or end, closes it. While it has
one, `relay` receives what arrives. This file frames octets and keeps the deadline; what an answer or a loss means is
the relay's business.
"""

import asyncio
from math import inf
from typing import Any, Final, Protocol, cast

from pbal.http1.reader import Limits, ResponseReader
from pbal.model.pool import Node
from pbal.observe.sockets import Kind, SocketInfo

CONNECTING: Final = "connecting"
BORED: Final = "bored"
WAIT_RES: Final = "wait_res"
XFER_RES: Final = "xfer_res"
TUNNEL: Final = "tunnel"
CLOSED: Final = "closed"


class Relay(Protocol):
    """Who has the backend's attention."""

    def backend_readable(self) -> None: ...
    def backend_eof(self) -> None: ...
    def backend_lost(self, exc: Exception | None) -> None: ...
    def backend_full(self) -> None: ...
    def backend_drained(self) -> None: ...
    def backend_expired(self) -> None: ...


class Owner(Protocol):
    """The role that opened the connection."""

    name: str
    limits: Limits

    def backend_made(self, backend: "BackendConnection") -> None: ...
    def backend_closed(self, backend: "BackendConnection") -> None: ...
    def backend_second(self) -> int: ...
    def buffer_size(self) -> int: ...


class BackendConnection(asyncio.Protocol):
    """A TCP connection to `node`."""

    __slots__ = ("born", "bored_since", "deadline", "node", "owner", "reader", "relay", "state", "transport", "uses")

    def __init__(self, owner: Owner, node: Node) -> None:
        self.owner = owner
        self.node = node
        self.reader = ResponseReader(owner.limits)
        self.transport: Any = None
        self.relay: Relay | None = None
        self.state: str = CONNECTING
        self.deadline = inf
        self.uses = 0
        self.bored_since = 0.0
        self.born = owner.backend_second()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self.owner.buffer_size())
        self.owner.backend_made(self)

    def data_received(self, data: bytes) -> None:
        relay = self.relay
        if relay is None:
            self.transport.abort()  # a bored backend has nothing to say
            return
        self.reader.feed(data)
        relay.backend_readable()

    def eof_received(self) -> bool:
        relay = self.relay
        if relay is None:
            return False
        relay.backend_eof()
        return self.state is TUNNEL

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        relay, self.relay = self.relay, None
        self.owner.backend_closed(self)
        if relay is not None:
            relay.backend_lost(exc)

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
            self.transport.abort()

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
        self.transport.close()

    def kind(self) -> Kind:
        """See observe.sockets."""
        return "BackendHTTP", self.state, self.owner.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        local = self.transport.get_extra_info("sockname") if self.transport is not None else None
        text = f"BackendHTTP(R): open to {self.node.name}: localport={local[1] if local else 0}; uses={self.uses}; {self.state}"
        return SocketInfo(
            fd=sock.fileno() if sock is not None else -1,
            age=self.owner.backend_second() - self.born,
            class_name="BackendHTTP",
            state=self.state,
            text=text,
            service=self.owner.name,
        )
