"""Who of several nodes gets a request: shares, turns, loads, and what moves when a node comes or goes."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from process import ROOT

from pbal.http1.events import RequestHead
from pbal.model.balance import CODES, HASH, P2C, ROUND_ROBIN, Member, choose, key_octets, key_of, weights_of
from pbal.model.pool import Node, Pool
from pbal.model.sticky import Sticky
from pbal.model.world import World
from pbal.roles.proxy.errand import Errand
from pbal.roles.proxy.retry import enter, leave
from pbal.roles.proxy.terms import Terms
from pbal.schema.types import ENDPOINT

WEIGHTS = st.lists(st.integers(1, 20), min_size=2, max_size=6)
DRAWS = 1000


class Asker(Errand):
    """Somebody who would send a request again."""

    def __init__(self) -> None:
        self.again_in = None


class Asked:
    """A request as a hash sees it."""

    def __init__(self, path: bytes = b"/", query: bytes = b"", fields: dict[bytes, bytes] | None = None) -> None:
        self.request = RequestHead()
        self.request.path, self.request.query = path, query
        self.request.fields = fields or {}
        self.client_address = b"10.9.8.7"

    def chosen(self, members: Sequence[Member]) -> int:
        return -1


def pool_of(weights: list[int], method: str = "random", **tunables: str) -> Pool:
    """A pool with a node of each weight."""
    pool = World().create_pool("p")
    pool.set("balance_method", method)
    for name, text in tunables.items():
        pool.set(name, text)
    for number, weight in enumerate(weights):
        pool.add(ENDPOINT.parse(f"10.0.0.{number + 1}:80"), weight)
    return pool


def picked(pool: Pool, asked: Asked | None = None, tried: tuple[Node, ...] = (), now: float = 100.0) -> Node:
    node = pool.pick(now, tried, asked)
    assert node is not None
    return node


@pytest.mark.parametrize("method", sorted(CODES))
@given(weights=WEIGHTS)
@settings(max_examples=12, deadline=None)
def test_each_node_gets_its_share(method: str, weights: list[int]) -> None:
    pool = pool_of(weights, method)
    keys = [Asked(b"/%d" % number) for number in range(DRAWS)]
    got = Counter(picked(pool, key).name for key in keys)
    for node in pool.nodes:
        share = node.weight / sum(weights)
        assert abs(got[node.name] - DRAWS * share) <= 5 * sqrt(DRAWS * share * (1 - share)) + 1, (got, weights)


@pytest.mark.parametrize("method", ["least_connections", "p2c"])
@given(weights=WEIGHTS)
@settings(max_examples=12, deadline=None)
def test_requests_in_progress_stand_as_the_weights_do(method: str, weights: list[int]) -> None:
    pool = pool_of(weights, method)
    for _ in range(DRAWS):
        picked(pool).active += 1
    for node in pool.nodes:
        share = node.weight / sum(weights)
        slack = 1 if method == "least_connections" else 5 * sqrt(DRAWS * share * (1 - share))
        assert abs(node.active - DRAWS * share) <= slack + 1


@given(weights=WEIGHTS)
def test_turns_are_smooth(weights: list[int]) -> None:
    pool = pool_of(weights, "round_robin")
    total, count = sum(weights), len(weights)
    turns = [picked(pool) for _ in range(2 * total)]
    taken = dict.fromkeys(pool.nodes, 0)
    for number, node in enumerate(turns, 1):
        taken[node] += 1
        for each in pool.nodes:
            ahead = taken[each] - number * each.weight / total
            assert -count < ahead < 1, "nobody is a whole turn ahead"
    assert all(taken[node] == 2 * node.weight for node in pool.nodes)


@pytest.mark.parametrize("method", sorted(CODES))
@given(
    weights=st.lists(st.integers(1, 10), min_size=2, max_size=6), loads=st.lists(st.integers(0, 9), min_size=6, max_size=6), data=st.data()
)
@settings(max_examples=12, deadline=None)
def test_nobody_starves_and_nobody_tried_or_resting_is_picked(
    method: str, weights: list[int], loads: list[int], data: st.DataObject
) -> None:
    pool = pool_of(weights, method)
    pool.nodes[0].unreachable(100.0, "it refused")
    tried = tuple(data.draw(st.sets(st.sampled_from(pool.nodes[1:]), max_size=len(weights) - 2)))
    may = {node for node in pool.nodes[1:] if node not in tried}
    for node, load in zip(pool.nodes, loads, strict=False):
        node.active = load
    seen = set()
    for number in range(1000):
        node = picked(pool, Asked(b"/%d" % number), tried)
        seen.add(node)
        node.active += 1
    assert seen == may
    everybody = tuple(pool.nodes[1:])
    assert picked(pool, tried=everybody) is pool.nodes[0], "the one that refused, before none"
    assert pool.pick(100.0, tuple(pool.nodes)) is None


@given(weights=st.lists(st.sampled_from([1, 1, 1, 2, 7]), min_size=2, max_size=6), gone=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_when_a_node_goes_its_keys_alone_move_and_when_it_comes_back_they_are_its_again(weights: list[int], gone: int) -> None:
    pool = pool_of(weights, "hash")
    keys = [Asked(b"/%d" % number) for number in range(300)]
    before = [picked(pool, key) for key in keys]
    going = pool.nodes[gone % len(weights)]
    pool.remove(going.endpoint, 0.0)
    after = [picked(pool, key) for key in keys]
    assert all(was is now for was, now in zip(before, after, strict=True) if was is not going)
    pool.add(going.endpoint, going.weight)
    assert [node.name for node in before] == [picked(pool, key).name for key in keys]
    # Nor does it matter in which order they stand, or whether one is passed over for another reason.
    pool.nodes.reverse()
    back = pool.find(going.endpoint)
    assert back is not None
    assert [node.name for node in after] == [picked(pool, key, (back,)).name for key in keys]


@given(weights=WEIGHTS, heavier=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_a_node_that_becomes_heavier_takes_keys_and_no_other_does(weights: list[int], heavier: int) -> None:
    pool = pool_of(weights, "hash")
    keys = [Asked(b"/%d" % number) for number in range(300)]
    before = [picked(pool, key) for key in keys]
    node = pool.nodes[heavier % len(weights)]
    pool.add(node.endpoint, node.weight * 2)
    after = [picked(pool, key) for key in keys]
    assert all(was is now or now is node for was, now in zip(before, after, strict=True))
    assert after != before


def test_equal_weights_are_no_weights() -> None:
    pool = pool_of([1] * 7, "hash")
    keys = [key_of(b"%d" % number) for number in range(500)]
    assert weights_of(pool.nodes, 0.0) is None
    assert [choose(HASH, pool.nodes, None, key) for key in keys] == [choose(HASH, pool.nodes, [5.0] * 7, key) for key in keys]


CHOICES = """
from pbal.model.balance import HASH, Member, choose, key_of
members = [Member(f"10.0.0.{number}:80") for number in range(1, 5)]
print(*(choose(HASH, members, [1.0, 1.0, 3.0, 1.0], key_of(b"/%d" % number)) + 1 for number in range(40)))
"""


def test_every_process_makes_the_same_choice() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    other = subprocess.run([sys.executable, "-c", CHOICES], env=environment, check=True, capture_output=True, text=True)
    pool = pool_of([1, 1, 3, 1], "hash")
    mine = [picked(pool, Asked(b"/%d" % number)).name for number in range(40)]
    assert [f"10.0.0.{number}:80" for number in other.stdout.split()] == mine
    assert len(set(mine)) == 4


@pytest.mark.parametrize(
    ("of", "octets"),
    [
        ("uri", b"/a?x=1&id=7"), ("path", b"/a"), ("client", b"10.9.8.7"), ("header:X-User", b"bob"), ("header:none", b"10.9.8.7"),
        ("cookie:sid", b"s1"), ("cookie:id", b"10.9.8.7"), ("query:id", b"7"), ("query:i", b"10.9.8.7"),
    ],
)  # fmt: skip
def test_what_a_hash_is_made_of(of: str, octets: bytes) -> None:
    pool = pool_of([1, 1], "hash", balance_hash=of)
    asked = Asked(b"/a", b"x=1&id=7", {b"cookie": b"xsid=no; sid=s1; sid=s2", b"x-user": b"bob"})
    value = pool.values["balance_hash"]
    assert key_octets(value.what, value.name, asked) == octets  # type: ignore[attr-defined]
    assert pool.hash_key(asked) == key_of(octets)


def test_one_key_in_a_pool_of_tiers_and_bounds() -> None:
    pool = pool_of([1, 1, 1])
    first, second, third = pool.nodes
    pool.add(third.endpoint, 1, True)
    pool.add(second.endpoint, 0)
    assert {picked(pool) for _ in range(20)} == {first}
    first.unreachable(100.0, "it refused")
    assert {picked(pool) for _ in range(20)} == {third}, "a backup node stands in for one that rests"
    third.unreachable(100.0, "it refused, too")
    assert {picked(pool) for _ in range(20)} == {first}, "of two that rest, the one that is no backup"
    assert picked(pool, tried=(first,)) is third
    assert pool.pick(100.0, (first, third)) is None, "one of weight 0 never"
    pool.add(first.endpoint, 1, False, 2)
    first.active, first.connecting = 1, 1
    assert pool.pick(200.0) is None, "a backup node is not there for what is too much for the others"
    first.connecting = 0
    assert picked(pool, now=200.0) is first


def test_the_load_of_two_decides_for_p2c() -> None:
    pool = pool_of([1, 1], "p2c")
    pool.nodes[0].active = 1
    assert {choose(P2C, pool.nodes, None, None) for _ in range(30)} == {1}
    assert {choose(P2C, pool.nodes, [3.0, 1.0], None) for _ in range(30)} == {1}
    pool.nodes[1].active = 1
    assert {choose(P2C, pool.nodes, [3.0, 1.0], None) for _ in range(30)} == {0}
    assert choose(ROUND_ROBIN, pool.nodes[:1], None, None) == 0


def test_sticky_cookies_tell_nothing_and_only_the_key_makes_them() -> None:
    sticky, other = Sticky(b"node", b"k" * 16), Sticky(b"node", b"l" * 16)
    value = sticky.value("10.0.0.1:80")
    assert b"10.0.0" not in value and value == Sticky(b"any", b"k" * 16).value("10.0.0.1:80") != other.value("10.0.0.1:80")
    assert sticky.signed(value) and not other.signed(value)
    opaque, signature = value.split(b".")
    mine = sticky.value("10.0.0.2:80").split(b".")[0]
    for forged in (b"", b".", opaque, mine + b"." + signature, opaque + b"." + signature[:-1], value + b"a", value * 9, b"10.0.0.1:80"):
        assert not sticky.signed(forged)
    assert sticky.found(b'a=1; node=x;node="y" ;nodes=z') == [b"x", b"y"]
    assert sticky.without(b"a=1; node=x;node=y ;nodes=z") == b"a=1; nodes=z"
    assert sticky.without(b"node=x") is None
    assert Sticky(b"node", None).value("n") == Sticky(b"node", None).value("n") != sticky.value("n")


@given(percent=st.integers(0, 100), least=st.integers(0, 4), steps=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=80))
def test_what_is_sent_again_is_never_more_than_its_share(percent: int, least: int, steps: list[tuple[int, bool]]) -> None:
    pool = pool_of([1, 1], retry_budget=str(percent), retry_budget_least=str(least))
    terms = Terms(World().create_service("web"))
    requests: dict[int, Asker] = {}
    for number, fails in steps:
        request = requests.get(number)
        if request is None:
            requests[number] = Asker()
            pool.nodes[number % 2].active += 1
            continue
        live, before, had = len(requests), pool.retrying, request.again_in is pool
        if fails and enter(request, pool, terms):
            assert had or before + 1 <= max(least, live * percent // 100)
            assert pool.retrying == before + (not had)
        else:
            assert not fails or before >= max(least, live * percent // 100)
            leave(request)
            leave(request)
            del requests[number]
            pool.nodes[number % 2].active -= 1
    for request in requests.values():
        leave(request)
    assert pool.retrying == 0
