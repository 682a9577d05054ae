"""Exactly once while brokers are killed and revived. `make test` plays this alone: three brokers need both cores."""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.conftest import SEED, Play
from tests.chaos.harness import Cluster
from tests.chaos.scenarios import BROKERS


async def test_a_broker_that_dies_takes_nothing_with_it(three_brokers: Cluster, played: Play) -> None:
    result = await played(three_brokers, replace(BROKERS["5"], posts=1500), SEED)
    assert result.ok, result.summary()
    assert result.struck["broker killed"] == 3
