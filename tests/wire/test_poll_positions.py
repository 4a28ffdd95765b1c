"""Kept messages: positions, gaps, what each value of poll_keep promises; what is known of a queue, and who is told what."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab, Pbal, Response, lab, read_response, until
from polls import conf, empty, get, park, publish
from pymemcache.exceptions import MemcacheServerError

from pbal.plugins.poll.positions import BadPosition, Log, new_epoch, read_token, token
from pbal.queue import put


def kept(keep: str, *more: str) -> str:
    return conf(f"SET poll_keep = {keep}", "SET poll_format = json", "SET poll_queue = query:q uri:queue", *more)


def stores(test: Callable[[Lab, str], Awaitable[None]]) -> Callable[[str], None]:
    """A test that runs on both stores: it gets the line of the configuration."""

    @pytest.mark.parametrize("store", ["memory", "memcached"])
    def both_stores(store: str) -> None:
        @lab
        async def run(lab: Lab) -> None:
            await test(lab, "" if store == "memory" else f"SET poll_store = memcached {(await lab.memcached()).address}")

        run()

    both_stores.__name__, both_stores.__doc__ = test.__name__, test.__doc__
    return both_stores


async def poll(pbal: Pbal, queue: str, position: str = "", seconds: str = "0") -> Response:
    return await pbal.ask(
        "chat", get(f"/poll/{queue}{'&' if '?' in queue else '?'}timeout={seconds}" + (f"&position={position}" if position else ""))
    )


def told(answer: Response) -> tuple[dict[str, list[str]], str, list[str]]:
    """Messages, position and gaps of an answer."""
    body = json.loads(answer.body)
    position: str = body["position"]
    assert position == answer.fields["poll-position"]
    return body["queues"], position, body.get("gap", [])


# -- tokens ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_rubbish_is_no_position_and_never_an_exception_of_another_kind(text: bytes) -> None:
    log = Log(b"poll:a", new_epoch(), 0, b"one\n")
    try:
        places = read_token(text, [b"poll:a"])
    except BadPosition:
        return
    with pytest.raises(BadPosition):  # well-formed by chance: then its seal is wrong
        log.find(places[b"poll:a"][:4] + log.end[4:9] + places[b"poll:a"][9:], True)


@given(st.integers(0, 31), st.integers(1, 255))
def test_a_changed_position_passes_nowhere(where: int, change: int) -> None:
    log = Log(b"poll:a", b"12345678", 100, b"one\ntwo\n")
    octets = bytearray(log.at(104))
    octets[where % 24] ^= change
    try:
        places = read_token(token([bytes(octets)]), [b"poll:a"])
        offset, gap = log.find(places[b"poll:a"], True)
    except BadPosition:
        return
    assert gap and offset == 100, "an epoch that is not there: everything, and the gap is told"


def test_a_position_is_short_and_the_same_for_the_same_place() -> None:
    one, other = Log(b"poll:a", b"12345678", 0, b"x\n"), Log(b"poll:b", b"abcdefgh", 7, b"")
    assert len(token([one.end])) == 32
    assert token([one.end, other.end]) == token([other.end, one.end])
    assert read_token(token([one.end, other.end]), [b"poll:b", b"poll:a"]) == {b"poll:a": one.end, b"poll:b": other.end}
    with pytest.raises(BadPosition):
        read_token(token([one.end]), [b"poll:c"])


# -- ttl ---------------------------------------------------------------------------------------------------------


@stores
async def test_a_reader_gets_what_came_after_its_position(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("ttl", store))
    queues, start, gaps = told(await poll(pbal, "a"))
    assert (queues, gaps) == ({}, [])
    await publish(pbal, "a", b"one")
    await publish(pbal, "a", b"two")
    queues, second, _ = told(await poll(pbal, "a", start))
    assert queues == {"a": ["one", "two"]}
    assert told(await poll(pbal, "a", start))[:2] == (queues, second), "it is kept, and equal places are equal tokens"
    assert told(await poll(pbal, "a", second))[:2] == ({}, second)
    await publish(pbal, "a", b"three")
    assert told(await poll(pbal, "a", second))[0] == {"a": ["three"]}
    assert told(await poll(pbal, "a"))[0] == {"a": ["one", "two", "three"]}, "without one: all that is kept"
    assert empty(pbal)


@stores
async def test_every_parked_reader_gets_every_message_wherever_it_stands(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("ttl", store))
    await publish(pbal, "a", b"old")
    _, position, _ = told(await poll(pbal, "a"))
    readers = [(await park(pbal, f"/poll/a?position={position}"))[0] for _ in range(300)]
    await publish(pbal, "a", b"new")
    answers = [told(await read_response(reader)) for reader in readers]
    assert all(answer == answers[0] for answer in answers) and answers[0][0] == {"a": ["new"]}
    assert empty(pbal)


@stores
async def test_two_windows_of_one_user_miss_nothing(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("ttl", store))
    total = 200

    async def window() -> list[str]:
        got: list[str] = []
        position = ""
        while len(got) < total:
            queues, position, gaps = told(await poll(pbal, "a", position, "5"))
            assert not gaps
            got += queues.get("a", [])
            await asyncio.sleep(0.003)
        return got

    windows = [asyncio.create_task(window()) for _ in range(2)]
    for number in range(total):
        await publish(pbal, "a", b"%d" % number)
    assert [await each for each in windows] == [[str(number) for number in range(total)]] * 2


@stores
async def test_what_was_pushed_out_is_a_gap_and_said_everywhere(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("ttl", store, "SET poll_max_queue = 100"))
    _, position, _ = told(await poll(pbal, "a"))
    for number in range(40):
        await publish(pbal, "a", b"message %d" % number)
    answer = await poll(pbal, "a", position)
    queues, later, gaps = told(answer)
    assert gaps == ["a"] and answer.fields["poll-gap"] == "a"
    assert queues["a"][-1] == "message 39" and len(queues["a"]) < 40
    assert told(await poll(pbal, "a", later))[2] == []
    assert pbal.counts["poll_gaps"] == 1 and pbal.counts["poll_evicted"] > 20


@stores
async def test_messages_go_one_by_one_as_they_grow_old(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("ttl", store, "SET poll_ttl = 1s"))
    _, position, _ = told(await poll(pbal, "a"))
    await park(pbal, "/poll/b")
    for number in range(8):
        await publish(pbal, "a", b"%d" % number)
        await asyncio.sleep(0.25)
    kept_now = told(await poll(pbal, "a"))[0]["a"]
    assert kept_now == [str(number) for number in range(8)][-len(kept_now) :] and 3 <= len(kept_now) <= 5
    assert told(await poll(pbal, "a", position))[2] == ["a"]


@lab
async def test_a_quiet_queue_with_a_reader_keeps_its_epoch(lab: Lab) -> None:
    pbal = await lab.pbal(kept("ttl", "SET poll_ttl = 1s"))
    _, position, _ = told(await poll(pbal, "a"))
    store = pbal.plugin("chat").hub.store
    reader, _ = await park(pbal, f"/poll/a?position={position}")
    for held in store.content.values():
        held.stored -= 10
    assert not store.expire()
    await publish(pbal, "a", b"m")
    assert told(await read_response(reader))[::2] == ({"a": ["m"]}, [])


@stores
async def test_positions_of_several_queues(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("ttl", store))
    _, position, _ = told(await poll(pbal, "x?q=a&q=b"))
    assert len(position) == 64
    await publish(pbal, "b", b"1")
    queues, position, _ = told(await poll(pbal, "x?q=a&q=b", position))
    assert queues == {"b": ["1"]}
    await publish(pbal, "a", b"2")
    await publish(pbal, "c", b"3")
    found: dict[str, list[str]] = {}
    while len(found) < 2:  # memcached may tell one before the other
        queues, position, _ = told(await poll(pbal, "x?q=b&q=a&q=c", position, "5"))
        found.update(queues)
    assert found == {"a": ["2"], "c": ["3"]}, "a queue that is new to the reader: all that is kept"
    await publish(pbal, "b", b"4")
    assert told(await poll(pbal, "x?q=a&q=b", position, "5"))[0] == {"b": ["4"]}, "a queue that the reader has left"
    for bad in ("x?q=d", "x?q=d&q=e"):
        answer = await poll(pbal, bad, position)
        assert (answer.status, answer.body) == (400, b"the position is one of other queues\n")
    answer = await poll(pbal, "x?q=a&q=b", position + position)
    assert (answer.status, answer.body) == (400, b"the position tells two places of one queue\n")


@lab
async def test_where_a_position_may_stand_and_what_a_bad_one_gets(lab: Lab) -> None:
    pbal = await lab.pbal(kept("ttl", "SET poll_etag = on", "SET poll_position = query:position header:Last-Event-ID header:If-None-Match"))
    answer = await poll(pbal, "a")
    _, position, _ = told(answer)
    assert answer.fields["etag"] == f'"{position}"'
    await publish(pbal, "a", b"m")
    for field in (f"Last-Event-ID: {position}", f'If-None-Match: "{position}"', f'If-None-Match: W/"{position}"'):
        assert told(await pbal.ask("chat", get("/poll/a?timeout=0", field)))[0] == {"a": ["m"]}
    log = Log(b"poll:a", new_epoch(), 0, b"")
    store = pbal.plugin("chat").hub.store
    forged = token([log.end[:4] + store._log(b"poll:a").end[4:9] + log.end[9:]]).decode()
    for bad in ("rubbish", position[:-1], "A" * 32, forged):
        assert (await poll(pbal, "a", bad)).status == 400, bad
    assert pbal.counts["poll_bad_positions"] == 4
    assert await pbal.say("SET chat poll_bad_position = all") == "OK"
    for bad in ("rubbish", "A" * 32, forged):
        assert told(await poll(pbal, "a", bad))[::2] == ({"a": ["m"]}, [])
    assert empty(pbal)


@stores
async def test_who_comes_without_a_position_may_want_only_what_is_new(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("ttl", store, "SET poll_first = new"))
    await publish(pbal, "a", b"old")
    queues, position, _ = told(await poll(pbal, "a"))
    assert queues == {}
    await publish(pbal, "a", b"new")
    assert told(await poll(pbal, "a", position))[0] == {"a": ["new"]}


@stores
async def test_positions_and_readers_outlive_a_reload(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("ttl", store))
    await publish(pbal, "a", b"one")
    _, position, _ = told(await poll(pbal, "a"))
    reader, _ = await park(pbal, f"/poll/a?position={position}")
    assert await pbal.say("RELOAD poll") == "OK"
    await publish(pbal, "a", b"two")
    assert told(await read_response(reader))[::2] == ({"a": ["two"]}, [])


# -- confirmed ---------------------------------------------------------------------------------------------------


@stores
async def test_a_confirmed_queue_keeps_a_message_until_a_position_past_it_comes(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("confirmed", store))
    await publish(pbal, "a", b"one")
    queues, position, _ = told(await poll(pbal, "a"))
    assert queues == {"a": ["one"]}
    assert told(await poll(pbal, "a"))[0] == {"a": ["one"]}, "who forgot its position gets it again"
    await publish(pbal, "a", b"two")
    assert told(await poll(pbal, "a", position))[0] == {"a": ["two"]}
    if store:  # memcached is told a moment later
        await until(lambda: not pbal.plugin("chat").hub.store.courier.busy, "the cut to be stored")
    assert told(await poll(pbal, "a"))[0] == {"a": ["two"]}, "the first is confirmed, and gone"


# -- told, and slowed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "status", "body"), [
    ("raw", 409, b"A newer poll waits for this queue.\n"),
    ("lines", 409, b"A newer poll waits for this queue.\n"),
    ("json", 200, b'{"queues": {}, "superseded": true}'),
    ("xml", 200, b'<messages superseded="true"></messages>'),
])  # fmt: skip
def test_a_superseded_poll_is_told(form: str, status: int, body: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf(f"SET poll_format = {form}"))
        first, _ = await park(pbal, "/poll/a")
        second, _ = await park(pbal, "/poll/a")
        answer = await read_response(first)
        assert (answer.status, answer.body) == (status, body)
        await publish(pbal, "a", b"<m/>")
        assert b"<m/>" in (await read_response(second)).body
        assert empty(pbal)

    run()


@lab
async def test_two_windows_that_come_back_at_once_do_not_turn_the_loop_hot(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    loop = asyncio.get_running_loop()
    ends = loop.time() + 2.5
    answers = 0

    async def window() -> None:
        nonlocal answers
        while loop.time() < ends:
            await pbal.ask("chat", get("/poll/a?timeout=3"))
            answers += 1

    await asyncio.gather(window(), window())
    assert answers <= 8 and pbal.counts["poll_superseded"] <= 6
    assert pbal.counts["poll_slowed"] >= 1


@lab
async def test_who_waits_to_supersede_gets_nothing_that_is_the_earlier_ones(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    first, _ = await park(pbal, "/poll/a")
    second, _ = await park(pbal, "/poll/a")
    await publish(pbal, "a", b"one")
    assert (await read_response(first)).body == b"one\n"
    await publish(pbal, "a", b"two")
    assert (await read_response(second)).body == b"two\n"
    assert pbal.counts["poll_superseded"] == 0 and empty(pbal)


@lab
async def test_a_poll_may_ask_for_less_time_and_never_waits_longer_than_it_may(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_timeout = 1s"))
    assert (await pbal.ask("chat", get("/poll/a?timeout=0"))).status == 204
    loop = asyncio.get_running_loop()
    for timeout in ("", "?timeout=1h", "?timeout=0.9"):
        started = loop.time()
        assert (await pbal.ask("chat", get(f"/poll/a{timeout}"))).status == 204
        assert loop.time() - started < 1.1
    for bad in ("soon", "-1", ""):
        answer = await pbal.ask("chat", get(f"/poll/a?timeout={bad}x"))
        assert (answer.status, answer.body) == (400, b"timeout is a number of seconds\n")


# -- publishing --------------------------------------------------------------------------------------------------


async def ask(pbal: Pbal, method: str, path: str, body: bytes = b"", *fields: str) -> Response:
    return await pbal.ask("chat", get(path, *fields, method=method, body=body))


def both(keep: str, *more: str) -> str:
    return kept(keep, r"SET poll_publish_uri = ^/publish/(?P<queue>[^/]*)$", *more)


@pytest.mark.parametrize("keep", ["taken", "ttl"])
def test_what_is_known_of_a_queue(keep: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(both(keep))
        await publish(pbal, "a", b"one")
        await publish(pbal, "a", b"twice")
        facts = json.loads((await ask(pbal, "GET", "/publish/a")).body)
        position = facts.pop("position", "")
        assert facts == {"queue": "a", "parked": 0, "messages": 2, "bytes": 10}
        assert bool(position) == (keep == "ttl")
        assert json.loads((await ask(pbal, "GET", "/publish/a%5B1%5D")).body)["queue"] == "a[1]"
        await park(pbal, "/poll/room.1")
        await park(pbal, "/poll/other")
        listed = json.loads((await ask(pbal, "GET", "/publish/room.%2A")).body)
        assert listed == {"queues": [{"queue": "room.1", "parked": 1}]}
        everything = json.loads((await ask(pbal, "GET", "/publish/%2A")).body)["queues"]
        assert [each["queue"] for each in everything] == ["a", "other", "room.1"]

    run()


@stores
async def test_several_queues_in_one_publish(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(both("taken", store))
    reader, _ = await park(pbal, "/poll/b")
    answer = await ask(pbal, "POST", "/publish/?q=a&q=b&q=a", b"m")
    assert answer.status == 202
    assert json.loads(answer.body) == [{"queue": "a", "bytes": 1, "parked": 0}, {"queue": "b", "bytes": 1, "parked": 1}]
    assert json.loads((await read_response(reader)).body) == {"queues": {"b": ["m"]}}
    many = "&".join(f"q=n{number}" for number in range(1001))
    answer = await ask(pbal, "POST", f"/publish/?{many}", b"m")
    assert answer.status == 400 and b"at most 1000" in answer.body
    items = [{"queue": "c", "message": "1"}, {"queue": "d", "message": "\u00fc"}, {"queue": "c", "message": "2"}]
    answer = await ask(pbal, "POST", "/publish/", json.dumps(items).encode(), "Content-Type: application/json")
    assert [receipt["bytes"] for receipt in json.loads(answer.body)] == [1, 2, 1]
    assert json.loads((await poll(pbal, "x?q=c&q=d")).body) == {"queues": {"c": ["1", "2"], "d": ["\u00fc"]}}
    for bad in (
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b'[{"queue": "c"}]',
        b'[{"queue": "a b", "message": "x"}]',
        b'[{"queue": "a", "message": ""}]',
        b"[",
    ):
        answer = await ask(pbal, "POST", "/publish/", bad, "Content-Type: application/json")
        assert answer.status == 400 and answer.body.endswith(b"\n"), bad
    facts = json.loads((await ask(pbal, "GET", "/publish/?q=a&q=c")).body)
    assert [fact["messages"] for fact in facts] == [1, 0], "a list with a mistake changes nothing"


@stores
async def test_of_what_cannot_be_cut_the_newest_stays(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(kept("taken", store, "SET poll_framing = none", "SET poll_max_queue = 1k"))
    for keep in ("taken", "ttl"):
        assert await pbal.say(f"SET chat.poll_keep = {keep}") == "OK"
        before = pbal.counts["poll_evicted"]
        for message in (b"1" * 400, b"2" * 400, b"3" * 1000):
            assert (await publish(pbal, keep, message)).status == 202
        assert json.loads((await poll(pbal, keep)).body)["queues"] == {keep: ["3" * 1000]}
        assert pbal.counts["poll_evicted"] > before


@stores
async def test_delete_empties_trims_and_tells_the_readers(lab: Lab, store: str) -> None:
    pbal = await lab.pbal(both("ttl", store))
    await publish(pbal, "a", b"one")
    _, position, _ = told(await poll(pbal, "a"))
    await publish(pbal, "a", b"two")
    assert (await ask(pbal, "DELETE", f"/publish/a?position={position}")).status == 204
    assert told(await poll(pbal, "a"))[0] == {"a": ["two"]}
    assert (await ask(pbal, "DELETE", "/publish/a")).status == 204
    queues, position, gaps = told(await poll(pbal, "a", position))
    assert (queues, gaps) == ({}, ["a"])
    reader, _ = await park(pbal, f"/poll/a?position={position}")
    assert (await ask(pbal, "DELETE", "/publish/a?readers=end")).status == 204
    assert (await read_response(reader)).status == 410
    assert pbal.counts["poll_removed"] == 1
    assert (await ask(pbal, "DELETE", "/publish/a?position=rubbish")).status == 400
    assert (await ask(pbal, "DELETE", "/publish/")).status == 400


@lab
async def test_a_message_that_would_not_come_back_as_it_was_is_refused(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    answer = await publish(pbal, "a", b"two\nlines")
    assert answer.status == 400 and b"poll_framing = newline" in answer.body
    assert (await publish(pbal, "a", b"one line\n")).status == 202
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"one line\n"
    assert await pbal.say("SET chat poll_format = xml") == "OK"
    for bad in (b"a < b", b"<m>", b"<!DOCTYPE m>", b"\xff", b"]]>&nbsp;"):
        answer = await publish(pbal, "a", bad)
        assert answer.status == 400 and b"well-formed XML" in answer.body, bad
    assert (await publish(pbal, "a", b"<m>caf\xc3\xa9 &amp; more</m>")).status == 202
    pbal.plugin("chat").hub.store.append(b"poll:a", b"1 < 2\n", lambda error: None)
    answer = await pbal.ask("chat", get("/poll/a"))
    assert answer.body == b'<messages><queue name="a"><m>caf\xc3\xa9 &amp; more</m>1 &lt; 2</queue></messages>'
    assert pbal.counts["poll_misframed"] == 1


@lab
async def test_pages_of_other_origins_may_not_publish(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_allow_origin = https://good.example", "SET trusted_upstream_proxies = 127.0.0.1"))
    for origin, more, status in (
        ("http://chat", (), 202),
        ("http://CHAT:80", (), 202),
        ("https://good.example", (), 202),
        ("https://chat", (), 403),
        ("https://chat", ("X-Forwarded-Proto: https",), 202),
        ("https://front.example", ("X-Forwarded-Proto: https", "X-Forwarded-Host: front.example"), 202),
        ("http://evil.example", (), 403),
        ("null", (), 403),
    ):
        answer = await ask(pbal, "POST", "/publish/a", b"m", f"Origin: {origin}", *more)
        assert answer.status == status, (origin, more)
        assert ("access-control-allow-origin" in answer.fields) == (origin == "https://good.example")
    preflight = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type, x_odd~name")
    answer = await ask(pbal, "OPTIONS", "/publish/a", b"", "Origin: https://good.example", *preflight)
    assert answer.status == 204 and answer.fields["access-control-allow-headers"] == "content-type, x_odd~name"
    assert (await ask(pbal, "OPTIONS", "/publish/a", b"", "Origin: http://evil.example", *preflight)).status == 403
    await until(lambda: pbal.counts["poll_published"] == 5, "five to be stored")


# -- ids ---------------------------------------------------------------------------------------------------------


@lab
async def test_a_number_means_one_poll_of_the_whole_process(lab: Lab) -> None:
    text = conf() + conf().replace("CREATE SERVICE chat", "CREATE SERVICE talk").replace("ENABLE chat", "ENABLE talk").replace(
        "LOAD poll", ""
    )
    pbal = await lab.pbal(text)
    await park(pbal, "/poll/a")
    reader, writer = await pbal.connect("talk")
    writer.write(get("/poll/a"))
    await pbal.until("poll_parked", 2)
    rows: list[dict[str, Any]] = json.loads(await pbal.say("show parked AS JSON"))
    assert len({row["id"] for row in rows}) == 2 and {row["transport"] for row in rows} == {"poll"}
    number = next(row["id"] for row in rows if row["service"] == "talk")
    assert await pbal.say(f"poll kick {number}") == "OK"
    assert await reader.read() == b""
    assert [row["service"] for row in json.loads(await pbal.say("show parked AS JSON"))] == ["chat"]


# -- memcached: the header, writers, two pbals -------------------------------------------------------------------


def cached(store: str, *more: str) -> str:
    return kept("ttl", store, "SET poll_interval = 100ms", *more)


@lab
async def test_writers_know_nothing_of_the_header(lab: Lab) -> None:
    cache = await lab.memcached()
    client = cache.client()
    pbal = await lab.pbal(cached(f"SET poll_store = memcached {cache.address}"))
    client.add("poll:a", b"begun by a writer\n", expire=300, noreply=False)
    queues, position, gaps = told(await poll(pbal, "a"))
    assert (queues, gaps) == ({"a": ["begun by a writer"]}, [])
    assert re.fullmatch(rb"\x001 [0-9a-f]{16} 0 18:\d+\.\d\nbegun by a writer\n", client.get("poll:a"))
    assert put(client, b"poll:a", b"appended\n") is None  # type: ignore[func-returns-value]
    queues, later, gaps = told(await poll(pbal, "a", position))
    assert (queues, gaps) == ({"a": ["appended"]}, [])
    client.delete("poll:a", noreply=False)  # evicted, or the server was restarted
    client.add("poll:a", b"another epoch\n", expire=300, noreply=False)
    queues, position, gaps = told(await poll(pbal, "a", later))
    assert (queues, gaps) == ({"a": ["another epoch"]}, ["a"])
    client.flush_all(noreply=False)
    reader, _ = await park(pbal, f"/poll/a?position={position}")
    assert told(await read_response(reader))[2] == ["a"], "nothing is there, and that is a gap: it is told at once"
    queues, position, gaps = told(await poll(pbal, "a"))
    reader, _ = await park(pbal, f"/poll/a?position={position}")
    put(client, b"poll:a", b"stored by a writer\n")
    assert told(await read_response(reader))[::2] == ({"a": ["stored by a writer"]}, [])


@lab
async def test_a_quiet_queue_lives_while_a_reader_waits_and_grows_old_while_one_looks(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(cached(f"SET poll_store = memcached {cache.address}", "SET poll_ttl = 2s"))
    _, position, _ = told(await poll(pbal, "a"))
    await publish(pbal, "a", b"old")
    _, after, _ = told(await poll(pbal, "a", position))
    reader, _ = await park(pbal, f"/poll/a?position={after}")
    client = cache.client()
    await until(lambda: client.get("poll:a").endswith(b"\n") and b"old" not in client.get("poll:a"), "the message to grow old")
    await asyncio.sleep(4)
    await publish(pbal, "a", b"new")
    assert told(await read_response(reader))[::2] == ({"a": ["new"]}, []), "the same epoch, no gap"
    assert told(await poll(pbal, "a", position))[2] == ["a"]


@lab
async def test_two_pbals_answer_everybody_who_waits_in_a_room(lab: Lab) -> None:
    cache = await lab.memcached()
    one, two = [await lab.pbal(cached(f"SET poll_store = memcached {cache.address}")) for _ in range(2)]
    total = 300

    async def window(pbals: list[Pbal]) -> list[str]:
        got: list[str] = []
        position, turn = "", 0
        while len(got) < total:
            turn += 1
            queues, position, gaps = told(await poll(pbals[turn % len(pbals)], "room", position, "5"))
            assert not gaps
            got += queues.get("room", [])
            await asyncio.sleep(0.01)
        return got

    windows = [asyncio.create_task(window(pbals)) for pbals in ([one], [two], [one, two], [two, one])]
    client = cache.client()
    for number in range(total):
        if number % 3:
            await publish(one if number % 2 else two, "room", b"%d" % number)
        else:
            await asyncio.to_thread(put, client, b"poll:room", b"%d\n" % number)
    expected = [str(number) for number in range(total)]
    assert [await each for each in windows] == [expected] * 4


@lab
async def test_a_server_that_is_full_tells_without_positions(lab: Lab) -> None:
    cache = await lab.memcached("-M", "-m", "2")
    client = cache.client()
    pbal = await lab.pbal(cached(f"SET poll_store = memcached {cache.address}"))
    client.set("poll:a", b"m\n", noreply=False)
    number = 0
    for size in range(16, 200, 16):  # items of each size have their own room
        with pytest.raises(MemcacheServerError):
            while True:
                client.set(f"filler{number}", b"x" * size, noreply=False)
                number += 1
    answer = await poll(pbal, "a")
    assert json.loads(answer.body) == {"queues": {"a": ["m"]}} and "poll-position" not in answer.fields
    assert pbal.counts["poll_unmarked"] >= 1


@lab
async def test_what_is_kept_becomes_what_is_taken_and_back(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(cached(f"SET poll_store = memcached {cache.address}"))
    await publish(pbal, "a", b"one")
    assert told(await poll(pbal, "a"))[0] == {"a": ["one"]}
    assert await pbal.say("SET chat poll_keep = taken") == "OK"
    assert json.loads((await poll(pbal, "a", seconds="2")).body) == {"queues": {"a": ["one"]}}
    await publish(pbal, "a", b"two")
    assert await pbal.say("SET chat poll_keep = ttl") == "OK"
    assert told(await poll(pbal, "a"))[0] == {"a": ["two"]}


@lab
async def test_another_store_live_takes_messages_and_readers_along(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(kept("taken"))
    await publish(pbal, "a", b"one")
    assert await pbal.say("SET chat poll_store = memcached 127.0.0.1:1") == "OK"  # nobody is there
    await asyncio.sleep(0.2)
    assert await pbal.say("SET chat poll_store = memory") == "OK"
    await until(lambda: b"poll:a" in pbal.plugin("chat").hub.store.content, "it to be back")
    assert await pbal.say(f"SET chat poll_store = memcached {cache.address}") == "OK"
    assert json.loads((await poll(pbal, "a", seconds="5")).body) == {"queues": {"a": ["one"]}}
    assert pbal.counts["poll_lost"] == 0


@lab
async def test_what_a_newcomers_look_finds_reaches_those_who_came_before(lab: Lab) -> None:
    """No watch and no sweep: its look is the first that sees the message."""
    cache = await lab.memcached()
    client = cache.client()
    pbal = await lab.pbal(kept("ttl", f"SET poll_store = memcached {cache.address}", "SET poll_watch = off", "SET poll_interval = 600s"))
    early, _ = await park(pbal, "/poll/a")
    await until(lambda: client.get("poll:a") is not None, "the early one's look has begun the queue")
    put(client, b"poll:a", b"one\n")
    newcomer, _ = await park(pbal, "/poll/a")
    for reader in (newcomer, early):
        assert told(await read_response(reader))[0] == {"a": ["one"]}


@lab
async def test_who_comes_back_gets_what_came_while_nobody_waited(lab: Lab) -> None:
    """No sweep. The watch said so when nobody was there to be told."""
    cache = await lab.memcached()
    client = cache.client()
    pbal = await lab.pbal(kept("ttl", f"SET poll_store = memcached {cache.address}", "SET poll_interval = 600s"))
    reader, _ = await park(pbal, "/poll/a")
    (watcher,) = pbal.plugin("chat").hub.store.courier.watchers
    await until(lambda: watcher.state == "live", "the watch is live")
    put(client, b"poll:a", b"0\n")
    _, position, _ = told(await read_response(reader))

    def seen() -> tuple[int, int]:  # a line, or that the stream broke on a busy machine and missed one
        return pbal.counts["poll_watch_lines"], watcher.attempt

    def changed(before: tuple[int, int]) -> bool:
        return seen() != before

    for number in range(1, 10):
        before = seen()
        put(client, b"poll:a", b"%d\n" % number)
        await until(partial(changed, before), "the watch saw it")
        queues, position, gaps = told(await poll(pbal, "a", position, "20"))
        assert (queues, gaps) == ({"a": [str(number)]}, [])
