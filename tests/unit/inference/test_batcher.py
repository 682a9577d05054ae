"""Batches: which posts a step holds, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from moderation.errors import ModerationError
from moderation.inference.batcher import Batcher
from moderation.inference.scoring import Scored
from moderation.inference.steps import Step
from moderation.models.contract import Encoded
from moderation.models.fake import FakeEncoded
from moderation.settings import WorkerSettings
from moderation.types import Question
from tests.support.batching import SPAM, GatedModel, a_content, aged, behind_a_busy_device, until


async def test_a_batch_is_what_queued_while_the_device_was_busy_oldest_first() -> None:
    model = GatedModel()
    async with behind_a_busy_device(model, "a", "b violates:spam", "c") as (_, tasks):
        model.release()
        scores = await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["a", "b violates:spam", "c"]]
    assert [post.windows[0][0].probability > 0.5 for post in scores] == [False, False, True, False]
    assert all(post.encode >= 0 and post.batch_wait >= 0 and post.model > 0 for post in scores)


async def test_an_idle_device_scores_a_post_at_once() -> None:
    model = GatedModel(open=True)
    async with Batcher(model, WorkerSettings()) as batcher:
        for text in ("a", "b"):
            await batcher.score(a_content(text), [SPAM])
    assert model.steps == [["a"], ["b"]]


async def test_a_batch_is_filled_up_to_the_budget_and_no_post_overtakes() -> None:
    model = GatedModel()
    async with behind_a_busy_device(model, "a a a", "b b b", "c c c c c c c c c", "d", batch_tokens=9) as (_, tasks):
        model.release()
        await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["a a a", "b b b"], ["c c c c c c c c c"], ["d"]]  # c is above the budget, alone


async def test_a_post_that_waited_in_its_topic_goes_first_but_overtakes_within_bounds() -> None:
    model = GatedModel()
    async with behind_a_busy_device(model, "a", "b") as (batcher, tasks):
        for text, age in (("old", 5.0), ("older", 9.0), ("ancient", 1e9), ("from the future", -60.0)):
            tasks.append(asyncio.create_task(batcher.score(a_content(text), [SPAM], aged(age))))
            await until(lambda: batcher.waiting == len(tasks) - 1)
        model.release()
        await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["ancient", "older", "old", "a", "b", "from the future"]]


async def test_waiting_in_kafka_does_not_count_beyond_its_bound() -> None:
    model = GatedModel()
    async with behind_a_busy_device(model, "a", overtake_s=0.0) as (batcher, tasks):
        tasks.append(asyncio.create_task(batcher.score(a_content("ancient"), [SPAM], aged(1e9))))
        await until(lambda: batcher.waiting == 2)
        model.release()
        await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["a", "ancient"]]


@pytest.mark.parametrize("budget", [8, 4])
async def test_each_partition_has_its_oldest_post_in_the_next_step_or_in_its_turn(budget: int) -> None:
    """Two full ones, whose posts have waited long, and three with one post each; a post is two tokens."""
    model = GatedModel()
    async with behind_a_busy_device(model, batch_tokens=budget) as (batcher, tasks):
        posts = [(f"{full}{number}", 1e9) for number in range(9) for full in "ab"]
        for text, age in [*posts, ("c", 0.0), ("d", 0.0), ("e", 0.0)]:
            arrival = replace(aged(age), partition=ord(text[0]))
            tasks.append(asyncio.create_task(batcher.score(a_content(text), [SPAM], arrival)))
        await until(lambda: batcher.waiting == len(posts) + 3)
        model.release()
        await asyncio.gather(*tasks)
    each = budget // 2
    scored = [text for step in model.steps[1:] for text in step]
    assert all(len(step) <= each for step in model.steps)
    assert {"c", "d", "e"} <= set(scored[: 5 + each]), "within one turn of the five partitions"
    for full in "ab":
        assert [text for text in scored if text[0] == full] == [f"{full}{number}" for number in range(9)]


async def test_every_step_is_reported() -> None:
    steps: list[Step] = []
    model = GatedModel(open=True, window_words=2)
    async with Batcher(model, WorkerSettings(batch_tokens=6), steps.append) as batcher:
        await batcher.score(a_content("a b c d"), [SPAM])
    (step,) = steps
    assert (step.posts, step.items, step.tokens, step.waiting) == (1, 2, 6, 0)
    assert step.seconds > 0


@pytest.mark.parametrize("fails", [False, True])
async def test_a_model_is_shown_what_comes_next(fails: bool) -> None:
    class Foresighted(GatedModel):
        def __init__(self) -> None:
            super().__init__()
            self.ahead: list[list[str]] = []

        def look_ahead(self, items: Sequence[Encoded]) -> None:
            self.ahead.append([item.text for item in items if isinstance(item, FakeEncoded)])
            if fails:
                raise RuntimeError("the step itself will say which post it is")

    model = Foresighted()
    async with behind_a_busy_device(model, "a a a", "b b b", "c c c", "d", batch_tokens=8) as (_, tasks):
        model.release()
        scores = await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["a a a", "b b b"], ["c c c", "d"]]
    assert model.ahead == [["c c c", "d"]], "at the first step and at the last one nothing was queued"
    assert len(scores) == 5


async def test_windows_of_a_post_go_together_where_they_fit() -> None:
    model = GatedModel(window_words=2)
    texts = ("a", "b b b b", "c c c c c c c c c c")
    async with behind_a_busy_device(model, *texts, batch_tokens=7) as (_, tasks):
        model.release()
        scores = await asyncio.gather(*tasks)
    # b (2 windows of 3) does not fit behind a and waits; c (5 windows of 3) fits into no batch and is cut
    assert model.steps == [["first"], ["a"], ["b b", "b b"], ["c c", "c c"], ["c c", "c c"], ["c c"]]
    assert [len(post.windows) for post in scores] == [1, 1, 2, 5]


async def test_the_scores_of_windows_are_in_order() -> None:
    model = GatedModel(window_words=1, open=True)
    async with Batcher(model, WorkerSettings(batch_tokens=2)) as batcher:
        scored = await batcher.score(a_content("a violates:spam c"), [SPAM, Question("hate", "hate")])
    assert [[score.probability > 0.5 for score in window] for window in scored.windows] == [
        [False, False],
        [True, False],
        [False, False],
    ]


async def test_warm_up_scores_the_questions_and_starts_the_self_check() -> None:
    model = GatedModel(open=True)
    async with Batcher(model, WorkerSettings()) as batcher:
        await batcher.warm_up([SPAM])
    assert model.steps == []
    assert model.checks == 3, "the questions, then both reference posts in either order"


async def test_callers_that_left_are_skipped() -> None:
    model = GatedModel()
    async with behind_a_busy_device(model, "a", "b", "c") as (_, tasks):
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        model.release()
        await asyncio.gather(tasks[0], tasks[1], tasks[3])
    assert model.steps == [["first"], ["a", "c"]]


async def test_a_batch_whose_callers_all_left_is_no_step() -> None:
    model = GatedModel()
    async with behind_a_busy_device(model, "a") as (batcher, tasks):
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        model.release()
        await tasks[0]
        await batcher.score(a_content("b"), [SPAM])
    assert model.steps == [["first"], ["b"]]


async def test_closing_fails_all_callers_that_wait() -> None:
    model = GatedModel()
    batcher = Batcher(model, WorkerSettings(encode_threads=1, max_in_flight=3))
    async with batcher:
        tasks = [asyncio.create_task(batcher.score(a_content("first"), [SPAM]))]
        await model.begun()
        tasks += [asyncio.create_task(batcher.score(a_content(text), [SPAM])) for text in "abcd"]
        await until(lambda: batcher.waiting == 2)  # the others wait for admission
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ModerationError] * 5
    with pytest.raises(ModerationError):
        await batcher.score(a_content("e"), [SPAM])
    model.release()


async def test_without_questions_no_step_is_taken() -> None:
    model = GatedModel()
    async with Batcher(model, WorkerSettings()) as batcher:
        assert await batcher.score(a_content("a"), []) == Scored((), 0.0, 0.0, 0.0)
    assert model.steps == []
