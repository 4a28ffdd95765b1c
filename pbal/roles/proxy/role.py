"""reverse_proxy: exchanges on one side, the nodes of pools on the other.

Life of an exchange here: start_http_request -> (the body collected, if a plugin has proxy_read_request) -> proxy_read_request -> a Relay,
which seeks a connection (groups.py, backends.py), sends the request and brings the response back, unless somebody takes that
(decide.py). What the service says about all that is in its terms (terms.py), which this file brings up to date.
"""

import asyncio
from functools import partial

from pbal.model.asking import Question
from pbal.model.bound import Bounds
from pbal.model.exchange import Exchange
from pbal.model.pool import Pool
from pbal.model.service import Service
from pbal.model.steering import UnsafePath
from pbal.observe.access import BAD_REQUEST, quoted_text
from pbal.observe.recent import Trouble
from pbal.roles import chain
from pbal.roles.collect import Done
from pbal.roles.http import HttpRole
from pbal.roles.pages import Intercept
from pbal.roles.proxy import uploads
from pbal.roles.proxy.errand import Errand
from pbal.roles.proxy.fallback import fallback
from pbal.roles.proxy.following import Following
from pbal.roles.proxy.groups import Groups
from pbal.roles.proxy.relay import Relay
from pbal.roles.proxy.reproxy.reproxy import Reproxy
from pbal.roles.proxy.reproxy.targets import Targets
from pbal.roles.proxy.retry import error_retries
from pbal.roles.proxy.terms import Terms
from pbal.schema.types import Endpoint

_DECIDING = frozenset(
    {"enable_reproxy", "enable_error_retries", "error_retry_schedule", "error_page_intercept", "fallback_pool", "fallback_on"}
)
"""Tunables that say who looks at responses."""


