"""What a change of policies or of the model does to the posts of a population: flips, loads, and how surely."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import product

from moderation.evaluation.changes.flipped import crossed
from moderation.evaluation.changes.strata import Bounds, Stratum, logit, total_of
from moderation.policies import Policy
from moderation.problems import PASSING
from moderation.types import Finding, Outcome, Verdict

CONFIDENCE = 0.95
SHOWN = 5  # flips nearest to a threshold, and farthest from it
ALL = ""  # in place of a policy's id: the outcome of the whole post
_Move = tuple[Outcome, Outcome]
FLIPS: tuple[_Move, ...] = tuple((before, after) for before, after in product(Outcome, Outcome) if before is not after)


@dataclass(frozen=True, slots=True)
class Pair:
    """A post that was judged by both versions."""

    post_id: str
    stratum: int  # index
    slices: Mapping[str, str]  # such as language: en
    before: Verdict
    after: Verdict


@dataclass(frozen=True, slots=True)
class Cell:
    """Posts whose outcome changes from one to another."""

    before: Outcome
    after: Outcome
    judged: int  # of the judged posts
    share: Bounds  # of the population


@dataclass(frozen=True, slots=True)
class Load:
    """A share of posts before and after. The interval of the change is narrower than that of a difference."""

    before: Bounds
    after: Bounds
    change: Bounds

    @property
    def times(self) -> float | None:
        """How many times as many; None: there were none before."""
        return self.after.value / self.before.value if self.before.value else None


@dataclass(frozen=True, slots=True)
class Flip:
    """A post whose outcome by one policy changes."""

    post_id: str
    slices: Mapping[str, str]
    before: Outcome
    after: Outcome
    old: float | None  # probability; None: no score
    new: float | None
    beyond: float | None  # how far the new margin is beyond the threshold that it crossed; None: no score


@dataclass(frozen=True, slots=True)
class Slice:
    """The posts of a slice that were judged."""

    key: str
    value: str
    judged: int
    flips: int
    share: float  # of its posts in the population that flip: an estimate


@dataclass(frozen=True, slots=True)
class Effect:
    """What the change does by one policy, or to the outcome of posts."""

    policy: str  # ALL: the outcome of posts
    cells: tuple[Cell, ...]  # of FLIPS
    flips: Bounds  # share of posts with another outcome
    flagged: Load  # REVIEW or REMOVE
    removed: Load
    review: Load
    slices: tuple[Slice, ...]
    nearest: tuple[Flip, ...] = ()  # empty for ALL: a post has several margins
    farthest: tuple[Flip, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What a change does. All shares are of the population, or of all posts like these where it has no end."""

    strata: tuple[Stratum, ...]
    effects: tuple[Effect, ...]  # ALL first, then by policy
    unjudged: int  # posts that one version did not judge, for a reason that may pass
    confidence: float = CONFIDENCE

    @property
    def judged(self) -> int:
        """Posts that were judged by both versions."""
        return sum(stratum.judged for stratum in self.strata)

    @property
    def population(self) -> int | None:
        """Posts of the population; None: it has no end."""
        sizes = [stratum.size for stratum in self.strata]
        return None if None in sizes else sum(size or 0 for size in sizes)


@dataclass(frozen=True, slots=True)
class OneSided:
    """A post that one version flags, and the other does not."""

    post_id: str
    stratum: int  # index
    gained: bool  # the new version flags it


@dataclass(frozen=True, slots=True)
class Quality:
    """Whether a policy is better after the change. Shares of posts; a flip without a label counts on both sides."""

    policy: str
    flips: int  # posts that are flagged by one version alone
    labelled: int
    new_hits: Bounds  # rightly flagged now, and not before
    lost_hits: Bounds  # rightly flagged before, and not now
    new_false_alarms: Bounds
    gone_false_alarms: Bounds
    confidence: float = CONFIDENCE
    hits: Bounds = field(init=False)  # change of the share of posts that are rightly flagged
    false_alarms: Bounds = field(init=False)  # change of the share of posts that are wrongly flagged

    def __post_init__(self) -> None:
        object.__setattr__(self, "hits", self.new_hits.less(self.lost_hits))
        object.__setattr__(self, "false_alarms", self.new_false_alarms.less(self.gone_false_alarms))


