"""selector on the wire: by host, by path, to every kind of service, and changed live."""

import asyncio
import json
import random
import re
import sys
from typing import Any

import pytest
from lab import Lab, Pbal, lab, read_response, until

from pbal.api import Hosts

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
    assert pbal.counts["selector_loops"] == 1
    assert "8 selectors in a row" in await pbal.say("show errors")


PATTERNS = """
    LOAD vhosts
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 127.0.0.1:0
      SET plugins = vhosts
{rules}
    ENABLE front
"""


async def echoing(lab: Lab, rules: dict[str, str], more: str = "") -> Pbal:
    """A selector whose patterns lead to services that answer with their own name, and the Host that they see."""
    services = sorted(set(rules.values()))
    for name in services:
        folder = lab.folder / name
        folder.mkdir()
        (folder / "name").write_text(name)
    made = "".join(f"CREATE SERVICE {name}\n  SET role = web_server\n  SET docroot = {lab.folder / name}\n" for name in services)
    said = "".join(f"VHOST {pattern} = {name}\n" for pattern, name in rules.items())
    return await lab.pbal(PATTERNS.format(rules=said) + made + more)  # what rules name is made behind them


async def chosen(pbal: Pbal, host: str, target: str = "/name") -> str:
    """The service that answered, or the status."""
    answer = await pbal.ask("front", get(target, host))
    return answer.body.decode() if answer.status == 200 else str(answer.status)


@lab
async def test_the_host_itself_comes_first_and_then_the_longest_pattern(lab: Lab) -> None:
    pbal = await echoing(lab, {
        "*": "rest", "*.site.com": "star", "*site.com": "loose", "a.site.com": "exact", "*.com": "com", "under_score.net": "exact",
        "[2001:DB8:0:0::1]": "six", "xn--bcher-kva.example": "exact", "*.a.site.com": "deep", "*ernet": "loose",
    })  # fmt: skip
    for host, service in (
        ("a.site.com", "exact"), ("A.Site.COM", "exact"), ("a.site.com.", "exact"), ("a.site.com:80", "exact"), ("a.site.com.:80", "exact"),
        ("b.a.site.com", "deep"), ("b.site.com", "star"), ("site.com", "star"), ("x.y.b.site.com:8080", "star"), ("mysite.com", "loose"),
        ("www.mysite.com", "loose"), ("other.com", "com"), ("com", "com"), ("ite.com", "com"), ("internet", "loose"), ("ernet", "loose"),
        ("under_score.net", "exact"), ("[2001:db8::1]", "six"), ("[2001:DB8:0::0001]:443", "six"), ("[2001:db8::2]", "rest"),
        ("xn--BCHER-kva.example", "exact"), ("127.0.0.1", "rest"), ("a.site.com..", "rest"),
    ):  # fmt: skip
        assert await chosen(pbal, host) == service, host
        assert await chosen(pbal, host) == service, f"{host}, remembered"
    assert (await pbal.ask("front", b"GET /name HTTP/1.0\r\n\r\n")).body == b"rest"
    assert await chosen(pbal, "b.site.com", "http://a.site.com/name") == "exact"  # RFC 9112 section 3.2.2: the target's host counts
    assert "VHOST [2001:db8::1] = six" in await pbal.say("dumpconfig")


@lab
async def test_what_is_remembered_of_hosts_follows_every_change(lab: Lab) -> None:
    pbal = await echoing(lab, {"*.site.com": "star", "a.site.com": "exact"}, "CREATE SERVICE other\n  SET role = web_server\n")
    assert await chosen(pbal, "a.site.com") == "exact"
    for statement, service in (
        ("VHOST front a.site.com = star", "star"),
        ("VHOST front a.site.com = exact", "exact"),
        ("DISABLE exact", "503"),
        ("ENABLE exact", "exact"),
        ("DROP RULE front VHOST a.site.com = exact", "star"),
        ("DROP RULE front VHOST *.site.com = star", "404"),
        ("VHOST front * = exact", "exact"),
        ("RELOAD vhosts", "exact"),
    ):
        assert await pbal.say(statement) == "OK", statement
        assert await chosen(pbal, "a.site.com") == service, statement
        assert await chosen(pbal, "a.site.com") == service, statement


