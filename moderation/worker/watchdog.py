"""Ends the worker if a post in hand makes no progress, so that Kafka delivers the post again.

Every wait of a post has its own deadline. This deadline covers faults that no other deadline covers. It counts from the
poll to the commit, across all threads, tasks and queues.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import structlog
from aiokafka import TopicPartition

from moderation.errors import DeviceError
from moderation.observability.phases import Phase
from moderation.worker.partition import AssignedPartition

TICK_S = 1.0
EARLY = 3  # a post is reported after one third of its time

log = structlog.get_logger()


class Watchdog:
    """Checks the oldest post in hand of each partition."""

    def __init__(self, assignments: Callable[[], Mapping[TopicPartition, AssignedPartition]], timeout_s: float) -> None:
        """assignments: returns the current partitions. timeout_s: from a post's poll to its commit."""
        self._assignments = assignments
        self._timeout_s = timeout_s

    def check(self, now: float) -> None:
        """Reports each slow post once. Raises DeviceError for a post beyond its time. now: by time.monotonic."""
        for partition, assigned in self._assignments().items():
            if (oldest := assigned.oldest) is None:
                continue
            offset, post = oldest
            seconds = now - post.taken
            if seconds > self._timeout_s:
                raise DeviceError(
                    f"the post at {partition.topic}/{partition.partition} offset {offset} has been in hand for "
                    f"{seconds:.0f} s, in phase {post.phase}: the process ends, and Kafka delivers the post again. "
                    "If the model is only slow, lower MODERATION_WORKER__MAX_IN_FLIGHT or raise "
                    "MODERATION_WORKER__POST_TIMEOUT_S"
                )
            if seconds > self._timeout_s / EARLY and not post.reported and post.phase is not Phase.OUTAGE:
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
        """Checks every TICK_S until cancelled. Raises DeviceError."""
        while True:
            await asyncio.sleep(TICK_S)
            self.check(time.monotonic())
