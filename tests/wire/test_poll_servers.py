"""What memcacheds do to polls: one that hangs beside one that lives, full ones, small ones, locked ones, old ones, distant ones."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cached import conf, park, put, request, watch_state
from lab import Lab, Pbal, lab, read_response, until
from lab import Memcached as Cache

from pbal.plugins.poll.lanes import MOST_TAKES
from pbal.plugins.poll.memcached import Fate, Full, Server, SocketPath
from pbal.plugins.poll.servers import ring_name
from pbal.plugins.poll.store import StoreError, TooLarge
from pbal.schema.types import Endpoint

NO_WATCH = ("SET poll_watch = off", "SET poll_interval = 50ms")


def courier(pbal: Pbal) -> Any:
    return pbal.plugin("chat").hub.store.courier


def queue_on(pbal: Pbal, address: str, start: str = "q") -> str:
    """The name of a queue that lies on a server."""
    names = (f"{start}{number}" for number in range(1000))
    return next(name for name in names if courier(pbal).store.server_of(b"poll:" + name.encode()).name == address)


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


async def state(pbal: Pbal, number: int = 0) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(await pbal.say("show store AS JSON"))[number]
    return row


@asynccontextmanager
async def server_on(place: Endpoint | SocketPath, patience: float = 5.0, secret: bytes | None = None) -> AsyncIterator[Server]:
    """A Server without a courier; what it reports is in `said`."""
    said: list[str] = []
    server = Server(place, time.monotonic, lambda: patience, lambda kind, text, failed: said.append(text), secret)
    server.said = said  # type: ignore[attr-defined]
    yield server
    server.close()


def endpoint(address: str) -> Endpoint:
    host, _, port = address.partition(":")
    return Endpoint(host, int(port))


# -- one server's trouble is its own ------------------------------------------------------------------------------------


@lab
@pytest.mark.parametrize("first", [0, 1])
async def test_a_server_that_hangs_holds_up_nobody_elses_queues(lab: Lab, first: int) -> None:
    """Its calls hang for a minute, longer than the test waits: whatever is answered was not behind them."""
    caches = [await lab.memcached() for _ in range(2)]
    hung, well = caches[first], caches[1 - first]
    pbal = await lab.pbal(conf(" ".join(cache.address for cache in caches), *NO_WATCH, "SET poll_store_timeout = 60s"))
    ill, fine, late = queue_on(pbal, hung.address), queue_on(pbal, well.address), queue_on(pbal, well.address, "late")
    reader, _ = await park(pbal, fine)
    await park(pbal, ill)
    await until(lambda: pbal.counts["poll_sweeps"] > 1, "both servers to be swept")
    hung.stop()
    courier(pbal).wake(b"poll:" + ill.encode())  # a take of it hangs from here on, and so does its sweep
    await until(lambda: courier(pbal).store.server_of(b"poll:" + ill.encode())._connection._flying, "a call that hangs")
    put(well.client(), fine, b"swept\n")
    assert (await read_response(reader)).body == b"swept\n"
    put(well.client(), late, b"looked at\n")
    assert (await pbal.ask("chat", request(f"/poll/{late}"))).body == b"looked at\n"
    assert (await pbal.ask("chat", request(f"/publish/{fine}", b"published"))).status == 202
    assert (await pbal.ask("chat", request(f"/poll/{fine}"))).body == b"published\n"


@lab
async def test_a_poll_on_queues_of_two_servers_is_answered_by_the_one_that_lives(lab: Lab) -> None:
    caches = [await lab.memcached() for _ in range(2)]
    more = (*NO_WATCH, "SET poll_store_timeout = 60s", "SET poll_queue = query:q uri:queue")
    pbal = await lab.pbal(conf(" ".join(cache.address for cache in caches), *more))
    ill, fine = queue_on(pbal, caches[0].address), queue_on(pbal, caches[1].address)
    caches[0].stop()
    reader, writer = await pbal.connect("chat")
    writer.write(request(f"/poll/x?q={ill}&q={fine}"))
    await pbal.until("poll_parked", 1)
    put(caches[1].client(), fine, b"here\n")
    assert (await read_response(reader)).body == b"here\n"


@lab
async def test_keys_woken_while_takes_are_in_flight_share_the_next_take(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_watch = off", "SET poll_interval = 60s"))
    keys = [b"poll:q%d" % number for number in range(50)]
    lane, lot = courier(pbal).lanes[0], pbal.plugin("chat").hub.lot
    lot.has = lambda key: True  # somebody is parked for each
    read, let, asked = lane.server.read, asyncio.Event(), []

    async def read_later(wanted: list[bytes]) -> Any:
        asked.append(list(wanted))
        await let.wait()
        return await read(wanted)

    lane.server.read = read_later
    for key in keys:
        courier(pbal).wake(key)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [len(wanted) for wanted in asked] == [1] * MOST_TAKES
    let.set()
    await until(lambda: not courier(pbal).busy, "the takes")
    assert asked[MOST_TAKES:] == [keys[MOST_TAKES:]]


# -- takes that need no room, writers of every kind ---------------------------------------------------------------------


def fill(cache: Cache) -> None:
    """Store until nothing more fits, whatever its size."""
    with socket.create_connection(("127.0.0.1", cache.port)) as sock:
        answers = sock.makefile("rb")
        for size in (200_000, 20_000, 2000, 1000, 500, 300, 200, 120, 60, 20, 1):
            for number in range(100_000):
                sock.sendall(b"".join([b"add fill-%d-%d-%d 0 0 %d\r\n%b\r\n" % (size, number, n, size, b"x" * size) for n in range(20)]))
                if b"SERVER_ERROR" in b"".join([answers.readline() for _ in range(20)]):
                    break


@lab
async def test_a_full_memcached_is_named_and_its_messages_can_still_be_taken(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    cache = await lab.memcached("-M", "-m", "2")
    pbal = await lab.pbal(conf(cache.address))
    for queue in ("a", "b"):
        put(cache.client(), queue, b"old\n")
    fill(cache)
    assert (await pbal.ask("chat", request("/publish/c", b"no"))).status == 503
    assert (await pbal.ask("chat", request("/publish/a", b"no"))).status == 503
    assert "is full" in await pbal.say("poll publish chat c no")
    assert (await state(pbal))["state"] == "full"
    assert "out of memory" in await pbal.say("show store") and lines(caplog, "out of memory")
    assert (await pbal.ask("chat", request("/poll/a"))).body == b"old\n"  # what was refused has not cost what was there
    await park(pbal, "late")
    await until(lambda: watch_state(pbal) == "live", "the watch: its heart beats though it is refused")
    assert (await pbal.ask("chat", request("/poll/b"))).body == b"old\n"
    assert pbal.counts["poll_lost"] == 0 and pbal.counts["poll_store_errors"] == 3


@lab
async def test_a_writer_that_uses_cas_is_seen_through_the_watch(lab: Lab) -> None:
    cache = await lab.memcached()
    client = cache.client()
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 60s"))
    client.set("poll:a", b"", noreply=False)
    _, token = client.gets("poll:a")
    reader, _ = await park(pbal, "a")
    await until(lambda: watch_state(pbal) == "live" and not courier(pbal).busy, "the watch and the sweep it begins with")
    assert client.cas("poll:a", b"by cas\n", token, noreply=False)
    assert (await read_response(reader)).body == b"by cas\n"


@lab
async def test_the_heartbeats_of_another_pbal_are_no_lines_about_our_queues(lab: Lab) -> None:
    cache = await lab.memcached()
    with socket.create_connection(("127.0.0.1", cache.port)) as other:
        pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 60s"))
        reader, _ = await park(pbal, "a")
        await until(lambda: watch_state(pbal) == "live", "the watch")
        for number in range(20):
            other.sendall(b"set poll:.pbal.%d.0123456789ab 0 60 1\r\nx\r\n" % number)
            assert other.recv(100) == b"STORED\r\n"
        put(cache.client(), "a", b"m\n")
        assert (await read_response(reader)).body == b"m\n"
    assert pbal.counts["poll_watch_lines"] == 1


# -- sizes --------------------------------------------------------------------------------------------------------------


@lab
async def test_a_queue_beyond_the_servers_item_limit_loses_its_oldest_messages(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    cache = await lab.memcached("-I", "512k")
    pbal = await lab.pbal(conf(cache.address, "SET poll_max_queue = 2m"))
    for letter in b"abc":
        assert (await pbal.ask("chat", request("/publish/q", bytes([letter]) * 250_000))).status == 202
    newest = b"b" * 250_000 + b"\n" + b"c" * 250_000 + b"\n"
    assert cache.client().get("poll:q") == newest
    assert pbal.counts["poll_evicted"] == 1
    assert len(lines(caplog, "poll_max_queue is 2097152 bytes, and memcached")) == 1
    assert (await pbal.ask("chat", request("/publish/q", b"d" * 530_000))).status != 202
    assert (await pbal.ask("chat", request("/poll/q"))).body == newest


@lab
async def test_a_message_larger_than_the_server_takes_is_too_large_and_costs_nothing(lab: Lab) -> None:
    cache = await lab.memcached("-I", "512k")
    cache.client().set("poll:q", b"old\n", noreply=False)
    async with server_on(Endpoint("127.0.0.1", cache.port)) as server:
        assert await server.add(b"poll:other", b"x", 300)  # it has said how much it takes
        for size in (600_000, 524_280):  # refused here, and by the server itself
            with pytest.raises(TooLarge):
                await server.append(b"poll:q", b"x" * size, 300)
        assert (await server.read([b"poll:q"]))[b"poll:q"].value == b"old\n"
        assert await server.append(b"poll:q", b"x" * 524_000, 300) == 524_004
        assert await server.append(b"poll:q", b"x" * 1000, 300) is None
        assert (server.item_limit, server.errors, server.up) == (524_288, 2, True)


@lab
async def test_what_is_put_back_before_a_queue_that_is_nearly_full_costs_the_oldest(lab: Lab) -> None:
    cache = await lab.memcached("-I", "512k")
    pbal = await lab.pbal(conf(cache.address, "SET poll_max_queue = 2m", *NO_WATCH))
    put(cache.client(), "q", b"new" * 100_000 + b"\n")
    courier(pbal).put_back([(b"poll:q", b"a" * 150_000 + b"\n" + b"b" * 150_000 + b"\n")])
    await until(lambda: pbal.counts["poll_evicted"], "what is too much to go")
    assert (await pbal.ask("chat", request("/poll/q"))).body == b"b" * 150_000 + b"\n" + b"new" * 100_000 + b"\n"
    assert pbal.counts["poll_evicted"] == 1


# -- what servers say ---------------------------------------------------------------------------------------------------


@lab
async def test_a_memcached_that_wants_a_password_is_named_and_opened_by_a_file(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = lab.folder / "theirs", lab.folder / "ours"
    theirs.write_text("pbal:secret-word\n")
    lab.folder.chmod(0o755)  # memcached gave up its rights before it reads the file
    ours.write_text("pbal:wrong\n")
    ours.chmod(0o600)
    cache = await lab.memcached("-Y", str(theirs))
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 60s"))
    reader, _ = await park(pbal, "a")
    await until(lambda: watch_state(pbal) == "refused" and not courier(pbal).store.servers[0].up, "both to be refused")
    assert "poll_store_auth" in await pbal.say("show store") and lines(caplog, "see poll_store_auth")
    assert await pbal.say(f"SET chat.poll_store_auth = {ours}") == "OK"
    await until(lambda: "refuses the user" in courier(pbal).store.servers[0].last_error, "the wrong password to be refused")
    ours.write_text("pbal:secret-word\n")
    assert await pbal.say(f"SET chat.poll_store_auth = {ours}") == "OK"
    await until(lambda: watch_state(pbal) == "live", "the watch")
    with socket.create_connection(("127.0.0.1", cache.port)) as sock:
        sock.sendall(b"set auth 0 0 16\r\npbal secret-word\r\nadd poll:a 0 0 6\r\nhello\n\r\n")
        assert (await read_response(reader)).body == b"hello\n"
    dump = await pbal.say("dumpconfig")
    assert str(ours) in dump and "secret" not in dump + caplog.text + repr(courier(pbal).settings.store_auth)
    assert not lines(caplog, "other users may read")


@lab
async def test_a_password_file_that_is_none_is_refused_and_one_that_all_may_read_is_warned_of(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address))
    for text in ("", "user\n", "user:\n", ":password\n", "user:two words\n"):
        path = lab.folder / "auth"
        path.write_text(text)
        answer = await pbal.say(f"SET chat.poll_store_auth = {path}")
        assert answer.startswith("ERROR: ") and "user:password" in answer, answer
    answer = await pbal.say(f"SET chat.poll_store_auth = {lab.folder}/none")
    assert answer.startswith("ERROR: ") and "No such file" in answer
    assert courier(pbal).settings.store_auth is None
    path.write_text("user:password\n")
    path.chmod(0o644)
    assert await pbal.say(f"SET chat.poll_store_auth = {path}") == "OK"
    assert len(lines(caplog, "other users may read")) == 1
    assert (await pbal.ask("chat", request("/publish/a", b"a server without passwords takes one"))).status == 202


@lab
async def test_a_memcached_on_a_unix_socket(lab: Lab) -> None:
    lab.folder.chmod(0o777)
    cache = await lab.memcached("-s", str(lab.folder / "memcached.sock"), "-a", "0777")
    pbal = await lab.pbal(conf("unix:memcached.sock", "SET poll_interval = 60s"))
    reader, _ = await park(pbal, "a")
    await until(lambda: watch_state(pbal) == "live" and not courier(pbal).busy, "the watch")
    put(cache.client(), "a", b"hello\n")
    assert (await read_response(reader)).body == b"hello\n"
    assert (await state(pbal))["store"] == f"unix:{lab.folder}/memcached.sock"
    assert f"memcached unix:{lab.folder}/memcached.sock" in await pbal.say("dumpconfig")


@lab
async def test_a_store_that_is_none_is_refused_with_the_reason(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address))
    for value, reason in (
        ("memcached", "unix:PATH"),
        ("memcached unix:", "path of a socket"),
        ("memcached unix:/" + "x" * 107, "107 bytes"),
        ("memcached unix:/a unix:/a", "named twice"),
    ):
        answer = await pbal.say(f"SET chat.poll_store = {value}")
        assert answer.startswith("ERROR: ") and reason in answer, answer
    assert (await state(pbal))["store"] == cache.address


def test_a_unix_socket_in_the_ring_of_libmemcached() -> None:
    assert ring_name(SocketPath("/run/m.sock")) == "/run/m.sock:0"


@lab
async def test_a_memcached_that_speaks_only_the_binary_protocol_is_named(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    cache = await lab.memcached("-B", "binary")
    pbal = await lab.pbal(conf(cache.address, *NO_WATCH))
    await park(pbal, "a")
    await until(lambda: lines(caplog, "-B binary"), "the line in the log")
    assert "-B binary" in (await state(pbal))["detail"]
    assert (await pbal.ask("chat", request("/publish/a", b"x"))).status == 503


def answering(answer: Callable[[bytes], bytes]) -> Any:
    """A server that answers each line."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(answer(line.rstrip()))

    return handle


