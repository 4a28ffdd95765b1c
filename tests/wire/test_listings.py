"""Lists of directories (dirindexing): what is in them, in which order, where their links lead, and what a large directory costs."""

import contextlib
import html
import os
import re
import socket
import threading
import tracemalloc
from pathlib import Path
from urllib.parse import unquote_to_bytes, urljoin

import pytest
from docroots import docroot, get, slow_socket
from lab import DEADLINE, Lab, Pbal, Response, lab, read_response, until

from pbal.roles.files.finding import Rules, find_folder
from pbal.roles.web import listing


async def site(lab: Lab, *more: str) -> tuple[Path, Pbal]:
    """A docroot that may be listed."""
    return await docroot(lab, "SET dirindexing = on", *more)


def rows(answer: Response) -> list[tuple[str, str]]:
    """Where each row leads, and what it is called."""
    return [
        (html.unescape(href), html.unescape(name))
        for href, name in re.findall(r'<tr><td><a href="(.*?)"><bdi>(.*?)</bdi>', answer.body.decode(), re.DOTALL)
    ]


@lab
async def test_a_list_is_a_page_with_folders_first_and_names_as_people_count(lab: Lab) -> None:
    root, pbal = await site(lab)
    for name in ("b10.txt", "B9.txt", "a", "b1.txt", "Zoo.txt"):
        (root / name).write_text(name)
    for name in ("z", "img10", "img9"):
        (root / name).mkdir()
    (root / "large.bin").write_bytes(b"x" * 1_234_567)
    os.utime(root / "large.bin", (0, 1_000_000_000))
    answer = await pbal.ask("site", get("/"))
    assert (answer.status, answer.fields["content-type"]) == (200, "text/html; charset=utf-8")
    names = [name for _, name in rows(answer)]
    assert names == ["img9/", "img10/", "z/", "a", "b1.txt", "B9.txt", "b10.txt", "large.bin", "Zoo.txt"]
    text = answer.body.decode()
    assert '<td title="1234567 bytes">1.2 MB</td><td>2001-09-09 01:46</td>' in text
    assert text.startswith("<!doctype html>") and "<script" not in text and "Parent directory" not in text
    assert "<title>Index of /</title>" in text
    below = await pbal.ask("site", get("/z/?C=M;O=A"))
    assert rows(below) == [] and '<a href="../">Parent directory</a>' in below.body.decode()


@lab
async def test_each_link_leads_to_what_it_names_and_no_name_is_markup(lab: Lab) -> None:
    root, pbal = await site(lab)
    folder = root / "a b#c"
    folder.mkdir()
    names = [
        b"a:b", b"javascript:alert(1)", b"a?b=c", b"a#b", b"100%", b"a%41", b"<script>alert(1)<", b'a"b', b"a'b", b"a&amp;b", b"a b",
        b"\\\\x", b"http:\\evil.example", b"\xff\xfe", "\u00e9\u4e16".encode(), "\u202egnp.exe".encode(), b"new\nline",
        b"~user", b"+", b";", b"a..", b"mailto:x@y", b"\x01",
    ]  # fmt: skip
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(name)
    (folder / "sub?").mkdir()
    (folder / "sub?" / "index.html").write_text("sub")
    address = "http://h/a%20b%23c/"
    answer = await pbal.ask("site", get("/a%20b%23c/"))
    text = answer.body.decode()
    found = rows(answer)
    assert len(found) == len(names) + 1
    reader, writer = await pbal.connect("site")
    reached = set()
    for href, shown in found:
        target = urljoin(address, href)
        assert target.startswith(address), shown
        writer.write(get(target.removeprefix("http://h")))
        file = await read_response(reader)
        assert file.status == 200
        reached.add(file.body)
        if not shown.endswith("/"):
            assert unquote_to_bytes(href) == file.body and "\n" not in shown and "\x01" not in shown
    assert reached == {*names, b"sub"}
    assert text.count("<script") == 0 and "&lt;script&gt;alert(1)&lt;" in text and "a&amp;amp;b" in text
    assert "<title>Index of /a b#c/</title>" in text


@lab
async def test_what_is_not_served_is_not_listed(lab: Lab) -> None:
    root, pbal = await site(lab)
    (root / ".git").mkdir()
    (root / ".htpasswd").touch()
    (root / "file").touch()
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    for link, target in (
        ("inside", "file"), ("outside", "../secret"), ("up", ".."), ("gone", "nowhere"), ("round", "round"), ("also", "folder"),
        ("null", "/dev/null"),
    ):  # fmt: skip
        (root / link).symlink_to(target)
    answer = await pbal.ask("site", get("/"))
    assert [name for _, name in rows(answer)] == ["also/", "folder/", "file", "inside"]
    assert str(lab.folder) not in answer.body.decode()


@lab
async def test_a_list_is_for_folders_inside_without_an_index_and_only_if_it_is_wanted(lab: Lab) -> None:
    root, pbal = await site(lab, "SET index_files = index.html")
    (root / "sub").mkdir()
    (root / "up").symlink_to("..")
    answer = await pbal.ask("site", get("/sub?q=1"))
    assert (answer.status, answer.fields["location"]) == (301, "/sub/?q=1")
    for path in ("/..", "/../", "/%2e%2e/", "/sub/../../", "/up/", "/up/docroot2/", "/none/"):
        answer = await pbal.ask("site", get(path))
        assert answer.status in (400, 404) and b"secret" not in answer.body, path
    (root / "sub" / "index.html").write_text("index")
    assert (await pbal.ask("site", get("/sub/"))).body == b"index"
    assert (await pbal.ask("site", get("/"))).status == 200
    assert "a list of / in" in await pbal.say("explain GET http://h/")
    assert await pbal.say("SET site.dirindexing = off") == "OK"
    refused = await pbal.ask("site", get("/", "Accept: text/html"))
    assert refused.status == 403 and b"<p>This directory has no page, and is not listed.</p>" in refused.body
    assert "403: / in" in await pbal.say("explain GET http://h/")
    assert await pbal.say("SET site.dirindexing = perhaps") != "OK"


