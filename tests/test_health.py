"""The state of a node: orders, checks, strikes, ejection and trial, stalls, slow start; and what a pool makes of them. No clock runs."""

import logging
from collections import Counter
from contextlib import nullcontext
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbal.model.change import Change
from pbal.model.errors import UnknownName
from pbal.model.health import DOWN, DRAIN, MAINT, READY, UP, Order
from pbal.model.pool import Node, Pool
from pbal.schema.types import ENDPOINT


def pool_of(number: int, **values: str) -> Pool:
    """A pool of so many nodes."""
    pool = Pool("app", lambda: Change())
    for name, text in values.items():
        pool.set(name, text)
    for place in range(number):
        pool.add(ENDPOINT.parse(f"10.0.0.{place + 1}:80"))
    return pool


def fail(node: Node, times: int, now: float) -> None:
    for _ in range(times):
        node.lent(now)
        node.pool.released(node)
        node.broke(now, "no response")


def answer(node: Node, now: float, status: int = 200) -> None:
    node.lent(now)
    node.answered(now, status)
    if node.strikes:
        node.whole(status)
    node.pool.released(node)


def names(pool: Pool, now: float) -> str:
    """The nodes that get requests, by their last number."""
    return "".join(node.name.split(".")[-1][0] for node in pool.usable(now))


def word(node: Node, now: float) -> str:
    return node.verdict(now).word


# -- trials -------------------------------------------------------------------------------------------------------------


def test_where_there_are_checks_no_client_tries_a_node_before_one_was_good() -> None:
    pool = pool_of(3, check="http")
    node = pool.nodes[0]
    node.checked(0.5, "")
    fail(node, 5, 1)
    assert (names(pool, 2), node.verdict(2).why[:12]) == ("23", "ejected for ")
    node.checked(10, "no answer")
    node.check_due = 70
    assert (names(pool, 10.5), node.check_due) == ("23", 70)
    assert (names(pool, 12), node.verdict(12).why[:27]) == ("23", "ejected until a check finds"), "its time is over"
    assert node.check_due == 12, "at once, however long check_interval is"
    node.checked(13, "")
    assert names(pool, 13) == "123" and node.trial
    node.lent(13)
    assert names(pool, 13) == "23", "one at a time"
    node.answered(13, 200)
    assert names(pool, 13) == "123" and not node.trial


def test_where_there_are_checks_a_silent_node_is_tried_after_one() -> None:
    pool = pool_of(3, check="http")
    node = pool.nodes[0]
    node.checked(0.5, "")
    node.lent(1)
    node.broke(3, "silent")
    node.silent(3, 1)
    pool.released(node)
    assert names(pool, 3) == "23"
    assert node.verdict(4).why == "on trial when a check has found it well, 1 failure, the last: silent"
    node.checked(5, "")
    assert names(pool, 5) == "123" and node.trial
    assert node.verdict(5).why == "on trial, 1 failure, the last: silent"


def test_a_good_check_while_it_is_ejected_will_do() -> None:
    pool = pool_of(3, check="http")
    node = pool.nodes[0]
    node.checked(0.5, "")
    fail(node, 5, 1)
    node.checked(9, "")
    assert names(pool, 10) == "23"
    assert names(pool, 11.5) == "123" and node.trial


def test_a_node_that_lets_a_request_time_out_and_answers_nothing_meanwhile_gets_one_at_a_time() -> None:
    pool = pool_of(3)
    node = pool.nodes[0]
    node.lent(1)
    node.lent(2)
    node.broke(3, "silent")
    node.silent(3, 1)
    assert names(pool, 3) == "23", "another request waits there still"
    pool.released(node)
    node.broke(4, "silent")
    pool.released(node)
    assert names(pool, 4) == "123"
    node.lent(5)
    assert names(pool, 5) == "23"
    node.answered(5, 200)
    assert names(pool, 5) == "123" and not node.trial


def test_a_node_that_answered_others_meanwhile_is_only_slow_with_that_one() -> None:
    pool = pool_of(3)
    node = pool.nodes[0]
    node.lent(1)
    answer(node, 2)
    node.lent(2.5)
    node.broke(3, "silent")
    node.silent(3, 1)
    assert not node.trial and names(pool, 3) == "123"


# -- strikes -----------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_eject_a_node_and_an_answer_between_them_does_not() -> None:
    pool = pool_of(3)
    node = pool.nodes[0]
    fail(node, 4, 1)
    answer(node, 1)
    fail(node, 4, 1)
    assert names(pool, 1) == "123"
    fail(node, 1, 1)
    assert names(pool, 1) == "23"
    verdict = node.verdict(4)
    assert (verdict.word, verdict.since) == ("DOWN", 1)
    assert verdict.why == "ejected for 7 s more, 5 failures in a row, the last: no response"


