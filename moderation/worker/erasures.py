"""Carries out erasures that were copied from other partitions, and spares what was posted later.

A copy comes after the erasure, by the backlog of the partition that the erasure is on. Meanwhile the post may have come
again here. By the time of its record that post is later than the erasure, so its verdict has to stay:

- Nothing here is later: the tombstone of the copy is published.
- A later verdict is the newest record under the id: the tombstone is published, and then that verdict again. Without
  the tombstone, a restarted worker would restore verdicts from before the erasure.
- A later erasure is the newest: nothing is published.

A post that was written before the erasure may also reach its partition after the copy. Then the tombstone is published
again, after the verdict.

So the last record under an id in each verdicts partition is the right one for the posts of this partition, which is all
that compaction leaves. Among partitions a view chooses by time (view/stores).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from moderation import wire
from moderation.kafka import clients, refusals
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.records import Record
from moderation.settings import KafkaSettings
from moderation.worker.messages import Message, Result
from moderation.worker.verdict_log import STEP_BYTES, read_step

REMEMBERED = 10_000  # posts of a partition: about 1.5 MB
COPIES = 1_000  # erasures of a partition: about 1 MB
CLOCKS_MS = 60_000  # that clocks of workers may differ
STEP = 1_000  # offsets read at a time, backwards from the end
SEARCHED = 100_000  # offsets read at most. What is older than that is erased, later or not


class _Newest(NamedTuple):
    """The newest record under an id."""

    at_ms: int
    verdict: Message | None  # None: an erasure


class Erasures:
    """The erasures of one partition. Turns its results into what is published, in order."""

    def __init__(self, settings: KafkaSettings, partition: int) -> None:
        self._settings = settings
        self._partition = partition
        self._latest: dict[int, int] = {}  # by hash of an id: time of its newest record in ms, or later
        self._copies: dict[str, tuple[int, Message]] = {}  # by id: time and tombstone of the newest record, a copy
        self._known_ms = 0  # all records that are later than this are in `_latest`

    def begin(self) -> None:
        """The caller has fenced earlier owners. What they have published is not remembered."""
        self._known_ms = _now_ms() + CLOCKS_MS

    async def messages(self, results: Sequence[Result]) -> list[Message]:
        """Returns what is published for the next results of the partition. Raises DeliveryError."""
        messages: list[Message] = []
        here: dict[str, _Newest] = {}  # of these results, by id
        copies = [(result, result.erasure) for result in results if result.erasure and result.erasure.copied]
        uncertain = [(result, erasure) for result, erasure in copies if self._may_be_later(erasure)]
        before = await self._find(uncertain) if uncertain else {}
        for result in results:
            if result.erasure is not None and result.erasure.copied:
                newest = here.get(result.erasure.post_id) or before.get(result.erasure.post_id)
                messages += self._copied(result, result.erasure, newest, here)
            else:
                messages += result.messages
                if (tombstone := self._note(result, here)) is not None:
                    messages.append(tombstone)
        return messages

    def _copied(
        self, result: Result, erasure: wire.Erasure, newest: _Newest | None, here: dict[str, _Newest]
    ) -> Sequence[Message]:
        if newest is None or newest.at_ms <= erasure.at_ms:
            self._note(result, here)
            return result.messages
        return [*result.messages, newest.verdict] if newest.verdict else ()

    def _note(self, result: Result, here: dict[str, _Newest]) -> Message | None:
        """Notes what is published. Returns a tombstone for a post that was written before a copied erasure."""
        now_ms = _now_ms()
        if result.erasure is not None:
            post_id, newest = result.erasure.post_id, _Newest(result.erasure.at_ms, None)
            self._copies.pop(post_id, None)
            if result.erasure.copied:
                self._copies[post_id] = newest.at_ms, result.messages[0]
        elif result.verdict is not None:
            stamp = result.verdict.source.timestamp_ms if result.verdict.source else 0
            newest = _Newest(wire.written_ms(stamp, now_ms), result.messages[0])
            post_id = result.verdict.post_id
        else:
            return None
        erased_ms, tombstone = self._copies.get(post_id, (0, None))
        if newest.at_ms >= erased_ms:
            if newest.verdict is not None:
                self._copies.pop(post_id, None)
            here[post_id] = newest
            self._remember({hash(post_id): newest.at_ms})
            return None
        return tombstone

    def _remember(self, times: dict[int, int]) -> None:
        for post, at_ms in times.items():
            self._latest.pop(post, None)  # to the end
            self._latest[post] = at_ms
        while len(self._latest) > REMEMBERED:
            self._known_ms = max(self._known_ms, self._latest.pop(next(iter(self._latest))))
        while len(self._copies) > COPIES:
            del self._copies[next(iter(self._copies))]

    def _may_be_later(self, erasure: wire.Erasure) -> bool:
        return erasure.at_ms < max(self._known_ms, self._latest.get(hash(erasure.post_id), 0))

    async def _find(self, copies: Sequence[tuple[Result, wire.Erasure]]) -> dict[str, _Newest]:
        """Returns the newest records under the ids in the verdicts partition, as far as they may be later.

        Records of transactions that were aborted are read, too: what they say of posts before the copies was published
        again since. Their markers may still be under way.
        """
        verdicts = TopicPartition(self._settings.verdicts_topic, self._partition)
        consumer = clients.consumer(
            self._settings, max_partition_fetch_bytes=STEP_BYTES, isolation_level="read_uncommitted"
        )
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await clients.connected(consumer.start, self._settings)
                consumer.assign([verdicts])
                return await self._search(consumer, verdicts, copies)
        except (KafkaError, UnreadableError, TimeoutError) as error:
            what = f"cannot tell from {verdicts.topic}/{self._partition} what an erasure spares"
            raise refusals.failure(self._settings, what, error, consumer) from error
        finally:
            await clients.stop(consumer)

    async def _search(
        self, consumer: Consumer, verdicts: TopicPartition, copies: Sequence[tuple[Result, wire.Erasure]]
    ) -> dict[str, _Newest]:
        end: int = (await consumer.end_offsets([verdicts]))[verdicts]
        begin: int = (await consumer.beginning_offsets([verdicts]))[verdicts]
        begin = max(begin, end - SEARCHED)
        offsets: dict[bytes, int] = {}  # of the first copy, by key
        for result, erasure in copies:
            offsets.setdefault(erasure.post_id.encode(), _offset(result.messages[0]))
        erased_ms, oldest_ms = min(erasure.at_ms for _, erasure in copies), _now_ms()
        older: dict[int, int] = {}

        def is_wanted(record: Record) -> bool:
            nonlocal oldest_ms
            oldest_ms = min(oldest_ms, record.timestamp)
            post = hash((record.key or b"").decode("utf-8", "replace"))
            older[post] = max(older.get(post, 0), record.timestamp)  # its post is no later than that
            return record.key in offsets

        newest: dict[str, _Newest] = {}
        while begin < end and oldest_ms >= erased_ms - CLOCKS_MS:
            start = max(begin, end - STEP)
            for record in reversed(await read_step(consumer, verdicts, range(start, end), is_wanted)):
                post_id = (record.key or b"").decode()
                if post_id not in newest and (one := self._newest_of(record, offsets[post_id.encode()])):
                    newest[post_id] = one
            end = start
        self._known_ms = min(self._known_ms, erased_ms)
        self._remember(dict(sorted((older | self._latest).items(), key=lambda known: known[1])))
        return newest

    def _newest_of(self, record: Record, before: int) -> _Newest | None:
        """before: offset of the copy. None: the record belongs to a later post, or is no verdict of a worker."""
        if record.value is None:
            source, at_ms = wire.erased_source(record.headers), wire.erased_at(record.headers)
            at_ms = record.timestamp if at_ms is None else at_ms  # earlier versions did not say
            return _Newest(at_ms, None) if source is None or source[2] < before else None
        try:
            verdict = wire.read_verdict(record.value, record.headers)
        except ValueError:
            return None
        if verdict.source.partition != self._partition or verdict.source.offset >= before:
            return None
        at_ms = wire.written_ms(verdict.source.timestamp.ToMilliseconds(), record.timestamp)
        return _Newest(at_ms, Message(record.topic, record.key, record.value, record.headers))


def _offset(tombstone: Message) -> int:
    source = wire.erased_source(tombstone.headers)
    return source[2] if source else 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
