"""What the queries share: rows as a table, and the open sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from pbal.commands.session import Session
from pbal.net.backend import BackendConnection
from pbal.roles.proxy.backends import Backends
from pbal.roles.proxy.role import ReverseProxy
from pbal.schema.commands import Rows

Row = tuple[Any, ...]

PIECE = 200
"""Sockets looked at in one turn of the loop: about a millisecond's work."""


def table(columns: str, rows: Any, line: Callable[[Row], str] = lambda row: " ".join(map(str, row)), **more: Any) -> Rows:
    """A table whose columns are named in one string."""
    return Rows(tuple(columns.split()), rows, line, **more)


def label(name: str, value: object) -> str:
    """A line of Perlbal's blocks: a name, right-aligned, and its value."""
    return f"{name:>14}: {value}"


async def open_sockets(session: Session) -> AsyncIterator[Any]:
    """Every open socket; each has `kind` and `describe`.

    They come PIECE in a turn of the loop, so that ten thousand hold nobody up; those that close meanwhile are left out.
    """
    world = session.world
    listeners = world.runtime.listeners() if world.runtime is not None else []
    for number, thing in enumerate((*listeners, *world.clients, *world.backends), 1):
        if getattr(thing, "state", "") != "closed":
            yield thing
        if number % PIECE == 0:
            await asyncio.sleep(0)


def opening(session: Session) -> list[tuple[str, BackendConnection]]:
    """Connections to nodes that are being made or verified, each with its service's name.

    Those that are being made (state "connecting") have no descriptor that pbal knows, and are not among the open sockets.
    """
    return [(name, backend) for name, group in groups(session) for backend in group.opening]


def groups(session: Session) -> list[tuple[str, Backends]]:
    """The connections of each service to each of its pools, with the service's name."""
    handlers = [(service.name, service.handler) for service in session.world.services.values()]
    return [(name, group) for name, handler in handlers if isinstance(handler, ReverseProxy) for group in handler.groups.all()]