def test_a_table_of_hosts_that_was_changed_is_as_one_that_is_made_anew() -> None:
    chance = random.Random(7)
    patterns = [f"{star}{name}" for star in ("", "*", "*.") for name in ("a.b", "b", "c.b", "x.a.b")] + ["*"]
    hosts, table = Hosts(), dict[str, str]()
    for number in range(300):
        pattern = chance.choice(patterns)
        if pattern in table and chance.random() < 0.6:
            hosts.drop(pattern)
            del table[pattern]
        else:
            hosts.add(pattern, str(number))
            table[pattern] = str(number)
        anew = Hosts()
        for said, name in table.items():
            anew.add(said, name)
        for host in ("a.b", "b", "c.b", "x.a.b", "y.x.a.b", "zb", "d"):
            assert list(hosts.fitting(host)) == list(anew.fitting(host))
        assert bool(hosts) == bool(table)


@lab
async def test_very_many_hosts_do_not_fill_the_memory(lab: Lab) -> None:
    pbal = await echoing(lab, {"*.site.com": "star"})
    plugin = pbal.plugin("front", "vhosts")
    reader, writer = await pbal.connect("front")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[type(plugin).__module__], "MOST", 40)
        writer.write(b"".join(get("/name", f"h{number}.site.com", method="HEAD") for number in range(100)))
        for _ in range(100):
            assert (await read_response(reader, head_only=True)).status == 200
            assert 0 < len(plugin._known) <= 40
    assert await chosen(pbal, f"{'a.' * 123}site.com") == "star"  # as long as a name may be
    before = len(plugin._known)
    assert await chosen(pbal, f"{'a.' * 124}site.com") == "star"
    assert len(plugin._known) == before


@lab
async def test_a_host_uses_another(lab: Lab) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            line, *fields = head.decode().split("\r\n")
            said = next(each for each in fields if each.lower().startswith("host:")) + " " + line.split(" ")[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said.encode()))

    origin = await lab.origin(app)
    pbal = await lab.pbal(f"""
        LOAD vhosts
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE site
          SET role = reverse_proxy
          SET pool = app
        CREATE SERVICE login
          SET role = reverse_proxy
          SET pool = app
        HEADER login RESPONSE SET X-From: login
        CREATE SERVICE front
          SET role    = selector
          SET listen  = 127.0.0.1:0
          SET plugins = vhosts
          VHOST www.example.com                         = site
          VHOST WWW.Example.com;using:Login.Example.com = login
          VHOST *.example.org;using:login.example.com   = login
        ENABLE front
    """)
    word = "/__using/login.example.com/session"
    for host, target, answer in (
        ("www.example.com", word, f"Host: login.example.com {word}"),
        ("WWW.example.com.:80", f"{word}?a/b=1", f"Host: login.example.com {word}?a/b=1"),
        ("www.example.com", "/__using/LOGIN.example.com/session", "Host: login.example.com /__using/LOGIN.example.com/session"),
        ("a.example.org", word, f"Host: login.example.com {word}"),
        # what is no word goes where the host goes
        ("www.example.com", "/__using/login.example.com/a/b", "Host: www.example.com /__using/login.example.com/a/b"),
        ("www.example.com", "/__using/login.example.com/", "Host: www.example.com /__using/login.example.com/"),
        ("www.example.com", f"/x{word}", f"Host: www.example.com /x{word}"),
    ):
        response = await pbal.ask("front", get(target, host))
        assert (response.status, response.body.decode()) == (200, answer), target
        assert (response.fields.get("x-from") == "login") == answer.startswith("Host: login")
    for host, target, status in (
        ("www.example.com", "/__using/other.example.com/session", 404),
        ("login.example.com", word, 404),
        ("www.example.com;using:login.example.com", "/", 400),  # a pattern is no Host
    ):
        assert (await pbal.ask("front", get(target, host))).status == status
    told = await pbal.say(f"explain GET http://www.example.com{word}")
    assert "VHOST www.example.com;using:login.example.com = login" in told and "Host becomes login.example.com" in told
    assert "head login Host: login.example.com" in " ".join(told.split())
    assert "VHOST *.example.org;using:login.example.com = login" in await pbal.say("dumpconfig")
    assert await pbal.say("DROP RULE front VHOST www.example.com;using:login.example.com = login") == "OK"
    assert (await pbal.ask("front", get(word, "www.example.com"))).status == 404
    assert await pbal.say("DROP RULE front VHOST *.example.org;using:login.example.com = login") == "OK"
    assert (await pbal.ask("front", get(word, "www.example.com"))).body.decode() == f"Host: www.example.com {word}"


