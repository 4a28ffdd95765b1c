"""Which names a web_server serves: dot files, symbolic links, and every spelling of them; and what is swapped while it looks."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab, Pbal, lab

from pbal.model.openfiles import OpenFiles
from pbal.roles.files import finding, memory
from pbal.schema.files import ANYWHERE, INSIDE, NEVER

HIDDEN = (
    "/.git/config", "/.git", "/.git/", "/.htpasswd", "/sub/.env", "/sub/.git/config", "/.gitx", "/...", "/..a", "/.well-known/.htpasswd",
    "/sub/.well-known/x", "/.pbal-new",
)  # fmt: skip
"""Names of what is there, and not served."""


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()


async def site(lab: Lab, *more: str) -> tuple[Path, Pbal]:
    """A docroot full of what is not to be seen, and a pbal that serves it."""
    docroot = lab.folder / "docroot"
    for folder in (".git", "sub/.git", ".well-known", "sub/.well-known", "open"):
        (docroot / folder).mkdir(parents=True)
    for name in (
        ".git/config", ".htpasswd", "sub/.env", "sub/.git/config", ".gitx", "...", "..a", ".well-known/.htpasswd", "sub/.well-known/x",
        ".pbal-new", ".git/index.html",
    ):  # fmt: skip
        (docroot / name).write_text("secret")
    (docroot / ".well-known" / "x").write_text("known")
    for name in ("index.html", "a.txt", "a.", "a..", "a.git", "open/a.txt"):
        (docroot / name).write_text("seen")
    (lab.folder / "beside").mkdir()
    (lab.folder / "beside" / "b.txt").write_text("beside")
    settings = "\n".join(f"SET {setting}" for setting in more)
    conf = f"CREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET docroot = {docroot}\n{settings}\nENABLE site"
    return docroot, await lab.pbal(conf)


@pytest.fixture(params=["memory", "disk"])
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who finds files: the loop, of what the kernel has in memory; or threads."""
    if request.param == "disk":
        monkeypatch.setattr(memory, "_usable", False)
        monkeypatch.setattr(memory, "_RWF_NOWAIT", 0)
    return str(request.param)


async def statuses(pbal: Pbal, *paths: str) -> dict[str, int]:
    """What is answered to each; that nothing secret is in it was seen."""
    found = {}
    for path in paths:
        answer = await pbal.ask("site", get(path))
        assert b"secret" not in answer.body, path
        found[path] = answer.status
    return found


def escaped(path: str) -> list[str]:
    """Other spellings of a path."""
    return [
        path.replace(".", "%2e"), path.replace(".", "%2E", 1), path.replace("/", "//"), path.replace("/", "/./"),
        "/%2f" + path[1:], "".join(f"%{octet:02x}" for octet in path.encode()).replace("%2f", "/", 1), "http://h" + path, path + "?a=b",
    ]  # fmt: skip


