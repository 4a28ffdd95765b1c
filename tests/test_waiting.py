"""Who waits for a connection to a node, in every order of events: nobody waits while a node is free for it.

Two services share a pool. Connections are made of nothing: the loop's create_connection says when one is there, or fails.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pbal.model.balance import Asking
from pbal.model.clock import ManualClock
from pbal.model.pool import Node
from pbal.model.world import World
from pbal.net.backend import VERIFYING, BackendConnection
from pbal.roles.proxy.backends import Backends
from pbal.roles.proxy.role import ReverseProxy
from pbal.roles.proxy.seeker import HIGH, LOW, NORMAL, Seeker
from pbal.schema.types import Endpoint

ENDPOINTS = [Endpoint(f"10.0.0.{number}", 80) for number in range(1, 4)]


class Dial:
    """One connection that is being opened."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], loop: asyncio.AbstractEventLoop) -> None:
        self.factory = factory
        self.done: asyncio.Future[None] = loop.create_future()


class Dialling(asyncio.SelectorEventLoop):
    """A loop on which connections are opened when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.dials: list[Dial] = []

    async def create_connection(self, factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """See asyncio."""
        dial = Dial(factory, self)
        self.dials.append(dial)
        try:
            await dial.done
        finally:
            if dial in self.dials:
                self.dials.remove(dial)


class Wire(asyncio.Transport):
    """A transport that leads nowhere."""

    def __init__(self, protocol: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._protocol, self._loop = protocol, loop
        self._socket, self._other = socket.socketpair()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio."""
        return self._socket if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio."""

    def write(self, data: Any) -> None:
        """See asyncio."""

    def is_closing(self) -> bool:
        """See asyncio."""
        return self.closed

    def abort(self) -> None:
        """See asyncio."""
        if not self.closed:
            self.closed = True
            self._socket.close()
            self._other.close()
            self._loop.call_soon(self._protocol.connection_lost, None)


class Client(Seeker):
    """Who wants a connection."""

    def __init__(self, backends: Backends, priority: int) -> None:
        self.backends = backends
        self.started = backends.clock.now()
        self.tried: tuple[Node, ...] = ()
        self.fresh = self.waited = False
        self.priority = priority
        self.coming: BackendConnection | None = None
        self.bound: Node | None = None
        self.said = b""
        self.backend: BackendConnection | None = None
        self.over = False

    @property
    def asking(self) -> Asking | None:
        """See Seeker."""
        return None

    def seek(self) -> None:
        """See Seeker."""
        if not self.backends.seek(self):
            self.over = True

    def waits(self, node: Node | None) -> None:
        """See Seeker."""

    def assigned(self, backend: BackendConnection) -> None:
        """See Seeker."""
        assert self.backend is None and not self.over
        assert backend.node not in self.tried and not self.backends.queue.has(self)
        self.backend = backend
        self.backends.lend(backend, self)

    def connect_failed(self, node: Node, status: int) -> None:
        """See Seeker."""
        self.tried = (*self.tried, node)
        self.seek()

    def give_up(self, status: int, why: str = "") -> None:
        """See Seeker."""
        self.over = True
        self.backends.forget(self)

    def ends(self, kept: bool) -> None:
        """Its request ended."""
        backend, self.backend = self.backend, None
        assert backend is not None
        backend.relay = None
        self.over = True
        self.backends.release(backend, kept)

    def backend_lost(self, exc: Exception | None) -> None:
        """See Attendant: as a relay does."""
        backend, self.backend = self.backend, None
        assert backend is not None
        self.over = True
        backend.node.pool.released(backend.node)

    def leaves(self) -> None:
        """Its client left."""
        if self.backend is not None:
            backend, self.backend = self.backend, None
            backend.node.pool.released(backend.node)
            backend.abort()
        else:
            self.backends.forget(self)
        self.over = True

    full = False

    def _unheard(self, *said: object) -> bool:
        """Nodes say nothing here."""
        return False

    backend_readable = backend_eof = backend_expired = _unheard  # type: ignore[assignment]
    _head = _pass_on = _complete = _garbled = _lost = _extend = _unheard  # type: ignore[assignment]


class Waiting(RuleBasedStateMachine):
    """See above."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Dialling()
        self.clients: list[Client] = []

    @initialize(limit=st.integers(0, 3), nodes=st.integers(1, 3), verify=st.booleans())
    def build(self, limit: int, nodes: int, verify: bool) -> None:
        """Two services on one pool."""
        self.world = World()
        self.world.clock = ManualClock()
        self.pool = self.world.create_pool("app")
        self.roles = []
        with self.running():
            for endpoint in ENDPOINTS[:nodes]:
                self.pool.add(endpoint)
            self.pool.set("node_max_connections", str(limit))
            for name in ("one", "two"):
                service = self.world.create_service(name)
                service.set("role", "reverse_proxy")
                service.set("pool", "app")
                service.set("verify_backend", "on" if verify else "off")
                self.roles.append(ReverseProxy(service))

    @contextlib.contextmanager
    def running(self) -> Any:
        """What happens within happens in one turn of the loop; then the loop turns until nothing moves."""
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
        for _ in range(8):
            self.loop.run_until_complete(asyncio.sleep(0))

    @property
    def groups(self) -> list[Backends]:
        """The connections of each service."""
        return [role.groups.main for role in self.roles]

    def lent(self) -> list[Client]:
        """Who has a connection."""
        return [client for client in self.clients if client.backend is not None]

    def waiting(self) -> list[Client]:
        """Who waits."""
        return [client for client in self.clients if client.backend is None and not client.over]

    @rule(which=st.integers(0, 1), priority=st.sampled_from([HIGH, NORMAL, NORMAL, LOW]))
    def arrive(self, which: int, priority: int) -> None:
        """A request comes."""
        client = Client(self.groups[which], priority)
        self.clients.append(client)
        with self.running():
            client.seek()

    @precondition(lambda self: self.loop.dials)
    @rule(data=st.data(), how=st.sampled_from(["made", "made", "refused", "slow"]))
    def dialled(self, data: st.DataObject, how: str) -> None:
        """A connection is made, or cannot be."""
        dial = data.draw(st.sampled_from(self.loop.dials))
        with self.running():
            if how == "made":
                protocol = dial.factory()
                protocol.connection_made(Wire(protocol, self.loop))
                dial.done.set_result(None)
            else:
                dial.done.set_exception(ConnectionRefusedError() if how == "refused" else TimeoutError())

    def verifying(self) -> list[BackendConnection]:
        """Connections on which OPTIONS was sent."""
        return [backend for group in self.groups for backend in group.opening if backend.state == VERIFYING]

    @precondition(lambda self: self.verifying())
    @rule(data=st.data(), how=st.sampled_from(["answered", "answered", "not kept", "lost"]))
    def verified(self, data: st.DataObject, how: str) -> None:
        """A node answers OPTIONS, or does not."""
        backend = data.draw(st.sampled_from(self.verifying()))
        with self.running():
            if how == "lost":
                assert backend.transport is not None
                backend.transport.abort()
            else:
                close = b"Connection: close\r\n" if how == "not kept" else b""
                backend.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n%b\r\n" % close)

    @precondition(lambda self: self.lent())
    @rule(data=st.data(), how=st.sampled_from(["kept", "kept", "closed", "lost", "left"]))
    def ends(self, data: st.DataObject, how: str) -> None:
        """A request is over."""
        client = data.draw(st.sampled_from(self.lent()))
        backend = client.backend
        with self.running():
            if how == "left":
                client.leaves()
            elif how == "lost":
                assert backend is not None and backend.transport is not None
                backend.transport.abort()
            else:
                client.ends(how == "kept")

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        """Who waits leaves."""
        with self.running():
            data.draw(st.sampled_from(self.waiting())).leaves()

    @precondition(lambda self: any(group.bored for group in self.groups))
    @rule()
    def idle_ones_close(self) -> None:
        """Nodes close what they kept."""
        with self.running():
            for group in self.groups:
                for backend in list(group.bored):
                    backend.abort()

    @rule(endpoint=st.sampled_from(ENDPOINTS))
    def node_comes_or_goes(self, endpoint: Endpoint) -> None:
        """POOL ADD, POOL REMOVE."""
        with self.running():
            if self.pool.find(endpoint) is None:
                self.pool.add(endpoint)
            else:
                self.pool.remove(endpoint, self.world.clock.now())

    @rule()
    def a_second_passes(self) -> None:
        """Nodes that refused may be asked again; who waits too long is told so."""
        assert isinstance(self.world.clock, ManualClock)
        self.world.clock.advance(1.5)
        with self.running():
            for role in self.roles:
                role.tick(self.world.clock.now())

    @rule(limit=st.integers(0, 3))
    def limit(self, limit: int) -> None:
        """SET app.node_max_connections."""
        before = int(str(self.pool.values["node_max_connections"]))
        if not limit or (before and limit >= before):  # those that are in use stay in use
            with self.running():
                self.pool.set("node_max_connections", str(limit))

    @invariant()
    def nobody_waits_while_a_node_is_free(self) -> None:
        """What it is all about."""
        for client in self.waiting():
            queue = client.backends.queue
            assert queue.has(client)
            if client.coming is None:
                usable = self.pool.usable(self.world.clock.now())
                pending = [each.node for each in client.backends.opening] if client.backends.terms.verify else []
                assert all(node.full or node in client.tried or node in pending for node in usable)
                assert not any(client.backends.bored.on(node) and not node.full for node in usable if node not in client.tried)

    @invariant()
    def what_is_counted_is_there(self) -> None:
        """Requests, connections, and what is coming to whom."""
        for group in getattr(self, "roles", []) and self.groups:
            waiting = list(group.queue.in_order())
            assert waiting == [client for client in waiting if client in self.waiting()]
            assert group.queue.lacking == sum(client.coming is None for client in waiting)
            for backend, seeker in group.opening.items():
                assert seeker is None or (seeker.coming is backend and group.queue.has(seeker))
            assert {client.coming for client in waiting if client.coming is not None} <= group.opening.keys()
        for node in self.pool.nodes if hasattr(self, "pool") else []:
            assert node.active == sum(client.backend.node is node for client in self.lent() if client.backend is not None)
            assert node.connecting == sum(backend.node is node for group in self.groups for backend in group.opening)
            resting = sum(len(group.bored.on(node)) for group in self.groups)
            assert not node.limit or node.active + node.connecting + resting <= node.limit

    def teardown(self) -> None:
        """In the end nothing is left."""
        if hasattr(self, "pool"):
            with self.running():
                for client in self.clients:
                    if not client.over:
                        client.leaves()
                for role in self.roles:
                    role.close()
            with self.running():
                pass
            assert [node for node in self.pool.nodes if node.active or node.connecting] == []
            assert not self.world.backends and not any(group.opening or len(group.queue) for group in self.groups)
        self.loop.close()


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
