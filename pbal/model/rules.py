"""What an operator's rules make of a request and of its response: HEADER, ROUTE, REWRITE, CACHE.

    HEADER ... REQUEST    fields of the request: on a reverse_proxy those that a node gets, on a selector those that go on from it
    HEADER ... RESPONSE   fields of the response: of a node's, of a file's, and of pbal's own, errors included. nginx's add_header leaves
                          errors out, and so the one page that a browser must not frame is the one that may be framed
    ROUTE                 the pool that a request goes to in place of SET pool: the first whose conditions hold
    REWRITE               the path that nodes see: the first that matches
    CACHE                 Cache-Control of the files of a web_server: the first whose conditions hold

Rules about headers are carried out in the order in which they were said, so the last one about a name counts. One that holds always, and
does not only add, makes those before it about its name void, and takes their place.

The values of fields stand in variables.py, routes and rewrites in steering.py, CACHE in caching.py, and what WHEN says in conditions.py.
A field whose value comes out empty is not there.

A `Rules` never changes: a statement puts another in its place.
"""

import re
from typing import Final

from pbal.http1.changes import Changes
from pbal.http1.encoder import FRAMING_FIELDS
from pbal.http1.events import canonical
from pbal.http1.headers import KNOWN_FORWARDING
from pbal.http1.reader import is_host
from pbal.model.caching import CacheRule
from pbal.model.conditions import Conditions, Look, slow_looks
from pbal.model.exchange import Exchange
from pbal.model.steering import Rewrite, Route
from pbal.model.variables import Value
from pbal.schema.said import Said

INSERT: Final = "INSERT"
"""Perlbal's: as SET on a request, with a value that has no variables."""
SET: Final = "SET"
ADD: Final = "ADD"
REMOVE: Final = "REMOVE"

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_OURS: Final = FRAMING_FIELDS | {b"via"}
"""Fields that frame messages or are this hop's: a rule about them would break the protocol."""
_NOT_IN_REQUESTS: Final = frozenset({b"expect"})
_NOT_IN_RESPONSES: Final = frozenset({b"date"})
_ONCE: Final = KNOWN_FORWARDING | {
    b"host", b"content-type", b"authorization", b"user-agent", b"referer", b"origin", b"max-forwards", b"location", b"etag",
    b"last-modified", b"expires", b"age", b"server", b"retry-after", b"content-location", b"strict-transport-security",
}  # fmt: skip
"""A message has at most one of each (RFC 9110 section 5.3), so ADD is no word for it."""


class HeaderRule:
    """One HEADER statement."""

    __slots__ = ("key", "name", "response", "said", "value", "verb", "when", "when_said")

    def __init__(
        self, response: bool, verb: str, name: str, said: str | None = None, when: Conditions | None = None, when_said: str = ""
    ) -> None:
        """`said`: the value, in the words in which it was said. Raises: BadValue for it."""
        self.response = response
        self.verb = verb
        self.name = name.encode("utf-8", "surrogateescape")
        self.key = canonical(self.name)
        self.said = said
        self.value = None if said is None else Value(said, verb != INSERT)
        self.when = when
        self.when_said = when_said

    def refused(self) -> str:
        """Why there can be no such rule about its field; "" if there can."""
        key, of, name = self.key, "response" if self.response else "request", self.name.decode("utf-8", "replace")
        if _TOKEN.fullmatch(name) is None or key in _NOT_OURS:
            return f"'{name}' cannot be set or removed by a rule"
        if self.response and key in _NOT_IN_RESPONSES:
            return "Date is when the response was made (RFC 9110 section 6.6.1): no rule knows better"
        if not self.response and key in _NOT_IN_REQUESTS and self.verb != REMOVE:
            return "only a client can say that it waits for 100 (RFC 9110 section 10.1.1)"
        if self.verb == ADD and key in _ONCE:
            return f"a {of} has one {name} at most (RFC 9110 section 5.3): SET replaces it"
        if not self.response and key == b"host" and self.verb == REMOVE:
            return "every request needs a Host (RFC 9112 section 3.2): INSERT or SET replaces it"
        return ""

    def refused_value(self) -> str:
        """Why its value is none for its field; "" if it is one."""
        value = self.value
        if value is None:
            return ""
        if self.key == b"host" and not self.response and (value.constant is None or not is_host(value.constant)):
            return f"not a host: '{value.text}'"
        return "a value is expected" if value.constant == b"" else ""

    @property
    def sure(self) -> bool:
        """Whether it does the same to every message."""
        return self.when is None and (self.value is None or self.value.constant is not None)

    def same(self, other: "HeaderRule") -> bool:
        """Whether it says the same."""
        return (
            (self.response, self.verb, self.name, self.when) == (other.response, other.verb, other.name, other.when)
            and (self.value.text if self.value is not None else None) == (other.value.text if other.value is not None else None)
        )  # fmt: skip

    def voids(self, other: "HeaderRule") -> bool:
        """Whether nothing is left of `other`, said before it."""
        if self.response is not other.response or self.key != other.key:
            return False
        return (self.when is None and self.verb != ADD) or self.same(other)


