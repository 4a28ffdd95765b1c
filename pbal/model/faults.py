"""Faults of plugins: counted for each plugin, logged in one line with their place, never silent and never a flood.

Whoever calls into a plugin and must go on whatever happens calls through here, or hands what it caught to `report`. The first
fault of a kind (plugin, generation, what was called, line) is logged at once; those that follow are counted and told
with the next line (World.log_limited). The whole traceback is for log_level debug.
"""

import logging
import re
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pbal.model.errors import ConfigError
from pbal.schema.commands import CommandError
from pbal.schema.kinds import Kind

if TYPE_CHECKING:
    from pbal.model.world import World

log = logging.getLogger("pbal.plugins")

CAUGHT = (BaseException,)
"""What a plugin may raise, which is anything: sys.exit() in a hook ends the hook and not the server. A real Ctrl-C is a signal with a
handler of its own."""

LONGEST = 1000
"""Characters of what an exception says that are told."""

_MODULE = "pbal_loaded_{}_{}_{}"
_MODULES = re.compile(r"pbal_loaded_(.+)_(\d+)_\d+(?:\.|$)")


def module_name(plugin: str, generation: int, serial: int) -> str:
    """What a generation of a plugin is imported as."""
    return _MODULE.format(plugin, generation, serial)


def author(made: object) -> tuple[str, int]:
    """Plugin and generation whose module defines a function, what a partial calls, or an object's class."""
    while isinstance(made, partial):
        made = made.func
    match = _MODULES.match(getattr(made, "__module__", None) or "")
    return (match[1], int(match[2])) if match else ("unknown", 0)


def place_in(error: BaseException, path: str) -> str:
    """`file.py:line` of the innermost frame that is in a plugin's own file or package; "" when none is.

    `path` is the plugin's file, NAME/__init__.py for a package.
    """
    file = Path(path)
    package = file.name == "__init__.py"
    if isinstance(error, SyntaxError) and isinstance(error.filename, str):
        return f"{Path(error.filename).name}:{error.lineno}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = frame.f_code.co_filename
        if name == path or (package and Path(name).is_relative_to(file.parent)):
            return f"{Path(name).name}:{line}"
    return ""


def blamed(error: BaseException | None) -> tuple[str, int]:
    """Plugin and generation whose code raised, by the innermost frame of any; "" and 0 where none of it is a plugin's."""
    found = "", 0
    for frame, _ in traceback.walk_tb(None if error is None else error.__traceback__):
        match = _MODULES.match(str(frame.f_globals.get("__name__", "")))
        if match:
            found = match[1], int(match[2])
    return found


def describe(error: BaseException) -> str:
    """`Type: message`, on one line, whatever the message is."""
    message = _text(str, error.msg if isinstance(error, SyntaxError) else error)
    return " ".join(f"{type(error).__name__}: {message:.{LONGEST}}".rstrip(": ").split("\n"))


def shown(value: object) -> str:
    """What a plugin returned, for the log: the beginning of its repr()."""
    return f"{_text(repr, value):.60}"


def _text(make: Callable[[object], str], value: object) -> str:
    """A text of something that a plugin made: its own __str__ and __repr__ may fail, too."""
    try:
        return make(value)
    except CAUGHT as error:
        return f"(a {type(value).__name__} that cannot be shown: {type(error).__name__})"


def report(world: "World", plugin: str, what: str, error: BaseException, generation: int = 0, at: str = "") -> None:
    """Count and log what a plugin raised in `what` ("hook start_http_request", "close()"). `generation`: 0 is the one that serves.

    `at`: the place that is told where none of the plugin's own lines raised, as of a field that was found to be none afterwards.
    """
    loaded = world.plugins.get(plugin)
    place = place_in(error, loaded.path) if loaded is not None else ""
    tell(world, plugin, what, describe(error), place or at, generation)
    log.debug("the whole of it", exc_info=error)


def tell(world: "World", plugin: str, what: str, fault: str, place: str, generation: int = 0) -> None:
    """Count and log a fault. `place` is `file.py:line`, or "" where it is not known."""
    world.counters.counts["plugin_errors"] += 1
    loaded = world.plugins.get(plugin)
    if loaded is not None:
        loaded.errors += 1
        generation = generation or loaded.generation
    where = f" ({place})" if place else ""
    kind = f"plugin {plugin} {generation} {what} {place}"
    world.log_limited(kind, "plugin %(plugin)s generation %(generation)d, %(what)s: %(fault)s%(where)s", {
        "event": "plugin_fault", "plugin": plugin, "generation": generation, "what": what, "fault": fault, "where": where,
    })  # fmt: skip


def guarded(world: "World", plugin: str, call: Callable[[], object], generation: int = 0, name: str = "") -> bool:
    """Call a method of a plugin's life that must stop nobody; False when it raised, which is reported. `name`: if the call has another."""
    try:
        call()
    except CAUGHT as error:
        report(world, plugin, f"{name or getattr(call, '__name__', 'a method')}()", error, generation)
        return False
    return True


def call_back(world: "World", call: Callable[..., object], *args: object) -> bool:
    """Call what a plugin gave the connection to be called; it must stop nobody. False when it raised: who gave it is asked only then."""
    try:
        call(*args)
    except CAUGHT as error:
        plugin, generation = author(call)
        report(world, plugin, f"{getattr(call, '__name__', 'a callback')}()", error, generation)
        return False
    return True


def asked(world: "World", plugin: str, call: Callable[..., object], *args: object, name: str = "") -> None:
    """Call a method of a plugin that may refuse a statement. A fault refuses it, too, in one line. Raises: ConfigError."""
    try:
        call(*args)
    except (ConfigError, CommandError):
        raise
    except CAUGHT as error:
        what = f"{name or getattr(call, '__name__', 'a method')}()"
        report(world, plugin, what, error)
        raise refusal(world, plugin, what, error) from error


def refusal(world: "World", plugin: str, what: str, error: BaseException) -> ConfigError:
    """What an operator is told whose statement met a fault of a plugin."""
    loaded = world.plugins.get(plugin)
    place = place_in(error, loaded.path) if loaded is not None else ""
    return ConfigError(f"plugin '{plugin}', {what}: {describe(error)}{f' ({place})' if place else ''}", kind=Kind.PLUGIN)
