"""The memory of a step as it is computed from shapes, against what torch's allocator hands out."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from moderation.bench import memory
from moderation.bench.memory import Storages
from moderation.models.phi3 import network as phi3
from moderation.models.shared.tree import Tree
from tests.support.small_model import a_model, a_picture


def allocated(run: object) -> int:
    """The most bytes that torch's allocator has handed out at a moment of the run, as torch's profiler records it."""
    assert callable(run)
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [None, (640, 480)])
def test_computed_memory_is_what_a_step_takes(
    dtype: str, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(phi3.CROPS_AT_ONCE, "meta", phi3.CROPS_AT_ONCE["cpu"])
    model = a_model(dtype=dtype)
    network = model.network
    pictures = model.checkpoint.encode_pictures([a_picture(*size)] if size else [])
    slots = [-1] * sum(picture.tokens for picture in pictures)
    trees = [Tree((*slots, *range(40)), ((5,) * 150,) * 6), Tree((7,) * 200, ((8,) * 20, (9,) * 90))]
    real = allocated(lambda: memory.peak(network, trees, pictures, (0, 1)))
    assert real > 1 << 20
    assert memory.peak(network, trees, pictures, (0, 1)) == pytest.approx(real, rel=0.03)
    assert memory.peak(memory.shapes(network), trees, pictures, (0, 1)) == pytest.approx(real, rel=0.03)


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
