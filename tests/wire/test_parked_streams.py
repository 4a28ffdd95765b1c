"""Streams to what is parked, and other protocols: whatever the client, the plugin and the server do meanwhile.

The plugin parks every request under /park; the test says what is sent. Whose octets were acknowledged: test_acknowledged.py.
"""

import asyncio
import socket
from typing import Any

import pytest
from authority import Authority
from lab import Lab, Pbal, lab, read_response, until
from scripted import Client, get, ticks
from secure import files, secure, trusting

from pbal.api import AnswerRefused, IllegalField

PLUGIN = '''"""Parks what comes under /park, and keeps what it is told of it."""

from pbal.api import Exchange, Plugin, Verdict, hook


class Record:
    def __init__(self, plugin, head_of):
        self.plugin, self.head_of = plugin, head_of
        self.octets, self.ended, self.fail = b"", 0, False

    def received(self, data):
        if self.fail:
            raise ValueError("cannot read that")
        self.octets += data

    def gone(self):
        self.ended += 1


class Streaming(Plugin):
    def __init__(self, service, world):
        super().__init__(service, world)
        self.records = []

    @hook.start_http_request
    def take(self, exchange: Exchange) -> Verdict:
        if not exchange.path.startswith(b"/park"):
            return Verdict.PASS
        record = Record(self, exchange.path)
        record.client = exchange.park(record)
        self.records.append(record)
        if exchange.path == b"/park/fault":
            record.client.begin(record, 200, (), b"begun")
            raise ValueError("after the beginning")
        return Verdict.TAKEN

    def carry(self):
        return [(record.client, record) for record in self.records]

    def adopt(self, carried):
        for client, old in carried:
            record = Record(self, old.head_of)
            record.client = client
            if client.repark(record):
                self.records.append(record)

    def service_disabled(self):
        for record in self.records:
            record.client.finish(record, b"bye")
'''
FIELDS = [(b"Content-Type", b"text/event-stream")]


