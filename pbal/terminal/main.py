"""`pbal console`: what its arguments start.

Exit status: 0; 1 if a statement was refused; 2 if there is no console to speak to, or the command line was wrong; 130 after Control-C.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from pbal.terminal import batch, target
from pbal.terminal.arguments import PASSWORD_VARIABLE
from pbal.terminal.target import Address
from pbal.terminal.wire import Console, LoginNeeded, NoConsole

_TRIES = 3


def run(options: argparse.Namespace) -> int:
    """Speak to a console; the exit status."""
    try:
        addresses = _addresses(options)
        password = _password(options)
    except (target.BadTarget, NoConsole, OSError) as error:
        return _failed(error)
    interactive = not options.execute and sys.stdin.isatty() and sys.stdout.isatty()
    consoles = [Console(address, user=options.user, password=password, json=options.json) for address in addresses]
    try:
        if interactive and not options.json:
            return _interactive(consoles)
        console = _connected(consoles)
    except NoConsole as error:
        return _failed(error)
    except (KeyboardInterrupt, EOFError):
        return batch.INTERRUPTED
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # like every filter
    said = [("", text) for _, text in batch.statements(line for each in options.execute for line in each.split("\n"))]
    statements = iter(said) if options.execute else batch.statements(sys.stdin)
    try:
        return batch.run(
            console,
            statements,
            single=len(said) == 1,
            keep_going=options.keep_going,
            out=sys.stdout,
            printable=_printable(sys.stdout.isatty()),
        )
    except KeyboardInterrupt:
        return batch.INTERRUPTED
    finally:
        console.close()


def _failed(error: Exception) -> int:
    message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    print(f"pbal console: {message}", file=sys.stderr)
    return batch.NO_CONSOLE


def _printable(for_a_person: bool) -> Callable[[str], str]:
    if not for_a_person:
        return str
    from pbal.terminal.screen import printable

    return printable


def _addresses(options: argparse.Namespace) -> list[Address]:
    config = getattr(options, "config", None)
    if options.target is not None:
        return [target.parsed(options.target)]
    return [target.of_configuration(config)] if config else target.customary()


def _password(options: argparse.Namespace) -> Callable[[], str] | None:
    """How the password is had. Raises: NoConsole, OSError."""
    if options.password_file is not None:
        if not options.user:
            raise NoConsole("--password-file needs --user NAME")
        with open(options.password_file, encoding="utf-8", errors="surrogateescape") as file:
            first = file.readline().rstrip("\r\n")
        return lambda: first
    said = os.environ.get(PASSWORD_VARIABLE)
    if said is not None:
        return lambda: said
    if options.user and not sys.stdin.isatty():
        raise NoConsole(f"no terminal to ask for a password: say --password-file FILE, or set {PASSWORD_VARIABLE}")
    return (lambda: _ask_password(options.user)) if options.user else None


def _ask_password(user: str) -> str:
    from getpass import getpass

    return getpass(f"password of {user}: ")


def _connected(consoles: list[Console]) -> Console:
    """The first that can be connected to. Raises: NoConsole."""
    for console in consoles:
        try:
            console.connect()
        except LoginNeeded:
            raise
        except NoConsole:
            if len(consoles) == 1:
                raise
        else:
            return console
    tried = " or ".join(str(console.address) for console in consoles)
    raise NoConsole(f"no console at {tried}: say HOST:PORT, the path of a socket, or -c FILE")


def _interactive(consoles: list[Console]) -> int:
    """A prompt. Raises: NoConsole."""
    from pbal.terminal.editing import PlainReader, prompting
    from pbal.terminal.history import History, default_path
    from pbal.terminal.screen import Screen
    from pbal.terminal.shell import Shell

    screen = Screen()
    for each in consoles:
        each.terminal = screen.width
    console = _logged_in(consoles)
    history = History(default_path())
    reader = prompting(console, history)
    if reader is None:
        screen.say("prompt_toolkit is not installed, so there is no history and no completion: pip install prompt_toolkit")
    status = Shell(console, reader or PlainReader(), screen, _ask_password).run()
    console.close()
    if history.fault:
        print(f"pbal console: {history.path}: {history.fault}; what was typed was not kept", file=sys.stderr)
    return status


def _logged_in(consoles: list[Console]) -> Console:
    """Connected, after asking who it is if the console does. Raises: NoConsole, EOFError, KeyboardInterrupt."""
    try:
        return _connected(consoles)
    except LoginNeeded as error:
        if error.console.user:
            raise
        console, refusal = error.console, error
    for _ in range(_TRIES):
        print(refusal, file=sys.stderr)
        user = input("user: ").strip()
        try:
            console.log_in_as(user, lambda user=user: _ask_password(user))  # type: ignore[misc]
        except LoginNeeded as error:
            refusal = error
        else:
            return console
    raise refusal