class ReverseProxy(HttpRole):
    """The handler of one reverse_proxy service."""

    def __init__(self, service: Service) -> None:
        self.terms = Terms(service)
        self.groups = Groups(self.terms)
        self.following: Following | None = None
        """Whom the progress of uploads is told to."""
        self.reproxy: Reproxy | None = None
        """None while enable_reproxy is off."""
        super().__init__(service)
        for tunable in (
            "upload_status_listeners",
            "enable_reproxy",
            "pool",
            "response_timeout",
            "max_response_head",
            "ssl_backend",
            "enable_error_retries",
            "balance_method",
            "queue_size",
        ):
            self.changed(tunable)

    # -- what arrives --------------------------------------------------------------------------------------------

    def collect(self, exchange: Exchange, reading: Bounds, done: Done | None = None) -> None:
        """See HttpRole."""
        if self.following is not None:
            self.following.follow(exchange)
        super().collect(exchange, reading, done)

    def serve(self, exchange: Exchange) -> None:  # noqa: C901 - the hot path: a call costs more than a branch
        """Relay an exchange whose plugins all passed."""
        if self.following is not None and self.following.answers(exchange):
            return
        request = exchange.request
        if b"via" in request.fields and self.terms.via in request.fields[b"via"]:
            self.counts["loops_refused"] += 1
            self.service.world.log_limited(
                f"loop {self.name}",
                "service %(service)s: a request came back to it: does a node of its pool lead here?",
                {"event": "loop", "service": self.name},
            )
            exchange.error(508, b"This request came back to the proxy that sent it.\n")
            return
        if request.method == b"CONNECT":
            exchange.error(501, b"CONNECT is not offered here.\n")
            return
        limited = request.method == b"TRACE" or (request.method == b"OPTIONS" and b"max-forwards" in request.fields)
        if limited and self._final_recipient(exchange):
            return
        rules = self.service.rules
        pool: Pool | None = None
        if rules.steers:
            try:
                exchange.rewritten = rules.target(exchange)
            except UnsafePath as refusal:
                self._unsafe(exchange, refusal)
                return
            route = rules.route(exchange)
            if route is not None:
                pool = route.pool
        hooks = self.service.hooks.select_pool
        if hooks:
            serves, chosen = chain.pool_for(hooks, exchange, self.groups.named)
            if not serves:
                return
            pool = chosen or pool
        reproxy = self.reproxy
        if reproxy is not None and reproxy.cache is not None:
            asked = self.groups.of(pool).pool
            if asked is not None and reproxy.from_cache(exchange, asked.name, partial(self.relay, exchange, pool)):
                return
        if exchange.body_complete:
            Relay(self.groups, exchange, pool).seek()
        else:
            self.relay(exchange, pool)

    def relay(self, exchange: Exchange, pool: Pool | None) -> None:
        """Send it to `pool`, None: that of SET pool, when as much of its body is here as has to be."""
        if self.following is not None and not exchange.body_complete:
            self.following.follow(exchange)
        if exchange.body_complete or not uploads.held(exchange, partial(self._send_on, pool)):
            Relay(self.groups, exchange, pool).seek()

    def _send_on(self, pool: Pool | None, exchange: Exchange, reading: Bounds) -> None:
        """What was held of its body is enough."""
        Relay(self.groups, exchange, pool).seek()

    def _unsafe(self, exchange: Exchange, refusal: UnsafePath) -> None:
        """What REWRITE makes of its path leads elsewhere."""
        self.counts["rewrites_refused"] += 1
        exchange.cause = BAD_REQUEST
        exchange.trouble = Trouble("what REWRITE makes of its path has dot segments or new escapes")
        self.service.world.log_limited(
            f"rewrite {self.name}",
            "service %(service)s: REWRITE makes %(path)s of a path: refused",
            {"event": "rewrite_refused", "service": self.name, "path": quoted_text(refusal.path[:200]).decode("ascii")},
        )
        exchange.error(400, b"The path leads elsewhere.\n")

    def load(self) -> tuple[int, int, int]:
        """See model.service.RoleHandler."""
        return self.groups.load()

    def queues(self) -> dict[str, tuple[int, int]]:
        """See model.service.RoleHandler."""
        return self.groups.queues(self.service.world.clock.now())

    def ask(self, question: Question) -> None:
        """See model.service.RoleHandler."""
        asyncio.get_running_loop().call_soon(Errand(self.groups, question).seek)

    def _final_recipient(self, exchange: Exchange) -> bool:
        """Max-Forwards (RFC 9110 section 7.6.2): True when the request ends here."""
        value = exchange.request.fields.get(b"max-forwards", b"1")
        if not (value.isdigit() and value.isascii() and len(value) < 10):
            exchange.error(400, b"Max-Forwards is not a number.\n")
            return True
        if exchange.request.method == b"TRACE":
            exchange.error(501, b"TRACE is not offered here.\n")  # it would show a client's own secrets to scripts
            return True
        if value.strip(b"0") == b"":
            exchange.respond(200, [(b"Allow", b"GET, HEAD, POST, PUT, DELETE, OPTIONS")])
            return True
        return False

    # -- settings and time ---------------------------------------------------------------------------------------

    def changed(self, tunable: str) -> None:
        """A tunable was set live."""
        super().changed(tunable)
        values = self.service.values
        self.terms.read(tunable)
        if tunable == "send_proxy" or tunable.startswith("ssl_backend") or (tunable == "persist_backend" and not values["persist_backend"]):
            self.groups.close_bored()
        elif tunable in _DECIDING:
            self._choose_deciders()
            self.groups.keep()
        elif tunable == "reproxy_cache_maxsize" and self.reproxy is not None:
            self.reproxy.read_cache_size()
        elif tunable == "pool":
            self.groups.use(self.service.world.pool(values["pool"]) if values["pool"] else None)
            self.groups.keep()
        else:
            self._changed(tunable)

    def _changed(self, tunable: str) -> None:
        """A tunable was set that neither relays nor connections read."""
        if tunable in ("rules", "plugins") or self.service.hooks.select_pool:
            self.groups.keep()
        if tunable == "upload_status_listeners":
            self._follow(self.service.values[tunable])

    def _choose_deciders(self) -> None:
        """Who looks at responses, by what the service says; a page of an error stands for what is left of them.

        What a node ordered already is carried out.
        """
        if not self.service.values["enable_reproxy"]:
            self.reproxy = None
        elif self.reproxy is None:
            self.reproxy = Reproxy(self.terms)
        statuses = self.service.values["error_page_intercept"]
        reproxy = () if self.reproxy is None else (self.reproxy,)
        pages = (Intercept(statuses),) if statuses else ()
        self.terms.deciders = (*reproxy, *error_retries(self.terms), *fallback(self.terms), *pages)

    def _follow(self, listeners: tuple[Endpoint, ...]) -> None:
        """Other listeners: they are told of the uploads that begin from here on."""
        if self.following is not None:
            self.following.close()
        self.following = Following(self.service, listeners) if listeners else None

    def tick(self, now: float) -> None:
        """Once a second: clients that waited too long, bored backends that are too many."""
        super().tick(now)
        self.groups.tick(now)
        if self.reproxy is not None:
            self.reproxy.tick(now)
        if self.following is not None:
            self.following.tick()

    def close(self) -> None:
        """Close what is idle; exchanges end by their own."""
        super().close()
        self._follow(())
        self.terms.closed = True
        self.groups.close()
        if self.service.world.targets is not None:
            Targets.of(self.service.world).leave(self.name)
