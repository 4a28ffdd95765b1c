"""What is asked again, and what is not; pools that are empty for a moment; settings of nodes that take hold live."""

from math import inf
from pathlib import Path

import pytest
from lab import Lab, lab, read_response, transport_of
from scripted import OK, Client, Scripted, get, proxy, rested, statuses, ticks

from pbal.api import ManualClock

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
BEGINNINGS = [b"H", b"\r", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", HINTS, HINTS + b"H", HINTS * 2,
              b"HTTP/1.1 100 Continue\r\n\r\n"]  # fmt: skip


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("begun", BEGINNINGS)
def test_nothing_is_asked_again_once_an_octet_came(begun: bytes, method: str, used: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address))
        client = await Client.of(pbal)
        if used:
            client.writer.write(get())
            node = await origin.connection()
            await node.request()
            node.say(OK)
            await read_response(client.reader)
        client.writer.write(get("/once", method=method))
        node = await origin.connection()
        await node.request()
        node.say(begun)
        node.writer.write_eof()
        seen: list[int] = []
        while not seen or seen[-1] < 200:
            seen.append((await read_response(client.reader, head_only=method == "HEAD")).status)
        assert seen == [*statuses(begun)[: begun.count(b"\r\n\r\n")], 502]
        assert len(origin.connections) == 1 and pbal.counts["backend_retries"] == 0

    run()


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("used", [False, True])
def test_what_is_safe_is_asked_again_while_no_octet_came(how: str, used: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin, other = await Scripted.start(lab), await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address))
        client = await Client.of(pbal)
        if used:
            client.writer.write(get())
            node = await origin.connection()
            await node.request()
            node.say(OK)
            await read_response(client.reader)
        client.writer.write(get("/twice"))
        node = await origin.connection()
        await node.request()
        if not used:
            await pbal.say(f"POOL app ADD {other.address}")
        if how == "end":
            node.writer.write_eof()
        else:
            transport_of(node.writer).abort()
        # A connection that was used may just have been stale: the same node again. A new one says something of its node.
        node = await (origin.connection(1) if used else other.connection())
        assert (await node.request()).startswith(b"GET /twice ")
        node.say(HINTS + OK)
        assert [(await read_response(client.reader)).status for _ in range(2)] == [103, 200]
        assert pbal.counts["backend_retries"] == 1

    run()


@pytest.mark.parametrize(("method", "body"), [("POST", b""), ("POST", b"hi"), ("PATCH", b""), ("PUT", b"hi")])
def test_what_is_not_safe_is_asked_once(method: str, body: bytes) -> None:
    """A POST is not idempotent; of a PUT the body is gone that was sent on as it came (RFC 9110 section 9.2.2)."""

    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, more="SET buffer_backend_connect = 0"))
        client = await Client.of(pbal, request=get("/once", f"Content-Length: {len(body)}", method=method) + body)
        node = await origin.connection()
        await node.request()
        await node.reader.readexactly(len(body))
        node.writer.write_eof()
        assert (await read_response(client.reader)).status == 502
        assert len(origin.connections) == 1 and pbal.counts["backend_retries"] == 0

    run()


@lab
async def test_a_pool_that_is_empty_for_a_moment_is_waited_for(lab: Lab) -> None:
    origin, other = await Scripted.start(lab), await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    await pbal.say(f"POOL app REMOVE {origin.address}")
    clients = [await Client.of(pbal, request=get(f"/{number}")) for number in range(3)]
    clients.append(await Client.of(pbal, request=get("/3", "Content-Length: 2", method="POST") + b"hi"))
    await pbal.until("requests", 4)
    gone = clients.pop(0)
    gone.reset()
    await pbal.until("aborted_clients", 1)
    assert await pbal.say(f"POOL app ADD {other.address}") == "OK"
    for number in range(3):
        node = await other.connection(number)
        if (await node.request()).startswith(b"POST"):
            assert await node.reader.readexactly(2) == b"hi"
        node.say(OK)
    for client in clients:
        assert (await read_response(client.reader)).body == b"ok"
    assert pbal.counts["backend_unavailable"] == 0 and len(other.connections) == 3


