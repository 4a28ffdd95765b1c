"""One change of a running World: prepared, then committed, or rolled back to exactly what was.

    with Change() as change:
        ...                              what can fail: parse, check, import, bind, open
        change.undo(step, ...)           takes back what was just done; the last is taken back first
        change.then(step, ...)           what cannot fail: swap, close the old, begin to listen; in this order

Leaving the block commits; an exception in it rolls back and goes on its way. Nothing in the block waits, and only one change is under way
at a time (commands/interpreter.py sees to it), so nobody sees half of one.
"""

import logging
from collections.abc import Callable
from functools import partial
from types import TracebackType

log = logging.getLogger("pbal")


class Change:
    """What is done if it succeeds, and what if it fails."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._then: list[Callable[[], object]] = []

    def undo(self, step: Callable[..., object], *args: object) -> None:
        """On a failure, do this; what was said last is done first."""
        self._undo.append(partial(step, *args))

    def then(self, step: Callable[..., object], *args: object) -> None:
        """On success, do this, in the order said."""
        self._then.append(partial(step, *args))

    def __enter__(self) -> "Change":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for step in self._then if kind is None else reversed(self._undo):
            try:
                step()
            except Exception as fault:  # a fault of ours: the other steps are to be done all the same
                log.error("%s failed: %r", step.func if isinstance(step, partial) else step, fault, exc_info=fault)
