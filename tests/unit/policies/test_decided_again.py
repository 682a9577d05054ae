"""A finding can be decided again, from what it keeps, exactly as it would have been: over all short posts.

Enumerated: posts of no window to three windows, each with a score of any outcome, too little mass, no margin, a bare
Yes or No, or a reason; parts that were not read and limits; each `on_error`; models that may remove, and that may not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations_with_replacement, product

import pytest

from moderation.policies import NotRecordedError, Policy, Said, decided, finding_of
from moderation.policies.certificates import Footing
from moderation.types import Answer, Finding, Outcome, Problem, Reason, Score, Standing, Status, YesNo
from moderation.v1.verdict_pb2 import Verdict as Message
from moderation.wire import read_verdict, verdict_from_message, verdict_record
from tests.support import earlier_decisions as earlier
from tests.support.builders import a_finding, a_policy, a_verdict


def score(probability: float, mass: float | None = 1.0) -> Score:
    return Score(probability, math.log(probability / (1 - probability)), mass)


ANSWERS: tuple[Answer, ...] = (
    score(0.1),
    score(0.6),
    score(0.95),
    score(0.97, None),
    score(0.99, 0.01),  # it would be the strictest, and is no answer
    Score(0.5, -math.inf, 1.0),  # no margin
    YesNo(yes=True),
    YesNo(yes=False),
    Reason.REFUSED,  # stands
    Reason.UNAVAILABLE,  # may pass
)
WINDOWS = [windows for count in range(4) for windows in combinations_with_replacement(ANSWERS, count)]
WINDOWS += [windows[::-1] for windows in WINDOWS if len(set(windows)) > 1]  # order counts
FEW = [windows for windows in WINDOWS if len(windows) < 3]
PROBLEMS: tuple[tuple[Problem, ...], ...] = (
    (),
    (Problem(Reason.IMAGE_NOT_FOUND, "images[0]"),),
    (Problem(Reason.TEXT_TOO_LONG, "text"),),  # a limit
    (Problem(Reason.MODEL_FAILED),),
    (Problem(Reason.IMAGE_NOT_FOUND, "images[0]"), Problem(Reason.TEXT_TOO_LONG, "text")),
)
POLICIES = [
    a_policy(on_error=on_error, applies_to={"media": media})
    for on_error in ("allow", "review", "remove")
    for media in (["text", "image"], ["text"], ["image"])
]
VALID = Footing("s" * 64, "c" * 16, Standing.VALID)
CASES = list(product(POLICIES, (Outcome.REMOVE, Outcome.REVIEW), PROBLEMS))


@pytest.mark.parametrize(("policy", "strictest", "problems"), CASES)
def test_findings_are_what_they_were(policy: Policy, strictest: Outcome, problems: tuple[Problem, ...]) -> None:
    for windows in WINDOWS:
        finding = finding_of(policy, windows, strictest, problems)
        kept = finding.outcome, finding.score, finding.windows, finding.reason, finding.path
        assert kept == earlier.finding_of(policy, windows, strictest, problems), windows
        assert finding.held is None


@pytest.mark.parametrize(("policy", "strictest", "problems"), CASES)
def test_a_finding_keeps_what_decides_it_again(
    policy: Policy, strictest: Outcome, problems: tuple[Problem, ...]
) -> None:
    required = policy.model_copy(update={"certificate": "required"})
    for windows in WINDOWS if policy is POLICIES[6] else FEW:
        said = Said.of(policy, windows)
        for standing in (VALID, Footing("s" * 64, "", Standing.EXPIRED)):
            first = finding_of(required, windows, strictest, problems, standing)
            assert Said.recorded(first) == said, windows
            for later in (VALID, Footing("s" * 64, "", Standing.OTHER_THRESHOLD)):
                again = decided(required, Said.recorded(first), strictest, problems, later)
                assert again == finding_of(required, windows, strictest, problems, later), windows


def test_other_thresholds_are_decided_as_if_the_model_had_been_asked_again() -> None:
    old, count = a_policy(), 0
    for review, remove in ((0.05, 0.55), (0.5, 0.96), (0.7, 0.98), (0.96, 0.99)):
        for on_error in ("allow", "review", "remove"):
            new = a_policy(thresholds={"review": review, "remove": remove}, on_error=on_error)
            for windows, problems in product(FEW, PROBLEMS):
                first = finding_of(old, windows, problems=problems)
                count += finding_of(new, windows, problems=problems).outcome is not first.outcome
                again = decided(new, Said.recorded(first), problems=problems)
                assert again == finding_of(new, windows, problems=problems), windows
    assert count > 500, "the thresholds change outcomes"


@pytest.mark.parametrize("policy", POLICIES)
def test_without_its_certificate_remove_becomes_review_and_nothing_else_changes(policy: Policy) -> None:
    required = policy.model_copy(update={"certificate": "required"})
    held = 0
    for windows, problems in product(FEW, PROBLEMS):
        free = finding_of(policy, windows, problems=problems)
        for standing in Standing:
            found = finding_of(required, windows, problems=problems, footing=Footing("", "", standing))
            is_held = free.outcome is Outcome.REMOVE and standing is not Standing.VALID
            held += is_held
            assert found.outcome is (Outcome.REVIEW if is_held else free.outcome)
            assert found.held is (standing if is_held else None)
            assert (found.status, found.reason, found.path) == (free.status, free.reason, free.path)
    assert held > 100


def test_a_policy_that_requires_none_removes_without_one() -> None:
    for standing in Standing:
        finding = finding_of(a_policy(), [score(0.95)], footing=Footing("", "", standing))
        assert (finding.outcome, finding.held) == (Outcome.REMOVE, None)


def test_a_finding_names_its_certificate_and_its_score_digest() -> None:
    for policy in (a_policy(), a_policy(certificate="required")):
        finding = finding_of(policy, [score(0.1)], footing=VALID)
        assert (finding.certificate, finding.score_digest) == (VALID.certificate, VALID.score_digest)


def test_a_model_that_may_not_remove_has_nothing_to_hold() -> None:
    required = a_policy(certificate="required", on_error="remove")
    finding = finding_of(required, [score(0.95)], Outcome.REVIEW, footing=Footing("", "", Standing.EXPIRED))
    assert (finding.outcome, finding.held) == (Outcome.REVIEW, None)


def test_a_window_that_was_silent_is_not_lost_where_another_says_remove() -> None:
    policy = a_policy(on_error="remove")
    first = finding_of(policy, [score(0.95), Reason.UNAVAILABLE])
    assert (first.reason, first.answered, first.windows, first.silence) == (None, 1, 2, Reason.UNAVAILABLE)
    milder = a_policy(on_error="remove", thresholds={"review": 0.5, "remove": 0.98})
    again = decided(milder, Said.recorded(first))
    assert (again.outcome, again.reason, again.status) == (Outcome.REMOVE, Reason.UNAVAILABLE, Status.UNDETERMINED)


# Findings of older versions


@pytest.mark.parametrize(
    "finding",
    [
        a_finding(windows=2),
        a_finding(windows=1, reason=Reason.NO_ANSWER),
        a_finding(windows=1, score=None, reason=Reason.REFUSED),
        a_finding(windows=0, score=None, reason=Reason.NO_ANSWER),
        a_finding(windows=1, reason=Reason.IMAGE_NOT_FOUND, path="images[0]"),
    ],
)
def test_what_an_older_version_did_not_record_is_not_guessed(finding: Finding) -> None:
    with pytest.raises(NotRecordedError):
        Said.recorded(finding)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_can_be_told_of_an_older_finding_is_what_was_said(policy: Policy) -> None:
    """Of one window with a score and no reason, all is known."""
    told = 0
    for windows, problems in product(WINDOWS, PROBLEMS):
        finding = finding_of(policy, windows, problems=problems)
        stripped = a_finding(
            score=finding.score, windows=finding.windows, reason=finding.reason, path=finding.path, answered=None
        )
        try:
            said = Said.recorded(stripped)
        except NotRecordedError:
            continue
        told += 1
        assert said == Said.of(policy, windows), windows
    assert told


# Over the wire


def some_findings() -> Iterator[Finding]:
    for windows in WINDOWS:
        yield finding_of(a_policy(certificate="required"), windows, footing=Footing("s" * 64, "", Standing.EXPIRED))


@pytest.mark.parametrize("format", ["json", "protobuf"])
def test_what_a_finding_keeps_survives_the_topic(format: str) -> None:
    findings = tuple(some_findings())
    sent = a_verdict(findings=findings, decision_state="no-lakes=CERTIFICATE_EXPIRED")
    value, headers = verdict_record(sent, format)  # type: ignore[arg-type]
    received = verdict_from_message(read_verdict(value, headers))
    assert received.decision_state == sent.decision_state
    assert received.findings == findings
    assert [Said.recorded(finding) for finding in received.findings] == [Said.recorded(each) for each in findings]


def test_a_record_of_an_older_version_has_nothing_recorded() -> None:
    sent = a_verdict(findings=(a_finding(windows=2),))
    value, headers = verdict_record(sent, "protobuf")
    message = Message.FromString(value)
    assert not message.findings[0].HasField("windows_answered")
    received = verdict_from_message(read_verdict(value, headers))
    assert (received.findings[0].answered, received.findings[0].held, received.decision_state) == (None, None, "")
    with pytest.raises(NotRecordedError):
        Said.recorded(received.findings[0])
