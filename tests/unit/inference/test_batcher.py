"""The batcher keeps its promises to callers, to the device and to neighbours. No sleeps: gates and counts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from moderation.errors import ConfigError, DeviceError, ModerationError, PostError
from moderation.inference import encode_pool
from moderation.inference.batcher import Answers, Batcher, Step
from moderation.inference.self_check import PROBES
from moderation.models.contract import Encoded
from moderation.models.fake import Fake, FakeEncoded
from moderation.settings import WorkerSettings
from moderation.types import Arrival, Content, Question, Reason, Score

SPAM = Question("spam", "spam")  # one word: a post of n words costs n + 1 tokens


PROBE_WORDS = {word for probe in PROBES for word in probe.text.split()}


class Watched(Fake):
    """The fake, with its steps on record and a gate before each: a test says when the device is busy.

    Self-checks are counted by themselves, and pass no gate.
    """

    def __init__(self, *, window_words: int = 1000, open: bool = False, **failpoints: object) -> None:
        super().__init__(**failpoints)  # type: ignore[arg-type]
        self.steps: list[list[str]] = []
        self.checks = 0
        self.window_words = window_words
        self._gate = threading.Semaphore(1_000_000 if open else 0)
        self._begun = threading.Semaphore(0)

    def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[FakeEncoded]:
        words = content.text.split() or [""]
        windows = [words[at : at + self.window_words] for at in range(0, len(words), self.window_words)]
        contents = [Content(" ".join(window), content.pictures, "") for window in windows]
        return [item for one in contents for item in super(Watched, self).encode(one, questions)]

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        texts = [item.text for item in batch if isinstance(item, FakeEncoded)]
        if PROBE_WORDS.issuperset(texts[0].split()):
            self.checks += 1
            return super().score(batch)
        self.steps.append(texts)
        self._begun.release()
        self._gate.acquire()
        return super().score(batch)

    async def begun(self) -> None:
        """Waits until one more step has begun."""
        await asyncio.to_thread(self._begun.acquire)

    def let(self, steps: int = 1_000_000) -> None:
        self._gate.release(steps)


def a_content(text: str) -> Content:
    return Content(text, (), "")


def aged(seconds: float) -> Arrival:
    """Of a post that was polled now, and has waited in its topic."""
    now = time.perf_counter()
    return Arrival(now, now - seconds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what it waits for has no event to wait for
            await asyncio.sleep(0.001)


@asynccontextmanager
async def behind_a_busy_device(
    model: Watched, *texts: str, **settings: float
) -> AsyncIterator[tuple[Batcher, list[asyncio.Task[Answers]]]]:
    """The posts, queued in this order behind a step of the post `first` that has begun and waits at the gate."""
    some = WorkerSettings.model_validate({"encode_threads": 1, "failed_post_s": 0.05} | settings)
    async with Batcher(model, some) as batcher:
        tasks = [asyncio.create_task(batcher.score(a_content("first"), [SPAM]))]
        await model.begun()
        tasks += [asyncio.create_task(batcher.score(a_content(text), [SPAM])) for text in texts]
        await until(lambda: batcher.waiting == len(texts))
        try:
            yield batcher, tasks
        finally:
            model.let()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_batch_is_what_queued_while_the_device_was_busy_oldest_first() -> None:
    model = Watched()
    async with behind_a_busy_device(model, "a", "b violates:spam", "c") as (_, tasks):
        model.let()
        answers = await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["a", "b violates:spam", "c"]]
    assert [answer.windows[0][0].probability > 0.5 for answer in answers] == [False, False, True, False]
    assert all(answer.encode >= 0 and answer.batch_wait >= 0 and answer.model > 0 for answer in answers)


async def test_an_idle_device_waits_for_nobody() -> None:
    model = Watched(open=True)
    async with Batcher(model, WorkerSettings()) as batcher:
        for text in ("a", "b"):
            await batcher.score(a_content(text), [SPAM])
    assert model.steps == [["a"], ["b"]]


async def test_a_batch_is_filled_up_to_the_budget_and_no_post_overtakes() -> None:
    model = Watched()
    async with behind_a_busy_device(model, "a a a", "b b b", "c c c c c c c c c", "d", batch_tokens=9) as (_, tasks):
        model.let()
        await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["a a a", "b b b"], ["c c c c c c c c c"], ["d"]]  # c is above the budget, alone


async def test_a_post_that_waited_in_its_topic_goes_first_but_overtakes_within_bounds() -> None:
    model = Watched()
    async with behind_a_busy_device(model, "a", "b") as (batcher, tasks):
        for text, age in (("old", 5.0), ("older", 9.0), ("ancient", 1e9), ("from the future", -60.0)):
            tasks.append(asyncio.create_task(batcher.score(a_content(text), [SPAM], aged(age))))
            await until(lambda: batcher.waiting == len(tasks) - 1)
        model.let()
        await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["ancient", "older", "old", "a", "b", "from the future"]]


async def test_no_post_is_overtaken_without_end() -> None:
    model = Watched()
    async with behind_a_busy_device(model, "a", overtake_s=0.0) as (batcher, tasks):
        tasks.append(asyncio.create_task(batcher.score(a_content("ancient"), [SPAM], aged(1e9))))
        await until(lambda: batcher.waiting == 2)
        model.let()
        await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["a", "ancient"]]


@pytest.mark.parametrize("budget", [8, 4])
async def test_each_partition_has_its_oldest_post_in_the_next_step_or_in_its_turn(budget: int) -> None:
    """Two full ones, whose posts have waited long, and three with one post each; a post is two tokens."""
    model = Watched()
    async with behind_a_busy_device(model, batch_tokens=budget) as (batcher, tasks):
        posts = [(f"{full}{number}", 1e9) for number in range(9) for full in "ab"]
        for text, age in [*posts, ("c", 0.0), ("d", 0.0), ("e", 0.0)]:
            arrival = replace(aged(age), partition=ord(text[0]))
            tasks.append(asyncio.create_task(batcher.score(a_content(text), [SPAM], arrival)))
        await until(lambda: batcher.waiting == len(posts) + 3)
        model.let()
        await asyncio.gather(*tasks)
    each = budget // 2
    scored = [text for step in model.steps[1:] for text in step]
    assert all(len(step) <= each for step in model.steps)
    assert {"c", "d", "e"} <= set(scored[: 5 + each]), "within one turn of the five partitions"
    for full in "ab":
        assert [text for text in scored if text[0] == full] == [f"{full}{number}" for number in range(9)]


async def test_every_step_is_reported() -> None:
    steps: list[Step] = []
    model = Watched(open=True, window_words=2)
    async with Batcher(model, WorkerSettings(batch_tokens=6), steps.append) as batcher:
        await batcher.score(a_content("a b c d"), [SPAM])
    (step,) = steps
    assert (step.posts, step.items, step.tokens, step.waiting) == (1, 2, 6, 0)
    assert step.seconds > 0


@pytest.mark.parametrize("fails", [False, True])
async def test_a_model_is_shown_what_comes_next(fails: bool) -> None:
    class Foresighted(Watched):
        def __init__(self) -> None:
            super().__init__()
            self.ahead: list[list[str]] = []

        def look_ahead(self, items: Sequence[Encoded]) -> None:
            self.ahead.append([item.text for item in items if isinstance(item, FakeEncoded)])
            if fails:
                raise RuntimeError("the step itself will say which post it is")

    model = Foresighted()
    async with behind_a_busy_device(model, "a a a", "b b b", "c c c", "d", batch_tokens=8) as (_, tasks):
        model.let()
        answers = await asyncio.gather(*tasks)
    assert model.steps == [["first"], ["a a a", "b b b"], ["c c c", "d"]]
    assert model.ahead == [["c c c", "d"]], "at the first step nothing was queued yet, at the last nothing any more"
    assert len(answers) == 5


async def test_a_device_that_fails_while_it_looks_ahead_is_sick() -> None:
    class Dying(Watched):
        def look_ahead(self, items: Sequence[Encoded]) -> None:
            raise DeviceError("gone")

    model = Dying()
    async with behind_a_busy_device(model, "a", "b b b", batch_tokens=4) as (_, tasks):
        model.let()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Answers, DeviceError, DeviceError]


async def test_windows_of_a_post_go_together_where_they_fit() -> None:
    model = Watched(window_words=2)
    texts = ("a", "b b b b", "c c c c c c c c c c")
    async with behind_a_busy_device(model, *texts, batch_tokens=7) as (_, tasks):
        model.let()
        answers = await asyncio.gather(*tasks)
    # b (2 windows of 3) does not fit behind a and waits; c (5 windows of 3) fits into no batch and is cut
    assert model.steps == [["first"], ["a"], ["b b", "b b"], ["c c", "c c"], ["c c", "c c"], ["c c"]]
    assert [len(answer.windows) for answer in answers] == [1, 1, 2, 5]


async def test_the_answers_of_windows_stand_in_their_order() -> None:
    model = Watched(window_words=1, open=True)
    async with Batcher(model, WorkerSettings(batch_tokens=2)) as batcher:
        answer = await batcher.score(a_content("a violates:spam c"), [SPAM, Question("hate", "hate")])
    assert [[score.probability > 0.5 for score in window] for window in answer.windows] == [
        [False, False],
        [True, False],
        [False, False],
    ]


async def test_a_poison_post_fails_alone() -> None:
    model = Watched(raise_on="poison")
    texts = ["a", "b", "poison", "d", "e"]
    async with behind_a_busy_device(model, *texts) as (_, tasks):
        model.let()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Answers, Answers, Answers, PostError, Answers, Answers]
    assert isinstance(outcomes[3], PostError)
    assert outcomes[3].reason is Reason.MODEL_FAILED
    assert outcomes[3].__cause__ is None
    assert outcomes[3].__context__ is None  # nothing of what the model said of the post


async def test_a_post_with_one_poisoned_window_fails_once_and_whole() -> None:
    model = Watched(raise_on="poison", window_words=1)
    async with behind_a_busy_device(model, "a poison b", "c") as (_, tasks):
        model.let()
        first, torn, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Answers)
    assert isinstance(torn, PostError)
    assert isinstance(other, Answers)


async def test_a_batch_too_large_for_the_device_is_halved() -> None:
    model = Watched(oom_above=1)
    async with behind_a_busy_device(model, *"abcd") as (_, tasks):
        model.let()
        answers = await asyncio.gather(*tasks)
    assert len(answers) == 5
    assert [len(step) for step in model.steps] == [1, 4, 2, 1, 1, 2, 1, 1]


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA out of memory"), MemoryError()])
async def test_a_post_too_large_for_the_device_fails_alone(error: Exception) -> None:
    class Small(Watched):
        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            scores = super().score(batch)
            if sum(item.tokens for item in batch) > 20:
                raise error
            return scores

    model = Small()
    async with behind_a_busy_device(model, "a", "b " * 30, "c") as (_, tasks):
        model.let()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Answers, Answers, PostError, Answers]


async def test_a_model_that_fails_on_our_own_post_is_a_sick_device() -> None:
    class Sick(Watched):
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
    model = Watched()
    async with Batcher(model, WorkerSettings(step_timeout_s=0.05)) as batcher:
        posts = await asyncio.gather(
            *(batcher.score(a_content(text), [SPAM]) for text in "abc"), return_exceptions=True
        )
    assert [type(outcome) for outcome in posts] == [DeviceError] * 3
    model.let()  # or its thread would outlive the tests


async def test_too_few_answers_are_a_failure_not_a_shift() -> None:
    class Short(Watched):
        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            scores = super().score(batch)
            return scores[:1] if [item.tokens for item in batch] == [2, 3] else scores

    model = Short()
    async with behind_a_busy_device(model, "a", "b violates:spam") as (_, tasks):
        model.let()
        answers = await asyncio.gather(*tasks)
    assert [answer.windows[0][0].probability > 0.5 for answer in answers] == [False, False, True]


async def test_warm_up_asks_what_posts_will_be_asked_and_learns_the_self_check() -> None:
    model = Watched(open=True)
    async with Batcher(model, WorkerSettings()) as batcher:
        await batcher.warm_up([SPAM])
    assert model.steps == []
    assert model.checks == 3, "the questions, then both probes in either order"


async def test_callers_who_left_are_skipped() -> None:
    model = Watched()
    async with behind_a_busy_device(model, "a", "b", "c") as (_, tasks):
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        model.let()
        await asyncio.gather(tasks[0], tasks[1], tasks[3])
    assert model.steps == [["first"], ["a", "c"]]


async def test_a_batch_whose_callers_all_left_is_no_step() -> None:
    model = Watched()
    async with behind_a_busy_device(model, "a") as (batcher, tasks):
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        model.let()
        await tasks[0]
        await batcher.score(a_content("b"), [SPAM])
    assert model.steps == [["first"], ["b"]]


async def test_a_device_error_fails_every_waiter_and_all_later_calls() -> None:
    model = Watched(dies_on="first")
    async with behind_a_busy_device(model, "a", "b") as (batcher, tasks):
        model.let()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DeviceError] * 3
        with pytest.raises(DeviceError):
            await batcher.score(a_content("c"), [SPAM])
    assert model.steps == [["first"]]


async def test_closing_leaves_nobody_waiting() -> None:
    model = Watched()
    batcher = Batcher(model, WorkerSettings(encode_threads=1, max_in_flight=3))
    async with batcher:
        tasks = [asyncio.create_task(batcher.score(a_content("first"), [SPAM]))]
        await model.begun()
        tasks += [asyncio.create_task(batcher.score(a_content(text), [SPAM])) for text in "abcd"]
        await until(lambda: batcher.waiting == 2)  # the others wait for room
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ModerationError] * 5
    with pytest.raises(ModerationError):
        await batcher.score(a_content("e"), [SPAM])
    model.let()


async def test_closing_reaches_those_who_wait_for_an_encoder() -> None:
    class Slow(Watched):
        gate = threading.Event()
        begun_encoding = threading.Event()

        def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[FakeEncoded]:
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


async def test_no_more_posts_than_allowed_are_encoded_at_once() -> None:
    class Counted(Watched):
        encoded = 0

        def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[FakeEncoded]:
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
        model.let()
        await asyncio.gather(*tasks)
    assert model.encoded == 4
    assert all(len(step) <= 2 for step in model.steps)


async def test_what_a_tokenizer_chokes_on_is_the_posts_fault() -> None:
    class Choking(Watched):
        def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[FakeEncoded]:
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


class Hanging(Fake):
    """The fake, whose encoding of a post `hang` does not end before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.hanging, self.let_go = threading.Event(), threading.Event()

    def __enter__(self) -> Hanging:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()

    def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[FakeEncoded]:
        if content.text == "hang":
            self.hanging.set()
            self.let_go.wait()
        return super().encode(content, questions)


