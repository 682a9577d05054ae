"""The records of a batch that aiokafka cannot read, or would read into memory as a whole.

aiokafka raises on a header whose name is not UTF-8, again and again, and decompresses a batch as a whole, however large
it becomes. One such batch would stop, or kill, every worker. `LargeBatch` reads it piece by piece:

- A header's name that is not UTF-8 is escaped.
- A record that is too large is left out, but for its key, its headers and the hash of its value.
- Such a record says so. A batch whose structure is wrong raises CorruptRecordException.
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
from moderation.types import Reason

CHUNK_BYTES = 1 << 20  # of records that are read ahead of a large batch; a larger record goes alone
STEP_BYTES = 32 << 20  # that a thread reads before others have their turn
PIECE_BYTES = 256 << 10  # that a stream is asked for
RECORD_BYTES = 200  # that a record takes beside key, value and headers
KEY_BYTES = 1 << 10  # of a key that is kept of a record that is left out
HEADERS_BYTES = 1 << 20  # of the headers of a record, in all
MAX_HEADERS = 10_000  # of a record
HEADER_BYTES = 160  # that a header takes beside its name and value
DELTA_BYTES = 64  # that a record takes in its batch beside key, value and headers

HEADER = struct.Struct(">qiibIhiqqqhii")  # of a batch of format 2
CODEC, LOG_APPEND_TIME = 0x07, 0x08  # in the attributes
INT64 = range(-(1 << 63), 1 << 63)

Headers = Sequence[tuple[str, bytes | None]]


class Omitted(NamedTuple):
    """A value that is not held."""

    size: int  # bytes
    sha256: str  # in hex


class Record(NamedTuple):
    """One record of a topic. What cannot be judged as it is says why."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds; its producer's word
    key: bytes | None
    value: bytes | None
    headers: Headers
    problem: Reason | None = None  # why it cannot be judged
    omitted: Omitted | None = None  # in place of the value, which then is empty
    marks: tuple[str, ...] = ()  # what is not as it came: headers.escaped, headers.omitted, key.omitted

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        size = RECORD_BYTES + len(self.key or b"") + len(self.value or b"")
        return size + sum(HEADER_BYTES + len(name) + len(value or b"") for name, value in self.headers)


class Chunk(NamedTuple):
    """Some records of a large batch, and what keeps the next ones from being read."""

    records: Sequence[Record]
    error: Exception | None = None


class LargeBatch:
    """A batch of format 2, decompressed and taken apart as its records are asked for. Not for two threads at once."""

    def __init__(self, partition: TopicPartition, raw: memoryview, limit: int) -> None:
        """limit: bytes of a record; a larger one is left out."""
        self.ended = False
        self._partition = partition
        self._limit = limit
        (self._base, _, _, _, _, attributes, _, self._first_ms, self._last_ms, _, _, _, self._count) = (
            HEADER.unpack_from(raw)
        )
        self._appended = bool(attributes & LOG_APPEND_TIME)
        self._records = self._read(attributes & CODEC, bytes(raw[HEADER.size :]))

    def read(self) -> Chunk:
        """The next records: some CHUNK_BYTES of them, or one; none where STEP_BYTES hold none."""
        found: list[Record] = []
        held = 0
        try:
            for record in self._records:
                if record is None:
                    return Chunk(found)
                found.append(record)
                held += record.size
                if held >= CHUNK_BYTES:
                    return Chunk(found)
        except CorruptRecordException as error:
            self.ended = True
            return Chunk(found, error)
        except (*decompression.FAILURES, IndexError) as error:
            self.ended = True
            return Chunk(found, CorruptRecordException(f"a batch cannot be read ({type(error).__name__})"))
        self.ended = True
        return Chunk(found)

    def _read(self, codec: int, data: bytes) -> Iterator[Record | None]:
        """None: STEP_BYTES have been read since the last time."""
        source = _Input(codec, data)
        for _ in range(self._count):
            length = source.varint()
            if length <= self._limit + DELTA_BYTES:
                yield self._parsed(source.take(length))
            else:
                yield from self._left_out(source, length)
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

    def _left_out(self, source: _Input, length: int) -> Iterator[Record | None]:
        """A record that is too large to be held."""
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
        yield record._replace(problem=Reason.RECORD_TOO_LARGE, omitted=omitted)

    def _record(
        self, since: int, offset: int, parts: tuple[bytes | None, bytes | None, Headers], marks: tuple[str, ...]
    ) -> Record:
        timestamp = self._last_ms if self._appended else self._first_ms + since
        timestamp = min(max(timestamp, INT64.start), INT64.stop - 1)
        problem = Reason.NOT_DECODABLE if marks else None
        topic, partition = self._partition
        return Record(topic, partition, self._base + offset, timestamp, *parts, problem, None, marks)


class _Input:
    """Decompressed bytes, as far as they are asked for. Raises CorruptRecordException where there are too few."""

    def __init__(self, codec: int, data: bytes) -> None:
        self.passed = 0  # bytes that were taken or skipped
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

    def skip(self, size: int, seen: Callable[[bytearray], object] = len) -> Iterator[None]:
        """Goes on by `size` bytes, which `seen` gets; yields now and then."""
        if size < 0:
            raise CorruptRecordException("a length is negative")
        while size:
            piece = self.take(min(size, PIECE_BYTES))
            seen(piece)
            size -= len(piece)
            if self.pause():
                yield None

    def pause(self) -> bool:
        """Whether STEP_BYTES have passed since it last said so."""
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
    """The headers, what of them is not as it came, and where they end."""
    count, at = decode_varint(body, at)
    if count < 0:
        raise CorruptRecordException("the number of headers is negative")
    if count > MAX_HEADERS or len(body) - at > HEADERS_BYTES:
        return (), ("headers.omitted",), len(body)
    found: list[tuple[str, bytes | None]] = []
    escaped = False
    for _ in range(count):
        name, at = _nullable(body, at)
        value, at = _nullable(body, at)
        try:
            said = (name or b"").decode()
        except UnicodeDecodeError:
            said = (name or b"").decode(errors="backslashreplace")
            escaped = True
        found.append((said, value))
        escaped |= name is None
    return tuple(found), ("headers.escaped",) if escaped else (), at


def without_value(record: Record, limit: int) -> Record:
    """A record of more than `limit` bytes that has been read whole, as it is told of one that has not."""
    value = record.value or b""
    kept = record._replace(problem=Reason.RECORD_TOO_LARGE)
    if record.value is not None:
        kept = kept._replace(value=b"", omitted=Omitted(len(value), hashlib.sha256(value).hexdigest()))
    if len(record.key or b"") > KEY_BYTES:
        kept = kept._replace(key=None, marks=(*kept.marks, "key.omitted"))
    if kept.size > max(limit, HEADERS_BYTES):
        kept = kept._replace(headers=(), marks=(*kept.marks, "headers.omitted"))
    return kept
