"""The plugins redirect, notmodified and maxcontentlength, each by itself and in a chain."""

from lab import Lab, Pbal, Response, lab, read_response
from scripted import Client, Scripted, proxy

SITE = """
    LOAD Redirect
    LOAD NotModified
    LOAD MaxContentLength
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}
      SET plugins = Redirect, NotModified MaxContentLength
      REDIRECT HOST Example.com www.example.com
      REDIRECT HOST *.old.test https://new.test:8443/
      REDIRECT HOST *loop.test www.loop.test
      SET site.notmodified.host_pattern = ^img\\.
      SET max_content_length = 10
    ENABLE site
"""


async def _site(lab: Lab) -> Pbal:
    (lab.folder / "a.txt").write_text("a page")
    return await lab.pbal(SITE.format(folder=lab.folder))


async def _ask(pbal: Pbal, host: str, path: str = "/a.txt", *fields: str, method: str = "GET", body: str = "") -> Response:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""])
    return await pbal.ask("site", (head + body).encode())


@lab
async def test_clients_are_sent_to_another_host_with_the_same_path(lab: Lab) -> None:
    pbal = await _site(lab)
    for host, path, method, status, location in (
        ("example.COM:80", "/a%20b?c=d", "GET", 301, "http://www.example.com/a%20b?c=d"),
        ("a.old.test", "//x", "HEAD", 301, "https://new.test:8443//x"),
        ("old.test", "/", "POST", 308, "https://new.test:8443/"),
        ("loop.test", "/x", "GET", 301, "http://www.loop.test/x"),
        ("a.old.test", "*", "OPTIONS", 308, "https://new.test:8443"),
    ):
        answer = await _ask(pbal, host, path, method=method)
        assert (answer.status, answer.fields["location"]) == (status, location)
        assert answer.fields["content-length"] == "0"
    assert (await _ask(pbal, "www.loop.test")).status == 200, "it is there already"
    assert (await _ask(pbal, "other.test")).body == b"a page"
    assert pbal.counts["hosts_redirected"] == 5
    assert (await _ask(pbal, "old.test:1", "old.test:1", method="CONNECT")).status in (400, 405)
    assert "REDIRECT HOST *.old.test: to https://new.test:8443" in await pbal.say("explain GET http://a.old.test/")


@lab
async def test_what_is_said_is_dumped_dropped_and_outlives_a_reload(lab: Lab) -> None:
    pbal = await _site(lab)
    assert await pbal.say("RELOAD redirect notmodified maxcontentlength") == "OK"
    assert (await _ask(pbal, "example.com")).status == 301
    dumped = [line.strip() for line in (await pbal.say("dumpconfig")).split("\n")]
    assert "REDIRECT HOST example.com www.example.com" in dumped and "REDIRECT HOST *.old.test https://new.test:8443" in dumped
    assert await pbal.say("DROP RULE site REDIRECT HOST example.com www.example.com") == "OK"
    assert (await _ask(pbal, "example.com")).status == 200
    await pbal.say("USE site")
    for said, told in (("a.com:80 b.com", "invalid host pattern"), ("a.com b.com/x", "expected a host such as www.example.com")):
        assert told in await pbal.say(f"REDIRECT HOST {said}")


@lab
async def test_whoever_has_a_copy_is_told_304(lab: Lab) -> None:
    pbal = await _site(lab)
    since = "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"
    answer = await _ask(pbal, "img.test", "/none", since)
    assert answer.status == 304 and answer.body == b"" and "content-length" not in answer.fields
    assert (await _ask(pbal, "img.test", "/a.txt")).status == 200
    assert (await _ask(pbal, "www.test", "/a.txt", since)).status == 200
    assert (await _ask(pbal, "img.test", "/a.txt", since, method="DELETE")).status == 405
    assert pbal.counts["not_modified_answers"] == 1
    assert (await pbal.say("SET site.notmodified.host_pattern = (")).startswith("ERROR: notmodified_host_pattern: expected ")


@lab
async def test_a_body_that_is_too_long_is_refused_however_it_comes(lab: Lab) -> None:
    pbal = await _site(lab)
    answer = await _ask(pbal, "www.test", "/a.txt", "Content-Length: 11", method="POST", body="x" * 11)
    assert answer.status == 413 and answer.body == b"Content too long.\n"
    assert pbal.counts["content_too_long"] == 1
    assert (await _ask(pbal, "www.test", "/a.txt", "Content-Length: 10", body="x" * 10)).status == 200
    assert await pbal.say("SET site.max_content_length = 0") == "OK"
    assert (await _ask(pbal, "www.test", "/a.txt", "Content-Length: 11", body="x" * 11)).status == 200


@lab
async def test_a_body_in_chunks_is_refused_when_it_is_too_long(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    more = "SET plugins = throttle maxcontentlength;SET max_content_length = 10"
    pbal = await lab.pbal("LOAD maxcontentlength\nLOAD throttle\n" + proxy(origin.address, more=more))
    assert "web maxcontentlength throttle" in await pbal.say("plugins")
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = await Client.of(pbal, request=head + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n")
    assert (await read_response(client.reader)).status == 413
