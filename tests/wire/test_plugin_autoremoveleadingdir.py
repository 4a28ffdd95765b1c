"""autoremoveleadingdir: the docroot's own name at the beginning of a path."""

import pytest
from lab import Lab, Pbal, lab

from pbal.schema.passwords import line_for


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


async def _files(lab: Lab, more: str = "", load: str = "") -> Pbal:
    www = lab.folder / "www"
    for folder in (www, www / "sub", www / "www"):
        folder.mkdir()
        (folder / "page").write_text(str(folder.relative_to(lab.folder)))
    (www / "index.html").write_text("index")
    (www / "wwwroot").write_text("not cut")
    (lab.folder / "page").write_text("outside")
    return await lab.pbal(
        f"""
        LOAD AutoRemoveLeadingDir
        {load}
        CREATE SERVICE web
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET docroot = {www}/
          SET plugins = autoremoveleadingdir
          {more}
        ENABLE web
        """
    )


@lab
async def test_the_name_of_the_docroot_is_taken_off_once(lab: Lab) -> None:
    pbal = await _files(lab)
    for path, body in (
        ("/page", b"www"), ("/www/page", b"www"), ("/%77ww/page", b"www"), ("/www/sub/page", b"www/sub"), ("/www/www/page", b"www/www"),
        ("/wwwroot", b"not cut"), ("/www", b"index"), ("/www/", b"index"), ("/", b"index"),
    ):  # fmt: skip
        assert (await pbal.ask("web", _get(path))).body == body, path
    for path in ("/www/../page", "/www/%2e%2e/page", "/wwwpage"):
        assert (await pbal.ask("web", _get(path))).status in (400, 403, 404), path
    assert (await pbal.ask("web", _get("/www/sub"))).fields["location"] == "/www/sub/"


@lab
async def test_what_is_for_a_file_by_its_own_name_is_not_got_round_by_the_other(lab: Lab) -> None:
    (lab.folder / "users").write_text(line_for("amy", "secret", (2, 1, 1)) + "\n")
    more = f"SET basic_auth_file = {lab.folder}/users;SET basic_auth_path = ^/sub/;LIMIT web 1/h WHEN path ^/page$"
    pbal = await _files(lab, f"{more};SET plugins = autoremoveleadingdir basic_auth".replace(";", "\n"), load="LOAD basic_auth")
    for path, status in (
        ("/sub/page", 401),
        ("/www/sub/page", 403),
        ("/www/www/page", 200),
        ("/www/page", 403),
        ("/page", 200),
        ("/page", 429),
    ):
        assert (await pbal.ask("web", _get(path))).status == status, path
    assert pbal.counts["renamings_refused"] == 2
    assert await pbal.say("SET web.basic_auth_path = ^(/www)?/sub/") == "OK"
    for path in ("/sub/page", "/www/sub/page"):
        assert (await pbal.ask("web", _get(path))).status == 401, path
    assert await pbal.say("LOAD throttle") == "OK"
    assert await pbal.say("SET web.plugins = autoremoveleadingdir throttle") == "OK"
    for regex, status in (("^/www/sub/", 200), ("^/sub/", 403), ("^/(www/)?sub/", 200)):
        assert await pbal.say(f"SET web.path_regex = {regex}") == "OK"
        assert (await pbal.ask("web", _get("/www/sub/page"))).status == status, regex


@lab
async def test_another_docroot_is_heard_of_and_reload_keeps_it(lab: Lab) -> None:
    pbal = await _files(lab)
    assert await pbal.say(f"SET web.docroot = {lab.folder}/www/sub") == "OK"
    for reload in (False, True):
        assert not reload or await pbal.say("RELOAD autoremoveleadingdir") == "OK"
        assert (await pbal.ask("web", _get("/sub/page"))).body == b"www/sub"
        assert (await pbal.ask("web", _get("/www/page"))).status == 404


@pytest.mark.parametrize("docroot", ["/", ""])
@lab
async def test_a_docroot_without_a_name_takes_nothing_off(lab: Lab, docroot: str) -> None:
    pbal = await _files(lab)
    assert await pbal.say(f"SET web.docroot = {docroot}" if docroot else "UNSET web.docroot") == "OK"
    path = f"{lab.folder}/www/page" if docroot else "/www/page"
    assert (await pbal.ask("web", _get(path))).status == (200 if docroot else 404)
