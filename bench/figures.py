"""The figures. Each function measures one and yields (what, figure, unit, target)."""

import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.access import access
from bench.acknowledged import acknowledged
from bench.configuration import configuration
from bench.distant import busy
from bench.distant import distant as distant_of
from bench.files import files
from bench.hanging import hanging
from bench.load import spent
from bench.plugins import networks, plugins
from bench.proxying import bodies, idle, tail
from bench.room import room, streams
from bench.secure import tls
from bench.selecting import vhosts
from bench.status import status
from bench.uploads import uploads
from bench.waits import waits

Row = tuple[str, float, str, str]

POLL = """
LOAD poll
CREATE POOL app
  POOL app ADD 127.0.0.1:{origin}
CREATE SERVICE chat
  SET role             = reverse_proxy
  SET listen           = 127.0.0.1:{port}
  SET pool             = app
  SET plugins          = poll
  SET poll_uri         = ^/poll/(?P<queue>[\\w.-]+)$
  SET poll_publish_uri = ^/publish/(?P<queue>[\\w.-]+)$
  SET poll_store       = {store}
  SET poll_timeout     = 600s
  SET poll_keep        = {keep}
ENABLE chat
CREATE SERVICE console
  SET role   = management
  SET listen = 127.0.0.1:{console}
ENABLE console
"""
NCHAN = """
  nchan_max_reserved_memory 512m;
  server {{ listen 127.0.0.1:{port};
    location ~ ^/poll/([\\w.-]+)$ {{ nchan_subscriber longpoll; nchan_channel_id $1; nchan_subscriber_first_message newest; }}
    location ~ ^/publish/([\\w.-]+)$ {{ nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 1; }} }}
"""
PARKED = 15000
VARIED = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/item/" .. n, {["X-Request-Id"] = tostring(n), ["Cookie"] = "session=" .. (n * 7919)})
end
"""
VARIED_ORIGIN = 'server {{ listen 127.0.0.1:{port}; location / {{ add_header X-Id $request_id; return 200 "{body}"; }} }}'


def start_pbal(
    origin: int = 1, store: str = "memory", core: int | None = None, build: tuple[str, ...] = peers.MEASURED, keep: str = "taken"
) -> tuple[peers.Program, int]:
    """pbal with the poll plugin; and its console's port."""
    port, console = peers.free_port(), peers.free_port()
    text = POLL.format(origin=origin, port=port, console=console, store=store, keep=keep)
    return peers.pbal(text, port, core, build), console


# -- proxied requests ---------------------------------------------------------------------------------------------------


