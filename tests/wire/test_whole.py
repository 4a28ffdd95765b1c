"""Every statement is carried out whole or not at all, and one at a time, whichever console it came from."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from lab import DEADLINE, Lab, Pbal, free_port, lab, until
from polls import conf
from sites import CONSOLE

from pbal.api import ManualClock
from pbal.commands.interpreter import Interpreter
from pbal.console import connection
from pbal.model.errors import ConfigError
from pbal.model.snapshot import snapshot
from pbal.model.world import World


class Console:
    """A console of one's own: a statement, the lines of its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, statement: str) -> None:
        """Type a line."""
        self._writer.write(statement.encode() + b"\n")

    async def answer(self) -> list[str]:
        """The lines up to the one that ends the answer."""
        lines: list[str] = []
        async with asyncio.timeout(DEADLINE):
            while not lines or not (lines[-1] in (".", "OK") or lines[0].startswith("ERROR: ")):
                lines.append((await self._reader.readuntil(b"\r\n")).decode().removesuffix("\r\n"))
        return lines

    async def ask(self, statement: str) -> list[str]:
        """Type a line and read its answer."""
        self.send(statement)
        return await self.answer()


async def console(pbal: Pbal) -> Console:
    """Open one."""
    return Console(*await pbal.connect("console"))


def plugin(folder: Path, name: str, body: str = "", before: str = "") -> None:
    """Write a plugin that has one statement, `NAME SAY`, and a tunable called like itself."""
    (folder / f"{name}.py").write_text(f'''{before}
from pbal.api import OK, TEXT, Exchange, Plugin, Reply, Tunable, Verdict, hook

def {name}_say(session) -> Reply:
    """Say it."""
    return OK

class It(Plugin):
    tunables = (Tunable("{name}", TEXT, default="none"),)
    commands = ({name}_say,)
    grammar = "%extend statement: {name}_say\\n{name}_say: \\"{name.upper()}\\"i \\"SAY\\"i\\n"
{body or "    pass"}
''')


# -- one at a time -------------------------------------------------------------------------------------------------


@lab
async def test_two_consoles_that_load_at_once_both_have_their_statements(lab: Lab) -> None:
    for name in ("one", "two", "three"):
        plugin(lab.folder, name)
    pbal = await lab.pbal(f"SERVER plugin_path = {lab.folder}\n{CONSOLE}")
    consoles = [await console(pbal) for _ in range(3)]
    for each, name in zip(consoles, ("one", "two", "three"), strict=True):
        each.send(f"LOAD {name}")
    assert [await each.answer() for each in consoles] == [["OK"]] * 3
    for each in consoles:
        assert [await each.ask(f"{name} say") for name in ("one", "two", "three")] == [["OK"]] * 3
        assert {"ONE SAY", "TWO SAY", "THREE SAY"} <= set(await each.ask("help"))


@lab
async def test_what_comes_while_a_load_waits_is_carried_out_after_it_and_queries_at_once(lab: Lab) -> None:
    gate = lab.folder / "gate"
    os.mkfifo(gate)
    plugin(lab.folder, "slow", before=f"open({str(gate)!r}).read()")
    pbal = await lab.pbal(f"SERVER plugin_path = {lab.folder}\nCREATE POOL app\n{CONSOLE}")
    loading, other, third = [await console(pbal) for _ in range(3)]
    loading.send("LOAD slow")
    await until(lambda: pbal.counts["console_commands"] == 1, "the LOAD to begin")
    other.send("POOL app ADD 10.0.0.1")
    await until(lambda: pbal.counts["console_commands"] == 2, "the other statement to be read")
    assert await third.ask("show pool app") == ["."], "a query does not wait, and the other statement does"
    assert (await third.ask("help pool add"))[-1] == "."
    gate.open("w").close()
    assert await loading.answer() == ["OK"]
    assert await other.answer() == ["OK"]
    assert await third.ask("show pool app") == ["10.0.0.1:80 0", "."]
    assert await third.ask("slow say") == ["OK"]


