"""WHEN: what a request has to be like for a rule to hold. `host *.example.com AND NOT path ^/api/`.

A rule may be what keeps strangers out, so a condition sees the request as whoever serves it will, and not as it is spelt:

    host     lower case, without port and final dot; in absolute form the target's
    path     Exchange.plain_path: %61, //, /x/../ are resolved
    method   exact: `get` is another method than GET
    header   `_` in a name is `-`, as CGI reads it. Each line of a field that came several times is looked at, and all together. A field
             that no node would see is not there: what Connection names, and what only a trusted peer may say of the client
    cookie   each of that name, in every Cookie line; with quotes around its value or without
    scheme, from   after trust: what a trusted proxy says of the client

All of it is compiled once, when the statement is said. AND binds closer than OR, and NOT closer than both; there are no brackets, so
whatever is said is a choice of lists: `a AND b OR c` holds where a and b do, or c does.

A text is parsed by `parse`, and `Conditions.text` is the one text of whatever was meant, which parses back to an equal one.
"""

import re
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from pbal.http1.events import RequestHead, canonical
from pbal.http1.headers import KNOWN_FORWARDING, stripped
from pbal.http1.lines import HOP_BY_HOP
from pbal.http1.paths import never_found
from pbal.lang.lexical import STRING, unquoted
from pbal.model.certificates import host_name
from pbal.model.exchange import Exchange
from pbal.model.searching import is_quick
from pbal.model.trust import Networks
from pbal.schema.kinds import BadValue
from pbal.schema.types import NETWORKS, REGEX, either

_WORD: Final = re.compile(rf"{STRING}|[^\s\"=]+={STRING}|[^\s\"]\S*|\"")
_EQUAL: Final = re.compile(r"[^\s\"=]+=")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST: Final = re.compile(r"\*|(?:\*\.)?[\w-]+(?:\.[\w-]+)*\.?|\[[0-9a-f:.]+\]", re.ASCII)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"})


KINDS: Final = ("host", "path", "method", "header", "cookie", "scheme", "from")


def cookies_named(name: bytes, field: bytes) -> list[bytes]:
    """The values of the cookies of a name in a Cookie field. No regular expression: strangers say how many blanks stand where."""
    found: list[bytes] = []
    for each in field.split(b";"):
        said, equals, value = each.partition(b"=")
        if equals and said.strip(b" \t") == name:
            found.append(value.strip(b" \t"))
    return found


def values_of(exchange: Exchange, name: bytes) -> list[bytes]:
    """The values of a field, by canonical name, line by line: those that a node would get."""
    request = exchange.request
    if name == b"upgrade":
        return [request.upgrade] if request.upgrade else []
    if name not in request.fields and not request.underscores:
        return []
    if name not in request.ours and _is_unseen(exchange, request, name):
        return []
    return [value for said, value in request.headers if canonical(said) == name]


def _is_unseen(exchange: Exchange, request: RequestHead, name: bytes) -> bool:
    """Whether no node would get a field from this peer."""
    return name in HOP_BY_HOP or name in stripped(request) or (name in KNOWN_FORWARDING and not exchange.believed)


class Condition(metaclass=ABCMeta):
    """One of them."""

    text: str
    """As it has to be written."""
    odd: str
    """What is most likely not what was meant; "" if nothing is."""
    slow: bool = False
    """Whether a request may be so that it takes long to find out: see model/searching.py."""

    @abstractmethod
    def holds(self, exchange: Exchange) -> bool:
        """Whether the request is so."""


