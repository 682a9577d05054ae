from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from moderation.dev.checkpoint import seeded
from tests.support.commands import Service
from tests.support.topics import make_topics


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small checkpoint in the published layout, its weights drawn from a seed."""
    return str(seeded(tmp_path_factory.mktemp("model") / "seeded"))


@pytest.fixture
def service(kafka: str, names: Callable[[str], str], model: str, tmp_path: Path) -> Service:
    """Six partitions of each topic, and a folder for pictures."""
    posts = names("posts")
    made = Service(kafka, posts, names("verdicts"), names("group")[-20:], model, tmp_path)
    asyncio.run(make_topics(kafka, made.posts, made.verdicts, made.dead_letters, partitions=6))
    return made
