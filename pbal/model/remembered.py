"""What was decided, for a time, by a key: of credentials as a rule. Bounded: what was written first goes first."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """Decisions by key. Times are the clock's."""

    __slots__ = ("_held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        """How many are remembered."""
        self._held: dict[bytes, tuple[float, T]] = {}

    def get(self, key: bytes, now: float) -> T | None:
        """What is remembered under a key."""
        held = self._held.get(key)
        if held is None:
            return None
        if held[0] <= now:
            del self._held[key]
            return None
        return held[1]

    def put(self, key: bytes, decided: T, until: float, now: float) -> None:
        """Remember something until then."""
        if until <= now:
            return
        held = self._held
        held.pop(key, None)
        while len(held) >= self.most:
            del held[next(iter(held))]
        held[key] = (until, decided)

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
