"""PUT and DELETE of a web_server on the wire: whole files or none, conditions, checksums, and nothing outside the docroot."""

import asyncio
import base64
import errno
import hashlib
import json
import os
import random
import resource
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import DEADLINE, Lab, Pbal, Response, free_port, lab, read_response, transport_of, until
from process import Running

from pbal.model.bodies import UNFLUSHED
from pbal.model.exchange import Exchange
from pbal.roles.files import memory, writing
from pbal.roles.files.finding import PRIVATE
from pbal.roles.web.role import WebServer

CONF = """
    CREATE SERVICE site
      SET role          = web_server
      SET listen        = 127.0.0.1:0
      SET docroot       = {docroot}
      SET enable_put    = on
      SET enable_delete = on
      {more}
    ENABLE site
"""


async def site(lab: Lab, *more: str) -> tuple[Path, Pbal]:
    """An empty docroot beside a secret."""
    docroot = lab.folder / "docroot"
    docroot.mkdir()
    (lab.folder / "secret").write_text("secret")
    return docroot, await lab.pbal(CONF.format(docroot=docroot, more="\n      ".join(more)))


def request(method: str, path: str, *fields: str, body: bytes | None = None) -> bytes:
    more = [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *fields, *more, "", ""]).encode() + (body or b"")


async def put(pbal: Pbal, path: str, body: bytes, *fields: str) -> Response:
    return await pbal.ask("site", request("PUT", path, *fields, body=body))


async def get(pbal: Pbal, path: str) -> Response:
    return await pbal.ask("site", request("GET", path))


async def delete(pbal: Pbal, path: str, *fields: str) -> Response:
    return await pbal.ask("site", request("DELETE", path, *fields))


def tree(docroot: Path) -> dict[str, bytes | None]:
    """Everything below a docroot: octets of files, None of folders."""
    return {str(path.relative_to(docroot)): path.read_bytes() if path.is_file() else None for path in docroot.rglob("*")}


