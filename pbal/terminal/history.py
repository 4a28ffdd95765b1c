"""What was typed, kept in a file of the user's own: mode 0600, in the folder for such state, and never a password.

Two clients write to one file: each adds its lines at the end, and whoever starts reads the last KEPT of them. A file that cannot be
written is no reason not to work; it is said once.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Final

KEPT: Final = 2000
"""Lines."""
_TRIMMED_AT: Final = 2 * KEPT

_SECRET = re.compile(r"\s*(?:login\b|[^=]*(?:password|secret)(?![\w-]*_file)[\w-]*\s*=)", re.IGNORECASE)


def default_path() -> Path:
    """Source: XDG Base Directory Specification, XDG_STATE_HOME. A user without a home has "/", where a file can hardly be written."""
    folder = os.environ.get("XDG_STATE_HOME", "")
    home = os.path.expanduser("~")
    base = Path(folder if folder.startswith("/") else f"{home if home.startswith('/') else '/'}/.local/state")
    return base / "pbal" / "console_history"


def is_kept(line: str) -> bool:
    """Whether a line may be kept: one that begins with a blank is not meant to be, one that says a password must not."""
    return bool(line.strip()) and line[0] not in " \t" and not _SECRET.match(line)


class History:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault = ""
        """Why it cannot be written, once that was tried."""

    def load(self) -> list[str]:
        """The lines, the oldest first."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            self.fault = error.strerror or str(error)
            return []
        if len(lines) > _TRIMMED_AT:
            self._trim(lines[-KEPT:])
        return lines[-KEPT:]

    def add(self, line: str) -> None:
        """Keep a line, if it may be kept."""
        if not is_kept(line):
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8", errors="replace") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(line + "\n")
        except OSError as error:
            self.fault = error.strerror or str(error)

    def _trim(self, lines: list[str]) -> None:
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # it is tried again the next time
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
            beside.replace(self.path)
