"""Where partitions end, as their leaders report now.

A consumer reads up to the last stable offset: the first record of a transaction that is still open. The log goes on to
the high watermark. aiokafka asks for one of the two.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED
from aiokafka.errors import KafkaError, LeaderNotAvailableError, for_code
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy

from moderation.kafka.consumer import Consumer

RESPONSE_S = 5.0  # for a broker to respond

Partitions = dict[str, list[tuple[int, int]]]  # number and wanted offset, by topic


class Ends(NamedTuple):
    """Where one partition ends."""

    stable: int  # the last stable offset: no consumer of committed records has read this or a later record
    high: int  # the high watermark: the offset of the next record

    @property
    def unstable(self) -> int:
        """Offsets behind the last stable offset: records of open transactions, and all that came after them."""
        return max(0, self.high - self.stable)


async def ends(consumer: Consumer, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Ends]:
    """Asks the leaders. Leaves out a partition whose leader is not known, refuses, or does not respond in RESPONSE_S.

    Without partitions it asks any broker for metadata: then this, too, shows whether the brokers respond.
    """
    client = consumer._client
    by_leader: dict[int, Partitions] = defaultdict(lambda: defaultdict(list))
    for topic, number in partitions:
        leader = client.cluster.leader_for_partition(TopicPartition(topic, number))
        if leader is None or leader < 0:
            client.add_topic(topic)
            client.force_metadata_update()
        else:
            by_leader[leader][topic].append((number, OffsetResetStrategy.LATEST))
    if not by_leader:
        client.force_metadata_update()
    # The stable offsets are asked for last: a transaction that ends between the two leaves nothing behind them.
    high = await _latest(client, by_leader, READ_UNCOMMITTED)
    stable = await _latest(client, by_leader, READ_COMMITTED)
    return {each: Ends(offset, max(offset, high[each])) for each, offset in stable.items() if each in high}


async def all_ends(consumer: Consumer, partitions: Collection[TopicPartition]) -> dict[int, Ends]:
    """The ends of partitions of one topic, by number. Raises LeaderNotAvailableError unless all are reported."""
    known = await ends(consumer, partitions)
    if len(known) < len(partitions):
        raise LeaderNotAvailableError
    return {partition.partition: end for partition, end in known.items()}


async def _latest(client: Any, by_leader: dict[int, Partitions], isolation: int) -> dict[TopicPartition, int]:
    asked = [_ask(client, leader, topics, isolation) for leader, topics in by_leader.items()]
    return {each: offset for answer in await asyncio.gather(*asked) for each, offset in answer.items()}


async def _ask(client: Any, leader: int, topics: Partitions, isolation: int) -> dict[TopicPartition, int]:
    offsets: dict[TopicPartition, int] = {}
    try:
        async with asyncio.timeout(RESPONSE_S):
            response = await client.send(leader, OffsetRequest(-1, isolation, list(topics.items())))
    except (KafkaError, OSError, TimeoutError):
        client.force_metadata_update()  # the leader may have moved
        return offsets
    for topic, answers in response.topics:
        for number, code, _, offset in answers:
            if not code:
                offsets[TopicPartition(topic, number)] = offset
            elif getattr(for_code(code), "invalid_metadata", False):
                client.force_metadata_update()
    return offsets
