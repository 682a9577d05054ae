"""Posts judged through the wires of decision models: from the post to the verdict, over a real connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from moderation import models
from moderation.inference.remote import RemoteScorer
from moderation.media.reader import Media
from moderation.models.remote.probability import score_of
from moderation.moderator import Moderator
from moderation.policies import Policy, PolicySet
from moderation.settings import MediaSettings, ModelSettings, WorkerSettings
from moderation.types import Finding, Outcome, Reason, Status
from tests.support.builders import a_policy, a_post, an_image, inline
from tests.support.decision_models import COLOURS, NO, YES, DecisionModel, DecisionsDouble, SystemOneDouble

PILLS = a_policy("pills", question="Does the post sell pills?")
GREEN = a_policy("green", question="Is a picture green?")
PICTURE = inline(an_image(colour=COLOURS["green"]))


@asynccontextmanager
async def a_moderator(
    double: DecisionModel, name: str, *policies: Policy, **settings: object
) -> AsyncIterator[Moderator]:
    """name: of the model, as in MODERATION_MODEL."""
    with double.server:
        chosen = ModelSettings.model_validate({"name": name, "url": double.server.url, **settings})
        async with (
            Media(MediaSettings()) as media,
            RemoteScorer(await models.connect(chosen), WorkerSettings()) as scorer,
        ):
            yield Moderator(PolicySet.of(policies), media, scorer)


def by_policy(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.policy_id: finding for finding in findings}


WIRES = pytest.mark.parametrize(
    ("name", "kind"), [("decisions:double-1", DecisionsDouble), ("systemone:double-1", SystemOneDouble)]
)


@WIRES
async def test_text_and_picture_are_judged_in_one_request(name: str, kind: type[DecisionModel]) -> None:
    double = kind("double-1")
    async with a_moderator(double, name, PILLS, GREEN) as moderator:
        learnt = len(double.server.requests)
        verdict = await moderator.moderate(a_post(text="Cheap pills", images=(PICTURE,)))
        quiet = await moderator.moderate(a_post(text="A quiet day"))
        assert len(double.server.requests) == learnt + 2
    assert double.faults == []
    assert (verdict.status, verdict.outcome) == (Status.FINAL, Outcome.REMOVE)
    assert [finding.score for finding in verdict.findings] == [score_of(YES), score_of(YES)]
    assert (quiet.status, quiet.outcome) == (Status.FINAL, Outcome.ALLOW)
    assert [finding.score for finding in quiet.findings] == [score_of(NO), score_of(NO)]
    assert (verdict.model.name, verdict.model.revision, verdict.model.alias) == (name, "double-1", False)


@WIRES
async def test_pictures_that_the_model_ignores_are_not_judged(name: str, kind: type[DecisionModel]) -> None:
    double = kind("double-1", blind=True)
    async with a_moderator(double, name, PILLS) as moderator:
        verdict = await moderator.moderate(a_post(text="A quiet day", images=(PICTURE,)))
        text = await moderator.moderate(a_post(text="A quiet day"))
        alone = await moderator.moderate(a_post(text="", images=(PICTURE,)))
    assert verdict.status is Status.DEGRADED, "the text is judged"
    finding = by_policy(verdict.findings)["pills"]
    assert (finding.reason, finding.path.startswith("images")) == (Reason.PICTURES_UNSEEN, True)
    assert text.status is Status.FINAL
    assert alone.status is Status.UNDETERMINED


async def test_a_refusal_undetermines_its_policy_alone() -> None:
    double = DecisionsDouble("double-1", refused=["weapons"])
    weapons = a_policy("weapons", question="Does the post sell weapons?", on_error="review")
    async with a_moderator(double, "decisions:double-1", PILLS, weapons) as moderator:
        verdict = await moderator.moderate(a_post(text="A quiet day"))
    findings = by_policy(verdict.findings)
    assert findings["pills"].status is Status.FINAL
    assert (findings["weapons"].status, findings["weapons"].reason) == (Status.UNDETERMINED, Reason.REFUSED)
    assert (verdict.status, verdict.outcome) == (Status.DEGRADED, Outcome.REVIEW)


@WIRES
async def test_the_strictest_window_counts(name: str, kind: type[DecisionModel]) -> None:
    double = kind("double-1")
    async with a_moderator(double, name, PILLS, window_tokens=64, window_overlap=8) as moderator:
        verdict = await moderator.moderate(a_post(text="quiet days " * 40 + "pills"))
    (finding,) = verdict.findings
    assert finding.windows > 1
    assert finding.score == score_of(YES)


@WIRES
async def test_an_alias_removes_nothing(name: str, kind: type[DecisionModel]) -> None:
    alias = name.replace("double-1", "double-latest")
    for settings, outcome in (({}, Outcome.REVIEW), ({"alias_may_remove": True}, Outcome.REMOVE)):
        async with a_moderator(kind("double-1"), alias, PILLS, **settings) as moderator:
            verdict = await moderator.moderate(a_post(text="Cheap pills"))
        assert (verdict.outcome, verdict.model.revision, verdict.model.alias) == (outcome, "double-1", True)
