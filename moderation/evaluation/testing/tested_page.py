"""The page of a test of policies: figures, plots, and the worst misses with their pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from moderation.evaluation import report
from moderation.evaluation.files import replaced
from moderation.evaluation.testing import plots
from moderation.evaluation.testing.figures import LEVELS, STEPS, Case
from moderation.evaluation.testing.tested import Result, Tried
from moderation.evaluation.testing.thumbnails import thumbnails
from moderation.media.reader import Media
from moderation.types import ModelInfo

WORST = 20  # posts of a kind that are shown, for each policy


@dataclass(frozen=True, slots=True)
class Shown:
    """A post on the page."""

    case: Case
    pictures: tuple[str, ...]  # as data: URLs


@dataclass(frozen=True, slots=True)
class Section:
    """A policy on the page."""

    result: Result
    before: Result | None  # with the thresholds of its file, where others were tested
    plots: tuple[tuple[str, Markup], ...]  # title and drawing
    kinds: tuple[tuple[str, int, tuple[Shown, ...]], ...]  # title, how many there are, and the worst


async def write(path: Path, info: ModelInfo, tried: Tried, media: Media) -> None:
    """Writes the page. The file is whole or as it was before. Raises ConfigError if it cannot be written."""
    before = {result.policy.id: result for result in tried.before}
    sections = [await _section(result, before.get(result.policy.id), media) for result in tried.results]
    page = await asyncio.to_thread(
        report.page,
        "test.html.j2",
        "Policies against their golden sets",
        info=info,
        sections=sections,
        overlap=tried.overlap,
        levels=LEVELS,
        steps=STEPS,
    )
    replaced(path, page.encode())


async def _section(result: Result, before: Result | None, media: Media) -> Section:
    figures, thresholds = result.figures, result.policy.thresholds
    drawn = (
        ("Scores by label", await asyncio.to_thread(plots.scores, figures, thresholds)),
        ("Precision and recall over the threshold", plots.precision_and_recall(figures, thresholds)),
        ("Reliability, with exact intervals", plots.reliability(figures)),
        ("Flagged posts over the threshold", plots.flagged(figures, thresholds)),
    )
    kinds = (("Missed", result.misses), ("False alarms", result.false_alarms), ("No answer", result.unanswered))
    shown = [(title, len(cases), await _shown(cases[:WORST], media)) for title, cases in kinds if cases]
    return Section(result, before, drawn, tuple(shown))


async def _shown(cases: Sequence[Case], media: Media) -> tuple[Shown, ...]:
    return tuple([Shown(case, await thumbnails(media, case.labelled.post)) for case in cases])
