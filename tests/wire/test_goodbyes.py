"""Requests that come back to their sender, and clients that have sent their end or are gone.

Tunnels that end are in test_bad_peers.py, crowds that leave in test_crowds.py, keep-alive probes in test_listening.py, deadlines
that fail in test_loop.py.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest
from lab import Lab, Pbal, lab, read_response, until
from scripted import OK, Client, Scripted, Taken, get, proxy, statuses, ticks

VIA = re.compile(rb"\r\nVia: ([^\r]*)(?=\r\n)")


def names(head: bytes) -> list[bytes]:
    """Who has passed a request on."""
    return [entry.split()[1] for value in VIA.findall(head) for entry in value.split(b", ")]


# -- loops -----------------------------------------------------------------------------------------------------------


@lab
async def test_a_node_that_is_pbal_itself_is_found_out_at_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await lab.pbal(proxy())
    host, port = pbal.server.address("web")
    await pbal.say(f"POOL app ADD {host}:{port}")
    for number in range(1, 4):
        assert (await pbal.ask("web", get())).status == 508
        assert pbal.counts["loops_refused"] == number
        assert pbal.counts["requests"] == 2 * number
    assert pbal.counts["backend_connects"] <= 3
    said = [record.getMessage() for record in caplog.records if "came back" in record.getMessage()]
    assert len(said) == 1 and "service web" in said[0]


@lab
async def test_a_loop_through_several_pbals_ends_where_it_began(lab: Lab) -> None:
    first, second = await lab.pbal(proxy()), await lab.pbal(proxy())
    for one, other in ((first, second), (second, first)):
        host, port = other.server.address("web")
        await one.say(f"POOL app ADD {host}:{port}")
    for rule in ("REMOVE Via", "INSERT Via: 1.1 somebody"):
        assert (await second.say(f"HEADER web {rule}")).startswith("ERROR: 'Via' cannot")
    assert (await first.ask("web", get("/", "Via: 1.0 fred, 1.1 pbal-00000000"))).status == 508
    assert first.counts["requests"] == 2 and second.counts["requests"] == 1
    assert first.counts["loops_refused"] == 1 and second.counts["loops_refused"] == 0


@lab
async def test_a_loop_through_a_selector_is_found_out(lab: Lab) -> None:
    pbal = await lab.pbal(
        "LOAD vpaths\n"
        + proxy()
        + """
        CREATE SERVICE front
          SET role    = selector
          SET listen  = 127.0.0.1:0
          SET plugins = vpaths
          VPATH ^/ = web
        ENABLE front
        """
    )
    host, port = pbal.server.address("front")
    await pbal.say(f"POOL app ADD {host}:{port}")
    assert (await pbal.ask("front", get())).status == 508
    assert pbal.counts["requests"] == 2 and pbal.counts["loops_refused"] == 1


@lab
async def test_pbals_in_a_chain_are_no_loop(lab: Lab) -> None:
    """Services of one process, and processes with services of one name: each has a name of its own in Via."""
    origin = await Scripted.start(lab)
    last = await lab.pbal(proxy(origin.address))
    host, port = last.server.address("web")
    middle = await lab.pbal(
        proxy(f"{host}:{port}")
        + """
        CREATE POOL inner
        CREATE SERVICE outer
          SET role   = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool   = inner
        ENABLE outer
        """
    )
    host, port = middle.server.address("web")
    await middle.say(f"POOL inner ADD {host}:{port}")
    asking = asyncio.ensure_future(middle.ask("outer", get("/", "Via: 1.0 fred")))
    node = await origin.connection()
    passed = names(await node.request())
    node.say(OK)
    assert (await asking).status == 200
    assert passed[0] == b"fred" and len(set(passed)) == 4
    assert all(re.fullmatch(rb"pbal-[0-9a-f]{8}", name) for name in passed[1:])
    assert middle.counts["loops_refused"] == last.counts["loops_refused"] == 0


@lab
async def test_the_name_in_via_is_new_with_each_start_and_the_same_meanwhile(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    seen: list[list[bytes]] = []
    for start in range(2):
        pbal = await lab.pbal(proxy(origin.address))
        client = await Client.of(pbal)
        for _ in range(2):
            client.writer.write(get())
            node = await origin.connection(start)
            seen.append(names(await node.request()))
            node.say(OK)
            await read_response(client.reader)
    assert seen[0] == seen[1] and seen[2] == seen[3] and seen[0] != seen[2]


# -- half-closed ------------------------------------------------------------------------------------------------------

FILES = """
    LOAD vpaths
    CREATE SERVICE files
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}
    ENABLE files
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 127.0.0.1:0
      SET plugins = vpaths
      VPATH ^/file = files
      VPATH ^/ = web
    ENABLE front
