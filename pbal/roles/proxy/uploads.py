"""Uploads of a reverse_proxy: which are held before a node is asked, which go to disk, and how a body comes back from there.

    begun     Content-Length of buffer_upload_threshold_size or more, with buffer_uploads                 -> spooled (size)
              Expect: 100-continue, or buffer_backend_connect = 0                                         -> a Relay at once, streamed
    memory    up to buffer_backend_connect; its end comes first                                           -> a Relay, the body held whole
              more comes, with buffer_uploads: chunked, or at a rate that is too small, or for too long   -> spooled (chunked, rate, time)
              more comes, else                                                                            -> a Relay, streamed from here
    spooled   see roles/collect.py                                                                        -> a Relay, the body held whole

So a small upload that comes slowly holds no connection to a node, and a body that was held whole goes out with a Content-Length, and
can be sent again to another node. An expectation is the client's wish to hear from whoever decides about its body: that is the node,
unless pbal has to have the body first, or a rule keeps the expectation from the node (RFC 9110 section 10.1.1): then pbal says 100 itself.

Why a body is spooled is Perlbal's rule: the rate is that of the octets in memory, the time what the rest would take at that rate.
"""

from collections.abc import Mapping
from typing import Any, Final

from pbal.http1.events import CHUNKED, RequestHead
from pbal.model.exchange import Exchange
from pbal.roles.collect import Collector, Done

REASONS: Final = {
    "size": "Content-Length is buffer_upload_threshold_size or more",
    "rate": "it came at less than buffer_upload_threshold_rate",
    "time": "the rest would have taken longer than buffer_upload_threshold_time",
    "chunked": "it is chunked, and longer than buffer_backend_connect",
    "plugin": "a plugin wanted all of it, and it is longer than buffer_backend_connect",
}
"""Why a body was spooled: the note `spooled` of the access log."""


class Upload(Collector):
    """The sink of an exchange of a reverse_proxy whose body is held. `done` is called when it is whole, or when it is to be streamed."""

    __slots__ = ()

    def _overflow(self) -> None:
        why = self._why_to_disk()
        if why:
            self.to_disk(why)
            return
        exchange = self._exchange
        exchange.sink = None
        self._done(exchange, ())

    def _why_to_disk(self) -> str:
        """One of REASONS, or "": it is streamed."""
        exchange, values = self._exchange, self._exchange.service.values
        if not values["buffer_uploads"]:
            return ""
        size = exchange.request.framing
        if size == CHUNKED:
            return "chunked"
        elapsed = exchange.service.world.clock.now() - exchange.started
        rate = self._body.size / elapsed if elapsed > 0 else float("inf")
        longest = values["buffer_upload_threshold_time"]
        if longest and (size - self._body.size) / rate > longest:
            return "time"
        return "rate" if rate < values["buffer_upload_threshold_rate"] else ""


STREAMED, IN_MEMORY, ON_DISK = 0, 1, 2
"""How the body of a request begins."""


def beginning(request: RequestHead, values: Mapping[str, Any]) -> int:
    """How the body of a request begins, by the tunables of its service."""
    size = request.framing
    if values["buffer_uploads"]:
        if 0 < values["buffer_upload_threshold_size"] <= size:
            return ON_DISK
        if size == CHUNKED and request.expect_continue:
            return IN_MEMORY
    return STREAMED if request.expect_continue or not values["buffer_backend_connect"] else IN_MEMORY


def held(exchange: Exchange, done: Done) -> bool:
    """Hold the body of an exchange as its service says, and call `done` then; False: it is streamed from the beginning.

    Called while no octet of the body has been taken. The exchange may have been answered when this returns.
    """
    request = exchange.request
    how = beginning(request, exchange.service.values)
    if how == STREAMED:
        return False
    upload = Upload(exchange, (), done)
    if (how == IN_MEMORY or upload.to_disk("size")) and request.expect_continue:
        upload.begin()
    return True


def explained(request: RequestHead, values: Mapping[str, Any]) -> str:
    """The same, for people."""
    how, most = beginning(request, values), values["buffer_backend_connect"]
    if how == STREAMED:
        return "its body goes on as it comes"
    if how == ON_DISK:
        return "its body is spooled to disk first: " + REASONS["size"]
    more = "more of it goes on as it comes"
    if values["buffer_uploads"]:
        more = "more of it is spooled to disk" + ("" if request.framing == CHUNKED else " if it comes slowly, else it goes on as it comes")
    return f"its body is held in memory up to {most} bytes (buffer_backend_connect); {more}"
