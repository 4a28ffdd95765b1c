"""Whom pbal believes: a client's forwarding fields, however they are spelt, and what follows from them."""

import asyncio
import gc
import tracemalloc

import pytest
from lab import Lab, Pbal, lab, read_response, until

from pbal.api import Networks

FORWARDING = [
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Ssl",
    "X-Forwarded-Scheme", "X-Forwarded-Server", "X-Real-IP", "X-Client-IP", "True-Client-IP", "Forwarded",
    "Client-IP", "X-Cluster-Client-IP", "X-Forwarded", "Forwarded-For", "X-Forwarded-Protocol",
]  # fmt: skip
EVIL = "6.6.6.6"


def get(path: str = "/", *fields: str, method: str = "GET", body: bytes = b"", host: str = "h") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, *length, "", ""]).encode() + body


def spellings(name: str) -> list[str]:
    """A name, and others that CGI reads as the same."""
    found = {name, name.upper(), name.lower(), name.replace("-", "_"), name.lower().replace("-", "_")}
    place = name.find("-")
    while place >= 0:
        found.add(name[:place] + "_" + name[place + 1 :])
        place = name.find("-", place + 1)
    return sorted(found)


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend that answers with the head it got."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


async def site(lab: Lab, *more: str, front: tuple[str, ...] = ()) -> Pbal:
    """A proxy `site`, and a selector `front` before it, which has VPATH ^/admin."""
    origin = await lab.origin(app)
    (lab.folder / "admin").write_text("the admin's")
    return await lab.pbal(f"""
        LOAD vpaths
        LOAD vhosts
        CREATE POOL app
          POOL app ADD {origin.address}
        CREATE SERVICE site
          SET role   = reverse_proxy
          SET listen = 127.0.0.1:0
          SET pool   = app
          {" ".join(more)}
        ENABLE site
        CREATE SERVICE files
          SET role    = web_server
          SET docroot = {lab.folder}
        CREATE SERVICE front
          SET role            = selector
          SET listen          = 127.0.0.1:0
          SET plugins         = vhosts vpaths
          SET default_service = site
          VPATH ^/admin       = files
          VHOST other.example = files
          {" ".join(front)}
        ENABLE front
    """)


async def seen(pbal: Pbal, *fields: str, service: str = "site", target: str = "/") -> dict[str, list[str]]:
    """What the application gets, by names as CGI reads them."""
    answer = await pbal.ask(service, get(target, *fields))
    assert answer.status == 200
    found: dict[str, list[str]] = {}
    for line in answer.body.decode("latin-1").split("\r\n")[1:-2]:
        name, _, value = line.partition(":")
        found.setdefault(name.lower().replace("_", "-"), []).append(value.strip())
    return found


# -- forged names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["site", "front"])
@pytest.mark.parametrize("name", FORWARDING)
def test_no_spelling_of_a_forwarding_name_passes_from_an_untrusted_client(service: str, name: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab)
        for spelt in spellings(name):
            for fields in ([f"{spelt}: {EVIL}"], [f"{spelt}: {EVIL}", f"{name}: {EVIL}"], [f"{spelt}: {EVIL}", f"Connection: {name}"]):
                found = await seen(pbal, *fields, "X-Other_Name: kept", service=service)
                assert EVIL not in str(found), fields
                assert found["x-forwarded-for"] == ["127.0.0.1"] and found["x-other-name"] == ["kept"]

    run()


@pytest.mark.parametrize("trust", ["", "SET trusted_upstream_proxies = 127.0.0.1", "SET always_trusted = on"])
@lab
async def test_the_proxy_field_goes_to_no_node_whoever_sends_it(lab: Lab, trust: str) -> None:
    pbal = await site(lab, trust)
    for service in ("site", "front"):
        for name in ("Proxy", "PROXY", "proxy"):
            for fields in ([f"{name}: {EVIL}"], [f"{name}: {EVIL}", "X_Other: 1"], [f"{name}: a", f"{name}: {EVIL}"]):
                found = await seen(pbal, *fields, service=service)
                assert "proxy" not in found and EVIL not in str(found)
    assert await pbal.say("HEADER site INSERT Proxy: ours") == "OK"
    assert (await seen(pbal, f"Proxy: {EVIL}"))["proxy"] == ["ours"]


