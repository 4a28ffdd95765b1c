"""A configuration written for Perlbal 1.80: everything in it is known, taken, or refused with what does its work."""

import asyncio
import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from lab import Lab, lab

from pbal.commands.interpreter import Interpreter
from pbal.config.render import render
from pbal.lang.mistakes import Mistake
from pbal.model.snapshot import snapshot
from pbal.model.world import World
from pbal.roles.proxy.role import ReverseProxy
from pbal.schema import perlbal
from pbal.schema.pools import POOL
from pbal.schema.roles import CORE
from pbal.schema.tunables import SERVER

TUNABLES = """
    role listen always_trusted trusted_upstream_proxies client_sndbuf_size enable_ssl ssl_key_file ssl_cert_file ssl_cipher_list
    ssl_ca_path ssl_verify_mode ssl_honor_cipher_order idle_timeout persist_client_idle_timeout persist_client_timeout persist_client
    max_chunked_request_size server_tokens pool backend_persist_cache persist_backend connect_ahead verify_backend verify_backend_path
    max_backend_uses buffer_size buffer_size_reproxy_url buffer_backend_connect buffer_uploads buffer_uploads_path
    buffer_upload_threshold_time buffer_upload_threshold_size buffer_upload_threshold_rate upload_status_listeners queue_relief_size
    queue_relief_chance high_priority_cookie high_priority_cookie_contents enable_reproxy reproxy_cache_maxsize blind_proxy
    enable_error_retries error_retry_schedule server_process docroot dirindexing index_files enable_concatenate_get enable_put enable_md5
    max_put_size min_put_directory enable_delete default_service latency
"""
"""The service tunables of Perlbal 1.80."""
PLUGINS = """
    Vhosts Vpaths Highpri AccessControl Redirect Queues Stats NotModified MaxContentLength XFFExtras Throttle LazyCDN FlvStreaming
    Palimg AutoRemoveLeadingDir EchoService Cgilike AtomStream AtomInject Include
"""
"""Its plugins."""


def read(tmp_path: Path, text: str) -> tuple[World, list[Mistake], list[str]]:
    """The World of a file, its mistakes, and its warnings as 'line: message'."""
    path = tmp_path / "perlbal.conf"
    path.write_text(inspect.cleandoc(text) + "\n", encoding="utf-8")
    world = World()
    interpreter = Interpreter(world)
    mistakes = interpreter.run_file(str(path))
    return world, mistakes, [f"{each.line}: {each.message}" for each in interpreter.warnings]


def said(mistakes: list[Mistake]) -> list[tuple[int, str]]:
    return [(mistake.line, mistake.message) for mistake in mistakes]


# --- everything is known -----------------------------------------------------------------------------------


def test_each_of_the_55_tunables_is_built_or_told_to_be_not_built_yet_and_never_both() -> None:
    names = set(TUNABLES.split())
    assert len(names) == 55
    built = {tunable.name for tunable in CORE} | {"persist_client_timeout"}
    assert names <= built | perlbal.SERVICE.keys()
    assert not built & perlbal.SERVICE.keys()
    assert {tunable.name for tunable in POOL} >= {"nodefile", "balance_method"}
    assert not {tunable.name for tunable in SERVER} & perlbal.MEANINGLESS.keys()


def test_a_tunable_that_is_not_built_says_so(tmp_path: Path) -> None:
    lines = []
    for row in perlbal.SERVICE.values():
        value = {("bool", "off"): "on", ("bool", "on"): "off"}.get((row.type.name, str(row.default)), "77")
        lines += [f"SET {row.name} = {value}", f"DEFAULT {row.name.upper()} = {value}"]
    _, mistakes, _ = read(tmp_path, "\n".join(["CREATE SERVICE a", "SET role = reverse_proxy", *lines]))
    assert [mistake.line for mistake in mistakes] == list(range(3, 3 + len(lines)))
    for mistake in mistakes:
        name = mistake.source.split()[1].lower()
        assert mistake.message.startswith(f"'{name}' is not built yet")
        assert mistake.hint == ""
        assert mistake.source[mistake.column - 1 : mistake.end - 1].lower() == name


def test_who_asks_for_the_default_of_what_is_not_built_asks_for_nothing(tmp_path: Path) -> None:
    rows = [row for row in perlbal.SERVICE.values() if row.default is not None]
    lines = "\n".join(f"SET {row.name} = {row.default}" for row in rows)
    world, mistakes, _ = read(tmp_path, f"CREATE SERVICE a\nSET role = reverse_proxy\n{lines}")
    assert said(mistakes) == []
    assert world.service("a").explicit.keys() == {"role"}
    assert said(read(tmp_path, "CREATE POOL p\nSET nodefile = none")[1]) == []
    assert rows


