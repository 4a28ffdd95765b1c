"""The command line: `pbal -c FILE`, `pbal check FILE`, `pbal --version`. What runs pbal is launch.py."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pbal import __version__, build, checking, formatting
from pbal.launch import DEFAULT_FILE, run
from pbal.life.threads import leave, threads
from pbal.observe.log import set_up
from pbal.terminal.arguments import add_arguments as add_console_arguments

_ONE_DASH = re.compile(r"-(config|daemon|help|version)(=.*)?", re.DOTALL)
"""Perl programs take long options with one dash, too, and Perlbal's start scripts may say them so."""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pbal",
        description="Reverse proxy, web server and selector that parks long polls.",
        epilog="pbal check FILE reads a configuration, reports every mistake in it, and starts nothing.",
    )
    parser.add_argument("-c", "--config", metavar="FILE", help=f"configuration to run (default: {DEFAULT_FILE})")
    parser.add_argument("-d", "--daemon", action="store_true", help="run in the background; return when every service listens")
    parser.add_argument("--pidfile", metavar="FILE", help="file for the process id, instead of the one that SERVER pidfile says")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="least level that is logged")
    parser.add_argument("--version", action="version", version=f"pbal {__version__} ({build.kind()})")
    commands = parser.add_subparsers(dest="command", metavar="check | fmt | plugin | password | console")
    checking.add_arguments(commands.add_parser("check", help="check configurations; exit status 0, 1 (mistakes) or 2"))
    formatting.add_arguments(commands.add_parser("fmt", help="print configurations in canonical form, or put them into it"))
    plugin = commands.add_parser("plugin", help="begin a plugin: pbal plugin new NAME")
    what = plugin.add_subparsers(dest="what", metavar="new", required=True)
    new = what.add_parser("new", help="write NAME.py and test_NAME.py, a plugin and its test")
    new.add_argument("name", metavar="NAME")
    new.add_argument("--folder", metavar="FOLDER", type=Path, default=Path(), help="where they are written (default: here)")
    password = commands.add_parser("password", help="print a line for a password_file; the password is read from standard input")
    password.add_argument("user", metavar="USER")
    console = commands.add_parser("console", help="speak to the console of a running pbal")
    add_console_arguments(console)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run pbal. Exit status: 0 after a clean end, 1 for a configuration or start-up that failed, 2 for usage."""
    said = [f"-{word}" if _ONE_DASH.fullmatch(word) else word for word in (sys.argv[1:] if argv is None else argv)]
    if said and said[0] not in ("check", "fmt", "plugin", "password", "console") and Path(said[0]).is_file():
        print(f"pbal: 'pbal -c {said[0]}' runs that file, 'pbal check {said[0]}' checks it", file=sys.stderr)
        return 2
    options = arguments().parse_args(said)
    if options.command == "password":
        return _new_password(options.user)
    if options.command == "fmt":
        return formatting.run(options)
    if options.command == "plugin":
        return _new_plugin(options.name, options.folder)
    if options.command == "console":
        from pbal.terminal.main import run as speak

        return speak(options)
    if options.command is None:
        return run(options)
    writer, before = set_up(options.log_level or "info"), threads()
    try:
        status = checking.run(options)
    finally:
        writer.finish()
    return leave(status, before)


def _new_password(user: str) -> int:
    """Print the line of a user. At a terminal the password is asked for twice, and not shown."""
    from getpass import getpass

    from pbal.schema.passwords import LONGEST, line_for

    try:
        if sys.stdin.isatty():
            password = getpass("Password: ")
            if getpass("Again: ") != password:
                print("pbal: the two are not the same", file=sys.stderr)
                return 1
        else:
            password = sys.stdin.readline(2 * LONGEST).rstrip("\r\n")  # as --password-file has it
        print(line_for(user, password))
    except (ValueError, EOFError, KeyboardInterrupt) as error:
        print(f"pbal: {str(error) or 'no password'}", file=sys.stderr)
        return 1
    return 0


def _new_plugin(name: str, folder: Path) -> int:
    from pbal.scaffold import CannotWrite, new_plugin

    try:
        written = new_plugin(name, folder)
    except CannotWrite as error:
        print(f"pbal: {error}", file=sys.stderr)
        return 1
    print(f"{', '.join(map(str, written))}: written")
    print(f"SERVER plugin_path = {folder.resolve()} and LOAD {name} run it; python -m pytest {written[1]} tests it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
