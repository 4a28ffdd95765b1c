"""Searching with the regular expressions of operators, for a bounded time.

A target of eight thousand characters that nearly matches keeps Python's engine busy for a second with .*x.*y, and for ever with (a+)+$;
nothing else runs then. The engine cannot be told how long it may look. But it asks for signals every few thousand steps, and
what a signal's handler raises ends it: so a timer of the processor time that pbal uses is set before a search, and taken away behind it.
A busy machine does not make a search look long, for it is not the time of a clock.

Patterns that are `quick` (schema/regexes.py) need no timer, and most are. Handlers run in the main thread only: in another one a search
takes as long as it takes.

The obvious other ways: a thread would hold the interpreter's lock all the same; another engine would read other patterns.
"""

import re
import signal
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import FrameType
from typing import Final

from pbal.schema.regexes import quick

LONGEST: Final = 0.05
"""Seconds of processor time for one request's rules. Every other client waits as long; roles/chain.py names a hook that is slower."""


class TookTooLong(Exception):
    """A search was given up."""


class _Alarm:
    """The one timer of this process. The handler stays once it is there, and does nothing while no search runs."""

    def __init__(self) -> None:
        self.running = False
        self._main = threading.main_thread().ident

    def begin(self) -> bool:
        """Set the timer; False where that is not possible, or it runs already: what is in a search is a part of it."""
        if self.running or threading.get_ident() != self._main:
            return False
        if signal.getsignal(signal.SIGVTALRM) != self._rings:
            signal.signal(signal.SIGVTALRM, self._rings)
        self.running = True
        signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
        return True

    def end(self) -> None:
        self.running = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _rings(self, number: int, frame: FrameType | None) -> None:
        if self.running:
            self.running = False
            raise TookTooLong


_alarm: Final = _Alarm()


@lru_cache(maxsize=1000)
def _is_quick(pattern: bytes) -> bool:
    return quick(pattern.decode("utf-8", "replace"))


def is_quick(pattern: re.Pattern[bytes]) -> bool:
    """Whether a pattern needs no timer (schema/regexes.py)."""
    return _is_quick(pattern.pattern)


def found(pattern: re.Pattern[bytes], *texts: bytes) -> bool:
    """Whether one pattern is found in one of some texts; all searches together may take LONGEST seconds. Raises: TookTooLong."""
    if _is_quick(pattern.pattern) or not _alarm.begin():
        return any([pattern.search(text) is not None for text in texts])
    try:
        return any([pattern.search(text) is not None for text in texts])
    finally:
        _alarm.end()


def within(look: Callable[[], None]) -> None:
    """Do several searches in LONGEST seconds altogether. Nothing else is to be done there: it may end anywhere. Raises: TookTooLong."""
    if not _alarm.begin():
        look()
        return
    try:
        look()
    finally:
        _alarm.end()


class Searches:
    """Some patterns, in order, each of which is looked for in turn."""

    def __init__(self, patterns: Sequence[re.Pattern[bytes]]) -> None:
        self._patterns = tuple(patterns)
        self._quick = all(is_quick(pattern) for pattern in patterns)

    def first(self, text: bytes) -> int:
        """The place of the first pattern that is found in `text`; -1 if none is.

        Raises: TookTooLong after LONGEST seconds of processor time.
        """
        if self._quick or not _alarm.begin():
            return self._first(text)
        try:
            return self._first(text)
        finally:
            _alarm.end()

    def _first(self, text: bytes) -> int:
        for place, pattern in enumerate(self._patterns):
            if pattern.search(text):
                return place
        return -1
