"""BLIP-2's Q-Former: learnt queries read the tokens of a vision tower, and become the tokens of a picture.

A BERT with norms behind each part. Its text side is neither built nor run. Names are those of BLIP-2's files.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from moderation.models.shared.linear import Linear

CROSS_EVERY = 2  # layers 0, 2, 4 and so on read the tower's tokens


@dataclass(frozen=True, slots=True)
class QFormerShape:
    """Sizes. `tower`: of one token of the vision tower. `queries`: tokens of a picture."""

    hidden: int
    intermediate: int
    heads: int
    layers: int
    queries: int
    tower: int
    eps: float

    def work(self, tokens: int) -> int:
        """Multiplications with weights for one picture of so many tokens of the tower."""
        each = self.queries * self.hidden * (4 * self.hidden + 2 * self.intermediate)
        crossing = self.queries * 2 * self.hidden**2 + tokens * 2 * self.tower * self.hidden
        return self.layers * each + -(-self.layers // CROSS_EVERY) * crossing


class QFormer(nn.Module):
    """Queries [1, queries, hidden] and tokens of pictures [n, tokens, tower] -> [n, queries, hidden]."""

    def __init__(self, shape: QFormerShape) -> None:
        super().__init__()
        self.bert = _Bert(shape)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        states: Tensor = self.bert(queries, tokens)
        return states


class _Bert(nn.Module):
    def __init__(self, shape: QFormerShape) -> None:
        super().__init__()
        layers = nn.ModuleList(_Layer(shape, crosses=place % CROSS_EVERY == 0) for place in range(shape.layers))
        self.embeddings = nn.ModuleDict({"LayerNorm": nn.LayerNorm(shape.hidden, eps=shape.eps)})
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.embeddings["LayerNorm"](queries).expand(len(tokens), -1, -1)
        for layer in self.encoder["layer"].children():
            hidden = layer(hidden, tokens)
        return hidden


class _Layer(nn.Module):
    def __init__(self, shape: QFormerShape, *, crosses: bool) -> None:
        super().__init__()
        self.attention = _Attention(shape, shape.hidden)
        self.crossattention = _Attention(shape, shape.tower) if crosses else None
        self.intermediate_query = nn.ModuleDict({"dense": Linear(shape.hidden, shape.intermediate)})
        self.output_query = _Output(shape, shape.intermediate)

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        hidden = self.attention(hidden, hidden)
        if self.crossattention is not None:
            hidden = self.crossattention(hidden, tokens)
        wide = functional.gelu(self.intermediate_query["dense"](hidden))
        out: Tensor = self.output_query(wide, hidden)
        return out


class _Attention(nn.Module):
    """Each of `hidden` reads all of `source`; added to `hidden` and normed."""

    def __init__(self, shape: QFormerShape, source: int) -> None:
        super().__init__()
        self.heads = shape.heads
        projections = {
            "query": Linear(shape.hidden, shape.hidden),
            "key": Linear(source, shape.hidden),
            "value": Linear(source, shape.hidden),
        }
        self.add_module("self", nn.ModuleDict(projections))  # the published name
        self.output = _Output(shape, shape.hidden)

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        projections = self.get_submodule("self")
        query, key, value = (
            projection(read).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, read in zip(projections.children(), (hidden, source, source), strict=True)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(-2), hidden)
        return out


class _Output(nn.Module):
    """A projection, added to what the part began with, and normed."""

    def __init__(self, shape: QFormerShape, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, shape.hidden)
        self.LayerNorm = nn.LayerNorm(shape.hidden, eps=shape.eps)

    def forward(self, wide: Tensor, before: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(wide) + before)
        return out
