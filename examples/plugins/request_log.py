"""request_log: a line for each request in a file of its own: when, who, what, status, octets, milliseconds.

    LOAD request_log
    CREATE SERVICE site
      SET plugins     = request_log
      SET request_log = /var/log/pbal/requests.log

Lines are written in a thread, so a slow disk holds nobody up. What does not fit into memory meanwhile is dropped and counted. Where the
file cannot be written, the log says so, and `SET request_log` begins anew. pbal's own log (access_log) has more, and is faster; this one
shows how a plugin hears of the end of requests, and what it finds there.
"""

import asyncio
import queue
import threading
from pathlib import Path

from pbal.api import TEXT, ConfigError, Counter, Exchange, Plugin, Tunable, hook

MOST = 10_000
"""Lines that may wait for the disk."""


class RequestLog(Plugin):
    tunables = (Tunable("request_log", TEXT, default="", summary="File that the lines go to."),)
    counters = (Counter("request_log_dropped", "Lines of request_log that were dropped, since the disk was too slow."),)

    lines: "queue.Queue[bytes | None]"

    def check(self) -> None:
        file = self.service["request_log"]
        if not file or not Path(file).parent.is_dir():
            raise ConfigError(f"request_log: '{file}' is no file in a folder that exists", about="request_log")

    def open(self) -> None:
        self.lines = queue.Queue(MOST)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self.write, args=(self.service["request_log"], self.lines, loop), daemon=True).start()

    def changed(self, tunable: str) -> None:
        if tunable == "request_log":
            self.close()
            self.open()

    def close(self) -> None:
        if self.lines.full():  # of what nobody writes: to wait for room would stop the loop
            self.lines.get_nowait()
            self.counts["request_log_dropped"] += 1
        self.lines.put_nowait(None)

    @hook.end
    def note_down(self, exchange: Exchange) -> None:
        clock = self.world.clock
        took = (clock.now() - exchange.started) * 1000
        line = b"%d %b %b %b %d %d %.1f\n" % (
            clock.epoch(), exchange.client_address, exchange.method, exchange.plain_path, exchange.status, exchange.sent, took,
        )  # fmt: skip
        try:
            self.lines.put_nowait(line)
        except queue.Full:
            self.counts["request_log_dropped"] += 1

    def write(self, file: str, lines: "queue.Queue[bytes | None]", loop: asyncio.AbstractEventLoop) -> None:
        try:
            with open(file, "ab", buffering=0) as out:
                while (line := lines.get()) is not None:
                    out.write(line)
        except OSError as error:  # told on the loop, where pbal is at home
            loop.call_soon_threadsafe(self.tell, f"request_log: {file}: {error.strerror}: nothing is written any more")

    def tell(self, what: str) -> None:
        self.world.log_limited("request_log", "%(what)s", {"event": "request_log_failed", "what": what})