@lab
async def test_a_list_has_conditions_and_head(lab: Lab) -> None:
    root, pbal = await site(lab)
    (root / "a").write_text("a")
    reader, writer = await pbal.connect("site")

    async def ask(*fields: str, method: str = "GET") -> Response:
        writer.write(get("/", *fields, method=method))
        return await read_response(reader, head_only=method == "HEAD")

    first = await ask()
    head = await ask(method="HEAD")
    assert head.fields | {"date": ""} == first.fields | {"date": ""} and head.body == b""
    etag, modified = first.fields["etag"], first.fields["last-modified"]
    assert etag.startswith('"')
    assert first.fields["cache-control"] == "no-cache"
    for field, status in (
        (f"If-None-Match: {etag}", 304), (f"If-Modified-Since: {modified}", 304), ('If-Match: "x"', 412), ("Range: bytes=0-3", 200),
        ('If-None-Match: "x"', 200),
    ):  # fmt: skip
        answer = await ask(field)
        assert (answer.status, answer.fields["etag"]) == (status, etag), field
        assert "accept-ranges" not in answer.fields and "content-range" not in answer.fields
    (root / "a").write_text("longer")
    pbal.world.files.forget()
    changed = await ask(f"If-None-Match: {etag}")
    assert changed.status == 200 and b"6 B" in changed.body, "a file that is written changes the list"


@lab
async def test_a_large_directory_is_cut_and_says_so(lab: Lab) -> None:
    root, pbal = await site(lab, "SET dirindexing_limit = 3")
    for name in ("1", "2", "10"):
        (root / name).touch()
    answer = await pbal.ask("site", get("/"))
    assert [name for _, name in rows(answer)] == ["1", "2", "10"] and b"the first" not in answer.body
    assert pbal.counts["listings_cut"] == 0
    (root / "3").touch()
    pbal.world.files.forget()
    answer = await pbal.ask("site", get("/"))
    assert [name for _, name in rows(answer)] == ["1", "2", "3"]
    assert b"<p>These are the first 3 of 4.</p>" in answer.body
    assert pbal.counts["listings_cut"] == 1


@lab
async def test_of_a_huge_directory_not_all_is_looked_at(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    root, pbal = await site(lab)
    for number in range(6):
        (root / f"{number}").touch()
    monkeypatch.setattr(listing, "SCANNED", 4)
    answer = await pbal.ask("site", get("/"))
    assert len(rows(answer)) == 4 and b"<p>These are the first 4 of more than 4.</p>" in answer.body
    assert pbal.counts["listings_cut"] == 1


@lab
async def test_many_who_ask_at_once_ask_the_disk_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    root, pbal = await site(lab)
    made: list[bytes] = []
    go = threading.Event()

    def slowly(rules: Rules, path: bytes) -> int:
        made.append(path)
        go.wait(DEADLINE)
        return find_folder(rules, path)

    monkeypatch.setattr(listing, "find_folder", slowly)
    assert await pbal.say("SERVER file_recheck = 60s") == "OK"
    (root / "sub").mkdir()
    reading = []
    for path in ["/"] * 40 + ["/sub/"] * 3:
        reader, writer = await pbal.connect("site")
        writer.write(get(path))
        reading.append(reader)
    await pbal.until("requests", 43)
    await until(lambda: len(made) == 2, "two lists that are made")
    go.set()
    answers = [await read_response(reader) for reader in reading]
    assert [answer.status for answer in answers] == [200] * 43 and len({answer.body for answer in answers}) == 2
    assert sorted(made) == [b"/", b"/sub/"]
    assert (await pbal.ask("site", get("/"))).body == answers[0].body and len(made) == 2, "it is kept for a moment"
    (root / "new").touch()
    pbal.world.files.forget()
    assert b"new" in (await pbal.ask("site", get("/"))).body


@lab
async def test_a_client_that_leaves_while_its_list_is_made(lab: Lab) -> None:
    root, pbal = await site(lab)
    for number in range(300):
        (root / str(number)).touch()
    _, writer = await pbal.connect("site")
    writer.write(get("/"))
    await pbal.until("requests", 1)
    writer.transport.abort()
    await pbal.until("clients", 0)
    assert (await pbal.ask("site", get("/299"))).status == 200


@lab
async def test_slow_readers_of_a_list_hold_it_once(lab: Lab) -> None:
    root, pbal = await site(lab)
    assert await pbal.say("SERVER file_recheck = 1h") == "OK"
    for number in range(800):
        (root / f"{number:0240}").touch()
    size = len((await pbal.ask("site", get("/"))).body)
    with contextlib.ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(2):  # so many lists that no buffers of the system hold them
            stack.enter_context(await slow_socket(pbal.server.address("site"), get("/") * (16_000_000 // size)))
        await until(lambda: sum(client.full for client in pbal.world.clients) == 2, "both are full")
        held, _ = tracemalloc.get_traced_memory()
        assert held < size, "none has a copy"
