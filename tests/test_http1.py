"""The reader by tables: what is refused, what is taken, and that it does not matter where octets are cut."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pbal.http1.conditional import etag_for, evaluate, parse_http_date
from pbal.http1.encoder import chunk, http_date, status_line
from pbal.http1.events import CHUNKED, END, UNTIL_CLOSE, BadRequest, BadResponse, Malformed, ResponseHead
from pbal.http1.headers import KNOWN_FORWARDING, canonical, forwardable_block, upgrade_offer
from pbal.http1.reader import Limits, RequestReader, ResponseReader

CASES = sorted((Path(__file__).parent / "cases").glob("*.http"))


def events(reader: Any, pieces: list[bytes], eof: bool = False) -> list[Any]:
    """What comes out, a refusal as its status; pieces of body joined."""
    out: list[Any] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            drain(reader, out)
        if eof:
            reader.eof()
            drain(reader, out)
    except Malformed as refusal:
        if out and isinstance(out[-1], bytes):
            out.pop()  # whether octets before the fault were handed out depends on the cut, and does not matter
        out.append(refusal.status)
    return out


def drain(reader: Any, out: list[Any]) -> None:
    while (event := reader.next()) is not None:
        if isinstance(event, bytes):
            if out and isinstance(out[-1], bytes):
                out[-1] += event
            else:
                out.append(event)
        elif event is END:
            out.append("end")
        else:
            start = (event.method, event.target) if hasattr(event, "method") else (event.status, event.reason)
            out.append((*start, event.framing, tuple(event.headers)))


def cuts(data: bytes) -> list[list[bytes]]:
    """The same octets: whole, one by one, cut once at every place."""
    whole = [[data], [data[place : place + 1] for place in range(len(data))]]
    return whole + [[data[:place], data[place:]] for place in range(1, len(data))]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_case_file(case):
    """NNNN-name.http beside .expect: the statuses and request lines that come out, one a line."""
    data = case.read_bytes()
    expected = case.with_suffix(".expect").read_text().split("\n")[:-1]
    for pieces in cuts(data):
        seen = []
        for event in events(RequestReader(Limits()), pieces):
            if isinstance(event, tuple):
                seen.append(f"{event[0].decode()} {event[1].decode()} {event[2]}")
            else:
                seen.append(f"body {event.decode('latin-1')}" if isinstance(event, bytes) else str(event))
        assert seen == expected, pieces


@pytest.mark.parametrize(
    ("limits", "request_bytes", "status"),
    [
        (Limits(max_head=100), b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 100, 431),
        (Limits(max_fields=2), b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\nC: d\r\n\r\n", 431),
        (Limits(max_target=50), b"GET /" + b"x" * 60, 414),
        (Limits(max_target=50), b"GET /" + b"x" * 60 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (Limits(max_target=50), b"x" * 60, 400),
        (Limits(max_chunk_line=10), b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 20, 400),
        (Limits(max_trailer=10), b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * 20, 431),
    ],
)
def test_limits_hit_before_the_message_is_complete(limits, request_bytes, status):
    assert events(RequestReader(limits), [request_bytes])[-1] == status
    assert events(RequestReader(limits), [request_bytes[place : place + 1] for place in range(len(request_bytes))])[-1] == status


CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("limits", "fits", "one_more", "status"),
    [
        (
            Limits(max_target=40),
            b"GET /" + b"x" * 26 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /" + b"x" * 27 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            414,
        ),
        (
            Limits(max_head=40),
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 12 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 13 + b"\r\n\r\n",
            431,
        ),
        (
            Limits(max_head=40, max_target=8192),
            b"GET /" + b"x" * 16 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /" + b"x" * 27 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            414,
        ),
        (
            Limits(max_trailer=10),
            CHUNKED_POST + b"0\r\nA: " + b"x" * 7 + b"\r\n\r\n",
            CHUNKED_POST + b"0\r\nA: " + b"x" * 8 + b"\r\n\r\n",
            431,
        ),
        (Limits(max_chunk_line=10), CHUNKED_POST + b"0;abcdef\r\n\r\n", CHUNKED_POST + b"0;abcdefg\r\n\r\n", 400),
    ],
)
def test_a_limit_is_the_same_however_octets_are_cut(limits, fits, one_more, status):
    for pieces in cuts(fits):
        assert status not in events(RequestReader(limits), pieces), pieces
    for pieces in cuts(one_more):
        assert events(RequestReader(limits), pieces)[-1] == status, pieces


def test_a_slow_trailer_is_looked_at_once_per_octet():
    """The search for its end goes on where it stopped; and it finds an end cut anywhere."""
    trailer = b"A: b\r\nC: d\r\n\r\n"
    for pieces in cuts(trailer):
        reader = RequestReader(Limits())
        assert events(reader, [CHUNKED_POST, b"0\r\n", *pieces, b"GET / HTTP/1.1\r\nHost: y\r\n\r\n"])[1:] == [
            "end",
            (b"GET", b"/", 0, ((b"Host", b"y"),)),
        ]


def test_a_reader_between_messages():
    reader = RequestReader(Limits())
    assert reader.at_start
    reader.feed(b"G")
    assert reader.next() is None
    assert (reader.at_start, reader.buffered) == (False, 1)
    assert events(reader, [b"ET / HTTP/1.1\r\nHost: x\r\n\r\nrest"])[0][1] == b"/"
    assert (reader.buffered, reader.take_rest(), reader.buffered) == (4, b"rest", 0)


def test_what_follows_a_101_is_left_alone():
    reader = ResponseReader(Limits())
    reader.feed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00\n\n")
    head = reader.next()
    assert head.upgrade
    assert reader.next() is None
    assert reader.take_rest() == b"\x81\x00\n\n"


def test_a_reader_that_refused_stays_dead():
    reader = RequestReader(Limits())
    assert events(reader, [b"GET / HTTP/1.1\r\n\r\n"]) == [400]
    assert events(reader, [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]) == []


def test_a_remembered_head_frames_its_body_again():
    reader = RequestReader(Limits())
    message = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    first = events(reader, [message + b"abc"])
    assert events(reader, [message + b"def"]) == [first[0], b"def", "end"]
    response = ResponseReader(Limits())
    for method, body, expected in ((b"GET", b"ab", [b"ab", "end"]), (b"HEAD", b"", []), (b"GET", b"cd", [b"cd", "end"])):
        response.expect(method)
        assert events(response, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body])[1:] == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", [(200, b"OK", 2, ((b"Content-Length", b"2"),)), b"ab", "end"]),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", [(200, b"", 0, ((b"Content-Length", b"0"),))]),
        (b"HTTP/1.1 204 No\r\n\r\n", [(204, b"No", 0, ())]),
        (b"HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n", [(304, b"N", 0, ((b"Content-Length", b"5"),))]),
        (b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 204 N\r\n\r\n", [(103, b"E", 0, ()), (204, b"N", 0, ())]),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", [(200, b"OK", UNTIL_CLOSE, ()), b"abc", "end"]),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            [(200, b"OK", CHUNKED, ((b"Transfer-Encoding", b"Chunked"),)), b"ab", "end"],
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", [(200, b"OK", 5, ((b"Content-Length", b"5"),)), 502]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", [502]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nab", [502]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", [502]),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [502]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [502]),
        (b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", [502]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab", [502]),
        (b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n", [502]),
        (b"HTTP/2 200 OK\r\n\r\n", [502]),
        (b"HTTP/1.1 20 OK\r\n\r\n", [502]),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", [502]),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", [502]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc", [(200, b"OK", -1, ((b"Transfer-Encoding", b"chunked"),)), 502]),
    ],
)
def test_responses(response, expected):
    for pieces in cuts(response):
        final = [event for event in events(ResponseReader(Limits()), pieces, eof=UNTIL_CLOSE in _framings(expected) or expected[-1] == 502)]
        assert final == expected, pieces


LF_HEADS = [
    b"HTTP/1.1 200 OK\nA: b\nContent-Length: 2\n\n",
    b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\nA: b\r\nContent-Length: 2\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\n",
    b"HTTP/1.1 200 OK\nA: \tb \nContent-Length: 2 \r\n\n",
]


@pytest.mark.parametrize("head", LF_HEADS)
def test_a_backend_may_end_header_lines_with_lf(head):
    """RFC 9112 section 2.2. The body may look like the end of a head, and what follows is read as strictly as ever."""
    expected = [(200, b"OK", 2, ((b"A", b"b"), (b"Content-Length", b"2")))]
    for body in (b"xy", b"\r\n", b"\n\n", b"\rx"):
        for pieces in cuts(head + body + b"HTTP/1.1 204 N\r\n\r\n"):
            assert events(ResponseReader(Limits()), pieces) == [*expected, body, "end", (204, b"N", 0, ())], pieces


@pytest.mark.parametrize("head", LF_HEADS)
def test_a_head_with_lf_goes_on_with_crlf(head):
    reader = ResponseReader(Limits())
    for _ in range(2):  # nor is it remembered as something else
        reader.feed(head + b"xy")
        read, body, end = reader.next(), reader.next(), reader.next()
        assert b"\n" not in read.block.replace(b"\r\n", b"")
        assert read.block.replace(b" ", b"").replace(b"\t", b"") == b"A:b\r\nContent-Length:2\r\n"
        assert (body, end) == (b"xy", END)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\nA: b\rc\n\n",
        b"HTTP/1.1 200 OK\nA: b\r\r\n\n",
        b"HTTP/1.1 200 OK\nA: b\n\r\r\n",
        b"HTTP/1.1 200 OK\rA: b\n\n",
        b"HTTP/1.1 200 OK\nA: b\n c\n\n",
        b"HTTP/1.1 200 OK\nA : b\n\n",
        b"HTTP/1.1 200 OK\nA: \x00\n\n",
        b"\nHTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 1\n\na",
        b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\na\n0\n\n",
        b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\r\nA: b\n\r\n",
    ],
)
def test_lf_is_the_only_leniency(response):
    for pieces in cuts(response):
        assert events(ResponseReader(Limits()), pieces)[-1] == 502, pieces


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_limits_of_a_response(end: bytes) -> None:
    """Its own: no line has a limit of a request's target, and heads with LF are measured like those with CRLF."""
    limits = Limits(max_head=8192 + 400, max_fields=2, max_target=20)

    def response(line: int, *fields: bytes) -> bytes:
        return end.join([b"HTTP/1.1 200 " + b"x" * line, *fields, b"", b""])

    assert events(ResponseReader(limits), [response(300, b"A: b", b"C: d")])[0][0] == 200
    assert events(ResponseReader(limits), [response(300, b"A: b", b"C: d", b"E: f")]) == [502]
    fits = len(b"HTTP/1.1 200 ") + len(end) + len(b"A: ")
    for length, expected in ((limits.max_head - fits, 200), (limits.max_head - fits + 1, 502)):
        data = response(0, b"A: " + b"y" * length)
        for pieces in ([data], [data[place : place + 1] for place in range(len(data))]):
            event = events(ResponseReader(limits), pieces)[0]
            assert (event if isinstance(event, int) else event[0]) == expected


