"""A checkpoint as a table, and the tokens of its questions, read without loading the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from moderation.models.shared import checkpoint
from moderation.models.shared.family import Checkpoint
from moderation.models.shared.window import longest_question
from moderation.policies import prompts
from moderation.settings import ModelSettings

CARD = "README.md"


def describe(family: type[Checkpoint[Any, Any]], place: str, name: str, num_crops: int | None = None) -> str:
    """A table of a checkpoint, and its model card if it has one. Raises ConfigError.

    place: a folder or hub id. name: what the caller calls it. num_crops: see Checkpoint.
    """
    folder, revision = checkpoint.locate(place, None, family.wanted)
    opened = family(folder, num_crops)
    weights = [path for path in opened.files if path.suffix == ".safetensors"]
    tensors = [tensor for path in weights for tensor in checkpoint.header(path)]
    rows = {
        "name": name,
        "revision": revision or "a folder",
        "files' digest": checkpoint.digest(opened.files, {}),
        "parameters": f"{sum(math.prod(shape) for _, shape, _ in tensors):,} in {len(tensors)} tensors, "
        f"{'/'.join(sorted({kind for _, _, kind in tensors}))}, "
        f"{sum(path.stat().st_size for path in weights) / 1e6:,.1f} MB",
        **opened.rows,
    }
    table = "\n".join(f"{key:<15}{value}" for key, value in rows.items())
    card = folder / CARD
    return f"{table}\n\n{card.read_text(encoding='utf-8', errors='replace').strip()}" if card.exists() else table


def question_tokens(
    family: type[Checkpoint[Any, Any]], place: str, settings: ModelSettings
) -> tuple[Callable[[str], int], int]:
    """See `models.question_tokens`. place: a folder or hub id."""
    folder, _ = checkpoint.locate(place, settings.revision, family.wanted)
    opened = family(folder, settings.num_crops)
    return lambda text: len(opened.template.question(prompts.asked(text))), longest_question(opened.context)
