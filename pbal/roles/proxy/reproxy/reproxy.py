"""What a service with enable_reproxy does with its nodes' responses (a Decider), and with requests whose order is known.

    decide       a response with an order: the node's connection goes back at once, and file.py, url.py or another service answers
    from_cache   a request for which a node's order is remembered (cache.py): url.py answers, and no node is asked

X-REPROXY-SERVICE hands the request to a service as a selector does, for this one request: that service's hooks, trust and limits hold. A
request whose body the node has had cannot be handed on. Services that hand a request round and round are stopped after DEEPEST.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from pbal.http1.encoder import http_date
from pbal.http1.events import ResponseHead
from pbal.model.errors import AnswerRefused, ConfigError
from pbal.model.exchange import Exchange
from pbal.observe.access import NODE_BROKE, quoted_text
from pbal.roles.proxy.binding import binding
from pbal.roles.proxy.decide import Undecided
from pbal.roles.proxy.decider import Decider
from pbal.roles.proxy.reproxy.cache import Cache
from pbal.roles.proxy.reproxy.file import reproxy_file
from pbal.roles.proxy.reproxy.order import FILE, NOTHING, ORDERS, SERVICE, URL, Order, fail
from pbal.roles.proxy.reproxy.url import Fetch
from pbal.roles.proxy.terms import Terms

DEEPEST: Final = 8
"""Services to which a request is handed in a row; more is a loop."""


class Reproxy(Decider):
    """See above."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.cache: Cache | None = None
        self.read_cache_size()

    def read_cache_size(self) -> None:
        """SET reproxy_cache_maxsize."""
        most = int(self.terms.service.values["reproxy_cache_maxsize"])
        if not most:
            self.cache = None
        elif self.cache is None:
            self.cache = Cache(most)
        else:
            self.cache.limit(most)

    def decide(self, relay: Undecided, head: ResponseHead) -> bool:
        """See Decider."""
        if ORDERS.isdisjoint(head.fields):
            return False
        exchange = relay.exchange
        order = Order(exchange, head, "" if relay.node is None else relay.node.pool.name)
        relay.part(head)
        node, exchange.asked = exchange.asked, None
        if node is not None:
            node.latency.add(self.terms.clock.now() - exchange.asked_at)  # what comes now takes none of its time
            if node.pool.sticky is not None:
                order.add(binding(exchange, order.status, node, node.pool.sticky, self.terms.counts))
        exchange.stream.resume_body()
        if not exchange.answered:  # reading on may have found that the body is no body
            self._carry_out(order)
        return True

    def _carry_out(self, order: Order) -> None:
        head, exchange = order.head, order.exchange
        if head.status == 304:  # which has no body, whatever is named
            exchange.respond(304, order.fields)
        elif FILE in head.fields:
            path = head.fields[FILE]
            self._tell(exchange, "file", path)
            reproxy_file(order, path)
        elif URL in head.fields:
            Fetch(self.terms, order, order.said(URL), self._remember, None).go()
        else:
            self._tell(exchange, "service", head.fields[SERVICE])
            self._hand_on(exchange, head.fields[SERVICE].decode("latin-1"))

    def _tell(self, exchange: Exchange, kind: str, what: bytes) -> None:
        """Say for the access log, and to who follows it, where the answer comes from."""
        text = f"{kind} {quoted_text(what).decode('ascii')}"
        exchange.note("reproxy", text)
        if self.terms.service.tracer is not None:
            exchange.trace(self.terms.service.tracer, "reproxy", text)

    # -- another service -----------------------------------------------------------------------------------------

    def _hand_on(self, exchange: Exchange, name: str) -> None:
        service = self.terms.service.world.services.get(name.lower())
        said = f"X-REPROXY-SERVICE: {quoted_text(name.encode()).decode('ascii')}"
        exchange.hops += 1
        if service is None:
            fail(exchange, 404, NOTHING, NODE_BROKE, "reproxy_missing", f"{said} does not exist")
        elif exchange.hops > DEEPEST:
            self.terms.counts["loops_refused"] += 1
            fail(exchange, 508, b"Services hand this request to each other.\n", NODE_BROKE, "loop", f"{said}: handed on {DEEPEST} times")
        else:
            try:
                exchange.hand_to(service)
                self.terms.counts["reproxy_services"] += 1
            except AnswerRefused:
                why = f"{said}: the node has had the body of the request, and it cannot be handed on"
                fail(exchange, 502, b"The request cannot be handed on.\n", NODE_BROKE, "reproxy_failed", why)
            except ConfigError as error:
                why = f"{said}: {error.message}"
                fail(exchange, 502, b"The request cannot be handed on.\n", NODE_BROKE, "reproxy_failed", why)

    # -- the cache -----------------------------------------------------------------------------------------------

    def _remember(self, order: Order) -> None:
        """A server has what was ordered."""
        if self.cache is not None:
            self.cache.remember(order, self.terms.clock.now())

    def from_cache(self, exchange: Exchange, pool: str, relay: Callable[[], None]) -> bool:
        """Answer a request whose order is known of `pool`. `relay` asks a node, if none of the URLs works any more."""
        cache = self.cache
        if cache is None:
            return False
        entry = cache.find(exchange, pool, self.terms.clock.now())
        if entry is None:
            return False
        head = ResponseHead.made(200, [(b"Date", http_date(self.terms.clock.epoch())), *entry.fields])
        head.block = b"".join([b"%b: %b\r\n" % field for field in head.headers])
        order = Order(exchange, head, pool)
        order.size = entry.size
        Fetch(self.terms, order, list(entry.urls), _nothing, partial(self._again, order, relay)).go()
        return True

    def _again(self, order: Order, relay: Callable[[], None]) -> None:
        """Nothing of what was remembered works: a node may know better."""
        if self.cache is not None:
            self.cache.forget(order.exchange, order.pool)
        relay()

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second."""
        if self.cache is not None:
            self.cache.tick(now)


def _nothing(order: Order) -> None:
    """It is remembered already."""
