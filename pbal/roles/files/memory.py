"""What the kernel has in memory, taken without waiting for a disk: the loop asks here first, and a thread only if the answer is no.

    open_known   openat2(2) with RESOLVE_CACHED (Linux 5.12): every step of the path is in memory, or nothing happens. With
                 RESOLVE_BENEATH no link on the way leads out of the folder that it begins at.
    read_known   preadv2(2) with RWF_NOWAIT (Linux 4.14, ext4, xfs, btrfs): octets of the page cache, or nothing.

A thread costs some fifty microseconds a file, most files that are asked for are in memory, and a disk may take seconds. A kernel or
file system without these calls costs the thread each time, and nothing else. The constants are those of <linux/openat2.h>.
"""

import ctypes
import errno
import os
import struct
import sys
from typing import Final

_AT_FDCWD: Final = -100
_SYS_OPENAT2: Final = 437
"""On every architecture but Alpha: openat2 came after Linux had given all the same numbers."""
_NO_MAGICLINKS, _BENEATH, _CACHED = 0x02, 0x08, 0x20
_HOW_SIZE: Final = 24

_PATH: Final[int] = getattr(os, "O_PATH", 0)

_FOLDER: Final = struct.pack("QQQ", _PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _CACHED)
_PLACE: Final = struct.pack("QQQ", _PATH | os.O_CLOEXEC, 0, _CACHED | _BENEATH | _NO_MAGICLINKS)
_FILE: Final = struct.pack("QQQ", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0, _CACHED | _BENEATH | _NO_MAGICLINKS)

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)

_LITTLE: Final = 16384
_octet: Final = bytearray(1)

_RWF_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
_usable = sys.platform == "linux" and os.uname().machine != "alpha"


class NotKnown(Exception):
    """It is not in memory, or this kernel cannot say: ask in a thread."""


def _openat2(folder: int, name: bytes, how: bytes) -> int:
    """Raises: NotKnown; FileNotFoundError and the like, where it is in memory that there is no such file."""
    descriptor: int = _syscall(_SYS_OPENAT2, folder, name, how, _HOW_SIZE)
    if descriptor >= 0:
        return descriptor
    number = ctypes.get_errno()
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE):
        raise OSError(number, os.strerror(number))
    if number == errno.ENOSYS or (
        number == errno.EPERM and how is _FOLDER
    ):  # an older kernel; a container that refuses what it does not know
        _give_up()
    raise NotKnown


def _give_up() -> None:
    global _usable
    _usable = False


def open_folder(name: bytes) -> int:
    """A descriptor of a folder, to begin at. Raises: NotKnown, OSError."""
    if not _usable:
        raise NotKnown
    return _openat2(_AT_FDCWD, name, _FOLDER)


def open_place(folder: int, name: bytes) -> int:
    """A descriptor of whatever is at `name` below `folder`, which opens nothing: its kind can be asked for. Raises: NotKnown, OSError."""
    return _openat2(folder, name, _PLACE)


def open_known(folder: int, name: bytes) -> int:
    """The file at `name` below `folder`, open for reading. Raises: NotKnown, OSError."""
    return _openat2(folder, name, _FILE)


def read_known(fd: int, at: int, size: int) -> bytes | None:
    """At most `size` octets of a file from `at` on; None if they are not in memory; none at its end. Raises: OSError.

    A large piece is asked for at its two ends only, and then read in the plain way, which copies it once and not twice. The kernel
    reads and forgets files in runs of pages, so it is there, or the loop waits for one read.
    """
    if not _RWF_NOWAIT:
        return None
    try:
        if size <= _LITTLE:
            piece = bytearray(size)
            length = os.preadv(fd, [piece], at, _RWF_NOWAIT)
            return bytes(piece) if length == size else bytes(piece[:length])
        if not os.preadv(fd, [_octet], at, _RWF_NOWAIT) or not os.preadv(fd, [_octet], at + size - 1, _RWF_NOWAIT):
            return None  # it has become shorter; a thread finds where it ends
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a file system that cannot say
            return None
        raise
    return os.pread(fd, size, at)
