"""Log lines that neither stop the loop nor lie.

A write to standard error waits when that is a pipe which nobody reads, and a server that waits there serves nobody. So the
loop only formats a line and puts it on a bounded queue; a daemon thread writes. While the queue is full, lines are
dropped and counted, and the next line that can be written says how many. A non-blocking descriptor instead of a thread
would not do: the flag belongs to the open file, which the shell or the supervisor shares with us.

The queue is a SimpleQueue because its `put` is reentrant: a signal handler may log while it interrupts a log call.

What strangers sent reaches the log inside messages. Whatever could end a line, move a cursor or turn the text around is
written as an escape, so that nobody outside can forge a line. The lines of a traceback begin with a bar for the same reason.

An event has a name and fields, and its message is a rendering of the fields. A call says all of it with one mapping:

    log.warning("cannot connect to %(node)s: %(reason)s", {"event": "connect_failed", "node": node.name, "reason": reason})

Three forms: text, for people, is the message; JSON, an object a line, has the event, the fields with their own types, and the message,
too; and what journald reads, which has the time already and takes the level from a prefix. Where a call gives no mapping (plugins log
as they like), the message before anything was put in stands for the name. Where to: standard error, or syslog, a datagram an event.
"""

import contextlib
import json
import logging
import math
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue

from pbal.observe.syslog import connect_syslog, syslog_line

SYSLOG_DAEMON = 3 << 3
"""The facility of system daemons."""

LINES_KEPT = 1000
"""Lines waiting to be written: some seconds of a bad day, 100 KB as lines usually are."""

LONGEST_NAME = 200
"""Characters of the name of an event."""

LONGEST_LINE = 8192
"""Characters. A request line may have as many; what is longer is cut, and says so."""

AT_ONCE = 65536
"""Octets a single write hands over: what a Linux pipe holds."""

FLUSH_SECONDS = 1.0
"""How long the end of the process waits for lines to be written."""


def _escapes() -> dict[int, str]:
    """C0 and C1 controls, DEL, line and paragraph separators, and the marks that turn the direction of text."""
    table = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
    table |= {code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
    return table | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


_ESCAPES = _escapes()


def escape(text: str) -> str:
    """`text` as one line that shows every control character in it as an escape."""
    return text if text.isprintable() else text.translate(_ESCAPES)


class LineFormatter(logging.Formatter):
    """Time, level, name and message on a line of their own; a traceback below it, each line behind a bar."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the message, or cannot be shown: said raw
            message = str(record.msg)
        line = f"{self.formatTime(record)} {record.levelname:7} {record.name}: {_cut(escape(message))}"
        trace = record.stack_info or ""
        if record.exc_info:
            trace = self.formatException(record.exc_info)
        if not trace:
            return line
        trace = _cut(trace)
        return "\n".join((line, *(f"  | {escape(each)}" for each in trace.splitlines())))


class JsonFormatter(LineFormatter):
    """One object a line: time, level, logger, event, message, its fields, trace. `prefixed`: for journald, which takes the level off."""

    def __init__(self, prefixed: bool = False) -> None:
        super().__init__()
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - as above
            message = str(record.msg)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = record.args if isinstance(record.args, Mapping) else {}
        shown: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": str(fields.get("event", record.msg))[:LONGEST_NAME],
            "message": _cut(message),
        }
        for name, value in fields.items():
            shown.setdefault(name, _plain(value))
        trace = record.stack_info or ""
        if record.exc_info:
            trace = self.formatException(record.exc_info)
        if trace:
            shown["trace"] = _cut(trace)
        line = json.dumps(shown)
        return f"<{severity(record)}>{line}" if self._prefixed else line


def _plain(value: object) -> str | int | float | bool | None:
    """A field as JSON has it. What is no number and no text is shown as it would be in the message."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _cut(str(value))


class BareFormatter(LineFormatter):
    """For who notes time and level himself: journald, which reads `<4>` before a line (sd-daemon(3)), and syslog, a datagram an event."""

    def __init__(self, prefixed: bool) -> None:
        super().__init__()
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).split("\n")
        lines[0] = lines[0][len(f"{self.formatTime(record)} {record.levelname:7} ") :]
        return "\n".join(f"<{severity(record)}>{line}" for line in lines) if self._prefixed else " ".join(lines)


def severity(record: logging.LogRecord) -> int:
    """As syslog counts. Source: RFC 5424 section 6.2.1."""
    return 7 if record.levelno < logging.INFO else 6 if record.levelno < logging.WARNING else 4 if record.levelno < logging.ERROR else 3


def is_journal(descriptor: int) -> bool:
    """Whether it leads to journald. Source: systemd.exec(5), JOURNAL_STREAM."""
    with contextlib.suppress(OSError):
        found = os.fstat(descriptor)
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}... ({len(text) - LONGEST_LINE} characters more)"


class Datagram(bytes):
    """What goes to syslog, and not to the descriptor: both may wait while log_to is being set."""


