"""Request bodies on their way through a reverse_proxy: held in memory, spooled to disk, streamed; and what is left of them: nothing."""

import asyncio
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import DEADLINE, Lab, Pbal, lab, read_response, transport_of, until
from scripted import OK, Client, Scripted, Taken, get, proxy

from pbal.model.bodies import DISK_SECONDS, PIECE, UNFLUSHED, Spool
from pbal.net.tasks import running
from pbal.net.wire import BODY_PAUSED, WAITS_FOR_TURN

BODY = b"".join(b"%07d\n" % number for number in range(100_000))
"""800,000 octets, none of them in the place of another."""


def chunked(body: bytes, size: int = 50_000) -> bytes:
    """A body in chunks."""
    pieces = [body[place : place + size] for place in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def post(body: bytes, *fields: str, method: str = "POST", path: str = "/") -> bytes:
    """A request and its body, of known length."""
    return get(path, f"Content-Length: {len(body)}", *fields, method=method) + body


async def uploads(lab: Lab, *nodes: str, more: str = "", spooling: bool = True) -> Pbal:
    """A pbal whose service `web` spools into a folder of its own, and logs."""
    folder = lab.folder / "spools"
    folder.mkdir(exist_ok=True)
    settings = [f"SET access_log = {lab.folder / 'log'}", *more.split(";")]
    if spooling:
        settings += ["SET buffer_uploads = on", f"SET buffer_uploads_path = {folder}"]
    return await lab.pbal(proxy(*nodes, more=";".join(settings)))


async def rest_of_chunks(taken: Taken) -> bytes:
    """What is in the chunks that a node gets, to the last one."""
    body = b""
    while size := int(await taken.reader.readline(), 16):
        body += await taken.reader.readexactly(size)
        assert await taken.reader.readline() == b"\r\n"
    assert await taken.reader.readline() == b"\r\n"
    return body


async def echo(taken: Taken) -> None:
    """A node that answers with the body of each request, and says in a field how it was framed."""
    while True:
        head = (await taken.request()).lower()
        if b"transfer-encoding: chunked" in head:
            framing, body = b"chunked", await rest_of_chunks(taken)
        else:
            framing = head.partition(b"content-length: ")[2].partition(b"\r")[0]
            body = await taken.reader.readexactly(int(framing or b"0"))
        expected = b"yes" if b"\r\nexpect:" in head else b"no"
        taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nFraming: %b\r\nExpected: %b\r\n\r\n" % (len(body), framing, expected) + body)


def files_in(folder: Path) -> list[str]:
    """What this process has open in a folder, with or without a name."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # the one that listed
            continue
    return [name for name in found if name.startswith(str(folder))] + [each.name for each in folder.iterdir()]


async def nothing_left(lab: Lab, pbal: Pbal) -> None:
    """No memory, no room on the disk, no file, no descriptor, no task, no backend at work."""
    bodies = pbal.world.bodies
    folder = lab.folder / "spools"
    await until(lambda: not bodies.spools and not bodies.disk.waiting, "the files to be closed")
    assert (bodies.memory, bodies.spooled, bodies.unflushed) == (0, 0, 0)
    assert not folder.exists() or files_in(folder) == []
    assert [name for name in running() if not name.startswith("listen")] == []
    assert not [backend for backend in pbal.world.backends if backend.state != "bored"]


async def holds(pbal: Pbal, octets: int) -> None:
    """Wait until so much is held in memory."""
    await until(lambda: pbal.world.bodies.memory == octets, f"{octets} octets, there are {pbal.world.bodies.memory}")


async def logged(lab: Lab, pbal: Pbal) -> list[Any]:
    """The access log."""
    pbal.world.access.flush()
    return [json.loads(line) for line in (lab.folder / "log").read_text().splitlines()]


# -- in memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
@lab
async def test_a_small_upload_that_comes_slowly_holds_no_node_and_goes_out_whole(lab: Lab, framing: str) -> None:
    origin = await Scripted.start(lab, echo)
    pbal = await uploads(lab, origin.address, spooling=False)
    octets = post(b"abcdef") if framing == "length" else get("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"abcdef", 3)
    client = await Client.of(pbal, request=octets[:-1])
    await holds(pbal, 5 if framing == "length" else 6)
    assert "ClientProxy buffering_request 1" in await pbal.say("states")
    assert pbal.counts["backend_connects"] == 0
    client.writer.write(octets[-1:])
    got = await read_response(client.reader)
    assert (got.body, got.fields["framing"]) == (b"abcdef", "6")
    await nothing_left(lab, pbal)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@lab
async def test_a_longer_upload_goes_on_as_it_comes_in_the_way_it_was_framed(lab: Lab, framing: str) -> None:
    origin = await Scripted.start(lab)
    pbal = await uploads(lab, origin.address, more="SET buffer_backend_connect = 1k", spooling=False)
    fields = "Content-Length: 800000" if framing == "length" else "Transfer-Encoding: chunked"
    client = await Client.of(pbal, request=get("/", fields, method="POST"))
    octets = BODY if framing == "length" else chunked(BODY)
    client.writer.write(octets[:2000])
    node = await origin.connection()
    assert fields.encode() in await node.request()
    if framing == "length":
        assert await node.reader.readexactly(2000) == BODY[:2000]
        client.writer.write(octets[2000:])
        assert await node.reader.readexactly(798_000) == BODY[2000:]
    else:
        assert await node.reader.readline() == b"%x\r\n" % (2000 - len(b"c350\r\n"))
        assert BODY.startswith(await node.reader.readexactly(1994))
        client.writer.write(octets[2000:])
        assert await node.reader.readline() == b"\r\n"
        assert await rest_of_chunks(node) == BODY[1994:]
    assert pbal.world.bodies.memory == 0 and pbal.counts["bodies_spooled"] == 0
    node.say(OK)
    assert (await read_response(client.reader)).status == 200
    await nothing_left(lab, pbal)


@lab
async def test_a_body_in_very_small_pieces_takes_little_more_than_its_octets(lab: Lab) -> None:
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address, spooling=False)
    client = await Client.of(pbal, request=get("/", "Content-Length: 300", method="POST"))
    for number in range(30):
        client.writer.write(b"x" * 9)
        await holds(pbal, 9 * number + 9)
    (connection,) = pbal.world.clients
    assert len(connection.exchange.collected_body().parts) == 1
    client.writer.write(b"x" * 30)
    assert (await read_response(client.reader)).body == b"x" * 300


@lab
async def test_when_memory_is_short_bodies_go_on_as_they_come(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await uploads(lab, origin.address, spooling=False)
    assert await pbal.say("SERVER max_body_memory = 10") == "OK"
    waits = await Client.of(pbal, request=post(b"123456789")[:-1])
    await holds(pbal, 8)
    other = await Client.of(pbal, request=post(b"123456789")[:-1])
    node = await origin.connection()
    await node.request()
    assert await node.reader.readexactly(8) == b"12345678"
    for client in (waits, other):
        client.reset()
    await pbal.until("clients", 0)
    await nothing_left(lab, pbal)


# -- on disk -------------------------------------------------------------------------------------------------------------


REASONS = {
    "size": ("SET buffer_upload_threshold_size = 800000", "length"),
    "rate": (
        "SET buffer_upload_threshold_size = 0;SET buffer_upload_threshold_time = 0;SET buffer_upload_threshold_rate = 1000g",
        "length",
    ),
    "time": ("SET buffer_upload_threshold_size = 0;SET buffer_upload_threshold_time = 0.000001", "length"),
    "chunked": ("SET buffer_upload_threshold_size = 0", "chunked"),
    "": ("SET buffer_upload_threshold_size = 800001;SET buffer_upload_threshold_time = 0", "length"),
}


@pytest.mark.parametrize("reason", REASONS)
@lab
async def test_a_spooled_upload_holds_no_node_until_it_is_whole_and_the_log_says_why_it_was_spooled(lab: Lab, reason: str) -> None:
    more, framing = REASONS[reason]
    origin = await Scripted.start(lab, echo)
    pbal = await uploads(lab, origin.address, more=f"SET buffer_backend_connect = 1k;{more}")
    fields = "Content-Length: 800000" if framing == "length" else "Transfer-Encoding: chunked"
    octets = BODY if framing == "length" else chunked(BODY)
    client = await Client.of(pbal, request=get("/", fields, method="POST") + octets[:-9])
    if reason:
        await until(lambda: pbal.world.bodies.spooled > 799_000 and not pbal.world.bodies.unflushed, "all but the last octets on disk")
        assert pbal.counts["backend_connects"] == 0 and pbal.counts["bodies_spooled"] == 1
        assert "ClientProxy buffering_upload 1" in await pbal.say("states")
        assert "spool bytes" in await pbal.say("show limits") and "spools 1" in await pbal.say("show counters like spools")
        (spool,) = files_in(lab.folder / "spools")
        assert spool.endswith("(deleted)")
        (file,) = [each._file for each in pbal.world.bodies.spools]
        assert file is not None
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600 and os.fstat(file.fileno()).st_nlink == 0
    else:
        await pbal.until("backend_connects", 1)
    client.writer.write(octets[-9:])
    got = await read_response(client.reader)
    assert got.body == BODY and got.fields["framing"] == "800000"
    assert pbal.counts["bodies_spooled"] == (1 if reason else 0)
    (line,) = await logged(lab, pbal)
    assert line.get("spooled", "") == reason and line["octets_in"] == 800_000
    await nothing_left(lab, pbal)


@lab
async def test_a_chunked_upload_that_stays_in_memory_is_not_spooled(lab: Lab) -> None:
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address)
    for body in (b"", b"x" * 1000):
        got = await pbal.ask("web", get("/", "Transfer-Encoding: chunked", method="POST") + chunked(body))
        assert (got.body, got.fields["framing"]) == (body, str(len(body)))
    assert pbal.counts["bodies_spooled"] == 0


@lab
async def test_a_body_comes_back_from_a_disk_that_has_to_be_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is in the system's memory: each piece is read off the loop."""
    reads: list[int] = []
    pread = os.pread

    def not_at_hand(*_: Any) -> int:
        raise BlockingIOError

    def counted(descriptor: int, octets: int, place: int) -> bytes:
        reads.append(place)
        return pread(descriptor, octets, place)

    monkeypatch.setattr(os, "preadv", not_at_hand)
    monkeypatch.setattr(os, "pread", counted)
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address)
    assert (await pbal.ask("web", post(BODY))).body == BODY
    assert reads == list(range(0, len(BODY), PIECE))
    await nothing_left(lab, pbal)


