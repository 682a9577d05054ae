"""The networks of microsoft/Phi-3-vision-128k-instruct and microsoft/Phi-3.5-vision-instruct, from their own files.

Modules are named so that the published tensors fit without renaming. This module holds what differs from other
families: the fused projections, LongRoPE, the CLIP features tiled into tokens. Padded crops and the tower's last layer
are not run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import AliasChoices, BaseModel, Field, model_validator
from torch import Tensor, nn

from moderation.models.phi3.preprocessing import Crops, HdTransform
from moderation.models.shared import checkpoint
from moderation.models.shared.clip import ClipVision
from moderation.models.shared.config_types import Count, Epsilon, Layers, Number, Positive, Side, Theta, whole_groups
from moderation.models.shared.decoder import Attend, Block, Decoder, RMSNorm, Rotary, Scored, gated
from moderation.models.shared.linear import Linear
from moderation.models.shared.network import LanguageNetwork
from moderation.models.shared.tree import Packed
from moderation.models.shared.vision import TowerConfig, TowerShape

PREPROCESSOR = "preprocessor_config.json"
# Crops in one launch of the tower. This bounds its activations, which should fit a CPU's caches.
CROPS_AT_ONCE = {"cuda": 128, "meta": 128, "cpu": 4}
TOWER = "model.vision_embed_tokens.img_processor.vision_model."
SHORT, LONG = 0, 1  # variants of a prompt: which of LongRoPE's factors it takes


class VisionConfig(TowerConfig):
    """The tower's sizes; those of CLIP ViT-L/14-336 where config.json gives no other."""

    hidden_size: Count = 1024
    intermediate_size: Count = 4096
    num_hidden_layers: Layers = 24
    num_attention_heads: Count = 16
    image_size: Side = 336
    patch_size: Side = 14
    hidden_act: Literal["quick_gelu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size % self.patch_size or self.image_size // self.patch_size % 2:
            raise ValueError(
                f"image_size {self.image_size} must be an even number of patches of {self.patch_size} pixels: "
                "a token is made of 2 x 2 patches"
            )
        return self


class ImageConfig(BaseModel):
    """`img_processor`: which features of which vision tower."""

    name: Literal["clip_vision_model"]
    image_dim_out: Count | None = None
    layer_idx: int = -2  # into the hidden states: 0 is the embedding, -1 the last layer's output
    type_feature: Literal["patch"] = "patch"  # with the class token, the features would not form a grid
    vision_config: VisionConfig = VisionConfig()

    @property
    def layers(self) -> int:
        """How many layers of the tower come before the features."""
        return self.layer_idx + (self.vision_config.num_hidden_layers + 1 if self.layer_idx < 0 else 0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 <= self.layers <= self.vision_config.num_hidden_layers:
            raise ValueError(f"layer_idx {self.layer_idx} is outside {self.vision_config.num_hidden_layers} layers")
        if self.image_dim_out not in {None, self.vision_config.hidden_size}:
            raise ValueError(
                f"image_dim_out {self.image_dim_out} is not the tower's hidden_size {self.vision_config.hidden_size}"
            )
        return self


class EmbeddingConfig(BaseModel):
    """`embd_layer`: how features become tokens. No published checkpoint takes the original's defaults."""

    use_hd_transform: Literal[True]
    with_learnable_separator: Literal[True]
    projection_cls: Literal["mlp"]
    hd_transform_order: Literal["sub_glb", "glb_sub"] = "glb_sub"


class RopeScaling(BaseModel):
    """`rope_scaling`: a factor for each frequency, one list up to the original context and one beyond it."""

    kind: Literal["su", "longrope"] = Field(validation_alias=AliasChoices("type", "rope_type"))
    short_factor: list[Positive]
    long_factor: list[Positive]


class Phi3Config(BaseModel):
    """config.json of model_type phi3_v: the keys that decide anything here."""

    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Layers
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    hidden_act: Literal["silu"] = "silu"
    rms_norm_eps: Epsilon = 1e-5
    max_position_embeddings: Count
    original_max_position_embeddings: Annotated[int, Field(gt=1, le=1 << 20)] = 4096
    sliding_window: Count | None = None
    rope_theta: Theta = 10_000.0
    rope_scaling: RopeScaling
    tie_word_embeddings: Literal[False] = False
    img_processor: ImageConfig
    embd_layer: EmbeddingConfig
    caution: str = ""  # not in published files: for checkpoints that are not fit to moderate

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def tower(self) -> TowerShape:
        return self.img_processor.vision_config.shape(self.img_processor.layers)

    @property
    def crop_side(self) -> int:
        """Tokens along a side of a crop."""
        return self.tower.grid // 2

    @property
    def crop_work(self) -> int:
        """The tower's work for a crop, in tokens of the decoder. Only products with weights count."""
        width = self.num_attention_heads * self.head_size
        columns = 2 * width + 2 * self.kv_heads * self.head_size + 3 * self.intermediate_size
        return round(self.tower.work / (self.num_hidden_layers * self.hidden_size * columns))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not make {self.num_attention_heads} heads of an even size"
            )
        whole_groups(self.num_attention_heads, self.kv_heads)
        for name in ("short_factor", "long_factor"):
            if (count := len(getattr(self.rope_scaling, name))) != self.head_size // 2:
                raise ValueError(
                    f"rope_scaling.{name} has {count} factors where a head has {self.head_size // 2} pairs"
                )
        if self.sliding_window is not None and self.sliding_window < self.max_position_embeddings:
            raise ValueError(
                f"sliding_window {self.sliding_window} is shorter than max_position_embeddings "
                f"{self.max_position_embeddings}: attention within a window is not supported"
            )
        return self


class PreprocessorConfig(BaseModel):
    """preprocessor_config.json, with the defaults of the published processor's class."""

    num_crops: Annotated[int, Field(ge=1, le=64)] = 1  # as many as the setting takes
    image_mean: tuple[Number, Number, Number] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Positive, Positive, Positive] = (0.26862954, 0.26130258, 0.27577711)

    def transform(self, config: Phi3Config, num_crops: int | None = None) -> HdTransform:
        """The pictures' way into a network of this config. num_crops: another budget of crops."""
        budget = num_crops or self.num_crops
        return HdTransform(
            budget, config.tower.image, config.crop_side, self.image_mean, self.image_std, config.crop_work
        )


