"""From a post to its verdict: read the content, score the questions, decide."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from moderation.inference.scoring import Scorer
from moderation.inference.verdict_cache import VerdictCache
from moderation.media.reader import Media, Read
from moderation.policies import Policy, PolicySet, decide, finding_of
from moderation.types import (
    Arrival,
    Identity,
    Origin,
    Post,
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

    async def moderate(
        self,
        post: Post,
        source: Source | None = None,
        cache: VerdictCache | None = None,
        arrival: Arrival | None = None,
    ) -> Verdict:
        """Returns the verdict of a post, from `cache` if an equal question was decided before.

        A post whose every policy was UNAVAILABLE has this reason: it gets a dead letter, to be sent again.

        `source`: the post's record; its timestamp gives the time in the queue. `arrival` decides the order of posts in
        the batcher; None: the post arrives now.

        Raises PostError if this post cannot be judged, and DeviceError if no post can be judged.
        """
        started = time.time()
        async with self._media.opened(post) as read:
            policies = self._policies.asked_of(post)
            age = started - source.timestamp_ms / 1000 if source and source.timestamp_ms > 0 else 0.0
            judge = partial(self._judge, post, read, policies, arrival)
            if cache is not None and source is not None and policies:
                verdict = await cache.decided(self._identity(post, read, policies), judge, source.offset)
            else:
                verdict = await judge()
        spent = replace(
            Timings() if verdict.origin is Origin.CACHE else verdict.timings,
            queue=max(0.0, age),
            fetch=read.fetch,
            decode=read.decode,
        )
        return replace(verdict, source=source, timings=spent)

    def _identity(self, post: Post, read: Read, policies: Sequence[Policy]) -> Identity:
        return Identity(
            tenant=post.tenant,
            post_id=post.id,
            content_digest=read.content.digest,
            policy_set_digest=self._policies.digest,
            model_digest=self._model.digest,
            asked=tuple(policy.id for policy in policies),
        )

    async def _judge(self, post: Post, read: Read, policies: Sequence[Policy], arrival: Arrival | None) -> Verdict:
        questions = [policy.question_for_model for policy in policies]
        scored = await self.scorer.score(read.content, questions, arrival)
        answers_by_policy = zip(*scored.windows, strict=True)  # windows x policies -> policies x windows
        findings = tuple(
            finding_of(policy, answers, self.scorer.strictest)
            for policy, answers in zip(policies, answers_by_policy, strict=True)
        )
        decision = decide(findings)
        away = bool(findings) and all(finding.reason is Reason.UNAVAILABLE for finding in findings)
        return Verdict(
            post_id=post.id,
            tenant=post.tenant,
            content_digest=read.content.digest,
            policy_set_digest=self._policies.digest,
            model=self._model,
            outcome=decision.outcome,
            status=decision.status,
            origin=Origin.MODEL if policies else Origin.NONE,
            deciding_policy=decision.deciding_policy,
            severity=decision.severity,
            findings=findings,
            decided_at_ms=_now_ms(),
            reason=Reason.UNAVAILABLE if away else None,
            timings=Timings(encode=scored.encode, batch_wait=scored.batch_wait, model=scored.model),
        )

    def undetermined(self, post_id: str, reason: Reason, source: Source | None, tenant: str = "") -> Verdict:
        """Returns the verdict of a post that cannot be judged: as strict as the strictest policy's on_error."""
        return Verdict(
            post_id=post_id,
            tenant=tenant,
            content_digest="",
            policy_set_digest=self._policies.digest,
            model=self._model,
            outcome=self._policies.on_error,
            status=Status.UNDETERMINED,
            origin=Origin.NONE,
            deciding_policy="",
            severity=Severity.NONE,
            findings=(),
            decided_at_ms=_now_ms(),
            reason=reason,
            source=source,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
