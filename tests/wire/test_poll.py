"""Polls over the wire, on the memory store: every way in and out, formats, names, CORS, publish, console."""

import asyncio
import json
from typing import Any

import pytest
from lab import Lab, lab, read_response, until
from polls import conf, empty, get, park, publish

from pbal.api import ManualClock
from pbal.plugins.poll.memory import MemoryStore


@lab
async def test_a_parked_poll_is_answered_by_a_publish_in_the_same_turn(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    reader, _ = await park(pbal, "/poll/alice")
    answer = await publish(pbal, "alice", b"hello")
    assert answer.status == 202
    assert json.loads(answer.body) == {"queue": "alice", "bytes": 5, "parked": 1}
    response = await read_response(reader)
    assert (response.status, response.body) == (200, b"hello\n")
    assert response.fields["cache-control"] == "no-store"
    assert empty(pbal)
    assert pbal.counts["poll_answered"] == 1


@lab
async def test_messages_wait_for_a_poll_in_order(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    for text in (b"one", b"two", b"three"):
        assert json.loads((await publish(pbal, "a", text)).body)["parked"] == 0
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"one\ntwo\nthree\n"
    assert empty(pbal)


@lab
async def test_after_its_timeout_a_poll_gets_the_empty_answer_and_the_connection_goes_on(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_timeout = 100ms"))
    reader, writer = await park(pbal, "/poll/a")
    assert (await read_response(reader)).status == 204
    await publish(pbal, "a", b"x")
    writer.write(get("/poll/a"))
    assert (await read_response(reader)).body == b"x\n"
    assert pbal.counts["poll_empty"] == 1


@lab
async def test_a_room_in_which_there_is_always_somebody_to_tell_keeps_nobody_beyond_its_time(lab: Lab) -> None:
    """Whose time is over may be one whose credential is."""
    pbal = await lab.pbal(conf("SET poll_timeout = 100ms"))
    turns, busy = pbal.plugin("chat").hub.turns, True

    def tell() -> None:
        if busy:
            turns.each([None] * 200, lambda reader: None, tell, frozenset({b"poll:room"}))

    tell()
    try:
        reader, _ = await park(pbal, "/poll/a")
        await pbal.until("poll_empty", 1)
        assert turns.busy
    finally:
        busy = False
    assert (await read_response(reader)).status == 204


@lab
async def test_a_client_that_leaves_leaves_nothing_behind(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    _, writer = await park(pbal, "/poll/a")
    writer.close()
    await pbal.until("poll_gone", 1)
    assert empty(pbal)
    await publish(pbal, "a", b"kept")
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"kept\n"


@lab
async def test_a_client_gone_before_its_answer_was_read_by_the_kernel_loses_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    await park(pbal, "/poll/a")
    poll = pbal.plugin("chat").hub.lot.waiting(b"poll:a")[0]
    poll.client.transport.abort()  # gone, and not yet told
    assert json.loads((await publish(pbal, "a", b"m")).body)["bytes"] == 1
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"m\n"


@pytest.mark.parametrize("duplicate", ["newest", "oldest", "all"])
def test_a_second_poll_on_a_queue(duplicate):
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf(f"SET poll_duplicate = {duplicate}"))
        first, _ = await park(pbal, "/poll/a")
        second, writer = await pbal.connect("chat")
        writer.write(get("/poll/a"))
        if duplicate == "oldest":
            assert (await read_response(second)).status == 409
            await publish(pbal, "a", b"m")
            assert (await read_response(first)).body == b"m\n"
            return
        await pbal.until("poll_parked_ever", 2)
        if duplicate == "newest":
            answer = await read_response(first)
            assert (answer.status, answer.body) == (409, b"A newer poll waits for this queue.\n")
            assert pbal.counts["poll_superseded"] == pbal.counts["poll_slowed"] == 1
        await publish(pbal, "a", b"m")
        assert (await read_response(second)).body == b"m\n"
        if duplicate == "all":
            assert (await read_response(first)).body == b"m\n"
        assert empty(pbal)

    run()


@lab
async def test_a_poll_waits_on_several_queues(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_queue = query:q uri:queue", "SET poll_format = json"))
    reader, _ = await park(pbal, "/poll/x?q=a&q=b&q=a")
    await publish(pbal, "b", b"m")
    assert json.loads((await read_response(reader)).body) == {"queues": {"b": ["m"]}}
    await publish(pbal, "a", b"1")
    await publish(pbal, "b", b"2")
    answer = await pbal.ask("chat", get("/poll/x?q=a&q=b"))
    assert json.loads(answer.body) == {"queues": {"a": ["1"], "b": ["2"]}}
    assert empty(pbal)


@lab
async def test_too_many_and_impossible_queues_are_refused(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_queue = query:q uri:queue"))
    many = "&".join(f"q=n{number}" for number in range(33))
    for path in (f"/poll/x?{many}", "/poll/a%20b", "/poll/a%00", "/poll/" + "x" * 250, "/poll/%FF"):
        assert (await pbal.ask("chat", get(path))).status == 400
    assert (await publish(pbal, "a%0Ab", b"x")).status == 400
    assert (await publish(pbal, "a", b"")).status == 400


@pytest.mark.parametrize(
    ("form", "framing", "stored", "status", "body"),
    [
        ("raw", "newline", b"a\nb\n", 200, b"a\nb\n"),
        ("lines", "netstring", b"1:a,3:b\nc,", 200, b"a\nb c\n"),
        ("xml", "none", b"<m>1</m><m>2</m>", 200, b'<messages><queue name="q"><m>1</m><m>2</m></queue></messages>'),
        ("json", "newline", b"a\n\xff\n", 200, b'{"queues": {"q": ["a", {"base64": "/w=="}]}}'),
        ("json", "netstring", b"not framed", 200, b'{"queues": {"q": ["not framed"]}}'),
        ("raw", "newline", b"", 204, b""),
        ("lines", "newline", b"", 200, b""),
        ("xml", "newline", b"", 200, b"<messages></messages>"),
        ("json", "newline", b"", 200, b'{"queues": {}}'),
    ],
)
def test_formats(form, framing, stored, status, body):
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf(f"SET poll_format = {form}", f"SET poll_framing = {framing}", "SET poll_timeout = 100ms"))
        if stored:
            pbal.plugin("chat").hub.store.append(b"poll:q", stored, lambda error: None)
        answer = await pbal.ask("chat", get("/poll/q"))
        assert (answer.status, answer.body) == (status, body)
        assert pbal.counts["poll_misframed"] == (stored == b"not framed")

    run()


@lab
async def test_the_historical_shape_an_xml_body_naming_several_chats(lab: Lab) -> None:
    pbal = await lab.pbal(
        conf("SET poll_queue = xml:chat xml:user/@name", "SET poll_format = xml", "SET poll_framing = none", "SET poll_methods = POST")
    )
    for chat, text in (("lobby", b"<m>1</m>"), ("garden", b"<m>2</m>"), ("ann", b"<m>3</m>")):
        await publish(pbal, chat, text)
    body = b'<?xml version="1.0"?><poll><user name="ann"/><chat>lobby</chat><chat> garden </chat></poll>'
    answer = await pbal.ask("chat", get("/poll/now", method="POST", body=body))
    assert answer.body == b'<messages><queue name="lobby"><m>1</m></queue><queue name="garden"><m>2</m></queue></messages>'
    assert answer.fields["content-type"].startswith("application/xml")
    answer = await pbal.ask("chat", get("/poll/now", method="POST", body=b'<poll><user name="ann"/></poll>'))
    assert b"<m>3</m>" in answer.body
    assert (await pbal.ask("chat", get("/poll/now"))).status == 405


@pytest.mark.parametrize(
    "body",
    [
        b"<poll><chat>lobby</poll>",
        b'<!DOCTYPE p [<!ENTITY a "lobby">]><poll><chat>&a;</chat></poll>',
        b'<!DOCTYPE p [<!ENTITY a SYSTEM "file:///etc/passwd">]><poll><chat>&a;</chat></poll>',
        b"<poll/>",
        b"",
        b"\xff\xfe",
    ],
)
def test_xml_that_is_not_taken(body):
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf("SET poll_queue = xml:chat", "SET poll_methods = POST"))
        answer = await pbal.ask("chat", get("/poll/now", method="POST", body=body))
        assert answer.status == 400
        assert b"root:" not in answer.body

    run()


@pytest.mark.parametrize(
    ("source", "request_bytes"),
    [
        ("header:X-Queue", get("/poll/x", "X-Queue: me")),
        ("cookie:user", get("/poll/x", "Cookie: a=b; user=me")),
        ("json:user.queues", get("/poll/x", method="POST", body=b'{"user": {"queues": ["me"]}}')),
        ("xml:chat json:user", get("/poll/x", method="POST", body=b'{"user": "me"}')),
        ("json:user xml:chat", get("/poll/x", method="POST", body=b"<p><chat>me</chat></p>")),
        ("query:q", get("/poll/x?a=1&q=me")),
    ],
)
def test_sources_of_names(source, request_bytes):
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf(f"SET poll_queue = {source}", "SET poll_publish_uri = ^/publish/(?P<queue>.+)$"))
        await publish(pbal, "me", b"m")
        assert (await pbal.ask("chat", request_bytes)).body == b"m\n"
        assert (await pbal.ask("chat", get("/poll/x"))).status == 400

    run()


@lab
async def test_limits_of_bodies_and_of_the_lot(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_body = 10", "SET poll_max_parked = 1", "SET poll_max_queue = 20"))
    assert (await pbal.ask("chat", get("/poll/a", method="POST", body=b"x" * 11))).status == 413
    chunked = b"POST /poll/a HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"
    assert (await pbal.ask("chat", chunked)).status == 413
    assert (await publish(pbal, "a", b"x" * 21)).status == 413
    await park(pbal, "/poll/a")
    answer = await pbal.ask("chat", get("/poll/b"))
    assert answer.status == 503
    assert "retry-after" in answer.fields
    assert pbal.counts["poll_full"] == 1


@lab
async def test_a_queue_that_is_too_long_loses_its_oldest_whole_messages_and_says_so(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_queue = 20"))
    for number in range(10):
        await publish(pbal, "a", b"number%d" % number)
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"number8\nnumber9\n"
    assert pbal.counts["poll_evicted"] == 8


@lab
async def test_the_memory_limit_drops_the_queue_stored_to_longest_ago(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_memory_limit = 65", "SET poll_timeout = 100ms"))
    for queue in ("a", "b", "c", "a", "d"):
        await publish(pbal, queue, b"0123456789")
    assert pbal.counts["poll_evicted"] == 1
    assert (await pbal.ask("chat", get("/poll/b"))).status == 204
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"0123456789\n" * 2


@lab
async def test_cors(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_allow_origin = https://good.example", "SET poll_timeout = 100ms"))
    preflight = get("/poll/a", "Origin: https://good.example", "Access-Control-Request-Method: GET",
                    "Access-Control-Request-Headers: x-a, x-b", method="OPTIONS")  # fmt: skip
    answer = await pbal.ask("chat", preflight)
    assert answer.status == 204
    assert answer.fields["access-control-allow-origin"] == "https://good.example"
    assert answer.fields["access-control-allow-headers"] == "x-a, x-b"
    refused = await pbal.ask("chat", preflight.replace(b"good", b"evil"))
    assert refused.status == 403 and "access-control-allow-origin" not in refused.fields
    answer = await pbal.ask("chat", get("/poll/a", "Origin: https://good.example"))
    assert answer.fields["access-control-allow-origin"] == "https://good.example"
    assert "Origin" in answer.fields["vary"]
    assert "access-control-allow-origin" not in (await pbal.ask("chat", get("/poll/a", "Origin: https://evil.example"))).fields


@lab
async def test_refusals_are_not_cached_and_readable_across_origins(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_allow_origin = https://good.example", "SET poll_publish_from = 10.0.0.0/8"))
    origin = "Origin: https://good.example"
    for request, status in (
        (get("/poll/" + "x" * 300, origin), 400),
        (get("/poll/a", origin, method="DELETE"), 405),
        (get("/publish/a", origin, method="PATCH"), 405),
        (get("/publish/a", origin, method="POST", body=b"m"), 403),
    ):
        answer = await pbal.ask("chat", request)
        assert (answer.status, answer.fields["cache-control"]) == (status, "no-store")
        assert answer.fields["access-control-allow-origin"] == "https://good.example"


@lab
async def test_another_key_prefix_takes_the_messages_along(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    await publish(pbal, "a", b"m")
    reader, _ = await park(pbal, "/poll/b")
    assert await pbal.say("SET chat.poll_key_prefix = chats:2026:") == "OK"
    assert (await read_response(reader)).status == 204
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"m\n"
    reader, _ = await park(pbal, "/poll/b")
    await publish(pbal, "b", b"n")
    assert (await read_response(reader)).body == b"n\n"
    assert empty(pbal) and pbal.plugin("chat").hub.store.size == 0


@lab
async def test_a_queue_nobody_collects_ends_with_its_ttl(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_ttl = 10s"))
    clock = ManualClock()
    store = MemoryStore(pbal.plugin("chat").hub)
    store._now = clock.now  # the plugin's own runs with the time of day
    failures: list[object] = []
    store.append(b"a", b"old", failures.append)
    store.append(b"b", b"old", failures.append)
    clock.advance(10.5)
    seen: list[Any] = []
    store.look(b"a", seen.append)
    store.append(b"a", b"new", failures.append)
    assert not store.expire(), "no more than one look's worth"
    for key in (b"a", b"b"):
        store.look(key, seen.append)
    assert [what.value for what in seen] == [b"", b"new", b""]
    assert store.size == len(b"anew") and failures == [None] * 3
    assert pbal.counts["poll_expired_queues"] == 2, "one that was stored to again, one that was not"


@lab
async def test_another_ttl_holds_for_what_is_there(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    await publish(pbal, "a", b"m")
    assert await pbal.say("SET chat.poll_ttl = 1s") == "OK"
    store = pbal.plugin("chat").hub.store
    for held in store.content.values():
        held.stored -= 2
    assert (await pbal.ask("chat", get("/poll/a?timeout=0"))).status == 204


@lab
async def test_who_may_publish(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_publish_from = 10.0.0.0/8"))
    assert (await publish(pbal, "a", b"x")).status == 403
    assert (await pbal.say("SET chat poll_publish_from = 127.0.0.1")) == "OK"
    assert (await publish(pbal, "a", b"x")).status == 202
    assert (await pbal.ask("chat", get("/publish/a", method="PUT"))).status == 405


@lab
async def test_requests_pipelined_behind_a_poll_are_served_after_it(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/a") + get("/nothing"))
    await pbal.until("poll_parked", 1)
    await publish(pbal, "a", b"m")
    assert (await read_response(reader)).body == b"m\n"
    assert (await read_response(reader)).status == 404


@lab
async def test_an_http_1_0_poll(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_format = lines"))
    await publish(pbal, "a", b"m")
    reader, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/a HTTP/1.0\r\n\r\n")
    answer = await read_response(reader)
    assert answer.body == b"m\n" and answer.fields["connection"] == "close"
    assert await reader.read() == b""


@lab
async def test_disable_answers_parked_polls_empty(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    reader, _ = await park(pbal, "/poll/a")
    other, _ = await park(pbal, "/poll/b")
    assert await pbal.say("DISABLE chat") == "OK"
    for waiting in (reader, other):
        answer = await read_response(waiting)
        assert (answer.status, answer.fields["connection"]) == (204, "close"), "or it would poll on, on a service that is off"
        assert await waiting.read() == b""
    assert empty(pbal)
    assert await pbal.say("ENABLE chat") == "OK"
    await publish(pbal, "a", b"m")
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"m\n"


@lab
async def test_the_console_sees_and_steers_polls(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    first, _ = await park(pbal, "/poll/a")
    second, _ = await park(pbal, "/poll/b")
    third, _ = await park(pbal, "/poll/c")
    *lines, end = (await pbal.say("show parked")).split("\n")
    rows = [line.split() for line in lines]
    assert sorted(row[:3] for row in rows) == [["1", "chat", "a"], ["2", "chat", "b"], ["3", "chat", "c"]] and end == "."
    seconds_left = [int(row[5].removesuffix("s")) for row in rows]
    assert seconds_left == sorted(seconds_left), "in the order of their end"
    assert (await pbal.say("show parked chat like b limit 5")).split()[2] == "b"
    assert len(json.loads(await pbal.say("show parked AS JSON"))) == 3
    assert (await pbal.say("show parked summary")).startswith("chat parked 3 queues 3")
    assert await pbal.say("poll answer a hi there") == "OK"
    assert (await read_response(first)).body == b"hi there\n"
    assert await pbal.say("poll answer 2") == "OK"
    assert (await read_response(second)).status == 204
    assert await pbal.say("poll kick c") == "OK"
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await read_response(third)
    assert (await pbal.say("poll kick c")).startswith("ERROR: no poll is parked")
    fourth, _ = await park(pbal, "/poll/lobby")
    assert "did you mean 'lobby'?" in await pbal.say("poll answer loby")
    assert await pbal.say("poll answer lobby") == "OK"
    assert (await read_response(fourth)).status == 204
    assert '"parked": 0' in await pbal.say("poll publish chat d some text")
    assert "'some text'" in await pbal.say("show queue chat d")
    assert (await pbal.ask("chat", get("/poll/d"))).body == b"some text\n"
    assert (await pbal.say("show store")).startswith("chat memory up")
    assert await pbal.say("poll wake d") == "OK"
    assert empty(pbal)


@lab
async def test_settings_that_do_not_fit_are_refused_and_change_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    assert "no group" in await pbal.say("SET chat poll_uri = ^/poll/$")
    assert "expected KIND:NAME" in await pbal.say("SET chat poll_queue = body:x")
    assert "expected memory" in await pbal.say("SET chat poll_store = redis 127.0.0.1:1")
    assert "50ms or more" in await pbal.say("SET chat poll_interval = 1ms")
    for path in ("xml:a[", "xml:user/@", "xml:/poll/user["):
        assert "expected a path such as xml:user/chat" in await pbal.say(f"SET chat poll_queue = {path}")
    for origin in ("https://a.example/", "https://A.example", "a.example", "https://a.example:443"):
        assert "expected an origin" in await pbal.say(f"SET chat poll_allow_origin = {origin}")
    assert "did you mean" not in await pbal.say("SET chat poll_store = memcached")
    await publish(pbal, "a", b"m")
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"m\n"


@lab
async def test_a_reverse_proxy_holds_polls_and_relays_the_rest(lab: Lab) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split(b" ")[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    origin = await lab.origin(app)
    pbal = await lab.pbal(f"""
        LOAD poll
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE chat
          SET role             = reverse_proxy
          SET listen           = 127.0.0.1:0
          SET pool             = app
          SET plugins          = poll
          SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
          SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
        ENABLE chat
    """)
    reader, _ = await park(pbal, "/poll/a")
    assert (await pbal.ask("chat", get("/app?x=1"))).body == b"/app?x=1"
    assert (await pbal.ask("chat", get("/form", method="POST", body=b"abc"))).body == b"/form"
    await publish(pbal, "a", b"m")
    assert (await read_response(reader)).body == b"m\n"
    assert pbal.counts["backend_connects"] == 1, "the poll asked for none, the two others share one"


@lab
async def test_fifteen_hundred_polls_are_listed_in_pieces_and_answered(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_duplicate = all"))
    connections = [await pbal.connect("chat") for _ in range(1500)]
    for _, writer in connections:
        writer.write(get("/poll/everybody"))
    await pbal.until("poll_parked", 1500)
    assert len((await pbal.say("show parked")).split("\n")) == 1501
    await publish(pbal, "everybody", b"m")
    bodies = await asyncio.gather(*(read_response(reader) for reader, _ in connections))
    assert all(response.body == b"m\n" for response in bodies)
    await until(lambda: empty(pbal), "an empty lot")


@lab
async def test_a_pattern_that_may_run_away_is_warned_of(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    warned = await pbal.say(r"SET chat.poll_uri = ^/poll/(?P<queue>(\w+)+)$")
    assert warned.startswith("warning: poll_uri: it repeats what is repeated itself")
    assert await pbal.say("SET chat.poll_publish_uri = off") == "OK"
    assert (await pbal.ask("chat", get("/poll/a?timeout=0"))).status == 204


@lab
async def test_the_end_says_what_goes_with_the_memory_store(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await lab.pbal(conf())
    await publish(pbal, "a", b"one")
    await publish(pbal, "b", b"two")
    await pbal.server.shutdown(graceful=True, seconds=1)
    await pbal.server.close()
    assert "service chat: the memory store ends, and with it 8 bytes in 2 queues" in caplog.text
