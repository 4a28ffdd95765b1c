"""Connections that a node takes at most, the queue before them, and every way out of it. The order of events: tests/test_waiting.py."""

import asyncio
from collections.abc import Callable

import pytest
from lab import Lab, Pbal, Response, free_port, lab, read_response, transport_of, until
from scripted import OK, Client, Scripted, Taken, answer, deaf, get, proxy

ONE = "SET app.node_max_connections = 1"


def _waiting(pbal: Pbal, service: str = "web") -> int:
    handler = pbal.world.service(service).handler
    return 0 if handler is None else handler.load()[0]


async def _waits(pbal: Pbal, number: int, service: str = "web") -> None:
    await until(lambda: _waiting(pbal, service) == number, f"{number} to wait, not {_waiting(pbal, service)}")


async def _queue(pbal: Pbal, origin: Scripted, number: int) -> list[Client]:
    """One client is served on the only connection, so many wait behind it."""
    clients = [await Client.of(pbal, request=get("/0"))]
    await (await origin.connection()).request()
    for place in range(1, number + 1):
        clients.append(await Client.of(pbal, request=get(f"/{place}")))
        await _waits(pbal, place)
    return clients


async def _answers(clients: list[Client]) -> list[Response]:
    return [await read_response(client.reader) for client in clients]


@pytest.mark.parametrize("kept", [True, False])
def test_who_is_over_the_limit_waits_and_is_served_in_order(kept: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, pool=ONE))
        clients = await _queue(pbal, origin, 4)
        for place in range(5):
            node = await origin.connection(0 if kept else place)
            if place and not kept:
                assert (await node.request()).startswith(b"GET /%d " % place)
            node.say(answer(b"%d" % place, *(() if kept else ("Connection: close",))))
            if kept and place < 4:
                assert (await node.request()).startswith(b"GET /%d " % (place + 1))
        assert [got.body for got in await _answers(clients)] == [b"0", b"1", b"2", b"3", b"4"]
        assert len(origin.connections) == (1 if kept else 5)

    run()


@lab
async def test_a_nodes_own_max_goes_before_what_the_pool_says(lab: Lab) -> None:
    origin, other = await Scripted.start(lab), await Scripted.start(lab)
    pbal = await lab.pbal(proxy(f"{origin.address} MAX 2", other.address, pool=ONE))
    clients = [await Client.of(pbal, request=get(f"/{place}")) for place in range(5)]
    await _waits(pbal, 2)
    assert [node.active for node in pbal.world.pool("app").nodes] == [2, 1]
    told = " ".join((await pbal.say("show limits")).split())
    assert f"app {origin.address} 2 of 2 (100.0%): requests wait" in told and f"app {other.address} 1 of 1 (100.0%)" in told
    await pbal.say(f"POOL app ADD {origin.address} MAX 4")
    await until(lambda: pbal.world.pool("app").nodes[0].active == 4, "the others")
    for node in (await origin.connection(3), await other.connection()):
        assert node is not None
    for node in origin.connections + other.connections:
        await node.request()
        node.say(OK)
    assert [got.status for got in await _answers(clients)] == [200] * 5


@lab
async def test_a_queue_that_is_full_refuses_at_once_and_says_when_to_come_again(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, pool=ONE, more="SET queue_size = 2"))
    url = "http://{}:{}/a".format(*pbal.server.address("web"))
    clients = await _queue(pbal, origin, 1)
    assert "every node is full: it waits, 1 others do" in await pbal.say(f"explain GET {url}")
    clients.append(await Client.of(pbal, request=get("/2")))
    await _waits(pbal, 2)
    assert "503: every node is full, and 2 requests wait already (queue_size)" in await pbal.say(f"explain GET {url}")
    got = await pbal.ask("web", get("/refused"))
    assert got.status == 503 and got.fields["retry-after"] == "1"
    assert pbal.counts["queue_refusals"] == 1
    assert "2 requests waited for a node already (queue_size)" in await pbal.say("show errors")
    clients[1].reset()
    await _waits(pbal, 1)  # who leaves makes room
    late = await Client.of(pbal, request=get("/late"))
    await _waits(pbal, 2)
    node = await origin.connection()
    for path in (b"/2", b"/late"):
        node.say(OK)
        assert (await node.request()).startswith(b"GET %b " % path)
    node.say(OK)
    assert [got.status for got in await _answers([clients[0], clients[2], late])] == [200, 200, 200]


