"""What hostile and broken peers do with TLS, record by record, and what an operator does meanwhile."""

import _ssl
import asyncio
import contextlib
import ctypes
import os
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, Pair
from lab import DEADLINE, Lab, Pbal, lab, read_response, transport_of, until
from secure import echo_head, files, get, proxy, secure, secure_origin, site, to_nodes, trusting

from pbal.net import tls


class Raw:
    """A client whose records are in hand: what is encrypted, and what is sent, are two things."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, name: str) -> None:
        self.reader, self.writer = reader, writer
        self._in, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self.out, server_hostname=name)

    async def do(self, call: Callable[[], Any]) -> Any:
        """Carry out a call of the SSLObject, with all the sending and reading it takes."""
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    done = call()
                    self.flush()
                    return done
                except ssl.SSLWantReadError:
                    self.flush()
                    if not (data := await self.reader.read(65536)):
                        raise EOFError from None
                    self._in.write(data)

    def flush(self) -> None:
        """Send what was encrypted."""
        if self.out.pending:
            self.writer.write(self.out.read())

    async def shake(self) -> "Raw":
        """The handshake."""
        await self.do(self.tls.do_handshake)
        return self

    def send(self, data: bytes) -> None:
        """Encrypt and send."""
        self.tls.write(data)
        self.flush()

    def notify(self) -> None:
        """close_notify, and no end of the connection."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()

    async def rest(self) -> bytes:
        """All octets up to the server's end."""
        pieces = []
        with contextlib.suppress(EOFError, ssl.SSLZeroReturnError):
            while piece := await self.do(lambda: self.tls.read(65536)):
                pieces.append(piece)
        return b"".join(pieces)

    def reset(self) -> None:
        """End it with a reset."""
        transport = transport_of(self.writer)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def raw(pbal: Pbal, service: str, authority: Authority, version: ssl.TLSVersion | None = None) -> Raw:
    """A connection before its handshake."""
    context = trusting(authority)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return Raw(*await pbal.connect(service), context, "a.test")


async def gone(pbal: Pbal) -> None:
    """Wait until nothing is left of any client."""
    await until(lambda: not pbal.world.clients, "the clients to be gone")
    assert pbal.counts["clients"] == 0


async def chat(lab: Lab, pair: Pair, more: str = "") -> Pbal:
    return await lab.pbal(f"""
        LOAD poll
        CREATE SERVICE site
          SET role             = web_server
          SET listen           = 127.0.0.1:0
          SET docroot          = {lab.folder}
          SET plugins          = poll
          SET poll_uri         = ^/poll/(?P<queue>\\w+)$
          SET poll_publish_uri = ^/publish/(?P<queue>\\w+)$
          {files(pair)}
          {more}
        ENABLE site
    """)


ENDINGS = ["close_notify", "cut", "reset", "rubbish", "alert"]


async def end(client: Raw, how: str) -> None:
    """End a connection in one of many ways."""
    if how == "close_notify":
        client.notify()
    elif how == "cut":
        client.writer.write_eof()
    elif how == "reset":
        client.reset()
    elif how == "rubbish":
        client.writer.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    elif how == "alert":
        client.writer.write(b"\x15\x03\x03\x00\x02\x02\x28")


# --- endings in each state -------------------------------------------------------------------------------------------


async def stubborn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A node that opens tunnels, begins long answers, or says nothing until its client ends."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"Upgrade: x" in head:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    elif b"/answer" in head:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 3_000_000)
    await reader.read()
    writer.close()