@pytest.mark.parametrize("name", ["Content_Length", "CONTENT_LENGTH", "Transfer_Encoding", "Keep_Alive", "Proxy_Connection"])
def test_names_that_frame_a_message_pass_under_no_spelling(name: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab)
        assert name.lower().replace("_", "-") not in await seen(pbal, f"{name}: 5")
        answer = await pbal.ask("site", get("/", f"{name}: 1", method="POST", body=b"abc"))
        assert name.encode() not in answer.body and b"Content-Length: 3\r\n" in answer.body

    run()


@pytest.mark.parametrize("name", FORWARDING[1:])
def test_a_trusted_peer_says_what_it_says_by_the_name_itself(name: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, "SET trusted_upstream_proxies = 127.0.0.0/8")
        underscored = [spelt for spelt in spellings(name) if "_" in spelt]
        found = await seen(pbal, f"{name}: good", *(f"{spelt}: {EVIL}" for spelt in underscored))
        assert found[name.lower()] == ["good"]
        if underscored:
            assert name.lower() not in await seen(pbal, *(f"{spelt}: {EVIL}" for spelt in underscored))

    run()


@pytest.mark.parametrize("service", ["site", "front"])
def test_names_with_underscores_can_be_dropped_or_refused_altogether(service: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab)
        fields = ("X_Any: 1", "x-any_other: 2", "X-Kept: 3")
        found = await seen(pbal, *fields, service=service)
        assert (found["x-any"], found["x-any-other"]) == (["1"], ["2"])
        assert await pbal.say(f"SET {service}.header_underscores = drop") == "OK"
        found = await seen(pbal, *fields, service=service)
        assert "x-any" not in found and "x-any-other" not in found and found["x-kept"] == ["3"]
        assert await pbal.say(f"SET {service}.header_underscores = refuse") == "OK"
        bad = pbal.counts["bad_requests"]
        assert (await pbal.ask(service, get("/", *fields))).status == 400
        assert pbal.counts["bad_requests"] == bad + 1
        assert "x-kept" in await seen(pbal, "X-Kept: 3", service=service)
        assert (await pbal.ask(service, get("/admin" if service == "front" else "/", "X-Kept: a_b"))).status == 200
        assert (await pbal.say(f"SET {service}.header_underscores = sometimes")).startswith("ERROR: ")

    run()


@pytest.mark.parametrize("rule", ["drop", "refuse"])
def test_a_name_with_underscores_that_an_operator_inserts_is_not_the_clients(rule: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, f"SET header_underscores = {rule}", front=("HEADER front INSERT x_site: blue",))
        assert (await seen(pbal, service="front"))["x-site"] == ["blue"]
        assert (await pbal.ask("front", get("/", "X_Any: 1"))).status == (200 if rule == "drop" else 400)

    run()


# -- addresses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", ["SET always_trusted = on", "SET trusted_upstream_proxies = 10.0.0.0/8 127.0.0.1"])
@pytest.mark.parametrize("service", ["site", "front"])
def test_what_a_trusted_peer_says_is_handed_on_with_its_own_address(trust: str, service: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab, trust)
        found = await seen(pbal, "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 10.0.0.9", "X_Forwarded_For: 7.7.7.7", service=service)
        assert found["x-forwarded-for"] == ["6.6.6.6, 10.0.0.9, 127.0.0.1"]

    run()


