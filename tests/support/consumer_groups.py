"""A member of a consumer group by the protocol of KIP-848, which aiokafka does not speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from moderation.kafka.requests import Uuid

TEXT = CompactString("utf-8")
PARTITIONS = CompactArray(("id", Uuid), ("partitions", CompactArray(Int32)), ("tags", TaggedFields))
LEAVES = -1  # an epoch


class Reply(Response):  # type: ignore[misc]
    API_KEY = 68
    API_VERSION = 0
    SCHEMA = Schema(  # the rest is not read
        ("throttle_time_ms", Int32), ("error_code", Int16), ("error_message", TEXT), ("member", TEXT), ("epoch", Int32)
    )


class HeartbeatStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 68
    API_VERSION = 0
    RESPONSE_TYPE = Reply
    SCHEMA = Schema(
        ("group", TEXT),
        ("member", TEXT),
        ("epoch", Int32),
        ("instance", TEXT),
        ("rack", TEXT),
        ("rebalance_timeout_ms", Int32),
        ("topics", CompactArray(TEXT)),
        ("assignor", TEXT),
        ("partitions", PARTITIONS),
        ("tags", TaggedFields),
    )


class Heartbeat(Request[HeartbeatStruct]):  # type: ignore[misc]
    API_KEY = 68

    def __init__(self, group: str, member: str, epoch: int, topic: str) -> None:
        self._values: tuple[Any, ...] = (group, member, epoch, None, None, 10_000, [topic], None, [], {})

    def build(self, struct: type[HeartbeatStruct]) -> HeartbeatStruct:
        return struct(*self._values)


@asynccontextmanager
async def new_member(kafka: str, group: str, topic: str, client_id: str) -> AsyncIterator[None]:
    """A member joins, takes what it is given and reads nothing. It leaves at the end."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka, client_id=client_id)
    await admin.start()
    try:
        coordinator = await admin.find_coordinator(group)

        async def heartbeat(member: str, epoch: int) -> Any:
            reply = await admin._send_request(Heartbeat(group, member, epoch, topic), coordinator)
            assert reply.error_code == 0, reply
            return reply

        async def stay(reply: Any) -> None:
            while True:
                await asyncio.sleep(0.5)
                reply = await heartbeat(reply.member, reply.epoch)

        joined = await heartbeat("", 0)
        staying = asyncio.create_task(stay(joined))
        try:
            yield
        finally:
            staying.cancel()
            await heartbeat(joined.member, LEAVES)
    finally:
        await admin.close()
