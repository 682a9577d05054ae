"""Exactly once under faults, the short set: one run of most scenarios. `make chaos` plays the long set.

A failure prints its seed. `python -m tests.chaos --scenarios NAME --seed SEED` plays the run again.
MODERATION_TEST_SEED sets the seed. A seed repeats the faults, but not the moments at which they meet posts: these
depend on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.harness import Cluster, play
from tests.chaos.scenario import Result, Scenario
from tests.chaos.scenarios import BROKERS, SCENARIOS
from tests.chaos.worker import NO_RESEEK, NO_RESTORE, PRODUCER_PER_WORKER
from tests.support.topics import run_apart

SEED = int(os.environ.get("MODERATION_TEST_SEED", "20"))
ATTEMPTS = 3  # to see a mutation do wrong
SHORT = ("1", "3", "4", "6", "7", "9", "14", "14o", "19")


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


async def played(cluster: Cluster, scenario: Scenario, tmp_path: Path, seed: int = SEED) -> Result:
    result = await play(cluster, scenario, seed, keep=tmp_path)
    print(result.summary(), f"logs of a failed run: {tmp_path}", sep="\n")
    return result


@pytest.mark.parametrize("name", SHORT)
async def test_every_post_is_answered_exactly_once_and_in_order(one_broker: Cluster, name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    result = await played(one_broker, scenario, tmp_path)
    assert result.ok, result.summary()


async def test_a_throttled_worker_answers_every_post(one_broker: Cluster, tmp_path: Path) -> None:
    """A CPU limit stops a process at any instruction: between the event loop and a thread, too."""
    result = await played(one_broker, replace(SCENARIOS["20"], posts=8_000), tmp_path)
    assert result.ok, result.summary()
    assert result.struck["SIGSTOP"] > 5


async def test_a_broker_that_dies_takes_nothing_with_it(three_brokers: Cluster, tmp_path: Path) -> None:
    result = await played(three_brokers, replace(BROKERS["5"], posts=1500), tmp_path)
    assert result.ok, result.summary()
    assert result.struck["broker killed"] == 3


TWICE = ("missing", "duplicated", "contradictory")


@pytest.mark.parametrize(
    ("name", "design", "wrongs"),
    [("2w", PRODUCER_PER_WORKER, TWICE), ("2z", NO_RESEEK, TWICE), ("10", NO_RESTORE, ("forgotten",))],
)
async def test_the_checker_catches_a_worker_that_lacks_a_safeguard(
    one_broker: Cluster, name: str, design: str, wrongs: Sequence[str], tmp_path: Path
) -> None:
    """What a green run is worth: under the same faults the worker as built stands, and its mutation does not.

    The mutation has a window of seconds to do wrong in, and the machine may be slower than that now and then.
    """
    for attempt in range(ATTEMPTS):
        mutant = await played(one_broker, SCENARIOS[name].with_design(design), tmp_path, SEED + attempt)
        if caught := any(getattr(mutant.findings, wrong) for wrong in wrongs):
            break
    assert caught, mutant.summary()
    result = await played(one_broker, SCENARIOS[name], tmp_path)
    assert result.ok, result.summary()
