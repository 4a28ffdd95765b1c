"""Files as answers: CPU of a small and a large file of a web_server, and of a large one that a node named (X-REPROXY-FILE).

nginx does both, with sendfile and without (X-Accel-Redirect is its word for the second), Perlbal the second. The node is an nginx too.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.load import spent
from bench.proxying import MEGABYTE, Row

SMALL = 1024
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
        for path, what in (("/small", "file of 1 KB"), ("/megabyte", "file of 1 MB")):
            for sendfile in ("off", "on"):
                yield f"{what}, nginx, sendfile {sendfile}", spent(_nginx(folder, sendfile), path, 8), "us CPU", ""
            port = peers.free_port()
            program = peers.pbal(SITE.format(port=port, folder=folder), port, peers.CORES[0])
            yield f"{what}, pbal", spent(program, path, 8), "us CPU", ""
        yield from _named(folder)


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
