"""The metadata of committed offsets: what a worker reads from it and what it leaves there. Against a real Kafka."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation import models
from moderation.errors import DeliveryError, DeviceError
from moderation.inference.self_check import REFERENCE_POSTS
from moderation.kafka import clients
from moderation.models.fake import Fake
from moderation.worker import offset_metadata
from moderation.worker.publisher import Publisher
from moderation.worker.suspects import ATTEMPTS, Mark
from tests.support.builders import a_file
from tests.support.harness import Harness, a_value, running

REFERENCE_TEXTS = {post.text for post in REFERENCE_POSTS}


class Watched(Fake):
    """Records the posts of each batch, and how many posts were in the process at once."""

    def __init__(self) -> None:
        super().__init__(step_ms=1)
        self.batches: list[list[str]] = []
        self.highest = 0
        self._now = 0
        self._lock = threading.Lock()

    def encode(self, content: Any, questions: Any) -> Any:
        with self._lock:
            self._now += content.text not in REFERENCE_TEXTS
            self.highest = max(self.highest, self._now)
        return super().encode(content, questions)

    def score(self, batch: Any) -> Any:
        texts = [item.text for item in batch if item.text not in REFERENCE_TEXTS]
        if texts:
            self.batches.append(texts)
        for text in texts:
            if "wrong" in text:
                raise DeviceError("the device has failed, as the post asked")
        scores = super().score(batch)
        with self._lock:
            self._now -= len(texts)
        return scores


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    model = Watched()
    monkeypatch.setattr(models, "load", lambda settings: model)
    return model


async def leave(harness: Harness, position: int, metadata: str, partition: int = 0) -> None:
    """Commits what an earlier worker, or another program, has left."""
    topic_partition = TopicPartition(harness.topics[0], partition)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=harness.kafka, group_id=harness.settings.kafka.group, enable_auto_commit=False
    )
    async with consumer:
        consumer.assign([topic_partition])
        await consumer.commit({topic_partition: (position, metadata)})


async def left(harness: Harness, partition: int = 0) -> tuple[int, str]:
    """The group's offset, and the mark in its metadata."""
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.kafka)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(harness.settings.kafka.group)
    finally:
        await admin.close()
    stored = offsets.get(TopicPartition(harness.topics[0], partition))
    if stored is None:
        return -1, ""
    return stored.offset, offset_metadata.read(stored.metadata, stored.offset).mark.metadata(stored.offset)


async def leaves(harness: Harness, offset: int, metadata: str | None = None, partition: int = 0) -> None:
    """Waits until the group has committed this. Kafka confirms a commit before its marker is in the group's log.

    metadata: None is any.
    """
    async with asyncio.timeout(20):
        while (stored := await left(harness, partition)) != (offset, stored[1] if metadata is None else metadata):  # noqa: ASYNC110  the broker's state
            await asyncio.sleep(0.05)


async def put(harness: Harness, *values: bytes | None, key: bytes = b"key") -> None:
    await harness.produce(*((0, key, value, ()) for value in values))


