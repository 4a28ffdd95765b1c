"""Perlbal's documented examples of its plugins, in Debian's perlbal and in pbal: one configuration, the same requests, the same answers.

Where an answer differs on purpose, the table has what Perlbal says, beside what is expected of pbal. Left out where perlbal is not
installed: apt-get install perlbal.
"""

import asyncio
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import DEADLINE, Lab, free_port, lab, until

SERVICES = ("site", "redirector", "limited", "files", "fresh", "guarded", "hosts", "paths", "video", "cdn", "cgilike", "parrot", "mgmt")

CONF = """
LOAD include
INCLUDE = {folder}/plugins/*.conf

CREATE POOL app
  POOL app ADD {node}

CREATE SERVICE site
  SET role               = reverse_proxy
  SET listen             = 127.0.0.1:{site}
  SET pool               = app
  SET plugins            = XFFExtras, Queues, Highpri
  SET send_backend_port  = yes
  SET send_backend_proto = yes
  SET site.highpri.uri_pattern = ^/login
ENABLE site

CREATE SERVICE redirector
  SET role    = web_server
  SET listen  = 127.0.0.1:{redirector}
  SET docroot = {folder}/www
  SET plugins = redirect
  REDIRECT HOST example.com www.example.net
ENABLE redirector

CREATE SERVICE limited
  SET role               = web_server
  SET listen             = 127.0.0.1:{limited}
  SET docroot            = {folder}/www
  SET max_content_length = 10
  SET plugins            = MaxContentLength
ENABLE limited

CREATE SERVICE files
  SET role    = web_server
  SET listen  = 127.0.0.1:{files}
  SET docroot = {folder}/www
  SET plugins = AutoRemoveLeadingDir
ENABLE files

CREATE SERVICE fresh
  SET role    = web_server
  SET listen  = 127.0.0.1:{fresh}
  SET docroot = {folder}/www
  SET plugins = NotModified
  SET fresh.notmodified.host_pattern = ^im
ENABLE fresh

CREATE SERVICE guarded
  SET role    = web_server
  SET listen  = 127.0.0.1:{guarded}
  SET docroot = {folder}/www
  SET plugins = AccessControl
  ACCESS ALLOW ip 10.0.0.1
  ACCESS DENY ip 127.0.0.1
  ACCESS POLICY allow
ENABLE guarded

CREATE SERVICE hosts
  SET role    = selector
  SET listen  = 127.0.0.1:{hosts}
  SET plugins = vhosts
  VHOST www.example.com = files
  VHOST *.example.com   = site
ENABLE hosts

CREATE SERVICE paths
  SET role    = selector
  SET listen  = 127.0.0.1:{paths}
  SET plugins = vpaths
  VPATH ^/page = files
  VPATH ^/     = site
ENABLE paths

CREATE SERVICE video
  SET role    = reverse_proxy
  SET listen  = 127.0.0.1:{video}
  SET pool    = app
  SET plugins = FlvStreaming
ENABLE video

CREATE SERVICE cdn
  SET role             = web_server
  SET listen           = 127.0.0.1:{cdn}
  SET docroot          = {folder}/www
  SET plugins          = LazyCDN
  SET fallback_service = site
ENABLE cdn

CREATE SERVICE cgilike
  SET role    = web_server
  SET listen  = 127.0.0.1:{cgilike}
  SET docroot = {folder}/www
  SET plugins = cgilike
  PERLREQUIRE = MyPackage
  PERLHANDLER = MyPackage::handler
ENABLE cgilike

CREATE SERVICE parrot
  SET role   = echo
  SET listen = 127.0.0.1:{parrot}
ENABLE parrot

CREATE SERVICE mgmt
  SET role   = management
  SET listen = 127.0.0.1:{mgmt}
ENABLE mgmt
"""

LOADS = """
LOAD XFFExtras
LOAD Queues
LOAD Highpri
LOAD Redirect
LOAD MaxContentLength
LOAD AutoRemoveLeadingDir
LOAD NotModified
LOAD AccessControl
LOAD Vhosts
LOAD Vpaths
LOAD FlvStreaming
LOAD LazyCDN
LOAD Cgilike
LOAD EchoService
"""

PERL = """
package MyPackage;
sub handler {
  my ($r) = @_;
  if ($r->uri eq '/') { $r->print("<p>Hello, world</p>"); return Perlbal::Plugin::Cgilike::HANDLED; }
  if ($r->path =~ m!^/facts/!) {
    $r->response_status_code(201);
    $r->response_header('X-Made' => 'yes');
    $r->print(join('|', $r->method, $r->uri, $r->path, $r->query_string, join(',', $r->path_segments), join(',', $r->query_args)));
    return Perlbal::Plugin::Cgilike::HANDLED;
  }
  return Perlbal::Plugin::Cgilike::DECLINED if $r->path eq '/page';
  return 404;
}
1;
"""

PYTHON = """
def handler(r):
    if r.uri() == "/":
        r.print("<p>Hello, world</p>")
        return r.HANDLED
    if r.path().startswith("/facts/"):
        r.response_status_code(201)
        r.response_header("X-Made", "yes")
        args = ",".join(part for pair in r.query_args() for part in pair)
        r.print("|".join([r.method(), r.uri(), r.path(), r.query_string(), ",".join(r.path_segments()), args]))
        return r.HANDLED
    return r.DECLINED if r.path() == "/page" else 404
"""


def request(path: str, *fields: str, method: str = "GET", body: bytes = b"", host: str = "h") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.0", f"Host: {host}", *fields, "", ""]).encode() + body


