"""From a request path to an open file, and never to one outside the docroot.

The path is percent-decoded once, must be free of NUL and of `..` segments, and is joined to the docroot. Symbolic
links are followed as long as they stay inside: what counts is where the opened descriptor really leads, asked after
opening, so that nothing can be swapped between check and use. What is neither a file nor a directory is not opened at
all: to open a pipe or a device may do something.
"""

import errno
import mimetypes
import os
import posixpath
import stat
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

_TYPES = mimetypes.MimeTypes(filenames=())
for _type, _ending in (
    ("text/javascript", ".js"), ("text/javascript", ".mjs"), ("image/svg+xml", ".svg"), ("image/webp", ".webp"),
    ("font/woff2", ".woff2"), ("application/wasm", ".wasm"), ("text/markdown", ".md"), ("image/avif", ".avif"),
):  # fmt: skip
    _TYPES.add_type(_type, _ending)


_WANTING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.EILSEQ})


class NotServed(Exception):
    """No file for this path. `status` is 403, 404, 500 or 503."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class IsDirectory(Exception):
    """The path names a directory without its final slash."""


@dataclass(slots=True)
class OpenFile:
    """A regular file, open for reading. The caller closes `fd`."""

    fd: int
    size: int
    mtime_ns: int
    content_type: bytes


def decoded(path: bytes) -> bytes:
    """The path with percent-escapes resolved.

    Raises: NotServed(404) for NUL, a `..` segment or a path that is not absolute.
    """
    plain = unquote_to_bytes(path)
    if b"\0" in plain or not plain.startswith(b"/") or b".." in plain.split(b"/"):
        raise NotServed(404)
    return plain


def media_types() -> dict[str, str]:
    """Every ending that is known, without its dot, and its media type."""
    return {ending[1:]: kind for ending, kind in _TYPES.types_map[True].items()}


def content_type(name: bytes) -> bytes:
    """The media type by the name's ending, in any case; text with its charset."""
    ending = posixpath.splitext(name.decode("utf-8", "replace"))[1]
    guess, encoding = _TYPES.guess_type("x" + ending.lower())  # of a whole name it would read "data:..." as a URL
    if encoding is not None or guess is None:
        return b"application/octet-stream"
    if guess.startswith("text/") or guess in ("application/json", "application/xml", "image/svg+xml"):
        return guess.encode() + b"; charset=utf-8"
    return guess.encode()


def _leads_inside(fd: int, name: bytes, root: bytes) -> bool:
    """Whether an open descriptor leads into `root` (a real path)."""
    try:
        real = os.readlink(b"/proc/self/fd/%d" % fd)
    except OSError:  # no /proc here: the name has to do
        real = os.path.realpath(name)
    return _inside(real, root)


def _inside(real: bytes, root: bytes) -> bool:
    return real == root or real.startswith(root.rstrip(b"/") + b"/")


def open_file(docroot: str, path: bytes, index_files: tuple[str, ...]) -> OpenFile:
    """Open what `path` (raw, from the request) names below `docroot`.

    Raises: NotServed, IsDirectory.
    """
    root = os.path.realpath(os.fsencode(docroot))
    plain = decoded(path)
    name = root.rstrip(b"/") + plain
    if plain.endswith(b"/"):
        return _open_index(root, name, index_files)
    found = _open(root, name)
    if isinstance(found, OpenFile):
        return found
    raise IsDirectory


def _open_index(root: bytes, folder: bytes, index_files: tuple[str, ...]) -> OpenFile:
    for index in index_files:
        try:
            found = _open(root, folder + os.fsencode(index))
        except NotServed as refusal:
            if refusal.status >= 500:
                raise
            continue
        if isinstance(found, OpenFile):
            return found
    found = _open(root, folder)
    if isinstance(found, OpenFile):  # it became one just now
        os.close(found.fd)
        raise NotServed(404)
    raise NotServed(403)


def _open(root: bytes, name: bytes) -> OpenFile | None:
    """An open regular file, or None for a directory."""
    try:
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise NotServed(404)
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NotServed(_status(error, root, name)) from None
    try:
        facts = os.fstat(fd)
        if not _leads_inside(fd, name, root):
            raise NotServed(404)
        if stat.S_ISREG(facts.st_mode):
            served = OpenFile(fd, facts.st_size, facts.st_mtime_ns, content_type(os.path.basename(name)))
            fd = -1
            return served
        if stat.S_ISDIR(facts.st_mode):
            return None
        raise NotServed(404)
    finally:
        if fd >= 0:
            os.close(fd)


def _status(error: OSError, root: bytes, name: bytes) -> int:
    """What a failure to open says to the client. That something lies outside `root` is not told."""
    if error.errno in _ABSENT:
        return 404
    if error.errno in (errno.EACCES, errno.EPERM):
        return 403 if _inside(os.path.realpath(name), root) else 404
    return 503 if error.errno in _WANTING else 500
