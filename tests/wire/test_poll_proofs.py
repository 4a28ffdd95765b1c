"""What readers are promised, on whole servers: windows, rooms, several pbals, a store that dies, reloads in the middle.

A reader here is a client as one would write it: it keeps the position it was told last, comes back with it, and notes every gap.
"""

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest
from authority import Authority
from lab import Lab, Pbal, lab, read_response, until
from polls import conf, empty, get
from secure import files, trusting
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

TRANSPORTS = ["poll", "sse", "websocket"]


Tls = ssl.SSLContext | None


def kept(keep: str, *more: str) -> str:
    return conf(f"SET poll_keep = {keep}", "SET poll_format = json", "SET poll_interval = 100ms", *more)


class Window:
    """A reader that goes on for ever. What it got, in order; and where it was told of a gap."""

    def __init__(self, pbals: Sequence[Pbal], queue: str, transport: str, seed: int = 0, tls: Tls = None) -> None:
        self._pbals = pbals
        self._queue = queue
        self._transport = transport
        self._chance = random.Random(seed)
        self._tls = tls
        self.got: list[str] = []
        self.gaps: list[int] = []
        """How many messages it had when it was told of a gap."""
        self.position = ""
        self.cuts = 0
        """How often it has been cut."""
        self.longest = 0.0
        """Seconds after which a stream is cut, at most; 0 for never."""
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    def __repr__(self) -> str:
        return f"{self._transport} {self._task!r} cut {self.cuts} times, gaps at {self.gaps}"

    def start(self) -> "Window":
        """Read from now on."""
        self._task = asyncio.create_task(self._read())
        return self

    async def stop(self) -> None:
        """Read no more. Raises what went wrong."""
        assert self._task is not None
        self._task.cancel()
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
        if not isinstance(outcome, asyncio.CancelledError):
            raise AssertionError(f"the window ended: {outcome!r}")

    async def _read(self) -> None:
        while True:
            pbal = self._chance.choice(self._pbals)
            try:
                if self.longest:
                    async with asyncio.timeout(self._chance.uniform(0.01, self.longest)):
                        await getattr(self, "_" + self._transport)(pbal)
                else:
                    await getattr(self, "_" + self._transport)(pbal)
            except TimeoutError:
                self.cuts += 1
            except (ConnectionError, EOFError, ConnectionClosed, InvalidHandshake):
                self.cuts += 1
                await asyncio.sleep(0.01)
            finally:
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None

    async def _connect(self, pbal: Pbal, *fields: str) -> asyncio.StreamReader:
        reader, self._writer = await connected(pbal, self._tls)
        position = f"?position={self.position}" if self.position and self._transport == "poll" else ""
        self._writer.write(get(f"/poll/{self._queue}{position}", *fields))
        return reader

    def _told(self, answer: dict[str, Any]) -> None:
        if self._queue in answer.get("gap", []):
            self.gaps.append(len(self.got))
        self.got += answer.get("queues", {}).get(self._queue, [])
        self.position = answer.get("position", self.position)

    async def _poll(self, pbal: Pbal) -> None:
        reader = await self._connect(pbal)
        answer = await read_response(reader)
        assert answer.status == 200, answer.head
        self._told(json.loads(answer.body))

    async def _sse(self, pbal: Pbal) -> None:
        reader = await self._connect(pbal, "Accept: text/event-stream", *([f"Last-Event-ID: {self.position}"] if self.position else []))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        async for event in events(reader):
            fields = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
            if fields.get("event") == "gap":
                self.gaps.append(len(self.got))
            elif "data" in fields:
                assert "event" not in fields, fields
                self.got.append(fields["data"])
            self.position = fields.get("id", self.position)

    async def _websocket(self, pbal: Pbal) -> None:
        host, port = pbal.server.address("chat")[:2]
        position = f"?position={self.position}" if self.position else ""
        secure: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls, "server_hostname": "a.test"}
        url = f"{'wss' if secure else 'ws'}://{host}:{port}/poll/{self._queue}{position}"
        async with connect(url, compression=None, proxy=None, close_timeout=0.1, **secure) as socket:
            async for message in socket:
                self._told(json.loads(message))


