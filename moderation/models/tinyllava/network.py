"""TinyLLaVA's network in its three layouts: Phi-2 or TinyLlama behind SigLIP or CLIP, and two matrices between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from moderation.models.shared import checkpoint, rotary
from moderation.models.shared.clip import ClipVision
from moderation.models.shared.decoder import Decoder, Rotary
from moderation.models.shared.linear import Linear
from moderation.models.shared.llama import LlamaDecoder
from moderation.models.shared.network import LanguageNetwork
from moderation.models.shared.phi import PhiConfig, PhiDecoder
from moderation.models.shared.picture import on_device
from moderation.models.shared.siglip import SiglipVision
from moderation.models.shared.tree import Packed
from moderation.models.tinyllava.config import Architecture
from moderation.models.tinyllava.preprocessing import Square, normalised

# Pictures in one launch of the tower. This bounds its activations, which should fit a CPU's caches.
PICTURES_AT_ONCE = {"cuda": 16, "meta": 16, "cpu": 2}
TOWER = "vision_model."  # before the tensors' names of a tower in a checkpoint of its own


class TinyLlavaNetwork(LanguageNetwork):
    """The whole checkpoint: ids and pictures in, logits out."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        config, tower = architecture.decoder, architecture.tower
        self.model: Decoder = PhiDecoder(config) if isinstance(config, PhiConfig) else LlamaDecoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=architecture.head_bias)
        self.vision_tower: nn.Module = (
            ClipVision(tower, class_token=architecture.class_token) if architecture.clip else SiglipVision(tower)
        )
        self.projector = nn.Sequential(
            Linear(tower.hidden, config.hidden_size), nn.GELU(), Linear(config.hidden_size, config.hidden_size)
        )

    @property
    def decoder(self) -> Decoder:
        """See LanguageNetwork."""
        return self.model

    @property
    def head(self) -> Linear:
        """See LanguageNetwork."""
        return self.lm_head

    def rotary(self, packed: Packed, variants: Sequence[int], dtype: torch.dtype) -> Rotary:
        """See LanguageNetwork. There are no variants."""
        config = self.architecture.decoder
        if isinstance(config, PhiConfig):
            return config.rotary(packed.positions, dtype)
        return rotary.plain(packed.positions, theta=config.rope_theta, pairs=config.head_size // 2, dtype=dtype)

    def embed_images(self, pictures: Sequence[Square]) -> list[Tensor]:
        """The features of pictures, [tokens, hidden] each."""
        if not pictures:
            return []
        squares, table = torch.stack([picture.bytes for picture in pictures]), pictures[0].table
        squares = on_device(squares, self.device)
        table = table.to(self.device)
        features = [
            self.vision_tower(normalised(part, table).to(self.dtype))[:, self.architecture.skipped :]
            for part in torch.split(squares, PICTURES_AT_ONCE[self.device.type])
        ]
        projected: Tensor = self.projector(torch.cat(features))
        return list(projected.unbind())


def read(
    folder: Path, architecture: Architecture, tokens: int, *, dtype: torch.dtype, device: torch.device
) -> TinyLlavaNetwork:
    """The network with the folder's weights. Raises ConfigError naming what in the folder is wrong.

    tokens: how many the tokenizer has, see Architecture.only_tokens.
    """
    with checkpoint.meta_modules():
        network = TinyLlavaNetwork(architecture)
    tower = network.vision_tower

    def published(name: str) -> str:
        return architecture.names.tower + name.removeprefix(TOWER)

    if architecture.tower_folder is not None:
        checkpoint.load_weights(
            tower,
            architecture.tower_folder,
            dtype=dtype,
            device=device,
            # Of a whole SigLIP, the original takes the vision tower.
            unused=lambda name: not name.startswith(TOWER) or architecture.unused(published(name)),
            published=lambda name: TOWER + name,
        )
        network.vision_tower = nn.Identity()
    checkpoint.load_weights(
        network, folder, dtype=dtype, device=device, unused=architecture.unused, published=architecture.published
    )
    network.vision_tower = tower
    if architecture.only_tokens:
        for module in (network.model.embed_tokens, network.lm_head):
            module.weight = nn.Parameter(module.weight[:tokens].clone(), requires_grad=False)
    return network
