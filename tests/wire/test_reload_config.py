"""RELOAD CONFIG: the file as a whole or not at all, and nothing touched that did not change; CONFIG DRIFT and CONFIG SAVE."""

import asyncio
import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import Lab, Pbal, free_port, lab, read_response, until
from process import Running
from test_dumpconfig import configurations, world_of

from pbal.commands import saving
from pbal.config.diff import difference
from pbal.config.render import render
from pbal.model.snapshot import snapshot
from pbal.schema.passwords import line_for

SOME_NAMES = st.permutations(["add", "web", "json", "Site"])
"""Few, so that two configurations have some in common."""
LISTENING = ["CREATE SERVICE least", "SET role = management", "SET listen = 127.0.0.1:0", "ENABLE least"]
"""Without something that listens no configuration is taken."""

BASE = """\
# The chat, and what is around it.
SERVER graceful_timeout = 20s   # long enough

LOAD vhosts
LOAD poll
MIME SET js application/x-javascript # of old

CREATE POOL app
  POOL app ADD 127.0.0.1:{node}

# Who is asked.
CREATE SERVICE chat
  SET role = reverse_proxy
  SET listen = 127.0.0.1:{chat}
  SET pool = app
  SET plugins = poll
  SET poll_uri = ^/poll/(?P<queue>\\w+)$
  SET poll_timeout = 40s   # seconds
  SET poll_publish_uri = ^/publish/(?P<queue>\\w+)$
ENABLE chat

CREATE SERVICE site
  SET role = web_server
  SET docroot = .
ENABLE site

CREATE SERVICE front
  SET role = selector
  SET listen = 127.0.0.1:{front}
  SET plugins = vhosts
  VHOST a.test = site
  VHOST b.test = chat
  HEADER front INSERT X-Front: yes
ENABLE front
"""


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with `ok`."""
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Case:
    """A pbal that was started from a file, and the file."""

    def __init__(self, pbal: Pbal, path: Path, text: str) -> None:
        self.pbal, self.path, self.text = pbal, path, text

    def write(self, *changes: tuple[str, str]) -> None:
        """Write the file as it was at first, but for these changes."""
        text = self.text
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        self.path.write_text(text)

    async def reload(self, *changes: tuple[str, str]) -> str:
        self.write(*changes)
        return await self.pbal.say("RELOAD CONFIG")


async def started(laboratory: Lab, text: str = BASE) -> Case:
    node = (await laboratory.origin(app)).port
    text = text.format(node=node, chat=free_port(), front=free_port())
    pbal = await laboratory.pbal(text)
    path = next(iter(laboratory.folder.glob("*.conf")))
    path.write_text(text)
    return Case(pbal, path, text)


@lab
async def test_error_pages_and_files_of_users_come_and_go_with_the_file(laboratory: Lab) -> None:
    """What is read as it is SET on a console was read before the file is carried out."""
    pages = laboratory.folder / "pages"
    pages.mkdir()
    (pages / "404.html").write_text("<h1>no such</h1>")
    (laboratory.folder / "users").write_text(line_for("amy", "secret", (2, 1, 1)) + "\n")
    case = await started(laboratory)
    request = b"GET /none HTTP/1.1\r\nHost: a.test\r\nAccept: text/html\r\n\r\n"
    assert b"no such" not in (await case.pbal.ask("front", request)).body
    assert await case.reload(("SET docroot = .", "SET docroot = .\n  SET error_pages = pages")) == "OK"
    assert b"no such" in (await case.pbal.ask("front", request)).body
    more = "SET docroot = .\n  SET basic_auth_file = users\n  SET plugins = basic_auth"
    assert await case.reload(("LOAD vhosts", "LOAD vhosts\nLOAD basic_auth"), ("SET docroot = .", more)) == "OK"
    assert (await case.pbal.ask("front", request)).status == 401
    assert await case.pbal.say(f"SET site.basic_auth_file = {laboratory.folder}/users") == "OK"
    assert await case.reload() == "OK" and (await case.pbal.ask("front", request)).status == 404


@lab
async def test_a_file_that_has_not_changed_changes_nothing(laboratory: Lab) -> None:
    case = await started(laboratory)
    before, listeners = snapshot(case.pbal.world), case.pbal.server.listeners()
    assert await case.pbal.say("RELOAD CONFIG DRY RUN") == "."
    assert await case.reload() == "OK"
    assert snapshot(case.pbal.world) == before and case.pbal.server.listeners() == listeners


CHANGES = [
    ([("graceful_timeout = 20s", "graceful_timeout = 5s")], ["SERVER graceful_timeout = 5s"]),
    ([("SERVER graceful_timeout = 20s", "")], ["UNSET SERVER graceful_timeout"]),
    ([("  SET poll_timeout = 40s", "  SET poll_timeout = 7s")], ["SET chat.poll_timeout = 7s"]),
    ([("  SET poll_timeout = 40s", "")], ["UNSET chat.poll_timeout"]),
    ([("CREATE SERVICE chat", "DEFAULT idle_timeout = 9s\nCREATE SERVICE chat")], [
        "DEFAULT idle_timeout = 9s", "UNSET chat.idle_timeout", "UNSET site.idle_timeout", "UNSET front.idle_timeout",
    ]),
    ([("POOL app ADD", "POOL app ADD 10.0.0.9\n  POOL app ADD")], ["POOL app ADD 10.0.0.9:80"]),
    ([("VHOST a.test = site", "VHOST c.test = site")], ["DROP RULE front VHOST a.test = site", "USE front", "VHOST c.test = site"]),
    ([("X-Front: yes", "X-Front: no")], [
        "DROP RULE front HEADER front INSERT X-Front: yes", "USE front", "HEADER front INSERT X-Front: no",
    ]),
    ([("ENABLE site", "DISABLE site")], ["DISABLE site"]),
    ([
        ("  SET docroot = .", "  SET docroot = .\n  SET idle_timeout = 3s"),
        ("ENABLE site\n", "CREATE POOL two\n  SET balance_method = round_robin\nENABLE site\n"),
    ], [
        "CREATE POOL two", "SET two.balance_method = round_robin", "SET site.idle_timeout = 3s",
    ]),
    ([("ENABLE front", "ENABLE front\nCREATE SERVICE more\n  SET role = selector\n  SET default_service = site\n")], [
        "CREATE SERVICE more", "SET more.role = selector", "SET more.default_service = site",
    ]),
    ([("SET role = web_server\n  SET docroot = .", "SET role = reverse_proxy\n  SET pool = app")], [
        "DROP RULE front VHOST a.test = site", "DROP SERVICE site", "CREATE SERVICE site", "SET site.role = reverse_proxy",
        "SET site.pool = app", "USE front", "VHOST a.test = site", "ENABLE site",
    ]),
    ([("ENABLE site", "LOAD vpaths\nENABLE site")], ["LOAD vpaths"]),
    ([("ENABLE site", "CACHE site 365d IMMUTABLE when path \\.js$\nCACHE site no-cache\nENABLE site")], [
        "USE site", "CACHE site 1y immutable WHEN path \\.js$", "CACHE site no-cache",
    ]),
    ([("LOAD vhosts", "LOAD vhosts\nMIME SET foo text/foo; a=b\nMIME REMOVE CSS\nMIME SET js text/javascript\n")], [
        "MIME REMOVE css", "MIME SET foo text/foo; a=b",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), CHANGES, ids=[steps[0] for _, steps in CHANGES])
def test_the_difference_is_told_as_statements_and_carried_out(changes: list[tuple[str, str]], expected: list[str]) -> None:
    @lab
    async def run(laboratory: Lab) -> None:
        case = await started(laboratory)
        before = snapshot(case.pbal.world)
        case.write(*changes)
        assert (await case.pbal.say("RELOAD CONFIG DRY RUN")).splitlines() == [*expected, "."]
        assert snapshot(case.pbal.world) == before, "a dry run changes nothing"
        assert await case.pbal.say("RELOAD CONFIG") == "OK"
        assert await case.pbal.say("RELOAD CONFIG DRY RUN") == "."
        assert await case.pbal.say("CONFIG DRIFT") == "."
        assert await case.reload() == "OK", "and back again"
        assert list(difference(before, snapshot(case.pbal.world), case.pbal.world.fits)) == []

    run()


REFUSED = [
    (("SET poll_timeout = 40s", "SET poll_timeout = soon"), "soon"),
    (("SET poll_timeout = 40s", "SET poll_timeot = 4s"), "did you mean 'poll_timeout'"),
    (("ENABLE site", "ENABLE site\nLOAD nothing"), "there is no plugin 'nothing'"),
    (("SET docroot = .", "SET docroot = .\n  SET listen = 127.0.0.1:{taken}"), "in use"),
    (("SET poll_uri = ^/poll", "SET poll_auth = jwt /nowhere\n  SET poll_uri = ^/poll"), "/nowhere"),
]


@pytest.mark.parametrize(("change", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_a_file_is_refused_as_a_whole(change: tuple[str, str], why: str) -> None:
    @lab
    async def run(laboratory: Lab) -> None:
        case = await started(laboratory)
        taken = (await laboratory.origin(app)).port
        before, listeners = snapshot(case.pbal.world), case.pbal.server.listeners()
        old, new = change
        more = (
            ("graceful_timeout = 20s", "graceful_timeout = 3s"),
            ("VHOST a.test", "VHOST z.test"),
            ("LOAD vhosts", "LOAD vhosts\nLOAD vpaths"),
        )
        answer = await case.reload((old, new.format(taken=taken)), *more)
        assert "nothing is changed: " in answer and why in answer, answer
        assert snapshot(case.pbal.world) == before and case.pbal.server.listeners() == listeners
        assert "vpaths" not in case.pbal.world.plugins and case.pbal.world.server["graceful_timeout"] == 20
        assert await case.reload(("graceful_timeout = 20s", "graceful_timeout = 4s")) == "OK"

    run()


@lab
async def test_the_first_rules_of_a_plugin_are_taken_back_with_the_rest(laboratory: Lab) -> None:
    """One that had none before kept those of a file that was refused."""
    bare = BASE.replace("  VHOST a.test = site\n  VHOST b.test = chat\n", "").replace("LOAD poll", "LOAD poll\nLOAD vpaths")
    case = await started(laboratory, bare.replace("plugins = vhosts", "plugins = vhosts vpaths"))
    before, taken = snapshot(case.pbal.world), (await laboratory.origin(app)).port
    more = ("  HEADER front", "  VHOST a.test = site\n  VPATH ^/b = chat\n  HEADER front")
    answer = await case.reload(("SET docroot = .", f"SET docroot = .\n  SET listen = 127.0.0.1:{taken}"), more)
    assert "nothing is changed: " in answer and "in use" in answer
    assert snapshot(case.pbal.world) == before


@lab
async def test_what_is_parked_and_what_is_connected_stays(laboratory: Lab) -> None:
    case = await started(laboratory)
    pbal = case.pbal
    reader, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/q HTTP/1.1\r\nHost: c\r\n\r\n")
    await pbal.until("poll_parked", 1)
    kept, also = await pbal.connect("chat")
    for number in range(20):
        assert await case.reload(("poll_timeout = 40s", f"poll_timeout = {50 + number}s"), ("a.test", f"a{number}.test")) == "OK"
        also.write(b"GET /x HTTP/1.1\r\nHost: c\r\n\r\n")
        assert (await read_response(kept)).body == b"ok"
    assert (await pbal.ask("chat", b"POST /publish/q HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")).status == 202
    assert (await read_response(reader)).body == b"hi\n"


@lab
async def test_an_address_goes_from_one_service_to_another(laboratory: Lab) -> None:
    case = await started(laboratory)
    chat, front = (case.pbal.server.address(name) for name in ("chat", "front"))
    assert await case.reload((f":{chat[1]}", ":CHAT"), (f":{front[1]}", f":{chat[1]}"), (":CHAT", f":{front[1]}")) == "OK"
    assert case.pbal.server.address("chat") == front and case.pbal.server.address("front") == chat
    await until(lambda: all(listener.serving for listener in case.pbal.server.listeners()), "listeners")
    assert (await case.pbal.ask("chat", b"GET / HTTP/1.0\r\n\r\n")).body == b"ok"
    assert (await case.pbal.ask("front", b"GET / HTTP/1.0\r\nHost: b.test\r\n\r\n")).body == b"ok"


@lab
@pytest.mark.parametrize("host", ["localhost", "[::]", "[0:0:0:0:0:0:0:1]"])
async def test_an_address_goes_over_however_it_is_written(laboratory: Lab, host: str) -> None:
    case = await started(laboratory)
    before, port = case.pbal.server.address("front")[1], free_port()
    renamed = ("CREATE SERVICE front", "CREATE SERVICE other"), ("HEADER front", "HEADER other"), ("ENABLE front", "ENABLE other")
    listen = f"127.0.0.1:{before}", f"{host}:{port}"
    assert await case.reload(listen) == "OK"
    assert await case.reload(listen, *renamed) == "OK"
    await until(lambda: all(listener.serving for listener in case.pbal.server.listeners()), "listeners")
    assert case.pbal.server.address("other")[1] == port and "front" not in case.pbal.world.services


@lab
async def test_who_has_an_address_that_is_in_use_is_told(laboratory: Lab) -> None:
    case = await started(laboratory)
    chat, front = (case.pbal.server.address(name)[1] for name in ("chat", "front"))
    said = await case.reload((f"127.0.0.1:{front}", f"0.0.0.0:{front}"))  # the system lets nobody have both at once
    assert f"Address already in use, by service 'front' on 127.0.0.1:{front}: DISABLE front first" in said
    assert await case.pbal.say("DISABLE front") == "OK" and await case.pbal.say("RELOAD CONFIG") == "OK"
    said = await case.pbal.say(f"SET front.listen = 0.0.0.0:{chat}")
    assert said.splitlines()[0].endswith(f"Address already in use, by service 'chat' on 127.0.0.1:{chat}")


@lab
async def test_drift_is_what_was_changed_since_and_reload_takes_it_back(laboratory: Lab) -> None:
    case = await started(laboratory)
    before = snapshot(case.pbal.world)
    assert await case.pbal.say("CONFIG DRIFT") == "."
    said = [
        "SET chat.poll_timeout = 7s", "UNSET SERVER graceful_timeout", "CREATE SERVICE more", "SET more.role = web_server",
        "POOL app ADD 10.0.0.7:80", "DROP RULE front VHOST a.test = site",
    ]  # fmt: skip
    for statement in said:
        assert await case.pbal.say(statement) == "OK"
    assert sorted((await case.pbal.say("config drift")).splitlines()) == sorted([*said, "."])
    assert await case.pbal.say("RELOAD CONFIG") == "OK"
    assert list(difference(before, snapshot(case.pbal.world), case.pbal.world.fits)) == []


@lab
async def test_nothing_changes_while_the_drift_is_listed(laboratory: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    case = await started(laboratory)
    monkeypatch.setattr("pbal.commands.slices.SLICE", 0)
    assert await case.pbal.say("SET chat.poll_timeout = 7s") == "OK"
    asked = (
        "CONFIG DRIFT",
        "CREATE SERVICE one",
        "CREATE POOL two",
        "RELOAD CONFIG DRY RUN AS JSON",
        "DROP SERVICE one",
        "CONFIG DRIFT AS JSON",
    )
    answers = await asyncio.gather(*map(case.pbal.say, asked))
    assert answers[0] == "SET chat.poll_timeout = 7s\n."
    assert json.loads(answers[3]) == ["SET chat.poll_timeout = 40s", "DROP SERVICE one", "DROP POOL two"]
    assert json.loads(answers[5]) == ["CREATE POOL two", "SET chat.poll_timeout = 7s"]


@lab
async def test_save_writes_the_drift_into_the_file_and_keeps_its_comments(laboratory: Lab) -> None:
    case = await started(laboratory)
    os.chmod(case.path, 0o640)
    said = [
        "SERVER graceful_timeout = 9s", "SET chat.poll_timeout = 7s", "SET chat.idle_timeout = 8s", "POOL app ADD 10.0.0.7", "DISABLE site",
        "USE front", "VHOST c.test = site", "DROP RULE front VHOST a.test = site", "HEADER front INSERT X-Front: \"no # no\"",
        "CREATE SERVICE more", "SET role = selector", "SET plugins = vhosts", "VHOST d.test = site", "DEFAULT max_body = 1k",
        "MIME SET foo text/foo; a=b", "MIME REMOVE css", "MIME SET js text/x-js",
    ]  # fmt: skip
    for statement in said:
        assert not (await case.pbal.say(statement)).startswith("ERROR"), statement
    assert await case.pbal.say("CONFIG SAVE") == "OK"
    now = snapshot(case.pbal.world)
    text = case.path.read_text()
    for line in (
        "# The chat, and what is around it.", "SERVER graceful_timeout = 9s   # long enough",
        "  SET poll_timeout = 7s   # seconds", "DISABLE site",
        "  SET idle_timeout = 8s", "  POOL app ADD 10.0.0.7:80", "  VHOST c.test = site", "# Who is asked.", "CREATE SERVICE more",
        '  HEADER front INSERT X-Front: "no # no"', "DEFAULT max_body = 1k", "MIME REMOVE css", "MIME SET foo text/foo; a=b",
        "MIME SET js text/x-js # of old",
    ):  # fmt: skip
        assert line in text.splitlines(), text
    assert "a.test" not in text and case.path.stat().st_mode & 0o777 == 0o640
    assert await case.pbal.say("CONFIG DRIFT") == "."
    assert await case.pbal.say("RELOAD CONFIG DRY RUN") == "."
    assert await case.pbal.say("RELOAD CONFIG") == "OK" and snapshot(case.pbal.world) == now
    assert [path.name for path in laboratory.folder.iterdir() if path.name.endswith(".new")] == []


@lab
async def test_save_keeps_the_line_ends_and_writes_blocks(laboratory: Lab) -> None:
    case = await started(laboratory)
    case.path.write_bytes(case.text.replace("\n", "\r\n").encode())
    said = [
        'SET chat.extra.note = "a # b"', "CREATE SERVICE one", "CREATE SERVICE two", "SET one.role = selector", "SET two.role = web_server",
        "SET two.docroot = .", "SET one.default_service = two", "CREATE POOL a LIKE app", "CREATE POOL b",
        "SET balance_method = ${env:PBAL_TEST_METHOD:-round_robin}", "CREATE POOL c LIKE b", "UNSET b.balance_method",
    ]  # fmt: skip
    for statement in said:
        assert await case.pbal.say(statement) == "OK", statement
    assert await case.pbal.say("CONFIG SAVE") == "OK" and await case.pbal.say("RELOAD CONFIG DRY RUN") == "."
    text = case.path.read_bytes().decode()
    assert text.count("\r\n") == text.count("\n")
    for block in (
        '  SET chat.extra.note = "a # b"\n',
        "CREATE SERVICE two\n  SET role = web_server\n  SET docroot = ",
        "CREATE POOL b\n\nCREATE POOL c\n  SET balance_method = ${env:PBAL_TEST_METHOD:-round_robin}\n\n# Who is asked.",
    ):
        assert block in text.replace("\r", ""), text


@lab
async def test_save_refuses_a_file_that_somebody_else_changed(laboratory: Lab) -> None:
    case = await started(laboratory)
    assert await case.pbal.say("SET chat.poll_timeout = 7s") == "OK"
    case.write(("graceful_timeout = 20s", "graceful_timeout = 2s"))
    before = case.path.read_text()
    assert "was changed since it was read" in await case.pbal.say("CONFIG SAVE")
    assert case.path.read_text() == before


@lab
async def test_save_writes_over_nothing_that_somebody_writes_meanwhile(laboratory: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a comment: between the reading of the file and its replacement lie turns of the loop."""
    case = await started(laboratory)
    assert await case.pbal.say("SET chat.poll_timeout = 7s") == "OK"
    mine = "# mine\n" * 50 + case.text
    edited = saving.edited

    def write_and_edit(*args: Any) -> dict[Path, bytes]:
        case.path.write_text(mine)
        return edited(*args)

    monkeypatch.setattr(saving, "edited", write_and_edit)
    assert f"ERROR: {case.path} was changed meanwhile: nothing is written" in await case.pbal.say("CONFIG SAVE")
    assert case.path.read_text() == mine and not list(laboratory.folder.glob(".*.new"))
    monkeypatch.undo()
    assert await case.pbal.say("CONFIG SAVE") == "OK"
    assert case.path.read_text() == mine.replace("poll_timeout = 40s", "poll_timeout = 7s")


