"""The chat page in a real browser, with nothing but pbal behind it, on each transport."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest
from browser import Browser, needs_chromium
from lab import Lab, free_port, lab, until
from process import Running

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TRANSPORTS = {"websocket": "WebSocket", "sse": "event stream", "poll": "long poll"}
pytestmark = needs_chromium


class Chat:
    """examples/chat.conf in a process of its own, which can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        text = (EXAMPLES / "chat.conf").read_text().replace("= chat  ", f"= {EXAMPLES / 'chat'}  ")
        self._path = folder / "chat.conf"
        self._path.write_text(re.sub(r"127\.0\.0\.1:(\d+)", lambda m: f"127.0.0.1:{self.port if m[1] == '8080' else free_port()}", text))
        self.running = Running(self._path, self.port)

    def url(self, more: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/{more}"

    def end(self, number: int = signal.SIGTERM) -> None:
        self.running.end(number)

    def start(self) -> None:
        self.running = Running(self._path, self.port)


def say(text: str) -> str:
    return f"document.getElementById('text').value = {text!r}; document.getElementById('form').requestSubmit();"


def shows(text: str, times: int = 1) -> str:
    return f"[...document.querySelectorAll('main ol:not([hidden]) .said')].filter(li => li.textContent.includes({text!r})).length === {times}"


CONNECTED = "document.getElementById('state').textContent === 'connected'"
LOST = "document.getElementById('state').className === 'bad'"


def called(name: str) -> str:
    return f"const field = document.getElementById('name'); field.value = {name!r}; field.dispatchEvent(new Event('change'));"


@pytest.mark.parametrize("transport", TRANSPORTS)
@lab
async def test_explore(lab: Lab, tmp_path: Path, transport: str) -> None:
    chat = await asyncio.to_thread(Chat, tmp_path)
    with chat.running:
        async with Browser() as browser:
            first = await browser.window(chat.url(f"?transport={transport}"))
            await browser.wait(first, CONNECTED)
            await browser.script(first, called("Ann"))
            await browser.script(first, say("hello from the first"))
            await browser.wait(first, shows("hello from the first"))
            second = await browser.window(chat.url(f"?transport={transport}"))
            await browser.script(second, called("Bob <b>"))
            await browser.wait(second, CONNECTED)
            await browser.wait(second, shows("hello from the first"))
            await browser.script(second, say("hello back, see https://example.com/a?b=c. <img src=x onerror=alert(1)>"))
            await browser.wait(first, shows("hello back"))
            for w in (first, second):
                print(await browser.script(w, "return document.body.innerText"))
                print(await browser.complaints(w, ""))
