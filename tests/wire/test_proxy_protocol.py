"""PROXY headers on the wire: whose are taken, what follows from them, and what becomes of all others."""

import asyncio
import json
import re
import socket
import ssl
from pathlib import Path

import pytest
from authority import Authority
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import Lab, Pbal, lab, read_response, until
from scripted import Client, get, statuses
from scripted import proxy as scripted_proxy
from secure import files, trusting

import pbal as package
from pbal.net.announced import Announced
from pbal.net.proxy_protocol import SIGNATURE, encode, encode_local
from pbal.net.tls import Link

HERE = ("127.0.0.1", 80)
THEM = ("203.0.113.9", 4711)
V1, V2 = encode(1, THEM, HERE), encode(2, THEM, HERE, checksum=True)


async def head_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A node that answers with the head it got."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


async def site(lab: Lab, *more: str, accept: str = "127.0.0.0/8") -> Pbal:
    """A proxy `web` that takes PROXY headers from some."""
    origin = await lab.origin(head_back)
    return await lab.pbal(f"""
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE web
          SET role   = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool   = app
          SET accept_proxy_protocol = {accept}
          {" ".join(more)}
        ENABLE web
    """)


def forwarded_for(head: bytes) -> bytes:
    """The X-Forwarded-For that a node got."""
    return next(line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"x-forwarded-for"))


@pytest.mark.parametrize("header", [V1, V2])
@lab
async def test_the_address_in_the_header_is_the_clients_everywhere(lab: Lab, header: bytes) -> None:
    log = lab.folder / "access.log"
    pbal = await site(lab, f"SET access_log = {log}")
    client = await Client.of(pbal, request=header + get("/one", "X-Forwarded-For: 6.6.6.6") + get("/two"))
    for _ in range(2):
        assert forwarded_for((await read_response(client.reader)).body) == b"203.0.113.9"
    assert "203.0.113.9 connections 1 parked 0 requests 2" in await pbal.say("show clients")
    assert "open to 203.0.113.9:4711: localport=80" in await pbal.say("socks")
    client.writer.close()
    await pbal.until("clients", 0)
    await until(lambda: log.exists() and log.read_text().count("\n") == 2, "two lines")
    assert {json.loads(line)["client"] for line in log.read_text().splitlines()} == {"203.0.113.9"}
    assert pbal.counts["proxy_headers"] == 1 and pbal.counts["connections"] == 1


@lab
async def test_a_file_of_any_size_for_who_came_over_ipv6_from_an_address_of_ipv4(lab: Lab) -> None:
    """A proxy in front that listens to both says ::ffff:203.0.113.9, and rules about 203.0.113.9 hold."""
    (lab.folder / "file").write_bytes(b"f" * 200_000)
    pbal = await lab.pbal(f"""
        CREATE SERVICE web
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET docroot = {lab.folder}
          SET accept_proxy_protocol = ::ffff:127.0.0.0/104
          HEADER web RESPONSE SET X-Known: yes WHEN from 203.0.113.0/24
        ENABLE web
    """)
    mapped = [encode(version, (f"::ffff:{THEM[0]}", 1), ("::ffff:127.0.0.1", 80)) for version in (1, 2)]
    for header in (V1, V2, *mapped):
        client = await Client.of(pbal, request=header + get("/file"))
        response = await read_response(client.reader)
        assert (len(response.body), response.fields["x-known"]) == (200_000, "yes")


def test_what_stands_in_for_a_transport_has_all_that_is_asked_of_one() -> None:
    asked = {
        name for path in Path(package.__file__).parent.rglob("*.py") for name in re.findall(r"transport\.([a-z_]+)\(", path.read_text())
    }
    assert {"write", "writelines", "get_extra_info"} <= asked
    assert not [name for name in asked if not hasattr(Announced, name)]
    assert not [name for name in asked - {"writelines"} if not hasattr(Link, name)]  # that is for clear text


@lab
async def test_who_is_trusted_is_decided_by_the_address_in_the_header(lab: Lab) -> None:
    pbal = await site(lab, "SET trusted_upstream_proxies = 203.0.113.0/24")
    for address, seen in (("203.0.113.9", b"6.6.6.6, 203.0.113.9"), ("127.0.0.1", b"127.0.0.1"), ("2001:db8::1", b"2001:db8::1")):
        client = await Client.of(pbal, request=encode(2, (address, 1), HERE) + get("/", "X-Forwarded-For: 6.6.6.6"))
        assert forwarded_for((await read_response(client.reader)).body) == seen


