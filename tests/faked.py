"""A memcached of a dict, behind the calls of the real memcached.Server: what only a hostile schedule shows, in no time.

Real: everything of Server that writes commands and reads answers. Made up: the connection (`Server._run`), the clock, and the items with
cas, whole seconds of life and the commands that pbal sends. The commands of one connection are carried out in their order, and
answered in it; between any two of them another connection may come. A call gives way at random places. While `failing`, a call is not
sent, or its connection breaks after some of its commands: whether they were carried out, nobody says.
"""

import asyncio
import random
from collections.abc import Callable

from pbal.model.clock import Clock
from pbal.plugins.poll.memcached import Batch, Server
from pbal.plugins.poll.store import StoreError


class Stored:
    """An item. `ends`: the second in which it is there no more."""

    __slots__ = ("cas", "ends", "value")

    def __init__(self, value: bytes, cas: int, ends: int) -> None:
        self.value, self.cas, self.ends = value, cas, ends


class FakedMemcached:
    """One server, for any number of connections."""

    def __init__(self, clock: Clock, chance: random.Random, stored: Callable[[bytes, bytes], None]) -> None:
        """`stored(key, octets)`: an append, or an add of octets that do not begin with NUL, was carried out."""
        self.failing = False
        self.started = 0
        """How often it was started."""
        self._clock = clock
        self._chance = chance
        self._stored = stored
        self._items: dict[bytes, Stored] = {}
        self._cas = 0

    def connect(self, server: Server) -> None:
        """Take the place of a server's connection."""
        server._run = _Line(self, server).run  # type: ignore[method-assign]

    # -- items ---------------------------------------------------------------------------------------------------

    def item(self, key: bytes) -> Stored | None:
        """What is there."""
        item = self._items.get(key)
        if item is not None and item.ends <= int(self._clock.epoch()):
            del self._items[key]
            return None
        return item

    def value(self, key: bytes) -> bytes:
        """What a key holds."""
        item = self.item(key)
        return b"" if item is None else item.value

    def evict(self, key: bytes) -> None:
        """It needed the room."""
        self._items.pop(key, None)

    def restart(self) -> None:
        """It is empty, and counts from the beginning."""
        self._items.clear()
        self._cas = 0
        self.started += 1

    def _put(self, key: bytes, value: bytes, ttl: int) -> bytes:
        self._cas += 1
        self._items[key] = Stored(value, self._cas, int(self._clock.epoch()) + ttl)
        return b"STORED"

    def put(self, key: bytes, message: bytes, ttl: int) -> None:
        """What a writer does: pbal.queue.put."""
        if self.carry_out([b"append", key, b"0", b"0", b""], message)[0] == b"STORED":
            self.carry_out([b"mg", key, b"T%d" % ttl], b"")
        else:
            self.carry_out([b"add", key, b"0", b"%d" % ttl, b""], message)

    def carry_out(self, words: list[bytes], data: bytes) -> tuple[bytes, bytes]:
        """One command: its line, and the value that follows it."""
        verb, key = words[0], words[1] if len(words) > 1 else b""
        item = self.item(key)
        if verb == b"mn":
            return b"MN", b""
        if verb == b"mg":
            return self._get(key, item, words[2:])
        if verb == b"md":
            if item is None or b"C%d" % item.cas != words[2]:
                return b"NF" if item is None else b"EX", b""
            del self._items[key]
            return b"HD", b""
        return self._store(verb, key, item, words, data), b""

    def _get(self, key: bytes, item: Stored | None, flags: list[bytes]) -> tuple[bytes, bytes]:
        if item is None:
            return b"" if b"q" in flags else b"EN", b""
        second = int(self._clock.epoch())
        for flag in flags:
            if flag[:1] == b"T":
                item.ends = second + int(flag[1:])
        if b"q" in flags and flags[0][:1] == b"T":
            return b"", b""
        told = {b"s": b"s%d" % len(item.value), b"k": b"k" + key, b"c": b"c%d" % item.cas, b"t": b"t%d" % (item.ends - second)}
        words = [told[flag] for flag in flags if flag in told]
        if b"v" in flags:
            return b" ".join([b"VA %d" % len(item.value), *words]), item.value
        return b" ".join([b"HD", *words]), b""

    def _store(self, verb: bytes, key: bytes, item: Stored | None, words: list[bytes], data: bytes) -> bytes:
        if verb == b"cas":
            if item is None or item.cas != int(words[5]):
                return b"NOT_FOUND" if item is None else b"EXISTS"
            return self._put(key, data, int(words[3]))
        if (item is None) != (verb == b"add"):
            return b"NOT_STORED"
        if item is None:
            self._put(key, data, int(words[3]))
        else:
            self._put(key, item.value + data if verb == b"append" else data + item.value, item.ends - int(self._clock.epoch()))
        if verb != b"prepend" and data[:1] != b"\0":
            self._stored(key, data)
        return b"STORED"

    # -- accidents -----------------------------------------------------------------------------------------------

    async def turns(self, slowness: int) -> None:
        """Others come first, perhaps."""
        for _ in range(self._chance.choice((0, 0, 1, 2, 5)) * slowness):
            await asyncio.sleep(0)

    def breaks(self, commands: int) -> int | None:
        """After how many of a call's commands its connection breaks: -1 before it is sent, None if it does not."""
        return self._chance.randrange(-1, commands + 1) if self.failing and self._chance.random() < 0.7 else None


