"""Statements for scripts: -e on the command line, or lines of standard input.

Each answer goes to standard output without the dot and the OK that end it on the wire, so that `pbal console -e dumpconfig > FILE`
is a configuration. A refusal goes to standard error, and what comes after it is not carried out, as in a file; --keep-going
carries it out. With --json standard output holds one JSON value: that of the one statement, or an array of them.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TextIO

from pbal.terminal.wire import Console, Lost

GOOD: Final = 0
REFUSED: Final = 1
NO_CONSOLE: Final = 2
INTERRUPTED: Final = 130
"""By Control-C, as a shell has it."""

_LEAVING: Final = frozenset({"quit", "exit"})
_ENDING: Final = frozenset({"quit", "exit", "shutdown"})
"""Statements whose connection may end before their answer does."""


def statements(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Where each statement stands, and its text; empty lines and comments are none."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield f"line {number}: ", text


def run(
    console: Console, said: Iterator[tuple[str, str]], *, single: bool, keep_going: bool, out: TextIO, printable: Callable[[str], str] = str
) -> int:
    """Carry out statements in turn; the exit status. `single`: JSON is the one answer, and no array."""
    status = GOOD
    array = console.json and not single
    if array:
        out.write("[\n")
    for number, (place, statement) in enumerate(said):
        if array and number:
            out.write(",\n")
        try:
            refused = _one(console, place, statement, out, printable)
        except Lost:
            if statement.split()[0].lower() in _ENDING:
                break
            out.flush()
            print(f"pbal console: the connection to {console.address} ended before the answer to '{statement}'", file=sys.stderr)
            return NO_CONSOLE
        if refused:
            status = REFUSED
        if (refused and not keep_going) or statement.lower() in _LEAVING:
            break
    if array:
        out.write("]\n")
    out.flush()
    return status


def _one(console: Console, place: str, statement: str, out: TextIO, printable: Callable[[str], str]) -> bool:
    """Whether it was refused."""
    import json

    answer = console.ask(statement)
    follows = statement.split()[0].lower() == "trace"
    held = ""
    for line in answer:
        if held:
            out.write(printable(held) + "\n")
            held = ""
        if line.startswith("ERROR: "):
            held = line  # the answer, if nothing comes after it
        else:
            out.write(printable(line) + "\n")
        if follows:
            out.flush()
    if not answer.refused:
        out.write(printable(held) + "\n" if held else "")
        return False
    out.flush()
    print(place + printable(held), file=sys.stderr)
    if console.json:
        out.write(json.dumps({"error": held.removeprefix("ERROR: ")}) + "\n")
    return True
