"""A mistake in a policy file is reported with file, line and key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.policies import PolicySet

VALID = """\
id: lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates:
  - {id: L1, text: mentions a lake}
thresholds: {review: 0.5, remove: 0.9}
"""


def written(folder: Path, text: str, name: str = "lakes.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("title: Lakes", "titel: Lakes"), 3, "titel: there is no such key"),
        (("title: Lakes", "title: Lakes"), 1, None),
        (("title: Lakes\n", ""), 1, "title: this key is missing"),
        (("id: lakes", "id: seas"), 1, "id: must be the file's name, lakes"),
        (("version: 1", "version: one"), 2, "version: must be a whole number from 1 on"),
        (("version: 1", "version: 0"), 2, "version: must be a whole number from 1 on, as in `version: 2`; it is '0'"),
        (("review: 0.5", "review: 0.95"), 7, "thresholds: thresholds must rise"),
        (("remove: 0.9", "remove: 1.9"), 7, "thresholds.remove: must be a number from 0 to 1"),
        (("remove: 0.9", "remove: .nan"), 7, "thresholds.remove: must be a number from 0 to 1"),
        (("text: mentions", "txt: mentions"), 6, "violates, clause 1, txt: there is no such key"),
        (("title: Lakes", "title: Lakes\ntitle: Seas"), 4, "title: given twice"),
        (("title: Lakes", "title: Lakes\nstatus: alive"), 4, "status: must be 'draft', 'shadow', 'live'"),
        (("title: Lakes", "title: Lakes\ngolden: ../lakes.golden.jsonl"), 4, "golden: must be the name of a file"),
        (
            ("title: Lakes", "title: Lakes\nexamples: [{text: x, label: L9}]"),
            4,
            "examples, example 1, label: no clause",
        ),
        (("title: Lakes", "title: [Lakes"), 3, "not readable as YAML: a bracket is opened"),
        (("title: Lakes", "title: !!python/name:os.system Lakes"), 3, "not readable as YAML: a text begins with !"),
        (("id: lakes", "id: lakes\nsame: &a [*a]"), 1, "an alias (*) in it contains itself"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(
    tmp_path: Path, change: tuple[str, str], line: int, says: str | None
) -> None:
    assert change[0] in VALID
    path = written(tmp_path, VALID.replace(*change))
    if says is None:
        PolicySet.load(tmp_path)
        return
    with pytest.raises(ConfigError) as caught:
        PolicySet.load(tmp_path)
    assert f"{path}:{line}: " in str(caught.value)
    assert says in str(caught.value)


def test_all_mistakes_of_all_files_are_reported_together(tmp_path: Path) -> None:
    written(tmp_path, VALID.replace("version: 1", "version: 0"))
    written(tmp_path, VALID, "seas.yaml")
    written(tmp_path, VALID, "ponds.yml")
    with pytest.raises(ConfigError) as caught:
        PolicySet.load(tmp_path)
    assert [line.split(":")[0].rsplit("/")[-1] for line in str(caught.value).splitlines()] == [
        "ponds.yml",
        "lakes.yaml",
        "seas.yaml",
    ]


def test_a_folder_without_policies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no policy"):
        PolicySet.load(tmp_path)
    with pytest.raises(ConfigError, match=f"^{tmp_path}/elsewhere: no such folder"):
        PolicySet.load(tmp_path / "elsewhere")


@pytest.mark.timeout(20)
def test_nothing_in_a_folder_keeps_its_reader_waiting(tmp_path: Path) -> None:
    written(tmp_path, VALID)
    for name in ("a", "a.yaml"):
        os.mkfifo(tmp_path / name)
    lists = ["k0: &k0 [x]", *(f"k{place}: &k{place} [{', '.join([f'*k{place - 1}'] * 9)}]" for place in range(1, 12))]
    bomb = written(tmp_path, "\n".join(["id: bomb", "version: 1", *lists]), "bomb.yaml")
    with pytest.raises(ConfigError) as caught:
        PolicySet.load(tmp_path)
    assert f"{tmp_path}/a.yaml:1: this is no file that can be read: delete it\n" in str(caught.value)
    assert f"{bomb}:3: k0: there is no such key" in str(caught.value)
