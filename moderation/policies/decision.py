"""From the model's answers to an outcome: answers make a finding for each policy, and findings make a decision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from moderation.policies.schema import Policy
from moderation.types import STANDING, Answer, Finding, Outcome, Problem, Reason, Score, Severity, Status, YesNo


def finding_of(
    policy: Policy,
    answers: Sequence[Answer],
    strictest: Outcome = Outcome.REMOVE,
    problems: Sequence[Problem] = (),
) -> Finding:
    """The finding of one policy on a post, from the answer for each window of the post: the strictest counts.

    A window without an answer counts as the policy's `on_error` and leaves the finding undetermined. If another window
    already says REMOVE, the finding is determined: no outcome is stricter. A Yes without a probability is REVIEW,
    because no threshold applies, and leaves the finding degraded.

    problems: the parts of the post that no window shows, in its order. A part that the policy is about counts as its
    `on_error`, and as REVIEW at least where our limit cut it off. It leaves the finding degraded, and
    undetermined where the model said nothing of the rest.

    strictest: no finding of the model is stricter than this, not even by on_error.
    """
    scores = [answer for answer in answers if isinstance(answer, Score)]
    answered = [score for score in scores if _answers(policy, score)]
    score = max(answered or scores, key=lambda score: score.margin, default=None)
    outcome = _outcome(policy, score) if score and answered else Outcome.ALLOW
    unread = [problem for problem in problems if _is_about(policy, problem)]
    reason = None if outcome is Outcome.REMOVE else _reason(policy, answers)
    if YesNo(yes=True) in answers:
        outcome = max(outcome, Outcome.REVIEW)
    if unread or (reason is not None and reason is not Reason.NO_PROBABILITY):
        outcome = max(outcome, policy.outcome_on_error)
    if any(problem.limit for problem in unread):
        outcome = max(outcome, Outcome.REVIEW)
    said_something = bool(answered) or any(isinstance(answer, YesNo) for answer in answers)
    of_part = unread[0] if unread and (said_something or not answers) else None
    return Finding(
        policy_id=policy.id,
        policy_version=policy.version,
        outcome=min(outcome, strictest),
        severity=policy.severity_level,
        thresholds=policy.finding_thresholds,
        score=score,
        windows=len(answers),
        counts=policy.counts,
        reason=of_part.reason if of_part else reason,
        path=of_part.path if of_part else "",
    )


def _is_about(policy: Policy, problem: Problem) -> bool:
    """Whether the part is of a kind that the policy is about. A policy is shown all kinds, whatever it is about."""
    media = policy.applies_to.media
    return not problem.path or (problem.of_picture and "image" in media) or (problem.of_text and "text" in media)


def _answers(policy: Policy, score: Score) -> bool:
    """Whether the score is an answer. The mass threshold does not apply where the mass is not known."""
    return math.isfinite(score.margin) and (score.mass is None or score.mass >= policy.thresholds.mass)


def _reason(policy: Policy, answers: Sequence[Answer]) -> Reason | None:
    """Why the windows do not all have a score; of several reasons, the one that may pass, then the first."""
    if not answers:
        return Reason.NO_ANSWER
    reasons = [answer for answer in answers if isinstance(answer, Reason)]
    if any(isinstance(answer, Score) and not _answers(policy, answer) for answer in answers):
        reasons.append(Reason.NO_ANSWER)
    if reasons:
        return next((reason for reason in reasons if reason not in STANDING), reasons[0])
    return Reason.NO_PROBABILITY if any(isinstance(answer, YesNo) for answer in answers) else None


def _outcome(policy: Policy, score: Score) -> Outcome:
    if score.probability >= policy.thresholds.remove:
        return Outcome.REMOVE
    return Outcome.REVIEW if score.probability >= policy.thresholds.review else Outcome.ALLOW


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of a post, and the policy that decided it."""

    outcome: Outcome
    status: Status
    deciding_policy: str  # empty: the outcome is ALLOW
    severity: Severity


def decide(findings: Iterable[Finding]) -> Decision:
    """The strictest outcome of the findings that count. Among equals the severest decides, then the most probable.

    Without a finding that counts: ALLOW and FINAL, because no policy objects to the post.
    """
    counted = [finding for finding in findings if finding.counts]
    status = _status({finding.status for finding in counted})
    strictest = max(counted, key=_rank, default=None)
    if strictest is None or strictest.outcome is Outcome.ALLOW:
        return Decision(Outcome.ALLOW, status, "", Severity.NONE)
    return Decision(strictest.outcome, status, strictest.policy_id, strictest.severity)


def _status(statuses: Set[Status]) -> Status:
    """The status of a verdict, from those of its findings."""
    return next(iter(statuses)) if len(statuses) == 1 else Status.DEGRADED if statuses else Status.FINAL


def _rank(finding: Finding) -> tuple[int, int, float]:
    score = finding.score
    return finding.outcome, finding.severity, score.probability if score and math.isfinite(score.probability) else 0.0
