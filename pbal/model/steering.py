"""Where a request goes, and as what: ROUTE to a pool, REWRITE of the path that nodes see.

What a rewrite sends is made of the plain path (Exchange.plain_path), with what may not stand in a path escaped again, and the parameters
of the last segment behind it (`;jsessionid=`). If dot segments come of it, the request is refused: `^/img-(.*) = /img/$1` must not lead
`/img-../secret` to /secret.
"""

import re
from typing import Final

from pbal.http1.paths import decoded, parameters, plain, without_parameters
from pbal.model.conditions import Conditions
from pbal.model.exchange import Exchange
from pbal.model.pool import Pool
from pbal.model.searching import is_quick
from pbal.model.variables import VARIABLE
from pbal.schema.kinds import BadValue
from pbal.schema.types import REGEX

_NOT_IN_A_PATH: Final = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,;=:@/%]")
_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_DOTS: Final = re.compile(r"/\.\.?/")
_SLASHES: Final = re.compile(rb"//+")


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

    __slots__ = ("_parts", "_pattern", "pattern", "slow", "to", "when", "when_said")

    def __init__(self, pattern: str, to: str, when: Conditions | None = None, when_said: str = "") -> None:
        """`pattern`: one that REGEX takes. `to`: what stands in place of what it finds. Raises: BadValue for `to`."""
        self.pattern = pattern
        self._pattern: re.Pattern[bytes] = REGEX.parse(pattern)
        self.slow = not is_quick(self._pattern)
        """Whether a path may be so that it takes long to find it."""
        self.to = to
        self._parts: list[tuple[bytes, int]] = []
        self.when = when
        self.when_said = when_said
        place, last = 0, ""
        for match in VARIABLE.finditer(to):
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
        if decoded(text.encode()) != text.encode():
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

    def look(self, exchange: Exchange) -> object:
        """Search as target() does."""
        return self._pattern.search(exchange.plain_path)

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
        if plain(result) != without_parameters(result):
            raise UnsafePath(result)
        result = _NOT_IN_A_PATH.sub(_escape, result) + parameters(exchange.request.path)
        query = exchange.request.query
        return result + b"?" + query if query else result


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]
