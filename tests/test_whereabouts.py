"""Which octet a refused head is refused for."""

import pytest

from pbal.http1 import whereabouts
from pbal.http1.events import Malformed
from pbal.http1.octets import Reader
from pbal.http1.reader import Limits, RequestReader, ResponseReader

REQUESTS = [
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", b"\x00"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n", b" "),
    (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", b" "),
    (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", b"\n"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", b"\r"),
    (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", b"("),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", b"b"),
    (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", b"\xff"),
    (b"GET / HTTX/1.1\r\nHost: a\r\n\r\n", b"X"),
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", b" "),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n", b"x"),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", b"a"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: z\r\n\r\n", b"z"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7f", b"\x7f"),
]
RESPONSES = [
    (b"rubbish\r\n\r\n", b"r"),
    (b"HTTP/1.1 20 OK\r\n\r\n", b" "),
    (b"HTTP/1.1 200 OK\r\nX: a\x01\r\n\r\n", b"\x01"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"-"),
]


def refusal(reader: Reader, octets: bytes) -> Malformed:
    reader.feed(octets)
    with pytest.raises(Malformed) as found:
        reader.next()  # type: ignore[attr-defined]
    return found.value


@pytest.mark.parametrize(("octets", "wrong"), REQUESTS)
def test_of_a_request(octets: bytes, wrong: bytes) -> None:
    said = refusal(RequestReader(Limits()), octets)
    assert bytes((said.octet,)) == wrong
    assert octets[said.place : said.place + 1] == wrong


@pytest.mark.parametrize(("octets", "wrong"), RESPONSES)
def test_of_a_response(octets: bytes, wrong: bytes) -> None:
    said = refusal(ResponseReader(Limits()), octets)
    assert octets[said.place : said.place + 1] == wrong == bytes((said.octet,))


@pytest.mark.parametrize("octets", [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"])
def test_where_no_octet_is_to_blame_none_is_named(octets: bytes) -> None:
    assert refusal(RequestReader(Limits()), octets).place == -1


@pytest.mark.parametrize("begun", [b"GET / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("end", [b"", b"x y: z\r\n\r\n"])
def test_however_many_lines_there_are_few_steps_find_the_octet(monkeypatch: pytest.MonkeyPatch, begun: bytes, end: bytes) -> None:
    steps: list[int] = []
    walk = whereabouts._walk

    def counted(head: bytes, at: int, elements: tuple[whereabouts.Element, ...]) -> tuple[int, bool]:
        steps.append(at)
        return walk(head, at, elements)

    monkeypatch.setattr(whereabouts, "_walk", counted)
    octets = begun + b"x: y\r\n" * 40_000 + end
    limits = Limits(max_head=1 << 20) if end else Limits()
    said = refusal((RequestReader if begun.startswith(b"G") else ResponseReader)(limits), octets)
    assert octets[said.place : said.place + 1] == b" " if end else said.place == -1
    assert len(steps) <= 3, "a loop over the lines of a quarter of a megabyte holds everybody up for a tenth of a second"


def test_what_follows_a_head_is_not_looked_at() -> None:
    octets = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\nContent-Length: 2y\r\n"
    assert octets[refusal(RequestReader(Limits()), octets).place :].startswith(b"x\r\n\r\n")
