"""Starting pbal and its peers on free ports, and reading what a process used."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
PYTHON = os.environ.get("PBAL_PYTHON", sys.executable)
"""What runs pbal: `make bench-fast` names the interpreter that has the compiled one installed."""
SAFE = ["-I"] if "PBAL_PYTHON" in os.environ else []
"""Isolated: neither the checkout's own pbal/ nor one on PYTHONPATH is to be found before the installed one."""
MEASURED = (PYTHON, *SAFE)
INTERPRETED = (sys.executable,)
"""The checkout's own pbal, pure Python."""
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


def nchan_module() -> str:
    """The lines that load nchan into nginx."""
    return "".join(f"load_module {path};\n" for path in [*sorted(NCHAN.parent.glob("ndk*.so")), NCHAN])


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def have(program: str) -> bool:
    """Whether a peer is installed."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


class Program:
    """A running process; `pid` is the one that works (a worker, where there is a master)."""

    def __init__(self, argv: list[str], port: int, cwd: str | None = None, core: int | None = None, worker: bool = False) -> None:
        self.folder = cwd
        self.started = time.perf_counter()
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd)
        self.port = port
        end = time.monotonic() + 15
        while time.monotonic() < end:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.002)
        else:
            raise RuntimeError(f"{argv[0]} did not start")
        self.listening_after = time.perf_counter() - self.started
        self.pid = self._worker() if worker else self.process.pid
        if core is not None:
            os.sched_setaffinity(self.pid, {core})

    def _worker(self) -> int:
        """The child that does the work; the master listens before it is there."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for _ in range(500):
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.01)
        raise RuntimeError("no worker process came")

    def cpu(self) -> float:
        """User and system seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident(self) -> int:
        """Resident octets."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def compiled() -> bool:
    """Whether the pbal that is measured is the compiled one, as its --version says."""
    said = subprocess.run([*MEASURED, "-m", "pbal", "--version"], capture_output=True, text=True, check=True).stdout
    return "(compiled)" in said


def pbal(text: str, port: int, core: int | None = None, build: tuple[str, ...] = MEASURED) -> Program:
    """pbal with a configuration."""
    path = Path(tempfile.mkdtemp(prefix="pbal-bench-")) / "bench.conf"
    path.write_text(text)
    return Program([*build, "-m", "pbal", "--log-level", "error", "-c", str(path)], port, core=core)


def nginx(http: str, port: int, core: int | None = None, modules: str = "") -> Program:
    """nginx, one worker, without a log."""
    folder = tempfile.mkdtemp(prefix="pbal-bench-")
    os.chmod(folder, 0o755)
    (Path(folder) / "nginx.conf").write_text(
        f"{modules}\nworker_processes 1; worker_rlimit_nofile 20000; pid {folder}/pid; error_log {folder}/log; daemon off;\n"
        f"events {{ worker_connections 19000; }}\nhttp {{ access_log off; keepalive_requests 1000000000;\n{http}\n}}\n"
    )
    return Program(["nginx", "-c", f"{folder}/nginx.conf"], port, cwd=folder, core=core, worker=True)


def haproxy(origin: int, port: int, core: int | None = None, certificate: str = "") -> Program:
    """HAProxy, one thread. `certificate`: a file with key and certificate, for TLS."""
    tls = f" ssl crt {certificate}" if certificate else ""
    folder = tempfile.mkdtemp(prefix="pbal-bench-")
    (Path(folder) / "haproxy.cfg").write_text(
        "global\n nbthread 1\n maxconn 4000\ndefaults\n mode http\n timeout client 30s\n timeout server 30s\n timeout connect 5s\n"
        f" http-reuse always\nfrontend f\n bind 127.0.0.1:{port}{tls}\n default_backend b\nbackend b\n server s 127.0.0.1:{origin}\n"
    )
    return Program(["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"], port, cwd=folder, core=core)


def perlbal(origin: int, port: int, core: int | None = None) -> Program:
    """Perlbal, keep-alive on both sides."""
    folder = tempfile.mkdtemp(prefix="pbal-bench-")
    (Path(folder) / "perlbal.conf").write_text(
        f"CREATE POOL p\n POOL p ADD 127.0.0.1:{origin}\nCREATE SERVICE b\n SET role = reverse_proxy\n SET listen = 127.0.0.1:{port}\n"
        " SET pool = p\n SET persist_client = on\n SET persist_backend = on\n SET backend_persist_cache = 64\nENABLE b\n"
    )
    return Program(["perlbal", f"--config={folder}/perlbal.conf"], port, cwd=folder, core=core)


def memcached(port: int) -> Program:
    """memcached."""
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return Program(["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", *user], port)
