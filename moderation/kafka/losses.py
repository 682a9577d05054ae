"""Records that Kafka removed before they were read: said in the log and in the metrics, in the same words."""

from __future__ import annotations

from typing import Literal

import structlog
from aiokafka import TopicPartition

from moderation.observability import metrics

Cause = Literal["retention", "recreated", "truncated", "skipped"]

log = structlog.get_logger()


def report(
    kind: Literal["posts", "verdicts"],
    partition: TopicPartition,
    cause: Cause,
    offsets: tuple[int | None, int],
    records: int | None,
) -> None:
    """Says that records are lost. `kind`: which of our topics.

    `offsets`: the first that was not read, None if it is unknown; and where reading goes on. `records`: at most so
    many, as transaction markers and compaction leave offsets without a record; None: unknown.

    Causes: `retention` (also DeleteRecords), `recreated` (another topic has the name now), `truncated` (the log ends
    before the offset), `skipped` (a program moved the group's offset forward).
    """
    log.error(
        "records_lost",
        topic=partition.topic,
        partition=partition.partition,
        cause=cause,
        committed=offsets[0],
        position=offsets[1],
        records=records,
    )
    metrics.records_lost(kind, partition.partition, cause, records)
