"""What a reader is told: messages, or why there are none. Made once, and rendered once for all who are told the same."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .formats import Rendered
from .framing import framed_size, split
from .lot import Reader
from .positions import Log, token
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
MOST_RENDERED: Final = 1 << 20
"""Octets of answers that are kept for others who stand at the same place."""
FEW: Final = 4
"""Answers that are kept however large they are: one for each way to say it, whose readers come in any order."""


class Run(NamedTuple):
    """The messages of one queue in a delivery."""

    key: bytes
    name: bytes
    messages: list[tuple[bytes, bytes | None]]
    """Each with the place behind it, where the queue has positions."""
    framed: bool


class Delivery:
    """Messages for a reader, or for many that stand at the same place."""

    __slots__ = ("_logs", "_octets", "_rendered", "_token", "gaps", "moved", "queues", "returns")

    def __init__(self, queues: Queues, returns: bool, logs: dict[bytes, Log] | None = None, gaps: tuple[bytes, ...] = ()) -> None:
        self.queues = queues
        """(store key, value) pairs. Of a queue with positions the value is the end of its log."""
        self.returns = returns
        """Whether they go back in front of their queues if the client does not get them (poll_keep = taken)."""
        self._logs = logs or {}
        self.moved = None if logs is None else {key: log.end for key, log in logs.items()}
        """Where the reader stands then, by key; None where queues have no positions."""
        self.gaps = gaps
        """Keys of queues of which it missed something."""
        self._rendered: dict[tuple[str, bytes], Rendered] = {}
        self._octets = 0
        self._token: bytes | None = None

    def names(self, settings: Settings) -> Queues:
        """(queue name, value) pairs."""
        prefix = len(settings.prefix)
        return [(key[prefix:], value) for key, value in self.queues]

    def missed(self, settings: Settings) -> list[bytes]:
        """Names of the queues with a gap."""
        prefix = len(settings.prefix)
        return [key[prefix:] for key in self.gaps]

    def runs(self, settings: Settings) -> Iterator[Run]:
        """Message by message, for transports that send each for itself."""
        prefix = len(settings.prefix)
        for key, value in self.queues:
            messages, framed = split(value, settings.framing)
            log = self._logs.get(key)
            if log is None:
                yield Run(key, key[prefix:], [(message, None) for message in messages], framed)
                continue
            offset = log.base + len(log.data) - len(value)
            placed: list[tuple[bytes, bytes | None]] = []
            for message in messages[:-1]:
                offset += framed_size(message, settings.framing)
                placed.append((message, log.at(offset)))
            yield Run(key, key[prefix:], [*placed, (messages[-1], log.end)], framed)

    def position(self, reader: Reader) -> bytes:
        """The token of where a reader stands then. Made once for all who wait for one queue."""
        if not self.moved or isinstance(reader.keys, tuple):
            return reader.token(self.moved)
        if self._token is None:
            self._token = token(self.moved.values())
        return self._token

    def ready(self, form: str, position: bytes) -> Rendered | None:
        """It in one form for who stands at `position` then; None if nobody has rendered it yet."""
        return self._rendered.get((form, position))

    def keep(self, form: str, position: bytes, rendered: Rendered) -> Rendered:
        """It was rendered, for all who ask ready() likewise; the last MOST_RENDERED octets, or FEW, are kept: each may stand elsewhere."""
        self._rendered[form, position] = rendered
        self._octets += len(rendered.body)
        while self._octets > MOST_RENDERED and len(self._rendered) > FEW:
            self._octets -= len(self._rendered.pop(next(iter(self._rendered))).body)
        return rendered
