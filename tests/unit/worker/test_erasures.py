"""What is published for a copied erasure, among the results of a partition. Kafka is only asked in the other tests."""

from __future__ import annotations

import time

import pytest

from moderation import wire
from moderation.settings import KafkaSettings
from moderation.types import Source
from moderation.worker import messages
from moderation.worker.erasures import COPIES, Erasures
from moderation.worker.messages import Result
from tests.support.builders import a_verdict

SETTINGS = KafkaSettings()
NOW = int(time.time() * 1000)


def post(at: int, post_id: str = "a") -> Result:
    """The verdict on a post that was written so many ms after NOW - 10 s."""
    verdict = a_verdict(post_id, source=Source("posts", 0, at, NOW - 10_000 + at))
    return Result([messages.verdict_message(verdict, (), SETTINGS)], verdict, 0.0)


def erased(at: int, post_id: str = "a", *, copied: bool = False) -> Result:
    source = Source("posts", 1 if copied else 0, at, NOW - 10_000 + at)
    erasure = wire.erasure(post_id, source, (), NOW)
    if copied:
        source = Source("posts", 0, 9_000 + at, NOW)
        erasure = wire.erasure(post_id, source, wire.copy_headers(erasure), NOW)
    return Result([messages.tombstone(erasure, source, SETTINGS)], None, 0.0, None, erasure)


async def published(erasures: Erasures, *results: Result) -> list[int]:
    """The number of each message's result, by object; a result has one message."""
    own = {id(result.messages[0]): number for number, result in enumerate(results)}
    return [own[id(message)] for message in await erasures.messages(results)]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([post(100), erased(200, copied=True)], [0, 1]),
        ([post(300), erased(200, copied=True)], [0, 1, 0]),
        ([post(300, "b"), erased(200, copied=True)], [0, 1]),
        ([post(100), post(300), erased(200, copied=True)], [0, 1, 2, 1]),
        ([post(100), erased(300), erased(200, copied=True)], [0, 1]),
        ([erased(300, copied=True), erased(200, copied=True)], [0]),
        ([erased(200, copied=True), post(100)], [0, 1, 0]),
        ([erased(200, copied=True), post(300)], [0, 1]),
        ([erased(200, copied=True), post(300), post(100)], [0, 1, 2]),
        ([erased(200), post(100)], [0, 1]),  # in one partition the order of records counts, not their clocks
        ([erased(200, copied=True), erased(100)], [0, 1]),
    ],
)
async def test_a_copied_erasure_erases_what_was_written_before_it_and_nothing_else(
    results: list[Result], expected: list[int]
) -> None:
    assert await published(Erasures(SETTINGS, 0), *results) == expected


async def test_what_was_published_before_is_remembered() -> None:
    erasures = Erasures(SETTINGS, 0)
    late = post(100)
    await erasures.messages([erased(200, copied=True)])
    assert len(await erasures.messages([late])) == 2
    await erasures.messages([erased(200, f"p{number}", copied=True) for number in range(COPIES)])
    assert len(erasures._copies) == COPIES


def test_an_erasure_is_copied_to_the_other_partitions_and_a_copy_is_not() -> None:
    source = Source("posts", 2, 7, NOW)
    erasure = wire.erasure("a", source, (), NOW)
    copies = messages.copies(erasure, source, 4, SETTINGS)
    assert [(copy.topic, copy.partition, copy.key, copy.value) for copy in copies] == [
        ("posts", number, b"a", None) for number in (0, 1, 3)
    ]
    for copy in copies:
        received = Source("posts", copy.partition or 0, 3, NOW + 5_000)
        copied = wire.erasure("a", received, copy.headers, NOW + 6_000)
        assert (copied.copied, copied.at_ms) == (True, NOW)
        assert not messages.copies(copied, received, 4, SETTINGS)
