"""What may be said behind `pbal console`. Every pbal reads this at its start, so it imports nothing."""

import argparse
from pathlib import Path
from typing import Final

PASSWORD_VARIABLE: Final = "PBAL_CONSOLE_PASSWORD"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "target", metavar="HOST:PORT | SOCKET", nargs="?", help="where the console is (default: 127.0.0.1:16000, else 127.0.0.1:60000)"
    )
    parser.add_argument("-c", "--config", metavar="FILE", default=argparse.SUPPRESS, help="the console of this configuration")
    parser.add_argument(
        "-e", "--execute", metavar="STATEMENT", action="append", default=[], help="carry it out and end; may be said several times"
    )
    parser.add_argument("--json", action="store_true", help="answer with one JSON value, or an array where there are several statements")
    parser.add_argument("-k", "--keep-going", action="store_true", help="go on after a statement that was refused")
    parser.add_argument("--user", metavar="NAME", default="", help=f"log in; the password is asked for, or is in {PASSWORD_VARIABLE}")
    parser.add_argument("--password-file", metavar="FILE", type=Path, help="the password is the first line of this file")
