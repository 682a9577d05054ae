"""Looks whether the posts topic is still the one that is read. A topic that was made again has the same name.

aiokafka fetches by the name of a topic, so that a position of the old log would be used on the new one.
"""

from __future__ import annotations

import asyncio

import structlog
from aiokafka.errors import KafkaError

from moderation.kafka.consumer import Consumer
from moderation.kafka.topic_ids import topic_ids
from moderation.worker.assignments import Assignments

LOOK_S = 2.0  # between two looks

log = structlog.get_logger()


class TopicWatch:
    """Reopens the partitions of a worker when another topic has the name."""

    def __init__(self, consumer: Consumer, topic: str, assignments: Assignments) -> None:
        self._consumer = consumer
        self._topic = topic
        self._assignments = assignments

    async def run(self) -> None:
        """Looks every LOOK_S, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(LOOK_S):
                    id = (await topic_ids(self._consumer._client, [self._topic])).get(self._topic)
            except (KafkaError, TimeoutError):
                continue  # the next look may reach a broker; without one, nothing is read either
            if id is not None:
                self._check(id)

    def _check(self, id: str) -> None:
        for partition, assigned in tuple(self._assignments.partitions.items()):
            if assigned.open and assigned.topic_id not in ("", id):
                log.warning("posts_topic_replaced", partition=partition.partition)
                self._assignments.reopen(partition)
