"""`trace`: what happens to a service, a client, a queue, a line an event, until a line comes."""

import asyncio
import json
from typing import Any

import pytest
from lab import DEADLINE, Lab, Pbal, free_port, lab, until
from sites import CONSOLE, FRONT, POLLS

from pbal.observe.tracer import CLIENT, MOST, SERVICE, Event, Follower, Tracer

CONF = POLLS + "\n    ENABLE site\n" + FRONT + CONSOLE


async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Trace:
    """A console that follows something."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def line(self) -> str:
        async with asyncio.timeout(DEADLINE):
            return (await self.reader.readline()).decode().removesuffix("\r\n")

    async def until(self, *words: str) -> list[str]:
        """Lines up to the one that has all these words; without the time."""
        lines: list[str] = []
        while not lines or not all(word in lines[-1] for word in words):
            lines.append((await self.line()).partition(" ")[2])
        return lines


async def follow(pbal: Pbal, statement: str) -> Trace:
    reader, writer = await pbal.connect("console")
    writer.write(statement.encode() + b"\n")
    await until(lambda: pbal.world.tracer is not None, "somebody to follow")
    return Trace(reader, writer)


@lab
async def test_a_service_is_followed_from_the_accept_to_the_close(lab: Lab) -> None:
    origin = await lab.origin(node)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    trace = await follow(pbal, "trace site")
    assert await trace.line() == "following service site: Enter ends it"
    reader, writer = await pbal.connect("site")
    peer = "{}:{}".format(*writer.get_extra_info("sockname"))
    writer.write(b'GET /a?"b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n')
    await reader.read()
    writer.close()
    lines = await trace.until("closed")
    assert all(line.startswith(f"{peer} site ") for line in lines)
    said = [line.removeprefix(f"{peer} site ").partition(":") for line in lines]
    assert [what for what, _, _ in said] == ["accepted", "request", "connecting", "asked", "node answered", "ended", "closed"]
    details = {what: detail.strip() for what, _, detail in said}
    assert details["request"] == "GET /a?\\x22b for h"
    assert details["connecting"] == f"to {origin.address}"
    assert details["asked"].startswith(f"{origin.address} on a new connection, attempt 1, ")
    assert details["node answered"].startswith(f"{origin.address}: status 200, ")
    assert details["ended"].startswith("status 200, done in answer, ") and details["ended"].endswith(" ms, 2 bytes")
    trace.writer.write(b"\n")
    assert await trace.line() == "."
    await until(lambda: pbal.world.tracer is None, "nobody to follow")
    assert all(service.tracer is None for service in pbal.world.services.values())
    trace.writer.write(b"version\n")
    assert (await trace.line()).startswith("starttime")


@lab
async def test_what_a_selector_hands_on_is_of_both_services(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node=f"127.0.0.1:{free_port()}"))
    front, site = await follow(pbal, "TRACE service FRONT"), await follow(pbal, "trace site")
    await until(lambda: pbal.world.tracer is not None and len(pbal.world.tracer.followers) == 2, "two who follow")
    assert (await pbal.ask("front", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).status == 502
    seen = [line.split(" ", 1)[1] for line in await site.until("ended")]
    await front.line()
    assert [line.split(" ", 1)[1] for line in await front.until("ended")][2:] == seen[1:]
    assert seen[1].startswith("site handed on: GET / for h by front")
    assert any(line.startswith("site connect failed: ") and line.endswith(": connection refused") for line in seen)
    assert "502, node_broke in wait" in seen[-1]


@lab
async def test_a_queue_is_followed(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    trace = await follow(pbal, "trace lobby AS JSON")
    polls = [await pbal.connect("site") for _ in range(2)]
    for (_, writer), queue in zip(polls, (b"lobby", b"other"), strict=True):
        writer.write(b"GET /poll/" + queue + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    await pbal.until("poll_parked", 2)
    await pbal.ask("site", b"POST /publish/lobby HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
    events: list[dict[str, Any]] = [json.loads(await trace.line()) for _ in range(3)]
    assert sorted(event["what"] for event in events) == ["given", "published", "waits"]
    assert all(event["queues"] == ["lobby"] and event["service"] == "site" for event in events)
    waits = events[0]
    assert waits["client"] == "{}:{}".format(*polls[0][1].get_extra_info("sockname"))
    trace.writer.write(b"quit\n")
    assert await trace.line() == "."
    assert await trace.reader.read() == b""


@lab
async def test_a_client_is_followed_by_address_and_by_port(lab: Lab) -> None:
    origin = await lab.origin(node)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    _, other = await pbal.connect("site")
    reader, writer = await pbal.connect("site")
    peer = "{}:{}".format(*writer.get_extra_info("sockname"))
    trace = await follow(pbal, f"trace {peer}")
    assert await trace.line() == f"following client {peer}: Enter ends it"
    for each in (other, writer):
        each.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await reader.readuntil(b"ok")
    lines = await trace.until("ended")
    assert [line.split(" ")[0] for line in lines] == [peer] * len(lines)
    everything = await follow(pbal, "trace client 127.0.0.1")
    await until(lambda: pbal.world.tracer is not None and len(pbal.world.tracer.followers) == 2, "two who follow")
    other.close()
    assert "closed" in (await everything.until("closed"))[-1]


@lab
async def test_an_end_and_a_lost_connection_end_it_too(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    trace = await follow(pbal, "trace site")
    trace.writer.write_eof()
    assert (await trace.reader.read()).endswith(b".\r\n")
    await until(lambda: pbal.world.tracer is None, "nobody to follow")
    trace = await follow(pbal, "trace site")
    trace.writer.transport.abort()
    await until(lambda: pbal.world.tracer is None, "nobody to follow")
    reader, writer = await pbal.connect("console")
    writer.write(b"trace site\nversion\ntrace sight\n")
    assert [(await reader.readline()).decode().split(" ")[0] for _ in range(3)] == ["following", ".\r\n", "starttime"]


@lab
async def test_what_is_nothing_cannot_be_followed(lab: Lab) -> None:
    lines = [line for line in CONF.format(node="127.0.0.1:1").split("\n") if "poll" not in line]
    pbal = await lab.pbal("\n".join(lines))
    assert "did you mean 'site'" in await pbal.say("trace sit")
    assert (await pbal.say("trace service nothing")).startswith("ERROR: ")


def test_a_slow_reader_loses_lines_and_is_told_how_many() -> None:
    woken: list[None] = []
    follower = Follower(SERVICE, "site", lambda: woken.append(None))
    tracer = Tracer(lambda: 0.0)
    tracer.followers.append(follower)
    for number in range(MOST + 3):
        tracer.tell("front", "site", "127.0.0.1:1", "127.0.0.1", f"event {number}")
    tracer.tell("front", "elsewhere", "127.0.0.1:1", "127.0.0.1", "not wanted")
    events, lost = follower.take()
    assert (len(events), lost, len(woken)) == (MOST, 3, MOST)
    assert events[0].what == "event 0"
    assert follower.take() == ([], 0)


@pytest.mark.parametrize(
    ("name", "peer", "wanted"),
    [
        ("::1", "::1:5000", True),
        ("::1:5000", "[::1]:5000", True),
        ("127.0.0.1", "127.0.0.1:80", True),
        ("127.0.0.1:8", "127.0.0.1:80", False),
        ("192.0.2.1", "127.0.0.1:80", True),
    ],
)
def test_a_client_is_meant_by_its_address(name: str, peer: str, wanted: bool) -> None:
    assert Follower(CLIENT, name, lambda: None).wants("front", "site", peer, "192.0.2.1", ()) is wanted


@lab
async def test_a_line_ends_it_however_much_happens(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    trace = await follow(pbal, "trace site")
    follower = pbal.world.tracer.followers[0] if pbal.world.tracer is not None else None
    assert follower is not None
    wake, more = follower.wake, Event(0.0, "", "site", "more", "", ())

    def again() -> None:
        wake()
        asyncio.get_running_loop().call_soon(follower.put, more)

    follower.wake = again
    follower.put(more)
    await trace.until("more")
    trace.writer.write(b"\n")
    await until(lambda: pbal.world.tracer is None, "its end")
    follower.wake = wake


@lab
async def test_addresses_of_six_are_known(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    for said, meant in ((b"trace ::1", "client ::1"), (b"trace [::1]:80", "client ::1:80"), (b"trace ::z", "queue ::z")):
        reader, writer = await pbal.connect("console")
        writer.write(said + b"\n\n")
        assert (await reader.readline()).decode().startswith(f"following {meant}: ")
    assert "expected an address, found 'site'" in await pbal.say("trace client site")
