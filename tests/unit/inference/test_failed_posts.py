"""Posts that fail alone: a failure may pass, a bad post is answered soon, a model that is at fault ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from moderation.errors import DeviceError, PostError
from moderation.inference.batcher import Batcher
from moderation.inference.scoring import Scored
from moderation.models.contract import Encoded, Windows
from moderation.models.fake import Fake
from moderation.settings import WorkerSettings
from moderation.types import Content, Question, Reason, Score
from tests.support.misbehaving_model import OF_THE_TEST, Misbehaving, PanicException

SPAM = Question("spam", "spam")
LONG_S = 600.0


def a_content(text: str) -> Content:
    return Content(text, (), text)


async def outcomes_of(model: Fake, *texts: str, **settings: float) -> list[type]:
    some = WorkerSettings.model_validate({"encode_threads": 1, "batch_tokens": 1, "failed_post_s": LONG_S} | settings)
    async with Batcher(model, some) as batcher:
        await batcher.warm_up()
        scored = [batcher.score(a_content(text), [SPAM]) for text in texts]
        outcomes = await asyncio.wait_for(asyncio.gather(*scored, return_exceptions=True), 30)
    for outcome in outcomes:
        if isinstance(outcome, PostError):
            assert outcome.reason is Reason.MODEL_FAILED
    return [type(outcome) for outcome in outcomes]


async def test_a_failure_that_passes_is_no_posts_failure() -> None:
    texts = [f"post {number}" for number in range(40)]
    assert await outcomes_of(Misbehaving(every=10, fault="score:raise"), *texts) == [Scored] * 40


async def test_a_failure_to_encode_that_passes_is_no_posts_failure() -> None:
    class Hiccup(Fake):
        calls = 0

        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:  # type: ignore[override]
            self.calls += 1
            if self.calls % 10 == 0:
                raise PanicException
            return super().encode(content, questions)

    texts = [f"post {number}" for number in range(40)]
    assert await outcomes_of(Hiccup(), *texts) == [Scored] * 40


@pytest.mark.parametrize("seam", ["score", "encode"])
async def test_a_bad_post_among_good_ones_waits_for_one_of_them_and_no_longer(seam: str) -> None:
    bad = f"fault:{seam}:raise"
    assert await outcomes_of(Misbehaving(), "a", bad, "b") == [Scored, PostError, Scored]


@pytest.mark.parametrize("seam", ["score", "encode"])
async def test_a_bad_post_without_followers_fails_soon(seam: str) -> None:
    assert await outcomes_of(Misbehaving(), f"fault:{seam}:raise", failed_post_s=0.02) == [PostError]


async def test_everything_but_the_reference_posts_fails_and_no_post_is_a_dead_letter() -> None:
    texts = [f"post {OF_THE_TEST} {number}" for number in range(40)]
    assert await outcomes_of(Misbehaving(blind=1), *texts) == [DeviceError] * 40


async def test_a_model_that_turns_blind_fails_on_what_it_could_score_before() -> None:
    texts = [f"post {OF_THE_TEST} {number}" for number in range(40)]
    outcomes = await outcomes_of(Misbehaving(blind=10), *texts)
    well = outcomes.count(Scored)
    assert well > 0
    assert outcomes == [Scored] * well + [DeviceError] * (40 - well)


async def test_few_posts_that_all_fail_end_the_process_too_once_nothing_else_comes() -> None:
    texts = [f"post {OF_THE_TEST} {number}" for number in range(5)]
    assert await outcomes_of(Misbehaving(blind=1), *texts, failed_post_s=0.02) == [DeviceError] * 5


async def test_the_row_goes_on_over_posts_that_were_answered_because_nothing_else_came() -> None:
    found: list[type] = []
    some = WorkerSettings(encode_threads=1, failed_post_s=0.02)
    async with Batcher(Misbehaving(blind=1), some) as batcher:
        await batcher.warm_up()
        for number in range(6):
            with pytest.raises((PostError, DeviceError)) as caught:
                await batcher.score(a_content(f"post {OF_THE_TEST} {number}"), [SPAM])
            found.append(caught.type)
    assert found == [PostError] * 4 + [DeviceError] * 2


@pytest.mark.parametrize("seam", ["score", "encode"])
async def test_the_same_post_again_and_again_is_one_post(seam: str) -> None:
    some = WorkerSettings(encode_threads=1, failed_post_s=0.01)
    async with Batcher(Misbehaving(), some) as batcher:
        for _ in range(8):
            with pytest.raises(PostError):
                await batcher.score(a_content(f"fault:{seam}:raise"), [SPAM])


@pytest.mark.parametrize("seam", ["score", "encode"])
async def test_a_run_of_bad_posts_does_not_end_the_process(seam: str) -> None:
    bad = [f"{number} fault:{seam}:raise" for number in range(8)]
    assert await outcomes_of(Misbehaving(), *bad, "a") == [PostError] * 8 + [Scored], "the good one stands behind"
    assert await outcomes_of(Misbehaving(), "a", *bad, "b") == [Scored] + [PostError] * 8 + [Scored]


@pytest.mark.parametrize("seam", ["score", "encode"])
async def test_an_endless_row_of_failures_dooms_the_model_even_if_an_earlier_post_succeeds(seam: str) -> None:
    bad = [f"{number} fault:{seam}:raise" for number in range(40)]
    outcomes = await outcomes_of(Misbehaving(), "a", *bad)
    assert outcomes[0] is Scored or seam == "encode"
    assert outcomes.count(PostError) <= 15
    assert outcomes.count(DeviceError) >= 25


async def test_a_tokenizer_that_fails_on_everything_ends_the_process() -> None:
    class Mute(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:  # type: ignore[override]
            return Windows() if OF_THE_TEST in content.text else super().encode(content, questions)

    texts = [f"post {OF_THE_TEST} {number}" for number in range(40)]
    assert await outcomes_of(Mute(), *texts) == [DeviceError] * 40


async def test_closing_reaches_those_that_are_held_back() -> None:
    async with Batcher(Misbehaving(), WorkerSettings(encode_threads=1, failed_post_s=LONG_S)) as batcher:
        held = [
            asyncio.create_task(batcher.score(a_content(f"fault:{seam}:raise"), [SPAM])) for seam in ("score", "encode")
        ]
        async with asyncio.timeout(20):
            while batcher.held < 2:  # noqa: ASYNC110  what it waits for has no event to wait for
                await asyncio.sleep(0.001)
    outcomes = await asyncio.gather(*held, return_exceptions=True)
    assert all(isinstance(outcome, Exception) and not isinstance(outcome, PostError) for outcome in outcomes)


@pytest.mark.parametrize("error", [RuntimeError(), SystemExit(), asyncio.CancelledError(), PanicException()])
async def test_a_fault_of_the_batcher_fails_all_callers_that_wait(error: BaseException) -> None:
    def fails(step: object) -> None:
        raise error

    async with Batcher(Fake(), WorkerSettings(encode_threads=1, batch_tokens=1), fails) as batcher:
        scored = [batcher.score(a_content(text), [SPAM]) for text in ("a", "b", "c")]
        outcomes = await asyncio.wait_for(asyncio.gather(*scored, return_exceptions=True), 20)
        assert [type(outcome) for outcome in outcomes[1:]] == [DeviceError] * 2
        with pytest.raises(DeviceError):
            await batcher.score(a_content("d"), [SPAM])


async def test_scores_of_windows_of_a_bad_post_are_dropped_with_it() -> None:
    class Windowed(Misbehaving):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:  # type: ignore[override]
            encode = super().encode
            return Windows([item for word in content.text.split() for item in encode(a_content(word), questions)])

        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            self.texts = [*getattr(self, "texts", []), *(getattr(item, "text", "") for item in batch)]
            return super().score(batch)

    model = Windowed()
    assert await outcomes_of(model, "a fault:score:nan b c", "d") == [PostError, Scored]
    assert "b" not in model.texts, "once a window has failed, no step is spent on the others"


async def test_posts_of_the_same_bad_content_are_answered_together() -> None:
    """A wave of one text that breaks the model must not wait two seconds for each."""
    found = outcomes_of(Misbehaving(), *["fault:score:raise"] * 20, failed_post_s=1.0)
    assert await asyncio.wait_for(found, 10) == [PostError] * 20


async def test_a_long_post_that_went_well_is_not_tried_again_in_one_step() -> None:
    """It was scored window by window: all of them at once are more than a step may hold."""

    class Small(Misbehaving):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:  # type: ignore[override]
            (window,) = super().encode(content, questions)
            return Windows([window] * (8 if content.text == "long" else 1))

        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            if len(batch) > 4:
                raise MemoryError
            return super().score(batch)

    texts = ["long", *(f"{number} fault:score:raise" for number in range(6))]
    assert await outcomes_of(Small(), *texts, failed_post_s=0.05) == [Scored] + [PostError] * 6


async def test_the_text_of_a_post_that_has_failed_does_not_clear_a_model_that_fails_on_all_pictures() -> None:
    """A text alone is scored under the digest of its post, by inference/parts.py."""
    some = WorkerSettings(encode_threads=1, batch_tokens=1, failed_post_s=0.02, failed_posts=3)
    async with Batcher(Misbehaving(), some) as batcher:
        await batcher.warm_up()
        outcomes: list[type] = []
        for number in range(3):
            name = f"post {number}"
            for text in (f"{number} fault:score:raise", f"{number} alone"):
                (outcome,) = await asyncio.gather(
                    batcher.score(Content(text, (), name), [SPAM]), return_exceptions=True
                )
                outcomes.append(type(outcome))
    assert outcomes == [PostError, Scored, PostError, Scored, DeviceError, DeviceError]
