"""TLS on the wire, with Python's ssl as the client: names, certificates, endings, what is refused, and everything else as in clear."""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest
from authority import Authority, Pair
from lab import DEADLINE, Lab, lab, read_response, until
from secure import echo_head, files, get, proxy, secure, secure_origin, site, to_nodes, trusting


def certified(writer: asyncio.StreamWriter) -> list[str]:
    """The names of the certificate that the server showed."""
    found = writer.get_extra_info("ssl_object").getpeercert()["subjectAltName"]
    return [name for _, name in found]


@lab
async def test_a_handshake_that_is_under_way_is_seen_by_who_asks_for_clients(lab: Lab) -> None:
    pbal = await site(lab, Authority(lab.folder).certify("a.test"))
    _, writer = await pbal.connect("site")
    await until(lambda: len(pbal.world.clients) == 1, "it to be accepted")
    assert await pbal.say("show clients") == "127.0.0.1 connections 1 parked 0 requests 0 oldest 0s\n."
    writer.close()
    await until(lambda: not pbal.world.clients, "it to go")


# --- a request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_are_answered_as_in_clear(version: ssl.TLSVersion) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pbal = await site(lab, authority.certify("a.test"))
        context = trusting(authority)
        context.minimum_version = context.maximum_version = version
        reader, writer = await secure(pbal, "site", context)
        writer.write(get() * 3)
        assert [(await read_response(reader)).body for _ in range(3)] == [b"a page"] * 3
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
        writer.write(get("/page", "Connection: close"))
        assert (await read_response(reader)).body == b"a page"
        assert await reader.read() == b""
        assert pbal.counts["tls_handshakes"] == 1 and pbal.counts["requests"] == 4

    run()


