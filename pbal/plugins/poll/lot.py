"""The lot: who waits, for which queues, until when. No I/O, no timers; time is handed in.

A reader is whoever waits: a long poll, an event stream, a WebSocket. What they have in common is here; how each is
answered stands in its own file. Every way out stands beside the way in, and each has a counter:

    park -> answered    its queue held a message: a poll leaves, a stream stays
            empty       its time was over, the service was disabled
            superseded  a newer reader on its queue (poll_duplicate = newest)
            removed     its queue was deleted, and its readers were to be told
            refused     its position turned out to be none of pbal's
            gone        the client left (record.gone)
            kicked      by hand, on the console

A parked poll is one record of a few slots. What can be shared is shared: its start and its deadline are numbers of quarters
of a second, one int object for all that have it; a single queue is its key, not a tuple of one; one reader of a queue stands in
the index itself. Several on a queue are the keys of a dict, which keeps the order they came in and lets any of them go at
once: ten thousand polls of one queue that leave together cost what ten thousand of ten thousand queues do.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pbal.api import Waiting

from .positions import token

if TYPE_CHECKING:
    from .delivery import Delivery
    from .formats import Rendered
    from .hub import Hub
    from .settings import Settings

QUARTER = 4
"""Times are kept in quarters of a second."""


class Reader(ABC):
    """One who waits."""

    __slots__ = ("address", "client", "deadline", "first_sweep", "id", "keys", "lot", "origin", "places", "since")

    transport: ClassVar[str]
    """How it is called on the console."""
    stays: ClassVar[bool]
    """Whether it still waits after it was given something."""

    def __init__(self, keys: tuple[bytes, ...], origin: bytes | None, address: bytes = b"") -> None:
        self.lot: Lot | None = None
        self.client: Waiting | None = None
        self.keys: bytes | tuple[bytes, ...] = keys[0] if len(keys) == 1 else keys
        self.id = 0
        self.since = 0
        """When it came, in quarters of a second."""
        self.deadline = 0
        self.first_sweep = 0
        self.origin = origin
        self.address = address
        """The client's, where a trusted proxy said it; b"" where the peer is the client."""
        self.places: bytes | dict[bytes, bytes] | None = None
        """Where it stands in its queue; in its queues, by key, if it has several."""

    def all_keys(self) -> tuple[bytes, ...]:
        """Keys of the queues it waits for."""
        return self.keys if isinstance(self.keys, tuple) else (self.keys,)

    # -- where it stands -----------------------------------------------------------------------------------------

    def place(self, key: bytes) -> bytes | None:
        """Where it stands in a queue; None if nobody knows."""
        places = self.places
        return places.get(key) if isinstance(places, dict) else places

    def stand(self, key: bytes, place: bytes) -> None:
        """It stands here now."""
        if isinstance(self.keys, tuple):
            if not isinstance(self.places, dict):
                self.places = {}
            self.places[key] = place
        else:
            self.places = place

    def stand_at(self, places: Mapping[bytes, bytes]) -> None:
        """It stands at these places, by key."""
        for key, place in places.items():
            self.stand(key, place)

    def token(self, moved: dict[bytes, bytes] | None = None) -> bytes:
        """The token of where it stands, with some places `moved`; b"" if it stands nowhere."""
        places = self.places
        if isinstance(self.keys, tuple):
            known = {**(places if isinstance(places, dict) else {}), **(moved or {})}
            return token(known.values()) if known else b""
        if moved:
            return token(moved.values())
        return token([places]) if isinstance(places, bytes) else b""

    # -- what becomes of it --------------------------------------------------------------------------------------

    def opened(self, hub: "Hub") -> None:
        """It was parked."""
        return  # a poll waits in silence

    @abstractmethod
    def give(self, hub: "Hub", delivery: "Delivery") -> bool:
        """Send it messages. False: the client has gone, and they are the caller's again."""

    @abstractmethod
    def render(self, settings: "Settings", delivery: "Delivery", position: bytes) -> "Rendered":
        """A delivery in the form of its transport, for who stands at `position` then."""

    def rendered(self, hub: "Hub", delivery: "Delivery", form: str) -> tuple[bytes, "Rendered"]:
        """Where it stands after a delivery, and the delivery in a form: rendered once for all who stand there."""
        position = delivery.position(self)
        rendered = delivery.ready(form, position) or delivery.keep(form, position, self.render(hub.settings, delivery, position))
        if rendered.misframed:
            hub.counts["poll_misframed"] += 1
        return position, rendered

    @abstractmethod
    def end(self, hub: "Hub", why: str) -> None:
        """It was taken out of the lot without messages: tell it `why`, one of the reasons in delivery.py."""

    def gone(self) -> None:
        """See model.parking.Parked."""
        lot = self.lot
        if lot is not None:
            lot.remove(self)
            lot.on_gone(self)

    # -- over a reload -------------------------------------------------------------------------------------------

    def carry(self, sweeps: int) -> tuple[Any, ...]:
        """It as plain data; `sweeps` is where the store's count begins anew."""
        return (
            self.transport, self.client, self.all_keys(), self.deadline, self.id, self.since, self.first_sweep - sweeps, self.origin,
            self.address, self.places, self.state(),
        )  # fmt: skip

    def state(self) -> Any:
        """What its transport has to remember besides, as plain data."""
        return None

    def restore(self, hub: "Hub", state: Any) -> None:
        """Take over what state() of the generation before returned."""
        return  # where that was nothing


