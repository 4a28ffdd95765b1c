"""A plugin's files, read once and imported from memory, under a name that no other generation has.

All files of a package are read before any is run, so a generation is of one moment although somebody writes meanwhile, and what was read
can be imported again when the files have changed. Byte code is not looked at: it is trusted by time and size, and an edit may keep both.
What is in a package and no Python file (data, an extension module) is found on disk as usual.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.readers import FileReader
from pathlib import Path
from types import CodeType, ModuleType

from pbal.lang.parser import grammar_directory
from pbal.model import faults
from pbal.model.errors import ConfigError
from pbal.model.hooks import take_marked
from pbal.model.kept import HeldFile, Kept, Stamp
from pbal.model.plugin_check import check_imports
from pbal.sources import BUNDLED, Source


def take(source: Source) -> Kept:
    """Read the files of a plugin. Raises: OSError; ConfigError for an import that a plugin may not make, with file and line."""
    path = source.path
    if not path.is_relative_to(BUNDLED):  # whose imports a test reads
        check_imports(path)
    files = {"": _held(path)}
    if path.name == "__init__.py":
        for file in sorted(path.parent.rglob("*.py")):
            parts = file.relative_to(path.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name:
                files[name] = _held(file)
    return Kept(source.name, str(path), source.folder, source.version, files, _grammar(path, source.name))


def _held(path: Path) -> HeldFile:
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        return HeldFile(str(path), path.name == "__init__.py", file.read(), (str(path), facts.st_mtime_ns, facts.st_size))


def _grammar(path: Path, name: str) -> HeldFile | None:
    """The file of its statements: beside it, in its package, or where those of the bundled plugins are."""
    candidates = [path.parent / f"{name}.lark"]
    if path.name == "__init__.py":
        candidates.append(path.parent.parent / f"{name}.lark")
    if path.is_relative_to(BUNDLED):
        candidates.append(grammar_directory() / "plugins" / f"{name}.lark")
    return next((_held(candidate) for candidate in candidates if candidate.is_file()), None)


def stamp(kept: Kept) -> Stamp | None:
    """What the files of a plugin are now, to be held against kept.stamp; None while they cannot be looked at. It looks at the disk."""
    path = Path(kept.path)
    try:
        files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
        if kept.grammar is not None:
            files.append(Path(kept.grammar.path))
        return frozenset((str(file), facts.st_mtime_ns, facts.st_size) for file in files if (facts := os.stat(file)))
    except OSError:  # it is being written, or has gone: what serves is not to follow that
        return None


class _Loader(importlib.abc.InspectLoader):
    """Runs one file from memory. What a package has beside its modules is read from the disk (importlib.resources, pkgutil.get_data)."""

    def __init__(self, held: HeldFile) -> None:
        self._held = held
        self.path = held.path

    def get_data(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def get_resource_reader(self, fullname: str) -> FileReader | None:
        return FileReader(self) if self._held.package else None  # type: ignore[arg-type]  # all it asks for is `path`

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._held.data)

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._held.data, self._held.path, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return self._held.package


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of the generations that are imported."""

    def __init__(self) -> None:
        self.generations: dict[str, Mapping[str, HeldFile]] = {}
        """By the name of the first module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        first, _, below = fullname.partition(".")
        files = self.generations.get(first)
        held = None if files is None else files.get(below)
        if held is None:
            return None
        spec = importlib.util.spec_from_loader(fullname, _Loader(held), origin=held.path, is_package=held.package)
        if spec is not None:
            spec.has_location = True  # which makes it the module's __file__
            if held.package:
                spec.submodule_search_locations = [str(Path(held.path).parent)]
        return spec


_finder = _Finder()
sys.meta_path.insert(0, _finder)


def run(kept: Kept, module_name: str) -> ModuleType:
    """Import a plugin under `module_name`. Raises: ConfigError with file and line."""
    importlib.invalidate_caches()
    _finder.generations[module_name] = kept.files
    try:
        return importlib.import_module(module_name)
    except faults.CAUGHT as error:
        forget(module_name)
        raise ConfigError(f"{Path(kept.path).name} does not import: {where(error, kept.path)}{_hint(error, kept)}") from error


def _hint(error: BaseException, kept: Kept) -> str:
    """What would do where a plugin imports a file beside it: two plugins may have a helper.py each, and it would not be reloaded."""
    path, name = Path(kept.path), getattr(error, "name", None)
    if not isinstance(error, ModuleNotFoundError) or not isinstance(name, str):
        return ""
    if "." in name or not ((path.parent / f"{name}.py").is_file() or (path.parent / name / "__init__.py").is_file()):
        return ""
    package = path.parent if path.name == "__init__.py" else path.with_suffix("")
    return f": in a package {package.name}/, 'from . import {name}' finds it"


def where(error: BaseException, path: str) -> str:
    """`Type: message (file:line)`, the line being the plugin's own."""
    place = faults.place_in(error, path)
    message = error.message if isinstance(error, ConfigError) else faults.describe(error)
    return f"{message} ({place})" if place else message


def forget(module_name: str) -> None:
    """Drop a generation's modules."""
    take_marked(module_name)
    _finder.generations.pop(module_name, None)
    for name in [name for name in list(sys.modules) if name == module_name or name.startswith(module_name + ".")]:
        del sys.modules[name]


__all__ = ["Stamp", "forget", "run", "stamp", "take", "where"]