def test_dot_files_are_not_there_by_any_spelling(asked: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        _, pbal = await site(lab)
        paths = [spelling for path in HIDDEN for spelling in (path, *escaped(path))]
        assert set((await statuses(pbal, *paths)).values()) == {404}
        for path in ("/a.txt", "/a.", "/a..", "/a.git", "/open/a.txt", "/%61.txt", "/./a.txt", "/open/./a.txt", "/%2e/a.txt"):
            assert (await pbal.ask("site", get(path))).body == b"seen", path
        for path in ("/.well-known/x", "/%2ewell-known/x", "/./.well-known/x"):
            assert (await pbal.ask("site", get(path))).body == b"known", path
        assert (await pbal.ask("site", get("/.git/", "HEAD"))).status == 404, "and not 403"

    run()


def test_dot_files_are_served_where_a_tunable_says_so(asked: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        _, pbal = await site(lab, "dot_files = on")
        for path in ("/.git/config", "/.htpasswd", "/%2e%2e%2e", "/..a", "/.git/"):
            assert (await pbal.ask("site", get(path))).body == b"secret", path
        assert set((await statuses(pbal, "/.pbal-new", "/..", "/.git/..", "/.git/../a.txt", "/%2e%2e/secret")).values()) <= {400, 404}
        assert await pbal.say("SET site.dot_files = off") == "OK"
        assert await statuses(pbal, "/.git/config") == {"/.git/config": 404}

    run()


def test_links_do_not_lead_to_dot_files(asked: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab, "index_files = i.html .htpasswd")
        (docroot / "open" / "git").symlink_to("../.git")
        (docroot / "env").symlink_to(docroot / "sub" / ".env")
        (docroot / "i.html").symlink_to(".htpasswd")
        (docroot / "round-about").symlink_to("open/git")
        (docroot / "fine").symlink_to("open/a.txt")
        (docroot / "known").symlink_to(".well-known")
        paths = ("/open/git", "/open/git/", "/open/git/config", "/env", "/i.html", "/round-about/config", "/round-about")
        for links in (INSIDE, ANYWHERE, NEVER):
            assert await pbal.say(f"SET site.follow_symlinks = {links}") == "OK"
            assert set((await statuses(pbal, *paths)).values()) == {404}
            assert await statuses(pbal, "/") == {"/": 403}, "an index file that is one is none"
        assert await pbal.say("SET site.follow_symlinks = inside") == "OK"
        assert (await pbal.ask("site", get("/fine"))).body == b"seen"
        assert (await pbal.ask("site", get("/known/x"))).body == b"known"

    run()


def test_links_are_followed_as_follow_symlinks_says(asked: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab)
        (docroot / "in").symlink_to("a.txt")
        (docroot / "in-absolute").symlink_to(docroot / "a.txt")
        (docroot / "folder").symlink_to("open")
        (docroot / "out").symlink_to("../beside/b.txt")
        (docroot / "out-folder").symlink_to(lab.folder / "beside")
        (docroot / "round").symlink_to("round")
        (docroot / "gone").symlink_to("none")
        (lab.folder / "beside" / ".env").write_text("secret")
        inside, outside = ("/in", "/in-absolute", "/folder/a.txt"), ("/out", "/out-folder/b.txt", "/out-folder", "/out-folder/")
        never = ("/round", "/gone", "/out-folder/.env")
        for links, served in ((NEVER, ()), (INSIDE, inside), (ANYWHERE, (*inside, *outside))):
            assert await pbal.say(f"SET site.follow_symlinks = {links}") == "OK"
            for path, status in (await statuses(pbal, *inside, *outside, *never)).items():
                assert (status == 404) == (path not in served), (links, path, status)
        assert (await pbal.ask("site", get("/out"))).body == (await pbal.ask("site", get("/out-folder/b.txt"))).body == b"beside"
        (docroot / "env").symlink_to(lab.folder / "beside" / ".env")
        for links, path, why in (
            (NEVER, "/in", ", by follow_symlinks = never"), (INSIDE, "/out", ", by follow_symlinks = inside"), (INSIDE, "/none", ""),
            (ANYWHERE, "/env", ", by dot_files = off"), (ANYWHERE, "/.git/config", ", by dot_files = off"),
        ):  # fmt: skip
            assert await pbal.say(f"SET site.follow_symlinks = {links}") == "OK"
            text = await pbal.say(f"explain GET http://127.0.0.1:{pbal.server.address('site')[1]}{path}")
            assert f"404: {path} in {docroot}{why}\n" in text + "\n", text
        assert await statuses(pbal, "/env") == {"/env": 404}, "a dot file outside is one, too"

    run()


@lab
async def test_a_docroot_may_be_a_link_and_in_a_dot_folder(lab: Lab) -> None:
    for links in (NEVER, INSIDE, ANYWHERE):
        folder = lab.folder / links / ".hidden" / "www"
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("seen")
        (folder / "link").symlink_to("a.txt")
        (lab.folder / f"{links}-root").symlink_to(folder)
        pbal = await lab.pbal(
            "CREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\n"
            f"SET docroot = {lab.folder}/{links}-root\nSET follow_symlinks = {links}\nENABLE site"
        )
        assert (await pbal.ask("site", get("/a.txt"))).body == b"seen"
        assert (await statuses(pbal, "/link")) == {"/link": 404 if links == NEVER else 200}


# -- swaps between the check and the use -----------------------------------------------------------------------------


def swapping(left: list[Callable[[], None]], call: Callable[..., object]) -> Callable[..., object]:
    """A call in front of which something is swapped, once."""

    def swapped(*args: object, **more: object) -> object:
        if left:
            left.pop()()
        return call(*args, **more)

    return swapped


@pytest.mark.parametrize("links", [NEVER, INSIDE, ANYWHERE])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_was_seen_to_be_allowed_may_not_be_swapped(links: str, what: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a name has been looked at, another thing is put there: a link to what may not be served."""

    @lab
    async def run(lab: Lab) -> None:
        docroot, pbal = await site(lab, f"follow_symlinks = {links}")
        (docroot / "spare").mkdir()
        (docroot / "spare" / "config").write_text("seen")
        (docroot / "way").symlink_to("spare")
        (docroot / "file").write_text("seen")
        (docroot / "real").mkdir()
        (docroot / "real" / "config").write_text("seen")

        def swap() -> None:
            if what == "file":
                (docroot / "new").symlink_to(".git/config")
                (docroot / "new").rename(docroot / "file")
            else:
                for name in ("real", "way"):
                    (docroot / name).rename(docroot / f"{name}-old")
                    (docroot / name).symlink_to(".git")

        path = "/file" if what == "file" else "/real/config" if links == NEVER else "/way/config"
        assert (await pbal.ask("site", get(path))).body == b"seen"
        left = [swap]
        name = "open_known" if asked == "memory" else "_walk"
        monkeypatch.setattr(finding, name, swapping(left, getattr(finding, name)))
        answer = await pbal.ask("site", get(path))
        assert b"secret" not in answer.body
        assert answer.status == 404 or answer.body == b"seen", "the walk ends, or goes where the look went"
        for late in left:  # a kernel that knew nothing of it in memory
            late()
        assert await statuses(pbal, path) == {path: 404}, "and from then on it is what it is"
        assert not [name for name in map(os.fsdecode, opened()) if ".git" in name]

    run()


def opened() -> list[bytes]:
    """What this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(os.fsencode(f"/proc/self/fd/{number}")))
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def test_an_index_file_that_may_not_be_read_is_no_reason_to_list_its_folder() -> None:
    def find(rules: finding.Rules, path: bytes) -> finding.OpenFile | None:
        if path == b"/index.html":
            raise finding.NotServed(403)
        return None

    rules = finding.Rules(OpenFiles({}, {}), b"/")
    with pytest.raises(finding.NotServed) as refused:
        finding.with_index(find, rules, b"/", ("none.html/", "index.html"))
    assert not isinstance(refused.value, finding.NoIndex) and refused.value.status == 403
