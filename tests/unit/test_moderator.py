"""From a post to its verdict, with real policies, media and batcher, and the fake model."""

from __future__ import annotations

import pytest

from moderation.errors import PostError
from moderation.media.reader import digest
from moderation.models.fake import Fake
from moderation.policies import PolicySet
from moderation.types import Image, Outcome, Reason, Severity, Source, Status
from tests.support.builders import a_policy, a_post, inline
from tests.support.moderators import a_moderator, a_remote_moderator
from tests.support.remote_model import YES, Remote

SOURCE = Source("posts", 3, 42, 1_700_000_000_000)


async def test_a_verdict_says_who_judged_what_by_which_rules() -> None:
    picture = inline()
    policies = a_policy("lakes"), a_policy("seas", severity="high")
    async with a_moderator(*policies) as moderator:
        verdict = await moderator.moderate(a_post(text="violates:seas", images=(picture,)), SOURCE)
    assert (verdict.outcome, verdict.status) == (Outcome.REMOVE, Status.FINAL)
    assert (verdict.deciding_policy, verdict.severity) == ("seas", Severity.HIGH)
    assert [finding.policy_id for finding in verdict.findings] == ["lakes", "seas"]
    assert [finding.outcome for finding in verdict.findings] == [Outcome.ALLOW, Outcome.REMOVE]
    assert verdict.content_digest == digest("violates:seas", [picture.data or b""])
    assert verdict.policy_set_digest == PolicySet.of(policies).digest
    assert verdict.model == Fake().info
    assert verdict.source == SOURCE
    assert verdict.timings.queue > 0


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


async def test_a_post_whose_picture_cannot_be_read_is_not_judged_by_its_text_alone() -> None:
    async with a_moderator(a_policy()) as moderator:
        with pytest.raises(PostError) as caught:
            await moderator.moderate(a_post(images=(inline(), Image(data=b"no picture"))))
    assert caught.value.reason is Reason.IMAGE_UNSUPPORTED


@pytest.mark.parametrize(("on_error", "outcome"), [("allow", Outcome.ALLOW), ("remove", Outcome.REMOVE)])
async def test_what_could_not_be_judged_is_as_strict_as_the_strictest_policy(on_error: str, outcome: Outcome) -> None:
    async with a_moderator(a_policy("a", on_error="allow"), a_policy("b", on_error=on_error)) as moderator:
        verdict = moderator.undetermined("post-1", Reason.IMAGE_CORRUPT, SOURCE, "tenant")
    assert (verdict.outcome, verdict.status, verdict.reason) == (outcome, Status.UNDETERMINED, Reason.IMAGE_CORRUPT)
    assert (verdict.post_id, verdict.tenant, verdict.source) == ("post-1", "tenant", SOURCE)