@dataclass(frozen=True, slots=True)
class LongRope:
    """Rotary angles, with the factors of each prompt's variant."""

    frequencies: Tensor  # float32 [2, pairs]: short, long
    scale: float

    @classmethod
    def of(cls, config: Phi3Config, device: torch.device) -> LongRope:
        factors = torch.tensor([config.rope_scaling.short_factor, config.rope_scaling.long_factor], device=device)
        exponents = torch.arange(0, config.head_size, 2, device=device).float() / config.head_size
        stretch = config.max_position_embeddings / config.original_max_position_embeddings
        return cls(
            frequencies=1.0 / (factors * config.rope_theta**exponents),
            scale=math.sqrt(1 + math.log(max(stretch, 1)) / math.log(config.original_max_position_embeddings)),
        )

    def at(self, packed: Packed, variants: Sequence[int], dtype: torch.dtype) -> Rotary:
        """The angles of every token. variants: SHORT or LONG for each tree."""
        lengths = [span.stop - span.start for span in packed.spans]
        device = packed.positions.device
        choice, count = torch.tensor([variants, lengths], dtype=torch.int64, device=device)
        choice = choice.repeat_interleave(count, output_size=len(packed.positions))
        angles = (packed.positions[:, None].float() * self.frequencies[choice])[:, None]
        return Rotary((angles.cos() * self.scale).to(dtype), (angles.sin() * self.scale).to(dtype))


class FusedAttention(nn.Module):
    """Query, key and value from one matrix, in this order."""

    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.heads, self.kv_heads = config.num_attention_heads, config.kv_heads
        self.qkv_proj = Linear(config.hidden_size, (self.heads + 2 * self.kv_heads) * self.head_size, bias=False)
        self.o_proj = Linear(self.heads * self.head_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend, scored: Scored | None = None) -> Tensor:
        if scored is None:
            fused = self.qkv_proj(hidden).unflatten(-1, (-1, self.head_size))
            rotated = rotary.apply(fused[:, : self.heads + self.kv_heads])
            query, key = rotated[:, : self.heads], rotated[:, self.heads :]
            mixed = attend(query, key, fused[:, self.heads + self.kv_heads :])
        else:
            split = self.heads * self.head_size
            query = self.qkv_proj.rows(hidden[scored.at], slice(split)).view(-1, self.heads, self.head_size)
            fused = self.qkv_proj.rows(hidden, slice(split, None)).view(len(hidden), -1, self.head_size)
            key, value = fused[:, : self.kv_heads], fused[:, self.kv_heads :]
            mixed = scored.attend(rotary.at(scored.at).apply(query), rotary.apply(key), value)
        out: Tensor = self.o_proj(mixed.flatten(1))
        return out


class FusedMlp(nn.Module):
    """Gate and up from one matrix, in this order."""

    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        out: Tensor = self.down_proj(gated(gate, up))
        return out


