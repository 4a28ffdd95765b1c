"""Reproxying: nodes that leave their answers to pbal, what they may have, and everything that fails on the way."""

import asyncio
import contextlib
import gzip
import os
import random
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from lab import Lab, Pbal, free_port, lab, read_response, until
from scripted import Client, Scripted, Taken, answer, get, proxy

from pbal.roles.files import memory
from pbal.roles.proxy.reproxy.targets import Targets

CONTENT = random.Random(9).randbytes(300_000)
LARGE = 8_000_000


def order(*fields: str, status: str = "200 OK", body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]).encode() + body


Says = Callable[[bytes], bytes] | bytes


async def node(lab: Lab, *said: Says) -> Scripted:
    """A node that answers its requests with these, the last one again and again."""
    left = list(said)

    async def behave(taken: Taken) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await taken.request()
                heads.append(head)
                say = left.pop(0) if len(left) > 1 else left[0]
                taken.say(say if isinstance(say, bytes) else say(head))

    heads: list[bytes] = []
    scripted = await Scripted.start(lab, behave)
    scripted.heads = heads  # type: ignore[attr-defined]
    return scripted


def asked(scripted: Scripted) -> list[bytes]:
    """The heads of the requests that a node of node() got."""
    heads: list[bytes] = scripted.heads  # type: ignore[attr-defined]
    return heads


def files(lab: Lab) -> Path:
    """A folder for reproxy_root with this and that in it, and a secret beside it."""
    root = lab.folder / "files"
    (root / "sub").mkdir(parents=True)
    (lab.folder / "secret").write_text("secret")
    (root / "a.txt").write_bytes(b"0123456789")
    (root / "large").write_bytes(CONTENT)
    (root / "empty").touch()
    (root / ".kept").mkdir()
    (root / ".kept" / ".x").write_text("x")
    (root / "inside").symlink_to(root / "a.txt")
    (root / "outside").symlink_to(lab.folder / "secret")
    (root / "up").symlink_to(lab.folder)
    os.mkfifo(root / "pipe")
    return root


def reproxying(*nodes: str, root: Path | None = None, allow: str = "", more: str = "") -> str:
    said = ["SET enable_reproxy = on"]
    if root is not None:
        said.append(f"SET reproxy_root = {root}")
    if allow:
        said.append(f"SET reproxy_allow = {allow}")
    return proxy(*nodes, more=";".join([*said, *([more] if more else [])]))


async def with_files(lab: Lab, *said: Says, more: str = "") -> tuple[Path, Scripted, Pbal]:
    root = files(lab)
    origin = await node(lab, *said)
    return root, origin, await lab.pbal(reproxying(origin.address, root=root, more=more))


def lines(pbal: Pbal, event: str) -> int:
    """How often a kind of refusal was counted."""
    return pbal.counts[event]


# -- off, and what nodes are told --------------------------------------------------------------------------------------


@lab
async def test_while_it_is_off_the_fields_mean_nothing_and_nodes_are_promised_nothing(lab: Lab) -> None:
    root = files(lab)
    origin = await node(lab, order(f"X-REPROXY-FILE: {root}/a.txt", body=b"own"))
    pbal = await lab.pbal(proxy(origin.address))
    got = await pbal.ask("web", get("/", "X-Proxy-Capabilities: reproxy-file"))
    assert (got.status, got.body, got.fields["x-reproxy-file"]) == (200, b"own", f"{root}/a.txt")
    assert b"capabilities" not in asked(origin)[0].lower(), "what a client says of it is dropped"
    assert await pbal.say("SET web.enable_reproxy = on") == "OK"
    assert await pbal.say(f"SET web.reproxy_root = {root}") == "OK"
    got = await pbal.ask("web", get("/", "X-Proxy-Capabilities: everything"))
    assert (got.status, got.body) == (200, b"0123456789") and not any("reproxy" in name for name in got.fields)
    assert asked(origin)[1].lower().count(b"x-proxy-capabilities") == 1
    assert b"\r\nX-Proxy-Capabilities: reproxy-file\r\n" in asked(origin)[1]
    assert await pbal.say("SET web.enable_reproxy = off") == "OK"
    assert (await pbal.ask("web", get())).body == b"own"


# -- files -------------------------------------------------------------------------------------------------------------


