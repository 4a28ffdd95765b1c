"""Files that are kept to be sent again: what is seen of a change and when, what is bounded, and what is shared."""

import asyncio
import contextlib
import gc
import gzip
import inspect
import os
import random
import resource
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from lab import DEADLINE, Lab, Pbal, Response, lab, read_response, until
from scripted import Client
from secure import files, secure, trusting

from pbal.model.openfiles import OpenFile
from pbal.net import answering, passing
from pbal.roles.files import cache, finding, memory
from pbal.roles.files.cache import SMALL

LARGE = 12_000_000
"""Octets that no pair of socket buffers on one machine holds."""


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *fields, "", ""]).encode()


async def site(lab: Lab, *server: str, recheck: str = "1h") -> tuple[Path, Pbal]:
    """A docroot and a pbal that serves it, and keeps what it found for so long."""
    docroot = lab.folder / "docroot"
    docroot.mkdir()
    more = "\n".join(f"SERVER {each}" for each in (f"file_recheck = {recheck}", *server))
    return docroot, await lab.pbal(
        f"{more}\nCREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET docroot = {docroot}\nENABLE site"
    )


def opened(folder: Path) -> int:
    """Descriptors of files below a folder."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{number}").startswith(os.path.realpath(folder) + "/")
    return found


class Keeping:
    """A connection that stays."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, pbal: Pbal) -> "Keeping":
        return cls(*await pbal.connect("site"))

    async def ask(self, path: str, *fields: str, method: str = "GET") -> Response:
        self._writer.write(get(path, *fields, method=method))
        return await read_response(self._reader, head_only=method == "HEAD")


@lab
async def test_a_file_that_was_asked_for_is_had_at_once(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "a.txt").write_bytes(b"0123456789")
    (docroot / "index.html").write_bytes(b"index")
    (docroot / "empty").touch()
    client = await Keeping.to(pbal)
    for number in range(3):
        for path, body in (("/a.txt", b"0123456789"), ("/", b"index"), ("/empty", b"")):
            answer = await client.ask(path)
            assert (answer.status, answer.body, answer.fields["accept-ranges"]) == (200, body, "bytes")
        assert (pbal.counts["file_cache_misses"], pbal.counts["file_cache_hits"]) == (3, 3 * number)
    assert opened(docroot) == 0, "small ones are in memory"
    etag = (await client.ask("/a.txt")).fields["etag"]
    head = await client.ask("/a.txt", method="HEAD")
    assert (head.status, head.fields["content-length"], head.fields["etag"]) == (200, "10", etag)
    assert (await client.ask("/a.txt", f"If-None-Match: {etag}")).status == 304
    assert (await client.ask("/a.txt", 'If-Match: "x"')).status == 412
    assert (await client.ask("/a.txt", "Range: bytes=2-4")).body == b"234"
    assert (await client.ask("/a.txt", "Range: bytes=20-")).status == 416
    several = await client.ask("/a.txt", "Range: bytes=0-0,9-9")
    assert several.status == 206 and b"\r\n\r\n0\r\n" in several.body and b"\r\n\r\n9\r\n" in several.body
    assert pbal.counts["file_cache_misses"] == 3
    text = (await pbal.say("show counters like file_cache_*")).split()
    assert text[text.index("file_cache_bytes") + 1] == "15" and text[text.index("file_cache_entries") + 1] == "3"
    shown = (await pbal.say("show files site")).splitlines()
    assert shown[1].startswith("site /a.txt 10 bytes, memory, sent to 0, looked at in 3")
    assert [line.split()[1] for line in shown if line.startswith("site")] == ["/", "/a.txt", "/empty"]
    assert pbal.world.files.memory == 15 and pbal.world.files.kept == 3


@pytest.mark.parametrize("size", [10, SMALL, 65537, SMALL + 1])
def test_every_change_is_seen_and_no_answer_is_of_two_versions(size: int) -> None:
    """Each octet of a version is its number: an answer that mixes two, or has the length of another, is found out."""

    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab, recheck="30ms")
        file, new = docroot / "file", docroot / "new"
        client = await Keeping.to(pbal)
        etags: dict[str, bytes] = {}

        def in_place(version: bytes, length: int) -> None:
            with file.open("r+b") as target:
                target.write(version * length)
                target.truncate(length)

        def replaced(version: bytes, length: int) -> None:
            new.write_bytes(version * length)
            new.rename(file)

        file.write_bytes(b"0" * size)
        for number, (change, length) in enumerate(
            ((replaced, size), (in_place, size), (in_place, size - 1), (in_place, size + 5), (replaced, 1), (replaced, size)), 1
        ):
            for _ in range(3):
                await client.ask("/file")
            version = b"%d" % number
            change(version, length)
            while True:
                answer = await client.ask("/file")
                assert answer.status == 200 and answer.body == answer.body[:1] * len(answer.body)
                assert etags.setdefault(answer.fields["etag"], answer.body) == answer.body
                if answer.body == version * length:
                    break
        file.unlink()
        while (await client.ask("/file")).status == 200:
            pass
        file.write_bytes(b"again")
        assert (await client.ask("/file")).body == b"again", "that there is nothing is not kept"
        assert pbal.counts["file_cache_hits"] > 0

    run()


