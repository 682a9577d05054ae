"""The three layouts at full size without memory, and what a network of each does at a small size."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from moderation.models.shared import checkpoint, tree
from moderation.models.shared.tree import Tree
from moderation.models.shared.vision import TowerShape
from moderation.models.tinyllava import PUBLISHED
from moderation.models.tinyllava.family import Checkpoint
from moderation.models.tinyllava.network import TinyLlavaNetwork
from tests.support import tinyllava
from tests.support.full_size import TINYLLAVA, tinyllava_architecture, tinyllava_unread
from tests.support.small_model import a_picture

# Tensors, parameters and float16 bytes of all files.
FIGURES = {
    "tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B": (905, 3_217_417_280, 6_434_834_560),
    "bczhou/TinyLLaVA-3.1B": (877, 3_186_888_224, 6_373_776_448),
    "bczhou/tiny-llava-v1-hf": (596, 1_410_113_536, 2_820_227_072),
}


def sizes(network: nn.Module) -> list[int]:
    return [tensor.numel() for tensor in network.state_dict().values()]


@pytest.mark.parametrize("name", TINYLLAVA)
def test_full_size_is_the_published_size(name: str) -> None:
    read, architecture = tinyllava_architecture(name)
    with checkpoint.meta_modules():
        network = TinyLlavaNetwork(architecture)
    counted = [*sizes(network), *tinyllava_unread(architecture)]
    assert (len(counted), sum(counted), 2 * sum(counted)) == FIGURES[name]
    (row,) = [row for row in PUBLISHED if row.name == name]
    assert row.parameters == sum(counted)
    assert (row.context, row.image_tokens) == (read.context, architecture.tokens)


@pytest.mark.parametrize("name", TINYLLAVA)
def test_each_tensor_has_its_published_name(name: str) -> None:
    _, architecture = tinyllava_architecture(name)
    with checkpoint.meta_modules():
        names = {architecture.published(each) for each in TinyLlavaNetwork(architecture).state_dict()}
    expected = {
        "tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B": {
            "language_model.model.embed_tokens.weight",
            "language_model.model.layers.31.self_attn.dense.bias",
            "language_model.model.final_layernorm.bias",
            "language_model.lm_head.bias",
            "connector._connector.2.weight",
            "vision_tower._vision_tower.vision_model.embeddings.patch_embedding.bias",
            "vision_tower._vision_tower.vision_model.encoder.layers.25.mlp.fc2.weight",
        },
        "bczhou/TinyLLaVA-3.1B": {
            "model.layers.0.input_layernorm.weight",
            "model.final_layernorm.weight",
            "lm_head.weight",
            "model.mm_projector.0.bias",
            "model.vision_tower.vision_tower.vision_model.encoder.layers.25.self_attn.out_proj.bias",
        },
        "bczhou/tiny-llava-v1-hf": {
            "language_model.model.norm.weight",
            "language_model.model.layers.21.mlp.gate_proj.weight",
            "language_model.lm_head.weight",
            "multi_modal_projector.linear_1.weight",
            "multi_modal_projector.linear_2.bias",
            "vision_tower.vision_model.pre_layrnorm.weight",
            "vision_tower.vision_model.embeddings.class_embedding",
        },
    }[name]
    assert expected <= names
    assert not any(architecture.unused(each) for each in names)
    assert ("lm_head.bias" in names, "language_model.lm_head.bias" in names) == (False, name.startswith("tinyllava"))


def test_a_picture_costs_what_its_tower_takes() -> None:
    _, architecture = tinyllava_architecture("tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B")
    tower = 729 * 26 * 1152 * (4 * 1152 + 2 * 4304)
    token = 32 * 2560 * (4 * 2560 + 2 * 10240)
    assert architecture.work == round(tower / token) == 115


@pytest.mark.parametrize(("strategy", "tokens"), [("patch", 63), ("cls_patch", 64)])
def test_the_factory_drops_the_first_patch(tmp_path: Path, strategy: str, tokens: int) -> None:
    folder = tinyllava.factory(tmp_path)
    tinyllava.edit_config(folder, lambda content: content.update(vision_feature_select_strategy=strategy))
    opened = Checkpoint(folder, None)
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    with torch.inference_mode():
        pictures = opened.encode_pictures([a_picture()])
        (rows,) = network.embed_images(pictures)
        whole = network.projector(network.vision_tower(pictures[0].pixels))[0]
    assert len(rows) == tokens == pictures[0].tokens
    torch.testing.assert_close(rows, whole[-tokens:])


@pytest.mark.parametrize(("strategy", "tokens"), [("default", 64), ("full", 65)])
def test_the_class_token_is_a_feature_only_where_it_is_asked_for(tmp_path: Path, strategy: str, tokens: int) -> None:
    folder = tinyllava.llava(tmp_path)
    tinyllava.edit_config(folder, lambda content: content.update(vision_feature_select_strategy=strategy))
    opened = Checkpoint(folder, None)
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    with torch.inference_mode():
        (rows,) = network.embed_images(pictures := opened.encode_pictures([a_picture()]))
    assert len(rows) == tokens == pictures[0].tokens


def test_features_are_of_the_layer_that_the_config_names(tmp_path: Path) -> None:
    folder = tinyllava.factory(tmp_path)
    rows = []
    for layer in (-1, -2, 2, 0):
        tinyllava.edit_config(folder, lambda content, layer=layer: content.update(vision_feature_layer=layer))  # type: ignore[misc]
        opened = Checkpoint(folder, None)
        with torch.inference_mode():
            network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
            rows.append(network.embed_images(opened.encode_pictures([a_picture()]))[0])
    assert torch.equal(rows[1], rows[2])
    assert all(not torch.allclose(rows[1], other, atol=1e-3) for other in (rows[0], rows[3]))


def test_the_legacy_layout_has_logits_for_tokens_alone(tmp_path: Path) -> None:
    opened = Checkpoint(tinyllava.legacy(tmp_path), None)
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    packed = tree.pack([Tree((1, 2, 3), ())], network.device)
    with torch.inference_mode():
        logits = network.logits(network(packed, [], [0]))
    assert logits.shape == (3, opened.tokenizer.size)
    assert opened.tokenizer.size < opened.architecture.decoder.vocab_size


def test_all_pixels_but_those_beyond_the_last_patch_are_seen() -> None:
    shape = TowerShape(hidden=1152, intermediate=4304, heads=16, layers=26, image=384, patch=14, eps=1e-6)
    assert (shape.grid, math.prod((shape.grid, shape.patch))) == (27, 378)
