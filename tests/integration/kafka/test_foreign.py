"""Records that a foreign client has written, on the posts topic of a real Kafka: each ends as one verdict."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from moderation.errors import DeliveryError
from tests.support import foreign
from tests.support.foreign import a_batch, a_record
from tests.support.harness import PARTITIONS, WORKER, Harness, a_value, running
from tests.support.topics import make_topics

MIB = 1 << 20


async def put(harness: Harness, partition: int, batch: bytes) -> None:
    code = await foreign.put(harness.kafka, TopicPartition(harness.topics[0], partition), batch)
    assert code == 0


def dlq_headers(letter: ConsumerRecord) -> dict[str, bytes]:
    """What the headers of a dead letter say, but for where it came from and which post it is of."""
    headers = {
        name: value
        for name, value in letter.headers
        if not name.startswith(("dlq.original", "dlq.consumer", "dlq.post"))
    }
    headers.pop("dlq.service.version")
    return headers


def of_value(value: bytes) -> dict[str, bytes]:
    return {
        "dlq.value.size": str(len(value)).encode(),
        "dlq.value.sha256": hashlib.sha256(value).hexdigest().encode(),
    }


def reasons(verdicts: list[dict[str, Any]]) -> list[str]:
    return [verdict.get("reason", "") for verdict in verdicts]


@pytest.mark.parametrize("codec", foreign.CODECS)
async def test_a_header_whose_name_is_not_utf8_makes_a_dead_letter_and_its_neighbours_are_judged(
    harness: Harness, codec: str
) -> None:
    odd = [(b"caf\xe9", b"1"), (b"content-type", b"application/json"), (b"caf\xe9", None)]
    batch = a_record(0, a_value(0)) + a_record(1, a_value(1), b"odd", odd) + a_record(2, a_value(2))
    async with running(harness):
        await put(harness, 3, a_batch(batch, 3, codec))
        verdicts = await harness.verdicts(3)
        (letter,) = await harness.dead_letters(1)
    assert [verdict["postId"] for verdict in verdicts] == ["post-0", "post-1", "post-2"]
    assert reasons(verdicts) == ["", "NOT_DECODABLE", ""]
    assert (letter.key, letter.value) == (b"odd", a_value(1))
    assert letter.headers[:3] == (("caf\\xe9", b"1"), ("content-type", b"application/json"), ("caf\\xe9", None))
    assert dlq_headers(letter)["dlq.headers.escaped"] == b"true"
    assert dlq_headers(letter)["dlq.error.detail"] == b"headers: not UTF-8"


async def test_an_erasure_with_such_a_header_erases(harness: Harness) -> None:
    harness = harness.with_kafka(copy_erasures=False)
    async with running(harness):
        await put(harness, 3, a_batch(a_record(0, None, b"post-1", [(b"caf\xe9", b"")]), 1))
        (record,) = await harness.read(harness.topics[1], 1)
    assert (record.key, record.value) == (b"post-1", None)


async def test_records_with_any_key_and_any_time_get_verdicts(harness: Harness, names: Callable[[str], str]) -> None:
    harness = harness.with_kafka(posts_topic=names("any-time"))
    await make_topics(harness.kafka, harness.topics[2], partitions=PARTITIONS)
    far = {"message_timestamp_after_max_ms": str((1 << 63) - 1)}
    await make_topics(harness.kafka, harness.topics[0], partitions=PARTITIONS, **far)
    parts = [
        a_record(0, b"{", b"\xff\xfe"),
        a_record(1, b"{", None),
        a_record(2, b"{", b""),
        a_record(3, a_value(3), b"twice", [(b"a", b"1"), (b"a", None), (b"", None)]),
    ]
    async with running(harness):
        for number, first_ms in enumerate((-1, (1 << 63) - 1, -(1 << 63))):
            await put(harness, number, a_batch(b"".join(parts), 4, first_ms=first_ms))
        verdicts = await harness.verdicts(12)
        letters = await harness.dead_letters(9)
    assert sorted(reasons(verdicts)) == [""] * 3 + ["NOT_DECODABLE"] * 9
    assert {letter.key for letter in letters} == {b"\xff\xfe", None, b""}


async def test_a_dead_letter_keeps_its_first_bytes_and_says_so(harness: Harness) -> None:
    value, key = b"{" + b"x" * (3 * MIB), b"k" * 2000
    async with running(harness.with_kafka(max_dead_letter_bytes=4096)):
        await harness.produce((0, b"key", value, [("a", b"b")]), (1, key, value, []), (2, b"key", b"{", []))
        await harness.produce((3, b"key", b"{", [("a", b"h" * 5000)]))
        letters = {letter.partition: letter for letter in await harness.dead_letters(4)}
        assert reasons(await harness.verdicts(4)) == ["NOT_DECODABLE"] * 4
    said = {"dlq.error.code": b"NOT_DECODABLE", "dlq.error.detail": b"not JSON"}
    cut = {"dlq.value.truncated": b"true"} | said | of_value(value)
    assert dlq_headers(letters[0]) == {"a": b"b"} | cut
    assert 3000 < len(letters[0].value) <= 4096
    assert value.startswith(letters[0].value)
    assert (letters[1].key, dlq_headers(letters[1])) == (None, {"dlq.key.omitted": b"true"} | cut)
    assert (letters[2].value, dlq_headers(letters[2])) == (b"{", said)
    assert dlq_headers(letters[3]) == {"dlq.headers.omitted": b"true"} | said


async def test_a_batch_that_cannot_be_read_is_named_with_the_way_around_it(harness: Harness) -> None:
    """A copy that reaches further back than any compressor's: brokers take it, and we do not hold as much."""
    partition = TopicPartition(harness.topics[0], 3)
    async with running(harness):
        await put(harness, 3, a_batch(a_record(0, a_value(0)), 1))
        await harness.verdicts(1)
    await put(harness, 3, a_far_copy())
    with pytest.raises(BaseExceptionGroup) as crash:
        async with running(harness) as task:
            await asyncio.wait([task], timeout=30)
    named = rf"{partition.topic}/3 cannot be read at offset 1: [\s\S]*--to-offset 2 --execute"
    assert crash.group_contains(DeliveryError, match=named)
    await harness.produce((3, b"key", a_value(2), []))
    group = harness.settings.kafka.group
    client = AIOKafkaConsumer(bootstrap_servers=harness.kafka, group_id=group, enable_auto_commit=False)
    async with client as operator:
        operator.assign([partition])
        await operator.commit({partition: 2})
    async with running(harness):
        assert [verdict["postId"] for verdict in await harness.verdicts(2)] == ["post-0", "post-2"]


