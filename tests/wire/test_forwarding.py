"""What nodes are told of the client: X-Forwarded-*, X-Host, Forwarded, blind_proxy; and pools that take over."""

import re
from collections.abc import Awaitable, Callable

import pytest
from authority import Authority
from lab import Lab, Pbal, lab, read_response, until
from scripted import Client, Scripted, Taken, answer, get, proxy
from secure import echo_head, secure, trusting
from secure import proxy as secure_proxy

from pbal.http1.forwarded import address, element, elements

SITE = "SET forwarded = on;SET send_backend_host = on;SET send_backend_port = on"
ABOUT = ("x-forwarded", "x-host", "forwarded")


async def told(pbal: Pbal, *fields: str) -> dict[str, str]:
    """What the node is told about the client, by name."""
    response = await pbal.ask("web", get("/", *fields))
    found: dict[str, str] = {}
    for line in response.body.decode("latin-1").split("\r\n")[1:-2]:
        name, _, value = line.partition(": ")
        if name.lower().startswith(ABOUT):
            assert name.lower() not in found
            found[name.lower()] = value
    return found


@lab
async def test_what_is_said_of_an_untrusted_client_and_for_a_trusted_peer(lab: Lab) -> None:
    origin = await lab.origin(echo_head)
    pbal = await lab.pbal(proxy(origin.address, more=SITE))
    port = str(pbal.server.address("web")[1])
    claims = (
        "X-Forwarded-For: 6.6.6.6", "X-Host: evil", "X-Forwarded-Host: evil", "X-Forwarded_Port: 1", "X-Forwarded-Port: 1",
        "Forwarded: for=6.6.6.6", "X-Forwarded-Proto: https",
    )  # fmt: skip
    plain = {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": "h",
        "x-forwarded-port": port,
        "forwarded": "for=127.0.0.1;host=h;proto=http",
    }
    assert await told(pbal) == plain
    assert await told(pbal, *claims) == plain

    assert await pbal.say("SET web.always_trusted = on") == "OK"
    assert await told(pbal) == plain
    assert await told(pbal, *(claim for claim in claims if "_" not in claim)) == {
        "x-forwarded-for": "6.6.6.6, 127.0.0.1", "x-host": "evil", "x-forwarded-host": "evil", "x-forwarded-port": "1",
        "forwarded": "for=6.6.6.6, for=127.0.0.1;host=h;proto=http", "x-forwarded-proto": "https",
    }  # fmt: skip

    for tunable in ("forwarded", "send_backend_host", "send_backend_port"):
        assert await pbal.say(f"SET web.{tunable} = off") == "OK"
    assert await told(pbal) == {"x-forwarded-for": "127.0.0.1"}
    assert (await told(pbal, "Forwarded: for=1.2.3.4", "X-Host: a"))["forwarded"] == "for=1.2.3.4"


