"""What a policy is worth on posts whose label is known: precision, recall, AUC, calibration; per clause and per slice.

Intervals are exact (Clopper-Pearson), and hold for traffic only if the posts were drawn from it at random. A golden set
is chosen by people, so they are shown as "if these were drawn at random", and are no guarantee.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import rankdata

from moderation.evaluation.binomial import Interval, interval
from moderation.evaluation.posts.golden import Labelled
from moderation.policies import Policy
from moderation.types import Finding, Outcome, Score, Status

BINS = 10  # of the probability, equally wide
LEVELS = (Outcome.REVIEW, Outcome.REMOVE)
STEPS = tuple(step / 20 for step in range(1, 20))  # thresholds of a curve that is printed


@dataclass(frozen=True, slots=True)
class Case:
    """A post whose label is known, and the policy's finding."""

    labelled: Labelled
    finding: Finding | None  # None: the policy does not apply to the post

    @property
    def name(self) -> str:
        """For a person."""
        return self.labelled.name

    @property
    def label(self) -> str:
        """The label as it stands in the golden set."""
        return self.labelled.clause or ("violates" if self.labelled.violates else "allowed")

    @property
    def score(self) -> Score | None:
        """The score, if it is an answer: one with enough mass."""
        if self.finding is None or (score := self.finding.score) is None:
            return None
        enough = score.mass is None or score.mass >= self.finding.thresholds.mass
        return score if enough and math.isfinite(score.margin) else None

    @property
    def answered(self) -> bool:
        """Whether there is an answer. A policy that does not apply allows the post: that is one, too."""
        return self.finding is None or self.finding.status is not Status.UNDETERMINED

    @property
    def outcome(self) -> Outcome:
        """The outcome that a worker gives by this policy."""
        return self.finding.outcome if self.finding else Outcome.ALLOW

    def reaches(self, level: Outcome) -> bool:
        """Whether the policy flags the post at a level, or above it. Without an answer it flags nothing."""
        return self.answered and self.outcome >= level

    @property
    def missed(self) -> bool:
        """Whether the post violates the policy and is allowed."""
        return self.answered and self.labelled.violates and self.outcome is Outcome.ALLOW

    @property
    def false_alarm(self) -> bool:
        """Whether the post is allowed by its label and is flagged."""
        return not self.labelled.violates and self.reaches(Outcome.REVIEW)

    @property
    def wrong(self) -> bool:
        """Whether it is a miss, a false alarm, or has no answer."""
        return self.missed or self.false_alarm or not self.answered

    @property
    def distance(self) -> float:
        """How far the probability is from the right side of the threshold `review`; without one, as far as can be."""
        if self.finding is None or self.score is None:
            return 1.0
        return abs(self.score.probability - self.finding.thresholds.review)


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    hits: int
    trials: int

    @property
    def rate(self) -> float | None:
        """From 0 to 1; None: of nothing."""
        return self.hits / self.trials if self.trials else None

    @property
    def interval(self) -> Interval:
        """Both ends, at binomial.CONFIDENCE, if the trials were drawn at random."""
        return interval(self.hits, self.trials)