@lab
async def test_plugins_get_a_spooled_body_whole(lab: Lab) -> None:
    (lab.folder / "look.py").write_text(
        "from pbal.api import Plugin, Verdict, hook\n"
        "class Look(Plugin):\n"
        "    @hook.proxy_read_request\n"
        "    def look(self, exchange):\n"
        "        exchange.set_field(b'X-Sum', b'%d %d' % (exchange.body_size, sum(exchange.read_body())))\n"
        "        return Verdict.PASS\n"
    )
    seen: list[bytes] = []

    async def app(taken: Taken) -> None:
        seen.append(await taken.request())
        seen.append(await taken.reader.readexactly(800_000))
        taken.say(OK)

    pbal = await uploads(lab, (await Scripted.start(lab, app)).address, spooling=False)
    for statement in (f"SERVER plugin_path = {lab.folder}", "LOAD look", "SET web.plugins = look"):
        assert await pbal.say(statement) == "OK"
    assert (await pbal.ask("web", post(BODY))).status == 200
    assert b"X-Sum: 800000 %d\r\n" % sum(BODY) in seen[0] and seen[1] == BODY
    (line,) = await logged(lab, pbal)
    assert line["spooled"] == "plugin"
    await nothing_left(lab, pbal)


@pytest.mark.parametrize("where", ["memory", "disk"])
@lab
async def test_a_body_that_was_held_whole_is_sent_again_to_another_node(lab: Lab, where: str) -> None:
    first, second = await Scripted.start(lab), await Scripted.start(lab)
    body = BODY if where == "disk" else BODY[:5000]
    pbal = await uploads(lab, first.address, second.address, more="SET pool = app")
    client = await Client.of(pbal, request=post(body, method="PUT"))
    await until(lambda: first.connections or second.connections, "a node")
    asked, other = (first, second) if first.connections else (second, first)
    node = await asked.connection()
    await node.request()
    await node.reader.readexactly(3000)
    transport_of(node.writer).abort()
    node = await other.connection()
    assert f"Content-Length: {len(body)}".encode() in await node.request()
    assert await node.reader.readexactly(len(body)) == body
    node.say(OK)
    assert (await read_response(client.reader)).status == 200
    assert pbal.counts["backend_retries"] == 1
    await nothing_left(lab, pbal)


