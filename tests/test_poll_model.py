"""Random lives of readers, writers and pbals against a model: who gets which message, and who is told of a gap.

Real: the plugin with its hub, transports and stores; two pbals that share a memcached. Made up: that memcached (faked.py), the clock, and
the connections of the readers. A reader is a long poll, an event stream or a WebSocket that comes back with its last position, to any
of the pbals. Its connection is cut when the machine says so: before an answer, after it, in the middle, or without anybody noticing.

The model knows every message in the order in which the store took it (`Truth`), and of every reader how far it is. Of kept queues
a reader gets message after message; where one is left out it was told of a gap, and the gap had a cause. Of `taken` queues each
message is with one reader or in the store.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from faked import FakedMemcached
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from pbal.model.clock import ManualClock
from pbal.model.world import World
from pbal.plugins.poll.cached import MemcachedStore
from pbal.plugins.poll.courier import Courier
from pbal.plugins.poll.kept import Kept, without_header
from pbal.plugins.poll.lot import QUARTER
from pbal.plugins.poll.memory import MemoryStore
from pbal.plugins.poll.plugin import Poll
from pbal.plugins.poll.positions import Log, read_token
from pbal.plugins.poll.publisher import publish

TTL = 60
SLICE = 3
"""Seconds between two sweeps."""
KEYS = [b"poll:a", b"poll:b", b"poll:c"]
READS = {"ttl": [b"a", b"ab", b"bc"], "confirmed": [b"a", b"b", b"c"], "taken": [b"a", b"a", b"abc"]}
"""Which queues the readers wait for. Of a `confirmed` queue there is one reader at a time."""
FIELDS = {
    "poll": {},
    "sse": {b"accept": b"text/event-stream"},
    "websocket": {
        b"upgrade": b"websocket", b"connection": b"upgrade", b"sec-websocket-version": b"13",
        b"sec-websocket-key": b"MDEyMzQ1Njc4OWFiY2RlZg==",
    },
}  # fmt: skip
STEPS = ["come", "come", "hear", "settle", "cut", "deaf", "move", "say", "say", "store", "look"]
ACCIDENTS = ["forget", "evict", "restart", "wait", "sleep", "fail", "delete", "reload", "resume"]
"""Of these a life has some. In between there is `mend`."""


@dataclass(frozen=True)
class Stamp:
    """When something was sent: the time, how many messages the store had, and how many accidents a queue had before all was still."""

    second: float
    lengths: dict[bytes, int]
    accidents: dict[bytes, int]


class Wire:
    """A reader's connection: what was sent on it and not heard yet."""

    peer_name = "test"
    peer = b"192.0.2.1"

    def __init__(self, life: "Life") -> None:
        self._life = life
        self.record: Any = None
        self.open = True
        self.deaf = False
        """What is sent does not arrive, and nobody knows."""
        self.sent: list[tuple[int, bytes, Any, Stamp]] = []
        """(status of a whole answer or 0, octets, on_lost, when)"""

    def _send(self, record: Any, status: int, octets: bytes, on_lost: Any = None) -> bool:
        if not self.open or self.record is not record:
            return False
        self.sent.append((status, octets, on_lost, self._life.stamp()))
        return True

    def answer(self, record: Any, status: int, fields: Any, body: bytes, on_lost: Any = None, patience: float = 30.0) -> bool:
        sent = self._send(record, status, body, on_lost)
        self.record = None
        return sent

    def begin(self, record: Any, status: int, fields: Any, data: bytes) -> bool:
        return self._send(record, 0, data)

    def upgrade(self, record: Any, protocol: bytes, fields: Any, data: bytes) -> bool:
        return self._send(record, 0, data)

    def push(self, record: Any, data: bytes, on_lost: Any = None, patience: float = 30.0) -> bool:
        return self._send(record, 0, data, on_lost)

    def finish(self, record: Any, data: bytes) -> bool:
        sent = self._send(record, 0, data)
        self.record = None
        return sent

    def unsent(self, record: Any) -> int:
        return 0

    def repark(self, record: Any) -> bool:
        if self.record is not None:
            self.record = record
        return self.record is not None

    def kick(self, record: Any) -> None:
        self.record = None
        self.open = False

    def cut(self, arrived: int) -> None:
        """The connection ends: so many of what was sent arrived, what is behind them is lost, the newest told first."""
        self.open = False
        record, self.record = self.record, None
        if record is not None:
            record.gone()
        lost, self.sent = self.sent[arrived:], self.sent[:arrived]
        for _, _, on_lost, _ in reversed(lost):
            if on_lost is not None:
                on_lost()


