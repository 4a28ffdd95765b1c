"""pbal.js in a real browser: windows that share, transports that fail, servers that say no; and Chromium's own EventSource."""

import asyncio
import json
from pathlib import Path
from typing import Any

from browser import Browser, needs_chromium
from cable import Cable
from lab import Lab, Pbal, lab, until
from polls import get
from scripted import Scripted, Taken

PAGE = Path(__file__).parent.parent.parent / "examples" / "chat"
CONF = f"""
    LOAD poll
    CREATE SERVICE chat
      SET role             = web_server
      SET listen           = 127.0.0.1:0
      SET docroot          = {PAGE}
      SET plugins          = poll
      SET poll_uri         = ^/poll$
      SET poll_publish_uri = ^/publish(?:/(?P<queue>[^/]+))?$
      SET poll_queue       = query:q
      SET poll_format      = json
      SET poll_keep        = ttl
      %s
    ENABLE chat
"""
READ = """
    window.got = []; window.gaps = []; window.states = [];
    return import('/client/pbal.js').then(({subscribe}) => {
      window.reading = subscribe(%s, {
        onMessage: (queue, message) => got.push([queue, message]),
        onGap: (queue) => gaps.push([queue, got.length]),
        onState: (state, detail) => { window.state = {state, ...detail}; states.push(window.state); },
        ...%s});
      return true;
    });
"""
OPEN = "window.state?.state === 'open'"
pytestmark = needs_chromium


def port_of(pbal: Pbal) -> int:
    return int(pbal.server.address("chat")[1])


async def window(browser: Browser, port: int) -> str:
    """A window of a pbal's origin, without a page."""
    return await browser.window(f"http://127.0.0.1:{port}/client/pbal.js")


async def read(browser: Browser, where: str, *queues: str, url: str = "/poll", **options: Any) -> None:
    assert await browser.script(where, READ % (json.dumps(url), json.dumps({"queues": queues, **options})))


async def reader(browser: Browser, port: int, *queues: str, **options: Any) -> str:
    """A window that reads queues."""
    where = await window(browser, port)
    await read(browser, where, *queues, **options)
    return where


async def publish(pbal: Pbal, queue: str, *messages: str) -> None:
    for message in messages:
        assert (await pbal.ask("chat", get(f"/publish/{queue}", method="POST", body=message.encode()))).status == 202


async def got(browser: Browser, where: str, number: int) -> list[list[str]]:
    """What came to a window: so many messages, when they are there, and not one more."""
    await browser.wait(where, f"got.length >= {number}")
    found: list[list[str]] = await browser.script(where, "return got")
    return found


async def state(browser: Browser, where: str) -> dict[str, Any]:
    found: dict[str, Any] = await browser.script(where, "return window.state")
    return found


def numbers(start: int, end: int, queue: str = "a") -> list[list[str]]:
    return [[queue, str(number)] for number in range(start, end)]


