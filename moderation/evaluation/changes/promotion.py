"""Whether a change may be promoted: the limits in `gate:` of the new policies, against what the change does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from moderation.evaluation.changes.changes import Change, Effect, Quality
from moderation.policies import Policy


@dataclass(frozen=True, slots=True)
class Held:
    """A limit, and the figure that it limits."""

    policy: str
    key: str  # of `gate:`
    limit: float
    figure: float | None  # None: there were none before, so no figure says how many times as many there are
    remedy: str = ""  # what to do where the limit is not kept

    @property
    def kept(self) -> bool:
        """Whether the policy may be promoted, as far as this limit goes."""
        return self.figure is not None and self.figure <= self.limit


@dataclass(frozen=True, slots=True)
class Figures:
    """What the gate of a policy limits of a change, beyond its quality."""

    flips: float  # share of posts, upper end
    review: float | None  # how many times as many posts go to review; None: there were none before

    @classmethod
    def of(cls, effect: Effect) -> Figures:
        """Those of an effect."""
        load = effect.review
        return cls(effect.flips.high, 1.0 if not load.before.value and not load.after.value else load.times)


def held(change: Change, qualities: Mapping[str, Quality], policies: Iterable[Policy]) -> tuple[Held, ...]:
    """The limits of the policies that were compared. qualities: by id of policy, also where no flip has a label yet."""
    effects = {effect.policy: effect for effect in change.effects}
    return tuple(
        limit
        for policy in policies
        if policy.id in effects
        for limit in held_by(policy, Figures.of(effects[policy.id]), qualities[policy.id])
    )


def held_by(policy: Policy, figures: Figures, quality: Quality) -> Iterator[Held]:
    """The limits of one policy.

    `flips`, `lost_hits` and `new_false_alarms` hold for the upper end of the interval, `review_load` for the estimate.
    """
    gate = policy.gate
    if gate is None:
        return
    more = "judge more posts, so that the interval is narrower, or change less"
    if gate.flips is not None:
        yield Held(policy.id, "flips", gate.flips, figures.flips, more)
    if gate.review_load is not None:
        remedy = "raise `review`, or word the policy more narrowly"
        yield Held(policy.id, "review_load", gate.review_load, figures.review, remedy)
    missing = quality.flips - quality.labelled
    remedy = f"label the {missing} flips without a label: --label FILE" if missing else more
    for key, limit, figure in (
        ("lost_hits", gate.lost_hits, quality.lost_hits.high),
        ("new_false_alarms", gate.new_false_alarms, quality.new_false_alarms.high),
    ):
        if limit is not None:
            yield Held(policy.id, key, limit, figure, remedy)
