"""What plugins cost a request: a hook that passes, and plugins whose hooks are not concerned; CPU of a small proxied GET with them, less
that without.

Ten plugins of one hook each are measured and divided by ten, since one costs less than a busy machine changes by within a minute. The
measures are taken in turns, and the least of each kind counts: what disturbs only adds. The plugins are interpreted, as plugins are.
"""

import ipaddress
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.load import spent
from pbal.model.networks import NetworkTable

Row = tuple[str, float, str, str]

CONF = """
SERVER plugin_path = {folder}
{loads}
CREATE POOL app
  POOL app ADD 127.0.0.1:{origin}
CREATE SERVICE web
  SET role    = reverse_proxy
  SET listen  = 127.0.0.1:{port}
  SET pool    = app
  SET plugins = {chain}
ENABLE web
"""
PASSES = """
from pbal.api import Exchange, Plugin, Verdict, hook


class Passes(Plugin):
    @hook.start_http_request
    def look(self, exchange: Exchange) -> Verdict:
        return Verdict.PASS
"""
UNCONCERNED = """
from pbal.api import Exchange, Plugin, hook


class Unconcerned(Plugin):
    @hook.make_low_priority
    def look(self, exchange: Exchange) -> bool:
        return False
"""
NUMBER = 10
ROUNDS = 7


def plugins() -> Iterator[Row]:
    """CPU of plugins."""
    if not (peers.have("nginx") and peers.have("wrk")):
        print("left out: plugins need nginx (origin) and wrk")
        return
    first, last = peers.CORES[0], peers.CORES[-1]
    port = peers.free_port()
    origin = peers.nginx(f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{"x" * 100}"; }} }}', port, last)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(NUMBER):
            (folder / f"passes{number}.py").write_text(PASSES)
            (folder / f"unconcerned{number}.py").write_text(UNCONCERNED)

        def used(kind: str) -> float:
            names = [f"{kind}{number}" for number in range(NUMBER)] if kind else []
            loads = "\n".join(f"LOAD {name}" for name in names)
            port = peers.free_port()
            conf = CONF.format(folder=folder, loads=loads, origin=origin.port, port=port, chain=" ".join(names) or "none")
            return spent(peers.pbal(conf, port, first), seconds=2)

        try:
            rounds = [(used(""), used("passes"), used("unconcerned")) for _ in range(ROUNDS)]
        finally:
            origin.end()
    none, passes, unconcerned = (min(kind) for kind in zip(*rounds, strict=True))
    yield "CPU of a plugin with one hook that passes", (passes - none) / NUMBER, "us CPU", "0.6"
    yield f"CPU of {NUMBER} plugins with no hook concerned", unconcerned - none, "us CPU", "0.1"


MANY = 10_000


def networks() -> Iterator[Row]:
    """accesscontrol with many networks: CPU of a request with it, less that without; and of a search for an address not seen before."""
    if not (peers.have("nginx") and peers.have("wrk")):
        print("left out: networks needs nginx (origin) and wrk")
        return
    chance = random.Random(1)
    nets = [ipaddress.ip_network((chance.getrandbits(32), chance.randrange(12, 33)), strict=False) for _ in range(MANY)]
    rules = "\n".join(f"  ACCESS DENY NETMASK {net}" for net in nets if ipaddress.ip_address("127.0.0.1") not in net)
    first, last = peers.CORES[0], peers.CORES[-1]
    port = peers.free_port()
    origin = peers.nginx(f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{"x" * 100}"; }} }}', port, last)

    def used(chain: str, rules: str) -> float:
        port = peers.free_port()
        conf = CONF.format(folder=".", loads="LOAD accesscontrol", origin=origin.port, port=port, chain=f"{chain}\n{rules}")
        return spent(peers.pbal(conf, port, first), seconds=2)

    try:
        rounds = [(used("none", ""), used("accesscontrol", rules)) for _ in range(ROUNDS)]
    finally:
        origin.end()
    none, full = (min(kind) for kind in zip(*rounds, strict=True))
    yield f"CPU of accesscontrol with {MANY} networks", full - none, "us CPU", "2"
    table = NetworkTable(nets)
    addresses = [str(ipaddress.IPv4Address(chance.getrandbits(32))).encode() for _ in range(100_000)]
    began = time.process_time()
    for address in addresses:
        table.first(address)
    yield f"search among {MANY} networks for an address not seen before", (time.process_time() - began) * 10, "us CPU", "2"
