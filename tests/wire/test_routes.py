"""ROUTE and REWRITE: which pool a request goes to, and as what, however it is spelt."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from lab import Lab, Pbal, lab, read_response, until
from scripted import Client, Scripted, answer, get
from test_conditions import spelt

from pbal.http1.paths import parameters, plain

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def node(name: str) -> Handler:
    """Answers with its name and the request line that it got."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = name.encode() + b" " + head.split(b" HTTP/")[0]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), b"" if head.startswith(b"HEAD") else body))

    return serve


async def start(lab: Lab, *statements: str) -> Pbal:
    """A service `web` on the pool `app`, with the pools `api` and `beta` beside; the statements stand before ENABLE."""
    pools = "\n".join([f"CREATE POOL {name}\nPOOL {name} ADD {(await lab.origin(node(name))).address}" for name in ("app", "api", "beta")])
    lines = "\n".join(
        ["CREATE SERVICE web", "SET role = reverse_proxy", "SET listen = 127.0.0.1:0", "SET pool = app", *statements, "ENABLE web"]
    )
    return await lab.pbal(f"{pools}\n{lines}")


async def got(pbal: Pbal, target: str = "/", *fields: str, method: str = "GET", host: str = "www.example.com") -> str:
    """Who answered, and the request line that it had."""
    request = "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", ""])
    response = await pbal.ask("web", request.encode("latin-1"))
    return response.body.decode("latin-1") if response.status == 200 else str(response.status)


async def pool_of(pbal: Pbal, target: str = "/", *fields: str, method: str = "GET", host: str = "www.example.com") -> str:
    """Who answered."""
    return (await got(pbal, target, *fields, method=method, host=host)).split(" ")[0]


@lab
async def test_the_first_route_whose_conditions_hold_counts(lab: Lab) -> None:
    pbal = await start(
        lab,
        "ROUTE web TO beta WHEN host beta.example.com,*.beta.example.com",
        "ROUTE web TO app  WHEN path ^/api/old",
        "ROUTE web TO api  WHEN path ^/api/ AND NOT method DELETE",
        "ROUTE web TO beta WHEN header X-Beta ~ ^(1|on)$",
    )
    assert await pool_of(pbal) == "app"
    assert await pool_of(pbal, "/api/x") == "api"
    assert await pool_of(pbal, "/api/old/x") == "app"
    assert await pool_of(pbal, "/api/x", method="DELETE") == "app"
    assert await pool_of(pbal, "/", "X-Beta: 2", "X_Beta: on") == "beta"
    for host in ("BETA.example.com.:80", "a.Beta.example.com"):
        assert await pool_of(pbal, "/api/x", host=host) == "beta"
    assert await pool_of(pbal, "http://beta.example.com/api/x", host="www.example.com") == "beta"


@lab
async def test_however_a_path_is_spelt_it_goes_where_its_plain_path_goes(lab: Lab) -> None:
    pbal = await start(lab, "ROUTE web TO api WHEN path ^/admin(/|$)")
    chance = random.Random(9)
    for path in (b"/admin", b"/admin/users", b"/administrator", b"/x/admin"):
        wanted = "api" if path.startswith(b"/admin") and path != b"/administrator" else "app"
        for _ in range(25):
            target = spelt(path, chance)
            assert plain(target) == path
            assert await pool_of(pbal, target.decode("latin-1")) == wanted, target


@lab
async def test_or_joins_lists_of_conditions(lab: Lab) -> None:
    rule = "ROUTE web TO api WHEN path ^/a/ AND method GET OR NOT path ^/ab/ AND header X-B = or OR host b.example.com"
    pbal = await start(lab, rule.replace("= or", '= "or"'))
    assert await pool_of(pbal, "/a/") == "api"
    assert await pool_of(pbal, "/a/", method="POST") == "app"
    assert await pool_of(pbal, "/x", "X-B: or", method="POST") == "api"
    assert await pool_of(pbal, "/ab/", "X-B: or") == "app"
    assert await pool_of(pbal, "/ab/", "X-B: no", host="b.example.com", method="POST") == "api"
    text = rule.replace("= or", '= "or"')
    assert text in await pbal.say("dumpconfig")
    assert text.partition("TO ")[2] in await pbal.say("show rules web")
    port = pbal.server.address("web")[1]
    assert text.partition("WHEN ")[2] in await pbal.say(f"explain GET http://127.0.0.1:{port}/a/")
    assert await pbal.say(text.replace(" or ", " OR ").replace(" and ", " AND ")) == "OK"
    assert (await pbal.say("dumpconfig")).count("ROUTE web") == 1


