"""Files that were compressed before (precompressed): which one is sent to whom, what is said of it, and what is never sent in its place."""

import asyncio
import gzip
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from docroots import docroot, get
from lab import DEADLINE, Lab, Pbal, Response, lab

CONTENT = b"the content " * 100


async def site(lab: Lab, *more: str, offered: str = "br zstd gzip") -> tuple[Path, Pbal]:
    """A file with three neighbours, whose content says what they are."""
    root, pbal = await docroot(lab, f"SET precompressed = {offered}", *more)
    (root / "a.txt").write_bytes(CONTENT)
    for ending in ("gz", "br", "zst"):
        (root / f"a.txt.{ending}").write_text(ending)
    return root, pbal


async def ask(pbal: Pbal, accept: str | None, *fields: str, path: str = "/a.txt", method: str = "GET") -> Response:
    said = () if accept is None else (f"Accept-Encoding: {accept}",)
    return await pbal.ask("site", get(path, *said, *fields, method=method))


@lab
async def test_the_client_chooses_and_every_answer_says_so(lab: Lab) -> None:
    _, pbal = await site(lab)
    etags: dict[str, str] = {}
    for accept, sent in (
        (None, ""), ("", ""), ("gzip", "gz"), ("x-gzip", "gz"), ("GZIP", "gz"), ("gzip, br, zstd", "br"), ("zstd, gzip", "zst"),
        ("gzip;q=1, br;q=0.5", "gz"), ("*", "br"), ("*;q=0.1", "br"), ("br;q=0, *", "zst"), ("br;q=0, zstd;q=0, gzip;q=0", ""),
        ("identity", ""), ("identity;q=1, gzip;q=0.5", ""), ("identity;q=0.5, gzip;q=0.5", "gz"), ("identity;q=0, gzip", "gz"),
        ("identity;q=0", ""), ("identity;q=0, *;q=0", ""), ("deflate", ""), ("gzip;q=nonsense", ""), ("deflate, gzip;q=0.001", "gz"),
    ):  # fmt: skip
        answer = await ask(pbal, accept)
        assert (answer.status, answer.body) == (200, sent.encode() or CONTENT), accept
        coding = {"": None, "gz": "gzip", "br": "br", "zst": "zstd"}[sent]
        assert answer.fields.get("content-encoding") == coding and answer.fields["vary"] == "Accept-Encoding"
        assert answer.fields["content-type"] == "text/plain; charset=utf-8" and answer.fields["accept-ranges"] == "bytes"
        assert etags.setdefault(sent, answer.fields["etag"]) == answer.fields["etag"]
        head = await ask(pbal, accept, method="HEAD")
        assert head.fields | {"date": ""} == answer.fields | {"date": ""}
    assert len(set(etags.values())) == 4 and all(etag.startswith('"') for etag in etags.values())


@pytest.mark.parametrize("compress", ["off", "gzip"])
def test_each_representation_has_its_own_conditions_and_ranges(compress):
    @lab
    async def run(lab: Lab) -> None:
        _, pbal = await site(lab, f"SET compress = {compress}")
        etag = (await ask(pbal, "br")).fields["etag"]
        for fields, status, body in (
            ((f"If-None-Match: {etag}",), 304, b""), ((f"If-Match: {etag}",), 200, b"br"), (('If-Match: "x"',), 412, None),
            (("Range: bytes=1-",), 206, b"r"), (("Range: bytes=0-0", f"If-Range: {etag}"), 206, b"b"), (("Range: bytes=9-",), 416, None),
        ):  # fmt: skip
            answer = await ask(pbal, "br", *fields)
            assert answer.status == status and body in (None, answer.body), fields
            assert answer.fields["etag"] == etag, "it is strong, whatever else is compressed on the way"
            assert (answer.fields.get("content-encoding") == "br") is (status in (200, 206))
            assert "Accept-Encoding" in answer.fields["vary"] or status >= 400
        plain = await ask(pbal, None, f"If-None-Match: {etag}", "Range: bytes=0-2", f"If-Range: {etag}")
        assert (plain.status, plain.body) == (200, CONTENT)

    run()


@pytest.mark.parametrize("more", ["compress = off", "compress = gzip", "cache_control = 1h", "cache_control = off"])
def test_all_answers_about_a_file_agree(more):
    @lab
    async def run(lab: Lab) -> None:
        root, pbal = await site(lab, f"SET {more}", "SET compress_min_length = 0", offered="gzip")
        (root / "b.txt").write_bytes(CONTENT)
        (root / "c.png").write_bytes(CONTENT)
        for path in ("/a.txt", "/b.txt", "/c.png"):
            whole = await ask(pbal, None, path=path)
            etag = whole.fields["etag"]
            for field, status in ((f"If-None-Match: {etag}", 304), ("Range: bytes=0-4", 206)):
                answer = await ask(pbal, None, field, path=path)
                assert answer.status == status
                for name in ("etag", "cache-control", "vary", "content-location", "expires", "last-modified"):
                    said = whole.fields.get(name)
                    assert answer.fields.get(name) in ({said} if said or status != 304 else {None, "Accept-Encoding"}), (path, status, name)
                assert "date" in answer.fields
            pressed = await ask(pbal, "gzip", path=path)
            same = await ask(pbal, "gzip", f"If-None-Match: {pressed.fields['etag']}", path=path)
            assert (same.status, same.fields["etag"]) == (304, pressed.fields["etag"]), "as strong as it was"
            assert ("content-encoding" in pressed.fields) is (pressed.fields["etag"] != etag), "another representation, another tag"
            assert pressed.fields.get("vary") == whole.fields.get("vary")

    run()


