"""`explain`: what would become of a request, without sending it; and that it is what becomes of one."""

import asyncio
import json
import re
from typing import Any

from authority import Authority
from lab import Lab, Pbal, lab
from secure import proxy

CONF = """
    LOAD poll
    LOAD vhosts
    LOAD vpaths
    CREATE POOL app
      POOL app ADD {node}
    CREATE SERVICE site
      SET role             = reverse_proxy
      SET pool             = app
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
      SET poll_publish_from = 10.0.0.0/8
      SET max_body         = 100
      HEADER site INSERT X-From: pbal
    ENABLE site
    CREATE SERVICE files
      SET role    = web_server
      SET docroot = {folder}
    ENABLE files
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 127.0.0.1:0
      SET plugins         = vhosts vpaths
      SET trusted_upstream_proxies = 10.0.0.0/8
      HEADER front INSERT X-Front: yes
      VHOST files.example = files
      VPATH ^/static/     = files
      VPATH ^/app         = site
    ENABLE front
"""


async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the head that it got."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


class Explained:
    """The rows of an explanation."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def said(self, step: str) -> list[str]:
        """The details of a step, with the services."""
        return [f"{row['service']} {row['detail']}" for row in self.rows if row["step"] == step]


async def explain(pbal: Pbal, words: str, host: str = "h", service: str = "front") -> Explained:
    port = pbal.server.address(service)[1]
    method, path, *more = words.split(" ", 2)
    said = await pbal.say(f"explain {method} http://{host}:{port}{path} {' '.join(more)} AS JSON")
    assert said.startswith("["), said
    return Explained(json.loads(said))


async def start(lab: Lab) -> Pbal:
    origin = await lab.origin(node)
    (lab.folder / "static").mkdir()
    (lab.folder / "static" / "a.txt").write_text("hello")
    return await lab.pbal(CONF.format(node=origin.address, folder=lab.folder))


@lab
async def test_the_way_to_a_node_and_the_head_that_it_is_really_sent(lab: Lab) -> None:
    pbal = await start(lab)
    counts = dict(pbal.counts)
    found = await explain(pbal, 'GET /app/x?y=1 X-One: 1 ; "X-Two: a ; b" ; Cookie: c=1; d=2')
    port = pbal.server.address("front")[1]
    node_name = pbal.world.pool("app").nodes[0].name
    assert found.said("listener") == [f"front 127.0.0.1:{port}, from 127.0.0.1, client 127.0.0.1"]
    assert found.said("service") == ["front role selector", "site role reverse_proxy"]
    assert found.said("plugin") == [
        "front vhosts: select_service",
        "front vpaths: select_service",
        "front vpaths: VPATH ^/app = site",
        "site poll: answer_preflight start_http_request proxy_read_request",
    ]
    assert found.said("rule") == ["front HEADER INSERT X-Front: yes", "site HEADER INSERT X-From: pbal"]
    assert found.said("pool") == ["site app: balance_method random, 1 of 1 nodes get requests"]
    assert found.said("node") == [f"site {node_name} UNTRIED, 0 active, 0 kept connections"]
    assert found.said("answer") == []
    changed = {name for name, value in pbal.counts.items() if counts[name] != value and not name.startswith("loop_")}
    assert changed == {"console_commands"}, "nothing was sent"
    request = f"GET /app/x?y=1 HTTP/1.1\r\nHost: h:{port}\r\nX-One: 1\r\nX-Two: a ; b\r\nCookie: c=1; d=2\r\n\r\n"
    really = (await pbal.ask("front", request.encode())).body.decode().removesuffix("\r\n\r\n").split("\r\n")
    assert [line.removeprefix("site ") for line in found.said("head")] == really
    again = await explain(pbal, "GET /app")
    told = [re.sub("for [0-9]+s", "for Ns", line) for line in again.said("node")]
    assert told == [f"site {node_name} UP for Ns, 0 active, 1 kept connections"]


@lab
async def test_hosts_paths_and_files(lab: Lab) -> None:
    pbal = await start(lab)
    found = await explain(pbal, "GET /static/a.txt")
    assert found.said("file") == [f"files 200: /static/a.txt in {lab.folder}, 5 bytes, text/plain; charset=utf-8"]
    assert found.said("plugin")[-1] == "front vpaths: VPATH ^/static/ = files"
    found = await explain(pbal, "GET /nothing", host="files.example")
    assert "front vhosts: VHOST files.example = files" in found.said("plugin")
    assert found.said("file") == [f"files 404: /nothing in {lab.folder}"]
    assert (await explain(pbal, "GET /static", host="files.example")).said("file")[0].startswith("files 301: ")
    assert (await explain(pbal, "POST /static/a.txt")).said("answer") == ["files 405: only GET, HEAD, OPTIONS here"]
    assert (await explain(pbal, "GET /none")).said("answer") == ["front 404: no rule fits, and there is no default_service"]
    assert await pbal.say("SET front.default_service = site") == "OK"
    assert (await explain(pbal, "GET /none")).said("rule")[1] == "front default_service = site"


@lab
async def test_polls_and_publishes(lab: Lab) -> None:
    pbal = await start(lab)
    assert await pbal.say("SET front.default_service = site") == "OK"
    _, writer = await pbal.connect("front")
    writer.write(b"GET /poll/alice HTTP/1.1\r\nHost: h\r\n\r\n")
    await pbal.until("poll_parked", 1)
    found = await explain(pbal, "GET /poll/alice")
    assert found.said("plugin")[-1] == "site poll: a long poll on queue alice: 1 waiting, poll_duplicate = newest"
    assert found.said("pool") == [], "no node sees it"
    found = await explain(pbal, "GET /poll/bob Accept: text/event-stream")
    assert found.said("plugin")[-1] == "site poll: a stream of events on queue bob: nobody waiting, poll_duplicate = newest"
    assert "poll_uri" in (await explain(pbal, "PUT /poll/bob")).said("plugin")[-1]
    found = await explain(pbal, "POST /publish/alice")
    assert found.said("plugin")[-1] == "site poll: 403: 127.0.0.1 may not publish (poll_publish_from)"
    found = await explain(pbal, "POST /publish/alice FROM 10.1.2.3")
    assert found.said("plugin")[-1] == "site poll: a publish to queue alice: 1 waiting"
    found = await explain(pbal, "POST /publish/alice FROM 10.1.2.3 X-Forwarded-For: 192.0.2.1")
    assert found.said("listener")[0].endswith(", from 10.1.2.3, client 192.0.2.1")
    assert found.said("plugin")[-1] == "site poll: 403: 192.0.2.1 may not publish (poll_publish_from)"
    found = await explain(pbal, "POST /publish/alice FROM 10.1.2.3 Origin: http://elsewhere")
    assert found.said("plugin")[-1] == "site poll: 403: pages of this origin may not publish (poll_allow_origin)"
    assert pbal.counts["poll_parked"] == 1


@lab
async def test_answers_that_pbal_gives_itself(lab: Lab) -> None:
    pbal = await start(lab)
    found = await explain(pbal, "POST /app Content-Length: 101")
    assert found.said("answer") == ["site 413: the body is larger than 100 bytes (max_body)"]
    assert await pbal.say("SET front.https_redirect = on") == "OK"
    assert (await explain(pbal, "GET /app")).said("answer") == ["front 301: the same over https (https_redirect)"]
    assert await pbal.say("SET front.https_redirect = off") == "OK"
    assert await pbal.say(f"POOL app REMOVE {pbal.world.pool('app').nodes[0].name}") == "OK"
    assert (await explain(pbal, "GET /app")).said("answer") == ["site 503: pool app has no node"]
    assert await pbal.say("DISABLE site") == "OK"
    assert (await explain(pbal, "GET /app")).said("answer") == ["site 503: the service is disabled"]


@lab
async def test_mistakes(lab: Lab) -> None:
    pbal = await start(lab)
    port = pbal.server.address("front")[1]
    said = await pbal.say("explain GET http://h:1/")
    assert f"no service answers http on port 1; listeners of http: front on 127.0.0.1:{port}" in said
    assert (await pbal.say("explain GET http://h/app")).startswith("listener front "), "one listener is the one meant"
    assert "no service answers https on port 443; listeners of https: none" in await pbal.say("explain GET https://h/")
    assert "expected a URL" in await pbal.say("explain GET /app")
    assert "expected a URL" in await pbal.say("explain GET http://[::1/")
    assert "has no such port" in await pbal.say("explain GET http://h:99999/")
    assert "pbal would answer 400: Host is malformed" in await pbal.say(f"explain GET http://127.0.0.1:{port}/ Host: a/b")
    assert "(octet 0xC3 at 5)" in await pbal.say(f"explain GET http://127.0.0.1:{port}/\u00e9")
    assert "expected an address" in await pbal.say(f"explain GET http://127.0.0.1:{port}/ FROM 1.2.3")
    text = (await pbal.say(f'explain GET "http://h:{port}/app"')).split("\n")
    assert text[1] == "service  front            role selector"


@lab
async def test_over_tls(lab: Lab) -> None:
    pair = Authority(lab.folder).certify("a.test")
    pbal = await proxy(lab, node, pair)
    port = pbal.server.address("site")[1]
    found = Explained(json.loads(await pbal.say(f"explain GET https://a.test:{port}/ AS JSON")))
    assert "site X-Forwarded-Proto: https" in found.said("head")
    assert "no service answers http on port" in await pbal.say(f"explain GET http://a.test:{port}/")
