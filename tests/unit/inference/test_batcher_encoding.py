"""Encoding before the queue: a post that fails or hangs does so alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from moderation import normal_form
from moderation.errors import ConfigError, DeviceError, ModerationError, PostError
from moderation.inference import encode_pool
from moderation.inference.batcher import Batcher
from moderation.inference.scoring import Scored
from moderation.models.contract import Windows
from moderation.models.fake import Fake, FakeEncoded
from moderation.settings import WorkerSettings
from moderation.types import Content, Problem, Question, Reason
from tests.support.batching import SPAM, GatedModel, HangingModel, a_content, until

LIMIT = Problem(Reason.TEXT_TOO_LONG, "text")


async def test_a_post_that_hangs_in_its_encoding_fails_alone_and_others_go_on() -> None:
    normal_form.to_judge("another")  # its tables are read once, which takes a while
    settings = WorkerSettings(encode_threads=2, encode_timeout_s=0.5)
    with HangingModel() as model:
        async with Batcher(model, settings) as batcher:
            with pytest.raises(PostError) as caught:
                await batcher.score(a_content("hang"), [SPAM])
            assert caught.value.reason is Reason.DEADLINE_EXCEEDED
            assert (await batcher.score(a_content("another"), [SPAM])).windows


async def test_when_every_encoder_hangs_the_process_is_at_fault_and_not_the_posts() -> None:
    settings = WorkerSettings(encode_threads=2, encode_timeout_s=0.05)
    with HangingModel() as model:
        async with Batcher(model, settings) as batcher:
            hung = [batcher.score(a_content("hang"), [SPAM]) for _ in range(6)]  # with the spare threads
            outcomes = await asyncio.gather(*hung, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes].count(DeviceError) == 1
            assert [type(outcome) for outcome in outcomes].count(PostError) == 5
            with pytest.raises(DeviceError, match="all encoding threads are stuck"):
                await batcher.score(a_content("another"), [SPAM])


async def test_small_posts_that_wait_for_a_thread_are_encoded_in_a_group_and_share_a_step() -> None:
    model = GatedModel(open=True)
    settings = WorkerSettings(encode_threads=1, batch_tokens=1_000_000)
    async with Batcher(model, settings) as batcher:
        posts = [batcher.score(a_content(f"post {number}"), [SPAM]) for number in range(20)]
        await asyncio.gather(*posts, batcher.score(a_content("long" * encode_pool.SMALL_CHARS), [SPAM]))
    assert sum(map(len, model.steps)) == 21
    assert len(model.steps) < 10, "19 posts waited while the first one was on its way"


async def test_a_post_that_hangs_does_not_delay_its_group() -> None:
    with HangingModel() as model:
        async with Batcher(model, WorkerSettings(encode_threads=2, encode_timeout_s=60)) as batcher:
            hung, *others = [
                asyncio.create_task(batcher.score(a_content(text), [SPAM])) for text in ("hang", "a", "b", "c")
            ]
            scores = await asyncio.wait_for(asyncio.gather(*others), 20)
            assert all(post.windows for post in scores)
            assert not hung.done()
            model.released.set()
            assert (await hung).windows


async def test_a_tokenizer_that_panics_fails_its_post_alone() -> None:
    class PanicException(BaseException):
        pass

    class Panicking(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            if content.text == "panic":
                raise PanicException
            return super().encode(content, questions)

    async with Batcher(Panicking(), WorkerSettings(encode_threads=1, failed_post_s=0.05)) as batcher:
        scored = [batcher.score(a_content(text), [SPAM]) for text in ("a", "panic", "b")]
        outcomes = await asyncio.gather(*scored, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Scored, PostError, Scored]


async def test_no_more_posts_than_allowed_are_encoded_at_once() -> None:
    class Counted(GatedModel):
        encoded = 0

        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            self.encoded += 1
            return super().encode(content, questions)

    model = Counted()
    async with Batcher(model, WorkerSettings(encode_threads=1, max_in_flight=2)) as batcher:
        tasks = [asyncio.create_task(batcher.score(a_content(text), [SPAM])) for text in "abcd"]
        await model.begun()
        await until(lambda: model.encoded == 2)
        for _ in range(100):
            await asyncio.sleep(0)
        assert model.encoded == 2
        model.release()
        await asyncio.gather(*tasks)
    assert model.encoded == 4
    assert all(len(step) <= 2 for step in model.steps)


async def test_an_error_of_the_tokenizer_is_the_posts_fault() -> None:
    class Choking(GatedModel):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            if content.text == "odd":
                raise UnicodeError("odd")
            if content.text == "refused":
                raise PostError(Reason.TEXT_TOO_LONG, "too long")
            return super().encode(content, questions)

    async with Batcher(Choking(open=True), WorkerSettings(failed_post_s=0.05)) as batcher:
        for text, reason in (("odd", Reason.MODEL_FAILED), ("refused", Reason.TEXT_TOO_LONG)):
            with pytest.raises(PostError) as refusal:
                await batcher.score(a_content(text), [SPAM])
            assert refusal.value.reason is reason
        assert await batcher.score(a_content("fine"), [SPAM])


async def test_what_a_limit_left_out_stands_beside_the_scores() -> None:
    class Limited(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            return replace(super().encode(content, questions), problems=(LIMIT,) if content.text == "long" else ())

    async with Batcher(Limited(), WorkerSettings(encode_threads=1)) as batcher:
        scored = await asyncio.gather(*(batcher.score(a_content(text), [SPAM]) for text in ("long", "short")))
    assert [post.problems for post in scored] == [(LIMIT,), ()]
    assert [len(post.windows) for post in scored] == [1, 1]


async def test_closing_fails_callers_that_wait_for_an_encoder() -> None:
    class Slow(GatedModel):
        gate = threading.Event()
        begun_encoding = threading.Event()

        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            self.begun_encoding.set()
            self.gate.wait()
            return super().encode(content, questions)

    model = Slow(open=True)
    async with Batcher(model, WorkerSettings(encode_threads=1)) as batcher:
        tasks = [asyncio.create_task(batcher.score(a_content(text), [SPAM])) for text in "abc"]
        await asyncio.to_thread(model.begun_encoding.wait)
    model.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ModerationError] * 3


async def test_a_question_that_does_not_fit_is_the_operators_and_not_the_posts_fault() -> None:
    class Strict(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            if any(len(question.text) > 20 for question in questions):
                raise ConfigError("policy verbose: too long")
            return super().encode(content, questions)

    async with Batcher(Strict(), WorkerSettings()) as batcher:
        with pytest.raises(ConfigError, match="verbose"):
            await batcher.warm_up([Question("verbose", "a question of many words")])
        with pytest.raises(ConfigError, match="verbose"):
            await batcher.score(Content("x", (), ""), [Question("verbose", "a question of many words")])
