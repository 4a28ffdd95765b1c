"""A plugin's question on its way to a node and back (Service.ask). What a Relay is to a client's request, this is to a question.

    waiting -> asked -> done       the whole answer is there
                                   NoAnswer: no node, none in time, cut off, unreadable, too long

It has no client: nothing is streamed, nothing is paused. An answer that is longer than MOST ends with its
connection. One timer bounds all of it, however many nodes are tried.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Final

from pbal.http1.encoder import render_fields
from pbal.http1.events import BadResponse, RequestHead, ResponseHead
from pbal.model import faults
from pbal.model.asking import MOST, NoAnswer, NodeAnswer, Question
from pbal.model.balance import Asking, Member
from pbal.model.pool import Node, Pool
from pbal.net import backend as link
from pbal.net.backend import BackendConnection
from pbal.net.proxy_protocol import encode_local
from pbal.roles.proxy.binding import unbound_fields
from pbal.roles.proxy.groups import Groups
from pbal.roles.proxy.retry import enter, leave
from pbal.roles.proxy.seeker import MOST_ATTEMPTS, NORMAL, Seeker

_GET: Final = b"GET"
_TOO_LONG: Final = f"the answer is longer than {MOST} bytes"


class Inquiry:
    """A question, as the choice of a node looks at it. Nobody's address is behind it."""

    __slots__ = ("client_address", "request")

    def __init__(self, question: Question) -> None:
        self.client_address = b""
        self.request = head = RequestHead()
        head.path, _, head.query = question.target.partition(b"?")
        head.fields = {}
        for name, value in question.fields:
            known = name.lower()
            before = head.fields.get(known)
            between = b"; " if known == b"cookie" else b", "
            head.fields[known] = value if before is None else before + between + value

    def chosen(self, members: Sequence[Member]) -> int:
        """See Asking. Plugins choose for requests."""
        return -1


