"""Running the hooks of a service, and judging what they return. It fails closed.

A request goes on only when every hook said PASS and left it alone. What a hook raised, a verdict that is none, and a PASS for
a request that the hook answered, parked or handed on, are faults of that plugin: the chain stops there, and the request
is answered with 500 unless something has answered it.

How a hook is called, timed and caught stands in model/calling.py.
"""

import inspect
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Final

from pbal.http1.encoder import IllegalField, render_fields
from pbal.http1.events import ResponseHead
from pbal.model import faults
from pbal.model.bound import Bound, Bounds
from pbal.model.calling import Failed, call, place, raised
from pbal.model.exchange import NEW, PARKED, SERVED, Exchange
from pbal.model.hooks import Verdict
from pbal.model.pool import Pool
from pbal.model.searching import TookTooLong
from pbal.model.service import Service
from pbal.observe.recent import Trouble
from pbal.roles.searched import given_up

_PASS, _TAKEN = Verdict.PASS, Verdict.TAKEN
_BODILESS: Final = frozenset({204, 205, 304})


def run(hooks: Bounds, exchange: Exchange, more: object = None) -> bool:
    """Call hooks in order until one takes the exchange; True when one did, or failed. They get `more`, too, unless it is None."""
    service = exchange.service
    world = service.world
    for bound in hooks:
        verdict = call(world, bound, exchange, more)
        if verdict is _TAKEN:
            if exchange.collecting:
                exchange.owner = bound.plugin
            elif exchange.stage is NEW and exchange.service is service:
                exchange.taken_by(bound.plugin)
            return True
        if verdict is not _PASS or exchange.stage is not NEW or exchange.service is not service:
            _stop(service, exchange, bound, verdict, _wrong(service, exchange, verdict))
            return True
    return False


def wanting(hooks: Bounds, exchange: Exchange) -> Bounds | None:
    """The hooks whose plugins want the body whole; None when one failed to say (its request is answered then)."""
    service = exchange.service
    found: list[Bound] = []
    for bound in hooks:
        wants: object = None
        try:
            wants = bound.wants_body(exchange)
        except faults.CAUGHT as error:
            wants = Failed(error)
        if not isinstance(wants, bool) or exchange.stage is not NEW or exchange.service is not service:
            said = f"returned {faults.shown(wants)}" if not isinstance(wants, bool) else "answered the request or handed it on"
            _stop(service, exchange, bound, wants, f"wants_body() {said}; it is to return True or False and do nothing else")
            return None
        if wants:
            found.append(bound)
    return tuple(found)


def run_all(hooks: Bounds, exchange: Exchange, response: ResponseHead) -> bool:
    """Call all hooks with a response; False when one failed or left what cannot be sent (its request is answered then).

    What frames the body is not a hook's. So of a response with a body it may change the status to another with a body, and no other.
    """
    service = exchange.service
    status, reason = response.status, response.reason
    for bound in hooks:
        returned = call(service.world, bound, exchange, response)
        if not isinstance(returned, Failed):
            try:
                response.headers = list(response.headers)  # an iterator could be read once
                render_fields(response.headers)
                if response.status != status or response.reason != reason:
                    _check_status(status, response)
                    status, reason = response.status, response.reason
            except faults.CAUGHT as error:
                returned = Failed(error)
        if not _left_alone(service, exchange, bound, returned):
            return False
    return True


def _check_status(former: int, response: ResponseHead) -> None:
    """Raises: IllegalField where a hook made of a status what it must not."""
    status = response.status
    if not isinstance(status, int) or not 200 <= status <= 599 or former in _BODILESS or status in _BODILESS or former < 200:
        raise IllegalField(f"the status {former} cannot become {faults.shown(status):.20}: both must be of responses that have a body")
    if not isinstance(response.reason, bytes) or b"\r" in response.reason or b"\n" in response.reason:
        raise IllegalField(f"not a reason: {faults.shown(response.reason)}")
    if status != former:
        response.reason = b""