@pytest.mark.parametrize("header", [encode_local(1), encode_local(2), encode(2, None, None)])
@lab
async def test_a_check_of_the_proxys_own_is_answered_and_comes_from_the_proxy(lab: Lab, header: bytes) -> None:
    pbal = await site(lab)
    client = await Client.of(pbal, request=header + get())
    assert forwarded_for((await read_response(client.reader)).body) == b"127.0.0.1"


@lab
async def test_a_header_cut_anywhere_is_read(lab: Lab) -> None:
    pbal = await site(lab)
    host, port = pbal.server.address("web")
    loop = asyncio.get_running_loop()
    for octets in (V1 + get(), V2 + get()):
        for place in range(1, len(octets), 3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, (host, port))
            await loop.sock_sendall(sock, octets[:place])
            await asyncio.sleep(0)
            await loop.sock_sendall(sock, octets[place:])
            reader, writer = await asyncio.open_connection(sock=sock)
            assert forwarded_for((await read_response(reader)).body) == b"203.0.113.9"
            writer.close()
    assert pbal.counts["proxy_headers_missing"] == 0


WITHOUT = [
    get(),
    b"\x16\x03\x01",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n" + get(),
    b"PROXY TCP4 " + b"1" * 2_000_000,
    V2[:-1] + b"!" + get(),
    SIGNATURE + b"\x21\x11\xff\xff" + bytes(70_000),
]


@pytest.mark.parametrize("octets", WITHOUT)
@lab
async def test_who_must_send_a_header_and_does_not_is_closed_without_a_word(lab: Lab, octets: bytes) -> None:
    pbal = await site(lab)
    client = await Client.of(pbal, request=octets)
    try:
        assert await client.rest() == b""
    except ConnectionError:
        pass  # there was more to read
    await pbal.until("proxy_headers_missing", 1)
    assert pbal.counts["requests"] == pbal.counts["connections"] == 0 and not pbal.world.clients
    good = await Client.of(pbal, request=V1 + get())
    assert (await read_response(good.reader)).status == 200


@lab
async def test_a_header_that_does_not_come_or_not_whole(lab: Lab) -> None:
    pbal = await site(lab, "SET header_timeout = 100ms")
    silent, slow = await Client.of(pbal), await Client.of(pbal, request=V1[:9])
    await until(lambda: len(pbal.world.clients) == 2, "both")
    assert (await pbal.say("states")).splitlines()[0] == "Perlbal::ClientProxy proxy_header 2"
    assert "127.0.0.1 connections 2" in await pbal.say("show clients")
    for client in (silent, slow):
        try:
            assert await client.rest() == b""
        except ConnectionError:
            pass
    assert pbal.counts["proxy_headers_missing"] == 2
    looking, leaving = await Client.of(pbal), await Client.of(pbal, request=V2[:20])
    looking.writer.write_eof()
    leaving.writer.write_eof()
    await pbal.until("proxy_headers_missing", 3)
    await until(lambda: not pbal.world.clients, "nobody is left")
    assert pbal.counts["proxy_headers_missing"] == 3


@pytest.mark.parametrize("accept", ["off", "10.0.0.0/8", "unix:"])
@pytest.mark.parametrize("header", [V1, V2])
@lab
async def test_a_header_of_anybody_else_is_refused_and_their_requests_are_not(lab: Lab, header: bytes, accept: str) -> None:
    pbal = await site(lab, accept=accept)
    client = await Client.of(pbal, request=header + get())
    assert statuses(await client.rest()) == [400]
    assert pbal.counts["proxy_headers_refused"] == 1 and pbal.counts["proxy_headers"] == 0
    assert "127.0.0.1" in await pbal.say("show errors")
    client = await Client.of(pbal, request=get())
    assert forwarded_for((await read_response(client.reader)).body) == b"127.0.0.1"


@pytest.mark.parametrize("second", [V1, V2])
@lab
async def test_a_second_header_is_no_request_at_once_or_later(lab: Lab, second: bytes) -> None:
    pbal = await site(lab)
    client = await Client.of(pbal, request=V1 + second + get())
    assert statuses(await client.rest()) == [400]
    client = await Client.of(pbal, request=V2 + get() + second + get())
    assert (await read_response(client.reader)).status == 200
    assert statuses(await client.rest()) == [400]
    assert pbal.counts["proxy_headers_refused"] == 2 and pbal.counts["requests"] == 1