@lab
async def test_a_file_is_the_body_and_all_else_is_the_nodes(lab: Lab) -> None:
    _, _, pbal = await with_files(
        lab,
        lambda head: order(
            f"X-Reproxy-File: {lab.folder}/files/a.txt", "X-REPROXY-EXPECTED-SIZE: 10", "X-REPROXY-CACHE-FOR: 5; X", "Content-Type: x/y",
            'ETag: "v1"', "Set-Cookie: a=b", "Set-Cookie: c=d", "X-Own: 1", "Accept-Ranges: none", "Date: Sun, 06 Nov 1994 08:49:37 GMT",
            status="204 No Content" if b"/no" in head else "206 Part" if b"/part" in head else "203 Half",
        ) if b"/ok" not in head else order(f"X-Reproxy-File: {lab.folder}/files/a.txt", "Content-Type: x/y", 'ETag: "v1"'),
    )  # fmt: skip
    got = await pbal.ask("web", get("/no"))
    assert (got.status, got.body, got.fields["content-type"], got.fields["etag"]) == (200, b"0123456789", "x/y", '"v1"')
    assert got.head.count(b"Set-Cookie: ") == 2 and got.fields["x-own"] == "1" and got.fields["accept-ranges"] == "bytes"
    assert got.fields["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert not any("reproxy" in name for name in got.fields)
    assert (await pbal.ask("web", get("/part"))).head.startswith(b"HTTP/1.1 200 OK\r\n")
    got = await pbal.ask("web", get("/other"))
    assert (got.status, got.body) == (203, b"0123456789") and got.head.startswith(b"HTTP/1.1 203 Half\r\n")
    head = await pbal.ask("web", get("/ok", method="HEAD"))
    assert (head.status, head.fields["content-length"], head.fields["accept-ranges"]) == (200, "10", "bytes")
    posted = await pbal.ask("web", b"POST /ok HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nRange: bytes=0-1\r\n\r\nabc")
    assert (posted.status, posted.body) == (200, b"0123456789")
    assert pbal.counts["reproxy_files"] == 5


@lab
async def test_ranges_and_conditions_are_by_what_the_node_says_of_the_file(lab: Lab) -> None:
    _, _, pbal = await with_files(lab, order(f"X-REPROXY-FILE: {lab.folder}/files/a.txt", 'ETag: W/"v1"',
                                             "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "Set-Cookie: a=b"))  # fmt: skip
    for fields, status, body in (
        (["Range: bytes=2-4"], 206, b"234"), (["Range: bytes=99-"], 416, None), (['If-None-Match: "v1"'], 304, b""),
        (['If-None-Match: W/"v1"'], 304, b""), (['If-None-Match: "v2"'], 200, b"0123456789"), (['If-Match: "v1"'], 412, None),
        (["If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], 304, b""), (["If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT"], 200, None),
        (["Range: bytes=2-4", 'If-Range: W/"v1"'], 200, b"0123456789"),
        (["Range: bytes=2-4", "If-Range: Sun, 06 Nov 1994 08:49:37 GMT"], 206, b"234"),
    ):  # fmt: skip
        got = await pbal.ask("web", get("/", *fields))
        assert got.status == status and (body is None or got.body == body), fields
        assert got.fields["etag"] == 'W/"v1"'
    got = await pbal.ask("web", get("/", "Range: bytes=0-0,2-2"))
    assert got.status == 206 and got.fields["content-type"].startswith("multipart/byteranges")


@lab
async def test_a_node_that_says_nothing_of_a_file_leaves_it_to_pbal(lab: Lab) -> None:
    root, _, pbal = await with_files(lab, order(f"X-REPROXY-FILE: {lab.folder}/files/a.txt"))
    os.utime(root / "a.txt", (784111777, 784111777))
    got = await pbal.ask("web", get())
    assert got.fields["content-type"] == "text/plain; charset=utf-8" and got.fields["last-modified"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert (await pbal.ask("web", get("/", f"If-None-Match: {got.fields['etag']}"))).status == 304


@pytest.mark.parametrize("known", [True, False])
def test_only_files_below_reproxy_root(known: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    if not known:
        monkeypatch.setattr(memory, "_usable", False)
        monkeypatch.setattr(memory, "_RWF_NOWAIT", 0)

    @lab
    async def run(lab: Lab) -> None:
        root, origin, pbal = await with_files(lab, lambda head: order(f"X-REPROXY-FILE: {head.split(b' ')[1].decode()[1:]}"))
        for path, status in (
            (f"{root}/a.txt", 200), (f"{root}/inside", 200), (f"{root}/up/files/a.txt", 200), (f"{root}/sub/../a.txt", 200),
            (f"{root}/empty", 200), (f"{root}//a.txt", 200), (f"{root}/large", 200), (f"{root}/.kept/.x", 200),
            (f"{root}/missing", 404), (f"{root}/sub", 404), (f"{root}/sub/", 404), (f"{root}", 404), (f"{root}/pipe", 404),
            (f"{root}/a.txt/", 404), ("/nowhere/at/all", 404),
            (f"{root}/outside", 502), (f"{root}/up/secret", 502), (f"{lab.folder}/secret", 502), (f"{root}/../secret", 502),
            ("/etc/passwd", 502), ("/dev/zero", 502), ("/proc/self/environ", 502), ("a.txt", 502), ("", 502),
            (f"{root}-other/a.txt", 404), ("~/a.txt", 502),
        ):  # fmt: skip
            got = await pbal.ask("web", get("/" + path))
            assert got.status == status, path
            assert b"secret" not in got.body and (status == 200 or lab.folder.name.encode() not in got.head + got.body)
        assert pbal.counts["reproxy_refused"] == 10
        assert (await pbal.ask("web", get(f"/{root}/large"))).body == CONTENT
        assert "not in a folder of reproxy_root" in await pbal.say("show errors")
        assert f"service web: {origin.address}: X-REPROXY-FILE: {root}/outside is not in a folder" in caplog.text  # and whose order it was
        assert await pbal.say(f"SET web.reproxy_root = {root}/sub {lab.folder}") == "OK"
        assert (await pbal.ask("web", get(f"/{root}/outside"))).body == b"secret"
        assert await pbal.say("UNSET web.reproxy_root") == "OK"
        assert (await pbal.ask("web", get(f"/{root}/a.txt"))).status == 502, "where nothing is named nothing may be had"
        assert len(origin.connections) == 1

    run()


@lab
async def test_a_file_of_another_size_is_not_it(lab: Lab) -> None:
    _, _, pbal = await with_files(
        lab, lambda head: order(f"X-REPROXY-FILE: {lab.folder}/files/a.txt", f"X-REPROXY-EXPECTED-SIZE: {head.split(b' ')[1].decode()[1:]}")
    )
    for size, status in (("10", 200), ("9", 404), ("11", 404), ("0", 404), ("x", 404), ("-10", 404), ("99999999999999999999999", 404)):
        assert (await pbal.ask("web", get(f"/{size}"))).status == status, size


@lab
async def test_the_nodes_connection_serves_others_while_the_file_goes_out(lab: Lab) -> None:
    root = files(lab)
    (root / "huge").write_bytes(b"x" * LARGE)
    origin = await node(lab, order(f"X-REPROXY-FILE: {root}/huge", body=b"not for you"), answer(b"own"))
    pbal = await lab.pbal(reproxying(origin.address, root=root))
    slow = await Client.of(pbal, request=get())
    await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
    assert [each.active for each in pbal.world.pool("app").nodes] == [0]
    assert (await pbal.ask("web", get())).body == b"own"
    assert len(origin.connections) == 1, "on the connection that the first one had"
    got = await read_response(slow.reader)
    assert got.body == b"x" * LARGE


@lab
async def test_a_client_that_leaves_or_a_file_that_shrinks_while_it_is_sent(lab: Lab) -> None:
    root = files(lab)
    (root / "huge").write_bytes(b"x" * LARGE)
    origin = await node(lab, order(f"X-REPROXY-FILE: {root}/huge"))
    pbal = await lab.pbal(reproxying(origin.address, root=root))
    client = await Client.of(pbal, request=get())
    await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
    client.reset()
    await pbal.until("clients", 0)
    assert not is_open(root / "huge")
    client = await Client.of(pbal, request=get() + get())
    await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
    os.truncate(root / "huge", 5)
    body = (await client.rest()).partition(b"\r\n\r\n")[2]
    assert body == b"x" * len(body) and 0 < len(body) < LARGE
    assert not is_open(root / "huge") and pbal.counts["files_cut_off"] == 1


def is_open(path: Path) -> bool:
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}") == os.path.realpath(path):
                return True
    return False


@lab
async def test_plugins_see_the_answer_that_goes_out_and_the_log_has_node_and_file(lab: Lab) -> None:
    (lab.folder / "own.py").write_text(
        "from pbal.api import Plugin, hook\n"
        "class Own(Plugin):\n"
        "    @hook.modify_response_headers\n"
        "    def add(self, exchange, response):\n"
        "        assert not any(name.lower().startswith(b'x-reproxy') for name, _ in response.headers)\n"
        "        response.headers.append((b'X-Own', b'%d' % response.status))\n"
    )
    root = files(lab)
    server = await node(lab, answer(b"far"))
    url = f"http://{server.address}/"
    origin = await node(lab, order(f"X-REPROXY-FILE: {root}/a.txt"), order(f"X-REPROXY-URL: {url}?secret"))
    log = lab.folder / "access.log"
    form = '"$$status $$node $${note_reproxy}"'
    more = f"SET plugins = own;SET access_log_query = off;SET access_log = {log};SET access_log_format = {form}"
    pbal = await lab.pbal(
        f"SERVER plugin_path = {lab.folder}\nLOAD own\n" + reproxying(origin.address, root=root, allow=server.address, more=more)
    )
    got = await pbal.ask("web", get("/", "Range: bytes=1-2"))
    assert (got.status, got.body, got.fields["x-own"]) == (206, b"12", "206")
    got = await pbal.ask("web", get())
    assert (got.body, got.fields["x-own"]) == (b"far", "200")
    await until(lambda: log.exists() and log.read_text().count("\n") == 2, "the log")
    assert log.read_text().splitlines() == [f"206 {origin.address} file {root}/a.txt", f"200 {origin.address} {url}"]


@lab
async def test_the_client_is_bound_to_the_node_that_ordered(lab: Lab) -> None:
    root = files(lab)
    origin = await node(lab, order(f"X-REPROXY-FILE: {root}/a.txt", "Set-Cookie: own=1"))
    pool = "SET sticky = where;SET sticky_key = sixteen-letters-or-more"
    pbal = await lab.pbal(proxy(origin.address, pool=pool, more=f"SET enable_reproxy = on;SET reproxy_root = {root}"))
    got = await pbal.ask("web", get())
    assert got.body == b"0123456789" and got.head.count(b"Set-Cookie: ") == 2 and b"\r\nSet-Cookie: where=" in got.head
    cookie = got.head.partition(b"Set-Cookie: where=")[2].partition(b";")[0].decode()
    assert (await pbal.ask("web", get("/", f"Cookie: where={cookie}"))).head.count(b"Set-Cookie: ") == 1


# -- other services ----------------------------------------------------------------------------------------------------


@lab
async def test_another_service_answers_this_one_request(lab: Lab) -> None:
    other = await node(lab, answer(b"other"))
    origin = await node(lab, order("X-REPROXY-SERVICE: Second"), answer(b"own"), order("X-REPROXY-SERVICE: third"),
                        order("X-REPROXY-SERVICE: none"))  # fmt: skip
    pbal = await lab.pbal(
        f"CREATE POOL two\nPOOL two ADD {other.address}\nCREATE SERVICE second\nSET role = reverse_proxy\nSET pool = two\n"
        "CREATE SERVICE third\nSET role = web_server\n" + reproxying(origin.address) + "\nHEADER web INSERT X-From: web\n"
    )
    client = await Client.of(pbal, request=get("/a?b", "X-Forwarded-For: 9.9.9.9"))
    assert (await read_response(client.reader)).body == b"other"
    head = asked(other)[0]
    assert head.startswith(b"GET /a?b ") and b"X-From: web" in head and b"9.9.9.9" not in head
    client.writer.write(get())
    assert (await read_response(client.reader)).body == b"own", "the connection is not another service's for good"
    client.writer.write(get())
    assert (await read_response(client.reader)).status == 404, "a web_server without a docroot"
    client.writer.write(get())
    assert (await read_response(client.reader)).status == 404, "no such service"
    assert await pbal.say("ENABLE second") == "OK" and await pbal.say("DISABLE second") == "OK"
    assert await pbal.say("UNSET web.enable_reproxy") == "OK"
    assert pbal.counts["reproxy_services"] == 2


@lab
async def test_services_that_hand_on_in_a_circle_a_body_that_is_gone_and_a_disabled_service(lab: Lab) -> None:
    origin = await node(lab, lambda head: order(f"X-REPROXY-SERVICE: {head.split(b' ')[1].decode()[1:]}"))
    pbal = await lab.pbal(
        "CREATE SERVICE off\nSET role = web_server\nENABLE off\nDISABLE off\n"
        "CREATE SERVICE mgmt\nSET role = management\n" + reproxying(origin.address)
    )
    assert (await pbal.ask("web", get("/web"))).status == 508
    assert len(asked(origin)) == 9
    assert (await pbal.ask("web", get("/off"))).status == 503
    assert (await pbal.ask("web", get("/mgmt"))).status == 502
    client = await Client.of(pbal, request=b"POST /off HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" + get("/none"))
    got = [await read_response(client.reader) for _ in range(2)]
    assert [each.status for each in got] == [503, 404], "nobody is asked of a disabled service, and the connection is in step"
    assert await pbal.say("ENABLE off") == "OK"
    post = b"POST /off HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    assert (await pbal.ask("web", post)).status == 405, "a body that was held goes to it, too"
    assert await pbal.say("SET web.buffer_backend_connect = 0") == "OK"
    assert (await pbal.ask("web", post)).status == 502


# -- URLs --------------------------------------------------------------------------------------------------------------


def to(*urls: str, more: tuple[str, ...] = (), status: str = "200 OK") -> bytes:
    return order(f"X-REPROXY-URL: {' '.join(urls)}", *more, status=status)


def closed_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


@lab
async def test_a_url_is_the_body_and_all_else_is_the_nodes(lab: Lab) -> None:
    own = answer(b"far away", "Content-Type: z/z", "Set-Cookie: theirs=1", "X-REPROXY-FILE: /etc/passwd", 'ETag: "t"')
    server = await node(lab, lambda head: own.removesuffix(b"far away") if head.startswith(b"HEAD") else own)
    url = f"http://{server.address}/p/%41?q=1#part"
    origin = await node(lab, to(url, more=("Content-Type: x/y", "X-Own: 1", "X-REPROXY-EXPECTED-SIZE: 8"), status="204 No"))
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address))
    got = await pbal.ask("web", get("/", "Cookie: mine=1", "Authorization: Basic eA=="))
    assert (got.status, got.body, got.fields["content-type"], got.fields["x-own"]) == (200, b"far away", "x/y", "1")
    assert not got.fields.keys() & {"set-cookie", "x-reproxy-file", "x-reproxy-url", "x-reproxy-expected-size", "etag"}
    (head,) = asked(server)
    assert head.startswith(b"GET /p/%41?q=1 HTTP/1.1\r\nHost: " + server.address.encode() + b"\r\n")
    assert b"mine" not in head and b"eA==" not in head
    got = await pbal.ask("web", get("/", method="HEAD"))
    assert (got.status, got.fields["content-length"]) == (200, "8") and asked(server)[1].startswith(b"HEAD ")
    posted = await pbal.ask("web", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
    assert posted.body == b"far away" and asked(server)[2].startswith(b"GET ")
    assert len(server.connections) == 1, "which is kept for the next"
    assert pbal.counts["reproxy_urls"] == 3 and pbal.counts["reproxy_connects"] == 1


@lab
async def test_bodies_of_every_framing(lab: Lab) -> None:
    server = await node(
        lab,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    )

    async def until_close(taken: Taken) -> None:
        await taken.request()
        taken.say(b"HTTP/1.0 200 OK\r\n\r\nabcde")
        taken.writer.close()

    closing = await Scripted.start(lab, until_close)
    urls = [f"http://{server.address}/"] * 4 + [f"http://{closing.address}/"]
    origin = await node(lab, *map(to, urls), to(urls[-1]))
    pbal = await lab.pbal(reproxying(origin.address, allow="127.0.0.0/8:*"))
    client = await Client.of(pbal, request=get() * 5)
    got = [await read_response(client.reader) for _ in range(5)]
    assert [(each.status, each.body) for each in got] == [(200, body) for body in (b"abcde", b"abcde", b"", b"", b"abcde")]
    old = await Client.of(pbal, request=get(version="1.0"))
    assert (await old.rest()).endswith(b"\r\n\r\nabcde")


@lab
async def test_a_body_that_a_server_keeps_coded_says_so_and_is_not_coded_twice(lab: Lab) -> None:
    coded = gzip.compress(b"a" * 5000)
    server = await node(lab, answer(coded, "Content-Encoding: gzip"))
    said = [("Content-Type: text/plain",), ("Content-Type: text/plain", "Content-Encoding: x-own")]
    origin = await node(lab, *(to(f"http://{server.address}/", more=more) for more in said))
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address, more="SET compress = gzip"))
    for coding in ("gzip", "x-own"):
        got = await pbal.ask("web", get("/", "Accept-Encoding: gzip"))
        assert (got.fields["content-encoding"], got.body) == (coding, coded)


@lab
async def test_ranges_go_to_the_server_and_its_206_and_416_come_back(lab: Lab) -> None:
    def serve(head: bytes) -> bytes:
        if b"bytes=1-2" in head:
            return order("Content-Range: bytes 1-2/5", "Content-Type: z/z", "Accept-Ranges: bytes", status="206 Partial", body=b"bc")
        if b"bytes=0-0,2-2" in head:
            return order("Content-Type: multipart/byteranges; boundary=b", status="206 Partial", body=b"parts")
        if b"bytes=9-" in head:
            return order("Content-Range: bytes */5", status="416 No", body=b"theirs")
        return answer(b"abcde")

    server = await node(lab, serve)
    url = f"http://{server.address}/"
    origin = await node(
        lab, lambda head: to(url, more=("Content-Type: x/y", 'ETag: "v1"'), status="404 Gone" if b"/404" in head else "200 OK")
    )
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address))
    for path, fields, status, body, kind in (
        ("/", ["Range: bytes=1-2"], 206, b"bc", "x/y"), ("/", ["Range: bytes=0-0,2-2"], 206, b"parts", "multipart/byteranges; boundary=b"),
        ("/", ["Range: bytes=1-2", 'If-Range: "v1"'], 206, b"bc", "x/y"),
        ("/", ["Range: bytes=1-2", 'If-Range: "v2"'], 200, b"abcde", "x/y"),
        ("/404", ["Range: bytes=1-2"], 404, b"abcde", "x/y"), ("/", ['If-None-Match: "v1"'], 304, b"", None),
        ("/", ['If-Match: "v2"'], 412, None, None),
    ):  # fmt: skip
        got = await pbal.ask("web", get(path, *fields))
        assert got.status == status and (body is None or got.body == body) and (kind is None or got.fields["content-type"] == kind), fields
        assert got.fields.get("content-range") == ("bytes 1-2/5" if body == b"bc" else None)
    got = await pbal.ask("web", get("/", "Range: bytes=9-"))
    assert (got.status, got.fields["content-range"]) == (416, "bytes */5") and b"theirs" not in got.body


@lab
async def test_the_first_url_that_works(lab: Lab) -> None:
    good = await node(lab, answer(b"good"))
    bad = await node(lab, order(status="404 No", body=b"no"))
    moved = await node(lab, order(f"Location: http://{good.address}/", status="302 Found"))
    short = await node(lab, answer(b"12345"))
    partial = await node(lab, order("Content-Range: bytes 0-3/9", status="206 Partial", body=b"good"))

    async def leaves(taken: Taken) -> None:
        await taken.request()
        taken.writer.close()

    async def garbles(taken: Taken) -> None:
        await taken.request()
        taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ngood")

    gone, odd = await Scripted.start(lab, leaves), await Scripted.start(lab, garbles)
    dead = closed_port()
    wrong = [f"http://{each}/" for each in (bad.address, moved.address, short.address, partial.address, gone.address, odd.address, dead)]
    wrong += ["ftp://h/", "http://", "nonsense", "http://user@h/", "http://h:99999/", "http://127.1/", "http://elsewhere.example:81/"]
    expected = ("X-REPROXY-EXPECTED-SIZE: 4",)
    origin = await node(lab, to(*wrong, f"http://{good.address}/", more=expected), to(*wrong, more=expected))
    pbal = await lab.pbal(reproxying(origin.address, allow="127.0.0.0/8:*"))
    got = await pbal.ask("web", get())
    assert (got.status, got.body) == (200, b"good")
    assert all(len(each.connections) == 1 for each in (bad, moved, short, partial, gone, odd))
    got = await pbal.ask("web", get())
    assert (got.status, got.fields["retry-after"]) == (503, "1")
    assert b"127.0.0.1" not in got.head + got.body
    assert all(each.state != "wait_res" for each in pbal.world.backends)


@lab
async def test_what_no_url_leads_to(lab: Lab) -> None:
    origin = await node(
        lab, to(""), to("http://not.allowed.example:81/"), to("http://127.0.0.1:1/"), to("ftp://x"), order("X-REPROXY-URL:")
    )
    pbal = await lab.pbal(reproxying(origin.address, allow="10.0.0.1:80"))
    got = [(await pbal.ask("web", get())).status for _ in range(5)]
    assert got == [503, 502, 502, 502, 503]


@lab
async def test_only_where_reproxy_allow_says(lab: Lab) -> None:
    server = await node(lab, answer(b"inside"))
    port = server.address.rpartition(":")[2]
    origin = await node(lab, lambda head: to(head.split(b" ")[1].decode()[1:]))
    pbal = await lab.pbal(reproxying(origin.address, allow="10.0.0.1:80"))
    for allow, host, status in (
        (f"127.0.0.1:{port}", "127.0.0.1", 200), ("127.0.0.1:80", "127.0.0.1", 502), ("127.0.0.1:*", "127.0.0.1", 200),
        (f"127.0.0.0/8:{port}", "127.0.0.1", 200), (f"10.0.0.0/8:{port}", "127.0.0.1", 502),
        (f"localhost:{port}", "localhost", 502), (f"localhost:{port} 127.0.0.1:{port} [::1]:{port}", "localhost", 200),
        (f"127.0.0.1:{port}", "localhost", 200), (f"*:{port}", "localhost", 502), (f"*:{port}", "127.0.0.1", 502),
        (f"127.0.0.1:{port}", "[::ffff:127.0.0.1]", 200), (f"*:{port}", "[::ffff:127.0.0.1]", 502), (f"*:{port}", "2130706433", 502),
        (f"*:{port}", "0x7f.1", 502), (f"*:{port}", "0.0.0.0", 502), (f"0.0.0.0/0:{port}", "169.254.169.254", None),
        (f"*:{port}", "169.254.169.254", 502),
    ):  # fmt: skip
        assert not (await pbal.say(f"SET web.reproxy_allow = {allow}")).startswith("ERROR")
        if status is not None:
            got = await pbal.ask("web", get(f"/http://{host}:{port}/"))
            assert got.status == status, (allow, host)
    assert "leads where reproxy_allow does not" in await pbal.say("show errors")


@pytest.mark.parametrize("trusted", [True, False])
def test_https_is_checked_against_the_authorities_of_the_system(trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pair = authority.certify("localhost")
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))

        async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                assert head.startswith(b"GET /x HTTP/1.1\r\nHost: localhost:")
                writer.write(answer(b"far"))

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.file, pair.key_file)
        server = await asyncio.start_server(far, "127.0.0.1", 0, ssl=context)
        lab.keep(server)
        port = server.sockets[0].getsockname()[1]
        origin = await node(lab, to(f"https://localhost:{port}/x"))
        pbal = await lab.pbal(reproxying(origin.address, allow=f"127.0.0.1:{port}"))
        got = [await pbal.ask("web", get()) for _ in range(2)]
        assert [each.status for each in got] == ([200] * 2 if trusted else [503] * 2)
        assert pbal.counts["reproxy_connects"] == int(trusted)
        assert trusted or "certificate" in await pbal.say("show errors")

    run()