def change_of(pairs: Sequence[Pair], strata: Sequence[Stratum], old: Iterable[Policy], new: Iterable[Policy]) -> Change:
    """The effects on the outcome of posts, and by each policy. Each interval holds with CONFIDENCE, for itself."""
    policies = {policy.id: policy for policy in (*old, *new) if policy.asked}  # the new one counts
    effects = [_effect(pairs, strata, None)] + [_effect(pairs, strata, policies[id]) for id in sorted(policies)]
    return Change(tuple(strata), tuple(effects), sum(map(_is_unjudged, pairs)))


def one_sided(pairs: Iterable[Pair], policy: str) -> list[OneSided]:
    """The posts that one version flags. These alone need labels: those that both flag, or neither, cancel out."""
    found = []
    for pair in pairs:
        before, after = (is_flagged(outcome) for outcome in outcomes(pair, policy))
        if before is not after:
            found.append(OneSided(pair.post_id, pair.stratum, after))
    return found


def quality_of(
    policy: str, flips: Sequence[OneSided], strata: Sequence[Stratum], labels: Mapping[str, bool | None]
) -> Quality:
    """What the labels of one-sided flips say of a policy.

    labels: by id of post, whether it violates the policy. None, or no label: it may be either, for each interval.
    """
    half = 1 - (1 - CONFIDENCE) / 2  # each difference of two has half of the error for each

    def bounds(gained: bool, wanted: bool) -> Bounds:
        said = [(flip, labels.get(flip.post_id)) for flip in flips if flip.gained is gained]
        sure = _counted((flip for flip, label in said if label is wanted), strata)
        most = _counted((flip for flip, label in said if label in (wanted, None)), strata)
        return _share(list(zip(sure, most, strict=True)), strata, half)

    return Quality(
        policy=policy,
        flips=len(flips),
        labelled=sum(labels.get(flip.post_id) is not None for flip in flips),
        new_hits=bounds(gained=True, wanted=True),
        lost_hits=bounds(gained=False, wanted=True),
        new_false_alarms=bounds(gained=True, wanted=False),
        gone_false_alarms=bounds(gained=False, wanted=False),
    )


def outcomes(pair: Pair, policy: str) -> tuple[Outcome, Outcome]:
    """Both outcomes of a post; by a policy that does not apply: ALLOW."""
    if policy == ALL:
        return pair.before.outcome, pair.after.outcome
    before, after = findings(pair, policy)
    return before.outcome if before else Outcome.ALLOW, after.outcome if after else Outcome.ALLOW


def findings(pair: Pair, policy: str) -> tuple[Finding | None, Finding | None]:
    """Both findings of a policy; None: it does not apply."""
    before, after = (
        next((finding for finding in side.findings if finding.policy_id == policy), None) for side in _sides(pair)
    )
    return before, after


def is_flagged(outcome: Outcome) -> bool:
    """Whether the post does not just pass."""
    return outcome is not Outcome.ALLOW


def _effect(pairs: Sequence[Pair], strata: Sequence[Stratum], policy: Policy | None) -> Effect:
    id = policy.id if policy else ALL
    moves = [outcomes(pair, id) for pair in pairs]
    counts = _Counts(strata)
    for pair, move in zip(pairs, moves, strict=True):
        counts.add(pair.stratum, move)
    nearest, farthest = _extremes(pairs, policy) if policy else ((), ())
    return Effect(
        policy=id,
        cells=tuple(Cell(*move, counts.seen([move]), counts.share([move])) for move in FLIPS),
        flips=counts.share(FLIPS),
        flagged=counts.load({Outcome.REVIEW, Outcome.REMOVE}),
        removed=counts.load({Outcome.REMOVE}),
        review=counts.load({Outcome.REVIEW}),
        slices=_slices(pairs, strata, moves),
        nearest=nearest,
        farthest=farthest,
    )


