"""How long caches may keep something, in words: `1y immutable`, as CACHE and SET cache_control say it.

A duration stands for max-age, the directives of Cache-Control for themselves, those with a duration with an `=`, and `off` for none.

Source: RFC 9111 section 5.2.2.
"""

import re
from typing import Final

from pbal.schema.kinds import BadValue
from pbal.schema.types import Type

_SECONDS: Final = {"y": 31536000, "w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_SHOWN: Final = ("y", "d", "h", "m", "s")
_DURATION: Final = re.compile(r"([0-9]{1,10})([ywdhms])")
_WORD: Final = re.compile(r"\S+")
_PLAIN: Final = (
    "public", "private", "no-cache", "no-store", "no-transform", "must-revalidate", "proxy-revalidate", "must-understand", "immutable",
)  # fmt: skip
_TIMED: Final = ("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error")
_MOST: Final = 2147483648
"""Seconds. RFC 9111 section 1.2.2: what is more counts as this."""
_EXPECTED: Final = "a duration such as 10m or 1y, directives such as no-cache, immutable or s-maxage=1h, or off"


def _seconds(text: str) -> int:
    """Of a duration; -1 for what is none."""
    match = _DURATION.fullmatch(text)
    return -1 if match is None else min(int(match[1]) * _SECONDS[match[2]], _MOST)


def _shown(seconds: int) -> str:
    unit = next(unit for unit in _SHOWN if seconds % _SECONDS[unit] == 0) if seconds else "s"
    return f"{seconds // _SECONDS[unit]}{unit}"


def cache_words(said: str) -> str:
    """The words in their one form. Raises: BadValue, with the place of the word."""
    words: list[str] = []
    directives: dict[str, str] = {}
    for match in _WORD.finditer(said.replace(",", " ")):
        name, text = _directive(match)
        if name in directives or "off" in directives or (name == "off" and directives):
            raise BadValue(f"'{match[0]}' cannot stand with '{' '.join(words)}'", span=match.span())
        directives[name] = text
        words.append(_written(name, text))
    if not directives:
        raise BadValue(f"expected {_EXPECTED}, found {said!r}", expected=_EXPECTED)
    for one, other in (("public", "private"), ("no-store", "immutable"), ("no-store", "max-age"), ("no-cache", "immutable")):
        if one in directives and other in directives:
            place = said.lower().find(_written(other, directives[other]))
            raise BadValue(f"{_written(other, directives[other])} says the contrary of {one}", span=(max(place, 0), len(said)))
    return " ".join(words)


def cache_control(words: str) -> bytes:
    """What such words say in Cache-Control; b"" for off. Raises: BadValue."""
    directives = [_directive(match) for match in _WORD.finditer(words)]
    return ", ".join([name if text == "" else f"{name}={text}" for name, text in directives if name != "off"]).encode()


def _directive(match: re.Match[str]) -> tuple[str, str]:
    """The name of a directive, and its seconds as they are sent; "" where it has none. Raises: BadValue."""
    word = match[0].lower()
    seconds = _seconds(word)
    if seconds >= 0:
        return "max-age", str(seconds)
    if word in _PLAIN or word == "off":
        return word, ""
    name, equals, duration = word.partition("=")
    seconds = _seconds(duration if not duration.isdecimal() else f"{duration}s")
    if name in _TIMED and equals and seconds >= 0:
        return name, str(seconds)
    known = ("off", *_PLAIN, *(f"{timed}=1h" for timed in _TIMED))
    near = tuple(each for each in known if each[:4] == word[:4])
    raise BadValue(f"expected {_EXPECTED}, found {match[0]!r}", expected=_EXPECTED, span=match.span(), instead=near)


def _written(name: str, text: str) -> str:
    if text == "":
        return name
    return _shown(int(text)) if name == "max-age" else f"{name}={_shown(int(text))}"


CACHING: Type[str] = Type("caching", cache_words, choices=("off", "no-cache", "no-store", "10m", "1y immutable"))
