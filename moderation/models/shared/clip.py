"""CLIP's vision tower, up to the layer whose features are used. Later layers are neither built nor run.

Names are those of the published checkpoints, `pre_layrnorm` included.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moderation.models.shared.vision import TowerLayer, TowerShape


class ClipVision(nn.Module):
    """Crops [n, 3, image, image], normalised -> features of the patches [n, grid * grid, hidden], row-major.

    class_token: the features of the class token are the first row, [n, 1 + grid * grid, hidden].
    """

    def __init__(self, shape: TowerShape, *, class_token: bool = False) -> None:
        super().__init__()
        self.class_token = class_token
        self.embeddings = _Embeddings(shape)
        self.pre_layrnorm = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(TowerLayer(shape) for _ in range(shape.layers))})

    def forward(self, crops: Tensor) -> Tensor:
        hidden: Tensor = self.pre_layrnorm(self.embeddings(crops))
        layers = self.encoder["layers"]
        for layer in layers.children():
            hidden = layer(hidden)
        return hidden if self.class_token else hidden[:, 1:]


class _Embeddings(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(shape.hidden))
        self.patch_embedding = nn.Conv2d(3, shape.hidden, kernel_size=shape.patch, stride=shape.patch, bias=False)
        self.position_embedding = nn.Embedding(shape.grid**2 + 1, shape.hidden)

    def forward(self, crops: Tensor) -> Tensor:
        patches = self.patch_embedding(crops).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(crops), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight
