"""Random lives of the lot and its store: no message is lost or doubled, nothing is left behind.

Real: the plugin, its lot, its memory store or its courier. Made up: the clients, the clock, and in the courier's case a
memcached whose calls fail or are late when the machine says so. The model knows for every message where it may be.
"""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbal.model.clock import ManualClock
from pbal.model.world import World
from pbal.plugins.poll.cached import MemcachedStore
from pbal.plugins.poll.longpoll import LongPoll
from pbal.plugins.poll.lot import QUARTER
from pbal.plugins.poll.memcached import Fate, Item, Server
from pbal.plugins.poll.memory import MemoryStore
from pbal.plugins.poll.plugin import Poll
from pbal.plugins.poll.publisher import publish
from pbal.plugins.poll.store import StoreError

QUEUES = [b"poll:a", b"poll:b", b"poll:c"]


class Client:
    """A waiting client that can leave at any moment, also after it took an answer."""

    peer_name = "test"
    peer = b"192.0.2.1"

    def __init__(self) -> None:
        self.record: Any = None
        self.gone = False
        self.answers: list[bytes] = []
        self.on_lost: Any = None

    def repark(self, record: Any) -> bool:
        self.record = record
        return not self.gone

    def answer(self, record: Any, status: int, fields: Any, body: bytes, on_lost: Any = None, patience: float = 30.0) -> bool:
        if self.gone or self.record is not record:
            return False
        self.record = None
        if status == 200:
            self.answers.append(body)
        self.on_lost = on_lost
        return True

    def leave(self) -> None:
        """The connection closes."""
        self.gone = True
        record, self.record = self.record, None
        if record is not None:
            record.gone()

    def break_unsent(self) -> None:
        """The answer turns out not to have been sent."""
        if self.on_lost is not None:
            on_lost, self.on_lost = self.on_lost, None
            self.answers.pop()
            self.gone = True
            on_lost()

    def kick(self, record: Any) -> None:
        self.record = None
        self.gone = True


class Exchange:
    client_address = b"192.0.2.1"

    def __init__(self, client: Client) -> None:
        self.client = self.stream = client

    def respond(self, status: int, fields: Any, body: bytes, on_lost: Any = None) -> bool:
        return self.client.answer(self.client.record, status, fields, body, on_lost)

    def park(self, record: Any) -> Client:
        self.client.repark(record)
        return self.client


class FaultyStore:
    """A memcached of a dict, with the calls of a Server that take and put back. Calls give way at random places; one that fails
    has done nothing, or did its work and the answer does not come."""

    def __init__(self, chance: random.Random) -> None:
        self.values: dict[bytes, bytes] = {}
        self.changes: dict[bytes, int] = {}
        self.chance = chance
        self.failing = False

    def lay_in(self, server: Server) -> None:
        """Take the place of a real one's calls."""
        for name in ("held", "read", "delete_many", "prepend"):
            setattr(server, name, getattr(self, name))

    def store(self, key: bytes, value: bytes) -> None:
        """What a key holds from now on."""
        self.values[key] = value
        self.changes[key] = self.changes.get(key, 0) + 1

    async def _turn(self) -> None:
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        if self.failing and self.chance.random() < 0.7:
            raise StoreError("made up")

    async def held(self, keys: list[bytes]) -> list[bytes]:
        await self._turn()
        return [key for key in keys if self.values.get(key)]

    async def read(self, keys: list[bytes]) -> dict[bytes, Item]:
        await self._turn()
        return {key: Item(self.values[key], b"%d" % self.changes[key], -1) for key in keys if key in self.values}

    async def delete_many(self, tokens: list[tuple[bytes, bytes]]) -> list[Fate]:
        """While failing: nothing was sent, or from some token on the answers do not come, whether it was carried out or not."""
        fates: list[Fate] = []
        for key, cas in tokens:
            try:
                await self._turn()
            except StoreError:
                if not fates and self.chance.random() < 0.3:
                    raise
                for late, late_cas in tokens[len(fates) :]:
                    if self.chance.random() < 0.5:
                        self._delete(late, late_cas)
                break
            fates.append(self._delete(key, cas))
        return fates + [Fate.UNSURE] * (len(tokens) - len(fates))

    def _delete(self, key: bytes, cas: bytes) -> Fate:
        if key not in self.values:
            return Fate.GONE
        if b"%d" % self.changes[key] != cas:
            return Fate.CHANGED
        del self.values[key]
        return Fate.DONE

    async def prepend(self, key: bytes, value: bytes, ttl: int, begin: bool = False) -> int:
        """While failing: stored or not, the answer does not come."""
        try:
            await self._turn()
        except StoreError:
            if self.chance.random() < 0.5:
                self.store(key, value + self.values.get(key, b""))
            raise
        self.store(key, value + self.values.get(key, b""))
        return len(self.values[key])


