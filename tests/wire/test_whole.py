"""Every statement is carried out whole or not at all, and one at a time, whichever console it came from."""

import asyncio
import os
from pathlib import Path

from lab import DEADLINE, Lab, Pbal, lab, until

CONSOLE = """
    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:0
    ENABLE console
"""


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