def test_after_its_time_it_gets_one_request_at_a_time_until_it_answers() -> None:
    pool = pool_of(3)
    node = pool.nodes[0]
    fail(node, 5, 1)
    assert names(pool, 10.9) == "23"
    assert names(pool, 11) == "123"
    assert (word(node, 11), node.trial) == ("DOWN", True)
    node.begin_connect(11)
    assert names(pool, 11) == "23"
    node.end_connect()
    node.lent(11)
    assert names(pool, 11) == "23"
    node.answered(12, 200)
    assert names(pool, 12) == "123"
    assert (word(node, 12), node.verdict(12).since) == ("UP", 12)


def test_each_time_it_is_out_for_longer_up_to_a_limit_and_calm_makes_it_shorter_again() -> None:
    pool = pool_of(3, eject_time="10s", eject_time_most="35s")
    node = pool.nodes[0]
    now, lengths = 0.0, []
    for _ in range(5):
        fail(node, 1 if node.trial else 5, now)
        lengths.append(node.ejected_until - now)
        now = node.ejected_until
        assert names(pool, now) == "123"
    assert lengths == [10, 20, 30, 35, 35], "one strike is enough while it is on trial"
    answer(node, now)
    now += 1000
    fail(node, 5, now)
    assert node.ejected_until - now == 10
    assert node.ejections == 6


def test_no_more_than_eject_most_of_a_pool_are_ejected(caplog: pytest.LogCaptureFixture) -> None:
    pool = pool_of(4)
    for node in pool.nodes:
        fail(node, 20, 1)
    assert names(pool, 1) == "34"
    assert not pool.open
    assert len([record for record in caplog.records if "is used all the same" in record.getMessage()]) == 2, "said once a node"
    alone = pool_of(1)
    fail(alone.nodes[0], 100, 1)
    assert names(alone, 1) == "1"
    assert alone.nodes[0].ejections == 0


def test_who_is_down_by_its_check_counts_among_those_that_are_out() -> None:
    pool = pool_of(4)
    for node in pool.nodes[:2]:
        node.checked(1, "refused")
    fail(pool.nodes[2], 50, 1)
    assert names(pool, 1) == "34"


def test_eject_after_0_ejects_nobody_and_statuses_count_where_they_are_said() -> None:
    pool = pool_of(3, eject_after="0")
    fail(pool.nodes[0], 1000, 1)
    assert names(pool, 1) == "123"
    pool = pool_of(3, eject_status="502-504", eject_after="3")
    for status in (500, 503, 502, 504):
        answer(pool.nodes[0], 1, status)
    assert names(pool, 1) == "23"
    pool = pool_of(3, eject_status="")
    for _ in range(100):
        answer(pool.nodes[0], 1, 503)
    assert names(pool, 1) == "123"
    pool = pool_of(3)
    for _ in range(100):
        answer(pool.nodes[0], 1, 500)
    assert names(pool, 1) == "123", "a fault of a page is none of its node"


def test_a_refused_connection_is_passed_over_for_a_second() -> None:
    pool = pool_of(3)
    node = pool.nodes[0]
    node.begin_connect(1)
    node.unreachable(1, "connection refused")
    node.end_connect()
    assert names(pool, 1.9) == "23"
    assert names(pool, 2) == "123"
    assert word(node, 2) == "DOWN"
    node.reached(2)
    assert word(node, 2) == "UP"
    for each in pool.nodes:
        each.unreachable(5, "connection refused")
    assert names(pool, 5) == "123", "better one of these than none"
    assert not pool.open


# -- stalls ------------------------------------------------------------------------------------------------------------


def test_a_node_that_answers_nothing_gets_no_more_while_others_answer() -> None:
    pool = pool_of(3)
    silent, *others = pool.nodes
    given: Counter[str] = Counter()
    waiting: list[Node] = []
    for number in range(20_000):
        now = 100 + number / 2000
        node = pool.pick(now)
        assert node is not None
        given[node.name] += 1
        node.lent(now)
        if node is silent:
            waiting.append(node)
        else:
            node.answered(now, 200)
            pool.released(node)
    assert given[silent.name] < 0.002 * 20_000
    assert abs(given[others[0].name] - given[others[1].name]) < 1200
    assert (word(silent, 110), silent.stalls) == ("DOWN", 1)
    for _ in range(5):
        pool.released(silent)
        silent.broke(130, "silent for 30 s")
    assert silent.ejected and names(pool, 130) == "23"


