"""What a view does for its store regularly: notes that the view is up to date, and deletes what is too old."""

from __future__ import annotations

import time
from collections.abc import Mapping

from aiokafka import TopicPartition

from moderation.observability import metrics
from moderation.settings import ApiSettings
from moderation.view import stores
from moderation.view.freshness import Freshness, Stall
from moderation.view.recent import Recent
from moderation.view.stores import Store, StoreUnavailableError

RENEW_S = 10.0  # between two notes in the store that the view is up to date
RETRY_S = 1.0  # after a note that failed
PRUNE_S = 10.0  # between two searches for what is too old
BATCH = 500  # posts that are deleted at once


class Upkeep:
    """Keeps a store. Both methods are to be called again and again, and do something when it is time."""

    def __init__(self, settings: ApiSettings, store: Store, freshness: Freshness, stall: Stall) -> None:
        self._settings = settings
        self._store = store
        self._freshness = freshness
        self._stall = stall
        self._renew_at = 0.0
        self._prune_at = 0.0

    async def renew(self, positions: Mapping[TopicPartition, int]) -> None:
        """Notes in the store that the view is up to date: regularly, with verdicts or without."""
        if time.monotonic() < self._renew_at:
            return
        age_s = self._freshness.age_s(positions)
        if age_s is None:
            return
        self._renew_at = time.monotonic() + RENEW_S
        try:
            await self._stall.watch("follow", self._store.followed(age_s))
        except StoreUnavailableError as error:
            self._stall.begin("follow", error)
            self._renew_at = time.monotonic() + RETRY_S
        else:
            self._stall.end("follow")

    async def prune(self, recent: Recent) -> None:
        """Deletes some of what is too old. Folds go on between two calls."""
        if time.monotonic() < self._prune_at:
            return
        now = int(time.time() * 1000)
        retention_ms = int(self._settings.retention_days * 86_400_000)
        before = now - retention_ms if retention_ms else -stores.EVER_MS
        try:
            erased_before = now - stores.ERASED_KEPT_S * 1000
            pruned = await self._stall.watch("prune", self._store.prune(before, erased_before, BATCH))
            size = await self._stall.watch("prune", self._store.size())
        except StoreUnavailableError as error:
            self._stall.begin("prune", error)
            pruned = 0
        else:
            self._stall.end("prune")
            metrics.VIEW_BYTES.set(size)
            metrics.PRUNED.inc(pruned)
            recent.forget(before)
        self._prune_at = time.monotonic() + (0 if pruned else PRUNE_S)
