"""The words of the language, as the declarations have them."""

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pbal import sources
from pbal.commands.interpreter import Interpreter
from pbal.importing import forget, take
from pbal.loader import make
from pbal.model.world import World
from pbal.schema.pools import POOL

_KEY_WORD = re.compile(r"[A-Z][A-Z_]*")


@dataclass(frozen=True)
class Words:
    """Key words are in upper case, names as they are declared. All are sorted."""

    statements: tuple[str, ...]
    """The key words that a statement begins with: 'SHOW POOL'."""
    inner: tuple[str, ...]
    """Key words that stand behind an argument."""
    tunables: tuple[str, ...]
    values: tuple[str, ...]
    """Words that are a value of some tunable."""
    help: Mapping[str, str]
    """What a statement does, where only one begins so."""


def words() -> Words:
    """Those of the core and of every plugin that comes with pbal."""
    world = World()
    interpreter = Interpreter(world)
    made = {name: make(take(sources.find(name, ())), 1) for name in sources.bundled()}  # also one that needs what is not installed
    world.lent = made
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("".join(f"LOAD {name}\n" for name in sources.bundled()))
        file.flush()
        mistakes = interpreter.run_file(file.name)
    assert not mistakes, mistakes
    for loaded in made.values():
        forget(loaded.module)
    language = interpreter.language
    beginnings: dict[str, set[str]] = {}
    inner = {"AS", "JSON"}
    for rule in language.rules:
        for usage in language.syntax(rule).split(" | "):
            first, rest = _divided(re.sub(r"[][()]", "", usage).split())
            if first:
                beginnings.setdefault(" ".join(first), set()).add(rule)
            inner.update(rest)
    declared = [*world.tunables.values(), *world.server_tunables.values(), *POOL]
    return Words(
        statements=tuple(sorted(beginnings)),
        inner=tuple(sorted(inner)),
        tunables=tuple(sorted({tunable.name for tunable in declared} | _dotted(world))),
        values=tuple(sorted({choice for tunable in declared for choice in tunable.type.complete()})),
        help={said: interpreter.registry.help_for(*rules)[0] for said, rules in beginnings.items() if len(rules) == 1},
    )


def _dotted(world: World) -> set[str]:
    """Tunables of plugins, as Perlbal says them: highpri.uri_pattern. (In an expression of an editor, the dot is any one character.)"""
    found = set()
    for name, loaded in world.plugins.items():
        for tunable in loaded.plugin_class.tunables:
            if tunable.name.startswith(f"{name}_"):
                found.add(f"{name}.{tunable.name.removeprefix(f'{name}_')}")
    return found


def _divided(usage: list[str]) -> tuple[list[str], list[str]]:
    """The key words at the beginning, and those behind an argument."""
    first = 0
    while first < len(usage) and _KEY_WORD.fullmatch(usage[first]):
        first += 1
    return usage[:first], [word for word in usage[first:] if _KEY_WORD.fullmatch(word)]


def longest_first(words: Iterable[str]) -> list[str]:
    """In the order for a pattern that takes the first that fits."""
    return sorted(words, key=lambda word: (-len(word), word))