@lab
async def test_routes_come_and_go_while_it_runs(lab: Lab) -> None:
    pbal = await start(lab)
    assert await pool_of(pbal, "/api/x") == "app"
    assert await pbal.say("ROUTE web TO api WHEN path ^/api/") == "OK"
    assert await pbal.say("ROUTE web TO beta WHEN path ^/api/ AND method GET") == "OK"
    assert await pool_of(pbal, "/api/x") == "api"
    assert "1 ROUTE web TO api WHEN path ^/api/\n" in await pbal.say("show rules web")
    assert "is used by service 'web'" in await pbal.say("DROP POOL beta")
    assert await pbal.say("ROUTE web TO api WHEN path ^/api/") == "OK", "said twice, it stays where it is"
    assert await pbal.say("DROP RULE web 1") == "OK"
    assert await pool_of(pbal, "/api/x") == "beta"
    kept = [backend for backend in pbal.world.backends if backend.node.pool.name == "api"]
    assert not any(not backend.closing for backend in kept), "the pool is nobody's any more"
    assert await pbal.say("DROP POOL api") == "OK"
    assert "pool 'nowhere' does not exist" in await pbal.say("ROUTE web TO nowhere WHEN path ^/")


@lab
async def test_who_waits_for_a_pool_that_no_rule_names_any_more_goes_where_the_rules_say_now(lab: Lab) -> None:
    busy = await Scripted.start(lab)
    pbal = await start(lab, "ROUTE web TO api WHEN path ^/api", "ROUTE web TO beta WHEN path ^/api/beta")
    for statement in (f"POOL api ADD {busy.address} MAX 1", f"POOL api REMOVE {pbal.world.pool('api').nodes[0].name}"):
        assert await pbal.say(statement) == "OK"
    handler = pbal.world.service("web").handler
    assert handler is not None
    clients = [await Client.of(pbal, request=get("/api/0"))]
    node = await busy.connection()
    await node.request()
    clients += [await Client.of(pbal, request=get(path)) for path in ("/api/1", "/api/beta/2")]
    body = await Client.of(pbal, request=get("/api/3", "Content-Length: 2", method="POST") + b"x")
    await until(lambda: handler.load()[0] == 2, "two to wait, and one for its body")
    file = lab.folder / pbal.server.interpreter.path.name
    lines = [line for line in file.read_text().splitlines() if " api" not in line or " beta " in line]
    file.write_text("\n".join(lines))
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert "api" not in pbal.world.pools
    body.writer.write(b"x")
    node.say(answer(b"api"))
    got = [(await read_response(client.reader)).body.split(b" ")[0] for client in (*clients, body)]
    assert got == [b"api", b"app", b"beta", b"app"]
    assert len(busy.connections) == 1
    await until(lambda: not [backend for backend in pbal.world.backends if backend.node.pool.name == "api"], "its connection to close")


@lab
async def test_what_nodes_see_of_a_rewritten_path(lab: Lab) -> None:
    pbal = await start(
        lab,
        "REWRITE web ^/old(/.*)?$ = /new$$1",
        "REWRITE web ^/app/       = /",
        "REWRITE web ^/(?P<user>[^/]+)/(\\d+)$ = /users/$${user}/items/$$2 WHEN method GET",
        'REWRITE web \\.php$      = ""',
        "REWRITE web ^/img-(.*)$  = /img/$$1",
        "REWRITE web ^/to(.*)$    = $$1",
        "ROUTE web TO api WHEN path ^/old",
    )
    for target, line in (
        ("/old/x?a=%2F&b", "api GET /new/x?a=%2F&b"),
        ("/old", "api GET /new"),
        ("//%6Fld/./x", "api GET /new/x"),
        ("http://other/old/x?y", "api GET /new/x?y"),
        ("/app/%2Fx%20y%22", "app GET /x%20y%22"),
        ("/ann/12", "app GET /users/ann/items/12"),
        ("/index.php?x.php", "app GET /index?x.php"),
        ("/img-a/b", "app GET /img/a/b"),
        ("/tohttp://other/x", "app GET /http:/other/x"),
        ("/%7Eother//x%2fy", "app GET /%7Eother//x%2fy"),
        ("/old;v=1/x;jsessionid=2?q", "api GET /new/x;jsessionid=2?q"),
        ("/ann;v=1/12", "app GET /users/ann/items/12"),
        ("/other;v=1/x;y", "app GET /other;v=1/x;y"),
    ):
        assert await got(pbal, target) == line
    assert await got(pbal, "/ann/12", method="PUT") == "app PUT /ann/12"
    assert await got(pbal, "/img-../secret") == "400"
    assert await got(pbal, "/img-%2e%2e/secret") == "400"
    assert pbal.counts["rewrites_refused"] == 2


