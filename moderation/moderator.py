"""From a post to its verdict: read what can be read, score the questions, decide."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from moderation.errors import PostError
from moderation.inference import parts
from moderation.inference.scoring import Scored, Scorer
from moderation.inference.verdict_cache import VerdictCache
from moderation.media.reader import Media, Read
from moderation.policies import NotRecordedError, Policy, PolicySet, Said, State, States, decide, decided, finding_of
from moderation.types import (
    Answer,
    Arrival,
    Identity,
    Origin,
    Outcome,
    Post,
    Problem,
    Reason,
    Severity,
    Source,
    Status,
    Timings,
    Verdict,
)


class Moderator:
    """Judges posts against one policy set with one model."""

    def __init__(self, policies: PolicySet, media: Media, scorer: Scorer) -> None:
        self._policies = policies
        self._media = media
        self.scorer = scorer
        self._model = scorer.info
        self._states = States(policies.policies, policies.certificates, scorer.info.digest)

    async def moderate(
        self,
        post: Post,
        source: Source | None = None,
        cache: VerdictCache | None = None,
        arrival: Arrival | None = None,
    ) -> Verdict:
        """Returns the verdict of a post, from `cache` if an equal question was decided before.

        What can be read of the post is judged; what cannot is in `problems`. A post of which nothing was judged has the
        reason of its first problem. So has a post whose every policy was UNAVAILABLE.

        `source`: the post's record. `arrival` gives the time in the queue, and decides the order of posts in the
        batcher; None: the post arrives now.

        Raises DeviceError if no post can be judged.
        """
        age = time.perf_counter() - arrival.arrived if arrival else 0.0
        async with self._media.opened(post) as read:
            policies = self._policies.asked_of(post)
            judge = partial(self._judge, post, read, policies, arrival)
            if cache is not None and source is not None and policies:
                identity = self._identity(post, read, policies)
                again = partial(self._decided_again, policies)
                verdict = await cache.decided(identity, judge, source.offset, again)
            else:
                verdict = await judge()
        spent = replace(
            Timings() if verdict.origin is Origin.CACHE else verdict.timings,
            queue=age,
            fetch=read.fetch,
            decode=read.decode,
        )
        return replace(verdict, source=source, timings=spent)

    @property
    def state(self) -> State:
        """The decision state of this moment. Each verdict is decided in that of the moment when its scores are there.

        A post may wait for its scores for as long as a model server is away, and a certificate may end meanwhile.
        """
        return self._states.at(time.time())

    def _identity(self, post: Post, read: Read, policies: Sequence[Policy]) -> Identity:
        return Identity(
            tenant=post.tenant,
            post_id=post.id,
            content_digest=read.content.digest,
            policy_set_digest=self._policies.digest,
            model_digest=self._model.digest,
            asked=tuple(policy.id for policy in policies),
            decision_state=self.state.text,
        )

    def _decided_again(self, policies: Sequence[Policy], verdict: Verdict) -> Verdict | None:
        """The verdict that the scores of a verdict mean now.

        None: an older version did not record enough, or prepared the post otherwise. What stands on a certificate, and
        what names a score digest, must be a score of that digest.
        """
        state, strictest, findings = self.state, self.scorer.strictest, []
        for policy, finding in zip(policies, verdict.findings, strict=True):
            footing = state.footings[policy.id]
            if finding.score_digest != footing.score_digest:
                return None
            try:
                said = Said.recorded(finding)
            except NotRecordedError:
                return None
            findings.append(decided(policy, said, strictest, verdict.problems, footing))
        decision = decide(findings)
        return replace(
            verdict,
            outcome=decision.outcome,
            status=decision.status,
            deciding_policy=decision.deciding_policy,
            severity=decision.severity,
            findings=tuple(findings),
            decided_at_ms=_now_ms(),
            decision_state=state.text,
        )

    async def _judge(self, post: Post, read: Read, policies: Sequence[Policy], arrival: Arrival | None) -> Verdict:
        scored = await self._score(read, policies, arrival)
        state = self.state
        asked = bool(scored.windows)
        answers_by_policy = zip(*scored.windows, strict=True) if asked else [()] * len(policies)
        findings = tuple(
            finding_of(policy, answers, self.scorer.strictest, scored.problems, state.footings[policy.id])
            for policy, answers in zip(policies, answers_by_policy, strict=True)
        )
        decision = decide(findings)
        problems = scored.problems
        if findings and all(finding.reason is Reason.UNAVAILABLE for finding in findings):
            problems, asked = (Problem(Reason.UNAVAILABLE), *problems), False
        unjudged = decision.status is Status.UNDETERMINED and not asked
        return Verdict(
            post_id=post.id,
            tenant=post.tenant,
            content_digest=read.content.digest,
            policy_set_digest=self._policies.digest,
            model=self._model,
            outcome=decision.outcome,
            status=decision.status,
            origin=Origin.MODEL if scored.windows else Origin.NONE,
            deciding_policy=decision.deciding_policy,
            severity=decision.severity,
            findings=findings,
            decided_at_ms=_now_ms(),
            reason=problems[0].reason if unjudged else None,
            problems=problems,
            timings=Timings(encode=scored.encode, batch_wait=scored.batch_wait, model=scored.model),
            decision_state=state.text,
        )

    async def _score(self, read: Read, policies: Sequence[Policy], arrival: Arrival | None) -> Scored[Answer]:
        """Returns the answers on what could be read, and all problems of the post. No answers: nothing was judged."""
        unasked: Scored[Answer] = Scored((), 0.0, 0.0, 0.0, read.problems)
        if read.nothing or not policies:
            return unasked
        questions = [policy.question_for_model for policy in policies]
        try:
            scored = await parts.score(self.scorer, read.content, read.images, questions, arrival)
        except PostError as error:
            return replace(unasked, problems=(error.problem, *read.problems))
        return replace(scored, problems=tuple(dict.fromkeys([*read.problems, *scored.problems])))

    def undetermined(self, post: Post, problem: Problem, source: Source | None) -> Verdict:
        """Returns the verdict of a post of which nothing was judged: as strict as the strictest policy's on_error.

        `post`: what is known of it. Where our limit cut it off, the outcome is REVIEW at least. A policy that requires
        a certificate, of which none holds, removes nothing.
        """
        state = self.state
        outcome = self._policies.on_error_for(post, state.holding)
        return Verdict(
            post_id=post.id,
            tenant=post.tenant,
            content_digest="",
            policy_set_digest=self._policies.digest,
            model=self._model,
            outcome=max(outcome, Outcome.REVIEW) if problem.limit else outcome,
            status=Status.UNDETERMINED,
            origin=Origin.NONE,
            deciding_policy="",
            severity=Severity.NONE,
            findings=(),
            decided_at_ms=_now_ms(),
            reason=problem.reason,
            problems=(problem,),
            source=source,
            decision_state=state.text,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
