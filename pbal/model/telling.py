"""What plugins say of themselves when somebody looks at the configuration: their statements, and where they hand requests to.

A plugin may fail at it, or say what is none. Whoever changes something by what it says is refused then; whoever only shows it shows why it
is missing.
"""

from collections.abc import Callable, Iterable
from typing import Any

from pbal.model import faults
from pbal.model.chained import Chained
from pbal.model.errors import ConfigError
from pbal.model.plugin import Plugin


def statements(service: Chained, name: str, plugin: Plugin) -> tuple[str, ...]:
    """What its dumpconfig() returns. Raises: ConfigError, after the fault is reported."""
    said: list[str] = []
    faults.asked(service.world, name, _statements_of, plugin, said, name="dumpconfig")
    return tuple(said)


def statements_or_why(service: Chained, name: str, plugin: Plugin) -> tuple[str, ...]:
    """The same, or a comment that says why they are missing."""
    try:
        return statements(service, name, plugin)
    except ConfigError as error:
        return (f"# {' '.join(error.message.splitlines())}: its statements are missing here",)


def every_statement(service: Chained) -> list[tuple[str, Plugin, str]]:
    """The statements of a service's plugins, in order: whose each is, and the statement. Raises: ConfigError."""
    return [(name, plugin, line) for name, plugin in service.plugins for line in statements(service, name, plugin)]


def drop(service: Chained, name: str, plugin: Plugin, statement: str) -> None:
    """Have a plugin take one of its statements back. Raises: ConfigError."""
    faults.asked(service.world, name, plugin.drop_rule, statement)


def restoring(service: Chained, name: str, plugin: Plugin) -> Callable[[], None]:
    """What makes a plugin again what it is now. Raises: ConfigError where it does not say what that is."""
    held: list[Any] = []

    def carry() -> None:
        held.append(plugin.carry())

    def adopt() -> None:
        plugin.adopt(held[0])

    faults.asked(service.world, name, carry)
    return adopt


def targets(service: Chained, name: str, plugin: Plugin) -> tuple[str, ...] | None:
    """The services that it may hand requests to; None where it cannot say, or fails at it."""
    found: list[tuple[str, ...] | None] = []

    def targets() -> None:
        found.append(_targets_of(plugin))

    return found[0] if faults.guarded(service.world, name, targets) else None


def _statements_of(plugin: Plugin, said: list[str]) -> None:
    told: object = plugin.dumpconfig()
    if isinstance(told, str) or not isinstance(told, Iterable):
        raise TypeError(f"it returned {faults.shown(told)}, not a tuple of statements")
    for each in told:
        if not isinstance(each, str) or len(each.splitlines()) != 1 or not each.strip():
            raise TypeError(f"it returned {faults.shown(each)} among its statements, not a text of one line")
        said.append(each)


def _targets_of(plugin: Plugin) -> tuple[str, ...] | None:
    told: object = plugin.targets()
    if told is None:
        return None
    names = () if isinstance(told, str) or not isinstance(told, Iterable) else tuple(told)
    if isinstance(told, str) or not isinstance(told, Iterable) or not all(isinstance(each, str) for each in names):
        raise TypeError(f"it returned {faults.shown(told)}, not a tuple of names")
    return names
