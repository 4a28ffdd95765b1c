"""Chromium, driven through its WebDriver (W3C WebDriver; `goog/cdp` for what only DevTools can do)."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from lab import DEADLINE, free_port

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None, reason="chromium and chromedriver are not installed"
)


class Browser:
    """Chromium through its WebDriver, with `async with`."""

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

    async def __aenter__(self) -> "Browser":
        while not await asyncio.to_thread(self._ready):  # noqa: ASYNC110 - another process sets no Event
            await asyncio.sleep(0.05)
        options = {"args": [*FLAGS, f"--user-data-dir={self._folder}"], "binary": shutil.which("chromium")}
        always = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        capabilities = {"alwaysMatch": always}
        session = await self.call("POST", "/session", capabilities=capabilities)
        self._session = "/session/" + session["sessionId"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._close)

    async def script(self, window: str, text: str) -> Any:
        """Run a script in a window."""
        await self.call("POST", "/window", handle=window)
        return await self.call("POST", "/execute/sync", script=text, args=[])

    async def window(self, url: str) -> str:
        """Open a window on `url`; its handle."""
        await self.call("POST", "/window", handle=(await self.call("GET", "/window/handles"))[0])  # the last one may be closed
        handle: str = (await self.call("POST", "/window/new", type="window"))["handle"]
        await self.call("POST", "/window", handle=handle)
        await self.call("POST", "/url", url=url)
        return handle

    async def wait(self, window: str, text: str, deadline: float = 2 * DEADLINE) -> None:
        """Wait until a script's value is true."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            if await self.script(window, f"return !!({text})"):
                return
            await asyncio.sleep(0.02)
        page = await self.script(window, "return document.body.innerText.slice(0, 1000) + JSON.stringify(window.states ?? '')")
        raise AssertionError(f"waited in vain for {text}; the page says {page!r}")

    async def end(self, window: str) -> None:
        """Close a window."""
        await self.call("POST", "/window", handle=window)
        await self.call("DELETE", "/window")

    async def devtools(self, window: str, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        await self.call("POST", "/window", handle=window)
        return await self.call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    async def dress(self, window: str, width: int, height: int, scheme: str) -> None:
        """Give a window a size, in CSS pixels, and a colour scheme."""
        await self.devtools(window, "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        await self.devtools(window, "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, window: str, path: Path) -> None:
        """A screenshot, into a file."""
        await self.call("POST", "/window", handle=window)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(await self.call("GET", "/screenshot")))

    async def complaints(self, window: str, about: str) -> list[str]:
        """What the console says about something since the last time."""
        await self.call("POST", "/window", handle=window)
        return [entry["message"] for entry in await self.call("POST", "/se/log", type="browser") if about in entry["message"]]

    def _close(self) -> None:
        if self._session:
            self._call("DELETE", "")
        self._driver.terminate()
        self._driver.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
