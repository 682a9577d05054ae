"""Loads the model that the settings name, as what judges contents."""

from __future__ import annotations

import asyncio

import structlog

from moderation import models
from moderation.inference.batcher import Batcher
from moderation.inference.remote import RemoteScorer
from moderation.inference.scoring import Scorer
from moderation.settings import Settings

log = structlog.get_logger()


async def load(settings: Settings, *, patient: bool = True) -> Scorer:
    """The scorer for the model that the settings name; its `info` is final. Raises ModerationError.

    A remote model's server may be away: then this waits for the server, at most MODERATION_MODEL__OUTAGE_S. If it is
    still away, that is a ConfigError for an impatient caller.
    """
    log.info("model_loading", model=settings.model.name)
    scorer: Scorer
    if models.is_remote(settings.model.name):
        scorer = RemoteScorer(await models.connect(settings.model, patient=patient), settings.worker)
    else:
        scorer = Batcher(await asyncio.to_thread(models.load, settings.model), settings.worker)
    log.info("model_loaded", model=scorer.info.name, revision=scorer.info.revision, digest=scorer.info.digest)
    return scorer
