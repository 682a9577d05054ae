"""`moderation policies diff --label`: posts that one version alone flags become a sample, and what its labels say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moderation.cli.options import err
from moderation.cli.policies.difference import (
    Compared,
    limit_members,
    print_limits,
    print_quality,
    quality_members,
    say,
)
from moderation.errors import ConfigError
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.evaluation.changes.changes import Effect
    from moderation.evaluation.changes.promotion import Held
    from moderation.policies import Policy, PolicySet


def policies_of(label: Path, old: PolicySet, new: PolicySet, changed: Sequence[str]) -> tuple[Policy, Policy]:
    """Both versions of the policy whose flips are labelled. changed: ids. Raises ConfigError unless it is one."""
    if not label.name.endswith(".sample.jsonl"):
        raise ConfigError(f"--label {label}: give the file a name that ends in .sample.jsonl")
    if not label.parent.is_dir():
        raise ConfigError(f"--label {label}: there is no folder {label.parent}: make it first")
    if len(changed) != 1:
        named = f"several policies change ({', '.join(changed)})" if changed else "no policy changes"
        raise ConfigError(f"--label goes with one policy, and {named}: name it by --policy ID")
    found = [next((each for each in side.policies if each.id == changed[0]), None) for side in (old, new)]
    if found[0] is None or found[1] is None:
        raise ConfigError(f"--label goes with a policy that both sets have, and one of them lacks {changed[0]}")
    return found[0], found[1]


def begin(path: Path, versions: tuple[Policy, Policy], compared: Compared, drawing: tuple[Settings, int]) -> None:
    """Writes the sample, and says how it goes on. drawing: the settings, and the seed. Raises ConfigError."""
    policy = versions[1].id
    effect = next((effect for effect in compared.change.effects if effect.policy == policy), None)
    count = asyncio.run(_begun(path, versions, compared, effect, drawing)) if effect else 0
    if not count:
        err.print("no post is flagged by one version alone: there is nothing to label", highlight=False)
        return
    for line in (
        f"{path}: {count} posts to label. Label them by: moderation policies label {path}",
        f"Then run: moderation policies diff OLD NEW --policy {policy} --label {path}",
    ):
        err.print(line, highlight=False, markup=False)


async def _begun(
    path: Path,
    versions: tuple[Policy, Policy],
    compared: Compared,
    effect: Effect,
    drawing: tuple[Settings, int],
) -> int:
    from moderation.evaluation.changes import flip_labels
    from moderation.media.fetching import Fetcher

    loaded, seed = drawing
    drawn = flip_labels.Drawn(
        compared.pairs, compared.change.strata, compared.posts, compared.source, seed, compared.models[1]
    )
    roots = tuple(sorted({*loaded.media.roots, *compared.folders}))
    fetcher = Fetcher(loaded.media.model_copy(update={"roots": roots}))
    try:
        return await flip_labels.begin(path, versions, drawn, effect, fetcher)
    finally:
        await fetcher.close()


def judged(path: Path, versions: tuple[Policy, Policy], as_json: bool) -> Sequence[Held]:
    """Prints what the labels say, and returns the limits of the gate. Raises ConfigError."""
    from moderation.evaluation.changes import flip_labels
    from moderation.evaluation.changes.promotion import held_by

    found = flip_labels.read(path, versions)
    limits = tuple(held_by(versions[1], found.figures, found.quality))
    if as_json:
        members: dict[str, Any] = {
            "source": found.source,
            "labellers": found.labellers,
            "quality": [quality_members(found.quality)],
            "gate": [limit_members(limit) for limit in limits],
            "passed": all(limit.kept for limit in limits),
        }
        typer.echo(json.dumps(members, indent=1, ensure_ascii=False))
    else:
        people = ", ".join(found.labellers) or "nobody yet"
        say(f"{versions[1].id}: flips on posts of {found.source}, labelled by {people}")
        print_quality(found.quality)
        print_limits(limits)
    return limits
