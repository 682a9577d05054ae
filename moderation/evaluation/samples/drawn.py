"""From a population to a sample: which groups are drawn, their posts read again, and their pictures as files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from moderation.errors import ConfigError, cause_of
from moderation.evaluation.posts.posts import ending_of
from moderation.evaluation.samples import sampling
from moderation.evaluation.samples.populations import K, Population, Wanted
from moderation.evaluation.samples.samples import SUFFIX, Item, Region, Sample
from moderation.media.fetching import Fetcher
from moderation.types import Post

Read = Callable[[Collection[K]], Awaitable[Mapping[K, Post]]]  # the posts at these places that can be read


@dataclass(frozen=True, slots=True)
class Draw:
    """What is asked for. steps: thresholds of a grid; 1: the loosest of `wanted` alone."""

    wanted: Wanted
    size: int
    seed: int
    steps: int = 1


async def draw(population: Population[K], order: Draw, read: Read[K]) -> tuple[Sample, list[Item]]:
    """The sample, and its items without files. The same population and seed give the same items.

    A post that cannot be read any more is of the population no longer, and the next one is drawn. Raises ConfigError
    for a region that holds nothing, and what `read` raises.
    """
    members, wanted = dict(population.members), order.wanted
    loosest = wanted.thresholds[-1]
    posts: dict[K, Post] = {}
    while True:
        first = sampling.order(members, order.seed, population.score_digest)[: order.size]
        missing = [members[group].place for group in first if members[group].place not in posts]
        if not missing:
            break
        posts |= await read(missing)
        members = {group: member for group, member in members.items() if member.place in posts or group not in first}
    if not members:
        raise ConfigError(_nothing_in(population, wanted))
    groups = [member.scored for member in members.values()]
    thresholds = wanted.thresholds
    if order.steps > 1:
        thresholds = sampling.grid((each.score for each in groups), loosest, order.steps)
    levels = sampling.levels(groups, thresholds, wanted.region)
    items = [
        Item(number, group, _level(members[group].scored.score, thresholds, wanted.region), posts[members[group].place])
        for number, group in enumerate(first, 1)
    ]
    sample = Sample(
        policy=wanted.policy.id,
        policy_version=wanted.policy.version,
        score_digest=population.score_digest,
        model_name=population.model.name,
        model_digest=population.model.digest,
        region=wanted.region,
        levels=levels,
        seed=order.seed,
        source=population.source,
        begins=population.begins,
        ends=population.ends,
        drawn_at=datetime.now(UTC),
    )
    return sample, items


def _level(score: float, thresholds: Sequence[float], region: Region) -> int:
    """The level of a group. The population holds the region alone, so there is one."""
    level = sampling.level_of(score, thresholds, region)
    return len(thresholds) if level is None else level


def _nothing_in(population: Population[K], wanted: Wanted) -> str:
    where = {
        Region.REMOVE: f"scores {wanted.thresholds[-1]:g} or more",
        Region.ALLOW: f"scores less than {wanted.thresholds[-1]:g} and is let through",
        Region.POOL: "has a score",
    }
    left_out = "; ".join(f"{count:,} {reason}" for reason, count in population.left_out.items())
    return (
        f"{population.source}: nothing that {where[wanted.region]} for {wanted.policy.id} can be read: take a longer "
        f"period, more posts or another --threshold{f' (left out: {left_out})' if left_out else ''}"
    )


@asynccontextmanager
async def pictures(items: Sequence[Item], sample: Path, fetcher: Fetcher) -> AsyncIterator[list[Item]]:
    """Yields the items with the files of their pictures, in a folder beside the sample that its owner alone may read.

    A picture that cannot be had has no file. Where the context is left by an error, the files are deleted. Raises
    ConfigError where files cannot be written.
    """
    folder = sample.with_name(f"{sample.name.removesuffix(SUFFIX)}.pictures")
    done: list[Item] = []
    files: list[Path] = []
    try:
        for item in items:
            found = (await fetcher.fetch(item.post)).files if item.post.images else {}
            begin = len(files)
            for index, data in sorted(found.items()):
                files.append(folder / f"{item.number:04}-{index + 1}{ending_of(data)}")
                _write(files[-1], data)
            done.append(replace(item, files=tuple(files[begin:])))
        yield done
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # it may hold other files
            folder.rmdir()
        raise


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
    except OSError as error:
        raise ConfigError(f"{path}: not written: {cause_of(error)}") from None
