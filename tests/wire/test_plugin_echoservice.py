"""echoservice: a role that a plugin brings, and what holds for such a role."""

import asyncio
from pathlib import Path

import pytest
from authority import Authority
from lab import DEADLINE, Lab, Pbal, lab, until
from scripted import Client
from secure import files, secure, trusting

from pbal.config.render import render
from pbal.model.snapshot import snapshot

CONF = """
    LOAD EchoService
    CREATE SERVICE e
      SET role   = echo
      SET listen = 127.0.0.1:0
      {more}
    ENABLE e
"""


async def _read(reader: asyncio.StreamReader, count: int) -> bytes:
    async with asyncio.timeout(DEADLINE):
        return await reader.readexactly(count)


async def _is_cut(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends without a word more."""
    try:
        return await _rest(reader) == b""
    except ConnectionError:
        return True


async def _rest(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE):
        return await reader.read()


async def _echo(lab: Lab, *more: str) -> Pbal:
    return await lab.pbal(CONF.format(more="\n".join(more)))


@lab
async def test_lines_come_back_and_what_is_no_line_does_not(lab: Lab) -> None:
    pbal = await _echo(lab)
    reader, writer = await pbal.connect("e")
    writer.write(b"hello\r\na\n\nrest")
    assert await _read(reader, 12) == b"hello\r\na\r\n\r\n"
    writer.write(b" of it\n")
    assert await _read(reader, 12) == b"rest of it\r\n"
    said = await pbal.say("socks")
    assert "Perlbal::EchoClient(R)" in said and "open" in said
    writer.write(b"unfinished")
    writer.write_eof()
    assert await _rest(reader) == b""
    await until(lambda: not pbal.world.clients, "the end of the connection")


@lab
async def test_it_speaks_tls_and_what_it_wrote_arrives_before_the_end(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await _echo(lab, files(authority.certify("a.test")), "SET echo_delay = 20ms")
    reader, writer = await secure(pbal, "e", trusting(authority))
    lines = b"".join(b"%06d\n" % number for number in range(20_000))
    writer.write(lines)
    assert await _read(reader, 160_000) == lines.replace(b"\n", b"\r\n")
    writer.write(b"last\n")
    assert await _read(reader, 6) == b"last\r\n"
    assert await pbal.say("RELOAD echoservice") == "OK"
    assert " services e " in await pbal.say("SHOW PLUGINS")
    writer.close()
    await until(lambda: not pbal.world.clients, "the end of the connection")


@lab
async def test_a_delay_holds_lines_back_also_of_a_client_that_has_ended_its_side(lab: Lab) -> None:
    pbal = await _echo(lab, "SET echo_delay = 50ms")
    reader, writer = await pbal.connect("e")
    writer.write(b"a\nb\n")
    assert await _read(reader, 6) == b"a\r\nb\r\n"
    writer.write(b"last\n")
    writer.write_eof()
    assert await _rest(reader) == b"last\r\n"
    assert await pbal.say("SET e.echo_delay = 1h") == "OK"
    leaving = await Client.of(pbal, "e", b"never\n")
    await until(lambda: len(pbal.world.clients) == 1, "its connection")
    leaving.reset()
    await until(lambda: not pbal.world.clients, "the end of the connection")


@lab
async def test_who_sends_too_much_or_is_silent_is_cut_off(lab: Lab) -> None:
    pbal = await _echo(lab, "SET idle_timeout = 100ms")
    reader, writer = await pbal.connect("e")
    writer.write(b"x" * 70_000)
    assert await _rest(reader) == b"" and pbal.counts["echo_too_much"] == 1
    reader, _ = await pbal.connect("e")
    assert await _is_cut(reader)


@lab
async def test_who_does_not_read_is_not_read_either(lab: Lab) -> None:
    pbal = await _echo(lab)
    reader, writer = await pbal.connect("e")
    lines = b"".join(b"%06d\n" % number for number in range(1_000_000))
    writer.write(lines)
    client = await until(lambda: next((each for each in pbal.world.clients if each.state == "full"), None), "it to be full")
    client._left = client.unsent + 1  # as if it had taken an octet: who takes slowly what there is has more time
    client.expired(pbal.world.clock.now())
    came = await _read(reader, 8_000_000)
    assert came == lines.replace(b"\n", b"\r\n")


@lab
async def test_a_connection_stays_over_a_reload_and_unload_is_refused_while_a_service_has_the_role(lab: Lab) -> None:
    pbal = await _echo(lab)
    reader, writer = await pbal.connect("e")
    writer.write(b"one\n")
    assert await _read(reader, 5) == b"one\r\n"
    assert await pbal.say("RELOAD echoservice") == "OK"
    for stream, out in ((reader, writer), await pbal.connect("e")):
        out.write(b"two\n")
        assert await _read(stream, 5) == b"two\r\n"
    assert "brings the role of e" in await pbal.say("UNLOAD echoservice")
    assert "  SET role = echo" in list(render(snapshot(pbal.world)))
    assert "HEADER has no effect on a echo" in await pbal.say("HEADER e INSERT A: b")
    assert "answers no HTTP" in await pbal.say("LIMIT e 10/s")
    for statement in ("DISABLE e", "DROP SERVICE e", "UNLOAD echoservice"):
        assert await pbal.say(statement) == "OK"
    for statement in ("CREATE SERVICE f", "USE f"):
        assert await pbal.say(statement) == "OK"
    assert "role 'echo' comes with the plugin echoservice: LOAD echoservice first" in await pbal.say("SET role = echo")


BROKEN = """
from pbal.api import Conversation, OwnRole, Plugin, Role


class Says(Conversation):
    def begin(self):
        self.wire.write(b"hello\\n")

    def received(self, data):
        raise ValueError(data)


class Own(Plugin):
    conversations = (OwnRole(Role({role}), Says),)
"""


@lab
async def test_a_fault_of_a_conversation_ends_it_and_is_told_as_the_plugins(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    (lab.folder / "own.py").write_text(BROKEN.format(role="'own', 'OwnClient', http=False, needs=('listen',)"))
    service = "CREATE SERVICE o\nSET role = own\nSET listen = 127.0.0.1:0\nENABLE o"
    pbal = await lab.pbal(f"SERVER plugin_path = {lab.folder}\nLOAD own\n{service}")
    reader, writer = await pbal.connect("o")
    assert await _read(reader, 6) == b"hello\n"
    writer.write(b"x")
    assert await _is_cut(reader)
    assert pbal.counts["plugin_errors"] == 1 and "plugin own generation 1, Says.received(): ValueError: b'x' (own.py:10)" in caplog.text
    (lab.folder / "own.py").write_text("from pbal.api import Plugin\n\n\nclass Own(Plugin):\n    pass\n")
    assert "it would not bring the role of o any more" in await pbal.say("RELOAD own")


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("'own', 'OwnClient'", "is declared with http=False"),
        ("'web_server', 'OwnClient', http=False", "has a name that is there already"),
        ("'Own', 'OwnClient', http=False", "is not in lower case"),
        ("'echo', 'OwnClient', http=False", "is brought by the plugin echoservice already"),
    ],
)
@lab
async def test_a_role_that_is_none_is_refused_by_load(lab: Lab, role: str, words: str) -> None:
    folder: Path = lab.folder
    (folder / "own.py").write_text(BROKEN.format(role=role))
    pbal = await lab.pbal(f"SERVER plugin_path = {folder}\n{CONF.format(more='')}")
    assert words in await pbal.say("LOAD own")
    assert "own" not in pbal.world.plugins and set(pbal.world.own_roles) == {"echo"}
