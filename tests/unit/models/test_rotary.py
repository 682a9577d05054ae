"""Plain rotary angles: the published arithmetic, on a part of a head, and in a coarser table."""

from __future__ import annotations

import math

import torch

from moderation.models.shared import rotary

POSITIONS = torch.tensor([0, 1, 2047, 3071])


def test_each_pair_turns_slower_than_the_one_before() -> None:
    angles = rotary.plain(POSITIONS, theta=10_000.0, pairs=16, dtype=torch.float32)
    assert angles.cos.shape == angles.sin.shape == (4, 1, 16)
    for row, position in enumerate(POSITIONS.tolist()):
        for pair in range(16):
            angle = position / 10_000 ** (pair / 16)
            assert math.isclose(float(angles.cos[row, 0, pair]), math.cos(angle), abs_tol=5e-4)
            assert math.isclose(float(angles.sin[row, 0, pair]), math.sin(angle), abs_tol=5e-4)


def test_elements_beyond_the_pairs_stay() -> None:
    heads = torch.arange(4 * 2 * 10).view(4, 2, 10).float()
    rotated = rotary.plain(POSITIONS, theta=10_000.0, pairs=2, dtype=torch.float32).apply(heads)
    assert torch.equal(rotated[..., 4:], heads[..., 4:])
    assert torch.equal(rotated[0], heads[0])
    assert not torch.isclose(rotated[1:, :, :4], heads[1:, :, :4]).any()


def test_a_table_that_was_kept_in_float16_is_coarser() -> None:
    exact = rotary.plain(POSITIONS, theta=10_000.0, pairs=16, dtype=torch.float32)
    coarse = rotary.plain(POSITIONS, theta=10_000.0, pairs=16, dtype=torch.float32, rounded=torch.float16)
    assert coarse.cos.dtype is torch.float32
    assert torch.equal(coarse.cos, exact.cos.half().float())
    assert torch.equal(coarse.sin, exact.sin.half().float())
    assert not torch.equal(coarse.cos, exact.cos)