class Told:
    """What came in one piece."""

    def __init__(self, messages: list[tuple[bytes, bytes]], gaps: list[bytes], position: bytes, bad: str = "") -> None:
        """`messages` and `gaps` by key."""
        self.messages, self.gaps, self.position, self.bad = messages, gaps, position, bad


class Ear:
    """A client's understanding of the octets of a transport."""

    def __init__(self, transport: str, key: bytes) -> None:
        """`key`: of the queue of events without a name."""
        self._transport = transport
        self._key = key
        self._text = b""
        self._frames = FrameProtocol(client=True, extensions=[])

    def hear(self, status: int, octets: bytes) -> Iterator[Told]:
        """What is whole by now."""
        if status:
            assert status in (200, 204), octets
            if status == 200:
                yield self._json(octets.decode())
        elif self._transport == "sse":
            yield from self._events(octets)
        else:
            self._frames.receive_bytes(octets)
            for frame in self._frames.received_frames():
                if frame.opcode is Opcode.TEXT:
                    yield self._json(str(frame.payload))

    @staticmethod
    def _json(text: str) -> Told:
        answer = json.loads(text)
        named = [(b"poll:" + name.encode(), message) for name, messages in answer.get("queues", {}).items() for message in messages]
        gaps = [b"poll:" + name.encode() for name in answer.get("gap", [])]
        return Told([(key, message.encode()) for key, message in named], gaps, answer.get("position", "").encode())

    def _events(self, octets: bytes) -> Iterator[Told]:
        *events, self._text = (self._text + octets).split(b"\n\n")
        for event in events:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
            if fields.get(b"event") == b"gap":
                yield Told([], [b"poll:" + fields[b"data"]], b"")
            elif fields.get(b"event") in (b"superseded", b"bad-position"):
                assert fields[b"event"] != b"bad-position"
            elif b"data" in fields:
                key = b"poll:" + fields[b"event"] if b"event" in fields else self._key
                yield Told([(key, fields[b"data"])], [], fields.get(b"id", b""))
            elif b"id" in fields:
                yield Told([], [], fields[b"id"])


class Place:
    """How far a reader is in a queue, as the model sees it."""

    def __init__(self) -> None:
        self.last = -1
        """The number of the last message it got."""
        self.up_to: int | None = None
        """It was told of a gap, or began with nothing there: a message may be left out, but none from this number on."""
        self.fresh = True
        """It came without a position, and was told nothing yet."""
        self.seen = 0.0
        """When it was last told something, or was seen waiting."""
        self.accidents = 0
        """How many of the queue's accidents are older than what it was told of it."""