@lab
async def test_a_pattern_that_is_wrong_is_told_with_what_was_meant(lab: Lab) -> None:
    pbal = await echoing(lab, {"*": "rest"})
    for pattern, hint in (
        (".example.com", "did you mean '*.example.com'?"),
        ("www.example.com:80", "did you mean 'www.example.com'?"),
        ("www.example.com.", "did you mean 'www.example.com'?"),
        ("::1", "did you mean '[::1]'?"),
        ("bücher.example", "did you mean 'xn--bcher-kva.example'?"),
        ("foo*.org", "expected a host"),
        ("a.*.com", "expected a host"),
        ("a..b", "expected a host"),
        ("a.com;using:*.b.com", "expected a host"),
        ("a.com;using:", "expected a host"),
    ):
        said = await pbal.say(f"VHOST front {pattern} = rest")
        assert said.startswith("ERROR: ") and hint in said, (pattern, said)
    assert (await pbal.say("show rules front")).count("VHOST") == 1


@lab
async def test_a_path_that_would_keep_a_pattern_busy_for_ever_is_given_up(lab: Lab) -> None:
    pbal = await front(lab)
    assert "is given up, and answered 500" in await pbal.say("VPATH paths ^/(a+)+$ = files")
    assert await pbal.say("VPATH paths ^/aaa = files") == "OK"
    hostile = "/" + "a" * 60 + "!"
    answer = await pbal.ask("front", get(hostile, "www.example.com"))
    assert answer.status == 500  # and not whatever the next rule says
    assert pbal.counts["regex_timeouts"] == 1
    assert "took too long" in await pbal.say(f"explain GET http://www.example.com{hostile}")
    assert (await pbal.ask("front", get("/page", "www.example.com"))).body == b"a page"
    assert (await pbal.ask("front", get("/other", "www.example.com"))).body == b"/other"
    assert pbal.counts["regex_timeouts"] == 1