@dataclass(frozen=True)
class Case:
    """A request to a service, and what is compared."""

    service: str
    request: bytes
    fields: tuple[str, ...] = ()
    """Fields of the answer that are."""
    body: bool = True
    perlbal: tuple[object, ...] = ()
    """What Perlbal says, where pbal says something else on purpose: status, the fields, the body; then the same of pbal."""
    ours: tuple[object, ...] = ()


CASES = (
    # of what is told to nodes, the node says it back
    Case("site", request("/told", "X-Queue-Count: 9", "X-Forwarded-Port: 1", "X-Forwarded-Proto: gopher")),
    Case("redirector", request("/a/b?c=d", host="example.com"), ("location",), body=False),
    Case("redirector", request("/a", host="www.EXAMPLE.com:80"), ("location",), body=False),
    Case("redirector", request("/page", host="other")),
    Case("limited", request("/page", "Content-Length: 11", method="POST", body=b"x" * 11), body=False),
    Case("limited", request("/page")),
    Case("files", request("/page")),
    Case("files", request("/www/page")),
    Case("files", request("/www/www/page")),
    Case("files", request("/wwwroot"), body=False, perlbal=(403,), ours=(200,)),
    Case("fresh", request("/page", "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT", host="im.x"), body=False),
    Case("fresh", request("/page", host="im.x")),
    Case("guarded", request("/page"), body=False),
    Case("hosts", request("/page", host="www.example.com")),
    Case("hosts", request("/node", host="a.b.example.com")),
    Case("paths", request("/page")),
    Case("paths", request("/node")),
    Case("video", request("/film.flv?start=3"), ("content-type", "content-length")),
    Case("video", request("/node.flv")),
    Case("cdn", request("/page")),
    Case("cdn", request("/node")),
    Case("cgilike", request("/")),
    Case("cgilike", request("/page")),
    Case("cgilike", request("/missing"), body=False),
    Case("cgilike", request("/facts/a%20b/c?q=1&r=%32"), ("x-made",)),
)


async def _node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says what it was told about queues, ports and ranges."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    if "/told" in head:
        names = ("x-queue-count", "x-queue-age", "x-hp-queue-count", "x-hp-queue-age", "x-forwarded-proto")
        body = "|".join(fields.get(name, "-") for name in names)
    else:
        body = "of the node"
    status, more = "200 OK", ""
    if "range" in fields:
        body, status, more = body[3:], "206 Partial Content", f"Content-Range: bytes 3-10/{len(body)}\r\n"
    writer.write(f"HTTP/1.0 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n{more}\r\n{body}".encode())
    writer.close()


async def _ask(port: int, octets: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(octets)
    try:
        async with asyncio.timeout(DEADLINE):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split(" ")[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}, body


async def _lines(port: int, octets: bytes, end: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(octets)
    try:
        async with asyncio.timeout(DEADLINE):
            return await reader.readuntil(end)
    finally:
        writer.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _site(folder: Path) -> None:
    www = folder / "www"
    for each in (www, www / "www", folder / "plugins"):
        each.mkdir()
    (www / "page").write_text("a page")
    (www / "wwwroot").write_text("not cut")
    (www / "www" / "page").write_text("a page below")
    (folder / "MyPackage.pm").write_text(PERL)
    (folder / "MyPackage.py").write_text(PYTHON)
    (folder / "plugins" / "loads.conf").write_text(LOADS)


def _facts(case: Case, answer: tuple[int, dict[str, str], bytes]) -> tuple[object, ...]:
    status, fields, body = answer
    return (status, *(fields.get(name) for name in case.fields), *([body] if case.body else []))


@lab
async def test_perlbal_and_pbal_answer_alike(lab: Lab) -> None:
    program = shutil.which("perlbal")
    if program is None:
        pytest.skip("perlbal is not installed: apt-get install perlbal")
    _site(lab.folder)
    node = await lab.origin(_node)
    theirs = {name: free_port() for name in SERVICES}
    ours = dict.fromkeys(SERVICES, 0)
    path = lab.folder / "perlbal.conf"
    path.write_text(CONF.format(folder=lab.folder, node=node.address, **theirs))
    pbal = await lab.pbal(f"SERVER plugin_path = {lab.folder}\n" + CONF.format(folder=lab.folder, node=node.address, **ours))
    ports = {name: pbal.server.address(name)[1] for name in SERVICES}
    environment = {"PATH": "/usr/bin:/bin", "PERL5LIB": str(lab.folder)}
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment, cwd=lab.folder
    )
    try:
        assert process.stdout is not None
        await until(lambda: _listens(theirs["mgmt"]) or process.returncode is not None, "perlbal", 60)  # its last port
        assert process.returncode is None, (await process.stdout.read()).decode()
        await _compare(theirs, ports)
    finally:
        process.kill()
        await process.wait()


async def _compare(theirs: dict[str, int], ports: dict[str, int]) -> None:
    wrong = []
    for case in CASES:
        there = _facts(case, await _ask(theirs[case.service], case.request))
        here = _facts(case, await _ask(ports[case.service], case.request))
        wanted = (case.perlbal or here, case.ours or there)
        if (there, here) != wanted:
            wrong.append(f"{case.service}, {case.request!r}: Perlbal says {there}, pbal {here}")
    assert not wrong, "\n".join(wrong)
    assert await _lines(theirs["parrot"], b"a\nb\r\n", b"b\r\n") == await _lines(ports["parrot"], b"a\nb\r\n", b"b\r\n") == b"a\r\nb\r\n"
    said = [await _lines(each["mgmt"], b"patterns\r\n", b".\r\n") for each in (theirs, ports)]
    assert b"SET site.highpri.uri_pattern = ^/login\r\n" in said[0] and said[0] == said[1]
