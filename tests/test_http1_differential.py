"""The reader beside h11 and httptools, on generated and mutated requests cut anywhere.

Each of the three says of a message: taken (method, target, body) or refused. Where they differ, a row of EXPLAINED must say
why; a difference nobody explained fails.
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
from pbal.http1.reader import Limits, RequestReader

Verdict = tuple[Any, ...]
Predicate = Callable[[bytes], bool]


def ours(pieces: list[bytes]) -> Verdict:
    """("taken", method, target, body), ("refused",) or ("unfinished",) of the first message."""
    reader, head, body = RequestReader(Limits()), None, b""
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next()) is not None:
                if isinstance(event, bytes):
                    body += event
                elif event is END:
                    return ("taken", head.method, head.target, body)  # type: ignore[union-attr]
                else:
                    head = event
                    if head.framing == 0:
                        return ("taken", head.method, head.target, b"")
    except Malformed:
        return ("refused",)
    return ("unfinished",)


def by_h11(pieces: list[bytes]) -> Verdict:
    connection, head, body = h11.Connection(h11.SERVER), None, b""
    try:
        for piece in pieces:
            connection.receive_data(piece)
            while True:
                event = connection.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    break
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    return ("taken", bytes(head.method), bytes(head.target), body)  # type: ignore[union-attr]
    except h11.RemoteProtocolError:
        return ("refused",)
    return ("unfinished",)


class _Callbacks:
    def __init__(self) -> None:
        self.url, self.body, self.done = b"", b"", False

    def on_url(self, url: bytes) -> None:
        if not self.done:
            self.url += url

    def on_body(self, body: bytes) -> None:
        if not self.done:
            self.body += body

    def on_message_complete(self) -> None:
        self.done = True


def by_httptools(pieces: list[bytes]) -> Verdict:
    callbacks = _Callbacks()
    parser = httptools.HttpRequestParser(callbacks)
    for piece in pieces:
        try:
            parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            return ("taken", parser.get_method(), callbacks.url, callbacks.body) if callbacks.done else ("refused",)
        if callbacks.done:
            return ("taken", parser.get_method(), callbacks.url, callbacks.body)
    return ("unfinished",)


def _head(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[0]


def _has(pattern: bytes) -> Predicate:
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
    return lambda data: compiled.search(data) is not None


def _start(data: bytes) -> bytes:
    """The start line, an empty line before it let pass."""
    return data.removeprefix(b"\r\n").partition(b"\r\n")[0]


def _field(name: bytes, value: bytes) -> Predicate:
    """Whether a header field `name` has a value (without outer blanks) that `value` matches whole."""
    whole = re.compile(rb"\n" + name + rb":[ \t]*+(?:" + value + rb")[ \t]*(?=\r|\n|\Z)", re.IGNORECASE)
    return lambda data: whole.search(b"\n" + _head(data)) is not None


def _times(name: bytes, least: int) -> Predicate:
    """Whether a header field comes at least so often."""
    line = re.compile(rb"\n" + name + rb"[ \t]*:", re.IGNORECASE)
    return lambda data: len(line.findall(_head(data))) >= least


def _both(*predicates: Predicate) -> Predicate:
    return lambda data: all(predicate(data) for predicate in predicates)


_NAME = rb"[^\r\n:\[\], \t/@#?\"<>\\^`{|}\x00-\x20\x7f-\xff]*"
_GOOD_HOST = re.compile(rb"\nhost:[ \t]*+(?:(?!:)" + _NAME[:-1] + rb"+|\[[0-9a-f:.]+\])(?::[0-9]{0,5})?[ \t]*(?=\r\n|\Z)", re.IGNORECASE)


def _odd_host(data: bytes) -> bool:
    """A Host that is not name or [v6], with an optional port of digits."""
    return _times(rb"host", 1)(data) and _GOOD_HOST.search(_head(data)) is None


# (who differs, our verdict, theirs, predicate on the octets, why). The first row that fits explains. No row explains two
# messages that are both taken and differ: that would be a smuggled request.
EXPLAINED: list[tuple[str, str, str, Predicate, str]] = [
    ("both", "refused", "taken", _times(rb"content-length", 2), "a repeated Content-Length is refused, equal or not"),
    ("both", "refused", "taken", _field(rb"content-length", rb"[0-9 \t]*,[0-9, \t]*"), "a list of equal lengths is refused"),
    ("both", "refused", "taken", _both(_times(rb"transfer-encoding", 1), _times(rb"content-length", 1)), "two framings"),
    ("both", "refused", "taken", _both(_times(rb"transfer-encoding", 1), lambda data: b"HTTP/1.0" in _start(data)), "coded HTTP/1.0"),
    ("both", "refused", "taken", _times(rb"transfer-encoding", 2), "a repeated Transfer-Encoding"),
    ("both", "refused", "taken", _field(rb"transfer-encoding", rb"(?!chunked[ \t]*(?:\r|\Z))[^\r\n]*"), "not plainly `chunked`"),
    ("both", "refused", "taken", _times(rb"host", 2), "two Hosts"),
    ("both", "refused", "taken", lambda data: not _times(rb"host", 1)(data), "no Host"),
    ("both", "refused", "taken", _odd_host, "what no Host can be"),
    ("both", "refused", "taken", _field(rb"expect", rb"(?!100-continue[ \t]*(?:\r|\Z))[^\r\n]*"), "another expectation: 417"),
    ("both", "refused", "taken", _has(rb"\r\n[ \t]"), "folded lines (RFC 9112 section 5.2 lets a server refuse them)"),
    ("both", "refused", "taken", _has(rb"^(\r\n){2,}|^\n|^\r\n\n"), "more than one empty line before the request"),
    ("both", "refused", "taken", _has(rb"(?<!\r)\n"), "a bare LF as line end"),
    ("both", "refused", "taken", _has(rb"\r(?!\n)"), "a bare CR"),
    ("both", "refused", "taken", _has(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "control octets"),
    ("both", "refused", "taken", lambda data: re.search(rb"[\x80-\xff#]", _start(data)) is not None, "octets no target has"),
    ("both", "refused", "taken", lambda data: data.split(b" ")[1][:1] != b"/", "a target form the method does not have"),
    ("both", "refused", "taken", lambda data: re.search(rb" HTTP/1\.[0-9]$", _start(data)) is None, "other versions"),
    ("both", "refused", "taken", lambda data: _start(data).count(b" ") != 2, "a request line that is not exactly three words"),
    ("both", "refused", "taken", _has(rb"\r\n[0-9a-f]+[ \t]+[;\r]"), "blanks around chunk sizes"),
    ("both", "refused", "taken", _has(rb"\r\n[0-9a-f]+;(?!\w+=\w+\r)"), "an odd chunk extension, or blanks in it"),
    ("both", "refused", "unfinished", lambda data: True, "refused as soon as it cannot become a message; they wait"),
    ("both", "taken", "refused", _has(rb"^\r\n"), "one empty line before the request is let pass (RFC 9112 section 2.2)"),
    ("both", "taken", "refused", lambda data: re.search(rb"HTTP/1\.[2-9]$", _start(data)) is not None, "1.x is 1.1 (RFC 9110 section 2.5)"),
    (
        "httptools", "taken", "refused", lambda data: re.match(rb"(GET|POST|PUT|HEAD|DELETE|OPTIONS) ", _start(data)) is None,
        "methods llhttp does not know; a proxy passes them on",
    ),
    ("httptools", "taken", "refused", lambda data: re.search(rb"[\"<>\\^`{|}]", _start(data)) is not None, "browsers send them unescaped"),
    ("both", "taken", "refused", _field(rb"content-length", rb"0[0-9]+|[0-9]{16,19}"), "lengths up to 19 digits, zeros leading or not"),
    ("h11", "taken", "refused", _field(rb"host", rb"[^\r\n]*[!$&'()*+,;=~%][^\r\n]*"), "a reg-name in all its legal characters"),
    ("both", "unfinished", "refused", lambda data: True, "they refuse what ours, waiting for the end of the head, has not judged yet"),
]  # fmt: skip

METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"OPTIONS", b"DELETE", b"M-SEARCH", b"get", b"FOO"])
TARGETS = st.sampled_from([b"/", b"/a?b=c", b"/%41/..", b"http://h/x", b"*", b"h:80", b"/a|b", b"//x"])
FIELDS = st.sampled_from([
    b"Host: h", b"host: h:80", b"Host: [::1]", b"Accept: */*", b"Cookie: a=b; c=d", b"X: ", b"X:y", b"X:  y\t", b"Connection: close",
    b"Connection: keep-alive", b"Expect: 100-continue", b"X-A: \xe9", b"Content-Length: 0", b"Content-Length: 3",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", b"Content-Length: 3", b"Upgrade: x",
])  # fmt: skip
MUTATIONS = st.sampled_from([
    b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b":", b",", b"0", b"+", b"x", b"\x0b", b"\xff", b";a", b"#", b"Host: z\r\n",
])  # fmt: skip

CHUNKS = st.sampled_from([b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n", b"A\r\n0123456789\r\n0\r\n\r\n"])


@st.composite
def messages(draw: Any) -> bytes:
    fields = draw(st.lists(FIELDS, max_size=4))
    if draw(st.integers(0, 4)):
        fields = [b"Host: h", *[field for field in fields if not field.lower().startswith(b"host")]]
    version = draw(st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2"]))
    body = b""
    names = b"\n".join(fields).lower()
    if b"chunked" in names:
        body = draw(CHUNKS)
    elif b"content-length: 3" in names:
        body = b"abc"
    data: bytes = b"\r\n".join([b" ".join([draw(METHODS), draw(TARGETS), version]), *fields, b"", b""]) + body
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(MUTATIONS) + data[place + draw(st.integers(0, 2)) :]
    return data


@settings(max_examples=600, derandomize=True)
@given(data=messages(), places=st.lists(st.integers(0, 400), max_size=5))
def test_every_difference_is_explained(data, places):
    mine = ours([data])
    assert ours(cut(data, places)) == mine, "where octets are cut makes no difference"
    for name, other in (("h11", by_h11), ("httptools", by_httptools)):
        assert_explained(EXPLAINED, name, data, mine, other([data]))


@settings(max_examples=600, derandomize=True)
@given(data=messages())
def test_what_we_take_means_the_same_to_h11(data):
    """The difference that matters: a message both take has the same borders, or something could be smuggled."""
    mine, theirs = ours([data]), by_h11([data])
    if mine[0] == theirs[0] == "taken":
        assert mine == theirs
