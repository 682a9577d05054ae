"""Draws by strata, and what they say of a population: exactly, and never more surely than they may."""

from __future__ import annotations

import random
import time
from collections import Counter
from fractions import Fraction
from math import comb

import pytest
from scipy.stats import binomtest, hypergeom

from moderation.evaluation.changes import strata
from moderation.evaluation.changes.strata import Band, Bounds, Stratum, Traits


def population(count: int = 1_000) -> list[Traits]:
    draw = random.Random(3)
    bands = draw.choices(list(Band), [80, 5, 3, 5, 5, 2], k=count)
    return [Traits(band, draw.choice(["de", "en", "fr", "it", ""]), draw.random() < 0.3) for band in bands]


def covered(size: int, trials: int, hits: int, error: float) -> float:
    """The chance that the interval does not hold the truth, by enumeration."""
    wrong = Fraction(0)
    for seen in range(max(0, trials - (size - hits)), min(hits, trials) + 1):
        low, high = strata.finite(seen, trials, size, error)
        if not low <= hits <= high:
            wrong += Fraction(comb(hits, seen) * comb(size - hits, trials - seen), comb(size, trials))
    return float(wrong)


@pytest.mark.parametrize(("size", "trials", "least"), [(30, 7, 0.01), (60, 20, 0.01), (30, 29, 0.0), (5, 1, 0.0)])
def test_a_finite_interval_misses_the_truth_no_more_often_than_it_says(size: int, trials: int, least: float) -> None:
    misses = [covered(size, trials, hits, 0.025) for hits in range(size + 1)]
    assert least <= max(misses) <= 0.05


def test_a_finite_interval_becomes_that_of_clopper_and_pearson() -> None:
    low, high = strata.finite(12, 200, 2_000_000, 0.025)
    exact = binomtest(12, 200).proportion_ci(0.95, "exact")
    assert low / 2_000_000 == pytest.approx(exact.low, rel=1e-3)
    assert high / 2_000_000 == pytest.approx(exact.high, rel=1e-3)


def test_a_finite_interval_is_that_of_scipy_and_quicker() -> None:
    seed = 5
    print(f"seed {seed}")
    draw, error = random.Random(seed), 0.025 / 40
    began = time.process_time()
    cases = []
    for _ in range(1_500):
        size = draw.choice([draw.randint(1, 12), draw.randint(2, 400), draw.randint(400, 1_000_000)])
        trials = draw.randint(0, min(size, 300))
        hits = draw.randint(0, trials)
        cases.append((hits, trials, size, *strata.finite(hits, trials, size, error)))
    assert time.process_time() - began < 8, "a comparison has thousands of them"
    for hits, trials, size, low, high in cases[::5]:
        slack = 1e-6 * error
        assert hypergeom.cdf(hits, size, high, trials) > error - slack
        assert hypergeom.sf(hits - 1, size, low, trials) > error - slack
        assert high == size - trials + hits or hypergeom.cdf(hits, size, high + 1, trials) <= error + slack
        assert low == hits or hypergeom.sf(hits - 1, size, low - 1, trials) <= error + slack


def test_what_was_judged_whole_is_known() -> None:
    whole = [Stratum("a", 40, 40), Stratum("b", 7, 7)]
    assert strata.total_of([(3, 3), (2, 2)], whole, 0.95) == Bounds(5, 5, 5)


def test_what_has_no_end_has_the_interval_of_clopper_and_pearson() -> None:
    exact = binomtest(4, 10).proportion_ci(0.95, "exact")
    found = strata.total_of([(4, 4)], [Stratum("a", None, 10)], 0.95)
    assert (found.low, found.value, found.high) == pytest.approx((exact.low, 0.4, exact.high))
    assert strata.total_of([(0, 10)], [Stratum("a", None, 10)], 0.95) == Bounds(0.0, 0.0, 1.0)


def test_the_error_is_shared_out_among_strata_that_were_sampled() -> None:
    sampled, whole = Stratum("a", 1_000, 50), Stratum("b", 30, 30)
    alone = strata.total_of([(5, 5)], [sampled], 0.95)
    beside = strata.total_of([(5, 5), (3, 3)], [sampled, whole], 0.95)
    assert (beside.low - 3, beside.high - 3) == (alone.low, alone.high)
    twice = strata.total_of([(5, 5), (5, 5)], [sampled, sampled], 0.95)
    low, high = strata.finite(5, 50, 1_000, 0.0125)
    assert (twice.low, twice.value, twice.high) == (2 * low, 200, 2 * high)


