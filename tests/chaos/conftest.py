"""Brokers for chaos, and a run on them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.harness import Cluster, play
from tests.chaos.scenario import Result, Scenario
from tests.support.topics import run_apart

SEED = int(os.environ.get("MODERATION_TEST_SEED", "20"))
Play = Callable[[Cluster, Scenario, int], Awaitable[Result]]


@pytest.fixture(scope="module")
def one_broker(local_kafka: None) -> Iterator[Cluster]:
    cluster = Cluster()
    run_apart(cluster.kafka.start())
    yield cluster
    run_apart(cluster.kafka.stop())


@pytest.fixture(scope="module")
def three_brokers(local_kafka: None) -> Iterator[Cluster]:
    cluster = Cluster(3)
    run_apart(cluster.kafka.start())
    yield cluster
    run_apart(cluster.kafka.stop())


@pytest.fixture
def played(tmp_path: Path) -> Play:
    """Plays a scenario with a seed, and prints what came of it."""

    async def result_of(cluster: Cluster, scenario: Scenario, seed: int) -> Result:
        result = await play(cluster, scenario, seed, keep=tmp_path)
        print(result.summary(), f"logs of a failed run: {tmp_path}", sep="\n")
        return result

    return result_of