@lab
async def test_what_was_held_of_a_streamed_body_is_sent_again_as_long_as_no_more_came(lab: Lab) -> None:
    first, second = await Scripted.start(lab), await Scripted.start(lab)
    pbal = await uploads(lab, first.address, second.address, more="SET buffer_backend_connect = 5", spooling=False)
    client = await Client.of(pbal, request=get("/", "Content-Length: 10", method="PUT") + b"abcdef")
    await until(lambda: first.connections or second.connections, "a node")
    asked, other = (first, second) if first.connections else (second, first)
    node = await asked.connection()
    await node.request()
    transport_of(node.writer).abort()
    node = await other.connection()
    await node.request()
    client.writer.write(b"ghij")
    assert await node.reader.readexactly(10) == b"abcdefghij"
    transport_of(node.writer).abort()
    assert (await read_response(client.reader)).status == 502
    assert pbal.counts["backend_retries"] == 1
    await nothing_left(lab, pbal)


@lab
async def test_a_body_that_comes_while_its_request_waits_to_be_sent_again_is_sent_with_it(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    more = "SET buffer_backend_connect = 0;SET enable_error_retries = on;SET error_retry_schedule = 0.1"
    pbal = await uploads(lab, origin.address, more=more, spooling=False)
    client = await Client.of(pbal, request=get("/", "Content-Length: 5"))
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
    await pbal.until("backend_retries", 1)
    client.writer.write(b"hello")
    node = await origin.connection(1)
    await node.request()
    assert await node.reader.readexactly(5) == b"hello"
    node.say(OK)
    assert (await read_response(client.reader)).status == 200
    await nothing_left(lab, pbal)


# -- expectations --------------------------------------------------------------------------------------------------------


EXPECTING = {
    # how: (settings, framing, who says 100)
    "streamed": ("", "Content-Length: 5", "node"),
    "streamed, chunked": ("", "Transfer-Encoding: chunked", "node"),
    "spooled": ("SET buffer_uploads = on;SET buffer_upload_threshold_size = 5", "Content-Length: 5", "pbal"),
    "not spooled": ("SET buffer_uploads = on;SET buffer_upload_threshold_size = 6", "Content-Length: 5", "node"),
    "spooled, chunked": ("SET buffer_uploads = on", "Transfer-Encoding: chunked", "pbal"),
}


@pytest.mark.parametrize("how", EXPECTING)
@lab
async def test_who_expects_100_hears_it_from_who_decides(lab: Lab, how: str) -> None:
    more, framing, who = EXPECTING[how]
    origin = await Scripted.start(lab)
    pbal = await uploads(lab, origin.address, more=more, spooling=False)
    client = await Client.of(pbal, request=get("/", framing, "Expect: 100-continue", method="POST"))
    octets = b"hello" if "Length" in framing else chunked(b"hello")
    if who == "node":
        node = await origin.connection()
        assert b"Expect: 100-continue" in await node.request()
        node.say(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (await read_response(client.reader)).status == 100
    client.writer.write(octets)
    node = await origin.connection()
    if who == "pbal":
        head = await node.request()
        assert b"xpect" not in head and b"Content-Length: 5\r\n" in head
        octets = b"hello"
    assert await node.reader.readexactly(len(octets)) == octets
    node.say(OK)
    assert (await read_response(client.reader)).status == 200


@pytest.mark.parametrize("held", [False, True])
@lab
async def test_who_expects_100_hears_it_from_pbal_where_a_rule_keeps_that_from_the_node(lab: Lab, held: bool) -> None:
    origin = await Scripted.start(lab)
    more = f"SET buffer_backend_connect = {'100k' if held else 0}; HEADER web REMOVE Expect"
    pbal = await uploads(lab, origin.address, more=more, spooling=False)
    client = await Client.of(pbal, request=get("/", "Content-Length: 5", "Expect: 100-continue", method="POST"))
    node = await origin.connection()
    assert b"xpect" not in await node.request()
    assert (await read_response(client.reader)).status == 100
    client.writer.write(b"hello")
    assert await node.reader.readexactly(5) == b"hello"
    node.say(OK)
    assert (await read_response(client.reader)).status == 200


@lab
async def test_a_client_that_is_refused_by_the_node_need_not_send_its_body(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await uploads(lab, origin.address, spooling=False)
    client = await Client.of(pbal, request=get("/", "Content-Length: 5", "Expect: 100-continue", method="POST"))
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    got = await read_response(client.reader)
    assert (got.status, got.fields["connection"]) == (401, "close")


@pytest.mark.parametrize("spooling", [False, True])
@lab
async def test_other_expectations_are_417_and_those_of_http_1_0_are_none(lab: Lab, spooling: bool) -> None:
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address, spooling=spooling, more="SET buffer_upload_threshold_size = 1")
    assert (await pbal.ask("web", post(b"x", "Expect: a-sandwich"))).status == 417
    old = get("/", "Content-Length: 1", "Expect: 100-continue", method="POST", version="1.0")
    got = await pbal.ask("web", old + b"x")
    assert (got.status, got.body, got.fields["expected"]) == (200, b"x", "no")


@lab
async def test_explain_tells_what_becomes_of_a_body(lab: Lab) -> None:
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address)
    host, port = pbal.server.address("web")
    for field, said in (
        (
            "Content-Length: 10",
            "held in memory up to 102400 bytes (buffer_backend_connect); more of it is spooled to disk if it comes slowly",
        ),
        ("Content-Length: 300000", "spooled to disk first: Content-Length is buffer_upload_threshold_size or more"),
        ("Transfer-Encoding: chunked", "more of it is spooled to disk"),
        ("Content-Length: 10 ; Expect: 100-continue", "its body goes on as it comes"),
    ):
        assert said in await pbal.say(f"explain POST http://{host}:{port}/ {field}")


# -- HTTP/1.0, and limits ------------------------------------------------------------------------------------------------


@lab
async def test_a_chunked_body_of_http_1_0_is_taken_where_the_operator_says_so(lab: Lab) -> None:
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address, spooling=False)
    request = get("/", "Transfer-Encoding: chunked", "Connection: keep-alive", method="POST", version="1.0") + chunked(b"abc")
    assert (await pbal.ask("web", request)).status == 400
    assert await pbal.say("SET web.accept_chunked_http10 = on") == "OK"
    reader, writer = await pbal.connect("web")
    writer.write(request)
    got = await read_response(reader)
    assert (got.status, got.body) == (200, b"abc") and got.fields.get("connection") != "keep-alive"
    assert await reader.read() == b""


