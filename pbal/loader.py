"""LOAD, RELOAD, UNLOAD: import beside, check, swap, close the old.

A plugin is a file NAME.py or a package NAME/ (sources.py says where from). Each load imports it under a name of its own, so old and
new stand side by side, and a relative import inside a package finds its own generation. What does not import, or fails a check, leaves
everything as it was and says file and line.

Live, reading and importing is done in a thread, so that a module that works long meanwhile holds nobody up. The thread
touches nothing of the World. Who calls sees to it that no other change of the World is under way meanwhile; the console does.
"""

import asyncio
import importlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Protocol

from pbal.lang.parser import grammar_directory
from pbal.model import faults, garbage
from pbal.model.change import Change, restore
from pbal.model.errors import ConfigError
from pbal.model.hooks import take_marked
from pbal.model.plugin import Plugin
from pbal.model.plugin_check import check_class, check_imports
from pbal.model.world import LoadedPlugin, World
from pbal.schema.said import shown
from pbal.schema.tunables import Tunable
from pbal.sources import BUNDLED, find

log = logging.getLogger("pbal.plugins")

IMPORT_LIMIT = 30.0
"""Seconds an import may take live. A module that loads a model or asks a database is done by then; one that hangs would
keep every LOAD and RELOAD after it waiting."""

QUIESCE_LIMIT = 30.0
"""Seconds a plugin may wait before a RELOAD. One that waits for ever would keep every LOAD and RELOAD after it waiting."""

_serials = itertools.count(1)


class Statements(Protocol):
    """Who knows the statements; commands.interpreter.Interpreter."""

    def prepare(self, loaded: LoadedPlugin) -> Awaitable[tuple[Any, Any]]: ...
    def install(self, language: Any, registry: Any) -> None: ...
    def uninstall(self, plugin: str) -> None: ...


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Compiles what is in the file now. Byte code is trusted by time and size, and an edit may keep both."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return compile(self.get_data(path), path, "exec", dont_inherit=True)


