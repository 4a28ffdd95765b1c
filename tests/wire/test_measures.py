"""What is counted by service and by node: on the console, and as /metrics is given it."""

import asyncio
import re
from itertools import groupby

from lab import Lab, Pbal, lab, until
from sites import FRONT, POLLS

from pbal.model.measures import _COLLECTORS, samples, shown
from pbal.observe.counters import COLLECTED, COUNTER

CONF = POLLS + "\n    ENABLE site\n" + FRONT


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A node: /500 is a fault of its own, /rubbish is no HTTP, everything else is 200."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        if length := re.search(rb"content-length: (\d+)", head, re.IGNORECASE):
            await reader.readexactly(int(length[1]))
        if b" /rubbish " in head:
            writer.write(b"rubbish\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: 5\r\n\r\nhello" % (b"500 Oh" if b" /500 " in head else b"200 OK"))


async def counters(pbal: Pbal) -> dict[str, float]:
    """Every number of the console by its name."""
    lines = (await pbal.say("show counters")).split("\n")[:-1]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_all_that_is_declared_as_collected_has_a_collector() -> None:
    assert {counter.name for counter in COLLECTED} == set(_COLLECTORS)


@lab
async def test_requests_are_counted_by_service_and_by_node(lab: Lab) -> None:
    node = await lab.origin(answers)
    pbal = await lab.pbal(CONF.format(node=node.address))
    for target in (b"/", b"/500", b"/rubbish"):
        await pbal.ask("site", b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % target)
    await pbal.ask("front", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await pbal.ask("front", b"GET / HTTP/1.1\r\n\r\n")
    found = await counters(pbal)
    assert found['service_requests{service="site"}'] == 4
    assert found['service_responses{service="site",status="2xx"}'] == 2
    assert found['service_responses{service="site",status="5xx"}'] == 2
    assert found['service_received_bytes{service="site"}'] == 9
    assert found['service_sent_bytes{service="site"}'] == 15 + len("No node gave a usable answer.\n")
    assert found['request_seconds_count{service="site"}'] == 4
    assert found['service_responses{service="front",status="4xx"}'] == 1
    assert found['service_requests{service="front"}'] == 1
    where = f'{{pool="app",node="{node.address}"}}'
    assert found[f"node_requests{where}"] == 4
    assert found[f"node_seconds_count{where}"] == 4
    assert found[f"node_errors{where}"] == 1
    assert found[f"node_up{where}"] == 1
    assert found[f"node_active{where}"] == 0


@lab
async def test_what_is_parked_is_a_request_without_a_time(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    answered = asyncio.create_task(pbal.ask("site", b"GET /poll/a HTTP/1.1\r\nHost: a\r\n\r\n"))
    await pbal.until("poll_parked", 1)
    _, writer = await pbal.connect("site")
    writer.write(b"GET /poll/b HTTP/1.1\r\nHost: a\r\n\r\n")
    await pbal.until("poll_parked", 2)
    await pbal.ask("site", b"POST /publish/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    assert (await answered).body == b"hello\n"
    writer.close()
    await pbal.until("poll_gone", 1)
    found = await counters(pbal)
    assert found['service_requests{service="site"}'] == 3
    assert found['service_responses{service="site",status="2xx"}'] == 2
    assert found['service_responses{service="site",status="none"}'] == 1
    assert found['request_seconds_count{service="site"}'] == 1


@lab
async def test_a_node_that_refuses_is_down_and_counted(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    assert (await pbal.ask("site", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 502
    found = await counters(pbal)
    where = '{pool="app",node="127.0.0.1:1"}'
    assert found[f"node_up{where}"] == 0
    assert found[f"node_connect_failures{where}"] == 1
    assert found[f"node_requests{where}"] == 0


@lab
async def test_samples_are_what_prometheus_wants(lab: Lab) -> None:
    node = await lab.origin(answers)
    pbal = await lab.pbal(CONF.format(node=node.address))
    await pbal.ask("site", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    found = list(samples(pbal.world))
    families = [family for family, _ in groupby(found, key=lambda sample: sample.family)]
    assert len(families) == len(set(families)), "a family comes in one piece"
    assert all(sample.name == f"{sample.family}_total" for sample in found if sample.kind is COUNTER)
    assert all(sample.family.endswith(f"_{sample.unit}") for sample in found if sample.unit)
    assert all(sample.help.endswith(".") for sample in found)
    buckets = [
        (dict(s.labels)["le"], s.value) for s in found if s.name == "pbal_request_seconds_bucket" and ("service", "site") in s.labels
    ]
    assert buckets[-1] == ("+Inf", 1)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    lag = next(sample for sample in found if sample.family == "pbal_loop_lag_max_seconds")
    assert lag.unit == "seconds"


@lab
async def test_histograms_are_turned_by_the_tick(lab: Lab) -> None:
    node = await lab.origin(answers)
    pbal = await lab.pbal(CONF.format(node=node.address))
    await pbal.ask("site", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    latency = pbal.world.service("site").traffic.latency
    for _ in range(6):
        pbal.server.ticks._turned -= 1
        pbal.server.ticks._turn_histograms()
    assert sum(latency.last_minute()) == 0
    assert latency.count == 1
    pbal.world.pool("app").nodes[0].latency.add(1.0)
    pbal.server.ticks._turned -= 1
    await until(lambda: not any(pbal.world.pool("app").nodes[0].latency.window), "the tick")


@lab
async def test_help_explains_what_has_labels(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    said = await pbal.say("help node_seconds")
    assert said.startswith("node_seconds (a histogram: it counts durations)")
    assert "One for each pool and node." in said
    assert "show counters LIKE node_seconds* shows it." in said
    assert 'node_seconds_count{pool="app",node="127.0.0.1:1"} 0' in await pbal.say("show counters LIKE node_seconds*")


FAULTY = """
from pbal.api import Counter, Exchange, Explanation, Limit, Plugin


class Faulty(Plugin):
    counters = (
        Counter("faulty_good", "Good.", labels=("service", "thing")),
        Counter("faulty_bad", "Bad.", labels=("service",)),
        Counter("faulty_odd", "Odd.", labels=("service",)),
    )

    def measured(self, name):
        if name == "faulty_bad":
            raise KeyError(name)
        return [((self.service.name, "a"), 7)]

    def limits(self):
        raise RuntimeError("no limits")

    def explain(self, exchange: Exchange) -> Explanation:
        raise RuntimeError("no idea")
"""


@lab
async def test_a_plugin_that_cannot_say_hides_no_other_number(lab: Lab) -> None:
    (lab.folder / "faulty.py").write_text(FAULTY)
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD faulty
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET plugins = faulty
        ENABLE site
    """)
    found = await counters(pbal)
    assert found['faulty_good{service="site",thing="a"}'] == 7
    assert not any(name.startswith(("faulty_bad", "faulty_odd")) for name in found)
    assert found['service_requests{service="site"}'] == 0
    assert (await counters(pbal))["plugin_errors"] == 4, "two numbers, twice"
    assert "connections" in await pbal.say("show limits")
    port = pbal.server.address("site")[1]
    assert "plugin 'faulty', explain(): RuntimeError: no idea" in await pbal.say(f"explain GET http://h:{port}/")
    assert pbal.counts["plugin_errors"] == 6


@lab
async def test_what_goes_while_numbers_are_read_is_left_out(lab: Lab) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    assert (await pbal.ask("site", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 502
    numbers, lines = samples(pbal.world), shown(pbal.world)
    assert next(each for each in numbers if each.family == "pbal_node_active").labels == (("pool", "app"), ("node", "127.0.0.1:1"))
    assert next(value for name, value in lines if name == 'node_active{pool="app",node="127.0.0.1:1"}') == 0
    for statement in ("DISABLE front", "DROP SERVICE front", "DISABLE site", "DROP SERVICE site", "DROP POOL app", "UNLOAD poll"):
        assert await pbal.say(statement) == "OK"
    families = {each.family: dict(each.labels) for each in numbers}
    names = [name for name, _ in lines]
    assert "pbal_uptime_seconds" in families and "uptime_seconds" in names
    assert "site" not in {labels.get("service") for labels in families.values()} and not any('"site"' in name for name in names)
