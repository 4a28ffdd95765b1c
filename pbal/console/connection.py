"""One console connection: lines in, replies out, Perlbal's line protocol.

A line, ended by LF or CRLF, is a statement; several may come in one packet and are carried out in order. A list ends with a
line that holds a single dot, a statement that changed something is answered OK (unless VERBOSE off), a refusal is
`ERROR: ` and the reason, in one line: scripts go by lines, and who typed it sees what was typed. Output lines end with CRLF.

A console is worked by one task, which exists while there is something to do. A long list is written PIECES rows at a time,
and the task gives way between two pieces and while the socket is full: fifteen thousand parked polls are listed
without holding up one of them.

Who speaks HTTP to a console is a browser that somebody else's page sent here. It is refused at the first line, before
any of its lines could be taken for a statement.
"""

import asyncio
import itertools
import logging
import re
from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Any, Final, cast

from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.lang.mistakes import Mistake
from pbal.model.service import Service
from pbal.net.tasks import cancel_all, spawn
from pbal.observe.sockets import Kind, SocketInfo
from pbal.schema.commands import OK, Reply

log = logging.getLogger("pbal.console")

PIECE: Final = 200
"""Lines written between two turns of the loop: about a millisecond's work."""
LONGEST_LINE: Final = 65536
MOST_WAITING: Final = 1000
"""Lines kept while earlier ones are carried out; then reading pauses."""

_HTTP = re.compile(rb"[A-Za-z]+ \S+ HTTP/\d", re.ASCII)
_TELNET = re.compile(rb"\xff(?:[\xfb-\xfe].|\xfa.*?\xff\xf0|[\xf0-\xf9])", re.DOTALL)
"""Option negotiation (RFC 854), which telnet may send by itself."""


class ConsoleConnection(asyncio.Protocol):
    """An accepted connection of a management service."""

    management = True

    def __init__(self, service: Service, interpreter: Interpreter) -> None:
        self.service = service
        self.transport: Any = None
        self.deadline = inf
        self.state = "waiting"
        self._session = Session(service.world, interpreter, origin="console")
        self._interpreter = interpreter
        self._buffer = b""
        self._lines: deque[bytes] = deque()
        self._working = False
        self._ended = False
        self._first = True
        self._commands = 0
        self._room = asyncio.Event()
        self._room.set()
        self._born = service.world.second

    # -- the socket ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.service.world.clients.add(self)
        self.service.world.counters.counts["clients"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = "closed"
        self.service.world.clients.discard(self)
        self.service.world.counters.counts["clients"] -= 1
        self._room.set()
        cancel_all(self)

    def data_received(self, data: bytes) -> None:
        self._buffer = _TELNET.sub(b"", self._buffer + data)
        *lines, self._buffer = self._buffer.split(b"\n")
        if self._first and lines:
            self._first = False
            if _HTTP.match(lines[0]):
                log.warning("%s: HTTP on the console refused", self.peer_name)
                self._write(["ERROR: this is a line console, it does not speak HTTP"])
                self.transport.close()
                return
        self._lines.extend(lines)
        if len(self._buffer) > LONGEST_LINE:
            self._write([f"ERROR: a line is longer than {LONGEST_LINE} octets"])
            self.transport.close()
            return
        if len(self._lines) > MOST_WAITING:
            self.transport.pause_reading()
        self._work()

    def eof_received(self) -> bool:
        """What was sent is still carried out and answered: `printf ... | nc` works."""
        if self._buffer:
            self._lines.append(self._buffer)
            self._buffer = b""
        self._ended = True
        self._work()
        return True

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    # -- statements ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if not self._working:
            self._working = True
            spawn(self, self._carry_out(), "console")

    async def _carry_out(self) -> None:
        """Carry out waiting lines until none is left."""
        try:
            while self._lines and not self._session.closing and not self.transport.is_closing():
                line = self._lines.popleft()
                self._commands += 1
                self.state = "working"
                await self._one(line.rstrip(b"\r").decode("utf-8", "surrogateescape"))
                if len(self._lines) < MOST_WAITING and not self.transport.is_reading() and not self._ended:
                    self.transport.resume_reading()
        finally:
            self._working = False
            self.state = "waiting"
        if self._session.closing or (self._ended and not self._lines):
            self.transport.close()

    async def _one(self, line: str) -> None:
        try:
            reply, json = await self._interpreter.execute(self._session, line)
            if reply is not None:
                await self._answer(reply, json)
        except Mistake as mistake:
            self._write([f"ERROR: {mistake.in_one_line()}"])
        except Exception as error:  # a fault of ours is answered in one line, and logged whole
            log.error("console, %r: %r", line[:100], error, exc_info=error)
            self._write([f"ERROR: internal error: {type(error).__name__}: {error}"])

    async def _answer(self, reply: Reply, json: bool) -> None:
        """Write a reply, in pieces."""
        if reply is OK:
            if self._session.verbose:
                self._write(["OK"])
            return
        lines: Iterator[str] = iter(itertools.chain(reply.as_json(), (".",)) if json else reply.as_text())
        while piece := list(itertools.islice(lines, PIECE)):
            if self.transport.is_closing():
                return
            self._write(piece)
            await asyncio.sleep(0)
            await self._room.wait()
        if getattr(reply, "end_dot", True) is False and self._session.verbose and not self._session.closing and not json:
            self._write(["OK"])

    def _write(self, lines: list[str]) -> None:
        text = "".join(f"{line}\r\n" for line in lines)
        self.transport.write(text.encode("utf-8", "replace"))

    # -- like every connection -----------------------------------------------------------------------------------

    @property
    def peer_name(self) -> str:
        """Address and port."""
        name = self.transport.get_extra_info("peername") if self.transport is not None else None
        return f"{name[0]}:{name[1]}" if name else "unknown"

    def expired(self, now: float) -> None:
        """A console never times out."""

    def shutdown(self, graceful: bool) -> None:
        """Close, after what was written has gone out if graceful."""
        if graceful:
            self.transport.close()
        else:
            self.transport.abort()

    def kind(self) -> Kind:
        """See observe.sockets."""
        return "ClientManage", self.state, self.service.name

    def describe(self) -> SocketInfo:
        """One line for `socks`."""
        sock = self.transport.get_extra_info("socket")
        local = self.transport.get_extra_info("sockname")
        return SocketInfo(
            fd=sock.fileno(),
            age=self.service.world.second - self._born,
            class_name="ClientManage",
            state=self.state,
            text=f"ClientManage(R): open to {self.peer_name}: localport={local[1] if local else 0}; reqs={self._commands}; {self.state}",
            service=self.service.name,
        )
