"""From scores to an outcome."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.policies import decide, finding_of
from moderation.types import Outcome, Reason, Score, Severity, Status
from tests.support.builders import a_policy


def score(probability: float, mass: float = 1.0) -> Score:
    margin = math.log(probability / (1 - probability))
    return Score(probability, margin, mass)


@pytest.mark.parametrize(
    ("probability", "outcome"),
    [(0.1, Outcome.ALLOW), (0.5, Outcome.REVIEW), (0.89, Outcome.REVIEW), (0.9, Outcome.REMOVE)],
)
def test_thresholds_make_an_outcome(probability: float, outcome: Outcome) -> None:
    finding = finding_of(a_policy(), [score(probability)])
    assert (finding.outcome, finding.reason) == (outcome, None)


@pytest.mark.parametrize(
    "silent", [score(0.01, mass=0.49), Score(0.01, float("nan"), 1.0), score(0.01, mass=float("nan"))]
)
@pytest.mark.parametrize("on_error", ["allow", "review", "remove"])
def test_a_model_that_does_not_answer_is_never_a_silent_pass(silent: Score, on_error: str) -> None:
    finding = finding_of(a_policy(on_error=on_error), [silent])
    assert (finding.outcome, finding.reason) == (Outcome[on_error.upper()], Reason.NO_ANSWER)


def test_the_strictest_window_stands() -> None:
    finding = finding_of(a_policy(), [score(0.1), score(0.95), score(0.6)])
    assert (finding.outcome, finding.windows) == (Outcome.REMOVE, 3)
    assert finding.score == score(0.95)


def test_an_unanswered_window_leaves_a_finding_undetermined_unless_another_says_remove() -> None:
    silent = score(0.5, mass=0.1)
    assert finding_of(a_policy(on_error="allow"), [score(0.6), silent]).outcome is Outcome.REVIEW
    assert finding_of(a_policy(on_error="allow"), [score(0.6), silent]).reason is Reason.NO_ANSWER
    assert finding_of(a_policy(on_error="review"), [score(0.1), silent]).outcome is Outcome.REVIEW
    assert finding_of(a_policy(on_error="review"), [score(0.95), silent]).reason is None


def test_among_the_strictest_the_severest_decides() -> None:
    findings = [
        finding_of(a_policy("a", severity="low"), [score(0.95)]),
        finding_of(a_policy("b", severity="high"), [score(0.92)]),
        finding_of(a_policy("c", severity="critical"), [score(0.6)]),
        finding_of(a_policy("d", severity="critical", status="shadow"), [score(0.99)]),
    ]
    decision = decide(findings)
    assert (decision.outcome, decision.deciding_policy, decision.severity) == (Outcome.REMOVE, "b", Severity.HIGH)


def test_status_says_how_much_was_answered() -> None:
    said, silent = (
        finding_of(a_policy("a"), [score(0.1)]),
        finding_of(a_policy("b", on_error="allow"), [score(0.1, mass=0.0)]),
    )
    assert decide([said]).status is Status.FINAL
    assert decide([said, silent]).status is Status.DEGRADED
    assert decide([silent]).status is Status.UNDETERMINED
    assert decide([]).status is Status.FINAL


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6))
def test_adding_a_policy_never_makes_a_verdict_milder(probabilities: list[float]) -> None:
    findings = [finding_of(a_policy(f"p{i}"), [score(p)]) for i, p in enumerate(probabilities)]
    assert decide(findings).outcome >= decide(findings[:-1]).outcome
