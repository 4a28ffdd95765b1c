"""New connections that are verified with OPTIONS before a request is sent on them, and those that are opened ahead."""

import asyncio
import time
from functools import partial

import pytest
from lab import Lab, Pbal, free_port, lab, read_response, transport_of, until
from scripted import OK, Client, Scripted, Taken, answer, deaf, get, proxy

VERIFY = "SET verify_backend = on"
ALLOWED = b"HTTP/1.1 200 OK\r\nAllow: GET, OPTIONS\r\nContent-Length: 0\r\n\r\n"


def _bored(pbal: Pbal) -> int:
    return sum(backend.state == "bored" for backend in pbal.world.backends)


def _tick(pbal: Pbal, later: float) -> None:
    """Have the service look at its deadlines, as if it were `later` seconds from now."""
    handler = pbal.world.service("web").handler
    assert handler is not None
    handler.tick(pbal.world.clock.now() + later)


async def _serve(node: Taken, said: bytes = ALLOWED) -> None:
    """Answer OPTIONS with `said` and every other request with what its path is."""
    while True:
        method, target, _ = (await node.request()).split(b"\r\n")[0].split(b" ")
        node.say(said if method == b"OPTIONS" else answer(target))


ANSWERS = [
    ALLOWED,
    b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 5\r\n\r\nnever",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + ALLOWED,
]


@pytest.mark.parametrize("said", ANSWERS)
def test_a_request_goes_out_when_options_was_answered_whatever_the_status(said: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, more=f"{VERIFY};SET verify_backend_path = /alive;HEADER web INSERT X-Key: secret"))
        client = await Client.of(pbal, request=get("/real"))
        node = await origin.connection()
        head = await node.request()
        assert head.startswith(b"OPTIONS /alive HTTP/1.1\r\nHost: " + origin.address.encode() + b"\r\nConnection: keep-alive\r\n")
        assert b"X-Key: secret\r\n" in head
        assert (await pbal.say("pending")).startswith(f"web {origin.address} ")
        for octet in said:
            node.say(bytes([octet]))
            await asyncio.sleep(0)
        assert (await node.request()).startswith(b"GET /real ")
        node.say(OK)
        assert (await read_response(client.reader)).status == 200
        client.writer.write(get("/next"))
        assert (await node.request()).startswith(b"GET /next ")  # verified once
        node.say(OK)
        assert (await read_response(client.reader)).status == 200
        assert f"{origin.address} verifies 1" in await pbal.say("nodes")
        assert pbal.counts["backend_connects"] == 1

    run()


UNKEPT = [
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 501 Not Implemented\r\n\r\n",
]


@pytest.mark.parametrize("said", UNKEPT)
def test_a_node_that_keeps_no_connection_after_options_is_not_asked_for_a_while(said: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, more=f"{VERIFY};SET persist_backend = off"))
        client = await Client.of(pbal, request=get("/first"))
        node = await origin.connection()
        assert (await node.request()).startswith(b"OPTIONS * ")
        node.say(said)
        await node.gone()
        for number in (1, 2):  # neither this one nor the next
            node = await origin.connection(number)
            assert (await node.request()).startswith(b"GET /")
            node.say(OK)
            assert (await read_response(client.reader)).status == 200
            client.writer.write(get("/second") if number == 1 else b"")
        name, left = (await pbal.say("noverify")).split("\n")[0].split(" ")
        assert name == origin.address and 0 < int(left) <= 60
        assert pbal.counts["backend_connect_failures"] == 0

    run()


