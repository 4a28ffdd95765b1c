"""UNSET, DROP, DROP RULE and CREATE ... LIKE: what was said is taken back, one statement at a time, and nothing else moves."""

import asyncio
from dataclasses import replace

from authority import Authority
from lab import Lab, lab, read_response, until
from scripted import Client, Scripted, get, proxy, statuses
from secure import files

from pbal.config.diff import difference
from pbal.config.render import render
from pbal.model.snapshot import snapshot

SELECTOR = """
    LOAD vhosts
    LOAD vpaths
    CREATE SERVICE site
      SET role = web_server
      SET docroot = {folder}
      SET idle_timeout = 5s
    CREATE SERVICE other
      SET role = web_server
      SET docroot = {folder}
    CREATE SERVICE front
      SET role = selector
      SET listen = 127.0.0.1:0
      SET plugins = vhosts vpaths
      SET default_service = other
      VHOST a.test = site
      VHOST *.b.test = other
      VPATH ^/x$ = site
      VPATH ^/y = other
    HEADER front INSERT X-A: 1
    HEADER front REMOVE X-B
    ENABLE front
"""


@lab
async def test_unset_gives_the_default_that_holds_now(laboratory: Lab) -> None:
    pbal = await laboratory.pbal(SELECTOR.format(folder=laboratory.folder))
    site = pbal.world.service("site")
    assert await pbal.say("DEFAULT idle_timeout = 9s") == "OK"
    assert await pbal.say("UNSET site.idle_timeout") == "OK" and site["idle_timeout"] == 9.0
    assert "was not set" in await pbal.say("UNSET site.idle_timeout")
    assert await pbal.say("UNSET other idle_timeout") == "OK", "a later DEFAULT is taken up when somebody asks for it"
    assert await pbal.say("UNSET DEFAULT idle_timeout") == "OK"
    assert "there is no DEFAULT" in await pbal.say("UNSET DEFAULT idle_timeout")
    assert await pbal.say("USE site") == "OK" and await pbal.say("UNSET idle_timeout") == "OK" and site["idle_timeout"] == 30.0
    for wrong, why in (
        ("UNSET site.role", "a role stays"), ("UNSET site.pool", "not a tunable of role web_server"), ("UNSET front.default_service", "OK"),
        ("UNSET site.idle_timeou", "did you mean 'idle_timeout'"), ("UNSET nobody.idle_timeout", "does not exist"),
    ):  # fmt: skip
        assert why in await pbal.say(wrong), wrong
    assert await pbal.say("CREATE POOL app") == "OK" and await pbal.say("SET app.sticky = node") == "OK"
    assert await pbal.say("UNSET app.sticky") == "OK" and "sticky was not set on 'app'" in await pbal.say("UNSET app.sticky")


@lab
async def test_unset_is_refused_where_an_open_service_needs_it(laboratory: Lab) -> None:
    pbal = await laboratory.pbal(
        SELECTOR.format(folder=laboratory.folder).replace("SET plugins = vhosts vpaths", "").split("VHOST")[0] + "ENABLE front"
    )
    before = snapshot(pbal.world)
    assert "no default_service" in await pbal.say("UNSET front.default_service")
    assert snapshot(pbal.world) == before


@lab
async def test_unset_of_the_process(laboratory: Lab) -> None:
    pbal = await laboratory.pbal(SELECTOR.format(folder=laboratory.folder))
    assert "was not set" in await pbal.say("UNSET SERVER graceful_timeout")
    assert await pbal.say("SERVER graceful_timeout = 5s") == "OK"
    assert await pbal.say("UNSET SERVER graceful_timeout") == "OK"
    assert pbal.world.server["graceful_timeout"] == 30.0


@lab
async def test_rules_are_listed_and_dropped_one_by_one(laboratory: Lab) -> None:
    pbal = await laboratory.pbal(SELECTOR.format(folder=laboratory.folder))
    assert (await pbal.say("show rules front")).splitlines() == [
        "front 1 HEADER front INSERT X-A: 1", "front 2 HEADER front REMOVE X-B", "front 3 VHOST a.test = site",
        "front 4 VHOST *.b.test = other",
        "front 5 VPATH ^/x$ = site", "front 6 VPATH ^/y = other", ".",
    ]  # fmt: skip
    assert await pbal.say("DROP RULE front VPATH  ^/x$ = site") == "OK"
    assert await pbal.say("DROP RULE front 3") == "OK"
    assert await pbal.say("DROP RULE front 1") == "OK"
    assert "has no rule" in await pbal.say("DROP RULE front 9")
    assert "has no rule" in await pbal.say("DROP RULE front " + "9" * 5000)
    assert "has no rule" in await pbal.say("DROP RULE front VHOST a.test = site")
    assert (await pbal.say("show rules")).splitlines() == [
        "front 1 HEADER front REMOVE X-B", "front 2 VHOST *.b.test = other", "front 3 VPATH ^/y = other", ".",
    ]  # fmt: skip


@lab
async def test_a_dropped_service_answers_what_is_in_progress_and_nothing_more(laboratory: Lab) -> None:
    held = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await held.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    port = (await laboratory.origin(slow)).port
    pbal = await laboratory.pbal(f"""
        CREATE POOL p
          POOL p ADD 127.0.0.1:{port}
        CREATE SERVICE web
          SET role = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool = p
        ENABLE web
    """)
    address = pbal.server.address("web")
    reader, writer = await pbal.connect("web")
    idle, _ = await pbal.connect("web")
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await pbal.until("requests", 1)
    assert "is used by service 'web'" in await pbal.say("DROP POOL p")
    assert await pbal.say("DROP SERVICE web") == "OK"
    assert await idle.read() == b""
    held.set()
    answer = await read_response(reader)
    assert answer.status == 200 and await reader.read() == b""
    assert await pbal.say("DROP POOL p") == "OK"
    assert list(render(snapshot(pbal.world))) == [""]
    try:
        await asyncio.open_connection(*address)
    except ConnectionRefusedError:
        refused = True
    else:
        refused = False
    assert refused
    assert "does not exist" in await pbal.say("DROP SERVICE web")


