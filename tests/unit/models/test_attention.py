"""Every way of attention computes the same: each token attends to exactly the tokens of its tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from moderation.errors import DeviceError
from moderation.models.shared import attention, tree
from moderation.models.shared.attention import Stretches
from moderation.models.shared.decoder import Attend, Rotary
from moderation.models.shared.tree import Packed, Tree

CPU = torch.device("cpu")
TREES = [
    Tree((1,) * 40, ((2,) * 9, (3,) * 13, (4,) * 1)),
    Tree((5,) * 7, ()),
    Tree((6,) * 3, ((7,) * 30,)),
    Tree((), ((8,) * 5, (9,) * 4)),
    Tree((1,) * 60, ((2,) * 20, (3,) * 20)),
]


def by_definition(packed: Packed, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    allowed = torch.zeros(len(query), len(query), dtype=torch.bool)
    for span in packed.spans:
        shared = slice(span.start, span.bounds[0])
        allowed[shared, shared] = True
        for start, stop in pairwise(span.bounds):
            allowed[start:stop, shared] = True
            allowed[start:stop, start:stop] = True
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[2] ** 0.5
    weights = scores.masked_fill(~allowed.tril(), -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


def on_a_cpu(
    query: Tensor, key: Tensor, value: Tensor, asked: Stretches, seen: Stretches, causal: bool
) -> tuple[Tensor, Tensor]:
    """What varlen attention does on CUDA, in many calls."""
    outs, weights = [], []
    for (a, b), (c, d) in zip(pairwise(asked.bounds.tolist()), pairwise(seen.bounds.tolist()), strict=True):
        out, weight = attention._flash(query[a:b], key[c:d], value[c:d], causal=causal)
        outs.append(out)
        weights.append(weight)
    assert asked.longest == max(b - a for a, b in pairwise(asked.bounds.tolist()))
    return torch.cat(outs), torch.cat(weights)


WAYS: dict[str, Callable[[Packed], Attend]] = {
    "two_part": attention.two_part,
    "masked": attention.masked,
    "stretches": lambda packed: attention.stretches(packed, on_a_cpu),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_of_all_tokens_matches_its_definition(way: str, kv_heads: int) -> None:
    packed = tree.pack(TREES, CPU)
    query, key, value = _drawn(len(packed.ids), kv_heads)
    if way == "stretches":  # the kernel on CUDA shares heads itself
        key, value = key.repeat_interleave(4 // kv_heads, 1), value.repeat_interleave(4 // kv_heads, 1)
    with torch.inference_mode():
        out = WAYS[way](packed)(query, key, value)
    torch.testing.assert_close(out, by_definition(packed, query, key, value), atol=2e-6, rtol=0)


class AsOnCuda:
    """Real attention in place of torch's varlen attention on a GPU, with the log-sum-exp in one of two layouts."""

    def __init__(self, *, heads_first: bool) -> None:
        self.heads_first = heads_first

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        asked, seen, longest_asked, longest_seen = rest
        assert options["return_aux"].lse
        assert options["enable_gqa"] == (query.shape[1] != key.shape[1])
        stretches = Stretches(asked, longest_asked), Stretches(seen, longest_seen)
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
        out, weight = on_a_cpu(query.float(), key.float(), value.float(), *stretches, options["window_size"] == (-1, 0))
        return out.to(query.dtype), weight.transpose(0, 1) if self.heads_first else weight


@pytest.fixture
def unasked() -> Iterator[None]:
    """What torch's kernel does with its log-sum-exp is not known yet, and will not be remembered."""
    attention.heads_first.cache_clear()
    yield
    attention.heads_first.cache_clear()


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("heads_first", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_log_sum_exp_is_read_right_of_as_many_queries_as_heads(
    monkeypatch: pytest.MonkeyPatch, kv_heads: int, heads_first: bool
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", AsOnCuda(heads_first=heads_first))
    for trees in ([Tree((1, 2), ((3,), (4,)))], [Tree((1,) * 5, ((3,) * 2, (4,) * 2))], TREES):
        packed = tree.pack(trees, CPU)  # 4 queries in all, then 4 of the branches, with 4 heads
        query, key, value = _drawn(len(packed.ids), kv_heads)
        out = attention.stretches(packed, attention._varlen)(query, key, value)
        torch.testing.assert_close(out, by_definition(packed, query, key, value), atol=2e-6, rtol=0)


@pytest.mark.usefixtures("unasked")
def test_a_log_sum_exp_of_another_shape_stops_us(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = AsOnCuda(heads_first=True)
    monkeypatch.setattr(varlen, "varlen_attn", lambda *given, **options: (0, kernel(*given, **options)[1][None]))
    with pytest.raises(DeviceError, match="log-sum-exp"):
        attention.heads_first(CPU)


@pytest.mark.usefixtures("unasked")
def test_torch_itself_says_how_its_kernel_lays_it_out() -> None:
    """By the shapes that it traces with: no kernel of a GPU runs for this."""
    assert attention.heads_first(torch.device("meta"))


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_attention_of_scored_tokens_matches_its_definition(kv_heads: int) -> None:
    packed = tree.pack(TREES, CPU)
    query, key, value = _drawn(len(packed.ids), kv_heads)
    out = attention.of_scored(packed)(query[packed.scored], key, value)
    expected = by_definition(packed, query, key, value)[packed.scored]
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)


def test_a_post_without_questions_alone_has_no_scored_token() -> None:
    packed = tree.pack([Tree((1, 2, 3), ())], CPU)
    query, key, value = _drawn(3, 4)
    assert attention.of_scored(packed)(query[packed.scored], key, value).shape == (0, 4, 16)


def test_gradients_flow_through_a_rotation_and_what_is_left_of_a_head_passes() -> None:
    angles = torch.linspace(0, 3, 5)[:, None, None] * torch.tensor([1.0, 0.1, 0.01])
    rotary = Rotary(angles.cos(), angles.sin())
    heads = torch.randn(5, 2, 8, requires_grad=True)
    turned = rotary.apply(heads)
    pairs = torch.complex(heads[..., :3], heads[..., 3:6]) * torch.complex(angles.cos(), angles.sin())
    torch.testing.assert_close(turned, torch.cat([pairs.real, pairs.imag, heads[..., 6:]], -1))
    turned.sum().backward()  # type: ignore[no-untyped-call]
    assert heads.grad is not None
    assert torch.equal(heads.grad[..., 6:], torch.ones(5, 2, 2))


def _drawn(tokens: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    query = torch.randn(tokens, 4, 16, generator=drawn)
    key, value = torch.randn(2, tokens, kv_heads, 16, generator=drawn).unbind()
    return query, key, value
