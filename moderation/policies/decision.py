"""From the model's scores to an outcome: scores make a finding for each policy, and findings make a decision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moderation.policies.schema import Policy
from moderation.types import Finding, Outcome, Reason, Score, Severity, Status


def finding_of(policy: Policy, windows: Sequence[Score]) -> Finding:
    """The finding of one policy on a post, from the score of each window of the post's text: the strictest counts.

    A window without an answer counts as the policy's `on_error` and leaves the finding undetermined. If another window
    already says REMOVE, the finding is determined: no outcome is stricter.
    """
    answered = [score for score in windows if math.isfinite(score.margin) and score.mass >= policy.thresholds.mass]
    strictest = max(answered or windows, key=lambda score: score.margin, default=None)
    outcome = _outcome(policy, strictest) if strictest and answered else Outcome.ALLOW
    incomplete = len(answered) < len(windows) or not windows
    undetermined = incomplete and outcome is not Outcome.REMOVE
    return Finding(
        policy_id=policy.id,
        policy_version=policy.version,
        outcome=max(outcome, policy.outcome_on_error) if undetermined else outcome,
        severity=policy.severity_level,
        thresholds=policy.finding_thresholds,
        score=strictest,
        windows=len(windows),
        counts=policy.counts,
        reason=Reason.NO_ANSWER if undetermined else None,
    )


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
    unanswered = sum(finding.reason is not None for finding in counted)
    status = Status.FINAL if not unanswered else Status.UNDETERMINED if unanswered == len(counted) else Status.DEGRADED
    strictest = max(counted, key=_rank, default=None)
    if strictest is None or strictest.outcome is Outcome.ALLOW:
        return Decision(Outcome.ALLOW, status, "", Severity.NONE)
    return Decision(strictest.outcome, status, strictest.policy_id, strictest.severity)


def _rank(finding: Finding) -> tuple[int, int, float]:
    score = finding.score
    return finding.outcome, finding.severity, score.probability if score and math.isfinite(score.probability) else 0.0
