"""cors, security_headers and sticky: what answers tell browsers."""

import asyncio

from lab import Lab, Pbal, Response, lab
from scripted import proxy

ORIGIN = "https://a.example"


async def _app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says what applications say, and a little too much."""
    fields = "Access-Control-Allow-Origin: *\r\nX-Powered-By: App/1\r\nx-frame-options: ALLOW\r\nVary: Accept\r\n"
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}\r\nok".encode())


async def _pbal(lab: Lab, plugin: str, *more: str, pool: str = "") -> Pbal:
    origin = await lab.origin(_app)
    return await lab.pbal(f"LOAD {plugin}\n" + proxy(origin.address, more=";".join([f"SET plugins = {plugin}", *more]), pool=pool))


async def _ask(pbal: Pbal, *fields: str, method: str = "GET") -> Response:
    return await pbal.ask("web", "\r\n".join([f"{method} / HTTP/1.1", "Host: h", *fields, "", ""]).encode())


def _said(response: Response, name: str) -> list[str]:
    """Every value of a field."""
    lines = (line.partition(b": ") for line in response.head.split(b"\r\n"))
    return [value.decode() for said, _, value in lines if said.lower() == name.encode()]


# -- cors ------------------------------------------------------------------------------------------------------------


@lab
async def test_a_preflight_is_answered_and_no_node_asked(lab: Lab) -> None:
    pbal = await _pbal(lab, "cors", f"SET cors_allow_origin = {ORIGIN} https://b.example", "SET cors_credentials = on")
    asks = ("Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-a, content-type")
    good = await _ask(pbal, f"Origin: {ORIGIN}", *asks, method="OPTIONS")
    assert (good.status, _said(good, "access-control-allow-origin"), _said(good, "vary")) == (204, [ORIGIN], ["Origin"])
    assert good.fields["access-control-allow-credentials"] == "true" and good.fields["access-control-max-age"] == "600"
    assert good.fields["access-control-allow-headers"] == "x-a, content-type"
    assert good.fields["access-control-allow-methods"] == "GET, HEAD, POST"
    other = await _ask(pbal, "Origin: https://evil.example", *asks, method="OPTIONS")
    assert (other.status, _said(other, "access-control-allow-origin"), _said(other, "vary")) == (403, [], ["Origin", "Accept"])
    odd = await _ask(pbal, f"Origin: {ORIGIN}", asks[0], "Access-Control-Request-Headers: a b", method="OPTIONS")
    assert odd.status == 204 and "access-control-allow-headers" not in odd.fields
    assert pbal.counts["backend_connects"] == 0
    assert (await _ask(pbal, f"Origin: {ORIGIN}", method="OPTIONS")).body == b"ok", "no preflight"


@lab
async def test_an_answer_names_an_origin_that_is_allowed_in_place_of_what_the_node_says(lab: Lab) -> None:
    pbal = await _pbal(lab, "cors", f"SET cors_allow_origin = {ORIGIN}", "SET cors_expose_headers = ETag X-Total")
    good = await _ask(pbal, f"Origin: {ORIGIN}")
    assert (good.body, _said(good, "access-control-allow-origin"), _said(good, "vary")) == (b"ok", [ORIGIN], ["Accept", "Origin"])
    assert good.fields["access-control-expose-headers"] == "ETag, X-Total" and "access-control-allow-credentials" not in good.fields
    for other in (await _ask(pbal), await _ask(pbal, "Origin: https://evil.example"), await _ask(pbal, "Origin: null")):
        assert (other.body, _said(other, "access-control-allow-origin"), _said(other, "vary")) == (b"ok", [], ["Accept", "Origin"])
    assert await pbal.say("SET web.cors_allow_origin = *") == "OK"
    assert await pbal.say("RELOAD cors") == "OK"
    every = await _ask(pbal, "Origin: https://evil.example")
    assert (_said(every, "access-control-allow-origin"), _said(every, "vary")) == (["*"], ["Accept"])
    assert await pbal.say("SET web.cors_allow_origin = off") == "OK"
    assert _said(await _ask(pbal), "access-control-allow-origin") == ["*"], "the node's own"


@lab
async def test_what_browsers_would_not_take_is_refused(lab: Lab) -> None:
    pbal = await _pbal(lab, "cors", "SET cors_allow_origin = *")
    assert "browsers take no cookies for *" in await pbal.say("SET web.cors_credentials = on")
    for text in ("https://A.example", "https://a.example/", "a.example", "https://a.example:port"):
        assert "expected an origin such as https://www.example.com" in await pbal.say(f"SET web.cors_allow_origin = {text}")
    assert "expected a name" in await pbal.say("SET web.cors_allow_methods = GET P(T")
    assert pbal.world.service("web")["cors_allow_origin"] == ("*",)


# -- security_headers ------------------------------------------------------------------------------------------------


@lab
async def test_answers_tell_browsers_what_they_must_not_do_and_a_node_knows_better(lab: Lab) -> None:
    more = "SET security_headers_content = default-src 'self'", "SET security_headers_remove = X-POWERED-BY"
    pbal = await _pbal(lab, "security_headers", *more, "SET security_headers_opener = same-origin")
    said = await _ask(pbal)
    assert (said.fields["x-content-type-options"], said.fields["referrer-policy"]) == ("nosniff", "strict-origin-when-cross-origin")
    assert (said.fields["content-security-policy"], said.fields["cross-origin-opener-policy"]) == ("default-src 'self'", "same-origin")
    assert _said(said, "x-frame-options") == ["ALLOW"] and "x-powered-by" not in said.fields
    assert "permissions-policy" not in said.fields and "cross-origin-resource-policy" not in said.fields
    for statement in ("SET web.security_headers_content = off", "UNSET web.security_headers_remove", "RELOAD security_headers"):
        assert await pbal.say(statement) == "OK"
    said = await _ask(pbal)
    assert "content-security-policy" not in said.fields and said.fields["x-powered-by"] == "App/1"
    assert said.fields["cross-origin-opener-policy"] == "same-origin"


@lab
async def test_values_that_are_none_are_refused(lab: Lab) -> None:
    pbal = await _pbal(lab, "security_headers")
    assert "expected visible ASCII characters" in await pbal.say("SET web.security_headers_content = default-src é")
    assert "expected" in await pbal.say("SET web.security_headers_frames = denny")
    assert "expected names of fields such as X-Powered-By, found 'X:'" in await pbal.say("SET web.security_headers_remove = X:")


# -- sticky ----------------------------------------------------------------------------------------------------------


@lab
async def test_sticky_sees_to_it_that_a_pool_binds_clients(lab: Lab) -> None:
    pbal = await _pbal(lab, "sticky", pool="SET sticky = node")
    assert (await _ask(pbal)).fields["set-cookie"].startswith("node=")
    assert await pbal.say("RELOAD sticky") == "OK"
    for statement in ("SET web.plugins = none", "SET app.sticky = off"):
        assert await pbal.say(statement) == "OK"
    assert "no pool of it binds clients to nodes: SET app.sticky = NAME" in await pbal.say("SET web.plugins = sticky")
    assert "set-cookie" not in (await _ask(pbal)).fields
