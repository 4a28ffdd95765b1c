"""PROXY headers that connections to nodes begin with: each names its client, so no connection is another client's. Accepting:
test_proxy_protocol.py."""

import asyncio

import pytest
from lab import DEADLINE, Lab, lab, read_response, until
from scripted import OK, Client, Scripted, Taken, get, proxy

from pbal.net.proxy_protocol import Header, decode


async def _header(node: Taken) -> Header:
    """The header that a connection begins with."""
    heard = b""
    async with asyncio.timeout(DEADLINE):
        while (found := decode(heard)) is None:
            heard += await node.reader.readexactly(1)
    return found


def _names(client: Client) -> tuple[tuple[str, int], tuple[str, int]]:
    """What a header for this client says."""
    sock = client.writer.get_extra_info("socket")
    return sock.getsockname(), sock.getpeername()


@pytest.mark.parametrize("version", [1, 2])
def test_each_client_has_connections_of_its_own_which_name_it(version: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, more=f"SET send_proxy = v{version};SET connect_ahead = 3"))
        clients = [await Client.of(pbal, request=get("/a")) for _ in range(2)]
        for place, client in enumerate(clients):
            node = await origin.connection(place)
            header = await _header(node)
            assert header.version == version and (header.source, header.destination) == _names(client)
            assert (await node.request()).startswith(b"GET /a ")
            node.say(OK)
            assert (await read_response(client.reader)).status == 200
        for place in (1, 0, 0, 1):  # each goes on with its own, whichever is idle longer
            clients[place].writer.write(get("/b"))
            assert (await origin.connections[place].request()).startswith(b"GET /b ")
            origin.connections[place].say(OK)
            await read_response(clients[place].reader)
        assert len(origin.connections) == 2  # and none is opened ahead, for nobody

    run()


@lab
async def test_what_was_kept_for_a_client_is_closed_when_it_asks_no_more(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more="SET send_proxy = v1"))
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    await node.request()
    node.say(OK)
    await read_response(client.reader)
    handler = pbal.world.service("web").handler
    assert handler is not None
    handler.tick(pbal.world.clock.now() + 4)
    assert not node.is_gone and handler.load()[2] == 1
    handler.tick(pbal.world.clock.now() + 6)
    await node.gone()


@lab
async def test_who_waits_is_not_given_the_connection_of_another(lab: Lab) -> None:
    """A limited node: what one client leaves idle makes room, and serves nobody else."""
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, pool="SET app.node_max_connections = 1", more="SET send_proxy = v2"))
    first, second = await Client.of(pbal, request=get("/first")), await Client.of(pbal)
    node = await origin.connection()
    await _header(node)
    await node.request()
    second.writer.write(get("/second"))
    await until(lambda: pbal.world.service("web").handler.load()[0] == 1, "it to wait")  # type: ignore[union-attr]
    node.say(OK)
    other = await origin.connection(1)
    assert (await _header(other)).source == _names(second)[0]
    assert (await other.request()).startswith(b"GET /second ")
    other.say(OK)
    assert [(await read_response(client.reader)).status for client in (first, second)] == [200, 200]
    await node.gone()


@lab
async def test_the_header_goes_before_the_handshake_of_tls(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more="SET send_proxy = v1;SET ssl_backend = on"))
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    assert (await _header(node)).source == _names(client)[0]
    assert await node.reader.readexactly(2) == b"\x16\x03"


@lab
async def test_a_check_speaks_for_itself(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pool = "SET app.check = http;SET app.check_path = /alive"
    pbal = await lab.pbal(proxy(origin.address, pool=pool, more="SET send_proxy = v2"))
    node = await origin.connection()
    header = await _header(node)
    assert header.version == 2 and header.source is None
    assert (await node.request()).startswith(b"GET /alive ")
    node.say(OK)
    await until(lambda: pbal.world.pool("app").nodes[0].check == "UP", "it to be well")


@lab
async def test_a_verified_connection_names_its_client_first(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address, more="SET send_proxy = v1;SET verify_backend = on"))
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    assert (await _header(node)).source == _names(client)[0]
    for method in (b"OPTIONS ", b"GET "):
        assert (await node.request()).startswith(method)
        node.say(OK)
    assert (await read_response(client.reader)).status == 200
