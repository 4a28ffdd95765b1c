"""HTTP on a console's port: what it shows, what it refuses, and that nothing can be done by it."""

import asyncio
import base64
import re
from html.parser import HTMLParser
from math import inf

from browser import Browser, needs_chromium
from lab import Lab, Pbal, Response, lab, read_response, until

from pbal.api import ManualClock
from pbal.console.history import SAMPLES, History
from pbal.console.http import HttpConnection
from pbal.console.markup import chart, number, table
from pbal.model.world import World
from pbal.schema.passwords import line_for
from pbal.schema.people import Unit

CONF = """
    LOAD poll
    CREATE POOL app
      POOL app ADD 127.0.0.1:1
    CREATE SERVICE chat
      SET role     = reverse_proxy
      SET listen   = 127.0.0.1:0
      SET pool     = app
      SET plugins  = poll
      SET poll_uri = ^/poll/(?P<queue>[^/]+)$
    ENABLE chat
    CREATE SERVICE mgmt
      SET role   = management
      SET listen = 127.0.0.1:0
      {more}
    ENABLE mgmt
"""


def conf(more: str = "") -> str:
    return CONF.format(more=more)


async def get(pbal: Pbal, path: str, *fields: str, method: str = "GET", host: str = "localhost") -> Response:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]
    return await pbal.ask("mgmt", "\r\n".join(lines).encode("latin-1"))


