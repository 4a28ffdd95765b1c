"""LOAD, RELOAD, UNLOAD on a running server: nothing is lost, and what is broken changes nothing."""

import asyncio
import json
from pathlib import Path

import pytest
from lab import Lab, Pbal, lab, read_response, until
from polls import conf

GREETING = """
from pbal.api import TEXT, Exchange, Plugin, Tunable, Verdict, hook

class Greeting(Plugin):
    tunables = (Tunable("greeting", TEXT, default="one"),)

    @hook.start_http_request
    def hello(self, exchange: Exchange) -> Verdict:
        exchange.respond(200, (), b"{version} " + self.service["greeting"].encode())
        return Verdict.TAKEN
"""

GREETING_CONF = """
    SERVER plugin_path = {folder}
    LOAD greeting
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET plugins = greeting
      SET greeting = set
    ENABLE site
"""

GET = b"GET / HTTP/1.1\r\nHost: c\r\n\r\n"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: c\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: c\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def reload_under_load(pbal: Pbal) -> None:
    """Pollers and publishers work while poll is reloaded ten times; every message arrives once and in order."""
    queues, each = 20, 30
    got: dict[int, list[int]] = {number: [] for number in range(queues)}

    async def poller(number: int) -> None:
        reader, writer = await pbal.connect("chat")
        while len(got[number]) < each:
            writer.write(get(f"/poll/q{number}"))
            response = await read_response(reader)
            got[number] += [int(line) for line in response.body.split()]

    async def publisher(number: int) -> None:
        reader, writer = await pbal.connect("chat")
        for message in range(each):
            writer.write(post(f"/publish/q{number}", b"%d" % message))
            assert (await read_response(reader)).status == 202

    async def reloader() -> None:
        for _ in range(10):
            assert await pbal.say("RELOAD poll") == "OK"

    idle = []
    for number in range(50):
        reader, writer = await pbal.connect("chat")
        writer.write(get(f"/poll/idle{number}"))
        idle.append(reader)
    await pbal.until("poll_parked", 50)
    await asyncio.gather(*map(poller, range(queues)), *map(publisher, range(queues)), reloader())
    assert got == {number: list(range(each)) for number in range(queues)}
    assert pbal.counts["poll_parked"] == pbal.plugin("chat").hub.lot.count == 50
    for number, reader in enumerate(idle):
        await pbal.ask("chat", post(f"/publish/idle{number}", b"x"))
        assert (await read_response(reader)).body == b"x\n"
    assert pbal.plugin("chat").hub.lot.is_empty()
    assert pbal.world.plugins["poll"].generation == 11


@lab
async def test_reload_poll_under_load_on_the_memory_store(lab: Lab) -> None:
    await reload_under_load(await lab.pbal(conf("SET poll_store = memory", "SET poll_timeout = 1h")))


@lab
async def test_reload_poll_under_load_on_memcached(lab: Lab) -> None:
    cache = await lab.memcached()
    await reload_under_load(await lab.pbal(conf(f"SET poll_store = memcached {cache.address}", "SET poll_timeout = 1h")))


