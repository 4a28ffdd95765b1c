"""`pbal fmt`: a configuration in canonical form. What it means stays, and so do its comments.

    key words         in upper case, as the manual writes them
    between words     one blank; `=` with one on each side, `:` with one behind it, `.` with none
    arguments         as they were written, variables included; quotes only where they are needed
    lines             two blanks before what belongs to an object, none before what makes one, enables it, or belongs to none
    comments          two blanks behind a statement; on a line of their own they stand as the next statement does
    empty lines       one at a time, none at the beginning and none at the end

No variable is looked up, no file is read and no plugin is imported: formatting does not depend on where it is done. So the statements of a
plugin that does not come with pbal are not known. In a file that loads one, what is no statement is taken for one of its own, and keeps its
words. A file with a mistake in its syntax is told of and left alone.
"""

import argparse
import codecs
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pbal.checking import tell

if TYPE_CHECKING:
    from pbal.lang.mistakes import Mistake
    from pbal.lang.parser import Word

_BELONGING = frozenset({"set", "unset", "vhost", "vpath"})
"""Statements that mean the current object where they name none."""
_NAMES = ("object_name", "owner_name", "selector_name")
_OF_AN_OBJECT = {
    "pool_add": "pool_name", "pool_remove": "pool_name", "header_insert": "service_name", "header_remove": "service_name",
    "header_set": "service_name", "header_add": "service_name", "header_drop": "service_name", "route": "service_name",
    "rewrite": "service_name", "cache": "service_name", "limit": "service_name", "limit_dry_run": "service_name",
}  # fmt: skip


class Refused(Exception):
    """A text with mistakes."""

    def __init__(self, mistakes: "list[Mistake]") -> None:
        super().__init__(f"{len(mistakes)} mistakes")
        self.mistakes = mistakes


@dataclass(slots=True)
class _Line:
    """One line of the answer, still without its indentation."""

    code: str
    comment: str
    inside: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after `pbal fmt`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a configuration; - is standard input")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-i", "--write", action="store_true", help="write into the files instead of to standard output")
    how.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file would be changed")


def run(options: argparse.Namespace) -> int:
    """Format files. Exit status: 0, 1 for mistakes (with --check: or changes), 2 for a file that cannot be read or written."""
    return max(_format_one(name, options.write, options.check) for name in options.files)


def _format_one(name: str, write: bool, check: bool) -> int:
    from pbal.commands.files import divided
    from pbal.commands.saving import write as write_files
    from pbal.model.errors import ConfigError

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
        made = formatted(text, name)
        changed = made.encode("utf-8") != data
        if check:
            if changed:
                print(f"{name}: would be changed")
            return int(changed)
        if not write or name == "-":
            sys.stdout.write(made)
        elif changed:
            write_files({Path(name): made.encode()}, {Path(name): divided(data)})
    except Refused as refused:
        tell(refused.mistakes)
        return 1
    except OSError as error:
        print(f"pbal: {name}: {error.strerror or error}", file=sys.stderr)
        return 2
    except ConfigError as error:
        print(f"pbal: {error.message}", file=sys.stderr)
        return 2
    return 0


def formatted(text: str, name: str = "") -> str:
    """The canonical form of a configuration called `name`. Raises: Refused."""
    lines = _Formatter(name).lines(text.split("\n"))
    shown: list[str] = []
    for line, inside in zip(lines, _indented(lines), strict=True):
        if line.code or line.comment:
            shown.append("  " * inside + "  ".join(part for part in (line.code, line.comment) if part))
        elif shown and shown[-1]:
            shown.append("")
    while shown and not shown[-1]:
        shown.pop()
    return "".join(f"{line}\n" for line in shown)


def _indented(lines: "list[_Line]") -> list[bool]:
    """Whether each line is inside an object. A comment stands as the next statement does."""
    found: list[bool] = []
    following = False
    for line in reversed(lines):
        following = line.inside if line.code else following
        found.append(following)
    return found[::-1]


