"""The log writer and the limit on warnings, without a server."""

import ast
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from math import nan
from pathlib import Path

import pytest
from lab import DEADLINE

from pbal.model.clock import ManualClock
from pbal.model.limited import LOG_KINDS
from pbal.model.world import World
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
    world.limited.tell_left_out()
    assert [each.getMessage() for each in caplog.records] == ["too cold: 0", "too warm: 0"]
    assert world.counters.counts["log_lines_limited"] == 8
    caplog.clear()
    clock.advance(10)
    world.log_limited("cold", "too cold: %d", 5)
    world.limited.tell_left_out()
    assert [each.getMessage() for each in caplog.records] == ["too cold: 5 (and 4 more like it)", "warm: 4 more left out in 10 seconds"]


def test_the_table_of_kinds_is_bounded(caplog):
    world = World(ManualClock())
    for number in range(LOG_KINDS + 50):
        world.log_limited(f"kind {number}", "kind %d", number)
    assert len(caplog.records) == LOG_KINDS + 1
    assert world.counters.counts["log_lines_limited"] == 49


def test_json_is_one_object_a_line_whatever_was_said(tmp_path: Path):
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LogWriter(descriptor)
    writer.use("json", "stderr")
    writer.emit(record("%s: said", 'a"\n\u2028\x1b\udcff'))
    try:
        raise ValueError("a\n2030-01-01 forged")
    except ValueError as error:
        failed = record("failed")
        failed.exc_info = (ValueError, error, error.__traceback__)
    writer.emit(failed)
    writer.emit(record("does not %d fit", "at all"))
    writer.finish()
    said, traced, raw = (json.loads(line) for line in path.read_text("ascii").splitlines())
    assert (said["level"], said["logger"], said["event"], said["message"]) == ("warning", "pbal", "%s: said", 'a"\n\u2028\x1b\udcff: said')
    assert "2030-01-01 forged" in traced["trace"] and traced["message"] == "failed"
    assert raw["message"] == "does not %d fit"
    os.close(descriptor)


def test_an_event_has_its_name_and_fields_in_json_and_is_one_line_in_text(tmp_path: Path):
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LogWriter(descriptor)
    fields = {"event": "connect_failed", "node": "10.0.0.1:80", "reason": "a\nforged", "tries": 3, "level": "mine", "odd": {1}, "nan": nan}
    for form in ("text", "json"):
        writer.use(form, "stderr")
        writer.emit(record("cannot connect to %(node)s: %(reason)s", fields))
    writer.finish()
    text, line = path.read_text().splitlines()
    assert text.endswith(" WARNING pbal: cannot connect to 10.0.0.1:80: a\\nforged")
    said = json.loads(line)
    assert (said["event"], said["node"], said["reason"], said["tries"]) == ("connect_failed", "10.0.0.1:80", "a\nforged", 3)
    assert said["message"] == "cannot connect to 10.0.0.1:80: a\nforged"
    assert (said["level"], said["odd"], said["nan"]) == ("warning", "{1}", "nan"), "what the line says itself counts for more"
    os.close(descriptor)


def test_an_event_that_is_limited_keeps_its_name_and_says_how_many_were_left_out(caplog):
    clock = ManualClock()
    world = World(clock)
    for number in range(3):
        world.log_limited("cold", "too cold: %(degrees)d", {"event": "cold", "degrees": number})
    clock.advance(10)
    world.log_limited("cold", "too cold: %(degrees)d", {"event": "cold", "degrees": 9})
    assert caplog.records[-1].getMessage() == "too cold: 9 (and 2 more like it)"
    assert caplog.records[-1].args == {"event": "cold", "degrees": 9, "left_out": 2}


def test_the_journal_gets_levels_and_no_times(tmp_path: Path, monkeypatch):
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    found = os.fstat(descriptor)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    writer = LogWriter(descriptor)
    writer.emit(record("plain"))
    failed = record("failed")
    failed.stack_info = "here\n<3>forged"
    writer.emit(failed)
    writer.use("json", "stderr")
    writer.emit(record("plain"))
    writer.finish()
    *text, line = path.read_text().splitlines()
    assert text == ["<4>pbal: plain", "<4>pbal: failed", "<4>  | here", "<4>  | <3>forged"]
    assert json.loads(line.removeprefix("<4>"))["event"] == "plain"
    os.close(descriptor)


def test_syslog_gets_a_datagram_an_event(tmp_path: Path, monkeypatch):
    path = str(tmp_path / "syslog")
    monkeypatch.setattr("pbal.observe.syslog.SYSLOG_SOCKETS", (path,))
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    writer = LogWriter(descriptor)
    with pytest.raises(FileNotFoundError):
        writer.use("text", "syslog")
    writer.emit(record("to the file"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(DEADLINE)
        writer.use("text", "syslog")
        writer.emit(record("two\nlines"))
        assert listening.recv(4096).endswith(b": pbal: two\\nlines")
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(path)
        again.settimeout(DEADLINE)
        writer.emit(record("found again"))
        octets = again.recv(4096)
        assert octets.startswith(b"<28>") and octets.endswith(b": pbal: found again")
    writer.finish()
    assert file.read_text().endswith(" WARNING pbal: to the file\n")
    os.close(descriptor)


ROOT = Path(__file__).resolve().parent.parent


def logged(source: str) -> Iterator[ast.Call]:
    """log.info(...), log.warning(...), log.error(...), world.log_limited(...) of a module."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            of_log = isinstance(call.func.value, ast.Name) and call.func.value.id == "log"
            if call.func.attr == "log_limited" or (of_log and call.func.attr in ("info", "warning", "error")):
                yield call


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "pbal").rglob("*.py")))
def test_what_is_put_into_a_message_has_a_name(path: str) -> None:
    """A message with `%s` has no fields: JSON could not show them, and no script could count on them."""
    unnamed = [
        f"{path}:{call.lineno}"
        for call in logged((ROOT / path).read_text(encoding="utf-8"))
        for text in call.args[:2]
        if isinstance(text, ast.Constant) and re.search(r"%[^(%]", str(text.value))
    ]
    assert unnamed == []
