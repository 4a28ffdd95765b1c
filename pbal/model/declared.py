"""What a plugin declares as attributes of its class: each is what it is meant to be, or the plugin is refused in words.

A name that no statement could say, a counter that is another's, a handler that does not take what its statement has: such would load in
silence and never act, or spoil what others count.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from inspect import iscoroutinefunction
from types import FunctionType
from typing import TypeVar

from pbal.model import faults
from pbal.model.errors import ConfigError
from pbal.model.plugin import Plugin
from pbal.observe.counters import Counter
from pbal.schema.roles import ROLES
from pbal.schema.tunables import Tunable
from pbal.schema.types import Type

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FORBIDDEN = re.compile(r"^[ \t]*%(?:override|ignore)\b.*", re.MULTILINE)
_EXTENDED = re.compile(r"^[ \t]*%extend[ \t]+(?!(?:statement|query)[ \t]*:).*", re.MULTILINE)


def check_declarations(plugin_class: type[Plugin], own_roles: Collection[str]) -> None:
    """Look at all of them. `own_roles`: those that the plugin brings. Raises: ConfigError with the attribute and what would do."""
    names: set[str] = set()
    for tunable in _several(plugin_class, "tunables", Tunable, "(Tunable(NAME, TYPE, default=TEXT),)"):
        _check_name("tunable", tunable.name, names)
        _check_tunable(tunable, own_roles)
    _check_counters(plugin_class)
    for function in _several(plugin_class, "commands", FunctionType, "(FUNCTION,), functions of the module"):
        code = function.__code__
        if code.co_argcount < 1:
            raise ConfigError(f"the handler {function.__name__} takes nothing: write def {function.__name__}(session)", about="commands")
    for name in ("guards", "guards_by_credentials", "ordered_rules"):
        if not isinstance(getattr(plugin_class, name), bool):
            raise ConfigError(f"{name} is {faults.shown(getattr(plugin_class, name))}: it is True or False", about=name)
    needs: object = plugin_class.needs
    if not isinstance(needs, Mapping) or not all(isinstance(each, str) and each for pair in needs.items() for each in pair):
        raise ConfigError(f'needs is {faults.shown(needs)}: write {{"MODULE": "what to install"}}', about="needs")
    version: object = plugin_class.version
    if not isinstance(version, str) or len(version.split()) > 1:
        raise ConfigError(f"version is {faults.shown(version)}: it is a text without blanks", about="version")
    _check_grammar(plugin_class)


def _check_counters(plugin_class: type[Plugin]) -> None:
    """Raises: ConfigError for a counter whose name or labels /metrics could not have."""
    names: set[str] = set()
    for counter in _several(plugin_class, "counters", Counter, "(Counter(NAME, SUMMARY),)"):
        _check_name("counter", counter.name, names)
        if counter.name.endswith("_total"):
            raise ConfigError(f"counter '{counter.name}': /metrics adds _total to the name: leave it out", about=counter.name)
        if not isinstance(counter.labels, tuple) or not all(map(_is_name, counter.labels)):
            raise ConfigError(f"counter '{counter.name}': labels is {faults.shown(counter.labels)}: write (\"NAME\",)", about=counter.name)


def check_fragment(text: str) -> None:
    """Refuse a grammar fragment that would change the statements of others. Raises: ConfigError with the line."""
    for pattern in (_FORBIDDEN, _EXTENDED):
        found = pattern.search(text)
        if found:
            raise ConfigError(f"its grammar says '{found[0].strip()}': a fragment adds with '%extend statement:' or '%extend query:' alone")


def _check_grammar(plugin_class: type[Plugin]) -> None:
    grammar: object = plugin_class.grammar
    if not isinstance(grammar, str):
        raise ConfigError(f"grammar is {faults.shown(grammar)}: it is a text", about="grammar")


def _several(plugin_class: type[Plugin], attribute: str, kind: type[T], example: str) -> Iterator[T]:
    """The things that an attribute holds. Raises: ConfigError if it is no tuple of them."""
    said: object = getattr(plugin_class, attribute)
    if not isinstance(said, tuple | list):
        raise ConfigError(f"{attribute} is {faults.shown(said)}: write {attribute} = {example}", about=attribute)
    for each in said:
        if not isinstance(each, kind):
            raise ConfigError(f"{attribute} has {faults.shown(each)} in it: write {attribute} = {example}", about=attribute)
        yield each


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _check_name(what: str, name: object, names: set[str]) -> None:
    """Raises: ConfigError for what is no name, or is there already."""
    if not isinstance(name, str) or not _is_name(name):
        raise ConfigError(f"{what} {faults.shown(name)}: a name has lower-case letters, digits and '_', and begins with a letter")
    if name in names:
        raise ConfigError(f"{what} '{name}' is declared twice", about=name)
    names.add(name)


def _check_tunable(tunable: Tunable, own_roles: Collection[str]) -> None:
    """Raises: ConfigError for a type that is none, a role that is none, and for bounds and defaults that its type does not take."""
    name = tunable.name
    if not isinstance(tunable.type, Type):
        raise ConfigError(f"tunable '{name}' has the type {faults.shown(tunable.type)}: write one of pbal.api, such as INT", about=name)
    if tunable.reads is not None and (not callable(tunable.reads) or iscoroutinefunction(tunable.reads)):
        raise ConfigError(f"tunable '{name}': reads is {faults.shown(tunable.reads)}: write a plain function", about=name)
    roles: object = tunable.roles
    if not isinstance(roles, set | frozenset | tuple | list):
        raise ConfigError(f"tunable '{name}': roles is {faults.shown(roles)}: write frozenset({{ROLE}})", about=name)
    for role in roles:
        if role not in ROLES and role not in own_roles:
            raise ConfigError(
                f"tunable '{name}': roles names {faults.shown(role)}; roles are {', '.join((*ROLES, *own_roles))}", about=name
            )
    for what in ("minimum", "maximum", "floor", "default", "perlbal"):
        text: object = getattr(tunable, what)
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"tunable '{name}': {what} is {faults.shown(text)}: it is a text, such as \"10\"", about=name)
        try:
            if text is not None:
                (tunable.parse if what in ("default", "perlbal") else tunable.type.parse)(text)
        except ValueError as error:
            raise ConfigError(f"tunable '{name}': {what} is {faults.shown(text)}: {error}", about=name) from None
