"""pbal.client against real pbals, which are killed and started again, and against servers that say odd things."""

import asyncio
import itertools
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cable import Cable
from lab import DEADLINE, Lab, Pbal, free_port, lab, until
from polls import get
from process import Running
from scripted import Scripted, Taken

from pbal import client as module
from pbal.client import ClientError, Message, QueueDeleted, Subscription, publish, subscribe

CONF = """
    LOAD poll
    CREATE SERVICE chat
      SET role             = web_server
      SET listen           = 127.0.0.1:%d
      SET plugins          = poll
      SET poll_uri         = ^/poll$
      SET poll_publish_uri = ^/publish(?:/(?P<queue>[^/]+))?$
      SET poll_queue       = query:q
      SET poll_format      = json
      SET poll_keep        = ttl
      %s
    ENABLE chat
"""
BOTH = pytest.mark.parametrize("transport", ["stream", "poll"])


def url(port: int, path: str = "/poll") -> str:
    return f"http://127.0.0.1:{port}{path}"


def port_of(pbal: Pbal) -> int:
    return int(pbal.server.address("chat")[1])


async def take(messages: Subscription, number: int) -> list[Message]:
    async with asyncio.timeout(DEADLINE):
        return [await anext(messages) for _ in range(number)]


def texts(messages: list[Message]) -> list[str]:
    return [message.text for message in messages]


async def say(port: int, queue: str, *found: str) -> None:
    for text in found:
        await publish(url(port, "/publish"), queue, text)


@BOTH
@lab
async def test_messages_of_several_queues_in_order_with_what_came_before(lab: Lab, transport: module.Transport) -> None:
    pbal = await lab.pbal(CONF % (0, ""))
    port = port_of(pbal)
    states: list[str] = []
    receipt = await publish(url(port, "/publish"), "a", "before")
    assert (receipt["queue"], receipt["bytes"], receipt["parked"]) == ("a", 6, 0)
    async with subscribe(url(port), "a", "b-c", transport=transport, on_state=lambda state, _: states.append(state)) as messages:
        assert texts(await take(messages, 1)) == ["before"]
        pending = asyncio.ensure_future(take(messages, 3))
        await pbal.until("poll_parked", 1)
        await say(port, "a", "1", "2")
        await say(port, "b-c", "\u00fc \u2028 \U0001f642")
        assert [(m.queue, m.text, m.after_gap) for m in await pending] == [
            ("a", "1", False),
            ("a", "2", False),
            ("b-c", "\u00fc \u2028 \U0001f642", False),
        ]
        assert messages.gaps == 0 and states == ["connecting", "open"]
    with pytest.raises(StopAsyncIteration):
        await anext(messages)
    await pbal.until("poll_parked", 0)


@lab
async def test_octets_that_are_no_text(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % (0, ""))
    await publish(url(port_of(pbal), "/publish"), "a", b"\xff\x00\xfe")
    async with subscribe(url(port_of(pbal)), "a", transport="poll") as messages:
        assert (await take(messages, 1))[0].data == b"\xff\x00\xfe"


@BOTH
@lab
async def test_what_was_not_handled_comes_again_and_a_position_goes_on(lab: Lab, transport: module.Transport) -> None:
    pbal = await lab.pbal(CONF % (0, ""))
    port = port_of(pbal)
    await say(port, "a", *(str(number) for number in range(6)))
    position = ""
    found: list[str] = []
    while len(found) < 6:  # a program that ends after each message, in the middle of the next one
        async with subscribe(url(port), "a", position=position, transport=transport) as messages:
            async with asyncio.timeout(DEADLINE):
                async for message in messages:
                    if message.text not in found:
                        found.append(message.text)
                        if len(found) == 6:
                            break
                        continue
                    break
            position = messages.position
    assert found == [str(number) for number in range(6)]
    async with subscribe(url(port), "a", transport=transport) as messages:
        await take(messages, 6)
        assert messages.position == "", "an answer of which one message is not handled"
        reading = asyncio.ensure_future(anext(messages))
        await say(port, "a", "6")
        assert (await reading).text == "6"
    async with subscribe(url(port), "a", position=messages.position, transport=transport) as messages:
        assert texts(await take(messages, 1)) == ["6"], "it was in hand, and not handled"


