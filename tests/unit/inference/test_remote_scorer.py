"""Posts and a model behind a server: all windows at once, no post for another, and every answer checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from moderation.errors import ChangedError, ModerationError, PostError
from moderation.inference.remote import SHARE, RemoteScorer
from moderation.observability import phases
from moderation.observability.phases import InHand
from moderation.settings import WorkerSettings
from moderation.types import Problem, Question, Reason, Score, YesNo
from tests.support.batching import a_content, until
from tests.support.remote_model import YES, Remote, Word

SPAM, LAKES = Question("spam", "spam"), Question("lakes", "lakes")


@asynccontextmanager
async def a_scorer(model: Remote) -> AsyncIterator[RemoteScorer]:
    async with RemoteScorer(model, WorkerSettings(encode_threads=1, max_in_flight=2)) as scorer:
        yield scorer
    assert model.closed


async def test_all_windows_are_asked_at_once_and_answers_keep_their_order() -> None:
    model = Remote(lambda word: [[YES, Reason.REFUSED] if word.text == "slow" else [YesNo(yes=False), YES]])
    async with a_scorer(model) as scorer:
        scoring = asyncio.create_task(scorer.score(a_content("slow quick"), [SPAM, LAKES]))
        await until(lambda: model.asked == ["slow", "quick"])
        model.gate.set()
        scored = await scoring
    assert scored.windows == ((YES, Reason.REFUSED), (YesNo(yes=False), YES))
    assert scored.batch_wait == 0
    assert scored.model > 0


async def test_what_a_limit_left_out_stands_beside_the_answers() -> None:
    model = Remote()
    model.problems = (Problem(Reason.TEXT_TOO_LONG, "text"),)
    async with a_scorer(model) as scorer:
        scored = await scorer.score(a_content("a b"), [SPAM])
    assert (scored.windows, scored.problems) == (((YES,), (YES,)), model.problems)


async def test_no_post_waits_for_another() -> None:
    model = Remote()
    async with a_scorer(model) as scorer:
        slow = asyncio.create_task(scorer.score(a_content("slow"), [SPAM]))
        await until(lambda: "slow" in model.asked)
        assert (await scorer.score(a_content("quick"), [SPAM])).windows == ((YES,),)
        assert not slow.done()
        model.gate.set()
        await slow


async def test_a_window_that_the_server_could_not_take_whole_gives_several_rows() -> None:
    model = Remote(lambda word: [[YES], [Reason.REFUSED]])
    async with a_scorer(model) as scorer:
        assert (await scorer.score(a_content("long"), [SPAM])).windows == ((YES,), (Reason.REFUSED,))


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [[]],
        [[YES, YES]],
        [[Score(0.5, 3.0, None)]],
        [[Score(float("nan"), 0.0, None)]],
        [[Score(2.0, 0.7, 0.5)]],
        None,
        ZeroDivisionError("secret"),
    ],
)
async def test_what_is_no_answer_fails_its_window_alone(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(word: Word) -> Any:
        if word.text != "bad":
            return [[YES]]
        if isinstance(answers, Exception):
            raise answers
        return answers

    async with a_scorer(Remote(answer)) as scorer:
        assert (await scorer.score(a_content("bad good"), [SPAM])).windows == ((Reason.MODEL_FAILED,), (YES,))
    assert "secret" not in capsys.readouterr().out


async def test_a_post_that_cannot_be_encoded_is_a_dead_letter() -> None:
    async with a_scorer(Remote()) as scorer:
        with pytest.raises(PostError) as refused:
            await scorer.score(a_content("unreadable"), [SPAM])
        assert refused.value.reason is Reason.MODEL_FAILED
        assert (await scorer.score(a_content("next"), [SPAM])).windows == ((YES,),)


async def test_a_post_that_the_server_holds_is_given_up_before_the_watchdog_ends_the_worker() -> None:
    """A server that hangs on posts, and answers questions of our own, must not end worker after worker."""
    model = Remote()
    timeout_s = WorkerSettings().post_timeout_s
    async with a_scorer(model) as scorer:
        taken = time.monotonic() - SHARE * timeout_s - model.patience_s + 0.2
        phases.CURRENT.set(InHand(1, 0, taken))
        async with asyncio.timeout(20):
            late, answered = (await scorer.score(a_content("slow quick"), [SPAM])).windows
            assert (late, answered) == ((Reason.DEADLINE_EXCEEDED,), (YES,)), "a late window hides no other"
            with pytest.raises(PostError) as given_up:
                await scorer.score(a_content("slow"), [SPAM])
        assert given_up.value.reason is Reason.DEADLINE_EXCEEDED
        assert (await scorer.score(a_content("quick"), [])).windows == ()
        phases.CURRENT.set(InHand(1, 0, time.monotonic()))
        assert (await scorer.score(a_content("quick"), [SPAM])).windows == ((YES,),)


async def test_nothing_is_asked_without_a_question() -> None:
    model = Remote()
    async with a_scorer(model) as scorer:
        assert (await scorer.score(a_content("quick"), [])).windows == ()
    assert model.asked == []


async def test_another_model_ends_the_process() -> None:
    model = Remote()
    async with a_scorer(model) as scorer:
        watching = asyncio.create_task(scorer.watch())
        await asyncio.sleep(0)
        assert not watching.done()
        model.other.set()
        with pytest.raises(ChangedError, match="openai:double"):
            await watching


async def test_a_closed_scorer_takes_no_post() -> None:
    async with a_scorer(Remote()) as scorer:
        pass
    with pytest.raises(ModerationError, match="closed"):
        await scorer.score(a_content("late"), [SPAM])
