"""Reading a configuration of ten thousand lines: `pbal check`, from exec to its end."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

Row = tuple[str, float, str, str]

LINES = 10_000
POOLS, NODES, SERVICES = 100, 9, 1000


def configuration() -> str:
    """100 pools of nine nodes, 1,000 services behind a selector, and a VHOST for each; comments fill it up to LINES."""
    lines = ["LOAD vhosts"]
    for pool in range(POOLS):
        lines.append(f"CREATE POOL pool{pool}")
        lines += [f"  POOL pool{pool} ADD 10.0.{pool}.{node}:8080" for node in range(1, NODES + 1)]
    for service in range(SERVICES):
        lines += [
            f"CREATE SERVICE site{service}",
            "  SET role = reverse_proxy",
            f"  SET pool = pool{service % POOLS}",
            "  SET persist_backend = on   # as in Perlbal",
            f"  SET idle_timeout = {service % 60 + 1}s",
            f"  SET buffer_size = {service % 8 + 1}m",
            f"  HEADER site{service} INSERT X-Site: {service}",
        ]
    lines += ["CREATE SERVICE front", "  SET role = selector", "  SET listen = 127.0.0.1:8080", "  SET plugins = vhosts"]
    lines += [f"  VHOST site{service}.example.com = site{service}" for service in range(SERVICES)]
    lines.append("ENABLE front")
    return "\n".join([*["# filled up"] * (LINES - len(lines)), *lines]) + "\n"


def reading() -> Iterator[Row]:
    """pbal check of LINES lines, the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.conf"
        path.write_text(configuration())
        times = []
        for _ in range(6):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "pbal", "check", str(path)], check=True, capture_output=True)
            times.append(time.perf_counter() - began)
    yield "pbal check of 10,000 lines, best of 5", min(times[1:]), "s", "0.5"
    yield "pbal check of 10,000 lines, median of 5", statistics.median(times[1:]), "s", ""
