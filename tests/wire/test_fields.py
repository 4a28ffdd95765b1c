"""Framing and syntax are in nobody's hands but pbal's: not in a plugin's, not in an operator's, not in a client's."""

import asyncio
import os
from pathlib import Path

import pytest
from lab import DEADLINE, Lab, Pbal, Response, lab, read_response

HEAD = "from pbal.api import Exchange, Plugin, Verdict, hook\n\n\nclass Rule(Plugin):\n"
START = ("@hook.start_http_request", "def rule(self, exchange):", "|if exchange.path == b'/page':", "||return Verdict.PASS")
MODIFY = ("@hook.modify_response_headers", "def rule(self, exchange, response):")
ROLES = ("reverse_proxy", "web_server", "selector")


def get(path: str = "/page", *fields: str, method: str = "GET", body: bytes = b"", version: str = "1.1") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: h", *fields, *length, "", ""]).encode() + body


def plugin(lab: Lab, *lines: str) -> None:
    """Write the plugin `acting`; lines are of the class, `|` for a further indent."""
    (lab.folder / "acting.py").write_text(HEAD + "".join(f"    {line.replace('|', '    ')}\n" for line in lines or ("pass",)))


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend that answers with the head it got; /page with a page, /chunked in chunks, /close with its end."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        method, target = head.split(b" ")[:2]
        body = b"a page" if target == b"/page" else head
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n")
        if target == b"/chunked":
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n6\r\na page\r\n0\r\n\r\n")
            continue
        if target == b"/close":
            writer.write(b"\r\na page")
            writer.close()
            return
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), b"" if method == b"HEAD" else body))


async def site(lab: Lab, role: str = "reverse_proxy", *more: str, load: bool = True) -> Pbal:
    """A service `site` of a role, with the plugin `acting`, in front of `app` or a docroot; a selector hands on to the proxy `behind`."""
    origin = await lab.origin(app)
    docroot = lab.folder / "docroot"
    docroot.mkdir(exist_ok=True)
    (docroot / "page").write_text("a page")
    special = {"reverse_proxy": "SET pool = app", "web_server": f"SET docroot = {docroot}", "selector": "SET default_service = behind"}
    settings = "\n          ".join([special[role], *(["SET plugins = acting"] if load else []), *more])
    return await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        {"LOAD acting" if load else ""}
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE behind
          SET role = reverse_proxy
          SET pool = app
        CREATE SERVICE site
          SET role    = {role}
          SET listen  = 127.0.0.1:0
          {settings}
        ENABLE site
    """)


async def handed_on(pbal: Pbal, *requests: bytes) -> list[list[str]]:
    """The header lines that the backend got of each request, on one connection."""
    reader, writer = await pbal.connect("site")
    writer.write(b"".join(requests))
    return [(await read_response(reader)).body.decode("latin-1").split("\r\n")[1:-2] for _ in requests]


async def header_lines(pbal: Pbal, request: bytes) -> list[str]:
    return (await handed_on(pbal, request))[0]


def named(lines: list[str], name: str) -> list[str]:
    """Values of a field, however its name is spelt."""
    pairs = [line.partition(":") for line in lines]
    return [value.strip() for found, _, value in pairs if found.lower().replace("_", "-") == name.lower()]


def lines_of(answer: Response) -> list[str]:
    return answer.head.decode("latin-1").split("\r\n")[1:-2]


def open_files(below: Path) -> int:
    """How many descriptors of this process lead below a folder."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{entry}").startswith(str(below))
        except FileNotFoundError:  # listdir's own
            continue
    return count


# -- what a plugin says of an answer's frame -------------------------------------------------------------------------------