@lab
async def test_who_waits_too_long_is_told_so(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, pool=ONE, more="SET queue_timeout = 50ms"))
    clients = await _queue(pbal, origin, 2)
    for got in await _answers(clients[1:]):
        assert got.status == 503 and got.fields["retry-after"] == "1"
    assert pbal.counts["queue_timeouts"] == 2
    assert "no connection to a node was free within queue_timeout (0.05 s)" in await pbal.say("show errors")
    (await origin.connection()).say(OK)
    assert (await read_response(clients[0].reader)).status == 200


@pytest.mark.parametrize("how", ["it is answered", "its client leaves", "the node closes", "the node is reset"])
def test_however_a_request_ends_the_next_one_is_served(how: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, pool=ONE))
        clients = [await Client.of(pbal, request=get("/0", "Content-Length: 0", method="POST"))]
        node = await origin.connection()
        await node.request()
        clients.append(await Client.of(pbal, request=get("/1")))
        await _waits(pbal, 1)
        if how == "it is answered":
            node.say(OK)
        elif how == "its client leaves":
            clients[0].reset()
        elif how == "the node closes":
            node.writer.write_eof()
        else:
            transport_of(node.writer).abort()
        node = await origin.connection(0 if how == "it is answered" else 1)
        assert (await node.request()).startswith(b"GET /1 ")
        node.say(OK)
        assert (await read_response(clients[1].reader)).status == 200
        if how.startswith("the node"):
            assert (await read_response(clients[0].reader)).status == 502

    run()


WAYS: dict[str, Callable[[str, str], list[str]]] = {
    "another node": lambda one, other: [f"POOL app ADD {other}"],
    "a higher limit": lambda one, other: ["SET app.node_max_connections = 2"],
    "no limit": lambda one, other: ["UNSET app.node_max_connections"],
    "another pool": lambda one, other: ["SET web.pool = spare"],
    "its node goes": lambda one, other: [f"POOL app ADD {other}", f"POOL app REMOVE {one}"],
}


