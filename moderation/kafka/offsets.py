"""What a consumer group has committed, as its coordinator says."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, NotCoordinatorForGroupError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest

COORDINATOR_RETRY_S = 0.1  # before a coordinator is asked again


class Committed(NamedTuple):
    """What a group has committed for a partition."""

    offset: int
    metadata: str  # as it was committed with the offset, by any tool


async def committed(consumer: AIOKafkaConsumer, partition: TopicPartition) -> Committed | None:
    """Returns the group's offset; None if it has none. Asks until the coordinator answers.

    Raises KafkaError if the coordinator refuses.

    Replaces the consumer's own method, which reads the errors of partitions and not the error of the group. That method
    takes a coordinator that is loading, or has moved, for a group without offsets. Then all posts of the partition
    would be moderated again.
    """
    coordinator = consumer._coordinator
    while True:
        try:
            await coordinator.ensure_coordinator_known()
            asked = [(partition.topic, [partition.partition])]
            response = await coordinator._send_req(OffsetFetchRequest(coordinator.group_id, asked))
            nothing = [(partition.topic, [(partition.partition, -1, "", 0)])]
            ((_, ((_, offset, metadata, code),)),) = response.topics or nothing
            if code := getattr(response, "error_code", 0) or code:
                raise for_code(code)
        except KafkaError as error:
            if not error.retriable:
                raise
            if isinstance(error, NotCoordinatorForGroupError):
                coordinator.coordinator_dead()
            await asyncio.sleep(COORDINATOR_RETRY_S)
        else:
            return None if offset < 0 else Committed(int(offset), metadata or "")
