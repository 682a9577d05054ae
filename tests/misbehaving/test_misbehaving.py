"""A model that misbehaves: real workers with the misbehaving fake model, on a real Kafka.

The quick rows; `make misbehaving` plays the same rows with more posts.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.misbehaving.harness import play
from tests.misbehaving.rows import FULL, ROWS
from tests.support.harness import Harness

PLAYED = FULL if os.environ.get("MODERATION_TEST_FULL") else ROWS


@pytest.mark.parametrize("row", PLAYED)
async def test_each_post_has_its_verdict_when_the_model_misbehaves(row: str, harness: Harness, tmp_path: Path) -> None:
    await play(harness, PLAYED[row], tmp_path)
