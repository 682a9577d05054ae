"""What a change does: cells, loads, the flips themselves, and what labels of flips say."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from moderation.evaluation.changes import changes, promotion
from moderation.evaluation.changes.changes import ALL, Change, Effect, OneSided, Pair
from moderation.evaluation.changes.strata import Stratum, logit
from moderation.policies import Policy
from moderation.problems import Problem, Reason
from moderation.types import Outcome, Score, Verdict
from tests.support.builders import a_finding, a_policy, a_verdict

POLICY = a_policy()
ALLOW, REVIEW, REMOVE = Outcome.ALLOW, Outcome.REVIEW, Outcome.REMOVE


def outcome_of(probability: float) -> Outcome:
    return REMOVE if probability >= 0.9 else REVIEW if probability >= 0.5 else ALLOW


def a_side(probability: float) -> Verdict:
    outcome = outcome_of(probability)
    finding = a_finding(outcome=outcome, score=Score(probability, logit(probability), 0.9))
    return a_verdict(outcome=outcome, findings=(finding,))


def a_pair(id: str, before: float, after: float, stratum: int = 0, **slices: str) -> Pair:
    return Pair(id, stratum, slices, a_side(before), a_side(after))


def change_of(pairs: list[Pair], *strata: Stratum, policies: tuple[Policy, ...] = (POLICY,)) -> Change:
    whole = strata or (Stratum("all posts", len(pairs), len(pairs)),)
    return changes.change_of(pairs, whole, policies, policies)


def cells(effect: Effect) -> Mapping[tuple[Outcome, Outcome], int]:
    return {(cell.before, cell.after): cell.judged for cell in effect.cells if cell.judged}


PAIRS = [
    a_pair("stays", 0.2, 0.3),
    a_pair("rises", 0.2, 0.6),
    a_pair("rises far", 0.1, 0.97),
    a_pair("falls", 0.7, 0.45),
    a_pair("falls a step", 0.95, 0.6),
]


def test_flips_stand_in_their_cells_by_policy_and_for_posts() -> None:
    found = change_of(PAIRS)
    whole, policy = found.effects
    assert (whole.policy, policy.policy) == (ALL, POLICY.id)
    for effect in (whole, policy):
        assert cells(effect) == {(ALLOW, REVIEW): 1, (ALLOW, REMOVE): 1, (REVIEW, ALLOW): 1, (REMOVE, REVIEW): 1}
        assert (effect.flips.low, effect.flips.value, effect.flips.high) == (0.8, 0.8, 0.8)
    assert (found.judged, found.population, found.unjudged) == (5, 5, 0)


def test_loads_before_and_after() -> None:
    whole, _ = change_of(PAIRS).effects
    assert (whole.flagged.before.value, whole.flagged.after.value) == (0.4, 0.6)
    assert whole.flagged.change.value == pytest.approx(0.2)
    assert whole.flagged.times == pytest.approx(1.5)
    assert (whole.review.before.value, whole.review.after.value) == (0.2, 0.4)
    assert (whole.removed.before.value, whole.removed.after.value) == (0.2, 0.2)
    assert whole.removed.change.value == 0


def test_a_sample_speaks_for_its_strata() -> None:
    """A post of a stratum stands for as many as it was drawn from."""
    near, far = Stratum("near", 100, 10), Stratum("far", 9_900, 10)
    pairs = [a_pair(f"near {number}", 0.4, 0.6 if number < 5 else 0.4) for number in range(10)]
    pairs += [a_pair(f"far {number}", 0.1, 0.1, 1, language="de") for number in range(10)]
    whole, _ = change_of(pairs, near, far).effects
    assert whole.flips.value == pytest.approx(50 / 10_000)
    assert whole.flips.low < 0.005 < whole.flips.high
    assert whole.flagged.change.low <= whole.flagged.change.value <= whole.flagged.change.high
    (of_language,) = whole.slices
    assert (of_language.key, of_language.value, of_language.judged, of_language.flips) == ("language", "de", 10, 0)


def test_an_estimate_of_a_slice_weighs_posts_by_what_they_stand_for() -> None:
    pairs = [a_pair("a", 0.1, 0.6, 0, kind="x"), a_pair("b", 0.1, 0.1, 1, kind="x")]
    whole, _ = change_of(pairs, Stratum("small", 10, 1), Stratum("large", 30, 1)).effects
    assert whole.slices[0].share == pytest.approx(0.25)


def test_flips_are_named_by_their_distance_from_the_threshold() -> None:
    _, policy = change_of(PAIRS).effects
    assert [flip.post_id for flip in policy.nearest] == ["falls", "rises", "rises far", "falls a step"]
    assert policy.farthest == ()  # all are named already
    falls = policy.nearest[0]
    assert falls.beyond == pytest.approx(logit(0.5) - logit(0.45))
    rises_far = policy.nearest[2]
    assert rises_far.beyond == pytest.approx(logit(0.97) - logit(0.9))
    many = [a_pair(f"{number}", 0.1, 0.5 + number / 40) for number in range(15)]
    _, policy = change_of(many).effects
    assert [flip.post_id for flip in policy.nearest] == ["0", "1", "2", "3", "4"]
    assert {flip.post_id for flip in policy.farthest}.isdisjoint(flip.post_id for flip in policy.nearest)
    assert len(policy.farthest) == changes.SHOWN


def test_a_flip_without_a_score_stands_with_the_farthest() -> None:
    silent = a_finding(outcome=REVIEW, score=None, reason=Reason.NO_ANSWER)
    pair = Pair("silent", 0, {}, a_side(0.1), a_verdict(outcome=REVIEW, findings=(silent,)))
    _, policy = change_of([pair]).effects
    assert [(flip.post_id, flip.new, flip.beyond) for flip in policy.farthest] == [("silent", None, None)]


def test_a_policy_that_does_not_apply_allows() -> None:
    pair = Pair("new", 0, {}, a_verdict(), a_side(0.95))
    found = changes.change_of([pair], [Stratum("all posts", 1, 1)], [], [POLICY])
    assert cells(found.effects[1]) == {(ALLOW, REMOVE): 1}
    assert found.effects[0].flagged.times is None  # there were none before


def test_a_policy_that_applies_to_none_of_the_posts_has_figures_too() -> None:
    """Else its gate would be passed over, and the exit code would say that it may be promoted."""
    other = a_policy("pictures", gate={"flips": 0.01})
    pairs = [a_pair(f"{number}", 0.1, 0.1) for number in range(10)]
    endless = [Stratum("all posts", None, 10)]
    found = changes.change_of(pairs, endless, [POLICY], [POLICY, other, a_policy("draft", status="draft")])
    assert [effect.policy for effect in found.effects] == [ALL, POLICY.id, "pictures"]
    quality = changes.quality_of("pictures", [], endless, {})
    (limit,) = promotion.held(found, {"pictures": quality}, [other])
    assert not limit.kept, "ten posts do not show so small a share"


def test_a_margin_that_is_no_number_has_no_distance() -> None:
    nothing = a_finding(outcome=REVIEW, score=Score(0.5, math.nan, 0.1), reason=Reason.NO_ANSWER)
    pair = Pair("silent", 0, {}, a_side(0.1), a_verdict(outcome=REVIEW, findings=(nothing,)))
    _, policy = change_of([pair]).effects
    assert [flip.beyond for flip in policy.farthest] == [None]


def test_posts_that_another_run_may_judge_otherwise_are_counted() -> None:
    away = a_verdict(findings=(a_finding(reason=Reason.UNAVAILABLE),))
    lost = a_verdict(findings=(a_finding(),), problems=(Problem(Reason.IMAGE_UNAVAILABLE, "images[0]"),))
    broken = a_verdict(findings=(a_finding(),), problems=(Problem(Reason.IMAGE_CORRUPT, "images[0]"),))
    pairs = [Pair(f"{place}", 0, {}, side, a_side(0.1)) for place, side in enumerate((away, lost, broken))]
    assert change_of(pairs).unjudged == 2


def a_flip(id: str, gained: bool, stratum: int = 0) -> OneSided:
    return OneSided(id, stratum, gained)


def test_only_posts_that_one_version_flags_need_a_label() -> None:
    assert changes.one_sided(PAIRS, POLICY.id) == [
        a_flip("rises", gained=True),
        a_flip("rises far", gained=True),
        a_flip("falls", gained=False),
    ]


def test_labels_of_flips_say_what_is_gained_and_lost() -> None:
    flips = [a_flip("a", True), a_flip("b", True), a_flip("c", True), a_flip("d", False)]
    whole = [Stratum("all posts", 10, 10)]
    found = changes.quality_of(POLICY.id, flips, whole, {"a": True, "b": True, "c": False, "d": True})
    assert (found.flips, found.labelled) == (4, 4)
    assert (found.new_hits.low, found.new_hits.high) == (0.2, 0.2)
    assert found.lost_hits.high == found.new_false_alarms.high == 0.1
    assert found.gone_false_alarms.high == 0
    assert (found.hits.low, found.hits.high) == pytest.approx((0.1, 0.1))
    assert (found.false_alarms.low, found.false_alarms.high) == pytest.approx((0.1, 0.1))


def test_a_flip_without_a_label_may_be_either() -> None:
    flips = [a_flip("a", True), a_flip("b", False)]
    whole = [Stratum("all posts", 10, 10)]
    found = changes.quality_of(POLICY.id, flips, whole, {"b": None})
    assert found.labelled == 0
    assert (found.new_hits.low, found.new_hits.high) == (0, 0.1)
    assert (found.lost_hits.low, found.lost_hits.high) == (0, 0.1)
    assert (found.hits.low, found.hits.high) == (-0.1, 0.1)


def test_labels_of_a_sample_leave_its_uncertainty() -> None:
    sampled = [Stratum("all posts", 1_000, 100)]
    flips = [a_flip(f"{number}", True) for number in range(10)]
    found = changes.quality_of(POLICY.id, flips, sampled, {flip.post_id: True for flip in flips})
    assert 0 < found.hits.low < 0.1 < found.hits.high
    assert found.lost_hits.high > 0  # none was seen, and some may be there
