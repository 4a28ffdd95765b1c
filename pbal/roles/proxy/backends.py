"""The connections of one service to one pool: bored backends and waiting clients, and who gets what.

A relay (or an errand) asks `pick` for a node and takes a bored backend to it, or waits while one is connected. A backend that becomes
free serves the longest waiting client first, whichever connection that had asked for; the connection that then arrives in vain stays
as a bored one.

Bored backends are kept per node, the longest rested first out. More than backend_persist_cache of them are closed by the
tick a second after they became bored, and not at once: under load thirty are bored for a millisecond between two turns
of the loop, and closing them would mean connecting thirty again.

A Backends that was retired (its service has another pool now) gives out nothing more: what runs on its connections finishes, and each
closes when it is released.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Iterator
from typing import cast

from pbal.http1.reader import Limits
from pbal.model.balance import Asking
from pbal.model.health import MAINT
from pbal.model.pool import A_MOMENT, Node, Pool
from pbal.net import backend as link
from pbal.net.backend import BackendConnection, Owner
from pbal.net.reaching import reach
from pbal.net.tasks import cancel_all, spawn
from pbal.net.tls import ClientLink
from pbal.roles.proxy.seeker import Seeker
from pbal.roles.proxy.terms import Terms


class Backends(Owner):
    """See above."""

    __slots__ = ("_sessions", "bored", "clock", "counts", "name", "opening", "pool", "retired", "service", "terms", "waiting")

    def __init__(self, terms: Terms, pool: Pool | None) -> None:
        self.terms = terms
        self.pool = pool
        self.name = terms.name
        self.service = terms.service
        self.clock = terms.clock
        self.counts = terms.counts
        self.retired = False
        self.bored: dict[Node, deque[BackendConnection]] = {}
        """The one that rested longest first: what a node sends too much has most time to show."""
        self.waiting: dict[Seeker, None] = {}
        """Relays and errands without a backend, in order of arrival."""
        self.opening: dict[BackendConnection, None] = {}
        """Connections being opened; never fewer than relays wait, or one would wait in vain."""
        self._sessions: dict[Node, ssl.SSLSession] = {}
        if pool is not None:
            pool.removed_listeners.append(self._node_removed)
            pool.added_listeners.append(self._node_added)

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return sum(map(len, self.bored.values()))

    def resting(self) -> Iterator[BackendConnection]:
        """Each of them."""
        for stack in self.bored.values():
            yield from stack

    # -- who seeks -----------------------------------------------------------------------------------------------

    def pick(self, tried: tuple[Node, ...], asking: Asking | None) -> Node | None:
        """A node for a new attempt."""
        return None if self.pool is None else self.pool.pick(self.clock.now(), tried, asking, self.terms.method)

    def bored_on(self, node: Node) -> BackendConnection | None:
        """A bored backend to `node`, taken out of the list."""
        stack = self.bored.get(node)
        while stack:
            backend = stack.popleft()
            if backend.state is not link.BORED or backend.closing:
                continue
            if not backend.unread:
                return backend
            self._unread(backend)
        return None

    def backend_surprised(self, backend: BackendConnection) -> None:
        """A node sent octets that belong to no request: its connections may give each client its predecessor's answer."""
        node = backend.node
        self.counts["backend_surprises"] += 1
        self.service.world.log_limited(
            f"surprise {node.name}",
            "%(node)s: sent octets that nobody asked for; its kept connections are closed",
            {"event": "node_surprise", "service": self.name, "node": node.name},
        )
        for other in list(self.service.world.backends):  # of other services and pools, too
            if other.node.endpoint == node.endpoint:
                other.suspect = True
                if other.state is link.BORED:
                    other.abort()

    def _unread(self, backend: BackendConnection) -> None:
        """Give up a connection on which octets wait before its next request."""
        if backend.tls is None:
            self.backend_surprised(backend)
        backend.abort()

    def why_no_node(self) -> str:
        """Why a request got none, for the operator."""
        if self.pool is None:
            return "the service has no pool"
        why = self.pool.why_none()
        if why:
            return why
        return f"no connection to a node was free within queue_timeout ({self.service.values['queue_timeout']:g} s)"

    def may_get_nodes(self) -> bool:
        """Whether the pool lost its last node a moment ago: who waits may get another."""
        pool = self.pool
        return pool is not None and not pool.nodes and pool.emptied_at + A_MOMENT > self.clock.now()

    def _node_added(self) -> None:
        """POOL ADD, or another pool: who waits while no connection is being made asks again."""
        for relay in list(self.waiting)[: max(0, len(self.waiting) - len(self.opening))]:
            del self.waiting[relay]
            relay.seek()

    def connect_for(self, relay: Seeker, node: Node) -> None:
        """Queue `relay` and open a connection to `node`."""
        self.waiting[relay] = None
        node.begin_connect(self.clock.now())
        backend = BackendConnection(self, node)
        self.opening[backend] = None
        spawn(self, self._connect(relay, backend), f"connect {self.name} {node.name}")

    async def _connect(self, relay: Seeker, backend: BackendConnection) -> None:
        node = backend.node
        endpoint = node.endpoint
        seconds: float = self.service.values["connect_timeout"]
        failed = 0
        made = False
        link = None if self.terms.tls is None else self._link(backend, "localhost" if endpoint.path else endpoint.host)
        try:
            async with asyncio.timeout(seconds):
                protocol = cast(asyncio.Protocol, link or backend)  # not by base class: compiled classes have no foreign bases
                await reach(self.service.world.names, self.clock.now(), node, protocol, seconds)
                if link is not None:
                    await link.ready
                made = True
        except (OSError, TimeoutError) as error:
            self.counts["backend_connect_failures"] += 1
            failed = 504 if isinstance(error, TimeoutError) else 502
            node.unreachable(self.clock.now(), self._why(error))
            self.service.world.log_limited(
                f"connect {node.name}",
                "cannot connect to %(node)s: %(reason)s",
                {"event": "connect_failed", "service": self.name, "node": node.name, "reason": error.strerror or str(error) or "too slow"},
            )
        finally:
            if link is not None and not made:  # also where the service was closed meanwhile
                link.abort()
            del self.opening[backend]
            node.end_connect()
        if failed and relay in self.waiting:
            del self.waiting[relay]
            relay.connect_failed(node, failed)
        # This connection, had it come or had it been of use, might have been for one whose own one went to another relay.
        for other in list(self.waiting)[: max(0, len(self.waiting) - len(self.opening))]:
            del self.waiting[other]
            other.seek()

    def _why(self, error: OSError | TimeoutError) -> str:
        """Words for a connection that could not be made."""
        if isinstance(error, ConnectionRefusedError):
            return "connection refused"
        if isinstance(error, TimeoutError) and not error.errno:
            return f"no connection within {self.service.values['connect_timeout']:g} s"
        return f"cannot connect: {error.strerror or error}"

    def _link(self, backend: BackendConnection, host: str) -> ClientLink:
        """TLS to a node. It goes on from the node's last session where that is known."""
        assert self.terms.tls is not None
        name = self.service.values["ssl_backend_name"] or host
        return ClientLink(backend, self.terms.tls, name, self._sessions.get(backend.node))

    def forget(self, relay: Seeker) -> None:
        """`relay` waits no longer."""
        self.waiting.pop(relay, None)

    # -- Owner: what backends report -----------------------------------------------------------------------------

    @property
    def response_limits(self) -> Limits:
        """See Owner."""
        return self.terms.response_limits

    def buffer_size(self) -> int:
        """See Owner."""
        return self.terms.buffer_size()

    def backend_made(self, backend: BackendConnection) -> None:
        """Connected."""
        self.service.world.backends.add(backend)
        self.counts["backend_connects"] += 1
        backend.node.reached(self.clock.now())
        self._offer(backend)

    def backend_closed(self, backend: BackendConnection) -> None:
        """The socket is gone."""
        self.service.world.backends.discard(backend)
        stack = self.bored.get(backend.node)
        if stack is not None:
            with contextlib.suppress(ValueError):  # it was not bored
                stack.remove(backend)
            if not stack:
                self.bored.pop(backend.node, None)

    def backend_second(self) -> int:
        """The shared clock of ages."""
        return self.service.world.second

    def lend(self, backend: BackendConnection, seeker: Seeker) -> Node:
        """A connection is a seeker's, for one request; release() takes it back. Its node."""
        node = backend.node
        node.lent(self.clock.now())
        if backend.uses:
            self.counts["backend_reuses"] += 1
        backend.uses += 1
        backend.relay = seeker
        backend.state = link.WAIT_RES
        return node

    def release(self, backend: BackendConnection, request_sent_whole: bool) -> None:
        """A response ended: keep the connection, or close it."""
        node = backend.node
        node.pool.released(node)
        values = self.service.values
        most = values["max_backend_uses"]
        if self.terms.tls is not None and backend.tls is self.terms.tls and backend.uses == 1 and backend.transport is not None:
            session = backend.transport.get_extra_info("session")
            if session is not None:
                self._sessions[node] = session
        if backend.reader.leftover:
            self.backend_surprised(backend)
        if (
            not request_sent_whole
            or not values["persist_backend"]
            or not backend.reader.keep_alive
            or backend.reader.must_close
            or backend.suspect
            or (most and backend.uses >= most)
            or backend.closing
            or self.terms.closed
        ):
            backend.abort()
        else:
            self._offer(backend)

    def _offer(self, backend: BackendConnection) -> None:
        """A connection is free: to the longest waiting client, else to the bored ones."""
        node = backend.node
        if node.removed or node.order.word is MAINT or self.retired or self.terms.closed or backend.tls is not self.terms.tls:
            backend.abort()
            return
        for relay in self.waiting:
            if node not in relay.tried and node.ready:
                if backend.uses and backend.unread:  # a reuse like any other
                    self._unread(backend)
                    return
                del self.waiting[relay]
                relay.assigned(backend)
                return
        backend.state = link.BORED
        backend.deadline = float("inf")
        backend.bored_since = self.clock.now()
        self.bored.setdefault(node, deque()).append(backend)

    def _node_removed(self, node: Node) -> None:
        """POOL REMOVE or MAINT: its bored connections close at once, the others when their response ends."""
        self._sessions.pop(node, None)
        for backend in self.bored.pop(node, ()):
            backend.abort()

    # -- time and endings ----------------------------------------------------------------------------------------

    def close_bored(self) -> None:
        """Close what waits for a request, and forget sessions."""
        self._sessions.clear()
        for node in list(self.bored):
            self._node_removed(node)

    def tick(self, now: float) -> None:
        """Once a second: clients that waited too long."""
        for seeker in [seeker for seeker in self.waiting if seeker.started + self.terms.queue_timeout < now]:
            seeker.give_up(503)
        pool = self.pool
        if self.waiting and not self.opening and pool is not None and not pool.nodes and not self.may_get_nodes():
            for seeker in list(self.waiting):
                seeker.give_up(503)

    def retire(self) -> None:
        """The service has another pool: who waits seeks there."""
        self._leave_pool()
        waiting = list(self.waiting)
        self.waiting.clear()
        for seeker in waiting:
            seeker.seek()

    def close(self) -> None:
        """The service is going: who waits is told so; requests that run end by their own."""
        cancel_all(self)
        for seeker in list(self.waiting):
            seeker.give_up(503)
        self._leave_pool()

    def _leave_pool(self) -> None:
        """Hear of its nodes no longer. Twice is once."""
        self.close_bored()
        if self.pool is not None and not self.retired:
            self.pool.removed_listeners.remove(self._node_removed)
            self.pool.added_listeners.remove(self._node_added)
        self.retired = True
