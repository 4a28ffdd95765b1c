"""Running the hooks of a service. The one place where a hook's fault is found: it fails closed.

A request goes on only when every hook said PASS and left it alone. What a hook raised, a verdict that is none, and a PASS for
a request that the hook answered, parked or handed on, are faults of that plugin: the chain stops there, and the request
is answered with 500 unless something has answered it.

`running` names the hook that runs now, for whoever finds the loop standing still.
"""

import inspect
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from pbal.http1.encoder import IllegalField, render_fields
from pbal.http1.events import ResponseHead
from pbal.model import faults
from pbal.model.exchange import NEW, PARKED, SERVED, Exchange
from pbal.model.hooks import Bound, Verdict
from pbal.model.service import Service
from pbal.model.world import World
from pbal.observe.recent import Trouble

SLOW = 0.05
"""Seconds in one hook after which the log names it. Every other client waits as long; people notice a tenth of a second, and a
page of chat makes two requests in a row."""

running: Bound | None = None

_told_until = 0.0
"""When the last slow hook ended: a hook that ran it, by handing a request on, is not blamed for the same time again."""

_PASS, _TAKEN = Verdict.PASS, Verdict.TAKEN


def run(hooks: tuple[Bound, ...], exchange: Exchange) -> bool:
    """Call hooks in order until one takes the exchange; True when one did, or failed."""
    global running
    service = exchange.service
    now = service.world.clock.now
    outer = running
    began = now()
    for bound in hooks:
        running = bound
        verdict: object = None
        failure: BaseException | None = None
        try:
            verdict = bound.call(exchange)
        except faults.CAUGHT as error:
            failure = error
        running = outer
        ended = now()
        if ended - began > SLOW:
            _slow(service.world, bound, began, ended)
        began = ended
        if verdict is _TAKEN:
            if exchange.stage is NEW and exchange.service is service:
                exchange.taken_by(bound.plugin)
            return True
        if verdict is not _PASS or exchange.stage is not NEW or exchange.service is not service:
            _stop(service, exchange, bound, verdict, failure, _wrong(service, exchange, verdict))
            return True
    return False


def wanting(hooks: tuple[Bound, ...], exchange: Exchange) -> tuple[Bound, ...] | None:
    """The hooks whose plugins want the body whole; None when one failed to say (its request is answered then)."""
    service = exchange.service
    found: list[Bound] = []
    for bound in hooks:
        failure: BaseException | None = None
        wants: object = None
        try:
            wants = bound.wants_body(exchange)
        except faults.CAUGHT as error:
            failure = error
        if failure is not None or not isinstance(wants, bool) or exchange.stage is not NEW or exchange.service is not service:
            said = f"returned {wants!r:.60}" if not isinstance(wants, bool) else "answered the request or handed it on"
            _stop(service, exchange, bound, wants, failure, f"wants_body() {said}; it is to return True or False and do nothing else")
            return None
        if wants:
            found.append(bound)
    return tuple(found)


def run_all(hooks: tuple[Bound, ...], exchange: Exchange, response: ResponseHead) -> bool:
    """Call all hooks with a response; False when one failed or left what cannot be sent (its request is answered then).

    Status and reason are not a hook's: some statuses have no body, and this one's is on its way.
    """
    global running
    service = exchange.service
    status, reason = response.status, response.reason
    now = service.world.clock.now
    outer = running
    began = now()
    for bound in hooks:
        running = bound
        returned: object = None
        failure: BaseException | None = None
        try:
            returned = bound.call(exchange, response)
            response.headers = list(response.headers)  # an iterator could be read once
            render_fields(response.headers)
            if response.status != status or response.reason != reason:
                raise IllegalField("only the headers of a response may be changed, not its status or reason")
        except faults.CAUGHT as error:
            failure = error
        running = outer
        ended = now()
        if ended - began > SLOW:
            _slow(service.world, bound, began, ended)
        began = ended
        if failure is not None or exchange.answered or (returned is not None and _unfinished(returned)):
            _stop(service, exchange, bound, returned, failure, _wrong(service, exchange, returned))
            return False
    return True


def any_says(hooks: tuple[Bound, ...], exchange: Exchange) -> bool:
    """Whether one of the hooks returns True. One that fails, or returns what is no bool, is reported and says nothing: its request waits.

    The request is served all the same. That it waits in another place than it should harms nobody else.
    """
    global running
    service = exchange.service
    now = service.world.clock.now
    outer = running
    for bound in hooks:
        began = now()
        running = bound
        said: object = None
        failure: BaseException | None = None
        try:
            said = bound.call(exchange)
        except faults.CAUGHT as error:
            failure = error
        running = outer
        ended = now()
        if ended - began > SLOW:
            _slow(service.world, bound, began, ended)
        if failure is not None:
            faults.report(service.world, bound.plugin, f"hook {bound.hook}", failure)
        elif not isinstance(said, bool):
            wrong = f"returned {said!r:.60}, not True or False"
            faults.tell(service.world, bound.plugin, f"hook {bound.hook}", wrong, _place(bound))
            if isinstance(said, CoroutineType):
                said.close()
        elif said:
            return True
    return False


def _stop(service: Service, exchange: Exchange, bound: Bound, returned: object, failure: BaseException | None, wrong: str) -> None:
    """A hook's fault: count it, log it, and answer the request unless that is done or another's business."""
    what = f"hook {bound.hook}"
    exchange.trouble = Trouble(f"plugin {bound.plugin}, {what}: {wrong if failure is None else faults.describe(failure)}")
    if failure is not None:
        faults.report(service.world, bound.plugin, what, failure)
    else:
        faults.tell(service.world, bound.plugin, what, wrong, _place(bound))
    if isinstance(returned, CoroutineType):
        returned.close()
    if failure is not None or exchange.stage in (NEW, SERVED, PARKED):
        exchange.owner = exchange.owner or bound.plugin
        exchange.fail(500, b"A plugin failed.\n")


def _wrong(service: Service, exchange: Exchange, returned: object) -> str:
    """What is wrong with what a hook returned, or did and did not say."""
    if _unfinished(returned):
        return f"returned a {type(returned).__name__} that nobody runs: a hook is called, not awaited"
    if not isinstance(returned, Verdict) and returned is not None:
        return f"returned {returned!r:.60}, not Verdict.PASS or Verdict.TAKEN"
    if exchange.service is not service:
        return "handed the request on and did not return Verdict.TAKEN"
    if exchange.answered:
        return "answered the request and did not return Verdict.TAKEN"
    return "returned None, not Verdict.PASS or Verdict.TAKEN"


def _unfinished(returned: object) -> bool:
    """Whether it is a body of code that did not run."""
    if returned is _PASS or returned is _TAKEN:
        return False
    return isinstance(returned, CoroutineType | GeneratorType | AsyncGeneratorType) or inspect.isawaitable(returned)


def _place(bound: Bound) -> str:
    """`file.py:line` of a hook's definition."""
    code = getattr(inspect.unwrap(bound.call), "__code__", None)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else ""


def _slow(world: World, bound: Bound, began: float, ended: float) -> None:
    """Log a hook that held the loop up."""
    global _told_until
    spent = ended - max(began, _told_until)
    _told_until = ended
    if spent <= SLOW:
        return
    place = _place(bound)
    world.log_limited(
        f"slow {bound.plugin} {bound.hook}",
        "plugin %(plugin)s, hook %(hook)s held up every connection for %(ms)d ms (%(place)s)",
        {"event": "slow_hook", "plugin": bound.plugin, "hook": bound.hook, "ms": round(spent * 1000), "place": place},
    )
