"""From posts in a file to a certificate that holds, with the checkpoint that ships: sample, labels, certify."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moderation.cli.app import app
from moderation.errors import ConfigError
from moderation.evaluation.posts import golden
from moderation.evaluation.samples import labels, samples
from moderation.evaluation.samples.labels import Label, Said
from moderation.evaluation.samples.samples import Item
from moderation.observability import logs
from moderation.policies import PolicySet, States
from moderation.settings import MediaSettings
from moderation.types import Standing
from tests.support.logged import logging_restored
from tests.support.repository import REPO

ID = "weapons-sale"
WAYS = ["write me", "good price", "call me", "first come", "near the station", "today only", "message me", "cheap"]


@pytest.fixture(autouse=True)
def logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error stays the test's."""
    monkeypatch.setattr(logs, "capture_prints", lambda _: None)
    with logging_restored():
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A draft of a policy, and posts in the folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policies"
    path.mkdir()
    text = (REPO / "policies" / "demo" / f"{ID}.yaml").read_text()
    (path / f"{ID}.yaml").write_text(f"{text}status: draft\ncertificate: required\n")
    shutil.copy(REPO / "policies" / "demo" / "alcohol.yaml", path)  # a set has a live policy
    monkeypatch.setenv("MODERATION_POLICIES", str(path))
    starts = "Selling", "For sale:", "Buy my", "I sell"
    offers = [f"{start} guns, {way}. Write me!" for start in starts for way in WAYS]
    quiet = [f"Good morning, day {number} of the year" for number in range(8)]
    lines = [json.dumps({"id": f"post-{number}", "text": text}) for number, text in enumerate([*offers, *quiet])]
    (tmp_path / "posts.jsonl").write_text("\n".join(lines) + "\n")
    return path


def ran(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["policies", *arguments])
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def label(sample: Path, said: Callable[[Item], Said]) -> None:
    """One person labels all that was drawn."""
    with labels.opened(sample, "anna") as pen:
        for item in samples.read(sample)[1]:
            pen.write(item.number, Label(said(item)))


def test_a_draft_is_certified_and_promoted_unchanged(folder: Path) -> None:
    ran("sample", ID, "--posts", "posts.jsonl", "--model", "demo", "--seed", "7")
    sample = Path(f"{ID}.sample.jsonl")
    drawn, items = samples.read(sample)
    assert len(items) > 20
    assert not [item for item in items if "morning" in item.post.text]
    terms = "--precision", "0.85", "--design", "finite"
    assert "labels are missing at the least, if each violates" in ran("certify", ID, *terms, code=1)
    label(sample, lambda _: Said.VIOLATES)
    assert "Certified at 0.9" in ran("certify", ID, *terms)

    path = folder / f"{ID}.yaml"
    path.write_text(path.read_text().replace("status: draft", "status: live").replace("version: 1", "version: 2"))
    policies = PolicySet.load(folder)
    certificate = policies.certificates[ID]
    state = States(policies.policies, policies.certificates, drawn.model_digest).at(time.time())
    assert (state.footings[ID].certificate, state.footings[ID].standing) == (certificate.id, Standing.VALID)
    ended = certificate.expires_at.timestamp()
    later = States(policies.policies, policies.certificates, drawn.model_digest).at(ended)
    assert later.footings[ID].standing is Standing.EXPIRED
    assert certificate.issued_at <= datetime.now(UTC)
    (policy,) = [policy for policy in policies.policies if policy.id == ID]
    rows = golden.read(folder / f"{ID}.golden.jsonl", policy, MediaSettings()).posts
    assert {row.certificate for row in rows} == {certificate.id}
    assert len(rows) == len(items)

    path.write_text(path.read_text().replace("weapons for sale?", "arms for sale?"))
    with pytest.raises(ConfigError, match=rf"{ID}\.sample\.jsonl:1: score_digest: .* draw another sample"):
        ran("certify", ID, *terms)
    changed = PolicySet.load(folder)
    state = States(changed.policies, changed.certificates, drawn.model_digest).at(time.time())
    assert state.footings[ID].standing is Standing.OTHER_SCORE


def test_a_bad_policy_is_refused(folder: Path) -> None:
    """A third of what is above its threshold is no violation for the people who label."""
    ran("sample", ID, "--posts", "posts.jsonl", "--model", "demo", "--seed", "8")
    label(Path(f"{ID}.sample.jsonl"), lambda item: Said.VIOLATES if item.number % 3 else Said.ALLOWED)
    assert "Not certified. No file was written." in ran("certify", ID, "--precision", "0.85", code=1)
    assert not (folder / f"{ID}.certificate.json").exists()
