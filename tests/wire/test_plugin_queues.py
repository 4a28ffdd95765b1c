"""queues: what nodes are told of who waits for them."""

from lab import Lab, lab, until
from scripted import OK, Client, Scripted, get, proxy

HIGH = "SET high_priority_cookie = fast"


def _said(head: bytes) -> dict[bytes, list[bytes]]:
    """The fields of a head that are about queues."""
    found: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if b"queue-" in name.lower():
            found.setdefault(name, []).append(value)
    return found


@lab
async def test_a_node_is_told_how_many_wait_by_class_and_nobody_else_has_a_say(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    conf = proxy(origin.address, pool="SET app.node_max_connections = 1", more=f"SET plugins = Queues;{HIGH}")
    pbal = await lab.pbal("LOAD Queues\n" + conf)
    requests = [get("/1", "X-Queue-Count: 99", "X_HP_Queue-Age: 7"), get("/2", "Cookie: fast=1"), get("/3"), get("/4")]
    clients = []
    for place, request in enumerate(requests):
        clients.append(await Client.of(pbal, request=request))
        await until(lambda place=place: sum(count for count, _ in pbal.world.service("web").queues().values()) == place, "it to wait")  # type: ignore[misc]
    node = await origin.connection()
    seen = []
    for _ in requests:
        seen.append(_said(await node.request()))
        node.say(OK)
    counts = [(found[b"X-Queue-Count"], found[b"X-HP-Queue-Count"]) for found in seen]
    assert counts == [([b"0"], [b"0"]), ([b"2"], [b"0"]), ([b"1"], [b"0"]), ([b"0"], [b"0"])]
    assert all(int(found[name][0]) >= 0 for found in seen for name in (b"X-Queue-Age", b"X-HP-Queue-Age"))
    assert all(len(found) == 4 for found in seen), "no field of a client's"


@lab
async def test_reload_and_the_end_of_the_plugin_under_requests(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    pbal = await lab.pbal("LOAD queues\n" + proxy(origin.address, more="SET plugins = queues"))
    client = await Client.of(pbal, request=get("/1"))
    node = await origin.connection()
    assert _said(await node.request())
    assert await pbal.say("RELOAD queues") == "OK"
    node.say(OK)
    assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    client.writer.write(get("/2"))
    assert len(_said(await node.request())) == 4
    node.say(OK)
    await client.reader.readuntil(b"ok")
    assert await pbal.say("SET web.plugins = none") == "OK"
    client.writer.write(get("/3", "X-Queue-Count: 5"))
    assert _said(await node.request()) == {b"X-Queue-Count": [b"5"]}
    node.say(OK)
    await client.reader.readuntil(b"ok")


@lab
async def test_it_is_for_a_reverse_proxy(lab: Lab) -> None:
    pbal = await lab.pbal("LOAD queues\n" + proxy("127.0.0.1:1") + "\nCREATE SERVICE files\nSET role = web_server")
    assert "plugin 'queues' works on reverse_proxy services" in await pbal.say("SET files.plugins = queues")
