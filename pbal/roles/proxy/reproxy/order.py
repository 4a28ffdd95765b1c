"""What a node orders with X-REPROXY fields, and what of its response is the client's all the same.

    X-REPROXY-FILE: path                a file of this machine
    X-REPROXY-URL: url [url ...]        what the first of these servers has that works
    X-REPROXY-SERVICE: name             the answer of another service
    X-REPROXY-EXPECTED-SIZE: octets     of the file, or of what the server has; anything else is not it
    X-REPROXY-CACHE-FOR: seconds; names the order holds so long for this URL; the named fields are the client's then

The first one counts. The client gets the status and the fields of the node's response, without these. A status of no body, or of a part of
one, becomes 200.
Source: Perlbal manual, Reproxying.
"""

import re
from typing import Final

from pbal.http1.conditional import parse_http_date
from pbal.http1.events import ResponseHead
from pbal.model.exchange import Exchange
from pbal.observe.recent import Trouble
from pbal.roles.files.sending import Validators
from pbal.roles.proxy.response import forwardable_fields

FILE: Final = b"x-reproxy-file"
URL: Final = b"x-reproxy-url"
SERVICE: Final = b"x-reproxy-service"
ORDERS: Final = frozenset({FILE, URL, SERVICE})

_EXPECTED_SIZE: Final = b"x-reproxy-expected-size"
_CACHE_FOR: Final = b"x-reproxy-cache-for"
_OF_THE_BODY: Final = frozenset({b"accept-ranges", b"content-range", b"content-length"})
"""What the node says of a body that is not sent."""
_OF_NO_OR_A_PART: Final = frozenset({204, 205, 206})
_CACHE: Final = re.compile(rb"([0-9]{1,9})[ \t]*(?:;(.*))?", re.DOTALL)

WRONG_SIZE: Final = -2
"""An expected size that is no number: nothing is of it."""
ANY_SIZE: Final = -1


class Order:
    """One response that a node left to pbal. Its exchange is new, and whoever carries out the order answers it."""

    __slots__ = ("cache_for", "cached_fields", "exchange", "fields", "head", "pool", "size", "status", "validators")

    def __init__(self, exchange: Exchange, head: ResponseHead, pool: str) -> None:
        """`pool`: that of the node."""
        self.exchange = exchange
        self.pool = pool
        self.head = head
        self.status = 200 if head.status in _OF_NO_OR_A_PART else head.status
        self.fields = [
            field
            for field in forwardable_fields(head)
            if not (name := field[0].lower()).startswith(b"x-reproxy-") and name not in _OF_THE_BODY
        ]
        modified = head.fields.get(b"last-modified")
        self.validators = Validators(head.fields.get(b"etag", b""), None if modified is None else parse_http_date(modified))
        said = head.fields.get(_EXPECTED_SIZE)
        self.size = ANY_SIZE if said is None else int(said) if said.isdigit() and len(said) < 20 else WRONG_SIZE
        self.cache_for = 0
        self.cached_fields: frozenset[bytes] = frozenset()
        match = _CACHE.fullmatch(head.fields.get(_CACHE_FOR, b""))
        if match is not None:
            self.cache_for = int(match[1])
            self.cached_fields = frozenset((match[2] or b"").lower().split())

    @property
    def reason(self) -> bytes:
        """The node's words for its status; b"" where that became another."""
        return self.head.reason if self.status == self.head.status else b""

    def add(self, line: bytes) -> None:
        """Give the client one more field: a header line, or b""."""
        if line:
            name, _, value = line.removesuffix(b"\r\n").partition(b": ")
            self.fields.append((name, value))

    def said(self, name: bytes) -> list[bytes]:
        """The words of a field, of all lines of it."""
        return [word for key, value in self.head.headers if key.lower() == name for word in value.split()]

    @property
    def is_validated(self) -> bool:
        """Whether the node said by what its answer is told apart."""
        return bool(self.validators.etag) or self.validators.modified is not None

    def fits(self, size: int) -> bool:
        """Whether something of so many octets is what was ordered."""
        return self.size in (ANY_SIZE, size)


def tell(exchange: Exchange, event: str, why: str) -> None:
    """Say in the log what became of an order, and whose it was: the node's, or nobody's if it was remembered."""
    service = exchange.service
    fields = {"event": event, "service": service.name, "node": exchange.node or "the cache", "reason": why}
    service.world.log_limited(f"{event} {service.name}", "service %(service)s: %(node)s: %(reason)s", fields)


def fail(exchange: Exchange, status: int, text: bytes, cause: bytes, event: str, why: str) -> None:
    """Answer an order that cannot be carried out. The operator is told why; the client not, since it would tell of files and servers."""
    exchange.cause = cause
    exchange.trouble = Trouble(why)
    tell(exchange, event, why)
    exchange.error(status, text, [(b"Retry-After", b"1")] if status == 503 else [])


NOTHING: Final = b"Nothing here.\n"
REFUSED: Final = b"A node asked for what it may not have.\n"
"""To the client."""
