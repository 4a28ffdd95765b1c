"""The plugin throttle: clients that ask too often wait, or are refused."""

import asyncio
import struct
import time

import pytest
from lab import Lab, Pbal, Response, lab, read_response, until
from polls import conf, park
from polls import get as poll
from scripted import OK, Client, Scripted, get, proxy

from pbal.api import ENDPOINT
from pbal.plugins.throttle import records
from pbal.plugins.throttle.records import BANNED, Records, Terms
from pbal.plugins.throttle.shared import Shared

TRUST = "SET trusted_upstream_proxies = 127.0.0.1"
QUICK = "SET throttle_threshold_seconds = 1h;SET initial_delay = 100ms"


async def _site(lab: Lab, *said: str, name: str = "site") -> Pbal:
    return await lab.pbal("LOAD Throttle\n" + _service(lab, name, *said))


def _service(lab: Lab, name: str, *said: str) -> str:
    (lab.folder / "a.txt").write_text("a page")
    lines = [f"CREATE SERVICE {name}", "SET role = web_server", "SET listen = 127.0.0.1:0", f"SET docroot = {lab.folder}", TRUST]
    return "\n".join([*lines, "SET plugins = Throttle", *";".join(said).split(";"), f"ENABLE {name}"])


async def _ask(pbal: Pbal, address: str = "10.0.0.1", path: str = "/a.txt", name: str = "site", method: str = "GET") -> Response:
    return await pbal.ask(name, get(path, f"X-Forwarded-For: {address}", method=method))


@lab
async def test_who_asks_too_often_waits_and_then_is_banned(lab: Lab) -> None:
    pbal = await _site(lab, QUICK, "SET ban_threshold = 3;SET ban_expiration = 200ms")
    assert (await _ask(pbal)).status == 200 and pbal.counts["throttle_delayed"] == 0
    assert (await _ask(pbal)).body == b"a page" and pbal.counts["throttle_delayed"] == 1
    assert (await _ask(pbal, "10.0.0.2")).status == 200 and pbal.counts["throttle_delayed"] == 1, "another client"
    assert (await _ask(pbal)).status == 200 and pbal.counts["throttle_delayed"] == 2
    refused = await _ask(pbal)
    assert (refused.status, refused.body) == (403, b"Forbidden.\n")
    assert pbal.counts["throttle_bans"] == 1
    plugin = pbal.plugin("site", "throttle")
    await until(lambda: not plugin.records.is_banned(b"10.0.0.1", pbal.world.clock.now()), "the ban to end")
    assert (await _ask(pbal)).status == 200
    assert pbal.counts["throttle_bans"] == 1
    assert not pbal.plugin("site", "throttle").tickets and not pbal.plugin("site", "throttle").running


@lab
async def test_a_delay_that_is_too_long_to_wait_for_is_429(lab: Lab) -> None:
    pbal = await _site(lab, QUICK, "SET initial_delay = 2h;SET max_delay = 2h")
    assert (await _ask(pbal, "2001:db8::1")).status == 200
    refused = await _ask(pbal, "2001:db8::2")  # the same /64
    assert refused.status == 429 and refused.fields["retry-after"] == "7200" and b"try again later" in refused.body


@lab
async def test_only_what_the_expressions_find_is_throttled(lab: Lab) -> None:
    pbal = await _site(lab, QUICK, "SET initial_delay = 2h;SET max_delay = 2h;SET path_regex = ^/a;SET site.throttle.method_regex = ^G")
    for _ in range(2):
        assert (await _ask(pbal, path="/b")).status == 404
        assert (await _ask(pbal, method="OPTIONS")).status == 204
    assert [(await _ask(pbal, path="/%61.txt")).status for _ in range(2)] == [200, 429]
    assert await pbal.say("SET site.default_action = allow") == "OK"
    assert (await _ask(pbal)).status == 200


@lab
async def test_lists_are_networks_and_can_be_read_again(lab: Lab) -> None:
    white, black = lab.folder / "white", lab.folder / "black"
    white.write_text("# the office\n10.1.0.0/16\n2001:db8::/32 # and its IPv6\n")
    black.write_text("10.2.0.0/16\n")
    said = f"SET initial_delay = 2h;SET max_delay = 2h;SET whitelist_file = {white};SET blacklist_file = {black}"
    pbal = await _site(lab, QUICK, said)
    for address in ("10.1.2.3", "2001:db8::7"):
        assert [(await _ask(pbal, address)).status for _ in range(2)] == [200, 200]
    assert (await _ask(pbal, "10.2.2.2")).status == 403 and pbal.counts["throttle_denied"] == 1
    assert "403: it is in blacklist_file" in await pbal.say("explain GET http://h/a.txt FROM 10.2.0.1")

    await pbal.say("USE site")
    black.write_text("10.3.0.0/16\nnobody\n")
    assert f"blacklist_file: {black}:2: expected a network" in await pbal.say("THROTTLE RELOAD blacklist")
    assert (await _ask(pbal, "10.2.2.2")).status == 403, "the list stays"
    black.write_text("10.3.0.0/16\n")
    assert await pbal.say("THROTTLE RELOAD config") == "OK"
    assert (await _ask(pbal, "10.2.2.2")).status == 200 and (await _ask(pbal, "10.3.2.2")).status == 403
    assert "did you mean 'whitelist'?" in await pbal.say("THROTTLE RELOAD whitelists")
    black.write_text("# nobody\n")
    assert "has no addresses" in await pbal.say("THROTTLE RELOAD blacklist")
    assert await pbal.say("SET site.blacklist_action = throttle") == "OK"
    assert [(await _ask(pbal, "10.3.2.2")).status for _ in range(2)] == [200, 429]


