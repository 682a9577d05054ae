"""Where a model runs, and how a device that has failed is told from a batch that is too large for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moderation.errors import ConfigError, DeviceError
from moderation.models.contract import DeviceMemory
from moderation.settings import ModelSettings


def place(settings: ModelSettings) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype that the settings ask for. Raises ConfigError: there is no such device."""
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise ConfigError("MODERATION_MODEL__DEVICE=cuda: torch sees no CUDA device; use auto or cpu")
    device = torch.device("cuda" if there and settings.device != "cpu" else "cpu")
    if settings.dtype == "auto":
        return device, torch.bfloat16 if device.type == "cuda" else torch.float32
    return device, {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]


def memory(where: torch.device) -> DeviceMemory | None:
    """What the allocator says, which asks nothing of the device; None: it is a CPU."""
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
    """Inside, a failure of the device is a DeviceError, one of its memory torch.OutOfMemoryError, in whatever words."""
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
