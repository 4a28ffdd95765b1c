"""One change of a running World: prepared, then committed, or rolled back to exactly what was.

    with world.changing() as change:
        ...                              what decides: names and values, put in place at once
        change.undo(step, ...)           takes back what was just done; the last is taken back first
        change.later(phase, step, ...)   at the end of the block, when all of the change is said: what can still fail
        change.then(step, ...)           what cannot fail: close the old, begin to listen; in this order

Leaving the block runs the later steps, phase by phase, and commits; an exception rolls back and goes on its way. A change inside another is
part of it: a console statement is a change of one, RELOAD CONFIG one of all that differs, so what can only be judged together (two tunables
that fit each other, an address that goes from one service to another) is judged at the end. Nothing in the block waits, and only one change
is under way at a time (commands/interpreter.py sees to it), so nobody sees half of one.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import IntEnum
from functools import partial
from types import TracebackType
from typing import Any

log = logging.getLogger("pbal")


class Phase(IntEnum):
    """What is done at the end of a change, in this order."""

    CHECK = 0
    """Does it fit together? Takes nothing, changes nothing."""
    TAKE = 1
    """Addresses, files, what plugins open. Each step says its undo."""
    TELL = 2
    """Plugins hear what was set; they may refuse."""


class Change:
    """What is done if it succeeds, and what if it fails."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._later: dict[tuple[object, ...], tuple[Phase, Callable[[], object]]] = {}
        self._then: list[Callable[[], object]] = []
        self.decided = False
        """Whether it is being committed or rolled back: what somebody changes then is another change."""

    def undo(self, step: Callable[..., object], *args: object) -> None:
        """On a failure, do this; what was said last is done first."""
        self._undo.append(partial(step, *args))

    def later(self, phase: Phase, step: Callable[..., object], *args: object) -> None:
        """At the end of the change, do this; it may fail. The same step with the same arguments, which are hashable, is done once."""
        self._later.setdefault((phase, step, *args), (phase, partial(step, *args)))

    def then(self, step: Callable[..., object], *args: object) -> None:
        """On success, do this, in the order said."""
        self._then.append(partial(step, *args))

    def __enter__(self) -> "Change":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._decide(reversed(self._undo))
            return
        try:
            while self._later:  # a plugin that is asked or told may change more
                steps, self._later = list(self._later.values()), {}
                for _, step in sorted(steps, key=lambda each: each[0]):
                    step()
        except BaseException:
            self._decide(reversed(self._undo))
            raise
        self._decide(self._then)

    def _decide(self, steps: Iterable[Callable[[], object]]) -> None:
        self.decided = True
        self._all(steps)

    def _all(self, steps: Iterable[Callable[[], object]]) -> None:
        for step in steps:
            try:
                step()
            except Exception as fault:  # a fault of ours: the other steps are to be done all the same
                fields = {"event": "step_failed", "step": str(step.func if isinstance(step, partial) else step), "fault": repr(fault)}
                log.error("%(step)s failed: %(fault)s", fields, exc_info=fault)


BeginChange = Callable[[], AbstractContextManager[Change]]
"""A change for a `with` block, or the one that is under way."""


def restore(names: dict[str, Any], before: dict[str, Any]) -> None:
    """Make a table again what it was; the table stays the same object."""
    names.clear()
    names.update(before)