async def test_a_post_that_hangs_in_its_encoding_fails_alone_and_others_go_on() -> None:
    settings = WorkerSettings(encode_threads=2, encode_timeout_s=0.05)
    with Hanging() as model:
        async with Batcher(model, settings) as batcher:
            with pytest.raises(PostError) as caught:
                await batcher.score(a_content("hang"), [SPAM])
            assert caught.value.reason is Reason.DEADLINE_EXCEEDED
            assert (await batcher.score(a_content("another"), [SPAM])).windows


async def test_when_every_encoder_hangs_the_process_is_at_fault_and_not_the_posts() -> None:
    settings = WorkerSettings(encode_threads=2, encode_timeout_s=0.05)
    with Hanging() as model:
        async with Batcher(model, settings) as batcher:
            hung = [batcher.score(a_content("hang"), [SPAM]) for _ in range(6)]  # with the spare threads
            outcomes = await asyncio.gather(*hung, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes].count(DeviceError) == 1
            assert [type(outcome) for outcome in outcomes].count(PostError) == 5
            with pytest.raises(DeviceError, match="no post is encoded"):
                await batcher.score(a_content("another"), [SPAM])


async def test_small_posts_that_wait_for_a_thread_share_a_way_to_it_and_one_step() -> None:
    model = Watched(open=True)
    settings = WorkerSettings(encode_threads=1, batch_tokens=1_000_000)
    async with Batcher(model, settings) as batcher:
        posts = [batcher.score(a_content(f"post {number}"), [SPAM]) for number in range(20)]
        await asyncio.gather(*posts, batcher.score(a_content("long" * encode_pool.SMALL_CHARS), [SPAM]))
    assert sum(map(len, model.steps)) == 21
    assert len(model.steps) < 10, "19 posts waited while the first one was on its way"


