"""What an author of plugins is given: examples that run, a beginning, a way to test, and a page that names it all."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pbal import api, manual
from pbal.__main__ import main
from pbal.model.bound import HookTable
from pbal.model.errors import UnknownName
from pbal.model.hooks import HOOKS, hook
from pbal.schema import perlbal
from pbal.testing import Running, running

SITE = """
    LOAD example
    CREATE SERVICE writers
      SET role = web_server
    ENABLE writers
    CREATE SERVICE readers
      SET role    = web_server
      SET docroot = {folder}
    ENABLE readers
    CREATE SERVICE site
      SET role    = {role}
      SET listen  = 127.0.0.1:0
      SET plugins = example
      {more}
    ENABLE site
"""


@contextmanager
def example(hook: str, folder: Path, more: str = "") -> Iterator[Running]:
    """A pbal with the plugin that the manual shows for a hook, in a service of a role that runs it."""
    method = textwrap.indent(HOOKS[hook].code, "    ")
    imports = "from pbal.api import Exchange, FileFound, Lookup, Node, Plugin, ResponseHead, Verdict, hook"
    (folder / "example.py").write_text(f"{imports}\n\n\nclass Example(Plugin):\n{method}\n")
    (folder / "page").write_text("a page")
    role = next(role for role in ("web_server", "reverse_proxy", "selector") if role in HOOKS[hook].roles)
    if role == "web_server":
        (folder / "site").mkdir()
        (folder / "site/page").write_text("the site's page")
        more += f"\nSET docroot = {folder / 'site' if 'missing' in hook else folder}"
    elif role == "selector":
        more += "\nSET default_service = readers"
    with running(SITE.format(folder=folder, role=role, more=more), plugins=folder) as pbal:
        yield pbal


Said = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]
"""What a node answers: status, fields, body."""


@contextmanager
def proxied(hook: str, folder: Path, answer: Said, more: str = "") -> Iterator[Running]:
    """The same of a reverse_proxy with a node, which answers as `answer` says."""

    class Node(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, fields, body = answer(self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **fields}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            """Nothing is to be printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Node) as node, example(hook, folder, more) as pbal:
        node.daemon_threads = True
        threading.Thread(target=node.serve_forever, args=(0.01,), daemon=True).start()
        for statement in ("CREATE POOL app", f"POOL app ADD 127.0.0.1:{node.server_port}", "SET site.pool = app"):
            assert pbal.say(statement) == "OK"
        try:
            yield pbal
        finally:
            node.shutdown()


