"""The plugin stats: what services served, and their last requests."""

from lab import Lab, lab, read_response, until
from scripted import OK, Client, Scripted, Taken, get, proxy

WEB = """
    CREATE SERVICE files
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = .
      SET plugins = Stats
    ENABLE files
"""


async def _answer(taken: Taken) -> None:
    """A path below /file/ is ordered as a file."""
    while True:
        path = (await taken.request()).split(b" ")[1]
        file = path.removeprefix(b"/file")
        taken.say(OK if file == path else b"HTTP/1.1 200 OK\r\nX-REPROXY-FILE: %b\r\nContent-Length: 0\r\n\r\n" % file)


def _numbers(said: str) -> dict[tuple[str, str], int]:
    rows = [line.split() for line in said.split("\n")[:-1]]
    return {(service, key): int(value) for service, key, value in rows}


@lab
async def test_what_was_served_is_counted_and_the_last_requests_are_listed(lab: Lab) -> None:
    (lab.folder / "a.txt").write_text("from a file")
    origin = await Scripted.start(lab, _answer)
    more = f"SET plugins = stats;SET enable_reproxy = on;SET reproxy_root = {lab.folder}"
    pbal = await lab.pbal(f"LOAD Stats\n{proxy(origin.address, more=more)}\n{WEB.replace('docroot = .', f'docroot = {lab.folder}')}")
    for service, path in (("web", "/one?a=b"), ("web", f"/file{lab.folder}/a.txt"), ("files", "/a.txt"), ("files", "/none")):
        client = await Client.of(pbal, service, get(path))
        await read_response(client.reader)

    said = await pbal.say("stats")
    assert said.split("\n")[0] == "web             files_reproxied                      1"
    assert said.endswith("\n.")
    counted = _numbers(said)
    assert counted["web", "proxy_requests"] == 2 and counted["web", "web_requests"] == 0 and counted["web", "proxy_requests_highpri"] == 0
    assert counted["files", "web_requests"] == 2 and counted["files", "files_sent"] == 1
    assert counted["total", "files_sent"] == 2 and counted["total", "proxy_requests"] == 2

    first, second, dot = (await pbal.say("recent")).split("\n")
    assert first.startswith("web 0.") and first.endswith(" http://h/one?a=b") and len(first.split()[1]) == 6
    assert second.endswith(f" http://h/file{lab.folder}/a.txt") and dot == "."

    assert await pbal.say("RELOAD stats") == "OK"
    assert _numbers(await pbal.say("stats")) == counted
    assert (await pbal.say("recent")).split("\n") == [first, second, dot]


@lab
async def test_who_waited_in_the_high_class_is_counted(lab: Lab) -> None:
    origin = await Scripted.start(lab)
    more = "SET plugins = stats;SET high_priority_cookie = fast"
    pbal = await lab.pbal(f"LOAD stats\n{proxy(origin.address, pool='SET app.node_max_connections = 1', more=more)}")
    first = await Client.of(pbal, request=get("/first"))
    node = await origin.connection()
    await node.request()
    second = await Client.of(pbal, request=get("/second", "Cookie: fast=1"))
    service = pbal.world.service("web")
    handler = service.handler
    assert handler is not None
    await until(lambda: handler.load()[0] == 1, "it to wait")
    for client in (first, second):
        node.say(OK)
        assert (await read_response(client.reader)).status == 200
    assert _numbers(await pbal.say("stats"))["web", "proxy_requests_highpri"] == 1
