"""What header rules make of the fields of one message: names that go, and fields that come. Values only, decided already.

Fields that frame a message are in no Changes: whoever makes one has refused them (model/rules.py). Names are compared as CGI reads them,
with `_` for `-`.
"""

from typing import Final

from pbal.http1.events import canonical

_MOST: Final = 64
"""Sets that are remembered; callers use a few constant ones."""


class Changes:
    """Some names are removed, whatever their fields say; then fields are added."""

    __slots__ = ("_lines", "_unions", "added", "removed")

    def __init__(self, removed: frozenset[bytes], added: list[tuple[bytes, bytes]]) -> None:
        """`removed`: canonical names."""
        self.removed = removed
        self.added = added
        self._lines = b"".join([b"%b: %b\r\n" % field for field in added])
        self._unions: dict[frozenset[bytes], frozenset[bytes]] = {}

    def union(self, dropped: frozenset[bytes]) -> frozenset[bytes]:
        """`dropped` and what goes; the same object each time, for who remembers by it."""
        found = self._unions.get(dropped)
        if found is None:
            found = dropped | self.removed
            if len(self._unions) < _MOST:
                self._unions[dropped] = found
        return found

    def fields(self, fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Fields as they are to be."""
        return [*self.without(fields), *self.added]

    def without(self, fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Fields without those that go."""
        removed = self.removed
        return [field for field in fields if canonical(field[0]) not in removed] if removed else fields

    def block(self, block: bytes) -> bytes:
        """Header lines as they are to be."""
        return self.cut(block) + self._lines

    def cut(self, block: bytes) -> bytes:
        """Header lines without those that go."""
        removed = self.removed
        if not removed or not block:
            return block
        return b"".join([line for line in block.splitlines(keepends=True) if canonical(line.partition(b":")[0]) not in removed])

    def then(self, other: "Changes") -> "Changes":
        """These, and after them others."""
        return Changes(self.removed | other.removed, other.fields(self.added))
