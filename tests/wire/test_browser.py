"""The chat page in a real browser, with nothing but pbal behind it, on each transport."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest
from browser import Browser, needs_chromium
from cable import Cable
from lab import Lab, Pbal, free_port, lab
from polls import get
from process import Running

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TRANSPORTS = {"websocket": "WebSocket", "sse": "event stream", "poll": "long poll"}
CONNECTED = "document.getElementById('state').textContent === 'connected'"
LOST = "document.getElementById('state').className === 'bad'"
TRANSPORT = "document.getElementById('transport').textContent"
LINES = "[...document.querySelectorAll('main ol:not([hidden]) .said')]"
DIVIDERS = "[...document.querySelectorAll('main ol:not([hidden]) .divider')].map(li => li.textContent)"
HERE = "[...document.querySelectorAll('#people bdi')].map(name => name.textContent)"
pytestmark = needs_chromium


def conf(more: str = "", port: int = 0) -> str:
    """examples/chat.conf, on a free port and without its console."""
    text = (EXAMPLES / "chat.conf").read_text()
    text = text[: text.index("# telnet")].replace("= chat  ", f"= {EXAMPLES / 'chat'}  ").replace(":8080\n", f":{port}\n")
    return text.replace("ENABLE chat", f"{more}\nENABLE chat")


class Chat:
    """The chat in a process of its own, which can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._path = folder / "chat.conf"
        self._path.write_text(conf(port=self.port))
        self.running: Running

    def __enter__(self) -> "Chat":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running.__exit__()

    def start(self) -> None:
        self.running = Running(self._path, self.port)

    def end(self, number: int) -> None:
        self.running.end(number)


def url(port: int, more: str = "") -> str:
    return f"http://127.0.0.1:{port}/{more}"


def port_of(pbal: Pbal) -> int:
    return int(pbal.server.address("chat")[1])


def say(text: str) -> str:
    return f"document.getElementById('text').value = {json.dumps(text)}; document.getElementById('form').requestSubmit();"


def called(name: str) -> str:
    return f"const name = document.getElementById('name'); name.value = {json.dumps(name)}; name.dispatchEvent(new Event('change'));"


def shows(text: str) -> str:
    """Once, arrived, in the room that is open."""
    return f"{LINES}.filter(li => li.textContent.includes({json.dumps(text)}) && !li.classList.contains('pending')).length === 1"


async def publish(pbal: Pbal, queue: str, text: str) -> None:
    assert (await pbal.ask("chat", get(f"/publish/{queue}", method="POST", body=text.encode()))).status == 202


@pytest.mark.parametrize("transport", TRANSPORTS)
@lab
async def test_windows_talk_and_mend_themselves_when_pbal_is_killed_and_started_again(lab: Lab, tmp_path: Path, transport: str) -> None:
    with Chat(tmp_path) as chat:
        async with Browser() as browser:
            page = url(chat.port, f"?transport={transport}")
            first = await browser.window(page)
            await browser.wait(first, CONNECTED)
            await browser.wait(first, f"{TRANSPORT} === {TRANSPORTS[transport]!r}")
            await browser.script(first, called("Ann"))
            await browser.script(first, say("said alone"))
            await browser.wait(first, shows("said alone"))

            second = await browser.window(page)
            await browser.wait(second, shows("said alone"))
            await browser.wait(second, CONNECTED)
            await browser.script(second, called("Bob"))
            await browser.script(second, say("and an answer"))
            await browser.wait(first, shows("and an answer"))
            await browser.wait(first, "/^[0-9.]+ ms, /.test(document.getElementById('latency').textContent)")

            for number in (signal.SIGKILL, signal.SIGTERM):
                await asyncio.to_thread(chat.end, number)
                for window in (first, second):
                    await browser.wait(window, LOST)
                await asyncio.to_thread(chat.start)
                for window in (first, second):
                    await browser.wait(window, CONNECTED)
                await browser.script(second, say(f"after {number:d}"))
                await browser.wait(first, shows(f"after {number:d}"))
                await browser.wait(second, shows(f"after {number:d}"))
            for window in (first, second):  # what pbal had in its memory went with it: that is said, and nothing else is
                assert await browser.script(window, f"return {DIVIDERS}") == ["some messages are missing here"] * 2
                assert await browser.script(window, f"return {LINES}.length") == 4
                assert await browser.complaints(window, "Content Security Policy") == []


