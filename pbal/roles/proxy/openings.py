"""The connections that one service has opened to the nodes of one pool, or is opening: for whom, for nobody, and what becomes of each.

    opening   for one who waits (queue.py), or for nobody: connect_ahead has a few opened before anybody wants them, at most one to a node,
              and none to a node that refused in the last second
    offered   it is there: who gets it, backends.py says
    failed    who waited for it is told, and lacks one again

A connection that is slow to open keeps nobody from the other nodes: after a second another is opened for who waits for it.
"""

from abc import abstractmethod
from typing import Final

from pbal.http1.reader import Limits
from pbal.model.balance import BY_PLUGIN, HASH
from pbal.model.pool import Node, Pool
from pbal.net import backend as link
from pbal.net.backend import BackendConnection
from pbal.net.tasks import cancel_all
from pbal.roles.proxy.bored import Bored
from pbal.roles.proxy.dialing import Dialer, Opener
from pbal.roles.proxy.queue import Queue
from pbal.roles.proxy.seeker import Seeker
from pbal.roles.proxy.terms import Terms

AHEAD_AT_ONCE: Final = 10
"""Connections that are opened ahead at the same time; Perlbal's."""
SLOW: Final = 2
"""Ticks after which a connection that is being opened counts as slow: more than a second."""


class Openings(Opener):
    """See above."""

    __slots__ = ("bored", "clock", "counts", "dialer", "name", "opening", "pool", "queue", "retired", "service", "terms")

    def __init__(self, terms: Terms, pool: Pool | None) -> None:
        self.terms = terms
        self.pool = pool
        self.name = terms.name
        self.service = terms.service
        self.clock = terms.clock
        self.counts = terms.counts
        self.retired = False
        self.bored = Bored(terms.clock)
        self.queue = Queue()
        """Relays and errands without a backend."""
        self.opening: dict[BackendConnection, Seeker | None] = {}
        """Connections that are being opened, or verified, and who waits for each."""
        self.dialer = Dialer(self, terms)

    @property
    def choosy(self) -> bool:
        """See Pool; or the service itself chooses by what requests say."""
        return self.pool is not None and (self.pool.choosy or self.terms.method == HASH or bool(self.service.hooks.select_node))

    @property
    def method(self) -> int:
        """How a node is chosen, plugins included."""
        return BY_PLUGIN + self.terms.method if self.service.hooks.select_node else self.terms.method

    @abstractmethod
    def _lack(self) -> None:
        """Somebody lacks a connection: the pool tells when there may be one."""

    @abstractmethod
    def _offer(self, backend: BackendConnection, owner: Seeker | None) -> None:
        """A connection is free: to the first who waits and can use it, else to the bored ones. `owner`: who waited for it."""

    def _pending(self) -> tuple[Node, ...]:
        """Nodes to which connections are being opened."""
        return tuple({backend.node: None for backend in self.opening})

    def _open(self, node: Node, seeker: Seeker | None) -> None:
        """Open a connection to `node`, for one who lacks one or for nobody."""
        node.begin_connect(self.clock.now())
        backend = BackendConnection(self, node)
        self.opening[backend] = seeker
        if seeker is not None:
            backend.said = seeker.said
            seeker.bound = node if self.choosy else None
            self.queue.expect(seeker, backend)
        if node.limit:  # connections that rest are not in use; but what the node takes at most are all of them
            node.pool.sharing.close_idle(node, node.active + node.connecting - node.limit)
        self.dialer.open(backend)

    def settle(self, backend: BackendConnection) -> Seeker | None:
        """See Opener."""
        if backend not in self.opening:
            return None
        seeker = self.opening.pop(backend)
        node = backend.node
        node.end_connect()
        if backend.state in (link.CONNECTING, link.VERIFYING):  # it was not offered to anybody, and will not be
            backend.abort()
        if seeker is not None:
            self.queue.disappoint(seeker)
            self._lack()
        node.pool.sharing.wake()
        return seeker

    def arrived(self, backend: BackendConnection) -> None:
        """See Opener."""
        state, backend.state = backend.state, link.BORED
        if state is link.CLOSED:
            backend.state = state
        self._offer(backend, self.settle(backend))

    def failed(self, seeker: Seeker, node: Node, status: int) -> None:
        """See Opener."""
        self.queue.leave(seeker)
        seeker.connect_failed(node, status)

    def open_ahead(self) -> None:
        """Have connect_ahead connections at rest: open what is missing."""
        pool, terms = self.pool, self.terms
        if pool is None or self.retired or terms.closed or self.queue.lacking or terms.send_proxy:
            return
        coming = sum(seeker is None for seeker in self.opening.values())
        missing = min(terms.ahead - len(self.bored) - coming, AHEAD_AT_ONCE - coming)
        now = self.clock.now()
        while missing > 0:
            passed_over = tuple(node for node in pool.nodes if node.at_rest(now) or _is_taken(node)) + self._pending()
            node = pool.pick(now, passed_over)
            if node is None or node in passed_over:
                return
            self._open(node, None)
            missing -= 1

    def _hurry(self) -> None:
        """For who waits for a connection that is slow to open, open another, to a node that is not slow."""
        assert self.pool is not None
        second, now = self.service.world.second, self.clock.now()
        slow = [(each, seeker) for each, seeker in self.opening.items() if seeker is not None and second - each.born >= SLOW]
        pending = self._pending() if slow else ()
        for backend, seeker in slow:
            node = self.pool.pick(now, (*seeker.tried, *pending), seeker.asking, self.method)
            if node is None:
                return
            self.counts["backend_slow_connects"] += 1
            self.opening[backend] = None
            self.queue.disappoint(seeker)
            self._open(node, seeker)

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
        self.dialer.made(backend, backend in self.opening)

    def backend_closed(self, backend: BackendConnection) -> None:
        """The socket is gone."""
        self.service.world.backends.discard(backend)
        self.bored.discard(backend)

    def backend_surprised(self, backend: BackendConnection) -> None:
        """A node sent octets that belong to no request: its connections may give each client its predecessor's answer."""
        node = backend.node
        self.counts["backend_surprises"] += 1
        self.terms.tell(node, "node_surprise", "sent octets that nobody asked for; its kept connections are closed")
        for other in list(self.service.world.backends):  # of other services and pools, too
            if other.node.endpoint == node.endpoint:
                other.suspect = True
                if other.state is link.BORED:
                    other.abort()

    def backend_second(self) -> int:
        """The shared clock of ages."""
        return self.service.world.second

    def _open_no_more(self) -> None:
        """Connections that are being opened are for nobody. One that was made in this turn of the loop is not: somebody may have it."""
        for backend in list(self.opening):
            cancel_all(backend)
            self.settle(backend)  # here, since a task that has not begun yet ends without a word


def _is_taken(node: Node) -> bool:
    """Whether a node has all the connections that it takes, idle ones included: another one would be in place of one of those."""
    return node.limit > 0 and node.active + node.connecting + node.pool.sharing.rest_on(node) >= node.limit
