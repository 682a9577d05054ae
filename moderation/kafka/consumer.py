"""A consumer that reads any batch that a foreign client has written, and that asks each partition for a share.

aiokafka's own consumer hands out what it has fetched partition by partition: two full partitions leave nothing for the
others. One batch can stop or kill it (records.py). `Consumer` keeps its connections, groups, positions and fetches. It
replaces the last step, from the bytes of a fetch to records:

- A small batch (SMALL_BYTES, compressed and decompressed) goes through aiokafka's compiled reader.
- A larger batch, and a batch that the compiled reader refuses, goes through `LargeBatch`, on a thread.
"""

from __future__ import annotations

import asyncio
import struct
from asyncio import Future
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, TopicAuthorizationFailedError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from moderation.kafka import decompression, refusals
from moderation.kafka.records import APPENDED, CODEC, HEADER, MAX_HEADERS, Chunk, LargeBatch, Record, without_value

SMALL_BYTES = 1 << 20  # largest batch that is read on the event loop
EPOCH_AT, MAGIC_AT, ATTRIBUTES_AT = 12, 16, 21  # in a batch

log = structlog.get_logger()


class UnreadableError(Exception):
    """A batch whose checksum or structure is wrong, twice in a row. Nothing behind that batch can be read."""

    def __init__(self, partition: TopicPartition, offset: int, after: int, cause: str) -> None:
        super().__init__(f"{partition.topic}/{partition.partition} cannot be read at offset {offset}: {cause}")
        self.partition = partition
        self.offset = offset  # of the first record that cannot be read
        self.after = after  # the first offset behind its batch
        self.cause = cause


