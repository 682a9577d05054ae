"""Past traffic: the verdicts of a period, from their topic, and the posts that they are on, from theirs.

Only what still stands is given. A post that was erased is left out, also where its erasure waits for a worker. What is
left out is counted, by reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import zip_longest
from time import time

from aiokafka import TopicPartition

from moderation import wire
from moderation.errors import ConfigError, PostError
from moderation.evaluation.traffic.newest import Newest
from moderation.kafka.consumer import Consumer
from moderation.kafka.ranges import open_consumer, read, spans_from
from moderation.kafka.records import Record
from moderation.kafka.topics import partitions_of
from moderation.settings import KafkaSettings, Settings
from moderation.types import Post, Source, Verdict
from moderation.wire.json_out import clamped_ms

CLOCKS_MS = 600_000  # that the clocks of workers and brokers may differ
GAP = 20  # offsets between two posts that are read over: to move to a position takes as long
TAIL = 64  # offsets at the end of a partition in which its last record is looked for first
LOOK_BACK = timedelta(hours=1)  # erasures that workers carried out since then are looked for before posts are given

Spans = Mapping[TopicPartition, range]
Step = Callable[[int], object]  # called with numbers of records that were read


class LeftOut(StrEnum):
    """Why the verdict on a post, or the post, is not given."""

    ERASED = "erased"
    JUDGED_AGAIN = "judged again after the period"
    GONE = "no longer on the posts topic"  # by retention, by compaction, or with the topic
    UNREADABLE = "not readable by this version"
    ELSEWHERE = "not from the posts topic"


Counts = Counter[LeftOut]


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time: `begins` is in it, `ends` is not."""

    begins: datetime
    ends: datetime

    def __post_init__(self) -> None:
        """Raises ConfigError for a period that holds nothing."""
        if self.begins >= self.ends:
            raise ConfigError(f"the period ends before it begins: it is {self}")

    def __str__(self) -> str:
        """As in `2026-01-31 00:00:00 to 2026-02-01 00:00:00 UTC`."""
        return f"{_at(self.begins)} to {_at(self.ends)} UTC"

    @property
    def span_ms(self) -> range:
        """Milliseconds since 1970."""
        return range(int(self.begins.timestamp() * 1000), int(self.ends.timestamp() * 1000))


async def verdicts(
    settings: Settings, period: Period, left_out: Counts | None = None, step: Step = lambda _: None
) -> AsyncIterator[Verdict]:
    """Yields the newest verdict of each post whose record on the verdicts topic is of this period.

    The topic is read from the period on to its end, since an erasure or another verdict may come later, and the period
    twice. Holds some 200 bytes for each post of it. left_out: takes what is not given.

    Raises ConfigError where the topic has no verdict of the period, saying what it has, or for a missing right, and
    DeliveryError where Kafka fails.
    """
    counts: Counts = left_out if left_out is not None else Counter()
    async with _opened(settings.kafka, settings.kafka.verdicts_topic) as reader:
        whole = await reader.spans(period.span_ms.start)
        rest = await reader.spans(period.span_ms.stop + CLOCKS_MS)
        within = {place: range(span.start, min(rest[place].start, span.stop)) for place, span in whole.items()}
        newest = Newest()
        async for record in reader.records(within, step):
            newest.add(record, within=record.timestamp in period.span_ms)
        if not newest.found:
            raise ConfigError(await _nothing_of(reader, period))
        async for record in reader.records(rest, step):
            newest.add_later(record)
        async for record in reader.records(within, step):
            if (verdict := newest.verdict(record)) is not None:
                yield verdict
        for verdict in newest.contested():
            yield verdict
        counts.update(_left_out(newest))


async def size(settings: Settings, period: Period) -> int:
    """How many records `verdicts` reads of a period, about: so many steps it makes. Raises as it does."""
    async with _opened(settings.kafka, settings.kafka.verdicts_topic) as reader:
        whole = await reader.spans(period.span_ms.start)
        rest = await reader.spans(period.span_ms.stop + CLOCKS_MS)
    return sum(2 * len(span) - len(rest[place]) for place, span in whole.items())


def _left_out(newest: Newest) -> Counts:
    return +Counter(
        {
            LeftOut.ERASED: len(newest.erased),
            LeftOut.JUDGED_AGAIN: len(newest.replaced),
            LeftOut.UNREADABLE: newest.unreadable,
        }
    )