@pytest.mark.parametrize("spooling", [False, True])
@lab
async def test_max_chunked_request_size_bounds_what_is_chunked(lab: Lab, spooling: bool) -> None:
    more = "SET max_chunked_request_size = 500k;SET max_body = 0"
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address, spooling=spooling, more=more)
    assert (await pbal.ask("web", get("/", "Transfer-Encoding: chunked", method="POST") + chunked(BODY))).status == 413
    assert (await pbal.ask("web", get("/", "Transfer-Encoding: chunked", method="POST") + chunked(BODY[:400_000]))).status == 200
    assert (await pbal.ask("web", post(BODY))).status == 200
    await nothing_left(lab, pbal)


@lab
async def test_a_body_that_comes_octet_by_octet_is_408_after_a_while(lab: Lab) -> None:
    more = "SET min_body_rate = 10k;SET min_body_grace = 100ms;SET idle_timeout = 1h"
    origin = await Scripted.start(lab)
    pbal = await uploads(lab, origin.address, spooling=False, more=more)
    client = await Client.of(pbal, request=get("/", "Content-Length: 1000000", method="POST"))

    async def drip() -> None:
        while True:
            client.writer.write(b"x")
            await asyncio.sleep(0.01)

    dripping = asyncio.ensure_future(drip())
    assert (await read_response(client.reader)).status == 408
    dripping.cancel()
    assert (pbal.counts["slow_bodies"], pbal.counts["request_timeouts"]) == (1, 1)
    assert pbal.counts["backend_connects"] == 0
    await nothing_left(lab, pbal)


