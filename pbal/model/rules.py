"""What an operator's rules make of a request and of its response: HEADER, ROUTE, REWRITE.

    HEADER ... REQUEST    fields of the request: on a reverse_proxy those that a node gets, on a selector those that go on from it
    HEADER ... RESPONSE   fields of the response: of a node's, of a file's, and of pbal's own, errors included. nginx's add_header leaves
                          errors out, and so the one page that a browser must not frame is the one that may be framed
    ROUTE                 the pool that a request goes to in place of SET pool: the first whose conditions hold
    REWRITE               the path that nodes see: the first that matches

Rules about headers are carried out in the order in which they were said, so the last one about a name counts. One that holds always, and
does not only add, makes those before it about its name void, and takes their place.

A value may hold variables. What they stand for came from strangers, but it is a value and nothing else: readers have refused what could
end a line, and what is left of that is replaced here. A field whose value comes out empty is not there.

What a rewrite sends is made of the plain path (Exchange.plain_path), with what may not stand in a path escaped again. If dot segments
come of it, the request is refused: `^/img-(.*) = /img/$1` must not lead `/img-../secret` to /secret.

A `Rules` never changes: a statement puts another in its place.
"""

import re
from collections.abc import Callable
from typing import Final

from pbal.http1.changes import Changes
from pbal.http1.encoder import FRAMING_FIELDS
from pbal.http1.events import canonical
from pbal.http1.headers import KNOWN_FORWARDING
from pbal.http1.paths import plain
from pbal.http1.reader import is_host
from pbal.model.conditions import Conditions, values_of
from pbal.model.exchange import Exchange
from pbal.model.pool import Pool
from pbal.schema.kinds import BadValue
from pbal.schema.said import Said
from pbal.schema.types import REGEX

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

_ILLEGAL: Final = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")
_VARIABLE: Final = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)
_OF_REQUEST: Final = re.compile(r"http_([a-z0-9_]+)")
_NOT_IN_A_PATH: Final = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,;=:@/%]")
_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_DOTS: Final = re.compile(r"/\.\.?/")
_SLASHES: Final = re.compile(rb"//+")

Getter = Callable[[Exchange], bytes]


# -- values --------------------------------------------------------------------------------------------------------------


def _tls(name: bytes) -> Getter:
    """What is known of the client's certificate."""

    def get(exchange: Exchange) -> bytes:
        tls = exchange.stream.tls
        return b"" if tls is None else dict(tls.client_fields()).get(name, b"")

    return get


def _version(exchange: Exchange) -> bytes:
    return b"" if exchange.stream.tls is None else exchange.stream.tls.version.encode()


def _cipher(exchange: Exchange) -> bytes:
    return b"" if exchange.stream.tls is None else exchange.stream.tls.cipher.encode()


def _server_name(exchange: Exchange) -> bytes:
    return b"" if exchange.stream.tls is None else exchange.stream.tls.server_name.encode()


VARIABLES: Final[dict[str, tuple[str, Getter]]] = {
    "client": ("the client's address; a trusted proxy names it", lambda exchange: exchange.client_address),
    "peer": ("the address at the other end of the connection", lambda exchange: exchange.stream.peer),
    "scheme": ("http or https, as the client has it", lambda exchange: exchange.scheme),
    "host": ("the host of the request, with its port where one was said", lambda exchange: exchange.request.host),
    "method": ("the method", lambda exchange: exchange.request.method),
    "target": ("the target of the request, as the client sent it", lambda exchange: exchange.request.target),
    "path": ("the path of it", lambda exchange: exchange.request.path),
    "id": ("the request's id", lambda exchange: exchange.request_id),
    "service": ("the service that has the request", lambda exchange: exchange.service.label),
    "tls": ("the protocol of TLS", _version),
    "tls_cipher": ("the cipher", _cipher),
    "tls_server_name": ("the host that the client named in the handshake", _server_name),
    "tls_verify": ("SUCCESS or NONE, where clients are asked for a certificate", _tls(b"X-SSL-Client-Verify")),
    "tls_subject": ("the subject of the client's certificate", _tls(b"X-SSL-Client-Subject")),
    "tls_issuer": ("its issuer", _tls(b"X-SSL-Client-Issuer")),
    "tls_serial": ("its serial number, in hexadecimal", _tls(b"X-SSL-Client-Serial")),
}
"""What a value may hold besides, and `$http_NAME`, a field of the request. In a configuration a `$` is written twice."""