@lab
async def test_a_connection_that_one_service_may_have_is_not_another_ones(lab: Lab) -> None:
    server = await node(lab, answer(b"inside"))
    port = server.address.rpartition(":")[2]
    origin = await node(lab, to(f"http://localhost:{port}/"))
    pbal = await lab.pbal(
        reproxying(origin.address, allow=f"127.0.0.1:{port}")
        + "\nCREATE SERVICE two\nSET role = reverse_proxy\nSET listen = 127.0.0.1:0\nSET pool = app\nSET enable_reproxy = on\n"
        + f"SET reproxy_allow = localhost:{port}\nENABLE two\n"
    )
    assert (await pbal.ask("web", get())).body == b"inside"
    assert f"bored localhost:{port} 1" in await pbal.say("reproxy_state")
    assert (await pbal.ask("two", get())).status == 502
    assert (await pbal.ask("web", get())).body == b"inside" and len(server.connections) == 1


@lab
async def test_a_server_that_closes_in_the_middle_is_seen_to_have_cut_off(lab: Lab) -> None:
    async def stops(taken: Taken) -> None:
        await taken.request()
        taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        taken.writer.close()

    server = await Scripted.start(lab, stops)
    origin = await node(lab, to(f"http://{server.address}/"))
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address))
    client = await Client.of(pbal, request=get() + get())
    assert (await client.rest()).endswith(b"Content-Length: 100\r\n" + b"") is False
    assert pbal.counts["truncated_responses"] == 1 and len(asked(origin)) == 1
    assert "cut off" in await pbal.say("show errors")


