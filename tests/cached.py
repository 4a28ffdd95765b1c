"""A chat on memcached, and the few requests that its tests need."""

import asyncio
from typing import Any

from lab import Pbal


def conf(stores: str, *more: str) -> str:
    """A chat whose messages wait in memcacheds, with more statements of its service."""
    lines = "\n      ".join(more)
    return f"""
    LOAD poll
    CREATE SERVICE chat
      SET role             = web_server
      SET listen           = 127.0.0.1:0
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
      SET poll_store       = memcached {stores}
      {lines}
    ENABLE chat
"""


def put(client: Any, queue: str, message: bytes) -> None:
    """The writer's contract, with a plain client."""
    key = "poll:" + queue
    while True:
        if client.append(key, message, noreply=False):
            return
        if client.add(key, message, 300, noreply=False):
            return


def request(path: str, body: bytes | None = None) -> bytes:
    """A GET, or a POST of a body."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nHost: c\r\n\r\n".encode()
    return f"POST {path} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def park(pbal: Pbal, queue: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A poll that is parked."""
    before = pbal.counts["poll_parked_ever"]
    reader, writer = await pbal.connect("chat")
    writer.write(request(f"/poll/{queue}"))
    await pbal.until("poll_parked_ever", before + 1)
    return reader, writer


def watch_state(pbal: Pbal) -> str:
    """Of the first memcached."""
    return str(pbal.plugin("chat").hub.store.courier.watchers[0].state)
