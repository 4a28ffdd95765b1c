"""The web server over real sockets: names, conditions, methods, files that change under way, clients of every kind.

test_files.py beside this has the plain cases; here are the corners.
"""

import asyncio
import contextlib
import os
import resource
import socket
import threading
from email.utils import formatdate
from pathlib import Path

import pytest
from lab import DEADLINE, Lab, Pbal, lab, read_response, until

LARGE = 12_000_000
"""Octets that no pair of socket buffers on one machine holds."""
WROTE_THE_RFC = 784111777
"""The second of the dates in RFC 9110 section 5.6.7."""


def get(path: str | bytes, *fields: str, method: str = "GET", version: str = "1.1", host: str = "Host: h") -> bytes:
    target = path.encode() if isinstance(path, str) else path
    lines = [line.encode() for line in (host, *fields) if line]
    return b"\r\n".join([b"%b %b HTTP/%b" % (method.encode(), target, version.encode()), *lines, b"", b""])


async def site(lab: Lab, *more: str, plugins: str = "") -> tuple[Path, Pbal]:
    """A docroot in a folder that holds a secret too, and a pbal that serves it."""
    docroot = lab.folder / "docroot"
    docroot.mkdir()
    (lab.folder / "secret").write_text("secret")
    (docroot / "index.html").write_text("<p>index")
    settings = "\n".join(more)
    pbal = await lab.pbal(
        f"{plugins}\nCREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET docroot = {docroot}\n{settings}\nENABLE site"
    )
    return docroot, pbal


def is_open(path: Path) -> int:
    """How many descriptors of this process lead to `path`, also after it was unlinked."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{number}").removesuffix(" (deleted)") == os.path.realpath(path)
    return found


async def slow_reader(pbal: Pbal, request: bytes) -> socket.socket:
    """A client with a small window that sent its request and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, pbal.server.address("site"))
    await loop.sock_sendall(sock, request)
    await until(lambda: any(client.full for client in pbal.world.clients), "a full client")
    return sock


async def rest_of(sock: socket.socket) -> bytes:
    """All that comes until the end. A reset is no end."""
    loop, pieces = asyncio.get_running_loop(), []
    async with asyncio.timeout(DEADLINE):
        while piece := await loop.sock_recv(sock, 1 << 20):
            pieces.append(piece)
    sock.close()
    return b"".join(pieces)


# -- what is said of a file ------------------------------------------------------------------------------------------