class VisionEmbedding(nn.Module):
    """Crops of pictures -> the tokens that stand in their place."""

    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.side = config.crop_side
        self.locals_first = config.embd_layer.hd_transform_order == "sub_glb"
        wide = 4 * config.tower.hidden
        self.glb_GN = nn.Parameter(torch.empty(1, 1, wide))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, wide))
        self.img_processor = nn.ModuleDict({"vision_model": ClipVision(config.tower)})
        self.img_projection = nn.Sequential(
            Linear(wide, config.hidden_size), nn.GELU(), Linear(config.hidden_size, config.hidden_size)
        )

    def forward(self, pictures: Sequence[Crops]) -> list[Tensor]:
        """The features of each picture, [tokens, hidden]."""
        pixels = torch.cat([picture.on(self.glb_GN.device).to(self.glb_GN) for picture in pictures])
        tower = self.img_processor["vision_model"]
        at_once = CROPS_AT_ONCE[self.glb_GN.device.type]
        features = torch.cat([self.merge(tower(part)) for part in torch.split(pixels, at_once)])
        parts = torch.split(features, [len(picture) for picture in pictures])
        rows = [self.arrange(part, picture) for part, picture in zip(parts, pictures, strict=True)]
        projected: Tensor = self.img_projection(torch.cat(rows))
        return list(torch.split(projected, [len(row) for row in rows]))

    def merge(self, features: Tensor) -> Tensor:
        """[n, patches, hidden] -> [n, side, side, 4 * hidden]: 2 x 2 patches in one vector, row by row."""
        grid = features.reshape(len(features), self.side, 2, self.side, 2, -1)
        return grid.transpose(2, 3).flatten(-3)

    def arrange(self, crops: Tensor, picture: Crops) -> Tensor:
        """Merged crops of a picture [1 + rows * cols, side, side, 4 * hidden], global first -> [tokens, 4 * hidden].

        The local crops row by row over the whole picture, and the global crop. Each row of tokens ends in a separator,
        and another separator stands between the two.
        """
        tiled = crops[1:].reshape(picture.rows, picture.cols, self.side, self.side, -1).transpose(1, 2)
        local = self._rows(tiled.reshape(picture.rows * self.side, picture.cols * self.side, -1))
        whole = self._rows(crops[0])
        order = [local, self.glb_GN[0], whole] if self.locals_first else [whole, self.glb_GN[0], local]
        return torch.cat(order)

    def _rows(self, grid: Tensor) -> Tensor:
        """[rows, cols, n] -> [rows * (cols + 1), n]: a separator after each row."""
        return torch.cat([grid, self.sub_GN[0].expand(len(grid), 1, -1)], dim=1).flatten(0, 1)


class Backbone(Decoder):
    """Phi-3's decoder, and the pictures' way into it."""

    def __init__(self, config: Phi3Config) -> None:
        blocks = (
            Block(FusedAttention(config), FusedMlp(config), config.hidden_size, config.rms_norm_eps)
            for _ in range(config.num_hidden_layers)
        )
        super().__init__(
            config.vocab_size, config.hidden_size, blocks, RMSNorm(config.hidden_size, config.rms_norm_eps)
        )
        self.vision_embed_tokens = VisionEmbedding(config)


class Phi3Network(LanguageNetwork):
    """The whole checkpoint: ids and crops in, logits out."""

    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def decoder(self) -> Backbone:
        """See LanguageNetwork."""
        return self.model

    @property
    def head(self) -> Linear:
        """See LanguageNetwork."""
        return self.lm_head

    def variant(self, tokens: int) -> int:
        """LONG beyond the original context, else SHORT."""
        return LONG if tokens > self.config.original_max_position_embeddings else SHORT

    def rotary(self, packed: Packed, variants: Sequence[int], dtype: torch.dtype) -> Rotary:
        """See LanguageNetwork. variants: SHORT or LONG for each tree."""
        return LongRope.of(self.config, self.device).at(packed, variants, dtype)

    def embed_images(self, pictures: Sequence[Crops]) -> list[Tensor]:
        """The features of pictures, [tokens, hidden] each."""
        return self.model.vision_embed_tokens(pictures) if pictures else []


def read(folder: Path, *, dtype: torch.dtype, device: torch.device) -> Phi3Network:
    """The network with the folder's weights. Raises ConfigError naming what in the folder is wrong."""
    config = checkpoint.parse(folder / checkpoint.CONFIG, Phi3Config)
    with checkpoint.meta_modules():
        network = Phi3Network(config)
    discarded = tuple(
        f"{TOWER}encoder.layers.{layer}."
        for layer in range(config.img_processor.layers, config.img_processor.vision_config.num_hidden_layers)
    )

    def unused(name: str) -> bool:
        # The last three are in no published file, but in files that other tools have saved: constants, and the
        # embedding under its second name.
        return name.startswith((*discarded, f"{TOWER}post_layernorm.")) or name.endswith(
            (".embeddings.position_ids", ".rotary_emb.inv_freq", ".vision_embed_tokens.wte.weight")
        )

    checkpoint.load_weights(network, folder, dtype=dtype, device=device, unused=unused)
    return network
