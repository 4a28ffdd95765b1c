"""Durations in buckets: what is counted where, percentiles, the last minute, what /metrics shows."""

import itertools

import pytest

from pbal.observe.histogram import BUCKETS, EDGES, SHOWN, TURN, WINDOWS, Histogram, percentile


def test_the_edges_are_close_and_hold_what_metrics_shows() -> None:
    assert list(EDGES) == sorted(set(EDGES))
    assert all(after / before < 1.15 for before, after in itertools.pairwise(EDGES))
    assert set(SHOWN) < set(EDGES)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-5, 0.00123, 0.1, 0.10000001, 1.0, 59.9, 1000.0, 1e9])
def test_a_duration_is_in_the_first_bucket_whose_edge_is_not_below_it(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    place = histogram.since_start().index(1)
    assert place == 0 or EDGES[place - 1] < seconds
    assert place == BUCKETS - 1 or seconds <= EDGES[place]
    assert histogram.count == 1
    assert histogram.seconds == seconds


def test_percentiles_are_right_to_a_bucket() -> None:
    histogram = Histogram()
    assert histogram.percentile(0.99) == 0.0
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds / 1000)
    for share in (0.5, 0.9, 0.99):
        assert share * 1000 <= histogram.percentile(share) <= share * 1000 * 1.13


def test_the_last_minute_forgets_and_the_start_does_not() -> None:
    histogram = Histogram()
    histogram.add(1.0)
    for _ in range(WINDOWS):
        histogram.turn()
        assert sum(histogram.last_minute()) == 1
    histogram.add(0.001)
    histogram.turn()
    assert percentile(histogram.last_minute(), 0.99) == 1.0
    for _ in range(WINDOWS):
        histogram.turn()
    assert sum(histogram.last_minute()) == 0
    assert histogram.count == 2
    assert (WINDOWS + 1) * TURN == 60


def test_what_metrics_shows_adds_up() -> None:
    histogram = Histogram()
    for seconds in (0.0001, 0.0002, 0.1, 0.11, 200.0):
        histogram.add(seconds)
        histogram.turn()
    sums = dict(zip(SHOWN, histogram.cumulative(), strict=False))
    assert sums[0.0001] == 1
    assert sums[0.00025] == 2
    assert sums[0.1] == 3
    assert sums[0.25] == 4
    assert sums[100.0] == 4
    assert histogram.cumulative()[-1] == 5


def test_another_generation_goes_on_counting() -> None:
    old, new = Histogram(), Histogram()
    old.add(0.5)
    old.turn()
    old.add(0.5)
    new.unpack(old.pack())
    new.add(0.5)
    assert new.count == 3
    assert new.seconds == 1.5
    assert sum(new.last_minute()) == 1
