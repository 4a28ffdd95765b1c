"""What hooks of a web server and of X-REPROXY-FILE get to see of files: the name that is looked for, and the file that was found."""

from abc import ABCMeta, abstractmethod


class Lookup:
    """The name that is about to be looked for. A hook may set another one."""

    __slots__ = ("_path",)

    def __init__(self, path: bytes) -> None:
        self._path = path

    @property
    def path(self) -> bytes:
        """The name, decoded. It begins with a slash: of a web server it is below docroot, of X-REPROXY-FILE it is a path of this machine.

        What a hook sets is held against the same rules as what came: nothing outside docroot or reproxy_root is served. Raises: ValueError
        for what begins with no slash, or has NUL or a `..` segment in it.
        """
        return self._path

    @path.setter
    def path(self, path: bytes) -> None:
        if not isinstance(path, bytes) or not path.startswith(b"/") or b"\0" in path or b".." in path.split(b"/"):
            raise ValueError(f"a path is bytes that begin with a slash, without NUL and .. segments, not {path!r:.60}")
        self._path = path


class FileFound(metaclass=ABCMeta):
    """A file that was found and is open."""

    path: bytes
    """By which name it was asked for."""
    size: int
    """In bytes."""
    modified: int
    """Seconds since 1970."""

    @abstractmethod
    async def read(self, limit: int) -> bytes:
        """Read the file from its beginning, `limit` bytes at most, in a thread. Raises: OSError.

        Await it in a coroutine that spawn() started, after the hook has returned TAKEN.
        """