class Window:
    """A reader."""

    def __init__(self, life: "Life", names: bytes) -> None:
        self._life = life
        self.keys = tuple(b"poll:%c" % name for name in names)
        self.wire: Wire | None = None
        self._ear: Ear
        self.position = b""
        self.places = {key: Place() for key in self.keys}
        self.got: list[bytes] = []
        """Of `taken` queues: everything."""

    def come(self, node: "Node", transport: str) -> None:
        """Connect, with the last position."""
        if self.wire is not None:
            return
        wire = self.wire = Wire(self._life)
        self._ear = Ear(transport, self.keys[0])

        def park(record: Any) -> Wire:
            wire.record = record
            return wire

        request = SimpleNamespace(fields=FIELDS[transport], query=b"", minor=1)
        exchange: Any = SimpleNamespace(client_address=b"192.0.2.1", stream=wire, request=request, method=b"GET", park=park)
        hub = node.plugin.hub
        for key in self.keys:  # those who wait have had their second
            for earlier in hub.lot.waiting(key):
                earlier.since -= 2 * QUARTER
        for key, place in self.places.items():
            if place.fresh:
                place.accidents = self._life._still[key]
        node.plugin._begin(exchange, self.position, self.keys, None)
        if self._life.keep == "confirmed" and self.position:
            for key in self.keys:
                self._life.confirmed[key] = max(self._life.confirmed[key], self.places[key].last)

    def hear(self) -> None:
        """All that was sent arrives."""
        if self.wire is None or self.wire.deaf:
            return
        sent, self.wire.sent = self.wire.sent, []
        for status, octets, _, stamp in sent:
            for told in self._ear.hear(status, octets):
                self._take(told, stamp)
        if self.wire.record is None:
            self.wire = None

    def cut(self) -> None:
        """The connection ends, after some of what was sent arrived."""
        if self.wire is not None:
            wire = self.wire
            wire.cut(0 if wire.deaf else self._life.chance.randint(0, len(wire.sent)))
            self.hear()
            self.wire = None

    def forget(self) -> None:
        """It knows nothing any more."""
        if self.wire is None:
            self.position = b""
            for key in self.keys:
                self.places[key] = Place()

    def is_seen(self) -> None:
        """It waits, and all is still."""
        if self.wire is not None and not self.wire.deaf and self.wire.record is not None and not self.wire.sent:
            for place in self.places.values():
                place.seen = self._life.clock.now()

    def _take(self, told: Told, stamp: Stamp) -> None:
        if self._life.keep == "taken":
            self.got += [message for _, message in told.messages]
            return
        for key in told.gaps:
            self._gap(key, stamp)
        for key, message in told.messages:
            self._message(key, self._life.truth[key].index(message + b"\n"))
            self.places[key].accidents = stamp.accidents[key]
        if told.position:
            self.position = told.position
            for key in read_token(told.position, self.keys):  # those that the store has said something of
                place = self.places[key]
                place.seen = stamp.second
                if len(self.keys) == 1:
                    place.accidents = stamp.accidents[key]
                place.fresh = False
                if place.last < 0 and place.up_to is None:
                    place.up_to = stamp.lengths[key]

    def _gap(self, key: bytes, stamp: Stamp) -> None:
        place, life = self.places[key], self._life
        following = life.truth[key][place.last + 1 : place.last + 2]
        assert (
            life.accidents[key] > place.accidents or (following and following[0] not in life.held(key)) or stamp.second - place.seen >= TTL
        ), f"a gap that was none: {key!r} behind {place.last}"
        place.up_to, place.accidents = stamp.lengths[key], stamp.accidents[key]

    def _message(self, key: bytes, number: int) -> None:
        place, life = self.places[key], self._life
        if place.fresh:
            if life.keep == "confirmed":  # who forgot gets what nobody confirmed
                self._excuse(key, range(life.confirmed[key] + 1, number))
        else:
            assert number > place.last, f"{key!r}: {number} again, behind {place.last}"
            if number > place.last + 1:
                assert place.up_to is not None and number <= place.up_to, f"{key!r}: nothing said between {place.last} and {number}"
                self._excuse(key, range(place.last + 1, number))
        place.last, place.up_to = number, None
        place.fresh = False

    def _excuse(self, key: bytes, lost: range) -> None:
        """What went did so for a reason."""
        life = self._life
        if not life.short and not life.accidents[key]:
            young = [number for number in lost if life.clock.now() - life.when[key][number] < TTL]
            assert not young, f"{key!r}: {young} went before their time"


