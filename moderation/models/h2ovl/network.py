"""The networks of h2oai/h2ovl-mississippi-800m and -2b, from their own files.

Modules are named so that the published tensors fit without renaming. The two differ in their config.json alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from moderation.models.h2ovl.config import H2ovlConfig
from moderation.models.h2ovl.preprocessing import Tiles
from moderation.models.h2ovl.vision import InternVision
from moderation.models.shared import checkpoint, rotary
from moderation.models.shared.decoder import Decoder, Rotary
from moderation.models.shared.linear import Linear
from moderation.models.shared.llama import LlamaDecoder
from moderation.models.shared.network import LanguageNetwork
from moderation.models.shared.tree import Packed

# Tiles in one launch of the tower. This bounds its activations, which should fit a CPU's caches.
TILES_AT_ONCE = {"cuda": 64, "meta": 64, "cpu": 2}
PROJECTOR_EPS = 1e-5


class H2ovlNetwork(LanguageNetwork):
    """The whole checkpoint: ids and tiles in, logits out."""

    def __init__(self, config: H2ovlConfig) -> None:
        super().__init__()
        self.config = config
        text, wide = config.llm_config, 4 * config.tower.hidden
        self.vision_model = InternVision(config.tower)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(wide, eps=PROJECTOR_EPS),
            Linear(wide, text.hidden_size),
            nn.GELU(),
            Linear(text.hidden_size, text.hidden_size),
        )
        self.language_model = nn.ModuleDict(
            {"model": LlamaDecoder(text), "lm_head": Linear(text.hidden_size, text.vocab_size, bias=False)}
        )

    @property
    def decoder(self) -> Decoder:
        """See LanguageNetwork."""
        return cast(Decoder, self.language_model["model"])

    @property
    def head(self) -> Linear:
        """See LanguageNetwork."""
        return cast(Linear, self.language_model["lm_head"])

    def rotary(self, packed: Packed, variants: Sequence[int], dtype: torch.dtype) -> Rotary:
        """See LanguageNetwork. There is one variant."""
        text = self.config.llm_config
        return rotary.plain(packed.positions, theta=text.rope_theta, pairs=text.head_size // 2, dtype=dtype)

    def embed_images(self, pictures: Sequence[Tiles]) -> list[Tensor]:
        """See LanguageNetwork."""
        if not pictures:
            return []
        pixels = torch.cat([picture.on(self.device).to(self.dtype) for picture in pictures])
        parts = torch.split(pixels, TILES_AT_ONCE[self.device.type])
        features = torch.cat([self.mlp1(self.shuffle(self.vision_model(part))) for part in parts])
        counts = [len(picture) for picture in pictures]
        return [rows.flatten(0, 1) for rows in torch.split(features, counts)]

    def shuffle(self, features: Tensor) -> Tensor:
        """[tiles, patches, hidden] -> [tiles, tokens, 4 * hidden]: 2 x 2 patches in one vector, row by row."""
        side = self.config.tower.grid // 2
        grid = features.reshape(len(features), side, 2, side, 2, -1)
        return grid.transpose(2, 3).reshape(len(features), side * side, -1)


def read(folder: Path, config: H2ovlConfig, *, dtype: torch.dtype, device: torch.device) -> H2ovlNetwork:
    """The network with the folder's weights. Raises ConfigError naming what in the folder is wrong."""
    with checkpoint.meta_modules():
        network = H2ovlNetwork(config)
    discarded = tuple(
        f"vision_model.encoder.layers.{layer}."
        for layer in range(config.tower.layers, config.vision_config.num_hidden_layers)
    )

    def unused(name: str) -> bool:
        # The last is in no published file, but in files that older tools have saved: constants.
        return name.startswith(discarded) or name.endswith(".rotary_emb.inv_freq")

    checkpoint.load_weights(network, folder, dtype=dtype, device=device, unused=unused)
    return network
