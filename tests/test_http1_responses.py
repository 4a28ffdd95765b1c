"""The reader of responses beside h11 and httptools, on generated and mutated responses cut anywhere, then closed.

As in test_http1_differential: taken (status, body) or refused, and every difference needs a row of EXPLAINED.
"""

import re
from collections.abc import Callable
from typing import Any

import h11
import httptools
from differences import assert_explained, cut
from hypothesis import given, settings
from hypothesis import strategies as st

from pbal.http1.events import END, Malformed
from pbal.http1.reader import Limits, ResponseReader

Verdict = tuple[Any, ...]
REFUSED: Verdict = ("refused",)


def ours(pieces: list[bytes], method: bytes) -> Verdict:
    """("taken", status, body) of the first final response, or ("refused",)."""
    reader = ResponseReader(Limits())
    reader.expect(method)
    status, body = 0, b""
    try:
        for piece in [*pieces, None]:
            if piece is None:
                reader.eof()
            else:
                reader.feed(piece)
            while (event := reader.next()) is not None:
                if event is END:
                    return ("taken", status, body)
                if isinstance(event, bytes):
                    body += event
                    continue
                status = event.status  # type: ignore[union-attr]
                if status >= 200 and event.framing == 0:  # type: ignore[union-attr]
                    return ("taken", status, b"")
    except Malformed:
        return REFUSED
    raise AssertionError("neither complete nor cut off")


def by_h11(pieces: list[bytes], method: bytes) -> Verdict:
    connection, status, body = h11.Connection(h11.CLIENT), 0, b""
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"h")]))
    connection.send(h11.EndOfMessage())
    try:
        for piece in [*(piece for piece in pieces if piece), b""]:
            connection.receive_data(piece)
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    return ("taken", status, body)
                elif isinstance(event, h11.ConnectionClosed):
                    return REFUSED
    except h11.RemoteProtocolError:
        return REFUSED
    return REFUSED


class _Callbacks:
    """Collects the first final response: llhttp reports a 1xx as a message of its own."""

    def __init__(self) -> None:
        self.parser: Any = None
        self.body = b""
        self.status = 0

    def on_body(self, body: bytes) -> None:
        if not self.status:
            self.body += body

    def on_message_complete(self) -> None:
        if not self.status and self.parser.get_status_code() >= 200:
            self.status = self.parser.get_status_code()


def by_httptools(pieces: list[bytes], method: bytes) -> Verdict:
    """llhttp is not told of the end of the connection, nor of HEAD: rows of EXPLAINED."""
    callbacks = _Callbacks()
    callbacks.parser = httptools.HttpResponseParser(callbacks)
    for piece in pieces:
        try:
            callbacks.parser.feed_data(piece)
        except httptools.HttpParserError:
            break
        if callbacks.status:
            break
    return ("taken", callbacks.status, callbacks.body) if callbacks.status else REFUSED


