# ruff: noqa: E501 - messages stand here as they read
"""Broken lines and what the operator reads for each: the data below is the specification of the messages."""

import re
from pathlib import Path

import pytest

from pbal.commands.interpreter import Interpreter
from pbal.lang.lexical import MAX_LINE
from pbal.lang.mistakes import Mistake, did_you_mean, suggest
from pbal.lang.parser import Language, bundled_fragments
from pbal.model.world import World
from pbal.schema.kinds import Kind
from pbal.schema.pools import POOL
from pbal.schema.roles import ROLES
from pbal.schema.tunables import SERVER, Tunable

# Each block: the line, what is underlined, the message, and the hint where there is one. All bundled plugins loaded.
BROKEN = r"""
frobnicate
^^^^^^^^^^
'frobnicate' is not a statement

CRAETE SERVICE x
^^^^^^
'CRAETE' is not a statement
did you mean 'CREATE'?

showx service
^^^^^
'showx' is not a statement
did you mean 'SHOW'?

SHOW
    ^
expected CERTIFICATES, CLIENTS, COUNTERS, ERRORS, FILES, HEALTH, LATENCY, LIMITS, NAMES, NODES, PARKED, PLUGINS, POOL, PRESENCE, QUEUE, RULES, SERVICE, STORE, TUNABLES, TUNNELS or VERSION, found the end of the line

SHOW SERVCE
     ^^^^^^
expected CERTIFICATES, CLIENTS, COUNTERS, ERRORS, FILES, HEALTH, LATENCY, LIMITS, NAMES, NODES, PARKED, PLUGINS, POOL, PRESENCE, QUEUE, RULES, SERVICE, STORE, TUNABLES, TUNNELS or VERSION, found 'SERVCE'
did you mean 'SERVICE'?

SHOW SERVICE a b
               ^
expected AS JSON or the end of the line, found 'b'
usage: SHOW SERVICE [<service_name>]

SHOW SERVICE a.b
             ^^^
expected AS JSON, a service name or the end of the line, found 'a.b'
usage: SHOW SERVICE [<service_name>]

RELOAD PREVIOUS
               ^
expected a plugin name, found the end of the line
usage: RELOAD <plugin_name> [<more_plugins>] | RELOAD PREVIOUS <plugin_name>

RELOAD PREVIOUS a b
                  ^
expected the end of the line, found 'b'
usage: RELOAD <plugin_name> [<more_plugins>] | RELOAD PREVIOUS <plugin_name>

RELOAD poll vhosts!
                  ^
expected the end of the line, found '!'
usage: RELOAD <plugin_name> [<more_plugins>]

show names app
           ^^^
expected AS JSON or the end of the line, found 'app'
usage: SHOW NAMES

show files a b
             ^
expected AS JSON or the end of the line, found 'b'
usage: SHOW FILES [<service_name>]

show tunnels 5
             ^
expected AS JSON or the end of the line, found '5'
usage: SHOW TUNNELS

tunnel kick all
            ^^^
expected a number, found 'all'
usage: TUNNEL KICK <number>

show pool p as xml
               ^^^
expected JSON, found 'xml'
usage: SHOW POOL [<pool_name>]

access forbid ip 10.0.0.1
       ^^^^^^
expected ALLOW, DENY, POLICY, QUEUE_LOW or RESET, found 'forbid'

ACCESS DENY 10.0.0.0/8
            ^^^^^^^^^^
expected IP or NETMASK, found '10.0.0.0/8'
usage: ACCESS DENY IP <address> | ACCESS DENY NETMASK <network>

ACCESS QUEUE_LOW IP
                   ^
expected address, found the end of the line
usage: ACCESS QUEUE_LOW IP <address> | ACCESS QUEUE_LOW NETMASK <network>

ACCESS POLICY
             ^
expected a policy, found the end of the line
usage: ACCESS POLICY <policy>

ACCESS RESET all
             ^^^
expected the end of the line, found 'all'
usage: ACCESS RESET

redirect host a.com
                   ^
expected a place, found the end of the line
usage: REDIRECT HOST <pattern> <place>

throttle config
         ^^^^^^
expected RELOAD, found 'config'
usage: THROTTLE RELOAD <what>

stats web
      ^^^
expected AS JSON or the end of the line, found 'web'
usage: STATS

recent 5
       ^
expected AS JSON or the end of the line, found '5'
usage: RECENT

PERLHANDLER MyApp::handler
            ^^^^^^^^^^^^^^
expected '=', found 'MyApp::handler'
usage: PERLHANDLER = <function>

perlrequire =
             ^
expected a module, found the end of the line
usage: PERLREQUIRE = <module>

patterns web
         ^^^
expected AS JSON or the end of the line, found 'web'
usage: PATTERNS

uptime now
       ^^^
expected AS JSON or the end of the line, found 'now'
usage: UPTIME

uptime AS
         ^
expected JSON, found the end of the line
usage: UPTIME

CREATE
      ^
expected POOL or SERVICE, found the end of the line
usage: CREATE POOL <new_name> [LIKE <pool_name>] | CREATE SERVICE <new_name> [LIKE <service_name>]

CREATE x
       ^
expected POOL or SERVICE, found 'x'
usage: CREATE POOL <new_name> [LIKE <pool_name>] | CREATE SERVICE <new_name> [LIKE <service_name>]

CREATE SERVICE
              ^
expected a new name, found the end of the line
usage: CREATE SERVICE <new_name> [LIKE <service_name>]

CREATE SERVICE a b
                 ^
expected LIKE or the end of the line, found 'b'
usage: CREATE SERVICE <new_name> [LIKE <service_name>]

CREATE SERVICE -a
               ^^
expected a new name, found '-a'
a name is made of letters, digits, '_' and '-'

CREATE SERVICE a.b
               ^^^
expected a new name, found 'a.b'
a name is made of letters, digits, '_' and '-'

CREATE SERVICE "a b"
               ^^^^^
expected a new name, found "a b"

CREATE SERVICE "a
               ^^
the quote is never closed
inside quotes write \" for a quote

POOL "p" ADD "10.0.0.1
             ^^^^^^^^^
the quote is never closed
inside quotes write \" for a quote

POOL p ADD "a"b
              ^
expected BACKUP, MAX, WEIGHT or the end of the line, found 'b'
did you mean 'BACKUP'?

SET "idle timeout" = 3s
    ^^^^^^^^^^^^^^
expected a tunable, found "idle timeout"

HEADER s INSERT "X A": b
                ^^^^^
expected a field name, found "X A"

CREATE SERVICE größe
               ^^^^^
expected a new name, found 'größe'
a name is made of letters, digits, '_' and '-'

CREATE SERVICE a;
               ^^
expected a new name, found 'a;'
one statement a line, without ';'

CREATESERVICE a
^^^^^^^^^^^^^
'CREATESERVICE' is not a statement

USE
   ^
expected an object name, found the end of the line
usage: USE <object_name>

USE a b
      ^
expected the end of the line, found 'b'
usage: USE <object_name>

USE a=b
    ^
expected an object name, found 'a'
usage: USE <object_name>

SET
   ^
expected an object name or a tunable, found the end of the line
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

SET x
     ^
expected '.' or a tunable, found the end of the line
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

SET x y
       ^
expected '=', found the end of the line
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

SET x y z = 1
        ^
expected '=', found 'z'
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

SET = y
    ^
expected an object name or a tunable, found '='
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

SET x =
       ^
expected a value, found the end of the line
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

SET x = # nothing
       ^
expected a value, found the end of the line
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

SET x = "a
        ^^
the quote is never closed
inside quotes write \" for a quote

SET x = "a\"
        ^^^^
the quote is never closed
inside quotes write \" for a quote

SET x = "a" b
        ^^^^^
expected the end of the line after the closing quote, found 'b'
inside quotes write \" for a quote

SET a.b: = 1
      ^^
expected a tunable, found 'b:'
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

SET x: y
    ^^
expected an object name or a tunable, found 'x:'
usage: SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>

DEFAULT x
         ^
expected '=', found the end of the line
usage: DEFAULT <tunable> = <value>

DEFAULT x y
          ^
expected '=', found 'y'
usage: DEFAULT <tunable> = <value>

DEFAULT a: = y
        ^^
expected a tunable, found 'a:'
usage: DEFAULT <tunable> = <value>

ENABLE
      ^
expected a service name, found the end of the line
usage: ENABLE <service_name>

ENABLE a b
         ^
expected the end of the line, found 'b'
usage: ENABLE <service_name>

ENABEL a
^^^^^^
'ENABEL' is not a statement
did you mean 'ENABLE'?

POOL
    ^
expected ADD, REMOVE or a pool name, found the end of the line

POOL a
      ^
expected ADD, DOWN, DRAIN, MAINT, READY, REMOVE or UP, found the end of the line

POOL a AD n
       ^^
expected ADD, DOWN, DRAIN, MAINT, READY, REMOVE or UP, found 'AD'
did you mean 'ADD'?

POOL ADD
        ^
expected a pool name, found the end of the line
usage: POOL ADD <pool_name> <node> [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]

POOL ADD a
          ^
expected a node, found the end of the line
usage: POOL ADD <pool_name> <node> [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]

POOL a ADD
          ^
expected a node, found the end of the line
usage: POOL <pool_name> ADD <node> [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]

POOL a ADD n m
             ^
expected BACKUP, MAX, WEIGHT or the end of the line, found 'm'
did you mean 'MAX'?

POOL a DRAIN
            ^
expected a node, found the end of the line
usage: POOL <pool_name> DRAIN <node> [BECAUSE <reason>]

POOL a MAINT n the disk
               ^^^
expected BECAUSE or the end of the line, found 'the'
usage: POOL <pool_name> MAINT <node> [BECAUSE <reason>]

POOL a READY n BECAUSE
               ^^^^^^^
expected the end of the line, found 'BECAUSE'
usage: POOL <pool_name> READY <node>

CHECK
     ^
expected a pool name, found the end of the line
usage: CHECK <pool_name> [<node>]

POOL a ADD REMOVE n
                  ^
expected BACKUP, MAX, WEIGHT or the end of the line, found 'n'
usage: POOL <pool_name> ADD <node> [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]

POOL my.pool ADD n
     ^^^^^^^
expected ADD, REMOVE or a pool name, found 'my.pool'
usage: POOL <pool_name> ADD <node> [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]

POOL a ADD n WIEGHT 2
             ^^^^^^
expected BACKUP, MAX, WEIGHT or the end of the line, found 'WIEGHT'
did you mean 'WEIGHT'?

POOL a ADD n WEIGHT
                   ^
expected a node weight, found the end of the line
usage: POOL <pool_name> ADD <node> [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]

POOL a ADD n BACKUP WEIGHT 2
                    ^^^^^^
expected MAX or the end of the line, found 'WEIGHT'
usage: POOL <pool_name> ADD <node> [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]

POOL a ADD x=y
            ^
expected BACKUP, MAX, WEIGHT or the end of the line, found '='
usage: POOL <pool_name> ADD <node> [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]

CACHE s
       ^
expected cache words, found the end of the line
usage: CACHE <service_name> <cache_words> [WHEN <conditions>]

LIMIT s
       ^
expected a number at once or a rate, found the end of the line

LIMIT s 5 CONCURENT
          ^^^^^^^^^
expected CONCURRENT, found 'CONCURENT'
did you mean 'CONCURRENT'?

LIMIT s 10/s BRUST 3
             ^^^^^
expected BURST, BY, DRY, WHEN or the end of the line, found 'BRUST'
did you mean 'BURST'?

MIME SET
        ^
expected an ending, found the end of the line
usage: MIME [LIST] | MIME SET <ending> <media_type>

MIME REMOVE
           ^
expected an ending, found the end of the line
usage: MIME [LIST] | MIME REMOVE <ending>

MIME SET css
            ^
expected a media type, found the end of the line
usage: MIME [LIST] | MIME SET <ending> <media_type>

HEADER
      ^
expected a service name, found the end of the line

HEADER s
        ^
expected INSERT, REMOVE or a request or response, found the end of the line

HEADER s INSRET X: y
         ^^^^^^
expected INSERT, REMOVE or a request or response, found 'INSRET'
did you mean 'INSERT'?

HEADER s INSERT
               ^
expected a field name, found the end of the line
usage: HEADER <service_name> INSERT <field_name> : <field_value>

HEADER s INSERT X-A
                   ^
expected ':', found the end of the line
usage: HEADER <service_name> INSERT <field_name> : <field_value>

HEADER s INSERT X-A:
                    ^
expected a field value, found the end of the line
usage: HEADER <service_name> INSERT <field_name> : <field_value>

HEADER s INSERT X(A): y
                 ^^^^
expected ':', found '(A):'
usage: HEADER <service_name> INSERT <field_name> : <field_value>

HEADER s INSERT X-A: "y
                     ^^
the quote is never closed
inside quotes write \" for a quote

HEADER s REMOVE X-A: y
                   ^
expected the end of the line, found ':'
usage: HEADER <service_name> REMOVE <field_name>

HEADER s RESPONSE INSERT X-A: y
                  ^^^^^^
expected ADD, REMOVE or SET, found 'INSERT'

HEADER s RESPONSE ADD X-A y
                          ^
expected ':', found 'y'
usage: HEADER <service_name> <request_or_response> ADD <field_name> : <rule_value> [WHEN <conditions>]

HEADER s REQUEST REMOVE X-A: y
                           ^
expected WHEN or the end of the line, found ':'
usage: HEADER <service_name> <request_or_response> REMOVE <field_name> [WHEN <conditions>]

ROUTE s TO p
            ^
expected WHEN, found the end of the line
usage: ROUTE <service_name> TO <pool_name> WHEN <conditions>

REWRITE s ^/a
             ^
expected '=', found the end of the line
usage: REWRITE <service_name> <pattern> = <replacement> [WHEN <conditions>]

LOAD
    ^
expected a plugin name, found the end of the line
usage: LOAD <plugin_name>

LOAD my plugin
        ^^^^^^
expected the end of the line, found 'plugin'
usage: LOAD <plugin_name>

LOAD poll.py
     ^^^^^^^
expected a plugin name, found 'poll.py'
usage: LOAD <plugin_name>

SERVER x
        ^
expected '=', found the end of the line
usage: SERVER <server_tunable> = <value>

SERVER a b = c
         ^
expected '=', found 'b'
usage: SERVER <server_tunable> = <value>

VERBOSE
       ^
expected a switch, found the end of the line
usage: VERBOSE <switch>

VERBOSE on off
           ^^^
expected the end of the line, found 'off'
usage: VERBOSE <switch>

SHUTDOWN now
         ^^^
expected GRACEFUL or the end of the line, found 'now'
usage: SHUTDOWN | SHUTDOWN GRACEFUL [<seconds>]

SHUTDOWN GRACEFUL 5 s
                    ^
expected the end of the line, found 's'
usage: SHUTDOWN GRACEFUL [<seconds>]

socks summry
      ^^^^^^
expected ALL, AS JSON, SUMMARY or the end of the line, found 'summry'
did you mean 'SUMMARY'?

nodes a b
        ^
expected AS JSON or the end of the line, found 'b'
usage: NODES [<node>]

quit now
     ^^^
expected the end of the line, found 'now'
usage: QUIT

SET x = $NOPE
        ^^^^^
'NOPE' is not in the environment

SET x = ${USERR}
        ^^^^^^^^
'USERR' is not in the environment
did you mean 'USER'?

SET x = ${nope:eth0}
        ^^^^^^^^^^^^
'nope' is not a type of variable, expected env, file or ip as in ${ip:eth0}

SET x = ${USER
        ^^
expected a name and '}' after '${'

VHOST a
       ^
expected a pattern, found the end of the line
usage: VHOST [<selector_name>] <pattern> = <target_name>

VHOST s a b = c
          ^
expected '=', found 'b'
usage: VHOST [<selector_name>] <pattern> = <target_name>

VHOST a = b c
            ^
expected the end of the line, found 'c'
usage: VHOST [<selector_name>] <pattern> = <target_name>

VPATH ^/a$
          ^
expected '=', found the end of the line
usage: VPATH [<selector_name>] <regex> = <target_name>

SHOW PARKED LIKE
                ^
expected a glob, found the end of the line
usage: SHOW PARKED [<service_name>] [LIKE <glob>] [LIMIT <count>] | SHOW PARKED SUMMARY

SHOW PARKED a LIMIT 3 LIKE b
                      ^^^^
expected AS JSON or the end of the line, found 'LIKE'
usage: SHOW PARKED [<service_name>] [LIKE <glob>] [LIMIT <count>] | SHOW PARKED SUMMARY

SHOW QUEUE alice
                ^
expected a queue, found the end of the line
usage: SHOW QUEUE <service_name> <queue>

POLL
    ^
expected ANSWER, KICK, PUBLISH or WAKE, found the end of the line

POLL ANSWER
           ^
expected a target, found the end of the line
usage: POLL ANSWER <target> [<text>]

POLL KIKC 3
     ^^^^
expected ANSWER, KICK, PUBLISH or WAKE, found 'KIKC'
did you mean 'KICK'?

POLL PUBLISH a b
                ^
expected a text, found the end of the line
usage: POLL PUBLISH <service_name> <queue> <text>

= 1
^
'=' is not a statement

"SET x = y"
^^^^^^^^^^^
'"SET x = y"' is not a statement

LOGIN amy
         ^
expected a password, found the end of the line
usage: LOGIN <user> <password>
"""