@BOTH
@lab
async def test_cancelled_reads_lose_nothing(lab: Lab, transport: module.Transport) -> None:
    pbal = await lab.pbal(CONF % (0, ""))
    port = port_of(pbal)
    found: list[str] = []
    async with subscribe(url(port), "a", transport=transport) as messages:
        for number in range(12):
            reading = asyncio.ensure_future(anext(messages))
            if number % 3:
                await until(lambda: reading.done() or pbal.counts["poll_parked"] == 1, "it to wait")  # noqa: B023
            await say(port, "a", str(number))
            reading.cancel()
            try:
                found.append((await reading).text)
            except asyncio.CancelledError:
                continue
        found += texts(await take(messages, 12 - len(found)))
    assert found == [str(number) for number in range(12)]


@BOTH
@lab
async def test_cut_again_and_again_it_misses_nothing(lab: Lab, transport: module.Transport) -> None:
    pbal = await lab.pbal(CONF % (0, ""))
    cable = await Cable.to(lab, port_of(pbal))

    async def write() -> None:
        for number in range(200):
            await say(port_of(pbal), "a", str(number))
            if number % 50 == 20:
                cable.cut()
            if number % 50 == 40:
                cable.mend()

    async with subscribe(url(cable.port), "a", "b", transport=transport) as messages:
        writing = asyncio.ensure_future(write())
        assert texts(await take(messages, 200)) == [str(number) for number in range(200)]
        await writing
        assert messages.gaps == 0


async def _over_a_restart(folder: Path, transport: module.Transport, more: str, number: int) -> tuple[list[Message], Subscription]:
    """Messages before and after a pbal was ended by a signal and started again."""
    port = free_port()
    path = folder / "test.conf"
    path.write_text(CONF % (port, more))
    with Running(path, port) as running:
        messages = subscribe(url(port), "a", "b", transport=transport)
        await say(port, "a", "0", "1")
        found = await take(messages, 2)
        more_to_come = asyncio.ensure_future(take(messages, 3))
        await asyncio.to_thread(running.end, number)
        with pytest.raises(ClientError) as raised:
            await say(port, "a", "nobody is there")
        assert raised.value.status == 0
        with Running(path, port):
            await say(port, "a", "2", "3", "4")
            found += await more_to_come
            await messages.aclose()
    return found, messages


@BOTH
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@lab
async def test_a_restart_with_messages_in_memory_is_a_gap_and_what_comes_after_is_there(
    lab: Lab, tmp_path: Path, number: int, transport: module.Transport
) -> None:
    found, messages = await _over_a_restart(tmp_path, transport, "", number)
    assert texts(found) == ["0", "1", "2", "3", "4"]
    assert [message.after_gap for message in found] == [False, False, True, False, False]
    assert messages.gaps == 2, "of each of its queues"


@BOTH
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@lab
async def test_a_restart_with_messages_in_memcached_loses_nothing(
    lab: Lab, tmp_path: Path, number: int, transport: module.Transport
) -> None:
    cache = await lab.memcached()
    found, messages = await _over_a_restart(tmp_path, transport, f"SET poll_store = memcached {cache.address}", number)
    assert texts(found) == ["0", "1", "2", "3", "4"]
    assert messages.gaps == 0 and not any(message.after_gap for message in found)


