"""The connections of one service to one pool: bored backends, those that are being opened, and who of those who wait gets what.

    seek -> a bored backend to the node that the pool picks
            or a wait (queue.py), while a connection to that node is opened: connecting -> [verifying] -> offered
            or a wait with nothing coming, while every node is full, or is being verified
            or nothing: no node is left that was not tried

A connection that arrives, or becomes free, goes to the first in the queue who can use it, whichever connection that had asked for;
with nobody there it is bored. Where the pool chooses by what a request says, only the node that was chosen will do, and so for a
connection that names its client (send_proxy).

Who lacks a connection is served when anything may have become free: the end of a request or of a connection on a limited node, a
verification, a node that is added. Whoever frees something says so to the pool (model/sharing.py), since other services may lack
it, too: they are served in turn. Nobody waits while a node is free for it.

What is opened, and for whom, is in openings.py, and what rests in bored.py. More than
backend_persist_cache bored ones are closed by the tick a second after they became bored, and not at once: under load thirty are bored
for a millisecond between two turns of the loop, and closing them would mean connecting thirty again.

A Backends that was retired (its service has another pool now) gives out nothing more: what runs on its connections finishes, and each
closes when it is released.
"""

import random
from typing import Final

from pbal.model.health import MAINT
from pbal.model.pool import A_MOMENT, Node, Pool
from pbal.model.sharing import Sharer
from pbal.net import backend as link
from pbal.net.backend import BackendConnection
from pbal.roles.proxy.bored import give_up_unread
from pbal.roles.proxy.openings import Openings
from pbal.roles.proxy.seeker import Seeker
from pbal.roles.proxy.terms import Terms

NOT_IN_TIME: Final = 2.0
"""Seconds before a node closes a kept connection (Keep-Alive: timeout) in which it gets no request any more; Perlbal's."""
LOOKED_AT: Final = 500
"""Of those who wait, so many are looked at for one place that is free, where what each can use differs."""