@lab
async def test_trust_is_the_service_s_own_or_that_of_the_one_that_accepted(lab: Lab) -> None:
    pbal = await site(lab, front=("SET trusted_upstream_proxies = 127.0.0.1",))
    field = f"X-Forwarded-For: {EVIL}"
    assert (await seen(pbal, field, service="front"))["x-forwarded-for"] == [f"{EVIL}, 127.0.0.1"]
    assert (await seen(pbal, field))["x-forwarded-for"] == ["127.0.0.1"]
    assert await pbal.say("SET front.trusted_upstream_proxies = 10.0.0.0/8") == "OK"
    assert (await seen(pbal, field, service="front"))["x-forwarded-for"] == ["127.0.0.1"]


CHAT = """
    LOAD poll
    CREATE SERVICE chat
      SET role                     = web_server
      SET listen                   = 127.0.0.1:0
      SET plugins                  = poll
      SET poll_uri                 = ^/poll/(?P<queue>[^/]+)$
      SET poll_publish_uri         = ^/publish/(?P<queue>[^/]+)$
      SET poll_publish_from        = 6.6.6.0/24
      {trust}
    ENABLE chat
    CREATE SERVICE front
      SET role            = selector
      SET listen          = 127.0.0.1:0
      SET default_service = chat
      {front}
    ENABLE front
"""
NETWORK = "SET trusted_upstream_proxies = 127.0.0.1 10.0.0.0/8"
CHAINS = [  # X-Forwarded-For, the client it names through 127.0.0.1 and 10.0.0.0/8, the one it names where all are believed
    ("6.6.6.6", "6.6.6.6", "6.6.6.6"),
    ("6.6.6.6, 10.1.1.1", "6.6.6.6", "6.6.6.6"),
    ("6.6.6.6, 7.7.7.7", "7.7.7.7", "6.6.6.6"),
    ("6.6.6.6, 7.7.7.7, 10.1.1.1", "7.7.7.7", "6.6.6.6"),
    ("10.2.2.2, 10.1.1.1", "10.2.2.2", "10.2.2.2"),
    ("6.6.6.6, unknown, 10.1.1.1", "10.1.1.1", "10.1.1.1"),
    ("6.6.6.6,10.1.1.1:4711", "6.6.6.6", "6.6.6.6"),
    ("  6.6.6.6  ,\t10.1.1.1 ", "6.6.6.6", "6.6.6.6"),
    ("::ffff:6.6.6.6, ::ffff:10.1.1.1", "6.6.6.6", "6.6.6.6"),
    ("[2001:db8::1]:443", "2001:db8::1", "2001:db8::1"),
    ("6.6.6.6, fe80::1%a b", "127.0.0.1", "127.0.0.1"),
    ("", "127.0.0.1", "127.0.0.1"),
    ("6.6.6.6;drop", "127.0.0.1", "127.0.0.1"),
    ("6.6.6.6, ", "127.0.0.1", "127.0.0.1"),
    ("6.6.6.6" + ", 10.1.1.1" * 100, "10.1.1.1", "10.1.1.1"),
]


@pytest.mark.parametrize(("trust", "column"), [(NETWORK, 1), ("SET always_trusted = on", 2), ("", 0)])
@pytest.mark.parametrize("through", ["chat", "front", "front trusts"])
def test_rights_to_publish_and_the_list_of_parked_polls_go_by_the_client_behind_trusted_proxies(
    trust: str, column: int, through: str
) -> None:
    @lab
    async def run(lab: Lab) -> None:
        ours, theirs = (trust, "") if through != "front trusts" else ("", trust)
        pbal = await lab.pbal(CHAT.format(trust=ours, front=theirs))
        service = "chat" if through == "chat" else "front"
        for chain in CHAINS:
            address = chain[column] if column else "127.0.0.1"
            field = f"X-Forwarded-For: {chain[0]}"
            answer = await pbal.ask(service, get("/publish/a", field, method="POST", body=b"x"))
            assert answer.status == (202 if address == "6.6.6.6" else 403), chain
        assert await pbal.say("SET chat.poll_publish_from = 127.0.0.1") == "OK"
        if column:
            assert (await pbal.ask(service, get("/poll/a"))).body.startswith(b"x\n")
        for number, chain in enumerate(CHAINS, 1):
            address = chain[column] if column else "127.0.0.1"
            _, writer = await pbal.connect(service)
            writer.write(get("/poll/b", f"X-Forwarded-For: {chain[0]}"))
            await pbal.until("poll_parked_ever", number)
            host, port = writer.get_extra_info("sockname")
            parked = await pbal.say("show parked")
            client = parked.split("\n")[0].split(" ")[3]
            assert client == (f"{host}:{port}" if address == "127.0.0.1" else address), (chain, parked)
            writer.close()
            await pbal.until("poll_parked", 0)

    run()


