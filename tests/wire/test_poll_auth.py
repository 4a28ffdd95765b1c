"""poll_auth over the wire: who is let in, who is told what, and what the application is asked."""

import asyncio
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from urllib.parse import quote

import jwt
import pytest
from lab import Lab, Pbal, Response, lab, read_response, until
from polls import held, say
from sockets import HANDSHAKE

from pbal.plugins.poll.tokens import LEEWAY

SECRET = b"a secret of thirty-two octets, or more"
OTHER = SECRET[::-1]


def get(path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: chat", *fields]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def token(secret: bytes = SECRET, **claims: object) -> str:
    return jwt.encode({"exp": time.time() + 60, "poll": ["room-*", "me"], "publish": ["room-1"], **claims}, secret, "HS256")


def bearer(made: str) -> str:
    return f"Authorization: Bearer {made}"


async def poll(pbal: Pbal, queue: str, *fields: str, method: str = "GET") -> Response:
    return await pbal.ask("chat", get(f"/poll/{queue}", *fields, method=method))


async def publish(pbal: Pbal, queue: str, *fields: str) -> Response:
    return await pbal.ask("chat", get(f"/publish/{queue}", *fields, method="POST", body=b"hello"))


async def park(pbal: Pbal, path: str, *fields: str) -> asyncio.StreamReader:
    before = pbal.counts["poll_parked_ever"]
    reader, writer = await pbal.connect("chat")
    writer.write(get(path, *fields))
    await pbal.until("poll_parked_ever", before + 1)
    return reader


# -- jwt ---------------------------------------------------------------------------------------------------------


async def with_tokens(lab: Lab, *more: str) -> Pbal:
    (lab.folder / "key").write_bytes(SECRET + b"\n")
    lines = "\n".join(more)
    return await lab.pbal(
        f"""
LOAD poll
CREATE SERVICE chat
SET role             = web_server
SET listen           = 127.0.0.1:0
SET plugins          = poll
SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
SET poll_auth        = jwt key
{lines}
ENABLE chat
"""
    )


@lab
async def test_a_token_opens_its_queues_and_no_others(lab: Lab) -> None:
    pbal = await with_tokens(lab)
    mine = bearer(token())
    assert (await publish(pbal, "room-1", mine)).status == 202
    answer = await poll(pbal, "room-1", mine)
    assert (answer.status, answer.body) == (200, b"hello\n")
    for refused in (await poll(pbal, "bob", mine), await publish(pbal, "room-2", mine), await publish(pbal, "me", mine)):
        assert refused.status == 403
        assert refused.fields["www-authenticate"] == 'Bearer error="insufficient_scope"'
        assert b"may not" in refused.body
    assert b"poll queue bob" in (await poll(pbal, "bob", mine)).body
    waiting = await park(pbal, "/poll/me", mine)
    say(pbal, b"poll:me", b"for me")
    assert (await read_response(waiting)).body == b"for me\n"
    assert pbal.counts["poll_auth_refused"] == 4
    assert held(pbal, b"poll:room-2") == b""


@lab
async def test_every_queue_of_a_poll_has_to_be_allowed(lab: Lab) -> None:
    pbal = await with_tokens(lab, "SET poll_queue = query:q uri:queue")
    mine = bearer(token())
    assert (await pbal.ask("chat", get("/poll/x?q=me&q=room-1&q=bob", mine))).status == 403
    await park(pbal, "/poll/x?q=me&q=room-1", mine)


@lab
async def test_without_a_credential_and_with_a_bad_one(lab: Lab) -> None:
    pbal = await with_tokens(lab, "SET poll_allow_origin = https://page.test")
    for answer in (
        await poll(pbal, "me", "Origin: https://page.test"),
        await publish(pbal, "room-1"),
        await poll(pbal, "me", "Authorization: Basic eDp5"),
    ):
        assert answer.status == 401
        assert answer.fields["www-authenticate"] == "Bearer"
        assert answer.fields["cache-control"] == "no-store"
    first = await poll(pbal, "me", "Origin: https://page.test")
    assert first.fields["access-control-allow-origin"] == "https://page.test"
    bad = {
        "expired": token(exp=time.time() - LEEWAY - 1),
        "not good yet": token(nbf=time.time() + LEEWAY + 60),
        "signature": token(OTHER),
        "no exp": token(exp=None),
        "audience": token(aud="other"),
        "another way": jwt.encode({"exp": time.time() + 60, "poll": "me"}, "", "none"),
        "not a token": "garbage",
    }
    for why, made in bad.items():
        for answer in (await poll(pbal, "me", bearer(made)), await publish(pbal, "room-1", bearer(made))):
            assert answer.status == 401, why
            assert 'Bearer error="invalid_token", error_description="' in answer.fields["www-authenticate"]
            assert why.encode() in answer.body or why == "no exp"
    assert pbal.counts["poll_published"] == 0 and pbal.counts["poll_parked_ever"] == 0
    preflight = await poll(pbal, "me", "Origin: https://page.test", "Access-Control-Request-Headers: authorization", method="OPTIONS")
    assert preflight.status == 204, "a preflight has no credential"
    assert preflight.fields["access-control-allow-headers"] == "authorization"


@lab
async def test_what_strangers_send_opens_nothing_and_breaks_nothing(lab: Lab) -> None:
    pbal = await with_tokens(lab)
    say(pbal, b"poll:me", b"secret")
    header, claims, signature = token().split(".")
    odd = ["", ".", "..", "...", "a.b.c", f"{header}.{claims}", f"{header}.{claims}.", f"{header}..{signature}", f".{claims}.{signature}"]
    odd += [
        f"{header}.{claims}.{signature}.{signature}",
        f"{header}.{claims}.{signature[:-2]}",
        f"{claims}.{header}.{signature}",
        "x" * 7000,
    ]
    odd += ["%00%ff.%80.%0d%0a", "\xe9\xff.\x80.\xa0", "a\tb", "Bearer", "," * 50]
    reader, writer = await pbal.connect("chat")
    for made in odd:
        for request in (
            get("/poll/me", bearer(made)),
            get("/poll/me", f"Authorization: {made}"),
            get("/poll/me?token=" + quote(made, safe="%")),
        ):
            writer.write(request.decode().encode("latin-1"))
            assert (await read_response(reader)).status == 401, made
    assert pbal.counts["plugin_errors"] == 0 and held(pbal, b"poll:me") == b"secret\n"


@lab
async def test_a_browser_says_it_in_the_query_or_a_cookie_where_those_are_sources(lab: Lab) -> None:
    pbal = await with_tokens(lab)
    mine = token()
    say(pbal, b"poll:me", b"m")
    assert (await pbal.ask("chat", get(f"/poll/me?token={mine}"))).body == b"m\n"
    assert (await poll(pbal, "me", f"Cookie: token={mine}")).status == 401
    await pbal.say("SET chat.poll_auth_token = cookie:token header:X-Token")
    await park(pbal, "/poll/me", f"Cookie: token={mine}")
    await park(pbal, "/poll/me", f"X-Token: {mine}")
    assert (await pbal.ask("chat", get(f"/poll/me?token={mine}"))).status == 401


@lab
async def test_a_page_of_any_origin_does_not_act_as_who_looks_at_it(lab: Lab) -> None:
    """Browsers add cookies to whatever a page sends, and to the handshake of a socket, whose answer no rule keeps from it."""
    more = ("SET poll_allow_origin = * https://good.example", "SET poll_auth_token = cookie:sid query:token header:Authorization")
    pbal = await with_tokens(lab, *more)
    made = token()
    for fields, status in (
        (("Origin: https://evil.example", f"Cookie: sid={made}"), 401),
        (("Origin: null", f"Cookie: sid={made}"), 401),
        (("Origin: https://good.example", f"Cookie: sid={made}"), 202),
        (("Origin: http://chat", f"Cookie: sid={made}"), 202),
        ((f"Cookie: sid={made}",), 202),
        (("Origin: https://evil.example", bearer(made)), 202),
    ):
        answer = await publish(pbal, "room-1", *fields)
        assert answer.status == status, fields
        assert answer.fields["access-control-allow-origin"] == ("https://good.example" if "good" in fields[0] else "*")
        reader, writer = await pbal.connect("chat")
        writer.write(get("/poll/me", *HANDSHAKE, *fields))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 401" if status == 401 else b"HTTP/1.1 101"), fields
    assert await pbal.say("SET chat.poll_allow_origin = *") == "OK"
    assert (await publish(pbal, "room-1", "Origin: https://good.example", f"Cookie: sid={made}")).status == 401
    assert await pbal.say("SET chat.poll_allow_origin = https://good.example") == "OK"
    an_image = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", f"Cookie: sid={made}")
    assert (await poll(pbal, "room-1", *an_image)).status == 401
    assert (await poll(pbal, "room-1", "Origin: https://good.example", *an_image)).body == b"hello\n" * 4, "nothing was taken"


@lab
async def test_the_audience(lab: Lab) -> None:
    pbal = await with_tokens(lab, "SET poll_auth_audience = chat")
    assert (await poll(pbal, "me", bearer(token()))).status == 401
    await park(pbal, "/poll/me", bearer(token(aud=["x", "chat"])))


@lab
async def test_a_key_file_that_is_replaced(lab: Lab) -> None:
    pbal = await with_tokens(lab)
    await park(pbal, "/poll/me", bearer(token()))
    key = lab.folder / "key"
    key.write_bytes(OTHER)

    async def status(secret: bytes) -> int:
        return (await poll(pbal, "bob", bearer(token(secret)))).status

    end = time.monotonic() + 10
    while await status(OTHER) != 403:
        assert time.monotonic() < end, "the key was not taken up"
        await asyncio.sleep(0.05)
    assert await status(SECRET) == 401
    key.write_bytes(b"broken")
    while not pbal.counts["poll_auth_key_errors"]:
        assert await status(OTHER) == 403 and time.monotonic() < end
        await asyncio.sleep(0.05)
    assert await status(OTHER) == 403
    assert "a secret of 6 bytes" in await pbal.say("RELOAD poll")
    assert "a secret of 6 bytes" in await pbal.say("SET chat.poll_auth = jwt " + str(key))
    assert await status(OTHER) == 403
    key.write_bytes(SECRET)
    assert "OK" in await pbal.say("RELOAD poll")
    assert await status(SECRET) == 403 and await status(OTHER) == 401
    assert pbal.counts["poll_parked"] == 1


@lab
async def test_a_poll_waits_no_longer_than_its_token_is_good(lab: Lab) -> None:
    pbal = await with_tokens(lab)
    reader = await park(pbal, "/poll/me", bearer(token(exp=time.time() - LEEWAY + 1)))
    assert (await read_response(reader)).status == 204, "long before poll_timeout"


@lab
async def test_a_token_is_verified_once_and_ends_all_the_same(lab: Lab) -> None:
    pbal = await with_tokens(lab)
    mine = bearer(token(exp=time.time() - LEEWAY + 1))
    assert (await poll(pbal, "bob", mine)).status == 403
    assert len(pbal.plugin("chat").gate._ledger._held) == 1
    end = time.monotonic() + 10
    while (await poll(pbal, "bob", mine)).status == 403:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    assert (await poll(pbal, "bob", mine)).status == 401
    assert not pbal.plugin("chat").gate._ledger._held


@lab
async def test_no_credential_is_in_the_log(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    more = ("SET poll_max_parked = 1", "SET poll_park_rate = 1", "SET poll_park_burst = 2", "SET access_log = access.log")
    pbal = await with_tokens(lab, *more)
    good, bad = token(), token(OTHER)
    for made in (good, bad, good, bad, good):
        reader, writer = await pbal.connect("chat")
        writer.write(get(f"/poll/me?a=1&%74oken={made}&b", bearer(made), f"Cookie: token={made}"))
        await until(lambda: pbal.counts["poll_parked_ever"], "the first")
        if made is bad:
            assert (await read_response(reader)).status == 401
    assert good[-20:] not in caplog.text and bad[-20:] not in caplog.text
    assert (await publish(pbal, f"room-1?token={good}")).status == 202
    assert good[-20:] not in await pbal.say("show parked") + await pbal.say("socks") + await pbal.say("show errors")
    log = lab.folder / "access.log"
    await until(lambda: log.exists() and "/publish/room-1?token=..." in log.read_text(), "the lines of the access log")
    written = log.read_text()
    assert '"/poll/me?a=1&%74oken=...&b"' in written and good[-20:] not in written and bad[-20:] not in written


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("SET poll_auth = jwt none", "No such file"),
        ("SET poll_auth = jwt short", "secret of 5 bytes"),
        ("SET poll_auth = request /auth", "which has none"),
        ("SET poll_auth = on", "expected off, jwt KEYFILE"),
    ],
)
def test_what_check_refuses(line, reason):
    @lab
    async def run(lab: Lab) -> None:
        (lab.folder / "short").write_bytes(b"short")
        with pytest.raises(AssertionError, match=reason):
            await with_tokens(lab, line)

    run()


