"""The command line: `pbal -c FILE`, `pbal check FILE`, `pbal --version`. Arguments, logging, the loop."""

import argparse
import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pbal import __version__, build
from pbal.observe.log import LogWriter, set_up
from pbal.terminal import main as terminal

log = logging.getLogger("pbal")

DEFAULT_FILE = "/etc/pbal/pbal.conf"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pbal",
        description="Reverse proxy, web server and selector that parks long polls.",
        epilog="pbal check FILE reads a configuration, reports every mistake in it, and starts nothing.",
    )
    parser.add_argument("-c", "--config", metavar="FILE", help=f"configuration to run (default: {DEFAULT_FILE})")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="least level that is logged")
    parser.add_argument("--version", action="version", version=f"pbal {__version__} ({build.kind()})")
    commands = parser.add_subparsers(dest="command", metavar="check | plugin | password | console")
    check = commands.add_parser("check", help="check a configuration; exit status 0 or 1")
    check.add_argument("file", metavar="FILE")
    plugin = commands.add_parser("plugin", help="begin a plugin: pbal plugin new NAME")
    what = plugin.add_subparsers(dest="what", metavar="new", required=True)
    new = what.add_parser("new", help="write NAME.py and test_NAME.py, a plugin and its test")
    new.add_argument("name", metavar="NAME")
    new.add_argument("--folder", metavar="FOLDER", type=Path, default=Path(), help="where they are written (default: here)")
    password = commands.add_parser("password", help="print a line for a password_file; the password is read from standard input")
    password.add_argument("user", metavar="USER")
    console = commands.add_parser("console", help="speak to the console of a running pbal")
    terminal.add_arguments(console)
    return parser


def _load(path: str) -> tuple[object, object] | None:
    """World and interpreter of a file, or None after its mistakes were printed."""
    from pbal.commands.interpreter import Interpreter
    from pbal.model.world import World

    world = World()
    interpreter = Interpreter(world)
    mistakes = interpreter.run_file(path)
    for mistake in mistakes:
        print(mistake.render(), file=sys.stderr)
    if mistakes:
        number = len(mistakes)
        print(f"{path}: {number} mistake{'s' if number > 1 else ''}, nothing started", file=sys.stderr)
        return None
    return world, interpreter


def main(argv: Sequence[str] | None = None) -> int:
    """Run pbal. Exit status: 0 after a clean end, 1 for a configuration or start-up that failed, 2 for usage."""
    said = sys.argv[1:] if argv is None else argv
    if said and said[0] not in ("check", "plugin", "password", "console") and Path(said[0]).is_file():
        print(f"pbal: 'pbal -c {said[0]}' runs that file, 'pbal check {said[0]}' checks it", file=sys.stderr)
        return 2
    options = _arguments().parse_args(said)
    if options.command == "password":
        return _new_password(options.user)
    if options.command == "plugin":
        return _new_plugin(options.name, options.folder)
    if options.command == "console":
        return terminal.run(options)
    writer = set_up(options.log_level or "info")
    try:
        return _run(options, writer)
    finally:
        writer.finish()


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
            password = sys.stdin.readline(2 * LONGEST).removesuffix("\n")
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


def _run(options: argparse.Namespace, writer: LogWriter) -> int:
    path = options.file if options.command == "check" else options.config or DEFAULT_FILE
    if options.command != "check":
        from pbal.observe.stuck import ignore_telling

        ignore_telling()
    try:
        loaded = _load(path)
    except OSError as error:
        print(f"pbal: cannot read {path}: {error.strerror}", file=sys.stderr)
        return 1
    if loaded is None:
        return 1
    if options.command == "check":
        from pbal.model.world import World

        world = loaded[0]
        assert isinstance(world, World)
        listening = any(service.enabled and service["listen"] is not None for service in world.services.values())
        print(f"{path}: good")
        if not listening:
            print(f"{path}: but no service listens: ENABLE a service with a listen address", file=sys.stderr)
        return 0
    return _serve(*loaded, level=options.log_level, writer=writer)


def _serve(world: object, interpreter: object, level: str | None, writer: LogWriter) -> int:
    import uvloop

    from pbal.commands.interpreter import Interpreter
    from pbal.model.errors import ConfigError
    from pbal.model.world import World
    from pbal.server import serve

    assert isinstance(world, World) and isinstance(interpreter, Interpreter)
    writer.count_in(world.counters.counts)

    if level is None:  # the command line's counts for more
        logging.getLogger().setLevel(str(world.server["log_level"]).upper())

    def settle(name: str) -> None:
        """Log in the form and to the place that SERVER says."""
        try:
            writer.use(world.server["log_format"], world.server["log_to"])
        except OSError as error:
            raise ConfigError(f"{name}: there is no syslog: {error.strerror}", about=name) from None

    try:
        settle("log_to")
    except ConfigError as error:
        print(f"pbal: {error.message}", file=sys.stderr)
        return 1
    world.server_changed = settle
    gc.collect()
    gc.freeze()  # what start-up made is never garbage; the collector need not look at it again
    gc.set_threshold(20000, 20, 50)
    try:
        return uvloop.run(serve(world, interpreter, flush=writer.flush))
    except ConfigError as error:
        print(f"pbal: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
