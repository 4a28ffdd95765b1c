"""What `pbal check` warns of: legal, and most likely wrong. A case is a file, and its warnings with their lines."""

import inspect
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from authority import Authority
from lab import Lab, free_port, lab
from process import Running

from pbal.commands import lint
from pbal.commands.interpreter import Interpreter
from pbal.lang.mistakes import Mistake
from pbal.model.world import World
from pbal.schema.kinds import Severity


def warnings(folder: Path, text: str) -> list[str]:
    """The warnings of a file without mistakes, as 'line: message'."""
    path = folder / "test.conf"
    path.write_text(inspect.cleandoc(text.replace("FOLDER", str(folder))) + "\n", encoding="utf-8")
    interpreter = Interpreter(World())
    mistakes = interpreter.run_file(str(path))
    assert mistakes == [], "\n".join(mistake.render() for mistake in mistakes)
    return [_told(each).replace(str(folder), "FOLDER") for each in interpreter.warnings]


def _told(warning: Mistake) -> str:
    assert warning.severity is Severity.WARNING
    beside = f" ({warning.second.note}: {warning.second.place.line})" if warning.second else ""
    return f"{warning.line}: {warning.message}{beside}"


def test_a_pool_that_rules_and_fallbacks_name_is_used(tmp_path: Path) -> None:
    lines = [f"CREATE POOL {name}\nPOOL {name} ADD 10.0.0.1" for name in ("app", "beta", "spare", "unused")]
    lines += ["CREATE SERVICE web", "SET role = reverse_proxy", "SET listen = 127.0.0.1:8080", "SET pool = app"]
    lines += ["ROUTE web TO beta WHEN path (a+)+$", "SET fallback_pool = spare", "ENABLE web"]
    assert warnings(tmp_path, "\n".join(lines)) == [
        "7: no service uses the pool 'unused'",
        "13: it repeats what is repeated itself: the search in a text that nearly matches is given up after 50 ms",
    ]


FILES = """
    CREATE SERVICE web
      SET role = web_server
      SET listen = 127.0.0.1:8080
      SET docroot = FOLDER
    ENABLE web
"""
GOOD = """
    LOAD vhosts
    LOAD vpaths
    CREATE POOL app
      POOL app ADD 10.0.0.1:8080
      POOL app ADD 10.0.0.2:8080
    CREATE SERVICE app
      SET role = reverse_proxy
      SET pool = app
    CREATE SERVICE files
      SET role = web_server
      SET docroot = FOLDER
    CREATE SERVICE off
      SET role = web_server
      SET docroot = FOLDER
    DISABLE off
    CREATE SERVICE front
      SET role = selector
      SET listen = 0.0.0.0:8080
      SET plugins = none
      SET plugins = vhosts vpaths
      SET default_service = app
      VHOST a.com = files
      VHOST b.com = files
      VPATH ^/files/ = files
      VPATH ^/ = app
    ENABLE front
    CREATE SERVICE console
      SET role = management
      SET listen = 127.0.0.1:16000
    ENABLE console
"""

