"""Certified claims are false in at most 1 - confidence of all samples: exactly, or in runs with a printed seed."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from mapie.risk_control.fwer_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from scipy.stats import beta, hypergeom

from moderation.evaluation.certifying.certification import (
    Claim,
    Design,
    certified,
    examined,
    expected_labels,
    further_right,
    log_wealth,
    p_value,
    recall_cost,
    sequential,
    sequential_bound,
    shows,
    smallest_n,
    upper_bound,
)
from tests.support.false_certification import MOST, RUNS, betting, betting_finite, drawn, fixed, greatest, grid, orders
from tests.support.false_certification import most_of as quantile

CLAIM = Claim.at_least(0.95, 0.95)


@pytest.mark.parametrize(
    ("precision", "numbers"),
    [
        (0.80, [14, 22, 30, 37]),
        (0.90, [29, 46, 61, 76]),
        (0.95, [59, 93, 124, 153]),
        (0.98, [149, 236, 313, 386]),
        (0.99, [299, 473, 628, 773]),
    ],
)
def test_the_smallest_samples(precision: float, numbers: list[int]) -> None:
    claim = Claim.at_least(precision, 0.95)
    assert [smallest_n(wrong, claim) for wrong in range(4)] == numbers
    for wrong, n in enumerate(numbers):
        assert p_value(wrong, n, claim) <= 0.05 < p_value(wrong, n - 1, claim)


def test_the_smallest_samples_below_a_threshold() -> None:
    assert smallest_n(0, Claim.at_most(0.01, 0.95)) == 299
    assert smallest_n(0, Claim.at_most(0.001, 0.95)) == 2_995


def test_the_smallest_sample_of_a_known_population() -> None:
    assert smallest_n(0, CLAIM, 100) == 39
    assert smallest_n(5, CLAIM, 100) == 100, "all of it, where just so many may be wrong"
    assert smallest_n(6, CLAIM, 100) is None


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_a_fixed_n_certifies_falsely_no_more_often_than_it_says(share: float, confidence: float) -> None:
    """By enumeration, in rational numbers: at the rate of the claim's border, and at worse ones."""
    claim = Claim.at_least(share, confidence)
    delta = 1 - Fraction(str(confidence))
    for n in (1, 5, 14, 29, 59, 93, 124, 200, 300):
        chances = [fixed(n, claim, min(claim.limit * factor, Fraction(1))) for factor in (1, Fraction(11, 10), 2)]
        assert max(chances) <= delta, (n, chances)