class LogWriter(logging.Handler):
    """A handler that never waits. Made without a thread; the first line starts it."""

    def __init__(self, descriptor: int, lines: int = LINES_KEPT) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._syslog: socket.socket | None = None
        self._to_syslog = False
        self.use("text", "stderr")
        self._lines = lines
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._counts = {"log_lines_dropped": 0}
        self._dropped = 0
        self._said = 0
        self._ended = False

    @property
    def waiting(self) -> int:
        """Lines that wait to be written."""
        return self._queue.qsize()

    @property
    def most(self) -> int:
        """Lines that may wait; then they are dropped."""
        return self._lines

    def use(self, form: str, to: str) -> None:
        """`form`: text or json; `to`: stderr or syslog. Raises: OSError if there is no syslog; nothing has changed then."""
        made = connect_syslog() if to == "syslog" and self._syslog is None else self._syslog
        journal = to == "stderr" and is_journal(self._descriptor)
        if form == "json":
            self.setFormatter(JsonFormatter(journal))
        else:
            self.setFormatter(BareFormatter(journal) if journal or to == "syslog" else LineFormatter())
        self._syslog = made
        self._to_syslog = to == "syslog"

    def count_in(self, counts: dict[str, int]) -> None:
        """Count dropped lines there from now on, those so far included."""
        counts["log_lines_dropped"] += self._dropped
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop and count it."""
        if self._ended or self._queue.qsize() >= self._lines:
            self._drop(1)
            return
        self._put(self._made(record))

    def _made(self, record: logging.LogRecord) -> bytes:
        line = self.format(record).encode("utf-8", "backslashreplace")
        return Datagram(syslog_line(SYSLOG_DAEMON + severity(record), line)) if self._to_syslog else line + b"\n"

    def _put(self, item: bytes | threading.Event) -> None:
        self._queue.put(item)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def _drop(self, lines: int) -> None:
        self._dropped += lines
        self._counts["log_lines_dropped"] += lines

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until what is queued now was written, for `seconds` at most."""
        if self._thread is None or self._ended:
            return
        reached = threading.Event()
        self._queue.put(reached)
        reached.wait(seconds)

    def finish(self) -> None:
        """Write what is queued, for a bounded time; nothing is taken after."""
        self.flush()
        self._ended = True

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            reached: list[threading.Event] = []
            pieces: list[bytes] = []
            octets = 0
            while True:
                if isinstance(item, threading.Event):
                    reached.append(item)
                    break
                pieces.append(item)
                octets += len(item)
                if octets >= AT_ONCE:
                    break
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
            lines = [piece for piece in pieces if not isinstance(piece, Datagram)]
            if lines and not self._write(b"".join(lines)):
                self._drop(len(lines))
            if len(lines) < len(pieces):
                self._drop(sum(not self._send(piece) for piece in pieces if isinstance(piece, Datagram)))
            if self._dropped != self._said and self._queue.qsize() <= self._lines // 2:
                self._say_dropped()
            for event in reached:
                event.set()

    def _say_dropped(self) -> None:
        dropped = self._dropped
        record = logging.LogRecord(
            "pbal.log", logging.WARNING, "", 0, "%(lines)d log lines dropped: they could not be written",
            ({"event": "log_lines_dropped", "lines": dropped - self._said},), None,
        )  # fmt: skip
        made = self._made(record)
        if self._send(made) if isinstance(made, Datagram) else self._write(made):
            self._said = dropped

    def _write(self, octets: bytes) -> bool:
        """Write all of it, waiting as long as that takes; False when the descriptor takes no more for good."""
        left = memoryview(octets)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody who shares the open file made it non-blocking
                select.select((), (self._descriptor,), ())
            except OSError:
                return False
        return True

    def _send(self, datagram: bytes) -> bool:
        """To syslog; once more where it was started anew meanwhile."""
        for _ in range(2):
            try:
                assert self._syslog is not None
                self._syslog.send(datagram)
                return True
            except OSError:
                with contextlib.suppress(OSError):
                    self._syslog = connect_syslog()
        return False


def set_up(level: str, descriptor: int = 2) -> LogWriter:
    """Send all logging of the process through one LogWriter."""
    writer = LogWriter(descriptor)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(writer)
    root.setLevel(level.upper())
    sys.unraisablehook = _unraisable
    return writer


def _unraisable(fault: "sys.UnraisableHookArgs") -> None:
    """What was raised where nobody could be told, in one line. Python's ssl reports so a name in a handshake that is not ASCII: its
    client's fault, which net.tls counts as a handshake that failed.
    """
    named = isinstance(fault.object, bytes) and isinstance(fault.exc_value, UnicodeDecodeError)
    fields = {"event": "ignored", "where": f"{fault.object!r:.80}", "fault": repr(fault.exc_value)}
    logging.getLogger("pbal").log(logging.DEBUG if named else logging.ERROR, "ignored in %(where)s: %(fault)s", fields)
