"""How often a claim that is false is certified: exactly, by enumeration, or in runs with a seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.stats import binom

from moderation.evaluation.certifying.certification import Claim, Design, certified, p_value, sequential, shows

RUNS = 2_000
MOST = 131  # of them: what 5 % exceed in one of a thousand trials


def most_of(runs: int, delta: float) -> int:
    """The 0.999 quantile of false certifications in so many runs at a rate of delta."""
    return int(binom.ppf(0.999, runs, delta))


def greatest(n: int, claim: Claim, population: int | None = None) -> int:
    """The most wrong ones of n with which a claim is certified; -1: none."""
    return next((k - 1 for k in range(n + 1) if p_value(k, n, claim, population) > claim.delta), n)


def fixed(n: int, claim: Claim, rate: Fraction) -> Fraction:
    """The exact chance that the binomial test certifies where groups are wrong at this rate."""
    most = greatest(n, claim)
    return sum((math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(most + 1)), Fraction(0))


def drawn(n: int, population: int, wrong: int, most: int) -> Fraction:
    """The exact chance of at most so many wrong ones among n that are drawn without replacement."""
    ways = (math.comb(wrong, k) * math.comb(population - wrong, n - k) for k in range(min(most, n) + 1))
    return Fraction(sum(ways), math.comb(population, n))


def orders(population: int, right: int) -> list[list[bool]]:
    """All orders in which a population can be drawn."""
    return [
        [place in places for place in range(population)]
        for places in map(set, itertools.combinations(range(population), right))
    ]


def betting(seed: int, rate: float, claim: Claim, labels: int, runs: int = RUNS) -> int:
    """In how many runs the betting test certifies, if it is looked at after each of these labels."""
    rng = np.random.default_rng(seed)
    return sum(sequential(rng.random(labels) < rate, claim) for _ in range(runs))


def betting_finite(seed: int, right: int, population: int, claim: Claim, runs: int = RUNS) -> int:
    """The same without replacement, up to the last group of the population."""
    rng = np.random.default_rng(seed)
    groups = np.arange(population) < right
    return sum(sequential(rng.permutation(groups), claim, population) for _ in range(runs))


def grid(
    seed: int, levels: Sequence[tuple[int, int]], claim: Claim, sample: int, design: Design, runs: int = RUNS
) -> list[int]:
    """How many runs certify 0, 1, 2 ... levels of a grid, by one sample of the loosest.

    levels: from strict to loose, how many groups reach it and how many of these are right.
    """
    reached = np.concatenate([[place] * (n - before) for place, (before, n) in enumerate(_steps(levels, 0))])
    right = np.concatenate(
        [
            np.arange(n - before) < (hits - hits_before)
            for (before, n), (hits_before, hits) in zip(_steps(levels, 0), _steps(levels, 1), strict=True)
        ]
    )
    rng = np.random.default_rng(seed)
    counts = [0] * (len(levels) + 1)
    for _ in range(runs):
        order = rng.permutation(len(right))[:sample]
        passed = (
            shows(right[order][reached[order] <= place].tolist(), claim, design, n)
            for place, (n, _) in enumerate(levels)
        )
        counts[certified(passed)] += 1
    return counts


def _steps(levels: Sequence[tuple[int, int]], part: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise([0, *(level[part] for level in levels)]))
