"""Small TinyLLaVA checkpoints in its three published layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moderation.dev.checkpoint import seeded
from moderation.models.tinyllava.config import FACTORY, LEGACY, LlavaConfig
from moderation.models.tinyllava.network import TOWER, TinyLlavaNetwork
from tests.support.small_model import seeded_folder

WEIGHTS = "model.safetensors"
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def factory(parent: Path) -> Path:
    """The layout of tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B."""
    return seeded(parent / "factory", "tinyllava")


def legacy(parent: Path) -> Path:
    """The layout of bczhou/TinyLLaVA-3.1B, its tower in a subfolder that config.json names.

    A tower in the main folder would have the full width: it is written in the original code.
    """
    source, folder, tower = factory(parent), parent / "legacy", parent / "legacy" / "tower"
    shutil.copytree(source, folder)
    whole = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / WEIGHTS)
    inside = {_legacy_name(name): tensors[name] for name in tensors if not name.startswith(FACTORY.tower)}
    inside.pop("lm_head.bias")
    save_file(inside, folder / WEIGHTS)
    config = whole["text_config"] | {
        "model_type": "tiny_llava_phi",
        "mm_vision_tower": tower.name,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": 3072,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tower.mkdir()
    (tower / "config.json").write_text(json.dumps(whole["vision_config"]))
    kept = [name for name in tensors if name.startswith(FACTORY.tower) and ".layers.2." not in name]
    save_file({name.replace(FACTORY.tower, TOWER): tensors[name] for name in kept}, tower / WEIGHTS)
    return folder


def llava(parent: Path) -> Path:
    """The layout of bczhou/tiny-llava-v1-hf."""
    folder = parent / "llava"
    folder.mkdir()
    tokenizer = json.loads((seeded_folder() / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for word in ("▁USER", "▁ASSISTANT", "USER", "ASSISTANT"):
        left = word[0]
        for letter in word[1:]:
            if left + letter not in vocabulary:
                vocabulary[left + letter] = len(vocabulary)
                tokenizer["model"]["merges"].append([left, letter])
            left += letter
    image = len(vocabulary)
    names = {0: "<unk>", 1: "<s>", 2: "</s>", image: "<image>", image + 1: "<pad>"}
    tokenizer["added_tokens"] = [{"id": id, "content": name, **PLAIN} for id, name in names.items()]
    config: dict[str, Any] = {
        "model_type": "llava",
        "image_token_index": image,
        "projector_hidden_act": "gelu",
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "model_type": "llama",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "vocab_size": -(-(image + 2) // 64) * 64,
        },
        "vision_config": {
            "hidden_size": 64,
            "image_size": 112,
            "intermediate_size": 128,
            "model_type": "clip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "patch_size": 14,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    preprocessor = {"crop_size": {"height": 112, "width": 112}, "size": {"shortest_edge": 112}}
    contents = {"config.json": config, "preprocessor_config.json": preprocessor, "tokenizer.json": tokenizer}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    save_file(drawn(LlavaConfig.model_validate(config)), folder / WEIGHTS)
    return folder


def drawn(config: LlavaConfig) -> dict[str, Tensor]:
    """Random tensors under their published names, those included that are not read."""
    architecture = config.architecture
    network = TinyLlavaNetwork(architecture)
    random = torch.Generator().manual_seed(7)
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        values = torch.randn(tensor.shape, generator=random)
        if "norm" in name:
            values = values * 0.05 + float(name.endswith("weight"))
        elif tensor.dim() > 1 and "embed" not in name:
            values /= tensor[0].numel() ** 0.5
        tensors[architecture.published(name)] = values
    last = architecture.names.tower + f"encoder.layers.{architecture.tower.layers}."
    copied = {name.replace(".layers.0.", f".layers.{architecture.tower.layers}."): name for name in tensors}
    tensors |= {name: tensors[source].clone() for name, source in copied.items() if name.startswith(last)}
    tensors[architecture.names.tower + "post_layernorm.weight"] = torch.ones(architecture.tower.hidden)
    return tensors


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _legacy_name(name: str) -> str:
    pairs = {FACTORY.decoder: LEGACY.decoder, FACTORY.head: LEGACY.head}
    pairs |= dict(zip(FACTORY.projector, LEGACY.projector, strict=True))
    old = next(prefix for prefix in pairs if name.startswith(prefix))
    return pairs[old] + name.removeprefix(old)
