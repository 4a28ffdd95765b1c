"""HEADER REQUEST and RESPONSE: what nodes and clients get of it, for whom, and that nobody can write a field of their own through it."""

import asyncio

import pytest
from lab import Lab, Pbal, lab, read_response

CONF = """
    LOAD poll
    CREATE POOL app
      POOL app ADD {node}
    CREATE SERVICE site
      SET role       = reverse_proxy
      SET listen     = 127.0.0.1:0
      SET pool       = app
      SET plugins    = poll
      SET poll_uri   = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
      SET trusted_upstream_proxies = 10.0.0.0/8
    {rules}
    ENABLE site
    CREATE SERVICE files
      SET role    = web_server
      SET docroot = {folder}
      SET listen  = 127.0.0.1:0
    ENABLE files
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 127.0.0.1:0
      SET default_service = site
    ENABLE front
"""


async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the head that it got."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        writer.write(
            b"HTTP/1.1 200 OK\r\nServer: app\r\nX-Powered-By: it\r\nSet-Cookie: a=1\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head)
        )


async def start(lab: Lab, *rules: str) -> Pbal:
    origin = await lab.origin(node)
    (lab.folder / "page.txt").write_text("a page")
    return await lab.pbal(CONF.format(node=origin.address, folder=lab.folder, rules="\n    ".join(rules)))


def fields(head: bytes) -> list[str]:
    """The header lines of a head."""
    return head.decode("latin-1").split("\r\n")[1:-2]


async def seen(pbal: Pbal, *lines: str, path: str = "/", service: str = "site") -> list[str]:
    """The header lines that the node gets for a request with these."""
    request = "\r\n".join([f"GET {path} HTTP/1.1", "Host: Www.Example.com", *lines, "", ""])
    return fields((await pbal.ask(service, request.encode("latin-1"))).body)


@lab
async def test_fields_of_requests(lab: Lab) -> None:
    pbal = await start(
        lab,
        "HEADER site REQUEST SET    X-Client: $$client by $${peer} ($$scheme, $$host, $$method $$target) $$$$5",
        "HEADER site REQUEST ADD    X-More: two",
        "HEADER site REQUEST ADD    X-More: three WHEN path ^/api(/|$)",
        "HEADER site REQUEST REMOVE X-Secret WHEN NOT from 10.0.0.0/8",
        "HEADER site REQUEST SET    X-Origin: $$http_origin",
        "HEADER site REQUEST SET    X-Cert: $$tls_subject",
        'HEADER site REQUEST SET    X-Said: "now when needed"',
        "HEADER site REQUEST SET    X-Beta: on WHEN cookie beta = 1 AND method GET",
        "HEADER site INSERT X-Plain: $$client",
    )
    got = await seen(pbal, "X-More: one", "X_Secret: 1", "X-Secret: 2", "X-Cert: forged", "X_Origin: forged", "X-Beta: mine", path="/x?y")
    assert "X-Client: 127.0.0.1 by 127.0.0.1 (http, Www.Example.com, GET /x?y) $5" in got
    assert [line for line in got if line.startswith("X-More")] == ["X-More: one", "X-More: two"]
    assert {line.partition(":")[0] for line in got} & {"X-Secret", "X_Secret", "X-Cert", "X-Origin", "X_Origin"} == set()
    assert "X-Said: now when needed" in got and "X-Plain: $client" in got and "X-Beta: mine" in got

    got = await seen(pbal, "Origin: https://a.example", "Cookie: a=2; beta=1", "X-Beta: mine", path="//api/./%78")
    assert [line for line in got if line.startswith("X-More")] == ["X-More: two", "X-More: three"]
    assert "X-Origin: https://a.example" in got
    assert [line for line in got if line.startswith("X-Beta")] == ["X-Beta: on"]


