"""A tree scores each question as a prompt of its own would."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from moderation.models.phi3.family import Phi3Vision, Window
from moderation.models.shared import attention, tree
from moderation.models.shared.decoder import Attend
from moderation.models.shared.scores import scores
from moderation.models.shared.tree import Packed, Tree
from moderation.types import Content, Score
from tests.support.builders import mass_of
from tests.support.small_model import a_content, a_model, a_picture, alone, questions

CPU = torch.device("cpu")
CLOSE = 1e-4  # log-odds, float32
TREES = [Tree((1, 2, 3), ((4, 5), (6,))), Tree((7,), ()), Tree((8, 9), ((10, 11, 12),))]


def margins(scores: list[Score]) -> Tensor:
    return torch.tensor([score.margin for score in scores], dtype=torch.float64)


def apart(left: list[Score], right: list[Score]) -> float:
    """The largest difference in log-odds."""
    return float((margins(left) - margins(right)).abs().max())


def windows_of(model: Phi3Vision, contents: list[Content], policies: int) -> list[Window]:
    return [window for content in contents for window in model.encode(content, questions(policies))]


@pytest.fixture(scope="module")
def model() -> Phi3Vision:
    return a_model(window_tokens=8192)


@pytest.fixture(scope="module")
def contents() -> list[Content]:
    return [
        a_content("hello, buy my dog"),
        a_content("what is this image?", a_picture(300, 200, seed=1)),
        a_content("", a_picture(90, 250, seed=2), a_picture(400, 90, seed=3)),
    ]


def test_trees_are_packed_without_padding() -> None:
    packed = tree.pack(TREES, CPU)
    assert packed.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 3, 0, 0, 1, 2, 3, 4]
    assert packed.scored.tolist() == [4, 5, 11]
    assert [(span.start, span.bounds) for span in packed.spans] == [(0, (3, 5, 6)), (6, (7,)), (7, (9, 12))]
    assert sum(each.tokens for each in TREES) == len(packed.ids), "not one position of padding"


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_token_attends_to_the_shared_part_and_its_own_branch(kv_heads: int) -> None:
    packed = tree.pack(TREES, CPU)
    owner = [(0, None)] * 3 + [(0, 0)] * 2 + [(0, 1)] + [(1, None)] + [(2, None)] * 2 + [(2, 0)] * 3

    def attends(query: int, key: int) -> bool:
        same_post = owner[query][0] == owner[key][0]
        return same_post and key <= query and owner[key][1] in {None, owner[query][1]}

    generator = torch.Generator().manual_seed(0)
    query = torch.randn(12, 4, 8, generator=generator)
    key, value = torch.randn(2, 12, kv_heads, 8, generator=generator).unbind()
    out = attention.of_tokens(packed)(query, key, value)
    for token in range(12):
        keys = [other for other in range(12) if attends(token, other)]
        for head in range(4):
            group = head * kv_heads // 4
            weights = (key[keys, group] @ query[token, head] / 8**0.5).softmax(0)
            assert torch.allclose(out[token, head], weights @ value[keys, group], atol=1e-6)


def test_scores_of_logits() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 1.0], [0.0, 0.0, 90.0, 0.0], [-800.0, 0.0, -800.0, 0.0]])
    first, second, third = scores(logits, yes=(0,), no=(3,))
    assert first.margin == 1
    assert first.probability == pytest.approx(torch.tensor(1.0).sigmoid().item())
    assert first.mass == pytest.approx(logits[0].softmax(-1)[[0, 3]].sum().item())
    assert mass_of(second) < 1e-30
    assert third.probability == 0
    with pytest.raises(ArithmeticError, match="not finite"):
        scores(torch.tensor([[0.0, float("nan")]]), (0,), (1,))


def test_equal_to_separate_prompts(model: Phi3Vision, contents: list[Content]) -> None:
    """0, 1 and 2 images x 1..20 policies, mixed in one batch."""
    full = windows_of(model, contents, 20)
    separate = [[alone(model, window, branch) for branch in range(20)] for window in full]
    spread = torch.stack([margins(row) for row in separate])
    assert spread.std(dim=1).min() > 0.3, "policies of one post differ, or equality would mean nothing"
    assert spread.std(dim=0).max() > 0.3, "posts differ"
    assert min(mass_of(score) for row in separate for score in row) > 0.9
    worst = 0.0
    for count in range(1, 21):
        batch = windows_of(model, contents, count)
        worst = max(
            worst,
            *(apart(list(row), expected[:count]) for row, expected in zip(model.score(batch), separate, strict=True)),
        )
    print(f"largest difference from separate prompts: {worst:.1e} log-odds")
    assert worst < CLOSE


def test_neighbours_do_not_change_a_score(model: Phi3Vision, contents: list[Content]) -> None:
    """Other policies, other posts, another order."""
    policies = questions(20)
    expected = {
        (post, question.policy_id): model.score(model.encode(content, [question]))[0][0]
        for post, content in enumerate(contents)
        for question in policies
    }
    dice = random.Random(7)
    worst = 0.0
    for _ in range(12):
        batch = []
        for post in dice.choices(range(len(contents)), k=dice.randint(1, 6)):
            asked = dice.sample(policies, k=dice.randint(1, 9))
            batch.append((post, asked, model.encode(contents[post], asked)[0]))
        rows = model.score([window for _, _, window in batch])
        for (post, asked, _), row in zip(batch, rows, strict=True):
            worst = max(worst, apart(list(row), [expected[post, question.policy_id] for question in asked]))
    print(f"largest move: {worst:.1e} log-odds")
    assert worst < CLOSE


@pytest.mark.parametrize("room", [400, 60, 30, 0, -1])
def test_each_question_has_the_rope_factors_of_its_own_prompt(
    model: Phi3Vision, contents: list[Content], room: int
) -> None:
    """Near 4,096 positions a post scores the same alone, with a short post and with a long post, for any questions."""
    window = a_window_of(model, 4096 - room, policies=4)
    lengths = [len(branch) for branch in window.tree.branches]
    is_long = [length > room for length in lengths]
    print(f"room for {room} tokens, questions of {lengths}")
    expected = [alone(model, window, branch, long=is_long[branch]) for branch in range(4)]
    other = [alone(model, window, branch, long=not is_long[branch]) for branch in range(4)]
    assert all(apart([left], [right]) > CLOSE for left, right in zip(expected, other, strict=True)), "it matters"
    assert window.tokens == sum(lengths) + len(window.tree.shared) * len(set(is_long))
    short = windows_of(model, contents[:2], 3)
    long = a_window_of(model, 4200, policies=1)
    worst = 0.0
    for batch in ([window], [window, *short], [long, window, *short]):
        worst = max(worst, apart(list(model.score(batch)[batch.index(window)]), expected))
    worst = max(worst, apart(list(model.score([a_window_of(model, 4096 - room, policies=1)])[0]), expected[:1]))
    print(f"largest move {worst:.1e} log-odds")
    assert worst < CLOSE


def a_window_of(model: Phi3Vision, length: int, policies: int) -> Window:
    """A post whose shared part has exactly `length` positions."""
    words = ("dog cat gun money hate love " * (length // 6 + 1)).split()
    (bare,) = model.encode(a_content("x"), questions(policies))
    (window,) = model.encode(a_content(" ".join(words[: length - len(bare.tree.shared) + 2])), questions(policies))
    assert len(window.tree.shared) == length
    return window


def everything_before(packed: Packed) -> Attend:
    """A broken mask: branches attend to the branches before them."""
    return attention.of_tokens(
        Packed(
            packed.ids,
            packed.positions,
            tuple(tree.Span(span.start, (span.bounds[0], span.stop)) for span in packed.spans),
            packed.scored,
        )
    )


def other_posts_too(packed: Packed) -> Attend:
    """A broken mask: posts attend to the posts before them."""
    return attention.of_tokens(Packed(packed.ids, packed.positions, (tree.Span(0, (len(packed.ids),)),), packed.scored))


@pytest.mark.parametrize("broken", [everything_before, other_posts_too])
def test_a_broken_mask_is_noticed(
    model: Phi3Vision, contents: list[Content], monkeypatch: pytest.MonkeyPatch, broken: object
) -> None:
    batch = windows_of(model, contents, 3)
    right = model.score(batch)
    whole = attention.of_tokens

    def broken_once(packed: Packed) -> Attend:
        monkeypatch.setattr(attention, "of_tokens", whole)
        return broken(packed)  # type: ignore[operator, no-any-return]

    monkeypatch.setattr(attention, "of_tokens", broken_once)
    wrong = model.score(batch)
    assert max(apart(list(left), list(right)) for left, right in zip(wrong, right, strict=True)) > 100 * CLOSE


def test_positions_that_do_not_continue_are_noticed(
    model: Phi3Vision, contents: list[Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = windows_of(model, contents, 3)
    right = model.score(batch)
    pack = tree.pack

    def in_a_row(trees: list[Tree], device: torch.device) -> Packed:
        packed = pack(trees, device)
        return Packed(packed.ids, torch.arange(len(packed.ids)), packed.spans, packed.scored)

    monkeypatch.setattr(tree, "pack", in_a_row)
    wrong = model.score(batch)
    assert max(apart(list(left), list(right)) for left, right in zip(wrong, right, strict=True)) > 10 * CLOSE


def test_an_empty_batch_and_a_post_without_questions(model: Phi3Vision, contents: list[Content]) -> None:
    assert list(model.score([])) == []
    silent = model.encode(contents[0], [])
    asked = model.encode(contents[1], questions(2))
    rows = model.score([*silent, *asked])
    assert [len(row) for row in rows] == [0, 2]
    assert apart(list(rows[1]), list(model.score(asked)[0])) < CLOSE