@lab
async def test_a_file_behind_a_link_is_saved_and_the_link_stays(laboratory: Lab) -> None:
    case = await started(laboratory)
    real = laboratory.folder / "real.conf"
    case.path.rename(real)
    case.path.symlink_to("real.conf")
    assert await case.pbal.say("SET chat.poll_timeout = 7s") == "OK"
    assert await case.pbal.say("CONFIG SAVE") == "OK"
    assert real.read_text() == case.text.replace("poll_timeout = 40s", "poll_timeout = 7s") and case.path.is_symlink()


@lab
async def test_save_names_the_file_that_it_cannot_write_and_leaves_it(laboratory: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    case = await started(laboratory)
    before = case.path.read_text()
    assert await case.pbal.say("SET chat.poll_timeout = 7s") == "OK"
    monkeypatch.setattr(os, "fsync", full)
    said = await case.pbal.say("CONFIG SAVE")
    assert said.startswith(f"ERROR: cannot write {case.path.resolve()}: No space left on device")
    assert case.path.read_text() == before and not list(laboratory.folder.glob(".*.new"))


@lab
async def test_included_files_are_read_and_written_too(laboratory: Lab) -> None:
    case = await started(laboratory)
    part = laboratory.folder / "part.inc"
    part.write_text("CREATE POOL two\n  POOL two ADD 10.0.0.1   # the first\n")
    assert await case.reload(("CREATE POOL app", "INCLUDE = part.inc\nCREATE POOL app")) == "OK"
    assert [node.name for node in case.pbal.world.pool("two").nodes] == ["10.0.0.1:80"]
    for statement in ("POOL two ADD 10.0.0.2", "POOL two REMOVE 10.0.0.1"):
        assert await case.pbal.say(statement) == "OK"
    assert await case.pbal.say("CONFIG SAVE") == "OK"
    assert "10.0.0.2:80" in part.read_text() and "10.0.0.1 " not in part.read_text()
    assert await case.pbal.say("RELOAD CONFIG DRY RUN") == "."


@lab
async def test_another_file_can_be_named_and_must_be_there(laboratory: Lab) -> None:
    case = await started(laboratory)
    assert "cannot read" in await case.pbal.say("RELOAD CONFIG nowhere.conf")
    assert (await case.pbal.say('RELOAD CONFIG ""')).startswith("ERROR: expected a path, found ''")
    (laboratory.folder / "other.conf").write_text(case.text.replace("poll_timeout = 40s", "poll_timeout = 11s"))
    assert await case.pbal.say("RELOAD CONFIG other.conf DRY RUN") == "SET chat.poll_timeout = 11s\n."
    assert await case.pbal.say("RELOAD CONFIG other.conf") == "OK"
    assert case.pbal.world.service("chat")["poll_timeout"] == 11
    assert await case.pbal.say("RELOAD CONFIG DRY RUN") == "."


@lab
async def test_what_a_console_made_is_the_difference_from_an_empty_file_and_back(laboratory: Lab) -> None:
    case = await started(laboratory)
    full = list(render(snapshot(case.pbal.world), case.pbal.world.fits))
    (laboratory.folder / "empty.conf").write_text("# nothing\n")
    assert "nothing is changed: no service of " in await case.pbal.say("RELOAD CONFIG empty.conf"), "as at start"
    assert list(render(snapshot(case.pbal.world), case.pbal.world.fits)) == full
    least = "CREATE SERVICE least\n  SET role = management\n  SET listen = 127.0.0.1:0\nENABLE least\n"
    (laboratory.folder / "empty.conf").write_text(least)
    assert await case.pbal.say("RELOAD CONFIG empty.conf") == "OK"
    assert list(case.pbal.world.services) == ["least"] and not case.pbal.world.pools and not case.pbal.world.plugins
    (laboratory.folder / "full.conf").write_text("\n".join(full))
    assert await case.pbal.say("RELOAD CONFIG full.conf") == "OK"
    assert list(render(snapshot(case.pbal.world), case.pbal.world.fits)) == full


@lab
async def test_a_name_to_listen_on_is_looked_up(laboratory: Lab) -> None:
    case = await started(laboratory)
    for port in (free_port(), free_port()):
        assert await case.reload(("  SET docroot = .", f"  SET docroot = .\n  SET listen = localhost:{port}")) == "OK"
        await until(lambda: all(listener.serving for listener in case.pbal.server.listeners()), "listeners")
        assert case.pbal.server.address("site")[1] == port
        assert (await case.pbal.ask("site", b"GET /x HTTP/1.0\r\n\r\n")).status == 404
    assert "cannot find the address of nowhere.invalid" in await case.reload(
        ("  SET docroot = .", "  SET docroot = .\n  SET listen = nowhere.invalid:1")
    )


@lab
async def test_the_file_of_a_unix_socket_stays_when_another_service_goes_on_with_it(laboratory: Lab) -> None:
    case = await started(laboratory)
    one, two = (laboratory.folder / name for name in ("one", "two"))
    proxy = "SET role = reverse_proxy\n  SET pool = app\n  SET listen = unix:{}"
    site = "SET role = web_server\n  SET docroot = .", f"SET role = web_server\n  SET docroot = .\n  SET listen = unix:{one}"
    assert await case.reload(site) == "OK"
    more = f"CREATE SERVICE more\n  {proxy.format(two)}\nENABLE more\n"

    async def bodies() -> list[bytes]:
        found = []
        for path in (one, two):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /x HTTP/1.0\r\n\r\n")
            found.append((await read_response(reader)).body)
            writer.close()
        return found

    assert await case.reload((site[0], proxy.format(one)), ("ENABLE front\n", f"ENABLE front\n{more}")) == "OK", "another role"
    await until(lambda: all(listener.serving for listener in case.pbal.server.listeners()), "listeners")
    assert await bodies() == [b"ok", b"ok"]
    swapped = more.replace(str(two), str(one))
    assert await case.reload((site[0], proxy.format(two)), ("ENABLE front\n", f"ENABLE front\n{swapped}")) == "OK", "both move"
    await until(lambda: all(listener.serving for listener in case.pbal.server.listeners()), "listeners")
    assert await bodies() == [b"ok", b"ok"]
    assert await case.reload() == "OK" and not one.exists() and not two.exists()


@lab
async def test_a_secret_is_read_again_whatever_says_it_and_from_its_own_folder(laboratory: Lab) -> None:
    case = await started(laboratory)
    folder = laboratory.folder / "sub"
    folder.mkdir()
    (folder / "part.inc").write_text("HEADER chat INSERT X-Key: ${file:key}\nSET chat.extra.key = ${file:key}\n")
    chat = case.pbal.world.service("chat")
    for secret in ("first-secret", "second-secret"):
        (folder / "key").write_text(secret)
        case.write(("ENABLE chat", "ENABLE chat\nINCLUDE = sub/part.inc"))
        shown = [await case.pbal.say(statement) for statement in ("RELOAD CONFIG DRY RUN", "RELOAD CONFIG", "CONFIG DRIFT", "show rules")]
        assert shown[1] == "OK" and not any(secret in text for text in shown)
        assert [rule.said for rule in chat.rules.headers] == [secret] and chat.extra == {"key": secret}
    (folder / "key").write_text("third")
    assert f"X-Key: ${{file:{folder}/key}}" in await case.pbal.say("show rules")
    assert await case.reload() == "OK" and not chat.rules.headers and not chat.extra


ODD = """
from pbal.api import TEXT, Plugin, Tunable

class Odd(Plugin):
    \"\"\"Needs what it was not told.\"\"\"
    tunables = (Tunable("odd_need", TEXT, default="", summary="Has to be said."),)

    def check(self):
        if not self.service["odd_need"]:
            raise ValueError("odd_need")
"""


@lab
async def test_the_difference_can_be_typed_line_by_line_and_saved(laboratory: Lab) -> None:
    case = await started(laboratory)
    (laboratory.folder / "plugins").mkdir()
    (laboratory.folder / "plugins" / "odd.py").write_text(ODD)
    case.write(
        ("LOAD poll", "SERVER plugin_path = plugins\nLOAD odd\nLOAD poll"),
        ("SET plugins = poll", "SET plugins = odd poll\n  SET odd_need = yes"),
        ("CREATE POOL app", "CREATE POOL more\n  POOL more ADD 10.0.0.9\nCREATE POOL app"),
        ("SET pool = app", "SET pool = more"),
        ("SET docroot = .", "SET docroot = .\n  SET persist_client = off"),
    )
    for statement in (await case.pbal.say("RELOAD CONFIG DRY RUN")).splitlines()[:-1]:
        assert await case.pbal.say(statement) == "OK", statement
    assert await case.pbal.say("RELOAD CONFIG DRY RUN") == "."
    case.write()
    assert await case.pbal.say("CONFIG SAVE") == "OK"
    text = case.path.read_text()
    assert text.index("SERVER plugin_path") < text.index("LOAD odd") < text.index("CREATE POOL more") < text.index("# Who is asked.")
    assert await case.pbal.say("RELOAD CONFIG DRY RUN") == "." == await case.pbal.say("CONFIG DRIFT")


@given(configurations(SOME_NAMES), configurations(SOME_NAMES))
@settings(max_examples=4, deadline=None)
def test_any_configuration_becomes_any_other_and_can_be_saved(one: list[str], other: list[str]) -> None:
    one, other = one + LISTENING, other + LISTENING

    @lab
    async def run(laboratory: Lab) -> None:
        texts = ["\n".join(lines) + "\n" for lines in (one, other)]
        pbal = await laboratory.pbal(texts[0])
        wanted = snapshot(world_of(other, str(laboratory.folder)))
        path = next(laboratory.folder.glob("test*.conf"))
        path.write_text(texts[1])
        assert await pbal.say("RELOAD CONFIG") == "OK"
        assert list(difference(snapshot(pbal.world), wanted, pbal.world.fits)) == []
        path.write_text(texts[0])
        for statement in (await pbal.say("RELOAD CONFIG DRY RUN")).splitlines()[:-1]:
            assert not (await pbal.say(statement)).startswith("ERROR"), statement
        assert await pbal.say("RELOAD CONFIG DRY RUN") == "."
        path.write_text(texts[1])
        assert await pbal.say("CONFIG SAVE") == "OK"
        assert await pbal.say("RELOAD CONFIG DRY RUN") == "." == await pbal.say("CONFIG DRIFT")

    run()


OFF_LOOP = """
import threading
assert threading.current_thread() is not threading.main_thread(), "imported on the loop"
from pbal.api import Plugin

class Own(Plugin):
    \"\"\"Nothing.\"\"\"
"""


@lab
async def test_plugins_are_imported_off_the_loop_and_once(laboratory: Lab) -> None:
    case = await started(laboratory)
    (laboratory.folder / "plugins").mkdir()
    for name in ("own", "other"):
        (laboratory.folder / "plugins" / f"{name}.py").write_text(OFF_LOOP)
    (laboratory.folder / "part.inc").write_text("SERVER plugin_path = plugins\nLOAD own\n")
    case.write(("LOAD poll", "INCLUDE = part.inc\nLOAD other\nLOAD poll"))
    before = set(sys.modules)
    assert (await case.pbal.say("RELOAD CONFIG DRY RUN")).splitlines()[1:3] == ["LOAD own", "LOAD other"]
    assert set(sys.modules) == before, "nothing is left of a dry run"
    assert await case.pbal.say("RELOAD CONFIG") == "OK" and {"own", "other"} < case.pbal.world.plugins.keys()
    assert len(set(sys.modules) - before) == 2
    (laboratory.folder / "plugins" / "bad.py").write_text("1 / 0\n")
    assert await case.pbal.say("LOAD vpaths") == "OK" == await case.pbal.say("UNLOAD vpaths")
    assert case.pbal.server.interpreter.language.built, "the next line does not wait for a parser"
    answer = await case.reload(("LOAD poll", "INCLUDE = part.inc\nLOAD bad\nLOAD poll"))
    assert "bad.py does not import: ZeroDivisionError" in answer and len(set(sys.modules) - before) == 2


@lab
async def test_a_wrong_file_is_not_logged_line_by_line(laboratory: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Nor read to its end: each line would cost every client its time. Nor are the warnings of a file that is taken."""
    case = await started(laboratory)
    case.path.write_text(case.text + "SET nonsense = 1\n" * 2000)
    answer = await case.pbal.say("RELOAD CONFIG")
    assert "'nonsense' is not a tunable of role selector (and 499 or more, which pbal check --all lists)" in answer
    assert caplog.text.count("'nonsense' is not a tunable") == 50 and "more mistakes, which pbal check --all lists" in caplog.text
    answer = await case.reload(("SET docroot = .", "SET nonsense = 1\nSET nonsense = 2"))
    assert "(and 1 more, which the log and pbal check list)" in answer
    caplog.clear()
    assert await case.reload(("SET docroot = .", "SET docroot = .\n" * 60)) == "OK"
    assert caplog.text.count("SET site.docroot was said before") == 50 and "9 more warnings: pbal check --all lists them" in caplog.text


@lab
async def test_what_is_no_plain_file_holds_nobody_up(laboratory: Lab) -> None:
    case = await started(laboratory)
    os.mkfifo(laboratory.folder / "pipe")
    assert "cannot read" in await case.pbal.say("RELOAD CONFIG pipe")
    assert "cannot read" in await case.reload(("LOAD poll", "INCLUDE = pipe\nLOAD poll"))


@lab
async def test_reloads_under_load_lose_no_request_and_no_poll(laboratory: Lab) -> None:
    case = await started(laboratory)
    reader, writer = await case.pbal.connect("chat")
    writer.write(b"GET /poll/q HTTP/1.1\r\nHost: c\r\n\r\n")
    await case.pbal.until("poll_parked", 1)
    ended, statuses = asyncio.Event(), set()

    async def ask(service: str, host: bytes) -> None:
        while not ended.is_set():
            asked, asking = await case.pbal.connect(service)
            for _ in range(5):
                asking.write(b"GET /none HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
                statuses.add((host, (await read_response(asked)).status))
            asking.close()

    clients = [asyncio.create_task(ask(service, host)) for service, host in (("chat", b"c"), ("front", b"a.test"), ("front", b"b.test"))]
    more = (
        "ENABLE front\nCREATE SERVICE more\n  SET role = selector\n  SET listen = 127.0.0.1:0\n  SET default_service = site\nENABLE more\n"
    )
    changes = [
        ("poll_timeout = 40s", "poll_timeout = 50s"), ("X-Front: yes", "X-Front: no"), ("ENABLE front\n", more),
        ("LOAD vhosts", "LOAD vpaths\nLOAD vhosts"), ("POOL app ADD", "POOL app ADD 127.0.0.1:1\n  POOL app ADD"),
    ]  # fmt: skip
    for number in range(20):
        assert await case.reload(changes[number % len(changes)]) == "OK"
    ended.set()
    await asyncio.gather(*clients)
    assert statuses == {(b"c", 200), (b"a.test", 404), (b"b.test", 200)} and case.pbal.counts["poll_parked"] == 1
    assert (await case.pbal.ask("chat", b"POST /publish/q HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")).status == 202
    assert (await read_response(reader)).body == b"hi\n"


@lab
async def test_a_listener_that_is_moved_at_once_again_is_no_fault(laboratory: Lab, caplog: pytest.LogCaptureFixture) -> None:
    case = await started(laboratory)
    for port in (free_port(), free_port()):
        assert await case.pbal.say(f"SET chat.listen = 127.0.0.1:{port}") == "OK"
    await until(lambda: all(listener.serving for listener in case.pbal.server.listeners()), "listeners")
    assert (await case.pbal.ask("chat", b"GET / HTTP/1.0\r\n\r\n")).body == b"ok"
    assert "failed" not in caplog.text


def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    path = tmp_path / "hup.conf"
    text = "CREATE SERVICE a\n  SET role = web_server\n  SET docroot = .\n  SET listen = 127.0.0.1:{}\nENABLE a\n"
    path.write_text(text.format(port))
    with Running(path, port) as running:
        path.write_text(text.format(other))
        running.send_signal(signal.SIGHUP)
        running.says("is in force; changes: 1")
        running.port = other
        running.send("/").close()
        path.write_text("CREATE SERVCE b\n")
        running.send_signal(signal.SIGHUP)
        running.says("nothing is changed")
        running.send("/").close()


@lab
async def test_many_sighups_read_the_file_once_more_and_no_oftener(laboratory: Lab, caplog: pytest.LogCaptureFixture) -> None:
    case = await started(laboratory)
    caplog.set_level("INFO", "pbal")
    for seconds in range(1, 21):
        case.write(("poll_timeout = 40s", f"poll_timeout = {seconds}s"))
        case.pbal.server.signalled(signal.SIGHUP)
        if seconds == 1:
            await asyncio.sleep(0)
    await until(lambda: case.pbal.world.services["chat"]["poll_timeout"] == 20, "the last of the files")
    assert await case.pbal.say("CONFIG DRIFT") == "."
    assert 1 <= sum("is in force" in record.getMessage() for record in caplog.records) <= 2
