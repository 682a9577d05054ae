"""A moderator for tests: real policies, media and batcher, and the fake model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from moderation.inference.batcher import Batcher
from moderation.inference.remote import RemoteScorer
from moderation.media.reader import Media
from moderation.models.fake import Fake
from moderation.moderator import Moderator
from moderation.policies import Policy, PolicySet
from moderation.settings import MediaSettings, WorkerSettings
from tests.support.remote_model import Remote


@asynccontextmanager
async def a_remote_moderator(model: Remote, *policies: Policy) -> AsyncIterator[Moderator]:
    async with RemoteScorer(model, WorkerSettings()) as scorer:
        yield Moderator(PolicySet.of(policies), Media(MediaSettings()), scorer)


@asynccontextmanager
async def a_moderator(*policies: Policy) -> AsyncIterator[Moderator]:
    model = Fake()
    async with Batcher(model, WorkerSettings()) as batcher:
        yield Moderator(PolicySet.of(policies), Media(MediaSettings()), batcher)
