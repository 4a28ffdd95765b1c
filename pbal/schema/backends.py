"""Of a reverse_proxy: connections to nodes, and the queue before them; of a pool: how many of them its nodes take."""

import re

from pbal.schema.tunables import Applies, Tunable
from pbal.schema.types import BOOL, DURATION, INT, TEXT, Type, enum

_PERLBAL = "Perlbal service parameters"


def _target(text: str) -> str:
    if text != "*" and re.fullmatch(r"/[!-~]*", text, re.ASCII) is None:
        raise ValueError(f"expected a path such as /alive, or *, found {text!r}")
    return text


def _cookie(text: str) -> str:
    if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text, re.ASCII) is None:
        raise ValueError(f"expected the name of a cookie, found {text!r}")
    return text


TARGET: Type[str] = Type("path|*", _target)
COOKIE: Type[str] = Type("cookie", _cookie)

BACKENDS: tuple[Tunable, ...] = (
    Tunable(
        "verify_backend",
        BOOL,
        default="off",
        applies=Applies.NEXT_CONNECTION,
        summary="Ask each new connection OPTIONS before its first request: an answer, whatever its status, shows that a worker of the node"
        " has it. pbal opens one connection to a node at a time then, and requests wait in the queue meanwhile. A node that does not keep"
        " its connection open after OPTIONS is not asked again for 60 s (noverify).",
        source="differs: OPTIONS goes out in HTTP/1.1, with Host",
    ),
    Tunable(
        "verify_backend_path",
        TARGET,
        default="*",
        applies=Applies.NEXT_CONNECTION,
        summary="What verify_backend asks for: a path, or * for the node itself.",
        source=_PERLBAL,
    ),
    Tunable(
        "verify_timeout",
        DURATION,
        default="60s",
        unit="seconds",
        minimum="1ms",
        applies=Applies.NEXT_CONNECTION,
        summary="How long a node may take to answer OPTIONS on a new connection. After that the connection counts as one that could not be"
        " made.",
        source="pbal (Perlbal: 60 s, fixed)",
    ),
    Tunable(
        "connect_ahead",
        INT,
        default="0",
        unit="connections",
        maximum="1000",
        summary="Idle connections to have open before anybody wants them. pbal opens them one at a time to each node, 10 at a time in all,"
        " and waits a second after a node has refused one.",
        source="differs: counts only idle connections; backend_persist_cache closes none of them",
    ),
    Tunable(
        "queue_size",
        INT,
        default="0",
        unit="requests",
        summary="Requests that may wait for a connection to a node. pbal answers one more with 503 and Retry-After at once. 0: no limit.",
        source="pbal",
    ),
    Tunable(
        "queue_relief_size",
        INT,
        default="0",
        unit="requests",
        summary="While at least so many requests of the normal class wait, one of them may go before those of the high class"
        " (queue_relief_chance). 0: never.",
        source=_PERLBAL,
    ),
    Tunable(
        "queue_relief_chance",
        INT,
        default="0",
        unit="percent",
        maximum="100",
        summary="How often a connection that becomes free goes to the normal class first, while queue_relief_size is reached.",
        source="differs: the high class is served then, too, if nobody of the normal class can use the connection",
    ),
    Tunable(
        "high_priority_cookie",
        COOKIE,
        summary="Cookie that makes a request wait in the class that is served first.",
        source="differs: its value is what follows the first = sign; plugins may make other requests high as well",
    ),
    Tunable(
        "high_priority_cookie_contents",
        TEXT,
        summary="What the value of that cookie has to contain. If you do not set it, having the cookie is enough.",
        source="differs: in Perlbal every request is high if you do not set it",
    ),
    Tunable(
        "send_proxy",
        enum("off", "v1", "v2"),
        default="off",
        applies=Applies.NEXT_CONNECTION,
        summary="Begin each connection to a node with a PROXY header of this version: it names the client, and where the client connected"
        " to. Each client connection has connections of its own to nodes then, so nodes see far more of them; connect_ahead opens none.",
        source="pbal",
    ),
)

OF_NODES: tuple[Tunable, ...] = (
    Tunable(
        "node_max_connections",
        INT,
        default="0",
        unit="connections",
        summary="Connections to a node of the pool that may be in use at once, those of all services together. Further requests wait until"
        " one is free (queue_size, queue_timeout). A node's own MAX goes before it. 0: no limit.",
        source="pbal",
    ),
)
"""Of a pool."""
