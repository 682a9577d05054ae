"""Exact intervals: known values, and what makes them exact."""

from __future__ import annotations

import math

import pytest

from moderation.evaluation.binomial import interval


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (1, 20, 0.0013, 0.2487), (5, 10, 0.1871, 0.8129), (0, 0, 0.0, 1.0)],
)
def test_known_values(hits: int, trials: int, low: float, high: float) -> None:
    found = interval(hits, trials)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@pytest.mark.parametrize(("hits", "trials"), [(1, 7), (3, 12), (19, 40)])
def test_each_end_leaves_half_of_the_error_outside(hits: int, trials: int) -> None:
    """The definition: at the ends, so many hits or more, or fewer, have a chance of 2.5 %."""

    def chance(rate: float, counts: range) -> float:
        return sum(math.comb(trials, n) * rate**n * (1 - rate) ** (trials - n) for n in counts)

    found = interval(hits, trials)
    assert chance(found.low, range(hits, trials + 1)) == pytest.approx(0.025, abs=1e-6)
    assert chance(found.high, range(hits + 1)) == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.77])
def test_it_covers_the_true_rate(rate: float) -> None:
    """By enumeration: of all samples of 15, those whose interval holds the rate have at least 95 % of the chance."""
    covered = 0.0
    for hits in range(16):
        found = interval(hits, 15)
        if found.low <= rate <= found.high:
            covered += math.comb(15, hits) * rate**hits * (1 - rate) ** (15 - hits)
    assert covered >= 0.95
