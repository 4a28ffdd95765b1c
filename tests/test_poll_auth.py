"""Tokens, grants and limits as values: what is good, what is not, and that nothing that a stranger sends raises or opens a door."""

import base64
import hashlib
import hmac
import json
import os
import warnings
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pbal.api import Buckets, ConfigError, ManualClock, holder
from pbal.plugins.poll.grants import AUTH, TOKEN_SOURCES, Action, Admitted, Grant, Patterns, Refusal, decide
from pbal.plugins.poll.settings import TUNABLES
from pbal.plugins.poll.tokens import LEEWAY, BadKey, BadToken, KeyFile, grant_of, keys_in, read_keys

NOW = 1_700_000_000.0
SECRET = b"a secret of thirty-two octets, or more"


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public(key: Any, encoding: Encoding = Encoding.PEM) -> bytes:
    made: bytes = key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    return made


def private(key: Any) -> bytes:
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


def claims(**more: object) -> dict[str, Any]:
    made: dict[str, Any] = {"exp": NOW + 60, "poll": ["room-*", "alice"], "publish": ["room-1"], **more}
    return {name: value for name, value in made.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **more: object) -> bytes:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**more), key, algorithm, headers=headers).encode()


def coded(value: object) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed(header: object, payload: object, secret: bytes = SECRET) -> bytes:
    """A token that no library would make: any header, any payload, a good HMAC."""
    what = coded(header) + b"." + coded(payload)
    return what + b"." + coded(hmac.digest(secret, what, hashlib.sha256))


def grant(content: bytes, made: bytes, audience: str | None = None, epoch: float = NOW) -> Grant:
    return grant_of(keys_in(content), made, audience, epoch)


def refused(content: bytes, made: bytes, audience: str | None = None, epoch: float = NOW) -> str:
    with pytest.raises(BadToken) as raised:
        grant(content, made, audience, epoch)
    return str(raised.value)


# -- what is good ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "algorithm"), [(rsa_key(), "RS256"), (ec_key(), "ES256"), (ed_key(), "EdDSA")], ids=["rsa", "ec", "ed25519"]
)
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_the_kind_of_the_key_says_the_algorithm(key: Any, algorithm: str, encoding: Encoding) -> None:
    content = public(key, encoding)
    made = grant(content, token(key, algorithm))
    assert made.may_poll(b"room-7") and made.may_poll(b"alice") and not made.may_poll(b"bob")
    assert made.may_publish(b"room-1") and not made.may_publish(b"room-2") and not made.may_publish(b"alice")
    assert made.expires == NOW + 60 + LEEWAY
    if algorithm == "RS256":
        for other in ("RS384", "PS256"):
            assert "another way" in refused(content, token(key, other))
    assert refused(content, token()) == "it is signed in another way than the key is for"


