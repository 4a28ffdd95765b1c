"""Plugins fail closed and loudly: what would load in silence is refused, and what goes wrong is that request's 500."""

import asyncio
import sys
import weakref
from collections.abc import Callable

import pytest
from lab import DEADLINE, Lab, Pbal, lab, read_response, until

from pbal.build import is_compiled
from pbal.commands.interpreter import Interpreter
from pbal.model.measures import samples
from pbal.model.world import World

HEAD = "from pbal.api import Exchange, Plugin, Verdict, hook\n\n\nclass Rule(Plugin):\n"


def get(path: str = "/page", *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: h", *fields, "", ""]).encode()


def plugin(lab: Lab, *lines: str, head: str = HEAD) -> None:
    """Write the plugin `rule`; lines are of the class, `|` for a further indent."""
    (lab.folder / "rule.py").write_text(head + "".join(f"    {line.replace('|', '    ')}\n" for line in lines))


async def site(lab: Lab, role: str = "web_server", load: str = "LOAD rule", chain: str = "SET plugins = rule") -> Pbal:
    (lab.folder / "page").write_text("a page")
    docroot = f"SET docroot = {lab.folder}" if role == "web_server" else ""
    return await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        {load}
        CREATE SERVICE site
          SET role    = {role}
          SET listen  = 127.0.0.1:0
          {docroot}
          {chain}
        ENABLE site
    """)


HOOK = "@hook.start_http_request"
REFUSED = [
    (("{h}", "async def rule(self, exchange):", "|return Verdict.PASS"), "rule is async"),
    (("{h}", "def rule(self, exchange):", "|yield Verdict.PASS"), "rule is a generator"),
    (("{h}", "async def rule(self, exchange):", "|yield Verdict.PASS"), "rule is an asynchronous generator"),
    (("{h}", "def rule(self):", "|return Verdict.PASS"), "is called with (exchange)"),
    (("{h}", "def rule(self, exchange, more=1):", "|return Verdict.PASS"), "is called with (exchange)"),
    (("{h}", "def rule(self, *exchange):", "|return Verdict.PASS"), "is called with (exchange)"),
    (("@staticmethod", "{h}", "def rule(exchange):", "|return Verdict.PASS"), "staticmethod"),
    (("{h}", "@staticmethod", "def rule(exchange):", "|return Verdict.PASS"), "staticmethod"),
    (("{h}", "@property", "def rule(self):", "|return Verdict.PASS"), "property"),
    (("def start_http_request(self, exchange):", "|return Verdict.PASS"), "is not marked"),
    (("{h}", "def a(self, exchange):", "|return Verdict.PASS", "{h}", "def b(self, exchange):", "|return Verdict.PASS"), "both claim"),
    (("{h}", "def a(self, exchange):", "|return Verdict.PASS", "def a(self, exchange):", "|return Verdict.PASS"), "is marked"),
    (("roles = frozenset({'web_server'})", "@hook.select_service", "def a(self, exchange):", "|return Verdict.PASS"), "would never run"),
    (("roles = 'web_server'",), "frozenset"),
    (("roles = frozenset({'web_sever'})",), "web_sever"),
    (("guards = True",), "Rule guards, and has no hook: it would keep nobody out"),
    (("async def open(self):", "|self.ready = True"), "open is async"),
    (("def quiesce(self):", "|self.ready = True"), "quiesce is awaited"),
    (("def changed(self):", "|self.ready = True"), "changed is called as changed(tunable)"),
    (("def wants_body(self):", "|return False"), "wants_body"),
    (("@hook.start_http_requests", "def a(self, exchange):", "|return Verdict.PASS"), "did you mean 'start_http_request'"),
]


@pytest.mark.parametrize(("lines", "said"), REFUSED)
def test_what_would_load_in_silence_is_refused(lines: tuple[str, ...], said: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, load="", chain="")
        plugin(lab, *(line.replace("{h}", HOOK) for line in lines))
        before = set(sys.modules)
        answer = await pbal.say("LOAD rule")
        assert answer.startswith("ERROR: ") and said in answer, answer
        assert "rule" not in pbal.world.plugins
        assert not [name for name in set(sys.modules) - before if name.startswith("pbal_loaded_rule")]

    run()


TUNABLE = "tunables = (Tunable('rule_x', {}),)"
RULE = """grammar = '%extend statement: rule\\n\\nrule: "RULE"i {}\\n'"""
DECLARED = [
    ("tunables = Tunable('rule_x', INT)", "write tunables = (Tunable(NAME, TYPE, default=TEXT),)"),
    ("tunables = ('rule_x',)", "tunables has 'rule_x' in it"),
    ("tunables = (Tunable('Rule_X', INT),)", "tunable 'Rule_X': a name has lower-case letters"),
    ("tunables = (Tunable('rule-x', INT),)", "tunable 'rule-x': a name has lower-case letters"),
    ("tunables = (Tunable('rule_x', INT), Tunable('rule_x', TEXT))", "tunable 'rule_x' is declared twice"),
    (TUNABLE.format("int"), "has the type <class 'int'>: write one of pbal.api"),
    (TUNABLE.format("INT, default=10"), "default is 10: it is a text"),
    (TUNABLE.format("INT, default='ten'"), "default is 'ten': expected a whole number"),
    (TUNABLE.format("INT, default='1', minimum=0"), "minimum is 0: it is a text"),
    (TUNABLE.format("INT, default='1', perlbal='x'"), "perlbal is 'x': expected a whole number"),
    (TUNABLE.format("INT, roles='web_server'"), "roles is 'web_server': write frozenset"),
    (TUNABLE.format("INT, roles={'web_sever'}"), "roles names 'web_sever'; roles are"),
    ("counters = Counter('rule_x', 'x')", "write counters = (Counter(NAME, SUMMARY),)"),
    ("counters = (Counter('rule x', 'x'),)", "counter 'rule x': a name has lower-case letters"),
    ("counters = (Counter('rule_x', 'x', labels='service'),)", "labels is 'service'"),
    ("counters = (Counter('rule_total', 'x'),)", "/metrics adds _total to the name: leave it out"),
    ("counters = (Counter('requests', 'x', gauge=True),)", "there is a counter 'requests' of pbal already"),
    ("counters = (Counter('uptime_seconds', 'x'),)", "there is a counter 'uptime_seconds' of pbal already"),
    ("counters = (Counter('cgilike_failures', 'x'),)", "there is a counter 'cgilike_failures' of the plugin cgilike already"),
    ("guards = 'no'", "guards is 'no': it is True or False"),
    ("needs = 'PIL'", "needs is 'PIL'"),
    ("needs = {'no_such_package.part': 'more'}", "needs no_such_package.part, which is not installed: pip install 'more'"),
    ("version = 1.0", "version is 1.0"),
    ("grammar = 7", "grammar is 7"),
    ("commands = rule", "write commands = (FUNCTION,)"),
    ("commands = ('rule',)", "commands has 'rule' in it"),
    (f"{RULE.format('SERVICE_NAME')}; commands = (rule,)", "handler rule has no parameter service"),
    (f"{RULE.format('')}; commands = (nothing,)", "the handler nothing takes nothing"),
    ("grammar = '%override shutdown: \"X\"'", "its grammar says '%override shutdown"),
    ("grammar = '%extend set: \"X\"'", "its grammar says '%extend set"),
    (f"{RULE.format('(')}; commands = (rule,)", "the grammar of plugin rule does not build: Expecting a value, at line 3"),
    ("conversations = (spoken('async def received(self, data): ...'),)", "received is async, and is called, not awaited"),
    ("conversations = (spoken('def received(self): ...'),)", "received is called as received(data)"),
    ("def __init__(self): pass", "__init__ is called with (service, world)"),
    ("async def __init__(self, service, world): pass", "__init__ is called with (service, world)"),
    (f"x = {'-' * 100_000}1", "rule.py does not import: MemoryError"),
]


@lab
async def test_what_a_plugin_declares_is_what_it_should_be(lab: Lab) -> None:
    pbal = await site(lab, load="LOAD cgilike", chain="")
    before = await pbal.say("dumpconfig"), pbal.world.counters.all, set(sys.modules)
    head = "from pbal.api import *\n\n\ndef rule(session): ...\n\n\ndef nothing(): ...\n\n\n"
    head += "def spoken(text):\n    names = {}\n    exec(text, names)\n    made = {'received': names['received']}\n"
    head += "    return OwnRole(Role('spoken', 'Spoken', http=False), type('Spoken', (Conversation,), made))\n\n\nclass Rule(Plugin):\n"
    for line, said in DECLARED:
        plugin(lab, line, head=head)
        answer = await pbal.say("LOAD rule")
        assert answer.startswith("ERROR: ") and said in answer, (line[:100], answer)
        assert "rule" not in pbal.world.plugins
    assert (await pbal.say("dumpconfig"), pbal.world.counters.all) == before[:2]
    assert not [name for name in set(sys.modules) - before[2] if name.startswith("pbal_loaded_rule")]


@lab
async def test_a_type_of_a_plugin_that_fails_refuses_what_is_said(lab: Lab) -> None:
    pbal = await site(lab, load="", chain="")
    before = await pbal.say("dumpconfig")
    head = "from pbal.api import Plugin, Tunable, Type\n\n\nclass Rule(Plugin):\n"
    for functions, why in (
        ("lambda text: {}[text]", "fails at it: KeyError: '5'"),
        ("lambda text: exit(3)", "fails at it: SystemExit: 3"),
        ("str, lambda value: {}[value]", "cannot write its value: KeyError: '5'"),
        ("str, lambda value: None", "writes its value as a NoneType that is no text of one line"),
        ("str, lambda value: 'a\\nSHUTDOWN'", "writes its value as a str that is no text of one line"),
        ("lambda text: {'5': 5}[text], lambda value: 'five'", "fails at it: KeyError: 'five'"),
    ):
        plugin(lab, f"tunables = (Tunable('rule_x', Type('odd', {functions})),)", head=head)
        assert await pbal.say("LOAD rule") == "OK"
        for statement in ("SET site.rule_x = 5", "DEFAULT rule_x = 5"):
            answer = await pbal.say(statement)
            assert answer.startswith("ERROR: rule_x: the type 'odd' ") and why in answer, answer
        assert "rule_x = VALUE" in await pbal.say("help rule_x")
        assert await pbal.say("UNLOAD rule") == "OK"
    assert await pbal.say("dumpconfig") == before


@lab
async def test_what_a_tunable_reads_may_be_named_by_a_value_of_any_type(lab: Lab) -> None:
    plugin(
        lab, "tunables = (Tunable('rule_file', Type('files', str.split, lambda value: ' '.join(value)), reads=lambda value: list(value)),)",
        HOOK, "def answer(self, exchange):", "|exchange.respond(200, (), repr(self.service.reading('rule_file')).encode())",
        "|return Verdict.TAKEN",
        head=HEAD.replace("Plugin,", "Plugin, Tunable, Type,"),
    )  # fmt: skip
    pbal = await site(lab)
    for statement in ("SET site.rule_file = a b", "RELOAD rule"):
        assert await pbal.say(statement) == "OK", statement
        assert (await pbal.ask("site", get())).body == b"['a', 'b']", statement
    assert [await pbal.say(f"{verb} site") for verb in ("DISABLE", "ENABLE")] == ["OK", "OK"]


@lab
async def test_a_tunable_of_another_type_is_no_drift(lab: Lab) -> None:
    declared, head = "tunables = (Tunable('rule_time', {}),)", HEAD.replace("Plugin,", "DURATION, TEXT, Plugin, Tunable,")
    plugin(lab, declared.format("TEXT"), HOOK, "def look(self, exchange):", "|return Verdict.PASS", head=head)
    pbal = await site(lab, chain="SET plugins = rule\nDEFAULT rule_time = 3600s\nSET rule_time = 120s")
    plugin(lab, declared.format("DURATION"), HOOK, "def look(self, exchange):", "|return Verdict.PASS", head=head)
    assert await pbal.say("RELOAD rule") == "OK" and "SET rule_time = 2m" in await pbal.say("dumpconfig")
    assert await pbal.say("CONFIG DRIFT") == "."
    assert await pbal.say("SET site.rule_time = 9s") == "OK"
    assert await pbal.say("CONFIG DRIFT") == "SET site.rule_time = 9s\n."
    assert await pbal.say("CONFIG SAVE") == "OK"


@lab
async def test_what_a_plugin_says_of_itself_and_fails_at_is_told_in_its_place(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Starting is a look at it, too: where it hands requests to."""
    pbal: Pbal | None = None
    for said, why in (
        ("'RULE a'", "not a tuple of statements"),
        ("('a\\nSHUTDOWN',)", "not a text of one line"),
        ("(7,)", "returned 7"),
        ("(' ',)", "not a text of one line"),
    ):
        plugin(lab, "def dumpconfig(self):", f"|return {said}", "def targets(self):", "|raise KeyError('oh')")
        if pbal is None:
            pbal = await site(lab)
            assert "plugin rule generation 1, targets(): KeyError: 'oh' (rule.py:8)" in caplog.text
        else:
            assert await pbal.say("RELOAD rule") == "OK"
        for query in ("show rules", "dumpconfig"):
            answer = await pbal.say(query)
            assert "# plugin 'rule', dumpconfig(): TypeError: it returned" in answer and why in answer, answer
        for change in ("drop rule site 1", "create service other like site"):
            answer = await pbal.say(change)
            assert answer.startswith("ERROR: plugin 'rule', dumpconfig(): TypeError: it returned"), answer
        assert "other" not in pbal.world.services


@lab
async def test_what_a_plugin_measures_and_explains_wrongly_hides_nothing_else(lab: Lab) -> None:
    plugin(lab, "counters = (Counter('rule_many', 'x'), Counter('rule_odd', 'x', labels=('a',)), Counter('rule_good', 'x', labels=('a',)))",
           HOOK, "def rule(self, exchange):", "|self.counts['rule_many'] = 'many'", "|return Verdict.PASS",
           "def measured(self, name):", "|yield (('a\\n\"b',), 7) if name == 'rule_good' else (('x',), None)",
           "def explain(self, exchange):", "|return 'all of it'", head=HEAD.replace("import ", "import Counter, "))  # fmt: skip
    pbal = await site(lab)
    assert (await pbal.ask("site", get())).body == b"a page"
    numbers = await pbal.say("show counters")
    assert 'rule_good{a="a\\n\\"b"} 7' in numbers and "requests 1" in numbers and "rule_many" not in numbers and "rule_odd" not in numbers
    assert "pbal_rule_good" in [each.family for each in samples(pbal.world)]
    answer = await pbal.say(f"explain GET http://127.0.0.1:{pbal.server.address('site')[1]}/page")
    assert answer.startswith("ERROR: plugin 'rule', explain(): TypeError: it returned 'all of it', not an Explanation or None")


@pytest.mark.parametrize(
    "line",
    [
        "import pbal.server", "import pbal", "from pbal import server", "from pbal.model.world import World", "from pbal.server import *",
        "import importlib; importlib.import_module('pbal.server')", "__import__('pbal.net')", "from .. import server",
        "import sys; sys.modules['pbal.server']", "import pbal.api\npbal.server",
    ],
)  # fmt: skip
def test_other_doors_are_shut_and_the_line_is_said(line: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, load="", chain="")
        plugin(lab, "pass", head=f"# a comment\n{line}\n{HEAD}")
        answer = await pbal.say("LOAD rule")
        assert answer.startswith("ERROR: ") and "pbal.api" in answer, answer
        assert f"rule.py:{2 + line.count(chr(10))}" in answer

    run()


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("True", "returned True"), ("None", "returned None"), ("'taken'", "returned 'taken'"), ("1", "returned 1"),
        ("self.later(exchange)", "coroutine that nobody runs"), ("(x for x in ())", "generator"), ("Verdict", "not Verdict.PASS"),
    ],
)  # fmt: skip
def test_a_verdict_that_is_none_is_a_fault_and_never_a_pass(returned: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, HOOK, "def rule(self, exchange):", f"|return {returned}", "async def later(self, exchange):", "|return Verdict.PASS")
        pbal = await site(lab)
        reader, writer = await pbal.connect("site")
        for number in (1, 2):
            writer.write(get())
            assert (await read_response(reader)).status == 500
            assert pbal.counts["plugin_errors"] == number
        assert "plugin rule generation 1, hook start_http_request" in caplog.text and said in caplog.text
        assert "rule.py:" in caplog.text

    run()