# The same with no plugin loaded.
WITHOUT_PLUGINS = r"""
VHOST a = b
^^^^^
'VHOST' is not a statement
LOAD vhosts adds this statement

show parked
     ^^^^^^
expected CERTIFICATES, CLIENTS, COUNTERS, ERRORS, FILES, HEALTH, LATENCY, LIMITS, NAMES, NODES, PLUGINS, POOL, RULES, SERVICE, TUNABLES, TUNNELS or VERSION, found 'parked'
LOAD poll adds this statement

POLL KICK 3
^^^^
'POLL' is not a statement
LOAD poll adds this statement

VPATHS a
^^^^^^
'VPATHS' is not a statement
"""


def blocks(text: str) -> list[str]:
    return text.strip("\n").split("\n\n")


def mistake_of(line: str, language: Language, file: str = "") -> Mistake:
    with pytest.raises(Mistake) as raised:
        language.parse_line(line, file=file, line=7, environ={"USER": "u"})
    return raised.value


ALL_PLUGINS = Language(bundled_fragments())
NO_PLUGINS = Language()
CASES = [(ALL_PLUGINS, block) for block in blocks(BROKEN)] + [(NO_PLUGINS, block) for block in blocks(WITHOUT_PLUGINS)]


@pytest.mark.parametrize(("language", "block"), CASES, ids=[block.partition("\n")[0] for _, block in CASES])
def test_a_broken_line_reads(language: Language, block: str) -> None:
    source, underline, message, *hints = block.split("\n")
    mistake = mistake_of(source, language)
    assert [mistake.message, mistake.hint] == [message, *(hints or [""])]
    assert " " * (mistake.column - 1) + "^" * (mistake.end - mistake.column) == underline


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60


