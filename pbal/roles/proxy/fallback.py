"""A second pool for what the first has no good answer to: `SET fallback_pool`, `SET fallback_on = 404 5xx failure`.

    an answer with one of the statuses    dropped before its head goes to the client, and the request is sent to the fallback pool
    failure                               no node could be reached in time, or none gave a usable answer: the same, in place of pbal's own
                                          502, 503 or 504

Only what is safe goes twice (RFC 9110 section 9.2.2, and the body is still at hand), or what no node has seen. A request falls back
once: what the fallback pool answers is the client's. It is no retry: the budget of a pool bounds what its own nodes are asked again, and
here a pool that is well takes the place of one that is not.
"""

from pbal.http1.events import ResponseHead
from pbal.model.pool import Pool
from pbal.roles.proxy.decide import Undecided
from pbal.roles.proxy.decider import Decider
from pbal.roles.proxy.terms import Terms
from pbal.schema.forwarding import Answers


class Fallback(Decider):
    """Of one service."""

    def __init__(self, terms: Terms, pool: Pool, answers: Answers) -> None:
        self._terms = terms
        self._pool = pool
        self._answers = answers

    def decide(self, relay: Undecided, head: ResponseHead) -> bool:
        """See Decider."""
        if not self._answers.has(head.status) or not relay.again_is_safe:
            return False
        node = relay.node
        if node is None or node.pool is self._pool or not self._pool.usable(self._terms.clock.now()):
            return False  # what the first pool says is better than that the second has no node
        self._terms.counts["fallbacks"] += 1
        relay.again(head, 0.0, self._pool)
        return True


def fallback(terms: Terms) -> tuple[Decider, ...]:
    """As the service has it: one or none. Tells the terms of the pool for failures, too."""
    service = terms.service
    values = service.values
    name = values["fallback_pool"]
    pool = service.world.pool(name) if name else None
    answers: Answers = values["fallback_on"]
    terms.failure_pool = pool if answers.failure else None
    return () if pool is None or not (answers.statuses or answers.classes) else (Fallback(terms, pool, answers),)
