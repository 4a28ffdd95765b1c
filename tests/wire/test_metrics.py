"""/metrics: every number pbal keeps, as Prometheus reads it."""

import asyncio
import json
import re

import pytest
from lab import Lab, Pbal, Response, lab
from process import ROOT
from prometheus_client.parser import text_string_to_metric_families

from pbal.console import metrics

CONF = """
    LOAD poll
    CREATE POOL app
      POOL app ADD {node}
    CREATE SERVICE site
      SET role   = reverse_proxy
      SET listen = 127.0.0.1:0
      SET pool   = app
    ENABLE site
    CREATE SERVICE mgmt
      SET role   = management
      SET listen = 127.0.0.1:0
    ENABLE mgmt
"""


async def scrape(pbal: Pbal) -> Response:
    return await pbal.ask("mgmt", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")


@lab
async def test_a_scrape_is_what_prometheus_reads(lab: Lab) -> None:
    origin = await lab.origin(hello)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    for _ in range(3):
        assert (await pbal.ask("site", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
    answer = await scrape(pbal)
    assert answer.fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert families["pbal_requests"].type == "counter" and families["pbal_clients"].type == "gauge"
    (requests,) = families["pbal_requests"].samples
    assert (requests.name, requests.value) == ("pbal_requests_total", 3)
    (node,) = [sample for sample in families["pbal_node_requests"].samples if sample.labels["node"] == origin.address]
    assert node.labels == {"pool": "app", "node": origin.address} and node.value == 3
    seconds = families["pbal_request_seconds"]
    assert seconds.type == "histogram"
    (count,) = [sample.value for sample in seconds.samples if sample.name.endswith("_count") and sample.labels == {"service": "site"}]
    assert count == 3
    missing = {name for name in pbal.counts if not name.endswith("_ms")} - {name.removeprefix("pbal_") for name in families}
    assert missing == set(), "the one table of counters is all of it"
    assert all(family.documentation and family.name.startswith("pbal_") for family in families.values())


@lab
async def test_the_dashboard_asks_for_what_there_is(lab: Lab) -> None:
    origin = await lab.origin(hello)
    pbal = await lab.pbal(CONF.format(node=origin.address))
    await pbal.ask("site", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    scraped = set(re.findall(r"^(pbal_\w+)", (await scrape(pbal)).body.decode(), re.MULTILINE))
    text = (ROOT / "contrib/grafana/pbal.json").read_text(encoding="utf-8")
    expressions = [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
    asked = {name for expression in expressions for name in re.findall(r"pbal_\w+", expression)}
    assert len(expressions) > 20 and asked - scraped == set()


@lab
async def test_a_family_that_is_cut_has_its_help_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(CONF.format(node="127.0.0.1:1"))
    for number in range(2, 60):
        assert await pbal.say(f"POOL app ADD 127.0.0.1:{number}") == "OK"

    def lines(response: Response) -> list[str]:
        return [
            line
            for line in response.body.decode().split("\n")
            if not line.startswith(("pbal_uptime", "pbal_resident", "pbal_console", "pbal_clients", "pbal_descriptors "))
        ]

    whole = lines(await scrape(pbal))
    monkeypatch.setattr(metrics, "PIECE", 7)
    cut = lines(await scrape(pbal))
    assert cut == whole
    heads = [line for line in cut if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    families = list(text_string_to_metric_families("\n".join(cut) + "\n"))
    assert len({family.name for family in families}) == len(families)
    assert len(next(family for family in families if family.name == "pbal_node_up").samples) == 59