@lab
async def test_who_is_parked_is_still_known_after_a_reload(lab: Lab) -> None:
    pbal = await lab.pbal(CHAT.format(trust=NETWORK, front=""))
    _, writer = await pbal.connect("chat")
    writer.write(get("/poll/b", "X-Forwarded-For: 6.6.6.6"))
    await pbal.until("poll_parked", 1)
    for _ in range(2):
        assert await pbal.say("RELOAD poll") == "OK"
        assert (await pbal.say("show parked")).split(" ")[3] == "6.6.6.6"
        assert '"client": "6.6.6.6"' in await pbal.say("show parked AS JSON")


@lab
async def test_a_change_of_trust_holds_for_the_next_request_of_a_kept_connection(lab: Lab) -> None:
    pbal = await lab.pbal(CHAT.format(trust="", front=""))
    request = get("/publish/a", "X-Forwarded-For: 6.6.6.6", method="POST", body=b"x")
    for statement, status in (
        ("SET chat.always_trusted = on", 202), ("SET chat.always_trusted = off", 403),
        ("SET chat.trusted_upstream_proxies = 127.0.0.1", 202), ("SET chat.trusted_upstream_proxies = 10.0.0.0/8", 403),
        ("SET chat.poll_publish_from = 127.0.0.0/8", 202), ("SET chat.poll_publish_from = 6.6.6.0/24", 403),
    ):  # fmt: skip
        assert await pbal.say(statement) == "OK"
        assert (await pbal.ask("chat", request)).status == status, statement


def live(kind: type) -> int:
    return sum(1 for each in gc.get_objects() if type(each) is kind)


@pytest.mark.slow
@lab
async def test_what_is_remembered_of_trust_does_not_grow_with_reloads_and_changes(lab: Lab) -> None:
    pbal = await lab.pbal(CHAT.format(trust=NETWORK, front=""))
    request = get("/publish/a", "X-Forwarded-For: 6.6.6.6", method="POST", body=b"x")
    assert (await pbal.ask("chat", request)).status == 202
    gc.collect()
    before = live(Networks)
    for number in range(12):
        assert await pbal.say("RELOAD poll") == "OK"
        assert await pbal.say(f"SET chat.trusted_upstream_proxies = 127.0.0.1 10.0.{number}.0/24") == "OK"
        assert await pbal.say(f"SET chat.poll_publish_from = 6.6.6.0/24 7.7.{number}.0/24") == "OK"
        assert (await pbal.ask("chat", request)).status == 202
    gc.collect()
    assert live(Networks) == before


@pytest.mark.slow
def test_what_is_remembered_of_addresses_is_bounded() -> None:
    from pbal.schema.types import NETWORKS

    networks = Networks(NETWORKS.parse("10.0.0.0/8"))

    def ask(numbers: range) -> None:
        for number in numbers:
            assert (b"10.%d.%d.%d" % (number >> 16, number >> 8 & 255, number & 255)) in networks
            assert (b"11.%d.%d.%d" % (number >> 16, number >> 8 & 255, number & 255)) not in networks

    ask(range(5000))
    tracemalloc.start()
    try:
        ask(range(5000, 10000))
        one = tracemalloc.get_traced_memory()[1]
        ask(range(10000, 40000))
        assert tracemalloc.get_traced_memory()[1] < 2 * one
    finally:
        tracemalloc.stop()


