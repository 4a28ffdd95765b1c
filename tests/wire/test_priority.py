"""The queue's three classes: who is served first, relief for the normal one, and what the console shows."""

import pytest
from lab import Lab, Pbal, lab, read_response, until
from scripted import OK, Client, Scripted, get, proxy

from pbal.roles.proxy.priority import has_cookie

FAST = "SET high_priority_cookie = fast"
WHOSE = f"{FAST};SET high_priority_cookie_contents = =1 2"


def _cookies() -> list[tuple[str, bytes, bytes, bool]]:
    return [
        ("fast=1", b"fast", b"", True),
        ("fast", b"fast", b"", True),
        ("faster=1; slow=2", b"fast", b"", False),
        ("a=b; fast=1", b"fast", b"1", True),
        ("a=b;fast=0; fast=1", b"fast", b"1", True),
        ("fast=a=b=c", b"fast", b"a=b", True),  # Perlbal cuts at the last "=" and misses it
        ("%66ast=x%20y", b"fast", b"x y", True),
        ("fast=2", b"fast", b"1", False),
        ("", b"fast", b"", False),
    ]


@pytest.mark.parametrize(("header", "name", "contents", "found"), _cookies())
def test_which_cookie_makes_a_request_high(header: str, name: bytes, contents: bytes, found: bool) -> None:
    assert has_cookie(header.encode(), name, contents) is found


async def _line_up(lab: Lab, more: str, *requests: bytes, before: str = "") -> tuple[Pbal, Scripted, list[Client]]:
    """One request is on the only connection, the others wait behind it in this order."""
    origin = await Scripted.start(lab)
    pbal = await lab.pbal(before + proxy(origin.address, pool="SET app.node_max_connections = 1", more=more))
    clients = [await Client.of(pbal, request=get("/first"))]
    await (await origin.connection()).request()
    for place, request in enumerate(requests, 1):
        clients.append(await Client.of(pbal, request=request))
        await until(lambda place=place: _waiting(pbal) == place, "it to wait")  # type: ignore[misc]
    return pbal, origin, clients


def _waiting(pbal: Pbal) -> int:
    handler = pbal.world.service("web").handler
    return 0 if handler is None else handler.load()[0]


async def _order(origin: Scripted, clients: list[Client]) -> list[str]:
    """Answer everybody; in which order they came."""
    node = await origin.connection()
    order = []
    for _ in clients[1:]:
        node.say(OK)
        order.append((await node.request()).split(b" ")[1].decode())
    node.say(OK)
    for client in clients:
        assert (await read_response(client.reader)).status == 200
    return order


def _high(path: str) -> bytes:
    return get(path, "Cookie: a=1; fast=%3d1%202")


@lab
async def test_high_goes_before_normal_and_each_in_order(lab: Lab) -> None:
    pbal, origin, clients = await _line_up(lab, WHOSE, get("/a"), _high("/B"), get("/c", "Cookie: fast=0"), _high("/D"))
    shown = await pbal.say("queues")
    for line in ("web-normal.count 2", "web-highpri.count 2", "web-lowpri.count 0", "web-highpri.age 0"):
        assert line in shown
    assert await _order(origin, clients) == ["/B", "/D", "/a", "/c"]
    assert "web-highpri.count 0" in await pbal.say("queues")


@pytest.mark.parametrize(
    ("size", "chance", "order"),
    [
        (2, 100, ["/a", "/B", "/C", "/d"]),  # relief while two of the normal class wait, and no longer
        (1, 100, ["/a", "/d", "/B", "/C"]),
        (2, 0, ["/B", "/C", "/a", "/d"]),
        (3, 100, ["/B", "/C", "/a", "/d"]),
    ],
)
def test_relief_lets_the_normal_class_go_first(size: int, chance: int, order: list[str]) -> None:
    @lab
    async def run(lab: Lab) -> None:
        more = f"{WHOSE};SET queue_relief_size = {size};SET queue_relief_chance = {chance}"
        _, origin, clients = await _line_up(lab, more, get("/a"), _high("/B"), _high("/C"), get("/d"))
        assert await _order(origin, clients) == order

    run()


@lab
async def test_who_left_is_not_counted_and_relieves_nobody(lab: Lab) -> None:
    more = f"{WHOSE};SET queue_relief_size = 1;SET queue_relief_chance = 100"
    pbal, origin, clients = await _line_up(lab, more, get("/a"), _high("/B"))
    clients[1].reset()
    await until(lambda: _waiting(pbal) == 1, "it to leave")
    assert "web-normal.count 0" in await pbal.say("queues")
    assert await _order(origin, [clients[0], clients[2]]) == ["/B"]


@lab
async def test_the_class_of_the_next_request_on_a_connection_is_its_own(lab: Lab) -> None:
    _, origin, clients = await _line_up(lab, FAST, _high("/B"), get("/c"))
    node = await origin.connection()
    node.say(OK)
    assert b"/B" in await node.request()
    clients[1].writer.write(get("/after"))  # waits behind its own answer, then behind /c
    node.say(OK)
    assert b"/c" in await node.request()
    node.say(OK)
    assert b"/after" in await node.request()
    node.say(OK)
    assert [(await read_response(clients[1].reader)).status for _ in range(2)] == [200, 200]


