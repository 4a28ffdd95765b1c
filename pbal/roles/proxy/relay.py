"""One exchange on its way through a backend and back.

    waiting    for a backend: connecting, or queued until one is bored       -> 503 after queue_timeout
    asked      request sent, or being sent                                   -> 504 after response_timeout
    answering  the response head went to the client                          -> cut off if the backend is
    done       also where a 101 was passed on: the rest is a tunnel's (tunnel.py)

Every way out of `waiting` and `asked` gives the client an answer: another node where that is safe, else 502 (a node
refused or answered rubbish), 503 (no node), 504 (a node was silent). After the first octet of a response nothing can
be taken back: a loss then ends the client's connection, so that a truncated response looks truncated.

What is safe (RFC 9110 section 9.2.2): as long as nothing was sent, anything may go to another node. Once octets were
sent, only an idempotent method whose body is still at hand, and only if no octet of an answer came: part of a head counts, and
so does a 1xx, which the client would see twice.

Octets go by direct call from socket to socket. Each direction stops its sender when the receiver's buffer passes
buffer_size and goes on when it has drained. How a response is read stands in reading.py, how the body of
a request goes out in outgoing.py.
"""

import asyncio
import logging
from math import inf
from typing import Final

from pbal.http1.changes import Changes
from pbal.http1.encoder import http_date
from pbal.http1.events import CHUNKED, BadResponse, ResponseHead
from pbal.http1.headers import announced, forwardable_block, upgrade_offer
from pbal.model.balance import Asking
from pbal.model.bound import Bounds
from pbal.model.exchange import SERVED, Exchange
from pbal.model.pool import Node, Pool
from pbal.model.sink import Sink
from pbal.net import backend as link
from pbal.net.backend import BackendConnection
from pbal.net.proxy_protocol import encode
from pbal.observe.access import BROKE, NO_NODE, NO_ROOM, NODE_BROKE, NODE_SLOW
from pbal.observe.recent import Trouble
from pbal.roles import chain
from pbal.roles.proxy.binding import binding, unbound
from pbal.roles.proxy.drain import Drain
from pbal.roles.proxy.groups import Groups
from pbal.roles.proxy.outgoing import Outgoing
from pbal.roles.proxy.priority import CLASS_NAMES, priority_of
from pbal.roles.proxy.pump import Pump
from pbal.roles.proxy.request import IN_CHUNKS, request_octets
from pbal.roles.proxy.response import forwardable_fields, modified
from pbal.roles.proxy.retry import enter, leave
from pbal.roles.proxy.seeker import HIGH, MOST_ATTEMPTS, NORMAL
from pbal.roles.proxy.tunnel import OpenTunnel

log = logging.getLogger("pbal.proxy")

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""
_NOTHING: Final[frozenset[bytes]] = frozenset()
_NO_LENGTH: Final = frozenset({b"content-length"})

_NO_RESPONSE: Final = "no response: %(reason)s"

WAITING: Final = "waiting"
ASKED: Final = "asked"
ANSWERING: Final = "answering"
DONE: Final = "done"


