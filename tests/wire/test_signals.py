"""Signals, with a loop that turns and with one that does not; a log that nobody reads."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable

import pytest
from lab import DEADLINE, free_port
from process import Running, conf, plugin

from pbal.life import looping
from pbal.life.threads import threads
from pbal.model.world import World

BLOCK = """
if target == b"/block":
    while True:
        pass
"""
BLOCK_IN_C = """
if target == b"/block":
    import signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as in C, no handler runs
    time.sleep(6.5)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
"""
REGEX = """
if target == b"/block":
    re.match(r"(a+)+$", "a" * 40 + "b")
"""


def wait(predicate: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not predicate():
        assert time.monotonic() < end, what
        time.sleep(0.01)


SAID = {
    signal.SIGHUP: "is in force; changes: 0",
    signal.SIGUSR1: " 1 parked, 0 backends; 3 requests; ",
    signal.SIGUSR2: "SIGUSR2: nothing is done on it",
}


@pytest.mark.parametrize("number", SAID)
def test_a_signal_that_only_tells_never_kills(tmp_path, number):
    port = free_port()
    with Running(conf(tmp_path, port), port) as running:
        poll = running.park("a")
        begun = time.monotonic()
        running.send_signal(number)
        running.says(SAID[number])
        assert time.monotonic() - begun < 0.5, "an idle loop hears a signal at once, not at its next event"
        fresh = running.send("/x")
        assert b"404" in fresh.recv(4096)
        running.send_signal(signal.SIGTERM)
        assert b"204" in poll.recv(4096)
        assert running.ended()[0] == 0


def test_sigquit_ends_gracefully_as_sigterm_does(tmp_path):
    port = free_port()
    with Running(conf(tmp_path, port), port) as running:
        poll = running.park("a")
        status, log = running.end(signal.SIGQUIT)
        assert status == 0
        assert b"204 No Content" in poll.recv(4096)
        assert "ending: requests in flight have 30 seconds" in log


def test_a_hook_that_never_returns_is_named_and_the_second_signal_ends_it(tmp_path):
    port = free_port()
    with Running(plugin(tmp_path, port, BLOCK), port) as running:
        begun = time.monotonic()
        running.send("/block")
        running.says(", line ")
        assert time.monotonic() - begun > 4
        assert re.search(r"ERROR +pbal: the loop has been blocked for 5\.\d s by .*answer \(.*own\.py:\d+\)\n  \| Stack", running.log())
        assert re.search(r'\n  \|   File ".*own\.py", line \d+, in answer\n', running.log())
        running.send_signal(signal.SIGTERM)
        running.says("SIGTERM: the loop has been blocked for")
        assert re.search(r"blocked for [\d.]+ s by .*answer \(.*own\.py:\d+\)", running.log())
        status, log = running.end()
        assert status == 1
        assert "SIGTERM: ending at once, without the loop" in log
        assert "Timeout" not in log, "where a handler runs, no other thread reads the stack"


def test_two_signals_soon_after_the_loop_blocked_end_it(tmp_path):
    port = free_port()
    with Running(plugin(tmp_path, port, BLOCK), port) as running:
        assert b"200" in running.send("/").recv(4096)
        before = _processor(running)
        running.send("/block")
        wait(lambda: _processor(running) > before + 0.3, "the loop to run hot")
        running.send_signal(signal.SIGINT)
        wait(lambda: not _pending(running), "the first signal to be taken")
        assert running.end(signal.SIGINT)[0] == 1


def test_a_runaway_regular_expression_is_named_and_the_second_signal_ends_it(tmp_path):
    port = free_port()
    with Running(plugin(tmp_path, port, REGEX), port) as running:
        running.send("/block")
        running.says("the loop has been blocked for 5")
        assert re.search(r'\n  \|   File ".*own\.py", line \d+, in answer\n', running.log())
        running.send_signal(signal.SIGTERM)
        running.says("SIGTERM: the loop has been blocked for")
        assert running.end()[0] == 1


def test_where_no_handler_runs_the_stack_is_dumped(tmp_path):
    port = free_port()
    with Running(plugin(tmp_path, port, BLOCK_IN_C), port) as running:
        held = running.send("/block")
        running.says("in _run_module_as_main")
        assert "Timeout (0:00:06)!" in running.log()
        assert re.search(r'own\.py", line \d+ in answer', running.log())
        assert held.recv(4096).endswith(b"done")
        running.says("the loop was blocked for")
        assert running.end()[0] == 0


def test_a_loop_that_turns_is_never_dumped(tmp_path):
    port = free_port()
    with Running(conf(tmp_path, port), port) as running:
        with pytest.raises(subprocess.TimeoutExpired):  # it serves on, idle, for longer than the watchdog waits
            running.process.wait(timeout=7)
        status, log = running.end()
        assert status == 0
        assert "Timeout" not in log and "blocked" not in log


def test_a_log_that_nobody_reads_stops_nothing(tmp_path):
    port = free_port()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    flood = "import logging\nfor number in range(100):\n    logging.getLogger('own').warning('%s', 'x' * 200)"
    with Running(plugin(tmp_path, port, flood), port, writing) as running:
        os.close(writing)
        keeping = running.connect()
        for _ in range(100):
            keeping.sendall(b"GET / HTTP/1.1\r\nHost: c\r\n\r\n")
            assert keeping.recv(4096).endswith(b"done")
        got = b""

        def read() -> bytes:
            nonlocal got
            try:
                got += os.read(reading, 1 << 20)
            except BlockingIOError:
                pass
            return got

        wait(lambda: b"log lines dropped: they could not be written" in read(), "the line that says how many")
        keeping.sendall(b"GET / HTTP/1.1\r\nHost: c\r\n\r\n")
        assert keeping.recv(4096).endswith(b"done")
        wait(lambda: read().count(b"x" * 200) >= 1100, "what was kept, and what came after")
        running.send_signal(signal.SIGTERM)
        wait(lambda: b"ending: requests" in read(), "the last lines")
        assert running.process.wait(timeout=DEADLINE) == 0
        dropped = int(got.split(b" log lines dropped")[0].split()[-1])
        assert got.count(b"x" * 200) + dropped >= 10100, "every line was written or counted"
    os.close(reading)


def test_it_ends_in_time_though_nobody_reads_the_log(tmp_path):
    port = free_port()
    reading, writing = os.pipe()
    flood = "import logging\nfor number in range(1000):\n    logging.getLogger('own').warning('%s', 'x' * 200)"
    with Running(plugin(tmp_path, port, flood), port, writing) as running:
        os.close(writing)
        assert running.send().recv(4096).endswith(b"done")
        running.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=5) == 0
    os.close(reading)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_dump_that_nobody_reads_does_not_hold_the_loop(tmp_path, kind):
    port = free_port()
    reading, writing = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    flood = "import logging\nfor number in range(2000):\n    logging.getLogger('own').warning('%s', 'x' * 1000)\n"
    with Running(plugin(tmp_path, port, flood + BLOCK_IN_C), port, writing) as running:
        os.close(writing)
        assert running.send().recv(4096).endswith(b"done")
        held = running.send("/block")
        held.settimeout(DEADLINE)
        assert held.recv(4096).endswith(b"done")
        assert running.send().recv(4096).endswith(b"done")
        running.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=5) == 0
    os.close(reading)


def test_strangers_cannot_forge_a_log_line(tmp_path):
    port = free_port()
    forged = "import logging\nlogging.getLogger('own').warning('said %s', 'a\\n2030-01-01 ERROR pbal: b\\x1b[2J\\u2028\\x85\\u202ec')"
    with Running(plugin(tmp_path, port, forged), port) as running:
        assert running.send().recv(4096).endswith(b"done")
        status, log = running.end()
        assert status == 0
        assert "said a\\n2030-01-01 ERROR pbal: b\\x1b[2J\\u2028\\x85\\u202ec\n" in log


ENDINGS = """
import asyncio, sys
from pbal.api import spawn
async def leave():
    await asyncio.sleep(0)
    sys.exit(3)
