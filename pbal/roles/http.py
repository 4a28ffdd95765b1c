"""What reverse_proxy, web_server and selector share: hooks, the body for them, limits, and the tick's duties.

    begin -> start_*_request hooks -> size check -> (body collected) -> proxy_read_request hooks, handle_put hooks of a PUT -> serve

A preflight of CORS meets answer_preflight hooks first. A role says what `serve` does. Plugins can take the exchange at either hook.
"""

from pbal.http1.coding import Coding
from pbal.http1.reader import Limits
from pbal.model.bound import Bounds
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.handling import RoleHandler
from pbal.model.service import Service
from pbal.net.connection import ClientConnection
from pbal.observe.access import BAD_REQUEST
from pbal.observe.recent import Trouble
from pbal.roles import chain, entrance, limits
from pbal.roles.collect import Collector, Done
from pbal.roles.searched import in_time


def _again(exchange: Exchange, reading: Bounds) -> None:
    """Its body has come first: begin anew, with the plugins as they are now."""
    exchange.go_on()


class HttpRole(RoleHandler):
    """Base of the roles that answer HTTP."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.name = service.name
        self.clock = service.world.clock
        self.counts = service.world.counters.counts
        self.closed = False
        self.limits = Limits()
        self.guarded = entrance.guards(service)
        self.changed("max_request_head")
        self._use_coding()

    # -- one exchange --------------------------------------------------------------------------------------------

    def arrive(self, exchange: Exchange) -> None:
        """See model.service.RoleHandler."""
        if exchange.stream.tls is None or entrance.belongs(self.service, exchange):
            self.begin(exchange)

    def begin(self, exchange: Exchange) -> None:
        """See model.service.RoleHandler."""
        service = self.service
        hooks = service.hooks
        if service.rules.slow and not in_time(service, exchange, service.rules.slow):
            return
        if self.guarded and not entrance.admit(self.service, exchange):
            return
        if self.service.limiting and not exchange.resumed and not limits.admitted(self.service, exchange):
            return
        if exchange.request.underscores and not self.names_allowed(exchange):
            return
        begun = hooks.begun_preflight if hooks.begun_preflight and exchange.preflight else hooks.begun
        if begun and chain.run(begun, exchange):
            return
        request = exchange.request
        size = max(request.framing, exchange.body_size)  # one that came first (read_first) had no limit by plugins behind
        if size > 0 and not self._size_allowed(exchange, size):
            return
        reading = self.reading(exchange)
        if reading and not exchange.body_complete:
            wanting = chain.wanting(reading, exchange)
            if wanting is None:
                return
            reading = wanting
            if reading:
                self.collect(exchange, reading)
                return
        self.body_read(exchange, reading)

    def names_allowed(self, exchange: Exchange) -> bool:
        """Field names with `_` (header_underscores); False when the request was refused."""
        rule = self.service.values["header_underscores"]
        if rule == "colliding":
            return True
        request = exchange.request.without_underscores()
        if rule == "refuse" and len(request.headers) < len(exchange.request.headers):
            self.counts["bad_requests"] += 1
            exchange.cause = BAD_REQUEST
            exchange.trouble = Trouble("a header field name has '_' in it (header_underscores)")
            exchange.error(400, b"A header field name has '_' in it.\n")
            return False
        exchange.request = request
        return True

    def _size_allowed(self, exchange: Exchange, size: int) -> bool:
        limit = exchange.body_limit
        if limit is None:
            limit = self.service.values["max_body"]
        if limit and size > limit:
            self.counts["bad_requests"] += 1
            exchange.cause = BAD_REQUEST
            exchange.trouble = Trouble(f"the body of {size} bytes is larger than {limit}")
            exchange.error(413, b"The body is larger than %d bytes.\n" % limit)
            return False
        return True

    def read_first(self, exchange: Exchange) -> None:
        """See RoleHandler. It is in memory for the hooks, as for those that read it."""
        if exchange.request.framing <= 0 or self._size_allowed(exchange, exchange.request.framing):
            self.collect(exchange, self.service.hooks.begun, _again)

    def reading(self, exchange: Exchange) -> Bounds:
        """The hooks that read the body of a request."""
        hooks = self.service.hooks
        if hooks.handle_put and exchange.request.method == b"PUT":
            return hooks.proxy_read_request + hooks.handle_put
        return hooks.proxy_read_request

    def collect(self, exchange: Exchange, reading: Bounds, done: Done | None = None) -> None:
        """Have the body come whole, for the plugins that want it. `done`: what is called then, if it is not `collected`."""
        Collector(exchange, reading, self.collected if done is None else done).begin()

    def collected(self, exchange: Exchange, wanting: Bounds) -> None:
        """A body has come whole, perhaps over a RELOAD: the plugins that wanted it get it as they are now, not those that were closed."""
        names = {bound.plugin for bound in wanting}
        self.body_read(exchange, tuple(bound for bound in self.reading(exchange) if bound.plugin in names))

    def body_read(self, exchange: Exchange, reading: Bounds) -> None:
        """The whole body is there for the hooks that want it."""
        if not reading or not chain.run(reading, exchange):
            self.serve(exchange)

    def serve(self, exchange: Exchange) -> None:
        """Answer an exchange that no plugin took."""
        raise ConfigError(f"service '{self.name}' serves nothing")

    # -- settings, time, endings ---------------------------------------------------------------------------------

    def changed(self, tunable: str) -> None:
        """A tunable was set live."""
        values = self.service.values
        if tunable in ("https_redirect", "acme_challenges"):
            self.guarded = entrance.guards(self.service)
        if tunable.startswith("compress"):
            self._use_coding()
        if tunable.startswith("max_request") or tunable == "accept_chunked_http10":
            self.limits = Limits(
                max_head=values["max_request_head"],
                max_fields=values["max_request_fields"],
                max_target=values["max_request_line"],
                chunked_http10=values["accept_chunked_http10"],
            )

    def _use_coding(self) -> None:
        values = self.service.values
        names = values["compress"]
        self.service.coding = (
            Coding(names, values["compress_types"], values["compress_min_length"], values["compress_level"]) if names else None
        )

    def buffer_size(self) -> int:
        """Octets unsent, in either direction, at which a sender is stopped."""
        return int(self.service.values["buffer_size"])

    def tick(self, now: float) -> None:
        """See RoleHandler. What a plugin owes an answer for too long is the process' business (taken.py): its service may be gone."""

    def protocol(self) -> ClientConnection:
        """The protocol of a connection to this service's listener."""
        return ClientConnection(self.service)

    def close(self) -> None:
        """Give everything back."""
        self.closed = True