@lab
async def test_before_tls(lab: Lab) -> None:
    """The header is in clear; what is behind it, in the same octets or not, is TLS."""
    authority = Authority(lab.folder)
    pbal = await site(lab, files(authority.certify("a.test")))
    for header in (V1, V2):
        host, port = pbal.server.address("web")
        sock = socket.create_connection((host, port))
        sock.sendall(header)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=trusting(authority), server_hostname="a.test")
        pbal._writers.append(writer)
        writer.write(get())
        assert forwarded_for((await read_response(reader)).body) == b"203.0.113.9"
        assert "open to 203.0.113.9:4711" in await pbal.say("socks")
    assert await pbal.say("SET web.accept_proxy_protocol = off") == "OK"
    plain = await Client.of(pbal, request=V1)
    assert statuses(await plain.rest()) == [400]
    binary = await Client.of(pbal, request=V2)
    await binary.rest()
    assert pbal.counts["proxy_headers_refused"] == 2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(*pbal.server.address("web"), ssl=ssl.create_default_context(), server_hostname="a.test")


@lab
async def test_by_a_unix_socket_and_of_one(lab: Lab) -> None:
    path = lab.folder / "front.sock"
    pbal = await site(lab, f"SET listen = unix:{path}", accept="unix:")
    for header, seen in ((V1, b"203.0.113.9"), (SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216), b"unknown")):
        reader, writer = await asyncio.open_unix_connection(path)
        pbal._writers.append(writer)
        writer.write(header + get())
        assert forwarded_for((await read_response(reader)).body) == seen
    reader, writer = await asyncio.open_unix_connection(path)
    pbal._writers.append(writer)
    writer.write(get())
    assert await reader.read() == b""


@lab
async def test_a_live_set_holds_for_the_next_connection(lab: Lab) -> None:
    pbal = await site(lab, accept="off")
    before = await Client.of(pbal, request=get())
    await read_response(before.reader)
    assert "10.0.0.0/8 is used" in await pbal.say("SET web.accept_proxy_protocol = 127.0.0.1, 10.1.2.3/8")
    after = await Client.of(pbal, request=V1 + get())
    assert forwarded_for((await read_response(after.reader)).body) == b"203.0.113.9"
    before.writer.write(get())
    assert forwarded_for((await read_response(before.reader)).body) == b"127.0.0.1"
    assert "SET accept_proxy_protocol = 127.0.0.1/32 10.0.0.0/8" in await pbal.say("dumpconfig")
    assert "expected a network" in await pbal.say("SET web.accept_proxy_protocol = on")


def post(body: bytes) -> bytes:
    return b"POST /publish/a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@lab
async def test_who_may_publish_is_decided_by_the_address_in_the_header(lab: Lab) -> None:
    pbal = await lab.pbal("""
        LOAD poll
        CREATE SERVICE web
          SET role             = web_server
          SET listen           = 127.0.0.1:0
          SET plugins          = poll
          SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
          SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
          SET poll_publish_from = 203.0.113.0/24
          SET accept_proxy_protocol = 127.0.0.1
        ENABLE web
    """)
    waiting = await Client.of(pbal, request=V2 + get("/poll/a"))
    await pbal.until("poll_parked", 1)
    publisher = await Client.of(pbal, request=V1 + post(b"hi"))
    assert (await read_response(publisher.reader)).status < 300
    assert b"hi" in (await read_response(waiting.reader)).body
    stranger = await Client.of(pbal, request=encode(1, ("198.51.100.1", 1), HERE) + post(b"no"))
    assert (await read_response(stranger.reader)).status == 403


PIECES = [V1, V2, V1[:20], V2[:14], get(), b"\r\n", b"PROXY ", SIGNATURE, b"\0", encode_local(2)]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
def test_the_node_sees_no_request_that_did_not_come_behind_one_header(pieces: list[bytes]) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab)
        client = await Client.of(pbal, request=b"".join(pieces))
        client.writer.write_eof()
        try:
            answers = await client.rest()
        except ConnectionError:
            answers = b""
        assert statuses(answers).count(200) <= pieces.count(get())
        if not b"".join(pieces).startswith((V1, V2, encode_local(2))):
            assert pbal.counts["requests"] == 0
        await until(lambda: not pbal.world.clients, "nobody is left")

    run()


@lab
async def test_a_client_that_takes_slowly_and_one_that_uploads_go_through_the_same_transport(lab: Lab) -> None:
    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(3):
            writer.write(await reader.readexactly(1_000_000))

    origin = await lab.origin(node)
    pbal = await lab.pbal(scripted_proxy(origin.address, more="SET accept_proxy_protocol = 127.0.0.1;SET buffer_size = 16k"))
    client = await Client.of(pbal, request=V2 + b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n")
    client.writer.write(b"u" * 3_000_000)
    assert (await read_response(client.reader)).body == b"u" * 3_000_000