def test_a_value_that_perlbal_would_refuse_is_refused_for_that(tmp_path: Path) -> None:
    _, mistakes, _ = read(tmp_path, "CREATE SERVICE a\nSET latency = perhaps")
    assert said(mistakes) == [(2, "latency: expected a whole number such as 64, found 'perhaps'")]


def test_every_plugin_of_perlbal_is_there_in_any_case(tmp_path: Path) -> None:
    names = [name for name in PLUGINS.split() if name != "Palimg" or find_spec("PIL") is not None]
    _, mistakes, _ = read(tmp_path, "\n".join(f"LOAD {name}\nLOAD {name.upper()}\nLOAD {name.lower()}" for name in names))
    assert said(mistakes) == []


MEANINGLESS = [
    ("SERVER aio_mode = ioaio", "SERVER aio_mode = fast"),
    ("SERVER aio_threads = 10", "SERVER aio_threads = many"),
    ("SERVER track_obj = 1", "SERVER track_obj = 2"),
    ("SERVER crash_backtrace = 0", "SERVER crash_backtrace = yess"),
    ("SERVER nice_level = -5", "SERVER nice_level = low"),
    ("XS enable headers", "XS enable"),
    ("XS disable headers", "XS off headers"),
]


def test_what_has_no_meaning_here_is_checked_and_told(tmp_path: Path) -> None:
    world, mistakes, warnings = read(tmp_path, "\n".join(f"{good}\n{bad}" for good, bad in MEANINGLESS))
    assert [mistake.line for mistake in mistakes] == list(range(2, 2 * len(MEANINGLESS) + 1, 2))
    for place, (warning, (good, _)) in enumerate(zip(warnings, MEANINGLESS, strict=True)):
        name = good.split()[1] if good.startswith("SERVER") else "XS"
        assert warning.startswith(f"{2 * place + 1}: {name} has no meaning here: ")
    assert snapshot(world).server == ()


# --- plugins that others wrote -----------------------------------------------------------------------------


FOREIGN = [
    ("HostRouter", "LOAD vhosts"),
    ("UrlGroup", "REWRITE"),
    ("MethodSelector", "WHEN method POST,PUT"),
    ("StickySessions", "SET sticky = NAME"),
    ("SessionAffinity", "SET sticky = NAME"),
    ("BackendHeaders", "HEADER name RESPONSE"),
    ("ForwardedFor", "trusted_upstream_proxies"),
    ("TrustHeader", "trusted_upstream_proxies"),
    ("Fallback404", "SET fallback_pool"),
    ("ServerStarter", "hand listening sockets over"),
    ("Comet", "LOAD poll"),
    ("PSGI", "POOL ADD"),
    ("StaticFiles", "web_server"),
    ("SiteChooser", "LOAD vhosts"),
    ("Zork", "write it as a pbal plugin: pbal plugin new zork"),
]


def test_what_replaces_a_plugin_is_told_by_its_name_in_one_line(tmp_path: Path) -> None:
    _, mistakes, _ = read(tmp_path, "\n".join(f"LOAD {name}" for name, _ in FOREIGN))
    for mistake, (name, words) in zip(mistakes, FOREIGN, strict=True):
        assert mistake.message == f"there is no plugin '{name}'"
        assert words in mistake.hint
        assert "\n" not in mistake.hint


def test_a_plugin_that_is_misspelt_is_not_taken_for_a_foreign_one(tmp_path: Path) -> None:
    _, (mistake,), _ = read(tmp_path, "LOAD vhost")
    assert mistake.hint == "did you mean 'vhosts'?"


def test_what_is_said_to_a_plugin_that_is_missing_is_not_held_against_the_file(tmp_path: Path) -> None:
    _, mistakes, _ = read(
        tmp_path,
        """
        LOAD Vhosts
        LOAD StickySessions
        CREATE SERVICE site
          SET role = selector
          SET plugins = Vhosts, StickySessions
          SET site.stickysessions.cookie = SID
          SET sticky_cookie = SID
          VHOST * = site
          STICKY COOKIE SID
          SET server_process = /bin/app
          SET persist_clent = on
        ENABLE site
        """,
    )
    assert [mistake.line for mistake in mistakes] == [2, 10, 11]


# --- habits of the language --------------------------------------------------------------------------------


