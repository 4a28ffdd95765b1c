"""Service.ask: a plugin's question to a node of the pool, over the wire."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from lab import Lab, Pbal, lab, until
from scripted import Scripted, Taken, answer, get, proxy

from pbal.api import ConfigError, IllegalField, NoAnswer, NodeAnswer

Got = list[NodeAnswer | NoAnswer]


def ask(pbal: Pbal, target: bytes = b"/may", timeout: float = 5.0) -> Got:
    got: Got = []
    pbal.world.service("web").ask(target, [(b"X-Who", b"me")], got.append, timeout)
    assert not got, "never before ask() has returned"
    return got


async def answered(got: Got) -> NodeAnswer:
    await until(lambda: got, "an answer")
    (one,) = got
    assert isinstance(one, NodeAnswer), one.reason
    return one


async def failed(got: Got) -> str:
    await until(lambda: got, "the end of it")
    (one,) = got
    assert isinstance(one, NoAnswer)
    return one.reason


def idle(pbal: Pbal) -> bool:
    """Nothing is left of any question."""
    handler = pbal.world.service("web").handler
    return not handler.load()[0] and all(node.active == 0 for node in pbal.world.pool("app").nodes)  # type: ignore[union-attr]


@lab
async def test_a_question_is_a_get_and_its_connection_serves_again(lab: Lab) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address, more="HEADER web INSERT X-Rule: r"))
    first = ask(pbal)
    taken = await node.connection()
    head = await taken.request()
    assert head.startswith(b"GET /may HTTP/1.1\r\n") and b"\r\nX-Who: me\r\n" in head and b"\r\nX-Rule: r\r\n" in head
    assert f"\r\nHost: {node.address}\r\n".encode() in head and b"\r\nVia: 1.1 pbal-" in head
    taken.say(answer(b"yes", "X-Said: so"))
    one = await answered(first)
    assert (one.status, one.body, one.fields[b"x-said"]) == (200, b"yes", b"so")
    second = ask(pbal, b"/again")
    assert (await taken.request()).startswith(b"GET /again ")
    taken.say(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (await answered(second)).status == 204
    await pbal.connect("web")
    assert len(node.connections) == 1 and idle(pbal)


@lab
async def test_an_answer_in_very_many_pieces_is_read_in_several_turns(lab: Lab) -> None:
    node = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(node.address))
    got = ask(pbal)
    taken = await node.connection()
    await taken.request()
    taken.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
    assert (await answered(got)).body == b"x" * 5000
    assert idle(pbal)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"rubbish\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n", "longer than 65536"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n" + b"x" * 65537 + b"\r\n0\r\n\r\n", "longer than 65536"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "protocol"),
    ],
)
def test_what_is_no_answer(said, reason):
    @lab
    async def run(lab: Lab) -> None:
        node = await Scripted.start(lab)
        pbal = await lab.pbal(proxy(node.address))
        got = ask(pbal)
        taken = await node.connection()
        await taken.request()
        taken.say(said)
        assert reason in await failed(got)
        await taken.gone()
        assert idle(pbal)

    run()


@lab
async def test_an_answer_that_ends_with_its_connection(lab: Lab) -> None:
    async def behave(taken: Taken) -> None:
        await taken.request()
        taken.say(b"HTTP/1.0 200 OK\r\n\r\nto the end")
        taken.writer.close()

    pbal = await lab.pbal(proxy((await Scripted.start(lab, behave)).address))
    assert (await answered(ask(pbal))).body == b"to the end"
    assert idle(pbal)


@lab
async def test_one_that_is_cut_off_is_none(lab: Lab) -> None:
    async def behave(taken: Taken) -> None:
        await taken.request()
        taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        taken.writer.close()

    pbal = await lab.pbal(proxy((await Scripted.start(lab, behave)).address))
    assert "before the response was complete" in await failed(ask(pbal))
    assert idle(pbal)


@lab
async def test_a_silent_node_is_given_up_in_time_and_a_dead_one_passed_over(lab: Lab) -> None:
    silent = await Scripted.start(lab)
    pbal = await lab.pbal(proxy(silent.address))
    assert "no answer in 0.05 s" in await failed(ask(pbal, timeout=0.05))
    taken = await silent.connection()
    assert (await taken.gone()).startswith(b"GET /may")
    await until(lambda: idle(pbal))

    good = await Scripted.start(lab, _yes)
    dead = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = dead.sockets[0].getsockname()[1]
    dead.close()
    await pbal.say(f"POOL app REMOVE {silent.address}")
    await pbal.say(f"POOL app ADD 127.0.0.1:{port}")
    assert "cannot be reached" in await failed(ask(pbal))
    await pbal.say(f"POOL app ADD {good.address}")
    for _ in range(8):
        assert (await answered(ask(pbal))).body == b"yes"
    assert idle(pbal)


async def _yes(taken: Taken) -> None:
    while True:
        await taken.request()
        taken.say(answer(b"yes"))


@lab
async def test_a_stale_connection_is_not_the_nodes_last_word(lab: Lab) -> None:
    async def once(taken: Taken) -> None:
        await taken.request()
        taken.say(answer(b"yes"))
        await taken.request()
        taken.writer.close()  # as a server whose keep-alive has just ended

    pbal = await lab.pbal(proxy((await Scripted.start(lab, once)).address))
    for _ in range(3):
        assert (await answered(ask(pbal))).body == b"yes"
    assert pbal.counts["backend_retries"] >= 1 and idle(pbal)


@lab
async def test_a_question_is_not_asked_again_where_the_budget_is_used_up(lab: Lab) -> None:
    async def never(taken: Taken) -> None:
        await taken.request()
        taken.writer.close()

    node, other = await Scripted.start(lab, never), await Scripted.start(lab, _yes)
    pool = "SET retry_budget = 0;SET retry_budget_least = 1"
    pbal = await lab.pbal(proxy(node.address, f"{other.address} BACKUP", pool=pool))
    assert (await answered(ask(pbal))).body == b"yes"
    assert (pbal.counts["backend_retries"], pbal.world.pool("app").retrying) == (1, 0)
    await pbal.say("SET app.retry_budget_least = 0")
    await failed(ask(pbal))
    assert (pbal.counts["backend_retries"], pbal.counts["backend_retries_denied"]) == (1, 1) and idle(pbal)


@lab
async def test_a_question_about_a_session_goes_to_the_node_that_has_it(lab: Lab) -> None:
    heads: dict[bytes, list[bytes]] = {b"a": [], b"b": []}

    def named(name: bytes) -> Callable[[Taken], Awaitable[None]]:
        async def behave(taken: Taken) -> None:
            while True:
                heads[name].append(await taken.request())
                taken.say(answer(name))

        return behave

    nodes = [await Scripted.start(lab, named(name)) for name in heads]
    pbal = await lab.pbal(proxy(*(node.address for node in nodes), pool="SET sticky = node"))
    first = await pbal.ask("web", get("/"))
    cookie = first.fields["set-cookie"].split("; ")[0].encode()
    for _ in range(6):
        got: Got = []
        pbal.world.service("web").ask(b"/may", [(b"Cookie", b"a=1; " + cookie), (b"cookie", cookie)], got.append, 5.0)
        assert (await answered(got)).body == first.body
    assert all(b"\r\nCookie: a=1\r\nHost: " in head and b"node=" not in head for head in heads[first.body][1:])
    await pbal.say("SET app.balance_method = hash")
    for of in ("client", "uri"):
        await pbal.say(f"SET app.balance_hash = {of}")
        assert (await answered(ask(pbal))).body in heads
    assert idle(pbal)


@lab
async def test_what_cannot_be_asked_is_refused_at_once(lab: Lab) -> None:
    node = await Scripted.start(lab, _yes)
    pbal = await lab.pbal(proxy(node.address) + "\nCREATE SERVICE files\nSET role = web_server\nSET listen = 127.0.0.1:0\nENABLE files")
    web, files = pbal.world.service("web"), pbal.world.service("files")
    for target in (b"no", b"", b"/a b", b"/a\r\nX: y"):
        with pytest.raises(IllegalField):
            web.ask(target, [], print, 1.0)
    with pytest.raises(IllegalField):
        web.ask(b"/", [(b"X", b"a\r\nY: b")], print, 1.0)
    with pytest.raises(ConfigError, match="reverse_proxy"):
        files.ask(b"/", [], print, 1.0)
    await pbal.ask("web", get())
    assert pbal.counts["backend_connects"] == 1
