"""Verdicts of one version are decided again by another one, where they hold its scores; else the model is asked."""

from __future__ import annotations

from typing import Any

import pytest

from moderation.evaluation.changes.comparing import decided_again
from moderation.evaluation.changes.past import band_of
from moderation.evaluation.changes.strata import Band, logit
from moderation.policies import Policy, PolicySet, States, score_digest
from moderation.problems import Problem, Reason
from moderation.types import Outcome, Score, Status, Verdict
from tests.support.builders import a_finding, a_policy, a_post, a_verdict

MODEL = "m" * 64  # as of a_verdict


def a_score(probability: float) -> Score:
    return Score(probability, logit(probability), 0.9)


def earlier(policy: Policy, **fields: Any) -> Verdict:
    defaults: dict[str, Any] = {
        "outcome": Outcome.REVIEW,
        "score": a_score(0.7),
        "answered": 1,
        "score_digest": score_digest(policy, MODEL),
        "thresholds": policy.finding_thresholds,
    }
    finding = a_finding(**defaults | fields)
    return a_verdict(outcome=finding.outcome, findings=(finding,))


def again(policy: Policy, verdict: Verdict) -> Verdict | None:
    policies = PolicySet.of([policy])
    state = States(policies.policies, {}, MODEL).at(0.0)
    return decided_again(policies, state, a_post(), verdict)


OLD = a_policy()
STRICTER = a_policy(thresholds={"review": 0.2, "remove": 0.6}, version=2)


def test_other_thresholds_decide_the_same_score_again() -> None:
    found = again(STRICTER, earlier(OLD))
    assert found is not None
    assert (found.outcome, found.status, found.deciding_policy) == (Outcome.REMOVE, Status.FINAL, OLD.id)
    assert found.findings[0].policy_version == 2
    assert found.policy_set_digest == PolicySet.of([STRICTER]).digest


@pytest.mark.parametrize(
    "policy",
    [
        a_policy(question="Is there a lake?"),
        a_policy(thresholds={"review": 0.5, "remove": 0.9, "mass": 0.1}),
        a_policy("another"),
    ],
    ids=["words", "mass", "policy"],
)
def test_what_no_score_says_needs_the_model(policy: Policy) -> None:
    assert again(policy, earlier(OLD)) is None


def test_what_may_pass_and_what_was_not_recorded_need_the_model() -> None:
    assert again(OLD, earlier(OLD, score=None, reason=Reason.UNAVAILABLE)) is None
    assert again(OLD, earlier(OLD, windows=3, answered=None)) is None
    lost = earlier(OLD)
    broken = Problem(Reason.IMAGE_UNAVAILABLE, "images[0]")
    assert again(OLD, a_verdict(findings=lost.findings, problems=(broken,))) is None
    stays = Problem(Reason.IMAGE_CORRUPT, "images[0]")
    found = again(OLD, a_verdict(findings=lost.findings, problems=(stays,)))
    assert found is not None
    assert found.status is Status.DEGRADED


def test_a_band_is_that_of_the_policy_nearest_to_a_threshold() -> None:
    policies = PolicySet.of([a_policy("far"), a_policy("near"), a_policy("same")])
    findings = [
        a_finding("far", score=a_score(0.01)),
        a_finding("near", score=a_score(0.89)),
        a_finding("same", score=a_score(0.5)),
    ]
    assert band_of(a_verdict(findings=tuple(findings)), policies, ["far", "near"]) is Band.BETWEEN
    assert band_of(a_verdict(findings=tuple(findings)), policies, ["far"]) is Band.FAR_BELOW
    assert band_of(a_verdict(), policies, ["far"]) is Band.UNKNOWN
