"""The access log: what its lines say, in each form, of requests that end well and otherwise; and what holds it up."""

import asyncio
import json
import os
import re
import signal
import socket
import threading
import time
from functools import partial
from typing import Any

import pytest
from lab import DEADLINE, Lab, Pbal, free_port, lab, read_response, until
from process import Running
from scripted import OK, Client, Scripted, Taken, get, proxy

from pbal.observe.writer import ToFile, Writer

FILE = "SET access_log = access.log"
TEXT = 'SET access_log_format = "%s"'
CHAT = """
    LOAD poll
    CREATE SERVICE chat
      SET role             = web_server
      SET listen           = 127.0.0.1:0
      SET access_log       = access.log
      SET plugins          = poll
      SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
    ENABLE chat
"""


async def ok(taken: Taken) -> None:
    """A node that answers each request."""
    while True:
        await taken.request()
        taken.say(OK)


def lines(pbal: Pbal, name: str = "access.log") -> list[str]:
    """What the file holds now. It is ASCII, whatever came."""
    try:
        return (pbal.folder / name).read_bytes().decode("ascii").split("\n")[:-1]
    except FileNotFoundError:  # not written yet, or being rotated, in a thread
        return []


async def logged(pbal: Pbal, count: int, name: str = "access.log") -> list[str]:
    """The lines, when there are so many."""
    found: list[str] = await until(lambda: found if len(found := lines(pbal, name)) >= count else None, f"{count} lines in {name}")
    assert len(found) == count, found
    return found