def test_when_the_last_that_waits_has_left_it_is_tried_once_more() -> None:
    pool = pool_of(2)
    silent, other = pool.nodes
    for number in range(20):
        silent.lent(1 + number / 10)
        answer(other, 1 + number / 10)
    assert names(pool, 3) == "2"
    for _ in range(20):
        assert names(pool, 4) == "2"
        pool.released(silent)
    assert names(pool, 4) == "12"
    silent.lent(4)
    assert names(pool, 4) == "2"
    silent.answered(5, 200)
    assert names(pool, 5) == "12"


def test_where_all_are_slow_none_is_passed_over() -> None:
    pool = pool_of(3)
    for number in range(300):
        node = pool.nodes[number % 3]
        node.lent(number / 100)
    assert names(pool, 3) == "123"
    assert [word(node, 3) for node in pool.nodes] == ["UNTRIED"] * 3


def test_stall_after_0_passes_nobody_over() -> None:
    pool = pool_of(2, stall_after="0")
    for number in range(100):
        pool.nodes[0].lent(number)
        answer(pool.nodes[1], number)
    assert names(pool, 100) == "12"


def test_connections_that_are_never_made_are_a_stall_as_well() -> None:
    pool = pool_of(2)
    black, other = pool.nodes
    for number in range(30):
        black.begin_connect(number / 20)
        answer(other, number / 20)
    assert names(pool, 2) == "2"


def test_who_stalls_is_asked_again_only_where_nobody_else_is_left_to_ask() -> None:
    pool = pool_of(3)
    silent, one, two = pool.nodes
    for number in range(30):
        silent.lent(number / 20)
        answer(one, number / 20)
    assert pool.pick(2, (one, two)) is None
    one.unreachable(2, "connection refused")
    assert pool.pick(2, (two,)) is one


# -- checks ------------------------------------------------------------------------------------------------------------


def test_the_first_check_counts_at_once_then_rise_and_fall() -> None:
    pool = pool_of(3)
    node = pool.nodes[0]
    assert names(pool, 0) == "123"
    node.checked(1, "status 500")
    assert names(pool, 1) == "23"
    assert node.verdict(1)[:3] == ("DOWN", 1, "check: status 500")
    node.checked(2, "")
    assert names(pool, 2) == "23"
    assert node.verdict(2).why == "check: too few good ones yet"
    node.checked(3, "")
    assert names(pool, 3) == "123"
    assert node.verdict(3)[:2] == ("UP", 3)
    node.checked(4, "x")
    node.checked(5, "x")
    node.checked(6, "")
    node.checked(7, "x")
    node.checked(8, "x")
    assert names(pool, 8) == "123"
    node.checked(9, "x")
    assert names(pool, 9) == "23"
    assert (node.checks, node.check_failures) == (9, 6)
    node.unchecked()
    assert names(pool, 9) == "123"


def test_where_too_few_are_well_all_get_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool = pool_of(4)
    for node in pool.nodes[:2]:
        node.checked(1, "x")
    assert (names(pool, 1), pool.open) == ("34", False)
    pool.nodes[2].checked(2, "x")
    assert (names(pool, 2), pool.open, pool.opened) == ("1234", True, 1), "one of four is less than 30%"
    assert "1 of 4 nodes are well: all of them get requests" in caplog.text
    pool.nodes[0].unreachable(3, "connection refused")
    assert names(pool, 3) == "234", "who refuses is passed over then, too"
    for _ in range(2):
        pool.nodes[0].checked(20, "")
    assert (names(pool, 20), pool.open) == ("14", False)
    assert "2 of 4 nodes are well: the others get no requests any more" in caplog.text
    pool = pool_of(3, panic_share="0%")
    for node in pool.nodes[:2]:
        node.checked(1, "x")
    assert names(pool, 1) == "3"
    pool.nodes[2].checked(1, "x")
    assert names(pool, 1) == "123", "none at all is never enough"


# -- orders ------------------------------------------------------------------------------------------------------------


