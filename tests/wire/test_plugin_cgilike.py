"""cgilike: a function in Python answers requests."""

import asyncio
import sys
from pathlib import Path

import pytest
from lab import DEADLINE, Lab, Pbal, lab, until

from pbal.commands.interpreter import Interpreter
from pbal.config.render import render
from pbal.model.snapshot import snapshot
from pbal.model.world import World

APP = """
import asyncio


def handler(r):
    path = r.path()
    if path == "/facts":
        r.response_header("Content-Type", "text/plain")
        r.print(f"{r.method()}|{r.uri()}|{r.path_segments()}|{r.query_string()}|{r.query_args()}|")
        r.print(f"{r.request_header('HOST')}|{r.request_header('nope')}|{r.response_status_code()}|{r.response_header('content-type')}")
    elif path == "/made":
        r.response_status_code(201)
        r.response_header("X-Made", "1")
        r.send_response_header()
        r.print("made", b"\\xff")
    elif path == "/segments/a%20b/c//d%2Fe/;x":
        r.print(repr(r.path_segments()))
    elif path == "/four":
        return 404
    elif path == "/later":
        asyncio.get_running_loop().call_soon(lambda: (r.print("later"), r.end_response()))
        return r.POSTPONE_RESPONSE
    elif path == "/page":
        return r.DECLINED
    elif path == "/fault":
        raise ValueError("of the program")
    elif path == "/both":
        r.print("part")
        return 404
    elif path == "/split":
        r.response_header("X-A", "b\\r\\nSet-Cookie: c")
    elif path == "/long":
        r.print(b"x" * (17 << 20))
    elif path == "/word":
        return "done"
    return r.HANDLED


async def slow(r):
    await asyncio.sleep(0)
    if r.path() == "/fault":
        raise type("Odd", (ValueError,), {"__str__": None})
    r.print("waited")


def form(r):
    return 400 if b"x" not in r.body() else r.print(r.body())


form.wants_body = True
nothing = 5
"""


def _request(path: str, method: str = "GET", body: bytes = b"") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n{length}\r\n".encode() + body


async def _pbal(lab: Lab, function: str = "MyApp::handler") -> Pbal:
    (lab.folder / "MyApp.py").write_text(APP)
    (lab.folder / "Old.pm").write_text("package Old; 1;")
    package = lab.folder / "Whole"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "words.py").write_text("WORD = 'whole'\n")
    (package / "Web.py").write_text("from .words import WORD\n\n\ndef handler(r):\n    r.print(WORD)\n")
    (lab.folder / "page").write_text("a page")
    return await lab.pbal(
        f"""
        SERVER plugin_path = {lab.folder}
        LOAD Cgilike
        PERLREQUIRE = MyApp
        CREATE SERVICE web
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET docroot = {lab.folder}
          SET plugins = cgilike
          PERLHANDLER = {function}
        ENABLE web
        """
    )


@lab
async def test_what_a_handler_asks_and_says(lab: Lab) -> None:
    pbal = await _pbal(lab)
    said = await pbal.ask("web", _request("/facts?q=1&r=a%20b&q=&s"))
    args = "[('q', '1'), ('r', 'a b'), ('q', ''), ('s', '')]"
    assert said.body.decode() == f"GET|/facts?q=1&r=a%20b&q=&s|['facts']|q=1&r=a%20b&q=&s|{args}|h|None|200|text/plain"
    assert (said.status, said.fields["content-type"]) == (200, "text/plain")
    made = await pbal.ask("web", _request("/made"))
    assert (made.status, made.fields["x-made"], made.body) == (201, "1", b"made\xff")
    assert made.fields["content-type"] == "text/html; charset=utf-8"
    segments = await pbal.ask("web", _request("/segments/a%20b/c//d%2Fe/;x"))
    assert segments.body.decode() == "['segments', 'a b', 'c', '', 'd/e', ('', 'x')]"
    assert (await pbal.ask("web", _request("/made", "HEAD"))).fields["content-length"] == "5"
    assert [(await pbal.ask("web", _request(path))).body for path in ("/later", "/page", "/empty")] == [b"later", b"a page", b""]
    assert (await pbal.ask("web", _request("/four"))).status == 404


