"""Small TinyLLaVA checkpoints in its three published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from moderation.dev.checkpoint import seeded

WEIGHTS = "model.safetensors"


def factory(parent: Path) -> Path:
    """The layout of tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B."""
    return seeded(parent / "factory", "tinyllava")


def legacy(parent: Path) -> Path:
    """The layout of bczhou/TinyLLaVA-3.1B, its tower in the subfolder `vision_tower` that config.json names."""
    return seeded(parent / "legacy", "tinyllava_legacy")


def llava(parent: Path) -> Path:
    """The layout of bczhou/tiny-llava-v1-hf."""
    return seeded(parent / "llava", "tinyllava_v1")


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
