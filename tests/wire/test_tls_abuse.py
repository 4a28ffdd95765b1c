"""What hostile and broken peers do with TLS, record by record, and what an operator does meanwhile."""

import _ssl
import asyncio
import contextlib
import ctypes
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import pytest
from authority import Authority, Pair
from lab import DEADLINE, Lab, Pbal, lab, read_response, transport_of, until
from secure import files, get, proxy, secure, site, trusting


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
        await until(lambda: not pbal.world.backends, "the backend to be gone")

    run()


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
    link._out.write(b"\x15\x03\x03\x00\x02\x01\x00")
    client.send(b"")
    client.tls.write(b"\r\n")
    client.flush()
    await until(lambda: not link.transport.is_reading(), "reading to stop")
    link.resume_writing()
    assert link.transport.is_reading()


@lab
async def test_those_who_left_take_nobodys_place_in_the_queue_of_handshakes(lab: Lab) -> None:
    authority = Authority(lab.folder)
    more = "SET ssl_handshake_rate = 10\n          SET ssl_handshake_timeout = 1s"
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
    longest, loop = 0.0, asyncio.get_running_loop()
    answer = asyncio.ensure_future(client.reader.read(1))
    while not answer.done():
        began = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - began)
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