def test_the_text_is_the_headline_the_line_the_underline_and_the_hint() -> None:
    assert mistake_of("  SHOW SERVCE", ALL_PLUGINS, "site.conf").render().split("\n")[1:] == [
        "    7 |   SHOW SERVCE",
        "      |        ^^^^^^",
        "  did you mean 'SERVICE'?",
    ]
    mistake = mistake_of("  craete", ALL_PLUGINS, "site.conf")
    assert mistake.headline == str(mistake) == "site.conf:7:3: 'craete' is not a statement"


def test_at_the_console_there_is_no_place_to_name() -> None:
    assert mistake_of("craete", ALL_PLUGINS).render().split("\n") == [
        "'craete' is not a statement",
        "      | craete",
        "      | ^^^^^^",
        "  did you mean 'CREATE'?",
    ]


def test_a_tab_is_kept_under_a_tab() -> None:
    lines = mistake_of("\tSHOW\tSERVCE", ALL_PLUGINS, "f").render().split("\n")
    assert lines[1:3] == ["    7 | \tSHOW\tSERVCE", "      | \t    \t^^^^^^"]


def test_what_is_two_columns_wide_is_underlined_by_two() -> None:
    mistake = mistake_of("CREATE SERVICE 日本 x", ALL_PLUGINS)
    assert mistake.render().split("\n")[2] == "      |                ^^^^"
    mistake = mistake_of('POOL "日本" BAD x', ALL_PLUGINS)
    assert mistake.render().split("\n")[2] == "      |             ^^^"


