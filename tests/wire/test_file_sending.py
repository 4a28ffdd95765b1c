"""How files are sent: ranges, their conditions, and what a disk does to it. Finding files is in test_files.py and test_web.py."""

import asyncio
import contextlib
import os
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import DEADLINE, Lab, Pbal, Response, lab, until
from scripted import Client

from pbal.roles.files import memory
from pbal.roles.files.ranges import MOST, wanted

SIZE = 700_000
CONTENT = random.Random(14).randbytes(SIZE)
CONF = """
    CREATE SERVICE site
      SET role        = web_server
      SET listen      = 127.0.0.1:0
      SET docroot     = {docroot}
    ENABLE site
"""


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *fields, "", ""]).encode()


async def site(lab: Lab) -> tuple[Path, Pbal]:
    docroot = lab.folder / "docroot"
    docroot.mkdir()
    (docroot / "a.txt").write_bytes(b"0123456789")
    (docroot / "large.bin").write_bytes(CONTENT)
    (docroot / "empty.txt").touch()
    return docroot, await lab.pbal(CONF.format(docroot=docroot))


def open_descriptors(folder: Path) -> list[str]:
    """Files below `folder` that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in found if name.startswith(os.path.realpath(folder))]


def parts_of(answer: Response) -> list[tuple[str, str, bytes]]:
    """Content-Type, Content-Range and octets of each part of a multipart/byteranges body (RFC 2046 section 5.1.1)."""
    kind, _, boundary = answer.fields["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    mark = b"--" + boundary.encode()
    assert answer.body.startswith(mark + b"\r\n") and answer.body.endswith(b"\r\n" + mark + b"--\r\n")
    found = []
    for piece in answer.body[len(mark) + 2 : -len(mark) - 6].split(b"\r\n" + mark + b"\r\n"):
        head, _, body = piece.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        found.append((fields["Content-Type"], fields["Content-Range"], body))
    return found


@lab
async def test_one_range(lab: Lab) -> None:
    _, pbal = await site(lab)
    whole = await pbal.ask("site", get("/a.txt"))
    assert (whole.status, whole.fields["accept-ranges"]) == (200, "bytes")
    for said, told, body in (
        ("bytes=0-0", "0-0", b"0"), ("bytes=2-4", "2-4", b"234"), ("bytes=7-", "7-9", b"789"), ("bytes=-3", "7-9", b"789"),
        ("bytes=-99", "0-9", b"0123456789"), ("bytes=5-99", "5-9", b"56789"), ("BYTES=1-1", "1-1", b"1"), ("bytes= 1-1 ,", "1-1", b"1"),
        ("bytes=0-0,50-60", "0-0", b"0"), ("bytes=,,-1", "9-9", b"9"),
    ):  # fmt: skip
        answer = await pbal.ask("site", get("/a.txt", f"Range: {said}"))
        assert (answer.status, answer.fields["content-range"], answer.body) == (206, f"bytes {told}/10", body), said
        for same in ("etag", "last-modified", "content-type", "accept-ranges"):
            assert answer.fields[same] == whole.fields[same]


@lab
async def test_ranges_that_a_file_does_not_have(lab: Lab) -> None:
    _, pbal = await site(lab)
    for path, said in (("/a.txt", "bytes=10-"), ("/a.txt", "bytes=99-100,50-"), ("/a.txt", "bytes=-0"), ("/empty.txt", "bytes=0-")):
        answer = await pbal.ask("site", get(path, f"Range: {said}"))
        size = 10 if path == "/a.txt" else 0
        assert (answer.status, answer.fields["content-range"]) == (416, f"bytes */{size}"), said
        assert "connection" not in answer.fields and "etag" in answer.fields


@lab
async def test_ranges_that_are_none_are_not_looked_at(lab: Lab) -> None:
    _, pbal = await site(lab)
    for said in (
        "lines=1-2", "bytes", "bytes=", "bytes=,", "bytes=x", "bytes=4-2", "bytes=1-2-3", "bytes=--1", "bytes 1-2", "bytes=1 -2",
        "bytes=+1-2", "bytes=0-1,x", "bytes=99999999999999999999-", "bytes=0-9,0-9", "bytes=" + "0-0," * MOST + "1-1",
    ):  # fmt: skip
        answer = await pbal.ask("site", get("/a.txt", f"Range: {said}"))
        assert (answer.status, answer.body) == (200, b"0123456789"), said
    answer = await pbal.ask("site", get("/a.txt", "Range: bytes=0-1", "Range: bytes=3-4"))
    assert answer.status == 200, "two fields are a list that no Range is"
    assert (await pbal.ask("site", get("/empty.txt", "Range: bytes=-5"))).status == 200
    head = await pbal.ask("site", get("/a.txt", "Range: bytes=0-1", method="HEAD"))
    assert (head.status, head.fields["content-length"]) == (200, "10"), "RFC 9110 section 14.2: GET alone has ranges"


@lab
async def test_several_ranges(lab: Lab) -> None:
    _, pbal = await site(lab)
    answer = await pbal.ask("site", get("/a.txt", "Range: bytes=8-, 0-1,-1 ,99-"))
    assert answer.status == 206 and "content-range" not in answer.fields
    text = "text/plain; charset=utf-8"
    assert parts_of(answer) == [(text, "bytes 8-9/10", b"89"), (text, "bytes 0-1/10", b"01"), (text, "bytes 9-9/10", b"9")]
    ranges = [(400_000, 300_000), (5, 140_000), (0, 1)]
    said = ",".join(f"{first}-{first + length - 1}" for first, length in ranges)
    answer = await pbal.ask("site", get("/large.bin", f"Range: bytes={said}"))
    assert [body for _, _, body in parts_of(answer)] == [CONTENT[first : first + length] for first, length in ranges]


@lab
async def test_if_range(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    os.utime(docroot / "a.txt", (784111777, 784111777))
    etag = (await pbal.ask("site", get("/a.txt"))).fields["etag"]
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    for condition, status in (
        (etag, 206), (f"W/{etag}", 200), ('"other"', 200), (f'{etag}, "b"', 200), ("*", 200), (date, 206),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 200), ("Sun, 06 Nov 1994 08:49:36 GMT", 200), ("yesterday", 200),
    ):  # fmt: skip
        answer = await pbal.ask("site", get("/a.txt", "Range: bytes=0-1", f"If-Range: {condition}"))
        assert answer.status == status, condition
    now = int(pbal.world.clock.epoch()) + 5
    os.utime(docroot / "a.txt", (now, now))
    fresh = (await pbal.ask("site", get("/a.txt"))).fields["last-modified"]
    answer = await pbal.ask("site", get("/a.txt", "Range: bytes=0-1", f"If-Range: {fresh}"))
    assert answer.status == 200, "the date of a file that may change again in the same second is a weak validator"


@lab
async def test_conditions_come_before_ranges(lab: Lab) -> None:
    _, pbal = await site(lab)
    etag = (await pbal.ask("site", get("/a.txt"))).fields["etag"]
    for fields, status in (
        ([f"If-None-Match: {etag}", "Range: bytes=0-1"], 304), ([f"If-None-Match: {etag}", "Range: bytes=99-"], 304),
        (['If-Match: "x"', "Range: bytes=0-1"], 412), ([f"If-Match: {etag}", "Range: bytes=0-1"], 206),
    ):  # fmt: skip
        answer = await pbal.ask("site", get("/a.txt", *fields))
        assert answer.status == status, fields
        assert "accept-ranges" not in answer.fields or status == 206


def test_ranges_of_any_text_lie_in_the_file() -> None:
    words = random.Random(2)
    served = 0
    for _ in range(20_000):
        size = words.choice((0, 1, 2, 10, 1000))
        pieces = [
            words.choice(("-", "0-", "-5", "1-3", "9-9", "999-", "x", "", "3-1", f"{words.randrange(2000)}-"))
            for _ in range(words.randrange(5))
        ]
        found = wanted(("bytes=" + ",".join(pieces)).encode(), size)
        for first, length in found or ():
            served += 1
            assert first >= 0 and length > 0 and first + length <= size
        assert found is None or len(found) < 2 or sum(length for _, length in found) <= size
    assert served > 1000


# -- disks -----------------------------------------------------------------------------------------------------------


def as_if_nothing_were_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel, or a file system, that cannot say what is in its memory."""
    monkeypatch.setattr(memory, "_usable", False)
    monkeypatch.setattr(memory, "_RWF_NOWAIT", 0)


