"""The network: its full-size shapes without memory, and features in their places."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from moderation.models.contract import Published
from moderation.models.h2ovl import PUBLISHED
from moderation.models.h2ovl.config import H2ovlConfig
from moderation.models.h2ovl.family import Checkpoint, tiling
from moderation.models.h2ovl.network import H2ovlNetwork
from moderation.models.shared import checkpoint
from moderation.models.shared.decoder import RMSNorm
from tests.support.full_size import H2OVL_2B, H2OVL_800M
from tests.support.small_model import a_picture


@pytest.mark.parametrize(
    ("config", "tensors", "head", "published"),
    [(H2OVL_800M, 493, 96, PUBLISHED[0]), (H2OVL_2B, 565, 80, PUBLISHED[1])],
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


def test_the_norms_have_the_originals_eps(folder: Path, tmp_path: Path) -> None:
    """The seeded checkpoints' logits hardly depend on them."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "config.json"
    whole = json.loads(path.read_text())
    whole["llm_config"]["rms_norm_eps"] = 3e-4
    path.write_text(json.dumps(whole))
    network = Checkpoint(copy, None).network(dtype=torch.float32, device=torch.device("cpu"))
    assert [module.eps for module in network.mlp1 if isinstance(module, nn.LayerNorm)] == [1e-5]
    rms = [module for module in network.modules() if isinstance(module, RMSNorm)]
    assert len(rms) == 2 * len(network.decoder.layers) + 1
    assert {module.eps for module in rms} == {3e-4}
    assert rms[-1](torch.full((1, 96), 1e-2)).allclose(rms[-1].weight * (1e-2 / (1e-4 + 3e-4) ** 0.5))
