"""SERVER user and group: bind first, then stop being root.

    before    addresses are bound, logs and keys are opened by root
    become    groups, group, user; then there is no way back, and no program that pbal starts can get more (no_new_privs)
    after     plugins are opened, connections accepted

One right may stay: CAP_NET_BIND_SERVICE, so that a listener that is enabled later can have a port below 1024. It is a right of this
thread and of those it starts; programs that plugins start do not inherit it. Threads that run before (the log's) lose every right with
the change of user.

What root opened, the user may be unable to open again: `warnings` looks. It reads owners and modes, and knows nothing of access
control lists.
"""

import ctypes
import errno
import grp
import os
import pwd
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pbal
from pbal.model.errors import ConfigError
from pbal.model.world import World
from pbal.schema import types

READ, WRITE, SEARCH = 4, 2, 1
"""Bits of a mode, for one class of users."""

_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_CAP_NET_BIND_SERVICE = 10
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@dataclass(frozen=True, slots=True)
class Account:
    """As whom pbal is to run."""

    user: str
    uid: int
    gid: int
    groups: frozenset[int]

    def may(self, path: Path, wanted: int) -> bool:
        """Whether it has these bits on a path, and the right to come there."""
        if self.uid == 0:
            return True
        real = Path(os.path.realpath(path))
        return all(self._has(folder, SEARCH) for folder in real.parents) and self._has(real, wanted)

    def _has(self, path: Path, wanted: int) -> bool:
        try:
            found = os.stat(path)
        except OSError:
            return False
        own = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return (found.st_mode >> own) & wanted == wanted


def account(world: World) -> Account | None:
    """The account that SERVER names; None where pbal is to stay who it is. Raises: ConfigError if it is gone."""
    user, group = world.server["user"], world.server["group"]
    if user is None and group is None:
        return None
    try:
        entry = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
        gid = entry.pw_gid if group is None else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigError(f"user: {error.args[0]}") from None
    return Account(entry.pw_name, entry.pw_uid, gid, frozenset(os.getgrouplist(entry.pw_name, gid)))


def become(wanted: Account) -> str:
    """Be that account from now on. What is lost beyond what was meant to be, in words; "" for nothing.

    Raises: ConfigError if the system refuses; pbal must not go on then.
    """
    if os.geteuid() == wanted.uid and os.getegid() == wanted.gid:
        return ""
    may_bind = bool(_permitted() >> _CAP_NET_BIND_SERVICE & 1)
    keeping = _prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups(sorted(wanted.groups))
        os.setresgid(wanted.gid, wanted.gid, wanted.gid)
        os.setresuid(wanted.uid, wanted.uid, wanted.uid)
    except PermissionError:
        now = pwd.getpwuid(os.geteuid()).pw_name
        raise ConfigError(f"user: only root can become {wanted.user}, and pbal was started as {now}", about=wanted.user) from None
    except OSError as error:
        raise ConfigError(f"user: cannot become {wanted.user}: {error.strerror}", about=wanted.user) from None
    _prctl(_PR_SET_KEEPCAPS, 0)
    lost = _leave_capabilities(may_bind and not keeping) if wanted.uid else ""
    why = _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if wanted.uid and _can_return():
        raise ConfigError(f"user: having become {wanted.user}, pbal could become root again", about=wanted.user)
    return lost or (f"programs started by plugins can get more rights ({why})" if why else "")


def _can_return() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def _leave_capabilities(bind: bool) -> str:
    """Leave none but, if `bind`, that to ports below 1024. What cannot be had, in words."""
    right = 1 << _CAP_NET_BIND_SERVICE if bind else 0
    data = (_Data * 2)(_Data(right, right, 0), _Data(0, 0, 0))
    why = _call("capset", ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), data)
    return (
        ""
        if bind and not why
        else f"listeners enabled later cannot have ports below 1024 ({why or 'the system does not let pbal keep the right'})"
    )


def _permitted() -> int:
    """The lower 32 of the capabilities that this thread may have."""
    data = (_Data * 2)()
    return 0 if _call("capget", ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), data) else int(data[0].permitted)