def test_the_habits_of_perlbals_language_are_kept(tmp_path: Path) -> None:
    world, mistakes, warnings = read(
        tmp_path,
        """
        LOAD VHosts
        create pool Web
          pool add WEB 10.0.0.1:8080
          POOL web ADD 10.0.0.2
          SET Balance_Method = random
        CREATE SERVICE Web
          HEADER web INSERT X-Early: Yes
          SET plugins = none
          SET ROLE = reverse_proxy
          SET wEb.POOL = web
          SET WEB Persist_Client_Timeout = 40
          SET web.extra.Colour = Dark Blue   # a comment
          SET trusted_upstream_proxies = 10.1.2.3/8, 127.0.0.1
          SET buffer_size = 1k
        CREATE SERVICE front
          SET role = selector
          SET listen = 127.0.0.1:8080
          SET persist_client = 1
          SET plugins = vHOSTS
          SET default_service = Other
          VHOST WWW.Example.com = web
          VHOST front *.example.com = LATER
        ENABLE front
        CREATE SERVICE later
          SET role = reverse_proxy
          SET pool = WEB
        CREATE SERVICE other
          SET role = reverse_proxy
          SET pool = web
        CREATE SERVICE mgmt
          SET role = management
          SET listen = 127.0.0.1:16000
        ENABLE mgmt
        USE front
          VHOST other.example.com = other
        """,
    )
    assert said(mistakes) == []
    assert warnings == [
        "13: trusted_upstream_proxies: 10.1.2.3/8 has bits set right of the mask, 10.0.0.0/8 is used",
        "14: buffer_size: 1k is too little, 4k is used",
    ]
    web = world.service("web")
    assert (web["idle_timeout"], web["persist_client_idle_timeout"], web["buffer_size"]) == (40, 40, 4096)
    assert web.extra == {"colour": "Dark Blue"}
    assert [node.name for node in world.pool("web").nodes] == ["10.0.0.1:8080", "10.0.0.2:80"]
    assert [rule.said for rule in web.rules.headers] == ["Yes"]
    path = tmp_path / "dumped.conf"
    path.write_text("\n".join(render(snapshot(world))) + "\n", encoding="utf-8")
    again = World()
    assert Interpreter(again).run_file(str(path)) == []
    assert snapshot(again) == snapshot(world)


def test_who_is_never_made_is_told_where_it_was_named(tmp_path: Path) -> None:
    _, mistakes, _ = read(
        tmp_path,
        """
        LOAD vhosts
        LOAD vpaths
        CREATE SERVICE front
          SET role = selector
          SET plugins = vhosts vpaths
          SET default_service = sit
          VHOST a.com = nobody
          VPATH ^/x = nobody
          VPATH ^/y = refused.one
        ENABLE front
        CREATE SERVICE site
          SET role = web_server
        """,
    )
    assert sorted(said(mistakes)) == [
        (6, "service 'sit' does not exist"),
        (7, "service 'nobody' does not exist"),
        (9, "expected a target name, found 'refused.one'"),
    ]
    assert next(mistake.hint for mistake in mistakes if mistake.line == 6) == "did you mean 'site'?"


def test_a_deprecated_name_sets_both_of_its_tunables_or_none(tmp_path: Path) -> None:
    world, mistakes, _ = read(
        tmp_path, "DEFAULT persist_client_timeout = 50\nCREATE SERVICE a\nSET role = web_server\nSET persist_client_timeout = soon"
    )
    assert [mistake.line for mistake in mistakes] == [4]
    assert (world.service("a")["idle_timeout"], world.service("a")["persist_client_idle_timeout"]) == (50, 50)


def test_a_dotted_setter_is_a_tunable_of_that_plugin(tmp_path: Path) -> None:
    world, mistakes, _ = read(
        tmp_path,
        """
        LOAD poll
        CREATE POOL p
        CREATE SERVICE a
          SET role = web_server
          SET a.Poll.URI = ^/poll/(?P<queue>.*)$
          SET a.poll.poll_max_parked = 9
          SET a.poll.max_parket = 9
          SET a.vhosts.x = 1
          SET p.extra.x = 1
        """,
    )
    assert said(mistakes) == [
        (7, "plugin 'poll' has no tunable poll_max_parket or max_parket"),
        (8, "plugin 'vhosts' is not loaded: LOAD vhosts first"),
        (9, "plugins are on services, not on pools"),
    ]
    assert mistakes[0].hint == "did you mean 'poll_max_parked'?"
    assert world.service("a").explicit["poll_uri"] == "^/poll/(?P<queue>.*)$"
    assert world.service("a")["poll_max_parked"] == 9


