"""What the kernel has in memory, taken without waiting for a disk: the loop asks here first, and a thread only if the answer is no.

    open_known   openat2(2) with RESOLVE_CACHED (Linux 5.12): every step of the path is in memory, or nothing happens. With
                 RESOLVE_BENEATH no link on the way leads out of the folder that it begins at; with RESOLVE_NO_SYMLINKS there is none.
    facts_of     statx(2) with AT_STATX_DONT_SYNC: what is known of an open file, though a server of files might know better.
    read_into    preadv2(2) with RWF_NOWAIT (Linux 4.14, ext4, xfs, btrfs): octets of the page cache, or nothing.

A thread costs some fifty microseconds a file, most files that are asked for are in memory, and a disk may take seconds. A kernel or
file system without these calls costs the thread each time, and nothing else. The constants are those of <linux/openat2.h>.
"""

import ctypes
import errno
import os
import struct
import sys
from typing import Final

from pbal.model.openfiles import Identity

_AT_FDCWD: Final = -100
_SYS_OPENAT2: Final = 437
"""On every architecture but Alpha: openat2 came after Linux had given all the same numbers."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _CACHED = 0x02, 0x04, 0x08, 0x20
_HOW_SIZE: Final = 24

_PATH: Final[int] = getattr(os, "O_PATH", 0)

_FOLDER: Final = struct.pack("QQQ", _PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _CACHED)

PLAIN: Final = _BENEATH | _NO_SYMLINKS
"""No link may be on the way."""
BENEATH: Final = _BENEATH | _NO_MAGICLINKS
"""Links are followed that stay beneath the folder."""
ANY: Final = _NO_MAGICLINKS
"""Links are followed."""

_OPENING: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_PLACES: Final = {how: struct.pack("QQQ", _PATH | os.O_CLOEXEC, 0, _CACHED | how) for how in (PLAIN, BENEATH, ANY)}
_FILES: Final = {how: struct.pack("QQQ", _OPENING, 0, _CACHED | how) for how in (PLAIN, BENEATH, ANY)}

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)

_EMPTY_PATH, _DONT_SYNC, _BASIC_STATS = 0x1000, 0x4000, 0x7FF
_STATX: Final = struct.Struct("=28xH2xQQ48xqI4xqI4x8xII")
"""Of struct statx: mode, inode, size, ctime, mtime (both in seconds and nanoseconds), device (major and minor)."""
_statx = getattr(_libc, "statx", None)

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
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE):
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


def open_place(folder: int, name: bytes, how: int) -> int:
    """A descriptor of whatever is at `name` below `folder`, which opens nothing: its kind can be asked for.

    `how`: PLAIN, BENEATH or ANY. Raises: NotKnown; OSError, with ELOOP for a link that is not to be on the way, or for links in a circle.
    """
    return _openat2(folder, name, _PLACES[how])


def open_known(folder: int, name: bytes, how: int) -> int:
    """The file at `name` below `folder`, open for reading. Raises: NotKnown, OSError."""
    return _openat2(folder, name, _FILES[how])


def where(fd: int) -> bytes:
    """The real path of what is open, as the kernel knows it now. Raises: NotKnown where it does not tell."""
    try:
        return os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        raise NotKnown from None


def facts_of(fd: int) -> Identity:
    """What is known of what is open, without asking a disk or another machine; its mode comes first. Raises: OSError."""
    if _statx is None:  # a C library older than the call
        found = os.fstat(fd)
        times = (*divmod(found.st_ctime_ns, 10**9), *divmod(found.st_mtime_ns, 10**9))
        return (found.st_mode, found.st_ino, found.st_size, *times, os.major(found.st_dev), os.minor(found.st_dev))
    told = ctypes.create_string_buffer(256)
    if _statx(fd, b"", _EMPTY_PATH | _DONT_SYNC, _BASIC_STATS, told) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return _STATX.unpack_from(told)


def read_known(fd: int, at: int, size: int) -> bytes | None:
    """At most `size` octets of a file from `at` on; None if they are not in memory; fewer at its end. Raises: OSError."""
    piece = bytearray(size)
    length = read_into(fd, at, memoryview(piece))
    return None if length < 0 else bytes(piece) if length == size else bytes(piece[:length])


def read_into(fd: int, at: int, buffer: memoryview) -> int:
    """Fill a buffer with the octets of a file from `at` on that are in memory: how many; 0 at its end; -1 for none. Raises: OSError."""
    if not _RWF_NOWAIT:
        return -1
    try:
        return os.preadv(fd, (buffer,), at, _RWF_NOWAIT)
    except BlockingIOError:
        return -1
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a file system that cannot say
            return -1
        raise


def read_copy(fd: int, at: int, buffer: memoryview) -> int:
    """Fill a buffer with octets of a file that in_memory() made. Raises: OSError."""
    return os.preadv(fd, (buffer,), at)


def in_memory(size: int) -> int:
    """The descriptor of a file without a name, in memory; -1 where the system has none. Raises: OSError."""
    if not hasattr(os, "memfd_create"):
        return -1
    fd = os.memfd_create("pbal", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd
