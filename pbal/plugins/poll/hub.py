"""The hub: who waits for what, and what the store has for them. It knows neither how a reader is answered nor where messages lie.

    in    admit()     a reader comes: may it wait, whom does it supersede -> parked, or refused
    out   deliver()   values taken out of queues: to one reader each (poll_duplicate = all: to every one)
          tell()      what is kept of queues: to every reader, what it lacks
          lost()      an answer did not arrive: what it held goes back in front of its queue
          finish()    told why there is nothing: its time is over, a newer one came, the queue went

A message of a `taken` queue is in one place at a time: in the store, or in the hands of whoever took it, until the client's kernel
has acknowledged it. What cannot be given to anybody comes back from deliver() or through lost(). A message of a kept
queue stays where it is; a reader's place moves instead.

Two windows of one user supersede each other. Told at once, each would come back at once, for ever: so one that would supersede
a reader younger than a second waits behind it until that second is over (`_slowed`). Meanwhile messages go to the earlier one.

A hub lives as long as its plugin's instance. What runs late in one that was replaced (a take in flight, an answer that turns out lost)
goes on in the one that serves now (`serving`).
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, takewhile

from pbal.api import Exchange, Histogram, OnLost, Service, World

from . import cors
from .delivery import BAD_POSITION, DISABLED, REMOVED, SUPERSEDED, TIME_IS_OVER, Delivery
from .framing import trim
from .grants import Grant, Refusal
from .limits import Limits
from .lot import QUARTER, Lot, Reader, Staying
from .positions import BadPosition, Log
from .presence import Presence
from .settings import Settings
from .store import Queues, Store
from .turns import News, Turns

NO_STORE = (b"Cache-Control", b"no-store")
RESPECT = QUARTER + 1
"""Quarters of a second that a reader has before it is superseded; one more than four, since its start is rounded down."""
PARKED_ALREADY = "A poll for this queue is parked already."
STARTS = 10000
"""Start times kept for the histogram. Those whose take never came are worth nothing."""


class _Kept(News):
    """What the store keeps of queues. Who is told of an end of it needs nothing older."""

    __slots__ = ("found",)

    def __init__(self, found: dict[bytes, Log]) -> None:
        self.found = found

    def join(self, newer: News, last: bool) -> bool:
        """See News. A queue that began anew is told of in its turn: who stands in it would take older news for a gap."""
        if not isinstance(newer, _Kept) or any(log.epoch != newer.found[key].epoch for key, log in self.found.items()):
            return False
        self.found.update(newer.found)
        return True


class _Taken(News):
    """Values that were taken out of queues, on their way to all readers."""

    __slots__ = ("alone", "made", "reached", "values")

    def __init__(self, values: dict[bytes, bytes], alone: bool) -> None:
        self.values = values
        self.alone = alone
        self.reached: set[bytes] = set()
        self.made: dict[tuple[bytes, ...], Delivery] = {}

    def join(self, newer: News, last: bool) -> bool:
        """See News. Each value goes out once, and in order."""
        if not last or not isinstance(newer, _Taken):
            return False
        for key, value in newer.values.items():
            self.values[key] += value
        self.alone = newer.alone
        return True

    def delivery(self, keys: tuple[bytes, ...]) -> Delivery:
        """The one for readers of these queues."""
        return self.made.get(keys) or self.made.setdefault(keys, Delivery([(key, self.values[key]) for key in keys], self.alone))

    def unreached(self) -> Queues:
        """What nobody got."""
        return [(key, value) for key, value in self.values.items() if key not in self.reached]


class _Older(Exception):
    """What was read of a queue is older than the reader's place in it: another pbal has told it more meanwhile."""


ENDED = {
    TIME_IS_OVER: "poll_empty",
    DISABLED: "poll_empty",
    SUPERSEDED: "poll_superseded",
    REMOVED: "poll_removed",
    BAD_POSITION: "poll_bad_positions",
}
"""What counts those that end without messages."""


