"""One memcached: a connection of our own, and what can be asked of a server through it.

Why not aiomcache, which `pbal.queue.aput` and the tests use: one call at a time on a connection, no way out of a call that
does not end but to break its connection by private members, and none of the meta commands, of which we need

    mg KEY s k q ... mn     which of these keys hold something: nothing comes back for those that do not
    mg KEY v c t            value, cas and seconds left
    md KEY C<cas>           delete exactly what was read. It needs no room, so a full server can be emptied.
    mg KEY s T<ttl>         renew the time of a key (append leaves it as it was), and hear its size

What stores is classic: append, prepend, add, cas. `ms` would save nothing, and in 1.6.18 it deletes the item that is
there when the new one finds no room ("avoid stale data"): a message too many would take its whole queue with it.

A connection. Commands go out in batches, many batches in flight; answers come in the order of the commands, so a batch knows
its own by their number, or by the line that ends them (MN, END). One future a batch, one timer a connection.

    CONNECTING -> GREETING      the socket is there: password, version, mn, stats settings
    GREETING   -> READY         all of it answered; batches that came meanwhile go out now
    any        -> CLOSED        lost, refused, or a batch is older than poll_store_timeout. Nothing is ever cancelled: every
                                batch in flight fails, and says whether it was sent (it may have been carried out).

A server is up, or down since some time and tried again, by one call, after a pause that doubles up to LONGEST_PAUSE. Any other
call to a server that is down fails at once. Whatever it says that is not an answer is counted, kept for `show store` and handed
to `report`, who logs it with a limit. A connection that ends while nothing is in flight (memcached's idle_timeout) is no fault.

Keys are taken as they are: names.key_for has judged each when its poll came.
"""

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, cast

from pbal.api import Endpoint, Histogram, spawn

from .store import StoreError, TooLarge

LONGEST_PAUSE = 5.0
FIRST_PAUSE = 0.1
TRIES = 20
"""Rounds on one key that others change at the same time before the call fails."""
GRACE = 0.02
"""Seconds between the end of a batch's time and the end of its connection: its answer may be in the socket, and the loop was late."""
LONGEST_LINE = 4096
LONGEST_BACKLOG = 64 << 20
"""Octets that wait to be written to a server. More are refused: it takes nothing in."""
OVERHEAD = 64
"""Octets of an item beside key and value, at most (59 in 1.6.18)."""


class Full(StoreError):
    """The server has no room and drops nothing (memcached -M). Nothing was stored."""


