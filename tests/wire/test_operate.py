"""What an operator asks: what is slow, which node is down and why, why this failed, how full, who is connected."""

import asyncio
import json
import re
import socket
from typing import Any

from lab import Lab, Pbal, free_port, lab, until
from sites import POLLS

CONF = POLLS + "\n      SET poll_max_parked  = 10\n    ENABLE site\n"


async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """/500 is a fault, /rubbish has an octet in its head that no head has, /cut ends early, /gone says nothing, the rest is 200."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        target = head.split(b" ")[1]
        if target == b"/gone":
            break
        if target == b"/rubbish":
            writer.write(b"HTTP/1.1 200 OK\r\nX: a\x01\r\n\r\n")
        elif target == b"/cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
            await writer.drain()
            break
        else:
            status = b"500 Oh" if target.startswith(b"/500") else b"200 OK"
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nok" % status)
    writer.close()


async def rows(pbal: Pbal, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await pbal.say(f"{query} AS JSON"))
    return found


async def get(pbal: Pbal, target: str, *fields: str) -> int:
    head = "".join(f"{field}\r\n" for field in ("Host: a", *fields))
    return (await pbal.ask("site", f"GET {target} HTTP/1.1\r\n{head}\r\n".encode())).status


@lab
async def test_latency_by_service_and_by_node(lab: Lab) -> None:
    origin = await lab.origin(node)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    assert [row["count"] for row in await rows(pbal, "show latency")] == [0, 0]
    assert [row["p99"] for row in await rows(pbal, "show latency")] == [None, None]
    for _ in range(3):
        await get(pbal, "/")
    service, of_node = await rows(pbal, "show latency")
    assert (service["kind"], service["name"], service["count"], service["minute_count"]) == ("service", "site", 3, 3)
    assert (of_node["kind"], of_node["pool"], of_node["name"], of_node["count"]) == ("node", "app", origin.address, 3)
    assert 0 < service["p50"] <= service["p90"] <= service["p99"] < 10_000
    assert of_node["p99"] <= service["p99"]
    assert len(await rows(pbal, "show latency site")) == 1
    assert len(await rows(pbal, "show latency APP")) == 1
    assert len(await rows(pbal, f"show latency {origin.address}")) == 1
    assert "did you mean 'site'" in await pbal.say("show latency sit")
    head, first, second, dot = (await pbal.say("show latency")).split("\n")
    assert head.split()[:2] == ["kind", "name"]
    assert first.split()[:3] == ["service", "site", "3"]
    assert second.split()[:4] == ["node", "app", origin.address, "3"]
    assert dot == "."
    for _ in range(6):
        pbal.world.service("site").traffic.latency.turn()
    service = (await rows(pbal, "show latency site"))[0]
    assert (service["count"], service["minute_count"], service["minute_p99"]) == (3, 0, None)


@lab
async def test_which_node_is_down_and_why(lab: Lab) -> None:
    origin = await lab.origin(node)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    found = (await rows(pbal, "show health"))[0]
    assert (found["state"], found["since"], found["error"], found["last_success"]) == ("UNTRIED", None, None, None)
    await get(pbal, "/")
    found = (await rows(pbal, "show health app"))[0]
    assert (found["pool"], found["node"], found["state"], found["since"], found["last_success"]) == ("app", origin.address, "UP", 0, 0)
    await get(pbal, "/rubbish")
    found = (await rows(pbal, "show health"))[0]
    assert (found["state"], found["error"], found["errors"]) == ("UP", "a malformed header field", 1)
    await get(pbal, "/500")
    found = (await rows(pbal, "show health"))[0]
    assert (found["state"], found["error"], found["errors"]) == ("UP", "answered 500", 1)
    origin.close()
    refused = free_port()
    assert await pbal.say(f"POOL app ADD 127.0.0.1:{refused}") == "OK"
    assert await pbal.say(f"POOL app REMOVE {origin.address}") == "OK"
    assert await get(pbal, "/") == 502
    found = (await rows(pbal, "show nodes"))[0]
    assert (found["state"], found["why"], found["failures"], found["last_success"]) == ("DOWN", "connection refused", 1, None)
    line = (await pbal.say("show health")).split("\n")[0]
    told = "DOWN for 0s (connection refused), used all the same, 0 active, 0 requests, 0 errors, 1 connects failed, no success yet, "
    assert line.startswith(f"app 127.0.0.1:{refused} {told}")
    assert line.endswith("ago: connection refused")


@lab
async def test_why_a_request_failed(lab: Lab) -> None:
    origin = await lab.origin(node)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    assert await pbal.say("SET site.request_id = on") == "OK"
    assert await get(pbal, "/") == 200
    assert await rows(pbal, "show errors") == []
    assert pbal.counts["failures"] == 0
    assert await get(pbal, "/rubbish") == 502
    assert await get(pbal, "/500?a=%22b\xff") == 400
    assert await get(pbal, "/500?a=b") == 500
    await pbal.ask("site", b"POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na")
    reader, writer = await pbal.connect("site")
    writer.write(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.read()
    found = await rows(pbal, "show errors")
    assert [row["number"] for row in found] == [1, 2, 3, 4, 5]
    assert pbal.counts["failures"] == 5
    rubbish, malformed, fault, gone, cut = found
    assert (rubbish["service"], rubbish["node"], rubbish["status"], rubbish["end"]) == ("site", origin.address, 502, "node_broke")
    assert (rubbish["why"], rubbish["octet"], rubbish["place"]) == ("a malformed header field", 1, len("HTTP/1.1 200 OK\r\nX: a"))
    assert (rubbish["method"], rubbish["target"], rubbish["client"], rubbish["attempts"]) == ("GET", "/rubbish", "127.0.0.1", 1)
    assert re.fullmatch("[0-9a-f]{32}", rubbish["id"]) and re.fullmatch("[0-9a-f]{32}", malformed["id"])
    assert (malformed["end"], malformed["phase"], malformed["status"], malformed["node"]) == ("bad_request", "head", 400, "")
    assert (malformed["octet"], malformed["place"]) == (0xC3, len("GET /500?a=%22b"))
    assert malformed["target"] == "/500?a=%22b\\xC3\\xBF"
    assert (fault["status"], fault["end"], fault["phase"], fault["target"]) == (500, "done", "answer", "/500?a=b")
    assert fault["why"] == "the node answered 500"
    assert (gone["status"], gone["end"], gone["why"]) == (
        502,
        "node_broke",
        "no response: the connection closed before the response was complete",
    )
    assert (cut["status"], cut["end"]) == (200, "node_broke")
    assert cut["why"].startswith("response cut off: ")
    assert [row["number"] for row in await rows(pbal, "show errors 2")] == [4, 5]
    assert [row["number"] for row in await rows(pbal, "show errors LIKE rubbish")] == [1]
    assert [row["number"] for row in await rows(pbal, f"show errors LIKE {fault['id']}")] == [3]
    assert [row["number"] for row in await rows(pbal, "show errors 1 LIKE node_*")] == [5]
    text = (await pbal.say("show errors LIKE rubbish")).split("\n")[0]
    assert f'site 127.0.0.1 {origin.address} "GET /rubbish" 502 node_broke in node attempts 1 ' in text
    assert text.endswith(": a malformed header field (octet 0x01 at 21)")
    assert await pbal.say("SET site.access_log_query = off") == "OK"
    assert await get(pbal, "/500?secret=x") == 500
    assert (await rows(pbal, "show errors 1"))[0]["target"] == "/500"


@lab
async def test_errors_without_a_node_and_the_ring_is_bounded(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    assert await get(pbal, "/") == 502
    assert (await rows(pbal, "show errors"))[0]["why"] == "connection refused"
    assert await pbal.say("SET site.max_body = 1") == "OK"
    answer = await pbal.ask("site", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
    assert answer.status == 413
    assert (await rows(pbal, "show errors 1"))[0]["why"] == "the body of 2 bytes is larger than 1"
    ring = pbal.world.recent.last
    assert ring.maxlen == 200
    while len(ring) < 200:
        ring.append(ring[0])
    assert await get(pbal, "/" + "x" * 1000) == 502
    found = await rows(pbal, "show errors")
    assert len(found) == 200
    assert found[-1]["number"] == 3
    assert len(found[-1]["target"]) == 203


@lab
async def test_limits(lab: Lab) -> None:
    origin = await lab.origin(node)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    _, writer = await pbal.connect("site")
    writer.write(b"GET /poll/a HTTP/1.1\r\nHost: a\r\n\r\n")
    await pbal.until("poll_parked", 1)
    found = {(row["what"], row["where"]): row for row in await rows(pbal, "show limits")}
    assert found["parked polls", "site"] | {"then": ""} == {
        "what": "parked polls", "where": "site", "value": 1, "limit": 10, "percent": 10.0, "then": "",
    }  # fmt: skip
    assert found["parked requests", ""]["value"] == 1
    assert found["connections", ""]["value"] == 1
    assert found["connections", ""]["limit"] == pbal.world.room
    assert 0 < found["memory bytes", ""]["value"] < found["memory bytes", ""]["limit"]
    assert 3 < found["open files", ""]["value"] < found["open files", ""]["limit"]
    assert found["clients waiting", "site"] | {"then": ""} == {
        "what": "clients waiting", "where": "site", "value": 0, "limit": None, "percent": None, "then": "",
    }  # fmt: skip
    assert found["poll memory bytes", "site"]["limit"] == 64 << 20
    text = await pbal.say("show limits")
    assert re.search(r"^parked polls site +1 of 10 \(10.0%\): 503", text, re.MULTILINE)
    assert re.search(r"^clients waiting site +0, no limit: 503 after queue_timeout$", text, re.MULTILINE)


@lab
async def test_a_query_that_no_log_has_is_on_no_console(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pbal = await lab.pbal(CONF.format(node=f"127.0.0.1:{silent.getsockname()[1]}"))
        for number, (choice, shown) in enumerate((("on", "http://a/one?secret=x;"), ("off", "http://a/two;")), 1):
            assert await pbal.say(f"SET site.access_log_query = {choice}") == "OK"
            _, writer = await pbal.connect("site")
            writer.write(b"GET /%b?secret=x HTTP/1.1\r\nHost: a\r\n\r\n" % (b"one" if choice == "on" else b"two"))
            await pbal.until("backend_connects", number)
            assert f"; {shown}" in await pbal.say("socks")


@lab
async def test_a_query_that_a_selector_logs_not_is_on_no_console_whatever_the_selected_service_says(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    for statement in (
        "CREATE SERVICE front", "SET role = selector", "SET listen = 127.0.0.1:0", "SET default_service = site",
        "SET access_log_query = off", "ENABLE front",
    ):  # fmt: skip
        assert await pbal.say(statement) == "OK", statement
    assert (await pbal.ask("front", b"GET /one?secret=x HTTP/1.1\r\nHost: a\r\n\r\n")).status == 502
    assert [row["target"] for row in await rows(pbal, "show errors")] == ["/one"]
    assert await get(pbal, "/two?open=y") == 502
    assert [row["target"] for row in await rows(pbal, "show errors")] == ["/one", "/two?open=y"]


@lab
async def test_who_is_connected(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    for target in (b"/poll/a", b"/poll/b"):
        _, writer = await pbal.connect("site")
        writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    await pbal.until("poll_parked", 2)
    await pbal.connect("site")
    await until(lambda: len(pbal.world.clients) == 3, "three clients")
    expected = {"address": "127.0.0.1", "connections": 3, "parked": 2, "requests": 2}
    assert [{name: row[name] for name in expected} for row in await rows(pbal, "show clients")] == [expected]
    assert await rows(pbal, "show clients LIKE 10.*") == []
    assert len(await rows(pbal, "show clients LIKE 127.*")) == 1
    assert (await pbal.say("show clients")).startswith("127.0.0.1 connections 3 parked 2 requests 2 oldest ")
    await pbal.ask("site", b"GET / HTTP/9\r\n\r\n")
    for statement in ("CREATE SERVICE mgmt", "SET mgmt.role = management", "SET mgmt.listen = 127.0.0.1:0", "ENABLE mgmt"):
        assert await pbal.say(statement) == "OK"
    await pbal.ask("mgmt", b"GET /healthz HTTP/1.0\r\n\r\n")
    _, writer = await pbal.connect("mgmt")
    writer.write(b"VERBOSE off\n\n")
    states = {"parked", "lingering", "waiting", "reading_headers"}
    await until(lambda: {each.kind()[1] for each in pbal.world.clients} == states, "connections of every kind")
    await until(lambda: sum(each.requests for each in pbal.world.clients) == 2 + 1 + 2, "what was asked on them")
    for client in pbal.world.clients:
        assert client.peer_name.startswith("127.0.0.1:") and client.born >= 0
        assert client.shutdown and client.expired and client.describe().peer == client.peer_name
    (row,) = await rows(pbal, "show clients")
    assert (row["connections"], row["requests"]) == (len(pbal.world.clients), 5)


@lab
async def test_numbers_of_a_memcached(lab: Lab) -> None:
    cache = await lab.memcached()
    pbal = await lab.pbal(
        CONF.format(node="127.0.0.1:1").replace("ENABLE site", f"  SET poll_store = memcached {cache.address}\n    ENABLE site")
    )
    assert not (await pbal.say("poll publish site a hello")).startswith("ERROR")
    counters = dict(line.rpartition(" ")[::2] for line in (await pbal.say("show counters LIKE poll_*{*")).split("\n")[:-1])
    where = f'{{service="site",server="{cache.address}"}}'
    assert int(counters[f"poll_store_seconds_count{where}"]) > 0
    assert counters[f"poll_server_up{where}"] == "1"
    assert counters['poll_readers{service="site"}'] == "0"
    store = (await rows(pbal, "show store"))[0]
    assert store["round_trips"] > 0
    assert 0 < store["median_ms"] <= store["p99_ms"]
    assert (store["errors"], store["last_error"]) == (0, None)


@lab
async def test_what_is_parked_fails_too(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1").replace("ENABLE site", f"  SET access_log = {lab.folder}/log\n    ENABLE site"))
    _, writer = await pbal.connect("site")
    writer.write(b"GET /poll/a HTTP/1.1\r\nHost: a\r\n\r\n")
    await pbal.until("poll_parked", 1)
    writer.write(b"GET /poll/a HTTP/1.1\r\n" + b"X: y\r\n" * 10000)
    await pbal.until("failures", 1)
    failure = (await rows(pbal, "show errors"))[0]
    assert (failure["end"], failure["phase"], failure["status"]) == ("bad_request", "parked", 0)
    assert (failure["method"], failure["target"], failure["client"]) == ("GET", "/poll/a", "127.0.0.1")
