"""A pbal as its surroundings see it: in the background, with a pidfile, under systemd, as process 1, as another user, at its end."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from lab import DEADLINE, Pbal, free_port, lab, until
from process import ROOT, Running, conf, plugin

from pbal.__main__ import main
from pbal.life.handed import Handed
from pbal.life.notify import Notifier
from pbal.life.pidfile import Pidfile
from pbal.life.privileges import Account, warnings
from pbal.life.process import Process
from pbal.model.errors import ConfigError
from pbal.model.world import World
from pbal.schema.types import LISTEN, Endpoint

PBAL = (sys.executable, "-m", "pbal")

SITE = """
    SERVER drain_delay = {delay}
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = .
    ENABLE site
    CREATE SERVICE console
      SET role    = management
      SET listen  = 127.0.0.1:0
    ENABLE console
"""


def wait(predicate: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not predicate():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PBAL, *arguments], capture_output=True, text=True, cwd=cwd, timeout=60)


def answers(port: int) -> bool:
    """Whether it serves."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: c\r\n\r\n")
        return sock.recv(4096).startswith(b"HTTP/1.1 404")


def gone(process: int) -> bool:
    """Whether a process has ended; it may be a zombie that nobody asks for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def status_of(process: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def console(port: int, *statements: str) -> str:
    """What a console answers to each of them."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        sock.sendall("".join(f"{statement}\r\n" for statement in (*statements, "quit")).encode())
        said = b""
        while piece := sock.recv(65536):
            said += piece
    return said.decode()


def with_console(port: int) -> str:
    return f"CREATE SERVICE console\nSET role = management\nSET listen = 127.0.0.1:{port}\nENABLE console"


# --- in the background -------------------------------------------------------------------------------------------------


