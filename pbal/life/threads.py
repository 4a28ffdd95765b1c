"""The threads that Python waits for at the end of a process, without a limit: those that a plugin began and forgot."""

import os
import sys
import threading
from collections.abc import Collection


def threads() -> list[threading.Thread]:
    """Those that run: no daemons, and not the main thread."""
    return [each for each in threading.enumerate() if not each.daemon and each is not threading.main_thread() and each.is_alive()]


def leave(status: int, before: Collection[threading.Thread]) -> int:
    """The exit status; or the end of the process, where threads would keep it that were not there `before`. The log is written by now."""
    if all(each in before for each in threads()):
        return status
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
