"""Exact intervals of a rate: Clopper and Pearson, Biometrika 26 (1934), 404."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends of an interval of a rate, from 0 to 1."""

    low: float
    high: float


def interval(hits: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """The two-sided interval of a rate of which `hits` were seen in `trials`. Without trials: all rates.

    It covers the true rate in at least this share of samples, if the trials are drawn at random.
    """
    if not trials:
        return Interval(0.0, 1.0)
    found = binomtest(hits, trials).proportion_ci(confidence_level=confidence, method="exact")
    return Interval(float(found.low), float(found.high))
