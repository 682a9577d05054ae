"""The self-check looks at scores: rows that come shifted after an exception are found before one is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from moderation.errors import DeviceError
from moderation.inference.batcher import Batcher
from moderation.inference.scoring import Scored
from moderation.inference.self_check import MAX_TOLERANCE, MIN_TOLERANCE, REFERENCE_POSTS, SelfCheck
from moderation.models.checked import CheckedModel
from moderation.models.contract import Encoded, Windows
from moderation.models.fake import Fake
from moderation.settings import WorkerSettings
from moderation.types import Content, Question, Score
from tests.support.misbehaving_model import PanicException

SPAM = Question("spam", "spam")


class Turning(Fake):
    """Scores correctly until `spoils` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.spoils = ""
        self.calls = 0
        self._last: list[Score] | None = None

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        self.calls += 1
        rows = [list(row) for row in super().score(batch)]
        held, self._last = self._last, rows[-1]
        if self.spoils == "shifted":
            return [held or rows[-1], *rows[:-1]]
        if self.spoils == "shifted back":
            return [*rows[1:], rows[0]]
        if self.spoils == "all like the first":
            return [rows[0] for _ in rows]
        if self.spoils == "columns turned":
            return [row[::-1] for row in rows]
        return rows


SPOILS = ("shifted", "shifted back", "all like the first", "columns turned")


@pytest.mark.parametrize("spoils", SPOILS)
def test_rows_that_are_not_their_items_are_found(spoils: str) -> None:
    model = Turning()
    check = SelfCheck(CheckedModel(model))
    check.start()
    check.run()
    model.spoils = spoils
    with pytest.raises(DeviceError, match="otherwise than at start"):
        check.run()


def test_a_model_whose_rows_depend_on_their_place_does_not_start() -> None:
    model = Turning()
    model.spoils = "all like the first"
    with pytest.raises(DeviceError):
        SelfCheck(CheckedModel(model)).start()


def test_the_reference_posts_are_encoded_once() -> None:
    class Counting(Fake):
        encoded = 0

        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:  # type: ignore[override]
            self.encoded += 1
            return super().encode(content, questions)

    model = Counting()
    check = SelfCheck(CheckedModel(model))
    check.start()
    check.run()
    assert model.encoded == len(REFERENCE_POSTS)


class Drifting(Fake):
    """Margins are `scale` of the fake's, plus `drift`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.drift = scale, 0.0

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        return [[self._drifted(score) for score in row] for row in super().score(batch)]

    def _drifted(self, score: Score) -> Score:
        import math

        margin = score.margin * self.scale + self.drift
        return replace(score, margin=margin, probability=1 / (1 + math.exp(-margin)))


@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, MAX_TOLERANCE), (1e-9, MIN_TOLERANCE), (0.05, 0.2)])
def test_rounding_is_tolerated_and_no_more(scale: float, tolerance: float) -> None:
    model = Drifting(scale)  # at 0.05 both posts are 0.8 apart
    check = SelfCheck(CheckedModel(model))
    check.start()
    model.drift = 0.9 * tolerance
    check.run()
    model.drift = -1.1 * tolerance
    with pytest.raises(DeviceError):
        check.run()


def test_reference_posts_with_similar_scores_are_logged_at_the_start_and_still_compared() -> None:
    model = Drifting(1e-9)
    check = SelfCheck(CheckedModel(model))
    with capture_logs() as events:
        check.start()
    assert [event["event"] for event in events] == ["self_check_scores_alike"]


def a_content(text: str) -> Content:
    return Content(text, (), text)


class ShiftedByAFailure(Turning):
    """Its rows come shifted once it has raised on the post `bad`."""

    error: BaseException = RuntimeError("once")

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        rows = super().score(batch)
        if any(getattr(item, "text", "") == "bad" for item in batch):
            self.spoils = "shifted"
            raise self.error
        return rows


@pytest.mark.parametrize("error", [RuntimeError("once"), MemoryError(), PanicException(), asyncio.CancelledError()])
async def test_what_comes_shifted_after_an_exception_is_never_answered(error: BaseException) -> None:
    model = ShiftedByAFailure()
    model.error = error
    texts = ["a", "violates:spam", "b", "bad", "violates:spam", "c"]
    async with Batcher(model, WorkerSettings(encode_threads=1, batch_tokens=4)) as batcher:
        await batcher.warm_up()
        outcomes = await asyncio.gather(
            *(batcher.score(a_content(text), [SPAM]) for text in texts), return_exceptions=True
        )
    assert isinstance(outcomes[3], DeviceError)
    for text, outcome in zip(texts, outcomes, strict=True):
        if isinstance(outcome, Scored):
            assert (outcome.windows[0][0].probability > 0.5) == ("violates" in text)
        else:
            assert isinstance(outcome, DeviceError)


async def test_a_model_that_looks_ahead_badly_is_checked_before_the_step_is_answered() -> None:
    class Looking(Turning):
        def look_ahead(self, items: Sequence[Encoded]) -> None:
            self.spoils = "shifted"
            raise PanicException

    model = Looking()
    async with Batcher(model, WorkerSettings(encode_threads=1, batch_tokens=2)) as batcher:
        await batcher.warm_up()
        scored = [batcher.score(a_content(text), [SPAM]) for text in ("violates:spam", "a", "violates:spam", "b")]
        outcomes = await asyncio.gather(*scored, return_exceptions=True)
    assert DeviceError in map(type, outcomes)
    for text, outcome in zip(("violates:spam", "a", "violates:spam", "b"), outcomes, strict=True):
        if isinstance(outcome, Scored):
            assert (outcome.windows[0][0].probability > 0.5) == ("violates" in text)


async def test_now_and_then_the_model_is_checked_without_a_failure() -> None:
    model = Turning()
    async with Batcher(model, WorkerSettings(self_check_s=1e-6)) as batcher:
        await batcher.warm_up()
        before = model.calls
        assert await batcher.score(a_content("a"), [SPAM])
        assert model.calls == before + 2
        model.spoils = "shifted back"
        with pytest.raises(DeviceError, match="otherwise than at start"):
            await batcher.score(a_content("b"), [SPAM])


async def test_a_self_check_does_not_wait_for_posts_that_are_being_encoded() -> None:
    import threading

    let_go = threading.Event()

    class Slow(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:  # type: ignore[override]
            if content.text == "slow":
                let_go.wait()
            return super().encode(content, questions)

    async with Batcher(Slow(raise_on="bad"), WorkerSettings(encode_threads=1, failed_post_s=0.05)) as batcher:
        bad = asyncio.create_task(batcher.score(a_content("bad"), [SPAM]))
        slow = asyncio.create_task(batcher.score(a_content("slow"), [SPAM]))
        with pytest.raises(Exception, match="makes the model raise"):
            await asyncio.wait_for(bad, 20)
        let_go.set()
        assert (await slow).windows
