"""How much of Kafka's own speed the worker keeps: posts a second from topic to topic, all measured in this run.

    moderation bench stream                        speed, without a model and with one of 100 ms a step
    moderation bench stream --memory 200000        memory over so many posts, too
    moderation bench stream --quiet 30             the delay of quiet partitions beside full ones, too (quiet.py)
    moderation bench stream --delivery at_least_once

plain   the least that promises the same delivery: one process, one aiokafka consumer of the group, getmany of up to 500
        records, for each a send of as many bytes as our verdict has, keyed by the record's key; nothing is decoded and
        nothing is encoded. exactly_once: begin, send, await each send, send offsets, commit, for each getmany, with one
        transactional producer. at_least_once: send, await each send, commit the offsets.
worker  `moderation worker` with the model's double, as shipped: JSON in, JSON out, six policies
wide    the same, with room for more posts under way (max_in_flight 1024)
proto   the same as wide, with verdict_format=protobuf

Each reads the same posts of a topic filled before, six partitions. A way's speed is that of the verdicts' own
timestamps, from the first tenth of them to the last. Ways take turns, round by round.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from moderation.bench import quiet
from moderation.dev.kafka import LocalKafka
from moderation.dev.topics import create_topics
from moderation.models.fake import Fake
from moderation.policies import PolicySet
from moderation.types import Content

PARTITIONS = 6
SIZES = (1024, 4096)
STEP_MS = 100.0
STEP_POSTS = 16
WIDE = {
    "MODERATION_WORKER__MAX_IN_FLIGHT": "1024",
    "MODERATION_WORKER__BATCH_TOKENS": "1000000",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how often."""

    policies: Path
    delivery: str
    posts: int
    rounds: int
    memory: int  # posts to watch memory over; 0: none
    quiet: int = 0  # seconds to watch the delay of quiet partitions for; 0: none
    backlog: int = 20_000  # posts in each of the full partitions beside them