def test_what_an_operator_said_counts_for_more_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool = pool_of(3)
    node = pool.nodes[0]
    node.lent(1)
    pool.order(node.endpoint, Order(DRAIN, 2, "ann", "a new disk"))
    assert names(pool, 2) == "23"
    assert node.verdict(2) == ("DRAIN", 2, "a new disk", "ann")
    assert node.takes_sessions
    assert "node 10.0.0.1:80 is DRAIN because a new disk, says ann" in caplog.text
    assert "no request is under way" not in caplog.text
    pool.released(node)
    assert "node 10.0.0.1:80 (DRAIN): no request is under way at it" in caplog.text
    pool.order(node.endpoint, Order(MAINT, 3, "ann", ""))
    assert not node.takes_sessions
    for each in pool.nodes[1:]:
        pool.order(each.endpoint, Order(MAINT, 3, "ann", ""))
    assert pool.pick(3) is None
    assert pool.why_none() == "every node of pool app is drained or in maintenance"
    pool.order(node.endpoint, Order(READY, 4, "ann", ""))
    assert pool.pick(4) is node
    with pytest.raises(UnknownName):
        pool.order(ENDPOINT.parse("10.9.9.9:80"), Order(DRAIN, 2, "ann", ""))


def test_an_operator_may_say_what_checks_would_find() -> None:
    pool = pool_of(3)
    node = pool.nodes[0]
    pool.say(node.endpoint, DOWN, 2, "ann", "it lies")
    assert (names(pool, 2), node.verdict(3)) == ("23", ("DOWN", 2, "it lies", "ann"))
    node.checked(3, "")
    node.checked(4, "x")
    assert node.verdict(4) == ("DOWN", 2, "it lies", "ann")
    node.checked(5, "")
    node.checked(6, "")
    assert (names(pool, 6), word(node, 6), node.check_by) == ("123", "UP", "")
    for now in (7, 8, 9):
        node.checked(now, "status 500")
    assert node.verdict(9) == ("DOWN", 9, "check: status 500", "")
    pool.say(node.endpoint, UP, 10, "ann", "")
    assert names(pool, 10) == "123"
    node.checked(11, "status 500")
    assert names(pool, 11) == "23", "the next check counts at once"
    pool.order(node.endpoint, Order(MAINT, 12, "ann", ""))
    pool.say(node.endpoint, UP, 13, "ann", "")
    assert names(pool, 13) == "123"
    with pytest.raises(UnknownName):
        pool.say(ENDPOINT.parse("10.9.9.9:80"), UP, 2, "ann", "")


def test_an_order_that_is_said_again_holds_since_the_first_time() -> None:
    pool = pool_of(2)
    node = pool.nodes[0]
    pool.order(node.endpoint, Order(DRAIN, 2, "ann", "a new disk"))
    pool.order(node.endpoint, Order(DRAIN, 9, "bob", "no disk is to be had"))
    assert node.verdict(10) == ("DRAIN", 2, "no disk is to be had", "bob")
    pool.order(node.endpoint, Order(MAINT, 11, "bob", ""))
    assert node.verdict(12).since == 11


def test_who_waits_is_not_served_by_any_connection_to_a_node_that_is_out() -> None:
    pool = pool_of(4)
    ejected, down, silent, well = pool.nodes
    assert all(pool.may_take(node) for node in pool.nodes)
    fail(ejected, 5, 1)
    down.checked(1, "x")
    silent.trial = True
    assert [pool.may_take(node) for node in pool.nodes] == [False, False, True, True]
    silent.lent(1)
    assert [pool.may_take(node) for node in pool.nodes] == [False, False, False, True]
    well.checked(1, "x")
    assert names(pool, 1) == "124", "too few are left"
    assert pool.may_take(ejected) and pool.may_take(down)
    pool.order(well.endpoint, Order(DRAIN, 2, "ann", ""))
    assert not pool.may_take(well)


def test_ready_forgives() -> None:
    pool = pool_of(3)
    node = pool.nodes[0]
    fail(node, 5, 1)
    assert names(pool, 1) == "23"
    pool.order(node.endpoint, Order(READY, 2, "ann", ""))
    assert names(pool, 2) == "123"
    assert (node.strikes, node.times) == (0, 0)


def test_an_order_holds_for_an_address_that_goes_and_comes_again() -> None:
    pool = pool_of(2)
    endpoint = pool.nodes[0].endpoint
    pool.order(endpoint, Order(MAINT, 2, "ann", "it burns"))
    pool.remove(endpoint, 3)
    pool.add(endpoint)
    assert pool.nodes[1].verdict(4) == ("MAINT", 2, "it burns", "ann")
    assert names(pool, 4) == "2"


def test_a_refused_change_leaves_orders_as_they_were() -> None:
    change = Change()
    pool = Pool("app", lambda: nullcontext(change))
    pool.add(ENDPOINT.parse("10.0.0.1:80"))
    with pytest.raises(RuntimeError), change:
        pool.order(pool.nodes[0].endpoint, Order(MAINT, 2, "ann", ""))
        raise RuntimeError
    assert pool.nodes == []


