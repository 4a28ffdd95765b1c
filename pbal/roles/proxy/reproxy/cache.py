"""X-REPROXY-CACHE-FOR: what a node ordered for a URL, remembered, so that the next request for it asks no node.

What is remembered is the order (its URLs, its size, the fields that it names), and not what the URLs lead to. An entry is for GET and
HEAD, for one scheme, Host and target as the node sees them, for one pool, since ROUTE may part clients by what they may have, and for
requests whose fields are the same in what the node's Vary names. Of what pbal itself tells nodes of a client, nothing is compared: an order
that varies with that is not remembered. The one that was not used for
longest goes when there are more than reproxy_cache_maxsize; those whose time is over go as the ticks find them.

What belongs to one client is nobody else's. So nothing is remembered of a response with Cache-Control private or no-store, or with
Vary: *; Set-Cookie never is; and a request with Authorization or Cookie neither leaves an entry nor gets one, unless the node says
Cache-Control: public.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from pbal.http1.encoder import FRAMING_FIELDS
from pbal.http1.events import canonical
from pbal.http1.headers import KNOWN_FORWARDING
from pbal.model.exchange import Exchange
from pbal.roles.proxy.reproxy.order import URL, Order

SWEPT: Final = 500
"""Entries that a tick looks at."""

_PERSONAL: Final = (b"authorization", b"cookie")
_METHODS: Final = (b"GET", b"HEAD")
_NEVER: Final = FRAMING_FIELDS | {b"set-cookie", b"date"}
_OURS: Final = KNOWN_FORWARDING | {b"x-request-id", b"x-proxy-capabilities", b"traceparent", b"tracestate", b"via"}
_DIRECTIVE: Final = re.compile(rb"[^,=\s]+")

Key = tuple[str, bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """One order."""

    urls: list[bytes]
    fields: list[tuple[bytes, bytes]]
    size: int
    expires: float
    """Clock time."""
    public: bool
    varies: tuple[tuple[bytes, bytes], ...]
    """Fields of the request, and what they were."""


class Cache:
    """The orders of one service."""

    __slots__ = ("_entries", "_sweep", "hits", "lookups", "most")

    def __init__(self, most: int) -> None:
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._sweep: list[Key] = []
        """Keys that ticks have still to look at."""
        self.most = most
        self.hits = self.lookups = 0

    def __len__(self) -> int:
        return len(self._entries)

    def limit(self, most: int) -> None:
        """Keep no more than so many."""
        self.most = most
        self._crop()

    def _crop(self) -> None:
        while len(self._entries) > self.most:
            self._entries.popitem(last=False)

    def remember(self, order: Order, now: float) -> None:
        """Keep an order that could be carried out, if it may be kept."""
        exchange, head = order.exchange, order.head
        control = {each.lower() for each in _DIRECTIVE.findall(head.fields.get(b"cache-control", b""))}
        varied = head.fields.get(b"vary", b"").lower().replace(b",", b" ").split()
        public = b"public" in control
        if (
            not order.cache_for
            or order.status != 200
            or exchange.method not in _METHODS
            or exchange.request.framing
            or b"*" in varied
            or not _OURS.isdisjoint(map(canonical, varied))
            or b"private" in control
            or b"no-store" in control
            or (not public and _is_personal(exchange))
        ):
            return
        names = order.cached_fields - _NEVER
        entry = Entry(
            order.said(URL),
            [field for field in order.fields if field[0].lower() in names],
            order.size,
            now + order.cache_for,
            public,
            tuple((name, _seen(exchange, name)) for name in varied),
        )
        key = _key(exchange, order.pool)
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self._crop()

    def find(self, exchange: Exchange, pool: str, now: float) -> Entry | None:
        """The order for a request that is to go to `pool`, if it is known."""
        if exchange.method not in _METHODS or exchange.request.framing:
            return None
        self.lookups += 1
        entry = self._for(exchange, pool, now)
        if entry is not None:
            self._entries.move_to_end(_key(exchange, pool))
            self.hits += 1
        return entry

    def knows(self, exchange: Exchange, pool: str, now: float) -> bool:
        """Whether there is one, for who only looks."""
        return exchange.method in _METHODS and not exchange.request.framing and self._for(exchange, pool, now) is not None

    def _for(self, exchange: Exchange, pool: str, now: float) -> Entry | None:
        entry = self._entries.get(_key(exchange, pool))
        if entry is None or entry.expires <= now:
            return None
        if (not entry.public and _is_personal(exchange)) or any(_seen(exchange, name) != value for name, value in entry.varies):
            return None
        return entry

    def forget(self, exchange: Exchange, pool: str) -> None:
        """The order could not be carried out any more."""
        self._entries.pop(_key(exchange, pool), None)

    def tick(self, now: float) -> None:
        """Once a second: drop some of what is over."""
        if not self._sweep:
            self._sweep = list(self._entries)
        for key in self._sweep[-SWEPT:]:
            entry = self._entries.get(key)
            if entry is not None and entry.expires <= now:
                del self._entries[key]
        del self._sweep[-SWEPT:]


def _key(exchange: Exchange, pool: str) -> Key:
    request = exchange.request
    host = request.host if exchange.service.rules.request is None else _seen(exchange, b"host")
    return pool, exchange.scheme, host.lower(), exchange.rewritten or request.path + b"?" + request.query


def _seen(exchange: Exchange, name: bytes) -> bytes:
    """A field of the request as HEADER statements let a node see it."""
    said = exchange.request.fields.get(name, b"")
    rules = exchange.service.rules.request
    if rules is None:
        return said
    changes, wanted = rules.changes(exchange), canonical(name)
    set_here = [value for key, value in changes.added if canonical(key) == wanted]
    return b", ".join(set_here if wanted in changes.removed else [said, *set_here])


def _is_personal(exchange: Exchange) -> bool:
    fields = exchange.request.fields
    return any(name in fields for name in _PERSONAL)
