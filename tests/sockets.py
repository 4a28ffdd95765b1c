"""Clients of WebSockets: the library `websockets`, and raw frames where it would not send such a thing."""

import asyncio
import json
import struct
from typing import Any

import pytest
from lab import DEADLINE, Pbal
from polls import get
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

HANDSHAKE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")


def url(pbal: Pbal, path: str) -> str:
    host, port = pbal.server.address("chat")[:2]
    return f"ws://{host}:{port}{path}"


async def opened(pbal: Pbal, path: str, **more: Any) -> ClientConnection:
    before = pbal.counts["poll_parked_ever"]
    socket = await connect(url(pbal, path), compression=None, proxy=None, **more)
    await pbal.until("poll_parked_ever", before + 1)
    return socket


async def heard(socket: ClientConnection) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), DEADLINE))
    return answer


async def closed(socket: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as found:
        while True:
            await asyncio.wait_for(socket.recv(), DEADLINE)
    assert found.value.rcvd is not None
    return found.value.rcvd.code


async def ask(socket: ClientConnection, **request: Any) -> dict[str, Any]:
    await socket.send(json.dumps(request))
    return await heard(socket)


async def raw(pbal: Pbal, path: str = "/poll/a") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await pbal.connect("chat")
    writer.write(get(path, *HANDSHAKE))
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


MASK = b"\x3b\xa7\x00\xf1"
"""A client masks with random octets; here all have the same, so that tests have names that last."""


def frame(opcode: int, payload: bytes, fin: bool = True, masked: bool = True, size: int | None = None) -> bytes:
    length = len(payload) if size is None else size
    head = bytes([opcode | (0x80 if fin else 0)])
    mask = 0x80 if masked else 0
    if length < 126:
        head += bytes([mask | length])
    else:
        head += bytes([mask | 126]) + struct.pack("!H", length) if length < 65536 else bytes([mask | 127]) + struct.pack("!Q", length)
    if not masked:
        return head + payload
    key = MASK
    return head + key + bytes(octet ^ key[place % 4] for place, octet in enumerate(payload))


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await asyncio.wait_for(reader.readexactly(2), DEADLINE)
    assert not second & 0x80, "a server masks nothing"
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
    return first & 0x0F, await reader.readexactly(length)