@lab
async def test_windows_share_one_connection_and_pass_it_on(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    async with Browser() as browser:
        await publish(pbal, "a", "0")
        windows = [await reader(browser, port_of(pbal), "a")]
        await browser.wait(windows[0], OPEN)
        await publish(pbal, "a", "1")
        for name in ("b", "c"):
            windows.append(await reader(browser, port_of(pbal), "a", name))
            await browser.wait(windows[-1], OPEN)
        for where in windows:
            assert await got(browser, where, 2) == numbers(0, 2), "also those that came before the window"
        await until(lambda: pbal.plugin("chat").hub.lot.has(b"poll:c"), "the queues of all")
        await pbal.until("poll_parked", 1)
        assert [(await state(browser, where))["role"] for where in windows] == ["leader", "follower", "follower"]

        count = 2
        while len(windows) > 1:
            leaving = windows.pop(0)
            ending = asyncio.ensure_future(browser.end(leaving))  # while messages come
            for _ in range(50):
                await publish(pbal, "a", str(count))
                count += 1
            await ending
            await browser.wait(windows[0], "window.state.role === 'leader' && window.state.state === 'open'")
            for where in windows:
                assert await got(browser, where, count) == numbers(0, count)
            await pbal.until("poll_parked", 1)
        await publish(pbal, "c", "for c")
        assert await got(browser, windows[0], count + 1) == [*numbers(0, count), ["c", "for c"]]
        assert pbal.counts["poll_gaps"] == 0


@lab
async def test_a_window_changes_its_queues(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    async with Browser() as browser:
        await publish(pbal, "b", "1", "2")
        first, second = [await reader(browser, port_of(pbal), "a") for _ in range(2)]
        for where in (first, second):
            await browser.wait(where, OPEN)
        await publish(pbal, "a", "0")
        for where in (first, second):
            await got(browser, where, 1)
        for where in (second, first):  # the second brings it to the connection, the first gets what is there already
            await browser.script(where, "reading.change(['b', 'a'])")
            assert await got(browser, where, 3) == [["a", "0"], ["b", "1"], ["b", "2"]]
        await browser.script(second, "reading.change(['b'])")
        await browser.script(first, "reading.change(['b'])")
        await until(lambda: not pbal.plugin("chat").hub.lot.has(b"poll:a"), "that nobody reads it")
        await publish(pbal, "a", "unread")
        await publish(pbal, "b", "3")
        for where in (first, second):
            assert (await got(browser, where, 4))[3:] == [["b", "3"]]
        await browser.script(first, "reading.change(['a', 'b'])")
        assert (await got(browser, first, 6))[4:] == [["a", "0"], ["a", "unread"]], "from its beginning"
        third = await reader(browser, port_of(pbal), "a", "b")
        assert sorted(await got(browser, third, 5)) == [["a", "0"], ["a", "unread"], ["b", "1"], ["b", "2"], ["b", "3"]]
        assert len(await got(browser, second, 4)) == 4
        await pbal.until("poll_parked", 1)


@lab
async def test_who_cannot_be_served_from_where_it_stands_reads_alone(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    async with Browser() as browser:
        await publish(pbal, "a", "0", "1")
        first = await reader(browser, port_of(pbal), "a", store="place")
        await got(browser, first, 2)
        place = await browser.script(first, "return reading.position")
        assert place == await browser.script(first, "return sessionStorage.place")
        await publish(pbal, "a", "2")
        await got(browser, first, 3)
        second = await reader(browser, port_of(pbal), "a", position=place)
        assert await got(browser, second, 1) == [["a", "2"]]
        assert (await state(browser, second))["role"] == "alone"
        apart = await reader(browser, port_of(pbal), "a", share=False)
        assert await got(browser, apart, 3) == numbers(0, 3)
        await pbal.until("poll_parked", 3)
        await browser.call("POST", "/window", handle=first)
        await browser.call("POST", "/refresh")
        await publish(pbal, "a", "3")
        await read(browser, first, "a", store="place")
        assert await got(browser, first, 1) == [["a", "3"]], "a reload goes on where it was"
        many = await reader(browser, port_of(pbal), *(f"q{number}" for number in range(32)))
        await browser.wait(many, OPEN)
        assert (await state(browser, many))["role"] == "alone", "more queues than one request may ask for"


@lab
async def test_a_hidden_window_gives_the_connection_up_and_resumes_by_its_position(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    hide = (
        "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    async with Browser() as browser:
        first = await reader(browser, port_of(pbal), "a", hiddenAfter=50)
        await browser.wait(first, OPEN)
        await publish(pbal, "a", "0")
        await got(browser, first, 1)
        await browser.script(first, hide % "true")
        await browser.wait(first, "window.state.state === 'paused'")
        await pbal.until("poll_parked", 0)
        await publish(pbal, "a", "1", "2")
        assert len(await got(browser, first, 1)) == 1
        await browser.script(first, hide % "false")
        assert await got(browser, first, 3) == numbers(0, 3)

        second = await reader(browser, port_of(pbal), "a", hiddenAfter=50)
        await browser.wait(second, OPEN)
        await browser.script(first, hide % "true")
        await browser.wait(second, "window.state.role === 'leader' && window.state.state === 'open'")
        await publish(pbal, "a", "3")
        for where in (first, second):
            assert await got(browser, where, 4) == numbers(0, 4), "a hidden window is told what the other one reads"
        await browser.script(second, hide % "true")
        await pbal.until("poll_parked", 0)
        await publish(pbal, "a", "4")
        await browser.script(first, hide % "false")
        for where in (first, second):
            assert await got(browser, where, 5) == numbers(0, 5)


@lab
async def test_the_best_transport_that_works_and_it_is_remembered(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    no_sockets = await Cable.to(lab, port_of(pbal), lambda head: b"Upgrade: websocket" in head)
    nothing = await Cable.to(lab, port_of(pbal), lambda head: b"Upgrade: websocket" in head or b"text/event-stream" in head)
    async with Browser() as browser:
        for port, transport, cable in (
            (port_of(pbal), "websocket", None),
            (no_sockets.port, "sse", no_sockets),
            (nothing.port, "poll", nothing),
        ):
            where = await reader(browser, port, "a", "constructor")  # which every object of JavaScript has
            await browser.wait(where, OPEN)
            assert (await state(browser, where))["transport"] == transport
            before = len(await got(browser, where, 0))
            await publish(pbal, "constructor", transport)
            assert (await got(browser, where, before + 1))[-1] == ["constructor", transport]
            if cable is not None:
                refused = cable.refused
                await browser.call("POST", "/refresh")
                await read(browser, where, "a")
                await browser.wait(where, OPEN)
                assert (await state(browser, where))["transport"] == transport and cable.refused == refused
                cable.cut()
                await browser.wait(where, "window.state.state === 'lost'")
                cable.mend()
                await browser.wait(where, OPEN)
                assert (await state(browser, where))["transport"] == transport and cable.refused == refused
            await browser.end(where)


@lab
async def test_cut_again_and_again_it_misses_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    cable = await Cable.to(lab, port_of(pbal))
    async with Browser() as browser:
        for transport in ("websocket", "sse", "poll"):
            queue = f"of-{transport}"
            where = await reader(browser, cable.port, queue, "other", transports=[transport])
            await browser.wait(where, OPEN)
            for number in range(120):
                await publish(pbal, queue, str(number))
                if number % 40 == 20:
                    cable.cut()
                if number % 40 == 30:
                    cable.mend()
            assert await got(browser, where, 120) == numbers(0, 120, queue)
            assert await browser.script(where, "return gaps") == []
            await browser.end(where)


@lab
async def test_superseded_it_waits_until_somebody_looks(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "SET poll_duplicate = newest")
    async with Browser() as browser:
        for transport in ("websocket", "sse", "poll"):
            before = pbal.counts["poll_superseded"]
            first = await reader(browser, port_of(pbal), "a", share=False, transports=[transport])
            await browser.wait(first, OPEN)
            second = await reader(browser, port_of(pbal), "a", share=False, transports=[transport])
            await browser.wait(first, "window.state.state === 'superseded'")
            await browser.wait(second, OPEN)
            there = len(await got(browser, second, 0))
            await publish(pbal, "a", "1", "2")
            await got(browser, second, there + 2)
            assert pbal.counts["poll_superseded"] - before == 1 and (await state(browser, first))["state"] == "superseded"
            await browser.script(first, "reading.resume()")
            await browser.wait(second, "window.state.state === 'superseded'")
            await got(browser, first, there + 2)
            await browser.end(second)
            await browser.end(first)


@lab
async def test_deleted_queues_and_positions_of_elsewhere(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    async with Browser() as browser:
        for transport in ("websocket", "sse", "poll"):
            where = await reader(browser, port_of(pbal), "a", share=False, transports=[transport])
            await browser.wait(where, OPEN)
            await pbal.until("poll_parked", 1)
            assert (await pbal.ask("chat", get("/publish/a?readers=end", method="DELETE"))).status == 204
            await browser.wait(where, "window.state.state === 'removed'")
            await publish(pbal, "a", "anew")
            await browser.script(where, "dispatchEvent(new Event('focus'))")
            assert (await state(browser, where))["state"] == "removed"
            await browser.script(where, "reading.resume()")
            assert await got(browser, where, 1) == [["a", "anew"]]
            await browser.end(where)

            where = await reader(browser, port_of(pbal), "a", position="x" * 32, transports=[transport])
            assert await got(browser, where, 1) == [["a", "anew"]]
            assert await browser.script(where, "return gaps") == [["a", 0]]
            await browser.wait(where, OPEN)
            await browser.end(where)
            assert (await pbal.ask("chat", get("/publish/a", method="DELETE"))).status == 204
        where = await reader(browser, port_of(pbal), "no name with spaces")
        await browser.wait(where, "window.state.state === 'refused'")
        assert "spaces" in (await state(browser, where))["words"]


@lab
async def test_what_a_server_asks_for_is_honoured(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "SET poll_allow_origin = *")
    cors = "Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: Retry-After\r\n"
    answers = [
        f"HTTP/1.1 {status}\r\n{cors}{fields}Content-Length: {len(words)}\r\n\r\n{words}".encode()
        for status, fields, words in (
            ("503 Busy", "Retry-After: 1\r\n", "busy"),
            ("429 Slow", "Retry-After: 2\r\n", "slow"),
            ("403 No", "", "not you"),
        )
    ]

    async def say(taken: Taken) -> None:
        while True:
            await taken.request()
            taken.say(answers.pop(0))

    server = await Scripted.start(lab, say)
    async with Browser() as browser:
        where = await window(browser, port_of(pbal))
        await read(browser, where, "a", url=f"http://{server.address}/poll")
        await browser.wait(where, "window.state?.state === 'refused'")
        told = await browser.script(
            where, "return states.map(({state, words, wait}) => [state, words, wait >= 2000 ? 2 : wait >= 1000 ? 1 : 0])"
        )
        assert told == [["connecting", None, 0], ["lost", "busy", 1], ["lost", "slow", 2], ["refused", "not you", 0]]


@lab
async def test_the_browsers_own_event_source(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "SET poll_max_queue = 1k")
    async with Browser() as browser:
        where = await window(browser, port_of(pbal))
        await browser.script(
            where,
            """
            window.got = []; window.ids = []; window.opens = 0; window.told = [];
            window.source = new EventSource('/poll?q=a&q=b');
            source.onopen = () => opens += 1;
            for (const name of ['a', 'b'])
                source.addEventListener(name, (event) => { got.push([name, event.data]); ids.push(event.lastEventId); });
            for (const name of ['gap', 'superseded', 'removed'])
                source.addEventListener(name, (event) => told.push([name, event.data]));
            """,
        )
        await browser.wait(where, "opens === 1")
        await publish(pbal, "a", "0", "1")
        await publish(pbal, "b", "two words", "\u00fc\u2028\U0001f642")
        expected = [*numbers(0, 2), ["b", "two words"], ["b", "\u00fc\u2028\U0001f642"]]
        assert await got(browser, where, 4) == expected
        assert len(set(await browser.script(where, "return ids"))) == 4
        assert await pbal.say("poll kick a") == "OK"
        await publish(pbal, "a", "2")  # while it is away: it comes back by itself, with Last-Event-ID
        assert await got(browser, where, 5) == [*expected, ["a", "2"]]
        await browser.wait(where, "opens === 2")
        assert await browser.script(where, "return told") == []
        await pbal.until("poll_parked", 1)
        assert await pbal.say("poll kick a") == "OK"
        await publish(pbal, "b", *("x" * 200 for _ in range(8)))
        await browser.wait(where, "told.length === 1 && got.length > 5")
        assert await browser.script(where, "return told") == [["gap", "b"]]
        await browser.script(where, "source.close()")
        await pbal.until("poll_parked", 0)


@lab
async def test_without_web_locks_each_window_reads_alone(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    async with Browser() as browser:
        windows = [await window(browser, port_of(pbal)) for _ in range(2)]
        for where in windows:
            await browser.script(where, "Object.defineProperty(navigator, 'locks', {value: undefined})")
            await read(browser, where, "a")
            await browser.wait(where, OPEN)
        await pbal.until("poll_parked", 2)
        await publish(pbal, "a", "0", "1")
        for where in windows:
            assert await got(browser, where, 2) == numbers(0, 2)
            assert (await state(browser, where))["role"] == "alone"


@lab
async def test_a_socket_confirms_what_has_arrived(lab: Lab) -> None:
    pbal = await lab.pbal((CONF % "").replace("poll_keep        = ttl", "poll_keep        = confirmed"))
    async with Browser() as browser:
        where = await reader(browser, port_of(pbal), "a", confirm=True)
        await browser.wait(where, OPEN)
        await publish(pbal, "a", "0", "1", "2")
        assert await got(browser, where, 3) == numbers(0, 3)
        store = pbal.plugin("chat").hub.store
        await until(lambda: not any(True for _ in store.names()), "the queue to be emptied")
        assert await browser.script(where, "return states.length") == 2, "connecting, open, and nothing since"


@lab
async def test_a_url_is_asked_for_whenever_it_connects_and_publish_tells(lab: Lab) -> None:
    pbal = await lab.pbal(CONF % "")
    cable = await Cable.to(lab, port_of(pbal))
    async with Browser() as browser:
        where = await window(browser, cable.port)
        script = (READ % ("() => `/poll?number=${++window.number}`", json.dumps({"queues": ["a"]}))).replace(
            "window.got", "window.number = 0; window.got"
        )
        assert await browser.script(where, script)
        await browser.wait(where, OPEN)
        before = await browser.script(where, "return number")
        cable.cut()
        await browser.wait(where, "window.state.state === 'lost'")
        cable.mend()
        await browser.wait(where, OPEN)
        assert await browser.script(where, "return number") > before
        tell = "return import('/client/pbal.js').then(({publish}) => publish('/publish', 'a', %s)).catch(error => error.message)"
        receipt = await browser.script(where, tell % "'said'")
        assert (receipt["queue"], receipt["bytes"], receipt["parked"]) == ("a", 4, 1)
        assert await got(browser, where, 1) == [["a", "said"]]
        assert "one byte" in await browser.script(where, tell % "''")