def test_the_parent_of_a_daemon_ends_when_everything_listens(tmp_path):
    port = free_port()
    (tmp_path / "file.txt").write_text("here\n")
    path = conf(tmp_path, port, "SERVER log_to = stderr\nSERVER pidfile = run.pid\nSET chat docroot = .")
    log = tmp_path / "log"
    with log.open("wb") as errors:
        relative = os.path.relpath(path, ROOT)
        done = subprocess.run(
            [*PBAL, "--conf", relative, "-d", "--pid", str(tmp_path / "own.pid")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, b""), log.read_text()
    assert not (tmp_path / "run.pid").exists(), "the command line's counts for more"
    process = int((tmp_path / "own.pid").read_text())
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
            sock.sendall(b"GET /file.txt HTTP/1.1\r\nHost: c\r\n\r\n")
            assert sock.recv(4096).endswith(b"here\n"), "relative paths begin where the file is"
        assert os.getsid(process) == process and os.getpgid(process) == process
        assert os.readlink(f"/proc/{process}/cwd") == "/"
        streams = [os.readlink(f"/proc/{process}/fd/{number}") for number in range(3)]
        assert streams == ["/dev/null", "/dev/null", str(log)], "standard error is where the log was sent"
    finally:
        os.kill(process, signal.SIGTERM)
    wait(lambda: gone(process), "its end")
    assert not (tmp_path / "own.pid").exists()
    assert "chat (web_server) listens on" in log.read_text() and "ending" in log.read_text()


def test_a_daemon_logs_to_syslog_unless_told_otherwise(tmp_path):
    port = free_port()
    own = free_port()
    path = conf(tmp_path, port, f"SERVER pidfile = {tmp_path}/run.pid\n{with_console(own)}")
    here = str(tmp_path / "syslog")
    script = (
        "import sys; import pbal.observe.syslog as syslog; syslog.SYSLOG_SOCKETS = (sys.argv[1],);"
        "from pbal.__main__ import main; sys.exit(main(sys.argv[2:]))"
    )
    command = [sys.executable, "-c", script, here, "-d", "-c", str(path)]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert refused.stderr.startswith("pbal: log_to: there is no syslog: ") and "SERVER log_to = stderr" in refused.stderr
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(here)
        listening.settimeout(DEADLINE)
        closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
        assert subprocess.run(closed, cwd=ROOT, timeout=60).returncode == 0
        process = int((tmp_path / "run.pid").read_text())
        try:
            assert f"pbal[{process}]: pbal: at most " in listening.recv(4096).decode()
            assert [os.readlink(f"/proc/{process}/fd/{number}") for number in range(3)] == ["/dev/null"] * 3
            said = console(own, "SERVER log_to = stderr")
            assert "ERROR: " in said and "pbal runs in the background, where standard error leads nowhere" in said
            assert console(own, "SERVER log_to = syslog", "UNSET SERVER log_to").count("OK") == 2, "it is the default here"
        finally:
            os.kill(process, signal.SIGTERM)
        wait(lambda: gone(process), "its end")


def test_a_daemon_that_cannot_start_says_so_where_it_was_started(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = conf(tmp_path, port, "SERVER log_to = stderr\nSERVER pidfile = run.pid")
        done = run("--daemon", "-c", str(path))
    assert done.returncode == 1
    assert f"pbal: Can't start service 'chat' on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert not (tmp_path / "run.pid").exists()
    path.write_text("ENABEL chat\n")
    done = run("--daemon", "-c", str(path))
    assert done.returncode == 1 and "'ENABEL' is not a statement" in done.stderr


def test_long_options_may_have_one_dash_as_with_perlbal():
    assert "cannot read /no/such.conf: No such file" in run("-config=/no/such.conf").stderr


def test_a_file_without_a_name_is_not_the_usual_one(capsys):
    assert main(["-c", ""]) == 2 and "-c names no file" in capsys.readouterr().err


def test_without_a_file_two_lines_say_what_to_do():
    done = run()
    if Path("/etc/pbal/pbal.conf").exists():
        assert "there is no" not in done.stderr
        return
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("pbal: there is no /etc/pbal/pbal.conf: ") and "pbal.conf(5)" in second


# --- the pidfile -------------------------------------------------------------------------------------------------------


def test_a_pidfile_is_written_and_removed_and_nobody_elses_is_taken(tmp_path):
    port, other, own = free_port(), free_port(), free_port()
    pidfile = tmp_path / "run.pid"
    pidfile.write_text("1\n")  # of a process that lives, and is not pbal's
    path = conf(tmp_path, port, f"SERVER pidfile = run.pid\n{with_console(own)}")
    with Running(path, port) as running:
        running.says("console (management) listens")
        wait(lambda: pidfile.read_text() == f"{running.process.pid}\n", "the stale file to be replaced")
        (tmp_path / "second").mkdir()
        second = conf(tmp_path / "second", other, f"SERVER pidfile = {pidfile}")
        done = run("-c", str(second))
        assert done.returncode == 1
        assert f"pidfile: {pidfile} is that of a pbal that runs already, process {running.process.pid}" in done.stderr
        assert pidfile.read_text() == f"{running.process.pid}\n"
        said = console(own, "SERVER pidfile = /elsewhere", f"SERVER pidfile = {pidfile}")
        assert "ERROR: " in said and "pidfile cannot be changed while pbal runs" in said and said.count("OK") == 1
        assert running.end()[0] == 0
    assert not pidfile.exists()


def test_a_pidfile_that_cannot_be_made_is_an_error_and_a_link_is_not_followed(tmp_path):
    with pytest.raises(ConfigError, match=f"pidfile: cannot make {tmp_path}/none/run.pid: No such file"):
        Pidfile(tmp_path / "none" / "run.pid")
    (tmp_path / "run.pid").symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="cannot make"):
        Pidfile(tmp_path / "run.pid")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_holds_something_else_is_no_pidfile_and_keeps_it(tmp_path):
    """Such as the configuration, whose name was typed twice."""
    file = tmp_path / "site.conf"
    for text in ("CREATE SERVICE web\n", "1" * 65, "12 web\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="holds something else than a process id, which would be lost"):
            Pidfile(file)
        assert file.read_text() == text
    for stale in ("", "\n", "12\n", " 12 "):
        file.write_text(stale)
        assert Pidfile(file).remove() == "" and not file.exists()


def test_an_end_at_once_leaves_the_pidfile_of_another(tmp_path):
    port = free_port()
    pidfile = tmp_path / "run.pid"
    with Running(conf(tmp_path, port, "SERVER pidfile = run.pid\nSERVER drain_delay = 1h"), port) as running:
        wait(lambda: pidfile.exists() and pidfile.read_text(), "the pidfile")
        pidfile.unlink()
        pidfile.write_text("another's\n")
        running.send_signal(signal.SIGTERM)
        running.says("serving for 3600 seconds more")
        assert answers(port)
        assert running.end()[0] == 0
    assert pidfile.read_text() == "another's\n"


# --- another user ------------------------------------------------------------------------------------------------------


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="pbal-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def low_port() -> int:
    """A free port that is root's."""
    for port in range(1023, 600, -1):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port below 1024 is free")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_binds_and_becomes_the_user_who_keeps_one_right_only():
    nobody = pwd.getpwnam("nobody")
    first, own, later = low_port(), free_port(), 0
    with open_folder() as folder:
        logs = folder / "logs"
        logs.mkdir()
        os.chown(logs, nobody.pw_uid, nobody.pw_gid)
        more = f"SERVER user = nobody\nSERVER pidfile = run.pid\nSET chat access_log = {logs}/access.log\n{with_console(own)}"
        with Running(conf(folder, first, more), first) as running:
            running.says("console (management) listens")
            status = status_of(running.process.pid)
            assert status["Uid"].split() == [str(nobody.pw_uid)] * 4 and status["Gid"].split() == [str(nobody.pw_gid)] * 4
            assert {int(group) for group in status["Groups"].split()} == set(os.getgrouplist("nobody", nobody.pw_gid))
            assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 1 << 10
            assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
            assert status["NoNewPrivs"] == "1"
            later = low_port()
            statements = ("CREATE SERVICE late", "SET role = web_server", f"SET listen = 127.0.0.1:{later}", "ENABLE late")
            assert console(own, *statements).count("OK") == 4
            assert answers(later) and answers(first)
            wait(lambda: (logs / "access.log").read_text(), "the line of a request")
            (logs / "access.log").rename(logs / "moved")
            running.send_signal(signal.SIGUSR1)
            wait(lambda: (logs / "access.log").exists(), "the log opened anew")
            assert (logs / "access.log").stat().st_uid == nobody.pw_uid
            code, log = running.end()
        assert code == 0 and "Traceback" not in log
        assert "runs as nobody" in log
        assert log.index("cannot write into") < log.index("runs as nobody"), "what will fail later is said"
        assert (folder / "run.pid").read_text() == "", "it could not be removed, and points to nobody"
        assert "run.pid was emptied and not removed" in log


def test_who_is_not_root_is_told_that_he_cannot_become_another():
    script = (
        "import os; import pbal.life.privileges as privileges; from pbal.model.world import World\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "world = World(); world.server['user'] = 'daemon'; wanted = privileges.account(world)\n"
        "try: privileges.become(wanted)\n"
        "except Exception as error: print(error.message)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    now = pwd.getpwuid(os.geteuid() or 65534).pw_name
    assert (done.stdout, done.stderr) == (f"user: only root can become daemon, and pbal was started as {now}\n", "")


def test_check_tells_what_the_user_could_not_open_again(tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "docs").mkdir()
    (tmp_path / "jwt.key").write_text("0123456789abcdef" * 4)
    text = f"SERVER user = nobody\nSERVER pidfile = {tmp_path}/run.pid\nSET chat access_log = access.log\nSET chat docroot = docs"
    (tmp_path / "id").write_text("web-1\n")
    (tmp_path / "more.conf").write_text("SET chat extra.id = ${file:id}\n")
    text += "\nINCLUDE more.conf"
    text += "\nSET chat poll_auth = jwt jwt.key\nCREATE SERVICE console\nSET role = management\nSET listen = unix:c.sock\nENABLE console"
    done = run("check", str(conf(tmp_path, 8080, text)))
    assert done.returncode == 0
    assert f"user nobody cannot read {tmp_path}/test.conf: it cannot be read anew" in done.stderr
    for file in ("more.conf", "id"):
        assert f"user nobody cannot read {tmp_path}/{file}: it cannot be read anew" in done.stderr
    assert f"user nobody cannot write into {tmp_path}: at the end run.pid is emptied" in done.stderr
    assert f"service chat: access_log: user nobody cannot write into {tmp_path}" in done.stderr
    assert f"service chat: docroot: user nobody cannot read {tmp_path}/docs" in done.stderr
    assert f"service chat: poll_auth: user nobody cannot read {tmp_path}/jwt.key: it will not be read anew" in done.stderr
    assert f"service console: listen: user nobody cannot write into {tmp_path}: {tmp_path}/c.sock stays" in done.stderr
    assert warnings(World()) == []


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "may"),
    [(0o600, 0, {5}, True), (0o604, 7, {5}, True), (0o640, 7, {5}, False), (0o640, 7, {0}, True), (0o604, 7, {0}, False)],
)
def test_rights_are_those_of_the_first_class_that_fits(mode, uid, groups, may):
    with open_folder() as folder:
        path = folder / "key"
        path.touch()
        path.chmod(mode)
        mine = path.stat()
        account = Account(
            "x", uid and mine.st_uid + uid, 5, frozenset(mine.st_gid if group == 0 else mine.st_gid + group for group in groups)
        )
        assert account.may(path, 4) is may


# --- process 1 ---------------------------------------------------------------------------------------------------------


def unshared() -> list[str]:
    """A program that starts another as process 1 of a world of its own."""
    command = ["unshare", "--pid", "--fork", "--kill-child", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a world of processes (unshare --pid)")
    return command


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


ORPHAN = """
if target == b"/orphan":
    import subprocess
    # Its parent, the shell, ends before it does; it is nobody's child then but process 1's.
    target = subprocess.run(["sh", "-c", "sleep 0.05 & exit 7"]).returncode
    exchange.respond(200, (), b"the shell said %d" % target)
    return Verdict.TAKEN
"""


def test_process_1_reaps_what_others_left_and_passes_signals_on(tmp_path):
    port = free_port()
    with Running(plugin(tmp_path, port, ORPHAN), port, under=unshared()) as running:
        (init,) = children(running.process.pid)
        (server,) = children(init)
        assert os.getsid(server) != os.getsid(init), "a Ctrl-C at the terminal reaches it once"
        assert running.send("/orphan").recv(4096).endswith(b"the shell said 7"), "a plugin's own programs are left to it"
        wait(lambda: children(init) == [server], "the orphan to be reaped")
        os.kill(init, signal.SIGUSR1)
        running.says("state: up")
        os.kill(init, signal.SIGTERM)
        status, log = running.ended()
        assert status == 0 and "ending: requests in flight" in log
    with Running(plugin(tmp_path, port, ORPHAN), port, under=unshared()) as running:
        (server,) = children(children(running.process.pid)[0])
        os.kill(server, signal.SIGKILL)
        assert running.ended()[0] == 128 + signal.SIGKILL
    daemon = subprocess.run(
        [*unshared(), *PBAL, "-d", "-c", str(tmp_path / "test.conf")], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert daemon.returncode == 2 and "--daemon in process 1 would end the container" in daemon.stderr


# --- systemd -----------------------------------------------------------------------------------------------------------


@contextmanager
def systemd(address: str) -> Iterator[socket.socket]:
    """What listens at NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        sock.settimeout(DEADLINE)
        yield sock


def told(sock: socket.socket, beginning: str) -> list[str]:
    """The lines of the next datagram that begins so."""
    while True:
        lines = sock.recv(4096).decode().split("\n")
        if lines[0].startswith(beginning):
            return lines


def test_systemd_is_told_of_readiness_of_a_loop_that_turns_and_of_the_end(tmp_path):
    port = free_port()
    address = f"@pbal-test-{port}"  # of the abstract kind
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": ""}
    with systemd(address) as sock, Running(conf(tmp_path, port), port, environment=environment) as running:
        assert sock.recv(4096) == b"READY=1\nSTATUS=serving: 0 clients, 0 parked, 0 backends"
        assert answers(port)
        assert told(sock, "WATCHDOG=1")
        running.send_signal(signal.SIGTERM)
        stopping = told(sock, "STOPPING=1")
        assert stopping[1].startswith("STATUS=leaving: ") and stopping[2] == "EXTEND_TIMEOUT_USEC=32000000"
        assert running.ended()[0] == 0


@lab
async def test_systemd_is_told_of_a_reload(lab):
    pbal = await lab.pbal(SITE.format(delay="0"))
    address = str(pbal.folder / "notify")
    with systemd(address) as sock:
        pbal.server.process.notifier = Notifier(address)
        pbal.server.reloading()
        assert sock.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        pbal.server.reloaded()
        assert sock.recv(100).startswith(b"READY=1\nSTATUS=serving: 0 clients")
        pbal.server._end.finish()
        assert sock.recv(100).startswith(b"STOPPING=1")
        pbal.server.reloading()
        pbal.server.reloaded()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        pbal.server.process.close()


def test_systemd_is_not_told_of_readiness_by_one_that_cannot_start(tmp_path):
    address = str(tmp_path / "notify")
    path = conf(tmp_path, free_port(), "CREATE SERVICE two\nSET role = web_server\nSET listen = 192.0.2.1:1\nENABLE two")
    with systemd(address) as sock:
        done = subprocess.run(
            [*PBAL, "-c", str(path)], cwd=ROOT, env={**os.environ, "NOTIFY_SOCKET": address}, capture_output=True, timeout=60
        )
        assert done.returncode == 1
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(4096)


def test_a_notifier_sends_what_is_due_and_keeps_the_reason_of_a_failure(tmp_path):
    address = str(tmp_path / "notify")
    with systemd(address) as sock:
        notifier = Notifier(address, watchdog=10.0)
        notifier.beat(100.0, "a")
        assert sock.recv(100) == b"WATCHDOG=1\nSTATUS=a"
        notifier.beat(103.0, "b")
        notifier.beat(104.0, "b")
        assert sock.recv(100) == b"WATCHDOG=1"
        notifier.beat(105.0, "b")
        assert sock.recv(100) == b"STATUS=b"
        notifier.reloading(1.5)
        assert sock.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=1500000\n")
        assert notifier.error == ""
    os.unlink(address)
    notifier.ready("a")
    assert notifier.error == "No such file or directory"
    notifier.close()
    assert not notifier.heard and not Notifier().heard


HAND_OVER = """
import os, sys
for place, descriptor in enumerate(sys.argv[1].split(",")):
    os.dup2(int(descriptor), 3 + place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(place + 1), "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_a_socket_handed_over_is_listened_on_and_what_nobody_wants_is_closed(tmp_path):
    own = free_port()
    with socket.socket() as web, socket.socket() as other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        for sock in (web, other):
            sock.bind(("127.0.0.1", 0))
            sock.listen()
        port, unwanted = web.getsockname()[1], other.getsockname()[1]
        waiting = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)  # came before pbal was started
        waiting.sendall(b"GET /early HTTP/1.1\r\nHost: c\r\n\r\n")
        kept = [os.dup(sock.fileno()) for sock in (web, other, datagram)]
        high = [_high(descriptor) for descriptor in kept]
        under = (sys.executable, "-c", HAND_OVER, ",".join(map(str, high)), "web:other:odd")
        with Running(conf(tmp_path, port, with_console(own)), port, under=under, pass_fds=high) as running:
            for descriptor in high:
                os.close(descriptor)
            assert b"404" in waiting.recv(4096)
            running.says(f"no service listens on 127.0.0.1:{unwanted}, which was handed over as other: closed")
            assert "handed over and not used: descriptor 5 (odd) is no socket that listens for connections" in running.log()
            running.says("console (management) listens")
            assert console(own, "DISABLE chat", "ENABLE chat").count("OK") == 2, "it is still bound: only who was handed it can have it"
            assert answers(port)
            assert running.end()[0] == 0
        waiting.close()


@lab
async def test_a_unix_socket_handed_over_keeps_its_file_and_mode(lab):
    path = lab.folder / "site.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        path.chmod(0o640)
        handed = Handed()
        handed.add(os.dup(sock.fileno()), "site")
        site = SITE.format(delay="0").replace("127.0.0.1:0", f"unix:{path}", 1)
        pbal = await lab.pbal(site, Process(handed))
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(GET)
        await until(lambda: pbal.counts["requests"] == 1, "the request")
        writer.close()
        assert await pbal.say("DISABLE site") == "OK" and await pbal.say("ENABLE site") == "OK"
        await pbal.server.close()
        assert path.stat().st_mode & 0o777 == 0o640


def _high(descriptor: int) -> int:
    """The same under a number that nothing else has, and that programs may inherit."""
    import fcntl

    made = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100)
    os.close(descriptor)
    return made


@lab
async def test_a_name_is_that_of_the_socket_which_was_handed_over_for_its_address(lab):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        handed = Handed()
        handed.add(os.dup(sock.fileno()), "site")
        port = sock.getsockname()[1]
        pbal = await lab.pbal(SITE.format(delay="0").replace("127.0.0.1:0", f"localhost:{port}", 1), Process(handed))
        assert b"404" in (await pbal.ask("site", b"GET /none HTTP/1.1\r\nHost: c\r\n\r\n")).head
        for statement in ("DISABLE site", "ENABLE site"):
            assert await pbal.say(statement) == "OK"


def test_an_address_is_found_exactly_or_as_every_address():
    handed = Handed()
    socks = [socket.socket(family) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_INET)]
    socks[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    socks[0].bind(("0.0.0.0", 0))
    port = socks[0].getsockname()[1]
    socks[1].bind(("::", port))
    socks[2].bind(("127.0.0.1", 0))
    for place, sock in enumerate(socks):
        sock.listen()
        handed.add(sock.detach(), f"s{place}")
    found = handed.take(Endpoint("", port)), handed.take(Endpoint("::", port)), handed.take(Endpoint("127.0.0.1", port))
    assert [sock and sock.getsockname()[0] for sock in found] == ["0.0.0.0", "::", None]
    assert [left.name for left in handed.unused()] == ["s2"]
    for taken in found:
        if taken is not None:
            taken.close()
    handed.close()
    handed.add(9999, "none")
    assert handed.sockets == [] and "descriptor 9999 (none) is no socket" in handed.odd[0]


# --- the end -----------------------------------------------------------------------------------------------------------

GET = b"GET /none HTTP/1.1\r\nHost: c\r\n\r\n"


@lab
async def test_while_drain_delay_lasts_requests_are_served_as_before(lab):
    pbal = await lab.pbal(SITE.format(delay="1h"))
    readyz = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert (await pbal.ask("console", readyz)).status == 200
    assert await pbal.say("SHUTDOWN GRACEFUL") == "OK"
    assert (await pbal.ask("console", readyz)).status == 503, "a balancer in front learns of it before anything is refused"
    assert pbal.world.ending and not pbal.world.draining
    response = await pbal.ask("site", GET)
    assert response.status == 404 and "connection" not in response.fields
    pbal.server.signalled(signal.SIGTERM)  # the second request to end
    await pbal.server.run()


@lab
async def test_after_drain_delay_listeners_close(lab):
    pbal = await lab.pbal(SITE.format(delay="20ms"))
    assert await pbal.say("SHUTDOWN GRACEFUL") == "OK"
    await until(lambda: pbal.world.draining, "the delay to pass")
    with pytest.raises(OSError):
        await pbal.ask("site", GET)
    await pbal.server.run()


@lab
async def test_while_it_drains_nothing_listens_anew(lab):
    pbal = await lab.pbal(SITE.format(delay="0"))
    _, writer = await pbal.connect("site")
    writer.write(b"GET /unfinished")
    await pbal.until("clients", 1)
    assert await pbal.say("SHUTDOWN GRACEFUL") == "OK"
    assert pbal.world.draining
    assert (await pbal.say("SET site.listen = 127.0.0.1:0")).startswith("OK"), "as it is"
    other = free_port()
    assert (await pbal.say(f"SET site.listen = 127.0.0.1:{other}")).startswith("ERROR: pbal is ending: nothing listens any more")
    writer.close()
    await pbal.server.run()


@lab
async def test_the_seconds_of_a_shutdown_are_all_that_there_is(lab):
    pbal = await lab.pbal(SITE.format(delay="1h"))
    _, writer = await pbal.connect("site")
    writer.write(b"GET /unfinished")
    assert await pbal.say("SHUTDOWN GRACEFUL 0.05") == "OK"
    await pbal.server.run()


def begun(pbal: Pbal) -> bool:
    """Whether a part of a head is there."""
    return any(client.reader is not None and client.reader.buffered for client in pbal.world.clients)


@lab
async def test_an_end_that_has_begun_comes_sooner_if_it_is_told_to(lab):
    """Whether it serves on or drains already; and never later."""
    for delay in ("1h", "0"):
        pbal = await lab.pbal(SITE.format(delay=delay))
        _, writer = await pbal.connect("site")
        writer.write(b"GET /unfinished")
        await until(partial(begun, pbal), "a beginning")
        for statement in ("SHUTDOWN GRACEFUL 2h", "SHUTDOWN GRACEFUL", "SHUTDOWN GRACEFUL 0.05", "SHUTDOWN GRACEFUL 1h"):
            assert await pbal.say(statement) == "OK"
        await pbal.server.run()


# --- what stands in contrib/ -------------------------------------------------------------------------------------------


def test_the_units_are_such_as_systemd_reads():
    folder = ROOT / "contrib" / "systemd"
    units = [folder / "pbal.service", folder / "pbal.socket"]
    read: dict[str, list[str]] = {}
    for line in "\n".join(unit.read_text() for unit in units).splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            read.setdefault(name, []).append(value)
    assert read["Type"] == ["notify"] and read["NoNewPrivileges"] == ["yes"]
    assert float(read["WatchdogSec"][0]) >= 2, "the tick beats once a second"
    assert [LISTEN.parse(address) for address in read["ListenStream"]] == [Endpoint("0.0.0.0", 80)], "as a service writes it"
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, timeout=60)
        assert "Unknown" not in done.stderr and "Failed to parse" not in done.stderr and "ignoring" not in done.stderr.lower()
