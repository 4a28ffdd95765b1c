"""Connections to nodes: to a Unix socket, to an address, or to one of the addresses of a name.

A name's addresses are taken in turn. Where one cannot be reached the next is tried, in the same attempt: the node failed when none of
them answers. While several are left each has its share of the time, so one that is silent does not use up all of it, and it comes
after the others for a while.

Who is cancelled while it connects, because the time is over or the service goes, may have been connected in that very turn. The loop
then closes the socket and tells nobody; `made` does.
"""

import asyncio
from collections.abc import Coroutine, Iterable

from pbal.model.pool import Node
from pbal.model.resolving import ADDRESS_PENALTY, Name, Names
from pbal.net.backend import BORED, BackendConnection


async def reach(names: Names, now: float, node: Node, protocol: asyncio.BaseProtocol, seconds: float, port: int = 0) -> None:
    """Connect `protocol` to a node, or to another port there. `now` is clock time; `seconds` is what the caller bounds it to.

    Raises: OSError, with the reason for the operator in strerror; TimeoutError where the last address took too long.
    """
    loop = asyncio.get_running_loop()
    endpoint = node.endpoint
    port = port or endpoint.port
    if endpoint.path:
        await made(protocol, loop.create_unix_connection(lambda: protocol, endpoint.path))
        return
    if not endpoint.is_name:
        await made(protocol, loop.create_connection(lambda: protocol, endpoint.host, port))
        return
    name = await names.addresses(node)
    addresses = name.in_turn(now)
    while addresses:
        address = addresses.pop(0)
        try:
            async with asyncio.timeout(seconds / (len(addresses) + 1) if addresses else None):
                await made(protocol, loop.create_connection(lambda: protocol, address, port))
        except (OSError, TimeoutError):
            name.unreachable[address] = now + ADDRESS_PENALTY
            if not addresses or getattr(protocol, "transport", None) is not None:  # it was connected, and its time was over just then
                raise
        else:
            name.unreachable.pop(address, None)
            return


async def made(protocol: asyncio.BaseProtocol, opening: Coroutine[object, object, object]) -> None:
    """Wait for a connection that is being opened for `protocol`, which hears of its end whatever happens.

    Who is cancelled, or has no more time, in the very turn of the loop in which the connection was made, leaves one that may have a
    request already. uvloop closes it and tells nobody. asyncio tells; to be told twice does no harm.
    """
    try:
        await opening
    except BaseException:
        if getattr(protocol, "transport", None) is not None:
            asyncio.get_running_loop().call_soon(protocol.connection_lost, None)
        raise


def leave(backends: Iterable[BackendConnection], name: Name) -> None:
    """The addresses of a name changed: connections to those that went rest no longer, and those at work end with their answer."""
    for backend in list(backends):
        if backend.node.endpoint.host == name.host and backend.transport is not None:
            peer = backend.transport.get_extra_info("peername")
            if peer and peer[0] not in name.addresses:
                backend.suspect = True
                if backend.state == BORED:
                    backend.abort()