@lab
async def test_the_time_in_which_pbal_does_not_read_is_not_the_clients(lab: Lab) -> None:
    """The node takes nothing for a while, at a rate that the client could not keep otherwise."""
    origin = await Scripted.start(lab)
    more = "SET min_body_rate = 1m;SET min_body_grace = 1s;SET buffer_backend_connect = 0"
    pbal = await uploads(lab, origin.address, spooling=False, more=more)
    client = await Client.of(pbal, request=post(b"x" * 20_000_000))
    node = await origin.connection()
    await node.request()
    transport_of(node.writer).pause_reading()
    (connection,) = pbal.world.clients
    await until(lambda: not connection.transport.is_reading(), "the client to be paused")
    assert 0 < connection.exchange.body_clock < DEADLINE  # how long it came
    transport_of(node.writer).resume_reading()
    await node.reader.readexactly(19_000_000)
    now = pbal.world.clock.now()
    assert now - DEADLINE < connection.exchange.body_clock < now  # since when it would have come without a pause
    await node.reader.readexactly(1_000_000)
    node.say(OK)
    assert (await read_response(client.reader)).status == 200 and pbal.counts["slow_bodies"] == 0


# -- disks that are full, slow, gone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["Content-Length: 800000", "Transfer-Encoding: chunked"])
@lab
async def test_all_spools_together_are_bounded(lab: Lab, framing: str, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address)
    assert await pbal.say("SERVER max_spool = 1m") == "OK"
    first = await Client.of(pbal, request=post(BODY)[:-1])
    await until(lambda: pbal.world.bodies.spooled == 799_999, "one spool")
    client = await Client.of(pbal, request=get("/", framing, "Expect: 100-continue", method="POST"))
    if "Length" not in framing:  # nobody knows yet how long it will be
        assert (await read_response(client.reader)).status == 100
        client.writer.write(chunked(BODY))
    got = await read_response(client.reader)
    assert (got.status, got.fields["retry-after"]) == (503, "5")
    assert pbal.counts["spools_refused"] == 1 and "max_spool" in caplog.text
    first.writer.write(BODY[-1:])
    assert (await read_response(first.reader)).body == BODY
    assert (await pbal.ask("web", post(BODY))).body == BODY
    assert [line["end"] for line in await logged(lab, pbal)] == ["no_room", "done", "done"]
    await nothing_left(lab, pbal)


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fault", ["full", "gone", "lost"])
@lab
async def test_a_disk_that_fails_is_told_and_leaves_nothing(
    lab: Lab, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address)
    with monkeypatch.context() as broken:
        if fault == "full":
            broken.setattr(os, "writev", full)
        elif fault == "gone":
            shutil.rmtree(lab.folder / "spools")
        else:
            broken.setattr(os, "preadv", full)
            broken.setattr(os, "pread", lambda *_: b"")
        got = await pbal.ask("web", post(BODY))
        assert got.status == (500 if fault == "lost" else 503)
        await nothing_left(lab, pbal)
    assert pbal.counts["spool_failures"] == 1
    said = {"full": "No space left", "gone": "No such file", "lost": "shorter than what was written"}[fault]
    assert said in caplog.text and said in await pbal.say("show errors")
    (lab.folder / "spools").mkdir(exist_ok=True)
    assert (await pbal.ask("web", post(BODY))).body == BODY


