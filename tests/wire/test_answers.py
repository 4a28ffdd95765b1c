"""An answer goes to the request it is for, once; and what frames a message is in nobody's hands but pbal's."""

import asyncio
import os

import pytest
from lab import Lab, Pbal, lab, read_response, until

HEAD = """
from pbal.api import AnswerRefused, Exchange, Plugin, Verdict, hook

kept = []


class Rule(Plugin):
    late = kept

"""
ROLES = ["reverse_proxy", "web_server", "selector"]


def get(path: str = "/page", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: h", *fields, "", ""]).encode()


class Site:
    """A pbal with the plugin `rule` on a service `site`, and a backend that counts."""

    def __init__(self, pbal: Pbal, seen: list[bytes]) -> None:
        self.pbal, self.seen = pbal, seen

    @property
    def kept(self) -> list[object]:
        """What the plugin put away."""
        found: list[object] = self.pbal.plugin("site", "rule").late
        return found


async def site(lab: Lab, *lines: str, role: str = "reverse_proxy", more: str = "") -> Site:
    """The lines are of the plugin's class, `|` for a further indent."""
    (lab.folder / "rule.py").write_text(HEAD + "".join(f"    {line.replace('|', '    ')}\n" for line in lines))
    (lab.folder / "page").write_text("protected")
    seen: list[bytes] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            seen.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nX-One: 1\r\nX-Two: 2\r\nContent-Length: 9\r\n\r\nprotected")

    origin = await lab.origin(app)
    settings = {"reverse_proxy": "SET pool = app", "web_server": f"SET docroot = {lab.folder}", "selector": "SET default_service = files"}
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD rule
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE files
          SET role    = web_server
          SET docroot = {lab.folder}
        ENABLE files
        CREATE SERVICE site
          SET role    = {role}
          SET listen  = 127.0.0.1:0
          {settings[role]}
          SET plugins = rule
          {more}
        ENABLE site
    """)
    return Site(pbal, seen)


HOOK = "@hook.start_http_request"
KEEP = (HOOK, "def rule(self, exchange):", "|if exchange.path == b'/keep':", "||kept.append(exchange)", "||return Verdict.TAKEN",
        "|return Verdict.PASS")  # fmt: skip


# --- once -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("verdict", ["None", "Verdict.PASS"])
def test_a_hook_that_answers_and_does_not_say_so_keeps_the_backend_out_of_it(role: str, verdict: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(lab, HOOK, "def rule(self, exchange):", "|exchange.respond(403, (), b'no')", f"|return {verdict}", role=role)
        reader, writer = await here.pbal.connect("site")
        writer.write(get() + get("/page", "Connection: close"))
        assert [(await read_response(reader)).status for _ in range(2)] == [403, 403]
        assert await reader.read() == b""
        assert not here.seen
        assert here.pbal.counts["plugin_errors"] == 2

    run()


@pytest.mark.parametrize("role", ROLES)
def test_a_second_answer_is_refused_and_never_on_the_wire(role: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(
            lab, HOOK, "def rule(self, exchange):", "|exchange.respond(200, (), b'first')", "|try:",
            "||exchange.respond(200, (), b'second')", "|except AnswerRefused:", "||kept.append('refused')", "|return Verdict.TAKEN",
            role=role,
        )  # fmt: skip
        reader, writer = await here.pbal.connect("site")
        writer.write(get("/page", "Connection: close"))
        assert (await read_response(reader)).body == b"first"
        assert await reader.read() == b""
        assert here.kept == ["refused"]
        assert here.pbal.counts["answers_refused"] == 1

    run()


@lab
async def test_an_answer_that_comes_when_its_client_was_told_504_reaches_no_later_request(lab: Lab) -> None:
    here = await site(lab, *KEEP, more="SET taken_timeout = 1s")
    reader, writer = await here.pbal.connect("site")
    writer.write(get("/keep"))
    assert (await read_response(reader)).status == 504
    writer.write(get("/keep"))
    await until(lambda: len(here.kept) == 2, "the second request")
    first, second = here.kept
    with pytest.raises(Exception, match="ended already"):
        first.respond(200, (), b"for the first")  # type: ignore[attr-defined]
    assert second.respond(200, (), b"for the second")  # type: ignore[attr-defined]
    assert (await read_response(reader)).body == b"for the second"
    assert here.pbal.counts["answers_refused"] == 1


@lab
async def test_an_answer_to_who_has_left_is_told_so(lab: Lab) -> None:
    here = await site(lab, *KEEP)
    _, writer = await here.pbal.connect("site")
    writer.write(get("/keep"))
    await until(lambda: here.kept, "the request")
    writer.transport.abort()
    await until(lambda: here.pbal.counts["clients"] == 0, "the client to leave")
    assert here.kept[0].respond(200, (), b"too late") is False  # type: ignore[attr-defined]


@lab
async def test_a_late_answer_while_the_connection_serves_a_pipelined_request_goes_out_in_order(lab: Lab) -> None:
    here = await site(lab, *KEEP)
    reader, writer = await here.pbal.connect("site")
    writer.write(get("/keep") + get("/page"))
    await until(lambda: here.kept, "the first request")
    assert not here.seen
    here.kept[0].respond(200, (), b"late")  # type: ignore[attr-defined]
    assert [(await read_response(reader)).body for _ in range(2)] == [b"late", b"protected"]


@pytest.mark.parametrize("role", ROLES)
def test_taken_and_never_answered_is_504_and_the_plugin_is_named(role: str, caplog: pytest.LogCaptureFixture) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(lab, *KEEP, role=role, more="SET taken_timeout = 1s")
        reader, writer = await here.pbal.connect("site")
        writer.write(get("/keep"))
        assert (await read_response(reader)).status == 504
        assert "plugin rule took a request of service site" in caplog.text
        assert here.pbal.counts["taken_timeouts"] == 1
        writer.write(get())
        assert (await read_response(reader)).body == b"protected"

    run()


@lab
async def test_taken_timeout_0_and_an_answer_in_time_are_left_alone(lab: Lab) -> None:
    here = await site(lab, *KEEP, more="SET taken_timeout = 0")
    reader, writer = await here.pbal.connect("site")
    writer.write(get("/keep"))
    await until(lambda: here.kept, "the request")
    ticks = here.pbal.world.second
    await until(lambda: here.pbal.world.second >= ticks + 2, "two ticks")
    here.kept[0].respond(200, (), b"in its time")  # type: ignore[attr-defined]
    assert (await read_response(reader)).body == b"in its time"
    assert here.pbal.counts["taken_timeouts"] == 0


PARKS = (
    "def rule(self, exchange):", "|kept.append(self)", "|exchange.park(self)", "|raise ValueError('after it parked')", "def gone(self):",
    "|kept.append('gone')",
)  # fmt: skip


@lab
async def test_who_parks_and_raises_hears_that_the_client_is_gone_and_the_client_has_its_500(lab: Lab) -> None:
    here = await site(lab, HOOK, *PARKS)
    reader, writer = await here.pbal.connect("site")
    writer.write(get())
    assert (await read_response(reader)).status == 500
    assert here.kept[1:] == ["gone"]
    writer.write(get())
    assert (await read_response(reader)).status == 500
    assert here.pbal.counts["plugin_errors"] == 2 and not here.seen


@lab
async def test_a_poll_whose_request_a_later_plugin_spoils_leaves_nobody_in_the_lot(lab: Lab) -> None:
    """The poll plugin parks; what comes before it in the chain raises after handing on."""
    (lab.folder / "rule.py").write_text(
        HEAD + "    @hook.start_http_request\n    def rule(self, exchange):\n"
        "        exchange.hand_to(self.world.service('chat'))\n        raise ValueError('after it handed on')\n"
    )
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD rule
        LOAD poll
        CREATE SERVICE chat
          SET role     = web_server
          SET docroot  = {lab.folder}
          SET plugins  = poll
          SET poll_uri = ^/poll/(?P<queue>\\w+)$
        ENABLE chat
        CREATE SERVICE site
          SET role            = selector
          SET listen          = 127.0.0.1:0
          SET default_service = chat
          SET plugins         = rule
        ENABLE site
    """)
    assert (await pbal.ask("site", get("/poll/a"))).status == 500
    assert pbal.counts["poll_parked"] == 0
    assert "a" not in await pbal.say("show parked")


