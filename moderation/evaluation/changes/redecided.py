"""What other thresholds would have done: the result of redeciding.py."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from moderation.evaluation.changes.flipped import Flip
from moderation.types import Outcome

OTHERS = "(others)"  # tenants that share cells, of very many

Cell = tuple[Outcome, Outcome]  # before, after
K = TypeVar("K", bound="str | tuple[str, str]")


class Why(StrEnum):
    """Why a verdict, or a finding, was not decided again."""

    NOT_RECORDED = "not recorded"
    OTHER_SCORE = "other score"
    OTHER_MASS = "other mass"
    CUT = "cut"
    OTHER_SET = "other set"


LEFT_OUT = (None, *Why)  # by code; none: it is decided again
MEANING = {
    Why.NOT_RECORDED: "an older version wrote them, without what is needed to decide them again",
    Why.OTHER_SCORE: "other words, another model or another preparation gave the scores",
    Why.OTHER_MASS: "another value of `mass` applied",
    Why.CUT: "their topic had no room for the findings",
    Why.OTHER_SET: "a policy of the old set was not asked",
}


@dataclass(frozen=True, slots=True)
class Cells:
    """How many outcomes became which."""

    counts: Mapping[Cell, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def flips(self) -> int:
        """How many changed."""
        return sum(count for (before, after), count in self.counts.items() if before is not after)

    def share(self, after: bool, *outcomes: Outcome) -> float:
        """The share that has one of these outcomes, before or after; 0 without any."""
        hits = sum(count for cell, count in self.counts.items() if cell[after] in outcomes)
        return hits / self.total if self.total else 0.0

    @property
    def flag_rate(self) -> tuple[float, float]:
        """The share that is not ALLOW, before and after."""
        return self.share(False, Outcome.REVIEW, Outcome.REMOVE), self.share(True, Outcome.REVIEW, Outcome.REMOVE)

    @property
    def review_load(self) -> tuple[float, float]:
        """The share that is REVIEW, before and after."""
        return self.share(False, Outcome.REVIEW), self.share(True, Outcome.REVIEW)


@dataclass(frozen=True, slots=True)
class Redecided:
    """What the new set does to the verdicts that could be decided again. The unit is a verdict, not a post."""

    verdicts: int  # all that were read
    kept: int  # of them: without a finding, or decided by a person; thresholds do not move them. They are in `whole`
    left_out: Mapping[Why, int]  # of them: not in `whole`
    whole: Cells
    tenants: Mapping[str, Cells]  # of whole verdicts
    policies: Mapping[str, Cells]  # of findings, by policy
    apart: Mapping[str, int]  # verdicts in `whole` without a finding of the policy: it does not apply, so it allows
    policy_tenants: Mapping[tuple[str, str], Cells]  # of findings, by policy and tenant
    policy_left_out: Mapping[str, Mapping[Why, int]]  # of findings
    held: Mapping[str, tuple[int, int]]  # findings that are REVIEW for want of a certificate, before and after
    nearest: Mapping[str, Sequence[Flip]]  # flips by policy, the nearest to its threshold first
    farthest: Mapping[str, Sequence[Flip]]
    models: Mapping[tuple[str, str], int]  # verdicts by name and digest of the model
    begins: datetime | None  # of the verdicts that were read
    ends: datetime | None


def cells_of(counts: Iterable[tuple[int, int]]) -> Cells:
    """Cells of numbers: 3 * (before - 1) + after - 1, and how many."""
    total: Counter[Cell] = Counter()
    for cell, count in counts:
        before, after = divmod(cell, len(Outcome))
        total[Outcome(before + 1), Outcome(after + 1)] += count
    return Cells(dict(sorted(total.items())))


def grouped(counts: Iterable[tuple[K, int, int]]) -> dict[K, Cells]:
    """Cells by group."""
    groups: dict[K, list[tuple[int, int]]] = defaultdict(list)
    for group, cell, count in counts:
        groups[group].append((cell, count))
    return {group: cells_of(members) for group, members in sorted(groups.items())}
