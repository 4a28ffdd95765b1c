"""Coroutines for slow paths (memcached, connects, disk), each with an owner.

A bare asyncio.create_task may be collected while it runs, and its exception is seen by nobody. Tasks started here
are held, named, cancelled with their owner, and what they raise is logged in one line.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("pbal.tasks")
_owned: dict[int, tuple[object, set[asyncio.Task[Any]]]] = {}
"""By the id of the owner, who is held as long as a task of his runs: compiled classes cannot be referenced weakly."""


def spawn(owner: object, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Run `coroutine` on the running loop on behalf of `owner`."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _, held = _owned.setdefault(id(owner), (owner, set()))
    held.add(task)

    def ended(done: asyncio.Task[Any]) -> None:
        held.discard(done)
        if not held:
            _owned.pop(id(owner), None)
        if not done.cancelled() and done.exception() is not None:
            fault = done.exception()
            fields = {"event": "task_failed", "task": name, "fault": repr(fault)}
            log.error("%(task)s failed: %(fault)s", fields, exc_info=fault if log.isEnabledFor(logging.DEBUG) else None)

    task.add_done_callback(ended)
    return task


def cancel_all(owner: object) -> None:
    """Cancel every task of `owner`."""
    _, held = _owned.get(id(owner), (owner, set()))
    for task in list(held):
        task.cancel()


def running() -> list[str]:
    """Names of all tasks held, for `show tasks` and for tests that look for leaks."""
    return sorted(task.get_name() for _, held in _owned.values() for task in held)
