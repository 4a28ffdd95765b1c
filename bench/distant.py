"""memcached far away: store to answer, when each of pbal's questions takes DELAY there and back.

The relay stands between pbal and memcached, and hands on what comes half of DELAY later, in each direction, the watch stream,
too. The writer stores at memcached itself, by the writer's contract, RATE messages a second, each with the time it was sent.

    python -m bench.distant relay PORT TARGET MILLISECONDS
    python -m bench.distant write PORT RATE
"""

import os
import random
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

from bench import peers

Row = tuple[str, float, str, str]
DELAY = 0.01
"""Seconds, there and back."""
QUEUES = 1000
RATE = 2000
NEAR_RATE = 1000
"""Messages a second where memcached is near: few enough that each is a delivery of its own, on a busy machine, too."""
SECONDS = 8.0
STEP = 0.005
"""Seconds between two writes of the writer."""


# -- the relay ----------------------------------------------------------------------------------------------------------


class Way:
    """One direction of one connection: what came, and when it is to go on."""

    def __init__(self, sink: socket.socket) -> None:
        self.sink = sink
        self.held: deque[tuple[float, bytes]] = deque()

    def go_on(self, now: float) -> None:
        """Send what has been held long enough."""
        while self.held and self.held[0][0] <= now:
            _, data = self.held.popleft()
            try:
                if not data:
                    self.sink.shutdown(socket.SHUT_WR)
                    return
                sent = self.sink.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.held.clear()
                return
            if sent < len(data):
                self.held.appendleft((now, data[sent:]))
                return


def relay(port: int, target: int, milliseconds: float) -> None:
    """Accept on PORT, connect to TARGET, delay both directions."""
    delay = milliseconds / 1000
    listening = socket.create_server(("127.0.0.1", port))
    poll = selectors.DefaultSelector()
    poll.register(listening, selectors.EVENT_READ, None)
    ways: list[Way] = []
    while True:
        now = time.monotonic()
        due = min((way.held[0][0] for way in ways if way.held), default=now + 1)
        for key, _ in poll.select(max(0.0, due - now)):
            if key.data is None:
                _join(listening, target, poll, ways)
                continue
            try:
                data = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
            except OSError:
                data = b""
            key.data.held.append((time.monotonic() + delay, data))
            if not data:
                poll.unregister(key.fileobj)
        now = time.monotonic()
        for way in ways:
            way.go_on(now)


def _join(listening: socket.socket, target: int, poll: selectors.BaseSelector, ways: list[Way]) -> None:
    near, _ = listening.accept()
    far = socket.create_connection(("127.0.0.1", target))
    for sock, sink in ((near, far), (far, near)):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        way = Way(sink)
        ways.append(way)
        poll.register(sock, selectors.EVENT_READ, way)


# -- the writer ---------------------------------------------------------------------------------------------------------


