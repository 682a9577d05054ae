"""An erasure on any partition erases its post on all, and nothing that is later: against a real Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from moderation import wire
from moderation.kafka.partitioner import partition_of
from moderation.kafka.records import Record
from moderation.settings import ApiSettings
from moderation.v1.verdict_pb2 import Verdict
from moderation.view.entries import read
from moderation.view.stores import Log, Progress
from moderation.worker import erasures
from tests.support.harness import PARTITIONS, Fickle, Harness, a_value, running
from tests.support.view_stores import opened, verdict

POST = b"post-1"
HOME = partition_of(POST, PARTITIONS)
AWAY = (HOME + 1) % PARTITIONS
THIRD = (HOME + 2) % PARTITIONS
OTHERS = PARTITIONS - 1


async def put(harness: Harness, *records: tuple[int, bytes | None, int]) -> None:
    """(partition, value, seconds ago) of each, under the post's id."""
    now = int(time.time() * 1000)
    async with AIOKafkaProducer(bootstrap_servers=harness.kafka) as producer:
        for partition, value, ago in records:
            await producer.send_and_wait(harness.topics[0], value, POST, partition, now - 1000 * ago)


def in_partition(records: Sequence[ConsumerRecord], number: int) -> list[str]:
    """What the records of a partition are: digests of contents, and nulls."""
    return [
        json.loads(record.value)["contentDigest"][:6] if record.value else "null"
        for record in records
        if record.partition == number
    ]


async def found(folder: Path, topic: str, records: Sequence[ConsumerRecord], order: Sequence[int]) -> str:
    """What a new view finds under the post's id, if it reads the partitions in this order."""
    log = Log("cluster", topic, dict.fromkeys(range(PARTITIONS), 0), dict.fromkeys(range(PARTITIONS), 1_000))
    settings = ApiSettings(view=folder / f"{time.monotonic_ns()}.sqlite")
    async with opened(settings, log) as store:
        at = dict.fromkeys(range(PARTITIONS), Progress(0, -1))
        for number in order:
            for record in records:
                if record.partition != number:
                    continue
                fields = (record.topic, number, record.offset, record.timestamp, record.key, record.value)
                said = read(Record(*fields, record.headers), topic)
                assert said
                after = {number: Progress(record.offset + 1, -1)}
                await store.fold([said.entry], at, after)
                at |= after
        row = (await store.find([POST.decode()])).get(POST.decode())
        assert (await verdict(store, POST.decode())) == (row[-1] if row else None)
        return Verdict.FromString(row[-1]).content_digest[:6] if row and row[-1] else "null"


def compacted(records: Sequence[ConsumerRecord], *, without_nulls: bool) -> list[ConsumerRecord]:
    """What compaction leaves: the last record of each key in each partition, and after a day no nulls."""
    last: dict[Any, ConsumerRecord] = {(record.partition, record.key): record for record in records}
    return [record for record in last.values() if record.value or not without_nulls]


async def every_view(folder: Path, topic: str, records: Sequence[ConsumerRecord]) -> set[str]:
    """What views find: of all records or of what compaction leaves, in two orders of reading."""
    answers = set()
    for kept in (records, compacted(records, without_nulls=False), compacted(records, without_nulls=True)):
        for order in (range(PARTITIONS), range(PARTITIONS - 1, -1, -1)):
            answers.add(await found(folder, topic, kept, order))
    return answers


@pytest.mark.parametrize(("post_at", "null_at"), [(HOME, AWAY), (AWAY, HOME), (AWAY, THIRD)])
async def test_an_erasure_on_another_partition_leaves_no_verdict_anywhere(
    each_delivery: Harness, fickle: Fickle, tmp_path: Path, post_at: int, null_at: int
) -> None:
    harness = each_delivery
    async with running(harness):
        await put(harness, (post_at, a_value(1), 20))
        await harness.read(harness.topics[1], 1)
        await put(harness, (null_at, None, 10))
        records = await harness.read(harness.topics[1], 1 + PARTITIONS)
        assert [record.value for record in compacted(records, without_nulls=False)] == [None] * PARTITIONS
        assert await every_view(tmp_path, harness.topics[0], records) == {"null"}
        sources = {wire.erased_source(record.headers) for record in records if record.value is None}
        assert len(sources) == PARTITIONS, "each tombstone names the record of its own partition"
        assert sum(not wire.is_copy(record.headers) for record in records if record.value is None) == 1
        await put(harness, (post_at, a_value(1), 0))
        again = (await harness.read(harness.topics[1], 2 + PARTITIONS))[-1]
    origins = [json.loads(record.value)["origin"] for record in (records[0], again) if record.value]
    assert len(fickle.asked) == 2, "not answered from before the erasure"
    assert set(origins) <= {"ORIGIN_MODEL"}
    posts = await harness.read(harness.topics[0], 3 + OTHERS)
    assert len(posts) == 3 + OTHERS, "copies are not copied again"
    last = {number: record.offset for number in range(PARTITIONS) for record in posts if record.partition == number}
    async with AIOKafkaConsumer(bootstrap_servers=harness.kafka, group_id=harness.settings.kafka.group) as consumer:
        every = [TopicPartition(harness.topics[0], number) for number in range(PARTITIONS)]
        ends = await consumer.end_offsets(every)
        assert {each.partition: end - 1 for each, end in ends.items()} == last, "no marker lies behind them"
        assert {each: await consumer.committed(each) for each in every} == ends


