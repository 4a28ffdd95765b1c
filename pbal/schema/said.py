"""Texts that hold what nobody should read: made from ${env:NAME} or ${file:PATH}, and shown as they were written.

A `Said` is a str whose content is the value, so that types, models and plugins take it as any other text; `written` is the argument as
it stands in its file, quotes included, and reads back to the same. Whoever shows a text to people asks `shown`, whoever writes a
statement asks `lang.lexical.written`. A `Hidden` stands for it in a Config (config/spec.py): its content is what was written, and a
digest tells two values apart without telling either.
"""

import hashlib
import os

_KEY = os.urandom(32)
"""Of this process: a digest that leaks tells nothing about a weak secret."""


class Said(str):
    """A value with the words in which it was said."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, value: str, written: str) -> "Said":
        """`written` is the source of the argument, with its quotes if it has them."""
        made = super().__new__(cls, value)
        made.written = written
        return made


class Hidden(str):
    """What was written, in place of its value. Two are equal if the words and the values are."""

    __slots__ = ("digest",)
    digest: bytes

    def __new__(cls, written: str, value: str) -> "Hidden":
        """`value` is digested, not kept."""
        made = super().__new__(cls, written)
        made.digest = hashlib.blake2b(value.encode("utf-8", "surrogateescape"), key=_KEY, digest_size=16).digest()
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and str.__eq__(self, other) and self.digest == other.digest

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((str(self), self.digest))


def shown(text: str) -> str:
    """A text for people: as it was written where it holds what is not for them."""
    return text.written if isinstance(text, Said) else text


def hidden(text: str, value: str) -> str:
    """For a Config: `value`, the canonical form of `text`; or, where `text` was made from variables, what stands for it."""
    return Hidden(text.written, value) if isinstance(text, Said) else value