async def test_a_post_that_hangs_holds_up_nobody_of_its_row() -> None:
    with Hanging() as model:
        async with Batcher(model, WorkerSettings(encode_threads=2, encode_timeout_s=60)) as batcher:
            hung, *others = [
                asyncio.create_task(batcher.score(a_content(text), [SPAM])) for text in ("hang", "a", "b", "c")
            ]
            answers = await asyncio.wait_for(asyncio.gather(*others), 20)
            assert all(answer.windows for answer in answers)
            assert not hung.done()
            model.let_go.set()
            assert (await hung).windows


async def test_a_tokenizer_that_panics_fails_its_post_alone() -> None:
    class PanicException(BaseException):
        pass

    class Panicking(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[FakeEncoded]:
            if content.text == "panic":
                raise PanicException
            return super().encode(content, questions)

    async with Batcher(Panicking(), WorkerSettings(encode_threads=1, failed_post_s=0.05)) as batcher:
        scored = [batcher.score(a_content(text), [SPAM]) for text in ("a", "panic", "b")]
        outcomes = await asyncio.gather(*scored, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Answers, PostError, Answers]


async def test_no_question_asks_nobody() -> None:
    model = Watched()
    async with Batcher(model, WorkerSettings()) as batcher:
        assert await batcher.score(a_content("a"), []) == Answers((), 0.0, 0.0, 0.0)
    assert model.steps == []


async def test_logs_hold_no_content(capfd: pytest.CaptureFixture[str]) -> None:
    class Talkative(Watched):
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


async def test_a_question_that_does_not_fit_is_the_operators_and_not_the_posts_fault() -> None:
    class Strict(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[FakeEncoded]:
            if any(len(question.text) > 20 for question in questions):
                raise ConfigError("policy verbose: too long")
            return super().encode(content, questions)

    async with Batcher(Strict(), WorkerSettings()) as batcher:
        with pytest.raises(ConfigError, match="verbose"):
            await batcher.warm_up([Question("verbose", "a question of many words")])
        with pytest.raises(ConfigError, match="verbose"):
            await batcher.score(Content("x", (), ""), [Question("verbose", "a question of many words")])
