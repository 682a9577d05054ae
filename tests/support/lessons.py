"""Lessons to train on, without drawn pictures."""

from __future__ import annotations

import numpy as np

from moderation.training import lessons
from moderation.training.lessons import Shelf
from moderation.training.world import THINGS


def a_shelf(count: int = 40) -> Shelf:
    """Grey pictures of one thing each, some of them panoramas."""
    shown = np.eye(len(THINGS), dtype=np.bool_)[np.arange(count) % len(THINGS)]
    grid = np.array([(1, 2) if number % 5 == 0 else (1, 1) for number in range(count)])
    first = np.concatenate([[0], np.cumsum(np.where(grid[:, 1] == 2, 3, 1))])
    labels = np.full((count, lessons.PLACES), lessons.NOTHING)
    pixels = np.random.default_rng(0).integers(0, 255, (int(first[-1]), 3, 112, 112)).astype(np.uint8)
    return Shelf(pixels, first, grid, labels, shown)
