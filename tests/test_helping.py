"""What `help` says of a statement, without a console."""

import pytest

from pbal.commands.helping import example_of
from pbal.lang.parser import Language, bundled_fragments

LANGUAGE = Language(dict(bundled_fragments()))


@pytest.mark.parametrize("rule", sorted(LANGUAGE.rules))
def test_the_example_of_a_statement_is_that_statement(rule: str) -> None:
    statement = LANGUAGE.parse_line(example_of(LANGUAGE.syntax(rule).split(" | ")[0]))
    assert statement is not None and statement.rule == rule


def test_a_kind_that_is_not_known_stands_for_itself() -> None:
    assert example_of("OWN <colour> [<shade> [AT <place>]] = <value>") == "OWN COLOUR = 30s"
