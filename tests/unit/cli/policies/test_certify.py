"""`moderation policies certify`: certificates from labels, and what is missing for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moderation.cli.policies import certified
from moderation.cli.policies import certify as command
from moderation.cli.policies.certify import certify
from moderation.errors import ConfigError
from moderation.evaluation.certifying import terms
from moderation.evaluation.certifying.certification import Design
from moderation.evaluation.posts import golden
from moderation.evaluation.samples import labels
from moderation.evaluation.samples.samples import Level, Region
from moderation.policies import Policy, PolicySet, certificates
from moderation.policies.loading import load_policies
from moderation.settings import MediaSettings
from moderation.types import Standing
from tests.support.labelled_samples import MODEL, NO, UNKNOWN, YES, drawn, sample_of, say

FILE = """
id: no-lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates: [{id: L1, text: mentions a lake}]
thresholds: {review: 0.5, remove: 0.9}
certificate: required
"""
ID = "no-lakes"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy, in the folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policies"
    path.mkdir()
    (path / "no-lakes.yaml").write_text(FILE)
    monkeypatch.setenv("MODERATION_POLICIES", str(path))
    return path


@pytest.fixture
def policy(folder: Path) -> Policy:
    """That policy."""
    return load_policies(folder)[0]


def sampled(
    policy: Policy, *said: str | None, name: str = ID, design: str = "fixed", confidence: float = 0.95, **fields: Any
) -> Path:
    """A labelled sample in the folder in which commands run. design: fixed before the first label; empty: none."""
    path = drawn(Path(f"{name}.sample.jsonl"), sample_of(policy, **fields), len(said))
    if design:
        several = len(fields.get("levels", (0.9,))) > 1
        fixed = terms.Terms(design=Design(design), confidence=confidence, share=0.95 if several else None)
        terms.keep(path, fixed, labelled=False)
    return say(path, said)


def run(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0, **options: Any) -> str:
    if code:
        with pytest.raises(SystemExit) as ended:
            certify(ID, *arguments, **options)
        assert ended.value.code == code
    else:
        certify(ID, *arguments, **options)
    return capsys.readouterr().out


def held(folder: Path) -> certificates.Certificate:
    return certificates.read(folder / "no-lakes.certificate.json")


def test_a_certified_threshold_holds_for_the_policy(
    policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled(policy, *[YES] * 58, UNKNOWN, *[YES] * 40)
    printed = run(capsys, design="fixed")
    certificate = held(folder)
    assert "Certified at 0.9: at least 95.0% of the groups at or above it violate." in printed
    assert f"Certificate {certificate.id}, until {certificate.expires_at:%Y-%m-%d}" in printed
    assert "98 labels are rows of the golden set now" in printed
    assert "one person" not in printed
    assert "certificate: required" not in printed
    (standing,) = PolicySet.load(folder).certificates.values()
    score = certificates.score_digest(policy, MODEL)
    assert standing.standing(policy, score, certificate.issued_at.timestamp()) is Standing.VALID
    rows = golden.read(folder / "no-lakes.golden.jsonl", policy, MediaSettings()).posts
    assert {row.certificate for row in rows} == {certificate.id}


def test_called_again_it_changes_nothing(policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled(policy, *[YES] * 60)
    run(capsys, design="fixed")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "Certified at 0.9" in run(capsys, design="fixed")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_was_interrupted_between_certificate_and_rows_goes_on(
    policy: Policy, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moderation.evaluation.certifying import used

    sampled(policy, *[YES] * 60)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(used, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            certify(ID, design="fixed")
    first = held(folder)
    assert not (folder / "no-lakes.golden.jsonl").exists()
    assert "60 labels are rows" in run(capsys, design="fixed")
    assert held(folder) == first


def test_labels_are_used_up_by_one_certificate(
    policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sampled(policy, *[YES] * 60)
    run(capsys, design="fixed")
    first = held(folder)
    before = {file.name: file.read_bytes() for file in Path().glob("*.labels.jsonl")}
    with pytest.raises(ConfigError) as caught:
        certify(ID, design="fixed", precision=0.9)
    assert f"no-lakes.golden.jsonl:1: certificate: the certificate {first.id} has used the label" in str(caught.value)
    assert held(folder) == first
    assert {file.name: file.read_bytes() for file in Path().glob("*.labels.jsonl")} == before
    (folder / "no-lakes.golden.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"no-lakes\.certificate\.json: rows_digest: this certificate has used these"):
        certify(ID, path, design="fixed", precision=0.9)


def test_without_rows_the_golden_set_stays(policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled(policy, *[YES] * 60)
    assert "labels are rows" not in run(capsys, design="fixed", rows=False)
    assert held(folder)
    assert not (folder / "no-lakes.golden.jsonl").exists()


@pytest.mark.parametrize("design", ["sequential", "fixed", "finite"])
def test_a_planted_bad_policy_is_refused(
    design: Any, policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the groups above its threshold, nine in ten violate."""
    sampled(policy, *[*[YES] * 9, NO] * 30, design=design)
    printed = run(capsys, design=design, code=1)
    assert "Not certified. No file was written." in printed
    shown = {
        "sequential": "At 0.9: these labels show, with the same confidence, that fewer violate",
        "fixed": "cannot show it: with 30 wrong it takes ",
    }
    assert shown.get(design, "failed") in printed
    assert sorted(path.name for path in folder.iterdir()) == ["no-lakes.yaml"]


