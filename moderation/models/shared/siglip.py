"""SigLIP's vision tower, up to the layer whose features are used. Later layers and the pooling head are not built.

It has no class token: every feature is a patch's. Names are those of the published checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn

from moderation.models.shared.vision import TowerLayer, TowerShape


class SiglipVision(nn.Module):
    """Pictures [n, 3, image, image], normalised -> features of the patches [n, grid * grid, hidden], row-major."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.embeddings = _Embeddings(shape)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(TowerLayer(shape) for _ in range(shape.layers))})

    def forward(self, pictures: Tensor) -> Tensor:
        hidden: Tensor = self.embeddings(pictures)
        layers = self.encoder["layers"]
        for layer in layers.children():
            hidden = layer(hidden)
        return hidden


class _Embeddings(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, shape.hidden, kernel_size=shape.patch, stride=shape.patch)
        self.position_embedding = nn.Embedding(shape.grid**2, shape.hidden)

    def forward(self, pictures: Tensor) -> Tensor:
        patches: Tensor = self.patch_embedding(pictures).flatten(2).transpose(1, 2)
        return patches + self.position_embedding.weight
