"""`moderation policies attack`: how many verdicts of a golden set each attack flips, with the model at hand."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from moderation.cli import judging, progress
from moderation.cli.options import AsJson, out, table_console
from moderation.cli.policies import chosen
from moderation.cli.policies.chosen import Set
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.evaluation.posts.golden import GoldenSet
    from moderation.evaluation.testing.flips import Flips
    from moderation.types import ModelInfo


def attack(
    folder: Annotated[Path | None, typer.Argument(help="folder of the policy set; default MODERATION_POLICIES")] = None,
    *,
    golden: Annotated[
        Path | None,
        typer.Option(help="golden set, of --policy or of the policy that its name begins with; default those beside"),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="id of the policy to attack; default all with a golden set")
    ] = None,
    model: Annotated[str | None, typer.Option(help="hub id, folder or demo; default MODERATION_MODEL")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how many verdicts of golden sets each attack flips. Exits with 1 above a policy's max_flip_rate."""
    loaded, terminal = judging.prepared(model)
    sets = chosen.chosen(folder or loaded.policies, golden, policy, loaded.media).sets
    info, measured = asyncio.run(_measured(loaded, sets, terminal))
    if as_json:
        described = [_described(flips, golden_set) for flips, (_, golden_set) in zip(measured, sets, strict=True)]
        typer.echo(
            json.dumps({"model": judging.model_members(info), "policies": described}, indent=1, ensure_ascii=False)
        )
    else:
        for flips in measured:
            _print(flips)
        out.print("Intervals are exact (Clopper-Pearson, 95 %), if the posts were drawn at random.", highlight=False)
        if info.caution:
            out.print(f"{info.name}: {info.caution}", highlight=False, markup=False)
    if not all(flips.passed for flips in measured):
        sys.exit(1)


async def _measured(
    loaded: Settings, sets: Sequence[Set], terminal: Console | None
) -> tuple[ModelInfo, Sequence[Flips]]:
    from moderation.evaluation.testing.flips import Measure

    folders = {folder for _, golden_set in sets for folder in golden_set.folders}
    async with judging.opened(loaded, folders) as (media, scorer):
        measures = [Measure(policy, golden_set.posts, media, scorer) for policy, golden_set in sets]
        with progress.shown("verdicts", sum(measure.total for measure in measures), terminal) as step:
            return scorer.info, [await measure.flips(step) for measure in measures]


def _print(flips: Flips) -> None:
    """A policy's table, and what is not in it."""
    right = flips.posts - len(flips.wrong) - len(flips.unanswered)
    limit = "no limit" if flips.limit is None else f"at most {flips.limit:.1%} flipped by one attack"
    title = f"{flips.policy.id}, version {flips.policy.version}: {right} of {flips.posts} posts judged rightly, {limit}"
    out.print(title, style="bold", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for name in ("attack", "in the"):
        table.add_column(name)
    for name in ("flipped", "rate", "95 % interval", ""):
        table.add_column(name, justify="right" if name else "left")
    for rate in flips.rates:
        shown = "-" if rate.rate is None else f"{rate.rate:.1%}"
        interval = f"{rate.interval.low:.1%} to {rate.interval.high:.1%}"
        note = "above the limit" if rate.above(flips.limit) else "control" if rate.control else ""
        table.add_row(rate.attack, rate.way, f"{len(rate.flipped)} of {rate.tried}", shown, interval, note)
    table_console().print(table)
    for words, posts in (("judged wrongly without an attack", flips.wrong), ("not judged", flips.unanswered)):
        if posts:
            out.print(f"{words}: {', '.join(each.name for each in posts)}", highlight=False, markup=False)
    if flips.limit is not None and not any(rate.tried for rate in flips.rates):
        out.print("no post is judged rightly, so nothing can be said of the limit", highlight=False)
    out.print()


def _described(flips: Flips, golden_set: GoldenSet) -> dict[str, Any]:
    """A policy's figures as JSON."""
    from moderation.evaluation.binomial import CONFIDENCE

    rates = [
        {
            "attack": rate.attack,
            "in": rate.way,
            "control": rate.control,
            "tried": rate.tried,
            "flipped": len(rate.flipped),
            "rate": rate.rate,
            "interval": [rate.interval.low, rate.interval.high],
            "above": rate.above(flips.limit),
            "posts": [each.post.id for each in rate.flipped],
        }
        for rate in flips.rates
    ]
    return {
        "id": flips.policy.id,
        "version": flips.policy.version,
        "golden": str(golden_set.path),
        "posts": flips.posts,
        "wrong": [each.post.id for each in flips.wrong],
        "unanswered": [each.post.id for each in flips.unanswered],
        "max_flip_rate": flips.limit,
        "confidence": CONFIDENCE,
        "passed": flips.passed,
        "attacks": rates,
    }