def proxied() -> Iterator[Row]:
    """CPU of a small proxied GET."""
    if not (peers.have("nginx") and peers.have("wrk")):
        print("left out: proxied GET needs nginx (origin) and wrk")
        return
    first, last = peers.CORES[0], peers.CORES[-1]
    body = "x" * 100
    port = peers.free_port()
    same = peers.nginx(f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{body}"; }} }}', port, last)
    port = peers.free_port()
    varied = peers.nginx(VARIED_ORIGIN.format(port=port, body=body), port, last)
    compiled = peers.compiled()
    try:
        for name, origin, factor in (
            ("", same, 1.5 if compiled else 2.0),
            (", every head different", varied, 2.2 if compiled else 3.5),
        ):
            port = peers.free_port()
            upstream = f"upstream u {{ server 127.0.0.1:{origin.port}; keepalive 64; keepalive_requests 1000000000; }}"
            place = 'location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }'
            server = f"server {{ listen 127.0.0.1:{port}; {place} }}"
            beside = spent(peers.nginx(upstream + server, port, first), script=VARIED if name else "")
            yield f"proxied GET, nginx{name}", beside, "us CPU", ""
            target = f"{factor} x nginx: {factor * beside:.1f}"
            yield f"proxied GET, pbal{name}", spent(start_pbal(origin.port, core=first)[0], script=VARIED if name else ""), "us CPU", target
        for name, start in (("haproxy", peers.haproxy), ("perlbal", peers.perlbal)):
            if peers.have(name):
                yield f"proxied GET, {name}", spent(start(same.port, peers.free_port(), first)), "us CPU", ""
            else:
                print(f"left out: {name} is not installed")
    finally:
        same.end()
        varied.end()


# -- parked polls -------------------------------------------------------------------------------------------------------


def parked() -> Iterator[Row]:
    """Memory of a parked poll, and CPU while nothing happens."""
    program, console = start_pbal()
    yield from _parked("pbal", program, console, "1.75")
    if peers.NCHAN.exists() and peers.have("nginx"):
        port = peers.free_port()
        yield from _parked("nchan", peers.nginx(NCHAN.format(port=port), port, modules=peers.nchan_module()), None, "")
    else:
        print("left out: nchan is not installed")
    if not peers.have("memcached"):
        print("left out: memcached is not installed")
        return
    cache = peers.memcached(peers.free_port())
    program, console = start_pbal(store=f"memcached 127.0.0.1:{cache.port}")
    try:
        load = _park(program.port)
        _wait_parked(console)
        time.sleep(3)
        before = program.cpu()
        time.sleep(10)
        yield f"{PARKED} parked on memcached, nothing happens", (program.cpu() - before) * 10, "% of a core", "1"
        load.terminate()
        load.wait()
    finally:
        program.end()
        cache.end()


def _parked(name: str, program: peers.Program, console: int | None, target: str) -> Iterator[Row]:
    try:
        before = program.resident()
        load = _park(program.port)
        if console is not None:
            _wait_parked(console)
        else:
            time.sleep(3)
        yield f"memory of a parked poll, {name}", (program.resident() - before) / PARKED / 1024, "KB", target
        load.terminate()
        load.wait()
    finally:
        program.end()


def _park(port: int) -> subprocess.Popen[str]:
    """A process that parks PARKED polls and keeps them."""
    load = subprocess.Popen([sys.executable, "-m", "bench.park", str(port), str(PARKED)], stdout=subprocess.PIPE, text=True)
    assert load.stdout is not None
    load.stdout.readline()
    return load


def _wait_parked(console: int) -> None:
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", console)) as sock:
            sock.sendall(b"show counters like poll_parked\nquit\n")
            answer = b""
            while piece := sock.recv(4096):
                answer += piece
        if f"poll_parked {PARKED}".encode() in answer:
            return
        time.sleep(0.1)


# -- latency and throughput ---------------------------------------------------------------------------------------------


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _post(queue: str, body: bytes) -> bytes:
    return f"POST /publish/{queue} HTTP/1.1\r\nHost: b\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _get(queue: str, more: str = "") -> bytes:
    return f"GET /poll/{queue} HTTP/1.1\r\nHost: b\r\n{more}\r\n".encode()


def latency() -> Iterator[Row]:
    """HTTP publish to answer."""
    program, _ = start_pbal()
    yield from _latency("pbal", program, ("0.2", "0.6"))
    program, _ = start_pbal(keep="ttl")
    yield from _latency("pbal, ttl", program, ("0.2", "0.6"))
    if peers.NCHAN.exists() and peers.have("nginx"):
        port = peers.free_port()
        yield from _latency("nchan", peers.nginx(NCHAN.format(port=port), port, modules=peers.nchan_module()), ("", ""))


def _latency(name: str, program: peers.Program, targets: tuple[str, str]) -> Iterator[Row]:
    times = []
    try:
        poller, publisher = _connect(program.port), _connect(program.port)
        since = ""
        for number in range(2000):
            poller.sendall(_get("a", since))
            time.sleep(0.001)  # until it is parked
            started = time.perf_counter()
            publisher.sendall(_post("a", b"%d" % number))
            answer = poller.recv(65536)
            times.append((time.perf_counter() - started) * 1000)
            publisher.recv(65536)
            since = _since(answer)
    finally:
        program.end()
    yield from _median_and_p99(f"publish to answer, {name}", times, targets)


BEHIND = {"Last-Modified": "If-Modified-Since", "Etag": "If-None-Match", "Poll-Position": "Poll-Position"}
"""How an answer says where its reader stands, and how the next poll does: the first two are nchan's."""


def _since(answer: bytes) -> str:
    """The fields with which the next poll goes on behind an answer."""
    head = answer.partition(b"\r\n\r\n")[0]
    return "".join(
        f"{asks}: {found[1].decode()}\r\n"
        for says, asks in BEHIND.items()
        if (found := re.search(says.encode() + rb": ([^\r]+)", head, re.IGNORECASE))
    )


def _median_and_p99(what: str, times: list[float], targets: tuple[str, str]) -> Iterator[Row]:
    yield f"{what}, median", statistics.median(times), "ms", targets[0]
    yield f"{what}, p99", sorted(times)[int(len(times) * 0.99)], "ms", targets[1]


def stored() -> Iterator[Row]:
    """memcached store to answer, through the watch."""
    if not peers.have("memcached"):
        print("left out: memcached is not installed")
        return
    for keep in ("taken", "ttl"):
        yield from _stored(keep)
    yield from busy(start_pbal)


def _stored(keep: str) -> Iterator[Row]:
    cache = peers.memcached(peers.free_port())
    program, _ = start_pbal(store=f"memcached 127.0.0.1:{cache.port}", keep=keep)
    times = []
    try:
        poller, writer = _connect(program.port), _connect(cache.port)
        since = ""
        for number in range(600):
            poller.sendall(_get("a", since))
            time.sleep(0.01)
            started = time.perf_counter()
            writer.sendall(b"append poll:a 0 300 2\r\nm\n\r\n")
            if writer.recv(100) != b"STORED\r\n":
                writer.sendall(b"add poll:a 0 300 2\r\nm\n\r\n")
                writer.recv(100)
            since = _since(poller.recv(65536))
            if number >= 100:
                times.append((time.perf_counter() - started) * 1000)
    finally:
        program.end()
        cache.end()
    yield from _median_and_p99(f"memcached store to answer, {keep}", times, ("1.5", "4"))


def distant() -> Iterator[Row]:
    """memcached store to answer, where memcached is far away."""
    yield from distant_of(start_pbal)


def answers() -> Iterator[Row]:
    """Answers a second: publishers and pollers that never rest. A compiled pbal is held against an interpreted one."""
    target = "8000"
    if peers.compiled():
        rows = list(_answers_of("pbal interpreted", peers.INTERPRETED, ""))
        yield from rows
        target = f"1.3 x interpreted: {1.3 * rows[0][1]:.0f}"
    yield from _answers_of("pbal", peers.MEASURED, target)


def _answers_of(name: str, build: tuple[str, ...], target: str) -> Iterator[Row]:
    program, _ = start_pbal(core=peers.CORES[0], build=build)
    try:
        before = program.cpu()
        rate, count, own = _answers(program.port)
        yield f"answers a second, {name}", rate, "1/s", target
        yield f"CPU of a publish and its answer, {name}", (program.cpu() - before) / count * 1e6, "us CPU", ""
        if own > 0.95:
            print(f"the load generator used {own:.0%} of its core: pbal was not the limit")
    finally:
        program.end()


def _answers(port: int, seconds: float = 5.0, pairs: int = 64) -> tuple[float, int, float]:
    """Pairs of a poller and a publisher; the next publish goes out when the poll is parked again."""
    os.sched_setaffinity(0, {peers.CORES[-1]})
    poll = selectors.DefaultSelector()
    count = 0
    for number in range(pairs):
        poller, publisher = _connect(port), _connect(port)
        get, post = _get(f"q{number}"), _post(f"q{number}", b"m")
        poll.register(poller, selectors.EVENT_READ, (poller, publisher, get, post))
        poll.register(publisher, selectors.EVENT_READ, None)
        poller.sendall(get)
        publisher.sendall(post)
    started, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        for key, _ in poll.select():
            key.fileobj.recv(65536)  # type: ignore[union-attr]
            if key.data is not None:
                poller, publisher, get, post = key.data
                count += 1
                poller.send(get)
                publisher.send(post)
    took = time.perf_counter() - started
    os.sched_setaffinity(0, set(peers.CORES))
    return count / took, count, (time.process_time() - used) / took


def start() -> Iterator[Row]:
    """From exec to listening, with examples/chat.conf on free ports."""
    example = Path(__file__).parent.parent / "examples" / "chat.conf"
    times = []
    for _ in range(5):
        ports = [peers.free_port(), peers.free_port()]
        text = example.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{ports[0]}").replace("127.0.0.1:16000", f"127.0.0.1:{ports[1]}")
        program = peers.pbal(text.replace("= chat  ", f"= {example.parent / 'chat'}  "), ports[0])
        times.append(program.listening_after)
        program.end()
    yield "start-up to listening, best of 5", min(times), "s", ""
    yield "start-up to listening, median of 5", statistics.median(times), "s", "0.4"


FIGURES = {
    "proxied": proxied,
    "access": access,
    "plugins": plugins,
    "networks": networks,
    "bodies": bodies,
    "files": files,
    "uploads": uploads,
    "vhosts": vhosts,
    "idle": idle,
    "hanging": hanging,
    "tail": tail,
    "parked": parked,
    "latency": latency,
    "stored": stored,
    "distant": distant,
    "answers": answers,
    "waits": waits,
    "acknowledged": acknowledged,
    "room": room,
    "streams": streams,
    "start": start,
    "tls": tls,
    "status": status,
    "configuration": configuration,
}
