"""Many questions about one post in one forward pass: what they share is computed once.

A post is a tree: a shared part, and one branch a question. Posts stand in one packed sequence without padding,

    [shared of post 1, its branch 1, its branch 2, ..., shared of post 2, ...]

A branch sees its own post's shared part and itself, and continues the positions of the shared part. So a question's
score is that of a prompt with this question alone, whatever stands beside it. Layers that treat tokens one by one run
over the whole sequence; only attention knows of the tree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moderation.models.shared.attention import of_scored, of_tokens
from moderation.models.shared.decoder import Attend
from moderation.models.shared.packed import Packed, Span, Tree, pack
from moderation.types import Score

__all__ = ["Packed", "Span", "Tree", "answers", "attention", "attention_of_scored", "pack"]


def attention(packed: Packed) -> Attend:
    """What every token sees."""
    return of_tokens(packed)


def attention_of_scored(packed: Packed) -> Attend:
    """What the scored tokens see: for the last layer."""
    return of_scored(packed)


def answers(logits: Tensor, yes: int, no: int) -> list[Score]:
    """The scores in full-vocabulary logits [questions, vocabulary], float32. Raises ArithmeticError if not finite."""
    pair = logits[:, [yes, no]].double()
    mass = (pair.logsumexp(-1) - logits.double().logsumexp(-1)).exp()
    rows = torch.stack([pair[:, 0] - pair[:, 1], mass], dim=-1).tolist()
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ArithmeticError("the model's logits are not finite")
    return [Score(probability=_sigmoid(margin), margin=margin, mass=min(mass, 1.0)) for margin, mass in rows]


def _sigmoid(margin: float) -> float:
    return 1 / (1 + math.exp(-margin)) if margin > -700 else 0.0  # exp overflows a float from about 709 on
