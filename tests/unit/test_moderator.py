"""From a post to its verdict, with real policies, media and batcher, and the fake model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from moderation import wire
from moderation.media.reader import digest
from moderation.models.fake import Fake
from moderation.policies import PolicySet
from moderation.settings import MediaSettings
from moderation.types import (
    Arrival,
    Content,
    Detail,
    Image,
    Origin,
    Outcome,
    Post,
    Problem,
    Question,
    Reason,
    Severity,
    Source,
    Status,
)
from moderation.v1.post_pb2 import Image as ImageMessage
from moderation.v1.post_pb2 import Post as PostMessage
from tests.support.builders import a_policy, a_post, inline
from tests.support.moderators import a_moderator, a_remote_moderator
from tests.support.remote_model import YES, Remote

SOURCE = Source("posts", 3, 42, 1_700_000_000_000)


async def test_a_verdict_says_who_judged_what_by_which_rules() -> None:
    picture = inline()
    policies = a_policy("lakes"), a_policy("seas", severity="high")
    async with a_moderator(*policies) as moderator:
        came = time.perf_counter() - 7
        arrival = Arrival(came + 6, came, came)
        verdict = await moderator.moderate(a_post(text="violates:seas", images=(picture,)), SOURCE, arrival=arrival)
    assert (verdict.outcome, verdict.status) == (Outcome.REMOVE, Status.FINAL)
    assert (verdict.deciding_policy, verdict.severity) == ("seas", Severity.HIGH)
    assert [finding.policy_id for finding in verdict.findings] == ["lakes", "seas"]
    assert [finding.outcome for finding in verdict.findings] == [Outcome.ALLOW, Outcome.REMOVE]
    assert verdict.content_digest == digest("violates:seas", [picture.data or b""])
    assert verdict.policy_set_digest == PolicySet.of(policies).digest
    assert verdict.model == Fake().info
    assert verdict.source == SOURCE
    assert 7 < verdict.timings.queue < 100


async def test_a_model_that_is_mute_on_one_policy_degrades_the_verdict() -> None:
    async with a_moderator(a_policy("lakes"), a_policy("seas", on_error="review")) as moderator:
        verdict = await moderator.moderate(a_post(text="mute:seas"))
    assert (verdict.outcome, verdict.status) == (Outcome.REVIEW, Status.DEGRADED)
    assert [finding.reason for finding in verdict.findings] == [None, Reason.NO_ANSWER]


async def test_a_post_that_no_policy_could_ask_about_has_the_reason_as_a_whole() -> None:
    """It gets a dead letter, so that it can be sent again when the server is back."""
    model = Remote(lambda word: [[Reason.UNAVAILABLE, YES if word.text == "half" else Reason.UNAVAILABLE]])
    async with a_remote_moderator(model, a_policy("lakes"), a_policy("seas", on_error="remove")) as moderator:
        away = await moderator.moderate(a_post(text="whole"))
        half = await moderator.moderate(a_post(text="half"))
    assert (away.outcome, away.status, away.reason) == (Outcome.REMOVE, Status.UNDETERMINED, Reason.UNAVAILABLE)
    assert [finding.reason for finding in away.findings] == [Reason.UNAVAILABLE] * 2
    assert (half.status, half.reason) == (Status.DEGRADED, None)
    assert away.problems == (Problem(Reason.UNAVAILABLE),)
    assert away.problems[0].refused, "a dead letter"
    assert not away.stands
    assert not half.stands


async def test_the_model_of_an_alias_removes_nothing() -> None:
    model = Remote()
    model.strictest = Outcome.REVIEW
    async with a_remote_moderator(model, a_policy("lakes")) as moderator:
        verdict = await moderator.moderate(a_post(text="post"))
    assert (verdict.outcome, verdict.status, verdict.deciding_policy) == (Outcome.REVIEW, Status.FINAL, "lakes")


async def test_a_post_that_no_policy_is_about_is_allowed_without_asking_the_model() -> None:
    async with a_moderator(a_policy(applies_to={"media": ["image"]})) as moderator:
        verdict = await moderator.moderate(a_post(text="violates:no-lakes"))
    assert (verdict.outcome, verdict.status, verdict.findings) == (Outcome.ALLOW, Status.FINAL, ())


BROKEN = Image(data=b"x")
ABOUT_TEXT, ABOUT_PICTURES = {"media": ["text"]}, {"media": ["image"]}


async def test_a_picture_that_cannot_be_read_does_not_hide_the_text() -> None:
    policies = a_policy("lakes", on_error="allow"), a_policy("seas", on_error="remove"), a_policy("sky")
    text = a_policy("text", applies_to=ABOUT_TEXT, on_error="remove")
    async with a_moderator(*policies, text) as moderator:
        verdict = await moderator.moderate(a_post(text="violates:lakes", images=(inline(), BROKEN)), SOURCE)
    assert verdict.problems == (Problem(Reason.IMAGE_UNSUPPORTED, "images[1]", Detail.NO_PICTURE),)
    assert (verdict.outcome, verdict.status, verdict.reason) == (Outcome.REMOVE, Status.DEGRADED, None)
    assert [(finding.outcome.name, finding.status.name, finding.path) for finding in verdict.findings] == [
        ("REMOVE", "DEGRADED", "images[1]"),
        ("REMOVE", "DEGRADED", "images[1]"),
        ("REVIEW", "DEGRADED", "images[1]"),
        ("ALLOW", "FINAL", ""),
    ]
    assert not verdict.stands


async def test_of_a_post_that_cannot_be_read_at_all_each_policy_that_applies_has_its_on_error() -> None:
    policies = a_policy("lakes", on_error="remove"), a_policy("text", applies_to=ABOUT_TEXT, on_error="remove")
    shadow = a_policy("shadow", status="shadow")
    async with a_moderator(*policies, shadow) as moderator:
        verdict = await moderator.moderate(a_post(text=" ", images=(BROKEN,)), SOURCE)
    assert (verdict.outcome, verdict.status, verdict.deciding_policy) == (Outcome.REMOVE, Status.UNDETERMINED, "lakes")
    assert (verdict.reason, verdict.origin) == (Reason.IMAGE_UNSUPPORTED, Origin.NONE)
    assert verdict.problems == (Problem(Reason.IMAGE_UNSUPPORTED, "images[0]", Detail.NO_PICTURE),)
    assert [(finding.policy_id, finding.windows, finding.status) for finding in verdict.findings] == [
        ("lakes", 0, Status.UNDETERMINED),
        ("shadow", 0, Status.UNDETERMINED),
    ]


async def test_a_post_that_no_policy_is_about_is_final_even_if_its_picture_is_broken() -> None:
    async with a_moderator(a_policy(applies_to=ABOUT_TEXT)) as moderator:
        verdict = await moderator.moderate(a_post(text="", images=(BROKEN,)), SOURCE)
    assert (verdict.outcome, verdict.status, verdict.findings) == (Outcome.ALLOW, Status.FINAL, ())
    assert [problem.refused for problem in verdict.problems] == [True], "a dead letter"


@pytest.mark.parametrize(
    "post",
    [
        a_post(text="", images=(Image(data=b"x"),)),
        a_post(text="", images=(Image(problem=Problem(Reason.NOT_DECODABLE, "images[0].data")),)),
    ],
)
async def test_a_policy_about_pictures_applies_to_a_post_whose_pictures_cannot_be_read(post: Post) -> None:
    async with a_moderator(a_policy(applies_to=ABOUT_PICTURES)) as moderator:
        verdict = await moderator.moderate(post)
    assert (verdict.outcome, verdict.status, len(verdict.findings)) == (Outcome.REVIEW, Status.UNDETERMINED, 1)


async def test_the_alternative_text_of_an_image_beyond_the_limit_is_judged() -> None:
    message = PostMessage(id="1", images=[ImageMessage(data=b"x", alt=alt) for alt in ("", "", "violates:lakes")])
    post = wire.post(message, MediaSettings(max_images=0))
    async with a_moderator(a_policy("lakes", applies_to=ABOUT_TEXT)) as moderator:
        verdict = await moderator.moderate(post)
    assert (verdict.outcome, verdict.status) == (Outcome.REMOVE, Status.FINAL)
    assert verdict.problems == (Problem(Reason.TOO_MANY_IMAGES, "images[0]"),)


@pytest.mark.parametrize("image", [inline(), BROKEN])
async def test_an_alternative_text_is_judged_as_text(image: Image) -> None:
    post = a_post(text="", images=(replace(image, alt="violates:lakes"),))
    async with a_moderator(a_policy("lakes", applies_to=ABOUT_TEXT)) as moderator:
        verdict = await moderator.moderate(post)
    assert (verdict.outcome, verdict.status) == (Outcome.REMOVE, Status.FINAL)


class Picky(Fake):
    """Fails on what the test says."""

    def __init__(self, fails: Callable[[Content], bool]) -> None:
        super().__init__()
        self._fails = fails

    def encode(self, content: Content, questions: Sequence[Question]) -> Any:
        if self._fails(content):
            raise RuntimeError
        return super().encode(content, questions)


async def test_a_picture_on_which_the_model_fails_does_not_hide_the_text() -> None:
    policies = a_policy("lakes"), a_policy("text", applies_to=ABOUT_TEXT, on_error="remove")
    async with a_moderator(*policies, model=Picky(lambda content: bool(content.pictures))) as moderator:
        verdict = await moderator.moderate(a_post(text="violates:lakes", images=(inline(),)))
    assert (verdict.outcome, verdict.status, verdict.reason) == (Outcome.REMOVE, Status.DEGRADED, None)
    assert [(finding.status, finding.outcome) for finding in verdict.findings] == [
        (Status.DEGRADED, Outcome.REMOVE),
        (Status.FINAL, Outcome.ALLOW),
    ]
    assert verdict.problems == (Problem(Reason.MODEL_FAILED, "images[0]"),)


async def test_a_text_on_which_the_model_fails_does_not_hide_the_pictures() -> None:
    policies = a_policy("lakes", on_error="allow"), a_policy("pictures", applies_to=ABOUT_PICTURES, on_error="remove")
    async with a_moderator(*policies, model=Picky(lambda content: "odd" in content.text)) as moderator:
        verdict = await moderator.moderate(a_post(text="odd", images=(inline(),)))
    assert [(finding.status, finding.outcome, finding.path) for finding in verdict.findings] == [
        (Status.DEGRADED, Outcome.ALLOW, "text"),
        (Status.FINAL, Outcome.ALLOW, ""),
    ]


@pytest.mark.parametrize("images", [(), (inline(),), (BROKEN,)])
async def test_a_post_on_which_the_model_fails_altogether_is_undetermined(images: tuple[Image, ...]) -> None:
    async with a_moderator(a_policy(on_error="allow"), model=Picky(lambda content: "quiet" not in content.text)) as one:
        verdict = await one.moderate(a_post(text="odd", images=images))
    assert (verdict.status, verdict.reason, verdict.origin) == (Status.UNDETERMINED, Reason.MODEL_FAILED, Origin.NONE)
    assert verdict.problems[0] == Problem(Reason.MODEL_FAILED)
    assert [(finding.reason, finding.path, finding.windows) for finding in verdict.findings] == [
        (Reason.MODEL_FAILED, "", 0)
    ]


@pytest.mark.parametrize("text", ["violates:lakes" + " and" * 40, "and " * 40 + "violates:lakes"])
async def test_of_a_text_beyond_the_limit_both_ends_are_judged(text: str) -> None:
    async with a_moderator(a_policy("lakes", on_error="allow"), limits=MediaSettings(max_text_chars=50)) as moderator:
        verdict = await moderator.moderate(a_post(text=text))
        harmless = await moderator.moderate(a_post(text="and " * 40))
    assert (verdict.outcome, verdict.status) == (Outcome.REMOVE, Status.DEGRADED)
    assert (harmless.outcome, harmless.status) == (Outcome.REVIEW, Status.DEGRADED)
    assert verdict.problems == (Problem(Reason.TEXT_TOO_LONG, "text"),)
    assert not any(problem.refused for problem in verdict.problems), "no dead letter"


async def test_of_a_text_of_too_many_windows_those_that_are_judged_count_and_the_others_mean_review() -> None:
    cut = Fake(cut=(2, 3))  # three windows of two words
    async with a_moderator(a_policy("lakes", on_error="allow"), model=cut) as moderator:
        texts = ("violates:lakes" + " and" * 40, "and " * 40 + "violates:lakes", "and " * 40, "and " * 6)
        verdicts = [await moderator.moderate(a_post(text=text)) for text in texts]
    assert [(verdict.outcome.name, verdict.status.name) for verdict in verdicts] == [
        ("REMOVE", "DEGRADED"),
        ("REMOVE", "DEGRADED"),
        ("REVIEW", "DEGRADED"),
        ("ALLOW", "FINAL"),
    ]
    assert [verdict.findings[0].windows for verdict in verdicts] == [3] * 4
    assert verdicts[0].problems == (Problem(Reason.TEXT_TOO_LONG, "text"),)
    assert not any(problem.refused for problem in verdicts[0].problems), "no dead letter"


@pytest.mark.parametrize(("on_error", "outcome"), [("allow", Outcome.ALLOW), ("remove", Outcome.REMOVE)])
async def test_what_could_not_be_judged_is_as_strict_as_the_strictest_policy(on_error: str, outcome: Outcome) -> None:
    async with a_moderator(a_policy("a", on_error="allow"), a_policy("b", on_error=on_error)) as moderator:
        problem = Problem(Reason.NOT_DECODABLE, "id", Detail.NOT_A_STRING)
        verdict = moderator.undetermined(Post("post-1", tenant="tenant"), problem, SOURCE)
    assert (verdict.outcome, verdict.status, verdict.reason) == (outcome, Status.UNDETERMINED, Reason.NOT_DECODABLE)
    assert (verdict.post_id, verdict.tenant, verdict.source) == ("post-1", "tenant", SOURCE)
    assert verdict.problems == (problem,)


async def test_a_policy_that_is_not_about_a_post_does_not_decide_what_could_not_be_read() -> None:
    german = a_policy("german", on_error="remove", applies_to={"languages": ["de"], "media": ["image"]})
    async with a_moderator(german, a_policy("all", on_error="allow")) as moderator:
        problem = Problem(Reason.NOT_DECODABLE, detail=Detail.UNKNOWN_FIELD)
        outcomes = {
            language: moderator.undetermined(Post("1", language=language), problem, None).outcome
            for language in ("de", "fr", "")
        }
    assert outcomes == {"de": Outcome.REMOVE, "fr": Outcome.ALLOW, "": Outcome.REMOVE}


@pytest.mark.parametrize(
    "problem",
    [
        Problem(Reason.RECORD_TOO_LARGE),
        Problem(Reason.INVALID_POST, "id", Detail.TOO_LONG),
        Problem(Reason.NOT_DECODABLE, detail=Detail.TOO_MANY),
    ],
)
async def test_what_a_limit_of_ours_cut_off_is_at_least_reviewed(problem: Problem) -> None:
    async with a_moderator(a_policy("a", on_error="allow")) as moderator:
        assert moderator.undetermined(Post("1"), problem, None).outcome is Outcome.REVIEW
