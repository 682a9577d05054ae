"""A short run of `make fire`: a thousand hostile posts, sixty pictures among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fire.harness import Fire
from tests.fire.posts import KINDS, Plan
from tests.support.harness import a_harness

PLAN = Plan(records=1_000, pictures=60, heavy=8, hanging=2)
SEED = 19


@pytest.mark.timeout(600)
async def test_the_service_stands_under_fire(kafka: str, names: Callable[[str], str], tmp_path: Path) -> None:
    fire = Fire(await a_harness(kafka, names, tmp_path), tmp_path)
    result = await fire.play(PLAN, SEED, timeout=240)
    print(result)
    for role in fire.roles:
        print(role.log[-2_000:])
    assert result.outcomes.keys() == KINDS.keys()
    assert not result.changed
    assert not result.milder
    assert not result.leaks
    assert not result.exits
    assert not any(result.codes)
    assert max(result.peak_mib) <= result.bound_mib
