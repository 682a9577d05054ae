"""Flips: findings that other thresholds turn, the nearest to a threshold and the farthest from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from moderation.evaluation.changes.strata import logit
from moderation.types import Outcome

SHOWN = 10  # of each kind, for each policy


@dataclass(frozen=True, slots=True)
class Flip:
    """A finding whose outcome changes."""

    post_id: str
    tenant: str
    policy: str
    before: Outcome
    after: Outcome
    probability: float
    margin: float
    threshold: float  # of the new set: the one that it crossed, as `crossed` says
    source: str  # of the post: TOPIC/PARTITION/OFFSET
    written_at: datetime

    @property
    def distance(self) -> float:
        """How far the margin is from the threshold."""
        return abs(self.margin - logit(self.threshold))


class Closest:
    """Keeps the SHOWN nearest and farthest of all flips that are added."""

    def __init__(self) -> None:
        self.nearest: Sequence[Flip] = ()
        self.farthest: Sequence[Flip] = ()

    def add(self, flips: Iterable[Flip]) -> None:
        """Adds some; the same may be added again."""
        added = list(flips)
        self.nearest = sorted({*self.nearest, *added}, key=_nearest)[:SHOWN]
        self.farthest = sorted({*self.farthest, *added}, key=_farthest)[:SHOWN]


def crossed(before: Outcome, after: Outcome) -> Outcome:
    """REVIEW or REMOVE: whose threshold lies between both outcomes, the nearest to the outcome after the change."""
    if after is Outcome.REMOVE or (before is Outcome.REMOVE and after is Outcome.REVIEW):
        return Outcome.REMOVE
    return Outcome.REVIEW


def _nearest(flip: Flip) -> tuple[float, datetime, str]:
    return flip.distance, flip.written_at, flip.post_id


def _farthest(flip: Flip) -> tuple[float, datetime, str]:
    return -flip.distance, flip.written_at, flip.post_id
