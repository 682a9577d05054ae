"""Records out of the bytes of a fetch, of any client."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tracemalloc
from asyncio import Future
from collections.abc import Callable

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, MemoryRecords, PartitionRecords
from aiokafka.errors import CorruptRecordException

from moderation.kafka import records
from moderation.kafka.consumer import SMALL_BYTES, Fetched, RawBatches, Reader
from moderation.kafka.records import TOO_LARGE, Chunk, LargeBatch, Omitted, Record
from moderation.types import Detail, Problem, Reason
from tests.support.foreign import CODECS, NOW_MS, Headers, a_batch, a_record, compressed

LIMIT = 2 << 20
OMITTED = Problem(Reason.NOT_DECODABLE, "headers", Detail.TOO_LONG)
ESCAPED = Problem(Reason.NOT_DECODABLE, "headers", Detail.NOT_UTF8)
PARTITION = TopicPartition("posts", 3)
FOREIGN: Headers = [(b"caf\xe9", b"1"), (b"caf\xe9", None), (b"plain", b"\xff")]


def at_once(read: Callable[[], Chunk]) -> Future[Chunk]:
    done: Future[Chunk] = asyncio.get_running_loop().create_future()
    done.set_result(read())
    return done


def fetched(*batches: bytes, start: int = 0, limit: int = LIMIT) -> Fetched:
    reader = Reader(limit, at_once, bytearray(SMALL_BYTES))
    return Fetched(reader, PARTITION, RawBatches(b"".join(batches)), None, start, None, None, True, READ_COMMITTED)


def all_of(some: Fetched) -> list[Record]:
    records: list[Record] = []
    while not some.ended:
        records += some.take(10, LIMIT, alone=True)
    return records


def as_aiokafka_reads(*batches: bytes) -> list[tuple[object, ...]]:
    data = MemoryRecords(b"".join(batches))
    read = PartitionRecords(PARTITION, data, None, 0, None, None, True, READ_COMMITTED)
    return [(record.offset, record.timestamp, record.key, record.value, tuple(record.headers)) for record in read]


def plain(records: list[Record]) -> list[tuple[object, ...]]:
    assert not any(record.problem or record.omitted or record.marks for record in records)
    return [(record.offset, record.timestamp, record.key, record.value, tuple(record.headers)) for record in records]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [10, 5_000, 200_000])
async def test_records_are_those_that_aiokafka_reads(codec: str, size: int) -> None:
    random.seed(size)
    parts = [
        a_record(0, random.randbytes(size) + bytes(size), None, since_ms=-5),
        a_record(1, None, b"\xff\xfe", [(b"a", b"x"), (b"a", None), ("né".encode(), b"")], since_ms=7),
        *(a_record(2 + number, b"v" * size, b"k" * number) for number in range(9)),
    ]
    batches = a_batch(b"".join(parts), 11, codec, base=100), a_batch(a_record(0, b"last"), 1, base=200)
    records = all_of(fetched(*batches))
    assert plain(records) == as_aiokafka_reads(*batches)
    assert len(records) == 12
    large = LargeBatch(PARTITION, memoryview(batches[0]), LIMIT)  # the other way to read them says the same
    read: list[Record] = []
    while not large.ended:
        read += large.read().records
    assert plain(read) == plain(records[:-1])


@pytest.mark.parametrize("codec", CODECS)
async def test_a_header_whose_name_is_not_utf8_is_escaped_and_its_neighbours_are_as_they_were(codec: str) -> None:
    parts = [a_record(0, b"before"), a_record(1, b"it", headers=FOREIGN), a_record(2, b"behind", headers=[(b"a", b"")])]
    before, it, behind = all_of(fetched(a_batch(b"".join(parts), 3, codec)))
    assert plain([before, behind]) == [
        (0, NOW_MS, b"key", b"before", ()),
        (2, NOW_MS, b"key", b"behind", (("a", b""),)),
    ]
    assert it.headers == (("caf\\xe9", b"1"), ("caf\\xe9", None), ("plain", b"\xff"))
    assert (it.value, it.problem, it.marks) == (b"it", ESCAPED, ("headers.escaped",))


async def test_a_record_after_which_the_compiled_reader_fails_is_not_read_twice() -> None:
    parts = [a_record(number, b"%d" % number, headers=FOREIGN if number == 5 else ()) for number in range(8)]
    some = fetched(a_batch(b"".join(parts), 8))
    assert [record.offset for record in some.take(3, LIMIT, alone=True)] == [0, 1, 2]
    assert [record.offset for record in all_of(some)] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "none"])
async def test_a_batch_that_becomes_large_is_held_a_piece_at_a_time(codec: str) -> None:
    count, each = (12, 1 << 20) if codec == "raw snappy" else (30, 4 << 20)  # that one is taken apart in Python
    value = bytes(each)
    batch = a_batch(b"".join(a_record(number, value) for number in range(count)), count, codec)
    some, seen = fetched(batch, limit=each + 1000), 0
    tracemalloc.start()
    while not some.ended:
        for record in some.take(1, 8 << 20, alone=True):
            assert record.value == value
            seen += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == count
    limit = 8 * max(each, SMALL_BYTES) + 2 * len(batch)
    assert peak < limit, f"{peak >> 20} MiB of {count * each >> 20}"


@pytest.mark.parametrize("codec", CODECS)
async def test_a_record_above_the_limit_is_left_out_and_those_behind_it_are_not(codec: str) -> None:
    value = b"0123456789abcdef" * (LIMIT // 8)
    parts = [
        a_record(0, b"before"),
        a_record(1, value, b"large", [(b"content-type", b"text/plain")], since_ms=9),
        a_record(2, value, b"K" * 2000, FOREIGN),
        a_record(3, None, b"K" * (LIMIT + 1000)),
        a_record(4, b"behind"),
    ]
    before, large, second, third, behind = all_of(fetched(a_batch(b"".join(parts), 5, codec)))
    assert [record.value for record in (before, behind)] == [b"before", b"behind"]
    omitted = Omitted(len(value), hashlib.sha256(value).hexdigest())
    assert large == Record(
        "posts", 3, 1, NOW_MS + 9, b"large", b"", (("content-type", b"text/plain"),), TOO_LARGE, omitted
    )
    assert (second.key, second.omitted, second.marks) == (None, omitted, ("key.omitted", "headers.escaped"))
    assert (third.key, third.omitted, third.problem) == (None, None, TOO_LARGE)


async def test_a_small_record_above_the_limit_is_left_out_too() -> None:
    parts = [a_record(0, b"x" * 5000, b"key", [(b"a", b"b")]), a_record(1, b"x")]
    first, second = all_of(fetched(a_batch(b"".join(parts), 2), limit=4096))
    assert first.omitted == Omitted(5000, hashlib.sha256(b"x" * 5000).hexdigest())
    assert (first.value, first.headers, second.value) == (b"", (("a", b"b"),), b"x")


async def test_millions_of_headers_are_not_held() -> None:
    many: Headers = [(b"", b"")] * 900_000
    parts = a_record(0, b"it", headers=many) + a_record(1, b"behind")
    it, behind = all_of(fetched(a_batch(parts, 2)))
    assert (it.headers, it.marks, it.problem) == ((), ("headers.omitted",), OMITTED)
    assert behind.value == b"behind"


@pytest.mark.parametrize("first_ms", [-1, -(1 << 63), (1 << 63) - 1, 0])
async def test_timestamps_of_any_size_fit_into_64_bits(first_ms: int) -> None:
    """Large ones do not leave 64 bits: a view keeps them in columns."""
    parts = a_record(0, b"x", since_ms=1 << 40, headers=FOREIGN) + a_record(1, b"y", since_ms=-(1 << 40))
    records = all_of(fetched(a_batch(parts, 2, first_ms=first_ms)))
    assert all(-(1 << 63) <= record.timestamp < 1 << 63 for record in records)
    assert [record.value for record in records] == [b"x", b"y"]


async def test_batches_without_records_are_passed() -> None:
    """Compaction leaves a header alone, of a compressed batch too; control batches are no records."""
    abort = bytes.fromhex("00000000")
    marker = a_batch(a_record(0, b"\x00\x00\x00\x00\x00\x00", abort), 1, base=30, attributes=0x30)
    empty = a_batch(b"", 0, "zstd", base=10, last=9)
    some = fetched(empty, marker, a_batch(a_record(0, b"x"), 1, base=40))
    assert [(record.offset, record.value) for record in all_of(some)] == [(40, b"x")]
    assert some.next_fetch_offset == 41


def _broken() -> dict[str, bytes]:
    good = a_batch(a_record(0, b"a") + a_record(1, b"b") + a_record(2, b"c"), 3)
    large = bytes(SMALL_BYTES)
    cut = a_record(0, b"a") + a_record(1, b"b") + a_record(2, b"c" * 100)[:-50]
    long = a_record(0, b"a") + a_record(1, b"b") + b"\x50" + a_record(2, b"c")[1:]
    far = b"\x80\x80\xc0\x01" + b"\xfc\xff\xff\x1f" + bytes(1 << 20)
    return {
        "a wrong checksum": good[:-1] + b"x",
        "a record that ends behind its batch": a_batch(cut, 3),
        "a record that is longer than it says": a_batch(long, 3),
        "more bytes than records": a_batch(a_record(0, b"a") * 3 + b"more", 3),
        "fewer records than it says": a_batch(a_record(0, b"a") + a_record(1, b"b"), 3),
        "no zstd": a_batch(b"\x28\xb5\x2f\xfd" + bytes(9), 3, attributes=CODECS["zstd"]),
        "a zstd frame cut short": _cut("zstd", large),
        "a gzip stream cut short": _cut("gzip", large),
        "an lz4 frame cut short": _cut("lz4", large),
        "a snappy block cut short": _cut("raw snappy", large * 2),
        "a copy that reaches too far back": a_batch(far, 3, attributes=CODECS["snappy"]),
        "no such codec": a_batch(b"x", 3, attributes=5),
    }


def _cut(codec: str, value: bytes) -> bytes:
    data = compressed(codec, a_record(0, b"a") + a_record(1, b"b") + a_record(2, value))
    return a_batch(data[: len(data) // 2], 3, attributes=CODECS[codec])


@pytest.mark.parametrize("which", _broken())
async def test_what_cannot_be_read_is_raised_where_it_stands(which: str) -> None:
    some = fetched(a_batch(a_record(0, b"before"), 1, base=50), _broken()[which].replace(bytes(8), b"\0" * 7 + b"<", 1))
    assert [record.offset for record in some.take(1, LIMIT, alone=True)] == [50]
    with pytest.raises(CorruptRecordException):
        all_of(some)
    assert 51 <= some.next_fetch_offset <= 63
    assert some.after == 63, "the first offset behind the batch"


async def test_what_does_not_fit_waits_and_goes_alone() -> None:
    parts = b"".join(a_record(number, b"x" * 1000) for number in range(3))
    some = fetched(a_batch(parts, 3))
    size = 1000 + 3 + records.RECORD_BYTES
    assert [record.offset for record in some.take(10, 2 * size, alone=False)] == [0, 1]
    assert some.take(10, size - 1, alone=False) == []
    assert some.first_size == size
    assert [record.offset for record in some.take(10, size - 1, alone=True)] == [2]
    assert some.take(10, size, alone=True) == []
    assert some.ended


def test_the_parts_of_aiokafka_that_are_replaced_are_where_they_were() -> None:
    """`Consumer.start` gives this method two other classes: it must name them, and be a plain function."""
    process = Fetcher._proc_fetch_request
    assert {"MemoryRecords", "PartitionRecords", "FetchResult"} <= set(process.__code__.co_names)
    assert not process.__code__.co_freevars
    assert not process.__defaults__


@pytest.mark.parametrize("codec", ["zstd", "none"])
async def test_a_small_batch_of_very_many_headers_is_counted_as_what_it_takes(codec: str) -> None:
    """An empty header is two bytes, or next to none compressed, and becomes an object of a hundred."""
    many = a_record(0, b"x", headers=[(b"", b"")] * 300_000)
    (first, behind) = all_of(fetched(a_batch(many + a_record(1, b"y"), 2, codec)))
    assert "headers.omitted" in first.marks
    assert first.problem == OMITTED
    assert (behind.value, behind.problem) == (b"y", None)
    few = Record("posts", 0, 0, 0, None, b"", (("", b""),) * 100)
    assert few.size > 100 * 100


async def test_a_chunk_of_records_with_many_headers_has_a_bound() -> None:
    part = b"".join(a_record(number, b"x" * 1_000, headers=[(b"", b"")] * 9_000) for number in range(200))
    some = fetched(a_batch(part, 200, "zstd"))
    tracemalloc.start()
    taken = some.take(1, LIMIT, alone=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(taken) == 1
    assert peak < 64 << 20


async def test_a_null_that_is_left_out_stays_a_null() -> None:
    part = a_record(0, None, b"key", [(b"name", b"v" * (3 << 20))])
    (record,) = all_of(fetched(a_batch(part, 1, "none"), limit=1 << 20))
    assert record.value is None
    assert record.omitted is None