def test_all_the_same_where_threads_ask_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_nothing_were_known(monkeypatch)

    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        (lab.folder / "secret").write_text("secret")
        (docroot / "sub").mkdir()
        (docroot / "sub" / "index.html").write_text("<p>sub")
        (docroot / "inside").symlink_to(docroot / "a.txt")
        (docroot / "outside").symlink_to(lab.folder / "secret")
        (docroot / "up").symlink_to(lab.folder)
        (docroot / "round").symlink_to("round")
        os.mkfifo(docroot / "pipe")
        for path, status, body in (
            ("/a.txt", 200, b"0123456789"), ("/large.bin", 200, CONTENT), ("/empty.txt", 200, b""), ("/sub/", 200, b"<p>sub"),
            ("/sub", 301, b""), ("/inside", 200, b"0123456789"), ("/outside", 404, None), ("/up/secret", 404, None), ("/round", 404, None),
            ("/up/docroot/a.txt", 200, b"0123456789"), ("/pipe", 404, None), ("/a.txt/", 404, None), ("/none", 404, None),
        ):  # fmt: skip
            answer = await pbal.ask("site", get(path))
            assert answer.status == status, path
            assert b"secret" not in answer.body and (body is None or answer.body == body)
        answer = await pbal.ask("site", get("/large.bin", "Range: bytes=1-200000,300000-300000"))
        assert [body for _, _, body in parts_of(answer)] == [CONTENT[1:200001], CONTENT[300000:300001]]
        assert open_descriptors(docroot) == []

    run()


