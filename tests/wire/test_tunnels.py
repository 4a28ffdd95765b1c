"""Upgraded connections: listed, counted, kicked, and let be as long as there is time; streams and 103 pass without waiting.

Ends of single tunnels are in test_bad_peers.py, the access log's line of one in test_access_log.py.
"""

import asyncio
import json
import socket
import struct

import pytest
from authority import Authority
from lab import DEADLINE, Lab, Pbal, lab, read_response, transport_of, until
from scripted import OK, Client, Scripted, Taken, get, proxy, statuses, ticks
from secure import files, secure, trusting

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
ASK = get("/chat?secret=1", "Connection: Upgrade", "Upgrade: websocket")


async def tunnel(pbal: Pbal, origin: Scripted, number: int = 0) -> tuple[Client, Taken]:
    """A client and a node that speak through pbal."""
    client = await Client.of(pbal, request=ASK)
    node = await origin.connection(number)
    await node.request()
    node.say(SWITCH)
    assert (await read_response(client.reader)).status == 101
    return client, node


async def read(reader: asyncio.StreamReader, number: int) -> bytes:
    async with asyncio.timeout(DEADLINE):
        return await reader.readexactly(number)


@lab
async def test_tunnels_are_listed_with_what_passed_and_can_be_kicked(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more=f"SET access_log = {lab.folder / 'log'}"))
    assert await pbal.say("show tunnels") == "."
    client, node = await tunnel(pbal, origin)
    other, _ = await tunnel(pbal, origin, 1)
    client.writer.write(b"hello")
    assert await read(node.reader, 5) == b"hello"
    node.say(b"good day")
    assert await read(client.reader, 8) == b"good day"
    first, second = json.loads(await pbal.say("show tunnels as json"))
    kicked = first.pop("tunnel")
    assert first == {
        "service": "web", "client": "127.0.0.1", "node": origin.address, "protocol": "websocket", "age": 0, "idle": 0, "received": 5,
        "sent": 8, "path": "/chat",
    }  # fmt: skip
    assert f"{kicked} web 127.0.0.1 {origin.address} websocket 0s idle 0s received 5 sent 8 /chat" in await pbal.say("show tunnels")
    assert "tunnels_open 2" in await pbal.say("show counters LIKE tunnels*")
    assert await pbal.say(f"TUNNEL KICK {kicked}") == "OK"
    assert await client.rest() == await node.gone() == b""
    (left,) = json.loads(await pbal.say("show tunnels as json"))
    assert left["tunnel"] == second["tunnel"] and pbal.world.pool("app").nodes[0].active == 1
    assert "there is no tunnel" in await pbal.say(f"TUNNEL KICK {kicked}")
    await until(lambda: (lab.folder / "log").exists() and "\n" in (lab.folder / "log").read_text(), "its line")
    line = json.loads((lab.folder / "log").read_text())
    assert (line["end"], line["octets_in"], line["octets_out"]) == ("kicked", 5, 8)
    other.reset()
    await until(lambda: not pbal.world.tunnels, "the other to go")
    assert pbal.counts["tunnels"] == 2


@pytest.mark.parametrize("first", ["client", "node"])
@lab
async def test_a_side_that_ended_still_hears_the_other(lab: Lab, first: str) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    client, node = await tunnel(pbal, origin)
    ends, goes_on = ((client.reader, client.writer), (node.reader, node.writer))[:: 1 if first == "client" else -1]
    ends[1].write(b"last words")
    ends[1].write_eof()
    async with asyncio.timeout(DEADLINE):
        assert await goes_on[0].read() == b"last words"
    assert len(pbal.world.tunnels) == 1
    for word in (b"one", b"two"):
        goes_on[1].write(word)
        assert await read(ends[0], 3) == word
    goes_on[1].write_eof()
    async with asyncio.timeout(DEADLINE):
        assert await ends[0].read() == b""
    await pbal.until("clients", 0)
    assert not pbal.world.tunnels and not pbal.world.backends


@pytest.mark.parametrize("how", ["client resets", "node resets", "silence"])
@lab
async def test_every_other_end_of_a_tunnel_takes_it_off_the_list(lab: Lab, how: str) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more="SET tunnel_timeout = 100ms" if how == "silence" else ""))
    client, node = await tunnel(pbal, origin)
    if how == "client resets":
        client.reset()
        await node.gone()
    elif how == "node resets":
        sock = node.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport_of(node.writer).abort()
    if how != "client resets":
        try:
            assert await client.rest() == b""
        except ConnectionError:
            assert how == "node resets"
    await until(lambda: not pbal.world.tunnels and not pbal.world.clients and not pbal.world.backends, "nothing to be left")
    assert pbal.world.pool("app").nodes[0].active == 0


