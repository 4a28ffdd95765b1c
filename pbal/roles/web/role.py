"""web_server: what is answered to a request, by its method and by what its name leads to.

    by method     GET and HEAD, OPTIONS, and what tunables allow; any other is 405. `Allow` names what there is
    GET, HEAD     a file (found), a folder without its slash (301), one without any index file (a list, or 403), nothing (404)

How a name becomes an open file, and which names never do, stands in files/finding.py; how a file is sent in files/sending.py. What this
file refuses to know: disks.
"""

import os
from collections.abc import Callable
from functools import partial

from pbal.http1.conditional import etag_for
from pbal.http1.encoder import http_date
from pbal.model.bound import Bounds
from pbal.model.exchange import SERVED, Exchange
from pbal.model.served import Lookup
from pbal.model.service import Service
from pbal.roles import chain
from pbal.roles.files.finding import IsDirectory, NoIndex, NotKnown, NotServed, OpenFile, decoded, find, find_known, with_index
from pbal.roles.files.sending import Fields, Finding, Validators, send_file, send_made
from pbal.roles.http import HttpRole
from pbal.roles.web.listing import Listing, listing

_REFUSALS = {403: b"Not for you.\n", 404: b"Nothing here.\n", 500: b"The file cannot be read.\n", 503: b"Too much is open here.\n"}


class WebServer(HttpRole):
    """The handler of one web_server service."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._methods: dict[bytes, Callable[[Exchange], None]] = {}
        """Who answers which method."""
        self.allow = b""
        """Their names, as Allow says them."""
        self._offer()

    def changed(self, tunable: str) -> None:
        """See RoleHandler."""
        super().changed(tunable)
        self._offer()

    def _offer(self) -> None:
        """Which methods there are, by the service's tunables."""
        self._methods = {b"GET": self._get, b"HEAD": self._get, b"OPTIONS": self._options}
        self.allow = b", ".join(self._methods)

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

    # -- GET and HEAD ----------------------------------------------------------------------------------------------

    def _get(self, exchange: Exchange) -> None:
        """Look for a file: in memory at once, else in a thread."""
        values = self.service.values
        if values["docroot"] is None:
            exchange.error(404, b"Nothing here.\n")
            return
        folder, index_files = os.fsencode(values["docroot"]), values["index_files"]
        path = b""
        try:
            path = decoded(exchange.path)
            if self.service.hooks.start_serve_request:
                lookup = Lookup(path)
                if chain.run(self.service.hooks.start_serve_request, exchange, lookup):
                    return
                path = lookup.path
            exchange.enter(SERVED)
            file = with_index(find_known, folder, path, index_files)
        except NotKnown:
            Finding(exchange, partial(with_index, find, folder, path, index_files), partial(self._found, exchange, path))
        except (NotServed, IsDirectory) as refusal:
            self._found(exchange, path, None, refusal)
        else:
            self._found(exchange, path, file, None)

    def _found(self, exchange: Exchange, path: bytes, file: OpenFile | None, error: BaseException | None) -> None:
        """What the name leads to."""
        if file is not None:
            self._send(exchange, file)
        elif isinstance(error, IsDirectory):
            self._add_slash(exchange)
        elif isinstance(error, NoIndex):
            self._folder(exchange, path)
        elif not self.is_missing(exchange, error, self.service.hooks.static_get_poststat_file_missing):
            self._refuse(exchange, error.status if isinstance(error, NotServed) else 500)

    def is_missing(self, exchange: Exchange, error: BaseException | None, hooks: Bounds) -> bool:
        """Ask plugins about a file that is not there; whether one has the exchange now."""
        return bool(hooks) and isinstance(error, NotServed) and error.status == 404 and self.is_taken(exchange, hooks, None)

    def is_taken(self, exchange: Exchange, hooks: Bounds, more: object) -> bool:
        """Run hooks that come when it is known what a name leads to; whether one has the exchange now."""
        if exchange.stage is SERVED:
            exchange.let_go()
        if chain.run(hooks, exchange, more):
            return True
        exchange.enter(SERVED)
        return False

    def _send(self, exchange: Exchange, file: OpenFile) -> None:
        """A file."""
        hooks = self.service.hooks.static_get_poststat_pre_send
        if hooks and self.is_taken(exchange, hooks, file.mtime_ns // 10**9):
            os.close(file.fd)
            return
        etag = etag_for(file.mtime_ns, file.size)
        modified = file.mtime_ns // 10**9
        kind = self.service.world.media.kind_of(file.name.rpartition(b"/")[2])
        send_file(exchange, file, self._dated(etag, modified, kind), Validators(etag, modified))

    def _dated(self, etag: bytes, modified: int, kind: bytes) -> Fields:
        """The fields that every representation has."""
        shown = min(max(modified, 0), self.clock.epoch())  # RFC 9110 section 8.8.2.1: never later than Date
        return [(b"ETag", etag), (b"Last-Modified", http_date(shown)), (b"Content-Type", kind)]

    def _add_slash(self, exchange: Exchange) -> None:
        """A folder was asked for without its slash. Location has no host: it is the client's own, whoever is between, TLS or not.

        All slashes at its begin are one, or `//name` would be a host.
        """
        request = exchange.request
        location = b"/" + request.path.lstrip(b"/") + b"/" + (b"?" + request.query if request.query else b"")
        exchange.respond(301, [(b"Location", location)], b"")

    def _folder(self, exchange: Exchange, path: bytes) -> None:
        """A folder in which no index file is: a list of it, if there may be one."""
        values = self.service.values
        if not values["dirindexing"]:
            self._refuse(exchange, 403)
            return
        root, limit = os.fsencode(values["docroot"]), values["dirindexing_limit"]
        Finding(exchange, partial(listing, root, path, limit), partial(self._listed, exchange))

    def _listed(self, exchange: Exchange, made: Listing | None, error: BaseException | None) -> None:
        """A list was made, or could not be."""
        if made is None:
            self._refuse(exchange, error.status if isinstance(error, NotServed) else 500)
            return
        if made.shown < made.there:
            self.counts["listings_cut"] += 1
            self.service.world.log_limited(
                "listing", "%(service)s: the list of %(path)s has %(shown)d names, and not all of %(there)d (dirindexing_limit)",
                {
                    "event": "listing_cut", "service": self.name, "path": exchange.path.decode("latin-1"), "shown": made.shown,
                    "there": made.there,
                },
            )  # fmt: skip
        send_made(
            exchange, made.page, self._dated(made.etag, made.modified, b"text/html; charset=utf-8"), Validators(made.etag, made.modified)
        )

    def _refuse(self, exchange: Exchange, status: int) -> None:
        if status >= 500:
            self.service.world.log_limited(
                "file", "%(service)s: %(status)d, a file could not be opened",
                {"event": "file_not_opened", "service": self.name, "status": status},
            )  # fmt: skip
        exchange.error(status, _REFUSALS[status])