def _field(name: bytes) -> Getter:
    between = b"; " if name == b"cookie" else b", "
    return lambda exchange: between.join(values_of(exchange, name))


def _getter(name: str, span: tuple[int, int]) -> Getter:
    known = VARIABLES.get(name)
    if known is not None:
        return known[1]
    field = _OF_REQUEST.fullmatch(name)
    if field is None:
        expected = "a variable such as $$client, $$host, $$scheme, $$id or $$http_origin"
        more = "; for a dollar sign write $$$$"
        near = tuple(f"${each}" for each in VARIABLES if each[:2] == name[:2])
        raise BadValue(f"expected {expected}, found '$${name}'{more}", expected=expected, span=span, instead=near)
    return _field(field[1].replace("_", "-").encode())


class Value:
    """The value of a field, with its variables."""

    __slots__ = ("_parts", "constant", "text")

    def __init__(self, text: str, variables: bool) -> None:
        """`variables`: whether `$name` stands for something. Raises: BadValue."""
        if any((ord(character) < 32 and character != "\t") or character == "\x7f" for character in text):
            raise BadValue("a field value cannot hold control characters", expected="a field value")
        self.text = text
        """As it was said."""
        self._parts: list[tuple[bytes, Getter | None]] = []
        place, last = 0, ""
        for match in _VARIABLE.finditer(text) if variables else ():
            last += text[place : match.start()]
            place = match.end()
            if match[1]:
                last += "$"
                continue
            self._parts.append((last.encode("utf-8", "surrogateescape"), _getter(match[2] or match[3], match.span())))
            last = ""
        self._parts.append(((last + text[place:]).encode("utf-8", "surrogateescape"), None))
        self.constant: bytes | None = self._parts[0][0].strip(b" \t") if len(self._parts) == 1 else None
        """What it is for every request; None where that differs."""

    def fill(self, exchange: Exchange) -> bytes:
        """What it is for a request; b"" where nothing is known of what it names."""
        if self.constant is not None:
            return self.constant
        parts: list[bytes] = []
        for text, getter in self._parts:
            parts.append(text)
            if getter is not None:
                parts.append(getter(exchange))
        return _ILLEGAL.sub(b"?", b"".join(parts)).strip(b" \t")


# -- headers -------------------------------------------------------------------------------------------------------------


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


# -- where to, and as what -------------------------------------------------------------------------------------------------


class Route:
    """ROUTE: a pool for requests that are so."""

    __slots__ = ("pool", "when", "when_said")

    def __init__(self, pool: Pool, when: Conditions, when_said: str) -> None:
        self.pool = pool
        self.when = when
        self.when_said = when_said


