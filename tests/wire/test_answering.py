"""Answers go to the right request, once: whatever a plugin does, forgets, or does too late. See also test_answers.py."""

import asyncio
from functools import partial
from typing import Any

import pytest
from lab import DEADLINE, Handler, Lab, Pbal, lab, read_response, until

from pbal.roles.taken import answer_late

HEAD = "from pbal.api import AnswerRefused, Exchange, IllegalField, Plugin, Verdict, hook\n\n\nclass Rule(Plugin):\n"
START = "@hook.start_http_request"
READ = "@hook.proxy_read_request"

KEEPER = (
    "def __init__(self, service, world):", "|super().__init__(service, world)", "|self.held = []", "|self.gone_records = []",
    START, "def rule(self, exchange):", "|if not exchange.path.startswith(b'/keep'):", "||return Verdict.PASS",
    "|self.held.append(exchange)", "|return Verdict.TAKEN",
)  # fmt: skip
"""A plugin that takes what begins with /keep, and is told by the test what to do with it."""

PARKING = (
    "def __init__(self, service, world):", "|super().__init__(service, world)", "|self.records = []", "|self.ended = []",
    START, "def rule(self, exchange):", "|if exchange.path != b'/park':", "||return Verdict.PASS",
    "|record = Record(self)", "|record.client = exchange.park(record)", "|self.records.append(record)", "|self.kept = exchange",
)  # fmt: skip
RECORD = (
    "from pbal.api import Exchange, Plugin, Verdict, hook\n\n\n"
    "class Record:\n    def __init__(self, plugin):\n        self.plugin = plugin\n\n"
    "    def gone(self):\n        self.plugin.ended.append(self)\n\n\n"
    "class Rule(Plugin):\n"
)


def get(path: str = "/page", *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *fields, *length, "", ""]).encode() + body


def plugin(lab: Lab, *lines: str, head: str = HEAD, name: str = "acting") -> None:
    """Write a plugin; lines are of the class, `|` for a further indent."""
    (lab.folder / f"{name}.py").write_text(head + "".join(f"    {line.replace('|', '    ')}\n" for line in lines))


class App:
    """A backend that keeps the requests it was asked, and answers each with its target and body."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            target = head.split(b" ")[1]
            self.seen.append(target)
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = target + (await reader.readexactly(int(length[0].split(b":")[1])) if length else b"")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


ROLES = ("reverse_proxy", "web_server", "selector")


async def site(lab: Lab, role: str = "reverse_proxy", *more: str) -> tuple[Pbal, App]:
    """A service `site` of a role, with the plugin `acting`, that answers /page; a selector hands on to a proxy."""
    app = App()
    origin = await lab.origin(app)
    (lab.folder / "page").write_text("/page")
    special = {"reverse_proxy": "SET pool = app", "web_server": f"SET docroot = {lab.folder}", "selector": "SET default_service = behind"}
    settings = "\n          ".join([special[role], *more])
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD acting
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE behind
          SET role = reverse_proxy
          SET pool = app
        CREATE SERVICE site
          SET role    = {role}
          SET listen  = 127.0.0.1:0
          SET plugins = acting
          {settings}
        ENABLE site
    """)
    return pbal, app


async def other_pool(lab: Lab, pbal: Pbal, handler: Handler) -> None:
    """Let the service ask another backend."""
    origin = await lab.origin(handler)
    for statement in ("CREATE POOL other", f"POOL other ADD {origin.address}", "SET site.pool = other"):
        assert await pbal.say(statement) == "OK"


async def kept(pbal: Pbal, number: int = 1) -> Any:
    """The last exchange the plugin keeps, when it has as many."""
    held = pbal.plugin("site", "acting").held
    await until(lambda: len(held) >= number, f"{number} kept requests")
    return held[number - 1]