FRAMING = [
    "Content-Length", "content-length", "CONTENT-LENGTH", "Transfer-Encoding", "tRansfer-eNcoding", "Connection", "Keep-Alive",
    "Proxy-Connection", "TE", "Trailer", "Upgrade",
]  # fmt: skip
SAID = {"content-length": "3", "transfer-encoding": "chunked", "connection": "close", "upgrade": "h2c"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", FRAMING)
def test_what_frames_an_answer_is_not_taken_from_who_answers(role: str, name: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        field = f"(b'{name}', b'{SAID.get(name.lower(), 'x')}')"
        plugin(lab, *START, f"|exchange.respond(200, [{field}, (b'X-Kept', b'1'), {field}], b'hello')", "|return Verdict.TAKEN")
        pbal = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/a") + get("/a", method="HEAD") + get("/page"))
        for head_only in (False, True):
            answer = await read_response(reader, head_only=head_only)
            assert named(lines_of(answer), "Content-Length") == ["5"] and answer.fields["x-kept"] == "1"
            assert name.lower() == "content-length" or name.lower() not in answer.fields
            assert answer.body == (b"" if head_only else b"hello")
        assert (await read_response(reader)).body == b"a page"

    run()


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none_and_no_length(status: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *START, f"|exchange.respond({status}, [(b'Content-Length', b'5')], b'hello')", "|return Verdict.TAKEN")
        pbal = await site(lab)
        reader, writer = await pbal.connect("site")
        writer.write(get("/a") + get("/page"))
        answer = await read_response(reader)
        assert answer.status == status and "content-length" not in answer.fields
        assert (await read_response(reader)).body == b"a page"

    run()


KEPT_THREE = (
    *MODIFY, "|response.headers[:] = [field for field in response.headers if field[0].lower() in",
    "||(b'content-type', b'date', b'etag')]",
)  # fmt: skip


@pytest.mark.parametrize(("role", "path"), [("reverse_proxy", p) for p in ("/page", "/chunked", "/close")] + [("web_server", "/page")])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_plugin_that_keeps_three_headers_only_keeps_the_frame(role: str, path: str, version: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *KEPT_THREE)
        pbal = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get(path, "Connection: keep-alive", version=version))
        answer = await read_response(reader)
        assert answer.body == b"a page"
        assert ("content-length" in answer.fields) + ("transfer-encoding" in answer.fields) == (0 if "close" in str(answer.fields) else 1)
        if answer.fields.get("connection") != "close":
            writer.write(get("/page", method="HEAD") + get("/page", "Connection: close"))
            assert (await read_response(reader, head_only=True)).fields["content-length"] == "6"
            assert (await read_response(reader)).body == b"a page"
        assert await reader.read() == b""

    run()


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@pytest.mark.parametrize("name", FRAMING)
def test_a_plugin_that_adds_framing_to_a_response_adds_nothing(role: str, name: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *MODIFY, f"|response.headers += [(b'{name}', b'{SAID.get(name.lower(), 'x')}')] * 2")
        pbal = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/page") + get("/page"))
        for _ in range(2):
            answer = await read_response(reader)
            assert answer.body == b"a page" and named(lines_of(answer), "Content-Length") == ["6"]
            assert name.lower() == "content-length" or name.lower() not in answer.fields

    run()


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@pytest.mark.parametrize("made", ["iter({})", "(field for field in {})", "tuple({})", "dict({}).items()"])
def test_headers_that_a_hook_leaves_as_an_iterator_are_all_sent(role: str, made: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        fields = made.format("[*response.headers, (b'X-One', b'1'), (b'X-Two', b'2')]")
        plugin(lab, "@hook.modify_response_headers", "def rule(self, exchange, response):", f"|response.headers = {fields}")
        pbal = await site(lab, role)
        for _ in range(2):
            answer = await pbal.ask("site", get("/page"))
            assert answer.status == 200 and answer.body == b"a page"
            assert answer.fields["x-one"] == "1" and answer.fields["x-two"] == "2"

    run()


@lab
async def test_hooks_do_not_see_what_frames_a_response(lab: Lab) -> None:
    plugin(lab, *MODIFY, "|response.headers.append((b'X-Seen', b' '.join(name for name, _ in response.headers)))")
    pbal = await site(lab)
    for path in ("/page", "/chunked", "/close"):
        seen = (await pbal.ask("site", get(path))).fields["x-seen"].lower().split(" ")
        assert not {"content-length", "transfer-encoding", "connection"} & set(seen)


# -- syntax --------------------------------------------------------------------------------------------------------------

ILLEGAL = [
    "(b'X-A', b'a\\r\\nX-Forged: b')", "(b'X-A', b'a\\nX-Forged: b')", "(b'X-A', b'a\\rX-Forged: b')", "(b'X-A', b'a\\0b')",
    "(b'X-A', b'\\x7f')", "(b'X-A', 'text')", "('X-A', b'text')", "(b'X-A', None)", "(b'X-A', 5)", "(b'X A', b'b')", "(b'X-A ', b'b')",
    "(b' X-A', b'b')", "(b'', b'b')", "(b'X-A:', b'b')", "(b'X-A\\r\\nX-Forged', b'b')", "(b'X\\xe9', b'b')", "(b'X-A', b'b', b'c')",
    "(b'X-A',)", "b'X-A: b'", "None",
]  # fmt: skip


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@pytest.mark.parametrize("field", ILLEGAL)
def test_an_illegal_field_put_into_a_response_is_that_request_s_500(role: str, field: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *MODIFY, "|if exchange.request.query:", f"||response.headers.append({field})")
        pbal = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write((get("/page?bad") + get("/page")) * 5)
        for _ in range(5):
            answer = await read_response(reader)
            assert answer.status == 500 and "x-forged" not in answer.fields
            assert (await read_response(reader)).body == b"a page"
        assert open_files(lab.folder) == 0
        assert pbal.counts["plugin_errors"] == 5
        assert len(pbal.world.backends) <= 1

    run()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("field", ILLEGAL)
def test_an_illegal_field_of_an_answer_is_that_request_s_500(role: str, field: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *START, f"|exchange.respond(200, [(b'X-Good', b'1'), {field}], b'hello')", "|return Verdict.TAKEN")
        pbal = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/a") + get("/page"))
        answer = await read_response(reader)
        assert answer.status == 500 and "x-good" not in answer.fields and "x-forged" not in answer.fields
        assert (await read_response(reader)).body == b"a page"
        assert pbal.counts["plugin_errors"] == 1

    run()


@pytest.mark.parametrize(
    "answer", ["99", "101", "103", "1000", "'200'", "None", "200.5", "True", "200, (), 'text'", "200, (), None", "200, (), [b'x']"]
)
def test_a_status_or_body_that_is_none_is_that_request_s_500(answer: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *START, f"|exchange.respond({answer})", "|return Verdict.TAKEN")
        pbal = await site(lab)
        reader, writer = await pbal.connect("site")
        writer.write(get("/a") + get("/page"))
        assert (await read_response(reader)).status == 500
        assert (await read_response(reader)).body == b"a page"

    run()


@pytest.mark.parametrize("role", ["web_server", "reverse_proxy"])
def test_a_hook_that_fails_leaves_no_descriptor_and_no_backend_open(role: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *MODIFY, "|raise ValueError('no')")
        pbal = await site(lab, role)
        for method in ("GET", "HEAD") * 3:
            reader, writer = await pbal.connect("site")
            writer.write(get("/page", method=method))
            assert (await read_response(reader, head_only=method == "HEAD")).status == 500
        assert open_files(lab.folder) == 0
        assert not [backend for backend in pbal.world.backends if not backend.closing]

    run()


# -- fields of a request that a plugin changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FRAMING, "Content_Length", "TRANSFER_ENCODING"])
def test_a_plugin_cannot_change_what_frames_a_request(name: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *START, f"|exchange.set_field(b'{name}', b'100')", "|return Verdict.PASS")
        pbal = await site(lab)
        reader, writer = await pbal.connect("site")
        writer.write(get("/a", method="POST", body=b"") + get("/page"))
        assert (await read_response(reader)).status == 500
        assert (await read_response(reader)).body == b"a page"

    run()


@pytest.mark.parametrize("field", [f for f in ILLEGAL if f.startswith("(") and f.count(",") == 1 and "None" not in f])
def test_an_illegal_field_put_into_a_request_is_that_request_s_500(field: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *START, f"|exchange.set_field{field}", "|return Verdict.PASS")
        pbal = await site(lab)
        reader, writer = await pbal.connect("site")
        writer.write(get("/a") + get("/page"))
        assert (await read_response(reader)).status == 500
        assert (await read_response(reader)).body == b"a page"

    run()


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("X-User", "b'alice'", ["alice"]), ("x_user", "b'alice'", ["alice"]), ("X-User", "None", []),
        ("X-Real-IP", "b'9.9.9.9'", ["9.9.9.9"]), ("X-Forwarded-For", "b'9.9.9.9'", ["9.9.9.9"]),
        ("X-Forwarded-For", "None", ["127.0.0.1"]), ("Host", "b'other'", ["other"]),
    ],
)  # fmt: skip
def test_a_field_that_a_plugin_set_is_what_a_node_gets_whatever_the_client_says(name: str, value: str, seen: list[str]) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *START, f"|exchange.set_field(b'{name}', {value})", "|return Verdict.PASS")
        pbal = await site(lab)
        wanted = name.replace("_", "-")
        told = [] if name == "Host" else [f"{wanted}: forged", f"{wanted.upper()}: forged", f"{wanted.replace('-', '_')}: forged"]
        for target in ("/a", "http://client.example/a"):
            request = get(target, f"Connection: {wanted}, {wanted.replace('-', '_')}", *told)
            lines = await header_lines(pbal, request)
            assert named(lines, wanted) == seen, lines

    run()


