"""One exchange on its way through a backend and back.

    waiting    for a backend: connecting, or queued until one is bored       -> 503 after queue_timeout
    asked      request sent, or being sent                                   -> 504 after response_timeout
    answering  the response head went to the client                          -> cut off if the backend is
    tunnel     101 was relayed; octets both ways
    done

Every way out of `waiting` and `asked` gives the client an answer: another node where that is safe, else 502 (a node
refused or answered rubbish), 503 (no node), 504 (a node was silent). After the first octet of a response nothing can
be taken back: a loss then closes the client's connection, so that a truncated response looks truncated.

What is safe (RFC 9110 section 9.2.2): as long as nothing was sent, anything may go to another node. Once octets were
sent, only an idempotent method whose body is still at hand, and only if no octet of an answer came.

Octets go by direct call from socket to socket. Each direction stops its sender when the receiver's buffer passes
buffer_size and goes on when it has drained.
"""

import logging
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any, Final

from pbal.http1.events import CHUNKED, END, BadResponse, RequestHead, ResponseHead
from pbal.http1.headers import forwardable_block
from pbal.http1.writer import LAST_CHUNK, chunk, http_date, render_fields, status_line
from pbal.model.exchange import Exchange
from pbal.model.pool import Node
from pbal.net import backend as link
from pbal.net.backend import BackendConnection
from pbal.roles import chain
from pbal.roles.collect import CollectedBody

if TYPE_CHECKING:
    from pbal.roles.proxy.role import ReverseProxy

log = logging.getLogger("pbal.proxy")

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""
MOST_ATTEMPTS: Final = 4
"""Times a request is sent; connection failures are bounded by the number of nodes instead."""

_BELIEVED: Final = (
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-forwarded-port",
    b"x-real-ip",
    b"x-host",
    b"forwarded",
)
_SPOOFABLE: Final = frozenset({*_BELIEVED, *(name.replace(b"-", b"_") for name in _BELIEVED)})
"""Dropped from clients that are not trusted; with '_' too, which CGI and WSGI cannot tell from '-'."""
_LENGTH: Final = frozenset({b"content-length"})
_SPOOFABLE_AND_MORE: Final = _SPOOFABLE | {b"host", b"expect", b"content-length", b"max-forwards"}