@lab
async def test_faults_of_one_kind_are_logged_once_and_counted(lab: Lab) -> None:
    plugin(lab, HOOK, "def rule(self, exchange):", "|return exchange.nonsense")
    pbal = await site(lab)
    reader, writer = await pbal.connect("site")
    for _ in range(50):
        writer.write(get())
        assert (await read_response(reader)).status == 500
    assert pbal.counts["plugin_errors"] == 50
    assert pbal.counts["log_lines_limited"] == 49
    assert "errors 50" in await pbal.say("show plugins")


@lab
async def test_a_hook_that_raises_after_it_answered_or_handed_on_answers_nothing_more(lab: Lab) -> None:
    plugin(lab, HOOK, "def rule(self, exchange):", "|exchange.respond(403, (), b'no')", "|raise ValueError('late')")
    pbal = await site(lab)
    reader, writer = await pbal.connect("site")
    writer.write(get() + get())
    for _ in range(2):
        assert (await read_response(reader)).status == 403
    assert pbal.counts["plugin_errors"] == 2 and pbal.counts["requests"] == 2


@pytest.mark.parametrize(
    "what",
    ["raise SystemExit(3)", "raise KeyboardInterrupt", "raise GeneratorExit", "raise asyncio.CancelledError", "raise MemoryError",
     "raise BaseExceptionGroup('all', [KeyboardInterrupt()])", "self.rule(exchange)", "bytearray(1 << 62)"],
)  # fmt: skip
@lab
async def test_what_would_end_a_program_ends_the_hook_and_not_the_server(lab: Lab, what: str) -> None:
    plugin(lab, HOOK, "def rule(self, exchange):", f"|{what}", head=f"import asyncio\n{HEAD}")
    pbal = await site(lab)
    reader, writer = await pbal.connect("site")
    for _ in range(2):
        writer.write(get())
        assert (await read_response(reader)).status == 500
    assert pbal.counts["plugin_errors"] == 2


