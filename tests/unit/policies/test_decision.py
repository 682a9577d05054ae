"""From scores to an outcome."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.policies import decide, finding_of
from moderation.types import Answer, Outcome, Problem, Reason, Score, Severity, Status, YesNo
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


def test_without_a_mass_the_mass_threshold_does_not_apply() -> None:
    finding = finding_of(a_policy(), [Score(0.95, math.log(0.95 / 0.05), None)])
    assert (finding.outcome, finding.status) == (Outcome.REMOVE, Status.FINAL)


@pytest.mark.parametrize(("yes", "outcome"), [(True, Outcome.REVIEW), (False, Outcome.ALLOW)])
@pytest.mark.parametrize("on_error", ["allow", "review", "remove"])
def test_a_yes_without_a_probability_is_for_a_person(yes: bool, outcome: Outcome, on_error: str) -> None:
    """It is never REMOVE, and no answer of the model is replaced by on_error."""
    finding = finding_of(a_policy(on_error=on_error), [YesNo(yes)])
    assert (finding.outcome, finding.status, finding.score) == (outcome, Status.DEGRADED, None)
    assert finding.reason is Reason.NO_PROBABILITY


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([Reason.REFUSED], Reason.REFUSED),
        ([score(0.1), Reason.CONTENT_FILTERED], Reason.CONTENT_FILTERED),
        ([Reason.REFUSED, Reason.UNAVAILABLE], Reason.UNAVAILABLE),  # it may pass: the verdict must not stand
        ([score(0.1, mass=0.0), Reason.MODEL_CHANGED], Reason.MODEL_CHANGED),
        ([YesNo(yes=True), Reason.UNAVAILABLE], Reason.UNAVAILABLE),
        ([YesNo(yes=False), score(0.1)], Reason.NO_PROBABILITY),
        ([YesNo(yes=False), score(0.95)], None),  # no outcome is stricter
    ],
)
def test_the_reason_that_may_pass_comes_first(answers: list[Answer], reason: Reason | None) -> None:
    assert finding_of(a_policy(on_error="allow"), answers).reason is reason


def test_a_yes_counts_beside_a_window_without_an_answer() -> None:
    finding = finding_of(a_policy(on_error="allow"), [YesNo(yes=True), Reason.UNAVAILABLE])
    assert (finding.outcome, finding.status) == (Outcome.REVIEW, Status.UNDETERMINED)


@pytest.mark.parametrize("probability", [0.1, 0.6, 0.95])
def test_the_answers_of_an_alias_are_no_stricter_than_review(probability: float) -> None:
    free = finding_of(a_policy(), [score(probability)])
    capped = finding_of(a_policy(), [score(probability)], Outcome.REVIEW)
    assert capped.outcome is min(free.outcome, Outcome.REVIEW)
    assert (capped.score, capped.status) == (free.score, Status.FINAL)


def test_the_limit_of_an_alias_is_one_of_on_error_too() -> None:
    finding = finding_of(a_policy(on_error="remove"), [Reason.UNAVAILABLE], Outcome.REVIEW)
    assert (finding.outcome, finding.reason) == (Outcome.REVIEW, Reason.UNAVAILABLE)


ALLOW, REVIEW, REMOVE = Outcome
FINAL, DEGRADED, UNDETERMINED = Status
GONE = Problem(Reason.IMAGE_NOT_FOUND, "images[0].uri")
LARGE = Problem(Reason.IMAGE_TOO_LARGE, "images[1]")
LATE = Problem(Reason.DEADLINE_EXCEEDED, "images")
LONG = Problem(Reason.TEXT_TOO_LONG, "text")
LONG_ALT = Problem(Reason.TEXT_TOO_LONG, "images[0].alt")
FAILED = Problem(Reason.MODEL_FAILED)


@pytest.mark.parametrize(
    ("media", "problem", "probability", "on_error", "outcome", "status"),
    [
        # the stricter of the score's outcome and of on_error
        ("text image", GONE, 0.1, "allow", ALLOW, DEGRADED),
        ("text image", GONE, 0.1, "review", REVIEW, DEGRADED),
        ("text image", GONE, 0.1, "remove", REMOVE, DEGRADED),
        ("text image", GONE, 0.6, "allow", REVIEW, DEGRADED),
        ("text image", GONE, 0.95, "allow", REMOVE, DEGRADED),
        ("image", GONE, 0.1, "allow", ALLOW, DEGRADED),
        ("image", GONE, 0.1, "remove", REMOVE, DEGRADED),
        # where a limit cut something off: REVIEW at least
        ("text image", LARGE, 0.1, "allow", REVIEW, DEGRADED),
        ("text image", LARGE, 0.1, "remove", REMOVE, DEGRADED),
        ("text image", LARGE, 0.95, "allow", REMOVE, DEGRADED),
        ("text image", LATE, 0.1, "allow", REVIEW, DEGRADED),  # a post may hold images that take long
        ("text image", LONG, 0.1, "allow", REVIEW, DEGRADED),
        ("text image", LONG, 0.95, "review", REMOVE, DEGRADED),
        ("image", LARGE, 0.1, "allow", REVIEW, DEGRADED),
        ("text", LONG, 0.1, "allow", REVIEW, DEGRADED),
        ("text", LONG_ALT, 0.1, "allow", REVIEW, DEGRADED),
        # a part that the policy is not about
        ("text", GONE, 0.1, "remove", ALLOW, FINAL),
        ("text", LARGE, 0.1, "remove", ALLOW, FINAL),
        ("text", LARGE, 0.95, "allow", REMOVE, FINAL),
        ("image", LONG, 0.1, "remove", ALLOW, FINAL),
        ("image", LONG_ALT, 0.6, "remove", REVIEW, FINAL),
    ],
)
def test_a_part_that_was_not_read_never_makes_a_finding_milder(
    media: str, problem: Problem, probability: float, on_error: str, outcome: Outcome, status: Status
) -> None:
    policy = a_policy(applies_to={"media": media.split()}, on_error=on_error)
    finding = finding_of(policy, [score(probability)], problems=[problem])
    assert (finding.outcome, finding.status, finding.score) == (outcome, status, score(probability))
    named = (None, "") if status is FINAL else (problem.reason, problem.path)
    assert (finding.reason, finding.path) == named


def test_the_first_part_that_the_policy_is_about_is_named() -> None:
    finding = finding_of(a_policy(), [score(0.1)], problems=[GONE, LARGE, LONG])
    assert (finding.reason, finding.path, finding.outcome) == (GONE.reason, GONE.path, REVIEW)
    about_text = a_policy(applies_to={"media": ["text"]})
    assert finding_of(about_text, [score(0.1)], problems=[GONE, LARGE, LONG]).path == "text"


@pytest.mark.parametrize(
    "answers", [[score(0.1), Reason.UNAVAILABLE], [YesNo(yes=False)], [score(0.1), YesNo(yes=True)]]
)
def test_a_part_is_named_where_the_model_said_something(answers: list[Answer]) -> None:
    finding = finding_of(a_policy(), answers, problems=[GONE])
    assert (finding.reason, finding.path, finding.status) == (GONE.reason, GONE.path, DEGRADED)


@pytest.mark.parametrize("answers", [[Reason.UNAVAILABLE], [score(0.95, mass=0.0)]])
def test_the_models_silence_is_named_where_it_said_nothing_at_all(answers: list[Answer]) -> None:
    finding = finding_of(a_policy(on_error="allow"), answers, problems=[LARGE])
    assert (finding.status, finding.path, finding.outcome) == (UNDETERMINED, "", REVIEW)
    assert finding.reason in (Reason.UNAVAILABLE, Reason.NO_ANSWER)


@pytest.mark.parametrize(
    ("problem", "on_error", "outcome"),
    [(GONE, "allow", ALLOW), (GONE, "remove", REMOVE), (LARGE, "allow", REVIEW), (FAILED, "allow", ALLOW)],
)
def test_where_nothing_was_read_the_part_is_named_and_the_finding_is_undetermined(
    problem: Problem, on_error: str, outcome: Outcome
) -> None:
    finding = finding_of(a_policy(on_error=on_error), [], problems=[problem])
    assert (finding.outcome, finding.status, finding.windows) == (outcome, UNDETERMINED, 0)
    assert (finding.reason, finding.path) == (problem.reason, problem.path)


def test_the_limit_of_an_alias_holds_for_unread_parts_too() -> None:
    finding = finding_of(a_policy(on_error="remove"), [score(0.1)], Outcome.REVIEW, [GONE])
    assert (finding.outcome, finding.status) == (REVIEW, DEGRADED)


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
    bare = finding_of(a_policy("c"), [YesNo(yes=False)])
    assert decide([bare]).status is decide([bare, said]).status is decide([bare, silent]).status is Status.DEGRADED


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6))
def test_adding_a_policy_never_makes_a_verdict_milder(probabilities: list[float]) -> None:
    findings = [finding_of(a_policy(f"p{i}"), [score(p)]) for i, p in enumerate(probabilities)]
    assert decide(findings).outcome >= decide(findings[:-1]).outcome
