"""What a hostile client, a tired operator and a newcomer found: each once, over the wire."""

import asyncio
import json
import re
import socket
import struct
from typing import Any

import pytest
from lab import DEADLINE, Lab, Pbal, free_port, lab, read_response, transport_of, until
from polls import conf, empty, get, held, park, publish
from sockets import HANDSHAKE, ask, closed, frame, heard, next_frame, opened, raw

from pbal.api import resident_bytes
from pbal.plugins.poll.lanes import MOST_TAKES

STREAM = "Accept: text/event-stream"
KEPT = ("SET poll_keep = ttl", "SET poll_queue = query:q uri:queue", "SET poll_format = json")


async def stream(pbal: Pbal, path: str, *fields: str) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream of events, its head read; the status."""
    reader, writer = await pbal.connect("chat")
    writer.write(get(path, STREAM, *fields))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
    return int(head.split()[1]), reader, writer


def reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the peer sees a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport_of(writer).abort()


# -- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "status"), [
    ("poll_max_parked = 2", 503), ("poll_max_by_address = 2", 429), ("poll_max_by_queue = 2", 429),
])  # fmt: skip
def test_a_stream_with_something_to_say_at_once_is_held_to_the_limits(limit: str, status: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf(*KEPT, f"SET {limit}"))
        await publish(pbal, "a", b"m")
        assert [(await stream(pbal, "/poll/a"))[0] for _ in range(4)] == [200, 200, status, status]
        assert pbal.counts["poll_parked"] == pbal.counts["poll_streams"] == 2
        assert (await pbal.ask("chat", get("/poll/a"))).body.startswith(b'{"queues": {"a": ["m"]}')  # answered at once, parked never

    run()


@lab
async def test_a_stream_that_finds_a_message_supersedes_the_earlier_one(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT, "SET poll_duplicate = newest"))
    _, earlier, _ = await stream(pbal, "/poll/a")
    await publish(pbal, "a", b"m")
    _, later, _ = await stream(pbal, "/poll/a")
    assert b"event: superseded\n" in await asyncio.wait_for(earlier.readuntil(b"0\r\n\r\n"), DEADLINE)
    assert b"data: m\n" in await asyncio.wait_for(later.readuntil(b"data: m\n"), DEADLINE)
    assert pbal.counts["poll_streams"] == 1


@lab
async def test_a_socket_subscribes_within_the_limit_of_a_queue(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_duplicate = all", "SET poll_max_by_queue = 1", "SET poll_socket_allow = subscribe"))
    first, second = await opened(pbal, "/poll/a"), await opened(pbal, "/poll/b")
    assert await ask(second, subscribe=["c", "a"], id=1) == {"id": 1, "error": "Too many polls are parked for this queue."}
    assert await ask(first, subscribe=["c"]) == {"subscribed": ["c"]}
    assert pbal.counts["poll_limited"] == 1 and pbal.plugin("chat").hub.lot.number(b"poll:a") == 1


# -- what cannot be is said --------------------------------------------------------------------------------------


@lab
async def test_a_message_that_no_queue_has_room_for_is_refused_everywhere(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_queue = 10", "SET poll_socket_allow = publish"))
    client = await opened(pbal, "/poll/b")
    assert (await publish(pbal, "a", b"123456789")).status == 202
    refused = await publish(pbal, "a", b"1234567890")  # and its line feed
    assert refused.status == 413 and b"11 bytes with its framing, and a queue holds 10" in refused.body
    assert "a queue holds 10" in (await ask(client, publish={"queue": "a", "message": "x" * 10}))["error"]
    assert "a queue holds 10" in await pbal.say("poll publish chat a 1234567890")
    assert held(pbal, b"poll:a") == b"123456789\n" and pbal.counts["poll_evicted"] == 0 and pbal.counts["poll_published"] == 1


@lab
async def test_a_list_with_one_message_that_cannot_be_stores_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_queue = 200").replace("^/publish/(?P<queue>[^/]+)$", "^/publish/(?P<queue>[^/]*)$"))
    good = {"queue": "a", "message": "m"}
    for bad, status in (
        ({"queue": "a b", "message": "m"}, 400), ({"queue": "a", "message": "half a pair: \ud800"}, 400),
        ({"queue": "a", "message": "x" * 200}, 413), ({"queue": "a"}, 400), (["a", "m"], 400), ({"queue": "\ud800", "message": "m"}, 400),
    ):  # fmt: skip
        body = json.dumps([good, bad])[:-1].encode() + b"]"
        answer = await pbal.ask("chat", get("/publish/", "Content-Type: application/json", method="POST", body=body))
        assert answer.status == status, bad
    assert held(pbal, b"poll:a") == b""


@lab
async def test_a_message_with_no_room_beside_the_header_of_its_queue_is_refused(lab: Lab) -> None:
    cache = await lab.memcached("-I", "2k", "-o", "slab_chunk_max=1024")
    pbal = await lab.pbal(conf(*KEPT, f"SET poll_store = memcached {cache.address}"))
    assert (await publish(pbal, "a", b"first")).status == 202
    refused = await publish(pbal, "a", b"x" * 1600)
    assert refused.status == 413 and b"beside a queue's header" in refused.body
    assert (await pbal.ask("chat", get("/poll/a"))).body.startswith(b'{"queues": {"a": ["first"]}')
    assert pbal.counts["poll_evicted"] == 0


# -- floods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pongs", "empty parts", "parts of a character"])
def test_a_flood_of_frames_is_bounded(what: str) -> None:
    """Faster than it is carried out, and never so much at a time that it looks like it: what waits for its turn is counted all the same."""

    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf())
        reader, writer = await raw(pbal)
        if what != "pongs":
            writer.write(frame(1, b"", fin=False))
        octets = {"pongs": frame(10, b""), "empty parts": frame(0, b"", fin=False), "parts of a character": frame(0, b"x", fin=False)}
        burst = octets[what] * (65536 // len(octets[what]))
        before = resident_bytes()

        async def send() -> None:
            while not reader.at_eof():
                writer.write(burst)
                await asyncio.sleep(0)  # less than 256 KB a turn of the loop

        sending = asyncio.ensure_future(send())
        assert (await next_frame(reader))[0] == 8
        sending.cancel()
        assert pbal.counts["poll_parked"] == 0 and resident_bytes() - before < 50 << 20

    run()


@lab
async def test_parts_without_end_take_no_memory(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_socket_allow = publish"))
    reader, writer = await raw(pbal)
    writer.write(frame(1, b"", fin=False))
    for _ in range(100):
        writer.write(frame(0, b"", fin=False) * 1000 + frame(9, b"so far"))
        while (heard := await next_frame(reader))[0] == 9:  # it asks, too, where this takes long
            writer.write(frame(10, heard[1]))
        assert heard == (10, b"so far")
    (record,) = pbal.plugin("chat").hub.lot
    assert len(record._parts) <= 64
    for octet in json.dumps({"publish": {"queue": "b", "message": "x" * 500}}).encode():
        writer.write(frame(0, bytes([octet]), fin=False))
    writer.write(frame(0, b""))
    assert json.loads((await next_frame(reader))[1])["receipt"]["bytes"] == 500


# -- rights that change while somebody waits ---------------------------------------------------------------------


@lab
async def test_who_waits_is_judged_anew_when_poll_auth_is_set(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_socket_allow = publish subscribe"))
    client = await opened(pbal, "/poll/a")
    _, events, _ = await stream(pbal, "/poll/b")
    reader, _ = await park(pbal, "/poll/c")
    key = lab.folder / "key"
    key.write_text("k" * 40)
    assert await pbal.say(f"SET chat.poll_auth = jwt {key}") == "OK"
    assert await closed(client) == 1001
    assert await asyncio.wait_for(events.readuntil(b"0\r\n\r\n"), DEADLINE)
    assert (await read_response(reader)).status == 204
    assert empty(pbal) and (await pbal.ask("chat", get("/poll/c"))).status == 401


@lab
async def test_a_socket_publishes_as_long_as_its_address_may(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_socket_allow = publish"))
    client = await opened(pbal, "/poll/a")
    assert "receipt" in await ask(client, publish={"queue": "b", "message": "m"})
    assert await pbal.say("SET chat.poll_publish_from = 10.0.0.0/8") == "OK"
    assert await ask(client, publish={"queue": "b", "message": "m"}) == {"error": "this socket may not publish"}
    assert await pbal.say("RELOAD poll") == "OK"
    assert await pbal.say("SET chat.poll_publish_from = 127.0.0.0/8") == "OK"
    assert "receipt" in await ask(client, publish={"queue": "b", "message": "m"})


# -- handshakes --------------------------------------------------------------------------------------------------


@lab
async def test_an_upgrade_that_http_1_0_asks_for_is_a_poll(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    octets = get("/poll/a?timeout=0", *HANDSHAKE).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert (await pbal.ask("chat", octets)).status == 204
    refused = await pbal.ask("chat", get("/poll/a", *HANDSHAKE[:3], "Sec-WebSocket-Version: 8"))
    assert refused.status == 400 and refused.fields["sec-websocket-version"] == "13"


# -- kept queues of the memory store -----------------------------------------------------------------------------


@lab
async def test_a_reader_of_a_quiet_queue_is_told_of_no_gap_that_was_none(lab: Lab) -> None:
    """Parked for longer than poll_ttl, or away for less than that: nothing was lost, so nothing is said."""
    pbal = await lab.pbal(conf(*KEPT, "SET poll_ttl = 1s"))
    client = await opened(pbal, "/poll/a")
    position = ""
    for _ in range(7):
        answer = json.loads((await pbal.ask("chat", get(f"/poll/b?timeout=0.5s&position={position}"))).body)
        assert "gap" not in answer and answer["position"]
        position = answer["position"]
    await publish(pbal, "a", b"m")
    told = await heard(client)
    assert told["queues"] == {"a": ["m"]} and "gap" not in told
    await publish(pbal, "b", b"m")
    answer = json.loads((await pbal.ask("chat", get(f"/poll/b?position={position}"))).body)
    assert answer["queues"] == {"b": ["m"]} and "gap" not in answer


@lab
async def test_messages_grow_old_though_their_queue_is_read(lab: Lab) -> None:
    """Also those that came before their age was looked at: poll_keep was taken then."""
    pbal = await lab.pbal(conf("SET poll_ttl = 1s", "SET poll_format = json"))
    await publish(pbal, "a", b"old")
    assert await pbal.say("SET chat.poll_keep = ttl") == "OK"
    assert (await pbal.ask("chat", get("/poll/a"))).body.startswith(b'{"queues": {"a": ["old"]}')
    await opened(pbal, "/poll/a")
    for _ in range(8):  # each is a quarter of a second or more, and a message goes when it is poll_ttl and a quarter old
        await pbal.ask("chat", get("/poll/b?timeout=0.5s"))
    assert (await pbal.ask("chat", get("/poll/a?timeout=0"))).body.startswith(b'{"queues": {}, ')


# -- confirmed, on memcached -------------------------------------------------------------------------------------


async def confirming(lab: Lab) -> tuple[Pbal, Any]:
    cache = await lab.memcached()
    more = (f"SET poll_store = memcached {cache.address}", "SET poll_keep = confirmed", "SET poll_format = json", "SET poll_watch = off")
    pbal = await lab.pbal(conf(*more, "SET poll_interval = 1h"))
    return pbal, pbal.plugin("chat").hub.store.courier.lanes[0]


@lab
async def test_a_confirmation_holds_though_the_queue_is_woken_at_that_moment(lab: Lab) -> None:
    pbal, lane = await confirming(lab)
    await publish(pbal, "a", b"one")
    position = json.loads((await pbal.ask("chat", get("/poll/a"))).body)["position"]
    welcome = lane.welcome

    def woken(key: bytes, reader: Any) -> None:
        welcome(key, reader)
        lane.wake(key)

    lane.welcome = woken
    await publish(pbal, "a", b"two")
    assert b'["two"]' in (await pbal.ask("chat", get(f"/poll/a?position={position}"))).body
    lane.welcome = welcome
    await until(lambda: not lane._busy)
    assert b'["two"]' in (await pbal.ask("chat", get("/poll/a"))).body


@lab
async def test_what_was_only_sent_is_not_confirmed(lab: Lab) -> None:
    pbal, lane = await confirming(lab)
    await publish(pbal, "a", b"one")
    position = json.loads((await pbal.ask("chat", get("/poll/a"))).body)["position"]
    await publish(pbal, "a", b"two")
    welcome, loop = lane.welcome, asyncio.get_running_loop()

    def late(key: bytes, reader: Any) -> None:
        """All are told in the moment in which this one comes."""
        lane.wake(key)
        loop.call_soon(loop.call_soon, welcome, key, reader)

    lane.welcome = late
    _, reader, writer = await stream(pbal, f"/poll/a?position={position}")
    await asyncio.wait_for(reader.readuntil(b"data: two\n"), DEADLINE)
    await until(lambda: not lane._busy and not lane._pending)
    writer.transport.abort()
    lane.welcome = welcome
    await pbal.until("poll_parked", 0)
    assert b'["two"]' in (await pbal.ask("chat", get(f"/poll/a?position={position}"))).body


@lab
async def test_who_leaves_before_its_look_leaves_nothing_behind(lab: Lab) -> None:
    """memcached hangs, and clients come and go."""
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(*KEPT, f"SET poll_store = memcached {cache.address}"))
    await publish(pbal, "a", b"m")
    cache.stop()
    lane = pbal.plugin("chat").hub.store.courier.lanes[0]
    writers = []
    for number in range(MOST_TAKES + 20):  # a take each, and more of them than may be in flight
        writers.append((await park(pbal, f"/poll/q{number}"))[1])
        await until(lambda: lane._takes + len(lane._pending) == len(writers))
    for writer in writers:
        writer.close()
    await pbal.until("poll_parked", 0)
    cache.cont()
    await until(lambda: not lane._pending and not lane._busy)
    assert lane._newcomers == {}


# -- statements while answers are under way ----------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_an_answer_that_is_lost_after_its_queue_became_a_kept_one(store: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        more = () if store == "memory" else (f"SET poll_store = memcached {(await lab.memcached()).address}",)
        pbal = await lab.pbal(conf("SET poll_format = json", *more))
        _, writer = await park(pbal, "/poll/a")
        transport_of(writer).pause_reading()
        await publish(pbal, "a", b"one")
        await pbal.until("poll_answered", 1)
        assert await pbal.say("SET chat.poll_keep = ttl") == "OK"
        await publish(pbal, "a", b"two")
        first = json.loads((await pbal.ask("chat", get("/poll/a?timeout=1s"))).body)
        assert first["queues"] == {"a": ["two"]}
        reset(writer)
        await pbal.until("poll_put_back", 1)
        after = json.loads((await pbal.ask("chat", get(f"/poll/a?timeout=2s&position={first['position']}"))).body)
        assert after["queues"] == {"a": ["one"]} and "gap" not in after

    run()


@lab
async def test_who_waits_to_supersede_does_so_after_a_reload(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    earlier, _ = await park(pbal, "/poll/a")
    await park(pbal, "/poll/a")
    assert pbal.counts["poll_slowed"] == 1 and await pbal.say("RELOAD poll") == "OK"
    assert (await read_response(earlier)).status == 409
    assert pbal.counts["poll_parked"] == 1


@lab
async def test_a_stream_of_the_queue_that_tells_its_own_join(lab: Lab) -> None:
    """Something comes for it before it is open."""
    pbal = await lab.pbal(conf(*KEPT, "SET poll_presence = on", "SET poll_presence_queue = here"))
    await publish(pbal, "here", b"before")
    _, reader, _ = await stream(pbal, "/poll/x?q=a&q=here")
    told = await asyncio.wait_for(reader.readuntil(b'"join"'), DEADLINE)
    assert b"data: before\n" in told and b'"queue": "a"' in told


# -- crowds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "most", "number"), [((), "100k", 600), (("-I", "2k", "-o", "slab_chunk_max=1024"), "100k", 60)])
def test_many_messages_at_once_for_a_queue_that_is_full(options: tuple[str, ...], most: str, number: int) -> None:
    """Full by poll_max_queue, or by what memcached takes: one at a time shortens it, or all of it goes to and fro for each."""

    @lab
    async def run(lab: Lab) -> None:
        cache = await lab.memcached(*options)
        more = (f"SET poll_store = memcached {cache.address}", f"SET poll_max_queue = {most}")
        pbal = await lab.pbal(conf(*more).replace("^/publish/(?P<queue>[^/]+)$", "^/publish/(?P<queue>[^/]*)$"))
        filling = 1030 if not options else 18
        assert cache.client().set("poll:a", (b"y" * 99 + b"\n") * filling, noreply=False)
        body = json.dumps([{"queue": "a", "message": f"{place:099}"} for place in range(number)]).encode()
        answer = await pbal.ask("chat", get("/publish/", "Content-Type: application/json", method="POST", body=body))
        assert answer.status == 202 and b"error" not in answer.body
        assert pbal.counts["poll_store_errors"] == 0 and pbal.counts["poll_evicted"] > 0
        assert pbal.counts["poll_published"] == number
        kept = (await pbal.ask("chat", get("/poll/a"))).body.split()
        assert kept[-1] == b"%099d" % (number - 1) and kept == sorted(kept, key=lambda message: (message < b"y" * 99, message))

    run()


@pytest.mark.parametrize("fields", [(STREAM,), HANDSHAKE])
def test_streams_that_come_and_go_leave_nothing_behind(fields: tuple[str, ...]) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf("SET poll_heartbeat = 1h", "SET poll_max_by_address = 1000"))
        hub = pbal.plugin("chat").hub
        for _ in range(3):
            writers = [(await park(pbal, f"/poll/q{number}", *fields))[1] for number in range(50)]
            assert sum(map(len, hub._beats.values())) == 50
            for writer in writers:
                writer.close()
            await pbal.until("poll_parked", 0)
        assert hub._beats == {} and hub._slowed == [] and hub.limits.is_empty() and empty(pbal)
        assert pbal.counts["poll_parked_ever"] == pbal.counts["poll_gone"] == 150 and pbal.counts["poll_streams"] == 0

    run()


# -- what browsers do --------------------------------------------------------------------------------------------


@lab
async def test_a_browser_that_comes_back_goes_on_where_it_stood_though_its_uri_has_a_position(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT))
    for message in (b"1", b"2"):
        await publish(pbal, "a", message)
    _, reader, _ = await stream(pbal, "/poll/a")
    first, second = re.findall(rb"id: (\S+)\n", await asyncio.wait_for(reader.readuntil(b"data: 2\n"), DEADLINE))
    _, reader, _ = await stream(pbal, f"/poll/a?position={first.decode()}", f"Last-Event-ID: {second.decode()}")
    await publish(pbal, "a", b"3")
    assert b"data: 2" not in await asyncio.wait_for(reader.readuntil(b"data: 3\n"), DEADLINE)
    _, reader, _ = await stream(pbal, f"/poll/a?position={first.decode()}")
    assert b"data: 2" in await asyncio.wait_for(reader.readuntil(b"data: 3\n"), DEADLINE)


@pytest.mark.parametrize(("accept", "is_stream"), [
    ("text/event-stream;q=0", False), ("text/event-stream; q=0.0, */*", False), ("application/json", False),
    ("text/event-stream;q=0.1", True), ("text/event-stream;charset=utf-8, */*;q=0", True),
])  # fmt: skip
def test_who_refuses_streams_gets_none(accept: str, is_stream: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf())
        await park(pbal, "/poll/a?timeout=1s", f"Accept: {accept}")
        assert pbal.counts["poll_streams"] == is_stream

    run()


@lab
async def test_a_queue_whose_name_is_an_event_of_the_stream(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT))
    for name in ("gap", "superseded", "removed", "bad-position", "error", "open"):
        assert (await stream(pbal, f"/poll/x?q=a&q={name}"))[0] == 400
        _, reader, _ = await stream(pbal, f"/poll/{name}")  # alone, no event is named
        await publish(pbal, name, b"m")
        assert b"event:" not in await asyncio.wait_for(reader.readuntil(b"data: m\n"), DEADLINE)
    assert (await stream(pbal, "/poll/x?q=a&q=gaps"))[0] == 200


# -- streams that break ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "memcached"])
@pytest.mark.parametrize("fields", [(STREAM,), HANDSHAKE])
def test_what_a_stream_that_is_reset_did_not_take_goes_to_the_next_in_order(store: str, fields: tuple[str, ...]) -> None:
    @lab
    async def run(lab: Lab) -> None:
        more = () if store == "memory" else (f"SET poll_store = memcached {(await lab.memcached()).address}",)
        pbal = await lab.pbal(conf(*more))
        _, writer = await park(pbal, "/poll/a", *fields)
        transport_of(writer).pause_reading()
        for number in range(5):
            await publish(pbal, "a", b"%d" % number)
            await pbal.until("poll_answered", number + 1)
        reader, _ = await park(pbal, "/poll/a")  # waits behind the stream
        reset(writer)
        assert (await read_response(reader)).body == b"0\n1\n2\n3\n4\n"
        assert pbal.counts["poll_lost_answers"] == 5 and pbal.counts["plugin_errors"] == 0 and empty(pbal)
        assert pbal.counts["poll_gone"] == 1, "the stream is counted once, however many answers it lost"

    run()


# -- faults and their bounds -------------------------------------------------------------------------------------


@lab
async def test_names_that_are_made_up_push_no_message_out(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT, "SET poll_memory_limit = 100k"))
    for number in range(10):
        await publish(pbal, f"room{number}", b"m" * 1000)
    reader, writer = await pbal.connect("chat")
    for number in range(600):
        writer.write(get(f"/poll/made-up-{number}?timeout=0"))
        assert (await read_response(reader)).status == 200
    assert pbal.plugin("chat").hub.store.size <= 100 << 10 and pbal.counts["poll_evicted"] > 0
    assert [len(held(pbal, b"poll:room%d" % number)) for number in range(10)] == [1001] * 10


@lab
async def test_every_reader_that_is_told_of_a_gap_counts(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(*KEPT, "SET poll_max_queue = 30", f"SET poll_store = memcached {cache.address}"))
    position = json.loads((await pbal.ask("chat", get("/poll/a?timeout=0"))).body)["position"]
    for letter in (b"x", b"y"):
        await publish(pbal, "a", letter * 20)
    await pbal.ask("chat", get("/poll/a?timeout=0"))  # whoever looks cuts it
    connections = [await pbal.connect("chat") for _ in range(5)]
    for _, writer in connections:  # told together
        writer.write(get(f"/poll/a?position={position}"))
    assert all([b'"gap": ["a"]' in (await read_response(reader)).body for reader, _ in connections])
    assert pbal.counts["poll_gaps"] == 5


@lab
async def test_a_fault_with_one_poll_is_not_the_end_of_the_others(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_duplicate = all"))
    readers = [(await park(pbal, "/poll/a"))[0] for _ in range(300)]
    polls = pbal.plugin("chat").hub.lot.waiting(b"poll:a")
    polls[150].client = object()  # nothing that could be answered
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    await publish(pbal, "a", b"m")
    answers = [await read_response(reader) for place, reader in enumerate(readers) if place != 150]
    assert {answer.body for answer in answers} == {b"m\n"} and not pbal.plugin("chat").hub.turns.busy


@lab
async def test_who_comes_during_a_reload_that_fails_is_told_what_it_lacks(lab: Lab) -> None:
    cache = await lab.memcached()
    more = (f"SET poll_store = memcached {cache.address}", "SET poll_watch = off", "SET poll_interval = 1h")
    pbal = await lab.pbal(conf(*KEPT, *more))
    position = json.loads((await pbal.ask("chat", get("/poll/a?timeout=0"))).body)["position"]
    await opened(pbal, "/poll/a")  # the queue is known, and this one has all of it
    await publish(pbal, "a", b"m")
    plugin, came = pbal.plugin("chat"), []

    def fails() -> Any:
        raise RuntimeError("a fault in carry()")

    quiesce = plugin.quiesce

    async def quiet() -> None:
        await quiesce()
        came.append(await park(pbal, f"/poll/a?position={position}"))

    plugin.quiesce, plugin.carry = quiet, fails
    assert "a fault in carry()" in await pbal.say("RELOAD poll")
    ((reader, _),) = came
    assert b'["m"]' in (await read_response(reader)).body


@lab
async def test_what_is_given_up_is_said_once_and_counted_whole(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await lab.pbal(conf("SET poll_ttl = 1s", "SET poll_interval = 50ms"))
    for number in range(50):
        await publish(pbal, f"q{number}", b"m")
    assert await pbal.say(f"SET chat.poll_store = memcached 127.0.0.1:{free_port()}") == "OK"
    await pbal.until("poll_lost", 50)
    assert len([line for line in caplog.messages if "given up" in line]) == 1


@lab
async def test_a_path_that_would_keep_poll_uri_busy_for_ever_is_given_up(lab: Lab) -> None:
    pbal = await lab.pbal(conf(r"SET poll_uri = ^/poll/(?P<queue>(\w+)+)$", r"SET poll_publish_uri = ^/publish/(?P<queue>(\w+)+)$"))
    for number, path in enumerate(("/poll/", "/publish/"), 1):
        assert (await pbal.ask("chat", get(path + "a" * 40 + "!"))).status == 500
        assert pbal.counts["regex_timeouts"] == number and pbal.counts["plugin_errors"] == 0
    assert (await pbal.ask("chat", get("/poll/a?timeout=0"))).status in (200, 204)
    assert "takes too long" in await pbal.say(f"explain GET http://h/poll/{'a' * 40}!")
