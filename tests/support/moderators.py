"""A moderator for tests: real policies, media and batcher, and the fake model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from moderation.inference.batcher import Batcher
from moderation.inference.remote import RemoteScorer
from moderation.media.reader import Media
from moderation.models.fake import Fake
from moderation.moderator import Moderator
from moderation.policies import Certificate, Policy, PolicySet
from moderation.settings import MediaSettings, WorkerSettings
from tests.support.remote_model import Remote


@asynccontextmanager
async def a_remote_moderator(model: Remote, *policies: Policy) -> AsyncIterator[Moderator]:
    async with Media(MediaSettings()) as media, RemoteScorer(model, WorkerSettings()) as scorer:
        yield Moderator(PolicySet.of(policies), media, scorer)


@asynccontextmanager
async def a_moderator(
    *policies: Policy,
    model: Fake | None = None,
    limits: MediaSettings | None = None,
    certificates: Sequence[Certificate] = (),
) -> AsyncIterator[Moderator]:
    held = {certificate.policy: certificate for certificate in certificates}
    async with (
        Media(limits or MediaSettings()) as media,
        Batcher(model or Fake(), WorkerSettings(failed_post_s=0.02)) as batcher,
    ):
        yield Moderator(replace(PolicySet.of(policies), certificates=held), media, batcher)