@lab
async def test_a_slow_hook_is_named(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    plugin(lab, HOOK, "def rule(self, exchange):", "|end = time.monotonic() + 0.06", "|while time.monotonic() < end:", "||pass",
           "|return Verdict.PASS", head=f"import time\n{HEAD}")  # fmt: skip
    pbal = await site(lab)
    assert (await pbal.ask("site", get())).body == b"a page"
    assert "plugin rule" in caplog.text and "start_http_request" in caplog.text and " ms" in caplog.text


@lab
async def test_traffic_goes_on_while_a_module_works_at_its_import(lab: Lab) -> None:
    plugin(lab, HOOK, "def rule(self, exchange):", "|return Verdict.PASS")
    pbal = await site(lab)
    gate = lab.folder / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.005)\n"
    plugin(lab, HOOK, "def rule(self, exchange):", "|exchange.respond(200, (), b'new')", "|return Verdict.TAKEN", head=wait + HEAD)
    reloading = asyncio.create_task(pbal.say("RELOAD rule"))
    for _ in range(20):
        assert (await pbal.ask("site", get())).body == b"a page"
    assert not reloading.done()
    gate.write_text("")
    assert await reloading == "OK"
    assert (await pbal.ask("site", get())).body == b"new"


@pytest.mark.parametrize(
    ("method", "make"),
    [
        ("def close(self)", lambda pbal: pbal.say("RELOAD rule")),
        ("def close(self)", lambda pbal: pbal.say("SET site.plugins = none")),
        ("def service_disabled(self)", lambda pbal: pbal.say("DISABLE site")),
    ],
)
def test_a_fault_in_an_ending_is_logged_with_its_line_and_ends_nothing_else(
    method: str, make: Callable[[Pbal], object], caplog: pytest.LogCaptureFixture
) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, f"{method}:", "|raise KeyError('oh')")
        pbal = await site(lab)
        assert await make(pbal) == "OK"  # type: ignore[misc]
        assert "KeyError" in caplog.text and "rule.py:6" in caplog.text, caplog.text
        assert pbal.counts["plugin_errors"] == 1

    run()


