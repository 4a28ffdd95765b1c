"""web_server on the wire: types, conditions, and nothing that lies outside the docroot."""

import os
from email.utils import formatdate
from pathlib import Path

import pytest
from lab import Lab, Pbal, lab, read_response

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
    """A docroot with this and that in it, and a secret beside it."""
    docroot = lab.folder / "docroot"
    (docroot / "sub" / "deep").mkdir(parents=True)
    (lab.folder / "secret").write_text("secret")
    (docroot / "index.html").write_text("<p>index")
    (docroot / "sub" / "index.html").write_text("<p>sub")
    (docroot / "a b\u00e9.txt").write_text("blank")
    (docroot / "empty.css").write_text("")
    (docroot / "data.bin").write_bytes(bytes(range(256)))
    (docroot / "inside").symlink_to(docroot / "index.html")
    (docroot / "outside").symlink_to(lab.folder / "secret")
    (docroot / "up").symlink_to(lab.folder)
    os.mkfifo(docroot / "pipe")
    return docroot, await lab.pbal(CONF.format(docroot=docroot))


@lab
async def test_get_and_head_say_the_same(lab: Lab) -> None:
    _, pbal = await site(lab)
    for path, kind, body in (
        ("/", "text/html", b"<p>index"),
        ("/index.html?query", "text/html", b"<p>index"),
        ("/sub/", "text/html", b"<p>sub"),
        ("/up/docroot/index.html", "text/html", b"<p>index"),
        ("/a%20b%C3%A9.txt", "text/plain", b"blank"),
        ("/empty.css", "text/css", b""),
        ("/data.bin", "application/octet-stream", bytes(range(256))),
        ("/inside", "application/octet-stream", b"<p>index"),
    ):
        answer = await pbal.ask("site", get(path))
        assert (answer.status, answer.body) == (200, body), path
        assert answer.fields["content-type"].startswith(kind) and int(answer.fields["content-length"]) == len(body)
        head = await pbal.ask("site", get(path, method="HEAD"))
        assert {**head.fields, "date": ""} == {**answer.fields, "date": ""}


@lab
async def test_a_directory_without_its_slash_is_redirected_to_this_host_only(lab: Lab) -> None:
    _, pbal = await site(lab)
    answer = await pbal.ask("site", get("/sub?q=1"))
    assert (answer.status, answer.fields["location"]) == (301, "/sub/?q=1")
    answer = await pbal.ask("site", get("//sub"))
    assert (answer.status, answer.fields["location"]) == (301, "/sub/"), "not //sub/, which is a host"
    assert (await pbal.ask("site", get("/sub/deep/"))).status == 403, "no index there, and no listing"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret", "/sub/../../secret", "/%2e%2e/secret", "/..%2fsecret", "/%2e%2e%2fsecret", "/..%5csecret", "/..\\secret",
        "/%252e%252e/secret", "/outside", "/up/secret", "/sub/../index.html", "/index.html/", "/index.html%00", "/%00", "/pipe",
        "/.", "/..", "/%zz", "/missing", "/" + "x" * 4000, "/" + "x/" * 2000, "/%ff%fe", "http://h/../secret",
    ],
)  # fmt: skip
def test_nothing_else_is_served(path):
    @lab
    async def run(lab: Lab) -> None:
        _, pbal = await site(lab)
        answer = await pbal.ask("site", get(path))
        assert answer.status == (301 if path == "/." else 404) and b"secret" not in answer.body
        assert (await pbal.ask("site", get("/"))).status == 200

    run()


@lab
async def test_conditional_requests(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    os.utime(docroot / "index.html", (784111777, 784111777))
    plain = await pbal.ask("site", get("/"))
    etag, modified = plain.fields["etag"], plain.fields["last-modified"]
    assert modified == "Sun, 06 Nov 1994 08:49:37 GMT"
    for fields, status in (
        ([f"If-None-Match: {etag}"], 304),
        ([f'If-None-Match: "other", W/{etag.removeprefix("W/")}'], 304),
        (["If-None-Match: *"], 304),
        (['If-None-Match: "other"'], 200),
        ([f"If-Modified-Since: {modified}"], 304),
        (["If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT"], 304),
        (["If-Modified-Since: Sun Nov  6 08:49:37 1994"], 304),
        ([f"If-Modified-Since: {formatdate(784111776, usegmt=True)}"], 200),
        (["If-Modified-Since: yesterday"], 200),
        ([f"If-Modified-Since: {modified}", 'If-None-Match: "other"'], 200),
        ([f"If-Match: {etag}"], 200),
        (['If-Match: "other"'], 412),
        ([f"If-Unmodified-Since: {formatdate(784111776, usegmt=True)}"], 412),
    ):
        answer = await pbal.ask("site", get("/", *fields))
        assert answer.status == status, fields
        assert answer.fields["etag"] == etag
        assert answer.body == {200: b"<p>index", 304: b"", 412: b"The condition does not hold.\n"}[status]


@lab
async def test_other_methods_and_what_follows_them(lab: Lab) -> None:
    _, pbal = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get("/", method="DELETE") + get("/sub/") + get("/", "Content-Length: 3", method="POST") + b"abc" + get("/"))
    for status in (405, 200, 405):
        answer = await read_response(reader)
        assert answer.status == status
        assert status == 200 or answer.fields["allow"] == "GET, HEAD, OPTIONS"
    assert answer.fields["connection"] == "close", "nobody wants the body"
    assert await reader.read() == b""


@lab
async def test_a_file_that_shrinks_while_it_is_sent_looks_cut_off(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "large").write_bytes(b"x" * 20_000_000)
    reader, writer = await pbal.connect("site")
    writer.write(get("/large"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Content-Length: 20000000\r\n" in head
    os.truncate(docroot / "large", 1_000_000)
    assert len(await reader.read()) < 20_000_000
    assert (await pbal.ask("site", get("/"))).status == 200


@lab
async def test_docroot_and_index_files_change_live(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    assert await pbal.say(f"SET site.docroot = {docroot}/sub") == "OK"
    assert (await pbal.ask("site", get("/"))).body == b"<p>sub"
    assert await pbal.say("SET site.index_files = none.html") == "OK"
    assert (await pbal.ask("site", get("/"))).status == 403
    assert (await pbal.say("SET site.docroot = /no/such/place")).startswith("ERROR")
    assert (await pbal.ask("site", get("/index.html"))).body == b"<p>sub"