@lab
async def test_old_protocols_are_refused(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"))
    context = trusting(authority)
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await secure(pbal, "site", context)
    await pbal.until("tls_handshake_failures", 1)


@lab
async def test_alpn_agrees_on_http_1_1_and_on_nothing_it_does_not_speak(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"))
    context = trusting(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await secure(pbal, "site", context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


@lab
async def test_a_large_file_and_a_large_upload_pass_whole(lab: Lab) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 5000000" in head
        body = await reader.readexactly(5_000_000)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + body)

    authority = Authority(lab.folder)
    pbal = await proxy(lab, count, authority.certify("a.test"))
    reader, writer = await secure(pbal, "site", trusting(authority))
    body = bytes(range(250)) * 20000
    writer.write(get("/", "Content-Length: 5000000", method="POST") + body)
    assert (await read_response(reader)).body == body


@lab
async def test_sessions_are_resumed(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"))
    context = trusting(authority)
    loop = asyncio.get_running_loop()

    def twice() -> bool:
        session = None
        for _ in range(2):
            with socket.create_connection(pbal.server.address("site")) as plain, context.wrap_socket(
                plain, server_hostname="a.test", session=session
            ) as sock:  # fmt: skip
                sock.sendall(get())
                sock.recv(65536)
                session, reused = sock.session, sock.session_reused
        return bool(reused)

    assert await loop.run_in_executor(None, twice)
    assert pbal.counts["tls_handshakes_resumed"] == 1


# --- names ----------------------------------------------------------------------------------------------------------


@lab
async def test_a_client_gets_the_certificate_of_the_host_it_names(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pairs = [authority.certify("a.test"), authority.certify("b.test", "www.b.test"), authority.certify("*.c.test", together=True)]
    pbal = await site(lab, *pairs)
    for name, expected in (("a.test", "a.test"), ("b.test", "b.test"), ("WWW.B.TEST", "b.test"), ("x.c.test", "*.c.test")):
        reader, writer = await secure(pbal, "site", trusting(authority), name)
        assert certified(writer)[0] == expected
        writer.write(get(host=name))
        assert (await read_response(reader)).body == b"a page"
    for unknown in (None, "elsewhere.test", "c.test", "x.y.c.test"):
        context = trusting(authority)
        context.check_hostname = False
        _, writer = await secure(pbal, "site", context, unknown)
        assert certified(writer) == ["a.test"]


@lab
async def test_two_kinds_of_keys_for_one_name(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"), authority.certify("a.test", kind="rsa"))
    for cipher, kind in (("ECDHE-ECDSA-AES128-GCM-SHA256", "ec"), ("ECDHE-RSA-AES128-GCM-SHA256", "rsa")):
        context = trusting(authority)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(cipher)
        reader, writer = await secure(pbal, "site", context)
        writer.write(get())
        assert (await read_response(reader)).body == b"a page", kind


@pytest.mark.parametrize(
    ("rule", "named", "host", "status"),
    [
        ("sni", "a.test", "a.test", 200), ("sni", "a.test", "A.TEST:443", 200), ("sni", "a.test", "b.test", 421),
        ("sni", "b.test", "a.test", 421), ("sni", None, "b.test", 200), ("sni", "a.test", "unknown.test", 200),
        ("sni", "b.test", "unknown.test", 421), ("certificate", "a.test", "unknown.test", 421), ("certificate", None, "b.test", 421),
        ("certificate", "b.test", "b.test", 200), ("off", "a.test", "b.test", 200),
    ],
)  # fmt: skip
def test_a_host_of_another_certificate_is_421(rule: str, named: str | None, host: str, status: int) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pbal = await site(lab, authority.certify("a.test"), authority.certify("b.test"), more=f"SET ssl_host_check = {rule}")
        reader, writer = await secure(pbal, "site", trusting(authority), named)
        writer.write(get(host=host))
        assert (await read_response(reader)).status == status
        assert pbal.counts["misdirected_requests"] == (status == 421)

    run()


# --- endings and what is refused -------------------------------------------------------------------------------------


@lab
async def test_http_in_clear_text_is_told_so(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"))
    answer = await pbal.ask("site", get())
    assert answer.status == 400 and b"https" in answer.body
    assert pbal.counts["tls_clear_text"] == 1
    await pbal.until("clients", 0)
    assert not pbal.world.clients


@pytest.mark.parametrize(
    "octets", [b"\0" * 200, b"\x16\x03\x01\xff\xff" + b"x" * 70000, b"\x16\x03\x01\0\x05hello", b"\x15\x03\x01\0\2\2\x28"]
)
def test_rubbish_is_refused_and_leaves_nothing(octets: bytes) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pbal = await site(lab, authority.certify("a.test"))
        reader, writer = await pbal.connect("site")
        writer.write(octets)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), DEADLINE)
        await until(lambda: not pbal.world.clients, "it to be closed")
        assert pbal.counts["tls_handshake_failures"] == 1

    run()


@lab
async def test_a_handshake_that_stalls_is_closed(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"), more="SET ssl_handshake_timeout = 1s")
    for octets in (b"", b"\x16\x03\x01"):
        reader, writer = await pbal.connect("site")
        writer.write(octets)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
    assert pbal.counts["tls_handshake_timeouts"] == 2
    assert not pbal.world.clients


@lab
async def test_a_client_hello_in_single_octets(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="a.test")
    reader, writer = await pbal.connect("site")

    async def step(call: object) -> None:
        while True:
            try:
                call()  # type: ignore[operator]
                return
            except ssl.SSLWantReadError:
                for octet in outgoing.read():
                    writer.write(bytes([octet]))
                    await asyncio.sleep(0)
                incoming.write(await reader.read(65536))

    await step(tls.do_handshake)
    tls.write(get())
    answer: list[bytes] = []
    await step(lambda: answer.append(tls.read(65536)))
    assert b"200 OK" in answer[0]


@lab
async def test_an_end_without_close_notify_is_no_end(lab: Lab) -> None:
    """A tunnel's backend must not take a cut for what the client said."""
    ends: list[str] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        try:
            while await reader.read(65536):
                pass
            ends.append("end")
        except ConnectionError:
            ends.append("reset")

    authority = Authority(lab.folder)
    pbal = await proxy(lab, tunnel, authority.certify("a.test"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="a.test")
    reader, writer = await pbal.connect("site")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))
    tls.write(get("/", "Connection: Upgrade", "Upgrade: x"))
    writer.write(outgoing.read())
    await until(lambda: pbal.counts["tunnels"] == 1, "the tunnel")
    writer.write_eof()
    await until(lambda: ends, "the backend to hear of it")
    assert pbal.counts["tls_truncations"] == 1
    await until(lambda: not pbal.world.clients, "it to be closed")


@lab
async def test_a_tunnel_goes_both_ways_and_ends_on_both_sides(lab: Lab) -> None:
    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello ")
        while piece := await reader.read(65536):
            writer.write(piece.upper())
        writer.close()

    authority = Authority(lab.folder)
    pbal = await proxy(lab, tunnel, authority.certify("a.test"))
    reader, writer = await secure(pbal, "site", trusting(authority))
    writer.write(get("/", "Connection: Upgrade", "Upgrade: x"))
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(6) == b"hello "
    writer.write(b"octets")
    assert await reader.readexactly(6) == b"OCTETS"
    writer.close()
    await until(lambda: not pbal.world.clients and not pbal.world.backends, "both to be closed")


@lab
async def test_a_thousand_handshakes_at_once_leave_nothing(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"), more="SET ssl_handshake_rate = 0")
    loop = asyncio.get_running_loop()
    socks = []
    for _ in range(1000):
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, pbal.server.address("site"))
        tls = trusting(authority).wrap_bio(ssl.MemoryBIO(), out := ssl.MemoryBIO(), server_hostname="a.test")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        await loop.sock_sendall(sock, out.read())
        socks.append(sock)
    for sock in socks:
        sock.close()
    await until(lambda: not pbal.world.clients, "all to be closed")
    assert pbal.counts["clients"] == 0


@lab
async def test_handshakes_a_second_are_bounded_and_nobody_is_lost(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"), more="SET ssl_handshake_rate = 20")
    context = trusting(authority)
    began = asyncio.get_running_loop().time()
    streams = await asyncio.gather(*(secure(pbal, "site", context) for _ in range(25)))
    assert asyncio.get_running_loop().time() - began > 0.8
    for reader, writer in streams:
        writer.write(get())
        assert (await read_response(reader)).body == b"a page"


# --- what others learn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "tls", "said"),
    [
        ("", True, b"https"),
        ("", False, None),
        ("SET send_backend_proto = on", False, b"http"),
        ("SET send_backend_proto = off", True, None),
    ],
)
def test_the_scheme_goes_to_the_backend_and_cannot_be_forged(more: str, tls: bool, said: bytes | None) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        pbal = await proxy(lab, echo_head, *([authority.certify("a.test")] if tls else []), more=more)
        reader, writer = await secure(pbal, "site", trusting(authority)) if tls else await pbal.connect("site")
        writer.write(get("/", "X-Forwarded-Proto: forged", "X-SSL-Client-Verify: SUCCESS", "Client-Cert: :AAAA:"))
        seen = (await read_response(reader)).body.lower()
        assert b"forged" not in seen and b"client-verify" not in seen and b"client-cert" not in seen
        assert (b"x-forwarded-proto: %b\r\n" % said in seen) if said else b"x-forwarded-proto" not in seen

    run()


@lab
async def test_hooks_see_scheme_protocol_and_name(lab: Lab) -> None:
    (lab.folder / "tell.py").write_text(
        "from pbal.api import Exchange, Plugin, Verdict, hook\n\n\nclass Tell(Plugin):\n"
        "    @hook.start_http_request\n    def tell(self, exchange: Exchange) -> Verdict:\n"
        "        tls = exchange.tls\n        said = f'{exchange.scheme.decode()} {tls and (tls.version, tls.server_name)}'\n"
        "        exchange.respond(200, (), said.encode())\n        return Verdict.TAKEN\n"
    )
    authority = Authority(lab.folder)
    pair = authority.certify("a.test")
    pbal = await lab.pbal(f"""
        SERVER plugin_path = {lab.folder}
        LOAD tell
        CREATE SERVICE site
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET plugins = tell
          {files(pair)}
        ENABLE site
        CREATE SERVICE plain
          SET role    = web_server
          SET listen  = 127.0.0.1:0
          SET plugins = tell
        ENABLE plain
    """)
    reader, writer = await secure(pbal, "site", trusting(authority))
    writer.write(get())
    assert (await read_response(reader)).body == b"https ('TLSv1.3', 'a.test')"
    assert (await pbal.ask("plain", get())).body == b"http None"


@lab
async def test_certificates_of_clients_are_asked_for_and_what_they_say_is_passed_on(lab: Lab) -> None:
    authority, others = Authority(lab.folder), Authority(lab.folder, "others")
    more = f"SET ssl_verify_mode = 1\n          SET ssl_ca_path = {authority.file}"
    pbal = await proxy(lab, echo_head, authority.certify("a.test"), more=more)
    reader, writer = await secure(pbal, "site", trusting(authority, authority.certify("mallory", file="client")))
    writer.write(get("/", "X-SSL-Client-Subject: CN=root"))
    seen = (await read_response(reader)).body
    assert b"X-SSL-Client-Verify: SUCCESS\r\n" in seen and b"X-SSL-Client-Subject: CN=mallory,O=pbal tests\r\n" in seen
    assert b"Client-Cert: :MII" in seen and b"CN=root\r\n" not in seen.replace(b"Issuer: CN=root", b"")
    reader, writer = await secure(pbal, "site", trusting(authority))
    writer.write(get("/"))
    seen = (await read_response(reader)).body
    assert b"X-SSL-Client-Verify: NONE\r\n" in seen and b"Client-Subject" not in seen
    reader, writer = await secure(pbal, "site", trusting(authority, others.certify("mallory", file="other")))
    writer.write(get("/"))
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        await read_response(reader)


@lab
async def test_clients_without_a_certificate_are_refused_where_it_is_required(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test"), more=f"SET ssl_verify_mode = 3\n          SET ssl_ca_path = {authority.file}")
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        reader, writer = await secure(pbal, "site", trusting(authority))
        writer.write(get("/"))
        await read_response(reader)
    assert pbal.counts["requests"] == 0


# --- redirect, HSTS, ACME ---------------------------------------------------------------------------------------------


@lab
async def test_the_redirect_to_https(lab: Lab) -> None:
    challenges = lab.folder / "challenges"
    challenges.mkdir()
    (challenges / "token-1_x").write_text("token.thumbprint")
    (lab.folder / "secret").write_text("secret")
    (lab.folder / "page").write_text("a page")
    pbal = await lab.pbal(f"""
        CREATE SERVICE site
          SET role            = web_server
          SET listen          = 127.0.0.1:0
          SET docroot         = {lab.folder}
          SET https_redirect  = on
          SET acme_challenges = {challenges}
        ENABLE site
    """)
    answer = await pbal.ask("site", get("/page?a=b", host="a.test:8080"))
    assert (answer.status, answer.fields["location"]) == (301, "https://a.test/page?a=b")
    answer = await pbal.ask("site", get("/page", "Content-Length: 0", host="[::1]:80", method="POST"))
    assert (answer.status, answer.fields["location"]) == (308, "https://[::1]/page")
    answer = await pbal.ask("site", get("http://b.test/x"))
    assert answer.fields["location"] == "https://b.test/x"
    answer = await pbal.ask("site", get("/.well-known/acme-challenge/token-1_x"))
    assert answer.body == b"token.thumbprint"
    assert (await pbal.ask("site", get("/.well-known/acme-challenge/nothing"))).status == 404
    for path in ("../secret", "..%2fsecret", "%2e%2e/secret", "token-1_x/"):
        assert (await pbal.ask("site", get(f"/.well-known/acme-challenge/{path}"))).status == 301
    assert await pbal.say("SET site.always_trusted = on") == "OK"
    for said, status in (("https,http", 200), ("HTTPS , http", 200), ("http, https", 301), ("httpsx", 301), (",https", 301)):
        assert (await pbal.ask("site", get("/page", f"X-Forwarded-Proto: {said}"))).status == status, said
    assert await pbal.say("SET site.https_redirect = off") == "OK"
    assert (await pbal.ask("site", get())).body == b"a page"


@lab
async def test_strict_transport_security_is_said_over_tls_only_and_once(lab: Lab) -> None:
    async def strict(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            own = b"Strict-Transport-Security: max-age=1\r\n" if b"/own" in head else b""
            writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: 2\r\n\r\nok" % own)

    authority = Authority(lab.folder)
    pbal = await proxy(lab, strict, authority.certify("a.test"), more="SET hsts = 24h")
    reader, writer = await secure(pbal, "site", trusting(authority))
    writer.write(get("/") + get("/own"))
    assert (await read_response(reader)).fields["strict-transport-security"] == "max-age=86400"
    assert (await read_response(reader)).fields["strict-transport-security"] == "max-age=1"


# --- renewal ----------------------------------------------------------------------------------------------------------


@lab
async def test_certificates_are_taken_up_anew_and_a_bad_one_is_not(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(lab.folder)
    pair = authority.certify("a.test", ends=30)
    pbal = await site(lab, pair)
    assert "site 29 " in await pbal.say("show certificates")
    kept = await secure(pbal, "site", trusting(authority))
    authority.certify("a.test", ends=60)
    assert await pbal.say("RELOAD CERTIFICATES") == "OK"
    assert "site 59 " in await pbal.say("show certificates")
    kept[1].write(get())
    assert (await read_response(kept[0])).body == b"a page"
    good = pair.file.read_bytes()
    for wrong, said in (
        (b"rubbish", "no certificate in PEM"),
        (authority.certify("a.test", ends=-1, file="expired").file.read_bytes(), "does not belong"),
        (b"", "no certificate in PEM"),
    ):
        pair.file.write_bytes(wrong)
        answer = await pbal.say("RELOAD CERTIFICATES")
        assert answer.startswith("ERROR: ") and said in answer and "stay" in answer
        assert "site 59 " in await pbal.say("show certificates")
    pair.file.write_bytes(good)
    reader, writer = await secure(pbal, "site", trusting(authority))
    writer.write(get())
    assert (await read_response(reader)).body == b"a page"


@lab
async def test_a_file_that_is_written_is_taken_up_by_itself(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await site(lab, authority.certify("a.test", ends=30))
    authority.certify("a.test", ends=60)
    seen = ""

    async def renewed() -> bool:
        nonlocal seen
        seen = await pbal.say("show certificates")
        return "site 59 " in seen

    async with asyncio.timeout(DEADLINE):
        while not await renewed():  # noqa: ASYNC110 - a console has nothing to wait on
            await asyncio.sleep(0.05)
    await pbal.until("tls_certificate_days", 59)


# --- what is wrong is said --------------------------------------------------------------------------------------------


def broken(authority: Authority, folder: Path, how: str) -> tuple[str, str]:
    """Settings, and what is said of them."""
    good = authority.certify("a.test")
    if how == "expired":
        return files(authority.certify("a.test", begins=-9, ends=-2)), "expired on"
    if how == "not yet":
        return files(authority.certify("a.test", begins=2)), "not valid before"
    if how == "another key":
        other = authority.certify("b.test")
        return files(Pair(good.certificate, good.key, good.file, other.key_file)), "this key does not belong"
    if how == "missing":
        return files(Pair(good.certificate, good.key, folder / "nowhere.crt", good.key_file)), "nowhere.crt: No such file"
    if how == "no pem":
        (folder / "bad.crt").write_text("hello")
        return files(Pair(good.certificate, good.key, folder / "bad.crt", good.key_file)), "bad.crt: no certificate in PEM"
    if how == "not in step":
        return files(good).replace(str(good.file), f"{good.file} {good.file}"), "they are in step"
    if how == "no ca":
        return files(good) + "\n          SET ssl_verify_mode = 1", "needs SET ssl_ca_path"
    if how == "weak":
        return files(good) + "\n          SET ssl_cipher_list = RC4-SHA:NULL-SHA256", "no cipher of it is safe"
    assert how == "nothing"
    return "\n          SET enable_ssl = on", "needs SET ssl_cert_file"


@pytest.mark.parametrize("how", ["expired", "not yet", "another key", "missing", "no pem", "not in step", "no ca", "weak", "nothing"])
def test_what_is_wrong_is_said_at_enable_and_nothing_is_enabled(how: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal("CREATE POOL nothing")
        settings, said = broken(Authority(lab.folder), lab.folder, how)
        for statement in ("CREATE SERVICE site", "SET role = web_server", "SET listen = 127.0.0.1:0", *settings.strip().split("\n")):
            assert await pbal.say(statement.strip()) == "OK"
        answer = await pbal.say("ENABLE site")
        assert answer.startswith("ERROR: ") and said in answer, answer
        assert not pbal.world.service("site").enabled

    run()


@lab
async def test_what_is_odd_is_warned_of(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(lab.folder)
    pair = authority.certify("a.test", ends=5)
    pair.key_file.chmod(0o644)
    pbal = await site(lab, pair, more="SET ssl_cipher_list = ALL:!LOW:!EXP")
    of_the_file = "\n".join(warning.message for warning in pbal.server.interpreter.warnings)
    assert await pbal.say("RELOAD CERTIFICATES") == "OK"
    for words in ("expires in 4 days", "can be read or written by every user", "left out, since insecure"):
        assert of_the_file.count(words) == caplog.text.count(words) == 1


# --- polls and consoles -----------------------------------------------------------------------------------------------


@lab
async def test_a_poll_is_parked_and_answered_and_a_message_not_taken_whole_is_kept(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pair = authority.certify("a.test")
    pbal = await lab.pbal(f"""
        LOAD poll
        CREATE SERVICE chat
          SET role             = web_server
          SET listen           = 127.0.0.1:0
          SET docroot          = {lab.folder}
          SET plugins          = poll
          SET poll_uri         = ^/poll/(?P<queue>\\w+)$
          SET poll_publish_uri = ^/publish/(?P<queue>\\w+)$
          SET poll_max_queue   = 8m
          {files(pair)}
        ENABLE chat
    """)
    reader, writer = await secure(pbal, "chat", trusting(authority))
    writer.write(get("/poll/a"))
    await pbal.until("poll_parked", 1)
    other = await secure(pbal, "chat", trusting(authority))
    other[1].write(get("/publish/a", "Content-Length: 5", method="POST") + b"hello")
    assert b"hello" in (await read_response(reader)).body
    assert (await read_response(other[0])).status < 300

    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(pbal.server.address("chat"))
    loop = asyncio.get_running_loop()
    context = trusting(authority)
    sock = await loop.run_in_executor(None, lambda: context.wrap_socket(raw, server_hostname="a.test"))
    sock.sendall(get("/poll/big"))
    await pbal.until("poll_parked", 1)
    body = b"m" * 6_000_000
    other[1].write(get("/publish/big", f"Content-Length: {len(body)}", method="POST") + body)
    assert (await read_response(other[0])).status < 300
    await pbal.until("poll_parked", 0)
    raw_fd = socket.socket(fileno=sock.detach())
    raw_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    raw_fd.close()
    reader, writer = await secure(pbal, "chat", trusting(authority))
    writer.write(get("/poll/big"))
    assert body in (await read_response(reader)).body


@lab
async def test_a_console_under_tls(lab: Lab) -> None:
    authority = Authority(lab.folder)
    pbal = await lab.pbal(f"""
        CREATE SERVICE console
          SET role   = management
          SET listen = 127.0.0.1:0
          {files(authority.certify("a.test"))}
        ENABLE console
    """)
    reader, writer = await secure(pbal, "console", trusting(authority))
    writer.write(b"show certificates\nquit\n")
    assert b"console 89 " in await reader.read()


# --- TLS to nodes -----------------------------------------------------------------------------------------------------


@lab
async def test_nodes_under_tls_are_verified_kept_and_resumed(lab: Lab) -> None:
    authority = Authority(lab.folder)
    handshakes: list[bool] = []
    node = await secure_origin(lab, authority.certify("127.0.0.1"), handshakes)
    pbal = await to_nodes(lab, node, f"SET ssl_backend_ca = {authority.file}")
    reader, writer = await pbal.connect("site")
    for path in ("/", "/", "/close", "/", "/"):
        writer.write(get(path))
        assert (await read_response(reader)).status == 200
    assert handshakes == [False, True]
    assert pbal.counts["backend_reuses"] == 3


@pytest.mark.parametrize(
    ("certified", "more", "status"),
    [
        ("127.0.0.1", "", 502),
        ("elsewhere.test", "SET ssl_backend_ca = {ca}", 502),
        ("elsewhere.test", "SET ssl_backend_ca = {ca}\n          SET ssl_backend_name = elsewhere.test", 200),
        ("elsewhere.test", "SET ssl_backend_verify = off", 200),
    ],
)
def test_a_node_that_is_not_who_it_should_be_is_502(certified: str, more: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        node = await secure_origin(lab, authority.certify(certified), [])
        pbal = await to_nodes(lab, node, more.format(ca=authority.file))
        assert (await pbal.ask("site", get("/"))).status == status
        assert ("certificate verify failed" in caplog.text) == (status == 502)

    run()


@lab
async def test_what_nodes_are_trusted_by_is_checked_when_it_is_set(lab: Lab) -> None:
    pbal = await to_nodes(lab, "127.0.0.1:1", "")
    answer = await pbal.say(f"SET site.ssl_backend_ca = {lab.folder}/nowhere.pem")
    assert answer.startswith("ERROR: ") and "No such file" in answer
    assert "nowhere" not in await pbal.say("dumpconfig")
