"""Figures of TLS, beside nginx and HAProxy with the same certificate: handshakes, a small proxied GET, a large answer, a parked poll.

Handshakes are made by this process on the other core, one after another, so the figure is of the server's CPU and not of its rate.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import peers
from bench.handshakes import resident_growth, shake
from bench.waits import longest

Row = tuple[str, float, str, str]

PBAL = """
LOAD poll
CREATE POOL app
  POOL app ADD 127.0.0.1:{origin}
CREATE SERVICE site
  SET role               = reverse_proxy
  SET listen             = 127.0.0.1:{port}
  SET pool               = app
  SET enable_ssl         = on
  SET ssl_cert_file      = {folder}/cert.pem
  SET ssl_key_file       = {folder}/key.pem
  SET ssl_handshake_rate = 0
  SET plugins            = poll
  SET poll_uri           = ^/poll/(?P<queue>[\\w.-]+)$
  SET poll_timeout       = 600s
ENABLE site
CREATE SERVICE files
  SET role    = web_server
  SET listen  = 127.0.0.1:{files}
  SET docroot = {folder}
ENABLE files
"""
NGINX = """
  upstream u {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    ssl_session_tickets on; keepalive_timeout 600s;
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering on; }} }}
"""
ORIGIN = """
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{body}"; }} location = /large {{ alias {folder}/large; }} }}
"""
LARGE = 1 << 20
HANDSHAKES = 1500
PARKED = 2000


def certificate(folder: Path) -> None:
    """A self-signed certificate with a P-256 key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90"]
    names = ["-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    (folder / "both.pem").write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())


def tls() -> Iterator[Row]:
    """Handshakes, a small and a large answer, and a parked poll, over TLS."""
    missing = [name for name in ("nginx", "wrk", "openssl") if not peers.have(name)]
    if missing:
        print(f"left out: TLS needs {', '.join(missing)}")
        return
    with tempfile.TemporaryDirectory(prefix="pbal-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        certificate(folder)
        (folder / "large").write_bytes(os.urandom(LARGE))
        (folder / "small.txt").write_bytes(b"x" * 100)
        port = peers.free_port()
        origin = peers.nginx(ORIGIN.format(port=port, body="x" * 100, folder=folder), port, peers.CORES[-1])
        try:
            yield from _beside(folder, origin.port)
        finally:
            origin.end()


def _pbal(folder: Path, origin: int) -> tuple[peers.Program, int]:
    port, files = peers.free_port(), peers.free_port()
    return peers.pbal(PBAL.format(origin=origin, port=port, files=files, folder=folder), port, peers.CORES[0]), files


def _nginx(folder: Path, origin: int) -> peers.Program:
    port = peers.free_port()
    return peers.nginx(NGINX.format(origin=origin, port=port, folder=folder), port, peers.CORES[0])


def _beside(folder: Path, origin: int) -> Iterator[Row]:
    rates: dict[tuple[str, bool], float] = {}
    small: dict[str, float] = {}
    large: dict[str, float] = {}
    starts: dict[str, Callable[[], peers.Program]] = {
        "nginx": lambda: _nginx(folder, origin),
        "haproxy": lambda: peers.haproxy(origin, peers.free_port(), peers.CORES[0], str(folder / "both.pem")),
        "pbal": lambda: _pbal(folder, origin)[0],
    }
    if not peers.have("haproxy"):
        print("left out: haproxy is not installed")
        del starts["haproxy"]
    for name, start in starts.items():
        program = start()
        try:
            for resumed in (False, True):
                before = program.cpu()
                shake(program.port, HANDSHAKES, resumed)
                rates[name, resumed] = HANDSHAKES / (program.cpu() - before)
            small[name] = _requests(program, "/")[0]
            used, number = _requests(program, "/large")
            large[name] = LARGE / used if number else float("nan")
        finally:
            program.end()
    for resumed in (False, True):
        what = f"{'resumed' if resumed else 'full'} handshakes a CPU second (ECDSA P-256)"
        yield f"{what}, nginx", rates["nginx", resumed], "1/s", ""
        if "haproxy" in starts:
            yield f"{what}, haproxy", rates["haproxy", resumed], "1/s", ""
        yield f"{what}, pbal", rates["pbal", resumed], "1/s", f"60 % of nginx's: {0.6 * rates['nginx', resumed]:.0f}"
    yield "proxied GET over TLS, nginx", small["nginx"], "us CPU", ""
    if "haproxy" in starts:
        yield "proxied GET over TLS, haproxy", small["haproxy"], "us CPU", ""
        yield "1 MB proxied over TLS, haproxy", large["haproxy"], "MB/CPU s", ""
    yield "proxied GET over TLS, pbal", small["pbal"], "us CPU", f"3 x nginx: {3 * small['nginx']:.1f}"
    yield "1 MB proxied over TLS, nginx", large["nginx"], "MB/CPU s", ""
    yield "1 MB proxied over TLS, pbal", large["pbal"], "MB/CPU s", f"70 % of nginx's: {0.7 * large['nginx']:.0f}"
    program, files = _pbal(folder, origin)
    try:
        yield "memory of a parked poll over TLS", resident_growth(program, PARKED) / 1024, "KB", "18"
    finally:
        program.end()
    program, files = _pbal(folder, origin)
    try:
        yield "longest wait of another client during 200 handshakes a second", _longest(program.port, files), "ms", "10"
    finally:
        program.end()


def _requests(program: peers.Program, path: str) -> tuple[float, int]:
    """CPU microseconds a request on kept connections, and how many there were."""
    url = f"https://127.0.0.1:{program.port}{path}"
    before = program.cpu()
    out = subprocess.run(
        ["taskset", "-c", str(peers.CORES[-1]), "wrk", "-t1", "-c16", "-d4s", url], capture_output=True, text=True, check=False
    ).stdout
    used = program.cpu() - before
    found = re.search(r"(\d+) requests in", out)
    number = int(found[1]) if found else 0
    return (used / number * 1e6, number) if number else (float("nan"), 0)


def _longest(port: int, files: int) -> float:
    """The longest wait of a client in clear text while another process makes 200 handshakes a second for three seconds."""

    def load() -> None:
        command = [
            "taskset",
            "-c",
            str(peers.CORES[-1]),
            "nice",
            "-n",
            "10",
            sys.executable,
            "-m",
            "bench.handshakes",
            str(port),
            "200",
            "3",
        ]
        subprocess.run(command, check=True)

    os.sched_setaffinity(0, {peers.CORES[-1]})
    try:
        time.sleep(0.5)
        return longest(files, load)
    finally:
        os.sched_setaffinity(0, set(peers.CORES))
