"""The laboratory of the wire tests: a pbal in this process, backends, clients, a real memcached.

Everything listens on free ports and is ended with the test. Nothing sleeps: `until` looks at a counter (or anything else)
every few milliseconds, and fails after a deadline that only a broken program reaches.

When a test has passed and everything is ended, nothing may be left over: of a pbal no connection, request, place, task or octet of a
body (`left_in`, `tasks_left`), and of the test no descriptor (`descriptors`). One that is left fails the test. So what a test opens by
itself it closes, or gives to the laboratory: Lab.keep, Lab.connect.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

import pbal as package
from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.lang.mistakes import Mistake
from pbal.life.process import Process
from pbal.model.world import World
from pbal.net.tasks import running
from pbal.server import Server

DEADLINE = 60.0
"""Seconds after which what has to happen will not. Where tests are in each other's way, ten are not many."""
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def until(predicate: Callable[[], Any], what: str = "a condition", deadline: float = DEADLINE) -> Any:
    """Wait until `predicate()` is true and return it."""
    end = time.monotonic() + deadline
    while not (value := predicate()):
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what}")
        await asyncio.sleep(0.003)
    return value


def _ports() -> Iterator[int]:
    """Ports of this process of the tests, each once: below those that the kernel gives to whoever asks for any.

    A test that ends a server and starts it again at its port would find it taken now and then, were it one of the kernel's:
    other processes of the tests ask for some hundreds a minute, and each connection that is made takes one.
    """
    above = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = range(10240 + worker, above, workers)
    begin = random.randrange(len(mine))  # two runs at once, or one after another, would else begin with the same
    yield from mine[begin:]
    yield from mine[:begin]


_PORTS = _ports()


def free_port() -> int:
    """A port that was free a moment ago, that nobody was told before, and that nobody gets who asks the kernel for any."""
    for port in _PORTS:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("every port was told")


class Pbal:
    """A running server and ways to talk to it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.world: World = server.world
        self.counts = server.world.counters.counts
        self.folder = folder
        self._writers: list[asyncio.StreamWriter] = []
        self._session = Session(server.world, server.interpreter, origin="test")

    async def connect(self, service: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raw streams to a service."""
        host, port = self.server.address(service)
        reader, writer = await asyncio.open_connection(host, port)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, service: str, request: bytes) -> "Response":
        """Send octets on a connection of its own and read one response."""
        reader, writer = await self.connect(service)
        writer.write(request)
        return await read_response(reader, head_only=request.startswith(b"HEAD "))

    async def say(self, statement: str) -> str:
        """Carry out a console statement; its text, or the text of its mistake."""
        try:
            reply, json = await self.server.interpreter.execute(self._session, statement)
        except Mistake as mistake:
            return "ERROR: " + mistake.render()
        if reply is None:
            return ""
        return "\n".join(reply.as_json() if json else reply.as_text())

    async def until(self, counter: str, value: int) -> None:
        """Wait until a counter has a value."""
        await until(lambda: self.counts[counter] == value, f"{counter} = {value}, it is {self.counts.get(counter)}")

    def plugin(self, service: str, name: str = "poll") -> Any:
        """The plugin instance serving now."""
        return self.world.service(service).plugin(name)

    async def close(self) -> None:
        """End it."""
        for writer in self._writers:
            writer.close()
        await self.server.close()
        for writer in self._writers:
            writer.transport.abort()  # what is still to be written has nobody to read it


