"""One exchange on its way through a backend and back.

    waiting    for a backend: connecting, or queued until one is bored       -> 503 after queue_timeout
    asked      request sent, or being sent                                   -> 504 after response_timeout
    answering  the response head went to the client                          -> cut off if the backend is
    tunnel     101 was relayed; octets both ways
    done

Every way out of `waiting` and `asked` gives the client an answer: another node where that is safe, else 502 (a node
refused or answered rubbish), 503 (no node), 504 (a node was silent). After the first octet of a response nothing can
be taken back: a loss then ends the client's connection, so that a truncated response looks truncated.

What is safe (RFC 9110 section 9.2.2): as long as nothing was sent, anything may go to another node. Once octets were
sent, only an idempotent method whose body is still at hand, and only if no octet of an answer came: part of a head counts, and
so does a 1xx, which the client would see twice.

Octets go by direct call from socket to socket. Each direction stops its sender when the receiver's buffer passes
buffer_size and goes on when it has drained. What a node sends in very many pieces is read in several turns (Reader.tired).
"""

import asyncio
import logging
from math import inf
from typing import Final

from pbal.http1.encoder import chunk, http_date, last_chunk, render_fields
from pbal.http1.events import CHUNKED, END, BadResponse, ResponseHead
from pbal.http1.headers import announced, forwardable_block, upgrade_offer
from pbal.model.balance import Asking
from pbal.model.collected import CollectedBody
from pbal.model.exchange import SERVED, Exchange
from pbal.model.hooks import Bound
from pbal.model.pool import Node, Pool
from pbal.model.tunnels import Tunnel
from pbal.net import backend as link
from pbal.net.backend import BackendConnection
from pbal.net.proxy_protocol import encode
from pbal.observe.access import BROKE, KICKED, NO_NODE, NO_ROOM, NODE_BROKE, NODE_SLOW
from pbal.observe.recent import Trouble
from pbal.roles import chain
from pbal.roles.proxy.binding import binding, unbound
from pbal.roles.proxy.decide import Undecided
from pbal.roles.proxy.drain import Drain
from pbal.roles.proxy.groups import Groups
from pbal.roles.proxy.priority import CLASS_NAMES, priority_of
from pbal.roles.proxy.pump import Pump
from pbal.roles.proxy.request import request_octets, trailer_octets
from pbal.roles.proxy.retry import enter, leave
from pbal.roles.proxy.seeker import MOST_ATTEMPTS, NORMAL

log = logging.getLogger("pbal.proxy")

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""
_NO_LENGTH: Final = frozenset({b"content-length"})

WAITING: Final = "waiting"
ASKED: Final = "asked"
ANSWERING: Final = "answering"
TUNNEL: Final = "tunnel"
DONE: Final = "done"

JOINED: Final = 65536
"""Octets of a body that go out in one write with the head: to copy more costs more than another write."""

NOBODY, CLIENT, NODE = 0, 1, 2
"""Which side of a tunnel has ended."""