@lab
async def test_services_come_and_go_while_a_reload_waits(lab: Lab) -> None:
    plugin(lab.folder, "rests", "    async def quiesce(self):\n        await self.world.rested.wait()\n")
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD rests
        CREATE SERVICE a
          SET role    = web_server
          SET plugins = rests
        CREATE SERVICE b
          SET role    = web_server
          SET plugins = rests
        {CONSOLE}
    """)
    pbal.world.rested = asyncio.Event()  # type: ignore[attr-defined]
    one, two = await console(pbal), await console(pbal)
    one.send("RELOAD rests")
    await until(lambda: pbal.counts["console_commands"] == 1, "the RELOAD to begin")
    for number in range(5):
        two.send(f"CREATE SERVICE c{number}")
    two.send("SET role = web_server")
    two.send("SET plugins = rests")
    await until(lambda: pbal.counts["console_commands"] == 2, "the others to be read")
    assert "c0" not in pbal.world.services
    pbal.world.rested.set()  # type: ignore[attr-defined]
    assert await one.answer() == ["OK"]
    assert [await two.answer() for _ in range(7)] == [["OK"]] * 7
    generations = {type(pbal.plugin(name, "rests")).__module__ for name in ("a", "b", "c4")}
    assert len(generations) == 1 and pbal.world.plugins["rests"].generation == 2


@lab
async def test_dumpconfig_is_of_one_moment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PIECE", 1)
    pbal = await lab.pbal("".join(f"CREATE POOL p{number}\n" for number in range(50)) + CONSOLE)
    one, two = await console(pbal), await console(pbal)
    before = snapshot(pbal.world)
    one.send("dumpconfig")
    await until(lambda: pbal.counts["console_commands"] == 1, "it to begin")
    for number in range(50):
        two.send(f"CREATE SERVICE late{number}")
    dumped = await one.answer()
    assert [await two.answer() for _ in range(50)] == [["OK"]] * 50
    assert snapshot((await lab.pbal("\n".join(dumped[:-1]))).world) == before


@lab
async def test_an_end_does_not_wait_for_a_load(lab: Lab) -> None:
    gate = lab.folder / "gate"
    os.mkfifo(gate)
    plugin(lab.folder, "slow", before=f"open({str(gate)!r}).read()")
    pbal = await lab.pbal(f"SERVER plugin_path = {lab.folder}\n{CONSOLE}")
    loading, other = await console(pbal), await console(pbal)
    loading.send("LOAD slow")
    await until(lambda: pbal.counts["console_commands"] == 1, "the LOAD to begin")
    assert await other.ask("SHUTDOWN GRACEFUL") == ["OK"]
    gate.open("w").close()
    await loading.answer()


# -- whole or not at all -------------------------------------------------------------------------------------------

OWN = """
    SERVER plugin_path = {folder}
    LOAD {plugins}
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
    ENABLE site
"""
GET = b"GET / HTTP/1.1\r\nHost: c\r\n\r\n"
LOGGING = """
    log = []
    def open(self):
        self.log.append("open")
    def close(self):
        self.log.append("close")
    def changed(self, tunable):
        self.log.append(f"changed {tunable} {self.service[tunable]}")
