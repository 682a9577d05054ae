"""Populations: the groups of equal content that a sample is drawn from, each with the score of one policy.

From topics: the verdicts of a period that hold a score of the policy as it is now. From a file: posts that are scored
now. A population holds no content: of each group the place of one post, where it is read again once it is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from moderation.errors import ConfigError
from moderation.evaluation.judging import Judge, each
from moderation.evaluation.posts import tables
from moderation.evaluation.samples.groups import group_of
from moderation.evaluation.samples.samples import Region
from moderation.evaluation.samples.sampling import Scored, level_of
from moderation.evaluation.traffic import traffic
from moderation.evaluation.traffic.traffic import Counts, Period, Step
from moderation.inference.scoring import Scorer
from moderation.media.fetching import Fetcher
from moderation.media.reader import Media, digest_of
from moderation.policies import Policy, score_digest
from moderation.settings import Settings
from moderation.types import Finding, ModelInfo, Outcome, Post, Score, Source, Verdict

AT_ONCE = 16  # posts whose pictures are held

NO_SCORE = "without a score of the policy"
OTHER_SCORE = "scored by other words of the policy, another model or another version"
CHANGED = "pictures that changed since, or cannot be had any more"

Shown = Callable[[str, int], AbstractContextManager[Step]]  # the things, and how many: as cli.progress.shown
K = TypeVar("K")  # where a post is: a Source, or a line of a file


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be drawn from: the groups of a region. thresholds: from strict to loose."""

    policy: Policy
    region: Region
    thresholds: tuple[float, ...]

    def holds(self, finding: Finding) -> bool:
        """Whether a post with this finding is in the region. It has a score of the policy."""
        score = finding.score
        if score is None or level_of(score.probability, self.thresholds[-1:], self.region) is None:
            return False
        # A post that is held back, although its score is low, is none that was let through.
        return (
            self.region is not Region.ALLOW or finding.reason is None or self.policy.outcome_on_error is Outcome.ALLOW
        )


@dataclass(frozen=True, slots=True)
class Member(Generic[K]):
    """A group, and where one post of it is."""

    scored: Scored
    place: K


@dataclass(frozen=True, slots=True)
class Population(Generic[K]):
    """The groups of a region whose content could be read, by their digest."""

    model: ModelInfo
    score_digest: str
    source: str  # a topic or the name of a file
    begins: datetime
    ends: datetime
    members: Mapping[str, Member[K]]
    left_out: Mapping[str, int]  # posts, by reason


@dataclass(slots=True)
class _Scores:
    """The posts of the region with one score digest."""

    model: ModelInfo
    latest: int = 0  # when the newest of its verdicts was decided
    found: dict[Source, tuple[float, str]] = field(default_factory=dict)  # probability, and digest of the content


async def of_topic(settings: Settings, wanted: Wanted, period: Period, shown: Shown) -> Population[Source]:
    """The population that the topics hold. Where a model was changed, the newest one counts.

    Raises ConfigError and DeliveryError as traffic.py does, and ConfigError where no verdict has a score of the policy.
    """
    left_out: Counts = Counter()
    reasons: Counter[str] = Counter()
    by_digest: dict[str, _Scores] = {}
    with shown("records", await traffic.size(settings, period)) as step:
        async for verdict in traffic.verdicts(settings, period, left_out, step):
            digest = _take(wanted, verdict, by_digest, reasons)
            if digest and (scores := by_digest[digest]).latest < verdict.decided_at_ms:
                scores.latest = verdict.decided_at_ms
    if not by_digest:
        raise ConfigError(_unscored(wanted, settings.kafka.verdicts_topic, reasons))
    digest, scores = max(by_digest.items(), key=lambda pair: pair[1].latest)
    if others := sum(len(other.found) for other in by_digest.values()) - len(scores.found):
        reasons[OTHER_SCORE] += others
    with shown("posts", len(scores.found)) as step:
        members = await _read(settings, wanted, scores, (left_out, reasons), step)
    topics = f"{settings.kafka.verdicts_topic}, {settings.kafka.posts_topic}"
    counted: dict[str, int] = dict(left_out) | dict(reasons)
    return Population(scores.model, digest, topics, period.begins, period.ends, members, counted)


def _take(wanted: Wanted, verdict: Verdict, by_digest: dict[str, _Scores], reasons: Counter[str]) -> str:
    """Notes a verdict of the region. Returns the digest of its score; empty: it has none that counts."""
    finding = next((each for each in verdict.findings if each.policy_id == wanted.policy.id), None)
    if finding is None or verdict.source is None or not _counts(wanted.policy, finding.score):
        reasons[NO_SCORE] += 1
        return ""
    digest = score_digest(wanted.policy, verdict.model.digest)
    if finding.score_digest != digest:
        reasons[OTHER_SCORE] += 1
        return ""
    scores = by_digest.setdefault(digest, _Scores(verdict.model))
    if finding.score is not None and wanted.holds(finding):
        scores.found[verdict.source] = finding.score.probability, verdict.content_digest
    return digest


