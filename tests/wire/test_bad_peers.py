"""Peers that are slow, rude or unlucky, on both sides: each was once a hang, a leak or a lost message."""

import asyncio
import socket
from collections.abc import Callable

import pytest
from lab import DEADLINE, Handler, Lab, Pbal, lab, read_response, until
from scripted import OK, Client, Scripted

from pbal.net.connection import READ_AHEAD


def proxy(*nodes: str, more: str = "") -> str:
    adds = "\n          ".join(f"POOL app ADD {node}" for node in nodes)
    return f"""
        CREATE POOL app
          SET balance_method = round_robin
          {adds}
        CREATE SERVICE web
          SET role   = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool   = app
          {more}
        ENABLE web
    """


CHAT = """
    LOAD poll
    CREATE SERVICE web
      SET role             = web_server
      SET listen           = 127.0.0.1:0
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
      SET docroot          = {folder}
    ENABLE web
"""


def get(path: str = "/", *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *fields, "", ""]).encode()


def post(path: str, body: bytes) -> bytes:
    return get(path, f"Content-Length: {len(body)}", method="POST") + body


async def narrow(pbal: Pbal, service: str = "web") -> socket.socket:
    """A client's socket that takes few octets at a time."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, pbal.server.address(service))
    return sock


async def settled(value: Callable[[], object]) -> None:
    """Until `value()` stays as it is over many turns of the loop."""
    before = object()
    while before != (before := value()):
        for _ in range(200):
            await asyncio.sleep(0)


async def ends(sock: socket.socket) -> bytes:
    """Everything up to the end, a little at a time."""
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(DEADLINE):
        while piece := await loop.sock_recv(sock, 65536):
            data += piece
    sock.close()
    return data


# --- files ---------------------------------------------------------------------------------------------------------


@lab
async def test_a_large_file_reaches_a_reader_that_pauses(lab: Lab) -> None:
    (lab.folder / "large").write_bytes(bytes(range(256)) * 50_000)
    pbal = await lab.pbal(CHAT.format(folder=lab.folder))
    sock = await narrow(pbal)
    await asyncio.get_running_loop().sock_sendall(sock, get("/large", "Connection: close"))
    await until(lambda: any(client.full for client in pbal.world.clients), "the client to be full")
    (client,) = pbal.world.clients
    await settled(client.transport.get_write_buffer_size)
    assert client.transport.get_write_buffer_size() < pbal.world.service("web")["buffer_size"] + 2 * 131072
    assert (await ends(sock)).endswith(b"\r\n\r\n" + bytes(range(256)) * 50_000)


@lab
async def test_a_reader_that_leaves_in_the_middle_of_a_file_leaves_nothing_open(lab: Lab) -> None:
    (lab.folder / "large").write_bytes(b"x" * 12_000_000)
    pbal = await lab.pbal(CHAT.format(folder=lab.folder))
    used = await pbal.say("fd")
    socks = [await narrow(pbal) for _ in range(10)]
    for sock in socks:
        await asyncio.get_running_loop().sock_sendall(sock, get("/large"))
    await until(lambda: sum(client.full for client in pbal.world.clients) == 10, "all to be full")
    for sock in socks:
        sock.close()
    await pbal.until("clients", 0)
    assert await pbal.say("fd") == used


@lab
async def test_the_last_octets_of_a_closing_answer_reach_a_slow_reader(lab: Lab) -> None:
    (lab.folder / "large").write_bytes(b"x" * 3_000_000)
    pbal = await lab.pbal(CHAT.format(folder=lab.folder))
    sock = await narrow(pbal)
    await asyncio.get_running_loop().sock_sendall(sock, get("/large", "Connection: close") + b"\r\n")
    await until(lambda: any(client.state == "lingering" for client in pbal.world.clients), "all to be written")
    (client,) = pbal.world.clients
    client.expired(pbal.world.clock.now() + 3)  # the time of lingering is over, and much is unsent
    assert client.state == "lingering" and client.unsent_octets
    assert (await ends(sock)).endswith(b"x" * 100)


# --- one connection and another ------------------------------------------------------------------------------------


@lab
async def test_a_chain_of_pipelined_publishes_through_many_connections(lab: Lab) -> None:
    """Each answer sets off the request that waits behind it on its connection, which answers the next one."""
    pbal = await lab.pbal(CHAT.format(folder=lab.folder))
    chain = [await pbal.connect("web") for _ in range(150)]
    for number, (_, writer) in enumerate(chain):
        writer.write(get(f"/poll/q{number}") + post(f"/publish/q{number + 1}", b"m"))
    await pbal.until("poll_parked", 150)
    await pbal.ask("web", post("/publish/q0", b"m"))
    for reader, _ in chain:
        assert (await read_response(reader)).body == b"m\n"
        assert (await read_response(reader)).status == 202
    assert pbal.counts["plugin_errors"] == 0 and pbal.plugin("web").hub.lot.is_empty()


@lab
async def test_pipelined_polls_whose_answers_are_not_acknowledged_give_them_all_back_in_order(lab: Lab) -> None:
    """Many are written, and which of them the peer has is known all the same: none."""
    pbal = await lab.pbal(CHAT.format(folder=lab.folder).replace("ENABLE web", "  SET poll_max_queue = 16m\n    ENABLE web"))
    sock = await narrow(pbal)
    await asyncio.get_running_loop().sock_sendall(sock, get("/poll/a") * 60)
    for number in range(200):
        await pbal.ask("web", post("/publish/a", b"%03d" % number + b"x" * 50_000))
        await asyncio.sleep(0)
        if not pbal.counts["poll_parked"]:
            break
    assert not pbal.counts["poll_parked"], "the client takes no more"
    answered = pbal.counts["poll_answered"]
    assert answered > 1
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    await pbal.until("poll_gone", answered)
    assert pbal.counts["answers_lost"] == pbal.counts["poll_lost_answers"] == answered
    left = (await pbal.ask("web", get("/poll/a"))).body.split(b"\n")[:-1]
    assert [int(message[:3]) for message in left] == list(range(number + 1))


@lab
async def test_a_parked_poll_that_sends_on_and_on_is_closed(lab: Lab) -> None:
    pbal = await lab.pbal(CHAT.format(folder=lab.folder))
    _reader, writer = await pbal.connect("web")
    writer.write(get("/poll/a"))
    await pbal.until("poll_parked", 1)
    writer.write(get("/" + "x" * 1000) * (READ_AHEAD // 1000 + 1000))
    await pbal.until("poll_gone", 1)
    assert pbal.plugin("web").hub.lot.is_empty()


# --- requests on their way ----------------------------------------------------------------------------------------------


@lab
async def test_an_empty_chunked_body_is_whole_again_when_it_is_sent_again(lab: Lab) -> None:
    seen: list[bytes] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            seen.append(head)
            if b"/again" in head:
                if len([one for one in seen if b"/again" in one]) == 1:
                    writer.close()
                    return
                seen.append(await reader.readexactly(5))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    origin = await lab.origin(app)
    pbal = await lab.pbal(proxy(origin.address, more="SET buffer_backend_connect = 0"))
    reader, writer = await pbal.connect("web")
    for request in (get("/first"), get("/again", "Transfer-Encoding: chunked") + b"0\r\n\r\n", get("/last")):
        writer.write(request)
        assert (await read_response(reader)).body == b"ok"
    assert seen[3] == b"0\r\n\r\n" and seen[4].startswith(b"GET /last")


@lab
async def test_the_time_of_a_node_begins_when_it_has_the_whole_request(lab: Lab) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + await reader.readexactly(4))

    origin = await lab.origin(app)
    pbal = await lab.pbal(proxy(origin.address, more="SET buffer_backend_connect = 0"))
    reader, writer = await pbal.connect("web")
    writer.write(get("/", "Content-Length: 4", method="POST") + b"ab")
    await until(lambda: [backend for backend in pbal.world.backends if backend.state == "wait_res"], "the node to be asked")
    (backend,) = pbal.world.backends
    assert backend.deadline == float("inf")
    writer.write(b"cd")
    assert (await read_response(reader)).body == b"abcd"


@lab
async def test_who_waits_for_a_connection_that_another_took_is_served_by_the_next(lab: Lab) -> None:
    """Two wait: the good node's connection goes to the first, whose own one then fails. The second is not forgotten."""
    slow = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/slow" in head:
            await slow.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    good = await lab.origin(app)
    deaf = socket.socket()  # listens, and its queue is full: connecting to it takes for ever
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(deaf.getsockname())
    pbal = await lab.pbal(proxy(f"127.0.0.1:{deaf.getsockname()[1]}", good.address, more="SET connect_timeout = 300ms"))
    first, second = await pbal.connect("web"), await pbal.connect("web")
    first[1].write(get("/slow"))
    second[1].write(get("/slow"))
    await until(lambda: pbal.counts["backend_connect_failures"], "the deaf node to be given up")
    await until(lambda: sum(backend.state == "wait_res" for backend in pbal.world.backends) == 2, "both to be at the good node")
    slow.set()
    for reader, _ in (first, second):
        assert (await read_response(reader)).body == b"ok"
    for sock in (deaf, *fillers):
        sock.close()


