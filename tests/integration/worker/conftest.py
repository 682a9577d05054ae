"""Fixtures of the worker tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moderation.settings import KafkaSettings
from tests.support.harness import Harness
from tests.support.topics import make_topics


@pytest.fixture(params=["exactly_once", "at_least_once"])
def each_delivery(request: pytest.FixtureRequest, harness: Harness) -> Harness:
    """For promises that hold with and without transactions."""
    return harness.with_kafka(delivery=request.param)


@pytest.fixture
async def settings(kafka: str, names: Callable[[str], str]) -> KafkaSettings:
    """The topics of one test, each with one partition."""
    settings = KafkaSettings(
        bootstrap=kafka,
        posts_topic=names("posts"),
        verdicts_topic=names("verdicts"),
        group=names("group"),
        transaction_timeout_ms=5_000,
    )
    await make_topics(kafka, settings.posts_topic, settings.verdicts_topic, settings.dead_letters)
    return settings