async def connected(pbal: Pbal, tls: Tls) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the chat."""
    host, port = pbal.server.address("chat")[:2]
    return await asyncio.open_connection(host, port, ssl=tls, server_hostname=None if tls is None else "a.test")


async def events(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """The events of a stream, each whole."""
    text = b""
    while True:
        size = int(await reader.readline(), 16)
        if not size:
            return
        text += (await reader.readexactly(size + 2))[:-2]
        *whole, text = text.split(b"\n\n")
        for event in whole:
            yield event.decode()


class Writer:
    """Publishes numbers over HTTP, on a connection that it keeps, and each again until a pbal has taken it."""

    def __init__(self, pbal: Pbal, queue: str, tls: Tls = None) -> None:
        self._pbal = pbal
        self._tls = tls
        self._queue = queue
        self.said: list[str] = []

    async def say(self, texts: Sequence[str], pause: float = 0.0) -> None:
        """One after another."""
        reader, writer = await connected(self._pbal, self._tls)
        for text in texts:
            while True:
                writer.write(get(f"/publish/{self._queue}", method="POST", body=text.encode()))
                status = (await read_response(reader)).status
                if status == 202:
                    break
                assert status == 503
                await asyncio.sleep(0.02)
            self.said.append(text)
            if pause:
                await asyncio.sleep(pause)
        writer.close()


async def all_read(windows: Sequence[Window], number: int) -> None:
    """Until each has so many messages; then they stop."""
    try:
        await until(lambda: all(len(window.got) >= number for window in windows), "all to be read", 20)
    except AssertionError:
        raise AssertionError(f"{[len(window.got) for window in windows]} of {number}") from None
    for window in windows:
        await window.stop()


async def all_end(windows: Sequence[Window], text: str) -> None:
    """Until each has this message; then they stop."""
    try:
        await until(lambda: all(window.got[-1:] == [text] for window in windows), "the end")
    except AssertionError:
        late = [f"{window} is at {window.got[-1:]}" for window in windows if window.got[-1:] != [text]]
        raise AssertionError(f"not at {text}: {late}") from None
    for window in windows:
        await window.stop()


def in_order(got: list[str], writers: Sequence[Writer]) -> None:
    """Each message of each writer once, and those of one writer in their order."""
    assert sorted(got) == sorted(text for writer in writers for text in writer.said)
    for writer in writers:
        mine = set(writer.said)
        assert [text for text in got if text in mine] == writer.said


def numbers(name: str, number: int) -> list[str]:
    return [f"{name}{count}" for count in range(number)]


async def store_of(lab: Lab, store: str) -> str:
    """The statement that chooses a store."""
    return "" if store == "memory" else f"SET poll_store = memcached {(await lab.memcached()).address}"


def of_each_kind(pbals: Sequence[Pbal], queue: str = "", tls: Tls = None) -> list[Window]:
    """A window of each transport, all in one queue, or each in its own, which is called as the transport."""
    return [Window(pbals, queue or transport, transport, seed, tls) for seed, transport in enumerate(TRANSPORTS)]


def told_or_got(window: Window, said: list[str]) -> None:
    """In order, none twice; and where some are left out, a gap was said there."""
    places = [said.index(text) for text in window.got]
    assert places == sorted(set(places)), "in order, none twice"
    for count, (before, after) in enumerate(zip([-1, *places], places, strict=False)):
        assert after == before + 1 or count in window.gaps, f"nothing said between {before} and {after}"


@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_two_windows_of_one_user_and_two_users_in_a_room(store: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(kept("ttl", await store_of(lab, store)))
        windows = [*of_each_kind([pbal], "anna"), *of_each_kind([pbal], "anna")]
        users = [*of_each_kind([pbal], "room"), *of_each_kind([pbal], "room")]
        for window in [*windows, *users]:
            window.longest = 0.2
            window.start()
        anna, one, other = Writer(pbal, "anna"), Writer(pbal, "room"), Writer(pbal, "room")
        await asyncio.gather(anna.say(numbers("a", 200), 0.002), one.say(numbers("x", 100), 0.004), other.say(numbers("y", 100), 0.004))
        await all_read([*windows, *users], 200)
        assert all((window.got, window.gaps) == (anna.said, []) for window in windows)
        in_order(users[0].got, [one, other])
        assert all(user.got == users[0].got and not user.gaps for user in users), "the same order for everybody"
        await until(lambda: empty(pbal), "all to be gone")

    run()


@lab
async def test_three_pbals_a_thousand_messages_each_way_and_none_missed_by_any(lab: Lab) -> None:
    store = await store_of(lab, "memcached")
    pbals = [await lab.pbal(kept("ttl", store)) for _ in range(3)]
    here = [Window([pbal], "room", transport).start() for pbal, transport in zip(pbals, TRANSPORTS, strict=True)]
    roaming = of_each_kind(pbals, "room")
    for window in roaming:
        window.longest = 0.3
        window.start()
    writers = [Writer(pbal, "room") for pbal in pbals]
    await asyncio.gather(*(writer.say(numbers(name, 1000)) for writer, name in zip(writers, "xyz", strict=True)))
    await all_read([*here, *roaming], 3000)
    in_order(here[0].got, writers)
    assert all(window.got == here[0].got and not window.gaps for window in [*here, *roaming])
    assert sum(window.cuts for window in roaming) > 5


@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_a_window_that_sleeps_misses_none(store: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(kept("ttl", await store_of(lab, store), "SET poll_ttl = 5s", "SET poll_timeout = 1s"))
        windows = of_each_kind([pbal], "a")
        writer = Writer(pbal, "a")
        await writer.say(["before"])
        for window in windows:
            window.start()
        await until(lambda: all(window.got == ["before"] for window in windows), "them to be awake")
        for window in windows:
            await window.stop()
        asleep = asyncio.create_task(asyncio.sleep(3))
        await writer.say(numbers("n", 50), 0.02)
        await asleep
        for window in windows:
            window.start()
        await all_read(windows, 51)
        assert all((window.got, window.gaps) == (writer.said, []) for window in windows)

    run()


def _more_failed(pbal: Pbal, than: int) -> bool:
    return pbal.counts["poll_publish_failed"] > than


@lab
async def test_memcached_killed_and_started_again_in_the_middle(lab: Lab) -> None:
    cache = await lab.memcached()
    store = f"SET poll_store = memcached {cache.address}"
    pbals = [await lab.pbal(kept("ttl", store, "SET poll_store_timeout = 200ms")) for _ in range(2)]
    here = [*of_each_kind(pbals[:1], "a"), *of_each_kind(pbals[1:], "a")]
    roaming = of_each_kind(pbals, "a")
    windows = [*here, *roaming]
    for window in windows:
        window.longest = 0.2 if window in roaming else 0.0
        window.start()
    writer = Writer(pbals[0], "a")
    for turn in range(2):
        await writer.say(numbers(f"{turn}-", 40), 0.002)
        await until(lambda: all(window.got[-1:] == writer.said[-1:] for window in windows), "all to be there")
        cache.kill()
        late = asyncio.create_task(writer.say([f"{turn}-late"]))
        failed = pbals[0].counts["poll_publish_failed"]
        await until(partial(_more_failed, pbals[0], failed), "it to be missed")
        cache.start()
        await late
    await writer.say(["end"])
    await all_end(windows, "end")
    for window in windows:
        told_or_got(window, writer.said)
        assert len(window.gaps) >= 2, "each start anew is told"


@pytest.mark.parametrize("keep", ["ttl", "confirmed"])
@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_reloads_in_the_middle(store: str, keep: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(kept(keep, await store_of(lab, store)))
        windows = of_each_kind([pbal])
        writers = [Writer(pbal, transport) for transport in TRANSPORTS]
        for window in windows:
            window.longest = 0.3
            window.start()
        talk = asyncio.gather(*(writer.say(numbers("n", 120), 0.002) for writer in writers))
        reloads = 0
        while not talk.done():
            assert await pbal.say("RELOAD poll") == "OK"
            reloads += 1
            await asyncio.sleep(0.05)
        await talk
        await all_read(windows, 120)
        assert all((window.got, window.gaps) == (writers[0].said, []) for window in windows) and reloads >= 3

    run()


@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_a_poll_a_stream_and_a_socket_over_tls(store: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        tls = trusting(authority)
        pbal = await lab.pbal(kept("ttl", await store_of(lab, store), *files(authority.certify("a.test")).strip().split("\n")))
        windows = of_each_kind([pbal], "a", tls)
        for window in windows:
            window.longest = 0.3
            window.start()
        writer = Writer(pbal, "a", tls)
        await writer.say(numbers("n", 100), 0.005)
        await all_read(windows, 100)
        assert all((window.got, window.gaps) == (writer.said, []) for window in windows)
        assert pbal.counts["tls_handshakes"] > 4
        await until(lambda: empty(pbal), "all to be gone")

    run()
