"""From a sample with labels to a certificate, or to what is missing for one.

The groups of a sample that have a label are used up by a certificate (used.py). The terms of a test are kept beside the
sample before its result is shown (terms.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from moderation.errors import ConfigError
from moderation.evaluation.certifying import certification
from moderation.evaluation.certifying.certification import Claim, Design, Evidence
from moderation.evaluation.samples.labels import Settled, Settlement
from moderation.evaluation.samples.samples import Level, Region
from moderation.policies import Certificate, Policy, score_digest
from moderation.policies.certificates import Certified, Drawn, Misses, Precision, Recall


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sample with what is settled of it, and its file."""

    path: Path
    settlement: Settlement

    @property
    def used(self) -> tuple[str, ...]:
        """The groups that have a label, or of which labellers say that there is none. A certificate uses them up."""
        pairs = zip(self.settlement.items, self.settlement.labels, strict=True)
        return tuple(item.group for item, label in pairs if label is not Settled.UNLABELLED)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the labels of one level show."""

    level: Level
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Trial:
    """What a sample shows for one share: of each level, in the order in which they are tested."""

    sample: Labelled
    share: float  # precision or recall: at least; misses: at most
    confidence: float
    design: Design
    levels: tuple[Shown, ...]

    @property
    def passes(self) -> int:
        """How many levels are certified: all before the first that fails."""
        return certification.certified(shown.evidence.passed for shown in self.levels)

    @property
    def certified(self) -> tuple[Shown, ...]:
        """The levels that are certified."""
        return self.levels[: self.passes]

    @property
    def failed(self) -> Shown | None:
        """The level at which the test stopped; None: all passed."""
        return self.levels[self.passes] if self.passes < len(self.levels) else None


def check(policy: Policy, sample: Labelled, region: Region) -> None:
    """Raises ConfigError where a sample is not one of this policy as it is now, or not of this region."""
    drawn, at = sample.settlement.sample, f"{sample.path}:1"
    if drawn.policy != policy.id:
        raise ConfigError(f"{at}: policy: it was drawn for the policy {drawn.policy}: name its own sample")
    if drawn.region is not region:
        raise ConfigError(f"{at}: region: it was drawn from {drawn.region}: name a sample of --region {region}")
    if score_digest(policy, drawn.model_digest) != drawn.score_digest:
        raise ConfigError(
            f"{at}: score_digest: it was drawn by version {drawn.policy_version} for another score of this policy: its "
            "words changed since, or how posts are prepared. Take these words back, or draw another sample"
        )


def precision(sample: Labelled, at_least: float, confidence: float, design: Design) -> Trial:
    """Tests the thresholds of a sample from strict to loose."""
    claim = Claim.at_least(at_least, confidence)
    levels = sample.settlement.sample.levels
    shown = [
        Shown(level, certification.examined(_right(sample, place, Settled.VIOLATES), claim, design, level.population))
        for place, level in enumerate(levels)
    ]
    return Trial(sample, at_least, confidence, design, tuple(shown))


def misses(sample: Labelled, at_most: float, confidence: float) -> Trial:
    """Tests the share of violations below a threshold. Their number is fixed: the whole sample must have labels."""
    claim = Claim.at_most(at_most, confidence)
    (level,) = sample.settlement.sample.levels
    evidence = certification.examined(_right(sample, 0, Settled.ALLOWED), claim, Design.FIXED, level.population)
    return Trial(sample, at_most, confidence, Design.FIXED, (Shown(level, evidence),))


def recall(sample: Labelled, at_least: float, confidence: float) -> Trial:
    """Tests the recall on a pool at each threshold, from loose to strict: it falls on the way.

    A group without a label counts as a violation that was missed, if it lies below the threshold, and as nothing else.
    """
    claim = Claim.at_least(at_least, confidence)
    levels = sample.settlement.sample.levels
    shown = [Shown(level, _recall(sample, place, claim)) for place, level in reversed([*enumerate(levels)])]
    return Trial(sample, at_least, confidence, Design.FIXED, tuple(shown))


def _right(sample: Labelled, place: int, wanted: Settled) -> list[bool | None]:
    """Whether each group that reaches a level has the label that is right there, in the order of the draw."""
    pairs = zip(sample.settlement.items, sample.settlement.labels, strict=True)
    return [None if label is Settled.UNLABELLED else label is wanted for item, label in pairs if item.level <= place]


def _recall(sample: Labelled, place: int, claim: Claim) -> Evidence:
    items, labels = sample.settlement.items, sample.settlement.labels
    found = [label for item, label in zip(items, labels, strict=True) if item.level <= place]
    below = [label for item, label in zip(items, labels, strict=True) if item.level > place]
    missed = len(below) - below.count(Settled.ALLOWED)
    n = found.count(Settled.VIOLATES) + missed
    open_below, open_found = below.count(Settled.UNLABELLED), found.count(Settled.UNLABELLED)
    passed = certification.p_value(missed, n, claim) <= claim.delta
    bound = certification.upper_bound(missed, n, float(claim.confidence))
    best = certification.p_value(missed - open_below, n - open_below + open_found, claim) <= claim.delta
    further = 0 if passed else open_below + open_found if best else None
    return Evidence(passed, n, missed, open_below + open_found, bound, further)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is missing at the threshold where a test stopped."""

    shown: Shown
    further: int | None  # labels that are missing at the least, if each is right; None: this sample cannot pass
    in_all: (
        int | None
    )  # where it cannot pass: the labels of a sample that does with as many wrong ones; None: none does
    expected: int | None  # an estimate of the labels that are missing if the rate goes on; None: it is not known
    refuted: bool = False  # whether the labels show, with the same confidence, that the claim is false

    @property
    def beyond(self) -> int:
        """How many of the labels are beyond the sample."""
        return max(0, (self.further or 0) - self.shown.evidence.missing)


