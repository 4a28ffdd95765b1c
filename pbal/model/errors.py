"""What the model refuses, in words for an operator. The console and the file runner add the place."""

from collections.abc import Iterable


class ConfigError(Exception):
    """A statement that cannot be carried out. `about` is the word at fault; `candidates` what it might have meant."""

    def __init__(self, message: str, about: str = "", candidates: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.about = about
        self.candidates = tuple(candidates)


class UnknownName(ConfigError):
    """A service, pool, plugin, tunable or hook that does not exist."""


class AnswerRefused(RuntimeError):
    """An answer that comes when nothing is to be answered: a second one, a late one. Nothing was sent."""
