"""Which posts are in a region, and how they become groups."""

from __future__ import annotations

import itertools

import pytest

from moderation.evaluation.samples.populations import Grouping, Wanted
from moderation.evaluation.samples.samples import Region
from moderation.types import Reason, Score
from tests.support.builders import a_finding, a_policy


def score(probability: float) -> Score:
    return Score(probability, 0.0, 0.97)


@pytest.mark.parametrize(("region", "expected"), [(Region.REMOVE, "b"), (Region.POOL, "b"), (Region.ALLOW, "d")])
def test_a_group_is_one_of_its_posts_whatever_their_order(region: Region, expected: str) -> None:
    """The highest score stands for a group; below a threshold the lowest. Of two equal scores, the lower rank."""
    posts = [("a", 0.7), ("b", 0.9), ("c", 0.9), ("d", 0.6), ("e", 0.6)]
    for order in itertools.permutations(posts):
        grouping: Grouping[str] = Grouping(region)
        for place, probability in order:
            grouping.add("group", probability, place, rank=place)
        (member,) = grouping.members.values()
        assert member.place == expected
        assert member.scored.score == dict(posts)[expected]


def test_a_region_holds_what_reaches_its_loosest_threshold() -> None:
    wanted = Wanted(a_policy(), Region.REMOVE, (0.9, 0.7))
    assert [wanted.holds(a_finding(score=score(each))) for each in (0.95, 0.7, 0.69)] == [True, True, False]
    assert not wanted.holds(a_finding(score=None))
    pool = Wanted(a_policy(), Region.POOL, (0.9,))
    assert all(pool.holds(a_finding(score=score(each))) for each in (0.95, 0.1))


def test_below_review_a_post_counts_if_it_was_let_through() -> None:
    low, silent = (
        a_finding(score=score(0.1)),
        a_finding(score=score(0.1), reason=Reason.IMAGE_CORRUPT, path="images[0]"),
    )
    for on_error, through in (("allow", True), ("review", False)):
        wanted = Wanted(a_policy(on_error=on_error), Region.ALLOW, (0.5,))
        assert wanted.holds(low)
        assert wanted.holds(silent) is through
        assert not wanted.holds(a_finding(score=score(0.5)))
