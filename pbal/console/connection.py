"""One console connection: lines in, replies out, Perlbal's line protocol.

A line, ended by LF or CRLF, is a statement; several may come in one packet and are carried out in order. A list ends with a
line that holds a single dot, a statement that changed something is answered OK (unless VERBOSE off), a refusal is
`ERROR: ` and the reason, in one line: scripts go by lines, and who typed it sees what was typed. Output lines end with CRLF.
After TERMINAL people read it: tables, people's times, the line with the mistake underlined; and every answer but OK ends with the dot.

A console is worked by one task, which exists while there is something to do. A long list is written a piece at a time, and
the task gives way between two pieces, between two statements, and while the socket is full: fifteen thousand parked polls
are listed without holding up one of them, and who sends much and reads nothing fills no memory.

What arrived is carried out, whether or not somebody is still there to read the answer: `printf ... | nc` may close at once,
and a LOAD or RELOAD is not left half done. A list that nobody reads any more is not written.

With a password_file a console carries out nothing before LOGIN. That line is taken here and goes nowhere else: not through the
parser, which would expand a `$` in it and show it in a mistake, not into a log. Three failures close the connection, a minute
without a LOGIN does, too, and until then few lines are kept.

Who speaks HTTP to a console, perhaps a browser that somebody else's page sent here, is handed to console/http.py, which only shows;
who begins with binary octets speaks TLS or the like, where that page's server chooses some of what the browser sends, and is refused.
Neither happens after any of it was taken for a statement, nor can a connection change its mind.
"""

import asyncio
import codecs
import contextlib
import itertools
import logging
import re
from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Final, cast

from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.console.gate import Denied, Gate, address_of
from pbal.console.history import History
from pbal.console.http import FAULTS, HttpConnection
from pbal.console.peer import Manager, identity
from pbal.lang.mistakes import Mistake
from pbal.model import faults
from pbal.model.service import Service
from pbal.net.tasks import spawn
from pbal.schema import kinds
from pbal.schema.commands import OK, Live, Reply
from pbal.schema.people import View

log = logging.getLogger("pbal.console")

PIECE: Final = 100
"""Lines written between two turns of the loop: a few milliseconds' work at most. Of tables and of JSON it is half as many."""
PIECE_OCTETS: Final = 65536
"""A piece ends here as well: a line may hold a whole message."""
LINGER_SECONDS: Final = 2.0
"""How long what still comes from a client that was refused is read and dropped."""
LONGEST_LINE: Final = 65536
MOST_WAITING: Final = 1000
"""Lines kept while earlier ones are carried out; then reading pauses."""
MOST_UNKNOWN: Final = 4
"""As MOST_WAITING, from who has not said who it is."""
LOGIN_SECONDS: Final = 60.0
"""How long a connection may wait with its LOGIN."""
MOST_FAILURES: Final = 3
"""LOGINs that fail before the connection is closed."""

_LOGIN = re.compile(r"\s*login(?:\s+(\S+)(?:\s+(\S.*))?)?", re.IGNORECASE | re.DOTALL)
_LEAVE = re.compile(r"\s*(?:quit|exit)\s*", re.IGNORECASE)

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


