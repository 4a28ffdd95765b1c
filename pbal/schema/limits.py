"""Of every service that answers HTTP: the pages of errors. What a client may ask for is said by LIMIT (model/limiting.py)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pbal.schema.kinds import BadValue
from pbal.schema.tunables import Tunable
from pbal.schema.types import DIRECTORY, Type

LONGEST: Final = 65536
"""Octets of a page: it is kept in memory."""
_PAGE: Final = re.compile(r"(?:[45][0-9][0-9]|[45]xx|error)\.(?:html|json|txt)")
_MEANT: Final = re.compile(r"(?i).*\.(?:html?|json|txt)")
_PLACE: Final = re.compile(r"\{([a-z_-]+)\}")
_PLACES: Final = frozenset({"status", "reason", "message", "request_id"})


class ErrorPages:
    """A folder of pages, as it was read."""

    __slots__ = ("files", "path")

    def __init__(self, path: Path, files: Mapping[str, str]) -> None:
        self.path = path
        self.files = files

    def of(self, status: int, form: str) -> str | None:
        """The file for a status, in the form html, json or txt: its content, or None."""
        files = self.files
        for name in (f"{status}.{form}", f"{status // 100}xx.{form}", f"error.{form}"):
            if name in files:
                return files[name]
        return None


def read_pages(path: Path) -> ErrorPages:
    """Read the pages of a folder. Raises: ValueError for the operator."""
    expected = "a folder with pages such as 404.html, 5xx.html or error.json"
    files: dict[str, str] = {}
    try:
        for each in sorted(path.iterdir()):
            if _PAGE.fullmatch(each.name):
                files[each.name] = _read(each, expected)
    except OSError as error:
        raise BadValue(f"expected {expected}, but {error.filename or path} cannot be read: {error.strerror}", expected=expected) from None
    if not files:
        raise BadValue(f"expected {expected}, and there is none in {path}", expected=expected)
    return ErrorPages(path, files)


def _read(file: Path, expected: str) -> str:
    with file.open("rb") as opened:
        data = opened.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise BadValue(f"expected {expected}, each of at most {LONGEST} bytes; {file} is longer", expected=expected)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadValue(f"expected {expected}; {file} is no UTF-8", expected=expected) from None
    if file.suffix == ".json":
        try:
            json.loads(_PLACE.sub("1", text))
        except ValueError as error:
            raise BadValue(f"expected {expected}; {file} is no JSON: {error}", expected=expected) from None
    return text


def _parse(text: str) -> ErrorPages:
    return read_pages(DIRECTORY.parse(text))


def _odd(text: str) -> str:
    """Names that are nearly one, and places that nothing is put in."""
    path = DIRECTORY.parse(text)
    for file in sorted(path.iterdir()):
        if _MEANT.fullmatch(file.name) and not _PAGE.fullmatch(file.name):
            return f"{file} is not used: a page is called 404.html, 4xx.html or error.html, or .json or .txt"
    pages = read_pages(path)
    for name, content in sorted(pages.files.items()):
        for place in _PLACE.findall(content) if not name.endswith(".json") else ():
            if place not in _PLACES and place.replace("-", "_") in _PLACES | {"id", "requestid", "code"}:
                return f"{path / name}: nothing is put in for {{{place}}}; {{status}}, {{reason}}, {{message}} and {{request_id}} are known"
    return ""


ERROR_PAGES: Type[ErrorPages] = Type(
    "error pages", _parse, lambda pages: str(pages.path), placed=DIRECTORY.placed, odd=_odd, reads=lambda pages: (pages.path,)
)


def _statuses(text: str) -> frozenset[int]:
    """`404 500-504 5xx`."""
    expected = "none, or statuses of errors such as 404, 5xx or 502-504"
    found: set[int] = set()
    words = text.lower().replace(",", " ").split()
    if not words:
        raise BadValue(f"expected {expected}, found nothing", expected=expected)
    for word in words if words != ["none"] else ():
        match = _STATUSES.fullmatch(word)
        if match is None or (match[2] and match[2] < match[1]):
            raise BadValue(f"expected {expected}, found {word!r}", expected=expected)
        if word.endswith("xx"):
            found.update(range(int(word[0]) * 100, int(word[0]) * 100 + 100))
        else:
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def _render_statuses(statuses: frozenset[int]) -> str:
    """The shortest that means the same."""
    words: list[str] = []
    for hundred in (400, 500):
        every = range(hundred, hundred + 100)
        if statuses.issuperset(every):
            words.append(f"{hundred // 100}xx")
            continue
        rest = [status for status in every if status in statuses]
        while rest:
            run = 1
            while run < len(rest) and rest[run] == rest[0] + run:
                run += 1
            words += [f"{rest[0]}-{rest[run - 1]}"] if run > 2 else [str(status) for status in rest[:run]]
            rest = rest[run:]
    return " ".join(words) or "none"


_STATUSES: Final = re.compile(r"([45][0-9]{2})(?:-([45][0-9]{2}))?|[45]xx")
STATUSES: Type[frozenset[int]] = Type("error statuses", _statuses, _render_statuses, ("none",))

INTERCEPT: tuple[Tunable, ...] = (
    Tunable(
        "error_page_intercept",
        STATUSES,
        default="none",
        summary="Errors of nodes in whose place clients get pbal's error: a page of error_pages, or pbal's own.",
        source="pbal",
    ),
)
"""Of a reverse_proxy."""

LIMITS: tuple[Tunable, ...] = (
    Tunable(
        "error_pages",
        ERROR_PAGES,
        summary="Folder of the pages that clients get with errors of pbal's own, in place of pbal's. See ERROR PAGES.",
        source="pbal",
    ),
)
