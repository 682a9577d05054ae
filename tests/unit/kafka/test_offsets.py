"""What a group has committed, by coordinators that load, have moved, or refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, GroupLoadInProgressError
from aiokafka.errors import NotCoordinatorForGroupError as NotCoordinator
from aiokafka.protocol.commit import OffsetFetchRequest, OffsetFetchResponse_v3

from moderation.kafka.offsets import committed


class Coordinator:
    """Answers as a broker does that loads the group's offsets, or is no longer its coordinator."""

    group_id = "group"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.given_up = 0

    async def ensure_coordinator_known(self) -> None:
        pass

    def coordinator_dead(self) -> None:
        self.given_up += 1

    async def _send_req(self, _: OffsetFetchRequest) -> Any:
        return self.answers.pop(0)


async def test_a_coordinator_that_is_loading_is_no_group_without_offsets() -> None:
    loading, moved = (
        OffsetFetchResponse_v3(0, [], error.errno) for error in (GroupLoadInProgressError, NotCoordinator)
    )
    known = OffsetFetchResponse_v3(0, [("posts", [(3, 7, "stored with it", 0)])], 0)
    coordinator = Coordinator(loading, moved, known)
    found = await committed(SimpleNamespace(_coordinator=coordinator), TopicPartition("posts", 3))
    assert found == (7, "stored with it")
    assert coordinator.given_up == 1


async def test_a_group_that_has_committed_nothing_has_no_offset() -> None:
    nothing = OffsetFetchResponse_v3(0, [("posts", [(3, -1, "", 0)])], 0)
    consumer = SimpleNamespace(_coordinator=Coordinator(nothing))
    assert await committed(consumer, TopicPartition("posts", 3)) is None


async def test_a_group_that_may_not_be_read_raises() -> None:
    refused = OffsetFetchResponse_v3(0, [], GroupAuthorizationFailedError.errno)
    with pytest.raises(GroupAuthorizationFailedError):
        await committed(SimpleNamespace(_coordinator=Coordinator(refused)), TopicPartition("posts", 3))
