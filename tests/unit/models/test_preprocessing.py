"""The HD transform: the published geometry, and pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moderation.errors import PostError
from moderation.models.phi3 import preprocessing
from moderation.models.phi3.network import PreprocessorConfig
from moderation.models.phi3.preprocessing import HdTransform
from moderation.types import Reason
from tests.support.small_model import a_picture

# (width, height) -> for a budget of 16 crops and one of 4: resized, padded, offset, (rows, cols), tokens
GEOMETRY = {
    (336, 336): [((1344, 1344), (1344, 1344), (0, 0), (4, 4), 2509), ((672, 672), (672, 672), (0, 0), (2, 2), 757)],
    (100, 100): [((1344, 1344), (1344, 1344), (0, 0), (4, 4), 2509), ((672, 672), (672, 672), (0, 0), (2, 2), 757)],
    (1, 1): [((1344, 1344), (1344, 1344), (0, 0), (4, 4), 2509), ((672, 672), (672, 672), (0, 0), (2, 2), 757)],
    (640, 480): [((1344, 1008), (1344, 1008), (0, 0), (3, 4), 1921), ((672, 504), (672, 672), (0, 84), (2, 2), 757)],
    (800, 600): [((1344, 1008), (1344, 1008), (0, 0), (3, 4), 1921), ((672, 504), (672, 672), (0, 84), (2, 2), 757)],
    (1024, 768): [((1344, 1008), (1344, 1008), (0, 0), (3, 4), 1921), ((672, 504), (672, 672), (0, 84), (2, 2), 757)],
    (4000, 3000): [((1344, 1008), (1344, 1008), (0, 0), (3, 4), 1921), ((672, 504), (672, 672), (0, 84), (2, 2), 757)],
    (480, 640): [((1008, 1344), (1008, 1344), (0, 0), (4, 3), 1933), ((504, 672), (672, 672), (84, 0), (2, 2), 757)],
    (500, 333): [((1344, 895), (1344, 1008), (0, 56), (3, 4), 1921), ((672, 447), (672, 672), (0, 112), (2, 2), 757)],
    (1920, 1080): [((1680, 945), (1680, 1008), (0, 31), (3, 5), 2353), ((672, 378), (672, 672), (0, 147), (2, 2), 757)],
    (1080, 1920): [((945, 1680), (1008, 1680), (31, 0), (5, 3), 2377), ((378, 672), (672, 672), (147, 0), (2, 2), 757)],
    (300, 777): [((648, 1680), (672, 1680), (12, 0), (5, 2), 1657), ((259, 672), (336, 672), (38, 0), (2, 1), 469)],
    (1900, 200): [((3024, 318), (3024, 336), (0, 9), (1, 9), 1465), ((1344, 141), (1344, 336), (0, 97), (1, 4), 745)],
    (200, 1900): [((318, 3024), (336, 3024), (9, 0), (9, 1), 1561), ((141, 1344), (336, 1344), (97, 0), (4, 1), 781)],
    (3000, 100): [((5376, 179), (5376, 336), (0, 78), (1, 16), 2473), ((1344, 44), (1344, 336), (0, 146), (1, 4), 745)],
}
CLIP = HdTransform(1, 112, 4, PreprocessorConfig().image_mean, PreprocessorConfig().image_std)


@pytest.mark.parametrize(("size", "budgets"), GEOMETRY.items())
def test_published_geometry(size: tuple[int, int], budgets: list[tuple[object, ...]]) -> None:
    for budget, expected in zip((16, 4), budgets, strict=True):
        plan = preprocessing.layout(*size, budget, 336)
        count = preprocessing.tokens(plan.rows, plan.cols, 12)
        assert (plan.resized, plan.padded, plan.offset, (plan.rows, plan.cols), count) == expected


def test_most_and_fewest_tokens() -> None:
    assert preprocessing.tokens(16, 1, 12) == 2653
    assert preprocessing.tokens(4, 1, 12) == 781
    assert preprocessing.tokens(1, 1, 12) == 313


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 64), st.sampled_from([112, 336]))
def test_crops_stay_in_budget_and_hold_the_picture(width: int, height: int, budget: int, side: int) -> None:
    try:
        plan = preprocessing.layout(width, height, budget, side)
    except PostError as error:
        assert error.reason is Reason.IMAGE_SHAPE
        assert max(width, height) / min(width, height) > side
        return
    assert 1 <= plan.rows * plan.cols <= budget
    assert plan.padded == (plan.cols * side, plan.rows * side)
    assert all(
        gap >= 0 and gap + inner <= outer
        for gap, inner, outer in zip(plan.offset, plan.resized, plan.padded, strict=True)
    )
    turned = preprocessing.layout(height, width, budget, side)
    if width != height:
        assert turned.padded == plan.padded[::-1]


def test_crops_tile_the_padded_picture() -> None:
    out = HdTransform(4, 112, 4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).crops(a_picture(300, 777))
    assert (out.rows, out.cols, tuple(out.pixels.shape)) == (2, 1, (3, 3, 112, 112))
    high = torch.cat([out.pixels[1], out.pixels[2]], dim=1)
    assert torch.equal(high[:, :, :12], torch.ones(3, 224, 12)), "white on the left of a tall picture"
    small = torch.nn.functional.interpolate(high[None], size=(112, 112), mode="bicubic", align_corners=False)
    assert torch.equal(out.pixels[0], small[0])


def test_white_is_normalised_like_any_colour() -> None:
    out = CLIP.crops(Image.new("RGB", (8, 8), "white"))
    expected = (1 - np.array(CLIP.mean)) / np.array(CLIP.std)
    assert np.allclose(out.pixels[1].mean(dim=(1, 2)), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    source = a_picture(40, 30)
    picture = source.convert("L").convert(mode) if mode in {"L", "LA", "1", "I;16"} else source.convert(mode)
    expected = CLIP.crops(picture.convert("RGB"))
    assert torch.equal(CLIP.crops(picture).pixels, expected.pixels)


def test_a_vanishing_side_is_the_posts_fault() -> None:
    with pytest.raises(PostError, match="too thin") as caught:
        preprocessing.layout(337 * 4, 1, 1, 336)
    assert caught.value.reason is Reason.IMAGE_SHAPE
