"""Judges many posts against policies, with the model at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from moderation.inference.scoring import Scorer
from moderation.media.reader import Media
from moderation.moderator import Moderator
from moderation.policies import Policy, PolicySet
from moderation.policies.schema import PolicyStatus
from moderation.types import Finding, Post

AT_ONCE = 32  # posts

T = TypeVar("T")
R = TypeVar("R")


class Judge:
    """Judges posts against policies whatever their status: each counts as live."""

    def __init__(self, policies: Sequence[Policy], media: Media, scorer: Scorer) -> None:
        """policies: at least one. Raises ConfigError."""
        # A threshold that stands on no certificate yet is what is measured here.
        live = [policy.model_copy(update={"status": PolicyStatus.LIVE, "certificate": None}) for policy in policies]
        self._moderator = Moderator(PolicySet.of(live), media, scorer)

    async def findings(self, posts: Sequence[Post], step: Callable[[int], object]) -> list[dict[str, Finding]]:
        """For each post the findings by policy; a policy that does not apply has none. Raises ModerationError.

        `step` is called with numbers of posts that are done.
        """

        async def judged(post: Post) -> dict[str, Finding]:
            verdict = await self._moderator.moderate(post)
            return {finding.policy_id: finding for finding in verdict.findings}

        return list(await each(posts, judged, step))


async def each(items: Sequence[T], work: Callable[[T], Awaitable[R]], step: Callable[[int], object]) -> Sequence[R]:
    """The results for all items in their order, AT_ONCE at a time. The first error ends it."""
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def go_on() -> None:
        for place, item in waiting:
            results[place] = await work(item)
            step(1)

    tasks = [asyncio.create_task(go_on()) for _ in range(min(AT_ONCE, len(items)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    return [results[place] for place in range(len(items))]
