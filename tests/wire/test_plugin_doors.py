"""The plugins basic_auth, auth_request and maintenance: who may pass, and what the others are told."""

import asyncio
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, Pbal, Response, lab, read_response, until
from polls import conf, park
from polls import get as poll
from scripted import OK, Client, Scripted, Taken, answer, get, proxy

from pbal.schema.passwords import line_for

CHEAP = (2, 1, 1)
"""Of scrypt: these passwords guard nothing."""


def _basic(user: str, password: str) -> str:
    return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


async def _guarded(lab: Lab, more: str = "") -> Pbal:
    (lab.folder / "a.txt").write_text("a page")
    (lab.folder / "users").write_text(line_for("amy", "secret", CHEAP) + "\n")
    return await lab.pbal(f"""
        LOAD basic_auth
        CREATE SERVICE site
          SET role             = web_server
          SET listen           = 127.0.0.1:0
          SET docroot          = {lab.folder}
          SET trusted_upstream_proxies = 127.0.0.1
          SET basic_auth_file  = {lab.folder}/users
          SET basic_auth_realm = Back office
          {more}
          SET plugins          = basic_auth
        ENABLE site
    """)


async def _ask(pbal: Pbal, *fields: str, path: str = "/a.txt", address: str = "10.0.0.1", service: str = "site") -> Response:
    return await pbal.ask(service, get(path, f"X-Forwarded-For: {address}", *fields))


# -- basic_auth ----------------------------------------------------------------------------------------------------


@lab
async def test_who_has_the_password_passes_and_others_are_asked_for_it(lab: Lab) -> None:
    pbal = await _guarded(lab)
    refused = await _ask(pbal)
    assert refused.status == 401 and refused.fields["www-authenticate"] == 'Basic realm="Back office", charset="UTF-8"'
    assert refused.body == b"A user and a password are needed.\n"
    for said in ("Authorization: Basic !!", "Authorization: Bearer x", "Authorization: Basic " + b64encode(b"amy").decode()):
        assert (await _ask(pbal, said)).status == 401
    assert pbal.counts["basic_auth_failures"] == 0
    for _ in range(2):
        assert (await _ask(pbal, _basic("amy", "secret"))).body == b"a page"
    assert (await _ask(pbal, _basic("amy", "wrong"), address="10.0.0.2")).status == 401
    pauses = pbal.plugin("site", "basic_auth").users._pauses
    for address in pauses:  # as if it were the seventh: a pause that does not end before the test does
        pauses[address] = (7, pbal.world.clock.now())
    slow = await _ask(pbal, _basic("amy", "guess"), address="10.0.0.2")
    assert slow.status == 429 and int(slow.fields["retry-after"]) >= 1
    head = get("/a.txt", "X-Forwarded-For: 10.0.0.2", _basic("amy", "guess"), "Content-Length: 9", "Expect: 100-continue", method="POST")
    assert (await pbal.ask("site", head)).status == 429, "its body is not asked for"
    assert (await _ask(pbal, _basic("bob", "secret"), address="10.0.0.3")).status == 401
    assert pbal.counts["basic_auth_failures"] == 2
    before = type(pbal.plugin("site", "basic_auth").users)
    assert await pbal.say("RELOAD basic_auth") == "OK"
    users = pbal.plugin("site", "basic_auth").users
    assert users.knows("amy", b"secret") and type(users) is not before, "what is known goes along, and nothing of the old code"
    assert (await _ask(pbal, _basic("amy", "secret"))).status == 200
    assert (await _ask(pbal, _basic("amy", "guess"), address="10.0.0.2")).status == 429
    assert not pbal.plugin("site", "basic_auth")._passed


@lab
async def test_only_the_path_is_guarded_however_it_is_spelt(lab: Lab) -> None:
    pbal = await _guarded(lab, "SET basic_auth_path = ^/admin(/|$)")
    assert (await _ask(pbal)).status == 200
    for path in ("/admin", "/%61dmin/x", "//admin", "/x/../admin/"):
        assert (await _ask(pbal, path=path)).status == 401
    assert "401: no user and password" in await pbal.say("explain GET http://h/admin")


