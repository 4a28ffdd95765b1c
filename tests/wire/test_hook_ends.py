"""The hook `end`: once for each request, on every service that had it, whatever became of it."""

from lab import Lab, lab, read_response, until

COUNTS = """
from pbal.api import Counter, Exchange, Plugin, Verdict, hook


class Record:
    def gone(self):
        pass


class Counts(Plugin):
    counters = (Counter("ends", "Ends."), Counter("base_ends", "Ends on a selector."))
    parked = None

    @hook.start_http_request
    def park(self, exchange: Exchange) -> Verdict:
        if exchange.path == b"/park" and self.service.role != "selector":
            Counts.record = Record()
            Counts.client = exchange.park(Counts.record)
            return Verdict.TAKEN
        if exchange.path == b"/wake" and self.service.role != "selector":
            Counts.client.answer(Counts.record, 200, (), b"woken", None)
            exchange.respond(204)
            return Verdict.TAKEN
        return Verdict.PASS

    @hook.end
    def count(self, exchange: Exchange) -> None:
        self.counts["ends"] += 1

    @hook.return_to_base
    def count_base(self, exchange: Exchange) -> None:
        self.counts["base_ends"] += 1
"""


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


@lab
async def test_a_request_ends_once_on_each_service_that_had_it(lab: Lab) -> None:
    (lab.folder / "counts.py").write_text(COUNTS)
    (lab.folder / "page").write_text("a page")
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD counts
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET docroot = {lab.folder}
          SET plugins = counts
        ENABLE site
        CREATE SERVICE inner
          SET role            = selector
          SET plugins         = counts
          SET default_service = site
        ENABLE inner
        CREATE SERVICE front
          SET role            = selector
          SET listen          = 127.0.0.1:0
          SET plugins         = counts
          SET default_service = inner
        ENABLE front
    """)

    def ended() -> tuple[int, int]:
        return pbal.counts["ends"], pbal.counts["base_ends"]

    assert (await pbal.ask("site", get("/page"))).body == b"a page"
    assert ended() == (1, 0)
    assert (await pbal.ask("front", get("/missing"))).status == 404
    assert ended() == (4, 2), "the site, and two selectors"
    reader, writer = await pbal.connect("front")
    writer.write(get("/park"))
    await until(lambda: ended() == (7, 4), "the parked request to be over for plugins")
    assert (await pbal.ask("site", get("/wake"))).status == 204
    assert (await read_response(reader)).body == b"woken"
    assert ended() == (8, 4), "the poll does not end twice"
    writer.write(get("/page"))
    await read_response(reader)
    assert ended() == (11, 6), "the connection's next request is another one"
    bad_reader, bad_writer = await pbal.connect("site")
    bad_writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000000000\r\n\r\n")
    assert (await read_response(bad_reader)).status == 413
    assert ended() == (12, 6), "one that was refused ends, too"
    gone_reader, gone_writer = await pbal.connect("site")
    gone_writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nx")
    await read_response(gone_reader)
    gone_writer.close()
    await until(lambda: ended() == (13, 6), "one whose client leaves to end once")