def test_a_certificate_is_its_key() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    builder = x509.CertificateBuilder(name, name, ec_key().public_key(), 1)
    made = builder.not_valid_before(datetime(2020, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
    certificate = made.sign(ec_key(), hashes.SHA256())
    for encoding in (Encoding.PEM, Encoding.DER):
        assert grant(certificate.public_bytes(encoding), token(ec_key(), "ES256")).may_poll(b"alice")


def test_a_secret_is_a_line() -> None:
    assert grant(SECRET + b"\n", token()).may_poll(b"alice")
    assert grant(SECRET, token()).may_poll(b"alice")
    assert "signature" in refused(SECRET + b"x", token())


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def jwk(key: Any, **more: object) -> dict[str, Any]:
    kinds: dict[type, Any] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    kind = next(kind for of, kind in kinds.items() if isinstance(key, of))
    return {**kind.to_jwk(key.public_key(), as_dict=True), **more}


def test_of_several_keys_the_token_names_one_and_the_key_still_says_the_algorithm() -> None:
    content = jwks(
        jwk(rsa_key(), kid="r", use="sig", alg="RS256"),
        jwk(ec_key(), kid="e"),
        jwk(ed_key(), kid="d"),
        {"kty": "oct", "kid": "o", "k": coded(SECRET).decode()},
        jwk(rsa_key(), kid="for something else", use="enc"),
        jwk(rsa_key(), kid="another algorithm", alg="RSA-OAEP"),
        {"kty": "unheard of", "kid": "u"},
    )
    for key, algorithm, kid in ((rsa_key(), "RS256", "r"), (ec_key(), "ES256", "e"), (ed_key(), "EdDSA", "d"), (SECRET, "HS256", "o")):
        assert grant(content, token(key, algorithm, kid)).may_poll(b"alice")
        assert "names no key" in refused(content, token(key, algorithm))
        assert "names no key" in refused(content, token(key, algorithm, "for something else"))
    assert "another way" in refused(content, token(SECRET, "HS256", "r"))
    assert "another way" in refused(content, token(ec_key(), "ES256", "r"))
    alone = jwk(ec_key(), kid="e")
    for one in (json.dumps(alone).encode(), jwks(alone)):
        assert grant(one, token(ec_key(), "ES256")).may_poll(b"alice")


# -- what is not -------------------------------------------------------------------------------------------------


def test_time() -> None:
    good = token(exp=NOW + 60, nbf=NOW - 60)
    assert grant(SECRET, good).may_poll(b"alice")
    assert grant(SECRET, good, epoch=NOW + 60 + LEEWAY - 0.1).may_poll(b"alice")
    assert refused(SECRET, good, epoch=NOW + 60 + LEEWAY) == "it has expired"
    assert grant(SECRET, good, epoch=NOW - 60 - LEEWAY).may_poll(b"alice")
    assert refused(SECRET, good, epoch=NOW - 61 - LEEWAY) == "it is not good yet"
    assert refused(SECRET, token(exp=None)) == "it has no exp"
    odd: object
    for odd in ("soon", "1700000060", True, [], {}, -1, 1e12, 10**400, float("inf"), float("nan")):
        assert refused(SECRET, signed({"alg": "HS256"}, claims(exp=odd))) == "its exp is not a time in seconds"
        assert refused(SECRET, signed({"alg": "HS256"}, claims(nbf=odd))) == "its nbf is not a time in seconds"


def test_audience() -> None:
    for aud in ("chat", ["other", "chat"]):
        assert grant(SECRET, token(aud=aud), "chat").may_poll(b"alice")
        assert "audience" in refused(SECRET, token(aud=aud))
        assert "audience" in refused(SECRET, token(aud=aud), "cha")
    assert "audience" in refused(SECRET, token(), "chat")
    assert "audience" in refused(SECRET, signed({"alg": "HS256"}, claims(aud={"chat": 1})), "chat")


def test_no_algorithm_but_the_keys_own() -> None:
    for content in (SECRET, public(rsa_key()), jwks(jwk(rsa_key(), kid="r"))):
        for alg in ("none", "None", "NONE", "", None, 0, [], ["HS256"], {"HS256": 1}, "HS512", "hs256"):
            header = {"alg": alg, "kid": "r"}
            for made in (coded(header) + b"." + coded(claims()) + b".", signed(header, claims())):
                refused(content, made)
        refused(content, coded({}) + b"." + coded(claims()) + b".")


def test_the_text_of_a_public_key_is_no_secret() -> None:
    """Algorithm confusion: an HMAC made with the public key, in each of its forms, under HS256."""
    key = rsa_key()
    for content in (public(key), public(key, Encoding.DER), jwks(jwk(key, kid="r"))):
        for secret in (content, content.strip(), public(key), public(key).strip(), public(key, Encoding.DER)):
            for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "r"}, {"alg": "RS256", "kid": "r"}):
                refused(content, signed(header, claims(), secret))


