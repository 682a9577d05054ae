"""A member of a share group, which aiokafka cannot join."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

TEXT = CompactString("utf-8")


class ShareReply(Response):  # type: ignore[misc]
    API_KEY = 76
    API_VERSION = 1
    SCHEMA = Schema(("throttle_time_ms", Int32), ("error_code", Int16), ("error_message", TEXT))  # the rest is not read


class ShareHeartbeatStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 76
    API_VERSION = 1
    RESPONSE_TYPE = ShareReply
    SCHEMA = Schema(
        ("group", TEXT),
        ("member", TEXT),
        ("epoch", Int32),
        ("rack", TEXT),
        ("topics", CompactArray(TEXT)),
        ("tags", TaggedFields),
    )


class ShareHeartbeat(Request[ShareHeartbeatStruct]):  # type: ignore[misc]
    API_KEY = 76

    def __init__(self, group: str, topic: str) -> None:
        self._values: tuple[Any, ...] = (group, str(uuid4()), 0, None, [topic], {})

    def build(self, struct: type[ShareHeartbeatStruct]) -> ShareHeartbeatStruct:
        return struct(*self._values)


async def join_share_group(kafka: str, group: str, topic: str) -> None:
    """A member joins the group. It never leaves: the brokers forget it after its session."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        reply = await admin._send_request(ShareHeartbeat(group, topic))
    finally:
        await admin.close()
    assert reply.error_code == 0, reply
