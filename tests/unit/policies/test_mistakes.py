"""Each mistake in a policy file is one line, in words for a person who writes prose and not code."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.policies.loading import load_policy

VALID = """\
id: lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates:
  - {id: L1, text: mentions a lake}
  - {id: L2, text: mentions a pond}
thresholds: {review: 0.5, remove: 0.9}
"""


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            ("id: L1", "id: L 1"),
            "6: violates, clause 1, id: must be letters, digits and hyphens, .*; it is 'L 1': write L-1",
        ),
        (("id: L2", "id: L1"), "7: violates, clause 2, id: another clause has the id L1: give each its own"),
        (("thresholds:", "threshold:"), "8: threshold: there is no such key; did you mean thresholds\\?"),
        (("remove: 0.9", "remov: 0.9"), "8: thresholds.remov: there is no such key; did you mean remove\\?"),
        (
            ("title: Lakes", "title: Lakes\ncolour: red"),
            "4: colour: there is no such key; the keys here are id, version, .*",
        ),
        (
            ("remove: 0.9", "remove: many"),
            "8: thresholds.remove: must be a number from 0 to 1, such as 0.9; it is 'many'",
        ),
        (("title: Lakes", "title: 7"), "3: title: must be a text, and YAML reads '7' .*: put it in quotes"),
        (("title: Lakes", "title: [a]"), "3: title: must be one text, and YAML reads a list: put the text in quotes"),
        (("title: Lakes", "title: ''"), "3: title: the text is empty: write one, or delete the key"),
        (
            ("title: Lakes", "title: Lakes\napplies_to: {media: [video]}"),
            "4: applies_to.media, entry 1: must be .*'video'",
        ),
        (("title: Lakes", "title: Lakes\napplies_to: {media: []}"), "4: applies_to.media: the list is empty.*"),
        (
            ("title: Lakes", "title: Lakes\napplies_to: {languages: [english]}"),
            "4: .*'english' is no BCP 47 tag.*; write en",
        ),
        (("title: Lakes", "title: Lakes\napplies_to: {languages: [no]}"), "4: .*YAML reads 'no' .*in quotes"),
        (
            ("title: Lakes", "title: Lakes\napplies_to: {languages: [de_AT]}"),
            "4: .*'de_AT' is no BCP 47 tag.*; write de-AT",
        ),
        (
            ("title: Lakes", "title: Lakes\nexamples: [{text: x, label: L1}, {text: y, label: L9}]"),
            "4: examples, example 2, label: no clause of this policy has the id L9; its clauses are L1, L2",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, change: tuple[str, str], line: str) -> None:
    assert change[0] in VALID
    path = tmp_path / "lakes.yaml"
    path.write_text(VALID.replace(*change))
    with pytest.raises(ConfigError, match=rf"\A{path}:{line}\Z"):
        load_policy(path)


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "lakes.yaml"
    path.write_text(VALID.replace("version: 1", f"version: {'x' * 1_000}"))
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert str(caught.value).endswith(f"it is '{'x' * 60}...'")


@pytest.mark.parametrize("tag", ["en", "pt-BR", "zh-Hant-TW", "gsw", "x-klingon", "'*'"])
def test_a_language_tag_is_taken(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "lakes.yaml"
    path.write_text(f"{VALID}applies_to: {{languages: [{tag}]}}\n")
    assert load_policy(path).applies_to.languages == (tag.strip("'"),)
