"""The registry: handlers by rule, binding with converters, complaints, help, and what replies look like."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from pbal.lang.mistakes import positioned
from pbal.lang.parser import Language
from pbal.schema.commands import (
    CORE_COMMANDS,
    OK,
    CommandError,
    Registry,
    Reply,
    Rows,
    Text,
    command,
    parameter_name,
)
from pbal.schema.types import ENDPOINT, Endpoint

LANGUAGE = Language()


def pool_add(
    session: dict[str, list[Endpoint]], pool: list[Endpoint], node: Endpoint, node_weight: int = 1, backup: bool = False, node_max: int = 0
) -> Reply:
    """Add a node to a pool. Adding one twice changes nothing.

    Source: Perlbal manual.
    """
    pool.append(node)
    return OK


async def set_(session: object, object_: str | None, tunable: str, value: str) -> Reply:
    """Set a tunable."""
    return Text([f"{object_} {tunable} {value}"])


def shutdown_graceful(session: object, seconds: str = "30s") -> str:
    return seconds


def _pool(session: dict[str, list[Endpoint]], text: str) -> list[Endpoint]:
    if text not in session:
        raise CommandError(f"there is no pool '{text}'", hint="did you mean 'app'?")
    return session[text]


CONVERTERS: dict[str, Callable[[Any, str], object]] = {
    "pool_name": _pool,
    "node": lambda session, text: ENDPOINT.parse(text),
}


def registry(*functions: Callable[..., Any]) -> Registry:
    made = Registry()
    made.register("core", functions or (pool_add, set_, shutdown_graceful))
    return made


def run(line: str, session: object = None) -> Any:
    statement = LANGUAGE.parse_line(line, file="a.conf", line=3)
    assert statement
    function, kwargs = registry().bind(session, statement, CONVERTERS)
    return function(session, **kwargs)


def refusal(line: str, session: object) -> str:
    statement = LANGUAGE.parse_line(line, file="a.conf", line=3)
    assert statement
    with pytest.raises(CommandError) as raised:
        registry().bind(session, statement, CONVERTERS)
    return positioned(raised.value, statement).render()


def test_arguments_are_converted_and_passed_by_name() -> None:
    session: dict[str, list[Endpoint]] = {"app": []}
    assert run("POOL app ADD 10.0.0.1", session) is OK
    assert session == {"app": [Endpoint("10.0.0.1", 80)]}


def test_what_was_not_said_is_the_default_or_none() -> None:
    assert run("SHUTDOWN GRACEFUL") == "30s"
    assert run("SHUTDOWN GRACEFUL 5") == "5"
    assert list(asyncio.run(run("SET x = y")).as_text()) == ["None x y", "."]
    assert list(asyncio.run(run("SET a.x = y")).as_text()) == ["a x y", "."]


def test_a_converter_that_refuses_names_its_argument() -> None:
    assert refusal("  POOL ap ADD 10.0.0.1", {}) == (
        "a.conf:3:8: there is no pool 'ap'\n    3 |   POOL ap ADD 10.0.0.1\n      |        ^^\n  did you mean 'app'?"
    )
    assert refusal("POOL app ADD 10.0.0.1:x", {"app": []}) == (
        "a.conf:3:14: expected a port from 1 to 65535, found 'x'\n    3 | POOL app ADD 10.0.0.1:x\n      |              ^^^^^^^^^^"
    )


@pytest.mark.parametrize(("arg", "columns"), [("node", (13, 14)), ("pool", (7, 8)), ("pool_name", (7, 8)), (None, (2, 14))])
def test_a_refusal_underlines_its_argument_or_the_statement(arg: str | None, columns: tuple[int, int]) -> None:
    statement = LANGUAGE.parse_line(" POOL p ADD n ")
    assert statement
    mistake = positioned(CommandError("no", arg=arg), statement)
    assert (mistake.column, mistake.end) == columns


def test_check_names_what_does_not_fit() -> None:
    assert registry().check(["pool_add", "set", "shutdown_graceful"], LANGUAGE.terminals) == []
    assert registry().check(["pool_add", "set", "use"]) == [
        "rule without handler use",
        "handler without rule shutdown_graceful",
    ]

    def use(session: object, thing: str) -> Reply:
        return OK

    assert registry(use).check(["use"], LANGUAGE.terminals) == [
        "handler use has no parameter object",
        "rule use has no terminal for the parameter thing",
    ]


def test_an_argument_nobody_takes_is_refused_rather_than_dropped() -> None:
    def use(session: object) -> Reply:
        return OK

    statement = LANGUAGE.parse_line("USE a")
    assert statement
    with pytest.raises(CommandError, match="the command 'use' takes no object"):
        registry(use).bind(None, statement, {})


def test_handlers_leave_with_their_owner() -> None:
    both = registry(pool_add)
    before = both.copy()
    both.register("poll", [set_])
    assert both.help_topics() == ["pool_add", "set"]
    both.unregister("poll")
    both.unregister("nobody")
    assert both == before
    with pytest.raises(CommandError, match="'set' is not a command"):
        both.handler("set")


def test_a_second_handler_of_a_rule_is_refused_and_nothing_changes() -> None:
    made = registry(pool_add)
    with pytest.raises(ValueError, match="poll and core both define the command 'pool_add'"):
        made.register("poll", [set_, pool_add])
    assert made.help_topics() == ["pool_add"]


def test_help_comes_from_the_docstring() -> None:
    summary, text = registry().help_for("pool_add")
    assert summary == "Add a node to a pool. Adding one twice changes nothing."
    assert text.endswith("Source: Perlbal manual.")
    assert registry().help_for("shutdown_graceful") == ("", "")


def test_parameters_are_words_of_the_grammar() -> None:
    assert registry().parameters("set") == ("object", "tunable", "value")
    assert [parameter_name(name) for name in ("POOL_NAME", "node", "new_name")] == ["pool", "node", "new"]


def test_the_decorator_records_plain_and_coroutine_functions() -> None:
    def recorded_plain(session: object) -> Reply:
        return OK

    async def recorded_later(session: object) -> Reply:
        return OK

    before = dict(CORE_COMMANDS.handlers), dict(CORE_COMMANDS.owners)
    try:
        assert command(recorded_plain) is recorded_plain
        command(recorded_later)
        assert CORE_COMMANDS.handler("recorded_plain") is recorded_plain
        assert CORE_COMMANDS.handler("recorded_later") is recorded_later
    finally:
        CORE_COMMANDS.handlers, CORE_COMMANDS.owners = before


def test_replies_as_text_and_as_json() -> None:
    rows = Rows(("name", "node"), [("a", Endpoint("h", 1)), ("b", None)], "{0[0]} {0[1]}".format, ("HEAD",), ("tail",))
    assert list(rows.as_text()) == ["HEAD", "a h:1", "b None", "tail", "."]
    assert json.loads("\n".join(rows.as_json())) == [
        {"name": "a", "node": "h:1"},
        {"name": "b", "node": None},
    ]
    assert json.loads("\n".join(Rows(("a",), [], str).as_json())) == []
    assert list(Text(["x"], end_dot=False).as_text()) == ["x"]
    assert json.loads("\n".join(Text(["x", "y"]).as_json())) == ["x", "y"]
    assert list(OK.as_text()) == ["OK"]
    assert json.loads("\n".join(OK.as_json())) == {"ok": True}


def test_a_long_answer_is_made_piece_by_piece() -> None:
    made: list[int] = []

    def numbers() -> Any:
        for number in range(1000):
            made.append(number)
            yield (number,)

    lines = Rows(("n",), numbers(), lambda row: str(row[0])).as_text()
    assert [next(lines), next(lines)] == ["0", "1"]
    assert made == [0, 1]
