"""What the head of a node's answer may look like, and what of a client's head goes no further."""

import pytest
from lab import Lab, lab, read_response, until
from scripted import OK, Client, Scripted, answer, get, proxy, statuses

LONE_LF = [
    b"HTTP/1.1 200 OK\nContent-Length: 5\nA: b\n\nhello",
    b"HTTP/1.1 200 OK\nContent-Length: 5\r\nA: b\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\nhello",
    b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 200 OK\nA: b\n\nhello",
    b"HTTP/1.1 200 OK\nA: b\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 20])
@pytest.mark.parametrize("said", LONE_LF)
def test_a_lone_lf_of_a_backend_is_taken_and_written_as_crlf(said: bytes, cut: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address))
        client = await Client.of(pbal, request=get())
        node = await origin.connection()
        await node.request()
        node.say(said[:cut])
        (backend,) = pbal.world.backends
        await until(lambda: not cut or backend.reader.buffered == cut, "the first piece")
        node.say(said[cut:])
        if b"HTTP/1.0" in said:
            node.writer.write_eof()
        got = await read_response(client.reader)
        assert (got.status, got.body, got.fields["a"]) == (200, b"hello", "b")
        assert got.head.count(b"\n") == got.head.count(b"\r\n") and got.head.count(b"\r") == got.head.count(b"\n")

    run()


@lab
async def test_heads_before_the_answer_may_end_their_lines_with_lf_too(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    client = await Client.of(pbal, request=get("/", "Connection: Upgrade", "Upgrade: echo"))
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: echo\n\nlo\nfar")
    for status in (103, 101):
        got = await read_response(client.reader)
        assert got.status == status and got.head.count(b"\n") == got.head.count(b"\r\n")
    assert await client.reader.readexactly(6) == b"lo\nfar"


@pytest.mark.parametrize("chunks", [b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n0\r\n\n"])
def test_a_lone_lf_in_a_backends_chunks_is_refused(chunks: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address))
        client = await Client.of(pbal, request=get())
        node = await origin.connection()
        await node.request()
        node.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        await node.gone()
        try:
            got = await client.rest()
        except ConnectionError:
            got = b""
        assert statuses(got) == [502] or not got.endswith(b"\r\n0\r\n\r\n")
        assert pbal.counts["truncated_responses"] + pbal.counts["backend_errors"] == 1

    run()


@pytest.mark.parametrize(
    "request_bytes",
    [
        get().replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n"),
        get("/", "A: b").replace(b"h\r\nA", b"h\nA"),
        get("/", "A: b").replace(b"b\r\n", b"b\n"),
        get()[:-2] + b"\n",
        get("/", "Transfer-Encoding: chunked", method="POST") + b"1\nx\r\n0\r\n\r\n",
        get("/", "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\n0\r\n\r\n",
        get("/", "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n0\r\nA: b\n\r\n",
    ],
)
def test_a_lone_lf_of_a_client_is_refused(request_bytes: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address))
        client = await Client.of(pbal, request=request_bytes + get("/smuggled"))
        assert statuses(await client.rest()) == [400]
        for node in origin.connections:
            assert b"smuggled" not in await node.gone()

    run()


@lab
async def test_limits_of_responses_are_their_own(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more="SET max_request_fields = 10;SET max_request_head = 4k"))
    client = await Client.of(pbal)

    async def gets(*fields: str) -> int:
        client.writer.write(get())
        node = await until(lambda: next((node for node in origin.connections if not node.is_gone), None), "a connection")
        await node.request()
        node.say(answer(b"ok", *fields))
        got = await read_response(client.reader)
        if got.status == 200:
            assert [line for line in got.head.decode().split("\r\n") if line.startswith(("Set-Cookie", "X-"))] == list(fields)
        else:
            await node.gone()
        return got.status

    assert await gets(*(f"Set-Cookie: name{number}=value; Path=/" for number in range(150))) == 200
    assert await gets(*(f"X-{number}: a" for number in range(101))) == 200
    assert await gets(*(f"X-{number}: a" for number in range(999))) == 200
    assert await gets(*(f"X-{number}: a" for number in range(1000))) == 502
    assert await gets("X-Long: " + "x" * 50_000) == 200
    assert await gets("X-Long: " + "x" * 263_000) == 502
    assert await pbal.say("SET web max_response_fields = 3") == "OK"
    assert await pbal.say("SET web max_response_head = 2k") == "OK"
    assert await gets("X-1: a", "X-2: b", "X-3: c") == 502
    assert await gets("X-1: a", "X-Long: " + "x" * 1900) == 200
    assert await gets("X-Long: " + "x" * 2100) == 502


@lab
async def test_a_426_keeps_its_upgrade_and_no_other_answer_does(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    client = await Client.of(pbal)
    node = None
    for status, fields, offer in (
        (b"426 Upgrade Required", b"Connection: Upgrade\r\nUpgrade: TLS/1.3, HTTP/2.0\r\n", "TLS/1.3, HTTP/2.0"),
        (b"200 OK", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", None),
        (b"426 Upgrade Required", b"", None),
    ):
        client.writer.write(get())
        node = node or await origin.connection()
        await node.request()
        node.say(b"HTTP/1.1 %b\r\n%bContent-Length: 2\r\n\r\nno" % (status, fields))
        got = await read_response(client.reader)
        assert got.fields.get("upgrade") == offer and got.body == b"no"
        assert ("upgrade" in got.fields.get("connection", "").lower()) == (offer is not None)
    assert pbal.counts["tunnels"] == 0


@pytest.mark.parametrize("expectation", ["100-continue", "tea"])
@lab
async def test_the_expectation_of_http_1_0_goes_no_further(lab: Lab, expectation: str) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    request = get("/", f"Expect: {expectation}", "Content-Length: 2", "A: b", method="POST", version="1.0")
    client = await Client.of(pbal, request=request + b"hi")
    node = await origin.connection()
    head = await node.request()
    assert b"expect" not in head.lower() and b"A: b\r\n" in head
    assert await node.reader.readexactly(2) == b"hi"
    node.say(OK)
    assert statuses(await client.rest()) == [200]


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1\nHost:", "GET / HTTP/1.1\nHost: \t ", "GET / HTTP/1.0\nHost:", "GET / HTTP/1.1\nHost: :80",
        "GET http:///x HTTP/1.1\nHost: h", "GET http://:80/x HTTP/1.1\nHost: h", "GET http://user@/x HTTP/1.1\nHost: h",
        "GET http://h/x HTTP/1.1\nHost:", "OPTIONS * HTTP/1.1\nHost:",
    ],
)  # fmt: skip
def test_an_empty_host_is_400(head: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address))
        assert statuses(await (await Client.of(pbal, request=(head + "\n\n").replace("\n", "\r\n").encode())).rest()) == [400]
        assert not origin.connections

    run()


@pytest.mark.parametrize("sent", [b"", b"ab"])
@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked"])
def test_a_switch_before_the_request_has_come_whole_is_refused(framing: str, sent: bytes) -> None:
    """What is left of its body would be taken for the new protocol."""

    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, more="SET buffer_backend_connect = 0"))
        body = b"2\r\nab\r\n" if sent and "chunked" in framing else sent
        request = get("/", "Connection: Upgrade", "Upgrade: echo", framing, method="PUT") + body
        client = await Client.of(pbal, request=request)
        node = await origin.connection()
        await node.request()
        node.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert (await read_response(client.reader)).status == 502
        client.writer.write(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"smuggled" not in await node.gone()
        assert pbal.counts["requests"] == 1

    run()