CASES: dict[str, tuple[str, list[str]]] = {
    "nothing": (GOOD, []),
    "a pool nobody uses": (FILES + "    CREATE POOL spare\n      POOL spare ADD 10.0.0.1", ["6: no service uses the pool 'spare'"]),
    "a pool without nodes": (
        "CREATE POOL Empty\nCREATE SERVICE a\nSET role = reverse_proxy\nSET listen = 8081\nSET pool = empty\nENABLE a",
        ["1: pool 'Empty' has no nodes: requests for it are answered 503"],
    ),
    "a node twice": (
        "CREATE POOL p\nPOOL p ADD 10.0.0.1\nPOOL ADD p 10.0.0.1:80\nCREATE SERVICE a\nSET role = reverse_proxy\nSET listen = 8081\n"
        "SET pool = p\nENABLE a",
        ["3: pool 'p' has node 10.0.0.1:80 already (said here: 2)"],
    ),
    "a proxy without a pool": (
        "CREATE SERVICE a\nSET role = reverse_proxy\nSET listen = 8081\nENABLE a",
        ["1: reverse_proxy 'a' has no pool: every request is answered 503"],
    ),
    "a web_server without a docroot": (
        "CREATE SERVICE a\nSET role = web_server\nSET listen = 8081\nENABLE a",
        ["1: web_server 'a' has no docroot: every request is answered 404"],
    ),
    "files from everybody": (
        FILES.replace("127.0.0.1:8080", "8080").replace("ENABLE", "  SET enable_put = on\n      SET enable_delete = on\n    ENABLE"),
        [
            "5: whoever reaches 8080 may write and remove files of 'web': let it listen where only those reach it who may, or ask"
            " for certificates of clients (ssl_verify_mode = 3), or have a plugin that refuses others"
        ],
    ),
    "files from this machine": (FILES.replace("ENABLE", "  SET enable_put = on\n    ENABLE"), []),
    "files that nobody may write": (
        FILES.replace("ENABLE", "  SET max_put_size = 1m\n      SET min_put_directory = 1\n    ENABLE"),
        ["5: max_put_size has no effect: enable_put is off", "6: min_put_directory has no effect: enable_put is off"],
    ),
    "never enabled": (
        FILES + "    CREATE SERVICE b\n      SET role = web_server\n      SET docroot = FOLDER",
        ["6: service 'b' is never enabled, and no selector hands requests to it"],
    ),
    "no address": (
        FILES + "    CREATE SERVICE b\n      SET role = web_server\n      SET docroot = FOLDER\n    ENABLE b",
        ["9: service 'b' has no listen address, and no selector hands requests to it"],
    ),
    "a vhost that another one hides": (
        """
        LOAD vhosts
        CREATE SERVICE a
          SET role = web_server
          SET docroot = FOLDER
        CREATE SERVICE front
          SET role = selector
          SET listen = 8081
          SET plugins = vhosts
          VHOST www.a.com = front2
          VHOST front WWW.a.com = a
        ENABLE front
        CREATE SERVICE front2
          SET role = selector
          SET listen = 8082
          SET default_service = a
        ENABLE front2
        """,
        ["10: VHOST WWW.a.com hides the one before, which says front2 (said here: 9)"],
    ),
    "a vpath that another one hides": (
        """
        LOAD vpaths
        CREATE SERVICE a
          SET role = web_server
          SET docroot = FOLDER
        CREATE SERVICE front
          SET role = selector
          SET listen = 8081
          SET plugins = vpaths
          VPATH ^/x = a
          VPATH ^/x = a
          VPATH ^/ = a
          VPATH ^/y = a
        ENABLE front
        """,
        ["10: VPATH ^/x comes first and hides this one (said here: 9)", "12: VPATH ^/ comes first and hides this one (said here: 11)"],
    ),
    "vpaths that begin like an earlier one": (
        r"""
        LOAD vpaths
        CREATE SERVICE a
          SET role = web_server
          SET docroot = FOLDER
        CREATE SERVICE front
          SET role = selector
          SET listen = 8081
          SET plugins = vpaths
          VPATH ^/api/ = a
          VPATH ^/api/v2 = a
          VPATH ^/api/(v1|v2)/x$ = a
          VPATH ^/api/|^/b = a
          VPATH ^/api = a
          VPATH ^/a\.b = a
          VPATH ^/a\.b*c = a
          VPATH ^/a\.b+c = a
          VPATH \.js$ = a
          VPATH \.js$$x = a
        ENABLE front
        """,
        [
            "10: VPATH ^/api/ comes first and hides this one (said here: 9)",
            "11: VPATH ^/api/ comes first and hides this one (said here: 9)",
            "16: VPATH ^/a\\.b comes first and hides this one (said here: 14)",
        ],
    ),
    "a vhost for every host": (
        """
        LOAD vhosts
        LOAD vpaths
        CREATE SERVICE a
          SET role = web_server
          SET docroot = FOLDER
        CREATE SERVICE front
          SET role = selector
          SET listen = 8081
          SET plugins = vhosts vpaths
          SET default_service = a
          VHOST a.com = a
          VHOST *;using:b.com = a
          VPATH ^/x = a
          VHOST * = a
        ENABLE front
        CREATE SERVICE other
          SET role = selector
          SET listen = 8082
          SET plugins = vpaths vhosts
          VHOST * = a
          VPATH ^/x = a
        ENABLE other
        """,
        [
            "10: VHOST * takes every request before default_service (said here: 14)",
            "13: VHOST * takes every request before this: SET plugins names vhosts first (said here: 14)",
        ],
    ),
    "a vpath for every path": (
        """
        LOAD vhosts
        LOAD vpaths
        CREATE SERVICE a
          SET role = web_server
          SET docroot = FOLDER
        CREATE SERVICE front
          SET role = selector
          SET listen = 8081
          SET plugins = vpaths vhosts
          VPATH ^/x = a
          VPATH . = a
          VHOST * = a
        ENABLE front
        """,
        ["12: VPATH . takes every request before this: SET plugins names vpaths first (said here: 11)"],
    ),
    "rules for who cannot answer": (
        """
        LOAD vhosts
        LOAD vpaths
        CREATE SERVICE none
        CREATE SERVICE off
          SET role = web_server
          SET docroot = FOLDER
        DISABLE off
        CREATE SERVICE mgmt
          SET role = management
          SET listen = 127.0.0.1:16000
        ENABLE mgmt
        CREATE SERVICE front
          SET role = selector
          SET listen = 8081
          SET plugins = vhosts vpaths
          VHOST a.com = none
          VHOST b.com = OFF
          VPATH ^/x = mgmt
        ENABLE front
        """,
        [
            "16: service 'none' (role none) answers no requests",
            "17: service 'off' is disabled: requests for it are answered 503",
            "18: service 'mgmt' (role management) answers no requests",
        ],
    ),
    "a selector that selects itself": (
        "CREATE SERVICE a\nSET role = selector\nSET listen = 8081\nSET default_service = A\nENABLE a",
        ["4: selector 'a' selects itself: a -> a"],
    ),
    "selectors in a circle": (
        """
        LOAD vhosts
        CREATE SERVICE a
          SET role = selector
          SET listen = 8081
          SET plugins = vhosts
          VHOST x.com = web
          VHOST y.com = b
        CREATE SERVICE b
          SET role = selector
          SET default_service = c
        CREATE SERVICE c
          SET role = selector
          SET default_service = a
        CREATE SERVICE web
          SET role = web_server
          SET docroot = FOLDER
        ENABLE a
        """,
        [
            "7: selector 'a' selects itself: a -> b -> c -> a",
            "10: selector 'b' selects itself: b -> c -> a -> b",
            "13: selector 'c' selects itself: c -> a -> b -> c",
        ],
    ),
    "a console open to the world": (
        FILES
        + """    CREATE SERVICE m
      SET role = management
      SET listen = 0.0.0.0:16000
      SET open = on
    ENABLE m""",
        ["8: console 'm' listens on 0.0.0.0:16000 without a password: whoever reaches it controls this pbal"],
    ),
    "a console as in Perlbal": (
        "SERVER compatible = perlbal\nCREATE SERVICE m\nSET role = management\nSET listen = 16000\nENABLE m",
        ["4: console 'm' listens on 16000 without a password: whoever reaches it controls this pbal"],
    ),
    "a node that is a listener": (
        """
        CREATE POOL p
          POOL p ADD 127.0.0.1:8081
          POOL p ADD 10.0.0.1:8082
          POOL p ADD 127.0.0.1:8082
          POOL p ADD 10.0.0.1:8081
        CREATE SERVICE a
          SET role = reverse_proxy
          SET listen = 8081
          SET pool = p
        ENABLE a
        CREATE SERVICE b
          SET role = reverse_proxy
          SET listen = 10.0.0.1:8082
          SET pool = p
        ENABLE b
        """,
        [
            "2: node 127.0.0.1:8081 is where service 'a' listens (said here: 8)",
            "3: node 10.0.0.1:8082 is where service 'b' listens (said here: 13)",
        ],
    ),
    "what a pool says of balancing without effect": (
        """
        CREATE POOL a
          SET balance_hash = path
          SET sticky_key = ${env:KEY:-sixteen-letters-or-more}
          POOL a ADD 10.0.0.1 WEIGHT 0
        CREATE POOL b
          SET balance_hash = path
          SET sticky = node
          SET sticky_key = ${env:KEY:-sixteen-letters-or-more}
          POOL b ADD 10.0.0.1 WEIGHT 0
          POOL b ADD 10.0.0.2 BACKUP
        CREATE SERVICE one
          SET role = reverse_proxy
          SET pool = a
          SET listen = 8081
        ENABLE one
        CREATE SERVICE two
          SET role = reverse_proxy
          SET pool = b
          SET balance_method = hash
          SET listen = 8082
        ENABLE two
        """,
        [
            "1: every node of pool 'a' has weight 0: new requests for it are answered 503",
            "2: balance_hash has no effect: balance_method is not hash",
            "3: sticky_key has no effect: sticky is off",
        ],
    ),
    "nodes that may order what nobody may have": (
        """
        CREATE POOL p
          POOL p ADD 10.0.0.1
        CREATE SERVICE a
          SET role = reverse_proxy
          SET listen = 8081
          SET pool = p
          SET enable_reproxy = on
        ENABLE a
        CREATE SERVICE named
          SET role = web_server
          SET docroot = FOLDER
        CREATE SERVICE b
          SET role = reverse_proxy
          SET listen = 8082
          SET pool = p
          SET enable_reproxy = on
          SET reproxy_root = FOLDER
          SET reproxy_allow = 0.0.0.0/0:80
        ENABLE b
        """,
        [
            "7: enable_reproxy is on, and 'a' refuses every file and URL: add SET reproxy_root = FOLDER for X-REPROXY-FILE,"
            " SET reproxy_allow = HOST:PORT for X-REPROXY-URL",
            "18: reproxy_allow: 0.0.0.0/0:80 lets nodes reach every host there is",
        ],
    ),
    "how something is done that is off": (
        """
        CREATE POOL p
          POOL p ADD 10.0.0.1
          SET check_path = /healthz
          SET sticky_key = a-secret-of-many-letters
        CREATE SERVICE a
          SET role = reverse_proxy
          SET listen = 8081
          SET pool = p
          SET fallback_on = 404
          SET error_retry_schedule = 1,2
          SET queue_relief_size = 10
          SET reproxy_allow = 10.0.0.0/8:80
          SET compress_level = 9
          SET verify_backend_path = /up
        ENABLE a
        """,
        [
            "3: check_path has no effect: check is off",
            "4: sticky_key has no effect: sticky is off",
            "9: fallback_on has no effect: fallback_pool is not set",
            "10: error_retry_schedule has no effect: enable_error_retries is off",
            "11: queue_relief_size has no effect: queue_relief_chance is 0",
            "12: reproxy_allow has no effect: enable_reproxy is off",
            "13: compress_level has no effect: compress is off",
            "14: verify_backend_path has no effect: verify_backend is off",
        ],
    ),
    "spools of a service that spools nothing": (
        """
        CREATE POOL p
          POOL p ADD 10.0.0.1
        CREATE SERVICE a
          SET role = reverse_proxy
          SET listen = 8081
          SET pool = p
          SET buffer_upload_threshold_size = 1m
        ENABLE a
        CREATE SERVICE b
          SET role = reverse_proxy
          SET listen = 8082
          SET pool = p
          SET buffer_uploads = on
          SET buffer_upload_threshold_size = 1m
        ENABLE b
        """,
        ["7: buffer_upload_threshold_size has no effect: buffer_uploads is off"],
    ),
    "a tunable set twice": (
        FILES
        + """      SET web.idle_timeout = 3s
      SET WEB Idle_Timeout = 4s
    CREATE POOL web
      SET balance_method = random
      SET web.balance_method = random
    SERVER graceful_timeout = 1s
    SERVER graceful_timeout = 2s
    CREATE SERVICE p
      SET role = reverse_proxy
      SET listen = 8081
      SET pool = web
      POOL web ADD 10.0.0.1
    ENABLE p""",
        [
            "7: SET web.idle_timeout was said before, and this one counts (said here: 6)",
            "10: SET web.balance_method was said before, and this one counts (said here: 9)",
            "12: SERVER graceful_timeout was said before, and this one counts (said here: 11)",
        ],
    ),
    "a regex that can run away": (
        """
        LOAD poll
        LOAD vpaths
        CREATE SERVICE web
          SET role = web_server
          SET docroot = FOLDER
          SET plugins = poll
          SET poll_uri = ^/poll/(?P<queue>(a+)+)$
          SET poll_publish_uri = ^/(x*)*y$
        CREATE SERVICE front
          SET role = selector
          SET listen = 8081
          SET plugins = vpaths
          VPATH ^/(a+)+$ = web
        ENABLE front
        """,
        [
            f"{line}: {what}it repeats what is repeated itself: the search in a text that nearly matches is given up after 50 ms"
            for line, what in ((7, "poll_uri: "), (8, "poll_publish_uri: "))
        ]
        + ["13: it repeats what is repeated itself: the search in a path that nearly matches is given up, and answered 500"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_check_warns_of(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint, "_first_free_port", lambda: 0)
    text, expected = CASES[case]
    assert warnings(tmp_path, text) == expected


def test_a_nodefile_with_a_mistake_or_without_a_node(tmp_path: Path) -> None:
    text = "CREATE POOL p\nSET nodefile = nodes\nCREATE SERVICE a\nSET role = reverse_proxy\nSET listen = 8081\nSET pool = p\nENABLE a"
    for nodes, warning in (
        ("10.0.0.1\n", []),
        ("# none\n", ["2: FOLDER/nodes has no nodes: requests for pool 'p' are answered 503"]),
        ("10.0.0.1\nx y\n", ["2: FOLDER/nodes:2: expected one node a line, found 'x y': pbal does not start with this nodefile"]),
    ):
        (tmp_path / "nodes").write_text(nodes)
        assert warnings(tmp_path, text) == warning


def test_each_check_has_a_case() -> None:
    assert {check.__name__ for check in lint.CHECKS} == {
        "pools", "balancing", "proxies", "reproxying", "alone", "docroots", "writing", "unreachable", "rules", "passed_by", "circles",
        "consoles", "certificates", "circular_nodes", "ports", "limits",
    }  # fmt: skip


def test_a_port_that_only_root_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint, "_first_free_port", lambda: 1024)
    text = "CREATE SERVICE a\nSET role = web_server\nSET docroot = FOLDER\nSET listen = 80\nENABLE a"
    assert warnings(tmp_path, text) == ["4: port 80 needs root or CAP_NET_BIND_SERVICE (ports from 1024 on do not)"]


def test_the_right_to_low_ports_is_what_the_kernel_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, first = tmp_path / "status", tmp_path / "first"
    monkeypatch.setattr(lint, "_STATUS", status)
    monkeypatch.setattr(lint, "_UNPRIVILEGED", first)
    first.write_text("80\n")
    status.write_text("Name:\tx\nCapEff:\t0000000000000400\n")
    assert lint._first_free_port() == 0
    status.write_text("Name:\tx\nCapEff:\t0000000000000200\n")
    assert lint._first_free_port() == 80
    status.unlink()
    assert lint._first_free_port() == (0 if os.geteuid() == 0 else 1024)


def test_a_docroot_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert warnings(tmp_path, FILES) == ["4: docroot FOLDER cannot be read by this user"]


def test_a_private_key_that_others_can_read(tmp_path: Path) -> None:
    pair = Authority(tmp_path).certify("a.example")
    lines = (f"  SET enable_ssl = on\n      SET ssl_cert_file = {pair.file}\n      SET ssl_key_file = {pair.key_file}\n    ENABLE web",)
    text = FILES.replace("ENABLE web", *lines)
    pair.key_file.chmod(0o640)
    assert warnings(tmp_path, text) == []
    pair.key_file.chmod(0o644)
    expected = f"6: FOLDER/{pair.key_file.name}: the key can be read or written by every user of this machine"
    assert warnings(tmp_path, text) == [expected]


def test_limits_above_the_descriptors_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 4096))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(lint, "_first_free_port", lambda: 0)
    proxy = (
        "CREATE POOL p\nPOOL p ADD 10.0.0.1\nCREATE SERVICE a\nSET role = reverse_proxy\nSET pool = p\nSET listen = 8081\n"
        "SET backend_persist_cache = 5000\nENABLE a\n"
    )
    assert warnings(tmp_path, proxy) == ["7: backend_persist_cache = 5000 is never reached: the process may have 4096 open files"]
    assert warnings(tmp_path, "SERVER max_connections = 5000\n" + proxy.replace("5000", "4999")) == [
        "1: SERVER max_connections = 5000: the system allows 4096 open files at most"
    ]


