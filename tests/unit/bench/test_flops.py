"""The count that the bench divides by: against the published shapes, and against what torch counts as it runs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moderation.bench import flops, sizes, workloads
from moderation.bench.sizes import SIZES, Size
from moderation.bench.workloads import KINDS
from moderation.models.phi3.family import Window
from moderation.models.phi3.network import SHORT
from moderation.models.shared import tree
from moderation.models.shared.tree import Tree

FULL = sizes.config(SIZES["full"])


def test_the_published_shapes() -> None:
    assert flops.token(FULL) == pytest.approx(7.248e9, rel=1e-3)
    assert flops.crop(FULL) == pytest.approx(366e9, rel=0.01)


def test_the_work_of_a_crop_is_counted_in_tokens() -> None:
    """What fills a step: a post's tokens and its crops, each by what it computes."""
    assert FULL.crop_work == pytest.approx(flops.crop(FULL) / flops.token(FULL), rel=0.1)


@pytest.mark.parametrize(("policies", "trees", "prompts"), [(1, 1.99, 1.99), (5, 6.4, 10.5), (20, 23.0, 41.9)])
def test_a_text_post_takes_the_published_operations(policies: int, trees: float, prompts: float) -> None:
    """TFLOP, except for the last layer, of which the engine computes only the scored tokens."""
    post = workloads.post(KINDS["text"], policies, FULL, seed=0)
    assert 0.96 * trees < flops.step([post], FULL) / 1e12 < 1.01 * trees
    assert 0.90 * prompts < flops.plain(post, FULL) / 1e12 < 1.01 * prompts


def test_operations_are_those_that_torch_counts() -> None:
    config = sizes.config(Size(192, 256, 3, 2, "tiny"))
    network = sizes.network(config, dtype=torch.float32, device=torch.device("cpu"))
    window = Window(Tree((5,) * 40, ((6,) * 30, (7,) * 20)), (), context=4096)
    packed = tree.pack([window.tree], network.device)
    with FlopCounterMode(display=False) as counted:  # with gradients on, so that torch itself multiplies
        network.logits(network(packed, [], [SHORT], only_scored=True))
    matrices = {name: count for name, count in counted.get_flop_counts()["Global"].items() if "mm" in str(name)}
    pairs = 40 * 41 // 2 + 30 * 40 + 30 * 31 // 2 + 20 * 40 + 20 * 21 // 2
    attention = 4 * 192 * (2 * pairs + 70 + 60)
    assert flops.step([window], config) == sum(matrices.values()) + attention