@BOTH
@lab
async def test_gaps_and_positions_of_elsewhere(lab: Lab, transport: module.Transport) -> None:
    pbal = await lab.pbal(CONF % (0, "SET poll_max_queue = 40"))
    port = port_of(pbal)
    gaps: list[str] = []
    await say(port, "a", "first")
    async with subscribe(url(port), "a", transport=transport) as messages:
        await take(messages, 1)
        anew = asyncio.ensure_future(anext(messages))
        await say(port, "a", "second")
        await anew
        position = messages.position
    await say(port, "a", *(f"message {number}" for number in range(9)))
    async with subscribe(url(port), "a", position=position, transport=transport, on_gap=gaps.append) as messages:
        found = await take(messages, 4)
        assert [(m.text[-1], m.after_gap) for m in found] == [("5", True), ("6", False), ("7", False), ("8", False)]
        assert gaps == ["a"] and messages.gaps == 1
    async with subscribe(url(port), "a", position="rubbish", transport=transport, on_gap=gaps.append) as messages:
        assert texts(await take(messages, 4)) == [f"message {number}" for number in range(5, 9)]
        assert gaps == ["a", "a"]


@BOTH
@lab
async def test_refusals_are_raised(lab: Lab, transport: module.Transport) -> None:
    pbal = await lab.pbal(CONF % (0, ""))
    port = port_of(pbal)
    for bad in (subscribe(url(port), "no name", transport=transport), subscribe(url(port, "/nowhere"), "a", transport=transport)):
        with pytest.raises(ClientError) as raised:
            await take(bad, 1)
        assert raised.value.status in (400, 404) and raised.value.words
    async with subscribe(url(port), "a", transport=transport) as messages:
        reading = asyncio.ensure_future(anext(messages))
        await pbal.until("poll_parked", 1)
        if transport == "poll":  # its first does not wait
            await until(
                lambda: any(reader.deadline > 4 * (pbal.world.clock.now() + 5) for reader in pbal.plugin("chat").hub.lot), "a long one"
            )
        assert (await pbal.ask("chat", get("/publish/a?readers=end", method="DELETE"))).status == 204
        with pytest.raises(QueueDeleted):
            await reading
        await say(port, "a", "anew")
        assert texts(await take(messages, 1)) == ["anew"], "and it may be asked to go on"
    with pytest.raises(ClientError) as raised:
        await publish(url(port, "/publish"), "a", "")
    assert raised.value.status == 400 and "one byte" in raised.value.words
    for wrong in ("ftp://x/", "http:///poll", "nothing"):
        with pytest.raises(ValueError, match="not an http"):
            subscribe(wrong, "a")
    with pytest.raises(ValueError, match="cannot be sent"):
        subscribe(url(port), "a", headers={"X-A": "b\r\nX-C: d"})
    with pytest.raises(ValueError, match="a queue"):
        subscribe(url(port))


@BOTH
@lab
async def test_superseded_it_stays_away_for_a_while(lab: Lab, transport: module.Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(CONF % (0, "SET poll_duplicate = newest"))
    port = port_of(pbal)
    states: list[str] = []
    async with subscribe(url(port), "a", transport=transport, on_state=lambda state, _: states.append(state)) as messages:
        reading = asyncio.ensure_future(anext(messages))
        await until(lambda: "open" in states, "the connection")
        async with subscribe(url(port), "a", transport=transport) as other:
            await say(port, "a", "0")
            assert texts(await take(other, 1)) == texts([await reading]) == ["0"]
            reading, theirs = asyncio.ensure_future(anext(messages)), asyncio.ensure_future(anext(other))
            await until(lambda: states[-1] == "superseded", "the other one to win") if transport == "stream" else None
            if transport == "poll":
                await until(lambda: pbal.counts["poll_superseded"] == 1, "one to win")
            before = pbal.counts["poll_parked_ever"]
            await say(port, "a", "1")
            done, _ = await asyncio.wait((reading, theirs), return_when=asyncio.FIRST_COMPLETED)
            assert [task.result().text for task in done] == ["1"] and pbal.counts["poll_superseded"] == 1
            assert pbal.counts["poll_parked_ever"] == before
            for task in (reading, theirs):
                task.cancel()


def scripted(*answers: bytes) -> Callable[[Taken], object]:
    """A server that gives these answers, and the last of them for ever."""
    left = itertools.chain(answers, itertools.repeat(answers[-1]))

    async def behave(taken: Taken) -> None:
        while True:
            await taken.request()
            taken.say(next(left))

    return behave


def answer(status: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]).encode() + body


