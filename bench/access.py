"""What the access log costs: CPU of a small proxied GET with the log, less that without it; pbal's beside nginx's.

The two are measured in turns, several times, and the median of the differences counts: a busy machine changes by more than the
log costs within a minute.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import peers
from bench.load import spent

Row = tuple[str, float, str, str]

CONF = """
CREATE POOL app
  POOL app ADD 127.0.0.1:{origin}
CREATE SERVICE web
  SET role              = reverse_proxy
  SET listen            = 127.0.0.1:{port}
  SET pool              = app
  {log}
ENABLE web
"""
FORMS = {
    "JSON": "SET access_log_format = json\nSET request_id = off",
    "JSON, with request ids": "SET access_log_format = json",
    "combined": "SET access_log_format = combined\nSET request_id = off",
}
VARIED = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/item/" .. n, {["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) Firefox/128.0", ["Cookie"] = "s=" .. n * 7919})
end
"""
NGINX = """upstream u {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }}
server {{ listen 127.0.0.1:{port}; access_log {log};
  location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}"""
ROUNDS = 5


def access() -> Iterator[Row]:
    """CPU of the access log, to a file."""
    if not (peers.have("nginx") and peers.have("wrk")):
        print("left out: the access log needs nginx (origin) and wrk")
        return
    first, last = peers.CORES[0], peers.CORES[-1]
    port = peers.free_port()
    origin = peers.nginx(f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{"x" * 100}"; }} }}', port, last)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "access.log"

        def pbal(log: str) -> peers.Program:
            port = peers.free_port()
            return peers.pbal(CONF.format(origin=origin.port, port=port, log=log), port, first)

        def nginx(log: str) -> peers.Program:
            port = peers.free_port()
            return peers.nginx(NGINX.format(origin=origin.port, port=port, log=log), port, first)

        try:
            Path(folder).chmod(0o777)
            yield "CPU of the access log, nginx, combined", _difference(nginx, "off", f"{file} combined buffer=64k flush=1s"), "us CPU", ""
            for name, form in FORMS.items():
                log = f"SET access_log = {file}\n{form}"
                yield f"CPU of the access log, {name}", _difference(pbal, "", log), "us CPU", "3" if name == "JSON" else ""
                file.unlink()
        finally:
            origin.end()


def _difference(start: Callable[[str], peers.Program], without: str, with_log: str) -> float:
    """Median of what the log adds to a request, in microseconds; every head is different."""

    def used(log: str) -> float:
        return spent(start(log), seconds=2, script=VARIED)

    return statistics.median(-used(without) + used(with_log) for _ in range(ROUNDS))
