"""What the test of a plugin needs: a pbal that runs a configuration, requests to it, its counters and its console.

    from pbal.testing import running

    def test_hello() -> None:
        with running(CONFIGURATION, plugins=FOLDER) as pbal:
            assert pbal.get("site", "/hello").body == b"Hello.\\n"
            assert pbal.counter("greeting_said") == 1
            assert pbal.say("RELOAD greeting") == "OK"

pbal runs in this process, on an event loop in a thread of its own; the test is plain code that blocks. Listeners say
`127.0.0.1:0` and are found by the name of their service. What the plugin logged is in `pbal.log`.
"""

import asyncio
import http.client
import logging
import socket
import tempfile
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvloop

from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.lang.mistakes import Mistake
from pbal.life.looping import stopped
from pbal.model.world import World
from pbal.server import Server

T = TypeVar("T")

FAULTS = (SystemExit, KeyboardInterrupt)
"""What stops a loop."""
PATIENCE = 10.0
"""Seconds after which something that does not happen fails the test."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. The names in `fields` are in lower case. Of a repeated field, `fields` has the last value."""

    status: int
    fields: Mapping[str, str]
    body: bytes


class _Lines(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


class Running:
    """A pbal under test."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, log: list[str]) -> None:
        self._server = server
        self._loop = loop
        self._session = Session(server.world, server.interpreter, origin="test")
        self.log = log
        """The lines that were logged. Each begins with its level."""

    def _on_loop(self, do: Callable[[], Awaitable[T]]) -> T:
        async def call() -> T:
            return await do()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE)

    def address(self, service: str) -> tuple[str, int]:
        """Host and port on which a service listens. Raises: KeyError if it does not listen."""
        return self._server.address(service)

    def connect(self, service: str) -> socket.socket:
        """Open a connection to a service, on which a test sends any bytes. The caller closes it."""
        return socket.create_connection(self.address(service), timeout=PATIENCE)

    def request(self, service: str, method: str, target: str, fields: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """Send a request on a new connection, and return the response."""
        connection = http.client.HTTPConnection(*self.address(service), timeout=PATIENCE)
        try:
            connection.request(method, target, body=body or None, headers=dict(fields or {}))
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, service: str, target: str, fields: Mapping[str, str] | None = None) -> Answer:
        """Send a GET."""
        return self.request(service, "GET", target, fields)

    def post(self, service: str, target: str, body: bytes, fields: Mapping[str, str] | None = None) -> Answer:
        """Send a POST."""
        return self.request(service, "POST", target, fields, body)

    def say(self, statement: str) -> str:
        """Carry out a statement as the console does. Returns the answer, or `ERROR: ` and the reason."""

        async def call() -> str:
            try:
                reply, json = await self._server.interpreter.execute(self._session, statement)
            except Mistake as mistake:
                return f"ERROR: {mistake.in_one_line()}"
            if reply is None:
                return ""
            return "\n".join(reply.as_json() if json else reply.as_text())

        return self._on_loop(call)

    def counter(self, name: str) -> int:
        """The value of a counter. Raises: KeyError if nobody declared it."""
        return self._server.world.counters.counts[name]

    def until(self, counter: str, value: int) -> None:
        """Wait until a counter has a value. Raises: AssertionError if it does not within PATIENCE."""
        end = time.monotonic() + PATIENCE
        while self.counter(counter) != value:
            if time.monotonic() > end:
                raise AssertionError(f"counter {counter} is {self.counter(counter)}, not {value}")
            time.sleep(0.005)


@contextmanager
def running(configuration: str, plugins: Path | str | None = None) -> Iterator[Running]:
    """Run a configuration until the end of the with block. `plugins` is a folder for SERVER plugin_path.

    Raises: AssertionError with every mistake of the configuration; ConfigError if a service cannot be opened.
    """
    with tempfile.TemporaryDirectory(prefix="pbal-test-") as folder:
        path = Path(folder) / "test.conf"
        before = f"SERVER plugin_path = {Path(plugins).resolve()}\n" if plugins is not None else ""
        path.write_text(before + textwrap.dedent(configuration), encoding="utf-8")
        world = World()
        interpreter = Interpreter(world)
        mistakes = interpreter.run_file(str(path))
        if mistakes:
            raise AssertionError("\n".join(mistake.render() for mistake in mistakes))
        log = _Lines()
        logging.getLogger("pbal").addHandler(log)
        try:
            server = Server(world, interpreter)
            with _started(server) as loop:
                yield Running(server, loop, log.lines)
        finally:
            logging.getLogger("pbal").removeHandler(log)


@contextmanager
def _started(server: Server) -> Iterator[asyncio.AbstractEventLoop]:
    """The server on a loop in a thread. What start() raises comes out here."""
    loop = uvloop.new_event_loop()
    ended = threading.Event()

    def turn() -> None:
        while not ended.is_set():
            try:
                loop.run_forever()
            except FAULTS as error:  # sys.exit() in a task: in a process of its own that ends nothing either
                stopped(server.world, error)

    thread = threading.Thread(target=turn, name="pbal under test", daemon=True)
    thread.start()

    async def start() -> None:
        server.start()

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE)
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(PATIENCE)
        ended.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