def machine(store: str, duplicate: str) -> tuple[World, Any, Poll]:
    world = World(ManualClock())
    for tunable in Poll.tunables:
        world.add_tunable(tunable)
    world.counters.declare(Poll.counters)
    service = world.create_service("chat")
    service.set("role", "web_server")
    service.set("poll_uri", "^/(?P<queue>.*)$")
    service.set("poll_duplicate", duplicate)
    service.set("poll_watch", "off")
    service.set("poll_interval", "3600s")
    service.set("poll_store", "memcached 127.0.0.1:1" if store == "memcached" else "memory")
    plugin = Poll(service, world)
    service.replace_chain([("poll", plugin)])
    return world, service, plugin


def lay_in(plugin: Poll, faulty: FaultyStore | None) -> None:
    plugin.open()
    if faulty is not None and isinstance(plugin.hub.store, MemcachedStore):
        faulty.lay_in(plugin.hub.store.courier.store.servers[0])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["poll", "poll", "poll", "say", "say", "say", "leave", "vanish", "break_unsent", "expire", "reload", "fail", "mend", "sweep"]
        ),
        st.integers(0, 2),
    ),
    max_size=60,
)


class Life:
    """One random life: a method for each step. Steps that mean nothing where they come change nothing."""

    def __init__(self, store: str, duplicate: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.duplicate = duplicate
        self.world, self.service, self.plugin = machine(store, duplicate)
        self.faulty = FaultyStore(self.chance) if store == "memcached" else None
        lay_in(self.plugin, self.faulty)
        self.clients: list[Client] = []
        self.said: dict[bytes, list[bytes]] = {key: [] for key in QUEUES}

    async def live(self, steps: list[tuple[str, int]]) -> None:
        """Go through the steps, then look whether everything is where it should be."""
        for step, which in steps:
            if step == "reload":
                await self.reload()
            else:
                getattr(self, step)(QUEUES[which])
            if self.chance.random() < 0.5:
                await settle()
        if self.faulty is not None:
            self.faulty.failing = False
            await settle()
            self.sweep()
        await settle()
        failed = self.faulty is not None and any(step == "fail" for step, _ in steps)
        check(self.plugin, self.faulty, self.clients, self.said, self.duplicate, failed)
        for client in self.clients:
            client.leave()
        assert self.plugin.hub.lot.is_empty()
        assert self.world.counters.counts["poll_parked"] == 0
        await self.plugin.quiesce()
        self.plugin.close()

    def poll(self, key: bytes) -> None:
        client, hub = Client(), self.plugin.hub
        self.clients.append(client)
        # With `newest`, the earlier one has had its second.
        for earlier in hub.lot.waiting(key) if self.duplicate == "newest" else ():
            earlier.since -= 2 * QUARTER
        hub.admit(Exchange(client), LongPoll((key,), None), 1000.0, None)  # type: ignore[arg-type]
        if isinstance(hub.store, MemcachedStore):
            hub.store.courier._look()

    def say(self, key: bytes) -> None:
        message = b"%d\n" % (sum(map(len, self.said.values())) + 1)
        self.said[key].append(message)
        if self.faulty is not None:
            self.faulty.store(key, self.faulty.values.get(key, b"") + message)
            self.plugin.hub.store.wake(key)
        else:
            publish(self.plugin.hub, [(key, message)], lambda receipts, failed: None)

    def leave(self, _: bytes) -> None:
        if self.clients:
            self.chance.choice(self.clients).leave()

    def vanish(self, _: bytes) -> None:
        """The socket is dead, and nobody has said so yet."""
        if self.clients:
            self.chance.choice(self.clients).gone = True

    def break_unsent(self, _: bytes) -> None:
        if self.clients and self.duplicate != "all":
            self.clients[-1].break_unsent()

    def expire(self, _: bytes) -> None:
        self.world.clock.advance(30)  # type: ignore[attr-defined]
        self.plugin.hub.expire(self.world.clock.now())

    async def reload(self) -> None:
        former = self.plugin
        await former.quiesce()
        self.plugin = Poll(self.service, self.world)
        self.plugin.adopt(former.carry())
        lay_in(self.plugin, self.faulty)
        self.service.replace_chain([("poll", self.plugin)])
        former.close()

    def sweep(self, _: bytes = b"") -> None:
        if isinstance(self.plugin.hub.store, MemcachedStore):
            self.plugin.hub.store.courier.sweep()

    def fail(self, _: bytes) -> None:
        if self.faulty is not None:
            self.faulty.failing = True

    def mend(self, _: bytes) -> None:
        if self.faulty is not None:
            self.faulty.failing = False


async def settle() -> None:
    """Let the loop turn until nothing can still be on its way."""
    for _ in range(30):
        await asyncio.sleep(0)


def held_in_memory(plugin: Poll, key: bytes) -> bytes:
    assert isinstance(plugin.hub.store, MemoryStore)
    held = plugin.hub.store.content.get(key)
    return b"" if held is None else held.data


def check(
    plugin: Poll, faulty: FaultyStore | None, clients: list[Client], said: dict[bytes, list[bytes]], duplicate: str, failed: bool
) -> None:
    """Where the store left answers out (`failed`) nothing may be lost; else each is there exactly once and in order."""
    got = [line + b"\n" for client in clients for body in client.answers for line in body.split(b"\n") if line]
    held: list[bytes] = []
    for key in QUEUES:
        value = faulty.values.get(key, b"") if faulty is not None else held_in_memory(plugin, key)
        held += [line + b"\n" for line in value.split(b"\n") if line]
        kept = [message for message in said[key] if message in value.splitlines(keepends=True)]
        assert failed or kept == value.splitlines(keepends=True), "what is held is in order"
    everything = sorted(message for messages in said.values() for message in messages)
    if failed:
        assert sorted(set(got) | set(held)) == everything, "nothing is lost"
        return
    if duplicate == "all":  # fans out: at least once, and held only if nobody had it
        assert sorted(set(got) | set(held)) == everything
        assert not set(got) & set(held)
    else:
        assert sorted(got + held) == everything, "each message exactly once"
    for client in clients:
        for body in client.answers:
            numbers = [int(line) for line in body.split()]
            assert numbers == sorted(numbers)
    # Nobody waits while something is there for them.
    for key in plugin.hub.lot.queues():
        assert not (faulty.values.get(key) if faulty is not None else held_in_memory(plugin, key))


@pytest.mark.parametrize("duplicate", ["newest", "all"])
@pytest.mark.parametrize("store", ["memory", "memcached"])
@settings(max_examples=120)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_no_message_is_lost_or_doubled(store: str, duplicate: str, steps: list[tuple[str, int]], seed: int) -> None:
    async def life() -> None:
        await Life(store, duplicate, seed).live(steps)  # made where a loop runs: a plugin that opens sets timers

    asyncio.run(life())
