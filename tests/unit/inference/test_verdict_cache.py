"""Equal questions reach the model once. The cache has bounds and never answers another question."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.errors import PostError
from moderation.inference.verdict_cache import FINDING_BYTES, VERDICT_BYTES, VerdictCache
from moderation.types import Identity, ModelInfo, Origin, Reason, Score, Source, Status, Timings, Verdict
from tests.support.builders import a_finding, a_verdict

MAX_BYTES = 1 << 20


def standing(post_id: str = "post-1", content: str = "c", margin: float = 1.0) -> Verdict:
    score = Score(1 / (1 + math.exp(-margin)), margin, 0.9)
    return a_verdict(post_id, content_digest=content, findings=(a_finding(score=score),))


class Judge:
    """Decides when the test says so, each time differently."""

    def __init__(self, verdict: Verdict) -> None:
        self.calls = 0
        self.called = asyncio.Event()
        self.open = asyncio.Event()
        self._verdict = verdict

    async def __call__(self) -> Verdict:
        self.calls += 1
        self.called.set()
        number = self.calls
        await self.open.wait()
        return replace(self._verdict, decided_at_ms=number)


async def test_what_was_decided_is_the_answer_to_the_same_question() -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(standing())
    judge.open.set()
    first = await cache.decided(standing().identity, judge, 0)
    again = await cache.decided(standing().identity, judge, 0)
    assert (first.origin, again.origin, judge.calls) == (Origin.MODEL, Origin.CACHE, 1)
    assert replace(again, origin=Origin.MODEL) == first


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "b"},
        {"post_id": "post-2"},
        {"content_digest": "an edit"},
        {"policy_set_digest": "of tomorrow"},
        {"model": ModelInfo("fake", "", "another")},
        {"findings": (a_finding("no-lakes"), a_finding("spam"))},  # another language, and so other policies
    ],
)
async def test_another_question_is_another_question(other: dict[str, object]) -> None:
    asked: Verdict = replace(standing(), **other)  # type: ignore[arg-type]
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(asked)
    judge.open.set()
    cache.remember(standing())
    assert (await cache.decided(asked.identity, judge, 0)).origin is Origin.MODEL
    assert judge.calls == 1


async def test_callers_during_a_decision_wait_and_get_the_same_verdict() -> None:
    cache, judge = VerdictCache(0, 0), Judge(standing())  # waiting callers need no entry
    several = [asyncio.create_task(cache.decided(standing().identity, judge, 0)) for _ in range(5)]
    other = asyncio.create_task(cache.decided(standing("post-2").identity, Judge(standing("post-2")), 0))
    await judge.called.wait()
    judge.open.set()
    verdicts = await asyncio.gather(*several)
    assert judge.calls == 1
    assert {verdict.decided_at_ms for verdict in verdicts} == {1}
    assert [verdict.origin for verdict in verdicts] == [Origin.MODEL] + [Origin.CACHE] * 4
    assert not other.done()
    other.cancel()


async def test_a_failure_is_not_shared_and_the_next_caller_tries_again() -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(standing())

    async def fail() -> Verdict:
        await judge.open.wait()
        raise PostError(Reason.MODEL_FAILED, "alone in its batch")

    first = asyncio.create_task(cache.decided(standing().identity, fail, 0))
    cancelled = asyncio.create_task(cache.decided(standing().identity, judge, 0))
    third = asyncio.create_task(cache.decided(standing().identity, judge, 0))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    judge.open.set()
    with pytest.raises(PostError):
        await first
    assert (await third).origin is Origin.MODEL
    assert judge.calls == 1


@pytest.mark.parametrize(
    ("verdict", "stands"),
    [
        (standing(), True),
        (replace(standing(), status=Status.DEGRADED, findings=(a_finding(reason=Reason.NO_ANSWER),)), True),
        (replace(standing(), findings=(a_finding(score=None, reason=Reason.NO_PROBABILITY),)), True),
        (replace(standing(), findings=(a_finding(), a_finding("b", score=None, reason=Reason.REFUSED))), True),
        (replace(standing(), findings=(a_finding(), a_finding("b", score=None, reason=Reason.UNAVAILABLE))), False),
        (replace(standing(), findings=(a_finding(), a_finding("b", score=None, reason=Reason.MODEL_CHANGED))), False),
        (replace(standing(), findings=(a_finding(), a_finding("b", reason=Reason.MODEL_FAILED))), False),
        (replace(standing(), status=Status.UNDETERMINED, reason=Reason.DEADLINE_EXCEEDED), False),
        (replace(standing(), findings=()), False),  # no policy applied, or the verdict was cut
    ],
)
async def test_only_answers_of_the_model_are_cached(verdict: Verdict, stands: bool) -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(verdict)
    judge.open.set()
    await cache.decided(verdict.identity, judge, 0)
    await cache.decided(verdict.identity, judge, 0)
    assert judge.calls == (1 if stands else 2)


async def test_a_record_that_is_not_what_its_header_says_answers_nothing() -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(standing())
    judge.open.set()
    for unreadable in (lambda: None, lambda: standing("post-2")):
        cache = VerdictCache(10, MAX_BYTES)
        assert cache.restore_older(standing().identity.digest, "post-1", unreadable, 100)
        assert (await cache.decided(standing().identity, judge, 0)).origin is Origin.MODEL
        assert cache.bytes < 100 + 2 * VERDICT_BYTES
    assert judge.calls == 2


ids = st.integers(0, 12).map(lambda number: f"post-{number}")


@given(st.integers(0, 8), st.integers(0, 9 * (VERDICT_BYTES + 2 * FINDING_BYTES)), st.lists(ids, max_size=60))
def test_the_latest_verdicts_are_kept_within_the_bounds(max_entries: int, max_bytes: int, published: list[str]) -> None:
    cache = VerdictCache(max_entries, max_bytes)
    for post_id in published:
        cache.remember(standing(post_id))
        assert len(cache) <= max_entries
        assert cache.bytes <= max_bytes
    latest = list(dict.fromkeys(reversed(published)))
    assert [digest in knows(cache) for digest in latest] == [index < len(cache) for index in range(len(latest))]
    full = len(cache) == max_entries or cache.bytes + 2 * VERDICT_BYTES > max_bytes
    assert full or len(cache) == len(latest)


@given(st.integers(1, 8), st.lists(ids, max_size=30), st.lists(ids, max_size=10))
def test_a_restored_cache_knows_what_it_knew_before_the_restart(
    max_entries: int, before: list[str], after: list[str]
) -> None:
    """Filled backwards from the end of the log, it equals a cache that was never restarted."""
    lived, restarted = VerdictCache(max_entries, MAX_BYTES), VerdictCache(max_entries, MAX_BYTES)
    for post_id in before:
        lived.remember(standing(post_id))
    for post_id in reversed(before):
        verdict = standing(post_id)
        if not restarted.restore_older(verdict.identity.digest, post_id, partial(standing, post_id), 100):
            break
    for post_id in after:
        assert knows(lived) == knows(restarted)
        lived.remember(standing(post_id))
        restarted.remember(standing(post_id))
    assert knows(lived) == knows(restarted)


@given(st.lists(st.text(max_size=3), min_size=6, max_size=9), st.lists(st.text(max_size=3), min_size=6, max_size=9))
def test_two_identities_have_two_digests(one: list[str], other: list[str]) -> None:
    first, second = (Identity(a, b, c, d, e, tuple(asked)) for a, b, c, d, e, *asked in (one, other))
    assert (first == second) == (first.digest == second.digest)


@pytest.mark.parametrize(("findings", "certified"), [(1, 1), (6, 6), (30, 30), (1, 300)])
def test_a_verdict_takes_no_more_memory_than_is_counted(findings: int, certified: int) -> None:
    cache, count = VerdictCache(1_000, 1 << 30), 500
    tracemalloc.start()
    try:
        for number in range(count):
            cache.remember(large_strings(number, findings, certified))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert cache.bytes / 4 < taken < cache.bytes


def large_strings(number: int, findings: int, certified: int) -> Verdict:
    """With nothing that another verdict shares, as if read from a record. certified: policies with a certificate."""
    return a_verdict(
        f"a-post-id-of-some-length-{number:030d}",
        content_digest=f"{number:064d}",
        policy_set_digest=f"{number:065d}",
        model=ModelInfo(f"name-{number}", f"{number:040d}", f"{number:066d}"),
        source=Source(f"posts-{number}", 3, 10**9 + number, 10**12 + number),
        timings=Timings(*(number + part / 10 for part in range(6))),
        decision_state=" ".join(f"policy-{part}-{number}={part:08d}{number:08d}" for part in range(certified)),
        findings=tuple(
            a_finding(
                f"policy-{part}-{number}",
                score=Score(number + 0.1, number + 0.2, number + 0.3),
                answered=1,
                score_digest=f"{part:032d}{number:032d}",
                certificate=f"{part:08d}{number:08d}",
            )
            for part in range(findings)
        ),
    )


def knows(cache: VerdictCache) -> list[str]:
    """Ids of the posts that it has verdicts of, the latest last."""
    digests = {standing(f"post-{number}").identity.digest: f"post-{number}" for number in range(13)}
    return [digests[digest] for digest in cache._entries]


async def test_an_erased_post_is_judged_again() -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(standing())
    judge.open.set()
    await cache.decided(standing().identity, judge, 0)
    cache.remember(standing("post-2"))
    cache.forget("post-1", 1)
    assert len(cache) == 1
    await cache.decided(standing().identity, judge, 2)
    assert judge.calls == 2
    cache.forget("post-1", 3)
    cache.forget("post-2", 4)
    assert (len(cache), cache.bytes) == (0, 0)


async def test_of_a_post_that_its_erasure_has_overtaken_nothing_is_kept() -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(standing())
    judge.open.set()
    cache.forget("post-1", 5)  # while the post at 4 was still being read
    await cache.decided(standing().identity, judge, 4)
    assert (len(cache), judge.calls) == (0, 1)
    await cache.decided(standing().identity, judge, 6)  # posted again behind the erasure
    await cache.decided(standing().identity, judge, 4)
    assert (len(cache), judge.calls) == (1, 3)
    cache.committed(5)
    assert (await cache.decided(standing().identity, judge, 4)).origin is Origin.CACHE


async def test_an_erasure_overtakes_a_caller_that_waited_for_a_failed_decision() -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(standing())

    async def fail() -> Verdict:
        await judge()
        raise PostError(Reason.MODEL_FAILED, "of its own")

    first = asyncio.create_task(cache.decided(standing().identity, fail, 0))
    await judge.called.wait()
    second = asyncio.create_task(cache.decided(standing().identity, judge, 1))
    await asyncio.sleep(0)  # it waits for the first one's turn
    cache.forget("post-1", 2)
    judge.open.set()
    with pytest.raises(PostError):
        await first
    assert (await second).origin is Origin.MODEL
    assert len(cache) == 0


@pytest.mark.parametrize(
    "score",
    [Score(math.nan, -8.0, 0.9), Score(0.001, 8.0, 0.9), Score(0.1, -2.2, math.nan), Score(1.5, 8.0, 0.9), None],
)
async def test_what_came_of_no_sound_score_is_not_restored(score: Score | None) -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(standing())
    judge.open.set()
    unsound = a_verdict("post-1", content_digest="c", findings=(a_finding(score=score),))
    assert cache.restore_older(standing().identity.digest, "post-1", lambda: unsound, 100)
    verdict = await cache.decided(standing().identity, judge, 0)
    assert (verdict.origin, judge.calls) == (Origin.MODEL, 1)


async def test_an_answer_without_a_score_is_restored() -> None:
    cache, judge = VerdictCache(10, MAX_BYTES), Judge(standing())
    finding = a_finding(score=None, reason=Reason.NO_PROBABILITY)
    bare = a_verdict("post-1", content_digest="c", status=Status.DEGRADED, findings=(finding,))
    assert cache.restore_older(bare.identity.digest, "post-1", lambda: bare, 100)
    verdict = await cache.decided(bare.identity, judge, 0)
    assert (verdict.origin, verdict.findings, judge.calls) == (Origin.CACHE, (finding,), 0)
