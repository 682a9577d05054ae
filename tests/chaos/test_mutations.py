"""What a green run is worth: the checker catches workers that lack a safeguard.

`make test` plays these runs alone: on a busy machine a mutation is too slow to do wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.chaos.conftest import SEED, Play
from tests.chaos.harness import Cluster
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.worker import NO_RESEEK, NO_RESTORE, PRODUCER_PER_WORKER

ATTEMPTS = 3  # to see a mutation do wrong
TWICE = ("missing", "duplicated", "contradictory")


@pytest.mark.parametrize(
    ("name", "design", "wrongs"),
    [("2w", PRODUCER_PER_WORKER, TWICE), ("2z", NO_RESEEK, TWICE), ("10", NO_RESTORE, ("forgotten",))],
)
async def test_the_checker_catches_a_worker_that_lacks_a_safeguard(
    one_broker: Cluster, name: str, design: str, wrongs: Sequence[str], played: Play
) -> None:
    """What a green run is worth: under the same faults the worker as built stands, and its mutation does not.

    The mutation has a window of seconds to do wrong in, and the machine may be slower than that now and then.
    """
    for attempt in range(ATTEMPTS):
        mutant = await played(one_broker, SCENARIOS[name].with_design(design), SEED + attempt)
        if caught := any(getattr(mutant.findings, wrong) for wrong in wrongs):
            break
    assert caught, mutant.summary()
    result = await played(one_broker, SCENARIOS[name], SEED)
    assert result.ok, result.summary()