STATES: dict[str, tuple[bytes, str]] = {
    "idle": (b"", "persist_wait"),
    "head": (b"GET / HT", "reading_headers"),
    "flight": (get("/"), "wait_res"),
    "upload": (get("/", "Content-Length: 100000", method="POST") + b"x" * 50000, "reading_body"),
    "answer": (get("/answer"), "xfer_res"),
    "tunnel": (get("/", "Connection: Upgrade", "Upgrade: x"), "tunnel"),
    "parked": (get("/poll/a"), "parked"),
}
"""What a client sends, and the state its connection is in then."""


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("state", list(STATES))
def test_however_and_whenever_a_client_ends_nothing_is_left(state: str, how: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pair = authority.certify("a.test")
        pbal = await chat(lab, pair) if state == "parked" else await proxy(lab, stubborn, pair)
        client = await (await raw(pbal, "site", authority)).shake()
        await pbal.until("clients", 1)
        sent, reached = STATES[state]
        if sent:
            client.send(sent)
        connection = next(iter(pbal.world.clients))
        await until(lambda: connection.state == reached, reached)
        await end(client, how)
        if how == "close_notify" and state in ("flight", "answer"):  # it may want its answer
            await until(lambda: connection.half_closed, "its end to be seen")
            client.writer.close()
        await gone(pbal)
        # One that came when its client had left already rests, and waits for the next.
        await until(lambda: all(backend.state == "bored" for backend in pbal.world.backends), "the backend to be gone")

    run()


@lab
async def test_an_upload_that_comes_with_the_end_of_its_client_is_taken_and_a_part_of_one_is_not_waited_for(lab: Lab) -> None:
    authority = Authority(lab.folder)
    bodies: list[bytes] = []

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"POST"):
                bodies.append(await reader.readexactly(9000))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    pbal = await proxy(lab, node, authority.certify("a.test"), more="SET buffer_backend_connect = 0")
    upload = get("/", "Content-Length: 9000", method="POST") + b"x" * 9000
    for sent, answers in ((upload, 1), (get("/first") + upload, 2), (get("/first") + upload[:-1], 1)):
        client = await (await raw(pbal, "site", authority)).shake()
        client.tls.write(sent)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.flush()
        got = b""
        with contextlib.suppress(EOFError, ssl.SSLError):
            while data := await client.do(partial(client.tls.read, 65536)):
                got += data
        assert got.count(b"HTTP/1.1 200 OK") == answers
        await gone(pbal)
    assert bodies == [b"x" * 9000] * 2


