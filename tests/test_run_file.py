"""A file with mistakes: all of them, in order, each once."""

import asyncio
import inspect
from pathlib import Path

import pytest

from pbal.commands.interpreter import Interpreter
from pbal.commands.session import Session
from pbal.lang.mistakes import Mistake, Place, Second
from pbal.model.world import World
from pbal.schema.kinds import Kind


def run(tmp_path: Path, text: str) -> list[Mistake]:
    """The mistakes of a file."""
    path = tmp_path / "test.conf"
    path.write_text(inspect.cleandoc(text) + "\n", encoding="utf-8")
    return Interpreter(World()).run_file(str(path))


def said(mistakes: list[Mistake]) -> list[tuple[int, str]]:
    """(line, message) of each."""
    return [(mistake.line, mistake.message) for mistake in mistakes]


def test_mistakes_of_every_kind_are_reported_in_order(tmp_path: Path) -> None:
    mistakes = run(
        tmp_path,
        """
        CREATE POOL app
          POOL app ADD 10.0.0.1:99999
        CREAT SERVICE typo
        CREATE SERVICE site
          SET role = reverse_prox
          SET role = reverse_proxy
          SET idle_timeout = soon
          SET idle_timeot = 3s
          SET pool = ap
        ENABLE site
        """,
    )
    assert [mistake.line for mistake in mistakes] == [2, 3, 5, 7, 8, 9]
    rendered = [mistake.render() for mistake in mistakes]
    for text, part in zip(
        rendered,
        ["port", "'CREAT' is not a statement", "reverse_proxy", "expected a time", "did you mean", "pool 'ap' does not exist"],
        strict=True,
    ):
        assert part in text
    assert mistakes[4].hint == "did you mean 'idle_timeout'?"


def test_a_value_that_names_nothing_gets_a_suggestion(tmp_path: Path) -> None:
    (mistake,) = run(tmp_path, "CREATE POOL app\nCREATE SERVICE a\nSET role = reverse_proxy\nSET pool = ap")
    assert mistake.hint == "did you mean 'app'?"


def test_what_belongs_to_another_kind_of_object_says_where_it_belongs(tmp_path: Path) -> None:
    mistakes = run(
        tmp_path,
        """
        CREATE POOL p
          SET idle_timeout = 3s
          SET log_level = info
        CREATE SERVICE a
          SET role = reverse_proxy
          SET balance_hash = uri
          SET log_level = info
        SERVER idle_timeout = 3s
        SERVER balance_hash = uri
        DEFAULT balance_hash = uri
        """,
    )
    assert [mistake.message.partition("; ")[2] for mistake in mistakes] == [
        "it belongs to services: SET SERVICE.idle_timeout = VALUE",
        "it belongs to SERVER: SERVER log_level = VALUE",
        "it belongs to pools: SET POOL.balance_hash = VALUE",
        "it belongs to SERVER: SERVER log_level = VALUE",
        "it belongs to services: SET SERVICE.idle_timeout = VALUE",
        "it belongs to pools: SET POOL.balance_hash = VALUE",
        "it belongs to pools: SET POOL.balance_hash = VALUE",
    ]
    assert not any(mistake.hint for mistake in mistakes)


def test_a_file_in_another_language_is_told_what_a_statement_begins_with_once(tmp_path: Path) -> None:
    mistakes = run(tmp_path, "frontend http\nlisten 80;\nlog_level = info\nbalance_method random\nbind *:80\nLOAD nothing\n= x\nfrob")
    assert [mistake.line for mistake in mistakes] == [1, 2, 3, 4, 5, 6, 7], "frob may be a statement of the plugin that is not there"
    assert mistakes[0].hint == (
        "a statement begins with one of CACHE, CREATE, DEFAULT, DISABLE, DROP, ENABLE, HEADER, INCLUDE, LIMIT, LOAD,"
        " MIME, POOL, REWRITE, ROUTE, SERVER, SET, UNLOAD, UNSET, USE"
    )
    assert [mistake.hint for mistake in mistakes[1:5]] == [
        "did you mean 'SET listen = VALUE'?",
        "did you mean 'SERVER log_level = VALUE'?",
        "did you mean 'SET balance_method = VALUE'?",
        "",
    ]


