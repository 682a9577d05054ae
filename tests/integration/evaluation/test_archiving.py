"""`moderation archive` against a real Kafka: kill -9 in between loses and doubles nothing, erased posts go."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from moderation import wire
from moderation.evaluation.traffic.archive import Archive, batches, state_of
from moderation.evaluation.traffic.archiving import Archived, Run, Step, topic_batches
from moderation.settings import KafkaSettings
from tests.support.builders import a_policy
from tests.support.past_traffic import a_set, past
from tests.support.recreated import make_again
from tests.support.topics import committed_records, make_topics

PARTITIONS = 3
SMALL_COMMITS = """
from moderation.cli.app import main
from moderation.evaluation.traffic import archiving

archiving.BATCH_ROWS, archiving.COMMIT_ROWS = 20, 100
main()
"""  # a program for `python -c`


def shown(total: int) -> Step:
    return lambda more: None


@dataclass(frozen=True)
class Verdicts:
    """A verdicts topic, and the archive of a test."""

    kafka: str
    topic: str
    folder: Path

    @property
    def settings(self) -> KafkaSettings:
        return KafkaSettings(bootstrap=self.kafka, verdicts_topic=self.topic)

    async def put(self, numbers: Sequence[int], *, commit: bool = True) -> None:
        """One verdict for each number, in a transaction."""
        policies, generator = a_set(a_policy()), random.Random(1)
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka, transactional_id=f"put-{self.topic}")
        async with producer:
            await producer.begin_transaction()
            for number in numbers:
                verdict = past(generator, policies, number).verdict
                value, headers = wire.verdict_record(verdict, "json" if number % 2 else "protobuf")
                key = verdict.post_id.encode()
                await producer.send(self.topic, value, key, number % PARTITIONS, headers=headers)
            await (producer.commit_transaction() if commit else producer.abort_transaction())

    async def send(self, *records: tuple[int, bytes, bytes | None]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.kafka) as producer:
            for partition, key, value in records:
                await producer.send_and_wait(self.topic, value, key, partition)

    def process(self, *options: str, program: str = SMALL_COMMITS) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
        return subprocess.Popen(
            [sys.executable, "-c", program, "archive", str(self.folder), *options],
            env=environment
            | {"MODERATION_KAFKA__BOOTSTRAP": self.kafka, "MODERATION_KAFKA__VERDICTS_TOPIC": self.topic},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def archived(self) -> Archived:
        """What a run that is left alone does."""
        with Archive.opened(self.folder) as archive:
            return await Run(self.settings, archive, asyncio.Event()).go(shown)

    async def reached(self, process: subprocess.Popen[str], commits: int) -> None:
        """Returns once the archive has so many commits, or the process has ended."""
        async with asyncio.timeout(60):
            while process.poll() is None:
                if (state := state_of(self.folder)) is not None and state.commit >= commits:
                    return
                await asyncio.sleep(0.002)

    def rows(self) -> list[tuple[int, int, str]]:
        return sorted(
            (row["partition"], row["offset"], row["post_id"])
            for batch in batches(self.folder, ["partition", "offset", "post_id"])
            for row in batch.to_pylist()
        )

    async def there(self) -> list[tuple[int, int, str]]:
        """What the topic has."""
        records = await committed_records(self.kafka, self.topic, partitions=PARTITIONS)
        return sorted((record.partition, record.offset, record.key.decode()) for record in records if record.value)


@pytest.fixture
async def verdicts(kafka: str, names: Callable[[str], str], tmp_path: Path) -> Verdicts:
    topic = names("verdicts")
    await make_topics(kafka, topic, partitions=PARTITIONS)
    return Verdicts(kafka, topic, tmp_path / "archive")


async def test_kill_9_loses_and_doubles_nothing(verdicts: Verdicts) -> None:
    await verdicts.put(range(1_500))
    await verdicts.put(range(1_500, 1_700), commit=False)
    await verdicts.put(range(1_700, 3_000))
    killed = 0
    for commits in (2, 5, 6, 11):
        process = verdicts.process()
        await verdicts.reached(process, commits)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    done = await verdicts.archived()
    assert killed >= 2, "most runs ended in the middle"
    assert 0 < done.verdicts < 2_800, "the last run went on from where the others had ended"
    assert verdicts.rows() == await verdicts.there()
    assert len(verdicts.rows()) == 2_800
    assert (await verdicts.archived()).verdicts == 0


async def test_an_interrupted_run_keeps_what_it_has_and_says_how_to_go_on(verdicts: Verdicts) -> None:
    await verdicts.put(range(900))
    process = verdicts.process("--follow", "--every", "600")
    await verdicts.reached(process, 1)
    process.send_signal(signal.SIGINT)
    said, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, errors
    assert "verdicts added" in said
    assert "interrupted: the same command goes on from here" in errors
    first = len(verdicts.rows())
    assert (await verdicts.archived()).verdicts == 900 - first
    assert verdicts.rows() == await verdicts.there()


async def test_erased_posts_leave_the_archive_and_later_verdicts_stay(verdicts: Verdicts) -> None:
    await verdicts.put(range(300))
    await verdicts.archived()
    await verdicts.send((0, b"post-3", None), (1, b"post-4", None), (2, b"not a verdict", b"{}"), (1, b"", None))
    await verdicts.put([4])
    done = await verdicts.archived()
    assert (done.verdicts, done.erased, done.unread) == (1, 2, 1)
    ids = [id for _, _, id in verdicts.rows()]
    assert "post-3" not in ids
    assert ids.count("post-4") == 1
    assert len(ids) == 299
    assert not done.late
    with Archive.opened(verdicts.folder) as archive:
        archive.add([], archive.state.model_copy(update={"read_ms": archive.state.read_ms - 13 * 3_600_000}))
    assert not (await verdicts.archived()).late, "nothing came since, so nothing was missed"
    with Archive.opened(verdicts.folder) as archive:
        archive.add([], archive.state.model_copy(update={"read_ms": archive.state.read_ms - 13 * 3_600_000}))
    await verdicts.put([5])
    assert (await verdicts.archived()).late


async def test_a_topic_that_was_made_again_is_read_from_its_beginning(verdicts: Verdicts) -> None:
    await verdicts.put(range(60))
    await verdicts.archived()
    await make_again(verdicts.kafka, verdicts.topic, partitions=PARTITIONS)
    await verdicts.put(range(100, 130))
    done = await verdicts.archived()
    assert (done.verdicts, done.recreated) == (30, True)
    assert len(verdicts.rows()) == 90
    assert (await verdicts.archived()).verdicts == 0


async def test_what_kafka_removed_before_is_said(verdicts: Verdicts) -> None:
    await verdicts.put(range(60))
    await verdicts.archived()
    await verdicts.put(range(60, 120))
    async with admin_of(verdicts.kafka) as admin:
        await admin.delete_records({TopicPartition(verdicts.topic, 0): RecordsToDelete(30)})
    done = await verdicts.archived()
    assert done.lost == 30 - 21, "21 offsets were read: 20 verdicts, and the end of their transaction"
    assert len(verdicts.rows()) == 120 - 9


async def test_another_topic_and_another_process_are_refused(verdicts: Verdicts, names: Callable[[str], str]) -> None:
    await verdicts.put(range(30))
    with Archive.opened(verdicts.folder) as archive:
        await Run(verdicts.settings, archive, asyncio.Event()).go(shown)
        process = verdicts.process()
        _, errors = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 2
        assert "another process archives there: let it go on, or end it" in errors
    other = Verdicts(verdicts.kafka, names("others"), verdicts.folder)
    await make_topics(verdicts.kafka, other.topic, partitions=PARTITIONS)
    process = other.process()
    _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 2
    assert f"it holds verdicts of {verdicts.topic}, not of {other.topic}: archive to another folder" in errors


async def test_rows_of_the_topic_are_those_of_the_archive(verdicts: Verdicts) -> None:
    await verdicts.put(range(200))
    await verdicts.archived()
    seen = [row async for batch in topic_batches(verdicts.settings, None, None, shown) for row in batch.to_pylist()]
    kept = [row for batch in batches(verdicts.folder) for row in batch.to_pylist()]
    for row in (*seen, *kept):
        row["topic_id"] = ""
    assert sorted(map(repr, seen)) == sorted(map(repr, kept))


@asynccontextmanager
async def admin_of(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
