"""What a reverse_proxy service says about how it relays: read by its relays and by its connections to nodes.

The role makes one of these, and brings it up to date when a tunable is set; everybody else reads. It knows the service, and neither
connections nor requests.
"""

import hashlib
import ssl
from math import inf
from typing import Final

from pbal.http1.reader import Limits
from pbal.model.balance import CODES
from pbal.model.certificates import backend_context
from pbal.model.pool import Node, Pool
from pbal.model.service import Service
from pbal.roles.proxy.decider import Decider

_WAITING: Final = frozenset(
    {
        "queue_size",
        "queue_relief_size",
        "queue_relief_chance",
        "high_priority_cookie",
        "high_priority_cookie_contents",
        "verify_backend",
        "connect_ahead",
        "send_proxy",
    }
)
"""Tunables that read_waiting() reads."""


class Terms:
    """The terms of one service."""

    __slots__ = (
        "ahead",
        "clock",
        "closed",
        "counts",
        "deciders",
        "failure_pool",
        "high_cookie",
        "high_contents",
        "method",
        "name",
        "queue_size",
        "queue_timeout",
        "relief_chance",
        "relief_size",
        "response_limits",
        "response_timeout",
        "send_proxy",
        "service",
        "tls",
        "verify",
        "via",
    )

    def __init__(self, service: Service) -> None:
        self.service = service
        self.name = service.name
        self.clock = service.world.clock
        self.counts = service.world.counters.counts
        self.closed = False
        """Whether the service is going: no connection is kept any more."""
        self.deciders: tuple[Decider, ...] = ()
        """Who looks at a response before its head goes to the client, in this order. Empty where no tunable asks for it."""
        self.method = -1
        """How nodes are chosen, as model/balance.py has it; -1: as their pool says."""
        self.failure_pool: Pool | None = None
        """Where a request goes that no node of its pool gave a usable answer to (roles/proxy/fallback.py)."""
        self.response_limits = Limits()
        self.response_timeout = self.queue_timeout = inf
        """Seconds."""
        self.queue_size = self.relief_size = self.relief_chance = 0
        self.high_cookie = self.high_contents = b""
        """Which requests are of the high class; b"" where no cookie says it."""
        self.verify = False
        """Whether a new connection is asked whether anybody is there, before a request is sent on it."""
        self.ahead = 0
        """Connections to have at rest before anybody wants them."""
        self.send_proxy = 0
        """The version of the PROXY header that connections to nodes begin with; 0: none."""
        self.tls: ssl.SSLContext | None = None
        """What connections to nodes are made with; None in clear text."""
        identity = hashlib.blake2s(self.name.lower().encode(), key=service.world.identity, digest_size=4).hexdigest()
        self.via = f"pbal-{identity}".encode()
        """This process and service in a Via field: who sees it come back has sent the request to itself."""

    def tell(self, node: Node, event: str, what: str, reason: str = "") -> None:
        """Log, now and then, what happened to a node of this service: `what` is words for it, in which %(reason)s stands for `reason`."""
        fields = {"event": event, "service": self.name, "pool": node.pool.name, "node": node.name}
        if reason:
            fields["reason"] = reason
        self.service.world.log_limited(
            f"{event} {self.name} {node.pool.name} {node.name}", f"service %(service)s: node %(node)s of pool %(pool)s: {what}", fields
        )

    def buffer_size(self) -> int:
        """Octets unsent, in either direction, at which a sender is stopped."""
        return int(self.service.values["buffer_size"])

    def read_method(self) -> None:
        """How nodes are chosen."""
        self.method = CODES.get(self.service.values["balance_method"], -1)

    def read(self, tunable: str) -> None:
        """Bring up to date what a tunable is about."""
        if tunable.startswith("max_response"):
            self.read_limits()
        elif tunable in ("response_timeout", "queue_timeout", "idle_timeout"):
            self.read_timeouts()
        elif tunable.startswith("ssl_backend"):
            self.read_tls()
        elif tunable == "balance_method":
            self.read_method()
        elif tunable in _WAITING:
            self.read_waiting()

    def read_limits(self) -> None:
        """What a response may be."""
        values = self.service.values
        self.response_limits = Limits(
            max_head=values["max_response_head"], max_fields=values["max_response_fields"], max_target=values["max_response_head"]
        )

    def read_timeouts(self) -> None:
        """How long a node may be silent, and a request may wait for one."""
        service, values = self.service, self.service.values
        limit, idle = values["response_timeout"], values["idle_timeout"]
        if not service.said("response_timeout"):
            limit = max(limit, idle) if idle else 0
        self.response_timeout = limit or inf
        as_perlbal = service.world.server["compatible"] == "perlbal" and not service.said("queue_timeout")
        self.queue_timeout = (idle if as_perlbal else values["queue_timeout"]) or inf

    def read_tls(self) -> None:
        """How nodes are spoken to."""
        values = self.service.values
        self.tls = backend_context(values["ssl_backend_ca"], values["ssl_backend_verify"]) if values["ssl_backend"] else None

    def read_waiting(self) -> None:
        """Who waits for a connection, in which order, and what is done with a new one."""
        values = self.service.values
        self.queue_size = int(values["queue_size"])
        self.relief_size, self.relief_chance = int(values["queue_relief_size"]), int(values["queue_relief_chance"])
        self.high_cookie = (values["high_priority_cookie"] or "").encode()
        self.high_contents = (values["high_priority_cookie_contents"] or "").encode()
        self.verify, self.ahead = bool(values["verify_backend"]), int(values["connect_ahead"])
        self.send_proxy = {"off": 0, "v1": 1, "v2": 2}[values["send_proxy"]]
