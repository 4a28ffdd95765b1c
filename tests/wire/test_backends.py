"""Octets that a node sends too much meet no other request: unread ones are looked for, and a shift is ended.

More of nodes is in test_heads_of_nodes.py, test_pools.py, test_relaying.py and test_bad_peers.py.
"""

import asyncio
import contextlib
import socket

import pytest
from lab import Lab, lab, read_response, transport_of, until
from scripted import OK, Client, Scripted, Taken, answer, at_once, deaf, get, proxy, rested

EVIL = answer(b"evil")

FRAMED_WRONGLY = [
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 40\r\n\r\n", 204),
    (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 204),
    (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 40\r\n\r\n" + OK, 200),
    (b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + OK, 200),
    (b"HTTP/1.1 100 Continue\r\nContent-Length: 40\r\n\r\n" + OK, 200),
]


@pytest.mark.parametrize(("said", "status"), FRAMED_WRONGLY)
def test_a_204_or_1xx_with_framing_fields_is_the_connections_last(said: bytes, status: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address))
        client = await Client.of(pbal, request=get())
        node = await origin.connection()
        await node.request()
        node.say(said)
        while (got := await read_response(client.reader)).status < 200:
            assert "content-length" not in got.fields and "transfer-encoding" not in got.fields
        assert got.status == status
        await node.gone()
        client.writer.write(get())
        node = await origin.connection(1)
        await node.request()
        node.say(answer(b"right"))
        assert (await read_response(client.reader)).body == b"right"

    run()


WHOLE = [
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello"),
    ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"hello"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", EVIL),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", EVIL),
    ("GET", OK, EVIL),
    ("GET", OK, b"\r\n"),
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", EVIL),
    ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", EVIL),
]


@pytest.mark.parametrize("moment", ["with the answer", "while it rests", "unread at the next request"])
@pytest.mark.parametrize(("method", "said", "more"), WHOLE)
def test_octets_after_a_whole_answer_meet_no_other_request(method: str, said: bytes, more: bytes, moment: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address))
        first, second = await Client.of(pbal, request=get(method=method)), await Client.of(pbal)
        node = await origin.connection()
        await node.request()
        node.say(said + more if moment == "with the answer" else said)
        got = await read_response(first.reader, head_only=method == "HEAD")
        assert got.body in (b"", b"ok")
        if moment == "unread at the next request":
            at_once(second.writer, get())
            at_once(node.writer, more)
        else:
            if moment == "while it rests":
                node.say(more)
            await node.gone()
            second.writer.write(get())
        other = await origin.connection(1)
        await other.request()
        other.say(answer(b"right"))
        assert (await read_response(second.reader)).body == b"right"
        assert pbal.counts["backend_surprises"] == 1
        assert pbal.counts["backend_reuses"] == 0
        await node.gone()

    run()


@lab
async def test_unread_octets_are_looked_for_when_a_connection_goes_to_one_who_waits(lab: Lab) -> None:
    """A connection becomes free while another client waits for one: that is a reuse like any other."""
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, pool="SET balance_method = least_connections"))
    first = await Client.of(pbal, request=get("/first"))
    node = await origin.connection()
    await node.request()
    silent, sockets = deaf()
    await pbal.say(f"POOL app ADD {silent}")
    second = await Client.of(pbal, request=get("/second"))
    await until(lambda: pbal.world.pool("app").nodes[1].connecting == 1, "the second to wait")
    (backend,) = pbal.world.backends
    node.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    while backend.transport.is_reading():  # noqa: ASYNC110 - each turn: its answer is read over several, more comes in between
        await asyncio.sleep(0)
    at_once(node.writer, EVIL)
    assert (await read_response(first.reader)).body == b"x" * 20_000
    await node.gone()
    assert pbal.counts["backend_surprises"] == 1 and pbal.counts["backend_reuses"] == 0
    for sock in sockets:
        sock.close()
    await pbal.say(f"POOL app REMOVE {silent}")
    other = await origin.connection(1)
    await other.request()
    other.say(answer(b"right"))
    assert (await read_response(second.reader)).body == b"right"


