"""Draws a sample: uniformly, without replacement, and reproducible from a seed, in whatever order records come.

The seed gives each group a place in one order of all groups: SHA-256 over the seed, the score digest and the group. The
first groups of a region in this order are its sample. So a larger sample with the same seed begins with the smaller
one. With other words of the policy the same seed draws other groups: an author who mended the words knows the labels
of those that it drew before.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moderation.errors import ConfigError
from moderation.evaluation.samples.samples import Level, Region

DIGITS = 4  # of a threshold of a grid


@dataclass(frozen=True, slots=True)
class Scored:
    """A group of equal content, and the score by which it belongs to a region."""

    group: str  # digest
    score: float  # probability


def grid(scores: Iterable[float], loosest: float, steps: int) -> tuple[float, ...]:
    """Thresholds from strict to loose, the last of them `loosest`: each lets about as many groups in as the one before.

    scores: of all groups, without any label. Thresholds have DIGITS digits, and equal ones are one. Raises ConfigError
    where no group reaches `loosest`.
    """
    above = sorted(score for score in scores if score >= loosest)
    if not above:
        raise ConfigError(f"no group scores {loosest:g} or more: lower --threshold, or take a longer period")
    thresholds = {loosest}
    for step in range(1, steps):
        score = above[len(above) - math.ceil(step * len(above) / steps)]
        thresholds.add(max(loosest, math.floor(score * 10**DIGITS) / 10**DIGITS))
    return tuple(sorted(thresholds, reverse=True))


def levels(groups: Sequence[Scored], thresholds: Sequence[float], region: Region) -> tuple[Level, ...]:
    """How many groups reach each threshold; of the region ALLOW, how many lie below."""
    if region is Region.ALLOW:
        return tuple(Level(threshold, sum(each.score < threshold for each in groups)) for threshold in thresholds)
    return tuple(Level(threshold, sum(each.score >= threshold for each in groups)) for threshold in thresholds)


def level_of(score: float, thresholds: Sequence[float], region: Region) -> int | None:
    """The strictest level that a score reaches, of thresholds from strict to loose; None: it is not in the region."""
    if region is Region.ALLOW:
        return 0 if score < thresholds[0] else None
    level = bisect_left(thresholds, True, key=lambda threshold: score >= threshold)
    return level if level < len(thresholds) or region is Region.POOL else None


def order(groups: Iterable[str], seed: int, score_digest: str) -> list[str]:
    """All groups in the order in which this seed draws them for a score."""
    key = f"moderation.sample.2 {seed} {score_digest} ".encode()
    return sorted(groups, key=lambda group: hashlib.sha256(key + group.encode()).digest())