@lab
async def test_a_user_who_leaves_the_file_does_not_pass_any_more(lab: Lab) -> None:
    pbal = await _guarded(lab)
    assert (await _ask(pbal, _basic("amy", "secret"))).status == 200
    (lab.folder / "users").write_text(line_for("bob", "other", CHEAP) + "\n")
    plugin = pbal.plugin("site", "basic_auth")
    plugin._looked = 0.0  # as if a second had gone
    await _ask(pbal, _basic("amy", "secret"))
    await until(lambda: "amy" not in plugin.users._users, "the file to be read")
    assert (await _ask(pbal, _basic("amy", "secret"))).status == 401
    assert (await _ask(pbal, _basic("bob", "other"), address="10.0.0.9")).status == 200


@lab
async def test_a_body_is_not_lost_while_the_password_is_looked_at(lab: Lab) -> None:
    (lab.folder / "users").write_text(line_for("amy", "secret", CHEAP) + "\n")
    more = f"SET basic_auth_file = {lab.folder}/users;SET plugins = basic_auth;LIMIT web 1/h"
    origin = await Scripted.start(lab)
    pbal = await lab.pbal("LOAD basic_auth\n" + proxy(origin.address, more=more))
    client = await Client.of(pbal, request=get("/", _basic("amy", "secret"), "Content-Length: 5", method="POST") + b"hello")
    node = await origin.connection()
    assert b"POST / HTTP/1.1" in await node.request()
    assert await node.reader.readexactly(5) == b"hello"
    node.say(OK)
    assert (await read_response(client.reader)).status == 200, "and LIMIT was charged once"
    client.writer.write(get("/", _basic("amy", "secret")))
    assert (await read_response(client.reader)).status == 429


@pytest.mark.parametrize("guard", ["basic_auth", "auth_request"])
@lab
async def test_who_is_refused_need_not_send_its_body_and_who_passes_sends_it_meanwhile(lab: Lab, guard: str) -> None:
    (lab.folder / "users").write_text(line_for("amy", "secret", CHEAP) + "\n")
    application = Application()
    origin = await Scripted.start(lab, application.talk)
    said = f"SET basic_auth_file = {lab.folder}/users" if guard == "basic_auth" else "SET auth_request_uri = /auth;SET auth_request_ttl = 0"
    pbal = await lab.pbal(f"LOAD {guard}\n" + proxy(origin.address, more=f"{said};SET persist_backend = off;SET plugins = {guard}"))
    plugin = pbal.plugin("web", guard)
    wrong, right = ("Cookie: out", _basic("amy", "wrong")), ("Cookie: in", _basic("amy", "secret"))
    upload = get("/", *wrong, "Content-Length: 1000", method="POST") + b"a part"
    client = await Client.of(pbal, request=upload)
    assert (await read_response(client.reader)).status == (401 if guard == "basic_auth" else 403)
    assert await client.reader.read() == b"", "the rest would be taken for a request"
    for body in (b"a part", b""):  # the decision comes before the body, and after it
        application.waits.clear()
        turn = plugin.users._turn if guard == "basic_auth" else None
        if turn is not None:
            await turn.acquire()
            plugin.users._known.clear()
            plugin.users._pauses.clear()
        client = await Client.of(pbal, request=get("/", *right, "Content-Length: 8", method="POST") + b"12345678"[: len(body)])
        await until(lambda: plugin._judged if guard == "basic_auth" else plugin._waiting, "it to be looked at")
        if not body:
            client.writer.write(b"12345678")
            await until(lambda: pbal.world.taken, "the body to be there")
        application.waits.set()
        if turn is not None:
            turn.release()
        if body:
            decided = plugin._passed if guard == "basic_auth" else plugin._decided
            await until(lambda: decided and all(decided.values() if guard == "auth_request" else decided), "it to be decided")  # noqa: B023
            client.writer.write(b"12345678"[len(body) :])
        assert b"POST / HTTP/1.1" in (await read_response(client.reader)).body
    assert not (plugin._judged or plugin._passed if guard == "basic_auth" else plugin._waiting or plugin._decided)


