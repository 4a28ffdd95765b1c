"""Limits by address and by queue, over the wire: 429 for one too many, and room again when somebody goes."""

import asyncio

from lab import Lab, Pbal, Response, lab, read_response
from polls import say


def conf(*more: str) -> str:
    lines = "\n".join(more)
    return f"""
LOAD poll
CREATE SERVICE chat
SET role             = web_server
SET listen           = 127.0.0.1:0
SET plugins          = poll
SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
SET always_trusted   = on
{lines}
ENABLE chat
"""


def get(path: str, address: str = "") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: chat", "Origin: https://page.test"]
    if address:
        lines.append(f"X-Forwarded-For: {address}")
    return "\r\n".join([*lines, "", ""]).encode()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def park(pbal: Pbal, queue: str, address: str = "") -> Connection:
    before = pbal.counts["poll_parked_ever"]
    reader, writer = await pbal.connect("chat")
    writer.write(get(f"/poll/{queue}", address))
    await pbal.until("poll_parked_ever", before + 1)
    return reader, writer


async def refused(pbal: Pbal, queue: str, address: str = "") -> Response:
    before = pbal.counts["poll_limited"]
    answer = await pbal.ask("chat", get(f"/poll/{queue}", address))
    assert answer.status == 429
    assert int(answer.fields["retry-after"]) >= 1
    assert pbal.counts["poll_limited"] == before + 1
    return answer


async def gone(pbal: Pbal, connection: Connection) -> None:
    before = pbal.counts["poll_gone"]
    connection[1].close()
    await pbal.until("poll_gone", before + 1)


@lab
async def test_parked_at_once_by_address(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_by_address = 2", "SET poll_allow_origin = https://page.test"))
    first, second = await park(pbal, "a", "10.0.0.1"), await park(pbal, "b", "10.0.0.1")
    answer = await refused(pbal, "c", "10.0.0.1")
    assert answer.body == b"Too many polls of your address are parked.\n"
    assert answer.fields["access-control-allow-origin"] == "https://page.test"
    await park(pbal, "c", "10.0.0.2")
    await gone(pbal, first)
    third = await park(pbal, "c", "10.0.0.1")
    await refused(pbal, "d", "10.0.0.1")
    say(pbal, b"poll:b", b"m")
    assert (await read_response(second[0])).body == b"m\n"
    await park(pbal, "d", "10.0.0.1")
    assert "OK" in await pbal.say("RELOAD poll")
    await refused(pbal, "e", "10.0.0.1")
    await gone(pbal, third)
    await park(pbal, "e", "10.0.0.1")
    assert "OK" in await pbal.say("poll kick e")
    await park(pbal, "e", "10.0.0.1")
    await pbal.say("DISABLE chat")
    await pbal.until("poll_parked", 0)
    assert pbal.plugin("chat").hub.limits.is_empty()


@lab
async def test_an_address_of_ipv6_is_its_network(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_by_address = 1"))
    await park(pbal, "a", "2001:db8:1:2::1")
    await refused(pbal, "b", "2001:db8:1:2:ffff::7")
    await park(pbal, "b", "2001:db8:1:3::1")


@lab
async def test_a_limit_set_while_polls_are_parked_counts_them(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    first, _ = await park(pbal, "a"), await park(pbal, "b")
    await pbal.say("SET chat.poll_max_by_address = 2")
    await refused(pbal, "c")
    await gone(pbal, first)
    await park(pbal, "c")
    await pbal.say("SET chat.poll_max_by_address = 0")
    await park(pbal, "d")
    assert pbal.plugin("chat").hub.limits.is_empty()


@lab
async def test_parked_at_once_by_queue(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_by_queue = 2", "SET poll_duplicate = all"))
    first, _ = await park(pbal, "a", "10.0.0.1"), await park(pbal, "a", "10.0.0.2")
    assert (await refused(pbal, "a", "10.0.0.3")).body == b"Too many polls are parked for this queue.\n"
    await park(pbal, "b", "10.0.0.3")
    await gone(pbal, first)
    await park(pbal, "a", "10.0.0.3")


@lab
async def test_a_poll_in_place_of_another_is_not_one_more(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_by_queue = 1"))
    first = await park(pbal, "a")
    await park(pbal, "a")
    assert (await read_response(first[0])).status == 409


@lab
async def test_a_refused_poll_ends_no_other(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_max_by_address = 1"))
    first = await park(pbal, "a", "10.0.0.1")
    await park(pbal, "b", "10.0.0.2")
    await refused(pbal, "a", "10.0.0.2")
    say(pbal, b"poll:a", b"m")
    assert (await read_response(first[0])).body == b"m\n"


@lab
async def test_parks_a_second(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_park_rate = 1", "SET poll_park_burst = 3", "SET poll_allow_origin = https://page.test"))
    connections = [await park(pbal, f"{number}", "10.0.0.1") for number in range(3)]
    answer = await refused(pbal, "x", "10.0.0.1")
    assert answer.body == b"Too many polls in a short time from your address.\n"
    assert answer.fields["access-control-allow-origin"] == "https://page.test"
    await park(pbal, "y", "10.0.0.2")
    for connection in connections:
        await gone(pbal, connection)
    pbal.plugin("chat").hub.limits.buckets._full_at[b"10.0.0.1"] -= 1  # a second goes by
    await park(pbal, "x", "10.0.0.1")
    await refused(pbal, "x", "10.0.0.1")
    say(pbal, b"poll:z", b"m")
    assert (await pbal.ask("chat", get("/poll/z", "10.0.0.1"))).body == b"m\n", "what is not parked is not limited"


@lab
async def test_addresses_that_are_too_many_are_forgotten_and_counted(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET poll_park_rate = 1"))
    pbal.plugin("chat").hub.limits.buckets.most = 2
    for number in range(4):
        await park(pbal, "a", f"10.0.0.{number}")
    assert pbal.counts["poll_limits_forgotten"] == 2
