"""The one table of core tunables: what SET accepts, with type, default, bounds, roles and provenance.

The SET check, DEFAULT, `help`, `show tunables`, `dumpconfig`, completion and the manual read a row;
nobody else writes a default or a unit down. Plugins add rows of the same class for the services that run
them.

`source` says whose meaning a row has: "Perlbal service parameters" where it is Perlbal's, "differs: ..."
where the name is Perlbal's but the meaning or the default is not, "pbal" where Perlbal had nothing of the
kind.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from pbal.schema import types


class Applies(Enum):
    """When a live change takes hold."""

    NOW = "now"
    NEXT_CONNECTION = "next connection"
    NEXT_ENABLE = "next enable"


@dataclass(frozen=True, slots=True)
class Tunable:
    """One declared tunable. The default and the bounds are texts that its type parses; None as the default means unset."""

    name: str
    type: types.Type[Any]
    default: str | None = None
    summary: str = ""
    roles: frozenset[str] = frozenset()  # empty: every role
    unit: str = ""
    minimum: str | None = None
    maximum: str | None = None
    applies: Applies = Applies.NOW
    source: str = ""

    def parse(self, text: str) -> Any:
        """The value of `text`, checked against type and bounds. Raises: ValueError for the operator."""
        value = self.type.parse(text)
        if self.minimum is not None and value < self.type.parse(self.minimum):
            raise ValueError(f"expected {self.minimum} or more for {self.name}, found {text!r}")
        if self.maximum is not None and value > self.type.parse(self.maximum):
            raise ValueError(f"expected {self.maximum} or less for {self.name}, found {text!r}")
        return value

    def default_value(self) -> Any:
        """The parsed default, None where the tunable is unset by default."""
        return None if self.default is None else self.type.parse(self.default)

    def fits(self, role: str) -> bool:
        """Whether a service of `role` has this tunable."""
        return not self.roles or role in self.roles


ROLES = ("reverse_proxy", "web_server", "selector", "management")

_PERLBAL = "Perlbal service parameters"
_RP = frozenset({"reverse_proxy"})
_WS = frozenset({"web_server"})
_SEL = frozenset({"selector"})
_HTTP = frozenset({"reverse_proxy", "web_server", "selector"})

CORE: tuple[Tunable, ...] = (
    Tunable(
        "role",
        types.enum(*ROLES),
        summary="What kind of service this is. Set it first.",
        applies=Applies.NEXT_ENABLE,
        source="differs: SET role keeps the tunables that were set before",
    ),
    Tunable(
        "listen",
        types.LISTEN,
        summary="Address and port to listen on. Without it, requests come only from a selector.",
        applies=Applies.NEXT_ENABLE,
        source="differs: [IPv6]:port works too; a port alone means every address",
    ),
    Tunable(
        "plugins",
        types.WORDS,
        default="",
        summary="Plugins that this service runs. Their hooks run in this order.",
        source="differs: an unknown name refuses the whole SET",
    ),
    Tunable(
        "always_trusted",
        types.BOOL,
        default="off",
        roles=_HTTP,
        summary="Believe the X-Forwarded headers of every peer.",
        source=_PERLBAL,
    ),
    Tunable(
        "trusted_upstream_proxies",
        types.NETWORKS,
        default="",
        roles=_HTTP,
        summary="Networks of the peers whose X-Forwarded headers pbal believes.",
        source=_PERLBAL,
    ),
    Tunable(
        "idle_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        summary="How long a client may be silent during a request. 0: no limit.",
        source="differs: exact, not checked every 5 s; the wait for a backend has its own limits",
    ),
    Tunable(
        "persist_client",
        types.BOOL,
        default="on",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="Keep client connections open between requests.",
        source="differs: the default is on, as in HTTP/1.1 (RFC 9112 §9.3)",
    ),
    Tunable(
        "persist_client_idle_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        roles=_HTTP,
        summary="How long a client connection may be silent between two requests. 0: no limit.",
        source=_PERLBAL,
    ),
    Tunable(
        "client_keepalive",
        types.DURATION,
        default="60s",
        unit="seconds",
        maximum="9h",
        applies=Applies.NEXT_CONNECTION,
        summary="After this silence the kernel checks whether the client is still there (3 probes, 10 s apart). 0: never.",
        source="pbal",
    ),
    Tunable(
        "header_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        roles=_HTTP,
        summary="How long a client may take to send the whole request head; then 408. 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "server_tokens",
        types.BOOL,
        default="on",
        roles=_HTTP,
        summary="Name pbal in the Server field of responses that pbal itself makes.",
        source=_PERLBAL,
    ),
    Tunable(
        "max_request_head",
        types.SIZE,
        default="64k",
        unit="bytes",
        minimum="1k",
        maximum="16m",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="Longest request head. A longer one is answered 431.",
        source="pbal (Perlbal: 100 KiB, fixed)",
    ),
    Tunable(
        "max_request_fields",
        types.INT,
        default="100",
        unit="fields",
        minimum="1",
        maximum="10000",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="Most fields in a request head. More are answered 431.",
        source="pbal",
    ),
    Tunable(
        "max_request_line",
        types.SIZE,
        default="8k",
        unit="bytes",
        minimum="64",
        maximum="16m",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="Longest request line. A longer one is answered 414.",
        source="pbal (RFC 9112 §3 recommends at least 8000 octets)",
    ),
    Tunable(
        "max_body",
        types.SIZE,
        default="200m",
        unit="bytes",
        roles=_HTTP,
        summary="Longest request body. A longer one is answered 413. 0: no limit.",
        source="pbal (Perlbal: max_chunked_request_size, chunked bodies only)",
    ),
    Tunable(
        "header_underscores",
        types.enum("colliding", "drop", "refuse"),
        default="colliding",
        roles=_HTTP,
        summary="What to do with header fields that have `_` in their name, which CGI reads as `-`. colliding: drop a field if its name"
        " collides with one that pbal or a HEADER statement uses. drop: drop every such field. refuse: answer the request with 400.",
        source="pbal",
    ),
    Tunable(
        "taken_timeout",
        types.DURATION,
        default="60s",
        unit="seconds",
        roles=_HTTP,
        summary="How long a plugin may take to answer a request that it took; then 504. Parked polls are exempt. 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "half_close_timeout",
        types.DURATION,
        default="1s",
        unit="seconds",
        roles=_HTTP,
        summary="How long pbal waits for the answer after a client has closed its sending side, which a client that leaves does too."
        " 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "max_response_head",
        types.SIZE,
        default="256k",
        unit="bytes",
        minimum="1k",
        maximum="16m",
        roles=_RP,
        applies=Applies.NEXT_CONNECTION,
        summary="Longest response head that a node may send. A longer one is answered 502.",
        source="pbal",
    ),
    Tunable(
        "max_response_fields",
        types.INT,
        default="1000",
        unit="fields",
        minimum="1",
        maximum="10000",
        roles=_RP,
        applies=Applies.NEXT_CONNECTION,
        summary="Most fields in a response head from a node. More are answered 502.",
        source="pbal",
    ),
    Tunable(
        "pool",
        types.name_of("pool"),
        roles=_RP,
        summary="Pool whose nodes get the requests of this service.",
        source=_PERLBAL,
    ),
    Tunable(
        "persist_backend",
        types.BOOL,
        default="on",
        roles=_RP,
        applies=Applies.NEXT_CONNECTION,
        summary="Keep backend connections open between requests.",
        source="differs: the default is on",
    ),
    Tunable(
        "backend_persist_cache",
        types.INT,
        default="64",
        unit="connections",
        roles=_RP,
        summary="Most idle connections to keep open for later requests.",
        source="differs: the default is 64, not 2",
    ),
    Tunable(
        "max_backend_uses",
        types.INT,
        default="0",
        unit="requests",
        roles=_RP,
        applies=Applies.NEXT_CONNECTION,
        summary="Requests that a backend connection serves before pbal closes it. 0: no limit.",
        source="differs: exactly this many, not one more",
    ),
    Tunable(
        "connect_timeout",
        types.DURATION,
        default="5s",
        unit="seconds",
        minimum="1ms",
        roles=_RP,
        applies=Applies.NEXT_CONNECTION,
        summary="How long a connection to a node may take to open.",
        source="pbal (Perlbal: 5 s, fixed)",
    ),
    Tunable(
        "response_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        roles=_RP,
        summary="How long a node may be silent while pbal waits for its response; then 504. 0: no limit. If you do not set it,"
        " idle_timeout holds instead where it is longer or 0.",
        source="pbal (Perlbal: idle_timeout, then a close without a response)",
    ),
    Tunable(
        "queue_timeout",
        types.DURATION,
        default="10s",
        unit="seconds",
        roles=_RP,
        summary="How long a request may wait for a backend in all; then 503. 0: no limit. If the pool has lost its last node, the"
        " request waits at most 5 s for another.",
        source="pbal (Perlbal: idle_timeout, then a close without a response)",
    ),
    Tunable(
        "buffer_size",
        types.SIZE,
        default="256k",
        unit="bytes",
        minimum="4k",
        maximum="1g",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="pbal pauses a sender when this many of its bytes wait to be sent on, in either direction.",
        source="differs: holds in both directions",
    ),
    Tunable(
        "buffer_backend_connect",
        types.SIZE,
        default="100k",
        unit="bytes",
        roles=_RP,
        summary="If a plugin wants the whole body, pbal keeps this many bytes of it in memory and the rest in a file.",
        source="differs: pbal collects a body only if a plugin wants it; the file has no name",
    ),
    Tunable(
        "docroot",
        types.DIRECTORY,
        roles=_WS,
        summary="Directory of the files to serve.",
        source=_PERLBAL,
    ),
    Tunable(
        "index_files",
        types.WORDS,
        default="index.html",
        roles=_WS,
        summary="Files to try, in this order, when the request is for a directory.",
        source=_PERLBAL,
    ),
    Tunable(
        "default_service",
        types.name_of("service"),
        roles=_SEL,
        summary="Service for the requests that no selector plugin takes.",
        source="differs: works beside vhosts and vpaths",
    ),
    Tunable(
        "tunnel_timeout",
        types.DURATION,
        default="1h",
        unit="seconds",
        roles=_RP,
        summary="How long an upgraded connection may be silent. 0: no limit.",
        source="pbal",
    ),
)

POOL: tuple[Tunable, ...] = (
    Tunable(
        "balance_method",
        types.enum("random", "round_robin", "least_connections"),
        default="random",
        summary="How pbal chooses the next node of the pool.",
        source="differs: Perlbal has random only",
    ),
)

SERVER: tuple[Tunable, ...] = (
    Tunable(
        "plugin_path",
        types.DIRECTORY,
        summary="Directory in which LOAD looks for plugins that do not come with pbal.",
        source="pbal",
    ),
    Tunable(
        "graceful_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        summary="How long requests in progress may take to finish at a graceful shutdown. 0: no limit.",
        source="differs: Perlbal waits for ever if no time is given",
    ),
    Tunable(
        "log_level",
        types.enum("debug", "info", "warning", "error"),
        default="info",
        summary="Least severe message that is logged.",
        source="pbal",
    ),
    Tunable(
        "max_connections",
        types.INT,
        unit="descriptors",
        minimum="64",
        summary="Most descriptors that the process may have open.",
        source="differs: if the system refuses the limit, the answer is an error and not also OK",
    ),
)