@lab
async def test_a_connection_serves_the_next_request_though_its_last_client_took_slowly(lab: Lab) -> None:
    """The end of an answer in many chunks is read while its client is full: the connection that rests then is read again."""
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more="SET buffer_size = 16k;SET response_timeout = 2s"))
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, pbal.server.address("web"))
    await loop.sock_sendall(slow, get())
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    (client,), (backend,) = pbal.world.clients, pbal.world.backends
    sent = 0
    while not client.unsent_octets:  # until the kernel takes no more for the client
        node.say(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        sent += 4096
        await until(lambda: not transport_of(node.writer).get_write_buffer_size() and not backend.unread, "pbal to have read it")
    node.say(b"a\r\nyyyyyyyyyy\r\n" * 3000 + b"0\r\n\r\n")  # one read of 45 KB, two turns; full after the first
    await until(lambda: backend.state == "bored", "the answer to be read whole")
    other = await Client.of(pbal, request=get())
    await node.request()
    assert pbal.counts["backend_reuses"] == 1
    node.say(OK)
    assert (await read_response(other.reader)).body == b"ok"
    got = bytearray()
    while not got.endswith(b"\r\n0\r\n\r\n"):
        got += await loop.sock_recv(slow, 1_000_000)
    assert (got.count(b"x"), got.count(b"y")) == (sent, 30_000)
    slow.close()


@lab
async def test_the_connection_that_rested_longest_is_next(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    client = (await rested(pbal, origin, 4))[0]
    for turn in range(12):
        client.writer.write(get(f"/{turn}"))
        node = origin.connections[turn % 4]
        assert f"/{turn} ".encode() in await node.request()
        node.say(OK)
        await read_response(client.reader)
    assert len(origin.connections) == 4


@pytest.mark.parametrize("shown", ["while it rests", "with an answer"])
def test_extra_octets_close_every_connection_that_could_be_shifted(shown: str) -> None:
    """The resting ones at once, the busy ones after their answer; other nodes keep theirs."""

    @lab
    async def run(lab: Lab) -> None:
        origin, other = await Scripted.start(lab), await Scripted.start(lab)
        pbal = await lab.pbal(
            proxy(origin.address, pool="SET balance_method = round_robin")
            + f"""
            CREATE POOL others
              POOL others ADD {other.address}
            CREATE SERVICE beside
              SET role   = reverse_proxy
              SET listen = 127.0.0.1:0
              SET pool   = others
            ENABLE beside
            """
        )
        beside = await Client.of(pbal, "beside", get())
        kept = await other.connection()
        await kept.request()
        kept.say(OK)
        await read_response(beside.reader)
        busy = [await Client.of(pbal, request=get("/busy")) for _ in range(2)]
        for place in range(2):
            await (await origin.connection(place)).request()
        clients = [await Client.of(pbal, request=get("/short")) for _ in range(3)]
        for place in range(2, 5):
            await (await origin.connection(place)).request()
        resting = origin.connections[2:]
        for node in resting[:2] if shown == "with an answer" else resting:
            node.say(OK)
        for client in clients[:2]:
            await read_response(client.reader)
        if shown == "while it rests":
            await read_response(clients[2].reader)
            resting[1].say(EVIL)
        else:
            resting[2].say(OK + EVIL)
            assert (await read_response(clients[2].reader)).body == b"ok"
        for node in resting:
            await node.gone()
        for client, node in zip(busy, origin.connections, strict=False):
            assert not node.is_gone
            node.say(OK)
            assert (await read_response(client.reader)).body == b"ok"
            await node.gone()
        assert pbal.counts["backend_surprises"] == 1
        beside.writer.write(get())
        await kept.request()
        clients[0].writer.write(get())
        fresh = await origin.connection(5)
        await fresh.request()
        fresh.say(OK)
        assert (await read_response(clients[0].reader)).body == b"ok"

    run()


@lab
async def test_extra_octets_close_what_other_services_keep_to_the_same_node(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    beside = """
        {pool}
        CREATE SERVICE {name}
          SET role   = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool   = {of}
        ENABLE {name}
    """
    more = f"CREATE POOL same\nPOOL same ADD {origin.address}"
    pbal = await lab.pbal(
        proxy(origin.address) + beside.format(pool="", name="second", of="app") + beside.format(pool=more, name="third", of="same")
    )
    clients: list[Client] = []
    for place, service in enumerate(("web", "second", "third")):
        clients.append(await Client.of(pbal, service, get()))
        node = await origin.connection(place)
        await node.request()
        node.say(OK)
        await read_response(clients[-1].reader)
    origin.connections[0].say(EVIL)
    for node in list(origin.connections):
        await node.gone()
    for place, client in enumerate(clients):
        client.writer.write(get())
        node = await origin.connection(3 + place)
        await node.request()
        node.say(OK)
        assert (await read_response(client.reader)).body == b"ok"
    assert pbal.counts["backend_surprises"] == 1


SHIFTING_CLIENTS = 8


@lab
async def test_a_shift_under_unbroken_load_is_ended(lab: Lab) -> None:
    """A node gives a request its predecessor's answer: one goes astray for each time it lies, and none follows."""
    shifted: list[Taken] = []

    async def late(taken: Taken) -> None:
        """Says one answer too many, when the next request is there already."""
        path = (await taken.request()).split()[1]
        taken.say(answer(path))
        while True:
            again = (await taken.request()).split()[1]
            shifted.append(taken)
            taken.say(answer(path))
            taken.say(answer(again))
            path = again

    origin = await Scripted.start(lab, late)
    pbal = await lab.pbal(proxy(origin.address))
    wrong = 0

    async def ask(name: int) -> None:
        nonlocal wrong
        client = await Client.of(pbal)
        for turn in range(30):
            path = f"/{name}/{turn}"
            client.writer.write(get(path))
            got = await read_response(client.reader)
            wrong += got.body != path.encode()

    await asyncio.gather(*(ask(name) for name in range(SHIFTING_CLIENTS)))
    assert wrong == len(shifted), "one answer went astray for each lie, and none followed it"
    assert pbal.counts["backend_surprises"]


# --- cancelled in the turn in which it was connected -----------------------------------------------------------------


@pytest.mark.parametrize("order", ["", "X-REPROXY-URL"])
@lab
async def test_a_connection_that_is_there_when_its_service_goes_is_closed_with_it(lab: Lab, order: str) -> None:
    target = await Scripted.start(lab)

    async def orders(node: Taken) -> None:
        await node.request()
        node.say(answer(b"", f"{order}: http://{target.address}/"))

    origin = await Scripted.start(lab, orders if order else None)
    pbal = await lab.pbal(proxy(origin.address, more=f"SET enable_reproxy = on;SET reproxy_allow = {target.address}" if order else ""))
    await Client.of(pbal, request=get())
    there = 2 if order else 1
    while len(pbal.world.backends) < there:  # noqa: ASYNC110 - to be there in the very turn: whoever connects does not know it yet
        await asyncio.sleep(0)
    await pbal.server.close()
    await until(lambda: not pbal.world.backends, "no connection to be left")


@pytest.mark.parametrize("ends", ["with its length", "with the connection"])
def test_a_fault_of_pbals_own_leaves_no_client_waiting(ends: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        node = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(node.address))
        client = await Client.of(pbal, request=get())
        asked = await node.connection()
        await asked.request()
        del pbal.world.service("web").values["max_backend_uses"]  # which is read when the connection is given back
        asked.say(OK if ends == "with its length" else b"HTTP/1.1 200 OK\r\n\r\nok")
        asked.writer.close()

        with contextlib.suppress(ConnectionError):
            assert not (await client.rest()).endswith((b"ok", b"0\r\n\r\n"))  # the end of the answer never came
        await until(lambda: not pbal.world.clients and not pbal.world.backends, "both to be gone")
        assert [each.active for each in pbal.world.pool("app").nodes] == [0]

    run()


@lab
async def test_however_many_kept_connections_are_stale_no_request_fails_by_it(lab: Lab) -> None:
    """Each is asked on a new connection next, whatever the budget says: as when a node is started anew."""

    async def once(taken: Taken) -> None:
        await taken.request()
        await together.wait()
        taken.say(OK)
        await taken.request()
        transport_of(taken.writer).abort()

    together = asyncio.Event()
    node = await Scripted.start(lab, once)
    pool = "SET retry_budget = 0;SET retry_budget_least = 0"
    pbal = await lab.pbal(proxy(node.address, more="SET backend_persist_cache = 20", pool=pool))
    first = [await Client.of(pbal, request=get()) for _ in range(8)]
    await until(lambda: len(node.connections) == 8, "as many connections")
    together.set()
    for client in first:
        assert (await read_response(client.reader)).status == 200
        client.writer.write(get("/again"))
    for client in first:
        assert (await read_response(client.reader)).status == 200
    assert pbal.counts["backend_stale"] == pbal.counts["backend_retries"] == 8 and pbal.counts["backend_retries_denied"] == 0
    assert len(node.connections) == 16


@lab
async def test_what_cannot_be_sent_again_is_not_sent_on_a_connection_that_the_node_has_ended(lab: Lab) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address))
    client = await Client.of(pbal, request=get())
    kept = await node.connection()
    await kept.request()
    kept.say(OK)
    await read_response(client.reader)
    at_once(client.writer, get("/post", "Content-Length: 0", method="POST"))
    with socket.fromfd(kept.writer.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.shutdown(socket.SHUT_WR)
    fresh = await node.connection(1)
    assert (await fresh.request()).startswith(b"POST /post ")
    fresh.say(OK)
    assert (await read_response(client.reader)).status == 200
    assert await kept.gone() == b"" and pbal.counts["backend_retries"] == 0 and pbal.counts["backend_stale"] <= 1


@lab
async def test_who_met_a_stale_connection_gets_no_other_kept_one_that_becomes_free(lab: Lab) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(f"{node.address} MAX 2"))
    first, second = [await Client.of(pbal, request=get()) for _ in range(2)]
    kept = [await node.connection(number) for number in range(2)]
    for taken, client in zip(kept, (first, second), strict=True):
        await taken.request()
        taken.say(OK)
        await read_response(client.reader)
    for client, path in ((first, "/first"), (second, "/second")):
        client.writer.write(get(path))
    asked = {(await taken.request()).split()[1]: taken for taken in kept}
    third = await Client.of(pbal, request=get("/third"))
    handler = pbal.world.service("web").handler
    assert handler is not None
    await until(lambda: handler.load()[0] == 1, "the third to wait")
    transport_of(asked[b"/first"].writer).abort()
    new = await node.connection(2)
    assert (await new.request()).startswith(b"GET /third ")
    await until(lambda: handler.load()[0] == 1, "the first to wait")
    asked[b"/second"].say(OK)
    fresh = await node.connection(3)
    assert (await fresh.request()).startswith(b"GET /first ")
    assert await asked[b"/second"].gone() == b""
    new.say(OK)
    fresh.say(OK)
    for client in (first, second, third):
        assert (await read_response(client.reader)).status == 200
