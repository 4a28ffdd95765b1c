"""Types: what they take, what they refuse and how they say so, and that render always parses back."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbal.schema import types
from pbal.schema.pools import POOL
from pbal.schema.roles import CORE, ROLES
from pbal.schema.tunables import SERVER, Tunable
from pbal.schema.types import Endpoint, Type

COLOUR = types.enum("red", "green", "blue")

GOOD: list[tuple[Type[Any], str, object]] = [
    (types.USER, "root", "root"),
    (types.GROUP, "root", "root"),
    (types.BOOL, "on", True),
    (types.BOOL, "YES", True),
    (types.BOOL, "1", True),
    (types.BOOL, "true", True),
    (types.BOOL, "off", False),
    (types.BOOL, "0", False),
    (types.BOOL, "no", False),
    (types.BOOL, "False", False),
    (types.INT, "0", 0),
    (types.INT, "007", 7),
    (types.SIZE, "0", 0),
    (types.SIZE, "12", 12),
    (types.SIZE, "12b", 12),
    (types.SIZE, "256K", 262144),
    (types.SIZE, "2m", 2097152),
    (types.SIZE, "1g", 1073741824),
    (types.DURATION, "30", 30.0),
    (types.DURATION, "50ms", 0.05),
    (types.DURATION, "1.5s", 1.5),
    (types.DURATION, "2m", 120.0),
    (types.DURATION, "1.1h", 3960.0),
    (types.DURATION, "0", 0.0),
    (types.DURATION, "30 seconds", 30.0),
    (types.DURATION, "1 Minute", 60.0),
    (types.DURATION, "5mins", 300.0),
    (types.DURATION, "2 hours", 7200.0),
    (types.DURATION, "1d", 86400.0),
    (types.DURATION, "20 msec", 0.02),
    (types.SIZE, "10MB", 10485760),
    (types.SIZE, "10 KiB", 10240),
    (types.SIZE, "512 bytes", 512),
    (types.BOOL, "enabled", True),
    (types.BOOL, "Disabled", False),
    (COLOUR, "GREEN", "green"),
    (types.WORDS, "a, b  c", ("a", "b", "c")),
    (types.WORDS, "", ()),
    (types.TOKENS, "GET HEAD", (b"GET", b"HEAD")),
    (types.TEXT, " as it is ", " as it is "),
    (types.PATH, "/no/such", Path("/no/such")),
    (types.LISTEN, "8080", Endpoint("", 8080)),
    (types.LISTEN, "127.0.0.1:0", Endpoint("127.0.0.1", 0)),
    (types.LISTEN, "[::1]:80", Endpoint("::1", 80)),
    (types.ENDPOINT, "10.0.0.1", Endpoint("10.0.0.1", 80)),
    (types.ENDPOINT, "App.Local:81", Endpoint("app.local", 81)),
    (types.ENDPOINT, "[0:0::1]", Endpoint("::1", 80)),
    (types.ENDPOINT, "[::1]:9", Endpoint("::1", 9)),
    (types.name_of("pool"), "my-pool", "my-pool"),
]

BAD: list[tuple[Type[Any], str, str]] = [
    (types.BOOL, "maybe", "expected on or off, found 'maybe'"),
    (types.INT, "1_0", "expected a whole number such as 64, found '1_0'"),
    (types.INT, "+5", "expected a whole number such as 64, found '+5'"),
    (types.INT, "-5", "expected a whole number such as 64, found '-5'"),
    (types.INT, "٣", "expected a whole number such as 64, found '٣'"),
    (types.INT, " 5", "expected a whole number such as 64, found ' 5'"),
    (types.INT, "5\n", "expected a whole number such as 64, found '5\\n'"),
    (types.INT, "", "expected a whole number such as 64, found ''"),
    (types.SIZE, "2x", "expected a size such as 256k or 2m, found '2x'"),
    (types.SIZE, "2  k", "expected a size such as 256k or 2m, found '2  k'"),
    (types.LOG, "", "expected a path, found ''"),
    (types.LOG_FORM, "x", "expected common, combined, json, or a text with fields such as '$$client $$status', found 'x'"),
    (types.PATHS, "", "expected one or more paths, found ''"),
    (types.SIZE, "10MBit", "expected a size such as 256k or 2m, found '10MBit'"),
    (
        types.SIZE,
        "2\u212a",
        "expected a size such as 256k or 2m, found '2\u212a'",
    ),  # KELVIN SIGN folds to 'k'
    (types.SIZE, "-1", "expected a size such as 256k or 2m, found '-1'"),
    (types.DURATION, "5w", "expected a time such as 30s, 500ms or 5m, found '5w'"),
    (types.DURATION, "5 s s", "expected a time such as 30s, 500ms or 5m, found '5 s s'"),
    (types.DURATION, "999999h", "expected a time of at most 30 years, found '999999h'"),
    (types.DURATION, ".5", "expected a time such as 30s, 500ms or 5m, found '.5'"),
    (types.DURATION, "inf", "expected a time such as 30s, 500ms or 5m, found 'inf'"),
    (COLOUR, "pink", "expected red, green or blue, found 'pink'"),
    (types.TOKENS, "GET,H@D", "expected tokens such as GET or X-Name, found 'H@D'"),
    (types.USER, "nosuchuser", "expected the name of a user of this system, found 'nosuchuser'"),
    (types.GROUP, "nosuch\0", "expected the name of a group of this system, found 'nosuch\\x00'"),
    (types.PATH, "", "expected a path, found ''"),
    (types.DIRECTORY, "/no/such", "expected an existing directory, found '/no/such'"),
    (types.FILE, "/", "expected an existing file, found '/'"),
    (types.LISTEN, "70000", "expected a port from 0 to 65535, found '70000'"),
    (types.LISTEN, "he re:80", "expected a host name or an IP address, found 'he re'"),
    (
        types.LISTEN,
        "unix:run/pbal.sock",
        "expected unix: and the path of a socket, of at most 107 bytes, such as unix:/run/pbal.sock, found 'unix:run/pbal.sock'",
    ),
    (types.MODE, "0888", "expected permissions such as 0660, found '0888'"),
    (types.GROUP, "no-such-group", "expected the name of a group of this system, found 'no-such-group'"),
    (
        types.LISTEN,
        "127.0.0.1",
        "expected an address to listen on such as 8080, 127.0.0.1:8080, [::1]:8080, localhost:8080 or unix:/run/pbal.sock,"
        " found '127.0.0.1'",
    ),
    (types.ENDPOINT, "10.0.0.256:80", "expected an IPv4 address such as 10.0.0.1, found '10.0.0.256'"),
    (types.ENDPOINT, "10.0.0.1:0", "expected a port from 1 to 65535, found '0'"),
    (types.ENDPOINT, "10.0.0.1:", "expected a port from 1 to 65535, found ''"),
    (types.ENDPOINT, "::1", "expected a node such as 10.0.0.1:8080, app.local:80, [::1]:8080 or unix:/run/app.sock, found '::1'"),
    (types.ENDPOINT, "[::g]:80", "expected an IPv6 address such as ::1 between [ and ], found '::g'"),
    (types.ENDPOINT, "a..b:80", "expected a host name or an IP address, found 'a..b'"),
    (types.ENDPOINT, "-a:80", "expected a host name or an IP address, found '-a'"),
    (types.RECEIVERS, "127.0.0.1", "expected addresses such as 10.0.0.1:7000 or [::1]:7000, found '127.0.0.1'"),
    (types.RECEIVERS, "[::1]:7000 tracker:7000", "expected addresses such as 10.0.0.1:7000 or [::1]:7000, found 'tracker:7000'"),
    (types.RECEIVERS, "127.0.0.1:0", "expected a port from 1 to 65535, found '0'"),
    (
        types.ORIGINS,
        "https://a.example/",
        "expected an origin such as https://www.example.com, in lower case and without a path, *, or off, found 'https://a.example/'",
    ),
    (
        types.ORIGINS,
        "http://a:80",
        "expected an origin without the port that its scheme has anyway, as browsers say it, found 'http://a:80'",
    ),
    (types.NETWORKS, "10.0.0.0/33", "expected a network such as 10.0.0.0/8 or ::1, found '10.0.0.0/33'"),
    (
        types.REGEX,
        "a(",
        "expected a regular expression, but missing ), unterminated subpattern at character 2 of 'a('",
    ),
    (types.name_of("pool"), "my pool", "expected the name of a pool, found 'my pool'"),
]


@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_a_type_takes(kind: Type[Any], text: str, value: object) -> None:
    assert kind.parse(text) == value
    assert kind.parse(kind.render(kind.parse(text))) == value


@pytest.mark.parametrize(("kind", "text", "message"), BAD)
def test_a_type_refuses(kind: Type[Any], text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        kind.parse(text)
    assert str(raised.value) == message


def test_existing_paths(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"")
    assert types.DIRECTORY.parse(str(tmp_path)) == tmp_path
    assert types.FILE.parse(types.FILE.render(file)) == file


def test_paths_may_have_spaces_and_lie_in_folders_with_spaces() -> None:
    paths = types.PATHS.parse(r"/a\ b/c.pem, /d\\e,/f")
    assert paths == (Path("/a b/c.pem"), Path("/d\\e"), Path("/f"))
    assert types.PATHS.parse(types.PATHS.render(paths)) == paths
    assert types.PATHS.placed is not None
    assert types.PATHS.parse(types.PATHS.placed(r"a.pem b\ c.pem", Path("/my sites"))) == (
        Path("/my sites/a.pem"),
        Path("/my sites/b c.pem"),
    )


def test_a_regex_works_on_octets_and_renders_as_typed() -> None:
    pattern = types.REGEX.parse(r"^/p\w+/ü$")
    assert pattern.search("/poll/ü".encode())
    assert types.REGEX.render(pattern) == r"^/p\w+/ü$"


@pytest.mark.parametrize("text", ["a{99999999999999}", "(?u)a", "(" * 3000 + ")" * 3000, "*"])
def test_odd_regexes_are_refused_as_values(text: str) -> None:
    with pytest.raises(ValueError, match="expected a regular expression"):
        types.REGEX.parse(text)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (types.SIZE, 262144, "256k"),
        (types.SIZE, 1000, "1000"),
        (types.SIZE, 1 << 31, "2g"),
        (types.SIZE, 0, "0"),
        (types.DURATION, 3600.0, "1h"),
        (types.DURATION, 90.0, "90s"),
        (types.DURATION, 0.05, "50ms"),
        (types.DURATION, 0.0, "0s"),
        (types.BOOL, False, "off"),
        (types.ENDPOINT, Endpoint("::1", 80), "[::1]:80"),
        (types.LISTEN, Endpoint("", 80), "80"),
        (types.WORDS, ("a", "b"), "a b"),
    ],
)
def test_a_value_renders_as_a_person_would_write_it(kind: Type[Any], value: object, text: str) -> None:
    assert kind.render(value) == text


def test_completion_offers_words_only_where_there_are_few() -> None:
    assert types.BOOL.complete() == ("on", "off")
    assert COLOUR.complete() == ("red", "green", "blue")
    assert types.SIZE.complete() == ()


def _round_trips(kind: Type[Any], value: object) -> bool:
    return bool(kind.parse(kind.render(value)) == value)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 10**15 - 1),
    octets=st.tuples(*[st.integers(0, 255)] * 4),
    port=st.integers(1, 65535),
    number=st.from_regex(r"\A[0-9]{1,5}(\.[0-9]{1,9})?(ms|s|m|h)?\Z"),
    networks=st.lists(st.ip_addresses(), max_size=4),
    words=st.lists(st.from_regex(r"\A[a-z_.]+\Z"), max_size=4),
)
def test_render_parses_back(size: int, octets: tuple[int, ...], port: int, number: str, networks: list[Any], words: list[str]) -> None:
    assert _round_trips(types.SIZE, size)
    assert _round_trips(types.INT, size)
    assert _round_trips(types.ENDPOINT, Endpoint(".".join(map(str, octets)), port))
    assert _round_trips(types.DURATION, types.DURATION.parse(number))
    assert _round_trips(types.NETWORKS, types.NETWORKS.parse(" ".join(map(str, networks))))
    assert _round_trips(types.WORDS, tuple(words))


KINDS: list[Type[Any]] = [
    types.BOOL,
    types.INT,
    types.SIZE,
    types.DURATION,
    types.REGEX,
    types.PATH,
    types.DIRECTORY,
    types.FILE,
    types.LISTEN,
    types.ENDPOINT,
    types.NETWORKS,
    types.ORIGINS,
    types.WORDS,
    types.TOKENS,
    types.TEXT,
    COLOUR,
]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for kind in KINDS:
        try:
            value = kind.parse(text)
        except ValueError as error:
            assert str(error)
        else:
            assert _round_trips(kind, value)


# --- the table of tunables ---------------------------------------------------------------------------------

TABLES = [*CORE, *POOL, *SERVER]


@pytest.mark.parametrize("tunable", TABLES, ids=lambda tunable: tunable.name)
def test_a_row_is_complete_and_its_default_is_within_its_bounds(tunable: Tunable) -> None:
    assert tunable.summary.endswith(".")
    assert re.match(r"Perlbal service parameters$|differs: |pbal", tunable.source)
    assert tunable.roles <= set(ROLES)
    if tunable.default is not None:
        assert tunable.parse(tunable.default) == tunable.default_value()
    if tunable.type in (types.SIZE, types.DURATION, types.INT):
        assert tunable.unit


def test_names_are_unique() -> None:
    tables = [{tunable.name for tunable in table} for table in (CORE, POOL, SERVER)]
    assert [len(names) for names in tables] == [len(CORE), len(POOL), len(SERVER)]
    assert sum(map(len, tables)) - len(set.union(*tables)) == 1 and "balance_method" in tables[0] & tables[1], "Perlbal takes it on both"


def test_bounds_are_checked_and_named() -> None:
    tunable = next(tunable for tunable in CORE if tunable.name == "max_request_head")
    assert tunable.parse("1k") == 1024
    with pytest.raises(ValueError, match="expected 1k or more for max_request_head, found '512'"):
        tunable.parse("512")
    with pytest.raises(ValueError, match="expected 16m or less for max_request_head, found '2g'"):
        tunable.parse("2g")


def test_a_value_below_the_floor_is_raised_and_remarked() -> None:
    tunable = next(tunable for tunable in CORE if tunable.name == "buffer_size")
    assert (tunable.parse("4k"), tunable.remark("4k")) == (4096, "")
    assert (tunable.parse("1k"), tunable.canonical("1k")) == (4096, "4k")
    assert tunable.remark("1k") == "buffer_size: 1k is too little, 4k is used"


def test_a_network_with_host_bits_is_taken_and_remarked() -> None:
    assert types.NETWORKS.render(types.NETWORKS.parse("10.1.2.3/8 ::1/128 fe80::1/64")) == "10.0.0.0/8 ::1/128 fe80::/64"
    assert types.NETWORKS.odd("10.0.0.0/8, 10.1.2.3/8") == "10.1.2.3/8 has bits set right of the mask, 10.0.0.0/8 is used"
    assert types.NETWORKS.odd("10.0.0.0/8 10.0.0.1 ::1") == ""


def test_networks_in_the_words_of_perlbal_where_they_mean_one_thing_only() -> None:
    said = "10/8 192.168/16, 10.0.0.0:255.255.0.0 10.0.0.0-255.0.0.0 10.1.2.0-10.1.2.255 10.1.2.0#0.0.0.255 10.0.0.0/255.255.0.0 any"
    meant = "10.0.0.0/8 192.168.0.0/16 10.0.0.0/16 10.0.0.0/8 10.1.2.0/24 10.1.2.0/24 10.0.0.0/16 0.0.0.0/0"
    assert types.NETWORKS.render(types.NETWORKS.parse(said)) == meant
    assert types.NETWORKS.odd("10.1/8") == "10.1/8 has bits set right of the mask, 10.0.0.0/8 is used"
    for ambiguous in ("10", "10.1", "10.1/24", "300/8", "10.0.0.1-10.0.0.9", "10.0.0.0:255.0.255.0", "10.0.0.9-10.0.0.1", "10.0.0.0-"):
        with pytest.raises(ValueError, match="expected a network"):
            types.NETWORKS.parse(ambiguous)


def test_a_tunable_fits_its_roles() -> None:
    by_name = {tunable.name: tunable for tunable in CORE}
    assert by_name["role"].fits("management")
    assert by_name["pool"].fits("reverse_proxy")
    assert not by_name["pool"].fits("web_server")
    assert by_name["listen"].default_value() is None


def test_every_type_has_a_text_that_it_refuses_above() -> None:
    declared = {kind.name for kind in vars(types).values() if isinstance(kind, Type)}
    assert declared - {kind.name for kind, _, _ in BAD} == {"words", "text"}  # they take every text


def test_a_choice_with_on_and_off_takes_what_a_switch_takes() -> None:
    choice = types.enum("auto", "on", "off")
    assert [choice.parse(text) for text in ("Auto", "yes", "1", "NO", "disabled", "on")] == ["auto", "on", "on", "off", "off", "on"]
    with pytest.raises(ValueError, match="expected none or off, found 'no'"):
        types.enum("none", "off").parse("no")