@pytest.mark.parametrize(
    "method", ["def check(self)", "def open(self)", "def adopt(self, carried)", "def carry(self)", "async def quiesce(self)"]
)
def test_a_fault_in_a_beginning_refuses_the_reload_with_its_line(method: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        old = "carry" in method or "quiesce" in method
        broken = (f"{method}:", "|raise KeyError('oh')")
        plugin(lab, *(broken if old else ("pass",)))
        pbal = await site(lab)
        if not old:
            plugin(lab, *broken)
        answer = await pbal.say("RELOAD rule")
        assert answer.startswith("ERROR: ") and "KeyError" in answer and "rule.py:6" in answer, answer
        assert (await pbal.ask("site", get())).body == b"a page"

    run()


@lab
async def test_an_upload_is_read_whole_for_those_who_want_it_and_streams_past_the_others(lab: Lab) -> None:
    begun = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        first = await reader.read(3)
        begun.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + first + await reader.readexactly(6 - len(first)))

    origin = await lab.origin(app)
    plugin(
        lab, "def wants_body(self, exchange):", "|return exchange.path == b'/whole'", "@hook.proxy_read_request",
        "def read(self, exchange):", "|if exchange.path == b'/whole':", "||exchange.respond(200, (), exchange.read_body())",
        "||return Verdict.TAKEN", "|return Verdict.PASS",
    )  # fmt: skip
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD rule
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE site
          SET role    = reverse_proxy
          SET listen  = 127.0.0.1:0
          SET pool    = app
          SET plugins = rule
          SET buffer_backend_connect = 0
        ENABLE site
    """)
    for path in ("/whole", "/streamed"):
        reader, writer = await pbal.connect("site")
        writer.write(f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc".encode())
        if path == "/streamed":
            await asyncio.wait_for(begun.wait(), DEADLINE)
        writer.write(b"def")
        assert (await read_response(reader)).body == b"abcdef"


@pytest.mark.parametrize("returned", ["None", "1", "exchange.nonsense"])
def test_wants_body_that_does_not_say_is_a_fault(returned: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, "def wants_body(self, exchange):", f"|return {returned}", "@hook.proxy_read_request",
               "def read(self, exchange):", "|return Verdict.PASS")  # fmt: skip
        pbal = await site(lab)
        request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
        assert (await pbal.ask("site", request)).status == 500
        assert pbal.counts["plugin_errors"] == 1

    run()


@lab
async def test_generations_that_were_replaced_are_freed(lab: Lab) -> None:
    plugin(lab, HOOK, "def rule(self, exchange):", "|return Verdict.PASS")
    pbal = await site(lab)

    generations = []
    for _ in range(10):
        generations.append(weakref.ref(pbal.world.plugins["rule"].plugin_class))
        assert await pbal.say("RELOAD rule") == "OK"
    await until(lambda: not any(generation() for generation in generations), "ten generations to be collected")
    assert (await pbal.ask("site", get())).body == b"a page"


FAULTS_IN_LIFE = ["__init__(self, service, world)", "check(self)", "open(self)", "changed(self, tunable)"]


@pytest.mark.parametrize("method", FAULTS_IN_LIFE)
@pytest.mark.parametrize("what", ["raise KeyError('oh')", "raise SystemExit(3)", "raise asyncio.CancelledError"])
def test_a_fault_in_a_statement_refuses_it_whole_in_one_line(method: str, what: str, caplog: pytest.LogCaptureFixture) -> None:
    @lab
    async def run(lab: Lab) -> None:
        plugin(lab, f"def {method}:", "|raise_it = True", f"|{what}", head=f"import asyncio\n{HEAD}")
        pbal = await site(lab, chain="")
        said = await pbal.say("SET site.plugins = rule")
        assert said.startswith("ERROR: ") and f"plugin 'rule', {method.partition('(')[0]}(): " in said and "rule.py:8" in said, said
        assert "oh" in said or "SystemExit: 3" in said or "CancelledError" in said
        assert not pbal.world.service("site").plugins and "plugins" not in await pbal.say("dumpconfig")
        assert pbal.counts["plugin_errors"] >= 1
        assert (await pbal.ask("site", get())).body == b"a page"
        assert not any(record.exc_info for record in caplog.records)

    run()


@lab
async def test_who_gives_a_request_back_and_takes_it_again_for_ever_is_found(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    plugin(lab, HOOK, "def rule(self, exchange):", "|asyncio.get_running_loop().call_soon(exchange.go_on)", "|return Verdict.TAKEN",
           head=f"import asyncio\n{HEAD}")  # fmt: skip
    pbal = await site(lab)
    assert (await pbal.ask("site", get())).status == 500 and not pbal.world.taken and pbal.counts["plugin_errors"] == 1
    assert "plugin rule generation 1, go_on(): took the same request again after each of 100 times" in caplog.text
    plugin(lab, "@hook.modify_response_headers", "def bad(self, exchange, response):", "|response.headers.append((b'A', b'b\\nc'))")
    assert await pbal.say("RELOAD rule") == "OK"
    assert (await pbal.ask("site", get())).status == 500
    assert "hook modify_response_headers: IllegalField: not a header field: b'A: b\\nc' (rule.py:5)" in caplog.text


@lab
async def test_a_chain_that_one_refuses_stays_as_it_was(lab: Lab) -> None:
    """`other` refuses to be with `rule`: nothing is opened or closed for it, and who was there serves on."""
    plugin(lab, HOOK, "def rule(self, exchange):", "|exchange.respond(403, (), b'no')", "|return Verdict.TAKEN", "def close(self):",
           "|self.counts['rules_closed'] += 1")  # fmt: skip
    (lab.folder / "rule.py").rename(lab.folder / "other.py")
    plugin(lab, "def check(self):", "|if len(self.service['plugins']) > 1:", "||raise ConfigError('alone or not at all')",
           HOOK, "def look(self, exchange):", "|exchange.respond(200, (), b'alone')", "|return Verdict.TAKEN",
           head=HEAD.replace("import ", "import ConfigError, "))  # fmt: skip
    pbal = await site(lab, load="LOAD rule\n        LOAD other")
    pbal.counts["rules_closed"] = 0
    for chain in ("rule other", "other rule"):
        assert "alone or not at all" in await pbal.say(f"SET site.plugins = {chain}")
        assert (await pbal.ask("site", get())).body == b"alone"
        assert [name for name, _ in pbal.world.service("site").plugins] == ["rule"]
    assert pbal.counts["rules_closed"] == 0
    assert await pbal.say("SET site.plugins = other") == "OK"
    assert (await pbal.ask("site", get())).status == 403


@lab
async def test_a_setting_that_a_plugin_fails_at_keeps_its_value(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    plugin(lab, "def changed(self, tunable):", "|raise SystemExit(tunable)")
    pbal = await site(lab)
    before = await pbal.say("dumpconfig")
    for _ in range(3):
        assert "plugin 'rule', changed(): SystemExit: idle_timeout (rule.py:6)" in await pbal.say("SET site.idle_timeout = 7s")
    assert await pbal.say("dumpconfig") == before
    assert not any(record.exc_info for record in caplog.records)


@lab
async def test_a_dumpconfig_that_fails_is_said_in_its_place(lab: Lab) -> None:
    plugin(lab, "def dumpconfig(self):", "|raise KeyError('oh')")
    pbal = await site(lab)
    assert "# plugin 'rule', dumpconfig(): KeyError: 'oh' (rule.py:6): its statements are missing here" in await pbal.say("dumpconfig")
    assert pbal.counts["plugin_errors"] == 1


@lab
async def test_a_statement_of_a_plugin_that_fails_is_one_line_with_its_place(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    plugin(
        lab,
        "commands = (rule,)",
        head="from pbal.api import Plugin\n\n\ndef rule(session):\n    raise KeyError('oh')\n\n\nclass Rule(Plugin):\n",
    )
    (lab.folder / "rule.lark").write_text('%extend statement: rule\n\nrule: "RULE"i\n')
    pbal = await site(lab)
    assert (await pbal.say("RULE")).startswith("ERROR: plugin 'rule', statement rule: KeyError: 'oh' (rule.py:5)")
    assert pbal.counts["plugin_errors"] == 1
    assert not any(record.exc_info for record in caplog.records)


@lab
async def test_a_statement_of_a_plugin_that_waits_holds_up_no_other_for_ever(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbal.commands.interpreter.STATEMENT_LIMIT", 0.05)
    head = "import asyncio, sys\nfrom pbal.api import Plugin\n\n\n"
    head += "async def wait(session):\n    await asyncio.Event().wait()\n\n\nasync def leave(session):\n    sys.exit(3)\n\n\n"
    head += "async def give_up(session):\n    raise asyncio.CancelledError\n\n\nclass Rule(Plugin):\n"
    plugin(lab, "commands = (wait, leave, give_up)", "def dumpconfig(self):", "|return ()", head=head)
    rules = '%extend statement: wait | leave | give_up\n\nwait: "WAIT"i\nleave: "LEAVE"i\ngive_up: "GIVE"i "UP"i\n'
    (lab.folder / "rule.lark").write_text(rules)
    pbal = await site(lab)
    waiting = asyncio.create_task(pbal.say("WAIT"))
    assert await pbal.say("SET site.idle_timeout = 7s") == "OK"
    assert (await waiting).startswith("ERROR: plugin 'rule', statement wait: it did not end within 0.05 s")
    assert (await pbal.say("LEAVE")).startswith("ERROR: plugin 'rule', statement leave: SystemExit: 3 (rule.py:10)")
    assert (await pbal.say("GIVE UP")).startswith("ERROR: plugin 'rule', statement give_up: CancelledError (rule.py:14)")
    mistakes = Interpreter(World()).run_file("x.conf", f"SERVER plugin_path = {lab.folder}\nLOAD rule\nLEAVE\n".encode())
    assert [mistake.message for mistake in mistakes] == ["plugin 'rule', statement leave: SystemExit: 3 (rule.py:10)"]


@lab
async def test_an_answer_of_a_plugin_that_is_none_or_fails_is_told_in_a_line(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    answers = {"nothing": "return None", "text": "return 'text'", "left": "return Text(sys.exit(3) for line in [0])",
               "half": "return Text([1].index(line) for line in [2])"}  # fmt: skip
    head = "import sys\nfrom pbal.api import Plugin, Text\n\n\n"
    head += "".join(f"def {name}(session):\n    {body}\n\n\n" for name, body in answers.items())
    plugin(lab, f"commands = ({', '.join(answers)},)", head=f"{head}class Rule(Plugin):\n")
    rules = f"%extend query: {' | '.join(answers)}\n\n" + "".join(f'{name}: "{name.upper()}"i\n' for name in answers)
    (lab.folder / "rule.lark").write_text(rules)
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD rule
        CREATE SERVICE console
          SET role   = management
          SET listen = 127.0.0.1:0
        ENABLE console
    """)
    reader, writer = await pbal.connect("console")
    for name, said in (
        ("nothing", "ERROR: plugin 'rule', statement nothing: TypeError: it returned None, not a Reply"),
        ("text", "ERROR: plugin 'rule', statement text: TypeError: it returned 'text', not a Reply"),
        ("left", "ERROR: plugin 'rule': SystemExit: 3"),
        ("half", "ERROR: plugin 'rule': ValueError: 2 is not in list"),
    ):
        writer.write(f"{name}\n".encode())
        line = await asyncio.wait_for(reader.readline(), DEADLINE)
        assert line.decode().startswith(said), line
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("limit", ["'10'", "-1", "2.5", "[]", "b'10'"])
@lab
async def test_a_body_limit_that_is_none_is_a_fault_of_who_sets_it(lab: Lab, limit: str) -> None:
    plugin(lab, HOOK, "def rule(self, exchange):", f"|exchange.body_limit = {limit}", "|return Verdict.PASS")
    pbal = await site(lab)
    for framing in ("Content-Length: 3", "Transfer-Encoding: chunked"):
        reader, writer = await pbal.connect("site")
        writer.write(get("/page", framing))
        assert (await read_response(reader)).status == 500
    assert pbal.counts["plugin_errors"] == 2


