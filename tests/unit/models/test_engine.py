"""A batch on the device: pictures once, passes of bounded size, padding, other precisions, looking ahead."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from moderation.errors import ConfigError
from moderation.models.contract import LooksAhead, Measured
from moderation.models.phi3 import family
from moderation.models.phi3.family import Phi3Vision, Window
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared import engine, fp8
from moderation.models.shared.compiled import SMALL, rounded
from moderation.models.shared.engine import Engine
from moderation.models.shared.feature_cache import FeatureCache
from moderation.models.shared.fp8 import Fp8Linear
from moderation.models.shared.linear import Linear
from moderation.models.shared.loading import warm_up
from tests.support.small_model import a_content, a_model, a_picture, questions, settings

CLOSE = 1e-4  # log-odds


def a_batch(model: Phi3Vision, seeds: Sequence[int] = (1, 2, 3)) -> list[Window]:
    contents = [a_content(f"dog number {seed}", a_picture(200 + 40 * seed, 150, seed)) for seed in seeds]
    return [window for content in contents for window in model.encode(content, questions(3))]


def margins(rows: Sequence[Sequence[object]]) -> Tensor:
    return torch.tensor([score.margin for row in rows for score in row], dtype=torch.float64)  # type: ignore[attr-defined]


def crops_run(model: Phi3Vision, batch: Sequence[Window]) -> int:
    counts: list[int] = []
    tower = model.network.model.vision_embed_tokens.img_processor["vision_model"]
    hook = tower.register_forward_hook(lambda _module, args, _out: counts.append(len(args[0])))
    model.score(batch)
    hook.remove()
    return sum(counts)


def test_a_known_picture_does_not_run_through_the_tower_and_scores_the_same() -> None:
    model = family.load(settings())
    batch = a_batch(model)
    first = margins(model.score(batch))
    assert crops_run(model, a_batch(model)) == 0
    assert torch.equal(margins(model.score(a_batch(model))), first)
    mixed = a_batch(model, (3, 4))
    assert crops_run(model, mixed) == len(mixed[1].pictures[0])


def test_the_same_picture_in_two_posts_of_a_batch_runs_once() -> None:
    model = family.load(settings(feature_cache_bytes=0))
    (first,), (same,) = (model.encode(a_content(text, a_picture()), questions(1)) for text in ("a", "b"))
    assert crops_run(model, [first, same]) == len(first.pictures[0])
    assert crops_run(model, [first]) == len(first.pictures[0]), "a budget of nothing keeps nothing"


def test_another_crop_setting_is_another_picture() -> None:
    few, many = (
        family.load(settings(num_crops=crops)).encode(a_content("", a_picture()), questions(1))[0].pictures[0]
        for crops in (1, 4)
    )
    assert few.digest != many.digest


def test_features_are_kept_up_to_a_budget_the_latest_ones() -> None:
    def a_crop(digest: str) -> Crops:
        return Crops(torch.zeros(3, 2, 2, dtype=torch.uint8), 1, 1, 0, digest=digest)  # of one token

    asked: list[list[str]] = []

    def embed_images(pictures: Sequence[Crops]) -> list[Tensor]:
        asked.append([picture.digest for picture in pictures])
        whole = torch.zeros(len(pictures), 25)  # 100 bytes each, views of one tensor
        return [row[None] for row in whole]

    features = FeatureCache(250)
    for wanted in ("a", "b", "a", "c", "b", "bc"):
        features.get([a_crop(digest) for digest in wanted], embed_images)
    assert asked == [["a"], ["b"], ["c"], ["b"]], "b was the oldest when c came; then a"
    assert features.bytes == 200
    assert (features.requested, features.hits) == (7, 3)
    assert all(kept.values.untyped_storage().nbytes() == 100 for kept in features._kept.values())
    features.get([a_crop("too large")], lambda _: [torch.zeros(1, 1000)])
    assert features.bytes == 200


def test_a_step_in_pieces_scores_as_one_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model()
    batch = a_batch(model, range(5))
    passes: list[int] = []
    hook = model.network.register_forward_hook(lambda _module, args, _out: passes.append(len(args[0].ids)))
    whole = margins(model.score(batch))
    monkeypatch.setitem(engine.PASS_TOKENS, "cpu", batch[0].tree.tokens + 1)
    pieces = margins(model.score(batch))
    hook.remove()
    assert len(passes) >= 5
    assert sum(passes[1:]) == passes[0] == sum(window.tree.tokens for window in batch)
    assert (whole - pieces).abs().max() < CLOSE


def test_padding_is_bounded() -> None:
    for tokens in range(1, 20_000, 37):
        total = rounded(tokens)
        assert tokens <= total <= max(2 * tokens, SMALL[0])
        assert total - tokens < 128 or total in SMALL


def test_a_product_in_eight_bits_is_off_by_their_rounding_alone() -> None:
    torch.manual_seed(0)
    exact = Linear(256, 128, bias=False, dtype=torch.bfloat16)
    exact.requires_grad_(False).weight[3] *= 1000  # rows have scales of their own, and so have tokens
    some = torch.randn(40, 256, dtype=torch.bfloat16) * torch.logspace(-3, 3, 40, dtype=torch.bfloat16)[:, None]
    with torch.inference_mode():
        right, rough = exact(some).float(), Fp8Linear(exact)(some).float()
    off = (rough - right) / (some.float().norm(dim=1)[:, None] * exact.weight.float().norm(dim=1))
    print(
        f"off by {float(off.square().mean().sqrt()):.4f} of the factors' lengths, {float(off.abs().max()):.4f} at most"
    )
    assert off.abs().max() < 0.02
    assert off.square().mean().sqrt() < 0.004


def test_eight_bits_agree_in_the_main() -> None:
    """Drawn weights of 96 numbers, sharpened: a hard case, but an error would show as no agreement at all."""
    model = family.load(settings(dtype="bfloat16"))
    exact = torch.tensor(model.engine.sample())
    assert fp8.use(model.network.model.layers) == 4 * (model.network.config.num_hidden_layers - 1)
    rough = torch.tensor(model.engine.sample())
    together = torch.corrcoef(torch.stack([exact, rough]))[0, 1]
    print(f"8 bits against 16: {float((exact - rough).abs().mean()):.2f} log-odds, correlation {float(together):.3f}")
    assert together > 0.9
    assert (exact - rough).abs().max() > 0


def test_eight_bits_are_refused_where_they_would_be_slow() -> None:
    with pytest.raises(ConfigError, match="compute capability"):
        family.load(settings(fp8=True))


def test_warming_up_takes_the_way_of_a_post_with_a_picture() -> None:
    model = family.load(settings())
    warm_up(model)
    assert (model.engine.feature_cache.requested, model.engine.feature_cache.hits) == (1, 0)
    assert isinstance(model, Measured)
    assert model.pictures == (1, 0)
    assert model.device_memory() is None  # there is none on a CPU


def test_a_batch_without_questions() -> None:
    model = a_model()
    assert model.score(model.encode(a_content("x", a_picture()), [])) == [[]]


class SideStream:
    """A side stream that runs everything on the main stream and records what a step waits for."""

    def __init__(self) -> None:
        self.begun = 0
        self.waited: list[set[Hashable]] = []

    @contextmanager
    def work(self) -> Iterator[int]:
        self.begun += 1
        yield self.begun

    def wait(self, moments: Iterable[Hashable]) -> None:
        self.waited.append(set(moments))


def looking_ahead(model: Phi3Vision, feature_bytes: int = 1 << 20) -> tuple[Engine[Crops], SideStream]:
    side = SideStream()
    words = model.checkpoint.template.answers
    return Engine(model.network, *words, feature_bytes=feature_bytes, side=side), side


def test_a_step_waits_for_its_own_pictures_and_not_for_the_next_ones() -> None:
    model = family.load(settings())
    ahead, side = looking_ahead(model)
    steps = [a_batch(model, seeds) for seeds in ((1, 2), (3, 4), (1, 5), (6,), (3, 5))]
    rows = []
    for step, following in pairwise([*steps, []]):
        ahead.look_ahead(following)
        rows.append(ahead.score(step))
    # The third step uses 1, kept from the first step itself, and 5, of the second look ahead. The last step uses 3, for
    # which another step has waited already, which does no harm.
    assert side.waited == [set(), {1}, {2}, {3}, {1, 2}]
    assert ahead.feature_cache.hits == 2 + 1 + 2 + 1 + 2 + 2, "features that were computed ahead are not computed again"
    for step, row in zip(steps, rows, strict=True):
        assert torch.equal(margins(row), margins(looking_ahead(model)[0].score(step)))


def test_a_step_waits_for_a_picture_that_looking_ahead_has_computed() -> None:
    model = family.load(settings())
    ahead, side = looking_ahead(model)
    ahead.look_ahead(a_batch(model, (1, 2)))
    ahead.score(a_batch(model, (2, 3)))
    assert side.waited == [{1}]


def test_a_step_computes_features_that_were_not_kept() -> None:
    model = family.load(settings())
    ahead, side = looking_ahead(model, feature_bytes=0)
    ahead.look_ahead(a_batch(model))
    ahead.score(a_batch(model))
    assert (side.waited, ahead.feature_cache.hits) == ([set()], 0)


def test_looking_ahead_does_nothing_on_a_cpu() -> None:
    model = family.load(settings())
    assert isinstance(model, LooksAhead)
    model.look_ahead(a_batch(model))
    assert model.engine.feature_cache.requested == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the stream that looks ahead is NOT checked")
def test_looking_ahead_changes_no_score_on_cuda() -> None:
    model = family.load(settings(device="cuda", dtype="bfloat16"))
    steps = [a_batch(model, seeds) for seeds in ((1, 2), (3, 4), (1, 5))]
    plain = [margins(model.score(step)) for step in steps]
    words = model.checkpoint.template.answers
    for _ in range(20):
        ahead = Engine(model.network, *words, feature_bytes=1 << 20)
        for expected, step, following in zip(plain, steps, [*steps[1:], []], strict=True):
            ahead.look_ahead(following)
            assert (margins(ahead.score(step)) - expected).abs().max() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: how its crops differ is NOT checked")
def test_pixels_on_cuda_are_those_of_the_cpu_to_rounding() -> None:
    (window,) = a_model().encode(a_content("", a_picture(300, 200)), questions(1))
    apart = (window.pictures[0].on(torch.device("cuda")).cpu() - window.pictures[0].pixels).abs().max()
    print(f"largest difference of a normalised pixel: {float(apart):.1e}")
    assert apart < 1e-4


def test_pixels_stay_bytes_until_the_tower_runs() -> None:
    (window,) = a_model().encode(a_content("", a_picture(300, 200)), questions(1))
    (picture,) = window.pictures
    assert picture.canvas.dtype == torch.uint8
    assert len(picture) == len(picture.pixels) == 1 + picture.rows * picture.cols
    assert torch.equal(replace(picture, digest="").pixels, picture.pixels)
