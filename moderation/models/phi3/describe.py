"""A checkpoint as a table, read without loading the weights: for `moderation model info`."""

from __future__ import annotations

import math
from pathlib import Path

from moderation.models.phi3 import network, preprocessing
from moderation.models.phi3.network import Phi3Config, PreprocessorConfig
from moderation.models.shared import checkpoint
from moderation.models.shared.tokenizer import TOKENIZER

CARD = "README.md"


def describe(place: str, name: str) -> str:
    """A table of a checkpoint of Phi-3-Vision, and its model card if it has one. Raises ConfigError.

    place: a folder or hub id. name: what the caller calls it.
    """
    folder, revision = checkpoint.locate(place, None)
    config = checkpoint.parse(folder / checkpoint.CONFIG, Phi3Config)
    preprocessor = checkpoint.parse(folder / network.PREPROCESSOR, PreprocessorConfig)
    weights = checkpoint.weight_files(folder)
    tensors = [tensor for path in weights for tensor in checkpoint.header(path)]
    files = [folder / file for file in (checkpoint.CONFIG, network.PREPROCESSOR, TOKENIZER)]
    tower, side = config.tower, config.crop_side
    largest = preprocessing.tokens(preprocessor.num_crops, 1, side)
    rows = {
        "name": name,
        "revision": revision or "a folder",
        "files' digest": checkpoint.digest([*files, *weights], {}),
        "parameters": f"{sum(math.prod(shape) for _, shape, _ in tensors):,} in {len(tensors)} tensors, "
        f"{'/'.join(sorted({kind for _, _, kind in tensors}))}, {_size(weights)}",
        "decoder": f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, vocabulary {config.vocab_size}, "
        f"{config.num_attention_heads} heads of {config.head_size} on {config.kv_heads} keys",
        "context": f"{config.max_position_embeddings} positions, other rope factors beyond "
        f"{config.original_max_position_embeddings}",
        "tower": f"hidden {tower.hidden}, {tower.layers} of "
        f"{config.img_processor.vision_config.num_hidden_layers} layers",
        "crops": f"{tower.image} x {tower.image} pixels, {side} x {side} tokens each",
        "num_crops": f"{preprocessor.num_crops}: an image takes {largest} tokens at most",
    }
    table = "\n".join(f"{key:<15}{value}" for key, value in rows.items())
    card = folder / CARD
    return f"{table}\n\n{card.read_text(encoding='utf-8', errors='replace').strip()}" if card.exists() else table


def _size(paths: list[Path]) -> str:
    return f"{sum(path.stat().st_size for path in paths) / 1e6:,.1f} MB"