@lab
async def test_a_host_of_a_thousand_labels_is_refused(lab: Lab) -> None:
    pbal = await lab.pbal(CHAT.format(folder=lab.folder))
    request = b"GET / HTTP/1.1\r\nHost: " + b"a." * 1000 + b"x\r\n\r\n"
    assert (await pbal.ask("web", request)).status == 400
    assert (await pbal.ask("web", b"GET http://" + b"a." * 1000 + b"/ HTTP/1.1\r\nHost: x\r\n\r\n")).status == 400


@lab
async def test_what_a_client_may_not_claim(lab: Lab) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))

    origin = await lab.origin(app)
    pbal = await lab.pbal(proxy(origin.address))
    answer = await pbal.ask("web", get("/", "X_Forwarded_For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6"))
    assert b"6.6.6.6" not in answer.body
    answer = await pbal.ask("web", b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.body.startswith(b"OPTIONS * HTTP/1.1\r\n")


# --- tunnels --------------------------------------------------------------------------------------------------------


def tunnel(answer: Handler) -> Handler:
    """A backend that accepts an Upgrade and goes on with `answer(reader, writer)`."""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        await answer(reader, writer)

    return app


UPGRADE = get("/", "Connection: Upgrade", "Upgrade: x")


@lab
async def test_what_was_sent_before_the_101_goes_through_and_so_does_what_follows(lab: Lab) -> None:
    go = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        while piece := await reader.read(65536):
            writer.write(b"%d\n" % len(piece))
        writer.write(b"end")
        writer.close()

    origin = await lab.origin(app)
    pbal = await lab.pbal(proxy(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(UPGRADE)
    await until(lambda: any(backend.state == "wait_res" for backend in pbal.world.backends), "the node to be asked")
    writer.write(b"x" * (READ_AHEAD + 5000))
    await until(lambda: not next(iter(pbal.world.clients)).transport.is_reading(), "enough to be read ahead")
    go.set()
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"y" * 1000)
    writer.write_eof()
    *sizes, end = (await reader.read()).split(b"\n")
    assert (sum(map(int, sizes)), end) == (READ_AHEAD + 6000, b"end")


@lab
async def test_a_client_that_ended_its_side_before_the_101(lab: Lab) -> None:
    go = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        writer.write(b"end" + await reader.read())
        writer.close()

    origin = await lab.origin(app)
    pbal = await lab.pbal(proxy(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(UPGRADE)
    writer.write_eof()
    await until(lambda: any(client.half_closed for client in pbal.world.clients), "the client's end")
    go.set()
    assert (await reader.read()).endswith(b"\r\n\r\nend")


@lab
async def test_a_tunnel_that_both_sides_ended_is_closed(lab: Lab) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        writer.write_eof()  # and does not close

    origin = await lab.origin(tunnel(answer))
    pbal = await lab.pbal(proxy(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(UPGRADE)
    await reader.readuntil(b"\r\n\r\n")
    writer.write_eof()
    assert await reader.read() == b""
    await pbal.until("clients", 0)
    await until(lambda: not pbal.world.backends, "the backend to be closed")


@lab
async def test_a_tunnel_goes_on_after_a_reader_had_paused(lab: Lab) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 8_000_000)
        while data := await reader.read(100):
            writer.write(data)

    origin = await lab.origin(tunnel(answer))
    pbal = await lab.pbal(proxy(origin.address))
    reader, writer = await pbal.connect("web")
    writer.write(UPGRADE)
    await until(lambda: any(client.full for client in pbal.world.clients), "the client to be full")
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(8_000_000) == b"x" * 8_000_000
    (client,) = pbal.world.clients
    assert client.deadline == float("inf"), "a deadline of its pause would cut it"
    writer.write(b"on")
    assert await reader.readexactly(2) == b"on"


# --- clients that leave when they have their answer -------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "memcached"])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_client_that_closes_at_once_has_its_message_and_nobody_else_has_but_for_a_reset(store, how):
    """A reset right behind the answer is also what comes of a close with the answer unread: the message goes back."""

    @lab
    async def run(lab: Lab) -> None:
        text = CHAT.format(folder=lab.folder)
        if store == "memcached":
            text = text.replace("ENABLE web", f"  SET poll_store = memcached {(await lab.memcached()).address}\n    ENABLE web")
        pbal = await lab.pbal(text)

        def poll(number: int) -> bytes:
            """In a thread: nothing of pbal's loop stands between the last octet and the close."""
            with socket.create_connection(pbal.server.address("web")) as sock:
                sock.sendall(get(f"/poll/q{number}"))
                data = b""
                while not data.endswith(b"m\n"):
                    data += sock.recv(4096)
                if how == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return data

        for number in range(40):
            polling = asyncio.create_task(asyncio.to_thread(poll, number))
            await pbal.until("poll_parked", 1)
            await pbal.ask("web", post(f"/publish/q{number}", b"m"))
            assert (await polling).endswith(b"m\n")
        await pbal.until("clients", 40)  # those that published
        back = 40 if how == "reset" else 0
        await pbal.until("poll_put_back", back)
        assert pbal.counts["poll_answered"] == 40 and pbal.counts["answers_lost"] == back

    run()


@lab
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upload_behind_another_request_whose_client_ended_in_the_middle_is_over_when_its_turn_comes(
    lab: Lab, streamed: bool
) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address, more=f"SET buffer_backend_connect = {0 if streamed else 1000}"))
    client = await Client.of(pbal, request=get("/first") + b"POST /cut HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
    taken = await node.connection()
    await taken.request()
    client.writer.write_eof()
    await until(lambda: any(each.half_closed for each in pbal.world.clients), "the client's end")
    taken.say(OK)
    assert (await client.rest()).endswith(b"\r\n\r\nok")
    await pbal.until("clients", 0)
    await until(lambda: all(backend.state == "bored" for backend in pbal.world.backends), "no node to wait for the rest")
    assert pbal.counts["aborted_clients"] == 1


@pytest.mark.parametrize("ends_first", [True, False])
@lab
async def test_a_client_that_ended_its_side_and_then_resets_is_missed_while_its_answer_goes_on(lab: Lab, ends_first: bool) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address))
    client = await Client.of(pbal, request=get())
    taken = await node.connection()
    await taken.request()
    if ends_first:
        client.writer.write_eof()
        await until(lambda: any(each.half_closed for each in pbal.world.clients), "the client's end")
    taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ")
    await client.reader.readuntil(b"half ")
    if not ends_first:
        client.writer.write_eof()
        await until(lambda: any(each.half_closed for each in pbal.world.clients), "the client's end")
    client.reset()
    await taken.gone()
    await pbal.until("clients", 0)
    assert pbal.counts["aborted_clients"] == 1
