"""LIMIT: how much one client may ask for. Requests in a time, with a burst; or requests at once.

    LIMIT web 10/s BURST 20 BY address
    LIMIT web 5 CONCURRENT BY header:X-Api-Key DRY RUN WHEN path ^/search

Who is one client is said by BY:

    address        the client's address after trust; of IPv6 its /64, since whoever has one address has as a rule all of those
    header:NAME    the value of a field      cookie:NAME    the value of a cookie
    host           the host that is asked for
    service        everybody together

Requests without that field, cookie or host are one client together: to leave out a key must not be a way round the limit. A key
that nobody checks is whatever a client likes to say, so it limits only those who are honest.

**Rate.** A token bucket for each client (model/buckets.py): memory is bounded, and clients that had to be forgotten are counted.

**At once.** A number for each client that has a request: there are never more than requests. The place is given back when the request ends
(model/slots.py). What is parked holds none: it keeps no node and no worker busy, and poll_max_by_address bounds it.

A request has to pass every limit of the service. It is looked whether it does before any is charged, so a request that is refused costs
nothing. The clock is not read: the time is when the request's head had come. DRY RUN counts and logs and refuses nobody.
"""

import re
from abc import ABCMeta, abstractmethod
from hashlib import blake2b
from math import ceil
from typing import Final

from pbal.model.buckets import Buckets, holder
from pbal.model.certificates import host_name
from pbal.model.conditions import Conditions, cookies_named
from pbal.model.exchange import Exchange
from pbal.model.rules import shown_when
from pbal.model.slots import Slot
from pbal.schema.kinds import BadValue

LONGEST: Final = 64
"""Octets of a key that are kept as they are; of a longer one a digest is."""

_RATE: Final = re.compile(r"([0-9]{1,7})/(s|m|h|d)", re.IGNORECASE)
_COUNT: Final = re.compile(r"[0-9]{1,7}")
_KEY: Final = re.compile(r"(header|cookie):([!#$%&'*+\-.^_`|~0-9A-Za-z]+)", re.IGNORECASE)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Key(metaclass=ABCMeta):
    """Who is one client."""

    text = ""
    """As it is written after BY."""

    @abstractmethod
    def of(self, exchange: Exchange) -> bytes:
        """The client of a request."""


class _Address(Key):
    text = "address"

    def of(self, exchange: Exchange) -> bytes:
        return _short(holder(exchange.client_address))


class _Host(Key):
    text = "host"

    def of(self, exchange: Exchange) -> bytes:
        return _short(host_name(exchange.request.host.decode("latin-1")).encode("latin-1"))


class _Service(Key):
    text = "service"

    def of(self, exchange: Exchange) -> bytes:
        return b""


class _Header(Key):
    def __init__(self, name: str) -> None:
        self.text = f"header:{name}"
        self._name = name.lower().encode()

    def of(self, exchange: Exchange) -> bytes:
        return _short(exchange.request.fields.get(self._name, b""))


class _Cookie(Key):
    def __init__(self, name: str) -> None:
        self.text = f"cookie:{name}"
        self._name = name.encode()

    def of(self, exchange: Exchange) -> bytes:
        cookies = exchange.request.fields.get(b"cookie", b"")
        found = cookies_named(self._name, cookies) if self._name in cookies else []
        return _short(found[0]) if found else b""


def _short(key: bytes) -> bytes:
    return key if len(key) <= LONGEST else blake2b(key, digest_size=16).digest()


def key_of(text: str) -> Key:
    """What BY says. Raises: BadValue."""
    word = text.lower()
    for plain in (_Address, _Host, _Service):
        if word == plain.text:
            return plain()
    match = _KEY.fullmatch(text)
    if match is None:
        expected = "address, host, service, header:NAME or cookie:NAME"
        raise BadValue(f"expected {expected}, found {text!r}", expected=expected)
    return _Header(match[2]) if match[1].lower() == "header" else _Cookie(match[2])


class Limit(metaclass=ABCMeta):
    """One LIMIT, and what it knows of its clients."""

    __slots__ = ("dry", "forgotten", "key", "refusals", "what", "when", "when_said")

    def __init__(self, what: str, key: Key, dry: bool, when: Conditions | None, when_said: str = "") -> None:
        self.what = what
        """How much: `10/s BURST 20` or `5 CONCURRENT`."""
        self.key = key
        self.dry = dry
        self.when = when
        self.when_said = when_said
        """The conditions, in the words in which they were said."""
        self.refusals: int = 0
        """Requests that were refused, or would have been."""
        self.forgotten: int = 0
        """Clients that were forgotten before their buckets were full."""

    @property
    def words(self) -> str:
        """All that is said behind the service's name, without conditions."""
        return f"{self.what} BY {self.key.text}{' DRY RUN' if self.dry else ''}"

    @property
    def said(self) -> str:
        """The same with its conditions, for people."""
        return self.words if self.when is None else f"{self.words} WHEN {shown_when(self.when, self.when_said)}"

    @property
    def most(self) -> int | None:
        """How many it watches at most; None where each of them has a request."""
        return None

    @property
    @abstractmethod
    def clients(self) -> int:
        """How many are known now."""

    @abstractmethod
    def wait(self, who: bytes, now: float) -> float:
        """0 if a client may have one request more, else the seconds until it may, as far as that can be told."""

    @abstractmethod
    def charge(self, who: bytes, now: float, exchange: Exchange) -> None:
        """It has it."""

    def refused(self, who: bytes) -> None:
        """It has not."""
        self.refusals += 1

    @abstractmethod
    def fresh(self) -> "Limit":
        """The same limit, that knows nobody yet."""

    def same(self, other: "Limit") -> bool:
        """Whether another one says the same."""
        mine = None if self.when is None else self.when.text
        return self.words == other.words and mine == (None if other.when is None else other.when.text)


