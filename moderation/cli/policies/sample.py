"""`moderation policies sample`: draws groups of equal content to be labelled, from past traffic or from a file."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from moderation.cli import judging, progress
from moderation.cli.options import AsJson, out, table_console
from moderation.cli.periods import time_of
from moderation.cli.policies.chosen import policy_of
from moderation.errors import ConfigError
from moderation.observability import logs
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.evaluation.samples.drawn import Draw
    from moderation.evaluation.samples.samples import Item, Sample
    from moderation.evaluation.traffic.traffic import Period
    from moderation.policies import Policy
    from moderation.types import Post, Source

SIZES = {"remove": 153, "allow": 299, "pool": 400}  # shows 95 % precision with 3 wrong; 1 % misses with none
SEEDS = 1 << 32

Drawn = tuple["Sample", "list[Item]", Mapping[str, int]]  # and what is left out, by reason


@dataclass(frozen=True, slots=True)
class Place:
    """Where posts come from, and where the sample goes."""

    posts: Path | None  # a file; None: the topics
    period: Period | None
    path: Path


def sample(
    policy: Annotated[str, typer.Argument(help="id of the policy, or its file")],
    *,
    posts: Annotated[
        Path | None, typer.Option(help="file of posts, CSV or JSON lines, that are scored now; default: past traffic")
    ] = None,
    since: Annotated[
        str, typer.Option(help="of past traffic, from this time on: 6h or 2d ago, or 2026-01-31T22:00 (UTC)")
    ] = "7d",
    until: Annotated[str | None, typer.Option(help="and before this time, in the same forms; default now")] = None,
    region: Annotated[
        str,
        typer.Option(help="remove: at or above --threshold, shows precision; allow: below it, shows misses; pool: all"),
    ] = "remove",
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="default the policy's `remove`; for --region allow and with --grid, `review`"),
    ] = None,
    grid: Annotated[
        int, typer.Option(min=1, max=100, help="try so many thresholds, by quantiles of scores, down to --threshold")
    ] = 1,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="groups to draw; default 153, 299 or 400, by region, and 153 for each of --grid"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=SEEDS - 1, help="draws again what it drew; default new")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="file of the sample; default ID.sample.jsonl or ID.REGION.sample.jsonl")
    ] = None,
    policies: Annotated[Path | None, typer.Option(help="folder of the policy; default MODERATION_POLICIES")] = None,
    model: Annotated[str | None, typer.Option(help="for --posts: hub id, folder or demo; default as set")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw posts to label, of equal content one, at random from a seed. Writes posts and pictures, never scores."""
    from moderation.evaluation.samples.drawn import Draw
    from moderation.evaluation.samples.populations import Wanted
    from moderation.evaluation.samples.samples import SUFFIX, Region

    loaded, terminal = judging.prepared(model)
    if region not in SIZES:
        raise ConfigError(f"--region must be one of {', '.join(SIZES)}, not {region!r}")
    found = named(policy, policies or loaded.policies)
    folder = f" --policies {policies}" if policies else ""
    wanted = Wanted(found, Region(region), (_threshold(found, region, threshold, grid),))
    path = out_file or Path(f"{found.id}{'' if region == Region.REMOVE else f'.{region}'}{SUFFIX}")
    if not path.name.endswith(SUFFIX):
        raise ConfigError(f"--out {path}: the name of a sample ends in {SUFFIX}")
    if path.exists():
        raise ConfigError(f"{path}: exists, and labels may belong to it: name another file by --out")
    if seed is not None and (spent := _spent(found, policy, policies or loaded.policies, seed, loaded)):
        logs.say(spent)
    order = Draw(wanted, size or default_size(region, grid), secrets.randbelow(SEEDS) if seed is None else seed, grid)
    place = Place(posts, None if posts else _period(since, until), path)
    try:
        drawn, items, left_out = asyncio.run(_draw(loaded, order, place, terminal))
    except KeyboardInterrupt:
        again = f"--seed {order.seed} draws the same from what can be read then"
        logs.say(f"interrupted, and nothing is written: {again}")
        raise
    _say(path, drawn, items, left_out, order, as_json=as_json)
    if not as_json:
        out.print(f"Label them: moderation policies label {path}{folder} --as NAME", highlight=False, markup=False)


def named(policy: str, folder: Path) -> Policy:
    """The policy with this id in the folder, or in this file. Raises ConfigError."""
    from moderation.policies.loading import load_policy

    return load_policy(Path(policy)) if policy.endswith((".yaml", ".yml")) else policy_of(folder, policy)


