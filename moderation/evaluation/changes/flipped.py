"""Flips: findings that other thresholds turn, the nearest to a threshold and the farthest from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

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
    probability: float | None  # None: there is no score, and another outcome all the same
    threshold: float  # of the new set: the one that lies between both outcomes
    source: str  # of the post: TOPIC/PARTITION/OFFSET
    written_at: datetime

    @property
    def distance(self) -> float | None:
        """How far the probability is from the threshold."""
        return None if self.probability is None else abs(self.probability - self.threshold)


class Closest:
    """Keeps the SHOWN nearest and farthest of all flips that are added."""

    def __init__(self) -> None:
        self.nearest: Sequence[Flip] = ()
        self.farthest: Sequence[Flip] = ()

    def add(self, flips: Iterable[Flip]) -> None:
        """Adds some; the same may be added again."""
        scored = [flip for flip in flips if flip.distance is not None]
        self.nearest = sorted({*self.nearest, *scored}, key=_nearest)[:SHOWN]
        self.farthest = sorted({*self.farthest, *scored}, key=_farthest)[:SHOWN]


def _nearest(flip: Flip) -> tuple[float, datetime, str]:
    return flip.distance or 0.0, flip.written_at, flip.post_id


def _farthest(flip: Flip) -> tuple[float, datetime, str]:
    return -(flip.distance or 0.0), flip.written_at, flip.post_id