class Relay(Outgoing):
    """The state of one exchange in a reverse_proxy service."""

    __slots__ = (
        "again_in", "backend", "body_sent", "bound", "chunked_up", "coming", "exchange", "failure", "fresh", "group", "groups",
        "heard", "held", "node", "phase", "pool", "priority", "pump", "resting", "said", "started", "stream", "terms", "touched", "tried",
        "waited",
    )  # fmt: skip

    def __init__(self, groups: Groups, exchange: Exchange, pool: Pool | None) -> None:
        """`pool` is the one that a rule sends it to; None: that of SET pool, whichever that is when it seeks."""
        self.groups = groups
        self.terms = groups.terms
        self.pool = pool
        self.group = groups.main
        """Where it seeks, or where its connection comes from."""
        self.exchange = exchange
        self.stream = exchange.stream
        self.backend: BackendConnection | None = None
        self.node: Node | None = None
        self.held = exchange.collected_body()
        self.pump: Pump | None = None
        self.started = exchange.started if self.held is None else self.terms.clock.now()
        self.phase: str = WAITING
        self.tried: tuple[Node, ...] = ()
        self.again_in: Pool | None = None
        self.failure = 503
        self.body_sent = self.chunked_up = False
        self.touched: Changes | None = None
        """What hooks took from the head of the response, or changed: it comes as no trailer either."""
        self.fresh = False
        self.priority = NORMAL
        self.waited = False
        self.coming: BackendConnection | None = None
        self.bound: Node | None = None
        self.said = b"" if not self.terms.send_proxy else encode(self.terms.send_proxy, *exchange.stream.ends())
        self.heard = self.resting = False
        exchange.enter(SERVED)
        exchange.sink = self
        exchange.sought_at = self.started

    # -- finding a backend ---------------------------------------------------------------------------------------

    def seek(self) -> None:
        """Ask for a backend on a node not tried yet, or give up with the status of the last failure.

        Of a service that was dropped while the body of the request came nobody gets one: nothing serves its queue any more.
        """
        if self.terms.closed:
            self.give_up(503, "the service was dropped")
            return
        if self.pool is not None and not self.groups.has(self.pool):  # no rule names it any more
            route = self.terms.service.rules.route(self.exchange)
            self.pool = None if route is None else route.pool
            self.tried = ()
        groups = self.groups
        self.group = group = groups.main if self.pool is None else groups.of(self.pool)
        if not group.seek(self):
            self.give_up(self.failure)

    @property
    def asking(self) -> Asking | None:
        """See Seeker."""
        return self.exchange

    def waits(self, node: Node | None) -> None:
        """See Seeker."""
        self._unassigned()
        if not self.waited:
            self.priority = priority_of(self.exchange, self.terms)
            self.exchange.high = self.priority == HIGH
        tracer = self.terms.service.tracer
        if tracer is not None:
            if node is None:
                self.exchange.trace(tracer, "queued", f"{len(self.group.queue)} before it, {CLASS_NAMES[self.priority]} priority")
            else:
                self.exchange.trace(tracer, "connecting", f"to {node.name}")

    def _unassigned(self) -> None:
        """No connection is its own: what comes of the body has to wait."""
        self.phase = WAITING
        if not self.exchange.body_complete:
            self.stream.pause_body()

    def connect_failed(self, node: Node, status: int) -> None:
        """The connection to `node` could not be made: `status` 502 (refused) or 504 (too slow)."""
        self.failure = status
        self.tried = (*self.tried, node)
        self.exchange.node = node.name
        self.exchange.trouble = Trouble(node.error)
        if self.terms.service.tracer is not None:
            self.exchange.trace(self.terms.service.tracer, "connect failed", f"{node.name}: {node.error}")
        self.seek()

    def assigned(self, backend: BackendConnection) -> None:
        """`backend` is ours: send the request."""
        terms, exchange = self.terms, self.exchange
        self.backend = backend
        self.node = node = self.group.lend(backend, self)
        if backend.kept and (exchange.request.framing or exchange.request.method not in IDEMPOTENT) and backend.ended:
            self.terms.counts["backend_stale"] += 1
            self._drop_backend()  # once sent on it, it might be a request that cannot be sent again
            self.fresh = True
            self.seek()
            return
        exchange.asked = node
        exchange.attempts += 1
        exchange.node = node.name
        exchange.asked_at = now = terms.clock.now()
        tracer = terms.service.tracer
        if tracer is not None:
            kept = "a kept connection" if backend.uses > 1 else "a new connection"
            exchange.trace(tracer, "asked", f"{node.name} on {kept}, attempt {exchange.attempts}, {(now - exchange.started) * 1000:.2f} ms")
        self.phase = ASKED
        self.heard = self.resting = False
        hooks = terms.service.hooks
        if hooks.backend_client_assigned and not chain.run_each(hooks.backend_client_assigned, exchange):
            self._plugin_failed()
            return
        request = exchange.request
        backend.reader.expect(request.method)
        held = self.held
        if node.pool.sticky is not None:
            request = unbound(request, node.pool.sticky)
        size = None
        if held is not None and held.whole and (request.framing == CHUNKED or request.expect_continue):
            size = IN_CHUNKS if self._keeps_chunks(held) else held.size  # else the client said it
        head = request_octets(exchange, request, terms.service, node.authority, size, terms.via)
        if not exchange.body_complete:
            backend.deadline = inf  # the node waits for us; its time begins with the end of the body
        else:
            backend.deadline = inf if self.stream.full else now + terms.response_timeout
        if request.framing:
            self._send_body(backend, head)
        else:
            backend.write(head)

    def client_gone(self) -> None:
        """Nobody waits for the answer any more: the backend is told by closing."""
        if self.phase is WAITING:
            self.group.forget(self)
        elif self.phase is ANSWERING and self.node is not None and self.node.strikes:  # who streams mostly ends so
            self.node.whole(self.exchange.status)
        self._finish()
        self._drop_backend()

    # -- the backend's side --------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """See Reading."""
        return self.stream.full

    @property
    def done(self) -> bool:
        """See Outgoing."""
        return self.phase is DONE

    def _extend(self, backend: BackendConnection) -> None:
        """See Reading."""
        backend.deadline = inf if self.stream.full else self.terms.clock.now() + self.terms.response_timeout

    def _pass_on(self, out: list[bytes]) -> None:
        """See Reading. Nothing at all brings the head out."""
        if self.phase is ANSWERING:
            self.stream.write(out[0] if len(out) == 1 else b"".join(out))

    def _garbled(self, backend: BackendConnection, error: BadResponse) -> None:
        """See Reading."""
        self._blame(backend.node, error.reason, error.place, error.octet)
        self.terms.tell(backend.node, "bad_response", "%(reason)s", error.reason)
        self._failed(502)

    def _head(self, head: ResponseHead) -> bool:
        """A response head arrived: pass it on. True when the response has no body."""
        status = head.status
        backend, exchange = self.backend, self.exchange
        assert backend is not None
        if status == 101:
            self._switch(head)
            return False
        if status < 200:
            backend.node.unanswered = 0
            self.stream.interim(head, forwardable_block(head, _NO_LENGTH))
            return False
        backend.state = link.XFER_RES
        node = backend.node
        exchange.answered_at = now = self.terms.clock.now()
        node.answered(now, status)
        if status >= 500:
            exchange.trouble = Trouble(f"the node answered {status}")
        tracer = self.terms.service.tracer
        if tracer is not None:
            exchange.trace(tracer, "node answered", f"{node.name}: status {status}, {(now - exchange.asked_at) * 1000:.2f} ms")
        hooks = exchange.service.hooks
        if hooks.backend_response_received and self._is_taken(hooks.backend_response_received, head):
            return False
        for decider in self.terms.deciders:
            if decider.decide(self, head):
                return False
        trailer = head.fields.get(b"trailer") if head.framing == CHUNKED else None
        bodiless = head.framing == 0
        before = b""
        if hooks.modify_response_headers or hooks.prepend_body:
            made = modified(head, hooks, exchange)
            if made is None:
                self._plugin_failed()
                return False
            head, before, self.touched = made
            block = head.block
        else:
            block = forwardable_block(head) if status != 204 else forwardable_block(head, _NO_LENGTH)  # RFC 9110 section 8.6
        more = b""
        if b"date" not in head.fields:
            more = b"Date: %b\r\n" % http_date(self.terms.clock.epoch())
        offer = upgrade_offer(head)
        if offer:
            more += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % offer
        if node.pool.sticky is not None:
            more += binding(exchange, status, node, node.pool.sticky, self.terms.counts)
        if trailer is not None and (names := announced(trailer, _NOTHING if self.touched is None else self.touched.removed)):
            more += b"Trailer: %b\r\n" % names
        self.phase = ANSWERING
        self.stream.start(exchange, head, block, more)
        if before and exchange.method != b"HEAD":
            self.stream.write(before)
        return bodiless

    # Undecided: what a decider does with a response.

    @property
    def again_is_safe(self) -> bool:
        """See Undecided."""
        return self.exchange.request.method in IDEMPOTENT and (not self.body_sent or (self.held is not None and self.held.whole))

    def part(self, head: ResponseHead) -> None:
        """See Undecided."""
        self._finish()
        self._drop_response(head)
        self.exchange.let_go()

    def again(self, head: ResponseHead, delay: float, pool: Pool | None) -> None:
        """See Undecided."""
        self._drop_response(head)
        self._unassigned()
        self.exchange.asked = None
        self.exchange.answered_at = 0.0  # nothing of it is the client's
        self.body_sent = False
        self.terms.counts["backend_retries"] += 1
        if pool is not None:
            leave(self)  # it is no retry in the pool that it goes to, nor in the former one any more
            self.pool = pool
            self.tried = ()
        if delay:
            asyncio.get_running_loop().call_later(delay, self._seek_again)
        else:
            asyncio.get_running_loop().call_soon(self._seek_again)

    def _seek_again(self) -> None:
        """Unless the client has gone meanwhile, or the service."""
        if self.phase is WAITING and not self.exchange.answered:
            self.started = self.terms.clock.now()
            if self.terms.closed:
                self.give_up(503)
            else:
                self.seek()

    def _drop_response(self, head: ResponseHead) -> None:
        """Nothing of the response goes out: read a short rest of it and keep the connection, or close it."""
        backend, self.backend = self.backend, None
        if backend is None:
            return
        if backend.node.strikes:
            backend.node.whole(head.status)
        backend.relay = None
        sent_whole = self.exchange.body_complete and self.pump is None
        self._stop_pump()
        if head.framing == 0 or not sent_whole:
            self.group.release(backend, sent_whole)
        else:
            Drain(self.group, backend).backend_readable()

    def _is_taken(self, hooks: Bounds, head: ResponseHead) -> bool:
        """Run backend_response_received; whether a plugin has the exchange now, and the response is dropped.

        While the hooks run, the exchange is new and nobody's, so that they may answer it, keep it or hand it on.
        """
        exchange = self.exchange
        asked, exchange.asked = exchange.asked, None
        exchange.let_go()
        exchange.sink = None
        own = ResponseHead.made(head.status, forwardable_fields(head))
        own.reason = head.reason
        if not chain.run(hooks, exchange, own):
            exchange.enter(SERVED)
            exchange.asked, exchange.sink = asked, self
            return False
        sink = _sink_of(exchange)  # of whoever it was handed to
        self._finish()
        exchange.sink = sink
        if asked is not None:
            asked.latency.add(self.terms.clock.now() - exchange.asked_at)
        self._drop_response(head)
        if sink is None and not exchange.answered:  # the rest of its body is read and dropped
            self.stream.resume_body()
        return True

    def _plugin_failed(self) -> None:
        """A plugin failed, and the client has its 500."""
        self._finish()
        self._drop_backend()

    def _switch(self, head: ResponseHead) -> None:
        """101: from here on it is a tunnel (RFC 9110 section 7.8)."""
        backend, exchange = self.backend, self.exchange
        assert backend is not None
        if not exchange.request.upgrade or not exchange.body_complete or self.pump is not None:
            # Nobody asked; or the rest of the request's body would be taken for the new protocol (RFC 9110 section 7.8).
            self._failed(502)
            return
        self.backend = None
        self._finish()
        OpenTunnel(self.terms, exchange, backend, head)

    def client_fd(self) -> int:
        """See Attendant."""
        return self.stream.fd

    def _finish(self) -> None:
        """The exchange is nobody's from here, and its end is told to nobody."""
        self.phase = DONE
        if self.again_in is not None:
            leave(self)
        self.exchange.sink = None

    def _complete(self, out: list[bytes]) -> None:
        """The response is relayed whole."""
        backend, self.backend = self.backend, None
        assert backend is not None
        backend.relay = None
        self._finish()
        if backend.node.strikes:
            backend.node.whole(self.exchange.status)
        data = out[0] if len(out) == 1 else b"".join(out)
        trailer = backend.reader.trailer
        if trailer and self.touched is not None:
            trailer = self.touched.cut(trailer)
        sent_whole = self.exchange.body_complete and self.pump is None
        if self.pump is not None:
            self._stop_pump()
        self.group.release(backend, sent_whole)
        self.stream.end(self.exchange, data, trailer)

    def _lost(self, reason: str) -> None:
        """The backend went before the response was whole."""
        backend, node = self.backend, self.node
        assert backend is not None and node is not None
        if self.phase is ANSWERING:
            self._blame(node, f"response cut off: {reason}")
            self.terms.tell(node, "cut_off", "response cut off: %(reason)s", reason)
            self._failed(502)
            return
        stale = backend.kept and not self.fresh
        safe = self.again_is_safe and not self.heard and (stale or self.exchange.attempts < MOST_ATTEMPTS)
        if safe and not stale and not enter(self, node.pool, self.terms):
            safe = False
            reason += "; retry_budget is used up"
        if safe:
            self._drop_backend()
            if stale:  # which says nothing of the node; but the others may be stale as well. Once a request, so it needs no budget
                self.fresh = True
                self.terms.counts["backend_stale"] += 1
            else:
                self._blame(node, f"no response: {reason}")
                self.terms.tell(node, "no_response", _NO_RESPONSE, reason)
                self.tried = (*self.tried, node)
            self.failure = 502
            self.exchange.asked = None
            self.body_sent = False
            self.terms.counts["backend_retries"] += 1
            self.seek()
            return
        self._blame(node, f"no response: {reason}")
        self.terms.tell(node, "no_response", _NO_RESPONSE, reason)
        self._failed(502)

    def backend_expired(self) -> None:
        """The node was silent for response_timeout."""
        if self.node is not None:
            self._blame(self.node, f"silent for {self.terms.response_timeout:g} s")
            self.node.silent(self.terms.clock.now(), self.exchange.asked_at)
            self.terms.tell(self.node, "node_silent", "silent for too long")
        self._failed(504)

    def _blame(self, node: Node, why: str, place: int = -1, octet: int = -1) -> None:
        """`node` gave no usable answer: remember why, of the node and of the request."""
        node.broke(self.terms.clock.now(), why)
        self.exchange.trouble = Trouble(why, place, octet)
        if self.terms.service.tracer is not None:
            self.exchange.trace(self.terms.service.tracer, "node failed", f"{node.name}: {why}")

    # -- endings -------------------------------------------------------------------------------------------------

    def _failed(self, status: int) -> None:
        """No usable response: an error while that can still be said, else a visible cut."""
        self._drop_backend()
        if self.phase is not ANSWERING:
            self.give_up(status)
            return
        self._finish()
        self.exchange.cause = _OWN_ERRORS[status][2]
        self.terms.counts["truncated_responses"] += 1
        self.stream.cut(self.exchange)

    def give_up(self, status: int, why: str = "") -> None:
        """Answer with the proxy's own error, unless another pool may be asked."""
        if self.terms.failure_pool is not None and self._falls_back(self.terms.failure_pool):
            return
        self._finish()
        self.group.forget(self)
        self._drop_backend()
        counter, text, self.exchange.cause = _OWN_ERRORS[status]
        if self.exchange.trouble is None:
            self.exchange.trouble = Trouble(why or self.group.why_no_node())
        self.terms.counts[counter] += 1
        fields = [(b"Retry-After", b"1")] if status == 503 else []
        self.stream.resume_body()
        if not self.exchange.answered:  # reading on may have found that the body is no body
            self.exchange.error(status, text, fields)

    def _falls_back(self, pool: Pool) -> bool:
        """Send the request to another pool if that is safe, or no node has seen it (roles/proxy/fallback.py)."""
        exchange, terms = self.exchange, self.terms
        if pool is self.group.pool or terms.closed or exchange.answered:
            return False
        if not self.again_is_safe and (exchange.attempts or self.body_sent):
            return False
        self.group.forget(self)
        self._drop_backend()
        leave(self)
        terms.counts["fallbacks"] += 1
        if terms.service.tracer is not None:
            exchange.trace(terms.service.tracer, "fallback", f"to pool {pool.name}")
        self.pool = pool
        self.tried = ()
        self.failure = 503
        self.fresh = self.body_sent = False
        exchange.asked = None
        self._unassigned()
        asyncio.get_running_loop().call_soon(self._seek_again)
        return True

    def broke_down(self) -> None:
        """See Attendant. While it has the connection, its loss is the end of this."""
        if self.backend is None and self.phase is not WAITING:
            exchange = self.exchange
            self._finish()
            exchange.cause = exchange.cause or BROKE
            exchange.fail(500, b"This proxy failed.\n")

    def _release_lost(self) -> None:
        backend, self.backend = self.backend, None
        if backend is not None and self.node is not None:
            self.node.pool.released(self.node)

    def _drop_backend(self) -> None:
        """Part with the backend and close it."""
        self._stop_pump()
        backend = self.backend
        self._release_lost()
        if backend is not None:
            backend.abort()


def _sink_of(exchange: Exchange) -> Sink | None:
    """Who has an exchange now. A call, since what a compiler knows of an attribute must not outlast one."""
    return exchange.sink


_OWN_ERRORS: Final = {
    500: ("spool_failures", b"The request's body was lost.\n", NO_ROOM),
    502: ("backend_errors", b"No node gave a usable answer.\n", NODE_BROKE),
    503: ("backend_unavailable", b"No node is there to answer.\n", NO_NODE),
    504: ("backend_timeouts", b"No node answered in time.\n", NODE_SLOW),
}
