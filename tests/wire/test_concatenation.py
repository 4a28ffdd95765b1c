"""Several files as one answer (enable_concatenate_get)."""

import asyncio
import gzip
import os
import socket
from pathlib import Path

from docroots import docroot, get, slow_socket
from lab import DEADLINE, Lab, Pbal, Response, lab, read_response, until

MEMBERS = {"a.css": b"a{}", "b.css": b"b{}", "c,d.css": b"comma", "e f.js": b"blank", "empty": b"", "sub/g.css": b"sub"}


async def site(lab: Lab, *more: str) -> tuple[Path, Pbal]:
    root, pbal = await docroot(lab, "SET enable_concatenate_get = on", *more)
    folder = root / "dir"
    (folder / "sub").mkdir(parents=True)
    for name, content in MEMBERS.items():
        (folder / name).write_bytes(content)
    return root, pbal


async def ask(pbal: Pbal, target: str, *fields: str, method: str = "GET") -> Response:
    return await pbal.ask("site", get(target, *fields, method=method))


@lab
async def test_members_come_in_the_order_in_which_they_were_asked_for(lab: Lab) -> None:
    _, pbal = await site(lab)
    for names, body in (
        ("a.css,b.css", b"a{}b{}"), ("b.css,a.css", b"b{}a{}"), ("a.css", b"a{}"), ("a.css,a.css", b"a{}a{}"), ("a.css?v=3", b"a{}"),
        ("a.css,,", b"a{}"),
        ("a.css,b.css?,sub", b"a{}b{}"), ("c%2Cd.css,%61.css", b"commaa{}"), ("e%20f.js", b"blank"), ("sub/g.css,a.css", b"suba{}"),
        ("empty", b""), ("empty,a.css,empty", b"a{}"), ("a.css,empty", b"a{}"), (",".join(["a.css"] * 100), b"a{}" * 100),
    ):  # fmt: skip
        answer = await ask(pbal, f"/dir/??{names}")
        assert (answer.status, answer.body, answer.fields["content-length"]) == (200, body, str(len(body))), names
        assert "accept-ranges" not in answer.fields
        head = await ask(pbal, f"/dir/??{names}", method="HEAD")
        assert head.fields | {"date": ""} == answer.fields | {"date": ""} and head.body == b""
    reader, writer = await pbal.connect("site")
    writer.write(get("/dir/??a.css,b.css") + get("/dir/??b.css") + get("/dir/a.css"))
    assert [(await read_response(reader)).body for _ in range(3)] == [b"a{}b{}", b"b{}", b"a{}"], "one after another on a connection"


@lab
async def test_no_member_is_served_that_would_not_be_served_alone(lab: Lab) -> None:
    root, pbal = await site(lab, "SET index_files = a.css")
    (root / "dir" / ".dot").write_text("dot")
    (root / "dir" / "out").symlink_to(lab.folder / "secret")
    os.mkfifo(root / "dir" / "pipe")
    for names, status in (
        ("a.css,none.css", 404), ("none.css", 404), ("../../secret", 404), ("a.css,%2e%2e/%2e%2e/secret", 404), ("sub/../a.css", 404),
        ("a.css,.dot", 404), ("a.css,out", 404), ("sub", 404), ("sub/", 404), (",a.css", 404), ("a.css,,b.css", 404),
        ("pipe", 404), ("a.css%00", 404), ("a.css,/../../secret", 404), (",".join(["a.css"] * 101), 403),
    ):  # fmt: skip
        answer = await ask(pbal, f"/dir/??{names}")
        assert answer.status == status and b"secret" not in answer.body, names
        assert answer.fields["content-type"].startswith("text/plain")
    assert (await ask(pbal, "/none/??a.css")).status == 404
    assert pbal.counts["concatenations_refused"] == 1
    assert await pbal.say("SET site.concatenate_max_size = 5") == "OK"
    assert (await ask(pbal, "/dir/??a.css,b.css")).status == 403 and (await ask(pbal, "/dir/??a.css")).status == 200


