"""The program as an operator meets it: arguments, start-up, signals, what it prints."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from authority import Authority
from lab import DEADLINE, free_port
from process import ROOT, Running, conf

from pbal import __version__, build
from pbal.__main__ import main


def pbal(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pbal", *arguments], capture_output=True, text=True, cwd=cwd, timeout=60)


def test_version_and_help():
    assert pbal("--version").stdout == f"pbal {__version__} ({build.kind()})\n"
    assert "check" in pbal("--help").stdout
    assert pbal("--nonsense").returncode == 2


def test_check_says_good_or_reports_every_mistake(tmp_path):
    path = conf(tmp_path, 8080)
    assert (pbal("check", str(path)).returncode, pbal("check", str(path)).stdout) == (0, f"{path}: good\n")
    path.write_text("CREATE SERVICE web\n  SET role = web_server\n  SET persist_clent = on\n  SET idle_timeout = soon\nENABEL web\n")
    done = pbal("check", str(path))
    assert done.returncode == 1
    assert f"{path}:3:7: 'persist_clent' is not a tunable of role web_server" in done.stderr
    assert "      |       ^^^^^^^^^^^^^" in done.stderr
    assert "did you mean 'persist_client'?" in done.stderr
    assert f"{path}:4:" in done.stderr and f"{path}:5:1: 'ENABEL' is not a statement" in done.stderr
    assert "3 mistakes, nothing started" in done.stderr
    assert "Traceback" not in done.stderr
    assert pbal("check", str(tmp_path / "none.conf")).returncode == 2


def test_a_tunable_that_is_not_built_is_an_error(tmp_path):
    path = conf(tmp_path, 8080, "SET chat server_process = /bin/app")
    assert "'server_process' is not built yet" in pbal("check", str(path)).stderr


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.conf")), ids=lambda path: path.name)
def test_every_example_checks_and_boots(example, tmp_path):
    folder = shutil.copytree(ROOT / "examples", tmp_path / "examples")
    text = example.read_text()
    for command in re.findall(r"^#   (mkdir .*|openssl .*)$", text, re.MULTILINE):  # what it asks its reader to do first
        if shutil.which(command.split()[0]) is None:
            pytest.skip(f"{command.split()[0]} is not installed")
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    copy = folder / example.name
    assert main(["check", str(copy)]) == 0
    text = re.sub(r"127\.0\.0\.1:(7000|8080|8081|8443|16000)\b", lambda match: f"127.0.0.1:{free_port()}", text)
    copy.write_text(text)
    port = int(re.search(r"listen\s*=\s*127\.0\.0\.1:(\d+)", text)[1])  # type: ignore[index]
    status, log = Running(copy, port).end()
    assert status == 0
    assert "Traceback" not in log


def test_check_tells_of_certificates_with_file_and_reason(tmp_path):
    authority = Authority(tmp_path)
    pair = authority.certify("a.test", ends=5)
    pair.key_file.chmod(0o644)
    path = tmp_path / "tls.conf"
    text = f"""
LOAD vhosts
CREATE SERVICE site
  SET role          = selector
  SET listen        = 127.0.0.1:8443
  SET plugins       = vhosts
  SET enable_ssl    = on
  SET ssl_cert_file = {pair.file.name}
  SET ssl_key_file  = {pair.key_file.name}
  VHOST a.test      = site
  VHOST *.b.test    = site
  VHOST *           = site