class Relay:
    """The state of one exchange in a reverse_proxy service."""

    __slots__ = (
        "attempts", "backend", "body_sent", "chunked_down", "chunked_up", "client", "collected", "exchange", "failure", "fresh", "keep",
        "ended", "node", "phase", "pieces", "role", "started", "tried",
    )  # fmt: skip

    def __init__(self, role: "ReverseProxy", exchange: Exchange) -> None:
        self.role = role
        self.exchange = exchange
        self.client = exchange.client
        self.backend: BackendConnection | None = None
        self.node: Node | None = None
        self.collected: CollectedBody | None = exchange.collected_body()
        self.pieces: Iterator[bytes] | None = None
        self.started = exchange.started if self.collected is None else role.clock.now()
        self.phase = "waiting"
        self.tried: tuple[Node, ...] = ()
        self.attempts = 0
        self.failure = 503
        self.body_sent = False
        self.chunked_up = False
        self.chunked_down = False
        self.keep = False
        self.fresh = False
        self.ended: Any = None
        exchange.sink = self

    # -- finding a backend ---------------------------------------------------------------------------------------

    def seek(self) -> None:
        """Ask for a backend on a node not tried yet, or give up with the status of the last failure."""
        role = self.role
        node = role.pick(self.tried)
        if node is None:
            self.give_up(self.failure)
            return
        backend = None if self.fresh else role.bored_on(node)
        if backend is not None:
            self.assigned(backend)
            return
        self.phase = "waiting"
        if not self.exchange.body_complete:
            self.client.pause_body()
        role.connect_for(self, node)

    def connect_failed(self, node: Node, status: int) -> None:
        """The connection to `node` could not be made: `status` 502 (refused) or 504 (too slow)."""
        self.failure = status
        self.tried = (*self.tried, node)
        self.seek()

    def assigned(self, backend: BackendConnection) -> None:
        """`backend` is ours: send the request."""
        self.backend = backend
        self.node = node = backend.node
        node.active += 1
        node.requests += 1
        if backend.uses:
            self.role.counts["backend_reuses"] += 1
        backend.uses += 1
        backend.relay = self
        backend.state = link.WAIT_RES
        self.attempts += 1
        self.phase = "asked"
        request = self.exchange.request
        backend.reader.expect(request.method)
        backend.transport.write(self._request_octets(request))
        if request.framing and self.collected is None and not self.exchange.body_complete:
            backend.deadline = inf  # the node waits for us; its time begins with the end of the body
        else:
            self._extend(backend)
        if request.framing:
            self._send_body()

    # -- the request, out ----------------------------------------------------------------------------------------

    def _request_octets(self, request: RequestHead) -> bytes:
        """The head to send to the backend (RFC 9110 section 7.6, perlbal.md 7.6 and 11.2)."""
        role, client = self.role, self.client
        target, forwarded_for = request.target, client.peer
        if role.trusts(client.peer):
            dropped = frozenset({b"x-forwarded-for"})
            before = request.fields.get(b"x-forwarded-for")
            if before:
                forwarded_for = before + b", " + forwarded_for
        else:
            dropped = _SPOOFABLE
        more = b""
        if (
            not target.startswith(b"/")
            or request.expect_continue
            or self.collected is not None
            or request.framing == CHUNKED
            or not request.host
        ):
            target, dropped, more = self._unusual(request, dropped)
        if request.upgrade:
            more += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % request.upgrade
        elif not role.service.values["persist_backend"]:
            more += b"Connection: close\r\n"
        if request.method == b"OPTIONS" and b"max-forwards" in request.fields:
            dropped |= {b"max-forwards"}
            more += b"Max-Forwards: %d\r\n" % (int(request.fields[b"max-forwards"]) - 1)
        block = forwardable_block(request, dropped)
        if role.service.header_rules:
            block = role.munge(block)
        return b"%b %b HTTP/1.1\r\n%b%bX-Forwarded-For: %b\r\nVia: 1.%d pbal\r\n\r\n" % (
            request.method, target, block, more, forwarded_for, request.minor,
        )  # fmt: skip

    def _unusual(self, request: RequestHead, dropped: frozenset[bytes]) -> tuple[bytes, frozenset[bytes], bytes]:
        """Target, fields to drop and fields to add for what is not a plain origin-form request."""
        target, more = request.target, b""
        if not target.startswith(b"/") and target != b"*":  # absolute-form: RFC 9112 section 3.2.2
            target = request.path + (b"?" + request.query if request.query else b"")
            if request.method == b"OPTIONS" and request.target.count(b"/") == 2 and not request.query:
                target = b"*"  # RFC 9112 section 3.2.4
            dropped |= {b"host"}
            more += b"Host: %b\r\n" % request.host
        elif b"host" not in request.fields:  # HTTP/1.0 may do without; what goes out is HTTP/1.1
            more += b"Host: %b\r\n" % self.node.name.encode()  # type: ignore[union-attr]
        if self.collected is not None:
            dropped |= {b"expect", b"content-length"}
            more += b"Content-Length: %d\r\n" % self.collected.size
        elif request.framing == CHUNKED:
            more += b"Transfer-Encoding: chunked\r\n"
        return target, dropped, more

    def _send_body(self) -> None:
        """Start sending the body: what was collected, or what the client goes on sending."""
        if self.collected is not None:
            self.pieces = self.collected.pieces()
            self._send_pieces()
            return
        self.chunked_up = self.exchange.request.framing == CHUNKED
        if self.chunked_up and self.exchange.body_complete:  # sent again: it was empty, or it could not be
            self.body_end()
        else:
            self.client.resume_body()

    def _send_pieces(self) -> None:
        """Send collected pieces until the backend is full or all are out."""
        backend = self.backend
        if backend is None or self.pieces is None:
            return
        limit = self.role.buffer_size()
        for piece in self.pieces:
            self.body_sent = True
            backend.transport.write(piece)
            if backend.transport.get_write_buffer_size() > limit:
                return
        self.pieces = None

    # Sink: the client's body comes in.

    def body_data(self, data: bytes) -> None:
        """Octets of the request body, streamed."""
        backend = self.backend
        if self.phase == "done":
            return  # answered already: the rest is read and dropped
        if backend is None:
            raise RuntimeError("body octets while no backend is assigned: pause_body was not honoured")
        self.body_sent = True
        if self.phase == "tunnel":
            backend.deadline = self.role.clock.now() + (self.role.service.values["tunnel_timeout"] or inf)
            backend.transport.write(data)
        else:
            backend.transport.write(chunk(data) if self.chunked_up else data)

    def body_end(self) -> None:
        """The request body is complete; in a tunnel: the client will send no more."""
        backend = self.backend
        if backend is None or self.phase == "done":
            return
        if self.phase == "tunnel":
            self._tunnel_end(self.client.transport, backend.transport)
            return
        if self.chunked_up:
            backend.transport.write(LAST_CHUNK)
        self._extend(backend)

    def client_full(self) -> None:
        """The client takes slower than the backend sends: stop the backend."""
        if self.backend is not None and self.backend.state is not link.CLOSED:
            self.backend.transport.pause_reading()
            self.backend.deadline = inf

    def client_drained(self) -> None:
        """The client took what was waiting."""
        backend = self.backend
        if backend is not None and not backend.transport.is_closing():
            self._extend(backend)
            backend.transport.resume_reading()

    def client_gone(self) -> None:
        """Nobody waits for the answer any more: the backend is told by closing."""
        phase, self.phase = self.phase, "done"
        if phase == "waiting":
            self.role.forget(self)
        self._drop_backend()
        if self.collected is not None:
            self.collected.close()

    # -- the backend's side --------------------------------------------------------------------------------------

    def backend_full(self) -> None:
        """The backend takes slower than the client sends."""
        if self.backend is not None and self.phase != "tunnel":
            self._extend(self.backend)
        if self.pieces is None:
            self._pause_client()

    def backend_drained(self) -> None:
        """The backend took what was waiting."""
        if self.backend is not None and self.phase != "tunnel":
            if self.pieces is not None or self.exchange.body_complete:
                self._extend(self.backend)
            else:
                self.backend.deadline = inf
        if self.pieces is not None:
            self._send_pieces()
        else:
            self._resume_client()

    def _pause_client(self) -> None:
        if self.phase == "tunnel":
            self.client.transport.pause_reading()
        elif not self.exchange.body_complete:
            self.client.pause_body()

    def _resume_client(self) -> None:
        if self.phase == "tunnel":
            self.client.transport.resume_reading()
        else:
            self.client.resume_body()

    def _extend(self, backend: BackendConnection) -> None:
        """The backend showed life, or has to wait for us: its time starts anew."""
        values = self.role.service.values
        if self.phase == "tunnel":
            backend.deadline = self.role.clock.now() + (values["tunnel_timeout"] or inf)
        else:
            backend.deadline = inf if self.client.full else self.role.clock.now() + (values["response_timeout"] or inf)

    def backend_readable(self) -> None:
        """Octets of the response arrived: relay what is complete, in one write."""
        backend = self.backend
        if backend is None or self.phase == "done":
            return
        if self.phase == "tunnel":
            self._extend(backend)
            self.client.transport.write(backend.reader.take_rest())
            return
        out: list[bytes] = []
        ended = False
        try:
            while not ended:
                event = backend.reader.next()
                if event is None:
                    break
                if event is END:
                    if self.chunked_down:
                        out.append(LAST_CHUNK)
                    ended = True
                elif type(event) is bytes:
                    out.append(chunk(event) if self.chunked_down else event)
                else:
                    ended = self._head(event, out)  # type: ignore[arg-type]
                    if self.phase in ("done", "tunnel"):
                        return
        except BadResponse as error:
            log.warning("%s: %s", backend.node.name, error.reason)
            self._failed(502, out)
            return
        if out:
            self.client.transport.write(out[0] if len(out) == 1 else b"".join(out))
        if ended:
            self._complete()
        elif backend.state is link.XFER_RES:
            self._extend(backend)

    def _head(self, head: ResponseHead, out: list[bytes]) -> bool:
        """A response head arrived; append what the client gets. True when the response has no body."""
        status = head.status
        backend, exchange = self.backend, self.exchange
        assert backend is not None
        request = exchange.request
        if status == 101:
            self._switch(head)
            return False
        if status < 200:
            if request.minor:
                out.append(status_line(status, head.reason) + forwardable_block(head, _LENGTH) + b"\r\n")
            return False
        now = self.role.clock.now()
        backend.state = link.XFER_RES
        node = backend.node
        node.last_response = now
        node.responses[status] = node.responses.get(status, 0) + 1
        self.phase = "answering"
        client = self.client
        client.begin_response()
        hooks = exchange.service.hooks.modify_response_headers
        if hooks:
            modified = self._modify(hooks, head)
            if modified is None:
                return False
            head = modified
        keep = client.keeps(exchange)
        block = forwardable_block(head) if status != 204 else forwardable_block(head, _LENGTH)  # RFC 9110 section 8.6
        tail = b""
        framing = head.framing
        if framing < 0:
            if request.minor:
                self.chunked_down = True
                tail = b"Transfer-Encoding: chunked\r\n"
            else:
                keep = False
        if b"date" not in head.fields:
            tail += b"Date: %b\r\n" % http_date(self.role.clock.epoch())
        if not keep:
            tail += b"Connection: close\r\n"
        elif not request.minor:
            tail += b"Connection: keep-alive\r\n"
        self.keep = keep
        out.append(b"%b%b%b\r\n" % (status_line(status, head.reason), block, tail))
        return framing == 0

    def _modify(self, hooks: tuple[Any, ...], head: ResponseHead) -> ResponseHead | None:
        """Run modify_response_headers on a head of our own; None when a plugin failed and the client has its 500."""
        own = ResponseHead.made(head.status, list(head.headers))
        if not chain.run_all(hooks, self.exchange, own):
            self.phase = "done"
            self._drop_backend()
            return None
        own.block, own.reason, own.framing = render_fields(own.headers), head.reason, head.framing
        own.fields = {name.lower(): value for name, value in own.headers}
        return own

    def _switch(self, head: ResponseHead) -> None:
        """101: relay it, then octets both ways (RFC 9110 section 7.8)."""
        backend, request = self.backend, self.exchange.request
        assert backend is not None
        if not request.upgrade:
            self._failed(502, [])
            return
        protocol = head.fields.get(b"upgrade", request.upgrade)
        self.phase = "tunnel"
        backend.state = link.TUNNEL
        self.role.counts["tunnels"] += 1
        early = self.client.begin_tunnel()
        self.client.transport.write(
            b"%b%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n%b"
            % (status_line(101, head.reason), forwardable_block(head), protocol, backend.reader.take_rest())
        )
        if early:
            backend.transport.write(early)
        self._extend(backend)
        if self.client.half_closed:
            self._tunnel_end(self.client.transport, backend.transport)

    def _tunnel_end(self, ended: Any, other: Any) -> None:
        """A side of a tunnel will send no more: tell the other; after both, close."""
        if self.ended is None:
            self.ended = ended
            if other.can_write_eof():
                other.write_eof()
        elif self.ended is not ended:  # a transport that reads on after its end tells of the end again
            backend = self.backend
            self._release_lost()
            self.phase = "done"
            self.exchange.sink = None
            self.client.finish(False)
            if backend is not None:
                backend.finish()

    def _complete(self) -> None:
        """The response is relayed whole."""
        self.phase = "done"
        backend, self.backend = self.backend, None
        assert backend is not None
        backend.relay = None
        self.role.release(backend, self.exchange.body_complete and self.pieces is None)
        if self.collected is not None:
            self.collected.close()
        self.exchange.sink = None
        self.client.finish(self.keep)

    def backend_eof(self) -> None:
        """The backend will send no more."""
        backend = self.backend
        if backend is None:
            return
        if self.phase == "tunnel":
            self._tunnel_end(backend.transport, self.client.transport)
            return
        try:
            backend.reader.eof()
        except BadResponse as error:
            self._lost(error.reason)
            return
        self.backend_readable()

    def backend_lost(self, exc: Exception | None) -> None:
        """The connection broke, or closed after its end was seen."""
        if self.backend is None or self.phase == "done":
            return
        if self.phase == "tunnel":
            self._release_lost()
            self.phase = "done"
            self.client.close()
            return
        self._lost(str(exc) if exc else "connection closed")

    def _lost(self, reason: str) -> None:
        """The backend went before the response was whole."""
        backend, node = self.backend, self.node
        assert backend is not None and node is not None
        if self.phase == "answering":
            log.info("%s: response cut off: %s", node.name, reason)
            self._failed(502, [])
            return
        reused = backend.uses > 1
        replayable = not self.body_sent or self.collected is not None
        safe = self.exchange.request.method in IDEMPOTENT and replayable
        if safe and self.attempts < MOST_ATTEMPTS:
            self._drop_backend()
            if reused:  # a stale connection says nothing of the node; but the others may be stale as well
                self.fresh = True
            else:
                self.tried = (*self.tried, node)
            self.failure = 502
            self.body_sent = False
            self.role.counts["backend_retries"] += 1
            self.seek()
            return
        log.warning("%s: no response: %s", node.name, reason)
        self._failed(502, [])

    def backend_expired(self) -> None:
        """The node was silent for response_timeout (or the tunnel for tunnel_timeout)."""
        if self.phase == "tunnel":
            self.client.close()
            self._drop_backend()
            self.phase = "done"
            return
        if self.node is not None:
            log.warning("%s: silent for too long", self.node.name)
        self._failed(504, [])

    # -- endings -------------------------------------------------------------------------------------------------

    def _failed(self, status: int, out: list[bytes]) -> None:
        """No usable response: an error while that can still be said, else a visible cut."""
        self._drop_backend()
        if self.phase != "answering":
            self.give_up(status)
            return
        self.phase = "done"
        self.exchange.sink = None
        self.role.counts["truncated_responses"] += 1
        client = self.client
        if out:
            client.transport.write(b"".join(out))
        if self.chunked_down or self.exchange.request.minor:
            client.close()
        else:
            client.reset()

    def give_up(self, status: int) -> None:
        """Answer with the proxy's own error."""
        self.phase = "done"
        self.role.forget(self)
        self._drop_backend()
        self.exchange.sink = None
        if self.collected is not None:
            self.collected.close()
        counter, text = _OWN_ERRORS[status]
        self.role.counts[counter] += 1
        fields = [(b"Retry-After", b"1")] if status == 503 else []
        self.client.resume_body()
        self.exchange.respond(status, fields, text)

    def _release_lost(self) -> None:
        backend, self.backend = self.backend, None
        if backend is not None and self.node is not None:
            self.node.pool.released(self.node)

    def _drop_backend(self) -> None:
        """Part with the backend and close it."""
        backend = self.backend
        self._release_lost()
        if backend is not None:
            backend.abort()


_OWN_ERRORS: Final = {
    502: ("backend_errors", b"No node gave a usable answer.\n"),
    503: ("backend_unavailable", b"No node is there to answer.\n"),
    504: ("backend_timeouts", b"No node answered in time.\n"),
}
