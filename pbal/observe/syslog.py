"""The system's log, as both logs write to it: a datagram a line, on a Unix socket."""

import os
import socket
import time

SYSLOG_SOCKETS = ("/dev/log", "/var/run/syslog", "/var/run/log")
SYSLOG_LONGEST = 8192


def syslog_line(priority: int, line: bytes) -> bytes:
    """A datagram of RFC 3164, from this process."""
    stamp = time.strftime("%b %e %H:%M:%S").encode()
    return b"<%d>%b pbal[%d]: %b" % (priority, stamp, os.getpid(), line[:SYSLOG_LONGEST])


def connect_syslog() -> socket.socket:
    """A socket to the system's log. Raises: OSError if there is none."""
    failure: OSError = FileNotFoundError(2, "there is no /dev/log")
    for path in SYSLOG_SOCKETS:
        if os.path.exists(path):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                sock.connect(path)
                return sock
            except OSError as error:
                sock.close()
                failure = error
    raise failure
