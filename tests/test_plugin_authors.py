"""What an author of plugins is given: examples that run, a beginning, a way to test, and a page that names it all."""

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pbal import api, manual
from pbal.__main__ import main
from pbal.model.hooks import HOOKS
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


ROLES = {
    "select_service": ("selector", "SET default_service = readers"),
    "make_high_priority": ("reverse_proxy", ""),
    "make_low_priority": ("reverse_proxy", ""),
}
"""The role of the service where it is no web_server, and what is said of it."""


@contextmanager
def example(hook: str, folder: Path) -> Iterator[Running]:
    """A pbal with the plugin that the manual shows for a hook."""
    method = textwrap.indent(f"@hook.{hook}\n{textwrap.dedent(HOOKS[hook].example).strip()}", "    ")
    imports = "from pbal.api import Exchange, Plugin, ResponseHead, Verdict, hook"
    (folder / "example.py").write_text(f"{imports}\n\n\nclass Example(Plugin):\n{method}\n")
    (folder / "page").write_text("a page")
    role, more = ROLES.get(hook, ("web_server", f"SET docroot = {folder}"))
    with running(SITE.format(folder=folder, role=role, more=more), plugins=folder) as pbal:
        yield pbal


def test_the_example_of_start_http_request(tmp_path: Path) -> None:
    with example("start_http_request", tmp_path) as pbal:
        assert (pbal.get("site", "/coffee/black").status, pbal.get("site", "/page").body) == (418, b"a page")
        assert {pbal.get("site", path).status for path in ("/%63offee", "//coffee", "/x/..//%2E/coffee")} == {418}


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


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "mine", "--folder", str(tmp_path / "no")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_mistakes_of_a_tested_configuration_fail_the_test_with_their_text() -> None:
    with pytest.raises(AssertionError, match="'nonsense' is not a"), running("nonsense"):
        raise RuntimeError("it runs")


def test_counters_console_log_and_raw_connections_of_a_tested_pbal(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        "from pbal.api import Plugin, hook\n\n\nclass Faulty(Plugin):\n    @hook.start_http_request\n"
        "    def fail(self, exchange):\n        raise ValueError('oh')\n"
    )
    site = SITE.replace("example", "faulty").format(folder=tmp_path, role="web_server", more="")
    with running(site, plugins=tmp_path) as pbal:
        assert pbal.get("site", "/").status == 500
        pbal.until("plugin_errors", 1)
        assert pbal.say("SET site.nonsense = 1").startswith("ERROR: ")
        assert any("plugin faulty" in line and "faulty.py:7" in line for line in pbal.log)
        with pbal.connect("site") as sock:
            sock.sendall(b"rubbish\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