def test_a_mistake_says_file_line_and_column_and_underlines(tmp_path: Path) -> None:
    (mistake,) = run(tmp_path, "CREATE SERVICE a\nSET role = reverse_prox")
    headline, source, underline, *_ = mistake.render().splitlines()
    assert headline.startswith(f"{tmp_path / 'test.conf'}:2:12: ")
    assert source.endswith("SET role = reverse_prox")
    assert underline.endswith("^" * len("reverse_prox"))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        # the object was never made: what is said about it is not held against the file
        ("CREATE SERVICE a.b\nSET role = web_server\nSET docroot = .\nHEADER a.b REMOVE X\nSET a.b.docroot = .\nENABLE a.b", [1]),
        ("CREATE POOL my.pool\nPOOL my.pool ADD 10.0.0.1\nCREATE SERVICE a\nSET role = reverse_proxy\nSET pool = my.pool\nENABLE a", [1]),
        ("CREATE SERVICE x\nCREATE SERVICE x\nSET role = web_server\nHEADER x REMOVE host\nENABLE x", [2]),
        (
            "CREATE SERVICE x\nSET role = web_server\nCREATE SERVICE x\nSET docroot = nowhere\nCREATE SERVICE f\nSET role = selector\n"
            "SET default_service = x\nENABLE f",
            [3],
        ),
        # a pool and a service may have one name
        ("CREATE POOL x\nCREATE SERVICE x\nSET role = web_server\nSET docroot = nowhere", [4]),
        ("CREATE POOL x\nCREATE POOL x\nCREATE SERVICE x\nSET role = reverse_proxy\nSET idle_timeout = soon", [2, 5]),
        ("USE nobody\nSET role = web_server\nENABLE nobody", [1]),
        # ... but it is still parsed
        ("USE nobody\nSET role web_server", [1, 2]),
        # the next CREATE ends it
        ("USE nobody\nSET role = web_server\nCREATE SERVICE a\nSET role = nothing", [1, 4]),
        # a service with a mistake is not checked at ENABLE
        ("CREATE SERVICE a\nSET role = management\nSET listen = x\nENABLE a", [3]),
        ("CREATE SERVICE a\nSET rol = management\nENABLE a", [2]),
        # what a plugin that did not load would have brought
        ("LOAD polll\nCREATE SERVICE a\nSET role = web_server\nSET plugins = polll\nSET poll_uri = ^/x\nENABLE a", [1]),
        ("LOAD no.pe\nLOAD zzyzx\nzzyzx say\nCREATE SERVICE a\nSET role = web_server\nSET plugins = zzyzx\nSET zzyzx_x = 1", [1, 2]),
        # ... and nothing else is hidden: what the core knows, what another plugin would add, another plugin that is missing
        (
            "LOAD nope\nCREATE SERVICE a\nSET role = web_server\nSET idle_timeout = soon\nSET pool = x\nSET max_body = x\nSET listen = x\n"
            "SET docroot = nowhere\nSET persist_client = x\nSET plugins = nope\nSET plugins = nope vhosts\nSET poll_uri = ^/x\nVHOST * = a",
            [1, 4, 5, 6, 7, 8, 9, 11, 12, 13],
        ),
        # a list of plugins with one that is wrong has the others
        ("LOAD vhosts\nCREATE SERVICE a\nSET role = selector\nSET plugins = vhosts, foo\nVHOST x = a\nVHOST y = nobody", [4, 6]),
        # RELOAD and SHUTDOWN are for the living
        ("LOAD poll\nRELOAD poll\nSHUTDOWN\nSHUTDOWN GRACEFUL 3s", [2, 3, 4]),
    ],
)
def test_what_follows_from_a_mistake_is_not_reported(tmp_path: Path, text: str, lines: list[int]) -> None:
    mistakes = run(tmp_path, text)
    assert [mistake.line for mistake in mistakes] == lines, said(mistakes)


def test_an_unrelated_service_is_still_checked_after_a_mistake(tmp_path: Path) -> None:
    mistakes = run(tmp_path, "CREATE SERVICE a\nSET rol = x\nCREATE SERVICE b\nSET role = management\nENABLE b")
    assert said(mistakes)[1] == (5, "management service 'b' needs SET listen")
    assert len(mistakes) == 2


def test_a_statement_of_a_plugin_that_is_not_loaded_says_which(tmp_path: Path) -> None:
    (mistake,) = run(tmp_path, "VHOST * = a")
    assert mistake.hint == "LOAD vhosts adds this statement"


def test_queries_comments_line_ends_and_no_last_newline_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "test.conf"
    path.write_bytes(b"# a file\r\n\r\nshow service\r\nCREATE POOL a # pool\r\n\tPOOL a ADD 10.0.0.1")
    world = World()
    assert said(Interpreter(world).run_file(str(path))) == []
    assert [node.name for node in world.pool("a").nodes] == ["10.0.0.1:80"]


