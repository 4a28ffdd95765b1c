"""What dumpconfig prints makes the same state again."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pbal.commands.interpreter import Interpreter
from pbal.config.render import render
from pbal.lang.lexical import escaped, quoted
from pbal.model.service import Service
from pbal.model.snapshot import snapshot
from pbal.model.world import World


def world_of(lines: list[str], folder: str) -> World:
    """The World of a configuration without mistakes."""
    path = Path(folder) / "dumped.conf"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    interpreter = Interpreter(World())
    mistakes = interpreter.run_file(str(path))
    assert not mistakes, "\n".join([*(mistake.render() for mistake in mistakes), *lines])
    return interpreter.world


def dump(world: World) -> list[str]:
    """The lines of dumpconfig."""
    return list(render(snapshot(world), world.fits))


def rendered(world: World, service: Service) -> dict[str, str | None]:
    """Values of the tunables that its role has, as text: not every type of a plugin's compares."""
    mine = ((name, value) for name, value in service.values.items() if world.fits(name, service.role))
    return {name: None if value is None else world.tunables[name].type.render(value) for name, value in mine}


def facts(world: World) -> dict[str, Any]:
    """Everything a configuration decides, as plain values."""
    return {
        "server": world.server,
        "defaults": world.defaults,
        "media": world.media.all(),
        "plugins": list(world.plugins),
        "pools": {p.name: ([node.name for node in p.nodes], p.values) for p in world.pools.values()},
        "services": {
            s.name: (
                s.role, s.enabled, rendered(world, s), [(rule.name, rule.said) for rule in s.rules.headers],
                [(name, tuple(plugin.dumpconfig())) for name, plugin in s.plugins],
            )
            for s in world.services.values()
        },
    }  # fmt: skip


def assert_survives(lines: list[str], folder: str) -> None:
    first = world_of(lines, folder)
    dumped = dump(first)
    second = world_of(dumped, folder)
    assert dump(second) == dumped
    assert snapshot(second) == snapshot(first)
    before, after = facts(first), facts(second)
    assert before == after, "\n".join(dumped)


# Words of the language are names like any other; so are digits.
NAMES = st.lists(
    st.sampled_from(["add", "remove", "set", "service", "SUMMARY", "json"]) | st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,8}", fullmatch=True),
    min_size=6, max_size=6, unique_by=str.lower,
)  # fmt: skip
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20)
NODES = st.lists(st.sampled_from(["10.0.0.1:80", "10.0.0.2:8080", "app.local:81", "[::1]:82", "unix:/run/a$$b.sock"]), unique=True)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "idle_timeout": st.sampled_from(["0", "1500ms", "0.25s", "90s", "2h"]),
        "persist_client": st.sampled_from(["off", "yes"]),
        "max_body": st.sampled_from(["0", "1000", "1024", "3m"]),
        "max_backend_uses": st.integers(0, 10**6).map(str),
        "trusted_upstream_proxies": st.sampled_from(["10.0.0.0/8", "10.0.0.0/8, ::1", '""']),
        "listen": st.sampled_from(["0", "127.0.0.1:0", "[::1]:0"]),
    },
)
POLL = st.fixed_dictionaries(
    {"poll_uri": st.sampled_from([r"^/poll/(?P<queue>[\w.-]+)$", r'"^/a b #(?P<queue>\\d+)"', r'"(?P<queue>\\d)"'])},
    optional={
        "poll_store": st.sampled_from(["memory", "memcached 10.0.0.1", "memcached 10.0.0.1:11212 [::1]:1"]),
        "poll_publish_uri": st.sampled_from(["off", "^/publish/(?P<queue>.+)"]),
        "poll_queue": st.sampled_from(["uri:queue", "xml:user/@name query:q uri:queue"]),
        "poll_key_prefix": st.sampled_from(["p:", '"#"', '""', "a#b"]),
        "poll_allow_origin": st.sampled_from(["off", "*", "https://a.example https://b.example"]),
    },
)


def service(name: str, role: str, said: dict[str, str], more: list[str]) -> list[str]:
    """Statements that make one service."""
    return [f"CREATE SERVICE {name}", f"SET role = {role}", *more, *(f"SET {key} = {value}" for key, value in said.items())]


RULES = (
    "HEADER PROXY RESPONSE SET X-Name: $$client when path ^/a$$b",
    "HEADER PROXY RESPONSE ADD X-Name: b",
    "HEADER PROXY RESPONSE REMOVE X-Name WHEN NOT host a.test",
    'HEADER PROXY REQUEST SET X-Name: "a when b"',
    "ROUTE PROXY TO POOL WHEN method GET",
    "ROUTE PROXY TO POOL WHEN header X ~ a",
    'ROUTE PROXY TO POOL WHEN method "AND" OR header "not"',
    "REWRITE PROXY ^/(a) = /b$$1",
    'REWRITE PROXY "^/a b" = "" WHEN scheme http',
)


CACHES = ("1y immutable WHEN path \\.[0-9a-f]{8}\\.js$$", "off WHEN host a.test", "90s, s-maxage=5", "No-Cache WHEN path ^/$$")