# -- request -----------------------------------------------------------------------------------------------------


class Application:
    """A node that answers sub-requests with what `say` makes of them, and everything else with a page."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.say: Callable[[dict[str, str]], bytes | None] = lambda _: said(204)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            fields = {name.lower(): value for name, value in (field.split(": ", 1) for field in lines)}
            if not line.startswith("GET /auth"):
                writer.write(said(200, b"page"))
                continue
            self.asked.append(fields)
            answer = self.say(fields)
            if answer is not None:
                writer.write(answer)


def said(status: int, body: bytes = b"", *fields: str) -> bytes:
    length = [] if status == 204 else [f"Content-Length: {len(body)}"]
    return "\r\n".join([f"HTTP/1.1 {status} x", *length, *fields, "", ""]).encode() + body


def as_json(value: object, *fields: str) -> bytes:
    return said(200, json.dumps(value).encode(), "Content-Type: application/json; charset=utf-8", *fields)


async def with_application(lab: Lab, *more: str) -> tuple[Pbal, Application]:
    application = Application()
    node = await lab.origin(application.serve)
    lines = "\n".join(more)
    pbal = await lab.pbal(
        f"""
LOAD poll
CREATE POOL app
POOL app ADD {node.address}
CREATE SERVICE chat
SET role             = reverse_proxy
SET listen           = 127.0.0.1:0
SET pool             = app
SET plugins          = poll
SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
SET poll_queue       = query:q uri:queue
SET poll_auth        = request /auth?by=pbal
{lines}
ENABLE chat
"""
    )
    return pbal, application


@lab
async def test_the_application_is_asked_with_the_clients_credentials(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    await park(
        pbal,
        "/poll/x?q=a&q=b%2Cc&token=t",
        "Authorization: Basic eDp5",
        "Cookie: sid=1",
        "X-Forwarded-For: 9.9.9.9",
        "X-Poll-Queues: forged",
    )
    assert (await publish(pbal, "a", "Cookie: sid=1")).status == 202
    first, second = application.asked
    assert first["authorization"] == "Basic eDp5" and first["cookie"] == "sid=1" and first["host"] == "chat"
    assert first["x-original-uri"] == "/poll/x?q=a&q=b%2Cc&token=t" and first["x-original-method"] == "GET"
    assert first["x-poll-action"] == "poll" and first["x-poll-queues"] == "a, b%2Cc"
    assert first["x-forwarded-for"] == "127.0.0.1" and first["x-forwarded-proto"] == "http"
    assert second["x-poll-action"] == "publish" and second["x-original-method"] == "POST" and second["x-poll-queues"] == "a"
    assert "content-length" not in second
    assert pbal.counts["poll_auth_requests"] == 2
    assert (await pbal.ask("chat", get("/"))).body == b"page", "all else goes its way"


@lab
async def test_401_and_403_are_handed_on(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda _: said(401, b"secret page", 'WWW-Authenticate: Basic realm="app"', "Set-Cookie: x=1")
    answer = await poll(pbal, "a")
    assert (answer.status, answer.fields["www-authenticate"]) == (401, 'Basic realm="app"')
    assert b"secret page" not in answer.body and "set-cookie" not in answer.fields
    application.say = lambda _: said(403)
    assert (await publish(pbal, "a")).status == 403
    application.say = lambda _: said(401)
    assert (await poll(pbal, "b")).fields["www-authenticate"] == "Bearer"
    assert pbal.counts["poll_auth_refused"] == 3 and pbal.counts["poll_auth_failed"] == 0
    assert pbal.counts["poll_published"] == 0 and pbal.counts["poll_parked_ever"] == 0


@lab
async def test_lists_limit_and_hold_for_all_queues_of_the_credential(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda _: as_json({"poll": ["room-*"], "publish": ["room-1"]})
    await park(pbal, "/poll/room-1", "Cookie: sid=1")
    await park(pbal, "/poll/room-2", "Cookie: sid=1")
    assert (await poll(pbal, "bob", "Cookie: sid=1")).status == 403
    assert (await publish(pbal, "room-1", "Cookie: sid=1")).status == 202
    assert (await publish(pbal, "room-2", "Cookie: sid=1")).status == 403
    assert len(application.asked) == 1
    assert (await poll(pbal, "bob", "Cookie: sid=2")).status == 403
    assert len(application.asked) == 2


@lab
async def test_what_was_said_of_one_queue_is_not_said_of_another(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda asked: said(204 if asked["x-poll-queues"] == "a" and asked["x-poll-action"] == "poll" else 403)
    await park(pbal, "/poll/a", "Cookie: sid=1")
    assert (await poll(pbal, "b", "Cookie: sid=1")).status == 403
    assert (await publish(pbal, "a", "Cookie: sid=1")).status == 403
    assert (await pbal.ask("chat", get("/poll/x?q=a&q=b", "Cookie: sid=1"))).status == 403
    await park(pbal, "/poll/a", "Cookie: sid=1")
    assert (await poll(pbal, "b", "Cookie: sid=1")).status == 403
    assert len(application.asked) == 4


@lab
async def test_the_application_names_the_queues(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda asked: said(204, b"", f"Poll-Queues: user-{asked['cookie'][4:]}, room%2C1")
    reader = await park(pbal, "/poll/mine", "Cookie: sid=7")
    plugin = pbal.plugin("chat")
    assert plugin.hub.lot.waiting(b"poll:mine") == [] and plugin.hub.lot.has(b"poll:room,1")
    say(pbal, b"poll:user-7", b"hi")
    assert (await read_response(reader)).body == b"hi\n"
    application.say = lambda _: said(200, b"", "Poll-Queues:")
    assert (await poll(pbal, "mine", "Cookie: sid=8")).status == 403


@lab
async def test_a_decision_is_remembered_for_its_time_and_equal_questions_share_one_request(lab: Lab) -> None:
    pbal, application = await with_application(lab, "SET poll_auth_ttl = 2s", "SET poll_duplicate = all")
    held: list[dict[str, str]] = []

    def hold(fields: dict[str, str]) -> None:
        held.append(fields)

    application.say = hold
    clients = [await pbal.connect("chat") for _ in range(200)]  # more than are told in one turn
    for _, writer in clients:
        writer.write(get("/poll/a", "Cookie: sid=1"))
    gate = pbal.plugin("chat").gate
    await until(lambda: sum(map(len, gate._asked.values())) == 200, "all to wait")
    assert pbal.counts["poll_auth_requests"] == 1
    clients[0][1].close()
    backend = next(iter(pbal.world.backends))
    await until(lambda: held, "the question")
    await until(lambda: len(pbal.world.clients) == 199, "one to leave")
    backend.reader.feed(said(204))
    backend.relay.backend_readable()
    await pbal.until("poll_parked", 199)
    application.say = lambda _: said(403)
    await park(pbal, "/poll/a", "Cookie: sid=1")
    assert len(application.asked) == 1
    end = time.monotonic() + 10
    while (await poll(pbal, "a", "Cookie: sid=2")).status != 403 or len(application.asked) == 1:
        assert time.monotonic() < end
    while True:  # until the first is forgotten
        reader, writer = await pbal.connect("chat")
        before = pbal.counts["poll_parked_ever"]
        writer.write(get("/poll/a", "Cookie: sid=1"))
        answer = asyncio.ensure_future(read_response(reader))
        await until(lambda: answer.done() or pbal.counts["poll_parked_ever"] > before, "a decision")  # noqa: B023 - awaited here
        if answer.done():
            assert answer.result().status == 403
            break
        answer.cancel()
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    assert not gate._asked and not gate._under_way


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (said(500), "status is 500"),
        (said(302, b"", "Location: /login"), "status is 302"),
        (said(404), "status is 404"),
        (b"rubbish\r\n\r\n", "status line"),
        (said(200, b"{", "Content-Type: application/json"), "is none"),
        (said(200, b"[" * 20000, "Content-Type: application/json"), "is none"),
        (said(200, b"[]", "Content-Type: application/json"), "no object"),
        (as_json({"poll": "*", "publish": 1}), "no list"),
        (as_json({"poll": ["*"] * 1001}), "more than 1000"),
        (as_json({"poll": ["*"], "expires": "soon"}), "expires"),
        (said(200, b"x" * 70000), "longer than 65536"),
        (said(204, b"", "Poll-Queues: " + ",".join(f"q{number}" for number in range(33))), "33 queues"),
        (said(204, b"", "Poll-Queues: a%20b"), "spaces"),
        (said(204, b"", "Poll-Queues: " + "a" * 300), "250|245"),
    ],
)
def test_what_decides_nothing_lets_nobody_in(answer, reason, caplog):
    @lab
    async def run(lab: Lab) -> None:
        pbal, application = await with_application(lab)
        application.say = lambda _: answer
        refused = await poll(pbal, "a", "Cookie: sid=1")
        assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        application.say = lambda _: said(204)
        await park(pbal, "/poll/a", "Cookie: sid=1")
        assert pbal.counts["poll_auth_failed"] == 1 and pbal.counts["poll_auth_requests"] == 2

    run()
    assert re.search(f"poll_auth = request /auth.by=pbal decides nothing: .*({reason})", caplog.text)


@lab
async def test_a_silent_application_and_a_dead_one(lab: Lab) -> None:
    pbal, application = await with_application(lab, "SET poll_auth_timeout = 50ms")
    application.say = lambda _: None
    assert (await poll(pbal, "a")).status == 503
    assert (await publish(pbal, "a")).status == 503
    for node in list(pbal.world.pool("app").nodes):
        await pbal.say(f"POOL app REMOVE {node.name}")
    pbal.world.pool("app").emptied_at = 0.0
    assert (await poll(pbal, "a")).status == 503
    assert pbal.counts["poll_auth_failed"] == 3 and pbal.counts["poll_parked_ever"] == 0
    gate = pbal.plugin("chat").gate
    assert not gate._asked and not gate._under_way and not pbal.world.taken


@lab
async def test_few_questions_are_under_way_at_a_time_and_none_for_who_has_left(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda _: None
    gate = pbal.plugin("chat").gate
    monkeypatch.setattr(sys.modules[type(gate).__module__], "MOST_ASKED", 2)  # the plugin as it was loaded
    clients = []
    for number in range(6):
        clients.append(await pbal.connect("chat"))
        clients[-1][1].write(get("/poll/a", f"Cookie: sid={number}"))
        await until(lambda: len(gate._asked) == number + 1, "the question")  # noqa: B023 - awaited here
    assert pbal.counts["poll_auth_requests"] == 2
    clients[2][1].close()
    await until(lambda: len(pbal.world.clients) == 5, "one to leave")
    await until(lambda: len(application.asked) == 2, "two questions")
    application.say = lambda _: said(204)
    for backend in list(pbal.world.backends):
        backend.reader.feed(said(204))
        backend.relay.backend_readable()
    await pbal.until("poll_parked_ever", 5)
    assert [asked["cookie"] for asked in application.asked] == ["sid=0", "sid=1", "sid=3", "sid=4", "sid=5"]
    assert not gate._asked and not gate._line and not gate._under_way


@lab
async def test_a_reload_while_the_application_is_asked(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda _: None
    poller, publisher = await pbal.connect("chat"), await pbal.connect("chat")
    poller[1].write(get("/poll/a"))
    publisher[1].write(get("/publish/a", method="POST", body=b"hello"))
    await until(lambda: len(application.asked) == 2, "two questions")
    assert "OK" in await pbal.say("RELOAD poll")
    for backend in sorted(pbal.world.backends, key=lambda each: each.relay.question.fields[3]):  # the poll first
        backend.reader.feed(said(204))
        backend.relay.backend_readable()
    assert (await read_response(publisher[0])).status == 202
    assert (await read_response(poller[0])).body == b"hello\n"
    assert pbal.counts["poll_parked"] == 0 and pbal.counts["plugin_errors"] == 0


@lab
async def test_other_rules_while_the_application_is_asked(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    (lab.folder / "key").write_bytes(SECRET)
    application.say = lambda _: None
    stranger, known = await pbal.connect("chat"), await pbal.connect("chat")
    stranger[1].write(get("/poll/room-1?timeout=0"))
    known[1].write(get("/poll/room-1?timeout=0", bearer(token())))
    await until(lambda: len(application.asked) == 2, "two questions")
    assert await pbal.say(f"SET chat.poll_auth = jwt {lab.folder}/key") == "OK"
    for backend in list(pbal.world.backends):
        backend.reader.feed(said(204))
        backend.relay.backend_readable()
    assert (await read_response(stranger[0])).status == 401, "what the application said counts no more"
    assert (await read_response(known[0])).status == 204


@lab
async def test_a_plugin_taken_from_its_service_while_the_application_is_asked(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda _: None
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/a"))
    await until(lambda: application.asked, "the question")
    assert "OK" in await pbal.say("SET chat.plugins = none")
    (backend,) = pbal.world.backends
    backend.reader.feed(said(204))
    backend.relay.backend_readable()
    assert (await read_response(reader)).status == 503


@lab
async def test_an_end_that_the_application_says(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda _: as_json({"poll": ["*"], "expires": time.time() + 0.5})
    reader = await park(pbal, "/poll/a")
    assert (await read_response(reader)).status == 204, "long before poll_timeout"
    application.say = lambda _: as_json({"poll": ["*"], "expires": time.time() - 1})
    assert (await poll(pbal, "a", "Cookie: other")).status == 401


@lab
async def test_off_asks_nobody_and_it_can_be_set_live(lab: Lab) -> None:
    pbal, application = await with_application(lab)
    application.say = lambda _: said(403)
    assert (await poll(pbal, "a")).status == 403
    waiting = os.urandom(4).hex()
    assert "OK" in await pbal.say("SET chat.poll_auth = off")
    reader = await park(pbal, f"/poll/{waiting}")
    assert len(application.asked) == 1
    assert "OK" in await pbal.say("SET chat.poll_auth = request /auth")
    assert (await read_response(reader)).status == 204, "nobody judged it: it comes back, and is judged"
    assert (await poll(pbal, "a")).status == 403
    assert pbal.counts["poll_parked"] == 0
    assert "poll_auth" in await pbal.say("dumpconfig") and "request /auth" in await pbal.say("dumpconfig")
