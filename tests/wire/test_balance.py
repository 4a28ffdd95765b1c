"""Nodes with weights, tiers and bounds; hashes and sticky sessions; how often a request is sent again. What clients see of it."""

import json
from collections import Counter
from pathlib import Path

from lab import Lab, Pbal, Response, free_port, lab, read_response, until
from scripted import Client, Scripted, Taken, answer, get, proxy

FAILED = b"HTTP/1.1 500 Sorry\r\nContent-Length: 2\r\n\r\nno"


async def named(lab: Lab, name: str, *more: bytes) -> Scripted:
    """A node that answers `more`, one each, and then with its name and the cookies it got."""
    answers = list(more)

    async def behave(taken: Taken) -> None:
        while head := await taken.request():
            cookies = [line for line in head.decode().split("\r\n") if line.lower().startswith("cookie:")]
            taken.say(answers.pop(0) if answers else answer(" ".join([name, *cookies]).encode()))

    return await Scripted.start(lab, behave)


async def asked(client: Client, path: str = "/", *fields: str, method: str = "GET") -> Response:
    client.writer.write(get(path, *fields, method=method))
    return await read_response(client.reader, head_only=method == "HEAD")


async def bodies(pbal: Pbal, number: int, *fields: str, path: str = "/") -> str:
    """The first letters of so many answers."""
    client = await Client.of(pbal)
    return "".join([(await asked(client, path, *fields)).body.decode()[0] for _ in range(number)])


@lab
async def test_weights_tiers_and_bounds_of_nodes(lab: Lab) -> None:
    a, b, c = [await named(lab, name) for name in "abc"]
    pool = "SET balance_method = round_robin"
    pbal = await lab.pbal(proxy(f"{a.address} WEIGHT 3", b.address, f"{c.address} BACKUP", pool=pool))
    assert await bodies(pbal, 8) == "aabaaaba"
    assert await pbal.say(f"POOL app ADD {a.address} WEIGHT 0") == "OK"
    assert await bodies(pbal, 3) == "bbb"
    assert await pbal.say(f"POOL app REMOVE {b.address}") == "OK"
    assert await bodies(pbal, 3) == "ccc"
    assert await pbal.say(f"POOL app ADD {a.address}") == "OK", "without options, as any other"
    assert await bodies(pbal, 3) == "aaa"
    dumped = (await pbal.say("dumpconfig")).split("\n")
    assert f"  POOL app ADD {a.address}" in dumped and f"  POOL app ADD {c.address} BACKUP" in dumped
    assert await pbal.say(f"POOL app ADD {a.address} WEIGHT 2 BACKUP MAX 7") == "OK"
    assert f"  POOL app ADD {a.address} WEIGHT 2 BACKUP MAX 7" in (await pbal.say("dumpconfig")).split("\n")
    for statement in (f"POOL app REMOVE {c.address}", f"POOL app ADD {a.address} WEIGHT 0"):
        assert await pbal.say(statement) == "OK"
    assert (await pbal.ask("web", get())).status == 503 and "has the weight 0" in await pbal.say("show errors 1")


@lab
async def test_a_backup_node_answers_while_the_others_refuse(lab: Lab) -> None:
    backup = await named(lab, "c")
    pbal = await lab.pbal(proxy(f"127.0.0.1:{free_port()}", f"{backup.address} BACKUP"))
    assert await bodies(pbal, 3) == "ccc"


