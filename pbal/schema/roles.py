"""Roles, each declared in one place: its name, its tunables, and what the rest of pbal has to know of it.

A new role is a Role here and its handler in roles/registry.py. A plugin may bring one, too, that does not answer HTTP
(model/conversation.py). Whatever tells roles apart asks the declaration: SET and its messages, HEADER, ENABLE, `socks`, the manual. A hook
names the roles that run it (model/hooks.py).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pbal.schema import management, types
from pbal.schema.backends import BACKENDS
from pbal.schema.balancing import OF_PROXIES
from pbal.schema.coding import CODING
from pbal.schema.files import FINDING
from pbal.schema.forwarding import FORWARDING
from pbal.schema.limits import INTERCEPT, LIMITS
from pbal.schema.names import ACCEPTING
from pbal.schema.reproxy import REPROXY
from pbal.schema.tls import TLS, TLS_HTTP, TLS_NODES
from pbal.schema.tunables import COMMON, HTTP, Applies, Tunable
from pbal.schema.uploads import BODIES, UPLOADS, not_datagrams, unwritable
from pbal.schema.web import WEB
from pbal.schema.writing import WRITING

_PERLBAL = "Perlbal service parameters"


@dataclass(frozen=True, slots=True)
class Role:
    """One role."""

    name: str
    socket: str
    """What Perlbal's console calls a connection of it."""
    tunables: tuple[Tunable, ...] = ()
    """Its own, beside those of every service."""
    http: bool = True
    """Whether it answers HTTP, and has the tunables of that."""
    datagrams: bool = False
    """Whether it listens to datagrams (UDP), and not for connections."""
    sends_on: bool = False
    """Whether requests go on from it, so that HEADER can change them."""
    needs: tuple[str, ...] = ()
    """Tunables without which ENABLE is refused."""
    refuses: Callable[[Mapping[str, Any], Mapping[str, Any]], str] | None = None
    """Why a service with these values, in a process with these tunables of SERVER, must not be enabled; '' if it may."""


REVERSE_PROXY = Role(
    "reverse_proxy",
    "ClientProxy",
    (
        Tunable(
            "max_response_head",
            types.SIZE,
            default="256k",
            unit="bytes",
            minimum="1k",
            maximum="16m",
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
            applies=Applies.NEXT_CONNECTION,
            summary="Most fields in a response head from a node. More are answered 502.",
            source="pbal",
        ),
        Tunable(
            "pool",
            types.name_of("pool"),
            summary="Pool whose nodes get the requests of this service.",
            source=_PERLBAL,
        ),
        Tunable(
            "persist_backend",
            types.BOOL,
            default="on",
            perlbal="off",
            applies=Applies.NEXT_CONNECTION,
            summary="Keep backend connections open between requests.",
            source="differs: the default is on",
        ),
        Tunable(
            "backend_persist_cache",
            types.INT,
            default="64",
            perlbal="2",
            unit="connections",
            summary="Most idle connections to keep open for later requests.",
            source="differs: the default is 64, not 2",
        ),
        Tunable(
            "max_backend_uses",
            types.INT,
            default="0",
            unit="requests",
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
            applies=Applies.NEXT_CONNECTION,
            summary="How long a connection to a node may take to open.",
            source="pbal (Perlbal: 5 s, fixed)",
        ),
        Tunable(
            "response_timeout",
            types.DURATION,
            default="30s",
            perlbal="0",
            unit="seconds",
            summary="How long a node may be silent while pbal waits for its response; then 504. 0: no limit. If you do not set it,"
            " idle_timeout holds instead where it is longer or 0; with SERVER compatible = perlbal it always does.",
            source="pbal (Perlbal: idle_timeout, then a close without a response)",
        ),
        Tunable(
            "queue_timeout",
            types.DURATION,
            default="10s",
            perlbal="0",
            unit="seconds",
            summary="How long a request may wait for a backend in all; then 503. 0: no limit. If the pool has lost its last node, the"
            " request waits at most 5 s for another. If you do not set it, idle_timeout holds instead with SERVER compatible = perlbal.",
            source="pbal (Perlbal: idle_timeout, then a close without a response)",
        ),
        Tunable(
            "tunnel_timeout",
            types.DURATION,
            default="1h",
            unit="seconds",
            summary="How long an upgraded connection may be silent. 0: no limit.",
            source="pbal",
        ),
        *OF_PROXIES,
        *BACKENDS,
        *FORWARDING,
        *UPLOADS,
        *REPROXY,
        *INTERCEPT,
        *TLS_NODES,
    ),
    sends_on=True,
    refuses=unwritable,
)

WEB_SERVER = Role(
    "web_server",
    "ClientHTTP",
    (*WEB, *FINDING, *WRITING),
)

SELECTOR = Role(
    "selector",
    "ClientHTTPBase",
    (
        Tunable(
            "default_service",
            types.name_of("service"),
            summary="Service for the requests that no selector plugin takes.",
            source="differs: works beside vhosts and vpaths",
        ),
    ),
    sends_on=True,
)

MANAGEMENT = Role("management", "ClientManage", management.MANAGEMENT, http=False, needs=("listen",), refuses=management.exposed)

UPLOAD_TRACKER = Role("upload_tracker", "UploadListener", http=False, datagrams=True, needs=("listen",), refuses=not_datagrams)

ROLES: dict[str, Role] = {role.name: role for role in (REVERSE_PROXY, WEB_SERVER, SELECTOR, MANAGEMENT, UPLOAD_TRACKER)}

SENDING_ON = tuple(role.name for role in ROLES.values() if role.sends_on)
_ANSWERING = frozenset(role.name for role in ROLES.values() if role.http)


def role_tunable(roles: Iterable[str]) -> Tunable:
    """The tunable `role`, where these are known."""
    return Tunable(
        "role",
        types.enum(*roles),
        summary="What kind of service this is. Set it first.",
        applies=Applies.NEXT_ENABLE,
        source="differs: SET role keeps the tunables that were set before",
    )


CORE: tuple[Tunable, ...] = (
    role_tunable(ROLES),
    *COMMON,
    *TLS,
    *(replace(tunable, roles=_ANSWERING) for tunable in (*HTTP, *BODIES, *ACCEPTING, *LIMITS, *CODING, *TLS_HTTP)),
    *(replace(tunable, roles=frozenset({role.name})) for role in ROLES.values() for tunable in role.tunables),
)
"""Every tunable of services that pbal itself declares, with the roles that have it."""
