"""From the model's answers to an outcome: answers make a finding for each policy, and findings make a decision.

`Said` holds what a finding keeps of the answers. A finding can so be decided again, exactly as it would have been:
where certificates hold no more, or with other thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from moderation.policies.certificates import Footing
from moderation.policies.schema import Policy
from moderation.types import (
    STANDING,
    Answer,
    Finding,
    Outcome,
    Problem,
    Reason,
    Score,
    Severity,
    Standing,
    Status,
    YesNo,
)


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said to one policy on all windows of a post."""

    score: Score | None  # of the strictest window; with too little mass only where no window has enough
    windows: int
    answered: int  # windows with a usable answer: a score with enough mass, or an answer without a probability
    silence: Reason | None = None  # why the other windows have none; of several reasons, the one that may pass
    unweighed: YesNo | None = None  # the strictest answer that came without a probability

    @classmethod
    def of(cls, policy: Policy, answers: Sequence[Answer]) -> Said:
        """What stands in the answers for each window."""
        scores = [answer for answer in answers if isinstance(answer, Score)]
        weighty = [score for score in scores if _has_mass(policy, score)]
        score = max(weighty or scores, key=lambda score: score.margin, default=None)
        if len(weighty) == len(answers):  # as nearly always
            return cls(score, len(answers), len(answers))
        yes_no = [answer for answer in answers if isinstance(answer, YesNo)]
        return cls(
            score=score,
            windows=len(answers),
            answered=len(weighty) + len(yes_no),
            silence=_silence(answers, light=len(weighty) < len(scores)),
            unweighed=max(yes_no, key=lambda answer: answer.yes, default=None),
        )

    @classmethod
    def recorded(cls, finding: Finding) -> Said:
        """What a finding has recorded. Raises NotRecordedError where an older version wrote it and it matters."""
        answered = finding.answered
        if answered is None:
            # Then a window without an answer is not seen where another says REMOVE. One window has nothing to hide.
            if finding.windows > 1 or finding.reason is not None or finding.score is None:
                raise NotRecordedError
            answered = finding.windows
        return cls(finding.score, finding.windows, answered, finding.silence, finding.unweighed)


class NotRecordedError(Exception):
    """An older version wrote the finding, without what is needed to decide it again."""


def finding_of(
    policy: Policy,
    answers: Sequence[Answer],
    strictest: Outcome = Outcome.REMOVE,
    problems: Sequence[Problem] = (),
    footing: Footing = Footing(),  # noqa: B008  frozen
) -> Finding:
    """The finding of one policy on a post, from the answer for each window of the post: the strictest counts.

    A window without an answer counts as the policy's `on_error` and leaves the finding undetermined. If another window
    already says REMOVE, the finding is determined: no outcome is stricter. A Yes without a probability is REVIEW,
    because no threshold applies, and leaves the finding degraded.

    problems: the parts of the post that no window shows, in its order. A part that the policy is about counts as its
    `on_error`, and as REVIEW at least where our limit cut it off. It leaves the finding degraded, and
    undetermined where the model said nothing of the rest.

    strictest: no finding of the model is stricter than this, not even by on_error.

    footing: where the policy requires a certificate and none holds, REMOVE becomes REVIEW.
    """
    return decided(policy, Said.of(policy, answers), strictest, problems, footing)


def decided(
    policy: Policy,
    said: Said,
    strictest: Outcome = Outcome.REMOVE,
    problems: Sequence[Problem] = (),
    footing: Footing = Footing(),  # noqa: B008  frozen
) -> Finding:
    """The finding of what the model said, as in `finding_of`."""
    score = said.score
    weighty = score is not None and _has_mass(policy, score)
    outcome = _outcome(policy, score) if score is not None and weighty else Outcome.ALLOW
    unread = [problem for problem in problems if _is_about(policy, problem)]
    reason = None if outcome is Outcome.REMOVE else _reason(said)
    if said.unweighed is not None and said.unweighed.yes:
        outcome = max(outcome, Outcome.REVIEW)
    if unread or (reason is not None and reason is not Reason.NO_PROBABILITY):
        outcome = max(outcome, policy.outcome_on_error)
    if any(problem.limit for problem in unread):
        outcome = max(outcome, Outcome.REVIEW)
    said_something = weighty or said.unweighed is not None
    of_part = unread[0] if unread and (said_something or not said.windows) else None
    outcome = min(outcome, strictest)
    held = None
    if outcome is Outcome.REMOVE and policy.certificate == "required" and footing.standing is not Standing.VALID:
        outcome, held = Outcome.REVIEW, footing.standing
    return Finding(
        policy_id=policy.id,
        policy_version=policy.version,
        outcome=outcome,
        severity=policy.severity_level,
        thresholds=policy.finding_thresholds,
        score=score,
        windows=said.windows,
        counts=policy.counts,
        reason=of_part.reason if of_part else reason,
        path=of_part.path if of_part else "",
        answered=said.answered,
        silence=said.silence,
        unweighed=said.unweighed,
        score_digest=footing.score_digest,
        certificate=footing.certificate,
        held=held,
    )


def _is_about(policy: Policy, problem: Problem) -> bool:
    """Whether the part is of a kind that the policy is about. A policy is shown all kinds, whatever it is about."""
    media = policy.applies_to.media
    return not problem.path or (problem.of_picture and "image" in media) or (problem.of_text and "text" in media)


def _has_mass(policy: Policy, score: Score) -> bool:
    """Whether the score is an answer. The mass threshold does not apply where the mass is not known."""
    return math.isfinite(score.margin) and (score.mass is None or score.mass >= policy.thresholds.mass)


def _silence(answers: Sequence[Answer], *, light: bool) -> Reason | None:
    """Why windows have no answer; of several reasons, the one that may pass, then the first.

    light: whether the score of a window has too little mass.
    """
    reasons = [answer for answer in answers if isinstance(answer, Reason)]
    if light:
        reasons.append(Reason.NO_ANSWER)
    return next((reason for reason in reasons if reason not in STANDING), reasons[0] if reasons else None)


def _reason(said: Said) -> Reason | None:
    """Why the windows do not all have a score."""
    if not said.windows:
        return Reason.NO_ANSWER
    return said.silence or (Reason.NO_PROBABILITY if said.unweighed is not None else None)


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
