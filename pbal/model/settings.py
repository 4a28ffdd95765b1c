"""What may be SET, and what holds where nothing was: tunables of services with their defaults, and tunables of the process.

The default of a tunable is what DEFAULT says; else what is in force in place of the declared one (SERVER compatible); else what its
declaration says.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pbal.model.change import BeginChange, restore
from pbal.model.errors import ConfigError, NotBuilt, UnknownName, bad_value
from pbal.schema import perlbal
from pbal.schema.kinds import Kind
from pbal.schema.pools import owner
from pbal.schema.roles import CORE
from pbal.schema.tunables import SERVER, Applies, Tunable

_OF_ONE = frozenset({"role", "listen", "plugins", "pool", "default_service"})
"""Tunables that have no default, since they belong to one service."""


def asks_for_nothing(table: Mapping[str, perlbal.Unbuilt], name: str, text: str) -> bool:
    """Whether a name is Perlbal's, not built yet, and the text its default there.

    Raises: NotBuilt for another text, ConfigError for one that Perlbal would refuse.
    """
    row = table.get(name.lower())
    if row is None:
        return False
    try:
        if row.asks_for_nothing(text):
            return True
    except ValueError as error:
        raise bad_value(name, text, error, row.type.choices) from None
    raise NotBuilt(row.message, about=name)


class Defaults:
    """Tunables of services, and what they are where nothing is SET."""

    def __init__(self, changing: BeginChange) -> None:
        self._changing = changing
        self.tunables: dict[str, Tunable] = {tunable.name: tunable for tunable in CORE}
        self.said: dict[str, str] = {}
        """What DEFAULT says, for services made later."""
        self.standards: dict[str, str] = {}
        """Defaults in force in place of the declared ones: with SERVER compatible = perlbal, those of Perlbal."""
        self._parsed: dict[str, tuple[Tunable, str, Any]] = {}
        self._fresh: tuple[object, dict[str, Any]] = (None, {})

    def reading(self) -> list[Tunable]:
        """Those that name files which are read ahead."""
        return [tunable for tunable in self.tunables.values() if tunable.reads is not None]

    def set(self, name: str, text: str) -> None:
        """DEFAULT. Raises: UnknownName, ConfigError."""
        if name.lower() not in self.tunables and asks_for_nothing(perlbal.SERVICE, name, text):
            return
        tunable = self._tunable(name)
        if tunable.name in _OF_ONE:
            raise ConfigError(f"'{name}' can have no default: it belongs to one service", about=name, kind=Kind.CONFLICT)
        try:
            tunable.parse(text)
        except ValueError as error:
            raise bad_value(name, text, error, tunable.type.choices) from None
        with self._changing() as change:
            change.undo(restore, self.said, dict(self.said))
            self.said[tunable.name] = text

    def unset(self, name: str) -> None:
        """Services made later have pbal's own default again. Raises: UnknownName, ConfigError if no DEFAULT was said."""
        tunable = self._tunable(name)
        if tunable.name not in self.said:
            raise ConfigError(f"there is no DEFAULT {tunable.name}", about=name)
        with self._changing() as change:
            change.undo(restore, self.said, dict(self.said))
            del self.said[tunable.name]

    def _tunable(self, name: str) -> Tunable:
        tunable = self.tunables.get(name.lower())
        if tunable is None:
            elsewhere = owner(name)
            raise UnknownName(f"'{name}' is not a tunable of services{elsewhere}", name, self.tunables, kind=Kind.UNKNOWN_TUNABLE)
        return tunable

    def standard(self, tunable: Tunable) -> str | None:
        """The default of a tunable that is in force, unless DEFAULT says another. None: it is unset."""
        return self.standards.get(tunable.name, tunable.default)

    def parsed(self, tunable: Tunable, text: str) -> Any:
        """The value of a default; a thousand services have the same. Raises: ValueError for the operator."""
        known = self._parsed.get(tunable.name)
        if known is None or known[0] is not tunable or known[1] != text:
            known = self._parsed[tunable.name] = (tunable, text, tunable.parse(text))
        return known[2]

    def fresh_values(self) -> dict[str, Any]:
        """What the tunables of a new service are: a thousand services begin with the same."""
        key = (tuple(self.tunables.values()), dict(self.said), dict(self.standards))
        if self._fresh[0] != key:
            texts = ((each, self.said.get(each.name, self.standard(each))) for each in self.tunables.values())
            self._fresh = (key, {each.name: None if text is None else self.parsed(each, text) for each, text in texts})
        return dict(self._fresh[1])


