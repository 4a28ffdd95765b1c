"""Files written and removed below a folder, so that whoever reads finds the old one whole or the new one whole. All of it runs in threads.

    Draft   a file without a name (O_TMPFILE), or where the file system has none of that, one named PRIVATE..., which is never served
            written, checked against what the request said of it, synced           -> ready
            put in place: linked where nothing is, else renamed over what is there -> a Version; its folder is synced
            closed before that                                                     -> nothing is left, no folder either

So a client that leaves, a full disk and a kill at any moment leave the old file. What a kill may leave is a file named PRIVATE... that had
to replace another one, or is on such a file system.

Who may write where: the name is walked from the folder on, step by step, following no link. Where there is one, all of them are resolved
first, and have to end inside, whatever follow_symlinks says. What is swapped in between ends the walk. The last step is never a link:
neither what it leads to nor the link itself is written or removed. The walk is made anew when the file is put in place, since folders may
have moved while its body came; missing folders are made only then.

Two writers of one name: conditions are looked at, and the file put in place, under a lock of that place in its folder, by whatever way it
was named. So of several that ask for one version with If-Match, one wins. Every version gets a time of change of its own, since size and
time make its ETag. Against other programs this holds for new files alone: no call of the system replaces a file only if it is a certain
one.
"""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pbal.http1.conditional import etag_for, evaluate
from pbal.http1.digests import MD5, shown
from pbal.roles.files.finding import PRIVATE, Rules
from pbal.schema.files import NEVER

FILE_MODE: Final = 0o644
FOLDER_MODE: Final = 0o755
"""Rights of what is new, less what the umask takes; Perlbal's. A file that is replaced hands on its own."""
STRIPES: Final = 64
TRIES: Final = 3
PIECE: Final = 1 << 20
"""Octets that are read back at a time, for a checksum that was named behind the body."""
VECTOR: Final = 512
"""Pieces that one call writes; systems take 1024."""

