"""COMPLETE and MARK on the console: what a program needs that speaks there for a person."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from lab import DEADLINE, Lab, Pbal, lab

from pbal.commands import completing
from pbal.schema.pools import OF_POOLS

CONF = """
    LOAD poll
    LOAD vhosts
    CREATE POOL app
      POOL app ADD 127.0.0.1:1
      POOL app ADD 127.0.0.1:2
    CREATE POOL spare
      POOL spare ADD 127.0.0.1:3
    CREATE SERVICE chat
      SET role         = reverse_proxy
      SET listen       = 127.0.0.1:0
      SET pool         = app
      SET plugins      = poll
      SET poll_uri     = ^/poll/(?P<queue>[^/]+)$
      SET idle_timeout = 77s
    ENABLE chat
    CREATE SERVICE front
      SET role            = selector
      SET default_service = chat
      SET plugins         = vhosts
      VHOST a.example     = chat
    HEADER front INSERT X-A: $$b
    CREATE SERVICE console
      SET role   = management
      SET listen = 127.0.0.1:0
    ENABLE console
"""


async def completed(pbal: Pbal, text: str) -> tuple[str, list[str]]:
    """What the candidates would replace, and the candidates."""
    found = await whole(pbal, text)
    return text[found["column"] - 1 :], [each["text"] for each in found["candidates"]]


async def whole(pbal: Pbal, text: str) -> dict[str, Any]:
    """The answer itself."""
    found: dict[str, Any] = json.loads(await pbal.say(f"COMPLETE {quote(text, safe='')} AS JSON"))
    return found


CASES = [
    ("sh", "sh", ["SHOW", "SHUTDOWN"]),
    ("show poo", "poo", ["POOL"]),
    ("show pool ", "", ["AS JSON", "app", "spare"]),
    ("SHOW POOL A", "A", ["AS JSON", "app"]),
    ("show service f", "f", ["front"]),
    ("pool app rem", "rem", ["REMOVE"]),
    ("pool app remove ", "", ["127.0.0.1:1", "127.0.0.1:2"]),
    ("pool remove spare ", "", ["127.0.0.1:3"]),
    ("pool app add ", "", []),
    ("nodes 127.0.0.1:3", "127.0.0.1:3", ["127.0.0.1:3"]),
    ("set ch", "ch", ["chat."]),
    ("use ch", "ch", ["chat"]),
    ("unset ch", "ch", ["chat."]),
    ("unset chat.p", "p", ["plugins", "poll_uri", "pool"]),
    ("unset chat id", "id", ["idle_timeout"]),
    ("unset server log_l", "log_l", ["log_level"]),
    ("drop pool s", "s", ["spare"]),
    ("drop rule front ", "", ["HEADER front INSERT X-A: $$b", "VHOST a.example = chat"]),
    ("drop rule front vho", "vho", ["VHOST a.example = chat"]),
    ("show latency 127.0.0.1:3", "127.0.0.1:3", ["127.0.0.1:3"]),
    ("set front.def", "def", ["default_service"]),
    ("set front.poll_u", "poll_u", []),
    ("set chat.poll_u", "poll_u", ["poll_uri"]),
    ("set chat poll_u", "poll_u", ["poll_uri"]),
    ("set app.", "", sorted(OF_POOLS)),
    ("set app.balance_method = r", "r", ["random", "round_robin"]),
    ("set front.role = m", "m", ["management"]),
    ("set front.default_service = ", "", ["chat", "front", "console"]),
    ("set chat.pool=s", "s", ["spare"]),
    ("set chat.persist_client = ", "", ["on", "off"]),
    ("set chat.idle_timeout = ", "", ["77s", "30s"]),
    ("set chat.plugins = poll, vh", "vh", ["vhosts"]),
    ("set nobody.role = m", "m", ["management"]),
    ("default persist_b", "persist_b", ["persist_backend"]),
    ("server log_l", "log_l", ["log_level"]),
    ("server log_level = w", "w", ["warning"]),
    ("verbose ", "", ["on", "off"]),
    ("load v", "v", ["vpaths"]),
    ("unload v", "v", ["vhosts"]),
    ("vhost front *.example = c", "c", ["chat", "console"]),
    ("show counters like backend_r", "backend_r", ["backend_retries", "backend_retries_denied", "backend_reuses"]),
    ("help pool a", "pool a", ["pool add"]),
    ("help idle_t", "idle_t", ["idle_timeout"]),
    ("uptime as ", "", ["JSON"]),
    ("create service ", "", []),
    ("nonsense ", "", []),
    ("show pool # ", "", []),
    ("set x = \ud83d\ude00 $HOME ${ip:lo", "\ud83d\ude00 $HOME ${ip:lo".encode("utf-16", "surrogatepass").decode("utf-16"), []),
]


@lab
async def test_what_could_stand_there_is_proposed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(CONF)
    for text, replaced, candidates in CASES:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        column, found = await completed(pbal, text)
        assert (column, sorted(found)) == (replaced, sorted(candidates)), text
    assert pbal.counts["console_commands"] == len(CASES)
    monkeypatch.setenv("PBAL_TEST_SECRET", "88s")
    await pbal.say("SET chat.idle_timeout = ${env:PBAL_TEST_SECRET}")
    assert (await completed(pbal, "set chat.idle_timeout = "))[1] == ["${env:PBAL_TEST_SECRET}", "30s"], "as it was written"
    await pbal.say("UNSET chat.idle_timeout")
    await pbal.say("DEFAULT idle_timeout = ${env:PBAL_TEST_SECRET}")
    await pbal.say("CREATE SERVICE later")
    told = {each["tunable"]: each["value"] for each in json.loads(await pbal.say("show tunables later AS JSON"))}
    assert told["idle_timeout"] == "${env:PBAL_TEST_SECRET}" and told["client_keepalive"] == 60
    await pbal.say("DROP SERVICE later")
    await _the_current_object_is_what_a_set_is_about(pbal)
    await _candidates_say_what_they_are(pbal)
    await _an_answer_is_bounded_and_says_so(pbal, monkeypatch)


async def _the_current_object_is_what_a_set_is_about(pbal: Pbal) -> None:
    assert "backend_persist_cache" in (await completed(pbal, "set backend_p"))[1], "of any role, where nothing is current"
    await pbal.say("USE front")
    assert (await completed(pbal, "set backend_p"))[1] == []
    await pbal.say("USE app")
    assert (await completed(pbal, "set "))[1] == ["chat.", "front.", "console.", "app.", "spare.", *OF_POOLS]


async def _candidates_say_what_they_are(pbal: Pbal) -> None:
    (found,) = (await whole(pbal, "set chat.idle_t"))["candidates"]
    assert found == {"text": "idle_timeout", "kind": "tunable", "help": pbal.world.tunables["idle_timeout"].summary}
    helps = {each["text"]: each["help"] for each in (await whole(pbal, ""))["candidates"]}
    assert helps["DUMPCONFIG"] == "Print a configuration that makes this state again."
    assert helps["CREATE"] == "pool, service"
    assert "VHOST" in helps and "VPATH" not in helps
    lines = (await pbal.say("complete create%20")).splitlines()
    assert lines == [f"{word}\t{await summary(pbal, f'create {word}')}" for word in ("POOL", "SERVICE")] + ["."]


async def summary(pbal: Pbal, statement: str) -> str:
    """The first line of a statement's help."""
    return (await pbal.say(f"help {statement}")).splitlines()[1].strip()


