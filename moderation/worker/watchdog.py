"""Ends the worker when a post in hand gets nowhere, so that Kafka delivers it again.

Every wait on a post's way has a deadline of its own. This one is above them all: it holds for whatever nobody thought
of. It counts from the poll to the commit, and no hand-over between threads, tasks and queues can stop its clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import structlog
from aiokafka import TopicPartition

from moderation.errors import DeviceError
from moderation.worker.partition import AssignedPartition

TICK_S = 1.0
EARLY = 3  # a post is reported at this part of its time

log = structlog.get_logger()


class Watchdog:
    """Looks at the oldest post in hand of each partition."""

    def __init__(self, assignments: Callable[[], Mapping[TopicPartition, AssignedPartition]], timeout_s: float) -> None:
        """lanes: the partitions as they are now. timeout_s: from a post's poll to its commit."""
        self._assignments = assignments
        self._timeout_s = timeout_s

    def look(self, now: float) -> None:
        """Reports each post that takes long, once. Raises DeviceError for one that takes too long.

        now: by time.monotonic.
        """
        for partition, assigned in self._assignments().items():
            if (oldest := assigned.oldest) is None:
                continue
            offset, post = oldest
            seconds = now - post.taken
            if seconds > self._timeout_s:
                raise DeviceError(
                    f"the post at {partition.topic}/{partition.partition} offset {offset} has been in hand for "
                    f"{seconds:.0f} s, and stands at {post.phase}: the process ends, and Kafka delivers it again. "
                    "If the model is merely slow, lower MODERATION_WORKER__MAX_IN_FLIGHT or raise "
                    "MODERATION_WORKER__POST_TIMEOUT_S"
                )
            if seconds > self._timeout_s / EARLY and not post.reported:
                post.reported = True
                log.error(
                    "post_overdue",
                    partition=partition.partition,
                    offset=offset,
                    phase=post.phase,
                    seconds=round(seconds),
                    phases={str(phase): count for phase, count in assigned.phases.items()},
                )

    async def run(self) -> NoReturn:
        """Looks every TICK_S until cancelled. Raises DeviceError."""
        while True:
            await asyncio.sleep(TICK_S)
            self.look(time.monotonic())