@lab
async def test_what_is_no_such_request_is_a_query(lab: Lab) -> None:
    root, pbal = await site(lab, "SET index_files = index.html")
    (root / "dir" / "index.html").write_text("index")
    for target in ("/dir/?a.css", "/dir/??", "/dir/??,", "/dir/???a.css", "/dir/?", "/dir/?x??a.css"):
        assert (await ask(pbal, target)).body == b"index", target
    assert (await ask(pbal, "/dir/a.css??b.css")).body == b"a{}"
    moved = await ask(pbal, "/dir??a.css,b.css")
    assert (moved.status, moved.fields["location"]) == (301, "/dir/??a.css,b.css")
    assert "files as one" in await pbal.say("explain GET http://h/dir/??a.css,b.css")
    many = f"/dir/??{','.join(['a.css'] * 101)}"
    assert (await ask(pbal, many)).status == 403 and "403: more than 100 files" in await pbal.say(f"explain GET http://h{many}")
    assert await pbal.say("SET site.enable_concatenate_get = off") == "OK"
    assert (await ask(pbal, "/dir/??a.css,b.css")).body == b"index"


@lab
async def test_what_is_said_is_of_all_members(lab: Lab) -> None:
    root, pbal = await site(lab, "CACHE site 1h", "SET precompressed = gzip")
    folder = root / "dir"
    (folder / "a.css.gz").write_text("compressed")
    for seconds, name in ((1_000_000_000, "a.css"), (1_100_000_000, "b.css"), (900_000_000, "e f.js")):
        os.utime(folder / name, (seconds, seconds))
    os.utime(folder / "empty", (0, 0))
    pbal.world.files.forget()
    answer = await ask(pbal, "/dir/??a.css,b.css,e%20f.js", "Accept-Encoding: gzip")
    assert answer.body == b"a{}b{}blank", "and nothing compressed among it"
    assert answer.fields["last-modified"] == "Tue, 09 Nov 2004 11:33:20 GMT"
    assert answer.fields["content-type"] == "text/css; charset=utf-8" and answer.fields["cache-control"] == "max-age=3600"
    etag = answer.fields["etag"]
    assert etag.startswith('"')
    assert (await ask(pbal, "/dir/??empty,e%20f.js")).fields["content-type"] == "text/javascript; charset=utf-8", "the first that is known"
    assert (await ask(pbal, "/dir/??empty")).fields["content-type"] == "application/octet-stream"
    for fields, status in (
        ((f"If-None-Match: {etag}",), 304), (("If-Modified-Since: Tue, 09 Nov 2004 11:33:20 GMT",), 304),
        (("If-Modified-Since: Tue, 09 Nov 2004 11:33:19 GMT",), 200), (('If-Match: "x"',), 412), (("Range: bytes=0-0",), 200),
    ):  # fmt: skip
        again = await ask(pbal, "/dir/??a.css,b.css,e%20f.js", *fields)
        assert (again.status, again.fields["etag"]) == (status, etag), fields
        assert again.fields.get("cache-control") == (None if status == 412 else "max-age=3600")
    assert (await ask(pbal, "/dir/??b.css,a.css,e%20f.js")).fields["etag"] != etag
    os.utime(folder / "a.css", (1_000_000_001, 1_000_000_001))
    pbal.world.files.forget()
    assert (await ask(pbal, "/dir/??a.css,b.css,e%20f.js", f"If-None-Match: {etag}")).status == 200


@lab
async def test_they_are_compressed_on_the_way_as_one(lab: Lab) -> None:
    root, pbal = await site(lab, "SET compress = gzip", "SET compress_min_length = 0", "SET concatenate_max_size = 0")
    large = b"".join(b"%d{}" % number for number in range(300_000))
    (root / "dir" / "large.css").write_bytes(large)
    answer = await ask(pbal, "/dir/??a.css,large.css,empty,b.css,large.css", "Accept-Encoding: gzip")
    assert answer.fields["content-encoding"] == "gzip" and answer.fields["vary"] == "Accept-Encoding"
    assert gzip.decompress(answer.body) == b"a{}" + large + b"b{}" + large
    assert answer.fields["etag"].startswith("W/")


@lab
async def test_a_member_that_changes_before_its_turn_cuts_the_answer_off(lab: Lab) -> None:
    root, pbal = await site(lab)
    (root / "dir" / "large").write_bytes(b"x" * 12_000_000)
    with await slow_socket(pbal.server.address("site"), get("/dir/??large,a.css,b.css")) as sock:
        await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
        assert len(pbal.world.files.open) <= 1, "one at a time"
        (root / "dir" / "b.css").write_text("longer")
        pbal.world.files.forget()
        loop, received = asyncio.get_running_loop(), bytearray()
        async with asyncio.timeout(DEADLINE):
            while piece := await loop.sock_recv(sock, 1 << 20):
                received += piece
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert b"Content-Length: 12000006\r\n" in head + b"\r\n"
    assert body == b"x" * 12_000_000 + b"a{}", "and nothing of another version"
    assert pbal.counts["files_cut_off"] == 1