def chunks(body: bytes, size: int) -> bytes:
    pieces = [body[place : place + size] for place in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def sha256(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


@lab
async def test_a_file_is_made_replaced_read_and_removed(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    answer = await put(pbal, "/a/b/c%20d.txt", b"first")
    assert (answer.status, answer.body) == (201, b"")
    read = await get(pbal, "/a/b/c%20d.txt")
    assert (read.body, read.fields["etag"], read.fields["last-modified"]) == (
        b"first", answer.fields["etag"], answer.fields["last-modified"],
    )  # fmt: skip
    os.chmod(docroot / "a/b/c d.txt", 0o600)
    answer = await put(pbal, "/a/b/c%20d.txt", b"other")
    assert answer.status == 204 and answer.fields["etag"] != read.fields["etag"]
    assert (docroot / "a/b/c d.txt").stat().st_mode & 0o777 == 0o600, "a file hands on its rights"
    assert (await get(pbal, "/a/b/c%20d.txt")).body == b"other"
    assert (await delete(pbal, "/a/b/c%20d.txt")).status == 204
    assert (await get(pbal, "/a/b/c%20d.txt")).status == 404
    assert (await delete(pbal, "/a/b/c%20d.txt")).status == 404
    assert (await put(pbal, "/empty", b"")).status == 201
    assert (await pbal.ask("site", request("PUT", "/none"))).status == 201
    assert tree(docroot) == {"a": None, "a/b": None, "empty": b"", "none": b""}
    assert [pbal.counts[name] for name in ("puts", "deletes", "writes_refused", "writes_failed")] == [4, 1, 1, 0]


@pytest.fixture(params=["nameless", "named"])
def drafts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which a file is written: on a file system that has files without names, and on one that has none."""
    if request.param == "named":
        monkeypatch.setattr(writing, "_NAMELESS", 0)
    return str(request.param)


# -- what may be written -----------------------------------------------------------------------------------------------


@lab
async def test_both_are_off_unless_said(lab: Lab) -> None:
    docroot, pbal = await site(lab, "SET enable_put = off", "SET enable_delete = off")
    (docroot / "x").write_text("there")
    for method in ("PUT", "DELETE"):
        answer = await pbal.ask("site", request(method, "/x", body=b"new"))
        assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD, OPTIONS")
    await pbal.say("SET site.enable_put = on")
    answer = await delete(pbal, "/x")
    assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD, OPTIONS, PUT")
    assert (await put(pbal, "/x", b"new")).status == 204
    assert tree(docroot) == {"x": b"new"}
    docroot.rename(lab.folder / "away")
    assert (await put(pbal, "/x", b"newer")).status == 404
    await pbal.say("UNSET site.docroot")
    assert (await put(pbal, "/x", b"newer")).status == 404
    assert tree(lab.folder / "away") == {"x": b"new"}


NOT_NAMES = {
    "/": 400, "/..": 400, "/../secret": 400, "/%2e%2e/secret": 400, "/..%2fsecret": 400, "/sub/../../secret": 400, "/./x": 400,
    "/sub/%2e/x": 400, "//x": 400, "/sub//x": 400, "/x/": 400, "/x%2f": 400, "/%00": 400, "/x%00.txt": 400, "/x%0d%0ay": 400, "/%7f": 400,
    "/" + "x" * 256: 400, "/" + "x/" * 101 + "x": 400, "/" + ("x" * 250 + "/") * 17 + "x": 400,
    "http://h/../secret": 400, "/up/secret": 403, "/up/new": 403, "/out": 403,
    "/inner": 403, "/dangling": 403, "/dangling/x": 409, "/loop/x": 403, "/pipe": 403, "/sub": 409, "/index.html/x": 409,
    "/.pbal-1": 403, "/sub/.pbal-1": 403, "/sub/%2epbal-1/x": 403,
}  # fmt: skip


@lab
async def test_nothing_else_is_written_or_removed(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "sub").mkdir()
    (docroot / "index.html").write_text("index")
    (docroot / "out").symlink_to(lab.folder / "secret")
    (docroot / "up").symlink_to(lab.folder)
    (docroot / "inner").symlink_to(docroot / "index.html")
    (docroot / "dangling").symlink_to(lab.folder / "not-there")
    (docroot / "loop").symlink_to("loop")
    os.mkfifo(docroot / "pipe")
    before = sorted(os.walk(lab.folder))
    for path, status in NOT_NAMES.items():
        assert (await put(pbal, path, b"evil")).status == status, path[:100]
        removed = (await delete(pbal, path)).status
        assert removed == status or (status == 409 and removed in (400, 404)), path[:100]
    assert b"Is a directory" in (await delete(pbal, "/sub")).body
    assert sorted(os.walk(lab.folder)) == before
    assert (lab.folder / "secret").read_text() == "secret" and (docroot / "index.html").read_text() == "index"
    assert pbal.counts["puts"] == pbal.counts["deletes"] == 0
    assert pbal.counts["writes_refused"] == 2 * len(NOT_NAMES) + 1


@lab
async def test_a_folder_may_be_reached_by_a_link_that_stays_inside(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "sub").mkdir()
    (docroot / "link").symlink_to("sub")
    assert (await put(pbal, "/link/deep/x", b"by a link")).status == 201
    assert (docroot / "sub/deep/x").read_bytes() == b"by a link"
    assert (await delete(pbal, "/link/deep/x")).status == 204
    docroot.rename(lab.folder / "elsewhere")
    docroot.symlink_to("elsewhere")
    assert (await put(pbal, "/link/x", b"docroot is one")).status == 201
    assert (lab.folder / "elsewhere/sub/x").read_bytes() == b"docroot is one"


@lab
async def test_dot_files_and_links_are_written_as_they_are_served(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / ".git").mkdir()
    (docroot / "sub").mkdir()
    (docroot / "link").symlink_to("sub")
    (docroot / "hooks").symlink_to(".git")
    for path in ("/.htaccess", "/.git/config", "/%2egit/config", "/sub/.x/y", "/hooks/x", "/hooks/deep/x"):
        assert (await put(pbal, path, b"evil")).status == 403, path
        assert (await delete(pbal, path)).status == 403, path
    assert (await put(pbal, "/.well-known/x", b"known")).status == 201
    await pbal.say("SET site.dot_files = on")
    assert (await put(pbal, "/hooks/x", b"dotted")).status == 201
    assert (await put(pbal, "/.pbal-x", b"evil")).status == 403
    await pbal.say("SET site.follow_symlinks = never")
    for method in ("PUT", "DELETE"):
        assert (await pbal.ask("site", request(method, "/hooks/x", body=b"new"))).status == 403
        assert (await pbal.ask("site", request(method, "/link/x", body=b"new"))).status == 403
    await pbal.say("SET site.follow_symlinks = anywhere")
    (docroot / "up").symlink_to(lab.folder)
    assert (await put(pbal, "/up/secret", b"evil")).status == 403, "nothing is written outside, whatever is read there"
    assert (await delete(pbal, "/up/secret")).status == 403
    assert tree(docroot / ".git") == {"x": b"dotted"} and tree(docroot / "sub") == {}


@lab
async def test_a_link_that_is_put_there_while_the_body_comes_is_not_followed(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "sub").mkdir()
    _, writer, reader = await begin_put(pbal, "/sub/secret", 6)
    (docroot / "sub").rename(docroot / "old")
    (docroot / "sub").symlink_to(lab.folder)
    writer.write(b"public")
    assert (await read_response(reader)).status == 403
    assert (lab.folder / "secret").read_text() == "secret" and tree(docroot / "old") == {}


async def begin_put(pbal: Pbal, path: str, size: int, *fields: str) -> tuple[Response, asyncio.StreamWriter, asyncio.StreamReader]:
    """A PUT whose client waits for 100 Continue: it has come, or another answer."""
    reader, writer = await pbal.connect("site")
    writer.write(request("PUT", path, "Expect: 100-continue", f"Content-Length: {size}", *fields))
    return await read_response(reader), writer, reader


@lab
async def test_min_put_directory(lab: Lab) -> None:
    docroot, pbal = await site(lab, "SET min_put_directory = 2")
    (docroot / "a").mkdir()
    for path in ("/x", "/a/x"):
        answer = await put(pbal, path, b"new")
        assert answer.status == 400 and b"Does not meet minimum directory requirement" in answer.body
    answer = await put(pbal, "/a/b/x", b"new")
    assert answer.status == 404 and b"Base directory does not exist" in answer.body
    (docroot / "a" / "b").mkdir()
    assert (await put(pbal, "/a/b/x", b"new")).status == 201
    assert (await put(pbal, "/a/b/c/d/x", b"new")).status == 201
    assert (await pbal.ask("site", request("PUT", "/a/c/x", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n")).status == 404
    assert tree(docroot) == {"a": None, "a/b": None, "a/b/x": b"new", "a/b/c": None, "a/b/c/d": None, "a/b/c/d/x": b"new"}


@lab
async def test_new_files_and_folders_have_the_rights_that_the_umask_leaves(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    before = os.umask(0o027)
    try:
        assert (await put(pbal, "/sub/x", b"new")).status == 201
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (docroot / "sub", docroot / "sub/x")] == [0o750, 0o640]


# -- what comes --------------------------------------------------------------------------------------------------------


@lab
async def test_what_is_refused_is_refused_before_its_body_comes(lab: Lab) -> None:
    docroot, pbal = await site(lab, "SET max_put_size = 1000", "SET max_body = 0")
    (docroot / "x").write_text("there")
    for path, size, field, status in (
        ("/x", 1001, "A: b", 413),
        ("/x/", 10, "A: b", 400),
        ("/x", 10, "Content-Range: bytes 0-9/20", 400),
        ("/x", 10, "Content-Encoding: gzip", 415),
        ("/x", 10, "Content-MD5: abc", 400),
        ("/x", 10, "Content-Digest: sha-256=abc", 400),
        ("/x", 10, "If-None-Match: *", 412),
        ("/x", 10, 'If-Match: "other"', 412),
        ("/y", 10, "If-Match: *", 412),
        ("/no/y", 10, "If-Match: *", 412),
        ("/x", 10, "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT", 412),
    ):
        answer, writer, _ = await begin_put(pbal, path, size, field)
        assert answer.status == status, (path, size, field)
        assert answer.fields["connection"] == "close", "its body may follow"
        writer.close()
    await pbal.say("SET site.max_put_size = 0")
    answer, writer, _ = await begin_put(pbal, "/x", 10**15)
    assert answer.status == 507
    writer.close()
    answer, writer, reader = await begin_put(pbal, "/x", 3)
    assert answer.status == 100
    writer.write(b"new" + request("GET", "/x"))
    assert (await read_response(reader)).status == 204
    assert (await read_response(reader)).body == b"new", "and the connection goes on"


@lab
async def test_a_body_in_chunks_is_a_file_and_bounded(lab: Lab) -> None:
    docroot, pbal = await site(lab, "SET max_put_size = 200k")
    body = bytes(range(256)) * 780
    head = request("PUT", "/x", "Transfer-Encoding: chunked")
    assert (await pbal.ask("site", head + chunks(body, 70_000) + b"0\r\n\r\n")).status == 201
    assert (docroot / "x").read_bytes() == body
    assert (await pbal.ask("site", head + chunks(body[:20_000], 1) + b"0\r\n\r\n")).status == 204
    assert (docroot / "x").read_bytes() == body[:20_000]
    reader, writer = await pbal.connect("site")
    writer.write(head + chunks(body + body[:8000], 70_000) + b"0\r\n\r\n")
    assert (await read_response(reader)).status == 413
    reader, writer = await pbal.connect("site")
    writer.write(head + chunks(body[:100_000], 70_000) + b"nonsense\r\n")
    assert (await read_response(reader)).status == 400
    assert tree(docroot) == {"x": body[:20_000]}


DIGEST = "Content-Digest: "


@lab
async def test_checksums(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    body = b"checked" * 20_000
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    sha512 = f"sha-512=:{base64.b64encode(hashlib.sha512(body).digest()).decode()}:"
    good, wrong = sha256(body), sha256(b"")
    await put(pbal, "/x", b"old")
    for fields, status in (
        ([f"Content-MD5: {md5}"], 204),
        ([f"Content-MD5: {md5.rstrip('=')}"], 204),
        (["Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg=="], 400),
        ([DIGEST + good], 204),
        ([f"{DIGEST}{sha512};a=1, {good}"], 204),
        ([f"Repr-Digest: {good}", DIGEST + sha512, f"Content-MD5: {md5}"], 204),
        ([DIGEST + wrong], 400),
        ([f"{DIGEST}{good}, sha-512=:{'A' * 86}==:"], 400),
        ([f"Repr-Digest: {wrong}", DIGEST + good], 400),
        ([f"{DIGEST}md5=:AAAA:, crc32c=:AAAA:"], 204),
        ([DIGEST + good, DIGEST + wrong], 400),
        ([f"{DIGEST}sha-256=:AAAA:"], 400),
        ([f"{DIGEST}nonsense"], 400),
    ):
        await put(pbal, "/x", b"old")
        answer = await put(pbal, "/x", body, *fields)
        assert answer.status == status, fields
        assert tree(docroot) == {"x": body if status == 204 else b"old"}, fields
        if status == 400 and fields[0].startswith(DIGEST):
            assert answer.fields["want-content-digest"] == "sha-512=10, sha-256=5"
    answer = await put(pbal, "/x", b"abc", "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==")
    assert b"Content-MD5 mismatch, expected: 1B2M2Y8AsgTpgAmY7PhCfg== actual: kAFQmDzST7DWlj99KOF/cg==" in answer.body
    await pbal.say("SET site.enable_md5 = off")
    assert (await put(pbal, "/x", b"abc", "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==")).status == 204


@lab
async def test_a_checksum_may_follow_the_body(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    body = b"checked" * 20_000
    head = request("PUT", "/x", "Transfer-Encoding: chunked", "Trailer: Content-Digest") + chunks(body, 9000) + b"0\r\n"
    for said, status in ((sha256(b""), 400), ("nonsense", 400), (sha256(body), 201)):
        reader, writer = await pbal.connect("site")
        writer.write(head + f"Content-Digest: {said}\r\n\r\n".encode())
        assert (await read_response(reader)).status == status
        assert tree(docroot) == ({"x": body} if status == 201 else {})


@lab
async def test_conditions_hold_for_put_and_delete(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    past, future = "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 31 Dec 2100 23:59:59 GMT"
    for method in ("PUT", "DELETE"):
        for field, status in (
            ("If-Match: *", 204),
            ("If-Match: {etag}", 204),
            ('If-Match: "other", {etag}', 204),
            ("If-Match: W/{etag}", 412),
            ('If-Match: "other"', 412),
            ("If-None-Match: *", 412),
            ("If-None-Match: W/{etag}", 412),
            ('If-None-Match: "other"', 204),
            (f"If-Unmodified-Since: {past}", 412),
            (f"If-Unmodified-Since: {future}", 204),
            ("If-Unmodified-Since: yesterday", 204),
            (f"If-Modified-Since: {future}", 204),
        ):
            etag = (await put(pbal, "/x", b"there")).fields["etag"]
            answer = await pbal.ask("site", request(method, "/x", field.format(etag=etag), body=b"new"))
            assert answer.status == status, (method, field)
            if status == 412:
                assert answer.fields["etag"] == etag
            assert tree(docroot) == ({"x": b"there"} if status == 412 else {"x": b"new"} if method == "PUT" else {}), (method, field)
    for field in ("If-Match: *", 'If-None-Match: "other"'):
        assert (await delete(pbal, "/none", field)).status == 404, "without the condition it would be no success either"
    assert (await put(pbal, "/y", b"new", "If-None-Match: *")).status == 201
    assert (await put(pbal, "/z", b"new", f"If-Unmodified-Since: {past}")).status == 201


@lab
async def test_who_reads_sees_a_change_at_once_though_files_are_kept(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    await pbal.say("SERVER file_recheck = 1h")
    (docroot / "index.html").write_text("old")
    os.utime(docroot / "index.html", (784111777, 784111777))
    for path in ("/", "/index.html", "/"):
        assert (await get(pbal, path)).body == b"old"
    assert pbal.counts["file_cache_hits"] == 1
    etag = (await put(pbal, "/index.html", b"new")).fields["etag"]
    for path in ("/", "/index.html"):
        answer = await get(pbal, path)
        assert (answer.body, answer.fields["etag"]) == (b"new", etag)
    os.utime(docroot / "index.html", (784111777, 784111777))
    assert (await delete(pbal, "/index.html")).status == 204
    assert [(await get(pbal, path)).status for path in ("/", "/index.html")] == [403, 404]


@lab
async def test_a_compressed_neighbour_of_a_former_version_is_not_served(lab: Lab) -> None:
    _, pbal = await site(lab, "SET precompressed = gzip")
    for path, body in (("/x.js", b"old"), ("/x.js.gz", b"compressed old")):
        assert (await put(pbal, path, body)).status == 201
    asked = request("GET", "/x.js", "Accept-Encoding: gzip")
    answer = await pbal.ask("site", asked)
    assert (answer.body, answer.fields["content-encoding"]) == (b"compressed old", "gzip")
    assert (await put(pbal, "/x.js", b"new", f"If-Match: {answer.fields['etag']}")).status == 412, "that is the other file's"
    assert (await put(pbal, "/x.js", b"new")).status == 204
    answer = await pbal.ask("site", asked)
    assert answer.body == b"new" and "content-encoding" not in answer.fields
    assert (await put(pbal, "/x.js.gz", b"compressed new")).status == 204
    assert (await pbal.ask("site", asked)).body == b"compressed new"


# -- several at once ---------------------------------------------------------------------------------------------------


def test_of_several_who_ask_for_one_version_one_wins(drafts: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        (docroot / "sub").mkdir()
        (docroot / "link").symlink_to("sub")
        condition = "If-None-Match: *"
        for turn in range(5):
            begun = [await begin_put(pbal, f"/{'link' if number % 2 else 'sub'}/x", 3, condition) for number in range(8)]
            for number, (_, writer, _) in enumerate(begun):
                writer.write(b"%d-%d" % (turn, number))  # as long as each other, so that only their times tell them apart
            answers = await asyncio.gather(*(read_response(reader) for *_, reader in begun))
            won = [answer.status in (201, 204) for answer in answers]
            assert sorted(answer.status for answer in answers) == [204 if turn else 201] + [412] * 7
            assert tree(docroot / "sub") == {"x": b"%d-%d" % (turn, won.index(True))}
            condition = f"If-Match: {answers[won.index(True)].fields['etag']}"

    run()


def test_a_condition_is_looked_at_while_nobody_else_can_change_the_file(drafts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, asked, utime, lock = threading.Event(), threading.Semaphore(0), os.utime, writing._lock

    def slow(path: int, *, ns: tuple[int, int]) -> None:
        gate.wait()
        utime(path, ns=ns)

    def asking(folder: int, name: bytes) -> threading.Lock:
        asked.release()
        return lock(folder, name)

    @lab
    async def run(lab: Lab) -> None:
        _, pbal = await site(lab)
        etag = (await put(pbal, "/x", b"old")).fields["etag"]
        monkeypatch.setattr(os, "utime", slow)
        monkeypatch.setattr(writing, "_lock", asking)
        try:
            begun = [asyncio.ensure_future(put(pbal, "/x", body, f"If-Match: {etag}")) for body in (b"one", b"two")]
            for _ in begun:
                await until(lambda: asked.acquire(blocking=False), "both at the lock")
            for _ in range(10):  # whoever would not wait there gets on meanwhile
                assert (await get(pbal, "/x")).body == b"old"
        finally:
            gate.set()
        assert sorted([(await each).status for each in begun]) == [204, 412]

    run()


def test_what_is_on_the_disk_before_what(drafts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def told(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def tell(first: Any, *args: Any, **kwargs: Any) -> None:
            calls.append(f"{name} folder" if name == "fsync" and stat.S_ISDIR(os.fstat(first).st_mode) else name)
            call(first, *args, **kwargs)

        return tell

    @lab
    async def run(lab: Lab) -> None:
        _, pbal = await site(lab)
        for name in ("fsync", "rename", "link", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, told(name, getattr(os, name)))
        own = ["unlink"] if drafts == "named" else []
        assert (await put(pbal, "/a/x", b"new")).status == 201
        assert calls == ["fsync", "mkdir", "link", "fsync folder", "fsync folder", *own]
        calls.clear()
        assert (await put(pbal, "/a/x", b"newer")).status == 204
        assert calls == ["fsync", *([] if own else ["link"]), "rename", "fsync folder"]
        calls.clear()
        assert (await delete(pbal, "/a/x")).status == 204
        assert calls == ["unlink", "fsync folder"]

    run()


@lab
async def test_a_folder_that_goes_while_it_is_needed_is_made_again(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    step = writing._step
    gone: list[bytes] = []

    def going(at: int, name: bytes) -> int:
        if not gone:
            gone.append(name)
            os.rmdir(name, dir_fd=at)  # by another PUT, which had made it, and failed
        return step(at, name)

    writing._step = going
    try:
        assert (await put(pbal, "/a/b/x", b"new")).status == 201
    finally:
        writing._step = step
    assert gone == [b"a"] and tree(docroot) == {"a": None, "a/b": None, "a/b/x": b"new"}


def test_two_writers_never_mix_and_who_reads_goes_on_with_what_it_began(drafts: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        bodies = [letter * 500_000 for letter in (b"a", b"b")]
        await put(pbal, "/x", b"o" * 20_000_000)
        reader, writer = await pbal.connect("site")
        writer.write(request("GET", "/x"))
        assert await reader.readexactly(100)
        transport_of(writer).pause_reading()
        begun = [await begin_put(pbal, "/x", 500_000) for _ in bodies]
        for place in range(0, 500_000, 50_000):
            for body, (_, other, _) in zip(bodies, begun, strict=True):
                other.write(body[place : place + 50_000])
        for _, _, answers in begun:
            assert (await read_response(answers)).status == 204
            assert (docroot / "x").read_bytes() in bodies
        transport_of(writer).resume_reading()
        rest = await reader.readexactly(19_000_000)
        assert rest.endswith(b"o" * 18_000_000)

    run()


# -- what fails --------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_leaves_nothing(drafts: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        await put(pbal, "/x", b"old")
        _, writer, _ = await begin_put(pbal, "/x", 1_000_000)
        _, other, _ = await begin_put(pbal, "/new/folder/y", 1_000_000)
        await put_half(pbal, writer)
        await put_half(pbal, other)
        assert "files_open 2" in await pbal.say("show counters like files_open")
        hidden = [name for name in os.listdir(docroot) if name != "x"]
        assert len(hidden) == (2 if drafts == "named" else 0)
        for name in hidden:
            assert name.startswith(PRIVATE.decode())
            assert (await get(pbal, f"/{name}")).status == 404 and (await delete(pbal, f"/{name}")).status == 403
        transport_of(writer).abort()
        other.close()
        await until(lambda: not handler_of(pbal).writings, "their end")
        assert "files_open 0" in await pbal.say("show counters like files_open")
        await until(lambda: tree(docroot) == {"x": b"old"}, "nothing but the old file")
        assert pbal.counts["puts"] == 1

    run()


def handler_of(pbal: Pbal) -> WebServer:
    handler = pbal.world.service("site").handler
    assert isinstance(handler, WebServer)
    return handler


async def put_half(pbal: Pbal, writer: asyncio.StreamWriter) -> None:
    """Send some of a body, and see it come."""
    before = sum(exchange.received for exchange in exchanges(pbal))
    writer.write(b"n" * 300_000)
    await until(lambda: sum(exchange.received for exchange in exchanges(pbal)) == before + 300_000, "half of it")
    await until(lambda: pbal.world.bodies.unflushed < 65536, "the disk")


def exchanges(pbal: Pbal) -> list[Exchange]:
    """Requests that are not answered yet."""
    found = (getattr(client, "exchange", None) for client in pbal.world.clients)
    return [exchange for exchange in found if exchange is not None]


@lab
async def test_an_end_of_pbal_leaves_nothing(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    await put(pbal, "/x", b"old")
    _, writer, _ = await begin_put(pbal, "/x", 1_000_000)
    await put_half(pbal, writer)
    await pbal.close()
    assert tree(docroot) == {"x": b"old"}


def test_a_full_disk_is_507_and_leaves_nothing(drafts: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        await put(pbal, "/x", b"old")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # no file of this process may be larger
        try:
            for path, size in (("/x", 200_001), ("/new/y", 400_000), ("/x", 3_000_000)):
                reader, writer = await pbal.connect("site")
                writer.write(request("PUT", path, body=b"n" * size))
                assert (await read_response(reader)).status == 507
                writer.close()
            assert (await put(pbal, "/small", b"n" * 200_000)).status == 201
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert tree(docroot) == {"x": b"old", "small": b"n" * 200_000}
        assert (pbal.counts["writes_failed"], pbal.world.bodies.unflushed) == (3, 0)
        assert "507" in await pbal.say("show errors")

    run()


def test_a_failure_of_the_last_step_leaves_the_old_file_and_no_folders(drafts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        await put(pbal, "/x", b"old")
        for call in ("rename", "link", "utime", "fsync"):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, full)
                if call == "rename" or (call == "utime" and drafts == "named"):
                    assert (await put(pbal, "/x", b"new")).status == 507
                if call != "rename":
                    assert (await put(pbal, "/a/b/c", b"new")).status == 507
        assert tree(docroot) == {"x": b"old"}

    run()


@lab
async def test_a_body_that_comes_too_slowly_is_408_and_leaves_nothing(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    _, writer, reader = await begin_put(pbal, "/a/x", 1_000_000)
    await put_half(pbal, writer)
    (exchange,) = exchanges(pbal)
    (client,) = [each for each in pbal.world.clients if getattr(each, "exchange", None) is exchange]
    client.expired(pbal.world.clock.now() + 3600)
    assert (await read_response(reader)).status == 408
    await until(lambda: not handler_of(pbal).writings, "its end")
    assert tree(docroot) == {}


@lab
async def test_a_new_configuration_while_a_body_comes_is_for_the_next_one(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    other = lab.folder / "other"
    other.mkdir()
    _, writer, reader = await begin_put(pbal, "/x", 3)
    conf = lab.folder / "test1.conf"
    conf.write_text(conf.read_text().replace(str(docroot), str(other)).replace("enable_put    = on", "enable_put    = off"))
    assert (await pbal.say("RELOAD CONFIG")).endswith("OK")
    writer.write(b"new" + request("PUT", "/x", body=b"more"))
    assert (await read_response(reader)).status == 201
    assert (await read_response(reader)).status == 405
    assert (tree(docroot), tree(other)) == ({"x": b"new"}, {})
    await pbal.say("SET site.enable_put = on")
    assert (await put(pbal, "/y", b"other")).status == 201
    assert tree(other) == {"y": b"other"}


@lab
async def test_a_folder_that_cannot_be_synced_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    docroot, pbal = await site(lab)
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    answer = await put(pbal, "/x", b"new")
    assert answer.status == 500 and b"may not last" in answer.body
    assert (await get(pbal, "/x")).body == b"new"
    assert (await delete(pbal, "/x")).status == 500
    assert tree(docroot) == {} and pbal.counts["writes_failed"] == 2


@lab
async def test_a_client_waits_while_the_disk_is_slow_and_memory_is_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    docroot, pbal = await site(lab)
    gate, write = threading.Event(), writing.Draft.write

    def slow(self: writing.Draft, pieces: list[bytes]) -> None:
        gate.wait()
        write(self, pieces)

    writing.Draft.write = slow  # type: ignore[method-assign]
    try:
        body = os.urandom(100_000) * 200
        reader, writer = await pbal.connect("site")
        writer.write(request("PUT", "/x", body=body))
        await until(lambda: pbal.world.bodies.unflushed > UNFLUSHED, "a client that waits")
        assert pbal.world.bodies.unflushed <= UNFLUSHED + (1 << 18), "what one read brings on top"
        assert (await get(pbal, "/x")).status == 404, "and nobody else waits"
        others = [await begin_put(pbal, f"/{number}", 100_000) for number in range(10)]
        for _, other, _ in others:
            other.write(body[:100_000])
        (docroot / "there").write_text("there")
        monkeypatch.setattr(memory, "_usable", False)  # every file that is read takes a thread
        assert (await get(pbal, "/there")).body == b"there"
    finally:
        gate.set()
        writing.Draft.write = write  # type: ignore[method-assign]
    for answers in (reader, *(each for *_, each in others)):
        assert (await read_response(answers)).status == 201
    assert (docroot / "x").read_bytes() == body


@lab
async def test_a_disk_that_does_not_answer_is_given_up(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    gate, write = threading.Event(), writing.Draft.write

    def slow(self: writing.Draft, pieces: list[bytes]) -> None:
        gate.wait()
        write(self, pieces)

    writing.Draft.write = slow  # type: ignore[method-assign]
    try:
        _, writer, reader = await begin_put(pbal, "/x", 1_000_000)
        writer.write(b"n" * 100_000)
        handler = handler_of(pbal)
        await until(lambda: pbal.world.bodies.unflushed, "some of it")
        handler.tick(pbal.world.clock.now() + 5)
        assert pbal.counts["writes_failed"] == 0
        handler.tick(pbal.world.clock.now() + 60)
        answer = await read_response(reader)
        assert (answer.status, answer.fields["retry-after"]) == (503, "5")
    finally:
        gate.set()
        writing.Draft.write = write  # type: ignore[method-assign]
    await until(lambda: not handler.writings, "the end of the job")
    assert tree(docroot) == {} and pbal.counts["writes_failed"] == 1


def test_a_kill_leaves_whole_files_and_nothing_else_that_is_served(tmp_path: Path) -> None:
    docroot = tmp_path / "docroot"
    docroot.mkdir()
    (docroot / "old").write_text("old")
    path, port = tmp_path / "test.conf", free_port()
    path.write_text(CONF.format(docroot=docroot, more="").replace(":0\n", f":{port}\n"))
    with Running(path, port) as pbal:
        half = pbal.connect()
        half.sendall(request("PUT", "/old", "Expect: 100-continue", "Content-Length: 200000"))
        assert half.recv(100).startswith(b"HTTP/1.1 100 ")
        half.sendall(b"n" * 199_999)
        busy = [pbal.connect() for _ in range(4)]
        for round_of in range(5):
            for number, sock in enumerate(busy):
                sock.sendall(request("PUT", f"/new/{number}", body=b"%d" % round_of * 100_000))
            if round_of < 4:
                for sock in busy:
                    assert sock.recv(1000).startswith(b"HTTP/1.1 204" if round_of else b"HTTP/1.1 201")
        pbal.send_signal(signal.SIGKILL)
        pbal.ended()
        for sock in (half, *busy):
            sock.close()
    left = {name: body for name, body in tree(docroot).items() if not os.path.basename(name).startswith(PRIVATE.decode())}
    assert left.pop("old") == b"old" and left.pop("new") is None
    assert left.keys() == {f"new/{number}" for number in range(4)}
    assert set(left.values()) <= {b"3" * 100_000, b"4" * 100_000}


# -- beside other things -----------------------------------------------------------------------------------------------


@lab
async def test_a_body_that_a_plugin_has_read_becomes_the_same_file(lab: Lab) -> None:
    (lab.folder / "reads.py").write_text(
        '"""Reads."""\n\nfrom pbal.api import Plugin, Verdict, hook\n\n\nclass Reads(Plugin):\n    @hook.proxy_read_request\n'
        "    def read(self, exchange):\n        return Verdict.PASS if exchange.read_body() != b'no' else exchange.error(403, b'no')\n"
    )
    docroot = lab.folder / "docroot"
    docroot.mkdir()
    more = "SET plugins = reads\n      SET max_put_size = 1m\n      SET max_body = 0"
    pbal = await lab.pbal(f"SERVER plugin_path = {lab.folder}\n    LOAD reads\n" + CONF.format(docroot=docroot, more=more))
    for size in (0, 5, 90_000, 700_000):
        body = os.urandom(size)
        assert (await put(pbal, f"/{size}", body, f"Content-Digest: {sha256(body)}")).status == 201
        assert (docroot / str(size)).read_bytes() == body
        head = request("PUT", f"/{size}", "Transfer-Encoding: chunked")
        assert (await pbal.ask("site", head + chunks(body, 9000) + b"0\r\n\r\n")).status == 204
        assert (docroot / str(size)).read_bytes() == body
    assert pbal.counts["bodies_spooled"] == 2
    reader, writer = await pbal.connect("site")
    writer.write(request("PUT", "/large", "Transfer-Encoding: chunked") + chunks(b"l" * 1_100_000, 90_000) + b"0\r\n\r\n")
    assert (await read_response(reader)).status == 413
    assert not (docroot / "large").exists()


@lab
async def test_it_works_behind_a_selector_and_is_told_in_log_and_explanation(lab: Lab) -> None:
    docroot = lab.folder / "docroot"
    docroot.mkdir()
    (docroot / "old").write_text("12345")
    text = CONF.format(docroot=docroot, more=f"SET access_log = {lab.folder / 'log'}").replace("SET listen        = 127.0.0.1:0", "")
    front = """
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 127.0.0.1:0
      SET default_service = site
    ENABLE front
    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:0
    ENABLE console
    """
    pbal = await lab.pbal(text + front)
    at = f"http://127.0.0.1:{pbal.server.address('front')[1]}"
    for statement, words in (
        (f"explain PUT {at}/a/b/new", f"201: /a/b/new in {docroot} is made, and the folders a/b"),
        (f"explain PUT {at}/old", f"204: /old in {docroot} is replaced, 5 bytes today"),
        (f"explain PUT {at}/old If-None-Match: *", "412: /old: The condition does not hold"),
        (f"explain PUT {at}/old/x", "409: /old/x: A name on the way is that of a file"),
        (f"explain PUT {at}/x Content-Range: bytes 0-1/2", "400: /x: A PUT of a part (Content-Range) is not taken"),
        (f"explain DELETE {at}/old", f"204: /old in {docroot} is removed"),
        (f"explain DELETE {at}/new", "404: /new: Nothing here"),
        (f"explain PATCH {at}/new", "405: only GET, HEAD, OPTIONS, PUT, DELETE here"),
    ):
        assert words in await pbal.say(statement), statement
    assert tree(docroot) == {"old": b"12345"}, "nothing was done"
    told, follower = await pbal.connect("console")
    follower.write(b"trace site\n")
    await until(lambda: pbal.world.tracer is not None, "somebody to follow")
    for method, path, status in (("PUT", "/new", 201), ("PUT", "/old", 204), ("DELETE", "/old", 204), ("DELETE", "/old", 404)):
        assert (await pbal.ask("front", request(method, path, body=b"body"))).status == status
    log = lab.folder / "log"
    await until(lambda: log.exists() and log.read_bytes().count(b"\n") == 4, "four lines")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("written") for line in lines] == ["created", "replaced", "removed", None]
    assert [line["octets_in"] for line in lines[:2]] == [4, 4]
    for word in (b"created", b"replaced", b"removed"):
        async with asyncio.timeout(DEADLINE):
            assert (await told.readuntil(b"written: " + word)).count(b"written: ") == 1


# -- all at once -------------------------------------------------------------------------------------------------------


class Model:
    """What several clients did to a tree, and what may be in it."""

    NAMES = ("/a", "/b/c", "/b/d", "/e/f/g")

    def __init__(self, pbal: Pbal) -> None:
        self.pbal = pbal
        self.sent: dict[str, set[bytes]] = {name: set() for name in self.NAMES}
        """Bodies that were sent whole and may be there."""
        self.seen: set[bytes] = set()
        self.refused: set[bytes] = set()
        self.taken: list[tuple[str, str]] = []
        """Versions that somebody replaced or removed by If-Match."""
        self.puts = self.deletes = 0

    async def read(self, name: str) -> str:
        """GET a file: it is one of those that were sent, whole. Its ETag, or ""."""
        answer = await get(self.pbal, name)
        if answer.status == 404:
            return ""
        assert answer.status == 200 and answer.body in self.sent[name], (name, answer.status, answer.body[:40])
        self.seen.add(answer.body)
        return answer.fields["etag"]

    async def write(self, name: str, body: bytes, rng: random.Random) -> None:
        """PUT a file in one of many ways."""
        fields, etag, statuses = [f"Content-Digest: {sha256(body)}"], "", {201, 204}
        way = rng.choice(("plain", "wrong", "match", "new", "cut", "chunked", "waits"))
        if way == "wrong":
            fields, statuses = [f"Content-Digest: {sha256(body + b'!')}"], {400}
        elif way == "match":
            etag = await self.read(name)
            fields, statuses = [f"If-Match: {etag or '*'}"], {204, 412} if etag else {201, 204, 412}
        elif way == "new":
            fields, statuses = ["If-None-Match: *"], {201, 412}
        if way not in ("wrong", "cut"):
            self.sent[name].add(body)
        if way == "chunked":
            octets = request("PUT", name, *fields, "Transfer-Encoding: chunked") + chunks(body, rng.randrange(50, 9000)) + b"0\r\n\r\n"
        else:
            octets = request("PUT", name, *fields, body=body)
        if way == "waits":
            answer, writer, reader = await begin_put(self.pbal, name, len(body), *fields)
            assert answer.status == 100
            writer.write(body)
        else:
            reader, writer = await self.pbal.connect("site")
            writer.write(octets[: rng.randrange(len(octets))] if way == "cut" else octets)
            if way == "cut":
                await asyncio.sleep(0)
                transport_of(writer).abort() if rng.random() < 0.5 else writer.close()
                return
        answer = await read_response(reader)
        assert answer.status in statuses, (way, answer.status)
        if answer.status in (201, 204):
            self.puts += 1
            if etag:
                self.taken.append((name, etag))
        else:
            self.refused.add(body)

    async def remove(self, name: str, rng: random.Random) -> None:
        """DELETE a file, or that version of it."""
        etag = await self.read(name) if rng.random() < 0.5 else ""
        answer = await delete(self.pbal, name, *([f"If-Match: {etag}"] if etag else []))
        assert answer.status in ({204, 404, 412} if etag else {204, 404})
        if answer.status == 204:
            self.deletes += 1
            if etag:
                self.taken.append((name, etag))


@pytest.mark.parametrize("seed", [1, 2])
def test_writers_readers_and_deleters_on_one_tree(drafts: str, seed: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        model = Model(pbal)

        async def work(who: int) -> None:
            rng = random.Random(f"{seed} {who}")
            for turn in range(25):
                name = rng.choice(model.NAMES)
                if who < 4:
                    await model.write(name, b"%d.%d|" % (who, turn) * rng.randrange(1, 20_000), rng)
                elif who == 4:
                    await model.remove(name, rng)
                else:
                    await model.read(name)

        await asyncio.gather(*map(work, range(7)))
        await until(lambda: not exchanges(pbal) and not handler_of(pbal).writings, "the end of all")
        left = tree(docroot)
        assert {f"/{name}" for name, body in left.items() if body is not None} <= set(model.NAMES)
        assert {name for name, body in left.items() if body is None} <= {"b", "e", "e/f"}
        for name, body in left.items():
            assert body is None or body in model.sent[f"/{name}"]
        model.seen |= {body for body in left.values() if body is not None}
        assert not model.seen & model.refused, "what was refused was never there"
        assert len(model.taken) == len(set(model.taken)) > 0, "each version was replaced or removed once"
        assert (pbal.counts["puts"], pbal.counts["deletes"]) == (model.puts, model.deletes)
        assert pbal.world.bodies.unflushed == 0

    run()
