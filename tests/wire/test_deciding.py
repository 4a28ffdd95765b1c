"""The moment between a node's response and the client: what a decider may do with it (roles/proxy/decider.py)."""

from collections.abc import Awaitable, Callable

from lab import Lab, Pbal, lab, read_response, transport_of, until
from scripted import OK, Client, Scripted, Taken, get, proxy

from pbal.http1.events import ResponseHead
from pbal.roles.proxy.decide import Undecided
from pbal.roles.proxy.decider import Decider
from pbal.roles.proxy.role import ReverseProxy

NO = b"HTTP/1.1 500 No\r\nX-Take: yes\r\nContent-Length: %d\r\n\r\n"


class Takes(Decider):
    """Takes what has X-Take."""

    def __init__(self, then: Callable[[Undecided, ResponseHead], None]) -> None:
        self.then = then

    def decide(self, relay: Undecided, head: ResponseHead) -> bool:
        if b"x-take" not in head.fields:
            return False
        self.then(relay, head)
        return True


def decide(pbal: Pbal, then: Callable[[Undecided, ResponseHead], None]) -> None:
    handler = pbal.world.service("web").handler
    assert isinstance(handler, ReverseProxy)
    handler.terms.deciders = (Takes(then),)


def answers(*said: bytes) -> Callable[[Taken], Awaitable[None]]:
    async def behave(taken: Taken) -> None:
        for octets in said:
            await taken.request()
            taken.say(octets)

    return behave


def say_own(relay: Undecided, head: ResponseHead) -> None:
    relay.part(head)
    relay.exchange.error(404, b"Its own.\n")


@lab
async def test_a_response_that_is_taken_is_not_the_clients_and_its_connection_serves_on(lab: Lab) -> None:
    node = await Scripted.start(lab, answers(NO % 5 + b"12345", OK, NO % 0, OK))
    pbal = await lab.pbal(proxy(node.address))
    decide(pbal, say_own)
    client = await Client.of(pbal, request=get() * 4)
    got = [await read_response(client.reader) for _ in range(4)]
    assert [(one.status, one.body) for one in got] == [(404, b"Its own.\n"), (200, b"ok")] * 2
    assert len(node.connections) == 1 and pbal.counts["backend_reuses"] == 3


@lab
async def test_the_connection_of_a_long_or_slow_response_is_closed_and_the_client_does_not_wait_for_it(lab: Lab) -> None:
    node = await Scripted.start(lab, answers(NO % 200000))
    pbal = await lab.pbal(proxy(node.address))
    decide(pbal, say_own)
    client = await Client.of(pbal, request=get())
    assert (await read_response(client.reader)).status == 404, "before a body came"
    (taken,) = node.connections
    taken.say(bytes(150000))
    await taken.gone()
    assert all(each.active == 0 for each in pbal.world.pool("app").nodes)
    client.writer.write(get())
    transport_of((await node.connection(1)).writer).abort()
    await until(
        lambda: pbal.counts["requests"] == 2 and all(each.active == 0 for each in pbal.world.pool("app").nodes), "it to be given back"
    )


@lab
async def test_a_node_that_ends_in_the_middle_of_a_dropped_response_is_given_back_once(lab: Lab) -> None:
    node = await Scripted.start(lab, answers(NO % 5 + b"12"))
    pbal = await lab.pbal(proxy(node.address))
    decide(pbal, say_own)
    client = await Client.of(pbal, request=get())
    assert (await read_response(client.reader)).status == 404
    node.connections[0].writer.close()
    await until(lambda: not pbal.world.backends, "it to be gone")
    assert [each.active for each in pbal.world.pool("app").nodes] == [0]


@lab
async def test_a_request_is_sent_again_to_another_pool_after_a_while_and_not_for_a_client_that_left(lab: Lab) -> None:
    node = await Scripted.start(lab, answers(NO % 2 + b"no", NO % 2 + b"no"))
    other = await Scripted.start(lab, answers(OK))
    pbal = await lab.pbal(f"CREATE POOL second\nPOOL second ADD {other.address}\n" + proxy(node.address, more="SET fallback_pool = second"))

    def again(relay: Undecided, head: ResponseHead) -> None:
        assert relay.again_is_safe
        relay.again(head, 0.05, pbal.world.pool("second"))

    decide(pbal, again)
    client = await Client.of(pbal, request=get())
    assert (await read_response(client.reader)).body == b"ok"
    assert (len(node.connections), len(other.connections), pbal.counts["backend_retries"]) == (1, 1, 1)
    client.writer.write(get("/leaves"))
    await until(lambda: pbal.counts["backend_retries"] == 2, "the second one")
    client.reset()
    await until(lambda: not pbal.world.clients, "it to be gone")


@lab
async def test_a_node_whose_answers_are_not_sent_or_not_sent_whole_answers_all_the_same(lab: Lab) -> None:
    """Failures in a row eject a node: between them it has to be seen to answer, whatever becomes of its answer."""
    streamed, upgraded = b"HTTP/1.1 200 OK\r\n\r\nok", b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"

    async def behave(taken: Taken) -> None:
        while True:
            head = await taken.request()
            if b"/cut" in head:
                taken.writer.transport.abort()
                return
            taken.say(streamed if b"/stream" in head else upgraded if b"/tunnel" in head else NO % 2 + b"no")

    node, spare = await Scripted.start(lab, behave), await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address, spare.address, pool="SET eject_after = 2;SET stall_after = 0"))
    assert await pbal.say(f"POOL app DRAIN {spare.address}") == "OK"
    decide(pbal, say_own)
    (failing,) = (each for each in pbal.world.pools["app"].nodes if each.name == node.address)
    for fields in (("/dropped",), ("/stream",), ("/tunnel", "Connection: Upgrade", "Upgrade: x")):
        assert (await pbal.ask("web", get("/cut", method="POST"))).status == 502
        assert failing.strikes == 1
        client = await Client.of(pbal, request=get(*fields))
        await client.reader.readuntil(b"\r\n\r\n")
        client.reset()
        await until(lambda: failing.strikes == 0, f"{fields[0]} to count")
    assert not failing.ejected