@lab
async def test_a_silent_server_costs_response_timeout_and_then_the_next_url_is_asked(lab: Lab) -> None:
    silent = await Scripted.start(lab)
    good = await node(lab, answer(b"good"))
    origin = await node(lab, to(f"http://{silent.address}/", f"http://{good.address}/"))
    more = "SET response_timeout = 100ms;SET idle_timeout = 100ms"
    pbal = await lab.pbal(reproxying(origin.address, allow="127.0.0.1:*", more=more))
    assert (await pbal.ask("web", get())).body == b"good"
    assert pbal.counts["reproxy_failures"] == 1 and len(silent.connections) == 1


@lab
async def test_clients_that_leave_at_every_step(lab: Lab) -> None:
    silent = await Scripted.start(lab)
    origin = await node(lab, to(f"http://{silent.address}/"))
    pbal = await lab.pbal(reproxying(origin.address, allow=silent.address, more="SET response_timeout = 0"))
    client = await Client.of(pbal, request=get())
    asked_first = await silent.connection()
    await asked_first.request()
    client.reset()
    await asked_first.gone()
    assert await pbal.say("SERVER max_reproxy_connections = 1") == "OK"
    first, second = await Client.of(pbal, request=get()), None
    taken = await silent.connection(1)
    await taken.request()
    second = await Client.of(pbal, request=get())
    await until_state(pbal, f"clients_queued {silent.address} 1")
    second.reset()
    await until_state(pbal, f"clients_queued {silent.address} 1", there=False)
    taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + bytes(LARGE))
    await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
    first.reset()
    await taken.gone()
    await pbal.until("clients", 0)
    assert len(silent.connections) == 2


