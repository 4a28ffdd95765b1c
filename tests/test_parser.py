"""The grammar: what each statement parses to, the lexical rules, completion, usage, and plugin fragments."""

import copy
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbal.lang.lexical import comment_start, quoted
from pbal.lang.mistakes import Mistake
from pbal.lang.parser import GrammarMistake, Language, bundled_fragments
from pbal.lang.shapes import Shapes

LANGUAGE = Language(bundled_fragments())
CORE = Language()

STATEMENTS: list[tuple[str, str, dict[str, str]]] = [
    ("CREATE SERVICE web-1", "create_service", {"new_name": "web-1"}),
    ("create pool App", "create_pool", {"new_name": "App"}),
    ("USE App", "use", {"object_name": "App"}),
    ("SET role = web_server", "set", {"tunable": "role", "value": "web_server"}),
    ("SET role=web_server", "set", {"tunable": "role", "value": "web_server"}),
    ("SET web role = x", "set", {"object_name": "web", "tunable": "role", "value": "x"}),
    ("SET web.role = x", "set", {"object_name": "web", "tunable": "role", "value": "x"}),
    ("SET web-1.role=x", "set", {"object_name": "web-1", "tunable": "role", "value": "x"}),
    ("SET set = set", "set", {"tunable": "set", "value": "set"}),
    ("SET x = = y", "set", {"tunable": "x", "value": "= y"}),
    ("DEFAULT persist_client = on", "default", {"tunable": "persist_client", "value": "on"}),
    ("ENABLE a", "enable", {"service_name": "a"}),
    ("DISABLE a", "disable", {"service_name": "a"}),
    ("POOL a ADD 10.0.0.1:80", "pool_add", {"pool_name": "a", "node": "10.0.0.1:80"}),
    ("pool add a [::1]:80", "pool_add", {"pool_name": "a", "node": "[::1]:80"}),
    ("POOL addx ADD n", "pool_add", {"pool_name": "addx", "node": "n"}),
    ("POOL a ADD n WEIGHT 2", "pool_add", {"pool_name": "a", "node": "n", "node_weight": "2"}),
    (
        "pool add a n weight 0 backup max 9",
        "pool_add",
        {"pool_name": "a", "node": "n", "node_weight": "0", "backup": "backup", "node_max": "9"},
    ),
    ("POOL a REMOVE n", "pool_remove", {"pool_name": "a", "node": "n"}),
    ("POOL REMOVE a n", "pool_remove", {"pool_name": "a", "node": "n"}),
    (
        "HEADER s INSERT X-Foo: Bar  Baz",
        "header_insert",
        {"service_name": "s", "field_name": "X-Foo", "field_value": "Bar  Baz"},
    ),
    ("HEADER s REMOVE X-Foo", "header_remove", {"service_name": "s", "field_name": "X-Foo"}),
    (
        "HEADER s REQUEST SET X-Foo: Bar  Baz",
        "header_set",
        {"service_name": "s", "request_or_response": "REQUEST", "field_name": "X-Foo", "rule_value": "Bar  Baz"},
    ),
    (
        'header s response set X-Foo: "a when b" when host a.com AND path ^/x$',
        "header_set",
        {
            "service_name": "s",
            "request_or_response": "response",
            "field_name": "X-Foo",
            "rule_value": "a when b",
            "conditions": "host a.com AND path ^/x$",
        },
    ),
    (
        "HEADER s RESPONSE ADD X-Foo: a WHEN b",
        "header_add",
        {"service_name": "s", "request_or_response": "RESPONSE", "field_name": "X-Foo", "rule_value": "a", "conditions": "b"},
    ),
    (
        "HEADER s RESPONSE REMOVE X-Foo",
        "header_drop",
        {"service_name": "s", "request_or_response": "RESPONSE", "field_name": "X-Foo"},
    ),
    (
        "HEADER s REQUEST REMOVE X-Foo WHEN method GET",
        "header_drop",
        {"service_name": "s", "request_or_response": "REQUEST", "field_name": "X-Foo", "conditions": "method GET"},
    ),
    (
        'ROUTE s TO p WHEN header A ~ "a b"',
        "route",
        {"service_name": "s", "pool_name": "p", "conditions": 'header A ~ "a b"'},
    ),
    (
        "REWRITE s ^/a=(.*)$ = /b$$1 WHEN host a",
        "rewrite",
        {"service_name": "s", "pattern": "^/a=(.*)$", "replacement": "/b$1", "conditions": "host a"},
    ),
    ('REWRITE s ^/a = ""', "rewrite", {"service_name": "s", "pattern": "^/a", "replacement": ""}),
    (
        "LIMIT web 10/s BURST 20 BY header:X-Key WHEN path ^/login AND NOT from 10.0.0.0/8",
        "limit",
        {
            "service_name": "web",
            "rate": "10/s",
            "burst_size": "20",
            "limit_key": "header:X-Key",
            "conditions": "path ^/login AND NOT from 10.0.0.0/8",
        },
    ),
    ("CACHE s 1y immutable WHEN path ^/a", "cache", {"service_name": "s", "cache_words": "1y immutable", "conditions": "path ^/a"}),
    ("cache s no-cache, private", "cache", {"service_name": "s", "cache_words": "no-cache, private"}),
    ("limit web 5 concurrent", "limit", {"service_name": "web", "number_at_once": "5"}),
    (
        "LIMIT web 10/s DRY RUN when host a",
        "limit_dry_run",
        {"service_name": "web", "rate": "10/s", "conditions": "host a"},
    ),
    ("LIMIT web 5 CONCURRENT BY host dry  run", "limit_dry_run", {"service_name": "web", "number_at_once": "5", "limit_key": "host"}),
    ("LOAD poll", "load", {"plugin_name": "poll"}),
    ("UNLOAD poll", "unload", {"plugin_name": "poll"}),
    ("RELOAD poll", "reload", {"plugin_name": "poll"}),
    ("RELOAD poll vhosts own", "reload", {"plugin_name": "poll", "more_plugins": "vhosts own"}),
    ("RELOAD PREVIOUS poll", "reload_previous", {"plugin_name": "poll"}),
    ("ACCESS ALLOW ip 10.0.0.1", "access_allow", {"address": "10.0.0.1"}),
    ("access deny netmask 10.0.0.0/8", "access_deny", {"network": "10.0.0.0/8"}),
    ("ACCESS QUEUE_LOW IP ::1", "access_queue_low", {"address": "::1"}),
    ("ACCESS POLICY deny", "access_policy", {"policy": "deny"}),
    ("ACCESS RESET", "access_reset", {}),
    ("REDIRECT HOST *.a.com https://b.com", "redirect_host", {"pattern": "*.a.com", "place": "https://b.com"}),
    ("THROTTLE RELOAD whitelist", "throttle_reload", {"what": "whitelist"}),
    ("STATS", "stats", {}),
    ("recent", "recent", {}),
    ("RELOAD CERTIFICATES", "reload_certificates", {}),
    ("SHOW CERTIFICATES", "show_certificates", {}),
    ("SERVER graceful_timeout = 5s", "server_set", {"server_tunable": "graceful_timeout", "value": "5s"}),
    ("VERBOSE off", "verbose", {"switch": "off"}),
    ("SHUTDOWN", "shutdown", {}),
    ("SHUTDOWN GRACEFUL", "shutdown_graceful", {}),
    ("shutdown graceful 5", "shutdown_graceful", {"seconds": "5"}),
    ("MARK end-1", "mark", {"marker": "end-1"}),
    ("mark end-1 json", "mark_json", {"marker": "end-1"}),
    ("COMPLETE", "complete", {}),
    ("COMPLETE set%20x", "complete", {"line": "set%20x"}),
    ("SHOW SERVICE", "show_service", {}),
    ("SHOW SERVICE a", "show_service", {"service_name": "a"}),
    ("SHOW POOL", "show_pool", {}),
    ("SHOW POOL a", "show_pool", {"pool_name": "a"}),
    ("TERMINAL", "terminal", {}),
    ("terminal 120", "terminal", {"width": "120"}),
    ("Prof on", "prof", {"switch": "on"}),
    ("prof data", "prof_data", {}),
    ("crash", "crash", {}),
    ("? pool add", "help", {"words": "pool add"}),
    ("show tunables web CHANGED", "show_tunables_changed", {"service_name": "web"}),
    ("State Changes", "state_changes", {}),
    ("mime list", "mime", {}),
    ("MIME set .css text/css; a=b", "mime_set", {"ending": ".css", "media_type": "text/css; a=b"}),
    ("mime  Remove CSS", "mime_remove", {"ending": "CSS"}),
    *((word, word, {}) for word in ("pending", "noverify", "reproxy_state", "aio", "xs", "obj", "track", "gladiator", "leaks", "varsize")),
    ("SHOW PLUGINS", "show_plugins", {}),
    ("plugins", "plugins", {}),
    ("SHOW COUNTERS", "show_counters", {}),
    ("SHOW COUNTERS LIKE poll_*", "show_counters", {"glob": "poll_*"}),
    ("SHOW TUNABLES", "show_tunables", {}),
    ("SHOW TUNABLES a", "show_tunables", {"service_name": "a"}),
    ("states", "states", {}),
    ("states a", "states", {"service_name": "a"}),
    ("socks", "socks", {}),
    ("socks all", "socks", {}),
    ("socks summary", "socks_summary", {}),
    ("nodes", "nodes", {}),
    ("node 10.0.0.1", "nodes", {"node": "10.0.0.1"}),
    ("backends", "backends", {}),
    ("queues", "queues", {}),
    ("uptime", "uptime", {}),
    ("version", "version", {}),
    ("proc", "proc", {}),
    ("fd", "fd", {}),
    ("dumpconfig", "dumpconfig", {}),
    ("help", "help", {}),
    ("help pool add", "help", {"words": "pool add"}),
    ("login amy a secret", "login", {"user": "amy", "password": "a secret"}),
    ("quit", "quit", {}),
    ("EXIT", "quit", {}),
    ("SET web.poll.uri = ^/p", "set", {"object_name": "web", "tunable": "poll.uri", "value": "^/p"}),
    ("set web extra.x = y z", "set", {"object_name": "web", "tunable": "extra.x", "value": "y z"}),
    ("XS enable headers", "xs_module", {"module": "headers"}),
    ("xs disable headers", "xs_module", {"module": "headers"}),
    ("SERVER max_reproxy_connections(a:80) = 5", "server_set", {"server_tunable": "max_reproxy_connections(a:80)", "value": "5"}),
    ("VHOST *.site.com = site", "vhost", {"pattern": "*.site.com", "target_name": "site"}),
    (
        "VHOST sel site.com=site",
        "vhost",
        {"selector_name": "sel", "pattern": "site.com", "target_name": "site"},
    ),
    ("VPATH ^/a$ = site", "vpath", {"regex": "^/a$", "target_name": "site"}),
    (
        r"VPATH sel \S?q=1 = site",
        "vpath",
        {"selector_name": "sel", "regex": r"\S?q=1", "target_name": "site"},
    ),
    ("patterns", "patterns", {}),
    ("PERLHANDLER = My::App::handler", "perlhandler", {"function": "My::App::handler"}),
    ("perlrequire = MyApp", "perlrequire", {"module": "MyApp"}),
    ("SHOW PARKED", "show_parked", {}),
    ("SHOW PARKED a LIKE b* LIMIT 3", "show_parked", {"service_name": "a", "glob": "b*", "count": "3"}),
    ("SHOW PARKED LIMIT 3", "show_parked", {"count": "3"}),
    ("SHOW PARKED SUMMARY", "show_parked_summary", {}),
    ("SHOW PRESENCE chat LIKE room.*", "show_presence", {"service_name": "chat", "glob": "room.*"}),
    ("SHOW QUEUE chat alice", "show_queue", {"service_name": "chat", "queue": "alice"}),
    ("SHOW PRESENCE chat LIKE a*", "show_presence", {"service_name": "chat", "glob": "a*"}),
    ("SHOW STORE", "show_store", {}),
    ("SHOW LATENCY web", "show_latency", {"whom": "web"}),
    ("POOL a DRAIN n", "pool_drain", {"pool_name": "a", "node": "n"}),
    ("POOL a MAINT n BECAUSE its disk is full", "pool_maint", {"pool_name": "a", "node": "n", "reason": "its disk is full"}),
    ("pool a ready n", "pool_ready", {"pool_name": "a", "node": "n"}),
    ("POOL a DOWN n BECAUSE it lies", "pool_down", {"pool_name": "a", "node": "n", "reason": "it lies"}),
    ("POOL a UP n", "pool_up", {"pool_name": "a", "node": "n"}),
    ("CHECK a", "check_nodes", {"pool_name": "a"}),
    ("CHECK a n", "check_nodes", {"pool_name": "a", "node": "n"}),
    ("SHOW HEALTH app", "show_health", {"pool_name": "app"}),
    ("SHOW NODES", "show_health", {}),
    ("SHOW ERRORS 5 LIKE *x*", "show_errors", {"number": "5", "glob": "*x*"}),
    ("SHOW LIMITS", "show_limits", {}),
    ("show names", "show_names", {}),
    ("SHOW FILES site", "show_files", {"service_name": "site"}),
    ("SHOW TUNNELS", "show_tunnels", {}),
    ("TUNNEL KICK 17", "tunnel_kick", {"number": "17"}),
    ("SHOW CLIENTS LIKE 10.*", "show_clients", {"glob": "10.*"}),
    (
        "EXPLAIN GET http://h/ FROM ::1 A: b ; C: d",
        "explain",
        {"method": "GET", "url": "http://h/", "peer": "::1", "fields": "A: b ; C: d"},
    ),
    ("TRACE lobby", "trace", {"whom": "lobby"}),
    ("trace queue client", "trace", {"trace_kind": "queue", "whom": "client"}),
    ("SHOW RULES a", "show_rules", {"service_name": "a"}),
    ("DROP SERVICE a", "drop_service", {"service_name": "a"}),
    ("DROP POOL a", "drop_pool", {"pool_name": "a"}),
    ("DROP RULE a HEADER a REMOVE x", "drop_rule", {"service_name": "a", "rule": "HEADER a REMOVE x"}),
    ("UNSET role", "unset", {"tunable": "role"}),
    ("UNSET a.role", "unset", {"owner_name": "a", "tunable": "role"}),
    ("UNSET DEFAULT role", "unset_default", {"tunable": "role"}),
    ("UNSET SERVER pidfile", "unset_server", {"server_tunable": "pidfile"}),
    ("MARK x", "mark", {"marker": "x"}),
    ("MARK x JSON", "mark_json", {"marker": "x"}),
    ("COMPLETE x", "complete", {"line": "x"}),
    ('INCLUDE = a/*.conf "b c.conf"', "include", {"files": 'a/*.conf "b c.conf"'}),
    ('INCLUDE "b c.conf" a', "include", {"files": '"b c.conf" a'}),
    ("RELOAD CONFIG", "reload_config", {}),
    ('RELOAD CONFIG "a b.conf"', "reload_config", {"path": "a b.conf"}),
    ("RELOAD CONFIG DRY RUN", "reload_config_dry_run", {}),
    ("CONFIG DRIFT", "config_drift", {}),
    ("CONFIG SAVE", "config_save", {}),
    ("POLL ANSWER 17", "poll_answer", {"target": "17"}),
    ("POLL ANSWER alice <m>hi  you</m>", "poll_answer", {"target": "alice", "text": "<m>hi  you</m>"}),
    ("POLL KICK alice", "poll_kick", {"target": "alice"}),
    ("POLL WAKE alice", "poll_wake", {"queue": "alice"}),
    (
        "POLL PUBLISH chat alice hello",
        "poll_publish",
        {"service_name": "chat", "queue": "alice", "text": "hello"},
    ),
]


