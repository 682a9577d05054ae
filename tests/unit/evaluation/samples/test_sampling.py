"""Draws are uniform, follow from the seed alone, and grids from unlabelled scores alone."""

from __future__ import annotations

import hashlib
import math
import random

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.samples.samples import Level, Region
from moderation.evaluation.samples.sampling import Scored, grid, level_of, levels, order

GROUPS = [hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(40)]
SCORE = "5" * 64


def test_a_draw_follows_from_the_seed_whatever_the_order_of_records() -> None:
    expected = order(GROUPS, 7, SCORE)
    for seed in range(20):
        shuffled = random.Random(seed).sample(GROUPS, len(GROUPS))
        assert order(shuffled, 7, SCORE) == expected
    assert sorted(expected) == sorted(GROUPS)
    assert order(GROUPS, 8, SCORE) != expected


def test_other_words_of_a_policy_draw_others_with_the_same_seed() -> None:
    """Who mended the words has seen the labels of the first draw. Two draws of 10 of 40 share 2.5 by chance."""
    again = [len({*order(GROUPS, seed, SCORE)[:10]} & {*order(GROUPS, seed, "6" * 64)[:10]}) for seed in range(400)]
    assert sum(again) / len(again) == pytest.approx(2.5, abs=0.3)


def test_a_group_that_is_not_there_leaves_the_order_of_the_others() -> None:
    expected = order(GROUPS, 7, SCORE)
    assert order(GROUPS[:30], 7, SCORE) == [group for group in expected if group in GROUPS[:30]]


def test_the_order_is_the_same_in_every_version() -> None:
    """A sample that was drawn can be drawn again."""
    assert [GROUPS.index(group) for group in order(GROUPS, 1, SCORE)[:6]] == [31, 1, 16, 34, 21, 10]


def test_each_group_is_drawn_as_often() -> None:
    """Chi-square over 4,000 seeds: of 40 groups, 10 are drawn each time."""
    seeds, size = 4_000, 10
    counts = dict.fromkeys(GROUPS, 0)
    for seed in range(seeds):
        for group in order(GROUPS, seed, SCORE)[:size]:
            counts[group] += 1
    expected = seeds * size / len(GROUPS)
    share = 1 - size / len(GROUPS)  # without replacement the counts vary less
    chi = sum((count - expected) ** 2 / (expected * share) for count in counts.values())
    assert chi < 39 + 4 * math.sqrt(2 * 39)


def test_a_grid_lets_in_as_many_groups_at_each_step() -> None:
    scores = [number / 1000 for number in range(1000)]
    assert grid(scores, 0.5, 5) == (0.9, 0.8, 0.7, 0.6, 0.5)
    shuffled = random.Random(3).sample(scores, len(scores))
    assert grid(shuffled, 0.5, 5) == (0.9, 0.8, 0.7, 0.6, 0.5)
    assert grid(scores, 0.9, 1) == (0.9,)
    # Of ten equal scores, no threshold keeps two apart.
    assert grid([0.95] * 10, 0.9, 4) == (0.95, 0.9)
    assert grid([0.1, 0.123456, 0.9], 0.1, 3) == (0.9, 0.1234, 0.1)


def test_without_a_group_there_is_no_grid() -> None:
    with pytest.raises(ConfigError, match=r"no group scores 0\.9 or more"):
        grid([0.1, 0.2], 0.9, 3)


def test_a_group_belongs_to_the_strictest_level_that_it_reaches() -> None:
    thresholds = (0.9, 0.7, 0.5)
    found = [level_of(score, thresholds, Region.REMOVE) for score in (0.95, 0.9, 0.8, 0.7, 0.5, 0.4)]
    assert found == [0, 0, 1, 1, 2, None]
    assert [level_of(score, thresholds, Region.POOL) for score in (0.9, 0.4)] == [0, 3]
    assert [level_of(score, (0.5,), Region.ALLOW) for score in (0.4, 0.5, 0.6)] == [0, None, None]


def test_populations_count_what_reaches_each_threshold() -> None:
    groups = [Scored(group, score) for group, score in zip(GROUPS, (0.95, 0.9, 0.8, 0.5, 0.1), strict=False)]
    assert levels(groups, (0.9, 0.5), Region.REMOVE) == (Level(0.9, 2), Level(0.5, 4))
    assert levels(groups, (0.5,), Region.ALLOW) == (Level(0.5, 1),)
    for thresholds in ((0.9, 0.5), (0.5,)):
        found = [level_of(each.score, thresholds, Region.REMOVE) for each in groups]
        counted = levels(groups, thresholds, Region.REMOVE)
        assert [sum(level is not None and level <= place for level in found) for place in range(len(counted))] == [
            level.population for level in counted
        ]