@lab
async def test_a_quiesce_that_never_ends_refuses_the_reload_and_holds_up_no_other(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbal.reloading.QUIESCE_LIMIT", 0.05)
    plugin(lab, HOOK, "def rule(self, exchange):", "|exchange.respond(200, (), b'old')", "|return Verdict.TAKEN",
           "async def quiesce(self):", "|try:", "||await asyncio.Event().wait()", "|except asyncio.CancelledError:", "||pass",
           head=f"import asyncio\n{HEAD}")  # fmt: skip
    pbal = await site(lab)
    reloading = asyncio.create_task(pbal.say("RELOAD rule"))
    assert await pbal.say("LOAD vpaths") == "OK"
    assert "the old one serves on: quiesce() of the old one did not end within 0.05 s" in await reloading
    assert (await pbal.ask("site", get())).body == b"old"


@lab
async def test_an_upload_streams_past_poll_where_it_is_neither_poll_nor_publish(lab: Lab) -> None:
    came = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\nfirst")
        came.set()
        await reader.readexactly(6)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    origin = await lab.origin(app)
    pbal = await lab.pbal(f"""
        LOAD poll
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE site
          SET role             = reverse_proxy
          SET listen           = 127.0.0.1:0
          SET pool             = app
          SET plugins          = poll
          SET buffer_backend_connect = 0
          SET poll_uri         = ^/poll/(?P<queue>[^/]+)$
          SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$
        ENABLE site
    """)
    reader, writer = await pbal.connect("site")
    writer.write(b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nfirst")
    await asyncio.wait_for(came.wait(), DEADLINE)
    writer.write(b"second")
    assert (await read_response(reader)).status == 200


@lab
async def test_what_was_set_of_a_plugin_keeps_it_loaded(lab: Lab) -> None:
    head = HEAD.replace("import ", "import INT, Tunable, ")
    plugin(lab, "tunables = (Tunable('rule_size', INT, default='1', summary='A size.'),)", head=head)
    pbal = await site(lab, chain="")
    before = (await pbal.say("dumpconfig")).replace("LOAD rule\n", "")
    for statement in ("SET site.rule_size = 7", "DEFAULT rule_size = 8"):
        assert await pbal.say(statement) == "OK"
    assert (await pbal.say("dumpconfig")).count("rule_size") == 2
    assert "is needed by SET site.rule_size, DEFAULT rule_size: UNSET it first" in await pbal.say("UNLOAD rule")
    for statement in ("UNSET site.rule_size", "UNSET DEFAULT rule_size", "UNLOAD rule"):
        assert await pbal.say(statement) == "OK"
    assert await pbal.say("dumpconfig") == before


@pytest.mark.parametrize("guards", [False, True])
@lab
async def test_a_plugin_that_fails_too_often_is_taken_out_or_closes_the_service(
    lab: Lab, guards: bool, caplog: pytest.LogCaptureFixture
) -> None:
    good = (f"guards = {guards}", HOOK, "def rule(self, exchange):", "|return Verdict.PASS")
    plugin(lab, *good)
    pbal = await site(lab, chain="SET plugins = rule\n          SET plugin_error_limit = 3")
    assert "has no generation before" in await pbal.say("RELOAD PREVIOUS rule")
    plugin(lab, *good[:3], "|return exchange.nonsense")
    assert await pbal.say("RELOAD rule") == "OK"
    assert [(await pbal.ask("site", get())).status for _ in range(5)] == [500] * 3 + [503 if guards else 200] * 2
    assert pbal.counts["plugins_taken_out"] == 1 and pbal.counts["plugin_errors"] == 3
    what = "it guards the service, which answers 503" if guards else "requests go on without it"
    assert f"taken out of service site after 3 faults in a minute (plugin_error_limit): {what}; RELOAD rule brings it back" in caplog.text
    shown = await pbal.say("SHOW PLUGINS")
    assert f"out rule site: 3 faults in a minute: {what}. RELOAD rule brings it back, and RELOAD PREVIOUS rule goes back" in shown
    assert await pbal.say("SET site.plugins = rule") == "OK"
    assert (await pbal.ask("site", get())).status == (503 if guards else 200)
    assert await pbal.say("RELOAD rule") == "OK"
    assert (await pbal.ask("site", get())).status == 500, "it counts from the beginning"
    assert await pbal.say("RELOAD PREVIOUS rule") == "OK"
    assert (await pbal.ask("site", get())).status == 200 and "out rule" not in await pbal.say("SHOW PLUGINS")


@lab
async def test_a_guard_that_was_taken_out_closes_the_service_before_any_hook_of_others(lab: Lab) -> None:
    plugin(lab, "@hook.start_web_request", "def rule(self, exchange):", "|exchange.respond(200, (), b'for all')", "|return Verdict.TAKEN")
    (lab.folder / "rule.py").rename(lab.folder / "other.py")
    plugin(lab, "guards = True", "@hook.start_web_request", "def rule(self, exchange):", "|return exchange.nonsense")
    load = "        LOAD rule\n        LOAD other"
    pbal = await site(lab, load=load, chain="SET plugins = rule other\n          SET plugin_error_limit = 1")
    assert [(await pbal.ask("site", get())).status for _ in range(2)] == [500, 503]


@lab
async def test_who_guards_is_asked_before_others_whatever_the_order_and_their_hooks(lab: Lab) -> None:
    """`one` and `web` answer everybody; `rule` guards. `plugins_before_guards` says otherwise, and so may a plugin that names the guard."""
    answer = "|exchange.respond(200, (), b'for all')", "|return Verdict.TAKEN"
    for name, moment in (("one", HOOK), ("web", "@hook.start_web_request")):
        plugin(lab, moment, "def rule(self, exchange):", *answer)
        (lab.folder / "rule.py").rename(lab.folder / f"{name}.py")
    refuse = "|exchange.respond(403, (), b'not for you')", "|return Verdict.TAKEN"
    plugin(lab, "guards = True", HOOK, "def rule(self, exchange):", *refuse)
    load = "\n".join(f"        LOAD {name}" for name in ("one", "web", "rule"))
    pbal = await site(lab, load=load, chain="SET plugins = one web rule")
    assert (await pbal.ask("site", get())).status == 403
    assert "site rule one web" in (await pbal.say("plugins")).split("\n")
    assert await pbal.say("RELOAD one web rule") == "OK"
    assert (await pbal.ask("site", get())).status == 403
    assert await pbal.say("SET site.plugins_before_guards = web") == "OK"
    assert (await pbal.ask("site", get())).body == b"for all" and "site web rule one" in await pbal.say("plugins")
    assert await pbal.say("RELOAD rule") == "OK"
    assert (await pbal.ask("site", get())).body == b"for all" and "SET plugins_before_guards = web" in await pbal.say("dumpconfig")
    assert "which is not in plugins of service 'site'" in await pbal.say("SET site.plugins_before_guards = won")
    assert "which is not in plugins of service 'site'" in await pbal.say("SET site.plugins = one rule")
    assert await pbal.say("UNSET site.plugins_before_guards") == "OK"
    assert (await pbal.ask("site", get())).status == 403 and "site rule one web" in await pbal.say("plugins")
    plugin(lab, "before = ('rule',)", HOOK, "def rule(self, exchange):", *answer)
    (lab.folder / "rule.py").rename(lab.folder / "one.py")
    assert await pbal.say("RELOAD one") == "OK"
    assert (await pbal.ask("site", get())).body == b"for all" and "site one rule web" in await pbal.say("plugins")
    for order, chain in (("after = ('web',)", "rule web one"), ("pass", "rule one web")):
        plugin(lab, order, HOOK, "def rule(self, exchange):", *answer)
        (lab.folder / "rule.py").rename(lab.folder / "one.py")
        assert await pbal.say("RELOAD one") == "OK" and f"site {chain}" in await pbal.say("plugins")


@lab
async def test_a_guard_that_would_not_be_asked_is_in_no_chain(lab: Lab) -> None:
    guard = ("guards = True", HOOK, "def rule(self, exchange):", "|exchange.respond(403)", "|return Verdict.TAKEN")
    plugin(lab, *guard)
    pbal = await site(lab)
    plugin(lab, guard[0], "@hook.start_proxy_request", *guard[2:])
    said = await pbal.say("RELOAD rule")
    assert "it guards, none of its hooks would run on site, and it would keep nobody out there" in said, said
    assert (await pbal.ask("site", get())).status == 403
    for statement in ("SET site.plugins = none", "RELOAD rule"):
        assert await pbal.say(statement) == "OK"
    assert "guards, and none of its hooks runs on a web_server" in await pbal.say("SET site.plugins = rule")


@lab
async def test_who_is_told_of_a_request_and_searches_its_path_for_too_long_is_not_to_blame(lab: Lab) -> None:
    """The client is: else it could have a plugin taken out that guards."""
    search = "|exchange.in_path(re.compile(rb'(a+)+$'))"
    for moment in ("end", "make_high_priority", "select_node"):
        more = ", nodes" if moment == "select_node" else ""
        plugin(lab, f"@hook.{moment}", f"def rule(self, exchange{more}):", search, head=f"import re\n{HEAD}")
        (lab.folder / "rule.py").rename(lab.folder / f"{moment}.py")
    names = ("end", "make_high_priority", "select_node")
    load = "\n".join(f"        LOAD {name}" for name in names)
    pool = "CREATE POOL app\n        POOL app ADD 127.0.0.1:1\n        POOL app ADD 127.0.0.1:2"
    chain = f"SET plugins = {' '.join(names)}\n          SET pool = app\n          SET plugin_error_limit = 1"
    pbal = await site(lab, role="reverse_proxy", load=f"{load}\n        {pool}", chain=chain)
    assert (await pbal.ask("site", get("/" + "a" * 40 + "!"))).status in (502, 503)
    await until(lambda: all(pbal.world.plugins[name].timings[name].calls for name in names), "each of them to be asked")
    assert pbal.counts["regex_timeouts"] >= 3 and pbal.counts["plugin_errors"] == pbal.counts["plugins_taken_out"] == 0


@pytest.mark.skipif(is_compiled("pbal.model.chained"), reason="how long a minute is, is compiled in")
@lab
async def test_faults_of_another_minute_do_not_count(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbal.model.chained.MINUTE", -1.0)
    plugin(lab, HOOK, "def rule(self, exchange):", "|return exchange.nonsense")
    pbal = await site(lab, chain="SET plugins = rule\n          SET plugin_error_limit = 2")
    assert [(await pbal.ask("site", get())).status for _ in range(4)] == [500] * 4
    assert pbal.counts["plugins_taken_out"] == 0


@lab
async def test_plugins_run_before_and_after_those_that_they_name(lab: Lab) -> None:
    for name, order in (("one", "after = ('three',)"), ("two", "pass"), ("three", "before = ('two', 'nobody')")):
        before = "|before = dict(response.headers).get(b'Content-Type', b'')"
        said = f"|response.headers[:] = [(b'Content-Type', before + b' {name}')]"
        plugin(lab, order, "@hook.modify_response_headers", "def say(self, exchange, response):", before, said)
        (lab.folder / "rule.py").rename(lab.folder / f"{name}.py")
    pbal = await site(lab, load="\n".join(f"        LOAD {name}" for name in ("one", "two", "three")), chain="SET plugins = one two three")
    assert (await pbal.ask("site", get())).fields["content-type"].endswith(" three one two")
    assert "site three one two" in (await pbal.say("plugins")).split("\n")
    assert pbal.world.service("site").explicit["plugins"] == "one two three"
    plugin(lab, "after = ('two',)", "before = ('three',)")
    (lab.folder / "rule.py").rename(lab.folder / "one.py")
    assert "each want to be before the other" in await pbal.say("RELOAD one")
    plugin(lab, "before = 'two'")
    (lab.folder / "rule.py").rename(lab.folder / "one.py")
    assert "write the names of plugins, in lower case" in await pbal.say("RELOAD one")
    assert "site three one two" in (await pbal.say("plugins")).split("\n")
