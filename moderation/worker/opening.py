"""Where a partition is opened: the committed offset, checked against the log that is there now.

Kafka may have removed records since the last commit, or may have put another topic in the place of the old one. Then
the committed offset is no place to go on from, or no full account. The worker goes on at the first record that is left
and has no outcome, and what is missing is said (`Opening.tell`), once: the new position is committed at once.

| found | goes on at |
|---|---|
| no committed offset | start of the log |
| another topic has the name | start of the log |
| the log begins behind the committed offset | start of the log |
| the log was cut before the committed offset | the cut |
| another program committed the offset | the committed offset |
"""

from __future__ import annotations

from typing import NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import LeaderNotAvailableError

from moderation import wire
from moderation.kafka import losses, offsets, ranges
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.epochs import end_of_epoch
from moderation.kafka.offsets import Committed
from moderation.kafka.records import Record
from moderation.kafka.topic_ids import topic_ids
from moderation.settings import KafkaSettings
from moderation.worker import offset_metadata
from moderation.worker.offset_metadata import Log, Stored
from moderation.worker.suspects import Mark
from moderation.worker.verdict_log import STEP_BYTES, read_step

STEP = 1_000  # offsets of the verdicts topic that are read at a time, backwards from the end
STEPS = 20  # at most, in search of the last verdict

log = structlog.get_logger()


class Loss(NamedTuple):
    """Records that have no outcome and never will."""

    cause: losses.Cause
    first: int | None  # offset of the first; None: unknown
    records: int | None  # at most; None: unknown


class Opening(NamedTuple):
    """Where a partition is opened, and what was found there."""

    position: int  # the first offset without an outcome
    mark: Mark = Mark()
    log: Log = Log()
    loss: Loss | None = None
    missing: bool = False  # the group has lost its offset: there are verdicts
    moved: bool = False  # another program has committed the offset
    judged: int | None = None  # first offset behind the last verdict, as the verdicts topic says; None: not asked

    @property
    def noteworthy(self) -> bool:
        """Whether there is something to say. The position is then committed at once, so that it is said once."""
        return self.loss is not None or self.missing or self.moved

    def tell(self, partition: TopicPartition) -> None:
        """Logs and counts what was found."""
        if self.missing:
            log.warning(
                "committed_offset_missing", partition=partition.partition, position=self.position, judged=self.judged
            )
        if self.moved:
            log.warning(
                "committed_offset_moved", partition=partition.partition, position=self.position, judged=self.judged
            )
        if self.loss is not None:
            losses.report("posts", partition, self.loss.cause, (self.loss.first, self.position), self.loss.records)


async def find(consumer: Consumer, settings: KafkaSettings, partition: TopicPartition) -> Opening:
    """Returns where to open the partition. The caller has fenced earlier owners. Raises KafkaError, TimeoutError."""
    leader = consumer._client.cluster.leader_for_partition(partition)
    if leader is None or leader < 0:
        raise LeaderNotAvailableError(str(partition))
    # The id is asked first: a topic that takes this one's place from now on is found by topic_watch.py.
    id = (await topic_ids(consumer._client, [partition.topic], leader)).get(partition.topic, "")
    committed = await offsets.committed(consumer, partition)
    begin: int = (await consumer.beginning_offsets([partition]))[partition]
    end: int = (await consumer.end_offsets([partition]))[partition]
    if committed is None:
        return await _without_offset(settings, partition, range(begin, end), id)
    stored = offset_metadata.read(committed.metadata, committed.offset)
    if not stored.ours and begin <= committed.offset <= end:
        return await _by_others(settings, partition, (begin, committed.offset), id)
    known = stored.log.topic_id
    id = id or known  # a broker that starts may not know the topic yet; topic_watch.py asks again
    if (known and id and known != id) or (not known and committed.offset > end):
        return Opening(begin, log=Log(id), loss=Loss("recreated", committed.offset, None))
    if committed.offset < begin:
        loss = Loss("retention", committed.offset, begin - committed.offset)
        return Opening(begin, log=Log(id, stored.log.epoch), loss=loss)
    cut = await _cut(consumer, (partition, leader), (committed, stored), end)
    if cut is not None:
        return Opening(max(begin, cut), log=Log(id, stored.log.epoch), loss=Loss("truncated", committed.offset, None))
    mark = stored.mark.suspected(committed.offset, end) if stored.mark.open else stored.mark
    return Opening(committed.offset, mark, Log(id, stored.log.epoch))


