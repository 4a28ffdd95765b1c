"""reverse_proxy: exchanges on one side, a pool's nodes on the other, bored backends and waiting clients between.

Life of an exchange here: start_http_request -> (the body collected, if a plugin has proxy_read_request) ->
proxy_read_request -> a Relay, which asks `pick` for a node and takes a bored backend to it, or waits while one is
connected. A backend that becomes free serves the longest waiting client first, whichever connection that had asked
for; the connection that then arrives in vain stays as a bored one.

Bored backends are kept per node, the longest rested first out. More than backend_persist_cache of them are closed by the
tick a second after they became bored, and not at once: under load thirty are bored for a millisecond between two turns
of the loop, and closing them would mean connecting thirty again.
"""

import asyncio
import contextlib
import hashlib
import logging
import ssl
from collections import deque
from math import inf
from typing import cast

from pbal.http1.reader import Limits
from pbal.model.asking import Question
from pbal.model.certificates import backend_context
from pbal.model.exchange import Exchange
from pbal.model.pool import A_MOMENT, Node, Pool
from pbal.model.service import Service
from pbal.net import backend as link
from pbal.net.backend import BackendConnection
from pbal.net.tasks import cancel_all, spawn
from pbal.net.tls import ClientLink
from pbal.roles.http import HttpRole
from pbal.roles.proxy.errand import Errand
from pbal.roles.proxy.relay import Relay
from pbal.roles.proxy.seeker import Seeker

log = logging.getLogger("pbal.proxy")