"""


def first_class(pbal: Pbal, name: str) -> Any:
    """The class of a plugin that is loaded."""
    return pbal.world.plugins[name].plugin_class


@lab
async def test_a_chain_that_a_check_refuses_is_the_old_one_in_every_respect(lab: Lab) -> None:
    saying = "    @hook.start_http_request\n    def say(self, exchange):\n        exchange.respond(200, (), b'a')\n"
    plugin(lab.folder, "a", LOGGING + saying + "        return Verdict.TAKEN\n")
    plugin(
        lab.folder, "b", LOGGING + "    def check(self):\n        from pbal.api import ConfigError\n        raise ConfigError('not b')\n"
    )
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="a\nLOAD b"))
    assert await pbal.say("SET site.plugins = a") == "OK"
    before = snapshot(pbal.world)
    answer = await pbal.say("SET site.plugins = a b")
    assert answer.startswith("ERROR: not b")
    assert snapshot(pbal.world) == before
    assert pbal.world.service("site")["plugins"] == ("a",)
    assert (await pbal.ask("site", GET)).body == b"a"
    assert first_class(pbal, "a").log == ["open", "changed plugins ('a',)"] and first_class(pbal, "b").log == []


@lab
async def test_a_plugin_that_refuses_a_value_late_leaves_the_others_with_the_old_one(lab: Lab) -> None:
    plugin(lab.folder, "a", LOGGING)
    refusing = "    def changed(self, tunable):\n        if self.service[tunable] == 'bad':\n            raise RuntimeError('oh')\n"
    plugin(lab.folder, "b", refusing)
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="a\nLOAD b"))
    assert await pbal.say("SET site.plugins = a b") == "OK"
    assert await pbal.say("SET site.a = good") == "OK"
    assert "RuntimeError: oh" in await pbal.say("SET site.a = bad")
    assert first_class(pbal, "a").log[-3:] == ["changed a good", "changed a bad", "changed a good"]
    assert "SET a = good" in await pbal.say("dumpconfig")


@lab
async def test_enable_on_a_port_that_is_taken_opens_nothing(lab: Lab) -> None:
    plugin(lab.folder, "a", LOGGING)
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="a") + CONSOLE)
    taken = "{}:{}".format(*pbal.server.address("site"))
    for statement in ("CREATE SERVICE two", "SET role = web_server", f"SET listen = {taken}", "SET plugins = a"):
        assert await pbal.say(statement) == "OK"
    before = snapshot(pbal.world)
    assert "in use" in await pbal.say("ENABLE two")
    assert snapshot(pbal.world) == before and first_class(pbal, "a").log == []
    assert not pbal.world.service("two").opened
    assert await pbal.say("SET two.listen = 127.0.0.1:0") == "OK"
    assert await pbal.say("ENABLE two") == "OK"
    assert first_class(pbal, "a").log == ["open"]
    address = pbal.server.address("two")
    assert "in use" in await pbal.say(f"SET two.listen = {taken}")
    assert pbal.server.address("two") == address and (await pbal.ask("two", GET)).status == 404


@lab
async def test_a_reload_that_drops_a_tunable_is_refused_with_who_needs_it(lab: Lab) -> None:
    plugin(lab.folder, "own")
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="own"))
    for statement in ("SET site.own = x", "DEFAULT own = y", "CREATE SERVICE two", "SET role = web_server"):
        assert await pbal.say(statement) == "OK"
    path = lab.folder / "own.py"
    path.write_text(path.read_text().replace('Tunable("own"', 'Tunable("own_new"'))
    before = snapshot(pbal.world)
    for needs, then in (("SET site.own, DEFAULT own", "UNSET site.own"), ("DEFAULT own", "UNSET DEFAULT own")):
        assert f"there is no tunable 'own' any more, and it is said by {needs}: UNSET it first" in await pbal.say("RELOAD own")
        assert f"plugin 'own' is needed by {needs}: UNSET it first" in await pbal.say("UNLOAD own")
        assert snapshot(pbal.world) == before
        assert await pbal.say(then) == "OK"
        before = snapshot(pbal.world)
    assert await pbal.say("RELOAD own") == "OK"
    dumped = await pbal.say("dumpconfig")
    assert "own =" not in dumped and "LOAD own" in dumped
    assert "is not a tunable" in await pbal.say("SET site.own = x")


@lab
async def test_a_reload_that_would_refuse_what_was_said_is_refused(lab: Lab) -> None:
    plugin(lab.folder, "own")
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="own"))
    path, good = lab.folder / "own.py", (lab.folder / "own.py").read_text()
    assert await pbal.say("SET site.own = x") == "OK"
    assert await pbal.say("SET site.plugins = own") == "OK"
    before = snapshot(pbal.world)
    path.write_text(good.replace("TEXT, default", "INT, default").replace("none", "1").replace("import OK,", "import INT, OK,"))
    assert "SET site.own = x: expected a whole number" in await pbal.say("RELOAD own")
    path.write_text(good.replace('default="none"', 'default="none", roles=frozenset({"selector"})'))
    assert "'own' is set on site, a web_server" in await pbal.say("RELOAD own")
    assert snapshot(pbal.world) == before and pbal.world.service("site")["own"] == "x"


@lab
async def test_unload_waits_for_defaults_to_go_and_reload_does_not_reach_back(lab: Lab) -> None:
    plugin(lab.folder, "own")
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="own"))
    for statement in ("DEFAULT own = later", "DEFAULT idle_timeout = 7s", "RELOAD own", "CREATE SERVICE two", "SET role = web_server"):
        assert await pbal.say(statement) == "OK"
    assert [pbal.world.service(name)["own"] for name in ("site", "two")] == ["none", "later"]
    assert "plugin 'own' is needed by DEFAULT own: UNSET it first" in await pbal.say("UNLOAD own")
    assert await pbal.say("UNSET DEFAULT own") == await pbal.say("UNLOAD own") == "OK"
    assert "own =" not in await pbal.say("dumpconfig")


@lab
async def test_who_may_publish_is_not_changed_by_a_reload(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    publish = b"POST /publish/a HTTP/1.1\r\nHost: c\r\nContent-Length: 1\r\n\r\nx"
    for statement in ("DEFAULT poll_publish_from = 10.0.0.0/8", "RELOAD poll"):
        assert await pbal.say(statement) == "OK"
        assert (await pbal.ask("chat", publish)).status == 202


@lab
async def test_a_service_that_is_not_open_is_reloaded_as_well_and_looked_at(lab: Lab) -> None:
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="poll\nLOAD vhosts"))
    for statement in (
        "CREATE SERVICE chat", "SET role = web_server", "SET plugins = poll",
        "CREATE SERVICE front", "SET role = selector", "SET plugins = vhosts", "SET listen = 127.0.0.1:0", "VHOST * = site",
    ):  # fmt: skip
        assert await pbal.say(statement) == "OK"
    assert await pbal.say("show parked") == "." == await pbal.say("show store")
    for statement in ("RELOAD poll", "RELOAD vhosts", "SET chat.poll_uri = ^/(?P<queue>.+)$", "ENABLE chat", "ENABLE front"):
        assert await pbal.say(statement) == "OK"
    assert "VHOST * = site" in await pbal.say("dumpconfig")
    assert (await pbal.ask("front", GET)).status == 404
    assert "chat memory" in await pbal.say("show store")


SELECTING = """
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 127.0.0.1:0
      {more}
    ENABLE front