PLUGIN = """
from pbal.api import Exchange, Plugin, hook

class Crawlers(Plugin):
    @hook.make_low_priority
    def robots(self, exchange: Exchange) -> bool:
        agent = exchange.request.fields.get(b"user-agent")
        if agent == b"odd":
            return 1
        return b"bot" in agent  # a request without the field is a fault
"""


async def _with(lab: Lab, plugin: str, more: str, *requests: bytes) -> tuple[Pbal, Scripted, list[Client]]:
    """As _line_up, with a plugin loaded."""
    (lab.folder / "crawlers.py").write_text(PLUGIN)
    before = f"SERVER plugin_path = {lab.folder}\nLOAD {plugin}\n"
    return await _line_up(lab, f"SET plugins = {plugin};{more}", *requests, before=before)


@lab
async def test_highpri_makes_requests_high_by_path_and_host(lab: Lab) -> None:
    more = r"SET web.highpri.uri_pattern = ^/log;SET web.highpri.host_pattern = ^admin\."
    admin = b"GET /admin HTTP/1.1\r\nHost: admin.x\r\n\r\n"
    pbal, origin, clients = await _with(lab, "highpri", more, get("/a"), get("/%6cogin"), admin)
    assert "web-highpri.count 2" in await pbal.say("queues")
    assert await _order(origin, clients) == ["/%6cogin", "/admin", "/a"]
    assert await pbal.say("SET web.highpri_uri_pattern = none") == "OK"


@lab
async def test_highpri_tells_its_patterns_and_what_it_would_do_and_keeps_both_over_a_reload(lab: Lab) -> None:
    pbal = await lab.pbal("SERVER compatible = perlbal\nLOAD HighPri\n" + proxy("127.0.0.1:1", more="SET plugins = Highpri"))
    at = f"http://127.0.0.1:{pbal.server.address('web')[1]}"
    default = r"^(?:/interface/(?:xmlrpc|flat)|/login\.bml)$"
    begin = "High priority pattern buffer:\nSET web.highpri.uri_pattern = "
    assert await pbal.say("patterns") == f"{begin}{default}\nSET web.highpri.host_pattern = undef\n."
    assert "highpri_uri_pattern" in await pbal.say(f"explain GET {at}/login.bml")
    assert "expected" in await pbal.say("SET web.highpri.uri_pattern = (")
    for statement in ("SET web.highpri.uri_pattern = (a|a)+x$", r"SET web.highpri.host_pattern = ^im\.", "RELOAD highpri"):
        assert "ERROR" not in await pbal.say(statement)
    assert await pbal.say("patterns") == f"{begin}(a|a)+x$\nSET web.highpri.host_pattern = ^im\\.\n."
    assert "highpri_host_pattern" in await pbal.say(f"explain GET {at.replace('127.0.0.1', 'im.site')}/")
    assert "took too long" in await pbal.say(f"explain GET {at}/{'a' * 60}")
    assert "class" not in await pbal.say(f"explain GET {at}/")


@lab
async def test_a_pattern_of_highpri_that_searches_for_ever_is_given_up(lab: Lab) -> None:
    pbal, origin, clients = await _with(lab, "highpri", "SET web.highpri.uri_pattern = (a|a)+x$", get("/" + "a" * 60), get("/ax"))
    assert "web-highpri.count 1" in await pbal.say("queues") and pbal.counts["regex_timeouts"] >= 1
    assert [path[:3] for path in await _order(origin, clients)] == ["/ax", "/aa"]


@lab
async def test_a_plugin_makes_requests_low_and_one_that_fails_makes_them_wait_as_others_do(lab: Lab) -> None:
    """High goes before it, whoever said so; and what is wrong with its word is told, and costs nobody the answer."""
    requests = [get("/bot", "User-Agent: a bot"), get("/fault"), get("/odd", "User-Agent: odd"), get("/man", "User-Agent: man")]
    pbal, origin, clients = await _with(lab, "crawlers", FAST, *requests, get("/high", "User-Agent: bot", "Cookie: fast=1"))
    assert "web-lowpri.count 1" in await pbal.say("queues")
    assert pbal.counts["plugin_errors"] == 3  # of the first request, too
    assert await _order(origin, clients) == ["/high", "/fault", "/odd", "/man", "/bot"]


@lab
async def test_a_chance_is_from_0_to_100(lab: Lab) -> None:
    pbal = await lab.pbal(proxy("127.0.0.1:1"))
    assert "expected 100 or less for queue_relief_chance, found '101'" in await pbal.say("SET web.queue_relief_chance = 101")
    assert "expected the name of a cookie, found 'a b'" in await pbal.say("SET web.high_priority_cookie = a b")
    assert "expected a path such as /alive, or *, found 'alive'" in await pbal.say("SET web.verify_backend_path = alive")
