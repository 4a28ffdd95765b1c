"""What is wrong with a statement, as kinds: whoever has to decide something about a diagnosis asks its kind, never its words.

Three errors carry a kind: `schema.commands.CommandError` (a handler refuses), `model.errors.ConfigError` (the model does) and
`lang.mistakes.Mistake`, which the other two become when their place is known. Texts, colours and JSON are made from a Mistake.
"""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What kind of mistake it is. The values are what JSON says."""

    SYNTAX = "syntax"
    """The statement is known, its words are not in order; or the line is no text."""
    UNKNOWN_STATEMENT = "unknown-statement"
    UNKNOWN_NAME = "unknown-name"
    """Of a service, pool, node, plugin, hook, variable or file of the configuration."""
    UNKNOWN_TUNABLE = "unknown-tunable"
    BAD_VALUE = "bad-value"
    EXISTS_ALREADY = "exists-already"
    CONFLICT = "conflict"
    """Two things that are right by themselves and not together."""
    NOT_BUILT_YET = "not-built-yet"
    """Perlbal has it, and pbal will."""
    NEEDS_OTHER_FIRST = "needs-other-first"
    """Something else has to be said before; see Needed."""
    SYSTEM = "system"
    """The operating system refuses: a port, a file, a right."""
    PLUGIN = "plugin"
    """A fault in the code of a plugin."""
    REFUSED = "refused"
    """Whatever has no kind of its own."""


class Severity(Enum):
    """Whether a diagnosis refuses the statement (ERROR), or is said and the statement carried out (WARNING)."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Needed:
    """The statement that has to come before: its rule, and the name in it. Needed("load", "vhosts"), Needed("set", "role")."""

    rule: str
    name: str


Key = tuple[str, ...]
"""What was said and may be collided with, by names in lower case: ("service", NAME), ("pool", NAME), ("plugin", NAME),
("set", OBJECT, TUNABLE), ("default", TUNABLE), ("server", TUNABLE), ("enable", SERVICE)."""


class BadValue(ValueError):
    """A text that is no value of its type: what was expected, what was found, and where in the text it is wrong.

    `span` holds 0-based offsets [start, end) into the text that was parsed, None for all of it. `instead` are texts that would do.
    """

    def __init__(self, message: str, *, expected: str = "", span: tuple[int, int] | None = None, instead: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.expected = expected
        self.span = span
        self.instead = instead
