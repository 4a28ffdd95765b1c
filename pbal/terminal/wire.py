"""One connection to a console: statements out, answers in.

Life: connect -> [LOGIN] -> MARK -> statements, one at a time -> closed, by us or by a pbal that ends.

Where an answer ends is not guessed from what it says. The first statement is MARK with a random word, and from then on each answer
ends with a line of that word and what the answer was. A configuration that holds a line '.' or 'OK' is printed whole, and what was
asked for a completion and came too late is passed over: its mark is waited for before the next answer is read (`_owed`).

Everything blocks: the client has one person, and one answer at a time. A completion is asked from a thread of the editor, and only while
no answer is owed; a statement that is sent meanwhile waits for it, a second at most.
"""

import contextlib
import json
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import quote

from pbal.terminal.target import Address

CONNECT_SECONDS: Final = 10.0
"""For the connection, and for the first answers on it."""
DRAIN_SECONDS: Final = 2.0
"""For the rest of an answer that nobody wants to see any more; then the connection is given up."""
_PIECE: Final = 65536
_MOST_BEFORE: Final = 20
"""Lines that come before the first mark, at most; who says more is no console."""
_LONGEST_LINE: Final = 1 << 28
"""Octets. A line holds a message at most, and who sends this much without an end is no console."""


class Lost(Exception):
    """The connection ended before the answer did."""


class NoConsole(Exception):
    """There is no console to speak to; the message is for a person."""


class LoginNeeded(NoConsole):
    """The console wants to know who it is, or does not believe it."""

    def __init__(self, console: "Console", message: str) -> None:
        super().__init__(message)
        self.console = console