class Staying(Reader):
    """One who still waits after it was given something."""

    __slots__ = ("beats_at",)

    stays: ClassVar[bool] = True

    def __init__(self, keys: tuple[bytes, ...], origin: bytes | None, address: bytes = b"") -> None:
        super().__init__(keys, origin, address)
        self.beats_at = 0
        """The quarter of a second of its next heartbeat."""

    @abstractmethod
    def beat(self, hub: "Hub") -> None:
        """poll_heartbeat is over."""


Place = Reader | dict[Reader, None]
"""Who waits for one queue. A dict holds at least two, but for the moment in which a removal ends."""


class Lot:
    """All who wait at one service."""

    def __init__(self, on_gone: Callable[[Reader], None]) -> None:
        self.on_gone = on_gone
        self.on_half_closed: Callable[[Reader], bool] = lambda reader: False
        """A reader's client has sent its end: whether it is answered soon."""
        self.count = 0
        self._by_key: dict[bytes, Place] = {}
        self._ends: dict[int, set[Reader]] = {}
        self._quarter = 0

    def __iter__(self) -> Iterator[Reader]:
        """Everybody, in order of their end. Robust against changes while a list is being written."""
        for quarter in sorted(self._ends):
            for reader in list(self._ends.get(quarter, ())):
                if reader.lot is self:
                    yield reader

    def park(self, reader: Reader, now: float, ends: float) -> None:
        """Take a reader in from `now` until `ends` (clock time), or at most a quarter of a second less."""
        quarter = int(now * QUARTER)
        if quarter != self._quarter:
            self._quarter = quarter
        self.enter(reader, self._quarter, int(ends * QUARTER))

    def enter(self, reader: Reader, since: int, quarter: int) -> None:
        """Take a reader in whose times are known in quarters."""
        reader.since = since
        ending = self._ends.get(quarter)
        if ending is None:
            ending = self._ends[quarter] = set()
            reader.deadline = quarter
        else:
            reader.deadline = next(iter(ending)).deadline  # the same int object for all
        reader.lot = self
        ending.add(reader)
        for key in reader.all_keys():
            self._enter(key, reader)
        self.count += 1

    def _enter(self, key: bytes, reader: Reader) -> None:
        there = self._by_key.get(key)
        if there is None:
            self._by_key[key] = reader
        elif isinstance(there, dict):
            there[reader] = None
        else:
            self._by_key[key] = {there: None, reader: None}

    def remove(self, reader: Reader) -> bool:
        """Take a reader out; False if it was not in."""
        if reader.lot is not self:
            return False
        reader.lot = None
        self.count -= 1
        self._forget_end(reader)
        for key in reader.all_keys():
            self._leave(key, reader)
        return True

    def _forget_end(self, reader: Reader) -> None:
        ending = self._ends[reader.deadline]
        ending.discard(reader)
        if not ending:
            del self._ends[reader.deadline]

    def _leave(self, key: bytes, reader: Reader) -> None:
        there = self._by_key[key]
        if not isinstance(there, dict):
            del self._by_key[key]
            return
        del there[reader]
        if len(there) == 1:
            (self._by_key[key],) = there
        elif not there:
            del self._by_key[key]

    def postpone(self, reader: Reader, ends: float) -> None:
        """Another end for one who is in."""
        self._forget_end(reader)
        reader.deadline = int(ends * QUARTER)
        self._ends.setdefault(reader.deadline, set()).add(reader)

    def subscribe(self, reader: Reader, key: bytes) -> None:
        """One more queue for one who is in."""
        keys = reader.all_keys()
        if key not in keys:
            places = {keys[0]: reader.places} if isinstance(reader.places, bytes) else reader.places
            reader.keys, reader.places = (*keys, key), places
            self._enter(key, reader)

    def unsubscribe(self, reader: Reader, key: bytes) -> None:
        """One queue less for one who is in, and has another."""
        keys = tuple(other for other in reader.all_keys() if other != key)
        if keys and len(keys) < len(reader.all_keys()):
            places = {other: place for other in keys if (place := reader.place(other)) is not None}
            reader.keys = keys[0] if len(keys) == 1 else keys
            reader.places = places.get(keys[0]) if len(keys) == 1 else places
            self._leave(key, reader)

    def forget(self) -> None:
        """Let go of everybody: another lot has them now."""
        for reader in self:
            reader.lot = None
        self.count = 0
        self._by_key.clear()
        self._ends.clear()

    def waiting(self, key: bytes) -> list[Reader]:
        """Who waits for a queue, the longest waiting first."""
        there = self._by_key.get(key)
        if there is None:
            return []
        return list(there) if isinstance(there, dict) else [there]

    def first(self, key: bytes) -> Reader | None:
        """Who has waited longest for a queue."""
        there = self._by_key.get(key)
        return next(iter(there)) if isinstance(there, dict) else there

    def number(self, key: bytes) -> int:
        """How many wait for a queue."""
        there = self._by_key.get(key)
        if there is None:
            return 0
        return len(there) if isinstance(there, dict) else 1

    def has(self, key: bytes) -> bool:
        """Whether somebody waits for a queue."""
        return key in self._by_key

    def queues(self) -> list[bytes]:
        """Keys that somebody waits for."""
        return list(self._by_key)

    def ended(self, now: float) -> list[Reader]:
        """Those whose time is over. They stay in until removed."""
        limit = int(now * QUARTER)
        return [reader for quarter in [q for q in self._ends if q <= limit] for reader in self._ends[quarter]]

    def find(self, name: str) -> Reader | None:
        """The reader with a number, as typed."""
        return next((reader for reader in self if str(reader.id) == name), None)

    def is_empty(self) -> bool:
        """Nothing is left in any index. Tests look."""
        return not (self.count or self._by_key or self._ends)
