"""selector: hands each request to the service that a plugin (vhosts, vpaths) or default_service names.

Routing is done anew for every request of a connection. The selector's own persist_client, persist_client_idle_timeout, header_timeout and
limits of heads hold for the connection, whatever the target says of these; what the target says holds for the body and the answer.
LIMIT, hooks, HEADER rules and a max_body that was SET hold at each service on the way. 404 when nothing was selected, never silence.
"""

from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.service import Service
from pbal.observe.recent import Trouble
from pbal.roles import chain, entrance, limits
from pbal.roles.http import HttpRole
from pbal.roles.searched import in_time

DEEPEST = 8
"""Selectors in a row; more is a loop."""


class Selector(HttpRole):
    """The handler of one selector service."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._most_body: int = 0
        """Its max_body, where that was SET: a default is not to bind the services that it selects."""
        self.changed("max_body")

    def changed(self, tunable: str) -> None:
        """See model.service.RoleHandler."""
        super().changed(tunable)
        if tunable == "max_body":
            self._most_body = self.service.values["max_body"] if "max_body" in self.service.explicit else 0

    def begin(self, exchange: Exchange) -> None:  # noqa: C901 - the hot path: a call costs more than a branch
        """See model.service.RoleHandler."""
        if self.service.rules.slow and not in_time(self.service, exchange, self.service.rules.slow):
            return
        if self.guarded and not entrance.admit(self.service, exchange):
            return
        if self.service.limiting and not exchange.resumed and not limits.admitted(self.service, exchange):
            return
        if exchange.request.underscores and not self.names_allowed(exchange):
            return
        hooks = self.service.hooks
        if hooks.begun and chain.run(hooks.begun, exchange):
            return
        framing = exchange.request.framing
        if framing and self._most_body:
            exchange.body_most = min(exchange.body_most or self._most_body, self._most_body)
            if framing > 0 and not self._size_allowed(exchange, framing):
                return
        exchange.hops += 1
        if exchange.hops > DEEPEST:
            self._circle(exchange)
            return
        if hooks.select_service and chain.run(hooks.select_service, exchange):
            return
        name = self.service.values["default_service"]
        target: Service | None = self.service.world.services.get(name.lower()) if name else None
        if target is None:
            exchange.error(404, b"No service is configured for this host and path.\n")
            return
        try:
            exchange.hand_to(target)
        except ConfigError:
            exchange.error(500, b"The selected service answers no requests.\n")

    def _circle(self, exchange: Exchange) -> None:
        """Selectors that lead to each other."""
        self.counts["selector_loops"] += 1
        exchange.trouble = Trouble(f"more than {DEEPEST} selectors in a row, {self.name} the last")
        self.service.world.log_limited(
            f"selector loop {self.name}",
            "selector %(service)s: more than %(most)d selectors handed on a request to each other: 508",
            {"event": "selector_loop", "service": self.name, "most": DEEPEST},
        )
        exchange.error(508, b"These selectors select each other.\n")
