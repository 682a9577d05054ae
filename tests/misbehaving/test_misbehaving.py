"""A model that misbehaves: real workers with the misbehaving fake model, on a real Kafka.

The quick cases; `make misbehaving` plays the same cases with more posts.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.misbehaving.cases import CASES, FULL
from tests.misbehaving.harness import play
from tests.support.harness import Harness

PLAYED = FULL if os.environ.get("MODERATION_TEST_FULL") else CASES


@pytest.mark.parametrize("case", PLAYED)
async def test_each_post_has_its_verdict_when_the_model_misbehaves(case: str, harness: Harness, tmp_path: Path) -> None:
    await play(harness, PLAYED[case], tmp_path)
