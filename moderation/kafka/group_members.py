"""Who is in the workers' consumer group. What a member holds that is no worker of this service, nobody judges.

Brokers describe a group of classic members by one request, and a group with a member of the protocol of KIP-848 by
another one, which aiokafka lacks. Classic members can be in both.
"""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import NoError, TopicAuthorizationFailedError, for_code
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

import moderation
from moderation.kafka.consumer import Consumer
from moderation.kafka.requests import Uuid, response_to

NO_SUCH_GROUP = 69  # of the kind that the request is about

_WORKER = re.compile(r"moderation-\d[^/]*(?:/(.*))?")  # older versions do not name their verdicts topic
_TEXT = CompactString("utf-8")


class Member(NamedTuple):
    """A member of a group, as far as the brokers tell."""

    client_id: str
    host: str
    topics: frozenset[str]  # that it has subscribed to; empty: unknown
    partitions: int  # that it holds of the topic that was asked about


HIDDEN = Member("", "", frozenset(), 0)  # reads topics that our user may not see, so that brokers do not name it


def client_id(verdicts_topic: str) -> str:
    """The client id of a worker's member."""
    return f"moderation-{moderation.__version__}/{verdicts_topic}"


def is_worker(member: Member, posts_topic: str, verdicts_topic: str) -> bool:
    """Whether a member is a worker, of any version, between these topics."""
    match = _WORKER.fullmatch(member.client_id)
    if match is None or match[1] not in (None, verdicts_topic):
        return False
    return not member.topics or posts_topic in member.topics


async def members(consumer: Consumer, group: str, topic: str) -> list[Member]:
    """Returns the members; `topic`: whose partitions are counted. Needs Describe on the group, which Read implies.

    Raises KafkaError, and TimeoutError while no coordinator is known.
    """
    coordinator = consumer._coordinator.coordinator_id
    if coordinator is None:
        raise TimeoutError
    response = await consumer._client.send(coordinator, DescribeGroupsRequest([group]))
    ((code, _, _, _, _, rows, *_),) = response.groups
    if code not in (NoError.errno, NO_SUCH_GROUP):
        raise for_code(code)
    if rows:
        return [_classic(row, topic) for row in rows]
    response = await response_to(consumer._client, coordinator, ConsumerGroupRequest(group))
    if response is None:  # no such groups there
        return []
    ((code, _, _, _, _, _, _, rows, *_),) = response.groups
    if code == TopicAuthorizationFailedError.errno:
        return [HIDDEN]
    if code not in (NoError.errno, NO_SUCH_GROUP):
        raise for_code(code)
    return [_member(row, topic) for row in rows]


def _classic(row: tuple[Any, ...], topic: str) -> Member:
    _, client_id, host, metadata, assignment = row
    try:
        topics = ConsumerProtocolMemberMetadata.decode(metadata).subscription if metadata else ()
        held = ConsumerProtocolMemberAssignment.decode(assignment).partitions() if assignment else ()
    except (ValueError, struct.error):  # bytes of a foreign client
        topics, held = (), ()
    count = sum(partition.topic == topic for partition in held)
    return Member(client_id, host.removeprefix("/"), frozenset(topics), count)


def _member(row: tuple[Any, ...], topic: str) -> Member:
    _, _, _, _, client_id, host, topics, _, (held, _), *_ = row
    count = sum(len(partitions) for _, name, partitions, _ in held if name == topic)
    return Member(client_id, host.removeprefix("/"), frozenset(topics), count)


_ASSIGNMENT = Schema(
    (
        "topics",
        CompactArray(("id", Uuid), ("topic", _TEXT), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
    ),
    ("tags", TaggedFields),
)
_MEMBER = (
    ("member_id", _TEXT),
    ("instance_id", _TEXT),
    ("rack", _TEXT),
    ("epoch", Int32),
    ("client_id", _TEXT),
    ("host", _TEXT),
    ("topics", CompactArray(_TEXT)),
    ("regex", _TEXT),
    ("assignment", _ASSIGNMENT),
    ("target", _ASSIGNMENT),
    ("tags", TaggedFields),
)
_GROUP = (
    ("error_code", Int16),
    ("error_message", _TEXT),
    ("group", _TEXT),
    ("state", _TEXT),
    ("epoch", Int32),
    ("assignment_epoch", Int32),
    ("assignor", _TEXT),
    ("members", CompactArray(*_MEMBER)),
    ("authorized_operations", Int32),
    ("tags", TaggedFields),
)


class ConsumerGroupResponse_v0(Response):  # type: ignore[misc]
    """The description of a group with members of the protocol of KIP-848."""

    API_KEY = 69
    API_VERSION = 0
    SCHEMA = Schema(("throttle_time_ms", Int32), ("groups", CompactArray(*_GROUP)), ("tags", TaggedFields))


class ConsumerGroupRequest_v0(RequestStruct):  # type: ignore[misc]
    """A request for that description."""

    API_KEY = 69
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = ConsumerGroupResponse_v0
    SCHEMA = Schema(("groups", CompactArray(_TEXT)), ("authorized_operations", Boolean), ("tags", TaggedFields))


class ConsumerGroupRequest(Request[ConsumerGroupRequest_v0]):  # type: ignore[misc]
    """A request for the description of one group."""

    API_KEY = 69

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[ConsumerGroupRequest_v0]) -> Any:
        """See aiokafka's Request."""
        return request_struct_class([self._group], False, {})
