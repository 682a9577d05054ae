"""The history of policies, as past verdicts name it: a version that comes back begins a new period."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from moderation import wire
from moderation.cli.app import app
from moderation.evaluation.traffic import history
from moderation.evaluation.traffic.archive import Archive, State
from moderation.evaluation.traffic.rows import Place, Rows
from moderation.policies import PolicySet
from moderation.policies.certificates import score_digest
from tests.support.builders import a_policy
from tests.support.logged import logging_restored
from tests.support.past_traffic import MODEL, NOW, a_certificate, a_set, changed, past

HOUR_MS = 3_600_000
START_MS = int(NOW * 1000) // HOUR_MS * HOUR_MS


def rows(*used: tuple[PolicySet, int, int]) -> list[Any]:
    """Verdicts of sets, each from one hour to another, ten in an hour."""
    found, generator, batches = Rows(), random.Random(1), []
    for policies, first, last in used:
        for number in range(first * 10, last * 10):
            verdict = past(generator, policies, number).verdict
            found.add(wire.verdict_message(verdict), Place(START_MS + number * HOUR_MS // 10, "t", 0, number))
            if len(found) == 7:
                batches.append(found.taken())
    return [*batches, found.taken()]


def hour(at: datetime) -> int:
    return round((at.timestamp() * 1000 - START_MS) / HOUR_MS)


def test_periods_follow_versions_thresholds_certificates_and_come_back() -> None:
    old = a_set(a_policy("lakes"), a_policy("ponds"))
    stricter = changed(old, "lakes", version=2, thresholds={"review": 0.3, "remove": 0.7})
    certified = replace(old, certificates={"lakes": a_certificate(old.policies[0])})
    uses = history.of(rows((old, 0, 5), (stricter, 4, 9), (old, 9, 12), (certified, 12, 14)))
    assert list(uses) == ["lakes", "ponds"]
    lakes = uses["lakes"]
    assert [(use.version.version, use.version.remove, bool(use.version.certificate)) for use in lakes] == [
        (1, 0.9, False),
        (2, 0.7, False),
        (1, 0.9, False),
        (1, 0.9, True),
    ]
    begins = [hour(use.begins) for use in lakes]
    assert begins == [0, 4, 9, 12], "a rollout shows both in one hour; a rollback is a period of its own"
    assert lakes[0].version.score_digest == score_digest(old.policies[0], MODEL.digest)
    assert {use.version.policy_set for use in uses["ponds"]} == {old.digest, stricter.digest}
    assert sum(use.verdicts for use in lakes) == sum(
        row["policy"] == "lakes"
        for batch in rows((old, 0, 5), (stricter, 4, 9), (old, 9, 12), (certified, 12, 14))
        for each in batch.column("findings").to_pylist()
        for row in each
    )


def test_shadow_is_said_and_a_pause_does_not_end_a_period() -> None:
    shadow = a_set(a_policy("lakes"), a_policy("ponds", status="shadow"))
    uses = history.of(rows((shadow, 0, 1), (shadow, 40, 41)))
    (ponds,) = uses["ponds"]
    assert not ponds.version.counts
    assert (hour(ponds.begins), hour(ponds.ends)) == (0, 41)


@pytest.fixture
def archived(tmp_path: Path) -> tuple[Path, Path]:
    """An archive, and the folder with the words of its second version."""
    old = a_set(a_policy("lakes"))
    new = changed(old, "lakes", version=2, question="Does it name a lake?")
    folder = tmp_path / "archive"
    with Archive.opened(folder) as archive:
        archive.add(rows((old, 0, 3), (new, 3, 5)), State(topic="verdicts", offsets={0: 50}))
    words = tmp_path / "policies"
    words.mkdir()
    (policy,) = new.policies
    members = policy.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    (words / "lakes.yaml").write_text(yaml.safe_dump(members | {"id": "lakes", "version": 2}))
    return folder, words


def ran(*arguments: object, environment: Mapping[str, str]) -> Any:
    with logging_restored():
        return CliRunner().invoke(
            app, ["policies", "history", *map(str, arguments)], env={"COLUMNS": "500", **environment}
        )


def test_the_command_says_which_folder_has_the_words(archived: tuple[Path, Path]) -> None:
    folder, words = archived
    environment = {"MODERATION_POLICIES": str(words)}
    said = ran("lakes", "--archive", folder, environment=environment)
    assert said.exit_code == 0, said.output
    lines = [line for line in said.stdout.splitlines() if line.startswith("2026-")]
    assert [f"words of {words}" in line for line in lines] == [False, True]
    assert "judged by fake" in said.stdout
    as_json = json.loads(ran("--archive", folder, "--json", environment=environment).stdout)
    assert [use["words_of"] for use in as_json["policies"]["lakes"]] == [[], [str(words)]]
    assert [use["version"] for use in as_json["policies"]["lakes"]] == [1, 2]


def test_the_command_names_what_is_wrong(archived: tuple[Path, Path]) -> None:
    folder, words = archived
    environment = {"MODERATION_POLICIES": str(words)}
    assert "they name lakes" in str(ran("lake", "--archive", folder, environment=environment).exception)
    assert "it holds 2026-" in str(ran("--archive", folder, "--since", "2030-01-01", environment=environment).exception)
    assert "must be like 30m" in str(ran("--archive", folder, "--since", "soon", environment=environment).exception)
