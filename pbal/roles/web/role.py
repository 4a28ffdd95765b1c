"""web_server: what is answered to a request, by its method and by what its name leads to.

    by method     GET and HEAD, OPTIONS, and what tunables allow; any other is 405. `Allow` names what there is
    GET, HEAD     a file (found), a folder without its slash (301), one without any index file (a list, or 403), nothing (404),
                  several files as one (`/dir/??a,b`)
    PUT, DELETE   with enable_put, enable_delete: writing.py

How a name becomes an open file, and which names never do, stands in files/finding.py; how a file is sent in files/sending.py. What this
file refuses to know: disks.
"""

import os
from collections.abc import Callable
from functools import partial
from urllib.parse import quote_from_bytes

from pbal.http1.conditional import etag_for
from pbal.http1.encoder import http_date
from pbal.http1.paths import MOST_MEMBERS, members
from pbal.model.bound import Bounds
from pbal.model.exchange import SERVED, Exchange
from pbal.model.openfiles import Kept
from pbal.model.searching import TookTooLong
from pbal.model.served import Lookup
from pbal.model.service import Service
from pbal.roles import chain
from pbal.roles.files.cache import FileCache
from pbal.roles.files.finding import Find, IsDirectory, NoIndex, NotServed, OpenFile, Rules, decoded, with_index
from pbal.roles.files.sending import Fields, Said, Validators, begin_made, send_known, send_made
from pbal.roles.files.writing import NotWritten, Target
from pbal.roles.http import HttpRole
from pbal.roles.web.joined import Joined, Member
from pbal.roles.web.listing import Listing, listing
from pbal.roles.web.listings import Listings
from pbal.roles.web.neighbours import Neighbours
from pbal.roles.web.writing import Writing, chunked_limit, refuse, required, target_of
from pbal.schema.caching import cache_control
from pbal.schema.media import UNKNOWN

_UNKNOWN = UNKNOWN.encode()
_REFUSALS = {403: b"Not for you.\n", 404: b"Nothing here.\n", 500: b"The file cannot be read.\n", 503: b"Too much is open here.\n"}


