"""`pbal check`: read configurations as a start does, up to what touches the outside, and tell what is wrong with them.

Each file is a configuration of its own. Text goes to standard error, for people: in colour where that is a terminal and NO_COLOR is not
set. With --format json an array of objects goes to standard output, one for each mistake or warning of all files, `[]` if there are none:
lang.mistakes.Mistake.as_object says what is in them.

A plugin's module is imported, because its declarations are in it; no plugin is opened.
"""

import argparse
import gc
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pbal.lang.mistakes import Mistake
    from pbal.model.world import World

MOST_SHOWN = 50
"""Mistakes that are printed unless all are asked for. A person reads the first few, and a wrong file has thousands."""

GOOD, BAD, UNREADABLE = 0, 1, 2
"""Exit statuses."""


@dataclass(slots=True)
class Checked:
    """What was found in one file."""

    name: str
    mistakes: "list[Mistake]" = field(default_factory=list)
    warnings: "list[Mistake]" = field(default_factory=list)
    unreadable: bool = False
    whole: bool = True
    """Whether it was read to its end."""

    @property
    def told(self) -> "list[Mistake]":
        """Mistakes and warnings, by file and line as they were read."""
        return [*self.mistakes, *self.warnings]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after `pbal check`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a configuration; - is standard input")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="text for people, or one array of objects (default: text)"
    )
    parser.add_argument("--all", action="store_true", help=f"print more than {MOST_SHOWN} mistakes")
    parser.add_argument("--strict", action="store_true", help="exit status 1 for warnings, too")


def run(options: argparse.Namespace) -> int:
    """Check files. Exit status: 0 good, 1 mistakes (with --strict: or warnings), 2 a file that cannot be read."""
    gc.disable()  # what is made of a file is held until the process ends; to look for garbage in it takes a quarter of the time
    whole = options.all or options.format == "json"
    try:
        checked = [check(name, whole) for name in options.files]
    finally:
        gc.enable()
    if options.format == "json":
        rows = [json.dumps(each.as_object(), ensure_ascii=False) for one in checked for each in one.told]
        print("[" + ",".join(f"\n  {row}" for row in rows) + ("\n]" if rows else "]"))
    else:
        total = sum(len(one.told) for one in checked)
        left = total if options.all else MOST_SHOWN
        for one in checked:
            left -= _tell_of(one, left)
        if total > MOST_SHOWN and not options.all:
            print(f"{total - MOST_SHOWN} more are not shown: --all shows them", file=sys.stderr)
    if any(one.unreadable for one in checked):
        return UNREADABLE
    bad = any(one.mistakes or (options.strict and one.warnings) for one in checked)
    return BAD if bad else GOOD


def check(name: str, whole: bool = True) -> Checked:
    """Read one file; `-` is standard input. `whole`: to its end, however many mistakes there are."""
    from pbal.commands.files import MOST_MISTAKES
    from pbal.commands.interpreter import Interpreter
    from pbal.lang.mistakes import Mistake
    from pbal.model.world import World
    from pbal.schema.kinds import Kind

    world = World()
    interpreter = Interpreter(world)
    try:
        mistakes = interpreter.run_file(name, sys.stdin.buffer.read() if name == "-" else None, sys.maxsize if whole else MOST_MISTAKES)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        return Checked(name, [Mistake(message, kind=Kind.SYSTEM, file=name)], unreadable=True)
    warnings = list(interpreter.warnings)
    if not mistakes:
        files = [*([] if name == "-" else [Path(name).absolute()]), *sorted(interpreter.read_too)]
        warnings += _of_the_whole(world, name, files)
    return Checked(name, mistakes, warnings, whole=whole or len(mistakes) < MOST_MISTAKES)


def _of_the_whole(world: "World", name: str, files: "list[Path]") -> "Iterator[Mistake]":
    """What is odd about a configuration that is good. `files`: what it was read from."""
    from pbal.life.privileges import warnings as of_privileges

    if not any(service.enabled and service["listen"] is not None for service in world.services.values()):
        yield _odd(name, "no service listens: ENABLE a service with a listen address")
    for found in of_privileges(world, files):
        yield _odd(name, found.text)


def _odd(name: str, message: str) -> "Mistake":
    from pbal.lang.mistakes import Mistake
    from pbal.schema.kinds import Kind, Severity

    return Mistake(message, kind=Kind.CONFLICT, severity=Severity.WARNING, file=name)


def _tell_of(one: Checked, left: int) -> int:
    """Print what was found in a file, so much of it as is left; how much that was."""
    shown = one.told[: max(0, left)]
    tell(shown)
    number, odd = len(one.mistakes), len(one.warnings)
    said = f", {counted(odd, 'warning')}" if odd else ""
    if number and not one.unreadable:
        print(f"{one.name}: {counted(number, 'mistake', one.whole)}{said}, nothing started", file=sys.stderr)
    elif not number:
        print(f"{one.name}: good{said}")
    return len(shown)


def counted(number: int, what: str, whole: bool = True) -> str:
    """`3 mistakes`, or, of a file that was not read to its end, `500 mistakes or more`."""
    return f"{number} {what}{'s' if number > 1 else ''}{'' if whole else ' or more'}"


def tell(mistakes: "Iterable[Mistake]", stream: TextIO | None = None) -> None:
    """Print mistakes for people, to standard error unless another stream is said."""
    to: TextIO | None = stream or sys.stderr
    if to is None:  # it was closed when pbal was started
        return
    colour = to.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for mistake in mistakes:
        print(mistake.render(colour), file=to)
