"""The three layouts at full size without memory, and what a network of each does at a small size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from moderation.bench import memory
from moderation.models.shared import checkpoint, tree
from moderation.models.shared.tree import Tree
from moderation.models.shared.vision import TowerShape
from moderation.models.tinyllava import PUBLISHED, config
from moderation.models.tinyllava.config import Architecture
from moderation.models.tinyllava.family import Checkpoint
from moderation.models.tinyllava.network import TinyLlavaNetwork
from moderation.models.tinyllava.preprocessing import HALF, Squares
from tests.support import tinyllava
from tests.support.small_model import a_picture

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
# The published files' keys that decide something.
FULL_SIZE: dict[str, dict[str, Any]] = {
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
# Tensors, parameters and float16 bytes of all files.
FIGURES = {
    "tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B": (905, 3_217_417_280, 6_434_834_560),
    "bczhou/TinyLLaVA-3.1B": (877, 3_186_888_224, 6_373_776_448),
    "bczhou/tiny-llava-v1-hf": (596, 1_410_113_536, 2_820_227_072),
}
BYTES_OF_A_NUMBER = {"tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B": 2}  # the other files are float32


def full_size(name: str, folder: Path) -> tuple[config.Config, Architecture]:
    (folder / "config.json").write_text(json.dumps(FULL_SIZE[name]))
    read = config.read(folder)
    if isinstance(read, config.LegacyConfig):
        return read, read.architecture(config.LegacyTowerConfig(), config.SIGLIP_LAYERS, None)
    return read, read.architecture


def sizes(network: nn.Module) -> list[int]:
    return [tensor.numel() for tensor in network.state_dict().values()]


def unread(architecture: Architecture) -> list[int]:
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


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_is_the_published_size(name: str, tmp_path: Path) -> None:
    read, architecture = full_size(name, tmp_path)
    with checkpoint.meta_modules():
        network = TinyLlavaNetwork(architecture)
    counted = [*sizes(network), *unread(architecture)]
    assert (len(counted), sum(counted), 2 * sum(counted)) == FIGURES[name]
    (row,) = [row for row in PUBLISHED if row.name == name]
    assert row.parameters == sum(counted)
    assert row.weight_bytes == BYTES_OF_A_NUMBER.get(name, 4) * sum(counted)
    assert (row.context, row.image_tokens) == (read.context, architecture.tokens)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_step_takes_the_memory_that_the_list_says(name: str, tmp_path: Path) -> None:
    _, architecture = full_size(name, tmp_path)
    with checkpoint.meta_modules():
        network = TinyLlavaNetwork(architecture).to(torch.bfloat16)
    squares = Squares(architecture.tower.image, "square", HALF, HALF, architecture.tokens, architecture.work)
    taken = memory.of_step(network, squares.of([a_picture(640, 480)]))
    print(f"{name}: weights {taken.weights / 1e9:.2f}, step {taken.step / 1e9:.2f} GB")
    (row,) = [row for row in PUBLISHED if row.name == name]
    assert row.memory_bytes == pytest.approx(taken.total, abs=0.05e9)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_each_tensor_has_its_published_name(name: str, tmp_path: Path) -> None:
    _, architecture = full_size(name, tmp_path)
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


def test_a_picture_costs_what_its_tower_takes(tmp_path: Path) -> None:
    _, architecture = full_size("tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B", tmp_path)
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
