"""The story: a post becomes a verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from moderation.inference.batcher import Batcher
from moderation.inference.verdict_cache import VerdictCache
from moderation.media.reader import Media, Read
from moderation.policies import Policy, PolicySet, decide, finding_of
from moderation.types import (
    Arrival,
    Identity,
    ModelInfo,
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

    def __init__(self, policies: PolicySet, media: Media, batcher: Batcher, model: ModelInfo) -> None:
        self._policies = policies
        self._media = media
        self._batcher = batcher
        self._model = model

    async def moderate(
        self,
        post: Post,
        source: Source | None = None,
        cache: VerdictCache | None = None,
        arrival: Arrival | None = None,
    ) -> Verdict:
        """The verdict for a post: out of `memory` where the same was asked before, and else into it.

        `arrival` decides which posts the model is asked about first; None: it came now.

        Raises PostError when the post cannot be judged, DeviceError when nothing can.
        """
        started = time.time()
        async with self._media.opened(post) as read:
            asked = self._policies.asked_of(post)
            age = started - source.timestamp_ms / 1000 if source and source.timestamp_ms > 0 else 0.0
            judge = partial(self._judge, post, read, asked, arrival)
            if cache is not None and source is not None and asked:
                verdict = await cache.decided(self._identity(post, read, asked), judge, source.offset)
            else:
                verdict = await judge()
        spent = replace(
            Timings() if verdict.origin is Origin.CACHE else verdict.timings,
            queue=max(0.0, age),
            fetch=read.fetch,
            decode=read.decode,
        )
        return replace(verdict, source=source, timings=spent)

    def _identity(self, post: Post, read: Read, asked: Sequence[Policy]) -> Identity:
        return Identity(
            tenant=post.tenant,
            post_id=post.id,
            content_digest=read.content.digest,
            policy_set_digest=self._policies.digest,
            model_digest=self._model.digest,
            asked=tuple(policy.id for policy in asked),
        )

    async def _judge(self, post: Post, read: Read, asked: Sequence[Policy], arrival: Arrival | None) -> Verdict:
        questions = [policy.question_for_model for policy in asked]
        answers = await self._batcher.score(read.content, questions, arrival)
        windows_of = zip(*answers.windows, strict=True)  # windows x policies -> policies x windows
        findings = tuple(finding_of(policy, scores) for policy, scores in zip(asked, windows_of, strict=True))
        decision = decide(findings)
        return Verdict(
            post_id=post.id,
            tenant=post.tenant,
            content_digest=read.content.digest,
            policy_set_digest=self._policies.digest,
            model=self._model,
            outcome=decision.outcome,
            status=decision.status,
            origin=Origin.MODEL if asked else Origin.NONE,
            deciding_policy=decision.deciding_policy,
            severity=decision.severity,
            findings=findings,
            decided_at_ms=_now_ms(),
            timings=Timings(encode=answers.encode, batch_wait=answers.batch_wait, model=answers.model),
        )

    def undetermined(self, post_id: str, reason: Reason, source: Source | None, tenant: str = "") -> Verdict:
        """The verdict for a post that could not be judged: as strict as the strictest policy's on_error."""
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
