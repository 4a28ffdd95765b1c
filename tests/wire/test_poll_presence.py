"""Who is here: joins and leaves in order, no flicker between two polls, over several pbals, and after one was killed."""

import asyncio
import json
from typing import Any

import pytest
from lab import Lab, Pbal, lab, read_response, until
from polls import conf, get, park, publish

from pbal.plugins.poll.presence import Shared

ON = ("SET poll_presence = on", "SET poll_grace = 500ms", "SET poll_queue = query:q uri:queue", "SET poll_keep = ttl")

LONG = (*ON, "SET poll_grace = 1h")
"""What is renewed, is so in hours."""


def store_line(address: str) -> str:
    return f"SET poll_store = memcached {address}"


async def said(pbal: Pbal, queue: str = "presence") -> list[tuple[str, str]]:
    """(queue, event) pairs, the first first."""
    answer = await pbal.ask("chat", get(f"/poll/{queue}?timeout=0", "Accept: application/json"))
    return [(event["queue"], event["event"]) for event in map(json.loads, answer.body.splitlines())]


async def facts(pbal: Pbal, queue: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await pbal.ask("chat", get(f"/publish/{queue}"))).body)
    return found


@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_a_join_a_stay_and_a_leave(store: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        more = (store_line((await lab.memcached()).address),) if store == "memcached" else ()
        pbal = await lab.pbal(conf(*ON, *more))
        assert (await facts(pbal, "ann"))["present"] is False
        reader, writer = await park(pbal, "/poll/ann")
        await until(lambda: pbal.counts["poll_joins"] == 1, "the join")
        assert (await facts(pbal, "ann"))["present"] is True
        for number in range(4):  # comes back after each answer, later than at once and sooner than the grace
            receipt = json.loads((await publish(pbal, "ann", b"%d" % number)).body)
            assert (receipt["present"], receipt["count"], receipt["parked"]) == (True, 1, 1)
            token = (await read_response(reader)).fields["poll-position"]
            await asyncio.sleep(0.3)
            writer.write(get(f"/poll/ann?position={token}"))
            await pbal.until("poll_parked", 1)
        assert "ann 1 -" in await pbal.say("show presence")
        writer.close()
        await until(lambda: pbal.counts["poll_leaves"] == 1, "the leave")
        assert await said(pbal) == [("ann", "join"), ("ann", "leave")]
        gone = await facts(pbal, "ann")
        assert gone["present"] is False and gone["last_seen"] > 1.7e9
        listed = json.loads((await pbal.ask("chat", get("/publish/a%2A"))).body)["queues"]
        assert all(not each["present"] for each in listed)

    run()


@lab
async def test_a_crowd_is_one_join_and_the_last_one_leaves(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*ON))
    clients = [await park(pbal, "/poll/room") for _ in range(20)]
    assert (await facts(pbal, "room"))["count"] == 20
    for _, writer in clients[:-1]:
        writer.close()
    await pbal.until("poll_parked", 1)
    await asyncio.sleep(0.8)
    assert pbal.counts["poll_leaves"] == 0
    clients[-1][1].close()
    await until(lambda: pbal.counts["poll_leaves"] == 1, "the leave")
    assert await said(pbal) == [("room", "join"), ("room", "leave")]


@lab
async def test_a_queue_of_its_own_for_each_and_none_for_what_tells(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*ON, "SET poll_presence_queue = *.who"))
    watcher, _ = await park(pbal, "/poll/room.who")
    assert pbal.counts["poll_joins"] == 0, "who waits for news of presence is not present by that"
    await park(pbal, "/poll/room")
    assert json.loads((await read_response(watcher)).body)["event"] == "join"
    assert await said(pbal, "room.who") == [("room", "join")]


@lab
async def test_several_queues_of_one_reader_and_a_reload(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*ON))
    _, writer = await park(pbal, "/poll/x?q=room&q=room.ann")
    for _ in range(5):
        assert await pbal.say("RELOAD poll") == "OK"
    await asyncio.sleep(0.7)
    assert pbal.counts["poll_joins"] == 2 and pbal.counts["poll_leaves"] == 0
    writer.close()
    await until(lambda: pbal.counts["poll_leaves"] == 2, "both to leave")
    assert sorted((await said(pbal))[2:]) == [("room", "leave"), ("room.ann", "leave")]


@lab
async def test_two_pbals_say_each_join_and_leave_once(lab: Lab) -> None:
    cache = await lab.memcached()
    one, two = [await lab.pbal(conf(*ON, store_line(cache.address))) for _ in range(2)]
    _, first = await park(one, "/poll/room")
    await until(lambda: one.counts["poll_joins"] == 1, "the join")
    _, second = await park(two, "/poll/room")
    await until(lambda: not two.plugin("chat").hub.store.courier.busy, "the other one to vouch for it, too")
    first.close()
    ours = one.plugin("chat").hub
    await until(lambda: not ours.presence.here(b"poll:room").present and not ours.store.courier.busy, "its grace to be over")
    assert (await facts(one, "room"))["present"] is True, "somebody waits at the other one"
    assert [one.counts["poll_leaves"], two.counts["poll_joins"], two.counts["poll_leaves"]] == [0, 0, 0]
    second.close()
    await until(lambda: two.counts["poll_leaves"] == 1, "the leave")
    for _ in range(3):  # hand over hand
        _, writer = await park(one, "/poll/room")
        await asyncio.sleep(0.1)
        _, other = await park(two, "/poll/room")
        writer.close()
        await asyncio.sleep(0.1)
        other.close()
        await asyncio.sleep(0.1)
    await until(lambda: one.counts["poll_leaves"] + two.counts["poll_leaves"] == 2, "the second leave")
    assert await said(one) == await said(two) == [("room", "join"), ("room", "leave")] * 2


