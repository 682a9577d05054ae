"""A step that fails: one post never fails another, and a sick device fails all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from moderation.errors import DeviceError, PostError
from moderation.inference.batcher import Batcher
from moderation.inference.scoring import Scored
from moderation.models.contract import Encoded
from moderation.models.fake import FakeEncoded
from moderation.settings import WorkerSettings
from moderation.types import Reason, Score
from tests.support.batching import SPAM, GatedModel, a_content, behind_a_busy_device


async def test_a_device_that_fails_while_it_looks_ahead_is_sick() -> None:
    class Dying(GatedModel):
        def look_ahead(self, items: Sequence[Encoded]) -> None:
            raise DeviceError("gone")

    model = Dying()
    async with behind_a_busy_device(model, "a", "b b b", batch_tokens=4) as (_, tasks):
        model.release()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Scored, DeviceError, DeviceError]


async def test_a_poison_post_fails_alone() -> None:
    model = GatedModel(raise_on="poison")
    texts = ["a", "b", "poison", "d", "e"]
    async with behind_a_busy_device(model, *texts) as (_, tasks):
        model.release()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        Scored,
        Scored,
        Scored,
        PostError,
        Scored,
        Scored,
    ]
    assert isinstance(outcomes[3], PostError)
    assert outcomes[3].reason is Reason.MODEL_FAILED
    assert outcomes[3].__cause__ is None
    assert outcomes[3].__context__ is None  # nothing of what the model said of the post


async def test_a_post_with_one_poisoned_window_fails_once_and_whole() -> None:
    model = GatedModel(raise_on="poison", window_words=1)
    async with behind_a_busy_device(model, "a poison b", "c") as (_, tasks):
        model.release()
        first, torn, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Scored)
    assert isinstance(torn, PostError)
    assert isinstance(other, Scored)


async def test_a_batch_too_large_for_the_device_is_halved() -> None:
    model = GatedModel(oom_above=1)
    async with behind_a_busy_device(model, *"abcd") as (_, tasks):
        model.release()
        scores = await asyncio.gather(*tasks)
    assert len(scores) == 5
    assert [len(step) for step in model.steps] == [1, 4, 2, 1, 1, 2, 1, 1]


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA out of memory"), MemoryError()])
async def test_a_post_too_large_for_the_device_fails_alone(error: Exception) -> None:
    class Small(GatedModel):
        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            scores = super().score(batch)
            if sum(item.tokens for item in batch) > 20:
                raise error
            return scores

    model = Small()
    async with behind_a_busy_device(model, "a", "b " * 30, "c") as (_, tasks):
        model.release()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Scored, Scored, PostError, Scored]


async def test_a_model_that_fails_on_a_reference_post_is_a_sick_device() -> None:
    class Sick(GatedModel):
        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            super().score(batch)
            raise RuntimeError("each time")

    model = Sick(open=True)
    async with Batcher(model, WorkerSettings()) as batcher:
        with pytest.raises(DeviceError):
            await batcher.warm_up()
        with pytest.raises(DeviceError):
            await batcher.score(a_content("a"), [SPAM])


async def test_a_step_that_does_not_end_is_a_sick_device() -> None:
    model = GatedModel()
    async with Batcher(model, WorkerSettings(step_timeout_s=0.05)) as batcher:
        posts = await asyncio.gather(
            *(batcher.score(a_content(text), [SPAM]) for text in "abc"), return_exceptions=True
        )
    assert [type(outcome) for outcome in posts] == [DeviceError] * 3
    model.release()  # else its thread would outlive the tests


async def test_too_few_rows_are_a_failure_and_shift_no_score() -> None:
    class Short(GatedModel):
        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            scores = super().score(batch)
            return scores[:1] if [item.tokens for item in batch] == [2, 3] else scores

    model = Short()
    async with behind_a_busy_device(model, "a", "b violates:spam") as (_, tasks):
        model.release()
        scores = await asyncio.gather(*tasks)
    assert [post.windows[0][0].probability > 0.5 for post in scores] == [False, False, True]


async def test_a_device_error_fails_every_waiter_and_all_later_calls() -> None:
    model = GatedModel(dies_on="first")
    async with behind_a_busy_device(model, "a", "b") as (batcher, tasks):
        model.release()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DeviceError] * 3
        with pytest.raises(DeviceError):
            await batcher.score(a_content("c"), [SPAM])
    assert model.steps == [["first"]]


async def test_logs_hold_no_content(capfd: pytest.CaptureFixture[str]) -> None:
    class Talkative(GatedModel):
        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            for item in batch:
                if isinstance(item, FakeEncoded) and "secret" in item.text:
                    raise ValueError(f"cannot score {item.text!r}")
            return super().score(batch)

    async with Batcher(Talkative(open=True), WorkerSettings(failed_post_s=0.05)) as batcher:
        with pytest.raises(PostError) as refusal:
            await batcher.score(a_content("a secret"), [SPAM])
    captured = capfd.readouterr()
    assert "step_failed" in captured.out + captured.err
    assert "secret" not in captured.out + captured.err + str(refusal.value)
