"""Which patterns may take very long."""

import pytest

from pbal.schema.regexes import may_run_away


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