@lab
async def test_a_pbal_that_dies_leaves_its_readers_to_the_others(lab: Lab) -> None:
    cache = await lab.memcached()
    one, two = [await lab.pbal(conf(*ON, store_line(cache.address))) for _ in range(2)]
    await park(two, "/poll/other")  # it watches
    await park(one, "/poll/gone")
    await park(one, "/poll/stays")
    await until(lambda: one.counts["poll_joins"] == 2, "the joins")
    await asyncio.sleep(0.3)
    presence = one.plugin("chat").hub.presence
    presence._changed.clear()
    presence.tick = lambda now: None  # as dead as a process can be in a test: it neither renews nor leaves
    presence._changes = lambda key: None
    assert await two.say("RELOAD poll") == "OK"  # what it was to look at, it still does
    await park(two, "/poll/stays")
    await until(lambda: two.counts["poll_leaves"] == 1, "somebody to say that it is gone", deadline=15)
    assert [event for event in await said(two) if event[0] != "other"][2:] == [("gone", "leave")]
    assert (await facts(two, "stays"))["present"] is True


def looks(pbal: Pbal) -> int:
    """Looks at queues that are to come."""
    return sum(map(len, pbal.plugin("chat").hub.presence._order.values()))


@lab
async def test_who_comes_back_again_and_again_is_looked_at_no_more_often(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*LONG))
    reader, writer = await park(pbal, "/poll/ann")
    for number in range(30):
        token = (await publish(pbal, "ann", b"m")).status and (await read_response(reader)).fields["poll-position"]
        writer.write(get(f"/poll/ann?position={token}"))
        await pbal.until("poll_parked_ever", number + 2)
    assert looks(pbal) <= 2 and pbal.counts["poll_joins"] == 1


@lab
async def test_pbals_that_look_at_each_others_queues_do_not_set_each_other_going(lab: Lab) -> None:
    cache = await lab.memcached()
    one, two = [await lab.pbal(conf(*LONG, store_line(cache.address))) for _ in range(2)]
    await park(one, "/poll/room")
    await until(lambda: one.counts["poll_joins"] == 1, "the join")
    presence = two.plugin("chat").hub.presence
    here, client = presence.here_of(b"poll:room"), cache.client()
    before = client.gets(here.decode())
    for _ in range(10):  # as the watch shows it
        presence.foreign(here)
        await until(lambda: not two.plugin("chat").hub.store.courier.busy, "its look")
    assert looks(two) == 1
    presence._changes(b"poll:room")  # what the look does when its time has come
    await until(lambda: not two.plugin("chat").hub.store.courier.busy, "its look")
    assert looks(two) == 1 and client.gets(here.decode()) == before, "it has nothing to say"


@pytest.mark.parametrize(
    "value",
    [
        b'{"queue": "a", "by": {"x": [Infinity, 1]}, "present": true, "number": 1, "seen": 1}',
        b'{"queue": "a", "by": {"x": [1e308, 1]}, "present": true, "number": 1, "seen": 1}',
        b'{"queue": "a", "by": {}, "present": true, "number": 1, "seen": NaN}',
        b'{"queue": "a", "by": {}, "present": true, "number": 1%b, "seen": 1}' % (b"0" * 300),
        b'{"by": {"x": [1, 1e999]}}',
    ],
)
def test_what_lies_there_and_no_pbal_wrote_is_nothing(value: bytes) -> None:
    assert Shared.parse(value, "a") == Shared("a")


@lab
async def test_a_name_that_is_too_long_with_what_stands_beside_it_is_not_said_and_costs_nobody_anything(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(*ON, "SET poll_presence_queue = *.who", store_line(cache.address)))
    await park(pbal, "/poll/" + "x" * 244)
    await until(lambda: pbal.counts["poll_presence_lost"] == 1, "the join that cannot be said")
    await park(pbal, "/poll/room")
    await until(lambda: pbal.counts["poll_joins"] == 1, "the other join")
    assert pbal.counts["poll_store_errors"] == 0


@lab
async def test_turned_on_and_off_live(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*ON[1:]))
    _, writer = await park(pbal, "/poll/ann")
    assert "present" not in await facts(pbal, "ann")
    assert await pbal.say("SET chat poll_presence = on") == "OK"
    assert (await facts(pbal, "ann"))["present"] is True
    assert await said(pbal) == [("ann", "join")]
    assert await pbal.say("SET chat poll_presence = off") == "OK"
    writer.close()
    await asyncio.sleep(1)
    assert pbal.counts["poll_leaves"] == 0
    for bad in ("*", "a*b*", "a b", ".pbal.x"):
        assert (await pbal.say(f"SET chat poll_presence_queue = {bad}")).startswith("ERROR") or (
            await pbal.say("SET chat poll_presence = on")
        ).startswith("ERROR"), bad
