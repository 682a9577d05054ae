"""A class of transformers as a network: what a window's questions share is computed once, and kept in its cache.

The network's own code decides positions, masks and caches. It runs twice for a question: over what all questions
share, with the pictures, and over the question's own tokens, on a copy of the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moderation.errors import ConfigError
from moderation.models.general.kinds import WRAPPED
from moderation.models.general.processor import library
from moderation.models.shared import checkpoint

# What transformers finds wrong with the tensors of the files, in words.
WRONG = {"missing_keys": "missing", "unexpected_keys": "unexpected", "mismatched_keys": "of another shape"}
KINDS = ("mm_token_type_ids", "token_type_ids")  # inputs that say which ids are a picture's


class CachedNetwork:
    """The network of a checkpoint. Belongs to one thread: some classes keep state from one call to the next."""

    def __init__(self, model: Any, slot: int) -> None:
        self.model = model
        self._slot = slot
        self._stateful = [module for module in model.modules() if hasattr(module, "rope_deltas")]
        self._exact: tuple[int, ...] = ()
        head = model.get_output_embeddings()
        if isinstance(head, nn.Linear):
            head.register_forward_hook(self._in_float32)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    def last_logits(
        self,
        shared: Sequence[int],
        branches: Sequence[Sequence[int]],
        inputs: Mapping[str, Tensor],
        exact: Sequence[int],
    ) -> Tensor:
        """float32 [branches, vocabulary]: the logits behind each branch, which follows the shared ids.

        Ids below zero are the pictures' slots. inputs: of the pictures, on the device. exact: ids whose logits are
        summed in float32.
        """
        self._exact = tuple(exact)
        past = self._run(self._ids(shared), **inputs).past_key_values
        last = len(branches) - 1
        return torch.cat(
            [  # only the logits are kept: what the class returns holds its copy of the cache
                self._behind(self._ids(branch), past_key_values=past if place == last else copy.deepcopy(past))
                for place, branch in enumerate(branches)
            ]
        )

    def logits(self, ids: Sequence[int], inputs: Mapping[str, Tensor], exact: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: the logits behind a prompt that is computed as a whole."""
        self._exact = tuple(exact)
        return self._behind(self._ids(ids), **inputs)[0]

    def _behind(self, ids: Tensor, **inputs: Any) -> Tensor:
        """float32 [1, vocabulary]: the logits behind the ids."""
        logits: Tensor = self._run(ids, **inputs).logits[0, -1:].float()
        return logits

    def _run(self, ids: Tensor, **inputs: Any) -> Any:
        if "past_key_values" not in inputs:
            for module in self._stateful:  # else a prompt without pictures would take the positions of the one before
                module.rope_deltas = None
        return self.model(input_ids=ids, use_cache=True, return_dict=True, logits_to_keep=1, **inputs)

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([[self._slot if id < 0 else id for id in ids]], device=self.device)

    def _in_float32(self, head: nn.Linear, taken: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        """In the place of the head's logits: float32, and the answers' summed in it.

        bfloat16 logits near 20 come in steps of 1/8, and so would the margin between two of them.
        """
        if logits.dtype == torch.float32:
            return logits
        exact = list(self._exact)
        logits = logits.float()
        bias = None if head.bias is None else head.bias[exact].float()
        logits[..., exact] = functional.linear(taken[0].float(), head.weight[exact].float(), bias)
        return logits


def read(folder: Path, kind: str, *, dtype: torch.dtype, device: torch.device) -> CachedNetwork:
    """The network with the folder's weights. Raises ConfigError naming what is wrong."""
    transformers = library()
    config = config_of(folder, kind)
    name = class_of(kind)
    for path in checkpoint.weight_files(folder):
        checkpoint.header(path)  # a damaged file is named
    try:
        model, found = getattr(transformers, name).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - each class has its own
        line = str(error).strip().partition("\n")[0][:300]
        raise ConfigError(
            f"{folder}: transformers cannot load it as {name} ({type(error).__name__}: {line}); check that all files "
            "come from the same revision"
        ) from None
    problems = [f"{len(found[key])} {words}: {_some(found[key])}" for key, words in WRONG.items() if found[key]]
    if problems:
        raise ConfigError(
            f"{folder}: the tensors are not those of {name}: {'; '.join(problems)}; check that config.json and the "
            "safetensors files come from the same revision"
        )
    try:
        model = model.to(device)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"{folder}: the weights do not fit on {device} as {dtype}; free the device, or use a smaller dtype"
        ) from None
    model.requires_grad_(False).eval()
    if kind in WRAPPED:
        model = model.model
    return CachedNetwork(model, slot_of(folder, config))


def is_known(kind: str) -> bool:
    """Whether transformers has an image-text model of the model_type."""
    return kind in _classes()


def class_of(kind: str) -> str:
    """The name of the class whose tensors a published checkpoint of a known kind has."""
    return WRAPPED.get(kind) or _classes()[kind]


def run_class(kind: str) -> Any:
    """The class of a known kind whose `forward` is run."""
    return getattr(library(), _classes()[kind])


def _classes() -> Mapping[str, str]:
    """Kinds, and the names of their classes."""
    library()
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415 - slow
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def config_of(folder: Path, kind: str) -> Any:
    """config.json as transformers' own class of the kind reads it. Raises ConfigError."""
    path = folder / checkpoint.CONFIG
    content = checkpoint.read_json(path)
    if content.get("quantization_config"):
        raise ConfigError(f"{path}: has a quantization_config, and quantised weights are not read; take the original")
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{folder}: holds an adapter (adapter_config.json), which is not read; merge it into the weights"
        )
    try:
        config = library().CONFIG_MAPPING[kind].from_dict(content)
    except Exception as error:  # noqa: BLE001 - each class has its own
        line = str(error).strip().partition("\n")[0][:300]
        raise ConfigError(
            f"{path}: transformers cannot read it ({type(error).__name__}: {line}); fetch it again"
        ) from None
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{path}: {kind} has an encoder and a decoder, and this service runs decoders")
    return config


def slot_of(folder: Path, config: Any) -> int:
    """The id whose place a picture's features take. Raises ConfigError."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(slot := getattr(config, name, None), int):
            return slot
    raise ConfigError(f"{folder / checkpoint.CONFIG}: names no image_token_id, so pictures have no place in a prompt")


def _some(names: Any) -> str:
    listed = sorted(str(name[0] if isinstance(name, tuple) else name) for name in names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
