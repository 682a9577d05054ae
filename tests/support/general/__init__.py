"""Small checkpoints in the layouts of transformers' own image-text classes: one module each, with `make(folder, seed)`.

A module's TEMPLATE is its chat template: our words, and the published template's rendering.
"""

from __future__ import annotations

import importlib
from pathlib import Path

KINDS = ("llava", "qwen2_5_vl", "smolvlm", "gemma3", "shieldgemma2", "internvl")


def make(kind: str, folder: Path, seed: int = 0) -> Path:
    """Writes a checkpoint of a kind into a folder, which may be new. Returns the folder."""
    written: Path = importlib.import_module(f"{__name__}.{kind}").make(folder, seed)
    return written
