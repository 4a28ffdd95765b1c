"""A pbal in a process of its own, from the command line to the exit status.

    1. what systemd said is taken from the environment: it was said to this process, and the next step may make another
    2. --daemon, or being process 1: fork; the parent waits for the child
    3. the log, then the file; its mistakes go to standard error
    4. the loop, and in it the server

Threads and the loop begin after the fork. Up to the moment when every service listens, standard error is the operator's.
"""

import argparse
import gc
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pbal.checking import MOST_SHOWN, counted, tell
from pbal.life import daemon, init
from pbal.life.handed import handed_over
from pbal.life.notify import notifier
from pbal.life.threads import leave, threads
from pbal.observe.log import LogWriter, set_up

if TYPE_CHECKING:
    from pbal.life.process import Process

DEFAULT_FILE = "/etc/pbal/pbal.conf"

log = logging.getLogger("pbal")


def run(options: argparse.Namespace) -> int:
    """Run pbal as the command line says; the exit status."""
    path, before = DEFAULT_FILE if options.config is None else options.config, threads()
    if not path:  # a variable of the shell that is not set: to run another configuration instead would be no help
        print("pbal: -c names no file", file=sys.stderr)
        return 2
    if options.config is None and not os.path.exists(path):
        print(f"pbal: there is no {path}: 'pbal -c FILE' runs a configuration, 'pbal check FILE' checks one", file=sys.stderr)
        print("pbal: the manual pages pbal(1) and pbal.conf(5) tell how to write one", file=sys.stderr)
        return 1
    if options.daemon and init.is_init():
        print("pbal: --daemon in process 1 would end the container: leave it out", file=sys.stderr)
        return 2
    _open_streams()
    handed, told = handed_over(os.environ), notifier(os.environ)
    background: daemon.Daemon | None = None
    if options.daemon:
        forked = daemon.fork()
        if isinstance(forked, int):
            return forked
        background = forked
    elif init.is_init():
        child = init.fork()
        if child:
            handed.close()
            told.close()
            return init.wait(child)
    from pbal.life.process import Process  # not before the fork: process 1 need not hold the model, too

    writer = set_up(options.log_level or "info")
    pidfile = None if options.pidfile is None else Path(options.pidfile).absolute()
    process = Process(handed, told, background, pidfile, writer.flush)
    try:
        status = _start(path, process, options.log_level, writer)
    finally:
        writer.finish()
    return leave(status, before)


def _open_streams() -> None:
    """Where a standard stream was closed, /dev/null takes its number: else a socket would, and the log would be written into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the least free number


def load(path: str) -> tuple[object, object] | None:
    """World and interpreter of a file, or None after its mistakes were printed. Raises: OSError if it cannot be read."""
    from pbal.commands.files import MOST_MISTAKES
    from pbal.commands.interpreter import Interpreter
    from pbal.commands.lint import log_odd
    from pbal.model.world import World

    world = World()
    interpreter = Interpreter(world)
    mistakes = interpreter.run_file(path, most=MOST_MISTAKES)
    tell(mistakes[:MOST_SHOWN])
    if mistakes:
        number = len(mistakes)
        more = f"\n{number - MOST_SHOWN} more are not shown: pbal check --all shows them" if number > MOST_SHOWN else ""
        print(f"{path}: {counted(number, 'mistake', number < MOST_MISTAKES)}, nothing started{more}", file=sys.stderr)
        return None
    log_odd(log, interpreter.warnings)
    return world, interpreter


def _start(path: str, process: "Process", log_level: str | None, writer: LogWriter) -> int:
    from pbal.observe.stuck import ignore_telling

    ignore_telling()
    try:
        loaded = load(path)
    except OSError as error:
        print(f"pbal: cannot read {path}: {error.strerror}", file=sys.stderr)
        return 1
    return 1 if loaded is None else _serve(*loaded, process, log_level, writer)


def _serve(world: object, interpreter: object, process: "Process", log_level: str | None, writer: LogWriter) -> int:
    from pbal.commands.interpreter import Interpreter
    from pbal.life import looping
    from pbal.life.allocator import keep_freed_memory
    from pbal.model.errors import ConfigError
    from pbal.model.world import World
    from pbal.server import serve

    assert isinstance(world, World) and isinstance(interpreter, Interpreter)
    writer.count_in(world.counters.counts)
    process.files = (interpreter.path, *sorted(interpreter.read_too))

    if log_level is None:  # the command line's counts for more
        logging.getLogger().setLevel(str(world.server["log_level"]).upper())
    if process.in_background:  # nobody will read standard error
        world.settings.standards["log_to"] = "syslog"
        if "log_to" not in world.server_explicit:
            world.server["log_to"] = "syslog"

    def settle(name: str) -> None:
        """Log in the form and to the place that SERVER says."""
        if process.silent and world.server["log_to"] == "stderr":
            raise ConfigError(f"{name}: pbal runs in the background, where standard error leads nowhere", about="stderr")
        try:
            writer.use(world.server["log_format"], world.server["log_to"])
        except OSError as error:
            instead = "; SERVER log_to = stderr logs to what standard error is" if process.in_background else ""
            raise ConfigError(f"{name}: there is no syslog: {error.strerror}{instead}", about=name) from None

    try:
        settle("log_to")
        world.server_changed = settle
        gc.collect()
        gc.freeze()  # what start-up made is never garbage; the collector need not look at it again
        gc.set_threshold(20000, 20, 50)
        keep_freed_memory()
        return looping.run(serve(world, interpreter, process), world)
    except ConfigError as error:
        print(f"pbal: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