# --- framing and syntax ---------------------------------------------------------------------------------------------

LENGTHS = [
    '(b"Content-Length", b"3")', '(b"content-length", b"3"), (b"CONTENT-LENGTH", b"99")', '(b"Transfer-Encoding", b"chunked")',
    '(b"Connection", b"close")', '(b"Keep-Alive", b"timeout=1")', '(b"Upgrade", b"h2c")', '(b"Trailer", b"X")',
]  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("fields", LENGTHS)
def test_what_frames_an_answer_is_not_taken_from_a_plugin(role: str, fields: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(
            lab, HOOK, "def rule(self, exchange):", f"|exchange.respond(200, [{fields}], b'hello')", "|return Verdict.TAKEN", role=role
        )
        reader, writer = await here.pbal.connect("site")
        for _ in range(2):
            writer.write(get())
            answer = await read_response(reader)
            assert answer.body == b"hello"
            assert answer.head.lower().count(b"content-length") == 1
            for name in (b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"trailer"):
                assert name not in answer.head.lower()

    run()


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
def test_a_response_of_which_a_plugin_keeps_three_fields_is_framed_all_the_same(role: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(
            lab, "@hook.modify_response_headers", "def rule(self, exchange, response):",
            "|response.headers[:] = [(b'A', b'1'), (b'B', b'2'), (b'C', b'3')]", role=role,
        )  # fmt: skip
        reader, writer = await here.pbal.connect("site")
        for _ in range(2):
            writer.write(get())
            answer = await read_response(reader)
            assert answer.body == b"protected"
            assert [answer.fields[name] for name in ("a", "b", "c")] == ["1", "2", "3"]
            assert "x-one" not in answer.fields

    run()


ILLEGAL = [
    '(b"X", b"a\\r\\nSet-Cookie: forged=1")', '(b"X", b"a\\nb")', '(b"X", b"a\\rb")', '(b"X", b"a\\0b")', '("X", b"a")', '(b"X", "a")',
    '(b"X Y", b"a")', '(b"X:", b"a")', '(b"", b"a")', '(b"X\\r\\n", b"a")', '(b"X", None)', '(b"X", 3)', 'b"X: a"',
]  # fmt: skip


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@pytest.mark.parametrize("field", ILLEGAL)
def test_a_field_that_is_none_is_the_500_of_that_request_and_leaks_nothing(role: str, field: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(
            lab, "@hook.modify_response_headers", "def rule(self, exchange, response):", "|if exchange.path != b'/page?good':",
            f"||response.headers.append({field})", role=role,
        )  # fmt: skip
        reader, writer = await here.pbal.connect("site")
        writer.write(get())
        answer = await read_response(reader)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            writer.write(get())
            answer = await read_response(reader)
            assert answer.status == 500 and b"forged" not in answer.head and b"X" not in answer.head
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before, "descriptors to be given back")
        assert here.pbal.counts["plugin_errors"] == 6

    run()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("field", ILLEGAL)
def test_a_plugins_own_answer_with_such_a_field_is_500_too(role: str, field: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(
            lab, HOOK, "def rule(self, exchange):", f"|exchange.respond(200, [{field}], b'hello')", "|return Verdict.TAKEN", role=role
        )
        reader, writer = await here.pbal.connect("site")
        for number in (1, 2):
            writer.write(get())
            answer = await read_response(reader)
            assert answer.status == 500 and b"forged" not in answer.head
            assert here.pbal.counts["plugin_errors"] == number

    run()


@pytest.mark.parametrize("status", ["99", "1000", "'200'", "None", "101"])
def test_a_status_that_cannot_be_sent_is_500(status: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(lab, HOOK, "def rule(self, exchange):", f"|exchange.respond({status}, (), b'x')", "|return Verdict.TAKEN")
        reader, writer = await here.pbal.connect("site")
        for _ in range(2):
            writer.write(get())
            assert (await read_response(reader)).status == 500

    run()


@pytest.mark.parametrize("body", ["'text'", "None", "3"])
def test_a_body_that_is_none_is_500(body: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        here = await site(lab, HOOK, "def rule(self, exchange):", f"|exchange.respond(200, (), {body})", "|return Verdict.TAKEN")
        assert (await here.pbal.ask("site", get())).status == 500

    run()
