"""A connection that was upgraded, from the 101 on: octets both ways, until both sides have ended or one of them breaks.

    open       every octet goes to the other side; each side's sender is paused while the other's buffer is full
    half       one side has sent its end, and the other was told; it goes on sending
    over       both have ended, one broke, tunnel_timeout passed without an octet, or an operator kicked it

The relay of the exchange parts with both connections where this begins, and hears nothing more. A loss says nothing of the node: whoever
speaks another protocol ends as it likes. Source: RFC 9110 section 7.8.
"""

from math import inf
from typing import Final

from pbal.http1.events import ResponseHead
from pbal.http1.headers import forwardable_block
from pbal.model.exchange import Exchange
from pbal.model.tunnels import Tunnel
from pbal.net import backend as link
from pbal.net.backend import Attendant, BackendConnection
from pbal.observe.access import BROKE, KICKED, NODE_SLOW
from pbal.roles.proxy.binding import binding
from pbal.roles.proxy.terms import Terms

NOBODY: Final = 0
CLIENT: Final = 1
NODE: Final = 2
"""Which side has ended."""


class OpenTunnel(Attendant):
    """See above."""

    __slots__ = ("backend", "ended", "entry", "exchange", "stream", "terms")

    def __init__(self, terms: Terms, exchange: Exchange, backend: BackendConnection, head: ResponseHead) -> None:
        """Pass `head`, the node's 101, on to the client. From here on this is the sink of the exchange, and has the connection."""
        self.terms = terms
        self.exchange = exchange
        self.stream = exchange.stream
        self.backend: BackendConnection | None = backend
        self.ended = NOBODY
        node, world, now = backend.node, terms.service.world, terms.clock.now()
        protocol = head.fields.get(b"upgrade", exchange.request.upgrade)
        backend.state = link.TUNNEL
        backend.relay = exchange.sink = self
        node.answered(now, 101)
        if node.strikes:
            node.whole(101)
        terms.counts["tunnels"] += 1
        block = forwardable_block(head)
        if node.pool.sticky is not None:
            block += binding(exchange, 101, node, node.pool.sticky, terms.counts)
        self.entry = Tunnel(next(world.numbers), exchange, node.name, protocol, now, self.kick)
        world.tunnels[self.entry.number] = self.entry
        early = self.stream.tunnel(exchange, head, block, protocol, backend.reader.take_rest())
        if early:
            exchange.received += len(early)
            backend.write(early)
        self._extend(backend)
        if self.stream.half_closed:
            self._end(CLIENT)

    def _extend(self, backend: BackendConnection) -> None:
        """Octets passed: the time of silence starts anew."""
        self.entry.heard = now = self.terms.clock.now()
        backend.deadline = now + (self.terms.service.values["tunnel_timeout"] or inf)

    # -- Sink: the client ----------------------------------------------------------------------------------------

    def body_data(self, data: bytes) -> None:
        """Octets of the client."""
        if self.backend is not None:
            self._extend(self.backend)
            self.backend.write(data)

    def body_end(self) -> None:
        """The client will send no more."""
        self._end(CLIENT)

    def client_full(self) -> None:
        """The client takes slower than the node sends."""
        backend = self.backend
        if backend is not None:
            backend.pause()
            backend.deadline = inf

    def client_drained(self) -> None:
        """The client took what was waiting."""
        backend = self.backend
        if backend is not None and not backend.closing:
            self._extend(backend)
            backend.resume()

    def client_gone(self) -> None:
        """The node is told by closing."""
        self._drop()

    # -- Attendant: the node -------------------------------------------------------------------------------------

    def backend_readable(self) -> None:
        """Octets of the node."""
        backend = self.backend
        if backend is not None:
            self._extend(backend)
            self.stream.write(backend.reader.take_rest())

    def backend_full(self) -> None:
        """The node takes slower than the client sends."""
        self.stream.pause_body()

    def backend_drained(self) -> None:
        """The node took what was waiting."""
        self.stream.resume_body()

    def backend_eof(self) -> None:
        """The node will send no more."""
        if self.backend is not None:
            self._end(NODE)

    def backend_lost(self, exc: Exception | None) -> None:
        """The node's connection is gone."""
        if self.backend is not None:
            self._part()
            self.stream.close(self.exchange)

    def backend_expired(self) -> None:
        """Nothing passed for tunnel_timeout."""
        self._cut(NODE_SLOW)

    def broke_down(self) -> None:
        """See Attendant. While it has the connection, its loss is the end of this."""
        if self.backend is None:
            self.exchange.cause = self.exchange.cause or BROKE
            self.exchange.fail(500, b"This proxy failed.\n")

    def backend_now(self) -> BackendConnection | None:
        """See Attendant."""
        return self.backend

    def client_fd(self) -> int:
        """See Attendant."""
        return self.stream.fd

    # -- endings -------------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """TUNNEL KICK: see model.tunnels."""
        if self.backend is not None:
            self._cut(KICKED)

    def _end(self, side: int) -> None:
        """A side will send no more: tell the other; after both, close."""
        backend = self.backend
        if backend is None:
            return
        if self.ended == NOBODY:
            self.ended = side
            if side == NODE:
                self.stream.write_eof()
            else:
                backend.write_eof()
        elif self.ended != side:  # a transport that reads on after its end tells of the end again
            self._part()
            self.stream.close(self.exchange)
            backend.finish()

    def _cut(self, cause: bytes) -> None:
        """End it on both sides."""
        self.exchange.cause = cause
        self._drop()
        self.stream.close(self.exchange)

    def _part(self) -> None:
        """It is over: the exchange is nobody's, and the node's connection is not its own any more."""
        backend, self.backend = self.backend, None
        self.exchange.sink = None
        self.terms.service.world.tunnels.pop(self.entry.number, None)
        if backend is not None:
            backend.node.pool.released(backend.node)

    def _drop(self) -> None:
        """Part with the node's connection and close it."""
        backend = self.backend
        self._part()
        if backend is not None:
            backend.abort()
