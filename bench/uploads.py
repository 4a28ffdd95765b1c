"""Figures of uploads: CPU of a megabyte streamed and spooled, and of a small POST, beside HAProxy and nginx.

nginx by default writes what is longer than 16 KB to a file before it asks its upstream; with large buffers it holds it in memory; with
proxy_request_buffering off it streams.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator

from bench import peers
from bench.load import spent
from bench.proxying import MEGABYTE, Row

CONF = """
CREATE POOL app
  POOL app ADD 127.0.0.1:{origin}
CREATE SERVICE web
  SET role   = reverse_proxy
  SET listen = 127.0.0.1:{port}
  SET pool   = app
  {more}
ENABLE web
"""
SCRIPT = 'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n'
Start = Callable[[int, int, int], peers.Program]


def pbal(more: str) -> Start:
    """pbal with one more statement."""
    return lambda origin, port, core: peers.pbal(CONF.format(origin=origin, port=port, more=more), port, core)


def nginx(more: str) -> Start:
    """nginx with directives for its location."""

    def start(origin: int, port: int, core: int) -> peers.Program:
        place = f'location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; {more} }}'
        http = f"upstream u {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }} client_max_body_size 0;"
        folder = f"client_body_temp_path {tempfile.gettempdir()}/pbal-bench-nginx;"
        return peers.nginx(f"{http} {folder} server {{ listen 127.0.0.1:{port}; {place} }}", port, core)

    return start


def uploads() -> Iterator[Row]:
    """CPU of uploads."""
    if not peers.have("wrk"):
        print("left out: uploads need wrk")
        return
    port = peers.free_port()
    sink = peers.Program([sys.executable, "-m", "bench.sink", str(port)], port, core=peers.CORES[-1])
    try:
        yield from _large(sink)
        if peers.have("nginx"):
            yield "POST of 100 bytes, nginx", _posted(nginx("")(port, peers.free_port(), peers.CORES[0]), 100, 32), "us CPU", ""
        at_once = _posted(pbal("SET buffer_backend_connect = 0")(port, peers.free_port(), peers.CORES[0]), 100, 32)
        yield "POST of 100 bytes, pbal, a node is asked at once", at_once, "us CPU", ""
        yield "POST of 100 bytes, pbal", _posted(pbal("")(port, peers.free_port(), peers.CORES[0]), 100, 32), "us CPU", f"{at_once:.1f}"
    finally:
        sink.end()


def _large(sink: peers.Program) -> Iterator[Row]:
    def megabyte(start: Start) -> float:
        return _posted(start(sink.port, peers.free_port(), peers.CORES[0]), MEGABYTE, 8)

    streamed = spooled = 0.0
    if peers.have("haproxy"):
        streamed = megabyte(peers.haproxy)
        yield "upload of 1 MB, streamed, haproxy", streamed, "us CPU", ""
    if peers.have("nginx"):
        yield "upload of 1 MB, streamed, nginx", megabyte(nginx("proxy_request_buffering off;")), "us CPU", ""
        yield "upload of 1 MB, in memory, nginx with large buffers", megabyte(nginx("client_body_buffer_size 2m;")), "us CPU", ""
        spooled = megabyte(nginx(""))
        yield "upload of 1 MB, spooled, nginx by default", spooled, "us CPU", ""
    yield "upload of 1 MB, streamed, pbal", megabyte(pbal("")), "us CPU", f"{streamed:.0f}" if streamed else ""
    spools = megabyte(pbal("SET buffer_uploads = on"))
    yield "upload of 1 MB, spooled, pbal", spools, "us CPU", f"{spooled:.0f}" if spooled else ""


def _posted(program: peers.Program, size: int, connections: int) -> float:
    """CPU microseconds a POST of so many bytes."""
    return spent(program, connections=connections, script=SCRIPT.format(size=size))
