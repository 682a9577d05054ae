"""The network: its full-size shapes without memory, and features in their places."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from moderation.bench import memory
from moderation.models.contract import Published
from moderation.models.h2ovl import PUBLISHED
from moderation.models.h2ovl.config import H2ovlConfig
from moderation.models.h2ovl.family import Checkpoint, tiling
from moderation.models.h2ovl.network import H2ovlNetwork
from moderation.models.shared import checkpoint
from tests.support.small_model import a_picture

TOWER = {
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
COMMON = {"force_image_size": 448, "ps_version": "v2", "select_layer": -1, "template": "h2ogpt2"}
TEXT = {"max_position_embeddings": 8192, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "vocab_size": 32010}
SMALL = {
    **COMMON,
    "llm_config": {
        **TEXT,
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "model_type": "llama",
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "rope_theta": 100000,
    },
    "use_msac": False,
    "vision_config": TOWER,
}
LARGE = {
    **COMMON,
    "llm_config": {
        **TEXT,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "rope_theta": 10000,
        "sliding_window": None,
    },
    "use_msac": True,
    "vision_config": TOWER,
}


@pytest.mark.parametrize(
    ("config", "tensors", "head", "published"),
    [(SMALL, 493, 96, PUBLISHED[0]), (LARGE, 565, 80, PUBLISHED[1])],
    ids=["800m", "2b"],
)
def test_full_size_shapes(config: dict[str, object], tensors: int, head: int, published: Published) -> None:
    parsed = H2ovlConfig.model_validate(config)
    with checkpoint.meta_modules():
        network = H2ovlNetwork(parsed)
    shapes = [tuple(tensor.shape) for tensor in network.state_dict().values()]
    parameters = sum(map(math.prod, shapes))
    assert (len(shapes), parsed.llm_config.head_size) == (tensors, head)
    assert (published.parameters, published.weight_bytes) == (parameters, 2 * parameters)
    assert published.context == parsed.llm_config.max_position_embeddings
    (picture,) = tiling(parsed).pictures([Image.new("RGB", (640, 480))])
    assert published.image_tokens == picture.tokens + 2


@pytest.mark.parametrize(("config", "published"), [(SMALL, PUBLISHED[0]), (LARGE, PUBLISHED[1])], ids=["800m", "2b"])
def test_a_step_takes_the_memory_that_the_list_says(config: dict[str, object], published: Published) -> None:
    parsed = H2ovlConfig.model_validate(config)
    with checkpoint.meta_modules():
        shapes = memory.shapes(H2ovlNetwork(parsed), torch.bfloat16)
    pictures = tiling(parsed).pictures([Image.new("RGB", (640, 480))])
    assert published.memory_bytes == pytest.approx(memory.of_step(shapes, pictures).total, abs=0.01e9)


def test_work_of_a_tile(folder: Path) -> None:
    """The tower's products with weights for the patches of a tile, over the decoder's for a token."""
    config = H2ovlConfig.model_validate(json.loads((folder / "config.json").read_text()))
    tower = 64 * 2 * (64 * (4 * 64 + 2 * 128))
    decoder = 2 * (96 * (96 + 48 + 48 + 96) + 3 * 96 * 192)
    assert config.tile_work == round(tower / decoder)


def test_features_do_not_depend_on_the_other_pictures(opened: Checkpoint) -> None:
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    pictures = opened.encode_pictures([a_picture(200, 100, seed=1), a_picture(90, 90, seed=2), a_picture(50, 300)])
    with torch.inference_mode():
        together = network.embed_images(pictures)
        alone = [network.embed_images([picture])[0] for picture in pictures]
    assert network.embed_images([]) == []
    for picture, one, other in zip(pictures, together, alone, strict=True):
        assert one.shape == (picture.tokens, 96)
        assert torch.allclose(one, other, atol=1e-5)


def test_four_neighbours_become_one_vector(opened: Checkpoint) -> None:
    """Upper left, upper right, lower left, lower right; then along the row."""
    with checkpoint.meta_modules():
        network = H2ovlNetwork(opened.config)
    patches = torch.arange(64.0).reshape(1, 64, 1)
    tokens = network.shuffle(patches)
    assert tokens.shape == (1, 16, 4)
    assert tokens[0, 0].tolist() == [0, 1, 8, 9]
    assert tokens[0, 1].tolist() == [2, 3, 10, 11]
    assert tokens[0, 4].tolist() == [16, 17, 24, 25]
