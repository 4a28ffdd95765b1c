"""`watch COMMAND [SECONDS]`: the same answer again and again, on a screen of its own.

The screen is the terminal's second one, so what stood there before stands there afterwards. Each view is written in one piece over the
one before, line by line, so that nothing flickers. q and Control-C end it, every other key asks at once.
"""

import os
import re
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from pbal.terminal.interrupts import Interrupts
from pbal.terminal.screen import Screen, printable
from pbal.terminal.wire import Console, Lost

SECONDS: Final = 2.0
SHORTEST: Final = 0.1
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)s?")
_OPEN: Final = "\x1b[?1049h\x1b[?25l"
_CLOSE: Final = "\x1b[?25h\x1b[?1049l"
_LEAVE: Final = frozenset("qQ\x03\x04\x1b")


def divided(rest: str) -> tuple[str, float]:
    """The command and how often, in seconds: a number that stands last, if something stands before it."""
    words = rest.split()
    if len(words) > 1 and (found := _TIME.fullmatch(words[-1])):
        return rest[: rest.rindex(words[-1])].rstrip(), max(SHORTEST, float(found[1]))
    return rest, SECONDS


@contextmanager
def second_screen(screen: Screen) -> Iterator[None]:
    """The terminal's other screen, with keys that come one by one and are not shown."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        screen.out.write(_OPEN)
        yield
    finally:
        screen.out.write(_CLOSE)
        screen.out.flush()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def draw(screen: Screen, lines: Sequence[str]) -> None:
    """Lines from the top of the screen down; what is too long or too much is cut."""
    width, height = screen.width, screen.height
    shown = [cut(line, width) for line in lines[:height]]
    if len(lines) > height:
        shown[-1] = cut(f"... {len(lines) - height + 1} lines more", width)
    screen.out.write("\x1b[H" + "\x1b[K\r\n".join(shown) + "\x1b[K\x1b[J")
    screen.out.flush()


_ATTRIBUTE = re.compile(r"(\x1b\[[0-9;]*m)")


def cut(line: str, width: int) -> str:
    """A line of at most so many columns; attributes in it take none."""
    left = width
    shown: list[str] = []
    for place, part in enumerate(_ATTRIBUTE.split(line)):
        if place % 2:
            shown.append(part)
        else:
            shown.append(part[:left])
            left -= len(shown[-1])
    return "".join(shown)


class Watching:
    """Keys that end a view, and a pbal that may go and come back."""

    def __init__(self, interrupts: Interrupts, reconnect: Callable[[], None]) -> None:
        self.interrupts = interrupts
        self.reconnect = reconnect

    def key_within(self, seconds: float) -> str:
        """The key that is pressed within that time; '' if none is. At the end of input, what ends a view. Raises: KeyboardInterrupt."""
        keyboard = sys.stdin.fileno()
        if not self.interrupts.wait([keyboard], max(0.0, seconds)):
            return ""
        keys = os.read(keyboard, 64).decode("ascii", "replace") or "q"
        return "" if keys.startswith("\x1b") and len(keys) > 1 else keys[0]

    def again_and_again(self, screen: Screen, seconds: float, view: Callable[[], Sequence[str]]) -> None:
        """Draw a view until somebody has seen enough. Raises: NoConsole."""
        with second_screen(screen):
            try:
                while True:
                    began = time.monotonic()
                    try:
                        lines = view()
                    except Lost:
                        draw(screen, [])
                        self.reconnect()
                        continue
                    draw(screen, lines)
                    if self.key_within(seconds - (time.monotonic() - began)) in _LEAVE:
                        return
            except KeyboardInterrupt:
                return


def watch(console: Console, screen: Screen, rest: str, watching: Watching) -> None:
    """The same statement again and again. Raises: NoConsole, Lost."""
    command, seconds = divided(rest)
    if not command:
        screen.say("watch COMMAND [SECONDS], for example: watch show pool 5", "33")
        return
    if command.split()[0].lower() == "trace":
        screen.say("trace goes on by itself, until Enter", "33")
        return
    answer = console.ask(command)
    first = list(answer)
    if answer.refused and command != rest:  # the number was the statement's own
        answer = console.ask(rest)
        lines = list(answer)
        if not answer.refused:
            command, seconds, first = rest, SECONDS, lines
    if answer.refused:
        for line in first:
            screen.say(line, "31")
        return

    def view() -> list[str]:
        console.fit(screen.width)
        told = time.strftime("%H:%M:%S")
        title = f"{command}   (every {seconds:g} s, {told}; q ends)"
        lines = map(printable, console.ask(command))
        return [screen.painted(printable(title), "1"), "", *lines]

    watching.again_and_again(screen, seconds, view)