class _Host(Condition):
    """`*.example.com` is every host below example.com, and not that itself; `*` is any."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.text, self.odd = f"host {_written(','.join(names))}", ""
        self._exact = frozenset(name.strip("[]") for name in names if not name.startswith("*"))
        self._below = tuple(name[1:] for name in names if name.startswith("*."))
        self._any = "*" in names

    def holds(self, exchange: Exchange) -> bool:
        host = host_name(exchange.request.host.decode("latin-1"))
        if not host:
            return False
        return self._any or host in self._exact or (bool(self._below) and host.endswith(self._below) and not host.startswith("."))


class _Path(Condition):
    """A regular expression that is found in the path."""

    def __init__(self, pattern: str) -> None:
        self.text = f"path {_written(pattern)}"
        self.odd = REGEX.odd(pattern) or never_found(pattern)
        self.pattern: re.Pattern[bytes] = REGEX.parse(pattern)
        self.slow = not is_quick(self.pattern)

    def holds(self, exchange: Exchange) -> bool:
        return self.pattern.search(exchange.plain_path) is not None


class _Method(Condition):
    """One of some methods."""

    def __init__(self, methods: tuple[str, ...]) -> None:
        self.text, self.odd = f"method {_written(','.join(methods))}", ""
        self._methods = frozenset(method.encode() for method in methods)

    def holds(self, exchange: Exchange) -> bool:
        return exchange.request.method in self._methods


class _Scheme(Condition):
    """http or https, as the client has it."""

    def __init__(self, scheme: str) -> None:
        self.text, self.odd = f"scheme {scheme}", ""
        self._scheme = scheme.encode()

    def holds(self, exchange: Exchange) -> bool:
        return exchange.scheme == self._scheme


class _From(Condition):
    """A client's address that lies in one of some networks."""

    def __init__(self, said: str) -> None:
        networks = NETWORKS.parse(said)
        self.text = f"from {','.join(str(network) for network in networks)}"
        self.odd = NETWORKS.odd(said)
        self._networks = Networks(networks)

    def holds(self, exchange: Exchange) -> bool:
        return exchange.client_address in self._networks


class _Said:
    """What is asked of a text: nothing, that it is one (`= text`), or that a regular expression is found in it (`~ regex`)."""

    def __init__(self, operator: str, said: str) -> None:
        self.text = f" {operator} {_written(said)}" if operator else ""
        self.any = not operator
        self.odd = REGEX.odd(said) if operator == "~" else ""
        self._equal = said.encode("utf-8", "surrogateescape")
        self._pattern: re.Pattern[bytes] | None = REGEX.parse(said) if operator == "~" else None
        self.slow = self._pattern is not None and not is_quick(self._pattern)

    def fits(self, value: bytes) -> bool:
        if self.any:
            return True
        return value == self._equal if self._pattern is None else self._pattern.search(value) is not None


class _Header(Condition):
    """A field of the request."""

    def __init__(self, name: str, said: _Said) -> None:
        self.text, self.odd, self.slow = f"header {_written(name)}{said.text}", said.odd, said.slow
        self._name = canonical(name.encode())
        self._said = said

    def holds(self, exchange: Exchange) -> bool:
        values = values_of(exchange, self._name)
        return any(map(self._said.fits, values)) or (len(values) > 1 and self._said.fits(b", ".join(values)))


class _Cookie(Condition):
    """A cookie. Its name is told apart by case (RFC 6265 section 5.2)."""

    def __init__(self, name: str, said: _Said) -> None:
        self.text, self.odd, self.slow = f"cookie {_written(name)}{said.text}", said.odd, said.slow
        self._name = name.encode()
        self._said = said

    def holds(self, exchange: Exchange) -> bool:
        cookies = exchange.request.fields.get(b"cookie")
        if cookies is None or self._name not in cookies:
            return False
        for value in cookies_named(self._name, cookies):
            bare = value[1:-1] if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"') else value
            if self._said.fits(value) or self._said.fits(bare):
                return True
        return False


Parts = tuple[tuple[Condition, bool], ...]
"""What AND joins: conditions, and whether each has to hold or, with NOT, must not."""


class Conditions:
    """What WHEN says: one of the alternatives, all of whose conditions have to hold, those with NOT must not."""

    __slots__ = ("_alternatives", "_paths", "odd", "slow", "text")

    def __init__(self, alternatives: tuple[Parts, ...]) -> None:
        self._alternatives = alternatives
        self._paths = [condition.pattern for parts in alternatives for condition, _ in parts if isinstance(condition, _Path)]
        self.text = " OR ".join(
            [" AND ".join([condition.text if wanted else f"NOT {condition.text}" for condition, wanted in parts]) for parts in alternatives]
        )
        """As it has to be written."""
        self.slow = tuple([condition for parts in alternatives for condition, _ in parts if condition.slow])
        """Those that are looked at in a bounded time (roles/searched.py) before it matters whether they hold."""
        self.odd = next((condition.odd for parts in alternatives for condition, _ in parts if condition.odd), "")
        """What is most likely not what was meant; "" if nothing is."""

    def judge(self, exchange: Exchange) -> None:
        """Have exchange.judged_alike() look at the paths that they go by, too: for rules about who may have what."""
        if exchange.for_others:
            for pattern in self._paths:
                exchange.in_path(pattern)

    def hold(self, exchange: Exchange) -> bool:
        """Whether they do, for the request as it is now."""
        for parts in self._alternatives:
            for condition, wanted in parts:
                if condition.holds(exchange) is not wanted:
                    break
            else:
                return True
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Conditions) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"<Conditions {self.text}>"


