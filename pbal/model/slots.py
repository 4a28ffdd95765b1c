"""Places that a request holds while it lives: of limits on how many there may be at once.

A request has a chain of them, mostly none. They are given back when it ends or is parked, whichever comes first (Exchange.ended,
Exchange.park), and so exactly once.
"""


class Slot:
    """One place, and those that were taken before it."""

    __slots__ = ("_before", "_held", "_who")

    def __init__(self, held: dict[bytes, int], who: bytes, before: "Slot | None") -> None:
        """Take a place of somebody's in `held`, which counts those that are taken."""
        held[who] = held.get(who, 0) + 1
        self._held = held
        self._who = who
        self._before = before

    def give_back(self) -> None:
        """Give this place back, and those before it."""
        slot: Slot | None = self
        while slot is not None:
            held, who = slot._held, slot._who
            left = held[who] - 1
            if left:
                held[who] = left
            else:
                del held[who]
            slot = slot._before