def value_of(text: str, **environ: str) -> str:
    statement = LANGUAGE.parse_line(f"SET x = {text}", environ=environ)
    assert statement
    return statement["value"]


@pytest.mark.parametrize(("text", "rule", "args"), STATEMENTS)
def test_a_statement_parses(text: str, rule: str, args: dict[str, str]) -> None:
    for variant in (text, f"\t{text}  # why", text + "\r\n"):
        statement = LANGUAGE.parse_line(variant, file="a.conf", line=7)
        assert statement
        assert (statement.rule, statement.json, statement.file, statement.line) == (rule, False, "a.conf", 7)
        assert {terminal: arg.text for terminal, arg in statement.args.items()} == args
        assert set(statement.args) <= set(LANGUAGE.terminals(rule))


def test_every_rule_is_parsed_above() -> None:
    assert {rule for _, rule, _ in STATEMENTS} == LANGUAGE.rules


@pytest.mark.parametrize(("text", "rule"), [(t, r) for t, r, _ in STATEMENTS if r.startswith(("show_", "socks", "nodes", "fd"))])
def test_a_query_may_end_in_as_json(text: str, rule: str) -> None:
    plain, as_json = LANGUAGE.parse_line(text), LANGUAGE.parse_line(text + " as JSON")
    assert plain and as_json
    assert as_json.json and not plain.json
    assert as_json.rule == rule
    assert as_json.args == plain.args


