"""Strata: which posts of a population are judged again, and what that says of all of them.

Strata are cut by the old margin, the language, and whether there are pictures. The draws are shared out as Neyman did
(Journal of the Royal Statistical Society 97 (1934), 558): more where a change is likely, with a floor everywhere.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from scipy.stats import beta

FLOOR = 20  # draws of each stratum at least
DRAWS = 50  # a stratum has this many draws on average at least; else strata are cut more coarsely
LANGUAGES = 3  # that have strata of their own: the most frequent ones
OTHERS = "others"
NEAR = 2.0  # of a threshold, in margin: a factor of 7 in the odds


class Band(StrEnum):
    """Where the old margin lies between the thresholds."""

    FAR_BELOW = "far below review"
    BELOW = "below review"
    BETWEEN = "from review to remove"
    ABOVE = "at remove or above"
    FAR_ABOVE = "far above remove"
    UNKNOWN = "no score"


# How likely a post of a band gets another outcome, roughly. Wrong guesses cost precision and no validity.
LIKELY = {
    Band.FAR_BELOW: 0.01,
    Band.BELOW: 0.2,
    Band.BETWEEN: 0.3,
    Band.ABOVE: 0.2,
    Band.FAR_ABOVE: 0.01,
    Band.UNKNOWN: 0.1,
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What strata are cut by."""

    band: Band
    language: str
    pictures: bool


@dataclass(frozen=True, slots=True)
class Stratum:
    """A part of a population."""

    name: str
    size: int | None  # posts of it; None: it has no end, as all posts that are ever written
    judged: int  # posts of it that were drawn and judged


@dataclass(frozen=True, slots=True)
class Bounds:
    """An estimate with both ends of its interval, in the same unit."""

    low: float
    value: float
    high: float

    def per(self, divisor: float) -> Bounds:
        """All three, divided."""
        return Bounds(self.low / divisor, self.value / divisor, self.high / divisor)

    def less(self, other: Bounds) -> Bounds:
        """The difference. It holds where both intervals hold."""
        return Bounds(self.low - other.high, self.value - other.value, self.high - other.low)


_Key = tuple[Band, str | None, bool | None]  # of a stratum; None: it is not cut by that


@dataclass(frozen=True, slots=True)
class Draw:
    """The strata of a population, and which of its posts were drawn, in random order."""

    strata: tuple[Stratum, ...]
    chosen: tuple[tuple[int, ...], ...]  # by stratum: places in the population


def logit(probability: float) -> float:
    """The margin of a probability; infinite for 0 and 1."""
    if probability <= 0.0:
        return -math.inf
    return math.inf if probability >= 1.0 else math.log(probability / (1.0 - probability))


def band(margin: float, review: float, remove: float) -> Band:
    """The band of a margin. review, remove: thresholds, as probabilities."""
    low, high = logit(review), logit(remove)
    if margin < low:
        return Band.FAR_BELOW if margin < low - NEAR else Band.BELOW
    if margin < high:
        return Band.BETWEEN
    return Band.FAR_ABOVE if margin >= high + NEAR else Band.ABOVE


def nearness(margin: float, review: float, remove: float) -> float:
    """How far a margin is from the nearest threshold."""
    return min(abs(margin - logit(review)), abs(margin - logit(remove)))


def drawn(population: Sequence[Traits], total: int, seed: int) -> Draw:
    """Draws `total` posts uniformly without replacement within strata. A population that is not larger is drawn whole.

    The same population in the same order and the same seed give the same draw.
    """
    if total >= len(population):
        whole = (Stratum("all posts", len(population), len(population)),)
        return Draw(whole, (tuple(_shuffled(range(len(population)), seed)),))
    groups = _grouped(population, total)
    names = sorted(groups, key=str)
    weights = [sum(_weight(population[place]) for place in groups[name]) for name in names]
    shares = allocated([len(groups[name]) for name in names], weights, total)
    chosen = tuple(
        tuple(_shuffled(groups[name], f"{seed}/{name}")[:share]) for name, share in zip(names, shares, strict=True)
    )
    strata = tuple(Stratum(_named(name), len(groups[name]), share) for name, share in zip(names, shares, strict=True))
    return Draw(strata, chosen)


def allocated(sizes: Sequence[int], weights: Sequence[float], total: int, floor: int = FLOOR) -> list[int]:
    """Shares `total` draws out among strata: in proportion to the weights, with a floor, and at most all of each."""
    shares = [min(size, floor) for size in sizes]
    left = float(total - sum(shares))
    if left < 0:  # the floor takes more than there is: all get in proportion to it
        return _rounded([share * total / sum(shares) for share in shares], sizes, total)
    wanted = [float(share) for share in shares]
    open_strata = [place for place, size in enumerate(sizes) if wanted[place] < size]
    while left > 1e-9 and open_strata:
        whole = sum(weights[place] for place in open_strata) or 1.0
        rest = 0.0
        for place in open_strata:
            part = left * weights[place] / whole
            rest += max(0.0, wanted[place] + part - sizes[place])
            wanted[place] = min(float(sizes[place]), wanted[place] + part)
        left = rest
        open_strata = [place for place in open_strata if wanted[place] < sizes[place]]
    return _rounded(wanted, sizes, total)