@pytest.mark.parametrize("then", ["a pool with a node", "a pool with no node"])
def test_who_waits_for_a_node_is_served_by_the_pool_that_is_set_then(then: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin, other = await Scripted.start(lab), await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, more="SET queue_timeout = 0"))
        await pbal.say("CREATE POOL next")
        await pbal.say(f"POOL app REMOVE {origin.address}")
        client = await Client.of(pbal, request=get())
        await pbal.until("requests", 1)
        if then == "a pool with a node":
            await pbal.say(f"POOL next ADD {other.address}")
        assert await pbal.say("SET web pool = next") == "OK"
        if then == "a pool with a node":
            node = await other.connection()
            await node.request()
            node.say(OK)
            assert (await read_response(client.reader)).status == 200
        else:
            assert (await read_response(client.reader)).status == 503

    run()


@pytest.mark.parametrize("limit", ["queue_timeout = 100ms", "queue_timeout = 0"])
def test_a_pool_that_stays_empty_is_503(limit: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, more=f"SET {limit}"))
        await pbal.say(f"POOL app REMOVE {origin.address}")
        got = await pbal.ask("web", get())
        assert (got.status, got.fields["retry-after"]) == (503, "1")
        assert pbal.counts["backend_unavailable"] == 1

    run()


@lab
async def test_persist_backend_off_live_ends_kept_connections(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    clients = await rested(pbal, origin, 2)
    busy = await Client.of(pbal, request=get("/busy"))
    node, idle = origin.connections
    await node.request()
    assert await pbal.say("SET web persist_backend = off") == "OK"
    await idle.gone()
    assert not node.is_gone
    node.say(OK)
    assert (await read_response(busy.reader)).body == b"ok"
    await node.gone()
    clients[0].writer.write(get())
    node = await origin.connection(2)
    assert b"Connection: close\r\n" in await node.request()
    node.say(OK)
    assert (await read_response(clients[0].reader)).body == b"ok"
    await node.gone()


@pytest.mark.parametrize(
    ("settings", "patient", "until_then"),
    [
        ("", 29, 32), ("SET idle_timeout = 180", 179, 182), ("SET idle_timeout = 5", 29, 32), ("SET idle_timeout = 0", 100_000, None),
        ("SET response_timeout = 30;SET idle_timeout = 180", 29, 32), ("SET response_timeout = 3;SET idle_timeout = 180", 2, 5),
        ("SET response_timeout = 0", 100_000, None), ("SET response_timeout = 60;SET idle_timeout = 0", 59, 62),
    ],
)  # fmt: skip
def test_how_long_a_silent_node_is_awaited(settings: str, patient: int, until_then: int | None) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(origin.address, more=settings))
        clock = ManualClock(pbal.world.clock.now())
        pbal.world.clock = pbal.world.service("web").handler.clock = clock  # type: ignore[union-attr]
        client = await Client.of(pbal, request=get())
        node = await origin.connection()
        await node.request()
        clock.advance(patient)
        await ticks(pbal, 1)
        assert pbal.counts["backend_timeouts"] == 0
        if until_then is None:
            node.say(OK)
            assert (await read_response(client.reader)).status == 200
        else:
            clock.advance(until_then - patient)
            assert (await read_response(client.reader)).status == 504

    run()


@lab
async def test_idle_timeout_set_live_bounds_a_silent_node_and_the_manual_says_so(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(origin.address))
    await pbal.say("SET web idle_timeout = 0")
    client = await Client.of(pbal, request=get())
    node = await origin.connection()
    await node.request()
    (backend,) = pbal.world.backends
    assert backend.deadline == inf
    node.say(OK)
    assert (await read_response(client.reader)).status == 200
    manual = (Path(__file__).parents[2] / "man" / "pbal.conf.5").read_text()
    said = manual.split("response_timeout")[1].split("queue_timeout")[0]
    assert "idle_timeout" in said
