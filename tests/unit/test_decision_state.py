"""Certificates end while posts are judged: each verdict is decided in the state of the moment when it is decided."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from moderation.inference.self_check import REFERENCE_POSTS
from moderation.inference.verdict_cache import VerdictCache
from moderation.models.contract import Encoded
from moderation.models.fake import Fake
from moderation.types import Origin, Outcome, Post, Problem, Reason, Score, Source, Standing, Status, Verdict
from tests.support.builders import a_policy, a_post
from tests.support.certificates import ISSUED, a_certificate
from tests.support.moderators import a_moderator

LAKES = a_policy("lakes", certificate="required")
CERTIFICATE = a_certificate(LAKES, expires_at=ISSUED + timedelta(days=1))
VALID, ENDED = f"lakes={CERTIFICATE.id}", "lakes=CERTIFICATE_EXPIRED"
POST = a_post(text="violates:lakes")
REFERENCES = {post.text for post in REFERENCE_POSTS}


class Clock:
    """The time of this process, in days since the certificate was issued."""

    days = 0.5

    def __call__(self) -> float:
        return ISSUED.timestamp() + self.days * 86_400


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("moderation.moderator.time.time", clock)
    monkeypatch.setattr("moderation.moderator.time.time_ns", lambda: int(clock() * 1e9))
    return clock


class Asked(Fake):
    """Counts posts, and waits with the scores of each until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.posts = 0
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        asked = sum(item.text not in REFERENCES for item in batch)  # type: ignore[attr-defined]
        self.posts += asked
        if asked:
            self.begun.set()
            assert self.go_on.wait(20)
        return super().score(batch)


def source(offset: int) -> Source:
    return Source("posts", 0, offset, 0)


def said(verdict: Verdict) -> tuple[str, str, str, str, Standing | None]:
    (finding,) = verdict.findings
    return verdict.outcome.name, verdict.origin.name, verdict.decision_state, finding.certificate, finding.held


async def test_the_scores_of_a_known_post_are_decided_again_when_the_state_has_changed(clock: Clock) -> None:
    model, cache = Asked(), VerdictCache(10, 1 << 20)
    async with a_moderator(LAKES, model=model, certificates=[CERTIFICATE]) as moderator:
        verdicts = []
        for offset, clock.days in enumerate((0.5, 0.6, 1.0, 1.1, 0.7)):  # a clock may go back
            verdicts.append(await moderator.moderate(POST, source(offset), cache))
    assert model.posts == 1
    assert [said(verdict) for verdict in verdicts] == [
        ("REMOVE", "MODEL", VALID, CERTIFICATE.id, None),
        ("REMOVE", "CACHE", VALID, CERTIFICATE.id, None),
        ("REVIEW", "CACHE", ENDED, "", Standing.EXPIRED),
        ("REVIEW", "CACHE", ENDED, "", Standing.EXPIRED),
        ("REMOVE", "CACHE", VALID, CERTIFICATE.id, None),
    ]
    first, repeat, ended, again, _ = verdicts
    decided = [(each.decided_at_ms / 1000 - ISSUED.timestamp()) / 86_400 for each in (first, repeat, ended, again)]
    assert decided == [0.5, 0.5, 1.0, 1.0]
    assert len({verdict.findings[0].score for verdict in verdicts}) == 1
    assert (ended.deciding_policy, ended.status, ended.stands) == ("lakes", Status.FINAL, True)
    assert first.identity != ended.identity
    assert first.identity.question == ended.identity.question
    assert len({verdict.identity.digest for verdict in verdicts}) == 2


async def test_a_certificate_that_ends_while_a_post_waits_for_its_scores_holds_no_more(clock: Clock) -> None:
    """A post may wait for as long as a model server is away. Those that wait for its verdict get the same."""
    model, cache = Asked(), VerdictCache(10, 1 << 20)
    model.go_on.clear()
    async with a_moderator(LAKES, model=model, certificates=[CERTIFICATE]) as moderator:
        both = [asyncio.create_task(moderator.moderate(POST, source(offset), cache)) for offset in (0, 1)]
        assert await asyncio.to_thread(model.begun.wait, 20)
        clock.days = 1.5
        model.go_on.set()
        verdicts = await asyncio.gather(*both)
    assert model.posts == 1
    assert sorted(map(said, verdicts)) == [
        ("REVIEW", "CACHE", ENDED, "", Standing.EXPIRED),
        ("REVIEW", "MODEL", ENDED, "", Standing.EXPIRED),
    ]


