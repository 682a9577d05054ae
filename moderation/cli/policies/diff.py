"""`moderation policies diff`: what a change of policies or of the model does to the same posts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from moderation.cli import judging, progress
from moderation.cli.options import AsJson
from moderation.cli.policies import difference, flip_labels, past_thresholds
from moderation.cli.policies.chosen import alone
from moderation.cli.policies.compared_posts import Chosen, From, chosen_posts
from moderation.cli.policies.difference import Compared
from moderation.errors import ConfigError
from moderation.observability import logs
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.evaluation.changes.comparing import Judged
    from moderation.evaluation.changes.promotion import Held
    from moderation.evaluation.changes.wording import PolicyChange
    from moderation.inference.scoring import Scorer
    from moderation.media.reader import Media
    from moderation.policies import Policy, PolicySet
    from moderation.types import ModelInfo, Verdict


@dataclass(frozen=True, slots=True)
class Versions:
    """The two sets that are compared, and how."""

    old: PolicySet
    new: PolicySet
    words: tuple[PolicyChange, ...]  # what the two say differently


def diff(
    old: Annotated[Path, typer.Argument(help="folder of the policy set as it is")],
    new: Annotated[Path, typer.Argument(help="folder of the policy set as it is to be")],
    *,
    posts: Annotated[
        Path | None, typer.Option(help="file with posts: JSON lines, a golden set, or CSV with text, image, language")
    ] = None,
    topic: Annotated[
        bool, typer.Option("--topic", help="posts of a period, from the topics; --sample alone means this, too")
    ] = False,
    since: Annotated[str, typer.Option(help="begin of the period: 24h, 7d or 2026-01-31T22:00, in UTC")] = "24h",
    until: Annotated[str | None, typer.Option(help="end of the period; default now")] = None,
    archive: Annotated[
        Path | None, typer.Option(help="folder of `moderation archive`, for a change of thresholds alone")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="compare this policy alone, as if it were live; default all that are asked")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="judge so many of the posts, drawn by strata; of a topic, default 2,000")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the draw: the same seed draws the same posts")] = 1,
    certified: Annotated[
        bool, typer.Option("--certified", help="decide as if each certificate that is required were there")
    ] = False,
    model: Annotated[str | None, typer.Option(help="hub id, folder or demo; default MODERATION_MODEL")] = None,
    new_model: Annotated[str | None, typer.Option(help="model for NEW; default the same as for OLD")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="ask the model, also where its answers are kept")] = False,
    label: Annotated[
        Path | None,
        typer.Option(
            help="NAME.sample.jsonl: writes the posts that one version alone flags; once labelled, judges by it"
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="write a page of HTML that needs nothing else")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a change of policies or of the model does to posts. Exits with 1 where a policy's gate says no."""
    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {report}: there is no folder {report.parent}: make it first")
    source = From(
        posts, topic or (posts is None and sample is not None), since, until, archive, sample, seed, new_model, fresh
    )
    loaded, terminal = judging.prepared(model)
    versions = _versions(old, new, policy, certified)
    if not as_json:
        difference.print_words(versions.words)
    if not versions.words and new_model is None:
        difference.print_alike(as_json, _unasked(versions))
        return
    changed = _changed(versions, policy)
    both = None if label is None else flip_labels.policies_of(label, versions.old, versions.new, changed)
    if label is not None and both is not None and label.exists():
        _end(flip_labels.judged(label, both, as_json))
        return
    sets = versions.old, versions.new
    if past_thresholds.applies(sets, source, more=new_model is not None or label is not None):
        compared = past_thresholds.compared(loaded, sets, versions.words, source, terminal)
    else:
        compared = asyncio.run(_compared(loaded, versions, source, terminal))
    if as_json:
        typer.echo(json.dumps(difference.described(compared), indent=1, ensure_ascii=False))
    else:
        difference.print_change(compared)
    if report is not None:
        difference.write_page(report, compared)
    if label is not None and both is not None:
        flip_labels.begin(label, both, compared, (loaded, seed))
    _end(compared.limits)


def _end(limits: Sequence[Held]) -> None:
    if not all(limit.kept for limit in limits):
        sys.exit(1)


def _changed(versions: Versions, policy: str | None) -> list[str]:
    """The policies whose flips may be labelled."""
    return [policy] if policy else [change.id for change in versions.words]