@pytest.mark.parametrize("text", ["", "  ", "\t", "# all comment $UNKNOWN", '   # "x', "\r\n", "#"])
def test_nothing_is_no_statement(text: str) -> None:
    assert LANGUAGE.parse_line(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a#b", "a#b"),
        ("a # b", "a"),
        ("a\t#b", "a"),
        ('"a # b"  # c', "a # b"),
        ('""', ""),
        ('" a "', " a "),
        (r'"a\"b\\c\d"', r'a"b\c\d'),
        (r'"a \" # b" # c', 'a " # b'),
        ("a   b", "a   b"),
        ('a "b # c" d # e', 'a "b # c" d'),
        ('5" disk # inch', '5" disk'),
        (r"a\\b", r"a\\b"),
        ("^/a$", "^/a$"),
        ("$$", "$$"),
        ("a$|b$", "a$|b$"),
        ("a\u00a0# b", "a\u00a0# b"),
    ],
)
def test_a_value_is_read(text: str, value: str) -> None:
    assert value_of(text) == value


def test_a_hash_right_after_the_equals_sign_is_part_of_the_value() -> None:
    statement = LANGUAGE.parse_line("SET x =#1")
    assert statement and statement["value"] == "#1"


def test_the_environment_starts_no_comment() -> None:
    assert value_of("$A b", A="x # y") == "x # y b"


