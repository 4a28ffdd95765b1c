"""LOAD and UNLOAD, and how one generation of a plugin is made of its files.

A plugin is a file NAME.py or a package NAME/ (sources.py says where from, importing.py how it is imported). What does not import, or fails
a check, leaves everything as it was and says file and line. RELOAD is in reloading.py.

Live, reading and importing is done in a thread, so that a module that works long meanwhile holds nobody up. The thread
touches nothing of the World. Who calls sees to it that no other change of the World is under way meanwhile; the console does.
"""

import asyncio
import inspect
import itertools
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from pbal.importing import forget, run, take, where
from pbal.model import faults, garbage
from pbal.model.declared import check_fragment
from pbal.model.errors import ConfigError
from pbal.model.hooks import take_marked
from pbal.model.kept import Kept
from pbal.model.plugin import Plugin
from pbal.model.plugin_check import check_class
from pbal.model.world import LoadedPlugin, World
from pbal.sources import Source, find

T = TypeVar("T")

IMPORT_LIMIT = 30.0
"""Seconds an import may take live. A module that loads a model or asks a database is done by then; one that hangs would
keep every LOAD and RELOAD after it waiting."""

_serials = itertools.count(1)


class Statements(Protocol):
    """Who knows the statements; commands.interpreter.Interpreter."""

    language: Any

    def prepare(self, *plugins: LoadedPlugin) -> Awaitable[tuple[Any, Any]]: ...
    def install(self, language: Any, registry: Any) -> None: ...
    def uninstall(self, plugin: str) -> None: ...


def _plugin_class(module: ModuleType, name: str) -> type[Plugin]:
    found = {
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Plugin) and value is not Plugin
        and value.__module__.startswith(module.__name__)
    }  # fmt: skip
    if len(found) != 1:
        names = ", ".join(sorted(cls.__name__ for cls in found)) or "none"
        raise ConfigError(f"plugin '{name}' must define exactly one Plugin class, found {names}")
    return found.pop()


def make(kept: Kept, generation: int) -> LoadedPlugin:
    """Import and check one generation. May run in a thread: asks and changes no World. Raises: ConfigError."""
    module_name = faults.module_name(kept.name, generation, next(_serials))
    module = run(kept, module_name)
    try:
        plugin_class = _plugin_class(module, kept.name)
        check_class(plugin_class, take_marked(module_name))
        loaded = LoadedPlugin(kept.name, plugin_class, kept.path, generation, kept.folder, module=module_name, kept=kept)
        loaded.grammar = inspect.cleandoc(plugin_class.grammar) or ("" if kept.grammar is None else kept.grammar.data.decode())
        check_fragment(loaded.grammar)
        loaded.commands = tuple(plugin_class.commands)
        loaded.version = plugin_class.version or kept.version
        return loaded
    except faults.CAUGHT as error:
        forget(module_name)
        raise ConfigError(f"plugin '{kept.name}': {where(error, kept.path)}") from error


async def read_beside(world: World, name: str, generation: int, folders: list[str] | None = None) -> LoadedPlugin:
    """Make a generation of the files as they are now. `folders`: not those of plugin_path. Raises: ConfigError."""
    folders = _folders(world) if folders is None else folders
    try:
        return await beside(world, name, lambda: _made(find(name, [Path(folder) for folder in folders]), generation))
    except OSError as error:  # of finding and reading it; what its own code raises is told with its line
        at = f"{error.filename}: " if error.filename else ""
        raise ConfigError(f"plugin '{name}' cannot be read: {at}{error.strerror or error}", about=name) from None


def _made(source: Source, generation: int) -> LoadedPlugin:
    """A generation of these files, whose needs are there. Raises: ConfigError, OSError."""
    loaded = make(take(source), generation)
    _check_needs(loaded)
    return loaded


def _check_needs(loaded: LoadedPlugin) -> None:
    """Raises: ConfigError if something is not installed that the plugin needs to work. To look at it nothing is needed."""
    for needed, install in loaded.plugin_class.needs.items():
        if not _is_there(needed):
            forget(loaded.module)
            raise ConfigError(f"plugin '{loaded.name}' needs {needed}, which is not installed: pip install '{install}'", about=loaded.name)