def run_each(hooks: Bounds, exchange: Exchange) -> bool:
    """Call all hooks, which decide nothing; False when one failed, or did not leave the exchange alone (it is answered then)."""
    service = exchange.service
    return all(_left_alone(service, exchange, bound, call(service.world, bound, exchange)) for bound in hooks)


def _left_alone(service: Service, exchange: Exchange, bound: Bound, returned: object) -> bool:
    """Whether a hook that decides nothing did no more than it may."""
    if isinstance(returned, Failed) or exchange.answered or (returned is not None and _unfinished(returned)):
        _stop(service, exchange, bound, returned, _wrong(service, exchange, returned))
        return False
    return True


def prefix(hooks: Bounds, exchange: Exchange, response: ResponseHead) -> bytes | None:
    """What plugins put before a body; None when one failed (its request is answered then)."""
    service = exchange.service
    found = b""
    for bound in hooks:
        returned = call(service.world, bound, exchange, response)
        if not isinstance(returned, bytes) or exchange.answered:
            _stop(service, exchange, bound, returned, f"returned {faults.shown(returned)}, not bytes, or answered the request")
            return None
        found += returned
    return found


def pool_for(hooks: Bounds, exchange: Exchange, find: Callable[[str], Pool | None]) -> tuple[bool, Pool | None]:
    """The pool that a plugin chooses, or None; and whether the exchange is still to be served. `find` knows those that may be chosen."""
    service = exchange.service
    for bound in hooks:
        said = call(service.world, bound, exchange)
        if said is None and exchange.stage is NEW and exchange.service is service:
            continue
        pool = find(said) if isinstance(said, str) else None
        if pool is None or exchange.stage is not NEW or exchange.service is not service:
            wrong = f"returned {faults.shown(said)}, not the name of one of its pools() or None, or answered the request"
            _stop(service, exchange, bound, said, wrong)
            return False, None
        return True, pool
    return True, None


def any_says(hooks: Bounds, exchange: Exchange) -> bool:
    """Whether one of the hooks returns True. One that fails, or returns what is no bool, is reported and says nothing: its request waits.

    The request is served all the same. That it waits in another place than it should harms nobody else.
    """
    for bound in hooks:
        said = exchange.asked_of(bound)
        if said is True:
            return True
        if said is not False:
            _report(exchange.service, bound, said, f"returned {faults.shown(said)}, not True or False")
    return False


def _stop(service: Service, exchange: Exchange, bound: Bound, returned: object, wrong: str) -> None:
    """A hook's fault: count it, log it, and answer the request unless that is done or another's business."""
    failed = isinstance(returned, Failed)
    if isinstance(returned, Failed) and isinstance(returned.error, TookTooLong):  # which is the client's doing
        given_up(service, exchange)
        return
    said = faults.describe(returned.error) if isinstance(returned, Failed) else wrong
    exchange.trouble = Trouble(f"plugin {bound.plugin}, hook {bound.hook}: {said}")
    _report(service, bound, returned, wrong)
    if failed or exchange.stage in (NEW, SERVED, PARKED):
        exchange.owner = exchange.owner or bound.plugin
        exchange.fail(500, b"A plugin failed.\n")


def _report(service: Service, bound: Bound, returned: object, wrong: str) -> None:
    """Count and log what a hook raised, or what is wrong with what it returned."""
    if isinstance(returned, Failed):
        raised(service, bound, returned)
        return
    faults.tell(service.world, bound.plugin, f"hook {bound.hook}", wrong, place(bound))
    if isinstance(returned, CoroutineType):
        returned.close()
    service.failed(bound.plugin)


def _wrong(service: Service, exchange: Exchange, returned: object) -> str:
    """What is wrong with what a hook returned, or did and did not say."""
    if _unfinished(returned):
        return f"returned a {type(returned).__name__} that nobody runs: a hook is called, not awaited"
    if not isinstance(returned, Verdict) and returned is not None:
        return f"returned {faults.shown(returned)}, not Verdict.PASS or Verdict.TAKEN"
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