async def posts(settings: Settings, sources: Iterable[Source], left_out: Counts | None = None) -> dict[Source, Post]:
    """The posts of these sources, as `each_post` gives them: all at once, so for a few thousand."""
    return {source: post async for source, post in each_post(settings, sources, left_out)}


async def each_post(
    settings: Settings, sources: Iterable[Source], left_out: Counts | None = None, step: Step = lambda _: None
) -> AsyncIterator[tuple[Source, Post]]:
    """Yields the posts of these sources from the posts topic, in the order of each partition.

    A post is left out where it was erased, where the topic has another record, or none, at its place, and where it
    cannot be read. left_out: takes their numbers. step: takes sources that are done.

    Raises ConfigError where all are gone, saying what the topic has, or for a missing right, and DeliveryError where
    Kafka fails.
    """
    counts: Counts = left_out if left_out is not None else Counter()
    topic = settings.kafka.posts_topic
    wanted: dict[TopicPartition, dict[int, Source]] = defaultdict(dict)
    for source in sources:
        if source.topic == topic:
            wanted[TopicPartition(topic, source.partition)][source.offset] = source
        else:
            counts[LeftOut.ELSEWHERE] += 1
            step(1)
    async with _opened(settings.kafka, topic) as reader:
        erased = await _erasures(settings, reader)
        found = 0
        async for source, record in _found(reader, wanted):
            found += 1
            post = _post(settings, record)
            if isinstance(post, LeftOut):
                counts[post] += 1
            elif erased.get(post.id, -1) >= source.timestamp_ms:
                counts[LeftOut.ERASED] += 1
            else:
                yield source, post
            step(1)
        gone = sum(map(len, wanted.values())) - found
        if gone:
            counts[LeftOut.GONE] += gone
            step(gone)
        if gone and not found:
            raise ConfigError(await _all_gone(reader, gone))


async def _found(
    reader: _Reader, wanted: Mapping[TopicPartition, Mapping[int, Source]]
) -> AsyncIterator[tuple[Source, Record]]:
    """Yields the records of these sources. Another record may lie there, where the topic was made again."""
    for spans in _waves(wanted, await reader.spans()):
        async for record in reader.records(spans):
            source = wanted[TopicPartition(record.topic, record.partition)].get(record.offset)
            if source is not None and clamped_ms(record.timestamp) == clamped_ms(source.timestamp_ms):
                yield source, record


def _post(settings: Settings, record: Record) -> Post | LeftOut:
    """The post in a record of the posts topic, or why it has none."""
    if record.value is None:
        return LeftOut.ERASED
    if record.problem is not None:
        return LeftOut.UNREADABLE
    try:
        return wire.post_record(
            record.value, record.headers, settings.media, schema_registry=settings.kafka.schema_registry
        )
    except PostError:
        return LeftOut.UNREADABLE


def _waves(wanted: Mapping[TopicPartition, Mapping[int, Source]], there: Spans) -> Iterator[Spans]:
    """Spans that hold all that is wanted and there: of each partition one at a time."""
    runs: list[list[tuple[TopicPartition, range]]] = []
    for place, sources in wanted.items():
        of_place: list[tuple[TopicPartition, range]] = []
        for offset in sorted(offset for offset in sources if offset in there.get(place, range(0))):
            if of_place and offset <= of_place[-1][1].stop + GAP:
                of_place[-1] = place, range(of_place[-1][1].start, offset + 1)
            else:
                of_place.append((place, range(offset, offset + 1)))
        runs.append(of_place)
    for wave in zip_longest(*runs):
        yield dict(run for run in wave if run is not None)


