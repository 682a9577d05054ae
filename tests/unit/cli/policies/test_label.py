"""The labelling screen: keys become labels, it can be left, and it shows neither scores nor tricks of a post."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from moderation.cli.app import app
from moderation.cli.policies.label import choices_of, next_step, plain
from moderation.errors import ConfigError
from moderation.evaluation.samples import labels, samples
from moderation.evaluation.samples.samples import Region
from moderation.policies import score_digest
from moderation.policies.loading import load_policy
from tests.support.builders import a_policy, a_post
from tests.support.samples import a_sample, items_of

POLICY = """
id: no-lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates: [{id: L1, text: mentions a lake}, {id: L2, text: shows a lake}]
allows: [{id: L0, text: news of lakes}]
thresholds: {review: 0.5, remove: 0.9}
"""
TEXTS = ["a lake", "a sea", "an ocean", "evil \x1b[2J\u202e text [bold]no markup[/bold]"]


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "policies").mkdir()
    path = tmp_path / "policies" / "no-lakes.yaml"
    path.write_text(POLICY)
    digest = score_digest(load_policy(path), "a" * 64)
    file = tmp_path / "no-lakes.sample.jsonl"
    items = items_of([a_post(f"post-{number}", text, language="en") for number, text in enumerate(TEXTS, 1)])
    samples.write(file, a_sample(score_digest=digest), items)
    monkeypatch.setenv("MODERATION_POLICIES", str(path.parent))
    return file


def label(sample: Path, *arguments: str, pressed: str = "") -> Result:
    return CliRunner().invoke(app, ["policies", "label", str(sample), *arguments], input=pressed)


def status(sample: Path) -> Any:
    return json.loads(label(sample, "--json").stdout)


def settled(sample: Path) -> list[str]:
    return [f"{label}{f' {clause}' if clause else ''}" for label, clause in zip(
        labels.settled(sample).labels, labels.settled(sample).clauses, strict=True)]  # fmt: skip


def test_the_next_command_names_the_folder_that_this_one_named(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.environ["MODERATION_POLICIES"]
    monkeypatch.delenv("MODERATION_POLICIES")
    result = label(sample, "--as", "anna", "--policies", folder, pressed="1\na\n3\ns\nx")
    assert f"certify no-lakes --sample {sample} --policies {folder}\n" in result.stdout


def test_a_key_labels_a_post_and_the_next_one_comes(sample: Path) -> None:
    result = label(sample, "--as", "anna", pressed="1\na\n3\ns\nx")
    assert result.exit_code == 0, result.output
    assert settled(sample) == ["violates L1", "allowed", "allowed L0", "undecidable"]
    assert "all have a label" in result.stdout
    assert "4 of 4 are labelled" in result.stdout
    assert f"All is settled: moderation policies certify no-lakes --sample {sample}" in result.stdout
    for number, text in enumerate(TEXTS[:3], 1):
        assert f"{number}: {number - 1} of 4 done" in result.stdout
        assert text in result.stdout
    assert "1  violates, L1: mentions a lake" in result.stdout
    assert "3  allowed, L0: news of lakes" in result.stdout


def test_it_shows_neither_scores_nor_tricks_of_a_post(sample: Path) -> None:
    output = label(sample, "--as", "anna", pressed="vvv").stdout
    assert "evil <U+001B>[2J<U+202E> text [bold]no markup[/bold]" in output
    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "0.9" not in output  # the level of the sample


def test_it_can_be_left_and_taken_up_again(sample: Path) -> None:
    assert (
        "1 of 4 are labelled, and kept: the same command goes on" in label(sample, "--as", "anna", pressed="vq").stdout
    )
    assert "1 of 4 are labelled, and kept" in label(sample, "--as", "anna", pressed="").stdout  # no key comes
    assert settled(sample) == ["violates", *["unlabelled"] * 3]
    assert "2: 1 of 4 done" in label(sample, "--as", "anna", pressed="aaaq").stdout
    assert settled(sample) == ["violates", "allowed", "allowed", "allowed"]


def test_labels_are_taken_back(sample: Path) -> None:
    output = label(sample, "--as", "anna", pressed="vvuauuzq").stdout
    assert "the label of 2 is taken back" in output
    assert "z is no key here" in output
    assert settled(sample) == ["unlabelled"] * 4
    assert "there is no label to take back" in label(sample, "--as", "anna", pressed="uq").stdout
    label(sample, "--as", "anna", pressed="vvvvuaq")  # the last one, too
    assert settled(sample) == ["violates", "violates", "violates", "allowed"]
    label(sample, "--as", "anna", "--again", "2", pressed="aq")
    assert settled(sample) == ["violates", "allowed", "violates", "allowed"]
    result = label(sample, "--as", "ben", "--again", "2")
    assert "--again 2: no-lakes.ben.labels.jsonl has no label of this item" in str(result.exception)


def test_two_people_label_apart_and_disputes_are_decided(sample: Path) -> None:
    label(sample, "--as", "anna", pressed="vaavq")
    output = label(sample, "--as", "ben", pressed="vvaq").stdout
    assert "anna" not in output.split("3 of 4 are labelled")[0]  # nobody sees what another one said
    assert "1 are disputed" in output
    label(sample, "--as", "ben", pressed="a")
    assert status(sample) == {
        "sample": str(sample),
        "policy": "no-lakes",
        "items": 4,
        "labellers": {"anna": 4, "ben": 4},
        "settled": {"violates": 1, "allowed": 1, "undecidable": 0, "disputed": 2, "unlabelled": 0},
        "disputed": [2, 4],
        "digest": labels.settled(sample).digest,
    }
    output = label(sample, "--adjudicate", pressed="1s").stdout
    assert "anna: allowed; ben: violates" in output
    assert "2 of 2 are decided" in output
    assert settled(sample) == ["violates", "violates L1", "allowed", "undecidable"]
    assert status(sample)["settled"]["disputed"] == 0


def test_of_another_person_labels_may_be_missing(sample: Path) -> None:
    label(sample, "--as", "ben", pressed="vq")
    assert "3 have no label of one of anna, ben yet" in label(sample, "--as", "anna", pressed="vvvvq").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give your name by --as NAME, or --adjudicate to decide disputes"),
        (["--as", "anna", "--adjudicate"], "give your name by --as NAME"),
        (["--as", "adjudication"], "this name is for --adjudicate"),
        (["--as", "a/b"], "'a/b' cannot be a labeller's name"),
        (["--adjudicate"], "nobody differs: 0 have labelled"),
        (["--as", "anna", "--policies", "elsewhere"], "elsewhere"),
    ],
)
def test_what_cannot_be_labelled_is_said(sample: Path, arguments: list[str], says: str) -> None:
    result = label(sample, *arguments)
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)
    assert not list(sample.parent.glob("*.labels.jsonl"))


def test_a_sample_of_other_words_is_not_labelled(sample: Path) -> None:
    path = sample.parent / "policies" / "no-lakes.yaml"
    path.write_text(POLICY.replace("mentions a lake", "mentions a pond"))
    result = label(sample, "--as", "anna", pressed="v")
    assert isinstance(result.exception, ConfigError)
    assert ":1: score_digest: the words of no-lakes in" in str(result.exception)
    assert "draw another sample" in str(result.exception)
    path.write_text(POLICY.replace("remove: 0.9", "remove: 0.8").replace("version: 1", "version: 2"))
    assert label(sample, "--as", "anna", pressed="v").exit_code == 0


def test_each_clause_has_a_key_of_its_own() -> None:
    clauses = [{"id": f"L{number}", "text": "a lake"} for number in range(20)]
    choices = choices_of(a_policy(violates=clauses, allows=[{"id": "N1", "text": "news"}]))
    assert len({choice.key for choice in choices}) == len(choices) == 24
    assert not {"u", "q"} & {choice.key for choice in choices}


def test_an_emoji_stays_what_it_is() -> None:
    assert (
        plain("\U0001f468\u200d\U0001f469 ok\n\tso\u200b\x07") == "\U0001f468\u200d\U0001f469 ok\n\tso<U+200B><U+0007>"
    )


@pytest.mark.parametrize(
    ("region", "command"),
    [
        (Region.REMOVE, "certify no-lakes --sample a.sample.jsonl"),
        (Region.ALLOW, "certify no-lakes --misses a.sample.jsonl"),
        (Region.POOL, "certify no-lakes --pool a.sample.jsonl"),
        (Region.FLIPS, "diff OLD NEW --policy no-lakes --label a.sample.jsonl"),
    ],
)
def test_the_next_command_takes_this_sample(region: Region, command: str) -> None:
    assert next_step(a_sample(region=region), Path("a.sample.jsonl"), None) == f"moderation policies {command}"
