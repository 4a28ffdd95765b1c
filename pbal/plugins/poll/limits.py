"""How much one address, and one queue, may have: parks a second, polls parked at once.

An address is the client's after trust; of IPv6 its /64, since whoever has one address has as a rule all of those. Behind a proxy
that the service does not trust, all clients have one address, and these limits are those of all of them together.

**Rate.** A token bucket for each address (model/buckets.py). Of too many addresses, the one that was touched longest ago is forgotten, and
counted.

**At once.** By queue the lot knows. By address a number is kept for each that has somebody parked, and only while the limit is set;
poll_max_by_address set while polls are parked counts them first.
"""

import math
from collections.abc import Callable, Iterable

from pbal.api import Buckets, holder

from .grants import Refusal
from .lot import Lot, Reader


def address_of(poll: Reader) -> bytes:
    """The client's address of a parked poll."""
    return poll.address or (b"" if poll.client is None else poll.client.peer)


class Limits:
    """The limits of one service's polls."""

    __slots__ = ("_by_address", "_by_queue", "_lot", "_parked", "buckets")

    def __init__(self, lot: Lot, now: Callable[[], float], forgotten: Callable[[], None]) -> None:
        self._lot = lot
        self._by_address = self._by_queue = 0
        self._parked: dict[bytes, int] = {}
        self.buckets = Buckets(now, 0, 1)
        self.buckets.forgotten = forgotten

    def set(self, rate: int, burst: int, by_address: int, by_queue: int) -> None:
        """Other limits. 0 is none."""
        self.buckets.rate, self.buckets.burst = rate, burst
        self._by_queue = by_queue
        before, self._by_address = self._by_address, by_address
        if bool(before) != bool(by_address):
            self._parked.clear()
            for poll in self._lot if by_address else ():
                self.entered(poll)

    def refusal(self, address: bytes, keys: Iterable[bytes]) -> Refusal | None:
        """Whether one more poll of an address is too many; `keys` are the queues that it joins others on. Costs one of its rate."""
        if self.buckets.rate:
            wait = self.buckets.take(holder(address))
            if wait:
                return _too_many("Too many polls in a short time from your address.", wait)
        if self._by_address and self._parked.get(holder(address), 0) >= self._by_address:
            return _too_many("Too many polls of your address are parked.", 5)
        return self.crowded(keys)

    def crowded(self, keys: Iterable[bytes]) -> Refusal | None:
        """Whether one of these queues has all the polls that it may have."""
        if self._by_queue and any(self._lot.number(key) >= self._by_queue for key in keys):
            return _too_many("Too many polls are parked for this queue.", 5)
        return None

    def entered(self, poll: Reader) -> None:
        """A poll was parked."""
        if self._by_address:
            who = holder(address_of(poll))
            self._parked[who] = self._parked.get(who, 0) + 1

    def left(self, poll: Reader) -> None:
        """It is not parked any more."""
        if self._by_address:
            who = holder(address_of(poll))
            number = self._parked.get(who, 0) - 1
            if number > 0:
                self._parked[who] = number
            else:
                self._parked.pop(who, None)

    def is_empty(self) -> bool:
        """Nobody is counted. Tests look."""
        return not self._parked


def _too_many(why: str, seconds: float) -> Refusal:
    return Refusal(429, why, ((b"Retry-After", b"%d" % math.ceil(seconds)),))
