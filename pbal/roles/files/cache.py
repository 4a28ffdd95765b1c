"""What the names of a service were found to be, kept so that most requests ask neither a disk nor the kernel.

    fresh    looked at within SERVER file_recheck, and nothing was written by this pbal since: it is sent as it is
    stale    found anew: the same file is kept on, with what was made ready of it; another one takes its place
    unknown  found; a little file is read whole (LITTLE), so that it goes out with its head and is of one version
    again    asked for again while it is kept: a small file is copied into memory (SMALL), so that nobody changes it while it is sent, and
             what is sent is not copied any more. Files that are asked for once cost no copy

A file is the same if nothing of its Identity changed. Where it was changed less than RACY before it was found, it might be changed again
within the same tick of the system's clock: then it is read again when it is stale. So a change in place, a rename and a deletion are
seen within file_recheck. Of a file that is sent from its descriptor it is asked before each answer, which costs a call: its octets are
those of now, and its length has to be, too.

Who finds a name is told by whoever asks (`seek`): by the kernel's memory at once, else in a thread. Requests for one name that wait for
a thread wait for one job together, and are told PORTION in a turn of the loop.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from pbal.model.exchange import Exchange
from pbal.model.openfiles import Kept, OpenFile
from pbal.model.world import World
from pbal.roles.files.awaiting import Awaiting, Then
from pbal.roles.files.disk import in_thread
from pbal.roles.files.finding import Find, NotKnown, NotServed, find, find_known
from pbal.roles.files.memory import facts_of, in_memory, read_known

SMALL: Final = 1 << 20
"""Octets of a file up to which it is kept in memory. What is sent of it is of one version then, and needs no copy."""
LITTLE: Final = 65536
"""Octets that go out in one write, with the head, whoever takes them: more of them are worth a descriptor (net/passing.py)."""
PIECE: Final = 131072
RACY: Final = 2.0
"""Seconds: file systems keep times by the nanosecond, by the tick of the kernel, and by the second or two."""
PORTION: Final = 64

Seek = Callable[[Find], OpenFile]
"""Finds a file, with the Find that it is given. Raises: NotServed, IsDirectory, NotKnown."""


class FileCache:
    """The names of one service."""

    __slots__ = ("_counts", "_files", "_known", "_searches", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._counts = world.counters.counts
        self._files = world.files
        self._known: dict[bytes, Kept] = {}
        self._searches: dict[bytes, Search] = {}

    def fresh(self, key: bytes, now: float) -> Kept | None:
        """What is kept under a name, if it may be sent as it is. `now`: clock time."""
        kept = self._known.get(key)
        if kept is None or kept.fresh_until <= now or kept.stamp != self._files.stamp:
            return None
        file = kept.file
        if not file.in_memory:
            if facts_of(file.fd) != file.identity:
                return None
            if file.size <= SMALL:
                kept = self._copied(kept)
        kept.asked = True
        self._counts["file_cache_hits"] += 1
        return kept

    def look(self, exchange: Exchange, key: bytes, seek: Seek, then: Then[Kept], known: dict[bytes, Kept] | None = None) -> None:
        """Find what a name leads to, now or soon.

        `known`: `now_known` of when `seek` was made, for who asks later than that: by rules of before nothing is kept for those of now.
        """
        if known is not None and known is not self._known:
            self._search_for(Search(known, key, -1), exchange, seek, then)
            return
        if self._files.recheck:
            self._counts["file_cache_misses"] += 1
        try:
            try:
                file = seek(find_known)
            except NotServed as refusal:
                if refusal.status != 503 or not self._files.shed():
                    raise
                file = seek(find_known)
            if not self._is_same(self._known.get(key), file):
                self._read(file, read_known)
        except NotKnown:
            self._search(exchange, key, seek, then)
        except Exception as error:  # noqa: BLE001 - whoever asked says what it means
            self._forget(key)
            then(exchange, None, error)
        else:
            kept = self._arrived(self._known, key, file, self._files.stamp)
            file = kept.file
            try:
                then(exchange, kept, None)
            finally:
                file.release()

    @property
    def now_known(self) -> dict[bytes, Kept]:
        """What is known, as long as nothing changes by which it was found. See look()."""
        return self._known

    def all(self) -> list[Kept]:
        """What is kept, for who looks."""
        return list(self._known.values())

    def drop(self) -> None:
        """Keep nothing of what is known: what is served has changed."""
        for kept in list(self._known.values()):
            self._files.drop(kept)
        self._known = {}  # what a thread brings that looks now is for the former one
        self._searches = {}

    def _forget(self, key: bytes) -> None:
        kept = self._known.get(key)
        if kept is not None:
            self._files.drop(kept)

    def _arrived(self, known: dict[bytes, Kept], key: bytes, file: OpenFile, stamp: int) -> Kept:
        """A file was found: what stands for it. Its file is held, for whoever is told."""
        world, files = self._world, self._files
        recheck = files.recheck if known is self._known else 0.0
        kept = known.get(key)
        if recheck and kept is not None and self._is_same(kept, file):
            file.release()
            kept.file.hold()
            kept.asked = True
            if kept.stamp != stamp:  # what is said of it may be other now
                kept.said = None
        else:
            if kept is not None:
                files.drop(kept)
            kept = Kept(known, key, file)
            kept.seen_at = world.clock.epoch()
            if recheck:
                files.keep(kept)
        kept.fresh_until = world.clock.now() + recheck
        kept.stamp = stamp
        return kept

    def _is_same(self, kept: Kept | None, file: OpenFile) -> bool:
        """Whether a file is the one that is kept, with the same content."""
        if kept is None:
            return False
        had, identity = kept.file, file.identity
        changed = max(identity[3], identity[5])
        # One that could not be read into memory may be by now.
        return (
            had.identity == identity
            and had.name == file.name
            and had.varies is file.varies
            and had.stale == file.stale
            and changed + RACY < kept.seen_at
            and (had.in_memory or file.size > LITTLE or not self._fits(file))
        )

    def _copied(self, kept: Kept) -> Kept:
        """A file is asked for again: have a copy of it in memory, if it fits and can be read without waiting."""
        file = kept.file
        if not self._fits(file):
            return kept
        try:
            copy = _copy(file)
        except OSError:  # whoever sends it will meet it again, and say so
            return kept
        if copy is None:
            return kept
        found = Kept(kept.home, kept.key, copy)
        found.fresh_until, found.stamp, found.seen_at, found.said = kept.fresh_until, kept.stamp, kept.seen_at, kept.said
        self._files.drop(kept)
        self._files.keep(found)
        copy.release()
        return found

    def _fits(self, file: OpenFile) -> bool:
        return file.size <= SMALL and self._files.recheck > 0 and self._files.takes(file.size)

    def _read(self, file: OpenFile, read: Callable[[int, int, int], bytes | None]) -> None:
        """Take a little file into memory. One that is written to just now stays where it is."""
        if file.size > LITTLE or not self._fits(file):
            return
        try:
            body = read(file.fd, 0, file.size) if file.size else b""
            if body is not None and len(body) == file.size and facts_of(file.fd) == file.identity:
                file.take_in(body)
        except OSError:  # whoever sends it will meet it again, and say so
            return

    # -- in a thread -----------------------------------------------------------------------------------------------

    def _search(self, exchange: Exchange, key: bytes, seek: Seek, then: Then[Kept]) -> None:
        """Have a thread look for it, unless one has begun to since the last time that something was written."""
        search, stamp = self._searches.get(key), self._files.stamp
        if search is None or search.stamp != stamp:
            search = self._searches[key] = Search(self._known, key, stamp)
            self._search_for(search, exchange, seek, then)
        else:
            search.waiting.append(Awaiting(exchange, then))

    def _search_for(self, search: "Search", exchange: Exchange, seek: Seek, then: Then[Kept]) -> None:
        search.waiting.append(Awaiting(exchange, then))
        in_thread(partial(self._find, seek, search.known.get(search.key)), partial(self._found, search))

    def _find(self, seek: Seek, kept: Kept | None) -> OpenFile:
        file = seek(find)
        if not self._is_same(kept, file):
            self._read(file, _read_all)
        return file

    def _found(self, search: "Search", file: OpenFile | None, error: BaseException | None) -> None:
        """The thread has found a file, or none."""
        if self._searches.get(search.key) is search:
            del self._searches[search.key]
        kept = None
        if file is not None:
            kept = self._arrived(search.known, search.key, file, search.stamp)
        elif search.known is self._known:
            self._forget(search.key)
        self._tell(search.waiting, kept, error)

    def _tell(self, waiting: "deque[Awaiting[Kept]]", kept: Kept | None, error: BaseException | None) -> None:
        file = None if kept is None else kept.file
        try:
            for _ in range(min(len(waiting), PORTION)):
                waiting.popleft().tell(kept, error)
        finally:  # a fault in one is not to keep the others waiting
            if waiting:
                asyncio.get_running_loop().call_soon(self._tell, waiting, kept, error)
            elif file is not None:
                file.release()


def _copy(file: OpenFile) -> OpenFile | None:
    """A copy of a file, if all of it is in the kernel's memory and nobody writes to it. Raises: OSError."""
    made = in_memory(file.size)
    try:
        at = 0
        while made >= 0 and at < file.size:
            piece = read_known(file.fd, at, min(PIECE, file.size - at))
            if not piece:
                return None
            at += os.pwrite(made, piece, at)
        if made < 0 or facts_of(file.fd) != file.identity:
            return None
        copy = OpenFile(file.files, made, file.identity, file.name)
        copy.copied = True
        copy.coding, copy.stale, copy.varies = file.coding, file.stale, file.varies
        made = -1
        return copy
    finally:
        if made >= 0:
            os.close(made)


def _read_all(fd: int, at: int, size: int) -> bytes:
    return os.pread(fd, size, at)


class Search:
    """A thread looks for a name."""

    __slots__ = ("key", "known", "stamp", "waiting")

    def __init__(self, known: dict[bytes, Kept], key: bytes, stamp: int) -> None:
        self.known = known
        """Where what it finds is kept, unless the cache was dropped meanwhile."""
        self.key = key
        self.stamp = stamp
        """OpenFiles.stamp when it began: what was written later it may have missed."""
        self.waiting: deque[Awaiting[Kept]] = deque()