@lab
async def test_it_goes_together_with_compression_on_the_way(lab: Lab) -> None:
    root, pbal = await site(lab, "SET compress = gzip", "SET compress_min_length = 0", offered="br gzip")
    (root / "b.txt").write_bytes(CONTENT)
    answer = await ask(pbal, "gzip")
    assert (answer.body, answer.fields["content-encoding"]) == (b"gz", "gzip"), "not twice"
    assert (await ask(pbal, "br, gzip")).body == b"br"
    answer = await ask(pbal, "br, gzip", path="/b.txt")
    assert answer.fields["content-encoding"] == "gzip" and gzip.decompress(answer.body) == CONTENT, "where there is no neighbour"
    assert answer.fields["vary"] == "Accept-Encoding"
    (root / "a.txt.gz").unlink()
    pbal.world.files.forget()
    answer = await ask(pbal, "gzip")
    assert gzip.decompress(answer.body) == CONTENT and answer.fields["vary"] == "Accept-Encoding", "said once"
    assert answer.fields["etag"].startswith('W/"')
    (root / "c.png").write_bytes(CONTENT)
    for path, vary in (("/b.txt", "Accept-Encoding"), ("/a.txt", "Accept-Encoding"), ("/c.png", None)):
        part = await ask(pbal, None, "Range: bytes=0-4", path=path)
        assert (part.status, part.body, part.fields.get("vary")) == (206, CONTENT[:5], vary), "as the whole says it"


@lab
async def test_one_that_is_older_is_passed_over(lab: Lab) -> None:
    root, pbal = await site(lab, offered="gzip")
    second = 10**9
    for file, neighbour, sent in (
        (10 * second, 10 * second, True), (10 * second + 5, 10 * second + 5, True), (10 * second + 5, 10 * second + 4, False),
        (10 * second + 5, 10 * second, True), (10 * second, 10 * second - 1, False), (10 * second, 9 * second, False),
        (10 * second, 11 * second, True),
    ):  # fmt: skip
        os.utime(root / "a.txt", ns=(0, file))
        os.utime(root / "a.txt.gz", ns=(0, neighbour))
        pbal.world.files.forget()
        before = pbal.counts["precompressed_stale"]
        answer = await ask(pbal, "gzip")
        assert (answer.body == b"gz") is sent, (file, neighbour)
        assert ("vary" in answer.fields) is sent
        assert pbal.counts["precompressed_stale"] == before + (not sent)


@lab
async def test_neighbours_are_found_by_the_rules_of_all_files(lab: Lab) -> None:
    root, pbal = await site(lab, offered="gzip")
    (lab.folder / "secret.gz").write_text("secret")
    (root / "b.txt").write_bytes(CONTENT)
    (root / "b.txt.gz").symlink_to(lab.folder / "secret.gz")
    (root / "c.txt").write_bytes(CONTENT)
    (root / "c.txt.gz").mkdir()
    (root / "d.txt").write_bytes(CONTENT)
    os.mkfifo(root / "d.txt.gz")
    (root / ".e").write_bytes(CONTENT)
    (root / ".e.gz").write_text("dot")
    (root / "f.txt.gz").write_text("alone")
    (root / "index.html").write_text("index")
    (root / "index.html.gz").write_text("index, compressed")
    (root / "sub.gz").mkdir()
    (root / "sub").mkdir()
    for path, status, body in (
        ("/b.txt", 200, CONTENT), ("/c.txt", 200, CONTENT), ("/d.txt", 200, CONTENT), ("/.e", 404, None), ("/f.txt", 404, None),
        ("/f.txt.gz", 200, b"alone"), ("/", 200, b"index, compressed"), ("/sub", 301, None), ("/sub/", 403, None),
    ):  # fmt: skip
        answer = await ask(pbal, "gzip", path=path)
        assert answer.status == status and body in (None, answer.body), path
        assert b"secret" not in answer.body
    answer = await ask(pbal, "gzip", path="/f.txt.gz")
    assert answer.fields["content-type"] == "application/gzip" and "content-encoding" not in answer.fields


@lab
async def test_what_comes_and_goes_is_seen(lab: Lab) -> None:
    root, pbal = await docroot(lab, "SET precompressed = gzip")
    (root / "a.txt").write_bytes(CONTENT)
    assert await pbal.say("SERVER file_recheck = 1ms") == "OK"

    async def sent() -> bytes:
        return (await ask(pbal, "gzip")).body

    async with asyncio.timeout(DEADLINE):
        await watch(root, pbal, sent)
    assert await pbal.say("SET site.precompressed = off") == "OK"
    for wrong in ("SET site.precompressed = deflate", "SET site.precompressed = gzip gzip", "SET site.precompressed = off gzip"):
        assert (await pbal.say(wrong)).startswith("ERROR"), wrong
    (root / "a.txt.gz").write_text("gz")
    assert await sent() == CONTENT


async def watch(root: Path, pbal: Pbal, sent: Callable[[], Awaitable[bytes]]) -> None:
    """A neighbour comes, and goes."""
    assert await sent() == CONTENT and "vary" not in (await ask(pbal, None)).fields
    (root / "a.txt.gz").write_text("gz")
    while await sent() != b"gz":
        pass
    while "vary" not in (await ask(pbal, None)).fields:
        pass
    (root / "a.txt.gz").unlink()
    while await sent() != CONTENT:
        pass


@lab
async def test_explain_tells_which_is_sent(lab: Lab) -> None:
    root, pbal = await site(lab, offered="br gzip")
    os.utime(root / "a.txt.br", (0, 0))
    answer = await pbal.say("explain GET http://h/a.txt Accept-Encoding: gzip, br")
    assert "2 bytes, text/plain; charset=utf-8, gzip (precompressed); its br is older, and passed over" in answer
    assert "precompressed" not in await pbal.say("explain GET http://h/a.txt")
