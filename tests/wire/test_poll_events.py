"""Server-Sent Events: streams on the same queues as polls, read by a parser of the standard's own steps."""

import asyncio
from dataclasses import dataclass, field

import pytest
from lab import DEADLINE, Lab, Pbal, lab, read_response, transport_of, until
from polls import conf, empty, get, park, publish

KEPT = ("SET poll_keep = ttl", "SET poll_queue = query:q uri:queue")


@dataclass
class Event:
    """What an EventSource would dispatch."""

    data: str
    kind: str = "message"
    id: str = ""


@dataclass
class Source:
    """A client of event streams: WHATWG HTML, section 9.2.6, line by line."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    fields: dict[str, str] = field(default_factory=dict)
    retry: int = 0
    last_id: str = ""
    comments: int = 0
    ended: bool = False
    _rest: bytes = b""

    @classmethod
    async def open(cls, pbal: Pbal, path: str, *fields: str) -> "Source":
        reader, writer = await pbal.connect("chat")
        writer.write(get(path, "Accept: text/event-stream", *fields))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200 "), head
        source = cls(reader, writer)
        for line in head.split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            source.fields[name.lower()] = value
        return source

    async def _line(self) -> str:
        while b"\n" not in self._rest:
            size = int(await self.reader.readline(), 16)
            chunk = await self.reader.readexactly(size + 2)
            if size == 0:
                self.ended = True
                raise EOFError
            self._rest += chunk[:-2]
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    async def next(self) -> Event:
        data: list[str] = []
        kind = ""
        while True:
            line = await asyncio.wait_for(self._line(), DEADLINE)
            if not line:
                if data:
                    return Event("\n".join(data), kind or "message", self.last_id)
                kind = ""
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                self.comments += 1
            elif name == "data":
                data.append(value)
            elif name == "event":
                kind = value
            elif name == "id":
                self.last_id = value
            elif name == "retry":
                self.retry = int(value)

    async def take(self, number: int) -> list[str]:
        return [(await self.next()).data for _ in range(number)]

    async def end(self) -> None:
        with pytest.raises(EOFError):
            await self.next()


@lab
async def test_a_stream_gets_what_comes_and_stays(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    await publish(pbal, "a", b"before")
    source = await Source.open(pbal, "/poll/a")
    assert source.fields["content-type"] == "text/event-stream" and source.fields["cache-control"] == "no-store"
    assert await source.next() == Event("before")
    for number in range(20):
        await publish(pbal, "a", b"%d" % number)
    assert await source.take(20) == [str(number) for number in range(20)]
    assert 1000 <= source.retry <= 3000
    assert pbal.counts["poll_streams"] == pbal.counts["poll_parked"] == 1
    assert " sse" in await pbal.say("show parked")
    source.writer.close()
    await pbal.until("poll_gone", 1)
    assert empty(pbal) and pbal.counts["poll_streams"] == 0
    await publish(pbal, "a", b"kept")
    assert (await pbal.ask("chat", get("/poll/a"))).body == b"kept\n"


@lab
async def test_a_stream_goes_on_from_the_id_of_any_message(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT))
    source = await Source.open(pbal, "/poll/a")
    for number in range(5):
        await publish(pbal, "a", b"%d" % number)
    events = [await source.next() for _ in range(5)]
    again = await Source.open(pbal, "/poll/a")
    burst = [await again.next() for _ in range(5)]
    assert [event.id for event in burst] == [event.id for event in events], "one by one or in one go: the same places"
    for number, event in enumerate(events):
        behind = await Source.open(pbal, "/poll/a", f"Last-Event-ID: {event.id}")
        assert await behind.take(4 - number) == [str(later) for later in range(number + 1, 5)]
        await publish(pbal, "b", b"x")  # a turn in which nothing more comes
        assert not behind._rest
    assert pbal.counts["poll_gaps"] == 0


@lab
async def test_several_queues_name_theirs_and_one_id_covers_them(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT))
    source = await Source.open(pbal, "/poll/x?q=a&q=b")
    await publish(pbal, "b", b"1")
    await publish(pbal, "a", b"2")
    events = [await source.next(), await source.next()]
    assert [(event.kind, event.data) for event in events] == [("b", "1"), ("a", "2")]
    behind = await Source.open(pbal, "/poll/x?q=a&q=b", f"Last-Event-ID: {events[0].id}")
    assert (await behind.next()).data == "2"


@lab
async def test_a_stream_of_several_queues_beside_one_of_one(lab: Lab) -> None:
    """They are told the same, and not alike: only the first has to be told which queue it is."""
    pbal = await lab.pbal(conf("SET poll_duplicate = all", "SET poll_queue = query:q uri:queue"))
    several, one = await Source.open(pbal, "/poll/x?q=a&q=b"), await Source.open(pbal, "/poll/a")
    later = await Source.open(pbal, "/poll/x?q=a&q=b")
    await publish(pbal, "a", b"hi")
    assert await several.next() == Event("hi", "a")
    assert await one.next() == Event("hi")
    assert await later.next() == Event("hi", "a")


@lab
async def test_lines_carriage_returns_and_octets_that_are_no_text(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_framing = netstring"))
    source = await Source.open(pbal, "/poll/a")
    for message, data in (
        (b"two\nlines", "two\nlines"),
        (b"a\r\nb\rc", "a\nb\nc"),
        (b" leading: colon", " leading: colon"),
        (b"\n", "\n"),
        ("gr\u00fc\u00df".encode(), "gr\u00fc\u00df"),
        (b"\xff\xfe", '{"base64": "//4="}'),
    ):
        await publish(pbal, "a", message)
        assert (await source.next()).data == data


@lab
async def test_gaps_and_endings_are_events(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT, "SET poll_max_queue = 30"))
    first = await Source.open(pbal, "/poll/a")
    for number in range(20):
        await publish(pbal, "a", b"message %d" % number)
    old = (await first.next()).id
    behind = await Source.open(pbal, "/poll/a", f"Last-Event-ID: {old}")
    event = await behind.next()
    assert (event.kind, event.data) == ("gap", "a")
    assert (await behind.take(2))[-1] == "message 19"
    assert (await pbal.ask("chat", get("/poll/a", "Accept: text/event-stream", "Last-Event-ID: rubbish"))).status == 400
    assert (await pbal.ask("chat", get("/publish/a?readers=end", method="DELETE"))).status == 204
    assert (await behind.next()).kind == "removed"
    await behind.end()
    assert empty(pbal)


@lab
async def test_heartbeats_an_end_and_then_the_next_request(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_heartbeat = 1s", "SET poll_stream_time = 3s"))
    source = await Source.open(pbal, "/poll/a")
    await source.end()
    assert source.comments == 2 and pbal.counts["poll_empty"] == 1 and empty(pbal)
    source.writer.write(get("/poll/a?timeout=0"))
    assert (await read_response(source.reader)).status == 204


@lab
async def test_newest_supersedes_streams_and_polls_alike(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    stream = await Source.open(pbal, "/poll/a")
    reader, _ = await park(pbal, "/poll/a")
    assert (await stream.next()).kind == "superseded"
    await stream.end()
    later = await Source.open(pbal, "/poll/a")
    assert (await read_response(reader)).status == 409
    await publish(pbal, "a", b"m")
    assert (await later.next()).data == "m"


@lab
async def test_streams_outlive_a_reload_and_end_with_disable(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT))
    sources = [await Source.open(pbal, "/poll/a") for _ in range(5)]
    for number in range(10):
        await publish(pbal, "a", b"%d" % number)
        assert await pbal.say("RELOAD poll") == "OK"
    for source in sources:
        assert await source.take(10) == [str(number) for number in range(10)]
    assert pbal.counts["poll_streams"] == 5
    assert await pbal.say("DISABLE chat") == "OK"
    for source in sources:
        await source.end()
    assert pbal.counts["poll_streams"] == 0


@lab
async def test_a_stream_that_does_not_read_is_closed_and_loses_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_stream_buffer = 64k", "SET poll_max_queue = 64m"))
    source = await Source.open(pbal, "/poll/a")
    transport_of(source.writer).pause_reading()
    number = 0
    while not pbal.counts["poll_slow_streams"]:
        await publish(pbal, "a", b"%06d" % number + b"x" * 50_000)
        number += 1
        assert number < 2000, "nobody ends it"
    await until(lambda: pbal.counts["poll_parked"] == 0, "it to be out of the lot")
    transport_of(source.writer).resume_reading()
    got: list[str] = []
    try:
        while True:
            got.append((await source.next()).data[:6])
    except (EOFError, OSError, asyncio.IncompleteReadError, ValueError):
        pass
    left = (await pbal.ask("chat", get("/poll/a"))).body.split(b"\n")[:-1]
    numbers = sorted({int(message) for message in got} | {int(message[:6]) for message in left})
    assert numbers == list(range(number)), "what it did not take is there for who comes next"


@pytest.mark.parametrize("more", [KEPT, ("SET poll_duplicate = all",)], ids=["ttl", "taken"])
def test_one_room_many_readers_one_body(more: tuple[str, ...]) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(conf(*more))
        sources = [await Source.open(pbal, "/poll/room") for _ in range(150)]
        await publish(pbal, "room", b"hello")
        events = [await source.next() for source in sources]
        assert {(event.data, event.id) for event in events} == {("hello", events[0].id)}
        hub = pbal.plugin("chat").hub
        late = hub.lot.waiting(b"poll:room")[-1]
        for number in range(20):  # more than can be told in that time: what waits is told together, whoever comes meanwhile
            hub.store.append(b"poll:room", b"%d\n" % number, lambda error: None)
            hub.store.began(late, ())
        assert len([job for job in hub.turns._jobs if len(job.polls) > 1]) <= 2
        for source in sources:
            assert [(await source.next()).data for _ in range(20)] == [str(number) for number in range(20)]

    run()


@lab
async def test_cors_and_old_clients(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_allow_origin = https://good.example"))
    source = await Source.open(pbal, "/poll/a", "Origin: https://good.example")
    assert source.fields["access-control-allow-origin"] == "https://good.example"
    reader, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/b HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
    await pbal.until("poll_parked", 2)
    await publish(pbal, "b", b"m")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head and b"Connection: close" in head
    assert (await reader.readuntil(b"data: m\n\n")).startswith(b"retry: ")


@lab
async def test_a_stream_for_which_messages_are_kept_takes_a_place_like_any_other(lab: Lab) -> None:
    pbal = await lab.pbal(conf(*KEPT, "SET poll_duplicate = newest"))
    await publish(pbal, "a", b"kept")
    first = await Source.open(pbal, "/poll/a")
    assert (await first.next()).data == "kept"
    second = await Source.open(pbal, "/poll/a")
    assert (await second.next()).data == "kept"
    assert (await first.next()).kind == "superseded"
    await first.end()
    assert await pbal.say("SET chat.poll_max_parked = 1") == "OK"
    assert (await pbal.ask("chat", get("/poll/a", "Accept: text/event-stream"))).status == 503
    assert pbal.counts["poll_full"] == pbal.counts["poll_parked"] == 1
