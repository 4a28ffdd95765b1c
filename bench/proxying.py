"""Figures of the reverse proxy: idle connections, large responses, the slowest answers at half of the highest rate."""

import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import peers
from bench.load import spent

IDLE = 10_000
MEGABYTE = 1 << 20
CONF = """
CREATE POOL app
  POOL app ADD 127.0.0.1:{origin}
CREATE SERVICE web
  SET role   = reverse_proxy
  SET listen = 127.0.0.1:{port}
  SET pool   = app
ENABLE web
"""
Row = tuple[str, float, str, str]
Start = Callable[[int, int, int | None], peers.Program]


def pbal(origin: int, port: int, core: int | None) -> peers.Program:
    """pbal before an origin, everything that is on by default."""
    return peers.pbal(CONF.format(origin=origin, port=port), port, core)


def nginx(origin: int, port: int, core: int | None, more: str = "") -> peers.Program:
    """nginx before an origin, keep-alive on both sides."""
    place = f'location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; {more} }}'
    http = f"upstream u {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }}"
    return peers.nginx(f"{http} server {{ listen 127.0.0.1:{port} backlog=4096; keepalive_timeout 600; {place} }}", port, core)


def large_buffers(origin: int, port: int, core: int | None) -> peers.Program:
    """nginx with buffers that hold the whole response."""
    return nginx(origin, port, core, "proxy_buffers 16 256k; proxy_buffer_size 256k; proxy_busy_buffers_size 512k;")


def origin(folder: str, core: int | None) -> peers.Program:
    """nginx with one small answer and one file of a megabyte."""
    (Path(folder) / "megabyte").write_bytes(bytes(MEGABYTE))
    Path(folder).chmod(0o755)
    port = peers.free_port()
    http = f'server {{ listen 127.0.0.1:{port} backlog=4096; root {folder}; location = /small {{ return 200 "{"x" * 100}"; }} }}'
    return peers.nginx(http, port, core)


def idle() -> Iterator[Row]:
    """Memory of a keep-alive connection that has been answered and waits."""
    if not peers.have("nginx"):
        print("left out: idle connections need nginx (origin)")
        return
    with tempfile.TemporaryDirectory() as folder:
        behind = origin(folder, None)
        try:
            for name, start, target in (("nginx", nginx, ""), ("pbal", pbal, "1.5")):
                program = start(behind.port, peers.free_port(), None)
                try:
                    _warm(program.port)
                    before = program.resident()
                    command = [sys.executable, "-m", "bench.idle", str(program.port), str(IDLE)]
                    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                    assert load.stdout is not None
                    load.stdout.readline()
                    time.sleep(4)
                    yield f"memory of an idle keep-alive connection, {name}", (program.resident() - before) / IDLE / 1024, "KB", target
                    load.terminate()
                    load.wait()
                finally:
                    program.end()
        finally:
            behind.end()


def _warm(port: int) -> None:
    """One request, so that what is made once is made."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /small HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
        while sock.recv(65536):
            pass


def bodies() -> Iterator[Row]:
    """CPU of a response of a megabyte."""
    if not (peers.have("nginx") and peers.have("wrk")):
        print("left out: large responses need nginx (origin) and wrk")
        return
    first, last = peers.CORES[0], peers.CORES[-1]
    with tempfile.TemporaryDirectory() as folder:
        behind = origin(folder, last)
        try:
            below: list[float] = []
            kinds: list[tuple[str, Start]] = [("nginx", nginx), ("nginx with large buffers", large_buffers)]
            if peers.have("haproxy"):
                kinds.append(("haproxy", peers.haproxy))
            for name, start in kinds:
                below.append(spent(start(behind.port, peers.free_port(), first), "/megabyte", 8))
                yield f"response of 1 MB, {name}", below[-1], "us CPU", ""
            yield (
                "response of 1 MB, pbal",
                spent(pbal(behind.port, peers.free_port(), first), "/megabyte", 8),
                "us CPU",
                f"below {min(below):.0f}",
            )
        finally:
            behind.end()


def tail() -> Iterator[Row]:
    """The slowest answers at a rate of half of what each can do at most."""
    if not (peers.have("nginx") and peers.have("wrk")):
        print("left out: the slowest answers need nginx (origin) and wrk")
        return
    first, last = peers.CORES[0], peers.CORES[-1]
    with tempfile.TemporaryDirectory() as folder:
        behind = origin(folder, last)
        try:
            beside = 0.0
            for name, start in (("nginx", nginx), ("pbal", pbal)):
                program = start(behind.port, peers.free_port(), first)
                try:
                    highest = _highest(program.port)
                    script = [sys.executable, "-m", "bench.steady", str(program.port), str(highest / 2)]
                    out = subprocess.run(["taskset", "-c", str(last), *script], capture_output=True, text=True, check=True).stdout
                    rate, median, slowest = map(float, out.split())
                finally:
                    program.end()
                beside = beside or slowest
                yield f"at half of the highest rate, {name}: requests", rate, "a second", ""
                yield f"at half of the highest rate, {name}: median", median * 1000, "ms", ""
                target = f"2 x nginx: {2 * beside * 1000:.2f}" if name == "pbal" else ""
                yield f"at half of the highest rate, {name}: p99", slowest * 1000, "ms", target
        finally:
            behind.end()


def _highest(port: int) -> float:
    """Requests a second, without pause between them."""
    command = ["taskset", "-c", str(peers.CORES[-1]), "wrk", "-t1", "-c32", "-d3s", f"http://127.0.0.1:{port}/small"]
    found = re.search(r"Requests/sec:\s*([\d.]+)", subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return float(found[1]) if found else 1000.0