class Answer:
    """The lines of one answer, as they come: without the dot and the OK that end it on the wire. To be read to its end."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.kind = ""
        """ok, list, text or error, once the last line was read."""

    def __iter__(self) -> Iterator[str]:
        """Lines; one that may be the end is held back until it is known not to be."""
        held = ""
        for line in self._lines:
            if held:
                yield held
            held = line if line in (".", "OK") else ""
            if not held:
                yield line
        if held and (self.kind, held) not in (("list", "."), ("ok", "OK")):
            yield held

    @property
    def refused(self) -> bool:
        """Whether the statement was refused; once the last line was read."""
        return self.kind == "error"


class Console:
    """A connection. Raises Lost where it ends; `connect` begins anew."""

    def __init__(self, address: Address, *, user: str = "", password: Callable[[], str] | None = None, json: bool = False) -> None:
        self.address = address
        self.user = user
        self.json = json
        self.terminal = 0
        """Columns of the terminal that answers are for; 0: answers are for a program."""
        self.greeting: list[str] = []
        self.wait: Callable[[int, float | None], None] | None = None
        """How the server is waited for, by who watches something else meanwhile: the descriptor, and for how long. Raises: TimeoutError."""
        self._password = password
        self._secret: str | None = None
        self._columns = 0
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._marker = ""
        self._owed = 0
        self._lock = threading.Lock()

    # -- the connection --------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, log in, and agree on how answers end. Raises: NoConsole."""
        self.close()
        try:
            self._socket = self.address.connect(CONNECT_SECONDS)
        except OSError as error:
            raise NoConsole(f"cannot connect to {self.address}: {error.strerror or error}") from error
        self._buffer, self._owed = b"", 0
        try:
            self._introduce()
        except (Lost, TimeoutError) as error:
            self.close()
            raise NoConsole(f"{self.address} does not answer as a console does") from error
        except (NoConsole, KeyboardInterrupt):
            self.close()
            raise
        assert self._socket is not None
        self._socket.settimeout(None)

    def log_in_as(self, user: str, password: Callable[[], str]) -> None:
        """Go on as somebody else, on a new connection. If the console does not believe it, all stays as it was. Raises: NoConsole."""
        other = Console(self.address, user=user, password=password, json=self.json)
        other.terminal, other.wait = self.terminal, self.wait
        other.connect()
        self.close()
        self.user, self._password, self._secret = other.user, other._password, other._secret
        self._socket, self._buffer, self._marker, self._owed = other._socket, other._buffer, other._marker, other._owed
        self._columns, self.greeting = other._columns, other.greeting

    def _log_in(self) -> None:
        if self._secret is None:
            self._secret = self._password() if self._password is not None else ""
        if len(self.user.split()) != 1 or "\n" in self._secret:
            raise LoginNeeded(self, "a user is one word, and a password one line")
        self._send(f"LOGIN {self.user} {self._secret}")
        if (line := self._line()) != "OK":
            self._secret = None
            raise LoginNeeded(self, f"{self.address}: {line.removeprefix('ERROR: ')}")

    def _introduce(self) -> None:
        if self.user:
            self._log_in()
        self._marker = "end-" + secrets.token_hex(8)
        self._send(f"MARK {self._marker}{' JSON' if self.json else ''}")
        before = 0
        while (line := self._line()) != self._marker + (" list" if self.json else " ok"):
            before += 1
            if before > _MOST_BEFORE:
                raise Lost
            if line.startswith("ERROR: ") and "LOGIN" in line:
                raise LoginNeeded(self, f"{self.address}: {line.removeprefix('ERROR: ')}")
            if line.startswith("ERROR: "):
                raise NoConsole(f"{self.address} is no console of this version of pbal, it says: {line.removeprefix('ERROR: ')}")
        self._columns = 0
        self.greeting = self.fit(self.terminal) if self.terminal else []

    def fit(self, columns: int) -> list[str]:
        """Have answers made for a terminal of so many columns; what is said to it. Raises: Lost."""
        if columns == self._columns:
            return []
        self._columns = columns
        answer = self.ask(f"TERMINAL {columns}")
        lines = list(answer)
        return [] if answer.refused else lines

    def close(self) -> None:
        """End it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def is_open(self) -> bool:
        """Whether it still stands, as far as can be seen without asking."""
        if self._socket is None:
            return False
        readable, _, _ = select.select([self._socket], [], [], 0)
        try:
            return not readable or self._socket.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise Lost
        return self._socket

    # -- statements ------------------------------------------------------------------------------------------------

    def ask(self, statement: str) -> Answer:
        """Send one statement; its answer, to be read to its end. Raises: Lost, there or here."""
        assert statement.strip() and "\n" not in statement, "an empty line has no answer"
        answer = Answer(iter(()))
        answer._lines = self._kept(answer) if statement.split()[0].lower() == "mark" else self._asked(statement, answer)
        return answer

    def _kept(self, answer: Answer) -> Iterator[str]:
        """Refuses the statement that would take away what the ends of answers are known by."""
        answer.kind = "error"
        yield "ERROR: pbal console itself uses MARK on this connection: programs that want it connect to the console themselves"

    def _asked(self, statement: str, answer: Answer) -> Iterator[str]:
        with self._lock:
            self._settle()
            self._send(statement)
            self._owed += 1
        for line in self._to_the_mark():
            if line.startswith(self._marker + " "):
                answer.kind = line.partition(" ")[2]
            else:
                yield line

    def _settle(self) -> None:
        """Pass over answers that were asked for and not read."""
        while self._owed:
            for _ in self._to_the_mark():
                pass

    def _to_the_mark(self) -> Iterator[str]:
        """The lines up to the mark, and the mark."""
        while True:
            line = self._line()
            if line.startswith(self._marker + " "):
                self._owed -= 1
                yield line
                return
            yield line

    def stop(self) -> None:
        """End a `trace`: an empty line, which nothing else heeds. Raises: Lost."""
        self._send("")

    def drain(self) -> None:
        """Read what is left of the answers asked for; where that takes long, give the connection up. Raises: Lost."""
        sock = self._connected()
        sock.settimeout(DRAIN_SECONDS)
        end = time.monotonic() + DRAIN_SECONDS
        try:
            while self._owed:
                for _ in self._to_the_mark():
                    if time.monotonic() > end:
                        raise Lost
            sock.settimeout(None)
        except (TimeoutError, Lost):
            self.close()
            raise Lost from None

    def completions(self, text: str, seconds: float) -> dict[str, object] | None:
        """What COMPLETE says of a line; None if the connection is at work, or too slow, or gone."""
        if not self._lock.acquire(blocking=False):
            return None
        sock = self._socket
        try:
            if sock is None or self._owed:
                return None
            sock.settimeout(seconds)
            self._send(f"COMPLETE {quote(text, safe='')} AS JSON")
            self._owed += 1
            *lines, mark = self._to_the_mark()
            if not mark.endswith(" list"):
                return None
            found: dict[str, object] = json.loads("".join(lines[:-1]))
            return found
        except (OSError, Lost, ValueError):
            return None
        finally:
            if sock is not None and sock is self._socket:
                with contextlib.suppress(OSError):
                    sock.settimeout(None)
            self._lock.release()

    # -- octets ----------------------------------------------------------------------------------------------------

    def _send(self, line: str) -> None:
        try:
            self._connected().sendall(line.encode("utf-8", "surrogateescape") + b"\n", socket.MSG_NOSIGNAL)
        except TimeoutError:
            raise
        except OSError:
            self.close()
            raise Lost from None

    def _line(self) -> str:
        """The next line. Raises: Lost, TimeoutError."""
        while (end := self._buffer.find(b"\n")) < 0:
            sock = self._connected()
            if self.wait is not None:
                self.wait(sock.fileno(), sock.gettimeout())
            try:
                data = sock.recv(_PIECE)
            except TimeoutError:
                raise
            except OSError:
                data = b""
            if not data or len(self._buffer) > _LONGEST_LINE:
                self.close()
                raise Lost
            self._buffer += data
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line.removesuffix(b"\r").decode("utf-8", "replace")
