"""The ids of topics, which tell a topic from one of the same name that was deleted before.

Offsets can be compared within one life of a topic only. aiokafka reads metadata without ids, so the request is ours.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Collection
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaTimeoutError, NoError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from moderation.kafka.requests import Uuid, response_to

RESPONSE_S = 5.0  # for a broker to respond

_ID = re.compile(r"[A-Za-z0-9_-]{21}[AEIMQUYcgkosw048]")  # 128 bits; the last character holds four of them
_PLAIN = str.maketrans("+/", "-_")
_NONE = bytes(16)  # of a topic that is not there, or on brokers before Kafka 2.8


def is_topic_id(text: str) -> bool:
    """Whether a text is an id as Kafka prints it: base64url, 22 characters."""
    return _ID.fullmatch(text) is not None


def as_printed(id: str) -> str:
    """The id as Kafka prints it. Some clients print the alphabet of plain base64, and its padding."""
    return id.removesuffix("==").translate(_PLAIN)


async def topic_ids(client: AIOKafkaClient, names: Collection[str], node: int | None = None) -> dict[str, str]:
    """Returns the id of each topic that is there, as Kafka prints it. Creates no topic.

    `node`: the broker that is asked; None: any. A broker may know of a topic a little later than another one. A topic
    is left out where it does not exist, and where brokers know no ids (before Kafka 2.8). Raises KafkaError.
    """
    node = client.get_random_node() if node is None else node
    response = await response_to(client, node, TopicIdsRequest(names))
    if response is None:
        return {}
    ids: dict[str, str] = {}
    for code, name, id, *_ in response.topics:
        error = for_code(code)
        if error is not NoError and not error.retriable:
            raise error(name)
        if error is NoError and id != _NONE:
            ids[name] = base64.urlsafe_b64encode(id).decode().rstrip("=")
    return ids


class TopicIdsResponse_v10(Response):  # type: ignore[misc]
    """Metadata of the cluster, version 10: the first with ids of topics."""

    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class TopicIdsRequest_v10(RequestStruct):  # type: ignore[misc]
    """A request for metadata of topics, version 10."""

    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TopicIdsResponse_v10
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicIdsRequest(Request[TopicIdsRequest_v10]):  # type: ignore[misc]
    """A request for metadata of topics by name. The broker creates no topic for it."""

    API_KEY = 3

    def __init__(self, names: Collection[str]) -> None:
        self._topics: list[tuple[bytes, str, dict[int, bytes]]] = [(_NONE, name, {}) for name in names]

    def build(self, request_struct_class: type[TopicIdsRequest_v10]) -> Any:
        """See aiokafka's Request."""
        return request_struct_class(self._topics, False, False, False, {})


class IdsAsker:
    """Asks for the ids of some topics. Callers at the same time share a request that begins after all their calls."""

    def __init__(self, client: AIOKafkaClient, names: Collection[str]) -> None:
        self._client = client
        self._names = names
        self._running: dict[int | None, asyncio.Task[dict[str, str]]] = {}  # by broker
        self._queued: dict[int | None, asyncio.Task[dict[str, str]]] = {}

    async def ask(self, node: int | None = None) -> dict[str, str]:
        """Returns the ids as they are now. `node`: as of `topic_ids`. Raises KafkaError."""
        if node not in self._queued:
            self._queued[node] = asyncio.create_task(self._request(node, self._running.get(node)))
            self._queued[node].add_done_callback(_seen)
        return await asyncio.shield(self._queued[node])

    async def _request(self, node: int | None, before: asyncio.Task[dict[str, str]] | None) -> dict[str, str]:
        if before is not None:
            await asyncio.wait([before])
        self._running[node] = self._queued.pop(node)  # who asks from here on needs the next request
        try:
            async with asyncio.timeout(RESPONSE_S):
                return await topic_ids(self._client, self._names, node)
        except TimeoutError:
            raise KafkaTimeoutError(f"no ids of topics within {RESPONSE_S:g} s") from None


def _seen(task: asyncio.Task[dict[str, str]]) -> None:
    """Marks an error as seen: all that asked may have left."""
    if not task.cancelled():
        task.exception()
