"""TinyGPT-V's network: EVA ViT-g, a Q-Former, two projections, and a Phi-2 with norms of its own.

Modules are named as in the original code, so the converter need not rename. Only the decoder's last norm is called
otherwise, see `published`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, model_validator
from torch import Tensor, nn

from moderation.models.shared import checkpoint, phi
from moderation.models.shared.config_types import Count, Epsilon, Layers, Side, whole_heads
from moderation.models.shared.decoder import Decoder, Rotary
from moderation.models.shared.linear import Linear
from moderation.models.shared.network import LanguageNetwork
from moderation.models.shared.phi import PhiConfig, PhiDecoder
from moderation.models.shared.picture import normalised, on_device
from moderation.models.shared.tree import Packed
from moderation.models.shared.vision import TowerConfig, TowerShape
from moderation.models.tinygptv.eva import EvaVision
from moderation.models.tinygptv.preprocessing import MEAN, STD, Square
from moderation.models.tinygptv.qformer import QFormer, QFormerShape

# Pictures in one launch of the tower. This bounds its activations.
PICTURES_AT_ONCE = {"cuda": 64, "meta": 64, "cpu": 1}
DENSE_NORM_EPS = 1e-6  # of the RMSNorm behind attention, a constant of the original code
LANGUAGE = "llama_model.model."


class VisionConfig(TowerConfig):
    """The tower's sizes; EVA ViT-g's where config.json gives no other."""

    hidden_size: Count = 1408
    intermediate_size: Count = 6144
    num_hidden_layers: Layers = 39
    num_attention_heads: Count = 16
    image_size: Side = 224
    patch_size: Side = 14
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: Epsilon = 1e-6

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no whole number of patches of {self.patch_size} pixels")
        return self


class QFormerConfig(BaseModel):
    """The Q-Former's sizes; BLIP-2's where config.json gives no other."""

    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Count = 12
    num_query_tokens: Count = 32
    cross_attention_frequency: Literal[2] = 2
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: Epsilon = 1e-12

    @model_validator(mode="after")
    def _fits(self) -> Self:
        whole_heads(self.hidden_size, self.num_attention_heads)
        return self


class TinyGptvConfig(BaseModel):
    """config.json of a converted TinyGPT-V. arch: the trainer's name of the variant, which selects the template."""

    model_type: Literal["tinygptv"] = "tinygptv"
    arch: Literal["minigpt4", "minigpt_v2"]
    vision_config: VisionConfig
    vision_norm_eps: Epsilon = 1e-5
    qformer_config: QFormerConfig
    projection_size: Count = 4096
    text_config: PhiConfig
    caution: str = ""  # for checkpoints that are not fit to moderate

    @property
    def tower(self) -> TowerShape:
        return self.vision_config.shape(self.vision_config.num_hidden_layers)

    @property
    def qformer(self) -> QFormerShape:
        former = self.qformer_config
        return QFormerShape(
            hidden=former.hidden_size,
            intermediate=former.intermediate_size,
            heads=former.num_attention_heads,
            layers=former.num_hidden_layers,
            queries=former.num_query_tokens,
            tower=self.vision_config.hidden_size,
            eps=former.layer_norm_eps,
        )

    @property
    def picture_tokens(self) -> int:
        """Positions that a picture takes."""
        return self.qformer_config.num_query_tokens

    @property
    def picture_work(self) -> int:
        """A picture's way to its tokens, in tokens of the decoder. Only products with weights count."""
        projections = self.projection_size * (self.qformer_config.hidden_size + self.text_config.hidden_size)
        work = self.tower.work + self.qformer.work(1 + self.tower.grid**2) + self.picture_tokens * projections
        return max(1, round(work / self.text_config.token_work))


class _Language(nn.Module):
    """Phi-2, changed: a LayerNorm over each query and key head, and an RMSNorm behind attention."""

    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        self.model = PhiDecoder(config, norms_heads=True, dense_norm_eps=DENSE_NORM_EPS)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)


class TinyGptvNetwork(LanguageNetwork):
    """The whole checkpoint: ids and pictures in, logits out."""

    def __init__(self, config: TinyGptvConfig) -> None:
        super().__init__()
        self.config = config
        former, hidden = config.qformer_config, config.text_config.hidden_size
        self.visual_encoder = EvaVision(config.tower)
        self.ln_vision = nn.LayerNorm(config.vision_config.hidden_size, eps=config.vision_norm_eps)
        self.query_tokens = nn.Parameter(torch.empty(1, former.num_query_tokens, former.hidden_size))
        self.Qformer = QFormer(config.qformer)
        self.llama_proj = Linear(former.hidden_size, config.projection_size)
        self.llama_proj2 = Linear(config.projection_size, hidden)
        self.llama_model = _Language(config.text_config)

    @property
    def decoder(self) -> Decoder:
        """See LanguageNetwork."""
        return self.llama_model.model

    @property
    def head(self) -> Linear:
        """See LanguageNetwork."""
        return self.llama_model.lm_head

    def rotary(self, packed: Packed, variants: Sequence[int], dtype: torch.dtype) -> Rotary:
        """See LanguageNetwork.

        The original builds its tables while float16 is torch's default type, so their numbers are float16's in a
        float32 run, too.
        """
        return self.config.text_config.rotary(packed.positions, dtype, rounded=torch.float16)

    def embed_images(self, pictures: Sequence[Square]) -> list[Tensor]:
        """The features of each picture, [32, hidden]."""
        if not pictures:
            return []
        squares = torch.stack([picture.bytes for picture in pictures])
        pixels = normalised(on_device(squares, self.device), MEAN, STD).to(self.dtype)
        parts = torch.split(pixels, PICTURES_AT_ONCE[self.device.type])
        tokens = torch.cat([self.image_tokens(self.query_states(self.tower_tokens(part))) for part in parts])
        return list(tokens)

    def tower_tokens(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, side, side], normalised -> the tower's tokens behind their norm [n, 1 + patches, tower]."""
        normed: Tensor = self.ln_vision(self.visual_encoder(pixels))
        return normed

    def query_states(self, tokens: Tensor) -> Tensor:
        """The tower's tokens -> what the queries have read [n, 32, Q-Former]."""
        states: Tensor = self.Qformer(self.query_tokens, tokens)
        return states

    def image_tokens(self, states: Tensor) -> Tensor:
        """The queries' states -> tokens of the decoder [n, 32, hidden]."""
        tokens: Tensor = self.llama_proj2(self.llama_proj(states))
        return tokens


def published(name: str) -> str:
    """The name in the folder of a tensor of the network."""
    return LANGUAGE + phi.published(name.removeprefix(LANGUAGE)) if name.startswith(LANGUAGE) else name


def read(folder: Path, config: TinyGptvConfig, *, dtype: torch.dtype, device: torch.device) -> TinyGptvNetwork:
    """The network with the folder's weights. Raises ConfigError naming what in the folder is wrong."""
    with checkpoint.meta_modules():
        network = TinyGptvNetwork(config)
    checkpoint.load_weights(
        network, folder, dtype=dtype, device=device, unused=lambda _name: False, published=published
    )
    return network