def _prctl(option: int, value: int) -> str:
    return _call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _call(name: str, *arguments: object) -> str:
    """Call the C library. Why that failed; "" if it did not."""
    if not sys.platform.startswith("linux"):
        return os.strerror(errno.ENOSYS)
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        return os.strerror(errno.ENOSYS)
    return "" if function(*arguments) == 0 else os.strerror(ctypes.get_errno())


# --- what the account cannot open again ------------------------------------------------------------------------------


class Unopenable(NamedTuple):
    """Something the account of SERVER user cannot open. `about`: the service, or the tunable of SERVER."""

    about: str
    text: str


def warnings(world: World, files: Iterable[Path] = ()) -> list[Unopenable]:
    """What pbal opens as root and could not open again as the user it becomes, in the order of the configuration.

    `files`: those that it was read from, which come first.
    """
    try:
        wanted = account(world)
    except ConfigError:
        return []
    return [] if wanted is None else [*_of_files(files, wanted), *_of_server(world, wanted), *_of_services(world, wanted)]


def _of_files(files: Iterable[Path], wanted: Account) -> Iterator[Unopenable]:
    for file in files:
        if not wanted.may(file, READ):
            yield Unopenable("user", f"user {wanted.user} cannot read {file}: it cannot be read anew while pbal runs")


def _of_server(world: World, wanted: Account) -> Iterator[Unopenable]:
    modules = Path(os.__file__).parent, Path(pbal.__file__).parent
    for folder in dict.fromkeys(modules):
        if not wanted.may(folder, READ | SEARCH):
            yield Unopenable("user", f"user {wanted.user} cannot read the modules in {folder}: what LOAD imports while pbal runs may fail")
    pidfile, plugin_path = world.server["pidfile"], world.server["plugin_path"]
    if pidfile is not None and not wanted.may(pidfile.parent, WRITE | SEARCH):
        yield Unopenable(
            "pidfile", f"user {wanted.user} cannot write into {pidfile.parent}: at the end {pidfile.name} is emptied, not removed"
        )
    if plugin_path is not None and not wanted.may(plugin_path, READ | SEARCH):
        yield Unopenable("plugin_path", f"user {wanted.user} cannot read {plugin_path}: LOAD and RELOAD will fail while pbal runs")


def _of_services(world: World, wanted: Account) -> Iterator[Unopenable]:
    for service in world.services.values():
        for name in service.explicit:
            for text in _of_value(world.tunables[name].type, service.values[name], wanted):
                yield Unopenable(service.name, f"service {service.name}: {name}: user {wanted.user} {text}")


def _of_value(kind: types.Type[Any], value: object, wanted: Account) -> Iterator[str]:
    if kind is types.LISTEN:
        if isinstance(value, types.Endpoint) and value.path and not wanted.may(Path(value.path).parent, WRITE | SEARCH):
            yield f"cannot write into {Path(value.path).parent}: {value.path} stays there at the end, and cannot be made anew by ENABLE"
    elif kind is types.LOG:
        if isinstance(value, str) and value.startswith("/"):
            yield from _of_log(Path(value), wanted)
    else:
        for path in () if value is None else kind.reads(value):
            if os.path.exists(path):
                is_folder = os.path.isdir(path)
                if not wanted.may(path, READ | SEARCH if is_folder else READ):
                    yield f"cannot read {path}" + ("" if is_folder else ": it will not be read anew when it is written")


def _of_log(path: Path, wanted: Account) -> Iterator[str]:
    if os.path.exists(path) and not wanted.may(path, WRITE) and not _to_be_given(path):
        yield f"cannot write to {path}: SIGUSR1 will not open it anew"
    elif not wanted.may(path.parent, WRITE | SEARCH):
        yield f"cannot write into {path.parent}: {path.name} can be neither rotated nor made anew on SIGUSR1"


def _to_be_given(path: Path) -> bool:
    """Whether root, who opens it, gives it to the user: see Writer.give."""
    return path.stat().st_uid == 0
