"""What a credential is good for, and what is said to one that is not. Values only; who asks whom is auth.py's affair.

A pattern is a queue name in which `*` stands for any characters, also none; nothing else is special, dots and slashes are
characters like others. No regular expression is made of it: `a*a*a*a*b` is matched in one pass.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pbal.api import Type

from .names import Source

MOST_PATTERNS = 1000
"""Patterns in one list. Each is tried for each queue of a request."""


class Action(Enum):
    """What somebody wants to do with queues."""

    POLL = "poll"
    PUBLISH = "publish"


PlainPatterns = tuple[tuple[bytes, ...], tuple[tuple[bytes, ...], ...]]


class Patterns:
    """A list of patterns."""

    __slots__ = ("_exact", "_globs")

    def __init__(self, patterns: Iterable[bytes]) -> None:
        patterns = list(patterns)
        self._exact = frozenset(pattern for pattern in patterns if b"*" not in pattern)
        self._globs = tuple(tuple(pattern.split(b"*")) for pattern in patterns if b"*" in pattern)

    @classmethod
    def of(cls, names: Iterable[bytes]) -> "Patterns":
        """These names, and no others, even if a `*` is in them."""
        made = cls(())
        made._exact = frozenset(names)
        return made

    def plain(self) -> "PlainPatterns":
        """Names, and patterns in parts."""
        return tuple(self._exact), self._globs

    @classmethod
    def restored(cls, plain: "PlainPatterns") -> "Patterns":
        """What plain() returned."""
        made = cls.of(plain[0])
        made._globs = plain[1]
        return made

    def match(self, name: bytes) -> bool:
        """Whether a name is meant."""
        return name in self._exact or any(_matches(parts, name) for parts in self._globs)


def _matches(parts: tuple[bytes, ...], name: bytes) -> bool:
    """Whether the parts stand in `name` in their order, the first at its start and the last at its end."""
    first, last = parts[0], parts[-1]
    place, end = len(first), len(name) - len(last)
    if end < place or not name.startswith(first) or not name.endswith(last):
        return False
    for part in parts[1:-1]:
        found = name.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


PlainGrant = tuple[PlainPatterns, PlainPatterns, float | None]


class Grant:
    """What a credential may do. (A Verdict is what a hook says.)"""

    __slots__ = ("_poll", "_publish", "expires", "queues")

    def __init__(self, poll: Patterns, publish: Patterns, expires: float | None = None, queues: tuple[bytes, ...] | None = None) -> None:
        self._poll, self._publish = poll, publish
        self.expires = expires
        """When it ends, in seconds since the epoch; None: not known. A stream that it opened ends then."""
        self.queues = queues
        """The queues to poll, whatever the request names; None: those of the request."""

    def plain(self) -> "PlainGrant":
        """It without anything of this module, for the next generation."""
        return self._poll.plain(), self._publish.plain(), self.expires

    @classmethod
    def restored(cls, plain: "PlainGrant") -> "Grant":
        """What plain() returned."""
        return cls(Patterns.restored(plain[0]), Patterns.restored(plain[1]), plain[2])

    def may_poll(self, name: bytes) -> bool:
        """Whether it may wait for this queue. `name` is without poll_key_prefix."""
        return self._poll.match(name)

    def may_publish(self, name: bytes) -> bool:
        """Whether it may publish to this queue."""
        return self._publish.match(name)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may go on, for these queues."""

    names: tuple[bytes, ...]
    grant: Grant


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request ends here. `why` is a sentence for its client."""

    status: int
    why: str
    fields: tuple[tuple[bytes, bytes], ...] = ()


Decision = Admitted | Refusal

_PLAIN = re.compile(rb"[A-Za-z0-9_.:@/+-]{1,100}")


def decide(grant: Grant, action: Action, names: tuple[bytes, ...]) -> Decision:
    """Hold a request against what its credential may do. 403 is for a credential that is good, but not for this."""
    if action is Action.POLL and grant.queues is not None:
        names = grant.queues
    may = grant.may_poll if action is Action.POLL else grant.may_publish
    for name in names:
        if not may(name):
            what = f"queue {name.decode()}" if _PLAIN.fullmatch(name) else "this queue"
            verb = "poll" if action is Action.POLL else "publish to"
            return Refusal(403, f"This credential may not {verb} {what}.", (challenge("insufficient_scope"),))
    if not names:
        return Refusal(403, "This credential may poll no queue.", (challenge("insufficient_scope"),))
    return Admitted(names, grant)


def challenge(error: str = "", description: str = "") -> tuple[bytes, bytes]:
    """The field that says what is wrong with a credential; without an error: that there is none. Source: RFC 6750 section 3."""
    said = [f'error="{error}"'] if error else []
    if description:
        said.append(f'error_description="{description}"')
    return b"WWW-Authenticate", " ".join(("Bearer", ", ".join(said))).rstrip().encode()


def unauthorized(why: str = "") -> Refusal:
    """401: no credential, or one that is not good. `why` is without quotes and dots."""
    if not why:
        return Refusal(401, "This needs a credential.", (challenge(),))
    return Refusal(401, f"The credential is refused: {why}.", (challenge("invalid_token", why),))


# -- the tunables' types -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthChoice:
    """poll_auth: who says what a credential is good for."""

    kind: str = "off"
    """off, jwt or request."""
    argument: str = ""
    """The key file of jwt, the URI of request."""

    def __str__(self) -> str:
        return f"{self.kind} {self.argument}".rstrip()


_URI = re.compile(r"/[!\"$-~]*")


def _parse_auth(text: str) -> AuthChoice:
    kind, _, argument = text.strip().partition(" ")
    kind, argument = kind.lower(), argument.strip()
    if kind == "off" and not argument:
        return AuthChoice()
    if kind == "jwt" and argument and "\0" not in argument:
        return AuthChoice(kind, argument)
    if kind == "request" and _URI.fullmatch(argument):
        return AuthChoice(kind, argument)
    raise ValueError(f"expected off, jwt KEYFILE, or request /URI, found {text!r}")


def _place_auth(text: str, folder: Path) -> str:
    try:
        choice = _parse_auth(text)
    except ValueError:
        return text  # is refused in a moment, in the words it was written in
    return f"jwt {folder / choice.argument}" if choice.kind == "jwt" else text


def _parse_tokens(text: str) -> tuple[Source, ...]:
    sources = tuple(Source(word) for word in text.replace(",", " ").split())
    if not sources or any(source.kind not in ("header", "query", "cookie") for source in sources):
        raise ValueError(f"expected header:NAME, query:NAME or cookie:NAME, found {text!r}")
    return sources


def _read_by_auth(choice: AuthChoice) -> tuple[Path, ...]:
    return (Path(choice.argument),) if choice.kind == "jwt" else ()


# In quotes: typing would remember the classes, and with them each generation of this module.
AUTH: "Type[AuthChoice]" = Type("auth", _parse_auth, str, ("off", "jwt", "request"), placed=_place_auth, reads=_read_by_auth)
TOKEN_SOURCES: "Type[tuple[Source, ...]]" = Type("token sources", _parse_tokens, lambda value: " ".join(map(str, value)))


def patterns_in(said: object) -> Patterns:
    """The patterns that JSON lists: None, one, or a list. Raises: ValueError."""
    listed = [] if said is None else [said] if isinstance(said, str) else said
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ValueError("no list of queue names")
    if len(listed) > MOST_PATTERNS:
        raise ValueError(f"a list of more than {MOST_PATTERNS} queue names")
    return Patterns(each.encode("utf-8", "surrogatepass") for each in listed)
