"""A publisher for brokers without transactions. It publishes first and commits the offset afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from moderation.errors import ModerationError
from moderation.kafka import clients, refusals
from moderation.kafka.broker_clock import BrokerClock
from moderation.settings import KafkaSettings
from moderation.worker import offset_metadata
from moderation.worker.messages import Message
from moderation.worker.opening import Opening
from moderation.worker.publisher import BATCH_BYTES, NO_MARK, Publisher
from moderation.worker.suspects import Mark


class AtLeastOnce(Publisher):
    """Publishes without fence and transaction. It promises less than Publisher:

    - Each record gets one outcome or more, never none.
    - A record gets more than one outcome if a worker dies, or loses its partition, between publishing and committing
      (up to partition.MAX_POSTS posts a partition), or if a broker's reply is lost (aiokafka then sends again).
    - Repeated verdicts are equal: the next worker takes them from the verdict cache.

    Two verdicts may contradict each other, or be out of order, in two cases:

    - A worker that was cut off, and does not know it yet, writes after the next worker has filled its cache. This ends
      when the commit is refused: the group knows the generation of its members.
    - The first verdict is no longer in the cache, and the model scores the same post differently.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        partition: int,
        find_position: Callable[[], Awaitable[Opening]],
        commit: Callable[[int, str], Awaitable[None]],
        clock: BrokerClock | None = None,
    ) -> None:
        """`commit`: commits a position and its metadata, as a member of the group in the current generation."""
        super().__init__(settings, partition, find_position, clock)
        self._commit = commit

    async def publish(self, messages: Sequence[Message], position: int, mark: Mark = NO_MARK) -> None:
        """Sends the messages, in this order, and then commits `position`: the first offset after the messages' posts.

        `mark` is stored with the position.

        Raises DeliveryError if the commit may have failed, and ConfigError if a right is missing or a topic refuses
        even small records.
        """
        try:
            async with asyncio.timeout(self._settings.transaction_timeout_ms / 1000):
                await self._send_copies(messages, position)
                for run in _runs([message for message in messages if message.partition is None]):
                    while refused := await self._send_all([self._fitting(message) for message in run]):
                        self._learn(refused)
                await self._commit(position, offset_metadata.write(position, mark, self.log))
                self.position = position
        except ModerationError:
            raise
        except Exception as error:  # aiokafka raises errors of any kind
            what = f"publishing or committing {self._settings.posts_topic}/{self._partition} up to offset {position}"
            failure = refusals.failure(self._settings, f"{what} has failed", error, self._producer)
            raise failure from error

    async def _start(self) -> None:
        self._producer = self._plain()
        await clients.connected(self._producer.start, self._settings)

    async def _catch_up(self) -> None:
        """Does nothing: an offset could not be aborted without a transaction."""


def _runs(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Groups messages to send together. A message that may be refused goes alone, so that no later one overtakes it."""
    run: list[Message] = []
    for message in messages:
        if message.size <= BATCH_BYTES:
            run.append(message)
            continue
        yield from ([run] if run else [])
        yield [message]
        run = []
    yield from ([run] if run else [])