@pytest.mark.parametrize("target", ["/a", "http://client.example/a"])
def test_a_request_has_a_host_though_a_plugin_took_it_away(target: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *START, "|exchange.set_field(b'Host', None)", "|return Verdict.PASS")
        pbal = await site(lab)
        node = next(iter(pbal.world.pool("app").nodes)).name
        assert named(await header_lines(pbal, get(target)), "Host") == [node]

    run()


@pytest.mark.parametrize("value", ["", "a b", "a/b", "a@b", "a:b:c", "[::1"])
def test_a_host_that_is_none_is_not_sent(value: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *START, f"|exchange.set_field(b'Host', b'{value}')", "|return Verdict.PASS")
        pbal = await site(lab)
        assert (await pbal.ask("site", get("/a"))).status == 500
        if value:
            assert (await pbal.say(f"HEADER site INSERT Host: {value}")).startswith("ERROR: ")

    run()


# -- HEADER --------------------------------------------------------------------------------------------------------------

REQUESTS = [
    get("/a"), get("http://client.example/a"), b"GET /a HTTP/1.0\r\n\r\n", b"GET /a HTTP/1.0\r\nHost: h\r\n\r\n",
    b"GET http://client.example/a HTTP/1.0\r\n\r\n", get("/a", "Host2: x", method="POST", body=b""),
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("role", ["reverse_proxy", "selector"])
@pytest.mark.parametrize("request_octets", REQUESTS)
def test_a_host_that_is_inserted_is_the_only_one(role: str, request_octets: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, role, "HEADER site INSERT Host: app", load=False)
        assert named(await header_lines(pbal, request_octets), "Host") == ["app"]

    run()


RULES = [
    (("INSERT X-Forwarded-For: 9.9.9.9",), "X-Forwarded-For", ["9.9.9.9"]),
    (("INSERT X-Real-IP: 9.9.9.9",), "X-Real-IP", ["9.9.9.9"]),
    (("INSERT X-Forwarded-Proto: https",), "X-Forwarded-Proto", ["https"]),
    (("INSERT Forwarded: for=9.9.9.9",), "Forwarded", ["for=9.9.9.9"]),
    (("INSERT X-A: one", "INSERT X-A: two"), "X-A", ["two"]),
    (("INSERT X-A: one", "INSERT x_a: two"), "X-A", ["two"]),
    (("INSERT X-A: one", "REMOVE x-a"), "X-A", []),
    (("INSERT X-A: one", "REMOVE X_A"), "X-A", []),
    (("REMOVE X-A", "INSERT X-A: one"), "X-A", ["one"]),
    (("REMOVE X-A",), "X-A", []),
    (("REMOVE x_a",), "X-A", []),
    (("INSERT X-Is-SSL: 0",), "X-Is-SSL", ["0"]),
    (("REMOVE X-Is-SSL",), "X-Is-SSL", []),
    (("INSERT Cookie: a=b",), "Cookie", ["a=b"]),
    (("INSERT Authorization: Basic eA==",), "Authorization", ["Basic eA=="]),
    (("INSERT Max-Forwards: 5",), "Max-Forwards", ["5"]),
]


@pytest.mark.parametrize("role", ["reverse_proxy", "selector"])
@pytest.mark.parametrize(("rules", "name", "seen"), RULES)
def test_the_last_rule_about_a_name_says_what_a_node_gets_of_it(role: str, rules: tuple[str, ...], name: str, seen: list[str]) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, role, *(f"HEADER site {rule}" for rule in rules), load=False)
        forged = [f"{spelt}: 1" for spelt in (name, name.lower(), name.replace("-", "_"), name.upper().replace("-", "_"))]
        for fields in ((), forged, [forged[0]], [forged[2]], [*forged, f"Connection: {name}"], [f"Connection: close, {name.lower()}"]):
            for target in ("/a", "http://client.example/a"):
                assert named(await header_lines(pbal, get(target, *fields)), name) == seen, fields
        assert await pbal.say(f"HEADER site REMOVE {name}") == "OK"
        for fields in ((), forged):
            assert set(named(await header_lines(pbal, get("/a", *fields)), name)) <= {"127.0.0.1"}

    run()


