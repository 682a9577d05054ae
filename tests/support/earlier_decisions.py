"""Findings as they were made before they kept what decides them again, written apart from `policies.decision`.

It is what the service promised: a test compares the two on all short posts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from moderation.policies import Policy
from moderation.types import STANDING, Answer, Outcome, Problem, Reason, Score, YesNo

Earlier = tuple[Outcome, Score | None, int, Reason | None, str]  # outcome, score, windows, reason, path


def finding_of(
    policy: Policy, answers: Sequence[Answer], strictest: Outcome = Outcome.REMOVE, problems: Sequence[Problem] = ()
) -> Earlier:
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
    named = (of_part.reason, of_part.path) if of_part else (reason, "")
    return min(outcome, strictest), score, len(answers), *named


def _is_about(policy: Policy, problem: Problem) -> bool:
    media = policy.applies_to.media
    return not problem.path or (problem.of_picture and "image" in media) or (problem.of_text and "text" in media)


def _answers(policy: Policy, score: Score) -> bool:
    return math.isfinite(score.margin) and (score.mass is None or score.mass >= policy.thresholds.mass)


def _reason(policy: Policy, answers: Sequence[Answer]) -> Reason | None:
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
