"""The lot: who is parked, for which queues, until when. No I/O, no timers; time is handed in.

Every way out stands beside the way in, and each has a counter:

    park -> answered    its queue held a message              `remove`, by the plugin
            empty       its time was over, the service was disabled
            superseded  a newer poll on its queue (poll_duplicate = newest)
            gone        the client left (record.gone)
            kicked      by hand, on the console

A parked poll is one record of a few slots. What can be shared is shared: the deadline is the number of a quarter of
a second, one int object for all that end in it; a single queue is its key, not a tuple of one; one poll on a queue stands in
the index itself. Several on a queue are the keys of a dict, which keeps the order they came in and lets any of them go at
once: ten thousand polls of one queue that leave together cost what ten thousand of ten thousand queues do.
"""

from collections.abc import Callable, Iterator

from pbal.api import Fields, OnLost, Waiting

QUARTER = 4
"""Deadlines are kept in quarters of a second."""


class Parked:
    """One parked poll."""

    __slots__ = ("address", "client", "deadline", "first_sweep", "id", "keys", "lot", "origin", "since")

    def __init__(
        self, lot: "Lot", client: Waiting | None, keys: bytes | tuple[bytes, ...], number: int, since: int, origin: bytes | None
    ) -> None:
        self.lot: Lot | None = lot
        self.client = client
        self.keys = keys
        self.id = number
        self.since = since
        self.first_sweep = 0
        self.origin = origin
        self.deadline = 0
        self.address = b""
        """The client's, where a trusted proxy said it; b"" where the peer is the client."""

    def all_keys(self) -> tuple[bytes, ...]:
        """Keys of the queues it waits for."""
        return self.keys if isinstance(self.keys, tuple) else (self.keys,)

    def respond(self, status: int, fields: Fields, body: bytes, on_lost: OnLost | None = None) -> bool:
        """Answer it. False: the client has gone."""
        return self.client is not None and self.client.answer(self, status, fields, body, on_lost)

    def gone(self) -> None:
        """See model.exchange.Parked."""
        lot = self.lot
        if lot is not None:
            lot.remove(self)
            lot.on_gone(self)


Place = Parked | dict[Parked, None]
"""Who is parked for one queue. A dict holds at least two, but for the moment in which a removal ends."""


class Lot:
    """All parked polls of one service."""

    def __init__(self, on_gone: Callable[[Parked], None]) -> None:
        self.on_gone = on_gone
        self.count = 0
        self.next_id = 1
        self._by_key: dict[bytes, Place] = {}
        self._ends: dict[int, set[Parked]] = {}

    def __iter__(self) -> Iterator[Parked]:
        """Every parked poll, in order of their end. Robust against changes while a list is being written."""
        for quarter in sorted(self._ends):
            for poll in list(self._ends.get(quarter, ())):
                if poll.lot is self:
                    yield poll

    def park(
        self, client: Waiting | None, keys: tuple[bytes, ...], ends: float, since: int, origin: bytes | None, number: int | None = None
    ) -> Parked:
        """Take a poll in until `ends` (clock time). The caller parks the client, and says who it is if it was not known yet."""
        if number is None:
            number = self.next_id
            self.next_id += 1
        poll = Parked(self, client, keys[0] if len(keys) == 1 else keys, number, since, origin)
        quarter = int(ends * QUARTER) + 1
        ending = self._ends.get(quarter)
        if ending is None:
            ending = self._ends[quarter] = set()
            poll.deadline = quarter
        else:
            poll.deadline = next(iter(ending)).deadline  # the same int object for all
        ending.add(poll)
        for key in keys:
            self._enter(key, poll)
        self.count += 1
        return poll

    def _enter(self, key: bytes, poll: Parked) -> None:
        there = self._by_key.get(key)
        if there is None:
            self._by_key[key] = poll
        elif isinstance(there, dict):
            there[poll] = None
        else:
            self._by_key[key] = {there: None, poll: None}

    def remove(self, poll: Parked) -> bool:
        """Take a poll out; False if it was not in."""
        if poll.lot is not self:
            return False
        poll.lot = None
        self.count -= 1
        ending = self._ends[poll.deadline]
        ending.discard(poll)
        if not ending:
            del self._ends[poll.deadline]
        for key in poll.all_keys():
            self._leave(key, poll)
        return True

    def _leave(self, key: bytes, poll: Parked) -> None:
        there = self._by_key[key]
        if not isinstance(there, dict):
            del self._by_key[key]
            return
        del there[poll]
        if len(there) == 1:
            (self._by_key[key],) = there

    def forget(self) -> None:
        """Let go of all polls, which another lot has now."""
        for poll in self:
            poll.lot = None
        self.count = 0
        self._by_key.clear()
        self._ends.clear()

    def waiting(self, key: bytes) -> list[Parked]:
        """Polls parked for a queue, the longest waiting first."""
        there = self._by_key.get(key)
        if there is None:
            return []
        return list(there) if isinstance(there, dict) else [there]

    def first(self, key: bytes) -> Parked | None:
        """The poll that has waited longest for a queue."""
        there = self._by_key.get(key)
        return next(iter(there)) if isinstance(there, dict) else there

    def number(self, key: bytes) -> int:
        """How many polls are parked for a queue."""
        there = self._by_key.get(key)
        if there is None:
            return 0
        return len(there) if isinstance(there, dict) else 1

    def has(self, key: bytes) -> bool:
        """Whether somebody is parked for a queue."""
        return key in self._by_key

    def queues(self) -> list[bytes]:
        """Keys that somebody is parked for."""
        return list(self._by_key)

    def ended(self, now: float) -> list[Parked]:
        """Polls whose time is over. They stay in until removed."""
        limit = int(now * QUARTER)
        return [poll for quarter in [q for q in self._ends if q <= limit] for poll in self._ends[quarter]]

    def find(self, name: str) -> Parked | None:
        """The poll with a number, as typed."""
        return next((poll for poll in self if str(poll.id) == name), None)

    def is_empty(self) -> bool:
        """Nothing is left in any index. Tests look."""
        return not (self.count or self._by_key or self._ends)