@pytest.mark.parametrize("how", ENDINGS)
def test_half_a_client_hello_leaves_nothing(how: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pbal = await site(lab, authority.certify("a.test"))
        client = await raw(pbal, "site", authority)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        hello = client.out.read()
        client.writer.write(hello[: len(hello) // 2])
        await until(lambda: pbal.world.clients, "a client")
        if how == "close_notify":
            client.writer.write(b"\x15\x03\x03\x00\x02\x01\x00")
        else:
            await end(client, how)
        if how != "reset":
            client.writer.write_eof()
        await gone(pbal)

    run()


@pytest.mark.parametrize("how", ["cut", "reset", "rubbish"])
def test_a_message_for_a_client_that_broke_its_tls_is_kept(how: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pbal = await chat(lab, authority.certify("a.test"))
        client = await (await raw(pbal, "site", authority)).shake()
        client.send(get("/poll/a"))
        await pbal.until("poll_parked", 1)
        await end(client, how)
        await gone(pbal)
        other = await (await raw(pbal, "site", authority)).shake()
        other.send(get("/publish/a", "Content-Length: 5", method="POST") + b"hello" + get("/poll/a", "Connection: close"))
        assert b"hello" in await other.rest()

    run()


@lab
async def test_a_broken_record_ends_a_connection_whose_client_takes_nothing(lab: Lab) -> None:
    """What is unsent would wait for ever: there is nobody to read it."""

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        await asyncio.wait_for(reader.read(), DEADLINE)

    authority = Authority(lab.folder)
    pbal = await proxy(lab, node, authority.certify("a.test"), more="SET idle_timeout = 0")
    client = await raw(pbal, "site", authority)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await client.shake()
    client.send(get("/"))
    transport_of(client.writer).pause_reading()
    await until(lambda: pbal.world.backends, "the backend")
    connection = next(iter(pbal.world.clients))
    while connection.unsent_octets == 0:  # until its socket takes no more
        connection.write(b"x" * 4096)
        await asyncio.sleep(0)
    client.writer.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await gone(pbal)


# --- floods ----------------------------------------------------------------------------------------------------------


@lab
async def test_a_client_that_asks_to_negotiate_again_and_reads_nothing_fills_no_memory(lab: Lab) -> None:
    """Each is refused with an alert (TLS 1.2), or answered with a change of keys (1.3); neither is to pile up."""
    authority = Authority(lab.folder)
    pbal = await chat(lab, authority.certify("a.test"), more="SET buffer_size = 16k")
    client = await (await raw(pbal, "site", authority)).shake()
    client.send(get("/poll/a"))
    await pbal.until("poll_parked", 1)
    connection = next(iter(pbal.world.clients))
    link: Any = connection.transport
    link.pause_writing()
    tls._said.write(b"\x15\x03\x03\x00\x02\x01\x00" * 1000)  # many answers that were not sent
    client.send(b"")
    client.tls.write(b"\r\n")
    client.flush()
    await until(lambda: not link.transport.is_reading(), "reading to stop")
    link.resume_writing()
    assert link.transport.is_reading()


@lab
async def test_those_who_left_take_nobodys_place_in_the_queue_of_handshakes(lab: Lab) -> None:
    authority = Authority(lab.folder)
    more = "SET ssl_handshake_rate = 10\n          SET ssl_handshake_timeout = 30s"
    pbal = await site(lab, authority.certify("a.test"), more=more)
    clients = []
    for _ in range(200):
        clients.append(client := await raw(pbal, "site", authority))
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.flush()
    await until(lambda: len(pbal.world.clients) == 200, "all to be there")
    await until(lambda: all(each.phase == "ssl_handshake" for each in pbal.world.clients), "all to have said hello")
    for client in clients:
        client.reset()
    await gone(pbal)
    reader, writer = await asyncio.wait_for(secure(pbal, "site", trusting(authority)), 5)  # not after 20 seconds
    writer.write(get())
    assert (await read_response(reader)).body == b"a page"


@lab
async def test_waiting_for_its_turn_costs_no_client_its_handshake(lab: Lab) -> None:
    authority = Authority(lab.folder)
    more = "SET ssl_handshake_rate = 5\n          SET ssl_handshake_timeout = 1s"
    pbal = await site(lab, authority.certify("a.test"), more=more)
    context = trusting(authority)
    await asyncio.gather(*(secure(pbal, "site", context) for _ in range(15)))
    assert pbal.counts["tls_handshake_timeouts"] == 0


@lab
async def test_a_large_post_in_clear_text_reads_its_answer(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"))
    reader, writer = await pbal.connect("site")
    writer.write(get("/", "Content-Length: 500000", method="POST") + b"x" * 500_000)
    assert (await read_response(reader)).status == 400
    assert await reader.read() == b""
    writer.close()
    await gone(pbal)


@lab
async def test_a_flood_of_changes_of_keys_holds_nobody_up(lab: Lab) -> None:
    """A quarter of a megabyte of them comes in one read, and is a seventh of a second of work."""
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"))
    client = await (await raw(pbal, "site", authority)).shake()
    library = ctypes.CDLL(_ssl.__file__)
    pointer = ctypes.c_void_p.from_address(id(client.tls._sslobj) + 3 * ctypes.sizeof(ctypes.c_void_p))  # type: ignore[attr-defined]
    for _ in range(9000):
        assert library.SSL_key_update(pointer, 1) == 1
        assert library.SSL_do_handshake(pointer) == 1
    flood = client.out.read()
    client.writer.write(flood)
    client.send(get("/page", "Connection: close"))
    longest = 0.0
    answer = asyncio.ensure_future(client.reader.read(1))
    while not answer.done():
        began = time.thread_time()  # what is computed in a turn; how long that takes is the machine's affair
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - began)
    assert len(flood) > 200_000
    assert longest < 0.05
    client._in.write(answer.result())
    assert (await client.rest()).endswith(b"a page")


@lab
async def test_many_records_in_one_read_are_all_delivered_while_the_node_is_slow(lab: Lab) -> None:
    """Reading stops in the middle of what was decrypted; nothing of it is lost or comes twice."""
    go = asyncio.Event()
    size = 20_000_000

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        body = await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"ok" if body == wanted else b"no"))

    wanted = b"".join(b"%07d\n" % number for number in range(size // 8))
    authority = Authority(lab.folder)
    pbal = await proxy(lab, slow, authority.certify("a.test"))
    client = await (await raw(pbal, "site", authority)).shake()
    client.tls.write(get("/", f"Content-Length: {size}", method="POST"))
    for place in range(0, size, 4000):  # many small records
        client.tls.write(wanted[place : place + 4000])
    client.tls.write(get("/", "Content-Length: 0", "Connection: close"))
    client.flush()
    await until(lambda: pbal.world.clients, "the client")
    connection: Any = next(iter(pbal.world.clients))
    await until(lambda: not connection.transport.is_reading(), "reading to pause")
    go.set()
    assert (await client.do(lambda: client.tls.read(65536))).endswith(b"ok")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in the program, observe.log hears of it
@pytest.mark.parametrize("name", [b"\xff.test", b"a\0test", b"a.tes\n"])
def test_a_name_that_is_none_in_the_hello_is_refused_quietly(name: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pbal = await site(lab, authority.certify("a.test"))
        client = await raw(pbal, "site", authority)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.writer.write(client.out.read().replace(b"a.test", name))
        client.writer.write_eof()
        await client.reader.read()
        await gone(pbal)

    run()
    assert "Traceback" not in capfd.readouterr().err


# --- what an operator does meanwhile ---------------------------------------------------------------------------------


@lab
async def test_tls_begins_and_ends_when_the_service_is_enabled(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pair = authority.certify("a.test")
    (lab.folder / "page").write_text("a page")
    pbal = await lab.pbal(f"""
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET docroot = {lab.folder}
        ENABLE site
    """)

    async def in_clear() -> bool:
        return (await pbal.ask("site", get())).status == 200

    for statement in files(pair).strip().split("\n"):
        assert await pbal.say(statement.strip().replace("SET ", "SET site.")) == "OK"
    assert await in_clear()
    assert await pbal.say("SET site.listen = 127.0.0.2:0") == "OK"  # another listener, the same service
    await until(lambda: all(listener.serving for listener in pbal.server.listeners()), "the listener")
    assert await in_clear()
    assert await pbal.say("DISABLE site") == "OK" and await pbal.say("ENABLE site") == "OK"
    await until(lambda: all(listener.serving for listener in pbal.server.listeners()), "the listener")
    assert not await in_clear()
    begun = await raw(pbal, "site", authority)
    await until(lambda: any(each.phase == "greeting" for each in pbal.world.clients if hasattr(each, "phase")), "a connection")
    for statement in ("SET site.enable_ssl = off", "DISABLE site", "ENABLE site"):
        assert await pbal.say(statement) == "OK"
    await until(lambda: all(listener.serving for listener in pbal.server.listeners()), "the listener")
    assert await in_clear()
    with pytest.raises((EOFError, ConnectionError)):  # there is no certificate for it any more
        await begun.shake()
    assert "site" not in await pbal.say("show certificates")


@lab
async def test_certificates_change_while_handshakes_are_under_way(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pair = authority.certify("a.test", ends=30)
    pbal = await site(lab, pair)
    clients = [await raw(pbal, "site", authority) for _ in range(20)]
    for client in clients[:10]:
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.flush()
    authority.certify("a.test", ends=60)
    replies = await asyncio.gather(pbal.say("RELOAD CERTIFICATES"), pbal.say("RELOAD CERTIFICATES"), *(each.shake() for each in clients))
    assert replies[:2] == ["OK", "OK"]
    for client in clients:
        client.send(get("/page", "Connection: close"))
        assert (await client.rest()).endswith(b"a page")
    assert await pbal.say("SET site.ssl_cipher_list = ECDHE-ECDSA-CHACHA20-POLY1305") == "OK"
    assert await pbal.say("RELOAD CERTIFICATES") == "OK"
    client = await (await raw(pbal, "site", authority, ssl.TLSVersion.TLSv1_2)).shake()
    assert client.tls.cipher()[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"  # type: ignore[index]
    assert await pbal.say("SET site.ssl_cipher_list = nonsense") == "OK"
    assert "no cipher can be selected;" in await pbal.say("RELOAD CERTIFICATES")


@lab
async def test_a_key_that_is_written_a_moment_after_its_certificate_is_seen(lab: Lab) -> None:
    """Between the look at the files and the reading of them: what was read could not be used, what is there now can."""
    authority = Authority(lab.folder)
    pair = authority.certify("a.test")
    pbal = await site(lab, pair)
    certificates = pbal.world.service("site").certificates
    assert certificates is not None and certificates.changed() is None
    os.utime(pair.file, ns=(1, 1))
    files = certificates.changed()
    assert files is not None
    os.utime(pair.key_file, ns=(2, 2))
    certificates.seen(files)
    assert certificates.changed() is not None


@pytest.mark.parametrize("graceful", [True, False])
def test_the_end_does_not_wait_for_handshakes(graceful: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pbal = await chat(lab, authority.certify("a.test"))
        parked = await (await raw(pbal, "site", authority)).shake()
        parked.send(get("/poll/a"))
        await pbal.until("poll_parked", 1)
        begun = await raw(pbal, "site", authority)
        begun.writer.write(b"\x16\x03\x01")
        await until(lambda: any(getattr(each, "phase", "") == "ssl_handshake" for each in pbal.world.clients), "it to have begun")
        await pbal.server.shutdown(graceful, 5)
        if graceful:
            assert b" 204 " in await parked.rest()
        await asyncio.wait_for(pbal.server.run(), DEADLINE)
        assert await begun.reader.read() == b""

    run()


@lab
async def test_a_selected_service_redirects_and_is_strict_for_itself(lab: Lab) -> None:
    authority = Authority(lab.folder)
    (lab.folder / "page").write_text("a page")
    (lab.folder / "token").write_text("token.thumbprint")
    pbal = await lab.pbal(f"""
        LOAD vhosts
        CREATE SERVICE safe
          SET role            = web_server
          SET docroot         = {lab.folder}
          SET https_redirect  = on
          SET hsts            = 60
          SET acme_challenges = {lab.folder}
        CREATE SERVICE open
          SET role    = web_server
          SET docroot = {lab.folder}
        CREATE SERVICE inner
          SET role            = selector
          SET default_service = safe
        CREATE SERVICE clear
          SET role    = selector
          SET listen  = 127.0.0.1:0
          SET plugins = vhosts
          VHOST a.test = inner
          VHOST b.test = open
        ENABLE clear
        CREATE SERVICE site
          SET role    = selector
          SET listen  = 127.0.0.1:0
          SET plugins = vhosts
          {files(authority.certify("a.test", "b.test"))}
          VHOST a.test = inner
          VHOST * = open
        ENABLE site
    """)
    assert (await pbal.ask("clear", get())).fields["location"] == "https://a.test/page"
    assert (await pbal.ask("clear", get("http://a.test/.well-known/acme-challenge/token", host="b.test"))).body == b"token.thumbprint"
    assert (await pbal.ask("clear", get(host="b.test"))).body == b"a page"
    assert (await pbal.ask("clear", get("*", method="OPTIONS"))).status == 400  # a redirect to https://a.test* leads nowhere
    reader, writer = await secure(pbal, "site", trusting(authority))
    writer.write(get() + get(host="b.test"))
    answers = [await read_response(reader) for _ in range(2)]
    assert [answer.fields.get("strict-transport-security") for answer in answers] == ["max-age=60", None]
    assert await pbal.say("SET site.ssl_host_check = certificate") == "OK"
    writer.write(get(host="c.test") + get(host="b.test"))  # a VHOST fits, and the connection is not for that host
    assert [(await read_response(reader)).status for _ in range(2)] == [421, 200]


@lab
async def test_odd_words_in_certificates_and_authorities(lab: Lab) -> None:
    authority = Authority(lab.folder, "line\nbreak\x1b[31m")
    bundle = lab.folder / "bundle.pem"
    bundle.write_bytes("# Autorité, in Latin and UTF-8\n".encode() + b"\xe9\n" + authority.file.read_bytes())
    more = f"SET ssl_verify_mode = 1\n          SET ssl_ca_path = {bundle}"
    pbal = await site(lab, authority.certify("127.0.0.1", "::1", "a.test"), more=more)
    shown = await pbal.say("show certificates")
    assert "CN=line?break?[31m" in shown and "\x1b" not in shown
    reader, writer = await secure(pbal, "site", trusting(authority, authority.certify("client")), "127.0.0.1")
    writer.write(get(host="[::1]:443") + get(host="127.0.0.1:8443"))
    assert [(await read_response(reader)).status for _ in range(2)] == [200, 200]
    assert await pbal.say("SET site.ssl_host_check = certificate") == "OK"
    hosts = {"[0:0:0:0:0:0:0:1]:443": 200, "127.0.0.1:1": 200, "A.TEST.:443": 200, "[::2]": 421, "127.0.0.2": 421, "b.test": 421}
    writer.write(
        b"".join(get(host=host) for host in hosts) + get("https://A.test/page", host="b.test") + get("http://b.test/", host="a.test")
    )
    assert [(await read_response(reader)).status for _ in range(8)] == [*hosts.values(), 200, 421]


# --- nodes -----------------------------------------------------------------------------------------------------------


@lab
async def test_a_setting_of_tls_to_nodes_holds_for_connections_that_are_busy_then(lab: Lab) -> None:
    """What was made in clear, or not verified, serves no request after the operator has said otherwise."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            asked.set()
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")

    origin = await lab.origin(plain)
    pbal = await to_nodes(lab, origin.address, "")
    assert await pbal.say("SET site.ssl_backend = off") == "OK"
    reader, writer = await pbal.connect("site")
    writer.write(get("/"))
    await asyncio.wait_for(asked.wait(), DEADLINE)
    assert await pbal.say("SET site.ssl_backend = on") == "OK"
    go.set()
    assert (await read_response(reader)).body == b"plain"
    assert await pbal.say("SET site.connect_timeout = 500ms") == "OK"
    writer.write(get("/"))
    assert (await read_response(reader)).status == 504  # the node waits for the rest of what it takes for a request


@lab
async def test_a_session_of_before_a_setting_stops_no_later_connection(lab: Lab) -> None:
    authority = Authority(lab.folder)
    handshakes: list[bool] = []
    node = await secure_origin(lab, authority.certify("127.0.0.1"), handshakes, go := asyncio.Event())
    pbal = await to_nodes(lab, node, f"SET ssl_backend_ca = {authority.file}\n          SET connect_timeout = 2s")
    reader, writer = await pbal.connect("site")
    writer.write(get("/wait"))
    await until(lambda: any(backend.relay is not None for backend in pbal.world.backends), "the request to be there")
    assert await pbal.say("SET site.ssl_backend_verify = on") == "OK"
    go.set()
    assert (await read_response(reader)).status == 200
    for _ in range(2):
        writer.write(get("/close"))
        assert (await read_response(reader)).status == 200
    assert handshakes[:2] == [False, False]
    for name in (".a", "a..b", "x" * 70):
        assert "is not the name of a host" in await pbal.say(f"SET site.ssl_backend_name = {name}")


@pytest.mark.parametrize("how", ["silent", "closes", "clear"])
def test_a_node_that_makes_no_handshake(how: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            if how == "closes":
                writer.close()
            elif how == "clear":
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
            writer.close()

        origin = await lab.origin(node)
        pbal = await to_nodes(lab, origin.address, "SET connect_timeout = 500ms")
        assert (await pbal.ask("site", get("/"))).status == (504 if how == "silent" else 502)
        await until(lambda: not pbal.world.backends, "nothing to be left")

    run()


@lab
async def test_octets_that_nobody_asked_for_under_tls(lab: Lab) -> None:
    """An answer with more behind it costs the connection, tickets do not."""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n" + (b"HTTP/1.1 200 OK\r\n\r\n" if b"/more" in head else b""))

    authority = Authority(lab.folder)
    pair = authority.certify("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.file, pair.key_file)
    server = await asyncio.start_server(app, "127.0.0.1", 0, ssl=context)
    lab.keep(server)
    pbal = await to_nodes(lab, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", f"SET ssl_backend_ca = {authority.file}")
    reader, writer = await pbal.connect("site")
    for path, surprises in (("/", 0), ("/", 0), ("/more", 1), ("/", 1)):
        writer.write(get(path))
        assert (await read_response(reader)).status == 204
        assert pbal.counts["backend_surprises"] == surprises
    assert pbal.counts["backend_connects"] == 2


# --- other programs --------------------------------------------------------------------------------------------------


def program(name: str) -> str:
    """Where it is, or skip."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


async def run_program(*command: str | Path, said: bytes = b"") -> tuple[bytes, bytes]:
    """What it writes to both its outputs. Its input stays open until it has ended."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(said)
    async with asyncio.timeout(DEADLINE):
        out, errors = await asyncio.gather(process.stdout.read(), process.stderr.read())
        process.stdin.close()
        await process.wait()
    return out, errors


@lab
async def test_curl(lab: Lab) -> None:
    curl = program("curl")
    authority = Authority(lab.folder)
    pbal = await proxy(lab, echo_head, authority.certify("a.test"))
    host, port = pbal.server.address("site")
    to = ("--cacert", authority.file, "--connect-to", f"a.test:443:{host}:{port}", "-sS", "-i")
    for versions in (("--tlsv1.3",), ("--tls-max", "1.2")):
        out, errors = await run_program(curl, *to, *versions, "https://a.test/x", "https://a.test/y", "-d", "a=b")
        assert out.count(b"HTTP/1.1 200 OK") == 2 and b"X-Forwarded-Proto: https" in out, errors
    out, errors = await run_program(curl, *to[2:], "https://a.test/")
    assert out == b"" and b"certificate" in errors
    await pbal.until("clients", 0)


@lab
async def test_openssl_negotiates_again_changes_keys_and_sends_early_data_in_vain(lab: Lab) -> None:
    openssl = program("openssl")
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"))
    host, port = pbal.server.address("site")
    to = (openssl, "s_client", "-connect", f"{host}:{port}", "-servername", "a.test", "-CAfile", authority.file, "-verify_return_error")
    request = get("/page", "Connection: close")
    out, errors = await run_program(*to, "-tls1_2", "-quiet", said=request)
    assert out.endswith(b"a page"), errors
    out, errors = await run_program(*to, "-tls1_2", said=b"R\n")  # renegotiation: refused, and s_client gives up
    assert b"no renegotiation" in errors and b"HTTP/1.1" not in out
    session, early = lab.folder / "session", lab.folder / "early"
    early.write_bytes(request)
    out, errors = await run_program(*to, "-tls1_3", "-sess_out", session, "-ign_eof", said=request)
    assert b"Max Early Data: 0" in out and b"a page" in out
    out, errors = await run_program(*to, "-tls1_3", "-sess_in", session, "-early_data", early, "-ign_eof", said=request)
    assert b"Early data was not sent" in out or b"Early data was rejected" in out, errors
    requests = pbal.counts["requests"]
    process = await asyncio.create_subprocess_exec(
        *map(str, to), "-tls1_3", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b"K\n")
    await process.stderr.readuntil(b"KEYUPDATE")
    process.stdin.write(request)
    assert b"a page" in await process.stdout.readuntil(b"a page")
    await process.wait()
    assert pbal.counts["requests"] == requests + 1
    await gone(pbal)


@lab
async def test_chromium(lab: Lab) -> None:
    chromium = program("chromium")
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("127.0.0.1"))
    (lab.folder / "index.html").write_text("<p>a page<script>document.write(' over ' + location.protocol)</script>")
    host, port = pbal.server.address("site")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={lab.folder}/profile")
    process = await asyncio.create_subprocess_exec(
        chromium, *flags, "--ignore-certificate-errors", "--dump-dom", f"https://{host}:{port}/index.html",
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert b"a page" in out and b"over https:" in out


# --- slow readers, and answers that end the connection ---------------------------------------------------------------


@pytest.mark.parametrize("role", ["web_server", "reverse_proxy"])
@pytest.mark.parametrize("how", ["reset", "cut", "reads"])
def test_a_reader_that_stops_costs_little_memory(role: str, how: str) -> None:
    size = 30_000_000

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            writer.write(b"x" * 100_000)
            await writer.drain()
        await reader.read()

    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pair = authority.certify("a.test")
        (lab.folder / "large").write_bytes(b"x" * size)
        pbal = await site(lab, pair) if role == "web_server" else await proxy(lab, large, pair)
        client = await raw(pbal, "site", authority)
        transport_of(client.writer).get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await client.shake()
        await pbal.until("clients", 1)
        client.send(get("/large", "Connection: close"))
        transport_of(client.writer).pause_reading()
        connection: Any = next(iter(pbal.world.clients))
        await until(lambda: connection.full, "its buffer to be full")
        assert connection.unsent_octets < 1_000_000
        if how == "reads":
            transport_of(client.writer).resume_reading()
            assert (await client.rest()).count(b"x") >= size
        else:
            await end(client, how)
            client.writer.close()
        await gone(pbal)

    run()


@lab
async def test_pipelined_requests_and_a_refused_upload(lab: Lab) -> None:
    """Hundreds in one go; then an answer that closes while the client is still sending reaches it."""
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"), more="SET max_body = 1000")
    client = await (await raw(pbal, "site", authority)).shake()
    client.send(get() * 300 + get("/page", "Connection: close"))
    assert (await client.rest()).count(b"a page") == 301
    client = await (await raw(pbal, "site", authority)).shake()
    client.send(get("/", "Content-Length: 500000", method="POST") + b"x" * 500_000)
    assert b" 413 " in await client.rest()
    client.notify()
    client.writer.close()
    await gone(pbal)


@lab
async def test_polls_under_tls_live_through_a_reload_and_are_kicked(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await chat(lab, authority.certify("a.test"))
    first, second = [await (await raw(pbal, "site", authority)).shake() for _ in range(2)]
    first.send(get("/poll/a"))
    second.send(get("/poll/b"))
    await pbal.until("poll_parked", 2)
    assert await pbal.say("RELOAD poll") == "OK"
    assert await pbal.say("RELOAD CERTIFICATES") == "OK"
    other = await (await raw(pbal, "site", authority)).shake()
    other.send(get("/publish/a", "Content-Length: 5", method="POST") + b"hello")
    assert b"hello" in await first.do(lambda: first.tls.read(65536))
    assert "ERROR" not in await pbal.say("POLL KICK b")
    await pbal.until("poll_parked", 0)
    for client in (first, second, other):
        client.writer.close()
    await gone(pbal)
