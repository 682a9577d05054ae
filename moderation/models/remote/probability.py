"""Probabilities of model servers as scores."""

from __future__ import annotations

import math

from moderation.types import Score

SURE = 1e-6  # for its margin, a probability is at least this far from 0 and from 1
ROUNDING = 1e-6  # sums in float32 may exceed 1 by this much


def score_of(probability: object, mass: float | None = None) -> Score:
    """The score of a probability of Yes. Raises ValueError if it is no number from 0 to 1.

    probability: as JSON had it. mass: share of the softmax that the answer tokens hold; None: the server does not say.
    """
    if isinstance(probability, bool) or not isinstance(probability, float | int):
        raise ValueError("the probability is no number")  # noqa: TRY004  servers' replies: see Wire
    if not -ROUNDING <= probability <= 1 + ROUNDING:  # NaN is refused, too
        raise ValueError("the probability is not in 0..1")
    bounded = min(1.0, max(0.0, float(probability)))
    inner = min(1 - SURE, max(SURE, bounded))
    return Score(bounded, math.log(inner) - math.log1p(-inner), mass)
