"""Uploads that are followed: datagrams to upload_status_listeners, the role upload_tracker, and what a client that asks is told."""

import json
import socket
import time
from typing import Any

import pytest
from lab import DEADLINE, Lab, Pbal, free_port, lab, read_response, until
from scripted import OK, Client, Scripted, get, proxy

from pbal.model.progress import KEPT, MOST_SESSIONS, Progress, Sessions, read, session_of
from pbal.roles.proxy import following


async def followed(lab: Lab, node: str, more: str = "") -> tuple[Pbal, int]:
    """A pbal whose service `web` tells its own upload_tracker; the tracker's port."""
    port = free_port()
    tracker = f"CREATE SERVICE track\nSET role = upload_tracker\nSET listen = 127.0.0.1:{port}\nENABLE track\n"
    return await lab.pbal(tracker + proxy(node, more=f"SET upload_status_listeners = 127.0.0.1:{port};{more}")), port


async def told(pbal: Pbal, session: str) -> Any:
    """What a client is told that asks for a session."""
    got = await pbal.ask("web", get(f"/__upload_status?client_up_sess={session}"))
    assert got.status == 200 and got.fields["content-type"] == "application/json" and got.fields["cache-control"] == "no-store"
    return json.loads(got.body)


@pytest.mark.parametrize("how", ["held", "streamed", "for a plugin"])
@lab
async def test_an_upload_is_followed_from_its_beginning_to_its_end(lab: Lab, how: str) -> None:
    origin = await Scripted.start(lab)
    more = "SET buffer_backend_connect = 0" if how == "streamed" else ""
    pbal, _ = await followed(lab, origin.address, more)
    if how == "for a plugin":
        (lab.folder / "look.py").write_text(
            "from pbal.api import Plugin, Verdict, hook\n"
            "class Look(Plugin):\n"
            "    @hook.proxy_read_request\n"
            "    def look(self, exchange):\n"
            "        return Verdict.PASS\n"
        )
        for statement in (f"SERVER plugin_path = {lab.folder}", "LOAD look", "SET web.plugins = look"):
            assert await pbal.say(statement) == "OK"
    role: Any = pbal.world.service("web").handler
    assert await told(pbal, "abcde") == {}
    began = int(time.time())
    client = await Client.of(pbal, request=get("/up?x=1&client_up_sess=abcde", "Content-Length: 10", method="POST") + b"1234")
    await until(lambda: len(pbal.world.uploads), "a report of the beginning")
    (connection,) = [each for each in pbal.world.clients if each.exchange is not None]
    await until(lambda: connection.exchange.received == 4, "four octets")
    role.following.tick()
    await until(lambda: b'"done": 4' in pbal.world.uploads.json(b"abcde"), "a report of four octets")
    said = await told(pbal, "abcde")
    assert said.keys() == {"done", "total", "starttime", "nowtime"} and said["total"] == 10
    assert began <= said["starttime"] <= said["nowtime"] <= time.time()
    client.writer.write(b"567890")
    node = await origin.connection()
    await node.request()
    await node.reader.readexactly(10)
    node.say(OK)
    assert (await read_response(client.reader)).status == 200
    role.following.tick()
    await until(lambda: b'"done": 10' in pbal.world.uploads.json(b"abcde"), "a report of the end")
    role.following.tick()
    assert len(role.following) == 0
    pbal.world.uploads.forget(pbal.world.clock.now() + KEPT + 1)
    assert await told(pbal, "abcde") == {}


@lab
async def test_each_listener_hears_perlbals_datagrams(lab: Lab) -> None:
    ears = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
    ears[0].bind(("127.0.0.1", 0))
    ears[1].bind(("::1", 0))
    origin = await Scripted.start(lab)
    listeners = f"127.0.0.1:{ears[0].getsockname()[1]}, [::1]:{ears[1].getsockname()[1]}"
    pbal = await lab.pbal(proxy(origin.address, more=f"SET upload_status_listeners = {listeners}"))
    client = await Client.of(pbal, request=get("/?client_up_sess=a_b_c", "Transfer-Encoding: chunked", method="PUT"))
    await pbal.until("requests", 1)
    for ear in ears:
        ear.settimeout(DEADLINE)
        kind, session, done, total, start, now = ear.recv(500).split(b":")
        assert (kind, session, done, total) == (b"UPLOAD", b"a_b_c", b"0", b"0") and int(start) <= int(now)
        ear.close()
    client.reset()
    await pbal.until("clients", 0)
    role: Any = pbal.world.service("web").handler
    role.following.tick()
    assert len(role.following) == 0 and pbal.counts["upload_reports_lost"] == 0


