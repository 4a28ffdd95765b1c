"""LIMIT: who gets 429, when, and that what was taken is given back."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab, Pbal, lab, read_response, until
from polls import conf, park
from polls import get as poll
from scripted import OK, Client, Scripted, Taken, get, proxy

from pbal.model.buckets import holder
from pbal.model.limiting import ConcurrencyLimit, RateLimit, key_of
from pbal.model.slots import Slot


async def answering(taken: Taken) -> None:
    while True:
        await taken.request()
        taken.say(OK)


async def limited(lab: Lab, *limits: str, more: str = "") -> Pbal:
    node = await Scripted.start(lab, answering)
    return await lab.pbal(proxy(node.address, more=";".join([*(f"LIMIT web {limit}" for limit in limits), more])))


async def statuses(pbal: Pbal, *fields: str, number: int) -> list[int]:
    return [(await pbal.ask("web", get("/", *fields))).status for _ in range(number)]


@lab
async def test_a_burst_passes_and_the_rest_is_told_when_to_come_again(lab: Lab) -> None:
    pbal = await limited(lab, "60/h BURST 3", more="SET access_log = off")
    assert await statuses(pbal, number=5) == [200, 200, 200, 429, 429]

    got = await pbal.ask("web", get())
    assert 50 <= int(got.fields["retry-after"]) <= 60 and b"Too many requests" in got.body
    assert pbal.counts["requests_limited"] == 3
    assert 'limit_refusals{service="web",limit="60/h BURST 3 BY address"} 3' in await pbal.say("show counters like limit_*")
    told = await pbal.say("show limits")
    assert "clients of LIMIT web 60/h BURST 3 BY address 1 of 50000 (0.0%): 3 requests were refused; if there are too many" in told


@lab
async def test_keys_are_clients_and_who_leaves_the_key_out_is_one_of_them(lab: Lab) -> None:
    pbal = await limited(lab, "1/d BY header:X-Api-Key", "2/d BY cookie:sid")
    assert await statuses(pbal, "X-Api-Key: a", "Cookie: x=1; sid=1", number=2) == [200, 429]
    assert await statuses(pbal, "x-api-key: b", "Cookie: sid=1", number=1) == [200]
    assert await statuses(pbal, "X-Api-Key: c", "Cookie: sid=1", number=1) == [429]  # which is not charged to c
    assert await statuses(pbal, "X-Api-Key: c", "Cookie: sid=2", number=2) == [200, 429]
    assert await statuses(pbal, number=2) == [200, 429]
    assert await statuses(pbal, "X-Api-Key: " + "k" * 4000, "Cookie: sid=4", number=2) == [200, 429]


@lab
async def test_the_address_is_the_clients_after_trust(lab: Lab) -> None:
    pbal = await limited(lab, "1/d", more="SET trusted_upstream_proxies = 127.0.0.1")
    assert await statuses(pbal, "X-Forwarded-For: 2001:db8::1", number=1) == [200]
    assert await statuses(pbal, "X-Forwarded-For: 2001:db8::ffff:2", number=1) == [429]
    assert await statuses(pbal, "X-Forwarded-For: 2001:db8:0:1::1", number=1) == [200]
    assert await statuses(pbal, "X-Forwarded-For: 10.0.0.1", number=2) == [200, 429]


@lab
async def test_a_dry_run_counts_and_refuses_nobody(lab: Lab) -> None:
    pbal = await limited(lab, "1/d DRY RUN")
    assert await statuses(pbal, number=3) == [200, 200, 200]
    assert pbal.counts["requests_limited_dry"] == 2 and pbal.counts["requests_limited"] == 0
    assert "2 requests were over it" in await pbal.say("show limits")
    assert "over it, which is only counted" in await pbal.say("explain GET http://web/ from 127.0.0.1")


@lab
async def test_so_many_at_once_and_a_place_is_free_when_one_ends(lab: Lab) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address, more="LIMIT web 2 CONCURRENT"))
    clients = [await Client.of(pbal, request=get()) for _ in range(2)]
    taken = [await node.connection(number) for number in range(2)]
    refused = await pbal.ask("web", get())
    assert refused.status == 429 and refused.fields["retry-after"] == "1"
    await taken[0].request()
    taken[0].say(OK)
    await until(lambda: _held(pbal) == {b"127.0.0.1": 1}, "a place")
    clients[1].reset()
    await until(lambda: not _held(pbal), "both places")
    assert "2 CONCURRENT BY address: within it" in await pbal.say("explain GET http://web/ from 127.0.0.1")


def _held(pbal: Pbal, service: str = "web") -> dict[bytes, int]:
    found = pbal.world.service(service).limiting[0]
    assert isinstance(found, ConcurrencyLimit)
    return found._held


async def answers_or_not(taken: Taken) -> None:
    """A node that breaks off, lies, or answers."""
    while True:
        await taken.request()
        choice = random.randrange(5)
        if choice == 0:
            taken.writer.transport.abort()
            return
        if choice < 3:
            taken.say((OK[:-1], b"rubbish\r\n\r\n")[choice - 1])
            taken.writer.close()
            return
        taken.say(OK)


async def asks_and_leaves(pbal: Pbal, number: int) -> None:
    """A client that leaves at a step of its own; some say nonsense, or more than they may."""
    client = await Client.of(pbal)
    framing = random.choice([b"", b"Content-Length: 20\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
    body = random.choice([b"", b"12345", b"5\r\n12345\r\n0\r\n\r\n", b"x"])
    request = b"POST /%d HTTP/1.1\r\nHost: h\r\n%b\r\n" % (number, framing) + body
    client.writer.write(request * random.choice([1, 1, 2]))
    way = random.randrange(4)
    if way == 0:
        client.reset()
    elif way == 1:
        client.writer.write_eof()
        await client.rest()
    elif way == 2:
        await asyncio.sleep(0)
    client.writer.close()


@lab
async def test_places_are_given_back_however_a_request_ends(lab: Lab) -> None:
    random.seed(7)
    node = await Scripted.start(lab, answers_or_not)
    more = "LIMIT web 2000 CONCURRENT;LIMIT web 2000 CONCURRENT BY service;SET max_body = 10"
    pbal = await lab.pbal(proxy(node.address, more=more))

    for start in range(0, 1000, 50):
        clients = (asks_and_leaves(pbal, start + number) for number in range(50))
        await asyncio.gather(*clients, return_exceptions=True)  # a client that is cut off is told so
    await until(lambda: not pbal.world.clients, "everybody to leave")
    assert pbal.counts["requests"] > 500
    for each in pbal.world.service("web").limiting:
        assert isinstance(each, ConcurrencyLimit) and each._held == {}


@lab
async def test_a_parked_poll_holds_no_place_and_gives_it_back_once(lab: Lab) -> None:
    pbal = await lab.pbal(conf("LIMIT chat 1 CONCURRENT"))
    readers = [await park(pbal, "/poll/a") for _ in range(3)]
    assert _held(pbal, "chat") == {}
    other = await pbal.ask("chat", poll("/publish/a", method="POST", body=b"x"))
    assert other.status < 300
    assert (await read_response(readers[0][0])).status == 200
    for _, writer in readers:
        writer.close()
    await pbal.until("poll_parked", 0)
    assert _held(pbal, "chat") == {}


@lab
async def test_a_selector_has_limits_and_its_services_have_theirs(lab: Lab) -> None:
    pbal = await lab.pbal(
        """
        CREATE SERVICE site
          SET role = web_server
          LIMIT site 2/d
        CREATE SERVICE sel
          SET role = selector
          SET listen = 127.0.0.1:0
          SET default_service = site
          LIMIT sel 3/d BY service
        ENABLE sel
        """
    )
    got = [(await pbal.ask("sel", get())).status for _ in range(4)]
    assert got == [404, 404, 429, 429]
    assert [pbal.world.service(name).limiting[0].refusals for name in ("site", "sel")] == [1, 1]


@lab
async def test_when_says_for_which_requests_it_holds(lab: Lab) -> None:
    pbal = await limited(lab, "1/d WHEN path ^/login AND method POST")
    post = get("/x/../%6cogin", method="POST")
    assert await statuses(pbal, number=3) == [200, 200, 200]
    assert [(await pbal.ask("web", post)).status for _ in range(2)] == [200, 429]
    said = "LIMIT web 1/d BURST 1 BY address WHEN path ^/login AND method POST"
    assert said in await pbal.say("dumpconfig") and f"web 1 {said}" in await pbal.say("show rules web")
    assert await pbal.say(f"DROP RULE web {said}") == "OK"
    assert (await pbal.ask("web", post)).status == 200
    assert "expected a condition" in await pbal.say("LIMIT web 1/s WHEN paht ^/x")


@lab
async def test_the_statement_stands_in_the_configuration(lab: Lab) -> None:
    pbal = await limited(lab, "010/S", "5 concurrent by HEADER:X-Key dry run")
    dumped = await pbal.say("dumpconfig")
    first, second = "LIMIT web 10/s BURST 10 BY address", "LIMIT web 5 CONCURRENT BY header:X-Key DRY RUN"
    assert f"  {first}\n  {second}\n" in dumped
    assert await pbal.say(first) == "OK"  # twice is once
    assert await pbal.say("show rules web") == f"web 1 {first}\nweb 2 {second}\n."
    assert await pbal.say("DROP RULE web 1") == "OK"
    assert await pbal.say(f"DROP RULE web {second}") == "OK"
    assert await pbal.say("config drift") == f"DROP RULE web {first}\nDROP RULE web {second}\n."
    assert first not in await pbal.say("dumpconfig")
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert f"  {first}\n  {second}\n" in await pbal.say("dumpconfig")
    assert await pbal.say("CREATE SERVICE other LIKE web") == "OK"
    assert f"LIMIT other {first[10:]}" in await pbal.say("dumpconfig")


@lab
async def test_what_is_no_limit_is_refused(lab: Lab) -> None:
    pbal = await limited(lab)
    assert "expected a rate such as 10/s" in await pbal.say("LIMIT web 10/x")
    assert "expected a rate such as 10/s" in await pbal.say("LIMIT web 0/s")
    for unfinished in ("10", "10 BURST 3", "10 BY host"):
        assert "a rate such as 10/s, 100/m or 1000/h, or 10 CONCURRENT, found '10'" in await pbal.say(f"LIMIT web {unfinished}")
    assert "expected a number of requests" in await pbal.say("LIMIT web 1/s BURST 0")
    assert "expected a number of requests" in await pbal.say("LIMIT web 0 CONCURRENT")
    assert "expected address, host, service" in await pbal.say("LIMIT web 1/s BY ip")
    assert await pbal.say("CREATE SERVICE new") == "OK"
    assert "SET role before LIMIT" in await pbal.say("LIMIT new 1/s")
    assert pbal.world.service("web").limiting == ()


# -- the arithmetic ----------------------------------------------------------------------------------------------------

NOBODY = cast(Any, SimpleNamespace(slot=None))


def passed(limit: RateLimit, who: bytes, now: float) -> bool:
    if limit.wait(who, now):
        return False
    limit.charge(who, now, NOBODY)
    return True


@given(rate=st.integers(1, 50), burst=st.integers(1, 20), gaps=st.lists(st.floats(0, 0.2), max_size=200))
def test_never_more_than_the_rate_and_the_burst(rate: int, burst: int, gaps: list[float]) -> None:
    limit = RateLimit(f"{rate}/s", str(burst), key_of("address"), False)
    now, times = 1000.0, []
    for gap in gaps:
        now += gap
        if passed(limit, b"a", now):
            times.append(now)
    for at, start in enumerate(times):
        for end in times[at:]:
            number = len([each for each in times if start <= each <= end])
            assert number <= burst + (end - start) * rate + 1e-3


def test_who_waits_as_told_passes() -> None:
    limit = RateLimit("10/m", "2", key_of("address"), False)
    assert passed(limit, b"a", 5.0) and passed(limit, b"a", 5.0) and not passed(limit, b"a", 5.0)
    wait = limit.wait(b"a", 5.0)
    assert wait == pytest.approx(6.0)
    assert not passed(limit, b"a", 5.0 + wait - 0.01) and passed(limit, b"a", 5.0 + wait)


def test_memory_is_bounded_and_who_came_longest_ago_is_forgotten() -> None:
    limit = RateLimit("1/d", "1", key_of("address"), False)
    limit.buckets.most = 100
    for number in range(1000):
        assert passed(limit, b"%d" % number, 5.0)
    assert limit.clients == 100 and limit.forgotten == 900
    assert not passed(limit, b"999", 6.0) and passed(limit, b"0", 6.0)


def test_full_buckets_are_dropped() -> None:
    limit = RateLimit("10/s", "1", key_of("address"), False)
    for number in range(1000):
        assert passed(limit, b"%d" % number, float(number))
    assert limit.clients < 10 and limit.forgotten == 0


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.booleans()), max_size=60))
def test_places_count_as_they_are_taken_and_given_back(steps: list[tuple[bytes, bool]]) -> None:
    held: dict[bytes, int] = {}
    slots: list[Slot] = []
    for who, takes in steps:
        if takes:
            slots.append(Slot(held, who, None))
        elif slots:
            slots.pop(0).give_back()
        assert sum(held.values()) == len(slots)
    for slot in slots:
        slot.give_back()
    assert held == {}


@pytest.mark.parametrize(
    ("address", "expected"),
    [(b"10.0.0.1", b"10.0.0.1"), (b"unknown", b"unknown"), (b"fe80::1%eth0", b"\xfe\x80" + bytes(6)), (b":x", b":x")],
)
def test_whom_an_address_stands_for(address: bytes, expected: bytes) -> None:
    assert holder(address) == expected