class Page(HTMLParser):
    """The text of a page by element, and whatever in it could run or load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.titles: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self._into: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs), attrs
        self._into = {"td": self.cells, "h2": self.titles, "figcaption": self.titles}.get(tag)
        if self._into is not None:
            self._into.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "h2", "figcaption"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data


# -- what is shown -------------------------------------------------------------------------------------------------


@lab
async def test_the_status_page(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    _, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/amy HTTP/1.1\r\nHost: x\r\n\r\n")
    await pbal.until("poll_parked", 1)
    answer = await get(pbal, "/")
    page = Page(answer.body.decode())
    assert answer.status == 200 and answer.fields["content-type"] == "text/html; charset=utf-8"
    assert {"Services", "Nodes", "Limits", "Recent errors", "Parked polls", "Parked polls that end next", "Stores"} <= set(page.titles)
    assert [title.split()[0] for title in page.titles[:3]] == ["Requests", "Parked", "Lag"]
    for cell in ("chat", "reverse_proxy", "ENABLED", "127.0.0.1:1", "amy", "longpoll"):
        assert cell in page.cells or cell == "longpoll", cell
    assert page.tags.count("svg") == 3 and "noscript" in page.tags
    assert all(load.startswith(("/", "data:,")) for load in page.loads), page.loads
    assert b"ready" in answer.body
    middle = await get(pbal, "/status")
    assert Page(middle.body.decode()).titles == page.titles and b"<html" not in middle.body
    for path, kind in (("/status.css", "text/css"), ("/status.js", "text/javascript")):
        assert (await get(pbal, path)).fields["content-type"].startswith(kind)


@lab
async def test_every_answer_says_what_a_browser_may_do_with_it(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    for path in ("/", "/status", "/metrics", "/healthz", "/nowhere", "/status.js"):
        fields = (await get(pbal, path)).fields
        policy = fields["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "*" not in policy
        assert fields["x-content-type-options"] == "nosniff" and fields["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in fields


@lab
async def test_what_strangers_said_is_shown_as_text(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    _, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/%3Cscript%3Ealert(1)%3C%2Fscript%3E HTTP/1.1\r\nHost: <b>'\"&\r\n\r\n".replace(b"<b>'\"&", b"x"))
    await pbal.until("poll_parked", 1)
    _, other = await pbal.connect("chat")
    other.write(b"GET /<script>alert(2)</script>\xc3\xa9'%0a HTTP/1.1\r\nHost: a'b\r\n".replace(b"\xc3\xa9", b""))
    for path in ("/", "/socks"):
        text = (await get(pbal, path)).body.decode()
        assert "<script>alert" not in text
    assert "<script>alert(1)</script>" in Page((await get(pbal, "/")).body.decode()).cells


@lab
async def test_perlbals_own_pages(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    said = (await get(pbal, "/socks")).body.decode()
    assert "<h1>socks summary</h1>" in said and "<h1>socks</h1>" in said
    assert "listening on 127.0.0.1:" in said and "service &#x27;<a href='/service?chat'>chat</a>&#x27;" in said
    said = (await get(pbal, "/service?chat")).body.decode()
    assert "SERVICE chat" in said and "role: reverse_proxy" in said
    for path in ("/service?nobody", "/service?a%20b", "/service", "/service?chat%0aSHUTDOWN", "/etc/passwd", "//", "/Socks"):
        assert (await get(pbal, path)).status == 404, path


@lab
async def test_health_and_readiness(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    assert (await get(pbal, "/healthz")).body == b"ok\n"
    assert ((ready := await get(pbal, "/readyz")).status, ready.body) == (200, b"ready\n")
    pbal.server._listeners["chat"].pause()
    assert ((ready := await get(pbal, "/readyz")).status, ready.body) == (503, b"not listening: chat\n")
    assert b"not listening: chat" in (await get(pbal, "/")).body
    assert (await get(pbal, "/healthz")).status == 200
    pbal.world.ending = True
    assert ((ready := await get(pbal, "/readyz")).status, ready.body) == (503, b"pbal is ending\n")


@needs_chromium
@lab
async def test_a_browser_shows_the_page_and_renews_it_under_its_policy(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    host, port = pbal.server.address("mgmt")
    async with Browser() as browser:
        window = await browser.window(f"http://{host}:{port}/")
        await browser.wait(window, "document.querySelector('#age').textContent === 'live'")
        assert await browser.script(window, "return getComputedStyle(document.querySelector('main')).display") == "grid"
        _, writer = await pbal.connect("chat")
        writer.write(b"GET /poll/amy HTTP/1.1\r\nHost: x\r\n\r\n")
        await pbal.until("poll_parked", 1)
        await browser.script(window, "document.dispatchEvent(new Event('visibilitychange'))")
        await browser.wait(window, "[...document.querySelectorAll('td')].some(cell => cell.textContent === 'amy')")
        await browser.dress(window, 375, 800, "dark")
        assert await browser.script(window, "return document.documentElement.scrollWidth") <= 375
        assert await browser.complaints(window, "") == []


# -- what is refused -----------------------------------------------------------------------------------------------


@lab
async def test_nothing_but_get_and_head(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    statement = b"SET chat.max_body = 1\r\nSHUTDOWN\r\n"
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = await get(pbal, "/", f"Content-Length: {len(statement)}", "", statement.decode(), method=method)
        assert answer.status == 405 and answer.fields["allow"] == "GET, HEAD" and answer.fields["connection"] == "close"
    assert pbal.counts["console_commands"] == 0 and pbal.world.service("chat")["max_body"] != 1


@lab
async def test_a_foreign_host_is_misdirected(lab: Lab) -> None:
    pbal = await lab.pbal(conf("SET hosts = Console.example www"))
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "x", "console.example.org"):
        for path in ("/", "/metrics", "/healthz"):
            assert (await get(pbal, path, host=host)).status == 421, host
    for host in ("localhost", "LOCALHOST:16000", "localhost.", "127.0.0.1:1", "[::1]:80", "192.0.2.1", "console.EXAMPLE", "www:1"):
        assert (await get(pbal, "/healthz", host=host)).status == 200, host
    assert (await pbal.ask("mgmt", b"GET /healthz HTTP/1.0\r\n\r\n")).status == 200
    assert (await pbal.ask("mgmt", b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 421


@lab
async def test_a_password_is_asked_for(lab: Lab) -> None:
    (lab.folder / "passwords").write_text(line_for("amy", "se:cret", (16, 1, 1)))
    pbal = await lab.pbal(conf("SET password_file = passwords"))

    def basic(said: str) -> str:
        return "Authorization: Basic " + base64.b64encode(said.encode()).decode()

    for path in ("/", "/status", "/metrics", "/socks", "/nowhere"):
        for fields in ([], ["Authorization: Bearer x"], ["Authorization: Basic !!!"], ["Authorization: Basic"], [basic("amy")]):
            answer = await get(pbal, path, *fields)
            assert answer.status == 401 and answer.fields["www-authenticate"] == 'Basic realm="pbal", charset="UTF-8"'
        assert (await get(pbal, path, basic("amy:se:cret"))).status == (404 if path == "/nowhere" else 200)
    assert (await get(pbal, "/healthz")).status == (await get(pbal, "/readyz")).status == 200
    assert (await get(pbal, "/metrics", basic("amy:wrong"))).status == 401
    late = await get(pbal, "/metrics", basic("amy:se:cret"))
    assert late.status == 429 and late.fields["retry-after"] == "1"
    assert pbal.counts["console_login_failures"] == 1


HEADS = [
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1:16000\r\nContent-Type: text/plain\r\n\r\n",
    b"get /socks HTTP/1.0\n\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"M-SEARCH / HTTP/1.1\r\n\r\n",
    b"\r\n\nPUT /x HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"POST /%0aSHUTDOWN HTTP/1.1\r\n",
    b"GET /%0aSHUTDOWN HTTP/1.1\r\n",
]
EVIL = b"SET chat.max_body = 1\nPOOL app REMOVE 127.0.0.1:1\nSHUTDOWN\n"


@lab
async def test_a_browser_sent_here_by_somebody_carries_out_nothing(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    for head in HEADS:
        for packets in ([head + EVIL], [head, EVIL], [head[:1], head[1:], EVIL, EVIL], [head + EVIL[:5], EVIL[5:]]):
            reader, writer = await pbal.connect("mgmt")
            for packet in packets:
                writer.write(packet)
                await asyncio.sleep(0)
            writer.write_eof()
            said = await reader.read()
            assert re.match(rb"HTTP/1\.1 (400|405|421|505) ", said) and said.count(b"HTTP/1.1 ") == 1, said
            writer.close()
    assert pbal.counts["console_commands"] == 0
    assert pbal.world.service("chat")["max_body"] != 1 and await pbal.say("show pool app") == "127.0.0.1:1 0\n."


# -- the connection ------------------------------------------------------------------------------------------------


@lab
async def test_a_connection_is_kept_and_requests_are_answered_in_their_order(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    reader, writer = await pbal.connect("mgmt")
    ask = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
    paths = [b"/healthz", b"/", b"/healthz", b"/metrics", b"/nowhere"] + [b"/healthz"] * 40
    writer.write(b"".join(ask % path for path in paths) + b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    for path in paths:
        answer = await read_response(reader)
        assert answer.status == (404 if path == b"/nowhere" else 200)
        assert (answer.body == b"ok\n") == (path == b"/healthz")
    last = await read_response(reader, head_only=True)
    assert int(last.fields["content-length"]) > 1000
    assert await reader.read() == b""
    writer.close()
    await until(lambda: pbal.counts["clients"] == 0, "the end of the connection")
    assert pbal.counts["console_http_requests"] == len(paths) + 1
    reader, writer = await pbal.connect("mgmt")
    writer.write(b"".join(ask % path for path in paths))
    writer.write_eof()
    assert [(await read_response(reader)).status for _ in paths] == [404 if path == b"/nowhere" else 200 for path in paths]
    assert await reader.read() == b""


@lab
async def test_who_reads_no_answers_is_given_few_and_all_of_them_later(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    number = 30000
    reader, writer = await pbal.connect("mgmt")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * number)
    await until(lambda: [each for each in pbal.world.clients if each.state == "full"], "answers that wait to be read")
    (client,) = pbal.world.clients
    begun = pbal.counts["console_http_requests"]
    assert begun < number and client.transport.get_write_buffer_size() < 1 << 20 and client.deadline < inf
    for _ in range(number):
        assert await reader.readuntil(b"\r\n\r\nok\n")
    assert pbal.counts["console_http_requests"] == number
    writer.close()


@lab
async def test_a_request_in_pieces_and_one_that_is_none(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    reader, writer = await pbal.connect("mgmt")
    for octet in b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n":
        writer.write(bytes([octet]))
        await asyncio.sleep(0)
    assert (await read_response(reader)).body == b"ok\n"
    (client,) = pbal.world.clients
    assert isinstance(client, HttpConnection) and client.state == "waiting"
    assert "ClientManage" in client.describe().text and "reqs=1; waiting" in client.describe().text
    writer.write(b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n")
    assert (await read_response(reader)).status == 400
    assert await reader.read() == b""
    reader, writer = await pbal.connect("mgmt")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
    await until(
        lambda: [each for each in pbal.world.clients if isinstance(each, HttpConnection) and each.state == "reading"], "part of a head"
    )
    (each,) = [each for each in pbal.world.clients if isinstance(each, HttpConnection) and each.state == "reading"]
    due, octets = each.deadline, each._reader.buffered
    writer.write(b"more and more")
    await until(lambda: each._reader.buffered > octets, "more of it")
    assert each.deadline == due, "a head that drips has no more time"
    each.deadline = 0.0
    pbal.server.ticks.now()
    assert await reader.read() == b""


@lab
async def test_a_line_that_looks_like_http_later_is_a_statement(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    reader, writer = await pbal.connect("mgmt")
    writer.write(b"show service\nGET / HTTP/1.1\n")
    assert (await reader.readline()).startswith(b"chat ")
    await reader.readuntil(b".\r\n")
    assert (await reader.readline()).startswith(b"ERROR: ")


# -- numbers for people --------------------------------------------------------------------------------------------


def test_history_keeps_ten_minutes_of_five_seconds() -> None:
    world = World(ManualClock(1000.0))
    counts = world.counters.counts
    history = History(world)
    for second in range(1, 1000):
        counts["requests"] += 7
        counts["loop_lag_ms"] = 40 if second % 5 == 2 else 1
        counts["poll_parked"] = second
        history.tick(1000.0 + second)
    assert len(history.samples) == SAMPLES
    assert history.samples[-1] == (7.0, 995, 40, 0.0)


def test_values_in_words() -> None:
    assert [number(value) for value in (0, 1234567, 0.1234, 3.0, 1234.5)] == ["0", "1,234,567", "0.123", "3", "1,234"]
    drawn = chart("Lag", "ms", [1, 2], 3, [0, 4.5], "of <stores>")
    assert drawn.count("<polyline") == 2 and "of &lt;stores&gt; <strong>4.5</strong>" in drawn and "at most 4.5 ms" in drawn
    assert chart("Lag", "ms", [0, 0], 3, [0, 0], "none").count("<polyline") == 1 and "<polyline" not in chart("Lag", "ms", [], 3)
    made = table(("a", "b", "gone"), [{"a": "<i>", "b": 61, "c": 2}, {"a": ["x", "y"], "b": None}], {"b": Unit.SECONDS}, 0.0)
    assert re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t", made) == ["a", "b", "&lt;i&gt;", "1m 1s", "x, y", "-"]