async def nothing_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The connection is in step: one more request has its own answer, and nothing follows."""
    writer.write(get("/page", "Connection: close"))
    assert (await read_response(reader)).body == b"/page"
    assert await reader.read() == b""


# -- in the hook ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("returned", ["", "|return Verdict.PASS", "|return None", "|return 1", "|raise ValueError('late')"])
def test_who_answers_in_a_hook_and_does_not_say_taken_has_answered_all_the_same(role: str, returned: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, START, "def rule(self, exchange):", "|if exchange.path == b'/page':", "||return Verdict.PASS",
               "|exchange.respond(403, (), b'no')", *([returned] if returned else []))  # fmt: skip
        pbal, app = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/secret") + get("/secret", method="POST", body=b"x=1"))
        for _ in range(2):
            answer = await read_response(reader)
            assert (answer.status, answer.body) == (403, b"no")
        if "close" in answer.fields.get("connection", ""):  # the body had not come: nothing follows
            assert await reader.read() == b""
        else:
            await nothing_more(reader, writer)
        assert b"/secret" not in app.seen
        assert pbal.counts["plugin_errors"] == 2

    run()


@lab
async def test_who_answers_when_the_body_was_read_has_answered(lab: Lab) -> None:
    plugin(lab, READ, "def rule(self, exchange):", "|if exchange.read_body() == b'x=1':", "||exchange.respond(403, (), b'no')",
           "|return Verdict.PASS")  # fmt: skip
    pbal, app = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/secret", method="POST", body=b"x=1"))
    assert (await read_response(reader)).status == 403
    await nothing_more(reader, writer)
    assert app.seen == [b"/page"]


@pytest.mark.parametrize("role", ROLES)
def test_of_two_answers_in_a_hook_the_first_goes_out_alone(role: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, START, "def rule(self, exchange):", "|if exchange.path == b'/page':", "||return Verdict.PASS",
               "|exchange.respond(403, (), b'no')", "|exchange.respond(200, (), b'yes')", "|return Verdict.TAKEN")  # fmt: skip
        pbal, app = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/secret"))
        assert (await read_response(reader)).body == b"no"
        await nothing_more(reader, writer)
        assert app.seen in ([b"/page"], [])
        assert (pbal.counts["answers_refused"], pbal.counts["plugin_errors"]) == (1, 1)

    run()


@pytest.mark.parametrize("then", ["park(self)", "hand_to(self.world.service('behind'))", "respond(200)"])
def test_after_an_answer_nothing_else_can_become_of_a_request(then: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, "def gone(self):", "|pass", START, "def rule(self, exchange):", "|if exchange.path == b'/page':",
               "||return Verdict.PASS", "|exchange.respond(403, (), b'no')", f"|exchange.{then}", "|return Verdict.TAKEN")  # fmt: skip
        pbal, app = await site(lab)
        reader, writer = await pbal.connect("site")
        writer.write(get("/secret"))
        assert (await read_response(reader)).body == b"no"
        await nothing_more(reader, writer)
        assert app.seen == [b"/page"] and pbal.counts["answers_refused"] == 1

    run()


@pytest.mark.parametrize("then", ["return Verdict.PASS", "return None", "raise ValueError('late')", "exchange.respond(403, (), b'no')"])
def test_a_request_that_was_handed_on_has_one_answer_whatever_the_hook_does_then(then: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, "@hook.select_service", "def rule(self, exchange):", "|if exchange.path == b'/page':", "||return Verdict.PASS",
               "|exchange.hand_to(self.world.service('behind'))", f"|{then}", "|return Verdict.TAKEN")  # fmt: skip
        pbal, _ = await site(lab, "selector")
        reader, writer = await pbal.connect("site")
        writer.write(get("/one"))
        assert (await read_response(reader)).status in (200, 403, 500)
        await nothing_more(reader, writer)

    run()


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@pytest.mark.parametrize("act", ["respond(403, (), b'no')", "park(self)", "hand_to(self.world.service('behind'))"])
def test_what_is_being_served_is_not_answered_by_a_hook_that_may_only_look_at_the_response(role: str, act: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        (lab.folder / "other").write_text("/other")
        plugin(lab, "def gone(self):", "|self.told = True", "@hook.modify_response_headers", "def rule(self, exchange, response):",
               "|if exchange.path != b'/page':", f"||exchange.{act}")  # fmt: skip
        pbal, app = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/other"))
        answer = await read_response(reader)
        assert answer.status == (403 if act.startswith("respond") else 500)
        await nothing_more(reader, writer)
        assert pbal.counts["plugin_errors"] == 1
        assert app.seen.count(b"/other") == (1 if role == "reverse_proxy" else 0)

    run()


# -- later ---------------------------------------------------------------------------------------------------------------


@lab
async def test_an_answer_that_comes_late_is_refused_and_the_next_request_has_its_own(lab: Lab) -> None:
    plugin(lab, *KEEPER)
    pbal, _ = await site(lab, "reverse_proxy", "SET taken_timeout = 1s")
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep/1"))
    first = await kept(pbal)
    assert (await read_response(reader)).status == 504
    writer.write(get("/keep/2"))
    second = await kept(pbal, 2)
    with pytest.raises(RuntimeError, match="ended"):
        first.respond(200, (), b"of the first")
    assert second.respond(200, (), b"of the second")
    assert (await read_response(reader)).body == b"of the second"
    await nothing_more(reader, writer)
    assert pbal.counts["answers_refused"] == 1


@lab
async def test_an_answer_that_comes_while_a_backend_works_on_the_next_request(lab: Lab) -> None:
    plugin(lab, *KEEPER)
    go, asked = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo")

    pbal, _ = await site(lab, "reverse_proxy", "SET taken_timeout = 1s")
    await other_pool(lab, pbal, slow)
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep") + get("/two"))
    first = await kept(pbal)
    assert (await read_response(reader)).status == 504
    await asyncio.wait_for(asked.wait(), DEADLINE)
    with pytest.raises(RuntimeError, match="ended"):
        first.respond(200, (), b"of the first")
    go.set()
    assert (await read_response(reader)).body == b"two"
    assert await pbal.say("SET site.pool = app") == "OK"
    await nothing_more(reader, writer)


@lab
async def test_a_kept_request_that_passed_is_answered_once_by_whoever_is_first(lab: Lab) -> None:
    plugin(lab, *KEEPER[:4], START, "def rule(self, exchange):", "|self.held.append(exchange)", "|return Verdict.PASS")
    go, gone = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        go.set()
        assert await reader.read() == b""
        gone.set()
        writer.close()

    pbal, _ = await site(lab)
    await other_pool(lab, pbal, slow)
    reader, writer = await pbal.connect("site")
    writer.write(get("/one"))
    await asyncio.wait_for(go.wait(), DEADLINE)
    exchange = await kept(pbal)
    assert exchange.respond(403, (), b"no")
    assert (await read_response(reader)).body == b"no"
    await asyncio.wait_for(gone.wait(), DEADLINE)
    assert await pbal.say("SET site.pool = app") == "OK"
    await nothing_more(reader, writer)


@lab
async def test_the_answer_of_a_kept_request_reaches_nobody_when_its_client_has_gone(lab: Lab) -> None:
    plugin(lab, *KEEPER)
    pbal, _ = await site(lab)
    _, writer = await pbal.connect("site")
    writer.write(get("/keep"))
    exchange = await kept(pbal)
    writer.transport.abort()
    await pbal.until("clients", 0)
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep"))
    second = await kept(pbal, 2)
    assert exchange.respond(200, (), b"of the first") is False
    assert exchange.respond(200, (), b"of the first") is False
    assert not pbal.world.taken.keys() - {second}
    assert second.respond(200, (), b"of the second")
    assert (await read_response(reader)).body == b"of the second"


@lab
async def test_of_two_late_answers_the_first_goes_out_alone(lab: Lab) -> None:
    plugin(lab, *KEEPER)
    pbal, _ = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep") + get("/page/behind"))
    exchange = await kept(pbal)
    assert exchange.respond(200, (), b"one")
    for late in (lambda: exchange.respond(200, (), b"two"), lambda: exchange.park(None), lambda: exchange.hand_to(exchange.service)):
        with pytest.raises(RuntimeError, match="ended"):
            late()
    assert (await read_response(reader)).body == b"one"
    assert (await read_response(reader)).body == b"/page/behind"
    await nothing_more(reader, writer)


@pytest.mark.parametrize("role", [*ROLES, "dropped"])
def test_a_plugin_that_takes_and_never_answers_is_named_and_its_client_has_504(role: str, caplog: pytest.LogCaptureFixture) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *KEEPER)
        pbal, app = await site(lab, "reverse_proxy" if role == "dropped" else role, "SET taken_timeout = 100ms")
        reader, writer = await pbal.connect("site")
        writer.write(get("/keep"))
        if role == "dropped":
            await until(lambda: pbal.world.taken, "it to be taken")
            assert await pbal.say("DROP SERVICE site") == "OK"
        answer = await read_response(reader)
        assert answer.status == 504
        if role == "dropped":
            assert await reader.read() == b""
        else:
            await nothing_more(reader, writer)
        assert pbal.counts["taken_timeouts"] == 1 and not pbal.world.taken and b"/keep" not in app.seen
        assert "plugin acting took a request of service site and did not answer it: 504" in caplog.text

    run()


@lab
async def test_the_time_of_a_taken_request_is_sixty_seconds_unless_set_and_none_where_it_is_zero(lab: Lab) -> None:
    plugin(lab, *KEEPER)
    pbal, _ = await site(lab)
    assert "taken_timeout = 60s" in await pbal.say("show service site") or pbal.world.service("site")["taken_timeout"] == 60
    assert await pbal.say("SET site.taken_timeout = 0") == "OK"
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep"))
    exchange = await kept(pbal)
    answer_late(pbal.world, pbal.world.clock.now() + 1e6)
    assert exchange.respond(200, (), b"late")
    assert (await read_response(reader)).body == b"late"


@lab
async def test_a_selector_s_target_keeps_time_for_its_own_plugins(lab: Lab) -> None:
    plugin(lab, *KEEPER)
    pbal, _ = await site(lab)
    for statement in ("CREATE SERVICE front", "SET role = selector", "SET listen = 127.0.0.1:0", "SET default_service = site",
                      "ENABLE front", "SET site.taken_timeout = 1s"):  # fmt: skip
        assert await pbal.say(statement) == "OK"
    assert (await pbal.ask("front", get("/keep"))).status == 504


@lab
async def test_parked_requests_and_upgraded_connections_are_exempt_from_taken_timeout(lab: Lab) -> None:
    plugin(lab, *PARKING, "|return Verdict.TAKEN", head=RECORD)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        while data := await reader.read(100):
            writer.write(data)

    pbal, _ = await site(lab, "reverse_proxy", "SET taken_timeout = 1s")
    await other_pool(lab, pbal, echo)
    reader, writer = await pbal.connect("site")
    writer.write(get("/park"))
    up_reader, up_writer = await pbal.connect("site")
    up_writer.write(get("/up", "Connection: Upgrade", "Upgrade: x"))
    assert b" 101 " in await up_reader.readuntil(b"\r\n\r\n")
    rule = pbal.plugin("site", "acting")
    await until(lambda: rule.records, "a parked request")
    answer_late(pbal.world, pbal.world.clock.now() + 1e6)
    up_writer.write(b"still here")
    assert await up_reader.readexactly(10) == b"still here"
    assert rule.records[0].client.answer(rule.records[0], 200, (), b"a message", None)
    assert (await read_response(reader)).body == b"a message"
    assert pbal.counts["taken_timeouts"] == 0


# -- parked --------------------------------------------------------------------------------------------------------------


@lab
async def test_a_plugin_that_raises_after_park_leaves_no_record_of_who_got_a_500(lab: Lab) -> None:
    plugin(lab, *PARKING, "|raise ValueError('after park')", head=RECORD)
    pbal, _ = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/park"))
    assert (await read_response(reader)).status == 500
    rule = pbal.plugin("site", "acting")
    assert rule.ended == rule.records and len(rule.records) == 1
    writer.write(get("/park") + get("/page"))
    assert (await read_response(reader)).status == 500
    assert rule.records[0].client.answer(rule.records[0], 200, (), b"to nobody", None) is False
    assert (await read_response(reader)).body == b"/page"
    writer.close()
    await pbal.until("clients", 0)
    assert rule.ended == rule.records and len(rule.records) == 2


@lab
async def test_a_poll_whose_plugin_fails_after_parking_leaves_the_lot_empty(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal("""
        LOAD poll
        CREATE SERVICE chat
          SET role             = web_server
          SET listen           = 127.0.0.1:0
          SET plugins          = poll
          SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
          SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
        ENABLE chat
    """)
    poll = pbal.plugin("chat")
    schedule = poll.hub._schedule_tick

    def broken() -> None:
        monkeypatch.setattr(poll.hub, "_schedule_tick", schedule)
        raise ValueError("after park")

    monkeypatch.setattr(poll.hub, "_schedule_tick", broken)
    assert (await pbal.ask("chat", get("/poll/a"))).status == 500
    assert poll.hub.lot.is_empty() and pbal.counts["poll_parked"] == 0
    assert (await pbal.ask("chat", get("/publish/a", method="POST", body=b"kept"))).status == 202
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"kept\n"


@pytest.mark.parametrize("returned", ["return Verdict.PASS", "return None", "return True"])
def test_who_parks_and_does_not_say_taken_is_answered_once(returned: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *PARKING, f"|{returned}", head=RECORD)
        pbal, app = await site(lab)
        reader, writer = await pbal.connect("site")
        writer.write(get("/park"))
        rule = pbal.plugin("site", "acting")
        await until(lambda: rule.records, "a parked request")
        await pbal.until("plugin_errors", 1)
        record = rule.records[0]
        assert record.client.answer(record, 200, (), b"a message", None) is False
        assert (await read_response(reader)).status == 500 and rule.ended == [record]
        await nothing_more(reader, writer)
        assert app.seen == [b"/page"]

    run()


@lab
async def test_a_parked_request_is_answered_by_its_record_and_by_nothing_else(lab: Lab) -> None:
    plugin(lab, *PARKING, "|return Verdict.TAKEN", head=RECORD)
    pbal, _ = await site(lab)
    reader, writer = await pbal.connect("site")
    rule = pbal.plugin("site", "acting")
    writer.write(get("/park"))
    await until(lambda: rule.records, "a parked request")
    first = rule.records[0]
    with pytest.raises(RuntimeError, match="parked"):
        rule.kept.respond(200, (), b"wrong")
    with pytest.raises(RuntimeError, match="parked"):
        rule.kept.park(first)
    assert first.client.answer(first, 200, (), b"one", None)
    assert (await read_response(reader)).body == b"one"
    assert first.client.answer(first, 200, (), b"again", None) is False
    writer.write(get("/park"))
    await until(lambda: len(rule.records) == 2, "another")
    second = rule.records[1]
    assert first.client.answer(first, 200, (), b"late", None) is False
    first.client.kick(first)
    assert second.client.answer(second, 200, (), b"two", None)
    assert (await read_response(reader)).body == b"two"
    await nothing_more(reader, writer)
    assert rule.ended == []


# -- bodies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_client_that_waits_for_100_has_the_plugins_answer_and_no_100(role: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, START, "def rule(self, exchange):", "|exchange.respond(403, (), b'no')", "|return Verdict.TAKEN")
        pbal, app = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/up", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        answer = await read_response(reader)
        assert (answer.status, answer.fields["connection"]) == (403, "close")
        writer.write(b"12345" + get("/page"))  # sent all the same
        assert await reader.read() == b"" and app.seen == []

    run()


@lab
async def test_a_kept_upload_is_answered_while_its_body_comes_and_the_body_is_no_request(lab: Lab) -> None:
    plugin(lab, *KEEPER)
    pbal, app = await site(lab)
    reader, writer = await pbal.connect("site")
    smuggled = get("/page")
    writer.write(get("/keep", "Expect: 100-continue", f"Content-Length: {len(smuggled) + 3}", method="POST") + b"abc")
    exchange = await kept(pbal)
    await until(lambda: exchange.received == 3, "a piece of body")
    assert exchange.respond(200, (), b"enough")
    answer = await read_response(reader)
    assert (answer.body, answer.fields["connection"]) == (b"enough", "close")
    writer.write(smuggled)
    writer.write_eof()
    assert await reader.read() == b"" and app.seen == []


@pytest.mark.parametrize(("framing", "sent"), [("length", 2), ("length", 1), ("length", 0), ("chunked", 2), ("chunked", 1)])
def test_an_upload_that_was_taken_and_is_handed_on_later_arrives_whole_or_is_refused(framing: str, sent: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *KEEPER)
        pbal, app = await site(lab)
        fields = "Content-Length: 6" if framing == "length" else "Transfer-Encoding: chunked"
        pieces = [b"abc", b"def"] if framing == "length" else [b"3\r\nabc\r\n", b"3\r\ndef\r\n0\r\n\r\n"]
        reader, writer = await pbal.connect("site")
        writer.write(get("/keep", fields, method="POST") + b"".join(pieces[:sent]))
        exchange = await kept(pbal)
        await until(lambda: exchange.received == 3 * sent, "the body")
        behind = pbal.world.service("behind")
        if not sent:
            exchange.hand_to(behind)
            writer.write(b"".join(pieces))
            assert (await read_response(reader)).body == b"/keepabcdef"
            await nothing_more(reader, writer)
            return
        with pytest.raises(RuntimeError, match="body"):
            exchange.hand_to(behind)
        assert app.seen == []
        assert exchange.respond(409, (), b"too late")
        assert (await read_response(reader)).status == 409

    run()


@lab
async def test_who_keeps_an_upload_that_was_read_whole_may_hand_it_on(lab: Lab) -> None:
    plugin(lab, *KEEPER[:4], READ, "def rule(self, exchange):", "|if exchange.path == b'/page':", "||return Verdict.PASS",
           "|self.held.append(exchange)", "|return Verdict.TAKEN")  # fmt: skip
    pbal, _ = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep", method="POST", body=b"abcdef"))
    (await kept(pbal)).hand_to(pbal.world.service("behind"))
    assert (await read_response(reader)).body == b"/keepabcdef"
    await nothing_more(reader, writer)


# -- answers that cannot be made -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", ["(1 / 0 for _ in 'x')", "broken()", "None", "[b'X']", "[(b'X',)]", "[('X', b'y')]", "5"])
@pytest.mark.parametrize("when", ["hook", "later"])
def test_an_answer_that_fails_in_the_making_is_a_500_and_the_connection_goes_on(fields: str, when: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        head = "def broken():\n    yield (b'X', b'y')\n    raise LookupError('gone')\n\n\n" + HEAD
        if when == "hook":
            plugin(lab, START, "def rule(self, exchange):", "|if exchange.path == b'/page':", "||return Verdict.PASS",
                   f"|exchange.respond(200, {fields}, b'body')", "|return Verdict.TAKEN", head=head)  # fmt: skip
        else:
            plugin(lab, *KEEPER, "def answer(self, exchange):", f"|exchange.respond(200, {fields}, b'body')", head=head)
        pbal, _ = await site(lab)
        reader, writer = await pbal.connect("site")
        writer.write(get("/keep"))
        if when == "later":
            exchange = await kept(pbal)
            with pytest.raises((ValueError, ArithmeticError, LookupError)):
                pbal.plugin("site", "acting").answer(exchange)
        assert (await read_response(reader)).status == 500
        await nothing_more(reader, writer)

    run()


@lab
async def test_a_parked_request_whose_answer_cannot_be_sent_has_a_500(lab: Lab) -> None:
    plugin(lab, *PARKING, "|return Verdict.TAKEN", head=RECORD)
    pbal, _ = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/park"))
    rule = pbal.plugin("site", "acting")
    await until(lambda: rule.records, "a parked request")
    record = rule.records[0]
    with pytest.raises(ValueError, match="not a header field"):
        record.client.answer(record, 200, [(b"X", b"a\r\nY: b")], b"", None)
    answer = await read_response(reader)
    assert answer.status == 500 and "y" not in answer.fields
    assert record.client.answer(record, 200, (), b"again", None) is False
    await nothing_more(reader, writer)


@lab
async def test_a_refused_late_answer_is_logged_with_its_plugin(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    plugin(lab, *KEEPER)
    pbal, _ = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep"))
    exchange = await kept(pbal)
    exchange.respond(200, (), b"one")
    asyncio.get_running_loop().call_soon(exchange.respond, 200, (), b"two")
    await pbal.until("answers_refused", 1)
    assert (await read_response(reader)).body == b"one"
    assert "plugin acting" in caplog.text and "/keep" in caplog.text


# -- ways round ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@pytest.mark.parametrize(
    "act", ["respond(403, (), b'no')", "park(self)", "hand_to(self.world.service('behind'))", "stream.close(exchange)"]
)
@pytest.mark.parametrize("wants", [True, False])
def test_who_answers_where_only_a_wish_is_asked_for_has_failed(role: str, act: str, wants: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, "def gone(self):", "|self.told = True", "def wants_body(self, exchange):", f"|exchange.{act}", f"|return {wants}", READ,
               "def rule(self, exchange):", "|return Verdict.PASS")  # fmt: skip
        pbal, _ = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/up", "Content-Length: 5", method="POST"))
        if act.startswith("stream"):
            assert await reader.read() == b""
        else:
            assert (await read_response(reader)).status == (403 if act.startswith("respond") else 500)
            writer.write_eof()
            assert await reader.read() == b""
        assert pbal.counts["plugin_errors"] == 1
        await pbal.until("clients", 0)

    run()


@pytest.mark.parametrize("hooked", [START, "@hook.select_service"])
@pytest.mark.parametrize("target", ["site", "console", "nothing"])
def test_a_request_that_is_handed_to_who_cannot_answer_it_has_an_error(hooked: str, target: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, hooked, "def rule(self, exchange):", "|if exchange.path == b'/page':", "||return Verdict.PASS",
               f"|exchange.hand_to(self.world.service('{target}'))", "|return Verdict.TAKEN")  # fmt: skip
        pbal, _ = await site(lab, "selector")
        for statement in (
            "CREATE SERVICE console",
            "SET role = management",
            "SET listen = 127.0.0.1:0",
            "ENABLE console",
            "CREATE SERVICE nothing",
        ):
            assert await pbal.say(statement) == "OK"
        reader, writer = await pbal.connect("site")
        writer.write(get("/one"))
        assert (await read_response(reader)).status in (500, 508)
        await nothing_more(reader, writer)

    run()


@lab
async def test_a_selector_that_names_a_console_is_an_error_of_that_request(lab: Lab) -> None:
    plugin(lab, "pass")
    pbal, _ = await site(lab, "selector")
    for statement in ("CREATE SERVICE console", "SET role = management", "SET listen = 127.0.0.1:0", "ENABLE console"):
        assert await pbal.say(statement) == "OK"
    answer = await pbal.say("SET site.default_service = console")
    reader, writer = await pbal.connect("site")
    writer.write(get("/page"))
    assert (await read_response(reader)).status == (200 if answer.startswith("ERROR") else 500)


@pytest.mark.parametrize("record", ["None", "'me'", "self", "object()"])
@lab
async def test_who_parks_under_what_cannot_be_told_of_the_end_has_failed(lab: Lab, record: str) -> None:
    plugin(lab, START, "def rule(self, exchange):", "|if exchange.path == b'/page':", "||return Verdict.PASS",
           f"|exchange.park({record})", "|return Verdict.TAKEN")  # fmt: skip
    pbal, _ = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/park"))
    assert (await read_response(reader)).status == 500
    assert pbal.counts["plugin_errors"] == 1
    await nothing_more(reader, writer)


@lab
async def test_a_record_whose_end_fails_costs_nobody_an_answer(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    plugin(
        lab, *PARKING, "|raise ValueError('after park')", head=RECORD.replace("self.plugin.ended.append(self)", "raise KeyError('gone')")
    )
    pbal, _ = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/park"))
    assert (await read_response(reader)).status == 500
    await nothing_more(reader, writer)


@lab
async def test_a_record_whose_end_fails_leaves_no_connection_behind(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    plugin(lab, *PARKING, "|return Verdict.TAKEN", head=RECORD.replace("self.plugin.ended.append(self)", "raise KeyError('gone')"))
    pbal, _ = await site(lab)
    rule = pbal.plugin("site", "acting")

    def parked(number: int) -> bool:
        return len(rule.records) == number

    for number in (1, 2):
        _, writer = await pbal.connect("site")
        writer.write(get("/park"))
        await until(partial(parked, number), "a parked request")
        if number == 2:
            assert await pbal.say("RELOAD acting") == "OK"
        writer.close()
        await pbal.until("clients", 0)
        assert not pbal.world.clients
        assert pbal.counts["plugin_errors"] == number
    said = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert said == [
        "plugin acting generation 1, gone(): KeyError: 'gone' (acting.py:9)",
    ]
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("came", [0, 3])
def test_an_upload_that_was_parked_has_its_answer_though_its_body_still_comes(version: str, came: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *PARKING, "|return Verdict.TAKEN", head=RECORD)
        pbal, _ = await site(lab)
        reader, writer = await pbal.connect("site")
        head = get("/park", "Content-Length: 60000", method="POST").replace(b"HTTP/1.1", f"HTTP/{version}".encode())
        writer.write(head + b"x" * came)
        rule = pbal.plugin("site", "acting")
        await until(lambda: rule.records, "a parked request")
        assert rule.records[0].client.answer(rule.records[0], 200, (), b"enough", None)
        writer.write(b"x" * (60000 - came))
        answer = await read_response(reader)
        assert answer.body == b"enough" and answer.fields["connection"] == "close"
        await pbal.until("requests", 1)
        assert await reader.read() == b""  # an end, and no reset
        writer.close()
        await pbal.until("clients", 0)

    run()


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@lab
async def test_who_is_parked_after_it_has_sent_its_end_is_gone(lab: Lab, role: str) -> None:
    """The plugin waited for something before it parked, and the end came meanwhile."""
    plugin(
        lab, *KEEPER, "def wait(self, exchange):", "|record = Record(self)", "|record.client = exchange.park(record)", "|return record",
        "ended = []", head=RECORD,
    )  # fmt: skip
    pbal, _ = await site(lab, role, "SET half_close_timeout = 0")
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep") + get("/keep"))
    exchange = await kept(pbal)
    writer.write_eof()
    (connection,) = pbal.world.clients
    await until(lambda: connection.half_closed, "its end to be seen")
    exchange.respond(200, (), b"first")
    assert (await read_response(reader)).body == b"first"
    rule = pbal.plugin("site", "acting")
    record = rule.wait(await kept(pbal, 2))
    assert not record.client.answer(record, 200, (), b"to nobody", None)
    assert await reader.read() == b""
    await until(lambda: rule.ended == [record], "its record to be told")
    await pbal.until("clients", 0)


@lab
async def test_a_request_kept_over_a_reload_and_a_disable_is_answered_once(lab: Lab) -> None:
    plugin(lab, *KEEPER)
    pbal, _ = await site(lab, "reverse_proxy", "SET taken_timeout = 1s")
    reader, writer = await pbal.connect("site")
    writer.write(get("/keep"))
    first = await kept(pbal)
    other_reader, other_writer = await pbal.connect("site")
    other_writer.write(get("/keep"))
    second = await kept(pbal, 2)
    assert await pbal.say("RELOAD acting") == "OK"
    assert await pbal.say("DISABLE site") == "OK"
    assert first.respond(200, (), b"by the old one")
    assert (await read_response(reader)).body == b"by the old one"
    assert (await read_response(other_reader)).status == 504
    with pytest.raises(RuntimeError, match="ended"):
        second.respond(200, (), b"late")
    assert await reader.read() == b"" and await other_reader.read() == b""
    writer.close()
    other_writer.close()
    await pbal.until("clients", 0)
    assert not pbal.world.taken
