"""`pbal console`: for scripts as a process with pipes, for people on a terminal of the kernel's, and its parts that need neither."""

import asyncio
import contextlib
import fcntl
import io
import json
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lab import DEADLINE, Lab, Pbal, free_port, lab, until
from process import ROOT

from pbal import __version__
from pbal.__main__ import main
from pbal.observe.counters import CORE as CORE_COUNTERS
from pbal.plugins.poll.settings import COUNTERS as POLL_COUNTERS
from pbal.schema.passwords import line_for
from pbal.terminal import target, top, watching, wire
from pbal.terminal.history import KEPT, History, is_kept
from pbal.terminal.screen import printable
from pbal.terminal.target import Address, BadTarget
from pbal.terminal.top import Sample
from pbal.terminal.wire import Console, Lost

CONF = """
    CREATE POOL app
      POOL app ADD 127.0.0.1:1
    CREATE SERVICE chat
      SET role   = reverse_proxy
      SET listen = 127.0.0.1:0
      SET pool   = app
    ENABLE chat
    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:{port}
    ENABLE console
"""


def address(pbal: Pbal) -> str:
    """Of its console."""
    host, port = pbal.server.address("console")
    return f"{host}:{port}"


# -- for scripts ---------------------------------------------------------------------------------------------------


async def script(*arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """Run `pbal console`: status, output, errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pbal", "console", *arguments, cwd=ROOT, env={**os.environ, **environment},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@lab
async def test_statements_of_a_script(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(port=0))
    at = address(pbal)
    assert await script(at, "-e", "show pool app", "-e", "SET chat.max_body = 7", "-e", "nodes 10.9.9.9:1") == (0, "127.0.0.1:1 0\n", "")
    assert pbal.world.service("chat")["max_body"] == 7
    assert await script(at, "-e", "USE nobody", "-e", "SET chat.max_body = 8") == (1, "", "ERROR: service/pool 'nobody' does not exist\n")
    assert pbal.world.service("chat")["max_body"] == 7, "what comes after a refusal is not carried out"
    status, _, _ = await script(at, "-k", "-e", "USE nobody", "-e", "SET chat.max_body = 8")
    assert (status, pbal.world.service("chat")["max_body"]) == (1, 8)
    assert await script(at, "-e", " # nothing", stdin="SET chat.max_body = 9\n") == (0, "", "")
    assert pbal.world.service("chat")["max_body"] == 8, "standard input is for a console without -e"
    status, out, err = await script(at, "-k", "-e", "mark x", "-e", "DROP SERVICE console", "-e", "show pool app")
    assert (status, out) == (1, "127.0.0.1:1 0\n"), "an answer has an end, and the console is still there"
    assert "pbal console itself uses MARK" in err and "this is the console 'console': another one can remove it" in err
    await _statements_of_standard_input(pbal)
    await _json_for_a_script_is_one_value(at)


async def _statements_of_standard_input(pbal: Pbal) -> None:
    said = "# a note\nUSE chat\n\nSET max_body = 9   # as in a file\nVERBOSE off\nshow pool app\ndumpcfg\nSET max_body = 1\n"
    status, out, err = await script(address(pbal), stdin=said)
    assert (status, out) == (1, "127.0.0.1:1 0\n")
    assert err == "line 7: ERROR: 'dumpcfg' is not a statement: did you mean 'DUMPCONFIG'?\n"
    assert pbal.world.service("chat")["max_body"] == 9
    assert await script(address(pbal), stdin="quit\nSET chat.max_body = 1\n") == (0, "", "")
    assert pbal.world.service("chat")["max_body"] == 9


async def _json_for_a_script_is_one_value(at: str) -> None:
    status, out, err = await script(at, "--json", "-e", "show pool app")
    assert (status, err, json.loads(out)[0]["node"]) == (0, "", "127.0.0.1:1")
    status, out, err = await script(at, "--json", "-k", "-e", "USE app", "-e", "USE nobody", "-e", "show pool app AS JSON")
    first, second, third = json.loads(out)
    assert (status, first, second) == (1, {"ok": True}, {"error": "service/pool 'nobody' does not exist"})
    assert third[0]["node"] == "127.0.0.1:1" and err.startswith("ERROR: service/pool")


@lab
async def test_what_dumpconfig_prints_through_a_pipe_is_a_configuration(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(port=free_port()))
    await pbal.say("HEADER chat INSERT X-Lines: OK . ERROR:")
    status, dumped, _ = await script(address(pbal), "-e", "dumpconfig")
    assert (status, dumped) == (0, await pbal.say("dumpconfig") + "\n")
    await pbal.close()
    again = await lab.pbal(dumped)
    assert await again.say("dumpconfig") + "\n" == dumped


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said by a `pbal console` that finds no console."""
    assert main(["console", *arguments, "-e", "uptime"]) == 2
    return capsys.readouterr().err


@lab
async def test_without_a_console_the_status_is_2(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PBAL_CONSOLE_PASSWORD", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    closed = free_port()
    refused = await asyncio.to_thread(failing, capsys, str(closed))
    assert refused == f"pbal console: cannot connect to 127.0.0.1:{closed}: Connection refused\n"
    monkeypatch.setattr(target, "CUSTOMARY", (closed, closed))
    nowhere = f"pbal console: no console at 127.0.0.1:{closed} or 127.0.0.1:{closed}: say HOST:PORT, the path of a socket, or -c FILE\n"
    assert await asyncio.to_thread(failing, capsys) == nowhere
    pbal = await lab.pbal(CONF.format(port=0))
    host, port = pbal.server.address("chat")
    assert await asyncio.to_thread(failing, capsys, f"{host}:{port}") == f"pbal console: {host}:{port} does not answer as a console does\n"
    assert failing(capsys, "h:port") == "pbal console: expected a port from 1 to 65535, found 'port' in 'h:port'\n"
    assert failing(capsys, "--user", "alice").startswith("pbal console: no terminal to ask for a password: say --password-file FILE")
    assert failing(capsys, "-c", "/none.conf") == "pbal console: /none.conf: No such file or directory\n"
    assert failing(capsys, "--password-file", "/none") == "pbal console: --password-file needs --user NAME\n"
    assert failing(capsys, "--user", "alice", "--password-file", "/none") == "pbal console: /none: No such file or directory\n"


@lab
async def test_the_console_of_a_configuration(lab: Lab, tmp_path: Path) -> None:
    pbal = await lab.pbal(CONF.format(port=free_port()))
    assert await script("-c", str(pbal.folder / "test1.conf"), "-e", "show pool app") == (0, "127.0.0.1:1 0\n", "")
    path = tmp_path / "other.conf"
    path.write_text("nonsense\nCREATE SERVICE mgmt\nSET role = management\nSET listen = 127.0.0.1:0\n")
    with pytest.raises(BadTarget, match="lets the system choose"):
        target.of_configuration(str(path))
    path.write_text("CREATE POOL x\n")
    with pytest.raises(BadTarget, match="has no service of role management"):
        target.of_configuration(str(path))


# -- on a terminal -------------------------------------------------------------------------------------------------


class Terminal:
    """A `pbal console` on a terminal."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self.master, self.process = master, process
        self.shown = ""
        self.at = 0

    def read(self) -> None:
        try:
            self.shown += os.read(self.master, 65536).decode("utf-8", "replace")
        except OSError:
            asyncio.get_running_loop().remove_reader(self.master)

    def type(self, keys: str) -> None:
        """Press keys; what is looked for is what is shown after them."""
        self.at = len(self.shown)
        os.write(self.master, keys.encode())

    async def shows(self, text: str) -> str:
        """Wait until it is shown; what was shown since the last keys."""
        return await self._until(re.escape(text))

    async def answers(self, text: str) -> None:
        """Wait until it is shown, and the prompt after it."""
        await self._until(f"{re.escape(text)}.*pbal>")

    async def _until(self, pattern: str) -> str:
        try:
            await until(lambda: re.search(pattern, self.since(), re.DOTALL), repr(pattern))
        except AssertionError as error:
            raise AssertionError(f"{error} in {self.shown!r}") from None
        return self.since()

    def since(self) -> str:
        """What was shown since the last keys, without what moves the cursor."""
        return re.sub(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[=>])", "", self.shown[self.at :])

    async def ended(self) -> int:
        """Its exit status, when it has ended."""
        async with asyncio.timeout(DEADLINE):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def terminal(tmp_path: Path, *arguments: str, rows: int = 24, columns: int = 100, **environment: str) -> AsyncIterator[Terminal]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    names = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(tmp_path), "PAGER": "cat", "NO_COLOR": "1", **environment}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"import fcntl; fcntl.ioctl(0, {termios.TIOCSCTTY}, 0); from pbal.__main__ import main; exit(main())",
        "console", *arguments, cwd=ROOT, env={**os.environ, **names}, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    it = Terminal(master, process)
    asyncio.get_running_loop().add_reader(master, it.read)
    try:
        yield it
    finally:
        asyncio.get_running_loop().remove_reader(master)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        os.close(master)


@lab
async def test_a_person_at_the_prompt(lab: Lab, tmp_path: Path) -> None:
    pbal = await lab.pbal(CONF.format(port=0))
    async with terminal(tmp_path, address(pbal)) as it:
        await it.answers(f"pbal {__version__}")
        assert "help lists the statements" in it.shown
        it.type("show pool app\r")
        await it.answers("127.0.0.1:1 ")
        assert re.search(r"NODE +REQUESTS +ACTIVE +STATE", it.shown), "as people read it"
        it.type("SET chat.max_bdy = 5\r")
        await it.answers("did you mean 'max_body'?")
        assert re.search(r"\| SET chat\.max_bdy = 5\r+\n +\| +\^{7}\r", it.since())
        it.type("SHUTDOWN\x03")  # Control-C: the line is dropped
        await it.answers("\n")
        it.type("set chat.max_bo\t")  # completed from the live state
        await it.shows("dy")
        it.type(" = 5\r")
        await it.answers("OK")
        assert pbal.world.service("chat")["max_body"] == 5
        it.type("help\r")
        await it.answers("this client's own")
        it.type("\x04")  # Control-D
        assert await it.ended() == 0
    kept = tmp_path / "pbal" / "console_history"
    assert kept.read_text().splitlines() == ["show pool app", "SET chat.max_bdy = 5", "set chat.max_body = 5", "help"]
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@lab
async def test_a_pbal_that_restarts_is_waited_for(lab: Lab, tmp_path: Path) -> None:
    port = free_port()
    pbal = await lab.pbal(CONF.format(port=port))
    async with terminal(tmp_path, str(port)) as it:
        await it.shows("pbal>")
        await pbal.close()
        it.type("show pool app\r")
        await it.shows("has closed the connection; connecting again")
        it.type("\x03")  # Control-C gives up waiting
        await it.answers("\n")
        it.type("show pool app\r")
        await it.shows("connecting again")
        again = await lab.pbal(CONF.format(port=port))
        await it.shows("connected again")
        await it.answers("127.0.0.1:1 ")
        it.type("watch show pool app .1\r")
        await it.shows("every 0.1 s")
        await again.say("POOL app ADD 127.0.0.1:2")
        await it.shows("127.0.0.1:2 ")
        await again.close()
        await it.shows("connecting again")
        await lab.pbal(CONF.format(port=port))
        await it.shows("connected again")
        it.type("q")
        await it.shows("pbal>")
        it.type("quit\r")
        assert await it.ended() == 0


@lab
async def test_views_that_go_on(lab: Lab, tmp_path: Path) -> None:
    poll = "SET plugins = poll\n      SET poll_uri = ^/poll/(?P<queue>[^/]+)$\n    ENABLE chat"
    pbal = await lab.pbal("LOAD poll" + CONF.replace("ENABLE chat", poll).format(port=0))
    _, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/lobby HTTP/1.1\r\nHost: c\r\n\r\n")
    await pbal.until("poll_parked", 1)
    async with terminal(tmp_path, address(pbal)) as it:
        await it.shows("pbal>")
        it.type("top 0.1\r")
        await it.shows("loop lag")
        await it.shows("parked                 1")
        assert re.search(r"127\.0\.0\.1:1 +UNTRIED", it.since()) and re.search(r"SERVICE +A SECOND +P50", it.since())
        it.type("\x03")
        await it.shows("pbal>")
        it.type("watch show parked limit 1\r")
        await it.shows("lobby")
        assert "every 2 s" in it.since(), "the number was the statement's own"
        it.type("q")
        await it.shows("pbal>")
        it.type("trace chat\r")
        await it.shows("Enter ends it")
        writer.write_eof()
        await it.shows("closed")
        it.type("\r")
        await it.answers("\n")
        it.type("trace chat\r")
        await it.shows("Enter ends it")
        it.type("\x03")
        await it.answers("\n")
        it.type("show pool app\r")
        await it.answers("127.0.0.1:1 ")
        it.type("watch trace chat\r")
        await it.answers("goes on by itself")
        it.type("watch nonsense\r")
        await it.answers("is not a statement")


@lab
async def test_a_long_answer_goes_through_the_pager(lab: Lab, tmp_path: Path) -> None:
    pbal = await lab.pbal(CONF.format(port=0))
    pager = f"{sys.executable} -c \"print('paged:', input().split()[0]); raise SystemExit\""
    async with terminal(tmp_path, address(pbal), rows=12, PAGER=pager) as it:
        await it.shows("pbal>")
        it.type("show counters\r")
        await it.answers("paged:")
        it.type("USE app\r")  # the pager ended early: what it did not read is in nobody's way
        await it.answers("OK")


@lab
async def test_without_prompt_toolkit_lines_still_work(lab: Lab, tmp_path: Path) -> None:
    pbal = await lab.pbal(CONF.format(port=0))
    (tmp_path / "prompt_toolkit.py").write_text("raise ImportError('not here')\n")
    async with terminal(tmp_path, address(pbal), PYTHONPATH=f"{tmp_path}:{ROOT}") as it:
        await it.shows("pip install prompt_toolkit")
        it.type("show pool app\n")
        await it.answers("127.0.0.1:1 ")
        it.type("exit\n")
        assert await it.ended() == 0


@lab
async def test_an_answer_that_comes_late_is_taken_for_no_other(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(CONF.format(port=0))
    console = Console(target.parsed(address(pbal)))
    await asyncio.to_thread(console.connect)
    assert console.completions("show po", 0.01) is None, "who is asked runs in this thread, and cannot answer"
    assert console.completions("show po", 0.01) is None, "one at a time"
    assert await asyncio.to_thread(list, console.ask("show pool app")) == ["127.0.0.1:1 0"]
    found = await asyncio.to_thread(console.completions, "show po", 10)
    assert found is not None and found["column"] == 6
    assert console.completions("show po", 0.01) is None
    monkeypatch.setattr(wire, "DRAIN_SECONDS", 0.01)
    with pytest.raises(Lost):
        console.drain()
    assert not console.is_open(), "what does not come is not waited for"
    await asyncio.to_thread(console.connect)
    assert await asyncio.to_thread(list, console.ask("show pool app")) == ["127.0.0.1:1 0"]
    await pbal.close()
    with pytest.raises(Lost):
        await asyncio.to_thread(list, console.ask("show pool app"))
    console.close()


SECRET = 's# $HOME "x'


@lab
async def test_a_console_that_asks_who_it_is(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(line_for("alice", SECRET) + "\n")
    (tmp_path / "users").chmod(0o600)
    (tmp_path / "password").write_text(SECRET + "\nno more of it\n")
    path = f"{tmp_path}/console.sock"
    access = f"SET password_file = {tmp_path}/users\n      SET readonly = on\n    ENABLE console"
    await lab.pbal(CONF.replace("127.0.0.1:{port}", f"unix:{path}").replace("ENABLE console", access))
    asks = f"pbal console: {path}: this console asks who you are: LOGIN USER PASSWORD\n"
    assert await script(path, "-e", "show pool app") == (2, "", asks)
    as_alice = ("--user", "alice", "--password-file", str(tmp_path / "password"))
    status, out, err = await script(path, *as_alice, "-e", "show pool app", "-e", "USE app")
    assert (status, out, err.partition(" (")[0]) == (1, "127.0.0.1:1 0\n", "ERROR: this console only looks")
    async with terminal(tmp_path, path) as it:
        await it.shows("user: ")
        it.type("alice\n")
        await it.shows("password of alice: ")
        it.type(SECRET + "\n")
        await it.answers("")
        assert SECRET not in it.shown
        it.type("show pool app\r")
        await it.answers("127.0.0.1:1 ")
        it.type("login bob\r")
        await it.shows("password of bob: ")
        it.type("guess\n")
        await it.answers("no such user, or not the password")
        it.type("nodes\r")  # as alice, as before
        await it.answers("127.0.0.1:1 ")
    status, _, err = await script("-c", str(lab.folder / "test1.conf"), "--user", "alice", "-e", "uptime", PBAL_CONSOLE_PASSWORD="wrong")
    assert status == 2 and err.startswith(f"pbal console: {path}: ")
    assert (tmp_path / "pbal" / "console_history").read_text().splitlines() == ["show pool app", "nodes"]


# -- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("16001", Address("127.0.0.1", 16001)),
        ("h:7", Address("h", 7)),
        ("h", Address("h", 16000)),
        ("[::1]:7", Address("::1", 7)),
        ("[::]", Address("::1", 16000)),
        ("0.0.0.0:7", Address("127.0.0.1", 7)),
        ("::1", Address("::1", 16000)),
        ("/run/pbal.sock", Address(path="/run/pbal.sock")),
        ("unix:pbal.sock", Address(path="pbal.sock")),
    ],
)
def test_where_a_console_is(text: str, address: Address) -> None:
    assert target.parsed(text) == address


@pytest.mark.parametrize("text", ["0", "65536", "h:", "h:x", "h:-1", "[::1", "[::1]7", "\u0663"])
def test_where_no_console_is(text: str) -> None:
    if text == "h:":
        assert target.parsed(text) == Address("h", 16000)
        return
    with pytest.raises(BadTarget, match="expected"):
        target.parsed(text)


def test_no_password_is_kept(tmp_path: Path) -> None:
    for line in ("LOGIN alice secret", "  login alice secret", "SET x.poll_secret = a", "SET password=x", " SET x = a", "", "\t"):
        assert not is_kept(line), line
    for line in ("show pool app", "SET mgmt.password_file = users", "logins", "help login"):
        assert is_kept(line), line
    history = History(tmp_path / "a" / "b")
    assert history.load() == []
    history.add("LOGIN alice secret")
    history.add("show pool app")
    assert history.load() == ["show pool app"]
    history.path.write_text("".join(f"line {number}\n" for number in range(2 * KEPT + 1)))
    assert history.load() == [f"line {number}" for number in range(KEPT + 1, 2 * KEPT + 1)]
    assert len(history.path.read_text().splitlines()) == KEPT, "and the file is cut"
    assert history.path.stat().st_mode & 0o777 == 0o600
    broken = History(tmp_path / "a" / "b" / "c" / "d")
    broken.add("line")
    assert broken.fault == "Not a directory"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\tb\u00e4", "a\tb\u00e4"), ("\x1b[2J", "\\x1b[2J"), ("a\rb\x07\x9b", "a\\x0db\\x07\\x9b"), ("\u202ex", "\\u202ex")],
)
def test_nothing_moves_the_cursor(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("rest", "command", "seconds"),
    [
        ("show pool", "show pool", 2.0), ("show pool 5", "show pool", 5.0), ("show pool  .5s ", "show pool", 0.5),
        ("uptime 0", "uptime", 0.1),
        ("5", "5", 2.0), ("", "", 2.0), ("show service 5x", "show service 5x", 2.0),
    ],
)  # fmt: skip
def test_how_often_is_watched(rest: str, command: str, seconds: float) -> None:
    assert watching.divided(rest.strip()) == (command, seconds)


def test_a_line_is_cut_at_the_width_and_its_attributes_take_no_room() -> None:
    assert watching.cut("abcdef", 3) == "abc"
    assert watching.cut("\x1b[31mabcdef\x1b[0m", 3) == "\x1b[31mabc\x1b[0m"


def _sample(at: float, requests: int, failures: int) -> Sample:
    nodes = [
        {"pool": "app", "node": "10.0.0.1:80", "state": "UP", "requests": requests, "active": 3, "errors": 0, "failures": 0, "why": None},
        {
            "pool": "app",
            "node": "10.0.0.2:80",
            "state": "UP",
            "requests": 1,
            "active": 0,
            "errors": 1,
            "failures": failures,
            "why": "reset",
        },
        {"pool": "app", "node": "10.0.0.3:80", "state": "DOWN", "requests": 0, "active": 0, "errors": 0, "failures": 1, "why": "refused"},
    ]
    counters = {"requests": requests, "poll_parked": 15002, "backend_errors": failures, "loop_lag_ms": 2, "bad_requests": 0}
    latency = [
        {"kind": "service", "name": "chat", "count": requests, "minute_p50": 1.5, "minute_p90": 20.0, "minute_p99": None},
        {"kind": "node", "pool": "app", "name": "10.0.0.1:80", "count": 1},
    ]
    limits = [
        {"what": "open files", "where": "", "value": 19000, "limit": 20000, "percent": 95.0, "then": "nothing can be opened"},
        {"what": "memory bytes", "where": "", "value": 1, "limit": 2, "percent": 50.0, "then": "the system ends the process"},
        {"what": "log lines", "where": "", "value": 1, "limit": None, "percent": None, "then": "lines are dropped"},
        {"what": "failures kept", "where": "", "value": 200, "limit": 200, "percent": 100.0, "then": "the oldest one goes"},
    ]
    errors = [
        {"at": 1e9, "status": 502, "method": "GET", "target": f"/{number}", "service": "chat", "node": "", "why": "\x1b[2J"}
        for number in (1, 2, 2, 2)
    ]
    answers = {"counters": counters, "nodes": nodes, "latency": latency, "limits": limits, "errors": errors}
    return Sample(at, {"uptime": {"uptime": 93784, "version": "9.9"}, **answers})


def painted(text: str, emphasis: str) -> str:
    return f"<{emphasis}>{text}" if emphasis else text


def test_top_shows_counters_that_exist() -> None:
    declared = {counter.name for counter in (*CORE_COUNTERS, *POLL_COUNTERS)}
    assert {name for _, name, _ in top.FIGURES} | set(top.BAD) <= declared


def test_top_shows_rates_levels_and_what_fails_first() -> None:
    first, second = _sample(10.0, 100, 0), _sample(12.0, 150, 4)
    lines = top.view(second, first, "at h:1", painted, 40)
    text = "\n".join(lines)
    assert lines[0] == "<1>pbal 9.9 at h:1, up 1 day 2 h"
    assert re.search(r"requests +25\.0/s +parked +15,002", text)
    assert re.search(r"<31>backend errors +2\.0 +4\n", text) and "bad requests" not in text
    nodes = [line.split() for line in lines if "10.0.0." in line]
    assert nodes == [
        ["<31>10.0.0.3:80", "DOWN", "0.0", "0", "1", "refused"],
        ["<31>10.0.0.2:80", "UP", "0.0", "0", "5", "reset"],
        ["10.0.0.1:80", "UP", "25.0", "3", "0"],
    ]
    assert ["chat", "25.0", "1.5", "ms", "20", "ms", "-"] in [line.split() for line in lines]
    assert [line for line in lines if "nothing can be opened" in line] == [
        "<31>open files: 19,000 of 20,000 (95.0 %), then nothing can be opened"
    ]
    assert "memory" not in text and "failures kept" not in text
    failures = [line.partition(" ")[2] for line in lines if " GET /" in line]
    assert failures == ["502 GET /2  chat  \\x1b[2J  (and 2 before)", "502 GET /1  chat  \\x1b[2J"]


def test_top_after_a_restart_and_with_nothing_to_show() -> None:
    assert "requests           0.0/s" in "\n".join(top.view(_sample(12.0, 5, 0), _sample(10.0, 100, 9), "", painted, 40))
    assert top.view(Sample(0.0, {"nodes": [1], "counters": [2]}), None, "", painted, 40)[0].startswith("<1>pbal")
    crowd = Sample(1.0, {**_sample(1.0, 1, 1).answers, "nodes": [{"node": f"n{number}"} for number in range(100)]})
    lines = top.view(crowd, None, "", painted, 24)
    assert len(lines) <= 24 and any(re.fullmatch(r"\.\.\. \d+ more", line) for line in lines) and any("chat" in line for line in lines)
    assert (top.span(59), top.span(3605), top.span(172800)) == ("59 s", "1 h 0 min", "2 days 0 h")
