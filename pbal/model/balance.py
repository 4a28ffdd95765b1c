"""Who of several gets the next request: the methods of balance_method.

A method gets the members that may have it, and returns one's place among them. Which may is for others to say (model/pool.py): those that
are up, not full, not tried yet, and not of the backup tier while another will do. Every method holds its own whoever is left out, so a
node that comes and goes disturbs nobody's turn but its own.

    random                one of them
    round_robin           in turn, smoothly: of weights 5, 1 and 1 the heavy one gets every other one or so, and never five in a row. At
                          each choice every member's turn grows by its weight; the largest is chosen, and pays the sum of all weights.
    least_connections     the fewest requests in progress for its weight; of equals one by lot
    p2c                   two by lot, and of them the one with fewer for its weight. It comes near least_connections, and where several
                          pbals stand before the same nodes they do not all run to the same one.
    hash                  rendezvous: each member draws a number from the key, and the largest has it. When a member goes, its keys alone
                          move, each to the member that had drawn the next largest; no key moves from one that stays to another.

Numbers for the rendezvous come from a field of prime order: (a * key + b) mod (2^31 - 1), with a and b from a digest of the member's name
(Carter and Wegman, "Universal classes of hash functions"). That is a fifth of the price of a digest for each member, and the same in every
process: nothing random is in it. A member of weight w wins w times as often if -ln(u) / w is least, u being its number between 0 and 1
(Schindelhauer and Schomaker, "Weighted distributed hash tables").

Weights are the share of POOL ADD, times what a node may take while it is starting (Member.share). Where all are equal there are none, and
nothing is multiplied.
"""

import random
from collections.abc import Sequence
from hashlib import blake2b
from math import inf, log
from typing import Final, Protocol

from pbal.http1.events import RequestHead

RANDOM, ROUND_ROBIN, LEAST_CONNECTIONS, P2C, HASH = 0, 1, 2, 3, 4
CODES: Final = {"random": RANDOM, "round_robin": ROUND_ROBIN, "least_connections": LEAST_CONNECTIONS, "p2c": P2C, "hash": HASH}
"""By the name that balance_method has for it."""

BY_PLUGIN: Final = 64
"""Added to a method, -1 included: plugins are asked first."""

_PRIME: Final = (1 << 31) - 1
"""Of 31 bits, so that a product fits a machine's word: compiled, a number costs a few nanoseconds."""


class Asking(Protocol):
    """What the choice of a node may look at: the request that it is for."""

    request: RequestHead

    @property
    def client_address(self) -> bytes: ...

    def chosen(self, members: "Sequence[Member]") -> int:
        """The place of the member that a plugin chooses for it (select_node); -1 where none does."""
        ...


class Member:
    """One of those that may be chosen, as far as the choice looks at it."""

    __slots__ = ("_add", "_multiply", "active", "backup", "connecting", "limit", "most", "turn", "weight")

    def __init__(self, name: str) -> None:
        digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16, person=b"pbal.balance").digest()
        self._multiply = int.from_bytes(digest[:8], "big") % (_PRIME - 1) + 1
        self._add = int.from_bytes(digest[8:], "big") % _PRIME
        self.active = 0
        """Requests in progress."""
        self.connecting = 0
        """Connections that are being made for some."""
        self.weight = 1
        self.backup = False
        self.most = 0
        """Connections that may be in use at once, as POOL ADD said; 0: it said nothing."""
        self.limit = 0
        """The same, or what the pool says of all its nodes; 0: no limit."""
        self.turn = 0.0
        """What round_robin owes it."""

    def share(self, now: float) -> float:
        """The part of its weight that it may be given at `now` (clock time): above 0, and less than 1 while it is starting."""
        return 1.0

    @property
    def full(self) -> bool:
        """Whether as many connections are in use as may be."""
        return self.limit != 0 and self.active + self.connecting >= self.limit

    def drawn(self, key: int) -> int:
        """Its number for a key. The largest of several has the key."""
        return (self._multiply * key + self._add) % _PRIME


