"""Files as answers: CPU of a small and a large file of a web_server, and of a large one that a node named (X-REPROXY-FILE).

nginx does both, with sendfile and without (X-Accel-Redirect is its word for the second), Perlbal the second. The node is an nginx too.
Of files of 10 MB it is memory that counts: what pbal takes for many at once, whole and in ranges, by fast and by slow readers.
"""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.load import spent
from bench.proxying import MEGABYTE, Row

SMALL = 1024
LARGE = 10 << 20
READERS = 64
RANGES = """
local size, asked = %d, 0
request = function()
  asked = asked + 1
  local first = (asked * 1000003) %% (size - 300000)
  return wrk.format("GET", nil, {Range = string.format("bytes=%%d-%%d,%%d-%%d", first, first + 200000, first // 2, first // 2 + 1000)})
end
"""
"""For wrk: another range, and a short one, in each request."""
SITE = """
CREATE SERVICE site
  SET role    = web_server
  SET listen  = 127.0.0.1:{port}
  SET docroot = {folder}
ENABLE site
"""
NAMED = """
CREATE POOL app
  POOL app ADD 127.0.0.1:{node}
CREATE SERVICE web
  SET role            = reverse_proxy
  SET listen          = 127.0.0.1:{port}
  SET pool            = app
  SET persist_client  = on
  SET persist_backend = on
  SET enable_reproxy  = on
{more}
ENABLE web
"""


def files() -> Iterator[Row]:
    """CPU of a file."""
    if not (peers.have("nginx") and peers.have("wrk")):
        print("left out: files need nginx (the other server, and the node) and wrk")
        return
    with tempfile.TemporaryDirectory(prefix="pbal-bench-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "small").write_bytes(bytes(SMALL))
        (Path(folder) / "megabyte").write_bytes(bytes(MEGABYTE))
        for path, what, times in (("/small", "file of 1 KB", 3), ("/megabyte", "file of 1 MB", 2)):
            beside = []
            for sendfile in ("off", "on"):
                beside.append(spent(_nginx(folder, sendfile), path, 8))
                yield f"{what}, nginx, sendfile {sendfile}", beside[-1], "us CPU", ""
            target = f"{times} x nginx: {times * min(beside):.0f}"
            yield f"{what}, pbal", spent(_site(folder), path, 8), "us CPU", target
        (Path(folder) / "large").write_bytes(bytes(LARGE))
        yield from _memory(folder)
        yield from _named(folder)


def _site(folder: str) -> peers.Program:
    port = peers.free_port()
    return peers.pbal(SITE.format(port=port, folder=folder), port, peers.CORES[0])


def _memory(folder: str) -> Iterator[Row]:
    """What many readers of a large file take, above what one that has come and gone does."""
    for what, script in (("whole", ""), ("in ranges", RANGES % LARGE)):
        program = _site(folder)
        try:
            _load(program, 1, "")
            before = program.resident()
            _load(program, READERS, script)
            yield f"memory for {READERS} fast readers of 10 MB, {what}", (program.resident() - before) / MEGABYTE, "MB", "constant"
            before = program.resident()
            slow = [socket.create_connection(("127.0.0.1", program.port)) for _ in range(READERS)]
            for sock in slow:
                fields = "Range: bytes=1000000-\r\n" if script else ""
                sock.sendall(f"GET /large HTTP/1.1\r\nHost: b\r\n{fields}\r\n".encode())
            for sock in slow:
                sock.recv(1)
            yield f"memory for {READERS} slow readers of 10 MB, {what}", (program.resident() - before) / MEGABYTE, "MB", "constant"
            for sock in slow:
                sock.close()
        finally:
            program.end()


def _load(program: peers.Program, connections: int, script: str) -> None:
    """Ask for the large file as fast as it comes."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        more = ["-s", file.name] if script else []
        url = f"http://127.0.0.1:{program.port}/large"
        command = ["taskset", "-c", str(peers.CORES[-1]), "wrk", "-t1", f"-c{connections}", "-d2s", *more, url]
        subprocess.run(command, capture_output=True, check=True)


def _nginx(folder: str, sendfile: str) -> peers.Program:
    port = peers.free_port()
    return peers.nginx(f"sendfile {sendfile}; server {{ listen 127.0.0.1:{port}; root {folder}; }}", port, peers.CORES[0])


def _named(folder: str) -> Iterator[Row]:
    """A file that a node names."""
    first, last = peers.CORES[0], peers.CORES[-1]
    port = peers.free_port()
    says = f"add_header X-REPROXY-FILE {folder}/megabyte; add_header X-Accel-Redirect /files/megabyte;"
    node = peers.nginx(f"server {{ listen 127.0.0.1:{port}; location / {{ {says} return 200; }} }}", port, last)
    try:
        own = peers.free_port()
        http = f"upstream u {{ server 127.0.0.1:{port}; keepalive 64; }} sendfile on; server {{ listen 127.0.0.1:{own};"
        http += ' location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }'
        http += f" location /files/ {{ internal; alias {folder}/; }} }}"
        yield "file of 1 MB that a node named, nginx", spent(peers.nginx(http, own, first), "/", 8), "us CPU", ""
        if peers.have("perlbal"):
            own = peers.free_port()
            (Path(folder) / "perlbal.conf").write_text(NAMED.format(node=port, port=own, more=""))
            program = peers.Program(["perlbal", f"--config={folder}/perlbal.conf"], own, core=first)
            yield "file of 1 MB that a node named, perlbal", spent(program, "/", 8), "us CPU", ""
        own = peers.free_port()
        program = peers.pbal(NAMED.format(node=port, port=own, more=f"  SET reproxy_root = {folder}"), own, first)
        yield "file of 1 MB that a node named, pbal", spent(program, "/", 8), "us CPU", ""
    finally:
        node.end()
