"""The console as people read it: TERMINAL, help from the declarations, what a path typed halfway was meant to be."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable

from lab import DEADLINE, Lab, Pbal, lab

from pbal import __version__
from pbal.model.hooks import HOOKS
from pbal.plugins.poll.settings import TUNABLES as POLL_TUNABLES
from pbal.schema.meanings import example
from pbal.schema.pools import POOL
from pbal.schema.roles import CORE
from pbal.schema.tunables import SERVER

CONF = """
    LOAD poll
    CREATE POOL app
      POOL app ADD 127.0.0.1:1
    CREATE SERVICE chat
      SET role     = reverse_proxy
      SET listen   = 127.0.0.1:0
      SET pool     = app
      SET plugins  = poll
      SET poll_uri = ^/poll/(?P<queue>[^/]+)$
    ENABLE chat
    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:0
    ENABLE console
"""

Ask = Callable[[str], Awaitable[list[str]]]


async def reading(pbal: Pbal) -> Ask:
    """A console held open: a statement to the lines of its answer, the last of which is '.' or OK, or an error of a line."""
    reader, writer = await pbal.connect("console")
    people = False

    async def ask(statement: str) -> list[str]:
        nonlocal people
        writer.write(statement.encode() + b"\n")
        if statement.lower().startswith("terminal"):
            people = not statement.lower().endswith("off")
        lines: list[str] = []
        async with asyncio.timeout(DEADLINE):
            while not lines or (lines[-1] not in (".", "OK") and (people or not lines[0].startswith("ERROR: "))):
                lines.append((await reader.readline()).decode().removesuffix("\r\n"))
        return lines

    return ask


@lab
async def test_terminal_writes_for_people_until_it_is_switched_off(lab: Lab) -> None:
    pbal = await lab.pbal(CONF)
    ask, other = await reading(pbal), await reading(pbal)

    async def refused(statement: str) -> list[str]:
        return [await pbal.say(statement)]

    plain = {query: await ask(query) for query in ("show service", "dumpconfig", "show pool app")}
    greeting = await ask("TERMINAL 100")
    assert greeting[0].startswith(f"pbal {__version__} (") and greeting[0].endswith("; help lists the statements") and greeting[1:] == ["."]
    assert await ask("show service") == [
        "NAME     LISTEN       STATE    ROLE",
        "chat     127.0.0.1:0  ENABLED  reverse_proxy",
        "console  127.0.0.1:0  ENABLED  management",
        ".",
    ]
    assert await ask("show pool app") == [
        "NODE         REQUESTS  ACTIVE  STATE    SINCE  WHY  WEIGHT  BACKUP  MAX",
        "127.0.0.1:1         0       0  UNTRIED      -  -         1  no      -",
        ".",
    ]
    (row,) = [line for line in await ask("uptime") if line.startswith("starttime")]
    assert re.fullmatch(r"starttime  \d\d:\d\d:\d\d \(\ds ago\)", row)
    assert await ask("pending") == ["(none)", "."]
    assert await ask("dumpconfig") == [*plain["dumpconfig"][:-1], "."], "what is to be copied is as it was"
    assert json.loads("\n".join((await ask("fd AS JSON"))[:-1])).keys() == {"max", "cur"}
    assert await ask("USE app") == ["OK"]
    assert await ask("SET chat.idle_timeot = 3") == [
        "ERROR: 'idle_timeot' is not a tunable of role reverse_proxy",
        "      | SET chat.idle_timeot = 3",
        "      |          ^^^^^^^^^^^",
        "  did you mean 'idle_timeout'?",
        ".",
    ]
    assert await other("show service") == plain["show service"], "it is one connection's"
    assert await ask("terminal OFF") == ["OK"]
    for query, lines in plain.items():
        assert await ask(query) == lines
    for wrong in ("19", "1001", "-5", "wide", "²²"):
        assert (await refused(f"TERMINAL {wrong}"))[0].startswith("ERROR: expected off, or a number of columns from 20 to 1000")


@lab
async def test_every_query_has_a_table_that_fits(lab: Lab) -> None:
    pbal = await lab.pbal(CONF)
    ask = await reading(pbal)
    _, poll = await pbal.connect("chat")
    poll.write(b"GET /poll/alice HTTP/1.1\r\nHost: c\r\n\r\n")
    await pbal.until("poll_parked", 1)
    await ask("terminal 110")
    (_, row, _) = await ask("show parked")
    assert re.fullmatch(r" *1  chat +alice +127\.0\.0\.1:\d+ +0s +\d\ds +\d+  poll", row), row
    fixed = {
        "explain": f"explain GET http://127.0.0.1:{pbal.server.address('chat')[1]}/",
        "show_queue": "show queue chat alice",
        "check_nodes": "check app",
        "show_tunables_changed": "show tunables chat changed",
    }
    skipped = {"leaks", "dumpconfig", "socks", "nodes", "complete", "trace"}
    language = pbal.server.interpreter.language
    assert await pbal.say("SET app.check = tcp") == "OK"
    for rule in sorted(language.queries - skipped):
        query = fixed.get(rule) or " ".join(re.sub(r"\[.*\]", "", language.syntax(rule).split(" | ")[0]).split())
        answer = await ask(query)
        assert answer[-1] == "." and not answer[0].startswith("ERROR"), (query, answer)
        too_wide = [line for line in answer if len(line) > 110 and not line.startswith(("ssl_cipher_list", "compress_types"))]
        assert not too_wide or rule in ("mime", "show_plugins"), (query, answer)
    tunables = await ask("show tunables chat changed")
    assert [line.split()[0] for line in tunables[1:-1] if not line.startswith(" ")] == ["listen", "plugins", "poll_uri", "pool", "role"]
    every = await ask("show tunables chat")
    said = {line.split()[0]: line.split() for line in every if not line.startswith(" ")}
    assert said["idle_timeout"][1:4] == ["30s", "30s", "no"] and said["pool"][1:4] == ["app", "-", "yes"]


# -- help ----------------------------------------------------------------------------------------------------------


@lab
async def test_help_answers_for_every_tunable_hook_and_counter(lab: Lab) -> None:
    pbal = await lab.pbal(CONF)
    ask = await reading(pbal)
    for tunable, setting in (
        *((tunable, f"{tunable.name} = ") for tunable in (*CORE, *POLL_TUNABLES, *POOL)),
        *((tunable, f"SERVER {tunable.name} = ") for tunable in SERVER),
    ):
        text = "\n".join(await ask(f"help {tunable.name}"))
        assert tunable.summary in text and tunable.source in text, text
        assert all(role in text for role in tunable.roles) and (tunable.unit or "") in text
        assert f"{setting}{example(tunable)}" in text
        if tunable.type.name not in ("directory", "error pages", "password file"):  # which have to exist
            tunable.parse(example(tunable))
    for hook in HOOKS.values():
        text = "\n".join(await ask(f"help {hook.name}"))
        assert text.startswith(f"{hook.name}(self, {', '.join(hook.arguments)}) (a hook)") and hook.summary in text
        assert (f"It returns {hook.returns}." if hook.returns else "What it returns is ignored.") in text and f"@hook.{hook.name}" in text
    for counter in pbal.world.counters.declared.values():
        text = "\n".join(await ask(f"help {counter.name}"))
        assert counter.summary in text and ("a gauge" in text) == counter.gauge
    assert (
        await ask("help chat.idle_timeout")
        == await ask("? IDLE_TIMEOUT")
        == await ask("help idle timeout")
        == [
            "idle_timeout = duration (a tunable)",
            "  How long a client may be silent during a request. 0: no limit.",
            "  Default: 30s. Unit: seconds.",
            "  A change takes effect at once.",
            "  duration: A time: a number with ms, s, m, h or d, or with the word: 30 seconds. A number alone is in seconds."
            " 1.5s is one and a half seconds.",
            "  Source: differs: exact, not checked every 5 s; the wait for a backend has its own limits",
            "  Example: SET chat.idle_timeout = 30s",
            ".",
        ]
    )


@lab
async def test_help_knows_all_names_of_a_thing(lab: Lab) -> None:
    pbal = await lab.pbal(CONF)
    ask = await reading(pbal)
    for alias, usage in (("node", "NODES [<node>] | NODE [<node>]"), ("exit", "QUIT | EXIT"), ("show version", "VERSION | SHOW VERSION")):
        assert (await ask(f"help {alias}"))[0] == usage
    plugins = await ask("help plugins")
    assert plugins[0] == "PLUGINS" and "plugins = words (a tunable)" in plugins, "a statement and a tunable"
    begun = [line for line in await ask("help persist_cl") if not line.startswith(" ") and len(line) > 1]
    assert begun == ["persist_client = bool (a tunable)", "persist_client_idle_timeout = duration (a tunable)"]
    assert (await ask("help idle_timeot"))[0].endswith(": did you mean 'idle_timeout'?")
    assert (await ask("help start_http_reqest"))[0].endswith(": did you mean 'start_http_request'?")
    assert (await ask("?"))[-2] == (await ask("help"))[-2]


# -- the nearest word ----------------------------------------------------------------------------------------------


NEAREST = [
    ("sho", "did you mean 'SHOW'?"),
    ("sh", "did you mean 'SHOW' or 'SHUTDOWN'?"),
    ("up", "did you mean 'UPTIME'?"),
    ("show ser", "did you mean 'SERVICE'?"),
    ("show co", "did you mean 'COUNTERS'?"),
    ("show backends", "did you mean 'BACKENDS'?"),
    ("show states chat", "did you mean 'STATES'?"),
    ("show queues", "did you mean 'QUEUE'?"),
    ("show uptime", "did you mean 'UPTIME'?"),
    ("counters", "did you mean 'SHOW COUNTERS'?"),
    ("parked", "did you mean 'SHOW PARKED'?"),
    ("socks sum", "did you mean 'SUMMARY'?"),
    ("reproxy", "did you mean 'REPROXY_STATE'?"),
    ("pool app a", "did you mean 'ADD'?"),
    ("xyzzy", "help lists the statements"),
]


@lab
async def test_a_path_typed_halfway_gets_the_nearest_word(lab: Lab) -> None:
    ask = await reading(await lab.pbal(CONF))
    for typed, hint in NEAREST:
        (answer,) = await ask(typed)
        assert answer.startswith("ERROR: ") and answer.endswith(hint), answer


@lab
async def test_show_alone_says_what_may_follow_and_no_plugin(lab: Lab) -> None:
    ask = await reading(await lab.pbal(CONF.replace("LOAD poll", "").replace("SET plugins  = poll", "").replace("SET poll_uri", "# SET")))
    (answer,) = await ask("show")
    assert answer.startswith("ERROR: expected CERTIFICATES, ") and "LOAD" not in answer
    (answer,) = await ask("show parked")
    assert answer.endswith("LOAD poll adds this statement")
