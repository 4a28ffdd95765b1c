"""What throttle knows of clients: when each was seen last, and how often in a row it came too soon.

    unknown  -> known       a request comes; it is served
    known    -> known       the next one comes too soon: it waits, twice as long as the one before
    known    -> banned      and too often
    any      -> unknown     nothing came for as long as the delay and the threshold take together, or the ban is over

A record that has lapsed is as good as none. There are at most MOST of them: a new one takes the place of that which was touched longest
ago. Who goes on asking is touched, so a flood of addresses makes others forgotten before those that it refuses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pbal.api import Service

MOST: Final = 50_000
"""Clients; 12 MB."""
MOST_DOUBLED: Final = 62
"""More doublings than any delay has."""
LOOKS: Final = 4
"""Records that a request looks at to drop those that have lapsed: more than it can add."""


@dataclass(slots=True)
class Record:
    """One client. Times are of the clock that never steps."""

    last: float
    violations: int = 0
    lapses: float = 0.0
    banned: bool = False
    """Until it lapses."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a service says of delays."""

    threshold: float
    first: float
    most: float
    ban_after: int
    ban_lasts: float

    @classmethod
    def of(cls, service: Service) -> "Terms":
        """Of a service's tunables."""
        names = ("throttle_threshold_seconds", "initial_delay", "max_delay", "ban_threshold", "ban_expiration")
        return cls(*(service[name] for name in names))


BANNED: Final = -1.0


class Records:
    """All clients of a service."""

    __slots__ = ("_forgotten", "known")

    def __init__(self, forgotten: Callable[[], None]) -> None:
        self.known: dict[bytes, Record] = {}
        """By client; the one that was touched longest ago comes first."""
        self._forgotten = forgotten

    def banned(self, who: bytes, now: float) -> float:
        """The seconds that a ban still lasts; 0 for whoever is not banned, less than 0 for whose ban is over: this is said once."""
        record = self.known.get(who)
        if record is None or not record.banned:
            return 0.0
        if record.lapses <= now:
            del self.known[who]
            return -1.0
        self._touch(who, record)
        return record.lapses - now

    def is_banned(self, who: bytes, now: float) -> bool:
        """The same, for who only looks."""
        record = self.known.get(who)
        return record is not None and record.banned and record.lapses > now

    def request(self, who: bytes, now: float, terms: Terms, elsewhere: tuple[float, int] | None = None) -> float:
        """Somebody asks: the seconds that it is to wait, or BANNED. `elsewhere`: when others saw it last, and its violations."""
        record = self.known.get(who)
        if record is not None and record.lapses <= now:
            record = None
        if elsewhere is not None and (record is None or elsewhere[0] > record.last):
            last, violations = elsewhere
            record = Record(last, max(violations, 0 if record is None else record.violations))
        if record is None or now - record.last >= self._delay(record.violations - 1, terms) + terms.threshold:
            self._touch(who, Record(now, 0, now + terms.threshold))
            return 0.0
        delay = self._delay(record.violations, terms)
        violations = record.violations + 1
        if terms.ban_after and violations >= terms.ban_after:
            self._touch(who, Record(now, violations, now + terms.ban_lasts, True))
            return BANNED
        self._touch(who, Record(now, violations, now + delay + terms.threshold))
        return delay

    def _delay(self, violations: int, terms: Terms) -> float:
        return min(terms.first * 2 ** min(violations, MOST_DOUBLED), terms.most) if violations >= 0 else 0.0

    def _touch(self, who: bytes, record: Record) -> None:
        known = self.known
        known.pop(who, None)
        known[who] = record
        now = record.last
        for _ in range(LOOKS):
            oldest = next(iter(known))
            if known[oldest].lapses > now:
                break
            del known[oldest]
        if len(known) > MOST:
            del known[next(iter(known))]
            self._forgotten()