@pytest.mark.parametrize(
    ("method", "response", "must_close"),
    [
        (b"GET", b"HTTP/1.1 204 N\r\n\r\n", False),
        (b"GET", b"HTTP/1.1 204 N\r\nContent-Length: 0\r\n\r\n", False),
        (b"GET", b"HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\n", True),
        (b"GET", b"HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"HEAD", b"HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\n", True),
        (b"GET", b"HTTP/1.1 103 E\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"GET", b"HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n", False),
        (b"HEAD", b"HTTP/1.1 200 N\r\nContent-Length: 5\r\n\r\n", False),
        (b"HEAD", b"HTTP/1.1 200 N\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    ],
)
def test_a_connection_whose_borders_are_in_doubt_must_close(method, response, must_close):
    reader = ResponseReader(Limits())
    reader.expect(method)
    assert 502 not in events(reader, [response])
    assert (reader.must_close, reader.keep_alive) == (must_close, not must_close)
    assert events(reader, [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])[0][0] == 200
    assert (reader.must_close, reader.keep_alive) == (must_close, not must_close), "doubt does not go away"


def test_octets_after_a_whole_answer_are_seen():
    reader = ResponseReader(Limits())
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
    assert (reader.next().status, reader.leftover) == (200, 0)
    reader.feed(b"bcde")
    assert (reader.leftover, reader.next(), reader.leftover) == (0, b"ab", 3)
    assert (reader.next(), reader.leftover) == (END, 3)


def _framings(expected: list[Any]) -> list[int]:
    return [event[2] for event in expected if isinstance(event, tuple)]


def head_of(data: bytes) -> Any:
    reader = RequestReader(Limits())
    reader.feed(data)
    return reader.next()


def test_forwardable_block():
    plain = head_of(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n")
    assert forwardable_block(plain) is plain.block
    hop = head_of(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, X-Own, Host, Cookie\r\n"
        b"X-Own: 1\r\nKeep-Alive: 5\r\nTE: a\r\nCookie: c\r\nB: d\r\n\r\n"
    )
    assert forwardable_block(hop) == b"Host: x\r\nCookie: c\r\nB: d\r\n"
    assert forwardable_block(hop, frozenset({b"b"})) == b"Host: x\r\nCookie: c\r\n"
    assert forwardable_block(hop) == b"Host: x\r\nCookie: c\r\nB: d\r\n"


@pytest.mark.parametrize(
    "name",
    [b"Host", b"Content-Length", b"Authorization", b"Cookie", b"X-Forwarded-For", b"X-Forwarded-User", b"Via", b"Date", b"Cache-Control"],
)
def test_connection_cannot_strip_what_others_rely_on(name):
    host = b"" if name == b"Host" else b"Host: x\r\n"
    kept = host + name + b": 0\r\n"
    assert forwardable_block(head_of(b"GET / HTTP/1.1\r\n" + kept + b"Connection: " + name.lower() + b", a\r\nA: b\r\n\r\n")) == kept


def test_derived_facts():
    head = head_of(b"GET http://a.b:80/c?d=e HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (head.host, head.path, head.query) == (b"a.b:80", b"/c", b"d=e")
    assert head_of(b"GET / HTTP/1.0\r\n\r\n").keep_alive is False
    assert head_of(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive is True
    assert head_of(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n").upgrade == b""
    assert head_of(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\nCookie: b\r\nCookie: c\r\n\r\n").fields == {
        b"host": b"x", b"a": b"1, 2", b"cookie": b"b; c",
    }  # fmt: skip


NAMES_WITH_UNDERSCORES = [
    b"X_Forwarded_For", b"X-Forwarded_For", b"X_Forwarded-For", b"Transfer_Encoding", b"content_length", b"Content_Length", b"Keep_Alive",
    b"Proxy_Connection",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES_WITH_UNDERSCORES)
def test_a_name_that_reads_like_one_to_be_dropped_is_dropped(name):
    head = head_of(b"GET / HTTP/1.1\r\nHost: x\r\n" + name + b": 1\r\nX_Own: 1\r\n\r\n")
    assert head.underscores
    assert forwardable_block(head, frozenset({b"x-forwarded-for"})) == b"Host: x\r\nX_Own: 1\r\n"


def test_underscores_in_values_and_in_other_names_change_nothing():
    values = head_of(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: _ga=1\r\n\r\n")
    assert not values.underscores
    names = head_of(b"GET / HTTP/1.1\r\nHost: x\r\nX_Own: _\r\n\r\n")
    assert names.underscores
    assert forwardable_block(names, KNOWN_FORWARDING) is names.block
    named = head_of(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: x_own\r\nX_Own: 1\r\nB: c\r\n\r\n")
    assert forwardable_block(named) == b"Host: x\r\nB: c\r\n"
    assert ResponseHead.made(200, [(b"A_b", b"c")]).underscores
    assert canonical(b"X_Forwarded-For") == b"x-forwarded-for"


@pytest.mark.parametrize("name", sorted(KNOWN_FORWARDING))
def test_connection_cannot_strip_a_forwarding_field(name):
    kept = b"Host: x\r\n" + name + b": 1\r\n"
    assert forwardable_block(head_of(b"GET / HTTP/1.1\r\n" + kept + b"Connection: " + name + b"\r\n\r\n")) == kept


def test_a_426_offers_its_upgrade():
    for status, offer in ((426, b"TLS/1.0, HTTP/1.1"), (200, b"")):
        reader = ResponseReader(Limits())
        reader.feed(b"HTTP/1.1 %d X\r\nUpgrade: TLS/1.0, HTTP/1.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n" % status)
        head = reader.next()
        assert isinstance(head, ResponseHead)
        assert (upgrade_offer(head), forwardable_block(head)) == (offer, b"Content-Length: 0\r\n")


@pytest.mark.parametrize("expectation", [b"100-continue", b"tea"])
def test_the_expectation_of_http_1_0_is_ignored_and_goes_no_further(expectation):
    head = head_of(b"POST / HTTP/1.0\r\nA: b\r\nexpect: " + expectation + b"\r\nContent-Length: 1\r\n\r\n")
    assert (head.expect_continue, head.framing) == (False, 1)
    assert head.headers == [(b"A", b"b"), (b"Content-Length", b"1")]
    assert head.block == b"A: b\r\nContent-Length: 1\r\n"
    assert b"expect" not in head.fields


def test_the_first_date_of_a_process_may_be_the_first_there_is():
    """Of a file, say: images and archives are made with times of 0."""
    script = "from pbal.http1.encoder import http_date; print(http_date(0).decode())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("Thu, 01 Jan 1970 00:00:00 GMT\n", "")


def test_writing():
    assert status_line(404) == b"HTTP/1.1 404 Not Found\r\n"
    with pytest.raises(ValueError, match="not a status line"):
        status_line(200, b"OK\r\nX: y")
    assert (chunk(b""), chunk(b"x" * 16)) == (b"", b"10\r\n" + b"x" * 16 + b"\r\n")
    assert http_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    for text in (b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994"):
        assert parse_http_date(text) == 784111777
    for text in (
        b"yesterday",
        b"",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sat, 31 Feb 2026 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun Nov  0 08:49:37 1994",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
    ):
        assert parse_http_date(text) is None, text
    assert parse_http_date(b"Sat, 31 Dec 2016 23:59:60 GMT") == parse_http_date(b"Sun, 01 Jan 2017 00:00:00 GMT")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({b"if-none-match": b"*"}, 304),
        ({b"if-none-match": b'W/"5-5"'}, 304),
        ({b"if-none-match": b'"x", "5-5"'}, 304),
        ({b"if-none-match": b'"x"', b"if-modified-since": b"Sun, 06 Nov 1994 08:49:37 GMT"}, 200),
        ({b"if-modified-since": b"Sun, 06 Nov 1994 08:49:37 GMT"}, 304),
        ({b"if-modified-since": b"Sun, 06 Nov 1994 08:49:36 GMT"}, 200),
        ({b"if-modified-since": b"rubbish"}, 200),
        ({b"if-match": b'"5-5"'}, 200),
        ({b"if-match": b'W/"5-5"'}, 412),
        ({b"if-unmodified-since": b"Sun, 06 Nov 1994 08:49:36 GMT"}, 412),
    ],
)
def test_conditional_requests(fields, status):
    assert evaluate(b"GET", fields, etag_for(5, 5), 784111777) == status


def test_refusals_are_of_their_side():
    with pytest.raises(BadRequest):
        head_of(b"\r\n\r\n")
    reader = ResponseReader(Limits())
    reader.feed(b"rubbish\r\n\r\n")
    with pytest.raises(BadResponse):
        reader.next()