def _versions(old: Path, new: Path, policy: str | None, certified: bool) -> Versions:
    """Both sets. Raises ConfigError."""
    from moderation.evaluation.changes import wording
    from moderation.policies import PolicySet

    for folder in (old, new):
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder: name the folder of a policy set")
    before, after = (PolicySet.load(folder) if policy is None else alone(folder, policy) for folder in (old, new))
    if certified:
        before, after = _uncertified(before), _uncertified(after)
    return Versions(before, after, wording.compared(_asked(before), _asked(after)))


def _asked(policies: PolicySet) -> list[Policy]:
    return [policy for policy in policies.policies if policy.asked]


def _unasked(versions: Versions) -> list[str]:
    """Ids of policies that differ, drafts and retired ones too."""
    from moderation.evaluation.changes import wording

    return [change.id for change in wording.compared(versions.old.policies, versions.new.policies)]


def _uncertified(policies: PolicySet) -> PolicySet:
    from moderation.policies import PolicySet

    return PolicySet.of(policy.model_copy(update={"certificate": None}) for policy in policies.policies)


async def _compared(loaded: Settings, versions: Versions, source: From, terminal: Console | None) -> Compared:
    """Both versions on the same posts. Raises ModerationError."""
    changed = [change.id for change in versions.words] or [policy.id for policy in _asked(versions.old)]
    chosen = await chosen_posts(source, loaded, (versions.old, changed), terminal)
    before, info, after, new_info = await _judged(loaded, versions, chosen, source, terminal)
    return _effects(versions, chosen, (before, after), (info, new_info))


async def _judged(
    loaded: Settings, versions: Versions, chosen: Chosen, source: From, terminal: Console | None
) -> tuple[Judged, ModelInfo, Judged, ModelInfo]:
    name = source.new_model or loaded.model.name
    other = loaded.model_copy(update={"model": loaded.model.model_copy(update={"name": name})})
    with progress.shown("verdicts", 2 * len(chosen.posts), terminal) as step:
        async with judging.opened(loaded, chosen.folders) as tools:
            by = _By(chosen, step, fresh=source.fresh)
            before, info = await by.verdicts(versions.old, (loaded, *tools), chosen.known), tools[1].info
            if source.new_model is None:
                known = dict(enumerate(before.verdicts))
                return before, info, await by.verdicts(versions.new, (loaded, *tools), known), info
        async with judging.opened(other, chosen.folders) as tools:
            return before, info, await by.verdicts(versions.new, (other, *tools), {}), tools[1].info


class _By:
    """Judges the posts by one version after the other. Answers are kept, so an interrupted run goes on where it was."""

    def __init__(self, chosen: Chosen, step: Callable[[int], object], *, fresh: bool) -> None:
        self._posts = chosen.posts
        self._step = step
        self._fresh = fresh

    async def verdicts(
        self, policies: PolicySet, tools: tuple[Settings, Media, Scorer], known: Mapping[int, Verdict]
    ) -> Judged:
        from moderation.evaluation.changes.comparing import judged
        from moderation.evaluation.kept import keeping

        loaded, media, scorer = tools
        with keeping(scorer, _asked(policies), loaded.model, fresh=self._fresh) as (kept, answers):
            try:
                return await judged(policies, self._posts, (media, kept), known, self._step)
            except asyncio.CancelledError:
                where = f"begins at the start: {answers.lost}" if answers.lost else "goes on from here"
                logs.say(f"interrupted; the same command {where}")
                raise


def _effects(
    versions: Versions, chosen: Chosen, judged: tuple[Judged, Judged], models: tuple[ModelInfo, ModelInfo]
) -> Compared:
    from moderation.evaluation.changes.changes import Pair, change_of, one_sided, quality_of
    from moderation.evaluation.changes.promotion import held

    before, after = judged
    pairs = [
        Pair(post.id, stratum, slices, old, new)
        for post, stratum, slices, old, new in zip(
            chosen.posts, chosen.stratum, chosen.slices, before.verdicts, after.verdicts, strict=True
        )
    ]
    change = change_of(pairs, chosen.strata, versions.old.policies, versions.new.policies)
    ids = [effect.policy for effect in change.effects if effect.policy]
    qualities = {id: quality_of(id, one_sided(pairs, id), chosen.strata, {}) for id in ids}
    return Compared(
        words=versions.words,
        change=change,
        qualities=qualities,
        limits=held(change, qualities, versions.new.policies),
        judged=judged,
        models=models,
        source=chosen.source,
        posts={post.id: post for post in chosen.posts},
        pairs=pairs,
        folders=chosen.folders,
        left_out=chosen.left_out,
    )
