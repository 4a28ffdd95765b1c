"""The file with the process id, which belongs to one living process.

    claimed   opened, locked and emptied before anything is bound; another pbal that holds the lock is an error
    written   every service listens: the number is in it
    removed   at every end

The lock tells a file that was left behind from one in use: it goes with the process, however that ended, while the number in a file may
by then be that of another program. A file that is not locked is stale, and taken over.

A file with anything but a number in it is somebody's: another name was meant, such as that of the configuration, and it is left alone.

The folder may be root's and pbal no longer root when it ends. Then the file cannot be removed; it is emptied, so that nobody signals a
process that took the number over.
"""

import fcntl
import os
import re
from pathlib import Path
from typing import Final

from pbal.model.errors import ConfigError

LONGEST: Final = 64
"""Octets of a file that may have the number of a process in it."""
_NUMBER: Final = re.compile(rb"[0-9\s\0]{0,%d}" % LONGEST)


class Pidfile:
    """A pidfile that this process holds."""

    def __init__(self, path: Path) -> None:
        """Claim it. Raises: ConfigError if another pbal holds it, if it cannot be made, or is no pidfile."""
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(f"pidfile: cannot make {path}: {error.strerror}", about=str(path)) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _NUMBER.fullmatch(os.pread(self._descriptor, LONGEST + 1, 0)):
                os.close(self._descriptor)
                raise ConfigError(f"pidfile: {path} holds something else than a process id, which would be lost", about=str(path))
            os.ftruncate(self._descriptor, 0)
        except BlockingIOError:
            said = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            who = f"process {said}" if said.isdecimal() else "which is starting"
            raise ConfigError(f"pidfile: {path} is that of a pbal that runs already, {who}", about=str(path)) from None
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(f"pidfile: cannot use {path}: {error.strerror}", about=str(path)) from None

    def write(self) -> None:
        """Put the number of this process in. Raises: OSError."""
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def remove(self) -> str:
        """Give it up. Why the file is there still, emptied; "" if it is gone."""
        why = ""
        try:
            if os.path.samestat(os.stat(self.path, follow_symlinks=False), os.fstat(self._descriptor)):
                os.unlink(self.path)
        except FileNotFoundError:
            pass  # somebody removed it meanwhile
        except OSError as error:
            os.ftruncate(self._descriptor, 0)
            why = error.strerror or str(error)
        os.close(self._descriptor)
        return why
