"""One console connection: lines in, replies out, Perlbal's line protocol.

A line, ended by LF or CRLF, is a statement; several may come in one packet and are carried out in order. A list ends with a
line that holds a single dot, a statement that changed something is answered OK (unless VERBOSE off), a refusal is
`ERROR: ` and the reason, in one line: scripts go by lines, and who typed it sees what was typed. Output lines end with CRLF.

A console is worked by one task, which exists while there is something to do. A long list is written a piece at a time, and
the task gives way between two pieces, between two statements, and while the socket is full: fifteen thousand parked polls
are listed without holding up one of them, and who sends much and reads nothing fills no memory.

What arrived is carried out, whether or not somebody is still there to read the answer: `printf ... | nc` may close at once,
and a LOAD or RELOAD is not left half done. A list that nobody reads any more is not written.

Who speaks HTTP to a console is a browser that somebody else's page sent here; who begins with binary octets speaks TLS or the
like, where that page's server chooses some of what the browser sends. Both are refused before any of it could be
taken for a statement.
"""

import asyncio
import codecs
import itertools
import logging
import re
from collections import deque
from math import inf
from typing import Any, Final, cast

from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.lang.mistakes import Mistake
from pbal.model.service import Service
from pbal.net.tasks import spawn
from pbal.observe.sockets import Kind, SocketInfo
from pbal.schema.commands import OK, Reply

log = logging.getLogger("pbal.console")

PIECE: Final = 200
"""Lines written between two turns of the loop: about a millisecond's work."""
PIECE_OCTETS: Final = 65536
"""A piece ends here as well: a line may hold a whole message."""
LINGER_SECONDS: Final = 2.0
"""How long what still comes from a client that was refused is read and dropped."""
LONGEST_LINE: Final = 65536
MOST_WAITING: Final = 1000
"""Lines kept while earlier ones are carried out; then reading pauses."""