@lab
async def test_a_blind_proxy_leaves_to_a_trusted_peer_what_is_said(lab: Lab) -> None:
    origin = await lab.origin(echo_head)
    pbal = await lab.pbal(proxy(origin.address, more=f"{SITE};SET blind_proxy = on;SET send_backend_proto = on"))
    untrusted = await told(pbal, "X-Forwarded-For: 6.6.6.6")
    assert untrusted["x-forwarded-for"] == "127.0.0.1" and "forwarded" in untrusted and untrusted["x-forwarded-proto"] == "http"
    assert await pbal.say("SET web.trusted_upstream_proxies = 127/8") == "OK"
    said = {"x-forwarded-for": "1.2.3.4,  5.6.7.8", "x-host": "a"}
    assert await told(pbal, *(f"{name}: {value}" for name, value in said.items())) == said
    assert await told(pbal) == {}
    assert await told(pbal, "X_Forwarded_For: 6.6.6.6") == {}
    assert await pbal.say("HEADER web REQUEST SET X-Forwarded-For: $$peer") == "OK"
    assert await told(pbal, "X-Forwarded-For: 1.2.3.4") == {"x-forwarded-for": "127.0.0.1"}


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        (("X-Forwarded-For: 1.2.3.4, 2001:db8::1, [2001:db8::2]:80, who",),
         'for=1.2.3.4, for="[2001:db8::1]", for="[2001:db8::2]", for=unknown'),
        (("Forwarded: For=\"[2001:DB8::1]:99\";proto=https;by=_x", "Forwarded: for=_hidden"),
         'For="[2001:DB8::1]:99";proto=https;by=_x, for=_hidden'),
        (("Forwarded: for=1.2.3.4;host=\"a:80\"", "X-Forwarded-For: 1.2.3.4"), 'for=1.2.3.4;host="a:80"'),
        (("Forwarded: for=_hidden, for=5.6.7.8", "X-Forwarded-For: 1.2.3.4, 5.6.7.8"), "for=_hidden, for=5.6.7.8"),
        (("Forwarded: for=6.6.6.6", "X-Forwarded-For: 1.2.3.4"), "for=1.2.3.4"),
        (("Forwarded: for=6.6.6.6, for=1.2.3.4", "X-Forwarded-For: 1.2.3.4"), "for=1.2.3.4"),
        (("Forwarded: for=6.6.6.6, for=\"",), ""),
        (("Forwarded: for=1.2.3.4;for=6.6.6.6",), ""),
    ],
)  # fmt: skip
def test_forwarded_is_appended_to_where_a_trusted_peer_said_it(sent: tuple[str, ...], forwarded: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        origin = await lab.origin(echo_head)
        pbal = await lab.pbal(proxy(origin.address, more="SET forwarded = on;SET always_trusted = on"))
        here = "for=127.0.0.1;host=h;proto=http"
        assert (await told(pbal, *sent))["forwarded"] == (f"{forwarded}, {here}" if forwarded else here)

    run()


@lab
async def test_the_clients_address_comes_from_forwarded_only_where_that_is_asked_for_and_the_peer_is_trusted(lab: Lab) -> None:
    origin = await lab.origin(echo_head)
    pbal = await lab.pbal(proxy(origin.address, more="HEADER web REQUEST SET X-Host: $$client"))

    async def client(*fields: str) -> str:
        return (await told(pbal, *fields))["x-host"]

    way = 'Forwarded: for=6.6.6.6, for="[2001:db8::1]", for=10.0.0.1'
    assert await client(way) == "127.0.0.1"
    assert await pbal.say("SET web.forwarded = on") == "OK"
    assert await client(way) == "127.0.0.1", "anybody may say so"
    assert await pbal.say("SET web.trusted_upstream_proxies = 127.0.0.0/8 10.0.0.0/8") == "OK"
    assert await client(way) == "2001:db8::1"
    assert await client(way, "X-Forwarded-For: 9.9.9.9") == "9.9.9.9"
    assert await client("Forwarded: for=6.6.6.6, for=_hidden, for=10.0.0.1") == "10.0.0.1"
    assert await client("Forwarded: for=6.6.6.6;for=10.0.0.1") == "127.0.0.1"


@lab
async def test_over_tls_nodes_are_told_the_protocol_and_the_port(lab: Lab) -> None:
    authority = Authority(lab.folder)
    more = f"{SITE.replace(';', chr(10))}\nHEADER site REQUEST SET X-Host: $$tls $$tls_server_name $$scheme"
    more += "\nSET hsts = 1h\nHEADER site RESPONSE SET Strict-Transport-Security: max-age=5"
    pbal = await secure_proxy(lab, echo_head, authority.certify("a.test"), more=more)
    reader, writer = await secure(pbal, "site", trusting(authority))
    writer.write(b"GET / HTTP/1.1\r\nHost: a.test:4443\r\n\r\n")
    response = await read_response(reader)
    assert response.head.lower().count(b"strict-transport") == 1 and response.fields["strict-transport-security"] == "max-age=5"
    body = response.body.decode()
    port = pbal.server.address("site")[1]
    assert 'Forwarded: for=127.0.0.1;host="a.test:4443";proto=https' in body and f"X-Forwarded-Port: {port}" in body
    assert "X-Host: TLSv1.3 a.test https" in body and "X-Forwarded-Proto: https" in body


def test_forwarded_is_read_and_written() -> None:
    assert elements(b'for=1.2.3.4; Proto="http";by="a\\"b" ,for="[::1]"') == [
        {b"for": b"1.2.3.4", b"proto": b"http", b"by": b'a"b'}, {b"for": b"[::1]"},
    ]  # fmt: skip
    for wrong in (b"", b"for", b"for=", b"for=a b", b'for="a', b"for=a,", b"for=a;;by=b", b"for=[::1]", b",".join([b"for=a"] * 100)):
        assert elements(wrong) is None, wrong
    assert address(b"[2001:DB8::1]:80") == b"2001:db8::1" and address(b"1.2.3.4:_p") == b"1.2.3.4" and address(b"_x") == b""
    assert element(b"::1", b"a:80", b"http") == b'for="[::1]";host="a:80";proto=http'
    assert element(b"", b"", b"") == b"for=unknown"


# -- a second pool -------------------------------------------------------------------------------------------------------


def says(data: bytes) -> Callable[[Taken], Awaitable[None]]:
    """Says the same to every head."""

    async def behave(taken: Taken) -> None:
        while True:
            await taken.request()
            taken.say(data)

    return behave


class Spare:
    """A node that takes whole requests, and keeps their bodies."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.address = ""

    async def behave(self, taken: Taken) -> None:
        while True:
            head = await taken.request()
            length = re.search(rb"\r\nContent-Length: (\d+)", head)
            self.bodies.append(await taken.reader.readexactly(int(length[1])) if length else b"")
            taken.say(answer(b"" if head.startswith(b"HEAD") else b"spare"))


async def two(lab: Lab, first: Callable[[Taken], Awaitable[None]] | None, on: str, more: str = "") -> tuple[Pbal, Spare]:
    """A service on the pool `app`, which is one such node or none, that falls back to `spare`."""
    spare = Spare()
    spare.address = (await Scripted.start(lab, spare.behave)).address
    nodes = [(await Scripted.start(lab, first)).address] if first is not None else []
    statements = f"SET fallback_pool = spare;SET fallback_on = {on};{more}"
    return await lab.pbal(f"CREATE POOL spare\nPOOL spare ADD {spare.address}\n" + proxy(*nodes, more=statements)), spare


@lab
async def test_a_status_that_is_named_goes_to_the_second_pool_and_what_that_answers_is_the_clients(lab: Lab) -> None:
    pbal, spare = await two(lab, says(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno"), "404 5xx")
    client = await Client.of(pbal, request=get() * 3 + get(method="HEAD"))
    assert [(await read_response(client.reader)).body for _ in range(3)] == [b"spare"] * 3
    assert pbal.counts["fallbacks"] >= 3
    response = await pbal.ask("web", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
    assert (response.status, response.body) == (404, b"no"), "not safe to send twice"
    assert await pbal.say("SET web.fallback_on = 5xx") == "OK"
    assert (await pbal.ask("web", get())).status == 404
    assert await pbal.say("POOL spare REMOVE " + spare.address) == "OK"
    assert await pbal.say("SET web.fallback_on = 404") == "OK"
    response = await pbal.ask("web", get())
    assert (response.status, response.body) == (404, b"no"), "there is no node in the second pool"
    assert "is used by service 'web'" in await pbal.say("DROP POOL spare")


@lab
async def test_a_body_that_was_not_sent_yet_or_is_held_goes_to_the_second_pool(lab: Lab) -> None:
    pbal, spare = await two(lab, says(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "5xx", "SET buffer_backend_connect = 0")
    put = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
    client = await Client.of(pbal, request=put)
    await until(lambda: pbal.counts["fallbacks"] == 1, "the second pool")
    client.writer.write(b"hello")
    assert (await read_response(client.reader)).body == b"spare"
    assert await pbal.say("SET web.buffer_backend_connect = 1k") == "OK"
    client = await Client.of(pbal, request=put + b"hello")
    assert (await read_response(client.reader)).body == b"spare"
    assert spare.bodies == [b"hello", b"hello"]


@lab
async def test_failures_go_to_the_second_pool(lab: Lab) -> None:
    pbal, spare = await two(lab, None, "failure", "SET response_timeout = 50ms")
    assert (await pbal.ask("web", get())).body == b"spare"
    posted = await pbal.ask("web", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
    assert posted.body == b"spare", "no node has seen it"

    async def hangs_up(taken: Taken) -> None:
        await taken.request()
        taken.writer.close()

    silent, broken = await Scripted.start(lab), await Scripted.start(lab, hangs_up)
    for node in (silent, broken):
        assert await pbal.say(f"POOL app ADD {node.address}") == "OK"
        assert (await pbal.ask("web", get())).body == b"spare"
        if node is broken:
            posted = await pbal.ask("web", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
            assert posted.status == 502, "a node has seen it"
        assert await pbal.say(f"POOL app REMOVE {node.address}") == "OK"
    assert await pbal.say(f"POOL app ADD {broken.address}") == "OK"
    assert await pbal.say("CREATE POOL nobody") == await pbal.say("SET web.fallback_pool = nobody") == "OK"
    assert await pbal.say("DROP POOL spare") == "OK" and spare.bodies
    assert (await pbal.ask("web", get())).status == 503
    assert pbal.counts["backend_unavailable"] == 1
    said = await pbal.say(f"explain GET http://127.0.0.1:{pbal.server.address('web')[1]}/")
    assert "fallback_pool = nobody, on failure" in said


@lab
async def test_a_client_that_leaves_between_two_pools_leaves_nothing_behind(lab: Lab) -> None:
    pbal, _ = await two(lab, says(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), "404 failure", "SET half_close_timeout = 0")
    for _ in range(20):
        client = await Client.of(pbal, request=get() * 3)
        client.reset()
    await until(lambda: not pbal.world.clients, "them to be gone")
    await until(lambda: all(node.active == 0 for pool in pbal.world.pools.values() for node in pool.nodes), "nodes to be free")
    assert (await pbal.ask("web", get())).body == b"spare"
    for wrong in ("404,nope", "200", "", "6xx", "40"):
        assert "expected statuses and failure" in await pbal.say(f'SET web.fallback_on = "{wrong}"')
