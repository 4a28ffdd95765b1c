"""A service that holds polls on the memory store, and what its clients send."""

import asyncio

from lab import Pbal, Response

CONF = """
    LOAD poll
    CREATE SERVICE chat
      SET role             = web_server
      SET listen           = 127.0.0.1:0
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
      {more}
    ENABLE chat
"""


def conf(*more: str) -> str:
    return CONF.format(more="\n      ".join(more))


def get(path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: chat", *fields]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def publish(pbal: Pbal, queue: str, text: bytes) -> Response:
    return await pbal.ask("chat", get(f"/publish/{queue}", method="POST", body=text))


async def park(pbal: Pbal, path: str, *fields: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    before = pbal.counts["poll_parked_ever"]
    reader, writer = await pbal.connect("chat")
    writer.write(get(path, *fields))
    await pbal.until("poll_parked_ever", before + 1)
    return reader, writer


def empty(pbal: Pbal) -> bool:
    return bool(pbal.plugin("chat").hub.lot.is_empty()) and pbal.counts["poll_parked"] == 0


def say(pbal: Pbal, key: bytes, message: bytes) -> None:
    """A message in the memory store, by no publisher."""
    pbal.plugin("chat").hub.store.append(key, message + b"\n", lambda error: None)


def held(pbal: Pbal, key: bytes) -> bytes:
    """What the memory store holds for a key."""
    found = pbal.plugin("chat").hub.store.content.get(key)
    return b"" if found is None else bytes(found.data)