@dataclass(frozen=True, slots=True)
class Field:
    """Posts that lie ready on a topic."""

    kafka: str
    plan: Plan
    posts: str  # topic
    count: int

    async def measure(self, way: str, extra: Mapping[str, str]) -> tuple[float, float, int]:
        """(posts a second, the process's CPU milliseconds a post, bytes of a verdict) of one pass."""
        verdicts, group = f"verdicts-{uuid4().hex[:8]}", f"group-{uuid4().hex[:8]}"
        await create_topics(self.kafka, verdicts, f"{self.posts}.{group}.dlq", partitions=PARTITIONS)
        process = _plain(self, verdicts, group, extra) if way == "plain" else _worker(self, verdicts, group, extra)
        try:
            cpu = await _until_committed(self, group, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        stamps, size = await _stamps(self.kafka, verdicts)
        if len(stamps) < self.count:
            raise RuntimeError(f"{way}: {len(stamps)} verdicts for {self.count} posts")
        stamps.sort()
        tenth = len(stamps) // 10
        return (len(stamps) - tenth) / ((stamps[-1] - stamps[tenth]) / 1000), cpu * 1000, size


def _environment(field: Field, verdicts: str, group: str, extra: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    delivery = {} if field.plan.delivery == "exactly_once" else {"MODERATION_KAFKA__DELIVERY": field.plan.delivery}
    return inherited | {
        "MODERATION_KAFKA__BOOTSTRAP": field.kafka,
        "MODERATION_KAFKA__POSTS_TOPIC": field.posts,
        "MODERATION_KAFKA__VERDICTS_TOPIC": verdicts,
        "MODERATION_KAFKA__GROUP": group,
        "MODERATION_MODEL": "fake",
        "MODERATION_POLICIES": str(field.plan.policies),
        "MODERATION_LOG__LEVEL": "error",  # the double cautions at each start
        **delivery,
        **extra,
    }


def _worker(field: Field, verdicts: str, group: str, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    environment = _environment(field, verdicts, group, extra)
    return subprocess.Popen([sys.executable, "-m", "moderation", "worker"], env=environment)


def _plain(field: Field, verdicts: str, group: str, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    told = [field.kafka, field.posts, verdicts, group, field.plan.delivery, extra["size"]]
    return subprocess.Popen([sys.executable, "-m", "moderation.bench.stream", *told])


async def plain(kafka: str, posts: str, verdicts: str, group: str, delivery: str, size: int) -> None:
    """The loop that we are compared with; runs until it is killed."""
    value, exactly = b"v" * size, delivery == "exactly_once"
    consumer = AIOKafkaConsumer(
        posts,
        bootstrap_servers=kafka,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, enable_idempotence=True, transactional_id=group if exactly else None
    )
    async with consumer, producer:
        while True:
            polled = await consumer.getmany(timeout_ms=50, max_records=500)
            if not polled:
                continue
            if exactly:
                await producer.begin_transaction()
            sent = [
                await producer.send(verdicts, value, record.key, partition=record.partition)
                for records in polled.values()
                for record in records
            ]
            await asyncio.gather(*sent)
            offsets = {one: OffsetAndMetadata(records[-1].offset + 1, "") for one, records in polled.items()}
            if exactly:
                await producer.send_offsets_to_transaction(offsets, group)
                await producer.commit_transaction()
            else:
                await consumer.commit(offsets)


async def _until_committed(field: Field, group: str, pid: int, timeout: float = 900) -> float:
    """CPU seconds a post, from the first commit that is seen to the last."""
    partitions = [TopicPartition(field.posts, number) for number in range(PARTITIONS)]
    consumer = AIOKafkaConsumer(bootstrap_servers=field.kafka, group_id=group, enable_auto_commit=False)
    async with consumer, asyncio.timeout(timeout):
        first: tuple[int, float] | None = None
        while True:
            done = sum([await consumer.committed(one) or 0 for one in partitions])
            first = first or ((done, _cpu_s(pid)) if done else None)
            if first and done >= field.count:
                return (_cpu_s(pid) - first[1]) / max(1, done - first[0])
            await asyncio.sleep(0.1)


async def _stamps(kafka: str, topic: str) -> tuple[list[int], int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest")
    stamps: list[int] = []
    size = 0
    async with consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                stamps += [record.timestamp for record in records]
                size = len(records[-1].value)
    return stamps, size


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def _fill(kafka: str, topic: str, count: int, size: int) -> None:
    """Posts of so many bytes each, in words."""
    await create_topics(kafka, topic, partitions=PARTITIONS)
    async with AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=20, max_batch_size=1 << 18) as producer:
        for number in range(count):
            frame = json.dumps({"id": f"post-{number:09}", "text": ""})
            value = frame.replace('""', '"' + ("a word " * size)[: size - len(frame)] + '"').encode()
            await producer.send(topic, value, f"author-{number % 97}".encode(), partition=number % PARTITIONS)


async def _speed(kafka: str, plan: Plan) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    print(f"{'posts':<8}{'way':<9}{'posts/s':>9}{'lowest':>9}{'highest':>9}{'of plain':>10}{'CPU ms/post':>13}")
    for size in SIZES:
        field = Field(kafka, plan, f"posts-{size}-{uuid4().hex[:6]}", plan.posts)
        await _fill(kafka, field.posts, plan.posts, size)
        _, _, verdict_bytes = await field.measure("worker", {})  # warms the broker up, too
        ways: dict[str, dict[str, str]] = {
            "plain": {"size": str(verdict_bytes)},
            "worker": {},
            "wide": WIDE,
            "proto": WIDE | {"MODERATION_KAFKA__VERDICT_FORMAT": "protobuf"},
        }
        found: dict[str, list[tuple[float, float, int]]] = {way: [] for way in ways}
        for _ in range(plan.rounds):
            for way, extra in ways.items():
                found[way].append(await field.measure(way, extra))
        base = statistics.median(rate for rate, _, _ in found["plain"])
        for way, several in found.items():
            rates = [rate for rate, _, _ in several]
            middle, cpu = statistics.median(rates), statistics.median(each for _, each, _ in several)
            row = {
                "bytes": size, "way": way, "posts_s": round(middle, 1), "lowest": round(min(rates), 1),
                "highest": round(max(rates), 1), "of_plain": round(middle / base, 3), "cpu_ms": round(cpu, 3),
                "verdict_bytes": several[0][2],
            }  # fmt: skip
            rows.append(row)
            print(f"{size:<8}{way:<9}{middle:>9.0f}{min(rates):>9.0f}{max(rates):>9.0f}", end="")
            print(f"{middle / base:>10.2f}{cpu:>13.2f}", flush=True)
    return rows


async def _with_model(kafka: str, plan: Plan) -> dict[str, Any]:
    """A model of 100 ms a step: what of its own throughput is left."""
    policies = PolicySet.load(plan.policies)
    fake = Fake(step_ms=STEP_MS)
    text = ("a word " * 1024)[: 1024 - len(json.dumps({"id": f"post-{0:09}", "text": ""}))]
    questions = [policy.question_for_model for policy in policies.policies if policy.asked]
    (item,) = fake.encode(Content(text, (), ""), questions)
    extra = {
        "MODERATION_MODEL": f"fake?step_ms={STEP_MS}",
        "MODERATION_WORKER__BATCH_TOKENS": str(item.tokens * STEP_POSTS),
    }
    field = Field(kafka, plan, f"posts-model-{uuid4().hex[:6]}", STEP_POSTS * 80)
    await _fill(kafka, field.posts, field.count, 1024)
    own, kept = [], []
    for _ in range(plan.rounds):
        begun = time.perf_counter()
        for _ in range(20):
            fake.score([item] * STEP_POSTS)
        own.append(20 * STEP_POSTS / (time.perf_counter() - begun))
        kept.append((await field.measure("worker", extra))[0])
    ratio = statistics.median(kept) / statistics.median(own)
    print(
        f"\nmodel of {STEP_MS:.0f} ms a step of {STEP_POSTS} posts: {statistics.median(own):.1f} posts/s alone,", end=""
    )
    print(f" {statistics.median(kept):.1f} in the worker ({min(kept):.1f} to {max(kept):.1f}): {ratio:.3f}", flush=True)
    return {"own": own, "kept": kept, "ratio": round(ratio, 4)}


async def _memory(kafka: str, plan: Plan) -> dict[str, Any]:
    """Resident memory of a worker while it answers many posts; the slope is that of the second half."""
    field = Field(kafka, plan, f"posts-memory-{uuid4().hex[:6]}", plan.memory)
    verdicts, group = f"verdicts-{uuid4().hex[:8]}", f"group-{uuid4().hex[:8]}"
    await create_topics(kafka, verdicts, f"{field.posts}.{group}.dlq", partitions=PARTITIONS)
    await _fill(kafka, field.posts, field.count, 1024)
    process = _worker(field, verdicts, group, {})
    samples: list[tuple[int, float]] = []
    partitions = [TopicPartition(field.posts, number) for number in range(PARTITIONS)]
    try:
        async with AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False) as consumer:
            done = 0
            while done < field.count:
                await asyncio.sleep(1)
                done = sum([await consumer.committed(one) or 0 for one in partitions])
                samples.append((done, _rss_mb(process.pid)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    half = [(posts, rss) for posts, rss in samples if posts >= field.count / 2]
    slope = statistics.linear_regression(*zip(*half, strict=True)).slope * 100_000 if len(half) > 2 else float("nan")
    first = next((rss for posts, rss in samples if posts >= field.count / 10), 0.0)
    print(f"\nmemory over {field.count} posts: {first:.1f} MB after a tenth, {samples[-1][1]:.1f} at the end,", end="")
    print(f" {slope:+.2f} MB for 100,000 posts in the second half", flush=True)
    return {"posts": field.count, "first_mb": first, "last_mb": samples[-1][1], "slope_mb_100k": round(slope, 3)}


async def _run(plan: Plan) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        if not bootstrap:
            bootstrap = (await stack.enter_async_context(LocalKafka(heap_mb=512))).bootstrap
        facts: dict[str, Any] = {"speed": await _speed(bootstrap, plan), "model": await _with_model(bootstrap, plan)}
        if plan.memory:
            facts["memory"] = await _memory(bootstrap, plan)
        if plan.quiet:

            def start(posts: str, verdicts: str, group: str, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
                return _worker(Field(bootstrap, plan, posts, 0), verdicts, group, extra)

            facts["quiet"] = await quiet.measure(bootstrap, start, plan.quiet, plan.backlog)
    return facts


def run(plan: Plan, results: Path | None) -> None:
    """Measures, prints, and writes `results` as JSON."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, aiokafka {version('aiokafka')}; {plan.delivery}, {plan.posts} posts, {PARTITIONS} partitions")
    facts: dict[str, Any] = {
        "command": f"moderation {' '.join(sys.argv[1:])}",
        "machine": machine,
        "versions": {name: version(name) for name in ("moderation", "aiokafka", "protobuf")},
        "load": os.getloadavg(),
    }
    facts |= asyncio.run(_run(plan))
    if results:
        results.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":  # the plain way, in a process of its own as the worker is
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    bootstrap, posts, verdicts, group, delivery, size = sys.argv[1:]
    asyncio.run(plain(bootstrap, posts, verdicts, group, delivery, int(size)))
