"""The loop's lag as pbal measures it, and the tick, whose duties do not hang on each other."""

import time

from lab import lab, until

from pbal.net.connection import ClientConnection
from pbal.observe.counters import Counters
from pbal.observe.loop import LoopLag

SITE = """
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}
      SET header_timeout = {timeout}
    ENABLE site
"""

BURNING = '''"""A hook that holds the loop for so many milliseconds."""

import time

from pbal.api import Exchange, Plugin, Verdict, hook


class Burning(Plugin):
    @hook.start_http_request
    def burn(self, exchange: Exchange) -> Verdict:
        end = time.monotonic() + int(exchange.request.target[1:]) / 1000
        while time.monotonic() < end:
            pass
        exchange.respond(200, (), b"done")
        return Verdict.TAKEN
'''

BURN = """
    SERVER plugin_path = {folder}
    LOAD burning
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET plugins = burning
    ENABLE site
"""


def get(milliseconds: int) -> bytes:
    return f"GET /{milliseconds} HTTP/1.1\r\nHost: c\r\n\r\n".encode()


@lab
async def test_a_stall_is_measured_counted_and_logged_once(lab, caplog):
    (lab.folder / "burning.py").write_text(BURNING)
    pbal = await lab.pbal(BURN.format(folder=lab.folder))
    assert (await pbal.ask("site", get(1500))).status == 200  # the tick falls into it, wherever it is
    await until(lambda: pbal.counts["loop_lag_max_ms"] >= 450, "the lag to be shown")
    shown = dict(line.split() for line in (await pbal.say("SHOW COUNTERS LIKE loop_*")).splitlines() if line.startswith("loop_"))
    assert int(shown["loop_stalls"]) >= 1
    assert 450 <= int(shown["loop_lag_max_ms"]) < 5000
    said = [record.getMessage() for record in caplog.records if "the loop was blocked for" in record.getMessage()]
    assert len(said) == 1
    await until(lambda: pbal.counts["loop_lag_ms"] < 100, "the last second's lag to be past")
    assert pbal.counts["loop_lag_max_ms"] >= 450, "the minute's is not"


@lab
async def test_at_work_no_stall_goes_unseen(lab):
    (lab.folder / "burning.py").write_text(BURNING)
    pbal = await lab.pbal(BURN.format(folder=lab.folder))
    for _ in range(15):  # two seconds: from the second tick on, the loop is at work
        assert (await pbal.ask("site", get(160))).status == 200
    before = pbal.counts["loop_stalls"]
    for _ in range(5):
        assert (await pbal.ask("site", get(160))).status == 200
    await until(lambda: pbal.counts["loop_stalls"] >= before + 5, "each of five to be counted")


@lab
async def test_only_a_loop_at_work_is_woken_to_be_measured(lab):
    used = 0.0
    lag = LoopLag(time.monotonic, Counters().counts, lambda *_: None, lambda: used)
    lag.begin()
    lag.tick()
    begun = time.monotonic()
    await until(lambda: time.monotonic() > begun + 0.2)
    assert lag.histogram.count == 1
    used = 0.5
    lag.tick()
    await until(lambda: lag.histogram.count >= 5, "the beat")
    lag.tick()  # nothing was used since
    measured, begun = lag.histogram.count, time.monotonic()
    await until(lambda: time.monotonic() > begun + 0.2)
    assert lag.histogram.count == measured


@lab
async def test_a_deadline_that_fails_ends_its_own_connection_only(lab, monkeypatch, caplog):
    pbal = await lab.pbal(SITE.format(folder=lab.folder, timeout="300ms"))
    expired = ClientConnection.expired
    broken: list[ClientConnection] = []

    def fails_for_the_first(self: ClientConnection, now: float) -> None:
        if not broken:
            broken.append(self)
        if self is broken[0]:
            raise RuntimeError("out of order")
        expired(self, now)

    monkeypatch.setattr(ClientConnection, "expired", fails_for_the_first)
    streams = [await pbal.connect("site") for _ in range(6)]
    for _, writer in streams:
        writer.write(b"GET / HT")
    answers = []
    for reader, _ in streams:
        try:
            answers.append(await reader.read())
        except ConnectionResetError:
            answers.append(b"")
    assert sorted(answer[:12] for answer in answers) == [b""] + [b"HTTP/1.1 408"] * 5
    assert pbal.counts["tick_errors"] == 1
    said = [record.getMessage() for record in caplog.records if "out of order" in record.getMessage()]
    assert len(said) == 1 and "open to 127.0.0.1:" in said[0]


@lab
async def test_a_role_whose_tick_fails_stops_no_deadline(lab, monkeypatch):
    pbal = await lab.pbal(SITE.format(folder=lab.folder, timeout="300ms"))

    def fails(role: object, now: float) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(type(pbal.world.service("site").handler), "tick", fails)
    await until(lambda: pbal.counts["tick_errors"] >= 2, "the tick to go on")
    reader, writer = await pbal.connect("site")
    writer.write(b"GET / HT")
    assert (await reader.read()).startswith(b"HTTP/1.1 408")
