"""Errors of nodes, of which a service shows its own page: error_page_intercept.

The node's response is dropped before anything of it is the client's. What a client needs beside a page goes on: how to log in, when to
come again, what is allowed.
"""

from typing import Final

from pbal.http1.events import ResponseHead
from pbal.roles.proxy.decide import Undecided
from pbal.roles.proxy.decider import Decider

_KEPT: Final = ((b"www-authenticate", b"WWW-Authenticate"), (b"retry-after", b"Retry-After"), (b"allow", b"Allow"))


class Intercept(Decider):
    """Answers with pbal's page where a node answers with one of some statuses."""

    def __init__(self, statuses: frozenset[int]) -> None:
        self._statuses = statuses

    def decide(self, relay: Undecided, head: ResponseHead) -> bool:
        """See Decider."""
        if head.status not in self._statuses:
            return False
        relay.part(head)
        kept = [(name, head.fields[known]) for known, name in _KEPT if known in head.fields]
        text = b"The application failed.\n" if head.status >= 500 else b"The application refused the request.\n"
        relay.exchange.error(head.status, b"Nothing here.\n" if head.status == 404 else text, kept)
        return True
