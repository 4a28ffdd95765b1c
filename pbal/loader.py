"""LOAD, RELOAD, UNLOAD: import beside, check, swap, close the old.

A plugin is a file NAME.py or a package NAME/, bundled or in a folder of SERVER plugin_path. Each load imports it under
a name of its own generation, so old and new stand side by side and a relative import inside a package finds its own
generation. What does not import, or fails a check, leaves everything as it was and says file and line.
"""

import importlib
import importlib.machinery
import importlib.util
import inspect
import logging
import sys
import traceback
from collections.abc import Awaitable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Protocol

from pbal.lang.parser import grammar_directory
from pbal.model.errors import ConfigError, UnknownName
from pbal.model.hooks import hooks_of
from pbal.model.plugin import Plugin
from pbal.model.service import Service
from pbal.model.world import LoadedPlugin, World

log = logging.getLogger("pbal.plugins")

BUNDLED = Path(__file__).resolve().parent / "plugins"


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


def find(name: str, folders: list[Path]) -> Path:
    """The file of plugin `name`, in any case. Raises: UnknownName with the plugins there are."""
    seen: set[str] = set()
    for folder in [BUNDLED, *folders]:
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            path = entry / "__init__.py" if entry.is_dir() else entry
            if path.suffix != ".py" or not path.is_file() or entry.name.startswith("_"):
                continue
            if entry.stem.lower() == name.lower():
                return path
            seen.add(entry.stem.lower())
    raise UnknownName(f"there is no plugin '{name}'", name, sorted(seen))


def _import(path: Path, module_name: str) -> ModuleType:
    """Import a file under `module_name`. Raises: ConfigError with file and line."""
    importlib.invalidate_caches()
    package = [str(path.parent)] if path.name == "__init__.py" else None
    loader = _FreshLoader(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader, submodule_search_locations=package)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    except Exception as error:
        forget(module_name)
        raise ConfigError(f"{path.name} does not import: {_where(error, path)}") from error
    return module


def _where(error: Exception, path: Path) -> str:
    """`Type: message (file:line)`, the line being the plugin's own."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or path).name}:{error.lineno})"
    own = str(path.parent if path.name == "__init__.py" else path)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(own)]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = error.message if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    return f"{message}{place}"


def forget(module_name: str) -> None:
    """Drop a generation's modules."""
    for name in [name for name in sys.modules if name == module_name or name.startswith(module_name + ".")]:
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


def _module_name(name: str, generation: int) -> str:
    return f"pbal_loaded_{name}_{generation}"


def _read(world: World, name: str, generation: int) -> LoadedPlugin:
    """Import and check one generation. Raises: ConfigError."""
    folders = [Path(folder) for folder in _folders(world)]
    path = find(name, folders)
    name = (path.parent if path.name == "__init__.py" else path.with_suffix("")).name.lower()
    module_name = _module_name(name, generation)
    module = _import(path, module_name)
    try:
        plugin_class = _plugin_class(module, name)
        hooks_of(plugin_class)
        for tunable in plugin_class.tunables:
            if tunable.default is not None:
                tunable.parse(tunable.default)
    except (ConfigError, ValueError) as error:
        forget(module_name)
        raise ConfigError(f"plugin '{name}': {error}") from error
    grammar = plugin_class.grammar or _grammar_file(path, name)
    return LoadedPlugin(name, plugin_class, str(path), generation, grammar, tuple(plugin_class.commands))


def _folders(world: World) -> list[str]:
    value = world.server.get("plugin_path")
    if not value:
        return []
    return [str(part) for part in value] if isinstance(value, tuple) else [str(value)]


def _grammar_file(path: Path, name: str) -> str:
    beside = (path.parent if path.name != "__init__.py" else path.parent.parent) / f"{name}.lark"
    bundled = grammar_directory() / "plugins" / f"{name}.lark"
    candidates = [beside, bundled] if path.is_relative_to(BUNDLED) else [beside]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    return ""


async def load(world: World, statements: Statements, name: str) -> LoadedPlugin:
    """LOAD. Loading twice changes nothing. Raises: ConfigError."""
    if name.lower() in world.plugins:
        return world.plugins[name.lower()]
    loaded = _read(world, name, 1)
    try:
        world.add_plugin_tunables(loaded.name, loaded.plugin_class.tunables)
        try:
            prepared = await statements.prepare(loaded)
        except Exception:
            for tunable in loaded.plugin_class.tunables:
                world.tunables.pop(tunable.name, None)
            raise
    except Exception:
        forget(_module_name(loaded.name, 1))
        raise
    world.plugins[loaded.name] = loaded
    world.counters.declare(loaded.plugin_class.counters)
    statements.install(*prepared)
    return loaded