async def until_state(pbal: Pbal, line: str, there: bool = True) -> None:
    """Wait for a line of reproxy_state, or until it is there no more."""
    end = asyncio.get_running_loop().time() + 10
    while (line in await pbal.say("reproxy_state")) is not there:
        assert asyncio.get_running_loop().time() < end, await pbal.say("reproxy_state")
        await asyncio.sleep(0.003)


@lab
async def test_a_service_that_goes_as_it_begins_to_look_up_a_name_leaves_the_name_to_others(lab: Lab) -> None:
    server = await node(lab, answer(b"far"))
    origin = await node(lab, to(f"http://localhost:{server.address.partition(':')[2]}/"))
    pbal = await lab.pbal(reproxying(origin.address, allow="127.0.0.0/8:*"))
    loop = asyncio.get_running_loop()

    def go() -> None:
        for target in Targets.of(pbal.world).all():
            target.leave("web")

    def before_it_begins(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        loop.call_soon(go)
        return asyncio.Task(coroutine, loop=loop, **more)

    loop.set_task_factory(before_it_begins)
    assert (await pbal.ask("web", get())).status == 503
    loop.set_task_factory(None)
    assert (await pbal.ask("web", get())).body == b"far"


@lab
async def test_services_whose_nodes_lead_to_each_other_are_found_out(lab: Lab) -> None:
    ports = {"web": free_port(), "other": free_port()}
    nodes = {}
    for name, there in (("web", "other"), ("other", "web")):
        nodes[name] = await node(lab, to(f"http://127.0.0.1:{ports[there]}/"))
    one = reproxying(nodes["web"].address, allow="127.0.0.1:*").replace("127.0.0.1:0", f"127.0.0.1:{ports['web']}")
    two = reproxying(nodes["other"].address, allow="127.0.0.1:*").replace("127.0.0.1:0", f"127.0.0.1:{ports['other']}")
    pbal = await lab.pbal(one + "\n" + re.sub(r"\b(web|app)\b", "other", two))
    assert (await pbal.ask("web", get())).status == 503
    assert pbal.counts["loops_refused"] == 1 and len(asked(nodes["web"])) == len(asked(nodes["other"])) == 1


@lab
async def test_a_slow_client_stops_the_server_after_buffer_size_reproxy_url(lab: Lab) -> None:
    async def streams(taken: Taken) -> None:
        await taken.request()
        taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        for _ in range(LARGE // 100_000):
            taken.say(b"x" * 100_000)
            await taken.writer.drain()

    server = await Scripted.start(lab, streams)
    origin = await node(lab, to(f"http://{server.address}/"))
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address, more="SET buffer_size_reproxy_url = 10k"))
    client = await Client.of(pbal, request=get())
    await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
    (waiting,) = pbal.world.clients
    most = 0
    head = await client.reader.readuntil(b"\r\n\r\n")
    received = 0
    while received < LARGE:
        received += len(await client.reader.read(65536))
        most = max(most, waiting.transport.get_write_buffer_size())
    assert b"200 OK" in head and received == LARGE and most < 400_000
    client.writer.write(get())
    await server.connection(0)


