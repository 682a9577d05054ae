"""The device memory of a step, computed from shapes: no weight and no activation is allocated.

The real network runs on torch's meta device, where a tensor has a shape and a storage of a known size, but no bytes.
`Storages` follows every storage that the run makes, from its making to its end, and keeps the largest sum.

Not counted: what CUDA itself and its libraries hold (some 0.5 GB), and the gaps of torch's allocator.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, UntypedStorage
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moderation.models.shared import tree
from moderation.models.shared.network import LanguageNetwork
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.tree import Tree

STEP_TOKENS = 8192  # the default of MODERATION_WORKER__BATCH_TOKENS
QUESTION_TOKENS = 150  # of a policy

NetworkT = TypeVar("NetworkT", bound=LanguageNetwork)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a device."""

    weights: int
    step: int  # the most that a step holds at a moment, without the weights

    @property
    def total(self) -> int:
        return self.weights + self.step


class Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that are made inside. peak: the largest sum of their bytes at a moment."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: dict[int, weakref.ref[UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Collection[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            self._follow(storage, 0)  # made outside, unless it is known
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._follow(storage, storage.nbytes())
        return result

    def _follow(self, storage: UntypedStorage, size: int) -> None:
        """torch keeps one Python object for a storage as long as the storage lives."""
        key = id(storage)
        if key in self._known:
            return

        def end(_reference: object) -> None:
            del self._known[key]
            self._now -= size

        self._known[key] = weakref.ref(storage, end)
        self._now += size
        self.peak = max(self.peak, self._now)


class _FusedAttention(TorchFunctionMode):
    """SDPA as a GPU runs it: a result in the layout of its kernels, and no matrix of queries by keys."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Collection[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, value = args[0], args[2]
        batch, heads, queries, _ = query.shape
        query.new_empty(batch, heads, queries, dtype=torch.float32)  # log-sum-exps, dropped at once
        return query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)


def shapes(network: NetworkT, dtype: torch.dtype | None = None) -> NetworkT:
    """The network on the meta device. The given one keeps its weights; they are not copied."""
    kept = [*network.parameters(), *network.buffers()]
    memo: dict[int, Any] = {}
    for tensor in kept:
        meta = tensor.detach().to("meta")
        memo[id(tensor)] = (
            torch.nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else meta
        )
    compiled, network.compiled = network.compiled, None
    try:
        copied = copy.deepcopy(network, memo)
    finally:
        network.compiled = compiled
    return copied if dtype is None else copied.to(dtype)


def of_step(
    network: LanguageNetwork,
    pictures: Sequence[EncodedPicture],
    *,
    answers: Sequence[int] = (0, 1),
    tokens: int = STEP_TOKENS,
) -> Memory:
    """The memory of a network on the meta device for a step of one post with these pictures.

    The post has as many questions of QUESTION_TOKENS tokens as make `tokens` tokens in all. answers: ids of Yes and No.
    """
    slots = [-1 - place for place, picture in enumerate(pictures) for _ in range(picture.tokens)]
    rest = tokens - len(slots)
    count = max(1, rest // QUESTION_TOKENS - 1)
    words = max(1, rest - count * QUESTION_TOKENS)
    post = Tree((*slots, *(0 for _ in range(words))), tuple((0,) * QUESTION_TOKENS for _ in range(count)))
    return Memory(_bytes(network), peak(network, [post], pictures, answers))


def peak(
    network: LanguageNetwork, trees: Sequence[Tree], pictures: Sequence[EncodedPicture], answers: Sequence[int]
) -> int:
    """The most bytes that one pass over the trees holds beyond the weights: pictures, decoder, logits.

    network: on any device. On the meta device the pass takes the way of a GPU.
    """
    storages = Storages()
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode())
        if network.device.type == "meta":
            modes.enter_context(_FusedAttention())
        modes.enter_context(storages)
        features = network.embed_images(pictures) if pictures else []
        packed = tree.pack(trees, network.device)
        variants = [network.variant(each.tokens) for each in trees]
        network.logits(network(packed, features, variants, only_scored=True), exact=answers)
    return storages.peak


def _storages(values: object) -> Iterator[UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _bytes(network: LanguageNetwork) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())