"""


async def mirror(taken: Taken) -> None:
    """Answers each request with its path, some turns of the loop later."""
    while True:
        path = (await taken.request()).split()[1]
        for _ in range(5):
            await asyncio.sleep(0)
        taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


async def mixed(lab: Lab, more: str = "", behaviour: Callable[[Taken], Awaitable[None]] | None = mirror) -> tuple[Pbal, Scripted]:
    """`web` asks its node at once, so that what there is of an upload is on its way."""
    origin = await Scripted.start(lab, behaviour)
    (lab.folder / "file").write_bytes(b"f" * 100)
    more += ";SET buffer_backend_connect = 0"
    return await lab.pbal(proxy(origin.address, more=more) + "\n" + FILES.format(folder=lab.folder)), origin


@pytest.mark.parametrize("number", [1, 3, 200])
@pytest.mark.parametrize("rest", [b"", b"GET /cut HT", b"\r\n"])
@pytest.mark.parametrize(
    ("service", "paths"), [("web", ["/a", "/bc"]), ("files", ["/file", "/missing"]), ("front", ["/file", "/a"]), ("front", ["/a", "/file"])]
)
def test_pipelined_requests_before_a_half_close_are_all_answered(service: str, paths: list[str], rest: bytes, number: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal, _ = await mixed(lab)
        asked = [paths[place % 2] for place in range(number)]
        client = await Client.of(pbal, service, b"".join(map(get, asked)) + rest)
        client.writer.write_eof()
        for path in asked:
            got = await read_response(client.reader)
            if path == "/missing":
                assert got.status == 404
            else:
                assert got.body == (b"f" * 100 if path == "/file" else path.encode())
        assert await client.rest() == b""
        await pbal.until("clients", 0)

    run()


@pytest.mark.parametrize("service", ["web", "front"])
@lab
async def test_an_upload_before_a_half_close_is_answered_and_what_is_behind_it(lab: Lab, service: str) -> None:
    async def drain(taken: Taken) -> None:
        while True:
            head = await taken.request()
            if b"POST" in head:
                await taken.reader.readuntil(b"0\r\n\r\n")
            taken.say(OK)

    pbal, _ = await mixed(lab, behaviour=drain)
    body = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    client = await Client.of(pbal, service, (get("/", "Transfer-Encoding: chunked", method="POST") + body + get("/")) * 2)
    client.writer.write_eof()
    assert statuses(await client.rest()) == [200] * 4


@pytest.mark.parametrize("request_bytes", [get("/", "Content-Length: 3", method="POST") + b"ab", get()[:-2], b""])
@lab
async def test_what_was_not_asked_for_whole_is_not_awaited(lab: Lab, request_bytes: bytes) -> None:
    pbal, origin = await mixed(lab, behaviour=None)
    client = await Client.of(pbal, request=request_bytes)
    client.writer.write_eof()
    assert await client.rest() == b""
    for node in origin.connections:
        await node.gone()
    await pbal.until("clients", 0)


UPLOAD = get("/never", "Content-Length: 3", method="PUT") + b"abc"
CHUNKED = get("/never", "Transfer-Encoding: chunked", method="PUT") + b"1\r\na\r\n" * 5000 + b"0\r\n\r\n"


@pytest.mark.parametrize("before", [b"", get("/file"), get("/file") * 100])
@pytest.mark.parametrize("asked", [get("/never"), UPLOAD, CHUNKED, UPLOAD[:-1], CHUNKED[:-5]])
@pytest.mark.parametrize("more", ["", "SET half_close_timeout = 200ms"])
def test_after_its_end_a_client_is_answered_for_so_long_and_then_the_node_is_let_go(more: str, asked: bytes, before: bytes) -> None:
    """Also behind others that were pipelined. A body that was cut off by the end is not awaited at all."""

    @lab
    async def run(lab: Lab) -> None:
        pbal, origin = await mixed(lab, more, behaviour=None)
        client = await Client.of(pbal, "front", before + asked + (get("/more") if asked == get("/never") else b""))
        client.writer.write_eof()
        node = await origin.connection()
        await node.request()
        await node.gone()
        assert statuses(await client.rest()) == [200] * before.count(b"GET")
        assert pbal.counts["aborted_clients"] == 1 and len(origin.connections) == 1
        await pbal.until("clients", 0)

    run()


@lab
async def test_each_pipelined_request_has_the_whole_time(lab: Lab) -> None:
    pbal, origin = await mixed(lab, "SET half_close_timeout = 3500ms", behaviour=None)
    client = await Client.of(pbal, request=get() * 3)
    client.writer.write_eof()
    node = await origin.connection()
    for _ in range(3):
        await node.request()
        await ticks(pbal, 2)
        node.say(OK)
        assert (await read_response(client.reader)).status == 200
    assert await client.rest() == b""


@lab
async def test_half_close_timeout_holds_also_for_who_waits_when_it_is_set(lab: Lab) -> None:
    pbal, origin = await mixed(lab, "SET half_close_timeout = 0;SET response_timeout = 0", behaviour=None)
    client = await Client.of(pbal, request=get())
    client.writer.write_eof()
    node = await origin.connection()
    await node.request()
    await ticks(pbal, 2)
    assert await pbal.say("SET web half_close_timeout = 100ms") == "OK"
    assert await client.rest() == b""
    await node.gone()
    await pbal.until("clients", 0)


@pytest.mark.parametrize("live", [False, True])
@lab
async def test_half_close_timeout_0_is_for_ever(lab: Lab, live: bool) -> None:
    pbal, origin = await mixed(lab, "" if live else "SET half_close_timeout = 0", behaviour=None)
    if live:
        assert await pbal.say("SET web half_close_timeout = 0") == "OK"
    client = await Client.of(pbal, request=get())
    client.writer.write_eof()
    node = await origin.connection()
    await node.request()
    await ticks(pbal, 4)
    node.say(OK)
    assert statuses(await client.rest()) == [200]


@lab
async def test_an_answer_that_has_begun_is_sent_to_its_end(lab: Lab) -> None:
    pbal, origin = await mixed(lab, "SET half_close_timeout = 100ms", behaviour=None)
    for before in (True, False):
        client = await Client.of(pbal, request=get())
        node = await origin.connection(len(origin.connections) - 1 if origin.connections else 0)
        await node.request()
        if before:
            client.writer.write_eof()
        node.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbe")
        head = await client.reader.readuntil(b"be")
        if not before:
            client.writer.write_eof()
        await ticks(pbal, 3)
        node.say(b"en")
        assert (head + await client.rest()).endswith(b"been")


@lab
async def test_a_tunnel_is_exempt(lab: Lab) -> None:
    pbal, origin = await mixed(lab, "SET half_close_timeout = 100ms", behaviour=None)
    client = await Client.of(pbal, request=get("/", "Connection: Upgrade", "Upgrade: echo"))
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert (await read_response(client.reader)).status == 101
    client.writer.write(b"last words")
    client.writer.write_eof()
    assert await node.reader.read() == b"last words"
    await ticks(pbal, 3)
    node.say(b"still here")
    assert await client.reader.readexactly(10) == b"still here"
    node.writer.write_eof()
    assert await client.rest() == b""


# -- gone -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["asked", "behind a pipelined one", "uploading", "answering", "in a tunnel", "right after its end"])
def test_a_reset_ends_the_request_to_the_node_at_once(when: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal, origin = await mixed(lab, "SET half_close_timeout = 0;SET response_timeout = 0", behaviour=None)
        fields = ("Connection: Upgrade", "Upgrade: echo") if when == "in a tunnel" else ()
        request = get("/", "Content-Length: 9", method="PUT") + b"abc" if when == "uploading" else get("/", *fields)
        client = await Client.of(pbal, request=request + (get("/next") if when == "behind a pipelined one" else b""))
        node = await origin.connection()
        await node.request()
        if when == "answering":
            node.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            await client.reader.readuntil(b"abc")
        elif when == "in a tunnel":
            node.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
        elif when == "uploading":
            assert await node.reader.readexactly(3) == b"abc"
        elif when == "right after its end":
            client.writer.write_eof()
        client.reset()
        assert await node.gone() == b""
        await pbal.until("clients", 0)
        assert not pbal.world.backends

    run()


@pytest.mark.parametrize("why", ["its node takes no more of the upload", "too much is pipelined", "it has sent its end"])
@pytest.mark.parametrize("patience", ["0", "1h"])
def test_a_reset_is_seen_though_the_client_is_not_read(why: str, patience: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        settings = f"SET half_close_timeout = {patience};SET response_timeout = 0;SET idle_timeout = 0"
        pbal, origin = await mixed(lab, settings, behaviour=None)
        size = 50_000_000
        if why.startswith("its node"):
            client = await Client.of(pbal, request=get("/", f"Content-Length: {size}", method="PUT") + b"x" * size)
        else:
            client = await Client.of(pbal, request=get())
        node = await origin.connection()
        await node.request()
        (connection,) = pbal.world.clients
        if why.startswith("too much"):
            client.writer.write(get("/behind") * 3000)
        elif why.startswith("it has"):
            client.writer.write_eof()
        await until(lambda: not connection.transport.is_reading(), "it not to be read any more")
        await ticks(pbal, 2)
        assert connection in pbal.world.clients and pbal.world.backends
        client.reset()
        await pbal.until("clients", 0)
        await until(lambda: not pbal.world.backends, "the node to be let go")
        assert pbal.counts["aborted_clients"] == 1
        await node.gone()

    run()


POLLS = """
    LOAD poll
    CREATE SERVICE chat
      SET role             = {role}
      SET listen           = 127.0.0.1:0
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
      SET half_close_timeout = {timeout}
    ENABLE chat