class Backends(Openings):
    """See above."""

    __slots__ = ("_share",)

    def __init__(self, terms: Terms, pool: Pool | None) -> None:
        super().__init__(terms, pool)
        self._share = Share(self)
        if pool is not None:
            pool.removed_listeners.append(self._node_removed)
            pool.added_listeners.append(self._node_added)
            pool.sharing.sharers.append(self._share)

    # -- who seeks -----------------------------------------------------------------------------------------------

    def seek(self, seeker: Seeker) -> bool:
        """Give it a connection, now or when there is one. False: no node is left for it."""
        pool, terms, queue = self.pool, self.terms, self.queue
        if pool is None or terms.verify:
            node = self._choose(seeker)
        else:  # nearly all
            node = pool.pick(self.clock.now(), seeker.tried, seeker.asking, self.method)
        if node is None:
            if not self._may_come(seeker):
                return False
        elif not queue.lacking and not seeker.fresh:  # nobody waits in vain before it
            backend = self.bored.take(node, seeker.said)
            if backend is not None:
                seeker.assigned(backend)
                return True
        self._wait(seeker, node)
        return True

    def _choose(self, seeker: Seeker) -> Node | None:
        """A node for a new attempt; None: none is free for it now."""
        pool = self.pool
        if pool is None:
            return None
        now = self.clock.now()
        if not self.terms.verify or self.choosy:
            return pool.pick(now, seeker.tried, seeker.asking, self.method)
        # A connection that has a worker's attention is worth more than one that is yet to get it; then, one is enough at a time.
        usable = [node for node in pool.usable(now) if node not in seeker.tried]
        passed_over = tuple(node for node in pool.nodes if not self.bored.on(node) or node not in usable)
        if seeker.fresh or len(passed_over) == len(pool.nodes):
            passed_over = self._pending()
            if usable and all(node in passed_over for node in usable):
                return None
        return pool.pick(now, seeker.tried + passed_over, seeker.asking, self.method)

    def _may_come(self, seeker: Seeker) -> bool:
        """Whether one that finds no node may find one later."""
        pool = self.pool
        if pool is None:
            return False
        if not pool.nodes:
            return not seeker.tried and self.may_get_nodes()
        pending = self._pending() if self.terms.verify else ()
        return any(node not in seeker.tried and node.ready and (node.full or node in pending) for node in pool.nodes)

    def _wait(self, seeker: Seeker, node: Node | None) -> None:
        """Have it wait: for a connection to `node`, which is opened, or for what becomes free."""
        queue, terms = self.queue, self.terms
        if terms.queue_size and not seeker.waited and len(queue) >= terms.queue_size:
            self._refuse(seeker)
            return
        seeker.waits(node)
        seeker.bound = node if self.choosy else None
        alone = not queue.lacking
        queue.join(seeker)
        if node is not None and alone and not (terms.verify and node in self._pending()):
            self._open(node, seeker)
        else:
            self._lack()
            if node is not None and self.pool is not None:  # it was not for those who wait before
                self.pool.sharing.wake()

    def _refuse(self, seeker: Seeker) -> None:
        """The queue is full."""
        self.counts["queue_refusals"] += 1
        self.service.world.log_limited(
            f"queue {self.name}",
            "service %(service)s: %(waiting)d requests wait for a node already: 503 (queue_size)",
            {"event": "queue_full", "service": self.name, "waiting": len(self.queue)},
        )
        seeker.give_up(503, f"{self.terms.queue_size} requests waited for a node already (queue_size)")

    def _lack(self) -> None:
        """Somebody lacks a connection: the pool tells when there may be one."""
        if self.pool is not None and not self.retired:
            self.pool.sharing.lack(self._share)

    def forget(self, seeker: Seeker) -> None:
        """`seeker` waits no longer."""
        coming = self.queue.leave(seeker)
        if coming is not None:
            self.opening[coming] = None
            self._adopt(coming, None)

    def _adopt(self, backend: BackendConnection, first: Seeker | None) -> None:
        """`backend` is being opened for nobody: let it be for one who lacks one, `first` before the others."""
        queue = self.queue
        if not queue.lacking or backend.said:
            return
        if first is None or not (queue.has(first) and first.coming is None and _fits(first, backend)):
            first = next((each for each in queue.in_order() if each.coming is None and _fits(each, backend)), None)
        if first is not None:
            self.opening[backend] = first
            queue.expect(first, backend)

    def serve_one(self) -> bool:
        """Find a connection for the first who lacks one. False: there is none for anybody."""
        queue = self.queue
        hopeless: set[tuple[Node, ...]] = set()
        looked = 0
        for seeker in queue.in_order(self._relieved()):
            if seeker.coming is not None or seeker.tried in hopeless:
                continue
            looked += 1
            if looked > LOOKED_AT:
                break
            node = self._choose(seeker)
            if node is None and not self._may_come(seeker):
                queue.leave(seeker)
                seeker.seek()  # which says why it got none
                return True
            if node is None or (self.terms.verify and not self.bored.on(node) and node in self._pending()):
                if node is None and not seeker.tried:  # nor is there one for anybody else
                    return False
                if node is None:
                    hopeless.add(seeker.tried)
                continue
            backend = None if seeker.fresh else self.bored.take(node, seeker.said)
            if backend is not None:
                queue.leave(seeker)
                seeker.assigned(backend)
            else:
                self._open(node, seeker)
            return True
        return False

    def _relieved(self) -> bool:
        """Whether the normal class goes before the high one this time."""
        terms = self.terms
        if not terms.relief_size or self.queue.normal < terms.relief_size:
            return False
        return random.random() * 100 < terms.relief_chance

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

    def lend(self, backend: BackendConnection, seeker: Seeker) -> Node:
        """A connection is a seeker's, for one request; release() takes it back. Its node."""
        node = backend.node
        node.lent(self.clock.now())
        if backend.uses:
            self.counts["backend_reuses"] += 1
        backend.kept = backend.uses > 0 or backend.bored_since > 0.0 or backend.verified
        backend.uses += 1
        backend.relay = seeker
        backend.state = link.WAIT_RES
        if self.terms.ahead:  # here, where the node counts this one
            self.open_ahead()
        return node

    def release(self, backend: BackendConnection, request_sent_whole: bool) -> None:
        """A response ended: keep the connection, or close it."""
        node = backend.node
        node.pool.released(node)
        values = self.service.values
        most = values["max_backend_uses"]
        reader = backend.reader
        if self.terms.tls is not None and backend.uses == 1:
            self.dialer.used(backend)
        if reader.leftover:
            self.backend_surprised(backend)
        if (
            not request_sent_whole
            or not values["persist_backend"]
            or not reader.keep_alive
            or reader.must_close
            or backend.suspect
            or (most and backend.uses >= most)
            or backend.closing
            or self.terms.closed
            or (node.limit and self._others_first(node))
        ):
            backend.abort()
        else:
            if reader.kept_for:
                backend.due = self.clock.now() + reader.kept_for - NOT_IN_TIME
            self._offer(backend, None)

    def _offer(self, backend: BackendConnection, owner: Seeker | None) -> None:
        """A connection is free: to the first who waits and can use it, else to the bored ones. `owner`: who waited for it."""
        node = backend.node
        terms = self.terms
        if node.removed or node.order.word is MAINT or self.retired or terms.closed or backend.tls is not terms.tls or backend.closing:
            backend.abort()
            return
        queue = self.queue
        wanted = len(queue) > 0
        free = wanted and node.pool.may_take(node)
        if free:
            taker = self._first_for(backend, owner)
            if taker is not None:
                if taker.fresh and backend.uses:  # the place is its own, but not this connection
                    backend.abort()
                    node.pool.sharing.took(self._share)
                    self._open(node, taker)
                    return
                if backend.uses and backend.unread:  # a reuse like any other
                    give_up_unread(backend)
                    return
                coming = queue.leave(taker)
                if coming is not None:
                    self.opening[coming] = None
                    self._adopt(coming, owner)
                node.pool.sharing.took(self._share)
                taker.assigned(backend)
                return
        self.bored.add(backend)
        if wanted and not free:  # who waits is served elsewhere, or here after all if nobody else is left
            self._lack()
            node.pool.sharing.wake()
        if terms.ahead:
            self.open_ahead()

    def _first_for(self, backend: BackendConnection, owner: Seeker | None) -> Seeker | None:
        """Who is next to be served, of those who can use this connection."""
        if backend.said:
            return owner if owner is not None and self.queue.has(owner) and owner.said == backend.said else None
        for seeker in self.queue.in_order(self._relieved()):
            if _fits(seeker, backend) and not (seeker.fresh and backend.uses and seeker.coming is not None):
                return seeker
        return None

    def _others_first(self, node: Node) -> bool:
        """Whether it is another service's turn to have the place on a limited node."""
        first = node.pool.sharing.next_starved()
        return first is not None and first is not self._share

    def _node_removed(self, node: Node) -> None:
        """POOL REMOVE or MAINT: its bored connections close at once, the others when their response ends."""
        self.dialer.forget(node)
        self.bored.close_on(node)
        for backend, seeker in list(self.opening.items()):
            if backend.node is node and seeker is not None:
                self.opening[backend] = None
                self.queue.disappoint(seeker)
                self._lack()
        node.pool.sharing.wake()

    def _node_added(self) -> None:
        """POOL ADD: who lacks a connection may get one."""
        if self.pool is not None:
            self.pool.sharing.wake()

    # -- time and endings ----------------------------------------------------------------------------------------

    def close_bored(self) -> None:
        """Close what waits for a request, and forget sessions."""
        self.dialer.forget_sessions()
        self.bored.close_all()

    def tick(self, now: float) -> None:
        """Once a second: clients that waited too long, connections whose time is over, and those that are to be there ahead."""
        queue = self.queue
        if len(queue):
            self._tick_queue(now)
        self.dialer.tick(now)
        self.bored.tick(now)
        if self.terms.ahead:
            self.open_ahead()

    def _tick_queue(self, now: float) -> None:
        pool, queue = self.pool, self.queue
        late = [seeker for seeker in queue.in_order() if seeker.started + self.terms.queue_timeout < now]
        for seeker in late:
            self.counts["queue_timeouts"] += 1
            seeker.give_up(503)
        if late:
            self.service.world.log_limited(
                f"queue {self.name}",
                "service %(service)s: %(number)d requests waited for a node longer than queue_timeout: 503",
                {"event": "queue_timeout", "service": self.name, "number": len(late)},
            )
        if pool is None:
            return
        if not self.opening and not pool.nodes and not self.may_get_nodes():
            for seeker in list(queue.in_order()):
                seeker.give_up(503)
        if self.opening and len(queue):
            self._hurry()
        pool.sharing.wake()  # a node may have come back by the clock alone

    def retire(self) -> None:
        """The service has another pool: who waits seeks there."""
        self._leave_pool()
        for seeker in list(self.queue.in_order()):
            self.forget(seeker)
            seeker.seek()
        self._open_no_more()

    def close(self) -> None:
        """The service is going: who waits is told so; requests that run end by their own."""
        for seeker in list(self.queue.in_order()):
            seeker.give_up(503)
        self._open_no_more()
        self._leave_pool()

    def _leave_pool(self) -> None:
        """Hear of its nodes no longer. Twice is once."""
        self.close_bored()
        pool = self.pool
        if pool is not None and not self.retired:
            pool.removed_listeners.remove(self._node_removed)
            pool.added_listeners.remove(self._node_added)
            pool.sharing.leave(self._share)
        self.retired = True


class Share(Sharer):
    """A Backends, as the other services of its pool know it."""

    __slots__ = ("_backends",)

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    def lacks(self) -> bool:
        """See Sharer."""
        return self._backends.queue.lacking > 0 and not self._backends.retired

    def serve_one(self) -> bool:
        """See Sharer."""
        return self._backends.serve_one()

    def rest_on(self, node: object) -> int:
        """See Sharer."""
        assert isinstance(node, Node)
        return len(self._backends.bored.on(node))

    def close_on(self, node: object, number: int) -> int:
        """See Sharer."""
        assert isinstance(node, Node)
        chosen = list(self._backends.bored.on(node))[:number]
        for backend in chosen:
            backend.abort()
        return len(chosen)


def _fits(seeker: Seeker, backend: BackendConnection) -> bool:
    """Whether a connection is of use to one who waits."""
    node = backend.node
    return node not in seeker.tried and (seeker.bound is None or seeker.bound is node) and seeker.said == backend.said