@lab
async def test_rules_of_every_selector_on_the_way_apply_and_the_later_ones_count(lab: Lab) -> None:
    pbal = await site(lab, "selector", "HEADER site INSERT X-A: front", "HEADER site INSERT X-B: front", load=False)
    for statement in (
        "CREATE SERVICE middle", "SET role = selector", "SET default_service = behind", "HEADER middle INSERT X-A: middle",
        "HEADER middle REMOVE X-C", "HEADER behind INSERT X-D: behind", "ENABLE middle", "SET site.default_service = middle",
    ):  # fmt: skip
        assert await pbal.say(statement) == "OK"
    lines = await header_lines(pbal, get("/a", "X-A: 1", "X-B: 1", "X-C: 1", "X_D: 1", "X-E: 1"))
    assert [named(lines, f"X-{letter}") for letter in "ABCDE"] == [["middle"], ["front"], [], ["behind"], ["1"]]


@lab
async def test_a_selector_s_rule_strips_what_a_plugin_of_the_target_believes(lab: Lab) -> None:
    plugin(lab, "@hook.start_http_request", "def rule(self, exchange):",
           "|exchange.respond(200, (), repr(sorted(exchange.request.fields)).encode())", "|return Verdict.TAKEN")  # fmt: skip
    pbal = await site(lab, "selector", load=False)
    for statement in (f"SERVER plugin_path = {lab.folder}", "LOAD acting", "SET behind.plugins = acting", "HEADER site REMOVE X-Is-SSL"):
        assert await pbal.say(statement) == "OK"
    answer = await pbal.ask("site", get("/a", "X-Is-SSL: 1", "X_Is_SSL: 1", "X-is_ssl: 1"))
    assert b"ssl" not in answer.body and b"host" in answer.body


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("HEADER web INSERT X-A: b", "no effect"), ("HEADER web REMOVE X-A", "no effect"), ("HEADER console INSERT X-A: b", "no effect"),
        *[(f"HEADER site INSERT {name}: x", "cannot be set") for name in FRAMING],
        *[(f"HEADER site REMOVE {name}", "cannot be") for name in FRAMING],
        ("HEADER site INSERT Expect: 100-continue", "100"), ("HEADER site INSERT Content_Length: 3", "cannot be set"),
        ("HEADER site INSERT Via: x", "cannot be set"),
        ("HEADER site REMOVE Host", "Host"), ("HEADER site INSERT X-A: \"a\0b\"", "control"),
        ("HEADER site INSERT X-A: \"a\x7fb\"", "control"),
        ("HEADER site INSERT X-A: \"a\rb\"", ""), ("HEADER site INSERT X A: b", ""), ("HEADER site INSERT X(A): b", ""),
        ("HEADER nosuch INSERT X-A: b", "nosuch"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["reverse_proxy", "selector"])
