"""Looks whether others than workers of this service are in the consumer group, and says who.

Brokers let any consumer join that knows the same assignor, and any of the protocol of KIP-848. It gets partitions as a
worker does. The workers go on with what is left: ending all of them would help nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog
from aiokafka.errors import KafkaError

from moderation.kafka.consumer import Consumer
from moderation.kafka.group_members import Member, is_worker, members
from moderation.observability import metrics
from moderation.settings import KafkaSettings

LOOK_S = 15.0  # between two looks
RESPONSE_S = 5.0  # for a broker to respond
SHOWN = 100  # characters of a foreign client id

log = structlog.get_logger()


class GroupWatch:
    """Counts foreign members. Logs each when it comes, and when it holds more partitions than before."""

    def __init__(self, consumer: Consumer, settings: KafkaSettings) -> None:
        self._consumer = consumer
        self._settings = settings
        self._named: dict[tuple[str, str], int] = {}  # client id and host of foreign members, and what they hold

    async def run(self) -> None:
        """Looks every LOOK_S, until cancelled."""
        while True:
            pause = LOOK_S
            try:
                async with asyncio.timeout(RESPONSE_S):
                    self.show(await members(self._consumer, self._settings.group, self._settings.posts_topic))
            except (KafkaError, TimeoutError):
                pause = min(RESPONSE_S, LOOK_S)  # at the start, no coordinator is known yet
            await asyncio.sleep(pause)

    def show(self, members: Collection[Member]) -> None:
        """Sets the metric and logs."""
        topics = self._settings.posts_topic, self._settings.verdicts_topic
        foreign = [member for member in members if not is_worker(member, *topics)]
        metrics.FOREIGN_MEMBERS.set(len(foreign))
        held: dict[tuple[str, str], int] = {}
        for member in foreign:
            name = member.client_id[:SHOWN], member.host
            held[name] = held.get(name, 0) + member.partitions
        for (client_id, host), partitions in held.items():
            if partitions > self._named.get((client_id, host), -1):
                log.error(
                    "group_shared", group=self._settings.group, client_id=client_id, host=host, partitions=partitions
                )
        self._named = held
