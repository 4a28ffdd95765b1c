"""Answers on the screen of a person: a page at a time, and nothing in them that would move the cursor.

What a console prints holds what strangers sent: paths, names of queues. Octets that a terminal takes for commands are shown, not
obeyed. An answer longer than the screen goes through $PAGER (less, where that is not set); what is left of it when the pager is
closed is not asked for any more.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO, Final, TextIO

from pbal.terminal.wire import Answer

_COMMANDS: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LESS: Final = "FRSX"
"""What less is asked to do where LESS says nothing: end where all fits, show colours, cut lines, leave the screen as it is."""


def printable(text: str) -> str:
    """Text in which what a terminal would obey is written as an escape."""
    return _COMMANDS.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text)


class Screen:
    """Where a person reads."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.colour = self.out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"

    @property
    def width(self) -> int:
        """Columns."""
        return shutil.get_terminal_size().columns

    @property
    def height(self) -> int:
        """Lines."""
        return shutil.get_terminal_size().lines

    def say(self, text: str, emphasis: str = "") -> None:
        """A line of the client's own."""
        print(self.painted(printable(text), emphasis), file=self.out, flush=True)

    def painted(self, text: str, emphasis: str) -> str:
        """With the attribute of that number (ECMA-48, SGR), where colours are wanted."""
        return f"\x1b[{emphasis}m{text}\x1b[0m" if self.colour and emphasis else text

    def show(self, answer: Answer) -> bool:
        """An answer, through the pager if it is long. False: it was not read to its end. Raises: Lost."""
        lines = map(printable, answer)
        held: list[str] = []
        rows = 0
        for line in lines:
            held.append(line)
            rows += 1 + max(0, len(line) - 1) // max(1, self.width)
            if rows >= self.height - 1:
                return self._paged(chain(held, lines))
        if answer.kind == "ok":
            held = held or ["OK"]
        for line in held:
            print(self.painted(line, "31") if answer.refused else line, file=self.out)
        self.out.flush()
        return True

    def follow(self, answer: Answer) -> None:
        """An answer whose lines are shown as they come. Raises: Lost."""
        for line in answer:
            print(printable(line), file=self.out, flush=True)

    def _paged(self, lines: Iterator[str]) -> bool:
        pager = self._pager()
        if pager is None:
            return self._written(lines, self.out)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the pager's
        try:
            assert pager.stdin is not None
            complete = self._written(lines, pager.stdin)
            try:
                pager.stdin.close()
            except BrokenPipeError:
                complete = False
            pager.wait()
        finally:
            signal.signal(signal.SIGINT, before)
        return complete

    def _written(self, lines: Iterable[str], to: IO[str]) -> bool:
        try:
            for line in lines:
                to.write(line + "\n")
            to.flush()
        except BrokenPipeError:
            return False
        return True

    def _pager(self) -> "subprocess.Popen[str] | None":
        """None if there is none, or it is not wanted."""
        try:
            command = shlex.split(os.environ.get("PAGER", "less"))
        except ValueError:
            return None
        if not command or command == ["cat"] or not self.out.isatty():
            return None
        try:
            environment = {"LESS": _LESS, **os.environ}
            return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)
        except OSError:
            return None