def plain(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
    """What a node says that has nothing special to say."""
    return 200, {"Content-Type": "text/plain"}, b"node"


def test_the_example_of_start_http_request(tmp_path: Path) -> None:
    with example("start_http_request", tmp_path) as pbal:
        assert (pbal.get("site", "/coffee/black").status, pbal.get("site", "/page").body) == (418, b"a page")
        assert {pbal.get("site", path).status for path in ("/%63offee", "//coffee", "/x/..//%2E/coffee")} == {418}


def test_the_example_of_answer_preflight(tmp_path: Path) -> None:
    fields = {"Origin": "https://a.example"}
    with example("answer_preflight", tmp_path) as pbal:
        assert pbal.request("site", "OPTIONS", "/page", {**fields, "Access-Control-Request-Method": "PUT"}).status == 403
        assert pbal.request("site", "OPTIONS", "/page", fields).status == 204, "a question of another kind"


def test_the_example_of_proxy_read_request(tmp_path: Path) -> None:
    with example("proxy_read_request", tmp_path) as pbal:
        assert pbal.post("site", "/page", b"a forbidden word").status == 422
        assert pbal.post("site", "/page", b"kind words").status == 405, "a file takes no POST"


def test_the_example_of_select_service(tmp_path: Path) -> None:
    with example("select_service", tmp_path) as pbal:
        assert pbal.get("site", "/page").body == b"a page"
        assert pbal.post("site", "/page", b"x").status == 405, "the writers' web server"


def test_the_example_of_modify_response_headers(tmp_path: Path) -> None:
    with example("modify_response_headers", tmp_path) as pbal:
        assert pbal.get("site", "/page").fields["x-frame-options"] == "DENY"


def test_the_example_of_start_proxy_request(tmp_path: Path) -> None:
    with proxied("start_proxy_request", tmp_path, plain) as pbal:
        assert pbal.get("site", "/", {"User-Agent": "${jndi:ldap://x}"}).status == 400
        assert pbal.get("site", "/").body == b"node"


def test_the_example_of_start_web_request(tmp_path: Path) -> None:
    with example("start_web_request", tmp_path) as pbal:
        assert pbal.get("site", "/page", {"User-Agent": "GreatBot"}).status == 403
        assert pbal.get("site", "/page").body == b"a page"


def test_the_example_of_handle_put(tmp_path: Path) -> None:
    with example("handle_put", tmp_path) as pbal:
        assert pbal.request("site", "PUT", "/notes", body=b"to keep").status == 204
        assert pbal.request("site", "PUT", "/other", body=b"to keep").status in (403, 405)
        assert pbal.post("site", "/notes", b"to keep").status == 405, "it is no PUT"


def test_the_example_of_select_pool(tmp_path: Path) -> None:
    with proxied("select_pool", tmp_path, plain, "CREATE POOL beta") as pbal:
        assert pbal.get("site", "/", {"X-Tester": "yes"}).status == 503, "theirs has no node"
        assert pbal.get("site", "/").status == 200
        assert pbal.say("DROP POOL beta") == "ERROR: pool 'beta' is used by service 'site'"
        assert pbal.say("SET site.plugins = none") == pbal.say("DROP POOL beta") == "OK"


def test_the_example_of_select_node(tmp_path: Path) -> None:
    with proxied("select_node", tmp_path, lambda request: (200, {}, request.headers["Host"].encode())) as pbal:
        assert pbal.say("POOL app ADD 127.0.0.1:1") == "OK"
        for _ in range(10):
            assert pbal.get("site", "/").status == 200
        assert "connect_failed" not in pbal.log and pbal.counter("backend_connect_failures") == 1


def test_the_example_of_backend_client_assigned(tmp_path: Path) -> None:
    with proxied("backend_client_assigned", tmp_path, lambda request: (200, {}, request.headers["X-Attempt"].encode())) as pbal:
        assert pbal.get("site", "/", {"X-Attempt": "7"}).body == b"1"


def test_the_example_of_backend_response_received(tmp_path: Path) -> None:
    status = iter((500, 200))
    with proxied("backend_response_received", tmp_path, lambda request: (next(status), {}, b"node")) as pbal:
        hidden = pbal.get("site", "/")
        assert (hidden.status, hidden.fields["retry-after"], b"node" in hidden.body) == (503, "60", False)
        assert pbal.get("site", "/").body == b"node"


def test_the_example_of_prepend_body(tmp_path: Path) -> None:
    with proxied("prepend_body", tmp_path, plain) as pbal:
        answer = pbal.get("site", "/")
        assert (answer.body, answer.fields["content-length"]) == (b"Draft\nnode", "10")
        head = pbal.request("site", "HEAD", "/")
        assert (head.body, head.fields["content-length"]) == (b"", "10")


def test_the_example_of_start_file_reproxy(tmp_path: Path) -> None:
    for name in ("original", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"the {name}")
    with proxied("start_file_reproxy", tmp_path, lambda request: (200, {"X-Reproxy-File": f"{tmp_path}/original/file"}, b"")) as pbal:
        assert pbal.say("SET site.enable_reproxy = on") == "OK"
        assert pbal.say(f"SET site.reproxy_root = {tmp_path}") == "OK"
        assert pbal.get("site", "/").body == b"the copy"


def test_the_example_of_start_serve_request(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("a page of today")
    with example("start_serve_request", tmp_path) as pbal:
        assert pbal.get("site", "/page.htm").body == b"a page of today"
        assert pbal.get("site", "/page").body == b"a page"


def test_the_example_of_static_get_poststat_file_missing(tmp_path: Path) -> None:
    (tmp_path / "else").write_text("from elsewhere")
    with example("static_get_poststat_file_missing", tmp_path) as pbal:
        assert pbal.get("site", "/page").body == b"the site's page"
        assert pbal.get("site", "/else").body == b"from elsewhere"


def test_the_example_of_static_get_poststat_pre_send(tmp_path: Path) -> None:
    with example("static_get_poststat_pre_send", tmp_path) as pbal:
        assert pbal.get("site", "/page").status == 200
        os.utime(tmp_path / "page", (1, 1))
        (tmp_path / "old").write_text("old")
        os.utime(tmp_path / "old", (1, 1))
        assert pbal.get("site", "/old").status == 410


def test_the_example_of_concat_get_poststat_file_missing(tmp_path: Path) -> None:
    (tmp_path / "else").write_text("from elsewhere")
    with example("concat_get_poststat_file_missing", tmp_path, "SET enable_concatenate_get = on") as pbal:
        assert pbal.say("SET readers.enable_concatenate_get = on") == "OK"
        assert pbal.get("site", "/??page,page").body == b"the site's page" * 2
        assert pbal.get("site", "/??page,else").body == b"a pagefrom elsewhere"


def test_the_example_of_concat_get_poststat_pre_send(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    os.utime(tmp_path / "old", (1, 1))
    with example("concat_get_poststat_pre_send", tmp_path, "SET enable_concatenate_get = on") as pbal:
        assert pbal.get("site", "/??page,old").status == 200, "the newest counts"
        assert pbal.get("site", "/??old,old").status == 410


def test_a_file_that_a_plugin_takes_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("a page")
    (tmp_path / "long").write_text("long " * 100_000)
    (tmp_path / "shout.py").write_text(
        "from pbal.api import Exchange, FileFound, Plugin, Verdict, hook, spawn\n\n\nclass Shout(Plugin):\n"
        "    @hook.start_send_file\n    def take(self, exchange: Exchange, file: FileFound) -> Verdict:\n"
        "        spawn(self, self.answer(exchange, file), 'shout')\n        return Verdict.TAKEN\n\n"
        "    async def answer(self, exchange, file):\n"
        "        exchange.respond(200, (), (await file.read(300_000)).upper() + b'%d' % file.size)\n"
    )
    with running(
        SITE.replace("example", "shout").format(folder=tmp_path, role="web_server", more=f"SET docroot = {tmp_path}"), plugins=tmp_path
    ) as pbal:
        for _ in range(2):
            assert pbal.get("site", "/page").body == b"A PAGE6"
            assert pbal.get("site", "/long").body == b"LONG " * 60_000 + b"500000"


def test_the_example_of_start_send_file(tmp_path: Path) -> None:
    with open(tmp_path / "long", "wb") as file:
        file.truncate(1_000_000_001)
    with example("start_send_file", tmp_path) as pbal:
        assert pbal.get("site", "/long").status == 403
        assert pbal.get("site", "/page").body == b"a page"


def noted(hook: str, folder: Path, *targets: str) -> list[str]:
    """What the access log of the service says after the status."""
    log = folder / "access.log"
    more = f"SET access_log = {log}\nSET access_log_format = $$status $$note_class $$note_backend_attempts $$note_answered_by"
    with example(hook, folder, more) as pbal:
        for target in targets:
            pbal.get("site", target)
        end = time.monotonic() + 10
        while not log.exists() or log.read_text().count("\n") < len(targets):
            assert time.monotonic() < end, "no lines"
            time.sleep(0.005)
    return log.read_text().split("\n")[:-1]


def test_the_example_of_end(tmp_path: Path) -> None:
    assert noted("end", tmp_path, "/page", "/missing") == ["200 2xx - -", "404 4xx - -"]


def test_the_example_of_end_proxy_request(tmp_path: Path) -> None:
    assert noted("end_proxy_request", tmp_path, "/") == ["503 - 0 -"]


def test_the_example_of_return_to_base(tmp_path: Path) -> None:
    assert noted("return_to_base", tmp_path, "/page", "/missing") == ["200 - - readers", "404 - - readers"]


def waiting(hook: str, folder: Path, *requests: bytes) -> str:
    """What `queues` says when these requests wait behind one that has the only connection to a node."""
    with example(hook, folder) as pbal, socket.socket() as node, ExitStack() as held:
        node.bind(("127.0.0.1", 0))
        node.listen()
        port = node.getsockname()[1]
        for statement in ("CREATE POOL app", f"POOL app ADD 127.0.0.1:{port} MAX 1", "SET site.pool = app"):
            assert pbal.say(statement) == "OK"
        for request in (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", *requests):
            held.enter_context(pbal.connect("site")).sendall(request)
        end = time.monotonic() + 10
        while f"pend clients: {len(requests)}" not in pbal.say("show service site"):
            assert time.monotonic() < end, "they do not wait"
        return pbal.say("queues")


def test_the_example_of_make_high_priority(tmp_path: Path) -> None:
    said = waiting("make_high_priority", tmp_path, *(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in (b"/", b"/staff/x")))
    assert "site-normal.count 1" in said and "site-highpri.count 1" in said


def test_the_example_of_make_low_priority(tmp_path: Path) -> None:
    agents = (b"Mozilla", b"SomeBot/1")
    said = waiting("make_low_priority", tmp_path, *(b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: %b\r\n\r\n" % agent for agent in agents))
    assert "site-normal.count 1" in said and "site-lowpri.count 1" in said


def test_every_hook_has_an_example_that_a_test_runs() -> None:
    assert {f"test_the_example_of_{name}" for name in HOOKS} <= set(globals())


def test_the_table_of_a_service_has_every_hook() -> None:
    table = HookTable()
    assert {*HOOKS, "begun", "begun_preflight", "ended"} == {name for name in dir(table) if not name.startswith("_")} and all(
        getattr(table, name) == () for name in HOOKS
    )


@pytest.mark.parametrize("name", perlbal.HOOKS)
def test_a_hook_of_perlbal_that_is_not_here_says_what_to_do(name: str) -> None:
    with pytest.raises(UnknownName, match=f"there is no hook '{name}': "):
        getattr(hook, name)


def test_what_can_be_imported_is_in_the_manual_where_it_is_a_class_that_authors_meet() -> None:
    page = manual.pages()["pbal-plugins.7"]
    for name in ("Exchange", "Verdict", "Plugin", "Tunable", "Counter", "Histogram", "spawn"):
        assert name in page and name in api.__all__


def test_a_new_plugin_works_and_passes_its_own_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "gate_keeper", "--folder", str(tmp_path)]) == 0
    assert "gate_keeper.py" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate_keeper.py", "test_gate_keeper.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0 and "2 passed" in ran.stdout, ran.stdout + ran.stderr


def test_a_name_that_is_taken_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "vhosts", "--folder", str(tmp_path)]) == 1
    assert "comes with pbal" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["Gate", "2fast", "class", "a-b", "../up", "test_me", ""])
def test_a_name_that_is_none_writes_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", name, "--folder", str(tmp_path)]) == 1
    assert "is not a name for a plugin" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_plugin_that_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_mine.py").write_text("mine")
    assert main(["plugin", "new", "mine", "--folder", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_is_not_there_is_made_or_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "mine", "--folder", str(tmp_path / "no" / "deeper")]) == 1
    assert f"cannot write {tmp_path}/no/deeper: No such file" in capsys.readouterr().err
    assert main(["plugin", "new", "mine", "--folder", str(tmp_path / "plugins")]) == 0, "as docs/plugins.md begins in an empty folder"
    assert len(list((tmp_path / "plugins").iterdir())) == 2
    (tmp_path / "file").touch()
    assert main(["plugin", "new", "mine", "--folder", str(tmp_path / "file")]) == 1
    assert f"cannot write {tmp_path}/file: File exists" in capsys.readouterr().err


def test_mistakes_of_a_tested_configuration_fail_the_test_with_their_text() -> None:
    with pytest.raises(AssertionError, match="'nonsense' is not a"), running("nonsense"):
        raise RuntimeError("it runs")


def test_counters_console_log_and_raw_connections_of_a_tested_pbal(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        "from pbal.api import Plugin, hook, spawn\n\n\nclass Faulty(Plugin):\n    @hook.start_http_request\n"
        "    def fail(self, exchange):\n        raise ValueError('oh')\n\n"
        "    @hook.end\n    def leave(self, exchange):\n        spawn(self, self.left(), 'leave')\n\n"
        "    async def left(self):\n        raise SystemExit(3)\n"
    )
    site = SITE.replace("example", "faulty").format(folder=tmp_path, role="web_server", more="")
    with running(site, plugins=tmp_path) as pbal:
        assert pbal.get("site", "/").status == 500
        pbal.until("plugin_errors", 2)
        assert pbal.say("SET site.nonsense = 1").startswith("ERROR: ")
        assert any("plugin faulty" in line and "faulty.py:7" in line for line in pbal.log)
        assert any("plugin faulty generation 1, outside of a hook: SystemExit: 3 (faulty.py:14)" in line for line in pbal.log)
        with pbal.connect("site") as sock:
            sock.sendall(b"rubbish\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