class UnsafePath(Exception):
    """What a rewrite made of a path has dot segments, or escapes that were none before."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


class Rewrite:
    """REWRITE: something else in place of what a regular expression finds in the path; the rest of the path stays."""

    __slots__ = ("_parts", "_pattern", "pattern", "to", "when", "when_said")

    def __init__(self, pattern: str, to: str, when: Conditions | None = None, when_said: str = "") -> None:
        """`pattern`: one that REGEX takes. `to`: what stands in place of what it finds. Raises: BadValue for `to`."""
        self.pattern = pattern
        self._pattern: re.Pattern[bytes] = REGEX.parse(pattern)
        self.to = to
        self._parts: list[tuple[bytes, int]] = []
        self.when = when
        self.when_said = when_said
        place, last = 0, ""
        for match in _VARIABLE.finditer(to):
            last += self._literal(place, match.start())
            place = match.end()
            if match[1]:
                last += "$"
                continue
            self._parts.append((last.encode(), self._group(match[2] or match[3], match.span())))
            last = ""
        self._parts.append(((last + self._literal(place, len(to))).encode(), -1))

    def _literal(self, start: int, end: int) -> str:
        """A part of `to` as it is sent. Raises: BadValue."""
        text = self.to[start:end]
        legal = _LITERAL.match(text)
        assert legal is not None  # it may be empty
        if legal.end() < len(text):
            at = start + legal.end()
            found = self.to[at]
            why = {"?": ": the query of a request stays as it is", "#": "", "%": ": % begins an escape of two hexadecimal digits"}
            message = f"expected a path, found '{found}' in it{why.get(found, '; other characters are escaped, as %20')}"
            raise BadValue(message, expected="a path", span=(at, at + 1))
        if plain(b"/" + text.encode()).count(b"%") != text.count("%"):
            raise BadValue(f"expected a path, found an escape in '{text}' of what needs none", expected="a path", span=(start, end))
        if _DOTS.search(text):
            raise BadValue(f"expected a path without the segments . and .., found '{text}'", expected="a path", span=(start, end))
        return text

    def _group(self, name: str, span: tuple[int, int]) -> int:
        """The number of a group of the pattern. Raises: BadValue."""
        groups = self._pattern.groups
        if name.isdecimal() and int(name) <= groups:
            return int(name)
        if name in self._pattern.groupindex:
            return self._pattern.groupindex[name]
        there = "no group" if not groups else "one group" if groups == 1 else f"{groups} groups"
        raise BadValue(f"'$${name}' is no group of '{self.pattern}', which has {there}", expected="a group", span=span)

    def target(self, exchange: Exchange) -> bytes:
        """The target to send in place of a request's, b"" if this rule has nothing to say of it. Raises: UnsafePath."""
        path = exchange.plain_path
        if not path.startswith(b"/"):
            return b""
        match = self._pattern.search(path)
        if match is None or (self.when is not None and not self.when.hold(exchange)):
            return b""
        made = [path[: match.start()]]
        for text, group in self._parts:
            made.append(text)
            if group >= 0:
                made.append(match[group] or b"")
        made.append(path[match.end() :])
        result = b"".join(made)
        result = _SLASHES.sub(b"/", result if result.startswith(b"/") else b"/" + result)
        if plain(result) != result:
            raise UnsafePath(result)
        result = _NOT_IN_A_PATH.sub(_escape, result)
        query = exchange.request.query
        return result + b"?" + query if query else result


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


# -- all of a service ------------------------------------------------------------------------------------------------------


class Rules:
    """The rules of one service."""

    __slots__ = ("headers", "request", "response", "rewrites", "routes", "steers")

    def __init__(self, headers: tuple[HeaderRule, ...] = (), routes: tuple[Route, ...] = (), rewrites: tuple[Rewrite, ...] = ()) -> None:
        self.headers = headers
        self.routes = routes
        self.rewrites = rewrites
        request = tuple([rule for rule in headers if not rule.response])
        response = tuple([rule for rule in headers if rule.response])
        self.request: HeaderRules | None = HeaderRules(request) if request else None
        """Asked for every request; None where there are none."""
        self.response: HeaderRules | None = HeaderRules(response) if response else None
        self.steers = bool(routes or rewrites)
        """Whether ROUTE or REWRITE may have something to say."""

    def with_header(self, rule: HeaderRule) -> "Rules":
        """These, and one about a header after them."""
        return Rules((*(other for other in self.headers if not rule.voids(other)), rule), self.routes, self.rewrites)

    def with_route(self, route: Route) -> "Rules":
        """These, and a route after them. One that was there with the same conditions and pool stays where it is."""
        known = any(other.pool is route.pool and other.when == route.when for other in self.routes)
        return self if known else Rules(self.headers, (*self.routes, route), self.rewrites)

    def with_rewrite(self, rewrite: Rewrite) -> "Rules":
        """These, and a rewrite after them. One that was there in the same words stays where it is."""
        said = rewrite.pattern, rewrite.to, rewrite.when
        known = any((other.pattern, other.to, other.when) == said for other in self.rewrites)
        return self if known else Rules(self.headers, self.routes, (*self.rewrites, rewrite))

    def without(self, place: int) -> "Rules":
        """All but one, counted through headers, routes and rewrites."""
        headers, routes, rewrites = list(self.headers), list(self.routes), list(self.rewrites)
        if place < len(headers):
            del headers[place]
        elif place < len(headers) + len(routes):
            del routes[place - len(headers)]
        else:
            del rewrites[place - len(headers) - len(routes)]
        return Rules(tuple(headers), tuple(routes), tuple(rewrites))

    def __len__(self) -> int:
        return len(self.headers) + len(self.routes) + len(self.rewrites)

    def route(self, exchange: Exchange) -> Route | None:
        """The ROUTE that a request goes by; None: to that of SET pool."""
        for route in self.routes:
            if route.when.hold(exchange):
                return route
        return None

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
