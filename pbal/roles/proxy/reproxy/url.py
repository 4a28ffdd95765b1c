"""X-REPROXY-URL: what another server has, as the answer; the first URL of the list that works.

    seeking    a connection to the server of a URL
    asked      the request is sent                        -> the next URL if the server fails, is silent for response_timeout, or says no
    answering  the head went to the client                -> cut off if the server is
    done

The server is asked with GET, or HEAD for a HEAD, and with Host of its own URL. Of the client's fields it gets Via, and Range only if the
node's answer is 200 and If-Range holds by what the node said. Its 200 is the body of the node's answer, with its Content-Encoding where the
node says none; 206 and 416 are passed on with their Content-Range. A redirect is not followed, and an order in its answer is nothing: a
node is trusted, what a URL leads to is not.

A URL may lead only where reproxy_allow says (schema/destinations.py), by the address in the end. When no URL is left: 502 if all of them
were refused, else 503. Not more than buffer_size_reproxy_url waits for a slow client; then the server is not read.
"""

import re
from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from pbal.http1.conditional import evaluate, range_holds
from pbal.http1.encoder import http_date, render_fields
from pbal.http1.events import BadResponse, ResponseHead
from pbal.model.exchange import SERVED
from pbal.net import backend as link
from pbal.net.backend import BackendConnection
from pbal.observe.access import NO_NODE, NODE_BROKE, NODE_SLOW, quoted_text
from pbal.observe.recent import Trouble
from pbal.roles import chain
from pbal.roles.proxy.reproxy.order import ANY_SIZE, REFUSED, Order, fail, tell
from pbal.roles.proxy.reproxy.targets import Fetcher, Target, Targets
from pbal.roles.proxy.terms import Terms
from pbal.schema.destinations import allowed, may_be_allowed
from pbal.schema.types import ENDPOINT

MOST_URLS: Final = 32
"""URLs of one order that are looked at."""

SEEKING: Final = "seeking"
ASKED: Final = "asked"
ANSWERING: Final = "answering"
DONE: Final = "done"

_URL: Final = re.compile(rb"(https?)://(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]]+)(?::([0-9]{1,5}))?([/?][^#]*)?(?:#.*)?", re.IGNORECASE)
_PORTS: Final = {"http": 80, "https": 443}
_RANGE: Final = re.compile(rb"bytes (?:[0-9]+-[0-9]+|\*)/([0-9]{1,19})")
_NO_ESCAPE: Final = re.compile(rb"[^\x21-\x7e]")
_UNREACHED: Final = b"Nothing that could answer was reached.\n"


class Url:
    """One of an order."""

    __slots__ = ("authority", "host", "port", "scheme", "target", "text")

    def __init__(self, text: bytes, query: bool) -> None:
        """`query`: whether logs may show it. Raises: ValueError for what is no URL of http or https."""
        self.text = _shown(text, query)
        match = _URL.fullmatch(text)
        if match is None:
            raise ValueError("no URL of http or https")
        self.scheme = match[1].decode().lower()
        usual = _PORTS[self.scheme]
        port = usual if match[3] is None else int(match[3])
        endpoint = ENDPOINT.parse(f"{match[2].decode('ascii')}:{port}")
        self.host, self.port = endpoint.host.removesuffix("."), endpoint.port
        self.authority = match[2] if port == usual else b"%b:%d" % (match[2], port)
        target = _NO_ESCAPE.sub(lambda found: b"%%%02X" % found[0][0], match[4] or b"/")
        self.target = target if target.startswith(b"/") else b"/" + target


def _shown(text: bytes, query: bool) -> str:
    """A URL for people; without its query, which may hold credentials, where access_log_query is off."""
    return quoted_text(text if query else text.partition(b"?")[0]).decode("ascii")