@dataclass(frozen=True, slots=True)
class Bin:
    """Posts with probabilities from `low` to `high`."""

    low: float
    high: float
    mean: float  # probability
    violating: Share


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a probability of 0.7 means that 7 of 10 posts violate the policy."""

    bins: tuple[Bin, ...]  # those with posts, in order
    error: float  # mean difference of probability and share, weighted by posts: expected calibration error
    brier: float  # mean squared difference of probability and label (Brier 1950)


@dataclass(frozen=True)
class Figures:
    """The figures of some posts."""

    cases: tuple[Case, ...]

    @property
    def posts(self) -> int:
        """How many."""
        return len(self.cases)

    @property
    def violating(self) -> int:
        """How many of them violate the policy by their label."""
        return sum(case.labelled.violates for case in self.cases)

    @property
    def wrong(self) -> int:
        """Misses, false alarms, and posts without an answer."""
        return sum(case.wrong for case in self.cases)

    def flagged(self, level: Outcome) -> int:
        """Posts that are flagged at a level, or above it."""
        return sum(case.reaches(level) for case in self.cases)

    def precision(self, level: Outcome) -> Share:
        """Of the posts that are flagged at a level, those that violate the policy."""
        flagged = [case for case in self.cases if case.reaches(level)]
        return Share(sum(case.labelled.violates for case in flagged), len(flagged))

    def recall(self, level: Outcome) -> Share:
        """Of the posts that violate the policy, those that are flagged at a level."""
        violating = [case for case in self.cases if case.labelled.violates]
        return Share(sum(case.reaches(level) for case in violating), len(violating))

    @cached_property
    def scored(self) -> tuple[tuple[Score, bool], ...]:
        """Each score with whether its post violates the policy."""
        return tuple((case.score, case.labelled.violates) for case in self.cases if case.score is not None)

    @cached_property
    def auc(self) -> float | None:
        """The chance that a violating post scores above an allowed one; equal scores count half.

        By ranks of margins (Mann and Whitney 1947). None: one of both is missing.
        """
        labels = np.array([violates for _, violates in self.scored], dtype=bool)
        many = int(labels.sum()), int((~labels).sum())
        if not all(many):
            return None
        ranks = rankdata([score.margin for score, _ in self.scored])
        return float((ranks[labels].sum() - many[0] * (many[0] + 1) / 2) / (many[0] * many[1]))

    @cached_property
    def calibration(self) -> Calibration | None:
        """None: no post has a score."""
        if not self.scored:
            return None
        by_bin: dict[int, list[tuple[float, bool]]] = defaultdict(list)
        for score, violates in self.scored:
            by_bin[min(int(score.probability * BINS), BINS - 1)].append((score.probability, violates))
        bins = tuple(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                mean=sum(probability for probability, _ in pairs) / len(pairs),
                violating=Share(sum(violates for _, violates in pairs), len(pairs)),
            )
            for number, pairs in sorted(by_bin.items())
        )
        total = len(self.scored)
        error = sum(abs(bin.mean * bin.violating.trials - bin.violating.hits) for bin in bins) / total
        brier = sum((score.probability - violates) ** 2 for score, violates in self.scored) / total
        return Calibration(bins, error, brier)

    def at(self, threshold: float) -> Point:
        """What a threshold flags, by scores alone."""
        flagged = [violates for score, violates in self.scored if score.probability >= threshold]
        violating = sum(violates for _, violates in self.scored)
        return Point(threshold, len(self.scored), Share(sum(flagged), len(flagged)), Share(sum(flagged), violating))

    def curve(self) -> tuple[Point, ...]:
        """At each threshold where the flagged posts change, from 0 to 1."""
        probabilities = np.array([score.probability for score, _ in self.scored])
        order = np.argsort(probabilities)
        probabilities = probabilities[order]
        # Of the posts from each place on, those that violate the policy.
        hits = np.append(np.array([violates for _, violates in self.scored], dtype=int)[order][::-1].cumsum()[::-1], 0)
        total, violating = len(probabilities), int(hits[0])
        thresholds = np.unique([0.0, *probabilities, 1.0])
        places = np.searchsorted(probabilities, thresholds, side="left")
        return tuple(
            Point(threshold, total, Share(found, total - place), Share(found, violating))
            for threshold, place, found in zip(thresholds.tolist(), places.tolist(), hits[places].tolist(), strict=True)
        )


@dataclass(frozen=True, slots=True)
class Point:
    """A threshold of a curve."""

    threshold: float
    posts: int  # with a score
    precision: Share
    recall: Share

    @property
    def flagged(self) -> int:
        """Posts at or above it."""
        return self.precision.trials


@dataclass(frozen=True, slots=True)
class ClauseFigures:
    """The posts whose label is a clause."""

    id: str
    violates: bool
    flagged: Mapping[Outcome, Share]  # by level; of a clause that the policy allows, these are false alarms


def by_clause(policy: Policy, cases: Sequence[Case]) -> tuple[ClauseFigures, ...]:
    """For each clause of the policy, in its order, also where no post has it as label."""
    clauses = [(clause.id, True) for clause in policy.violates] + [(clause.id, False) for clause in policy.allows]
    found = []
    for id, violates in clauses:
        here = [case for case in cases if case.labelled.clause == id]
        shares = {level: Share(sum(case.reaches(level) for case in here), len(here)) for level in LEVELS}
        found.append(ClauseFigures(id, violates, shares))
    return tuple(found)


def by_slice(cases: Iterable[Case]) -> dict[str, Figures]:
    """The figures of each slice, by its name as in `language: de`.

    Slices are those of the golden set, and in any case the post's language, its surface, its media and the source of
    its label. A slice that holds all posts says nothing, and is left out.
    """
    members: dict[str, list[Case]] = defaultdict(list)
    total = 0
    for case in cases:
        total += 1
        for name in _slices(case.labelled):
            members[name].append(case)
    return {name: Figures(tuple(here)) for name, here in sorted(members.items()) if len(here) < total}


def _slices(labelled: Labelled) -> Iterable[str]:
    post = labelled.post
    media = " and ".join(kind for kind, has in (("text", post.has_text), ("image", post.has_images)) if has)
    known = {"language": post.language, "surface": post.surface, "media": media, "source": labelled.source}
    return [f"{name}: {value}" for name, value in {**known, **labelled.slices}.items() if value]


def worst(cases: Iterable[Case], wrong: Callable[[Case], bool]) -> tuple[Case, ...]:
    """Those that are wrong, the farthest from the threshold first."""
    return tuple(sorted(filter(wrong, cases), key=lambda case: (-case.distance, case.labelled.line)))
