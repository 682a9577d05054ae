"""Which verdicts of many posts are kept for the next run. The fake model answers. See tests/unit/cli/test_many.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderation.evaluation.posts import tables
from moderation.evaluation.progress_file import ProgressFile
from moderation.evaluation.testing import classified
from moderation.evaluation.testing.classified import Case
from moderation.models.fake import Fake
from moderation.policies import PolicySet
from moderation.settings import MediaSettings, ModelSettings, Settings
from tests.support.builders import a_policy
from tests.support.moderators import a_moderator


async def judged(folder: Path, model: Fake) -> tuple[list[str], int]:
    """Statuses of three posts, and how many verdicts are kept for the next run."""
    path = folder / "posts.csv"
    path.write_text("text\na lake\na flaky lake\nviolates:no-lakes\n")
    cases = [Case(row, None) for row in tables.read(path, MediaSettings()).rows]
    with ProgressFile(folder / "out.csv.part", "q") as kept:
        async with a_moderator(a_policy(), model=model) as moderator:
            found = await classified.judge(cases, moderator, kept, lambda _: None)
        return [each.status for each in found], len(kept)


async def test_a_verdict_that_could_be_another_next_time_is_not_kept(tmp_path: Path) -> None:
    assert await judged(tmp_path, Fake(raise_on="flaky")) == (["FINAL", "UNDETERMINED", "FINAL"], 2)
    assert await judged(tmp_path, Fake()) == (["FINAL"] * 3, 3)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(model=ModelSettings(name="fake", window_tokens=900)),
        Settings(model=ModelSettings(name="fake", max_windows=3)),
        Settings(model=ModelSettings(name="fake"), media=MediaSettings(max_images=3)),
    ],
)
def test_verdicts_under_other_settings_are_of_another_question(settings: Settings) -> None:
    policies = PolicySet.of([a_policy()])
    before = classified.question(policies, "digest", Settings(model=ModelSettings(name="fake")))
    assert classified.question(policies, "digest", settings) != before
    assert classified.question(policies, "other digest", settings) != classified.question(policies, "digest", settings)
