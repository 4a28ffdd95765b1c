"""The media types of one process, by the endings of file names: the built-in ones (schema/media.py) as MIME left them.

There is one table for all services, as in Perlbal. Only what differs from the built-in one is kept, so to SET a type that was there before
is to take the statement back.
"""

from pbal.model.change import BeginChange, restore
from pbal.schema.media import BUILT_IN, UNKNOWN

_TEXT = ("text/", "application/json", "application/xml", "image/svg+xml")


class MediaTypes:
    """Endings, without their dot and in lower case, and the types that they stand for."""

    def __init__(self, changing: BeginChange) -> None:
        self._changing = changing
        self.said: dict[str, str] = {}
        """What statements made of the built-in table: a type, or "" where an ending was removed."""
        self.generation = 0
        """Rises with each change: for who keeps what `kind_of` said."""
        self._known: dict[str, bytes] = {}

    def get(self, ending: str) -> str | None:
        """The type of an ending; None where it is not known."""
        return self.said.get(ending, BUILT_IN.get(ending, "")) or None

    def all(self) -> dict[str, str]:
        """Every ending that is known, and its type."""
        return {ending: kind for ending, kind in (BUILT_IN | self.said).items() if kind}

    def set(self, ending: str, kind: str) -> None:
        """Let an ending stand for a type from now on; "": for none."""
        with self._changing() as change:
            change.undo(self._restore, dict(self.said))
            self.said[ending] = kind
            if kind == BUILT_IN.get(ending, ""):
                del self.said[ending]
            self._changed()

    def _restore(self, before: dict[str, str]) -> None:
        restore(self.said, before)
        self._changed()

    def _changed(self) -> None:
        self._known.clear()
        self.generation += 1

    def kind_of(self, name: bytes) -> bytes:
        """The value of Content-Type of a file, by the end of its name, in any case. Text is UTF-8 unless its type says otherwise.

        A name that is nothing but an ending, as `.html`, has none.
        """
        stem, dot, ending = name.rpartition(b".")
        if not dot or not stem.strip(b"."):
            return UNKNOWN.encode()
        folded = ending.decode("ascii", "replace").lower()
        found = self._known.get(folded)
        if found is None:
            kind = self.get(folded)
            if kind is None:
                return UNKNOWN.encode()
            if kind.startswith(_TEXT) and ";" not in kind:
                kind += "; charset=utf-8"
            found = self._known[folded] = kind.encode()
        return found
