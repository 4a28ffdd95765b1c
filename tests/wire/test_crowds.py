"""What very many clients do at one moment is done in turns of the loop, and nobody's request is lost by it."""

import asyncio

import pytest
from lab import Lab, Pbal, lab, read_response, transport_of, until

CROWD = 300


async def files(lab: Lab) -> Pbal:
    (lab.folder / "page").write_text("a page")
    (lab.folder / "other").write_text("another")
    return await lab.pbal(f"""
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET docroot = {lab.folder}
        ENABLE site
    """)


def get(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


@pytest.mark.parametrize("end", [False, True])
def test_a_crowd_that_asks_at_once_is_answered_each_in_order(end: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await files(lab)
        crowd = [await pbal.connect("site") for _ in range(CROWD)]
        for _, writer in crowd:
            writer.write(get("page") + get("other"))
            if end:
                writer.write_eof()
        for reader, _ in crowd:
            assert (await read_response(reader)).body == b"a page"
            assert (await read_response(reader)).body == b"another"
            if end:
                assert await reader.read() == b""
        assert pbal.counts["requests"] == 2 * CROWD

    run()


@lab
async def test_a_crowd_whose_heads_come_in_two_pieces_is_answered(lab: Lab) -> None:
    pbal = await files(lab)
    crowd = [await pbal.connect("site") for _ in range(CROWD)]
    for piece in (get("page")[:20], get("page")[20:]):
        for _, writer in crowd:
            writer.write(piece)
        await asyncio.sleep(0)
    for reader, _ in crowd:
        assert (await read_response(reader)).body == b"a page"


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_crowd_that_leaves_at_once_is_gone(how: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await files(lab)
        crowd = [await pbal.connect("site") for _ in range(CROWD)]
        for reader, writer in crowd:
            writer.write(get("page"))
            await read_response(reader)
        for _, writer in crowd:
            if how == "reset":
                transport_of(writer).abort()
            else:
                writer.close()
        reader, writer = await pbal.connect("site")
        writer.write(get("page"))
        assert (await read_response(reader)).body == b"a page"
        await until(lambda: len(pbal.world.clients) == 1, "the crowd to be closed")
        assert pbal.counts["clients"] == 1

    run()