class Errand(Seeker):
    """One question on its way."""

    __slots__ = (
        "again_in", "asked_at", "attempts", "backend", "body", "bound", "coming", "done", "fresh", "group", "groups", "head", "heard",
        "node", "priority", "question", "reason", "resting", "said", "size", "started", "terms", "timer", "tried", "waited",
    )  # fmt: skip

    def __init__(self, groups: Groups, question: Question) -> None:
        self.groups = groups
        self.terms = groups.terms
        self.group = groups.main
        self.question = question
        self.started = self.terms.clock.now()
        self.tried: tuple[Node, ...] = ()
        self.again_in: Pool | None = None
        self.backend: BackendConnection | None = None
        self.node: Node | None = None
        self.attempts = 0
        self.asked_at = 0.0
        """When the node was sent the question (clock time)."""
        self.fresh = False
        """Whether only a new connection will do: a kept one was stale."""
        self.priority = NORMAL
        self.waited = False
        self.coming: BackendConnection | None = None
        self.bound: Node | None = None
        self.said = b"" if not self.terms.send_proxy else encode_local(self.terms.send_proxy)
        self.heard = self.resting = False
        self.done = False
        self.reason = "no node is in the pool"
        self.head: ResponseHead | None = None
        self.body: list[bytes] = []
        self.size = 0
        self.timer = asyncio.get_running_loop().call_later(question.timeout, self._too_late)

    # -- Seeker --------------------------------------------------------------------------------------------------

    def seek(self) -> None:
        """See Seeker."""
        if self.done:
            return
        self.group = group = self.groups.main
        if not group.seek(self):
            self._fail(self.reason)

    @property
    def asking(self) -> Asking | None:
        """See Seeker. It is made where the pool chooses by what a request says: a session may be the question."""
        return Inquiry(self.question) if self.group.choosy else None

    def waits(self, node: Node | None) -> None:
        """See Seeker. Nothing changes: the timer bounds that, too."""

    def connect_failed(self, node: Node, status: int) -> None:
        """See Seeker."""
        self.reason = f"{node.name} cannot be reached"
        self.tried = (*self.tried, node)
        self.seek()

    def give_up(self, status: int, why: str = "") -> None:
        """See Seeker."""
        self._fail(why or "no connection to a node was free")

    def assigned(self, backend: BackendConnection) -> None:
        """See Seeker."""
        self.backend = backend
        self.node = node = self.group.lend(backend, self)
        backend.deadline = inf  # the timer's business
        self.asked_at = self.terms.clock.now()
        self.attempts += 1
        self.heard = self.resting = False
        backend.reader.expect(_GET)
        backend.write(self._octets(node))

    def _octets(self, node: Node) -> bytes:
        """The request: the question's fields, and what HEADER statements say of all requests that go to nodes."""
        terms, question = self.terms, self.question
        service = terms.service
        rules = service.rules.request
        fields = question.fields
        if rules is not None:
            fields = rules.always.fields(fields)
        if node.pool.sticky is not None:
            fields = unbound_fields(fields, node.pool.sticky)
        more = b"" if any(name.lower() == b"host" for name, _ in fields) else b"Host: %b\r\n" % node.authority.encode()
        if not service.values["persist_backend"]:
            more += b"Connection: close\r\n"
        return b"GET %b HTTP/1.1\r\n%b%bVia: 1.1 %b\r\n\r\n" % (question.target, render_fields(fields), more, terms.via)

    # -- Reading -------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """See Reading. All of an answer is taken."""
        return False

    def _extend(self, backend: BackendConnection) -> None:
        """See Reading. The timer bounds all of it."""

    def _head(self, head: ResponseHead) -> bool:
        """See Reading."""
        backend = self.backend
        assert backend is not None
        if head.status == 101:
            raise BadResponse("it changed the protocol, unasked")
        if head.status < 200:
            return False
        backend.state = link.XFER_RES
        backend.node.answered(self.terms.clock.now(), head.status)
        self.head = head
        if head.framing > MOST:
            raise BadResponse(_TOO_LONG)
        return head.framing == 0

    def _pass_on(self, out: list[bytes]) -> None:
        """See Reading."""
        backend = self.backend
        self.body += out
        self.size += sum(map(len, out))
        if self.size > MOST and backend is not None:
            self._garbled(backend, BadResponse(_TOO_LONG))

    def _garbled(self, backend: BackendConnection, error: BadResponse) -> None:
        """See Reading."""
        if not self._has(backend):  # what came before it was too much already
            return
        backend.node.broke(self.terms.clock.now(), error.reason)
        self.terms.tell(backend.node, "bad_response", "%(reason)s", error.reason)
        self._fail(f"{backend.node.name}: {error.reason}")

    def backend_expired(self) -> None:
        """See Attendant. The backend has no deadline here."""

    # -- endings -------------------------------------------------------------------------------------------------

    def _complete(self, out: list[bytes]) -> None:
        """See Reading."""
        self._pass_on(out)
        backend, self.backend = self.backend, None
        if backend is None:  # it was too long
            return
        head = self.head
        assert head is not None
        backend.relay = None
        if backend.node.strikes:
            backend.node.whole(head.status)
        backend.node.latency.add(self.terms.clock.now() - self.asked_at)
        self.group.release(backend, True)
        self._tell(NodeAnswer(head.status, head.fields, b"".join(self.body)))

    def _lost(self, reason: str) -> None:
        """The connection went before the answer was whole. A GET may be sent again while nothing of an answer came."""
        backend = self.backend
        assert backend is not None
        stale, node = backend.kept and not self.fresh, backend.node
        self.reason = f"{node.name}: {reason}"
        safe = not self.heard and (stale or (self.attempts < MOST_ATTEMPTS and enter(self, node.pool, self.terms)))
        self._drop_backend()
        if not safe:
            node.broke(self.terms.clock.now(), f"no response: {reason}")
            self._fail(self.reason)
            return
        if stale:  # says nothing of the node
            self.fresh = True
            self.terms.counts["backend_stale"] += 1
        else:
            node.broke(self.terms.clock.now(), f"no response: {reason}")
            self.tried = (*self.tried, node)
        self.terms.counts["backend_retries"] += 1
        self.seek()

    def _too_late(self) -> None:
        if self.node is not None and self.backend is not None:
            now = self.terms.clock.now()
            self.node.latency.add(now - self.asked_at)
            self.node.broke(now, "silent for too long")
            self.node.silent(now, self.asked_at)
        self._fail(f"no answer in {self.question.timeout:g} s")

    def _fail(self, reason: str) -> None:
        self.group.forget(self)
        self._drop_backend()
        self._tell(NoAnswer(reason))

    def _drop_backend(self) -> None:
        backend, self.backend = self.backend, None
        if backend is not None:
            backend.node.pool.released(backend.node)
            backend.abort()

    def _tell(self, answer: NodeAnswer | NoAnswer) -> None:
        if self.done:
            return
        self.done = True
        leave(self)
        self.timer.cancel()
        faults.call_back(self.terms.service.world, partial(self.question.tell, answer))