def test_a_mistake_inside_an_expansion_underlines_the_variable() -> None:
    lines = mistake_of("POOL a ADD n ${USER}", ALL_PLUGINS, "f").render().split("\n")
    assert lines[1:3] == ["    7 | POOL a ADD n ${USER}", "      |              ^^^^^^^"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SET x = a\x00b", "expected text, found the control character 0x00"),
        ("\x1b[2J", "expected text, found the control character 0x1b"),
        ("SET x = a\nUSE b", "expected text, found the control character 0x0a"),
        ("SET x = \udcff", "expected text, found a byte that is not UTF-8: 0xff"),
        ("x" * (MAX_LINE + 1), "expected a line of 65536 characters at most, found 65537"),
    ],
    ids=["nul", "escape", "line end", "not utf-8", "too long"],
)
def test_what_is_no_text_is_refused_and_not_echoed(line: str, message: str) -> None:
    mistake = mistake_of(line, ALL_PLUGINS, "f")
    assert mistake.message == message
    text = mistake.render()
    assert not any(character in text for character in "\x00\x1b\udcff")
    assert len(text) < 1000


def test_a_long_line_is_shown_around_the_word_at_fault() -> None:
    lines = mistake_of("POOL a ADD " + "n" * 3000 + " oops " + "m" * 3000, ALL_PLUGINS, "f").render().split("\n")
    shown, underline = lines[1][8:], lines[2][8:]
    assert len(shown) == 160
    assert shown[underline.index("^") : underline.rindex("^") + 1] == "oops"