THROUGH = """
    LOAD vhosts
    LOAD vpaths
    LOAD poll
    CREATE POOL app
      POOL app ADD {node}
    CREATE SERVICE site
      SET role           = reverse_proxy
      SET pool           = app
      SET persist_client = off
    CREATE SERVICE other
      SET role    = web_server
      SET docroot = {folder}
    CREATE SERVICE talk
      SET role     = web_server
      SET plugins  = poll
      SET poll_uri = ^/poll/(?P<queue>[^/]+)$
    CREATE SERVICE inner
      SET role            = selector
      SET plugins         = vpaths
      SET default_service = site
      VPATH ^/poll/ = talk
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 127.0.0.1:0
      SET plugins = vhosts
      VHOST a.test = inner
      VHOST b.test = site
    ENABLE front
"""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend that answers with the body of a request."""
    while head := (await reader.readuntil(b"\r\n\r\n")).lower():
        body = b""
        if b"expect: 100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length is not None:
            body = await reader.readexactly(int(length[1]))
        elif b"transfer-encoding: chunked" in head:
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def through(lab: Lab, node: str, more: str = "") -> Pbal:
    """Two selectors in a row, and services behind the second."""
    (lab.folder / "page").write_text("a page")
    return await lab.pbal(THROUGH.format(node=node, folder=lab.folder) + more)


@lab
async def test_bodies_of_every_kind_go_through_selectors(lab: Lab) -> None:
    node = await lab.origin(echo)
    pbal = await through(lab, node.address)
    reader, writer = await pbal.connect("front")
    for number in range(2):  # in memory, and spooled
        assert await pbal.say(f"SET site.buffer_uploads = {'on' if number else 'off'}") == "OK"
        writer.write(get("/a", "a.test", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
        writer.write(b"2\r\nde\r\n0\r\n\r\n")
        assert (await read_response(reader)).body == b"abcde"
        writer.write(get("/b", "a.test", method="PUT", body=b"x" * 70000))
        assert (await read_response(reader)).body == b"x" * 70000
        writer.write(get("/c", "a.test", "Content-Length: 4", "Expect: 100-continue", method="POST"))
        assert (await read_response(reader)).status == 100
        writer.write(b"body")
        assert (await read_response(reader)).body == b"body"
    assert (await pbal.say("show service site")).count("app") == 1


@lab
async def test_a_tunnel_goes_through_selectors(lab: Lab) -> None:
    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
        while said := await reader.read(100):
            writer.write(said.upper())

    origin = await lab.origin(node)
    pbal = await through(lab, origin.address)
    reader, writer = await pbal.connect("front")
    writer.write(get("/", "a.test", "Connection: Upgrade", "Upgrade: shout"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert await pbal.say("VHOST front a.test = other") == "OK"  # what was begun goes on
    assert await pbal.say("DISABLE site") == "OK"
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"HELLO"
    assert "site" in await pbal.say("show tunnels")


@lab
async def test_a_selectors_max_body_holds_beside_that_of_the_service(lab: Lab) -> None:
    node = await lab.origin(echo)
    pbal = await through(lab, node.address)

    async def status(size: int, chunked: bool, host: str = "a.test") -> int:
        fields, body = (["Transfer-Encoding: chunked"], b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)) if chunked else ([], b"x" * size)
        head = get("/", host, *(fields or [f"Content-Length: {size}"]), method="POST")
        return (await pbal.ask("front", head + body)).status

    for statement, size, refused in (
        ("SET site.max_body = 30", 30, 31),
        ("SET front.max_body = 50", 30, 31),
        ("SET front.max_body = 10", 10, 11),
        ("SET inner.max_body = 5", 5, 6),
        ("SET inner.max_body = 20", 10, 11),
        ("SET front.max_body = 0", 20, 21),
        ("UNSET front.max_body", 20, 21),
        ("SET front.max_body = 15", 15, 16),
        ("UNSET front.max_body", 20, 21),
        ("UNSET inner.max_body", 30, 31),
    ):
        assert await pbal.say(statement) == "OK"
        for chunked in (False, True):
            assert await status(size, chunked) == 200, (statement, chunked)
            assert await status(refused, chunked) == 413, (statement, chunked)
    assert await status(30, True, "b.test") == 200
    assert await pbal.say("SET front.max_body = 10") == "OK"
    assert "413: the body is larger than 10 bytes" in await pbal.say("explain POST http://a.test/ Content-Length: 11")


@lab
async def test_the_connection_is_the_selectors(lab: Lab) -> None:
    node = await lab.origin(echo)
    pbal = await through(lab, node.address)  # where site says persist_client = off
    reader, writer = await pbal.connect("front")
    for path, host in (("/", "a.test"), ("/page", "b.test"), ("/", "a.test")):
        writer.write(get(path, host))
        assert "close" not in (await read_response(reader)).head.decode().lower()
    assert await pbal.say("SET front.persist_client_idle_timeout = 100ms") == "OK"
    writer.write(get("/", "a.test"))
    assert (await read_response(reader)).status == 200
    assert await reader.read() == b""
    assert await pbal.say("SET front.persist_client = off") == "OK"
    reader, writer = await pbal.connect("front")
    writer.write(get("/", "a.test"))
    assert (await read_response(reader)).fields["connection"] == "close"
    assert await reader.read() == b""


@lab
async def test_a_target_that_goes_finishes_what_it_has(lab: Lab) -> None:
    go = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\non")
            await go.wait()
            writer.write(b"ly")

    origin = await lab.origin(app)
    for statements, status in (
        (["VHOST front b.test = other"], 200),
        (["DISABLE site"], 503),
        (["VHOST front b.test = other", "UNSET inner.default_service", "DROP SERVICE site"], 200),
        (["UNSET inner.default_service", "DROP RULE front VHOST b.test = site", "DROP SERVICE site"], 404),
        (["DROP RULE front VHOST b.test = site"], 404),
        (["SET front.default_service = other", "SET front.plugins = none"], 200),
    ):
        go.clear()
        pbal = await through(lab, origin.address)
        reader, writer = await pbal.connect("front")
        writer.write(get("/page", "b.test"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"on"
        writer.write(get("/page", "b.test"))  # pipelined: it is chosen for when its turn comes
        for statement in statements:
            assert await pbal.say(statement) == "OK", statement
            if statement.startswith("UNSET inner.default_service") and "VHOST front b.test = other" not in statements:
                assert "plugin vhosts sends requests of 'front' to it: see show rules front" in await pbal.say("DROP SERVICE site")
        go.set()
        assert await reader.readexactly(2) == b"ly" and b" 200 " in head, statements
        answer = await read_response(reader)
        assert answer.status == status, statements
        assert status != 200 or answer.body == b"a page"


@lab
async def test_a_selector_that_is_dropped_leaves_no_connection(lab: Lab) -> None:
    node = await lab.origin(echo)
    pbal = await through(lab, node.address)
    reader, writer = await pbal.connect("front")
    writer.write(get("/", "b.test"))
    assert (await read_response(reader)).status == 200
    assert await pbal.say("DROP SERVICE front") == "OK"
    assert await reader.read() == b""


@lab
async def test_parked_polls_of_a_target_that_goes_get_the_empty_answer(lab: Lab) -> None:
    node = await lab.origin(echo)
    for statements in (["DISABLE talk"], ["DROP RULE inner VPATH ^/poll/ = talk", "DROP SERVICE talk"]):
        pbal = await through(lab, node.address)
        reader, writer = await pbal.connect("front")
        writer.write(get("/poll/a", "a.test") + get("/page", "b.test"))
        await pbal.until("poll_parked", 1)
        assert await pbal.say("VHOST front b.test = other") == "OK"
        for statement in statements:
            assert await pbal.say(statement) == "OK"
        assert (await read_response(reader)).status == 204
        assert (await read_response(reader)).body == b"a page"
        assert (await pbal.ask("front", get("/poll/a", "a.test"))).status == (503 if statements == ["DISABLE talk"] else 200)


@lab
async def test_both_plugins_in_one_chain_are_asked_in_their_order(lab: Lab) -> None:
    pbal = await lab.pbal(f"""
        LOAD vhosts
        LOAD vpaths
        CREATE SERVICE files
          SET role    = web_server
          SET docroot = {lab.folder}
        CREATE SERVICE gone
          SET role    = web_server
        CREATE SERVICE front
          SET role            = selector
          SET listen          = 127.0.0.1:0
          SET plugins         = vhosts vpaths
          SET default_service = gone
          VHOST a.test  = files
          VPATH ^/page$ = gone
          VPATH [?&]x=1 = files
        ENABLE front
    """)
    (lab.folder / "page").write_text("a page")
    (lab.folder / "other").write_text("other")

    async def seen() -> list[int]:
        asked = (("/page", "a.test"), ("/page", "b.test"), ("/other?x=1", "b.test"), ("/other?y=1", "b.test"), ("/other", "a.test"))
        return [(await pbal.ask("front", get(path, host))).status for path, host in asked]

    assert await seen() == [200, 404, 200, 404, 200]
    assert await pbal.say("SET front.plugins = vpaths vhosts") == "OK"  # the rules stay
    assert await seen() == [404, 404, 200, 404, 200]
    rows = (await pbal.say("show service front")).splitlines()
    assert [row.split(": ", 1)[1] for row in rows if row.strip().startswith("rule:")] == [
        "VPATH ^/page$ = gone", 'VPATH "[?&]x=1" = files', "VHOST a.test = files",
    ]  # fmt: skip
    for number in range(20):
        assert await pbal.say(f"VHOST front h{number}.test = files") == "OK"
    rows = (await pbal.say("show service front")).splitlines()
    assert sum(row.strip().startswith("rule:") for row in rows) == 20
    assert "         rules: 23: show rules front lists them all" in rows


@lab
async def test_the_selectors_own_answers_have_its_pages(lab: Lab) -> None:
    node = await lab.origin(echo)
    pages = lab.folder / "pages"
    pages.mkdir()
    (pages / "404.html").write_text("<p>the selector's own</p>")
    pbal = await through(lab, node.address, f"\n    SET front.error_pages = {pages}\n")
    accept = "Accept: text/html"
    assert (await pbal.ask("front", get("/", "nowhere.test", accept))).body == b"<p>the selector's own</p>"
    assert await pbal.say("VHOST front b.test = other") == "OK"
    assert (await pbal.ask("front", get("/missing", "b.test", accept))).body != b"<p>the selector's own</p>"


@lab
async def test_both_tables_are_reloaded_with_rules_that_are_said_twice(lab: Lab) -> None:
    text = """
        LOAD vhosts
        LOAD vpaths
        CREATE SERVICE a
          SET role = web_server
        CREATE SERVICE b
          SET role = web_server
        CREATE SERVICE front
          SET role    = selector
          SET listen  = 127.0.0.1:0
          SET plugins = vhosts vpaths
        {rules}
        ENABLE front
    """
    first = ["VHOST *a.com = a", "VHOST x.com;using:y.com = b", "VPATH ^/x = a", "VPATH ^/y = b", "VPATH ^/x = a", 'VPATH "a b=c" = b']
    then = ["VHOST x.com;using:y.com = a", "VHOST [::1] = b", "VPATH ^/x = a", "VPATH ^/x = a", "VPATH ^/z = b"]
    pbal = await lab.pbal(text.format(rules="\n        ".join(first)))
    file = lab.folder / "test1.conf"

    async def rules() -> list[str]:
        return [line.split(" ", 2)[2] for line in (await pbal.say("show rules front")).splitlines()[:-1]]

    assert await rules() == first
    for wanted in (then, first, []):
        file.write_text(text.format(rules="\n        ".join(wanted)).replace("\n        ", "\n"))
        assert await pbal.say("RELOAD CONFIG") == "OK"
        assert sorted(await rules()) == sorted(wanted)
        assert [rule for rule in await rules() if rule.startswith("VPATH")] == [rule for rule in wanted if rule.startswith("VPATH")]
        assert await pbal.say("CONFIG DRIFT") == "."


@lab
async def test_a_service_that_answers_no_requests_is_told_and_not_named(lab: Lab) -> None:
    pbal = await lab.pbal("""
        LOAD vhosts
        LOAD vpaths
        CREATE SERVICE inside
          SET role   = management
          SET listen = 127.0.0.1:0
        ENABLE inside
        CREATE SERVICE default
          SET role            = selector
          SET default_service = inside
        CREATE SERVICE front
          SET role    = selector
          SET listen  = 127.0.0.1:0
          SET plugins = vhosts vpaths
          VHOST a.test      = inside
          VHOST b.test      = default
          VPATH ^/console = inside
        ENABLE front
    """)
    reader, writer = await pbal.connect("front")
    for host in ("a.test", "b.test", "c.test"):
        writer.write(get("/console", host))
        answer = await read_response(reader)
        assert answer.status == 500 and b"inside" not in answer.body and b"answers no requests" in answer.body
    assert (await pbal.say("show errors")).count("/console") == 3


@lab
async def test_nothing_is_selected_without_rules_that_failed_too_often(lab: Lab) -> None:
    """A VPATH may be what keeps strangers out: the default is no answer where the rules are gone."""
    (lab.folder / "secret").write_text("secret")
    pbal = await lab.pbal(
        f"LOAD vpaths\nCREATE SERVICE site\nSET role = web_server\nSET docroot = {lab.folder}\nENABLE site\n"
        "CREATE SERVICE closed\nSET role = web_server\nENABLE closed\n"
        "CREATE SERVICE front\nSET role = selector\nSET listen = 127.0.0.1:0\nSET plugins = vpaths\nSET plugin_error_limit = 1\n"
        "VPATH ^/secret = closed\nSET default_service = site\nENABLE front"
    )
    assert (await pbal.ask("front", get("/secret", "h"))).status == 404
    vpaths: Any = pbal.world.service("front").plugin("vpaths")
    vpaths.use([("no pattern", "closed")])
    assert (await pbal.ask("front", get("/secret", "h"))).status == 500
    answer = await pbal.ask("front", get("/secret", "h"))
    assert (answer.status, answer.body == b"secret") == (503, False)
