"""What a dead letter is of, without its content, and which dead letters a command is about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition

from moderation import wire
from moderation.kafka.consumer import Consumer
from moderation.kafka.ranges import read, spans_from
from moderation.kafka.records import Omitted, Record
from moderation.settings import KafkaSettings
from moderation.types import Detail, Source

NOT_KEPT = {"value.truncated", "value.omitted", "key.omitted", "headers.omitted", "headers.escaped"}


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    post_id: str  # of the verdict on the record; empty: not known
    tenant: str
    reason: str  # empty: none that this version knows
    path: str  # of the part that was refused; empty: the record as a whole
    detail: str
    original: Source | None  # None: no worker of ours wrote the dead letter
    size: int  # bytes of the original value
    value: Omitted | None  # of a value that is not whole: size and hash of the whole one
    whole: bool  # whether key, value and headers are those of the record
    null: bool  # whether the record had no value

    @property
    def position(self) -> str:
        """TOPIC/PARTITION/OFFSET."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset on the dead-letter topic."""
        return self.partition, self.offset


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant: all that fit. Empty fields fit all."""

    reasons: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    partition: int | None = None
    key: str = ""
    post_id: str = ""
    tenant: str = ""
    places: frozenset[tuple[int, int]] = frozenset()

    def fits(self, letter: Letter) -> bool:
        """Whether the dead letter is meant."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or letter.timestamp_ms < self.until_ms)
            and (not self.key or letter.key == self.key.encode())
            and (not self.post_id or letter.post_id == self.post_id)
            and (not self.tenant or letter.tenant == self.tenant)
            and (not self.places or letter.place in self.places)
        )

    @property
    def explicit(self) -> bool:
        """Whether reasons or positions are named."""
        return bool(self.reasons or self.places)


def letter_of(record: Record) -> Letter:
    """What the record of the dead-letter topic says."""
    marks = wire.dead_letter_marks(record.headers)
    whole = record.problem is None and not NOT_KEPT & marks.keys()
    null = "value.null" in marks
    known = wire.known(record.value) if whole and not null else None
    if known is not None:
        post_id, tenant = known.id, known.tenant
    else:
        post_id, tenant = ("" if whole else marks.get("post.id", "")), marks.get("post.tenant", "")
    path, detail = _path_and_detail(marks.get("error.detail", ""))
    size = int(marks.get("value.size", record.omitted.size if record.omitted else len(record.value or b"")))
    return Letter(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        post_id or wire.id_in_key(record.key) or marks.get("post.id", ""),
        tenant,
        marks.get("error.code", ""),
        path,
        detail,
        _original(marks),
        size,
        Omitted(size, marks["value.sha256"]) if {"value.size", "value.sha256"} <= marks.keys() else None,
        whole,
        null,
    )


def id_of(record: Record) -> str:
    """The id that a verdict on this record of the posts topic has; empty if neither value nor key has one."""
    known = wire.known(record.value)
    return (known.id if known else "") or wire.id_in_key(record.key)


async def letters(
    consumer: Consumer, settings: KafkaSettings, partitions: int, selection: Selection
) -> AsyncIterator[tuple[Letter, Record]]:
    """Yields the dead letters that fit, in the order of each partition. partitions: of their topic."""
    numbers = range(partitions) if selection.partition is None else [selection.partition]
    if selection.places:
        numbers = sorted({number for number, _ in selection.places} & set(numbers))
    places = [TopicPartition(settings.dead_letters, number) for number in numbers]
    if not places:
        return
    spans = await spans_from(settings, consumer, places, selection.since_ms)
    async for record in read(settings, consumer, _narrowed(spans, selection)):
        letter = letter_of(record)
        if selection.fits(letter):
            yield letter, record


def _narrowed(spans: Mapping[TopicPartition, range], selection: Selection) -> dict[TopicPartition, range]:
    """The spans, without what lies before or behind the positions that are named."""
    narrowed = dict(spans)
    for partition, span in spans.items() if selection.places else ():
        offsets = [offset for number, offset in selection.places if number == partition.partition and offset in span]
        narrowed[partition] = range(min(offsets), max(offsets) + 1) if offsets else range(0)
    return narrowed


def _original(marks: Mapping[str, str]) -> Source | None:
    names: Sequence[str] = ("topic", "partition", "offset", "timestamp")
    said = [marks.get(f"original.{name}") for name in names]
    topic, partition, offset, timestamp = said
    if topic is None or partition is None or offset is None or timestamp is None:
        return None
    return Source(topic, int(partition), int(offset), int(timestamp))


def _path_and_detail(text: str) -> tuple[str, str]:
    """As in `images[0].data: base64`. Either may be missing."""
    path, _, detail = text.rpartition(": ")
    if path or text in set(Detail):
        return path, detail
    return text, ""