# -- what a selector looks at ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "admin"),
    [
        ("/admin", True), ("http://host/admin", True), ("HTTP://HOST:80/admin?x", True), ("https://h/admin/", True), ("/admin/x?y", True),
        ("http://h", False), ("http://h?/admin", False), ("http://h/x/admin", False),
        ("/x?/admin", False), ("http://h/?http://h/admin", False),
        ("/%61dmin", True), ("/%61%44min", False), ("//admin", True), ("/./admin", True), ("/%2e/admin", True), ("/x/../admin", True),
        ("/x/%2E%2e/admin", True), ("/../admin", True), ("///x//..//%2fadmin", True), ("/%2Fadmin", True), ("http://h//%61dmin", True),
        ("/admin/..", False), ("/admin/../x", False), ("/%2561dmin", False), ("/%admin", False), ("/x%3F/../admin", True),
        ("/x?/../admin", False), ("/admin%00", True), ("/.admin", False), ("/..admin", False), ("/x/.", False),
        ("/x/..;/admin", True), ("/x/..;a=b/admin", True), ("/.;/admin", True), ("/admin/..;", False), ("/x/;../admin", False),
    ],
)  # fmt: skip
def test_a_path_rule_is_about_the_path_in_whatever_form_it_is_asked_for(target: str, admin: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab)
        answer = await pbal.ask("front", get(target))
        assert (b"HTTP/1.1\r\n" not in answer.body) is admin, answer.body
        if target.startswith("/") and not admin:
            assert answer.body.startswith(f"GET {target} HTTP/1.1\r\n".encode())  # as it was sent

    run()


@pytest.mark.parametrize(
    ("target", "host", "files"),
    [
        ("/admin", "other.example", True), ("http://other.example/admin", "h", True), ("http://OTHER.example.:80/admin", "h", True),
        ("http://h/x", "other.example", False), ("/x", "h", False),
    ],
)  # fmt: skip
def test_a_host_rule_is_about_the_host_that_was_meant(target: str, host: str, files: bool) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await site(lab)
        answer = await pbal.ask("front", get(target, host=host))
        assert (b"HTTP/1.1\r\n" not in answer.body) is files
        if not files:
            said = "h"
            assert f"Host: {said}\r\n".encode() in answer.body

    run()


@lab
async def test_a_host_that_a_selector_inserts_is_what_the_next_selector_looks_at(lab: Lab) -> None:
    pbal = await site(lab, front=("HEADER front INSERT Host: inner.example",))
    for statement in (
        "CREATE SERVICE second", "SET role = selector", "SET plugins = vhosts", "VHOST second inner.example = site", "ENABLE second",
        "SET front.default_service = second",
    ):  # fmt: skip
        assert await pbal.say(statement) == "OK", statement
    for target in ("/x", "http://elsewhere/x"):
        answer = await pbal.ask("front", get(target))
        assert answer.status == 200 and answer.body.count(b"Host: inner.example\r\n") == 1 and answer.body.lower().count(b"\nhost:") == 1


@lab
async def test_the_address_of_a_client_is_not_taken_from_a_request_before(lab: Lab) -> None:
    pbal = await lab.pbal(CHAT.format(trust=NETWORK, front=""))
    reader, writer = await pbal.connect("chat")
    await pbal.say("SET chat.poll_publish_from = 6.6.6.6")
    for address in ("6.6.6.6", "7.7.7.7", "", "6.6.6.6"):
        fields = [f"X-Forwarded-For: {address}"] if address else []
        writer.write(get("/poll/q", *fields))
        await until(lambda: pbal.counts["poll_parked"], "a parked poll")
        client = (await pbal.say("show parked")).split(" ")[3]
        assert client == address or (not address and client.startswith("127.0.0.1:"))
        await pbal.ask("chat", get("/publish/q", "X-Forwarded-For: 6.6.6.6", method="POST", body=b"x"))
        assert (await read_response(reader)).body == b"x\n"
