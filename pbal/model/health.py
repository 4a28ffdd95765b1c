"""Whether a node gets requests: what operators said, what checks found, what requests met.

    order     READY | DRAIN | MAINT             of an operator: by whom, since when, why
    check     UNKNOWN | UP | DOWN               of active checks (roles/proxy/checker.py); UNKNOWN is as good as UP
    passive   in | ejected | on trial | resting of requests themselves

Each is changed by itself, and what they amount to is made of them in one place: `verdict` for people, `healthy` and `at_rest` for the pool,
which keeps a list of the nodes that get requests and makes it anew when one of them says `flip` or when a time is over (model/pool.py). So
a request to a pool in which all is well pays for nothing but two additions.

    in        eject_after failures in a row -> ejected, for longer each time; unless too much of the pool were out then
    ejected   its time is over -> on trial, with one strike left; where the pool has checks, not before one was good since
    on trial  nothing new while something is under way at it, nor, where the pool has checks, before one was good; an answer -> in
              (slow_start begins); a failure -> ejected
    in        a request that it did not answer in time, nor any other since that was sent -> on trial: else it would get as many again
    in        stall_after requests were sent since its last answer, and wait, and others answered as many -> on trial: it hangs, or is much
              slower. Whoever waits at it goes on waiting; when the last of them has left, it is tried once more
    resting   for a second after a connection that it refused, as in Perlbal. That bounds nothing else

A stall is no failure: all the nodes of a pool may be slow at once, and then all of them go on being used. Nothing here has a timer; what
ends by the clock ends when somebody looks.
"""

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from pbal.model.balance import Member

log = logging.getLogger("pbal.health")

READY: Final = "READY"
DRAIN: Final = "DRAIN"
MAINT: Final = "MAINT"

UNKNOWN: Final = "UNKNOWN"
UP: Final = "UP"
DOWN: Final = "DOWN"

UNTRIED: Final = "UNTRIED"
REMOVED: Final = "REMOVED"

NODE_PENALTY: Final = 1.0
"""Seconds for which a node that refused a connection is passed over; Perlbal's."""
STALLED: Final = 1.0
"""Seconds that requests have waited altogether, where a node stalls: ten for a tenth of a second, a hundred for a hundredth."""
LOG_SECONDS: Final = 10.0
"""How often one node says that it stalls, or that it cannot be ejected."""
_SAID: Final = "pool %(pool)s: node %(node)s is %(state)s, says %(by)s"
_SAID_WHY: Final = "pool %(pool)s: node %(node)s is %(state)s because %(why)s, says %(by)s"
WINDOW: Final = 500
"""Responses whose codes are remembered; Perlbal's."""


class Policy:
    """What the tunables of a pool say about the health of its nodes."""

    __slots__ = (
        "checked",
        "eject_after",
        "eject_most",
        "eject_status",
        "eject_time",
        "eject_time_most",
        "fall",
        "panic",
        "rise",
        "slow_start",
        "stall_after",
    )

    def __init__(self, values: Mapping[str, object]) -> None:
        self.checked = values["check"] != "off"
        self.eject_after = cast(int, values["eject_after"]) or 1 << 62
        self.eject_most = cast(float, values["eject_most"])
        self.eject_status = frozenset(status for some in cast(tuple[range, ...], values["eject_status"]) for status in some)
        self.eject_time = cast(float, values["eject_time"])
        self.eject_time_most = cast(float, values["eject_time_most"])
        self.fall = cast(int, values["check_fall"])
        self.rise = cast(int, values["check_rise"])
        self.panic = cast(float, values["panic_share"])
        self.slow_start = cast(float, values["slow_start"])
        self.stall_after = cast(int, values["stall_after"]) or 1 << 62


class Verdict(NamedTuple):
    """What is told of a node."""

    word: str
    """UP, DOWN, DRAIN or MAINT; UNTRIED, which is as good as UP; REMOVED while requests run on what is no member any more."""
    since: float
    """Clock time; 0 if nothing ever happened."""
    why: str
    """For the operator; "" for UP."""
    by: str
    """Who ordered it, "" if nobody did."""


def described(verdict: Verdict, now: float) -> str:
    """`DOWN for 3s (connection refused)`."""
    told = verdict.word + (f" for {int(now - verdict.since)}s" if verdict.since else "")
    why = f"{verdict.by}: {verdict.why}" if verdict.by and verdict.why else verdict.by or verdict.why
    return f"{told} ({why})" if why else told


