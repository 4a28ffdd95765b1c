"""Media types of files: the table, MIME SET and MIME REMOVE, of running services and in files."""

from docroots import docroot, get
from lab import Lab, lab

from pbal.schema.media import BUILT_IN, media_type


@lab
async def test_types_are_set_and_removed_while_services_run(lab: Lab) -> None:
    root, pbal = await docroot(lab)
    for name in ("a.foo", "a.css", "a.TXT", "a.tar.foo"):
        (root / name).touch()

    async def kind(name: str) -> str:
        return (await pbal.ask("site", get(f"/{name}"))).fields["content-type"]

    assert await kind("a.foo") == "application/octet-stream" and await kind("a.css") == "text/css; charset=utf-8"
    assert await pbal.say("MIME SET .FOO Image/X-Foo") == "foo set to Image/X-Foo."
    assert await kind("a.foo") == await kind("a.tar.foo") == "Image/X-Foo"
    assert "foo Image/X-Foo" in (await pbal.say("mime")).splitlines()
    assert await pbal.say("MIME SET txt text/plain; charset=iso-8859-1") == "txt set to text/plain; charset=iso-8859-1."
    assert await kind("a.TXT") == "text/plain; charset=iso-8859-1"
    assert await pbal.say("mime remove css") == "css removed."
    assert await kind("a.css") == "application/octet-stream"
    assert "css not a defined extension." in await pbal.say("MIME REMOVE css")
    dump = (await pbal.say("dumpconfig")).splitlines()
    lines = ["MIME REMOVE css", "MIME SET foo Image/X-Foo", "MIME SET txt text/plain; charset=iso-8859-1"]
    assert [line for line in dump if line.startswith("MIME")] == lines
    for statement in ("MIME SET css text/css", "MIME REMOVE foo", "MIME SET txt text/plain"):
        await pbal.say(statement)
    assert "MIME" not in await pbal.say("dumpconfig"), "they are what is built in again"
    assert await kind("a.css") == "text/css; charset=utf-8"
    for wrong, why in (
        ("MIME SET a/b text/css", "expected the ending of a file name such as css, found 'a/b'"),
        ("MIME SET css text", "expected a media type such as text/css, or text/plain; charset=iso-8859-1, found 'text'"),
        ("MIME REMOVE csss", "did you mean 'css'?"),
    ):
        answer = await pbal.say(wrong)
        assert answer.startswith("ERROR") and why in answer
    for wrong in (
        "MIME SET css css",
        "MIME SET css text/css\x01",
        "MIME SET a.b text/css",
        'MIME SET "" text/css',
        "MIME SET css text/css;",
    ):
        assert (await pbal.say(wrong)).startswith("ERROR"), wrong
    assert await kind("a.css") == "text/css; charset=utf-8"


def test_what_is_built_in_is_what_statements_may_say() -> None:
    assert len(BUILT_IN) > 250
    assert all(ending == ending.lower() and kind == media_type(kind) == kind.lower() for ending, kind in BUILT_IN.items())
    perlbal = "css doc gif htm html jpg js mp3 mpg pdf png tif tiff torrent txt zip"
    assert set(perlbal.split()) <= BUILT_IN.keys()
