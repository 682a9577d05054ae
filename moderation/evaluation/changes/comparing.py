"""Judges the same posts by two versions of a policy set. Scores that are known already ask no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from moderation.evaluation.judging import each
from moderation.inference.scoring import Scorer
from moderation.media.reader import Media
from moderation.moderator import Moderator
from moderation.observability import metrics
from moderation.policies import NotRecordedError, Policy, PolicySet, Said, State, States, decide, decided, score_digest
from moderation.problems import PASSING
from moderation.types import Finding, Origin, Outcome, Post, Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts on posts by one version."""

    verdicts: tuple[Verdict, ...]
    asked: int  # posts for which the model was asked; of the others, scores were known from verdicts or earlier runs
    model_s: float  # seconds of the device for these; of a model server, seconds of its requests


async def judged(
    policies: PolicySet,
    posts: Sequence[Post],
    tools: tuple[Media, Scorer],
    known: Mapping[int, Verdict],
    step: Callable[[int], object],
) -> Judged:
    """The verdicts of a policy set on posts. known: earlier verdicts, by place of the post.

    Where an earlier verdict has the score of each policy, it is decided again. Raises ModerationError.
    """
    media, scorer = tools
    moderator = Moderator(policies, media, scorer)
    states = States(policies.policies, policies.certificates, scorer.info.digest)
    now = time.time()
    verdicts: dict[int, Verdict] = {}
    for place, earlier in known.items():
        again = decided_again(policies, states.at(now), posts[place], earlier, scorer.strictest)
        if again is not None:
            verdicts[place] = again
    step(len(verdicts))
    missing = [place for place in range(len(posts)) if place not in verdicts]
    before = metrics.STEP.total
    fresh = await each(missing, lambda place: moderator.moderate(posts[place]), step)
    times = [verdict.timings.model for verdict in fresh if verdict.timings.model]  # of kept answers it is 0
    spent = metrics.STEP.total - before or sum(times)
    verdicts |= dict(zip(missing, fresh, strict=True))
    return Judged(tuple(verdicts[place] for place in range(len(posts))), len(times), spent)


def decided_again(
    policies: PolicySet, state: State, post: Post, earlier: Verdict, strictest: Outcome = Outcome.REMOVE
) -> Verdict | None:
    """The verdict of a policy set, from the scores of an earlier verdict on the post. None: the model must be asked.

    That is so where a policy has no score by the same words, model and preparation, or another limit of mass, or where
    a failure that may pass kept the model from answering.
    """
    if any(problem.reason in PASSING for problem in earlier.problems):
        return None
    by_id = {finding.policy_id: finding for finding in earlier.findings}
    findings = []
    for policy in policies.asked_of(post):
        finding = by_id.get(policy.id)
        if finding is None or not _is_of(finding, policy, earlier):
            return None
        try:
            said = Said.recorded(finding)
        except NotRecordedError:
            return None
        findings.append(decided(policy, said, strictest, earlier.problems, state.footings[policy.id]))
    decision = decide(findings)
    return replace(
        earlier,
        policy_set_digest=policies.digest,
        outcome=decision.outcome,
        status=decision.status,
        origin=earlier.origin if findings else Origin.NONE,
        deciding_policy=decision.deciding_policy,
        severity=decision.severity,
        findings=tuple(findings),
        decision_state=state.text,
    )


def _is_of(finding: Finding, policy: Policy, verdict: Verdict) -> bool:
    """Whether the finding has what the model says to this policy."""
    same_mass = finding.thresholds.mass == policy.thresholds.mass
    return (
        finding.score_digest == score_digest(policy, verdict.model.digest)
        and same_mass
        and finding.reason not in PASSING
    )
