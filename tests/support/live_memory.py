"""What a network of full size would take of a device's memory, from tensors without memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moderation.models.shared.decoder import Rotary
from moderation.models.shared.network import LanguageNetwork

TOKENS = 8192  # of a step


class Live(TorchFunctionMode):
    """The largest sum of bytes of all tensors that exist at once, of those that calls inside return."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[weakref.ref[Tensor]] = []
        self.peak: int = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self._made += [weakref.ref(part) for part in (out if isinstance(out, tuple | list) else [out]) if _counts(part)]
        self._made = [made for made in self._made if made() is not None]
        storages = [tensor.untyped_storage() for made in self._made if (tensor := made()) is not None]
        self.peak = max(self.peak, sum({storage._cdata: storage.nbytes() for storage in storages}.values()))
        return out


def _counts(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


def weights(network: nn.Module) -> int:
    """Bytes of a network in bfloat16."""
    numbers: int = sum(tensor.numel() for tensor in network.state_dict().values())
    return 2 * numbers


def of_pass(network: LanguageNetwork, pairs: int) -> int:
    """Bytes of a step of TOKENS tokens in the decoder, in bfloat16. pairs: rotated pairs of a head.

    Attention itself needs no more than its output on a GPU. Leaves the network with two layers: all take the same.
    """
    network.decoder.layers = network.decoder.layers[:2]
    decoder = network.decoder.to(torch.bfloat16)
    with torch.inference_mode(), torch.device("meta"), Live() as live:
        angles = torch.empty(TOKENS, 1, pairs, dtype=torch.bfloat16)
        hidden = torch.empty(TOKENS, decoder.embed_tokens.embedding_dim, dtype=torch.bfloat16)
        decoder(hidden, Rotary(angles, angles), lambda query, _key, _value: torch.empty_like(query))
    return int(live.peak)


def of_launch(run: Callable[[], object]) -> int:
    """Bytes that a launch of a vision tower takes beside the weights."""
    with torch.inference_mode(), torch.device("meta"), Live() as live:
        run()
    return int(live.peak)
