"""config.json of the three published layouts, and what each comes down to.

tinyllava        Factory layout, as tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B: Phi-2 and SigLIP
tiny_llava_phi   legacy layout, as bczhou/TinyLLaVA-3.1B: Phi-2 and SigLIP, whose tensors may lie in a checkpoint of
                 their own
llava            stock Llava layout, as bczhou/tiny-llava-v1-hf: TinyLlama and CLIP

A key that a file lacks has the default of the class in transformers that wrote the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, model_validator

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint, phi
from moderation.models.shared.config_types import Count, Epsilon, Layers, Side
from moderation.models.shared.llama import LlamaConfig
from moderation.models.shared.phi import PhiConfig
from moderation.models.shared.vision import TowerConfig, TowerShape

TOWER_REPOSITORY = "bczhou/TinyLLaVA-3.1B-SigLIP"
SIGLIP_LAYERS = 26  # of 27: the last is never run, and the legacy code deletes it


@dataclass(frozen=True, slots=True)
class Names:
    """What stands before the parts' tensor names in the files. projector: of its two matrices."""

    decoder: str
    head: str
    tower: str
    projector: tuple[str, str]


FACTORY = Names(
    decoder="language_model.model.",
    head="language_model.lm_head.",
    tower="vision_tower._vision_tower.vision_model.",
    projector=("connector._connector.0.", "connector._connector.2."),
)
LEGACY = Names(
    decoder="model.",
    head="lm_head.",
    tower="model.vision_tower.vision_tower.vision_model.",
    projector=("model.mm_projector.0.", "model.mm_projector.2."),
)
LEGACY_LAYERS = f"{LEGACY.tower}encoder.layers."
LLAVA = Names(
    decoder="language_model.model.",
    head="language_model.lm_head.",
    tower="vision_tower.vision_model.",
    projector=("multi_modal_projector.linear_1.", "multi_modal_projector.linear_2."),
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a checkpoint is made of.

    tower_layers: how many the files hold, those included that are not run. clip: the tower is CLIP's, else SigLIP's.
    class_token, skipped: which features become tokens: with the class token's, without the first ones. tower_folder:
    where the tower's tensors lie, if not with the others; tower_commit: of that folder's files, if the hub has them.
    only_tokens: rows of embedding and head that no token has are
    cut off, so logits are fewer than vocab_size.
    """

    decoder: PhiConfig | LlamaConfig
    head_bias: bool
    tower: TowerShape
    tower_layers: int
    clip: bool
    class_token: bool
    skipped: int
    names: Names
    tower_folder: Path | None = None
    tower_commit: str = ""
    only_tokens: bool = False

    @property
    def tokens(self) -> int:
        """Positions that a picture takes in a prompt."""
        return self.tower.grid**2 + self.class_token - self.skipped

    @property
    def work(self) -> int:
        """The tower's work for a picture, in tokens of the decoder. Only products with weights count."""
        return round(self.tower.work / self.decoder.token_work)

    def published(self, name: str) -> str:
        """The name in the files of a tensor of `network.TinyLlavaNetwork`."""
        part, _, rest = name.partition(".")
        if part == "model":
            return self.names.decoder + (phi.published(rest) if isinstance(self.decoder, PhiConfig) else rest)
        if part == "projector":
            place, _, rest = rest.partition(".")
            return self.names.projector[0 if place == "0" else 1] + rest
        return {"lm_head": self.names.head, "vision_tower": self.names.tower}[part] + rest

    def unused(self, name: str) -> bool:
        """Whether a file may hold this tensor although the network lacks it: what comes behind the features.

        Constants are in files that other tools have saved.
        """
        if name.endswith((".embeddings.position_ids", ".rotary_emb.inv_freq")):
            return True
        inner = name.removeprefix(self.names.tower)
        behind = (f"encoder.layers.{layer}." for layer in range(self.tower.layers, self.tower_layers))
        return inner != name and inner.startswith(("post_layernorm.", "head.", *behind))


class VisionConfig(TowerConfig):
    """The tower's part of a config.json. Subclasses have the defaults."""

    def layers(self, feature_layer: int) -> int:
        """How many layers run. feature_layer: into the hidden states: 0 the embedding, -1 the last layer's output."""
        layers = feature_layer + (self.num_hidden_layers + 1 if feature_layer < 0 else 0)
        if not 0 <= layers <= self.num_hidden_layers:
            raise ValueError(f"vision_feature_layer {feature_layer} is outside {self.num_hidden_layers} layers")
        return layers

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size < 2 * self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not two patches of {self.patch_size} pixels")
        return self


class SiglipConfig(VisionConfig):
    """With the defaults of transformers' SiglipVisionConfig."""

    model_type: Literal["siglip_vision_model"]
    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Count = 12
    image_size: Side = 224
    patch_size: Side = 16
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    layer_norm_eps: Epsilon = 1e-6


class LegacyTowerConfig(VisionConfig):
    """config.json of the legacy layout's own tower repository. The code's constants stand for missing keys."""

    hidden_size: Count = 1152
    intermediate_size: Count = 4304
    num_hidden_layers: Layers = SIGLIP_LAYERS + 1
    num_attention_heads: Count = 16
    image_size: Side = 384
    patch_size: Side = 14
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    layer_norm_eps: Epsilon = 1e-6

    @model_validator(mode="before")
    @classmethod
    def _of_a_whole_siglip(cls, content: dict[str, Any]) -> object:
        """The config.json of a SigLIP with its text tower has the vision tower's part in a key."""
        return content.get("vision_config", {}) if content.get("model_type") == "siglip" else content


class ClipConfig(VisionConfig):
    """With the defaults of transformers' CLIPVisionConfig."""

    model_type: Literal["clip_vision_model"]
    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Count = 12
    image_size: Side = 224
    patch_size: Side = 32
    hidden_act: Literal["quick_gelu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5


class PhiText(PhiConfig):
    """text_config of the Factory layout. The Factory trains other decoders too; these are not supported."""

    model_type: Literal["phi"]


class LlamaText(LlamaConfig):
    """text_config of the stock Llava layout."""

    model_type: Literal["llama"]


class FactoryConfig(BaseModel):
    """config.json of model_type tinyllava."""

    text_config: PhiText
    vision_config: SiglipConfig
    connector_type: Literal["mlp2x_gelu"]
    vision_feature_layer: int = -2
    vision_feature_select_strategy: Literal["patch", "cls_patch"] = "patch"
    image_aspect_ratio: Literal["square", "pad"] = "square"
    tokenizer_model_max_length: Count = 2048
    caution: str = ""  # not in published files: for checkpoints that are not fit to moderate

    @property
    def context(self) -> int:
        """The original cuts longer prompts, from the end."""
        return self.tokenizer_model_max_length

    @property
    def architecture(self) -> Architecture:
        vision = self.vision_config
        return Architecture(
            decoder=self.text_config,
            head_bias=True,
            tower=vision.shape(vision.layers(self.vision_feature_layer)),
            tower_layers=vision.num_hidden_layers,
            clip=False,
            class_token=False,
            # "patch" is meant to drop the class token. SigLIP has none, so the original drops the first patch.
            skipped=1 if self.vision_feature_select_strategy == "patch" else 0,
            names=FACTORY,
        )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.vision_config.layers(self.vision_feature_layer)
        return self


class LegacyConfig(PhiConfig):
    """config.json of model_type tiny_llava_phi. The tower's sizes are not in it, see LegacyTowerConfig.

    mm_vision_select_layer and mm_vision_select_feature are in the files, and the original does not read them.
    """

    mm_vision_tower: str
    mm_projector_type: Literal["mlp2x_gelu"]
    mm_use_im_patch_token: Literal[False]  # the original adds a token where the key is missing
    mm_use_im_start_end: Literal[False] = False
    image_aspect_ratio: Literal["square", "pad"]
    tokenizer_model_max_length: Count | None = None
    caution: str = ""

    @property
    def context(self) -> int:
        """The original cuts longer prompts, from the end."""
        return self.tokenizer_model_max_length or self.max_position_embeddings

    def architecture(
        self, vision: LegacyTowerConfig, layers: int, tower_folder: Path | None, tower_commit: str = ""
    ) -> Architecture:
        """With a tower of so many layers. All features are used, of the last layer that is run."""
        return Architecture(
            decoder=self,
            head_bias=False,
            tower=vision.shape(min(layers, SIGLIP_LAYERS)),
            tower_layers=max(SIGLIP_LAYERS + 1, vision.num_hidden_layers),
            clip=False,
            class_token=False,
            skipped=0,
            names=LEGACY,
            tower_folder=tower_folder,
            tower_commit=tower_commit,
            only_tokens=True,
        )


class LlavaConfig(BaseModel):
    """config.json of model_type llava."""

    text_config: LlamaText
    vision_config: ClipConfig
    projector_hidden_act: Literal["gelu"] = "gelu"
    vision_feature_layer: int = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    image_token_index: Count = 32_000
    caution: str = ""

    @property
    def context(self) -> int:
        """The positions that the decoder was trained on."""
        return self.text_config.max_position_embeddings

    @property
    def architecture(self) -> Architecture:
        vision = self.vision_config
        return Architecture(
            decoder=self.text_config,
            head_bias=False,
            tower=vision.shape(vision.layers(self.vision_feature_layer)),
            tower_layers=vision.num_hidden_layers,
            clip=True,
            class_token=self.vision_feature_select_strategy == "full",
            skipped=0,
            names=LLAVA,
        )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.vision_config.layers(self.vision_feature_layer)
        return self


Config: TypeAlias = FactoryConfig | LegacyConfig | LlavaConfig
KINDS: dict[str, type[Config]] = {"tinyllava": FactoryConfig, "tiny_llava_phi": LegacyConfig, "llava": LlavaConfig}


def read(folder: Path) -> Config:
    """config.json of a folder. Raises ConfigError naming file and key."""
    kind = checkpoint.model_type(str(folder), None)
    if kind not in KINDS:
        raise ConfigError(f"{folder}: config.json says model_type {kind!r}, not one of {', '.join(KINDS)}")
    return checkpoint.parse(folder / checkpoint.CONFIG, KINDS[kind])


def architecture(folder: Path, config: Config) -> Architecture:
    """What the folder's files hold. Raises ConfigError.

    The legacy layout's tower is that of the main folder; where there is none, that of the published repository or the
    subfolder which mm_vision_tower names. The original always takes the latter. Both are equal where the tower was not
    trained further.
    """
    if not isinstance(config, LegacyConfig):
        return config.architecture
    names = [(path, name) for path in checkpoint.weight_files(folder) for name, _, _ in checkpoint.header(path)]
    if any(name.startswith(LEGACY.tower) for _, name in names):
        layers = {_layer(path, name) for path, name in names if name.startswith(LEGACY_LAYERS)}
        return config.architecture(LegacyTowerConfig(), max(layers, default=SIGLIP_LAYERS - 1) + 1, None)
    apart, commit = _tower(folder, config.mm_vision_tower)
    vision = checkpoint.parse(apart / checkpoint.CONFIG, LegacyTowerConfig)
    return config.architecture(vision, vision.num_hidden_layers - 1, apart, commit)


def _tower(folder: Path, name: str) -> tuple[Path, str]:
    """The folder and commit of a tower that a config.json names. A checkpoint cannot choose what is fetched or read."""
    missing = f"{folder}: holds no tensors of the vision tower, and mm_vision_tower of its config.json "
    if name == TOWER_REPOSITORY:
        try:
            return checkpoint.fetch(name, None)
        except ConfigError as error:
            raise ConfigError(f"{missing}says where they are: {error}") from None
    inside = folder / name
    if re.fullmatch(r"\w[\w.-]{0,99}", name) and inside.is_dir() and not inside.is_symlink():
        return inside, ""
    raise ConfigError(
        f"{missing}is {name!r}: only {TOWER_REPOSITORY} is fetched; put another tower into a subfolder of the "
        "checkpoint, and its name there"
    )


def _layer(path: Path, name: str) -> int:
    """The number of the tower's layer that a tensor belongs to."""
    number = re.match(r"([0-9]{1,4})\.", name.removeprefix(LEGACY_LAYERS))
    if number is None:
        raise ConfigError(f"{path}: the tensor {name} has no layer's number in its name; fetch the file again")
    return int(number[1])
