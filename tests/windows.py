"""Readers and writers of polls as one would write them: they go on for ever, and note what they got and what they were told.

A reader keeps the position it was told last, comes back with it, and notes every gap and every cut.
"""

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from lab import Pbal, read_response, until
from polls import conf, get
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

TRANSPORTS = ["poll", "sse", "websocket"]


Tls = ssl.SSLContext | None


def kept(keep: str, *more: str) -> str:
    return conf(f"SET poll_keep = {keep}", "SET poll_format = json", "SET poll_interval = 100ms", *more)


class Window:
    """A reader that goes on for ever. What it got, in order; and where it was told of a gap."""

    def __init__(self, pbals: Sequence[Pbal], queue: str, transport: str, seed: int = 0, tls: Tls = None, service: str = "chat") -> None:
        self._pbals = pbals
        self._queue = queue
        self._transport = transport
        self._service = service
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
        reader, self._writer = await connected(pbal, self._tls, self._service)
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
        host, port = pbal.server.address(self._service)[:2]
        position = f"?position={self.position}" if self.position else ""
        secure: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls, "server_hostname": "a.test"}
        url = f"{'wss' if secure else 'ws'}://{host}:{port}/poll/{self._queue}{position}"
        async with connect(url, compression=None, proxy=None, close_timeout=0.1, **secure) as socket:
            async for message in socket:
                self._told(json.loads(message))


async def connected(pbal: Pbal, tls: Tls, service: str = "chat") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the chat."""
    host, port = pbal.server.address(service)[:2]
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

    def __init__(self, pbal: Pbal, queue: str, tls: Tls = None, service: str = "chat") -> None:
        self._pbal = pbal
        self._service = service
        self._tls = tls
        self._queue = queue
        self.said: list[str] = []
        self.again = 0
        """How often a pbal did not take it."""

    async def say(self, texts: Iterable[str], pause: float = 0.0) -> None:
        """One after another."""
        reader, writer = await connected(self._pbal, self._tls, self._service)
        for text in texts:
            while True:
                writer.write(get(f"/publish/{self._queue}", method="POST", body=text.encode()))
                status = (await read_response(reader)).status
                if status == 202:
                    break
                assert status == 503
                self.again += 1
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


def of_each_kind(pbals: Sequence[Pbal], queue: str = "", tls: Tls = None, service: str = "chat") -> list[Window]:
    """A window of each transport, all in one queue, or each in its own, which is called as the transport."""
    return [Window(pbals, queue or transport, transport, seed, tls, service) for seed, transport in enumerate(TRANSPORTS)]