@lab
async def test_whatever_is_rewritten_stays_a_path_below_its_replacement(lab: Lab) -> None:
    pbal = await start(lab, "REWRITE web ^/f(.*)$ = /files/$$1")
    chance = random.Random(3)
    pieces = ["..", "/", "%2e", "%2F", "a", "%25", "2e", "%5C", "\\", ";", "http://x", "%20", "?q=/../", "%", "//", "."]
    for _ in range(150):
        target = "/f" + "".join(chance.choices(pieces, k=5))
        line = await got(pbal, target)
        if line not in ("400", "app GET " + target):  # refused, or the plain path was another one
            path = line.removeprefix("app GET ").partition("?")[0].encode("latin-1")
            assert path.startswith(b"/files/") and plain(path).startswith(b"/files/"), (target, line)


@lab
async def test_what_is_refused(lab: Lab) -> None:
    pbal = await start(lab)
    before = await pbal.say("dumpconfig")
    for statement, why in (
        ("REWRITE web ^/( = /x", "expected a regular expression"),
        ("REWRITE web ^/a = /x?y=1", "the query of a request stays as it is"),
        ("REWRITE web ^/a = /x%2", "% begins an escape"),
        ("REWRITE web ^/a = /%61", "an escape in '/%61' of what needs none"),
        ("REWRITE web ^/a = /../x", "without the segments . and .."),
        ("REWRITE web ^/(a) = /$$2", "'$$2' is no group of '^/(a)', which has one group"),
        ('REWRITE web ^/a = "/b c"', "other characters are escaped, as %20"),
        ("ROUTE web TO api WHEN host a OR", "expected a condition"),
        ("ROUTE web TO api WHEN (host a OR host b) AND method GET", "expected a condition"),
        ("ROUTE web TO api WHEN host a ) AND method GET", "AND binds closer than OR"),
    ):
        said = await pbal.say(statement)
        assert said.startswith("ERROR") and why in said, (statement, said)
    assert await pbal.say("dumpconfig") == before
    assert "repeats what is repeated itself" in await pbal.say("ROUTE web TO api WHEN path (a+)+$")
    assert "an earlier ROUTE sends the same requests to pool 'api'" in await pbal.say("ROUTE web TO beta WHEN path (a+)+$")
    assert await pbal.say("REWRITE web ^/a = /b") == "OK"
    assert "an earlier REWRITE has the same pattern" in await pbal.say("REWRITE web ^/a = /c")


@lab
async def test_explain_tells_the_route_and_the_path(lab: Lab) -> None:
    pbal = await start(
        lab,
        "HEADER web RESPONSE SET X-A: $$client WHEN path ^/api",
        "REWRITE web ^/img-(.*)$ = /img/$$1",
        "REWRITE web ^/api/(.*)$ = /$$1",
        "ROUTE web TO api WHEN path ^/api/ AND scheme http",
    )
    port = pbal.server.address("web")[1]
    said = await pbal.say(f"explain GET http://127.0.0.1:{port}/api/x?y")
    for part in (
        "HEADER RESPONSE SET X-A: 127.0.0.1 WHEN path ^/api", "REWRITE makes the target /x?y",
        "ROUTE TO api WHEN path ^/api/ AND scheme http", "api: balance_method", "GET /x?y HTTP/1.1",
    ):  # fmt: skip
        assert part in said
    said = await pbal.say(f"explain GET http://127.0.0.1:{port}/img-../x")
    assert "400: REWRITE makes /img/../x of its path" in said and "HEADER RESPONSE" not in said


@lab
async def test_reloading_brings_the_rules_into_the_order_of_the_file(lab: Lab) -> None:
    routes = ["ROUTE web TO api WHEN path ^/a", "ROUTE web TO beta WHEN path ^/ab", 'REWRITE web ^/x = "/y z"'.replace(" z", "z")]
    headers = ["HEADER web RESPONSE SET X-A: 1", "HEADER web RESPONSE SET X-A: 2 WHEN path ^/abc", "HEADER web INSERT X-B: $$b"]
    pbal = await start(lab, *routes, *headers)
    path = lab.folder / "test1.conf"
    text = path.read_text()
    swapped = text.replace(f"{routes[0]}\n{routes[1]}", f"{routes[1]}\n{routes[0]}").replace(f"{headers[0]}\n{headers[1]}", f"{headers[1]}")
    path.write_text(swapped)
    assert await pool_of(pbal, "/abc") == "api"
    plan = await pbal.say("RELOAD CONFIG DRY RUN")
    assert "DROP RULE web HEADER web RESPONSE SET X-A: 1" in plan and "INSERT" not in plan and "REWRITE" not in plan
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert await pool_of(pbal, "/abc") == "beta"
    rules = [line.split(" ", 2)[2] for line in (await pbal.say("show rules web")).splitlines() if line.startswith("web ")]
    assert rules == [headers[2], headers[1], routes[1], routes[0], routes[2].replace('"', "")]
    assert await pbal.say("CONFIG DRIFT") == "."


