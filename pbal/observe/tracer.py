"""Following live what happens to a client, a service or a queue: `trace` on the console.

    Tracer     there is one while somebody follows, and None else: a place where something happens asks no more than that
    Follower   one console's: which events it wants, and those that it has not written yet

An event is told where it happens, in the words of an operator. A follower keeps MOST of them: who reads too slowly loses the newest ones,
and is told how many. Nothing waits for it.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

MOST: Final = 1000

CLIENT: Final = "client"
SERVICE: Final = "service"
QUEUE: Final = "queue"


class Event(NamedTuple):
    """Something that happened."""

    at: float
    """In seconds since 1970."""
    client: str
    """Address and port of the other end of the connection; "" if no connection is concerned."""
    service: str
    what: str
    """In one or two words: accepted, request, asked, parked, answered, ended."""
    detail: str
    queues: tuple[str, ...]


class Follower:
    """What one console follows."""

    __slots__ = ("_kind", "_name", "events", "lost", "wake")

    def __init__(self, kind: str, name: str, wake: Callable[[], None]) -> None:
        """`kind`: CLIENT, SERVICE or QUEUE; `name`: an address with or without port (no brackets), or a name.

        `wake` is called when an event has come.
        """
        self._kind = kind
        self._name = name
        self.wake = wake
        self.events: deque[Event] = deque()
        self.lost = 0
        """Events that found no room since the last take()."""

    def wants(self, home: str, service: str, peer: str, address: str, queues: tuple[str, ...]) -> bool:
        """Whether an event is of what it follows."""
        name = self._name
        if self._kind is SERVICE:
            return name in (home, service)
        if self._kind is QUEUE:
            return name in queues
        plain = peer.replace("[", "").replace("]", "")
        return name in (plain, address) or name == plain.rpartition(":")[0]

    def put(self, event: Event) -> None:
        """An event has come."""
        if len(self.events) >= MOST:
            self.lost += 1
            return
        self.events.append(event)
        self.wake()

    def take(self) -> tuple[list[Event], int]:
        """All events that came since the last time, and how many more were lost."""
        events, lost = list(self.events), self.lost
        self.events.clear()
        self.lost = 0
        return events, lost


class Tracer:
    """All who follow something."""

    __slots__ = ("_epoch", "followers")

    def __init__(self, epoch: Callable[[], float]) -> None:
        self._epoch = epoch
        self.followers: list[Follower] = []

    def tell(self, home: str, service: str, peer: str, address: str, what: str, detail: str = "", queues: tuple[str, ...] = ()) -> None:
        """Something happened. `home`: the service whose listener the client came by; `peer`: its address and port; `address`: who is
        behind it."""
        event: Event | None = None
        for follower in self.followers:
            if follower.wants(home, service, peer, address, queues):
                if event is None:
                    event = Event(self._epoch(), peer, service, what, detail, queues)
                follower.put(event)