async def site(lab: Lab, more: str = "") -> Pbal:
    (lab.folder / "streaming.py").write_text(PLUGIN)
    (lab.folder / "page").write_text("a page")
    return await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD streaming
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET docroot = {lab.folder}
          SET plugins = streaming
          {more}
        ENABLE site
    """)


def records(pbal: Pbal) -> list[Any]:
    """What is parked, in the order of its coming."""
    found: list[Any] = pbal.plugin("site", "streaming").records
    return found


async def parked(pbal: Pbal, request: bytes = b"", number: int = 1) -> tuple[Client, Any]:
    """A client that waits, and its record."""
    client = await Client.of(pbal, "site", request or get("/park"))
    await until(lambda: len(records(pbal)) >= number, "a parked client")
    return client, records(pbal)[number - 1]


UPGRADE = get("/park", "Connection: Upgrade", "Upgrade: echo")


# -- streams -------------------------------------------------------------------------------------------------------------


@lab
async def test_a_stream_goes_out_in_chunks_and_the_next_request_follows(lab: Lab) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal)
    assert record.client.begin(record, 200, FIELDS, b"one")
    head = (await client.reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200 ok\r\n") and head.count(b"transfer-encoding: chunked\r\n") == 1
    assert b"content-type: text/event-stream\r\n" in head and b"\r\ndate: " in head and b"\r\nserver: pbal\r\n" in head
    assert b"content-length" not in head and b"connection" not in head
    assert await client.reader.readexactly(8) == b"3\r\none\r\n"
    assert record.client.push(record, b"two") and record.client.push(record, b"")
    assert await client.reader.readexactly(8) == b"3\r\ntwo\r\n"
    assert "; parked" in await pbal.say("socks")
    assert record.client.finish(record, b"end")
    assert await client.reader.readexactly(13) == b"3\r\nend\r\n0\r\n\r\n"
    assert not record.client.push(record, b"late") and not record.client.finish(record, b"late")
    client.writer.write(get("/page"))
    assert (await read_response(client.reader)).body == b"a page"
    assert record.ended == 0


@lab
async def test_head_gets_a_head_and_nothing_else(lab: Lab) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, get("/park", method="HEAD"))
    assert (
        record.client.begin(record, 200, FIELDS, b"one") and record.client.push(record, b"two") and record.client.finish(record, b"three")
    )
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    client.writer.write(get("/page"))
    assert (await read_response(client.reader)).body == b"a page"


@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)])
@lab
async def test_a_client_of_http_1_0_reads_until_the_close(lab: Lab, fields: tuple[str, ...]) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, get("/park", *fields, version="1.0"))
    record.client.begin(record, 200, FIELDS, b"one ")
    record.client.push(record, b"two ")
    record.client.finish(record, b"three")
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b"Connection: close" in head and b"Transfer-Encoding" not in head and body == b"one two three"
    assert record.ended == 0


@lab
async def test_a_client_that_asked_for_close_gets_its_chunks_and_the_close(lab: Lab) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, get("/park", "Connection: close"))
    record.client.begin(record, 200, FIELDS, b"")
    record.client.finish(record, b"three")
    octets = await client.rest()
    assert b"Connection: close" in octets and octets.endswith(b"\r\n\r\n5\r\nthree\r\n0\r\n\r\n")


@pytest.mark.parametrize("streaming", [True, False])
@lab
async def test_a_request_behind_a_stream_waits_for_its_end(lab: Lab, streaming: bool) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, get("/park") + get("/page") if not streaming else get("/park"))
    record.client.begin(record, 200, (), b"one")
    await client.reader.readuntil(b"one\r\n")
    if streaming:
        client.writer.write(get("/page"))
        (connection,) = pbal.world.clients
        await until(lambda: connection.reader is not None and connection.reader.buffered, "the request to be read")
    record.client.push(record, b"two")
    record.client.finish(record, b"")
    assert await client.reader.readuntil(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"
    assert (await read_response(client.reader)).body == b"a page"


@lab
async def test_too_much_behind_a_stream_ends_it(lab: Lab) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal)
    record.client.begin(record, 200, (), b"one")
    client.writer.write(get("/" + "x" * 1000) * 50)
    await until(lambda: record.ended, "it to be told")
    assert not record.client.push(record, b"two")
    assert pbal.counts["bad_requests"] == 1


@pytest.mark.parametrize("how", ["end", "reset", "kick"])
@lab
async def test_a_streams_client_that_goes_is_told_once(lab: Lab, how: str) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal)
    record.client.begin(record, 200, (), b"one")
    await client.reader.readuntil(b"one\r\n")
    if how == "end":
        client.writer.write_eof()
    elif how == "reset":
        client.reset()
    else:
        record.client.kick(record)
    await pbal.until("clients", 0)
    assert record.ended == (0 if how == "kick" else 1)
    assert not record.client.push(record, b"late") and not record.client.finish(record, b"") and record.client.unsent(record) == 0
    assert not record.client.begin(record, 200, (), b"late") and not record.client.answer(record, 200, (), b"late", None)


@lab
async def test_a_kicked_stream_of_http_1_0_looks_cut_off(lab: Lab) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, get("/park", version="1.0"))
    record.client.begin(record, 200, (), b"one")
    await client.reader.readuntil(b"one")
    record.client.kick(record)
    with pytest.raises(ConnectionResetError):
        await client.rest()


@lab
async def test_what_is_no_edge_is_refused_and_the_stream_goes_on(lab: Lab) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal)
    assert not record.client.push(record, b"before the beginning") and not record.client.finish(record, b"")
    record.client.begin(record, 200, (), b"one")
    for again in (
        lambda: record.client.begin(record, 200, (), b"x"),
        lambda: record.client.answer(record, 200, (), b"x", None),
        lambda: record.client.upgrade(record, b"echo", (), b"x"),
    ):
        with pytest.raises(AnswerRefused, match="begun already"):
            again()
    assert pbal.counts["answers_refused"] == 3
    assert not record.client.push(object(), b"of somebody else")
    record.client.finish(record, b"two")
    assert (await read_response(client.reader)).body == b"onetwo"


@pytest.mark.parametrize(
    ("status", "fields", "protocol"),
    [(204, (), b""), (101, (), b""), (200, [(b"A", b"b\r\nC: d")], b""), (0, [(b"A b", b"")], b"echo"), (0, (), b"a b"), (0, (), b"e\r\n")],
)  # fmt: skip
@lab
async def test_what_cannot_be_sent_is_the_500_of_that_request(lab: Lab, status: int, fields: Any, protocol: bytes) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal)
    with pytest.raises(IllegalField):
        if protocol:
            record.client.upgrade(record, protocol, fields, b"")
        else:
            record.client.begin(record, status, fields, b"one")
    assert (await read_response(client.reader)).status == 500
    client.writer.write(get("/page"))
    assert (await read_response(client.reader)).body == b"a page"


@lab
async def test_a_hook_that_fails_after_the_beginning_cuts_the_stream(lab: Lab) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, get("/park/fault"))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        while True:
            await client.reader.readuntil(b"0\r\n\r\n")
    await until(lambda: record.ended == 1, "it to be told")
    assert pbal.counts["plugin_errors"] == 1


@pytest.mark.parametrize("protocol", [False, True])
@lab
async def test_reload_hands_a_stream_over(lab: Lab, protocol: bool) -> None:
    pbal = await site(lab)
    client, old = await parked(pbal, UPGRADE if protocol else b"")
    if protocol:
        old.client.upgrade(old, b"echo", (), b"one")
    else:
        old.client.begin(old, 200, (), b"one")
    assert await pbal.say("RELOAD streaming") == "OK"
    (record,) = records(pbal)
    assert record is not old
    assert not old.client.push(old, b"old") and record.client.push(record, b"new")
    if protocol:
        await client.reader.readuntil(b"\r\n\r\n")
        assert await client.reader.readexactly(6) == b"onenew"
        client.writer.write(b"to the new one")
        await until(lambda: record.octets == b"to the new one", "the octets")
        assert old.octets == b""
    record.client.finish(record, b"end")
    if protocol:
        assert await client.rest() == b"end"
    else:
        assert (await read_response(client.reader)).body == b"onenewend"
    assert old.ended == record.ended == 0


@pytest.mark.parametrize("how", ["DISABLE site", "SHUTDOWN GRACEFUL"])
@pytest.mark.parametrize("protocol", [False, True])
@lab
async def test_a_plugin_ends_its_streams_with_the_service(lab: Lab, protocol: bool, how: str) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, UPGRADE if protocol else b"")
    if protocol:
        record.client.upgrade(record, b"echo", (), b"one")
    else:
        record.client.begin(record, 200, (), b"one")
    assert await pbal.say(how) in ("OK", "")
    assert (await client.rest()).endswith(b"onebye" if protocol else b"3\r\none\r\n3\r\nbye\r\n0\r\n\r\n")
    client.writer.close()
    await pbal.until("clients", 0)
    assert record.ended == 0


async def filled(pbal: Pbal, request: bytes = b"") -> tuple[socket.socket, Any]:
    """A stream whose client does not read, until its socket takes no more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(pbal.server.address("site"))
    sock.sendall(request or get("/park"))
    await until(lambda: len(records(pbal)) == 1, "a parked client")
    (record,) = records(pbal)
    if request:
        assert record.client.upgrade(record, b"echo", (), b"")
    else:
        assert record.client.begin(record, 200, (), b"")
    while record.client.unsent(record) < 1 << 18:
        assert record.client.push(record, b"x" * 10_000)
        await asyncio.sleep(0)
    return sock, record