def total_of(hits: Sequence[tuple[int, int]], strata: Sequence[Stratum], confidence: float) -> Bounds:
    """How many posts of all strata are hits. hits: for each stratum those for sure, and those at most, of the judged.

    The interval of each stratum has its share of the error, 1 - confidence, so that the sum holds with `confidence`
    (Bonferroni). A stratum that was judged whole has no error. Where a stratum has no end, it must be the only one, and
    the result is a share.
    """
    open_strata = sum(stratum.size is None or stratum.judged < stratum.size for stratum in strata)
    each = 1 - (1 - confidence) / max(1, open_strata)
    low, value, high = 0.0, 0.0, 0.0
    for (least, most), stratum in zip(hits, strata, strict=True):
        size = 1 if stratum.size is None else stratum.size
        low += float(_ends(least, stratum, each)[0])
        high += float(_ends(most, stratum, each)[1])
        value += size * least / stratum.judged if stratum.judged else 0.0
    return Bounds(low, value, high)


def _ends(hits: int, stratum: Stratum, confidence: float) -> tuple[float, float]:
    """Both ends of the number of hits in a stratum; of their share where the stratum has no end."""
    error, trials = (1 - confidence) / 2, stratum.judged
    if stratum.size is None:
        low = float(beta.ppf(error, hits, trials - hits + 1)) if hits else 0.0
        return low, float(beta.ppf(1 - error, hits + 1, trials - hits)) if hits < trials else 1.0
    return finite(hits, trials, stratum.size, error)


def finite(hits: int, trials: int, size: int, error: float) -> tuple[int, int]:
    """Both ends of the number of hits among `size`, of which `trials` were drawn without replacement.

    Clopper and Pearson's interval for the hypergeometric distribution: numbers that neither tail of `error` refuses.
    error: below 1/2.
    """
    return size - _most(trials - hits, trials, size, error), _most(hits, trials, size, error)


@lru_cache(maxsize=1 << 14)  # the same counts come for many cells
def _most(hits: int, trials: int, size: int, error: float) -> int:
    """The upper end of `finite`."""
    # P(X <= hits) falls as the number rises.
    return _last(hits, size - trials + hits, lambda number: _is_above(error, hits, (trials, number, size)))


def _is_above(error: float, hits: int, urn: tuple[int, int, int]) -> bool:
    """Whether P(X <= hits) > error < 1/2, of hypergeometric X. urn: as many draws, of so many among as many.

    The sum runs from `hits` down, as far as it can matter. scipy's is 60 times slower, and a comparison of six
    policies takes some 100,000 of them.
    """
    trials, number, size = urn
    if hits * size >= trials * number:  # at the mean or above: at the median or above
        return True
    others = size - number
    if trials - hits > others:
        return False
    log = _log_choose(number, hits) + _log_choose(others, trials - hits) - _log_choose(size, trials)
    term = total = math.exp(log)
    for count in range(hits, 0, -1):  # below the mean each term is a smaller part of the one before
        ratio = count * (others - trials + count) / ((number - count + 1) * (trials - count + 1))
        if total > error or total + term * ratio / (1 - ratio) <= error:
            break
        term *= ratio
        total += term
    return total > error


def _log_choose(all: int, chosen: int) -> float:
    return math.lgamma(all + 1) - math.lgamma(chosen + 1) - math.lgamma(all - chosen + 1)


def _last(first: int, last: int, holds: Callable[[int], bool]) -> int:
    """The last number for which it holds. It holds for the first, and from some number on for none."""
    while first < last:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if holds(middle) else (first, middle - 1)
    return first


def _grouped(population: Sequence[Traits], total: int) -> Mapping[_Key, list[int]]:
    """The places of the population by stratum, cut as finely as the number of draws allows."""
    frequent = {language for language, _ in Counter(traits.language for traits in population).most_common(LANGUAGES)}

    def full(traits: Traits) -> _Key:
        return traits.band, traits.language if traits.language in frequent else OTHERS, traits.pictures

    cuts: tuple[Callable[[Traits], _Key], ...] = (
        full,
        lambda traits: (traits.band, None, traits.pictures),
        lambda traits: (traits.band, None, None),
    )
    groups: dict[_Key, list[int]] = {}
    for cut in cuts:
        groups = defaultdict(list)
        for place, traits in enumerate(population):
            groups[cut(traits)].append(place)
        if len(groups) * DRAWS <= total:
            break
    return groups


def _named(key: _Key) -> str:
    place, language, pictures = key
    words = [f"{place}"]
    if language is not None:
        words.append(language or "language unknown")
    if pictures is not None:
        words.append("with pictures" if pictures else "text alone")
    return ", ".join(words)


def _weight(traits: Traits) -> float:
    likely = LIKELY[traits.band]
    return math.sqrt(likely * (1 - likely))


def _rounded(wanted: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Whole numbers with the sum `total`, or all there are: the largest remainders are rounded up."""
    shares = [min(size, math.floor(each + 1e-9)) for each, size in zip(wanted, sizes, strict=True)]
    order = sorted(range(len(shares)), key=lambda place: (shares[place] - wanted[place], place))
    missing = min(total, sum(sizes)) - sum(shares)
    while missing > 0:
        for place in order:
            if missing and shares[place] < sizes[place]:
                shares[place] += 1
                missing -= 1
    return shares


def _shuffled(places: Sequence[int], seed: int | str) -> list[int]:
    order = list(places)
    random.Random(f"{seed}").shuffle(order)  # noqa: S311  a draw that can be repeated
    return order