def test_of_a_node_in_maintenance_listeners_are_told_as_of_a_removed_one() -> None:
    pool = pool_of(2)
    gone: list[Node] = []
    come: list[int] = []
    pool.removed_listeners.append(gone.append)
    pool.added_listeners.append(lambda: come.append(1))
    node = pool.nodes[0]
    pool.order(node.endpoint, Order(DRAIN, 1, "", ""))
    assert gone == []
    pool.order(node.endpoint, Order(MAINT, 1, "", ""))
    assert gone == [node]
    pool.order(node.endpoint, Order(READY, 1, "", ""))
    assert come == [1]


# -- slow start and the list -------------------------------------------------------------------------------------------


def test_who_comes_back_begins_slowly() -> None:
    pool = pool_of(2, slow_start="10s")
    node = pool.nodes[0]
    assert node.share(0) == 1.0, "who was never away has no slow start"
    node.checked(100, "x")
    for now in (101, 102):
        node.checked(now, "")
    assert [round(node.share(now), 2) for now in (102, 103, 107, 111, 112, 500)] == [0.05, 0.1, 0.5, 0.9, 1.0, 1.0]
    got = Counter(pool.pick(104.5) for _ in range(4000))
    assert 600 < got[node] < 1050, "a quarter of its share, a fifth of all"
    assert pool.starting
    got = Counter(pool.pick(113) for _ in range(4000))
    assert 1800 < got[node] < 2200
    assert not pool.starting
    fail(node, 5, 200)
    assert names(pool, 210) == "12"
    answer(node, 210)
    assert round(node.share(215), 2) == 0.5
    pool.order(node.endpoint, Order(MAINT, 300, "", ""))
    pool.order(node.endpoint, Order(READY, 400, "", ""))
    assert round(node.share(402), 2) == 0.2


def test_while_all_is_well_the_list_is_not_made_anew() -> None:
    pool = pool_of(3)
    first = pool.usable(1)
    for now in range(1, 1000):
        answer(pool.nodes[now % 3], now)
        assert pool.usable(now) is first
    assert pool._until == inf


def test_a_removed_node_is_told_until_its_last_request_ends() -> None:
    pool = pool_of(2)
    node = pool.nodes[0]
    node.lent(1)
    pool.remove(node.endpoint, 2)
    assert pool.draining == [node]
    assert word(node, 3) == "REMOVED"
    pool.released(node)
    assert pool.draining == []


EVENTS = ("lent", "answered", "bad", "left", "broke", "begun", "reached", "refused", "well", "ill", DRAIN, MAINT, READY)


def happens(node: Node, event: str, now: float) -> None:
    """One thing that may happen to a node; what may not at this moment does not."""
    if event == "lent":
        node.lent(now)
    elif event == "begun":
        node.begin_connect(now)
    elif event in ("well", "ill"):
        node.checked(now, "" if event == "well" else "status 500")
    elif event in (DRAIN, MAINT, READY):
        node.pool.order(node.endpoint, Order(event, now, "ann", ""))
    elif event in ("reached", "refused"):
        if node.connecting:
            if event == "reached":
                node.reached(now)
            else:
                node.unreachable(now, "connection refused")
            node.end_connect()
    elif node.active:
        ends(node, event, now)


def ends(node: Node, event: str, now: float) -> None:
    if event in ("answered", "bad"):
        status = 200 if event == "answered" else 503
        node.answered(now, status)
        node.whole(status)
    node.pool.released(node)
    if event == "broke":
        node.broke(now, "no response")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(EVENTS), st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0, 11.0])), max_size=100),
    st.sampled_from([3, 5]),
    st.sampled_from(["0s", "5s"]),
)
def test_whatever_happens_the_list_is_what_it_would_be_if_it_were_made_now(
    events: list[tuple[int, str, float]], number: int, slow: str
) -> None:
    pool = pool_of(number, slow_start=slow, stall_after="3", eject_after="2")
    pool.add(ENDPOINT.parse("10.0.0.1:80"), backup=True)
    now = 100.0
    for place, event, later in events:
        now += later
        happens(pool.nodes[place % number], event, now)
        kept, starting = list(pool.usable(now)), pool.starting
        pool.flip()
        assert (kept, starting) == (pool.usable(now), pool.starting)
        ready = [each for each in pool.nodes if each.ready]
        assert all(each.ready for each in kept)
        assert bool(kept) == bool(ready)
        picked = pool.pick(now)
        assert picked in ready if ready else picked is None
        left = [each for each in ready if not each.occupied and each.healthy(now)]
        assert not left or pool.pick(now, tuple(each for each in ready if each not in left)) in left
