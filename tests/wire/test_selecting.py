"""selector on the wire: by host, by path, to every kind of service, and changed live."""

import asyncio
import json

from lab import Lab, Pbal, lab, read_response, until

CONF = """
    LOAD vhosts
    LOAD vpaths
    LOAD poll
    CREATE POOL app
      POOL app ADD {node}
    CREATE SERVICE site
      SET role = reverse_proxy
      SET pool = app
    CREATE SERVICE files
      SET role    = web_server
      SET docroot = {folder}
    CREATE SERVICE talk
      SET role             = web_server
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
    CREATE SERVICE paths
      SET role            = selector
      SET plugins         = vpaths
      SET default_service = site
      VPATH ^/(poll|publish)/ = talk
      VPATH ^/page$           = files
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 127.0.0.1:0
      SET plugins = vhosts
      VHOST static.example.com = files
      VHOST *.example.com      = paths
      VHOST [::1]              = files
    ENABLE front
"""


def get(path: str, host: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, *length, "", ""]).encode() + body


async def front(lab: Lab) -> Pbal:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = await reader.readexactly(5) if b"Content-Length: 5" in head else b""
            answer = head.split(b" ")[1] + body
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

    (lab.folder / "page").write_text("a page")
    origin = await lab.origin(app)
    return await lab.pbal(CONF.format(node=origin.address, folder=lab.folder))


@lab
async def test_by_host_and_by_path(lab: Lab) -> None:
    pbal = await front(lab)
    for host, path, status, body in (
        ("static.example.com", "/page", 200, b"a page"),
        ("STATIC.Example.Com.:80", "/page", 200, b"a page"),
        ("[::1]:8080", "/page", 200, b"a page"),
        ("www.example.com", "/page", 200, b"a page"),
        ("www.example.com", "/other?x=1", 200, b"/other?x=1"),
        ("a.b.example.com:8080", "/other", 200, b"/other"),
        ("example.com", "/other", 200, b"/other"),
        ("static.example.com", "/missing", 404, None),
        ("elsewhere.org", "/page", 404, None),
        ("", "/page", 400, None),
    ):
        answer = await pbal.ask("front", get(path, host))
        assert answer.status == status, (host, path)
        assert body is None or answer.body == body


@lab
async def test_one_connection_goes_to_every_service_in_turn(lab: Lab) -> None:
    pbal = await front(lab)
    reader, writer = await pbal.connect("front")
    host = "www.example.com"
    writer.write(
        get("/one", host) + get("/page", host) + get("/publish/a", host, method="POST", body=b"m") + get("/poll/a", host)
        + get("/two", host, method="POST", body=b"12345") + get("/page", "static.example.com") + get("/poll/b", host)
    )  # fmt: skip
    bodies = [(await read_response(reader)).body for _ in range(6)]
    assert bodies[:2] == [b"/one", b"a page"] and json.loads(bodies[2])["queue"] == "a"
    assert bodies[3:] == [b"m\n", b"/two12345", b"a page"]
    await pbal.until("poll_parked", 1)
    assert "Perlbal::ClientHTTP parked 1" in await pbal.say("states")
    await pbal.ask("front", get("/publish/b", host, method="POST", body=b"n"))
    assert (await read_response(reader)).body == b"n\n"


@lab
async def test_what_is_mapped_changes_live(lab: Lab) -> None:
    pbal = await front(lab)
    assert await pbal.say("VHOST front elsewhere.org = files") == "OK"
    assert (await pbal.ask("front", get("/page", "elsewhere.org"))).body == b"a page"
    assert "did you mean 'files'?" in await pbal.say("VHOST front elsewhere.org = fils")
    assert "invalid host pattern" in await pbal.say("VHOST front a..b = files")
    assert (await pbal.say("VPATH front ^/x = files")).startswith("ERROR: ")
    assert (await pbal.say("VPATH paths ( = files")).startswith("ERROR: ")
    assert await pbal.say("RELOAD vhosts") == "OK"
    assert (await pbal.ask("front", get("/page", "elsewhere.org"))).body == b"a page"
    assert "VHOST elsewhere.org = files" in await pbal.say("dumpconfig")


@lab
async def test_a_selector_that_leads_to_itself_is_an_error_and_no_hang(lab: Lab) -> None:
    pbal = await front(lab)
    assert await pbal.say("VPATH paths ^/round = front") == "OK"
    answer = await pbal.ask("front", get("/round", "www.example.com"))
    assert answer.status == 508
    assert (await pbal.ask("front", get("/other", "www.example.com"))).body == b"/other"
    await until(lambda: pbal.counts["clients"] <= 2, "nothing to be left")
