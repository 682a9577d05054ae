"""The delay of partitions that get one post a second, beside two that are full, and without them.

The model takes STEP_MS a step, whatever is in it, and the worker is as shipped. A delay is the time from a post's
record to its verdict's, as their producers have stamped them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import subprocess
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from moderation.dev.topics import create_topics

PARTITIONS = 6
FULL = 2  # of them
STEP_MS = 200.0
PATIENCE_S = 40.0  # that the last posts are waited for

Start = Callable[[str, str, str, Mapping[str, str]], "subprocess.Popen[bytes]"]  # posts, verdicts, group, settings


async def measure(kafka: str, start: Start, seconds: int, backlog: int) -> dict[str, Any]:
    """Delays of the quiet partitions in steps of the model, without a backlog and with one in each full partition."""
    found = {}
    for count in (0, backlog):
        delays, unanswered = await _delays(kafka, start, seconds, count)
        steps = sorted(delay * 1000 / STEP_MS for delay in delays)
        row: dict[str, Any] = {"posts": len(steps) + unanswered, "unanswered": unanswered}
        if steps:
            row |= {"median": statistics.median(steps), "p99": steps[int(0.99 * (len(steps) - 1))], "most": steps[-1]}
        found[f"backlog_{count}"] = {
            name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()
        }
        told = f"median {row['median']:.1f}, p99 {row['p99']:.1f} steps of {STEP_MS:.0f} ms" if steps else "no answers"
        print(f"quiet beside a backlog of {FULL} x {count} posts: {told}; {unanswered} unanswered", flush=True)
    return found


async def _delays(kafka: str, start: Start, seconds: int, backlog: int) -> tuple[list[float], int]:
    """Seconds of each post that was answered in time, and how many were not."""
    posts, verdicts, group = (f"{kind}-quiet-{uuid4().hex[:6]}" for kind in ("posts", "verdicts", "group"))
    await create_topics(kafka, posts, verdicts, f"{posts}.{group}.dlq", partitions=PARTITIONS)
    async with AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=20, max_batch_size=1 << 18) as producer:
        for number in range(backlog * FULL):
            await producer.send(posts, _post(f"full-{number}"), b"author", partition=number % FULL)
        await producer.flush()
    process = start(posts, verdicts, group, {"MODERATION_MODEL": f"fake?step_ms={STEP_MS}"})
    sent: dict[str, int] = {}
    stamps: dict[str, int] = {}
    reading = asyncio.create_task(_stamps(kafka, verdicts, stamps))
    try:
        async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            await _put(producer, posts, "first", sent)
            async with asyncio.timeout(60):
                await _until(lambda: bool(stamps))
            sent.clear()  # the worker was not there yet
            for second in range(seconds):
                await _put(producer, posts, str(second), sent)
                await asyncio.sleep(1)
        async with asyncio.timeout(PATIENCE_S):
            await _until(lambda: sent.keys() <= stamps.keys())
    except TimeoutError:
        pass  # who is missing then is told
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    delays = [(stamps[post] - at) / 1000 for post, at in sent.items() if post in stamps]
    return delays, len(sent) - len(delays)


async def _until(so: Callable[[], bool]) -> None:
    while True:
        if so():
            return
        await asyncio.sleep(0.05)


async def _put(producer: AIOKafkaProducer, topic: str, name: str, sent: dict[str, int]) -> None:
    """A post to each quiet partition."""
    for partition in range(FULL, PARTITIONS):
        id = f"quiet-{partition}-{name}"
        told = await producer.send_and_wait(topic, _post(id), b"author", partition=partition)
        sent[id] = told.timestamp


def _post(id: str) -> bytes:
    return json.dumps({"id": id, "text": "a word " * 140}).encode()


async def _stamps(kafka: str, topic: str, found: dict[str, int]) -> None:
    """When each verdict was written, as they come."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed")
    async with consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        async for record in consumer:
            found[record.key.decode()] = record.timestamp
