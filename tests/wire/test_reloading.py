"""RELOAD under load: of each plugin that comes with pbal, many times; and of everything at random while everybody goes on.

As part of `make test` it takes some seconds; `make soak` takes longer (PBAL_RELOADS, PBAL_PROMISE_SECONDS). What a reload
leaves behind is found as objects: generations, classes, instances, and what they held.
"""

import asyncio
import gc
import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from authority import Authority
from lab import Lab, Pbal, lab, read_response, until
from leaks import descriptors, live
from scripted import OK, Scripted, Taken, get
from secure import files, trusting
from windows import TRANSPORTS, Tls, Window, Writer, all_end, connected, of_each_kind

from pbal.model.plugin import Plugin
from pbal.net import tasks
from pbal.sources import bundled

ROUNDS = int(os.environ.get("PBAL_RELOADS", "20"))
"""Reloads of each plugin, and of three together."""
SECONDS = float(os.environ.get("PBAL_PROMISE_SECONDS", "20"))
CHANGES = 40
"""At least, also where the machine is busy: by then each kind has come."""
COMING_AND_GOING = 12
"""Connections and what belongs to them: how many there are differs from moment to moment."""

# What a plugin needs to be in the chain of a service that goes on answering. One that is not here is in every chain that its roles allow.
SAID = {
    "poll": [
        "SET poll_uri = ^/poll/(?P<queue>[^/]+)$",
        "SET poll_publish_uri = ^/publish/(?P<queue>[^/]+)$",
        "SET poll_keep = ttl",
        "SET poll_format = json",
        "SET poll_interval = 100ms",
    ],
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


async def nodes(lab: Lab, number: int) -> list[str]:
    """Addresses of nodes that answer, some requests after a while."""

    async def answer(taken: Taken) -> None:
        while True:
            if b"/slow" in await taken.request():
                await asyncio.sleep(0.05)
            taken.say(OK)

    return [(await Scripted.start(lab, answer)).address for _ in range(number)]


def everything(lab: Lab, plugins: dict[str, frozenset[str]], origin: str) -> str:
    """A service of each role, with every plugin that it may have."""
    (lab.folder / "page").write_text("ok")
    return f"""
        {"".join(f"LOAD {name};" for name in plugins)}
        CREATE POOL app
          SET sticky = node
          POOL app ADD {origin}
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
    """.replace(";", "\n")


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


@pytest.mark.slow
@lab
async def test_a_thousand_reloads_of_each_plugin_and_of_three_together(lab: Lab) -> None:
    plugins = dict(roles())
    pbal = await lab.pbal(everything(lab, plugins, *await nodes(lab, 1)))
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


class Items:
    """Who publishes to atominject and who reads from atomstream, all the time. What was said, and what was read."""

    def __init__(self, pbal: Pbal) -> None:
        self._pbal = pbal
        self.said: list[bytes] = []
        self.text = b""

    async def read(self) -> None:
        """Until the end is read."""
        reader, writer = await connected(self._pbal, None, "files")
        writer.write(get("/news/atom-stream.xml"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        while b"<end/>" not in self.text:
            self.text += (await reader.readexactly(int(await reader.readline(), 16) + 2))[:-2]
        writer.close()

    async def publish(self, texts: Iterator[str]) -> None:
        """All of them, then the end."""
        reader, writer = await connected(self._pbal, None, "files")
        for text in texts:
            await self._put(reader, writer, b"<%b/>" % text.encode())
            await asyncio.sleep(0.005)
        await self._put(reader, writer, b"<end/>")
        writer.close()

    async def _put(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, item: bytes) -> None:
        writer.write(b"PUT /news/today HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(item) + item)
        answer = await read_response(reader)
        assert answer.status == 200, (answer.head, answer.body)
        self.said.append(item)


class Operator:
    """Changes everything at random: plugins, the configuration, the pool, certificates."""

    def __init__(self, pbal: Pbal, plugins: list[str], config: Path, others: list[str], authority: Authority) -> None:
        self._pbal = pbal
        self._plugins = plugins
        self._config = config
        self._text = config.read_text()
        self._others = others
        self._authority = authority
        self._chance = random.Random(11)
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "plugins": self._some, "poll": self._poll, "configuration": self._configuration, "pool": self._pool,
            "certificates": self._renew,
        }  # fmt: skip
        self.done: Counter[str] = Counter()

    async def change(self) -> None:
        """One change."""
        chance = self._chance
        kind = chance.choices(list(self._kinds), [10, 1, 3, 6, 2])[0]
        self.done[kind] += 1
        await self._kinds[kind]()

    async def say(self, statement: str) -> None:
        answer = await self._pbal.say(statement)
        assert not answer.startswith("ERROR"), f"{statement}: {answer}"

    async def _reload(self, *names: str) -> None:
        await self.say(f"RELOAD {' '.join(names)}")

    async def _some(self) -> None:
        await self._reload(*self._chance.sample(self._plugins, self._chance.randrange(1, 4)))

    async def _poll(self) -> None:
        await self._reload("poll", *self._chance.sample(self._plugins, 2))

    async def _configuration(self) -> None:
        """The file changes, and is read again; what was said of the pool meanwhile is taken back."""
        more = "\n".join(
            self._chance.sample(["SET site.max_body = 2m", "SET app.node_max_connections = 50", f"POOL app ADD {self._others[0]}",
                                 "CREATE SERVICE extra\nSET role = web_server", "HEADER site RESPONSE SET X-More : 1"], 2)
        )  # fmt: skip
        self._config.write_text(f"{self._text}\nUSE site\n{more}\n")
        await self.say("RELOAD CONFIG")

    async def _pool(self) -> None:
        there = [node.name for node in self._pbal.world.pool("app").nodes]
        node = self._chance.choice(self._others)
        await self.say(f"POOL app {'REMOVE' if node in there else 'ADD'} {node}")

    async def _renew(self) -> None:
        self._authority.certify("a.test")
        await self.say("RELOAD CERTIFICATES")


@lab
async def test_a_reload_is_a_promise(lab: Lab) -> None:
    plugins = dict(roles())
    authority = Authority(lab.folder)
    tls = trusting(authority)
    first, *others = await nodes(lab, 3)
    secret = f"""
        CREATE SERVICE secret
          SET role = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool = app
          {files(authority.certify("a.test"))}
          {chain(plugins, "reverse_proxy")}
        ENABLE secret
    """
    pbal = await lab.pbal(everything(lab, plugins, first) + secret)
    operator = Operator(pbal, [name for name in plugins if name != "poll"], lab.folder / "test1.conf", others, authority)
    ending = asyncio.Event()

    def texts() -> Iterator[str]:
        for number in itertools.count():
            if ending.is_set():
                return
            yield f"n{number}"

    visitors = Visitors()
    for service, secure in [("site", None), ("secret", tls)]:
        visitors.add(opener(pbal, service, secure), get("/page"), 5)
        visitors.add(opener(pbal, service, secure), get("/slow"), 3)
    visitors.add(opener(pbal, "front"), get("/page"), 5)
    windows: list[Window] = []
    writers: list[Writer] = []
    for service, secure in [("site", None), ("secret", tls)]:
        windows += [window.start() for window in of_each_kind([pbal], "", secure, service)]
        writers += [Writer(pbal, transport, secure, service) for transport in TRANSPORTS]
    await until(lambda: pbal.counts["poll_parked"] == len(windows), "all to be parked")
    items = Items(pbal)
    reading = asyncio.create_task(items.read())
    await until(lambda: pbal.counts["atom_streams"] == 1, "the stream to begin")
    talk = asyncio.gather(items.publish(texts()), *(writer.say(texts(), 0.005) for writer in writers))
    end = asyncio.get_running_loop().time() + SECONDS
    while asyncio.get_running_loop().time() < end or operator.done.total() < CHANGES:
        await operator.change()
        visitors.check()
        assert not talk.done()
    ending.set()
    await talk
    await visitors.end()
    for writer in writers:
        await writer.say(["end"])
    await all_end(windows, "end")
    await reading
    for window, writer in zip(windows, writers, strict=True):
        assert (window.got, window.gaps, window.cuts) == (writer.said, [], 0), window
        assert writer.again == 0 and len(writer.said) > 5
    assert re.findall(rb"<n\d+/>|<end/>", items.text) == items.said and b"sorry" not in items.text
    assert len(operator.done) == 5, operator.done
    for counter in ("plugin_errors", "backend_errors", "backend_unavailable", "poll_lost", "failures", "aborted_clients"):
        assert pbal.counts[counter] == 0, counter
    await nobody(pbal)
