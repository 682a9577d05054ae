"""Judges many posts against policies, with the model at hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from moderation.inference.scoring import Scorer
from moderation.media.reader import Media
from moderation.moderator import Moderator
from moderation.policies import Policy, PolicySet
from moderation.policies.schema import PolicyStatus
from moderation.settings import ModelSettings
from moderation.types import Finding, Post, Verdict

AT_ONCE = 32  # posts

T = TypeVar("T")
R = TypeVar("R")


class Judge:
    """Judges posts against policies whatever their status: each counts as live."""

    def __init__(
        self, policies: Sequence[Policy], media: Media, scorer: Scorer, surfaces: Set[str] = frozenset()
    ) -> None:
        """policies: at least one. surfaces: folded, that other policies of their set name. Raises ConfigError."""
        # A threshold that stands on no certificate yet is what is measured here.
        live = [policy.model_copy(update={"status": PolicyStatus.LIVE, "certificate": None}) for policy in policies]
        policy_set = PolicySet.of(live)
        policy_set = replace(policy_set, surfaces=policy_set.surfaces | surfaces)
        self._moderator = Moderator(policy_set, media, scorer)

    async def findings(self, posts: Sequence[Post], step: Callable[[int], object]) -> list[dict[str, Finding]]:
        """For each post the findings by policy; a policy that does not apply has none. Raises ModerationError.

        `step` is called with numbers of posts that are done.
        """
        verdicts = await self.verdicts(posts, step)
        return [{finding.policy_id: finding for finding in verdict.findings} for verdict in verdicts]

    async def verdicts(self, posts: Sequence[Post], step: Callable[[int], object]) -> Sequence[Verdict]:
        """For each post the verdict, in which all policies count. As `findings`."""
        return await each(posts, self._moderator.moderate, step)


def cuts_of(settings: ModelSettings) -> str:
    """The settings that decide which windows and crops a post has. No digest of a model holds them."""
    return json.dumps([settings.window_tokens, settings.window_overlap, settings.max_windows, settings.num_crops])


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
