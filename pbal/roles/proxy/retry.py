"""Sending a request again: how many may be, and the error retries of Perlbal.

What is safe to send again the relay knows (RFC 9110 section 9.2.2). Here is how much of it a pool can bear: when every node fails, every
request would be sent four times, and a pool in trouble would get four times its load. So second and later attempts need room in the
budget of their pool: no more than `retry_budget` percent of its requests in progress may be such attempts at a time, or
`retry_budget_least` of them if that is more. Over it the failure goes to the client at once.

    enter() -> True     the request counts as one of those until leave(); a third attempt takes no more room than a second
    enter() -> False    no room: say so to the client

Requests in progress are counted when there is something to retry, so a request that succeeds pays nothing. A connection that could not
be made is no attempt: its request was not sent, and goes to another node whatever the budget says.
"""

from pbal.http1.events import ResponseHead
from pbal.model.pool import Pool
from pbal.roles.proxy.decide import Undecided
from pbal.roles.proxy.decider import Decider
from pbal.roles.proxy.seeker import Seeker
from pbal.roles.proxy.terms import Terms


def enter(seeker: Seeker, pool: Pool, terms: Terms) -> bool:
    """Whether a request may be sent to a pool once more. It has still the connection on which it failed."""
    if seeker.again_in is pool:
        return True
    room = pool.retry_room
    if pool.retrying >= room:
        terms.counts["backend_retries_denied"] += 1
        terms.service.world.log_limited(
            f"retry budget {pool.name}",
            "pool %(pool)s: a request is not sent again: %(retrying)d are, and retry_budget has room for %(room)d",
            {"event": "retry_denied", "service": terms.name, "pool": pool.name, "retrying": pool.retrying, "room": room},
        )
        return False
    leave(seeker)
    seeker.again_in = pool
    pool.retrying += 1
    return True


def leave(seeker: Seeker) -> None:
    """A request ended, or is under way no more: what it took of a budget is free. Twice is once."""
    pool = seeker.again_in
    if pool is not None:
        seeker.again_in = None
        pool.retrying -= 1


class ErrorRetries(Decider):
    """enable_error_retries: a GET or HEAD that a node answers with 500 is sent again, after the next pause of the schedule.

    The last answer is the client's. Source: Perlbal service parameters. differs: each request begins with the first pause.
    """

    def __init__(self, terms: Terms, pauses: tuple[float, ...]) -> None:
        self._terms = terms
        self._pauses = pauses
        """Seconds, before the second attempt and so on."""

    def decide(self, relay: Undecided, head: ResponseHead) -> bool:
        """See Decider."""
        if head.status != 500 or not relay.again_is_safe:
            return False
        exchange, node = relay.exchange, relay.node
        done = exchange.attempts - 1
        if exchange.request.method not in (b"GET", b"HEAD") or done >= len(self._pauses) or node is None:
            return False
        if not enter(relay, node.pool, self._terms):
            return False
        relay.again(head, self._pauses[done], None)
        return True


def error_retries(terms: Terms) -> tuple[Decider, ...]:
    """As the service has it: one or none."""
    values = terms.service.values
    return (ErrorRetries(terms, values["error_retry_schedule"]),) if values["enable_error_retries"] else ()
