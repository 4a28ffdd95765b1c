"""Of pools: which node gets a request. What the methods do is in model/balance.py."""

import re
from dataclasses import dataclass

from pbal.schema import types
from pbal.schema.kinds import BadValue
from pbal.schema.said import shown
from pbal.schema.tunables import Tunable
from pbal.schema.types import Type

METHODS = ("random", "round_robin", "least_connections", "p2c", "hash")
"""Values of balance_method."""

HEAVIEST = 1000
"""Of the weights that POOL ADD takes."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_PARAMETER = re.compile(r"[^\s&=#\x00-\x20\x7f]+")
_NAMED = ("header", "cookie", "query")
_PLAIN = ("uri", "path", "client")
_EXPECTED = f"{', '.join(_PLAIN)}, {', '.join(f'{each}:NAME' for each in _NAMED[:-1])} or {_NAMED[-1]}:NAME"
_SHORTEST_KEY = 16
_MOST_PAUSES = 20
_LONGEST_PAUSE = 60


@dataclass(frozen=True, slots=True)
class HashOf:
    """What of a request a hash is made of: `what` is uri, path, client, header, cookie or query, the last three by `name`."""

    what: str
    name: bytes = b""


def _refusal(expected: str, found: str) -> BadValue:
    return BadValue(f"expected {expected}, found {found!r}", expected=expected)


def _parse_hash(text: str) -> HashOf:
    what, colon, name = text.partition(":")
    folded = what.lower()
    if folded in _PLAIN and not colon:
        return HashOf(folded)
    if folded in _NAMED and (_PARAMETER if folded == "query" else _NAME).fullmatch(name):
        return HashOf(folded, (name.lower() if folded == "header" else name).encode())
    raise _refusal(_EXPECTED, text)


def _render_hash(value: HashOf) -> str:
    return f"{value.what}:{value.name.decode()}" if value.name else value.what


def _parse_sticky(text: str) -> bytes:
    if text.lower() == "off":
        return b""
    if _NAME.fullmatch(text):
        return text.encode()
    raise _refusal("off or the name of a cookie such as node", text)


def _parse_key(text: str) -> bytes:
    key = text.encode()
    if len(key) < _SHORTEST_KEY:
        expected = f"a secret of at least {_SHORTEST_KEY} characters"
        raise BadValue(f"expected {expected}, found one of {len(key)}", expected=expected)
    return key


HASH = Type("part of a request", _parse_hash, _render_hash, (*_PLAIN, *(f"{each}:" for each in _NAMED)))
STICKY = Type("cookie's name", _parse_sticky, lambda value: value.decode() or "off", ("off",))
KEY = Type("secret", _parse_key, bytes.decode)


def _parse_schedule(text: str) -> tuple[float, ...]:
    pauses: list[float] = []
    for word in re.split(r"[,\s]+", text.strip()):
        said = f"0{word}" if word.startswith(".") else word  # as Perlbal's own default has it
        try:
            pauses.append(types.DURATION.parse(said))
        except ValueError:
            raise _refusal("seconds between attempts such as 0,.25,1", text) from None
    if len(pauses) > _MOST_PAUSES or max(pauses) > _LONGEST_PAUSE:
        raise _refusal(f"at most {_MOST_PAUSES} pauses of at most {_LONGEST_PAUSE} seconds", text)
    return tuple(pauses)


SCHEDULE = Type("pauses", _parse_schedule, lambda pauses: ",".join(f"{pause:.6f}".rstrip("0").rstrip(".") for pause in pauses))


def _number(least: int, most: int, what: str) -> Type[int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) and least <= int(text) <= most:
            return int(text)
        raise _refusal(f"{what} from {least} to {most}", shown(text))

    return Type(what, parse)


WEIGHT = _number(0, HEAVIEST, "a weight")
MOST = _number(1, 1_000_000, "a number of connections")
"""Of POOL ADD."""

BALANCING: tuple[Tunable, ...] = (
    Tunable(
        "balance_method",
        types.enum(*METHODS),
        default="random",
        summary="How pbal chooses the node that gets a request, in proportion to the weights of POOL ADD. round_robin: in turn, smoothly."
        " least_connections: the one with the fewest requests in progress. p2c: of two random ones the one with fewer; recommended."
        " hash: the same node for the same balance_hash, as long as that node is usable.",
        source="differs: Perlbal has random only",
    ),
    Tunable(
        "balance_hash",
        HASH,
        default="uri",
        summary="What balance_method = hash looks at: uri (path and query), path, client (the address), header:NAME, cookie:NAME or"
        " query:NAME. A request that has no such header, cookie or parameter goes by the client's address. Every pbal with the same nodes"
        " makes the same choice.",
        source="pbal",
    ),
    Tunable(
        "sticky",
        STICKY,
        default="off",
        summary="off, or the name of a cookie that binds a client to the node that answered it first. The cookie is signed and does not"
        " tell the node's address; pbal sets it and takes it out of requests. When the node is down, full or removed, the client is"
        " bound to another.",
        source="pbal",
    ),
    Tunable(
        "sticky_key",
        KEY,
        summary="Secret that sticky cookies are signed with, of at least 16 characters: best ${file:PATH}. Give the same to every pbal that"
        " stands before these nodes. Without it pbal makes one when it starts, and clients are bound anew after a restart.",
        source="pbal",
    ),
    Tunable(
        "retry_budget",
        types.INT,
        default="50",
        unit="percent",
        maximum="100",
        summary="Share of the pool's requests in progress that may be second and later attempts. A request over it is not sent"
        " again: its failure is answered at once. Connections that could not be made do not count.",
        source="pbal",
    ),
    Tunable(
        "retry_budget_least",
        types.INT,
        default="10",
        unit="requests",
        maximum="100000",
        summary="As many second and later attempts may always be in progress, however few requests the pool has.",
        source="pbal",
    ),
)
"""Of pools."""

OF_PROXIES: tuple[Tunable, ...] = (
    Tunable(
        "balance_method",
        types.enum(*METHODS),
        summary="Choose the nodes for this service's requests so, whatever balance_method of its pool says for others. Unset: as the pool"
        " says. SET of a service and a pool with the same name means the pool.",
        source="differs: Perlbal has random only, and SET on a service changes the pool",
    ),
    Tunable(
        "enable_error_retries",
        types.BOOL,
        default="off",
        summary="Send a GET or HEAD that a node answers with 500 again, at the times that error_retry_schedule says. retry_budget of the"
        " pool bounds how many.",
        source="Perlbal service parameters",
    ),
    Tunable(
        "error_retry_schedule",
        SCHEDULE,
        default="0,.25,.50,1,1,1,1,1",
        unit="seconds",
        summary="The pauses before the second attempt, the third and so on. After the last one the client gets the 500.",
        source="differs: each request begins with the first pause; Perlbal counts on from the last request of the connection",
    ),
)
"""Of a reverse_proxy."""
