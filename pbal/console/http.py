"""HTTP on a console's port: a status page, /metrics, /healthz, /readyz, and Perlbal's own pages.

A connection whose first line is one of HTTP is handed over to this protocol by console/connection.py and stays with it. It only shows:
GET and HEAD are answered, any other method is 405, and what a request has for a body is not read. So there is nothing that a page of
somebody else could have a browser do here; and since that page could still make its own name mean this address (DNS rebinding) and read
what is answered, a Host that is neither an address, nor localhost, nor one of `hosts` is answered 421.

    waiting        between requests              -> closed after KEEP_SECONDS
    reading        part of a head is there       -> closed after HEAD_SECONDS
    working        an answer is being made       -> what comes meanwhile waits, and reading pauses where it is much
    full           answers wait to be read       -> as long as that is so no other is begun; closed after KEEP_SECONDS
    lingering      see net/linger.py             after the last answer

/healthz and /readyz are answered at once and ask for no password: a load balancer has none. The others are made by a task, in pieces, by
console/pages.py.
"""

import asyncio
import ipaddress
import json
import logging
from math import inf
from typing import Final

from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.console.gate import Denied, Gate, address_of, credentials
from pbal.console.history import History
from pbal.console.pages import Answer, Pages, plain
from pbal.console.peer import Manager, identity
from pbal.console.readiness import unwell, why_not_ready
from pbal.http1 import encoder
from pbal.http1.events import Malformed, RequestHead
from pbal.http1.reader import Limits, RequestReader
from pbal.model.service import Service
from pbal.net.linger import Lingering
from pbal.net.tasks import spawn

FAULTS: Final = (Exception, SystemExit)
"""What an answer may raise while it is made: a plugin may have a part in it."""
log = logging.getLogger("pbal.console")

HEAD_SECONDS: Final = 10.0
KEEP_SECONDS: Final = 75.0
READ_AHEAD: Final = 16384
"""Octets that may wait while an answer is made."""
BURST: Final = 16
"""Requests answered in one turn of the loop."""
LIMITS: Final = Limits(max_head=16384)

SAFE: Final = (
    (b"Cache-Control", b"no-store"),
    (b"Content-Security-Policy",
     b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
     b"base-uri 'none'; form-action 'none'"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"X-Content-Type-Options", b"nosniff"),
)  # fmt: skip
"""What every answer says: nothing of elsewhere runs in these pages, and no other page shows or reads them."""