class _Counts:
    """How many judged posts of each stratum make each move."""

    def __init__(self, strata: Sequence[Stratum]) -> None:
        self._strata = strata
        self._by_move: defaultdict[_Move, Counter[int]] = defaultdict(Counter)  # then by index of the stratum

    def add(self, stratum: int, move: _Move) -> None:
        self._by_move[move][stratum] += 1

    def seen(self, moves: Iterable[_Move]) -> int:
        return sum(self._by_move[move].total() for move in moves)

    def share(self, moves: Iterable[_Move], confidence: float = CONFIDENCE) -> Bounds:
        chosen = [self._by_move[move] for move in moves]
        hits = [sum(counter[place] for counter in chosen) for place in range(len(self._strata))]
        return _share([(number, number) for number in hits], self._strata, confidence)

    def load(self, wanted: Set[Outcome]) -> Load:
        """Of the posts with one of these outcomes. Posts that come and that go each have half of the error."""
        every, half = list(product(Outcome, Outcome)), 1 - (1 - CONFIDENCE) / 2
        more = self.share([move for move in every if move[0] not in wanted and move[1] in wanted], half)
        less = self.share([move for move in every if move[0] in wanted and move[1] not in wanted], half)
        before = self.share([move for move in every if move[0] in wanted])
        return Load(before, self.share([move for move in every if move[1] in wanted]), more.less(less))


def _share(hits: Sequence[tuple[int, int]], strata: Sequence[Stratum], confidence: float) -> Bounds:
    """As `total_of`, as a share of the population."""
    sizes = [stratum.size for stratum in strata]
    size = 1 if None in sizes else sum(size or 0 for size in sizes)
    return total_of(hits, strata, confidence).per(max(1, size))


def _counted(flips: Iterable[OneSided], strata: Sequence[Stratum]) -> list[int]:
    counter = Counter(flip.stratum for flip in flips)
    return [counter[place] for place in range(len(strata))]


def _sides(pair: Pair) -> tuple[Verdict, Verdict]:
    return pair.before, pair.after


def _is_unjudged(pair: Pair) -> bool:
    """Whether another run may judge the post otherwise: the model was away, or a picture could not be had."""
    reasons = (finding.reason for side in _sides(pair) for finding in side.findings)
    problems = (problem.reason for side in _sides(pair) for problem in side.problems)
    return any(reason in PASSING for reason in (*reasons, *problems))


def _slices(pairs: Sequence[Pair], strata: Sequence[Stratum], moves: Sequence[_Move]) -> tuple[Slice, ...]:
    """The slices, in the order of keys and values. A post weighs as many posts as it stands for."""
    weights = [(stratum.size or 1) / max(1, stratum.judged) for stratum in strata]
    judged: Counter[tuple[str, str]] = Counter()
    flips: Counter[tuple[str, str]] = Counter()
    whole: defaultdict[tuple[str, str], float] = defaultdict(float)
    moved: defaultdict[tuple[str, str], float] = defaultdict(float)
    for pair, (before, after) in zip(pairs, moves, strict=True):
        for key in pair.slices.items():
            judged[key] += 1
            whole[key] += weights[pair.stratum]
            if before is not after:
                flips[key] += 1
                moved[key] += weights[pair.stratum]
    return tuple(Slice(*key, judged[key], flips[key], moved[key] / whole[key]) for key in sorted(judged))


def _extremes(pairs: Sequence[Pair], policy: Policy) -> tuple[tuple[Flip, ...], tuple[Flip, ...]]:
    """The flips of a policy that are nearest to the threshold which they crossed, and of the others the farthest.

    Without a score a flip has no distance: it stands with the farthest, because no threshold explains it.
    """
    flips = [flip for pair in pairs if (flip := _flip(pair, policy))]
    known = sorted((flip for flip in flips if flip.beyond is not None), key=_beyond)
    nearest, others = known[:SHOWN], known[SHOWN:]
    far = [flip for flip in flips if flip.beyond is None] + others[::-1]
    return tuple(nearest), tuple(far[:SHOWN])


def _beyond(flip: Flip) -> tuple[float, str]:
    return math.inf if flip.beyond is None else flip.beyond, flip.post_id


def _flip(pair: Pair, policy: Policy) -> Flip | None:
    before, after = outcomes(pair, policy.id)
    if before is after:
        return None
    scores = [finding.score if finding else None for finding in findings(pair, policy.id)]
    old, new = (score.probability if score else None for score in scores)
    limits, score = policy.thresholds, scores[1]
    threshold = limits.remove if crossed(before, after) is Outcome.REMOVE else limits.review
    beyond = abs(score.margin - logit(threshold)) if score else math.nan
    return Flip(pair.post_id, pair.slices, before, after, old, new, beyond if math.isfinite(beyond) else None)