class Node:
    """A pbal."""

    def __init__(self, clock: ManualClock, store: str, keep: str) -> None:
        self.world = World(clock)
        for tunable in Poll.tunables:
            self.world.add_tunable(tunable)
        self.world.counters.declare(Poll.counters)
        self.service = self.world.create_service("chat")
        tunables = {
            "role": "web_server", "poll_uri": "^/(?P<queue>.*)$", "poll_format": "json", "poll_keep": keep, "poll_watch": "off",
            "poll_ttl": f"{TTL}s", "poll_heartbeat": "1h", "poll_timeout": "20s", "poll_stream_time": "1h", "poll_interval": f"{SLICE}s",
            "poll_store": "memory" if store == "memory" else "memcached 127.0.0.1:1",
        }  # fmt: skip
        for name, value in tunables.items():
            self.service.set(name, value)
        self.plugin = Poll(self.service, self.world)
        self.service.replace_chain([("poll", self.plugin)])
        self.reloading: asyncio.Task[None] | None = None
        self._couriers: list[Courier] = []
        """Of all generations: a publish goes on in the one where it began."""

    @property
    def busy(self) -> bool:
        """Whether a store call is in flight."""
        return any(courier.busy for courier in self._couriers)

    @property
    def store(self) -> Any:
        """The hub's."""
        return self.plugin.hub.store

    def open(self, cache: FakedMemcached | None) -> None:
        """Begin, on a memcached if there is one."""
        self.plugin.open()
        if cache is not None:
            self._couriers.append(self.store.courier)
            cache.connect(self.store.courier.store.servers[0])

    async def reload(self, cache: FakedMemcached | None, good: bool) -> None:
        """RELOAD poll; if it is not `good`, the new one cannot be opened."""
        former = self.plugin
        await former.quiesce()
        if not good:
            former.resume()
            return
        self.plugin = Poll(self.service, self.world)
        self.plugin.adopt(former.carry())
        self.open(cache)
        self.service.replace_chain([("poll", self.plugin)])
        former.close()


