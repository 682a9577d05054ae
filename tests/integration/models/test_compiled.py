"""The decoder as torch's compiler takes it: traced in one piece, and run by Python.

What inductor makes of it on a CPU was right to 2e-6 when it was tried (torch 2.13). That takes a minute: no test.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moderation.models.phi3 import family
from moderation.models.phi3.family import Phi3Vision, Window
from moderation.models.shared import attention, tree
from moderation.models.shared.compiled import SMALL, Compiled, Trees, block_mask
from moderation.models.shared.tree import Tree
from tests.support.small_model import a_content, a_picture, questions, settings

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # of torch by torch, when its compiler is imported
]


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_block_mask_is_the_tree(kv_heads: int) -> None:
    trees = [Tree((1,) * 140, ((2,) * 9, (3,) * 130, (4,) * 1)), Tree((5,) * 7, ()), Tree((6,) * 3, ((7,) * 30,))]
    packed = tree.pack([*trees, Tree((0,) * 64, ())], torch.device("cpu"))
    drawn = torch.Generator().manual_seed(0)
    query = torch.randn(len(packed.ids), 4, 16, generator=drawn)
    key, value = torch.randn(2, len(packed.ids), kv_heads, 16, generator=drawn).unbind()
    with torch.inference_mode():
        out = Trees(block_mask(packed))(query, key, value)
        torch.testing.assert_close(out, attention.masked(packed)(query, key, value), atol=2e-6, rtol=0)


def test_compiled_and_padded_it_scores_the_same() -> None:
    model = family.load(settings())
    small, large = a_batch(model, 1), a_batch(model, 13)
    assert small[0].tree.tokens <= SMALL[-1] < sum(window.tree.tokens for window in large)
    expected = [margins(model, batch) for batch in (small, large)]
    model.network.compiled = Compiled(model.network.model, backend="eager")
    for batch, right in zip((small, large), expected, strict=True):
        assert (margins(model, batch) - right).abs().max() < 1e-4


def a_batch(model: Phi3Vision, posts: int) -> list[Window]:
    contents = [a_content(f"dog number {post}", a_picture(200 + 40 * post, 150, post)) for post in range(posts)]
    return [window for content in contents for window in model.encode(content, questions(3))]


def margins(model: Phi3Vision, batch: list[Window]) -> Tensor:
    return torch.tensor([score.margin for row in model.score(batch) for score in row], dtype=torch.float64)