def test_columns_point_at_the_words_as_typed() -> None:
    source = "  POOL $P  ADD ${HOST}:80"
    statement = LANGUAGE.parse_line(source, environ={"P": "a-much-longer-name", "HOST": "h"})
    assert statement
    pool, node = statement.args["pool_name"], statement.args["node"]
    assert source[pool.column - 1 : pool.end - 1] == "$P"
    assert source[node.column - 1 : node.end - 1] == "${HOST}:80"
    assert (pool.text, node.text) == ("a-much-longer-name", "h:80")


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cc", "Cs"], blacklist_characters="$"), max_size=40))
def test_a_quoted_value_parses_back(value: str) -> None:
    assert value_of(quoted(value)) == value


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from('"\\# a'), max_size=30))
def test_quotes_backslashes_and_hashes_parse_back(value: str) -> None:
    assert value_of(quoted(value)) == value


_PIECES = ["=", ".", ":", "#", '"', "$", "${", "$HOME", "${ip:lo}", "AS", "JSON", "\\", "\t", " ", "\u00a0"]
_WORDS = [*sorted({word for text, _, _ in STATEMENTS for word in text.split()}), *_PIECES]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(_WORDS), max_size=9).map(" ".join)))
def test_any_text_is_a_statement_nothing_or_a_mistake(text: str) -> None:
    try:
        statement = LANGUAGE.parse_line(text, file="f", line=1, environ={"HOME": "/h"})
    except Mistake as mistake:
        assert mistake.message and mistake.render().startswith("f:1:")
        assert 1 <= mistake.column <= len(text) + 1 and mistake.end > mistake.column
    else:
        assert statement is None or statement.rule in LANGUAGE.rules
    assert isinstance(LANGUAGE.expected(text), list)


