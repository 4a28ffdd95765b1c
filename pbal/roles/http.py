"""What reverse_proxy, web_server and selector share: hooks, the body for them, limits, and the tick's duties.

    begin -> start_http_request hooks -> size check -> (body collected) -> proxy_read_request hooks -> serve

A role says what `serve` does. Plugins can take the exchange at either hook.
"""

import asyncio
import ipaddress
import logging
from typing import Any

from pbal.http1.reader import Limits
from pbal.model.errors import ConfigError
from pbal.model.exchange import Exchange
from pbal.model.service import Service
from pbal.net.client import ClientConnection
from pbal.roles import chain
from pbal.roles.collect import Collector

log = logging.getLogger("pbal.http")

_PEERS_KEPT = 4096


class HttpRole:
    """Base of the roles that answer HTTP."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.name = service.name
        self.clock = service.world.clock
        self.counts = service.world.counters.counts
        self.closed = False
        self._peers: dict[tuple[bytes, int], bool] = {}
        self.limits = Limits()
        self.changed("max_request_head")

    # -- one exchange --------------------------------------------------------------------------------------------

    def begin(self, exchange: Exchange) -> None:
        """See model.service.RoleHandler."""
        service = self.service
        exchange.client.service = service
        hooks = service.hooks
        if hooks.start_http_request and chain.run(hooks.start_http_request, exchange):
            return
        request = exchange.request
        if request.framing > 0 and not self._size_allowed(exchange, request.framing):
            return
        if not hooks.proxy_read_request:
            self.serve(exchange)
        elif exchange.body_complete:
            self.body_read(exchange)
        else:
            Collector(exchange, self.body_read)

    def _size_allowed(self, exchange: Exchange, size: int) -> bool:
        limit = exchange.body_limit
        if limit is None:
            limit = self.service.values["max_body"]
        if limit and size > limit:
            self.counts["bad_requests"] += 1
            exchange.respond(413, (), b"The body is larger than %d octets.\n" % limit)
            return False
        return True

    def body_read(self, exchange: Exchange) -> None:
        """The whole body is there."""
        if not chain.run(self.service.hooks.proxy_read_request, exchange):
            self.serve(exchange)

    def serve(self, exchange: Exchange) -> None:
        """Answer an exchange that no plugin took."""
        raise ConfigError(f"service '{self.name}' serves nothing")

    # -- settings, time, endings ---------------------------------------------------------------------------------

    def changed(self, tunable: str) -> None:
        """A tunable was set live."""
        values = self.service.values
        self._peers.clear()
        if tunable.startswith("max_request"):
            self.limits = Limits(
                max_head=values["max_request_head"],
                max_fields=values["max_request_fields"],
                max_target=values["max_request_line"],
            )

    def buffer_size(self) -> int:
        """Octets unsent, in either direction, at which a sender is stopped."""
        return int(self.service.values["buffer_size"])

    def tick(self, now: float) -> None:
        """Called once a second."""

    def protocol(self) -> asyncio.Protocol:
        """The protocol of a connection to this service's listener."""
        return ClientConnection(self.service)

    def close(self) -> None:
        """Give everything back."""
        self.closed = True

    def peer_in(self, peer: bytes, networks: tuple[Any, ...]) -> bool:
        """Whether an address lies in one of `networks`; remembered, as a few peers make all requests."""
        key = (peer, id(networks))
        found = self._peers.get(key)
        if found is None:
            if len(self._peers) > _PEERS_KEPT:
                self._peers.clear()
            try:
                address = ipaddress.ip_address(peer.decode("ascii"))
                found = any(address in network for network in networks)
            except ValueError:
                found = False
            self._peers[key] = found
        return found