def _import(path: Path, module_name: str) -> ModuleType:
    """Import a file under `module_name`. Raises: ConfigError with file and line."""
    if not path.is_relative_to(BUNDLED):  # whose imports a test reads
        check_imports(path)
    importlib.invalidate_caches()
    package = [str(path.parent)] if path.name == "__init__.py" else None
    loader = _FreshLoader(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader, submodule_search_locations=package)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    except faults.CAUGHT as error:
        forget(module_name)
        raise ConfigError(f"{path.name} does not import: {_where(error, path)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    """`Type: message (file:line)`, the line being the plugin's own."""
    place = faults.place_in(error, str(path))
    message = error.message if isinstance(error, ConfigError) else faults.describe(error)
    return f"{message} ({place})" if place else message


def forget(module_name: str) -> None:
    """Drop a generation's modules."""
    take_marked(module_name)
    for name in [name for name in list(sys.modules) if name == module_name or name.startswith(module_name + ".")]:
        del sys.modules[name]


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


def _read(folders: list[str], name: str, generation: int) -> LoadedPlugin:
    """Import and check one generation. May run in a thread: asks and changes no World. Raises: ConfigError."""
    source = find(name, [Path(folder) for folder in folders])
    name, path = source.name, source.path
    module_name = faults.module_name(name, generation, next(_serials))
    module = _import(path, module_name)
    try:
        plugin_class = _plugin_class(module, name)
        check_class(plugin_class, take_marked(module_name))
        for tunable in plugin_class.tunables:
            if tunable.default is not None:
                tunable.parse(tunable.default)
        grammar = plugin_class.grammar or _grammar_file(path, name)
        commands = tuple(plugin_class.commands)
        version = plugin_class.version or source.version
        return LoadedPlugin(
            name, plugin_class, str(path), generation, source.folder, grammar, commands, module=module_name, version=version
        )
    except faults.CAUGHT as error:
        forget(module_name)
        raise ConfigError(f"plugin '{name}': {_where(error, path)}") from error


async def _read_beside(world: World, name: str, generation: int, folders: list[str] | None = None) -> LoadedPlugin:
    """_read, in a thread when the World is being served. `folders`: not those of its plugin_path. Raises: ConfigError."""
    folders = _folders(world) if folders is None else folders
    try:
        if world.runtime is None:
            return _read(folders, name, generation)
        return await _in_a_thread(lambda: _read(folders, name, generation), f"plugin '{name}'")
    except OSError as error:  # of finding and reading it; what its own code raises is told with its line
        where = f"{error.filename}: " if error.filename else ""
        raise ConfigError(f"plugin '{name}' cannot be read: {where}{error.strerror or error}", about=name) from None


async def _in_a_thread(work: Callable[[], LoadedPlugin], what: str) -> LoadedPlugin:
    """Run `work` in a thread of its own. Raises: what it raises, or ConfigError after IMPORT_LIMIT.

    The thread is a daemon and not one of the loop's executor: the end of the process would wait for that one, and a module
    that hangs at import would hang it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[LoadedPlugin] = loop.create_future()

    def ended(loaded: LoadedPlugin | None, error: BaseException | None) -> None:
        if done.done():  # nobody waits any more
            if loaded is not None:
                forget(loaded.module)
        elif loaded is not None:
            done.set_result(loaded)
        else:
            done.set_exception(error or RuntimeError("nothing was loaded"))

    def run() -> None:
        loaded: LoadedPlugin | None = None
        failure: BaseException | None = None
        try:
            loaded = work()
        except faults.CAUGHT as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(ended, loaded, failure)

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


def _grammar_file(path: Path, name: str) -> str:
    candidates = [path.parent / f"{name}.lark"]
    if path.name == "__init__.py":
        candidates.append(path.parent.parent / f"{name}.lark")
    if path.is_relative_to(BUNDLED):
        candidates.append(grammar_directory() / "plugins" / f"{name}.lark")
    for candidate in candidates:
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    return ""


async def load(world: World, statements: Statements, name: str) -> LoadedPlugin:
    """LOAD. Loading twice changes nothing. Raises: ConfigError."""
    if name.lower() in world.plugins:
        return world.plugins[name.lower()]
    lent = world.lent.get(name.lower())
    if isinstance(lent, ConfigError):
        raise lent
    if lent is not None:
        return await adopt(world, statements, replace(lent))
    loaded = await _read_beside(world, name, 1)
    loaded.frozen = world.runtime is None
    try:
        return await adopt(world, statements, loaded)
    except (Exception, asyncio.CancelledError):
        forget(loaded.module)
        raise


async def read_ahead(live: World, world: World, name: str) -> LoadedPlugin | ConfigError:
    """A plugin for the LOAD of a World that does not run, beside one that does: imported in a thread. Or what LOAD is to say."""
    try:
        return await _read_beside(live, name, 1, _folders(world))
    except ConfigError as error:
        return error


async def adopt(world: World, statements: Statements, loaded: LoadedPlugin) -> LoadedPlugin:
    """Make what was read a plugin of this World. Raises: ConfigError; nothing has changed then."""
    world.refuse_known(loaded.plugin_class.tunables)
    prepared = await statements.prepare(loaded)
    for tunable in loaded.plugin_class.tunables:
        world.add_tunable(tunable)
    world.plugins[loaded.name] = loaded
    world.counters.declare(loaded.plugin_class.counters)
    statements.install(*prepared)
    return loaded


def withdraw(world: World, statements: Statements, name: str) -> None:
    """Take back what `adopt` did, while no service uses the plugin; its modules stay."""
    loaded = world.plugins.pop(name)
    for tunable in loaded.plugin_class.tunables:
        world.forget_tunable(tunable.name)
    statements.uninstall(name)


async def unload(world: World, statements: Statements, name: str) -> None:
    """UNLOAD. What was said of its tunables goes, too. Raises: UnknownName, or ConfigError while a service uses it."""
    loaded = world.loaded_plugin(name)
    users = [service.name for service, _ in world.users(loaded.name)]
    if users:
        raise ConfigError(f"plugin '{loaded.name}' is used by {', '.join(users)}", about=name)
    del world.plugins[loaded.name]
    for tunable in loaded.plugin_class.tunables:
        world.forget_tunable(tunable.name)
    statements.uninstall(loaded.name)
    if loaded.name not in world.lent:
        forget(loaded.module)
    if world.runtime is not None:
        garbage.collect_soon(world, loaded.frozen)


async def reload(world: World, statements: Statements, name: str) -> LoadedPlugin:
    """RELOAD. Raises: ConfigError; the old generation serves on then."""
    old = world.loaded_plugin(name)
    new = await _read_beside(world, old.name, old.generation + 1)
    resting: list[Plugin] = []
    try:
        prepared = await statements.prepare(new)
        for _, instance in world.instances(old.name):
            resting.append(instance)
            await _quiesce(instance)
        with world.changing() as change:  # from here on nothing waits
            _swap_tunables(world, old, new, change)
            world.counters.declare(new.plugin_class.counters)
            new.errors, new.timings = old.errors, old.timings
            change.then(world.plugins.__setitem__, old.name, new)
            change.then(statements.install, *prepared)
            _swap_instances(world, old, new, change)
    except faults.CAUGHT as error:
        for instance in resting:
            faults.guarded(world, old.name, instance.resume)
        forget(new.module)
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            raise
        raise ConfigError(f"plugin '{old.name}' is not reloaded, the old one serves on: {_where(error, Path(new.path))}") from error
    forget(old.module)
    garbage.collect_soon(world, old.frozen)
    log.info(
        "plugin %(plugin)s: generation %(generation)d serves", {"event": "plugin_loaded", "plugin": new.name, "generation": new.generation}
    )
    return new


async def _quiesce(instance: Plugin) -> None:
    """Raises: what quiesce() raises, or ConfigError after QUIESCE_LIMIT."""
    try:
        async with asyncio.timeout(QUIESCE_LIMIT) as limit:
            await instance.quiesce()
    except TimeoutError:
        if limit.expired():
            raise ConfigError(f"quiesce() of the old one did not end within {QUIESCE_LIMIT:g} s") from None
        raise


def _swap_tunables(world: World, old: LoadedPlugin, new: LoadedPlugin, change: Change) -> None:
    """The new generation's tunables, with what was said of them. What was said of those that are gone is told, and goes with them."""
    known = frozenset(tunable.name for tunable in old.plugin_class.tunables)
    world.refuse_known(new.plugin_class.tunables, known)
    for texts in (world.tunables, world.defaults):
        change.undo(restore, texts, dict(texts))
    for service in world.services.values():
        for texts in (service.values, service.explicit, service.defaults):
            change.undo(restore, texts, dict(texts))
    for gone in sorted(known - {tunable.name for tunable in new.plugin_class.tunables}):
        services = world.forget_tunable(gone)
        if services:
            fields = {"event": "tunable_gone", "plugin": old.name, "tunable": gone, "services": ", ".join(services)}
            change.then(
                log.warning, "plugin %(plugin)s has no tunable %(tunable)s any more: what was SET on %(services)s is dropped", fields
            )
    for tunable in new.plugin_class.tunables:
        _refuse_what_was_said(world, tunable)
        world.add_tunable(tunable)
        for service in world.services.values():
            if tunable.name in service.explicit:
                service.values[tunable.name] = tunable.parse(service.explicit[tunable.name])


def _refuse_what_was_said(world: World, tunable: Tunable) -> None:
    """Raises: ConfigError if the new generation would refuse what was SET or is a DEFAULT."""
    said = [(f"DEFAULT {tunable.name}", world.defaults.get(tunable.name))]
    for service in world.services.values():
        if tunable.name in service.explicit and service.role and not tunable.fits(service.role):
            raise ConfigError(f"'{tunable.name}' is set on {service.name}, a {service.role}, and would not be one of its tunables any more")
        said.append((f"DEFAULT {tunable.name} of {service.name}", service.defaults.get(tunable.name)))
        said.append((f"SET {service.name}.{tunable.name}", service.explicit.get(tunable.name)))
    for what, text in said:
        try:
            if text is not None:
                tunable.parse(text)
        except ValueError as error:
            raise ConfigError(f"{what} = {shown(text or '')}: {error}") from None


def _swap_instances(world: World, old: LoadedPlugin, new: LoadedPlugin, change: Change) -> None:
    """New instances in place of the old ones: checked, filled with what was carried, opened; then in the chains."""
    made = [(service, former, new.plugin_class(service, world)) for service, former in world.users(old.name)]
    for service, _, instance in made:
        if service.opened:  # else it may be incomplete, and is checked when it is opened
            instance.check()
    for service, former, instance in made:
        if service.opened:
            change.undo(faults.guarded, world, old.name, instance.close, new.generation)
        instance.adopt(former.carry())
        if service.opened:
            instance.open()
        change.then(service.replace_chain, [(name, instance if plugin is former else plugin) for name, plugin in service.plugins])
    for service, former, _ in made:
        if service.opened:
            change.then(faults.guarded, world, old.name, former.close, old.generation)


__all__ = ["load", "reload", "unload"]
