"""Tests policies against their golden sets: figures, limits of `gate:`, and what other thresholds would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from moderation.errors import ConfigError
from moderation.evaluation.judging import Judge
from moderation.evaluation.posts.golden import GoldenSet, Labelled
from moderation.evaluation.testing.figures import Case, ClauseFigures, Figures, by_clause, by_slice, worst
from moderation.inference.scoring import Scorer
from moderation.media.reader import Media
from moderation.policies import Policy, PolicyThresholds, Said, decided
from moderation.policies.certificates import Footing
from moderation.types import Finding, Outcome, Post, Status, Verdict

DEV = "dev"  # the split that may be looked at
WORDS = {"precision": "precision at remove", "recall": "recall at review", "wrong": "posts wrong"}  # keys of `gate:`


@dataclass(frozen=True, slots=True)
class Check:
    """A limit of `gate:`, and what was found."""

    key: str
    limit: float
    value: float | None  # None: nothing can be said, so the limit is not kept
    kept: bool

    @property
    def text(self) -> str:
        """It in words."""
        counts = self.key == "wrong"
        found = "nothing can be said" if self.value is None else f"{self.value:{'g' if counts else '.1%'}}"
        limit = f"at most {self.limit:g}" if counts else f"at least {self.limit:.1%}"
        return f"gate: {WORDS[self.key]}: {found}, {limit}: {'kept' if self.kept else 'NOT KEPT'}"


@dataclass(frozen=True)
class Result:
    """What a golden set shows of one policy."""

    policy: Policy
    golden: GoldenSet
    cases: tuple[Case, ...]

    @cached_property
    def figures(self) -> Figures:
        """Of all posts."""
        return Figures(self.cases)

    @cached_property
    def clauses(self) -> tuple[ClauseFigures, ...]:
        """In the order of the policy."""
        return by_clause(self.policy, self.cases)

    @cached_property
    def slices(self) -> dict[str, Figures]:
        """By the name of the slice."""
        return by_slice(self.cases)

    @cached_property
    def misses(self) -> tuple[Case, ...]:
        """Violating posts that are allowed, the worst first."""
        return worst(self.cases, lambda case: case.missed)

    @cached_property
    def false_alarms(self) -> tuple[Case, ...]:
        """Allowed posts that are flagged, the worst first."""
        return worst(self.cases, lambda case: case.false_alarm)

    @cached_property
    def unanswered(self) -> tuple[Case, ...]:
        """Posts of which the model says nothing."""
        return tuple(case for case in self.cases if not case.answered)

    @property
    def left_out(self) -> int:
        """Posts of the golden set that are kept for certificates: nothing is said of them."""
        return len(self.golden.posts) - len(self.cases)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The limits of the policy's `gate:` for this command."""
        gate, figures = self.policy.gate, self.figures
        if gate is None:
            return ()
        rates = (
            ("precision", gate.precision, figures.precision(Outcome.REMOVE).rate),
            ("recall", gate.recall, figures.recall(Outcome.REVIEW).rate),
        )
        checks = [
            Check(key, limit, rate, rate is not None and rate >= limit)
            for key, limit, rate in rates
            if limit is not None
        ]
        if gate.wrong is not None:
            value = figures.wrong if self.cases else None
            checks.append(Check("wrong", gate.wrong, value, value is not None and value <= gate.wrong))
        return tuple(checks)

    @property
    def passed(self) -> bool:
        """Whether all limits are kept, and the model has said something of some post."""
        silent = bool(self.cases) and len(self.unanswered) == len(self.cases)
        return not silent and all(check.kept for check in self.checks)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Which policies flag the same posts, of the posts of all golden sets."""

    posts: int  # without those that are in several sets
    ids: tuple[str, ...]
    both: Mapping[tuple[str, str], int]  # posts that both flag; of a policy with itself, those that it flags


@dataclass(frozen=True, slots=True)
class Tried:
    """A test of several policies."""

    results: tuple[Result, ...]
    before: tuple[Result, ...]  # with the thresholds of the files; empty: these are the ones that were tested
    overlap: Overlap | None  # None: of one policy


class Trial:
    """Tests policies, each on its golden set, and all on the posts of all sets."""

    def __init__(self, sets: Sequence[tuple[Policy, GoldenSet]], folder: Sequence[Policy]) -> None:
        """sets: at least one. folder: all policies of the folder that these are from."""
        self._sets = sets
        self._surfaces = frozenset().union(*(policy.applies_to.folded_surfaces for policy in folder if policy.asked))
        rows = [(_bare(each.post), each.post) for _, golden_set in sets for each in _looked_at(golden_set)]
        self._posts = dict(rows)  # the same post may be in several sets, under several ids

    @property
    def total(self) -> int:
        """Posts to judge."""
        return len(self._posts)

    async def tried(
        self,
        media: Media,
        scorer: Scorer,
        step: Callable[[int], object],
        thresholds: Mapping[str, PolicyThresholds] | None = None,
    ) -> Tried:
        """Judges all posts. `step` is called with numbers of posts that are done. Raises ModerationError.

        thresholds: by id of policy, to test in place of those of the file. The model is asked once.
        """
        policies = [policy for policy, _ in self._sets]
        judge = Judge(policies, media, scorer, self._surfaces)
        verdicts = dict(zip(self._posts, await judge.verdicts(list(self._posts.values()), step), strict=True))
        before = tuple(_result(policy, golden_set, verdicts) for policy, golden_set in self._sets)
        if not thresholds:
            return Tried(before, (), _overlap(policies, verdicts))
        others = {policy.id: _with(policy, thresholds[policy.id]) for policy in policies}
        again = {post: _again(verdict, others, scorer.strictest) for post, verdict in verdicts.items()}
        results = tuple(_result(others[policy.id], golden_set, again) for policy, golden_set in self._sets)
        return Tried(results, before, _overlap(policies, again))


def other_thresholds(policy: Policy, review: float | None, remove: float | None) -> PolicyThresholds:
    """Those of a policy with others in their place. Raises ConfigError if they do not rise."""
    given = {key: value for key, value in (("review", review), ("remove", remove)) if value is not None}
    now = policy.thresholds
    values = {"review": now.review, "remove": now.remove, "mass": now.mass} | given
    for key, value in given.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"--{key}: a threshold is from 0 to 1")
    if not values["review"] < values["remove"]:
        raise ConfigError(
            f"{policy.id}: review {values['review']} is not below remove {values['remove']}: "
            "give both --review and --remove, or one policy by --policy"
        )
    return PolicyThresholds(**values)


def _with(policy: Policy, thresholds: PolicyThresholds) -> Policy:
    """Not by model_copy: a copy keeps what was derived from the old thresholds."""
    return Policy.model_validate(policy.model_dump() | {"thresholds": thresholds.model_dump()})


def _looked_at(golden_set: GoldenSet) -> Sequence[Labelled]:
    return [each for each in golden_set.posts if each.split == DEV]


def _bare(post: Post) -> Post:
    """What of a post counts for its findings."""
    return replace(post, id="", tenant="")


def _result(policy: Policy, golden_set: GoldenSet, verdicts: Mapping[Post, Verdict]) -> Result:
    cases = (Case(each, _finding(policy, verdicts[_bare(each.post)])) for each in _looked_at(golden_set))
    return Result(policy, golden_set, tuple(cases))


def _finding(policy: Policy, verdict: Verdict) -> Finding | None:
    return next((finding for finding in verdict.findings if finding.policy_id == policy.id), None)


def _again(verdict: Verdict, policies: Mapping[str, Policy], strictest: Outcome) -> Verdict:
    """The verdict's findings with the thresholds of these policies."""
    findings = tuple(
        decided(
            policies[finding.policy_id],
            Said.recorded(finding),
            strictest,
            verdict.problems,
            Footing(finding.score_digest),
        )
        for finding in verdict.findings
    )
    return replace(verdict, findings=findings)


def _overlap(policies: Sequence[Policy], verdicts: Mapping[Post, Verdict]) -> Overlap | None:
    if len(policies) < 2:
        return None
    ids = tuple(policy.id for policy in policies)
    flagged: dict[str, set[int]] = {id: set() for id in ids}
    for number, verdict in enumerate(verdicts.values()):
        for finding in verdict.findings:
            if finding.outcome >= Outcome.REVIEW and finding.status is not Status.UNDETERMINED:
                flagged[finding.policy_id].add(number)
    both = {(one, other): len(flagged[one] & flagged[other]) for one in ids for other in ids}
    return Overlap(len(verdicts), ids, both)
