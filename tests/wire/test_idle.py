"""Clients between two requests: what is remembered of them goes, they may go on, and they are closed in the end."""

import asyncio
import contextlib
import socket
from typing import Any

from lab import DEADLINE, Lab, lab, read_response, until
from scripted import Client, get, ticks

SITE = """
    CREATE SERVICE web
      SET role = web_server
      SET listen = 127.0.0.1:0
      SET persist_client_idle_timeout = {limit}
    ENABLE web
"""


@lab
async def test_a_client_that_rests_costs_no_reader_and_goes_on(lab: Lab) -> None:
    pbal = await lab.pbal(SITE.format(limit="60s"))
    client = await Client.of(pbal, request=get())
    assert (await read_response(client.reader)).status == 404
    connection: Any = next(iter(pbal.world.clients))
    assert connection.reader is not None
    await until(lambda: connection.reader is None, "it to rest")
    client.writer.write(get("/again")[:9])
    await until(lambda: connection.state == "reading_headers", "half a request")
    await ticks(pbal)
    client.writer.write(get("/again")[9:])
    assert (await read_response(client.reader)).status == 404
    assert pbal.counts["requests"] == 2 and pbal.counts["idle_closed"] == 0


@lab
async def test_who_rests_is_closed_when_the_time_is_up_and_one_that_is_shorter_than_a_rest_counts(lab: Lab) -> None:
    pbal = await lab.pbal(SITE.format(limit="1500ms"))
    for number, limit in enumerate(("1500ms", "100ms"), 1):
        await pbal.say(f"SET web.persist_client_idle_timeout = {limit}")
        client = await Client.of(pbal, request=get())
        assert (await read_response(client.reader)).status == 404
        async with asyncio.timeout(DEADLINE):
            assert await client.reader.read() == b""
        assert pbal.counts["idle_closed"] == number


@lab
async def test_without_a_limit_nobody_is_closed(lab: Lab) -> None:
    pbal = await lab.pbal(SITE.format(limit="0"))
    client = await Client.of(pbal, request=get())
    assert (await read_response(client.reader)).status == 404
    connection: Any = next(iter(pbal.world.clients))
    await until(lambda: connection.reader is None, "it to rest")
    assert connection.deadline == float("inf")
    client.writer.write(get())
    assert (await read_response(client.reader)).status == 404


@lab
async def test_a_client_whose_poll_was_answered_may_wait_as_long_as_any(lab: Lab) -> None:
    pbal = await lab.pbal(
        """
        LOAD poll
        CREATE SERVICE web
          SET role = web_server
          SET listen = 127.0.0.1:0
          SET plugins = poll
          SET poll_uri = ^/poll/(?P<queue>[^/]+)$
          SET persist_client_idle_timeout = 60s
        ENABLE web
        """
    )
    client = await Client.of(pbal, request=get("/poll/a"))
    await pbal.until("poll_parked", 1)
    assert '"parked": 1' in await pbal.say("poll publish web a hello")
    assert (await read_response(client.reader)).status == 200
    await ticks(pbal, 4)
    assert pbal.counts["idle_closed"] == 0
    client.writer.write(get())
    assert (await read_response(client.reader)).status == 404


@lab
async def test_thousands_of_idle_clients_are_nobodys_trouble_and_go_when_their_time_is_up(lab: Lab) -> None:
    number = 2000
    pbal = await lab.pbal(SITE.format(limit="60s").replace("ENABLE web", "SET header_timeout = 2s\n    ENABLE web"))
    address = pbal.server.address("web")
    with contextlib.ExitStack() as crowd:
        for _ in range(number // 500):
            for _ in range(500):
                crowd.enter_context(socket.create_connection(address))
            assert (await pbal.ask("web", get())).status == 404
        await until(lambda: pbal.counts["connections"] == number + number // 500, "all to be there")
        assert (await pbal.ask("web", get())).status == 404
        await pbal.until("idle_closed", number)
        assert (await pbal.ask("web", get())).status == 404