def _is_there(module: str) -> bool:
    """Whether a module is installed. Of one in a package, the package is imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


async def beside(world: World, name: str, work: Callable[[], LoadedPlugin]) -> LoadedPlugin:
    """Do what makes a generation, in a thread when the World is being served. Raises: ConfigError, OSError."""
    return work() if world.runtime is None else await in_a_thread(work, f"plugin '{name}'", lambda loaded: forget(loaded.module))


async def in_a_thread(work: Callable[[], T], what: str, drop: Callable[[T], object]) -> T:
    """Run `work` in a thread of its own. Raises: what it raises, or ConfigError after IMPORT_LIMIT. `drop` gets what comes after that.

    The thread is a daemon and not one of the loop's executor: the end of the process would wait for that one, and a module
    that hangs at import would hang it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def ended(made: T) -> None:
        if done.done():  # nobody waits any more
            drop(made)
        else:
            done.set_result(made)

    def failed(error: BaseException) -> None:
        if not done.done():
            done.set_exception(error)

    def run() -> None:
        try:
            tell = partial(ended, work())
        except faults.CAUGHT as error:
            tell = partial(failed, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell)

    try:
        threading.Thread(target=run, name=f"import of {what}", daemon=True).start()
    except RuntimeError as error:
        raise ConfigError(f"{what}: {error}") from None
    try:
        async with asyncio.timeout(IMPORT_LIMIT):
            return await done
    except TimeoutError:
        raise ConfigError(f"{what}: the import did not end within {IMPORT_LIMIT:g} s; what it does goes on in a thread") from None


def _folders(world: World) -> list[str]:
    value = world.server.get("plugin_path")
    if not value:
        return []
    return [str(part) for part in value] if isinstance(value, tuple) else [str(value)]


async def load(world: World, statements: Statements, name: str) -> LoadedPlugin:
    """LOAD. Loading twice changes nothing. Raises: ConfigError."""
    if name.lower() in world.plugins:
        return world.plugins[name.lower()]
    if name.lower() == "none":
        raise ConfigError("a plugin called 'none' could be in no chain: SET plugins = none is the empty one", about=name)
    lent = world.lent.get(name.lower())
    if isinstance(lent, ConfigError):
        raise lent
    if lent is not None:
        return await adopt(world, statements, replace(lent))
    loaded = await read_beside(world, name, 1)
    loaded.frozen = world.runtime is None
    try:
        return await adopt(world, statements, loaded)
    except (Exception, asyncio.CancelledError):
        forget(loaded.module)
        raise


async def read_ahead(live: World, world: World, name: str) -> LoadedPlugin | ConfigError:
    """A plugin for the LOAD of a World that does not run, beside one that does: imported in a thread. Or what LOAD is to say."""
    try:
        return await read_beside(live, name, 1, _folders(world))
    except ConfigError as error:
        return error


async def adopt(world: World, statements: Statements, loaded: LoadedPlugin) -> LoadedPlugin:
    """Make what was read a plugin of this World. Raises: ConfigError; nothing has changed then."""
    world.refuse_known(loaded.plugin_class.tunables)
    world.refuse_counters(loaded.name, loaded.plugin_class.counters)
    world.refuse_roles(loaded.name, loaded.plugin_class.conversations)
    prepared = await statements.prepare(loaded)
    world.bring_roles(loaded.name, loaded.plugin_class.conversations)
    for tunable in loaded.plugin_class.tunables:
        world.add_tunable(tunable)
    world.plugins[loaded.name] = loaded
    world.counters.declare(loaded.plugin_class.counters)
    statements.install(*prepared)
    return loaded


def withdraw(world: World, statements: Statements, name: str) -> None:
    """Take back what `adopt` did, while no service uses the plugin; its modules stay."""
    loaded = world.plugins.pop(name)
    world.bring_roles(name, ())
    for tunable in loaded.plugin_class.tunables:
        world.forget_tunable(tunable.name)
    statements.uninstall(name)


async def unload(world: World, statements: Statements, name: str) -> None:
    """UNLOAD. What was said of its tunables goes, too. Raises: UnknownName, or ConfigError while a service uses it."""
    loaded = world.loaded_plugin(name)
    users = [service.name for service, _ in world.users(loaded.name)]
    if users:
        raise ConfigError(f"plugin '{loaded.name}' is used by {', '.join(users)}", about=name)
    own = world.of_role([each.role.name for each in loaded.plugin_class.conversations])
    if own:
        raise ConfigError(f"plugin '{loaded.name}' brings the role of {', '.join(own)}", about=name)
    del world.plugins[loaded.name]
    world.bring_roles(loaded.name, ())
    for tunable in loaded.plugin_class.tunables:
        world.forget_tunable(tunable.name)
    statements.uninstall(loaded.name)
    if loaded.name not in world.lent:
        forget(loaded.module)
    if world.runtime is not None:
        garbage.collect_soon(world, loaded.frozen)


__all__ = ["load", "unload"]
