"""Running the hooks of a service. The one place where a plugin's exception is caught."""

import logging
import os
import traceback

from pbal.http1.events import ResponseHead
from pbal.http1.writer import render_fields
from pbal.model.exchange import Exchange
from pbal.model.hooks import Bound, Verdict

log = logging.getLogger("pbal.plugins")


def _blame(bound: Bound, error: Exception) -> str:
    """Plugin, hook and the innermost line of the plugin's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(getattr(bound.call, "__func__", bound.call), "__code__", None)
    folder = os.path.dirname(own.co_filename) if own is not None else ""
    inside = [frame for frame in frames if frame.filename.startswith(folder)] or list(frames)
    place = inside[-1]
    return f"plugin {bound.plugin}, hook {bound.hook}: {type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno})"


def blame(exchange: Exchange, bound: Bound, error: Exception) -> None:
    """Count and log a plugin's exception, and answer its request with 500."""
    exchange.service.world.counters.counts["plugin_errors"] += 1
    log.error("%s", _blame(bound, error))
    log.debug("the whole of it", exc_info=error)
    exchange.respond(500, (), b"A plugin failed.\n")


def run(hooks: tuple[Bound, ...], exchange: Exchange) -> bool:
    """Call hooks in order until one takes the exchange; True when one did, or failed."""
    for bound in hooks:
        try:
            if bound.call(exchange) is Verdict.TAKEN:
                return True
        except Exception as error:
            blame(exchange, bound, error)
            return True
    return False


def run_all(hooks: tuple[Bound, ...], exchange: Exchange, response: ResponseHead) -> bool:
    """Call all hooks with a response; False when one failed or left fields that cannot be sent (its request is answered then)."""
    for bound in hooks:
        try:
            bound.call(exchange, response)
            render_fields(response.headers)
        except Exception as error:
            blame(exchange, bound, error)
            return False
    return True