@pytest.mark.parametrize("piece", ['"', '\\"', '"\\', "#", " #", "$", "a", "a ", " ", "=", ". ", "${", "a.", "SET ", "\u00e9"])
def test_the_longest_lines_end(piece: str) -> None:
    """Repetitions that a careless pattern would need quadratic time for: minutes, at this length."""
    for prefix in ("", "SET ", "SET x = ", "POOL ADD "):
        line = (prefix + piece * 65536)[:65536]
        assert 0 <= comment_start(line) <= len(line)
        try:
            assert LANGUAGE.parse_line(line, environ={}) is None or line.startswith("SET x = ")
        except Mistake as mistake:
            assert len(mistake.render()) < 300000


@pytest.mark.parametrize(
    ("line", "args"),
    [
        ('CREATE SERVICE "a"', {"new_name": "a"}),
        ('POOL "add" ADD "10.0.0.1:80"', {"pool_name": "add", "node": "10.0.0.1:80"}),
        ('SET "site"."idle_timeout" = 3s', {"object_name": "site", "tunable": "idle_timeout", "value": "3s"}),
        ('SET "idle_timeout" = "3s"', {"tunable": "idle_timeout", "value": "3s"}),
        ('HEADER "s" INSERT "X-A": "b # c"', {"service_name": "s", "field_name": "X-A", "field_value": "b # c"}),
        ('VHOST "s" "*.a" = "b"', {"selector_name": "s", "pattern": "*.a", "target_name": "b"}),
        (r'VPATH "^/a b\\.\$" = b', {"regex": r"^/a b\.$", "target_name": "b"}),
        ('SHOW PARKED "summary"', {"service_name": "summary"}),
        (r'SET x = "\$HOME \\ \" \n"', {"tunable": "x", "value": r"""$HOME \ " \n"""}),
        ("SET x = ${env:WORDS}", {"tunable": "x", "value": 'a "b" # c'}),
        ('SET x = "<${env:WORDS}>${env:WORDS}"', {"tunable": "x", "value": '<a "b" # c>a "b" # c'}),
        ("POOL p ADD ${env:HOST}:${env:PORT:-80}", {"pool_name": "p", "node": "h:80"}),
        ("SET ${env:HOST} x = ${env:NONE:-}", {"object_name": "h", "tunable": "x", "value": ""}),
    ],
)
def test_arguments_in_quotes_and_from_variables(line: str, args: dict[str, str]) -> None:
    for language in (Language(bundled_fragments()), LANGUAGE):  # the second time its shape is known
        for _ in range(2):
            statement = language.parse_line(line, environ={"WORDS": 'a "b" # c', "HOST": "h"})
            assert statement is not None
            assert {kind: arg.text for kind, arg in statement.args.items()} == args


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("POOL p ADD ${file:secret}", "what a file holds is not to be seen, and a node is"),
        ('SHOW ERRORS "${env:WORDS}"', 'expected a number, found "${env:WORDS}"'),
        ("CREATE SERVICE ${env:WORDS}", "expected a new name, found ${env:WORDS}"),
        ("SET ${file:secret} = x", "what a file holds is not to be seen, and a tunable is"),
        ("SET x = ${file:secret} ${nope:y}", "'nope' is not a type of variable, expected env, file or ip as in ${ip:eth0}"),
        ("ENABLE s ${file:secret}", "expected the end of the line, found '${file:secret}'"),
        ("SET x y ${file:secret}", "expected '=', found '${file:secret}'"),
        ('SET x = "a ${file:secret}', "the quote is never closed"),
    ],
)
def test_a_mistake_shows_variables_as_they_were_written(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "secret").write_text("hush\n")
    with pytest.raises(Mistake) as raised:
        LANGUAGE.parse_line(line, environ={"WORDS": "hush hush"}, folder=tmp_path)
    assert raised.value.message == message
    assert "hush" not in raised.value.render() + repr(raised.value.as_object())


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=8).map(" ".join), st.sampled_from([text for text, _, _ in STATEMENTS]))
)
def test_a_line_like_one_seen_before_means_what_the_grammar_says(text: str) -> None:
    def meaning(language: Language) -> object:
        try:
            return language.parse_line(text, environ={"HOME": "/h"})
        except Mistake as mistake:
            return mistake.render()

    assert meaning(LANGUAGE) == meaning(LANGUAGE) == meaning(_unpractised())