@lab
async def test_a_client_that_leaves_in_the_midst_leaves_nothing_open(lab: Lab) -> None:
    root, pbal = await site(lab, "SET concatenate_max_size = 0")
    (root / "dir" / "large").write_bytes(b"x" * 12_000_000)
    for _ in range(3):
        with await slow_socket(pbal.server.address("site"), get("/dir/??a.css,large,b.css,large")):
            await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
        await pbal.until("clients", 0)
    assert (await ask(pbal, "/dir/??b.css")).body == b"b{}"


@lab
async def test_what_was_allowed_when_an_answer_began_is_not_kept_for_later(lab: Lab) -> None:
    root, pbal = await site(lab, "SET dot_files = on")
    (root / "dir" / "large").write_bytes(b"x" * 12_000_000)
    (root / "dir" / ".dot").write_text("dot")
    with await slow_socket(pbal.server.address("site"), get("/dir/??large,.dot,a.css")) as sock:
        await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
        assert await pbal.say("SERVER file_recheck = 1h") == "OK"
        assert await pbal.say("SET site.dot_files = off") == "OK"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        loop, received = asyncio.get_running_loop(), bytearray()
        async with asyncio.timeout(DEADLINE):
            while not received.endswith(b"dota{}"):
                piece = await loop.sock_recv(sock, 1 << 20)
                assert piece, "it ends as it began"
                received += piece
    assert (await ask(pbal, "/dir/.dot")).status == 404
    assert pbal.world.files.kept == 0


@lab
async def test_no_member_is_served_that_a_rule_by_path_keeps_back(lab: Lab) -> None:
    """A rule sees the folder that is asked for: who may not have /dir/sub/g.css is not to have it as /dir/??sub/g.css either."""
    _, pbal = await site(
        lab, "LOAD vpaths", "LIMIT site 9/s WHEN path ^/dir/b", "CREATE SERVICE closed", "SET role = web_server", "ENABLE closed",
        "CREATE SERVICE front", "SET role = selector", "SET listen = 127.0.0.1:0", "SET plugins = vpaths", "SET default_service = site",
        "HEADER front INSERT X-Css: yes WHEN path a.css$", "VPATH ^/dir/sub/ = closed", r"VPATH \?never = closed", "ENABLE front",
    )  # fmt: skip
    for target, status in (
        ("/dir/??a.css", 200), ("/dir/sub/g.css", 404), ("/dir/??sub/g.css", 403), ("/dir/??a.css,%73ub//g.css", 403),
        ("/dir/??b.css", 403), ("/dir/??a.css,./b.css", 403), ("/??dir/a.css", 200), ("/dir/b.css", 200),
    ):  # fmt: skip
        answer = await pbal.ask("front", get(target))
        assert (answer.status, b"sub" in answer.body) == (status, False), target
    assert pbal.counts["concatenations_refused"] == 4
    assert (await pbal.ask("site", get("/dir/??sub/g.css"))).body == b"sub", "where no rule says other"
    assert "403: a rule by path" in await pbal.say(f"explain GET http://127.0.0.1:{pbal.server.address('front')[1]}/dir/??a.css,sub/g.css")


@lab
async def test_plugins_look_up_each_member_as_they_look_up_a_file(lab: Lab) -> None:
    """One that keeps a file back, or has another in its place, does so in /??dir/a.css, too."""
    _, pbal = await site(lab)
    (lab.folder / "keeper.py").write_text("""
from pbal.api import Exchange, Lookup, Plugin, Verdict, hook


class Keeper(Plugin):
    @hook.start_serve_request
    def look(self, exchange: Exchange, lookup: Lookup) -> Verdict:
        if lookup.path.endswith(b"/b.css"):
            exchange.respond(403, (), b"kept back")
            return Verdict.TAKEN
        lookup.path = lookup.path.replace(b"/other.css", b"/a.css")
        return Verdict.PASS
""")
    for statement in (f"SERVER plugin_path = {lab.folder}", "LOAD keeper", "SET site.plugins = keeper"):
        assert await pbal.say(statement) == "OK"
    for target, status, body in (
        ("/dir/b.css", 403, b"kept back"), ("/dir/??a.css,b.css", 403, b"kept back"), ("/??dir/%62.css", 403, b"kept back"),
        ("/dir/other.css", 200, b"a{}"), ("/dir/??other.css,a.css", 200, b"a{}a{}"), ("/dir/??e%20f.js,c%2Cd.css", 200, b"blankcomma"),
    ):  # fmt: skip
        answer = await ask(pbal, target)
        assert (answer.status, answer.body) == (status, body), target
