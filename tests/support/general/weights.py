"""Random weights for a small checkpoint: drawn from a seed, and saved with the names of the published tensors."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from moderation.dev.seeds.tinyllava import write_json

CAUTION = "its weights are drawn from a seed: its verdicts mean nothing"
ALWAYS, ANSWER = 2.0, 20.0  # in the first column of the embeddings: of all tokens, and of the answers


def save(
    folder: Path, config: Mapping[str, object], answers: Collection[int], seed: int, names: Mapping[str, str]
) -> None:
    """Writes config.json, and model.safetensors for it in the config's dtype.

    answers: ids that hold nearly all of the probability. Which of them does depends on the input.
    names: patterns of the beginnings of transformers' names, and what published checkpoints have there instead.
    """
    write_json(folder / "config.json", {**config, "caution": CAUTION})
    model = _model(folder, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_drawn(name, parameter, seed))
        _favour(model, answers)
    tensors = {  # a table that is tied to another comes once
        _renamed(name, names): parameter.detach().to(model.config.dtype).contiguous()
        for name, parameter in model.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for pattern, published in names.items():
        if match := re.match(pattern, name):
            return published + name[match.end() :]
    return name


def _model(folder: Path, seed: int) -> PreTrainedModel:
    config = transformers.AutoConfig.from_pretrained(folder)
    named: type[PreTrainedModel] = getattr(transformers, config.architectures[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # some vectors start at random values
        model: PreTrainedModel = named._from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return model


def _drawn(name: str, parameter: Tensor, seed: int) -> Tensor:
    """Random values, by seed and name. A vector stays near its start, and a matrix keeps the norm of its input."""
    random = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))
    drawn = torch.from_numpy(random.standard_normal(size=tuple(parameter.shape)).astype(np.float32))
    if parameter.ndim == 1:
        return parameter.detach().add(drawn, alpha=0.05)
    if "embed_tokens" in name or "lm_head" in name:
        return 0.3 * drawn
    if "embed" in name and "patch" not in name:
        return drawn
    # Sharper attention: with plain random weights it is an average that hardly differs between posts.
    gain = 2.0 if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "qkv.weight")) else 1.0
    return drawn * (gain / float(np.sqrt(np.prod(parameter.shape[1:]))))


def _favour(model: PreTrainedModel, answers: Collection[int]) -> None:
    """Gives all tokens the same first coordinate, which no layer changes, and the head's answers a greater one."""
    for name, parameter in model.named_parameters():
        if name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight")) and parameter.shape[0] == _width(model):
            parameter[0] = 0
    every = dict(model.named_parameters(remove_duplicate=False))
    (embeddings,) = (table for name, table in every.items() if name.endswith("embed_tokens.weight"))
    (head,) = (table for name, table in every.items() if name.endswith("lm_head.weight"))
    embeddings[:, 0] = head[:, 0] = ALWAYS
    head[sorted(answers), 0] = ANSWER


def _width(model: PreTrainedModel) -> int:
    width: int = model.config.get_text_config().hidden_size
    return width