class Hanging:
    """A disk that writes when it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let = threading.Event()
        self.jobs = 0
        write = Spool._write_out

        def wait(spool: Spool, pieces: list[bytes]) -> None:
            self.jobs += 1
            self.let.wait(30)
            write(spool, pieces)

        monkeypatch.setattr(Spool, "_write_out", wait)


@lab
async def test_a_slow_disk_pauses_the_client_and_nothing_grows(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Hanging(monkeypatch)
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address)
    body = BODY * 10
    client = await Client.of(pbal, request=post(body))
    await until(lambda: pbal.world.clients, "the client")
    (connection,) = pbal.world.clients
    await until(lambda: not connection.transport.is_reading(), "the client to be paused")
    assert UNFLUSHED < pbal.world.bodies.unflushed < 2 * UNFLUSHED
    assert (await pbal.ask("web", post(b"small"))).body == b"small"
    disk.let.set()
    assert (await read_response(client.reader)).body == body
    await nothing_left(lab, pbal)


@lab
async def test_a_disk_that_does_not_answer_is_given_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Hanging(monkeypatch)
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address)
    client = await Client.of(pbal, request=post(BODY))
    await until(lambda: disk.jobs, "a job")
    bodies = pbal.world.bodies
    bodies.tick(pbal.world.clock.now() + DISK_SECONDS - 1)
    assert pbal.counts["spool_failures"] == 0
    bodies.tick(pbal.world.clock.now() + DISK_SECONDS + 1)
    assert (await read_response(client.reader)).status == 503 and pbal.counts["spool_failures"] == 1
    bodies.tick(pbal.world.clock.now() + 2 * DISK_SECONDS)
    disk.let.set()
    await nothing_left(lab, pbal)
    assert pbal.counts["spool_failures"] == 1


@lab
async def test_where_spools_cannot_be_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await uploads(lab)
    missing = lab.folder / "missing"
    assert "expected an existing directory" in await pbal.say(f"SET web.buffer_uploads_path = {missing}")
    assert await pbal.say("DISABLE web") == "OK"
    shutil.rmtree(lab.folder / "spools")
    assert "spools is not a directory that pbal can write to" in await pbal.say("ENABLE web")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "expected a directory that pbal can write to" in await pbal.say(f"SET web.buffer_uploads_path = {lab.folder}")


@lab
async def test_an_upload_goes_on_over_a_reload_of_the_configuration(lab: Lab) -> None:
    origin, other = await Scripted.start(lab, echo), await Scripted.start(lab, echo)
    pbal = await uploads(lab, origin.address)
    client = await Client.of(pbal, request=post(BODY)[:-9])
    await until(lambda: pbal.world.bodies.spooled > 799_000, "its octets")
    path = lab.folder / "test1.conf"
    text = path.read_text().replace(origin.address, other.address).replace("buffer_uploads = on", "buffer_uploads = off")
    path.write_text(text.replace("SET listen = 127.0.0.1:0", f"SET listen = 127.0.0.1:{pbal.server.address('web')[1]}"))
    assert "ERROR" not in await pbal.say("RELOAD CONFIG")
    assert not pbal.world.service("web")["buffer_uploads"]
    client.writer.write(BODY[-9:])
    assert (await read_response(client.reader)).body == BODY
    assert not origin.connections and len(other.connections) == 1
    await nothing_left(lab, pbal)


# -- nothing is left -----------------------------------------------------------------------------------------------------


class Ways:
    """An upload at a moment of its life, and ways in which it can end there."""

    def __init__(self, lab: Lab, pbal: Pbal, origin: Scripted, client: Client) -> None:
        self.lab, self.pbal, self.origin, self.client = lab, pbal, origin, client

    async def memory(self) -> None:
        """Part of it is in memory."""
        self.client.writer.write(get("/", "Content-Length: 8000", method="PUT") + BODY[:500])
        await holds(self.pbal, 500)

    async def spooling(self) -> None:
        """Part of it is on disk."""
        self.client.writer.write(get("/", "Transfer-Encoding: chunked", method="PUT") + chunked(BODY)[:-2])
        await until(lambda: self.pbal.world.bodies.spooled == 800_000 and not self.pbal.world.bodies.unflushed, "it to be on disk")

    async def waiting(self) -> None:
        """All of it is on disk; it waits for a node, since the last one went a moment ago."""
        await self.pbal.say(f"POOL app REMOVE {self.origin.address}")
        self.client.writer.write(get("/", "Transfer-Encoding: chunked", method="PUT") + chunked(BODY))
        await until(lambda: self.pbal.world.service("web").handler.load()[0] == 1, "it to wait")  # type: ignore[union-attr]

    async def sending(self) -> None:
        """The node has part of it."""
        self.client.writer.write(get("/", "Content-Length: 8000000", method="PUT") + BODY * 10)
        node = await self.origin.connection()
        await node.request()
        transport_of(node.writer).pause_reading()
        await until(lambda: any(each.unsent > PIECE for each in self.pbal.world.backends), "the node to be full")

    async def answering(self) -> None:
        """The node answers before it has all of it."""
        await self.sending()
        (node,) = self.origin.connections
        node.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await self.client.reader.readuntil(b"abc")

    async def reset(self) -> None:
        """The client resets."""
        self.client.reset()

    async def end(self) -> None:
        """The client sends its end."""
        self.client.writer.write_eof()
        await self.client.reader.read()

    async def late(self) -> None:
        """The client sends no more."""
        (connection,) = self.pbal.world.clients
        connection.expired(self.pbal.world.clock.now())
        assert (await read_response(self.client.reader)).status == 408
        self.client.writer.close()

    async def nodes(self) -> None:
        """Nodes break, this one and those that are tried next."""
        await self.pbal.say("SET web.response_timeout = 1h")
        for node in self.origin.connections:
            transport_of(node.writer).abort()
        await self.client.reader.read(1)
        self.client.writer.close()

    async def dropped(self) -> None:
        """The pool has no node any more, and the service is disabled: what runs goes on, and then the client leaves."""
        await self.pbal.say("DISABLE web")
        assert await self.pbal.say("SET web.buffer_uploads = off") == "OK"
        self.client.reset()

    async def ended(self) -> None:
        """pbal ends."""
        await self.pbal.server.close()


MOMENTS: dict[str, Callable[[Ways], Any]] = {
    "memory": Ways.memory, "spooling": Ways.spooling, "waiting": Ways.waiting, "sending": Ways.sending, "answering": Ways.answering,
}  # fmt: skip
ENDS: dict[str, tuple[Callable[[Ways], Any], set[str]]] = {
    "reset": (Ways.reset, set(MOMENTS)),
    "end": (Ways.end, {"memory", "spooling"}),
    "late": (Ways.late, {"memory", "spooling"}),
    "nodes": (Ways.nodes, {"sending", "answering"}),
    "dropped": (Ways.dropped, set(MOMENTS)),
    "ended": (Ways.ended, set(MOMENTS)),
}


@pytest.mark.parametrize(
    ("moment", "end"), [(moment, end) for moment in MOMENTS for end, (_, moments) in ENDS.items() if moment in moments]
)
@lab
async def test_whenever_and_however_an_upload_ends_nothing_is_left_of_it(lab: Lab, moment: str, end: str) -> None:
    origin = await Scripted.start(lab)
    pbal = await uploads(lab, origin.address, more="SET buffer_backend_connect = 1k")
    ways = Ways(lab, pbal, origin, await Client.of(pbal))
    await MOMENTS[moment](ways)
    await ENDS[end][0](ways)
    await until(lambda: not pbal.world.clients, "the client to be gone")
    await nothing_left(lab, pbal)


@lab
async def test_who_is_refused_while_the_disk_has_his_body_paused_hears_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Octets of the body that came already are not taken for a request, and a plugin that decides has no fault."""
    disk = Hanging(monkeypatch)
    head = "from pbal.api import Plugin, Verdict, hook\n\n\nclass Late(Plugin):\n    @hook.start_http_request\n"
    look = "    def look(self, exchange):\n        self.kept = exchange\n        exchange.read_first()\n        return Verdict.TAKEN\n"
    (lab.folder / "late.py").write_text(head + look)
    pbal = await uploads(lab, (await Scripted.start(lab, echo)).address)
    for statement in (f"SERVER plugin_path = {lab.folder}", "LOAD late", "SET web.plugins = late"):
        assert await pbal.say(statement) == "OK"
    client = await Client.of(pbal, request=get("/", "Transfer-Encoding: chunked", method="POST") + chunked(BODY * 2, 8))
    await until(lambda: pbal.world.clients, "the client")
    (connection,) = pbal.world.clients
    await until(lambda: connection.flags & BODY_PAUSED and not connection.flags & WAITS_FOR_TURN, "the client to be paused")
    pbal.plugin("web", "late").kept.respond(403, (), b"not for you")
    response = await read_response(client.reader)
    assert (response.status, response.body) == (403, b"not for you")
    disk.let.set()
    client.writer.close()
    await nothing_left(lab, pbal)