def test_a_mistake_without_a_column_underlines_nothing() -> None:
    mistake = Mistake("no such file", file="a.conf", line=3, source="x")
    assert mistake.render() == "a.conf:3: no such file\n    3 | x"


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("persist_clent", "persist_client"), ("persist-client", "persist_client"), ("POOL", "pool"), ("liste", "listen"),
        ("xyzzy", None), ("", None), ("p" * 100000, None),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_suggestions(word: str, near: str | None) -> None:
    names = ["persist_client", "pool", "listen", "role"]
    assert suggest(word, names) == near
    assert did_you_mean(word, names) == (f"did you mean '{near}'?" if near else "")


# --- every statement, every tunable, every kind of value ----------------------------------------------------

TAKES_ANYTHING = frozenset({"help"})
"""Statements after which no words are wrong."""


def misused(usage: str) -> str:
    """A statement with a word too many; one that takes all to the end of the line with its last word missing."""
    words = re.sub(r"\[[^\]]*\]", "", usage).split()
    said = " ".join("1" if word == "<number>" else "x" if word.startswith("<") else word for word in words)
    last = re.findall(r"<(\w+)>", usage)[-1:]
    to_the_end = last and last[0] in {
        "value",
        "field_value",
        "rule",
        "text",
        "password",
        "fields",
        "files",
        "conditions",
        "media_type",
        "cache_words",
        "more_plugins",
    }
    return said.rpartition(" ")[0] if to_the_end else f"{said} x x x x"