async def told(pbal: Pbal, count: int = 1, name: str = "access.log") -> list[dict[str, Any]]:
    """The lines of a log in JSON, read strictly: no NaN, no member twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    return [json.loads(line, object_pairs_hook=unique) for line in await logged(pbal, count, name)]


@lab
async def test_a_proxied_request_is_one_line_of_json(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(proxy(node.address, more=FILE))
    await pbal.ask("web", get("/a?b=c", "User-Agent: me", "Referer: http://there/"))
    (line,) = await told(pbal)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ", line["time"])
    assert (line["service"], line["kind"], line["client"], line["user"]) == ("web", "request", "127.0.0.1", "")
    assert (line["method"], line["target"], line["protocol"], line["host"]) == ("GET", "/a?b=c", "HTTP/1.1", "h")
    assert (line["status"], line["octets_in"], line["octets_out"]) == (200, 0, 2)
    assert (line["referer"], line["agent"], line["tls"]) == ("http://there/", "me", "")
    assert (line["node"], line["attempts"], line["end"], line["phase"]) == (node.address, 1, "done", "answer")
    assert line["head"] == line["body"] == 0
    assert 0 < line["first"] <= line["whole"] and 0 <= line["wait"] <= line["whole"]


@lab
async def test_the_common_and_combined_forms_are_those_of_nginx(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(proxy(node.address, more=f"{FILE};SET access_log_format = Common"))
    await pbal.ask("web", get("/a%20b?c", "User-Agent: me"))
    (line,) = await logged(pbal, 1)
    stamp = r"\[\d\d/(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)/20\d\d:\d\d:\d\d:\d\d [+-]\d{4}\]"
    assert re.fullmatch(rf'127\.0\.0\.1 - - {stamp} "GET /a%20b\?c HTTP/1\.1" 200 2', line)
    assert await pbal.say("SET web.access_log_format = combined") == "OK"
    await pbal.ask("web", get("/", 'User-Agent: "me" \\ \xe9'))
    assert re.fullmatch(
        rf'127\.0\.0\.1 - - {stamp} "GET / HTTP/1\.1" 200 2 "-" "\\x22me\\x22 \\x5C \\xC3\\xA9"', (await logged(pbal, 2))[1]
    )


@lab
async def test_a_form_of_ones_own(lab):
    node = await Scripted.start(lab, ok)
    form = "$$status 100%% $${method}x $$http_x_own $$note_queue $$first $$ $$msec"
    pbal = await lab.pbal(proxy(node.address, "127.0.0.1:1", more=f"{FILE};{TEXT % form}", pool="SET balance_method = round_robin"))
    await pbal.ask("web", get("/", "X-Own: a\tb"))
    (line,) = await logged(pbal, 1)
    assert re.fullmatch(r"200 100%% GETx a\\x09b - 0\.\d{6} \$\$ \d+\.\d{3}", line)
    assert await pbal.say("SET web.access_log_format = $$path") == "OK"
    await pbal.ask("web", get("/only?that"))
    assert (await logged(pbal, 2))[1] == "/only"


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("access_log_format = $$clint", "expected a field such as $$client, $$status, $$http_cookie or $$note_queue, found '$$clint'"),
        ("access_log_format = jason", "expected common, combined, json, or a text with fields such as '$$client $$status', found 'jason'"),
        ("access_log = nowhere/access.log", "/nowhere does not exist)"),
        ("access_log = /", "(it is a folder)"),
        ("access_log = fifo", "(it is no file (for standard output, say stdout))"),
        ("access_log_sample = 0", "expected 1 or more"),
    ],
)
@lab
async def test_what_cannot_be_logged_to_is_refused_and_changes_nothing(lab, setting, complaint):
    node = await Scripted.start(lab, ok)
    os.mkfifo(lab.folder / "fifo")
    pbal = await lab.pbal(proxy(node.address, more=FILE))
    before = await pbal.say("dumpconfig")
    assert complaint in await pbal.say(f"SET web.{setting}")
    assert await pbal.say("dumpconfig") == before
    await pbal.ask("web", get())
    assert len(await told(pbal)) == 1


@lab
async def test_what_the_system_refuses_only_when_it_is_opened_changes_nothing_either(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(proxy(node.address, more=FILE))
    (lab.folder / "loop").symlink_to(lab.folder / "loop")
    assert "Too many levels of symbolic links" in await pbal.say("SET web.access_log = loop")
    await pbal.ask("web", get())
    assert len(await told(pbal)) == 1


HOSTILE = b'/\\"\xc3\xa9\xff\xed\xa0\x80%0a?<\xe2\x80\xa8>'


@pytest.mark.parametrize("form", ["json", "combined", '"$$request $$target $$agent $$referer $$host $$http_cookie"'])
@lab
async def test_strangers_cannot_forge_a_line(lab, form):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(proxy(node.address, more=f"{FILE};SET access_log_format = {form}"))
    junk = b'a\x85\xe2\x80\xa8\xc2\x85","status":500,"x":"\xff\\'
    fields = b"Host: h\r\nUser-Agent: %b\r\nReferer: %b\r\nCookie: %b\r\n\r\n" % (junk, junk, junk)
    for target, status in ((b"/", 200), (HOSTILE, 400)):
        assert (await pbal.ask("web", b"GET %b HTTP/1.1\r\n%b" % (target, fields))).status == status
    for line in await logged(pbal, 2):
        assert line.isascii() and line.isprintable()
        assert form == "json" or line.count('"') == (6 if form == "combined" else 0)
    if form == "json":
        answered, refused = await told(pbal, 2)
        assert answered["agent"] == answered["referer"] == 'a\\x85\u2028\x85","status":500,"x":"\\xff\\'
        assert answered["status"] == 200
        assert refused["target"] == '/\\"é\\xff\\xed\\xa0\\x80%0a?<\u2028>'


@pytest.mark.parametrize(
    "octets",
    [b"GARBAGE\r\n\r\n", b'G"T\x00 / HTTP/1.1\r\n\r\n', b"GET /x HTTP/1.1\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: h\r\na b: c\r\n\r\n"],
)
@lab
async def test_what_is_no_request_is_logged_too(lab, octets):
    pbal = await lab.pbal(proxy(more=FILE))
    response = await pbal.ask("web", octets)
    (line,) = await told(pbal)
    assert (line["status"], line["end"], line["phase"], line["node"]) == (400, "bad_request", "head", "")
    method, _, rest = octets.split(b"\r")[0].decode().partition(" ")
    assert (line["method"], line["target"]) == (method, rest.split(" ")[0])
    assert line["octets_out"] == len(response.body)
    assert line["id"] == response.fields["x-request-id"]
    assert f"Request id: {line['id']}\n" in response.body.decode()


@lab
async def test_who_ended_it_and_when(lab):
    node = await Scripted.start(lab)
    refusing = free_port()
    pbal = await lab.pbal(
        proxy(node.address, more=f"{FILE};SET response_timeout = 300ms;SET idle_timeout = 300ms;SET buffer_backend_connect = 0")
        + f"\nCREATE POOL none\nPOOL none ADD 127.0.0.1:{refusing}\nCREATE SERVICE down\nSET role = reverse_proxy\n"
        f"SET listen = 127.0.0.1:0\nSET pool = none\n{FILE}\nENABLE down\n"
    )
    seen = 0

    async def ending() -> dict[str, Any]:
        nonlocal seen
        seen += 1
        return (await told(pbal, seen))[-1]

    await pbal.ask("down", get("/refused"))
    line = await ending()
    assert (line["status"], line["end"], line["phase"], line["node"], line["attempts"]) == (
        502, "node_broke", "wait", f"127.0.0.1:{refusing}", 0,
    )  # fmt: skip
    assert line["first"] is None
    await pbal.say("POOL none REMOVE " + f"127.0.0.1:{refusing}")
    client = await Client.of(pbal, request=get("/left"))
    await (await node.connection(0)).request()
    client.reset()
    line = await ending()
    assert (line["target"], line["status"], line["end"], line["phase"], line["attempts"]) == ("/left", 0, "client_left", "node", 1)
    client = await Client.of(pbal, request=get("/cut"))
    taken = await node.connection(1)
    await taken.request()
    taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
    await client.reader.readuntil(b"12345")
    taken.writer.close()
    line = await ending()
    assert (line["target"], line["status"], line["octets_out"]) == ("/cut", 200, 5)
    assert (line["end"], line["phase"]) == ("node_broke", "answer")
    client = await Client.of(pbal, request=get("/silent"))
    await (await node.connection(2)).request()
    assert (await read_response(client.reader)).status == 504
    line = await ending()
    assert (line["target"], line["status"], line["end"], line["phase"]) == ("/silent", 504, "node_timeout", "node")
    client = await Client.of(pbal, request=b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n123")
    assert (await read_response(client.reader)).status == 408
    line = await ending()
    assert (line["target"], line["status"], line["octets_in"]) == ("/slow", 408, 3)
    assert (line["end"], line["phase"]) == ("client_timeout", "node")
    await pbal.ask("web", b"POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999\r\n\r\n")
    line = await ending()
    assert (line["target"], line["status"], line["end"], line["phase"]) == ("/large", 413, "bad_request", "body")


@lab
async def test_a_head_and_a_body_in_pieces_have_their_times(lab):
    async def node(taken: Taken) -> None:
        await taken.request()
        assert await taken.reader.readexactly(4) == b"body"
        taken.say(OK)

    origin = await Scripted.start(lab, node)
    pbal = await lab.pbal(proxy(origin.address, more=f"{FILE};SET buffer_backend_connect = 0"))
    client = await Client.of(pbal, request=b"POST / HTTP/1.1\r\nHo")
    await until(lambda: any(each.state == "reading_headers" for each in pbal.world.clients), "part of a head")
    client.writer.write(b"st: h\r\nContent-Length: 4\r\n\r\nbo")
    await origin.connection()
    client.writer.write(b"dy")
    assert (await read_response(client.reader)).status == 200
    (line,) = await told(pbal)
    assert line["octets_in"] == 4
    assert line["head"] > 0 and 0 < line["body"] <= line["whole"]


@lab
async def test_a_retry_is_one_line_with_its_attempts(lab):
    async def breaking(taken: Taken) -> None:
        await taken.request()
        taken.writer.close()

    broken, good = await Scripted.start(lab, breaking), await Scripted.start(lab, ok)
    pool = "SET balance_method = round_robin"
    pbal = await lab.pbal(proxy(broken.address, good.address, pool=pool, more=FILE))
    for _ in range(2):
        assert (await pbal.ask("web", get())).status == 200
    found = await told(pbal, 2)
    assert sorted(line["attempts"] for line in found) == [1, 2]
    assert {line["node"] for line in found} == {good.address}
    assert {line["end"] for line in found} == {"done"}


@lab
async def test_a_tunnel_is_logged_when_it_ends(lab):
    async def node(taken: Taken) -> None:
        await taken.request()
        taken.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhi")
        assert await taken.reader.readexactly(5) == b"hello"
        taken.say(b"bye")
        taken.writer.close()

    origin = await Scripted.start(lab, node)
    pbal = await lab.pbal(proxy(origin.address, more=FILE))
    client = await Client.of(pbal, request=get("/", "Connection: Upgrade", "Upgrade: x"))
    await client.reader.readuntil(b"hi")
    assert lines(pbal) == []
    client.writer.write(b"hello")
    await client.reader.readuntil(b"bye")
    client.writer.close()
    (line,) = await told(pbal)
    assert (line["kind"], line["status"], line["octets_in"], line["octets_out"]) == ("tunnel", 101, 5, 5)


# -- who is believed, ids and traces -------------------------------------------------------------------------------------


async def _heard(lab: Lab, more: str, *fields: str) -> tuple[bytes, dict[str, Any]]:
    """What the node was sent, and the line."""
    heads: list[bytes] = []

    async def node(taken: Taken) -> None:
        heads.append(await taken.request())
        taken.say(OK)

    origin = await Scripted.start(lab, node)
    pbal = await lab.pbal(proxy(origin.address, more=f"{FILE};{more}"))
    assert (await pbal.ask("web", get("/", *fields))).status == 200
    (line,) = await told(pbal)
    return heads[0].lower(), line


TRUSTED = "SET trusted_upstream_proxies = 127.0.0.0/8"


@lab
async def test_an_id_is_taken_from_a_trusted_peer(lab):
    head, line = await _heard(lab, TRUSTED, "X-Request-Id: from-front.1", "X-Forwarded-For: 192.0.2.7")
    assert line["id"] == "from-front.1"
    assert line["client"] == "192.0.2.7"
    assert head.count(b"\r\nx-request-id: from-front.1\r\n") == head.count(b"request") == 1


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("SET request_id = on", "X-Request-Id: strange"),
        ("SET request_id = on", "X-Request_Id: strange"),
        (TRUSTED, "X-Request-Id: strange id"),
        (TRUSTED, f"X-Request-Id: strange{'x' * 122}"),
        (TRUSTED, "X-Request-Id:"),
        (TRUSTED + ";HEADER web INSERT X-Other: strange", 'X-Request-Id: a"strange'),
    ],
)
@lab
async def test_any_other_is_replaced(lab, more, field):
    head, line = await _heard(lab, more, field)
    assert re.fullmatch(r"[0-9a-f]{32}", line["id"])
    assert head.count(b"\r\nx-request-id: %b\r\n" % line["id"].encode()) == 1
    assert head.count(b"request-id") + head.count(b"request_id") == 1


@lab
async def test_without_ids_nothing_is_touched(lab):
    head, line = await _heard(lab, "SET request_id = off", "X-Request-Id: strange")
    assert line["id"] == ""
    assert b"\r\nx-request-id: strange\r\n" in head


@lab
async def test_error_pages_show_the_id(lab):
    pbal = await lab.pbal(proxy("127.0.0.1:1", more=FILE))
    response = await pbal.ask("web", get())
    (line,) = await told(pbal)
    assert response.status == line["status"] == 502
    assert response.fields["x-request-id"] == line["id"]
    assert response.body.decode() == f"No node gave a usable answer.\nRequest id: {line['id']}\n"


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@lab
async def test_a_trace_is_passed_on(lab):
    came = f"00-{TRACE}-00f067aa0ba902b7-00"
    head, line = await _heard(lab, "SET traceparent = begin", f"traceparent: {came}", "tracestate: a=b")
    assert line["trace"] == TRACE
    assert head.count(b"traceparent: %b\r\n" % came.encode()) == head.count(b"traceparent") == 1
    assert b"\r\ntracestate: a=b\r\n" in head


@pytest.mark.parametrize(
    "wrong", [f"00-{TRACE}-0000000000000000-01", f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", "rubbish"]
)
@lab
async def test_a_trace_begins_where_none_came(lab, wrong):
    head, line = await _heard(lab, "SET traceparent = begin", f"traceparent: {wrong}", "tracestate: a=b")
    match = re.search(rb"\r\ntraceparent: 00-([0-9a-f]{32})-[0-9a-f]{16}-01\r\n", head)
    assert match is not None and head.count(b"traceparent") == 1
    assert match[1].decode() == line["trace"]
    assert b"tracestate" not in head


@lab
async def test_traces_pass_untouched_by_default(lab):
    head, line = await _heard(lab, "", "traceparent: rubbish")
    assert b"\r\ntraceparent: rubbish\r\n" in head
    assert line["trace"] == ""


# -- which lines, and where ----------------------------------------------------------------------------------------------


@lab
async def test_off_is_off(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(proxy(node.address, more="SET access_log = off"))
    assert "x-request-id" not in (await pbal.ask("web", get())).fields
    assert await pbal.say("SET web.access_log = access.log") == "OK"
    await pbal.ask("web", get("/second"))
    await logged(pbal, 1)
    assert await pbal.say("SET web.access_log = off") == "OK"
    await pbal.ask("web", get("/third"))
    assert await pbal.say("SET web.access_log = access.log") == "OK"
    await pbal.ask("web", get("/fourth"))
    assert [line["target"] for line in await told(pbal, 2)] == ["/second", "/fourth"]


@lab
async def test_a_query_can_be_left_out(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(proxy(node.address, more=f"{FILE};SET access_log_query = off"))
    await pbal.ask("web", get("/a?token=secret"))
    (line,) = await logged(pbal, 1)
    assert '"target":"/a"' in line and "secret" not in line
    assert await pbal.say('SET web.access_log_format = "$$request $$referer $$http_referer"') == "OK"
    await pbal.ask("web", get("/b.css?token=secret", "Referer: http://h/a?token=secret"))
    assert (await logged(pbal, 2))[1] == "GET /b.css HTTP/1.1 http://h/a http://h/a", "the page before has a query, too"
    for head in (b"GET  /c?token=secret HTTP/1.1", b"GET/c?token=secret", b"GET /c?token= secret HTTP/1.1", b"GET /c\nCookie: secret\n\n"):
        assert (await pbal.ask("web", head + b"\r\n\r\n")).status == 400
    lines = await logged(pbal, 6)
    assert lines[2:] == ["GET - /c HTTP/1.1 - -", "GET/c - - - -", "GET /c HTTP/1.1 - -", "GET /c - - -"]
    errors = await pbal.say("show errors AS JSON")
    assert errors.count('"status": 400') == 4 and "secret" not in errors


@lab
async def test_a_sample_leaves_out_no_request_that_ended_badly(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(proxy(node.address, more=f"{FILE};SET access_log_sample = 4"))
    client = await Client.of(pbal)
    for place in range(8):
        client.writer.write(get(f"/{place}"))
        await read_response(client.reader)
    await pbal.ask("web", b"rubbish\r\n\r\n")
    assert [line["target"] for line in await told(pbal, 3)] == ["/3", "/7", ""]


@lab
async def test_a_selectors_log_has_what_no_other_has(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(
        f"LOAD vhosts\n{proxy(node.address)}\n"
        "CREATE SERVICE quiet\nSET role = web_server\nSET access_log = own.log\n"
        f"CREATE SERVICE front\nSET role = selector\nSET listen = 127.0.0.1:0\nSET plugins = vhosts\n{FILE}\n"
        "VHOST own = quiet\nVHOST * = web\nENABLE front"
    )
    for host in ("own", "other"):
        await pbal.ask("front", f"GET /{host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert [(line["target"], line["service"]) for line in await told(pbal)] == [("/other", "web")]
    assert [(line["target"], line["service"]) for line in await told(pbal, 1, "own.log")] == [("/own", "quiet")]


@lab
async def test_two_services_share_a_file(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(
        proxy(node.address, more=FILE) + f"\nCREATE SERVICE b\nSET role = web_server\nSET listen = 127.0.0.1:0\n{FILE}\nENABLE b"
    )
    await pbal.ask("web", get("/1"))
    await pbal.ask("b", get("/2"))
    assert {line["service"] for line in await told(pbal, 2)} == {"web", "b"}
    assert await pbal.say("SET b.access_log = off") == "OK"
    await pbal.ask("web", get("/3"))
    assert len(await told(pbal, 3)) == 3


@lab
async def test_a_full_disk_is_counted_and_logged_and_over_when_there_is_room(lab, caplog):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(proxy(node.address, more="SET access_log = /dev/full"))
    for _ in range(3):
        assert (await pbal.ask("web", get())).status == 200
    await pbal.until("access_lines_dropped", 3)
    assert "access log /dev/full: " in caplog.text and "lines dropped: No space left on device" in caplog.text
    assert await pbal.say("SET web.access_log = access.log") == "OK"
    await pbal.ask("web", get())
    assert len(await told(pbal)) == 1


@lab
async def test_rotation_by_size_keeps_so_many(lab):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(
        proxy(node.address, more=f"{FILE};{TEXT % '$$target'};SET access_log_rotate_size = 4;SET access_log_rotate_keep = 2")
    )
    for place in range(5):
        await pbal.ask("web", get(f"/line{place}"))
        await until(partial(lambda line: lines(pbal) == [line], f"/line{place}"), "the line")
    assert lines(pbal, "access.log.1") == ["/line3"]
    assert lines(pbal, "access.log.2") == ["/line2"]
    assert sorted(path.name for path in pbal.folder.glob("access.log*")) == ["access.log", "access.log.1", "access.log.2"]


@lab
async def test_rotation_by_age_goes_by_the_file(lab):
    node = await Scripted.start(lab, ok)
    old = lab.folder / "access.log"
    old.write_text("yesterday\n")
    os.utime(old, (time.time() - 86400, time.time() - 86400))
    pbal = await lab.pbal(proxy(node.address, more=f"{FILE};{TEXT % '$$target'};SET access_log_rotate_age = 24h"))
    await pbal.ask("web", get("/today"))
    await until(lambda: lines(pbal) == ["/today"], "the new file")
    assert lines(pbal, "access.log.1") == ["yesterday"]


@lab
async def test_a_file_that_cannot_be_rotated_is_written_to_still(lab, caplog):
    node = await Scripted.start(lab, ok)
    pbal = await lab.pbal(
        proxy(node.address, more=f"{FILE};{TEXT % '$$target'};SET access_log_rotate_size = 1;SET access_log_rotate_keep = 1")
    )
    (lab.folder / "access.log.1").mkdir()
    for place in range(2):
        await pbal.ask("web", get(f"/{place}"))
        await logged(pbal, place + 1)
    assert "access.log could not be rotated: Is a directory" in caplog.text


@lab
async def test_syslog_gets_a_datagram_a_line(lab, monkeypatch):
    node = await Scripted.start(lab, ok)
    path = str(lab.folder / "syslog")
    monkeypatch.setattr("pbal.observe.syslog.SYSLOG_SOCKETS", (path,))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.setblocking(False)
        pbal = await lab.pbal(proxy(node.address, more="SET access_log = syslog"))
        await pbal.ask("web", get("/to-syslog"))
        datagram = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(listening, 65536), DEADLINE)
    match = re.fullmatch(rb"<190>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d pbal\[\d+\]: (\{.*\})", datagram)
    assert match is not None
    assert json.loads(match[1])["target"] == "/to-syslog"


@lab
async def test_syslog_that_went_is_counted_and_found_again(lab, monkeypatch):
    node = await Scripted.start(lab, ok)
    path = str(lab.folder / "syslog")
    monkeypatch.setattr("pbal.observe.syslog.SYSLOG_SOCKETS", (path,))
    monkeypatch.setattr("pbal.observe.writer.RETRY_SECONDS", 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as first:
        first.bind(path)
        pbal = await lab.pbal(proxy(node.address, more="SET access_log = syslog"))
    await pbal.ask("web", get())
    await pbal.until("access_lines_dropped", 1)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(path)
        second.setblocking(False)
        await pbal.ask("web", get("/again"))
        assert b"/again" in await asyncio.wait_for(asyncio.get_running_loop().sock_recv(second, 65536), DEADLINE)
    node2 = await pbal.say("SET web.access_log = off")
    assert node2 == "OK"


@lab
async def test_lines_of_what_ends_with_pbal_are_written(lab):
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address, more=FILE))
    await Client.of(pbal, request=get("/cut-off"))
    await (await node.connection()).request()
    await pbal.close()
    (line,) = await told(pbal)
    assert (line["target"], line["end"], line["phase"]) == ("/cut-off", "shutdown", "node")


# -- what waits for messages ---------------------------------------------------------------------------------------------


@lab
async def test_a_poll_is_logged_when_it_is_answered(lab):
    pbal = await lab.pbal(CHAT)
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/me", "User-Agent: browser"))
    await pbal.until("poll_parked", 1)
    assert lines(pbal) == []
    await pbal.ask("chat", b"POST /publish/me HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
    assert (await read_response(reader)).body == b"hi\n"
    poll, publish = sorted(await told(pbal, 2), key=lambda line: str(line["method"]))
    assert (poll["kind"], poll["target"], poll["agent"], poll["status"], poll["octets_out"]) == ("poll", "/poll/me", "browser", 200, 3)
    assert (poll["end"], poll["phase"], poll["queue"]) == ("done", "answer", "me")
    assert 0 < poll["wait"] <= poll["whole"]
    assert (publish["kind"], publish["status"], publish["octets_in"]) == ("request", 202, 2)


@lab
async def test_a_poll_whose_client_left_or_was_kicked_is_logged(lab):
    pbal = await lab.pbal(CHAT)
    _, writer = await pbal.connect("chat")
    writer.write(get("/poll/left"))
    await pbal.until("poll_parked", 1)
    writer.close()
    (line,) = await told(pbal)
    assert (line["target"], line["status"], line["end"], line["phase"]) == ("/poll/left", 0, "client_left", "parked")
    await pbal.connect("chat")
    _, writer = await pbal.connect("chat")
    writer.write(get("/poll/kicked"))
    await pbal.until("poll_parked", 1)
    assert await pbal.say("poll kick kicked") == "OK"
    line = (await told(pbal, 2))[1]
    assert (line["target"], line["end"], line["phase"]) == ("/poll/kicked", "kicked", "parked")


@lab
async def test_a_poll_that_outlives_its_form_is_logged_in_the_new_one(lab):
    pbal = await lab.pbal(CHAT)
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/me", "Cookie: c"))
    await pbal.until("poll_parked", 1)
    assert await pbal.say('SET chat.access_log_format = "$$target $$http_cookie $$status $$note_queue"') == "OK"
    await pbal.say("poll answer me")
    assert (await read_response(reader)).status == 204
    assert await logged(pbal, 1) == ["/poll/me - 204 me"]


@lab
async def test_a_stream_is_logged_when_it_ends(lab):
    pbal = await lab.pbal(CHAT)
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/me", "Accept: text/event-stream"))
    await reader.readuntil(b"\r\n\r\n")
    await pbal.ask("chat", b"POST /publish/me HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
    await reader.readuntil(b"data: hi\n")
    writer.close()
    line = (await told(pbal, 2))[1]
    assert (line["kind"], line["status"], line["end"], line["phase"]) == ("stream", 200, "client_left", "answer")
    assert line["octets_out"] > len("data: hi\n")


# -- signals -------------------------------------------------------------------------------------------------------------


def test_sigusr1_opens_files_anew_and_the_end_flushes_them(tmp_path):
    port = free_port()
    path = tmp_path / "pbal.conf"
    path.write_text(f"CREATE SERVICE web\nSET role = web_server\nSET listen = 127.0.0.1:{port}\n{FILE}\n{TEXT % '$$target'}\nENABLE web\n")
    file, moved = tmp_path / "access.log", tmp_path / "moved.log"
    with Running(path, port) as running:
        assert b"404" in running.send("/before").recv(4096)
        end = time.monotonic() + 10
        while not file.read_text():
            assert time.monotonic() < end
            time.sleep(0.01)
        file.rename(moved)
        running.send_signal(signal.SIGUSR1)
        running.says("the files of access logs are opened anew")
        while not file.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert b"404" in running.send("/after").recv(4096)
        assert running.end()[0] == 0
    assert moved.read_text() == "/before\n"
    assert file.read_text() == "/after\n"


def test_a_line_that_comes_while_its_file_is_opened_anew_is_written_before_that_is_closed(tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slowly(destination):
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(ToFile, "reopen", slowly)
    writer = Writer()
    target = writer.open(str(tmp_path / "access.log"))
    assert writer.reopen() and begun.wait(10)
    target.write(b"last\n")
    (destination,) = writer._destinations
    destination.closing = True  # which is where close() begins
    go_on.set()
    writer.close()
    assert (tmp_path / "access.log").read_text() == "last\n" and destination.closed


def test_stdout_that_nobody_reads_stops_nothing(tmp_path):
    port = free_port()
    path = tmp_path / "pbal.conf"
    path.write_text(
        f"CREATE SERVICE web\nSET role = web_server\nSET listen = 127.0.0.1:{port}\nSET max_request_line = 1m\nSET max_request_head = 1m\n"
        "SET access_log = stdout\nENABLE web\n"
    )
    reading, writing = os.pipe()
    try:
        with Running(path, port, writing) as running:
            keeping = running.connect()
            request = f"GET /{'x' * 500_000} HTTP/1.1\r\nHost: c\r\n\r\n".encode()
            for _ in range(12):
                keeping.sendall(request)
                assert b"404" in keeping.recv(4096)
            running.send_signal(signal.SIGTERM)
            assert running.process.wait(timeout=10) == 0
    finally:
        os.close(writing)
        os.close(reading)


@lab
async def test_who_leaves_while_a_request_waits_to_be_sent_again_has_not_had_an_answer(lab: Lab) -> None:
    async def fails(taken: Taken) -> None:
        await taken.request()
        taken.say(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")

    node = await Scripted.start(lab, fails)
    again = "SET enable_error_retries = on;SET error_retry_schedule = 60"
    pbal = await lab.pbal(proxy(node.address, more=f"{FILE};SET access_log_format = $$end,$$phase,$$status;{again}"))
    client = await Client.of(pbal, request=get())
    await pbal.until("backend_retries", 1)
    client.reset()
    await pbal.until("clients", 0)
    assert await logged(pbal, 1) == ["client_left,node,0"]


def test_a_pipe_that_somebody_put_in_the_place_of_a_file_holds_up_no_line(tmp_path, caplog):
    """Nobody reads it: to open it would wait for ever, and so would the lines of all other logs."""
    writer = Writer()
    path = tmp_path / "access.log"
    target = writer.open(str(path))
    path.unlink()
    os.mkfifo(path)
    assert writer.reopen() and writer.flush(30)
    assert "could not be opened anew, lines go where they went" in caplog.text
    target.write(b"last\n")
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="it is a pipe"):
        Writer().open(str(path))
    os.close(reading)
    writer.close(30)
    assert target.dropped == 0 and not target.lines


@lab
async def test_what_changes_for_several_services_at_once_is_looked_at_once(lab, monkeypatch):
    """A RELOAD CONFIG of thousands would look through all of them for each."""
    more = "CREATE SERVICE two\nSET role = web_server\nSET docroot = /\nENABLE two"
    pbal = await lab.pbal(proxy("127.0.0.1:1", more=f"{FILE};SET access_log_sample = 1") + "\n" + more)
    calls: list[Writer] = []
    use = Writer.use

    def counted(self, used):
        calls.append(self)
        use(self, used)

    monkeypatch.setattr(Writer, "use", counted)
    with pbal.world.changing():
        for name in ("web", "two"):
            pbal.world.service(name).set("access_log", f"{lab.folder}/{name}.log")
    assert len(calls) == 1
    assert await pbal.say("SET web.access_log = off") == "OK" and len(calls) == 2
    assert await pbal.say("SET web.access_log_sample = 3") == "OK" and len(calls) == 2, "there is none"