@lab
async def test_without_a_session_or_listeners_nothing_is_followed(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal, _ = await followed(lab, origin.address)
    role: Any = pbal.world.service("web").handler
    client = await Client.of(pbal, request=get("/?client_up_sess=four", "Content-Length: 3", method="PUT") + b"ab")
    await pbal.until("requests", 1)
    await until(lambda: pbal.world.bodies.memory, "its octets")
    assert len(role.following) == 0
    client.reset()
    assert await pbal.say('SET web.upload_status_listeners = ""') == "OK"
    assert role.following is None
    asking = await Client.of(pbal, request=get("/__upload_status?client_up_sess=abcde"))
    node = await origin.connection()
    assert (await node.request()).startswith(b"GET /__upload_status?")
    node.say(OK)
    assert (await read_response(asking.reader)).body == b"ok"


@lab
async def test_sessions_of_strangers_are_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MOST", 2)
    node = await Scripted.start(lab)
    pbal, _ = await followed(lab, node.address)
    role: Any = pbal.world.service("web").handler
    for number in range(4):
        await Client.of(pbal, request=get(f"/?client_up_sess=abcd{number}", "Content-Length: 9", method="POST"))
    await pbal.until("upload_reports_lost", 2)
    assert len(role.following) == 2


@lab
async def test_datagrams_of_strangers_change_nothing(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pbal, port = await followed(lab, "127.0.0.1:1")
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bad = [b"", b"hello", b"UPLOAD:abc:1:2:3:4", b"UPLOAD:abcde:-1:2:3:4", b"UPLOAD:abcde:1:2:3:4:5", b"x" * 3000,
           b"UPLOAD:abcde:1:2:3:" + b"4" * 3000, "UPLOAD:abcd\u00e9:1:2:3:4".encode(), b"UPLOAD:abcde:\xb2:2:3:4"]  # fmt: skip
    for datagram in bad:
        stranger.sendto(datagram, ("127.0.0.1", port))
    await pbal.until("upload_datagrams_refused", len(bad))
    assert len(pbal.world.uploads) == 0
    assert caplog.text.count("a datagram from 127.0.0.1 was dropped: it is not UPLOAD:SESSION:DONE:TOTAL:STARTTIME:NOWTIME") == 1
    stranger.sendto(b"UPLOAD:abcde:1:2:3:4", ("127.0.0.1", port))
    await until(lambda: len(pbal.world.uploads) == 1, "a good one")
    assert await told(pbal, "abcde") == {"done": 1, "total": 2, "starttime": 3, "nowtime": 4}
    stranger.close()


def test_sessions_are_bounded_and_forgotten() -> None:
    now = 0.0
    sessions = Sessions(lambda: now)
    for number in range(MOST_SESSIONS):
        assert sessions.add(Progress(b"%05d" % number, 1, 2, 3, 4))
    assert not sessions.add(Progress(b"one_more", 1, 2, 3, 4))
    assert sessions.add(Progress(b"00000", 2, 2, 3, 4)) and b'"done": 2' in sessions.json(b"00000")
    now = KEPT
    assert len(sessions) == MOST_SESSIONS and sessions.add(Progress(b"one_more", 1, 2, 3, 4)) and len(sessions) == 1


@pytest.mark.parametrize(
    ("query", "session"),
    [
        (b"client_up_sess=abcde", b"abcde"), (b"a=b&client_up_sess=abc_1&c", b"abc_1"), (b"client_up_sess=abcd", b""),
        (b"client_up_sess=" + b"a" * 50, b"a" * 50), (b"client_up_sess=" + b"a" * 51, b""), (b"xclient_up_sess=abcde", b""),
        (b"client_up_sess=abcde-f", b"abcde"), (b"", b""), (b"client_up_sess=abcd\xe9", b""),
    ],
)  # fmt: skip
def test_what_names_a_session(query: bytes, session: bytes) -> None:
    assert session_of(query) == session


def test_a_datagram_that_is_sent_is_one_that_is_read() -> None:
    progress = Progress(b"abcde", 10**15 - 1, 0, 1, 2)
    assert read(progress.datagram()) == progress


@lab
async def test_the_role_says_what_it_cannot_be(lab: Lab) -> None:
    pbal = await lab.pbal(proxy())
    for statement in ("CREATE SERVICE track", "SET role = upload_tracker"):
        assert await pbal.say(statement) == "OK"
    assert "needs SET listen" in await pbal.say("ENABLE track")
    assert await pbal.say(f"SET track.listen = unix:{lab.folder}/socket") == "OK"
    assert "no Unix socket" in await pbal.say("ENABLE track")
    port = pbal.server.address("web")[1]
    assert await pbal.say(f"SET track.listen = 127.0.0.1:{port}") == "OK"
    assert await pbal.say("ENABLE track") == "OK"  # TCP and UDP have ports of their own
    assert "is not a tunable of role upload_tracker" in await pbal.say("SET track.max_body = 1")
    for wrong in ("127.0.0.1", "example.com:7000", "127.0.0.1:0", "1.2.3:7"):
        assert await pbal.say(f"SET web.upload_status_listeners = {wrong}") != "OK"
    assert f"listening on 127.0.0.1:{port} for service 'track'" in await pbal.say("socks")
    other = free_port()
    assert await pbal.say(f"SET track.listen = 127.0.0.1:{other}") == "OK"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
        assert "Can't start service 'track'" in await pbal.say(f"SET track.listen = 127.0.0.1:{port}")
        sock.sendto(b"UPLOAD:abcde:1:2:3:4", ("127.0.0.1", other))
    await until(lambda: len(pbal.world.uploads) == 1, "a datagram")
    assert await pbal.say("DISABLE track") == "OK" and await pbal.say("ENABLE track") == "OK"
    assert "= upload_tracker" in await pbal.say("dumpconfig")
