"""Polls on a real memcached: delivery, several writers and pbals, several servers, and every kind of fault."""

import asyncio
import hashlib
import json
import random
import socket
import time
from typing import Any

import pytest
from cached import conf, park, put, request, watch_state
from hypothesis import given
from hypothesis import strategies as st
from lab import DEADLINE, Lab, Pbal, lab, read_response, until
from lab import Memcached as Cache

from pbal.plugins.poll.memcached import Server
from pbal.plugins.poll.servers import Memcached
from pbal.schema.types import Endpoint


def seconds_left(cache: Cache, key: str) -> int:
    """What is left of an item's time, as memcached itself has it."""
    with socket.create_connection(("127.0.0.1", cache.port)) as sock:
        sock.sendall(f"mg {key} t\r\n".encode())
        return int(sock.recv(100).split(b"t")[1])


@lab
async def test_a_published_message_has_the_whole_time_whenever_its_queue_began(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address))
    cache.client().set("poll:alice", b"old\n", expire=5, noreply=False)
    assert (await pbal.ask("chat", request("/publish/alice", b"new"))).status == 202
    assert seconds_left(cache, "poll:alice") > 290
    assert (await pbal.ask("chat", request("/poll/alice"))).status == 200


@lab
async def test_what_is_put_back_has_the_whole_time(lab: Lab) -> None:
    cache = await lab.memcached()
    server = Server(Endpoint("127.0.0.1", cache.port), time.monotonic, lambda: 5.0, lambda *_: None)
    cache.client().set("poll:alice", b"new\n", expire=5, noreply=False)
    assert await server.prepend(b"poll:alice", b"old\n", 300) == 8
    assert seconds_left(cache, "poll:alice") > 290
    assert cache.client().get("poll:alice") == b"old\nnew\n"
    server.close()


@lab
async def test_a_poll_ttl_that_memcached_takes_for_a_date_is_refused(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address))
    answer = await pbal.say("SET chat.poll_ttl = 721h")
    assert answer.startswith("ERROR: ") and "720h or less" in answer


