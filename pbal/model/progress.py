"""How far uploads have come, as whoever follows them is told: a datagram of text, and an object of JSON.

    UPLOAD:SESSION:DONE:TOTAL:STARTTIME:NOWTIME      octets, and whole seconds since 1970; TOTAL 0: nobody knows it

A client that uploads names its session in the target of the request, `client_up_sess=SESSION`, and asks for the session's progress with
GET /__upload_status?client_up_sess=SESSION. Source: Perlbal manual, upload_status_listeners; differs: what is answered is JSON.

What is known of sessions is process-wide: any service answers what any upload_tracker heard. Datagrams come from whoever can reach its
port, so they are looked at for size and shape, and there are at most MOST_SESSIONS of them, each for KEPT seconds.
"""

import json
import re
from collections.abc import Callable
from typing import Final, NamedTuple

MOST_SESSIONS: Final = 10_000
KEPT: Final = 4.0
"""Seconds for which a session is remembered after its last datagram. Perlbal's number."""

_DATAGRAM: Final = re.compile(rb"UPLOAD:(\w{5,50}):([0-9]{1,15}):([0-9]{1,15}):([0-9]{1,12}):([0-9]{1,12})\n?", re.ASCII)
_SESSION: Final = re.compile(rb"(?:^|&)client_up_sess=(\w{5,50})(?!\w)", re.ASCII)

STATUS_PATH: Final = b"/__upload_status"


class Progress(NamedTuple):
    """How far an upload has come."""

    session: bytes
    done: int
    total: int
    start: int
    now: int

    def datagram(self) -> bytes:
        """What followers are sent."""
        return b"UPLOAD:%b:%d:%d:%d:%d" % self

    def json(self) -> bytes:
        """What a client that asks is told."""
        return json.dumps({"done": self.done, "total": self.total, "starttime": self.start, "nowtime": self.now}).encode()


NOTHING: Final = b"{}"
"""What is told of a session that nobody knows."""


def session_of(query: bytes) -> bytes:
    """The session that a query names; b"" if none."""
    found = _SESSION.search(query)
    return b"" if found is None else found[1]


def read(datagram: bytes) -> Progress | None:
    """What a datagram says; None if it is none of these."""
    found = _DATAGRAM.fullmatch(datagram)
    return None if found is None else Progress(found[1], *map(int, found.groups()[1:]))


class Sessions:
    """What is known of uploads that others report."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[bytes, tuple[float, Progress]] = {}
        """With the time until which each is kept, the oldest first."""

    def __len__(self) -> int:
        return len(self._known)

    def add(self, progress: Progress) -> bool:
        """Remember it; False if there are too many sessions."""
        now = self._now()
        self.forget(now)
        if self._known.pop(progress.session, None) is None and len(self._known) >= MOST_SESSIONS:
            return False
        self._known[progress.session] = (now + KEPT, progress)
        return True

    def forget(self, now: float) -> None:
        """Forget those that were not heard of for KEPT seconds."""
        known = self._known
        while known:
            session = next(iter(known))
            if known[session][0] > now:
                return
            del known[session]

    def json(self, session: bytes) -> bytes:
        """What is known of one."""
        self.forget(self._now())
        found = self._known.get(session)
        return NOTHING if found is None else found[1].json()