class HttpConnection(Manager):
    """A console's connection that speaks HTTP."""

    def __init__(self, service: Service, interpreter: Interpreter, gate: Gate, history: History, born: int) -> None:
        super().__init__(service, born)
        self._gate = gate
        session = Session(service.world, interpreter, origin="console")
        session.console = service
        self._pages = Pages(session, history)
        self._reader = RequestReader(LIMITS)
        self._address = ""
        self._ended = False
        """The client sent its last."""
        self._room = asyncio.Event()
        self._room.set()

    # -- the socket ----------------------------------------------------------------------------------------------

    def take_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """Go on with a connection on which `data` came. It is in World.clients from now on."""
        self.transport = transport
        self.peer_name, address = identity(transport)
        self._address = address_of(address)
        self.service.world.joined(self)
        transport.set_protocol(self)
        self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = "closed"
        self._gate.settled(self.transport)
        self.service.world.clients.discard(self)
        self.service.world.counters.counts["clients"] -= 1
        self._room.set()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self.state not in ("working", "full"):
            self._go_on()
        elif self._reader.buffered > READ_AHEAD:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """What was asked before the end is still answered, all of it."""
        self._ended = True
        return self.state in ("working", "full")

    def pause_writing(self) -> None:
        self._room.clear()
        self.deadline = self.service.world.clock.now() + KEEP_SECONDS

    def resume_writing(self) -> None:
        self._room.set()
        self.deadline = inf
        if self.state != "working":
            self.state = "waiting"
            self._go_on()

    # -- requests ------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Take up what waits."""
        if self.state == "closed" or self.transport.is_closing():
            return
        for _ in range(BURST):
            if not self._room.is_set():
                self.state = "full"
                return
            try:
                head = self._reader.next()
            except Malformed as refusal:
                self._send(plain(refusal.status, refusal.reason), 0)
                self._part()
                return
            if not isinstance(head, RequestHead):
                self._rest()
                return
            if not self._begin(head):
                return
        self.state = "working"
        asyncio.get_running_loop().call_soon(self._later)

    def _rest(self) -> None:
        """All that came is answered, or it is part of a head, whose time begins with its first octet."""
        if not self.transport.is_reading():
            self.transport.resume_reading()
        state = "reading" if self._reader.buffered else "waiting"
        if state != self.state or self.deadline == inf:
            self.state = state
            self.deadline = self.service.world.clock.now() + (HEAD_SECONDS if state == "reading" else KEEP_SECONDS)
        if self._ended:
            self._part()

    def _later(self) -> None:
        if self.state == "working":
            self.state = "waiting"
            self._go_on()

    def _begin(self, head: RequestHead) -> bool:
        """Answer a request, or have it answered; whether the next one may follow at once."""
        self.requests += 1
        self.deadline = inf
        self.service.world.counters.counts["console_http_requests"] += 1
        answer = self._at_once(head)
        if answer is not None:
            return self._finish(head, answer)
        self.state = "working"
        spawn(self, self._work(head), "console http")
        return False

    def _at_once(self, head: RequestHead) -> Answer | None:
        """What needs no task, and what is refused."""
        world = self.service.world
        if not self._is_ours(head.host):
            world.log_limited(
                "console host",
                "%(client)s: answered 421: called by the name %(host)s (SET hosts)",
                {"event": "console_misdirected", "service": self.service.name, "client": self.peer_name, "host": _shown(head.host)},
            )
            return plain(421, "This console is not called by that name: SET hosts on it tells which ones it has.")
        if head.method not in (b"GET", b"HEAD"):
            return Answer(405, ((b"Allow", b"GET, HEAD"), (b"Content-Type", b"text/plain; charset=utf-8")), b"This port only shows.\n")
        if head.path == b"/healthz":
            return plain(200, "ok")
        if head.path == b"/readyz":
            why = why_not_ready(world)
            return plain(503 if why else 200, why or "\n".join(["ready", *unwell(world)]))
        return None

    def _is_ours(self, host: bytes) -> bool:
        """Whether a Host is an address (no page of others is reached by one), localhost, or a name that was SET. HTTP/1.0 has none."""
        name = host.decode("latin-1").lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0].removesuffix(".")
        if name in ("", "localhost") or name in (each.lower() for each in self.service["hosts"]):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _work(self, head: RequestHead) -> None:
        try:
            answer = await self._refusal(head) or await self._pages.answer(head.path, head.query)
        except FAULTS as error:  # a fault of ours: logged whole, and told in a line
            fields = {"event": "page_failed", "target": _shown(head.target), "fault": repr(error)}
            log.error("console, %(target)s: %(fault)s", fields, exc_info=error)
            answer = plain(500, "This page could not be made; the log says why.")
        await self._room.wait()
        if self.state != "closed" and self._finish(head, answer):
            self.state = "waiting"
            self._go_on()

    async def _refusal(self, head: RequestHead) -> Answer | None:
        """What is answered instead to who does not say the password, where there is one. Source: RFC 7617."""
        if not self._gate.closed:
            return None
        asking = (b"WWW-Authenticate", b'Basic realm="pbal", charset="UTF-8"')
        said = credentials(head.fields.get(b"authorization", b""))
        if said is None:
            return plain(401, "A user and a password, please.", asking)
        try:
            await self._gate.check(self._address, *said)
        except Denied as denied:
            if denied.wait:
                return plain(429, denied.reason, (b"Retry-After", b"%d" % denied.wait))
            return plain(401, denied.reason, asking)
        self._gate.settled(self.transport)
        return None

    # -- answers -------------------------------------------------------------------------------------------------

    def _finish(self, head: RequestHead, answer: Answer) -> bool:
        """Send an answer; whether the connection may serve another request."""
        facts = (0 if head.minor else encoder.OLD) | (encoder.HEAD_ONLY if head.method == b"HEAD" else 0)
        keep = head.keep_alive and not head.framing and head.method in (b"GET", b"HEAD")
        self._send(answer, facts | (encoder.KEEP if keep else 0))
        if not keep:
            self._part()
        return keep

    def _send(self, answer: Answer, facts: int) -> None:
        if not self.transport.is_closing():
            epoch = self.service.world.clock.epoch()
            self.transport.write(encoder.whole(answer.status, (*answer.fields, *SAFE), answer.body, facts, b"Server: pbal\r\n", epoch))

    def _part(self) -> None:
        """That was the last answer: what still comes is dropped, since a reset because of it would take the answer away."""
        world = self.service.world
        world.clients.discard(self)
        self.state = "closed"
        self._gate.settled(self.transport)
        world.joined(Lingering(self.service, self.transport, self.born, self.requests))


def _shown(octets: bytes) -> str:
    """What a stranger sent, for the log."""
    return json.dumps(octets[:200].decode("latin-1"))