# -- connections -------------------------------------------------------------------------------------------------------


@lab
async def test_a_limit_of_connections_makes_the_others_wait_their_turn(lab: Lab) -> None:
    server = await Scripted.start(lab)
    origin = await node(lab, to(f"http://{server.address}/"))
    pbal = await lab.pbal(f"SERVER max_reproxy_connections({server.address}) = 2\n" + reproxying(origin.address, allow=server.address))
    clients = [await Client.of(pbal, request=get(f"/{number}")) for number in range(5)]
    await until_state(pbal, f"clients_queued {server.address} 3")
    state = (await pbal.say("reproxy_state")).splitlines()
    assert f"backends {server.address} 2" in state and f"SERVER max_reproxy_connections({server.address}) = 2" in state
    assert state[-2:] == ["SERVER max_reproxy_connections = 0", "."]
    for number in range(5):
        taken = await server.connection(number % 2)
        await taken.request()
        taken.say(answer(b"%d" % number))
    got = [await read_response(client.reader) for client in clients]
    assert sorted(each.body for each in got) == [b"0", b"1", b"2", b"3", b"4"]
    assert len(server.connections) == 2
    assert await pbal.say(f"UNSET SERVER max_reproxy_connections({server.address})") == "OK"
    assert (await pbal.say("SERVER max_reproxy_connections(x:y) = 2")).startswith("ERROR: max_reproxy_connections(x:y): expected a port")


@lab
async def test_who_waits_too_long_for_a_connection_is_told_so(lab: Lab) -> None:
    server = await Scripted.start(lab)
    origin = await node(lab, to(f"http://{server.address}/"))
    more = "SET queue_timeout = 100ms;SET response_timeout = 0"
    pbal = await lab.pbal("SERVER max_reproxy_connections = 1\n" + reproxying(origin.address, allow=server.address, more=more))
    first = await Client.of(pbal, request=get())
    taken = await server.connection()
    await taken.request()
    assert (await pbal.ask("web", get())).status == 503
    taken.say(answer(b"ok"))
    assert (await read_response(first.reader)).body == b"ok"