class RateLimit(Limit):
    """Requests in a time."""

    __slots__ = ("_rate", "buckets")

    def __init__(self, rate: str, burst: str | None, key: Key, dry: bool, when: Conditions | None = None, when_said: str = "") -> None:
        """`rate`: `10/s`, also /m, /h, /d. `burst`: at once, as many as come in one such time if it is None. Raises: BadValue."""
        match = _RATE.fullmatch(rate)
        if match is None or not int(match[1]):
            expected = "a rate such as 10/s, 100/m or 1000/h"
            if rate.isdecimal():
                expected += f", or {rate} CONCURRENT"
            raise BadValue(f"expected {expected}, found {rate!r}", expected=expected)
        number = int(match[1])
        most = number if burst is None else _count(burst)
        super().__init__(f"{number}/{match[2].lower()} BURST {most}", key, dry, when, when_said)
        self._rate = rate
        self.buckets = Buckets(_no_clock, number / _SECONDS[match[2].lower()], most)
        self.buckets.forgotten = self._forgot

    def _forgot(self) -> None:
        self.forgotten += 1

    @property
    def clients(self) -> int:
        """See Limit."""
        return len(self.buckets)

    @property
    def most(self) -> int | None:
        """See Limit."""
        return self.buckets.most

    def wait(self, who: bytes, now: float) -> float:
        """See Limit."""
        return self.buckets.wait(who, now)

    def charge(self, who: bytes, now: float, exchange: Exchange) -> None:
        """See Limit."""
        self.buckets.charge(who, now)

    def refused(self, who: bytes) -> None:
        """See Limit."""
        self.refusals += 1
        self.buckets.touch(who)

    def fresh(self) -> Limit:
        """See Limit."""
        return RateLimit(self._rate, str(self.buckets.burst), self.key, self.dry, self.when, self.when_said)


def _no_clock() -> float:
    raise RuntimeError("a limit is told the time")


class ConcurrencyLimit(Limit):
    """Requests at once."""

    __slots__ = ("_held", "_most")

    def __init__(self, most: str, key: Key, dry: bool, when: Conditions | None = None, when_said: str = "") -> None:
        """Raises: BadValue."""
        self._most = _count(most)
        super().__init__(f"{self._most} CONCURRENT", key, dry, when, when_said)
        self._held: dict[bytes, int] = {}

    @property
    def clients(self) -> int:
        """See Limit."""
        return len(self._held)

    def wait(self, who: bytes, now: float) -> float:
        """See Limit."""
        return 1.0 if self._held.get(who, 0) >= self._most else 0.0

    def charge(self, who: bytes, now: float, exchange: Exchange) -> None:
        """See Limit."""
        exchange.slot = Slot(self._held, who, exchange.slot)

    def fresh(self) -> Limit:
        """See Limit."""
        return ConcurrencyLimit(str(self._most), self.key, self.dry, self.when, self.when_said)


def _count(text: str) -> int:
    if _COUNT.fullmatch(text) is None or not int(text):
        expected = "a number of requests, 1 or more"
        raise BadValue(f"expected {expected}, found {text!r}", expected=expected)
    return int(text)


def excess(limits: tuple[Limit, ...], exchange: Exchange) -> tuple[list[tuple[Limit, bytes]], list[tuple[Limit, bytes, float]]]:
    """Whom a request has to be charged to, and the limits that it is over, with the client and the seconds to wait. Nothing is charged."""
    within: list[tuple[Limit, bytes]] = []
    over: list[tuple[Limit, bytes, float]] = []
    now = exchange.started
    for limit in limits:
        if limit.when is not None:
            limit.when.judge(exchange)
            if not limit.when.hold(exchange):
                continue
        who = limit.key.of(exchange)
        wait = limit.wait(who, now)
        if wait:
            over.append((limit, who, wait))
        else:
            within.append((limit, who))
    return within, over


def seconds(wait: float) -> int:
    """What Retry-After says: whole seconds, 1 at least."""
    return max(1, ceil(wait))
