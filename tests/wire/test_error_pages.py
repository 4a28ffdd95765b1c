"""What clients are shown when pbal itself refuses or fails: in which form, whose page, and what stands in it."""

import json
from pathlib import Path

import pytest
from lab import Lab, Pbal, lab
from scripted import Scripted, Taken, answer, get, proxy

from pbal.schema.limits import STATUSES

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def site(lab: Lab, more: str = "") -> Pbal:
    return await lab.pbal(f"CREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\n{more}\nENABLE site")


def pages(lab: Lab, **files: str) -> Path:
    folder = lab.folder / "errors"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".").removeprefix("_")).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ((), "text/plain; charset=utf-8"),
        (("Accept: */*",), "text/plain; charset=utf-8"),
        ((BROWSER,), "text/html; charset=utf-8"),
        (("Accept: application/json",), "application/json"),
        (("Accept: application/problem+json, */*;q=0.1",), "application/problem+json"),
        (("Accept: text/html;q=0.2, application/json;q=0.9",), "application/json"),
        (("Accept: text/html;q=0, */*",), "text/plain; charset=utf-8"),
        (("Accept: image/png, ;;q=x, text/html;q=nan",), "text/html; charset=utf-8"),
    ],
)
@lab
async def test_the_client_chooses_the_form(lab: Lab, accept: tuple[str, ...], kind: str) -> None:
    pbal = await site(lab)
    got = await pbal.ask("site", get("/nowhere", *accept))

    assert got.status == 404 and got.fields["content-type"] == kind and got.fields["vary"] == "Accept"
    assert b"Nothing here." in got.body and int(got.fields["content-length"]) == len(got.body)
    if "json" in kind:
        assert json.loads(got.body) == {"status": 404, "title": "Not Found", "detail": "Nothing here."}
    head = await pbal.ask("site", get("/nowhere", *accept, method="HEAD"))
    assert head.body == b"" and head.fields["content-length"] == got.fields["content-length"]


@lab
async def test_the_id_of_the_request_stands_in_each_form(lab: Lab) -> None:
    pbal = await site(lab, "SET request_id = on")
    for accept in ("Accept: text/plain", BROWSER, "Accept: application/json"):
        got = await pbal.ask("site", get("/nowhere", accept))
        assert got.fields["x-request-id"].encode() in got.body


@lab
async def test_what_a_trusted_peer_calls_a_request_is_escaped(lab: Lab) -> None:
    folder = pages(lab, _404__html="<b>{message}</b> {request_id} a {{status}} body {{ color: red }}", error__json='{"id": "{request_id}"}')
    pbal = await site(lab, f"SET request_id = on\nSET always_trusted = on\nSET error_pages = {folder}")
    page = await pbal.ask("site", get("/nowhere", BROWSER, "X-Request-Id: a=+b@c"))

    assert page.body == b"<b>Nothing here.</b> a=+b@c a {404} body {{ color: red }}"
    found = await pbal.ask("site", get("/nowhere", "Accept: application/json", "X-Request-Id: a=+b@c"))
    assert json.loads(found.body) == {"id": "a=+b@c"}


@lab
async def test_the_closest_page_counts_and_forms_without_a_file_are_pbals(lab: Lab) -> None:
    folder = pages(lab, _404__html="own 404", _4xx__html="own {status} {reason}", error__txt="{message} ({status})")
    pbal = await site(lab, f"SET error_pages = {folder}")

    assert (await pbal.ask("site", get("/nowhere", BROWSER))).body == b"own 404"
    assert (await pbal.ask("site", get("/", BROWSER, method="DELETE"))).body == b"own 405 Method Not Allowed"
    assert (await pbal.ask("site", get("/nowhere"))).body == b"Nothing here. (404)"
    assert json.loads((await pbal.ask("site", get("/nowhere", "Accept: application/json"))).body)["status"] == 404
    malformed = await pbal.ask("site", b"GET / HTTP/1.1\r\n\r\n")
    assert malformed.status == 400 and malformed.body == b"no Host (400)"