@pytest.mark.parametrize("transport", TRANSPORTS)
@lab
async def test_what_was_missed_while_the_connection_was_away(lab: Lab, transport: str) -> None:
    pbal = await lab.pbal(conf())
    cable = await Cable.to(lab, port_of(pbal))
    async with Browser() as browser:
        window = await browser.window(url(cable.port, f"?transport={transport}"))
        await browser.wait(window, CONNECTED)
        await publish(pbal, "lobby", "before")
        await browser.wait(window, shows("before"))
        cable.cut()
        await browser.wait(window, LOST)
        await browser.script(window, say("from the lost window"))
        await browser.wait(window, "document.querySelector('.said.failed button')")
        for number in range(5):
            await publish(pbal, "lobby", f"while you were away {number}")
        cable.mend()
        await browser.wait(window, CONNECTED)
        for number in range(5):
            await browser.wait(window, shows(f"while you were away {number}"))
        assert await browser.script(window, f"return {DIVIDERS}") == ["while the connection was away"]
        await browser.script(window, "document.querySelector('.said.failed button').click()")
        await browser.wait(window, shows("from the lost window"))
        assert pbal.counts["poll_gaps"] == 0


@lab
async def test_rooms_names_and_messages_of_strangers(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    async with Browser() as browser:
        first = await browser.window(url(port_of(pbal)))
        await browser.wait(first, CONNECTED)
        second = await browser.window(url(port_of(pbal), "#garden"))
        await browser.wait(second, CONNECTED)
        evil = '<img src=x onerror="document.title=1"> javascript:alert(1) https://example.com/a?b=c. <b>x</b>'
        await browser.script(second, called("<i>Eve\u202e & co"))
        await browser.script(second, say(evil))
        await browser.wait(second, shows(evil))
        await browser.wait(first, "document.querySelector('#rooms li:nth-child(2) .unread')?.textContent === '1'")
        await browser.script(first, "document.querySelector('#rooms li:nth-child(2) button').click()")
        await browser.wait(first, shows(evil))
        line = f"{LINES}[0]"
        assert await browser.script(first, f"return {line}.querySelector('b').textContent") == "<i>Eve & co"
        assert await browser.script(first, f"return [...{line}.querySelectorAll('*')].map(e => e.localName)") == ["b", "time", "p", "a"]
        assert await browser.script(first, f"return {line}.querySelector('a').href") == "https://example.com/a?b=c"
        assert not await browser.script(first, "return document.querySelector('#rooms .unread')")
        rubbish = [
            "plain text",
            "{",
            '{"text": 1}',
            "[1]",
            "null",
            '{"text": "t", "from": {}, "at": "x", "id": []}',
            '{"text":"u","at":1e400}',
        ]
        for text in rubbish:
            await publish(pbal, "garden", text)
            await publish(pbal, "presence", text)
        await publish(pbal, "garden", "the last")
        await browser.wait(first, shows("the last"))
        assert await browser.script(first, f"return {LINES}.length") == len(rubbish) + 2
        await publish(
            pbal, "garden.%3Ci%3EEve%2520%26%2520co".replace("%26", "%2526").replace("%3C", "%253C").replace("%3E", "%253E"), "for Eve"
        )
        await browser.wait(second, shows("for Eve"))
        assert await browser.script(second, "return document.querySelector('.said:last-child .mark').textContent") == "to you alone"
        assert not await browser.script(first, f"return {LINES}.some(li => li.textContent.includes('for Eve'))")
        await browser.script(first, "document.getElementById('room').value = 'Cellar 7'; document.getElementById('enter').requestSubmit()")
        await browser.wait(first, "location.hash === '#cellar7'")
        await browser.script(first, say("down here"))
        await browser.wait(first, shows("down here"))
        await browser.script(second, "location.hash = '#cellar7'")
        await browser.wait(second, shows("down here"))
        await browser.script(second, called("x" * 17 + "\U0001f642"))  # cut in the middle of its last letter
        await browser.wait(second, f"{HERE}.includes('{'x' * 17}')")
        for window in (first, second):
            assert await browser.complaints(window, "Content Security Policy") == []
            assert await browser.complaints(window, "Uncaught") == []


@lab
async def test_it_fits_a_phone_and_a_wide_screen_in_light_and_dark(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    async with Browser() as browser:
        window = await browser.window(url(port_of(pbal)))
        await browser.wait(window, CONNECTED)
        await browser.script(window, say("word" * 60))
        await browser.script(window, say("and a line of several words " * 20))
        await browser.wait(window, shows("and a line"))
        grounds = set()
        for width in (320, 375, 900, 1600):
            for scheme in ("light", "dark"):
                await browser.dress(window, width, 720, scheme)
                facts = await browser.script(
                    window,
                    """
                    const box = (id) => document.getElementById(id).getBoundingClientRect();
                    const lines = [...document.querySelectorAll('main ol:not([hidden]) *')];
                    return {
                        scrolls: document.documentElement.scrollWidth > innerWidth,
                        wide: lines.filter(e => e.getBoundingClientRect().right > innerWidth).length,
                        bottom: box('form').bottom <= innerHeight, text: box('text').width, log: box('logs').height,
                        ground: getComputedStyle(document.body).backgroundColor,
                    };
                    """,
                )
                grounds.add(facts["ground"])
                assert not facts["scrolls"] and not facts["wide"] and facts["bottom"], (width, scheme, facts)
                assert facts["text"] >= 80 and facts["log"] >= 300, (width, scheme, facts)
        assert len(grounds) == 2
        assert re.match(r"data:image/svg", await browser.script(window, "return document.querySelector('link[rel=icon]').href"))


@pytest.mark.parametrize("transport", TRANSPORTS)
@lab
async def test_who_is_here(lab: Lab, transport: str) -> None:
    pbal = await lab.pbal(conf("SET poll_grace = 1s"))
    page = url(port_of(pbal), f"?transport={transport}")
    async with Browser() as browser:
        first = await browser.window(page)
        await browser.script(first, called("Ann"))
        await browser.wait(first, CONNECTED)
        await browser.wait(first, f"{HERE}.join() === 'Ann'")
        second = await browser.window(page)
        await browser.script(second, called("Bob & co"))
        for window, names in ((first, "Ann,Bob & co"), (second, "Bob & co,Ann")):
            await browser.wait(window, f"{HERE}.join() === {names!r}")
        third = await browser.window(page)
        await browser.script(third, called("Cid"))
        await browser.wait(first, f"{HERE}.join() === 'Ann,Bob & co,Cid'")
        for window in (second, third):  # from now on they do not ask, and are told all the same
            await browser.script(
                window, "const real = fetch; window.fetch = (url, more) => /publish/.test(url) ? Promise.reject() : real(url, more)"
            )
        before = pbal.counts["poll_leaves"]
        await browser.end(first)  # it held the connection of all three
        for window, names in ((second, "Bob & co,Cid"), (third, "Cid,Bob & co")):
            await browser.wait(window, f"{HERE}.join() === {names!r}")
        await browser.script(third, called("Cyd"))
        await browser.wait(second, f"{HERE}.join() === 'Bob & co,Cyd'")
        assert pbal.counts["poll_leaves"] - before == 2, "nobody who stayed was said to have left"
        await browser.script(third, "location.hash = 'garden'")
        await browser.wait(second, f"{HERE}.join() === 'Bob & co'")
