"""Tiles: the published grids, their order, and pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moderation.models.h2ovl.preprocessing import MEAN, STD, Grid, Tiling, grids, nearest, others
from tests.support.small_model import a_picture

PLAIN = Tiling(budget=6, side=448, msac=False)
# (width, height) -> grids of the first pass and the second, tiles of one pass, tiles of both
PUBLISHED: dict[tuple[int, int], tuple[Grid, Grid, int, int]] = {
    (640, 480): ((3, 2), (2, 3), 7, 13),
    (800, 600): ((3, 2), (2, 3), 7, 13),
    (4000, 3000): ((3, 2), (2, 3), 7, 13),
    (500, 333): ((3, 2), (2, 3), 7, 13),
    (1920, 1080): ((2, 1), (3, 2), 3, 9),
    (1080, 1920): ((1, 2), (2, 3), 3, 9),
    (800, 800): ((2, 2), (1, 1), 5, 5),
    (448, 448): ((1, 1), (2, 2), 1, 5),
    (20, 16): ((1, 1), (2, 2), 1, 5),
    (300, 777): ((1, 3), (2, 2), 4, 8),
    (2000, 500): ((4, 1), (3, 2), 5, 11),
    (1900, 200): ((6, 1), (1, 1), 7, 7),
    (1, 5000): ((1, 6), (1, 1), 7, 7),
    # On a tie, a large picture takes the grid of more tiles.
    (633, 633): ((1, 1), (2, 2), 1, 5),
    (634, 634): ((2, 2), (1, 1), 5, 5),
    (250, 100): ((2, 1), (3, 2), 3, 9),
    (1000, 400): ((3, 1), (2, 2), 4, 8),
    (350, 100): ((3, 1), (2, 2), 4, 8),
    (1400, 400): ((4, 1), (3, 2), 5, 11),
    (125, 100): ((1, 1), (2, 2), 1, 5),
    (800, 640): ((2, 2), (1, 1), 5, 5),
    (900, 720): ((3, 2), (2, 3), 7, 13),
    # Ties in fractions that are none in float64.
    (500, 1200): ((1, 2), (2, 3), 3, 9),
    (1500, 3600): ((1, 2), (2, 3), 3, 9),
    (7, 12): ((2, 3), (3, 2), 7, 13),
    (700, 1200): ((2, 3), (3, 2), 7, 13),
    (1000, 1200): ((2, 2), (1, 1), 5, 5),
}


@pytest.mark.parametrize(("size", "expected"), PUBLISHED.items())
def test_published_grids(size: tuple[int, int], expected: tuple[Grid, Grid, int, int]) -> None:
    first, second, once, twice = expected
    assert PLAIN.plan(size, twice=False) == (first, None)
    assert PLAIN.plan(size, twice=True) == (first, second)
    small = Tiling(budget=6, side=448, msac=True)
    assert _tiles(first) == once
    assert _tiles(second) + _tiles(first) - 1 == twice
    if max(size) < 1000:
        picture = Image.new("RGB", size)
        assert len(small.tiles(picture)) == once
        assert len(small.tiles(picture, twice=True)) == twice


def _tiles(grid: Grid) -> int:
    """With the thumbnail."""
    return grid[0] * grid[1] + 1 if grid != (1, 1) else 1


def test_the_candidates() -> None:
    assert len(grids(6)) == 14
    assert set(grids(3)) == {(1, 1), (1, 2), (2, 1), (1, 3), (3, 1)}
    assert others((4, 1), 6) == [(3, 2)]
    assert others((2, 2), 6) == others((6, 1), 6) == []


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 12))
def test_a_grid_is_in_budget_and_nearest(width: int, height: int, budget: int) -> None:
    cols, rows = nearest((width, height), grids(budget), 448)
    assert 1 <= cols * rows <= budget
    apart = abs(width / height - cols / rows)
    assert all(apart <= abs(width / height - other / more) for other, more in grids(budget))


def test_tiles_stand_in_their_order() -> None:
    """Colours of a 3 x 2 grid, row by row, behind those of 2 x 3; the thumbnail last."""
    tiling = Tiling(budget=6, side=28, msac=True)
    grey = np.array([[10, 50, 90], [130, 170, 210]], dtype=np.uint8).repeat(120, axis=0).repeat(120, axis=1)
    picture = Image.fromarray(grey).convert("RGB")
    once, twice = tiling.tiles(picture), tiling.tiles(picture, twice=True)
    assert (once.grid, once.second, twice.second) == ((3, 2), None, (2, 3))
    middle = once.raw[:, 0, 14, 14].tolist()
    assert middle[:6] == [10, 50, 90, 130, 170, 210]
    assert once.raw.shape == (7, 3, 28, 28)
    assert torch.equal(twice.raw[6:], once.raw)
    stretched = np.asarray(picture.resize((2 * 28, 3 * 28), Image.Resampling.BICUBIC))
    assert np.array_equal(twice.raw[3].permute(1, 2, 0).numpy(), stretched[28:56, 28:])
    thumbnail = np.asarray(picture.resize((28, 28), Image.Resampling.BICUBIC))
    assert np.array_equal(once.raw[6].permute(1, 2, 0).numpy(), thumbnail)


def test_only_a_lone_picture_is_cut_twice() -> None:
    picture = a_picture(300, 200)
    (lone,) = Tiling(budget=6, side=28, msac=True).pictures([picture])
    pair = Tiling(budget=6, side=28, msac=True).pictures([picture, picture])
    (plain,) = Tiling(budget=6, side=28, msac=False).pictures([picture])
    assert (len(lone), [len(each) for each in pair], len(plain)) == (13, [7, 7], 7)
    assert pair[0].digest == pair[1].digest == plain.digest != lone.digest


def test_tokens_and_work_are_counted_in_tiles() -> None:
    tiles = Tiling(budget=6, side=28, msac=False, tile_tokens=256, tile_work=9).tiles(a_picture(300, 200))
    assert (tiles.tokens, tiles.work) == (7 * 256, 7 * 9)


def test_pixels_are_normalised() -> None:
    tiles = Tiling(budget=1, side=28, msac=False).tiles(Image.new("RGB", (8, 8), (255, 0, 128)))
    expected = (np.array([1, 0, 128 / 255]) - np.array(MEAN)) / np.array(STD)
    assert tiles.pixels.dtype == torch.float32
    assert np.allclose(tiles.pixels.mean(dim=(0, 2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    source = a_picture(40, 30)
    picture = source.convert("L").convert(mode) if mode in {"L", "LA", "1", "I;16"} else source.convert(mode)
    tiling = Tiling(budget=6, side=28, msac=False)
    assert torch.equal(tiling.tiles(picture).raw, tiling.tiles(picture.convert("RGB")).raw)
