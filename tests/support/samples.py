"""Samples for tests: every field has a plausible value."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from moderation.evaluation.samples.samples import Item, Level, Region, Sample
from moderation.types import Post
from tests.support.builders import a_post

DAY = datetime(2026, 1, 31, tzinfo=UTC)


def a_sample(**fields: Any) -> Sample:
    defaults: dict[str, Any] = {
        "policy": "no-lakes",
        "policy_version": 1,
        "score_digest": "5" * 64,
        "model_name": "fake",
        "model_digest": "a" * 64,
        "region": Region.REMOVE,
        "levels": (Level(0.9, 1000),),
        "seed": 7,
        "source": "posts",
        "begins": DAY,
        "ends": DAY.replace(hour=12),
        "drawn_at": DAY.replace(hour=13),
    }
    return Sample(**defaults | fields)


def items_of(posts: Sequence[Post]) -> list[Item]:
    groups = (hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(len(posts)))
    return [Item(number, group, 0, post) for number, (group, post) in enumerate(zip(groups, posts, strict=True), 1)]


def some_items(count: int) -> list[Item]:
    return items_of([a_post(f"post-{number}", f"text of post {number}") for number in range(1, count + 1)])