_STEP: Final[int] = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_ROOT: Final[int] = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NAMELESS: Final[int] = getattr(os, "O_TMPFILE", 0) if os.path.isdir("/proc/self/fd") else 0
"""How a file without a name is made; it gets one by way of /proc. 0: there is no such thing here."""
_NO_NAMELESS: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
"""What a file system says that has no files without names."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP})
_WANTING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK})
_NO_NAME: Final = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})

_places: Final = tuple(threading.Lock() for _ in range(STRIPES))
"""For each place in a folder, one of these."""
_stamping: Final = threading.Lock()
_stamped = 0


class NotWritten(Exception):
    """Nothing was changed, but where the message says so. `status` is that of the answer, the message is for the client."""

    def __init__(self, status: int, message: str, etag: bytes = b"", why: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.etag = etag
        """Of the file that is there, where a condition did not hold."""
        self.why = why or message
        """For the operator."""


@dataclass(frozen=True, slots=True)
class Version:
    """A file that was put in place."""

    etag: bytes
    mtime_ns: int
    is_new: bool
    """Nothing was there before."""


@dataclass(frozen=True, slots=True)
class Target:
    """A place for a file."""

    rules: Rules
    """The folder that it has to be in, and which names there may be."""
    steps: tuple[bytes, ...]
    """Names of folders, and the file's own. None is empty, `.` or `..`."""
    least: int
    """Folders at the beginning that have to be there."""
    conditions: Mapping[bytes, bytes]
    """The fields of the request."""

    @property
    def name(self) -> bytes:
        """The file's own."""
        return self.steps[-1]

    def check(self, folder: int | None, method: bytes) -> os.stat_result | None:
        """What is there; None if nothing. `folder`: its own, None where that is missing.

        Raises: NotWritten if it may not be replaced, or removed, OSError.
        """
        there = None
        if folder is not None:
            with suppress(FileNotFoundError):
                there = os.stat(self.name, dir_fd=folder, follow_symlinks=False)
        if there is None and method == b"DELETE":
            raise NotWritten(404, "Nothing here.")
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise NotWritten(400 if method == b"DELETE" else 409, "Is a directory.")
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise NotWritten(403, "It is no plain file.")
        self._condition(there, method)
        return there

    def _condition(self, there: os.stat_result | None, method: bytes) -> None:
        """RFC 9110 section 13.2. Raises: NotWritten(412)."""
        if there is None:
            if b"if-match" in self.conditions:
                raise NotWritten(412, "The condition does not hold: nothing is there.")
            return
        etag = etag_for(there.st_mtime_ns, there.st_size)
        if evaluate(method, dict(self.conditions), etag, there.st_mtime_ns // 10**9) != 200:
            raise NotWritten(412, "The condition does not hold.", etag)

    def walk(self) -> tuple[int, tuple[bytes, ...]]:
        """A descriptor of the last of its folders that is there, and the names of those that are missing. Raises: NotWritten, OSError."""
        try:
            at = os.open(self.rules.folder, _ROOT)
        except FileNotFoundError:
            raise NotWritten(404, "Nothing here.", why="docroot is not there") from None
        folders = self.steps[:-1]
        for there, name in enumerate(folders):
            try:
                onward = os.open(name, _STEP, dir_fd=at)
            except FileNotFoundError:
                if there < self.least:
                    os.close(at)
                    raise NotWritten(404, "Base directory does not exist.") from None
                return at, folders[there:]
            except NotADirectoryError:  # a link, or a file
                os.close(at)
                return self._walk_by_links()
            except BaseException:
                os.close(at)
                raise
            os.close(at)
            at = onward
        return at, ()

    def _walk_by_links(self) -> tuple[int, tuple[bytes, ...]]:
        """The same, where there may be links on the way. Raises: NotWritten, OSError."""
        root = os.path.realpath(self.rules.folder, strict=True)
        folders = self.steps[:-1]
        there = len(folders)
        while True:
            try:
                real = os.path.realpath(os.path.join(root, *folders[:there]), strict=True)
                break
            except (FileNotFoundError, NotADirectoryError):
                if not there:
                    raise
                there -= 1
        if real != root and not real.startswith(root.rstrip(b"/") + b"/"):
            raise NotWritten(403, "Not for you.", why="a link on the way leads out of docroot")
        below = real[len(root) :].strip(b"/")
        if self.rules.links == NEVER and below != b"/".join(folders[:there]):
            raise NotWritten(403, "Not for you.", why="there is a link on the way (follow_symlinks)")
        if not self.rules.allows(b"/%b/%b" % (below, self.name)):
            raise NotWritten(403, "Not for you.", why="a link on the way leads to what is not served")
        if there < self.least:
            raise NotWritten(404, "Base directory does not exist.")
        return _opened(root, below), folders[there:]


def _opened(root: bytes, below: bytes) -> int:
    """A folder, which has no link in its name, from `root` on. Raises: NotWritten, OSError."""
    at = os.open(root, _STEP)
    try:
        for step in below.split(b"/") if below else ():
            onward = _step(at, step)
            os.close(at)
            at = onward
    except BaseException:
        os.close(at)
        raise
    return at


def _step(at: int, name: bytes) -> int:
    """A folder in another. Raises: NotWritten, OSError."""
    try:
        return os.open(name, _STEP, dir_fd=at)
    except NotADirectoryError:
        raise NotWritten(409, "A name on the way is that of a file.") from None


def refusal(error: BaseException) -> NotWritten:
    """What a failure says to the client."""
    if isinstance(error, NotWritten):
        return error
    why = str(error) or type(error).__name__
    number = error.errno if isinstance(error, OSError) else 0
    if number in _FULL:
        return NotWritten(507, "No room for this file.", why=why)
    if number in _FORBIDDEN:
        return NotWritten(403, "Not for you.", why=why)
    if number in _NO_NAME:
        return NotWritten(400, "Invalid filename.", why=why)
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return NotWritten(409, "The folder has gone, or something else is there now.", why=why)
    later = number in _WANTING or isinstance(error, TimeoutError)
    return NotWritten(503 if later else 500, "The file cannot be written.", why=why)


def _lock(folder: int, name: bytes) -> threading.Lock:
    facts = os.fstat(folder)
    return _places[hash((facts.st_dev, facts.st_ino, name)) % STRIPES]


def _stamp(now_ns: int) -> int:
    """A time of change that no other version has."""
    global _stamped
    with _stamping:
        _stamped = max(now_ns, _stamped + 1)
        return _stamped


def _sync(folder: int) -> None:
    """Have what was done in a folder on the disk. It is open for walking only, so it is opened again. Raises: NotWritten(500)."""
    try:
        readable = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except PermissionError:  # one that may be written and not read cannot be synced
        return
    try:
        os.fsync(readable)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system where folders cannot be synced
            raise NotWritten(500, "It was done, and may not last: the disk failed.", why=f"cannot sync a folder: {error}") from None
    finally:
        os.close(readable)


# -- PUT ---------------------------------------------------------------------------------------------------------------


class Draft:
    """A file that is not in its place yet. One call at a time, each in a thread."""

    __slots__ = ("_fd", "_folder", "_hashes", "_name", "_size", "_target")

    def __init__(self, target: Target, expected: int, algorithms: Iterable[str]) -> None:
        """Look at the place, and open a file near it. `expected`: its octets; less than 0 if that is not known.

        Raises: NotWritten, OSError.
        """
        self._target = target
        self._hashes = {name: _hash(name) for name in algorithms}
        self._fd = self._folder = -1
        self._name = b""
        """Of its own; b"" for a file without a name."""
        self._size = 0
        self._folder, missing = target.walk()
        try:
            target.check(None if missing else self._folder, b"PUT")
            facts = os.fstatvfs(self._folder)
            free = (facts.f_bfree if os.geteuid() == 0 else facts.f_bavail) * facts.f_frsize
            if facts.f_blocks and expected > free:
                raise NotWritten(507, "No room for this file.", why=f"{expected} bytes are to come, {free} are free")
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if _NAMELESS:
            try:
                self._fd = os.open(b".", _NAMELESS | os.O_RDWR | os.O_CLOEXEC, FILE_MODE, dir_fd=self._folder)
                os.close(self._folder)  # of many that wait for their bodies, each has one descriptor
                self._folder = -1
                return
            except OSError as error:
                if error.errno not in _NO_NAMELESS:
                    raise
        self._name = _private()
        try:
            self._fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE, dir_fd=self._folder)
        except BaseException:
            self._name = b""
            raise

    def write(self, pieces: list[bytes]) -> None:
        """Append octets. Raises: OSError."""
        for place in range(0, len(pieces), VECTOR):
            some = pieces[place : place + VECTOR]
            length = sum(map(len, some))
            written = os.writev(self._fd, some)
            if written < length:  # the disk is nearly full: the next call says so
                rest = memoryview(b"".join(some))[written:]
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            self._size += length
            for hashing in self._hashes.values():
                for piece in some:
                    hashing.update(piece)

    def finish(self, pieces: list[bytes], digests: Iterable[tuple[str, bytes]], now_ns: int) -> Version:
        """Write the last octets, check all of them, and put the file in its place.

        Raises: NotWritten and OSError; nothing was changed then, unless a folder could not be synced, which is said.
        """
        self.write(pieces)
        for name, wanted in digests:
            actual = self._digest(name)
            if actual != wanted:
                label = "Content-MD5" if name == MD5 else "Digest"
                raise NotWritten(400, f"{label} mismatch, expected: {shown(wanted)} actual: {shown(actual)}")
        os.fsync(self._fd)
        for _ in range(TRIES):
            with suppress(FileNotFoundError):  # a folder that another PUT had made, and took back when it failed
                return self._place(now_ns)
        return self._place(now_ns)

    def _place(self, now_ns: int) -> Version:
        """Walk, make the folders that are missing, and put it in its place there. Raises: NotWritten, OSError."""
        folder, missing = self._target.walk()
        opened = [folder]
        made: list[tuple[int, bytes]] = []
        try:
            for name in missing:
                if _make(opened[-1], name):
                    made.append((opened[-1], name))
                opened.append(_step(opened[-1], name))
            version = self._put(opened[-1], _stamp(now_ns))
            _sync(opened[-1])
            for parent, _ in reversed(made):
                _sync(parent)
        except BaseException:
            for parent, name in reversed(made):
                with suppress(OSError):  # somebody has put something in it meanwhile
                    os.rmdir(name, dir_fd=parent)
            raise
        finally:
            for descriptor in opened:
                os.close(descriptor)
        return version

    def _digest(self, name: str) -> bytes:
        """A checksum of all of it; read back, where it is asked for only now."""
        hashing = self._hashes.get(name)
        if hashing is None:
            hashing = _hash(name)
            place = 0
            while piece := os.pread(self._fd, PIECE, place):
                hashing.update(piece)
                place += len(piece)
        return hashing.digest()

    def _put(self, folder: int, stamp: int) -> Version:
        """Put it in its place. Raises: NotWritten, OSError."""
        target = self._target
        with _lock(folder, target.name):
            while True:
                there = target.check(folder, b"PUT")
                if there is not None:
                    self._take_over(there)
                    if there.st_mtime_ns == stamp:
                        stamp = _stamp(stamp)
                os.utime(self._fd, ns=(stamp, stamp))
                try:
                    self._into(folder, there is not None)
                except FileExistsError:  # another program made one just now
                    continue
                break
        mtime_ns = os.fstat(self._fd).st_mtime_ns  # as far as the file system keeps it
        return Version(etag_for(mtime_ns, self._size), mtime_ns, there is None)

    def _take_over(self, there: os.stat_result) -> None:
        """Have the rights of the file that it replaces, but for those that make a program somebody else's."""
        mode = stat.S_IMODE(there.st_mode) & 0o777
        if stat.S_IMODE(os.fstat(self._fd).st_mode) != mode:
            os.fchmod(self._fd, mode)

    def _into(self, folder: int, replaces: bool) -> None:
        """Give it its name. Raises: FileExistsError if there is something, and it replaces nothing."""
        name = self._target.name
        if not replaces and self._linked(folder, name):
            return
        if not self._name:
            self._folder = os.dup(folder)
            private = _private()
            self._linked(folder, private)
            self._name = private
        os.rename(self._name, name, src_dir_fd=self._folder, dst_dir_fd=folder)
        self._name = b""

    def _linked(self, folder: int, name: bytes) -> bool:
        """Give it a name that nothing has; False where the file system has no links. Raises: FileExistsError."""
        try:
            if self._name:  # which close() takes away
                os.link(self._name, name, src_dir_fd=self._folder, dst_dir_fd=folder, follow_symlinks=False)
            else:
                os.link(b"/proc/self/fd/%d" % self._fd, name, dst_dir_fd=folder, follow_symlinks=True)
        except OSError as error:
            if self._name and error.errno in _NO_LINKS:
                return False
            raise
        return True

    def close(self) -> None:
        """Give back what it holds: what has not been put in place is gone. Twice is once."""
        name, self._name = self._name, b""
        fd, self._fd = self._fd, -1
        folder, self._folder = self._folder, -1
        if name:
            with suppress(OSError):  # it stays, and is never served
                os.unlink(name, dir_fd=folder)
        for descriptor in (fd, folder):
            if descriptor >= 0:
                with suppress(OSError):  # what counts was synced before
                    os.close(descriptor)


def _hash(name: str) -> "hashlib._Hash":
    return hashlib.new(name, usedforsecurity=False)


def _private() -> bytes:
    """A name that nobody has, and that is never served."""
    return PRIVATE + b"put-" + os.urandom(9).hex().encode()


def _make(folder: int, name: bytes) -> bool:
    """A folder in another; False if it is there already: another PUT was first."""
    try:
        os.mkdir(name, FOLDER_MODE, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def look(target: Target, method: bytes) -> tuple[int | None, tuple[bytes, ...]]:
    """What a PUT or DELETE would find: octets of the file, None where there is none; folders that are missing.

    Raises: NotWritten, OSError.
    """
    folder, missing = target.walk()
    try:
        there = target.check(None if missing else folder, method)
    finally:
        os.close(folder)
    return None if there is None else there.st_size, missing


# -- DELETE ------------------------------------------------------------------------------------------------------------


def remove(target: Target) -> None:
    """Remove a file. Raises: NotWritten, OSError."""
    folder, missing = target.walk()
    try:
        with _lock(folder, target.name):
            target.check(None if missing else folder, b"DELETE")
            os.unlink(target.name, dir_fd=folder)
        _sync(folder)
    finally:
        os.close(folder)