async def test_scores_that_an_older_version_did_not_record_are_asked_for_again(clock: Clock) -> None:
    model, cache = Asked(), VerdictCache(10, 1 << 20)
    async with a_moderator(LAKES, model=model, certificates=[CERTIFICATE]) as moderator:
        first = await moderator.moderate(POST, source(0))
        (finding,) = first.findings
        cache.remember(replace(first, findings=(replace(finding, answered=None, windows=2),)))
        same = await moderator.moderate(POST, source(1), cache)
        assert (same.origin, same.outcome) == (Origin.CACHE, Outcome.REMOVE), "in the same state it is repeated"
        clock.days = 2.0
        other = await moderator.moderate(POST, source(2), cache)
    assert said(other) == ("REVIEW", "MODEL", ENDED, "", Standing.EXPIRED)
    assert model.posts == 2


@pytest.mark.parametrize("recorded", ["", "0" * 64], ids=["by an older version", "of another preparation"])
async def test_scores_of_another_digest_are_not_decided_again(clock: Clock, recorded: str) -> None:
    """A new version may prepare posts otherwise. No finding may name a score digest whose score it does not have."""
    model, cache = Asked(), VerdictCache(10, 1 << 20)
    ponds = a_policy("ponds")  # beside the policy with the certificate, and without one
    async with a_moderator(LAKES, ponds, model=model, certificates=[CERTIFICATE]) as moderator:
        first = await moderator.moderate(POST, source(0))
        lakes, other = first.findings
        older = (replace(lakes, certificate=""), replace(other, score_digest=recorded))
        cache.remember(replace(first, findings=older, decision_state=""))
        verdict = await moderator.moderate(POST, source(1), cache)
    assert (verdict.origin, model.posts) == (Origin.MODEL, 2)
    assert verdict.findings == first.findings


async def test_a_verdict_without_a_decision_state_is_decided_again(clock: Clock) -> None:
    """It comes from a worker to which the certificate was not yet deployed."""
    cache = VerdictCache(10, 1 << 20)
    async with a_moderator(LAKES, certificates=[CERTIFICATE]) as moderator:
        first = await moderator.moderate(POST, source(0))
        (finding,) = first.findings
        cache.remember(replace(first, findings=(replace(finding, certificate=""),), decision_state=""))
        clock.days = 3.0
        verdict = await moderator.moderate(POST, source(1), cache)
    assert said(verdict) == ("REVIEW", "CACHE", ENDED, "", Standing.EXPIRED)


@pytest.mark.parametrize(("days", "outcome"), [(0.5, Outcome.REMOVE), (1.5, Outcome.REVIEW)])
async def test_a_post_of_which_nothing_was_read_is_not_removed_without_the_certificate(
    clock: Clock, days: float, outcome: Outcome
) -> None:
    policy = a_policy("lakes", certificate="required", on_error="remove")
    certificate = a_certificate(policy, expires_at=ISSUED + timedelta(days=1))
    clock.days = days
    async with a_moderator(policy, certificates=[certificate]) as moderator:
        verdict = moderator.undetermined(Post("1"), Problem(Reason.NOT_DECODABLE), None)
    assert (verdict.outcome, verdict.status) == (outcome, Status.UNDETERMINED)
    assert verdict.decision_state == (VALID if days < 1 else ENDED).replace(CERTIFICATE.id, certificate.id)


async def test_a_shadow_policy_is_held_too_and_does_not_count(clock: Clock) -> None:
    clock.days = 2.0
    shadow = a_policy("shadow", certificate="required", status="shadow")
    async with a_moderator(shadow, a_policy("seas")) as moderator:
        verdict = await moderator.moderate(a_post(text="violates:shadow violates:seas"))
    by_id = {finding.policy_id: finding for finding in verdict.findings}
    assert (verdict.outcome, verdict.deciding_policy) == (Outcome.REMOVE, "seas")
    assert (by_id["shadow"].outcome, by_id["shadow"].held) == (Outcome.REVIEW, Standing.MISSING)
    assert verdict.decision_state == "shadow=CERTIFICATE_MISSING"