MESSAGE = answer("200 OK", "Content-Type: application/json", body=b'{"queues": {"a": ["m"]}}')


@lab
async def test_where_streams_do_not_come_through_it_polls(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    pbal = await lab.pbal(CONF % (0, ""))
    held = await Scripted.start(lab)  # says nothing at all
    async with subscribe(url(port_of(pbal)), "a", transport="auto") as messages:
        await say(port_of(pbal), "a", "x")
        await take(messages, 1)
        assert messages.transport == "stream"
    silent = subscribe(f"http://{held.address}/poll", "a", position="somewhere")
    reading = asyncio.ensure_future(anext(silent))
    requests = [await (await held.connection(number)).request() for number in range(2)]
    assert b"text/event-stream" in requests[0] and b"timeout=0" in requests[1] and silent.transport == "poll"
    reading.cancel()
    server = await Scripted.start(lab, scripted(MESSAGE, answer("200 OK", "Content-Type: text/html", body=b"<p>"), MESSAGE))  # type: ignore[arg-type]
    async with subscribe(f"http://{server.address}/poll", "a") as messages:
        assert texts(await take(messages, 2)) == ["m", "m"] and messages.transport == "poll"


@lab
async def test_a_server_that_is_busy_is_given_the_time_it_asks_for(lab: Lab) -> None:
    slept: list[str] = []
    busy = answer("503 Busy", "Retry-After: 1", body=b"come later")
    server = await Scripted.start(lab, scripted(busy, answer("429 Slow"), MESSAGE))  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    async with subscribe(
        f"http://{server.address}/poll", "a", transport="poll", on_state=lambda state, words: slept.append(words)
    ) as messages:
        start = loop.time()
        assert texts(await take(messages, 1)) == ["m"]
        assert loop.time() - start >= 1.0
    assert "come later" in slept


@pytest.mark.parametrize(
    "body", [b"", b"<p>", b"[]", b"{}", b'{"queues": []}', b'{"queues": {"a": [1]}}', b'{"queues": {"a": [{"base64": "%"}]}}', b"[" * 99999]
)
@lab
async def test_answers_that_are_none(lab: Lab, body: bytes) -> None:
    server = await Scripted.start(lab, scripted(answer("200 OK", body=body)))  # type: ignore[arg-type]
    with pytest.raises(ClientError, match="poll_format"):
        await take(subscribe(f"http://{server.address}/poll", "a", transport="poll"), 1)


@pytest.mark.parametrize("body", [b"", b"<p>", b"[]", b"[" * 99999])
@lab
async def test_a_receipt_that_is_none(lab: Lab, body: bytes) -> None:
    server = await Scripted.start(lab, scripted(answer("202 Accepted", body=body)))  # type: ignore[arg-type]
    with pytest.raises(ClientError, match="no receipt"):
        await publish(f"http://{server.address}/publish", "a", "m")


@lab
async def test_octets_that_are_no_http_and_answers_that_are_cut(lab: Lab) -> None:
    replies = [b"rubbish\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"", MESSAGE]

    async def behave(taken: Taken) -> None:
        await taken.request()
        taken.say(replies.pop(0))
        if replies:
            taken.writer.close()

    server = await Scripted.start(lab, behave)
    async with subscribe(f"http://{server.address}/poll", "a", transport="poll") as messages:
        assert texts(await take(messages, 1)) == ["m"]
    assert len(server.connections) == 4
