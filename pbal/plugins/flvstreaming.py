r"""flvstreaming: players jump to any place of a Flash video, of servers that know ranges and nothing of video.

    LOAD flvstreaming
    CREATE POOL videos
      POOL videos ADD 10.0.0.30:8080
    CREATE SERVICE tube
      SET role    = reverse_proxy
      SET listen  = 0.0.0.0:80
      SET pool    = videos
      SET plugins = flvstreaming
    ENABLE tube

A request for a path that ends in .flv, with `start=N` in its query, is for the video from its byte N on. The node is asked for that range,
and the player gets it as a video of its own: 200, video/x-flv, with the 13 bytes in front of it with which every video begins.

Source: Perlbal's FlvStreaming. differs: only a range that begins at N is made a video; what else a node answers (the whole file, 404, 416)
goes to the client as it is; so does a file that it orders with X-REPROXY-FILE, which is sent whole.
"""

import re
from typing import Final

from pbal.api import Exchange, Explanation, FileFound, Plugin, ResponseHead, Verdict, hook

HEADER: Final = b"FLV\x01\x01\x00\x00\x00\x09\x00\x00\x00\x09"
"""What Perlbal sends: a file with video, whose header has 9 bytes."""
START: Final = re.compile(rb"(?:^|&)start=0*([1-9][0-9]{0,14})(?:&|$)")
HIDDEN: Final = frozenset({b"accept-ranges", b"content-range", b"content-type"})


def start(exchange: Exchange) -> bytes:
    """The place that a player asks for, in digits; b"" where it asks for none."""
    if exchange.method not in (b"GET", b"HEAD") or not exchange.plain_path.endswith(b".flv"):
        return b""
    found = START.search(exchange.request.query)
    return b"" if found is None else found[1]


class FlvStreaming(Plugin):
    """What is asked of nodes, and made of their answers."""

    roles = frozenset({"reverse_proxy"})
    _made: ResponseHead | None = None
    """The response that modify_response_headers made a video of; prepend_body comes right behind it."""

    @hook.start_proxy_request
    def ask_for_the_range(self, exchange: Exchange) -> Verdict:
        place = start(exchange)
        if place:
            exchange.set_field(b"Range", b"bytes=%b-" % place)
            exchange.set_field(b"If-Range", None)
            exchange.set_field(b"Accept-Encoding", None)  # a part of what is compressed is no video
        return Verdict.PASS

    @hook.start_send_file
    def whole(self, exchange: Exchange, file: FileFound) -> Verdict:
        if start(exchange):
            exchange.set_field(b"Range", None)
        return Verdict.PASS

    @hook.modify_response_headers
    def make_a_video(self, exchange: Exchange, response: ResponseHead) -> None:
        self._made = None
        place = start(exchange)
        if not place or response.status != 206:
            return
        fields = {name.lower(): value for name, value in response.headers}
        if not fields.get(b"content-range", b"").lower().startswith(b"bytes %b-" % place) or b"content-encoding" in fields:
            return
        response.status, response.reason = 200, b"OK"
        response.headers = [(name, value) for name, value in response.headers if name.lower() not in HIDDEN]
        response.headers.append((b"Content-Type", b"video/x-flv"))
        self._made = response

    @hook.prepend_body
    def header_of_a_video(self, exchange: Exchange, response: ResponseHead) -> bytes:
        made, self._made = self._made, None
        return HEADER if response is made else b""

    def explain(self, exchange: Exchange) -> Explanation | None:
        """See Plugin."""
        place = start(exchange)
        return Explanation([f"a video from byte {place.decode()} on: the node is asked for that range"]) if place else None
