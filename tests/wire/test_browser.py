"""The chat page in a real browser: two windows talk, a third loses its connection and misses nothing."""

import asyncio
import json
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, free_port, lab, until

PAGE = Path(__file__).parent.parent.parent / "examples" / "chat"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


class Browser:
    """Chromium through its WebDriver."""

    def __init__(self) -> None:
        self._port = free_port()
        self._driver = subprocess.Popen(["chromedriver", f"--port={self._port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._session = ""
        self._folder = tempfile.mkdtemp(prefix="pbal-browser-")

    def _call(self, method: str, path: str, **body: Any) -> Any:
        data = None if method == "GET" else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{self._session}{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())["value"]

    async def call(self, method: str, path: str, **body: Any) -> Any:
        """One WebDriver command, in a thread: pbal lives on this loop."""
        return await asyncio.to_thread(self._call, method, path, **body)

    def _ready(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            return False

    async def start(self) -> None:
        """Wait for the driver, open a session."""
        while not await asyncio.to_thread(self._ready):  # noqa: ASYNC110 - another process sets no Event
            await asyncio.sleep(0.05)
        options = {"args": [*FLAGS, f"--user-data-dir={self._folder}"], "binary": shutil.which("chromium")}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        session = await self.call("POST", "/session", capabilities=capabilities)
        self._session = "/session/" + session["sessionId"]

    async def script(self, window: str, text: str) -> Any:
        """Run a script in a window."""
        await self.call("POST", "/window", handle=window)
        return await self.call("POST", "/execute/sync", script=text, args=[])

    async def window(self, url: str) -> str:
        """Open a window on `url`; its handle."""
        handle: str = (await self.call("POST", "/window/new", type="window"))["handle"]
        await self.call("POST", "/window", handle=handle)
        await self.call("POST", "/url", url=url)
        return handle

    async def wait(self, window: str, text: str) -> None:
        """Wait until a script's value is true."""
        for _ in range(600):
            if await self.script(window, f"return !!({text})"):
                return
            await asyncio.sleep(0.02)
        page = await self.script(window, "return document.body.innerText")
        raise AssertionError(f"waited in vain for {text}; the page says {page!r}")

    def close(self) -> None:
        """End browser and driver."""
        if self._session:
            self._call("DELETE", "")
        self._driver.terminate()
        self._driver.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _say(text: str) -> str:
    return f"document.getElementById('text').value = {text!r}; document.getElementById('form').requestSubmit();"


def _shows(text: str) -> str:
    return f"[...document.querySelectorAll('#log li')].filter(li => li.textContent.includes({text!r})).length === 1"


@pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None, reason="chromium and chromedriver are not installed"
)
@lab
async def test_windows_chat_and_one_that_lost_its_connection_misses_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(f"""
        LOAD poll
        CREATE SERVICE chat
          SET role             = web_server
          SET listen           = 127.0.0.1:0
          SET docroot          = {PAGE}
          SET plugins          = poll
          SET poll_uri         = ^/poll/(?P<queue>[\\w.-]+)$
          SET poll_publish_uri = ^/publish/(?P<queue>[\\w.-]+)$
          SET poll_queue       = query:q uri:queue
          SET poll_duplicate   = all
          SET poll_format      = json
        ENABLE chat
    """)
    url = f"http://127.0.0.1:{pbal.server.address('chat')[1]}/"
    browser = Browser()
    try:
        await browser.start()
        windows = [await browser.window(url) for _ in range(3)]
        for window in windows:
            await browser.wait(window, "document.getElementById('state').textContent === 'connected, 3 windows'")
        first, second, third = windows

        await browser.script(first, _say("hello from the first"))
        await browser.wait(second, _shows("hello from the first"))
        await browser.script(second, _say("and from the second"))
        await browser.wait(first, _shows("and from the second"))
        await browser.wait(third, _shows("and from the second"))

        await browser.script(third, "window.realFetch = window.fetch; window.fetch = () => Promise.reject(new Error('offline'))")
        own = await browser.script(third, "return sessionStorage.queue")
        await until(lambda: pbal.plugin("chat").hub.lot.has(b"poll:" + own.encode()), "the third window's poll")
        assert await pbal.say(f"poll kick {own}") == "OK"
        await browser.wait(third, "document.getElementById('state').className === 'bad'")
        for number in range(5):
            await browser.script(first, _say(f"while you were away {number}"))
            await browser.wait(first, _shows(f"while you were away {number}"))
        await browser.script(third, "window.fetch = window.realFetch")
        for number in range(5):
            await browser.wait(third, _shows(f"while you were away {number}"))
    finally:
        await asyncio.to_thread(browser.close)