def outlook(trial: Trial) -> Outlook | None:
    """What is missing for a test to pass; None: it has passed everywhere."""
    shown, region = trial.failed, trial.sample.settlement.sample.region
    if shown is None:
        return None
    evidence, population = shown.evidence, shown.level.population
    if region is Region.POOL:
        return Outlook(shown, evidence.further, None, None)
    claim = (Claim.at_most if region is Region.ALLOW else Claim.at_least)(trial.share, trial.confidence)
    if trial.design is Design.SEQUENTIAL:
        place = trial.levels.index(shown)
        right = [label is True for label in _right(trial.sample, place, Settled.VIOLATES)[: evidence.n]]
        expected = certification.expected_labels(right, claim, population) if evidence.wrong else None
        # The same bets, on the next group being wrong: what they have won by now.
        bets = certification.log_wealth(np.logical_not(right), Claim.at_most(trial.share, trial.confidence), population)
        return Outlook(shown, evidence.further, None, expected, bool(bets[-1] >= -math.log(claim.delta)))
    finite = population if trial.design is Design.FINITE else None
    wrong = evidence.wrong - evidence.missing
    return Outlook(shown, evidence.further, certification.smallest_n(wrong, claim, finite), None)


def chosen(trial: Trial, threshold: float | None) -> Shown:
    """The certified level with this threshold; None: the loosest. Raises ConfigError where it is not certified."""
    if threshold is None:
        return trial.certified[-1]
    for shown in trial.certified:
        if shown.level.threshold == threshold:
            return shown
    known = ", ".join(f"{shown.level.threshold}" for shown in trial.certified)
    raise ConfigError(f"--threshold {threshold}: the labels certify {known}: choose one of these")


@dataclass(frozen=True, slots=True)
class Issue:
    """What a certificate is written with."""

    policy: Policy
    golden_digest: str  # of the golden set's file; empty: there is none
    now: datetime
    days: int  # after the draw for which it holds


def certificate(issue: Issue, shown: Shown, trial: Trial, *others: Trial) -> Certificate:
    """The certificate of a level. others: misses and recall that were certified, too.

    Raises ConfigError where the sample is so old that the certificate would be void at once.
    """
    samples = [trial.sample, *(other.sample for other in others)]
    sample = trial.sample.settlement.sample
    ends = sample.drawn_at + timedelta(days=issue.days)
    if ends <= issue.now:
        days = (issue.now - sample.drawn_at).days
        raise ConfigError(
            f"{trial.sample.path}:1: drawn_at: it was drawn {days} days ago, and a certificate holds for {issue.days} "
            "days after that: draw another sample, or give more --days"
        )
    grid = tuple(level.threshold for level in sample.levels) if len(sample.levels) > 1 else ()
    of_others = {other.sample.settlement.sample.region: other for other in others}
    return Certificate(
        policy=issue.policy.id,
        policy_version=issue.policy.version,
        score_digest=sample.score_digest,
        model=Certified(name=sample.model_name, digest=sample.model_digest),
        threshold=shown.level.threshold,
        mass=issue.policy.thresholds.mass,
        precision=Precision(
            at_least=trial.share,
            confidence=trial.confidence,
            design=trial.design.value,
            grid=grid,
            n=shown.evidence.n,
            k=shown.evidence.wrong,
            bound=max(1 - shown.evidence.bound, trial.share),
        ),
        misses=_misses(of_others[Region.ALLOW]) if Region.ALLOW in of_others else None,
        recall=_pool(of_others[Region.POOL]) if Region.POOL in of_others else None,
        sample=Drawn(
            source=sample.source,
            begins=sample.begins,
            ends=sample.ends,
            population=shown.level.population,
            seed=sample.seed,
        ),
        labels_digest=_digest([used.settlement.digest for used in samples]),
        rows_digest=_digest(sorted(group for used in samples for group in used.used)),
        golden_digest=issue.golden_digest,
        labellers=tuple(sorted({name for used in samples for name in used.settlement.labellers})),
        issued_at=issue.now,
        expires_at=ends,
    )


def _misses(trial: Trial) -> Misses:
    (shown,) = trial.certified
    return Misses(
        at_most=trial.share,
        confidence=trial.confidence,
        review=shown.level.threshold,
        n=shown.evidence.n,
        k=shown.evidence.wrong,
        bound=min(shown.evidence.bound, trial.share),
    )


def _pool(trial: Trial) -> Recall:
    shown = trial.certified[-1]
    return Recall(
        at_least=trial.share,
        confidence=trial.confidence,
        pool=trial.sample.settlement.sample.source,
        threshold=shown.level.threshold,
        n=shown.evidence.n,
        k=shown.evidence.wrong,
        bound=max(1 - shown.evidence.bound, trial.share),
    )


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts, separators=(",", ":")).encode()).hexdigest()


def is_same(before: Certificate, now: Certificate) -> bool:
    """Whether both say the same of the same labels. The second is not issued then: the command was called again."""
    update = {"issued_at": before.issued_at, "golden_digest": before.golden_digest}
    return now.model_copy(update=update).model_dump() == before.model_dump()