@lab
async def test_a_message_stored_by_a_plain_client_reaches_the_parked_poll_through_the_watch(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 60s"))
    reader, _ = await park(pbal, "alice")
    await until(lambda: watch_state(pbal) == "live" and pbal.counts["poll_sweeps"], "the watch and the sweep it begins with")
    await until(lambda: not pbal.plugin("chat").hub.store.courier.busy, "rest: only the watch can find what comes now")
    put(cache.client(), "alice", b"hello\n")
    assert (await read_response(reader)).body == b"hello\n"
    assert pbal.counts["poll_watch_lines"] >= 1
    assert cache.client().get("poll:alice") is None


@lab
async def test_without_the_watch_the_sweep_finds_it(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_watch = off", "SET poll_interval = 50ms"))
    reader, _ = await park(pbal, "alice")
    await until(lambda: pbal.counts["poll_sweeps"] > 1, "two sweeps")  # the first look is over: only a sweep can find it
    assert json.loads(await pbal.say("show parked AS JSON"))[0]["looks"] >= 3
    assert await pbal.say("RELOAD poll") == "OK"
    assert json.loads(await pbal.say("show parked AS JSON"))[0]["looks"] >= 3
    put(cache.client(), "alice", b"hello\n")
    assert (await read_response(reader)).body == b"hello\n"


@lab
async def test_what_is_stored_already_is_found_at_the_first_look(lab: Lab) -> None:
    cache = await lab.memcached()
    client = cache.client()
    client.set("poll:a", b"one\n", flags=7, noreply=False)
    put(client, "a", b"two\n")
    pbal = await lab.pbal(conf(cache.address, "SET poll_watch = off", "SET poll_interval = 60s"))
    reader, writer = await pbal.connect("chat")
    writer.write(request("/poll/a"))
    assert (await read_response(reader)).body == b"one\ntwo\n"


@lab
async def test_publish_over_http_with_memcached(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_watch = off", "SET poll_interval = 60s"))
    assert json.loads((await pbal.ask("chat", request("/publish/a", b"m1"))).body) == {"queue": "a", "bytes": 2, "parked": 0}
    assert cache.client().get("poll:a") == b"m1\n"
    reader, _ = await pbal.connect("chat")
    assert (await pbal.ask("chat", request("/poll/a"))).body == b"m1\n"
    reader, _ = await park(pbal, "a")
    assert json.loads((await pbal.ask("chat", request("/publish/a", b"m2"))).body)["parked"] == 1
    assert (await read_response(reader)).body == b"m2\n"


@lab
async def test_messages_for_a_client_that_left_are_put_back_in_front(lab: Lab) -> None:
    cache = await lab.memcached()
    client = cache.client()
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 60s", "SET poll_watch = off"))
    await park(pbal, "a")
    courier = pbal.plugin("chat").hub.store.courier
    put(client, "a", b"first\n")
    poll = pbal.plugin("chat").hub.lot.waiting(b"poll:a")[0]
    server = courier.store.servers[0]
    original = server.delete_many

    async def take_then_leave(tokens: list[tuple[bytes, bytes]]) -> Any:
        fates = await original(tokens)
        poll.gone()  # between the take and the write
        put(client, "a", b"second\n")
        return fates

    server.delete_many = take_then_leave
    courier.wake(b"poll:a")
    await pbal.until("poll_put_back", 1)
    server.delete_many = original
    assert (await pbal.ask("chat", request("/poll/a"))).body == b"first\nsecond\n"
    assert pbal.counts["poll_lost"] == 0


@lab
async def test_memcached_killed_and_restarted_while_polls_are_parked(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 50ms", "SET poll_store_timeout = 500ms"))
    reader, _ = await park(pbal, "a")
    await until(lambda: watch_state(pbal) == "live", "the watch")
    cache.kill()
    await until(lambda: not pbal.plugin("chat").hub.store.courier.store.servers[0].up, "the server to be seen down")
    assert (await pbal.ask("chat", request("/publish/a", b"x"))).status == 503
    another, _ = await park(pbal, "b")
    errors = pbal.counts["poll_store_errors"]
    cache.start()
    put(cache.client(), "a", b"after\n")
    put(cache.client(), "b", b"too\n")
    assert (await read_response(reader)).body == b"after\n"
    assert (await read_response(another)).body == b"too\n"
    assert pbal.counts["poll_store_errors"] < errors + 200  # it backed off and did not spin


@lab
async def test_memcached_stopped_and_continued_while_polls_are_parked(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 50ms", "SET poll_store_timeout = 100ms"))
    reader, _ = await park(pbal, "a")
    await until(lambda: watch_state(pbal) == "live", "the watch")
    cache.stop()
    await until(lambda: not pbal.plugin("chat").hub.store.courier.store.servers[0].up, "the server to be seen down")
    await until(lambda: watch_state(pbal) != "live", "the watch to be stale")
    assert (await pbal.ask("chat", request("/publish/a", b"x"))).status == 503
    cache.cont()
    put(cache.client(), "a", b"after\n")
    response = await read_response(reader)
    assert response.body.endswith(b"after\n")  # the publish that was answered 503 may have been stored after all
    await until(lambda: pbal.plugin("chat").hub.store.courier.store.servers[0].up, "the server to be up")


@lab
async def test_memcached_stopped_between_read_and_take_loses_nothing(lab: Lab) -> None:
    """It takes the `md` out of its socket when it wakes, long after pbal gave the call up: what it deletes is in doubt."""
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 50ms", "SET poll_watch = off", "SET poll_store_timeout = 100ms"))
    reader, _ = await park(pbal, "a")
    courier = pbal.plugin("chat").hub.store.courier
    server = courier.store.servers[0]
    original = server.delete_many

    async def stop_before_delete(tokens: list[tuple[bytes, bytes]]) -> Any:
        cache.stop()
        return await original(tokens)

    server.delete_many = stop_before_delete
    put(cache.client(), "a", b"precious\n")
    await until(lambda: courier.doubts, "the take to be given up")
    server.delete_many = original
    cache.cont()
    assert (await read_response(reader)).body == b"precious\n"
    await until(lambda: not courier.doubts and not courier.busy, "rest")
    assert not cache.client().get("poll:a")


@lab
async def test_thousands_of_queues_that_fill_at_once_are_no_dead_server(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 50ms", "SET poll_store_timeout = 500ms"))
    plugin = pbal.plugin("chat")
    client, queues = cache.client(), [b"poll:%d" % number for number in range(6000)]
    client.set_many({key.decode(): b"x\n" for key in queues}, expire=300, noreply=False)  # all of them are there when it returns
    taken: list[tuple[bytes, bytes]] = []

    def deliver(values: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        taken.extend(values)
        return []

    plugin.hub.store.courier.shared.deliver = deliver
    plugin.hub.lot.has = lambda key: True  # somebody is parked for each: thousands of sockets would only measure sockets
    for key in queues:
        plugin.hub.store.courier.wake(key)
    await until(lambda: len(taken) == len(queues), "every queue to be taken")
    assert plugin.hub.store.courier.store.servers[0].up and "is gone" not in caplog.text
    assert pbal.counts["poll_store_errors"] == 0


@lab
async def test_a_server_that_talks_garbage_or_refuses_to_be_watched(lab: Lab) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(b"ERROR\r\n")

    origin = await lab.origin(garbage)
    pbal = await lab.pbal(conf(origin.address, "SET poll_interval = 50ms", "SET poll_timeout = 1s"))
    reader, _ = await park(pbal, "a")
    await until(lambda: watch_state(pbal) == "refused", "the refusal")
    await until(lambda: pbal.counts["poll_store_errors"] > 0, "a store error")
    assert (await pbal.ask("chat", request("/publish/a", b"x"))).status == 503
    assert (await read_response(reader)).status == 204


@lab
async def test_two_pbals_on_one_memcached_deliver_each_message_once_and_in_order(lab: Lab) -> None:
    cache = await lab.memcached()
    pbals = [await lab.pbal(conf(cache.address, "SET poll_interval = 50ms")) for _ in range(2)]
    queues, writers, each = 100, 4, 10
    got: dict[str, list[bytes]] = {f"q{number}": [] for number in range(queues)}
    done = asyncio.Event()

    async def poller(pbal: Pbal, queue: str) -> None:
        reader, writer = await pbal.connect("chat")
        while not done.is_set():
            writer.write(request(f"/poll/{queue}"))
            response = await read_response(reader)
            got[queue] += response.body.splitlines()
            if sum(map(len, got.values())) == queues * writers * each:
                done.set()

    def write(number: int) -> None:
        client = cache.client()
        order = [queue for queue in got for _ in range(each)]
        random.Random(number).shuffle(order)
        counts: dict[str, int] = {}
        for queue in order:
            counts[queue] = counts.get(queue, 0) + 1
            put(client, queue, b"%d-%d\n" % (number, counts[queue]))

    # One poller a queue, the odd ones on one pbal, the even ones on the other; every tenth queue is polled through both.
    tasks = [asyncio.create_task(poller(pbals[number % 2], queue)) for number, queue in enumerate(got)]
    tasks += [asyncio.create_task(poller(pbals[(number + 1) % 2], queue)) for number, queue in enumerate(got) if number % 10 == 0]
    await asyncio.gather(*(asyncio.to_thread(write, number) for number in range(writers)))
    await asyncio.wait_for(done.wait(), DEADLINE)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for number, (_queue, messages) in enumerate(got.items()):
        assert len(messages) == len(set(messages)) == writers * each
        for writer in range(writers) if number % 10 else ():  # two connections may be read in either order
            own = [int(message.split(b"-")[1]) for message in messages if message.startswith(b"%d-" % writer)]
            assert own == sorted(own)


def ketama(servers: list[tuple[str, int]], key: bytes) -> tuple[str, int]:
    """libmemcached's weighted ketama with equal weights, written from its definition."""
    points = []
    for host, port in servers:
        name = host if port == 11211 else f"{host}:{port}"
        for index in range(40):
            digest = hashlib.md5(f"{name}-{index}".encode()).digest()
            points += [(int.from_bytes(digest[4 * part : 4 * part + 4], "little"), (host, port)) for part in range(4)]
    points.sort()
    place = int.from_bytes(hashlib.md5(key).digest()[:4], "little")
    return next((server for point, server in points if point >= place), points[0][1])


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
def test_keys_are_spread_as_libmemcached_does(name: str) -> None:
    servers = [("10.0.1.1", 11211), ("10.0.1.2", 11211), ("10.0.1.3", 11212)]
    places = [Endpoint(*server) for server in servers]
    store = Memcached(places, time.monotonic, lambda: 1.0, lambda *_: None)
    key = b"poll:" + name.encode()
    assert store.server_of(key).endpoint == Endpoint(*ketama(servers, key))


@lab
async def test_three_memcacheds_and_a_writer_with_a_ketama_of_its_own(lab: Lab) -> None:
    caches = [await lab.memcached() for _ in range(3)]
    pbal = await lab.pbal(conf(" ".join(cache.address for cache in caches), "SET poll_interval = 50ms"))
    servers = [("127.0.0.1", cache.port) for cache in caches]
    readers = {f"user{number}": (await park(pbal, f"user{number}"))[0] for number in range(30)}
    used = set()
    for queue in readers:
        server = ketama(servers, b"poll:" + queue.encode())
        used.add(server)
        put(caches[servers.index(server)].client(), queue, queue.encode() + b"\n")
    for queue, reader in readers.items():
        assert (await read_response(reader)).body == queue.encode() + b"\n"
    assert len(used) > 1
    caches[0].kill()  # one of three: the others' queues go on
    alive = next(q for q in (f"new{n}" for n in range(100)) if ketama(servers, b"poll:" + q.encode()) == servers[1])
    reader, _ = await park(pbal, alive)
    put(caches[1].client(), alive, b"m\n")
    assert (await read_response(reader)).body == b"m\n"
    assert await pbal.say("SET chat.poll_keep = ttl") == "OK"
    reader, _ = await park(pbal, alive)
    watcher = pbal.plugin("chat").hub.store.courier.watchers[1]
    await until(lambda: watcher.state == "live", "the watch")
    attempt = watcher.attempt
    with socket.create_connection(servers[1]) as sock:  # somebody's key, which is no queue's
        sock.sendall(b"set poll:\xff 0 0 1\r\nx\r\n")
        assert sock.recv(100) == b"STORED\r\n"
    put(caches[1].client(), alive, b"n\n")
    assert (await read_response(reader)).body == b"n\n"
    assert watcher.attempt == attempt


@lab
async def test_a_queue_grown_too_long_by_others_is_cut_to_its_newest_messages(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_max_queue = 20"))
    put(cache.client(), "a", b"".join(b"number%d\n" % number for number in range(10)))
    assert (await pbal.ask("chat", request("/poll/a"))).body == b"number8\nnumber9\n"
    assert pbal.counts["poll_evicted"] == 8
    assert await pbal.say("SET chat.poll_framing = none") == "OK"
    put(cache.client(), "a", b"<m>one that cannot be cut</m>")
    assert (await pbal.ask("chat", request("/poll/a"))).body == b"<m>one that cannot be cut</m>"
    assert pbal.counts["poll_evicted"] == 8


@lab
async def test_the_store_can_be_changed_live(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address))
    reader, _ = await park(pbal, "a")
    assert await pbal.say("SET chat poll_store = memory") == "OK"
    await pbal.ask("chat", request("/publish/a", b"in memory"))
    assert (await read_response(reader)).body == b"in memory\n"
    await pbal.ask("chat", request("/publish/b", b"moves along"))
    assert await pbal.say(f"SET chat poll_store = memcached {cache.address}") == "OK"
    await until(lambda: cache.client().get("poll:b") == b"moves along\n", "the message in memcached")
    assert (await pbal.ask("chat", request("/poll/b"))).body == b"moves along\n"


@lab
async def test_an_end_right_behind_a_poll_is_not_its_going(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address))
    put(cache.client(), "a", b"m\n")
    for body in (b"m\n", b""):
        reader, writer = await pbal.connect("chat")
        writer.write(request("/poll/a"))
        writer.write_eof()
        answer = await read_response(reader)
        assert answer.body == body and await reader.read() == b""
    assert pbal.counts["poll_put_back"] == 0
    reader, writer = await park(pbal, "a")
    await asyncio.sleep(1)
    writer.write_eof()
    await pbal.until("poll_gone", 1)
    assert await reader.read() == b""


@lab
async def test_a_message_that_no_memcached_takes_is_413(lab: Lab) -> None:
    cache = await lab.memcached("-I", "2k", "-o", "slab_chunk_max=1024")
    pbal = await lab.pbal(conf(cache.address))
    answer = await pbal.ask("chat", request("/publish/a", b"x" * 5000))
    assert answer.status == 413 and answer.body.startswith(b"The message is too long: memcached ") and answer.body.endswith(b"\n")
    assert (await pbal.ask("chat", request("/publish/a", b"short"))).status == 202


@lab
async def test_a_publish_that_fails_leaves_no_time_to_measure_from(lab: Lab) -> None:
    pbal = await lab.pbal(conf("127.0.0.1:1"))
    await park(pbal, "a")
    assert (await pbal.ask("chat", request("/publish/a", b"m"))).status == 503
    assert not pbal.plugin("chat").hub._stored_at and pbal.counts["poll_publish_failed"] == 1