Look = Callable[[Exchange], object]
"""A search for what a rule goes by."""


def slow_looks(whens: "Iterable[Conditions | None]") -> tuple[Look, ...]:
    """The searches of some conditions that may take long: for who looks at them in a bounded time first (roles/searched.py)."""
    return tuple([condition.holds for when in whens if when is not None for condition in when.slow])


def parse(text: str) -> Conditions:
    """The conditions of a text. Raises: BadValue, with the place, for the operator."""
    return _Parser(text).conditions()


# -- reading them ------------------------------------------------------------------------------------------------------


def _refuse(expected: str, found: str, span: tuple[int, int], instead: tuple[str, ...] = (), more: str = "") -> NoReturn:
    said = f"'{found}'" if found else "the end of the conditions"
    raise BadValue(f"expected {expected}, found {said}{more}", expected=expected, span=span, instead=instead)


def _written(text: str) -> str:
    """A word as it has to be written to be read back."""
    if text and not re.search(r"[\s\"]", text) and text[0] != "#" and text.lower() not in ("and", "not", "or"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Word:
    """A word of a text, and where it stands."""

    __slots__ = ("end", "plain", "start", "text")

    def __init__(self, text: str, start: int) -> None:
        self.start, self.end = start, start + len(text)
        self.plain = text.lower() if not text.startswith('"') else ""
        """To be compared with key words, which a word in quotes is not."""
        try:
            self.text = unquoted(text)
        except ValueError as error:
            raise BadValue(f"{error}: {text!r}", expected="a closing quote", span=(start, self.end)) from None

    @property
    def span(self) -> tuple[int, int]:
        return self.start, self.end


class _Parser:
    """One text on its way to Conditions."""

    def __init__(self, text: str) -> None:
        self._words = [_Word(match[0], match.start()) for match in _WORD.finditer(text)]
        self._end = len(text)
        self._place = 0

    def conditions(self) -> Conditions:
        alternatives = [[self._part()]]
        while (word := self._next()) is not None:
            if word.plain == "or":
                alternatives.append([self._part()])
            elif word.plain == "and":
                alternatives[-1].append(self._part())
            else:
                more = ": there are no brackets; AND binds closer than OR" if word.text.startswith(("(", ")")) else ""
                _refuse("AND, OR, or the end", word.text, word.span, more=more)
        return Conditions(tuple([tuple(parts) for parts in alternatives]))

    def _next(self) -> _Word | None:
        if self._place == len(self._words):
            return None
        self._place += 1
        return self._words[self._place - 1]

    def _peek(self) -> _Word | None:
        return self._words[self._place] if self._place < len(self._words) else None

    def _part(self) -> tuple[Condition, bool]:
        wanted = True
        word = self._next()
        while word is not None and word.plain == "not":
            wanted = not wanted
            word = self._next()
        reader = _READERS.get(word.plain) if word is not None else None
        if word is None or reader is None:
            found, span = (word.text, word.span) if word is not None else ("", (self._end, self._end + 1))
            near = tuple(kind for kind in KINDS if word is not None and kind[:2] == word.plain[:2])
            _refuse(f"a condition ({either(KINDS)})", found, span, near)
        return reader(self), wanted

    def _operand(self, what: str) -> _Word:
        """The word that has to follow."""
        word = self._next()
        if word is None or word.plain in ("and", "or"):
            found, span = (word.text, word.span) if word is not None else ("", (self._end, self._end + 1))
            _refuse(what, found, span)
        return word

    def _list(self, what: str) -> list[tuple[str, tuple[int, int]]]:
        """Words divided by commas, with or without blanks; each with its place."""
        found: list[tuple[str, tuple[int, int]]] = []
        while True:
            word = self._operand(what)
            found += [(part, word.span) for part in word.text.split(",") if part]
            following = self._peek()
            if not word.text.endswith(",") and (following is None or not following.text.startswith(",")):
                return found or _refuse(what, word.text, word.span)

    def host(self) -> Condition:
        what = "a host without port such as www.example.com, *.example.com or [::1]"
        names: list[str] = []
        for said, span in self._list(what):
            name = said.lower()
            if _HOST.fullmatch(name) is None:
                _refuse(what, said, span, more="" if said.isascii() else ": write it as xn--...")
            names.append(name.removesuffix(".") if "*" in name else f"[{plain}]" if ":" in (plain := host_name(name)) else plain)
        return _Host(tuple(names))

    def path(self) -> Condition:
        word = self._operand("a regular expression for the path such as ^/api/")
        try:
            return _Path(word.text)
        except BadValue as error:
            raise _placed(error, word) from None

    def method(self) -> Condition:
        methods: list[str] = []
        for said, span in self._list("methods such as GET,HEAD"):
            if _TOKEN.fullmatch(said) is None:
                _refuse("methods such as GET,HEAD", said, span)
            if said not in _METHODS and said.upper() in _METHODS:
                _refuse("methods such as GET,HEAD", said, span, (said.upper(),), ": methods are told apart by case")
            methods.append(said)
        return _Method(tuple(methods))

    def scheme(self) -> Condition:
        word = self._operand("http or https")
        if word.plain not in ("http", "https"):
            _refuse("http or https", word.text, word.span, ("http", "https"))
        return _Scheme(word.plain)

    def source(self) -> Condition:
        word = self._operand("networks such as 10.0.0.0/8,::1")
        said = word.text
        while said.endswith(",") or ((following := self._peek()) is not None and following.text.startswith(",")):
            said += self._operand("networks such as 10.0.0.0/8,::1").text
        if not said.strip(","):
            _refuse("networks such as 10.0.0.0/8,::1", word.text, word.span)
        try:
            return _From(said)
        except BadValue as error:
            raise _placed(error, word) from None

    def header(self) -> Condition:
        name, said = self._named("the name of a field, and perhaps = and a text or ~ and a regular expression")
        if canonical(name.text.encode()) == b"host":
            _refuse("a field other than Host", name.text, name.span, ("host",), ": `host www.example.com` asks for it")
        return _Header(name.text, said)

    def cookie(self) -> Condition:
        name, said = self._named("the name of a cookie, and perhaps = and a text or ~ and a regular expression")
        return _Cookie(name.text, said)

    def _named(self, what: str) -> tuple[_Word, _Said]:
        """`name`, `name = text`, `name=text`, `name ~ regex`."""
        word = self._operand(what)
        operator, text = "", word
        if word.plain and (glued := _EQUAL.match(word.text)) is not None:
            at = word.start + glued.end()
            rest = word.text[glued.end() :]
            name = _Word(word.text[: glued.end() - 1], word.start)
            operator, text = "=", _Word(rest, at) if rest else self._operand("a text")
            word = name
        elif (following := self._peek()) is not None and following.plain in ("=", "~"):
            self._place += 1
            operator = following.plain
            text = self._operand("a regular expression" if operator == "~" else "a text")
        elif following is not None and following.plain.startswith("=") and len(following.plain) > 1:
            self._place += 1
            operator, text = "=", _Word(following.text[1:], following.start + 1)
        if _TOKEN.fullmatch(word.text) is None:
            _refuse(what, word.text, word.span)
        try:
            return word, _Said(operator, text.text if operator else "")
        except BadValue as error:
            raise _placed(error, text) from None


def _placed(error: BadValue, word: _Word) -> BadValue:
    """What a type says of a word, with its place in the whole."""
    start, end = error.span if error.span is not None and word.plain else (0, word.end - word.start)
    return BadValue(str(error), expected=error.expected, span=(word.start + start, word.start + end))


_READERS: Final[dict[str, Callable[[_Parser], Condition]]] = {
    "host": _Parser.host,
    "path": _Parser.path,
    "method": _Parser.method,
    "header": _Parser.header,
    "cookie": _Parser.cookie,
    "scheme": _Parser.scheme,
    "from": _Parser.source,
}