class Hub:
    """The readers of one service, and what reaches them."""

    def __init__(self, service: Service, world: World, settings: Settings, serving: Callable[[], "Hub"]) -> None:
        self.service = service
        self.world = world
        self.settings = settings
        self.serving = serving
        """The hub of the generation in the chain: this one, or the one that replaced it."""
        self.counts = world.counters.counts
        self.lot = Lot(self._gone)
        self.lot.on_half_closed = self._half_closed
        self.turns = Turns()
        self.presence = Presence(self)
        self.limits = Limits(self.lot, world.clock.now, self._forgotten)
        self.store: Store
        self.store_to_answer = Histogram()
        self.open = False
        self._stored_at: dict[bytes, float] = {}
        self._slowed: list[tuple[int, Reader]] = []
        self._beats: dict[int, dict[Staying, None]] = {}
        """Who gets a heartbeat, by the quarter of a second in which it is due."""
        self._tick_timer: asyncio.TimerHandle | None = None
        self._expiring = False
        """Those whose time was over are being told, over several turns of the loop."""

    # -- in ------------------------------------------------------------------------------------------------------

    def admit(self, exchange: Exchange, reader: Reader, seconds: float, grant: Grant | None) -> None:
        """Let a reader wait, for at most so many seconds and no longer than its `grant` is good for, or refuse it."""
        ready = not reader.stays and self.store.holds(reader)  # a stream that is given something waits on
        if not ready and not self._may_wait(exchange, reader):
            return
        world = self.world
        reader.id = next(world.numbers)
        if exchange.client_address != exchange.stream.peer:
            reader.address = exchange.client_address
        now = world.clock.now()
        if grant is not None and grant.expires is not None:
            seconds = min(seconds, grant.expires - world.clock.epoch())
        self.lot.park(reader, now, now + seconds)
        reader.client = exchange.park(reader)
        if world.tracer is not None:
            self.trace("waits", reader.all_keys(), reader, reader.transport)
        self.limits.entered(reader)
        self.counts["poll_parked"] += 1
        self.counts["poll_parked_ever"] += not ready  # who leaves at once was never parked
        if isinstance(reader, Staying):
            self.counts["poll_streams"] += 1
            self._beat_later(reader)
        reader.opened(self)
        if reader.lot is self.lot:  # what is said of its coming may be for itself: not before it is open
            self.presence.came(reader.all_keys())
        if not ready and self.settings.duplicate == "newest":
            self._supersede_before(reader, reader.all_keys())
        self.wake_tick()
        self.store.began(reader, reader.all_keys())

    def why_not(self, keys: list[bytes]) -> str:
        """Why a reader that is in may not wait for these queues, too; "" if it may."""
        if self._is_later(keys):
            return PARKED_ALREADY
        crowded = None if self.settings.duplicate == "newest" else self.limits.crowded(keys)
        if crowded is not None:
            self.counts["poll_limited"] += 1
            return crowded.why
        return ""

    def joined(self, reader: Reader, keys: list[bytes]) -> None:
        """A reader that is in waits for these queues, too."""
        self.presence.came(keys)
        if self.settings.duplicate == "newest":
            self._supersede_before(reader, keys)
        self.store.began(reader, keys)

    def left(self, reader: Reader, keys: list[bytes]) -> None:
        """A reader that is in waits for these queues no more."""
        self.presence.went(keys)
        self.store.left(keys)

    def _is_later(self, keys: Iterable[bytes]) -> bool:
        """Whether somebody waits for one of these queues whom nobody may join (poll_duplicate = oldest); it is counted."""
        later = self.settings.duplicate == "oldest" and any(self.lot.has(key) for key in keys)
        self.counts["poll_refused"] += later
        return later

    def _may_wait(self, exchange: Exchange, reader: Reader) -> bool:
        settings, lot = self.settings, self.lot
        if self._is_later(reader.all_keys()):
            self.refuse(exchange, 409, PARKED_ALREADY)
            return False
        # Under `newest` it takes the place of another.
        too_many = self.limits.refusal(exchange.client_address, () if settings.duplicate == "newest" else reader.all_keys())
        if too_many is not None:
            self.turn_away(exchange, too_many)
            return False
        if settings.max_parked and lot.count >= settings.max_parked:
            self.counts["poll_full"] += 1
            self.world.log_limited(
                "poll_full", "poll_max_parked: a poll was answered 503", {"event": "poll_full", "service": self.service.name}
            )
            self.refuse(exchange, 503, "Too many polls are parked.", (b"Retry-After", b"5"))
            return False
        return True

    def refuse(self, exchange: Exchange, status: int, why: str, *fields: tuple[bytes, bytes]) -> None:
        """An error, which a script of another origin may read too if it may poll."""
        origin = cors.origin_of(exchange, self.settings.origins)
        exchange.respond(status, [*fields, NO_STORE, *cors.fields_for(origin)], f"{why}\n".encode())

    def preflight(self, exchange: Exchange, methods: bytes, what: str) -> bool:
        """Answer a preflight (Fetch standard): whether a page of its origin may do `what` with these methods. False if it is none."""
        origins = self.settings.origins
        if exchange.method != b"OPTIONS" or not origins or b"origin" not in exchange.request.fields:
            return False
        origin = cors.origin_of(exchange, origins)
        if origin is None:
            self.refuse(exchange, 403, f"Pages of this origin may not {what}.", (b"Vary", b"Origin"))
        else:
            exchange.respond(204, cors.preflight(exchange, origin, methods))
        return True

    def turn_away(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer with what auth.py or limits.py say."""
        if refusal.status in (401, 403):
            self.counts["poll_auth_refused"] += 1
        elif refusal.status == 429:
            self.counts["poll_limited"] += 1
            self.world.log_limited(
                "poll_limited",
                "service %(service)s: a poll was answered 429: %(reason)s",
                {"event": "poll_limited", "service": self.service.name, "reason": refusal.why},
            )
        self.refuse(exchange, refusal.status, refusal.why, *refusal.fields)

    def set_limits(self) -> None:
        """The tunables of limits.py as they are now."""
        settings = self.settings
        self.limits.set(settings.park_rate, settings.park_burst, settings.max_by_address, settings.max_by_queue)

    def _forgotten(self) -> None:
        self.counts["poll_limits_forgotten"] += 1
        self.world.log_limited(
            "poll_limits",
            "poll_park_rate: more addresses than pbal can watch; one that was busy was forgotten",
            {"event": "poll_limits_forgotten", "service": self.service.name},
        )

    def _before(self, reader: Reader, keys: Iterable[bytes]) -> Iterator[Reader]:
        """Who waited for these queues before a reader; of a lot that was `all` before there may be many. They may leave meanwhile."""
        for key in keys:
            yield from takewhile(lambda earlier: earlier is not reader, self.lot.waiting(key))

    def _supersede_before(self, reader: Reader, keys: Iterable[bytes]) -> None:
        """End those who waited for the same queues before, or see to it when all have had their second."""
        quarter = int(self.world.clock.now() * QUARTER)
        due = 0
        for earlier in self._before(reader, keys):
            if earlier.since + RESPECT > quarter:
                due = max(due, earlier.since + RESPECT)
            else:
                self.finish(earlier, SUPERSEDED)
        if due:
            self.counts["poll_slowed"] += 1
            self._slowed.append((due, reader))

    def _supersede_slowed(self, now: float) -> None:
        quarter = int(now * QUARTER)
        due, self._slowed = [r for q, r in self._slowed if q <= quarter], [(q, r) for q, r in self._slowed if q > quarter]
        for reader in due:
            if reader.lot is self.lot and self.settings.duplicate == "newest":
                for earlier in self._before(reader, reader.all_keys()):
                    self.finish(earlier, SUPERSEDED)

    # -- out, without messages -----------------------------------------------------------------------------------

    def out(self, reader: Reader) -> bool:
        """Take a reader out of the lot; False if it is out already."""
        if self.lot.remove(reader):
            self._counted_out(reader)
            return True
        return False

    def _counted_out(self, reader: Reader) -> None:
        self.limits.left(reader)
        self.presence.went(reader.all_keys())
        self.store.left(reader.all_keys())
        self.counts["poll_parked"] -= 1
        if isinstance(reader, Staying):
            self.counts["poll_streams"] -= 1
            beats = self._beats.get(reader.beats_at)
            if beats is not None:
                beats.pop(reader, None)
                if not beats:
                    del self._beats[reader.beats_at]

    def _gone(self, reader: Reader) -> None:
        """A client left. The lot has taken it out."""
        if self.world.tracer is not None:
            self.trace("gone", reader.all_keys(), reader)
        self._counted_out(reader)
        self.counts["poll_gone"] += 1

    def _half_closed(self, reader: Reader) -> bool:
        """A client that sent its end right behind its poll may only have asked all it wanted: what the store has is still for it."""
        now, patience = self.world.clock.now(), self.store.first_look
        if not patience or now - reader.since / QUARTER > patience + 1 / QUARTER:
            return False
        self.lot.postpone(reader, now + patience)
        return True

    def finish(self, reader: Reader, why: str) -> None:
        """End a reader, and tell it why."""
        if self.out(reader):
            if self.world.tracer is not None:
                self.trace("finished", reader.all_keys(), reader, why)
            self.counts[ENDED[why]] += 1
            reader.end(self, why)

    def finish_all(self, readers: list[Reader], why: str) -> None:
        """End many, over the next turns of the loop."""
        self.turns.each(readers, lambda reader: self.finish(reader, why))

    def kick(self, readers: list[Reader]) -> None:
        """Close connections without an answer."""
        self.turns.each(readers, self._kick_one)

    def _kick_one(self, reader: Reader) -> None:
        if self.out(reader):
            self.counts["poll_kicked"] += 1
            if reader.client is not None:
                reader.client.kick(reader)

    # -- for who follows it --------------------------------------------------------------------------------------

    def trace(self, what: str, keys: Iterable[bytes], reader: Reader | None = None, detail: str = "") -> None:
        """Tell of something that happened to queues, and to a reader of theirs."""
        tracer, skip = self.world.tracer, len(self.settings.prefix)
        if tracer is None:
            return
        queues = tuple(key[skip:].decode("utf-8", "replace") for key in keys)
        peer = address = ""
        if reader is not None and reader.client is not None:
            peer = reader.client.peer_name
            address = (reader.address or reader.client.peer).decode("ascii", "replace")
        tracer.tell(self.service.name, self.service.name, peer, address, what, detail, queues)

    # -- streams -------------------------------------------------------------------------------------------------

    def admit_stream(self, exchange: Exchange, reader: Staying, grant: Grant | None) -> None:
        """Let a stream wait for poll_stream_time, or up to a tenth less so that clients do not move all at once, or refuse it."""
        if self.world.draining:
            self.refuse(exchange, 503, "The server ends.", (b"Retry-After", b"1"))
        else:
            self.admit(exchange, reader, self.settings.stream_time * (1 - random.random() / 10), grant)

    def push(self, reader: Reader, octets: bytes, delivery: Delivery | None) -> bool:
        """Send octets on a stream. One that takes too little is ended: it comes back, and goes on from where it was."""
        client = reader.client
        if client is None:
            return False
        settings = self.settings
        if client.unsent(reader) > settings.stream_buffer:
            if self.out(reader):
                self.counts["poll_slow_streams"] += 1
                self.world.log_limited(
                    "poll_slow",
                    "a stream whose client reads too slowly was closed: %(client)s",
                    {"event": "poll_slow", "service": self.service.name, "client": client.peer_name},
                )
                client.kick(reader)
            return False
        if delivery is None or not delivery.returns:
            return client.push(reader, octets)
        return client.push(reader, octets, self.on_lost(reader, delivery), settings.ack_timeout)

    def _beat_later(self, reader: Staying) -> None:
        reader.beats_at = int((self.world.clock.now() + self.settings.heartbeat) * QUARTER)
        self._beats.setdefault(reader.beats_at, {})[reader] = None

    def _beat(self, now: float) -> None:
        """Heartbeats that are due, over the next turns of the loop."""
        quarter = int(now * QUARTER)
        due = [due for due in self._beats if due <= quarter]
        if due:
            self.turns.each(list(chain.from_iterable(map(self._beats.pop, due))), self._beat_one)

    def _beat_one(self, reader: Reader) -> None:
        if reader.lot is self.lot and isinstance(reader, Staying):
            self._beat_later(reader)
            reader.beat(self)

    # -- out, with messages of `taken` queues --------------------------------------------------------------------

    def deliver(self, taken: Queues) -> Queues:
        """Hand taken values to the readers that wait for them; those nobody took come back."""
        serving = self.serving()
        if serving is not self:  # the take was in flight for so long that a reload went on without it
            return serving.deliver(taken)
        if self.settings.duplicate == "all":
            return self._deliver_to_all(taken)
        left: Queues = []
        answers: dict[Reader, Queues] = {}
        for key, value in taken:
            first = self.lot.first(key)
            if first is not None:
                answers.setdefault(first, []).append((key, value))
            else:
                left.append((key, value))
        for reader, queues in answers.items():
            if not self._hand(reader, Delivery(self._shortened(queues), True)):
                left += queues
        return left

    def _deliver_to_all(self, taken: Queues) -> Queues:
        """Every reader of a queue gets every message. What has no reader comes back at once; what reached nobody goes back in front."""
        lot, values = self.lot, dict(self._shortened(taken))
        waiting = dict.fromkeys(reader for key in values for reader in lot.waiting(key))
        if not waiting:
            return taken
        news = _Taken(values, len(waiting) == 1)

        def answer(reader: Reader) -> None:
            keys = tuple(key for key in reader.all_keys() if key in values)
            if keys and self._hand(reader, news.delivery(keys)):
                news.reached.update(keys)

        if self.turns.each(list(waiting), answer, lambda: self.put_back(news.unreached()), frozenset(values), news):
            return news.unreached()
        return []

    def _hand(self, reader: Reader, delivery: Delivery) -> bool:
        """Give a reader messages; False if it has gone."""
        if reader.stays:
            if reader.lot is not self.lot:
                return False
        elif not self.out(reader):
            return False
        if not reader.give(self, delivery):
            if reader.stays and self.out(reader):  # its connection is about to end: who waits behind it is not to wait for that
                self.counts["poll_gone"] += 1
            return False
        self.counts["poll_answered"] += 1
        if self.world.tracer is not None:
            octets = sum(len(value) for _, value in delivery.queues)
            self.trace("given", [key for key, _ in delivery.queues], reader, f"{octets} bytes")
        self.counts["poll_gaps"] += len(delivery.gaps)
        if self._stored_at:
            for key, _ in delivery.queues:
                stored = self._stored_at.pop(key, None)
                if stored is not None:
                    self.store_to_answer.add(self.world.clock.now() - stored)
        return True

    def give_by_hand(self, readers: list[Reader], message: bytes) -> None:
        """`poll answer`."""

        def answer(reader: Reader) -> None:
            self._hand(reader, Delivery([(reader.all_keys()[0], message)], False))

        self.turns.each(readers, answer)

    def on_lost(self, reader: Reader, delivery: Delivery) -> OnLost | None:
        """What the connection calls if the client does not get these messages."""
        return partial(self.lost, delivery, reader.stays) if delivery.returns and delivery.queues else None

    def lost(self, delivery: Delivery, stayed: bool) -> None:
        """The client did not get an answer: its messages go back in front. A poll that `stayed` is counted as gone when it goes."""
        self.counts["poll_lost_answers"] += 1
        self.counts["poll_gone"] += not stayed
        self.put_back(delivery.queues)

    def put_back(self, queues: Queues) -> None:
        """Messages that reached nobody go back in front."""
        if queues:
            self.serving().store.put_back(queues)

    # -- out, with messages of kept queues -----------------------------------------------------------------------

    def tell(self, found: dict[bytes, Log], readers: list[Reader] | None = None) -> None:
        """What the store keeps of these queues, by key: each of its readers, or of these, gets what it lacks."""
        serving = self.serving()
        if serving is not self:
            serving.tell(found)
            return
        lot = self.lot
        asked = readers is not None  # what they lack was read after they came
        if readers is None:
            waiting = [lot.waiting(key) for key in found]
            readers = waiting[0] if len(waiting) == 1 else list(dict.fromkeys(chain.from_iterable(waiting)))
        made: dict[tuple[bytes | None, ...], Delivery | None] = {}
        everybody = None if asked else _Kept(found)
        self.turns.each(readers, lambda reader: self._tell_one(reader, found, made, asked), None, frozenset(found), everybody)

    def _tell_one(
        self, reader: Reader, found: dict[bytes, Log], made: dict[tuple[bytes | None, ...], Delivery | None], asked: bool
    ) -> None:
        if reader.lot is not self.lot:
            return
        keys = reader.keys
        if isinstance(keys, bytes):
            which: tuple[bytes | None, ...] = (keys, reader.place(keys))
        else:
            which = tuple(part for key in keys if key in found for part in (key, reader.place(key)))
        if which in made:
            delivery = made[which]
        else:
            try:
                delivery = made[which] = self._lacking(which, found, asked)
            except BadPosition:
                self.finish(reader, BAD_POSITION)
                return
            except _Older:
                self.store.began(reader, ())  # read anew, for it alone
                return
        if delivery is not None and not self._hand(reader, delivery):
            return  # it stands where it stood: a stream that is not open yet is told in a moment, what has gone never
        for key in (keys,) if isinstance(keys, bytes) else keys:
            log = found.get(key)
            if log is not None and log.end and not (asked and log.is_older(reader.place(key))):
                reader.stand(key, log.end)

    def _lacking(self, which: tuple[bytes | None, ...], found: dict[bytes, Log], asked: bool) -> Delivery | None:
        """What a reader at these places lacks; None if nothing.

        Raises: BadPosition, unless poll_bad_position = all; _Older for a reader that has not `asked` since it came.
        """
        settings = self.settings
        queues: Queues = []
        gaps: list[bytes] = []
        logs: dict[bytes, Log] = {}
        for key, place in zip(which[::2], which[1::2], strict=True):
            log = found.get(key) if key is not None else None
            if log is None or key is None or self._is_behind(log, place, asked):
                continue
            try:
                offset, gap = log.find(place, settings.first_all)
            except BadPosition:
                if not settings.bad_position_is_none:
                    raise
                offset, gap = log.base, False
            data = log.data[offset - log.base :]
            if data:
                queues.append((key, data))
            if gap:
                gaps.append(key)
            if log.epoch:
                logs[key] = log
        return Delivery(queues, False, logs, tuple(gaps)) if queues or gaps else None

    @staticmethod
    def _is_behind(log: Log, place: bytes | None, asked: bool) -> bool:
        """Whether a reader was told of more than this, while what was read for it waited for its turn. Raises: _Older if nobody read it."""
        if place is None or not log.is_older(place):
            return False
        if not asked:
            raise _Older
        return log.gave(place)

    # -- limits of a queue ---------------------------------------------------------------------------------------

    def _shortened(self, queues: Queues) -> Queues:
        """Without the oldest messages of what others let grow beyond poll_max_queue. What cannot be cut is given whole: it is taken."""
        limit = self.settings.max_queue
        if all(len(value) <= limit for _, value in queues):
            return queues
        shorter: Queues = []
        for key, value in queues:
            kept, dropped = trim(value, limit, self.settings.framing)
            shorter.append((key, kept or value))
            self.evicted(key, dropped if kept else 0)
        return shorter

    def shorten(self, key: bytes, value: bytes, newest: bytes) -> bytes:
        """A value within poll_max_queue: its newest messages, of which `newest` was added last. The others are counted."""
        kept, dropped = trim(value, self.settings.max_queue, self.settings.framing, newest)
        self.evicted(key, dropped)
        return kept

    def evicted(self, key: bytes, dropped: int) -> None:
        """Count messages that went for want of room."""
        if dropped:
            self.counts["poll_evicted"] += dropped
            self.world.log_limited(
                "poll_evicted",
                "queue %(queue)r is too long: %(messages)d old messages dropped",
                {"event": "poll_evicted", "service": self.service.name, "queue": key.decode("utf-8", "replace"), "messages": dropped},
            )

    # -- time ----------------------------------------------------------------------------------------------------

    def note_start(self, key: bytes) -> None:
        """A message is being stored that somebody waits for."""
        if len(self._stored_at) > STARTS:
            self._stored_at.clear()
        self._stored_at[key] = self.world.clock.now()

    def forget_start(self, key: bytes) -> None:
        """It was not stored."""
        self._stored_at.pop(key, None)

    def _schedule_tick(self) -> None:
        """At the next whole quarter of a second, so that no poll waits longer than its time."""
        late = self.world.clock.now() * QUARTER % 1
        self._tick_timer = asyncio.get_running_loop().call_later((1 - late) / QUARTER + 0.001, self._tick)

    def wake_tick(self) -> None:
        """There is something to look at in time."""
        if self._tick_timer is None and self.open and (self.lot.count or self.presence.busy):
            self._schedule_tick()

    def _tick(self) -> None:
        """End those whose time is over. Runs only while somebody waits, or is about to be gone."""
        self._tick_timer = None
        now = self.world.clock.now()
        self.expire(now)
        if self._slowed:
            self._supersede_slowed(now)
        if self._beats:
            self._beat(now)
        self.presence.tick(now)
        if not self.lot.count:
            self._slowed.clear()
        self.wake_tick()

    def expire(self, now: float) -> None:
        """End those whose time is over, whatever else is under way: a time may be that of a credential."""
        ended = [] if self._expiring else self.lot.ended(now)
        if ended:
            self._expiring = True
            if self.turns.each(ended, lambda reader: self.finish(reader, TIME_IS_OVER), self._expired):
                self._expired()

    def _expired(self) -> None:
        self._expiring = False

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The service is open."""
        self.set_limits()
        self.open = True
        for reader in self.lot:
            if isinstance(reader, Staying):
                self._beat_later(reader)
        if self.settings.duplicate == "newest":  # who was slowed in the generation before
            self._slowed += [(0, self.lot.waiting(key)[-1]) for key in self.lot.queues() if self.lot.number(key) > 1]
        self.wake_tick()

    def stop(self) -> None:
        """Nothing comes any more. Who waits is not answered: they were carried on, or told before."""
        self.open = False
        if self.serving() is self:
            self.turns.finish()
        self.lot.forget()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
