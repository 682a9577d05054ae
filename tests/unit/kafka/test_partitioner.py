"""The partition of a key is the one that Java's client, librdkafka's murmur2 and aiokafka choose."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner

from moderation.kafka.partitioner import partition_of

# Hashes of Kafka's own test, UtilsTest.testMurmur2: signed 32 bits.
HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "hash"), HASHES.items())
@pytest.mark.parametrize("partitions", [1, 3, 6, 50])
def test_a_key_goes_where_javas_client_puts_it(key: bytes, hash: int, partitions: int) -> None:
    assert partition_of(key, partitions) == (hash & 0x7FFFFFFF) % partitions
    assert partition_of(key, partitions) == DefaultPartitioner()(key, list(range(partitions)), [])


def test_the_issue_of_erasures_on_another_partition() -> None:
    """Of three partitions, librdkafka's CRC32 chooses 0."""
    assert partition_of(b"shop-1", 3) == 2