@lab
async def test_too_many_at_once_are_refused_and_upgrades_count(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal("LOAD throttle\n" + proxy(origin.address, more=f"{TRUST};SET plugins = throttle;SET default_action = allow"))
    upgrade = get("/ws", "Connection: Upgrade", "Upgrade: websocket", "X-Forwarded-For: 10.0.0.1")
    tunnel = await Client.of(pbal, request=upgrade)
    node = await origin.connection()
    await node.request()
    node.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    await tunnel.reader.readuntil(b"\r\n\r\n")
    second = await Client.of(pbal, request=get("/", "X-Forwarded-For: 10.0.0.1"))
    await (await origin.connection(1)).request()
    third = await pbal.ask("web", get("/", "X-Forwarded-For: 10.0.0.1"))
    assert third.status == 429 and third.body == b"Too many requests at once.\n"
    (await origin.connection(1)).say(OK)
    assert (await read_response(second.reader)).status == 200
    tunnel.reset()
    await until(lambda: not pbal.plugin("web", "throttle").running, "the tunnel to end")


@lab
async def test_polls_are_throttled_when_they_come_and_count_no_more_when_they_are_parked(lab: Lab) -> None:
    pbal = await lab.pbal(
        "LOAD throttle\n"
        + conf(TRUST, "SET poll_publish_from = 10.0.0.0/8", "SET plugins = poll throttle", "SET max_concurrent = 1", *QUICK.split(";"))
    )
    reader, _ = await park(pbal, "/poll/a", "X-Forwarded-For: 10.0.0.1")
    assert not pbal.plugin("chat", "throttle").running
    second, _ = await park(pbal, "/poll/a", "X-Forwarded-For: 10.0.0.1")
    assert pbal.counts["throttle_delayed"] == 1
    publish = poll("/publish/a", "X-Forwarded-For: 10.0.0.1", method="POST", body=b"hello")
    assert (await pbal.ask("chat", publish)).status == 202, "its body is not lost while it waits"
    assert pbal.counts["throttle_delayed"] == 2
    assert (await read_response(reader)).body == b"hello\n"
    assert second is not reader


@lab
async def test_who_waits_goes_on_waiting_over_a_reload_and_goes_on_when_throttle_leaves(lab: Lab) -> None:
    pbal = await _site(lab, QUICK, "SET initial_delay = 20s", "SET taken_timeout = 60s")
    assert (await _ask(pbal)).status == 200
    client = await Client.of(pbal, "site", get("/a.txt", "X-Forwarded-For: 10.0.0.1"))
    await pbal.until("throttle_delayed", 1)
    assert await pbal.say("RELOAD throttle") == "OK"
    assert pbal.plugin("site", "throttle").held == 1
    assert await pbal.say("SET site.plugins = none") == "OK"
    answer = await read_response(client.reader)
    assert (answer.status, answer.body) == (200, b"a page")


@lab
async def test_who_leaves_while_it_waits_is_forgotten(lab: Lab) -> None:
    pbal = await _site(lab, QUICK, "SET initial_delay = 20s")
    assert (await _ask(pbal)).status == 200
    client = await Client.of(pbal, "site", get("/a.txt", "X-Forwarded-For: 10.0.0.1"))
    await pbal.until("throttle_delayed", 1)
    client.reset()
    plugin = pbal.plugin("site", "throttle")
    await until(lambda: not plugin.held and not plugin.tickets and not plugin.running, "it to be forgotten")


@lab
async def test_log_only_serves_everybody(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    pbal = await _site(lab, QUICK, "SET initial_delay = 2h;SET max_delay = 2h;SET ban_threshold = 1;SET log_only = 1")
    assert [(await _ask(pbal)).status for _ in range(3)] == [200, 200, 200]
    assert pbal.counts["throttle_only_logged"] == 2 and pbal.counts["throttle_bans"] == 0
    assert await pbal.say("SET site.log_only = off") == "OK"
    assert (await _ask(pbal)).status == 403 and pbal.counts["throttle_bans"] == 1
    assert await pbal.say("SET site.log_only = on") == "OK"
    assert (await _ask(pbal)).status == 200 and "10.0.0.1: banned" in caplog.text and "unban" not in caplog.text


@lab
async def test_several_pbals_count_together_in_memcached(lab: Lab) -> None:
    memcached = await lab.memcached()
    said = f"{QUICK};SET initial_delay = 2h;SET max_delay = 2h;SET memcached_servers = 127.0.0.1:{memcached.port};SET instance_name = T"
    pbal = await lab.pbal("LOAD throttle\n" + _service(lab, "site", said) + "\n" + _service(lab, "other", said))
    assert (await _ask(pbal)).status == 200
    client = memcached.client()
    await until(lambda: client.get(b"T10.0.0.1") is not None, "the record to be there")
    last, violations = struct.unpack("=dH", client.get(b"T10.0.0.1"))
    assert violations == 0 and abs(time.time() - last) < 3600
    assert (await _ask(pbal, name="other")).status == 429
    assert (await _ask(pbal, "10.0.0.2", name="other")).status == 200
    assert pbal.counts["throttle_store_errors"] == 0
    memcached.kill()
    assert (await _ask(pbal, "10.0.0.2", name="other")).status == 429, "what this pbal has seen counts"
    assert (await _ask(pbal, "10.0.0.3", name="other")).status == 200
    assert pbal.counts["throttle_store_errors"] >= 1


@lab
async def test_what_is_wrong_is_told_and_changes_nothing(lab: Lab) -> None:
    pbal = await _site(lab)
    before = await pbal.say("dumpconfig")
    for said, told in (
        ("whitelist_file = nowhere", "No such file"),
        ("log_events = bans", "log_events: expected some of ban, unban"),
        ("default_action = deny", "default_action: expected allow or throttle"),
        ("memcached_servers = unix:/x", "memcached_servers: expected servers such as 10.0.0.1:11211"),
        ("instance_name = a b", "instance_name: expected 1 to 100 visible characters"),
    ):
        answer = await pbal.say(f"SET site.{said}")
        assert answer.startswith("ERROR") and told in answer, answer
    assert await pbal.say("dumpconfig") == before


def test_a_flood_of_addresses_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is refused is touched, so it is not forgotten before those that are not."""
    assert records.MOST == 50_000
    monkeypatch.setattr(records, "MOST", 3000)
    forgotten = []
    known = Records(lambda: forgotten.append(1))
    terms = Terms(60, 1, 100, 3, 3600)
    assert [known.request(b"evil", now, terms) for now in (0, 1, 2, 3)] == [0, 1, 2, BANNED]
    for number in range(2 * records.MOST):
        known.request(b"%d" % number, 4 + number / 1e6, terms)
        if not number % 1000:
            assert known.banned(b"evil", 4 + number / 1e6) > 0
    assert len(known.known) == records.MOST and len(forgotten) == records.MOST + 1
    assert known.banned(b"evil", 3605) == -1.0 and known.banned(b"evil", 3605) == 0.0
    for number in range(records.MOST):
        known.request(b"x", 3606 + number, terms)
    assert len(known.known) == 1, "what has lapsed is dropped"


@lab
async def test_a_reload_that_fails_lets_nobody_go_who_waits(lab: Lab) -> None:
    (lab.folder / "bad.py").write_text(
        "from pathlib import Path\nfrom pbal.api import Plugin\n\n\nclass Bad(Plugin):\n    def open(self) -> None:\n"
        "        if Path(__file__).with_name('fail').exists():\n            raise ValueError('not now')\n"
    )
    conf = f"SERVER plugin_path = {lab.folder}\nLOAD bad\nLOAD Throttle\n"
    said = ("SET throttle_threshold_seconds = 1h", "SET initial_delay = 1m", "SET taken_timeout = 1h", "SET plugins = throttle bad")
    pbal = await lab.pbal(conf + _service(lab, "site", *said))
    assert (await _ask(pbal)).status == 200
    client = await Client.of(pbal, "site", request=get("/a.txt", "X-Forwarded-For: 10.0.0.1"))
    await until(lambda: pbal.counts["throttle_delayed"] == 1, "it to wait")
    (lab.folder / "fail").touch()
    assert "not now" in await pbal.say("RELOAD throttle bad")
    plugin = pbal.plugin("site", "throttle")
    assert plugin.held == 1 and [ticket.stage for ticket in plugin.tickets.values()] == ["held"]
    (lab.folder / "fail").unlink()
    assert await pbal.say("RELOAD throttle bad") == "OK" and pbal.plugin("site", "throttle").held == 1
    assert await pbal.say("SET site.plugins = none") == "OK"
    assert (await read_response(client.reader)).status == 200, "nobody has to wait any more"


def test_who_asks_in_the_moment_in_which_a_task_ends_is_told_too() -> None:
    async def run() -> None:
        told: list[str] = []
        shared = Shared([ENDPOINT.parse("127.0.0.1:1")], "T", 1, lambda server, why: None)
        shared._servers[0].rests = float("inf")  # it is left alone, so that a task ends in the turn in which it began
        shared.ask(b"10.0.0.1", lambda seen: told.append("first"))
        asyncio.get_running_loop().call_soon(shared.ask, b"10.0.0.2", lambda seen: told.append("second"))
        for _ in range(10):
            await asyncio.sleep(0)
        shared.close()
        assert told == ["first", "second"]

    asyncio.run(run())
