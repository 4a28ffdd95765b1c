"""Every fault that a plugin can have, in every hook: the client gets an answer, the log plugin, hook and place, and the rest goes on."""

import asyncio

import pytest
from lab import Lab, Pbal, lab, read_response, until

from pbal.model.hooks import HOOKS
from pbal.roles.taken import answer_late

HEAD = "import asyncio\nfrom pbal.api import Exchange, Plugin, Verdict, hook\n\n\nclass Rule(Plugin):\n"
CONF = """
    SERVER plugin_path = {folder}
    LOAD rule
    CREATE POOL app
      POOL app ADD {address}
    CREATE SERVICE web
      SET role    = web_server
      SET listen  = 127.0.0.1:0
      SET docroot = {folder}
      SET enable_concatenate_get = on
      {web}
    ENABLE web
    CREATE SERVICE proxy
      SET role          = reverse_proxy
      SET listen        = 127.0.0.1:0
      SET pool          = app
      SET enable_reproxy = on
      SET persist_backend = off
      SET reproxy_root  = {folder}
      {proxy}
    ENABLE proxy
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 127.0.0.1:0
      SET default_service = proxy
      {front}
    ENABLE front
"""
GET = b"GET /page HTTP/1.1\r\nHost: h\r\n\r\n"
WAYS: dict[str, tuple[str, bytes]] = {
    "start_web_request": ("web", GET),
    "answer_preflight": ("proxy", b"OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: http://a\r\nAccess-Control-Request-Method: PUT\r\n\r\n"),
    "handle_put": ("web", b"PUT /new HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"),
    "start_serve_request": ("web", GET),
    "static_get_poststat_pre_send": ("web", GET),
    "static_get_poststat_file_missing": ("web", b"GET /missing HTTP/1.1\r\nHost: h\r\n\r\n"),
    "concat_get_poststat_pre_send": ("web", b"GET /??page,page HTTP/1.1\r\nHost: h\r\n\r\n"),
    "concat_get_poststat_file_missing": ("web", b"GET /??page,missing HTTP/1.1\r\nHost: h\r\n\r\n"),
    "start_send_file": ("web", GET),
    "start_file_reproxy": ("proxy", b"GET /reproxy HTTP/1.1\r\nHost: h\r\n\r\n"),
    "select_service": ("front", GET),
    "return_to_base": ("front", GET),
}
"""The service and the request that a hook is called by, where it is no GET of the proxy."""
TELLING = {"end", "end_proxy_request", "return_to_base"}
"""They only hear of something: their faults cost the client nothing."""
GOING_ON = {"make_high_priority", "make_low_priority", "select_node"}
"""Where they fail, the request goes on without them."""
DECIDING = {name for name, hook in HOOKS.items() if "Verdict" in hook.returns}

FAULTS = {
    "an exception that cannot be shown": "raise type('Odd', (KeyError,), {'__str__': None})('oh')",
    "an exit": "raise SystemExit(3)",
    "a coroutine": "return asyncio.sleep(0)",
    "a wrong verdict that cannot be shown": "return type('Odd', (), {'__repr__': None})()",
    "a header that cannot be sent": "exchange.respond(200, [(b'A', b'b\\r\\nc')])",
    "an answer without TAKEN": "exchange.respond(200, (), b'mine')",
}


async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request on a connection."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/reproxy" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nX-Reproxy-File: %b\r\nContent-Length: 0\r\n\r\n" % FILE)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnode")


FILE = b""


def written(lab: Lab, hook: str, body: str) -> None:
    """Have the plugin's only hook do this."""
    lines = [f"@hook.{hook}", f"def rule(self, {', '.join(HOOKS[hook].arguments)}):", f"    {body}"]
    (lab.folder / "rule.py").write_text(HEAD + "".join(f"    {line}\n" for line in lines))


async def started(lab: Lab, hook: str, body: str) -> tuple[Pbal, str, bytes]:
    """A pbal with such a plugin; the service and the request that the hook is called by."""
    global FILE
    (lab.folder / "page").write_text("a page")
    FILE = bytes(lab.folder / "page")
    written(lab, hook, body)
    origin = await lab.origin(node)
    service, request = WAYS.get(hook, ("proxy", GET))
    chains = {name: "SET plugins = rule" if name == service else "" for name in ("web", "proxy", "front")}
    if hook == "select_node":  # one node alone is not chosen
        other = await lab.origin(node)
        chains["proxy"] += f"\n    POOL app ADD {other.address}\n    USE proxy"
    return await lab.pbal(CONF.format(folder=lab.folder, address=origin.address, **chains)), service, request


@pytest.mark.parametrize("hook", HOOKS)
@lab
async def test_each_fault_costs_one_request_at_most_and_is_logged_with_its_place(
    lab: Lab, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    pbal, service, request = await started(lab, hook, next(iter(FAULTS.values())))
    counted = 0
    for generation, (fault, body) in enumerate(FAULTS.items(), 1):
        if generation > 1:
            written(lab, hook, body)
            assert await pbal.say("RELOAD rule") == "OK"
        quiet = "a wrong verdict" in fault and not HOOKS[hook].returns  # what they return is ignored
        response = await pbal.ask(service, request)
        if hook in TELLING or hook in GOING_ON or quiet:
            assert response.status == 200, fault
        else:
            assert response.status == 500 or (fault == "an answer without TAKEN" and response.body == b"mine"), fault
        if not quiet:
            counted += 1
            await until(lambda: pbal.counts["plugin_errors"] == counted, fault)  # noqa: B023
            line = next(line for line in caplog.text.split("\n") if f"plugin rule generation {generation}, hook {hook}: " in line)
            assert "(rule.py:" in line, line
    assert await pbal.say(f"SET {service}.plugins = none") == "OK"
    assert (await pbal.ask(service, request)).status in (200, 404, 405, 403)
    assert not pbal.world.taken


@pytest.mark.parametrize("hook", sorted(DECIDING))
@lab
async def test_who_takes_a_request_and_says_nothing_is_found(lab: Lab, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    pbal, service, request = await started(lab, hook, "return Verdict.TAKEN")
    reader, writer = await pbal.connect(service)
    writer.write(request)
    await until(lambda: bool(pbal.world.taken), "the request to be taken")
    answer_late(pbal.world, pbal.world.clock.now() + 1000)
    assert (await read_response(reader)).status == 504
    assert "plugin rule took a request of service" in caplog.text and not pbal.world.taken
