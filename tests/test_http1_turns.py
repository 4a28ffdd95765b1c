"""The budget of a turn: a reader that has done enough says so, and what comes out does not depend on where a turn ends."""

import time
from typing import Any

import pytest
from differences import cut
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_http1_differential import messages
from test_http1_responses import responses

from pbal.http1.events import END, Malformed
from pbal.http1.reader import STEPS, Limits, RequestReader, ResponseReader

POST = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LINK = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def turn(reader: Any) -> list[Any]:
    """What one turn of the loop gives."""
    reader.begin_turn()
    out = []
    while (event := reader.next()) is not None:
        out.append(event)
    return out


def _turn(reader: Any, out: list[Any]) -> None:
    """The events of one turn, comparable, put behind those before."""
    while (event := reader.next()) is not None:
        if not isinstance(event, bytes):
            out.append("end" if event is END else (repr(event), event.block))
        elif out and isinstance(out[-1], bytes):
            out[-1] += event
        else:
            out.append(event)


def everything(reader: Any, pieces: list[bytes], eof: bool, steps: int = STEPS) -> list[Any]:
    """The events as comparable values, pieces of body joined, with as many turns of `steps` as the reader wants."""
    out: list[Any] = []
    try:
        for piece in [*pieces, None]:
            if piece is not None:
                reader.feed(piece)
            elif eof:
                reader.eof()
            while True:
                reader.begin_turn()
                reader.steps = steps
                _turn(reader, out)
                if not reader.tired:
                    break
    except Malformed as refusal:
        if out and isinstance(out[-1], bytes):
            out.pop()  # whether octets before the fault were handed out depends on the cut, and does not matter
        out.append(refusal.status)
    return out


BODIES = st.lists(st.sampled_from([b"1\r\nx\r\n", b"2;a=b\r\nxy\r\n", b"A\r\n0123456789\r\n"]), max_size=12).map(b"".join)
ENDS = st.sampled_from(
    [b"0\r\n\r\n", b"0\r\nA: b\r\nC: d\r\n\r\n", b"0\r\n\r\n" + POST + b"1\r\nx\r\n0\r\n\r\n", b"0\r\n \r\n\r\n", b"x", b""]
)
PLACES = st.lists(st.integers(0, 400), max_size=5)


@settings(max_examples=300, derandomize=True)
@given(
    data=st.one_of(messages(), st.tuples(BODIES, ENDS).map(lambda parts: POST + b"".join(parts))), places=PLACES, steps=st.integers(1, 5)
)
@example(data=b"GET / HTTP/2.0\r\n\nHost: h\r\n\r\n", places=[17], steps=1)
@example(data=b"GET / HTTP/2.0\r\nAccept: a\nHost: h\r\n\r\n", places=[26], steps=1)
def test_requests_are_the_same_with_and_without_a_budget(data, places, steps):
    whole = everything(RequestReader(Limits()), [data], eof=False)
    assert everything(RequestReader(Limits()), [data], eof=False, steps=steps) == whole
    assert everything(RequestReader(Limits()), cut(data, places), eof=False, steps=steps) == whole


@settings(max_examples=300, derandomize=True)
@given(
    data=st.one_of(
        responses(), st.tuples(st.integers(0, 3), BODIES, ENDS).map(lambda parts: LINK * parts[0] + ANSWER + parts[1] + parts[2])
    ),
    places=PLACES,
    steps=st.integers(1, 5),
)
def test_responses_are_the_same_with_and_without_a_budget(data, places, steps):
    whole = everything(ResponseReader(Limits()), [data], eof=True)
    assert everything(ResponseReader(Limits()), [data], eof=True, steps=steps) == whole
    assert everything(ResponseReader(Limits()), cut(data, places), eof=True, steps=steps) == whole


def test_a_turn_decodes_so_many_chunks_and_no_more():
    reader = RequestReader(Limits())
    reader.feed(POST + b"1\r\nx\r\n" * (STEPS + 1) + b"0\r\n\r\n")
    head, *pieces = turn(reader)
    assert head.method == b"POST"
    assert (b"".join(pieces), reader.tired) == (b"x" * STEPS, True)
    assert reader.next() is None, "asking again without a new turn gives nothing"
    assert (turn(reader), reader.tired) == ([b"x", END], False)
    assert reader.at_start


@pytest.mark.parametrize("rest", [b"", b"5", b"5;a", b"5\r", b"5\r\n", b"5\r\nabc", b"5\r\nabcde", b"5\r\nabcde\r", b"0\r\n", b"0\r\nA: b"])
def test_a_reader_that_needs_octets_is_not_tired(rest):
    """With exactly the budget that the whole chunks and the last line take, or one less."""
    for spare in (0, 1):
        reader = RequestReader(Limits())
        reader.feed(POST + b"1\r\nx\r\n" * (STEPS - spare) + rest)
        turn(reader)
        assert reader.tired is (not spare and b"\r\n" in rest)
        turn(reader)
        assert not reader.tired


def test_a_trailer_and_interim_heads_cost_steps():
    reader = RequestReader(Limits())
    reader.feed(POST + b"1\r\nx\r\n" * (STEPS - 1) + b"0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    turn(reader)
    assert reader.tired
    end, after = turn(reader)
    assert (end, after.method, reader.tired) == (END, b"GET", False)

    answers = ResponseReader(Limits())
    answers.feed(LINK * STEPS)
    first = turn(answers)
    assert answers.tired
    assert 0 < len(first) <= STEPS // 16
    assert len(turn(answers)) == len(first), "a turn like the other"


def test_interim_heads_with_lf_cost_more_where_much_is_buffered():
    """Each of them is looked for in all that came."""
    few, many = ResponseReader(Limits()), ResponseReader(Limits())
    few.feed(LINK.replace(b"\r", b"") * 200)
    many.feed(LINK.replace(b"\r", b"") * 6000)
    assert 0 < 3 * len(turn(many)) < len(turn(few))


def test_a_reader_never_given_a_turn_has_no_budget():
    reader = RequestReader(Limits())
    reader.feed(POST + b"1\r\nx\r\n" * (3 * STEPS) + b"0\r\n\r\n")
    reader.next()
    assert (reader.next(), reader.next(), reader.tired) == (b"x" * 3 * STEPS, END, False)


def test_what_is_given_to_a_tunnel_tires_nobody():
    reader = RequestReader(Limits())
    reader.feed(POST + b"1\r\nx\r\n" * (STEPS + 1))
    turn(reader)
    assert reader.tired
    assert (reader.take_rest(), reader.tired, reader.next()) == (b"1\r\nx\r\n", False, None)


def test_a_large_buffer_of_small_things_is_read_in_linear_time():
    """Ten times the octets: ten times the time, not a hundred. Compared within one run, the best of three."""

    def seconds(message: bytes, times: int) -> float:
        best = 60.0
        for _ in range(3):
            reader = RequestReader(Limits())
            reader.feed(POST if message[:1] == b"1" else b"")
            reader.next()
            reader.feed(message * times)
            began = time.perf_counter()
            while True:
                reader.steps = 16  # a short turn: many calls
                if reader.next() is None and not reader.buffered:
                    break
            best = min(best, time.perf_counter() - began)
        return best

    for message in (b"1\r\nx\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert seconds(message, 100_000) < 30 * seconds(message, 10_000)