def test_octets_that_are_no_text_are_a_mistake_of_their_line(tmp_path: Path) -> None:
    path = tmp_path / "test.conf"
    path.write_bytes(b"CREATE POOL a\nPOOL a ADD \xff\x00\nCREATE POOL b\n")
    mistakes = Interpreter(World()).run_file(str(path))
    assert [mistake.line for mistake in mistakes] == [2]
    assert "not UTF-8: 0xff" in mistakes[0].message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CREATE SERVICE a\nSET role = web_server\nSET poll_uri = x", "LOAD poll adds the tunables poll_..."),
        ("CREATE POOL p\nSET balance_method = least_conections", "did you mean 'least_connections'?"),
        ("LOAD nope\nCREATE POOL p\nSET balance_metod = random", "did you mean 'balance_method'?"),
        ("LOAD nope\nCRAETE POOL p", "did you mean 'CREATE'?"),
    ],
)
def test_what_would_help(tmp_path: Path, text: str, said: str) -> None:
    assert run(tmp_path, text)[-1].hint == said


def test_two_services_cannot_listen_on_one_address(tmp_path: Path) -> None:
    one = "CREATE SERVICE {0}\nSET role = web_server\nSET listen = 127.0.0.1:8080\nENABLE {0}\n"
    (mistake,) = run(tmp_path, one.format("a") + one.format("b"))
    assert (mistake.line, mistake.message) == (8, "service 'a' listens on 127.0.0.1:8080 already")


@pytest.mark.parametrize(
    ("text", "kind", "second"),
    [
        ("CREATE SERVICE a\n CREATE SERVICE A", Kind.EXISTS_ALREADY, ("created here", 1, 1, 17)),
        ("  CREATE POOL a  # one\nCREATE POOL a", Kind.EXISTS_ALREADY, ("created here", 1, 3, 16)),
        ("CREATE SERVICE a\nSET role = web_server\nSET role = selector", Kind.EXISTS_ALREADY, ("set here", 2, 1, 22)),
        ("CREATE SERVICE a\nSET role = web_server\nSET pool = p", Kind.CONFLICT, ("set here", 2, 1, 22)),
        ("CREATE SERVICE a\nSET role = web_server\nSET docroot = .\nENABLE a\nENABLE a", Kind.EXISTS_ALREADY, ("enabled here", 4, 1, 9)),
        (
            "CREATE SERVICE a\nSET role = management\nSET listen = 127.0.0.1:9\nENABLE a\n"
            "CREATE SERVICE b\nSET role = management\nSET listen = 127.0.0.1:9\nENABLE b",
            Kind.CONFLICT,
            ("set here", 3, 1, 25),
        ),
    ],
)
def test_a_collision_names_the_second_place(tmp_path: Path, text: str, kind: Kind, second: tuple[str, int, int, int]) -> None:
    path = tmp_path / "test.conf"
    path.write_text(text, encoding="utf-8")
    (mistake,) = Interpreter(World()).run_file(str(path))
    note, line, column, end = second
    assert (mistake.kind, mistake.second) == (kind, Second(note, Place(str(path), line, column, end)))
    assert mistake.render().split("\n")[-1] == f"  {note}: {path}:{line}:{column}"


@pytest.mark.parametrize(
    ("text", "kind", "near"),
    [
        ("CRAETE POOL p", Kind.UNKNOWN_STATEMENT, ("CREATE",)),
        ("CREATE POL p", Kind.SYNTAX, ("POOL",)),
        ("VHOST * = a", Kind.UNKNOWN_STATEMENT, ()),
        ("LOAD vhost", Kind.UNKNOWN_NAME, ("vhosts",)),
        ("CREATE POOL p\nUSE q", Kind.UNKNOWN_NAME, ()),
        ("CREATE SERVICE site\nUSE sites", Kind.UNKNOWN_NAME, ("site",)),
        ("CREATE SERVICE a\nSET rol = web_server", Kind.UNKNOWN_TUNABLE, ("role",)),
        ("CREATE SERVICE a\nSET poll_uri = x", Kind.UNKNOWN_TUNABLE, ()),
        ("SERVER max_conections = 9", Kind.UNKNOWN_TUNABLE, ("max_connections",)),
        ("DEFAULT idle_timeot = 9", Kind.UNKNOWN_TUNABLE, ("idle_timeout",)),
        ("CREATE SERVICE a\nSET role = web_servr", Kind.BAD_VALUE, ("web_server",)),
        ("CREATE POOL p\nPOOL p ADD a:b", Kind.BAD_VALUE, ()),
        ("SET role = web_server", Kind.NEEDS_OTHER_FIRST, ()),
        ("CREATE SERVICE a\nSET docroot = .", Kind.NEEDS_OTHER_FIRST, ()),
        ("CREATE SERVICE a\nSET role = web_server\nSET plugins = vhosts", Kind.UNKNOWN_NAME, ()),
    ],
)
def test_a_mistake_has_a_kind_and_says_what_was_meant(tmp_path: Path, text: str, kind: Kind, near: tuple[str, ...]) -> None:
    mistake = run(tmp_path, text)[-1]
    assert (mistake.kind, mistake.near[:1]) == (kind, near)