"""


async def publish(pbal: Pbal, text: bytes) -> None:
    request = b"POST /publish/me HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
    assert (await pbal.ask("chat", request)).status == 202


@pytest.mark.parametrize("role", ["web_server", "reverse_proxy"])
@pytest.mark.parametrize("timeout", ["1s", "0"])
@pytest.mark.parametrize("before", [b"", get("/missing"), get("/missing") * 200])
@pytest.mark.parametrize("together", [True, False])
def test_the_end_of_a_parked_polls_client_means_gone(role: str, timeout: str, before: bytes, together: bool) -> None:
    """Whatever was asked for before it on the connection, and whether the end came with the poll; its messages wait for the next one."""

    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(POLLS.format(role=role, timeout=timeout))
        client = await Client.of(pbal, "chat", before + get("/poll/me"))
        if not together:
            await pbal.until("poll_parked_ever", 1)
        client.writer.write_eof()
        got = statuses(await client.rest())
        assert len(got) == before.count(b"GET") and 200 not in got
        await pbal.until("poll_parked", 0)
        await pbal.until("clients", 0)
        await publish(pbal, b"kept")
        assert (await pbal.ask("chat", get("/poll/me"))).body == b"kept\n"

    run()


@lab
async def test_a_poll_behind_an_answer_that_is_still_to_come_is_gone_with_its_client(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    polls = POLLS.format(role="reverse_proxy", timeout="1s").replace("ENABLE", "SET pool = app\n    ENABLE")
    pbal = await lab.pbal(proxy(origin.address) + polls)
    client = await Client.of(pbal, "chat", get("/slow") + get("/poll/me"))
    client.writer.write_eof()
    node = await origin.connection()
    await node.request()
    (connection,) = pbal.world.clients
    await until(lambda: connection.half_closed, "its end to be seen")
    node.say(OK)
    assert statuses(await client.rest()) == [200]
    await pbal.until("poll_parked", 0)
    await publish(pbal, b"kept")
    assert (await pbal.ask("chat", get("/poll/me"))).body == b"kept\n"