def unload(world: World, statements: Statements, name: str) -> None:
    """UNLOAD. Raises: UnknownName, or ConfigError while a service uses it."""
    loaded = world.loaded_plugin(name)
    users = [service.name for service, _ in world.instances(loaded.name)]
    if users:
        raise ConfigError(f"plugin '{loaded.name}' is used by {', '.join(users)}", about=name)
    del world.plugins[loaded.name]
    for tunable in loaded.plugin_class.tunables:
        world.tunables.pop(tunable.name, None)
        for service in world.services.values():
            service.values.pop(tunable.name, None)
            service.explicit.pop(tunable.name, None)
    statements.uninstall(loaded.name)
    forget(_module_name(loaded.name, loaded.generation))


async def reload(world: World, statements: Statements, name: str) -> LoadedPlugin:
    """RELOAD. Raises: ConfigError; the old generation serves on then."""
    old = world.loaded_plugin(name)
    new = _read(world, old.name, old.generation + 1)
    undo = _Undo(world, old)
    try:
        prepared = await statements.prepare(new)
        for _, instance in world.instances(old.name):
            await instance.quiesce()
        # From here to the swap nothing waits.
        undo.remember()
        _swap_tunables(world, old, new)
        world.counters.declare(new.plugin_class.counters)
        chains = _successors(world, old, new, undo)
    except Exception as error:
        undo.all()
        forget(_module_name(new.name, new.generation))
        raise ConfigError(f"plugin '{old.name}' is not reloaded, the old one serves on: {_reason(error, new)}") from error
    world.plugins[old.name] = new
    statements.install(*prepared)
    for service, chain, former in chains:
        service.replace_chain(chain)
        former.close()
    forget(_module_name(old.name, old.generation))
    log.info("plugin %s: generation %d serves", new.name, new.generation)
    return new


def _reason(error: Exception, new: LoadedPlugin) -> str:
    return error.message if isinstance(error, ConfigError) else _where(error, Path(new.path))


def _swap_tunables(world: World, old: LoadedPlugin, new: LoadedPlugin) -> None:
    """The new generation's tunables, with what was set; those that are gone go."""
    known = {tunable.name for tunable in old.plugin_class.tunables}
    for tunable in new.plugin_class.tunables:
        if tunable.name in world.tunables and tunable.name not in known:
            raise ConfigError(f"tunable '{tunable.name}' exists already", about=tunable.name)
    for gone in known - {tunable.name for tunable in new.plugin_class.tunables}:
        del world.tunables[gone]
    for tunable in new.plugin_class.tunables:
        world.tunables[tunable.name] = tunable
        for service in world.services.values():
            if tunable.name in service.explicit:
                service.values[tunable.name] = tunable.parse(service.explicit[tunable.name])
            else:
                service.fill(tunable)


Chain = list[tuple[str, Plugin]]


def _successors(world: World, old: LoadedPlugin, new: LoadedPlugin, undo: "_Undo") -> list[tuple[Service, Chain, Plugin]]:
    """New instances in place of the old ones: checked, filled with what was carried, opened."""
    made = [(service, former, new.plugin_class(service, world)) for service, former in world.instances(old.name)]
    for _, _, instance in made:
        instance.check()
    chains: list[tuple[Service, Chain, Plugin]] = []
    for service, former, instance in made:
        undo.taking_over(former, instance)
        instance.adopt(former.carry())
        if service.opened:
            instance.open()
        chain = [(name, instance if plugin is former else plugin) for name, plugin in service.plugins]
        chains.append((service, chain, former))
    return chains


class _Undo:
    """What a reload that fails puts back."""

    def __init__(self, world: World, old: LoadedPlugin) -> None:
        self._world = world
        self._old = old
        self._tunables: dict[str, Any] | None = None
        self._values: dict[str, dict[str, Any]] = {}
        self._taken: list[tuple[Plugin, Plugin]] = []

    def remember(self) -> None:
        """Before the first change."""
        self._tunables = dict(self._world.tunables)
        self._values = {name: dict(service.values) for name, service in self._world.services.items()}

    def taking_over(self, former: Plugin, instance: Plugin) -> None:
        """`instance` is about to adopt what `former` carries."""
        self._taken.append((former, instance))

    def all(self) -> None:
        """Put everything back."""
        if self._tunables is None:
            for _, former in self._world.instances(self._old.name):
                former.resume()
            return
        self._world.tunables.clear()
        self._world.tunables.update(self._tunables)
        for name, values in self._values.items():
            service = self._world.services.get(name)
            if service is not None:
                service.values.clear()
                service.values.update(values)
        for _, instance in self._taken:
            instance.close()
        for _, former in self._world.instances(self._old.name):
            former.resume()


__all__ = ["find", "load", "reload", "unload"]