@lab
async def test_options_of_nodes_that_are_no_numbers_or_too_large_change_nothing(lab: Lab) -> None:
    a = await named(lab, "a")
    pbal = await lab.pbal(proxy(f"{a.address} WEIGHT 2"))
    before = await pbal.say("dumpconfig")
    for options, expected in (
        ("WEIGHT 1001", "expected a weight from 0 to 1000, found '1001'"),
        ("WEIGHT -1", "expected a weight from 0 to 1000, found '-1'"),
        ("MAX 0", "expected a number of connections from 1 to 1000000, found '0'"),
        ("MAX none", "expected a number of connections from 1 to 1000000, found 'none'"),
    ):
        assert expected in await pbal.say(f"POOL app ADD {a.address} {options}")
    for setting, expected in (
        ("balance_hash = header:", "expected uri, path, client, header:NAME, cookie:NAME or query:NAME, found 'header:'"),
        ("balance_hash = url", "found 'url'"),
        ("sticky = a=b", "expected off or the name of a cookie such as node, found 'a=b'"),
        ("sticky_key = short", "expected a secret of at least 16 characters, found one of 5"),
        ("retry_budget = 101", "expected 100 or less"),
        ("balance_method = p2", "did you mean 'p2c'?"),
    ):
        assert expected in await pbal.say(f"SET app.{setting}")
    assert await pbal.say("dumpconfig") == before


@lab
async def test_options_of_nodes_are_reloaded_and_saved(lab: Lab) -> None:
    a, b = [await named(lab, name) for name in "ab"]
    key = lab.folder / "key"
    key.write_text("a secret of many letters\n")
    pbal = await lab.pbal(proxy(f"{a.address} WEIGHT 3   # the big one", b.address, pool="SET sticky = node;SET sticky_key = ${file:key}"))
    path = Path(pbal.server.interpreter.path)
    node, cookie = pbal.world.pool("app").nodes[0], (await pbal.ask("web", get())).fields["set-cookie"]
    assert await pbal.say(f"POOL app ADD {a.address} WEIGHT 5 MAX 9") == "OK"
    assert await pbal.say(f"POOL app ADD {b.address} BACKUP") == "OK"
    assert f"POOL app ADD {b.address} BACKUP" in await pbal.say("config drift")
    await pbal.say("config save")
    text = path.read_text()  # noqa: ASYNC240
    assert f"POOL app ADD {a.address} WEIGHT 5 MAX 9   # the big one\nPOOL app ADD {b.address} BACKUP\n" in text
    path.write_text(text.replace("WEIGHT 5 MAX 9", "WEIGHT 0").replace(" BACKUP", ""))  # noqa: ASYNC240
    steps = await pbal.say("RELOAD CONFIG DRY RUN")
    assert f"POOL app ADD {a.address} WEIGHT 0\nPOOL app ADD {b.address}\n" in steps
    assert await pbal.say("RELOAD CONFIG") == "OK"
    assert pbal.world.pool("app").nodes[0] is node and (node.weight, node.most) == (0, 0)
    answered = await pbal.ask("web", get("/", "Cookie: " + cookie.split(";")[0]))
    assert "set-cookie" not in answered.fields, "the key has stayed"


@lab
async def test_a_hash_brings_the_same_to_the_same_node_whichever_pbal_it_is(lab: Lab) -> None:
    nodes = [await named(lab, name) for name in "abc"]
    text = proxy(*(node.address for node in nodes), pool="SET balance_method = hash;SET balance_hash = query:user")
    first, second = await lab.pbal(text), await lab.pbal(text)
    users = [f"/?user={number}" for number in range(60)]  # of twelve, every forties run would see none at one of the nodes
    found = [await bodies(first, 2, path=user) for user in users]
    assert all(twice[0] == twice[1] for twice in found) and len(set(found)) == 3
    assert found == [await bodies(second, 2, path=user) for user in users]
    gone = nodes["abc".index(found[0][0])]
    assert await first.say(f"POOL app REMOVE {gone.address}") == "OK"
    after = [await bodies(first, 2, path=user) for user in users]
    assert all(was == now for was, now in zip(found, after, strict=True) if was != found[0]) and after[0] != found[0]
    assert await first.say("SET app.balance_hash = header:X-Key") == "OK"
    assert len(set([*await bodies(first, 3, "X-Key: 1"), *await bodies(first, 3, "X-Key: 1", path="/other")])) == 1