def test_missing_labels_are_counted(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    many: dict[str, Any] = {"levels": (Level(0.9, 100_000),)}
    sampled(policy, *[YES] * 40, None, *[YES] * 20, *[None] * 40, design="", **many)
    printed = run(capsys, code=1)
    assert "At 0.9: 50 labels are missing at the least, if each violates." in printed
    sampled(policy, *[YES] * 58, None, name="fixed", **many)
    printed = run(capsys, Path("fixed.sample.jsonl"), design="fixed", code=1)
    assert "At 0.9: 1 label is missing at the least, if each violates. To come: 1." in printed
    sampled(policy, *[YES] * 58, NO, name="few", **many)
    printed = run(capsys, Path("few.sample.jsonl"), design="fixed", code=1)
    assert "this sample cannot show it: with 1 wrong it takes 93 labels" in printed
    sampled(policy, NO, NO, *[YES] * 98, name="more", design="", **many)
    printed = run(capsys, Path("more.sample.jsonl"), code=1)
    assert "so draw a larger sample" in printed
    assert "An estimate: if the rate goes on as it is, about" in printed


def test_terms_that_are_chosen_after_labels_are_refused(
    policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sampled(policy, *[None] * 60, design="")
    run(capsys, code=1)
    run(capsys, design="fixed", confidence=0.99, code=1)  # until there is a label, terms may change
    say(path, [YES] * 60)
    with pytest.raises(ConfigError, match=r"no-lakes\.terms\.json: confidence: .* tested with 0.99, now .* says 0.95"):
        certify(ID, design="fixed")
    run(capsys, design="fixed", confidence=0.99, code=1)
    path = sampled(policy, *[YES] * 60, name="late", design="")
    with pytest.raises(ConfigError, match=r"late\.terms\.json: .* --design fixed was not fixed before the first label"):
        certify(ID, path, design="fixed")
    assert "labels are missing at the least" in run(capsys, path, precision=0.99, code=1)
    assert not (folder / "no-lakes.certificate.json").exists()


def test_labels_of_one_person_are_named(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    labels.path_of(sampled(policy, *[YES] * 60), "ben").unlink()
    assert "All labels are of one person, anna." in run(capsys, design="fixed")


def test_a_grid_certifies_a_threshold_and_says_what_to_write(
    policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled(policy, *[YES] * 99, levels=(Level(0.8, 500), Level(0.7, 900)))
    printed = run(capsys, design="fixed", threshold=0.8)
    assert held(folder).threshold == 0.8
    assert "It does not hold for the policy as it is: `remove` is 0.9 there. Write `remove: 0.8`." in printed


def test_misses_and_recall_are_certified_with_the_precision(
    policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled(policy, *[YES] * 60)
    allow = sampled(policy, *[NO] * 299, name="allow", region=Region.ALLOW, levels=(Level(0.4, 9_000),), seed=8)
    pool = sampled(policy, *[YES] * 40, region=Region.POOL, name="pool", source="reported", seed=8)
    printed = run(capsys, design="fixed", misses=allow, pool=pool, recall=0.9)
    certificate = held(folder)
    assert certificate.misses is not None
    assert certificate.recall is not None
    assert (certificate.misses.n, certificate.recall.pool, certificate.recall.n) == (299, "reported", 40)
    assert "Write `review: 0.4`." in printed
    assert "neither `review`" not in printed
    assert "tested the same score" not in printed
    assert "359 labels are rows" in printed, "the pool has groups of the sample before"


def test_what_weakens_a_certificate_is_said(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    sampled(policy, *[NO] * 60, name="first")
    Path("broken.sample.jsonl").write_text("{")
    Path("broken.terms.json").write_text("{}")
    sampled(policy, *[YES] * 60, seed=8)
    pool = sampled(policy, *[YES] * 40, region=Region.POOL, name="pool", levels=(Level(0.7, 40),), seed=9)
    printed = run(capsys, design="fixed", pool=pool)
    assert "Precision: first.sample.jsonl beside it tested the same score." in printed
    assert "Its recall is that at 0.7, which is neither `review` (0.5) nor `remove` (0.9) of the policy." in printed


def test_one_claim_that_fails_leaves_all_uncertified(
    policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled(policy, *[YES] * 60)
    allow = sampled(policy, *[NO] * 298, name="allow", region=Region.ALLOW, levels=(Level(0.5, 9_000),))
    described = json.loads(run(capsys, design="fixed", misses=allow, as_json=True, code=1))
    assert [claim["passes"] for claim in described["claims"]] == [1, 0]
    assert described["certificate"] is None
    assert "with 0 wrong it takes 299 labels" in described["claims"][1]["missing"][0]
    assert not (folder / "no-lakes.certificate.json").exists()


def test_the_certificate_as_json(policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled(policy, *[YES] * 60, design="finite")
    described = json.loads(run(capsys, design="finite", as_json=True))
    assert described["certified"] is True
    assert described["certificate"]["id"] == held(folder).id
    (claim,) = described["claims"]
    assert (claim["claim"], claim["design"], claim["levels"][0]["n"]) == ("precision", "finite", 60)
    assert claim["levels"][0]["bound"] >= 0.95
    assert described["rows"] == 60


def test_recall_on_all_traffic_is_never_certified(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, recall=0.9)
    assert "Recall of 90.0% on all traffic is not certified." in printed
    assert [line.split() for line in printed.splitlines()[2:5]] == [
        ["5.000%", "540"], ["1.000%", "2,697"], ["0.100%", "26,962"],
    ]  # fmt: skip
    described = json.loads(run(capsys, recall=0.9, prevalence=0.005, as_json=True))
    assert described["costs"] == [{"prevalence": 0.005, "labels": 5_393}]


def test_mistakes_are_named(policy: Policy, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no policy no-seas; .* has no-lakes"):
        certify("no-seas")
    with pytest.raises(ConfigError, match=r"no-lakes\.sample\.jsonl: there is no such sample: draw one by"):
        certify(ID)
    with pytest.raises(ConfigError, match=r"--precision 95: must lie between 0 and 1, as in 0\.95"):
        certify(ID, precision=95)
    with pytest.raises(ConfigError, match=r"--confidence 0\.4: a certificate needs 0.5 at least"):
        certify(ID, confidence=0.4)
    sampled(policy, *[YES] * 60)
    text = (folder / "no-lakes.yaml").read_text()
    (folder / "no-lakes.yaml").write_text(text.replace("mention a lake?", "mention a pond?"))
    with pytest.raises(ConfigError, match=r"no-lakes\.sample\.jsonl:1: score_digest: "):
        certify(str(folder / "no-lakes.yaml"))


def test_a_clause_that_the_policy_lacks_loses_no_label(policy: Policy, folder: Path) -> None:
    sampled(policy, "violates:L9", *[YES] * 60)
    before = Path("no-lakes.anna.labels.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"no-lakes\.anna\.labels\.jsonl:2: clause: .* write one of L1"):
        certify(ID, design="fixed")
    assert Path("no-lakes.anna.labels.jsonl").read_bytes() == before


def test_no_figure_says_more_than_was_shown(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 5,000 groups without a wrong one, at least 99.94010 % are right; 99.95 % is not 100 %."""
    sampled(policy, *[YES] * 5_000, levels=(Level(0.8765432, 10_000_000),), confidence=0.9501)
    printed = run(capsys, design="fixed", precision=0.9995, confidence=0.9501, code=1)
    assert "at least 99.95% of the groups at or above a threshold violate (fixed design), with 95.01%" in printed
    assert "0.8765432" in printed
    assert "at least 99.94%" in printed
    assert [certified.percent(share) for share in (0.95, 0.9, 0.9999, 0.07)] == ["95.0%", "90.0%", "99.99%", "7.0%"]


def test_a_bound_is_rounded_to_the_side_that_says_less(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    """In 59 without a wrong one: 95.0499 % at the least. In 299: 0.99689 % at the most."""
    sampled(policy, *[YES] * 59)
    allow = sampled(policy, *[NO] * 299, name="allow", region=Region.ALLOW, levels=(Level(0.5, 9_000),), seed=8)
    printed = run(capsys, design="fixed", misses=allow)
    assert "at least 95.04%" in printed
    assert "at most 1.00%" in printed


def test_a_broken_certificate_says_how_to_certify_again(
    policy: Policy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled(policy, *[YES] * 60)
    path = folder / "no-lakes.certificate.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"no-lakes\.certificate\.json.* or delete it and certify the policy again"):
        certify(ID, design="fixed")
    path.unlink()
    assert "Certified at 0.9" in run(capsys, design="fixed")


def test_the_costs_that_are_shown_are_for_these_prevalences() -> None:
    assert command.PREVALENCES == (0.05, 0.01, 0.001)