def test_what_is_missing_is_not_told_of_a_file_with_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "test.conf"
    path.write_text("CREATE POOL p\nCREATE SERVICE a\nSET role = reverse_proxy\nSET idle_timeout = 3\nSET idle_timeout = 4\nSET pol = p\n")
    interpreter = Interpreter(World())
    assert [mistake.line for mistake in interpreter.run_file(str(path))] == [6]
    assert [warning.line for warning in interpreter.warnings] == [5]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`pbal check`."""
    return subprocess.run([sys.executable, "-m", "pbal", "check", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_check_prints_warnings_and_fails_for_them_only_if_it_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "test.conf"
    path.write_text("CREATE POOL p\nCREATE SERVICE m\nSET role = management\nSET listen = 127.0.0.1:16000\nENABLE m\n")
    done = run(str(path))
    assert (done.returncode, done.stdout) == (0, f"{path}: good, 1 warning\n")
    assert f"{path}:1:13: warning: no service uses the pool 'p'\n" in done.stderr
    done = run("--strict", str(path))
    assert (done.returncode, done.stdout) == (1, f"{path}: good, 1 warning\n")
    assert f"{path}:1:13: warning: no service uses the pool 'p'\n" in done.stderr


def test_a_start_logs_warnings_once_each(tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "test.conf"
    path.write_text(
        f"SERVER aio_mode = none\nCREATE POOL p\nCREATE SERVICE m\nSET role = management\nSET listen = 127.0.0.1:{port}\nENABLE m\n"
    )
    with Running(path, port) as running:
        _, log = running.end()
    assert log.count(f"{path}:1: aio_mode has no meaning here") == log.count(f"{path}:2: no service uses the pool 'p'") == 1
    assert log.count("WARNING") == 2


@lab
async def test_at_the_console_a_word_stands_before_ok(lab: Lab) -> None:
    pbal = await lab.pbal(
        "CREATE SERVICE web\nSET role = web_server\nCREATE SERVICE front\nSET role = selector\nSET listen = 127.0.0.1:0\n"
        "SET default_service = web\nENABLE front"
    )
    assert (await pbal.say("SERVER aio_mode = none")).startswith("warning: aio_mode has no meaning here")
    assert await pbal.say("SET web.buffer_size = 1k") == "warning: buffer_size: 1k is too little, 4k is used"
    assert await pbal.say("SET web.buffer_size = 8k") == "OK"
    assert "compatible has to stand before" in await pbal.say("SERVER compatible = perlbal")
    assert "service 'later' does not exist" in await pbal.say("SET front.default_service = later")
    assert await pbal.say("SET web.extra.colour = blue") == "OK"
    assert "SET web.extra.colour = blue" in await pbal.say("dumpconfig")
    assert await pbal.say("UNSET web.extra.colour") == "OK"
    assert "colour" not in await pbal.say("dumpconfig")
    assert "extra.colour was not set on 'web'" in await pbal.say("UNSET web.extra.colour")


@lab
async def test_reload_config_logs_what_is_odd_in_the_file(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    text = "CREATE SERVICE web\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET docroot = .\nSET web.extra.a = 1\nENABLE web\n"
    pbal = await lab.pbal(text)
    path = lab.folder / "next.conf"
    path.write_text(text.replace("extra.a = 1", "extra.b = 2") + "CREATE POOL p\nSET web.buffer_size = 1k\n")
    assert await pbal.say(f"RELOAD CONFIG {path}") == "OK"
    assert caplog.text.count(f"{path}:7: no service uses") == caplog.text.count(f"{path}:8: buffer_size") == 1
    assert (pbal.world.service("web").extra, pbal.world.service("web")["buffer_size"]) == ({"b": "2"}, 4096)