@lab
async def test_a_service_is_dropped_whatever_connections_there_are(laboratory: Lab) -> None:
    authority = Authority(laboratory.folder)
    more = ("SET accept_proxy_protocol = 127.0.0.0/8", files(authority.certify("a.test")), "")
    names = ("heading", "shaking", "plain")
    services = [
        f"CREATE SERVICE {name}\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET docroot = {laboratory.folder}\n{said}\nENABLE {name}"
        for name, said in zip(names, more, strict=True)
    ]
    pbal = await laboratory.pbal("\n".join(services))
    waiting = [(await pbal.connect(name))[0] for name in names]
    await until(lambda: len(pbal.world.clients) == 3, "all")
    refused, writer = await pbal.connect("plain")
    writer.write(b"no request\r\n\r\n")
    assert (await read_response(refused)).status == 400  # and it lingers
    for name, reader in zip(names, waiting, strict=True):
        assert await pbal.say(f"DROP SERVICE {name}") == "OK"
        assert await reader.read() == b""
        await until(lambda: sum(client.home is not None for client in pbal.world.clients) == len(pbal.world.services), "it to go")


@lab
async def test_a_request_that_was_coming_while_its_service_was_dropped_is_answered(laboratory: Lab) -> None:
    origin = await Scripted.start(laboratory)
    more = r"SET plugins = poll; SET poll_uri = ^/poll/(?P<queue>\w+)$"
    pbal = await laboratory.pbal("LOAD poll\n" + proxy(origin.address, more=more))
    parts = [(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab", b"cd"), (get()[:-5], get()[-5:])]
    parts.append((get("/poll/a")[:-5], get("/poll/a")[-5:]))
    clients = [await Client.of(pbal, request=first) for first, _ in parts]
    await until(lambda: sorted(each.state for each in pbal.world.clients) == ["reading_body", *["reading_headers"] * 2], "all of them")
    assert await pbal.say("DROP SERVICE web") == "OK"
    for client, (_, rest) in zip(clients, parts, strict=True):
        client.writer.write(rest)
        assert statuses(await client.rest()) == [503]


@lab
async def test_the_target_of_a_default_service_is_not_dropped(laboratory: Lab) -> None:
    pbal = await laboratory.pbal(SELECTOR.format(folder=laboratory.folder))
    before = snapshot(pbal.world)
    assert "is the default_service of 'front'" in await pbal.say("DROP SERVICE other")
    assert snapshot(pbal.world) == before
    assert (await pbal.ask("front", b"GET / HTTP/1.0\r\nHost: z.b.test\r\n\r\n")).status == 403
    gone = ("DROP SERVICE front", "DROP SERVICE other")
    empty = replace(before, services=tuple(each for each in before.services if each.name not in ("front", "other")))
    steps = [step.statement for step in difference(before, empty, pbal.world.fits)]
    assert steps[: len(gone)] == list(gone), "what names it goes before it, and takes nothing back"


@lab
async def test_like_copies_all_but_the_address(laboratory: Lab) -> None:
    pbal = await laboratory.pbal(
        SELECTOR.format(folder=laboratory.folder) + "CREATE POOL p\n SET balance_method = round_robin\n POOL p ADD 10.0.0.1\n"
    )
    assert await pbal.say("CREATE SERVICE back LIKE front") == "OK"
    assert await pbal.say("CREATE POOL q LIKE p") == "OK"
    lines = list(render(snapshot(pbal.world)))
    made = [line.replace("back", "front") for line in lines if "back" in line]
    assert {line.strip() for line in made} == {
        "CREATE SERVICE front", "HEADER front INSERT X-A: 1", "HEADER front REMOVE X-B", "SET front default_service = other", "USE front",
    }  # fmt: skip
    assert [line for line in lines if line.startswith("  VHOST a.test")] == ["  VHOST a.test = site"] * 2
    assert "  POOL q ADD 10.0.0.1:80" in lines
    assert "already exists" in await pbal.say("CREATE SERVICE back LIKE front")
    assert "does not exist" in await pbal.say("CREATE SERVICE more LIKE nobody")
    assert "more" not in pbal.world.services


SETTER = """
from pbal.api import TEXT, Plugin, Tunable

class Setter(Plugin):
    \"\"\"Sets another tunable when it hears of its own.\"\"\"
    tunables = (Tunable("setter_log", TEXT, default="off", summary="Where the access log goes."),)

    def changed(self, name):
        if name == "setter_log":
            self.service.set("access_log", self.service["setter_log"])
"""


@lab
async def test_what_a_plugin_sets_when_it_is_told_is_part_of_the_change(laboratory: Lab) -> None:
    (laboratory.folder / "setter.py").write_text(SETTER)
    pbal = await laboratory.pbal(f"""
        SERVER plugin_path = {laboratory.folder}
        LOAD setter
        CREATE SERVICE site
          SET role = web_server
          SET docroot = .
          SET plugins = setter
          SET listen = 127.0.0.1:0
        ENABLE site
    """)
    assert await pbal.say(f"SET site.setter_log = {laboratory.folder}/log") == "OK"
    assert (laboratory.folder / "log").exists()
    assert "nowhere" in await pbal.say(f"SET site.setter_log = {laboratory.folder}/nowhere/log")
    site = pbal.world.service("site")
    assert site["setter_log"] == site["access_log"] == f"{laboratory.folder}/log"
