"""The published checkpoints at full size, on the meta device: the keys of their config.json that decide something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from PIL.Image import Image as Picture
from torch import nn

from moderation.bench import sizes
from moderation.models.h2ovl.config import H2ovlConfig
from moderation.models.h2ovl.family import tiling
from moderation.models.h2ovl.network import H2ovlNetwork
from moderation.models.phi3.network import Phi3Network, PreprocessorConfig
from moderation.models.shared import checkpoint
from moderation.models.shared.network import LanguageNetwork
from moderation.models.shared.phi import PhiConfig
from moderation.models.shared.picture import EncodedPicture
from moderation.models.tinygptv import preprocessing
from moderation.models.tinygptv.network import QFormerConfig, TinyGptvConfig, TinyGptvNetwork, VisionConfig
from moderation.models.tinyllava import config as llava
from moderation.models.tinyllava.config import Architecture, LegacyTowerConfig
from moderation.models.tinyllava.network import TinyLlavaNetwork
from moderation.models.tinyllava.preprocessing import HALF, Squares

INTERN: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "image_size": 448,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-06,
    "norm_type": "layer_norm",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "qk_normalization": False,
    "qkv_bias": True,
}
H2OVL: dict[str, Any] = {"force_image_size": 448, "ps_version": "v2", "select_layer": -1, "template": "h2ogpt2"}
DANUBE: dict[str, Any] = {
    "max_position_embeddings": 8192,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "vocab_size": 32010,
}
H2OVL_800M: dict[str, Any] = {
    **H2OVL,
    "llm_config": {
        **DANUBE,
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "model_type": "llama",
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "rope_theta": 100000,
    },
    "use_msac": False,
    "vision_config": INTERN,
}
H2OVL_2B: dict[str, Any] = {
    **H2OVL,
    "llm_config": {
        **DANUBE,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "rope_theta": 10000,
        "sliding_window": None,
    },
    "use_msac": True,
    "vision_config": INTERN,
}
PHI_2: dict[str, Any] = {
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "layer_norm_eps": 1e-05,
    "num_hidden_layers": 32,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "vocab_size": 51200,
}
TINYLLAVA: dict[str, dict[str, Any]] = {
    "tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B": {
        "model_type": "tinyllava",
        "connector_type": "mlp2x_gelu",
        "image_aspect_ratio": "square",
        "text_config": {**PHI_2, "model_type": "phi"},
        "tokenizer_model_max_length": 3072,
        "vision_config": {
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "image_size": 384,
            "intermediate_size": 4304,
            "layer_norm_eps": 1e-06,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "patch",
    },
    "bczhou/TinyLLaVA-3.1B": {
        **PHI_2,
        "model_type": "tiny_llava_phi",
        "image_aspect_ratio": "pad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "bczhou/TinyLLaVA-3.1B-SigLIP",
        "tokenizer_model_max_length": 3072,
    },
    "bczhou/tiny-llava-v1-hf": {
        "model_type": "llava",
        "image_token_index": 32000,
        "projector_hidden_act": "gelu",
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "model_type": "llama",
            "num_hidden_layers": 22,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-05,
            "vocab_size": 32064,
        },
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "model_type": "clip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    },
}
# Sizes of the weights' files in bytes, rounded as the hub's page of a revision shows them
# (huggingface.co/NAME/tree/REVISION).
SHOWN: dict[str, tuple[float, ...]] = {
    "microsoft/Phi-3-vision-128k-instruct": (4.94e9, 3.35e9),  # b161793
    "microsoft/Phi-3.5-vision-instruct": (4.94e9, 3.35e9),  # 12b77fb
    "h2oai/h2ovl-mississippi-800m": (1.65e9,),  # 577843e
    "h2oai/h2ovl-mississippi-2b": (4.3e9,),  # 8f8b827
    "tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B": (5e9, 1.44e9),  # 2d2143b
    "bczhou/TinyLLaVA-3.1B": (4.98e9, 4.98e9, 2.78e9),  # b0ade9c
    "bczhou/tiny-llava-v1-hf": (4.98e9, 661e6),  # 33fb826
}
ROUNDED = 5e6  # what a size that is shown differs from the file's at most


@dataclass(frozen=True, slots=True)
class FullSize:
    """A published checkpoint without its weights. The network is bfloat16 on the meta device.

    frame: tokens that a picture takes in a prompt beside its features. unread: numbers that the files hold and the
    network lacks. weight_bytes: of the files.
    """

    network: LanguageNetwork
    pictures: Callable[[Sequence[Picture]], Sequence[EncodedPicture]]
    context: int
    weight_bytes: int
    frame: int = 0
    unread: int = 0


def h2ovl(content: dict[str, Any]) -> FullSize:
    config = H2ovlConfig.model_validate(content)
    network = _built(H2ovlNetwork, config)
    context = config.llm_config.max_position_embeddings
    return FullSize(network, tiling(config).pictures, context, 2 * numbers(network), frame=2)


def phi3(num_crops: int) -> FullSize:
    """The last layer of the tower and the norm behind it are in the files, and are not run."""
    config = sizes.config(sizes.SIZES["full"])
    network = _built(Phi3Network, config)
    transform = PreprocessorConfig(num_crops=num_crops).transform(config)
    tower = config.tower
    unread = 4 * tower.hidden**2 + 2 * tower.hidden * tower.intermediate + 11 * tower.hidden + tower.intermediate
    return FullSize(
        network,
        lambda pictures: [transform.crops(picture) for picture in pictures],
        config.max_position_embeddings,
        2 * (numbers(network) + unread),
        unread=unread,
    )


def tinyllava(name: str) -> FullSize:
    read, architecture = tinyllava_architecture(name)
    network = _built(TinyLlavaNetwork, architecture)
    squares = Squares(architecture.tower.image, "square", HALF, HALF, architecture.tokens, architecture.work)
    unread = sum(tinyllava_unread(architecture))
    held = numbers(network) + unread
    weight_bytes = round(sum(SHOWN[name]) / held) * held  # the dtype is seen in no file, but follows from the sizes
    return FullSize(network, squares.of, read.context, weight_bytes, unread=unread)


def tinyllava_architecture(name: str) -> tuple[llava.Config, Architecture]:
    content = TINYLLAVA[name]
    read = llava.KINDS[content["model_type"]].model_validate(content)
    if isinstance(read, llava.LegacyConfig):
        return read, read.architecture(LegacyTowerConfig(), llava.SIGLIP_LAYERS, None)
    return read, read.architecture


def tinyllava_unread(architecture: Architecture) -> list[int]:
    """Sizes of the tensors that the files hold behind the features."""
    tower = architecture.tower
    norm, square = [tower.hidden] * 2, [tower.hidden**2, tower.hidden]
    wide = tower.hidden * tower.intermediate
    mlp = [wide, tower.intermediate, wide, tower.hidden]
    layers = architecture.tower_layers - tower.layers if architecture.tower_folder is None else 0
    layer = [*norm, *norm, *square * 4, *mlp]
    head = [tower.hidden, 3 * tower.hidden**2, 3 * tower.hidden, *square, *norm, *mlp]
    legacy = architecture.only_tokens
    return [*norm, *([] if legacy else layer * layers), *([] if legacy or architecture.clip else head)]


def tinygptv(image: int) -> FullSize:
    """image: side of a picture in pixels.

    The converted folder holds in float16 what came so and was not changed: the tower and Phi-2, less the merged
    matrices, the trained norms and positions that were stretched.
    """
    config = tinygptv_config(image)
    network = _built(TinyGptvNetwork, config)
    merged, norms = 32 * 4 * 2560 * 2560, 33 * 2560
    half = 985_894_528 + 2_779_683_840 - merged - norms - (0 if image == 224 else 257 * 1408)
    return FullSize(
        network,
        lambda pictures: [
            preprocessing.square(picture, image, tokens=config.picture_tokens, work=config.picture_work)
            for picture in pictures
        ],
        config.text_config.max_position_embeddings,
        4 * numbers(network) - 2 * half,
    )


def tinygptv_config(image: int) -> TinyGptvConfig:
    return TinyGptvConfig(
        arch="minigpt4" if image == 224 else "minigpt_v2",
        vision_config=VisionConfig(image_size=image),
        qformer_config=QFormerConfig(),
        text_config=PhiConfig(
            hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, partial_rotary_factor=0.4
        ),
    )


# Names of rows in PUBLISHED.
BUILD: dict[str, Callable[[], FullSize]] = {
    "microsoft/Phi-3-vision-128k-instruct": lambda: phi3(16),
    "microsoft/Phi-3.5-vision-instruct": lambda: phi3(4),
    "h2oai/h2ovl-mississippi-800m": lambda: h2ovl(H2OVL_800M),
    "h2oai/h2ovl-mississippi-2b": lambda: h2ovl(H2OVL_2B),
    **{name: lambda name=name: tinyllava(name) for name in TINYLLAVA},  # type: ignore[misc]
    "TinyGPT-V, stages 1 to 3 (224 x 224)": lambda: tinygptv(224),
    "TinyGPT-V, stage 4 (448 x 448)": lambda: tinygptv(448),
}


@cache
def full_size(name: str) -> FullSize:
    """The checkpoint of a row in PUBLISHED."""
    return BUILD[name]()


def numbers(network: nn.Module) -> int:
    """How many numbers a network's tensors hold."""
    return sum(tensor.numel() for tensor in network.state_dict().values())


def _built(kind: Callable[[Any], LanguageNetwork], config: Any) -> LanguageNetwork:
    with checkpoint.meta_modules():
        return kind(config).to(torch.bfloat16)
