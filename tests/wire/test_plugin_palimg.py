"""Palimg: pictures in other colours, as Perlbal made them; which are refused; and what LOAD says where Pillow is not there."""

import importlib.util

import pytest
from lab import Lab, Pbal, Response, lab, read_response
from pictures import COLOURED, GREY, colours, paint
from scripted import get

HAVE = importlib.util.find_spec("PIL") is not None
needs_pillow = pytest.mark.skipif(not HAVE, reason="Pillow is not installed: pip install 'pbal[images]'")
CONF = """
    LOAD Palimg
    CREATE SERVICE pictures
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}
      SET plugins = Palimg
    ENABLE pictures
"""


async def start(lab: Lab) -> Pbal:
    (lab.folder / "palimg").mkdir()
    paint(lab.folder / "palimg/a.gif", GREY)
    paint(lab.folder / "palimg/a.PNG", GREY)
    paint(lab.folder / "palimg/c.gif", COLOURED)
    return await lab.pbal(CONF.format(folder=lab.folder))


async def ask(pbal: Pbal, target: str, *fields: str) -> Response:
    return await pbal.ask("pictures", get(target, *fields))


# What Perlbal 1.80 made of the same pictures.
PAINTED = [
    ("a.gif/pg00ff00000f0000ff", [(255 - 17 * place, 0, 17 * place) for place in range(16)]),
    ("a.gif/pg02ff0000080000ff", [*GREY[:2], (255, 0, 0), (212, 0, 42), (170, 0, 85), (127, 0, 127), (85, 0, 170), (42, 0, 212),
                                  (0, 0, 255), *GREY[9:]]),
    ("a.gif/pg080000ff02ff0000", [*GREY[:2], (255, 0, 0), (212, 0, 42), (170, 0, 85), (127, 0, 127), (85, 0, 170), (42, 0, 212),
                                  (0, 0, 255), *GREY[9:]]),
    ("a.gif/ptff0000", [(16 * place, 0, 0) for place in range(16)]),
    ("a.gif/ptff000000ff00", [(16 * place, 255 - 16 * place, 0) for place in range(16)]),
    ("a.PNG/ptff000000ff00", [(16 * place, 255 - 16 * place, 0) for place in range(16)]),
    ("c.gif/pt123456", [(0, 52, 0), (1, 48, 1), (2, 45, 3), (3, 42, 5), (4, 38, 6), (5, 35, 8), (6, 32, 10), (7, 29, 11), (9, 25, 13),
                        (10, 22, 15), (11, 19, 16), (12, 16, 18), (13, 12, 20), (14, 9, 21), (15, 6, 23), (16, 3, 25)]),
    ("a.gif/p0ff0000100ff00", [(255, 0, 0), (0, 255, 0), *GREY[2:]]),
    ("a.gif/pfff0000", [*GREY[:15], (255, 0, 0)]),
    ("a.gif", GREY),
]  # fmt: skip


@needs_pillow
@lab
async def test_pictures_are_as_perlbal_made_them(lab: Lab) -> None:
    pbal = await start(lab)
    for target, expected in PAINTED:
        answer = await ask(pbal, f"/palimg/{target}")
        assert answer.status == 200 and answer.fields["content-type"] == ("image/png" if "PNG" in target else "image/gif")
        assert colours(answer.body) == expected, target
    assert pbal.counts["palimg_changed"] == len(PAINTED) - 1
    etag = (await ask(pbal, "/palimg/a.gif/ptff0000")).fields["etag"]
    assert (await ask(pbal, "/palimg/a.gif/ptff0000", f"If-None-Match: {etag}")).status == 304
    assert (await ask(pbal, "/palimg/a.gif/pt00ff00", f"If-None-Match: {etag}")).status == 200
    reader, writer = await pbal.connect("pictures")
    writer.write(get("/palimg/a.gif/ptff0000", method="HEAD") + get("/palimg/a.gif/ptff0000"))
    head = await read_response(reader, head_only=True)
    assert head.fields["content-length"] == str(len((await read_response(reader)).body))
    assert await pbal.say("RELOAD palimg") == "OK"
    assert (await ask(pbal, "/palimg/a%2Egif/p%74ff0000")).status == 200


@needs_pillow
@lab
async def test_what_cannot_be_painted_is_refused(lab: Lab) -> None:
    pbal = await start(lab)
    folder = lab.folder / "palimg"
    (folder / "bad.gif").write_bytes(b"GIF89a nothing")
    (folder / "photo.jpg").write_bytes(b"a photo")
    paint(folder / "moving.gif", GREY, 3)
    for target, status, said in [
        ("a.gif/p", 404, b"no such colours"), ("a.gif/pfoo", 404, b"no such colours"), ("a.gif/pFff0000", 404, b"no such colours"),
        ("a.gif/p" + "0ff0000" * 7, 404, b"no such colours"), ("a.gif/pg00ff000020ffffff", 404, b"has 16 entries"),
        ("none.gif/ptff0000", 404, b""), ("bad.gif/ptff0000", 500, b"cannot be read"), ("moving.gif/ptff0000", 500, b"several frames"),
        ("photo.jpg/ptff0000", 200, b"a photo"), ("../palimg.py/ptff0000", 404, b""),
    ]:  # fmt: skip
        answer = await ask(pbal, f"/palimg/{target}")
        assert answer.status == status and said in answer.body, (target, answer.status, answer.body)
    assert pbal.counts["palimg_refused"] == 2
    assert await pbal.say("SET pictures.palimg_max_pixels = 15") == "OK"
    assert b"more than 15 pixels" in (await ask(pbal, "/palimg/a.gif/ptff0000")).body
    assert await pbal.say("SET pictures.palimg_max_size = 16") == "OK"
    assert b"larger than palimg_max_size" in (await ask(pbal, "/palimg/a.gif/ptff0000")).body
    assert "expected 1 or more" in await pbal.say("SET pictures.palimg_max_pixels = 0")


@lab
async def test_load_says_what_to_install(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbal.loader.find_spec", lambda name: None)
    pbal = await lab.pbal("CREATE SERVICE pictures\nSET role = web_server")
    assert "plugin 'palimg' needs PIL, which is not installed: pip install 'pbal[images]'" in await pbal.say("LOAD palimg")
    assert "palimg" not in pbal.world.plugins
