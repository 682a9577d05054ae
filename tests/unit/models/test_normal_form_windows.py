"""A disguised text is judged twice: as it came, and in its normal form. Models here and behind a server have both."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from moderation.errors import PostError
from moderation.inference.verdict_cache import VerdictCache
from moderation.media.reader import digest
from moderation.models.checked import CheckedEncoder
from moderation.models.contract import Windows
from moderation.models.fake import Fake, FakeEncoded
from moderation.models.remote import content as contents
from moderation.models.remote.wire import Window
from moderation.settings import ModelSettings
from moderation.types import Content, Image, Outcome, Problem, Question, Reason, Source, Status, YesNo
from tests.support.builders import a_policy, a_post, inline
from tests.support.moderators import a_moderator, a_remote_moderator
from tests.support.remote_model import Remote

QUESTION = Question("lakes", "Is it about lakes?")
HIDDEN = "violates:l\u200bakes"
SOURCE = Source("posts", 0, 1, 0)


async def test_the_strictest_of_both_forms_stands() -> None:
    async with a_moderator(a_policy("lakes")) as moderator:
        hidden = await moderator.moderate(a_post(text=HIDDEN))
        open_ = await moderator.moderate(a_post(text="violates:lakes"))
        calm = await moderator.moderate(a_post(text="still wa\u200bters"))
    assert (hidden.outcome, hidden.status, hidden.findings[0].windows) == (Outcome.REMOVE, Status.FINAL, 2)
    assert (open_.outcome, open_.findings[0].windows) == (Outcome.REMOVE, 1)
    assert (calm.outcome, calm.status, calm.findings[0].windows) == (Outcome.ALLOW, Status.FINAL, 2)


async def test_a_text_whose_normal_form_is_harmless_is_judged_as_it_came() -> None:
    async with a_moderator(a_policy("l4kes")) as moderator:
        verdict = await moderator.moderate(a_post(text="violates:l4kes"))
    assert (verdict.outcome, verdict.findings[0].windows) == (Outcome.REMOVE, 2)


async def test_an_alternative_text_has_a_normal_form_too() -> None:
    picture = inline()
    post = a_post(text="", images=(Image(data=picture.data, alt=HIDDEN),))
    async with a_moderator(a_policy("lakes")) as moderator:
        verdict = await moderator.moderate(post)
    assert (verdict.outcome, verdict.findings[0].windows) == (Outcome.REMOVE, 2)


async def test_a_model_behind_a_server_is_asked_about_both_forms() -> None:
    model = Remote(lambda word: [[YesNo(word.text == "lakes")]])
    async with a_remote_moderator(model, a_policy("lakes")) as moderator:
        verdict = await moderator.moderate(a_post(text="l\u200bakes"))
    assert sorted(model.asked) == ["lakes", "l\u200bakes"]
    assert verdict.outcome is Outcome.REVIEW, "a Yes without a probability"


async def test_the_identity_is_that_of_the_text_as_it_came() -> None:
    """A post that is delivered twice has one verdict; the plain text is another post's content."""
    cache = VerdictCache(10, 1 << 20)
    async with a_moderator(a_policy("lakes"), model=Fake(nonce=True)) as moderator:
        once, again = [await moderator.moderate(a_post(text=HIDDEN), SOURCE, cache) for _ in range(2)]
    assert once.content_digest == digest(HIDDEN, ()) != digest("violates:lakes", ())
    assert once.findings == again.findings


def test_the_windows_of_the_normal_form_follow_those_of_the_text() -> None:
    windows = CheckedEncoder(Fake(cut=(2, 2))).encode(Content("a b c d e f k1ll", (), ""), [QUESTION])
    assert [item.encoded.text for item in windows] == ["a b", "k1ll", "a b", "kill"]  # type: ignore[attr-defined]
    assert windows.problems == (Problem(Reason.TEXT_TOO_LONG, "text"),)


class Narrow(Fake):
    """Fails on one text."""

    def __init__(self, text: str, error: Exception) -> None:
        super().__init__()
        self.text, self.error = text, error

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        if content.text == self.text:
            raise self.error
        return super().encode(content, questions)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("x"), Reason.MODEL_FAILED), (PostError(Reason.IMAGE_TOO_LARGE, "x"), Reason.IMAGE_TOO_LARGE)],
)
def test_a_normal_form_that_fails_hides_nothing_of_the_text(error: Exception, reason: Reason) -> None:
    windows = CheckedEncoder(Narrow("kill", error)).encode(Content("k1ll", (), ""), [QUESTION])
    assert (len(windows), windows.problems) == (1, (Problem(reason, "text"),))
    with pytest.raises(PostError):
        CheckedEncoder(Narrow("k1ll", error)).encode(Content("k1ll", (), ""), [QUESTION])


SPELT = [
    "＜｜ｉｍ_ｓｔａｒｔ｜＞",
    "<|im_ѕtart|>",
    "<|im_\u200bstart|>",
    "<\u00ad/s>",
    "[I\u200bNST]",
    "<𝐬𝐬>",
    "<sta\u2060rt_of_turn>",
]


@pytest.mark.parametrize("text", SPELT)
def test_a_normal_form_is_never_a_servers_control_token(text: str) -> None:
    class Server:
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Window]:
            return contents.windows(content, questions, ModelSettings())

    windows = CheckedEncoder(Server()).encode(Content(text, (), ""), [QUESTION])
    assert len(windows) == 2
    assert not [item for item in windows if contents.CONTROL.search(item.encoded.text)]  # type: ignore[attr-defined]
