"""contrib/check_pbal, the check for Nagios: what it says of a pbal, and its exit status."""

import asyncio
import importlib.machinery
import importlib.util
import io
import sys
from contextlib import redirect_stdout
from types import ModuleType

import pytest
from lab import Lab, free_port, lab, until
from process import ROOT

from pbal.schema.passwords import line_for

CONF = """
    LOAD poll
    CREATE POOL app
      POOL app ADD 127.0.0.1:1
    CREATE SERVICE site
      SET role          = reverse_proxy
      SET listen        = 127.0.0.1:0
      SET pool          = app
      SET plugins       = poll
      SET poll_uri      = ^/poll/(?P<queue>[^/]+)$
      SET queue_timeout = 60s
    ENABLE site
    CREATE SERVICE mgmt
      SET role   = management
      SET listen = unix:mgmt.sock
      {more}
    ENABLE mgmt
"""


def loaded() -> ModuleType:
    """The program as a module."""
    loader = importlib.machinery.SourceFileLoader("check_pbal", str(ROOT / "contrib/check_pbal"))
    spec = importlib.util.spec_from_loader("check_pbal", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


async def check(lab: Lab, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Exit status, and what it prints: one line."""
    address = () if "--address" in arguments else ("--address", f"unix:{lab.folder}/mgmt.sock")
    monkeypatch.setattr(sys, "argv", ["check_pbal", *address, *arguments])
    said = io.StringIO()
    with redirect_stdout(said):
        status = await asyncio.get_running_loop().run_in_executor(None, loaded().main)
    (line,) = said.getvalue().splitlines()
    return status, line


@lab
async def test_ready_and_not(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(CONF.format(more=""))
    assert await check(lab, monkeypatch) == (0, "PBAL READY OK - every enabled service listens")
    pbal.server._listeners["site"].pause()
    assert await check(lab, monkeypatch) == (2, "PBAL READY CRITICAL - not listening: site")
    port = free_port()
    assert await check(lab, monkeypatch, "--address", f"127.0.0.1:{port}") == (
        2,
        f"PBAL READY CRITICAL - nobody listens on 127.0.0.1:{port}",
    )
    assert await check(lab, monkeypatch, "--address", "here") == (3, "PBAL READY UNKNOWN - expected HOST:PORT or unix:PATH, found here")


@lab
async def test_figures_against_their_thresholds(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pbal = await lab.pbal(CONF.format(more=""))
    polls = [await pbal.connect("site") for _ in range(3)]
    for number, (_, writer) in enumerate(polls):
        writer.write(b"GET /poll/q%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    await pbal.until("poll_parked", 3)
    assert await check(lab, monkeypatch, "--mode", "parked", "-w", "4") == (0, "PBAL PARKED OK - 3 polls parked | parked=3;4;;0")
    assert await check(lab, monkeypatch, "--mode", "parked", "-w", "3", "-c", "4", "--service", "site") == (
        1,
        "PBAL PARKED WARNING - 3 polls parked | parked=3;3;4;0",
    )
    assert (await check(lab, monkeypatch, "--mode", "parked", "--service", "other"))[0] == 3
    assert await check(lab, monkeypatch, "--mode", "sockets", "-c", "3") == (
        2,
        "PBAL SOCKETS CRITICAL - 3 clients, 0 backends | clients=3;;3;0 backends=0;;;0",
    )
    assert await check(lab, monkeypatch, "--mode", "nodes", "--pool", "app") == (
        0,
        "PBAL NODES OK - 0 of 1 nodes down | down=0;;;0 nodes=1;;;0",
    )
    _, writer = await pbal.connect("site")
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: pbal.world.pool("app").nodes[0].down, "the node to be found down")
    assert await check(lab, monkeypatch, "--mode", "nodes") == (
        2,
        "PBAL NODES CRITICAL - 1 of 1 nodes down: app 127.0.0.1:1 | down=1;;;0 nodes=1;;;0",
    )
    assert await check(lab, monkeypatch, "--mode", "queues", "-w", "1") == (
        0,
        "PBAL QUEUES OK - 0 clients wait for a node, the first for 0 s | waiting=0;1;;0 oldest=0s;;;0",
    )
    assert (await check(lab, monkeypatch, "--mode", "queues", "--age", "--service", "nobody"))[0] == 3


@lab
async def test_it_logs_in(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.folder / "passwords").write_text(line_for("nagios", "a # $1", (16, 1, 1)))
    (lab.folder / "secret").write_text("a # $1\n")
    await lab.pbal(CONF.format(more="SET password_file = passwords"))
    assert (await check(lab, monkeypatch, "--mode", "ready"))[0] == 0
    status, said = await check(lab, monkeypatch, "--mode", "parked")
    assert status == 3 and "this pbal does not know" in said
    options = ("--mode", "parked", "--user", "nagios", "--password-file", str(lab.folder / "secret"))
    assert (await check(lab, monkeypatch, *options))[0] == 0
    monkeypatch.setenv("PBAL_CONSOLE_PASSWORD", "wrong")
    assert (await check(lab, monkeypatch, "--mode", "parked", "--user", "nagios"))[0] == 3