def test_who_ends_a_statement_as_elsewhere_is_told(tmp_path: Path) -> None:
    (mistake,) = run(tmp_path, "CREATE SERVICE a\nSET role = web_server\nSET idle_timeout = 30s;")
    assert mistake.message.endswith("found '30s;'; no ';' ends a statement")


def test_one_wrong_name_of_a_list_is_underlined_alone(tmp_path: Path) -> None:
    mistakes = run(tmp_path, "LOAD vhosts\nCREATE SERVICE a\nSET role = selector\nSET plugins = vhosts, vpaths")
    assert [(mistake.subject, mistake.column, mistake.end) for mistake in mistakes] == [("vpaths", 23, 29)]


@pytest.mark.parametrize(
    ("line", "underline", "message"),
    [
        ("VPATH ^/a(b = a", "         ^", "missing ), unterminated subpattern"),
        (r"VPATH ^/a\p$ = a", r"         ^^", r"bad escape \p"),
        (r'VPATH "^/a \"\p$" = a', r"             ^^", r"bad escape \p"),
        ("VPATH ^/$PART[ = a", "             ^", "unterminated character set"),
        ("VPATH ^/é**b = a", "          ^", "multiple repeat"),
        ("VPATH ^/x{3,2} = a", "         ^^^^^", "min repeat greater than max repeat"),
    ],
)
def test_a_bad_regex_is_underlined_where_it_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, underline: str, message: str
) -> None:
    monkeypatch.setenv("PART", "long_part")
    made = "LOAD vpaths\nCREATE SERVICE a\nSET role = selector\nSET plugins = vpaths\n"
    (mistake,) = run(tmp_path, made + line)
    assert mistake.kind is Kind.BAD_VALUE and message in mistake.message
    assert " " * (mistake.column - 1) + "^" * (mistake.end - mistake.column) == underline


def test_a_secret_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSH", "hush-5")
    (tmp_path / "key").write_text("hush-1\n")
    text = """
        SERVER max_connections = ${file:key}
        DEFAULT idle_timeout = ${file:key}
        CREATE POOL p
          SET balance_method = ${file:key}
          POOL p ADD ${env:HUSH}:x
        CREATE SERVICE a
          SET role = reverse_proxy
          SET pool = ${file:key}
          SET buffer_size = "${file:key}"
          SET trusted_upstream_proxies = 10.0.0.1 ${file:key}
          HEADER a INSERT Host: ${file:key}/
        """
    mistakes = run(tmp_path, text)
    assert [mistake.line for mistake in mistakes] == [1, 2, 4, 5, 8, 9, 10, 11]
    for mistake in mistakes:
        told = mistake.render() + mistake.in_one_line() + repr(mistake.as_object())
        assert "hush" not in told
        assert "${file:key}" in mistake.message or "${env:HUSH}:x" in mistake.message


def test_a_default_that_is_refused_is_shown_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PBAL_TEST_ROOT", raising=False)
    (mistake,) = run(tmp_path, "CREATE SERVICE a\nSET role = web_server\nSET docroot = ${env:PBAL_TEST_ROOT:-/nonexistent/www}")
    assert mistake.message == "docroot: expected an existing directory, found what ${env:PBAL_TEST_ROOT:-/nonexistent/www} is"


def test_a_secret_others_can_read_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hush\n")
    (tmp_path / "key").chmod(0o644)
    path = tmp_path / "test.conf"
    path.write_text("CREATE SERVICE a\nHEADER a INSERT X-Key: ${file:key}\n")
    interpreter = Interpreter(World())
    assert said(interpreter.run_file(str(path))) == []
    warning = next(each for each in interpreter.warnings if each.line == 2)
    assert warning.headline == f"{path}:2:1: warning: others can read key: chmod o-r keeps what it holds secret"