@pytest.mark.parametrize("request_bytes", [b"", UPGRADE])
@lab
async def test_a_client_that_takes_nothing_is_closed_though_more_is_pushed(lab: Lab, request_bytes: bytes) -> None:
    pbal = await site(lab, "SET idle_timeout = 1s")
    sock, record = await filled(pbal, request_bytes)
    await until(lambda: not record.client.push(record, b"more"), "it to be closed")
    await until(lambda: record.ended == 1, "it to be told")
    assert pbal.counts["slow_readers_closed"] == 1
    sock.close()


@lab
async def test_a_slow_client_that_takes_some_is_kept_though_more_is_pushed_than_it_takes(lab: Lab) -> None:
    pbal = await site(lab, "SET idle_timeout = 1s")
    sock, record = await filled(pbal)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    end = pbal.world.second + 5
    while pbal.world.second < end:
        for _ in range(20):
            await loop.sock_recv(sock, 10_000)
        for _ in range(30):
            assert record.client.push(record, b"y" * 10_000)
        await asyncio.sleep(0.05)
    assert record.client.unsent(record) > 1 << 18 and record.ended == 0
    record.client.finish(record, b"the end")
    octets = b""
    while not octets.endswith(b"7\r\nthe end\r\n0\r\n\r\n"):
        octets = octets[-20:] + await loop.sock_recv(sock, 1 << 20)
    sock.sendall(get("/page"))
    assert (await loop.sock_recv(sock, 1000)).endswith(b"a page")
    assert pbal.counts["slow_readers_closed"] == 0
    await ticks(pbal, 3)
    assert len(pbal.world.clients) == 1, "it rests like any other"
    sock.close()


# -- other protocols -----------------------------------------------------------------------------------------------------


