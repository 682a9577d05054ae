"""What the labels of a random sample prove of a rate, with a confidence that holds for every sample size.

A claim is about the share of *wrong* groups in a population: false alarms above a threshold (precision), violations
below one (misses), violations of a pool that a threshold lets through (recall). It holds that this share is at most a
limit. A test certifies a false claim in at most 1 - confidence of all samples. Three designs:

fixed           n is fixed before labelling. Binomial tail: Clopper and Pearson, Biometrika 26 (1934), 404
finite          the same for a known population. Hypergeometric tail
sequential      may be looked at after each label. Betting: Waudby-Smith and Ramdas, "Estimating means of bounded random
                variables by betting", JRSS B 86 (2024), 1; without replacement as in section 5 there

Several thresholds are tested from strict to loose, each at the full 1 - confidence, up to the first that fails
(fixed-sequence testing: Bauer, Statistics in Medicine 10 (1991), 871). Nothing here is an approximation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import beta, binom, hypergeom

# Each is bet as this part of the most that can be bet without ruin. The wealth is their mean.
BETS = np.linspace(0.95 / 20, 0.95, 20)
MOST_LABELS = 10_000_000  # no sample is larger

Floats: TypeAlias = NDArray[np.float64]


class Design(StrEnum):
    """How labels are counted."""

    FIXED = "fixed"
    FINITE = "finite"
    SEQUENTIAL = "sequential"


@dataclass(frozen=True, slots=True)
class Claim:
    """At most this share of a population's groups is wrong, with this confidence."""

    limit: Fraction
    confidence: Fraction

    @classmethod
    def at_most(cls, share: float, confidence: float) -> Claim:
        """Shares as they are written: 0.1 is a tenth."""
        return cls(Fraction(str(share)), Fraction(str(confidence)))

    @classmethod
    def at_least(cls, share: float, confidence: float) -> Claim:
        """The same claim, by the share that is right."""
        return cls(1 - Fraction(str(share)), Fraction(str(confidence)))

    @property
    def delta(self) -> float:
        """The chance of a false certification."""
        return float(1 - self.confidence)

    def least_right(self, population: int) -> int:
        """How many groups of a population are right, at the least, where the claim is true."""
        return population - math.floor(self.limit * population)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What labels show for one claim."""

    passed: bool
    n: int  # labels that count
    wrong: int  # of these; in the designs for a fixed n, labels that are missing are among them
    missing: int  # labels of the sample that have not come yet, and count only then
    bound: float  # the share of wrong groups that is not exceeded, with the same confidence
    further: int | None  # the fewest labels to pass with, if each is right; 0: passed. None: the sample cannot pass


def p_value(wrong: int, n: int, claim: Claim, population: int | None = None) -> float:
    """The greatest chance of so few wrong groups, or fewer, among `n` if the claim is false. 1 without labels.

    population: groups from which the n were drawn without replacement; None: any number.
    """
    if not n:
        return 1.0
    if population is None:
        return float(binom.cdf(wrong, n, float(claim.limit)))
    worse = math.floor(claim.limit * population) + 1  # wrong groups in the best of the populations that break the claim
    return float(hypergeom.cdf(wrong, population, worse, n)) if worse <= population else 0.0


def upper_bound(wrong: int, n: int, confidence: float, population: int | None = None) -> float:
    """The share of wrong groups that is not exceeded, with this confidence. One-sided and exact; 1 without labels."""
    if wrong >= n:
        return 1.0
    if population is None:
        return float(beta.ppf(confidence, wrong + 1, n - wrong))
    delta = float(1 - Fraction(str(confidence)))
    low, high = wrong, population - (n - wrong)  # how many may be wrong, as far as the labels alone say
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if hypergeom.cdf(wrong, population, middle, n) > delta else (low, middle - 1)
    return low / population


def smallest_n(wrong: int, claim: Claim, population: int | None = None) -> int | None:
    """The fewest labels that certify with so many wrong ones. None: no number does."""
    low, high = wrong + 1, MOST_LABELS if population is None else population
    if high < low or p_value(wrong, high, claim, population) > claim.delta:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if p_value(wrong, middle, claim, population) <= claim.delta else (middle + 1, high)
    return low


def log_wealth(right: Sequence[bool] | NDArray[np.bool_], claim: Claim, population: int | None = None) -> Floats:
    """The logarithm of the wealth after each label, in the order of the draw. It begins with 0 before the first.

    A bet is on the next group being right. It is fair where the claim is just not true. The chance is p then. Without
    replacement it is (N p - S) / (N - i + 1), for S right ones before the label i. Wealth is infinite where no doubt
    is left.
    """
    hits = np.asarray(right, dtype=bool)
    n = len(hits)
    share = 1 - claim.limit
    before = np.cumsum(hits) - hits
    if population is None:
        chance, sure = np.full(n, float(share)), np.zeros(n, dtype=bool)
    else:
        chance = (float(share * population) - before) / (population - np.arange(n))
        sure = before + hits >= claim.least_right(population)
    chance = np.maximum(chance, 1e-12)  # where it is less, all is sure
    won, lost = np.log1p(BETS[:, None] * (1 / chance - 1)), np.log1p(-BETS)[:, None]
    logs = np.cumsum(np.where(hits, won, lost), axis=1)
    wealth = logsumexp(logs, axis=0) - math.log(len(BETS)) if n else np.empty(0)
    return np.concatenate(([0.0], np.where(sure, np.inf, wealth)))


def sequential(right: Sequence[bool] | NDArray[np.bool_], claim: Claim, population: int | None = None) -> bool:
    """Whether the wealth has reached 1 / delta after any of the labels."""
    if population is not None and claim.least_right(population) <= 0:
        return True
    return bool(log_wealth(right, claim, population).max() >= -math.log(claim.delta))


def sequential_bound(right: Sequence[bool], confidence: float, population: int | None = None) -> float:
    """The share of wrong groups that is not exceeded, with this confidence, after any number of labels.

    The claims that the labels certify are those from some limit upwards: the wealth falls as the limit does.
    """
    hits = np.asarray(right, dtype=bool)
    low, high = 0.0, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        passed = sequential(hits, Claim.at_most(middle, confidence), population)
        low, high = (low, middle) if passed else (middle, high)
    return high


def shows(labels: Sequence[bool | None], claim: Claim, design: Design, population: int) -> bool:
    """Whether labels certify a claim. labels: in the order of the draw, whether each is right; None: not labelled yet.

    population: the groups that the sample was drawn from. For a fixed n a missing label counts as wrong. The sequential
    design reads labels up to the first that is missing: those behind it wait.
    """
    if design is Design.SEQUENTIAL:
        return sequential([label is True for label in _read(labels)], claim, population)
    wrong = len(labels) - labels.count(True)
    return p_value(wrong, len(labels), claim, _finite(design, population)) <= claim.delta


def examined(labels: Sequence[bool | None], claim: Claim, design: Design, population: int) -> Evidence:
    """What labels show for a claim. The arguments are those of `shows`."""
    passed, confidence = shows(labels, claim, design, population), float(claim.confidence)
    if design is Design.SEQUENTIAL:
        right = [label is True for label in _read(labels)]
        bound = sequential_bound(right, confidence, population)
        further = 0 if passed else further_right(right, claim, population)
        return Evidence(passed, len(right), right.count(False), len(labels) - len(right), bound, further)
    finite = _finite(design, population)
    n, missing = len(labels), labels.count(None)
    wrong = n - labels.count(True)
    enough = (right for right in range(missing + 1) if p_value(wrong - right, n, claim, finite) <= claim.delta)
    return Evidence(passed, n, wrong, missing, upper_bound(wrong, n, confidence, finite), next(enough, None))


def _read(labels: Sequence[bool | None]) -> Sequence[bool | None]:
    return labels[: labels.index(None)] if None in labels else labels


def _finite(design: Design, population: int) -> int | None:
    return population if design is Design.FINITE else None


def further_right(right: Sequence[bool], claim: Claim, population: int) -> int | None:
    """How many more labels the sequential design needs if each is right. None: the population has too few groups."""
    left = population - len(right)
    for more in _doubled(left):
        wealth = log_wealth([*right, *[True] * more], claim, population)[len(right) :]
        reached = np.flatnonzero(wealth >= -math.log(claim.delta))
        if len(reached):
            return int(reached[0])
    return None


def expected_labels(right: Sequence[bool], claim: Claim, population: int) -> int | None:
    """An estimate of how many more labels the sequential design takes if the rate so far goes on.

    None: at that rate the population has too few groups, or the claim is not true. It is no guarantee.
    """
    if not right:
        return None
    rate, left = right.count(True) / len(right), population - len(right)
    for more in _doubled(left):
        evenly = np.floor(np.arange(1, more + 1) * rate) > np.floor(np.arange(more) * rate)
        wealth = log_wealth(np.concatenate([np.asarray(right, dtype=bool), evenly]), claim, population)[len(right) :]
        reached = np.flatnonzero(wealth >= -math.log(claim.delta))
        if len(reached):
            return int(reached[0])
    return None


def _doubled(most: int) -> Sequence[int]:
    """64, 128, 256 ... up to `most`, which is the last."""
    most = min(most, 1 << 16)  # more labels than any labeller gives
    return [*(1 << power for power in range(6, 17) if 1 << power < most), most] if most > 0 else []


def certified(passed: Iterable[bool]) -> int:
    """How many claims are certified, of those that are tested in turn: all before the first that does not pass."""
    return sum(1 for _ in itertools.takewhile(bool, passed))


def recall_cost(recall: float, confidence: float, prevalence: float) -> int:
    """Labels that show this recall on all traffic, at the least, whatever the design: without a miss among them.

    Each is of a post that was let through. prevalence: the share of all posts that violate. Where the recall is just
    the claimed one, about prevalence * (1 - recall) / recall of all posts are misses. A rate of misses below that must
    be shown, which takes ln(1 / delta) / rate labels.
    """
    return math.ceil(math.log(1 / (1 - confidence)) * recall / (prevalence * (1 - recall)))