async def fail():
    raise KeyError("oh")
def fall():
    raise ValueError("ah")
loop = asyncio.get_running_loop()
if target == b"/task":
    spawn(self, leave(), "leave")
elif target == b"/fault":
    spawn(self, fail(), "fail")
elif target == b"/callback":
    loop.call_soon(sys.exit, 3)
elif target == b"/raise":
    loop.call_soon(fall)
elif target == b"/stop":
    loop.stop()
elif target == b"/thread":
    import threading
    thread = threading.Thread(target=lambda: exchange.respond(200, (), b"from elsewhere"), name="mine")
    thread.start()
    thread.join()
"""


def test_no_code_of_a_plugin_ends_the_loop_and_its_faults_are_told_as_its_own(tmp_path):
    port = free_port()
    with Running(plugin(tmp_path, port, ENDINGS), port) as running:
        for target, said in (
            ("/task", "plugin own generation 1, outside of a hook: SystemExit: 3 (own.py:"),
            ("/fault", "plugin own generation 1, task 'fail': KeyError: 'oh' (own.py:"),
            ("/callback", "the loop was stopped, and goes on: SystemExit: 3"),
            ("/thread", "plugin own generation 1, thread 'mine': AnswerRefused: pbal is spoken to in the thread of its loop alone"),
            ("/raise", "plugin own generation 1, a callback: ValueError: ah (own.py:"),
            ("/stop", "the loop was stopped, and goes on: somebody stopped it"),
        ):
            with running.send(target) as sock:
                assert sock.recv(4096).endswith(b"done")
            running.says(said)
        status, log = running.end()
        assert status == 0 and "Traceback" not in log


def test_a_task_and_a_thread_that_do_not_end_keep_no_process(monkeypatch, caplog):
    """Of `run` alone: a process would take as long as it waits."""
    monkeypatch.setattr("pbal.life.looping.END_SECONDS", 0.02)
    over = threading.Event()

    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async def main() -> int:
        tasks.append(asyncio.create_task(stubborn(), name="a task"))
        threading.Thread(target=over.wait, name="a thread").start()
        await asyncio.sleep(0)
        return 7

    tasks: list[asyncio.Task[None]] = []
    try:
        assert looping.run(main(), World()) == 7
        assert "a thread" in [thread.name for thread in threads()]  # beside those that other tests left
        assert re.search(r"ending without a task, (.*, )?a thread(, .*)?, which did not end", caplog.text)
    finally:
        over.set()
        vars(asyncio.Task)["_log_destroy_pending"].__set__(tasks[0], False)  # it is meant to be left


def test_graceful_timeout_0_is_no_limit(tmp_path):
    port = free_port()
    with Running(conf(tmp_path, port, "SERVER graceful_timeout = 0"), port) as running:
        sock = running.connect()
        sock.sendall(b"POST /publish/a HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\n\r\nhe")
        running.park("b").close()
        running.send_signal(signal.SIGTERM)
        running.says("ending: requests in flight have no time limit")
        wait(lambda: _refused(port), "the listener to close")
        sock.sendall(b"llo")
        assert b"202 Accepted" in sock.recv(4096)
        assert running.ended()[0] == 0


def test_shutdown_graceful_0_is_no_limit_either(tmp_path):
    port, console = free_port(), free_port()
    more = f"CREATE SERVICE console\nSET role = management\nSET listen = 127.0.0.1:{console}\nENABLE console"
    with Running(conf(tmp_path, port, more), port) as running:
        sock = running.connect()
        sock.sendall(b"POST /publish/a HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\n\r\nhe")
        running.park("b").close()
        with socket.create_connection(("127.0.0.1", console), timeout=DEADLINE) as operator:
            operator.sendall(b"SHUTDOWN GRACEFUL 0\r\n")
            running.says("ending: requests in flight have no time limit")
        wait(lambda: _refused(port), "the listener to close")
        sock.sendall(b"llo")
        assert b"202 Accepted" in sock.recv(4096)
        assert running.ended()[0] == 0


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _processor(running: Running) -> float:
    """Processor seconds used so far."""
    with open(f"/proc/{running.process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pending(running: Running) -> bool:
    """Whether a signal was sent and not yet delivered."""
    with open(f"/proc/{running.process.pid}/status") as file:
        return any(int(line.split()[1], 16) for line in file if line.startswith(("SigPnd", "ShdPnd")))


def test_the_log_in_json_and_live_changes_of_it(tmp_path):
    port, console = free_port(), free_port()
    more = f"SERVER log_format = json\nCREATE SERVICE console\nSET role = management\nSET listen = 127.0.0.1:{console}\nENABLE console"
    with Running(conf(tmp_path, port, more), port) as running:
        running.says('"message": "chat (web_server) listens on ')
        with socket.create_connection(("127.0.0.1", console), timeout=DEADLINE) as operator:
            operator.sendall(b"SERVER log_level = error\r\nSERVER log_format = text\r\nSERVER log_level = debug\r\n")
            reply = b""
            while reply.count(b"OK") < 3:
                reply += operator.recv(4096)
        status, log = running.end()
        assert status == 0
    first, *_, last = [line for line in log.splitlines() if line]
    assert json.loads(first)["level"] == "info"
    assert re.match(r"20.* INFO +pbal: ending", last)
