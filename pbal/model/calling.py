"""The call of one hook: the one place where a plugin's code is entered for a request. What it raises comes back as a value.

The time of each call is counted, and one that holds the loop up is logged with its line. A hook that hands a request on has the time until
then, and not that of the service which serves it (`handed_at`).

`running` names the hook that runs now, for whoever finds the loop standing still. Who judges what came back stands in roles/chain.py.
"""

import inspect
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Final

from pbal.model import faults
from pbal.model.bound import Bound, Bounds
from pbal.model.searching import TookTooLong

if TYPE_CHECKING:
    from pbal.model.chained import Chained
    from pbal.model.world import World

SLOW: Final = 0.05
"""Seconds in one hook after which the log names it. Every other client waits as long; people notice a tenth of a second, and a
page of chat makes two requests in a row."""

running: Bound | None = None

handed_at: float = 0.0
"""When a request was handed on last (clock time)."""


class Failed:
    """In place of what a hook returns: what it raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def call(world: "World", bound: Bound, exchange: object, more: object = None) -> object:
    """Call a hook with the exchange, and with `more` unless that is None. What it returned, or Failed."""
    global running
    now = world.clock.now
    outer = running
    running = bound
    returned: object = None
    began: float = now()
    try:
        returned = bound.call(exchange) if more is None else bound.call(exchange, more)
    except faults.CAUGHT as error:
        returned = Failed(error)
    running = outer
    ended: float = handed_at
    if ended < began:
        ended = now()
    spent = ended - began
    timing = bound.timing
    timing.calls += 1
    timing.seconds += spent
    if spent > timing.slowest:
        timing.slowest = spent
        if spent > SLOW:
            _slow(world, bound, spent)
    elif spent > SLOW:
        _slow(world, bound, spent)
    return returned


def handed(at: float) -> None:
    """A request was handed on, at `at` (clock time), and the service that got it has begun."""
    global handed_at
    handed_at = at


def tell(service: "Chained", hooks: Bounds, exchange: object) -> None:
    """Call hooks that only hear of something: nothing that they do or return decides anything."""
    world = service.world
    for bound in hooks:
        returned = call(world, bound, exchange)
        if returned is None:
            continue
        if isinstance(returned, Failed):
            raised(service, bound, returned)
        elif isinstance(returned, CoroutineType):
            returned.close()
            faults.tell(world, bound.plugin, f"hook {bound.hook}", "returned a coroutine that nobody runs", place(bound))
            service.failed(bound.plugin)


def raised(service: "Chained", bound: Bound, failed: Failed) -> None:
    """What a hook raised is a fault of its plugin, but for a search that took too long: that is the client's doing, and counted as such."""
    world = service.world
    if isinstance(failed.error, TookTooLong):
        world.counters.counts["regex_timeouts"] += 1
        world.log_limited(
            f"regex timeout {service.name}",
            "service %(service)s, plugin %(plugin)s, hook %(hook)s: a regular expression took too long over a request",
            {"event": "regex_timeout", "service": service.name, "plugin": bound.plugin, "hook": bound.hook},
        )
        return
    faults.report(world, bound.plugin, f"hook {bound.hook}", failed.error, at=place(bound))
    service.failed(bound.plugin)


def place(bound: Bound) -> str:
    """`file.py:line` of a hook's definition."""
    code = getattr(inspect.unwrap(bound.call), "__code__", None)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else ""


def _slow(world: "World", bound: Bound, spent: float) -> None:
    """Log a hook that held the loop up."""
    world.log_limited(
        f"slow {bound.plugin} {bound.hook}",
        "plugin %(plugin)s, hook %(hook)s held up every connection for %(ms)d ms (%(place)s)",
        {"event": "slow_hook", "plugin": bound.plugin, "hook": bound.hook, "ms": round(spent * 1000), "place": place(bound)},
    )