def a_far_copy() -> bytes:
    """A record of 3 MiB in raw snappy: a literal, and at its end a copy of what stands 2 MiB before."""
    record = bytearray(a_record(0, os.urandom(3 * MIB)))
    size, end = len(record), len(record) - 8
    record[end - 2 * MIB : end - 2 * MIB + 8] = record[end:]
    body = bytes(record[:end])
    announced = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 21])
    data = announced + b"\xf8" + (len(body) - 1).to_bytes(3, "little") + body
    data += bytes([(8 - 1) << 2 | 3]) + (2 * MIB).to_bytes(4, "little")
    return a_batch(data, 1, attributes=foreign.CODECS["snappy"])


@asynccontextmanager
async def a_worker(harness: Harness, **settings: str) -> AsyncIterator[int]:
    """A worker as a process of its own. Yields its process id."""
    environment = os.environ | harness.environment | settings
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, env=environment)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.parametrize(("codec", "count", "each"), [("zstd", 60, 19), ("zstd", 150, 19), ("gzip", 20, 30)])
async def test_a_batch_of_some_kilobytes_that_becomes_gigabytes(
    harness: Harness, codec: str, count: int, each: int
) -> None:
    value = bytes(each * MIB)
    parts = (a_record(number, value, b"bomb-%d" % number) for number in range(count))
    frames = [foreign.compressed(codec, part) for part in parts]  # of which a stream may have many
    frames.append(foreign.compressed(codec, a_record(count, a_value("behind"))))
    batch = a_batch(b"".join(frames), count + 1, attributes=foreign.CODECS[codec])
    limits = {
        "MODERATION_WORKER__MAX_IN_FLIGHT_BYTES": str(64 * MIB),
        "MODERATION_KAFKA__MAX_DEAD_LETTER_BYTES": "2000",
    }
    async with a_worker(harness, **limits) as pid:
        await harness.produce((0, b"key", a_value("first"), []))
        await harness.verdicts(1)
        before = peak_mib(pid)
        await put(harness, 3, batch)
        verdicts = await harness.verdicts(count + 2, timeout=120)
        grown = peak_mib(pid) - before
    bombs = [verdict for verdict in verdicts if verdict["postId"].startswith("bomb-")]
    assert [verdict["postId"] for verdict in bombs] == [f"bomb-{number}" for number in range(count)]
    assert {verdict["postId"] for verdict in verdicts} >= {"post-first", "post-behind"}
    assert len(verdicts) == count + 2
    left_out = each > 20
    assert set(reasons(bombs)) == {"RECORD_TOO_LARGE" if left_out else "NOT_DECODABLE"}
    letters = await harness.dead_letters(count)
    assert len(letters) == count
    for letter in letters:
        assert len(letter.value) == 0 if left_out else 1000 < len(letter.value) <= 2000
        assert dlq_headers(letter).items() >= of_value(value).items()
        assert dlq_headers(letter)["dlq.value.omitted" if left_out else "dlq.value.truncated"] == b"true"
    print(f"{codec}: {len(batch) >> 10} KiB, {count * each} MiB decompressed: memory grew by {grown:.0f} MiB")
    assert grown < 300, f"by {grown:.0f} MiB, of {count * each} decompressed"


async def test_values_of_very_many_elements_hold_up_no_partition(harness: Harness) -> None:
    """24 records of some megabytes in two partitions; the others are answered meanwhile."""
    hostile = [
        b'{"id":"a","x":[' + b"0," * (2 * MIB - 100) + b"0]}",
        b"[" * (4 * MIB - 1000),
        b'{"id":"a","images":[' + b"{}," * MIB + b"{}]}",
        b"{" + b'"a":0,' * (MIB // 2) + b'"id":"a"}',
    ]
    async with running(harness):
        await harness.post(6)
        await harness.verdicts(6)
        await harness.produce(
            *((number % 2, b"hostile", hostile[number % 4][: 4 * MIB - 1000], []) for number in range(24))
        )
        async with asyncio.timeout(30):
            verdicts = await harness.verdicts(30)
    assert sorted(reasons(verdicts)) == [""] * 6 + ["NOT_DECODABLE"] * 24