def test_a_rule_that_would_have_no_effect_or_break_the_protocol_is_an_error(role: str, statement: str, said: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, role, load=False)
        for each in ("CREATE SERVICE web", "SET role = web_server", "CREATE SERVICE console", "SET role = management"):
            assert await pbal.say(each) == "OK"
        answer = await pbal.say(statement)
        assert answer.startswith("ERROR: ") and said in answer, answer
        assert "HEADER" not in await pbal.say("dumpconfig")

    run()


@lab
async def test_a_rule_before_the_role_counts_and_forbids_a_role_where_it_would_have_no_effect(lab: Lab) -> None:
    pbal = await site(lab, load=False)
    for statement in ("CREATE SERVICE later", "HEADER later INSERT X-A: b"):
        assert await pbal.say(statement) == "OK"
    assert "no effect" in await pbal.say("SET later.role = web_server")
    for statement in ("SET later.role = selector", "SET later.default_service = behind", "SET later.listen = 127.0.0.1:0", "ENABLE later"):
        assert await pbal.say(statement) == "OK"
    assert "X-A: b" in (await pbal.ask("later", get("/a"))).body.decode()


@lab
async def test_a_rule_holds_for_the_next_request_of_a_kept_connection(lab: Lab) -> None:
    pbal = await site(lab, load=False)
    reader, writer = await pbal.connect("site")
    seen = []
    for rule in ("INSERT X-A: b", "INSERT X-A: c", "REMOVE X-A"):
        assert await pbal.say(f"HEADER site {rule}") == "OK"
        writer.write(get("/a", "X-A: mine"))
        seen.append(named((await read_response(reader)).body.decode().split("\r\n"), "X-A"))
    assert seen == [["b"], ["c"], []]


