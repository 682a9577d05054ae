"""`moderation policies diff --label`: posts that one version alone flags become a sample, and what its labels say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moderation.cli.policies.difference import (
    Compared,
    limit_members,
    print_limits,
    print_quality,
    quality_members,
    say,
)
from moderation.errors import ConfigError

if TYPE_CHECKING:
    from moderation.evaluation.promotion import Held
    from moderation.policies import Policy, PolicySet


def policies_of(old: PolicySet, new: PolicySet, changed: Sequence[str]) -> tuple[Policy, Policy]:
    """Both versions of the policy whose flips are labelled. changed: ids. Raises ConfigError unless it is one."""
    if len(changed) != 1:
        named = f"several policies change ({', '.join(changed)})" if changed else "no policy changes"
        raise ConfigError(f"--label goes with one policy, and {named}: name it by --policy ID")
    found = [next((each for each in side.policies if each.id == changed[0]), None) for side in (old, new)]
    if found[0] is None or found[1] is None:
        raise ConfigError(f"--label goes with a policy that both sets have, and one of them lacks {changed[0]}")
    return found[0], found[1]


def begin(path: Path, versions: tuple[Policy, Policy], compared: Compared, seed: int) -> None:
    """Writes the sample, and says how it goes on. Raises ConfigError."""
    from moderation.evaluation import flip_labels

    policy = versions[1].id
    effect = next((effect for effect in compared.change.effects if effect.policy == policy), None)
    drawn = flip_labels.Drawn(compared.pairs, compared.change.strata, compared.posts, compared.source, seed)
    count = flip_labels.begin(path, versions, compared.models[1], drawn, effect) if effect else 0
    if not count:
        typer.echo("no post is flagged by one version alone: there is nothing to label", err=True)
        return
    typer.echo(f"{path}: {count} posts to label. Label them by `moderation policies label {path}`,", err=True)
    typer.echo(f"then run `moderation policies diff OLD NEW --policy {policy} --label {path}`", err=True)


def judged(path: Path, versions: tuple[Policy, Policy], as_json: bool) -> Sequence[Held]:
    """Prints what the labels say, and returns the limits of the gate. Raises ConfigError."""
    from moderation.evaluation import flip_labels
    from moderation.evaluation.promotion import held_by

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