class ReverseProxy(HttpRole):
    """The handler of one reverse_proxy service."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.bored: dict[Node, deque[BackendConnection]] = {}
        """The one that rested longest first: what a node sends too much has most time to show."""
        self.waiting: dict[Seeker, None] = {}
        """Relays and errands without a backend, in order of arrival."""
        self.opening: dict[BackendConnection, None] = {}
        """Connections being opened; never fewer than relays wait, or one would wait in vain."""
        self._pool: Pool | None = None
        self._tls: ssl.SSLContext | None = None
        self._sessions: dict[Node, ssl.SSLSession] = {}
        self.response_limits = Limits()
        self.response_timeout = self.queue_timeout = inf
        identity = hashlib.blake2s(self.name.lower().encode(), key=service.world.identity, digest_size=4).hexdigest()
        self.via = f"pbal-{identity}".encode()
        """This process and service in a Via field: who sees it come back has sent the request to itself."""
        for tunable in ("pool", "response_timeout", "max_response_head", "ssl_backend"):
            self.changed(tunable)

    # -- what arrives --------------------------------------------------------------------------------------------

    def serve(self, exchange: Exchange) -> None:
        """Relay an exchange whose plugins all passed."""
        request = exchange.request
        if b"via" in request.fields and self.via in request.fields[b"via"]:
            self.counts["loops_refused"] += 1
            self.service.world.log_limited(
                f"loop {self.name}",
                "service %(service)s: a request came back to it: does a node of its pool lead here?",
                {"event": "loop", "service": self.name},
            )
            exchange.error(508, b"This request came back to the proxy that sent it.\n")
            return
        if request.method == b"CONNECT":
            exchange.error(501, b"CONNECT is not offered here.\n")
            return
        limited = request.method == b"TRACE" or (request.method == b"OPTIONS" and b"max-forwards" in request.fields)
        if limited and self._final_recipient(exchange):
            return
        Relay(self, exchange).seek()

    def load(self) -> tuple[int, int, int]:
        """See model.service.RoleHandler."""
        return len(self.waiting), len(self.opening), sum(map(len, self.bored.values()))

    def ask(self, question: Question) -> None:
        """See model.service.RoleHandler."""
        asyncio.get_running_loop().call_soon(Errand(self, question).seek)

    def _final_recipient(self, exchange: Exchange) -> bool:
        """Max-Forwards (RFC 9110 section 7.6.2): True when the request ends here."""
        value = exchange.request.fields.get(b"max-forwards", b"1")
        if not (value.isdigit() and value.isascii() and len(value) < 10):
            exchange.error(400, b"Max-Forwards is not a number.\n")
            return True
        if exchange.request.method == b"TRACE":
            exchange.error(501, b"TRACE is not offered here.\n")  # it would show a client's own secrets to scripts
            return True
        if value.strip(b"0") == b"":
            exchange.respond(200, [(b"Allow", b"GET, HEAD, POST, PUT, DELETE, OPTIONS")])
            return True
        return False

    # -- nodes and backends --------------------------------------------------------------------------------------

    def pick(self, tried: tuple[Node, ...]) -> Node | None:
        """A node for a new attempt."""
        return None if self._pool is None else self._pool.pick(self.clock.now(), tried)

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
        if self._pool is None:
            return "the service has no pool"
        if not self._pool.nodes:
            return f"pool {self._pool.name} has no node"
        return f"no connection to a node was free within queue_timeout ({self.service.values['queue_timeout']:g} s)"

    def may_get_nodes(self) -> bool:
        """Whether the pool lost its last node a moment ago: who waits may get another."""
        pool = self._pool
        return pool is not None and not pool.nodes and pool.emptied_at + A_MOMENT > self.clock.now()

    def _node_added(self) -> None:
        """POOL ADD, or another pool: who waits while no connection is being made asks again."""
        for relay in list(self.waiting)[: max(0, len(self.waiting) - len(self.opening))]:
            del self.waiting[relay]
            relay.seek()

    def connect_for(self, relay: Seeker, node: Node) -> None:
        """Queue `relay` and open a connection to `node`."""
        self.waiting[relay] = None
        node.connecting += 1
        backend = BackendConnection(self, node)
        self.opening[backend] = None
        spawn(self, self._connect(relay, backend), f"connect {self.name} {node.name}")

    async def _connect(self, relay: Seeker, backend: BackendConnection) -> None:
        node = backend.node
        node.last_attempt = self.clock.now()
        loop = asyncio.get_running_loop()
        endpoint = node.endpoint
        failed = 0
        made = False
        link = None if self._tls is None else self._link(backend, "localhost" if endpoint.path else endpoint.host)
        try:
            async with asyncio.timeout(self.service.values["connect_timeout"]):
                protocol = cast(asyncio.Protocol, link or backend)  # not by base class: compiled classes have no foreign bases
                if endpoint.path:
                    await loop.create_unix_connection(lambda: protocol, endpoint.path)
                else:
                    await loop.create_connection(lambda: protocol, endpoint.host, endpoint.port)
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
            node.connecting -= 1
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
        assert self._tls is not None
        name = self.service.values["ssl_backend_name"] or host
        return ClientLink(backend, self._tls, name, self._sessions.get(backend.node))

    def forget(self, relay: Seeker) -> None:
        """`relay` waits no longer."""
        self.waiting.pop(relay, None)

    # Owner: what backends report.

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
        node.active += 1
        node.requests += 1
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
        if self._tls is not None and backend.tls is self._tls and backend.uses == 1 and backend.transport is not None:
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
            or self.closed
        ):
            backend.abort()
        else:
            self._offer(backend)

    def _offer(self, backend: BackendConnection) -> None:
        """A connection is free: to the longest waiting client, else to the bored ones."""
        node = backend.node
        if node.removed or node.pool is not self._pool or self.closed or backend.tls is not self._tls:
            backend.abort()
            return
        for relay in self.waiting:
            if node not in relay.tried:
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
        """POOL REMOVE: its bored connections close at once, the others when their response ends."""
        self._sessions.pop(node, None)
        for backend in self.bored.pop(node, ()):
            backend.abort()

    # -- settings and time ---------------------------------------------------------------------------------------

    def changed(self, tunable: str) -> None:
        """A tunable was set live."""
        super().changed(tunable)
        service, values = self.service, self.service.values
        if tunable.startswith("max_response"):
            self.response_limits = Limits(
                max_head=values["max_response_head"], max_fields=values["max_response_fields"], max_target=values["max_response_head"]
            )
        elif tunable in ("response_timeout", "queue_timeout", "idle_timeout"):
            limit, idle = values["response_timeout"], values["idle_timeout"]
            if not service.said("response_timeout"):
                limit = max(limit, idle) if idle else 0
            self.response_timeout = limit or inf
            as_perlbal = service.world.server["compatible"] == "perlbal" and not service.said("queue_timeout")
            self.queue_timeout = (idle if as_perlbal else values["queue_timeout"]) or inf
        elif tunable == "persist_backend" and not values["persist_backend"]:
            self._close_bored()
        elif tunable.startswith("ssl_backend"):
            self._tls = backend_context(values["ssl_backend_ca"], values["ssl_backend_verify"]) if values["ssl_backend"] else None
            self._sessions.clear()
            self._close_bored()
        elif tunable == "pool":
            self._set_pool(service.world.pool(values["pool"]) if values["pool"] else None)

    def _set_pool(self, pool: Pool | None) -> None:
        old = self._pool
        if pool is old:
            return
        if old is not None:
            old.removed_listeners.remove(self._node_removed)
            old.added_listeners.remove(self._node_added)
        self._close_bored()
        self._pool = pool
        if pool is not None:
            pool.removed_listeners.append(self._node_removed)
            pool.added_listeners.append(self._node_added)
            self._node_added()

    def _close_bored(self) -> None:
        for node in list(self.bored):
            self._node_removed(node)

    def tick(self, now: float) -> None:
        """Once a second: clients that waited too long, bored backends that are too many."""
        super().tick(now)
        for relay in [relay for relay in self.waiting if relay.started + self.queue_timeout < now]:
            relay.give_up(503)
        pool = self._pool
        if self.waiting and not self.opening and pool is not None and not pool.nodes and not self.may_get_nodes():
            for relay in list(self.waiting):
                relay.give_up(503)
        surplus = sum(map(len, self.bored.values())) - int(self.service.values["backend_persist_cache"])
        if surplus > 0:
            every = sorted((b for stack in self.bored.values() for b in stack), key=lambda b: b.bored_since)
            for backend in every[:surplus]:
                if backend.bored_since + 1 < now:
                    self.bored[backend.node].remove(backend)
                    backend.abort()

    def close(self) -> None:
        """Close what is idle; exchanges end by their own."""
        super().close()
        cancel_all(self)
        for relay in list(self.waiting):
            relay.give_up(503)
        self._set_pool(None)
