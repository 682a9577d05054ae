"""`moderation policies test`: policies against their golden sets, with the model at hand."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from moderation.cli import judging, progress
from moderation.cli.options import AsJson
from moderation.cli.policies import chosen, tested_json, tested_text
from moderation.cli.policies.chosen import Chosen
from moderation.errors import ConfigError
from moderation.observability import logs
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.evaluation.kept import Answers
    from moderation.evaluation.testing.tested import Trial, Tried
    from moderation.policies import PolicyThresholds
    from moderation.types import ModelInfo

Threshold = Annotated[float | None, typer.Option(help="test as if the files said so; the model is not asked again")]


def measure(
    folder: Annotated[Path | None, typer.Argument(help="folder of the policy set; default MODERATION_POLICIES")] = None,
    *,
    policy: Annotated[str | None, typer.Option(help="id of the policy to test; default all with a golden set")] = None,
    golden: Annotated[
        Path | None,
        typer.Option(help="golden set, of --policy or of the policy that its name begins with; default those beside"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="hub id, folder or demo; default MODERATION_MODEL")] = None,
    review: Threshold = None,
    remove: Threshold = None,
    report: Annotated[Path | None, typer.Option(help="write a page of HTML with plots and the worst misses")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="ask the model, also where its answers are kept")] = False,
    as_json: AsJson = False,
) -> None:
    """Test policies against their golden sets: misses by name, precision, recall. Exits with 1 against a `gate:`."""
    loaded, terminal = judging.prepared(model)
    if report is not None and (report.is_dir() or not report.absolute().parent.is_dir()):
        raise ConfigError(f"--report {report}: name a file in a folder that exists")
    picked = chosen.chosen(folder or loaded.policies, golden, policy, loaded.media)
    run = _Run(loaded, picked, (review, remove), fresh=fresh)
    info = asyncio.run(run.done(report, terminal))
    if as_json:
        described = tested_json.described(info, run.tried, [policy.id for policy in picked.without], run.answers)
        typer.echo(json.dumps(described, indent=1, ensure_ascii=False))
    else:
        tested_text.show(info, run.tried, picked.without, run.answers)
    if report is not None:
        logs.say(f"wrote {report}")
    gated = [policy for policy in picked.without if policy.gate]
    if gated or not all(result.passed for result in run.tried.results):
        sys.exit(1)


class _Run:
    """One test, with what remains when it is interrupted."""

    tried: Tried
    answers: Answers

    def __init__(
        self, loaded: Settings, picked: Chosen, thresholds: tuple[float | None, float | None], *, fresh: bool
    ) -> None:
        from moderation.evaluation.testing.tested import Trial

        self._loaded = loaded
        self._picked = picked
        self._fresh = fresh
        self._thresholds = _thresholds(picked, *thresholds)
        self._trial: Trial = Trial(picked.sets, picked.folder)

    async def done(self, report: Path | None, terminal: Console | None) -> ModelInfo:
        """Judges, and writes the report. Returns the model."""
        from moderation.evaluation.kept import keeping

        policies = [policy for policy, _ in self._picked.sets]
        folders = {folder for _, golden_set in self._picked.sets for folder in golden_set.folders}
        async with judging.opened(self._loaded, folders) as (media, scorer):
            with keeping(scorer, policies, self._loaded.model, fresh=self._fresh) as (kept, self.answers):
                try:
                    with progress.shown("posts", self._trial.total, terminal) as step:
                        self.tried = await self._trial.tried(media, kept, step, self._thresholds)
                except asyncio.CancelledError:
                    _say_interrupted(self.answers)
                    raise
            if self.answers.lost:
                logs.say(f"the model's answers are not kept for the next run: {self.answers.lost}")
            if report is not None:
                from moderation.evaluation.testing import tested_page

                await tested_page.write(report, scorer.info, self.tried, media)
            return scorer.info


def _say_interrupted(answers: Answers) -> None:
    if answers.lost:
        logs.say(f"interrupted; the next run begins at the start: {answers.lost}")
    else:
        many = answers.found + answers.added
        logs.say(f"interrupted; {many} answers of the model are kept: run it again, and it goes on from there")


def _thresholds(picked: Chosen, review: float | None, remove: float | None) -> dict[str, PolicyThresholds]:
    """By id; empty: those of the files. Raises ConfigError."""
    from moderation.evaluation.testing.tested import other_thresholds

    if review is None and remove is None:
        return {}
    return {policy.id: other_thresholds(policy, review, remove) for policy, _ in picked.sets}