class _Reader:
    """Reads the partitions of one topic."""

    def __init__(self, settings: KafkaSettings, consumer: Consumer, topic: str, partitions: int) -> None:
        self.topic = topic
        self.places = [TopicPartition(topic, number) for number in range(partitions)]
        self._settings = settings
        self._consumer = consumer

    async def spans(self, since_ms: int | None = None) -> Spans:
        """The offsets of each partition, from the first record of that time or later on; None: all."""
        return await spans_from(self._settings, self._consumer, self.places, since_ms)

    async def records(self, spans: Spans, step: Step = lambda _: None) -> AsyncGenerator[Record, None]:
        """The records at these offsets, in the order of each partition."""
        async for record in read(self._settings, self._consumer, dict(spans)):
            yield record
            step(1)

    async def first(self, place: TopicPartition, span: range) -> Record | None:
        """The first record of a span."""
        async with aclosing(self.records({place: span})) as records:
            return await anext(records, None)

    async def last(self, place: TopicPartition, span: range) -> Record | None:
        """The last record of a span. Transactions and compaction leave offsets without a record."""
        size, found = TAIL, None
        while found is None and span:
            async for record in self.records({place: span[-size:]}):
                found = record
            span, size = span[:-size], 4 * size
        return found

    def beside(self, topic: str) -> _Reader:
        """A reader of a topic with as many partitions."""
        return _Reader(self._settings, self._consumer, topic, len(self.places))


@asynccontextmanager
async def _opened(settings: KafkaSettings, topic: str) -> AsyncIterator[_Reader]:
    count = (await partitions_of(settings, [topic]))[topic]
    async with open_consumer(settings) as consumer:
        yield _Reader(settings, consumer, topic, count)


async def _erasures(settings: Settings, posts: _Reader) -> dict[str, int]:
    """Ids of posts that are erased, and up to which time: by erasures of late, and by those that wait for a worker."""
    kafka, now_ms = settings.kafka, int(time() * 1000)
    erased: dict[str, int] = {}

    def note(id: str, at_ms: int) -> None:
        erased[id] = max(at_ms, erased.get(id, -1))

    judged = posts.beside(kafka.verdicts_topic)
    async for record in judged.records(await judged.spans(int((time() - LOOK_BACK.total_seconds()) * 1000))):
        id = wire.id_in_key(record.key)
        if record.value is None and id:
            at_ms = wire.erased_at(record.headers)
            note(id, record.timestamp if at_ms is None else at_ms)
    async for record in posts.records(await _waiting(posts, judged)):
        if id := wire.erased_id(record.key, record.value) or "":
            source = Source(record.topic, record.partition, record.offset, record.timestamp)
            note(id, wire.erasure(id, source, record.headers, now_ms).at_ms)
    return erased


async def _waiting(posts: _Reader, judged: _Reader) -> Spans:
    """The offsets of the posts topic for which the verdicts topic has no outcome yet."""
    ends = await judged.spans()
    waiting = dict(await posts.spans())
    for place, span in waiting.items():
        beside = TopicPartition(judged.topic, place.partition)
        last = await judged.last(beside, ends[beside])
        position = _position(last) if last is not None else None
        if position is not None and position[:2] == (place.topic, place.partition) and position[2] in span:
            waiting[place] = range(position[2] + 1, span.stop)
    return waiting


def _position(record: Record) -> tuple[str, int, int] | None:
    """Topic, partition and offset of the record that a record of the verdicts topic is on."""
    if record.value is None:
        return wire.erased_source(record.headers)
    try:
        source = wire.read_verdict(record.value, record.headers).source
    except ValueError:
        return None
    return source.topic, source.partition, source.offset


async def _nothing_of(reader: _Reader, period: Period) -> str:
    there = await _there(reader)
    if there is None:
        return f"topic {reader.topic} has no verdicts: start a worker, or name another topic"
    begins, ends = there
    return (
        f"topic {reader.topic} has no verdicts of the period {period}: it has those of {_at(begins)} to {_at(ends)} "
        "UTC; give a period that meets these"
    )


async def _all_gone(reader: _Reader, gone: int) -> str:
    there = await _there(reader)
    held = f"posts of {_at(there[0])} to {_at(there[1])} UTC" if there else "no posts"
    return (
        f"topic {reader.topic} has none of the {gone:,} posts any more: it has {held}; give a later period, or let the "
        "topic keep its posts for longer (retention.ms)"
    )


async def _there(reader: _Reader) -> tuple[datetime, datetime] | None:
    """When the first and the last records of a topic were written; None: it has none."""
    times: list[int] = []
    for place, span in (await reader.spans()).items():
        for record in (await reader.first(place, span), await reader.last(place, span)):
            if record is not None:
                times.append(clamped_ms(record.timestamp))
    if not times:
        return None
    return tuple(datetime.fromtimestamp(at / 1000, UTC) for at in (min(times), max(times)))  # type: ignore[return-value]


def _at(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