def write(port: int, rate: int) -> None:
    """Store until the time is over: some messages a step, all of a step in one write."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answers = sock.makefile("rb")
    chance = random.Random(1)
    begun = time.monotonic()
    count = 0
    while (now := time.monotonic()) - begun < SECONDS:
        wanted = int((now - begun) * rate) - count
        count += wanted
        left = [b"%d" % chance.randrange(QUEUES) for _ in range(wanted)]
        verb = b"append"
        while left:
            message = b"%.6f\n" % now
            sock.sendall(b"".join([b"%b poll:q%b 0 300 %d\r\n%b\r\n" % (verb, queue, len(message), message) for queue in left]))
            left = [queue for queue in left if answers.readline() != b"STORED\r\n"]
            verb = b"add" if verb == b"append" else b"append"
        time.sleep(STEP)


# -- the figure ---------------------------------------------------------------------------------------------------------


def distant(start_pbal: Callable[..., tuple[peers.Program, int]]) -> Iterator[Row]:
    """memcached store to answer with memcached far away."""
    if not peers.have("memcached"):
        print("left out: memcached is not installed")
        return
    cache = peers.memcached(peers.free_port())
    between = peers.Program(
        [sys.executable, "-m", "bench.distant", "relay", str(port := peers.free_port()), str(cache.port), str(DELAY * 500)], port
    )
    program, _ = start_pbal(store=f"memcached 127.0.0.1:{port}", core=peers.CORES[0])
    for other in (cache, between):
        os.sched_setaffinity(other.pid, {peers.CORES[-1]})
    try:
        before = program.cpu()
        times, _ = _times(program.port, cache.port, RATE)
        used = program.cpu() - before
    finally:
        for started in (program, between, cache):
            started.end()
    times.sort()
    what = f"store to answer, memcached at {DELAY * 1000:.0f} ms, {RATE} stores/s"
    yield f"{what}, median", times[len(times) // 2] * 1000, "ms", "40"
    yield f"{what}, p99", times[int(len(times) * 0.99)] * 1000, "ms", "120"
    yield f"CPU of a delivery, memcached at {DELAY * 1000:.0f} ms", used / len(times) * 1e6, "us CPU", ""


def busy(start_pbal: Callable[..., tuple[peers.Program, int]]) -> Iterator[Row]:
    """CPU of a delivery with memcached near, of queues that are taken and of those that are kept. What pbal uses idle is in it."""
    taken = _busy(start_pbal, "taken")
    what = f"CPU of a delivery, {NEAR_RATE} stores/s"
    yield f"{what}, taken", taken, "us CPU", ""
    yield f"{what}, ttl", _busy(start_pbal, "ttl"), "us CPU", f"60 % of taken: {0.6 * taken:.0f}"


def _busy(start_pbal: Callable[..., tuple[peers.Program, int]], keep: str) -> float:
    cache = peers.memcached(peers.free_port())
    program, _ = start_pbal(store=f"memcached 127.0.0.1:{cache.port}", core=peers.CORES[0], keep=keep)
    os.sched_setaffinity(cache.pid, {peers.CORES[-1]})
    try:
        before = program.cpu()
        _, answers = _times(program.port, cache.port, NEAR_RATE)
        return (program.cpu() - before) / answers * 1e6
    finally:
        program.end()
        cache.end()


POSITION = re.compile(rb"\r\nPoll-Position: [^\r]+")


def _times(port: int, cache: int, rate: int) -> tuple[list[float], int]:
    """A poller on each queue; for each message, how long it took, and how many answers there were.

    The first second is left out of the times: all begins there.
    """
    poll = selectors.DefaultSelector()
    for number in range(QUEUES):
        sock = socket.create_connection(("127.0.0.1", port))
        get = f"GET /poll/q{number} HTTP/1.1\r\nHost: b".encode()
        poll.register(sock, selectors.EVENT_READ, get)
        sock.sendall(get + b"\r\n\r\n")
    time.sleep(1)
    writer = subprocess.Popen(
        ["taskset", "-c", str(peers.CORES[-1]), sys.executable, "-m", "bench.distant", "write", str(cache), str(rate)]
    )
    times: list[float] = []
    answers = 0
    end = time.monotonic() + SECONDS + 2
    begun = time.monotonic() + 1
    while (now := time.monotonic()) < end:
        for key, _ in poll.select(0.5):
            answer = key.fileobj.recv(65536)  # type: ignore[union-attr]
            now = time.monotonic()
            head, _, body = answer.partition(b"\r\n\r\n")
            answers += 1
            if now > begun:
                times += [now - float(line) for line in body.split()]
            position = POSITION.search(head)
            key.fileobj.send(key.data + (position[0] if position else b"") + b"\r\n\r\n")  # type: ignore[union-attr]
    writer.wait()
    for key in list(poll.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    if not times:
        raise RuntimeError("nothing was delivered")
    return times, answers


if __name__ == "__main__":
    if sys.argv[1] == "relay":
        relay(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    else:
        write(int(sys.argv[2]), int(sys.argv[3]))