@lab
async def test_what_fails_in_a_handler_is_500_and_its_line_is_for_the_log(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await _pbal(lab)
    for place, path in enumerate(("/fault", "/both", "/split", "/long", "/word"), 1):
        said = await pbal.ask("web", _request(path))
        assert said.status == 500 and b"ValueError" not in said.body and b"part" not in said.body, path
        assert pbal.counts["cgilike_failures"] == place
    assert (
        "ValueError: of the program" in caplog.text
        and f"{lab.folder}/MyApp.py:{APP[: APP.index('of the program')].count(chr(10)) + 1}" in caplog.text
    )
    assert (await pbal.ask("web", _request("/made"))).status == 201


@lab
async def test_one_that_waits_and_one_that_reads_a_body(lab: Lab) -> None:
    pbal = await _pbal(lab, "MyApp.slow")
    assert (await pbal.ask("web", _request("/"))).body == b"waited"
    assert (await pbal.ask("web", _request("/fault"))).status == 500
    for statement in ("USE web", "PERLHANDLER = MyApp::form"):
        assert await pbal.say(statement) == "OK"
    assert (await pbal.ask("web", _request("/", "POST", b"x=1"))).body == b"x=1"
    assert (await pbal.ask("web", _request("/"))).status == 400
    assert await pbal.say("PERLHANDLER = Whole::Web::handler") == "OK"
    assert (await pbal.ask("web", _request("/"))).body == b"whole"


@lab
async def test_what_is_wrong_is_told_and_changes_nothing(lab: Lab) -> None:
    pbal = await _pbal(lab)
    (lab.folder / "Broken.py").write_text("def handler(r)\n    return 0\n")
    (lab.folder / "Raises.py").write_text("import sys\nsys.exit(1 / 0)\n")
    before = set(sys.modules)
    assert await pbal.say("USE web") == "OK"
    for statement, words in (
        ("PERLREQUIRE = Nowhere", "there is no Python module 'Nowhere'"),
        ("PERLREQUIRE = Old", f"{lab.folder}/Old.pm is Perl, which does not run here"),
        ("PERLREQUIRE = Broken", f"{lab.folder}/Broken.py:1: "),
        ("PERLREQUIRE = ../MyApp", "expected the name of a Python module"),
        ("PERLHANDLER = MyApp", "expected module and function such as MyApp::handler"),
        ("PERLHANDLER = MyApp::nothing", "MyApp.nothing is a int, not a function"),
        ("PERLHANDLER = MyApp::missing", "there is no 'missing' in MyApp"),
        ("PERLHANDLER = Whole::Web::missing", "there is no 'missing' in Whole.Web"),
        ("PERLHANDLER = Raises::handler", f"{lab.folder}/Raises.py:2: ZeroDivisionError"),
    ):
        assert words in await pbal.say(statement), statement
    assert set(sys.modules) == before
    assert (await pbal.ask("web", _request("/made"))).status == 201


@lab
async def test_without_a_handler_requests_are_told_so(lab: Lab) -> None:
    pbal = await _pbal(lab)
    at = f"http://127.0.0.1:{pbal.server.address('web')[1]}/"
    assert "PERLHANDLER MyApp::handler answers, unless it declines" in await pbal.say(f"explain GET {at}")
    assert await pbal.say("DROP RULE web PERLHANDLER = MyApp::handler") == "OK"
    said = await pbal.ask("web", _request("/made"))
    assert said.status == 500 and b"No perlhandler is configured for this service" in said.body
    assert not [name for name in sys.modules if name.startswith("pbal_cgilike")]
    assert "there is no PERLHANDLER" in await pbal.say(f"explain GET {at}")
    assert await pbal.say("CREATE SERVICE other") == "OK"
    assert "does not have the plugin cgilike" in await pbal.say("PERLHANDLER = MyApp::handler")


@lab
async def test_reload_keeps_the_function_and_its_statement_reads_it_anew(lab: Lab) -> None:
    pbal = await _pbal(lab)
    reader, writer = await pbal.connect("web")
    writer.write(_request("/later"))
    await until(lambda: pbal.counts["requests"] == 1, "the request")
    assert await pbal.say("RELOAD cgilike") == "OK"
    assert (await asyncio.wait_for(reader.readuntil(b"later"), DEADLINE)).startswith(b"HTTP/1.1 200")
    (lab.folder / "MyApp.py").write_text("def handler(r):\n    r.print('new')\n")
    assert await pbal.say("RELOAD cgilike") == "OK"
    assert (await pbal.ask("web", _request("/made"))).status == 201
    assert [await pbal.say(statement) for statement in ("USE web", "PERLHANDLER = MyApp::handler")] == ["OK", "OK"]
    assert (await pbal.ask("web", _request("/made"))).body == b"new"
    assert not [name for name in sys.modules if name.startswith("pbal_cgilike")]


@lab
async def test_dumpconfig_makes_it_again(lab: Lab, tmp_path: Path) -> None:
    pbal = await _pbal(lab)
    lines = list(render(snapshot(pbal.world)))
    assert "  PERLHANDLER = MyApp::handler" in lines
    path = tmp_path / "dumped.conf"
    path.write_text("\n".join(lines) + "\n")
    again = World()
    assert [mistake.render() for mistake in Interpreter(again).run_file(str(path))] == []
    assert snapshot(again).services == snapshot(pbal.world).services


def test_what_was_found_beside_the_file_is_dumped_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "My App").mkdir()
    (tmp_path / "My App" / "one.py").write_text("class Web:\n    def handler(r): ...\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "__init__.py").write_text("def handler(r): ...\n")
    lines = ["LOAD cgilike"]
    for name, function in (("a", "one::Web::handler"), ("b", "one.py::Web::handler"), ("c", "../two/__init__.py::handler")):
        lines += [f"CREATE SERVICE {name}", "SET role = web_server", "SET plugins = cgilike", f"PERLHANDLER = {function}"]
    dumped: list[list[str]] = []
    for place, text in enumerate(("\n".join(lines), "")):
        path = tmp_path / ("My App" if not place else ".") / "site.conf"
        path.write_text(text if not place else "\n".join(dumped[0]))
        world = World()
        assert [mistake.render() for mistake in Interpreter(world).run_file(str(path))] == []
        dumped.append(list(render(snapshot(world))))
    assert dumped[0] == dumped[1]
    assert f'  PERLHANDLER = "{tmp_path}/My App/one.py::Web::handler"' in dumped[0]
    assert not [name for name in sys.modules if name.startswith("pbal_cgilike")]


@lab
async def test_a_file_read_anew_changes_the_handler_or_nothing(lab: Lab) -> None:
    pbal = await _pbal(lab)
    path = Path(pbal.server.interpreter.folder) / "test1.conf"
    text = path.read_text()
    assert await pbal.say("RELOAD CONFIG DRY RUN") == "."
    app = lab.folder / "MyApp.py"
    app.write_text("import threading\nassert threading.current_thread() is not threading.main_thread()\n" + app.read_text())
    path.write_text(text.replace("MyApp::handler", "MyApp::slow").replace("PERLREQUIRE = MyApp", ""))
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert (await pbal.ask("web", _request("/"))).body == b"waited"
    path.write_text(text.replace("MyApp::handler", "MyApp::missing").replace("docroot =", "max_body = 5\nSET docroot ="))
    assert "there is no 'missing' in MyApp" in await pbal.say("RELOAD CONFIG")
    assert (await pbal.ask("web", _request("/"))).body == b"waited"
    assert pbal.world.service("web")["max_body"] != 5
