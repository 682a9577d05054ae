"""The brokers' clock, as far as this process knows it.

Ages of records are differences between two moments. Records carry times of the brokers or of their producers, and this
process has a clock of its own; each of them may be wrong. So the brokers' clock is measured against
time.perf_counter, which no operator and no NTP sets, by answers that carry the brokers' time:

- the coordinator's time of the start of a transaction of our own (DescribeTransactions, brokers from 3.0);
- the leader's time of a record, on a topic with message.timestamp.type=LogAppendTime, written or read.

An answer counts within the local times of its request and its response. A wrong wall clock changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

EVERY_S = 60.0  # between two questions for the coordinator's time
DRIFT = 2e-4  # by which two clocks may run apart
BROKERS_S = 1.0  # by which the clocks of two brokers may differ
USABLE_S = 5.0  # largest error of a clock that is known
MILLISECOND = 0.001  # brokers cut off what is less
BEGINNINGS = (AddPartitionsToTxnRequest, AddOffsetsToTxnRequest)  # the first of a transaction begins it


class BrokerClock:
    """Bounds of the brokers' time minus time.perf_counter, in seconds. Newer answers count, older ones fade."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, wall: Callable[[], float] | None = None) -> None:
        """clock: the local one that is measured. wall: the one whose skew is shown; None: time.time."""
        self._clock = clock
        self._wall = wall or time.time
        self._low, self._high, self._at = -math.inf, math.inf, 0.0
        self._asked = -math.inf

    def due(self) -> bool:
        """Whether to ask a coordinator again. The caller does if this returns True."""
        if (now := self._clock()) - self._asked < EVERY_S:
            return False
        self._asked = now
        return True

    def observe(self, time_ms: int, sent: float, received: float) -> None:
        """Notes that a broker's clock showed `time_ms` between `sent` and `received`, which are of time.perf_counter.

        `sent` may be -inf: then the answer shows only that the brokers' clock is not behind it.
        """
        low, high = time_ms / 1000 - received, time_ms / 1000 + MILLISECOND - sent
        drift = max(0.0, received - self._at) * DRIFT
        low_before, high_before = self._low - drift, self._high + drift
        apart = max(low - high_before, low_before - high)
        if apart <= 0:
            low, high = max(low, low_before), min(high, high_before)
        elif apart <= BROKERS_S and high_before - low_before < high - low:
            low, high = low_before, high_before  # the better known of two brokers
        self._low, self._high, self._at = low, high, received  # farther apart, a clock was set: the newer one counts

    @property
    def error_s(self) -> float:
        """The most by which `offset` may be wrong; inf: nothing is known."""
        return (self._high - self._low) / 2 + max(0.0, self._clock() - self._at) * DRIFT

    @property
    def known(self) -> bool:
        """Whether the brokers' clock is known to USABLE_S."""
        return self.error_s <= USABLE_S

    @property
    def offset(self) -> float:
        """The brokers' time minus time.perf_counter. While it is not known: the wall clock's, within the bounds."""
        if self.known:
            return (self._low + self._high) / 2
        return min(max(self._wall() - self._clock(), self._low), self._high)

    @property
    def skew_s(self) -> float:
        """This process's wall clock minus the brokers' clock. NaN: unknown."""
        return self._wall() - self._clock() - self.offset if self.known else math.nan


class _Described(Response):  # type: ignore[misc]
    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("state", CompactString("utf-8")),
                ("timeout_ms", Int32),
                ("start_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")),
                        ("partitions", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Describe(RequestStruct):  # type: ignore[misc]
    API_KEY = 65
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Described
    SCHEMA = Schema(("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields))


class _DescribeTransactions(Request[_Describe]):  # type: ignore[misc]
    API_KEY = 65

    def __init__(self, transactional_id: str) -> None:
        self._id = transactional_id

    def build(self, request_struct_class: type[_Describe]) -> _Describe:
        return request_struct_class([self._id], {})


def begins(request: object, response: Any) -> bool:
    """Whether this request has begun a transaction, or was part of one that had begun."""
    if not isinstance(request, BEGINNINGS):
        return False
    if isinstance(request, AddOffsetsToTxnRequest):
        return not response.error_code
    return all(not code for _, partitions in response.errors for _, code in partitions)


async def transaction_start_ms(send: Callable[..., Any], producer: Any) -> int:
    """Returns when the producer's present transaction, or its last one, began, by its coordinator's clock.

    `send`: the producer's client's. Needs Describe on the transactional id, which Write implies. Raises KafkaError, and
    what aiokafka raises where a broker is too old for the question.
    """
    coordinator = producer._sender._coordinators[CoordinationType.TRANSACTION]
    question = _DescribeTransactions(producer._txn_manager.transactional_id)
    response = await send(coordinator, question, group=ConnectionGroup.COORDINATION)
    ((code, _, _, _, start_ms, *_),) = response.transactions
    if code:
        raise for_code(code)
    return int(start_ms)