@pytest.mark.parametrize("way", WAYS)
def test_who_waits_is_served_when_there_is_room(way: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin, other = await Scripted.start(lab), await Scripted.start(lab)
        pbal = await lab.pbal(f"CREATE POOL spare\nPOOL spare ADD {other.address}\n" + proxy(origin.address, pool=ONE))
        clients = await _queue(pbal, origin, 1)
        for statement in WAYS[way](origin.address, other.address):
            assert not (await pbal.say(statement)).startswith("ERROR")
        node = await (origin.connection(1) if way in ("a higher limit", "no limit") else other.connection())
        assert (await node.request()).startswith(b"GET /1 ")
        node.say(OK)
        assert (await read_response(clients[1].reader)).status == 200
        (await origin.connection()).say(OK)  # what runs there finishes there
        assert (await read_response(clients[0].reader)).status == 200

    run()


@lab
async def test_who_belongs_to_a_node_is_not_given_the_connection_of_another_that_becomes_free(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    address, sockets = deaf()
    pool = "SET balance_method = hash;SET app.balance_hash = path"
    pbal = await lab.pbal(proxy(origin.address, address, pool=pool))
    first, second = pbal.world.pool("app").nodes
    clients: list[Client] = []
    while not (first.active and second.connecting):
        clients.append(await Client.of(pbal, request=get(f"/{len(clients)}")))
        await until(lambda: first.active + second.connecting == len(clients), "it to be asked or to wait")
    waiting = second.connecting
    for node in origin.connections:
        await node.request()
        node.say(OK)
    await until(lambda: not first.active, "all that were asked")
    assert _waiting(pbal) == second.connecting == waiting
    for sock in sockets:
        sock.close()


@lab
async def test_a_hundred_who_wait_move_to_the_pool_that_is_set_in_its_place(lab: Lab) -> None:
    async def serve(node: Taken) -> None:
        while True:
            await node.request()
            node.say(OK)

    origin, other = await Scripted.start(lab), await Scripted.start(lab, serve)
    pbal = await lab.pbal(f"CREATE POOL spare\nPOOL spare ADD {other.address}\n" + proxy(origin.address, pool=ONE))
    clients = await _queue(pbal, origin, 0)
    clients += [await Client.of(pbal, request=get()) for _ in range(100)]
    await _waits(pbal, 100)
    await pbal.say("SET spare.node_max_connections = 3")
    await pbal.say("SET web.pool = spare")
    assert [got.status for got in await _answers(clients[1:])] == [200] * 100
    assert len(other.connections) <= 3
    node = await origin.connection()
    node.say(OK)  # of the former generation: it finishes, and closes
    assert (await read_response(clients[0].reader)).status == 200
    await node.gone()


@lab
async def test_a_node_that_refuses_disappoints_those_who_wait_and_keeps_no_place(lab: Lab) -> None:
    pbal = await lab.pbal(proxy(f"127.0.0.1:{free_port()}", pool=ONE))
    clients = [await Client.of(pbal, request=get()) for _ in range(10)]
    assert [got.status for got in await _answers(clients)] == [502] * 10
    assert _waiting(pbal) == 0 and pbal.world.pool("app").nodes[0].connecting == 0


@lab
async def test_two_services_have_the_places_of_a_node_in_turn_and_an_idle_connection_is_no_obstacle(lab: Lab) -> None:
    order: list[bytes] = []
    may = asyncio.Semaphore(0)

    async def serve(node: Taken) -> None:
        while True:
            order.append((await node.request()).split(b" ")[1])
            await may.acquire()
            node.say(OK)

    origin = await Scripted.start(lab, serve)
    beside = "CREATE SERVICE beside\nSET role = reverse_proxy\nSET listen = 127.0.0.1:0\nSET pool = app\nENABLE beside"
    pbal = await lab.pbal(proxy(origin.address, pool=ONE) + "\n" + beside)
    clients = []
    for place in range(4):
        clients.append(await Client.of(pbal, request=get(f"/{place}")))
        await until(lambda place=place: order and _waiting(pbal) == place, "it to wait")  # type: ignore[misc]
    clients.append(await Client.of(pbal, "beside", get("/quiet")))
    await _waits(pbal, 1, "beside")
    for _ in clients:
        may.release()
    assert [got.status for got in await _answers(clients)] == [200] * 5
    assert order == [b"/0", b"/1", b"/quiet", b"/2", b"/3"]  # the busy one does not keep the quiet one waiting
    for service in ("beside", "web", "beside"):  # each closes what the other one left idle there
        may.release()
        assert (await pbal.ask(service, get("/again"))).status == 200
    assert len([node for node in origin.connections if not node.is_gone]) == 1


@lab
async def test_a_pool_that_is_set_while_connections_are_made_loses_no_request_and_no_place(lab: Lab) -> None:
    async def closes(taken: Taken) -> None:
        head = await taken.request()
        taken.say(answer(head.split(b" ")[1], "Connection: close"))

    origin = await Scripted.start(lab, closes)
    pbal = await lab.pbal(f"CREATE POOL other\nPOOL other ADD {origin.address}\n" + proxy(origin.address, more="SET verify_backend = off"))

    async def asks(number: int) -> bytes:
        return (await pbal.ask("web", get(f"/{number}", "Content-Length: 0", method="POST"))).body

    asking = asyncio.gather(*(asks(number) for number in range(100)))
    for number in range(60):
        assert await pbal.say(f"SET web.pool = {('other', 'app')[number % 2]}") == "OK"
        for _ in range(number % 5):
            await asyncio.sleep(0)
    assert await asking == [b"/%d" % number for number in range(100)]
    nodes = [node for pool in pbal.world.pools.values() for node in pool.nodes]
    assert [(node.active, node.connecting) for node in nodes] == [(0, 0), (0, 0)]
    await until(lambda: not pbal.world.backends, "every connection to be known as closed")