@lab
async def test_polls_need_the_password_too(lab: Lab) -> None:
    (lab.folder / "users").write_text(line_for("amy", "secret", CHEAP) + "\n")
    pbal = await lab.pbal("LOAD basic_auth\n" + conf(f"SET basic_auth_file = {lab.folder}/users", "SET plugins = poll basic_auth"))
    assert (await pbal.ask("chat", poll("/poll/a"))).status == 401
    assert (await pbal.ask("chat", poll("/poll/a", "Accept: text/event-stream"))).status == 401
    reader, _ = await park(pbal, "/poll/a", _basic("amy", "secret"))
    assert not (await pbal.say("poll publish chat a hello")).startswith("ERROR")
    assert (await read_response(reader)).body == b"hello\n"


@lab
async def test_a_preflight_needs_no_password_where_it_is_answered_here_and_all_else_does(lab: Lab) -> None:
    """A browser sends none with it. Who guards by the address is asked all the same."""
    (lab.folder / "users").write_text(line_for("amy", "secret", CHEAP) + "\n")
    said = (
        "SET trusted_upstream_proxies = 127.0.0.1", f"SET basic_auth_file = {lab.folder}/users", "SET poll_allow_origin = https://a.example",
        "SET cors_allow_origin = https://b.example", "SET plugins = basic_auth cors poll accesscontrol", "ACCESS DENY ip 10.0.0.9",
    )  # fmt: skip
    pbal = await lab.pbal("LOAD basic_auth\nLOAD cors\nLOAD accesscontrol\n" + conf(*said))
    asks = "Access-Control-Request-Method: GET"

    async def ask(path: str, origin: str, *fields: str, method: str = "OPTIONS", address: str = "10.0.0.1") -> int:
        more = f"Origin: https://{origin}.example", f"X-Forwarded-For: {address}", *fields
        return (await pbal.ask("chat", poll(path, *more, method=method))).status

    assert [await ask("/poll/a", each, asks) for each in "ab"] == [204, 403]
    assert [await ask("/page", each, asks) for each in "ba"] == [204, 403]
    assert await ask("/poll/a", "a") == await ask("/page", "b") == 401, "no preflight"
    assert await ask("/page", "b", asks, method="GET") == 401
    assert await ask("/page", "b", asks, address="10.0.0.9") == 403 and pbal.counts["access_denied"] == 1
    told = await pbal.say(f"explain OPTIONS http://h/page Origin: https://b.example ; {asks}")
    assert "204: a preflight of CORS" in told and "401" not in told, told
    assert await pbal.say("SET chat.cors_allow_origin = off") == "OK"
    assert await ask("/page", "b", asks) == 401, "what nobody answers needs a password"


