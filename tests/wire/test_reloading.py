"""RELOAD under load: of each plugin that comes with pbal, many times; and of everything at random while everybody goes on.

As part of `make test` it takes some seconds; `make soak` takes longer over the same (PBAL_RELOADS, PBAL_PROMISE_SECONDS). What a reload
leaves behind is found as objects: generations, classes, instances, and what they held.
"""

import asyncio
import gc
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec

from lab import Lab, Pbal, lab, read_response, until
from leaks import descriptors, live
from scripted import OK, Scripted, Taken, get
from windows import Tls, connected

from pbal.model.plugin import Plugin
from pbal.net import tasks
from pbal.sources import bundled

ROUNDS = int(os.environ.get("PBAL_RELOADS", "20"))
"""Reloads of each plugin, and of three together."""
SECONDS = float(os.environ.get("PBAL_PROMISE_SECONDS", "8"))
COMING_AND_GOING = 12
"""Connections and what belongs to them: how many there are differs from moment to moment."""

# What a plugin needs to be in the chain of a service that goes on answering. One that is not here is in every chain that its roles allow.
SAID = {
    "poll": ["SET poll_uri = ^/poll/(?P<queue>[^/]+)$"],
    "throttle": ["SET default_action = allow", "SET max_concurrent = 1000"],
}
LOADED = {"auth_request", "basic_auth", "cgilike", "echoservice", "maintenance"}
"""Those that answer every request, or are a role: they are reloaded, and in no chain."""


def roles() -> Iterator[tuple[str, frozenset[str]]]:
    """Each plugin that comes with pbal and can be loaded here, and the roles of its services."""
    for name in bundled():
        if name == "palimg" and find_spec("PIL") is None:
            continue
        module = __import__(f"pbal.plugins.{name}", fromlist=["*"])
        classes = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Plugin) and each is not Plugin]
        (found,) = [each for each in classes if each.__module__.startswith(module.__name__)]
        yield name, found.roles


def chain(plugins: dict[str, frozenset[str]], role: str) -> str:
    """The statements that put on a service all that fit its role."""
    fitting = [name for name, fit in plugins.items() if name not in LOADED and (not fit or role in fit)]
    said = [statement for name in fitting for statement in SAID.get(name, ())]
    return "\n".join([f"SET plugins = {' '.join(fitting)}", *said])


async def everything(lab: Lab, plugins: dict[str, frozenset[str]]) -> Pbal:
    """A service of each role, with every plugin that it may have."""

    async def answer(taken: Taken) -> None:
        while True:
            await taken.request()
            taken.say(OK)

    origin = await Scripted.start(lab, answer)
    (lab.folder / "page").write_text("ok")
    return await lab.pbal("\n".join(f"""
        {"".join(f"LOAD {name};" for name in plugins)}
        CREATE POOL app
          SET sticky = node
          POOL app ADD {origin.address}
        CREATE SERVICE site
          SET role = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool = app
          {chain(plugins, "reverse_proxy")}
        ENABLE site
        CREATE SERVICE files
          SET role = web_server
          SET listen = 127.0.0.1:0
          SET docroot = {lab.folder}
          {chain(plugins, "web_server")}
        ENABLE files
        CREATE SERVICE front
          SET role = selector
          SET listen = 127.0.0.1:0
          SET default_service = files
          {chain(plugins, "selector")}
          VHOST site.test = site
        ENABLE front
    """.replace(";", "\n").splitlines()))  # fmt: skip


class Visitors:
    """Clients that ask for something all the time, each on a connection of its own. What went wrong is kept."""

    def __init__(self) -> None:
        self.answers = 0
        self._ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, open_one: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]], request: bytes, times: int) -> None:
        """One who connects, asks so many times, leaves, and comes back."""
        self._tasks.append(asyncio.create_task(self._visit(open_one, request, times)))

    async def _visit(
        self, open_one: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]], request: bytes, times: int
    ) -> None:
        while not self._ending.is_set():
            reader, writer = await open_one()
            for _ in range(times):
                writer.write(request)
                answer = await read_response(reader)
                assert (answer.status, answer.body) == (200, b"ok"), (request, answer.head, answer.body)
                self.answers += 1
                await asyncio.sleep(0.002)  # many ask, and no one of them fills the machine
            writer.close()

    def check(self) -> None:
        """Raises: what went wrong with one of them."""
        for task in self._tasks:
            if task.done():
                task.result()
                assert self._ending.is_set()

    async def end(self) -> None:
        """Let everybody finish."""
        self._ending.set()
        await asyncio.gather(*self._tasks)


def opener(pbal: Pbal, service: str, tls: Tls = None) -> Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    return lambda: connected(pbal, tls, service)


async def nobody(pbal: Pbal) -> None:
    await until(lambda: pbal.counts["clients"] == 0, "everybody to have left")
    gc.collect()


@lab
async def test_a_thousand_reloads_of_each_plugin_and_of_three_together(lab: Lab) -> None:
    plugins = dict(roles())
    pbal = await everything(lab, plugins)
    chance = random.Random(3)
    quick = [name for name in plugins if name != "poll"]  # which has thirty files

    async def rounds(number: int) -> None:
        visitors = Visitors()
        for service, host in [("site", "h"), ("files", "h"), ("front", "site.test"), ("front", "h")]:
            visitors.add(opener(pbal, service), get("/page").replace(b"Host: h", f"Host: {host}".encode()), 5)
        for count in range(number):
            turn = list(plugins) if number > 100 or count % 5 == 0 else quick
            for names in [*turn, " ".join(chance.sample(turn, 3))]:
                assert await pbal.say(f"RELOAD {names}") == "OK", names
                visitors.check()
        await visitors.end()
        assert visitors.answers > number
        await nobody(pbal)

    await rounds(2)
    before, tasks_before, open_before = live(), len(tasks.running()), descriptors()
    generations = {name: loaded.generation for name, loaded in pbal.world.plugins.items()}
    await rounds(ROUNDS)
    more = {name: number for name, number in (live() - before).items() if number > COMING_AND_GOING}
    assert not more, f"there are more of them now: {more}"
    assert live()["modules of plugins"] == before["modules of plugins"] and live()["classes of plugins"] == before["classes of plugins"]
    assert all(loaded.generation >= generations[name] + ROUNDS // 5 for name, loaded in pbal.world.plugins.items())
    assert len(tasks.running()) <= tasks_before + 2 and descriptors() <= open_before + COMING_AND_GOING
    assert pbal.counts["plugin_errors"] == 0
