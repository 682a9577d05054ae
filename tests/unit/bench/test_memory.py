"""The memory of a step as it is computed from shapes, against what torch's allocator hands out."""

from __future__ import annotations

import gc
import importlib
import weakref
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from moderation import models
from moderation.bench import memory
from moderation.bench.memory import Storages
from moderation.dev.checkpoint import FAMILIES, seeded
from moderation.models.shared import attention
from moderation.models.shared.attention import Kernel, Stretches, stretches
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.shared.tree import Tree
from moderation.settings import ModelSettings
from tests.support.small_model import a_model, a_picture


def allocated(run: Callable[[], object]) -> int:
    """The most bytes that torch's allocator has handed out at a moment of the run, as torch's profiler records it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert len(events) > 100
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def kernel(
    query: Tensor, key: Tensor, value: Tensor, asking: Stretches, asked: Stretches, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention of a GPU's shapes, computed on a CPU."""
    out, weight = torch.empty_like(query), torch.empty(query.shape[:2])
    for own, seen in zip(pairwise(asking.bounds.tolist()), pairwise(asked.bounds.tolist()), strict=True):
        queries, keys = slice(*own), slice(*seen)
        wide = (attention._repeat_heads(part[keys], query.shape[1]) for part in (key, value))
        out[queries], weight[queries] = attention._flash(query[queries], *wide, causal=causal)
    return out, weight


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU takes a GPU's way through attention, and the meta device launches as many crops at once as a CPU."""
    monkeypatch.setattr(attention, "of_tokens", lambda packed: stretches(packed, way_of(packed.ids.device)))
    for family in models.FAMILIES:
        for name, value in vars(importlib.import_module(f"moderation.models.{family}.network")).items():
            if name.endswith("_AT_ONCE"):
                monkeypatch.setitem(value, "meta", value["cpu"])


def way_of(device: torch.device) -> Kernel:
    return kernel if device.type == "cpu" else attention._shapes


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("family", FAMILIES)
def test_computed_memory_is_what_a_step_takes(family: str, tmp_path: Path) -> None:
    """The rest is scratch memory inside the CPU's kernels, which weighs more in a small network."""
    folder = seeded(tmp_path / family, family)
    model = models.load(ModelSettings(name=str(folder), device="cpu", dtype="bfloat16"))
    assert isinstance(model, VisionClassifier)
    network = model.network
    for shown in ([], [a_picture(640, 480)]):
        pictures = model.checkpoint.encode_pictures(shown)
        slots = [-1] * sum(picture.tokens for picture in pictures)
        trees = [Tree((*slots, *range(40)), ((5,) * 150,) * 24), Tree((7,) * 800, ((8,) * 80, (9,) * 360))]
        run = partial(memory.peak, trees=trees, pictures=pictures, answers=(0, 1))
        real = allocated(partial(run, network))
        assert real > 1 << 20
        assert run(network) == pytest.approx(real, rel=0.04)
        assert run(memory.shapes(network)) == pytest.approx(real, rel=0.06)


def test_a_storage_counts_from_its_making_to_its_end() -> None:
    given = torch.ones(1000)
    with Storages() as storages:
        view = given[:10]  # made outside
        assert storages.peak == 0
        first = view + 1
        second = torch.empty(100)
        assert storages.peak == 40 + 400
        del second
        alias = first[2:]
        third = alias.clone()
        assert storages.peak == 40 + 400, "less at a moment than before"
        del third
        torch.empty(200)
    assert storages.peak == 40 + 800


def test_shapes_copy_no_weight_and_leave_the_network_as_it_is() -> None:
    network = a_model().network
    weights = {name: weakref.ref(weight) for name, weight in network.named_parameters()}
    shapes = memory.shapes(network)
    gc.collect()
    assert {name: weakref.ref(weight) for name, weight in network.named_parameters()} == weights
    assert all(weight.device.type == "meta" for weight in shapes.parameters())
    expected = {name: (weight.shape, weight.dtype) for name, weight in network.state_dict().items()}
    assert {name: (weight.shape, weight.dtype) for name, weight in shapes.state_dict().items()} == expected
    assert memory.shapes(network, torch.bfloat16).dtype is torch.bfloat16


def test_a_step_takes_more_with_more_tokens() -> None:
    network = a_model().network
    shapes = memory.shapes(network)
    small, large = (memory.of_step(shapes, [], tokens=tokens) for tokens in (1000, 4000))
    assert large.step == pytest.approx(4 * small.step, rel=0.1)
    assert small.weights == large.weights == sum(weight.nbytes for weight in network.state_dict().values())
    assert large.total == large.weights + large.step