@lab
async def test_a_kept_connection_that_has_gone_stale_costs_no_url(lab: Lab) -> None:
    async def once(taken: Taken) -> None:
        await taken.request()
        taken.say(answer(b"ok"))
        with contextlib.suppress(asyncio.IncompleteReadError):
            await taken.request()
            taken.writer.close()

    server = await Scripted.start(lab, once)
    origin = await node(lab, to(f"http://{server.address}/"))
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address))
    client = await Client.of(pbal, request=get())
    assert (await read_response(client.reader)).body == b"ok"
    client.writer.write(get())
    assert (await read_response(client.reader)).body == b"ok"
    assert len(server.connections) == 2 and pbal.counts["reproxy_failures"] == 0


@lab
async def test_a_service_that_goes_and_a_server_that_ends_leave_nobody_waiting(lab: Lab) -> None:
    server = await Scripted.start(lab)
    origin = await node(lab, to(f"http://{server.address}/"))
    pbal = await lab.pbal(
        "SERVER max_reproxy_connections = 1\n" + reproxying(origin.address, allow=server.address, more="SET response_timeout = 0")
    )
    first = await Client.of(pbal, request=get())
    taken = await server.connection()
    await taken.request()
    second = await Client.of(pbal, request=get())
    await until_state(pbal, f"clients_queued {server.address} 1")
    assert await pbal.say("DISABLE web") == "OK" and await pbal.say("DROP SERVICE web") == "OK"
    assert (await read_response(second.reader)).status == 503
    taken.say(answer(b"ok"))
    assert (await read_response(first.reader)).body == b"ok", "what runs finishes"
    await until(lambda: not pbal.world.clients, "them to be closed")


@lab
async def test_who_waits_for_a_server_waits_no_longer_than_queue_timeout_though_no_service_is_left(lab: Lab) -> None:
    server, origin = await Scripted.start(lab), await Scripted.start(lab)
    limit = "SERVER max_reproxy_connections = 1\n"
    pbal = await lab.pbal(limit + reproxying(origin.address, allow=server.address, more="SET queue_timeout = 100ms"))
    clients = [await Client.of(pbal, request=get()) for _ in range(2)]
    nodes = [await origin.connection(number) for number in range(2)]
    for each in nodes:
        await each.request()
    assert await pbal.say("DROP SERVICE web") == "OK"
    for each in nodes:  # what was asked before finishes, as far as it can
        each.say(answer(b"", f"X-REPROXY-URL: http://{server.address}/"))
    taken = await server.connection()
    await taken.request()
    other = await asyncio.wait({asyncio.ensure_future(read_response(client.reader)) for client in clients}, return_when="FIRST_COMPLETED")
    assert [task.result().status for task in other[0]] == [503]
    taken.say(answer(b"ok"))
    assert [(await task).body for task in other[1]] == [b"ok"]


# -- the cache ---------------------------------------------------------------------------------------------------------


