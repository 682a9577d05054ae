"""Exactly once under faults, the short set: one run of most scenarios. `make chaos` plays the long set.

A failure prints its seed. `python -m tests.chaos --scenarios NAME --seed SEED` plays the run again.
MODERATION_TEST_SEED sets the seed. A seed repeats the faults, but not the moments at which they meet posts: these
depend on the machine.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.conftest import SEED, Play
from tests.chaos.harness import Cluster
from tests.chaos.scenarios import SCENARIOS

SHORT = ("1", "3", "4", "6", "7", "9", "14", "14o", "19")


@pytest.mark.parametrize("name", SHORT)
async def test_every_post_is_answered_exactly_once_and_in_order(one_broker: Cluster, name: str, played: Play) -> None:
    scenario = SCENARIOS[name]
    result = await played(one_broker, scenario, SEED)
    assert result.ok, result.summary()


async def test_a_throttled_worker_answers_every_post(one_broker: Cluster, played: Play) -> None:
    """A CPU limit stops a process at any instruction: between the event loop and a thread, too."""
    result = await played(one_broker, replace(SCENARIOS["20"], posts=8_000), SEED)
    assert result.ok, result.summary()
    assert result.struck["SIGSTOP"] > 5