@lab
async def test_reload_keeps_messages_ids_and_the_client_that_leaves_afterwards(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    await pbal.ask("chat", post("/publish/waiting", b"m"))
    _, writer = await pbal.connect("chat")
    writer.write(get("/poll/a"))
    await pbal.until("poll_parked", 1)
    before = json.loads(await pbal.say("show parked AS JSON"))
    assert await pbal.say("RELOAD poll") == "OK"
    after = json.loads(await pbal.say("show parked AS JSON"))
    assert [(row["id"], row["queues"]) for row in before] == [(row["id"], row["queues"]) for row in after]
    writer.close()
    await pbal.until("poll_gone", 1)
    assert pbal.plugin("chat").hub.lot.is_empty()
    assert (await pbal.ask("chat", get("/poll/waiting"))).body == b"m\n"


@lab
async def test_a_publish_that_hangs_does_not_hold_up_a_reload(lab: Lab) -> None:
    cache = await lab.memcached()
    more = ("SET poll_store_timeout = 30s", "SET poll_watch = off", "SET poll_interval = 60s")
    pbal = await lab.pbal(conf(f"SET poll_store = memcached {cache.address}", *more))
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/a"))
    await pbal.until("poll_parked", 1)
    await pbal.ask("chat", post("/publish/c", b"m"))
    await pbal.ask("chat", get("/poll/c"))  # whose first look comes after that of the other poll
    await until(lambda: not pbal.plugin("chat").hub.store.courier.busy, "rest")
    cache.stop()
    publisher, publishing = await pbal.connect("chat")
    publishing.write(post("/publish/b", b"m"))
    await until(lambda: pbal.plugin("chat").hub.store.courier.busy, "the publish to be under way")
    assert await pbal.say("RELOAD poll") == "OK"
    cache.cont()
    assert (await read_response(publisher)).status == 202
    assert (await pbal.ask("chat", get("/poll/b"))).body == b"m\n"
    await pbal.ask("chat", post("/publish/a", b"m"))
    assert (await read_response(reader)).body == b"m\n"


@lab
async def test_a_take_that_outlasts_a_reload_is_delivered_by_the_new_generation(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/a"))
    await pbal.until("poll_parked", 1)
    old = pbal.plugin("chat")
    assert await pbal.say("RELOAD poll") == "OK"
    assert old.hub.lot.is_empty()
    a, b = old.hub.settings.prefix + b"a", old.hub.settings.prefix + b"b"
    assert old.hub.deliver([(a, b"m\n"), (b, b"n\n")]) == [(b, b"n\n")]
    assert (await read_response(reader)).body == b"m\n"
    assert pbal.plugin("chat").hub.lot.is_empty() and pbal.counts["poll_parked"] == 0
    assert old.hub.deliver([(a, b"o\n")]) == [(a, b"o\n")], "nobody is parked any more"


@lab
async def test_edit_reload_see_it(lab: Lab) -> None:
    path = lab.folder / "greeting.py"
    path.write_text(GREETING.replace("{version}", "v1"))
    pbal = await lab.pbal(GREETING_CONF.format(folder=lab.folder))
    assert (await pbal.ask("site", GET)).body == b"v1 set"
    path.write_text(GREETING.replace("{version}", "v2"))
    assert await pbal.say("RELOAD greeting") == "OK"
    assert (await pbal.ask("site", GET)).body == b"v2 set"


@lab
async def test_a_version_that_does_not_load_leaves_the_old_one_serving_and_says_why(lab: Lab) -> None:
    path = lab.folder / "greeting.py"
    good = GREETING.replace("{version}", "v1")
    path.write_text(good)
    (lab.folder / "helper.py").write_text("")
    pbal = await lab.pbal(GREETING_CONF.format(folder=lab.folder))
    for broken, said in (
        (f"import helper\n{good}", "No module named 'helper' (greeting.py:1): in a package greeting/, 'from . import helper' finds it"),
        (good + "\nif True\n", "SyntaxError"),
        (good + "\n1 / 0\n", "ZeroDivisionError: division by zero (greeting.py:"),
        (good.replace("start_http_request", "start_htp_request"), "did you mean 'start_http_request'?"),
        (good.replace("exchange: Exchange", "request: Exchange"), "is called with (exchange)"),
        (good.replace("class Greeting(Plugin)", "class Greeting"), "exactly one Plugin class"),
        (good.replace('Tunable("greeting"', 'Tunable("listen"'), "exists already"),
        (good + "\n    def check(self):\n        raise RuntimeError('not today')\n", "not today"),
        (good + "\n    def open(self):\n        raise OSError('no port')\n", "no port"),
        (good + "\n    def adopt(self, carried):\n        raise KeyError('carried')\n", "carried"),
    ):
        path.write_text(broken)
        answer = await pbal.say("RELOAD greeting")
        assert answer.startswith("ERROR: ") and said in answer, (said, answer)
        assert "Traceback" not in answer
        assert (await pbal.ask("site", GET)).body == b"v1 set"
        assert pbal.world.plugins["greeting"].generation == 1
    path.unlink()
    assert f"the old one serves on: {path} is gone" in await pbal.say("RELOAD greeting")
    path.write_text(good.replace("v1", "v2"))
    assert await pbal.say("RELOAD greeting") == "OK"
    assert (await pbal.ask("site", GET)).body == b"v2 set"
    (lab.folder / "none.py").write_text(good)
    assert "SET plugins = none is the empty one" in await pbal.say("LOAD none")


@lab
async def test_a_failed_reload_of_poll_keeps_every_parked_poll(lab: Lab) -> None:
    pbal = await lab.pbal(conf())
    reader, writer = await pbal.connect("chat")
    writer.write(get("/poll/a"))
    await pbal.until("poll_parked", 1)
    old = pbal.plugin("chat")
    module = type(old).__module__
    original = old.carry
    old.carry = lambda: {"polls": original()["polls"], "next_id": 1}  # adopt() fails half way
    assert (await pbal.say("RELOAD poll")).startswith("ERROR: ")
    assert pbal.plugin("chat") is old and type(old).__module__ == module
    await pbal.ask("chat", post("/publish/a", b"m"))
    assert (await read_response(reader)).body == b"m\n"
    assert old.hub.lot.is_empty()


@lab
async def test_an_exception_in_a_plugin_answers_that_request_and_hurts_nothing_else(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    (lab.folder / "faulty.py").write_text(
        "from pbal.api import Plugin, Verdict, hook\n"
        "class Faulty(Plugin):\n"
        "    @hook.start_http_request\n"
        "    def begin(self, exchange):\n"
        "        if exchange.path == b'/start':\n"
        "            raise ValueError('oh')\n"
        "        return Verdict.PASS\n"
        "    @hook.proxy_read_request\n"
        "    def read(self, exchange):\n"
        "        if exchange.path == b'/read':\n"
        "            return exchange.no_such_thing\n"
        "        return Verdict.PASS\n"
        "    @hook.modify_response_headers\n"
        "    def headers(self, exchange, response):\n"
        "        if exchange.path == b'/headers':\n"
        "            1 / 0\n"
    )
    (lab.folder / "headers").write_text("x")
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD faulty
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET docroot = {lab.folder}
          SET plugins = faulty
        ENABLE site
    """)
    reader, writer = await pbal.connect("site")
    for path in ("/start", "/read", "/headers"):
        writer.write(get(path))
        assert (await read_response(reader)).status == 500
    writer.write(get("/none"))
    assert (await read_response(reader)).status == 404
    assert pbal.counts["plugin_errors"] == 3
    assert "plugin faulty generation 1, hook start_http_request: ValueError: oh (faulty.py:6)" in caplog.text


@lab
async def test_proxy_read_request_runs_once_for_every_request(lab: Lab) -> None:
    (lab.folder / "seen.py").write_text(
        "from pbal.api import Counter, Plugin, Verdict, hook\n"
        "class Seen(Plugin):\n"
        "    counters = (Counter('seen', 'times'),)\n"
        "    @hook.proxy_read_request\n"
        "    def read(self, exchange):\n"
        "        self.counts['seen'] += 1\n"
        "        exchange.respond(200, (), b'%d' % len(exchange.read_body()))\n"
        "        return Verdict.TAKEN\n"
    )
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD seen
        CREATE SERVICE site
          SET role    = reverse_proxy
          SET listen  = 127.0.0.1:0
          SET plugins = seen
          SET buffer_backend_connect = 1k
        ENABLE site
    """)
    chunked = b"POST / HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    requests = ((GET, b"0"), (post("/", b"abc"), b"3"), (chunked, b"5"), (post("/", b"x" * 300000), b"300000"))
    for number, (request, size) in enumerate(requests, 1):
        assert (await pbal.ask("site", request)).body == size
        assert pbal.counts["seen"] == number


@lab
async def test_load_and_unload_live(lab: Lab) -> None:
    pbal = await lab.pbal(
        GREETING_CONF.format(folder=lab.folder).replace("LOAD greeting", "").split("CREATE")[0]
        + """
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
        ENABLE site
    """
    )
    (lab.folder / "greeting.py").write_text(GREETING.replace("{version}", "v1"))
    assert "did you mean" in await pbal.say("LOAD greting")
    assert await pbal.say("LOAD greeting") == "OK"
    assert await pbal.say("SET site plugins = greeting") == "OK"
    assert (await pbal.ask("site", GET)).body == b"v1 one"
    assert "is used by site" in await pbal.say("UNLOAD greeting")
    assert await pbal.say("SET site plugins = none") == "OK"
    assert await pbal.say("UNLOAD greeting") == "OK"
    assert "is not a tunable" in await pbal.say("SET site greeting = x")
    assert "LOAD poll adds this statement" in await pbal.say("show parked")
    assert await pbal.say("LOAD poll") == "OK"
    assert (await pbal.say("show parked")) == "."


PUBLISH = "POST /publish/{} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nha"


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("waiting", [True, False])
@lab
async def test_a_publish_whose_body_comes_over_a_reload_is_not_lost(lab: Lab, times: int, waiting: bool) -> None:
    pbal = await lab.pbal(conf())
    reader, writer = await pbal.connect("chat")
    if waiting:
        writer.write(b"GET /poll/me HTTP/1.1\r\nHost: h\r\n\r\n")
        await pbal.until("poll_parked", 1)
    publisher, publishing = await pbal.connect("chat")
    publishing.write(PUBLISH.format("me").encode())
    await pbal.until("requests", 1 + waiting)
    for _ in range(times):
        assert await pbal.say("RELOAD poll") == "OK"
    publishing.write(b"lf")
    assert (await read_response(publisher)).status == 202
    if not waiting:
        writer.write(b"GET /poll/me HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (await read_response(reader)).body == b"half\n"


@lab
async def test_a_plugin_that_was_taken_out_meanwhile_gets_no_body_any_more(lab: Lab) -> None:
    (lab.folder / "strict.py").write_text(
        "from pbal.api import Plugin, Verdict, hook\n\n\nclass Strict(Plugin):\n    @hook.proxy_read_request\n"
        "    def refuse(self, exchange):\n        exchange.respond(403)\n        return Verdict.TAKEN\n"
    )
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD strict
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET plugins = strict
        ENABLE site
    """)
    for statement, status in (("SET site.idle_timeout = 9s", 403), ("SET site.plugins = none", 405)):
        reader, writer = await pbal.connect("site")
        writer.write(PUBLISH.format("me").encode())
        await until(lambda: any(client.state == "reading_body" for client in pbal.world.clients), "its body to be awaited")
        assert await pbal.say(statement) == "OK"
        writer.write(b"lf")
        assert (await read_response(reader)).status == status
        writer.close()
        await pbal.until("clients", 0)


TWO = """
    SERVER plugin_path = {folder}
    LOAD one
    LOAD two
    CREATE SERVICE site
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET plugins = one two
    ENABLE site
"""
SAYS = """
from pbal.api import Exchange, Plugin, Verdict, hook


class Says(Plugin):
    @hook.start_http_request
    def answer(self, exchange):
        {body}
"""
ANSWERS = "exchange.respond(200, (), b'{}'); return Verdict.TAKEN"
PASSES = "return Verdict.PASS"


def says(folder: Path, name: str, body: str = PASSES) -> None:
    (folder / f"{name}.py").write_text(SAYS.format(body=body))


async def versions(pbal: Pbal) -> list[str]:
    """Name and generation of each plugin."""
    loaded = [line.split() for line in (await pbal.say("SHOW PLUGINS")).split("\n") if line.startswith("loaded ")]
    return [f"{words[1]} {words[5]}" for words in loaded]


async def body_of(pbal: Pbal) -> bytes:
    return (await pbal.ask("site", GET)).body


@lab
async def test_several_plugins_are_reloaded_together_or_not_at_all(lab: Lab) -> None:
    for name in ("one", "two"):
        says(lab.folder, name)
    pbal = await lab.pbal(TWO.format(folder=lab.folder))
    says(lab.folder, "one", ANSWERS.format("new"))
    says(lab.folder, "two", "this is no Python")
    assert (await pbal.say("RELOAD one two")).startswith("ERROR: two.py does not import: SyntaxError")
    says(lab.folder, "two", f"{PASSES}\n\n    def open(self):\n        raise KeyError('oh')")
    said = await pbal.say("RELOAD one two")
    assert "plugins 'one' and 'two' are not reloaded, the old ones serve on: two: KeyError: 'oh' (two.py:11)" in said
    assert "plugin 'three' is not loaded" in await pbal.say("RELOAD one three")
    assert await versions(pbal) == ["one 1", "two 1"] and (await pbal.ask("site", GET)).status == 404
    says(lab.folder, "two")
    assert await pbal.say("RELOAD one two one") == "OK"
    assert await versions(pbal) == ["one 2", "two 2"] and await body_of(pbal) == b"new"
    assert [name for name, _ in pbal.world.service("site").plugins] == ["one", "two"]


LIST = "from pbal.api import Counter, Tunable, Type\nLIST = Type('list', lambda text: text.split(','), ','.join)\n"
READS = """
    tunables = (Tunable('the_list', LIST, default='a,b', reads=len),)
    counters = (Counter('lists', 'Lists.'),)

    def check(self):
        self.service.reading('the_list')
"""


@lab
async def test_a_tunable_and_a_counter_move_from_plugin_to_plugin_and_values_may_be_of_any_type(lab: Lab) -> None:
    """Lists, for example, which are no keys of a dict."""

    def give(owner: str, other: str) -> None:
        says(lab.folder, other)
        says(lab.folder, owner, f"{PASSES}\n{READS}")
        (lab.folder / f"{owner}.py").write_text(LIST + (lab.folder / f"{owner}.py").read_text())

    give("two", "one")
    pbal = await lab.pbal(TWO.format(folder=lab.folder))
    for owner, other in (("one", "two"), ("two", "one")):
        give(owner, other)
        assert await pbal.say("RELOAD one two") == "OK"
        assert pbal.world.service("site").reading("the_list") == 2
    assert await pbal.say("SET site.the_list = a,b,c") == "OK"
    assert pbal.world.service("site").reading("the_list") == 3
    (lab.folder / "one.py").write_text((lab.folder / "two.py").read_text())
    assert "exists already" in await pbal.say("RELOAD one two") and "exists already" in await pbal.say("RELOAD two one")
    give("one", "two")
    assert "no tunable 'the_list' any more, and it is said by SET site.the_list" in await pbal.say("RELOAD one two")


@lab
async def test_the_generation_before_can_be_gone_back_to(lab: Lab) -> None:
    says(lab.folder, "one", ANSWERS.format("v1"))
    says(lab.folder, "two")
    pbal = await lab.pbal(TWO.format(folder=lab.folder))
    assert "has no generation before this one" in await pbal.say("RELOAD PREVIOUS one")
    says(lab.folder, "one", ANSWERS.format("v2"))
    for statement, body in (
        ("RELOAD one", b"v2"),
        ("RELOAD one", b"v2"),  # nothing has changed
        ("RELOAD PREVIOUS one", b"v1"),
        ("RELOAD PREVIOUS one", b"v2"),  # and there again
        ("RELOAD one", b"v2"),
    ):
        assert await pbal.say(statement) == "OK" and await body_of(pbal) == body
    assert await versions(pbal) == ["one 6", "two 1"]


@lab
async def test_a_package_is_reloaded_whole_and_as_it_was_at_one_moment(lab: Lab) -> None:
    package = lab.folder / "one"
    (package / "deep").mkdir(parents=True)
    (package / "said.txt").write_text("v1")
    said = "files(__package__).joinpath('said.txt').read_bytes()"
    (package / "words.py").write_text(f"from importlib.resources import files\nfrom .deep.more import END\nSAID = {said} + END\n")
    (package / "deep/__init__.py").write_text("")
    (package / "deep/more.py").write_text("END = b'.'\n")
    answer = "from .deep import more; exchange.respond(200, (), SAID + more.END); return Verdict.TAKEN"
    (package / "__init__.py").write_text("from .words import SAID\n" + SAYS.format(body=answer))
    says(lab.folder, "two")
    pbal = await lab.pbal(TWO.format(folder=lab.folder))
    (package / "words.py").write_text("from .deep.more import END\nSAID = b'v2' + END\n")
    (package / "deep/more.py").write_text("END = b'!'\n")
    assert await body_of(pbal) == b"v1.."
    assert await pbal.say("RELOAD one") == "OK" and await body_of(pbal) == b"v2!!"
    (package / "deep/more.py").write_text("1 / 0\n")
    assert "ZeroDivisionError: division by zero (more.py:1)" in await pbal.say("RELOAD one") and await body_of(pbal) == b"v2!!"
    assert await pbal.say("RELOAD PREVIOUS one") == "OK" and await body_of(pbal) == b"v1.."


RULED = """
from pbal.api import OK, Plugin


def one(session, number):
    session.world.service("site").plugin("one").said.append(number)
    return OK


class One(Plugin):
    commands = (one,)

    def __init__(self, service, world):
        super().__init__(service, world)
        self.said = []

    def dumpconfig(self):
        return tuple(f"ONE {number}" for number in self.said)

    def carry(self):
        return self.said

    def adopt(self, carried):
        self.said = carried

    def drop_rule(self, statement):
        self.said.clear()
"""


@lab
async def test_what_a_chain_or_a_rule_needs_is_not_taken_away_by_a_reload(lab: Lab) -> None:
    (lab.folder / "one.lark").write_text('%extend statement: one\none: "ONE"i NUMBER\n')
    (lab.folder / "one.py").write_text(RULED)
    says(lab.folder, "two")
    pbal = await lab.pbal(TWO.format(folder=lab.folder))
    assert await pbal.say("ONE 7") == "OK"
    (lab.folder / "one.lark").unlink()
    says(lab.folder, "one")
    assert "statements that stand would be none any more: ONE 7 of site" in await pbal.say("RELOAD one")
    assert await pbal.say("DROP RULE site ONE 7") == await pbal.say("RELOAD one") == "OK"
    (lab.folder / "two.py").write_text(
        SAYS.format(body=PASSES).replace("Says(Plugin):", "Says(Plugin):\n    roles = frozenset({'reverse_proxy'})")
    )
    assert "it would work on reverse_proxy services alone, and is in the chain of site" in await pbal.say("RELOAD two")


@lab
async def test_a_plugin_is_reloaded_when_its_files_change(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    says(lab.folder, "one", ANSWERS.format("v1"))
    package = lab.folder / "two"
    package.mkdir()
    (package / "__init__.py").write_text(SAYS.format(body=PASSES))
    pbal = await lab.pbal(f"SERVER plugin_autoreload = on\n{TWO.format(folder=lab.folder)}")
    says(lab.folder, "one", ANSWERS.format("version 2"))

    def generation(name: str) -> int:
        return pbal.world.plugins[name].generation

    await until(lambda: generation("one") == 2, "the file to be taken up")
    assert await body_of(pbal) == b"version 2" and generation("two") == 1
    says(lab.folder, "one", "this is no Python")
    await until(lambda: "plugin_autoreload: one.py does not import: SyntaxError" in caplog.text, "the fault to be logged")
    (package / "more.py").write_text("")
    await until(lambda: generation("two") == 2, "the new file of a package to be seen")
    assert caplog.text.count("plugin_autoreload: ") == 1 and await body_of(pbal) == b"version 2"
    says(lab.folder, "one", ANSWERS.format("version three"))
    await until(lambda: generation("one") == 3, "the file to be taken up that was mended")
    assert await body_of(pbal) == b"version three"
    assert await pbal.say("RELOAD PREVIOUS one") == "OK"
    looks = pbal.server._plugin_watch
    await looks.look(pbal.server.interpreter.alone)
    assert await body_of(pbal) == b"version 2", "who went back from a file is not sent to it again"
    says(lab.folder, "one", ANSWERS.format("version 4, the last"))
    await looks.look(pbal.server.interpreter.alone)
    assert await body_of(pbal) == b"version 4, the last"
