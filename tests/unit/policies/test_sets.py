"""A version that was not raised after a change is found: against another folder, or against the last commit of git."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from moderation.policies import Kind, check
from tests.support.author_mistakes import PONDS, SOUND

CHANGES = {
    "title": ("title: Lakes", "title: All lakes"),
    "question": ("a lake?", "a large lake?"),
    "violates": ("mentions a pond", "mentions a pool"),
    "allows": ("the sea", "the coast"),
    "thresholds": ("remove: 0.9", "remove: 0.99"),
    "applies_to": ("thresholds:", "applies_to: {media: [text]}\nthresholds:"),
    "on_error": ("thresholds:", "on_error: allow\nthresholds:"),
    "severity": ("thresholds:", "severity: low\nthresholds:"),
    "definitions": ("thresholds:", "definitions: {lake: water}\nthresholds:"),
    "examples": ("thresholds:", "examples: [{text: a puddle, label: L1}]\nthresholds:"),
}


def folder_of(place: Path, **texts: str) -> Path:
    place.mkdir(exist_ok=True)
    for id, text in texts.items():
        (place / f"{id}.yaml").write_text(text)
    return place


def mistakes(now: Path, before: Path | None) -> list[str]:
    checked = check(now, against=before)
    assert all(mistake.kind is Kind.WARNING for mistake in checked.mistakes)
    return [f"{mistake.file.name}:{mistake.line}: {mistake.text}" for mistake in checked.mistakes]


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_without_a_new_version_is_a_warning(tmp_path: Path, key: str) -> None:
    before = folder_of(tmp_path / "before", lakes=SOUND)
    now = folder_of(tmp_path / "now", lakes=SOUND.replace(*CHANGES[key]))
    expected = f"lakes.yaml:2: version: {key} changed since {before}, and the version did not: write 2"
    assert mistakes(now, before) == [expected]


def test_a_raised_version_a_new_policy_and_a_comment_are_no_mistakes(tmp_path: Path) -> None:
    before = folder_of(tmp_path / "before", lakes=SOUND)
    raised = SOUND.replace("version: 1", "version: 2").replace("remove: 0.9", "remove: 0.95")
    assert mistakes(folder_of(tmp_path / "raised", lakes=raised), before) == []
    assert mistakes(folder_of(tmp_path / "more", lakes=SOUND + "# why\n", ponds=PONDS), before) == []


def test_a_lower_version_is_a_warning(tmp_path: Path) -> None:
    before = folder_of(tmp_path / "before", lakes=SOUND.replace("version: 1", "version: 7"))
    now = folder_of(tmp_path / "now", lakes=SOUND)
    assert mistakes(now, before) == [f"lakes.yaml:2: version: 1 is lower than in {before}: write 8"]


def test_a_policy_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    before = folder_of(tmp_path / "before", lakes=SOUND, ponds=PONDS)
    now = folder_of(tmp_path / "now", lakes=SOUND)
    expected = f"ponds.yaml:1: ponds was live in {before} and is gone: put it back, with status: retired if it is over"
    assert mistakes(now, before) == [expected]
    retired = PONDS.replace("version: 1", "version: 2") + "status: retired\n"
    assert mistakes(folder_of(now, ponds=retired), before) == []


def test_a_draft_may_change_as_it_likes(tmp_path: Path) -> None:
    draft = PONDS + "status: draft\n"
    before = folder_of(tmp_path / "before", lakes=SOUND, ponds=draft)
    now = folder_of(tmp_path / "now", lakes=SOUND, ponds=draft.replace("remove: 0.9", "remove: 0.8"))
    assert mistakes(now, before) == []


def test_a_folder_to_compare_with_that_is_none_is_an_error(tmp_path: Path) -> None:
    now = folder_of(tmp_path / "now", lakes=SOUND)
    (error,) = check(now, against=tmp_path / "nowhere").errors
    assert (error.file, error.text.partition(";")[0]) == (tmp_path / "nowhere", "no such folder")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_in_a_checkout_the_last_commit_is_compared_with(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    lakes = f"{SOUND}golden: cases.jsonl\n"
    folder = folder_of(tmp_path / "our policies", lakes=lakes, ponds=PONDS)
    (folder / "cases.jsonl").write_text("{}\n")
    git("init")
    assert mistakes(folder, None) == []  # no commit yet
    git("add", "-A")
    git("commit", "-m", "Policies")
    assert mistakes(folder, None) == []
    folder_of(folder, lakes=lakes.replace("remove: 0.9", "remove: 0.99"))
    expected = "lakes.yaml:2: version: thresholds changed since the last commit, and the version did not: write 2"
    assert mistakes(folder, None) == [expected]
    folder_of(folder, lakes=lakes.replace("remove: 0.9", "remove: 0.99").replace("version: 1", "version: 2"))
    assert mistakes(folder, None) == []
    (folder / "ponds.yaml").unlink()
    (gone,) = mistakes(folder, None)
    assert gone.startswith("ponds.yaml:1: ponds was live in the last commit and is gone")