"""


@lab
async def test_a_service_made_on_the_console_answers_for_a_selector_until_it_is_disabled(lab: Lab) -> None:
    (lab.folder / "x").write_text("here")
    pbal = await lab.pbal("\n    LOAD vhosts" + SELECTING.format(more="SET plugins = vhosts"))
    for statement in ("CREATE SERVICE site", "VHOST front c = site"):
        assert await pbal.say(statement) == "OK"
    get = b"GET /x HTTP/1.1\r\nHost: c\r\n\r\n"
    assert (await pbal.ask("front", get)).status == 500, "it has no role yet"
    for statement in ("SET site.role = web_server", f"SET site.docroot = {lab.folder}"):
        assert await pbal.say(statement) == "OK"
    for statement, status in (("", 200), ("DISABLE site", 503), ("ENABLE site", 200), ("DISABLE site", 503)):
        assert await pbal.say(statement) in ("", "OK")
        assert (await pbal.ask("front", get)).status == status
    assert "DISABLE site" in await pbal.say("dumpconfig")
    other = await lab.pbal(await pbal.say("dumpconfig"))
    assert (await other.ask("front", get)).status == 503


@lab
async def test_what_is_not_complete_does_not_keep_the_rest_from_starting(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await lab.pbal("""
        LOAD poll
        CREATE SERVICE half
          SET role    = web_server
          SET plugins = poll
          SET poll_uri  = ^/poll/(?P<queue>.+)$
          SET poll_auth = jwt /nowhere
        CREATE SERVICE off
          SET role    = web_server
          SET plugins = poll
          SET poll_uri  = ^/poll/(?P<queue>.+)$
          SET poll_auth = jwt /nowhere
        DISABLE off
    """ + SELECTING.format(more="SET default_service = half"))  # fmt: skip
    assert "service half cannot answer for a selector: " in caplog.text and "service off" not in caplog.text
    assert (await pbal.ask("front", GET)).status == 500
    assert await pbal.say("SET half.poll_auth = off") == "OK"
    assert (await pbal.ask("front", GET)).status == 404


def test_what_is_set_after_enable_is_checked_as_well(tmp_path: Path) -> None:
    path = tmp_path / "test.conf"
    path.write_text(
        "LOAD poll\nCREATE SERVICE a\nSET role = web_server\nSET plugins = poll\n"
        "SET poll_uri = ^/(?P<queue>.+)$\nENABLE a\nSET poll_auth = jwt /nowhere\n"
        "CREATE SERVICE b\nSET role = web_server\nSET listen = 127.0.0.1:81\nENABLE b\n"
        "CREATE SERVICE c\nSET role = web_server\nENABLE c\nSET listen = 127.0.0.1:81\n"
    )
    mistakes = sorted(Interpreter(World()).run_file(str(path)), key=lambda mistake: mistake.line)
    assert [mistake.line for mistake in mistakes] == [6, 15]
    assert "/nowhere" in mistakes[0].message and mistakes[1].message == "service 'b' listens on 127.0.0.1:81 already"


@pytest.mark.parametrize("failed", ["CREATE SERVICE site", "CREATE POOL app", "USE nobody", "CREATE SERVICE a.b", "USE", "create"])
@lab
async def test_after_a_create_or_use_that_failed_there_is_no_current_object(lab: Lab, failed: str) -> None:
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="vhosts") + "\n    CREATE POOL app")
    assert await pbal.say("USE site") == "OK"
    address = pbal.server.address("site")
    assert (await pbal.say(failed)).startswith("ERROR: ")
    answer = await pbal.say("SET listen = 127.0.0.1:0")
    assert "omitted service/pool name" in answer and "CREATE or USE one first" in answer
    assert pbal.server.address("site") == address


@lab
async def test_a_tunable_of_the_process_holds_at_once_or_is_refused(lab: Lab) -> None:
    root = logging.getLogger()
    level, limit = root.level, resource.getrlimit(resource.RLIMIT_NOFILE)
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="vhosts"))
    try:
        assert await pbal.say("SERVER log_level = error") == "OK"
        assert root.level == logging.ERROR
        room, before = pbal.world.room, snapshot(pbal.world)
        assert "the system allows" in await pbal.say("SERVER max_connections = 999999999999")
        assert "expected 128 or more" in await pbal.say("SERVER max_connections = 96")
        assert (pbal.world.room, snapshot(pbal.world)) == (room, before)
        assert await pbal.say("SERVER max_connections = 128") == "OK"
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 128 and pbal.world.room == 64
        assert (await pbal.ask("site", GET)).status == 404
    finally:
        root.setLevel(level)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@lab
async def test_a_limit_that_cannot_be_had_at_start_is_an_error(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="max_connections: the system allows"):
        await lab.pbal("SERVER max_connections = 999999999999")


@lab
async def test_removing_a_node_that_is_no_member_is_an_error(lab: Lab) -> None:
    pbal = await lab.pbal("CREATE POOL app\nPOOL app ADD 10.0.0.1:81")
    answer = await pbal.say("POOL app REMOVE 10.0.0.1:82")
    assert "pool 'app' has no node 10.0.0.1:82" in answer and "did you mean '10.0.0.1:81'?" in answer
    assert await pbal.say("POOL app REMOVE 10.0.0.1:81") == "OK"


# -- said right ----------------------------------------------------------------------------------------------------


@lab
async def test_a_reload_without_a_free_descriptor_is_a_message(lab: Lab) -> None:
    plugin(lab.folder, "own")
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="own"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        answer = await pbal.say("RELOAD own")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)
    assert answer.startswith("ERROR: plugin 'own'") and "Too many open files" in answer, answer
    assert await pbal.say("RELOAD own") == "OK"


@lab
async def test_a_plugin_folder_that_cannot_be_read_is_a_message(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="vhosts"))
    listed = Path.iterdir

    def refused(folder: Path) -> Any:
        if folder == lab.folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert f"plugin 'own' cannot be read: {lab.folder}: Permission denied" in await pbal.say("LOAD own")


@lab
async def test_an_expression_that_python_cannot_hold_is_a_message(lab: Lab) -> None:
    pbal = await lab.pbal("LOAD vpaths" + SELECTING.format(more="SET plugins = vpaths"))
    for pattern in ("a{99999999999}", "a(", "(" * 5000 + ")" * 5000):
        answer = await pbal.say(f"VPATH front {pattern} = front")
        assert answer.startswith("ERROR: expected a regular expression, but"), answer[:100]
    assert "VPATH" not in await pbal.say("dumpconfig")


@lab
async def test_a_pool_and_a_service_may_have_one_name(lab: Lab) -> None:
    pbal = await lab.pbal("""
        CREATE SERVICE app
          SET role = reverse_proxy
        CREATE POOL app
          SET balance_method = round_robin
          POOL app ADD 10.0.0.1
        SET app.pool = app
        SET app.idle_timeout = 7s
    """)
    assert await pbal.say("SET app.balance_method = least_connections") == "OK"
    assert pbal.world.pool("app").values["balance_method"] == "least_connections"
    assert pbal.world.service("app")["pool"] == "app" and pbal.world.service("app")["idle_timeout"] == 7
    other = await lab.pbal(await pbal.say("dumpconfig"))
    assert snapshot(other.world) == snapshot(pbal.world)


@lab
async def test_relative_paths_begin_at_the_folder_of_the_file_whoever_says_them(lab: Lab) -> None:
    plugin(lab.folder, "own", "    tunables = (Tunable('own_path', PATH),)")
    path = lab.folder / "own.py"
    path.write_text(path.read_text().replace("import OK,", "import OK, PATH,"))
    (lab.folder / "docs").mkdir()
    pbal = await lab.pbal("""
        SERVER plugin_path = .
        LOAD own
        DEFAULT own_path = a/b
        DEFAULT docroot = docs
        CREATE SERVICE site
          SET role = web_server
        CREATE SERVICE two
          SET role     = web_server
          SET own_path = c
    """)
    assert pbal.world.service("site")["docroot"] == lab.folder / "docs"
    assert [pbal.world.service(name)["own_path"] for name in ("site", "two")] == [lab.folder / "a/b", lab.folder / "c"]
    assert await pbal.say("SET site.own_path = d") == "OK"
    assert f"SET own_path = {lab.folder}/d" in await pbal.say("dumpconfig")


@lab
async def test_a_node_that_refuses_every_connection_is_down(lab: Lab) -> None:
    port = free_port()
    pbal = await lab.pbal(f"""
        CREATE POOL app
          POOL app ADD 127.0.0.1:{port}
        CREATE SERVICE site
          SET role   = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool   = app
        ENABLE site
    """)
    assert (await pbal.say("show pool app")).split("\n")[0] == f"127.0.0.1:{port} 0"
    assert (await pbal.ask("site", GET)).status == 502
    pbal.world.clock = ManualClock(pbal.world.clock.now() + 60, pbal.world.clock.epoch())
    assert (await pbal.say("show pool app")).split("\n")[0].split()[2] == "DOWN"
    assert '"state": "DOWN"' in await pbal.say("show pool app AS JSON")

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    await lab.origin(app, port)
    assert (await pbal.ask("site", GET)).status == 200
    assert '"state": "UP"' in await pbal.say("show pool app AS JSON")


@lab
async def test_show_service_tells_plugins_and_what_was_set(lab: Lab) -> None:
    pbal = await lab.pbal(OWN.format(folder=lab.folder, plugins="poll"))
    for statement in ("SET site.idle_timeout = 90s", "SET site.poll_uri = ^/(?P<queue>.+)$", "SET site.plugins = poll"):
        assert await pbal.say(statement) == "OK"
    shown = (await pbal.say("show service site")).split("\n")
    assert shown[-4:] == ["       plugins: poll", "           set: idle_timeout = 90s", "           set: poll_uri = ^/(?P<queue>.+)$", "."]
