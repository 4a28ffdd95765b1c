"""Who may use a console: its address, a Unix socket, LOGIN, readonly; and what the log says of changes."""

import asyncio
import errno
import grp
import logging
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority
from lab import DEADLINE, Lab, Pbal, free_port, lab, read_response, until
from process import ROOT

from pbal.commands.interpreter import Interpreter
from pbal.console.gate import Gate
from pbal.model import gate
from pbal.model.world import World
from pbal.schema.passwords import NOBODY, Hashed, line_for, read

QUICK = (16, 1, 1)
"""What scrypt costs here."""

CONF = """
    CREATE SERVICE mgmt
      SET role   = management
      SET listen = {listen}
      {more}
    ENABLE mgmt
"""


def conf(listen: str = "127.0.0.1:0", *more: str) -> str:
    return CONF.format(listen=listen, more="\n      ".join(more))


def passwords(lab: Lab, **users: str) -> str:
    """A file of passwords; the statement that names it."""
    path = lab.folder / "passwords"
    path.touch()
    path.chmod(0o644)
    path.write_text("# who may\n\n" + "".join(line_for(user, password, QUICK) + "\n" for user, password in users.items()))
    return f"SET password_file = {path}"


class Kept(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def logged() -> Iterator[list[str]]:
    kept = Kept()
    log = logging.getLogger("pbal")
    level = log.level
    log.addHandler(kept)
    log.setLevel(logging.INFO)
    yield kept.messages
    log.removeHandler(kept)
    log.setLevel(level)


class Console:
    """A console, one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, statement: str) -> str:
        """The first line of the answer; '' where the connection was closed."""
        self._writer.write(statement.encode("utf-8") + b"\n")
        return await self.line()

    async def line(self) -> str:
        async with asyncio.timeout(DEADLINE):
            return (await self._reader.readline()).decode().removesuffix("\r\n")


async def console(pbal: Pbal) -> Console:
    return Console(*await pbal.connect("mgmt"))


def mistakes(text: str, tmp_path: Path, **server: object) -> list[str]:
    """What is wrong with a file, in a process with these tunables of SERVER."""
    path = tmp_path / "test.conf"
    path.write_text(text)
    world = World()
    world.server.update(server)
    return [mistake.message for mistake in Interpreter(world).run_file(str(path))]


# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["16000", "0.0.0.0:16000", "[::]:16000", "192.0.2.1:16000", "console.example:16000"])
def test_a_console_open_to_the_world_is_refused(listen: str, tmp_path: Path) -> None:
    (said,) = mistakes(conf(listen), tmp_path)
    assert "is open to other machines" in said and "SET password_file" in said
    assert mistakes(conf(listen, "SET open = on"), tmp_path) == []
    assert mistakes(conf(listen), tmp_path, compatible="perlbal") == []
    (tmp_path / "passwords").write_text(line_for("amy", "secret", QUICK))
    assert mistakes(conf(listen, "SET password_file = passwords"), tmp_path) == []


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "localhost:1", "unix:run.sock"])
def test_loopback_and_a_unix_socket_need_no_password(listen: str, tmp_path: Path) -> None:
    assert mistakes(conf(listen), tmp_path) == []


@lab
async def test_what_keeps_strangers_out_cannot_be_taken_away_live(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    assert "open to other machines" in await pbal.say("SET mgmt.listen = 0.0.0.0:0")
    assert str(pbal.world.service("mgmt")["listen"]) == "127.0.0.1:0"
    assert await pbal.say("SET mgmt.open = on") == "OK"
    assert await pbal.say("SET mgmt.listen = 0.0.0.0:0") == "OK"
    for statement in ("SET mgmt.open = off", "UNSET mgmt.open"):
        assert "open to other machines" in await pbal.say(statement)
    assert pbal.world.service("mgmt")["open"]


@lab
async def test_risks_that_are_taken_are_logged(lab: Lab, logged: list[str]) -> None:
    pbal = await lab.pbal(conf("0.0.0.0:0", "SET open = on"))
    assert any("without a password: whoever reaches it controls this pbal" in message for message in logged)
    assert await pbal.say("SET mgmt.readonly = on") == "OK"
    assert any("without a password: whoever reaches it sees all that it tells" in message for message in logged)
    logged.clear()
    await lab.pbal(conf("0.0.0.0:0", passwords(lab, amy="x")))
    assert any("without TLS" in message for message in logged)
    assert sum("that every user of this machine can read" in message for message in logged) == 1
    (lab.folder / "passwords").chmod(0o640)
    logged.clear()
    await lab.pbal(conf("127.0.0.1:0", f"SET password_file = {lab.folder}/passwords"))
    await lab.pbal(conf())
    assert not any(message.startswith("console ") for message in logged)


# -- Unix sockets --------------------------------------------------------------------------------------------------


async def unix(path: Path) -> Console:
    return Console(*await asyncio.open_unix_connection(str(path)))


@lab
async def test_a_console_on_a_unix_socket(lab: Lab, logged: list[str]) -> None:
    path = lab.folder / "mgmt.sock"
    pbal = await lab.pbal(conf("unix:mgmt.sock", "SET socket_mode = 0600"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    there = await unix(path)
    assert await there.ask("CREATE POOL app") == "OK"
    assert any(message == f"uid {os.getuid()}, pid {os.getpid()}: CREATE POOL app" for message in logged), logged
    assert f"listening on unix:{path}" in await pbal.say("socks")
    assert f"open to uid {os.getuid()}, pid {os.getpid()}: localport=0" in await pbal.say("socks")
    assert await pbal.say(f"SET mgmt.listen = unix:{path}") == "OK", "where it listens already"
    assert await pbal.say("SET mgmt.socket_mode = 0666") == "OK"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    pbal.server._listeners["mgmt"].pause()
    assert path.exists(), "out of descriptors, it waits in the kernel"
    pbal.server._listeners["mgmt"].start()
    assert (await (await unix(path)).ask("show service")) == f"mgmt unix:{path} ENABLED"
    await pbal.close()
    assert not path.exists()


@lab
async def test_a_socket_that_nobody_listens_on_is_replaced_and_any_other_file_is_not(lab: Lab) -> None:
    path = lab.folder / "mgmt.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    first = await lab.pbal(conf(f"unix:{path}"))
    assert (await (await unix(path)).ask("show service")).startswith("mgmt unix:")
    other = await lab.pbal(conf())
    assert "Address already in use" in await other.say(f"SET mgmt.listen = unix:{path}")
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as waiting:
        stuck.bind(str(lab.folder / "stuck.sock"))
        stuck.listen(0)
        waiting.connect(str(lab.folder / "stuck.sock"))
        assert "Address already in use" in await other.say("SET mgmt.listen = unix:stuck.sock"), (
            "its queue is full, and nobody waits for it"
        )
    (lab.folder / "file").write_text("precious")
    assert "a file that is no socket" in await other.say("SET mgmt.listen = unix:file")
    assert (lab.folder / "file").read_text() == "precious"
    path.unlink()
    assert await other.say(f"SET mgmt.listen = unix:{path}") == "OK"
    await first.close()
    assert path.exists(), "it is the other one's"
    assert (await (await unix(path)).ask("show service")).startswith("mgmt unix:")
    assert await other.say("SET mgmt.listen = 127.0.0.1:0") == "OK"
    assert not path.exists()


def refused(*_: object) -> None:
    """What the system says to who may not change a file."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@lab
async def test_a_socket_that_cannot_be_given_to_its_group_does_not_stay(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(conf("127.0.0.1:0", f"SET socket_group = {grp.getgrgid(os.getgid()).gr_name}"))
    monkeypatch.setattr(os, "chown", refused)
    assert "Operation not permitted" in await pbal.say("SET mgmt.listen = unix:mgmt.sock")
    assert not (lab.folder / "mgmt.sock").exists()
    assert await pbal.say("show service mgmt") and pbal.server.address("mgmt")[0] == "127.0.0.1"


@lab
async def test_what_the_system_refuses_a_socket_is_refused_at_the_console(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing has changed: neither the file, nor what dumpconfig prints, nor the same statement when it can be carried out."""
    path = lab.folder / "mgmt.sock"
    pbal = await lab.pbal(conf("unix:mgmt.sock"))
    before = await pbal.say("dumpconfig")
    chown, chmod = os.chown, os.chmod
    monkeypatch.setattr(os, "chown", refused)
    for statement in (f"SET mgmt.socket_group = {grp.getgrgid(os.getgid()).gr_name}", "SET mgmt.socket_mode = 0600"):
        monkeypatch.setattr(os, "chmod", refused if "mode" in statement else chmod)
        said = await pbal.say(statement)
        assert f"the system refuses it for unix:{path}: Operation not permitted" in said, said
        assert await pbal.say("dumpconfig") == before and stat.S_IMODE(path.stat().st_mode) == 0o660
    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "chmod", chmod)
    assert await pbal.say("SET mgmt.socket_mode = 0600") == "OK"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and pbal.counts["tick_errors"] == 0
    path.unlink()
    for statement in ("SET mgmt.socket_mode = 0666", "SET mgmt.client_keepalive = 20s"):
        said = await pbal.say(statement)
        assert f"the file of unix:{path} is gone, and nobody reaches it: DISABLE mgmt, then ENABLE it" in said, said
    assert (await pbal.say("dumpconfig")).count("socket_mode = 0600") == 1


@lab
async def test_a_group_may_use_it(lab: Lab) -> None:
    groups = [*os.getgroups(), os.getgid()]
    await lab.pbal(conf("unix:mgmt.sock"))
    assert stat.S_IMODE((lab.folder / "mgmt.sock").stat().st_mode) == 0o660
    import grp

    name = grp.getgrgid(groups[0]).gr_name
    await lab.pbal(conf("unix:other.sock", f"SET socket_group = {name}"))
    assert (lab.folder / "other.sock").stat().st_gid == groups[0]


@lab
async def test_a_name_is_looked_up_when_the_service_begins_to_listen(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"console.example": "127.0.0.1", "localhost": "127.0.0.1"}
    where: list[str] = []

    def getaddrinfo(host: str, *args: object, **more: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        where.append(threading.current_thread().name)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET6, 1, 6, "", ("::1", 0)), (socket.AF_INET, 1, 6, "", (known[host], 0))]

    pbal = await lab.pbal(conf("localhost:0"))
    assert pbal.server.address("mgmt")[0] == "127.0.0.1"
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for statement in ("CREATE SERVICE b", "SET role = management", "SET listen = console.example:0", "SET open = on", "ENABLE b"):
        assert await pbal.say(statement) == "OK"
    assert pbal.server.address("b")[0] == "127.0.0.1"
    port = free_port()
    assert await pbal.say(f"SET b.listen = localhost:{port}") == "OK"
    assert pbal.server.address("b") == ("127.0.0.1", port)
    assert await pbal.say(f"SET b.listen = localhost:{port}") == "OK", "where it listens already"
    assert "cannot find the address of nowhere.example: Name or service not known" in await pbal.say("SET b.listen = nowhere.example:1")
    assert str(pbal.world.service("b")["listen"]) == f"localhost:{port}"
    assert threading.main_thread().name not in where, "never on the loop"
    assert pbal.server._found == {}


SITE = """
    CREATE POOL app
      POOL app ADD {node}
    CREATE SERVICE site
      SET role   = reverse_proxy
      SET listen = unix:site.sock
      SET pool   = app
    ENABLE site
    CREATE SERVICE behind
      SET role    = web_server
      SET listen  = unix:behind.sock
      SET docroot = .
    ENABLE behind
"""


@lab
async def test_a_proxy_and_its_node_on_unix_sockets(lab: Lab) -> None:
    (lab.folder / "page.html").write_text("from behind")
    pbal = await lab.pbal(SITE.format(node="unix:behind.sock"))
    for request in (b"GET /page.html HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /page.html HTTP/1.0\r\n\r\n"):
        reader, writer = await asyncio.open_unix_connection(str(lab.folder / "site.sock"))
        writer.write(request)
        response = await read_response(reader)
        assert (response.status, response.body) == (200, b"from behind")
        writer.close()
    assert f"unix:{lab.folder}/behind.sock 2" in await pbal.say("show pool app")
    dumped = await pbal.say("dumpconfig")
    assert f"POOL app ADD unix:{lab.folder}/behind.sock" in dumped and f"SET listen = unix:{lab.folder}/site.sock" in dumped


# -- passwords -----------------------------------------------------------------------------------------------------


@lab
async def test_nothing_is_carried_out_before_login(lab: Lab, logged: list[str]) -> None:
    pbal = await lab.pbal(conf("127.0.0.1:0", passwords(lab, amy="a $HOME # of 'her' own", bob="x")))
    there = await console(pbal)
    for statement in ("show service", "help", "CREATE POOL app", "SHUTDOWN", "nonsense"):
        assert await there.ask(statement) == "ERROR: this console asks who you are: LOGIN USER PASSWORD"
    assert pbal.world.pools == {} and pbal.counts["console_commands"] == 0
    assert await there.ask("LOGIN amy") == "ERROR: usage: LOGIN USER PASSWORD"
    assert await there.ask("login amy a $HOME # of 'her' own  ") == "OK"
    assert await there.ask("CREATE POOL app") == "OK"
    assert any(message.startswith("amy at 127.0.0.1:") and message.endswith(": CREATE POOL app") for message in logged)
    assert not any("her" in message for message in logged)
    other = await console(pbal)
    assert await other.ask("quit") == "", "it can always be left"


@lab
async def test_three_wrong_passwords_close_the_connection_and_the_address_has_to_wait(lab: Lab, logged: list[str]) -> None:
    pbal = await lab.pbal(conf("127.0.0.1:0", passwords(lab, amy="secret")))
    there = await console(pbal)
    assert await there.ask("LOGIN amy wrong") == "ERROR: no such user, or not the password"
    assert await there.ask("LOGIN amy secret") == "ERROR: a wrong password came from here: wait 1 s", "not even looked at"
    assert (await there.ask("LOGIN amy secret")).startswith("ERROR: a wrong password came from here")
    assert await there.line() == ""
    assert pbal.counts["console_login_failures"] == 1
    assert sum("wrong password" in message for message in logged) == 1 and not any("secret" in message for message in logged)


@lab
async def test_the_pause_grows_and_a_right_password_ends_it(lab: Lab) -> None:
    pbal = await lab.pbal(conf("127.0.0.1:0", passwords(lab, amy="secret")))
    door = Gate(pbal.world.service("mgmt"))
    waits = []
    for _ in range(8):
        with pytest.raises(gate.Denied, match="no such user"):
            await door.check("192.0.2.1", "amy", "guess")
        with pytest.raises(gate.Denied) as denied:
            await door.check("192.0.2.1", "amy", "secret")
        waits.append(denied.value.wait)
        failures, last = door._pauses["192.0.2.1"]
        door._pauses["192.0.2.1"] = failures, last - waits[-1]  # so long ago
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    await door.check("192.0.2.1", "amy", "secret")
    assert not door._pauses
    await door.check("192.0.2.2", "amy", "secret")


@lab
async def test_many_guesses_at_once_are_one_guess(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []
    matches = Hashed.matches

    def counted(self: Hashed, password: bytes) -> bool:
        looked.append(password)
        return matches(self, password)

    monkeypatch.setattr(Hashed, "matches", counted)
    pbal = await lab.pbal(conf("127.0.0.1:0", passwords(lab, amy="secret")))
    door = Gate(pbal.world.service("mgmt"))

    async def guess(number: int, user: str, password: str) -> str:
        try:
            await door.check("192.0.2.1", user, f"{password}{number or ''}")
        except gate.Denied as denied:
            return denied.reason
        return "in"

    said = await asyncio.gather(*(guess(number, "amy", "guess") for number in range(1, 40)))
    assert len(looked) == 1
    assert sum("too many" in each for each in said) == 39 - gate.Passwords.most_waiting == pbal.counts["console_logins_busy"]
    door._pauses.clear()
    assert await asyncio.gather(*(guess(0, "amy", "secret") for _ in range(9))) == ["in"] * 9
    assert len(looked) == 2, "a right one is known again"
    for number in range(gate.MOST_ADDRESSES + 5):
        door._failed(f"address {number}", "x")
    assert len(door._pauses) == gate.MOST_ADDRESSES


@lab
async def test_a_user_that_is_not_there_costs_what_one_that_is_does(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Hashed] = []

    def noted(self: Hashed, password: bytes) -> bool:
        compared.append(self)
        return True

    monkeypatch.setattr(Hashed, "matches", noted)
    pbal = await lab.pbal(conf("127.0.0.1:0", passwords(lab, amy="secret")))
    with pytest.raises(gate.Denied):
        await Gate(pbal.world.service("mgmt")).check("192.0.2.1", "nobody", "")
    assert compared == [NOBODY]


@lab
async def test_a_file_that_is_written_is_read_and_one_that_is_spoilt_is_not(lab: Lab, logged: list[str]) -> None:
    pbal = await lab.pbal(conf("127.0.0.1:0", passwords(lab, amy="secret")))
    assert await (await console(pbal)).ask("LOGIN amy secret") == "OK"
    path = lab.folder / "passwords"
    path.write_text(line_for("bob", "other", QUICK))
    assert await (await console(pbal)).ask("LOGIN bob other") == "OK"
    assert (await (await console(pbal)).ask("LOGIN amy secret")).startswith("ERROR: no such user")
    pbal.world.service("mgmt").handler._gate._pauses.clear()  # type: ignore[union-attr]
    path.write_text("bob:other\n")
    assert await (await console(pbal)).ask("LOGIN bob other") == "OK"
    assert any("the users read before stay" in message and "other" not in message for message in logged)


@lab
async def test_strangers_are_few_and_who_is_known_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbal.console.gate.MOST_STRANGERS", 2)
    pbal = await lab.pbal(conf("127.0.0.1:0", passwords(lab, amy="secret")))
    known = await console(pbal)
    assert await known.ask("LOGIN amy secret") == "OK"
    oldest = await console(pbal)
    assert (await oldest.ask("uptime")).startswith("ERROR: this console asks who you are")
    reader, writer = await pbal.connect("mgmt")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await read_response(reader)).status == 200
    last = await console(pbal)
    assert (await last.ask("uptime")).startswith("ERROR: this console asks who you are")
    assert await oldest.line() == "" and pbal.counts["console_strangers_closed"] == 1
    for _ in range(4):
        reader, _ = await pbal.connect("mgmt")
    await pbal.until("console_strangers_closed", 5)
    assert (await known.ask("show service")).startswith("mgmt ")
    writer.close()
    assert len(pbal.world.clients) == 3


@lab
async def test_who_says_nothing_is_closed_after_a_minute_and_keeps_few_lines(lab: Lab) -> None:
    pbal = await lab.pbal(conf("127.0.0.1:0", passwords(lab, amy="secret")))
    reader, writer = await pbal.connect("mgmt")
    (client,) = await until(lambda: set(pbal.world.clients), "the connection")
    assert client.deadline <= pbal.world.clock.now() + 60
    assert client._most_waiting == 4
    writer.write(b"LOGIN amy secret\n")
    assert await reader.readline() == b"OK\r\n"
    assert client.deadline == float("inf") and client._most_waiting == 1000
    there = await console(pbal)
    (other,) = await until(lambda: set(pbal.world.clients) - {client}, "the other")
    other.deadline = 0.0
    pbal.server.ticks.now()
    assert await there.line() == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no user in it"),
        ("amy:secret\n", "line 1: expected user:scrypt$..."),
        ("amy secret\n", "line 1: expected"),
        ("# x\namy:scrypt$15$1$1$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", "line 2: expected"),
        ("amy:scrypt$1048576$64$1$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", "line 1: expected"),
        ("{good}\n{good}\n", "'amy' has a line already"),
    ],
)
def test_a_file_of_passwords_that_is_none(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text(text.replace("{good}", line_for("amy", "secret", QUICK)))
    (said,) = mistakes(conf("127.0.0.1:0", f"SET password_file = {path}"), tmp_path)
    assert says in said and "secret" not in said


def test_pbal_password_prints_a_line(tmp_path: Path) -> None:
    def run(user: str, said: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, "-m", "pbal", "password", user], input=said, capture_output=True, text=True, cwd=ROOT)

    made = run("amy", "it's a secret\n")
    (tmp_path / "passwords").write_text(made.stdout + run("bob", "of Windows\r\n").stdout)
    users = read(tmp_path / "passwords")
    assert users["amy"].matches(b"it's a secret") and not users["amy"].matches(b"it's a secret\n")
    assert users["bob"].matches(b"of Windows")
    refused = run("a:b", "x\n")
    assert refused.returncode == 1 and refused.stderr.startswith("pbal: expected a user of letters") and not refused.stdout


# -- TLS, readonly, the log ----------------------------------------------------------------------------------------


@lab
async def test_a_console_speaks_tls(lab: Lab, logged: list[str]) -> None:
    made = Authority(lab.folder).certify("console.example")
    pbal = await lab.pbal(
        conf(
            "127.0.0.1:0", passwords(lab, amy="secret"), "SET enable_ssl = on", f"SET ssl_cert_file = {made.file}",
            f"SET ssl_key_file = {made.key_file}",
        )
    )  # fmt: skip
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = pbal.server.address("mgmt")
    there = Console(*await asyncio.open_connection(host, port, ssl=context))
    assert await there.ask("show service") == "ERROR: this console asks who you are: LOGIN USER PASSWORD"
    assert await there.ask("LOGIN amy secret") == "OK"
    assert await there.ask("CREATE POOL app") == "OK"
    assert any(message.startswith("amy at 127.0.0.1:") for message in logged)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert ((await read_response(reader)).body, (await read_response(reader)).status) == (b"ok\n", 401)


@lab
async def test_a_console_that_only_looks(lab: Lab) -> None:
    pbal = await lab.pbal(conf("127.0.0.1:0", "SET readonly = on"))
    for statement in ("CREATE POOL app", "SET mgmt.readonly = off", "SHUTDOWN", "LOAD poll", "SERVER max_connections = 1000"):
        assert await (await console(pbal)).ask(statement) == "ERROR: this console only looks (SET mgmt readonly = on)"
    there = await console(pbal)
    assert await there.ask("VERBOSE on") == "OK"
    assert (await there.ask("help pool add")).startswith("POOL")
    assert await (await console(pbal)).ask("uptime") != ""
    for statement in ("help $HOME", "explain GET http://a/${env:HOME}", "show errors LIKE ${file:/etc/passwd}", "show pool ${HOME}"):
        refused = await (await console(pbal)).ask(statement)
        assert refused == "ERROR: this console only looks (SET mgmt readonly = on): no variable may stand here"
    assert await (await console(pbal)).ask("show errors LIKE 9$$") == "."
    assert pbal.world.pools == {} and pbal.world.plugins == {}
    assert await pbal.say("SET mgmt.readonly = off") == "OK", "from elsewhere"
    assert await (await console(pbal)).ask("CREATE POOL app") == "OK"


@lab
async def test_what_another_console_dropped_is_current_no_more(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    one, other = await console(pbal), await console(pbal)
    for made in ("SERVICE site", "POOL site"):
        assert await one.ask(f"CREATE {made}") == "OK"
        assert await other.ask(f"DROP {made}") == "OK"
        assert (await one.ask("SET idle_timeout = 5s")).startswith("ERROR: omitted ")
        assert await other.ask(f"CREATE {made}") == "OK"
        assert (await one.ask("SET idle_timeout = 5s")).startswith("ERROR: omitted "), "another of that name"
        assert await other.ask(f"DROP {made}") == "OK"


@lab
async def test_every_change_is_logged_and_nothing_else(lab: Lab, logged: list[str]) -> None:
    pbal = await lab.pbal(conf())
    there = await console(pbal)
    for statement in (
        "show pool",
        "SET mgmt.nonsense = 1",
        "VERBOSE on",
        "  create   pool  app",
        "POOL app ADD 127.0.0.1:$$1",
        "USE app",
        "PROF maybe",
        "fd",
    ):
        await there.ask(statement)
    changes = [message for message in logged if message.startswith("127.0.0.1:")]
    assert [message.partition(": ")[2] for message in changes] == ["create   pool  app"]