def _counts(policy: Policy, score: Score | None) -> bool:
    """Whether the model has answered, with enough mass."""
    return score is not None and (score.mass is None or score.mass >= policy.thresholds.mass)


def _unscored(wanted: Wanted, topic: str, reasons: Counter[str]) -> str:
    policy = wanted.policy
    if reasons[OTHER_SCORE]:
        return (
            f"{policy.id}: topic {topic} has no score of it in this period: {reasons[OTHER_SCORE]:,} verdicts are "
            f"{OTHER_SCORE}. Take a period after the last change, or score a file by --posts"
        )
    remedy = "score a file by --posts" if not policy.asked else "take a period in which workers had it"
    return f"{policy.id}: topic {topic} has no score of it in this period, and it is {policy.status.value}: {remedy}"


async def _read(
    settings: Settings, wanted: Wanted, scores: _Scores, counts: tuple[Counts, Counter[str]], step: Step
) -> dict[str, Member[Source]]:
    """Reads the posts of the region, and groups those whose content is what was judged."""
    left_out, reasons = counts
    grouping: Grouping[Source] = Grouping(wanted.region)
    fetcher = Fetcher(settings.media)

    async def grouped(pair: tuple[Source, Post]) -> None:
        source, post = pair
        files = (await fetcher.fetch(post)).files
        probability, judged = scores.found[source]
        if digest_of(post, files) == judged:
            grouping.add(group_of(post, files), probability, source, _rank(post, source))
        else:
            reasons[CHANGED] += 1

    try:
        async for pairs in _batches(traffic.each_post(settings, scores.found, left_out, step)):
            await each(pairs, grouped, lambda _: None)
    finally:
        await fetcher.close()
    return grouping.members


class Grouping(Generic[K]):
    """Puts posts of equal content into groups. What comes out does not depend on the order of posts.

    A group has the highest score of its posts in the region, and below a threshold the lowest one: it is in the region
    if one of its posts is.
    """

    def __init__(self, region: Region) -> None:
        self._sign = -1 if region is Region.ALLOW else 1
        self._best: dict[str, tuple[float, str]] = {}
        self.members: dict[str, Member[K]] = {}

    def add(self, group: str, probability: float, place: K, rank: str) -> None:
        """Takes a post. rank: of two posts with the same score, the lower one stands for the group."""
        best = self._best.get(group)
        if best is None or (-self._sign * probability, rank) < (-self._sign * best[0], best[1]):
            self._best[group] = probability, rank
            self.members[group] = Member(Scored(group, probability), place)


def _rank(post: Post, source: Source) -> str:
    return f"{post.tenant}\0{post.id}\0{source.partition:09}\0{source.offset:020}"


async def _batches(pairs: AsyncIterator[tuple[Source, Post]]) -> AsyncIterator[Sequence[tuple[Source, Post]]]:
    batch: list[tuple[Source, Post]] = []
    async for pair in pairs:
        batch.append(pair)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


async def of_lines(
    settings: Settings, wanted: Wanted, path: Path, judge: tuple[Media, Scorer], shown: Shown
) -> tuple[Population[int], Mapping[int, Post]]:
    """The population of a file, whose posts are scored now, and its posts by line.

    settings: those with which `judge` reads pictures. Raises ModerationError, also where no post has a score.
    """
    media, scorer = judge
    now = datetime.now(UTC)
    rows = tables.whole(path, settings.media).rows
    reasons: Counter[str] = Counter()
    grouping: Grouping[int] = Grouping(wanted.region)
    with shown("posts", len(rows)) as step:
        findings = await Judge([wanted.policy], media, scorer).findings([row.post for row in rows], step)
    fetcher = Fetcher(settings.media)
    try:
        for row, of_post in zip(rows, findings, strict=True):
            finding = of_post.get(wanted.policy.id)
            if finding is None or finding.score is None or not _counts(wanted.policy, finding.score):
                reasons[NO_SCORE] += 1
            elif wanted.holds(finding):
                files = (await fetcher.fetch(row.post)).files
                grouping.add(group_of(row.post, files), finding.score.probability, row.line, f"{row.line:012}")
    finally:
        await fetcher.close()
    if reasons[NO_SCORE] == len(rows):
        raise ConfigError(f"{path}: the model gave none of the {len(rows):,} posts a score of {wanted.policy.id}")
    digest = score_digest(wanted.policy, scorer.info.digest)
    population = Population(scorer.info, digest, path.name, now, now, grouping.members, dict(reasons))
    return population, {row.line: row.post for row in rows}
