"""Files shown to plugins before they are sent (start_send_file). What a plugin takes it may read, after pbal has let go of the file."""

import asyncio
import os
from functools import partial

from pbal.model.bound import Bounds
from pbal.model.exchange import SERVED, Exchange
from pbal.model.openfiles import OpenFile
from pbal.model.served import FileFound
from pbal.roles import chain
from pbal.roles.files.disk import in_thread


class Offered(FileFound):
    """See FileFound. It holds the file from the moment at which a plugin takes it, for as long as the plugin has it."""

    def __init__(self, file: OpenFile) -> None:
        self.path, self.size, self.modified = file.name, file.size, file.mtime_ns // 10**9
        self._file: OpenFile | None = None

    def keep(self, file: OpenFile) -> None:
        """Hold the file for the plugin."""
        self._file = file.hold()

    async def read(self, limit: int) -> bytes:
        """See FileFound."""
        file = self._file
        if file is None:
            return b""
        if file.body is not None:
            return file.body[:limit]
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        in_thread(partial(_whole, file.fd, min(limit, self.size)), partial(_tell, done))
        return await done

    def __del__(self) -> None:
        if self._file is not None:
            self._file.release()


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