@lab
async def test_a_sticky_cookie_binds_a_client_and_the_node_does_not_see_it(lab: Lab) -> None:
    nodes = [await named(lab, name) for name in "abc"]
    pbal = await lab.pbal(proxy(*(node.address for node in nodes), pool="SET sticky = node"))
    client = await Client.of(pbal)
    first = await asked(client)
    cookie, *attributes = first.fields["set-cookie"].split("; ")
    assert attributes == ["Path=/", "HttpOnly", "SameSite=Lax"] and cookie.startswith("node=") and "127" not in cookie
    mine = first.body.decode()[0]
    for _ in range(6):
        response = await asked(client, "/", f"Cookie: a=1; {cookie}", "Cookie: b=2")
        assert (response.body.decode(), "set-cookie" in response.fields) == (f"{mine} Cookie: a=1; b=2", False)
    assert (await asked(client, "/", f"Cookie: {cookie}")).body.decode() == mine
    assert (pbal.counts["sticky_bound"], pbal.counts["sticky_kept"], pbal.counts["sticky_refused"]) == (1, 7, 0)
    for number, forged in enumerate((cookie[:-1], "node=", f"node={nodes[0].address}", "node=" + "x" * 200, f"{cookie}x"), 1):
        response = await asked(client, "/", f"Cookie: {forged}")
        assert response.fields["set-cookie"].startswith("node=") and response.body.decode() in "abc"
        assert pbal.counts["sticky_refused"] == number

    # Its node takes nothing new, but keeps the session; then it goes, and the client is bound to another.
    bound = nodes["abc".index(mine)]
    await pbal.say(f"POOL app ADD {bound.address} WEIGHT 0")
    assert (await asked(client, "/", f"Cookie: {cookie}")).body.decode() == mine
    assert mine not in await bodies(pbal, 12)
    await pbal.say(f"POOL app REMOVE {bound.address}")
    response = await asked(client, "/", f"Cookie: {cookie}")
    assert response.body.decode() != mine and response.fields["set-cookie"].split("; ")[0] != cookie
    assert pbal.counts["sticky_refused"] == 5, "a good cookie of a node that has gone is not a forged one"
    await pbal.say("SET app.sticky = off")
    assert (await asked(client, "/", f"Cookie: {cookie}")).body.decode()[1:] == f" Cookie: {cookie}"


@lab
async def test_two_pbals_with_one_key_bind_alike_and_a_node_that_fails_binds_nobody(lab: Lab) -> None:
    nodes = [await named(lab, "a", FAILED), await named(lab, "b", FAILED)]
    text = proxy(
        *(node.address for node in nodes), pool="SET sticky = node;SET sticky_key = sixteen-letters-of-it;SET balance_method = round_robin"
    )
    first, second = await lab.pbal(text), await lab.pbal(text)
    client, other = await Client.of(first), await Client.of(second)
    for _ in range(2):
        response = await asked(client)
        assert (response.status, "set-cookie" in response.fields) == (500, False)
    bound = await asked(client, "/", "Cookie: x=1", method="HEAD")
    cookie = bound.fields["set-cookie"].split("; ")[0]
    seen = {(await asked(each, "/", f"Cookie: {cookie}")).body for each in (client, other, client, other)}
    assert len(seen) == 1 and second.counts["sticky_kept"] == 2


