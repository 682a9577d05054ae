"""No post is lost between the event loop and the threads that encode, whenever either of them stands still."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator

import pytest

from moderation.errors import ModerationError
from moderation.inference.encode_pool import EncodePool
from moderation.models.checked import CheckedModel
from moderation.models.fake import FakeEncoded
from moderation.settings import WorkerSettings
from moderation.types import Content, Question
from tests.support.batching import StutteringModel

QUESTION = Question("spam", "Is this spam?")


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize("threads", [1, 3])
async def test_every_post_is_answered_however_often_its_thread_stands_still(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are taken away from threads all the time, right when these go from one post to the next."""
    from moderation.inference import deadline_pool

    monkeypatch.setattr(deadline_pool, "SLOW_S", 0.0005)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    pauses = random.Random(seed)
    encoders = EncodePool(
        CheckedModel(StutteringModel(every=40, seconds=0.001)), WorkerSettings(encode_threads=threads), lambda: None
    )
    asked = 0

    async def caller() -> None:
        nonlocal asked
        for _ in range(60):
            asked += 1
            windows = await encoders.encode(Content(f"post {asked}", (), ""), [QUESTION])
            assert len(windows) == 1
            if pauses.random() < 0.05:
                await asyncio.sleep(0.0005)

    async with asyncio.timeout(60):
        await asyncio.gather(*(caller() for _ in range(64)))
    assert asked == 60 * 64
    assert len(encoders.pool) == 0
    encoders.close(ModerationError("closed"))


@pytest.mark.usefixtures("eager_switches")
async def test_many_posts_at_once_are_all_answered_by_one_thread() -> None:
    encoders = EncodePool(
        CheckedModel(StutteringModel(every=50, seconds=0.12)), WorkerSettings(encode_threads=1), lambda: None
    )
    async with asyncio.timeout(60):
        posts = [Content(f"post {number}", (), "") for number in range(1_500)]
        found = await asyncio.gather(*(encoders.encode(post, [QUESTION]) for post in posts))
    assert [item.encoded.text for (item,) in found if isinstance(item.encoded, FakeEncoded)] == [
        post.text for post in posts
    ]
    encoders.close(ModerationError("closed"))
