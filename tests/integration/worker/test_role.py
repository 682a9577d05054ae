"""Every record on the posts topic ends as exactly one verdict, in order: against a real Kafka."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import sys
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
from tests.conftest import make_topics
from tests.support.builders import a_file
from tests.support.harness import PARTITIONS, Field, a_value, running


async def test_each_post_gets_one_verdict_in_order(field: Field) -> None:
    async with running(field):
        await field.post(200)
        found = await field.expect_exactly(200)
    assert {one["status"] for one in found} == {"STATUS_FINAL"}


async def test_a_verdict_is_keyed_by_its_post_and_stands_in_the_posts_partition(field: Field) -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running(field):
        await field.produce((4, b"author", a_value(1, text="violates:spam"), [("traceparent", trace)]))
        (record,) = await field.read(field.topics[1], 1)
    assert (record.partition, record.key) == (4, b"post-1")
    told = dict(record.headers)
    assert len(told.pop("verdict-identity")) == 64
    assert told == {"content-type": b"application/json", "traceparent": trace}
    assert json.loads(record.value)["outcome"] == "OUTCOME_REMOVE"


async def test_what_cannot_be_judged_becomes_a_dead_letter_and_an_undetermined_verdict(field: Field) -> None:
    whole = a_file()
    truncated = whole[: len(whole) // 2]
    bad: dict[str, tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = {
        "NOT_DECODABLE": (b"key-1", b'{"id": "broken', []),
        "NULL_VALUE": (b"key\n2", None, []),  # a null under a key that is an id erases
        "UNKNOWN_CONTENT_TYPE": (b"key-3", a_value("x"), [("content-type", b"text/csv"), ("mine", b"1")]),
        "INVALID_POST": (None, json.dumps({"id": "", "text": "no id"}).encode(), []),
        "IMAGE_CORRUPT": (b"key-4", a_value("torn", images=[{"data": base64.b64encode(truncated).decode()}]), []),
        "IMAGE_FORBIDDEN": (b"key-5", a_value("far", images=[{"uri": "http://example.com/a.png"}]), []),
        "MODEL_FAILED": (b"key-6", a_value("sick", text="a poison"), []),
    }
    records: list[Any] = [(2, b"good", a_value(number), []) for number in range(14)]
    mixed = [record for pair in zip(records[:7], [(2, *one) for one in bad.values()], strict=True) for record in pair]
    async with running(field.with_("fake?raise_on=poison")):
        await field.produce(*mixed, *records[7:])
        verdicts = await field.verdicts(21)
        letters = await field.dead_letters(7)
    assert [int(one["source"].get("offset", 0)) for one in verdicts] == list(range(21))
    assert [one["status"] == "STATUS_FINAL" for one in verdicts] == [True, False] * 7 + [True] * 7
    assert [one["postId"] for one in verdicts if one["status"] == "STATUS_FINAL"] == [f"post-{n}" for n in range(14)]
    undetermined = [one for one in verdicts if one["status"] != "STATUS_FINAL"]
    assert [(one["status"], one["outcome"]) for one in undetermined] == [("STATUS_UNDETERMINED", "OUTCOME_REVIEW")] * 7
    assert [one["reason"] for one in undetermined] == list(bad)
    places = [f"kafka:{field.topics[0]}/2/{offset}" for offset in (3, 7)]
    ids = ["key-1", places[0], "key-3", places[1], "post-torn", "post-far", "post-sick"]
    assert [one["postId"] for one in undetermined] == ids
    for letter, (reason, (key, value, headers)) in zip(letters, bad.items(), strict=True):
        told = dict(letter.headers)
        assert (letter.partition, letter.key, letter.value) == (2, key, value or b"")
        assert told["dlq.error.code"] == reason.encode()
        assert told["dlq.original.offset"] == str(2 * list(bad).index(reason) + 1).encode()
        assert ("dlq.value.null" in told) == (value is None)
        assert set(headers) <= set(letter.headers)


@pytest.mark.usefixtures("fickle")
async def test_a_null_under_a_post_id_erases_its_verdict_and_it_is_judged_anew(field: Field) -> None:
    async with running(field):
        await field.produce((1, b"post-1", a_value(1), []), (1, b"post-2", a_value(2), []))
        await field.produce((1, b"post-1", None, []), (1, b"post-1", a_value(1), []), (1, b"post-2", a_value(2), []))
        records = await field.read(field.topics[1], 5)
    assert [(record.partition, record.key, record.value is None) for record in records] == [
        (1, b"post-1", False),
        (1, b"post-2", False),
        (1, b"post-1", True),
        (1, b"post-1", False),
        (1, b"post-2", False),
    ]
    assert wire.erased_source(records[2].headers) == (field.topics[0], 1, 2)
    phases = [json.loads(record.value)["origin"] for record in records if record.value]
    assert phases == ["ORIGIN_MODEL", "ORIGIN_MODEL", "ORIGIN_MODEL", "ORIGIN_CACHE"]
    async with running(field):  # what a worker reads back of the topic, too
        await field.produce((1, b"post-1", None, []))
        await field.read(field.topics[1], 6)
    async with running(field):
        await field.produce((1, b"post-1", a_value(1), []))
        last = (await field.read(field.topics[1], 7))[-1]
    assert json.loads(last.value)["origin"] == "ORIGIN_MODEL"
    assert not await field.dead_letters(0)


async def test_a_record_without_key_and_value_is_a_dead_letter_like_any_other(field: Field) -> None:
    # aiokafka cannot send one, and neither may we try: the worker's own decoding sees it all the same
    async with running(field):
        await field.produce((0, None, b"", []), (0, b"", None, []))
        verdicts = await field.verdicts(2)
        letters = await field.dead_letters(2)
    assert [one["reason"] for one in verdicts] == ["NOT_DECODABLE", "NULL_VALUE"]
    assert [(letter.key, letter.value) for letter in letters] == [(None, b""), (b"", b"")]


async def test_posts_that_wait_for_others_are_in_no_hurry_and_a_device_that_hangs_ends_the_worker(field: Field) -> None:
    slow = "fake?step_ms=100"
    async with running(field.with_(slow, batch_tokens=1, step_timeout_s=1.0)):  # one post a step: the last waits 3 s
        await field.post(30)
        await field.expect_exactly(30)
    with pytest.raises(DeviceError, match="hangs"):
        async with running(field.with_("fake?step_ms=2000", step_timeout_s=0.5)) as task:
            await asyncio.wait([task], timeout=30)


async def test_a_dead_letter_too_large_for_its_topic_says_which_bytes_it_stands_for(
    field: Field, names: Callable[[str], str]
) -> None:
    small = field.settings.kafka.model_copy(update={"dead_letter_topic": names("small")})
    field = replace(field, settings=field.settings.model_copy(update={"kafka": small}))
    await make_topics(field.kafka, small.dead_letters, partitions=PARTITIONS, max_message_bytes=str(256 << 10))
    large = b"x" * (1 << 20)
    async with running(field):
        await field.produce((0, b"a", b"small", []), (0, b"b", large, []), (0, b"c", b"small", []))
        verdicts = await field.verdicts(3)
        first, cut, last = await field.dead_letters(3)
        await field.produce((0, b"d", large, []), (0, b"e", a_value(1), []))
        assert len(await field.verdicts(5)) == 5
    assert [one["reason"] for one in verdicts] == ["NOT_DECODABLE"] * 3
    assert [(one.key, one.value) for one in (first, cut, last)] == [(b"a", b"small"), (b"b", b""), (b"c", b"small")]
    told = dict(cut.headers)
    assert told["dlq.value.size"] == str(len(large)).encode()
    assert told["dlq.value.sha256"] == hashlib.sha256(large).hexdigest().encode()
    assert told["dlq.original.offset"] == b"1"


async def test_a_restart_goes_on_where_the_last_worker_stopped(field: Field) -> None:
    await field.post(60)
    async with running(field.with_("fake?step_ms=30", batch_tokens=32)):
        await field.verdicts(20)
    await field.post(40, start=60)
    async with running(field):
        await field.expect_exactly(100)


async def test_what_is_begun_is_finished_and_committed_before_the_worker_stops(field: Field) -> None:
    await field.post(30)
    stop = asyncio.Event()
    task = asyncio.create_task(role.run(field.with_("fake?step_ms=300", batch_tokens=100).settings, stop))
    await field.verdicts(1)
    stop.set()
    await task
    consumer = AIOKafkaConsumer(bootstrap_servers=field.kafka, group_id=field.settings.kafka.group)
    async with consumer, asyncio.timeout(30):
        while True:  # what is committed is seen a little later, and not everywhere at once
            answered = Counter(one["source"].get("partition", 0) for one in await field.verdicts(1))
            partitions = [TopicPartition(field.topics[0], partition) for partition in range(PARTITIONS)]
            committed = [await consumer.committed(one) or 0 for one in partitions]
            if committed == [answered[one.partition] for one in partitions]:
                break


async def test_what_the_drain_has_no_time_for_is_left_to_the_next_worker(field: Field) -> None:
    await field.post(30)
    stop = asyncio.Event()
    slow = field.with_("fake?step_ms=400", batch_tokens=1, drain_timeout_s=0.5)
    task = asyncio.create_task(role.run(slow.settings, stop))
    await field.verdicts(1)
    stop.set()
    await asyncio.wait_for(task, timeout=8)  # one of them takes 12 s
    assert len(await field.verdicts(1)) < 30
    async with running(field):
        await field.expect_exactly(30)


async def test_partitions_move_to_a_second_worker_and_back_without_loss_or_repetition(field: Field) -> None:
    slow = field.with_("fake?step_ms=20", batch_tokens=64)
    async with running(slow):
        await slow.post(100)
        await slow.verdicts(10)
        async with running(slow):
            await slow.post(100, start=100)
            await slow.verdicts(120)
        await slow.post(50, start=200)
        await slow.expect_exactly(250)


async def test_back_pressure_holds_the_bounds(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way: Counter[int] = Counter()
    most: Counter[str] = Counter()
    process = Processor.process

    async def watched(self: Processor, assigned: Any, record: ConsumerRecord, *arrival: Any) -> None:
        under_way[record.partition] += 1
        most["of one"] = max(most["of one"], *under_way.values())
        most["of all"] = max(most["of all"], under_way.total())
        try:
            await process(self, assigned, record, *arrival)
        finally:
            under_way[record.partition] -= 1

    monkeypatch.setattr(Processor, "process", watched)
    async with running(field.with_("fake?step_ms=1", max_in_flight=5)):
        await field.post(120)
        await field.expect_exactly(120)
    assert 1 <= most["of one"] <= 2
    assert 2 <= most["of all"] <= 5


async def test_full_partitions_do_not_keep_a_quiet_one_waiting(field: Field) -> None:
    """Posts of quiet partitions are answered within some steps, while those of two others wait for a hundred."""
    step_ms, full, steps = 50, 1000, 20
    slow = field.with_(f"fake?step_ms={step_ms}", batch_tokens=80)  # some eight posts a step
    await field.produce(*((number % 2, b"author", a_value(f"full-{number}"), ()) for number in range(full)))
    delays: list[float] = []
    async with running(slow):
        done = 1
        await field.verdicts(done)
        for turn in range(4):
            quiet = [(partition, b"author", a_value(f"quiet-{turn}-{partition}"), ()) for partition in (2, 3, 4, 5)]
            await field.produce(*quiet)
            while len(delays) < 4 * (turn + 1):
                found = await field.read(field.topics[1], done)
                done = len(found) + 1
                delays = [
                    record.timestamp - _put_ms(record) for record in found if record.key.startswith(b"post-quiet")
                ]
        assert done < full / 2, "the others still wait"
    assert max(delays) < steps * step_ms


def _put_ms(verdict: ConsumerRecord) -> float:
    return datetime.fromisoformat(json.loads(verdict.value)["source"]["timestamp"]).timestamp() * 1000


async def test_a_worker_with_no_room_still_polls(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    polls = 0
    wait = Consumer.wait

    async def counted(self: Consumer, partitions: Iterable[TopicPartition], *others: Any) -> None:
        nonlocal polls
        polls += not partitions  # none has room
        await wait(self, partitions, *others)

    monkeypatch.setattr(Consumer, "wait", counted)
    monkeypatch.setattr(role, "REST_S", 0.02)
    async with running(field.with_("fake?step_ms=500", max_in_flight=4)):
        await field.post(4)
        await field.verdicts(4)  # all partitions are assigned, and have been asked
        before = polls
        await field.post(12, start=4)
        await field.expect_exactly(16)
    assert polls >= before + 3


async def test_a_topic_that_takes_next_to_nothing_is_told_to_the_operator(
    field: Field, names: Callable[[str], str]
) -> None:
    tiny = field.settings.kafka.model_copy(update={"verdicts_topic": names("tiny")})
    await make_topics(field.kafka, tiny.verdicts_topic, partitions=PARTITIONS, max_message_bytes="300")
    field = replace(field, settings=field.settings.model_copy(update={"kafka": tiny}))
    with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
        async with running(field) as task:
            await field.post(1)
            await asyncio.wait([task], timeout=30)
    assert crash.group_contains(ConfigError, match="max.message.bytes")


async def test_a_sick_device_ends_the_worker_and_nothing_of_the_batch_is_committed(field: Field) -> None:
    with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
        async with running(field.with_("fake?dies_on=fatal")) as task:
            await field.produce((0, b"key", a_value("x", text="fatal"), []))
            await asyncio.wait([task], timeout=30)
    assert crash.group_contains(DeviceError)
    async with running(field):
        assert [one["postId"] for one in await field.verdicts(1)] == ["post-x"]


async def test_a_worker_that_is_fenced_ends_and_its_results_are_dropped(field: Field) -> None:
    with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
        async with running(field.with_("fake?step_ms=2")) as task:
            await field.post(6)
            await field.verdicts(6)
            thieves = [
                clients.producer(
                    field.settings.kafka,
                    transactional_id=f"{field.settings.kafka.group}-{field.topics[0]}-{partition}",
                )
                for partition in range(PARTITIONS)
            ]
            for thief in thieves:
                await thief.start()
                await thief.stop()
            await field.post(6, start=6)
            await asyncio.wait([task], timeout=30)
    assert crash.group_contains(DeliveryError)
    async with running(field):
        await field.expect_exactly(12)


async def test_another_worker_takes_over_from_one_that_is_killed(field: Field) -> None:
    """kill -9 in the middle, twice; the successor answers the rest and repeats nothing."""
    slow = field.with_("fake?step_ms=15", batch_tokens=48)
    await slow.post(300)
    for enough in (40, 120):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, env=os.environ | slow.environment, stderr=asyncio.subprocess.DEVNULL
        )
        await slow.verdicts(enough)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with running(field):
        await field.expect_exactly(300, timeout=90)


PROCESS = """
from moderation import lifecycle, settings
from moderation.worker import role