def _unpractised() -> Language:
    """The same language, which has seen no line."""
    language = copy.copy(LANGUAGE)
    language._shapes = Shapes()
    return language


# --- completion and usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sh", ["SHOW", "SHUTDOWN"]),
        ("POOL ", ["ADD", "REMOVE", "pool_name"]),
        ("POOL a", ["ADD", "pool_name"]),
        ("POOL a ", ["ADD", "DOWN", "DRAIN", "MAINT", "READY", "REMOVE", "UP"]),
        ("POOL a ADD ", ["node"]),
        ("SET ", ["object_name", "tunable"]),
        ("SET web.", ["tunable"]),
        ("SET web.pers", ["tunable"]),
        ("SET web ", [".", "tunable"]),
        ("SET x = ", ["value"]),
        ("SET x = fo", ["value"]),
        ("SHOW POOL ", ["AS", "pool_name"]),
        ("show parked l", ["LIKE", "LIMIT", "service_name"]),
        ("nonsense ", []),
        ("LOAD ", ["plugin_name"]),
        ("uptime as ", ["JSON"]),
        ("HEADER s INSERT X-A ", [":"]),
    ],
)
def test_completion(text: str, expected: list[str]) -> None:
    assert LANGUAGE.expected(text) == expected


@pytest.mark.parametrize("text", [text for text, _, _ in STATEMENTS])
def test_every_statement_can_be_completed_word_by_word(text: str) -> None:
    statement = LANGUAGE.parse_line(text)
    assert statement is not None
    for match in re.finditer(r"\S+", text):
        if not any(arg.column - 1 < match.start() < arg.end - 1 for arg in statement.args.values()):
            place = LANGUAGE.completing(text[: match.start()])
            assert match[0].upper() in place.literals or place.kinds, match[0]
            assert place.start == match.start()