class _Formatter:
    """One text, from its first line to its last."""

    def __init__(self, name: str) -> None:
        from pbal.lang.parser import bundled_fragments, language_of

        self._name = name
        self._language = language_of(bundled_fragments())
        self._bundled = frozenset(bundled_fragments())
        self._current = ""
        """The object that SET means, in lower case."""
        self._strangers = False
        """Whether a plugin was loaded whose statements may be any."""
        self._mistakes: list[Mistake] = []

    def lines(self, lines: Iterable[str]) -> list[_Line]:
        """Each line, or what is left of it. Raises: Refused with all mistakes."""
        found = [self._line(number, line.rstrip("\r")) for number, line in enumerate(lines, 1)]
        if self._mistakes:
            raise Refused(self._mistakes)
        return found

    def _line(self, number: int, source: str) -> _Line:
        from pbal.lang.lexical import comment_start, refuse_control_characters
        from pbal.lang.mistakes import Mistake
        from pbal.schema.kinds import Kind

        start = comment_start(source)
        code, comment = source[:start].rstrip(" \t"), source[start:].rstrip(" \t")
        try:
            refuse_control_characters(source)
            if not code.strip(" \t"):
                return _Line("", comment, False)
            rule, words = self._language.dissect(code)
        except Mistake as mistake:
            if self._strangers and mistake.kind is Kind.UNKNOWN_STATEMENT:
                return _Line(code.strip(" \t"), comment, bool(self._current))
            mistake.file, mistake.line, mistake.source = self._name, number, source
            self._mistakes.append(mistake)
            return _Line("", "", False)
        return _Line(self._canonical(rule, words), comment, self._belongs(rule, words))

    def _canonical(self, rule: str, words: "list[Word]") -> str:
        bare = _joined((word.kind, _unquoted(word)) for word in words)
        quoted = _joined((word.kind, word.text) for word in words)
        return bare if bare != quoted and self._same(bare, rule, words) else quoted

    def _same(self, code: str, rule: str, words: "list[Word]") -> bool:
        """Whether a text without some quotes is still the same statement."""
        from pbal.lang.lexical import comment_start
        from pbal.lang.mistakes import Mistake

        try:
            other, others = self._language.dissect(code)
        except Mistake:
            return False
        if comment_start(code) != len(code) or other != rule or len(others) != len(words):
            return False
        return all(one.kind == two.kind and _meant(one) == _meant(two) for one, two in zip(words, others, strict=True))

    def _belongs(self, rule: str, words: "list[Word]") -> bool:
        """Whether a statement is inside the current object; and which is the current one after it."""
        said = {word.kind: _meant(word).lower() for word in words if word.kind}
        if rule in ("create_service", "create_pool", "use"):
            self._current = said.get("new_name") or said.get("object_name") or ""
            return False
        if rule == "load":
            self._strangers = self._strangers or not self._is_bundled(said["plugin_name"])
        if rule in _OF_AN_OBJECT:
            return bool(self._current) and said[_OF_AN_OBJECT[rule]] == self._current
        if rule not in _BELONGING or not self._current:
            return False
        named = next((said[kind] for kind in _NAMES if kind in said), self._current)
        return named == self._current

    def _is_bundled(self, plugin: str) -> bool:
        from pbal.sources import BUNDLED

        return plugin in self._bundled or (BUNDLED / f"{plugin}.py").is_file() or (BUNDLED / plugin).is_dir()


def _joined(words: Iterable[tuple[str, str]]) -> str:
    """Words with the blanks that stand between them."""
    text, tight = "", True
    for kind, word in words:
        sign = "" if kind else word
        text += word if tight or sign in (".", ":") else f" {word}"
        tight = sign == "."
    return text


def _unquoted(word: "Word") -> str:
    """An argument without quotes that it does not need, as far as it shows by itself."""
    from pbal.lang.expand import masked
    from pbal.lang.lexical import escaped, quoted, quoted_word

    if not word.kind or not word.text.startswith('"') or masked(word.text).pieces or word.kind == "files":
        return word.text
    text = _meant(word)
    return escaped(quoted(text) if word.last else quoted_word(text))


def _meant(word: "Word") -> str:
    """What the text of a word stands for, variables as they are."""
    from pbal.lang.expand import expand, masked
    from pbal.lang.lexical import unquoted

    if not word.kind or word.kind == "files":
        return word.text
    return unquoted(word.text if masked(word.text).pieces else expand(word.text, {}).text)
