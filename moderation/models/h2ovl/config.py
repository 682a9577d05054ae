"""config.json of model_type h2ovl_chat: the keys that decide anything here.

A key whose default differs between the two published repositories' classes must be in the file, as it is in both.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from moderation.models.shared.config_types import Count, Epsilon, Side
from moderation.models.shared.llama import LlamaConfig
from moderation.models.shared.vision import TowerConfig, TowerShape


class LlamaText(LlamaConfig):
    """`llm_config` of the 800m model."""

    model_type: Literal["llama"]


class MistralText(LlamaConfig):
    """`llm_config` of the 2b model, with the defaults of transformers' MistralConfig."""

    model_type: Literal["mistral"]
    intermediate_size: Count = 14_336
    num_key_value_heads: Count | None = 8
    max_position_embeddings: Count = 131_072
    sliding_window: Count | None = 4096


class VisionConfig(TowerConfig):
    """The tower's sizes. The class's own defaults are those of another, larger tower, so none is assumed."""

    layer_norm_eps: Epsilon = 1e-6
    hidden_act: Literal["gelu"] = "gelu"
    norm_type: Literal["layer_norm"]
    qk_normalization: Literal[False]
    qkv_bias: Literal[True]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size % self.patch_size or self.image_size // self.patch_size % 2:
            raise ValueError(
                f"image_size {self.image_size} must be an even number of patches of {self.patch_size} pixels: "
                "a token is made of 2 x 2 patches"
            )
        return self


class H2ovlConfig(BaseModel):
    """See the docstring of the module. max_dynamic_patch and its like are not here: the published chat reads none."""

    llm_config: Annotated[LlamaText | MistralText, Field(discriminator="model_type")]
    vision_config: VisionConfig
    force_image_size: Side | None = None
    downsample_ratio: float = 0.5
    ps_version: Literal["v2"]  # v1 puts the rows of a tile where the columns belong
    select_layer: int  # into the hidden states: 0 is the embedding, -1 the last layer's output
    template: Literal["h2ogpt2"]
    use_msac: bool = False  # a lone picture is cut twice, into two grids
    caution: str = ""  # not in published files: for checkpoints that are not fit to moderate

    @property
    def tower(self) -> TowerShape:
        vision = self.vision_config
        return vision.shape(self.select_layer + (vision.num_hidden_layers + 1 if self.select_layer < 0 else 0))

    @property
    def tile_tokens(self) -> int:
        """Positions that a tile takes in a prompt."""
        return (self.tower.grid // 2) ** 2

    @property
    def tile_work(self) -> int:
        """The tower's work for a tile, in tokens of the decoder. Only products with weights count."""
        return round(self.tower.work / self.llm_config.token_work)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        vision = self.vision_config
        if self.force_image_size not in {None, vision.image_size}:
            raise ValueError(
                f"force_image_size {self.force_image_size} is not vision_config.image_size {vision.image_size}: "
                "other positions for the tower's patches are not supported"
            )
        if self.downsample_ratio != 0.5:
            raise ValueError(f"downsample_ratio is {self.downsample_ratio}; only 0.5 is supported")
        if not 0 <= self.tower.layers <= vision.num_hidden_layers:
            raise ValueError(f"select_layer {self.select_layer} is outside {vision.num_hidden_layers} layers")
        return self
