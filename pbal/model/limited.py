"""A log of warnings that strangers can cause: each kind at most once in ten seconds, and how many were left out."""

import logging
from math import inf

from pbal.model.clock import Clock
from pbal.observe.counters import Counters

log = logging.getLogger("pbal")

LOG_SECONDS = 10
"""How often a warning of one kind is logged."""

LOG_KINDS = 256
"""Kinds told apart at a time; nodes are kinds of their own, and there may be thousands."""


class LimitedLog:
    """The limited warnings of a World."""

    def __init__(self, clock: Clock, counters: Counters) -> None:
        self._clock = clock
        self._counters = counters
        self._logged: dict[str, tuple[float, int]] = {}
        """Kinds of warnings logged within the last ten seconds: when, and how many more were left out since."""

    def warn(self, what: str, message: str, *args: object) -> None:
        """Log a warning of kind `what` at most once in ten seconds. The next one says how many were left out.

        `args`: what is put into the message; or the one mapping of event and fields, see observe.log.
        """
        now = self._clock.now()
        if what not in self._logged and len(self._logged) >= LOG_KINDS:
            what = "warnings of many kinds"
        last, left_out = self._logged.get(what, (-inf, 0))
        if now - last < LOG_SECONDS:
            self._logged[what] = (last, left_out + 1)
            self._counters.counts["log_lines_limited"] += 1
            return
        self._logged[what] = (now, 0)
        if left_out and args and isinstance(args[0], dict):
            args = ({**args[0], "left_out": left_out},)
        log.warning(message + (f" (and {left_out} more like it)" if left_out else ""), *args)

    def tell_left_out(self) -> None:
        """Say how many warnings were left out of each kind whose ten seconds are over. The tick calls it."""
        if not self._logged:
            return
        now = self._clock.now()
        for what, (last, left_out) in list(self._logged.items()):
            if now - last >= LOG_SECONDS:
                del self._logged[what]
                if left_out:
                    fields = {"event": "left_out", "what": what, "left_out": left_out, "seconds": now - last}
                    log.warning("%(what)s: %(left_out)d more left out in %(seconds)d seconds", fields)
