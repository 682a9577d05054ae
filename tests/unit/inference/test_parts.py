"""A model that fails on one part of a post still judges the others, in few attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from moderation.errors import DeviceError, PostError
from moderation.inference import parts
from moderation.inference.batcher import Batcher
from moderation.inference.remote import RemoteScorer
from moderation.inference.scoring import Scored
from moderation.models.contract import Encoded, Windows, picture_path
from moderation.models.fake import Fake, FakeEncoded
from moderation.settings import WorkerSettings
from moderation.types import Answer, Content, Problem, Question, Reason, Score
from tests.support.builders import an_image
from tests.support.remote_model import YES, Remote, Word

SPAM = Question("spam", "spam")
FAILING = 13  # the width of a picture on which the model fails


class Picky(Fake):
    """Fails on some pictures, and on texts with the word `odd`."""

    def __init__(self, reason: Reason | None = None) -> None:
        super().__init__()
        self.shown: list[tuple[str, list[int]]] = []
        self._reason = reason

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        widths = [picture.width for picture in content.pictures]
        if content.text != "a quiet day":  # not the reference post
            self.shown.append((content.text, widths))
        if FAILING in widths or "odd" in content.text.split():
            if self._reason is not None:
                raise PostError(self._reason, "the test says so")
            raise RuntimeError
        return super().encode(content, questions)


async def score(model: Fake, text: str, *widths: int) -> Scored[Answer]:
    content = Content(text, tuple(an_image(width, 10) for width in widths), f"{text} {widths}")
    settings = WorkerSettings(encode_threads=1, failed_post_s=0.01)
    async with Batcher(model, settings) as batcher:
        return await parts.score(batcher, content, range(len(widths)), [SPAM], None)


def said(scored: Scored[Answer]) -> list[float]:
    return [round(answer.probability) for window in scored.windows for answer in window if isinstance(answer, Score)]


async def test_a_post_on_which_the_model_does_not_fail_is_scored_once() -> None:
    model = Picky()
    scored = await score(model, "violates:spam", 1, 2)
    assert (said(scored), scored.problems, model.shown) == ([1], (), [("violates:spam", [1, 2])])


async def test_a_picture_on_which_the_model_fails_hides_neither_the_text_nor_other_pictures() -> None:
    model = Picky()
    scored = await score(model, "violates:spam", 1, FAILING, 2)
    assert scored.problems == (Problem(Reason.MODEL_FAILED, "images[1]"),)
    assert said(scored) == [1, 1, 1], "the text alone, and with each of the other pictures"
    alone = await score(Picky(), "violates:spam", FAILING)
    assert (said(alone), alone.problems) == ([1], (Problem(Reason.MODEL_FAILED, "images[0]"),))


async def test_a_picture_that_a_model_cannot_take_is_named_as_its_image() -> None:
    class Limited(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            problems = Problem(Reason.IMAGE_SHAPE, picture_path(2)), Problem(Reason.TEXT_TOO_LONG, "text")
            return replace(super().encode(content, questions), problems=problems)

    async with Batcher(Limited(), WorkerSettings(encode_threads=1)) as batcher:
        content = Content("hello", tuple(an_image(2, 2) for _ in range(4)), "d")
        scored = await parts.score(batcher, content, [0, 0, 3, 5], [SPAM], None)
    assert scored.problems == (Problem(Reason.IMAGE_SHAPE, "images[3]"), Problem(Reason.TEXT_TOO_LONG, "text"))


async def test_a_text_on_which_the_model_fails_does_not_hide_the_pictures() -> None:
    model = Picky()
    scored = await score(model, "odd", 1, 2)
    assert (len(scored.windows), scored.problems) == (1, (Problem(Reason.MODEL_FAILED, "text"),))
    assert model.shown[-1] == ("", [1, 2])


async def test_a_text_and_a_picture_on_which_the_model_fails_hide_no_other_picture() -> None:
    scored = await score(Picky(), "odd", 1, FAILING, 2)
    assert (len(scored.windows), scored.problems) == (
        2,
        (Problem(Reason.MODEL_FAILED, "text"), Problem(Reason.MODEL_FAILED, "images[1]")),
    )


async def test_pictures_without_a_text_do_not_hide_each_other() -> None:
    scored = await score(Picky(), " ", 1, FAILING)
    assert (len(scored.windows), scored.problems) == (1, (Problem(Reason.MODEL_FAILED, "images[1]"),))


async def test_a_post_that_takes_too_long_costs_at_most_three_threads() -> None:
    model = Picky(Reason.DEADLINE_EXCEEDED)
    scored = await score(model, "violates:spam", 1, FAILING, 2)
    assert (said(scored), scored.problems) == ([1], (Problem(Reason.DEADLINE_EXCEEDED, "images"),))
    assert len(model.shown) == 2
    model = Picky(Reason.DEADLINE_EXCEEDED)
    with pytest.raises(PostError):
        await score(model, "odd", FAILING)
    assert len(model.shown) == 3


@pytest.mark.parametrize("widths", [(), (FAILING,)])
async def test_a_model_that_fails_on_everything_fails_on_the_post(widths: tuple[int, ...]) -> None:
    with pytest.raises(PostError) as caught:
        await score(Picky(), "odd", *widths)
    assert caught.value.reason is Reason.MODEL_FAILED


async def test_an_error_of_the_device_ends_all_attempts() -> None:
    class Dying(Picky):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            if not content.pictures:
                raise DeviceError("broken")
            return super().encode(content, questions)

    with pytest.raises(DeviceError):
        await score(Dying(), "text", FAILING)


@pytest.mark.parametrize(
    "reason", [Reason.MODEL_FAILED, Reason.PICTURES_UNSEEN, Reason.REFUSED, Reason.CONTENT_FILTERED]
)
async def test_a_picture_that_silences_a_model_server_does_not_hide_the_text(reason: Reason) -> None:
    class Refusing(Remote):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:
            marked = " ".join(f"{word}{'!' * len(content.pictures)}" for word in content.text.split())
            return super().encode(Content(marked or "!", (), ""), questions)

    model = Refusing(lambda word: [[reason if "!" in word.text else YES] * word.questions])
    content = Content("post", (an_image(),), "")
    async with RemoteScorer(model, WorkerSettings()) as scorer:
        scored = await parts.score(scorer, content, [0], [SPAM], None)
    assert (scored.windows, scored.problems) == (((YES,),), (Problem(reason, "images[0]"),))


async def test_a_server_that_is_away_is_not_asked_again_in_parts() -> None:
    def away(word: Word) -> list[list[Answer]]:
        return [[Reason.UNAVAILABLE] * word.questions]

    model = Remote(away)
    async with RemoteScorer(model, WorkerSettings()) as scorer:
        await parts.score(scorer, Content("post", (an_image(),), ""), [0], [SPAM], None)
    assert model.asked == ["post"]
