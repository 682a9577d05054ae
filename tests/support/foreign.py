"""Batches as a foreign client may write them, byte by byte, and a way to put them on a topic."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c, encode_varint

from moderation.kafka.decompression import GZIP, LZ4, NONE, SNAPPY, ZSTD

CODECS = {"none": NONE, "gzip": GZIP, "snappy": SNAPPY, "raw snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
UNKNOWN_TOPIC, NO_LEADER, NOT_LEADER = 3, 5, 6  # error codes of a broker
NOW_MS = 1_764_000_000_000

Headers = Sequence[tuple[bytes | None, bytes | None]]


def compressed(codec: str, data: bytes) -> bytes:
    if codec == "none":
        return data
    encode = {
        "gzip": gzip_encode,
        "snappy": snappy_encode,
        "raw snappy": lambda data: snappy_encode(data, xerial_compatible=False),
        "lz4": lz4_encode,
        "zstd": zstd_encode,
    }[codec]
    return bytes(encode(data))


def a_record(
    offset: int, value: bytes | None, key: bytes | None = b"key", headers: Headers = (), since_ms: int = 0
) -> bytes:
    """A record in a batch, at this offset from its first."""
    body = bytearray(b"\x00") + _varint(since_ms) + _varint(offset) + _sized(key) + _sized(value)
    body += _varint(len(headers))
    encoded = {header: b"".join(map(_sized, header)) for header in set(headers)}  # some have a million times the same
    body += b"".join(encoded[header] for header in headers)
    return bytes(_varint(len(body)) + body)


def a_batch(
    records: bytes,
    count: int,
    codec: str = "none",
    *,
    base: int = 0,
    first_ms: int = NOW_MS,
    attributes: int = 0,
    last: int | None = None,
) -> bytes:
    """A batch of format 2 with `count` records, or what is given as such. last: offset of its last one, from `base`."""
    data = compressed(codec, records) if records else b""
    last = count - 1 if last is None else last
    covered = struct.pack(">hiqqqhii", attributes | CODECS[codec], last, first_ms, first_ms, -1, -1, -1, count) + data
    head = struct.pack(">qiibI", base, 9 + len(covered), 0, 2, calc_crc32c(covered))
    return head + covered


async def put(kafka: str, partition: TopicPartition, batch: bytes) -> int:
    """Puts a batch on a topic as it is. Returns the error code of the broker, once it is the partition's leader."""
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    try:
        request = ProduceRequest(None, -1, 60_000, [(partition.topic, [(partition.partition, batch)])])
        code = UNKNOWN_TOPIC
        async with asyncio.timeout(30):
            while code in (UNKNOWN_TOPIC, NO_LEADER, NOT_LEADER):  # of a topic that is new
                await client.set_topics([partition.topic])
                await client.force_metadata_update()
                answer = await client.send(client.cluster.leader_for_partition(partition), request)
                ((_, ((_, code, *_),)),) = answer.topics
        return int(code)
    finally:
        await client.close()


def _varint(value: int) -> bytearray:
    found = bytearray()
    encode_varint(value, found.append)
    return found


def _sized(data: bytes | None) -> bytes:
    return bytes(_varint(-1)) if data is None else bytes(_varint(len(data))) + data
