"""The one table of core tunables: what SET accepts, with type, default, bounds, roles and provenance.

A row is read by the SET check, DEFAULT, `help`, `show tunables`, `dumpconfig`, completion and the manual;
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
    """One declared setting. Default and bounds are texts of its type; a default of None is unset."""

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
        source="differs: setting it keeps the settings made before",
    ),
    Tunable(
        "listen",
        types.LISTEN,
        summary="Address and port to listen on; unset: reached through a selector only.",
        applies=Applies.NEXT_ENABLE,
        source="differs: [IPv6]:port too; a port alone is every address",
    ),
    Tunable(
        "plugins",
        types.WORDS,
        default="",
        summary="Loaded plugins this service runs, in the order of their hooks.",
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
        summary="Networks whose X-Forwarded headers are believed.",
        source=_PERLBAL,
    ),
    Tunable(
        "idle_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        summary="Silence a client connection may keep within a request; 0 is no limit.",
        source="differs: exact, not within a sweep of 5 s; waiting for a backend has limits of its own",
    ),
    Tunable(
        "persist_client",
        types.BOOL,
        default="on",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="Keep client connections open between requests.",
        source="differs: on, as HTTP/1.1 has it (RFC 9112 §9.3)",
    ),
    Tunable(
        "persist_client_idle_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        roles=_HTTP,
        summary="Silence between two requests of a client connection; 0 is no limit.",
        source=_PERLBAL,
    ),
    Tunable(
        "client_keepalive",
        types.DURATION,
        default="60s",
        unit="seconds",
        maximum="9h",
        applies=Applies.NEXT_CONNECTION,
        summary="Silence after which the kernel probes whether a client is still there (3 probes, 10 s apart); 0 is never.",
        source="pbal",
    ),
    Tunable(
        "header_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        roles=_HTTP,
        summary="Time for a whole request head to arrive, then 408; 0 is no limit.",
        source="pbal",
    ),
    Tunable(
        "server_tokens",
        types.BOOL,
        default="on",
        roles=_HTTP,
        summary="Name pbal in the Server field of its own responses.",
        source=_PERLBAL,
    ),
    Tunable(
        "max_request_head",
        types.SIZE,
        default="64k",
        unit="octets",
        minimum="1k",
        maximum="16m",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="Longest request head; a longer one is 431.",
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
        summary="Most fields in a request head; more are 431.",
        source="pbal",
    ),
    Tunable(
        "max_request_line",
        types.SIZE,
        default="8k",
        unit="octets",
        minimum="64",
        maximum="16m",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="Longest request line; a longer one is 414.",
        source="pbal (RFC 9112 §3 recommends 8000 octets at least)",
    ),
    Tunable(
        "max_body",
        types.SIZE,
        default="200m",
        unit="octets",
        roles=_HTTP,
        summary="Longest request body; a longer one is 413; 0 is no limit.",
        source="pbal (Perlbal: max_chunked_request_size, chunked bodies only)",
    ),
    Tunable(
        "header_underscores",
        types.enum("colliding", "drop", "refuse"),
        default="colliding",
        roles=_HTTP,
        summary="Field names with `_`, which CGI reads as `-`: drop those that collide with a name that pbal or a HEADER statement"
        " is about, drop all, or refuse the request (400).",
        source="pbal",
    ),
    Tunable(
        "taken_timeout",
        types.DURATION,
        default="60s",
        unit="seconds",
        roles=_HTTP,
        summary="Time a plugin may keep a request that it took, then 504; parked polls are exempt; 0 is no limit.",
        source="pbal",
    ),
    Tunable(
        "half_close_timeout",
        types.DURATION,
        default="1s",
        unit="seconds",
        roles=_HTTP,
        summary="Time an answer is awaited for a client that has sent its end, as a client that left has; 0 is no limit.",
        source="pbal",
    ),
    Tunable(
        "max_response_head",
        types.SIZE,
        default="256k",
        unit="octets",
        minimum="1k",
        maximum="16m",
        roles=_RP,
        applies=Applies.NEXT_CONNECTION,
        summary="Longest response head taken from a node; a longer one is 502.",
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
        summary="Most fields in a response head taken from a node; more are 502.",
        source="pbal",
    ),
    Tunable(
        "pool",
        types.name_of("pool"),
        roles=_RP,
        summary="Pool whose nodes answer this service.",
        source=_PERLBAL,
    ),
    Tunable(
        "persist_backend",
        types.BOOL,
        default="on",
        roles=_RP,
        applies=Applies.NEXT_CONNECTION,
        summary="Keep backend connections open between requests.",
        source="differs: on",
    ),
    Tunable(
        "backend_persist_cache",
        types.INT,
        default="64",
        unit="connections",
        roles=_RP,
        summary="Bored backends kept ready while no client waits.",
        source="differs: 64, not 2",
    ),
    Tunable(
        "max_backend_uses",
        types.INT,
        default="0",
        unit="requests",
        roles=_RP,
        applies=Applies.NEXT_CONNECTION,
        summary="Requests a backend connection serves before it is closed; 0 is no limit.",
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
        summary="Time for a connection to a node to be made.",
        source="pbal (Perlbal: 5 s, fixed)",
    ),
    Tunable(
        "response_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        roles=_RP,
        summary="Silence of a backend while its response is awaited, then 504; 0 is no limit. Unless set, idle_timeout where that is"
        " longer or no limit.",
        source="pbal (Perlbal: idle_timeout, then a close without a response)",
    ),
    Tunable(
        "queue_timeout",
        types.DURATION,
        default="10s",
        unit="seconds",
        roles=_RP,
        summary="Time a request may wait for a backend altogether, then 503; 0 is no limit. Where the last node of the pool was"
        " removed, another is awaited for 5 s at most.",
        source="pbal (Perlbal: idle_timeout, then a close without a response)",
    ),
    Tunable(
        "buffer_size",
        types.SIZE,
        default="256k",
        unit="octets",
        minimum="4k",
        maximum="1g",
        roles=_HTTP,
        applies=Applies.NEXT_CONNECTION,
        summary="Unsent octets, in either direction, at which the sender is paused.",
        source="differs: both directions",
    ),
    Tunable(
        "buffer_backend_connect",
        types.SIZE,
        default="100k",
        unit="octets",
        roles=_RP,
        summary="Octets of a body kept in memory where a plugin wants it whole; the rest goes to a file.",
        source="differs: a body nobody asked for is never collected; more than this goes to an unlinked file",
    ),
    Tunable(
        "docroot",
        types.DIRECTORY,
        roles=_WS,
        summary="Directory whose files are served.",
        source=_PERLBAL,
    ),
    Tunable(
        "index_files",
        types.WORDS,
        default="index.html",
        roles=_WS,
        summary="Files tried in order where a directory is asked for.",
        source=_PERLBAL,
    ),
    Tunable(
        "default_service",
        types.name_of("service"),
        roles=_SEL,
        summary="Service for requests that no selector plugin claims.",
        source="differs: works beside vhosts and vpaths",
    ),
    Tunable(
        "tunnel_timeout",
        types.DURATION,
        default="1h",
        unit="seconds",
        roles=_RP,
        summary="Silence an upgraded connection may keep; 0 is no limit.",
        source="pbal",
    ),
)

POOL: tuple[Tunable, ...] = (
    Tunable(
        "balance_method",
        types.enum("random", "round_robin", "least_connections"),
        default="random",
        summary="How the next node of the pool is chosen.",
        source="differs: Perlbal has random only",
    ),
)

SERVER: tuple[Tunable, ...] = (
    Tunable(
        "plugin_path",
        types.DIRECTORY,
        summary="Directory searched for plugins that are not bundled.",
        source="pbal",
    ),
    Tunable(
        "graceful_timeout",
        types.DURATION,
        default="30s",
        unit="seconds",
        summary="Time requests in progress get to finish at a graceful shutdown; 0 is no limit.",
        source="differs: Perlbal waits for ever where no time is given",
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
        summary="Limit of open descriptors of the process.",
        source="differs: an error where the limit cannot be had, never an error and OK",
    ),
)