@lab
async def test_no_variable_lets_a_client_write_a_field(lab: Lab) -> None:
    pbal = await start(lab, "HEADER site REQUEST SET X-Copy: $$http_x_in", "HEADER site RESPONSE SET X-Copy: $$target")
    for value in ("a\tb", "a\x80\xff", "a: b", "%0d%0aX-Evil: 1"):
        got = await seen(pbal, f"X-In: {value}")
        assert f"X-Copy: {value}" in got and not any(line.startswith("X-Evil") for line in got)
    response = await pbal.ask("site", b"GET /%0d%0aX-Evil:1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.fields["x-copy"] == "/%0d%0aX-Evil:1" and "x-evil" not in response.fields
    assert "X-Copy: 1, 2" in await seen(pbal, "X-In: 1", "X_in: 2")
    got = await seen(pbal, "X-In: 1", "Connection: x-in")
    assert not any(line.startswith(("X-In", "X-Copy")) for line in got)
    assert await pbal.say("HEADER site REQUEST SET X-Copy: $$http_x_forwarded_proto") == "OK"
    assert not any(line.startswith("X-Copy") for line in await seen(pbal, "X-Forwarded-Proto: https"))
    assert await pbal.say("SET site.always_trusted = on") == "OK"
    assert "X-Copy: https" in await seen(pbal, "X-Forwarded-Proto: https")


@lab
async def test_fields_of_responses_whoever_makes_them(lab: Lab) -> None:
    pbal = await start(
        lab,
        "HEADER site RESPONSE SET X-Frame-Options: DENY",
        "HEADER site RESPONSE REMOVE X-Powered-By",
        "HEADER site RESPONSE REMOVE Server WHEN path ^/quiet",
        "HEADER site RESPONSE ADD Set-Cookie: b=$$method",
        "HEADER site RESPONSE SET Cache-Control: no-store WHEN NOT path ^/static/",
    )
    assert await pbal.say("HEADER files RESPONSE SET X-Frame-Options: SAMEORIGIN") == "OK"
    assert await pbal.say("HEADER files RESPONSE SET Content-Type: text/x-page WHEN path \\.txt$") == "OK"

    response = await pbal.ask("site", b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    lines = fields(response.head)
    assert "X-Frame-Options: DENY" in lines and "Cache-Control: no-store" in lines and "Server: app" in lines
    assert [line for line in lines if line.startswith(("Set-Cookie", "X-Powered"))] == ["Set-Cookie: a=1", "Set-Cookie: b=GET"]
    assert b"GET /a" in response.body
    response = await pbal.ask("site", b"GET /%71uiet HTTP/1.1\r\nHost: a\r\n\r\n")
    assert "server" not in response.fields
    assert "cache-control" not in (await pbal.ask("site", b"GET /static/x HTTP/1.1\r\nHost: a\r\n\r\n")).fields

    # pbal's own: an error of a request that could be read, one of a request that could not, a node that is not there
    traced = await pbal.ask("site", b"TRACE /quiet HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (traced.status, traced.fields["x-frame-options"]) == (501, "DENY") and "server" not in traced.fields
    broken = await pbal.ask("site", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert (broken.status, broken.fields["x-frame-options"]) == (400, "DENY")
    assert "cache-control" not in broken.fields, "nobody knows whether its conditions hold"

    # a poll that was parked, and what the poll plugin answers at once
    reader, writer = await pbal.connect("site")
    writer.write(b"GET /poll/me HTTP/1.1\r\nHost: a\r\n\r\n")
    await pbal.until("poll_parked", 1)
    posted = await pbal.ask("site", b"POST /publish/me HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
    answered = await read_response(reader)
    assert answered.fields["x-frame-options"] == posted.fields["x-frame-options"] == "DENY"
    assert (answered.fields["set-cookie"], posted.fields["set-cookie"]) == ("b=GET", "b=POST")

    # a file
    found = await pbal.ask("files", b"GET /page.txt HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (found.fields["x-frame-options"], found.fields["content-type"], found.body) == ("SAMEORIGIN", "text/x-page", b"a page")
    missing = await pbal.ask("files", b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (missing.status, missing.fields["x-frame-options"]) == (404, "SAMEORIGIN")


@lab
async def test_what_rules_say_is_what_compression_goes_by(lab: Lab) -> None:
    (lab.folder / "long.txt").write_text("a page " * 1000)
    pbal = await start(lab)
    for statement in (
        "SET files.compress = gzip",
        "HEADER files RESPONSE SET X-A: b",
        "HEADER files RESPONSE SET Cache-Control: no-transform WHEN header X-Raw",
        "HEADER files RESPONSE SET Content-Type: application/zip WHEN header X-Zip",
    ):
        assert await pbal.say(statement) == "OK"
    for line, coding in (("X: 1", "gzip"), ("X-Raw: 1", None), ("X-Zip: 1", None)):
        response = await pbal.ask("files", f"GET /long.txt HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n{line}\r\n\r\n".encode())
        assert (response.fields.get("content-encoding"), response.fields["x-a"]) == (coding, "b")
        assert ("content-length" in response.fields) is (coding is None)


@lab
async def test_rules_of_a_selector_hold_for_what_it_hands_on(lab: Lab) -> None:
    pbal = await start(lab, "HEADER site RESPONSE SET X-From: site")
    for rule in (
        "HEADER front REQUEST SET X-Front: $$host WHEN host www.example.com",
        "HEADER front REQUEST ADD X-More: b",
        "HEADER front RESPONSE SET X-From: front WHEN path ^/both",
        "HEADER front RESPONSE SET X-Front: yes",
    ):
        assert await pbal.say(rule) == "OK"
    got = await seen(pbal, "X-More: a", "X-Front: forged", service="front")
    assert [line for line in got if line.startswith(("X-More", "X-Front"))] == ["X-More: a", "X-Front: Www.Example.com", "X-More: b"]
    response = await pbal.ask("front", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (response.fields["x-from"], response.fields["x-front"]) == ("site", "yes")
    response = await pbal.ask("front", b"GET /both HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.fields["x-from"] == "front"
    assert "x-front" not in (await pbal.ask("site", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).fields


@lab
async def test_what_is_refused_and_changes_nothing(lab: Lab) -> None:
    pbal = await start(lab)
    before = await pbal.say("dumpconfig")
    for statement, why in (
        ("HEADER site RESPONSE SET Content-Length: 1", "'Content-Length' cannot be set or removed by a rule"),
        ("HEADER site RESPONSE REMOVE Transfer_Encoding", "'Transfer_Encoding' cannot be set or removed"),
        ("HEADER site RESPONSE SET Date: today", "no rule knows better"),
        ("HEADER site REQUEST ADD X-Forwarded-For: 1.2.3.4", "SET replaces it"),
        ("HEADER site REQUEST SET Expect: 100-continue", "only a client can say"),
        ("HEADER site REQUEST SET Host: $$http_x", "not a host"),
        ("HEADER site REQUEST REMOVE Host WHEN path ^/", "every request needs a Host"),
        ("HEADER site REQUEST SET X: $$clinet", "did you mean '$client'?"),
        ("HEADER site REQUEST SET X: $$nothing", "for a dollar sign write $$$$"),
        ("HEADER site REQUEST SET X: a WHEN hots a", "did you mean 'host'?"),
        ("HEADER site REQUEST SET X: a when it rains", "expected a condition"),
        ("HEADER files REQUEST SET X: a", "HEADER has no effect on a web_server"),
        ("HEADER files INSERT X: a", "HEADER RESPONSE changes answers"),
        ("ROUTE files TO app WHEN path ^/", "ROUTE has no effect on a web_server"),
        ("REWRITE front ^/a = /b", "REWRITE has no effect on a selector"),
    ):
        said = await pbal.say(statement)
        assert said.startswith("ERROR") and why in said, (statement, said)
    assert await pbal.say("dumpconfig") == before


@pytest.mark.parametrize("number", ["DROP RULE site 2", "DROP RULE site HEADER site RESPONSE SET X-B: $$client WHEN path ^/x$$y"])
@lab
async def test_rules_are_listed_dropped_and_printed(lab: Lab, number: str) -> None:
    pbal = await start(
        lab,
        "HEADER site RESPONSE SET X-A: 1",
        "HEADER site RESPONSE SET X-B: $$client WHEN path ^/x$$y",
        'HEADER site REQUEST ADD X-C: "a when b" WHEN header User-Agent ~ "a b"',
        "HEADER site RESPONSE SET X-A: 2 WHEN scheme https",
        "HEADER site INSERT X-D: $$$$5",
    )
    rules = (await pbal.say("show rules site")).splitlines()
    assert [line for line in rules if "HEADER" in line] == [
        "site 1 HEADER site RESPONSE SET X-A: 1",
        "site 2 HEADER site RESPONSE SET X-B: $$client WHEN path ^/x$$y",
        'site 3 HEADER site REQUEST ADD X-C: "a when b" WHEN header User-Agent ~ "a b"',
        "site 4 HEADER site RESPONSE SET X-A: 2 WHEN scheme https",
        "site 5 HEADER site INSERT X-D: $$$$5",
    ]
    assert await pbal.say(number) == "OK"
    dumped = await pbal.say("dumpconfig")
    assert "X-B" not in dumped and 'HEADER site REQUEST ADD X-C: "a when b" WHEN header User-Agent ~ "a b"' in dumped
    assert await pbal.say("HEADER site RESPONSE SET X-A: 3") == "OK"
    assert "X-A: 1" not in (said := await pbal.say("show rules site")) and "X-A: 2" not in said and "X-A: 3" in said
