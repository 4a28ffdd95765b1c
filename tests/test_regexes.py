"""Which patterns may take very long."""

import re
from threading import Thread

import pytest

from pbal.model.searching import Searches, TookTooLong
from pbal.schema.regexes import may_run_away, quick


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"^/poll/(?P<queue>(\w+)*)$", r"(?:a*b*)+c", r"((a|b)*c)*", r"([\w.]+)+x", r"(a{2,})*", r"(x+x+)+y"]
)
def test_repeats_of_repeats(pattern: str) -> None:
    assert may_run_away(pattern)


@pytest.mark.parametrize("pattern", [
    r"^/poll/(?P<queue>[\w.-]+)$", r"(a+)b+", r"(ab)+", r"(a+)?b", r"[(a+)]+", r"\(a+\)+", r"(a{1,5}){3}", r"^/(a|b)+/c*$", r"",
    r"(?=a+)b", r"[]+)]+(a)*", r"^/vhost/[^/]+/poll/(?P<queue>[^/]+)$",
])  # fmt: skip
def test_harmless(pattern: str) -> None:
    assert not may_run_away(pattern)


@pytest.mark.parametrize("pattern", [
    r"", r".", r"^/", r"^/static/", r"\.(?:css|js)$", r"^/(a|b)/x$", r"^/poll/(?P<queue>[^/]+)$", r"^/.*\.php$", r"^/a/?$", r"^/.*?x",
    r"[*+]",
])  # fmt: skip
def test_quick(pattern: str) -> None:
    assert quick(pattern)


@pytest.mark.parametrize("pattern", [
    r".*x", r"^/.*a.*b", r"(a+)+$", r"a{2,9}", r"^(?:ab)*",
    r"^(a|aa)+$", r"^/a|x*y", r"^(?:a?){30}", r"a?a?a?a?a?a", r"^*x", r"(a)\1", r"(?P<n>a)(?P=n)", r"(?=a)b",
])  # fmt: skip
def test_not_surely_quick(pattern: str) -> None:
    assert not quick(pattern)


@pytest.mark.parametrize("pattern", [rb"(a+)+$", rb"^/(a|aa)+$", rb".*.*.*.*x", rb"(?:a?){60}a{60}"])
def test_a_search_that_would_never_end_does(pattern: bytes) -> None:
    searches = Searches([re.compile(rb"^b"), re.compile(pattern)])
    with pytest.raises(TookTooLong):
        searches.first(b"/" + b"a" * 59 * (130 if b"." in pattern else 1) + b"!")
    assert searches.first(b"bx") == 0  # and others go on
    assert Searches([re.compile(rb"x$"), re.compile(rb".*b")]).first(b"ab") == 1


def test_in_another_thread_a_search_has_no_bound_and_works() -> None:
    found: list[int] = []
    thread = Thread(target=lambda: found.append(Searches([re.compile(rb".*.*b")]).first(b"ab")))
    thread.start()
    thread.join()
    assert found == [0]