def test_a_key_in_the_token_is_not_looked_at() -> None:
    mine = rsa.generate_private_key(65537, 2048)
    for more in ({"jwk": jwk(mine)}, {"jku": "http://evil.test/"}, {"x5c": ["AA"]}):
        made = jwt.encode(claims(), mine, "RS256", headers=more).encode()
        assert "signature" in refused(public(rsa_key()), made)


def test_extensions_that_must_be_understood_are_not() -> None:
    refused(SECRET, signed({"alg": "HS256", "crit": ["x"], "x": 1}, claims()))
    refused(SECRET, signed({"alg": "HS256", "b64": False, "crit": ["b64"]}, claims()))


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"1", b'"x"', b"\xff", b"{", b"[" * 5000, b'{"a":' * 900, b'{"exp": 1' + b"0" * 5000]
)
def test_a_payload_that_is_none(payload: bytes) -> None:
    refused(SECRET, signed({"alg": "HS256"}, payload))


@pytest.mark.parametrize("odd", [1, {"a": 1}, [1], ["a", None], [["a"]], True, ["a"] * 1001])
def test_lists_that_are_none(odd: object) -> None:
    assert refused(SECRET, signed({"alg": "HS256"}, claims(poll=odd))).startswith(("its poll is", "it is too long"))


def test_no_list_is_nothing_and_a_word_is_a_list_of_one() -> None:
    made = grant(SECRET, token(poll=None, publish="a"))
    assert not made.may_poll(b"a") and made.may_publish(b"a")


# -- whatever comes ----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
HEADERS = st.fixed_dictionaries({}, optional={name: JSON for name in ("alg", "kid", "typ", "crit", "b64", "jwk", "cty")})
CLAIMS = st.fixed_dictionaries({}, optional={name: JSON for name in ("exp", "nbf", "iat", "aud", "poll", "publish", "sub", "jti")})
KEYS = [SECRET, public(rsa_key()), public(ec_key()), public(ed_key()), jwks(jwk(rsa_key(), kid="r"), jwk(ec_key(), kid="e"))]


