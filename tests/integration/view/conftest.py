"""A verdicts topic of its own for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.topics import make_topics
from tests.support.view_topic import PARTITIONS, Topic


@pytest.fixture
async def topic(kafka: str, names: Callable[[str], str], tmp_path: Path) -> Topic:
    name = names("verdicts")
    await make_topics(kafka, name, partitions=PARTITIONS, cleanup_policy="compact")
    return Topic(kafka, name, tmp_path)