def key_of(octets: bytes) -> int:
    """What octets are to a rendezvous."""
    return int.from_bytes(blake2b(octets, digest_size=8, person=b"pbal.balance").digest(), "big") % _PRIME


def key_octets(what: str, name: bytes, asking: Asking) -> bytes:
    """The octets of a request that a hash is made of (balance_hash); those of the client's address where it has none such."""
    request = asking.request
    if what == "uri":
        return request.path + b"?" + request.query if request.query else request.path
    if what == "path":
        return request.path
    value = b""
    if what == "header":
        value = request.fields.get(name, b"")
    elif what == "cookie":
        value = _named(request.fields.get(b"cookie", b""), b";", name)
    elif what == "query":
        value = _named(request.query, b"&", name)
    return value or asking.client_address


def _named(text: bytes, between: bytes, name: bytes) -> bytes:
    """The first value of that name among NAME=VALUE pairs, as it was sent."""
    if name in text:
        for part in text.split(between):
            said, _, value = part.strip(b" \t").partition(b"=")
            if said == name:
                return value
    return b""


def weights_of(members: Sequence[Member], now: float) -> list[float] | None:
    """What each may be given; None where that is the same for all."""
    weights = [member.weight * member.share(now) for member in members]
    first = weights[0]
    for weight in weights:
        if weight != first:
            return weights
    return None


def choose(method: int, members: Sequence[Member], weights: list[float] | None, key: int | None) -> int:
    """The place of the one that is chosen. `members` are one or more, `weights` as weights_of() makes them, all above 0.

    `key` is that of the request; without one, hash chooses as random does.
    """
    if len(members) == 1:
        return 0
    if method == ROUND_ROBIN:
        return _in_turn(members, weights)
    if method == LEAST_CONNECTIONS:
        return _least(members, weights)
    if method == P2C:
        return _of_two(members, weights)
    if method == HASH and key is not None:
        return _rendezvous(members, weights, key)
    return _by_lot(len(members), weights)


def _by_lot(number: int, weights: list[float] | None) -> int:
    if weights is None:
        return int(random.random() * number)
    rest = random.random() * sum(weights)
    for place, weight in enumerate(weights):
        rest -= weight
        if rest < 0:
            return place
    return number - 1


def _in_turn(members: Sequence[Member], weights: list[float] | None) -> int:
    chosen, largest, total = 0, -inf, 0.0
    for place, member in enumerate(members):
        weight = 1.0 if weights is None else weights[place]
        total += weight
        turn = member.turn + weight
        member.turn = turn
        if turn > largest:
            chosen, largest = place, turn
    members[chosen].turn -= total
    return chosen


def _load(member: Member, weights: list[float] | None, place: int) -> float:
    load = member.active + member.connecting
    return load if weights is None else load / weights[place]


def _least(members: Sequence[Member], weights: list[float] | None) -> int:
    places: list[int] = []
    least = inf
    for place, member in enumerate(members):
        load = _load(member, weights, place)
        if load < least:
            least = load
            places = [place]
        elif load == least:
            places.append(place)
    if len(places) == 1:
        return places[0]
    return places[_by_lot(len(places), None if weights is None else [weights[place] for place in places])]


def _of_two(members: Sequence[Member], weights: list[float] | None) -> int:
    number = len(members)
    first = _by_lot(number, weights)
    if weights is None:
        second = int(random.random() * (number - 1))
        second += second >= first
    else:
        others = weights.copy()
        others[first] = 0.0
        second = _by_lot(number, others)
    return second if _load(members[second], weights, second) < _load(members[first], weights, first) else first


def _rendezvous(members: Sequence[Member], weights: list[float] | None, key: int) -> int:
    chosen = 0
    if weights is None:
        largest = -1
        for place, member in enumerate(members):
            number = member.drawn(key)
            if number > largest:
                chosen, largest = place, number
        return chosen
    least = inf
    for place, member in enumerate(members):
        cost = -log((member.drawn(key) + 1) / _PRIME) / weights[place]
        if cost < least:
            chosen, least = place, cost
    return chosen
