"""What the model refuses, in words for an operator. The console and the file runner add the place."""

from collections.abc import Iterable

from pbal.schema.kinds import BadValue, Key, Kind, Needed


class ConfigError(Exception):
    """A statement that cannot be carried out.

    `about` is the word at fault, and `span` where in it the fault is (0-based offsets, [start, end)); `candidates` is what the word might
    have meant. `needs` is the statement that has to come first. `against` is what it collides with, which may have been said elsewhere.
    """

    def __init__(
        self,
        message: str,
        about: str = "",
        candidates: Iterable[str] = (),
        *,
        kind: Kind = Kind.REFUSED,
        needs: Needed | None = None,
        against: Key = (),
        span: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.about = about
        self.candidates = tuple(candidates)
        self.kind = kind
        self.needs = needs
        self.against = against
        self.span = span


class UnknownName(ConfigError):
    """A service, pool, plugin, tunable or hook that does not exist."""

    def __init__(
        self, message: str, about: str = "", candidates: Iterable[str] = (), *, kind: Kind = Kind.UNKNOWN_NAME, needs: Needed | None = None
    ) -> None:
        super().__init__(message, about, candidates, kind=kind, needs=needs)


def bad_value(name: str, text: str, error: ValueError, candidates: Iterable[str] = ()) -> ConfigError:
    """What the type of the tunable `name` said of `text`, as a refusal."""
    span, instead = (error.span, error.instead) if isinstance(error, BadValue) else (None, ())
    ends = "; no ';' ends a statement" if text.endswith(";") else ""
    return ConfigError(f"{name}: {error}{ends}", about=text, candidates=instead or candidates, kind=Kind.BAD_VALUE, span=span)


class NotBuilt(ConfigError):
    """Perlbal has it, and pbal not yet. The message says what of pbal does the job."""

    def __init__(self, message: str, about: str) -> None:
        super().__init__(message, about, kind=Kind.NOT_BUILT_YET)


class AnswerRefused(RuntimeError):
    """An answer that comes when nothing is to be answered: a second one, a late one. Nothing was sent."""
