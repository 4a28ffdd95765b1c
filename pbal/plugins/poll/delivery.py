"""What a reader is told: messages, or why there are none. Made once, and rendered once for all who are told the same."""

from typing import Final

from .formats import Rendered, render
from .settings import Settings
from .store import Queues

TIME_IS_OVER: Final = "time"
DISABLED: Final = "disabled"
SUPERSEDED: Final = "superseded"
REMOVED: Final = "removed"
"""The queue was deleted, and its readers were to be told."""
BAD_POSITION: Final = "position"

EMPTY: Final = frozenset({TIME_IS_OVER, DISABLED})
"""Reasons of the empty answer."""


class Delivery:
    """Messages for a reader, or for many that stand at the same place."""

    __slots__ = ("_rendered", "gaps", "moved", "queues", "returns")

    def __init__(self, queues: Queues, returns: bool, moved: dict[bytes, bytes] | None = None, gaps: tuple[bytes, ...] = ()) -> None:
        self.queues = queues
        self.returns = returns
        """Whether they go back in front of their queues if the client does not get them (poll_keep = taken)."""
        self.moved = moved
        """Where the reader stands then, by key; None where queues have no positions."""
        self.gaps = gaps
        """Keys of queues of which it missed something."""
        self._rendered: dict[tuple[str, bytes], Rendered] = {}

    def names(self, settings: Settings) -> Queues:
        """(queue name, value) pairs."""
        prefix = len(settings.prefix)
        return [(key[prefix:], value) for key, value in self.queues]

    def missed(self, settings: Settings) -> list[bytes]:
        """Names of the queues with a gap."""
        prefix = len(settings.prefix)
        return [key[prefix:] for key in self.gaps]

    def rendered(self, form: str, settings: Settings, position: bytes) -> Rendered:
        """It in a format of formats.py, with a token where there is one."""
        ready = self._rendered.get((form, position))
        if ready is None:
            ready = render(form, self.names(settings), settings.framing, position, self.missed(settings))
            self._rendered[form, position] = ready
        return ready
