"""From labels to certificates: what counts as wrong, which levels are certified, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderation.errors import ConfigError
from moderation.evaluation.certifying import certifying
from moderation.evaluation.certifying.certification import Design
from moderation.evaluation.certifying.certifying import Issue, Labelled
from moderation.evaluation.samples import labels
from moderation.evaluation.samples.samples import Level, Region
from moderation.policies import Policy
from moderation.types import Standing
from tests.support.builders import a_policy
from tests.support.labelled_samples import MODEL, NO, UNKNOWN, YES, drawn, sample_of, say
from tests.support.samples import some_items

POLICY = a_policy()


MANY = (Level(0.9, 100_000),)


def labelled(folder: Path, said: Sequence[str | None], reached: Sequence[int] = (), **fields: Any) -> Labelled:
    """A sample with these labels. reached: the level of each item; default the first."""
    items = some_items(len(said))
    if reached:
        items = [
            type(item)(item.number, item.group, level, item.post) for item, level in zip(items, reached, strict=True)
        ]
    path = drawn(folder / f"{fields.get('region', 'remove')}.sample.jsonl", sample_of(POLICY, **fields), items)
    return Labelled(path, labels.settled(say(path, said), POLICY))


def issue(policy: Policy = POLICY, days: int = 90) -> Issue:
    return Issue(policy, "", datetime.now(UTC), days)


def test_a_certificate_says_what_was_shown(tmp_path: Path) -> None:
    sample = labelled(tmp_path, [YES] * 92 + [NO])
    certifying.check(POLICY, sample, Region.REMOVE)
    trial = certifying.precision(sample, 0.95, 0.95, Design.FIXED)
    assert trial.passes == 1
    certificate = certifying.certificate(issue(), certifying.chosen(trial, None), trial)
    assert (certificate.precision.n, certificate.precision.k, certificate.precision.design) == (93, 1, "fixed")
    assert certificate.precision.at_least == 0.95
    assert certificate.precision.bound == pytest.approx(0.9500, abs=1e-3)
    assert certificate.precision.bound >= 0.95
    assert certificate.precision.grid == ()
    assert (certificate.threshold, certificate.sample.population, certificate.sample.seed) == (0.9, 1000, 7)
    assert certificate.labellers == ("anna", "ben")
    assert certificate.labels_digest != certificate.rows_digest
    assert certificate.expires_at == sample.settlement.sample.drawn_at + timedelta(days=90)
    now = datetime.now(UTC).timestamp()
    assert certificate.standing(POLICY, sample.settlement.sample.score_digest, now) is Standing.VALID


@pytest.mark.parametrize("bad", [NO, UNKNOWN, None, "disputed"])
@pytest.mark.parametrize("design", [Design.FIXED, Design.FINITE])
def test_all_but_a_violation_counts_against_a_fixed_n(bad: str | None, design: Design, tmp_path: Path) -> None:
    said: list[str | None] = [YES] * 59
    said[3] = YES if bad == "disputed" else bad
    sample = labelled(tmp_path, said)
    if bad == "disputed":
        said[3] = NO
        sample = Labelled(sample.path, labels.settled(say(sample.path, said, ["ben"]), POLICY))
    trial = certifying.precision(sample, 0.95, 0.95, design)
    assert trial.passes == 0
    assert (trial.levels[0].evidence.n, trial.levels[0].evidence.wrong) == (59, 1)
    full = Labelled(sample.path, labels.settled(say(sample.path, [YES] * 59), POLICY))
    assert certifying.precision(full, 0.95, 0.95, design).passes == 1


def test_a_sequential_test_reads_up_to_the_first_label_that_is_missing(tmp_path: Path) -> None:
    sample = labelled(tmp_path, [*[YES] * 89, None, *[YES] * 60], levels=MANY)
    trial = certifying.precision(sample, 0.95, 0.95, Design.SEQUENTIAL)
    assert (trial.passes, trial.levels[0].evidence.n, trial.levels[0].evidence.missing) == (0, 89, 61)
    outlook = certifying.outlook(trial)
    assert outlook is not None
    assert (outlook.further, outlook.beyond, outlook.expected) == (1, 0, None)
    sample = Labelled(sample.path, labels.settled(say(sample.path, [YES] * 90), POLICY))
    assert certifying.precision(sample, 0.95, 0.95, Design.SEQUENTIAL).passes == 1


def test_labels_that_are_missing_are_counted(tmp_path: Path) -> None:
    sample = labelled(tmp_path, [*[YES] * 40, NO, *[None] * 59])
    fixed = certifying.outlook(certifying.precision(sample, 0.95, 0.95, Design.FIXED))
    assert fixed is not None
    assert (fixed.further, fixed.shown.evidence.missing) == (59, 59), "one wrong: 93 of 100 would do, two would not"
    sequential = certifying.outlook(certifying.precision(sample, 0.95, 0.95, Design.SEQUENTIAL))
    assert sequential is not None
    assert sequential.further is not None
    assert sequential.further > 59
    assert sequential.beyond == sequential.further - 59
    assert sequential.expected is not None
    assert sequential.expected > sequential.further
    few = labelled(tmp_path, [YES] * 20, region=Region.POOL)
    outlook = certifying.outlook(certifying.precision(few, 0.95, 0.95, Design.FIXED))
    assert outlook is not None
    assert outlook.further is None, "20 labels are too few"


def test_labels_that_show_the_contrary_say_so(tmp_path: Path) -> None:
    for said, refuted in (([NO] * 4, True), ([NO, NO, *[YES] * 60], False), ([YES] * 20, False)):
        sample = labelled(tmp_path / ".", said, levels=MANY, seed=len(said))
        outlook = certifying.outlook(certifying.precision(sample, 0.95, 0.95, Design.SEQUENTIAL))
        assert outlook is not None
        assert outlook.refuted is refuted
        sample.path.unlink()


def test_a_grid_is_certified_down_to_the_first_level_that_fails(tmp_path: Path) -> None:
    """The sample is drawn from the loosest level. Groups that reach a stricter one count for both."""
    levels = (Level(0.95, 400), Level(0.9, 600), Level(0.8, 900), Level(0.7, 1_000))
    of_items = [0] * 70 + [1] * 30 + [2] * 30 + [3] * 90
    said: list[str | None] = [*[YES] * 100, *[NO] * 10, *[YES] * 110]
    sample = labelled(tmp_path, said, of_items, levels=levels)
    trial = certifying.precision(sample, 0.95, 0.95, Design.FIXED)
    assert [(shown.evidence.n, shown.evidence.wrong) for shown in trial.levels] == [
        (70, 0),
        (100, 0),
        (130, 10),
        (220, 10),
    ]
    assert trial.passes == 2
    assert trial.failed is trial.levels[2]
    assert certifying.chosen(trial, None).level.threshold == 0.9
    assert certifying.chosen(trial, 0.95).level.threshold == 0.95
    with pytest.raises(ConfigError, match=r"--threshold 0.8: the labels certify 0.95, 0.9: choose one of these"):
        certifying.chosen(trial, 0.8)
    certificate = certifying.certificate(issue(), certifying.chosen(trial, None), trial)
    assert certificate.precision.grid == (0.95, 0.9, 0.8, 0.7)
    assert (certificate.threshold, certificate.sample.population) == (0.9, 600)
    strict = say(sample.path, [NO] * 5 + [YES] * 215)
    again = certifying.precision(Labelled(strict, labels.settled(strict, POLICY)), 0.95, 0.95, Design.FIXED)
    assert again.levels[-1].evidence.passed
    assert again.passes == 0, "although the loosest level alone would pass"


def test_misses_are_certified_by_299_without_a_violation(tmp_path: Path) -> None:
    allow: dict[str, Any] = {"region": Region.ALLOW, "levels": (Level(0.5, 100_000),)}
    sample = labelled(tmp_path, [NO] * 299, **allow)
    trial = certifying.misses(sample, 0.01, 0.95)
    assert trial.passes == 1
    removal = certifying.precision(labelled(tmp_path, [YES] * 60), 0.95, 0.95, Design.FIXED)
    certificate = certifying.certificate(issue(), certifying.chosen(removal, None), removal, trial)
    assert certificate.misses is not None
    assert (certificate.misses.n, certificate.misses.k, certificate.misses.review) == (299, 0, 0.5)
    assert certificate.misses.bound <= 0.01
    for bad in (YES, UNKNOWN, None):
        said: list[str | None] = [*[NO] * 298, bad]
        again = Labelled(sample.path, labels.settled(say(sample.path, said), POLICY))
        assert certifying.misses(again, 0.01, 0.95).passes == 0, bad


def test_recall_is_certified_on_a_pool_from_loose_to_strict(tmp_path: Path) -> None:
    levels = (Level(0.9, 100), Level(0.5, 150))
    of_items = [0] * 40 + [1] * 40 + [2] * 120
    said = [YES] * 80 + [NO] * 120
    pool: dict[str, Any] = {"region": Region.POOL, "levels": levels, "source": "reported.jsonl"}
    sample = labelled(tmp_path, said, of_items, **pool)
    trial = certifying.recall(sample, 0.9, 0.95)
    assert [shown.level.threshold for shown in trial.levels] == [0.5, 0.9]
    assert [(shown.evidence.n, shown.evidence.wrong) for shown in trial.levels] == [(80, 0), (80, 40)]
    assert trial.passes == 1
    removal = certifying.precision(labelled(tmp_path, [YES] * 60), 0.95, 0.95, Design.FIXED)
    certificate = certifying.certificate(issue(), certifying.chosen(removal, None), removal, trial)
    assert certificate.recall is not None
    assert (certificate.recall.pool, certificate.recall.threshold, certificate.recall.n) == ("reported.jsonl", 0.5, 80)
    # Below the threshold, a group that nobody could label may be a violation. Above it, it is none that was found.
    for place, n, wrong in ((100, 81, 1), (0, 79, 0)):
        again: list[str | None] = [*said]
        again[place] = UNKNOWN
        shown = certifying.recall(
            Labelled(sample.path, labels.settled(say(sample.path, again), POLICY)), 0.9, 0.95
        ).levels[0]
        assert (shown.evidence.n, shown.evidence.wrong) == (n, wrong)


def test_a_planted_bad_policy_is_refused(tmp_path: Path) -> None:
    """Of 1,000 groups above the threshold 900 violate. Samples of it are certified in at most 5 % of all draws."""
    seed, runs, passed = 30, 60, 0
    rng = np.random.default_rng(seed)
    truth = np.arange(1_000) < 900
    path = drawn(tmp_path / "bad.sample.jsonl", sample_of(POLICY), 150)
    for _ in range(runs):
        said = [YES if right else NO for right in rng.permutation(truth)[:150]]
        sample = Labelled(path, labels.settled(say(path, said), POLICY))
        trials = [certifying.precision(sample, 0.95, 0.95, design) for design in Design]
        passed += any(trial.passes for trial in trials)
    assert passed <= 3, f"{passed} of {runs}, seed {seed}"


def test_a_sample_of_another_policy_score_or_region_is_refused(tmp_path: Path) -> None:
    sample = labelled(tmp_path, [YES] * 60)
    with pytest.raises(ConfigError, match=r"sample\.jsonl:1: policy: it was drawn for the policy no-lakes"):
        certifying.check(a_policy("no-seas"), sample, Region.REMOVE)
    with pytest.raises(ConfigError, match=r":1: region: it was drawn from remove: name a sample of --region allow"):
        certifying.check(POLICY, sample, Region.ALLOW)
    with pytest.raises(ConfigError, match=r":1: score_digest: .* another score of this policy"):
        certifying.check(a_policy(question="Does this post show a lake?"), sample, Region.REMOVE)
    certifying.check(
        a_policy(version=4, status="shadow", thresholds={"review": 0.1, "remove": 0.2}), sample, Region.REMOVE
    )


def test_a_sample_that_is_too_old_certifies_nothing(tmp_path: Path) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    sample = labelled(tmp_path, [YES] * 60, drawn_at=old)
    trial = certifying.precision(sample, 0.95, 0.95, Design.FIXED)
    shown = certifying.chosen(trial, None)
    assert certifying.certificate(issue(days=41), shown, trial)
    with pytest.raises(ConfigError, match=r":1: drawn_at: it was drawn 40 days ago, and .* holds for 30 days"):
        certifying.certificate(issue(days=30), shown, trial)


def test_the_same_labels_give_the_same_certificate(tmp_path: Path) -> None:
    sample = labelled(tmp_path, [YES] * 60)
    trial = certifying.precision(sample, 0.95, 0.95, Design.FIXED)
    shown = certifying.chosen(trial, None)
    first, second = (certifying.certificate(issue(), shown, trial) for _ in range(2))
    assert first.id != second.id
    assert certifying.is_same(first, second)
    assert not certifying.is_same(first, certifying.certificate(issue(days=30), shown, trial))
    weaker = certifying.precision(sample, 0.9, 0.95, Design.FIXED)
    assert not certifying.is_same(first, certifying.certificate(issue(), shown, weaker))
    assert first.model.digest == MODEL


def test_rows_are_used_up_once_they_have_a_label(tmp_path: Path) -> None:
    sample = labelled(tmp_path, [YES, NO, UNKNOWN, None, None])
    assert sample.used == tuple(item.group for item in sample.settlement.items[:3])