@lab
async def test_saving_writes_rules_where_their_service_is_and_takes_them_out_however_they_were_spelt(lab: Lab) -> None:
    pbal = await start(lab, "header web response set X-A: 1 when Method GET and path ^/a$$b  # why", "ROUTE web TO api WHEN host A.example")
    assert await pbal.say("DROP RULE web 1") == "OK"
    for rule in ("ROUTE web TO beta WHEN path ^/b", "REWRITE web ^/old = /new", "HEADER web RESPONSE ADD X-B: $$client"):
        assert await pbal.say(rule) == "OK"
    assert await pbal.say("CONFIG SAVE") == "OK"
    text = (lab.folder / "test1.conf").read_text()
    assert "X-A" not in text and "DROP RULE" not in text and text.count("USE ") == 0
    lines = text.splitlines()
    end = lines.index("ENABLE web")
    assert sorted(lines[end - 4 : end]) == [
        "HEADER web RESPONSE ADD X-B: $$client", "REWRITE web ^/old = /new", "ROUTE web TO api WHEN host A.example",
        "ROUTE web TO beta WHEN path ^/b",
    ]  # fmt: skip
    assert await pbal.say("CONFIG DRIFT") == "."


@lab
async def test_a_request_that_would_keep_a_regular_expression_busy_for_ever_is_given_up_whatever_rule_has_it(lab: Lab) -> None:
    pbal = await start(
        lab, "LOAD maintenance", "SET plugins = maintenance", "SET maintenance = on", "SET maintenance_path = ^/(d+)+$",
        'HEADER web RESPONSE SET X-Slow: yes WHEN header X-Probe ~ "(a+)+$" OR host slow.example',
        "HEADER web RESPONSE SET X-Always: yes",
        "REWRITE web ^/r/(b+)+$ = /q", 'ROUTE web TO api WHEN cookie c ~ "(c+)+$"', "LIMIT web 1000/s WHEN path ^/(e+)+$",
    )  # fmt: skip
    hostile = "z" * 40 + "!"
    asked = [("/", f"X-Probe: {hostile.replace('z', 'a')}"), (f"/r/{hostile.replace('z', 'b')}", "A: 1")]
    asked += [("/", f"Cookie: c={hostile.replace('z', 'c')}"), (f"/{hostile.replace('z', 'e')}", "A: 1")]
    for number, (target, field) in enumerate(asked, 1):
        response = await pbal.ask("web", get(target, field))
        assert (response.status, response.fields["x-always"], "x-slow" in response.fields) == (500, "yes", False)
        assert pbal.counts["regex_timeouts"] == number
    told = await pbal.say(f"explain GET http://h/ Cookie: c={asked[2][1].partition('=')[2]}")
    assert "500: a regular expression of a rule takes too long" in told
    guarded = "/" + hostile.replace("z", "d")  # of a plugin, which is not to blame
    assert (await pbal.ask("web", get(guarded))).status == 500 and pbal.counts["regex_timeouts"] == len(asked) + 1
    assert "takes too long" in await pbal.say(f"explain GET http://h{guarded}")
    assert await got(pbal, "/r/bb", "X-Probe: aa") == "app GET /q"
    assert (await pbal.ask("web", get("/", "X-Probe: aa"))).fields["x-slow"] == "yes"
    assert pbal.counts["regex_timeouts"] == len(asked) + 1 and pbal.counts["plugin_errors"] == 0


def test_the_parameters_of_a_path_are_what_stands_at_its_end_and_needs_no_decoding() -> None:
    found = {path: parameters(path) for path in (b"/a;b/c;d=1;e", b"/a;b/", b"/a;b%20", b"/a;b%20;c", b"/;", b"/a", b"", b"/a;'", b'/a;"')}
    assert list(found.values()) == [b";d=1;e", b"", b"", b";c", b";", b"", b"", b";'", b""]
    assert parameters(b"/" + b";" * 1_000_000 + b'"') == b""  # which a search that begins anew at each of them would not live to see