ENABLE site
"""
    path.write_text(text)
    done = pbal("check", str(path))
    assert done.returncode == 0
    assert f"{pair.file}: the certificate expires in 4 days" in done.stderr
    assert f"{pair.key_file}: the key can be read" in done.stderr
    assert done.stderr.count("no certificate in ssl_cert_file is for VHOST") == 1 and "for VHOST *.b.test" in done.stderr
    path.write_text(text.replace(pair.key_file.name, authority.certify("b.test").key_file.name))
    done = pbal("check", str(path))
    assert done.returncode == 1
    assert f"{path}:13:1: {tmp_path}/b.test.key: this key does not belong to the certificate in {pair.file}" in done.stderr


def test_a_name_in_a_handshake_that_is_not_ascii_is_no_traceback(tmp_path):
    authority, port = Authority(tmp_path), free_port()
    pair = authority.certify("a.test")
    tls = f"SET chat enable_ssl = on\nSET chat ssl_cert_file = {pair.file}\nSET chat ssl_key_file = {pair.key_file}"
    path = conf(tmp_path, port)
    path.write_text(path.read_text().replace("ENABLE chat", f"{tls}\nENABLE chat"))
    with Running(path, port) as running:
        hello = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="a.test").do_handshake()
        with running.connect() as sock:
            sock.sendall(hello.read().replace(b"a.test", b"\xff.test"))
            sock.recv(100)
        running.says("TLS handshake failed")
        status, log = running.end()
    assert status == 0 and "Traceback" not in log and "ignored in" not in log


def test_a_port_that_is_taken_is_one_clear_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = pbal("-c", str(conf(tmp_path, port)))
    assert done.returncode == 1
    assert f"pbal: Can't start service 'chat' on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_do_is_said(tmp_path):
    path = tmp_path / "empty.conf"
    path.write_text("# nothing\n")
    done = pbal("-c", str(path))
    assert done.returncode == 1 and "no service listens" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_gracefully_and_parked_polls_get_the_empty_answer(tmp_path, number):
    port = free_port()
    running = Running(conf(tmp_path, port), port)
    poll = running.park("a")
    status, log = running.end(number)
    assert status == 0
    assert b"204 No Content" in poll.recv(4096)
    assert poll.recv(10) == b""
    assert "Traceback" not in log
    assert "open files" in log


def test_a_request_in_flight_finishes_and_a_second_signal_ends_at_once(tmp_path):
    port = free_port()
    running = Running(conf(tmp_path, port), port)
    sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    sock.sendall(b"POST /publish/a HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\n\r\nhe")
    running.park("b").close()
    running.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                break
    sock.sendall(b"llo")
    assert b"202 Accepted" in sock.recv(4096)
    running.process.wait(timeout=30)
    assert running.process.returncode == 0

    running = Running(conf(tmp_path, port), port)
    sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    sock.sendall(b"POST /publish/a HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\n\r\nhe")
    running.park("b").close()
    running.process.send_signal(signal.SIGTERM)
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)) == 0:
            probe.close()
            probe = socket.socket()
    status, log = running.end()
    assert status == 0 and "second signal" in log


def test_descriptors_run_out_and_it_goes_on_with_what_it_has(tmp_path):
    port = free_port()
    running = Running(conf(tmp_path, port, "SERVER max_connections = 200"), port)
    # SERVER max_connections is the limit: more clients than that come.
    socks = []
    for _ in range(180):
        sock = socket.socket()
        sock.settimeout(DEADLINE)
        sock.connect(("127.0.0.1", port))
        socks.append(sock)
    socks[0].sendall(b"GET /poll/a HTTP/1.1\r\nHost: c\r\n\r\n")
    socks[1].sendall(b"POST /publish/a HTTP/1.1\r\nHost: c\r\nContent-Length: 1\r\n\r\nx")
    assert b"202" in socks[1].recv(4096)
    assert socks[0].recv(4096).endswith(b"x\n")
    running.says("accepting no more connections")
    for sock in socks:
        sock.close()
    fresh = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    fresh.sendall(b"GET /x HTTP/1.1\r\nHost: c\r\n\r\n")
    assert b"404" in fresh.recv(4096)  # accepting went on
    status, log = running.end()
    assert status == 0
    assert log.count("accepting no more connections") == 1


def test_the_wheel_works_elsewhere(tmp_path):
    source = tmp_path / "source"  # a compiled one may be built beside this test
    for folder in ("pbal", "grammar", "contrib", "man"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    subprocess.run(
        [sys.executable, "-c", "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])", str(tmp_path)],
        cwd=source, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    wheel = next(tmp_path.glob("pbal-*.whl"))
    place = tmp_path / "elsewhere"
    with zipfile.ZipFile(wheel) as archive:
        assert "pbal/grammar/pbal.lark" in archive.namelist()
        assert "pbal/grammar/plugins/poll.lark" in archive.namelist()
        archive.extractall(place)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    good = subprocess.run(
        [sys.executable, "-m", "pbal", "check", str(conf(tmp_path, 8080))],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60,
    )  # fmt: skip
    assert good.returncode == 0, good.stderr
    where = subprocess.run(
        [sys.executable, "-c", "import pbal; print(pbal.__file__)"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60,
    )  # fmt: skip
    assert where.stdout.startswith(str(place))