@lab
async def test_what_is_sent_again_stays_within_the_budget_of_its_pool(lab: Lab) -> None:
    a, b = await Scripted.start(lab), await named(lab, "b")
    log = lab.folder / "access.log"
    pool = "SET balance_method = round_robin;SET retry_budget = 50;SET retry_budget_least = 0"
    pbal = await lab.pbal(proxy(a.address, b.address, pool=pool, more=f"SET access_log = {log}"))
    first = await Client.of(pbal, request=get("/alone"))
    await (await a.connection()).request()
    a.connections[0].writer.close()
    assert (await read_response(first.reader)).status == 502, "of one request in progress none may be sent again"
    await pbal.until("backend_retries_denied", 1)
    assert pbal.counts["backend_retries"] == 0
    assert "retry_budget is used up" in await pbal.say("show errors")
    assert await bodies(pbal, 1) == "b"

    # Of two in progress one may.
    holding = await Client.of(pbal, request=get("/held"))
    await (await a.connection(1)).request()
    assert await bodies(pbal, 1) == "b"
    second = await Client.of(pbal, request=get("/again"))
    await (await a.connection(2)).request()
    a.connections[2].writer.close()
    assert (await read_response(second.reader)).body == b"b"
    assert (pbal.counts["backend_retries"], pbal.counts["backend_retries_denied"], pbal.world.pool("app").retrying) == (1, 1, 0)
    a.connections[1].say(answer(b"a"))
    assert (await read_response(holding.reader)).body == b"a"
    await until(lambda: log.exists() and log.read_text().count("\n") == 5, "the log")
    attempts = {line["target"]: line["attempts"] for line in map(json.loads, log.read_text().splitlines())}
    assert (attempts["/alone"], attempts["/again"]) == (1, 2)

    # A connection that cannot be made is not an attempt.
    await pbal.say(f"POOL app ADD 127.0.0.1:{free_port()} WEIGHT 1000")
    await pbal.say(f"POOL app REMOVE {a.address}")
    assert await bodies(pbal, 4) == "bbbb" and pbal.counts["backend_connect_failures"] >= 1


@lab
async def test_a_500_is_asked_again_as_the_schedule_says(lab: Lab) -> None:
    node = await named(lab, "a", FAILED, FAILED)
    pbal = await lab.pbal(proxy(node.address, more="SET enable_error_retries = on;SET error_retry_schedule = 0, .01"))
    client = await Client.of(pbal)
    assert [(await asked(client)).body for _ in range(2)] == [b"a", b"a"]
    assert (pbal.counts["backend_retries"], pbal.world.pool("app").retrying) == (2, 0)
    assert "  SET error_retry_schedule = 0,0.01" in (await pbal.say("dumpconfig")).split("\n")
    for number, unit in (("1,2,x", "seconds between attempts"), ("61", "at most 20 pauses of at most 60 seconds")):
        assert unit in await pbal.say(f"SET web.error_retry_schedule = {number}")


@lab
async def test_when_the_schedule_is_over_the_client_gets_the_500_and_the_next_request_begins_anew(lab: Lab) -> None:
    node = await named(lab, "a", *[FAILED] * 5)
    pbal = await lab.pbal(proxy(node.address, more="SET enable_error_retries = on;SET error_retry_schedule = 0,0"))
    client = await Client.of(pbal)
    assert [(await asked(client)).status for _ in range(2)] == [500, 200]
    assert pbal.counts["backend_retries"] == 4
    assert await pbal.say("SET web.enable_error_retries = off") == "OK"


@lab
async def test_only_get_and_head_are_asked_again_after_a_500_and_within_the_budget(lab: Lab) -> None:
    node = await named(lab, "a", *[FAILED] * 3)
    pool = "SET retry_budget_least = 0;SET retry_budget = 0"
    pbal = await lab.pbal(proxy(node.address, pool=pool, more="SET enable_error_retries = on"))
    client = await Client.of(pbal)
    assert [(await asked(client, method=method)).status for method in ("PUT", "OPTIONS", "GET")] == [500, 500, 500]
    assert (pbal.counts["backend_retries"], pbal.counts["backend_retries_denied"]) == (0, 1)


@lab
async def test_a_client_that_leaves_before_the_next_attempt_leaves_nothing_behind(lab: Lab) -> None:
    node = await named(lab, "a", FAILED)
    pbal = await lab.pbal(proxy(node.address, more="SET enable_error_retries = on;SET error_retry_schedule = 60"))
    client = await Client.of(pbal, request=get())
    await pbal.until("backend_retries", 1)
    assert pbal.world.pool("app").retrying == 1
    (line,) = [line for line in (await pbal.say("show limits")).split("\n") if line.startswith("requests sent again")]
    assert "app" in line and " 1 of 10 (10.0%): " in line
    client.reset()
    await until(lambda: pbal.world.pool("app").retrying == 0, "its room")
    assert Counter(node.active for node in pbal.world.pool("app").nodes) == {0: 1}


