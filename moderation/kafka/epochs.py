"""Where the log of an earlier leader ends, which shows whether an election of a leader has cut the log (KIP-320).

aiokafka does not ask for it, so the request is ours.
"""

from __future__ import annotations

from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NoError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Int64, Schema, String

from moderation.kafka.requests import response_to

ANY = -1


async def end_of_epoch(client: AIOKafkaClient, partition: TopicPartition, epoch: int, leader: int) -> int | None:
    """Returns the first offset behind what this leader's epoch, and earlier ones, left in the log; None: unknown.

    `leader`: the broker that is asked. Raises KafkaError.
    """
    response = await response_to(client, leader, EpochEndRequest(partition, epoch))
    if response is None:
        return None
    ((_, ((code, _, _, end),)),) = response.topics
    if (error := for_code(code)) is not NoError:
        raise error(partition.topic)
    return int(end) if end >= 0 else None


class EpochEndResponse_v3(Response):  # type: ignore[misc]
    """Ends of epochs, version 3: the first for which a right to describe the topic is enough."""

    API_KEY = 23
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(("error_code", Int16), ("partition", Int32), ("leader_epoch", Int32), ("end_offset", Int64)),
                ),
            ),
        ),
    )


class EpochEndRequest_v3(RequestStruct):  # type: ignore[misc]
    """A request for the ends of epochs, version 3."""

    API_KEY = 23
    API_VERSION = 3
    RESPONSE_TYPE = EpochEndResponse_v3
    SCHEMA = Schema(
        ("replica_id", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                ("partitions", Array(("partition", Int32), ("current_leader_epoch", Int32), ("leader_epoch", Int32))),
            ),
        ),
    )


class EpochEndRequest(Request[EpochEndRequest_v3]):  # type: ignore[misc]
    """A request for the end of an epoch in one partition, as a consumer asks it."""

    API_KEY = 23

    def __init__(self, partition: TopicPartition, epoch: int) -> None:
        self._topics = [(partition.topic, [(partition.partition, ANY, epoch)])]

    def build(self, request_struct_class: type[EpochEndRequest_v3]) -> Any:
        """See aiokafka's Request."""
        return request_struct_class(ANY, self._topics)
