"""A plugin as its files were at one moment: what a generation is made of, and what the one before can be made of again."""

from collections.abc import Mapping
from dataclasses import dataclass

Stamp = frozenset[tuple[str, int, int]]
"""Path, time of the last change and size of each file."""


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file that was read."""

    path: str
    package: bool
    """Whether it is the __init__.py of a package."""
    data: bytes
    stamp: tuple[str, int, int]
    """Its path, when it was changed last (nanoseconds), and its size."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The files of a plugin, and where they came from."""

    name: str
    path: str
    """Of its file; of a package, of that one's __init__.py."""
    folder: str
    """That of SERVER plugin_path in which it was found; "" elsewhere."""
    version: str
    """Of the distribution that it came with, or of pbal."""
    files: Mapping[str, HeldFile]
    """By the names of modules below the plugin's own, which is ""."""
    grammar: HeldFile | None
    """Its statements, where they are in a file beside it."""

    @property
    def stamp(self) -> Stamp:
        """What the files were."""
        files = [*self.files.values()] + ([] if self.grammar is None else [self.grammar])
        return frozenset(file.stamp for file in files)
