"""A grammar for TextMate, and for what reads the same: VS Code, Sublime Text, Linguist. Its patterns are Oniguruma's."""

import json
from collections.abc import Iterable
from typing import Any, Final

from pbal.editors.words import Words, longest_first

_END: Final = r"$|(?=\s#)"
_STATEMENT: Final = "keyword.control.pbal"
_KEYWORD: Final = "keyword.other.pbal"
_TUNABLE: Final = "support.type.property-name.pbal"
_OPERATOR: Final = "keyword.operator.pbal"
_ESCAPE: Final = "constant.character.escape.pbal"
_BLANKS: Final = r"[ \t]+"


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(word.replace(" ", _BLANKS) for word in longest_first(words))


def _named(*names: str) -> dict[str, dict[str, str]]:
    """Captures, from the first on."""
    return {str(number): {"name": name} for number, name in enumerate(names, 1)}


def _included(*names: str) -> list[dict[str, str]]:
    return [{"include": f"#{name}"} for name in names]


def grammar(known: Words, made: str) -> str:
    """The whole file."""
    assigning = sorted({statement.split()[0] for statement in known.statements})
    repository: dict[str, Any] = {
        "comment": {"match": r"(?:^|(?<=[ \t]))#.*$", "name": "comment.line.number-sign.pbal"},
        "string": {
            "begin": '"',
            "end": r'"|$',
            "name": "string.quoted.double.pbal",
            "patterns": [{"match": r'\\["\\$]', "name": _ESCAPE}, *_included("variable")],
        },
        "variable": {
            "patterns": [
                {"match": r"\$\$(?=[\w{])", "name": _ESCAPE},
                {"match": r"\$(?:\w+|\{\w[^}]*\})", "name": "variable.other.pbal"},
            ]
        },
        "number": {"match": r"(?i)(?<![^\s,=])[0-9]+(?:\.[0-9]+)?(?:ms|[smhkgb])?(?![^\s,])", "name": "constant.numeric.pbal"},
        "choice": {"match": rf"(?i)(?<![^\s,=])(?:{_alternatives(known.values)})(?![^\s,])", "name": "constant.language.pbal"},
        "tunable": {"match": rf"(?i)(?<![\w-])(?:{_alternatives(known.tunables)})$", "name": _TUNABLE},
        "keyword": {"match": rf"(?i)(?<!\S)(?:{_alternatives(known.inner)})(?!\S)", "name": _KEYWORD},
        "statement": {
            "begin": rf"(?i)^\s*({_alternatives(known.statements)})(?!\S)",
            "end": _END,
            "beginCaptures": _named(_STATEMENT),
            "patterns": _included("keyword", "string", "variable"),
        },
        "field": {
            "begin": r"(?i)^\s*(HEADER)\s+(\S+)\s+(INSERT)\s+([^\s:]+)\s*(:)",
            "end": _END,
            "beginCaptures": _named(_STATEMENT, "entity.name.pbal", _KEYWORD, _TUNABLE, _OPERATOR),
            "patterns": _included("string", "variable"),
        },
        "assignment": {
            "begin": rf"(?i)^\s*({_alternatives(assigning)})\s+([^=#]*?)\s*(=)",
            "end": _END,
            "beginCaptures": {**_named(_STATEMENT, "", _OPERATOR), "2": {"patterns": _included("tunable")}},
            "patterns": _included("string", "variable", "choice", "number"),
        },
    }
    whole = {
        "comment": made,
        "name": "pbal",
        "scopeName": "source.pbal",
        "fileTypes": ["pbal"],
        "firstLineMatch": r"(?i)^\s*(?:CREATE\s+(?:SERVICE|POOL)|LOAD|SERVER)\s",
        "patterns": _included("comment", "assignment", "field", "statement"),
        "repository": repository,
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