def test_an_empty_line_completes_to_every_verb() -> None:
    verbs = LANGUAGE.expected("")
    assert {"CREATE", "SHOW", "VHOST", "QUIT"} <= set(verbs)
    assert "VHOST" not in CORE.expected("")


@pytest.mark.parametrize(
    ("rule", "usage"),
    [
        (
            "pool_add",
            "POOL <pool_name> ADD <node>%s | POOL ADD <pool_name> <node>%s" % ((" [WEIGHT <node_weight>] [BACKUP] [MAX <node_max>]",) * 2),
        ),
        ("set", "SET <tunable> = <value> | SET <object_name> [.] <tunable> = <value>"),
        ("show_parked", "SHOW PARKED [<service_name>] [LIKE <glob>] [LIMIT <count>]"),
        ("header_insert", "HEADER <service_name> INSERT <field_name> : <field_value>"),
        ("quit", "QUIT | EXIT"),
    ],
)
def test_usage(rule: str, usage: str) -> None:
    assert LANGUAGE.syntax(rule) == usage


# --- fragments ---------------------------------------------------------------------------------------------


def test_a_plugins_statements_come_and_go_with_its_fragment() -> None:
    language = Language({"shout": '%extend statement: shout\nshout: "SHOUT"i TEXT\nTEXT: /\\S.*/\n'})
    statement = language.parse_line('shout "hello  "')
    assert statement and statement["text"] == "hello  "
    assert language.rules - CORE.rules == {"shout"}
    with pytest.raises(Mistake, match="shout"):
        CORE.parse_line("shout hello")


@pytest.mark.parametrize(
    "text",
    [
        "%extend statement: nowhere\n",
        "this is no grammar",
        '%extend statement: use\nuse: "USE"i\n',
        '%extend statement: a\na: "A" X\nX: /(/\n',
        '%extend statement: a\na: "UPTIME"i\n',
    ],
)
def test_a_fragment_that_does_not_build_is_named(text: str) -> None:
    some = dict(list(bundled_fragments().items())[:2])  # each is tried, up to the one at fault
    fragments = {**some, "broken": text, "fine": ""}
    with pytest.raises(GrammarMistake, match="grammar of plugin broken does not build") as raised:
        Language(fragments).build()
    assert raised.value.plugin == "broken"


def test_two_plugins_may_have_terminals_of_one_name() -> None:
    one = '%extend statement: feed\nfeed: "FEED"i COUNT\n// a COUNT "of" animals\nCOUNT: /[0-9]+/\n'
    other = '%extend statement: milk\nmilk: "MILK"i COUNT NODE\nCOUNT: /[a-z]+/\n'
    language = Language({"farm": one, "dairy-shop": other})
    for line, count in (("FEED 12", "12"), ("MILK twelve 127.0.0.1", "twelve")):
        statement = language.parse_line(line)
        assert statement is not None and statement.args["count"].text == count
    with pytest.raises(Mistake, match="expected a count, found 'twelve'"):
        language.parse_line("FEED twelve")
    assert language.expected("MILK ") == ["count"]
    assert language.syntax("milk") == "MILK <count> <node>"