@lab
async def test_a_memcached_too_old_for_meta_commands_is_named(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    origin = await lab.origin(answering(lambda line: b"VERSION 1.4.15\r\n" if line == b"version" else b"ERROR\r\n"))
    pbal = await lab.pbal(conf(origin.address, *NO_WATCH))
    await park(pbal, "a")
    await until(lambda: lines(caplog, "does not know meta commands"), "the line in the log")
    assert "1.4.15" in (await state(pbal))["detail"]


@lab
async def test_too_many_connections_are_named_and_the_watch_comes_back_soon(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    cache = await lab.memcached("-c", "30", "-t", "1")
    held: list[socket.socket] = []
    while not held or held[-1].recv(100).startswith(b"VERSION"):  # until one finds no place any more
        held.append(socket.create_connection(("127.0.0.1", cache.port)))
        held[-1].sendall(b"version\r\n")
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 50ms"))
    reader, _ = await park(pbal, "a")
    await until(lambda: len(lines(caplog, "as many connections open")) >= 2, "store and watch to say so")
    for sock in held:
        sock.close()
    await until(lambda: watch_state(pbal) == "live", "the watch")
    assert lines(caplog, "watch on memcached") and lines(caplog, "is back")
    put(cache.client(), "a", b"m\n")
    assert (await read_response(reader)).body == b"m\n"


@lab
async def test_a_flapping_memcached_writes_a_handful_of_lines_and_all_is_counted(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(conf(cache.address, "SET poll_interval = 50ms"))
    reader, _ = await park(pbal, "a")
    server = courier(pbal).store.servers[0]
    for _ in range(6):
        await until(lambda: watch_state(pbal) == "live" and server.up, "all to be well")
        cache.kill()
        await until(lambda: not server.up and watch_state(pbal) != "live", "both to be lost")
        cache.start()
    await until(lambda: watch_state(pbal) == "live" and server.up, "all to be well")
    said = lines(caplog, "memcached")
    for words in ("gone", "is back", "watch on"):
        assert any(words in line for line in said)
    assert len(said) <= 8
    assert server.errors >= 6 and pbal.counts["poll_store_errors"] >= 6
    put(cache.client(), "a", b"m\n")
    assert (await read_response(reader)).body == b"m\n"


@lab
async def test_an_error_nobody_knows_is_logged_counted_and_shown(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    def answer(line: bytes) -> bytes:
        known = {b"version": b"VERSION 1.6.0\r\n", b"mn": b"MN\r\n", b"stats settings": b"END\r\n"}
        if line.startswith((b"append", b"mg")):
            return b"EN\r\n" if line.startswith(b"mg") else b"SERVER_ERROR the moon is full\r\n"
        return known.get(line, b"")

    origin = await lab.origin(answering(answer))
    pbal = await lab.pbal(conf(origin.address, *NO_WATCH))
    assert "the moon is full" in await pbal.say("poll publish chat a x")
    assert (await pbal.ask("chat", request("/publish/a", b"x"))).status == 503
    assert len(lines(caplog, "the moon is full")) == 1
    row = await state(pbal)
    assert (row["state"], pbal.counts["poll_store_errors"]) == ("up", 2)
    assert "errors 2, the last: SERVER_ERROR the moon is full" in row["detail"]


@lab
async def test_what_is_no_memcached_is_named(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    origin = await lab.origin(answering(lambda line: b"-ERR unknown command\r\n"))
    pbal = await lab.pbal(conf(origin.address, *NO_WATCH))
    assert "it is no memcached" in await pbal.say("poll publish chat a x")
    assert lines(caplog, "-ERR unknown command")


@lab
async def test_an_answer_of_another_shape_is_an_error_and_nobody_waits_for_more(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    def answer(line: bytes) -> bytes:
        known = {b"version": b"VERSION 1.6.0\r\n", b"stats settings": b"END\r\n", b"mn": b"MN\r\n"}
        return b"STORED\r\n" if line.startswith(b"append") else b"HD what\r\n" if line.startswith(b"mg") else known.get(line, b"")

    origin = await lab.origin(answering(answer))
    pbal = await lab.pbal(conf(origin.address, *NO_WATCH))
    await park(pbal, "b")
    answered = await pbal.ask("chat", request("/publish/a", b"x"))
    assert answered.status == 503 and b"HD what" in answered.body
    assert b"HD what" in (await pbal.ask("chat", request("/publish/a"))).body  # what is known of the queue
    await until(lambda: pbal.counts["poll_store_errors"] > 2, "the look of who waits")
    assert "HD what" in (await state(pbal))["last_error"]
    assert pbal.counts["poll_parked"] == 1 and not lines(caplog, "failed")


# -- the connection -----------------------------------------------------------------------------------------------------


@lab
async def test_answers_in_pieces_find_their_batches(lab: Lab) -> None:
    """A relay that hands on one octet a write, while many batches are in flight."""
    cache = await lab.memcached()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, far = await asyncio.open_connection("127.0.0.1", cache.port)

        async def back() -> None:
            while data := await near.read(1 << 16):
                for place in range(len(data)):
                    writer.write(data[place : place + 1])
                    await asyncio.sleep(0)

        task = asyncio.ensure_future(back())
        while data := await reader.read(1 << 16):
            far.write(data)
        task.cancel()

    origin = await lab.origin(trickle)
    client = cache.client()
    values = {b"poll:%d" % number: b"VA 5\r\nEN\r\n" * number for number in range(30)}
    client.set_many({key.decode(): value for key, value in values.items()}, noreply=False)
    async with server_on(endpoint(origin.address)) as server:
        keys = [*values, b"poll:none"]
        held, items, appended = await asyncio.gather(server.held(keys), server.read(keys), server.append(b"poll:0", b"more", 300))
        assert held == [key for key in keys if values.get(key)]
        assert {key: item.value for key, item in items.items()} == values
        assert appended == 4
        assert (await server.read([b"poll:0"]))[b"poll:0"].value == b"more"


@lab
async def test_the_fates_of_what_is_deleted_replaced_and_touched(lab: Lab) -> None:
    cache = await lab.memcached()
    client = cache.client()
    async with server_on(Endpoint("127.0.0.1", cache.port)) as server:
        for key in (b"a", b"b"):
            assert await server.add(key, b"1", 300)
        assert not await server.add(b"a", b"2", 300)
        items = await server.read([b"a", b"b"])
        client.append("b", b"2", noreply=False)
        tokens = [(b"a", items[b"a"].cas), (b"b", items[b"b"].cas), (b"c", items[b"a"].cas)]
        assert await server.replace(b"b", b"no", items[b"b"].cas, 300) is Fate.CHANGED
        assert await server.delete_many(tokens) == [Fate.DONE, Fate.CHANGED, Fate.GONE]
        assert await server.replace(b"a", b"no", items[b"a"].cas, 300) is Fate.GONE
        assert await server.replace(b"b", b"yes", (await server.read([b"b"]))[b"b"].cas, 10) is Fate.DONE
        assert await server.touch(b"b", 200) and not await server.touch(b"a", 200)
        item = (await server.read([b"b"]))[b"b"]
        assert item.value == b"yes" and 190 < item.left <= 200
        assert server.errors == 0


@lab
async def test_what_was_sent_and_not_answered_is_unsure_and_what_was_not_sent_is_not(lab: Lab) -> None:
    """The server answers the first of three deletes, and dies; then there is none."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"stats settings\r\n")
        writer.write(b"VERSION 1.6.18\r\nMN\r\nEND\r\n")
        for answer in (b"HD\r\n", b""):
            await reader.readuntil(b"md c C3\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

    origin = await lab.origin(half)
    async with server_on(endpoint(origin.address)) as server:
        tokens = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
        assert await server.delete_many(tokens) == [Fate.DONE, Fate.UNSURE, Fate.UNSURE]
        assert not server.up
        with pytest.raises(StoreError) as down:
            await server.append(b"a", b"x", 300)
        assert not down.value.unsure
        origin.close()
        await until(lambda: server.may_be_tried, "the pause")
        with pytest.raises(StoreError):
            await server.delete_many(tokens)


@lab
async def test_a_connection_that_ends_while_nothing_is_asked_is_no_fault(lab: Lab) -> None:
    cache = await lab.memcached()
    async with server_on(Endpoint("127.0.0.1", cache.port)) as server:
        assert await server.add(b"a", b"1", 300)
        cache.restart()
        await until(lambda: server._connection is None, "the end of the connection")
        assert await server.add(b"a", b"1", 300)
        assert server.up and server.errors == 0 and not server.said  # type: ignore[attr-defined]


@lab
@pytest.mark.parametrize(
    "answer",
    [
        b"VA x c1 t1\r\n",
        b"VA 99999999999 c1 t1\r\n",
        b"x" * 5000,
        b"CLIENT_ERROR bad data chunk\r\n",
        b"ERROR\r\n",
        b"EN\r\nEN\r\n",
        b"\r\n",
        b"HD c1\r\n",
    ],
)
async def test_a_server_that_answers_what_it_should_not_loses_its_connection(lab: Lab, answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"stats settings\r\n")
        writer.write(b"VERSION 1.6.18\r\nMN\r\nEND\r\n")
        await reader.readline()
        writer.write(answer)
        await reader.read()

    origin = await lab.origin(talk)
    async with server_on(endpoint(origin.address)) as server:
        if answer.startswith(b"EN"):  # one answer too many: the first one counts
            assert await server.read([b"a"]) == {}
        else:
            with pytest.raises(StoreError):
                await server.read([b"a"])
            assert not server.up and server.errors == 1
        await until(lambda: server._connection is None, "the end of the connection")


@lab
async def test_a_full_server_raises_full_for_a_queue_that_cannot_grow(lab: Lab) -> None:
    cache = await lab.memcached("-M", "-m", "2")
    cache.client().set("poll:q", b"old\n", noreply=False)
    fill(cache)
    async with server_on(Endpoint("127.0.0.1", cache.port)) as server:
        for key in (b"poll:q", b"poll:new"):
            with pytest.raises(Full):
                await server.append(key, b"x" * 500, 300)
        assert server.state == "full"
        item = (await server.read([b"poll:q"]))[b"poll:q"]
        assert item.value == b"old\n"
        assert await server.delete_many([(b"poll:q", item.cas)]) == [Fate.DONE]