class HeaderRules:
    """Those of one direction, in their order."""

    __slots__ = ("_known", "always", "rules")

    def __init__(self, rules: tuple[HeaderRule, ...]) -> None:
        self.rules = rules
        self.always = _changes([rule for rule in rules if rule.sure], None)
        """What they do to every message, known or not."""
        self._known: dict[int, Changes] = {}
        """By which of them hold: bits, the first rule lowest. Where a value differs from request to request, nothing is kept."""

    def changes(self, exchange: Exchange) -> Changes:
        """What they make of this exchange's message."""
        holding: list[HeaderRule] = []
        bits = 0
        bit = 1
        for rule in self.rules:
            if rule.when is None or rule.when.hold(exchange):
                holding.append(rule)
                bits |= bit
            bit <<= 1
        found = self._known.get(bits)
        if found is None:
            found = _changes(holding, exchange)
            if len(self._known) < 64 and all([rule.value is None or rule.value.constant is not None for rule in holding]):
                self._known[bits] = found
        return found


def _changes(rules: list[HeaderRule], exchange: Exchange | None) -> Changes:
    """What rules that hold do, one after the other."""
    removed: set[bytes] = set()
    added: list[tuple[bytes, bytes]] = []
    for rule in rules:
        if rule.verb != ADD:
            removed.add(rule.key)
            added = [field for field in added if canonical(field[0]) != rule.key]
        value = rule.value
        if value is not None:
            text = value.constant if exchange is None else value.fill(exchange)
            if text:
                added.append((rule.name, text))
    return Changes(frozenset(removed), added)


def _slow(
    headers: tuple[HeaderRule, ...], routes: tuple[Route, ...], rewrites: tuple[Rewrite, ...], caching: tuple[CacheRule, ...]
) -> tuple[Look, ...]:
    """The searches of rules that may take long."""
    whens = [rule.when for rule in headers] + [route.when for route in routes]
    whens += [rewrite.when for rewrite in rewrites] + [rule.when for rule in caching]
    return (*[rewrite.look for rewrite in rewrites if rewrite.slow], *slow_looks(whens))


class Rules:
    """The rules of one service."""

    __slots__ = ("caching", "headers", "request", "response", "rewrites", "routes", "slow", "steers")

    def __init__(
        self,
        headers: tuple[HeaderRule, ...] = (),
        routes: tuple[Route, ...] = (),
        rewrites: tuple[Rewrite, ...] = (),
        caching: tuple[CacheRule, ...] = (),
    ) -> None:
        self.caching = caching
        self.headers = headers
        self.routes = routes
        self.rewrites = rewrites
        request = tuple([rule for rule in headers if not rule.response])
        response = tuple([rule for rule in headers if rule.response])
        self.request: HeaderRules | None = HeaderRules(request) if request else None
        """Asked for every request; None where there are none."""
        self.response: HeaderRules | None = HeaderRules(response) if response else None
        self.slow: tuple[Look, ...] = _slow(headers, routes, rewrites, caching)
        """What is looked at in a bounded time before any of them counts (roles/searched.py)."""
        self.steers = bool(routes or rewrites)
        """Whether ROUTE or REWRITE may have something to say."""

    def with_header(self, rule: HeaderRule) -> "Rules":
        """These, and one about a header after them."""
        return Rules((*(other for other in self.headers if not rule.voids(other)), rule), self.routes, self.rewrites, self.caching)

    def with_route(self, route: Route) -> "Rules":
        """These, and a route after them. One that was there with the same conditions and pool stays where it is."""
        known = any(other.pool is route.pool and other.when == route.when for other in self.routes)
        return self if known else Rules(self.headers, (*self.routes, route), self.rewrites, self.caching)

    def with_rewrite(self, rewrite: Rewrite) -> "Rules":
        """These, and a rewrite after them. One that was there in the same words stays where it is."""
        said = rewrite.pattern, rewrite.to, rewrite.when
        known = any((other.pattern, other.to, other.when) == said for other in self.rewrites)
        return self if known else Rules(self.headers, self.routes, (*self.rewrites, rewrite), self.caching)

    def with_cache(self, rule: CacheRule) -> "Rules":
        """These, and one about caches after them. One that was there in the same words stays where it is."""
        known = any((other.words, other.when) == (rule.words, rule.when) for other in self.caching)
        return self if known else Rules(self.headers, self.routes, self.rewrites, (*self.caching, rule))

    def without(self, place: int) -> "Rules":
        """All but one, counted through headers, routes, rewrites and those about caches."""
        headers, routes, rewrites, caching = list(self.headers), list(self.routes), list(self.rewrites), list(self.caching)
        if place < len(headers):
            del headers[place]
        elif place < len(headers) + len(routes):
            del routes[place - len(headers)]
        elif place < len(headers) + len(routes) + len(rewrites):
            del rewrites[place - len(headers) - len(routes)]
        else:
            del caching[place - len(headers) - len(routes) - len(rewrites)]
        return Rules(tuple(headers), tuple(routes), tuple(rewrites), tuple(caching))

    def __len__(self) -> int:
        return len(self.headers) + len(self.routes) + len(self.rewrites) + len(self.caching)

    def route(self, exchange: Exchange) -> Route | None:
        """The ROUTE that a request goes by; None: to that of SET pool."""
        for route in self.routes:
            if route.when.hold(exchange):
                return route
        return None

    def cache_control(self, exchange: Exchange, otherwise: bytes) -> bytes:
        """What CACHE says of a file, or what holds where it says nothing."""
        for rule in self.caching:
            if rule.when is None or rule.when.hold(exchange):
                return rule.value
        return otherwise

    def target(self, exchange: Exchange) -> bytes:
        """What REWRITE makes of a request's target; b"" if nothing. Raises: UnsafePath."""
        for rewrite in self.rewrites:
            target = rewrite.target(exchange)
            if target:
                return target
        return b""


def shown_when(when: Conditions, said: str) -> str:
    """Conditions for people: as they were written where they hold what is not for them."""
    return said.written if isinstance(said, Said) else when.text


NO_RULES: Final = Rules()
