"""WebSockets, against an independent client library and against raw frames."""

import asyncio
import json
import struct
import sys
import threading
from typing import Any

import pytest
from lab import Lab, lab, read_response, until
from polls import conf, empty, get, park, publish
from sockets import ask, closed, frame, heard, next_frame, opened, raw, url
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

KEPT = ("SET poll_keep = ttl", "SET poll_queue = query:q uri:queue")
MAY = "SET poll_socket_allow = publish subscribe"


@lab
async def test_a_socket_gets_what_comes_and_stays(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    await publish(pbal, "a", b"before")
    socket = await opened(pbal, "/poll/a")
    assert await heard(socket) == {"queues": {"a": ["before"]}}
    for number in range(20):
        await publish(pbal, "a", b"%d" % number)
        assert await heard(socket) == {"queues": {"a": [str(number)]}}
    assert " websocket" in await pbal.say("show parked") and pbal.counts["poll_streams"] == 1
    await (await socket.ping())
    await socket.close()
    assert socket.close_code == 1000
    await pbal.until("poll_gone", 1)
    assert empty(pbal)


class _Importer:
    """Notes in which thread a module is imported."""

    def __init__(self) -> None:
        self.threads: dict[str, int] = {}

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        self.threads[name] = threading.get_ident()


@lab
async def test_what_reads_frames_is_imported_with_the_first_sockets_and_not_on_the_loop(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(conf())
    for name in [name for name in sys.modules if name.partition(".")[0] == "wsproto"]:
        monkeypatch.delitem(sys.modules, name)
    importer = _Importer()
    monkeypatch.setattr(sys, "meta_path", [importer, *sys.meta_path])
    await publish(pbal, "q", b"before")
    assert "wsproto.frame_protocol" not in importer.threads
    several = await asyncio.gather(*(connect(url(pbal, f"/poll/{queue}"), proxy=None) for queue in "abc"))
    assert importer.threads["wsproto.frame_protocol"] != threading.get_ident()
    for queue, socket in zip("abc", several, strict=True):
        await publish(pbal, queue, b"hi")
        assert await heard(socket) == {"queues": {queue: ["hi"]}}
        await socket.close()


@lab
async def test_positions_gaps_and_several_queues(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT, "SET poll_max_queue = 40"))
    socket = await opened(pbal, "/poll/x?q=a&q=b")
    await publish(pbal, "b", b"1")
    first = await heard(socket)
    assert first["queues"] == {"b": ["1"]}
    await publish(pbal, "a", b"2")
    assert (await heard(socket))["queues"] == {"a": ["2"]}
    again = await opened(pbal, f"/poll/x?q=a&q=b&position={first['position']}")
    assert (await heard(again))["queues"] == {"a": ["2"]}
    for number in range(10):
        await publish(pbal, "a", b"message %d" % number)
    behind = await opened(pbal, f"/poll/x?q=a&q=b&position={first['position']}")
    assert (await heard(behind))["gap"] == ["a"]
    for bad in ("/poll/x?q=a&position=rubbish", f"/poll/x?q=c&position={first['position']}"):
        with pytest.raises(InvalidStatus) as found:
            await connect(url(pbal, bad), proxy=None)
        assert found.value.response.status_code == 400


@lab
async def test_a_socket_may_publish_subscribe_and_leave_where_it_is_allowed(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT, MAY))
    socket = await opened(pbal, "/poll/a")
    other = await opened(pbal, "/poll/b")
    receipt = await ask(socket, publish={"queue": "b", "message": "hi"}, id=7)
    assert receipt == {"id": 7, "receipt": {"queue": "b", "bytes": 2, "parked": 1}}
    heard_there = await heard(other)
    assert heard_there["queues"] == {"b": ["hi"]}
    assert await ask(socket, subscribe=["b"], position=heard_there["position"], id="x") == {"id": "x", "subscribed": ["b"]}
    await publish(pbal, "b", b"more")
    assert (await heard(socket))["queues"] == {"b": ["more"]}
    assert await ask(socket, leave=["b"]) == {"left": ["b"]}
    await publish(pbal, "b", b"unheard")
    await publish(pbal, "a", b"heard")
    assert (await heard(socket))["queues"] == {"a": ["heard"]}
    assert pbal.plugin("chat").hub.lot.number(b"poll:b") == 1
    bad: tuple[Any, ...] = (
        {"leave": ["a"]}, {"subscribe": []}, {"subscribe": "b"}, {"subscribe": ["a b"]}, {"subscribe": ["c"], "position": "x"},
        {"subscribe": [f"q{number}" for number in range(33)]}, {"publish": {}}, {"publish": {"queue": "b", "message": ""}},
        {"publish": {"queue": "b", "message": "two\nlines"}}, {"position": "x"}, {"other": 1}, [1], 5, None,
    )  # fmt: skip
    for request in bad:
        await socket.send(json.dumps(request))
        answer = await heard(socket)
        assert "error" in answer, (request, answer)
    await socket.send("no JSON")
    assert await heard(socket) == {"error": "the message is not JSON"}
    assert await pbal.say("SET chat poll_socket_allow = off") == "OK"
    assert await ask(socket, publish={"queue": "b", "message": "hi"}, id=8) == {"id": 8, "error": "this socket may not publish"}
    assert "error" in await ask(socket, subscribe=["b"])
    assert await pbal.say("SET chat poll_socket_allow = publish") == "OK"
    assert await pbal.say("SET chat poll_publish_from = 10.0.0.0/8") == "OK"
    stranger = await opened(pbal, "/poll/d")
    assert "error" in await ask(stranger, publish={"queue": "b", "message": "hi"})