_HTTP = re.compile(rb"\s*[!#-'*+.0-9A-Z^-z|~-]+ \S+ HTTP/\d", re.ASCII)
_BINARY = re.compile(rb"\x16\x03|\x00")
"""How TLS begins, and STUN."""
EOT: Final = b"\x04"
"""Control-D, which a terminal sends instead of ending the connection."""
_DROP: Final = b"\x03"
"""Control-C: the line begun is dropped."""
_WONT_TIMING_MARK: Final = b"\xff\xfc\x06"
_TELNET = re.compile(rb"\xff(?:[\xfb-\xfe].|\xfa.{0,64}?\xff\xf0|([\xec-\xf9]))", re.DOTALL)
"""Option negotiation and commands (RFC 854, RFC 1184), which telnet sends for some keys."""
_TELNET_CUT = re.compile(rb"\xff(?:[\xfb-\xfe]?|\xfa.{0,65})\Z", re.DOTALL)
"""The beginning of one, whose rest is in the next packet."""


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
        """No more lines are taken: the client sent its last, or one that ends it."""
        self._parting = ""
        """What is still said after the last answer."""
        self._first = True
        self._refused = False
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

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        data = self._buffer + data
        if self._first and self._is_foreign(data):
            return
        cut = b""
        if b"\xff" in data:
            data = _TELNET.sub(self._key, data)
            if found := _TELNET_CUT.search(data):
                data, cut = data[: found.start()], found[0]
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._take(line)
        if len(rest) + len(cut) > LONGEST_LINE + 1 or rest.startswith(EOT):
            self._take(rest + cut)
        if not self._ended:
            self._buffer = rest + cut
            if len(self._lines) > MOST_WAITING:
                self.transport.pause_reading()
        self._work()

    def _is_foreign(self, data: bytes) -> bool:
        """Whether the first line is no console's; it is refused then, and nothing of it taken."""
        self._first = b"\n" not in data.lstrip()
        if _HTTP.match(data):
            what = "HTTP"
        elif _BINARY.match(data):
            what = "anything binary"
        else:
            return False
        self.service.world.log_limited("console", "%s: refused: a console does not speak %s", self.peer_name, what)
        self._ended = True
        self._part(f"ERROR: this is a line console, it does not speak {what}")
        return True

    def _key(self, found: re.Match[bytes]) -> bytes:
        """What a key means that telnet made a command of: Control-C, Control-\\, Control-Z drop the line begun, Control-D ends.

        After the first three telnet shows nothing until an option it asks for with them is answered.
        """
        command = found[1]
        if command in (b"\xf4", b"\xee", b"\xed"):
            if self._room.is_set():
                self.transport.write(_WONT_TIMING_MARK)
            return _DROP
        return b"\n" + EOT if command == b"\xec" else b""

    def _take(self, line: bytes) -> None:
        """One line has come."""
        line = line.rpartition(_DROP)[2].removesuffix(b"\r").removeprefix(codecs.BOM_UTF8)
        if self._ended:
            return
        if len(line) > LONGEST_LINE:
            self._parting = f"ERROR: a line is longer than {LONGEST_LINE} bytes"
        elif not line.startswith(EOT):
            self._lines.append(line)
            return
        self._ended = True
        self._buffer = b""

    def eof_received(self) -> bool:
        """What was sent is still carried out and answered: `printf ... | nc` works."""
        if self._refused:
            return False
        if self._buffer:
            self._take(self._buffer)
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
        transport = self.transport
        try:
            while self._lines and not self._session.closing:
                line = self._lines.popleft()
                self._commands += 1
                self.state = "working"
                await self._one(line.decode("utf-8", "surrogateescape"))
                await self._give_way()
                if len(self._lines) < MOST_WAITING and not self._ended and not transport.is_closing() and not transport.is_reading():
                    transport.resume_reading()
        finally:
            self._working = False
            if self.state == "working":
                self.state = "waiting"
        if self._session.closing or self._ended:
            if self._parting:
                self._part(self._parting)
            else:
                transport.close()

    def _part(self, refusal: str) -> None:
        """Say why, and drop what still comes for a while: a reset because of it would take the words away."""
        self._write([refusal])
        self._refused = True
        self.state = "lingering"
        self.deadline = self.service.world.clock.now() + LINGER_SECONDS
        if not self.transport.is_closing():
            self.transport.write_eof()

    async def _give_way(self) -> None:
        """Let others have a turn, and wait until the client took what was written."""
        await asyncio.sleep(0)
        await self._room.wait()

    async def _one(self, line: str) -> None:
        """Carry out one line and answer it; a program has asked to be told where the answer ends (MARK)."""
        kind = await self._answered(line)
        if self._session.marker and line.strip(" \t\r\n"):
            self._write([f"{self._session.marker} {kind}"])

    async def _answered(self, line: str) -> str:
        """What the answer was: a list (which ends with a dot), text, ok or an error."""
        try:
            reply, json = await self._interpreter.execute(self._session, line)
            return "text" if reply is None else await self._answer(reply, json or self._session.json)
        except Mistake as mistake:
            if not mistake.hint and mistake.message.endswith("is not a statement"):
                mistake.hint = "help lists the statements"
            self._write([f"ERROR: {mistake.in_one_line()}"])
        except Exception as error:  # a fault of ours is answered in one line, and logged whole
            log.error("console, %r: %r", line[:100], error, exc_info=error)
            self._write([f"ERROR: internal error: {type(error).__name__}: {error}"])
        return "error"

    async def _answer(self, reply: Reply, json: bool) -> str:
        """Write a reply, in pieces; what kind it was."""
        if reply is OK and not json:
            if self._session.verbose:
                self._write(["OK"])
            return "ok"
        piece: list[str] = []
        octets = 0
        for line in itertools.chain(reply.as_json(), (".",)) if json else reply.as_text():
            piece.append(line)
            octets += len(line)
            if len(piece) == PIECE or octets > PIECE_OCTETS:
                self._write(piece)
                piece, octets = [], 0
                await self._give_way()
                if self.transport.is_closing():
                    return "text"
        self._write(piece)
        if json or getattr(reply, "end_dot", True):
            return "list"
        if self._session.verbose and not self._session.closing and not self._session.marker:
            self._write(["OK"])
        return "text"

    def _write(self, lines: list[str]) -> None:
        if lines and not self.transport.is_closing():
            text = "".join(f"{line}\r\n" for line in lines)
            self.transport.write(text.encode("utf-8", "replace"))

    # -- like every connection -----------------------------------------------------------------------------------

    @property
    def peer_name(self) -> str:
        """Address and port."""
        name = self.transport.get_extra_info("peername") if self.transport is not None else None
        return f"{name[0]}:{name[1]}" if name else "unknown"

    def expired(self, now: float) -> None:
        """A console never times out; one that was refused does."""
        self.transport.abort()

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