@pytest.mark.parametrize("guard", ["basic_auth", "auth_request", "throttle"])
@lab
async def test_a_request_with_a_body_is_not_answered_by_the_next_plugin_before_the_guard_has_decided(lab: Lab, guard: str) -> None:
    (lab.folder / "users").write_text(line_for("amy", "secret", CHEAP) + "\n")
    (lab.folder / "MyApp.py").write_text("def handler(request):\n    request.print('private')\n    return 0\n")
    application = await Scripted.start(lab)
    more = {
        "basic_auth": f"SET basic_auth_file = {lab.folder}/users",
        "auth_request": "SET auth_request_uri = /auth",
        "throttle": "SET max_delay = 1h;SET initial_delay = 1h",
    }[guard]
    start = f"LOAD {guard}\nLOAD cgilike\nSERVER plugin_path = {lab.folder}\n"
    plugins = f"SET plugins = {guard} cgilike;PERLHANDLER = MyApp::handler"
    pbal = await lab.pbal(start + proxy(application.address, more=f"{more};{plugins}"))
    if guard == "throttle":
        assert (await pbal.ask("web", get("/"))).body == b"private"
    client = await Client.of(pbal, request=get("/", _basic("amy", "wrong"), "Content-Length: 1", method="POST") + b"x")
    if guard == "auth_request":
        node = await application.connection()
        assert b"GET /auth " in await node.request()
        node.say(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    assert (await read_response(client.reader)).status == {"basic_auth": 401, "auth_request": 403, "throttle": 429}[guard]


@lab
async def test_without_a_file_the_door_cannot_be_hung(lab: Lab) -> None:
    pbal = await _guarded(lab)
    await pbal.say("CREATE SERVICE other")
    for said in ("SET role = web_server", "SET listen = 127.0.0.1:0", f"SET docroot = {lab.folder}", "SET plugins = basic_auth"):
        assert await pbal.say(said) == "OK"
    assert "basic_auth needs basic_auth_file" in await pbal.say("ENABLE other")
    assert (await pbal.say("UNSET site.basic_auth_file")).startswith("ERROR")
    assert "expected an existing file" in await pbal.say("SET site.basic_auth_file = /nowhere")


# -- auth_request --------------------------------------------------------------------------------------------------


class Application:
    """It lets in who has the cookie `in`, and says what it was asked."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.status = 0
        self.secret = b""
        """The path that nobody may see."""
        self.users: dict[bytes, bytes] = {}
        """Who it takes them for, by path."""
        self.waits = asyncio.Event()
        self.waits.set()

    async def talk(self, taken: Taken) -> None:
        while True:
            head = await taken.request()
            self.heads.append(head)
            if not head.startswith(b"GET /auth "):
                taken.say(answer(head))
                continue
            await self.waits.wait()
            status = self.status or (200 if b"Cookie: in" in head else 401 if b"Cookie" not in head else 403)
            target = next(line[16:] for line in head.split(b"\r\n") if line.startswith(b"X-Original-URI: "))
            status = 403 if target == self.secret else status
            user = self.users.get(target, b"amy")
            fields = b"X-User: %b\r\n" % user if status == 200 else b"WWW-Authenticate: Cookie\r\n"
            taken.say(b"HTTP/1.1 %d X\r\n%bContent-Length: 0\r\n\r\n" % (status, fields))

    @property
    def asked(self) -> int:
        """Questions so far."""
        return sum(head.startswith(b"GET /auth ") for head in self.heads)


async def _asking(lab: Lab, more: str = "") -> tuple[Pbal, Application]:
    application = Application()
    origin = await Scripted.start(lab, application.talk)
    said = "SET auth_request_uri = /auth;SET auth_request_path = ^/private;SET auth_request_copy = X-User;SET plugins = auth_request"
    said = f"SET trusted_upstream_proxies = 127.0.0.1;{said}{';' + more if more else ''}"
    return await lab.pbal("LOAD auth_request\n" + proxy(origin.address, more=said)), application


@lab
async def test_the_application_decides_and_is_asked_once(lab: Lab) -> None:
    pbal, application = await _asking(lab, "SET auth_request_ttl = 1h")
    assert (await _ask(pbal, path="/open", service="web")).status == 200 and application.asked == 0
    for name in ("X-User", "X_User"):
        assert b"eve" not in (await _ask(pbal, f"{name}: eve", path="/open", service="web")).body, "nodes believe it on every path"
    for _ in range(2):
        passed = await _ask(pbal, "Cookie: in", "X-User: eve", path="/private?a=b", service="web")
        assert passed.status == 200 and b"X-User: amy" in passed.body and b"eve" not in passed.body
    assert application.asked == 1
    question = next(head for head in application.heads if head.startswith(b"GET /auth"))
    for field in (b"X-Original-URI: /private?a=b", b"X-Original-Method: GET", b"X-Forwarded-For: 10.0.0.1", b"Host: h", b"Cookie: in"):
        assert field in question
    refused = await _ask(pbal, path="/private", service="web")
    assert refused.status == 401 and refused.fields["www-authenticate"] == "Cookie"
    assert (await _ask(pbal, "Cookie: out", path="/%70rivate", service="web")).status == 403
    assert pbal.counts["auth_request_denied"] == 2
    assert await pbal.say("RELOAD auth_request") == "OK"
    assert (await _ask(pbal, "Cookie: in", path="/private?a=b", service="web")).status == 200 and application.asked == 3
    assert await pbal.say("SET web.auth_request_ttl = 0") == "OK"
    assert (await _ask(pbal, "Cookie: in", path="/private?a=b", service="web")).status == 200 and application.asked == 4


@lab
async def test_of_a_request_for_several_files_each_is_decided(lab: Lab) -> None:
    pbal, application = await _asking(lab)
    application.secret = b"/private/x"

    def asked() -> list[bytes]:
        return [line[16:] for head in application.heads for line in head.split(b"\r\n") if line.startswith(b"X-Original-URI: ")]

    for target, status in (
        ("/??a,b", 200), ("/??a,private/x", 403), ("/private/??x", 403), ("/private/??y,z?v=1", 200), ("/??private/y" + 32 * ",a", 403),
        ("/open??private/x", 200),
    ):  # fmt: skip
        assert (await _ask(pbal, "Cookie: in", path=target, service="web")).status == status, target
    assert asked() == [
        b"/??a,private/x", b"/a", b"/private/x", b"/private/??x", b"/private/??y,z?v=1", b"/private/y", b"/private/z"
    ], "/private/x is remembered"  # fmt: skip
    assert not pbal.plugin("web", "auth_request")._decided
    assert await pbal.say("UNSET web.auth_request_path") == "OK"
    assert (await _ask(pbal, "Cookie: in", path="/private/??y,x", service="web")).status == 403
    assert (await _ask(pbal, "Cookie: in", path="/a?b", service="web")).status == 200
    users = application.users = {b"/b": b"bob"}
    assert (await _ask(pbal, "Cookie: in", path="/??a,b", service="web")).status == 403, "nodes are told of one user"
    users[b"/??a,b"] = users[b"/a"] = b"bob"
    assert await pbal.say("SET web.auth_request_ttl = 0") == "OK"
    assert b"X-User: bob" in (await _ask(pbal, "Cookie: in", path="/??a,b", service="web")).body


@lab
async def test_without_an_answer_nobody_passes(lab: Lab) -> None:
    pbal, application = await _asking(lab)
    application.status = 500
    refused = await _ask(pbal, "Cookie: in", path="/private", service="web")
    assert refused.status == 503 and refused.fields["retry-after"] == "1"
    assert pbal.counts["auth_request_failed"] == 1
    application.status = 0
    assert (await _ask(pbal, "Cookie: in", path="/private", service="web")).status == 200, "what decides nothing is not remembered"


@lab
async def test_who_waits_for_an_answer_has_it_over_a_reload_and_keeps_its_body(lab: Lab) -> None:
    pbal, application = await _asking(lab)
    application.waits.clear()
    clients = [await Client.of(pbal, request=get("/private", "Cookie: in")) for _ in range(2)]
    upload = get("/private", "Cookie: in", "Content-Length: 5", method="POST") + b"hello"
    clients.append(await Client.of(pbal, request=upload))
    plugin = pbal.plugin("web", "auth_request")
    await until(lambda: sum(map(len, plugin._waiting.values())) == 3, "them to wait")
    assert application.asked <= 2
    assert await pbal.say("RELOAD auth_request") == "OK"
    clients[0].reset()
    application.waits.set()
    assert (await read_response(clients[1].reader)).status == 200
    assert b"POST /private" in (await read_response(clients[2].reader)).body
    await until(lambda: not pbal.plugin("web", "auth_request")._decided, "nothing to be left")


# -- maintenance ---------------------------------------------------------------------------------------------------


@lab
async def test_files_that_are_named_are_not_read_on_the_loop(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page and a list, by SET, RELOAD of the plugin, RELOAD CONFIG and ENABLE; what is wrong with one changes nothing and is not kept."""
    page, names = lab.folder / "sorry.html", lab.folder / "white"
    page.write_text("one")
    names.write_text("10.1.0.0/16\n")
    text = f"""
        LOAD maintenance
        LOAD throttle
        CREATE SERVICE site
          SET role             = web_server
          SET listen           = 127.0.0.1:0
          SET docroot          = {lab.folder}
          SET plugins          = maintenance throttle
          SET maintenance      = on
          SET maintenance_page = {page}
        ENABLE site
    """
    pbal = await lab.pbal(text)
    file = next(lab.folder.glob("test*.conf"))
    on_loop: list[object] = []
    reads = Path.read_text, open

    def watched(real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            if str(args[0]) in (str(page), str(names)) and threading.current_thread() is threading.main_thread():
                on_loop.append(args)
            return real(*args, **named)

        return call

    monkeypatch.setattr(Path, "read_text", watched(reads[0]))
    monkeypatch.setattr("builtins.open", watched(reads[1]))

    async def shown() -> bytes:
        return (await _ask(pbal)).body

    assert await shown() == b"one"
    page.write_bytes(b"two")
    assert await pbal.say("SET site.idle_timeout = 20s") == "OK" and await shown() == b"one"
    assert await pbal.say(f"SET site.maintenance_page = {page}") == "OK" and await shown() == b"two"
    page.write_bytes(b"three")
    assert await pbal.say("RELOAD maintenance throttle") == "OK" and await shown() == b"three"
    assert await pbal.say(f"SET site.whitelist_file = {names}") == "OK"
    assert pbal.plugin("site", "throttle").lists["whitelist_file"].first(b"10.1.2.3") == 0
    names.write_bytes(b"nobody\n")
    for said in (f"SET site.whitelist_file = {names}", "RELOAD throttle"):
        assert f"{names}:1: expected a network" in await pbal.say(said)
    assert await pbal.say("SET site.idle_timeout = 30s") == "OK", "what was read before stays"
    page.write_bytes(b"four")
    file.write_text(file.read_text().replace("SET plugins ", f"SET blacklist_file = {names}\n  SET plugins "))
    assert f"{names}:1: expected a network" in await pbal.say("RELOAD CONFIG")
    names.write_bytes(b"10.2.0.0/16\n")
    assert await pbal.say("RELOAD CONFIG") == "OK" and await shown() == b"three", "a page that is named already is not read again"
    lists = pbal.plugin("site", "throttle").lists
    assert lists["blacklist_file"].first(b"10.2.2.3") == 0 and lists["whitelist_file"] is None
    assert await pbal.say("CREATE SERVICE other LIKE site") == "OK"
    names.unlink()
    for _ in range(2):
        assert await pbal.say("SET other.whitelist_file = none") == "OK"
        assert "No such file" in await pbal.say(f"SET site.whitelist_file = {names}")
    assert await pbal.say("ENABLE other") == "OK"
    assert not on_loop
    assert {name for name, _ in pbal.world.readings._kept} == {"maintenance_page", "blacklist_file"}


@lab
async def test_maintenance_shows_a_page_but_to_who_works_on_it(lab: Lab) -> None:
    (lab.folder / "a.txt").write_text("a page")
    (lab.folder / "sorry.html").write_text("<h1>Sorry</h1>")
    pbal = await lab.pbal(f"""
        LOAD maintenance
        CREATE SERVICE site
          SET role              = web_server
          SET listen            = 127.0.0.1:0
          SET docroot           = {lab.folder}
          SET trusted_upstream_proxies = 127.0.0.1
          SET plugins           = maintenance
          SET maintenance_path  = ^/a
          SET maintenance_allow = 10.9.0.0/16
        ENABLE site
    """)
    assert (await _ask(pbal)).status == 200
    assert await pbal.say("SET site.maintenance = on") == "OK"
    closed = await _ask(pbal)
    assert closed.status == 503 and closed.fields["retry-after"] == "300" and b"come again later" in closed.body
    assert (await _ask(pbal, address="10.9.1.1")).status == 200
    assert (await _ask(pbal, path="/sorry.html")).status == 200
    assert await pbal.say(f"SET site.maintenance_page = {lab.folder}/sorry.html") == "OK"
    page = await _ask(pbal)
    assert (page.status, page.body, page.fields["content-type"]) == (503, b"<h1>Sorry</h1>", "text/html; charset=utf-8")
    assert await pbal.say("RELOAD maintenance") == "OK"
    assert (await _ask(pbal)).body == b"<h1>Sorry</h1>"
    assert "maintenance_page: /nowhere: No such file" in await pbal.say("SET site.maintenance_page = /nowhere")
    assert (await _ask(pbal)).body == b"<h1>Sorry</h1>"
    assert "503: maintenance is on" in await pbal.say("explain GET http://h/a.txt")
    assert pbal.counts["maintenance_answers"] == 4
    assert await pbal.say("SET site.maintenance = off") == "OK"
    assert (await _ask(pbal)).status == 200