async def _an_answer_is_bounded_and_says_so(pbal: Pbal, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(completing.MOST_LIVE):
        await pbal.say(f"POOL app ADD 10.0.0.{number}:80")
    assert len((await completed(pbal, "pool app remove "))[1]) == completing.MOST_LIVE
    assert (await completed(pbal, "pool app remove 10.0.0.49"))[1] == ["10.0.0.49:80"]
    assert (await whole(pbal, "set chat."))["more"] is False
    monkeypatch.setattr(completing, "MOST", 3)
    found = await whole(pbal, "set chat.")
    assert (len(found["candidates"]), found["more"]) == (3, True)


@lab
async def test_a_plugin_completes_what_is_its_own(lab: Lab) -> None:
    pbal = await lab.pbal(CONF)
    _, writer = await pbal.connect("chat")
    writer.write(b"GET /poll/lobby HTTP/1.1\r\nHost: c\r\n\r\nGET /poll/lounge HTTP/1.1\r\nHost: c\r\n\r\n")
    await pbal.until("poll_parked", 1)
    assert await completed(pbal, "poll wake l") == ("l", ["lobby"])
    assert await completed(pbal, "poll publish chat lo") == ("lo", ["lobby"])
    await pbal.say("poll publish chat lounge hello")
    assert (await completed(pbal, "show queue chat l"))[1] == ["lobby", "lounge"]
    assert await completed(pbal, "poll publish chat lobby hel") == ("hel", [])
    await pbal.say("SET chat.plugins = none")
    assert await pbal.say("UNSET chat.poll_uri") == await pbal.say("UNLOAD poll") == "OK"
    assert (await completed(pbal, "poll "))[1] == []


OWN = """
from pbal.api import OK, Plugin

def feed(session, animal):
    "Feed an animal."
    return OK

class Own(Plugin):
    grammar = '%extend statement: feed\\nfeed: "FEED"i ANIMAL\\nANIMAL: /[a-z]+/'
    commands = (feed,)

    def complete(self, kind, word):
        return ["cat", 5] if word else 1 / 0
"""


@lab
async def test_what_a_plugin_does_wrong_is_its_own_fault(lab: Lab) -> None:
    (lab.folder / "own.py").write_text(OWN)
    pbal = await lab.pbal(
        f"SERVER plugin_path = {lab.folder}\nLOAD own\nCREATE SERVICE x\nSET role = web_server\nSET plugins = own\nENABLE x"
    )
    assert await completed(pbal, "feed c") == ("c", ["cat"])
    assert await completed(pbal, "feed ") == ("", [])
    assert pbal.counts["plugin_errors"] == 1


# -- MARK ----------------------------------------------------------------------------------------------------------


async def talk(pbal: Pbal, text: str) -> list[str]:
    """Send it, end our side, and read to the end."""
    reader, writer = await pbal.connect("console")
    writer.write(text.encode())
    writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        return (await reader.read()).decode().split("\r\n")[:-1]


@lab
async def test_a_mark_ends_every_answer_and_says_what_it_was(lab: Lab) -> None:
    pbal = await lab.pbal(CONF)
    lines = await talk(pbal, "MARK end-1\nshow pool spare\nUSE app\n\n  \nVERBOSE off\nUSE app\nfrobnicate\nQUIT\nuptime\n")
    assert lines[:6] == ["OK", "end-1 ok", "127.0.0.1:3 0", ".", "end-1 list", "OK"]
    assert lines[6:] == [
        "end-1 ok", "end-1 ok", "end-1 ok", "ERROR: 'frobnicate' is not a statement: help lists the statements", "end-1 error", "end-1 text"
    ]  # fmt: skip
    dump = await talk(pbal, "dumpconfig\nMARK x\ndumpconfig\n")
    middle = dump.index("OK")
    assert dump[middle:] == ["OK", "OK", "x ok", *dump[:middle], "x text"], "and no OK that belongs to no statement"
    await _with_json_every_answer_is_json(pbal)
    await _a_mark_is_one_word_that_cannot_be_mistaken(pbal)


async def _with_json_every_answer_is_json(pbal: Pbal) -> None:
    lines = await talk(pbal, "MARK m JSON\nUSE app\nshow pool spare\nUSE nobody\n")
    ends = [place for place, line in enumerate(lines) if line.startswith("m ")]
    assert [lines[place] for place in ends] == ["m list", "m list", "m list", "m error"]
    assert json.loads(lines[0]) == json.loads(lines[ends[0] + 1]) == {"ok": True}
    assert "127.0.0.1:3" in str(json.loads("".join(lines[ends[1] + 1 : ends[2] - 1])))
    assert lines[-2].startswith("ERROR: service/pool 'nobody' does not exist")


async def _a_mark_is_one_word_that_cannot_be_mistaken(pbal: Pbal) -> None:
    for word in ("a.b", "x" * 65, "\u00e4", '"a b"'):
        assert "expected 1 to 64 letters, digits, '-' or '_'" in (await talk(pbal, f"MARK {word}\n"))[0]
    assert (await talk(pbal, "MARK x XML\n"))[0].startswith("ERROR: expected JSON or the end of the line, found 'XML'")
