"""The records of a batch that aiokafka cannot read, or would read into memory as a whole.

aiokafka raises on a header whose name is not UTF-8, at every attempt. It decompresses a batch as a whole, of any size.
One such batch would stop, or kill, every worker. `LargeBatch` reads a batch piece by piece:

- A header's name that is not UTF-8 is escaped.
- Of a record that is too large, only key, headers and the hash of the value are kept.
- Such records carry `problem` and `marks`. A batch whose structure is wrong raises CorruptRecordException.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aiokafka.errors import CorruptRecordException
from aiokafka.record.util import decode_varint
from aiokafka.structs import TopicPartition

from moderation.kafka import decompression
from moderation.types import Detail, Problem, Reason

CHUNK_BYTES = 1 << 20  # of records that are read ahead; a larger record goes alone
STEP_BYTES = 32 << 20  # that a thread reads before other partitions have their turn
PIECE_BYTES = 256 << 10  # of one read from a stream
RECORD_BYTES = 200  # of memory for a record, without key, value and headers
KEY_BYTES = 1 << 10  # largest key that is kept of a record that is too large
HEADERS_BYTES = 1 << 20  # of the headers of a record, in all
MAX_HEADERS = 10_000  # of a record
HEADER_BYTES = 160  # of memory for a header, without name and value
DELTA_BYTES = 64  # of a record in its batch, without key, value and headers

HEADER = struct.Struct(">qiibIhiqqqhii")  # of a batch of format 2
CODEC, LOG_APPEND_TIME = 0x07, 0x08  # in the attributes
APPENDED = 1  # the type of a timestamp that the broker has set, as aiokafka says
INT64 = range(-(1 << 63), 1 << 63)

TOO_LARGE = Problem(Reason.RECORD_TOO_LARGE)
HEADERS = {
    "headers.escaped": Problem(Reason.NOT_DECODABLE, "headers", Detail.NOT_UTF8),
    "headers.omitted": Problem(Reason.NOT_DECODABLE, "headers", Detail.TOO_LONG),
    "key.omitted": TOO_LARGE,
}

Headers = Sequence[tuple[str, bytes | None]]


class Omitted(NamedTuple):
    """Stands for a value that is not kept."""

    size: int  # bytes
    sha256: str  # in hex


class Record(NamedTuple):
    """One record of a topic. A record that cannot be moderated as it is has a `problem`."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds, as the producer set it, or the broker if `appended`
    key: bytes | None
    value: bytes | None
    headers: Headers
    problem: Problem | None = None  # why the record cannot be moderated
    omitted: Omitted | None = None  # replaces the value, which then is empty
    marks: tuple[str, ...] = ()  # what was changed: headers.escaped, headers.omitted, key.omitted
    appended: bool = False  # the timestamp is the broker's, of when it appended the batch

    @property
    def size(self) -> int:
        """Bytes of memory that the record takes."""
        size = RECORD_BYTES + len(self.key or b"") + len(self.value or b"")
        return size + sum(HEADER_BYTES + len(name) + len(value or b"") for name, value in self.headers)


class Chunk(NamedTuple):
    """Some records of a large batch, and the error that prevents reading the next ones."""

    records: Sequence[Record]
    error: Exception | None = None


class LargeBatch:
    """A batch of format 2. Records are decompressed and parsed as `read` asks for them. Not for two threads at once."""

    def __init__(self, partition: TopicPartition, raw: memoryview, limit: int) -> None:
        """limit: bytes of a record; the value of a larger record is left out."""
        self.ended = False
        self._partition = partition
        self._limit = limit
        (self._base, _, _, _, _, attributes, _, self._first_ms, self._last_ms, _, _, _, self._count) = (
            HEADER.unpack_from(raw)
        )
        self._appended = bool(attributes & LOG_APPEND_TIME)
        self._records = self._read(attributes & CODEC, bytes(raw[HEADER.size :]))

    def read(self) -> Chunk:
        """Returns the next records: about CHUNK_BYTES of them, or one record; none where STEP_BYTES hold none."""
        records: list[Record] = []
        held = 0
        try:
            for record in self._records:
                if record is None:
                    return Chunk(records)
                records.append(record)
                held += record.size
                if held >= CHUNK_BYTES:
                    return Chunk(records)
        except CorruptRecordException as error:
            self.ended = True
            return Chunk(records, error)
        except (*decompression.FAILURES, IndexError) as error:
            self.ended = True
            return Chunk(records, CorruptRecordException(f"a batch cannot be read ({type(error).__name__})"))
        self.ended = True
        return Chunk(records)

    def _read(self, codec: int, data: bytes) -> Iterator[Record | None]:
        """Yields records. None: STEP_BYTES have been read since the last record."""
        source = _Input(codec, data)
        for _ in range(self._count):
            length = source.varint()
            if length <= self._limit + DELTA_BYTES:
                yield self._parsed(source.take(length))
            else:
                yield from self._without_value(source, length)
            if source.pause():
                yield None
        if not source.at_end():
            raise CorruptRecordException("a batch holds more than its records")

    def _parsed(self, body: bytearray) -> Record:
        _, at = decode_varint(body, 0)  # attributes, unused
        since, at = decode_varint(body, at)
        offset, at = decode_varint(body, at)
        key, at = _nullable(body, at)
        value, at = _nullable(body, at)
        headers, marks, at = _headers(body, at)
        if at != len(body):
            raise CorruptRecordException("a record is not as long as it says")
        return self._record(since, offset, (key, value, headers), marks)

    def _without_value(self, source: _Input, length: int) -> Iterator[Record | None]:
        """A record that is too large to be kept whole."""
        end = source.passed + length
        source.take(1)
        since, offset = source.varint(), source.varint()
        size = source.varint()
        key = bytes(source.take(size)) if 0 <= size <= KEY_BYTES else None
        marks: tuple[str, ...] = ("key.omitted",) if size > KEY_BYTES else ()
        if size > KEY_BYTES:
            yield from source.skip(size)
        digest, size = hashlib.sha256(), source.varint()
        yield from source.skip(max(0, size), digest.update)
        rest = end - source.passed
        headers: Headers = ()
        if 0 <= rest <= HEADERS_BYTES:
            headers, more, at = _headers(source.take(rest), 0)
            if at != rest:
                raise CorruptRecordException("a record is not as long as it says")
            marks += more
        else:
            yield from source.skip(rest)
            marks += ("headers.omitted",)
        record = self._record(since, offset, (key, b"" if size >= 0 else None, headers), marks)
        omitted = Omitted(size, digest.hexdigest()) if size >= 0 else None
        yield record._replace(problem=TOO_LARGE, omitted=omitted)

    def _record(
        self, since: int, offset: int, parts: tuple[bytes | None, bytes | None, Headers], marks: tuple[str, ...]
    ) -> Record:
        timestamp = self._last_ms if self._appended else self._first_ms + since
        timestamp = min(max(timestamp, INT64.start), INT64.stop - 1)
        problem = HEADERS[marks[0]] if marks else None
        topic, partition = self._partition
        return Record(topic, partition, self._base + offset, timestamp, *parts, problem, None, marks, self._appended)


