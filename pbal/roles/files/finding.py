"""From a name to an open file, and never to one outside the folder it has to be in.

Symbolic links are followed as long as they end inside. What counts is where the file that was opened really is, so nothing can be
swapped between the check and the use:

    find_known   what is in memory: the kernel itself keeps the walk beneath the folder (files/memory.py)
    find         all else, in a thread: the name without any link is found first, is seen to be inside, and is then walked step by step,
                 following no link. A link that was put there meanwhile ends the walk.

What is neither file nor folder is not opened at all: to open a pipe or a device may do something.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from pbal.roles.files.memory import NotKnown, open_folder, open_known, open_place

_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
"""How a folder on the way is opened: where the system can, without asking for the right to list it."""
_WANTING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.EILSEQ})


class NotServed(Exception):
    """No file of this name. `status` is 403, 404, 500 or 503."""

    def __init__(self, status: int, outside: bool = False) -> None:
        super().__init__(status)
        self.status = status
        self.outside = outside
        """It is in none of the folders. The client is not told so."""


class IsDirectory(Exception):
    """The name is that of a folder, without its final slash."""


class NoIndex(NotServed):
    """The name is that of a folder, with its final slash, and none of the index files is there."""

    def __init__(self) -> None:
        super().__init__(403)


@dataclass(slots=True)
class OpenFile:
    """A regular file, open for reading. Whoever has it closes `fd`."""

    fd: int
    size: int
    mtime_ns: int
    name: bytes
    """By which it was asked for."""


Find = Callable[[bytes, bytes], OpenFile | None]
"""A folder, a name in it that begins with a slash: the file, or None for a folder. Raises: NotServed, NotKnown."""


def decoded(path: bytes) -> bytes:
    """The path of a request with percent-escapes resolved.

    Raises: NotServed(404) for NUL, a `..` segment or a path that is not absolute.
    """
    plain = unquote_to_bytes(path)
    if b"\0" in plain or not plain.startswith(b"/") or b".." in plain.split(b"/"):
        raise NotServed(404)
    return plain


def with_index(find: Find, folder: bytes, path: bytes, index_files: tuple[str, ...]) -> OpenFile:
    """The file at `path` (decoded) in `folder`; for a folder, the first of `index_files` that is there.

    Raises: NotServed (NoIndex for a folder without any), IsDirectory, NotKnown.
    """
    if not path.endswith(b"/"):
        found = find(folder, path)
        if found is None:
            raise IsDirectory
        return found
    for index in index_files:
        try:
            found = find(folder, path + os.fsencode(index))
        except NotServed as refusal:
            if refusal.status >= 500:
                raise
            continue
        if found is not None:
            return found
    found = find(folder, path)
    if found is not None:  # it became a file just now
        os.close(found.fd)
        raise NotServed(404)
    raise NoIndex


# -- in the loop ---------------------------------------------------------------------------------------------------------


def find_known(folder: bytes, path: bytes) -> OpenFile | None:
    """A Find that does not wait. Raises: NotKnown, NotServed."""
    try:
        root = open_folder(folder)
    except OSError as error:
        raise NotServed(_status(error)) from None
    try:
        return _known(root, path.lstrip(b"/") or b".")
    except OSError as error:
        raise NotServed(_status(error)) from None
    finally:
        os.close(root)


def _known(root: int, name: bytes) -> OpenFile | None:
    place = open_place(root, name)
    try:
        mode = os.fstat(place).st_mode
    finally:
        os.close(place)
    if stat.S_ISDIR(mode):
        return None
    if not stat.S_ISREG(mode):
        raise NotServed(404)
    return _opened(open_known(root, name), name)


def _opened(fd: int, name: bytes) -> OpenFile:
    """The file of a descriptor, which is closed if it is none. Raises: NotServed, OSError."""
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):  # another one is there now
            raise NotServed(404)
        file = OpenFile(fd, facts.st_size, facts.st_mtime_ns, name)
        fd = -1
        return file
    finally:
        if fd >= 0:
            os.close(fd)


# -- in a thread ---------------------------------------------------------------------------------------------------------


def find(folder: bytes, path: bytes) -> OpenFile | None:
    """A Find that may wait for the disk. Raises: NotServed."""
    return find_in((folder,), folder.rstrip(b"/") + path)


def find_in(folders: Iterable[bytes], name: bytes) -> OpenFile | None:
    """The file `name` (an absolute path), if it really is in one of `folders`; None for a folder. It may wait for the disk.

    Raises: NotServed; `outside` if there is something, elsewhere.
    """
    roots: list[bytes] = []
    for folder in folders:
        try:
            roots.append(os.path.realpath(folder, strict=True))
        except OSError:  # one that is not there has nothing in it
            continue
    try:
        real = os.path.realpath(name, strict=True)
        if name.endswith(b"/") and not os.path.isdir(real):
            raise NotServed(404)
        root = _root_of(roots, real)
        if root is None:
            raise NotServed(404, outside=True)
        return _walk(root, real[len(root) :].strip(b"/"), name)
    except OSError as error:
        status = _status(error)
        if status == 403 and _root_of(roots, os.path.realpath(name)) is None:
            raise NotServed(404, outside=True) from None
        raise NotServed(status) from None


def _root_of(roots: list[bytes], real: bytes) -> bytes | None:
    """The folder that a real path is in."""
    return next((root for root in roots if real == root or real.startswith(root.rstrip(b"/") + b"/")), None)


def find_folder(folder: bytes, path: bytes) -> int:
    """A descriptor of the folder at `path` in `folder`, to list it. It may wait for the disk. Raises: NotServed."""
    try:
        root = os.path.realpath(folder, strict=True)
        real = os.path.realpath(folder.rstrip(b"/") + path, strict=True)
        if _root_of([root], real) is None:
            raise NotServed(404, outside=True)
        at = _descend(root, [step for step in real[len(root) :].split(b"/") if step])
        try:
            return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)
    except OSError as error:
        raise NotServed(_status(error)) from None


def _descend(root: bytes, steps: list[bytes]) -> int:
    """A descriptor of the folder that is reached from `root` by `steps`, none of which is a link. Raises: OSError."""
    at = os.open(root, _STEP)
    try:
        for step in steps:
            onward = os.open(step, _STEP, dir_fd=at)
            os.close(at)
            at = onward
        found, at = at, -1
        return found
    finally:
        if at >= 0:
            os.close(at)


def _walk(root: bytes, below: bytes, name: bytes) -> OpenFile | None:
    """Open `below`, which has no link in it, from `root` on. Raises: NotServed, OSError."""
    *steps, last = below.split(b"/") if below else [b"."]
    at = _descend(root, steps)
    try:
        mode = os.stat(last, dir_fd=at, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            raise NotServed(404)
        return _opened(os.open(last, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at), name)
    finally:
        os.close(at)


def _status(error: OSError) -> int:
    """What a failure to open says to the client."""
    if error.errno in _ABSENT:
        return 404
    if error.errno in (errno.EACCES, errno.EPERM):
        return 403
    return 503 if error.errno in _WANTING else 500


__all__ = [
    "IsDirectory",
    "NoIndex",
    "NotKnown",
    "NotServed",
    "OpenFile",
    "decoded",
    "find",
    "find_folder",
    "find_in",
    "find_known",
    "with_index",
]
