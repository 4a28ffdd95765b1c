"""The log writer and the limit on warnings, without a server."""

import logging
import os
from pathlib import Path

import pytest

from pbal.model.clock import ManualClock
from pbal.model.world import LOG_KINDS, World
from pbal.observe.log import LONGEST_LINE, LogWriter, escape


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("pbal", logging.WARNING, "", 0, message, args, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("é 漢", "é 漢"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x00\x1b[31m\x7f\x85", "\\x00\\x1b[31m\\x7f\\x85"),
        ("a\u2028b\u2029c\u202ed\u2066e", "a\\u2028b\\u2029c\\u202ed\\u2066e"),
    ],
)
def test_control_characters_become_escapes(text, shown):
    assert escape(text) == shown


def test_lines_are_written_in_order_whole_and_marked_where_cut(tmp_path: Path):
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LogWriter(descriptor)
    for number in range(500):
        writer.emit(record("number %d", number))
    writer.emit(record("x" * (LONGEST_LINE + 5)))
    writer.emit(record("does not %d fit", "at all"))
    writer.emit(record("\udcff"))
    writer.finish()
    lines = path.read_text().splitlines()
    assert [line.split(": ")[1] for line in lines[:500]] == [f"number {number}" for number in range(500)]
    assert lines[500].endswith("x... (5 characters more)")
    assert lines[501].endswith("does not %d fit")
    assert lines[502].endswith("\\udcff")
    os.close(descriptor)


def test_a_traceback_cannot_pass_for_a_line(tmp_path: Path):
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LogWriter(descriptor)
    try:
        raise ValueError("a\n2030-01-01 forged\x1b")
    except ValueError as error:
        failed = record("failed")
        failed.exc_info = (ValueError, error, error.__traceback__)
    writer.emit(failed)
    writer.finish()
    first, *rest = path.read_text().splitlines()
    assert first.endswith("WARNING pbal: failed")
    assert all(line.startswith("  | ") for line in rest) and "  | 2030-01-01 forged\\x1b" in rest
    os.close(descriptor)


def test_what_is_dropped_is_counted_where_it_belongs():
    reading, writing = os.pipe()
    os.close(reading)
    counts = {"log_lines_dropped": 0}
    writer = LogWriter(writing)
    writer.emit(record("to nobody"))
    writer.flush()
    writer.count_in(counts)
    assert counts["log_lines_dropped"] == 1
    writer.emit(record("to nobody"))
    writer.finish()
    assert counts["log_lines_dropped"] == 2
    os.close(writing)


def test_warnings_of_a_kind_are_limited_and_the_rest_is_said_when_it_falls_silent(caplog):
    clock = ManualClock()
    world = World(clock)
    for number in range(5):
        world.log_limited("cold", "too cold: %d", number)
        world.log_limited("warm", "too warm: %d", number)
    world.log_left_out()
    assert [each.getMessage() for each in caplog.records] == ["too cold: 0", "too warm: 0"]
    assert world.counters.counts["log_lines_limited"] == 8
    caplog.clear()
    clock.advance(10)
    world.log_limited("cold", "too cold: %d", 5)
    world.log_left_out()
    assert [each.getMessage() for each in caplog.records] == ["too cold: 5 (and 4 more like it)", "warm: 4 more left out in 10 seconds"]


def test_the_table_of_kinds_is_bounded(caplog):
    world = World(ManualClock())
    for number in range(LOG_KINDS + 50):
        world.log_limited(f"kind {number}", "kind %d", number)
    assert len(caplog.records) == LOG_KINDS + 1
    assert world.counters.counts["log_lines_limited"] == 49