async def test_an_erasure_is_done_by_the_next_worker_if_the_post_waits_behind_it(
    harness: Harness, tmp_path: Path
) -> None:
    """The partition of the post has a backlog: the erasure is read first."""
    await put(harness, (AWAY, None, 10), (HOME, a_value(1), 20))
    async with running(harness):
        records = await harness.read(harness.topics[1], 1 + PARTITIONS)
    assert in_partition(records, HOME)[1:] == ["null"]
    assert await every_view(tmp_path, harness.topics[0], records) == {"null"}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("verdict_format", ["json", "protobuf"])
async def test_what_was_posted_after_an_erasure_on_another_partition_stays(
    harness: Harness, fickle: Fickle, tmp_path: Path, restarted: bool, verdict_format: Any
) -> None:
    """The erasure is older than the second post, and reaches its partition later."""
    harness = harness.with_kafka(verdict_format=verdict_format)
    async with running(harness):
        await put(harness, (HOME, a_value(1), 30), (HOME, a_value(1, text="an edit"), 10))
        await harness.read(harness.topics[1], 2)
        if not restarted:
            await put(harness, (AWAY, None, 20))
            await harness.read(harness.topics[1], 3 + PARTITIONS)
    async with running(harness):
        if restarted:
            await put(harness, (AWAY, None, 20))
        records = await harness.read(harness.topics[1], 3 + PARTITIONS)
        by_number = [record for record in records if record.partition == HOME]
        assert [record.value is None for record in by_number] == [False, False, True, False]
        assert by_number[3].value == by_number[1].value
        edit = wire.read_verdict(by_number[1].value or b"", by_number[1].headers).content_digest[:6]
        assert await every_view(tmp_path, harness.topics[0], records) == {edit}
    async with running(harness):  # restores no verdict from before the erasure
        await put(harness, (HOME, a_value(1), 0), (HOME, a_value(1, text="an edit"), 0))
        await harness.read(harness.topics[1], 5 + PARTITIONS)
    assert fickle.asked == ["this is number 1", "an edit", "this is number 1"]


async def test_an_older_erasure_changes_nothing_after_a_later_one(harness: Harness, tmp_path: Path) -> None:
    async with running(harness):
        await put(harness, (HOME, a_value(1), 40), (HOME, None, 10))
        await harness.read(harness.topics[1], 1 + PARTITIONS)
        await put(harness, (AWAY, None, 20), (THIRD, a_value(1, text="between"), 15))
        records = await harness.read(harness.topics[1], 4 + PARTITIONS)
    assert in_partition(records, HOME)[1:] == ["null"]
    # This post was written between the two erasures, and has reached its partition after both.
    assert [content == "null" for content in in_partition(records, THIRD)] == [True, False, True]
    assert await every_view(tmp_path, harness.topics[0], records) == {"null"}


async def test_an_edit_that_is_judged_first_wins_over_the_older_post(harness: Harness, tmp_path: Path) -> None:
    async with running(harness):
        await put(harness, (AWAY, a_value(1, text="an edit"), 10))
        await harness.read(harness.topics[1], 1)
        await put(harness, (HOME, a_value(1), 20))
        records = await harness.read(harness.topics[1], 2)
    (edit,) = in_partition(records, AWAY)
    assert await every_view(tmp_path, harness.topics[0], records) == {edit}


async def test_erasures_are_not_copied_where_the_setting_is_off(harness: Harness) -> None:
    async with running(harness.with_kafka(copy_erasures=False)):
        await put(harness, (HOME, a_value(1), 20), (HOME, None, 10))
        await harness.read(harness.topics[1], 2)
        await put(harness, (AWAY, a_value(1), 0))
        assert len(await harness.read(harness.topics[1], 3)) == 3
    assert len(await harness.read(harness.topics[0], 3)) == 3


async def test_what_an_erasure_spares_is_searched_among_the_newest_verdicts_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer can write the headers of a copy, with any time. No such record makes a worker read a whole topic."""
    monkeypatch.setattr(erasures, "SEARCHED", 6)
    headers = [(wire.COPY_OF, b"posts/0/1"), (wire.ERASED_AT, b"1")]
    async with running(harness), AIOKafkaProducer(bootstrap_servers=harness.kafka) as producer:
        await put(harness, *((HOME, a_value(number), 30) for number in range(1, 8)))
        await harness.read(harness.topics[1], 7)
        for key in (b"post-1", b"post-7"):
            await producer.send_and_wait(harness.topics[0], None, key, HOME, headers=headers)
        records = await harness.read(harness.topics[1], 7 + 3)
    assert [(record.key, record.value) for record in records[7:]] == [
        (b"post-1", None),
        (b"post-7", None),
        (b"post-7", records[6].value),
    ]