@dataclass(frozen=True, slots=True, order=True)
class SocketPath:
    """A server on a unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Place = Endpoint | SocketPath
"""Where a server listens."""


class Item(NamedTuple):
    """What a key holds. `left`: seconds, -1 for ever."""

    value: bytes
    cas: bytes
    left: int


class Facts(NamedTuple):
    """Of a key: which value it holds, and the seconds left."""

    cas: bytes
    left: int


class Fate(Enum):
    """What became of an item that was to be deleted or replaced."""

    DONE = "done"
    CHANGED = "changed"
    GONE = "gone"
    UNSURE = "unsure"
    REFUSED = "refused"
    """It has no room, or the item would be larger than it takes."""


_HELD = re.compile(rb"HD s(\d+) k(\S+)")
_ITEM = re.compile(rb"VA \d+ c(\d+) t(-?\d+)")
_FACTS = re.compile(rb"HD c(\d+) t(-?\d+) k(\S+)")
_SIZE = re.compile(rb"HD s(\d+)")
_SIZE_AND_CAS = re.compile(rb"HD s(\d+) c(\d+)")
"""Answers to the meta commands that pbal sends."""

_FATES = {
    b"HD": Fate.DONE, b"EX": Fate.CHANGED, b"NF": Fate.GONE,
    b"STORED": Fate.DONE, b"EXISTS": Fate.CHANGED, b"NOT_FOUND": Fate.GONE, b"NOT_STORED": Fate.CHANGED,
}  # fmt: skip


def is_error(line: bytes) -> bool:
    """Whether a line is one of memcached's three kinds of errors."""
    return line.startswith((b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR"))


def meaning(line: bytes, secret: bytes | None = None) -> str:
    """What an error means to the operator; the line itself where it says enough. `secret`: what we have told the server."""
    if line.startswith(b"CLIENT_ERROR unauthenticated") and secret is None:
        return "it wants a user and a password: see poll_store_auth"
    if line.startswith((b"CLIENT_ERROR unauthenticated", b"CLIENT_ERROR authentication failure")):
        return "it refuses the user and the password of poll_store_auth"
    if b"Too many open connections" in line:
        return "it has as many connections open as it may (memcached -c)"
    return repr(line[:100].decode("latin-1"))


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _store(key: bytes, value: bytes, cas: bytes | None, ttl: int) -> bytes:
    """The command that stores a value in place of what was read with its cas; with None where nothing is."""
    if cas is None:
        return b"add %b 0 %d %d\r\n%b\r\n" % (key, ttl, len(value), value)
    return b"cas %b 0 %d %d %b\r\n%b\r\n" % (key, ttl, len(value), cas, value)


def authentication(secret: bytes) -> bytes:
    """The first command on a connection to a server with ASCII authentication. `secret`: user, space, password."""
    return b"set auth 0 0 %d\r\n%b\r\n" % (len(secret), secret)


async def connect(place: Place, factory: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
    """A connection to a server. Raises: OSError."""
    loop = asyncio.get_running_loop()
    if isinstance(place, SocketPath):
        transport, _ = await loop.create_unix_connection(factory, place.path)
    else:
        transport, _ = await loop.create_connection(factory, place.host, place.port)
    return transport


class Batch:
    """Commands that go out in one write, and what came back: `lines`, and beside each the value it announced, or b""."""

    __slots__ = ("data", "deadline", "end", "error", "future", "left", "lines", "sent", "values")

    def __init__(self, data: bytes, answers: int, end: bytes, future: "asyncio.Future[None]") -> None:
        """`answers`: how many lines answer it; 0, which they never reach, where the line `end` follows the last one."""
        self.data = data
        self.left = answers
        self.end = end
        self.future = future
        self.lines: list[bytes] = []
        self.values: list[bytes] = []
        self.sent = False
        self.error: str | None = None
        self.deadline = 0.0

    def take(self, line: bytes, value: bytes) -> bool:
        """One answer; True if it was the last."""
        if self.end and line == self.end:
            return True
        self.lines.append(line)
        self.values.append(value)
        self.left -= 1
        return not self.left

    def over(self, error: str | None = None) -> None:
        """All answers are there, or `error`: no more will come."""
        self.error = error
        if not self.future.done():
            self.future.set_result(None)


class _State(Enum):
    CONNECTING = "connecting"
    GREETING = "greeting"
    READY = "ready"
    CLOSED = "closed"


class _Connection(asyncio.Protocol):
    """See the head of this file. Its server hears of its greeting and of its end."""

    def __init__(self, server: "Server", secret: bytes | None) -> None:
        self._server = server
        self._secret = secret
        self._state = _State.CONNECTING
        self._transport: asyncio.Transport | None = None
        self._flying: deque[Batch] = deque()
        self._waiting: list[Batch] = []
        self._waiting_octets = 0
        self._parts: list[bytes] = []
        self._have = self._need = 0
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self._greeting: list[bytes] = []
        self.heard = False

    # -- out -----------------------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Octets that the socket has not taken."""
        return self._waiting_octets + (0 if self._transport is None else self._transport.get_write_buffer_size())

    def send(self, batch: Batch) -> None:
        """Send a batch, now or after the greeting."""
        if self._state is _State.READY:
            self._write(batch)
        else:
            self._waiting.append(batch)
            self._waiting_octets += len(batch.data)

    def _write(self, batch: Batch) -> None:
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        batch.deadline = loop.time() + self._server.patience
        batch.sent = True
        self._flying.append(batch)
        self._transport.write(batch.data)
        batch.data = b""
        if self._timer is None:
            self._timer = loop.call_at(batch.deadline, self._look_at_time)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._state is _State.CLOSED:
            self._transport.abort()
            return
        self._state = _State.GREETING
        first = b"" if self._secret is None else authentication(self._secret)
        future = asyncio.get_running_loop().create_future()  # nobody waits for it: greeted() is told line by line
        self._write(Batch(first + b"version\r\nmn\r\nstats settings\r\n", 0, b"END", future))

    def _look_at_time(self) -> None:
        """The oldest batch's time is over, or was when this timer was set."""
        self._timer = None
        if not self._flying:
            return
        loop = asyncio.get_running_loop()
        deadline = self._flying[0].deadline
        if deadline > loop.time():
            self._late = False
            self._timer = loop.call_at(deadline, self._look_at_time)
        elif not self._late:
            self._late = True
            self._timer = loop.call_later(GRACE, self._look_at_time)
        else:
            self.close(f"no answer in {self._server.patience:g} s")

    # -- in ------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        place = self._parse(data)
        if place < len(data) and self._state is not _State.CLOSED:
            self._parts.append(data[place:])
            self._have = len(data) - place

    def _parse(self, data: bytes) -> int:
        """Give whole answers to their batches; where the first unfinished one begins."""
        place, self._need = 0, 0
        flying = self._flying
        while self._state is not _State.CLOSED:
            end = data.find(b"\r\n", place)
            if end < 0:
                if len(data) - place > LONGEST_LINE:
                    self.close("it sends a line without an end")
                break
            line, value, after = data[place:end], b"", end + 2
            if line.startswith(b"VA "):
                size = line[3:].partition(b" ")[0]
                if not size.isdigit() or len(size) > 10:
                    self.close(f"it answers {line[:100]!r}")
                    break
                begin, after = after, after + int(size) + 2
                if len(data) < after:
                    self._need = after - place
                    break
                value = data[begin : after - 2]
            place = after
            if self._state is _State.GREETING or not flying or line.startswith((b"CLIENT_ERROR", b"ERROR")):
                self._unusual(line)
            elif flying[0].take(line, value):
                flying.popleft().over()
                if not self._server.up:
                    self._server.answered()
        return place

    def _unusual(self, line: bytes) -> None:
        if not self._flying:
            self.close(f"it answers what nobody asked: {line[:100]!r}")
        elif self._state is _State.GREETING:
            self._greet(line)
        else:  # what follows may belong to anything
            self.close(meaning(line))

    def _greet(self, line: bytes) -> None:
        """A line of the greeting's answer: [STORED] VERSION, MN, settings, END. Who does not tell version or settings need not."""
        step = len(self._greeting) + (self._secret is None)
        if step == 1 and not is_error(line) and not line.startswith(b"VERSION "):
            self.close(f"it answers {meaning(line)} to `version`: it is no memcached")
        elif step == 2 and line == b"ERROR":
            self.close(f"it does not know meta commands, memcached has them since 1.6 (its answer to version: {self._greeting[-1]!r})")
        elif step > 2 and (line == b"END" or line.startswith((b"ERROR", b"SERVER_ERROR"))):
            self._begin()
        elif is_error(line) and (step != 1 or line != b"ERROR"):
            self.close(meaning(line, self._secret))
        else:
            self._greeting.append(line)

    def _begin(self) -> None:
        """The greeting is over: send what waits."""
        self._flying.popleft()
        self._state = _State.READY
        limit = next((row.split(b" ")[2] for row in self._greeting if row.startswith(b"STAT item_size_max ")), b"")
        self._greeting.clear()
        self._server.greeted(int(limit) if limit.isdigit() else 0)
        waiting, self._waiting, self._waiting_octets = self._waiting, [], 0
        for batch in waiting:
            self._write(batch)

    # -- the end -------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            reason = _why(exc)
        elif self._state is _State.GREETING and not self.heard:
            reason = "it closed the connection without a word (does it speak the binary protocol only, -B binary?)"
        else:
            reason = "it closed the connection"
        self.close(reason)

    def close(self, reason: str, odd: bool = False) -> None:
        """End it: everything in flight and everything that waits fails. `odd`: a fault, though nothing is in flight."""
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        batches = [*self._flying, *self._waiting]
        self._flying.clear()
        self._waiting.clear()
        self._parts.clear()
        self._server.lost(self, reason, idle=not batches and not odd)
        for batch in batches:
            batch.over(reason)


class Server:
    """One memcached. Times in seconds, sizes in octets; ttl is at most 30 days. All calls raise StoreError."""

    def __init__(
        self, place: Place, now: Callable[[], float], timeout: Callable[[], float], report: Callable[[str, str, bool], None],
        secret: bytes | None = None,
    ) -> None:  # fmt: skip
        """`report(kind, text, failed)`: a line for the log, and whether a call failed. `secret`: see authentication()."""
        self.endpoint = place
        self.name = str(place)
        self.up = True
        self.since = now()
        self.full = False
        """Its last answer to a store was that it has no room."""
        self.errors = 0
        self.last_error = ""
        self.round_trips = Histogram()
        """From a call to the last of its answers, of calls that were answered."""
        self.item_limit = 0
        """Its item_size_max; 0 until it has said so."""
        self.on_greeted: Callable[[], None] = lambda: None
        self._now = now
        self._timeout = timeout
        self._report = report
        self._secret = secret
        self._pause = FIRST_PAUSE
        self._try_at = 0.0
        self._connection: _Connection | None = None

    # -- up and down ---------------------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds that a call may take."""
        return self._timeout()

    @property
    def may_be_tried(self) -> bool:
        """Whether a call is worth making now. To a server that is down, one call at a time finds out."""
        return self.up or (self._connection is None and self._now() >= self._try_at)

    @property
    def state(self) -> str:
        """up, down, or full: it answers, and stores nothing."""
        return ("full" if self.full else "up") if self.up else "down"

    def authenticate(self, secret: bytes | None) -> None:
        """Another secret: for the next connection, which is tried at once if the server is down."""
        if secret != self._secret:
            self._secret = secret
            self._try_at, self._pause = 0.0, FIRST_PAUSE

    def greeted(self, item_limit: int) -> None:
        """A connection is ready."""
        self.item_limit = item_limit
        self.on_greeted()

    def answered(self) -> None:
        """It was down, and has answered a call."""
        self.up, self.since, self._pause = True, self._now(), FIRST_PAUSE
        self._report(f"memcached {self.name} back", f"memcached {self.name} is back", False)

    def lost(self, connection: _Connection, reason: str, idle: bool) -> None:
        """A connection ended."""
        if self._connection is not connection:
            return
        self._connection = None
        if idle:
            return
        self._pause = FIRST_PAUSE if self.up else min(self._pause * 2, LONGEST_PAUSE)
        self._try_at = self._now() + self._pause
        if self.up:
            self.up, self.since = False, self._now()
        self._failed("gone", f"memcached {self.name} is gone: {reason}", reason)

    def _failed(self, kind: str, text: str, reason: str) -> None:
        self.errors += 1
        self.last_error = reason
        self._report(f"memcached {self.name} {kind}", text, True)

    def close(self) -> None:
        """Close its connection; calls in flight fail."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close("closed by pbal")

    async def _open(self, connection: _Connection) -> None:
        try:
            async with asyncio.timeout(self.patience):
                await connect(self.endpoint, lambda: connection)
        except TimeoutError:
            connection.close(f"no connection in {self.patience:g} s")
        except OSError as error:
            connection.close(_why(error))

    # -- calls ---------------------------------------------------------------------------------------------------

    async def _run(self, data: bytes, answers: int, end: bytes = b"") -> Batch:
        """Send a batch and wait for its answers, or for its failure, which is in it. Raises: StoreError if it cannot be tried."""
        if not self.may_be_tried:
            raise StoreError(f"memcached {self.name} is down: {self.last_error}")
        connection = self._connection
        if connection is None:
            connection = self._connection = _Connection(self, self._secret)
            spawn(self, self._open(connection), f"memcached {self.name}")
        elif connection.backlog > LONGEST_BACKLOG:
            self._failed("backlog", f"memcached {self.name} takes nothing in: calls are refused", "it takes nothing in")
            raise StoreError(f"memcached {self.name} takes nothing in")
        batch = Batch(data, answers, end, asyncio.get_running_loop().create_future())
        began = self._now()
        connection.send(batch)
        await batch.future
        if batch.error is None:
            self.round_trips.add(self._now() - began)
        return batch

    async def _call(self, data: bytes, answers: int, end: bytes = b"") -> Batch:
        """As _run. Raises: StoreError also if it failed, or the server refused any of it."""
        batch = await self._run(data, answers, end)
        if batch.error is not None:
            raise StoreError(f"memcached {self.name}: {batch.error}", batch.sent)
        for line in batch.lines:
            if line.startswith(b"SERVER_ERROR"):
                raise self._refused(line)
        return batch

    def _refused(self, line: bytes) -> StoreError:
        """It lives, and says no."""
        text = line[:100].decode("latin-1").encode("unicode_escape").decode()
        self._failed(text[:40], f"memcached {self.name} answers {text}", text)
        if b"out of memory storing" in line:
            self.full = True
            return Full(f"memcached {self.name} is full and stores nothing ({text})")
        if b"too large" in line:
            return TooLarge(f"memcached {self.name}: the message is larger than it takes ({text})")
        return StoreError(f"memcached {self.name}: {text}")

    def _understood(self, line: bytes, answer: re.Pattern[bytes]) -> tuple[bytes, ...]:
        """What a line says. Raises: StoreError for one that is no answer to that: nothing more on this connection can be trusted then."""
        found = answer.fullmatch(line)
        if found is not None:
            return found.groups()
        said = meaning(line)
        if self._connection is not None:
            self._connection.close(f"it answers {said}, which is no answer to what it was asked", odd=True)
        raise StoreError(f"memcached {self.name} answers {said}")

    def longest(self, key: bytes) -> float:
        """The longest value that the server takes for a key, as far as it has said so."""
        return self.item_limit - OVERHEAD - len(key) if self.item_limit else math.inf

    async def held(self, keys: Sequence[bytes]) -> list[bytes]:
        """Which of `keys` hold something."""
        batch = await self._call(b"mg %b s k q\r\nmn\r\n" % b" s k q\r\nmg ".join(keys), 0, b"MN")
        found = [self._understood(line, _HELD) for line in batch.lines]
        return [key for size, key in found if size != b"0"]

    async def read(self, keys: Sequence[bytes]) -> dict[bytes, Item]:
        """What keys hold; those that do not exist are left out."""
        batch = await self._call(b"mg %b v c t\r\n" % b" v c t\r\nmg ".join(keys), len(keys))
        items: dict[bytes, Item] = {}
        for key, line, value in zip(keys, batch.lines, batch.values, strict=True):
            if line != b"EN":
                cas, left = self._understood(line, _ITEM)
                items[key] = Item(value, cas, int(left))
        return items

    async def facts(self, keys: Sequence[bytes]) -> dict[bytes, Facts]:
        """Of those keys that exist. Nothing comes back for the others."""
        batch = await self._call(b"mg %b c t k q\r\nmn\r\n" % b" c t k q\r\nmg ".join(keys), 0, b"MN")
        found: dict[bytes, Facts] = {}
        for line in batch.lines:
            cas, left, key = self._understood(line, _FACTS)
            found[key] = Facts(cas, int(left))
        return found

    async def store_many(self, values: Sequence[tuple[bytes, bytes, bytes | None]], ttl: int) -> list[Fate]:
        """Store (key, value, cas) in place of what was read with its cas; with None where nothing is. In their order.

        CHANGED: somebody else stored there. Raises: StoreError if nothing was sent.
        """
        commands = [_store(key, value, cas, ttl) for key, value, cas in values]
        batch = await self._run(b"".join(commands), len(values))
        if not batch.sent:
            raise StoreError(f"memcached {self.name}: {batch.error}")
        fates = [_FATES.get(line) or self._unstored(line) for line in batch.lines]
        if Fate.DONE in fates:
            self.full = False
        return fates + [Fate.UNSURE] * (len(values) - len(fates))

    def _unstored(self, line: bytes) -> Fate:
        return Fate.REFUSED if isinstance(self._refused(line), Full | TooLarge) else Fate.UNSURE

    async def touch_many(self, keys: Sequence[bytes], ttl: int) -> None:
        """Let keys live for `ttl` from now on; what is not there is passed over."""
        await self._call(b"".join([b"mg %b T%d q\r\n" % (key, ttl) for key in keys]) + b"mn\r\n", 0, b"MN")

    async def delete_many(self, tokens: Sequence[tuple[bytes, bytes]]) -> list[Fate]:
        """Delete what was read, in the order of `tokens` (key, cas). Where the answer did not come: Fate.UNSURE.

        Raises: StoreError if nothing was sent.
        """
        batch = await self._run(b"".join([b"md %b C%b\r\n" % token for token in tokens]), len(tokens))
        if not batch.sent:
            raise StoreError(f"memcached {self.name}: {batch.error}")
        fates = [_FATES.get(line) or self._unsure(line) for line in batch.lines]
        return fates + [Fate.UNSURE] * (len(tokens) - len(fates))

    def _unsure(self, line: bytes) -> Fate:
        self._refused(line)
        return Fate.UNSURE

    async def append(self, key: bytes, data: bytes, ttl: int, begin: bool = False) -> int | None:
        """Add octets behind a queue, which lives for `ttl` from now on, by the writer's contract (see pbal.queue).

        The size of the queue then, or None if both together are more than the server takes: nothing was stored.
        `begin`: the queue is probably not there, so try to begin it first.
        """
        return await self._join(b"append", key, data, ttl, begin)

    async def prepend(self, key: bytes, data: bytes, ttl: int, begin: bool = False) -> int | None:
        """Add octets in front of a queue. As append."""
        return await self._join(b"prepend", key, data, ttl, begin)

    async def _join(self, verb: bytes, key: bytes, data: bytes, ttl: int, begin: bool) -> int | None:
        if len(data) > self.longest(key) + OVERHEAD:  # in doubt the server says it, and leaves the queue as it is
            self._failed("too large", f"memcached {self.name}: a message of {len(data)} bytes, it takes {self.item_limit}", "too large")
            raise TooLarge(f"memcached {self.name} takes {self.item_limit} bytes, the message has {len(data)}")
        former = b""
        for attempt in range(TRIES):
            if attempt or not begin:
                size = await self._grow(verb, key, data, ttl)
                if size is not None:
                    return size
            if await self.add(key, data, ttl):
                return len(data)
            if not attempt and begin:
                continue
            size, cas = await self._size(key)
            if cas and cas == former:  # nobody else was there, and it does not grow
                if size + len(data) <= self.longest(key) < math.inf:
                    raise self._refused(b"SERVER_ERROR out of memory storing object (a queue cannot grow)")
                return None  # too large, as far as the server has said what it takes
            former = cas
        raise StoreError(f"memcached {self.name} stores neither by {verb.decode()} nor by add")

    async def _grow(self, verb: bytes, key: bytes, data: bytes, ttl: int) -> int | None:
        command = b"%b %b 0 0 %d\r\n%b\r\nmg %b s T%d\r\n" % (verb, key, len(data), data, key, ttl)
        stored, renewed = (await self._call(command, 2)).lines
        if stored != b"STORED":
            return None
        self.full = False
        return int(self._understood(renewed, _SIZE)[0]) if renewed != b"EN" else len(data)

    async def _size(self, key: bytes) -> tuple[int, bytes]:
        """Size and cas of what a key holds; 0 and b"" where there is nothing."""
        (line,) = (await self._call(b"mg %b s c\r\n" % key, 1)).lines
        if line == b"EN":
            return 0, b""
        size, cas = self._understood(line, _SIZE_AND_CAS)
        return int(size), cas

    async def add(self, key: bytes, value: bytes, ttl: int) -> bool:
        """Store a value where there is none; whether it was."""
        (line,) = (await self._call(_store(key, value, None, ttl), 1)).lines
        if line == b"STORED":
            self.full = False
        return line == b"STORED"

    async def replace(self, key: bytes, value: bytes, cas: bytes, ttl: int) -> Fate:
        """Store a value in place of what was read with `cas`: DONE, CHANGED or GONE."""
        (line,) = (await self._call(_store(key, value, cas, ttl), 1)).lines
        fate = _FATES.get(line)
        if fate is None:
            raise self._refused(line)
        if fate is Fate.DONE:
            self.full = False
        return fate

    async def touch(self, key: bytes, ttl: int) -> bool:
        """Let a key live for `ttl` from now on; False if it is not there."""
        (line,) = (await self._call(b"mg %b T%d\r\n" % (key, ttl), 1)).lines
        return line != b"EN"