class ConsoleConnection(Manager):
    """An accepted connection of a management service, which times out only if it was refused or does not say who it is."""

    def __init__(self, service: Service, interpreter: Interpreter, gate: Gate, history: History) -> None:
        super().__init__(service, service.world.second)
        self._history = history
        self._gate = gate
        self._user = ""
        """Who said LOGIN."""
        self._failures = 0
        self._address = ""
        self._session = Session(service.world, interpreter, origin="console")
        self._session.console = service
        self._interpreter = interpreter
        self._buffer = b""
        self._lines: deque[bytes] = deque()
        self._working = False
        self._live: Live | None = None
        """The answer that is being written and goes on until a line comes."""
        self._ended = False
        """No more lines are taken: the client sent its last, or one that ends it."""
        self._parting = ""
        """What is still said after the last answer."""
        self._first = True
        self._refused = False
        self._room = asyncio.Event()
        self._room.set()

    # -- the socket ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.service.world.joined(self)
        self.service.world.counters.counts["clients"] += 1
        self.peer_name, address = identity(transport)
        self._address = address_of(address)
        self._session.who = self.peer_name
        if self._gate.closed:
            self.deadline = self.service.world.clock.now() + LOGIN_SECONDS
            self._gate.came(self.transport)

    @property
    def _unknown(self) -> bool:
        """Whether it has to say who it is first."""
        return self._gate.closed and not self._user

    @property
    def _most_waiting(self) -> int:
        return MOST_UNKNOWN if self._unknown else MOST_WAITING

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = "closed"
        self._gate.settled(self.transport)
        self.service.world.clients.discard(self)
        self.service.world.counters.counts["clients"] -= 1
        self._room.set()
        self._look_for_end()

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
            if len(self._lines) > self._most_waiting:
                self.transport.pause_reading()
        self._work()

    def _is_foreign(self, data: bytes) -> bool:
        """Whether the first line is no console's; it is handed over or refused then, and nothing of it taken."""
        self._first = b"\n" not in data.lstrip()
        if _HTTP.match(data):
            self._hand_over(data)
            return True
        if not _BINARY.match(data):
            return False
        self.service.world.log_limited(
            "console",
            "%(client)s: refused: a console speaks lines or HTTP",
            {"event": "console_refused", "service": self.service.name, "client": self.peer_name},
        )
        self._ended = True
        self._part("ERROR: this is a line console, it does not speak anything binary")
        return True

    def _hand_over(self, data: bytes) -> None:
        """It speaks HTTP."""
        self._ended = True
        self.state = "closed"
        self.service.world.clients.discard(self)
        other = HttpConnection(self.service, self._interpreter, self._gate, self._history, self.born)
        other.take_over(self.transport, data.lstrip())

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
        self._look_for_end()
        if not self._working:
            self._working = True
            spawn(self, self._carry_out(), "console")

    async def _carry_out(self) -> None:
        """Carry out waiting lines until none is left."""
        transport = self.transport
        try:
            while self._lines and not self._session.closing:
                line = self._lines.popleft()
                self.requests += 1
                self.state = "working"
                await self._one(line.decode("utf-8", "surrogateescape"))
                await self._give_way()
                if len(self._lines) < self._most_waiting and not self._ended and not transport.is_closing() and not transport.is_reading():
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
        if kind == "error" and self._session.view_width and not self._session.marker:
            self._write(["."])
        if self._session.marker and line.strip(" \t\r\n"):
            self._write([f"{self._session.marker} {kind}"])

    async def _answered(self, line: str) -> str:
        """What the answer was: a list (which ends with a dot), text, ok or an error."""
        if said := _LOGIN.fullmatch(line):
            return await self._login(said[1], said[2])
        if self._unknown and not _LEAVE.fullmatch(line):
            if line.strip():
                self._write(["ERROR: this console asks who you are: LOGIN USER PASSWORD"])
            return "error"
        try:
            reply, json = await self._interpreter.execute(self._session, line)
            if isinstance(reply, Live):
                return await self._follow(reply, json or self._session.json)
            return "text" if reply is None else await self._answer(reply, json or self._session.json)
        except Mistake as mistake:
            if mistake.kind is kinds.Kind.UNKNOWN_STATEMENT and not mistake.hint:
                mistake.hint = "help lists the statements"
            if self._session.view_width:
                self._write(f"ERROR: {mistake.render()}".split("\n"))
            else:
                self._write([f"ERROR: {mistake.in_one_line()}"])
        except FAULTS as error:
            self._failed(line, error)
        return "error"

    def _failed(self, line: str, error: BaseException) -> None:
        """A fault is answered in one line. One of ours is logged whole, one in what a plugin's statement answers as the plugin's."""
        plugin, generation = faults.blamed(error)
        if plugin:
            faults.report(self._session.world, plugin, f"the answer to {line.split()[0]}", error, generation)
            self._write([f"ERROR: plugin '{plugin}': {faults.describe(error)}"])
            return
        log.error("console, %(line)r: %(fault)s", {"event": "console_failed", "line": line[:100], "fault": repr(error)}, exc_info=error)
        self._write([f"ERROR: internal error: {type(error).__name__}: {error}"])

    async def _login(self, user: str | None, password: str | None) -> str:
        """LOGIN, as it was typed."""
        if not user or not password:
            self._write(["ERROR: usage: LOGIN USER PASSWORD"])
            return "error"
        if self._gate.closed:
            try:
                await self._gate.check(self._address, user, password.rstrip())
            except Denied as denied:
                self._failures += 1
                if self._failures >= MOST_FAILURES:
                    self._ended = True
                    self._lines.clear()
                    self._parting = f"ERROR: {denied.reason}"
                else:
                    self._write([f"ERROR: {denied.reason}"])
                return "error"
            self._user = user
            self._failures = 0
            self._gate.settled(self.transport)
            self._session.who = f"{user} at {self.peer_name}"
            self.deadline = inf
            log.info(
                "%(who)s: logged in to console %(service)s",
                {"event": "logged_in", "who": self._session.who, "service": self.service.name},
            )
        if self._session.verbose:
            self._write(["OK"])
        return "ok"

    async def _answer(self, reply: Reply, json: bool) -> str:
        """Write a reply, in pieces; what kind it was."""
        if reply is OK and not json:
            if self._session.verbose:
                self._write(["OK"])
            return "ok"
        piece: list[str] = []
        octets = 0
        width = self._session.view_width
        most = PIECE // 2 if json or width else PIECE
        lines: Iterator[str]
        if json:
            lines = itertools.chain(reply.as_json(), (".",))
        elif width:
            lines = itertools.chain(reply.as_table(View(width, self.service.world.clock.epoch())), (".",))
        else:
            lines = reply.as_text()
        for line in lines:
            piece.append(line)
            octets += len(line)
            if len(piece) == most or octets > PIECE_OCTETS:
                self._write(piece)
                piece, octets = [], 0
                await self._give_way()
                if self.transport.is_closing():
                    return "text"
        self._write(piece)
        if json or width or getattr(reply, "end_dot", True):
            return "list"
        instead = getattr(reply, "instead", False)
        if self._session.verbose and not self._session.closing and not self._session.marker and not instead:
            self._write(["OK"])
        return "text"

    async def _follow(self, reply: Live, json: bool) -> str:
        """Write an answer that goes on until a line comes. An empty one only ends it; any other is carried out then."""
        self._live = reply
        self._look_for_end()
        try:
            async with contextlib.aclosing(reply.lines(json)) as pieces:
                async for lines in pieces:
                    self._write(lines)
                    await self._give_way()
                    if self.transport.is_closing():
                        break
        finally:
            self._live = None
        if self._lines and not self._lines[0].strip():
            self._lines.popleft()
        self._write(["."])
        return "list"

    def _look_for_end(self) -> None:
        """End an answer that goes on, if a line has come or none will."""
        if self._live is not None and (self._lines or self._ended or self.transport.is_closing()):
            self._live.stop()

    def _write(self, lines: list[str]) -> None:
        if lines and not self.transport.is_closing():
            text = "".join(f"{line}\r\n" for line in lines)
            self.transport.write(text.encode("utf-8", "replace"))

    # -- like every connection -----------------------------------------------------------------------------------

    def shutdown(self, graceful: bool) -> None:
        """Close, after what was written has gone out if graceful, and after the answer that is being made."""
        if graceful and self._working:
            self._session.closing = True
        else:
            super().shutdown(graceful)
