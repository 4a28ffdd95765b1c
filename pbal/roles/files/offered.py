"""Files shown to plugins before they are sent (start_send_file). What a plugin takes it may read, after pbal has let go of the file."""

import asyncio
import os
from functools import partial

from pbal.model.bound import Bounds
from pbal.model.exchange import SERVED, Exchange
from pbal.model.served import FileFound
from pbal.roles import chain
from pbal.roles.files.disk import in_thread
from pbal.roles.files.finding import OpenFile


class Offered(FileFound):
    """See FileFound. It has a descriptor of its own from the moment at which a plugin takes it."""

    def __init__(self, file: OpenFile) -> None:
        self.path, self.size, self.modified = file.name, file.size, file.mtime_ns // 10**9
        self._fd = -1
        self._body: bytes | None = None
        self._lost: OSError | None = None

    def keep(self, file: OpenFile) -> None:
        """Have the octets of the file that are in memory, or a descriptor of it that is open now."""
        self._body = file.body
        if self._body is not None:
            return
        try:
            self._fd = os.dup(file.fd)
        except OSError as error:
            self._lost = error

    async def read(self, limit: int) -> bytes:
        """See FileFound."""
        if self._lost is not None:
            raise self._lost
        if self._body is not None:
            return self._body[:limit]
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        in_thread(partial(_whole, self._fd, min(limit, self.size)), partial(_tell, done))
        return await done

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _whole(fd: int, octets: int) -> bytes:
    """So many octets, or as many as there are. Raises: OSError."""
    parts: list[bytes] = []
    at = 0
    while at < octets and (part := os.pread(fd, octets - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _tell(done: "asyncio.Future[bytes]", octets: bytes | None, error: BaseException | None) -> None:
    if done.done():  # nobody waits any more
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(octets or b"")


def is_taken(hooks: Bounds, exchange: Exchange, file: OpenFile) -> bool:
    """Run start_send_file; whether a plugin has the exchange now. The file stays the caller's."""
    offered = Offered(file)
    exchange.let_go()
    if not chain.run(hooks, exchange, offered):
        exchange.enter(SERVED)
        return False
    if not exchange.answered:
        offered.keep(file)
    return True
