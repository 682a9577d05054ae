"""A change of thresholds on past verdicts, in the form of any other change."""

from __future__ import annotations

from moderation.evaluation.changes.changes import ALL
from moderation.evaluation.changes.redecided import Cells, Redecided, Why
from moderation.evaluation.changes.redecided_change import change_of_redecided, left_out_of, quality_without_labels
from moderation.types import Outcome

ALLOW, REVIEW, REMOVE = Outcome.ALLOW, Outcome.REVIEW, Outcome.REMOVE
CELLS = Cells({(ALLOW, ALLOW): 90, (ALLOW, REVIEW): 6, (REMOVE, ALLOW): 2, (REVIEW, REMOVE): 2})


def redecided() -> Redecided:
    return Redecided(
        verdicts=103,
        kept=0,
        left_out={Why.CUT: 3},
        whole=CELLS,
        tenants={"": Cells({(ALLOW, ALLOW): 90}), "shop": Cells({(ALLOW, REVIEW): 6, (ALLOW, ALLOW): 4})},
        policies={"no-lakes": CELLS, "ponds": Cells({(REVIEW, REMOVE): 1, (ALLOW, ALLOW): 1})},
        apart={"no-lakes": 0, "ponds": 98},
        policy_tenants={},
        policy_left_out={"no-lakes": {Why.OTHER_SCORE: 5}},
        held={},
        nearest={"no-lakes": [], "ponds": []},
        farthest={"no-lakes": [], "ponds": []},
        models={("fake", "a" * 64): 103},
        begins=None,
        ends=None,
    )


def test_figures_are_exact() -> None:
    change = change_of_redecided(redecided())
    assert (change.judged, change.population, change.unjudged) == (100, 100, 0)
    whole, policy, rare = change.effects
    assert (whole.policy, policy.policy, rare.policy) == (ALL, "no-lakes", "ponds")
    assert (whole.flips.low, whole.flips.value, whole.flips.high) == (0.1, 0.1, 0.1)
    assert {(cell.before, cell.after): cell.judged for cell in whole.cells if cell.judged} == {
        (ALLOW, REVIEW): 6,
        (REMOVE, ALLOW): 2,
        (REVIEW, REMOVE): 2,
    }
    assert (whole.flagged.before.value, whole.flagged.after.value) == (0.04, 0.08)
    assert (whole.review.before.value, whole.review.after.value, whole.review.times) == (0.02, 0.06, 3.0)
    assert [(each.value, each.judged, each.flips, each.share) for each in whole.slices] == [("shop", 10, 6, 0.6)]


def test_a_policy_allows_where_it_does_not_apply() -> None:
    """Shares are of all verdicts, as those of a sample are of all posts: a gate means the same for both."""
    rare = change_of_redecided(redecided()).effects[2]
    assert (rare.flips.value, rare.review.before.value, rare.removed.after.value) == (0.01, 0.01, 0.01)


def test_what_could_not_be_decided_again_is_named() -> None:
    assert sorted(left_out_of(redecided()).values()) == [3, 5]
    assert any(why.startswith("findings of no-lakes: ") for why in left_out_of(redecided()))


def test_without_labels_a_flip_may_be_right_or_wrong() -> None:
    quality = quality_without_labels(change_of_redecided(redecided()).effects[1])
    assert (quality.flips, quality.labelled) == (8, 0)
    assert (quality.lost_hits.high, quality.new_false_alarms.high) == (0.02, 0.06)
    assert (quality.hits.low, quality.hits.high) == (-0.02, 0.06)
