"""Backends whose every word a test says itself, and the few octets that all such tests need."""

import asyncio
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial

from lab import DEADLINE, Lab, Origin, Pbal, read_response, transport_of, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def proxy(*nodes: str, more: str = "", pool: str = "") -> str:
    """The configuration of a reverse_proxy `web` on the pool `app`. `more` and `pool`: statements, apart by `;`."""
    statements = ["CREATE POOL app", *pool.split(";"), *(f"POOL app ADD {node}" for node in nodes)]
    statements += ["CREATE SERVICE web", "SET role = reverse_proxy", "SET listen = 127.0.0.1:0", "SET pool = app", *more.split(";")]
    return "\n".join([*statements, "ENABLE web"])


def get(path: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: h", *fields, "", ""]).encode()


def answer(body: bytes, *fields: str) -> bytes:
    """A response of 200."""
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body


class Taken:
    """One connection that a scripted backend accepted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> bytes:
        """The next request's head."""
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readuntil(b"\r\n\r\n")

    def say(self, data: bytes) -> None:
        """Send octets."""
        self.writer.write(data)

    async def gone(self) -> bytes:
        """What still comes, when the other side has closed."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    @property
    def is_gone(self) -> bool:
        """Whether the other side has closed, as far as the loop has brought it."""
        return self.reader.at_eof() or self.reader.exception() is not None


class Scripted:
    """A backend that says nothing by itself, or what `behaviour` says on each of its connections."""

    def __init__(self, behaviour: Callable[[Taken], Awaitable[None]] | None = None) -> None:
        self.connections: list[Taken] = []
        self.address = ""
        self._behaviour = behaviour
        self._end = asyncio.Event()  # never set: connections live until the laboratory ends, and somebody has to hold their tasks

    @classmethod
    async def start(cls, lab: Lab, behaviour: Callable[[Taken], Awaitable[None]] | None = None) -> "Scripted":
        """Listen."""
        scripted = cls(behaviour)
        origin: Origin = await lab.origin(scripted._take)
        scripted.address = origin.address
        return scripted

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken = Taken(reader, writer)
        self.connections.append(taken)
        if self._behaviour is not None:
            await self._behaviour(taken)
        await self._end.wait()

    async def connection(self, number: int = 0) -> Taken:
        """Its first, second ... connection, when it is there."""
        await until(lambda: len(self.connections) > number, f"connection {number}")
        return self.connections[number]


class Client:
    """A client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, pbal: Pbal, service: str = "web", request: bytes = b"") -> "Client":
        """Connect, and send what there is to send."""
        client = cls(*await pbal.connect(service))
        client.writer.write(request)
        return client

    def reset(self) -> None:
        """Close so that the other side sees a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport_of(self.writer).abort()

    async def rest(self) -> bytes:
        """All octets until the end of the connection. Raises: ConnectionError where it was cut."""
        async with asyncio.timeout(DEADLINE):
            return await self.reader.read()


def at_once(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Put octets into the kernel now, before the loop turns again."""
    assert os.write(writer.get_extra_info("socket").fileno(), data) == len(data)


async def ticks(pbal: Pbal, number: int = 2) -> None:
    """Wait until the server has looked at its deadlines so many times more."""
    second = pbal.world.second
    await until(lambda: pbal.world.second >= second + number, "a tick")


def statuses(octets: bytes) -> list[int]:
    """The statuses in the octets of several responses."""
    return [int(line) for line in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", octets)]


async def rested(pbal: Pbal, origin: Scripted, number: int) -> list[Client]:
    """Have so many connections to a node rest, the first one longest; their clients."""
    clients = [await Client.of(pbal, request=get(f"/{place}")) for place in range(number)]
    for place in range(number):
        await (await origin.connection(place)).request()
    for place, node in enumerate(origin.connections):
        node.say(OK)
        await until(partial(_as_many_rest, pbal, place + 1), "it to rest")
    for client in clients:
        assert (await read_response(client.reader)).body == b"ok"
    return clients


def _as_many_rest(pbal: Pbal, number: int) -> bool:
    return len([backend for backend in pbal.world.backends if backend.state == "bored"]) == number


def deaf() -> tuple[str, list[socket.socket]]:
    """A node to which connecting takes for ever: it listens, and its queue is full."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    sockets = [listening, *(socket.socket() for _ in range(4))]
    for filler in sockets[1:]:
        filler.setblocking(False)
        filler.connect_ex(listening.getsockname())
    return f"127.0.0.1:{listening.getsockname()[1]}", sockets
