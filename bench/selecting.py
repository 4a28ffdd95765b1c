"""What a selector costs: CPU of a small proxied GET behind ten hosts and behind a thousand, and without a selector.

Every run asks for the same thousand hosts in turn, so that nothing differs but the table: ten patterns that fit a hundred hosts each, a
thousand hosts, a thousand patterns with a `*`. They are measured in turns, several times, and the median of the ratios of a round
counts: a busy machine changes by more within a minute than a table costs.
"""

import statistics
import tempfile
from collections.abc import Iterator

from bench import peers
from bench.load import spent
from bench.proxying import Row, origin

HOSTS = 1000
ROUNDS = 5
TABLES = {
    "ten hosts": [f"VHOST *{digit}.example.com = web" for digit in range(10)],
    "a thousand hosts": [f"VHOST www.h{number}.example.com = web" for number in range(HOSTS)],
    "a thousand patterns": [f"VHOST *.h{number}.example.com = web" for number in range(HOSTS)],
}
CONF = """
LOAD vhosts
CREATE POOL app
  POOL app ADD 127.0.0.1:{origin}
CREATE SERVICE web
  SET role   = reverse_proxy
  SET listen = 127.0.0.1:{own}
  SET pool   = app
ENABLE web
CREATE SERVICE front
  SET role    = selector
  SET listen  = 127.0.0.1:{port}
  SET plugins = vhosts
{rules}
ENABLE front
"""
ASKING = f"""
local n = 0
request = function()
  n = (n + 1) % {HOSTS}
  return wrk.format("GET", "/small", {{["Host"] = "www.h" .. n .. ".example.com"}})
end
"""


def vhosts() -> Iterator[Row]:
    """CPU of a request behind a selector with few and with many hosts."""
    if not (peers.have("nginx") and peers.have("wrk")):
        print("left out: selectors need nginx (origin) and wrk")
        return
    with tempfile.TemporaryDirectory() as folder:
        behind = origin(folder, peers.CORES[-1])
        try:
            rounds = [_round(behind.port) for _ in range(ROUNDS)]
        finally:
            behind.end()
    for what in rounds[0]:
        yield f"proxied GET, {what}", statistics.median(each[what] for each in rounds), "us CPU", ""
    added = statistics.median(each["ten hosts"] - each["no selector"] for each in rounds)
    yield "what a selector adds to a request", added, "us CPU", ""
    for what in list(TABLES)[1:]:
        more = statistics.median(each[what] / each["ten hosts"] for each in rounds)
        yield f"{what}, more than ten", (more - 1) * 100, "%", "5"


def _round(node: int) -> dict[str, float]:
    """Microseconds a request, each way once."""
    found = {"no selector": _spent(node, TABLES["ten hosts"], direct=True)}
    return found | {what: _spent(node, rules) for what, rules in TABLES.items()}


def _spent(node: int, rules: list[str], direct: bool = False) -> float:
    own, port = peers.free_port(), peers.free_port()
    text = CONF.format(origin=node, own=own, port=port, rules="\n".join(rules))
    program = peers.pbal(text, port, peers.CORES[0])
    if direct:
        program.port = own
    return spent(program, seconds=2, script=ASKING)
