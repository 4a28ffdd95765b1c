"""The last requests that ended badly: why somebody got that 502.

A ring of MOST. A request that ends well makes nothing here; one that does not makes a Failure, some microseconds' work, where it ends
(model/exchange.py, net/connection.py). What strangers sent is quoted and cut before it is kept: what is kept is bounded, and can be shown.
"""

from collections import deque
from typing import Final, NamedTuple

from pbal.observe.access import BAD_REQUEST, BROKE, CLIENT_SLOW, NO_NODE, NODE_BROKE, NODE_SLOW, PLUGIN, quoted_text

MOST: Final = 200
LONGEST: Final = 200
"""Octets of a target, a method or a reason that are kept."""

BADLY: Final = frozenset({BAD_REQUEST, BROKE, CLIENT_SLOW, NO_NODE, NODE_BROKE, NODE_SLOW, PLUGIN})
"""Ends (observe/access.py) that are failures; that a client left, or was sent away, is none."""


class Trouble(NamedTuple):
    """What went wrong with a request on its way; that it had an end of its own afterwards makes it no failure."""

    why: str
    place: int = -1
    """Of a malformed head: which octet is to blame, from 0; -1 if none is."""
    octet: int = -1
    """Which one that is."""


class Failure(NamedTuple):
    """A request that ended badly."""

    number: int
    """From 1; the newest has the highest."""
    at: float
    """When it ended, in seconds since 1970."""
    service: str
    client: str
    id: str
    """The request's id; "" where requests have none."""
    method: str
    target: str
    status: int
    """The status that was sent; 0 if there was no answer."""
    end: str
    """Who ended it and how: one of observe.access.ENDS."""
    phase: str
    """When: one of observe.access.PHASES."""
    node: str
    attempts: int
    """Times that it was sent to a node."""
    seconds: float
    """How long it took."""
    why: str
    place: int | None
    """Of malformed input: which octet is to blame, from 0."""
    octet: int | None
    """Which one that is, 0 to 255."""


class Recent:
    """The ring."""

    __slots__ = ("last", "number")

    def __init__(self) -> None:
        self.last: deque[Failure] = deque(maxlen=MOST)
        self.number = 0
        """How many there ever were."""

    def add(
        self, at: float, service: str, client: bytes, number: bytes, method: bytes, target: bytes, status: int, end: bytes, phase: bytes,
        node: str, attempts: int, seconds: float, trouble: Trouble | None,
    ) -> None:  # fmt: skip
        """A request ended badly."""
        self.number += 1
        why, place, octet = ("", -1, -1) if trouble is None else trouble
        self.last.append(
            Failure(
                self.number, at, service, client.decode("ascii", "replace"), number.decode("ascii", "replace"), _shown(method),
                _shown(target), status, end.decode(), phase.decode(), node, attempts, seconds,
                _shown(why.encode("utf-8", "replace")), place if place >= 0 else None, octet if octet >= 0 else None,
            )
        )  # fmt: skip


def _shown(octets: bytes) -> str:
    """Quoted as in the access log, and cut."""
    text = quoted_text(octets[:LONGEST]).decode("ascii")
    return text if len(octets) <= LONGEST else text + "..."