async def _cut(
    consumer: Consumer, place: tuple[TopicPartition, int], found: tuple[Committed, Stored], end: int
) -> int | None:
    """Returns where the log was cut, if it was cut before the committed offset. place: partition and its leader.

    The log may have grown again since, even beyond the committed offset. The epoch of the leader that wrote the last
    record that was read shows it.
    """
    (partition, leader), (committed, stored) = place, found
    reached = end
    if stored.log.epoch >= 0:
        kept = await end_of_epoch(consumer._client, partition, stored.log.epoch, leader)
        reached = end if kept is None else kept
    return min(reached, end) if reached < committed.offset else None


async def _without_offset(settings: KafkaSettings, partition: TopicPartition, held: range, id: str) -> Opening:
    """held: the offsets that the log holds. The group has no offset: it is new, or Kafka has removed the offset."""
    opening = Opening(held.start, log=Log(id))
    judged = await _judged(settings, partition)
    if judged is None:
        return opening
    loss = None
    if judged > held.stop:
        loss = Loss("recreated", judged, None)
    elif judged < held.start:
        loss = Loss("retention", judged, held.start - judged)
    return opening._replace(missing=True, judged=judged, loss=loss)


async def _by_others(settings: KafkaSettings, partition: TopicPartition, place: tuple[int, int], id: str) -> Opening:
    """place: start of the log, and the offset that another program, or an older version, has committed."""
    begin, position = place
    opening = Opening(position, log=Log(id))
    judged = await _judged(settings, partition)
    if judged is None or judged == position:
        return opening
    first = max(begin, judged)
    if first < position:
        skipped = await _first_record(settings, partition, range(first, position))
        if skipped is None:
            return opening  # only marks of transactions, or what compaction has left
        return opening._replace(moved=True, judged=judged, loss=Loss("skipped", skipped, position - skipped))
    return opening._replace(moved=True, judged=judged)


async def _judged(settings: KafkaSettings, partition: TopicPartition) -> int | None:
    """Returns the first offset behind the last record with an outcome, as the verdicts topic says; None: no outcome."""
    verdicts = TopicPartition(settings.verdicts_topic, partition.partition)
    async with ranges.open_consumer(settings) as consumer:
        consumer.assign([verdicts])
        stop: int = (await consumer.end_offsets([verdicts]))[verdicts]
        begin: int = (await consumer.beginning_offsets([verdicts]))[verdicts]
        for _ in range(STEPS):
            if stop <= begin:
                return None
            start = max(begin, stop - STEP)
            records = await read_step(consumer, verdicts, range(start, stop), lambda record: True)
            sources = [source for record in records if (source := _source(record, partition)) is not None]
            if sources:
                return max(sources) + 1
            stop = start
    return None


def _source(record: Record, partition: TopicPartition) -> int | None:
    """The offset of the record of this partition whose outcome it is; None: it is no outcome of such a record."""
    if record.value is None:
        source = wire.erased_source(record.headers)
        return source[2] if source and source[:2] == (partition.topic, partition.partition) else None
    try:
        verdict = wire.read_verdict(record.value, record.headers)
    except ValueError:
        return None
    ours = verdict.source.topic == partition.topic and verdict.source.partition == partition.partition
    return int(verdict.source.offset) if ours else None


async def _first_record(settings: KafkaSettings, partition: TopicPartition, within: range) -> int | None:
    """Returns the offset of the first record at these offsets that consumers read, or would; None: there is none.

    An operator may have moved the offset past a batch that cannot be read: its records are skipped, too.
    """
    async with ranges.open_consumer(settings) as consumer:
        consumer.assign([partition])
        consumer.seek(partition, within.start)
        try:
            while await consumer.position(partition) < within.stop:
                polled = await consumer.poll(partition, max_records=1, max_bytes=STEP_BYTES, timeout_s=1.0)
                for record in polled.get(partition, ()):
                    return record.offset if record.offset in within else None
        except UnreadableError as error:
            return error.offset if error.offset in within else None
    return None