def left_in(world: World) -> list[str]:
    """What requests and connections have left behind in a pbal in which there should be none any more, in words."""
    bodies, counts = world.bodies, world.counters.counts
    amounts: dict[str, int] = {
        "client connections": len(world.clients),
        "backend connections": len(world.backends),
        "requests that a plugin took": len(world.taken),
        "tunnels": len(world.tunnels),
        "octets of bodies in memory": bodies.memory,
        "octets of bodies on disk": bodies.spooled,
        "octets of bodies on their way to disk": bodies.unflushed,
        "spools": len(bodies.spools),
        "answers not acknowledged": counts["answers_unacknowledged"],
    }
    for pool in world.pools.values():
        amounts[f"requests that {pool.name} was sent again"] = pool.retrying
        for node in (*pool.nodes, *pool.draining):
            amounts[f"requests at {pool.name} {node.name}"] = node.active
            amounts[f"connections begun to {pool.name} {node.name}"] = node.connecting
    for service in world.services.values():
        for limit in service.limiting:
            if limit.most is None:
                amounts[f"places of {service.name} {limit.said}"] = limit.clients
        groups = getattr(service.handler, "groups", None)
        if groups is not None:
            waiting, opening, bored = groups.load()
            amounts |= {
                f"clients that wait in {service.name}": waiting,
                f"connections opening in {service.name}": opening,
                f"bored connections in {service.name}": bored,
            }
    left = [f"{amount} {what}" for what, amount in amounts.items() if amount]
    return left + [connection.describe().text for connection in (*world.clients, *world.backends)]


def tasks_left() -> list[str]:
    """Tasks of pbal's that run in this loop: those that it holds, and any whose code is its own."""
    every = (task.get_coro() for task in asyncio.all_tasks())
    codes = (getattr(coroutine, "cr_code", None) for coroutine in every)
    return running() + [f"{code.co_qualname} of {code.co_filename}" for code in codes if code is not None and _PBAL in code.co_filename]


_PBAL = str(Path(package.__file__).parent) + os.sep


def descriptors() -> dict[str, str]:
    """What this process has open, by number. Without /dev/null: libuv keeps one from its first stream on, for when there are no more."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them
            if (what := os.readlink(f"/proc/self/fd/{number}")) != os.devnull:
                found[number] = what
    return found


async def nothing_left_of(what: Callable[[], list[str]]) -> None:
    """Wait until `what` finds nothing. What was closed goes with a turn of the loop or two, a file with the job that has it open."""
    end = time.monotonic() + DEADLINE
    while left := what():
        assert time.monotonic() < end, f"left over: {'; '.join(left)}"
        await asyncio.sleep(0.001)


class Response:
    """A response as read off the wire."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *fields = head.decode("latin-1").split("\r\n")[:-2]
        self.status = int(line.split(" ")[1])
        self.head = head
        self.fields: dict[str, str] = {}
        for field in fields:
            name, _, value = field.partition(":")
            self.fields[name.lower()] = value.strip()
        self.body = body


async def read_response(reader: asyncio.StreamReader, head_only: bool = False) -> Response:
    """Read one response: by length, chunked, or to the end."""
    async with asyncio.timeout(DEADLINE):
        head = await reader.readuntil(b"\r\n\r\n")
        response = Response(head, b"")
        if head_only or response.status in (204, 304) or response.status < 200:
            return response
        if response.fields.get("transfer-encoding") == "chunked":
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                response.body += await reader.readexactly(size)
                assert await reader.readexactly(2) == b"\r\n"
            assert await reader.readuntil(b"\r\n") == b"\r\n"
        elif "content-length" in response.fields:
            response.body = await reader.readexactly(int(response.fields["content-length"]))
        else:
            response.body = await reader.read()
        return response


def transport_of(writer: asyncio.StreamWriter) -> asyncio.Transport:
    """The transport of a connection, with both its directions."""
    return cast(asyncio.Transport, writer.transport)


class Origin:
    """A backend made of a coroutine."""

    def __init__(self, server: asyncio.AbstractServer) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.address = f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.close()


class Memcached:
    """A real memcached. `options`: its own, beside the usual ones; with `-s PATH` it listens there and on no port."""

    def __init__(self, port: int, *options: str) -> None:
        self.port = port
        self.address = f"unix:{options[options.index('-s') + 1]}" if "-s" in options else f"127.0.0.1:{port}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            ["memcached", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "64", *user, *self._options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if self._listens():
                return
            time.sleep(0.01)
        raise AssertionError("memcached does not start")

    def _listens(self) -> bool:
        if self.address.startswith("unix:"):
            return os.path.exists(self.address[5:])
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it anew, empty, on the same port."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """SIGSTOP; when this returns, none of its threads runs any more."""
        self.signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def cont(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def client(self) -> Any:
        """A plain blocking client."""
        from pymemcache.client.base import Client

        return Client(self.address[5:] if self.address.startswith("unix:") else ("127.0.0.1", self.port))


class Faults(logging.Handler):
    """What pbal itself did wrong while it carried out a statement: it says so in its log alone."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if isinstance(record.args, dict) and record.args.get("event") == "step_failed":
            self.found.append(record.getMessage())