# --- SERVER compatible -------------------------------------------------------------------------------------


def test_compatible_puts_perlbals_defaults_in_force_and_what_is_said_counts_for_more(tmp_path: Path) -> None:
    world, mistakes, _ = read(
        tmp_path,
        """
        SERVER compatible = perlbal
        DEFAULT backend_persist_cache = 7
        CREATE SERVICE a
          SET role = reverse_proxy
          SET persist_backend = on
        CREATE SERVICE b
          SET role = selector
        """,
    )
    assert said(mistakes) == []
    a, b = world.service("a"), world.service("b")
    assert (a["persist_client"], a["persist_backend"], a["backend_persist_cache"], a["response_timeout"]) == (False, True, 7, 0)
    assert (b["persist_client"], b["max_body"]) == (False, 0)
    assert world.server["graceful_timeout"] == 0
    assert a["ssl_cert_file"] == (tmp_path / "certs/server-cert.pem",)
    lines = list(render(snapshot(world)))
    assert "SERVER compatible = perlbal" in lines
    assert not any("graceful_timeout" in line or "persist_client" in line for line in lines)


def test_without_compatible_nothing_of_it_is_in_force(tmp_path: Path) -> None:
    world, _, _ = read(tmp_path, "SERVER compatible = perlbal\nSERVER compatible = none\nCREATE SERVICE a\nSET role = reverse_proxy")
    assert (world.service("a")["persist_client"], world.settings.standards, world.server["graceful_timeout"]) == (True, {}, 30)


def test_compatible_stands_before_the_first_service(tmp_path: Path) -> None:
    _, mistakes, _ = read(tmp_path, "CREATE SERVICE a\nSERVER compatible = perlbal")
    assert said(mistakes) == [(2, "SERVER compatible has to stand before the first CREATE SERVICE")]


@lab
async def test_as_perlbal_a_connection_serves_one_request_and_waits_go_by_idle_timeout(lab: Lab) -> None:
    asked: list[bytes] = []

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    origin = await lab.origin(node)
    pbal = await lab.pbal(
        f"""
        SERVER compatible = perlbal
        CREATE POOL p
          POOL p ADD {origin.address}
        CREATE SERVICE web
          SET role = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool = p
          SET idle_timeout = 40
        ENABLE web
        """
    )
    answer = await pbal.ask("web", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert b"connection: close\r\n" in asked[0].lower()
    handler = pbal.world.service("web").handler
    assert isinstance(handler, ReverseProxy)
    assert (handler.terms.queue_timeout, handler.terms.response_timeout) == (40, 40)
    await pbal.say("SET web.queue_timeout = 3")
    await pbal.say("SET web.response_timeout = 4")
    assert (handler.terms.queue_timeout, handler.terms.response_timeout) == (3, 4)
    assert "queue_timeout 3s 0 " in await pbal.say("show tunables web")


def test_every_default_of_perlbal_is_one_that_the_tunable_takes() -> None:
    for tunable in (*CORE, *SERVER):
        if tunable.perlbal is not None:
            assert tunable.default is None or tunable.parse(tunable.perlbal) != tunable.default_value()
    differing = {tunable.name for tunable in CORE if re.search(r"differs:.*default is", tunable.source)}
    assert {"persist_client", "persist_backend", "backend_persist_cache"} <= differing
    assert all(tunable.perlbal is not None for tunable in CORE if tunable.name in differing)


# --- whole configurations ----------------------------------------------------------------------------------

CONFIGURATIONS = sorted((Path(__file__).parent / "perlbal").glob("*.conf"))
"""In the style of real ones. Perlbal 1.80 runs all that need no library or plugin from elsewhere. A comment `# pbal: LINE TEXT` says what
is to be told of them, and nothing else is."""


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_in_the_style_of_real_ones(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("FOLDER", str(tmp_path)).replace("PORT1", "8080").replace("PORT2", "16000")
    expected = re.findall(r"^# pbal: (\d+) (.*)$", text, re.MULTILINE)
    copy = tmp_path / "test.conf"
    copy.write_text(text, encoding="utf-8")
    interpreter = Interpreter(World())
    told = sorted([*interpreter.run_file(str(copy)), *interpreter.warnings], key=lambda each: each.line)
    found = [(str(each.line), each.message[: len(words)]) for each, (_, words) in zip(told, expected, strict=True)]
    assert found == expected