def test_other_files_are_included_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "pools").mkdir()
    (tmp_path / "pools" / "b.conf").write_text("CREATE POOL b\n  POOL b ADD 10.0.0.2\n")
    (tmp_path / "pools" / "a.conf").write_text("CREATE POOL a\nINCLUDE more/c.conf\n  SET balance_method = round_robin\n")
    (tmp_path / "pools" / "more").mkdir()
    (tmp_path / "pools" / "more" / "c.conf").write_text("LOAD vhosts\nCREATE SERVICE s\nSET role = web_server\nSET docroot = ../www")
    (tmp_path / "pools" / "www").mkdir()
    (tmp_path / "a b.conf").write_text("CREATE POOL spaces\n")
    path = tmp_path / "test.conf"
    path.write_text(
        'LOAD include\nCREATE SERVICE site\nINCLUDE = pools/*.conf none*.conf "a b.conf"\n'
        "SET role = selector\nSET plugins = vhosts\nVHOST * = s\n"
    )
    world = World()
    interpreter = Interpreter(world)
    assert said(interpreter.run_file(str(path))) == []
    assert list(world.pools) == ["a", "b", "spaces"]
    assert world.pool("a").values["balance_method"] == "round_robin"
    assert world.service("s")["docroot"].resolve() == tmp_path / "pools" / "www"
    assert world.service("site").role == "selector"
    assert interpreter.folder == tmp_path


def test_a_mistake_in_an_included_file_has_its_place_there_and_is_known_everywhere(tmp_path: Path) -> None:
    (tmp_path / "one.conf").write_text("\nCREATE POOL p\nSET balance_method = best\nCREATE SERVICE x.y\n")
    mistakes = run(tmp_path, "CREATE POOL p\nINCLUDE one.conf\nENABLE x.y\nINCLUDE none.conf")
    one, test = str(tmp_path / "one.conf"), str(tmp_path / "test.conf")
    assert [(mistake.file, mistake.line) for mistake in mistakes] == [(one, 2), (one, 4), (test, 4)]
    assert mistakes[0].second == Second("created here", Place(test, 1, 1, 14))
    assert mistakes[2].message == f"cannot read {tmp_path / 'none.conf'}: No such file or directory"
    assert mistakes[2].kind is Kind.SYSTEM


def test_files_that_include_one_another_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.conf").write_text("INCLUDE two.conf\nCREATE POOL one\n")
    (tmp_path / "two.conf").write_text("INCLUDE ../*/test.conf\nCREATE POOL two\n")
    (mistake,) = run(tmp_path, "INCLUDE one.conf")
    names = [str(tmp_path / f"{name}.conf") for name in ("test", "one", "two")]
    assert (mistake.file, mistake.line, mistake.kind) == (names[2], 1, Kind.CONFLICT)
    assert mistake.message == "a file cannot include itself: " + " -> ".join([*names, f"{tmp_path}/../{tmp_path.name}/test.conf"])


def test_one_file_may_be_included_twice(tmp_path: Path) -> None:
    (tmp_path / "set.conf").write_text("SERVER max_connections = 1000\n")
    assert said(run(tmp_path, "INCLUDE set.conf set.conf\nINCLUDE set.conf")) == []


def test_a_console_includes_nothing() -> None:
    interpreter = Interpreter(World())
    session = Session(interpreter.world, interpreter, origin="console")
    with pytest.raises(Mistake, match="INCLUDE is for configuration files") as raised:
        asyncio.run(interpreter.execute(session, "INCLUDE x.conf"))
    assert raised.value.hint == "RELOAD CONFIG reads the configuration anew, with what it includes"


def test_what_a_variable_hides_is_in_no_message_of_a_later_statement_either(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2secret\n")
    path = tmp_path / "test.conf"
    path.write_text(
        "LOAD poll\nCREATE SERVICE a\nSET role = web_server\nSET docroot = .\nSET plugins = poll\nSET poll_uri = ^/(?P<queue>.+)$\n"
        "SET poll_auth = jwt ${file:key}\nENABLE a\n"
    )
    mistakes = Interpreter(World()).run_file(str(path))
    assert [mistake.line for mistake in mistakes] == [8]
    assert "${file:key}" in mistakes[0].message and "hunter2" not in mistakes[0].render()
