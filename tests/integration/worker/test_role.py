"""Every record on the posts topic ends as exactly one verdict, in order: against a real Kafka."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from moderation import models, wire
from moderation.errors import ConfigError, DeliveryError, DeviceError
from moderation.kafka import clients
from moderation.kafka.consumer import Consumer
from moderation.worker import role
from moderation.worker.processor import Processor
from tests.support.builders import a_file
from tests.support.harness import PARTITIONS, Harness, a_value, kill_two_workers, running
from tests.support.topics import make_topics


async def test_each_post_gets_one_verdict_in_order(harness: Harness) -> None:
    async with running(harness):
        await harness.post(200)
        verdicts = await harness.expect_exactly(200)
    assert {verdict["status"] for verdict in verdicts} == {"STATUS_FINAL"}


async def test_a_verdict_is_keyed_by_its_post_and_stands_in_the_posts_partition(harness: Harness) -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running(harness):
        await harness.produce((4, b"author", a_value(1, text="violates:spam"), [("traceparent", trace)]))
        (record,) = await harness.read(harness.topics[1], 1)
    assert (record.partition, record.key) == (4, b"post-1")
    headers = dict(record.headers)
    assert len(headers.pop("verdict-identity")) == 64
    assert headers == {"content-type": b"application/json", "traceparent": trace}
    assert json.loads(record.value)["outcome"] == "OUTCOME_REMOVE"


async def test_what_was_refused_becomes_a_dead_letter_and_leaves_its_neighbours_alone(harness: Harness) -> None:
    whole = a_file()
    truncated = whole[: len(whole) // 2]
    bad: dict[str, tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = {
        "NOT_DECODABLE": (b"key-1", b'{"id": "broken', []),
        "NULL_VALUE": (b"key\n2", None, []),  # a null under a key that is an id erases
        "UNKNOWN_CONTENT_TYPE": (b"key-3", a_value("x"), [("content-type", b"text/csv"), ("custom", b"1")]),
        "INVALID_POST": (None, json.dumps({"id": "", "text": "no id"}).encode(), []),
        "IMAGE_CORRUPT": (b"key-4", a_value("torn", images=[{"data": base64.b64encode(truncated).decode()}]), []),
        "IMAGE_FORBIDDEN": (b"key-5", a_value("far", images=[{"uri": "http://example.com/a.png"}]), []),
        "MODEL_FAILED": (b"key-6", a_value("sick", text="a poison"), []),
    }
    records: list[Any] = [(2, b"good", a_value(number), []) for number in range(14)]
    mixed = [
        record
        for pair in zip(records[:7], [(2, *bad_record) for bad_record in bad.values()], strict=True)
        for record in pair
    ]
    async with running(harness.with_("fake?raise_on=poison")):
        await harness.produce(*mixed, *records[7:])
        verdicts = await harness.verdicts(21)
        letters = await harness.dead_letters(7)
    assert [int(verdict["source"].get("offset", 0)) for verdict in verdicts] == list(range(21))
    assert [verdict["status"] == "STATUS_FINAL" for verdict in verdicts] == [True, False] * 7 + [True] * 7
    assert [verdict["postId"] for verdict in verdicts if verdict["status"] == "STATUS_FINAL"] == [
        f"post-{n}" for n in range(14)
    ]
    refused = [verdict for verdict in verdicts if verdict["status"] != "STATUS_FINAL"]
    assert {verdict["outcome"] for verdict in refused} == {"OUTCOME_REVIEW"}
    partly = ["IMAGE_CORRUPT", "IMAGE_FORBIDDEN"]
    statuses = ["STATUS_DEGRADED" if reason in partly else "STATUS_UNDETERMINED" for reason in bad]
    assert [verdict["status"] for verdict in refused] == statuses
    assert [verdict["problems"][0]["reason"] for verdict in refused] == list(bad)
    assert [verdict.get("reason", "") for verdict in refused] == [name if name not in partly else "" for name in bad]
    places = [f"kafka:{harness.topics[0]}/2/{offset}" for offset in (3, 7)]
    ids = ["key-1", places[0], "post-x", places[1], "post-torn", "post-far", "post-sick"]
    assert [verdict["postId"] for verdict in refused] == ids
    for letter, (reason, (key, value, headers)) in zip(letters, bad.items(), strict=True):
        letter_headers = dict(letter.headers)
        assert (letter.partition, letter.key, letter.value) == (2, key, value or b"")
        assert letter_headers["dlq.error.code"] == reason.encode()
        assert letter_headers["dlq.original.offset"] == str(2 * list(bad).index(reason) + 1).encode()
        assert ("dlq.value.null" in letter_headers) == (value is None)
        assert set(headers) <= set(letter.headers)


@pytest.mark.usefixtures("fickle")
async def test_a_null_under_a_post_id_erases_its_verdict_and_the_post_is_judged_again(harness: Harness) -> None:
    harness = harness.with_kafka(copy_erasures=False)
    async with running(harness):
        await harness.produce((1, b"post-1", a_value(1), []), (1, b"post-2", a_value(2), []))
        await harness.produce((1, b"post-1", None, []), (1, b"post-1", a_value(1), []), (1, b"post-2", a_value(2), []))
        records = await harness.read(harness.topics[1], 5)
    assert [(record.partition, record.key, record.value is None) for record in records] == [
        (1, b"post-1", False),
        (1, b"post-2", False),
        (1, b"post-1", True),
        (1, b"post-1", False),
        (1, b"post-2", False),
    ]
    assert wire.erased_source(records[2].headers) == (harness.topics[0], 1, 2)
    origins = [json.loads(record.value)["origin"] for record in records if record.value]
    assert origins == ["ORIGIN_MODEL", "ORIGIN_MODEL", "ORIGIN_MODEL", "ORIGIN_CACHE"]
    async with running(harness):  # also after a restart
        await harness.produce((1, b"post-1", None, []))
        await harness.read(harness.topics[1], 6)
    async with running(harness):
        await harness.produce((1, b"post-1", a_value(1), []))
        last = (await harness.read(harness.topics[1], 7))[-1]
    assert json.loads(last.value)["origin"] == "ORIGIN_MODEL"
    assert not await harness.dead_letters(0)


async def test_a_record_without_key_and_value_is_a_dead_letter_like_any_other(harness: Harness) -> None:
    # aiokafka cannot send such a record; the two below reach the same code
    async with running(harness):
        await harness.produce((0, None, b"", []), (0, b"", None, []))
        verdicts = await harness.verdicts(2)
        letters = await harness.dead_letters(2)
    assert [verdict["reason"] for verdict in verdicts] == ["NOT_DECODABLE", "NULL_VALUE"]
    assert [(letter.key, letter.value) for letter in letters] == [(None, b""), (b"", b"")]


async def test_waiting_posts_have_no_deadline_and_a_device_that_hangs_ends_the_worker(
    harness: Harness,
) -> None:
    slow = "fake?step_ms=100"
    async with running(harness.with_(slow, batch_tokens=1, step_timeout_s=1.0)):  # one post a step: the last waits 3 s
        await harness.post(30)
        await harness.expect_exactly(30)
    with pytest.raises(DeviceError, match="hangs"):
        async with running(harness.with_("fake?step_ms=2000", step_timeout_s=0.5)) as task:
            await asyncio.wait([task], timeout=30)


async def test_a_dead_letter_too_large_for_its_topic_says_which_bytes_it_stands_for(
    harness: Harness, names: Callable[[str], str]
) -> None:
    small = harness.settings.kafka.model_copy(update={"dead_letter_topic": names("small")})
    harness = replace(harness, settings=harness.settings.model_copy(update={"kafka": small}))
    await make_topics(harness.kafka, small.dead_letters, partitions=PARTITIONS, max_message_bytes=str(256 << 10))
    large = b"x" * (1 << 20)
    async with running(harness):
        await harness.produce((0, b"a", b"small", []), (0, b"b", large, []), (0, b"c", b"small", []))
        verdicts = await harness.verdicts(3)
        first, cut, last = await harness.dead_letters(3)
        await harness.produce((0, b"d", large, []), (0, b"e", a_value(1), []))
        assert len(await harness.verdicts(5)) == 5
    assert [verdict["reason"] for verdict in verdicts] == ["NOT_DECODABLE"] * 3
    assert [(letter.key, letter.value) for letter in (first, cut, last)] == [
        (b"a", b"small"),
        (b"b", b""),
        (b"c", b"small"),
    ]
    headers = dict(cut.headers)
    assert headers["dlq.value.size"] == str(len(large)).encode()
    assert headers["dlq.value.sha256"] == hashlib.sha256(large).hexdigest().encode()
    assert headers["dlq.original.offset"] == b"1"


async def test_a_restart_goes_on_where_the_last_worker_stopped(each_delivery: Harness) -> None:
    await each_delivery.post(60)
    async with running(each_delivery.with_("fake?step_ms=30", batch_tokens=32)):
        await each_delivery.verdicts(20)
    await each_delivery.post(40, start=60)
    async with running(each_delivery):
        await each_delivery.expect_exactly(100)


async def test_posts_in_hand_are_finished_and_committed_before_the_worker_stops(harness: Harness) -> None:
    await harness.post(30)
    stop = asyncio.Event()
    task = asyncio.create_task(role.run(harness.with_("fake?step_ms=300", batch_tokens=100).settings, stop))
    await harness.verdicts(1)
    stop.set()
    await task
    consumer = AIOKafkaConsumer(bootstrap_servers=harness.kafka, group_id=harness.settings.kafka.group)
    async with consumer, asyncio.timeout(30):
        while True:  # what is committed is seen a little later, and not everywhere at once
            verdicts_in = Counter(verdict["source"].get("partition", 0) for verdict in await harness.verdicts(1))
            partitions = [TopicPartition(harness.topics[0], partition) for partition in range(PARTITIONS)]
            committed = [await consumer.committed(partition) or 0 for partition in partitions]
            if committed == [verdicts_in[partition.partition] for partition in partitions]:
                break


async def test_posts_that_the_drain_has_no_time_for_are_left_to_the_next_worker(harness: Harness) -> None:
    await harness.post(30)
    stop = asyncio.Event()
    slow = harness.with_("fake?step_ms=400", batch_tokens=1, drain_timeout_s=0.5)
    task = asyncio.create_task(role.run(slow.settings, stop))
    await harness.verdicts(1)
    stop.set()
    await asyncio.wait_for(task, timeout=8)  # all posts would take 12 s
    assert len(await harness.verdicts(1)) < 30
    async with running(harness):
        await harness.expect_exactly(30)


async def test_partitions_move_to_a_second_worker_and_back_without_loss_or_repetition(each_delivery: Harness) -> None:
    slow = each_delivery.with_("fake?step_ms=20", batch_tokens=64)
    async with running(slow):
        await slow.post(100)
        await slow.verdicts(10)
        async with running(slow):
            await slow.post(100, start=100)
            await slow.verdicts(120)
        await slow.post(50, start=200)
        await slow.expect_exactly(250)


async def test_back_pressure_holds_the_bounds(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way: Counter[int] = Counter()
    highest: Counter[str] = Counter()
    process = Processor.process

    async def watched(self: Processor, assigned: Any, record: ConsumerRecord, *arrival: Any) -> None:
        under_way[record.partition] += 1
        highest["partition"] = max(highest["partition"], *under_way.values())
        highest["all"] = max(highest["all"], under_way.total())
        try:
            await process(self, assigned, record, *arrival)
        finally:
            under_way[record.partition] -= 1

    monkeypatch.setattr(Processor, "process", watched)
    async with running(harness.with_("fake?step_ms=1", max_in_flight=5)):
        await harness.post(120)
        await harness.expect_exactly(120)
    assert 1 <= highest["partition"] <= 2
    assert 2 <= highest["all"] <= 5


async def test_full_partitions_do_not_keep_a_quiet_one_waiting(harness: Harness) -> None:
    """Posts of quiet partitions are answered within some steps, while those of two others wait for a hundred."""
    step_ms, full, steps = 50, 1000, 20
    slow = harness.with_(f"fake?step_ms={step_ms}", batch_tokens=80)  # some eight posts a step
    await harness.produce(*((number % 2, b"author", a_value(f"full-{number}"), ()) for number in range(full)))
    delays: list[float] = []
    async with running(slow):
        done = 1
        await harness.verdicts(done)
        for turn in range(4):
            quiet = [(partition, b"author", a_value(f"quiet-{turn}-{partition}"), ()) for partition in (2, 3, 4, 5)]
            await harness.produce(*quiet)
            while len(delays) < 4 * (turn + 1):
                records = await harness.read(harness.topics[1], done)
                done = len(records) + 1
                delays = [
                    record.timestamp - _put_ms(record) for record in records if record.key.startswith(b"post-quiet")
                ]
        assert done < full / 2, "the other posts still wait"
    assert max(delays) < steps * step_ms


def _put_ms(verdict: ConsumerRecord) -> float:
    return datetime.fromisoformat(json.loads(verdict.value)["source"]["timestamp"]).timestamp() * 1000


async def test_a_worker_that_may_take_no_post_still_polls(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    polls = 0
    wait = Consumer.wait

    async def counted(self: Consumer, partitions: Iterable[TopicPartition], *others: Any) -> None:
        nonlocal polls
        polls += not partitions  # no partition may take posts
        await wait(self, partitions, *others)

    monkeypatch.setattr(Consumer, "wait", counted)
    monkeypatch.setattr(role, "REST_S", 0.02)
    async with running(harness.with_("fake?step_ms=500", max_in_flight=4)):
        await harness.post(4)
        await harness.verdicts(4)  # all partitions are assigned and were polled
        before = polls
        await harness.post(12, start=4)
        await harness.expect_exactly(16)
    assert polls >= before + 3


async def test_a_topic_that_refuses_small_records_is_a_configuration_error(
    harness: Harness, names: Callable[[str], str]
) -> None:
    tiny = harness.settings.kafka.model_copy(update={"verdicts_topic": names("tiny")})
    await make_topics(harness.kafka, tiny.verdicts_topic, partitions=PARTITIONS, max_message_bytes="300")
    harness = replace(harness, settings=harness.settings.model_copy(update={"kafka": tiny}))
    with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
        async with running(harness) as task:
            await harness.post(1)
            await asyncio.wait([task], timeout=30)
    assert crash.group_contains(ConfigError, match="max.message.bytes")


async def test_a_sick_device_ends_the_worker_and_nothing_of_the_batch_is_committed(harness: Harness) -> None:
    with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
        async with running(harness.with_("fake?dies_on=fatal")) as task:
            await harness.produce((0, b"key", a_value("x", text="fatal"), []))
            await asyncio.wait([task], timeout=30)
    assert crash.group_contains(DeviceError)
    async with running(harness):
        assert [verdict["postId"] for verdict in await harness.verdicts(1)] == ["post-x"]


async def test_a_worker_that_is_fenced_ends_and_its_results_are_dropped(harness: Harness) -> None:
    with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
        async with running(harness.with_("fake?step_ms=2")) as task:
            await harness.post(6)
            await harness.verdicts(6)
            thieves = [
                clients.producer(
                    harness.settings.kafka,
                    transactional_id=f"{harness.settings.kafka.group}-{harness.topics[0]}-{partition}",
                )
                for partition in range(PARTITIONS)
            ]
            for thief in thieves:
                await thief.start()
                await thief.stop()
            await harness.post(6, start=6)
            await asyncio.wait([task], timeout=30)
    assert crash.group_contains(DeliveryError)
    async with running(harness):
        await harness.expect_exactly(12)


async def test_another_worker_takes_over_from_one_that_is_killed(harness: Harness) -> None:
    """kill -9 in the middle, twice; the successor answers the rest and repeats nothing."""
    await kill_two_workers(harness)
    async with running(harness):
        await harness.expect_exactly(300, timeout=90)


async def test_a_stop_while_the_model_loads_does_not_wait(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, loading, end = asyncio.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def load(_: object) -> None:
        loop.call_soon_threadsafe(loading.set)
        end.wait(30)

    monkeypatch.setattr(models, "load", load)
    task = asyncio.create_task(role.run(harness.settings, stop))
    await loading.wait()
    stop.set()
    try:
        await asyncio.wait_for(task, timeout=5)
    finally:
        end.set()


async def test_bytes_in_hand_have_a_bound_and_a_larger_post_goes_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[int] = []
    hand_out = role.Worker._hand_out

    def watched(self: role.Worker, *given: Any) -> None:
        hand_out(self, *given)
        under_way.append(sum(assigned.bytes for assigned in self.assignments.values()))

    monkeypatch.setattr(role.Worker, "_hand_out", watched)
    values = [a_value(number, text="x" * (100_000 if number % 3 else 40_000)) for number in range(18)]
    bound = 250_000
    async with running(harness.with_("fake?step_ms=5", max_in_flight_bytes=bound)):
        await harness.produce((0, b"key", a_value(18, text="x" * 100_000), []))
        await harness.verdicts(1)  # from now on the consumer knows the size of records
        await harness.produce(*((number % PARTITIONS, b"key", value, []) for number, value in enumerate(values)))
        await harness.expect_exactly(19)
    assert bound * 0.5 < max(under_way) < bound + 101_000
    under_way.clear()
    async with running(harness.with_("fake?step_ms=5", max_in_flight_bytes=1)):
        await harness.post(11, start=19)
        await harness.expect_exactly(30)
    assert max(under_way) < 400
