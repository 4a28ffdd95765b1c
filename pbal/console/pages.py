"""The addresses of a console's HTTP side, and what stands there.

    /               the status page; /status is its middle, which the page fetches every few seconds
    /status.css     how it looks; /status.js what it does. Files beside this one
    /metrics        every number, for Prometheus
    /socks /obj /service?NAME    Perlbal's pages: what the console says, as it says it

Whatever is shown comes from a statement of the console, carried out like one that was typed. Long answers are made in pieces, between
which others have a turn. Everything that goes into a page goes through `shown`.
"""

import asyncio
import importlib
import re
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final

from pbal.commands.session import Session
from pbal.console.history import History
from pbal.console.markup import shown
from pbal.console.page import Status
from pbal.lang.mistakes import Mistake
from pbal.schema.commands import Reply

PIECE: Final = 50
"""Lines made in one turn of the loop."""

_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_-]{0,199}")
_SERVICE = re.compile(r"service &#x27;([A-Za-z0-9_][A-Za-z0-9_-]*)&#x27;")
_HTML: Final = (b"Content-Type", b"text/html; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered to a request."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


def plain(status: int, text: str, *fields: tuple[bytes, bytes]) -> Answer:
    """A line of text."""
    return Answer(status, (*fields, (b"Content-Type", b"text/plain; charset=utf-8")), text.encode("utf-8", "replace") + b"\n")


@cache
def _file(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


class Pages:
    """Those of one connection."""

    def __init__(self, session: Session, history: History) -> None:
        self._session = session
        self._status = Status(session, history, self._reply)

    async def answer(self, path: bytes, query: bytes) -> Answer:
        """What stands at an address."""
        if path == b"/":
            return Answer(200, (_HTML,), await self._status.whole())
        if path == b"/status":
            return Answer(200, (_HTML,), await self._status.middle())
        if path == b"/status.css":
            return Answer(200, ((b"Content-Type", b"text/css; charset=utf-8"),), _file("status.css"))
        if path == b"/status.js":
            return Answer(200, ((b"Content-Type", b"text/javascript; charset=utf-8"),), _file("status.js"))
        if path == b"/metrics":
            return await self._metrics()
        if path == b"/socks":
            return await self._said("socks summary", "socks")
        if path == b"/obj":
            return await self._said("obj")
        if path == b"/service" and _NAME.fullmatch(query):
            return await self._said(f"show service {query.decode()}")
        return Answer(404, (_HTML,), _page("404", b"<h1>404 Not found</h1>\n"))

    async def _metrics(self) -> Answer:
        """Every number. What writes them is imported when somebody asks, in a thread: a pbal that nobody scrapes need not have it."""
        await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "pbal.console.metrics")
        from pbal.console.metrics import CONTENT_TYPE, exposition

        return Answer(200, ((b"Content-Type", CONTENT_TYPE),), await exposition(self._session.world))

    async def _reply(self, statement: str) -> Reply | None:
        """What the console answers. Raises: Mistake."""
        reply, _ = await self._session.interpreter.execute(self._session, statement)
        return reply

    async def _said(self, *statements: str) -> Answer:
        """A page of what the console answers to statements."""
        parts: list[bytes] = []
        status = 200
        for statement in statements:
            parts.append(_encoded(f"<h1>{shown(statement)}</h1>\n<pre>"))
            try:
                reply = await self._reply(statement)
                lines = iter(()) if reply is None else reply.as_text()
                while piece := list(islice(lines, PIECE)):
                    text = "".join(f"{shown(line)}\n" for line in piece)
                    parts.append(_encoded(_SERVICE.sub(r"service &#x27;<a href='/service?\1'>\1</a>&#x27;", text)))
                    await asyncio.sleep(0)
            except Mistake as mistake:
                status = 404
                parts.append(_encoded(f"ERROR: {shown(mistake.in_one_line())}\n"))
            parts.append(b"</pre>\n")
        return Answer(status, (_HTML,), _page(statements[-1], b"".join(parts)))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _page(title: str, body: bytes) -> bytes:
    """A page of one of Perlbal's addresses."""
    head = (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<meta name='viewport' content='width=device-width'>\n"
        f"<title>{shown(title)} - pbal</title>\n<link rel='icon' href='data:,'>\n<link rel='stylesheet' href='/status.css'>\n</head>\n"
        f"<body class='said'>\n"
    )
    return b"%b%b<p><a href='/'>pbal</a></p>\n</body>\n</html>\n" % (_encoded(head), body)