class Life:
    """One random life: a method for each step. Steps that mean nothing where they come change nothing."""

    def __init__(self, store: str, keep: str, seed: int) -> None:
        self.keep = keep
        self.chance = random.Random(seed)
        self.clock = ManualClock()
        self.truth: dict[bytes, list[bytes]] = {key: [] for key in KEYS}
        """Messages in the order in which the store took them."""
        self.when: dict[bytes, list[float]] = {key: [] for key in KEYS}
        self.accidents = dict.fromkeys(KEYS, 0)
        self.confirmed: dict[bytes, int] = dict.fromkeys(KEYS, -1)
        self.short = False
        """Queues are cut by poll_max_queue."""
        self.failed = False
        self._number = 0
        self._slow: dict[bytes, Log] = {}
        self._still = dict(self.accidents)
        self.cache = None if store == "memory" else FakedMemcached(self.clock, self.chance, self.took)
        self.nodes = [Node(self.clock, store, keep) for _ in range(1 if store == "memory" else 2)]
        for node in self.nodes:
            node.open(self.cache)
        self.windows = [Window(self, names) for names in READS[keep]]

    # -- what the model sees -------------------------------------------------------------------------------------

    def took(self, key: bytes, octets: bytes) -> None:
        """The store took a message, or (taken) has one back."""
        for message in octets.splitlines(keepends=True):
            if message not in self.truth[key]:
                self.truth[key].append(message)
                self.when[key].append(self.clock.now())

    def held(self, key: bytes) -> list[bytes]:
        """Messages that are in the store."""
        if self.cache is not None:
            return without_header(self.cache.value(key)).splitlines(keepends=True)
        store = self.nodes[0].store
        assert isinstance(store, MemoryStore)
        held = store.content.get(key)
        return [] if held is None else held.data.splitlines(keepends=True)

    def stamp(self) -> Stamp:
        """Now."""
        return Stamp(self.clock.now(), {key: len(messages) for key, messages in self.truth.items()}, self._still)

    def _accident(self, *keys: bytes) -> None:
        for key in keys:
            self.accidents[key] += 1

    # -- steps ---------------------------------------------------------------------------------------------------

    def come(self, which: int) -> None:
        self.windows[which % 3].come(self.chance.choice(self.nodes), self.chance.choice(list(FIELDS)))

    def hear(self, which: int) -> None:
        self.windows[which % 3].hear()

    def cut(self, which: int) -> None:
        self.windows[which % 3].cut()

    def move(self, which: int) -> None:
        """To another pbal, at once."""
        self.hear(which)
        self.cut(which)
        self.come(which)

    def deaf(self, which: int) -> None:
        wire = self.windows[which % 3].wire
        if wire is not None and not wire.sent:
            wire.deaf = True

    def forget(self, which: int) -> None:
        self.windows[which % 3].forget()

    def say(self, which: int) -> None:
        """Somebody publishes over HTTP."""
        node, key, message = self.chance.choice(self.nodes), KEYS[which % 3], self._message()
        if self.cache is None:
            self.took(key, message)
        publish(node.plugin.hub, [(key, message)], lambda receipts, failed: None)

    def store(self, which: int) -> None:
        """Some program stores a message, by the writer's contract."""
        if self.cache is None:
            self.say(which)
        else:
            self.cache.put(KEYS[which % 3], self._message(), TTL)

    def _message(self) -> bytes:
        self._number += 1
        return b"%d\n" % self._number

    def evict(self, which: int) -> None:
        if self.cache is not None and self.keep != "taken":
            self.cache.evict(KEYS[which % 3])
            self._accident(KEYS[which % 3])

    def restart(self, _: int) -> None:
        if self.cache is not None and self.keep != "taken":
            self.cache.restart()
            self._accident(*KEYS)

    def fail(self, _: int) -> None:
        if self.cache is not None:
            self.cache.failing = self.failed = True
            self._accident(*KEYS)

    def mend(self, _: int) -> None:
        if self.cache is not None and self.cache.failing:
            self.cache.failing = False
            self._accident(*KEYS)

    def delete(self, which: int) -> None:
        if self.keep != "taken":
            self._accident(KEYS[which % 3])
            self.chance.choice(self.nodes).store.trim(KEYS[which % 3], None, lambda error: None)

    def shorten(self, _: int = 0) -> None:
        """Queues hold a few messages."""
        if self.keep != "taken":
            self.short = True
            for node in self.nodes:
                node.service.set("poll_max_queue", "20")
                node.plugin.changed("poll_max_queue")

    # -- steps of witnesses --------------------------------------------------------------------------------------

    def stream(self, which: int) -> None:
        """A stream comes, to the first pbal."""
        self.windows[which].come(self.nodes[0], "sse")

    def another(self, _: int) -> None:
        """The second reader comes to the first pbal."""
        self.windows[1].come(self.nodes[0], "sse")

    def joins(self, which: int) -> None:
        """A reader that is in waits for one more queue."""
        hub = self.nodes[0].plugin.hub
        (reader,) = hub.lot.waiting(KEYS[which])
        hub.lot.subscribe(reader, KEYS[1])
        hub.joined(reader, [KEYS[1]])

    async def turn(self, _: int) -> None:
        await asyncio.sleep(0)

    async def nap(self, _: int) -> None:
        """A little more than the ttl, in which nobody looks for old queues."""
        for _ in range(TTL // SLICE + 1):
            await self.settle(0)
            self.clock.advance(SLICE)
        for node in self.nodes:
            node.plugin.hub.expire(self.clock.now())

    def give_back(self, which: int) -> None:
        """An answer of the time when messages were taken turns out lost."""
        message = self._message()
        if self.cache is None:
            self.took(KEYS[which], message)
        self.nodes[0].store.put_back([(KEYS[which], message)])

    def remember(self, which: int) -> None:
        """Somebody reads the queue, and the answer is slow."""
        assert self.cache is not None
        kept = Kept.parse(self.cache.value(KEYS[which]))
        assert kept is not None
        self._slow = {KEYS[which]: kept.log(KEYS[which])}

    def arrive(self, _: int) -> None:
        """Here it is."""
        self.nodes[0].plugin.hub.tell(self._slow)

    def all_there(self, which: int) -> None:
        assert self.held(KEYS[which]) == self.truth[KEYS[which]] != []

    # -- and more of every life ----------------------------------------------------------------------------------

    def look(self, which: int) -> None:
        """A sweep."""
        for node in self.nodes[which % 2 :]:
            if isinstance(node.store, MemcachedStore):
                node.store.courier.sweep()

    def reload(self, which: int) -> None:
        self._reload(which, True)

    def resume(self, which: int) -> None:
        self._reload(which, False)

    def _reload(self, which: int, good: bool) -> None:
        node = self.nodes[which % len(self.nodes)]
        if node.reloading is None or node.reloading.done():
            node.reloading = asyncio.get_running_loop().create_task(node.reload(self.cache, good))

    async def wait(self, _: int) -> None:
        """A few seconds, in which polls end and queues are swept."""
        await self._slices(self.chance.randint(1, 5))

    async def sleep(self, _: int) -> None:
        """Long enough for messages to grow old."""
        await self._slices(self.chance.randint(TTL // 2, 2 * TTL) // SLICE)

    async def _slices(self, number: int) -> None:
        if self.keep == "taken":
            return
        for _ in range(number):
            await self.settle(1)
            self.clock.advance(SLICE)
            self.look(0)
            for node in self.nodes:
                node.plugin.hub.expire(self.clock.now())
                if isinstance(node.store, MemoryStore) and self.chance.random() < SLICE / 30:
                    node.store.expire()

    async def settle(self, _: int) -> None:
        """Let the loop turn until nothing can still be on its way."""
        for turn in range(1000):
            for node in self.nodes:
                if isinstance(node.store, MemcachedStore) and node.store.courier._look_timer is not None:
                    node.store.courier._look_timer.cancel()  # its time has come
                    node.store.courier._look()
            await asyncio.sleep(0)
            if turn > 5 and not any(node.busy for node in self.nodes):
                break
        self._still = dict(self.accidents)
        for window in self.windows:
            window.is_seen()

    # -- the life ------------------------------------------------------------------------------------------------

    async def live(self, steps: list[tuple[str, int]]) -> None:
        """Go through the steps, then look whether everything is where it should be."""
        for step, which in steps:
            made = getattr(self, step)(which)
            if made is not None:
                await made
            if self.chance.random() < 0.3:
                await asyncio.sleep(0)
        self.mend(0)
        for node in self.nodes:
            if node.reloading is not None:
                await node.reloading
        await self._come_to_rest()
        if self.keep == "taken":
            self._check_taken()
        else:
            self._check_who_waits()
            await self._check_kept()
        await self._end()

    async def _come_to_rest(self) -> None:
        for _ in range(3):
            await self.settle(0)
            self.look(0)
        await self.settle(0)
        for window in self.windows:
            if window.wire is not None and window.wire.deaf:
                window.cut()
        await self.settle(0)
        for window in self.windows:
            window.hear()

    def _check_who_waits(self) -> None:
        """Nobody waits while something is there for it."""
        for window in self.windows:
            if window.wire is not None:
                for key, place in window.places.items():
                    missing = [message for message in self.held(key) if self.truth[key].index(message) > place.last]
                    assert not missing, f"{key!r}: {missing} is there, and a reader of it waits"

    async def _check_kept(self) -> None:
        """Everybody comes back, and is at the end of its queues then; what it did not get it was told of."""
        for window in self.windows:
            window.cut()
            for _ in range(8):  # each answer has all that there is, of some of its queues at least
                window.come(self.chance.choice(self.nodes), "poll")
                await self.settle(0)
                window.hear()
            for key, place in window.places.items():
                last = len(self.truth[key]) - 1
                if place.fresh:
                    assert not self.held(key)
                else:
                    assert place.last == last or place.up_to == last + 1, f"{key!r}: at {place.last} of {last}, and nothing said"

    def _check_taken(self) -> None:
        got = [message + b"\n" for window in self.windows for message in window.got]
        held = [message for key in KEYS for message in self.held(key)]
        everything = sorted(message for key in KEYS for message in self.truth[key])
        assert sorted(set(got) | set(held)) == everything, "nothing is lost"
        if not self.failed:  # what the store leaves out may be doubled: see lanes.py
            assert sorted(got + held) == everything, "each message exactly once"

    async def _end(self) -> None:
        for window in self.windows:
            window.cut()
        await self.settle(0)
        for node in self.nodes:
            assert node.plugin.hub.lot.is_empty()
            assert node.world.counters.counts["poll_parked"] == 0
            await node.plugin.quiesce()
            node.plugin.close()


WITNESSES = {
    "a queue of the memory store went while a reader waited": ("memory", "ttl", "come say settle hear nap say hear"),
    "and right after a reader had left it": ("memory", "confirmed", "come say settle hear come nap hear come hear"),
    "a memcached that was started anew had the same cas for another value": (
        "memcached", "ttl", "stream settle look settle restart store"),
    "who came during a RELOAD that failed was not looked at": (
        "memcached", "ttl", "stream say settle hear cut forget look resume turn stream"),
    "messages that came back after poll_keep was set moved the places": ("memory", "ttl", "stream say give_back"),
    "or came before the header": ("memcached", "ttl", "stream say settle hear give_back settle hear"),
    "what another pbal has told more of was taken for a gap": (
        "memcached", "ttl", "stream say settle hear remember say look settle hear arrive settle hear"),
    "a sweep took for told what only who had just come was told": ("memcached", "ttl", "stream say settle look settle hear store another"),
    "what was sent and not confirmed was dropped when its reader came to one more queue": (
        "memory", "confirmed", "stream say joins all_there"),
    "so was it on memcached": ("memcached", "confirmed", "stream settle say settle joins settle all_there"),
    "a queue shorter than its header was emptied": ("memcached", "ttl", "shorten say settle say settle all_there"),
}  # fmt: skip
"""What once went wrong: the store, poll_keep, and steps of the first reader and its queue."""


@pytest.mark.parametrize("what", WITNESSES)
def test_what_once_went_wrong(what: str) -> None:
    async def life() -> None:
        store, keep, steps = WITNESSES[what]
        await Life(store, keep, 1).live([(step, 0) for step in steps.split()])

    asyncio.run(life())


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Steps of a life that has some kinds of accidents."""
    accidents = draw(st.sets(st.sampled_from(ACCIDENTS), max_size=4))
    mends = ["mend"] * ("fail" in accidents)
    step = st.sampled_from([*STEPS, *STEPS, *sorted(accidents), *mends])
    return draw(st.lists(st.tuples(step, st.integers(0, 2)), min_size=5, max_size=70))


@pytest.mark.parametrize("store", ["memory", "memcached"])
@pytest.mark.parametrize("keep", ["ttl", "confirmed", "taken"])
@settings(max_examples=100)
@given(steps=lives(), short=st.booleans(), seed=st.integers(0, 2**16))
def test_each_message_reaches_its_readers_or_they_are_told(
    store: str, keep: str, steps: list[tuple[str, int]], short: bool, seed: int
) -> None:
    async def life() -> None:
        one = Life(store, keep, seed)  # made where a loop runs: a plugin that opens sets timers
        if short:
            one.shorten()
        await one.live(steps)

    asyncio.run(life())