@lab
async def test_an_order_is_remembered_for_its_time(lab: Lab) -> None:
    server = await node(lab, lambda head: answer(b"far")[: -3 if head.startswith(b"HEAD") else None])
    remembered = ("X-REPROXY-CACHE-FOR: 60; Content-Type X-Own ETag Last-Modified Set-Cookie", "Content-Type: x/y", "X-Own: 1", "X-Not: 1",
                  "Set-Cookie: a=b", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "X-REPROXY-EXPECTED-SIZE: 3")  # fmt: skip
    origin = await node(lab, to(f"http://{server.address}/", more=remembered))
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address, more="SET reproxy_cache_maxsize = 2"))
    first = await pbal.ask("web", get("/a?b"))
    assert (first.body, first.fields["x-not"], first.fields["set-cookie"]) == (b"far", "1", "a=b")
    again = await pbal.ask("web", get("/a?b"))
    assert (again.status, again.body, again.fields["content-type"], again.fields["x-own"]) == (200, b"far", "x/y", "1")
    assert "x-not" not in again.fields and "set-cookie" not in again.fields and "date" in again.fields
    assert (await pbal.ask("web", get("/a?b", method="HEAD"))).fields["content-length"] == "3"
    got = await pbal.ask("web", get("/a?b", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"))
    assert got.status == 304 and len(asked(server)) == 3
    assert len(asked(origin)) == 1
    told = await pbal.say("explain GET http://h/a?b FROM 127.0.0.1")
    assert "an order for it is remembered" in told and server.address in told
    assert "remembered" not in await pbal.say("explain GET http://h/other FROM 127.0.0.1")
    block = (await pbal.say("show service web")).splitlines()
    assert "    cache size: 1/2 (50.00%)" in block and "    cache hits: 3" in block and "cache hit rate: 75.00%" in block
    for request in (get("/a?c"), get("/a?b", "Host: other").replace(b"Host: h\r\n", b""), get("/b")):
        await pbal.ask("web", request)
    assert len(asked(origin)) == 4
    await pbal.ask("web", get("/a?b"))
    assert len(asked(origin)) == 5, "the one that was not used for longest had to go"
    assert await pbal.say("SET web.reproxy_cache_maxsize = 0") == "OK"
    assert "cache size" not in await pbal.say("show service web")
    await pbal.ask("web", get("/a?b"))
    assert len(asked(origin)) == 6


@lab
async def test_what_belongs_to_one_client_is_not_remembered(lab: Lab) -> None:
    server = await node(lab, answer(b"far"))

    def say(head: bytes) -> bytes:
        kind = head.split(b" ")[1].decode()[1:]
        fields = {"private": ("Cache-Control: private",), "public": ("Cache-Control: max-age=9, public",), "never": ("Vary: *",),
                  "nostore": ("Cache-Control: no-store",), "varies": ("Vary: Accept-Language",)}.get(kind, ())  # fmt: skip
        seconds = "" if kind == "empty" else "0" if kind == "zero" else "60"
        return to(f"http://{server.address}/", more=(f"X-REPROXY-CACHE-FOR: {seconds}; X", *fields),
                  status="404 No" if kind == "404" else "200 OK")  # fmt: skip

    origin = await node(lab, say)
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address, more="SET reproxy_cache_maxsize = 100"))
    for path, fields, asks in (
        ("/plain", (), 1), ("/private", (), 2), ("/nostore", (), 2), ("/never", (), 2), ("/empty", (), 2), ("/zero", (), 2),
        ("/404", (), 2),
        ("/cookie", ("Cookie: a=b",), 2), ("/auth", ("Authorization: Basic eA==",), 2), ("/public", ("Cookie: a=b",), 1),
        ("/varies", ("Accept-Language: de",), 1), ("/varies", ("Accept-Language: en",), 1), ("/plain", ("Cookie: a=b",), 2),
    ):  # fmt: skip
        before = len(asked(origin))
        for _ in range(2):
            assert (await pbal.ask("web", get(path, *fields))).body == b"far"
        assert len(asked(origin)) - before == asks, (path, fields)
    before = len(asked(origin))
    for _ in range(2):
        posted = await pbal.ask("web", b"POST /plain HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        assert posted.body == b"far"
    assert len(asked(origin)) - before == 2


@lab
async def test_what_a_rule_parts_is_parted_in_the_cache_too(lab: Lab) -> None:
    server = await node(lab, lambda head: answer(head.split(b" ")[1]))

    def say(head: bytes) -> bytes:
        """Where it leads is by all that rules may change of a request."""
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
        what = b"-".join([head.split(b" ")[1][1:], fields[b"host"], fields.get(b"x-group", b"")]).decode()
        vary = "Vary: X-Forwarded-For" if what.startswith("seen") else "Vary: X-Group"
        return to(f"http://{server.address}/{what}", more=("X-REPROXY-CACHE-FOR: 60; X", vary))

    origin, inner = (
        await node(lab, say),
        await node(lab, lambda head: to(f"http://{server.address}/inner", more=("X-REPROXY-CACHE-FOR: 9",))),
    )
    rules = [
        "SET reproxy_cache_maxsize = 100", "ROUTE web TO inner WHEN header X-Staff = yes",
        "REWRITE web ^/x = /y WHEN header X-New", "HEADER web REQUEST SET X-Group : high WHEN header X-Rank = 1",
        "HEADER web REQUEST SET Host : other WHEN header X-Other",
    ]  # fmt: skip
    inside = f"CREATE POOL inner\nPOOL inner ADD {inner.address}\n"
    pbal = await lab.pbal(inside + reproxying(origin.address, allow=server.address, more=";".join(rules)))
    for _ in range(2):
        for fields, leads in (
            (("X-Staff: yes",), b"/inner"), ((), b"/x-h-"), (("X-New: 1",), b"/y-h-"), (("X-Rank: 1",), b"/x-h-high"),
            (("X-Other: 1",), b"/x-other-"), (("X-Group: high",), b"/x-h-high"),
        ):  # fmt: skip
            assert (await pbal.ask("web", get("/x", *fields))).body == leads, fields
    before = len(asked(origin))
    assert (await pbal.ask("web", get("/x", "X-Other: 1"))).body == b"/x-other-"
    assert len(asked(origin)) == before, "it is remembered"
    for _ in range(2):
        assert (await pbal.ask("web", get("/seen"))).body == b"/seen-h-"
    assert len(asked(origin)) == before + 2, "what varies with what pbal says of a client is not"


@lab
async def test_an_order_that_works_no_more_or_is_over_goes_back_to_the_node(lab: Lab) -> None:
    server = await node(lab, answer(b"far"))
    remembered = ("X-REPROXY-CACHE-FOR: 1; X",)
    origin = await node(lab, to(f"http://{server.address}/", more=remembered), answer(b"own"))
    pbal = await lab.pbal(reproxying(origin.address, allow=server.address, more="SET reproxy_cache_maxsize = 100"))
    assert (await pbal.ask("web", get())).body == b"far"
    assert await pbal.say("SET web.reproxy_allow = 10.0.0.1:80") == "OK"
    assert (await pbal.ask("web", get())).body == b"own", "what is remembered is looked at like all else"
    assert await pbal.say(f"SET web.reproxy_allow = {server.address}") == "OK"
    assert (await pbal.ask("web", get())).body == b"own"
    cache = pbal.world.service("web").handler.reproxy.cache  # type: ignore[union-attr]
    origin = await node(lab, to(f"http://{server.address}/", more=remembered))
    assert await pbal.say(f"POOL app ADD {origin.address}") == "OK"
    await until_cached(pbal, cache)
    await until(lambda: len(cache) == 0, "a tick to find that it is over")


async def until_cached(pbal: Pbal, cache: object) -> None:
    """Ask until the node that says so was asked."""
    for _ in range(200):
        await pbal.ask("web", get())
        if len(cache):  # type: ignore[arg-type]
            return
    raise AssertionError("no order was remembered")


# -- the configuration -------------------------------------------------------------------------------------------------


@lab
async def test_what_is_set_is_dumped_and_loads_again(lab: Lab) -> None:
    root = files(lab)
    origin = await node(lab, answer(b"own"))
    pbal = await lab.pbal(
        "SERVER max_reproxy_connections(Images.Example.com:7500) = 3\n"
        + reproxying(origin.address, root=root, allow="10.0.0.0/8:80, *.Example.com [fd00::/8]:8080 a:*")
    )
    dump = await pbal.say("dumpconfig")
    assert "SERVER max_reproxy_connections(images.example.com:7500) = 3" in dump
    assert "SET reproxy_allow = 10.0.0.0/8:80 *.example.com:80 [fd00::/8]:8080 a:*" in dump and f"SET reproxy_root = {root}" in dump
    assert await pbal.say(f"SET web.reproxy_root = {root}/none") != "OK"
    for wrong in ("10.0.0.1:0", "http://x/", "a:b", "10.0.0.0/99:80", "[10.0.0.1", "a b:99999", "**.x:80"):
        assert (await pbal.say(f"SET web.reproxy_allow = {wrong}")).startswith("ERROR"), wrong
    assert await pbal.say("RELOAD CONFIG DRY RUN") == "."