# -- ways round ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@pytest.mark.parametrize(
    "change", ["status = 204", "status = 304", "status = 101", "status = '200'", "status = 99", "status = None", "reason = b'a\\r\\nX: y'"]
)
def test_a_hook_cannot_make_a_response_one_without_a_body(role: str, change: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *MODIFY, "|if exchange.request.query:", f"||response.{change}")
        pbal = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/page?bad") + get("/page"))
        answer = await read_response(reader)
        assert answer.status == 500 and "x" not in answer.fields
        assert (await read_response(reader)).body == b"a page"
        assert open_files(lab.folder) == 0 and pbal.counts["plugin_errors"] == 1

    run()


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
@pytest.mark.parametrize("change", ["framing = 3", "block = b'Content-Length: 3\\r\\n'", "fields = {}", "keep_alive = False", "minor = 0"])
def test_what_a_hook_writes_into_a_response_beside_its_headers_frames_nothing(role: str, change: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *MODIFY, f"|response.{change}")
        pbal = await site(lab, role)
        reader, writer = await pbal.connect("site")
        writer.write(get("/page") + get("/page"))
        for _ in range(2):
            answer = await read_response(reader)
            assert answer.body == b"a page" and named(lines_of(answer), "Content-Length") == ["6"]

    run()


@pytest.mark.parametrize("role", ["reverse_proxy", "web_server"])
def test_a_date_or_server_of_a_plugin_is_the_only_one(role: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, *MODIFY, "|response.headers += [(b'Date', b'Mon, 01 Jan 2001 00:00:00 GMT'), (b'Server', b'x')]")
        pbal = await site(lab, role, "SET server_tokens = on" if role == "web_server" else "")
        lines = lines_of(await pbal.ask("site", get("/page")))
        assert named(lines, "Date") == ["Mon, 01 Jan 2001 00:00:00 GMT"] and named(lines, "Server") == ["x"]

    run()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("rest", [b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Content-Length: 999999999999\r\n\r\n"])
def test_a_head_request_has_no_body_in_its_answer_even_when_it_is_refused_for_its_own(role: str, rest: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, role, load=False)
        reader, writer = await pbal.connect("site")
        writer.write(b"HEAD /page HTTP/1.1\r\nHost: h\r\n" + rest)
        writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            octets = await reader.read()
        assert octets.startswith(b"HTTP/1.1 ") and octets.endswith(b"\r\n\r\n") and octets.count(b"HTTP/1.1 ") == 1

    run()