def test_a_fixed_n_is_no_stricter_than_it_must_be() -> None:
    """One more wrong one would certify falsely too often."""
    for n in (59, 93, 124, 300):
        most = greatest(n, CLAIM)
        one_more = sum(math.comb(n, k) * 0.05**k * 0.95 ** (n - k) for k in range(most + 2))
        assert one_more > 0.05 >= float(fixed(n, CLAIM, CLAIM.limit))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_a_known_population_certifies_falsely_no_more_often_than_it_says(share: float) -> None:
    """By enumeration, for the best population that breaks the claim and for worse ones; binomial and hypergeometric."""
    claim = Claim.at_least(share, 0.95)
    for population in (10, 20, 37, 60, 100, 400):
        least = math.floor(claim.limit * population) + 1
        for wrong in {least, least + 1, 2 * least} - set(range(population + 1, 2 * population)):
            for n in sorted({1, 5, population // 3, population // 2, population - 1, population}):
                finite, binomial = greatest(n, claim, population), greatest(n, claim)
                assert drawn(n, population, wrong, finite) <= Fraction(1, 20)
                assert drawn(n, population, wrong, binomial) <= Fraction(1, 20)


def test_recall_on_a_pool_is_certified_falsely_no_more_often_than_it_says() -> None:
    """The number of violations in a sample of a pool is random. By enumeration over it, and over those missed."""
    claim = Claim.at_least(0.8, 0.95)
    for pool, positives, missed in ((60, 30, 7), (120, 40, 9), (200, 25, 6)):
        assert Fraction(missed, positives) > claim.limit
        for n in (pool // 2, pool - 5, pool):
            chance = Fraction(0)
            for found in range(max(0, n - (pool - positives)), min(n, positives) + 1):
                ways = math.comb(positives, found) * math.comb(pool - positives, n - found)
                chance += Fraction(ways, math.comb(pool, n)) * drawn(found, positives, missed, greatest(found, claim))
            assert chance <= Fraction(1, 20), (pool, n)


@pytest.mark.parametrize(("right", "population"), [(3, 6), (6, 12), (9, 12), (8, 13)])
def test_bets_are_fair_where_the_claim_is_just_not_true(right: int, population: int) -> None:
    """By enumeration of all orders: the mean wealth is 1 after each label, and no more in a worse population."""
    claim = Claim(1 - Fraction(right, population), Fraction("0.95"))
    # With so many right the claim is true. What is asked is the wealth up to where the labels say so.
    wealth = np.exp([log_wealth(order, claim, population) for order in orders(population, right)])
    assert np.isinf(wealth).any(axis=1).all()
    first = population - (population - right) - 1  # labels after which none is sure yet
    assert wealth[:, : first + 1].mean(axis=0) == pytest.approx(1)
    worse = np.exp([log_wealth(order, claim, population) for order in orders(population, right - 1)])
    assert (worse.mean(axis=0) <= 1 + 1e-9).all()


@pytest.mark.parametrize(("share", "population"), [(0.5, 12), (0.75, 14), (0.9, 16)])
@pytest.mark.parametrize("confidence", [0.6, 0.8, 0.95])
def test_bets_certify_falsely_no_more_often_than_they_say_in_all_orders(
    share: float, population: int, confidence: float
) -> None:
    claim = Claim.at_least(share, confidence)
    right = claim.least_right(population) - 1
    found = orders(population, right)
    false = sum(sequential(order, claim, population) for order in found)
    assert false <= (1 - confidence) * len(found)


def test_bets_with_replacement_certify_falsely_in_at_most_131_of_2000_runs() -> None:
    seed = 20
    assert quantile(RUNS, 0.05) == MOST
    false = betting(seed, 0.95, CLAIM, labels=600)
    assert 0 < false <= MOST, f"{false} of {RUNS}, seed {seed}"


def test_bets_without_replacement_certify_falsely_in_at_most_131_of_2000_runs() -> None:
    seed = 21
    false = betting_finite(seed, right=379, population=400, claim=CLAIM)
    assert 0 < false <= MOST, f"{false} of {RUNS}, seed {seed}"


GRIDS = {
    "all levels are false": ([(150, 142), (300, 284), (450, 427), (600, 569)], 0),
    "the strictest is true": ([(150, 149), (300, 284), (450, 420), (600, 569)], 1),
}


@pytest.mark.parametrize("design", Design)
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_certifies_a_false_level_in_at_most_131_of_2000_runs(name: str, design: Design) -> None:
    levels, true = GRIDS[name]
    seed = 22
    counts = grid(seed, levels, CLAIM, sample=400, design=design)
    false = sum(counts[true + 1 :])
    assert false <= MOST, f"{false} of {RUNS}, seed {seed}"
    assert counts[0] < RUNS, "it can certify at all"


def test_a_good_policy_is_certified() -> None:
    assert betting(23, 0.99, CLAIM, labels=600, runs=200) >= 190
    assert grid(24, [(150, 150), (300, 299), (600, 590)], CLAIM, 400, Design.SEQUENTIAL, runs=100)[3] >= 75


@pytest.mark.parametrize("share", [0.8, 0.9, 0.95])
def test_p_values_are_those_of_mapie(share: float) -> None:
    """Learn then test with a binary loss: the smaller one of the binomial tail and Hoeffding's bound above it."""
    claim = Claim.at_least(share, 0.95)
    for n in (16, 64, 128, 512):  # powers of 2: k / n * n is k
        wrong = np.arange(0, n + 1, max(1, n // 16))
        theirs = compute_hoeffding_bentkus_p_value(wrong / n, n, 1 - share, binary=True)[:, 0]
        assert [p_value(int(k), n, claim) for k in wrong] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_grid_stops_where_mapie_stops(seed: int) -> None:
    values = np.random.default_rng(seed).random(8) * 0.1
    theirs = control_fwer(values, 0.05, "fixed_sequence")
    assert list(range(certified(value <= 0.05 for value in values))) == list(theirs)


@pytest.mark.parametrize(("wrong", "n"), [(0, 59), (1, 93), (3, 40), (10, 200)])
def test_bounds_are_those_of_clopper_and_pearson(wrong: int, n: int) -> None:
    """The definition: at the bound, so few wrong ones or fewer have a chance of 5 %. For precision: the lower bound."""
    bound = upper_bound(wrong, n, 0.95)
    chance = sum(math.comb(n, k) * bound**k * (1 - bound) ** (n - k) for k in range(wrong + 1))
    assert chance == pytest.approx(0.05)
    assert 1 - bound == pytest.approx(beta.ppf(0.05, n - wrong, wrong + 1))


def test_known_bounds() -> None:
    assert round(1 - upper_bound(0, 14, 0.95), 3) == 0.807
    assert round(1 - upper_bound(0, 17, 0.95), 3) == 0.838
    assert upper_bound(0, 0, 0.95) == upper_bound(7, 7, 0.95) == 1
    assert upper_bound(0, 100, 0.95, 100) == 0
    assert upper_bound(3, 100, 0.95, 100) == 0.03


@pytest.mark.parametrize(("wrong", "n", "population"), [(0, 39, 100), (2, 60, 100), (5, 80, 400), (0, 1, 3)])
def test_the_bound_of_a_known_population_is_its_worst_that_is_not_excluded(wrong: int, n: int, population: int) -> None:
    count = round(upper_bound(wrong, n, 0.95, population) * population)
    assert hypergeom.cdf(wrong, population, count, n) > 0.05
    if count < population - (n - wrong):
        assert hypergeom.cdf(wrong, population, count + 1, n) <= 0.05


@pytest.mark.parametrize("population", [None, 300, 5_000])
def test_what_is_certified_is_what_the_bound_says(population: int | None) -> None:
    labels = [True] * 60 + [False] + [True] * 120 + [False] + [True] * 40
    for bound, passes in (
        (sequential_bound(labels, 0.95, population), lambda claim: sequential(labels, claim, population)),
        (upper_bound(2, 222, 0.95, population), lambda claim: p_value(2, 222, claim, population) <= claim.delta),
    ):
        assert 0.005 < bound < 0.06
        assert passes(Claim.at_most(bound + 1e-6, 0.95))
        assert not passes(Claim.at_most(bound - 0.004, 0.95))


def test_a_sequential_bound_covers_the_truth() -> None:
    """In runs that end where the bound looks best. The share of runs in which it does not cover has the same limit."""
    seed, runs = 25, 150
    rng = np.random.default_rng(seed)
    outside = sum(sequential_bound((rng.random(80) < 0.9).tolist(), 0.95) < 0.1 for _ in range(runs))
    assert outside <= quantile(runs, 0.05), f"{outside} of {runs}, seed {seed}"


def test_labels_that_are_missing_never_help() -> None:
    labels: list[bool | None] = [True] * 120
    assert shows(labels, CLAIM, Design.FIXED, 10_000)
    assert shows([*labels[:119], None], CLAIM, Design.FIXED, 10_000), "if it were wrong, the others would do"
    half = examined([*labels[:57], *[None] * 63], CLAIM, Design.FIXED, 10_000)
    assert (half.passed, half.n, half.wrong, half.missing, half.further) == (False, 120, 63, 63, 62)
    gap = examined([*labels[:50], None, *labels[:69]], CLAIM, Design.SEQUENTIAL, 10_000)
    assert (gap.passed, gap.n, gap.missing, gap.further) == (False, 50, 70, 40)
    assert examined([*labels[:50], False, *labels[:69]], CLAIM, Design.SEQUENTIAL, 10_000).n == 120
    for design in Design:
        filled = examined([True, False, None, True], CLAIM, design, 10_000)
        assert not filled.passed
        assert filled.bound >= examined([True, False, True, True], CLAIM, design, 10_000).bound


def test_so_many_labels_are_missing_at_the_least() -> None:
    assert further_right([], CLAIM, 10_000) == 90
    assert sequential([True] * 90, CLAIM, 10_000)
    assert not sequential([True] * 89, CLAIM, 10_000)
    start = [True] * 40 + [False] * 2
    more = further_right(start, CLAIM, 10_000)
    assert more is not None
    assert sequential([*start, *[True] * more], CLAIM, 10_000)
    assert not sequential([*start, *[True] * (more - 1)], CLAIM, 10_000)
    assert further_right([False] * 6, CLAIM, 100) is None, "of 100, 5 may be wrong"
    assert further_right([False] * 5, CLAIM, 100) == 95, "then all of the others must be right"
    assert examined([True] * 30, CLAIM, Design.FIXED, 1_000).further is None
    assert examined([True] * 59, CLAIM, Design.FIXED, 1_000).further == 0


def test_an_estimate_of_labels_follows_the_rate() -> None:
    start = [True] * 98 + [False] * 2
    few, many = expected_labels([True] * 50, CLAIM, 10**6), expected_labels(start, CLAIM, 10**6)
    assert few == further_right([True] * 50, CLAIM, 10**6)
    assert many is not None
    assert 60 < many < 400
    assert expected_labels([True] * 9 + [False], CLAIM, 10**6) is None, "90 % is not 95 %"
    assert expected_labels([], CLAIM, 10**6) is None


def test_a_population_that_is_labelled_leaves_no_doubt() -> None:
    assert sequential([*[True] * 19, False], CLAIM, 20)
    assert not sequential([*[True] * 18, False, False], CLAIM, 20)
    assert sequential_bound([*[True] * 19, False], 0.95, 20) == pytest.approx(0.05, abs=1e-6)
    assert p_value(1, 20, CLAIM, 20) == 0
    assert p_value(2, 20, CLAIM, 20) == 1


def test_shares_are_taken_as_they_are_written() -> None:
    """0.9 of 10 leaves one that may be wrong, although 1 - 0.9 is less than a tenth in floating point."""
    claim = Claim.at_least(0.9, 0.95)
    assert claim.least_right(10) == 9
    assert p_value(1, 10, claim, 10) == 0
    assert Claim.at_most(0.1, 0.95) == claim
    assert claim.delta == 0.05


def test_thousands_of_labels_overflow_nothing() -> None:
    labels = np.ones(50_000, dtype=bool)
    assert np.isfinite(log_wealth(labels, CLAIM)).all()
    assert log_wealth(labels, CLAIM, 52_000).max() == math.inf
    assert sequential(np.concatenate([labels[:200], np.zeros(5_000, dtype=bool)]), CLAIM), "it was certified before"


def test_what_recall_on_all_traffic_costs() -> None:
    assert recall_cost(0.9, 0.95, 0.005) == 5_393
    assert recall_cost(0.9, 0.95, 0.001) > 5 * recall_cost(0.9, 0.95, 0.0051)
