"""The device that a model runs on, and the difference between a failed device and a batch that is too large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moderation.errors import ConfigError, DeviceError
from moderation.models.contract import DeviceMemory
from moderation.settings import ModelSettings


def place(settings: ModelSettings) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype of the settings. Raises ConfigError when there is no such device."""
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise ConfigError("MODERATION_MODEL__DEVICE=cuda: torch finds no CUDA device; use auto or cpu")
    device = torch.device("cuda" if has_cuda and settings.device != "cpu" else "cpu")
    if settings.dtype == "auto":
        return device, torch.bfloat16 if device.type == "cuda" else torch.float32
    return device, {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]


def memory(where: torch.device) -> DeviceMemory | None:
    """The allocator's figures, which cost the device nothing; None on a CPU."""
    if where.type != "cuda":
        return None
    index = torch.cuda.current_device() if where.index is None else where.index
    return DeviceMemory(
        f"cuda:{index}",
        torch.cuda.memory_allocated(index),
        torch.cuda.memory_reserved(index),
        torch.cuda.get_device_properties(index).total_memory,
    )


@contextmanager
def faults() -> Iterator[None]:
    """Turns a failure of the device into DeviceError, one of its memory into torch.OutOfMemoryError, by the text."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        if not isinstance(error, torch.AcceleratorError) and not text.startswith(("CUDA error", "cuDNN error")):
            raise
        if "out of memory" in text or "ALLOC_FAILED" in text:
            raise torch.OutOfMemoryError(text) from error
        raise DeviceError(f"the device has failed: {text}") from error
