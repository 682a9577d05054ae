"""Scores read from logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moderation.types import Score


def scores(logits: Tensor, yes: Sequence[int], no: Sequence[int]) -> list[Score]:
    """One score for each row of full-vocabulary logits, float32 [questions, vocabulary].

    yes, no: the ids of each answer; the probabilities of its spellings are summed. Raises ArithmeticError when a score
    is not finite.
    """
    pair = torch.stack([logits[:, list(ids)].double().logsumexp(-1) for ids in (yes, no)], dim=-1)
    mass = (pair.logsumexp(-1) - logits.double().logsumexp(-1)).exp()
    rows = torch.stack([pair[:, 0] - pair[:, 1], mass], dim=-1).tolist()
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ArithmeticError("the model's logits are not finite")
    return [Score(probability=_sigmoid(margin), margin=margin, mass=min(mass, 1.0)) for margin, mass in rows]


def _sigmoid(margin: float) -> float:
    return 1 / (1 + math.exp(-margin)) if margin > -700 else 0.0  # exp overflows a float from about 709 on
