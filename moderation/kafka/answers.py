"""When a broker last answered this process.

A consumer's own requests fail and are repeated without a word while no broker answers. What it has read stays there,
so that nothing else shows that Kafka is away.
"""

from __future__ import annotations

import asyncio
import math
import time

from moderation.kafka.consumer import Consumer
from moderation.observability import metrics

LOOK_S = 0.5


async def follow(consumer: Consumer) -> None:
    """Sets the gauge of the brokers' last answer until cancelled. The consumer has started.

    Counts an answer of any broker to any request. The group's heartbeats and requests for the ends of partitions are
    made also while the consumer is paused, or has no partitions.
    """
    last = time.monotonic()  # the consumer could not start without an answer
    metrics.KAFKA_ANSWER_AGE.set_function(lambda: time.monotonic() - last)  # grows also while the event loop is stuck
    try:
        while True:
            last = max([last, *(connection._last_action for connection in consumer._client._conns.values())])
            await asyncio.sleep(LOOK_S)
    finally:
        metrics.KAFKA_ANSWER_AGE.set_function(lambda: math.nan)