@lab
async def test_a_service_chooses_otherwise_than_its_pool_says(lab: Lab) -> None:
    nodes = [await named(lab, name) for name in "abc"]
    text = proxy(*(node.address for node in nodes), more="SET balance_method = hash", pool="SET balance_method = round_robin")
    other = "CREATE SERVICE two\nSET role = reverse_proxy\nSET listen = 127.0.0.1:0\nSET pool = app\nENABLE two"
    pbal = await lab.pbal(f"{text}\n{other}")
    assert len(set(await bodies(pbal, 4))) == 1
    client = await Client.of(pbal, service="two")
    assert [(await asked(client)).body for _ in range(3)] == [b"a", b"b", b"c"]
    assert await pbal.say("UNSET web.balance_method") == "OK"
    assert len(set(await bodies(pbal, 3))) == 3


@lab
async def test_a_sticky_cookie_is_secure_where_the_client_is_and_a_tunnel_binds_as_well(lab: Lab) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    node, other = await named(lab, "a", answer(b"a"), switching), await named(lab, "b", answer(b"b"), switching)
    pool = "SET sticky = node;SET balance_method = round_robin"
    pbal = await lab.pbal(proxy(node.address, other.address, pool=pool, more="SET always_trusted = on"))
    client = await Client.of(pbal)
    assert "Secure" not in (await asked(client)).fields["set-cookie"].split("; ")
    secure = (await asked(client, "/", "X-Forwarded-Proto: https")).fields["set-cookie"].split("; ")
    assert secure[-1] == "Secure"
    upgrade = "Connection: Upgrade", "Upgrade: echo"
    assert "Set-Cookie: node=" in (await asked(client, "/", *upgrade)).head.decode()
    bound = await Client.of(pbal)
    assert "Set-Cookie" not in (await asked(bound, "/", *upgrade, f"Cookie: {secure[0]}")).head.decode()
    assert (pbal.counts["sticky_bound"], pbal.counts["sticky_kept"]) == (3, 1)


@lab
async def test_operators_are_told_who_gets_a_request_and_why(lab: Lab) -> None:
    a, b, c = [await named(lab, name) for name in "abc"]
    pbal = await lab.pbal(proxy(f"{a.address} WEIGHT 3", b.address, f"{c.address} BACKUP MAX 4", pool="SET balance_hash = path"))
    port = pbal.server.address("web")[1]

    async def told(path: str = "/x", fields: str = "") -> str:
        return await pbal.say(f"explain GET http://127.0.0.1:{port}{path} {fields}")

    lines = (await pbal.say("show pool app")).split("\n")
    assert f"{a.address} 0 WEIGHT 3" in lines and f"{b.address} 0" in lines and f"{c.address} 0 BACKUP MAX 4" in lines
    rows = json.loads(await pbal.say("show pool app AS JSON"))
    assert [(row["weight"], row["backup"], row["max"]) for row in rows] == [(3, False, None), (1, False, None), (1, True, 4)]
    assert "WEIGHT 3" in await told() and "by the hash" not in await told()
    await pbal.say("SET app.balance_method = hash")
    client = await Client.of(pbal)
    for path in ("/1", "/2", "/3", "/4"):
        got = (await asked(client, path)).body.decode()
        assert f" {(a, b)['ab'.index(got)].address} by the hash of path" in await told(path)
    await pbal.say("SET app.balance_hash = header:X-Key")
    assert "by the hash of header:x-key" in await told("/1", "X-Key: 1")
    assert "by the hash of the client's address, since there is no header:x-key" in await told("/1")
    await pbal.say("SET app.sticky = node")
    cookie = (await asked(client, "/1")).fields["set-cookie"].split("; ")[0]
    bound = (a, b)["ab".index((await asked(client, "/1")).body.decode())]
    shown = await told("/2", f"Cookie: {cookie}; x=1")
    assert f" {bound.address} by the cookie node" in shown and "Cookie: x=1" in shown and cookie not in shown
    await pbal.say(f"POOL app MAINT {bound.address}")
    assert f"the cookie node names {bound.address}, which gets no requests" in await told("/2", f"Cookie: {cookie}")