def reasons(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {verdict["postId"]: verdict.get("reason", "") for verdict in verdicts}


async def test_while_it_runs_the_metadata_says_that_the_partition_is_open_and_a_drain_leaves_no_mark(
    each_delivery: Harness,
) -> None:
    async with running(each_delivery):
        await put(each_delivery, a_value(0), a_value(1))
        await each_delivery.verdicts(2)
        async with asyncio.timeout(20):
            while (stored := await left(each_delivery))[0] < 2:  # noqa: ASYNC110  the broker's state
                await asyncio.sleep(0.05)
        assert Mark.read(stored[1], 2) == Mark(open=True)
    await leaves(each_delivery, 2, "")


async def test_suspects_are_processed_one_at_a_time_and_what_is_behind_them_together(
    each_delivery: Harness, watched: Watched
) -> None:
    await put(each_delivery, *(a_value(number) for number in range(6)))
    await leave(each_delivery, 0, Mark(open=True, openings=1, until=4).metadata(0))
    with capture_logs() as events:
        async with running(each_delivery):
            await each_delivery.expect_exactly(6)
    suspects = [f"this is number {number}" for number in range(4)]
    assert [batch for batch in watched.batches if set(batch) & set(suspects)] == [[text] for text in suspects]
    alone = [event["offset"] for event in events if event["event"] == "post_attempted_alone"]
    assert alone == [0, 1, 2, 3]
    opened = [event for event in events if event["event"] == "partition_opened_with_suspects"]
    assert [(event["partition"], event["position"], event["until"]) for event in opened] == [(0, 0, 4)]
    await leaves(each_delivery, 6, "")


async def test_no_other_post_is_in_the_process_while_a_suspect_is(harness: Harness, watched: Watched) -> None:
    await put(harness, *(a_value(number) for number in range(30)))
    await leave(harness, 0, Mark(open=True, openings=1, until=30).metadata(0))
    await harness.produce(*((1, b"key", a_value(number, text="wait"), ()) for number in range(30, 90)))
    await leave(harness, 0, Mark(open=True, openings=1, until=60).metadata(0), partition=1)
    async with running(harness):
        await harness.expect_exactly(90)
    assert watched.highest == 1


async def test_a_post_whose_attempts_alone_failed_ends_as_a_dead_letter_with_its_verdict(
    each_delivery: Harness, watched: Watched
) -> None:
    await put(each_delivery, a_value("bad", text="wrong"), a_value(1))
    await leave(each_delivery, 0, Mark(open=True, openings=3, until=2, offset=0, attempts=ATTEMPTS).metadata(0))
    begun = time.time()
    with capture_logs() as events:
        async with running(each_delivery):
            verdicts = await each_delivery.verdicts(2)
            (letter,) = await each_delivery.dead_letters(1)
    given_up = REGISTRY.get_sample_value("moderation_post_given_up_timestamp_seconds")
    assert given_up is not None
    assert begun <= given_up <= time.time()
    assert reasons(verdicts) == {"post-bad": "MODEL_CRASHED", "post-1": ""}
    assert [verdict["status"] for verdict in verdicts] == ["STATUS_UNDETERMINED", "STATUS_FINAL"]
    assert dict(letter.headers)["dlq.error.code"] == b"MODEL_CRASHED"
    assert letter.value == a_value("bad", text="wrong")
    assert watched.batches == [["this is number 1"]], "it is never asked about the first"
    assert [event["offset"] for event in events if event["event"] == "post_given_up"] == [0]


async def test_the_text_of_a_post_whose_pictures_may_have_ended_the_process_is_judged(
    harness: Harness, watched: Watched
) -> None:
    images = [{"data": base64.b64encode(a_file()).decode()}]
    await put(harness, a_value("bad", text="violates:spam", images=images))
    await leave(harness, 0, Mark(open=True, openings=3, until=1, offset=0, attempts=ATTEMPTS).metadata(0))
    async with running(harness):
        (verdict,) = await harness.verdicts(1)
        (letter,) = await harness.dead_letters(1)
    assert (verdict["outcome"], verdict["status"]) == ("OUTCOME_REMOVE", "STATUS_DEGRADED")
    problem = verdict["problems"][0]
    assert (problem["reason"], problem["path"]) == ("MODEL_CRASHED", "images[0]")
    assert dict(letter.headers)["dlq.error.code"] == b"MODEL_CRASHED"
    assert watched.batches == [["violates:spam"]]


@pytest.mark.parametrize(("further", "name"), [(1, "post-bad"), (2, "the-key")])
async def test_one_that_ends_the_process_while_it_is_given_up_is_known_by_its_id_or_its_key(
    harness: Harness, further: int, name: str
) -> None:
    images = [{"data": base64.b64encode(a_file()).decode()}]
    await put(harness, a_value("bad", text="wrong", images=images), key=b"the-key")
    await leave(harness, 0, Mark(open=True, openings=3, until=1, offset=0, attempts=ATTEMPTS + further).metadata(0))
    async with running(harness):
        assert reasons(await harness.verdicts(1)) == {name: "MODEL_CRASHED"}


async def test_a_suspect_without_a_value_is_an_erasure_and_one_that_cannot_be_read_has_its_own_reason(
    harness: Harness,
) -> None:
    harness = harness.with_kafka(copy_erasures=False)
    await put(harness, None, key=b"post-gone")
    await put(harness, b"{", key=b"torn")
    await put(harness, a_value(2))
    mark = Mark(open=True, openings=3, until=3, offset=0, attempts=ATTEMPTS)
    await leave(harness, 0, mark.metadata(0))
    async with running(harness):
        erasure, torn, good = await harness.read(harness.topics[1], 3)
    assert (erasure.key, erasure.value) == (b"post-gone", None)
    assert reasons([json.loads(torn.value), json.loads(good.value)]) == {"torn": "NOT_DECODABLE", "post-2": ""}


async def test_a_given_up_one_that_cannot_be_read_has_its_own_reason_too(harness: Harness) -> None:
    await put(harness, b"{", key=b"torn")
    await leave(harness, 0, Mark(open=True, openings=3, until=1, offset=0, attempts=ATTEMPTS).metadata(0))
    async with running(harness):
        assert reasons(await harness.verdicts(1)) == {"torn": "NOT_DECODABLE"}


@pytest.mark.parametrize("metadata", ["", "by another tool", "x" * 4000, Mark(open=True, openings=1).metadata(7)])
async def test_metadata_of_other_programs_is_ignored(harness: Harness, watched: Watched, metadata: str) -> None:
    await put(harness, *(a_value(number) for number in range(3)))
    await leave(harness, 0, metadata)
    with capture_logs() as events:
        async with running(harness):
            await harness.expect_exactly(3)
    assert not [event for event in events if event["event"] == "post_attempted_alone"]


async def test_a_drain_in_the_midst_of_suspects_leaves_what_it_found(each_delivery: Harness) -> None:
    slow = each_delivery.with_("fake?step_ms=3000", drain_timeout_s=0.2)
    await put(slow, a_value(0), a_value(1))
    metadata = Mark(open=True, openings=2, until=2, offset=0, attempts=1).metadata(0)
    await leave(slow, 0, metadata)
    async with running(slow):
        async with asyncio.timeout(30):
            while (await left(slow))[1] == metadata:  # noqa: ASYNC110  the broker's state
                await asyncio.sleep(0.05)
    await leaves(slow, 0, metadata)
    async with running(each_delivery):
        await each_delivery.expect_exactly(2)


async def crashed(harness: Harness, *errors: type[Exception]) -> None:
    with pytest.raises(BaseExceptionGroup) as crash:
        async with running(harness) as task:
            await asyncio.wait([task], timeout=30)
    for error in errors:
        assert crash.group_contains(error)


async def test_a_post_that_ends_each_process_ends_three_and_then_has_its_verdict(
    each_delivery: Harness, watched: Watched
) -> None:
    """Each of the workers is alone; other partitions' posts have their verdicts before the end."""
    await each_delivery.produce((1, b"key", a_value(7), ()))
    await put(each_delivery, a_value("bad", text="wrong"), a_value(1))
    for _ in range(1 + ATTEMPTS):
        await crashed(each_delivery, DeviceError)
    async with running(each_delivery):
        verdicts = await each_delivery.verdicts(3)
    assert reasons(verdicts) == {"post-bad": "MODEL_CRASHED", "post-1": "", "post-7": ""}
    assert watched.batches.count(["wrong"]) >= ATTEMPTS
    await leaves(each_delivery, 2, "")


async def test_what_is_ready_is_committed_before_a_device_error_ends_the_worker(
    each_delivery: Harness, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction is under way when the error comes."""
    delay(monkeypatch)
    await each_delivery.produce(*((number % 2, b"key", a_value(number), ()) for number in range(20)))
    await put(each_delivery, a_value("bad", text="wrong"))
    await crashed(each_delivery.with_(batch_tokens=1), DeviceError)
    # Partitions take turns: some posts of the other one may come after the bad post.
    scored = [int(batch[0].split()[-1]) for batch in watched.batches if batch != ["wrong"]]
    even = sum(number % 2 == 0 for number in scored)
    assert even == 10, "these stand in front of it"
    await leaves(each_delivery, even, partition=0)
    if odd := len(scored) - even:  # none where the other partition was not open yet
        await leaves(each_delivery, odd, partition=1)
    await each_delivery.verdicts(len(scored))


async def test_what_other_partitions_have_ready_is_committed_before_a_fence_ends_the_worker(
    harness: Harness, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(monkeypatch)
    async with running(harness):
        await harness.produce(*((number % 2, b"key", a_value(number), ()) for number in range(2)))
        await harness.verdicts(2)
    again = [(number % 2, b"key", a_value(number), ()) for number in range(2, 12)]
    with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
        async with running(harness) as task:
            watched.batches.clear()
            await harness.produce((0, b"key", a_value("first"), ()))
            await harness.verdicts(3)
            thief = clients.producer(
                harness.settings.kafka, transactional_id=f"{harness.settings.kafka.group}-{harness.topics[0]}-0"
            )
            await thief.start()
            await thief.stop()
            await harness.produce(*again)
            await asyncio.wait([task], timeout=30)
    assert crash.group_contains(DeliveryError)
    assert (await left(harness, 0))[0] == 2, "the fenced one publishes nothing"
    await leaves(harness, 6, partition=1)
    async with running(harness):
        await harness.verdicts(13)


def delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Kafka that takes its time: what is ready is not committed yet when an error comes."""
    send_all = Publisher._send_all

    async def slow(self: Publisher, messages: Any) -> Any:
        await asyncio.sleep(0.5 if messages else 0)
        return await send_all(self, messages)

    monkeypatch.setattr(Publisher, "_send_all", slow)
