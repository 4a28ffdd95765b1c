"""From a name to an open file, and never to one that is not to be served.

Which names are served is decided here and nowhere else, for files, index files, neighbours, members, listings and what is written:

    decoded       the name that a request means: escapes resolved once, absolute, no NUL, no `..`
    Rules.allows  no dot file and nothing in a dot folder (`/.git/config`), but for /.well-known/ (RFC 8615), unless dot_files says so

Where symbolic links lead counts as the name does: a link to `.git` is no way into it. `links` says which of them are followed:

    NEVER     none below the folder. The folder itself may be one
    INSIDE    those that end in the folder
    ANYWHERE  all

What counts is where the file that was opened really is, so nothing can be swapped between the check and the use:

    find_known   what is in memory: the kernel itself keeps the walk beneath the folder and away from links (files/memory.py). Where there
                 is a link, it says afterwards where the walk ended
    find         all else, in a thread: the name without any link is found first, is seen to be allowed, and is then walked step by step,
                 following no link. A link that was put there meanwhile ends the walk.

What is neither file nor folder is not opened at all: to open a pipe or a device may do something.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from pbal.model.openfiles import OpenFile, OpenFiles
from pbal.roles.files.memory import ANY, BENEATH, PLAIN, NotKnown, facts_of, open_folder, open_known, open_place, where
from pbal.schema.files import ANYWHERE, INSIDE, NEVER

PRIVATE: Final = b".pbal-"
"""How names begin that pbal gives to files of its own, which are never served."""

_STEP: Final[int] = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
"""How a folder on the way is opened: where the system can, without asking for the right to list it."""
_WANTING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.EILSEQ})


class NotServed(Exception):
    """No file of this name. `status` is 403, 404, 500 or 503."""

    def __init__(self, status: int, outside: bool = False, because: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.because = because
        """The tunable that does not allow it, for the operator; "" where it is none."""
        self.outside = outside
        """It is in none of the folders. The client is not told so."""


class IsDirectory(Exception):
    """The name is that of a folder, without its final slash."""


class NoIndex(NotServed):
    """The name is that of a folder, with its final slash, and none of the index files is there."""

    def __init__(self) -> None:
        super().__init__(403)


@dataclass(frozen=True, slots=True)
class Rules:
    """A folder, and which of the names below it lead to files."""

    files: OpenFiles
    """Where what is opened is counted."""
    folder: bytes
    links: str = INSIDE
    """NEVER, INSIDE or ANYWHERE."""
    dot_files: bool = False

    def allows(self, path: bytes) -> bool:
        """Whether a decoded path, which begins with a slash, may be that of something that is served, listed or written."""
        if b"/." not in path:
            return True
        steps = [step for step in path.split(b"/") if step and step != b"."]
        if self.dot_files:
            return not any(step == b".." or step.startswith(PRIVATE) for step in steps)
        if steps and steps[0] == b".well-known":  # RFC 8615 section 3: at the top alone
            del steps[0]
        return not any(step.startswith(b".") for step in steps)


Find = Callable[[Rules, bytes], OpenFile | None]
"""Rules, a decoded name that begins with a slash: the file, or None for a folder. Raises: NotServed, NotKnown."""


def decoded(path: bytes, rules: Rules) -> bytes:
    """The path of a request with percent-escapes resolved.

    Raises: NotServed(404) for NUL, a `..` segment, a path that is not absolute, and one that the rules do not allow.
    """
    plain = unquote_to_bytes(path) if b"%" in path else path
    if b"\0" in plain or not plain.startswith(b"/") or b".." in plain.split(b"/"):
        raise NotServed(404)
    if not rules.allows(plain):
        raise NotServed(404, because="dot_files")
    return plain


def with_index(find: Find, rules: Rules, path: bytes, index_files: tuple[str, ...]) -> OpenFile:
    """The file at `path` (decoded); for a folder, the first of `index_files` that is there.

    Raises: NotServed (NoIndex for a folder without any), IsDirectory, NotKnown.
    """
    if not path.endswith(b"/"):
        found = find(rules, path)
        if found is None:
            raise IsDirectory
        return found
    for index in index_files:
        try:
            found = find(rules, path + os.fsencode(index))
        except NotServed as refusal:
            if refusal.status != 404:  # it is there, and what is to be seen in its place is not the list
                raise
            continue
        if found is not None:
            return found
    found = find(rules, path)
    if found is not None:  # it became a file just now
        found.release()
        raise NotServed(404)
    raise NoIndex


# -- in the loop ---------------------------------------------------------------------------------------------------------


def find_known(rules: Rules, path: bytes) -> OpenFile | None:
    """A Find that does not wait. Raises: NotKnown, NotServed."""
    if not rules.allows(path):
        raise NotServed(404)
    return known_in(rules, path)


def known_in(rules: Rules, path: bytes) -> OpenFile | None:
    """As find_known(), by whatever name: where it leads counts alone. Raises: NotKnown, NotServed."""
    try:
        root = open_folder(rules.folder)
    except OSError as error:
        raise NotServed(_status(error)) from None
    try:
        return _known(rules, root, path.lstrip(b"/") or b".")
    except OSError as error:
        raise NotServed(_status(error)) from None
    finally:
        os.close(root)


def _known(rules: Rules, root: int, name: bytes) -> OpenFile | None:
    how = PLAIN
    try:
        place = open_place(root, name, how)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        if rules.links == NEVER:
            raise NotServed(404, because="follow_symlinks") from None
        how = BENEATH if rules.links == INSIDE else ANY
        place = open_place(root, name, how)
    try:
        mode = facts_of(place)[0]
        if how is not PLAIN:
            _check(rules, root, place)
    finally:
        os.close(place)
    if stat.S_ISDIR(mode):
        return None
    if not stat.S_ISREG(mode):
        raise NotServed(404)
    file = _opened(rules, open_known(root, name, how), name)
    if how is not PLAIN:
        try:
            _check(rules, root, file.fd)  # where it leads now may be elsewhere than a moment ago
        except BaseException:
            file.release()
            raise
    return file


def _check(rules: Rules, root: int, fd: int) -> None:
    """Refuse what is at the end of a link to something that is not served. Raises: NotServed, NotKnown."""
    if not _allowed(rules, where(root), where(fd)):
        raise NotServed(404, because="dot_files")


def _allowed(rules: Rules, root: bytes, real: bytes) -> bool:
    """Whether the rules allow a real path. Dot folders that the folder itself is in do not count, wherever links lead."""
    own, steps = root.strip(b"/").split(b"/"), real.strip(b"/").split(b"/")
    shared = next((place for place, pair in enumerate(zip(own, steps, strict=False)) if pair[0] != pair[1]), min(len(own), len(steps)))
    return rules.allows(b"/" + b"/".join(steps[shared:])) if root != b"/" else rules.allows(real)


def _opened(rules: Rules, fd: int, name: bytes) -> OpenFile:
    """The file of a descriptor, which is closed if it is none. Raises: NotServed, OSError."""
    try:
        facts = facts_of(fd)
        if not stat.S_ISREG(facts[0]):  # another one is there now
            raise NotServed(404)
        file = OpenFile(rules.files, fd, facts, name)
        fd = -1
        return file
    finally:
        if fd >= 0:
            os.close(fd)


# -- in a thread ---------------------------------------------------------------------------------------------------------


def find(rules: Rules, path: bytes) -> OpenFile | None:
    """A Find that may wait for the disk. Raises: NotServed."""
    if not rules.allows(path):
        raise NotServed(404)
    found = find_in((rules,), rules.folder.rstrip(b"/") + path)
    if found is not None:
        found.name = path.lstrip(b"/")
    return found


def find_in(places: Iterable[Rules], name: bytes) -> OpenFile | None:
    """The file `name` (an absolute path), if it really is in one of `places`; None for a folder. It may wait for the disk.

    Raises: NotServed; `outside` if there is something, elsewhere.
    """
    roots: list[tuple[Rules, bytes]] = []
    for rules in places:
        try:
            roots.append((rules, os.path.realpath(rules.folder, strict=True)))
        except OSError:  # one that is not there has nothing in it
            continue
    try:
        real = os.path.realpath(name, strict=True)
        if name.endswith(b"/") and not os.path.isdir(real):
            raise NotServed(404)
        rules, root, below = _place_of(roots, name, real)
        return _walk(rules, root, below, name)
    except OSError as error:
        status = _status(error)
        if status == 403:
            _place_of(roots, name, os.path.realpath(name))
        raise NotServed(status) from None


def _place_of(roots: list[tuple[Rules, bytes]], name: bytes, real: bytes) -> tuple[Rules, bytes, bytes]:
    """The rules that a real path is found by, the folder to begin at, and the way from there. Raises: NotServed."""
    for rules, root in roots:
        if real == root or real.startswith(root.rstrip(b"/") + b"/"):
            below = real[len(root) :].strip(b"/")
            if rules.links == NEVER and below != _plain(name[len(rules.folder.rstrip(b"/")) :]):
                raise NotServed(404, because="follow_symlinks")
            if not _allowed(rules, root, real):
                raise NotServed(404, because="dot_files")
            return rules, root, below
    for rules, root in roots:
        if rules.links == ANYWHERE:
            if not _allowed(rules, root, real):
                raise NotServed(404, because="dot_files")
            return rules, b"/", real.strip(b"/")
    raise NotServed(404, outside=True, because="follow_symlinks")


def _plain(path: bytes) -> bytes:
    """A path without steps that lead nowhere."""
    return b"/".join(step for step in path.split(b"/") if step and step != b".")


def find_folder(rules: Rules, path: bytes) -> int:
    """A descriptor of the folder at `path`, to list it. It may wait for the disk. Raises: NotServed."""
    if not rules.allows(path):
        raise NotServed(404)
    name = rules.folder.rstrip(b"/") + path
    try:
        roots = [(rules, os.path.realpath(rules.folder, strict=True))]
        _, root, below = _place_of(roots, name, os.path.realpath(name, strict=True))
        at = _descend(root, below.split(b"/") if below else [])
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


def _walk(rules: Rules, root: bytes, below: bytes, name: bytes) -> OpenFile | None:
    """Open `below`, which has no link in it, from `root` on. Raises: NotServed, OSError."""
    *steps, last = below.split(b"/") if below else [b"."]
    at = _descend(root, steps)
    try:
        mode = os.stat(last, dir_fd=at, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            raise NotServed(404)
        return _opened(rules, os.open(last, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at), name)
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
    "PRIVATE",
    "IsDirectory",
    "NoIndex",
    "NotKnown",
    "NotServed",
    "OpenFile",
    "Rules",
    "decoded",
    "find",
    "find_folder",
    "find_in",
    "find_known",
    "known_in",
    "with_index",
]