class Lab:
    """What one test started."""

    def __init__(self) -> None:
        self._faults = Faults()
        logging.getLogger("pbal").addHandler(self._faults)
        self._pbals: list[Pbal] = []
        self._origins: list[Origin] = []
        self._caches: list[Memcached] = []
        self._servers: list[asyncio.AbstractServer] = []
        self._accepted: set[asyncio.StreamWriter] = set()
        """Connections of its backends."""
        self._closing = False
        self._descriptors = descriptors()
        self.folder = Path(tempfile.mkdtemp(prefix="pbal-test-"))
        self._number = 0

    async def pbal(self, text: str, process: Process | None = None) -> Pbal:
        """Start a server from a configuration. Mistakes in it fail the test."""
        self._number += 1
        path = self.folder / f"test{self._number}.conf"
        path.write_text(inspect.cleandoc(text) + "\n")
        world = World()
        world.server["file_recheck"] = 0.0  # tests change files and look at once, unless they say otherwise
        interpreter = Interpreter(world)
        mistakes = interpreter.run_file(str(path))
        assert not mistakes, "\n".join(mistake.render() for mistake in mistakes)
        server = Server(world, interpreter, process)
        server.start()
        pbal = Pbal(server, self.folder)
        self._pbals.append(pbal)
        await until(lambda: all(listener.serving for listener in server.listeners()), "listeners")
        return pbal

    async def origin(self, handler: Handler, port: int = 0) -> Origin:
        """Start a backend, on a port or on any."""

        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._closing:  # it came at the last moment, and nobody would end it any more
                writer.transport.abort()
                return
            self._accepted.add(writer)
            try:
                await handler(reader, writer)
            except (OSError, EOFError, asyncio.CancelledError):
                writer.transport.abort()

        origin = Origin(await asyncio.start_server(guarded, "127.0.0.1", port))
        self._origins.append(origin)
        return origin

    def keep(self, server: asyncio.AbstractServer) -> None:
        """End a server with the test."""
        self._servers.append(server)

    async def memcached(self, *options: str) -> Memcached:
        """Start a real memcached, with options of its own, or skip the test and say why."""
        if shutil.which("memcached") is None:
            pytest.skip("memcached is not installed")
        cache = Memcached(free_port(), *options)
        self._caches.append(cache)
        return cache

    async def close(self) -> None:
        """End everything."""
        self._closing = True
        for server in self._servers:
            server.close()
        for pbal in self._pbals:
            await pbal.close()
        for origin in self._origins:
            origin.close()
        for writer in self._accepted:
            writer.transport.abort()
        for cache in self._caches:
            cache.kill()
        logging.getLogger("pbal").removeHandler(self._faults)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def nothing_left(self) -> None:
        """Everything was ended, and the test passed: see that it is all gone. Raises: AssertionError, which tells what is left."""
        assert not self._faults.found
        for pbal in self._pbals:
            await nothing_left_of(functools.partial(left_in, pbal.world))
        await nothing_left_of(tasks_left)
        await nothing_left_of(self._opened)

    def _opened(self) -> list[str]:
        return [f"descriptor {number}, {what}" for number, what in descriptors().items() if self._descriptors.get(number) != what]


def lab(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test with a Lab under uvloop, and end everything after."""

    async def run(*args: Any, **kwargs: Any) -> None:
        laboratory = Lab()
        try:
            await test(laboratory, *args, **kwargs)
        finally:
            await laboratory.close()
        await laboratory.nothing_left()

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        uvloop.run(run(*args, **kwargs))

    signature = inspect.signature(test)
    wrapper.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return wrapper
