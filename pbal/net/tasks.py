"""Coroutines for slow paths (memcached, connects, disk), each with an owner.

A bare asyncio.create_task may be collected while it runs, and its exception is seen by nobody. Tasks started here
are held, named, cancelled with their owner, and what they raise is logged in one line: a plugin's as a fault of the plugin.
"""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from pbal.model import faults
from pbal.model.plugin import Plugin

log = logging.getLogger("pbal.tasks")
T = TypeVar("T")

_left: set[asyncio.Task[Any]] = set()
"""What `within` waits for, or has given up."""
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
        fault = None if done.cancelled() else done.exception()
        if fault is not None:
            _failed(owner, name, fault)

    task.add_done_callback(ended)
    return task


class NotInTime(Exception):
    """Something did not end in its time."""


async def within(seconds: float, waiting: Awaitable[T]) -> T:
    """Wait for what somebody else wrote, which may not end, and may not let itself be cancelled either.

    Raises: what it raises; NotInTime when the time is over. It is cancelled then, and left to itself.
    """
    task = asyncio.ensure_future(_outcome(waiting))
    _left.add(task)
    task.add_done_callback(_left.discard)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not task.done():
        task.cancel()
        raise NotInTime
    found = task.result()
    if isinstance(found, _Raised):
        raise found.error
    return found


class _Raised:
    """In place of a result: what was raised. It is no exception of the task: one that ends programs would stop the loop."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _outcome(waiting: Awaitable[T]) -> T | _Raised:
    try:
        return await waiting
    except faults.CAUGHT as error:
        return _Raised(error)


def _failed(owner: object, name: str, fault: BaseException) -> None:
    """Tell what a task raised. What would end a program stopped the loop, and whoever turns that tells of it (life/looping.py)."""
    stopped = isinstance(fault, SystemExit | KeyboardInterrupt)
    if isinstance(owner, Plugin):
        plugin, generation = faults.author(owner)
        if not stopped:
            faults.report(owner.world, plugin, f"task '{name}'", fault, generation)
        if owner.service.plugin(plugin) is owner:  # and not one of the generation before
            owner.service.failed(plugin)
    elif not stopped:
        _log_it(name, fault)


def _log_it(name: str, fault: BaseException) -> None:
    fields = {"event": "task_failed", "task": name, "fault": faults.describe(fault)}
    log.error("%(task)s failed: %(fault)s", fields, exc_info=fault if log.isEnabledFor(logging.DEBUG) else None)


def cancel_all(owner: object) -> None:
    """Cancel every task of `owner`."""
    _, held = _owned.get(id(owner), (owner, set()))
    for task in list(held):
        task.cancel()


def running() -> list[str]:
    """Names of all tasks held, for `show tasks` and for tests that look for leaks."""
    return sorted(task.get_name() for _, held in _owned.values() for task in held)