class RawBatches:
    """The batches of a fetch as bytes. The last batch may be cut. Replaces aiokafka's MemoryRecords."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        """Whether there is a whole batch."""
        return len(self._data) - self._at >= 12 and self._end() <= len(self._data)

    def next_batch(self) -> memoryview:
        """Returns the next batch. Raises CorruptRecordException if it is shorter than any batch."""
        batch, self._at = self._data[self._at : self._end()], self._end()
        if len(batch) < 26 or (batch[MAGIC_AT] >= 2 and len(batch) < HEADER.size):
            raise CorruptRecordException("a batch is shorter than its header")
        return batch

    def _end(self) -> int:
        length = int.from_bytes(self._data[self._at + 8 : self._at + 12], "big", signed=True)
        return self._at + 12 + max(0, length)


class Reader(NamedTuple):
    """How a consumer reads."""

    limit: int  # bytes of a record; the value of a larger record is left out
    submit: Callable[[Callable[[], Chunk]], Future[Chunk]]  # runs a call on a thread
    buffer: bytearray  # where small batches are decompressed


class Fetched(fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of a partition in one fetch. Replaces aiokafka's PartitionRecords and keeps its transaction rules."""

    def __init__(self, reader: Reader, *arguments: Any) -> None:
        """arguments: those of PartitionRecords."""
        self._reader = reader
        self._next: Record | None = None  # read, and not taken yet
        self.reading: Future[Chunk] | None = None  # on a thread
        self.ended = False
        self.after = 0  # the first offset behind the batch that is being read
        self.epoch = -1  # of the leader that wrote this batch; -1: unknown
        self._error: CorruptRecordException | None = None
        super().__init__(*arguments)

    def take(self, max_records: int, max_bytes: int, alone: bool) -> list[Record]:
        """Returns the next records. With `alone`, the first may be larger than max_bytes.

        Returns fewer while a thread reads, and when the fetch has `ended`. Raises CorruptRecordException when no record
        is left before the broken batch.
        """
        records: list[Record] = []
        while len(records) < max_records and (record := self._peek()) is not None:
            if record.size > max_bytes and (records or not alone):
                break
            max_bytes -= record.size
            records.append(record)
            self._next, self.next_fetch_offset = None, record.offset + 1
        if self._error is not None and not records:
            raise self._error
        return records

    @property
    def first_size(self) -> int:
        """Bytes of the next record; 0 if that record has not been read."""
        return self._next.size if self._next is not None else 0

    def _peek(self) -> Record | None:
        if self._next is None and not self.ended:
            try:
                self._next = next(self._records_iterator)
            except StopIteration:
                self.ended = self._error is None
            except CorruptRecordException as error:
                self._error = error  # raised once the records before it have been taken
        return self._next

    def _unpack_records(self) -> Iterator[Record | None]:
        """Yields records. None: a thread reads."""
        while self._records.has_next():
            raw = self._records.next_batch()
            magic = raw[MAGIC_AT]
            batch = DefaultRecordBatch(raw) if magic >= 2 else LegacyRecordBatch(raw, magic)
            self.after = batch.next_offset
            if magic >= 2:
                self.epoch = int.from_bytes(raw[EPOCH_AT:MAGIC_AT], "big", signed=True)
            if not batch.validate_crc():
                raise CorruptRecordException("the checksum of a batch is wrong")
            if not self._is_skipped(batch):
                for record in self._read(batch, raw):
                    if record is None or record.offset >= self.next_fetch_offset:
                        yield record
            self.next_fetch_offset = batch.next_offset  # compaction may have taken the last records

    def _is_skipped(self, batch: Any) -> bool:
        """Whether the records are not for consumers: marks of transactions, or of a transaction that was aborted."""
        if self._isolation_level == fetcher.READ_COMMITTED and batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)

    def _read(self, batch: Any, raw: memoryview) -> Iterator[Record | None]:
        if raw[MAGIC_AT] < 2:  # brokers of today no longer accept these
            yield from map(self._record, batch)
            return
        if not HEADER.unpack_from(raw)[-1]:
            return  # compaction has left the header alone
        if (small := self._small(batch, raw)) is not None:
            try:
                for read in small:
                    if len(read.headers) > MAX_HEADERS:
                        break  # LargeBatch leaves them out, on its thread
                    yield self._record(read)
                else:
                    return
            except (CorruptRecordException, UnicodeDecodeError):
                pass  # LargeBatch goes on from here
        large = LargeBatch(self._tp, raw, self._reader.limit)
        while not large.ended:
            self.reading = self._reader.submit(large.read)
            while not self.reading.done():
                yield None
            chunk, self.reading = self.reading.result(), None
            yield from chunk.records
            if chunk.error is not None:
                raise chunk.error

    def _small(self, batch: Any, raw: memoryview) -> Any:
        """The batch for aiokafka's compiled reader. None: the batch is too large for that reader, or not readable."""
        if len(raw) > SMALL_BYTES:
            return None
        if not batch.compression_type:
            return batch
        data = decompression.whole(batch.compression_type, bytes(raw[HEADER.size :]), self._reader.buffer)
        if data is None:
            return None
        attributes = batch.attributes & ~CODEC
        head = raw[:ATTRIBUTES_AT], struct.pack(">H", attributes & 0xFFFF), raw[ATTRIBUTES_AT + 2 : HEADER.size]
        return DefaultRecordBatch(b"".join((*head, data)))

    def _record(self, read: Any) -> Record:
        headers = tuple(read.headers)
        timestamp = -1 if read.timestamp is None else read.timestamp
        where = self._tp.topic, self._tp.partition, read.offset, timestamp
        record = Record(*where, read.key, read.value, headers, appended=read.timestamp_type == APPENDED)
        return record if record.size <= self._reader.limit else without_value(record, self._reader.limit)


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]
    """An AIOKafkaConsumer that returns records by `ready` and `wait`, or by `poll`, and not by its own methods.

    Partitions are assigned, or topics subscribed, after the start.
    """

    def __init__(self, *, max_record_bytes: int, **options: Any) -> None:
        """max_record_bytes: of a larger record only key, headers and the hash of the value are kept."""
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._limit = max_record_bytes
        self._failed: dict[TopicPartition, int] = {}  # offset at which the partition could not be read the last time
        self._turn = 0
        self._epochs: dict[TopicPartition, int] = {}  # of the last batch of each partition that was read
        super().__init__(**options)
        self.refusals = refusals.watch(self._client)

    async def start(self) -> None:
        """Connects."""
        await super().start()
        reader = Reader(self._limit, self._submit, bytearray(SMALL_BYTES))
        names = {"MemoryRecords": RawBatches, "PartitionRecords": partial(Fetched, reader)}
        # aiokafka's own method, with two classes replaced.
        process = FunctionType(fetcher.Fetcher._proc_fetch_request.__code__, vars(fetcher) | names)
        self._fetcher._proc_fetch_request = MethodType(process, self._fetcher)

    async def stop(self) -> None:
        """Leaves the group and disconnects."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await super().stop()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Moves the position."""
        self._epochs.pop(partition, None)
        super().seek(partition, offset)

    def ready(
        self, partition: TopicPartition, max_records: int, max_bytes: int, *, alone: bool = False
    ) -> list[Record]:
        """Returns the next records of a partition, as far as they have been fetched.

        With `alone`, the first may be larger than max_bytes. Raises UnreadableError, and what aiokafka raises.
        """
        with self._subscription.fetch_context():
            held = self._fetcher._records.get(partition)
            if held is None or self._subscription.reassignment_in_progress:
                return []
            if isinstance(held, fetcher.FetchError):
                self._drop(partition)
                held.check_raise()
            if not held.check_assignment(partition):  # paused, or sought elsewhere
                self._drop(partition)
                return []
            fetched: Fetched = held._partition_records
            try:
                records = fetched.take(max_records, max_bytes, alone)
            except CorruptRecordException as error:
                held._update_position()
                self._drop(partition)
                self._fail(partition, fetched, error)
                return []
            held._update_position()
            self._epochs[partition] = fetched.epoch
            if fetched.ended:
                self._drop(partition)
            return records

    def reached(self, partition: TopicPartition) -> tuple[int, int]:
        """Returns the position, and the epoch of the leader that wrote the last batch before it; -1: unknown.

        `ready` has returned all records before the position.
        """
        assignment = self._subscription.subscription.assignment
        state = assignment.state_value(partition) if assignment is not None else None
        position = state.position if state is not None and state.has_valid_position else 0
        return position, self._epochs.get(partition, -1)

    def first_size(self, partition: TopicPartition) -> int:
        """Bytes of a record that was too large for `ready`; 0 if there is none."""
        held = self._fetcher._records.get(partition)
        fetched: Fetched | None = getattr(held, "_partition_records", None)
        return fetched.first_size if fetched is not None else 0

    async def wait(self, partitions: Iterable[TopicPartition], timeout_s: float, *others: Future[Any]) -> None:
        """Waits for records of these partitions, for one of `others`, or until timeout_s.

        Call it when `ready` has returned all records. In a rebalance, waits until the rebalance is over. Raises what
        aiokafka raises.
        """
        self._coordinator.check_errors()
        if hidden := self.refusals.hidden & (self._subscription.topics or set()):
            raise TopicAuthorizationFailedError(min(hidden))
        with self._subscription.fetch_context():
            if self._subscription.reassignment_in_progress:
                await self._subscription.wait_for_assignment()
                return
            readings: set[Future[Any]] = set(others)
            for partition in partitions:
                held = self._fetcher._records.get(partition)
                if held is None:
                    continue
                fetched: Fetched | None = getattr(held, "_partition_records", None)
                if fetched is None or not (fetched.reading or fetched.first_size):
                    return  # records have come since
                if fetched.reading is not None:
                    readings.add(fetched.reading)
            arrival = self._fetcher._create_fetch_waiter()
            try:
                await asyncio.wait({arrival, *readings}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if arrival.done():
                    arrival.result()  # raises where the topic may not be read
            finally:
                if not arrival.cancel() and not arrival.cancelled():
                    arrival.exception()  # retrieved, also when this call is cancelled

    async def poll(
        self, *partitions: TopicPartition, max_records: int, max_bytes: int, timeout_s: float
    ) -> dict[TopicPartition, list[Record]]:
        """Returns fetched records of these partitions, or of all assigned ones. A record above max_bytes goes alone.

        Each partition comes first in turn. Waits once for records. Raises UnreadableError, and what aiokafka raises.
        """
        records = self._some(partitions, max_records, max_bytes)
        if not records:
            await self.wait(partitions or self.assignment(), timeout_s)
            records = self._some(partitions, max_records, max_bytes)
        return records

    def _some(
        self, partitions: Iterable[TopicPartition], max_records: int, max_bytes: int
    ) -> dict[TopicPartition, list[Record]]:
        taken: dict[TopicPartition, list[Record]] = {}
        every = sorted(partitions or self.assignment())
        self._turn += 1
        for partition in (*every[self._turn % len(every) :], *every[: self._turn % len(every)]) if every else ():
            if max_records > 0 and (records := self.ready(partition, max_records, max_bytes, alone=not taken)):
                taken[partition] = records
                max_records -= len(records)
                max_bytes -= sum(record.size for record in records)
        return taken

    def _submit(self, read: Callable[[], Chunk]) -> Future[Chunk]:
        return asyncio.get_running_loop().run_in_executor(self._threads, read)

    def _drop(self, partition: TopicPartition) -> None:
        """Drops what is fetched of a partition. It is fetched again from its position."""
        del self._fetcher._records[partition]
        self._fetcher._notify(self._fetcher._wait_consume_future)

    def _fail(self, partition: TopicPartition, fetched: Fetched, error: Exception) -> None:
        """Fetches the batch again: it may have been damaged on its way. Raises UnreadableError the second time."""
        offset = fetched.next_fetch_offset
        if self._failed.get(partition) == offset:
            raise UnreadableError(partition, offset, max(fetched.after, offset + 1), str(error)) from error
        log.warning("batch_refetched", topic=partition.topic, partition=partition.partition, offset=offset)
        self._failed[partition] = offset
