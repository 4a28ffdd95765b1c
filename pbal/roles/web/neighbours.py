"""Files that were compressed before, beside those that they are made of (precompressed): `app.js.br` in place of `app.js`.

    fresh   not older than its file: it is sent to who accepts its coding, as another representation with an ETag of its own
    stale   older: what was made of a former version is passed over, and counted

A neighbour is found as its file is (files/finding.py), so no name, link or dot leads to one that could not be had by itself. Which one is
sent goes by the weights in Accept-Encoding, and where they are equal by the order in `precompressed`. As soon as there is a fresh one,
every answer says Vary, also one to a client that accepts none: a cache has to know. So where no neighbour is wanted or there, each is
looked for all the same; what was found is kept with the file (files/cache.py).

A client that refuses what has no coding (identity;q=0) gets it all the same where there is nothing else (RFC 9110 section 12.5.3).
"""

from typing import Final

from pbal.http1.coding import weighed
from pbal.model.openfiles import OpenFile
from pbal.roles.files.finding import Find, NotServed, Rules

ENDINGS: Final[dict[bytes, bytes]] = {b"gzip": b".gz", b"br": b".br", b"zstd": b".zst"}
"""Of the names of neighbours, by their coding."""

_SECOND: Final = 10**9


class Neighbours:
    """What a service says of them."""

    __slots__ = ("_known", "_names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = tuple([name.encode() for name in names])
        self._known: dict[bytes, tuple[bytes, ...]] = {}

    def wanted(self, accept: bytes | None) -> tuple[bytes, ...]:
        """The codings that an Accept-Encoding takes rather than none, the best first."""
        if not accept:
            return ()
        found = self._known.get(accept)
        if found is None:
            found = self._weigh(accept)
            if len(self._known) < 500 and len(accept) < 200:  # a client may invent them without end
                self._known[accept] = found
        return found

    def _weigh(self, accept: bytes) -> tuple[bytes, ...]:
        weights = weighed(accept)
        other, plain = weights.get(b"*", 0.0), weights.get(b"identity", 0.0)
        found = [(weights.get(name, other), name) for name in self._names]
        return tuple([name for weight, name in sorted(found, key=_by_weight) if weight > 0 and weight >= plain])

    def best(self, find: Find, wanted: tuple[bytes, ...], rules: Rules, path: bytes) -> OpenFile | None:
        """A Find, but for its first two arguments: the file at `path`, or the best of its neighbours that are wanted."""
        file = find(rules, path)
        if file is None:
            return None
        try:
            for coding in wanted:
                neighbour = _fresh(find, rules, path, file, coding)
                if neighbour is not None:
                    neighbour.name, neighbour.coding, neighbour.varies = file.name, coding, True
                    neighbour.stale = file.stale
                    file.release()
                    return neighbour
            for coding in self._names:
                if coding not in wanted and not file.varies:
                    neighbour = _fresh(find, rules, path, file, coding)
                    if neighbour is not None:
                        neighbour.release()
                        file.varies = True
        except BaseException:
            file.release()
            raise
        return file


def _by_weight(each: tuple[float, bytes]) -> float:
    return -each[0]


def _fresh(find: Find, rules: Rules, path: bytes, file: OpenFile, coding: bytes) -> OpenFile | None:
    """The neighbour of a coding, if there is one that is not older than its file. Raises: NotKnown."""
    try:
        neighbour = find(rules, path + ENDINGS[coding])
    except NotServed:
        return None
    if neighbour is None:
        return None
    if neighbour.mtime_ns >= file.mtime_ns or neighbour.mtime_ns == file.mtime_ns // _SECOND * _SECOND:  # tools drop what is below a second
        return neighbour
    neighbour.release()
    file.stale = coding
    return None