class ProcessSettings:
    """Tunables of the process, and what they are."""

    def __init__(
        self,
        changing: BeginChange,
        defaults: Defaults,
        live: Callable[[], bool],
        use: Callable[[str, Any], None],
        told: Callable[[str], None],
    ) -> None:
        self._changing = changing
        self._live = live
        """Whether the process runs: some tunables cannot be changed any more."""
        self._defaults = defaults
        self._use = use
        self._told = told
        self.tunables: dict[str, Tunable] = {tunable.name: tunable for tunable in SERVER}
        self.values: dict[str, Any] = {each.name: None if each.default is None else each.parse(each.default) for each in SERVER}
        self.explicit: dict[str, str] = {}
        """What was SET, in the words in which it was said."""

    def set(self, name: str, text: str) -> None:
        """SERVER. Raises: UnknownName, ConfigError."""
        tunable = self._tunable(name)
        try:
            value = tunable.parse(text)
        except ValueError as error:
            raise bad_value(name, text, error, tunable.type.choices) from None
        self._put(tunable, value, text)

    def unset(self, name: str) -> None:
        """A tunable of the process has its default again. Raises: UnknownName, ConfigError."""
        tunable = self._tunable(name)
        if tunable.name not in self.explicit:
            raise ConfigError(f"SERVER {tunable.name} was not set", about=name)
        default = self._defaults.standard(tunable)
        self._put(tunable, None if default is None else tunable.parse(default), None)

    def _tunable(self, name: str) -> Tunable:
        tunable = self.tunables.get(name.lower()) or self._of_one(name.lower())
        if tunable is None:
            candidates = (*self.tunables, *perlbal.MEANINGLESS)
            elsewhere = owner(name, self._defaults.tunables)
            message = f"'{name}' is not a tunable of SERVER{elsewhere}"
            raise UnknownName(message, name, () if elsewhere else candidates, kind=Kind.UNKNOWN_TUNABLE)
        return tunable

    def _of_one(self, name: str) -> Tunable | None:
        """The tunable of one thing alone, as in max_reproxy_connections(HOST:PORT). Raises: ConfigError if that is no such thing."""
        base, _, about = name.partition("(")
        tunable = self.tunables.get(base)
        if tunable is None or tunable.each is None or not about.endswith(")"):
            return None
        try:
            about = tunable.each.render(tunable.each.parse(about[:-1]))
        except ValueError as error:
            raise bad_value(name, about[:-1], error, ()) from None
        made = replace(tunable, name=f"{base}({about})", each=None)
        self.values.setdefault(made.name, None if made.default is None else made.parse(made.default))
        return self.tunables.setdefault(made.name, made)

    def _put(self, tunable: Tunable, value: Any, text: str | None) -> None:
        name = tunable.name
        before = self.values[name]
        if tunable.applies is Applies.START and self._live() and value != before:
            raise ConfigError(f"{name} cannot be changed while pbal runs: change it in the file, and start pbal anew", about=name)
        with self._changing() as change:
            if name == "compatible":
                change.then(self._use_standards, value == "perlbal")
            change.undo(restore, self.explicit, dict(self.explicit))
            self._use(name, value)
            change.undo(self._use, name, before)
            change.undo(self._told, name)  # when the value is back
            change.undo(self.values.__setitem__, name, before)
            self.values[name] = value
            if text is None:
                self.explicit.pop(name, None)
            else:
                self.explicit[name] = text
            self._told(name)

    def _use_standards(self, perlbals: bool) -> None:
        """Put Perlbal's defaults in force, or the declared ones again."""
        every = (*self._defaults.tunables.values(), *self.tunables.values())
        self._defaults.standards = {each.name: each.perlbal for each in every if perlbals and each.perlbal is not None}
        for each in self.tunables.values():
            if each.name not in self.explicit:
                text = self._defaults.standard(each)
                self.values[each.name] = None if text is None else each.parse(text)

    def place_standards(self, folder: Path) -> None:
        """Make relative paths among the defaults begin at a folder: that of the file which put them in force."""
        standards = self._defaults.standards
        for name, text in standards.items():
            known = self._defaults.tunables.get(name) or self.tunables[name]
            standards[name] = known.type.placed(text, folder)