@lab
async def test_a_position_confirms(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_keep = confirmed"))
    socket = await opened(pbal, "/poll/a")
    await publish(pbal, "a", b"one")
    position = (await heard(socket))["position"]
    facts = await pbal.ask("chat", get("/publish/a"))
    assert json.loads(facts.body)["messages"] == 1
    await socket.send(json.dumps({"position": position}))
    store = pbal.plugin("chat").hub.store
    await until(lambda: not store.content[b"poll:a"].data, "the message to go")


@lab
async def test_whose_page_may_open_one_and_what_is_no_handshake(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_allow_origin = https://good.example"))
    host, port = pbal.server.address("chat")[:2]
    for origin, status in ((f"http://{host}:{port}", 101), ("https://good.example", 101), ("https://evil.example", 403), ("null", 403)):
        try:
            socket = await connect(url(pbal, "/poll/a"), origin=origin, proxy=None)  # type: ignore[arg-type]
            await socket.close()
            assert status == 101
        except InvalidStatus as error:
            assert error.response.status_code == status, origin
    upgrade = ("Upgrade: websocket", "Connection: Upgrade")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    for fields, status in (
        ((key, "Sec-WebSocket-Version: 8"), 400),
        ((key,), 400),
        (("Sec-WebSocket-Key: c2hvcnQ=", "Sec-WebSocket-Version: 13"), 400),
        (("Sec-WebSocket-Key: !", "Sec-WebSocket-Version: 13"), 400),
    ):
        assert (await pbal.ask("chat", get("/poll/a", *upgrade, *fields))).status == status, fields
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/a", *upgrade, key, "Sec-WebSocket-Version: 13"))
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 101 ") and "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455 section 1.3
    assert "Sec-WebSocket-Extensions" not in head


ASK = json.dumps({"publish": {"queue": "b", "message": "gr\u00fc\u00df"}, "id": 1}, ensure_ascii=False).encode()


@lab
async def test_fragments_octet_by_octet_with_a_ping_between(lab: Lab) -> None:
    pbal = await lab.pbal(conf(MAY))
    reader, writer = await raw(pbal)
    half = ASK.index("\u00fc".encode()) + 1  # in the middle of a character
    octets = frame(1, ASK[:half], fin=False) + frame(9, b"are you there") + frame(0, b"", fin=False) + frame(0, ASK[half:])
    for place in range(len(octets)):
        writer.write(octets[place : place + 1])
        await asyncio.sleep(0)
    assert await next_frame(reader) == (10, b"are you there")
    opcode, payload = await next_frame(reader)
    assert opcode == 1 and json.loads(payload)["receipt"]["bytes"] == 6
    writer.write(frame(8, struct.pack("!H", 1001) + b"bye"))
    opcode, payload = await next_frame(reader)
    assert (opcode, payload[:2]) == (8, struct.pack("!H", 1001))
    assert await reader.read() == b""
    await pbal.until("poll_gone", 1)


@pytest.mark.parametrize(("octets", "code"), [
    (frame(1, ASK, masked=False), 1002),
    (frame(1, b"\xff\xfe"), 1007),
    (frame(1, b"\xe2\x82", fin=True), 1007),
    (frame(2, b"octets"), 1003),
    (frame(0, b"nothing to go on with"), 1002),
    (frame(1, b"one", fin=False) + frame(1, b"two"), 1002),
    (frame(3, b"reserved"), 1002),
    (frame(0x41, b"a reserved bit"), 1002),
    (frame(9, b"x" * 126), 1002),
    (frame(9, b"a ping in pieces", fin=False), 1002),
    (frame(8, b"\x03"), 1002),
    (frame(8, struct.pack("!H", 1005)), 1002),
    (frame(8, struct.pack("!H", 1000) + b"\xff"), 1007),
    (frame(1, b"x" * 65537), 1009),
    (frame(1, b"x" * 70000, size=1 << 40), 1009),
    (frame(1, b"x" * 40000, fin=False) + frame(0, b"x" * 40000, fin=False), 1009),
])  # fmt: skip
def test_what_breaks_the_rules_is_closed_with_its_code(octets: bytes, code: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf(MAY))
        reader, writer = await raw(pbal)
        writer.write(octets)
        opcode, payload = await next_frame(reader)
        assert (opcode, struct.unpack("!H", payload[:2])[0]) == (8, code)
        assert await reader.read() == b""
        await pbal.until("poll_parked", 0)
        assert empty(pbal) and pbal.counts["plugin_errors"] == 0

    run()


@lab
async def test_a_flood_is_carried_out_some_a_turn_and_bounded(lab: Lab) -> None:
    pbal = await lab.pbal(conf(MAY))
    reader, writer = await raw(pbal)
    writer.write(frame(1, ASK) * 500)
    for _ in range(500):
        opcode, _ = await next_frame(reader)
        assert opcode == 1
    assert pbal.counts["poll_published"] == 500
    assert (await pbal.ask("chat", get("/poll/b"))).body.count(b"\n") == 500


@lab
async def test_newest_a_reload_disable_and_delete(lab: Lab) -> None:
    pbal = await lab.pbal(conf(MAY))
    socket = await opened(pbal, "/poll/a")
    await asyncio.sleep(1.1)
    reader, _ = await park(pbal, "/poll/a")
    assert await heard(socket) == {"superseded": True}
    assert await closed(socket) == 4009
    socket = await opened(pbal, "/poll/a")
    assert (await read_response(reader)).status == 409
    for number in range(10):
        assert await pbal.say("RELOAD poll") == "OK"
        assert (await ask(socket, publish={"queue": "c", "message": str(number)}))["receipt"]["queue"] == "c"
    assert (await pbal.ask("chat", get("/publish/a?readers=end", method="DELETE"))).status == 204
    assert await heard(socket) == {"removed": True}
    assert await closed(socket) == 4010
    socket = await opened(pbal, "/poll/a")
    assert await pbal.say("DISABLE chat") == "OK"
    assert await closed(socket) == 1001
    assert pbal.counts["poll_streams"] == 0


@lab
async def test_who_does_not_answer_pings_has_gone(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_heartbeat = 1s"))
    good = await opened(pbal, "/poll/b")
    reader, _writer = await raw(pbal)
    assert (await next_frame(reader))[0] == 9
    assert await reader.read() == b""
    assert pbal.counts["poll_gone"] == 1 and good.state.name == "OPEN"


@lab
async def test_over_a_service_that_proxies_the_rest(lab: Lab) -> None:
    """The upgrade of another path is the backend's."""
    pbal = await lab.pbal(conf().replace("web_server", "reverse_proxy"))
    socket = await opened(pbal, "/poll/a")
    await publish(pbal, "a", b"m")
    assert (await heard(socket))["queues"] == {"a": ["m"]}