class WebServer(HttpRole):
    """The handler of one web_server service."""

    def __init__(self, service: Service) -> None:
        self.cache = FileCache(service.world)
        self._listings = Listings(service.world)
        super().__init__(service)
        self._methods: dict[bytes, Callable[[Exchange], None]] = {}
        """Who answers which method."""
        self.writings: set[Writing] = set()
        """PUTs and DELETEs under way."""
        self.allow = b""
        """Their names, as Allow says them."""
        self.rules: Rules | None = None
        """Where files are found; None without a docroot."""
        self.neighbours: Neighbours | None = None
        """None where none are looked for."""
        self._control = b""
        """Cache-Control of files of which CACHE says nothing."""
        self.joins = False
        """Whether `/dir/??a,b` asks for several files."""
        self._offer()

    def changed(self, tunable: str) -> None:
        """See RoleHandler."""
        super().changed(tunable)
        self._offer()
        self.cache.drop()
        self._listings.drop()

    def close(self) -> None:
        """See RoleHandler."""
        super().close()
        self.cache.drop()
        self._listings.drop()

    def _offer(self) -> None:
        """Which methods there are, by the service's tunables."""
        self._methods = {b"GET": self._get, b"HEAD": self._get, b"OPTIONS": self._options}
        if self.service.values["enable_put"]:
            self._methods[b"PUT"] = self._put
        if self.service.values["enable_delete"]:
            self._methods[b"DELETE"] = self._delete
        self.allow = b", ".join(self._methods)
        values = self.service.values
        self.neighbours = Neighbours(values["precompressed"]) if values["precompressed"] else None
        self._control = cache_control(values["cache_control"])
        self.joins = values["enable_concatenate_get"]
        docroot, files = values["docroot"], self.service.world.files
        self.rules = None if docroot is None else Rules(files, os.fsencode(docroot), values["follow_symlinks"], values["dot_files"])

    def serve(self, exchange: Exchange) -> None:
        """Answer by the method."""
        answer = self._methods.get(exchange.method)
        if answer is not None:
            answer(exchange)
        else:
            exchange.error(405, b"Only %b here.\n" % self.allow, [(b"Allow", self.allow)])

    def _options(self, exchange: Exchange) -> None:
        """RFC 9110 section 9.3.7. Of `*` and of every name the same is said."""
        exchange.respond(204, [(b"Allow", self.allow)])

    def tick(self, now: float) -> None:
        """See RoleHandler."""
        super().tick(now)
        for writing in list(self.writings):
            writing.late(now)

    # -- PUT and DELETE --------------------------------------------------------------------------------------------

    def _put(self, exchange: Exchange) -> None:
        """Take a file."""
        try:
            target, digests = target_of(self.service, self.rules, exchange), required(self.service, exchange)
        except NotWritten as why:
            refuse(exchange, why)
            return
        limit = chunked_limit(self.service, exchange)
        if limit is not None:
            exchange.body_limit = limit
        self._written(exchange, target, digests).put()

    def _delete(self, exchange: Exchange) -> None:
        """Remove a file."""
        try:
            target = target_of(self.service, self.rules, exchange)
        except NotWritten as why:
            refuse(exchange, why)
            return
        self._written(exchange, target, []).delete()

    def _written(self, exchange: Exchange, target: Target, digests: list[tuple[str, bytes]]) -> Writing:
        exchange.enter(SERVED)
        writing = Writing(exchange, target, digests, self.writings.discard)
        self.writings.add(writing)
        return writing

    # -- GET and HEAD ----------------------------------------------------------------------------------------------

    def _get(self, exchange: Exchange) -> None:
        """Look for a file: in memory at once, else in a thread."""
        rules = self.rules
        if rules is None:
            exchange.error(404, b"Nothing here.\n")
            return
        key = path = exchange.path
        if self.joins and exchange.request.query.startswith(b"?") and path.endswith(b"/"):
            names = members(exchange.request.query)
            if names:
                self._join(exchange, rules, names)
                return
        meant: bytes | None = None
        if self.service.hooks.start_serve_request:
            meant = self._looked_up(exchange, rules)
            if meant is None:
                return
            key = b"\0" + meant  # which no path of a request is
        exchange.enter(SERVED)
        wanted: tuple[bytes, ...] = ()
        neighbours = self.neighbours
        if neighbours is not None:
            wanted = neighbours.wanted(exchange.request.fields.get(b"accept-encoding"))
            key = _key(wanted, key)
        kept = self.cache.fresh(key, self.clock.now())
        if kept is not None:
            self._send(exchange, kept)
            return
        if meant is None:
            try:
                meant = decoded(path, rules)
            except NotServed as refusal:
                self._found(exchange, None, refusal)
                return
        index_files = self.service.values["index_files"]
        self.cache.look(exchange, key, partial(seek, rules, meant, index_files, neighbours, wanted), partial(self._found, path=meant))

    def _looked_up(self, exchange: Exchange, rules: Rules) -> bytes | None:
        """The path, decoded, that plugins would have looked for; None where it is answered, or one of them has the exchange."""
        try:
            return self._asked(exchange, decoded(exchange.path, rules), rules)
        except NotServed as refusal:
            self._found(exchange, None, refusal)
            return None

    def _asked(self, exchange: Exchange, path: bytes, rules: Rules) -> bytes | None:
        """What plugins would have looked for in place of a path, decoded; None where one has the exchange. Raises: NotServed."""
        lookup = Lookup(path)
        if chain.run(self.service.hooks.start_serve_request, exchange, lookup):
            return None
        if lookup.path == path:
            return path
        meant = quote_from_bytes(lookup.path).encode()
        if not self._may_be_called(exchange, meant):
            self._refuse_renamed(exchange)
            return None
        return decoded(meant, rules)

    def _may_be_called(self, exchange: Exchange, path: bytes) -> bool:
        """Whether no rule of the service holds for a file by its own name, and not by the one that it was asked for."""
        try:
            return not exchange.passed_over(path)
        except TookTooLong:
            return False

    def _refuse_renamed(self, exchange: Exchange) -> None:
        """Rules by path have seen another name. They are not asked again: what they do may have been done."""
        self.counts["renamings_refused"] += 1
        self.service.world.log_limited(
            "renaming", "%(service)s: 403 to %(path)s: a plugin looks up another name, and a rule by path is for that one alone",
            {"event": "renaming_refused", "service": self.name, "path": exchange.path.decode("latin-1")},
        )  # fmt: skip
        exchange.error(403, b"A rule is for this file: ask for it by its own name.\n")

    def _found(self, exchange: Exchange, kept: Kept | None, error: BaseException | None, path: bytes = b"") -> None:
        """What the name leads to. `path` is the decoded one."""
        if kept is not None:
            self._send(exchange, kept)
        elif isinstance(error, IsDirectory):
            self._add_slash(exchange)
        elif isinstance(error, NoIndex):
            self._folder(exchange, path)
        elif not self._is_missing(exchange, error, self.service.hooks.static_get_poststat_file_missing):
            self._refuse(exchange, error.status if isinstance(error, NotServed) else 500)

    def _is_missing(self, exchange: Exchange, error: BaseException | None, hooks: Bounds) -> bool:
        """Ask plugins about a file that is not there; whether one has the exchange now."""
        return bool(hooks) and isinstance(error, NotServed) and error.status == 404 and self._is_taken(exchange, hooks, None)

    def _is_taken(self, exchange: Exchange, hooks: Bounds, more: object) -> bool:
        """Run hooks that come when it is known what a name leads to; whether one has the exchange now."""
        if exchange.stage is SERVED:
            exchange.let_go()
        if chain.run(hooks, exchange, more):
            return True
        exchange.enter(SERVED)
        return False

    def _send(self, exchange: Exchange, kept: Kept) -> None:
        """A file."""
        hooks = self.service.hooks.static_get_poststat_pre_send
        if hooks and self._is_taken(exchange, hooks, kept.file.mtime_ns // 10**9):
            return
        file, said, media = kept.file, kept.said, self.service.world.media
        control = self.service.rules.cache_control(exchange, self._control) if self.service.rules.caching else self._control
        if not isinstance(said, Said) or said.generation != media.generation or said.control != control:
            etag, modified = etag_for(file.mtime_ns, file.size, file.coding), file.mtime_ns // 10**9
            fields = self._dated(etag, modified, media.kind_of(file.name.rpartition(b"/")[2]))
            if file.coding:
                fields.append((b"Content-Encoding", file.coding))
            if file.varies:
                fields.append((b"Vary", b"Accept-Encoding"))
            if control:
                fields.append((b"Cache-Control", control))
            if file.stale:
                self._tell_stale(file)
            said = kept.said = Said(fields, Validators(etag, modified), file.size, media.generation, control)
        send_known(exchange, file, said)

    def _tell_stale(self, file: OpenFile) -> None:
        """Say that a neighbour is older than its file."""
        self.counts["precompressed_stale"] += 1
        self.service.world.log_limited(
            "precompressed", "%(service)s: the %(coding)s of %(file)s is older than the file, and is not served",
            {"event": "precompressed_stale", "service": self.name, "coding": file.stale.decode(), "file": os.fsdecode(file.name)},
        )  # fmt: skip

    # -- several as one --------------------------------------------------------------------------------------------

    def _join(self, exchange: Exchange, rules: Rules, names: list[bytes]) -> None:
        """Files of one folder as one answer."""
        if len(names) > MOST_MEMBERS:
            self._refuse_joined(exchange, b"These are more than %d files.\n" % MOST_MEMBERS)
            return
        found: list[Member] = []
        for name in names:
            path = exchange.path + name
            try:
                if not name or name.endswith(b"/"):
                    raise NotServed(404)
                meant, key = decoded(path, rules), path
                if not self.is_judged(exchange, path):
                    self._refuse_joined(exchange, b"A rule says other of one of these files: ask for it alone.\n")
                    return
                if self.service.hooks.start_serve_request:
                    looked_up = self._asked(exchange, meant, rules)
                    if looked_up is None:
                        return
                    meant = looked_up
                    key = b"\0" + meant
            except NotServed as refusal:
                self._joined(exchange, None, refusal)
                return
            if self.neighbours is not None:
                key = _key((), key)
            found.append(Member(key, partial(seek, rules, meant, (), self.neighbours, ())))
        exchange.enter(SERVED)
        Joined(exchange, self.cache, found, partial(self._joined, exchange))

    def is_judged(self, exchange: Exchange, path: bytes) -> bool:
        """Whether every rule that has looked at the path of the request (LIMIT, VPATH, basic_auth_path) finds the same in a member's."""
        try:
            return exchange.judged_alike(path)
        except TookTooLong:
            return False

    def _joined(self, exchange: Exchange, joined: Joined | None, error: BaseException | None) -> None:
        """All were found, or one is not to be had."""
        hooks = self.service.hooks
        if joined is None or error is not None:
            if self._is_missing(exchange, error, hooks.concat_get_poststat_file_missing):
                return
            if isinstance(error, NotServed) and error.status == 404:
                exchange.error(404, b"One of these files is not here, or more.\n")
            else:
                self._refuse(exchange, error.status if isinstance(error, NotServed) else 500)
            return
        most = self.service.values["concatenate_max_size"]
        if most and joined.size > most:
            self._refuse_joined(exchange, b"These are more than %d bytes.\n" % most)
            return
        if hooks.concat_get_poststat_pre_send and self._is_taken(exchange, hooks.concat_get_poststat_pre_send, joined.modified):
            return
        kinds = [self.service.world.media.kind_of(name) for name in joined.names]
        fields = self._dated(joined.etag, joined.modified, next((kind for kind in kinds if kind != _UNKNOWN), _UNKNOWN))
        control = self.service.rules.cache_control(exchange, self._control)
        if control:
            fields.append((b"Cache-Control", control))
        if begin_made(exchange, joined.size, fields, Validators(joined.etag, joined.modified)):
            joined.send()

    def _refuse_joined(self, exchange: Exchange, text: bytes) -> None:
        self.counts["concatenations_refused"] += 1
        self.service.world.log_limited(
            "concatenation", "%(service)s: 403 to a request for several files: %(reason)s",
            {"event": "concatenation_refused", "service": self.name, "reason": text.decode().strip()},
        )  # fmt: skip
        exchange.error(403, text)

    def _dated(self, etag: bytes, modified: int, kind: bytes) -> Fields:
        """The fields that every representation has."""
        shown = min(max(modified, 0), self.clock.epoch())  # RFC 9110 section 8.8.2.1: never later than Date
        return [(b"ETag", etag), (b"Last-Modified", http_date(shown)), (b"Content-Type", kind)]

    def _add_slash(self, exchange: Exchange) -> None:
        """A folder was asked for without its slash. Location has no host: it is the client's own, whoever is between, TLS or not.

        All slashes at its begin are one, or `//name` would be a host; so would be `/\\name`, which browsers read as that.
        """
        request = exchange.request
        location = b"/" + request.path.lstrip(b"/").replace(b"\\", b"%5C") + b"/" + (b"?" + request.query if request.query else b"")
        exchange.respond(301, [(b"Location", location), (b"Cache-Control", b"max-age=60")], b"")  # it may be a file tomorrow

    def _folder(self, exchange: Exchange, path: bytes) -> None:
        """A folder in which no index file is: a list of it, if there may be one."""
        values, rules = self.service.values, self.rules
        if rules is None or not values["dirindexing"]:
            exchange.error(403, b"This directory has no page, and is not listed.\n")
            return
        self._listings.ask(exchange, path, partial(listing, rules, path, values["dirindexing_limit"]), self._listed)

    def _listed(self, exchange: Exchange, made: Listing | None, error: BaseException | None) -> None:
        """A list was made, or could not be."""
        if made is None:
            self._refuse(exchange, error.status if isinstance(error, NotServed) else 500)
            return
        if made.cut:
            self.counts["listings_cut"] += 1
            self.service.world.log_limited(
                "listing", "%(service)s: the list of %(path)s has %(shown)d names of %(there)d or more (dirindexing_limit)",
                {
                    "event": "listing_cut", "service": self.name, "path": exchange.path.decode("latin-1"), "shown": made.shown,
                    "there": made.there,
                },
            )  # fmt: skip
        fields = [*self._dated(made.etag, made.modified, b"text/html; charset=utf-8"), (b"Cache-Control", b"no-cache")]
        send_made(exchange, made.page, fields, Validators(made.etag, made.modified))

    def _refuse(self, exchange: Exchange, status: int) -> None:
        if status >= 500:
            self.service.world.log_limited(
                "file", "%(service)s: %(status)d, a file could not be opened",
                {"event": "file_not_opened", "service": self.name, "status": status},
            )  # fmt: skip
        exchange.error(status, _REFUSALS[status])


def _key(wanted: tuple[bytes, ...], path: bytes) -> bytes:
    """By what the cache knows a path, where neighbours count."""
    return b"%b %b" % (b",".join(wanted), path)


def seek(
    rules: Rules, path: bytes, index_files: tuple[str, ...], neighbours: Neighbours | None, wanted: tuple[bytes, ...], find: Find
) -> OpenFile:
    """What is sent for a decoded path: a file, or one of its neighbours. Raises: as with_index()."""
    if neighbours is not None:
        find = partial(neighbours.best, find, wanted)
    return with_index(find, rules, path, index_files)