def test_the_loop_goes_on_while_a_disk_is_slow_and_a_client_that_leaves_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_nothing_were_known(monkeypatch)
    reading, go_on, read = threading.Event(), threading.Event(), os.pread

    def slow(fd: int, size: int, at: int) -> bytes:
        reading.set()
        assert go_on.wait(10)
        return read(fd, size, at)

    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        monkeypatch.setattr(os, "pread", slow)
        client = await Client.of(pbal, "site", get("/large.bin"))
        await until(reading.is_set, "the disk to be asked")
        assert (await pbal.ask("site", get("/none"))).status == 404, "others are answered"
        client.reset()
        await pbal.until("aborted_clients", 1)
        assert len(open_descriptors(docroot)) == 1, "a thread has it"
        go_on.set()
        await until(lambda: open_descriptors(docroot) == [], "the file to be closed")
        assert (await pbal.ask("site", get("/large.bin"))).body == CONTENT

    run()


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), None])
def test_a_disk_that_fails_under_way_cuts_the_answer_off(failure: OSError | None, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_nothing_were_known(monkeypatch)

    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        monkeypatch.setattr(os, "pread", failing(os.pread, failure))
        reader, writer = await pbal.connect("site")
        writer.write(get("/large.bin") + get("/a.txt"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert re.search(rb"Content-Length: 700000\r\n", head)
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == CONTENT[:131072], "and no second answer in its place"
        assert pbal.counts["files_cut_off"] == 1 and open_descriptors(docroot) == []
        (failed,) = await errors(pbal)
        assert ("Input/output error" if failure else "became shorter") in failed

    run()


def failing(read: Callable[[int, int, int], bytes], failure: OSError | None) -> Callable[[int, int, int], bytes]:
    """A pread that fails, or finds the end of the file, after the first piece."""

    def pread(fd: int, size: int, at: int) -> bytes:
        if at and failure is not None:
            raise failure
        return b"" if at else read(fd, size, at)

    return pread


async def errors(pbal: Pbal) -> list[str]:
    """The lines of `show errors` that tell of a file."""
    return [line for line in (await pbal.say("show errors")).splitlines() if "file" in line]
