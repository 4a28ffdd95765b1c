"""The reverse proxy over real sockets: framing, failures, retries, pools, tunnels, flow control."""

import asyncio
import re
import socket
import struct

import pytest
from lab import DEADLINE, Handler, Lab, free_port, lab, read_response, until


def conf(*nodes: str, more: str = "", pool: str = "") -> str:
    adds = "\n          ".join(f"POOL app ADD {node}" for node in nodes)
    return f"""
        CREATE POOL app
          {pool}
          {adds}
        CREATE SERVICE web
          SET role   = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool   = app
          {more}
        ENABLE web
    """


def get(path: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: h", *fields, "", ""]).encode()


def echo_head(name: bytes = b"", connections: list[asyncio.StreamWriter] | None = None) -> Handler:
    """A backend that answers each request with its head, and its name."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connections is not None:
            connections.append(writer)
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = name or head
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), b"" if head.startswith(b"HEAD") else body))

    return handler


def says(*pieces: bytes, close: bool = True) -> Handler:
    """A backend that answers each request with the same octets."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if close:
                writer.close()
                return

    return handler


@lab
async def test_pipelined_requests_are_answered_in_order_over_one_kept_backend(lab: Lab) -> None:
    connections: list[asyncio.StreamWriter] = []
    origin = await lab.origin(echo_head(connections=connections))
    pbal = await lab.pbal(conf(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(b"".join(get(f"/{number}") for number in range(20)))
    for number in range(20):
        assert (await read_response(reader)).body.startswith(b"GET /%d HTTP/1.1\r\n" % number)
    assert len(connections) == 1
    assert pbal.counts["backend_reuses"] == 19


@lab
async def test_what_the_backend_sees(lab: Lab) -> None:
    origin = await lab.origin(echo_head())
    pbal = await lab.pbal(conf(origin.address, more="HEADER web INSERT X-Site: Blue\n          HEADER web REMOVE Secret"))
    answer = await pbal.ask(
        "web",
        get("/a?b=%20c", "Connection: keep-alive, X-Hop", "X-Hop: 1", "TE: trailers", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil",
            "Secret: s", "Keep: Me", "Proxy-Connection: x", "Cookie: a=b"),
    )  # fmt: skip
    lines = answer.body.decode().split("\r\n")
    assert lines[0] == "GET /a?b=%20c HTTP/1.1"
    assert {"Host: h", "Keep: Me", "Cookie: a=b", "X-Forwarded-For: 127.0.0.1", "X-Site: Blue"} <= set(lines)
    assert re.search(r"\r\nVia: 1\.1 pbal-[0-9a-f]{8}\r\n", answer.body.decode())
    for gone in ("x-hop", "\nte:", "6.6.6.6", "evil", "secret", "proxy-connection", "connection:"):
        assert gone not in answer.body.decode().lower()
    await pbal.say("SET web trusted_upstream_proxies = 127.0.0.0/8")
    answer = await pbal.ask("web", get("/", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https"))
    assert b"X-Forwarded-For: 6.6.6.6, 127.0.0.1" in answer.body and b"X-Forwarded-Proto: https" in answer.body
    answer = await pbal.ask("web", b"GET http://other.example/x?y HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (
        answer.body.startswith(b"GET /x?y HTTP/1.1\r\n") and b"Host: other.example\r\n" in answer.body and b"Host: h\r\n" not in answer.body
    )


@lab
async def test_an_old_request_without_a_host_gets_the_nodes(lab: Lab) -> None:
    origin = await lab.origin(echo_head())
    pbal = await lab.pbal(conf(origin.address))
    answer = await pbal.ask("web", b"GET / HTTP/1.0\r\n\r\n")
    assert answer.body.startswith(b"GET / HTTP/1.1\r\n") and f"Host: {origin.address}\r\n".encode() in answer.body


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_bodies_arrive_whole_both_ways(framing, size):
    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            received = 0
            if b"chunked" in head.lower():
                while count := int(await reader.readuntil(b"\r\n"), 16):
                    data = await reader.readexactly(count + 2)
                    received += count
                    writer.write(b"%x\r\n%b" % (count, data))
                    await writer.drain()
                await reader.readuntil(b"\r\n")
            else:
                left = int(next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")).split(b":")[1])
                while left:
                    data = await reader.read(min(left, 65536))
                    left -= len(data)
                    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                    await writer.drain()
            writer.write(b"0\r\n\r\n")

    @lab
    async def run(lab: Lab) -> None:
        origin = await lab.origin(mirror)
        pbal = await lab.pbal(conf(origin.address))
        body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        for _ in range(2):
            # A connection each: an answer that begins before the request is complete announces `Connection: close`.
            reader, writer = await pbal.connect("web")
            if framing == "length":
                writer.write(get("/", f"Content-Length: {size}", method="PUT") + body)
            else:
                writer.write(get("/", "Transfer-Encoding: chunked", method="PUT"))
                for place in range(0, size, 50_000):
                    piece = body[place : place + 50_000]
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                writer.write(b"0\r\n\r\n")
            assert (await read_response(reader)).body == body

    run()


@lab
async def test_head_has_no_body_and_the_connection_goes_on(lab: Lab) -> None:
    origin = await lab.origin(echo_head(b"hello"))
    pbal = await lab.pbal(conf(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(get(method="HEAD") + get())
    response = await read_response(reader, head_only=True)
    assert response.fields["content-length"] == "5"
    assert (await read_response(reader)).body == b"hello"


@lab
async def test_204_goes_out_without_a_length(lab: Lab) -> None:
    origin = await lab.origin(says(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nA: b\r\n\r\nhello"))
    pbal = await lab.pbal(conf(origin.address))
    reader, writer = await pbal.connect("web")
    for _ in range(2):
        writer.write(get())
        answer = await read_response(reader)
        assert (answer.status, answer.fields.get("content-length"), answer.fields["a"]) == (204, None, "b")


@lab
async def test_http_1_0_clients_get_no_chunks(lab: Lab) -> None:
    origin = await lab.origin(says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", close=False))
    pbal = await lab.pbal(conf(origin.address))
    answer = await pbal.ask("web", get(version="1.0"))
    assert "transfer-encoding" not in answer.fields and answer.body == b"hello" and answer.fields["connection"] == "close"


@lab
async def test_a_response_without_length_is_chunked_for_the_client(lab: Lab) -> None:
    origin = await lab.origin(says(b"HTTP/1.0 200 OK\r\n\r\n", b"hello ", b"there"))
    pbal = await lab.pbal(conf(origin.address))
    answer = await pbal.ask("web", get())
    assert answer.body == b"hello there" and answer.fields["transfer-encoding"] == "chunked"


@lab
async def test_100_continue_is_passed_on(lab: Lab) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)

    origin = await lab.origin(app)
    pbal = await lab.pbal(conf(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(get("/", "Content-Length: 5", "Expect: 100-continue", method="POST"))
    assert (await read_response(reader)).status == 100
    writer.write(b"hello")
    assert (await read_response(reader)).body == b"hello"


@lab
async def test_an_upgrade_becomes_a_tunnel(lab: Lab) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Upgrade: websocket" in head and b"Connection: Upgrade" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Key: k\r\n\r\nwelcome")
        while data := await reader.read(1000):
            writer.write(data.upper())
        writer.write(b"bye")
        writer.close()

    origin = await lab.origin(app)
    pbal = await lab.pbal(conf(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(get("/", "Connection: Upgrade", "Upgrade: websocket"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"101" in head and b"X-Key: k" in head
    assert await reader.readexactly(7) == b"welcome"
    writer.write(b"abc")
    assert await reader.readexactly(3) == b"ABC"
    assert "tunnel" in await pbal.say("states")
    writer.write_eof()
    assert await reader.read() == b"bye"
    assert pbal.counts["tunnels"] == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/", "Host: h"), 400), (b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET /\r\n\r\n", 400), (get().replace(b"\r\n", b"\n"), 400),
        (get("/", "Content-Length: 1", "Transfer-Encoding: chunked"), 400), (get("/", "Content-Length: 1", "Content-Length: 2"), 400),
        (get("/", "Content-Length: +1"), 400), (get("/", "Transfer-Encoding: xchunked"), 400), (get("/", "A : b"), 400),
        (get("/", "A: b\r\n c"), 400), (get("/", "A: b\0"), 400), (get("/", "A: b\rc"), 400),
        (get("/" + "x" * 9000), 414), (get("/", "A: " + "x" * 70000), 431), (get("/", *["A: b"] * 101), 431),
        (get("/", "Content-Length: 999999999999"), 413), (get("/", "Transfer-Encoding: gzip, chunked"), 501),
        (get(version="2.0"), 505), (get("/", "Expect: tea", "Content-Length: 1"), 417), (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
    ],
)  # fmt: skip
def test_what_is_refused(request_bytes, status):
    @lab
    async def run(lab: Lab) -> None:
        origin = await lab.origin(echo_head())
        pbal = await lab.pbal(conf(origin.address))
        reader, writer = await pbal.connect("web")
        writer.write(request_bytes + get("/smuggled"))
        response = await read_response(reader)
        assert response.status == status
        if status not in (501, 413):
            assert response.fields["connection"] == "close"
            assert await reader.read() == b""
            assert pbal.counts["backend_connects"] == 0

    run()


@lab
async def test_slow_heads_and_bodies_are_answered_408_and_idle_connections_closed(lab: Lab) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(10 if b"POST" in head else 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    origin = await lab.origin(app)
    pbal = await lab.pbal(
        conf(
            origin.address,
            more="SET header_timeout = 100ms\n          SET idle_timeout = 100ms\n          SET persist_client_idle_timeout = 100ms",
        )
    )
    assert (await pbal.ask("web", b"GET / HTTP/1.1\r\nHo")).status == 408
    assert (await pbal.ask("web", get("/", "Content-Length: 10", method="POST") + b"abc")).status == 408
    reader, writer = await pbal.connect("web")
    writer.write(get())
    await read_response(reader)
    assert await reader.read() == b""
    assert pbal.counts["idle_closed"] == 1 and pbal.counts["request_timeouts"] == 2


def refusing_address() -> str:
    return f"127.0.0.1:{free_port()}"


@lab
async def test_no_node_is_503_refusing_nodes_502_and_a_good_one_is_found(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    assert (await pbal.ask("web", get())).status == 503
    for _ in range(3):
        await pbal.say(f"POOL app ADD {refusing_address()}")
    assert (await pbal.ask("web", get())).status == 502
    origin = await lab.origin(echo_head(b"good"))
    await pbal.say(f"POOL app ADD {origin.address}")
    for _ in range(10):
        assert (await pbal.ask("web", get("/", "Content-Length: 1", method="POST") + b"x")).body == b"good"


@lab
async def test_a_silent_node_is_504(lab: Lab) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    origin = await lab.origin(silent)
    pbal = await lab.pbal(conf(origin.address, more="SET response_timeout = 100ms"))
    assert (await pbal.ask("web", get())).status == 504
    assert pbal.counts["backend_timeouts"] == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\rA: b\r\r",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 99 No\r\n\r\n",
        b"HTTP/1.1 101 Up\r\n\r\n",
        b"\0" * 100,
        b"x" * 100000,
    ],
)
def test_garbage_from_a_backend_is_502(garbage):
    @lab
    async def run(lab: Lab) -> None:
        origin = await lab.origin(says(garbage))
        pbal = await lab.pbal(conf(origin.address))
        reader, writer = await pbal.connect("web")
        writer.write(get())
        assert (await read_response(reader)).status == 502
        writer.write(get())  # the client's connection is sound
        assert (await read_response(reader)).status == 502

    run()


@pytest.mark.parametrize(
    "cut", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
)
def test_a_truncated_response_looks_truncated(cut):
    @lab
    async def run(lab: Lab) -> None:
        origin = await lab.origin(says(cut))
        pbal = await lab.pbal(conf(origin.address))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await pbal.ask("web", get())
        if b"chunked" in cut:
            with pytest.raises(ConnectionError):
                await pbal.ask("web", get(version="1.0"))
        assert pbal.counts["truncated_responses"] >= 1

    run()


@lab
async def test_surplus_octets_of_a_response_are_dropped_with_the_connection(lab: Lab) -> None:
    origin = await lab.origin(
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", close=False)
    )
    pbal = await lab.pbal(conf(origin.address))
    reader, writer = await pbal.connect("web")
    for _ in range(3):
        writer.write(get())
        assert (await read_response(reader)).body == b"ok"
    assert pbal.counts["backend_connects"] == 3


@lab
async def test_a_stale_backend_is_retried_for_get_and_not_for_post(lab: Lab) -> None:
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request a connection, and drops the connection when the second came."""
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    origin = await lab.origin(once)
    pbal = await lab.pbal(conf(origin.address))
    for _ in range(4):
        assert (await pbal.ask("web", get())).status == 200
    assert pbal.counts["backend_retries"] == 3
    assert (await pbal.ask("web", get("/", "Content-Length: 0", method="POST"))).status == 502
    assert served == 4


@lab
async def test_pool_remove_drains_and_add_takes_up(lab: Lab) -> None:
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl")
            await release.wait()
            writer.write(b"ow")

    first = await lab.origin(slow)
    second = await lab.origin(echo_head(b"second"))
    pbal = await lab.pbal(conf(first.address))
    reader, writer = await pbal.connect("web")
    writer.write(get())
    head = await reader.readuntil(b"sl")
    await pbal.say(f"POOL app REMOVE {first.address}")
    await pbal.say(f"POOL app ADD {second.address}")
    assert "REMOVED 1" in await pbal.say("show pool app")
    assert (await pbal.ask("web", get())).body == b"second"
    release.set()
    assert (head + await reader.readexactly(2)).endswith(b"slow")
    await until(lambda: pbal.world.pool("app").draining == [], "the node to be drained")
    assert {backend.node.name for backend in pbal.world.backends} == {second.address}


@pytest.mark.parametrize("method", ["random", "round_robin", "least_connections"])
def test_balance(method):
    @lab
    async def run(lab: Lab) -> None:
        origins = [await lab.origin(echo_head(b"%d" % number)) for number in range(3)]
        pbal = await lab.pbal(conf(*(origin.address for origin in origins), pool=f"SET balance_method = {method}"))
        answers = [(await pbal.ask("web", get())).body for _ in range(60)]
        assert set(answers) == {b"0", b"1", b"2"}
        if method == "round_robin":
            assert [answers.count(b"%d" % number) for number in range(3)] == [20, 20, 20]

    run()


@lab
async def test_least_connections_passes_the_busy_node_over(lab: Lab) -> None:
    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    slow, quick = await lab.origin(busy), await lab.origin(echo_head(b"quick"))
    pbal = await lab.pbal(conf(slow.address, pool="SET balance_method = least_connections"))
    _reader, writer = await pbal.connect("web")
    writer.write(get())
    await until(lambda: pbal.world.pool("app").nodes[0].active == 1, "the slow node to be busy")
    await pbal.say(f"POOL app ADD {quick.address}")
    for _ in range(5):
        assert (await pbal.ask("web", get())).body == b"quick"


@lab
async def test_a_client_that_leaves_closes_its_backend(lab: Lab) -> None:
    gone = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await reader.read()
        finally:
            gone.set()

    origin = await lab.origin(app)
    pbal = await lab.pbal(conf(origin.address))
    _, writer = await pbal.connect("web")
    writer.write(get())
    await until(lambda: any(backend.state == "wait_res" for backend in pbal.world.backends), "the request at the backend")
    # A reset; an end alone may be half of a close, and then an answer is still wanted (the test below).
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await asyncio.wait_for(gone.wait(), DEADLINE)
    assert pbal.counts["aborted_clients"] == 1


@lab
async def test_a_half_closed_client_still_gets_its_answer(lab: Lab) -> None:
    origin = await lab.origin(echo_head(b"hello"))
    pbal = await lab.pbal(conf(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(get())
    writer.write_eof()
    assert (await read_response(reader)).body == b"hello"
    assert await reader.read() == b""
    assert pbal.counts["half_closed"] == 1 and pbal.counts["aborted_clients"] == 0


@lab
async def test_a_slow_reader_stops_the_backend_and_nothing_grows(lab: Lab) -> None:
    sent = 0
    size = 30_000_000

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    origin = await lab.origin(app)
    pbal = await lab.pbal(conf(origin.address, more="SET buffer_size = 100k"))
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, pbal.server.address("web"))
    await loop.sock_sendall(sock, get())
    before = -1
    while before != sent:  # until the backend stands still
        before = sent
        for _ in range(50):
            await asyncio.sleep(0.002)
    assert 0 < sent < size - 5_000_000
    client = next(iter(pbal.world.clients))
    assert client.transport.get_write_buffer_size() < 1_000_000
    received = 0
    while received < size:
        received += len(await loop.sock_recv(sock, 1_000_000))
    sock.close()


@lab
async def test_a_slow_backend_stops_an_uploading_client(lab: Lab) -> None:
    taking = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await taking.wait()
        received = len(await reader.readexactly(30_000_000))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%d" % received)

    origin = await lab.origin(app)
    pbal = await lab.pbal(conf(origin.address, more="SET buffer_size = 100k"))
    reader, writer = await pbal.connect("web")
    writer.write(get("/", "Content-Length: 30000000", method="POST") + b"x" * 30_000_000)
    await until(lambda: any(b.transport and b.transport.get_write_buffer_size() > 100_000 for b in pbal.world.backends), "a full backend")
    client = next(iter(pbal.world.clients))
    await until(lambda: not client.transport.is_reading(), "the client to be stopped")
    assert all(backend.transport.get_write_buffer_size() < 2_000_000 for backend in pbal.world.backends)
    taking.set()
    assert (await read_response(reader)).body == b"30000000"


@lab
async def test_an_answer_before_the_upload_is_complete(lab: Lab) -> None:
    origin = await lab.origin(says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", close=False))
    pbal = await lab.pbal(conf(origin.address, more="SET buffer_backend_connect = 0"))
    reader, writer = await pbal.connect("web")
    writer.write(get("/", "Content-Length: 1000000", method="POST") + b"x" * 1000)
    response = await read_response(reader)
    assert (response.status, response.body, response.fields["connection"]) == (403, b"no", "close")
