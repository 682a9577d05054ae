"""Posts of past traffic that two versions are compared on: drawn by strata of the scores that their verdicts hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from moderation.errors import ConfigError
from moderation.evaluation.changes.strata import Band, Stratum, Traits, band, drawn, nearness
from moderation.evaluation.traffic import traffic
from moderation.evaluation.traffic.traffic import Counts, Period, Step
from moderation.policies import PolicySet
from moderation.settings import Settings
from moderation.types import Post, Source, Verdict

Shown = Callable[[str, int], AbstractContextManager[Step]]  # the things, and how many: as cli.progress.shown


@dataclass(frozen=True, slots=True)
class Past:
    """Posts that were drawn from a period."""

    posts: Sequence[Post]
    stratum: Sequence[int]  # of each post
    strata: tuple[Stratum, ...]
    known: Mapping[int, Verdict]  # by place of the post: the verdict of the period
    left_out: Mapping[str, int]  # posts of the period that could not be read, by why


async def past(
    settings: Settings, period: Period, versions: tuple[PolicySet, Collection[str]], draw: tuple[int, int], shown: Shown
) -> Past:
    """Draws from the posts of a period that can still be read. Holds some 500 bytes for each of them, and no content.

    versions: the old set, and ids of the policies that change, by whose margins strata are cut. draw: how many posts,
    and the seed. Raises ConfigError and DeliveryError as traffic.py does.
    """
    old, changed = versions
    total, seed = draw
    left_out: Counts = Counter()
    bands: dict[Source, Band] = {}
    with shown("records", await traffic.size(settings, period)) as step:
        async for verdict in traffic.verdicts(settings, period, left_out, step):
            if verdict.source is not None:
                bands[verdict.source] = band_of(verdict, old, changed)
    traits: dict[Source, Traits] = {}
    with shown("posts", len(bands)) as step:
        async for source, post in traffic.each_post(settings, bands, left_out, step):
            traits[source] = Traits(bands[source], post.language, post.has_images)
    if not traits:
        raise ConfigError(f"no post of the period {period} can be read any more: give a later period")
    order = sorted(traits, key=lambda source: (source.topic, source.partition, source.offset))
    chosen = drawn([traits[source] for source in order], total, seed)
    stratum = {order[place]: number for number, places in enumerate(chosen.chosen) for place in places}
    posts = await traffic.posts(settings, stratum)
    known: dict[Source, Verdict] = {}
    with shown("records", await traffic.size(settings, period)) as step:
        async for verdict in traffic.verdicts(settings, period, None, step):
            if verdict.source in posts:
                known[verdict.source] = verdict
    there = sorted(posts, key=lambda source: (stratum[source], source.partition, source.offset))
    judged = Counter(stratum[source] for source in there)  # less than was drawn, if one was erased in between
    return Past(
        posts=[posts[source] for source in there],
        stratum=[stratum[source] for source in there],
        strata=tuple(replace(each, judged=judged[number]) for number, each in enumerate(chosen.strata)),
        known={place: known[source] for place, source in enumerate(there) if source in known},
        left_out={f"{why}": number for why, number in left_out.items()},
    )


def band_of(verdict: Verdict, old: PolicySet, changed: Collection[str]) -> Band:
    """The band of a verdict: by the policy that changes and is nearest to one of its thresholds."""
    policies = {policy.id: policy for policy in old.policies}
    found: list[tuple[float, Band]] = []
    for finding in verdict.findings:
        policy = policies.get(finding.policy_id)
        if finding.policy_id in changed and policy is not None and finding.score is not None:
            thresholds = policy.thresholds.review, policy.thresholds.remove
            margin = finding.score.margin
            found.append((nearness(margin, *thresholds), band(margin, *thresholds)))
    return min(found, default=(0.0, Band.UNKNOWN))[1]