@st.composite
def configurations(draw: st.DrawFn, names: st.SearchStrategy[list[str]] = NAMES) -> list[str]:
    """A pool, a proxy that polls, a web server, a selector; some of them enabled."""
    pool, proxy, site, front, *_ = draw(names)
    lines = ["LOAD vpaths", "LOAD poll", "LOAD vhosts"]
    lines += draw(st.sampled_from([[], ["DEFAULT idle_timeout = 7s"], ["DEFAULT poll_timeout = 9s", "SERVER graceful_timeout = 1m"]]))
    lines += draw(
        st.sampled_from([[], ["MIME SET foo text/x-foo"], ["MIME REMOVE css", 'MIME SET .JS "a/b; x=\\"#\\""'], ["MIME SET js text/x"]])
    )
    lines += [f"CREATE POOL {pool}", *(f"POOL ADD {pool} {node}" for node in draw(NODES))]
    lines += draw(st.sampled_from([[], ["SET balance_method = ROUND_ROBIN"]]))
    lines += service(proxy, "reverse_proxy", draw(SETTINGS) | draw(POLL), [f"SET pool = {pool}", "SET plugins = poll"])
    lines += [f"HEADER {proxy} INSERT X-Name: {escaped(quoted(text))}" for text in draw(st.lists(TEXTS, max_size=2))]
    lines += [f"HEADER {proxy} REMOVE X-Gone"] if draw(st.booleans()) else []
    lines += [rule.replace("PROXY", proxy).replace("POOL", pool) for rule in draw(st.lists(st.sampled_from(RULES), max_size=5))]
    lines += service(site, "web_server", {"docroot": ".", "index_files": "a.html, b.html"}, [])
    lines += [f"CACHE {site} {words}" for words in draw(st.lists(st.sampled_from(CACHES), max_size=3))]
    lines += service(front, "selector", {}, [f"SET plugins = {draw(st.permutations(['vhosts', 'vpaths']).map(' '.join))}"])
    lines += [f"SET default_service = {site}"] if draw(st.booleans()) else []
    lines += [f"VHOST *.Example.com = {proxy}", f"VPATH ^/a=b/[^/]+$ = {site}"] if draw(st.booleans()) else []
    return lines + [f"ENABLE {name}" for name in (proxy, site, front) if draw(st.booleans())]


@given(configurations())
@settings(max_examples=8)
def test_what_it_prints_parses_back_to_the_same_world(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_survives(lines, folder)


def test_a_selector_may_name_a_service_made_after_it(tmp_path: Path) -> None:
    lines = service("front", "selector", {}, []) + service("site", "web_server", {"docroot": "."}, [])
    assert_survives([*lines, "SET front.default_service = site", "ENABLE front"], str(tmp_path))


def test_a_default_given_later_does_not_reach_back(tmp_path: Path) -> None:
    lines = [*service("old", "reverse_proxy", {}, []), "DEFAULT idle_timeout = 7s", *service("new", "reverse_proxy", {}, [])]
    first = world_of(lines, str(tmp_path))
    assert (first.service("old")["idle_timeout"], first.service("new")["idle_timeout"]) == (30, 7)
    assert_survives(lines, str(tmp_path))


def test_an_empty_world_prints_nothing_that_matters(tmp_path: Path) -> None:
    assert [line for line in dump(World()) if line] == []


SECRETS = """
LOAD vhosts
DEFAULT idle_timeout = ${file:time}
SERVER shutdown_graceful_timeout = ${env:PBAL_TEST_GRACE:-7s}
CREATE POOL app
  SET app.balance_method = ${file:method}
  POOL app ADD 10.0.0.1
CREATE SERVICE site
  SET role = reverse_proxy
  SET pool = app
  SET access_log_format = "${file:form}"
  HEADER site INSERT Authorization: "Bearer ${file:token}"
  HEADER site INSERT X-Plain: $$one
CREATE SERVICE files
  SET role = web_server
  SET docroot = ${env:PBAL_TEST_ROOT:-www}/a
"""


def test_what_came_from_a_secret_is_dumped_as_it_was_written(tmp_path: Path) -> None:
    server = next(name for name in World().server_tunables if World().server_tunables[name].type.name == "duration")
    (tmp_path / "www" / "a").mkdir(parents=True)
    for name, text in {"time": "17s", "method": "round_robin", "form": 'x "y" # $client', "token": 'hush "1"'}.items():
        (tmp_path / name).write_text(f"{text}\nmore\n")
    lines = SECRETS.replace("shutdown_graceful_timeout", server).split("\n")
    first = world_of(lines, str(tmp_path))
    site = first.service("site")
    assert site["idle_timeout"] == 17.0 and site["access_log_format"] == 'x "y" # $client'
    assert first.pool("app").values["balance_method"] == "round_robin"
    assert [rule.said for rule in site.rules.headers] == ['Bearer hush "1"', "$one"]
    assert site.shown("access_log_format") == '"${file:form}"' and site.shown("idle_timeout") == "${file:time}"
    dumped = dump(first)
    text = "\n".join(dumped)
    assert "hush" not in text + repr(snapshot(first)) and "17s" not in text and "round_robin" not in text
    for said in (
        '"Bearer ${file:token}"',
        "= ${file:time}",
        "= ${file:method}",
        '= "${file:form}"',
        "${env:PBAL_TEST_GRACE:-7s}",
        ": $$one",
    ):
        assert said in text
    assert f"docroot = {tmp_path}/${{env:PBAL_TEST_ROOT:-www}}/a" in text
    assert snapshot(world_of(dumped, str(tmp_path))) == snapshot(first)
    (tmp_path / "token").write_text("other\n")
    assert snapshot(world_of(lines, str(tmp_path))) != snapshot(first)


def test_a_literal_and_a_variable_of_the_same_value_are_two_configurations(tmp_path: Path) -> None:
    (tmp_path / "time").write_text("17s\n")
    made = "CREATE SERVICE a\nSET role = web_server\nSET idle_timeout = "
    literal, secret = (
        snapshot(world_of([*made.split("\n")[:-1], f"SET idle_timeout = {text}"], str(tmp_path))) for text in ("17s", "${file:time}")
    )
    assert literal != secret and secret == secret
