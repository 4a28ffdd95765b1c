"""The plugins of examples/plugins do what they say."""

import os
import time
from pathlib import Path

from process import ROOT

from pbal.testing import Running, running

PLUGINS = ROOT / "examples/plugins"
WEB = """
    LOAD {name}
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}
      SET plugins = {name}
      SET {name}  = {value}
    ENABLE site
"""
NODES = """
    LOAD {name}
    CREATE SERVICE first
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}/first
    ENABLE first
    CREATE SERVICE second
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}/second
    ENABLE second
    CREATE POOL app
    CREATE POOL app2
    CREATE SERVICE site
      SET role    = reverse_proxy
      SET listen  = 127.0.0.1:0
      SET pool    = app
      SET plugins = {name}
      SET {name}  = {value}
    ENABLE site
"""


def lines_of(file: Path, number: int) -> list[str]:
    end = time.monotonic() + 10
    while not file.exists() or file.read_text().count("\n") < number:
        assert time.monotonic() < end, "the lines do not come"
        time.sleep(0.005)
    return file.read_text().splitlines()


def test_request_log_writes_a_line_for_each_request(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("a page")
    log, other = tmp_path / "log", tmp_path / "other"
    with running(WEB.format(name="request_log", folder=tmp_path, value=log), plugins=PLUGINS) as pbal:
        for path in ("/page", "/missing"):
            pbal.get("site", path)
        found = [line.split() for line in lines_of(log, 2)]
        assert found[0][1:6] == ["127.0.0.1", "GET", "/page", "200", "6"]
        assert found[1][3:5] == ["/missing", "404"]
        assert pbal.say(f"SET site.request_log = {other}") == "OK"
        assert "is no file in a folder that exists" in pbal.say("SET site.request_log = /no/such/folder/log")
        pbal.get("site", "/page")
        assert lines_of(other, 1)[0].split()[3] == "/page"
        assert pbal.say("RELOAD request_log") == "OK"
        pbal.get("site", "/page")
        assert len(lines_of(other, 2)) == 2


def test_address_list_lets_in_who_is_on_it(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("a page")
    file = tmp_path / "friends"
    file.write_text("# nobody yet\n10.0.0.0/8\n")
    with running(WEB.format(name="address_list", folder=tmp_path, value=file), plugins=PLUGINS) as pbal:
        assert pbal.get("site", "/page").status == 403
        assert pbal.say("SET site.always_trusted = on") == "OK"
        assert pbal.get("site", "/page", {"X-Forwarded-For": "10.1.2.3"}).status == 200
        file.write_text("127.0.0.1 # me\n2001:db8::/32\n")
        assert pbal.say("ADDRESSES AGAIN") == "OK"
        assert pbal.get("site", "/page").status == 200
        file.write_text("127.0.0.1/99\n")
        assert "address_list" in pbal.say("ADDRESSES AGAIN") and pbal.get("site", "/page").status == 200
        os.unlink(file)
        assert "No such file" in pbal.say("RELOAD address_list") and pbal.get("site", "/page").status == 200
        assert pbal.counter("address_list_refused") == 1


def nodes(pbal: Running) -> None:
    """Have the pools their nodes: the web servers."""
    for pool, service in (("app", "first"), ("app2", "second")):
        host, port = pbal.address(service)
        assert pbal.say(f"POOL {pool} ADD {host}:{port}") == "OK"


def folders(folder: Path) -> Path:
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "page").write_text(name)
    (folder / "second/old").write_text("an old page")
    return folder


def test_help_tells_what_a_plugin_says_of_itself_and_what_it_brings(tmp_path: Path) -> None:
    (tmp_path / "friends").write_text("127.0.0.1")
    with running(WEB.format(name="address_list", folder=tmp_path, value=tmp_path / "friends"), plugins=PLUGINS) as pbal:
        said = pbal.say("help address_list")
        assert "address_list (a plugin)\n  address_list: only clients whose addresses a file has are served; the others get 403." in said
        assert "  Statements: addresses again.\n  Hooks: start_http_request." in said and "address_list = path (a tunable)" in said
        assert "Read the files of address_list again." in pbal.say("help addresses")


def test_header_router_goes_by_a_field(tmp_path: Path) -> None:
    conf = NODES.format(name="header_router", folder=folders(tmp_path), value="X-Version: 2=app2 1=app")
    with running(conf, plugins=PLUGINS) as pbal:
        nodes(pbal)
        assert [pbal.get("site", "/page", {"X-Version": value}).body for value in "123"] == [b"first", b"second", b"first"]
        assert pbal.get("site", "/page").body == b"first"
        host, port = pbal.address("site")
        said = pbal.say(f"EXPLAIN GET http://{host}:{port}/page X-Version: 2")
        assert "header_router: x-version: 2=app2 1=app: pool app2" in said and "pool     site             app2: " in said
        assert "pool 'app2' is used by service 'site'" in pbal.say("DROP POOL app2")
        assert "pool 'nowhere' does not exist" in pbal.say("SET site.header_router = X-Version: 2=nowhere")
        assert "expected FIELD: VALUE=POOL" in pbal.say("SET site.header_router = app2")
        assert pbal.say("SET site.header_router = X-Version: 3=app2") == "OK"
        assert [pbal.get("site", "/page", {"X-Version": value}).body for value in "23"] == [b"first", b"second"]
        assert "header_router = x-version: 3=app2" in pbal.say("SHOW SERVICE site").replace("X-Version", "x-version")


def test_second_chance_asks_another_service(tmp_path: Path) -> None:
    with running(NODES.format(name="second_chance", folder=folders(tmp_path), value="second"), plugins=PLUGINS) as pbal:
        nodes(pbal)
        assert pbal.get("site", "/page").body == b"first"
        assert pbal.get("site", "/old").body == b"an old page"
        assert pbal.get("site", "/nowhere").status == 404
        assert pbal.request("site", "POST", "/nowhere", body=b"x").status in (404, 405)
        assert "service 'third' does not exist" in pbal.say("SET site.second_chance = third")
        assert pbal.say("SET site.second_chance = site") == "OK"
        assert pbal.get("site", "/old").status == 508, "round and round"