USAGES = [
    pytest.param(rule, usage, id=usage)
    for rule in sorted(ALL_PLUGINS.rules - TAKES_ANYTHING)
    for usage in ALL_PLUGINS.syntax(rule).split(" | ")
]


@pytest.mark.parametrize(("rule", "usage"), USAGES)
def test_every_statement_says_what_it_expects(rule: str, usage: str) -> None:
    line = misused(usage)
    mistake = mistake_of(line, ALL_PLUGINS)
    assert mistake.kind is Kind.SYNTAX and mistake.message.startswith("expected "), line
    found = line[mistake.column - 1 : mistake.end - 1]
    assert mistake.message.endswith(f"found '{found}'" if found else "found the end of the line")
    assert 1 < mistake.column <= len(line) + 1


ANY_TEXT = frozenset({"words", "text"})
"""Types that take every text."""


def test_every_tunable_refuses_what_is_no_value_of_it(tmp_path: Path) -> None:
    world = World()
    path = tmp_path / "test.conf"
    path.write_text("".join(f"LOAD {plugin}\n" for plugin in sorted(bundled_fragments())))
    assert not Interpreter(world).run_file(str(path))
    lines: list[tuple[str, str]] = []
    for tunable in world.tunables.values():
        service = min(tunable.roles, default="web_server")
        lines += [(tunable.name, f"SET {service}.{tunable.name} = {bad}") for bad in wrong(tunable)]
    lines += [(tunable.name, f"SERVER {tunable.name} = {bad}") for tunable in SERVER for bad in wrong(tunable)]
    lines += [(tunable.name, f"SET p.{tunable.name} = {bad}") for tunable in POOL for bad in wrong(tunable)]
    made = "".join(f"CREATE SERVICE {role}\nSET role = {role}\n" for role in ROLES) + "CREATE POOL p\n"
    path.write_text(path.read_text() + made + "".join(f"{line}\n" for _, line in lines))
    mistakes = Interpreter(World()).run_file(str(path))
    assert len(mistakes) == len(lines) > 100
    for mistake, (name, line) in zip(mistakes, lines, strict=True):
        assert (mistake.source, mistake.kind) == (line, Kind.BAD_VALUE)
        assert mistake.message.startswith(f"{name}: expected "), mistake.message
        assert line.index("=") + 2 < mistake.column + 1 <= mistake.end <= len(line) + 1


def wrong(tunable: Tunable) -> list[str]:
    """A text that is no value of a tunable; none where every text is one."""
    if tunable.type.name in ANY_TEXT:
        assert tunable.parse("no such:thing ) [") is not None
        return []
    for text in ("no such:thing", ")", ""):
        try:
            tunable.parse(text)
        except ValueError:
            return [f'"{text}"']
    raise AssertionError(f"what {tunable.name} refuses is not known here")