def _has(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
    return lambda data: compiled.search(data) is not None


def _final_head(data: bytes) -> bytes:
    """The head of the first response that is not a 1xx."""
    for head in data.split(b"\r\n\r\n"):
        if re.match(rb"HTTP/1\.\d 1\d\d", head) is None:
            return head
    return b""


def _until_close(data: bytes) -> bool:
    return re.search(rb"\n(content-length|transfer-encoding):", _final_head(data), re.IGNORECASE) is None


# (who differs, our verdict, theirs, predicate on the octets, why). The first row that fits explains.
# No row explains two responses that are both taken and differ.
EXPLAINED: list[tuple[str, str, str, Callable[[bytes], bool], str]] = [
    ("both", "refused", "taken", _has(rb"content-length:[^\r\n]*\r\n(.*\r\n)?content-length:"), "a repeated Content-Length"),
    ("both", "refused", "taken", _has(rb"content-length:[ \t]*[0-9]+[ \t]*,"), "a list of equal lengths"),
    ("both", "refused", "taken", _has(rb"transfer-encoding:.*content-length:|content-length:.*transfer-encoding:"), "both framings"),
    ("both", "refused", "taken", _has(rb"transfer-encoding:[ \t]*+(?!chunked[ \t]*\r\n)"), "a transfer coding that is not `chunked`"),
    ("both", "refused", "taken", _has(rb"transfer-encoding:.*transfer-encoding:"), "a repeated Transfer-Encoding"),
    ("both", "refused", "taken", _has(rb"HTTP/1\.0 .*transfer-encoding:"), "a transfer coding in HTTP/1.0 (RFC 9112 section 6.1)"),
    ("both", "refused", "taken", _has(rb"\r\n[ \t]"), "folded lines"),
    ("both", "refused", "taken", _has(rb"(?<!\r)\n"), "a bare LF as line end, of a chunk"),
    ("both", "refused", "taken", _has(rb"\r(?!\n)"), "a bare CR"),
    ("both", "refused", "taken", _has(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "control octets"),
    ("both", "refused", "taken", _has(rb"HTTP/(0|[2-9])\.|HTTP/1\.[2-9]"), "other versions"),
    ("both", "refused", "taken", lambda data: re.match(rb"(HTTP/1\.\d [1-9]\d\d( [^\r\n]*)?\r\n)", data) is None, "an odd status line"),
    ("both", "refused", "taken", _has(rb"\r\n[0-9a-f]+;(?!\w+=\w+\r)|\r\n[0-9a-f]+[ \t]"), "an odd chunk extension, or blanks about it"),
    ("httptools", "refused", "taken", _has(rb"\r\n\r\n\r\n"), "an empty line before a response, after a 1xx too"),
    ("httptools", "refused", "taken", _has(rb"\n[^:\r\n]*[ \t]:|\n[ \t]*:"), "llhttp lets blanks before the colon pass in responses"),
    ("httptools", "taken", "refused", _until_close, "llhttp is not told that the connection closed"),
    ("httptools", "taken", "refused", _has(rb"HTTP/1\.[2-9]"), "HTTP/1.x with a higher x is HTTP/1.1 (RFC 9110 section 2.5)"),
    ("both", "taken", "refused", lambda data: b"\n" in data.replace(b"\r\n", b""), "a bare LF ends a line (RFC 9112 section 2.2)"),
    ("both", "taken", "refused", _has(rb"content-length:[ \t]*[0-9]{16,19}|content-length:[ \t]*0[0-9]"), "long lengths of plain digits"),
]  # fmt: skip

STATUS = st.sampled_from([b"200 OK", b"200 OK", b"200 ", b"200", b"204 No Content", b"304 Not Modified", b"404 N\xe9", b"599 X", b"999 X"])
FIELDS = st.sampled_from([
    b"Server: nginx", b"X: ", b"X:y", b"X:  y\t", b"Connection: close", b"Connection: keep-alive", b"X-A: \xe9",
    b"Content-Length: 0", b"Content-Length: 3", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked",
])  # fmt: skip
MUTATIONS = st.sampled_from([
    b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b":", b",", b"0", b"+", b"x", b"\x0b", b"\xff", b";a", b"Content-Length: 1\r\n",
])  # fmt: skip
CHUNKS = st.sampled_from([b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n", b"A\r\n0123456789\r\n0\r\n\r\n"])


@st.composite
def responses(draw: Any) -> bytes:
    fields = draw(st.lists(FIELDS, max_size=3))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2"]))
    early = draw(st.sampled_from([b"", b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]))
    names = b"\n".join(fields).lower()
    body = draw(CHUNKS) if b"chunked" in names else draw(st.sampled_from([b"", b"abc", b"abc"]))
    data: bytes = early + b"\r\n".join([version + b" " + draw(STATUS), *fields, b"", b""]) + body
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(MUTATIONS) + data[place + draw(st.integers(0, 2)) :]
    return data


@settings(max_examples=600, derandomize=True)
@given(data=responses(), places=st.lists(st.integers(0, 300), max_size=5), method=st.sampled_from([b"GET", b"GET", b"HEAD"]))
def test_every_difference_is_explained(data, places, method):
    mine = ours([data], method)
    assert ours(cut(data, places), method) == mine, "where octets are cut makes no difference"
    for name, other in (("h11", by_h11), ("httptools", by_httptools)):
        if name == "httptools" and method == b"HEAD":
            continue
        assert_explained(EXPLAINED, name, data, mine, other([data], method))


@settings(max_examples=1000, derandomize=True)
@given(data=responses())
def test_what_we_take_means_the_same_to_h11(data):
    """No row explains two different bodies: that would be a response split."""
    mine, theirs = ours([data], b"GET"), by_h11([data], b"GET")
    if mine[0] == theirs[0] == "taken":
        assert mine == theirs


def test_the_generator_reaches_what_it_is_for():
    """Both verdicts on each kind of framing come up, or the tests above show nothing."""
    seen: set[tuple[str, bool, bool]] = set()

    @settings(max_examples=400, derandomize=True, database=None)
    @given(data=responses())
    def collect(data: bytes) -> None:
        lowered = data.lower()
        seen.add((ours([data], b"GET")[0], b"chunked" in lowered, b"content-length" in lowered))

    collect()
    assert {("taken", True, False), ("taken", False, True), ("taken", False, False), ("refused", True, True)} <= seen