def use_told(word: str, use: str) -> str:
    """What is said of Pool.use, where the state of a node says another thing: `, used all the same`."""
    if word not in (UP, UNTRIED):
        return ", used all the same" if use == "yes" else ""
    return "" if use == "yes" else ", passed over for a moment" if use == "no" else f", {use}"


class Order(NamedTuple):
    """What an operator said of a node."""

    word: str
    at: float
    by: str
    why: str


class Group:
    """What a pool is to the health of its nodes."""

    name: str
    policy: Policy
    answers: int
    """Answers of all its nodes."""

    @abstractmethod
    def flip(self) -> None:
        """Who gets requests may have changed."""

    @abstractmethod
    def may_eject(self, node: "Health", now: float) -> bool:
        """Whether the pool can do without this node, too."""


class Health(Member):
    """That of one node, and what is counted of it."""

    __slots__ = (
        "check", "check_at", "check_by", "check_due", "check_error", "check_failures", "check_since", "checks", "connects", "ejected",
        "ejected_at", "ejected_until", "ejections", "error", "error_at", "errors", "failed_at", "failures", "group", "hits",
        "last_attempt", "last_connect", "last_response", "last_success", "misses", "name", "order", "quiet_heard", "quiet_since",
        "reached_for", "reached_heard", "removed", "requests", "responses", "rests_until", "returned_at", "since", "stalls", "strikes",
        "times", "told_at", "trial", "trial_at", "unanswered", "unmade", "window",
    )  # fmt: skip

    def __init__(self, name: str, group: Group) -> None:
        super().__init__(name)
        self.name = name
        self.group = group
        self.removed = False
        self.order = Order(READY, 0.0, "", "")

        self.check: str = UNKNOWN
        self.check_since = 0.0
        self.check_by = ""
        """Who said that it is DOWN; "" where its checks found it."""
        self.check_at = 0.0
        """When the last check ended (clock time)."""
        self.check_due = 0.0
        """When it is to be checked next (clock time)."""
        self.check_error = ""
        """Why the last check was bad, "" if it was good."""
        self.checks = 0
        self.check_failures = 0
        self.hits = 0
        """Good checks in a row."""
        self.misses = 0
        """Bad checks in a row."""

        self.strikes = 0
        """Failures in a row."""
        self.ejected = False
        self.ejected_at = 0.0
        self.ejected_until = 0.0
        self.ejections = 0
        """How often it was, ever."""
        self.times = 0
        """How often lately: each makes the next longer, and each eject_time without one takes one away."""
        self.trial = False
        """Whether it gets one request at a time until it answers."""
        self.trial_at = 0.0
        """What a good check has to be later than, where there are checks, before it gets one (clock time)."""
        self.stalls = 0
        self.rests_until = 0.0
        self.returned_at = 0.0
        """When it came back (clock time); slow_start counts from there."""
        self.told_at = 0.0

        self.unanswered = 0
        """Requests sent to it since its last answer began."""
        self.quiet_since = 0.0
        """When the first of them was (clock time)."""
        self.quiet_heard = 0
        """What `group.answers` was then."""
        self.unmade = 0
        """Connections begun since the last that was made or failed."""
        self.reached_for = 0.0
        """When the first of them was (clock time)."""
        self.reached_heard = 0
        """What `group.answers` was then."""

        self.requests = 0
        self.connects = 0
        self.failures = 0
        """Connections that could not be made."""
        self.failed_at = 0.0
        """When the last of them failed (clock time)."""
        self.last_attempt = 0.0
        self.last_connect = 0.0
        self.last_response = 0.0
        self.last_success = 0.0
        """When the head of an answer came whose status is not 5xx (clock time)."""
        self.responses: dict[int, int] = {}
        self.errors = 0
        """Requests that it gave no usable answer to."""
        self.error = ""
        """What went wrong the last time: no connection, no usable answer, or one that is 5xx."""
        self.error_at = 0.0
        """When (clock time)."""
        self.since = 0.0
        """Since when connections to it can be made, or cannot (clock time); 0 if none was tried."""
        self.window: deque[int] = deque(maxlen=WINDOW)
        """The status codes of its last responses."""

    # -- what it amounts to --------------------------------------------------------------------------------------

    @property
    def down(self) -> bool:
        """Whether the last attempt to connect failed."""
        return self.failed_at > self.last_connect

    @property
    def ready(self) -> bool:
        """Whether no operator took it out."""
        return self.order.word is READY

    @property
    def takes_sessions(self) -> bool:
        """Whether requests may go to it that belong to it, by a sticky cookie: also while it is drained."""
        return self.order.word is not MAINT and self.check is not DOWN and not self.ejected and not self.removed

    def healthy(self, now: float) -> bool:
        """Whether nothing is known against it but what passes in a moment. What is over by `now` ends here."""
        if self.ejected and self.ejected_until <= now:
            self._end_ejection(now)
        return not self.ejected and self.check is not DOWN

    def _end_ejection(self, now: float) -> None:
        if not self._probed(self.ejected_at):
            if self.check_at < self.ejected_until:
                self.check_due = min(self.check_due, now)  # and then in its intervals
            return
        self.ejected = False
        self.trial = True
        self.trial_at = self.ejected_at
        self.strikes = self.group.policy.eject_after - 1
        log.info("pool %(pool)s: node %(node)s is tried again", {"event": "node_on_trial", "pool": self.group.name, "node": self.name})

    def at_rest(self, now: float) -> bool:
        """Whether others are to be preferred for the moment: it refused a connection, or it has to answer first."""
        return self.rests_until > now or self.occupied

    @property
    def occupied(self) -> bool:
        """Whether it is on trial, and the request that tries it is under way, or a check has to find it well before there is one."""
        return self.trial and (self.active + self.connecting > 0 or not self._probed(self.trial_at))

    def _probed(self, since: float) -> bool:
        """Whether a check found that somebody is there, where there are checks: that is no client's business."""
        return not self.group.policy.checked or (self.hits > 0 and self.check_at > since)

    def share(self, now: float) -> float:
        """See Member: less than all of it in slow_start."""
        slow = self.group.policy.slow_start
        if not slow or now - self.returned_at >= slow or not self.returned_at:
            return 1.0
        return max(0.05, (now - self.returned_at) / slow)

    def verdict(self, now: float) -> Verdict:
        """What is told of it at `now`."""
        self.healthy(now)  # what is over ends
        order = self.order
        if self.removed:
            return Verdict(REMOVED, order.at, "requests run on it", "")
        if order.word is not READY:
            return Verdict(order.word, order.at, order.why, order.by)
        if self.check is DOWN:
            why = self.check_error if self.check_by else f"check: {self.check_error or 'too few good ones yet'}"
            return Verdict(DOWN, self.check_since, why, self.check_by)
        if self.ejected or self.trial:
            return self._out(now)
        if self.down:
            return Verdict(DOWN, self.since, self.error, "")
        if self.check is UP:
            return Verdict(UP, max(self.check_since, self.returned_at), "", "")
        if not (self.last_connect or self.last_response):
            return Verdict(UNTRIED, self.returned_at, "", "")
        return Verdict(UP, max(self.since, self.returned_at), "", "")

    def _out(self, now: float) -> Verdict:
        """The same, while it is ejected or on trial."""
        silent = self.unanswered + self.unmade
        if self.ejected:
            left = self.ejected_until - now
            how_long = f"for {left:.3g} s more" if left > 0 else "until a check finds it well"
            return Verdict(DOWN, self.ejected_at, f"ejected {how_long}, {self._struck()}", "")
        if silent >= self.group.policy.stall_after:
            return Verdict(DOWN, self._silent_since(), f"no answer to the last {silent} requests", "")
        when = "" if self._probed(self.trial_at) else " when a check has found it well"
        return Verdict(DOWN, self.trial_at, f"on trial{when}, {self._struck()}", "")

    def _struck(self) -> str:
        failures = "1 failure" if self.strikes == 1 else f"{self.strikes} failures in a row"
        return f"{failures}, the last: {self.error}"

    def _silent_since(self) -> float:
        return self.quiet_since if self.unanswered else self.reached_for

    # -- orders --------------------------------------------------------------------------------------------------

    def ordered(self, order: Order) -> None:
        """An operator says what is to become of it. READY forgets what was held against it."""
        before = self.order
        if order.word == before.word:  # it is so since then, whatever else is said of it now
            order = Order(order.word, before.at or order.at, order.by, order.why)
        self.order = order
        if order.word is READY:
            self.ejected = self.trial = False
            self.strikes = self.times = 0
            self.rests_until = 0.0
            if before.word is not READY:
                self.returned_at = order.at
        elif order.word is MAINT:
            self.unchecked()
        self.group.flip()
        fields = {
            "event": "node_ordered",
            "pool": self.group.name,
            "node": self.name,
            "state": order.word,
            "by": order.by,
            "why": order.why,
        }
        log.warning(_SAID_WHY if order.why else _SAID, fields)
        self.rested()

    def rested(self) -> None:
        """Nothing is under way at it any more: of a node that is to be left alone, that is told."""
        if not self.active and not self.ready:
            fields = {"event": "node_drained", "pool": self.group.name, "node": self.name, "state": self.order.word}
            log.info("pool %(pool)s: node %(node)s (%(state)s): no request is under way at it", fields)

    # -- checks --------------------------------------------------------------------------------------------------

    def checked(self, now: float, why: str) -> None:
        """A check ended; `why` it was bad, "" if it was good."""
        policy = self.group.policy
        self.checks += 1
        self.check_at = now
        if not self.check_by:
            self.check_error = why
        if why:
            self.check_failures += 1
            self.hits, self.misses = 0, self.misses + 1
            if self.check is UNKNOWN or (self.check is UP and self.misses >= policy.fall):
                self._found(now, DOWN, why)
        else:
            self.hits, self.misses = self.hits + 1, 0
            if self.check is UNKNOWN or (self.check is DOWN and self.hits >= policy.rise):
                self._found(now, UP, "")
            if self.ejected or self.trial:
                self.group.flip()

    def _found(self, now: float, word: str, why: str) -> None:
        first = self.check is UNKNOWN
        self.check, self.check_since, self.check_error, self.check_by = word, now, why, ""
        fields = {"event": "node_check", "pool": self.group.name, "node": self.name, "state": word, "why": why}
        if word is DOWN:
            log.warning("pool %(pool)s: node %(node)s is down by its check: %(why)s", fields)
        elif not first:
            self.returned_at = now
            log.info("pool %(pool)s: node %(node)s is up by its check", fields)
        self.group.flip()

    def taken_for_down(self, now: float, by: str, why: str) -> None:
        """An operator says that it is down: so it is, until its checks find that it is not."""
        self.check, self.check_since, self.check_error, self.check_by = DOWN, now, why, by
        self.hits = self.misses = 0
        fields = {"event": "node_ordered", "pool": self.group.name, "node": self.name, "state": DOWN, "by": by, "why": why}
        log.warning(_SAID_WHY if why else _SAID, fields)
        self.group.flip()

    def unchecked(self) -> None:
        """It is checked no longer: what the checks found says nothing."""
        if self.check is not UNKNOWN:
            self.check = UNKNOWN
            self.group.flip()
        self.hits = self.misses = 0
        self.check_error = self.check_by = ""

    # -- what requests met ---------------------------------------------------------------------------------------

    def begin_connect(self, now: float) -> None:
        """A connection to it is being made for a request."""
        self.connecting += 1
        self.last_attempt = now
        self.unmade += 1
        if self.unmade == 1:
            self.reached_for = now
            self.reached_heard = self.group.answers
        elif (now - self.reached_for) * self.unmade >= STALLED:
            self._look_at_stall(now, self.unmade, self.reached_heard)
        if self.trial:
            self.group.flip()

    def end_connect(self) -> None:
        """It was made, or it failed, or nobody wants it any more."""
        self.connecting -= 1
        if self.trial:
            self.group.flip()

    def reached(self, now: float) -> None:
        """A connection to it was made."""
        if self.down or not self.last_connect:
            self.since = now
        self.connects += 1
        self.last_connect = now
        self.unmade = 0
        if self.rests_until:
            self.rests_until = 0.0
            self.group.flip()

    def unreachable(self, now: float, why: str) -> None:
        """A connection to it could not be made."""
        if not self.down:
            self.since = now
        self.failures += 1
        self.failed_at = now
        self.unmade = 0
        self.failed(now, why)
        self.rests_until = now + NODE_PENALTY
        self.group.flip()
        self._strike(now)

    def lent(self, now: float) -> None:
        """A request is sent to it."""
        self.active += 1
        self.requests += 1
        self.unanswered += 1
        if self.unanswered == 1:
            self.quiet_since = now
            self.quiet_heard = self.group.answers
        elif (now - self.quiet_since) * self.unanswered >= STALLED:
            self._look_at_stall(now, self.unanswered, self.quiet_heard)
        if self.trial:
            self.group.flip()

    def answered(self, now: float, status: int) -> None:
        """The head of an answer came, 1xx aside."""
        self.last_response = now
        self.unanswered = 0
        self.group.answers += 1
        if status < 500:
            self.last_success = now
        else:
            self.failed(now, f"answered {status}")
        self.responses[status] = self.responses.get(status, 0) + 1
        self.window.append(status)
        if self.trial:
            self._back(now)
        if status >= 400 and status in self.group.policy.eject_status:
            self._strike(now)

    def whole(self, status: int) -> None:
        """An answer ended as it should, or pbal or its client wanted no more of it. It is worth telling where there are strikes."""
        if status not in self.group.policy.eject_status:
            self.strikes = 0

    def broke(self, now: float, why: str) -> None:
        """It gave no usable answer to a request."""
        self.errors += 1
        self.failed(now, why)
        self._strike(now)

    def silent(self, now: float, asked_at: float) -> None:
        """It did not answer in time what it was asked at `asked_at`. If it has answered nothing since, it has to answer one thing first."""
        if self.unanswered and self.quiet_since <= asked_at and not self.trial and not self.ejected:
            self._try(now)

    def _try(self, now: float) -> None:
        self.trial, self.trial_at = True, now
        self.check_due = min(self.check_due, now)
        self.group.flip()

    def failed(self, now: float, why: str) -> None:
        """Something went wrong with it: what an operator should hear."""
        self.error, self.error_at = why, now

    def _strike(self, now: float) -> None:
        policy = self.group.policy
        self.strikes += 1
        if self.strikes < policy.eject_after or self.ejected:
            return
        if not self.group.may_eject(self, now):
            if self._may_tell(now):
                fields = {
                    "event": "node_not_ejected",
                    "pool": self.group.name,
                    "node": self.name,
                    "failures": self.strikes,
                    "why": self.error,
                }
                log.warning(
                    "pool %(pool)s: node %(node)s failed %(failures)d times in a row, and is used all the same, since too few others are"
                    " left; the last time: %(why)s",
                    fields,
                )
            return
        calm = now - self.ejected_until
        self.times = max(0, self.times - int(calm / policy.eject_time)) + 1
        seconds = min(policy.eject_time * self.times, policy.eject_time_most)
        self.ejected = True
        self.ejected_at = now
        self.ejected_until = now + seconds
        self.ejections += 1
        self.trial = False
        self.group.flip()
        fields = {
            "event": "node_ejected",
            "pool": self.group.name,
            "node": self.name,
            "seconds": seconds,
            "failures": self.strikes,
            "why": self.error,
        }
        log.warning("pool %(pool)s: node %(node)s is ejected for %(seconds)g s: %(failures)d failures in a row, the last: %(why)s", fields)

    def _look_at_stall(self, now: float, number: int, heard: int) -> None:
        """`number` requests wait for a sign of it; the others had answered `heard` times when they began to."""
        after = self.group.policy.stall_after
        if self.trial or self.ejected or number < after or self.group.answers - heard < after:
            return
        self._try(now)
        self.stalls += 1
        if self._may_tell(now):
            fields = {
                "event": "node_stalls",
                "pool": self.group.name,
                "node": self.name,
                "requests": number,
                "seconds": now - self._silent_since(),
            }
            log.warning("pool %(pool)s: node %(node)s does not answer: %(requests)d requests wait, the first for %(seconds).2g s", fields)

    def _back(self, now: float) -> None:
        """It answered on trial."""
        self.trial = False
        if self.ejected_at > self.returned_at:
            self.returned_at = now
            log.info("pool %(pool)s: node %(node)s answers again", {"event": "node_back", "pool": self.group.name, "node": self.name})
        self.group.flip()

    def _may_tell(self, now: float) -> bool:
        if self.told_at and now - self.told_at < LOG_SECONDS:
            return False
        self.told_at = now
        return True