@lab
async def test_types_by_suffix(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    text = "; charset=utf-8"
    for name, kind in (
        ("a.html", "text/html" + text), ("a.HTM", "text/html" + text), ("a.css", "text/css" + text), ("a.js", "text/javascript" + text),
        ("a.mjs", "text/javascript" + text), ("a.txt", "text/plain" + text), ("a.md", "text/markdown" + text),
        ("a.json", "application/json" + text), ("a.svg", "image/svg+xml" + text), ("a.png", "image/png"), ("a.JPG", "image/jpeg"),
        ("a.webp", "image/webp"), ("a.avif", "image/avif"), ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"), ("a.pdf", "application/pdf"),
        ("a.html.png", "image/png"), ("a.html.gz", "application/gzip"), ("a.tgz", "application/gzip"),
        ("README", "application/octet-stream"), ("a.", "application/octet-stream"),
        ("a.html~", "application/octet-stream"), ("data:x,a.css", "text/css" + text), ("http:a.css", "text/css" + text),
        ("\u00e9.css", "text/css" + text),
    ):  # fmt: skip
        (docroot / name).write_text(name)
        answer = await pbal.ask("site", get("/" + "".join(f"%{octet:02x}" for octet in name.encode())))
        assert (answer.status, answer.body.decode(), answer.fields["content-type"]) == (200, name, kind)


@lab
async def test_head_is_get_without_a_body_whatever_the_answer(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "sub").mkdir()
    (docroot / "empty").touch()
    for path, status, *fields in (
        ("/", 200), ("/empty", 200), ("/sub", 301), ("/sub/", 403), ("/none", 404),
        ("/", 304, "If-None-Match: *"), ("/", 412, 'If-Match: "x"'),
    ):  # fmt: skip
        reader, writer = await pbal.connect("site")
        writer.write(get(path, *fields) + get(path, *fields, method="HEAD") + get("/"))
        answer, head = await read_response(reader), await read_response(reader, head_only=True)
        assert answer.status == head.status == status
        differing = {name for name in answer.fields | head.fields if answer.fields.get(name) != head.fields.get(name)}
        assert differing <= {"date"}, path
        assert (await read_response(reader)).body == b"<p>index", "the third answer begins where the second ended"


@lab
async def test_an_empty_file_is_a_file(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "empty.txt").touch()
    reader, writer = await pbal.connect("site")
    for _ in range(2):
        writer.write(get("/empty.txt"))
        answer = await read_response(reader)
        assert (answer.status, answer.fields["content-length"], answer.body) == (200, "0", b"")
    writer.write(get("/empty.txt", f"If-None-Match: {answer.fields['etag']}"))
    assert (await read_response(reader)).status == 304


@lab
async def test_dates_of_files_that_no_clock_would_give(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    for seconds in (-1, -(10**10), 4102444800, 10**12, 10**16):
        with contextlib.suppress(OverflowError, OSError):  # a file system keeps what it can
            os.utime(docroot / "index.html", (0, seconds))
        answer = await pbal.ask("site", get("/"))
        assert (answer.status, answer.body) == (200, b"<p>index"), seconds
        # RFC 9110 section 8.8.2.1: never later than Date.
        assert http_seconds(answer.fields["last-modified"]) <= http_seconds(answer.fields["date"]), seconds
        assert (await pbal.ask("site", get("/", f"If-None-Match: {answer.fields['etag']}"))).status == 304
    assert is_open(docroot / "index.html") == 0


def http_seconds(text: str) -> int:
    from pbal.http1.conditional import parse_http_date

    seconds = parse_http_date(text.encode())
    assert seconds is not None
    return seconds


# -- directories -----------------------------------------------------------------------------------------------------


@lab
async def test_the_first_index_file_that_can_be_served(lab: Lab) -> None:
    docroot, pbal = await site(lab, "SET index_files = a.html b.html sub/c.html")
    (docroot / "index.html").unlink()
    (docroot / "sub").mkdir()
    assert (await pbal.ask("site", get("/"))).status == 403
    (docroot / "sub" / "c.html").write_text("c")
    assert (await pbal.ask("site", get("/"))).body == b"c"
    (docroot / "b.html").symlink_to(lab.folder / "secret")
    assert (await pbal.ask("site", get("/"))).body == b"c", "one that leads outside is none"
    (docroot / "b.html").unlink()
    (docroot / "b.html").mkdir()
    assert (await pbal.ask("site", get("/"))).body == b"c", "a directory is none"
    (docroot / "b.html").rmdir()
    os.mkfifo(docroot / "b.html")
    assert (await pbal.ask("site", get("/"))).body == b"c", "a pipe is none"
    (docroot / "a.html").write_text("a")
    assert (await pbal.ask("site", get("/?b=c"))).body == b"a"
    for outside in (f"{lab.folder}/secret", "../secret", "sub/../../secret", "sub/", "a//b", "."):
        answer = await pbal.say(f"SET site.index_files = b.html {outside}")
        assert answer.startswith(
            f"ERROR: index_files: expected names of files below the directory, such as index.html, found '{outside}'"
        ), answer
    assert (await pbal.ask("site", get("/"))).body == b"a"


@lab
async def test_the_redirect_to_a_directory_stays_where_it_was_asked(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "a b\u00e9" / "sub").mkdir(parents=True)
    (docroot / "evil.example").mkdir()
    (docroot / "\\evil.example").mkdir()
    for target, location in (
        ("/\\evil.example", "/%5Cevil.example/"), ("//\\evil.example", "/%5Cevil.example/"), ("/%5cevil.example", "/%5cevil.example/"),
        ("/a%20b%C3%A9", "/a%20b%C3%A9/"), ("/a%20b%C3%A9/sub?x=/..&y", "/a%20b%C3%A9/sub/?x=/..&y"), ("/evil.example", "/evil.example/"),
        ("//evil.example", "/evil.example/"), ("///evil.example", "/evil.example/"), ("/./evil.example", "/./evil.example/"),
        ("http://other.example/evil.example?q", "/evil.example/?q"), ("/%2fevil.example", "/%2fevil.example/"),
    ):  # fmt: skip
        answer = await pbal.ask("site", get(target))
        assert (answer.status, answer.fields["location"]) == (301, location), target


# -- which file, and none besides ------------------------------------------------------------------------------------


@lab
async def test_names_are_octets_decoded_once(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    for name, target in (
        (b"a b", b"/a%20b"), (b"a+b", b"/a+b"), (b"100%", b"/100%25"), (b"100%", b"/100%"), (b"%41", b"/%2541"), (b"%zz", b"/%zz"),
        ("\u00e9\u4e16.txt".encode(), b"/%C3%A9%e4%b8%96.txt"), (b"\xff\xfe.txt", b"/%ff%FE.txt"), (b"a?b", b"/a%3fb"), (b"a#b", b"/a%23b"),
        (b"a\nb", b"/a%0ab"), (b"a\\b", b"/a%5cb"), (b"a..", b"/a.."), (b"a...", b"/a%2e.."), (b"%2e%2e", b"/%252e%252e"),
        (b";a=b", b"/;a=b"), (b"~", b"/%7e"), (b"index.html", b"/%69ndex.html"),
        (b"index.html", b"//index.html"), (b"index.html", b"/./index.html"),
        (b"x" * 255, b"/" + b"x" * 255), (b"index.html", b"/./" * 1000 + b"index.html"),
    ):  # fmt: skip
        (docroot / os.fsdecode(name)).write_bytes(name)
        answer = await pbal.ask("site", get(target))
        assert (answer.status, answer.body) == (200, name), target


@lab
async def test_a_query_is_no_part_of_the_name(lab: Lab) -> None:
    _, pbal = await site(lab)
    for query in ("?", "?a=b", "?/../../secret", "?%00", "?a?b", "?%2e%2e%2f", "?" + "x" * 4000):
        assert (await pbal.ask("site", get("/index.html" + query))).body == b"<p>index"
        assert (await pbal.ask("site", get("/" + query))).body == b"<p>index"


@lab
async def test_nothing_beside_the_docroot(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (lab.folder / "docroot2").mkdir()
    (lab.folder / "docroot2" / "index.html").write_text("secret")
    (docroot / "sub").mkdir()
    (docroot / "up").symlink_to(lab.folder)
    (docroot / "absolute").symlink_to("/")
    (docroot / "beside").symlink_to("../docroot2")
    (docroot / "far").symlink_to("sub/../../secret")
    (docroot / "round").symlink_to("round")
    (docroot / "gone").symlink_to("nowhere")
    for target in (
        "/../secret", "/sub/../../secret", "/%2e%2e/secret", "/%2E%2e%2Fsecret", "/..%2fsecret", "/.%2e/secret", "/%252e%252e%252fsecret",
        "/sub/%2e%2e/%2e%2e/secret", "/../docroot2/index.html", "/../docroot/index.html", "/sub/..", "/..", "/%2e%2e", "/../", "/sub/../",
        "/..%5csecret", "/%5c..%5csecret", "/..\\secret", "\\..\\secret", "/%00", "/index.html%00", "/..%00/secret", "/secret%00.html",
        "/%c0%ae%c0%ae/secret", "/%uff0e%uff0e/secret", "/..;/secret", "http://h/../secret", "http://h/%2e%2e/secret", "file:///etc/passwd",
        "/up/secret", "/up/docroot2/index.html", "/absolute/etc/passwd", "/beside/index.html", "/far", "/round", "/gone",
        f"/{docroot}2/index.html", f"/{lab.folder}/secret", "/index.html/", "/index.html/index.html",
        "/index.html/..", "/proc/self/environ",
        "/" + "x" * 256, "/" + "x" * 4090, "/" + "x/" * 3000, "/" + "%2e%2e%2f" * 800 + "secret", "/" + "../" * 2000 + "secret",
    ):  # fmt: skip
        answer = await pbal.ask("site", get(target))
        assert answer.status in (400, 404), target
        assert b"secret" not in answer.body and b"root:" not in answer.body
        assert str(lab.folder) not in answer.body.decode(), "no path of the machine is told"
    assert (await pbal.ask("site", get("/up/docroot/index.html"))).body == b"<p>index", "out and in again ends inside"


@lab
async def test_links_do_not_tell_what_lies_outside(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (lab.folder / "folder").mkdir()
    (docroot / "up").symlink_to(lab.folder)
    there = [await pbal.ask("site", get(path)) for path in ("/up", "/up/", "/up/folder", "/up/folder/", "/up/secret")]
    absent = await pbal.ask("site", get("/up/none/"))
    assert {(answer.status, answer.body) for answer in there} == {(absent.status, absent.body)} == {(404, absent.body)}


@lab
async def test_only_files_are_served_and_nothing_else_is_touched(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    pipe = docroot / "pipe"
    os.mkfifo(pipe)
    (docroot / "null").symlink_to("/dev/null")
    (docroot / "socket.txt").touch()
    (docroot / "socket.txt").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(docroot / "socket.txt"))
        if os.geteuid() == 0:
            with contextlib.suppress(PermissionError):  # not in every container
                os.mknod(docroot / "zero.txt", 0o666 | 0o020000, os.makedev(1, 5))
        heard: list[object] = []

        def speak() -> None:
            try:
                with open(pipe, "wb", buffering=0) as file:
                    heard.append(file.write(b"word"))
            except OSError as error:
                heard.append(error)

        writer = threading.Thread(target=speak, daemon=True)
        writer.start()
        for path in ("/pipe", "/null", "/socket.txt", "/zero.txt", "/pipe/", "/socket.txt/x"):
            for method in ("GET", "HEAD"):
                assert (await pbal.ask("site", get(path, method=method))).status == 404, path
        # Whoever waits for a reader of the pipe still waits: a request is not one.
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        await until(lambda: not writer.is_alive(), "the writer")
        assert (heard, os.read(reader, 9)) == ([4], b"word")
        os.close(reader)


@lab
async def test_what_may_not_be_read_is_403_and_says_no_more(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "private.html").write_text("secret")
    (docroot / "private.html").chmod(0)
    (docroot / "closed").mkdir()
    (docroot / "closed" / "index.html").write_text("secret")
    (docroot / "closed").chmod(0)
    lab.folder.chmod(0o755)
    root = os.geteuid() == 0
    reader, writer = await pbal.connect("site")
    try:
        if root:  # for whom everything is readable
            os.seteuid(65534)
        for path, status in (("/private.html", 403), ("/closed/index.html", 403), ("/", 200)):
            writer.write(get(path))
            answer = await read_response(reader)
            assert answer.status == status and b"secret" not in answer.body
    finally:
        if root:
            os.seteuid(0)
        (docroot / "closed").chmod(0o755)


@lab
async def test_want_of_descriptors_is_not_a_missing_file(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "sub").mkdir()
    reader, writer = await pbal.connect("site")
    writer.write(get("/"))
    assert (await read_response(reader)).status == 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))  # no number below is free
    try:
        for path in ("/index.html", "/", "/sub/", "/sub"):
            writer.write(get(path))
            assert (await read_response(reader)).status == 503, path
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    writer.write(get("/"))
    assert (await read_response(reader)).body == b"<p>index"


# -- methods and bodies ----------------------------------------------------------------------------------------------


@lab
async def test_a_method_that_is_not_offered_says_which_are(lab: Lab) -> None:
    _, pbal = await site(lab)
    reader, writer = await pbal.connect("site")
    for method in ("POST", "PUT", "DELETE", "TRACE", "PATCH", "get", "PROPFIND"):
        for path in ("/", "/none", "/../secret"):
            writer.write(get(path, method=method))
            answer = await read_response(reader)
            assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD, OPTIONS")
    writer.write(get("*", method="OPTIONS") + get("/"))
    answer = await read_response(reader)
    assert (answer.status, answer.fields["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (await read_response(reader)).body == b"<p>index", "the connection is none the worse"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 3"], b"abc"), (["Content-Length: 0"], b""), (["Content-Length: 3000000"], b"x" * 3_000_000),
        (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n"), (["Content-Length: 1000"], b"not all of it"),
        (["Content-Length: 9", "Expect: 100-continue"], b""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_body_is_never_taken_for_a_request(method, fields, body):
    @lab
    async def run(lab: Lab) -> None:
        _, pbal = await site(lab)
        reader, writer = await pbal.connect("site")
        whole = not fields[-1].startswith("Expect") and body != b"not all of it"
        writer.write(get("/", *fields, method=method) + body + (get("/none", method="DELETE") if whole else b""))
        answer = await read_response(reader)
        assert answer.status == (200 if method == "GET" else 405), "and no 100 before it"
        if body == b"" and whole:
            assert (await read_response(reader)).status == 405, "there was nothing to drop"
            return
        assert answer.fields["connection"] == "close"
        writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
        assert pbal.counts["requests"] == 1
        await pbal.until("clients", 0)

    run()


# -- conditions and ranges -------------------------------------------------------------------------------------------


@lab
async def test_entity_tags(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    etag = (await pbal.ask("site", get("/"))).fields["etag"]
    long_ago = f"If-Modified-Since: {formatdate(0, usegmt=True)}"
    now = f"If-Modified-Since: {formatdate(usegmt=True)}"
    for fields, status in (
        ([f"If-None-Match: {etag}"], 304), ([f"If-None-Match: W/{etag}"], 304), (["If-None-Match: *"], 304),
        ([f'If-None-Match: "a", "b,c" ,, W/"d",{etag}'], 304), (['If-None-Match: "a"', f"If-None-Match: {etag}"], 304),
        ([f"if-none-match:{etag}\t"], 304), ([f"If-None-Match: {etag}", long_ago], 304),
        (['If-None-Match: "a", W/"b"'], 200), (["If-None-Match:"], 200), (["If-None-Match: a"], 200),
        ([f"If-None-Match: {etag[1:-1]}"], 200), ([f'If-None-Match: "{etag[1:]}'.replace("-", "--")], 200), (['If-None-Match: "*"'], 200),
        (['If-None-Match: "a"', now], 200), (["If-None-Match: a", now], 200), ([now], 304), ([long_ago], 200),
        ([f'If-Match: "a", {etag}'], 200), (["If-Match: *"], 200), (['If-Match: "a"'], 412), ([f"If-Match: W/{etag}"], 412),
        ([f"If-Match: {etag}", "If-None-Match: *"], 304), (['If-Match: "a"', f"If-None-Match: {etag}"], 412),
        ([f"If-Match: {etag}", f"If-Unmodified-Since: {formatdate(0, usegmt=True)}"], 200),
    ):  # fmt: skip
        for method in ("GET", "HEAD"):
            answer = await pbal.ask("site", get("/", *fields, method=method))
            assert (answer.status, answer.fields["etag"]) == (status, etag), fields
            assert status != 304 or not answer.fields.keys() & {"content-type", "content-length", "transfer-encoding"}
    (docroot / "index.html").write_text("<p>xedni")  # as long as before
    os.utime(docroot / "index.html", ns=(0, os.stat(docroot / "index.html").st_mtime_ns + 1000))
    answer = await pbal.ask("site", get("/", f"If-None-Match: {etag}"))
    assert (answer.status, answer.body) == (200, b"<p>xedni")
    assert answer.fields["etag"] != etag


@lab
async def test_dates(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    os.utime(docroot / "index.html", ns=(0, WROTE_THE_RFC * 10**9 + 999_999_999))
    for date, status in (
        ("Sun, 06 Nov 1994 08:49:37 GMT", 304), ("Sunday, 06-Nov-94 08:49:37 GMT", 304), ("Sun Nov  6 08:49:37 1994", 304),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 200), ("Sunday, 06-Nov-94 08:49:36 GMT", 200), ("Sun Nov  6 08:49:36 1994", 200),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 304), ("Fri, 31 Dec 9999 23:59:59 GMT", 304),
        ("", 200), ("0", 200), ("784111777", 200), ("yesterday", 200),
        ("Sun, 06 Nov 1994 08:49:37", 200), ("Sun, 06 Nov 1994 08:49:37 +0000", 200),
        ("Sun, 6 Nov 1994 08:49:37 GMT", 200), ("Sun, 31 Feb 2090 08:49:37 GMT", 200), ("Sun, 06 Nov 1994 24:00:00 GMT", 200),
        ("Sun, 06 Nov 1994 08:49:37 GMT; length=8", 200), ("1994-11-06T08:49:37Z", 200), ("Sun, 06 Nov 0000 08:49:37 GMT", 200),
        ("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", 200), ("\xb2\xb2, 06 Nov 1994", 200),
    ):  # fmt: skip
        answer = await pbal.ask("site", get("/", f"If-Modified-Since: {date}"))
        assert answer.status == status, date
        assert answer.fields["last-modified"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    for date, status in (("Sun Nov  6 08:49:37 1994", 200), ("Sun Nov  6 08:49:36 1994", 412), ("Sun, 31 Feb 1990 08:49:37 GMT", 200)):
        assert (await pbal.ask("site", get("/", f"If-Unmodified-Since: {date}"))).status == status


# -- connections -----------------------------------------------------------------------------------------------------


@lab
async def test_pipelined_files_come_in_order_and_whole(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    sizes = [1, 131072, 0, 131073, 300_000, 2_000_000, 7, 1_048_576, 262_144]
    for number, size in enumerate(sizes):
        (docroot / str(number)).write_bytes(b"%d" % number * size)
    reader, writer = await pbal.connect("site")
    wanted = [*range(len(sizes))] * 6
    for number in wanted:
        writer.write(get(f"/{number}") + get(f"/{number}", method="HEAD") + get("/none") + get(f"/{number}", "If-None-Match: *"))
    for number in wanted:
        assert (await read_response(reader)).body == b"%d" % number * sizes[number]
        assert (await read_response(reader, head_only=True)).fields["content-length"] == str(sizes[number])
        assert (await read_response(reader)).status == 404
        assert (await read_response(reader)).status == 304
    assert not any(is_open(docroot / str(number)) for number in range(len(sizes)))


@lab
async def test_versions_and_hosts(lab: Lab) -> None:
    _, pbal = await site(lab)
    for request, status, connection in (
        (get("/", version="1.0", host=""), 200, "close"), (get("/", version="1.0"), 200, "close"),
        (get("/", "Connection: keep-alive", version="1.0"), 200, "keep-alive"), (get("/", "Connection: close"), 200, "close"),
        (get("/"), 200, None), (get("/", host="Host:"), 400, "close"), (get("/", host=""), 400, "close"),
        (get("/", "Host: h"), 400, "close"), (get("/", version="1.2"), 200, None), (get("/", version="2.0"), 505, "close"),
    ):  # fmt: skip
        reader, writer = await pbal.connect("site")
        writer.write(request)
        answer = await read_response(reader)
        assert (answer.status, answer.fields.get("connection")) == (status, connection), request
        assert answer.head.startswith(b"HTTP/1.1 ") and "content-length" in answer.fields
        if connection == "close":
            async with asyncio.timeout(DEADLINE):
                assert await reader.read() == b""
        else:
            writer.write(get("/index.html"))
            assert (await read_response(reader)).body == b"<p>index"


@lab
async def test_persist_client_off_closes_after_each_answer(lab: Lab) -> None:
    docroot, pbal = await site(lab, "SET persist_client = off")
    (docroot / "large").write_bytes(b"x" * LARGE)
    for request, body in (
        (get("/"), b"<p>index"),
        (get("/large"), b"x" * LARGE),
        (get("/", "Connection: keep-alive", version="1.0"), b"<p>index"),
    ):
        reader, writer = await pbal.connect("site")
        writer.write(request + get("/"))
        answer = await read_response(reader)
        assert (answer.body, answer.fields["connection"]) == (body, "close")
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
    assert pbal.counts["requests"] == 3
    assert await pbal.say("SET site.persist_client = on") == "OK"
    assert "connection" not in (await pbal.ask("site", get("/"))).fields


@lab
async def test_a_slow_reader_holds_a_piece_and_a_descriptor_and_nobody_up(lab: Lab) -> None:
    docroot, pbal = await site(lab, "SET buffer_size = 100k")
    (docroot / "large").write_bytes(b"x" * LARGE)
    sock = await slow_reader(pbal, get("/large") + get("/", "Connection: close"))
    client = next(iter(pbal.world.clients))
    loop, received, most = asyncio.get_running_loop(), bytearray(), 0
    assert (await pbal.ask("site", get("/"))).body == b"<p>index"
    assert is_open(docroot / "large") == 1
    while len(received) < LARGE:
        received += await loop.sock_recv(sock, 100_000)
        most = max(most, client.transport.get_write_buffer_size())
    assert 0 < most < 400_000, "buffer_size and one piece"
    received += await rest_of(sock)
    assert received.endswith(b"\r\n\r\n<p>index") and received.count(b"x" * LARGE) == 1
    assert is_open(docroot / "large") == 0


@lab
async def test_a_reader_that_leaves_gives_the_descriptor_back(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "large").write_bytes(b"x" * LARGE)
    sock = await slow_reader(pbal, get("/large"))
    assert is_open(docroot / "large") == 1
    sock.close()
    await until(lambda: is_open(docroot / "large") == 0, "the file to be closed")
    await pbal.until("clients", 0)
    assert pbal.counts["aborted_clients"] == 1


@lab
async def test_a_half_closed_client_gets_all_and_then_the_end(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    (docroot / "large").write_bytes(b"x" * LARGE)
    sock = await slow_reader(pbal, get("/large"))
    sock.shutdown(socket.SHUT_WR)
    await until(lambda: next(iter(pbal.world.clients)).half_closed, "the end of the client")
    assert (await rest_of(sock)).partition(b"\r\n\r\n")[2] == b"x" * LARGE


@pytest.mark.parametrize("statement", ["DISABLE site", "SHUTDOWN GRACEFUL", "SET site.persist_client = off"])
def test_a_file_under_way_is_finished_and_the_connection_then_closed(statement):
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        (docroot / "large").write_bytes(b"x" * LARGE)
        sock = await slow_reader(pbal, get("/large"))
        assert await pbal.say(statement) == "OK"
        assert (await rest_of(sock)).partition(b"\r\n\r\n")[2] == b"x" * LARGE

    run()


# -- files that change -----------------------------------------------------------------------------------------------


@lab
async def test_a_file_that_grows_vanishes_or_is_replaced_is_sent_as_it_was_opened(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    large = docroot / "large"
    for change in ("grow", "vanish", "replace"):
        large.write_bytes(b"x" * LARGE)
        sock = await slow_reader(pbal, get("/large", "Connection: close"))
        if change == "grow":
            with large.open("ab") as file:
                file.write(b"y" * 1000)
        elif change == "vanish":
            large.unlink()
        else:
            (docroot / "new").write_bytes(b"y")
            (docroot / "new").rename(large)
        head, _, body = (await rest_of(sock)).partition(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % LARGE in head + b"\r\n" and body == b"x" * LARGE, change
        assert is_open(large) == 0


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_file_that_shrinks_is_cut_off_where_it_ends(version):
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        (docroot / "large").write_bytes(b"x" * LARGE)
        sock = await slow_reader(pbal, get("/large", version=version) + get("/"))
        os.truncate(docroot / "large", LARGE // 2)
        head, _, body = (await rest_of(sock)).partition(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % LARGE in head + b"\r\n"
        assert body == b"x" * len(body) and len(body) < LARGE, "nothing was written in place of what is missing, no second answer"
        assert is_open(docroot / "large") == 0
        assert (await pbal.ask("site", get("/"))).status == 200

    run()


@lab
async def test_a_docroot_that_is_not_there_is_changed_or_comes_back(lab: Lab) -> None:
    docroot, pbal = await site(lab)
    reader, writer = await pbal.connect("site")

    async def ask() -> tuple[int, bytes]:
        writer.write(get("/index.html"))
        answer = await read_response(reader)
        return answer.status, answer.body

    docroot.rename(lab.folder / "other")
    assert (await ask())[0] == 404
    docroot.symlink_to("other")
    assert await ask() == (200, b"<p>index"), "a docroot may be a link"
    (lab.folder / "next").mkdir()
    (lab.folder / "next" / "index.html").write_text("<p>next")
    docroot.unlink()
    docroot.symlink_to("next")
    assert await ask() == (200, b"<p>next"), "and be led elsewhere"
    answer = await pbal.say(f"SET site.docroot = {lab.folder}/nowhere")
    assert answer.startswith("ERROR") and "an existing directory" in answer
    answer = await pbal.say(f"SET site.docroot = {lab.folder}/secret")
    assert answer.startswith("ERROR")
    assert await ask() == (200, b"<p>next")
    (lab.folder / "other" / "large").write_bytes(b"x" * LARGE)
    assert await pbal.say(f"SET site.docroot = {lab.folder}/other") == "OK"
    sock = await slow_reader(pbal, get("/large", "Connection: close"))
    assert await pbal.say(f"SET site.docroot = {lab.folder}/next") == "OK"
    assert (await rest_of(sock)).endswith(b"\r\n\r\n" + b"x" * LARGE)
    assert await ask() == (200, b"<p>next")


@lab
async def test_without_a_docroot_there_is_nothing(lab: Lab) -> None:
    pbal = await lab.pbal("CREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\nENABLE site")
    for path in ("/", "/etc/passwd", "/.", "//"):
        assert (await pbal.ask("site", get(path))).status == 404
    (lab.folder / "index.html").write_text("now")
    assert await pbal.say(f"SET site.docroot = {lab.folder}") == "OK"
    assert (await pbal.ask("site", get("/"))).body == b"now"


# -- plugins ---------------------------------------------------------------------------------------------------------


@lab
async def test_fields_of_a_plugin_are_sent_or_refused_never_let_out_of_their_line(lab: Lab) -> None:
    (lab.folder / "fields.py").write_text(
        "from pbal.api import Plugin, hook\n"
        "class Fields(Plugin):\n"
        "    @hook.modify_response_headers\n"
        "    def add(self, exchange, response):\n"
        "        response.headers.append((b'Cache-Control', b'no-cache'))\n"
        "        if exchange.request.query:\n"
        "            response.headers.append((b'X-Evil', b'a\\r\\nX-More: b'))\n"
    )
    docroot, pbal = await site(lab, "SET plugins = fields", plugins=f"SERVER plugin_path = {lab.folder}\nLOAD fields")
    reader, writer = await pbal.connect("site")
    writer.write(get("/") + get("/?evil") + get("/"))
    assert (await read_response(reader)).fields["cache-control"] == "no-cache"
    answer = await read_response(reader)
    assert answer.status == 500 and "x-more" not in answer.fields
    assert (await read_response(reader)).body == b"<p>index"
    assert is_open(docroot / "index.html") == 0
