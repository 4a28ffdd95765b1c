"""web_server: GET and HEAD of files below docroot. How a file is found stands in files/finding.py, how it is sent in files/sending.py."""

import os
from functools import partial

from pbal.http1.conditional import etag_for
from pbal.http1.encoder import http_date
from pbal.model.exchange import SERVED, Exchange
from pbal.roles.files.finding import IsDirectory, NotKnown, NotServed, OpenFile, decoded, find, find_known, with_index
from pbal.roles.files.media import content_type
from pbal.roles.files.sending import Finding, Validators, send_file
from pbal.roles.http import HttpRole

_ALLOW = ((b"Allow", b"GET, HEAD"),)
_REFUSALS = {403: b"Not for you.\n", 404: b"Nothing here.\n", 500: b"The file cannot be read.\n", 503: b"Too much is open here.\n"}


class WebServer(HttpRole):
    """The handler of one web_server service."""

    def serve(self, exchange: Exchange) -> None:
        """Answer from the docroot."""
        if exchange.method not in (b"GET", b"HEAD"):
            exchange.error(405, b"Only GET and HEAD here.\n", _ALLOW)
            return
        values = self.service.values
        if values["docroot"] is None:
            exchange.error(404, b"Nothing here.\n")
            return
        exchange.enter(SERVED)
        folder, index_files = os.fsencode(values["docroot"]), values["index_files"]
        try:
            path = decoded(exchange.path)
            file = with_index(find_known, folder, path, index_files)
        except NotKnown:
            Finding(exchange, partial(with_index, find, folder, path, index_files), partial(self._found, exchange))
        except (NotServed, IsDirectory) as refusal:
            self._found(exchange, None, refusal)
        else:
            self._found(exchange, file, None)

    def _found(self, exchange: Exchange, file: OpenFile | None, error: BaseException | None) -> None:
        """A file was opened, or there is none."""
        if file is not None:
            self._send(exchange, file)
        elif isinstance(error, IsDirectory):
            request = exchange.request
            location = b"/" + request.path.lstrip(b"/") + b"/" + (b"?" + request.query if request.query else b"")
            exchange.respond(301, [(b"Location", location)], b"")
        else:
            status = error.status if isinstance(error, NotServed) else 500
            if status >= 500:
                self.service.world.log_limited(
                    "file", "%(service)s: %(status)d, a file could not be opened",
                    {"event": "file_not_opened", "service": self.name, "status": status},
                )  # fmt: skip
            exchange.error(status, _REFUSALS[status])

    def _send(self, exchange: Exchange, file: OpenFile) -> None:
        etag = etag_for(file.mtime_ns, file.size)
        modified = file.mtime_ns // 10**9
        shown = min(max(modified, 0), self.clock.epoch())  # RFC 9110 section 8.8.2.1: never later than Date
        name = file.name.rpartition(b"/")[2]
        fields = [(b"ETag", etag), (b"Last-Modified", http_date(shown)), (b"Content-Type", content_type(name))]
        send_file(exchange, file, fields, Validators(etag, modified))