some = settings.load()
raise SystemExit(lifecycle.run(lambda stop: role.run(some, stop)))
"""


async def test_a_stop_while_the_model_loads_waits_for_nothing(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, loading, end = asyncio.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def load(_: object) -> None:
        loop.call_soon_threadsafe(loading.set)
        end.wait(30)

    monkeypatch.setattr(models, "load", load)
    task = asyncio.create_task(role.run(field.settings, stop))
    await loading.wait()
    stop.set()
    try:
        await asyncio.wait_for(task, timeout=5)
    finally:
        end.set()


async def test_bytes_under_way_have_a_bound_and_what_is_larger_goes_alone(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[int] = []
    hand_out = role.Worker._hand_out

    def watched(self: role.Worker, *given: Any) -> None:
        hand_out(self, *given)
        under_way.append(sum(assigned.bytes for assigned in self.assignments.values()))

    monkeypatch.setattr(role.Worker, "_hand_out", watched)
    values = [a_value(number, text="x" * (100_000 if number % 3 else 40_000)) for number in range(18)]
    bound = 250_000
    async with running(field.with_("fake?step_ms=5", max_in_flight_bytes=bound)):
        await field.produce((0, b"key", a_value(18, text="x" * 100_000), []))
        await field.verdicts(1)  # from here on it knows what may come
        await field.produce(*((number % PARTITIONS, b"key", value, []) for number, value in enumerate(values)))
        await field.expect_exactly(19)
    assert bound * 0.5 < max(under_way) < bound + 101_000
    under_way.clear()
    async with running(field.with_("fake?step_ms=5", max_in_flight_bytes=1)):
        await field.post(11, start=19)
        await field.expect_exactly(30)
    assert max(under_way) < 400