def test_a_hit_that_may_be_none_widens_the_interval() -> None:
    found = strata.total_of([(2, 9)], [Stratum("a", 100, 100)], 0.95)
    assert (found.low, found.high) == (2, 9)


def test_sums_over_strata_hold_the_truth_as_often_as_they_say() -> None:
    """2,000 populations are drawn from by strata. At most 131 intervals may miss: the 0.999 quantile at 5 %."""
    seed = 20
    draw = random.Random(seed)
    posts = [Traits(draw.choice([Band.BELOW, Band.FAR_BELOW]), "", False) for _ in range(400)]
    hits = [draw.random() < (0.3 if traits.band is Band.BELOW else 0.02) for traits in posts]
    missed = 0
    for run in range(2_000):
        found = strata.drawn(posts, 100, run)
        seen = [sum(hits[place] for place in chosen) for chosen in found.chosen]
        bounds = strata.total_of([(number, number) for number in seen], found.strata, 0.95)
        missed += not bounds.low <= sum(hits) <= bounds.high
    assert missed <= 131, f"seed {seed}"


@pytest.mark.parametrize("total", [60, 300, 900])
def test_a_draw_takes_each_post_once_and_as_many_as_asked_for(total: int) -> None:
    posts = population()
    found = strata.drawn(posts, total, 1)
    places = [place for chosen in found.chosen for place in chosen]
    assert len(places) == len(set(places)) == total
    assert sum(stratum.size or 0 for stratum in found.strata) == len(posts)
    assert [stratum.judged for stratum in found.strata] == [len(chosen) for chosen in found.chosen]
    assert len(found.strata) <= max(6, total // strata.DRAWS)
    for chosen in found.chosen:
        assert len({posts[place].band for place in chosen}) == 1


def test_a_draw_can_be_repeated() -> None:
    posts = population()
    assert strata.drawn(posts, 200, 5) == strata.drawn(posts, 200, 5)
    assert strata.drawn(posts, 200, 5).chosen != strata.drawn(posts, 200, 6).chosen


def test_more_is_drawn_near_thresholds_and_some_everywhere() -> None:
    posts = population(5_000)
    found = strata.drawn(posts, 300, 1)
    sizes = Counter(traits.band for traits in posts)
    taken = Counter(posts[place].band for chosen in found.chosen for place in chosen)
    assert taken[Band.BETWEEN] / sizes[Band.BETWEEN] > 3 * taken[Band.FAR_BELOW] / sizes[Band.FAR_BELOW]
    assert all(taken[band] >= strata.FLOOR for band in sizes)


def test_strata_are_cut_by_language_and_pictures_where_there_are_enough_draws() -> None:
    posts = population(8_000)
    assert len(strata.drawn(posts, 300, 1).strata) == 6
    fine = [stratum.name for stratum in strata.drawn(posts, 7_000, 1).strata]
    assert len(fine) == 6 * 4 * 2  # bands, three languages and the others, pictures
    assert any("others" in name and "with pictures" in name for name in fine)


def test_a_population_that_is_not_larger_is_drawn_whole() -> None:
    (only,) = strata.drawn(population(30), 30, 1).strata
    assert (only.size, only.judged) == (30, 30)


def test_draws_are_shared_out_by_weight_with_a_floor_and_no_more_than_there_is() -> None:
    assert strata.allocated([1_000, 1_000, 10], [9.0, 1.0, 5.0], 150) == [20 + 90, 20 + 10, 10]
    assert strata.allocated([1_000, 30], [1.0, 9.0], 100) == [70, 30]
    assert sum(strata.allocated([1_000] * 10, [1.0] * 10, 55)) == 55
    assert strata.allocated([3, 4], [1.0, 1.0], 100) == [3, 4]


def test_bands_lie_between_the_thresholds() -> None:
    low, high = strata.logit(0.5), strata.logit(0.9)
    margins = [low - 2.1, low - 1, low, high - 0.01, high, high + 2]
    assert [strata.band(margin, 0.5, 0.9) for margin in margins] == [
        Band.FAR_BELOW,
        Band.BELOW,
        Band.BETWEEN,
        Band.BETWEEN,
        Band.ABOVE,
        Band.FAR_ABOVE,
    ]
    assert strata.nearness(low + 0.1, 0.5, 0.9) == pytest.approx(0.1)
    assert strata.band(-5.0, 0.0, 1.0) is Band.BETWEEN  # every probability is at 0 or above it