BROKEN = {
    "rubbish": b"220 smtp ready\r\n\r\n",
    "more than the answer": ALLOWED + OK,
    "an answer that is cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
    "a long answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
    "nothing": b"",
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_node_that_does_not_verify_is_one_that_cannot_be_reached(said: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        good, bad = await Scripted.start(lab, _serve), await Scripted.start(lab)
        pbal = await lab.pbal(proxy(bad.address, more=VERIFY))
        client = await Client.of(pbal, request=get("/"))
        node = await bad.connection()
        await node.request()
        await pbal.say(f"POOL app ADD {good.address}")
        node.say(BROKEN[said])
        if said in ("nothing", "an answer that is cut off"):
            node.writer.write_eof()
        assert (await read_response(client.reader)).body == b"/"  # of the other one
        assert pbal.counts["backend_connect_failures"] == 1
        await node.gone()

    run()


@lab
async def test_a_node_that_does_not_answer_options_in_time_gives_504(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more=f"{VERIFY};SET verify_timeout = 50ms"))
    client = await Client.of(pbal, request=get("/"))
    assert (await read_response(client.reader)).status == 504
    assert "no answer to OPTIONS within 0.05 s" in await pbal.say("show errors")
    await (await origin.connection()).gone()


@lab
async def test_one_connection_to_a_node_is_verified_at_a_time_and_those_who_wait_share_what_is_there(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more=VERIFY))
    clients = [await Client.of(pbal, request=get(f"/{number}")) for number in range(20)]
    await until(lambda: pbal.world.service("web").handler.load() == (20, 1, 0), "all to wait")  # type: ignore[union-attr]
    first = await origin.connection()
    await first.request()
    first.say(ALLOWED)
    assert (await first.request()).startswith(b"GET /0 ")
    second = await origin.connection(1)  # begun when the first one was verified
    await second.request()
    for number in range(1, 20):  # a worker that is slow to greet holds nobody up
        first.say(answer(b"%d" % (number - 1)))
        assert (await first.request()).startswith(b"GET /%d " % number)
    first.say(answer(b"19"))
    assert [(await read_response(client.reader)).body for client in clients] == [b"%d" % number for number in range(20)]
    assert len(origin.connections) == 2
    second.say(ALLOWED)
    await until(lambda: _bored(pbal) == 2, "it to rest")


@lab
async def test_clients_that_leave_while_a_connection_is_verified_are_not_sent(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more=VERIFY))
    gone, stays = await Client.of(pbal, request=get("/gone")), await Client.of(pbal, request=get("/stays"))
    node = await origin.connection()
    await node.request()
    await until(lambda: pbal.world.service("web").handler.load()[0] == 2, "both to wait")  # type: ignore[union-attr]
    gone.reset()
    await until(lambda: pbal.world.service("web").handler.load()[0] == 1, "one to leave")  # type: ignore[union-attr]
    node.say(ALLOWED)
    assert (await node.request()).startswith(b"GET /stays ")
    node.say(OK)
    assert (await read_response(stays.reader)).status == 200
    assert pbal.world.pool("app").nodes[0].requests == 1