class Fetch(Fetcher):
    """One order of URLs on its way."""

    __slots__ = (
        "addresses", "backend", "connect_timeout", "exchange", "failure", "fresh", "gives_up_at", "heard", "instead", "order",
        "phase", "range", "refused", "resting", "service_name", "stream", "target", "targets", "terms", "then", "tried", "trouble", "url",
        "urls",
    )  # fmt: skip

    def __init__(
        self, terms: Terms, order: Order, urls: list[bytes], then: Callable[[Order], None], instead: Callable[[], None] | None
    ) -> None:
        """`then` is told when a server has what was ordered. `instead` is done where none has, before anything was answered."""
        service = terms.service
        self.terms, self.order, self.then, self.instead = terms, order, then, instead
        self.exchange = order.exchange
        self.stream = order.exchange.stream
        self.targets = Targets.of(service.world)
        self.urls = urls
        self.url: Url | None = None
        self.target: Target | None = None
        self.backend: BackendConnection | None = None
        self.addresses: list[str] = []
        self.connect_timeout = float(service.values["connect_timeout"])
        self.gives_up_at = terms.clock.now() + terms.queue_timeout
        self.service_name = terms.name
        self.phase: str = SEEKING
        self.range = b""
        self.failure = NO_NODE
        self.trouble = "X-REPROXY-URL has no URL"
        self.refused = self.tried = 0
        """URLs that may not be gone to; those that did not work."""
        self.fresh = False
        """Whether only a new connection will do: a kept one was stale."""
        self.heard = self.resting = False

    def go(self) -> None:
        """Begin."""
        order, exchange = self.order, self.exchange
        fields, of = exchange.request.fields, order.validators
        exchange.enter(SERVED)
        if len(self.urls) > MOST_URLS:
            self._note(f"X-REPROXY-URL has {len(self.urls)} URLs, and {MOST_URLS} of them are looked at")
            self.urls = self.urls[:MOST_URLS]
        if order.status == 200 and exchange.method in (b"GET", b"HEAD") and order.is_validated:
            status = evaluate(exchange.method, fields, of.etag, of.modified)
            if status != 200:
                self._condition(status)
                return
        if order.status == 200 and exchange.method == b"GET" and b"range" in fields:
            condition = fields.get(b"if-range")
            if condition is None or range_holds(condition, of.etag, of.modified, exchange.service.world.clock.epoch()):
                self.range = fields[b"range"]
        exchange.sink = self
        self._next()

    def _condition(self, status: int) -> None:
        """304 or 412, by what the node said of its answer."""
        self.phase = DONE
        if status == 412:
            self.exchange.error(412, b"The condition does not hold.\n")
            return
        response = ResponseHead.made(304, [field for field in self.order.fields if not field[0].lower().startswith(b"content-")])
        hooks = self.exchange.service.hooks.modify_response_headers
        if not hooks or chain.run_all(hooks, self.exchange, response):
            self.exchange.respond(304, response.headers)

    # -- the next URL --------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Go to the next URL, or give up."""
        self.phase = SEEKING
        self.target = None
        while self.urls:
            text = self.urls.pop(0)
            query = bool(self.terms.service.values["access_log_query"])
            try:
                self.url = url = Url(text, query)
            except ValueError:
                self._refuse(f"X-REPROXY-URL: {_shown(text, query)} is no URL of http or https")
                continue
            self.exchange.note("reproxy", url.text)
            if not may_be_allowed(self.terms.service.values["reproxy_allow"], url.host, url.port):
                self._refuse(f"X-REPROXY-URL: {url.text} leads where reproxy_allow does not: {url.host}:{url.port} is not in it")
                continue
            self.fresh = False
            self.target = self.targets.at(url.scheme, url.host, url.port)
            self.target.seek(self)
            return
        self._give_up()

    def _refuse(self, why: str) -> None:
        self.trouble = why
        self.refused += 1
        self.terms.counts["reproxy_refused"] += 1
        self._note(why, "reproxy_refused")

    def _note(self, why: str, event: str = "reproxy_failed") -> None:
        """Say it in the log, and to who follows the request."""
        service = self.terms.service
        if service.tracer is not None:
            self.exchange.trace(service.tracer, "reproxy", why)
        tell(self.exchange, event, why)

    def may_reach(self, target: Target, addresses: Iterable[str]) -> bool:
        """See Fetcher."""
        found = list(addresses)
        self.addresses = list(allowed(self.terms.service.values["reproxy_allow"], target.host, target.port, found))
        if self.addresses:
            return True
        url = self.url
        at = "" if found == [target.host] else f", which is {' '.join(found[:3])},"
        self._refuse(
            f"X-REPROXY-URL: {'' if url is None else url.text}{at} leads where reproxy_allow does not: {target.label} is not in it"
        )
        self._next()
        return False

    def unreachable(self, why: str) -> None:
        """See Fetcher."""
        self._failed(why, NODE_BROKE)

    def give_up(self) -> None:
        """See Fetcher."""
        if self.phase is SEEKING:
            self.urls.clear()
            self._failed("no connection was free in time", NO_NODE)

    def _failed(self, why: str, cause: bytes) -> None:
        """This URL did not work: the next one, while the client has nothing of this."""
        self.trouble, self.failure = f"X-REPROXY-URL: {'' if self.url is None else self.url.text}: {why}", cause
        self.tried += 1
        self.terms.counts["reproxy_failures"] += 1
        self._note(self.trouble)
        self._drop()
        self._next()

    def _give_up(self) -> None:
        """No URL worked."""
        self.phase = DONE
        exchange = self.exchange
        exchange.sink = None
        if self.instead is not None:
            exchange.let_go()
            self.instead()
        elif self.refused and not self.tried:
            fail(exchange, 502, REFUSED, NODE_BROKE, "reproxy_refused", self.trouble)
        else:
            fail(exchange, 503, _UNREACHED, self.failure, "reproxy_failed", self.trouble)

    # -- asking --------------------------------------------------------------------------------------------------

    def assigned(self, backend: BackendConnection) -> None:
        """See Fetcher."""
        url, exchange, terms = self.url, self.exchange, self.terms
        assert url is not None
        self.backend = backend
        self.phase = ASKED
        self.heard = False
        method = b"HEAD" if exchange.method == b"HEAD" else b"GET"
        more = b"Range: %b\r\n" % self.range if self.range else b""
        if terms.service.tracer is not None:
            exchange.trace(terms.service.tracer, "reproxy", f"asked {backend.node.name} for {url.text}")
        backend.reader.expect(method)
        backend.deadline = terms.clock.now() + terms.response_timeout
        before = exchange.request.fields.get(b"via", b"")  # services whose nodes send each other round are found out by it
        via = b"%b, 1.1 %b" % (before, terms.via) if before else b"1.1 " + terms.via
        backend.write(
            b"%b %b HTTP/1.1\r\nHost: %b\r\n%bAccept-Encoding: identity\r\nVia: %b\r\n\r\n" % (method, url.target, url.authority, more, via)
        )

    # -- Reading -------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """See Reading."""
        return self.stream.full

    def _extend(self, backend: BackendConnection) -> None:
        """See Reading."""
        backend.deadline = inf if self.stream.full else self.terms.clock.now() + self.terms.response_timeout

    def _pass_on(self, out: list[bytes]) -> None:
        """See Reading. Nothing at all brings the head out."""
        if self.phase is ANSWERING:
            self.stream.write(out[0] if len(out) == 1 else b"".join(out))

    def _garbled(self, backend: BackendConnection, error: BadResponse) -> None:
        """See Reading."""
        self._broke(error.reason, NODE_BROKE)

    def _head(self, head: ResponseHead) -> bool:
        """See Reading."""
        if head.status == 101:
            raise BadResponse("it changed the protocol, unasked")
        if head.status < 200:
            return False
        why = self._why_not(head)
        if why:
            self._failed(why, NODE_BROKE)
            return False
        backend = self.backend
        assert backend is not None
        backend.state = link.XFER_RES
        if self.order.cache_for:
            self.then(self.order)
        if head.status == 416:
            more = [(b"Content-Range", head.fields[b"content-range"])] if b"content-range" in head.fields else []
            self._drop()
            self._finish()
            self.exchange.error(416, b"There is no such range of it.\n", more)
            return False
        self._begin(head)
        return self.phase is ANSWERING and head.framing == 0

    def _why_not(self, head: ResponseHead) -> str:
        """Why the server's answer is not what was ordered; "" if it is."""
        status, fields = head.status, head.fields
        if status in (206, 416) and self.range:
            match = _RANGE.fullmatch(fields.get(b"content-range", b""))
            if self.order.size != ANY_SIZE and (match is None or not self.order.fits(int(match[1]))):
                return "Content-Range is not of what X-REPROXY-EXPECTED-SIZE says"
            return ""
        if status == 206 or not 200 <= status < 300:
            return f"it answered {status}"
        length = fields.get(b"content-length", b"")
        if self.order.size != ANY_SIZE and (not length or not self.order.fits(int(length))):
            return "its length is not what X-REPROXY-EXPECTED-SIZE says"
        return ""

    def _begin(self, head: ResponseHead) -> None:
        """Begin the client's answer: the node's, with the body of the server's."""
        order, exchange = self.order, self.exchange
        fields = list(order.fields)
        status, reason = order.status, order.reason
        if head.status == 206:
            status, reason = 206, b""
            kind = head.fields.get(b"content-type", b"")
            if kind.lower().startswith(b"multipart/byteranges"):
                fields = [field for field in fields if field[0].lower() != b"content-type"] + [(b"Content-Type", kind)]
        coding = head.fields.get(b"content-encoding", b"")
        if coding and not any(field[0].lower() == b"content-encoding" for field in fields):
            fields.append((b"Content-Encoding", coding))  # a store may keep what is coded already, and sends that to everybody
        more = b""
        for name, said in ((b"Accept-Ranges", b"accept-ranges"), (b"Content-Range", b"content-range")):
            if said in head.fields and (head.status == 206 or said == b"accept-ranges"):
                more += b"%b: %b\r\n" % (name, head.fields[said])
        own = ResponseHead.made(status, fields)
        own.reason = reason
        hooks = exchange.service.hooks.modify_response_headers
        if hooks and not chain.run_all(hooks, exchange, own):
            self._drop()
            self._finish()
            return
        own.fields = {name.lower(): value for name, value in own.headers}
        own.block = render_fields(own.headers)
        own.framing = head.framing
        length = head.fields.get(b"content-length")
        if length is None and head.framing == 0 and exchange.method != b"HEAD":
            length = b"0"  # of a 204, which the client gets as a 200
        if length is not None:
            more += b"Content-Length: %b\r\n" % length
        if b"date" not in own.fields:
            more += b"Date: %b\r\n" % http_date(exchange.service.world.clock.epoch())
        self.phase = ANSWERING
        self.terms.counts["reproxy_urls"] += 1
        self.stream.hold(exchange.service.values["buffer_size_reproxy_url"])
        self.stream.start(exchange, own, own.block, more)

    # -- endings -------------------------------------------------------------------------------------------------

    def _complete(self, out: list[bytes]) -> None:
        """The answer is there whole."""
        self._release(True)
        self._finish()
        self.stream.end(self.exchange, out[0] if len(out) == 1 else b"".join(out))

    def _finish(self) -> None:
        self.phase = DONE
        self.exchange.sink = None
        self.stream.hold(0)

    def _release(self, keep: bool) -> None:
        backend, target = self.backend, self.target
        self.backend = None
        self.resting = False
        if backend is not None and target is not None:
            target.release(backend, keep)

    def _drop(self) -> None:
        """Part with the connection and close it."""
        self._release(False)

    def _broke(self, why: str, cause: bytes) -> None:
        """The server gave no whole answer: the next URL, or a visible cut if a part of it has gone out."""
        if self.phase is ASKED:
            self._failed(why, cause)
            return
        exchange = self.exchange
        exchange.trouble = Trouble(f"X-REPROXY-URL: {'' if self.url is None else self.url.text}: cut off: {why}")
        exchange.cause = cause
        self.terms.counts["truncated_responses"] += 1
        self._note(exchange.trouble.why)
        self._drop()
        self._finish()
        self.stream.cut(exchange)

    def _lost(self, why: str) -> None:
        backend, target = self.backend, self.target
        assert backend is not None and target is not None
        if self.phase is ASKED and backend.uses > 1 and not self.heard and not self.fresh:  # stale: says nothing of the server
            self.fresh = True
            self._drop()
            self.phase = SEEKING
            target.seek(self)
            return
        self._broke(why, NODE_BROKE)

    def backend_expired(self) -> None:
        """See Attendant."""
        self._broke(f"silent for {self.terms.response_timeout:g} s", NODE_SLOW)

    def client_fd(self) -> int:
        """See Attendant."""
        return self.stream.fd

    # -- Sink: the client ----------------------------------------------------------------------------------------

    def client_gone(self) -> None:
        """See Sink."""
        self.phase = DONE
        if self.target is not None:
            self.target.forget(self)
        self._drop()