def harmless(content: bytes, made: bytes) -> None:
    """It is refused in words: nothing raises but BadToken."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(content, made)


@given(st.binary(max_size=300), st.sampled_from(KEYS))
def test_any_octets(made: bytes, content: bytes) -> None:
    harmless(content, made)


@given(HEADERS | JSON, CLAIMS | JSON, st.binary(max_size=80), st.sampled_from(KEYS))
def test_any_header_any_claims_any_signature(header: object, payload: object, signature: bytes, content: bytes) -> None:
    harmless(content, coded(header) + b"." + coded(payload) + b"." + coded(signature))


@given(CLAIMS | JSON)
def test_any_claims_under_a_good_signature(payload: object) -> None:
    """A grant says no more than its lists do."""
    try:
        made = grant(SECRET, signed({"alg": "HS256"}, payload))
    except BadToken:
        return
    assert isinstance(payload, dict) and made.expires is not None and made.expires > NOW
    for name in ("poll", "publish"):
        if not payload.get(name):
            assert not made.may_poll(b"a") if name == "poll" else not made.may_publish(b"a")


@given(st.data())
def test_one_octet_of_a_good_token_changed(data: st.DataObject) -> None:
    good = token()
    place = data.draw(st.integers(0, len(good) - 1))
    octet = data.draw(st.integers(0, 255).filter(lambda octet: octet != good[place]))
    harmless(SECRET, good[:place] + bytes((octet,)) + good[place + 1 :])


NAMES = st.binary(max_size=12) | st.text("ab*", max_size=12).map(str.encode)


def slowly(pattern: bytes, name: bytes) -> bool:
    """What a pattern means, said plainly."""
    if not pattern:
        return not name
    if pattern[:1] == b"*":
        return slowly(pattern[1:], name) or (bool(name) and slowly(pattern, name[1:]))
    return name[:1] == pattern[:1] and slowly(pattern[1:], name[1:])


@given(st.text("ab*.", max_size=7).map(str.encode), st.text("ab.*", max_size=8).map(str.encode))
def test_patterns_mean_what_they_say(pattern: bytes, name: bytes) -> None:
    assert Patterns([pattern]).match(name) == slowly(pattern, name)


def test_a_pattern_that_would_ruin_a_regular_expression() -> None:
    pattern, name = b"a*" * 2000 + b"b", b"a" * 250
    assert not Patterns([pattern] * 100).match(name)


@given(st.lists(NAMES, max_size=4), st.lists(NAMES, min_size=1, max_size=4))
def test_a_decision_lets_nothing_through_that_is_not_granted(patterns: list[bytes], names: list[bytes]) -> None:
    made = Grant(Patterns(patterns), Patterns(()))
    decision = decide(made, Action.POLL, tuple(names))
    allowed = all(any(slowly(pattern, name) for pattern in patterns) for name in names)
    assert isinstance(decision, Admitted) == allowed
    if isinstance(decision, Refusal):
        assert decision.status == 403 and decision.fields[0][0] == b"WWW-Authenticate"
    assert isinstance(decide(made, Action.PUBLISH, tuple(names)), Refusal)


def test_queues_that_the_application_names_replace_those_asked_for() -> None:
    made = Grant(Patterns.of([b"a*"]), Patterns(()), None, (b"a*",))
    assert decide(made, Action.POLL, (b"other",)) == Admitted((b"a*",), made)
    assert not made.may_poll(b"ab")
    assert isinstance(decide(Grant(Patterns(()), Patterns(()), None, ()), Action.POLL, (b"x",)), Refusal)


# -- keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "secret of 0 bytes"),
        (b"short\n", "secret of 5 bytes"),
        (private(rsa_key()), "private key"),
        (public(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (public(ec.generate_private_key(ec.SECP384R1())), "not a key of"),
        (public(rsa_key()).replace(b"A", b"", 3), "not a PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a PEM"),
        (rsa_key().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "OpenSSH"),
        (b"{" * 40, "none"),
        (b"{}", "no key"),
        (b'{"keys": 1}', "list of keys"),
        (b'{"keys": [1]}', "list of keys"),
        (b'{"keys": [{"kty": "RSA", "n": "!", "e": 1}]}', "cannot be read"),
        (b'{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}', "secret of 5 bytes"),
        (jwks(jwk(rsa_key(), use="enc")), "no key"),
        (jwks(jwk(rsa_key(), kid="a"), jwk(ec_key())), "each needs a kid"),
        (jwks(jwk(rsa_key(), kid="a"), jwk(ec_key(), kid="a")), "two keys"),
        (jwks({**jwk(rsa_key()), "d": "AQ"}), "private key"),
    ],
)
def test_a_file_that_is_no_key(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadKey, match=reason):
        keys_in(content)
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"poll_auth: .*key: "):
        read_keys(path)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | JSON.map(lambda each: jwks(each)))  # type: ignore[arg-type]
def test_any_file_is_keys_or_is_refused_in_words(content: bytes) -> None:
    try:
        keys_in(content)
    except BadKey as error:
        assert str(error)


def test_a_key_file_is_taken_up_when_it_was_written_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path, told = tmp_path / "key", list[str]()
    with pytest.raises(ConfigError, match="No such file"):
        KeyFile(path, told.append)
    path.write_bytes(SECRET)
    file = KeyFile(path, told.append)
    assert not file.look(10.0)
    path.write_bytes(SECRET[::-1])
    os.utime(path, ns=(1, 1))
    assert not file.look(10.9), "once a second"
    assert file.look(11.0)
    with pytest.raises(BadToken):
        grant_of(file.keys, token(), None, NOW)
    for broken in (lambda: path.write_bytes(b"short"), path.unlink):
        broken()
        assert not file.look(20.0 + len(told))
        assert grant_of(file.keys, token(SECRET[::-1]), None, NOW).may_poll(b"alice")
    assert len(told) == 2 and "short" not in "".join(told) and all("the keys in use stay" in line for line in told)
    assert not file.look(30.0) and len(told) == 2
    path.write_bytes(SECRET)
    assert file.look(40.0)


# -- tunables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["off", "jwt /a/key file.pem", "request /auth?x=1"])
def test_poll_auth_renders_what_it_was_set_to(text: str) -> None:
    assert AUTH.render(AUTH.parse(text)) == text
    assert AUTH.placed("jwt key.pem", Path("/etc/pbal")) == "jwt /etc/pbal/key.pem"
    assert AUTH.placed("request /x", Path("/etc")) == "request /x"


@pytest.mark.parametrize(
    "text", ["", "on", "off x", "jwt", "request", "request x", "request http://a/", "request /a b", "request /a#b", "jwt \0"]
)
def test_poll_auth_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="expected off, jwt KEYFILE"):
        AUTH.parse(text)
    assert AUTH.placed(text, Path("/etc")) == text or text.startswith("jwt ")


@pytest.mark.parametrize("text", ["", "uri:a", "json:a", "token", "header:"])
def test_a_credential_stands_in_a_header_a_query_or_a_cookie(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        TOKEN_SOURCES.parse(text)


def test_the_tunables_defaults_parse() -> None:
    assert {t.name for t in TUNABLES if t.name.startswith("poll_auth")} == {
        "poll_auth", "poll_auth_token", "poll_auth_audience", "poll_auth_timeout", "poll_auth_ttl",
    }  # fmt: skip


# -- limits ------------------------------------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_pass_and_then_its_rate() -> None:
    clock = ManualClock()
    buckets = Buckets(clock.now, 2, 3)
    assert [buckets.take(b"a") for _ in range(3)] == [0, 0, 0]
    assert buckets.take(b"a") == pytest.approx(0.5)
    assert buckets.take(b"b") == 0
    clock.advance(0.5)
    assert buckets.take(b"a") == 0
    assert buckets.take(b"a") == pytest.approx(0.5)
    clock.advance(60)
    assert [buckets.take(b"a") > 0 for _ in range(4)] == [False, False, False, True]


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([0.0, 0.1, 0.5, 3.0])), max_size=60))
def test_a_bucket_is_a_bucket(moves: list[tuple[bytes, float]]) -> None:
    """Against a plain bucket of tokens that drip in."""
    clock = ManualClock()
    buckets = Buckets(clock.now, 2, 3)
    level: dict[bytes, tuple[float, float]] = {}
    for who, pause in moves:
        clock.advance(pause)
        held, at = level.get(who, (3.0, clock.now()))
        held = min(3.0, held + (clock.now() - at) * 2)
        allowed = held >= 1 - 1e-6
        level[who] = (held - allowed, clock.now())
        assert (buckets.take(who) == 0) == allowed


def test_buckets_that_are_full_again_are_dropped_and_the_table_is_bounded() -> None:
    clock = ManualClock()
    buckets = Buckets(clock.now, 1, 1)
    for number in range(1000):
        buckets.take(b"%d" % number)
    assert len(buckets) == 1000
    clock.advance(2)
    for number in range(1000, 1600):
        buckets.take(b"%d" % number)
        clock.advance(0.01)
    assert len(buckets) <= 102
    buckets.most = 50
    forgotten = list[int]()
    buckets.forgotten = lambda: forgotten.append(1)
    for number in range(200):
        buckets.take(b"again %d" % number)
        if len(buckets) > 50:
            assert forgotten
    assert forgotten


def test_who_an_address_stands_for() -> None:
    assert holder(b"10.0.0.1") == b"10.0.0.1"
    assert holder(b"2001:db8:1:2::1") == holder(b"2001:db8:1:2:ffff::2") != holder(b"2001:db8:1:3::1")
    assert holder(b"fe80::1%eth0") == holder(b"fe80::2%eth1")
    assert holder(b"no:address") == b"no:address"
