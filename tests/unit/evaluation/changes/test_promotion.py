"""The gate: which figure each limit holds for, and what is said where it is not kept."""

from __future__ import annotations

from typing import Any

import pytest

from moderation.evaluation.changes import changes, promotion
from moderation.evaluation.changes.promotion import Held
from moderation.evaluation.changes.strata import Stratum
from moderation.types import Outcome
from tests.support.builders import a_finding, a_policy, a_verdict


def a_side(outcome: Outcome) -> Any:
    return a_verdict(outcome=outcome, findings=(a_finding(outcome=outcome),))


def held(gate: dict[str, float], moves: list[tuple[Outcome, Outcome]], labels: dict[str, bool]) -> tuple[Held, ...]:
    policy = a_policy(gate=gate)
    pairs = [
        changes.Pair(f"{place}", 0, {}, a_side(before), a_side(after)) for place, (before, after) in enumerate(moves)
    ]
    strata = [Stratum("all posts", len(pairs), len(pairs))]
    change = changes.change_of(pairs, strata, [policy], [policy])
    quality = changes.quality_of(policy.id, changes.one_sided(pairs, policy.id), strata, labels)
    return promotion.held(change, {policy.id: quality}, [policy, a_policy("other", gate=gate)])


MOVES = [
    (Outcome.ALLOW, Outcome.REVIEW),
    (Outcome.REVIEW, Outcome.REVIEW),
    (Outcome.REMOVE, Outcome.ALLOW),
    (Outcome.ALLOW, Outcome.ALLOW),
]


@pytest.mark.parametrize(
    ("key", "figure"), [("flips", 0.5), ("review_load", 2.0), ("lost_hits", 0.25), ("new_false_alarms", 0.25)]
)
def test_a_limit_is_kept_up_to_its_figure(key: str, figure: float) -> None:
    (at,) = held({key: figure}, MOVES, {})
    (below,) = held({key: figure - 0.01}, MOVES, {})
    assert (at.policy, at.key, at.figure, at.kept) == ("no-lakes", key, figure, True)
    assert not below.kept
    assert below.remedy


def test_labels_keep_what_was_not_kept_without_them() -> None:
    gate = {"lost_hits": 0.0, "new_false_alarms": 0.0}
    before = held(gate, MOVES, {})
    assert [limit.kept for limit in before] == [False, False]
    assert "label the 2 flips without a label" in before[0].remedy
    after = held(gate, MOVES, {"0": True, "2": False})
    assert [limit.kept for limit in after] == [True, True]


def test_more_review_than_none_keeps_no_limit() -> None:
    (limit,) = held({"review_load": 100.0}, [(Outcome.ALLOW, Outcome.REVIEW)], {})
    assert (limit.figure, limit.kept) == (None, False)
    (limit,) = held({"review_load": 1.0}, [(Outcome.ALLOW, Outcome.ALLOW)], {})
    assert limit.kept


def test_a_policy_without_a_gate_has_no_limits() -> None:
    assert held({}, MOVES, {}) == ()
