"""Where plugins come from: those that come with pbal, the folders of SERVER plugin_path, and installed distributions, in this order.

A distribution offers plugins as entry points of the group `pbal.plugins`: `NAME = module`, or `NAME = package`, the one that holds the
plugin's class. It is found as an import would find it, and nothing is imported here: who loads a plugin imports its file under a name of
its own. Names match in any case.
"""

import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pbal import __version__
from pbal.model.errors import ConfigError, UnknownName

BUNDLED = Path(__file__).resolve().parent / "plugins"
GROUP = "pbal.plugins"
"""Of entry points."""


@dataclass(frozen=True, slots=True)
class Source:
    """A plugin that can be loaded."""

    name: str
    """In lower case."""
    path: Path
    """Its file; of a package, that of its __init__.py."""
    folder: str = ""
    """The folder of SERVER plugin_path that it is in; "" of the others."""
    version: str = ""
    """Of the distribution that it comes with; "" of a file."""


def find(name: str, folders: Sequence[Path]) -> Source:
    """The plugin `name`, in any case. It looks at the disk. Raises: UnknownName with the plugins there are; ConfigError; OSError."""
    wanted = name.lower()
    seen: set[str] = set()
    for source in _files(folders):
        if source.name == wanted:
            return source
        seen.add(source.name)
    for entry in _entries():
        if entry.name.lower() == wanted:
            return _of(entry)
        seen.add(entry.name.lower())
    raise UnknownName(f"there is no plugin '{name}'", name, sorted(seen))


def bundled() -> list[str]:
    """Names of the plugins that come with pbal."""
    return sorted({source.name for source in _files(())})


def installed(folders: Sequence[Path]) -> list[str]:
    """Names of the plugins that can be loaded, those that come with pbal among them. It looks at the disk. Raises: OSError."""
    return sorted({source.name for source in _files(folders)} | {entry.name.lower() for entry in _entries()})


def _files(folders: Sequence[Path]) -> Iterator[Source]:
    for folder in (BUNDLED, *folders):
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            path = entry / "__init__.py" if entry.is_dir() else entry
            if path.suffix == ".py" and path.is_file() and not entry.name.startswith("_"):
                yield Source(entry.stem.lower(), path, *(("", __version__) if folder is BUNDLED else (str(folder), "")))


def _entries() -> Iterator[importlib.metadata.EntryPoint]:
    yield from importlib.metadata.entry_points(group=GROUP)


def _spec(name: str, path: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    """Where a module is, as `import` would find it, without importing it. A distribution that is installed to be edited has a finder."""
    for finder in list(sys.meta_path):
        find: Callable[..., importlib.machinery.ModuleSpec | None] | None = getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, path)
        if spec is not None:
            return spec
    return None


def _of(entry: importlib.metadata.EntryPoint) -> Source:
    """The file of an entry point. Raises: ConfigError if there is none."""
    path: list[str] | None = None
    origin = None
    parts = entry.module.split(".")
    for place in range(len(parts)):
        spec = _spec(".".join(parts[: place + 1]), path)
        origin = None if spec is None else spec.origin
        path = None if spec is None or spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if path is None and place + 1 < len(parts):
            origin = None
            break
    dist = entry.dist
    of = f"distribution {dist.name} {dist.version}" if dist is not None else "a distribution"
    if origin is None or not origin.endswith(".py"):
        raise ConfigError(f"plugin '{entry.name}' of {of} cannot be found: there is no module {entry.module}", about=entry.name)
    return Source(entry.name.lower(), Path(origin), "", dist.version if dist is not None else "")