class _Input:
    """Decompressed bytes, read as needed. Raises CorruptRecordException where there are too few."""

    def __init__(self, codec: int, data: bytes) -> None:
        self.passed = 0  # bytes taken or skipped
        self._stream = decompression.stream(codec, data)
        self._held = bytearray()
        self._at = 0
        self._paused = 0

    def varint(self) -> int:
        at = self._at
        while len(self._held) - self._at < 10 and self._more(10):
            at = self._at
        value, self._at = decode_varint(self._held, self._at)
        self.passed += self._at - at
        return int(value)

    def take(self, size: int) -> bytearray:
        if size < 0:
            raise CorruptRecordException("a length is negative")
        while len(self._held) - self._at < size:
            if not self._more(size):
                raise CorruptRecordException("a batch ends within a record")
        taken = self._held[self._at : self._at + size]
        self._at += size
        self.passed += size
        return taken

    def skip(self, size: int, visit: Callable[[bytearray], object] = len) -> Iterator[None]:
        """Skips `size` bytes, and passes each piece to `visit`. Yields after each STEP_BYTES."""
        if size < 0:
            raise CorruptRecordException("a length is negative")
        while size:
            piece = self.take(min(size, PIECE_BYTES))
            visit(piece)
            size -= len(piece)
            if self.pause():
                yield None

    def pause(self) -> bool:
        """Whether STEP_BYTES have passed since this last returned True."""
        if self.passed - self._paused < STEP_BYTES:
            return False
        self._paused = self.passed
        return True

    def at_end(self) -> bool:
        return self._at == len(self._held) and not self._more(1)

    def _more(self, wanted: int) -> bool:
        missing = wanted - (len(self._held) - self._at)
        piece = self._stream.read(max(PIECE_BYTES, min(missing, STEP_BYTES)))
        del self._held[: self._at]
        self._at = 0
        self._held += piece
        return bool(piece)


def _nullable(body: bytearray, at: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(body, at)
    if size > len(body) - at:
        raise CorruptRecordException("a key or a value is longer than its record")
    return (bytes(memoryview(body)[at : at + size]), at + size) if size >= 0 else (None, at)


def _headers(body: bytearray, at: int) -> tuple[Headers, tuple[str, ...], int]:
    """The headers, their marks, and the position behind them."""
    count, at = decode_varint(body, at)
    if count < 0:
        raise CorruptRecordException("the number of headers is negative")
    if count > MAX_HEADERS or len(body) - at > HEADERS_BYTES:
        return (), ("headers.omitted",), len(body)
    headers: list[tuple[str, bytes | None]] = []
    escaped = False
    for _ in range(count):
        name, at = _nullable(body, at)
        value, at = _nullable(body, at)
        try:
            text = (name or b"").decode()
        except UnicodeDecodeError:
            text = (name or b"").decode(errors="backslashreplace")
            escaped = True
        headers.append((text, value))
        escaped |= name is None
    return tuple(headers), ("headers.escaped",) if escaped else (), at


def without_value(record: Record, limit: int) -> Record:
    """Returns a record of more than `limit` bytes as `LargeBatch` would: without its value."""
    value = record.value or b""
    kept = record._replace(problem=TOO_LARGE)
    if record.value is not None:
        kept = kept._replace(value=b"", omitted=Omitted(len(value), hashlib.sha256(value).hexdigest()))
    if len(record.key or b"") > KEY_BYTES:
        kept = kept._replace(key=None, marks=(*kept.marks, "key.omitted"))
    if kept.size > max(limit, HEADERS_BYTES):
        kept = kept._replace(headers=(), marks=(*kept.marks, "headers.omitted"))
    return kept