@pytest.mark.parametrize("how", ["POOL app REMOVE {0}", "SET web.pool = other", "DISABLE web"])
def test_who_waits_for_a_verification_when_its_node_goes_is_served_elsewhere(how: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        silent, other = await Scripted.start(lab), await Scripted.start(lab, _serve)
        pbal = await lab.pbal(f"CREATE POOL other\nPOOL other ADD {other.address}\n" + proxy(silent.address, more=VERIFY))
        client = await Client.of(pbal, request=get("/here"))
        node = await silent.connection()
        await node.request()
        if how.startswith("POOL"):
            await pbal.say(f"POOL app ADD {other.address}")
        await pbal.say(how.format(silent.address))
        if how == "DISABLE web":
            node.say(ALLOWED)
            assert (await node.request()).startswith(b"GET /here ")  # what was taken on is finished
            node.say(answer(b"/here"))
        assert (await read_response(client.reader)).body == b"/here"
        await until(lambda: all(each.connecting == 0 for each in pbal.world.pool("app").nodes), "nothing to be under way")

    run()


# -- ahead -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [False, True])
def test_idle_connections_are_there_before_anybody_wants_them(verify: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origins = [await Scripted.start(lab, _serve) for _ in range(2)]
        more = f"SET connect_ahead = 3;SET verify_backend = {'on' if verify else 'off'};SET backend_persist_cache = 1"
        pbal = await lab.pbal(proxy(*(origin.address for origin in origins), more=more))
        _tick(pbal, 0)
        await until(lambda: _bored(pbal) == 3, "three to rest")
        connects = pbal.counts["backend_connects"]
        client = await Client.of(pbal, request=get("/now"))
        assert (await read_response(client.reader)).body == b"/now"
        await until(lambda: pbal.counts["backend_connects"] == connects + 1, "another instead")
        await until(lambda: _bored(pbal) == 4, "the used one to rest, too")
        _tick(pbal, 10)
        await until(lambda: pbal.world.service("web").handler.load() == (0, 0, 3), "those too many to close, not those ahead")  # type: ignore[union-attr]
        assert "connect-ahead: 3/3" in await pbal.say("show service web")
        await pbal.say("SET web.connect_ahead = 5")
        _tick(pbal, 0)
        await until(lambda: _bored(pbal) == 5, "five to rest")

    run()


@lab
async def test_a_node_that_refuses_is_not_hammered_for_connections_ahead(lab: Lab) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    pbal = await lab.pbal(proxy(nobody, more="SET connect_ahead = 50"))
    await until(lambda: pbal.counts["backend_connect_failures"], "it to refuse")
    began = time.monotonic()
    for _ in range(20):
        _tick(pbal, 0)
        await until(lambda: not pbal.world.pool("app").nodes[0].connecting, "nothing to be under way")
    assert pbal.counts["backend_connect_failures"] <= 1 + (time.monotonic() - began)


@lab
async def test_a_connection_that_was_there_ahead_and_breaks_says_nothing_of_its_node(lab: Lab) -> None:
    async def fickle(node: Taken) -> None:
        await node.request()
        if node is origin.connections[0]:
            transport_of(node.writer).abort()
        node.say(OK)

    origin = await Scripted.start(lab, fickle)
    pbal = await lab.pbal(proxy(origin.address, more="SET connect_ahead = 1"))
    _tick(pbal, 0)
    await until(lambda: _bored(pbal) == 1, "it to rest")
    assert (await pbal.ask("web", get())).status == 200
    (node,) = pbal.world.pool("app").nodes
    assert node.errors == 0 and pbal.counts["backend_retries"] == 1


@lab
async def test_connections_ahead_take_no_place_that_is_not_there(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, pool="SET node_max_connections = 1", more="SET connect_ahead = 1"))
    _tick(pbal, 0)
    await until(lambda: _bored(pbal) == 1, "it to rest")
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    await node.request()
    _tick(pbal, 0)
    (known,) = pbal.world.pool("app").nodes
    assert (known.active, known.connecting, pbal.counts["backend_connects"]) == (1, 0, 1)
    node.say(OK)
    assert (await read_response(client.reader)).status == 200
    assert await pbal.say("SET web.connect_ahead = 5") == "OK"
    for _ in range(3):
        _tick(pbal, 0)
        await until(lambda: not known.connecting, "nothing to be opened")
    assert len(origin.connections) == _bored(pbal) == 1


# -- nodes that are slow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["on", "off"])
def test_a_connection_that_is_slow_to_open_keeps_nobody_from_another_node(verify: str) -> None:
    """It takes nothing from who waits: the next one that is there is theirs, and the slow one rests when it comes."""

    @lab
    async def run(lab: Lab) -> None:
        silent, good = await Scripted.start(lab), await Scripted.start(lab, _serve)
        address, sockets = deaf() if verify == "off" else (silent.address, [])
        pbal = await lab.pbal(proxy(address, more=f"SET verify_backend = {verify}"))
        clients = [await Client.of(pbal, request=get(f"/{place}")) for place in range(3)]
        await until(lambda: pbal.world.service("web").handler.load()[0] == 3, "all to wait")  # type: ignore[union-attr]
        await pbal.say(f"POOL app ADD {good.address}")
        _tick(pbal, 0)
        pbal.world.second += 2
        _tick(pbal, 0)
        for place, client in enumerate(clients):
            assert (await read_response(client.reader)).body == b"/%d" % place
        assert pbal.counts["backend_slow_connects"] >= 1
        for sock in sockets:
            sock.close()

    run()


# -- kept connections --------------------------------------------------------------------------------------------


@lab
async def test_a_kept_connection_is_not_used_when_its_node_is_about_to_close_it(lab: Lab) -> None:
    async def hasty(node: Taken) -> None:
        while True:
            await node.request()
            node.say(answer(b"hi", f"Keep-Alive: max=9, timeout={2 if node is origin.connections[0] else 60}"))

    origin = await Scripted.start(lab, hasty)
    pbal = await lab.pbal(proxy(origin.address))
    client = await Client.of(pbal)
    for number in (1, 2, 2):
        client.writer.write(get("/"))
        await read_response(client.reader)
        assert len(origin.connections) == number
    await origin.connections[0].gone()


@pytest.mark.parametrize("most", [1, 3])
def test_a_connection_serves_exactly_max_backend_uses(most: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab, _serve)
        pbal = await lab.pbal(proxy(origin.address, more=f"{VERIFY};SET max_backend_uses = {most}"))  # OPTIONS is no use
        client = await Client.of(pbal)
        for number in range(2 * most + 1):
            client.writer.write(get(f"/{number}"))
            assert (await read_response(client.reader)).body == b"/%d" % number
        await until(partial(_made, origin, 3), "the third")
        assert pbal.counts["backend_connects"] == 3

    run()


def _made(origin: Scripted, number: int) -> bool:
    return len(origin.connections) == number