class _Line:
    """A connection: a queue of calls."""

    def __init__(self, cache: FakedMemcached, server: Server) -> None:
        self._cache = cache
        self._server = server
        self._start = cache.started
        self._slowness = cache._chance.choice((1, 1, 6))
        self._carried_out: asyncio.Future[None] | None = None
        self._answered: asyncio.Future[None] | None = None

    async def run(self, data: bytes, answers: int, end: bytes = b"") -> Batch:
        """See Server._run."""
        cache = self._cache
        started = cache.started
        if self._start != started:  # a new connection
            self._start = started
            self._server.greeted(0)
        loop = asyncio.get_running_loop()
        batch = Batch(data, answers, end, loop.create_future())
        carried_out, answered = loop.create_future(), loop.create_future()
        others_done, self._carried_out = self._carried_out, carried_out
        others_answered, self._answered = self._answered, answered
        commands = _commands(data)
        left = cache.breaks(len(commands))
        try:
            await cache.turns(self._slowness)
            if others_done is not None:
                await others_done
            if left == -1:
                raise StoreError("made up: not sent")
            batch.sent = True
            await self._carry_out(batch, commands if left is None else commands[:left], started)
            carried_out.set_result(None)
            await cache.turns(self._slowness)
            if others_answered is not None:
                await others_answered
        finally:
            for future in (carried_out, answered):
                if not future.done():
                    future.set_result(None)
        if left is not None or cache.started != started:
            batch.error = "made up: the connection broke"
            heard = cache._chance.randrange(len(batch.lines) + 1)
            del batch.lines[heard:], batch.values[heard:]
            self._server.greeted(0)
        return batch

    async def _carry_out(self, batch: Batch, commands: list[tuple[list[bytes], bytes]], started: int) -> None:
        """One after another, as long as the server runs; others may come between."""
        for words, value in commands:
            if self._cache.started != started:
                return
            line, told = self._cache.carry_out(words, value)
            if line:
                batch.take(line, told)
            if self._cache._chance.random() < 0.2:
                await asyncio.sleep(0)


def _commands(data: bytes) -> list[tuple[list[bytes], bytes]]:
    """The commands of a batch, each with the octets that follow it."""
    commands: list[tuple[list[bytes], bytes]] = []
    while data:
        line, _, data = data.partition(b"\r\n")
        words = line.split(b" ")
        value = b""
        if words[0] in (b"append", b"prepend", b"add", b"cas"):
            size = int(words[4])
            value, data = data[:size], data[size + 2 :]
        commands.append((words, value))
    return commands