@lab
async def test_what_is_written_within_a_tick_of_the_clock_is_seen(lab: Lab) -> None:
    docroot, pbal = await site(lab, recheck="30ms")
    file = docroot / "file"
    file.write_bytes(b"old")
    client = await Keeping.to(pbal)
    now = int(pbal.world.clock.epoch())
    told = memory.facts_of

    def coarse(fd: int) -> Any:
        mode, inode, size, _, _, _, _, *device = told(fd)
        return (mode, inode, size, now, 0, now, 0, *device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "facts_of", coarse)
        patch.setattr(cache, "facts_of", coarse)
        assert (await client.ask("/file")).body == b"old"
        file.write_bytes(b"new")
        while (await client.ask("/file")).body != b"new":
            pass


@lab
async def test_what_this_pbal_writes_or_is_told_is_seen_at_once(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    client = await Keeping.to(pbal)
    for path in ("a", "index.html", "b", "c.txt"):
        (docroot / path).write_bytes(b"old")
    (docroot / "link").symlink_to("a")
    for path in ("/a", "/", "/link", "/b"):
        assert (await client.ask(path)).body == b"old"
    (docroot / "a").write_bytes(b"new")
    (docroot / "index.html").write_bytes(b"new")
    assert (await client.ask("/a")).body == b"old", "nobody looks for an hour"
    pbal.world.files.forget()
    for path, body in (("/a", b"new"), ("/", b"new"), ("/link", b"new"), ("/b", b"old")):
        assert (await client.ask(path)).body == body
    assert (await client.ask("/c.txt")).fields["content-type"] == "text/plain; charset=utf-8"
    assert "txt" in await pbal.say("MIME SET txt text/x-other")
    assert (await client.ask("/c.txt")).fields["content-type"] == "text/x-other; charset=utf-8"
    (docroot / "a").write_bytes(b"newer")
    assert await pbal.say("SET site.index_files = none") == "OK"
    assert (await client.ask("/a")).body == b"newer"
    assert (await client.ask("/")).status == 403
    (docroot / "a").write_bytes(b"newest")
    assert (await client.ask("/a")).body == b"newer"
    assert await pbal.say("SERVER file_recheck = 0") == "OK"
    assert (await client.ask("/a")).body == b"newest"
    other = lab.folder / "other"
    other.mkdir()
    (other / "a").write_bytes(b"other")
    assert await pbal.say(f"SET site.docroot = {other}") == "OK"
    assert (await client.ask("/a")).body == b"other"
    (other / "a").write_bytes(b"at once")
    assert (await client.ask("/a")).body == b"at once"
    assert pbal.world.files.kept == 0


# -- what is shared ----------------------------------------------------------------------------------------------------


@lab
async def test_many_slow_readers_of_a_file_share_one_descriptor(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    with (docroot / "large").open("wb") as file:
        file.truncate(LARGE)
    clients = [await Client.of(pbal, "site", get("/large")) for _ in range(20)]
    await until(lambda: sum(client.full for client in pbal.world.clients) == 20, "all of them to be full")
    assert opened(docroot) == 1 and len(pbal.world.files.open) == 1
    for client in clients[1:]:
        client.reset()
    await until(lambda: len(pbal.world.clients) == 1, "them to leave")
    assert opened(docroot) == 1
    pbal.world.files.tick(pbal.world.clock.now() + 7200)
    assert opened(docroot) == 1, "one still has it"
    clients[0].reset()
    await until(lambda: opened(docroot) == 0, "the file to be closed")
    assert pbal.world.files.kept == 0


@lab
async def test_a_descriptor_that_nobody_asks_for_is_given_up(lab: Lab) -> None:
    docroot, pbal = await site(lab, recheck="1ms")
    (docroot / "large").write_bytes(bytes(SMALL + 1))
    (docroot / "small").write_bytes(b"s")
    client = await Keeping.to(pbal)
    await client.ask("/large")
    await client.ask("/small")
    assert (opened(docroot), pbal.world.files.kept) == (1, 2)
    pbal.world.files.tick(pbal.world.clock.now() + 11)
    assert (opened(docroot), pbal.world.files.kept) == (0, 1), "the disk of a file that is deleted is free again"
    assert len((await client.ask("/large")).body) == SMALL + 1


def test_requests_for_a_name_wait_for_one_job_unless_it_was_written_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_usable", False)
    begun, go_on, walked = threading.Semaphore(0), threading.Event(), finding._walk

    def slow(*args: Any) -> Any:
        found = walked(*args)
        if args[-1].endswith(b"/file"):
            begun.release()
            assert go_on.wait(10)
        return found

    monkeypatch.setattr(finding, "_walk", slow)

    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        (docroot / "file").write_bytes(b"old")
        (docroot / "known").write_bytes(b"known")
        assert (await pbal.ask("site", get("/known"))).body == b"known"
        clients = [await Keeping.to(pbal) for _ in range(4)]
        first = [asyncio.ensure_future(client.ask("/file")) for client in clients[:3]]
        await until(lambda: pbal.counts["file_cache_misses"] == 4, "three to ask")
        await until(lambda: begun.acquire(blocking=False), "a thread to look")
        assert (await pbal.ask("site", get("/known"))).body == b"known", "a disk that hangs holds up nobody else"
        (docroot / "new").write_bytes(b"new")
        (docroot / "new").rename(docroot / "file")
        pbal.world.files.forget()
        second = asyncio.ensure_future(clients[3].ask("/file"))
        await until(lambda: begun.acquire(blocking=False), "another thread to look")
        assert not begun.acquire(blocking=False), "and not one for each"
        go_on.set()
        assert (await second).body == b"new"
        assert [(await each).body for each in first] == [b"old"] * 3
        assert (await clients[0].ask("/file")).body == b"new", "what is kept is the later one, whichever came first"

    run()


# -- what is bounded ---------------------------------------------------------------------------------------------------


@lab
async def test_bounds_on_what_is_kept(lab: Lab) -> None:
    docroot, pbal = await site(lab, "file_cache_files = 10", "file_cache_memory = 4000")
    for number in range(50):
        (docroot / f"{number}").write_bytes(b"%d" % number * 50)
    (docroot / "hot").write_bytes(b"hot")
    (docroot / "big").write_bytes(bytes(1001))
    for number in range(20):
        (docroot / f"large{number}").write_bytes(bytes(SMALL + number + 1))
    client, files = await Keeping.to(pbal), pbal.world.files
    await client.ask("/hot")
    for number in range(50):
        assert (await client.ask(f"/{number}")).body == b"%d" % number * 50
        assert (await client.ask("/hot")).body == b"hot"
        assert files.kept <= 10 and files.memory <= 4000
    assert pbal.counts["file_cache_hits"] == 50, "what is asked for is kept"
    assert pbal.counts["file_cache_evictions"] >= 40
    await client.ask("/big")
    assert opened(docroot) == 1, "more than a quarter of the memory: its descriptor is kept"
    files.most_open = 3
    for number in range(20):
        assert len((await client.ask(f"/large{number}")).body) == SMALL + number + 1
        assert opened(docroot) <= 3
    assert await pbal.say("SERVER file_cache_memory = 0") == "OK"
    assert (await client.ask("/49")).body == b"49" * 50


@lab
async def test_what_slow_readers_hold_in_memory_is_bounded(lab: Lab) -> None:
    """Each has a file of its own, which had to make room for the next one."""
    docroot, pbal = await site(lab, "file_cache_memory = 4m")
    size = 1 << 20
    for number in range(6):
        (docroot / f"{number}").write_bytes(b"%x" % number * size)
    files, clients = pbal.world.files, []
    for number in range(6):
        for _ in range(2):  # a copy is made for who asks again; how much of one answer the system takes is its own affair
            assert len((await pbal.ask("site", get(f"/{number}"))).body) == size
        clients.append(await Client.of(pbal, "site", get(f"/{number}") * 12 + get("/none", "Connection: close")))
        await until(lambda: sum(client.full for client in pbal.world.clients) == number + 1, "it to be full")  # noqa: B023 - it waits here
        assert files.memory <= 4 * size and files.pinned <= 4 * size
    assert files.pinned, "some are sent that are kept no more"
    for number, client in enumerate(clients):
        assert (await client.rest()).count(b"%x" % number * size) == 12
    assert files.pinned == 0


@lab
async def test_descriptors_are_given_back_where_they_run_short(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    for name in ("a", "b", "c"):
        (docroot / name).write_bytes(name.encode() * (SMALL + 1))
    client = await Keeping.to(pbal)
    for name in ("a", "b"):
        await client.ask(f"/{name}")
    assert opened(docroot) == 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(number) for number in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))  # no number is free
        assert (await client.ask("/c")).body == b"c" * (SMALL + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


@lab
async def test_files_in_memory_go_out_whole_by_every_way(lab: Lab) -> None:
    """Plain and under TLS, compressed, in ranges, to fast readers and slow ones, pipelined: each kind of file in memory and beside it."""
    authority = Authority(lab.folder)
    pair = authority.certify("a.test")
    docroot, content = lab.folder / "docroot", random.Random(5).randbytes(SMALL + 100_000)
    docroot.mkdir()
    sizes = (1, 65536, 65537, 500_000, SMALL, SMALL + 100_000)
    for size in sizes:
        (docroot / f"{size}.txt").write_bytes(content[:size])
    services = "".join(
        f"CREATE SERVICE {name}\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET docroot = {docroot}\n{more}\nENABLE {name}\n"
        for name, more in (("plain", ""), ("packed", "SET compress = gzip"), ("safe", files(pair)))
    )
    pbal = await lab.pbal("SERVER file_recheck = 1h\n" + inspect.cleandoc(services))
    for service in ("plain", "packed", "safe"):
        reader, writer = await (secure(pbal, service, trusting(authority)) if service == "safe" else pbal.connect(service))
        for size in (*sizes, *sizes):
            writer.write(get(f"/{size}.txt", "Accept-Encoding: gzip"))
            answer = await read_response(reader)
            coded = answer.fields.get("content-encoding") == "gzip"
            assert (gzip.decompress(answer.body) if coded else answer.body) == content[:size]
            assert coded == (service == "packed" and size > 1)
            assert int(answer.fields.get("content-length", size)) == len(answer.body) or coded
            first, last = size // 3, max(size // 3, size - 7)
            for said, body in ((f"{first}-{last}", content[first : last + 1]), ("-1", content[size - 1 : size])):
                writer.write(get(f"/{size}.txt", f"Range: bytes={said}", method="GET"))
                answer = await read_response(reader)
                assert (answer.status, answer.body) == (206, body)
        writer.write(b"".join(get(f"/{size}.txt") + get(f"/{size}.txt", method="HEAD") for size in sizes * 2))
        for size in sizes * 2:
            assert (await read_response(reader)).body == content[:size]
            assert (await read_response(reader, head_only=True)).fields["content-length"] == str(size)
    assert pbal.counts["file_cache_hits"] > 50 and pbal.counts["files_cut_off"] == 0


@lab
async def test_a_slow_reader_of_a_file_in_memory_has_little_that_waits(lab: Lab) -> None:
    """The kernel sends what there is room for, again and again; in between a little of it waits for the client to take some."""
    docroot, pbal = await site(lab)
    content = random.Random(6).randbytes(SMALL)
    (docroot / "file").write_bytes(content)
    warm = await Keeping.to(pbal)
    for _ in range(2):
        assert (await warm.ask("/file")).body == content
    with pytest.MonkeyPatch.context() as patch:
        sent: list[int] = []
        send = passing.pass_file

        def counted(*args: int) -> int:
            sent.append(send(*args))
            return sent[-1]

        patch.setattr(answering, "pass_file", counted)
        loop, received = asyncio.get_running_loop(), bytearray()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.setblocking(False)
            await loop.sock_connect(sock, pbal.server.address("site"))
            await loop.sock_sendall(sock, get("/file") * 11 + get("/file", "Connection: close"))
            await until(lambda: any(each.full for each in pbal.world.clients), "a full client")
            assert max(each.unsent_octets for each in pbal.world.clients) < 40_000
            async with asyncio.timeout(DEADLINE):
                while piece := await loop.sock_recv(sock, 1 << 20):
                    received += piece
        assert received.count(content) == 12 and received.endswith(content)
        assert sum(sent) > 6 * SMALL, "and not only what its first window took"


@lab
async def test_a_large_file_is_read_into_one_buffer_and_still_whole_for_everyone(lab: Lab) -> None:
    """Slow and fast readers of several files at once: a piece that one has not taken is not overwritten for another."""
    docroot, pbal = await site(lab)
    for name in "abc":
        (docroot / name).write_bytes(name.encode() * LARGE)
    slow = [await Client.of(pbal, "site", get(f"/{name}", "Connection: close")) for name in "abc"]
    await until(lambda: sum(client.full for client in pbal.world.clients) == 3, "three full ones")
    for name in "abc":
        assert (await pbal.ask("site", get(f"/{name}"))).body == name.encode() * LARGE
    for name, client in zip("abc", slow, strict=True):
        assert (await client.rest()).endswith(b"\r\n\r\n" + name.encode() * LARGE)


@lab
async def test_what_a_file_was_before_is_not_held(lab: Lab) -> None:
    """What is dropped waited for the hand of the clock with all its octets, and was not counted any more."""
    docroot, pbal = await site(lab)
    (docroot / "a").write_bytes(b"0" * 1000)
    for size in range(1001, 1009):
        assert (await pbal.ask("site", get("/a"))).status == 200
        (docroot / "a").write_bytes(b"0" * size)
        pbal.world.files.forget()
    gc.collect()
    held = [each.body for each in gc.get_objects() if isinstance(each, OpenFile) and each.files is pbal.world.files]
    assert len(held) == 1 and pbal.world.files.memory == 1007