def _spent(policy: Policy, named: str, folder: Path, seed: int, loaded: Settings) -> str:
    """Says that a certificate has used labels of this seed, before people label them once more; empty: none has."""
    from moderation.evaluation.certifying import used

    folder = Path(named).parent if named.endswith((".yaml", ".yml")) else folder
    rows = used.read(used.path_of(policy, folder), policy, loaded.media)
    row = next((row for row in (rows.posts if rows else ()) if row.drawn and row.drawn.seed == seed), None)
    if rows is None or row is None:
        return ""
    return (
        f"{rows.path}:{row.line}: the certificate {row.certificate} has used labels of --seed {seed}: those that are "
        "drawn again certify nothing, so draw a sample to be certified without --seed"
    )


def _threshold(policy: Policy, region: str, threshold: float | None, grid: int) -> float:
    """Raises ConfigError for a grid where there is none."""
    if region == "allow" and grid > 1:
        raise ConfigError("--grid is for thresholds that remove: leave it out with --region allow")
    if threshold is not None:
        return threshold
    return policy.thresholds.review if region == "allow" or grid > 1 else policy.thresholds.remove


def default_size(region: str, grid: int) -> int:
    """So many that about SIZES reach the strictest threshold of a grid, which is tested first.

    Recall is tested from the loosest one on.
    """
    return SIZES[region] * (grid if region == "remove" else 1)


def _period(since: str, until: str | None) -> Period:
    from moderation.evaluation.traffic.traffic import Period

    now = datetime.now(UTC)
    return Period(time_of(since, "--since") or now, time_of(until, "--until") or now)


async def _draw(loaded: Settings, order: Draw, place: Place, terminal: Console | None) -> Drawn:
    """Draws, and writes the sample. Raises ConfigError, DeviceError and DeliveryError; then no sample is written."""
    from moderation.evaluation.posts import tables
    from moderation.evaluation.samples import drawn, populations, samples
    from moderation.evaluation.traffic import traffic
    from moderation.media.fetching import Fetcher

    shown = partial(progress.shown, terminal=terminal)
    if place.posts is not None:
        folders = tables.whole(place.posts, loaded.media).folders
        roots = tuple(sorted({*loaded.media.roots, *folders}))
        loaded = loaded.model_copy(update={"media": loaded.media.model_copy(update={"roots": roots})})
        async with judging.opened(loaded) as judge:
            scored, by_line = await populations.of_lines(loaded, order.wanted, place.posts, judge, shown)

        async def of_file(lines: Collection[int]) -> Mapping[int, Post]:
            return {line: by_line[line] for line in lines}

        result, items = await drawn.draw(scored, order, of_file)
        left_out = scored.left_out
    else:
        assert place.period is not None  # noqa: S101  without a file there is a period
        population = await populations.of_topic(loaded, order.wanted, place.period, shown)

        async def of_topic(sources: Collection[Source]) -> Mapping[Source, Post]:
            return await traffic.posts(loaded, sources)

        result, items = await drawn.draw(population, order, of_topic)
        left_out = population.left_out
    fetcher = Fetcher(loaded.media)
    try:
        async with drawn.pictures(items, place.path, fetcher) as items:
            samples.write(place.path, result, items)
    finally:
        await fetcher.close()
    return result, items, left_out


def _say(
    path: Path, drawn: Sample, items: list[Item], left_out: Mapping[str, int], order: Draw, *, as_json: bool
) -> None:
    if as_json:
        members = {
            "sample": str(path),
            "policy": drawn.policy,
            "region": drawn.region,
            "items": len(items),
            "levels": [{"threshold": level.threshold, "population": level.population} for level in drawn.levels],
            "seed": drawn.seed,
            "source": drawn.source,
            "begins": drawn.begins.isoformat(),
            "ends": drawn.ends.isoformat(),
            "scoreDigest": drawn.score_digest,
            "model": drawn.model_name,
            "leftOut": dict(left_out),
        }
        typer.echo(json.dumps(members, indent=1))
        return
    lines = [f"{path}: {len(items):,} groups of equal content, drawn with the seed {drawn.seed} from {drawn.source}"]
    if len(items) < order.size:
        lines.append(f"these are all that there are: {order.size:,} were asked for")
    lines += [f"left out: {count:,} {reason}" for reason, count in left_out.items()]
    for line in lines:
        out.print(line, highlight=False, markup=False)
    _table(drawn, items)


def _table(drawn: Sample, items: list[Item]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("threshold", "groups", "drawn"):
        table.add_column(name, justify="right")
    where = "below " if drawn.region == "allow" else ""
    for place, level in enumerate(drawn.levels):
        count = sum(item.level <= place for item in items)
        table.add_row(f"{where}{level.threshold}", f"{level.population:,}", f"{count:,}")
    if drawn.region == "pool":
        table.add_row("all", "", f"{len(items):,}")
    table_console().print(table)
