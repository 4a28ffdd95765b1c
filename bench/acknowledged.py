"""What it costs to follow an answer until the peer has acknowledged it: CPU that model/deliveries.py adds to an answer.

The same answers are written to the same sockets with and without being followed, in this process, and what the loop does of it until
nothing is left to look at is in the figure. Clients that ask for more at once are the usual case: they cost no system call.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import uvloop

from pbal.model.deliveries import PATIENCE, Deliveries
from pbal.model.world import World

Row = tuple[str, float, str, str]
CLIENTS = 500
ROUNDS = 40
REPEATED = 5
"""The best of so many: what else the machine does only adds to it."""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100


class _Server(asyncio.Protocol):
    def __init__(self, transports: list[asyncio.Transport]) -> None:
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transports.append(cast(asyncio.Transport, transport))


def acknowledged() -> Iterator[Row]:
    """CPU that following adds to an answer."""
    if sys.platform != "linux":
        print("left out: following answers is measured on Linux")
        return
    asks, silent = uvloop.run(_measured())
    yield "following an answer, the client asks for more", asks, "us CPU", "1"
    yield "following an answer, the client says nothing for 2 s", silent, "us CPU", ""


async def _measured() -> tuple[float, float]:
    loop = asyncio.get_running_loop()
    transports: list[asyncio.Transport] = []
    server = await loop.create_server(lambda: _Server(transports), "127.0.0.1", 0, backlog=CLIENTS)
    address = server.sockets[0].getsockname()
    clients = [socket.create_connection(address) for _ in range(CLIENTS)]
    await asyncio.sleep(0.5)
    if len(transports) < CLIENTS:
        raise RuntimeError("the clients were not accepted")
    counts = {"answers_unacknowledged": 0, "answers_lost": 0}
    world = cast(World, SimpleNamespace(counters=SimpleNamespace(counts=counts)))
    best: dict[tuple[bool, bool], float] = {}
    for taken in (True, False):
        for followed in (False, True) * REPEATED:
            used = await _round(transports, clients, Deliveries(world) if followed else None, taken)
            best[taken, followed] = min(used, best.get((taken, followed), used))
    if counts["answers_lost"] or counts["answers_unacknowledged"]:
        raise RuntimeError(f"answers were not followed to their end: {counts}")
    for client in clients:
        client.close()
    server.close()
    return best[True, True] - best[True, False], best[False, True] - best[False, False]


def _nothing() -> None:
    """Nobody is told."""


async def _round(transports: list[asyncio.Transport], clients: list[socket.socket], deliveries: Deliveries | None, taken: bool) -> float:
    """CPU microseconds an answer: all of them, ROUNDS times where the clients ask again, and what comes after them."""
    on_lost: Callable[[], None] = _nothing
    rounds = ROUNDS if taken else 1
    used = 0.0
    for _ in range(rounds):
        started = time.process_time()
        for transport in transports:
            transport.write(ANSWER)
            if deliveries is not None:
                deliveries.add(transport, len(ANSWER), on_lost, PATIENCE)
        await asyncio.sleep(0)
        if taken and deliveries is not None:
            for transport in transports:
                deliveries.taken(transport)
        used += time.process_time() - started
        for client in clients:
            client.recv(4096)
    started = time.process_time()
    await asyncio.sleep(2.0 if not taken else 0.6)
    used += time.process_time() - started
    return used / rounds / len(transports) * 1e6