@lab
async def test_a_folder_that_cannot_be_used_is_refused_and_changes_nothing(lab: Lab) -> None:
    folder = pages(lab, _404__html="first")
    pbal = await site(lab, f"SET error_pages = {folder}")

    assert "expected an existing directory" in await pbal.say(f"SET site.error_pages = {lab.folder}/none")
    assert "there is none in" in await pbal.say(f"SET site.error_pages = {lab.folder}")
    pages(lab, _404__json="{")
    assert "is no JSON" in await pbal.say(f"SET site.error_pages = {folder}")
    pages(lab, _404__json="{}", _500__html="x" * 70000)
    assert "is longer" in await pbal.say(f"SET site.error_pages = {folder}")
    assert (await pbal.ask("site", get("/nowhere", BROWSER))).body == b"first"
    assert f"SET error_pages = {folder}" in await pbal.say("dumpconfig")


@lab
async def test_reload_config_reads_the_pages_again_or_nothing(lab: Lab) -> None:
    folder = pages(lab, _404__html="first")
    pbal = await site(lab, f"SET error_pages = {folder}")
    pages(lab, _404__html="second")
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert (await pbal.ask("site", get("/nowhere", BROWSER))).body == b"second"

    (folder / "404.html").write_bytes(b"\xff\xfe")
    assert "is no UTF-8" in await pbal.say("RELOAD CONFIG")
    assert (await pbal.ask("site", get("/nowhere", BROWSER))).body == b"second"
    (folder / "404.html").unlink()
    assert await pbal.say("UNSET site.error_pages") == "OK"
    assert (await pbal.ask("site", get("/nowhere", BROWSER))).body.startswith(b"<!doctype html>")


@lab
async def test_a_file_whose_name_is_nearly_a_pages_is_told(lab: Lab) -> None:
    folder = pages(lab, _404__html="{request-id}")
    pbal = await site(lab)
    assert "nothing is put in for {request-id}" in await pbal.say(f"SET site.error_pages = {folder}")
    pages(lab, _40x__html="x")
    assert "40x.html is not used" in await pbal.say(f"SET site.error_pages = {folder}")


@lab
async def test_errors_of_nodes_pass_unless_they_are_intercepted(lab: Lab) -> None:
    async def behaviour(taken: Taken) -> None:
        while True:
            head = await taken.request()
            status = head.split(b" ")[1][1:].decode()
            taken.say(answer(b"of the node", "Retry-After: 7").replace(b"200 OK", status.encode() + b" No"))

    node = await Scripted.start(lab, behaviour)
    pbal = await lab.pbal(proxy(node.address, more="SET error_page_intercept = 502-504 404"))

    plain = await pbal.ask("web", get("/500"))
    assert plain.body == b"of the node"
    shown = await pbal.ask("web", get("/503"))
    assert shown.status == 503 and shown.body == b"The application failed.\n" and shown.fields["retry-after"] == "7"
    assert (await pbal.ask("web", get("/404"))).body == b"Nothing here.\n"
    assert (await pbal.ask("web", get("/200"))).body == b"of the node"
    assert len(node.connections) == 1
    assert await pbal.say("SET web.error_page_intercept = none") == "OK"
    assert (await pbal.ask("web", get("/503"))).body == b"of the node"


@lab
async def test_a_node_that_is_not_there_gives_a_browser_a_page(lab: Lab) -> None:
    pbal = await lab.pbal(proxy("127.0.0.1:1", more="SET request_id = on"))
    got = await pbal.ask("web", get("/", BROWSER))

    assert got.status == 502 and b"<h1>502 Bad Gateway</h1>" in got.body and got.fields["x-request-id"].encode() in got.body


@pytest.mark.parametrize(
    ("text", "rendered"),
    [("none", "none"), ("404", "404"), ("502-504, 404", "404 502-504"), ("5xx", "5xx"), ("5XX 404 405", "404 405 5xx"), ("500-599", "5xx")],
)
def test_statuses(text: str, rendered: str) -> None:
    assert STATUSES.render(STATUSES.parse(text)) == rendered
    assert STATUSES.parse(rendered) == STATUSES.parse(text)


@pytest.mark.parametrize("text", ["", "200", "504-502", "4x", "404-", "none 404"])
def test_statuses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected none, or statuses"):
        STATUSES.parse(text)