@lab
async def test_an_upgraded_client_and_its_record_speak_as_they_like(lab: Lab) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, UPGRADE + b"early")
    assert record.octets == b""
    assert record.client.upgrade(record, b"echo/2", [(b"Sec-Thing", b"yes"), (b"Upgrade", b"forged")], b"hello")
    assert record.octets == b"early", "before upgrade() returns"
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head == b"HTTP/1.1 101 Switching Protocols\r\nSec-Thing: yes\r\nConnection: Upgrade\r\nUpgrade: echo/2\r\n\r\n"
    assert await client.reader.readexactly(5) == b"hello"
    client.writer.write(b"GET / HTTP/1.1\r\n\r\n" + b"z" * 100_000)
    await until(lambda: len(record.octets) == 100_023, "all octets, read-ahead or not")
    record.client.push(record, b"\x00raw\xff")
    assert await client.reader.readexactly(5) == b"\x00raw\xff"
    assert "; parked" in await pbal.say("socks")
    record.client.finish(record, b"bye")
    client.writer.write(b"late")
    assert await client.rest() == b"bye"
    assert record.octets.endswith(b"z") and record.ended == 0
    client.writer.close()
    await pbal.until("clients", 0)


@lab
async def test_what_is_finished_reaches_a_client_that_still_sends(lab: Lab) -> None:
    """A close with unread octets would reset, and take away what was sent last."""
    pbal = await site(lab)
    client, record = await parked(pbal, UPGRADE)
    record.client.upgrade(record, b"echo", (), b"")
    await client.reader.readuntil(b"\r\n\r\n")
    record.client.finish(record, b"f" * 300_000)
    client.writer.write(b"s" * 200_000)
    assert await client.rest() == b"f" * 300_000


@pytest.mark.parametrize("how", ["end", "reset", "kick", "fault"])
@lab
async def test_an_upgraded_client_that_goes_is_told_once(lab: Lab, how: str, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, UPGRADE)
    record.client.upgrade(record, b"echo", (), b"")
    await client.reader.readuntil(b"\r\n\r\n")
    if how == "end":
        client.writer.write(b"last words")
        client.writer.write_eof()
    elif how == "reset":
        client.reset()
    elif how == "kick":
        record.client.kick(record)
    else:
        record.fail = True
        client.writer.write(b"what?")
    await pbal.until("clients", 0)
    assert record.ended == (0 if how == "kick" else 1)
    assert record.octets == (b"last words" if how == "end" else b"")
    assert not record.client.push(record, b"late")
    assert pbal.counts["plugin_errors"] == (1 if how == "fault" else 0)
    assert ("cannot read that" in caplog.text) == (how == "fault")


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/park", "Connection: Upgrade", "Upgrade: echo", version="1.0"),
        get("/park", "Connection: Upgrade", "Upgrade: echo", "Content-Length: 5", method="POST") + b"ab",
    ],
)
@lab
async def test_what_cannot_be_upgraded_is_refused_and_can_be_answered(lab: Lab, request_bytes: bytes) -> None:
    pbal = await site(lab)
    client, record = await parked(pbal, request_bytes)
    with pytest.raises(AnswerRefused):
        record.client.upgrade(record, b"echo", (), b"")
    assert record.client.answer(record, 400, (), b"no", None)
    assert (await read_response(client.reader)).body == b"no"


@lab
async def test_a_record_that_cannot_receive_is_a_mistake_of_its_plugin(lab: Lab) -> None:
    pbal = await site(lab)
    client, old = await parked(pbal, UPGRADE)

    class Deaf:
        def gone(self) -> None: ...

    deaf: Any = Deaf()
    assert old.client.repark(deaf)
    with pytest.raises(TypeError, match="received"):
        old.client.upgrade(deaf, b"echo", (), b"")
    assert (await read_response(client.reader)).status == 500


# -- under TLS -----------------------------------------------------------------------------------------------------------


@lab
async def test_streams_and_other_protocols_under_tls(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, files(authority.certify("a.test")))
    streaming, upgraded = [Client(*await secure(pbal, "site", trusting(authority))) for _ in range(2)]
    for place, (client, request) in enumerate(((streaming, get("/park")), (upgraded, UPGRADE + b"early"))):
        client.writer.write(request)
        await until(lambda number=place: len(records(pbal)) > number, "a parked client")  # type: ignore[misc]
    one, two = records(pbal)
    one.client.begin(one, 200, (), b"one")
    one.client.push(one, b"p" * 100_000)
    one.client.finish(one, b"end")
    assert (await read_response(streaming.reader)).body == b"one" + b"p" * 100_000 + b"end"
    streaming.writer.write(get("/page"))
    assert (await read_response(streaming.reader)).body == b"a page"
    two.client.upgrade(two, b"echo", (), b"hello")
    assert two.octets == b"early"
    assert (await upgraded.reader.readuntil(b"hello")).endswith(b"\r\n\r\nhello")
    upgraded.writer.write(b" and more")
    await until(lambda: two.octets == b"early and more", "the octets")
    two.client.finish(two, b"bye")
    assert await upgraded.rest() == b"bye"
