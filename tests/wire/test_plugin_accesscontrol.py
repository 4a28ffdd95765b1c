"""The plugin accesscontrol: clients refused by their address."""

import ipaddress
import random

import pytest
from lab import Lab, Pbal, lab, read_response, until
from polls import conf, get, park
from scripted import OK, Client, Scripted, proxy
from scripted import get as ask

from pbal.api import NETWORKS, NetworkTable

SITE = """
    LOAD AccessControl
    CREATE SERVICE site
      SET role     = web_server
      SET listen   = 127.0.0.1:0
      SET docroot  = {folder}
      SET trusted_upstream_proxies = 127.0.0.1
      SET plugins  = AccessControl
      ACCESS ALLOW ip 10.1.2.3
      ACCESS DENY netmask 10.1/16
      ACCESS ALLOW NETMASK 10.0.0.0/8
      ACCESS ALLOW netmask 2001:db8::/32
      ACCESS POLICY deny
    ENABLE site
"""


async def _status(pbal: Pbal, address: str, service: str = "site") -> int:
    return (await pbal.ask(service, ask("/a.txt", f"X-Forwarded-For: {address}"))).status


async def _site(lab: Lab) -> Pbal:
    (lab.folder / "a.txt").write_text("a page")
    return await lab.pbal(SITE.format(folder=lab.folder))


@lab
async def test_the_first_rule_that_fits_decides_and_the_policy_where_none_does(lab: Lab) -> None:
    pbal = await _site(lab)
    wanted = {"10.1.2.3": 200, "10.1.2.4": 403, "10.2.0.1": 200, "11.0.0.1": 403, "2001:db8::5": 200, "2001:db9::5": 403}
    assert {address: await _status(pbal, address) for address in wanted} == wanted
    refused = await pbal.ask("site", ask("/a.txt", "X-Forwarded-For: 10.1.9.9"))
    assert refused.body == b"Access denied.\n"
    assert pbal.counts["access_denied"] == 4
    assert "ACCESS DENY NETMASK 10.1.0.0/16: 403" in await pbal.say("explain GET http://h/a.txt FROM 10.1.9.9")

    assert await pbal.say("RELOAD accesscontrol") == "OK"
    assert {address: await _status(pbal, address) for address in wanted} == wanted

    assert await pbal.say("SET site.accesscontrol.use_observed_ip = 0") == "OK"  # the peer is 127.0.0.1
    assert await _status(pbal, "10.1.2.3") == 403
    assert await pbal.say("UNSET site.accesscontrol_use_observed_ip") == "OK"


@lab
async def test_rules_are_listed_dropped_and_read_again(lab: Lab) -> None:
    pbal = await _site(lab)
    rules = [
        "ACCESS ALLOW IP 10.1.2.3",
        "ACCESS DENY NETMASK 10.1.0.0/16",
        "ACCESS ALLOW NETMASK 10.0.0.0/8",
        "ACCESS ALLOW NETMASK 2001:db8::/32",
        "ACCESS POLICY DENY",
    ]
    dumped = [line.strip() for line in (await pbal.say("dumpconfig")).split("\n")]
    assert [line for line in dumped if line.startswith("ACCESS")] == rules
    assert await pbal.say("DROP RULE site ACCESS DENY NETMASK 10.1.0.0/16") == "OK"
    assert await pbal.say("DROP RULE site ACCESS POLICY DENY") == "OK"
    assert await _status(pbal, "10.1.2.4") == 200 and await _status(pbal, "11.0.0.1") == 200
    await pbal.say("USE site")
    assert await pbal.say("ACCESS RESET") == "OK"
    assert "ACCESS" not in await pbal.say("dumpconfig")


@lab
async def test_what_is_wrong_with_a_rule_is_told_and_changes_nothing(lab: Lab) -> None:
    pbal = await _site(lab)
    before = await pbal.say("dumpconfig")
    for said, told in (
        ("ACCESS DENY ip 10.0.0.0/8", "did you mean ACCESS DENY NETMASK 10.0.0.0/8?"),
        ("ACCESS DENY ip nobody", "expected an address such as 10.0.0.1 or ::1, found 'nobody'"),
        ("ACCESS DENY netmask 10.0.0.0/99", "expected a network such as 10.0.0.0/8"),
        ("ACCESS POLICY refuse", "policy must be 'allow' or 'deny', found 'refuse'"),
        ("ACCESS QUEUE_LOW ip 10.0.0.1", "QUEUE_LOW has no effect"),
    ):
        answer = await _said_of_site(pbal, said)
        assert answer.startswith("ERROR: ") and told in answer, answer
    assert await pbal.say("dumpconfig") == before


async def _said_of_site(pbal: Pbal, statement: str) -> str:
    await pbal.say("USE site")
    return await pbal.say(statement)


