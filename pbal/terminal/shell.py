"""The prompt: statements in turn, until Control-D.

Control-C drops the line that is typed, and ends an answer that goes on. When pbal ends or restarts, the client says so and waits for
it to come back; a statement that was under way is not sent a second time, because nobody knows whether it was carried out.
"""

import os
import sys
from collections.abc import Callable
from typing import Final

from pbal.terminal import top, watching
from pbal.terminal.editing import Reader
from pbal.terminal.interrupts import Interrupts
from pbal.terminal.screen import Screen
from pbal.terminal.wire import Console, LoginNeeded, Lost, NoConsole

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 1.0
_WARNING: Final = "33"
"""Yellow."""
_LEAVING: Final = frozenset({"quit", "exit"})
_LOCAL_HELP: Final = "watch COMMAND [SECONDS], top [SECONDS] and login USER are this client's own; Tab completes"


class Shell:
    """One person at one console."""

    def __init__(self, console: Console, reader: Reader, screen: Screen, ask_password: Callable[[str], str]) -> None:
        self.console = console
        self.reader = reader
        self.screen = screen
        self.interrupts = Interrupts()
        self.console.wait = self._wait
        self._following = False
        """What is said on the console goes on until Enter."""
        self._ask_password = ask_password
        self._own: dict[str, Callable[[str], None]] = {"watch": self._watch, "top": self._top, "login": self._login}

    def run(self) -> int:
        """Until the end of input; the exit status."""
        self._greet()
        while True:
            try:
                text = self.reader.read()
            except KeyboardInterrupt:
                continue
            except EOFError:
                self.screen.say("")
                return 0
            for line in text.split("\n"):
                if line.strip().lower() in _LEAVING:
                    return 0
                if line.strip() and not line.lstrip().startswith("#"):
                    with self.interrupts:
                        self.carry_out(line.strip())

    def _greet(self) -> None:
        for line in self.console.greeting:
            self.screen.say(line)

    def carry_out(self, line: str) -> None:
        """One statement, the client's or the server's."""
        word, _, rest = line.partition(" ")
        try:
            if not self.console.is_open():
                self.reconnect()
            own = self._own.get(word.lower())
            if own is not None:
                own(rest.strip())
            else:
                self._ask(line, word.lower())
        except Lost:
            self._lost(word.lower())
        except NoConsole as error:
            self.screen.say(str(error), _WARNING)
        except KeyboardInterrupt:
            self._interrupted()

    def _ask(self, line: str, word: str) -> None:
        self.console.fit(self.screen.width)
        answer = self.console.ask(line)
        if word == "trace":
            self._following = True
            try:
                self.screen.follow(answer)
            finally:
                self._following = False
            return
        if not self.screen.show(answer):
            self._leave_the_rest()
        if line.lower() in ("help", "?") and not answer.refused:
            self.screen.say(_LOCAL_HELP)

    def _wait(self, descriptor: int, seconds: float | None) -> None:
        """Wait until the server says something. While it tells a trace, Enter ends that. Raises: TimeoutError, KeyboardInterrupt."""
        keyboard = sys.stdin.fileno()
        while True:
            ready = self.interrupts.wait([descriptor, keyboard] if self._following else [descriptor], seconds)
            if descriptor in ready:
                return
            if not ready and seconds is not None:
                raise TimeoutError
            if keyboard in ready:
                os.read(keyboard, 4096)  # a line, as the terminal gives them
                self._following = False
                self.console.stop()

    def _interrupted(self) -> None:
        """Control-C while an answer comes, or while pbal is waited for: then the next statement connects."""
        self.screen.say("")
        if not self.console.is_open():
            return
        try:
            self.console.stop()
            self._leave_the_rest()
        except Lost:
            self._lost("")
        except NoConsole as error:
            self.screen.say(str(error), _WARNING)
        except KeyboardInterrupt:
            self.console.close()

    def _leave_the_rest(self) -> None:
        """Nobody wants to see what is left of the answer. Raises: NoConsole."""
        try:
            self.console.drain()
        except Lost:
            self.screen.say("the end of the answer is not waited for, on a new connection; the statement may go on", _WARNING)
            self.console.connect()

    # -- a connection that ends --------------------------------------------------------------------------------------

    def _lost(self, word: str) -> None:
        if word != "shutdown":
            self.screen.say("the connection ended before the answer did; whether the statement was carried out is not known", _WARNING)
        self._come_back()

    def _come_back(self) -> None:
        try:
            self.reconnect()
        except NoConsole as error:
            self.screen.say(str(error), _WARNING)
        except KeyboardInterrupt:
            self.screen.say("")

    def reconnect(self) -> None:
        """Wait for pbal to come back. Raises: LoginNeeded, KeyboardInterrupt."""
        self.screen.say(f"pbal at {self.console.address} has closed the connection; connecting again (Ctrl-C gives up)", _WARNING)
        wait = _FIRST_WAIT
        while True:
            try:
                self.console.connect()
            except LoginNeeded:
                raise
            except NoConsole:
                self.interrupts.wait([], wait)
                wait = min(_LONGEST_WAIT, wait * 1.5)
                continue
            self.screen.say("connected again; what was USEd and VERBOSE are as at the beginning", _WARNING)
            return

    # -- statements of the client ------------------------------------------------------------------------------------

    def _watch(self, rest: str) -> None:
        watching.watch(self.console, self.screen, rest, watching.Watching(self.interrupts, self.reconnect))

    def _top(self, rest: str) -> None:
        top.top(self.console, self.screen, rest, watching.Watching(self.interrupts, self.reconnect))

    def _login(self, rest: str) -> None:
        user = rest.split()[0] if rest else ""
        if not user:
            self.screen.say("login USER, and the password when asked", _WARNING)
            return
        self.console.log_in_as(user, lambda: self._password_of(user))
        self.screen.say(f"logged in as {user}")

    def _password_of(self, user: str) -> str:
        with self.interrupts.suspended():
            return self._ask_password(user)
