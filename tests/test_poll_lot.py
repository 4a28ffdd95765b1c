"""The lot: order, numbers, and that many polls of one queue cost no more than as many queues."""

import gc
import random
import time

import pytest

from pbal.plugins.poll.delivery import FEW, MOST_RENDERED, Delivery
from pbal.plugins.poll.formats import Rendered
from pbal.plugins.poll.longpoll import LongPoll
from pbal.plugins.poll.lot import Lot, Reader


def lot() -> tuple[Lot, list[Reader]]:
    gone: list[Reader] = []
    return Lot(gone.append), gone


def park(a_lot: Lot, *keys: bytes, ends: float = 10.0) -> Reader:
    reader = LongPoll(keys, None)
    a_lot.park(reader, 0.0, ends)
    return reader


def test_nobody_waits_for_an_unknown_queue() -> None:
    a_lot, _ = lot()
    assert (a_lot.waiting(b"a"), a_lot.first(b"a"), a_lot.number(b"a"), a_lot.has(b"a")) == ([], None, 0, False)


def test_the_longest_waiting_is_first_whoever_leaves() -> None:
    a_lot, _ = lot()
    polls: list[Reader] = []
    chance = random.Random(1)
    for _ in range(2000):
        if polls and chance.random() < 0.45:
            assert a_lot.remove(polls.pop(chance.randrange(len(polls))))
        else:
            polls.append(park(a_lot, b"a"))
        assert a_lot.first(b"a") is (polls[0] if polls else None)
        assert a_lot.number(b"a") == len(polls) == a_lot.count
    assert a_lot.waiting(b"a") == polls
    for poll in polls:
        a_lot.remove(poll)
    assert a_lot.is_empty()


def test_a_poll_of_several_queues_leaves_all_of_them() -> None:
    a_lot, gone = lot()
    early, both, late = park(a_lot, b"a"), park(a_lot, b"a", b"b"), park(a_lot, b"b")
    assert a_lot.first(b"a") is early and a_lot.first(b"b") is both
    both.gone()
    assert gone == [both]
    assert a_lot.waiting(b"a") == [early] and a_lot.waiting(b"b") == [late]
    assert not a_lot.remove(both), "it is out already"
    both.gone()
    assert gone == [both], "nobody leaves twice"


def test_what_waiting_returned_may_be_walked_while_its_polls_leave() -> None:
    a_lot, _ = lot()
    polls = [park(a_lot, b"a") for _ in range(5)]
    left = [poll.id for poll in a_lot.waiting(b"a") if a_lot.remove(poll)]
    assert left == [poll.id for poll in polls]
    assert a_lot.is_empty()


def time_to_leave(keys: list[bytes], shuffled: bool) -> float:
    """Seconds that one poll for each of `keys` take to leave, in their order or in another: the best of three."""
    best = float("inf")
    for _ in range(3):
        a_lot, _ = lot()
        polls = [park(a_lot, key) for key in keys]
        if shuffled:
            random.Random(1).shuffle(polls)
        else:
            polls.reverse()
        started = time.perf_counter()
        for poll in polls:
            a_lot.remove(poll)
        best = min(best, time.perf_counter() - started)
        assert a_lot.is_empty()
    return best


@pytest.mark.parametrize("shuffled", [True, False])
def test_polls_of_one_queue_leave_as_fast_as_those_of_many(shuffled: bool) -> None:
    """A list of them would take a hundred times as long."""
    many = time_to_leave([b"queue%d" % number for number in range(10_000)], shuffled)
    assert time_to_leave([b"queue"] * 10_000, shuffled) < 10 * many


def test_a_queue_of_one_costs_no_dict() -> None:
    a_lot, _ = lot()
    gc.collect()
    before = len(gc.get_objects())
    polls = [park(a_lot, b"queue%d" % number) for number in range(1000)]
    assert len(gc.get_objects()) - before < 1000 + 50, "a record each, nothing beside it"
    second = park(a_lot, b"queue0")
    a_lot.remove(second)
    assert len(gc.get_objects()) - before < 1000 + 50, "back to one: its dict is gone"
    assert a_lot.first(b"queue0") is polls[0]


def test_what_is_rendered_for_many_is_kept_as_far_as_it_has_room_and_in_every_form_however_large() -> None:
    delivery = Delivery([(b"q", b"m")], False)
    large = Rendered(200, b"text/plain", b"x" * MOST_RENDERED, False)
    for form in ("json", "sse", "websocket", "raw"):
        delivery.keep(form, b"", large)
    assert all(delivery.ready(form, b"") is large for form in ("json", "sse", "websocket", "raw"))
    places = [b"%d" % number for number in range(100)]
    for place in places:
        delivery.keep("json", place, large)
    assert sum(delivery.ready("json", place) is not None for place in places) == FEW
