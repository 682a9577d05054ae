"""A verdicts topic as a worker writes it, and views that read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from moderation import wire
from moderation.api.grpc.responses import found_result
from moderation.kafka.topics import Topics, check_topics
from moderation.settings import ApiSettings, KafkaSettings, Settings
from moderation.v1.verdict_pb2 import Verdict
from moderation.view.stores import Kind
from moderation.view.view import View, open_view

PARTITIONS = 3
FOUND, UNREADABLE, NOT_FOUND = Kind.VERDICT, Kind.UNREADABLE, None


class Topic:
    """The verdicts topic as a worker writes it."""

    def __init__(self, bootstrap: str, name: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap=bootstrap, verdicts_topic=name),
            api=ApiSettings(view=folder / "state" / "verdicts.sqlite"),
        )

    @property
    def file(self) -> Path:
        return self.settings.view_file

    def set(self, **api: Any) -> None:
        self.settings = self.settings.model_copy(update={"api": self.settings.api.model_copy(update=api)})

    @asynccontextmanager
    async def writer(self, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", **options) as producer:
            yield producer

    async def put(self, *verdicts: Any, format: wire.Format = "json") -> None:
        async with self.writer() as producer:
            for verdict in verdicts:
                value, headers = wire.verdict_record(verdict, format)
                await producer.send_and_wait(self.name, value, key=verdict.post_id.encode(), headers=headers)

    async def put_raw(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        async with self.writer() as producer:
            await producer.send_and_wait(self.name, value, key=key, headers=list(headers))

    @asynccontextmanager
    async def view(self, *, cluster_id: str = "") -> AsyncIterator[View]:
        """Caught up, and following until the end of the block."""
        topics = await check_topics(self.settings.kafka, [self.name])
        if cluster_id:
            topics = Topics(cluster_id, topics.partitions, topics.max_message_bytes)
        async with open_view(self.settings, topics, found_result) as view:
            following = asyncio.create_task(view.follow())
            caught_up = asyncio.create_task(view.caught_up.wait())
            await asyncio.wait((following, caught_up), timeout=90, return_when=asyncio.FIRST_COMPLETED)
            try:
                if following.done():
                    following.result()
                assert caught_up.done()
                yield view
            finally:
                following.cancel()
                caught_up.cancel()
                await asyncio.wait((following, caught_up))

    async def states(self, *post_ids: str) -> list[int | None]:
        async with self.view() as view:
            return await states(view, *post_ids)


async def states(view: View, *post_ids: str) -> list[int | None]:
    """What the newest record about each post is; None: nothing is known, or it was erased."""
    rows = await view.store.find(post_ids)
    kinds = [rows[post_id][0] if post_id in rows else None for post_id in post_ids]
    return [None if kind == Kind.ERASED else kind for kind in kinds]


async def verdict_of(view: View, post_id: str) -> Verdict:
    return Verdict.FromString((await view.store.find([post_id]))[post_id][-1] or b"")


async def until_answered(view: View, post_id: str, state: int | None) -> None:
    """Folds come on their own: looks again until this one has."""
    async with asyncio.timeout(30):
        with view.waiting(post_id, {}) as woken:
            while await states(view, post_id) != [state]:
                await woken.wait()
                woken.clear()