@lab
async def test_a_tunnel_outlives_disable_reload_and_its_node_and_has_until_graceful_timeout(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    more = "SET tunnel_timeout = 1m;ENABLE web;SERVER graceful_timeout = 300ms"
    more += ";CREATE SERVICE stays;SET role = web_server;SET listen = 127.0.0.1:0"
    pbal = await lab.pbal(proxy(origin.address, more=more).removesuffix("web") + "stays")
    client, node = await tunnel(pbal, origin)

    async def talk() -> None:
        client.writer.write(b"there?")
        assert await read(node.reader, 6) == b"there?"
        node.say(b"yes")
        assert await read(client.reader, 3) == b"yes"

    for statement in (f"POOL app REMOVE {origin.address}", "RELOAD CONFIG", "SET web.persist_backend = off", "DISABLE web"):
        assert await pbal.say(statement) == "OK"
        await talk()
    assert await pbal.say("DROP SERVICE web") == "OK"
    await talk()
    idle = await Client.of(pbal, "stays")
    await until(lambda: len(pbal.world.clients) == 2, "both")
    await pbal.say("SHUTDOWN GRACEFUL")
    await idle.rest()
    await talk()
    await pbal.server.run()
    assert await client.rest() == await node.gone() == b""
    lab._pbals.remove(pbal)


@lab
async def test_a_tunnel_under_tls_is_one(lab: Lab) -> None:
    authority = Authority(lab.folder)
    origin = await Scripted.start(lab)
    pair = authority.certify("a.test")
    pbal = await lab.pbal(proxy(origin.address, more=files(pair).replace("\n", ";")))
    reader, writer = await secure(pbal, "web", trusting(authority))
    writer.write(ASK)
    node = await origin.connection()
    await node.request()
    node.say(SWITCH + b"at once")
    assert (await read_response(reader)).status == 101
    assert await read(reader, 7) == b"at once"
    (row,) = json.loads(await pbal.say("show tunnels as json"))
    assert await pbal.say(f"TUNNEL KICK {row['tunnel']}") == "OK"
    async with asyncio.timeout(DEADLINE):
        assert await reader.read() == b""
    await node.gone()


# --- streams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 12", "X: until the close"])
@lab
async def test_each_piece_of_a_streamed_response_is_there_before_the_next_is_sent(lab: Lab, framing: str) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    await node.request()
    node.say(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n".encode())
    for piece in (b"abcd", b"efgh"):
        node.say(b"4\r\n%b\r\n" % piece if "chunked" in framing else piece)
        async with asyncio.timeout(DEADLINE):
            assert (await client.reader.readuntil(piece)).endswith(piece)


@lab
async def test_a_head_whose_body_comes_later_is_sent_at_once(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    async with asyncio.timeout(DEADLINE):
        assert b"text/event-stream" in await client.reader.readuntil(b"\r\n\r\n")


@lab
async def test_a_stream_whose_node_pauses_is_cut_after_response_timeout_and_not_where_that_is_0(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more="SET response_timeout = 100ms"))
    for limit, cut in (("100ms", True), ("0", False)):
        assert await pbal.say(f"SET web.response_timeout = {limit}") == "OK"
        client = await Client.of(pbal, request=get())
        node = await origin.connection(len(origin.connections))
        await node.request()
        node.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        async with asyncio.timeout(DEADLINE):
            await client.reader.readuntil(b"a\r\n")
        if cut:
            assert await client.rest() == b""
        else:
            await ticks(pbal, 1)
            node.say(b"1\r\nb\r\n0\r\n\r\n")
            assert await read(client.reader, 11) == b"1\r\nb\r\n0\r\n\r\n"


@lab
async def test_103_reaches_a_client_of_http_1_1_before_the_answer_and_none_of_1_0(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    for version in ("1.1", "1.0"):
        client = await Client.of(pbal, request=get("/", "Connection: close", version=version))
        node = await origin.connection()
        await node.request()
        node.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        if version == "1.1":
            early = await read_response(client.reader)
            assert early.status == 103 and early.fields["link"] == "</a.css>; rel=preload"
        node.say(OK)
        assert statuses(await client.rest()) == [200]
