"""Several files as one answer (enable_concatenate_get): `/js/??a.js,sub/b.js?v=3` is a.js and b.js of /js/, one after the other.

    found     each member is found as a request for it alone would find it, one after the other, and none is held: what is known of it
              says what the answer is, its length, its ETag, whether it is asked for at all
    sent      as its turn comes a member is found again, and its octets follow. One that is another by now cuts the answer off visibly:
              what was promised cannot be kept

So an answer holds one file and one buffer, however many and however large its members are. Each member has a turn of the loop.

What is behind another `?` is for caches, and means nothing here. Names are divided at commas and decoded each for itself, so one with a
comma in it is written with %2C.

Source: Perlbal manual, enable_concatenate_get. differs: names are decoded after they are divided; there is an ETag.
"""

import asyncio
from collections.abc import Callable
from hashlib import blake2b

from pbal.http1.conditional import etag_for
from pbal.model.exchange import ENDED, Exchange
from pbal.model.openfiles import Identity, Kept, OpenFile
from pbal.roles.files.awaiting import Bodiless
from pbal.roles.files.cache import FileCache, Seek
from pbal.roles.files.finding import IsDirectory, NotServed
from pbal.roles.files.sending import FileSending, cut_off


class Member:
    """One of them: how it is found, and what it was found to be."""

    __slots__ = ("identity", "key", "name", "seek")

    def __init__(self, key: bytes, seek: Seek) -> None:
        self.key = key
        """By which the cache knows it."""
        self.seek = seek
        self.name = b""
        self.identity: Identity = ()


class Joined(Bodiless):
    """An answer of several files; `then` is told when all of them were found, or that one is not to be had."""

    __slots__ = ("_at", "_cache", "_exchange", "_gone", "_known", "_members", "_sends", "_then", "etag", "modified", "names", "size")

    def __init__(
        self, exchange: Exchange, cache: FileCache, members: list[Member], then: Callable[["Joined", BaseException | None], None]
    ) -> None:
        self._exchange, self._cache, self._members, self._then = exchange, cache, members, then
        self._known = cache.now_known
        self._at = 0
        self._sends = False
        self._gone = False
        self.size = 0
        """Octets of all of them."""
        self.modified = 0
        """Seconds since 1970: that of the newest."""
        self.names: list[bytes] = []
        """In their order, when all are found."""
        self.etag = b""
        """A strong one: of the names and the versions of all."""
        self._next()

    def send(self) -> None:
        """The head is out: send the octets."""
        self._sends, self._at = True, 0
        self._next()

    def _next(self) -> None:
        """Ask for the next member, which may take a thread."""
        if self._gone:
            return
        exchange = self._exchange
        exchange.sink = None
        member = self._members[self._at]
        cache, known = self._cache, self._known
        kept = cache.fresh(member.key, exchange.service.world.clock.now()) if known is cache.now_known else None
        if kept is not None:
            self._found(exchange, kept, None)
        else:
            cache.look(exchange, member.key, member.seek, self._found, known)

    def _found(self, exchange: Exchange, kept: Kept | None, error: BaseException | None) -> None:
        if self._sends:
            self._send(None if kept is None else kept.file)
        elif kept is None:
            self._then(self, NotServed(404) if isinstance(error, IsDirectory) else error)
        else:
            self._note(self._members[self._at], kept.file)

    def _note(self, member: Member, file: OpenFile) -> None:
        """What is known of a member now."""
        member.name, member.identity = file.name.rpartition(b"/")[2], file.identity
        self.size += file.size
        self.modified = max(self.modified, file.mtime_ns // 10**9)
        self._at += 1
        if self._at < len(self._members):
            self._wait()
            return
        told = blake2b(digest_size=16)
        for each in self._members:
            told.update(b"%b %b\n" % (each.key, etag_for(each.identity[5] * 10**9 + each.identity[6], each.identity[2])))
        self.etag = b'"%b"' % told.hexdigest().encode()
        self.names = [each.name for each in self._members]
        self._then(self, None)

    def _send(self, file: OpenFile | None) -> None:
        """A member was found again: send it, if it is what it was."""
        member = self._members[self._at]
        if file is None or file.identity != member.identity:
            cut_off(self._exchange, f"{member.name.decode('utf-8', 'replace')} changed before its turn came")
            return
        self._at += 1
        onward = None if self._at == len(self._members) else self._wait
        if not file.size and onward is not None:
            onward()
        elif not file.size:
            self._exchange.stream.end(self._exchange, b"")
        else:
            FileSending(self._exchange, file.hold(), [(0, file.size)], None, onward).go_on()

    def _wait(self) -> None:
        """Go on in another turn of the loop."""
        if self._exchange.stage is ENDED:  # while it was written to
            return
        self._exchange.sink = self
        asyncio.get_running_loop().call_soon(self._next)

    def client_gone(self) -> None:
        self._gone = True

    def client_drained(self) -> None:
        """The next member looks by itself whether the client takes it."""

    def client_full(self) -> None:
        """See client_drained."""