@lab
async def test_polls_and_upgrades_are_looked_at_like_other_requests(lab: Lab) -> None:
    text = conf(
        "SET poll_publish_from = 0.0.0.0/0",
        "SET trusted_upstream_proxies = 127.0.0.1",
        "SET plugins = poll accesscontrol",
        "ACCESS DENY NETMASK 10.0.0.0/8",
    )
    pbal = await lab.pbal("LOAD accesscontrol\n" + text)
    assert (await pbal.ask("chat", get("/poll/a", "X-Forwarded-For: 10.0.0.1"))).status == 403
    events = get("/poll/a", "X-Forwarded-For: 10.0.0.1", "Accept: text/event-stream")
    assert (await pbal.ask("chat", events)).status == 403
    publish = get("/publish/a", "X-Forwarded-For: 10.0.0.1", method="POST", body=b"x")
    assert (await pbal.ask("chat", publish)).status == 403
    publish = get("/publish/a", "X-Forwarded-For: 11.0.0.1", method="POST", body=b"hello")
    assert (await pbal.ask("chat", publish)).status == 202
    reader, _ = await park(pbal, "/poll/b", "X-Forwarded-For: 11.0.0.1")
    await pbal.say("USE chat")
    assert await pbal.say("ACCESS POLICY deny") == "OK"  # who is parked already stays
    assert await pbal.say("RELOAD accesscontrol") == "OK"
    assert not (await pbal.say("poll publish chat b hello")).startswith("ERROR")
    assert (await read_response(reader)).body == b"hello\n"


@lab
async def test_queue_low_waits_behind_others(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    more = "SET trusted_upstream_proxies = 127.0.0.1;SET plugins = accesscontrol;ACCESS QUEUE_LOW ip 10.0.0.1;ACCESS POLICY allow"
    pbal = await lab.pbal("LOAD accesscontrol\n" + proxy(origin.address, pool="SET app.node_max_connections = 1", more=more))
    handler = pbal.world.service("web").handler
    assert handler is not None
    clients = [await Client.of(pbal, request=ask("/first"))]
    node = await origin.connection()
    await node.request()
    for place, (path, address) in enumerate((("/low", "10.0.0.1"), ("/other", "10.0.0.2")), 1):
        clients.append(await Client.of(pbal, request=ask(path, f"X-Forwarded-For: {address}")))
        await until(lambda place=place: handler.load()[0] == place, "it to wait")  # type: ignore[misc]
    order = []
    for _ in range(2):
        node.say(OK)
        order.append((await node.request()).split(b" ")[1])
    node.say(OK)
    assert order == [b"/other", b"/low"]
    for client in clients:
        assert (await read_response(client.reader)).status == 200


@lab
async def test_a_fault_of_it_serves_nobody(lab: Lab) -> None:
    pbal = await _site(lab)
    pbal.plugin("site", "accesscontrol")._table = None
    assert await _status(pbal, "10.1.2.3") == 500
    assert pbal.counts["plugin_errors"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_table_finds_what_going_through_all_networks_finds(seed: int) -> None:
    """Networks that lie in each other, and addresses at their edges."""
    chance = random.Random(seed)
    words = [f"10.{chance.randrange(4)}.{chance.randrange(4)}.{chance.randrange(256)}/{chance.randrange(4, 33)}" for _ in range(60)]
    words += [f"fd00::{chance.randrange(8):x}:{chance.randrange(99):x}/{chance.randrange(100, 129)}" for _ in range(20)]
    networks = NETWORKS.parse(" ".join(words))
    table = NetworkTable(networks)
    for place, network in enumerate(networks):  # each goes, and comes back at its place
        table.remove(network, place)
    assert not any(table._wide.values()) and not any(table._narrow.values()), "nothing is left of what went"
    for place in chance.sample(range(len(networks)), len(networks)):
        table.add(networks[place], place)
    edges = [int(end) + by for each in networks for end in (each[0], each[-1]) for by in (-1, 0, 1)]
    for number in edges:
        if not 0 < number < 1 << 128:
            continue
        address = ipaddress.ip_address(number)
        fitting = [place for place, network in enumerate(networks) if address in network]
        assert table.first(str(address).encode()) == min(fitting, default=-1), address
    assert table.first(b"") == table.first(b"unix") == table.first(b"10.0.0.999") == -1


def test_an_ipv4_address_is_one_however_it_is_written() -> None:
    table = NetworkTable((*NETWORKS.parse("::ffff:10.0.0.1"), *NETWORKS.parse("::ffff:10.9.0.0/112"), *NETWORKS.parse("10.7.0.0/16")))
    found = [table.first(address) for address in (b"10.0.0.1", b"10.0.0.2", b"10.9.3.4", b"::ffff:10.9.3.4", b"::FFFF:10.7.0.1", b"::1")]
    assert found == [0, -1, 1, 1, 2, -1]
