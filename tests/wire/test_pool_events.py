"""Whatever operators and nodes do to pools, in any order, while clients ask: nobody is forgotten, and nothing is left over.

Two services share three pools. At each step a node changes its manners, or a statement is carried out; at the end all is well again, and
then everybody has an answer or an end, nothing counts as under way, and every connection that is known rests.

tests/test_waiting.py does the same to one pool with connections that are made of nothing.
"""

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from lab import Lab, Pbal, free_port, lab, read_response, transport_of, until
from scripted import Scripted, Taken, answer, get

from pbal.roles.proxy.role import ReverseProxy

POOLS = ("app", "spare", "route")
SERVICES = ("web", "two")
STEPS = 80
CLIENTS = 20

OF_POOLS = [
    ("SET check = http;SET check_interval = 50ms;SET check_timeout = 50ms", 0.3), ("SET sticky = node", 0.3), ("SET eject_after = 3", 0.5),
    ("SET slow_start = 200ms", 0.3), ("SET node_max_connections = 2", 0.5), ("SET balance_method = hash", 0.3),
]  # fmt: skip
OF_SERVICES = [
    ("SET verify_backend = on;SET verify_timeout = 200ms", 0.5), ("SET connect_ahead = 3", 0.5), ("SET max_backend_uses = 3", 0.3),
    ("SET fallback_pool = spare;SET fallback_on = 404 failure", 0.4), ("SET queue_relief_size = 3;SET queue_relief_chance = 50", 0.3),
    ("SET enable_error_retries = on;SET error_retry_schedule = 0.01,0.02", 0.3),
]  # fmt: skip
STATEMENTS = (
    "POOL {pool} ADD {node}", "POOL {pool} ADD {node} MAX 1", "POOL {pool} ADD {node} BACKUP", "POOL {pool} ADD {node} WEIGHT 0",
    "POOL {pool} REMOVE {node}", "POOL {pool} DRAIN {node}", "POOL {pool} MAINT {node}", "POOL {pool} READY {node}",
    "POOL {pool} DOWN {node}", "POOL {pool} UP {node}", "SET web.pool = {pool}", "SET {pool}.node_max_connections = 1",
    "SET {pool}.node_max_connections = 0", "RELOAD CONFIG", "SET web.connect_ahead = 0", "SET two.verify_backend = off",
    "DISABLE two", "ENABLE two", "ROUTE two TO spare WHEN path ^/r", "DROP RULE two 2", "DROP RULE web 1",
)  # fmt: skip


@dataclass
class App:
    """A node, with its manners at this moment."""

    chance: random.Random
    manners: str = "good"
    address: str = ""
    under_way: int = 0

    @classmethod
    async def start(cls, lab: Lab, chance: random.Random) -> "App":
        app = cls(chance)
        app.address = (await Scripted.start(lab, app.serve)).address
        return app

    async def serve(self, taken: Taken) -> None:
        while True:
            head = await taken.reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"OPTIONS"):
                taken.say(answer(b"", *(("Connection: close",) if self.manners == "closes" else ())))
                continue
            self.under_way += 1
            try:
                await asyncio.sleep(self.chance.choice([0, 0, 0.001, 0.01]))
            finally:
                self.under_way -= 1
            if self.manners == "breaks":
                transport_of(taken.writer).abort()
                return
            if self.manners == "stops short":
                taken.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
                taken.writer.close()
                return
            status = {"fails": 503, "misses": 404}.get(self.manners, 200)
            taken.say(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status)


@dataclass
class Site:
    """What a run is about."""

    pbal: Pbal
    chance: random.Random
    apps: list[App]
    over: bool = False
    statuses: list[int] = field(default_factory=list)

    async def ask(self) -> None:
        """A client, who now and then does not wait for the answer."""
        chance = self.chance
        while not self.over:
            try:
                reader, writer = await self.pbal.connect(chance.choice(SERVICES))
            except (KeyError, OSError):  # it is disabled
                await asyncio.sleep(0.005)
                continue
            try:
                for _ in range(chance.randrange(1, 5)):
                    method = chance.choice(("GET", "GET", "POST"))
                    writer.write(get(f"{chance.choice(('/a', '/r'))}?{chance.randrange(50)}", "Content-Length: 0", method=method))
                    if chance.random() < 0.1:
                        break
                    self.statuses.append((await read_response(reader)).status)
            except (OSError, EOFError):  # an answer was cut off
                pass
            finally:
                transport_of(writer).abort()

    async def step(self) -> None:
        chance = self.chance
        if chance.random() < 0.2:
            chance.choice(self.apps).manners = chance.choice(("good", "breaks", "stops short", "fails", "misses", "closes"))
        else:
            node = chance.choice([*(app.address for app in self.apps), f"127.0.0.1:{free_port()}"])
            await self.pbal.say(chance.choice(STATEMENTS).format(pool=chance.choice(POOLS), node=node))
        await asyncio.sleep(chance.choice((0, 0, 0.002, 0.005)))

    async def heal(self) -> None:
        await self.pbal.say("ENABLE two")
        good = [app.address for app in self.apps[:2]]
        for app in self.apps:
            app.manners = "good"
        for pool in self.pbal.world.pools.values():
            for name in good:
                assert await self.pbal.say(f"POOL {pool.name} ADD {name}") == "OK"
                assert await self.pbal.say(f"POOL {pool.name} UP {name}") == "OK"
            for node in list(pool.nodes):
                if node.name not in good:
                    assert await self.pbal.say(f"POOL {pool.name} REMOVE {node.name}") == "OK"

    def left(self) -> list[str]:
        """What is under way still."""
        world = self.pbal.world
        found = [f"{app.address}: {app.under_way} requests" for app in self.apps if app.under_way]
        for pool in world.pools.values():
            found += [repr(node) for node in (*pool.nodes, *pool.draining) if node.active or node.connecting or node in pool.draining]
            found += [f"{pool.name}: {pool.retrying} are sent again"] * bool(pool.retrying)
        for name in SERVICES:
            handler = world.service(name).handler
            assert isinstance(handler, ReverseProxy)
            for backends in handler.groups.all():
                waiting = (len(backends.queue), backends.queue.lacking, len(backends.opening))
                found += [f"{name}: {waiting}"] * (waiting != (0, 0, 0))
        return found + [f"{each.node}: {each.state}" for each in world.backends if each.state != "bored" or each.closing]


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_forgotten_and_nothing_is_left_over(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    @lab
    async def run(lab: Lab) -> None:
        chance = random.Random(seed)
        apps = [await App.start(lab, chance) for _ in range(4)]

        def some(what: list[tuple[str, float]]) -> str:
            return ";".join(words for words, share in what if chance.random() < share)

        lines = []
        for pool in POOLS:
            lines += [f"CREATE POOL {pool}", *some(OF_POOLS).split(";"), "SET eject_time = 100ms", f"POOL {pool} ADD {apps[0].address}"]
        for name in SERVICES:
            lines += [f"CREATE SERVICE {name}", "SET role = reverse_proxy", "SET listen = 127.0.0.1:0", "SET pool = app"]
            lines += [*some(OF_SERVICES).split(";"), f"ROUTE {name} TO route WHEN path ^/r", f"ENABLE {name}"]
        site = Site(await lab.pbal("\n".join(lines)), chance, apps)
        clients = asyncio.gather(*(site.ask() for _ in range(CLIENTS)))
        for _ in range(STEPS):
            await site.step()
        await site.heal()
        site.over = True
        await clients  # each fails if it has no answer in time
        await until(lambda: not site.left(), "nothing to be left")
        assert 200 in site.statuses

    run()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