class Relay(Undecided):
    """The state of one exchange in a reverse_proxy service."""

    __slots__ = (
        "again_in", "backend", "body_sent", "bound", "chunked_up", "coming", "ended", "exchange", "failure", "fresh", "group", "groups",
        "heard", "held", "node", "phase", "pool", "priority", "pump", "resting", "said", "started", "stream", "terms", "tried", "tunnel",
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
        """The request's body, whole, or what came of it before a node was sought."""
        self.pump: Pump | None = None
        """Brings a held body from the disk, while it does."""
        self.started = exchange.started if self.held is None else self.terms.clock.now()
        self.phase: str = WAITING
        self.tried: tuple[Node, ...] = ()
        self.again_in: Pool | None = None
        self.failure = 503
        self.body_sent = False
        """Whether octets of the body went out; of one that is held in part, octets that are not held."""
        self.chunked_up = False
        self.fresh = False
        self.priority = NORMAL
        self.waited = False
        self.coming: BackendConnection | None = None
        self.bound: Node | None = None
        self.said = b"" if not self.terms.send_proxy else encode(self.terms.send_proxy, *exchange.stream.ends())
        self.heard = False
        """Whether an octet of an answer came."""
        self.resting = False
        """Whether the rest of what the backend sent is read in the next turn of the loop."""
        self.ended = NOBODY
        self.tunnel: Tunnel | None = None
        exchange.enter(SERVED)
        exchange.sink = self
        exchange.sought_at = self.started

    # -- finding a backend ---------------------------------------------------------------------------------------

    def seek(self) -> None:
        """Ask for a backend on a node not tried yet, or give up with the status of the last failure."""
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
        self.node = exchange.asked = node = self.group.lend(backend, self)
        exchange.attempts += 1
        exchange.node = node.name
        exchange.asked_at = now = terms.clock.now()
        tracer = terms.service.tracer
        if tracer is not None:
            kept = "a kept connection" if backend.uses > 1 else "a new connection"
            exchange.trace(tracer, "asked", f"{node.name} on {kept}, attempt {exchange.attempts}, {(now - exchange.started) * 1000:.2f} ms")
        self.phase = ASKED
        self.heard = False
        request = exchange.request
        backend.reader.expect(request.method)
        held = self.held
        if node.pool.sticky is not None:
            request = unbound(request, node.pool.sticky)
        size = None
        if held is not None and held.whole and (request.framing == CHUNKED or request.expect_continue) and not self._keeps_chunks(held):
            size = held.size  # else the client said it
        head = request_octets(exchange, request, terms.service, node.authority, size, terms.via)
        if not exchange.body_complete:
            backend.deadline = inf  # the node waits for us; its time begins with the end of the body
        else:
            backend.deadline = inf if self.stream.full else now + terms.response_timeout
        if request.framing:
            self._send_body(backend, head)
        else:
            backend.write(head)

    # -- the request's body, out ---------------------------------------------------------------------------------

    def _send_body(self, backend: BackendConnection, head: bytes) -> None:
        """Send the head, what is held of the body, and then what the client goes on sending."""
        held = self.held
        self.chunked_up = self.exchange.request.framing == CHUNKED and (held is None or not held.whole or self._keeps_chunks(held))
        if held is None:
            backend.write(head)
        elif held.spooled:
            backend.write(head)
            self.body_sent = True
            self.pump = Pump(held, backend, self._pumped, self._unreadable)
            self.pump.go_on()
            return
        else:
            octets = b"".join(held.parts)
            if self.chunked_up and octets:
                octets = chunk(octets)
            if self.chunked_up and held.whole:
                octets += last_chunk(trailer_octets(self.exchange))
            if len(octets) <= JOINED:
                backend.write(head + octets)
            else:
                backend.write(head)
                backend.write(octets)
            if held.whole:
                self.body_sent = True
                return
        if self.chunked_up and self.exchange.body_complete:  # sent again: nothing of it came, but for what is held
            self.body_end()
        else:
            self.stream.resume_body()

    def _keeps_chunks(self, held: CollectedBody) -> bool:
        """Whether a body that is held whole goes out in chunks all the same: it has trailers. From the disk it goes out without them."""
        exchange = self.exchange
        return bool(exchange.trailer) and not held.spooled and not exchange.request.expect_continue

    def _pumped(self, all_out: bool) -> None:
        """A piece of a body from the disk went out."""
        if all_out:
            self.pump = None
        if self.backend is not None:
            self._extend(self.backend)

    def _unreadable(self, error: Exception) -> None:
        """The disk does not give the body back."""
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        self.terms.service.world.log_limited(
            f"spool {self.terms.name}",
            "service %(service)s: cannot read a request body from disk: %(reason)s",
            {"event": "spool_failed", "service": self.terms.name, "reason": reason},
        )
        self.exchange.trouble = Trouble(f"cannot read its body from disk: {reason}")
        self._failed(500)

    def _stop_pump(self) -> None:
        if self.pump is not None:
            self.pump.stop()
            self.pump = None

    # Sink: the client's body comes in.

    def body_data(self, data: bytes) -> None:
        """Octets of the request body, streamed."""
        backend = self.backend
        if self.phase is DONE:
            return  # answered already: the rest is read and dropped
        if backend is None:
            raise RuntimeError("body octets while no backend is assigned: pause_body was not honoured")
        if not self.body_sent:
            self.body_sent = True
            if self.held is not None:  # what was held went out before, and cannot be sent again without the rest
                self.held.close()
        if self.phase is TUNNEL:
            self._extend(backend)
            backend.write(data)
        else:
            backend.write(chunk(data) if self.chunked_up else data)

    def body_end(self) -> None:
        """The request body is complete; in a tunnel: the client will send no more."""
        backend = self.backend
        if backend is None or self.phase is DONE:
            return
        if self.phase is TUNNEL:
            self._tunnel_end(CLIENT)
            return
        if self.chunked_up:
            backend.write(last_chunk(trailer_octets(self.exchange)))
        self._extend(backend)

    def client_full(self) -> None:
        """The client takes slower than the backend sends: stop the backend."""
        backend = self.backend
        if backend is not None and backend.state is not link.CLOSED:
            backend.pause()
            backend.deadline = inf

    def client_drained(self) -> None:
        """The client took what was waiting."""
        backend = self.backend
        if backend is not None and not backend.closing:
            self._extend(backend)
            if not self.resting:
                backend.resume()

    def client_gone(self) -> None:
        """Nobody waits for the answer any more: the backend is told by closing."""
        if self.phase is WAITING:
            self.group.forget(self)
        elif self.phase is ANSWERING and self.node is not None and self.node.strikes:  # who streams mostly ends so
            self.node.whole(self.exchange.status)
        self._done()
        self._drop_backend()

    # -- the backend's side --------------------------------------------------------------------------------------

    def backend_full(self) -> None:
        """The backend takes slower than the client sends."""
        if self.backend is not None and self.phase is not TUNNEL:
            self._extend(self.backend)
        if self.pump is None:
            self.stream.pause_body()

    def backend_drained(self) -> None:
        """The backend took what was waiting."""
        if self.backend is not None and self.phase is not TUNNEL:
            if self.exchange.body_complete:
                self._extend(self.backend)
            else:
                self.backend.deadline = inf
        if self.pump is not None:
            self.pump.go_on()
        else:
            self.stream.resume_body()

    def _extend(self, backend: BackendConnection) -> None:
        """The backend showed life, or has to wait for us: its time starts anew."""
        terms = self.terms
        if self.phase is TUNNEL:
            now = terms.clock.now()
            backend.deadline = now + (terms.service.values["tunnel_timeout"] or inf)
            if self.tunnel is not None:
                self.tunnel.heard = now
        else:
            backend.deadline = inf if self.stream.full else terms.clock.now() + terms.response_timeout

    def backend_readable(self) -> None:
        """Octets of the response arrived: relay what is complete, in one write."""
        backend = self.backend
        if backend is None or self.phase is DONE or self.resting:
            return
        if self.phase is TUNNEL:
            self._extend(backend)
            self.stream.write(backend.reader.take_rest())
            return
        self.heard = True
        reader = backend.reader
        reader.begin_turn()
        out: list[bytes] = []
        try:
            while True:
                event = reader.next()
                if event is None:
                    break
                if event is END:
                    self._complete(out)
                    return
                if isinstance(event, bytes):
                    out.append(event)
                    continue
                assert isinstance(event, ResponseHead)
                ended = self._head(event)
                if ended:
                    self._complete(out)
                if ended or self.phase is DONE or self.phase is TUNNEL or not self._has(backend):
                    return
        except BadResponse as error:
            self._blame(backend.node, error.reason, error.place, error.octet)
            self.terms.service.world.log_limited(
                f"bad response {backend.node.name}",
                "%(node)s: %(reason)s",
                {"event": "bad_response", "service": self.terms.name, "node": backend.node.name, "reason": error.reason},
            )
            self._pass_on(out)
            self._failed(502)
            return
        self._pass_on(out)
        if reader.tired and self.phase is not DONE:
            self.resting = True
            backend.pause()
            asyncio.get_running_loop().call_soon(self._after_rest, backend)
        elif backend.state is link.XFER_RES:
            self._extend(backend)

    def _pass_on(self, out: list[bytes]) -> None:
        if self.phase is ANSWERING:
            self.stream.write(out[0] if len(out) == 1 else b"".join(out))

    def _after_rest(self, backend: BackendConnection) -> None:
        """Another turn of the loop: read on."""
        self.resting = False
        if not self._has(backend) or self.phase is DONE:
            return
        if not self.stream.full:
            backend.resume()
        self.backend_readable()
        if not self._has(backend):  # given back; who took it now is not the one that was full
            backend.resume()

    def _has(self, backend: BackendConnection) -> bool:
        """Whether this is the connection still. A call, since what a compiler knows of an attribute must not outlast one."""
        return self.backend is backend

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
        for decider in self.terms.deciders:
            if decider.decide(self, head):
                return False
        trailer = head.fields.get(b"trailer") if head.framing == CHUNKED else None
        hooks = exchange.service.hooks.modify_response_headers
        if hooks:
            modified = self._modify(hooks, head)
            if modified is None:
                return False
            head = modified
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
        if trailer is not None and (names := announced(trailer)):
            more += b"Trailer: %b\r\n" % names
        self.phase = ANSWERING
        self.stream.start(exchange, head, block, more)
        return head.framing == 0

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

    def _modify(self, hooks: tuple[Bound, ...], head: ResponseHead) -> ResponseHead | None:
        """Run modify_response_headers on a head of our own; None when a plugin failed and the client has its 500.

        What frames the message they do not see, and cannot change.
        """
        exchange = self.exchange
        own = ResponseHead.made(head.status, forwardable_fields(head))
        if not chain.run_all(hooks, exchange, own):
            self._finish()
            self._drop_backend()
            return None
        block = render_fields(own.headers)
        length = head.fields.get(b"content-length")
        if length is not None and head.status != 204:
            block += b"Content-Length: %b\r\n" % length
        own.block, own.reason, own.framing = block, head.reason, head.framing
        own.fields = {name.lower(): value for name, value in own.headers}
        return own

    def _switch(self, head: ResponseHead) -> None:
        """101: relay it, then octets both ways (RFC 9110 section 7.8)."""
        backend, exchange = self.backend, self.exchange
        assert backend is not None
        if not exchange.request.upgrade or not exchange.body_complete or self.pump is not None:
            # Nobody asked; or the rest of the request's body would be taken for the new protocol (RFC 9110 section 7.8).
            self._failed(502)
            return
        protocol = head.fields.get(b"upgrade", exchange.request.upgrade)
        self.phase = TUNNEL
        leave(self)
        backend.state = link.TUNNEL
        backend.node.answered(self.terms.clock.now(), 101)
        if backend.node.strikes:
            backend.node.whole(101)
        self.terms.counts["tunnels"] += 1
        block = forwardable_block(head)
        node = backend.node
        if node.pool.sticky is not None:
            block += binding(exchange, 101, node, node.pool.sticky, self.terms.counts)
        early = self.stream.tunnel(exchange, head, block, protocol, backend.reader.take_rest())
        if early:
            exchange.received += len(early)
            backend.write(early)
        world = self.terms.service.world
        now = self.terms.clock.now()
        self.tunnel = Tunnel(next(world.numbers), exchange, backend.node.name, protocol, now, self.kick)
        world.tunnels[self.tunnel.number] = self.tunnel
        self._extend(backend)
        if self.stream.half_closed:
            self._tunnel_end(CLIENT)

    def kick(self) -> None:
        """TUNNEL KICK: see model.tunnels."""
        if self.phase is TUNNEL:
            self._cut_tunnel(KICKED)

    def _cut_tunnel(self, cause: bytes) -> None:
        """End a tunnel on both sides."""
        self.exchange.cause = cause
        self._finish()
        self._drop_backend()
        self.stream.close(self.exchange)

    def _tunnel_end(self, side: int) -> None:
        """A side of a tunnel will send no more: tell the other; after both, close."""
        backend = self.backend
        if self.ended == NOBODY:
            self.ended = side
            if side == NODE:
                self.stream.write_eof()
            elif backend is not None:
                backend.write_eof()
        elif self.ended != side:  # a transport that reads on after its end tells of the end again
            self._release_lost()
            self._finish()
            self.stream.close(self.exchange)
            if backend is not None:
                backend.finish()

    def backend_now(self) -> BackendConnection | None:
        """See Attendant."""
        return self.backend

    def client_fd(self) -> int:
        """See Attendant."""
        return self.stream.fd

    def _finish(self) -> None:
        """The exchange is nobody's from here, and its end is told to nobody."""
        self.phase = DONE
        if self.again_in is not None or self.tunnel is not None:
            self._done()
        self.exchange.sink = None

    def _done(self) -> None:
        self.phase = DONE
        if self.again_in is not None:
            leave(self)
        if self.tunnel is not None:
            self.terms.service.world.tunnels.pop(self.tunnel.number, None)
            self.tunnel = None

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
        sent_whole = self.exchange.body_complete and self.pump is None
        if self.pump is not None:
            self._stop_pump()
        self.group.release(backend, sent_whole)
        self.stream.end(self.exchange, data, trailer)

    def backend_eof(self) -> None:
        """The backend will send no more."""
        backend = self.backend
        if backend is None:
            return
        if self.phase is TUNNEL:
            self._tunnel_end(NODE)
            return
        why = backend.cut_off()
        if why:
            self._lost(why)
        else:
            self.backend_readable()

    def backend_lost(self, exc: Exception | None) -> None:
        """The connection broke, or closed after its end was seen."""
        if self.backend is None or self.phase is DONE:
            return
        if self.phase is TUNNEL:
            self._release_lost()
            self._finish()
            self.stream.close(self.exchange)
            return
        self._lost(str(exc) if exc else "connection closed")

    def _lost(self, reason: str) -> None:
        """The backend went before the response was whole."""
        backend, node = self.backend, self.node
        assert backend is not None and node is not None
        world = self.terms.service.world
        if self.phase is ANSWERING:
            self._blame(node, f"response cut off: {reason}")
            world.log_limited(
                f"cut off {node.name}",
                "%(node)s: response cut off: %(reason)s",
                {"event": "cut_off", "service": self.terms.name, "node": node.name, "reason": reason},
            )
            self._failed(502)
            return
        reused = backend.kept
        safe = self.again_is_safe and not self.heard and self.exchange.attempts < MOST_ATTEMPTS
        if safe and not enter(self, node.pool, self.terms):
            safe = False
            reason += "; retry_budget is used up"
        if safe:
            self._drop_backend()
            if reused:  # a stale connection says nothing of the node; but the others may be stale as well
                self.fresh = True
            else:
                self._blame(node, f"no response: {reason}")
                world.log_limited(*self._no_response(node, reason))
                self.tried = (*self.tried, node)
            self.failure = 502
            self.exchange.asked = None
            self.body_sent = False
            self.terms.counts["backend_retries"] += 1
            self.seek()
            return
        self._blame(node, f"no response: {reason}")
        world.log_limited(*self._no_response(node, reason))
        self._failed(502)

    def _no_response(self, node: Node, reason: str) -> tuple[str, str, dict[str, str]]:
        """What is logged of it."""
        fields = {"event": "no_response", "service": self.terms.name, "node": node.name, "reason": reason}
        return f"no response {node.name}", "%(node)s: no response: %(reason)s", fields

    def backend_expired(self) -> None:
        """The node was silent for response_timeout (or the tunnel for tunnel_timeout)."""
        if self.phase is TUNNEL:
            self._cut_tunnel(NODE_SLOW)
            return
        if self.node is not None:
            self._blame(self.node, f"silent for {self.terms.response_timeout:g} s")
            self.terms.service.world.log_limited(
                f"silent {self.node.name}",
                "%(node)s: silent for too long",
                {"event": "node_silent", "service": self.terms.name, "node": self.node.name},
            )
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


_HIDDEN: Final = frozenset({b"content-length"})


def forwardable_fields(head: ResponseHead) -> list[tuple[bytes, bytes]]:
    """The fields of a response that hooks may see: without those of the hop and of the framing."""
    lines = forwardable_block(head, _HIDDEN).split(b"\r\n")
    pairs = [line.split(b":", 1) for line in lines if line]
    return [(name, value.strip(b" \t")) for name, value in pairs]


_OWN_ERRORS: Final = {
    500: ("spool_failures", b"The request's body was lost.\n", NO_ROOM),
    502: ("backend_errors", b"No node gave a usable answer.\n", NODE_BROKE),
    503: ("backend_unavailable", b"No node is there to answer.\n", NO_NODE),
    504: ("backend_timeouts", b"No node answered in time.\n", NODE_SLOW),
}
