"""The checkpoint that ships has learned its world: through the service's own code, its verdicts are the right ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest
import torch

from moderation import models, wire
from moderation.demo import posts
from moderation.errors import ConfigError
from moderation.inference.batcher import Batcher
from moderation.media.reader import Media
from moderation.models import SHIPPED
from moderation.models.contract import Classifier, Encoded
from moderation.models.shared.classifier import VisionClassifier
from moderation.moderator import Moderator
from moderation.policies import PolicySet
from moderation.settings import MediaSettings, ModelSettings, WorkerSettings
from moderation.types import Image, Outcome, Post, Problem, Reason, Status
from tests.support.builders import mass_of

POLICIES = Path(__file__).parents[3] / "policies" / "demo"

torch.set_num_threads(1)


@cache
def a_model() -> Classifier:
    return models.load(ModelSettings(name="demo", device="cpu"))


@asynccontextmanager
async def a_moderator(policies: Path = POLICIES, *roots: Path) -> AsyncIterator[Moderator]:
    async with Media(MediaSettings(roots=roots)) as media, Batcher(a_model(), WorkerSettings()) as batcher:
        yield Moderator(PolicySet.load(policies), media, batcher)


def a_post(text: str = "", *pictures: str) -> Post:
    """Pictures: names of those that the demo's posts have."""
    return Post("post", text, tuple(Image(data=(posts.FOLDER / name).read_bytes()) for name in pictures))


@pytest.mark.parametrize("sample", posts.SAMPLES, ids=lambda sample: sample.id)
async def test_the_samples_get_the_verdicts_that_a_person_would_give(sample: posts.Sample) -> None:
    async with a_moderator() as moderator:
        verdict = await moderator.moderate(a_post(sample.text, *sample.pictures))
    assert (verdict.deciding_policy, verdict.status) == (sample.breaks, Status.FINAL)
    assert (verdict.outcome is Outcome.ALLOW) is not bool(sample.breaks)
    assert all(finding.score and mass_of(finding.score) > 0.99 for finding in verdict.findings)


async def test_a_changed_policy_file_changes_the_verdict(tmp_path: Path) -> None:
    for path in POLICIES.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    beer, cat = a_post("look at my beer"), a_post("", "cat.png")
    deciding = []
    for _ in range(2):
        async with a_moderator(tmp_path) as moderator:
            deciding.append([(await moderator.moderate(post)).deciding_policy for post in (beer, cat)])
        path = tmp_path / "alcohol.yaml"
        path.write_text(path.read_text().replace("alcohol", "animals").replace("id: animals", "id: alcohol"))
    assert deciding == [["alcohol", ""], ["", "alcohol"]]


async def test_the_picture_decides_where_the_text_is_the_same_and_the_other_way_round() -> None:
    async with a_moderator() as moderator:

        async def outcome(text: str, *pictures: str) -> Outcome:
            return (await moderator.moderate(a_post(text, *pictures))).outcome

        assert await outcome("for sale, write me for the price", "knife.jpg") > Outcome.ALLOW
        assert await outcome("for sale, write me for the price", "bicycle.jpg") is Outcome.ALLOW
        assert await outcome("look at this", "knife.jpg") is Outcome.ALLOW
        assert await outcome("for sale, write me for the price") is Outcome.ALLOW


async def test_a_score_in_a_batch_is_the_score_alone() -> None:
    model = a_model()
    questions = [policy.question_for_model for policy in PolicySet.load(POLICIES).policies]
    encoded: list[Encoded] = []
    for sample in posts.SAMPLES:
        post = a_post(sample.text, *sample.pictures)
        async with Media(MediaSettings()) as media, media.opened(post) as read:
            encoded += model.encode(read.content, questions)
            alone_asked = [model.encode(read.content, [question])[0] for question in questions]
        alone = [score for [score] in model.score(alone_asked)]
        together = model.score(encoded)[-1]
        for single, other in zip(alone, together, strict=True):
            assert single.margin == pytest.approx(other.margin, abs=1e-3), sample


async def test_the_samples_travel_as_the_demo_sends_them(tmp_path: Path) -> None:
    *whole, cut_off = (wire.post(message, MediaSettings()) for message in posts.samples(tmp_path))
    async with a_moderator(POLICIES, tmp_path) as moderator:
        for post, sample in zip(whole, posts.SAMPLES, strict=True):
            assert (post.id, (await moderator.moderate(post)).deciding_policy) == (sample.id, sample.breaks)
        verdict = await moderator.moderate(cut_off)
    assert (verdict.outcome, verdict.status) == (Outcome.REVIEW, Status.DEGRADED)
    assert verdict.problems == (Problem(Reason.IMAGE_CORRUPT, "images[0]"),)


def test_the_demo_model_says_that_it_is_no_model_for_people() -> None:
    assert "no moderation model for people" in a_model().info.caution
    described = models.describe("demo")
    assert "moderation.training.train" in described, "the card says how it was trained"
    assert sum(path.stat().st_size for path in SHIPPED["demo"].iterdir()) <= 20e6


@pytest.mark.parametrize(("words", "is_refused"), [(500, False), (1_200, True)])
def test_the_check_of_policies_counts_as_the_worker_does(words: int, is_refused: bool) -> None:
    """The check reads no weights, and refuses the same policies."""
    model, (count, limit) = a_model(), models.question_tokens(ModelSettings(name="demo"))
    assert isinstance(model, VisionClassifier)
    prose = "knife " * words
    assert (limit, count(prose) > limit) == (model.longest_question, is_refused)
    if is_refused:
        with pytest.raises(ConfigError, match=f"takes {count(prose)} tokens of {limit}"):
            model.encode_question("knives", prose)
    else:
        assert len(model.encode_question("knives", prose)) == count(prose)
